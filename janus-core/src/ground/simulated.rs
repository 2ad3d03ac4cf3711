//! Time and randomness of a simulation, for code that would otherwise ask the system for them.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

thread_local! {
    /// When the simulation of this thread began.
    static BEGIN: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// Begins a simulation on this thread, in place of an earlier one.
pub(crate) fn begin() {
    BEGIN.set(Some(Instant::now()));
}

/// Ends the simulation of this thread.
pub(crate) fn end() {
    BEGIN.set(None);
}

pub(crate) fn is_running() -> bool {
    BEGIN.get().is_some()
}

/// Virtual time, if this thread runs a simulation: the length of a frame must not depend on the clock of the machine.
pub(crate) fn since_unix_epoch() -> Option<Duration> {
    Some(Duration::from_secs(1_700_000_000) + BEGIN.get()?.elapsed())
}

/// A seed in place of the system's randomness, if this thread runs a simulation.
pub(crate) fn seed() -> Option<u64> {
    Some(BEGIN.get()?.elapsed().as_nanos() as u64)
}

/// The source of all decisions. Clones share a single sequence, which is splitmix64.
#[derive(Clone, Debug)]
pub(crate) struct Chance(Arc<AtomicU64>);

impl Chance {
    pub(crate) fn new(seed: u64) -> Self {
        Self(Arc::new(AtomicU64::new(seed)))
    }

    fn next(&self) -> u64 {
        let mut z = self.0.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed).wrapping_add(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `limit`.
    pub(crate) fn below(&self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }

    pub(crate) fn one_in(&self, many: usize) -> bool {
        self.below(many) == 0
    }

    pub(crate) fn pick<T: Copy>(&self, among: &[T]) -> T {
        among[self.below(among.len())]
    }

    /// Lets other tasks run, a few times or not at all.
    pub(crate) async fn pause(&self) {
        let turns = if self.one_in(40) { 40 } else { self.below(8).saturating_sub(3) };
        for _ in 0..turns {
            tokio::task::yield_now().await;
        }
    }
}
