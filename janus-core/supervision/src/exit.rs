//! Why an actor ended, who it was, and how it says so itself.
//!
//! Owns [`ExitReason`], [`ActorId`], [`Down`] and the two ways in which running code ends its own actor:
//! [`Exit::exit`] after the current handler, [`exit`] at once from any depth. Nothing here runs or restarts anything.

use std::any::Any;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;

use actix::{Actor, ActorContext, Context};
use serde::{Serialize, Serializer};

use crate::cell::{self, InitGuard};

/// One incarnation of an actor, task or supervisor. A restarted actor has a new one.
///
/// Ids count from 1 in each tree, in the order of the starts, so that two runs of the same simulation print the same
/// ids. They still compare as different between the trees of one process (up to 65,536 of them): a number for the tree
/// is part of the id and is left out of `Display` and of the serialised form.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ActorId(u64);

impl ActorId {
    /// The id of nobody: what a [`Down`] carries when nothing ran under the name that was monitored.
    pub const NONE: Self = Self(0);

    const SEQUENCE_BITS: u32 = 48;

    pub(crate) fn new(tree: u16, sequence: u64) -> Self {
        Self(u64::from(tree) << Self::SEQUENCE_BITS | sequence & ((1 << Self::SEQUENCE_BITS) - 1))
    }

    /// The number of this start within its tree.
    pub fn sequence(self) -> u64 {
        self.0 & ((1 << Self::SEQUENCE_BITS) - 1)
    }

    pub(crate) fn to_bits(self) -> u64 {
        self.0
    }

    pub(crate) fn from_bits(bits: u64) -> Self {
        Self(bits)
    }
}

impl fmt::Display for ActorId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}", self.sequence())
    }
}

impl fmt::Debug for ActorId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for ActorId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(self.sequence())
    }
}

/// Why an incarnation ended.
///
/// `Display` and the serialised form are the same short text, for logs and for [`Tree`](crate::Tree).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExitReason {
    /// It was done: `ctx.stop()`, or a task that returned `Ok`.
    Normal,
    /// It ended because it was asked to: by its supervisor, by `stop()`, or by itself with this reason.
    Shutdown,
    /// It was ended without being asked: `kill()`, a shutdown timeout, an aborted task.
    Killed,
    /// It panicked, with this message, wherever that was: a handler, a timer, `stopping`, `stopped` or `Drop`.
    Panicked(Arc<str>),
    /// It gave up with an error of its own: `ctx.exit(..)`, [`exit`], or a task that returned `Err`.
    Error(Arc<str>),
    /// It never came up: its factory, `started` or its deferred initialisation failed or panicked.
    StartFailed(Arc<str>),
    /// A supervisor gave up: `child` ended more often than the restart intensity allows, at last with `last`.
    ///
    /// OTP calls this `shutdown`, which a transient supervisor is not restarted for. Here it is abnormal, so that
    /// escalation never stops half way.
    MaxRestarts {
        /// The child that used up the budget.
        child: Arc<str>,
        /// Why that child ended the last time.
        last: Box<Self>,
    },
    /// The arbiter it ran on, or was to start on, was stopped.
    ArbiterDown,
    /// Nothing ran under the name when it was monitored. No incarnation ever ends with this.
    NotRunning,
}

impl ExitReason {
    /// Whether a transient child is restarted for this: everything but [`Normal`](Self::Normal) and
    /// [`Shutdown`](Self::Shutdown).
    pub fn is_abnormal(&self) -> bool {
        !matches!(self, Self::Normal | Self::Shutdown)
    }

    /// The reason of an incarnation that ended before it was up.
    ///
    /// What was done to it keeps its name; what it did itself is a start failure.
    pub(crate) fn before_up(self) -> Self {
        match self {
            Self::Normal => Self::StartFailed("stopped before it was up".into()),
            Self::Panicked(message) => Self::StartFailed(format!("panicked: {message}").into()),
            Self::Error(message) => Self::StartFailed(message),
            other => other,
        }
    }

    /// The reason for which code unwound, from the payload of [`catch_unwind`] or of a task's `JoinError::into_panic`:
    /// the reason given to [`exit`], or [`Panicked`](Self::Panicked) with the panic's message.
    ///
    /// For code that runs callbacks of its own and reports their ends in the words of supervision.
    ///
    /// ```
    /// use std::panic::catch_unwind;
    /// use janus_supervision::{ExitReason, exit};
    ///
    /// let payload = catch_unwind(|| exit(ExitReason::Error("disk full".into()))).unwrap_err();
    /// assert_eq!(ExitReason::from_unwind(payload), ExitReason::Error("disk full".into()));
    ///
    /// let payload = catch_unwind(|| std::panic::resume_unwind(Box::new("out of range"))).unwrap_err();
    /// assert_eq!(ExitReason::from_unwind(payload), ExitReason::Panicked("out of range".into()));
    /// ```
    pub fn from_unwind(payload: Box<dyn Any + Send>) -> Self {
        let payload = match payload.downcast::<ExitSignal>() {
            Ok(signal) => return signal.0,
            Err(payload) => payload,
        };
        let message: Arc<str> = if let Some(text) = payload.downcast_ref::<&str>() {
            Arc::from(*text)
        } else if let Some(text) = payload.downcast_ref::<String>() {
            Arc::from(text.as_str())
        } else {
            Arc::from("a panic whose payload is not text")
        };
        drop_quietly(payload);
        Self::Panicked(message)
    }
}

impl fmt::Display for ExitReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Normal => f.write_str("normal"),
            Self::Shutdown => f.write_str("shutdown"),
            Self::Killed => f.write_str("killed"),
            Self::Panicked(message) => write!(f, "panicked: {message}"),
            Self::Error(message) => write!(f, "error: {message}"),
            Self::StartFailed(message) => write!(f, "start failed: {message}"),
            Self::MaxRestarts { child, last } => write!(f, "gave up on {child}: {last}"),
            Self::ArbiterDown => f.write_str("arbiter down"),
            Self::NotRunning => f.write_str("not running"),
        }
    }
}

impl Serialize for ExitReason {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// What a monitor is told, once: this incarnation has ended, for this reason.
#[derive(Clone, Debug)]
pub struct Down {
    /// The incarnation that ended; [`ActorId::NONE`] if there was none to monitor.
    pub id: ActorId,
    /// Its name. Numbered children of a [`DynamicSupervisor`](crate::DynamicSupervisor) carry their supervisor's.
    pub name: Arc<str>,
    /// Why it ended.
    pub reason: ExitReason,
}

/// Ends the running actor or task at once with `reason`, from any depth of its code.
///
/// This unwinds like a panic, so locals are dropped and no code after it runs, but it makes no noise: the panic hook is
/// not called. `stopping` and `stopped` do not run; use [`Exit::exit`] for an orderly end.
///
/// ```no_run
/// use janus_supervision::{ExitReason, exit};
///
/// fn parse(line: &str) -> u32 {
///     line.parse().unwrap_or_else(|_| exit(ExitReason::Error("not a number".into())))
/// }
/// ```
///
/// # Panics
///
/// Always, in the sense that it never returns. On a thread that runs no supervised code it ends that thread.
pub fn exit(reason: ExitReason) -> ! {
    resume_unwind(Box::new(ExitSignal(reason)))
}

/// What an actor can say to its supervisor through its own context.
pub trait Exit {
    /// Stops the actor once its current handler returns, with `reason` instead of [`ExitReason::Normal`].
    ///
    /// `stopping` and `stopped` run as in any stop. Outside supervision this is `ctx.stop()`.
    fn exit(&mut self, reason: ExitReason);

    /// Called in `started` or in the factory: the actor counts as started only when the guard says so.
    ///
    /// Until then the supervisor does not start the next child; the actor itself already handles messages. Several
    /// guards may be pending at once. Outside supervision, and once the actor is up, the guard does nothing.
    fn defer_init(&mut self) -> InitGuard;
}

impl<A: Actor<Context = Self>> Exit for Context<A> {
    fn exit(&mut self, reason: ExitReason) {
        cell::with_current(|cell| cell.ask_exit(reason));
        self.stop();
    }

    fn defer_init(&mut self) -> InitGuard {
        InitGuard::for_current()
    }
}

/// The payload by which [`exit`] is told from a panic.
struct ExitSignal(ExitReason);

/// Runs code that is not ours and turns an unwind into the reason it stands for.
pub(crate) fn guarded<T>(code: impl FnOnce() -> T) -> Result<T, ExitReason> {
    // What a panic leaves half done is dropped with its actor, or was the caller's own to begin with.
    catch_unwind(AssertUnwindSafe(code)).map_err(ExitReason::from_unwind)
}

/// Drops a panic's payload, whose own `Drop` may panic too.
fn drop_quietly(payload: Box<dyn Any + Send>) {
    if let Err(second) = catch_unwind(AssertUnwindSafe(|| drop(payload))) {
        // A payload that panics whenever it is dropped can only be leaked.
        std::mem::forget(second);
    }
}
