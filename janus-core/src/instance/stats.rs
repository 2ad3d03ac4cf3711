//! What an instance is doing and has done, as figures.

use std::sync::atomic::Ordering;

use serde::Serialize;

use super::janus::Janus;

/// What an instance is doing (the first six) and has done since its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Stats {
    /// Connections open now, also those without a place of `max_connections`; those that are being refused not counted.
    pub connections: usize,
    /// Sessions listed now, with and without a connection.
    pub sessions: usize,
    /// Of those, the ones without.
    pub detached_sessions: usize,
    /// Topics that exist now.
    pub topics: usize,
    /// Bytes that messages, queues, sessions, connections and topics take now, by the server's own account.
    pub memory_used: usize,
    /// The setting `memory_budget_bytes`, which they are held against; 0 if there is no budget.
    pub memory_budget: usize,
    /// Connections accepted and served: with a place of `max_connections`, as a request that was passed on, or as a publisher
    /// that found the server full.
    pub connections_accepted: u64,
    /// Clients refused because `max_connections` were connected, or because memory was nearly used up; those that
    /// [`Janus::serve`] has refused count as well.
    pub connections_refused: u64,
    /// Of those, the ones refused because memory was nearly used up.
    pub connections_refused_for_memory: u64,
    /// Clients cut off because they did not keep up: the sum of the next three.
    pub slow_consumers: u64,
    /// Of those, the ones whose queue was full.
    pub slow_consumers_queue_full: u64,
    /// Those that took nothing of what waited for them for `write_timeout`, or `stall_timeout`.
    pub slow_consumers_stalled: u64,
    /// Those whose queues were the largest when `memory_budget_bytes` was nearly used up.
    pub slow_consumers_out_of_memory: u64,
    /// Messages that a subscriber under the policy `drop_oldest` did not get.
    pub messages_dropped_oldest: u64,
    /// Messages that a subscriber under the policy `drop_newest` did not get.
    pub messages_dropped_newest: u64,
    /// Messages that a subscriber under the policy `conflate` did not get, because a later one took their place.
    pub messages_conflated: u64,
    /// Messages that topics did not keep for as long as they may, because memory was short.
    pub messages_trimmed: u64,
    /// Sessions without a connection that ended before their time, because memory was short.
    pub sessions_ended_for_memory: u64,
    /// Connections closed because memory was short and they held some without having asked for anything: frames, heads and
    /// messages under way beyond `input_share`, and clients that connected and did no more.
    pub connections_closed_for_memory: u64,
    /// Frames of clients that were answered with an error as they stood; messages that their topic refused not counted.
    pub frames_refused: u64,
    /// Clients closed because a frame stayed unfinished for `frame_timeout`.
    pub frames_timed_out: u64,
    /// Clients closed because they did not answer a ping within `pong_timeout`.
    pub pings_unanswered: u64,
    /// Times that accepting paused because the process or the system ran out of descriptors.
    pub accept_pauses: u64,
    /// What observers were not told, because `hook_queue` waited for them already.
    pub hook_news_lost: u64,
}

impl Janus {
    /// What the instance is doing and has done.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let shared = &self.inner.shared;
        let (sessions, detached_sessions) = shared.sessions.table.count();
        let drops = shared.ledger().counts();
        let count = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        Stats {
            connections: shared.connections.table.len(),
            sessions,
            detached_sessions,
            topics: shared.topics.table.len(),
            memory_used: shared.memory_used(),
            memory_budget: shared.config.memory_budget_bytes,
            connections_accepted: count(&shared.counters.connections_accepted),
            connections_refused: count(&shared.counters.connections_refused),
            connections_refused_for_memory: count(&shared.counters.connections_refused_for_memory),
            slow_consumers: drops.queue_full + drops.stalled + drops.out_of_memory,
            slow_consumers_queue_full: drops.queue_full,
            slow_consumers_stalled: drops.stalled,
            slow_consumers_out_of_memory: drops.out_of_memory,
            messages_dropped_oldest: drops.dropped_oldest,
            messages_dropped_newest: drops.dropped_newest,
            messages_conflated: drops.conflated,
            messages_trimmed: count(&shared.counters.messages_trimmed),
            sessions_ended_for_memory: count(&shared.counters.sessions_ended_for_memory),
            connections_closed_for_memory: count(&shared.counters.connections_closed_for_memory),
            frames_refused: count(&shared.counters.frames_refused),
            frames_timed_out: count(&shared.counters.frames_timed_out),
            pings_unanswered: count(&shared.counters.pings_unanswered),
            accept_pauses: count(&shared.counters.accept_pauses),
            hook_news_lost: shared.hooks.as_ref().map_or(0, |hooks| hooks.lost()),
        }
    }
}
