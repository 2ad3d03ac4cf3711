//! What became of the questions, in figures.

use std::sync::atomic::{AtomicU64, Ordering};

/// The questions of an [`Ask`](super::Ask) since its start, and the present state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct AskStats {
    /// Questions that the backend answered with yes.
    pub allowed: u64,
    /// Questions that the backend answered with no.
    pub refused: u64,
    /// Questions without a usable answer: no connection, status 500 and above, an answer that is not as expected.
    pub failed: u64,
    /// Questions without an answer within `ask_timeout`; part of `failed`.
    pub timed_out: u64,
    /// Questions that were not asked, because an earlier answer was kept.
    pub from_cache: u64,
    /// Questions that were not asked, because `ask_concurrency` questions were under way.
    pub beyond_concurrency: u64,
    /// Questions that were not asked, because the backend had failed too often.
    pub breaker_open: u64,
    /// Questions under way now.
    pub under_way: usize,
    /// Addresses that are left alone now, because too many questions have failed.
    pub open_breakers: usize,
}

#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) allowed: AtomicU64,
    pub(super) refused: AtomicU64,
    pub(super) failed: AtomicU64,
    pub(super) timed_out: AtomicU64,
    pub(super) from_cache: AtomicU64,
    pub(super) beyond_concurrency: AtomicU64,
    pub(super) breaker_open: AtomicU64,
}

pub(super) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

impl Counters {
    pub(super) fn stats(&self, under_way: usize, open_breakers: usize) -> AskStats {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        AskStats {
            allowed: read(&self.allowed),
            refused: read(&self.refused),
            failed: read(&self.failed),
            timed_out: read(&self.timed_out),
            from_cache: read(&self.from_cache),
            beyond_concurrency: read(&self.beyond_concurrency),
            breaker_open: read(&self.breaker_open),
            under_way,
            open_breakers,
        }
    }
}
