//! The dynamic supervisor: many children of a kind, added and removed at run time, each with a life of its own.
//!
//! Owns [`DynamicSupervisor`] (OTP's `simple_one_for_one`), with two sorts of children. Numbered children are
//! temporary, are started on the calling thread without a message and cost next to nothing. Named children are
//! restarted, if wanted each within its own intensity, and are quarantined when the intensity is exceeded. No child
//! waits for another.
//!
//! | file | what it is |
//! |---|---|
//! | `mod.rs` | [`DynamicSupervisor`]: the handle, its settings, commands and questions |
//! | `child.rs` | [`Child`] and [`ChildKey`]: children as callers see them |
//! | `live.rs` | what the loop shares with handles and children: the tables of children and the mailbox |
//! | `keeper.rs` | the loop: starts, stops and restarts named children, quarantine |

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use actix::{Actor, Context};
use futures_util::future::join_all;
use parking_lot::Mutex;
use tokio::sync::{broadcast, oneshot};

mod child;
mod keeper;
mod live;

use self::child::Reach;
pub use self::child::{Child, ChildKey};
use self::keeper::Keeper;
use self::live::{Live, Mail};
use crate::cell::{self, Cell, Monitor};
use crate::child::{KILL_GRACE_DEFAULT, Surroundings};
use crate::dormant::{Dormant, DormantBody};
use crate::error::{ChildError, StartError};
use crate::exit::{ActorId, Down, ExitReason, guarded};
use crate::run::{ActorBody, Begun, Birth, Incarnation, TaskBody};
use crate::spec::{ChildSpec, Kind, Launch, Restart, Shutdown, Start};
use crate::tree::{NodeKind, State, Tree, TreeEvent};
use crate::window::RestartIntensity;

/// How long a quarantine lasts by default.
const QUARANTINE_DEFAULT: Duration = Duration::from_secs(60);

/// How numbered children are stopped by default.
const SHUTDOWN_DEFAULT: Duration = Duration::from_secs(5);

/// A supervisor with children that come and go. The handle is made before the tree, is cheap to clone, and is shared by
/// all callers; [`ChildSpec::dynamic`] makes the supervisor part of a tree. While the supervisor does not run, it
/// refuses children.
///
/// Numbered children, from [`start_here`](Self::start_here), are temporary actors on the calling thread. Named
/// children, from [`start_child`](Self::start_child), have a [`ChildSpec`] and are restarted.
///
/// Settings take effect at the next start of the supervisor, but for [`quarantine`](Self::quarantine) and
/// [`shutdown`](Self::shutdown), which take effect at once.
///
/// ```
/// use std::time::Duration;
/// use actix::prelude::*;
/// use janus_supervision::{ChildSpec, DynamicSupervisor, Place, Strategy, Supervisor};
///
/// struct Connection;
/// impl Actor for Connection {
///     type Context = Context<Self>;
/// }
///
/// # tokio::runtime::LocalRuntime::new().unwrap().block_on(async {
/// let connections = DynamicSupervisor::new("connections").max_children(10_000);
/// let tree = Supervisor::new("root", Strategy::OneForOne)
///     .child(ChildSpec::dynamic(&connections))
///     .start(&Place::here())
///     .await?;
/// let connection = connections.start_here(|_ctx| Connection)?;
/// assert_eq!(connections.count(), 1);
/// connection.stop();
/// tree.stop().await;
/// assert_eq!(connections.count(), 0);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # }).unwrap();
/// ```
#[derive(Clone)]
pub struct DynamicSupervisor {
    shared: Arc<Shared>,
}

struct Shared {
    name: Arc<str>,
    settings: Arc<Mutex<Settings>>,
    live: Mutex<Option<Arc<Live>>>,
}

#[derive(Clone)]
struct Settings {
    restart: Restart,
    shutdown: Shutdown,
    max_children: usize,
    intensity: RestartIntensity,
    child_intensity: Option<RestartIntensity>,
    quarantine: Duration,
    on_quarantine: Option<Arc<OnQuarantine>>,
    kill_grace: Duration,
}

type OnQuarantine = dyn Fn(&Arc<str>, &ExitReason) + Send + Sync;

impl DynamicSupervisor {
    /// A supervisor without children or limit, with OTP's intensity of 1 restart in 5 seconds.
    pub fn new(name: impl Into<Arc<str>>) -> Self {
        let settings = Settings {
            restart: Restart::Permanent,
            shutdown: Shutdown::Timeout(SHUTDOWN_DEFAULT),
            max_children: usize::MAX,
            intensity: RestartIntensity::default(),
            child_intensity: None,
            quarantine: QUARANTINE_DEFAULT,
            on_quarantine: None,
            kill_grace: KILL_GRACE_DEFAULT,
        };
        Self {
            shared: Arc::new(Shared {
                name: name.into(),
                settings: Arc::new(Mutex::new(settings)),
                live: Mutex::new(None),
            }),
        }
    }

    /// When to restart named children with a spec that does not say. The default is permanent.
    #[must_use]
    pub fn restart(self, restart: Restart) -> Self {
        self.set(|settings| settings.restart = restart)
    }

    /// How to stop numbered children, and named children with a spec that does not say. The default is 5 seconds.
    #[must_use]
    pub fn shutdown(self, shutdown: Shutdown) -> Self {
        self.set(|settings| settings.shutdown = shutdown)
    }

    /// The limit on children, named and numbered. Further children are refused. The default is no limit.
    #[must_use]
    pub fn max_children(self, limit: usize) -> Self {
        self.set(|settings| settings.max_children = limit)
    }

    /// How many restarts of named children, all together, are allowed before the supervisor gives up. Not used with
    /// [`child_intensity`](Self::child_intensity).
    #[must_use]
    pub fn intensity(self, max_restarts: u32, period: Duration) -> Self {
        self.set(|settings| settings.intensity = RestartIntensity { max_restarts, period })
    }

    /// Counts the restarts of each named child separately, and quarantines a child that exceeds this intensity. The
    /// supervisor then never gives up, and a crash loop of one child takes nothing from the others.
    #[must_use]
    pub fn child_intensity(self, max_restarts: u32, period: Duration) -> Self {
        self.set(|settings| settings.child_intensity = Some(RestartIntensity { max_restarts, period }))
    }

    /// How long the quarantine of a child lasts after the child exceeded [`child_intensity`](Self::child_intensity).
    /// Then the child is started again with a clean slate and with
    /// [`after_quarantine`](crate::StartInfo::after_quarantine). The default is 60 seconds.
    #[must_use]
    pub fn quarantine(self, rest: Duration) -> Self {
        self.set(|settings| settings.quarantine = rest)
    }

    /// Sets a callback for quarantines, called with the name and the last exit reason of the child. It runs on the
    /// thread of the supervisor and must not block. A panic in the callback is logged.
    #[must_use]
    pub fn on_quarantine(self, tell: impl Fn(&Arc<str>, &ExitReason) + Send + Sync + 'static) -> Self {
        self.set(|settings| settings.on_quarantine = Some(Arc::new(tell)))
    }

    /// How long a killed child has for its handler to return before the child is abandoned. The default is 500 ms.
    #[must_use]
    pub fn kill_grace(self, grace: Duration) -> Self {
        self.set(|settings| settings.kill_grace = grace)
    }

    /// Sets how long a [quarantine](Self::quarantine) lasts that begins from then on.
    pub fn set_quarantine(&self, rest: Duration) {
        self.shared.settings.lock().quarantine = rest;
    }

    /// Sets how children are [stopped](Self::shutdown) from then on.
    pub fn set_shutdown(&self, shutdown: Shutdown) {
        self.shared.settings.lock().shutdown = shutdown;
    }

    fn set(self, change: impl FnOnce(&mut Settings)) -> Self {
        change(&mut self.shared.settings.lock());
        self
    }

    /// The name of the supervisor.
    pub fn name(&self) -> &Arc<str> {
        &self.shared.name
    }

    /// The current incarnation of the supervisor.
    pub fn id(&self) -> Option<ActorId> {
        self.running().map(|live| live.cell.id())
    }

    /// Starts a numbered child on this thread, at once: `make` is called before this returns, `started` soon after.
    ///
    /// The child is temporary, and has no name but its id. No caller waits for its start, so a panic in `started` is an
    /// end like any other.
    ///
    /// # Errors
    ///
    /// [`StartError`]: the supervisor does not run or is full, or `make` panicked or called [`exit`](crate::exit).
    ///
    /// # Panics
    ///
    /// Outside a `LocalRuntime` or `LocalSet`.
    pub fn start_here<A>(&self, make: impl FnOnce(&mut Context<A>) -> A) -> Result<Child<A>, StartError>
    where
        A: Actor<Context = Context<A>>,
    {
        let mut ctx = ActorBody::<A>::context();
        let (cell, actor) = match self.make_here(|| make(&mut ctx)) {
            Ok(made) => made,
            Err(refused) => {
                let _ = guarded(|| drop(ctx));
                return Err(refused);
            }
        };
        let addr = actix::AsyncContext::address(&ctx).downgrade();
        let incarnation = Incarnation::new(ActorBody::new(ctx, actor, None), cell.clone());
        tokio::task::spawn_local(incarnation);
        Ok(Child { cell, reach: Reach::Known(addr) })
    }

    /// Starts a numbered child as [`start_here`](Self::start_here) does, without a context until somebody asks for its
    /// [address](Child::addr). [`Dormant`] says what is different for the actor; the supervisor and the watchers see no
    /// difference.
    ///
    /// ```
    /// use std::task::{Context, Poll};
    /// use actix::Actor;
    /// use janus_supervision::{ChildSpec, Dormant, DynamicSupervisor, Place, Strategy, Supervisor};
    ///
    /// struct Connection;
    /// impl Actor for Connection {
    ///     type Context = actix::Context<Self>;
    /// }
    /// impl Dormant for Connection {
    ///     fn poll_work(&mut self, _: &mut Context<'_>) -> Poll<()> {
    ///         Poll::Pending
    ///     }
    /// }
    ///
    /// # tokio::runtime::LocalRuntime::new().unwrap().block_on(async {
    /// let connections = DynamicSupervisor::new("connections");
    /// let tree = Supervisor::new("root", Strategy::OneForOne)
    ///     .child(ChildSpec::dynamic(&connections))
    ///     .start(&Place::here())
    ///     .await?;
    /// let connection = connections.start_dormant_here(|| Connection)?;
    /// assert!(connection.addr().is_some(), "with a mailbox from now on");
    /// tree.stop().await;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # }).unwrap();
    /// ```
    ///
    /// # Errors
    ///
    /// As [`start_here`](Self::start_here).
    ///
    /// # Panics
    ///
    /// As [`start_here`](Self::start_here).
    pub fn start_dormant_here<A: Dormant>(&self, make: impl FnOnce() -> A) -> Result<Child<A>, StartError> {
        let (cell, actor) = self.make_here(make)?;
        tokio::task::spawn_local(Incarnation::new(DormantBody::Asleep(actor), cell.clone()));
        Ok(Child { cell, reach: Reach::Dormant })
    }

    /// Makes the actor of a numbered child, as that child.
    fn make_here<A>(&self, make: impl FnOnce() -> A) -> Result<(Arc<Cell>, A), StartError> {
        let live = self.running().ok_or(StartError::NotRunning)?;
        let cell = live.admit()?;
        let made = {
            let _current = cell::enter(&cell);
            guarded(make)
        };
        match made {
            Ok(actor) => Ok((cell, actor)),
            Err(reason) => {
                let reason = reason.before_up();
                cell.finish(reason.clone());
                Err(StartError::Failed { child: self.shared.name.clone(), reason })
            }
        }
    }

    /// Starts a named child and waits until the child is up. Other children and callers do not wait for this start.
    ///
    /// # Errors
    ///
    /// [`StartError`]; a child that could not be started is forgotten.
    ///
    /// # Cancel safety
    ///
    /// Once polled, the child may be started although the future is dropped.
    pub async fn start_child(&self, spec: ChildSpec) -> Result<(), StartError> {
        let answer = self.command(|reply| Mail::Start { spec: Box::new(spec), reply }).await;
        answer.unwrap_or(Err(StartError::NotRunning))
    }

    /// Stops a child, named or numbered, and forgets it. Returns when the child has ended.
    ///
    /// # Errors
    ///
    /// [`NotFound`](ChildError::NotFound) and [`NotRunning`](ChildError::NotRunning).
    pub async fn terminate_child(&self, child: impl Into<ChildKey>) -> Result<(), ChildError> {
        let live = self.running().ok_or(ChildError::NotRunning)?;
        let name = match child.into() {
            ChildKey::Name(name) => name,
            ChildKey::Id(id) => {
                let numbered = live.numbered.lock().get(id);
                if let Some(cell) = numbered {
                    live.end_numbered(&cell).await;
                    return Ok(());
                }
                live.named.lock().by_id.get(&id).cloned().ok_or(ChildError::NotFound)?
            }
        };
        self.command(|reply| Mail::Terminate { name, reply }).await.unwrap_or(Err(ChildError::NotRunning))
    }

    /// Stops all children at the same time, each as its shutdown says, and returns when all have ended. The supervisor
    /// keeps running. Children that are added during the stop are not waited for.
    pub async fn stop_all(&self) {
        let Some(live) = self.running() else { return };
        let names: Vec<Arc<str>> = live.named.lock().children.keys().cloned().collect();
        let named = join_all(names.into_iter().map(|name| self.terminate_child(ChildKey::Name(name))));
        let cells: Vec<Arc<Cell>> = live.numbered.lock().all();
        // A named child that is not found any more has ended by itself.
        let _ = tokio::join!(named, live.end_all(&cells));
    }

    /// The number of children, named and numbered.
    pub fn count(&self) -> usize {
        self.running().map_or(0, |live| live.count.load(Ordering::Relaxed))
    }

    /// Calls `each` with the id of every numbered child. Children that start or end during the walk may be left out.
    pub fn for_each(&self, each: impl FnMut(ActorId)) {
        if let Some(live) = self.running() {
            let ids: Vec<ActorId> = live.numbered.lock().ids();
            ids.into_iter().for_each(each);
        }
    }

    /// Whether the named child is in quarantine.
    pub fn is_quarantined(&self, name: &str) -> bool {
        self.running()
            .is_some_and(|live| live.named.lock().children.get(name).is_some_and(|c| c.state == State::Quarantined))
    }

    /// The supervisor and its named children, as they are now, without asking the loop.
    pub fn tree(&self) -> Tree {
        self.tree_within(usize::MAX)
    }

    fn tree_within(&self, limit: usize) -> Tree {
        let live = self.shared.live.lock().clone();
        match live {
            Some(live) => live.node(limit),
            None => Tree::stopped(&self.shared.name, NodeKind::Dynamic),
        }
    }

    /// Calls `tell` when the supervisor has ended; see [`ActorRef::monitor`](crate::ActorRef::monitor).
    pub fn monitor(&self, tell: impl FnOnce(Down) + Send + 'static) -> Monitor {
        match self.running() {
            Some(live) => Monitor::of(&live.cell, tell),
            None => Monitor::told(&self.shared.name, tell),
        }
    }

    /// Calls `tell` when the child of this id has ended; `None` if there is no such child. For named children prefer
    /// [`ActorRef::monitor`](crate::ActorRef::monitor).
    pub fn monitor_child(&self, id: ActorId, tell: impl FnOnce(Down) + Send + 'static) -> Option<Monitor> {
        let live = self.running()?;
        let numbered = live.numbered.lock().get(id);
        let cell = numbered.or_else(|| {
            let named = live.named.lock();
            named.children.get(named.by_id.get(&id)?)?.cell.clone()
        })?;
        Some(Monitor::of(&cell, tell))
    }

    /// The events of the whole tree; see [`SupervisorRef::subscribe`](crate::SupervisorRef::subscribe).
    ///
    /// # Errors
    ///
    /// [`NotRunning`](ChildError::NotRunning).
    pub fn subscribe(&self) -> Result<broadcast::Receiver<TreeEvent>, ChildError> {
        self.running().map(|live| live.around.tree.subscribe()).ok_or(ChildError::NotRunning)
    }

    async fn command<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Mail) -> Option<T> {
        let live = self.running()?;
        let (reply, answer) = oneshot::channel();
        live.mailbox.send(command(reply)).await;
        // If the mail was refused or dropped, so was the sender of this answer.
        answer.await.ok()
    }

    fn running(&self) -> Option<Arc<Live>> {
        self.shared.live.lock().clone().filter(|live| !live.cell.has_ended())
    }
}

impl fmt::Debug for DynamicSupervisor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("DynamicSupervisor").field(&self.shared.name).finish()
    }
}

impl Launch for DynamicSupervisor {
    fn kind(&self) -> Kind {
        Kind::Supervisor
    }

    fn launch(&self, Start { cell, place, tree, .. }: Start) {
        let settings = self.shared.settings.lock().clone();
        let around = Surroundings {
            supervisor: self.shared.name.clone(),
            tree,
            place: place.clone(),
            kill_grace: settings.kill_grace,
        };
        let live = Live::new(cell.clone(), around, settings, self.shared.settings.clone());
        let previous = self.shared.live.lock().replace(live.clone());
        // Without the lock: the mail may hold factories, and their values may read the tree in their drop.
        drop(previous);
        let birth = Birth::new(cell);
        // Made here, so that no caller waits for a supervisor that gets lost on the way, and no child outlives it.
        let keeper = Keeper::new(live);
        let _ = place.run(move || {
            let Some(cell) = birth.arrive() else { return };
            let body = TaskBody::new(Box::pin(keeper.supervise()), Begun::ByItself);
            tokio::task::spawn_local(Incarnation::new(body, cell));
        });
    }

    fn occupant(&self) -> Option<Arc<Cell>> {
        self.running().map(|live| live.cell.clone())
    }

    fn abandon(&self, cell: &Cell) {
        let live = self.shared.live.lock().clone();
        if let Some(live) = live.filter(|live| std::ptr::eq(&*live.cell, cell)) {
            live.dissolve();
        }
    }

    fn subtree(&self, limit: usize) -> Option<Tree> {
        Some(self.tree_within(limit))
    }

    fn find(&self, id: ActorId) -> Option<Arc<str>> {
        self.running()?.find(id)
    }
}
