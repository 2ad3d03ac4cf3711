//! What became of the questions, in figures.

use std::sync::atomic::{AtomicU64, Ordering};

figures! {
    /// The questions of an [`Ask`](super::Ask) since its start, and the present state.
    pub struct AskStats {
        ask_questions = "Questions about clients for the backend, by what became of them.";

        /// Questions that the backend answered with yes.
        allowed: u64 = counter as ask_questions { result = "allowed" },
        /// Questions that the backend answered with no.
        refused: u64 = counter as ask_questions { result = "refused" },
        /// Questions without a usable answer: no connection, status 500 and above, an answer that is not as expected.
        failed: u64 = counter as ask_questions { result = "failed" },
        /// Questions without an answer within `ask_timeout`; part of `failed`.
        timed_out: u64 = counter as ask_questions_timed_out,
        /// Questions that were not asked, because an earlier answer was kept.
        from_cache: u64 = counter as ask_questions { result = "from_cache" },
        /// Questions that were not asked, because `ask_concurrency` questions were under way.
        beyond_concurrency: u64 = counter as ask_questions { result = "beyond_concurrency" },
        /// Questions that were not asked, because the backend had failed too often.
        breaker_open: u64 = counter as ask_questions { result = "breaker_open" },
        /// Questions under way now.
        under_way: usize = gauge as ask_questions_under_way,
        /// Addresses of the backend that are left alone now, because too many questions have failed.
        open_breakers: usize = gauge as ask_open_breakers,
    }
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
