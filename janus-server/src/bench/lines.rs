//! The lines of JSON between the coordinator of a bench and its workers.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::protocol::Protocol;

/// From the coordinator to a worker's standard input; the end of the input ends the worker.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum ToWorker {
    /// The first line.
    Plan(Plan),
    /// No more messages follow: wait a moment for unexpected deliveries, then hand in the tally. With `missing`, the
    /// tally lists the missing messages.
    Finish { published: u32, missing: bool },
}

/// A worker's part of the run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Plan {
    pub(super) run: u32,
    pub(super) protocol: Protocol,
    pub(super) server: SocketAddr,
    /// The number of this worker's first client among all clients; client `i` is on topic `i % topics`.
    pub(super) first_client: u32,
    pub(super) clients: u32,
    pub(super) topics: u32,
    /// Message `m` is published on topic `m % topics`.
    pub(super) messages: u32,
    pub(super) size: u32,
    /// Clients that connect at the same time.
    pub(super) connecting: u32,
    pub(super) timeout_ms: u64,
}

impl Plan {
    pub(super) fn topic_name(run: u32, topic: u32) -> String {
        format!("bench-{run:08x}-{topic}")
    }

    /// The name of a client, for protocols with names. MQTT brokers need not accept more than 23 characters.
    pub(super) fn client_name(run: u32, client: u32) -> String {
        format!("b{run:08x}-{client}")
    }

    /// How many of the first `published` messages are on a topic.
    pub(super) fn messages_on_topic(&self, topic: u32, published: u32) -> u32 {
        (published + self.topics - 1 - topic) / self.topics
    }
}

/// From a worker's standard output to the coordinator.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum FromWorker {
    /// From time to time while the clients connect.
    Progress {
        ready: u32,
    },
    /// Every client is acknowledged or has failed.
    Ready {
        ready_on_topic: Vec<u32>,
        failed: u32,
        errors: Vec<String>,
    },
    /// Messages delivered to all of this worker's clients, with the nanoseconds to the last delivery of each.
    Through(Vec<(u32, u64)>),
    Tally(Box<Tally>),
}

/// The sum of the deliveries to a worker's clients.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Tally {
    /// First arrivals in order.
    pub(super) good: u64,
    pub(super) lost: u64,
    /// On request: every missing message, with the number of this worker's clients that miss the message. Includes
    /// messages that the server refused, because a worker does not know of refusals.
    pub(super) missing: Vec<(u32, u32)>,
    pub(super) duplicated: u64,
    /// First arrivals after a later message.
    pub(super) out_of_order: u64,
    /// Messages of another topic or run, and messages changed on the way.
    pub(super) corrupt: u64,
    /// Clients whose connection ended during the run.
    pub(super) disconnected: u32,
    pub(super) errors: Vec<String>,
    /// When the last delivery was read, by the bench's clock; 0 without deliveries.
    pub(super) last_delivery: u64,
    /// The lowest latency, exact, in nanoseconds.
    pub(super) min: u64,
    /// The highest latency, exact, in nanoseconds.
    pub(super) max: u64,
    /// The histogram, as pairs of nanoseconds and a count.
    pub(super) latencies: Vec<(u64, u64)>,
}
