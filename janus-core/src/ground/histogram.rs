//! How long something takes, counted in buckets.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde::Serialize;

/// The upper bounds of the buckets: from a fan-out to a few clients, to a client that waits for seconds.
const BOUNDS: &[Duration] = &[
    Duration::from_micros(100),
    Duration::from_micros(250),
    Duration::from_micros(500),
    Duration::from_micros(1_000),
    Duration::from_micros(2_500),
    Duration::from_millis(5),
    Duration::from_millis(10),
    Duration::from_millis(25),
    Duration::from_millis(50),
    Duration::from_millis(100),
    Duration::from_millis(250),
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_millis(2_500),
    Duration::from_secs(5),
    Duration::from_secs(10),
];

/// Durations in buckets. A record is two relaxed additions and takes no lock, so any thread may record at any time; a
/// reader may find a duration counted in its bucket and not yet in the sum.
#[derive(Debug)]
pub struct Histogram {
    /// The counts of the buckets, and of durations beyond the last bound.
    counts: [AtomicU64; BOUNDS.len() + 1],
    nanoseconds: AtomicU64,
}

impl Histogram {
    /// Counts a duration: in the first bucket whose bound the duration does not exceed.
    pub fn record(&self, duration: Duration) {
        let bucket = BOUNDS.partition_point(|bound| *bound < duration);
        self.counts[bucket].fetch_add(1, Ordering::Relaxed);
        // The sum lasts for 584 years.
        self.nanoseconds.fetch_add(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// A copy of the present counts.
    #[must_use]
    pub fn read(&self) -> Distribution {
        let counts = self.counts.iter().map(|count| count.load(Ordering::Relaxed)).collect();
        Distribution { bounds: BOUNDS, counts, sum: Duration::from_nanos(self.nanoseconds.load(Ordering::Relaxed)) }
    }
}

impl Default for Histogram {
    fn default() -> Self {
        Self { counts: [const { AtomicU64::new(0) }; BOUNDS.len() + 1], nanoseconds: AtomicU64::new(0) }
    }
}

/// How many durations lie in each bucket of a histogram.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Distribution {
    /// The upper bounds of the buckets, rising. A duration that equals a bound lies below the bound.
    pub bounds: &'static [Duration],
    /// The number of durations in each bucket, and at the end the number beyond the last bound.
    pub counts: Vec<u64>,
    /// The sum of all durations.
    pub sum: Duration,
}

impl Distribution {
    /// The number of all durations.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_lies_in_the_first_bucket_that_holds_it() {
        let histogram = Histogram::default();
        let long = Duration::from_secs(11);
        let durations = [Duration::ZERO, BOUNDS[0], BOUNDS[0] + Duration::from_nanos(1), BOUNDS[15], long];
        durations.iter().for_each(|duration| histogram.record(*duration));
        let read = histogram.read();
        assert_eq!((read.counts[0], read.counts[1], read.counts[15], read.counts[16]), (2, 1, 1, 1));
        assert_eq!((read.count(), read.sum), (5, durations.iter().sum()));
        assert_eq!(read.counts.len(), read.bounds.len() + 1);
    }

    #[test]
    fn the_bounds_rise_from_a_tenth_of_a_millisecond_to_ten_seconds() {
        assert!(BOUNDS.is_sorted_by(|bound, next| bound < next));
        assert_eq!((BOUNDS[0], BOUNDS[BOUNDS.len() - 1]), (Duration::from_micros(100), Duration::from_secs(10)));
    }

    #[test]
    fn records_of_many_threads_are_all_counted() {
        let histogram = Histogram::default();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..10_000).for_each(|micros| histogram.record(Duration::from_micros(micros))));
            }
        });
        assert_eq!((histogram.read().count(), histogram.read().sum), (40_000, Duration::from_micros(4 * 49_995_000)));
    }
}
