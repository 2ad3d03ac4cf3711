//! The description of a slow client, for the embedder and the operator.

use std::time::Duration;

use serde::Serialize;

use crate::config::SlowConsumer;
use crate::wire::{Peer, TopicName};

/// A client for which frames wait in the server, because the client takes them too slowly.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
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
    /// The user's name from the [hook](super::Hooks::authenticate); empty for an unknown user, and for a subscriber in
    /// this process.
    pub user: String,
    /// Topics of the client: up to [`MAX_TOPICS`](Self::MAX_TOPICS) of `topics_total`, in no order. None for a subscriber
    /// in this process.
    pub topics: Vec<TopicName>,
    /// How many topics the client has.
    pub topics_total: usize,
    /// The policies of the client's subscriptions, each once: what happens when the queue is full.
    pub policies: Vec<SlowConsumer>,
}

impl SlowClient {
    /// Topics named of one client.
    pub const MAX_TOPICS: usize = 10;
}
