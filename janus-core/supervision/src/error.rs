//! Why a start or a command about a child failed.

use std::sync::Arc;

use crate::exit::ExitReason;

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
