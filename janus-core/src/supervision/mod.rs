//! OTP supervision for actix actors.

mod cell;
mod child;
mod dynamic;
mod exit;
mod place;
mod refs;
mod run;
mod spec;
mod supervisor;
mod tree;
mod watchdog;
mod window;

pub use cell::{InitGuard, Monitor, current, defer_init, stop_requested};
pub use dynamic::{Child, ChildKey, DynamicSupervisor};
pub use exit::{ActorId, Down, Exit, ExitReason, exit};
pub use place::{Arbiter, ArbiterDown, Place};
pub use refs::{ActorRef, CallError, Link, NotRunning, link};
pub use run::BoxError;
pub use spec::{AutoShutdown, ChildSpec, Restart, Shutdown, StartInfo, Strategy};
pub use supervisor::{ChildError, StartError, Supervisor, SupervisorRef};
pub use tree::{Event, EventKind, NodeKind, State, Tree};
pub use watchdog::{Hang, Watchdog};
pub use window::{RestartIntensity, RestartWindow};
