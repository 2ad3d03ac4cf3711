//! The errors of starts and of commands about children.

use std::sync::Arc;

use crate::exit::ExitReason;

/// Why a supervisor or a child could not be started.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The supervisor does not run, or ended before the request was handled.
    #[error("the supervisor is not running")]
    NotRunning,
    /// The arbiter is down.
    #[error("the arbiter is down")]
    ArbiterDown,
    /// A child of this name runs already, or is about to run.
    #[error("{0} is already running")]
    AlreadyStarted(Arc<str>),
    /// A child of this name is known, but does not run: use
    /// [`SupervisorRef::restart_child`](crate::SupervisorRef::restart_child).
    #[error("{0} is already present")]
    AlreadyPresent(Arc<str>),
    /// The spec contradicts its supervisor: a mistake in the code that made the spec.
    #[error("{child}: {why}")]
    Invalid {
        /// The child.
        child: Arc<str>,
        /// The contradiction.
        why: &'static str,
    },
    /// The child's own start failed, by error, panic or timeout.
    #[error("{child}: {reason}")]
    Failed {
        /// The child.
        child: Arc<str>,
        /// Why the child did not start.
        reason: ExitReason,
    },
    /// The dynamic supervisor has as many children as its limit allows.
    #[error("the supervisor has reached its limit of {0} children")]
    TooManyChildren(usize),
}

/// Why a command about a child was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ChildError {
    /// The supervisor does not run, or ended before the command was handled.
    #[error("the supervisor is not running")]
    NotRunning,
    /// There is no such child.
    #[error("no such child")]
    NotFound,
    /// The child runs: terminate the child first.
    #[error("the child is running")]
    Running,
    /// The child waits for its next start: terminate the child first.
    #[error("the child is restarting")]
    Restarting,
    /// The child could not be started.
    #[error(transparent)]
    Start(#[from] StartError),
}
