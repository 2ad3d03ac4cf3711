//! Time: the coarse clock of an instance, and the time of day that frames carry.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use crate::config::Config;
use crate::wire::Timestamp;

/// The time of a frame in the form of the classic protocol.
pub(crate) fn timestamp() -> Timestamp {
    // A clock before 1970 is wrong in any case; the frame goes out all the same.
    Timestamp::from_unix(now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default())
}

/// The time of day.
pub(crate) fn now() -> SystemTime {
    #[cfg(all(test, feature = "fault-injection"))]
    if let Some(virtual_time) = super::simulated::since_unix_epoch() {
        return SystemTime::UNIX_EPOCH + virtual_time;
    }
    SystemTime::now()
}

/// A moment of the coarse clock.
///
/// Counted in grains of 50 ms, whatever the time from one tick to the next, because a reload may change that time. The
/// count wraps around after seven years, so moments are compared by their distance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tick(u32);

impl Tick {
    pub(crate) const fn new(number: u32) -> Self {
        Self(number)
    }

    /// Grains from `earlier` to this moment.
    pub(crate) fn since(self, earlier: Self) -> u32 {
        self.0.wrapping_sub(earlier.0)
    }

    /// Grains from `other` to this moment; negative if this moment comes first.
    pub(crate) fn distance(self, other: Self) -> i32 {
        self.since(other) as i32
    }

    /// Whether this moment is `other` or later.
    pub(crate) fn has_reached(self, other: Self) -> bool {
        self.distance(other) >= 0
    }

    /// The moment this many grains later.
    pub(crate) fn after(self, ticks: u32) -> Self {
        Self(self.0.wrapping_add(ticks))
    }

    /// The moment this many grains earlier.
    pub(crate) fn before(self, ticks: u32) -> Self {
        Self(self.0.wrapping_sub(ticks))
    }

    /// The number, for code that packs a moment into fewer bits.
    pub(crate) fn number(self) -> u32 {
        self.0
    }
}

/// A moment of the coarse clock in four bytes that threads share; "never" at first.
#[derive(Debug, Default)]
pub(crate) struct AtomicTick(AtomicU32);

impl AtomicTick {
    /// Stands for "never": the clock gives no such tick.
    const NEVER: u32 = 0;

    pub(crate) fn get(&self) -> Option<Tick> {
        match self.0.load(Ordering::Relaxed) {
            Self::NEVER => None,
            tick => Some(Tick(tick)),
        }
    }

    pub(crate) fn set(&self, tick: Tick) {
        self.0.store(tick.0, Ordering::Relaxed);
    }

    pub(crate) fn clear(&self) {
        self.0.store(Self::NEVER, Ordering::Relaxed);
    }

    /// Sets the moment if it is still `earlier`; returns whether it was.
    pub(crate) fn advance(&self, earlier: Option<Tick>, tick: Tick) -> bool {
        let earlier = earlier.map_or(Self::NEVER, Tick::number);
        self.0.compare_exchange(earlier, tick.0, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }
}

/// A moment in tenths of a second since the start of the instance, for deadlines that last hours: ticks come late under
/// load, and hours of ticks could be a minute late.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Moment(u32);

/// A deadline in four bytes that threads share; "never" at first.
#[derive(Debug, Default)]
pub(crate) struct Deadline(AtomicU32);

impl Deadline {
    /// Stands for "never": a clock begins with a later moment.
    const NEVER: u32 = 0;

    pub(crate) fn set(&self, at: Option<Moment>) {
        self.0.store(at.map_or(Self::NEVER, |Moment(tenths)| tenths), Ordering::Relaxed);
    }

    /// The time left at `now`; nothing without a deadline.
    pub(crate) fn rest(&self, now: Moment) -> Duration {
        Duration::from_millis(100) * self.0.load(Ordering::Relaxed).saturating_sub(now.0)
    }

    pub(crate) fn is_over(&self, now: Moment) -> bool {
        let at = self.0.load(Ordering::Relaxed);
        at != Self::NEVER && at <= now.0
    }
}

/// The unit of moments, and the shortest time between two ticks: at each tick all connections are looked at, and with
/// tens of thousands of them a tick takes milliseconds.
const GRAIN: Duration = Duration::from_millis(50);

/// The most grains between two ticks: a second.
const MOST_GRAINS: u32 = 20;

/// Coarse time: one tick a second (less where a timeout is shorter), kept by the heartbeat.
///
/// Thousands of connections note when they were last served; to read a real clock each time, or to set a timer for
/// each, would cost more than the service.
#[derive(Debug)]
pub(crate) struct Clock {
    /// Starts at 1 and skips 0, the "never" of an [`AtomicTick`].
    tick: AtomicU32,
    /// The moment of the last tick, in milliseconds since `begun`.
    ticked: AtomicU64,
    /// Grains from one tick to the next.
    grains: AtomicU32,
    begun: Instant,
}

impl Clock {
    /// A clock fine enough for the shortest timeout measured in ticks.
    pub(crate) fn for_config(config: &Config) -> Self {
        Self {
            tick: AtomicU32::new(1),
            ticked: AtomicU64::new(0),
            grains: AtomicU32::new(grains_for(config)),
            begun: Instant::now(),
        }
    }

    /// Makes the clock as fine as these settings need, from the next tick on. Moments keep their meaning.
    pub(super) fn follow(&self, config: &Config) {
        self.grains.store(grains_for(config), Ordering::Relaxed);
    }

    /// The time from one tick to the next.
    pub(crate) fn period(&self) -> Duration {
        GRAIN * self.rounds(1)
    }

    /// The distance of moments that this many ticks are apart.
    pub(crate) fn rounds(&self, count: u32) -> u32 {
        count * self.grains.load(Ordering::Relaxed)
    }

    /// The time between moments of this distance.
    pub(crate) fn time(distance: u32) -> Duration {
        GRAIN * distance
    }

    pub(crate) fn moment(&self) -> Moment {
        Moment(tenths(self.begun.elapsed()).unwrap_or(u32::MAX))
    }

    /// The moment after this time, rounded up; `None` if the moment is more than 13 years after the start, for which
    /// no connection lasts.
    pub(crate) fn moment_after(&self, time: Duration) -> Option<Moment> {
        tenths(self.begun.elapsed().checked_add(time)?)?.checked_add(1).map(Moment)
    }

    pub(crate) fn tick(&self) -> Tick {
        Tick(self.tick.load(Ordering::Relaxed))
    }

    pub(crate) fn advance(&self) -> Tick {
        let tick = self.tick.load(Ordering::Relaxed).wrapping_add(self.rounds(1)).max(1);
        self.tick.store(tick, Ordering::Relaxed);
        self.ticked.store(self.milliseconds(), Ordering::Relaxed);
        Tick(tick)
    }

    /// The time since the last tick, or since the start.
    pub(crate) fn since_tick(&self) -> Duration {
        Duration::from_millis(self.milliseconds().saturating_sub(self.ticked.load(Ordering::Relaxed)))
    }

    /// Since the start.
    fn milliseconds(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// The distance of moments that are `time` apart, rounded up, and a tick more because the current tick is already
    /// running.
    pub(crate) fn ticks(&self, time: Duration) -> u32 {
        let grains = time.as_nanos().div_ceil(GRAIN.as_nanos());
        let running = self.rounds(1);
        u32::try_from(grains).unwrap_or(u32::MAX).saturating_add(running)
    }
}

fn grains_for(config: &Config) -> u32 {
    let shortest = config
        .heartbeat_interval
        .min(config.frame_timeout)
        .min(config.topic_idle)
        .min(config.write_timeout)
        .min(config.stall_timeout);
    let grains = shortest.as_nanos() / 4 / GRAIN.as_nanos();
    u32::try_from(grains).unwrap_or(MOST_GRAINS).clamp(1, MOST_GRAINS)
}

/// Whole tenths of a second, and one, because 0 stands for "never".
fn tenths(time: Duration) -> Option<u32> {
    u32::try_from(time.as_millis() / 100).ok()?.checked_add(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_deadline_is_over_after_its_time_and_not_before() {
        let clock = Clock::for_config(&Config::default());
        let deadline = Deadline::default();
        assert!(!deadline.is_over(clock.moment()), "never");
        deadline.set(clock.moment_after(Duration::from_millis(950)));
        tokio::time::advance(Duration::from_millis(949)).await;
        assert!(!deadline.is_over(clock.moment()));
        tokio::time::advance(Duration::from_millis(150)).await;
        assert!(deadline.is_over(clock.moment()));
        deadline.set(clock.moment_after(Duration::from_secs(1 << 30)));
        assert!(!deadline.is_over(clock.moment()), "a deadline out of reach is never over");
    }

    #[tokio::test(start_paused = true)]
    async fn the_time_since_the_last_tick_begins_anew_with_each_tick() {
        let clock = Clock::for_config(&Config::default());
        tokio::time::advance(Duration::from_secs(3)).await;
        assert_eq!(clock.since_tick(), Duration::from_secs(3));
        clock.advance();
        tokio::time::advance(Duration::from_millis(20)).await;
        assert_eq!(clock.since_tick(), Duration::from_millis(20));
    }

    #[test]
    fn a_timeout_in_ticks_is_never_shorter_than_the_time() {
        let clock = Clock::for_config(&Config::default());
        assert_eq!(clock.period(), Duration::from_secs(1));
        for (time, ticks) in [(30_000, 31), (1_001, 3), (1_000, 2), (10, 2)] {
            let before = clock.tick();
            let distance = clock.ticks(Duration::from_millis(time));
            let reached = (1..=ticks).find(|_| clock.advance().since(before) >= distance);
            assert_eq!(reached, Some(ticks), "{time} ms");
        }
    }

    #[test]
    fn a_clock_that_becomes_finer_or_coarser_keeps_the_moments() {
        let clock = Clock::for_config(&Config::default());
        let ends = clock.tick().after(clock.ticks(Duration::from_secs(10)));
        let fine = Config { write_timeout: Duration::from_millis(10), ..Config::default() };
        let mut time = Duration::ZERO;
        for config in [fine, Config::default()].iter().cycle() {
            clock.follow(config);
            time += clock.period();
            if clock.advance().has_reached(ends) {
                break;
            }
        }
        assert!((Duration::from_secs(10)..Duration::from_secs(13)).contains(&time), "{time:?}");
    }

    #[test]
    fn a_wrap_of_the_ticks_keeps_the_order_of_moments() {
        let late = Tick::new(u32::MAX - 1);
        let later = late.after(3);
        assert_eq!((later.since(late), late.distance(later)), (3, -3));
        assert!(later.has_reached(late) && later.has_reached(later) && !late.has_reached(later));
        assert_eq!(later.before(3), late);
    }

    #[test]
    fn a_shared_moment_is_never_until_it_is_set() {
        let moment = AtomicTick::default();
        assert_eq!(moment.get(), None);
        moment.set(Tick::new(4));
        assert_eq!(moment.get(), Some(Tick::new(4)));
        assert!(!moment.advance(None, Tick::new(5)) && moment.advance(Some(Tick::new(4)), Tick::new(5)));
        moment.clear();
        assert_eq!(moment.get(), None);
    }

    #[test]
    fn a_short_timeout_makes_the_clock_finer() {
        let config = |time| {
            let config = Config::default();
            [
                Config { frame_timeout: time, ..config.clone() },
                Config { heartbeat_interval: time, ..config.clone() },
                Config { write_timeout: time, ..config.clone() },
                Config { stall_timeout: time, ..config },
            ]
        };
        for (timeout, tick) in [(1_000, 250), (400, 100), (10, 50)] {
            for config in config(Duration::from_millis(timeout)) {
                assert_eq!(Clock::for_config(&config).period(), Duration::from_millis(tick));
            }
        }
    }
}
