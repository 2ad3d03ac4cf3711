//! What the bench and its workers say to each other: one line of JSON each.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::protocol::Protocol;

/// From the bench to a worker, on its standard input; the end of the input ends the worker.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum ToWorker {
    /// The first line.
    Plan(Plan),
    /// Nothing more will be published: wait a moment for what should not come, then hand in the tally.
    /// With `missing`, the tally says which messages are.
    Finish { published: u32, missing: bool },
}

/// A worker's part of the run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Plan {
    pub(super) run: u32,
    pub(super) protocol: Protocol,
    pub(super) server: SocketAddr,
    /// The number of this worker's first client among all; client `i` is on topic `i % topics`.
    pub(super) first_client: u32,
    pub(super) clients: u32,
    pub(super) topics: u32,
    /// Message `m` is published on topic `m % topics`.
    pub(super) messages: u32,
    pub(super) size: u32,
    /// Clients that connect at once.
    pub(super) connecting: u32,
    pub(super) timeout_ms: u64,
}

impl Plan {
    pub(super) fn topic_name(run: u32, topic: u32) -> String {
        format!("bench-{run:08x}-{topic}")
    }

    /// What a client calls itself where the protocol wants a name. MQTT brokers need not take more than 23 characters.
    pub(super) fn client_name(run: u32, client: u32) -> String {
        format!("b{run:08x}-{client}")
    }

    /// How many of the first `published` messages are on a topic.
    pub(super) fn messages_on_topic(&self, topic: u32, published: u32) -> u32 {
        (published + self.topics - 1 - topic) / self.topics
    }
}

/// From a worker to the bench, on its standard output.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum FromWorker {
    /// While the clients connect, now and then.
    Progress {
        ready: u32,
    },
    /// Every client is acknowledged or has failed.
    Ready {
        ready_on_topic: Vec<u32>,
        failed: u32,
        errors: Vec<String>,
    },
    /// Messages that have reached all of this worker's clients, each with the nanoseconds to its last delivery.
    Through(Vec<(u32, u64)>),
    Tally(Box<Tally>),
}

/// What arrived at a worker's clients.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Tally {
    /// First arrivals in their place.
    pub(super) good: u64,
    pub(super) lost: u64,
    /// If it was asked for: the messages that are missing anywhere, and at how many of this worker's clients. A message
    /// that the server refused is among them and not lost; the worker cannot know.
    pub(super) missing: Vec<(u32, u32)>,
    pub(super) duplicated: u64,
    /// First arrivals after a later message.
    pub(super) out_of_order: u64,
    /// Frames that are no message of this client's topic, or not as they were sent.
    pub(super) corrupt: u64,
    /// Clients whose connection ended during the run.
    pub(super) disconnected: u32,
    pub(super) errors: Vec<String>,
    /// When the last delivery was read, by the bench's clock; 0 if there was none.
    pub(super) last_delivery: u64,
    /// The exact extremes, and the histogram as pairs of a value and its count; all in nanoseconds.
    pub(super) min: u64,
    pub(super) max: u64,
    pub(super) latencies: Vec<(u64, u64)>,
}
