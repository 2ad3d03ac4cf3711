//! A common clock for all processes of a bench: nanoseconds since the Unix epoch that never go back.
//!
//! Monotonic clocks cannot be compared between processes. The system's clock can, but may be set at any time. So the
//! system's clock is read once, and the monotonic clock counts from there. Two processes on the same machine agree
//! within about a microsecond, unless the system's clock is set between their starts.

use std::time::{Duration, Instant, SystemTime};

#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    unix: u64,
    instant: Instant,
}

impl Clock {
    pub(super) fn start() -> Self {
        // The two clocks cannot be read at the same instant. The reading with the shortest gap is the most exact.
        let look = |_| {
            let before = Instant::now();
            let unix = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            let gap = before.elapsed();
            (gap, Self { unix: nanoseconds(unix), instant: before + gap / 2 })
        };
        let (_, clock) = (0..100).map(look).min_by_key(|(gap, _)| *gap).expect("the range is not empty");
        clock
    }

    pub(super) fn now(&self) -> u64 {
        self.unix + nanoseconds(self.instant.elapsed())
    }
}

pub(super) fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
