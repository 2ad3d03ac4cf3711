//! Exit reasons, ids of incarnations, and how running code ends its own actor.
//!
//! Owns [`ExitReason`], [`ActorId`], [`Down`] and the two ways in which code ends its own actor: [`Exit::exit`] after
//! the current handler, [`exit`] at once from any depth. Nothing here runs or restarts anything.

use std::any::Any;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;

use actix::{Actor, ActorContext, Context};
use serde::{Serialize, Serializer};

use crate::cell::{self, InitGuard};

/// One incarnation of an actor, task or supervisor. A restarted actor has a new id.
///
/// Ids count from 1 in each tree, in the order of the starts, so that two runs of the same simulation print the same
/// ids. Ids of different trees of one process (up to 65,536) still compare as different: a number for the tree is part
/// of the id, and is left out of `Display` and of the serialised form.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ActorId(u64);

impl ActorId {
    /// The id of no incarnation. A [`Down`] carries this id when nothing ran under the monitored name.
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
    /// The actor or task was done: `ctx.stop()`, or a task that returned `Ok`.
    Normal,
    /// The end was requested: by the supervisor, by `stop()`, or by the actor itself with this reason.
    Shutdown,
    /// The end was forced without a request: `kill()`, a shutdown timeout, an aborted task.
    Killed,
    /// A panic with this message, wherever the panic was: a handler, a timer, `stopping`, `stopped` or `Drop`.
    Panicked(Arc<str>),
    /// The actor gave up with an error: `ctx.exit(..)`, [`exit`], or a task that returned `Err`.
    Error(Arc<str>),
    /// The incarnation never came up: the factory, `started` or the deferred initialisation failed or panicked.
    StartFailed(Arc<str>),
    /// A supervisor gave up: `child` ended more often than the restart intensity allows, at last with `last`.
    ///
    /// OTP calls this reason `shutdown`, and does not restart a transient supervisor for it. Here the reason is
    /// abnormal, so that escalation never stops half way.
    MaxRestarts {
        /// The child for which the intensity was exceeded.
        child: Arc<str>,
        /// The last exit reason of that child.
        last: Box<Self>,
    },
    /// The arbiter of the incarnation was stopped, before or during its run.
    ArbiterDown,
    /// Nothing ran under the name when the monitor was set. No incarnation ever ends with this reason.
    NotRunning,
}

/// The longest text of a kept reason; a longer text is cut, and ends with an ellipsis.
const MAX_TEXT_BYTES: usize = 4 * 1024;

impl ExitReason {
    /// Whether a transient child is restarted for this reason: all reasons but [`Normal`](Self::Normal) and
    /// [`Shutdown`](Self::Shutdown).
    pub fn is_abnormal(&self) -> bool {
        !matches!(self, Self::Normal | Self::Shutdown)
    }

    /// The reason with texts of at most [`MAX_TEXT_BYTES`]: what is kept for a child must not grow with the message of a
    /// panic, which may show what a client has sent.
    pub(crate) fn cut(self) -> Self {
        let cut = |text: Arc<str>| -> Arc<str> {
            if text.len() <= MAX_TEXT_BYTES {
                return text;
            }
            let end = text.floor_char_boundary(MAX_TEXT_BYTES - '…'.len_utf8());
            format!("{}…", &text[..end]).into()
        };
        match self {
            Self::Panicked(text) => Self::Panicked(cut(text)),
            Self::Error(text) => Self::Error(cut(text)),
            Self::StartFailed(text) => Self::StartFailed(cut(text)),
            Self::MaxRestarts { child, last } => Self::MaxRestarts { child, last: Box::new(last.cut()) },
            other => other,
        }
    }

    /// The reason of an incarnation which ended before it was up.
    ///
    /// If the end came from outside, the reason is kept. If the end came from the incarnation itself, the start has
    /// failed.
    pub(crate) fn before_up(self) -> Self {
        match self {
            Self::Normal => Self::StartFailed("stopped before it was up".into()),
            Self::Panicked(message) => Self::StartFailed(format!("panicked: {message}").into()),
            Self::Error(message) => Self::StartFailed(message),
            other => other,
        }
    }

    /// The exit reason for the payload of a caught unwind, from [`catch_unwind`] or from a task's
    /// `JoinError::into_panic`: the reason given to [`exit`], or [`Panicked`](Self::Panicked) with the panic's message.
    ///
    /// For code that runs callbacks and reports their failures in the words of supervision.
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

/// The message to a monitor, sent once: this incarnation has ended, for this reason.
#[derive(Clone, Debug)]
pub struct Down {
    /// The incarnation that ended; [`ActorId::NONE`] if none was running.
    pub id: ActorId,
    /// The name of the incarnation. Numbered children of a [`DynamicSupervisor`](crate::DynamicSupervisor) carry the
    /// name of their supervisor.
    pub name: Arc<str>,
    /// Why the incarnation ended.
    pub reason: ExitReason,
}

/// Ends the running actor or task at once with `reason`, from any depth of its code.
///
/// This unwinds like a panic: locals are dropped and no code after the call runs. Unlike a panic, the exit is silent:
/// the panic hook is not called. `stopping` and `stopped` do not run; use [`Exit::exit`] for an orderly end.
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
/// Always: this function never returns. On a thread that runs no supervised code, the unwind ends the thread.
pub fn exit(reason: ExitReason) -> ! {
    resume_unwind(Box::new(ExitSignal(reason)))
}

/// Lets an actor end with a reason, or hold back the end of its start, through its own context.
pub trait Exit {
    /// Stops the actor once its current handler returns, with `reason` instead of [`ExitReason::Normal`].
    ///
    /// `stopping` and `stopped` run as in any stop. Outside supervision this is `ctx.stop()`.
    fn exit(&mut self, reason: ExitReason);

    /// Holds back the end of the actor's start until the returned guard reports the outcome. Call this in `started` or
    /// in the factory.
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

/// The payload that distinguishes [`exit`] from a panic.
struct ExitSignal(ExitReason);

/// Runs foreign code and turns an unwind into an exit reason.
pub(crate) fn guarded<T>(code: impl FnOnce() -> T) -> Result<T, ExitReason> {
    // State that a panic leaves half done is dropped with its actor, or belongs to the caller.
    catch_unwind(AssertUnwindSafe(code)).map_err(ExitReason::from_unwind)
}

/// Drops a panic's payload. The payload's own `Drop` may panic too.
fn drop_quietly(payload: Box<dyn Any + Send>) {
    if let Err(second) = catch_unwind(AssertUnwindSafe(|| drop(payload))) {
        // A payload that panics whenever it is dropped can only be leaked.
        std::mem::forget(second);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kept_reason_is_cut_between_two_characters() {
        let text = "é".repeat(MAX_TEXT_BYTES);
        let ExitReason::Panicked(cut) = ExitReason::Panicked(text.into()).cut() else { panic!("the kind is kept") };
        assert!(cut.len() <= MAX_TEXT_BYTES && cut.len() > MAX_TEXT_BYTES - 4 && cut.ends_with('…'), "{}", cut.len());
        let short = ExitReason::Error("disk full".into());
        let nested = ExitReason::MaxRestarts { child: "clerk".into(), last: Box::new(short.clone()) };
        assert_eq!((short.clone().cut(), nested.clone().cut()), (short, nested));
    }
}
