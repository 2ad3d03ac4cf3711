//! Defaults that follow from the machine or from another setting, where no layer has a value.
//!
//! Each derived default has words for help and documents, and an [`Origin`] for `config show`.

use std::time::Duration;

use super::load::Loaded;
use super::problems::Origin;
use super::table::index_of;
use crate::limits::Memory;

/// The default of a setting in words, if the default is derived.
pub(super) fn default_in_words(name: &str) -> Option<&'static str> {
    match name {
        "pong_timeout" => Some("20 s, or five times `heartbeat_interval` if shorter"),
        "memory_budget_bytes" => Some("half of the memory"),
        _ => None,
    }
}

/// Unanswered heartbeats until a client counts as dead.
const HEARTBEATS_WITHOUT_ANSWER: u32 = 5;

/// With less, a network that stalls for a moment would end live clients.
const SHORTEST_PONG_TIMEOUT: Duration = Duration::from_secs(1);

impl Loaded {
    /// Derives the values missing in all layers.
    pub(super) fn derive(&mut self, memory: Option<Memory>) {
        if let Some(memory) = memory.filter(|_| !self.is_set("memory_budget_bytes")) {
            self.settings.core.memory_budget_bytes = memory.budget();
            self.origins[index_of("memory_budget_bytes")] = Origin::Memory(memory);
        }
        // An operator with frequent pings wants to find dead clients soon.
        let core = &mut self.settings.core;
        let heartbeats = core.heartbeat_interval.saturating_mul(HEARTBEATS_WITHOUT_ANSWER).max(SHORTEST_PONG_TIMEOUT);
        let pong_timeout = index_of("pong_timeout");
        if matches!(self.origins[pong_timeout], Origin::Default) && heartbeats < core.pong_timeout {
            core.pong_timeout = heartbeats;
            self.origins[pong_timeout] = Origin::Heartbeat;
        }
    }
}
