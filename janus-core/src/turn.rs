//! How tasks of one arbiter take turns.

use std::pin::pin;
use std::task::{self, Poll};

/// Has the calling task polled again after sockets and other tasks had their turn.
///
/// After a plain wake it would come before the sockets, and with a few such tasks the run queue is never empty: those that
/// wait here for their turn would wait for 61 polls, as many as the runtime makes before it looks at sockets in any case.
pub(crate) fn yield_now<T>(cx: &mut task::Context<'_>) -> Poll<T> {
    let _ = pin!(tokio::task::yield_now()).poll(cx);
    Poll::Pending
}
