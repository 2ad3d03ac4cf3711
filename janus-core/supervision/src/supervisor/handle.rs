//! The handles to a supervisor.
//!
//! Owns [`SupervisorRef`] and [`WeakSupervisorRef`]: commands, which wait in the mailbox for the loop of `keeper.rs`,
//! and questions, which the shared state answers without the loop.

use std::fmt;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use tokio::sync::{broadcast, oneshot};

use super::live::{Live, Mail};
use crate::cell::Monitor;
use crate::error::{ChildError, StartError};
use crate::exit::{ActorId, Down, ExitReason};
use crate::spec::ChildSpec;
use crate::tree::{NodeKind, Tree, TreeEvent};

/// A handle to a supervisor, for any thread. Cheap to clone.
#[derive(Clone)]
pub struct SupervisorRef {
    pub(super) shared: Arc<Shared>,
}

/// A [`SupervisorRef`] that does not keep the supervisor's specs in memory. For values inside those specs, such as the
/// factory of a child that may end the tree.
#[derive(Clone)]
pub struct WeakSupervisorRef {
    name: Arc<str>,
    shared: Weak<Shared>,
}

impl WeakSupervisorRef {
    /// The supervisor, unless the supervisor has ended and the last strong handle is gone.
    pub fn upgrade(&self) -> Option<SupervisorRef> {
        Some(SupervisorRef { shared: self.shared.upgrade()? })
    }
}

impl fmt::Debug for WeakSupervisorRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("WeakSupervisorRef").field(&self.name).finish()
    }
}

pub(super) struct Shared {
    pub(super) name: Arc<str>,
    pub(super) live: Mutex<Option<Arc<Live>>>,
}

impl SupervisorRef {
    /// A handle that keeps nothing in memory.
    pub fn downgrade(&self) -> WeakSupervisorRef {
        WeakSupervisorRef { name: self.shared.name.clone(), shared: Arc::downgrade(&self.shared) }
    }

    /// The name of the supervisor.
    pub fn name(&self) -> &Arc<str> {
        &self.shared.name
    }

    /// The current incarnation of the supervisor.
    pub fn id(&self) -> Option<ActorId> {
        self.running().map(|live| live.cell.id())
    }

    /// Adds a child and starts it after all other children.
    ///
    /// # Errors
    ///
    /// [`StartError`]; a child that could not be started is not kept.
    ///
    /// # Cancel safety
    ///
    /// Once polled, the child may be started although the future is dropped. This holds for every command.
    pub async fn start_child(&self, spec: ChildSpec) -> Result<(), StartError> {
        self.command(|reply| Mail::Start { spec: Box::new(spec), reply }).await.unwrap_or(Err(StartError::NotRunning))
    }

    /// Stops a child. The child stays known and can be started again, unless it is temporary.
    ///
    /// # Errors
    ///
    /// [`ChildError`]. Stopping a child that does not run is no error.
    pub async fn terminate_child(&self, name: &str) -> Result<(), ChildError> {
        let name = name.into();
        self.command(|reply| Mail::Terminate { name, reply }).await.unwrap_or(Err(ChildError::NotRunning))
    }

    /// Starts a known, stopped child.
    ///
    /// # Errors
    ///
    /// [`ChildError`]: the child is unknown, running or restarting, or its start failed.
    pub async fn restart_child(&self, name: &str) -> Result<(), ChildError> {
        let name = name.into();
        self.command(|reply| Mail::Restart { name, reply }).await.unwrap_or(Err(ChildError::NotRunning))
    }

    /// Forgets a stopped child.
    ///
    /// # Errors
    ///
    /// [`ChildError`]: the child is unknown, running or restarting.
    pub async fn delete_child(&self, name: &str) -> Result<(), ChildError> {
        let name = name.into();
        self.command(|reply| Mail::Delete { name, reply }).await.unwrap_or(Err(ChildError::NotRunning))
    }

    /// The children, after the supervisor has handled all ends of children from before this call.
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
        // If the mail was refused or dropped, so was the sender of this answer.
        answer.await.ok()
    }

    /// The supervisor and everything below, as of now. The answer comes from shared state, so a hung child or
    /// supervisor cannot delay the answer.
    pub fn tree(&self) -> Tree {
        self.tree_within(usize::MAX)
    }

    /// The tree with at most `limit` children of each supervisor, in the order of [`tree`](Self::tree). Children in
    /// trouble are listed before others: first those that do not run, then those with restarts. Children that are not
    /// listed are not copied, only counted: [`Tree::unlisted`].
    pub fn tree_within(&self, limit: usize) -> Tree {
        let live = self.shared.live.lock().clone();
        match live {
            Some(live) => live.node(limit),
            None => Tree::stopped(&self.shared.name, NodeKind::Supervisor),
        }
    }

    /// The name of an incarnation in this tree. Numbered children go by the name of their supervisor.
    pub fn name_of(&self, id: ActorId) -> Option<Arc<str>> {
        let live = self.shared.live.lock().clone()?;
        live.find(id)
    }

    /// Stops the children in reverse order, each within its shutdown timeout, then the supervisor. Returns when the
    /// supervisor has ended. Several callers may do this at the same time, and again later.
    ///
    /// # Cancel safety
    ///
    /// The shutdown continues if the future is dropped.
    pub async fn stop(&self) {
        if let Some(live) = self.running() {
            live.cell.stop();
            live.cell.until_ended().await;
        }
    }

    /// Kills the supervisor and everything below it, without a request to stop.
    pub fn kill(&self) {
        if let Some(live) = self.running() {
            live.cell.kill(ExitReason::Killed);
        }
    }

    /// Waits for the end of the current incarnation and returns the exit reason, even after the end. A supervisor
    /// without any start answers [`ExitReason::NotRunning`].
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn wait(&self) -> ExitReason {
        let live = self.shared.live.lock().clone();
        let Some(live) = live else { return ExitReason::NotRunning };
        live.cell.until_ended().await;
        live.cell.reason().unwrap_or(ExitReason::Killed)
    }

    /// Calls `tell` when the current incarnation has ended; see [`ActorRef::monitor`](crate::ActorRef::monitor).
    pub fn monitor(&self, tell: impl FnOnce(Down) + Send + 'static) -> Monitor {
        match self.running() {
            Some(live) => Monitor::of(&live.cell, tell),
            None => Monitor::told(&self.shared.name, tell),
        }
    }

    /// The events from now on, of the whole tree of this supervisor.
    ///
    /// At most 256 events wait for a subscriber. A slower subscriber is told how many events it missed; the tree never
    /// waits for subscribers.
    ///
    /// # Errors
    ///
    /// [`NotRunning`](ChildError::NotRunning).
    pub fn subscribe(&self) -> Result<broadcast::Receiver<TreeEvent>, ChildError> {
        self.running().map(|live| live.around.tree.subscribe()).ok_or(ChildError::NotRunning)
    }

    pub(super) fn running(&self) -> Option<Arc<Live>> {
        self.shared.live.lock().clone().filter(|live| !live.cell.has_ended())
    }
}

impl fmt::Debug for SupervisorRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SupervisorRef").field(&self.shared.name).finish()
    }
}
