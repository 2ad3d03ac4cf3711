//! A client that does not keep up, as the embedder and the operator see it.

use std::time::Duration;

use serde::Serialize;

use crate::wire::Peer;

/// A client that has not taken what was sent to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct SlowClient {
    /// The number of its connection, by which the log names it, too.
    pub client: u64,
    /// Where it is connected from; `None` for a subscriber in this process, or if the system no longer knows.
    pub peer: Option<Peer>,
    /// The name of the codec that it speaks; that of the classic protocol for a subscriber in this process.
    pub transport: &'static str,
    /// Frames that wait for it.
    pub queued_frames: usize,
    /// Bytes that wait for it, with 64 for each entry of its queue, beside what the kernel's send buffer holds.
    pub queued_bytes: usize,
    /// For how long something has waited for it without a break, to within two ticks (of a second by default).
    pub lagging_for: Duration,
}
