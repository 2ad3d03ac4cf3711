//! Keeps an instance within its memory budget, by giving up the least important things first.
//!
//! Ten times a second, the keeper compares the accounted bytes
//! ([`Connections::memory_used`](crate::connection::Connections::memory_used)) with `memory_budget_bytes`, and acts at
//! four thresholds: history is trimmed, then detached sessions end, then the clients with the largest queues are
//! closed. At the last threshold the Acceptor refuses new connections by itself. A harsher measure comes only when the
//! milder ones are used up; each stops as soon as usage is below the threshold. Before all measures, at the first
//! threshold, strangers give back their holdings (see [`strangers`]).
//!
//! The keeper owns nothing: pressure and counters are with the tables, so its successor continues after a crash.
//! Without a budget the keeper sleeps until a reload brings one. It works in portions, so the arbiter serves clients in between.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::task::yield_now;
use tokio::time::MissedTickBehavior;

use super::shared::Shared;
use crate::connection::acceptor::REFUSE;
use crate::topic::manager::{TRIM_PORTION as TOPICS, trim_topics};
use strangers::{Strangers, largest_queues};

mod strangers;

/// Per cent of the budget from which on topics keep fewer messages than they may.
const TRIM: usize = 80;

/// From this on detached sessions end, first the oldest of the address with the most.
const END_SESSIONS: usize = 90;

/// From this on the clients with the largest queues are closed.
const CLOSE_CLIENTS: usize = 92;

/// How far usage must have fallen below a threshold, in per cent of the budget, and for how many looks, until the alarm
/// is over. Otherwise the memory given back at a threshold would raise the alarm and end it many times a second.
const MARGIN: usize = 5;
const CALM_LOOKS: u32 = 10;

const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// The pressure at which topics keep nothing: a shift by this number leaves nothing of the largest possible limits.
const KEEP_NOTHING: u32 = 31;

/// Detached sessions ended before clients get their turn, and before usage is looked at again.
const SESSIONS: usize = 16;

/// The part of the detached sessions ended in one look while no client need be closed, as a divisor.
const SHARE: usize = 8;

/// Clients closed in a look.
const CLIENTS: usize = 32;

/// A client with less in the queue is only a moment behind; to close this client gives back next to nothing.
const WORTH_CLOSING: usize = 16 * 1024;

/// Connections looked at before the table is free for changes.
const CONNECTIONS: usize = 1_024;

/// Looks after the budget, for ever.
pub(crate) async fn run(shared: Arc<Shared>) {
    let mut reloads = shared.reloads();
    let mut keeper = Keeper::new(Arc::clone(&shared));
    let mut looks = tokio::time::interval(LOOK_INTERVAL);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        looks.tick().await;
        if shared.config().memory_budget_bytes > 0 {
            keeper.look().await;
            continue;
        }
        // An earlier budget may have left pressure behind.
        shared.pressure.store(0, Ordering::Relaxed);
        keeper = Keeper::new(Arc::clone(&shared));
        // The sender lives as long as `shared`.
        let _ = reloads.changed().await;
    }
}

struct Keeper {
    shared: Arc<Shared>,
    trimming: Alarm,
    ending_sessions: Alarm,
    closing_clients: Alarm,
    refusing: Alarm,
    /// Whether topics keep nothing any more, so nothing is left to trim.
    trimmed_all: bool,
    strangers: Strangers,
}

impl Keeper {
    fn new(shared: Arc<Shared>) -> Self {
        // A predecessor that crashed may have left pressure behind, and only the end of an alarm takes pressure away.
        let trimming = Alarm { raised: shared.pressure() > 0, ..Alarm::new(TRIM) };
        Self {
            shared,
            trimming,
            ending_sessions: Alarm::new(END_SESSIONS),
            closing_clients: Alarm::new(CLOSE_CLIENTS),
            refusing: Alarm::new(REFUSE),
            trimmed_all: false,
            strangers: Strangers::default(),
        }
    }

    async fn look(&mut self) {
        if !self.strangers.look(&self.shared).await {
            self.trim().await;
            self.end_sessions().await;
            self.close_clients().await;
        }
        match self.refusing.note(&self.shared) {
            Some(Change::Raised) => log::error!("memory: {}; refusing new connections", self.figures()),
            Some(Change::Over) => log::info!("memory: {}; accepting new connections again", self.figures()),
            None => {}
        }
    }

    async fn trim(&mut self) {
        match self.trimming.note(&self.shared) {
            Some(Change::Raised) => log::warn!("memory: {}; topics keep fewer messages", self.figures()),
            Some(Change::Over) => {
                self.shared.pressure.store(0, Ordering::Relaxed);
                self.trimmed_all = false;
                log::info!("memory: {}; topics keep as many messages as configured again", self.figures());
            }
            None => {}
        }
        while self.shared.memory_is_at(TRIM) && !self.trimmed_all {
            let pressure = harder(self.shared.pressure());
            self.shared.pressure.store(pressure, Ordering::Relaxed);
            trim_topics(&self.shared, pressure).await;
            self.trimmed_all = pressure == KEEP_NOTHING;
            if !self.shared.memory_is_at(END_SESSIONS) {
                break;
            }
        }
    }

    async fn end_sessions(&mut self) {
        let shared = &self.shared;
        match self.ending_sessions.note(shared) {
            Some(Change::Raised) => log::warn!("memory: {}; ending sessions without a connection", self.figures()),
            Some(Change::Over) => log::info!("memory: {}; sessions are kept for their full TTL again", self.figures()),
            None => {}
        }
        let (_, detached) = shared.sessions.table.count();
        let share = if shared.memory_is_at(CLOSE_CLIENTS) { detached } else { (detached / SHARE).max(SESSIONS) };
        let mut ended = 0;
        while ended < share && shared.memory_is_at(END_SESSIONS) {
            let portion = shared.sessions.table.end_oldest(SESSIONS);
            if portion == 0 {
                break;
            }
            ended += portion;
            shared.counters.sessions_ended_for_memory.fetch_add(portion as u64, Ordering::Relaxed);
            yield_now().await;
        }
    }

    /// Each client is named in the log at the end of its connection, like any slow consumer.
    async fn close_clients(&mut self) {
        match self.closing_clients.note(&self.shared) {
            Some(Change::Raised) => {
                log::error!("memory: {}; closing the clients with the largest queues", self.figures());
            }
            Some(Change::Over) => log::info!("memory: {}; no longer closing clients", self.figures()),
            None => {}
        }
        if !self.shared.memory_is_at(CLOSE_CLIENTS) {
            return;
        }
        for slot in largest_queues(&self.shared, CLIENTS).await {
            // A message may wait in many queues, so the memory given back by closing one queue is known only
            // afterwards.
            if !self.shared.memory_is_at(CLOSE_CLIENTS) {
                return;
            }
            // The client may have caught up since.
            if slot.queued().map_or(0, |(bytes, _)| bytes) >= WORTH_CLOSING {
                slot.end_for_memory();
            }
            yield_now().await;
        }
    }

    fn figures(&self) -> String {
        figures(&self.shared)
    }
}

fn figures(shared: &Shared) -> String {
    let mib = |bytes: usize| bytes as f64 / f64::from(1 << 20);
    let (used, budget) = (shared.memory_used(), shared.config().memory_budget_bytes);
    format!("{:.1} MiB of {:.1} MiB used ({} %)", mib(used), mib(budget), used / (budget / 100).max(1))
}

/// The next step after this pressure: a quarter, a 16th, a 256th of the limits of topics, and so on to nothing.
fn harder(pressure: u32) -> u32 {
    (pressure * 2).clamp(2, KEEP_NOTHING)
}

/// Whether usage is over a threshold, for a line in the log at the beginning and at the end of that time.
struct Alarm {
    threshold: usize,
    raised: bool,
    calm_looks: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    Raised,
    Over,
}

impl Alarm {
    fn new(threshold: usize) -> Self {
        Self { threshold, raised: false, calm_looks: 0 }
    }

    fn note(&mut self, shared: &Shared) -> Option<Change> {
        let bound = if self.raised { self.threshold - MARGIN } else { self.threshold };
        self.note_over(shared.memory_is_at(bound))
    }

    /// Called once a look, with whether usage is over the threshold, or not yet well below it once the alarm is raised.
    fn note_over(&mut self, over: bool) -> Option<Change> {
        self.calm_looks = if over { 0 } else { self.calm_looks + 1 };
        let raised = over || self.raised && self.calm_looks < CALM_LOOKS;
        if std::mem::replace(&mut self.raised, raised) == raised {
            return None;
        }
        Some(if raised { Change::Raised } else { Change::Over })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topic::ring::Keep;

    #[test]
    fn pressure_rises_until_topics_keep_nothing() {
        let steps: Vec<_> = std::iter::successors(Some(0), |&pressure| Some(harder(pressure))).take(7).collect();
        assert_eq!(steps, [0, 2, 4, 8, 16, KEEP_NOTHING, KEEP_NOTHING]);
        // The largest limits that pass `Config::validate`.
        let keep = Keep { messages: 1_000_000, bytes: 1 << 30, age: 7 };
        assert_eq!(keep.under_pressure(KEEP_NOTHING), Keep { messages: 0, bytes: 0, age: 7 });
    }

    #[test]
    fn an_alarm_is_logged_once_at_its_begin_and_once_at_its_end() {
        let mut alarm = Alarm::new(TRIM);
        assert_eq!(alarm.note_over(false), None);
        assert_eq!(alarm.note_over(true), Some(Change::Raised));
        let almost = CALM_LOOKS - 1;
        for over in std::iter::repeat_n(false, almost as usize).chain([true]).cycle().take(100) {
            assert_eq!(alarm.note_over(over), None);
        }
        alarm.note_over(true);
        let calm: Vec<_> = (0..CALM_LOOKS + 5).filter_map(|_| alarm.note_over(false)).collect();
        assert_eq!(calm, [Change::Over]);
    }
}
