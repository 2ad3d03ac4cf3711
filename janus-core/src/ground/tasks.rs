//! How a task lets other tasks run.

use std::pin::pin;
use std::task::{self, Poll};

/// Has the calling task polled again after sockets and other tasks had their turn.
///
/// After a plain wake the task would run before the sockets are looked at. With a few such tasks the run queue is never
/// empty, and everything else waits for 61 polls: the number after which the runtime looks at sockets in any case.
pub(crate) fn yield_now<T>(cx: &mut task::Context<'_>) -> Poll<T> {
    let _ = pin!(tokio::task::yield_now()).poll(cx);
    Poll::Pending
}
