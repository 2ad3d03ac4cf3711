//! A limit on log lines about single clients: a flood of clients must make no flood of lines. And counts in words.

use std::fmt;
use std::sync::atomic::{AtomicU32, Ordering};

/// Counts the lines of the current period: a tick, or a second. Threads that take lines at the same time may get a few more.
#[derive(Debug, Default)]
pub(crate) struct LogLines {
    period: AtomicU32,
    taken: AtomicU32,
}

impl LogLines {
    /// Lines in a period.
    const MAX: u32 = 32;

    /// Whether there may be another line in this period.
    pub(crate) fn take(&self, period: u32) -> bool {
        if self.period.swap(period, Ordering::Relaxed) != period {
            self.taken.store(0, Ordering::Relaxed);
        }
        self.taken.fetch_add(1, Ordering::Relaxed) < Self::MAX
    }
}

/// A number of things in words: `1 key`, `2 keys`.
pub(crate) fn counted(count: impl Into<u64>, noun: &str) -> impl fmt::Display {
    let count = count.into();
    fmt::from_fn(move |f| write!(f, "{count} {noun}{}", if count == 1 { "" } else { "s" }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_period_has_its_own_lines() {
        let lines = LogLines::default();
        for period in [0, 1, 7] {
            let taken = (0..1_000).filter(|_| lines.take(period)).count();
            assert_eq!(taken, LogLines::MAX as usize, "{period}");
        }
    }
}
