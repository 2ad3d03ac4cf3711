//! What the engine costs, and which of its links are up: for metrics, for health, and for the log.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::Clustered;
use crate::engine::LinkError;
use crate::ground::histogram::Histogram;
use crate::topic::Topics;
use crate::wire::TopicName;

/// Figures of the engine that are no plain counters.
#[derive(Debug, Default)]
pub(crate) struct EngineFigures {
    /// From the request for a submission to the record or the answer, the first of the two.
    pub(crate) appends: Histogram,
    /// Links that have ended, by the reason.
    ends: Mutex<BTreeMap<&'static str, u64>>,
    /// Messages that wait for a submission or for its outcome.
    waiting: AtomicU64,
    /// When the log has told of a refused submission.
    told: Mutex<Option<Instant>>,
}

/// From one line about refused submissions to the next.
const TELL: Duration = Duration::from_secs(10);

/// The state of a link, for an operator.
#[derive(Clone, Debug)]
pub(crate) struct LinkState {
    pub(crate) is_up: bool,
    /// Since when the link is up or down.
    pub(crate) since: Instant,
    /// Whether there has ever been a link.
    pub(crate) has_been_up: bool,
    /// Why the last link has ended, or the last attempt has failed.
    pub(crate) last_error: Option<LinkError>,
}

impl Default for LinkState {
    fn default() -> Self {
        Self { is_up: false, since: Instant::now(), has_been_up: false, last_error: None }
    }
}

impl LinkState {
    pub(super) fn up(&mut self) {
        *self = Self { is_up: true, since: Instant::now(), has_been_up: true, last_error: self.last_error.take() };
    }

    pub(super) fn down(&mut self, error: LinkError) {
        if self.is_up {
            (self.is_up, self.since) = (false, Instant::now());
        }
        self.last_error = Some(error);
    }
}

impl EngineFigures {
    pub(super) fn ended(&self, reason: &'static str) {
        *self.ends.lock().entry(reason).or_default() += 1;
    }

    /// Counts a submission that the engine has refused, and logs the reason.
    pub(super) fn refused(&self, topic: &TopicName, reason: &str, shared: &Topics) {
        let refused = shared.counters.engine_refusals.fetch_add(1, Ordering::Relaxed) + 1;
        let mut told = self.told.lock();
        // Not a line for each message while a server is full.
        if told.is_none_or(|at| at.elapsed() >= TELL) {
            *told = Some(Instant::now());
            log::error!(topic:%, refused; "topic {topic}: the engine refuses messages ({refused} submissions so far): {reason}");
        }
    }

    /// Links that have ended, by the reason.
    pub(crate) fn ends(&self) -> BTreeMap<&'static str, u64> {
        self.ends.lock().clone()
    }

    /// Messages that wait for a submission or for its outcome.
    pub(crate) fn waiting(&self) -> u64 {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Takes over how many messages of a topic wait.
    pub(super) fn count_waiting(&self, clustered: &mut Clustered, waiting: usize) {
        let before = std::mem::replace(&mut clustered.counted, waiting);
        // Wraps around to the right sum.
        self.waiting.fetch_add((waiting as u64).wrapping_sub(before as u64), Ordering::Relaxed);
    }
}
