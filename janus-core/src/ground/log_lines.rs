//! A limit on log lines about single clients: a flood of clients must make no flood of lines.

use std::sync::atomic::{AtomicU32, Ordering};

/// Counts the lines of the current tick; used by one thread alone.
#[derive(Debug, Default)]
pub(crate) struct LogLines {
    tick: AtomicU32,
    taken: AtomicU32,
}

impl LogLines {
    /// Lines in one tick.
    const MAX: u32 = 32;

    /// Whether there may be another line in this tick.
    pub(crate) fn take(&self, tick: u32) -> bool {
        if self.tick.swap(tick, Ordering::Relaxed) != tick {
            self.taken.store(0, Ordering::Relaxed);
        }
        self.taken.fetch_add(1, Ordering::Relaxed) < Self::MAX
    }
}
