//! The handles to a supervisor.
//!
//! Owns [`SupervisorRef`] and [`WeakSupervisorRef`]: commands, which wait in the supervisor's mailbox for the loop of
//! `keeper.rs`, and questions which the shared state answers without the loop.

use std::fmt;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use tokio::sync::{broadcast, oneshot};

use super::live::{Live, Mail};
use crate::cell::Monitor;
use crate::error::{ChildError, StartError};
use crate::exit::{ActorId, Down, ExitReason};
use crate::spec::ChildSpec;
use crate::tree::{Event, NodeKind, Tree};

/// A handle to a supervisor, in use from any thread.
#[derive(Clone)]
pub struct SupervisorRef {
    pub(super) shared: Arc<Shared>,
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

pub(super) struct Shared {
    pub(super) name: Arc<str>,
    pub(super) live: Mutex<Option<Arc<Live>>>,
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

    pub(super) fn running(&self) -> Option<Arc<Live>> {
        self.shared.live.lock().clone().filter(|live| !live.cell.has_ended())
    }
}

impl fmt::Debug for SupervisorRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SupervisorRef").field(&self.shared.name).finish()
    }
}
