//! The description of a slow client, for the embedder and the operator.

use std::time::Duration;

use serde::Serialize;

use crate::wire::Peer;

/// A client for which frames wait in the server, because the client takes them too slowly.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct SlowClient {
    /// The number of the client's connection, also used in the log.
    pub client: u64,
    /// The client's address; `None` for a subscriber in this process, or if the system no longer knows the address.
    pub peer: Option<Peer>,
    /// The name of the connection's codec; for a subscriber in this process, the name of the classic protocol.
    pub transport: &'static str,
    /// Frames in the client's queue.
    pub queued_frames: usize,
    /// Bytes in the client's queue, with 64 more for each entry. The contents of the kernel's send buffer are not
    /// counted.
    pub queued_bytes: usize,
    /// For how long the queue has not been empty, to within two ticks (of a second by default).
    pub lagging_for: Duration,
}
