//! The supervision tree: [`tree`] is its picture as code. `docs/ARCHITECTURE.md` has the same picture in text; a test
//! compares the text with a running tree.

use std::sync::Arc;
use std::time::Duration;

use actix::{Actor, Context};
use futures_util::future::join;

use super::memory;
use super::shared::Shared;
use crate::config::Config;
use crate::connection::acceptor::{Acceptor, Endpoint};
#[cfg(feature = "tls")]
use crate::connection::tls;
use crate::connection::{Connections, heartbeat};
use crate::ground::figures::ActorKind;
use crate::ground::homes::{Home, HomeId};
use crate::hooks;
use crate::session::proxy_mapper::ProxyMapper;
use crate::supervision::{
    ActorRef, ChildSpec, DynamicSupervisor, ExitReason, Place, Restart, Shutdown, Strategy, Supervisor, SupervisorRef,
    Watchdog,
};
use crate::topic::manager::{TOPIC_INTENSITY, TopicManager};
use crate::topic::{cluster, errands, presence};

/// A handler that has run for this long is named in the log.
const HANG_WARNING: Duration = Duration::from_secs(1);

/// A handler that has run for this long ends the instance: no other actor of the thread can run any more.
const HANG_LIMIT: Duration = Duration::from_secs(5);

/// The whole tree, in the order of its start. The tree stops in the reverse order, except that a drain first stops the
/// acceptors and the embedder's children.
pub(super) fn tree(shared: &Arc<Shared>, senders: Supervisor, application: Option<(ChildSpec, &Place)>) -> Supervisor {
    let figures = Arc::clone(&shared.figures);
    let root = Supervisor::new("janus", Strategy::OneForOne)
        .intensity(5, Duration::from_secs(60))
        .on_restart(move |supervisor, child| figures.restarts.add(ActorKind::of(supervisor, child)));
    let watchdog = watchdog(shared, &root.handle(), application.as_ref().map(|(_, place)| *place));
    let (home, connections) = (shared.homes.first(), &shared.connections);
    let children = [
        Some(ChildSpec::task("watchdog", move || watchdog.clone().run()).shutdown(Shutdown::BrutalKill)),
        Some(ChildSpec::dynamic(&shared.topic_supervisor)),
        Some(actor(&shared.topic_manager, home, &shared.topics, TopicManager::new)),
        engine(shared),
        Some(task("presence", home, &shared.topics, presence::run)),
        Some(actor(&shared.proxy_mapper, home, &shared.sessions, ProxyMapper::new)),
        Some(ChildSpec::supervisor(senders)),
        Some(task("heartbeat", home, connections, heartbeat::run)),
        Some(homes(connections)),
        Some(task("memory_keeper", home, shared, memory::run)),
        observer(shared),
        Some(ChildSpec::dynamic(&shared.transport_supervisor)),
        tls_handshakes(connections),
        application.map(|(application, _)| application),
    ];
    let acceptors = shared.endpoints.iter().map(|endpoint| Some(acceptor(endpoint, connections)));
    children.into_iter().chain(acceptors).flatten().fold(root, Supervisor::child)
}

/// A child for each topic. Topics never use up the restart intensity of the root, however many of them crash.
pub(super) fn topic_supervisor(config: &Config) -> DynamicSupervisor {
    DynamicSupervisor::new("topic_supervisor")
        .restart(Restart::Permanent)
        .shutdown(Shutdown::Timeout(Duration::from_secs(2)))
        .child_intensity(TOPIC_INTENSITY.max_restarts, TOPIC_INTENSITY.period)
        .quarantine(config.topic_quarantine)
}

/// A child for each connection. The crash of a Transport ends the connection; the client comes back with the session.
pub(super) fn transport_supervisor(config: &Config) -> DynamicSupervisor {
    DynamicSupervisor::new("transport_supervisor")
        .restart(Restart::Temporary)
        .shutdown(Shutdown::Timeout(config.drain_timeout))
}

/// An actor on the home arbiter, made from a part of the shared state.
fn actor<A, P>(address: &ActorRef<A>, home: &Place, part: &Arc<P>, make: fn(Arc<P>) -> A) -> ChildSpec
where
    A: Actor<Context = Context<A>>,
    P: Send + Sync + 'static,
{
    let part = Arc::clone(part);
    ChildSpec::actor(address, move |_| Ok(make(Arc::clone(&part)))).place(home.clone())
}

/// A task on a home arbiter, made from a part of the shared state; runs until killed.
fn task<P, F>(
    name: &'static str,
    home: &Place,
    part: &Arc<P>,
    run: impl Fn(Arc<P>) -> F + Send + Sync + 'static,
) -> ChildSpec
where
    P: Send + Sync + 'static,
    F: Future<Output = ()> + 'static,
{
    let part = Arc::clone(part);
    let run = move || {
        let run = run(Arc::clone(&part));
        async move {
            run.await;
            Ok(())
        }
    };
    ChildSpec::task(name, run).shutdown(Shutdown::BrutalKill).place(home.clone())
}

/// The task with the links to the engine, if there is an engine.
fn engine(shared: &Shared) -> Option<ChildSpec> {
    shared.topics.cluster.as_ref()?;
    Some(task("engine", shared.homes.first(), &shared.topics, cluster::run))
}

/// The threads for TLS handshakes, if a listener speaks TLS.
fn tls_handshakes(connections: &Arc<Connections>) -> Option<ChildSpec> {
    #[cfg(feature = "tls")]
    return connections.tls.as_ref().map(|_| ChildSpec::supervisor(tls::handshakes::supervisor(connections)));
    #[cfg(not(feature = "tls"))]
    {
        let _ = connections;
        None
    }
}

/// The actor of a listener.
fn acceptor(endpoint: &Arc<Endpoint>, connections: &Arc<Connections>) -> ChildSpec {
    let (address, endpoint, connections) = (&endpoint.acceptor, Arc::clone(endpoint), Arc::clone(connections));
    let home = connections.homes.get(endpoint.home).place.clone();
    let make = move |_: &mut _| Ok(Acceptor::new(Arc::clone(&connections), &endpoint)?);
    ChildSpec::actor(address, make).place(home)
}

/// A supervisor for each home arbiter, with the tasks that each home has.
fn homes(connections: &Arc<Connections>) -> ChildSpec {
    let homes = connections.homes.iter().map(|home| home_of(home, connections));
    let homes = homes
        .fold(Supervisor::new("homes", Strategy::OneForOne), |homes, home| homes.child(ChildSpec::supervisor(home)));
    ChildSpec::supervisor(homes.intensity(5, Duration::from_secs(60)))
}

fn home_of(home: &Home, connections: &Arc<Connections>) -> Supervisor {
    let id = home.id;
    let turns = task("turns", &home.place, connections, move |connections| take_turns(connections, id));
    // Generous, as for the senders: a home that crashes while helping with a pass has lost nothing.
    let home_of = Supervisor::new(format!("home {id}"), Strategy::OneForOne).intensity(20, Duration::from_secs(60));
    if !connections.homes.are_several() {
        return home_of.child(turns);
    }
    let errands = task("errands", &home.place, &connections.topics, move |topics| errands::run(topics, id));
    home_of.child(turns).child(errands)
}

/// Divides the time of a home arbiter between its connections.
async fn take_turns(connections: Arc<Connections>, home: HomeId) {
    let (shift, place) = (connections.shift(home), &connections.homes.get(home).place);
    join(shift.turns.keep(|| place.pauses()), shift.fairness.keep()).await;
}

/// Tells the embedder's hooks of events, if there are hooks.
fn observer(shared: &Shared) -> Option<ChildSpec> {
    let runner = Arc::clone(shared.installed_hooks()?);
    // The last news, after everything else has stopped, must take no longer than one hook may. By the settings of the
    // start: a child of the tree keeps its limit.
    let limit = Shutdown::Timeout(shared.config().hook_timeout);
    let observer = ChildSpec::task("observer", move || hooks::observe(Arc::clone(&runner)));
    Some(observer.shutdown(limit).place(shared.homes.first().clone()))
}

/// Names an actor that hangs, and ends the instance when an actor of the home arbiter hangs for good: nothing else on
/// the thread can run. A hanging child of the embedder hurts only its siblings.
fn watchdog(shared: &Arc<Shared>, root: &SupervisorRef, application: Option<&Place>) -> Watchdog {
    // Weak, because this becomes part of a spec of the root's.
    let (root_to_end, ended) = (root.downgrade(), Arc::clone(shared));
    let vital: Vec<_> = shared.homes.iter().map(|home| Arc::clone(home.place.name())).collect();
    let watchdog = Watchdog::new(HANG_WARNING / 4).level(HANG_WARNING).level(HANG_LIMIT).names_from(root);
    let places = shared.homes.iter().map(|home| &home.place).chain(application);
    let watchdog = places.fold(watchdog, Watchdog::watch);
    watchdog.on_hang(move |hang| {
        if hang.lasted < HANG_LIMIT || !vital.contains(&hang.arbiter) {
            return log::error!("{hang}");
        }
        ended.verdict.lock().get_or_insert_with(|| ExitReason::Error(hang.to_string().into()));
        if let Some(root) = root_to_end.upgrade() {
            root.kill();
        }
        // Last: the hanging code may be an embedder's logger.
        log::error!("{hang}; ending the instance, because no other actor of this thread can run");
    })
}
