//! The figures of an instance: readings of the present, and the counters since the start.

use super::janus::Janus;
use crate::ground::counters::{Readings, Stats};

impl Janus {
    /// The figures of the instance at this moment. The cost does not depend on the number of clients.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let shared = &self.inner.shared;
        let (sessions, detached_sessions) = shared.sessions.table.count();
        shared.counters.stats(&Readings {
            connections: shared.connections.table.len(),
            sessions,
            detached_sessions,
            topics: shared.topics.table.len(),
            memory_used: shared.memory_used(),
            memory_budget: shared.config.memory_budget_bytes,
            hook_news_lost: shared.hooks.as_ref().map_or(0, |hooks| hooks.lost()),
        })
    }
}
