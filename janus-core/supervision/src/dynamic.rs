//! The dynamic supervisor: many children of a kind, in no order, each with a life of its own.
//!
//! Owns [`DynamicSupervisor`] (OTP's `simple_one_for_one`), with two sorts of children. Numbered ones are temporary, are
//! started on the calling thread without a message and cost next to nothing. Named ones are restarted, each within an
//! intensity of its own if wanted, and rest in quarantine when that is used up. No child ever waits for another.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use actix::{Actor, Addr, Context, WeakAddr};
use futures_util::StreamExt;
use futures_util::future::join_all;
use futures_util::stream::FuturesUnordered;
use parking_lot::Mutex;
use tokio::sync::{broadcast, oneshot};
use tokio::time::{Instant, sleep_until, timeout};

use crate::cell::{self, ASKED, Cell, Monitor, Parent, UP};
use crate::child::{Child as Record, KILL_GRACE_DEFAULT, Mailbox, Surroundings, after, is_worker, with_subtrees};
use crate::exit::{ActorId, Down, ExitReason, guarded};
use crate::run::{ActorBody, Begun, Birth, BoxError, Incarnation, TaskBody};
use crate::spec::{ChildSpec, Kind, Launch, Restart, Shutdown, Start};
use crate::supervisor::{ChildError, StartError};
use crate::tree::{Event, EventKind, NodeKind, State, Tree};
use crate::window::{RestartIntensity, RestartWindow};

/// How long a child rests unless the supervisor says otherwise.
const QUARANTINE_DEFAULT: Duration = Duration::from_secs(60);

/// How numbered children are stopped unless the supervisor says otherwise.
const SHUTDOWN_DEFAULT: Duration = Duration::from_secs(5);

/// A supervisor whose children come and go. Made before the tree, and cheap to clone: the handle is what everybody uses,
/// and [`ChildSpec::dynamic`] makes it part of a tree. Until then, and while it does not run, it refuses children.
///
/// Settings take effect when the tree starts it.
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
    settings: Mutex<Settings>,
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
        Self { shared: Arc::new(Shared { name: name.into(), settings: Mutex::new(settings), live: Mutex::new(None) }) }
    }

    /// When to restart named children whose spec does not say. The default is permanent.
    #[must_use]
    pub fn restart(self, restart: Restart) -> Self {
        self.set(|settings| settings.restart = restart)
    }

    /// How to stop numbered children, and named ones whose spec does not say. The default is 5 seconds.
    #[must_use]
    pub fn shutdown(self, shutdown: Shutdown) -> Self {
        self.set(|settings| settings.shutdown = shutdown)
    }

    /// How many children it may have; one more is refused.
    #[must_use]
    pub fn max_children(self, limit: usize) -> Self {
        self.set(|settings| settings.max_children = limit)
    }

    /// How many restarts of named children, all together, are allowed before it gives up. Of no account with
    /// [`child_intensity`](Self::child_intensity).
    #[must_use]
    pub fn intensity(self, max_restarts: u32, period: Duration) -> Self {
        self.set(|settings| settings.intensity = RestartIntensity { max_restarts, period })
    }

    /// Counts the restarts of each named child for itself. One that exceeds this is quarantined; the supervisor then
    /// never gives up, and one child that crashes in a loop takes nothing from the others.
    #[must_use]
    pub fn child_intensity(self, max_restarts: u32, period: Duration) -> Self {
        self.set(|settings| settings.child_intensity = Some(RestartIntensity { max_restarts, period }))
    }

    /// How long a child rests after it has exceeded [`child_intensity`](Self::child_intensity). Then it is started again
    /// with a clean slate and [`after_quarantine`](crate::StartInfo::after_quarantine). The default is 60 seconds.
    #[must_use]
    pub fn quarantine(self, rest: Duration) -> Self {
        self.set(|settings| settings.quarantine = rest)
    }

    /// Called with the name and the last reason of a child that goes into quarantine, on the thread of the supervisor,
    /// which it must not hold up. A panic in it is logged.
    #[must_use]
    pub fn on_quarantine(self, tell: impl Fn(&Arc<str>, &ExitReason) + Send + Sync + 'static) -> Self {
        self.set(|settings| settings.on_quarantine = Some(Arc::new(tell)))
    }

    /// How long a killed child has for its handler to return before it is abandoned. The default is 500 ms.
    #[must_use]
    pub fn kill_grace(self, grace: Duration) -> Self {
        self.set(|settings| settings.kill_grace = grace)
    }

    fn set(self, change: impl FnOnce(&mut Settings)) -> Self {
        change(&mut self.shared.settings.lock());
        self
    }

    /// Its name.
    pub fn name(&self) -> &Arc<str> {
        &self.shared.name
    }

    /// The incarnation that runs at the moment.
    pub fn id(&self) -> Option<ActorId> {
        self.running().map(|live| live.cell.id())
    }

    /// Starts a numbered child on this thread, at once: `make` is called before this returns, `started` soon after.
    ///
    /// It is temporary, and has no name but its id. Nobody waits for its start, so a panic in `started` is an end like
    /// any other.
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
        let live = self.running().ok_or(StartError::NotRunning)?;
        let cell = live.admit()?;
        let mut ctx = ActorBody::<A>::context();
        let made = {
            let _current = cell::enter(&cell);
            guarded(|| make(&mut ctx))
        };
        let actor = match made {
            Ok(actor) => actor,
            Err(reason) => {
                let reason = reason.before_up();
                let _ = guarded(|| drop(ctx));
                cell.finish(reason.clone());
                return Err(StartError::Failed { child: self.shared.name.clone(), reason });
            }
        };
        let addr = actix::AsyncContext::address(&ctx).downgrade();
        let incarnation = Incarnation::new(ActorBody::new(ctx, actor, None), cell.clone());
        tokio::task::spawn_local(incarnation);
        Ok(Child { cell, addr })
    }

    /// Starts a named child and waits until it is up. Others are served meanwhile.
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

    /// Stops a child, named or numbered, and forgets it; returns when it has ended.
    ///
    /// # Errors
    ///
    /// [`NotFound`](ChildError::NotFound) and [`NotRunning`](ChildError::NotRunning).
    pub async fn terminate_child(&self, child: impl Into<ChildKey>) -> Result<(), ChildError> {
        let live = self.running().ok_or(ChildError::NotRunning)?;
        let name = match child.into() {
            ChildKey::Name(name) => name,
            ChildKey::Id(id) => {
                let numbered = live.numbered.lock().cells.get(&id).cloned();
                if let Some(cell) = numbered {
                    live.end_numbered(&cell).await;
                    return Ok(());
                }
                live.named.lock().by_id.get(&id).cloned().ok_or(ChildError::NotFound)?
            }
        };
        self.command(|reply| Mail::Terminate { name, reply }).await.unwrap_or(Err(ChildError::NotRunning))
    }

    /// Stops all children at the same time, as their shutdown says, and returns when all have ended. The supervisor
    /// goes on, and may be given new children meanwhile, which are not waited for.
    pub async fn stop_all(&self) {
        let Some(live) = self.running() else { return };
        let names: Vec<Arc<str>> = live.named.lock().children.keys().cloned().collect();
        let named = join_all(names.into_iter().map(|name| self.terminate_child(ChildKey::Name(name))));
        let cells: Vec<Arc<Cell>> = live.numbered.lock().cells.values().cloned().collect();
        // A named child that is not found any more has ended by itself.
        let _ = tokio::join!(named, live.end_all(&cells));
    }

    /// How many children it has, named and numbered.
    pub fn count(&self) -> usize {
        self.running().map_or(0, |live| live.count.load(Ordering::Relaxed))
    }

    /// Calls `each` with the id of every numbered child. Children that start or end meanwhile may be left out.
    pub fn for_each(&self, each: impl FnMut(ActorId)) {
        if let Some(live) = self.running() {
            let ids: Vec<ActorId> = live.numbered.lock().cells.keys().copied().collect();
            ids.into_iter().for_each(each);
        }
    }

    /// Whether the named child rests in quarantine.
    pub fn is_quarantined(&self, name: &str) -> bool {
        self.running()
            .is_some_and(|live| live.named.lock().children.get(name).is_some_and(|c| c.state == State::Quarantined))
    }

    /// The supervisor and its named children, as they are now.
    pub fn tree(&self) -> Tree {
        let live = self.shared.live.lock().clone();
        match live {
            Some(live) => live.node(),
            None => Tree::stopped(&self.shared.name, NodeKind::Dynamic),
        }
    }

    /// Calls `tell` when the supervisor has ended; as [`ActorRef::monitor`](crate::ActorRef::monitor).
    pub fn monitor(&self, tell: impl FnOnce(Down) + Send + 'static) -> Monitor {
        match self.running() {
            Some(live) => Monitor::of(&live.cell, tell),
            None => Monitor::told(&self.shared.name, tell),
        }
    }

    /// Calls `tell` when the child of this id has ended, `None` if there is none. For named children prefer
    /// [`ActorRef::monitor`](crate::ActorRef::monitor).
    pub fn monitor_child(&self, id: ActorId, tell: impl FnOnce(Down) + Send + 'static) -> Option<Monitor> {
        let live = self.running()?;
        let numbered = live.numbered.lock().cells.get(&id).cloned();
        let cell = numbered.or_else(|| {
            let named = live.named.lock();
            named.children.get(named.by_id.get(&id)?)?.cell.clone()
        })?;
        Some(Monitor::of(&cell, tell))
    }

    /// As [`SupervisorRef::subscribe`](crate::SupervisorRef::subscribe).
    ///
    /// # Errors
    ///
    /// [`NotRunning`](ChildError::NotRunning).
    pub fn subscribe(&self) -> Result<broadcast::Receiver<Event>, ChildError> {
        self.running().map(|live| live.around.tree.subscribe()).ok_or(ChildError::NotRunning)
    }

    async fn command<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Mail) -> Option<T> {
        let live = self.running()?;
        let (reply, answer) = oneshot::channel();
        live.mailbox.send(command(reply)).await;
        // If the mail was refused or dropped, so was the other end of this.
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

/// Which child of a dynamic supervisor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChildKey {
    /// A named one.
    Name(Arc<str>),
    /// Either sort, by its current incarnation.
    Id(ActorId),
}

impl From<&str> for ChildKey {
    fn from(name: &str) -> Self {
        Self::Name(name.into())
    }
}

impl From<Arc<str>> for ChildKey {
    fn from(name: Arc<str>) -> Self {
        Self::Name(name)
    }
}

impl From<ActorId> for ChildKey {
    fn from(id: ActorId) -> Self {
        Self::Id(id)
    }
}

/// A handle to a numbered child. It neither keeps the child alive nor, when dropped, ends it.
pub struct Child<A: Actor<Context = Context<A>>> {
    cell: Arc<Cell>,
    // Weak because an `Addr` of its own would cost each child two allocations.
    addr: WeakAddr<A>,
}

impl<A: Actor<Context = Context<A>>> Child<A> {
    /// Its id.
    pub fn id(&self) -> ActorId {
        self.cell.id()
    }

    /// Its address, while it runs.
    pub fn addr(&self) -> Option<Addr<A>> {
        if self.cell.has_ended() { None } else { self.addr.upgrade() }
    }

    /// Asks it to stop.
    pub fn stop(&self) {
        self.cell.stop();
    }

    /// Ends it without running any more of its code but `Drop`.
    pub fn kill(&self) {
        self.cell.kill(ExitReason::Killed);
    }

    /// Why it ended, once it has.
    pub fn reason(&self) -> Option<ExitReason> {
        self.cell.reason()
    }

    /// Calls `tell` when it has ended; as [`ActorRef::monitor`](crate::ActorRef::monitor).
    pub fn monitor(&self, tell: impl FnOnce(Down) + Send + 'static) -> Monitor {
        Monitor::of(&self.cell, tell)
    }
}

impl<A: Actor<Context = Context<A>>> Clone for Child<A> {
    fn clone(&self) -> Self {
        Self { cell: self.cell.clone(), addr: self.addr.clone() }
    }
}

impl<A: Actor<Context = Context<A>>> fmt::Debug for Child<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Child").field(&self.cell).finish()
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
        let live = Arc::new_cyclic(|me| Live {
            me: me.clone(),
            cell: cell.clone(),
            around,
            settings,
            mailbox: Mailbox::new(),
            count: AtomicUsize::new(0),
            numbered: Mutex::default(),
            named: Mutex::default(),
        });
        let previous = self.shared.live.lock().replace(live.clone());
        // Without the lock, since its mail may hold factories, and those anything.
        drop(previous);
        let birth = Birth::new(cell);
        // Made here, so that nobody waits for one that gets lost on the way, and no child outlives it.
        let keeper = Keeper {
            window: RestartWindow::new(live.settings.intensity),
            live,
            steps: FuturesUnordered::new(),
            due: BTreeSet::new(),
        };
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

    fn subtree(&self) -> Option<Tree> {
        Some(self.tree())
    }

    fn find(&self, id: ActorId) -> Option<Arc<str>> {
        let live = self.running()?;
        if live.cell.id() == id || live.numbered.lock().cells.contains_key(&id) {
            return Some(self.shared.name.clone());
        }
        let below: Vec<Arc<dyn Launch>> = {
            let named = live.named.lock();
            if let Some(name) = named.by_id.get(&id) {
                return Some(name.clone());
            }
            let supervisors = named.children.values().filter(|child| !is_worker(&child.spec));
            supervisors.map(|child| child.spec.launch.clone()).collect()
        };
        below.iter().find_map(|launch| launch.find(id))
    }
}

/// One incarnation, as far as it is shared with its handles and its children.
struct Live {
    me: Weak<Self>,
    cell: Arc<Cell>,
    around: Surroundings,
    settings: Settings,
    // Gets the ends of named children. Those of numbered ones are dealt with where they happen.
    mailbox: Mailbox<Mail>,
    count: AtomicUsize,
    numbered: Mutex<Numbered>,
    // Locked for moments only, never across an await and never while another supervisor is asked.
    named: Mutex<Named>,
}

#[derive(Default)]
struct Numbered {
    // Ordered, so that a simulation can be repeated: children are stopped in this order.
    cells: BTreeMap<ActorId, Arc<Cell>>,
    closed: bool,
}

#[derive(Default)]
struct Named {
    // Ordered, as numbered children are.
    children: BTreeMap<Arc<str>, Record>,
    // Holds the current incarnations only.
    by_id: HashMap<ActorId, Arc<str>>,
}

impl Parent for Live {
    fn child_ended(&self, cell: &Cell, reason: &ExitReason) {
        let numbered = self.numbered.lock().cells.remove(&cell.id()).is_some();
        if !numbered {
            self.mailbox.push(Mail::Ended(cell.id(), reason.clone()));
            return;
        }
        self.count.fetch_sub(1, Ordering::Relaxed);
        if reason.is_abnormal() && *reason != ExitReason::Killed {
            log::warn!("{}: {} ended: {reason}", self.around.supervisor, cell.id());
            self.around.emit(&self.around.supervisor, Some(cell.id()), EventKind::Ended(reason.clone()));
        }
    }
}

impl Live {
    fn parent(&self) -> Weak<dyn Parent> {
        self.me.clone() as Weak<dyn Parent>
    }

    /// Makes room for one more child, whose record or cell gives it back.
    fn take_room(&self) -> Result<(), StartError> {
        let limit = self.settings.max_children;
        let more = |count| (count < limit).then_some(count + 1);
        match self.count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more) {
            Ok(_) => Ok(()),
            Err(_) => Err(StartError::TooManyChildren(limit)),
        }
    }

    fn admit(&self) -> Result<Arc<Cell>, StartError> {
        self.take_room()?;
        let cell = Cell::new_up(self.around.tree.next_id(), self.around.supervisor.clone(), self.parent());
        let mut numbered = self.numbered.lock();
        if numbered.closed {
            self.count.fetch_sub(1, Ordering::Relaxed);
            return Err(StartError::NotRunning);
        }
        numbered.cells.insert(cell.id(), cell.clone());
        Ok(cell)
    }

    /// Takes no more mail and no more children, and kills whoever still runs.
    ///
    /// After an orderly end nobody does. A supervisor that was killed, whose arbiter is gone or that hangs takes its
    /// children along: that is the link between them.
    fn dissolve(&self) {
        self.mailbox.close();
        let mut orphans: Vec<Arc<Cell>> = {
            let mut numbered = self.numbered.lock();
            numbered.closed = true;
            numbered.cells.values().cloned().collect()
        };
        // A factory often holds what in turn holds a handle to this supervisor.
        let factories: Vec<Arc<dyn Launch>> = {
            let mut named = self.named.lock();
            named.by_id.clear();
            let forgotten = named.children.values_mut().map(|child| {
                child.state = State::Stopped;
                orphans.extend(child.cell.take());
                child.spec.forget_factory()
            });
            forgotten.collect()
        };
        for cell in orphans {
            cell.kill(ExitReason::Killed);
        }
        // Last and without the lock: what a factory has captured may look at the tree when it is dropped.
        drop(factories);
    }

    async fn end_numbered(&self, cell: &Arc<Cell>) {
        self.end_all(std::slice::from_ref(cell)).await;
    }

    /// Ends numbered children at the same time, with one timeout for all.
    async fn end_all(&self, cells: &[Arc<Cell>]) {
        let all_ended = async {
            for cell in cells {
                cell.until_ended().await;
            }
        };
        tokio::pin!(all_ended);
        let in_time = match self.settings.shutdown {
            Shutdown::BrutalKill => false,
            Shutdown::Timeout(limit) => {
                cells.iter().for_each(|cell| cell.stop());
                timeout(limit, &mut all_ended).await.is_ok()
            }
            Shutdown::Infinity => {
                cells.iter().for_each(|cell| cell.stop());
                (&mut all_ended).await;
                true
            }
        };
        if in_time {
            return;
        }
        cells.iter().for_each(|cell| cell.kill(ExitReason::Killed));
        if timeout(self.settings.kill_grace, all_ended).await.is_ok() {
            return;
        }
        for cell in cells.iter().filter(|cell| !cell.has_ended()) {
            log::error!("{cell:?} is stuck in its code and was abandoned");
            if cell.finish(ExitReason::Killed) {
                self.around.emit(&self.around.supervisor, Some(cell.id()), EventKind::Abandoned);
            }
        }
    }

    fn node(&self) -> Tree {
        let (children, numbered) = {
            let named = self.named.lock();
            let children = named.children.values().map(|child| (child.node(), child.spec.launch.clone()));
            (children.collect(), self.numbered.lock().cells.len())
        };
        Tree::of(&self.cell, NodeKind::Dynamic, with_subtrees(children), numbered)
    }
}

enum Mail {
    Ended(ActorId, ExitReason),
    Start { spec: Box<ChildSpec>, reply: oneshot::Sender<Result<(), StartError>> },
    Terminate { name: Arc<str>, reply: oneshot::Sender<Result<(), ChildError>> },
}

/// A start or a stop that is over.
enum Done {
    Started { cell: Arc<Cell>, outcome: Result<(), ExitReason>, reply: Option<oneshot::Sender<Result<(), StartError>>> },
    Stopped { cell: Arc<Cell>, reply: oneshot::Sender<Result<(), ChildError>> },
}

type Step = Pin<Box<dyn Future<Output = Done> + Send>>;

/// The loop of a dynamic supervisor. Starts and stops of named children run beside it, as `steps`.
struct Keeper {
    live: Arc<Live>,
    window: RestartWindow,
    steps: FuturesUnordered<Step>,
    // Mirrors `Record::due`; entries that no longer do are skipped when they come up.
    due: BTreeSet<(Instant, Arc<str>)>,
}

impl Keeper {
    async fn supervise(mut self) -> Result<(), BoxError> {
        let cell = self.live.cell.clone();
        cell.trap_stop();
        let mut stop = Box::pin(cell.until(ASKED));
        cell.begun();
        let reason = loop {
            let due = self.due.first().cloned();
            let timer = async {
                match &due {
                    Some((at, _)) => sleep_until(*at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = &mut stop => break None,
                Some(done) = self.steps.next() => {
                    if let Some(reason) = self.on_done(done) {
                        break Some(reason);
                    }
                }
                mail = self.live.mailbox.next() => {
                    if let Some(reason) = self.on_mail(mail) {
                        break Some(reason);
                    }
                }
                () = timer => {
                    if let Some(entry) = due {
                        self.due.remove(&entry);
                        self.on_due(entry.0, &entry.1);
                    }
                }
            }
        };
        self.stop_all().await;
        if let Some(reason) = reason {
            cell.ask_exit(reason);
        }
        Ok(())
    }

    async fn stop_all(&mut self) {
        self.live.mailbox.close();
        let named: Vec<_> = {
            let mut named = self.live.named.lock();
            named.by_id.clear();
            let running = named.children.values_mut().filter_map(|child| {
                child.due = None;
                let cell = child.cell.clone();
                // Starts under way are given up.
                if let Some(cell) = cell.as_ref().filter(|cell| cell.flags() & UP == 0) {
                    cell.kill(ExitReason::Killed);
                }
                child.state = if cell.is_some() { State::Stopping } else { State::Stopped };
                Some((child.spec.clone(), cell?))
            });
            running.collect()
        };
        self.steps.clear();
        let numbered: Vec<Arc<Cell>> = {
            let mut numbered = self.live.numbered.lock();
            numbered.closed = true;
            numbered.cells.values().cloned().collect()
        };
        let live = &self.live;
        let stops = join_all(named.iter().map(|(spec, cell)| async {
            let reason = live.around.take_down(spec, cell, spec.shutdown_or(Some(live.settings.shutdown))).await;
            if let Some(child) = live.named.lock().children.get_mut(&spec.name) {
                child.ended(reason);
            }
        }));
        tokio::join!(stops, live.end_all(&numbered));
    }

    fn on_mail(&mut self, mail: Mail) -> Option<ExitReason> {
        match mail {
            Mail::Ended(id, reason) => return self.on_end(id, reason),
            Mail::Start { spec, reply } => match self.add(*spec) {
                Ok(name) => self.start(&name, Some(reply)),
                Err(refused) => {
                    let _ = reply.send(Err(refused));
                }
            },
            Mail::Terminate { name, reply } => self.terminate(name, reply),
        }
        None
    }

    fn add(&mut self, spec: ChildSpec) -> Result<Arc<str>, StartError> {
        let name = spec.name.clone();
        if spec.significant {
            return Err(StartError::Invalid { child: name, why: "a dynamic supervisor has no significant children" });
        }
        let mut named = self.live.named.lock();
        if named.children.contains_key(&name) {
            return Err(StartError::AlreadyStarted(name));
        }
        self.live.take_room()?;
        let intensity = self.live.settings.child_intensity.unwrap_or(self.live.settings.intensity);
        named.children.insert(name.clone(), Record::new(spec, intensity));
        Ok(name)
    }

    fn start(&mut self, name: &Arc<str>, reply: Option<oneshot::Sender<Result<(), StartError>>>) {
        let live = self.live.clone();
        let (spec, cell, info) = {
            let mut named = live.named.lock();
            let Named { children, by_id } = &mut *named;
            let Some(child) = children.get_mut(name) else { return };
            let cell = Cell::new(live.around.tree.next_id(), name.clone(), Some(live.parent()));
            let info = child.info();
            child.starting(&cell);
            by_id.insert(cell.id(), name.clone());
            (child.spec.clone(), cell, info)
        };
        self.steps.push(Box::pin(async move {
            let outcome = live.around.bring_up(&spec, &cell, info, std::future::pending()).await;
            Done::Started { cell, outcome, reply }
        }));
    }

    fn terminate(&mut self, name: Arc<str>, reply: oneshot::Sender<Result<(), ChildError>>) {
        let (spec, cell) = {
            let mut named = self.live.named.lock();
            let Some(child) = named.children.get_mut(&name) else {
                let _ = reply.send(Err(ChildError::NotFound));
                return;
            };
            child.due = None;
            let Some(cell) = child.cell.clone() else {
                drop(named);
                self.forget(&name);
                let _ = reply.send(Ok(()));
                return;
            };
            child.state = State::Stopping;
            let spec = child.spec.clone();
            named.by_id.remove(&cell.id());
            (spec, cell)
        };
        let live = self.live.clone();
        self.steps.push(Box::pin(async move {
            live.around.take_down(&spec, &cell, spec.shutdown_or(Some(live.settings.shutdown))).await;
            Done::Stopped { cell, reply }
        }));
    }

    fn forget(&self, name: &str) {
        let removed = self.live.named.lock().children.remove(name);
        if removed.is_some() {
            self.live.count.fetch_sub(1, Ordering::Relaxed);
        }
        // Without the lock: what a factory has captured may look at the tree when it is dropped.
        drop(removed);
    }

    fn on_done(&mut self, done: Done) -> Option<ExitReason> {
        match done {
            Done::Stopped { cell, reply } => {
                // Of two who terminated the same child, the second must not take its successor away.
                let stopped = |child: &Record| child.cell.as_ref().is_some_and(|current| Arc::ptr_eq(current, &cell));
                let still_there = self.live.named.lock().children.get(cell.name()).is_some_and(stopped);
                if still_there {
                    self.forget(cell.name());
                }
                let _ = reply.send(Ok(()));
                None
            }
            Done::Started { cell, outcome, reply } => self.on_started(&cell, outcome, reply),
        }
    }

    fn on_started(
        &mut self,
        cell: &Arc<Cell>,
        outcome: Result<(), ExitReason>,
        reply: Option<oneshot::Sender<Result<(), StartError>>>,
    ) -> Option<ExitReason> {
        let name = cell.name();
        let answer = |outcome: Result<(), ExitReason>| {
            if let Some(reply) = reply {
                let failed = |reason| StartError::Failed { child: name.clone(), reason };
                let _ = reply.send(outcome.map_err(failed));
                return true;
            }
            false
        };
        let mut named = self.live.named.lock();
        // Not in the table: it was terminated while it started, and whoever did that looks after it.
        if !named.by_id.contains_key(&cell.id()) {
            drop(named);
            answer(outcome);
            return None;
        }
        match outcome {
            Ok(()) => {
                if let Some(child) = named.children.get_mut(name) {
                    child.up();
                }
                drop(named);
                answer(Ok(()));
                None
            }
            Err(reason) => {
                named.by_id.remove(&cell.id());
                if let Some(child) = named.children.get_mut(name) {
                    child.ended(reason.clone());
                }
                drop(named);
                if answer(Err(reason)) {
                    self.forget(name);
                    return None;
                }
                self.restart(name)
            }
        }
    }

    fn on_end(&mut self, id: ActorId, reason: ExitReason) -> Option<ExitReason> {
        let (name, wanted) = {
            let mut named = self.live.named.lock();
            let name = named.by_id.get(&id)?.clone();
            let child = named.children.get_mut(&name)?;
            // A start that fails is reported as such; one that succeeded may be over before the report was read.
            if child.state == State::Starting && child.cell.as_ref().is_some_and(|cell| cell.flags() & UP == 0) {
                return None;
            }
            child.ended(reason.clone());
            let wanted = child.spec.restart_or(self.live.settings.restart).wants(&reason);
            named.by_id.remove(&id);
            (name, wanted)
        };
        self.live.around.emit(&name, Some(id), EventKind::Ended(reason.clone()));
        if !wanted {
            self.forget(&name);
            return None;
        }
        log::warn!("{}: {name} {id} ended: {reason}", self.live.around.supervisor);
        self.restart(&name)
    }

    /// Counts a restart and does it: now, after a back-off, or after a quarantine. `Some` is giving up.
    fn restart(&mut self, name: &Arc<str>) -> Option<ExitReason> {
        let now = Instant::now();
        let settings = &self.live.settings;
        let mut named = self.live.named.lock();
        let child = named.children.get_mut(name)?;
        let within_own = child.window.add(now);
        if settings.child_intensity.is_some() {
            if !within_own {
                let rest = settings.quarantine;
                child.state = State::Quarantined;
                let at = after(now, rest);
                child.due = Some(at);
                let reason = child.last_reason.clone().unwrap_or(ExitReason::Killed);
                drop(named);
                self.due.insert((at, name.clone()));
                self.tell_quarantine(name, &reason, rest);
                return None;
            }
        } else if !self.window.add(now) {
            let last = Box::new(child.last_reason.clone().unwrap_or(ExitReason::Killed));
            drop(named);
            let RestartIntensity { max_restarts, period } = settings.intensity;
            log::error!(
                "{}: more than {max_restarts} restarts in {period:?}, at last of {name}: {last}",
                self.live.around.supervisor
            );
            self.live.around.emit(name, None, EventKind::GaveUp);
            return Some(ExitReason::MaxRestarts { child: name.clone(), last });
        }
        let delay = child.next_delay();
        child.state = State::Restarting;
        let at = after(now, delay);
        child.due = Some(at);
        drop(named);
        self.live.around.emit(name, None, EventKind::Restarting(delay));
        self.due.insert((at, name.clone()));
        None
    }

    fn tell_quarantine(&self, name: &Arc<str>, reason: &ExitReason, rest: Duration) {
        log::error!("{}: {name} crashes too often and rests for {rest:?}: {reason}", self.live.around.supervisor);
        self.live.around.emit(name, None, EventKind::Quarantined(rest));
        if let Some(tell) = &self.live.settings.on_quarantine
            && let Err(panic) = guarded(|| tell(name, reason))
        {
            log::error!("on_quarantine of {} {panic}", self.live.around.supervisor);
        }
    }

    fn on_due(&mut self, at: Instant, name: &Arc<str>) {
        {
            let mut named = self.live.named.lock();
            let Some(child) = named.children.get_mut(name) else { return };
            // It may have been terminated and started anew, and be due at another time.
            if child.due.take_if(|due| *due == at).is_none() {
                return;
            }
            child.restarts += 1;
            if child.state == State::Quarantined {
                child.recover();
            }
        }
        self.start(name, None);
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.live.dissolve();
    }
}
