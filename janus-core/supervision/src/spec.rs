//! The description of a child: how to start, restart and stop the child.
//!
//! Owns [`ChildSpec`] and its vocabulary, and turns the factories of actors and tasks into launches which can be
//! repeated on any thread. Decides nothing.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use actix::{Actor, Context};
use parking_lot::Mutex;
use tokio::sync::broadcast;

use crate::cell::{self, Cell};
use crate::dynamic::DynamicSupervisor;
use crate::exit::{ActorId, ExitReason, guarded};
use crate::place::Place;
use crate::refs::ActorRef;
use crate::run::{ActorBody, Begun, Birth, BoxError, Incarnation, TaskBody};
use crate::supervisor::Supervisor;
use crate::tree::{Tree, TreeEvent};

/// OTP's default for workers.
const SHUTDOWN_DEFAULT: Duration = Duration::from_secs(5);

/// How long a worker may take to start unless the spec says otherwise. OTP waits for ever, so that a hung `init` hangs
/// the tree.
pub(crate) const START_TIMEOUT_DEFAULT: Duration = Duration::from_secs(5);

/// Events that may wait for a slow subscriber before the subscriber misses some.
const EVENTS_MAX: usize = 256;

/// After which ends of a child the supervisor restarts the child.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Restart {
    /// After every end.
    #[default]
    Permanent,
    /// After abnormal ends; see [`ExitReason::is_abnormal`].
    Transient,
    /// After no end. The child is forgotten at the end, even after a stop by a sibling's strategy.
    Temporary,
}

impl Restart {
    pub(crate) fn wants(self, reason: &ExitReason) -> bool {
        match self {
            Self::Permanent => true,
            Self::Transient => reason.is_abnormal(),
            Self::Temporary => false,
        }
    }
}

/// How a supervisor ends a child.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shutdown {
    /// Kill the child; none of its code runs but `Drop`.
    BrutalKill,
    /// Ask the child to stop, and kill the child if it still runs after this time.
    Timeout(Duration),
    /// Ask the child to stop and wait as long as necessary. For supervisors.
    Infinity,
}

/// Which siblings are stopped and restarted together with a child.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Strategy {
    /// No sibling.
    #[default]
    OneForOne,
    /// All siblings.
    OneForAll,
    /// The siblings that were started after the child.
    RestForOne,
}

/// Whether a supervisor stops by itself when significant children end without a restart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AutoShutdown {
    /// Never. No child may be significant.
    #[default]
    Never,
    /// When any significant child has ended.
    AnySignificant,
    /// When the last significant child has ended.
    AllSignificant,
}

/// Why a factory is called.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct StartInfo {
    /// Restarts of this child that still count in the current window; 0 at the first start.
    pub restarts: u32,
    /// Why the predecessor ended.
    pub last_reason: Option<ExitReason>,
    /// Whether this is the first start after a quarantine; see [`DynamicSupervisor::quarantine`].
    pub after_quarantine: bool,
}

/// A child of a supervisor. A spec can be cloned and used for several supervisors, but a name runs only once at a time.
#[derive(Clone)]
pub struct ChildSpec {
    pub(crate) name: Arc<str>,
    pub(crate) launch: Arc<dyn Launch>,
    pub(crate) restart: Option<Restart>,
    pub(crate) shutdown: Option<Shutdown>,
    pub(crate) significant: bool,
    pub(crate) place: Option<Place>,
    pub(crate) start_timeout: Option<Duration>,
    pub(crate) backoff: Option<Backoff>,
}

impl ChildSpec {
    /// An actor, named by its reference. The factory is called on the thread on which the actor will run.
    ///
    /// The actor is up when `started` has returned, together with all futures that wait in `ctx.wait(..)` by then and
    /// with [`defer_init`](crate::Exit::defer_init). An `Err` or a panic before is a failed start.
    pub fn actor<A, F>(actor: &ActorRef<A>, factory: F) -> Self
    where
        A: Actor<Context = Context<A>>,
        F: Fn(&mut Context<A>) -> Result<A, BoxError> + Send + Sync + 'static,
    {
        Self::actor_with(actor, move |ctx, _| factory(ctx))
    }

    /// [`actor`](Self::actor) with a factory that learns why it is called.
    pub fn actor_with<A, F>(actor: &ActorRef<A>, factory: F) -> Self
    where
        A: Actor<Context = Context<A>>,
        F: Fn(&mut Context<A>, &StartInfo) -> Result<A, BoxError> + Send + Sync + 'static,
    {
        let launch = LaunchActor { actor: actor.clone(), factory: Arc::new(factory) };
        Self::new(actor.name().clone(), Arc::new(launch))
    }

    /// A plain future. `Ok` is a normal end, `Err` an abnormal end. An `Err` or a panic in the first poll is a failed
    /// start.
    ///
    /// A request to stop drops the future at an await point, unless the task has called
    /// [`stop_requested`](crate::stop_requested).
    pub fn task<F, Fut>(name: impl Into<Arc<str>>, factory: F) -> Self
    where
        F: Fn() -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), BoxError>> + 'static,
    {
        Self::new(name.into(), Arc::new(LaunchTask { factory: Arc::new(factory), last: Mutex::new(None) }))
    }

    /// A supervisor below this supervisor. The start is complete when all children are up.
    pub fn supervisor(supervisor: Supervisor) -> Self {
        Self::new(supervisor.name().clone(), Arc::new(supervisor))
    }

    /// A dynamic supervisor. The handle works while the supervisor runs.
    pub fn dynamic(supervisor: &DynamicSupervisor) -> Self {
        Self::new(supervisor.name().clone(), Arc::new(supervisor.clone()))
    }

    fn new(name: Arc<str>, launch: Arc<dyn Launch>) -> Self {
        Self {
            name,
            launch,
            restart: None,
            shutdown: None,
            significant: false,
            place: None,
            start_timeout: None,
            backoff: None,
        }
    }

    /// When to restart the child. The default is permanent, or the default of a dynamic supervisor for its children.
    #[must_use]
    pub fn restart(mut self, restart: Restart) -> Self {
        self.restart = Some(restart);
        self
    }

    /// How to stop the child. The default is 5 seconds for actors and tasks and infinity for supervisors.
    #[must_use]
    pub fn shutdown(mut self, shutdown: Shutdown) -> Self {
        self.shutdown = Some(shutdown);
        self
    }

    /// Whether the end of this child can end the supervisor; see [`AutoShutdown`]. Not for permanent children.
    #[must_use]
    pub fn significant(mut self, significant: bool) -> Self {
        self.significant = significant;
        self
    }

    /// Where the child runs. The default is the place of the supervisor.
    #[must_use]
    pub fn place(mut self, place: Place) -> Self {
        self.place = Some(place);
        self
    }

    /// Where the child runs if no [`place`](Self::place) is set, before or after this call.
    ///
    /// For code that adds foreign specs to a supervisor and has a place for specs without a preference.
    #[must_use]
    pub fn default_place(mut self, place: Place) -> Self {
        self.place.get_or_insert(place);
        self
    }

    /// How long the start may take. After this time the start has failed and the child is killed. The default is 5
    /// seconds for actors and tasks. Supervisors have no default timeout, since their children have timeouts of their
    /// own, but the thread of a supervisor must answer within 5 seconds.
    #[must_use]
    pub fn start_timeout(mut self, timeout: Duration) -> Self {
        self.start_timeout = Some(timeout);
        self
    }

    /// Waits before each restart: `min` first, then twice as long each time, up to `max`. A child that ran for longer
    /// than `max` begins at `min` again.
    ///
    /// The supervisor stays available during the wait: it answers, serves other children and can be stopped.
    #[must_use]
    pub fn backoff(mut self, min: Duration, max: Duration) -> Self {
        self.backoff = Some(Backoff { min, max: max.max(min) });
        self
    }

    /// The child's name.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// Takes out the factory with all captured values, to be dropped by the caller. The tree shows the child as before.
    #[must_use]
    pub(crate) fn forget_factory(&mut self) -> Arc<dyn Launch> {
        let forgotten = Arc::new(Forgotten(self.launch.kind()));
        std::mem::replace(&mut self.launch, forgotten)
    }

    /// Whether the child is forgotten at the end, if the supervisor's default is permanent.
    pub(crate) fn is_temporary(&self) -> bool {
        self.restart == Some(Restart::Temporary)
    }

    pub(crate) fn restart_or(&self, default: Restart) -> Restart {
        self.restart.unwrap_or(default)
    }

    pub(crate) fn shutdown_or(&self, default: Option<Shutdown>) -> Shutdown {
        let by_kind = || match self.launch.kind() {
            Kind::Worker => default.unwrap_or(Shutdown::Timeout(SHUTDOWN_DEFAULT)),
            Kind::Supervisor => Shutdown::Infinity,
        };
        self.shutdown.unwrap_or_else(by_kind)
    }

    pub(crate) fn start_limit(&self) -> Option<Duration> {
        let by_kind = || match self.launch.kind() {
            Kind::Worker => Some(START_TIMEOUT_DEFAULT),
            Kind::Supervisor => None,
        };
        self.start_timeout.or_else(by_kind)
    }
}

impl fmt::Debug for ChildSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChildSpec")
            .field("name", &self.name)
            .field("restart", &self.restart)
            .field("shutdown", &self.shutdown)
            .field("significant", &self.significant)
            .finish_non_exhaustive()
    }
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Backoff {
    pub(crate) min: Duration,
    pub(crate) max: Duration,
}

impl Backoff {
    /// The wait before a restart after `earlier` restarts in a row, without a quiet time between them.
    pub(crate) fn delay(self, earlier: u32) -> Duration {
        self.min.saturating_mul(2u32.saturating_pow(earlier)).min(self.max)
    }
}

/// What OTP calls the type of a child.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Worker,
    Supervisor,
}

/// Knows how to start a child. The cell shows the outcome of the start.
pub(crate) trait Launch: Send + Sync {
    fn kind(&self) -> Kind;
    fn launch(&self, start: Start);
    /// The last incarnation if it has not ended, under any supervisor.
    fn occupant(&self) -> Option<Arc<Cell>>;
    /// Called when `cell` is given up for dead and the code of the incarnation will not clean up: the name stops
    /// resolving to `cell`, and all children below end.
    fn abandon(&self, cell: &Cell);
    /// The tree below with at most `limit` children of each supervisor, if the child is a supervisor.
    fn subtree(&self, _limit: usize) -> Option<Tree> {
        None
    }
    /// The name of `id`, if `id` runs below this child.
    fn find(&self, _id: ActorId) -> Option<Arc<str>> {
        None
    }
}

/// Replaces the factory of a child that is never started again.
struct Forgotten(Kind);

impl Launch for Forgotten {
    fn kind(&self) -> Kind {
        self.0
    }

    /// Dropping the unborn cell ends it, as a stopped place does.
    fn launch(&self, start: Start) {
        drop(Birth::new(start.cell));
    }

    fn occupant(&self) -> Option<Arc<Cell>> {
        None
    }

    fn abandon(&self, _: &Cell) {}
}

/// One start of a child.
pub(crate) struct Start {
    pub(crate) cell: Arc<Cell>,
    pub(crate) info: StartInfo,
    pub(crate) place: Place,
    pub(crate) tree: Arc<TreeShared>,
}

/// The shared state of a whole tree.
pub(crate) struct TreeShared {
    number: u16,
    ids: AtomicU64,
    events: Mutex<Option<broadcast::Sender<TreeEvent>>>,
    on_restart: Option<OnRestart>,
}

/// Is told of each restart in a tree.
#[derive(Clone)]
pub(crate) struct OnRestart(pub(crate) Arc<TellRestart>);

/// Takes the names of the supervisor and of the child.
type TellRestart = dyn Fn(&str, &str) + Send + Sync;

impl fmt::Debug for OnRestart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OnRestart")
    }
}

impl TreeShared {
    pub(crate) fn new(on_restart: Option<OnRestart>) -> Arc<Self> {
        static TREES: AtomicU64 = AtomicU64::new(0);
        // Truncated on purpose: the number only has to differ between trees alive at the same time.
        let number = TREES.fetch_add(1, Ordering::Relaxed) as u16;
        Arc::new(Self { number, ids: AtomicU64::new(1), events: Mutex::new(None), on_restart })
    }

    pub(crate) fn next_id(&self) -> ActorId {
        ActorId::new(self.number, self.ids.fetch_add(1, Ordering::Relaxed))
    }

    pub(crate) fn subscribe(&self) -> broadcast::Receiver<TreeEvent> {
        self.events.lock().get_or_insert_with(|| broadcast::Sender::new(EVENTS_MAX)).subscribe()
    }

    /// Tells of the restart of a child; called without a lock.
    pub(crate) fn restarts(&self, supervisor: &str, child: &str) {
        if let Some(OnRestart(tell)) = &self.on_restart
            && let Err(panic) = guarded(|| tell(supervisor, child))
        {
            log::error!("{supervisor}: on_restart failed: {panic}");
        }
    }

    pub(crate) fn emit(&self, event: impl FnOnce() -> TreeEvent) {
        if let Some(events) = &*self.events.lock()
            && events.receiver_count() > 0
        {
            // The last subscriber may have gone by now.
            let _ = events.send(event());
        }
    }
}

type ActorFactory<A> = dyn Fn(&mut Context<A>, &StartInfo) -> Result<A, BoxError> + Send + Sync;

struct LaunchActor<A: Actor<Context = Context<A>>> {
    actor: ActorRef<A>,
    factory: Arc<ActorFactory<A>>,
}

impl<A: Actor<Context = Context<A>>> Launch for LaunchActor<A> {
    fn kind(&self) -> Kind {
        Kind::Worker
    }

    fn launch(&self, Start { cell, info, place, .. }: Start) {
        let (slot, factory) = (self.actor.slot().clone(), self.factory.clone());
        let birth = Birth::new(cell);
        // If the place is down, the birth is dropped with the job. This drop ends the cell.
        let _ = place.run(move || {
            let Some(cell) = birth.arrive() else { return };
            let mut ctx = ActorBody::<A>::context();
            ActorBody::report_start(&mut ctx, cell.clone());
            let made = {
                let _current = cell::enter(&cell);
                guarded(|| factory(&mut ctx, &info).map_err(|error| error.to_string()))
            };
            let actor = match made {
                Ok(Ok(actor)) => actor,
                Ok(Err(message)) => return end_unborn(&cell, ExitReason::StartFailed(message.into()), ctx),
                Err(reason) => return end_unborn(&cell, reason, ctx),
            };
            let addr = actix::AsyncContext::address(&ctx);
            let incarnation = Incarnation::new(ActorBody::new(ctx, actor, Some(slot.clone())), cell.clone());
            if slot.occupy(addr, &cell) {
                tokio::task::spawn_local(incarnation);
            } else {
                cell.kill(ExitReason::StartFailed(format!("{} is already running", cell.name()).into()));
            }
        });
    }

    fn occupant(&self) -> Option<Arc<Cell>> {
        self.actor.slot().occupant()
    }

    fn abandon(&self, cell: &Cell) {
        self.actor.slot().clear(cell);
    }
}

/// Ends a cell whose actor was never made, after everything the factory left in the context has been dropped.
fn end_unborn<C>(cell: &Cell, reason: ExitReason, context: C) {
    let _ = guarded(|| drop(context));
    cell.finish(reason);
}

struct LaunchTask<F> {
    factory: Arc<F>,
    last: Mutex<Option<Arc<Cell>>>,
}

impl<F, Fut> Launch for LaunchTask<F>
where
    F: Fn() -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<(), BoxError>> + 'static,
{
    fn kind(&self) -> Kind {
        Kind::Worker
    }

    fn launch(&self, Start { cell, place, .. }: Start) {
        let factory = self.factory.clone();
        *self.last.lock() = Some(cell.clone());
        let birth = Birth::new(cell);
        let _ = place.run(move || {
            let Some(cell) = birth.arrive() else { return };
            let made = {
                let _current = cell::enter(&cell);
                guarded(|| factory())
            };
            match made {
                Ok(task) => {
                    let body = TaskBody::new(Box::pin(task), Begun::AfterFirstPoll);
                    tokio::task::spawn_local(Incarnation::new(body, cell));
                }
                Err(reason) => end_unborn(&cell, reason, ()),
            }
        });
    }

    fn occupant(&self) -> Option<Arc<Cell>> {
        self.last.lock().clone().filter(|cell| !cell.has_ended())
    }

    fn abandon(&self, _: &Cell) {}
}
