//! The identity of an incarnation, shared by the code that runs the incarnation and by all watchers.
//!
//! Owns the requests to an incarnation (stop, kill, a sign of life), the exit reason, and the list of watchers to tell:
//! the parent first, then monitors. Knows no actor type and runs no actor; `run.rs` does.
//!
//! There is a cell for each of tens of thousands of connections. So whatever most incarnations never have lies in a box
//! of its own, and siblings share what they have in common.

use std::any::Any;
use std::cell::RefCell;
use std::fmt;
use std::future::Future;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Weak};

use futures_util::task::AtomicWaker;
use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::exit::{ActorId, Down, ExitReason, guarded};

/// A stop was requested and not yet handed to the actor.
pub(crate) const STOP: u16 = 1;
/// The incarnation is to end after the current poll, without running more code.
pub(crate) const KILL: u16 = 2;
/// The start is complete.
pub(crate) const UP: u16 = 4;
/// A caller waits for the end of the current poll.
pub(crate) const PROBE: u16 = 8;
/// A task waits for stop requests itself, and so is not dropped at a stop request.
pub(crate) const TRAP: u16 = 16;
/// The incarnation has ended and the reason is known.
pub(crate) const ENDED: u16 = 32;
/// A stop was requested at some time, whether or not the request has been handed over.
pub(crate) const ASKED: u16 = 64;
/// The address of a dormant actor was asked for, and the actor has not woken up yet.
const CALLED: u16 = 128;
/// `started` has run.
const BEGUN: u16 = 256;

/// The supervisor of an incarnation, told first about the end.
pub(crate) trait Parent: Send + Sync {
    /// Called once per incarnation, on the thread where the incarnation ended. Must not block.
    fn child_ended(&self, cell: &Cell, reason: &ExitReason);
}

/// What an incarnation has in common with its siblings, if they have no names of their own.
pub(crate) struct Kin {
    pub(crate) name: Arc<str>,
    pub(crate) parent: Option<Weak<dyn Parent>>,
}

pub(crate) struct Cell {
    id: ActorId,
    kin: Arc<Kin>,
    // Changed under the lock of `life`, read without it.
    flags: AtomicU16,
    waker: AtomicWaker,
    life: Mutex<Life>,
}

/// The part of an incarnation's state that changes under the lock.
#[derive(Default)]
struct Life {
    rare: Option<Box<Rare>>,
}

/// What most of 19,000 connections do not have: watchers, and a reason to end with.
#[derive(Default)]
struct Rare {
    /// The reason of the end, with the flag `ENDED`.
    ended: Option<ExitReason>,
    asked: Option<ExitReason>,
    /// Initialisations that hold back the flag `UP`.
    deferred: u32,
    monitors: Monitors,
    waiters: Vec<Waiter>,
    letterbox: Option<Letterbox>,
}

/// The mailbox of a dormant actor, of a type that the cell does not know.
pub(crate) type Letterbox = Box<dyn Any + Send>;

impl Life {
    /// `None` after the end.
    fn rare(&mut self) -> Option<&mut Rare> {
        let rare = self.rare.get_or_insert_default();
        rare.ended.is_none().then_some(rare)
    }

    /// `None` after the end, and for an incarnation without anything rare.
    fn rare_if_any(&mut self) -> Option<&mut Rare> {
        self.rare.as_deref_mut().filter(|rare| rare.ended.is_none())
    }

    fn ended(&self) -> Option<&ExitReason> {
        self.rare.as_ref()?.ended.as_ref()
    }
}

/// A caller that waits for any of the flags `on`. Dropping the sender is the message.
struct Waiter {
    on: u16,
    waiting: oneshot::Sender<()>,
}

type Tell = Box<dyn FnOnce(Down) + Send>;

/// The monitors of an incarnation, added and removed in constant time: a popular actor may have thousands of monitors,
/// all of which may be dropped at the same moment.
#[derive(Default)]
struct Monitors {
    entries: Vec<Entry>,
    // The head of the list of free entries.
    free: Option<u32>,
}

enum Entry {
    // The key stays valid until the monitor is removed, since no other monitor can get the key before.
    Taken(Tell),
    Free { next: Option<u32> },
}

impl Monitors {
    fn add(&mut self, tell: Tell) -> u32 {
        let Some(key) = self.free else {
            self.entries.push(Entry::Taken(tell));
            return u32::try_from(self.entries.len() - 1).expect("memory ends before four billion monitors do");
        };
        if let Entry::Free { next } = std::mem::replace(&mut self.entries[key as usize], Entry::Taken(tell)) {
            self.free = next;
        }
        key
    }

    fn remove(&mut self, key: u32) -> Option<Tell> {
        let freed = Entry::Free { next: self.free };
        match std::mem::replace(self.entries.get_mut(key as usize)?, freed) {
            Entry::Taken(tell) => {
                self.free = Some(key);
                Some(tell)
            }
            free => {
                self.entries[key as usize] = free;
                None
            }
        }
    }

    fn into_tells(self) -> impl Iterator<Item = Tell> {
        self.entries.into_iter().filter_map(|entry| match entry {
            Entry::Taken(tell) => Some(tell),
            Entry::Free { .. } => None,
        })
    }
}

impl Cell {
    pub(crate) fn new(id: ActorId, name: Arc<str>, parent: Option<Weak<dyn Parent>>) -> Arc<Self> {
        Self::with_flags(id, Arc::new(Kin { name, parent }), 0)
    }

    /// For children with a start that no caller waits for.
    pub(crate) fn new_up(id: ActorId, kin: &Arc<Kin>) -> Arc<Self> {
        Self::with_flags(id, Arc::clone(kin), UP)
    }

    fn with_flags(id: ActorId, kin: Arc<Kin>, flags: u16) -> Arc<Self> {
        Arc::new(Self { id, kin, flags: AtomicU16::new(flags), waker: AtomicWaker::new(), life: Mutex::default() })
    }

    pub(crate) fn id(&self) -> ActorId {
        self.id
    }

    pub(crate) fn id_ref(&self) -> &ActorId {
        &self.id
    }

    pub(crate) fn name(&self) -> &Arc<str> {
        &self.kin.name
    }

    pub(crate) fn flags(&self) -> u16 {
        self.flags.load(Ordering::Acquire)
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.flags() & ENDED != 0
    }

    pub(crate) fn is_up(&self) -> bool {
        self.flags() & (UP | ENDED) == UP
    }

    /// The exit reason, once the incarnation has ended.
    pub(crate) fn reason(&self) -> Option<ExitReason> {
        self.life.lock().ended().cloned()
    }

    pub(crate) fn register_waker(&self, waker: &std::task::Waker) {
        self.waker.register(waker);
    }

    /// Requests a stop, with reason `Shutdown` unless the incarnation has named another.
    pub(crate) fn stop(&self) {
        let released = {
            let mut life = self.life.lock();
            if let Some(rare) = life.rare() {
                rare.asked.get_or_insert(ExitReason::Shutdown);
            }
            self.raise(&mut life, STOP | ASKED)
        };
        drop(released);
        self.waker.wake();
    }

    /// Ends the incarnation with `reason` as soon as its thread is free. None of its code runs again but `Drop`.
    pub(crate) fn kill(&self, reason: ExitReason) {
        let released = {
            let mut life = self.life.lock();
            if self.flags() & KILL == 0
                && let Some(rare) = life.rare()
            {
                rare.asked = Some(reason);
            }
            self.raise(&mut life, KILL)
        };
        drop(released);
        self.waker.wake();
    }

    /// Sets the reason that the running code names for its own end. A kill that came first stands.
    pub(crate) fn ask_exit(&self, reason: ExitReason) {
        let mut life = self.life.lock();
        if self.flags() & KILL == 0
            && let Some(rare) = life.rare()
        {
            rare.asked = Some(reason);
        }
    }

    /// Takes the stop request, so that each request asks the actor once.
    pub(crate) fn take_stop(&self) -> bool {
        let _life = self.life.lock();
        self.flags.fetch_and(!STOP, Ordering::AcqRel) & STOP != 0
    }

    pub(crate) fn trap_stop(&self) {
        let _life = self.life.lock();
        self.flags.fetch_or(TRAP, Ordering::AcqRel);
    }

    /// The requested exit reason, if any.
    pub(crate) fn take_asked(&self) -> Option<ExitReason> {
        self.life.lock().rare_if_any()?.asked.take()
    }

    /// Looks at the place for the mailbox of a dormant actor; `None` after the end.
    pub(crate) fn with_letterbox<T>(&self, look: impl FnOnce(&mut Option<Letterbox>) -> T) -> Option<T> {
        Some(look(&mut self.life.lock().rare()?.letterbox))
    }

    /// Wakes a dormant actor: its address was asked for.
    pub(crate) fn call(&self) {
        {
            let _life = self.life.lock();
            self.flags.fetch_or(CALLED, Ordering::AcqRel);
        }
        self.waker.wake();
    }

    /// Takes the [call](Self::call).
    pub(crate) fn take_call(&self) -> bool {
        if self.flags() & CALLED == 0 {
            return false;
        }
        let _life = self.life.lock();
        self.flags.fetch_and(!CALLED, Ordering::AcqRel) & CALLED != 0
    }

    /// Notes that `started` has run. The incarnation is up unless initialisation was deferred.
    pub(crate) fn begun(&self) {
        self.settle_init(|_| {
            self.flags.fetch_or(BEGUN, Ordering::AcqRel);
        });
    }

    fn defer_init(&self) {
        if let Some(rare) = self.life.lock().rare() {
            rare.deferred += 1;
        }
    }

    fn init_done(&self) {
        self.settle_init(|life| {
            if let Some(rare) = life.rare_if_any() {
                rare.deferred = rare.deferred.saturating_sub(1);
            }
        });
    }

    fn settle_init(&self, change: impl FnOnce(&mut Life)) {
        let released = {
            let mut life = self.life.lock();
            if life.ended().is_some() {
                return;
            }
            change(&mut life);
            let is_deferred = life.rare_if_any().is_some_and(|rare| rare.deferred > 0);
            if is_deferred || self.flags() & BEGUN == 0 || self.flags() & (UP | KILL) != 0 {
                return;
            }
            self.raise(&mut life, UP)
        };
        drop(released);
    }

    /// Called at the end of every poll: answers all callers that wait for a sign of life.
    pub(crate) fn answer_probes(&self) {
        if self.flags() & PROBE == 0 {
            return;
        }
        let released = {
            let mut life = self.life.lock();
            let released = self.raise(&mut life, PROBE);
            self.flags.fetch_and(!PROBE, Ordering::AcqRel);
            released
        };
        drop(released);
    }

    /// Resolves at the end of the current poll, or of the next poll if none is running, or of the incarnation.
    pub(crate) async fn probe(&self) {
        let wait = {
            let mut life = self.life.lock();
            let wait = self.wait_in(&mut life, PROBE);
            self.flags.fetch_or(PROBE, Ordering::AcqRel);
            wait
        };
        self.waker.wake();
        if let Some(wait) = wait {
            let _ = wait.await;
        }
    }

    /// Resolves when any of the flags `on` is set, or the incarnation has ended.
    pub(crate) fn until(&self, on: u16) -> impl Future<Output = ()> + Send + use<> {
        let wait = {
            let mut life = self.life.lock();
            if self.flags() & on != 0 { None } else { self.wait_in(&mut life, on) }
        };
        async move {
            if let Some(wait) = wait {
                let _ = wait.await;
            }
        }
    }

    pub(crate) fn until_ended(&self) -> impl Future<Output = ()> + Send + use<> {
        self.until(ENDED)
    }

    fn wait_in(&self, life: &mut Life, on: u16) -> Option<oneshot::Receiver<()>> {
        let waiters = &mut life.rare()?.waiters;
        // Closed waiters are removed here, so that calls which time out leave nothing behind.
        waiters.retain(|waiter| !waiter.waiting.is_closed());
        let (waiting, wait) = oneshot::channel();
        waiters.push(Waiter { on, waiting });
        Some(wait)
    }

    /// Sets `flag` and takes out all waiters for this flag, to be dropped once the lock is released.
    fn raise(&self, life: &mut Life, flag: u16) -> Vec<Waiter> {
        self.flags.fetch_or(flag, Ordering::AcqRel);
        match life.rare_if_any() {
            Some(rare) => rare.waiters.extract_if(.., |waiter| waiter.on & flag != 0).collect(),
            None => Vec::new(),
        }
    }

    /// Adds a monitor. `Err` returns the callback with the reason, if the incarnation has ended already.
    pub(crate) fn monitor<F>(&self, tell: F) -> Result<u32, (F, ExitReason)>
    where
        F: FnOnce(Down) + Send + 'static,
    {
        let mut life = self.life.lock();
        if let Some(reason) = life.ended() {
            return Err((tell, reason.clone()));
        }
        Ok(life.rare.get_or_insert_default().monitors.add(Box::new(tell)))
    }

    pub(crate) fn demonitor(&self, key: u32) {
        let removed = self.life.lock().rare_if_any().and_then(|rare| rare.monitors.remove(key));
        // Values captured by the callback are dropped without the lock: one may be another monitor of this cell.
        drop(removed);
    }

    /// Writes the final reason, once, and tells all watchers. Later calls do nothing and return false.
    pub(crate) fn finish(&self, reason: ExitReason) -> bool {
        let first = {
            let mut life = self.life.lock();
            if life.ended().is_some() {
                None
            } else {
                let reason = if self.flags() & UP == 0 { reason.before_up() } else { reason };
                self.flags.fetch_or(ENDED | KILL, Ordering::AcqRel);
                let end = Box::new(Rare { ended: Some(reason.clone()), ..Rare::default() });
                Some((reason, life.rare.replace(end)))
            }
        };
        // A waker keeps its task's runtime alive, and a cell may be kept for as long as a caller may read the reason.
        // The second call drops the waker too: an incarnation that was declared dead may have been polled since.
        drop(self.waker.take());
        let Some((reason, rare)) = first else { return false };
        // The parent first: a monitor that never returns must not keep a child from being restarted.
        if let Some(parent) = self.kin.parent.as_ref().and_then(Weak::upgrade) {
            parent.child_ended(self, &reason);
        }
        let Some(rare) = rare else { return true };
        let Rare { waiters, monitors, letterbox, .. } = *rare;
        drop(waiters);
        // Waiting messages are lost, as those in the mailbox of any actor; their drop is foreign code.
        let _ = guarded(|| drop(letterbox));
        for tell in monitors.into_tells() {
            self.tell(tell, reason.clone());
        }
        true
    }

    pub(crate) fn tell(&self, tell: impl FnOnce(Down), reason: ExitReason) {
        let down = Down { id: self.id, name: self.kin.name.clone(), reason };
        if let Err(reason) = guarded(|| tell(down)) {
            log::error!("{self:?}: the callback of a monitor failed: {reason}");
        }
    }
}

impl fmt::Debug for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kin.name, self.id)
    }
}

/// A watch on one incarnation. Dropping the monitor ends the watch: the callback will not be called any more.
#[must_use = "dropping a monitor ends the watch; call `detach` to watch without the handle"]
#[derive(Debug)]
pub struct Monitor {
    watched: Option<(Arc<Cell>, u32)>,
}

impl Monitor {
    pub(crate) fn of(cell: &Arc<Cell>, tell: impl FnOnce(Down) + Send + 'static) -> Self {
        match cell.monitor(tell) {
            Ok(key) => Self { watched: Some((cell.clone(), key)) },
            Err((tell, reason)) => {
                cell.tell(tell, reason);
                Self { watched: None }
            }
        }
    }

    pub(crate) fn told(name: &Arc<str>, tell: impl FnOnce(Down)) -> Self {
        let down = Down { id: ActorId::NONE, name: name.clone(), reason: ExitReason::NotRunning };
        if let Err(reason) = guarded(|| tell(down)) {
            log::error!("{name}: the callback of a monitor failed: {reason}");
        }
        Self { watched: None }
    }

    /// The watched incarnation; `None` if none was running.
    pub fn id(&self) -> Option<ActorId> {
        self.watched.as_ref().map(|(cell, _)| cell.id())
    }

    /// Leaves the watch in place until the incarnation ends.
    pub fn detach(mut self) {
        self.watched = None;
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        if let Some((cell, key)) = self.watched.take() {
            cell.demonitor(key);
        }
    }
}

/// Holds back the end of an actor's start; see [`Exit::defer_init`](crate::Exit::defer_init).
///
/// If the guard is dropped without [`done`](Self::done), the start fails.
#[must_use = "dropping the guard makes the start fail"]
#[derive(Debug)]
pub struct InitGuard {
    cell: Option<Arc<Cell>>,
}

impl InitGuard {
    pub(crate) fn for_current() -> Self {
        let cell = with_current(|cell| {
            cell.defer_init();
            cell.clone()
        });
        Self { cell }
    }

    /// Reports the outcome of the initialisation. An error ends the actor with `StartFailed`, without its `stopping`.
    pub fn done(mut self, outcome: Result<(), String>) {
        if let Some(cell) = self.cell.take() {
            match outcome {
                Ok(()) => cell.init_done(),
                Err(message) => Self::fail(&cell, message.into()),
            }
        }
    }

    fn fail(cell: &Cell, message: Arc<str>) {
        if !cell.is_up() {
            cell.kill(ExitReason::StartFailed(message));
        }
    }
}

impl Drop for InitGuard {
    fn drop(&mut self) {
        if let Some(cell) = self.cell.take() {
            Self::fail(&cell, "deferred initialisation was dropped without an outcome".into());
        }
    }
}

thread_local! {
    static CURRENT: RefCell<Option<Arc<Cell>>> = const { RefCell::new(None) };
}

/// [`Exit::defer_init`](crate::Exit::defer_init) for tasks; call this before the first await.
pub fn defer_init() -> InitGuard {
    InitGuard::for_current()
}

/// The id of the actor, task or supervisor whose code is running on this thread.
pub fn current() -> Option<ActorId> {
    with_current(|cell| cell.id())
}

/// For tasks: resolves when this task is asked to stop. The task is then expected to return by itself.
///
/// Call this at the start of the task. Otherwise a request to stop drops the task at an await point. Outside
/// supervision the future never resolves.
///
/// ```no_run
/// # use janus_supervision::stop_requested;
/// # async fn serve_one() {}
/// async fn serve() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
///     let mut stop = std::pin::pin!(stop_requested());
///     loop {
///         tokio::select! {
///             () = &mut stop => return Ok(()),
///             () = serve_one() => {}
///         }
///     }
/// }
/// ```
///
/// # Cancel safety
///
/// Cancel safe: a new call returns a future which resolves at the same request.
pub fn stop_requested() -> impl Future<Output = ()> + Send + use<> {
    let asked = with_current(|cell| {
        cell.trap_stop();
        cell.until(ASKED)
    });
    async move {
        match asked {
            Some(asked) => asked.await,
            None => std::future::pending().await,
        }
    }
}

pub(crate) fn with_current<T>(read: impl FnOnce(&Arc<Cell>) -> T) -> Option<T> {
    // Cloned, so that the code inside may enter another actor. While the thread ends, the thread local is gone.
    let cell = CURRENT.try_with(|current| current.borrow().clone()).ok().flatten()?;
    Some(read(&cell))
}

/// Makes `cell` the current cell until the guard is dropped.
pub(crate) fn enter(cell: &Arc<Cell>) -> Current {
    let outer = CURRENT.try_with(|current| current.replace(Some(cell.clone()))).ok().flatten();
    Current { outer }
}

pub(crate) struct Current {
    outer: Option<Arc<Cell>>,
}

impl Drop for Current {
    fn drop(&mut self) {
        let outer = self.outer.take();
        // A thread that is ending has no current actor to restore.
        let _ = CURRENT.try_with(|current| current.replace(outer));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_reused_only_after_its_monitor_was_removed() {
        let mut monitors = Monitors::default();
        let tell = || Box::new(|_: Down| ()) as Tell;
        let keys: Vec<u32> = (0..4).map(|_| monitors.add(tell())).collect();
        assert_eq!(keys, [0, 1, 2, 3]);
        assert!(monitors.remove(1).is_some() && monitors.remove(3).is_some());
        assert!(monitors.remove(1).is_none() && monitors.remove(9).is_none());
        assert_eq!([monitors.add(tell()), monitors.add(tell()), monitors.add(tell())], [3, 1, 4]);
        assert_eq!(monitors.into_tells().count(), 5);
    }

    #[test]
    fn only_the_first_reason_counts() {
        let cell = Cell::new(ActorId::NONE, "a".into(), None);
        cell.begun();
        cell.kill(ExitReason::Killed);
        cell.ask_exit(ExitReason::Normal);
        assert_eq!(cell.take_asked(), Some(ExitReason::Killed));
        assert!(cell.finish(ExitReason::Killed) && !cell.finish(ExitReason::Normal));
        assert_eq!(cell.reason(), Some(ExitReason::Killed));
    }

    #[test]
    fn a_cell_that_has_ended_keeps_no_waker() {
        struct Task;
        impl std::task::Wake for Task {
            fn wake(self: Arc<Self>) {}
        }
        let cell = Cell::new(ActorId::NONE, "a".into(), None);
        cell.begun();
        let task = Arc::new(Task);
        for first in [true, false] {
            cell.register_waker(&task.clone().into());
            assert_eq!(cell.finish(ExitReason::Killed), first);
            assert_eq!(Arc::strong_count(&task), 1);
        }
    }

    #[test]
    fn the_cell_of_a_child_without_watchers_takes_64_bytes() {
        assert_eq!(size_of::<Cell>(), 64);
    }
}
