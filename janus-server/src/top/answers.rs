//! The answers of the server, as far as the view shows the answers. Unknown keys are ignored, and missing keys are empty, so the
//! view works with a server that is a little older or newer.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer};

/// The answer to `GET /api/stats`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Stats {
    pub(super) version: String,
    /// Milliseconds since 1970, by the clock of the server.
    pub(super) time: u64,
    pub(super) uptime_ms: u64,
    pub(super) stats: BTreeMap<String, Figure>,
    pub(super) samples: Samples,
}

/// A figure, and its rates over the last seconds if the figure counts events.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Figure {
    pub(super) value: u64,
    pub(super) per_second: BTreeMap<String, Option<f64>>,
}

/// The latest samples of all figures, the oldest first.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Samples {
    pub(super) time: Vec<u64>,
    pub(super) values: BTreeMap<String, Vec<u64>>,
}

impl Stats {
    /// The value of a figure; 0 if the server does not know the figure.
    pub(super) fn value(&self, name: &str) -> u64 {
        self.stats.get(name).map_or(0, |figure| figure.value)
    }

    /// The events per second, over this window.
    pub(super) fn rate(&self, name: &str, window: &str) -> Option<f64> {
        self.stats.get(name)?.per_second.get(window).copied().flatten()
    }
}

/// The answer to `GET /readyz`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default)]
pub(super) struct Readiness {
    pub(super) ready: bool,
    /// Checks that fail, or find a part of the server out of order, with their reasons.
    pub(super) checks: BTreeMap<String, String>,
}

/// Of a server that does not say.
impl Default for Readiness {
    fn default() -> Self {
        Self { ready: true, checks: BTreeMap::new() }
    }
}

impl Readiness {
    /// The reasons with the names of their checks; empty without any.
    pub(super) fn reasons(&self) -> String {
        let reasons: Vec<_> = self.checks.iter().map(|(check, reason)| format!("{check}: {reason}")).collect();
        reasons.join("; ")
    }
}

/// The answer to `GET /api/topics`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(super) struct Topics {
    pub(super) topics: Vec<Topic>,
    /// The number of all topics that match, unless they are sorted by name.
    pub(super) total: Option<u64>,
    pub(super) next: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(super) struct Topic {
    pub(super) topic: String,
    pub(super) subscribers: u64,
    pub(super) in_flight: u64,
    pub(super) available: bool,
    pub(super) messages_per_second: Option<f64>,
    /// `None` for a topic without presence.
    pub(super) members: Option<u64>,
}

/// The answer to `GET /api/connections`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(super) struct Clients {
    pub(super) connections: Vec<Client>,
    pub(super) total: Option<u64>,
    pub(super) next: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(super) struct Client {
    pub(super) connection: u64,
    pub(super) peer: Option<String>,
    pub(super) transport: String,
    #[serde(deserialize_with = "unless_empty")]
    pub(super) user: Option<String>,
    pub(super) topics: u64,
    pub(super) queued_frames: u64,
    pub(super) queued_bytes: u64,
    pub(super) lagging_for_ms: u64,
}

/// The answer to `GET /api/slow`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(super) struct Slow {
    pub(super) clients: Vec<SlowClient>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(super) struct SlowClient {
    pub(super) connection: u64,
    pub(super) peer: Option<String>,
    pub(super) user: Option<String>,
    pub(super) transport: String,
    pub(super) topics: Vec<String>,
    pub(super) topics_total: u64,
    pub(super) policy: Vec<String>,
    pub(super) queued_frames: u64,
    pub(super) queued_bytes: u64,
    pub(super) lagging_for_ms: u64,
}

/// The answer to `GET /api/tree`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(super) struct Tree {
    pub(super) tree: Node,
    /// Nodes left out of the answer.
    pub(super) unlisted: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(super) struct Node {
    pub(super) name: String,
    pub(super) state: String,
    pub(super) restarts: u64,
    pub(super) last_reason: Option<String>,
    /// The time until the next start: a back-off, or the rest of a quarantine.
    pub(super) due_in_ms: Option<u64>,
    pub(super) children: Vec<Self>,
    pub(super) numbered: u64,
}

/// A client without a user has an empty user.
fn unless_empty<'a, D: Deserializer<'a>>(deserializer: D) -> Result<Option<String>, D::Error> {
    Ok(Option::<String>::deserialize(deserializer)?.filter(|text| !text.is_empty()))
}
