//! Time: the coarse clock of an instance, and the time of day that frames carry.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime};

use crate::config::Config;
use crate::wire::Timestamp;

/// The time of a frame, as the classic protocol writes it.
pub(crate) fn timestamp() -> Timestamp {
    #[cfg(all(test, feature = "fault-injection"))]
    if let Some(virtual_time) = super::simulated::since_unix_epoch() {
        return Timestamp::from_unix(virtual_time);
    }
    // A clock before 1970 is wrong in any case; the frame goes out all the same.
    Timestamp::from_unix(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default())
}

/// At each tick all connections are looked at, which with tens of thousands takes milliseconds.
const MIN_TICK: Duration = Duration::from_millis(50);

/// Coarse time: one tick a second (less where a timeout is shorter), kept by the heartbeat.
///
/// Thousands of connections note when they were last served; reading a real clock each time, or a timer each, would
/// cost more than what it times.
#[derive(Debug)]
pub(crate) struct Clock {
    /// Starts at 1, because 0 stands for "never" wherever a tick is stored.
    tick: AtomicU32,
    pub(crate) period: Duration,
}

impl Clock {
    /// A clock fine enough for the shortest timeout that is measured in ticks.
    pub(crate) fn for_config(config: &Config) -> Self {
        let shortest = config
            .heartbeat_interval
            .min(config.frame_timeout)
            .min(config.topic_idle)
            .min(config.write_timeout)
            .min(config.stall_timeout);
        let period = (shortest / 4).clamp(MIN_TICK, Duration::from_secs(1));
        Self { tick: AtomicU32::new(1), period }
    }

    pub(crate) fn tick(&self) -> u32 {
        self.tick.load(Ordering::Relaxed)
    }

    pub(crate) fn advance(&self) -> u32 {
        let tick = self.tick.load(Ordering::Relaxed).wrapping_add(1).max(1);
        self.tick.store(tick, Ordering::Relaxed);
        tick
    }

    /// How many ticks `time` is, rounded up, and one more because the current tick is already running.
    pub(crate) fn ticks(&self, time: Duration) -> u32 {
        let ticks = time.as_nanos().div_ceil(self.period.as_nanos());
        u32::try_from(ticks).unwrap_or(u32::MAX - 1) + 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeout_in_ticks_is_never_shorter_than_the_time() {
        let clock = Clock::for_config(&Config::default());
        assert_eq!(clock.period, Duration::from_secs(1));
        assert_eq!(clock.ticks(Duration::from_secs(30)), 31);
        assert_eq!(clock.ticks(Duration::from_millis(1_001)), 3);
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
                assert_eq!(Clock::for_config(&config).period, Duration::from_millis(tick));
            }
        }
    }
}
