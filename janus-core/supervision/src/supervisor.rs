//! The supervisor: children in an order, one strategy, one restart intensity.
//!
//! Owns [`Supervisor`], [`SupervisorRef`] and the loop that is OTP's `supervisor.erl`. The loop is a sequential task,
//! not an actor: one await at a time, so that an ordered start or shutdown reads as what it is. It never waits for a
//! back-off; a child that is due later is a timer beside the mailbox.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{broadcast, oneshot};
use tokio::time::{Instant, sleep_until};

use crate::cell::{ASKED, Cell, Monitor, Parent, UP};
use crate::child::{Child, KILL_GRACE_DEFAULT, Mailbox, Surroundings, after, with_subtrees};
use crate::exit::{ActorId, Down, ExitReason};
use crate::place::Place;
use crate::run::{Begun, Birth, BoxError, Incarnation, TaskBody};
use crate::spec::{AutoShutdown, ChildSpec, Kind, Launch, Restart, Start, Strategy, TreeShared};
use crate::tree::{Event, EventKind, NodeKind, State, Tree};
use crate::window::{RestartIntensity, RestartWindow};

/// A supervisor that has not been started, or one to be started as a child of another.
///
/// ```
/// use std::time::Duration;
/// use janus_supervision::{Arbiter, ChildSpec, Restart, Strategy, Supervisor};
///
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
/// let arbiter = Arbiter::start("home")?;
/// let tree = Supervisor::new("root", Strategy::OneForOne)
///     .intensity(5, Duration::from_secs(60))
///     .child(ChildSpec::task("idle", || async { std::future::pending().await }).restart(Restart::Transient))
///     .start(&arbiter.place())
///     .await?;
/// assert!(tree.tree().find("idle").is_some_and(|idle| idle.id.is_some()));
/// tree.stop().await;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # }).unwrap();
/// ```
#[derive(Clone, Debug)]
pub struct Supervisor {
    plan: Plan,
    handle: SupervisorRef,
}

#[derive(Clone, Debug)]
struct Plan {
    strategy: Strategy,
    intensity: RestartIntensity,
    auto_shutdown: AutoShutdown,
    kill_grace: Duration,
    children: Vec<ChildSpec>,
}

impl Supervisor {
    /// A supervisor without children, with OTP's intensity of 1 restart in 5 seconds.
    pub fn new(name: impl Into<Arc<str>>, strategy: Strategy) -> Self {
        let plan = Plan {
            strategy,
            intensity: RestartIntensity::default(),
            auto_shutdown: AutoShutdown::Never,
            kill_grace: KILL_GRACE_DEFAULT,
            children: Vec::new(),
        };
        Self { plan, handle: SupervisorRef { shared: Arc::new(Shared { name: name.into(), live: Mutex::new(None) }) } }
    }

    /// How many restarts within `period` are allowed; with one more it stops its children and ends with
    /// [`ExitReason::MaxRestarts`].
    #[must_use]
    pub fn intensity(mut self, max_restarts: u32, period: Duration) -> Self {
        self.plan.intensity = RestartIntensity { max_restarts, period };
        self
    }

    /// Whether it ends with its significant children.
    #[must_use]
    pub fn auto_shutdown(mut self, auto_shutdown: AutoShutdown) -> Self {
        self.plan.auto_shutdown = auto_shutdown;
        self
    }

    /// How long a killed child has for its handler to return before it is abandoned. The default is 500 ms.
    #[must_use]
    pub fn kill_grace(mut self, grace: Duration) -> Self {
        self.plan.kill_grace = grace;
        self
    }

    /// Adds a child, which is started after and stopped before those added earlier.
    #[must_use]
    pub fn child(mut self, spec: ChildSpec) -> Self {
        self.plan.children.push(spec);
        self
    }

    /// Its name.
    pub fn name(&self) -> &Arc<str> {
        &self.handle.shared.name
    }

    /// Its handle, which works once it runs and, for a supervisor below another, after every restart.
    pub fn handle(&self) -> SupervisorRef {
        self.handle.clone()
    }

    /// Starts a tree: this supervisor and its children in order, each after the one before it is up.
    ///
    /// The supervisor's own loop runs at `place`, and so do children that name no other.
    ///
    /// # Errors
    ///
    /// [`StartError`]; the children that had been started have been stopped again.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, what has been started is killed.
    pub async fn start(self, place: &Place) -> Result<SupervisorRef, StartError> {
        if cfg!(panic = "abort") {
            log::warn!("built with panic = \"abort\": a panic ends the process and nothing can be restarted");
        }
        self.plan.validate()?;
        if self.occupant().is_some() {
            return Err(StartError::AlreadyStarted(self.name().clone()));
        }
        let tree = TreeShared::new();
        let cell = Cell::new(tree.next_id(), self.name().clone(), None);
        let mut unfinished = KillOnDrop(Some(cell.clone()));
        self.launch(Start { cell: cell.clone(), info: Default::default(), place: place.clone(), tree });
        cell.until(UP).await;
        unfinished.0 = None;
        if cell.flags() & UP != 0 {
            return Ok(self.handle);
        }
        let reason = cell.reason().unwrap_or(ExitReason::Killed);
        if reason == ExitReason::ArbiterDown {
            return Err(StartError::ArbiterDown);
        }
        Err(StartError::Failed { child: self.name().clone(), reason })
    }
}

/// What has been started is not to outlive the future that was to hand it over.
struct KillOnDrop(Option<Arc<Cell>>);

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        if let Some(cell) = &self.0 {
            cell.kill(ExitReason::Killed);
        }
    }
}

impl Plan {
    fn validate(&self) -> Result<(), StartError> {
        let mut names = std::collections::HashSet::new();
        for spec in &self.children {
            if !names.insert(&spec.name) {
                return Err(StartError::AlreadyPresent(spec.name.clone()));
            }
            self.validate_child(spec)?;
        }
        Ok(())
    }

    fn validate_child(&self, spec: &ChildSpec) -> Result<(), StartError> {
        if !spec.significant {
            return Ok(());
        }
        let why = if self.auto_shutdown == AutoShutdown::Never {
            "a significant child needs a supervisor that shuts down with it"
        } else if spec.restart_or(Restart::Permanent) == Restart::Permanent {
            "a permanent child cannot be significant"
        } else {
            return Ok(());
        };
        Err(StartError::Invalid { child: spec.name.clone(), why })
    }
}

/// Why a supervisor or a child could not be started.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The supervisor does not run, or ended before it got to the request.
    #[error("the supervisor is not running")]
    NotRunning,
    /// The arbiter is down.
    #[error("the arbiter is down")]
    ArbiterDown,
    /// A child of this name runs already, or is about to.
    #[error("{0} is already started")]
    AlreadyStarted(Arc<str>),
    /// A child of this name is known, but does not run: use [`SupervisorRef::restart_child`].
    #[error("{0} is already present")]
    AlreadyPresent(Arc<str>),
    /// The spec contradicts its supervisor: a mistake in the code that made it.
    #[error("{child}: {why}")]
    Invalid {
        /// The child.
        child: Arc<str>,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The child's own start failed, by error, panic or timeout.
    #[error("{child}: {reason}")]
    Failed {
        /// The child.
        child: Arc<str>,
        /// Why.
        reason: ExitReason,
    },
    /// The dynamic supervisor has as many children as it may.
    #[error("the supervisor has {0} children, its limit")]
    TooManyChildren(usize),
}

/// Why a command about a child was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ChildError {
    /// The supervisor does not run, or ended before it got to the command.
    #[error("the supervisor is not running")]
    NotRunning,
    /// There is no such child.
    #[error("no such child")]
    NotFound,
    /// It runs: terminate it first.
    #[error("the child is running")]
    Running,
    /// It is waiting for its next start: terminate it first.
    #[error("the child is restarting")]
    Restarting,
    /// It could not be started.
    #[error(transparent)]
    Start(#[from] StartError),
}

/// A handle to a supervisor, in use from any thread.
#[derive(Clone)]
pub struct SupervisorRef {
    shared: Arc<Shared>,
}

/// A [`SupervisorRef`] that does not keep the supervisor's specs in memory: for what those specs themselves hold, such as
/// the factory of a child that may end its own tree.
#[derive(Clone)]
pub struct WeakSupervisorRef {
    name: Arc<str>,
    shared: Weak<Shared>,
}

impl WeakSupervisorRef {
    /// The supervisor, unless it has ended and the last handle to it is gone.
    pub fn upgrade(&self) -> Option<SupervisorRef> {
        Some(SupervisorRef { shared: self.shared.upgrade()? })
    }
}

impl fmt::Debug for WeakSupervisorRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("WeakSupervisorRef").field(&self.name).finish()
    }
}

struct Shared {
    name: Arc<str>,
    live: Mutex<Option<Arc<Live>>>,
}

impl SupervisorRef {
    /// A handle that keeps nothing in memory.
    pub fn downgrade(&self) -> WeakSupervisorRef {
        WeakSupervisorRef { name: self.shared.name.clone(), shared: Arc::downgrade(&self.shared) }
    }

    /// Its name.
    pub fn name(&self) -> &Arc<str> {
        &self.shared.name
    }

    /// The incarnation that runs at the moment.
    pub fn id(&self) -> Option<ActorId> {
        self.running().map(|live| live.cell.id())
    }

    /// Adds a child and starts it after all others.
    ///
    /// # Errors
    ///
    /// [`StartError`]; the supervisor does not keep a child that could not be started.
    ///
    /// # Cancel safety
    ///
    /// Once polled, the child may be started although the future is dropped. This holds for every command.
    pub async fn start_child(&self, spec: ChildSpec) -> Result<(), StartError> {
        self.command(|reply| Mail::Start { spec: Box::new(spec), reply }).await.unwrap_or(Err(StartError::NotRunning))
    }

    /// Stops a child. It stays known and can be started again, unless it is temporary.
    ///
    /// # Errors
    ///
    /// [`ChildError`]. A child that does not run is no error.
    pub async fn terminate_child(&self, name: &str) -> Result<(), ChildError> {
        let name = name.into();
        self.command(|reply| Mail::Terminate { name, reply }).await.unwrap_or(Err(ChildError::NotRunning))
    }

    /// Starts a child that is known and does not run.
    ///
    /// # Errors
    ///
    /// [`ChildError`].
    pub async fn restart_child(&self, name: &str) -> Result<(), ChildError> {
        let name = name.into();
        self.command(|reply| Mail::Restart { name, reply }).await.unwrap_or(Err(ChildError::NotRunning))
    }

    /// Forgets a child that does not run.
    ///
    /// # Errors
    ///
    /// [`ChildError`].
    pub async fn delete_child(&self, name: &str) -> Result<(), ChildError> {
        let name = name.into();
        self.command(|reply| Mail::Delete { name, reply }).await.unwrap_or(Err(ChildError::NotRunning))
    }

    /// The children, once the supervisor has dealt with every end of a child it knows of.
    ///
    /// # Errors
    ///
    /// [`NotRunning`](ChildError::NotRunning).
    pub async fn which_children(&self) -> Result<Vec<Tree>, ChildError> {
        self.command(|reply| Mail::Which { reply }).await.ok_or(ChildError::NotRunning)
    }

    async fn command<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Mail) -> Option<T> {
        let live = self.running()?;
        let (reply, answer) = oneshot::channel();
        live.mailbox.send(command(reply)).await;
        // If the mail was refused or dropped, so was the other end of this.
        answer.await.ok()
    }

    /// The supervisor and everything below it, as it is now. It asks nobody, so nothing that hangs can hold it up.
    pub fn tree(&self) -> Tree {
        let live = self.shared.live.lock().clone();
        match live {
            Some(live) => live.node(),
            None => Tree::stopped(&self.shared.name, NodeKind::Supervisor),
        }
    }

    /// The name of an incarnation in this tree. Numbered children go by the name of their supervisor.
    pub fn name_of(&self, id: ActorId) -> Option<Arc<str>> {
        let live = self.shared.live.lock().clone()?;
        live.find(id)
    }

    /// Stops the children in reverse order, each within its shutdown timeout, then the supervisor; returns when that is
    /// done. May be called by several at once, and again.
    ///
    /// # Cancel safety
    ///
    /// The shutdown goes on if the future is dropped.
    pub async fn stop(&self) {
        if let Some(live) = self.running() {
            live.cell.stop();
            live.cell.until_ended().await;
        }
    }

    /// Kills the supervisor, and with it everything below it, without asking.
    pub fn kill(&self) {
        if let Some(live) = self.running() {
            live.cell.kill(ExitReason::Killed);
        }
    }

    /// Waits for the end of the supervisor and returns the reason. Everybody who waits is told, also later on.
    pub async fn wait(&self) -> ExitReason {
        let live = self.shared.live.lock().clone();
        let Some(live) = live else { return ExitReason::NotRunning };
        live.cell.until_ended().await;
        live.cell.reason().unwrap_or(ExitReason::Killed)
    }

    /// Calls `tell` when the incarnation that runs now has ended; as [`ActorRef::monitor`](crate::ActorRef::monitor).
    pub fn monitor(&self, tell: impl FnOnce(Down) + Send + 'static) -> Monitor {
        match self.running() {
            Some(live) => Monitor::of(&live.cell, tell),
            None => Monitor::told(&self.shared.name, tell),
        }
    }

    /// What happens from now on in the whole tree that this supervisor is part of.
    ///
    /// At most 256 events wait for a subscriber; one that is slower is told how many it missed, and nobody waits for it.
    ///
    /// # Errors
    ///
    /// [`NotRunning`](ChildError::NotRunning).
    pub fn subscribe(&self) -> Result<broadcast::Receiver<Event>, ChildError> {
        self.running().map(|live| live.around.tree.subscribe()).ok_or(ChildError::NotRunning)
    }

    fn running(&self) -> Option<Arc<Live>> {
        self.shared.live.lock().clone().filter(|live| !live.cell.has_ended())
    }
}

impl fmt::Debug for SupervisorRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SupervisorRef").field(&self.shared.name).finish()
    }
}

impl Launch for Supervisor {
    fn kind(&self) -> Kind {
        Kind::Supervisor
    }

    fn launch(&self, Start { cell, place, tree, .. }: Start) {
        let around = Surroundings {
            supervisor: self.name().clone(),
            tree,
            place: place.clone(),
            kill_grace: self.plan.kill_grace,
        };
        let live =
            Arc::new(Live { cell: cell.clone(), around, mailbox: Mailbox::new(), table: Mutex::new(Table::default()) });
        let previous = self.handle.shared.live.lock().replace(live.clone());
        // Without the lock: what the factories of its children have captured may look at the tree when it is dropped.
        drop(previous);
        let plan = self.plan.clone();
        let birth = Birth::new(cell);
        // Made here, so that nobody waits for one that gets lost on the way.
        let keeper = Keeper { window: RestartWindow::new(plan.intensity), plan, live, due: BTreeSet::new() };
        let _ = place.run(move || {
            let Some(cell) = birth.arrive() else { return };
            let body = TaskBody::new(Box::pin(keeper.supervise()), Begun::ByItself);
            tokio::task::spawn_local(Incarnation::new(body, cell));
        });
    }

    fn occupant(&self) -> Option<Arc<Cell>> {
        self.handle.running().map(|live| live.cell.clone())
    }

    fn abandon(&self, cell: &Cell) {
        let live = self.handle.shared.live.lock().clone();
        if let Some(live) = live.filter(|live| std::ptr::eq(&*live.cell, cell)) {
            live.dissolve();
        }
    }

    fn subtree(&self) -> Option<Tree> {
        Some(self.handle.tree())
    }

    fn find(&self, id: ActorId) -> Option<Arc<str>> {
        self.handle.name_of(id)
    }
}

/// One incarnation of a supervisor, as far as it is shared with its handles and its children.
struct Live {
    cell: Arc<Cell>,
    around: Surroundings,
    mailbox: Mailbox<Mail>,
    // Locked for moments only, never across an await and never while another supervisor is asked.
    table: Mutex<Table>,
}

/// The place of a child in the order of starts.
type Seq = u64;

#[derive(Default)]
struct Table {
    next: Seq,
    children: BTreeMap<Seq, Child>,
    by_name: HashMap<Arc<str>, Seq>,
    // Holds the current incarnations only, which is how the end of an earlier one is known to be stale.
    by_id: HashMap<ActorId, Seq>,
}

impl Table {
    fn insert(&mut self, child: Child) -> Seq {
        let seq = self.next;
        self.next += 1;
        self.by_name.insert(child.spec.name.clone(), seq);
        self.children.insert(seq, child);
        seq
    }

    fn remove(&mut self, seq: Seq) -> Option<Child> {
        let child = self.children.remove(&seq)?;
        self.by_name.remove(&child.spec.name);
        Some(child)
    }
}

impl Parent for Live {
    fn child_ended(&self, cell: &Cell, reason: &ExitReason) {
        self.mailbox.push(Mail::Ended(cell.id(), reason.clone()));
    }
}

impl Live {
    /// Takes no more mail and kills whoever still runs.
    ///
    /// After an orderly end nobody does. A supervisor that was killed, whose arbiter is gone or that hangs takes its
    /// children along: that is the link between them.
    fn dissolve(&self) {
        self.mailbox.close();
        let orphans: Vec<Arc<Cell>> = {
            let mut table = self.table.lock();
            table.by_id.clear();
            let running = table.children.values_mut().rev().filter_map(|child| {
                child.state = State::Stopped;
                child.cell.take()
            });
            running.collect()
        };
        for cell in orphans {
            cell.kill(ExitReason::Killed);
        }
    }

    fn node(&self) -> Tree {
        let children =
            self.table.lock().children.values().map(|child| (child.node(), child.spec.launch.clone())).collect();
        Tree::of(&self.cell, NodeKind::Supervisor, with_subtrees(children), 0)
    }

    fn find(&self, id: ActorId) -> Option<Arc<str>> {
        if self.cell.id() == id {
            return Some(self.cell.name().clone());
        }
        let below: Vec<Arc<dyn Launch>> = {
            let table = self.table.lock();
            if let Some(child) = table.by_id.get(&id).and_then(|seq| table.children.get(seq)) {
                return Some(child.spec.name.clone());
            }
            let supervisors = table.children.values().filter(|child| child.spec.launch.kind() == Kind::Supervisor);
            supervisors.map(|child| child.spec.launch.clone()).collect()
        };
        below.iter().find_map(|launch| launch.find(id))
    }
}

enum Mail {
    Ended(ActorId, ExitReason),
    /// A note to itself: start this child, unless it is not due at this time any more.
    Due(Instant, Seq),
    /// A note to itself: try again to start this child, which has failed to start.
    Retry(Seq),
    Start {
        spec: Box<ChildSpec>,
        reply: oneshot::Sender<Result<(), StartError>>,
    },
    Terminate {
        name: Arc<str>,
        reply: oneshot::Sender<Result<(), ChildError>>,
    },
    Restart {
        name: Arc<str>,
        reply: oneshot::Sender<Result<(), ChildError>>,
    },
    Delete {
        name: Arc<str>,
        reply: oneshot::Sender<Result<(), ChildError>>,
    },
    Which {
        reply: oneshot::Sender<Vec<Tree>>,
    },
}

/// The loop of a supervisor.
struct Keeper {
    plan: Plan,
    live: Arc<Live>,
    window: RestartWindow,
    // Mirrors `Child::due` where that lies ahead; entries that no longer do are skipped when they come up.
    due: BTreeSet<(Instant, Seq)>,
}

impl Keeper {
    async fn supervise(mut self) -> Result<(), BoxError> {
        let cell = self.live.cell.clone();
        cell.trap_stop();
        let mut stop = Box::pin(cell.until(ASKED));
        let reason = match self.start_all().await {
            Err(failed) => Some(ExitReason::StartFailed(failed.to_string().into())),
            Ok(()) => {
                cell.begun();
                self.serve(&mut stop).await
            }
        };
        self.stop_all().await;
        if let Some(reason) = reason {
            cell.ask_exit(reason);
        }
        Ok(())
    }

    /// Until it is asked to stop, which is `None`, or has a reason of its own.
    async fn serve(&mut self, stop: &mut Pin<Box<impl Future<Output = ()>>>) -> Option<ExitReason> {
        loop {
            let due = self.due.first().copied();
            let timer = async {
                match due {
                    Some((at, _)) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            let mail = tokio::select! {
                biased;
                () = &mut *stop => return None,
                () = timer => {
                    let (at, seq) = self.due.pop_first().expect("the timer is that of the first entry");
                    Mail::Due(at, seq)
                }
                mail = self.live.mailbox.next() => mail,
            };
            let done = self.on_mail(mail).await;
            if done.is_some() {
                return done;
            }
        }
    }

    async fn on_mail(&mut self, mail: Mail) -> Option<ExitReason> {
        // Whoever sent a command may be gone, which is no reason not to have done it.
        match mail {
            Mail::Ended(id, reason) => return self.on_end(id, reason).await,
            Mail::Due(at, seq) => self.on_due(at, seq).await,
            Mail::Retry(seq) => return self.on_retry(seq).await,
            Mail::Start { spec, reply } => {
                let _ = reply.send(self.add(*spec).await);
            }
            Mail::Terminate { name, reply } => {
                let _ = reply.send(self.terminate(&name).await);
            }
            Mail::Restart { name, reply } => {
                let _ = reply.send(self.restart_stopped(&name).await);
            }
            Mail::Delete { name, reply } => {
                let _ = reply.send(self.idle(&name).map(|seq| self.forget(seq)));
            }
            Mail::Which { reply } => {
                let _ = reply.send(self.live.node().children);
            }
        }
        None
    }

    fn is_asked(&self) -> bool {
        self.live.cell.flags() & ASKED != 0
    }

    async fn start_all(&mut self) -> Result<(), StartError> {
        self.plan.validate()?;
        let specs = std::mem::take(&mut self.plan.children);
        for spec in specs {
            let child = spec.name.clone();
            let seq = self.live.table.lock().insert(Child::new(spec, self.plan.intensity));
            self.start(seq).await.map_err(|reason| StartError::Failed { child, reason })?;
        }
        Ok(())
    }

    async fn stop_all(&mut self) {
        let all: Vec<Seq> = self.live.table.lock().children.keys().copied().collect();
        for seq in all.into_iter().rev() {
            self.stop(seq).await;
        }
    }

    async fn on_end(&mut self, id: ActorId, reason: ExitReason) -> Option<ExitReason> {
        let (seq, spec) = {
            let mut table = self.live.table.lock();
            let seq = table.by_id.remove(&id)?;
            let child = table.children.get_mut(&seq)?;
            child.ended(reason.clone());
            (seq, child.spec.clone())
        };
        self.live.around.emit(&spec.name, Some(id), EventKind::Ended(reason.clone()));
        let restart = spec.restart_or(Restart::Permanent);
        if restart.wants(&reason) {
            log::warn!("{}: {} {id} ended: {reason}", self.live.cell.name(), spec.name);
            return self.restart(seq).await;
        }
        if spec.is_temporary() {
            self.forget(seq);
        }
        (spec.significant && self.ends_with_significant()).then_some(ExitReason::Shutdown)
    }

    fn ends_with_significant(&self) -> bool {
        match self.plan.auto_shutdown {
            AutoShutdown::Never => false,
            AutoShutdown::AnySignificant => true,
            AutoShutdown::AllSignificant => {
                let table = self.live.table.lock();
                !table.children.values().any(|child| child.spec.significant && child.state != State::Stopped)
            }
        }
    }

    /// Counts a restart of `seq`, which has ended or could not be started, and restarts what the strategy says: now, or
    /// after the delay of its back-off. `Some` is giving up.
    async fn restart(&mut self, seq: Seq) -> Option<ExitReason> {
        if self.is_asked() {
            return None;
        }
        let now = Instant::now();
        let delay = {
            let mut table = self.live.table.lock();
            let child = table.children.get_mut(&seq)?;
            child.window.add(now);
            if !self.window.add(now) {
                let (name, last) = (child.spec.name.clone(), child.last_reason.clone());
                drop(table);
                return Some(self.give_up(name, last));
            }
            child.state = State::Restarting;
            child.next_delay()
        };
        self.stop_others(seq).await;
        if delay.is_zero() {
            self.start_or_retry(seq).await;
            return None;
        }
        let at = after(now, delay);
        if let Some(child) = self.live.table.lock().children.get_mut(&seq) {
            child.due = Some(at);
            self.live.around.emit(&child.spec.name, None, EventKind::Restarting(delay));
        }
        self.due.insert((at, seq));
        None
    }

    /// Starts `seq` and what is restarted along with it. A child that cannot be started is tried again in its turn: the
    /// retry is mail behind what is there already, as in OTP, and counts as a restart when it is handled. So other deaths,
    /// commands and a stop come between two attempts, and a retry that a sibling's restart makes needless costs nothing.
    async fn start_or_retry(&mut self, seq: Seq) {
        let Err(failed) = self.start_range(seq).await else { return };
        let mut table = self.live.table.lock();
        let Some(child) = table.children.get_mut(&failed) else { return };
        child.state = State::Restarting;
        if child.spec.backoff.is_none() {
            self.live.around.emit(&child.spec.name, None, EventKind::Restarting(Duration::ZERO));
        }
        drop(table);
        self.live.mailbox.push(Mail::Retry(failed));
    }

    fn give_up(&self, child: Arc<str>, last: Option<ExitReason>) -> ExitReason {
        let last = last.unwrap_or(ExitReason::Killed);
        let RestartIntensity { max_restarts, period } = self.plan.intensity;
        log::error!(
            "{}: more than {max_restarts} restarts in {period:?}, at last of {child}: {last}",
            self.live.cell.name()
        );
        self.live.around.emit(&child, None, EventKind::GaveUp);
        ExitReason::MaxRestarts { child, last: Box::new(last) }
    }

    /// Starts a child whose delay is over; its restart has been counted.
    async fn on_due(&mut self, at: Instant, seq: Seq) {
        {
            let mut table = self.live.table.lock();
            let Some(child) = table.children.get_mut(&seq) else { return };
            // A sibling's restart may have started it, a command stopped it, or another death given it another time.
            if child.due.take_if(|due| *due == at).is_none() {
                return;
            }
        }
        // A command may have started a sibling since the others were stopped.
        self.stop_others(seq).await;
        self.start_or_retry(seq).await;
    }

    /// Tries again to start a child that could not be started, unless it has been started or stopped since.
    async fn on_retry(&mut self, seq: Seq) -> Option<ExitReason> {
        let waits = {
            let table = self.live.table.lock();
            table.children.get(&seq).is_some_and(|child| child.state == State::Restarting && child.due.is_none())
        };
        if waits { self.restart(seq).await } else { None }
    }

    /// The children that are restarted along with `seq`, itself included, in the order of their start.
    fn range(&self, seq: Seq) -> Vec<Seq> {
        let table = self.live.table.lock();
        match self.plan.strategy {
            Strategy::OneForOne => vec![seq],
            Strategy::OneForAll => table.children.keys().copied().collect(),
            Strategy::RestForOne => table.children.range(seq..).map(|(seq, _)| *seq).collect(),
        }
    }

    /// Stops those that are restarted along with `seq`, last one first. Temporary ones are forgotten.
    async fn stop_others(&mut self, seq: Seq) {
        for other in self.range(seq).into_iter().rev().filter(|other| *other != seq) {
            self.stop(other).await;
            self.forget_temporary(other);
        }
    }

    /// Starts `seq` and what is restarted along with it. An error is the child that could not be started.
    async fn start_range(&mut self, seq: Seq) -> Result<(), Seq> {
        for seq in self.range(seq) {
            if let Some(child) = self.live.table.lock().children.get_mut(&seq) {
                child.restarts += 1;
            }
            self.start(seq).await.map_err(|_| seq)?;
        }
        Ok(())
    }

    async fn start(&mut self, seq: Seq) -> Result<(), ExitReason> {
        let around = &self.live.around;
        let (spec, cell, info) = {
            let mut table = self.live.table.lock();
            let Table { children, by_id, .. } = &mut *table;
            let child = children.get_mut(&seq).expect("a child is removed only by the loop that starts it");
            let parent: Weak<dyn Parent> = Arc::downgrade(&self.live) as Weak<dyn Parent>;
            let cell = Cell::new(around.tree.next_id(), child.spec.name.clone(), Some(parent));
            let info = child.info();
            child.starting(&cell);
            by_id.insert(cell.id(), seq);
            (child.spec.clone(), cell, info)
        };
        let outcome = around.bring_up(&spec, &cell, info, self.live.cell.until(ASKED)).await;
        let mut table = self.live.table.lock();
        if outcome.is_err() {
            table.by_id.remove(&cell.id());
        }
        let child = table.children.get_mut(&seq).expect("a child is removed only by the loop that starts it");
        match &outcome {
            Ok(()) => child.up(),
            Err(reason) => child.ended(reason.clone()),
        }
        outcome
    }

    /// Stops a child and keeps its place. Nothing happens to one that does not run, but that it stays so.
    async fn stop(&mut self, seq: Seq) {
        let (spec, cell) = {
            let mut table = self.live.table.lock();
            let Some(child) = table.children.get_mut(&seq) else { return };
            child.due = None;
            let Some(cell) = child.cell.clone() else {
                child.state = State::Stopped;
                return;
            };
            child.state = State::Stopping;
            let spec = child.spec.clone();
            table.by_id.remove(&cell.id());
            (spec, cell)
        };
        let reason = self.live.around.take_down(&spec, &cell, spec.shutdown_or(None)).await;
        if let Some(child) = self.live.table.lock().children.get_mut(&seq) {
            child.ended(reason);
        }
    }

    async fn add(&mut self, spec: ChildSpec) -> Result<(), StartError> {
        let child = spec.name.clone();
        match self.idle(&child) {
            Ok(_) => return Err(StartError::AlreadyPresent(child)),
            Err(ChildError::NotFound) => {}
            Err(_) => return Err(StartError::AlreadyStarted(child)),
        }
        self.plan.validate_child(&spec)?;
        let seq = self.live.table.lock().insert(Child::new(spec, self.plan.intensity));
        let outcome = self.start(seq).await;
        if outcome.is_err() {
            self.forget(seq);
        }
        outcome.map_err(|reason| StartError::Failed { child, reason })
    }

    async fn terminate(&mut self, name: &str) -> Result<(), ChildError> {
        let seq = *self.live.table.lock().by_name.get(name).ok_or(ChildError::NotFound)?;
        self.stop(seq).await;
        self.forget_temporary(seq);
        Ok(())
    }

    async fn restart_stopped(&mut self, name: &Arc<str>) -> Result<(), ChildError> {
        let seq = self.idle(name)?;
        let outcome = self.start(seq).await;
        outcome.map_err(|reason| StartError::Failed { child: name.clone(), reason }.into())
    }

    fn forget_temporary(&self, seq: Seq) {
        let temporary = self.live.table.lock().children.get(&seq).is_some_and(|child| child.spec.is_temporary());
        if temporary {
            self.forget(seq);
        }
    }

    fn forget(&self, seq: Seq) {
        let removed = self.live.table.lock().remove(seq);
        // Without the lock: what a factory has captured may look at the tree when it is dropped.
        drop(removed);
    }

    /// The child of this name if it is stopped for good.
    fn idle(&self, name: &str) -> Result<Seq, ChildError> {
        let table = self.live.table.lock();
        let seq = *table.by_name.get(name).ok_or(ChildError::NotFound)?;
        match table.children.get(&seq).map(|child| child.state) {
            Some(State::Stopped) => Ok(seq),
            Some(State::Restarting) => Err(ChildError::Restarting),
            Some(_) => Err(ChildError::Running),
            None => Err(ChildError::NotFound),
        }
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.live.dissolve();
    }
}
