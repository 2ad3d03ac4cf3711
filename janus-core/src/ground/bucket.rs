//! Rates: how many events a second, and how many at once, kept by a token bucket.
//!
//! A bucket is one moment, the time at which the bucket will be full again, so a bucket costs eight bytes and no timer.
//! The rate itself is kept once for all buckets.

use std::num::NonZeroI64;
use std::sync::LazyLock;
use std::time::Duration;

use tokio::time::Instant;

const NANOS_PER_SECOND: u64 = 1_000_000_000;

/// A number of events per second, and of events at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rate {
    per_second: u64,
    /// The time that fills all of an empty bucket but the last event.
    ahead: Duration,
}

impl Rate {
    /// A rate of 0 counts as 1, and so does a burst of 0.
    pub(crate) fn new(per_second: usize, burst: usize) -> Self {
        let (per_second, others) = (per_second.max(1) as u64, burst.saturating_sub(1) as u64);
        let nanos = u128::from(others) * u128::from(NANOS_PER_SECOND) / u128::from(per_second);
        Self { per_second, ahead: Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX)) }
    }

    /// The time that makes room for this many events.
    fn time(self, events: usize) -> Duration {
        Duration::from_nanos((events as u64).saturating_mul(NANOS_PER_SECOND) / self.per_second)
    }
}

/// The room that is left under a [`Rate`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Bucket {
    /// When the bucket is full; `None` before the first event.
    full: Option<Compact>,
}

/// A moment in half the bytes of an [`Instant`]: nanoseconds since the first bucket of the process, or before. The moments
/// of a test with a clock of its own may be earlier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Compact(NonZeroI64);

static FIRST: LazyLock<std::time::Instant> = LazyLock::new(std::time::Instant::now);

impl From<Instant> for Compact {
    fn from(moment: Instant) -> Self {
        let (moment, first) = (moment.into_std(), *FIRST);
        // Nanoseconds last for 292 years.
        let nanos = match moment.checked_duration_since(first) {
            Some(after) => after.as_nanos() as i64,
            None => -(first.duration_since(moment).as_nanos() as i64),
        };
        const ONE: NonZeroI64 = NonZeroI64::new(1).unwrap();
        Self(NonZeroI64::new(nanos).unwrap_or(ONE))
    }
}

impl From<Compact> for Instant {
    fn from(Compact(nanos): Compact) -> Self {
        let distance = Duration::from_nanos(nanos.get().unsigned_abs());
        let moment = if nanos.get() > 0 { *FIRST + distance } else { *FIRST - distance };
        Self::from_std(moment)
    }
}

impl Bucket {
    fn full(&self) -> Option<Instant> {
        self.full.map(Instant::from)
    }

    /// Whether there is room for an event now, or when there will be.
    pub(crate) fn admits(&self, rate: Rate, now: Instant) -> Result<(), Instant> {
        match self.full() {
            Some(full) if full > now + rate.ahead => Err(full - rate.ahead),
            _ => Ok(()),
        }
    }

    /// Counts an event if there is room now; otherwise says when there will be.
    pub(crate) fn take(&mut self, rate: Rate, now: Instant) -> Result<(), Instant> {
        self.admits(rate, now)?;
        self.count(rate, now, 1);
        Ok(())
    }

    /// Takes back an event that was counted and has not happened.
    pub(crate) fn give_back(&mut self, rate: Rate) {
        self.full = self.full().map(|full| (full - rate.time(1)).into());
    }

    /// The number of events for which there is room now.
    pub(crate) fn room(&self, rate: Rate, now: Instant) -> usize {
        let missing = self.full().map_or(Duration::ZERO, |full| full.saturating_duration_since(now));
        let Some(free) = rate.ahead.checked_sub(missing) else { return 0 };
        let room = free.as_nanos() * u128::from(rate.per_second) / u128::from(NANOS_PER_SECOND) + 1;
        usize::try_from(room).unwrap_or(usize::MAX)
    }

    /// Counts events, with or without room.
    pub(crate) fn count(&mut self, rate: Rate, now: Instant, events: usize) {
        let full = self.full().unwrap_or(now).max(now) + rate.time(events);
        self.full = Some(full.into());
    }

    /// Whether the bucket is like a new one.
    pub(crate) fn is_full(&self, now: Instant) -> bool {
        self.full().is_none_or(|full| full <= now)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_bucket_takes_eight_bytes() {
        assert_eq!(size_of::<Bucket>(), 8);
    }

    #[test]
    fn a_burst_may_come_at_once_and_then_the_rate_holds() {
        for (rate, burst) in [(1, 1), (20, 2), (100_000, 10_000), (10, 256)] {
            let begun = Instant::now();
            let (limit, mut bucket) = (Rate::new(rate, burst), Bucket::default());
            let (mut now, mut first) = (begun, None);
            for count in 0..rate + burst {
                if let Err(time) = bucket.admits(limit, now) {
                    first.get_or_insert(count);
                    assert!(time > now);
                    now = time;
                }
                assert_eq!(bucket.admits(limit, now), Ok(()));
                bucket.count(limit, now, 1);
            }
            assert_eq!(first, Some(burst));
            let error = (now - begun).as_secs_f64() - 1.0;
            assert!(error.abs() < 1e-3, "the rest took {:?}", now - begun);
        }
    }

    #[test]
    fn an_event_that_has_not_happened_leaves_its_room_to_another() {
        let (limit, now) = (Rate::new(20, 2), Instant::now());
        let mut bucket = Bucket::default();
        assert_eq!([bucket.take(limit, now), bucket.take(limit, now)], [Ok(()); 2]);
        let until = bucket.take(limit, now).unwrap_err();
        assert_eq!(until - now, Duration::from_millis(50));
        bucket.give_back(limit);
        assert_eq!(bucket.take(limit, now), Ok(()));
        assert_eq!(bucket.take(limit, now), Err(until));
    }

    #[test]
    fn a_bucket_that_nobody_uses_is_full_after_the_time_of_a_burst() {
        let (limit, begun) = (Rate::new(10, 5), Instant::now());
        let mut bucket = Bucket::default();
        assert!(bucket.is_full(begun));
        assert_eq!(bucket.room(limit, begun), 5);
        bucket.count(limit, begun, 5);
        assert_eq!(bucket.room(limit, begun), 0);
        assert_eq!(bucket.room(limit, begun + Duration::from_millis(250)), 2);
        assert!(!bucket.is_full(begun + Duration::from_millis(499)));
        let later = begun + Duration::from_millis(500);
        assert!(bucket.is_full(later));
        assert_eq!(bucket.room(limit, later + Duration::from_secs(100)), 5, "and no fuller");
    }

    proptest! {
        /// In any time, no more events pass than the burst and the rate allow, and an event that waits for its time
        /// passes.
        #[test]
        fn no_time_has_more_events_than_burst_and_rate(
            rate in 1_usize..2_000,
            burst in 1_usize..300,
            steps in prop::collection::vec((0_u64..50_000, 1_usize..40), 1..100),
        ) {
            let (limit, begun) = (Rate::new(rate, burst), Instant::now());
            let (mut bucket, mut now, mut passed) = (Bucket::default(), begun, 0_usize);
            for (micros, wants) in steps {
                now += Duration::from_micros(micros);
                for _ in 0..wants {
                    let room = bucket.room(limit, now);
                    prop_assert_eq!(room > 0, bucket.admits(limit, now).is_ok());
                    if room == 0 {
                        break;
                    }
                    bucket.count(limit, now, 1);
                    passed += 1;
                }
                let most = burst as f64 + (now - begun).as_secs_f64() * rate as f64;
                // A nanosecond is lost with each event.
                prop_assert!(passed as f64 <= most + 0.001 * passed as f64 + 1e-6, "{} of {}", passed, most);
            }
            if let Err(time) = bucket.admits(limit, now) {
                prop_assert_eq!(bucket.admits(limit, time), Ok(()));
            }
        }
    }
}
