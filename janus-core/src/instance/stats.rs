//! The figures of an instance: readings of the present, and the counters since the start.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::janus::Janus;
use crate::ground::counters::{Readings, Stats};

impl Janus {
    /// The figures of the instance at this moment. The cost does not depend on the number of clients.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let shared = &self.inner.shared;
        let (sessions, detached_sessions) = shared.sessions.table.count();
        let ledger = shared.ledger();
        shared.counters.stats(&Readings {
            connections: shared.connections.table.len(),
            places_taken: shared.connections.table.placed(),
            connections_limit: shared.config().max_connections,
            sessions,
            attached_sessions: sessions.saturating_sub(detached_sessions),
            detached_sessions,
            topics: shared.topics.table.len(),
            memory_used: shared.memory_used(),
            memory_budget: shared.config().memory_budget_bytes,
            subscriptions: ledger.subscriptions(),
            slow_clients: shared.slow_clients.load(Ordering::Relaxed),
            queue_bytes: ledger.queues(),
            message_bytes: ledger.frames(),
            memory_pressure: shared.pressure() as usize,
            draining: usize::from(shared.is_draining()),
            io_uring: usize::from(shared.sending().is_through_rings()),
            nodes: shared.topics.cluster.as_ref().map_or(0, |cluster| cluster.exchange.count().unwrap_or(1)),
            io_uring_given_up: shared.sending().threads_without() as u64,
            published: shared.figures.published.total(),
            deliveries: shared.figures.deliveries.messages(),
            delivered_bytes: shared.figures.deliveries.bytes(),
            actor_restarts: shared.figures.restarts.counts().map(|(_, count)| count).sum(),
            hook_news_lost: shared.installed_hooks().map_or(0, |hooks| hooks.lost()),
        })
    }

    /// The time since the thread of the actors last took its turn to look at the clock: about a second at most, unless
    /// the thread is too busy or an actor hangs. For a check of liveness, or for the watchdog of a service manager.
    ///
    /// The instance names an actor that hangs in the log after 1 s, and ends itself after 5 s.
    ///
    /// ```
    /// # use janus_core::{Config, Janus};
    /// # use std::time::Duration;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let config = Config { listen: vec!["127.0.0.1:0".parse()?], ..Config::default() };
    /// let janus = Janus::builder().config(config).start().await?;
    /// let is_alive = janus.since_last_tick() < Duration::from_secs(5);
    /// assert!(is_alive);
    /// # janus.shutdown().await;
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn since_last_tick(&self) -> Duration {
        self.inner.shared.clock.since_tick()
    }
}
