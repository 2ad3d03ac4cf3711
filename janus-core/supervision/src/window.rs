//! The sliding window for counting restarts.
//!
//! Pure: the caller passes the time. Owns the decision "another restart, or give up?" and nothing else.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

/// How many restarts are allowed within a period. After another restart, the supervisor gives up.
///
/// The default is that of OTP, 1 in 5 seconds. `max_restarts: 0` gives up at the first end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RestartIntensity {
    /// Restarts allowed within `period`.
    pub max_restarts: u32,
    /// The length of the window, which ends now. A restart exactly `period` ago still counts.
    pub period: Duration,
}

impl Default for RestartIntensity {
    fn default() -> Self {
        Self { max_restarts: 1, period: Duration::from_secs(5) }
    }
}

/// The restarts of the last period.
///
/// ```
/// use std::time::Duration;
/// use janus_supervision::{RestartIntensity, RestartWindow};
/// use tokio::time::Instant;
///
/// let mut window = RestartWindow::new(RestartIntensity { max_restarts: 1, period: Duration::from_secs(5) });
/// let start = Instant::now();
/// assert!(window.add(start));
/// assert!(!window.add(start + Duration::from_secs(5)));
/// assert!(window.add(start + Duration::from_secs(11)));
/// ```
#[derive(Clone, Debug)]
pub struct RestartWindow {
    intensity: RestartIntensity,
    // Oldest first; at most `max_restarts + 1` long.
    restarts: VecDeque<Instant>,
}

impl RestartWindow {
    /// An empty window.
    pub fn new(intensity: RestartIntensity) -> Self {
        Self { intensity, restarts: VecDeque::new() }
    }

    /// Counts a restart at `now` and says whether it is within the intensity.
    pub fn add(&mut self, now: Instant) -> bool {
        self.forget_before(now);
        self.restarts.push_back(now);
        let within = self.restarts.len() as u64 <= u64::from(self.intensity.max_restarts);
        if !within {
            // The newest restarts decide about the next restart; the oldest no longer can.
            self.restarts.pop_front();
        }
        within
    }

    /// The restarts that count at `now`.
    pub fn count(&mut self, now: Instant) -> u32 {
        self.forget_before(now);
        u32::try_from(self.restarts.len()).unwrap_or(u32::MAX)
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.restarts.clear();
    }

    fn forget_before(&mut self, now: Instant) {
        while self.restarts.front().is_some_and(|then| now.saturating_duration_since(*then) > self.intensity.period) {
            self.restarts.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn five_in_sixty() -> (RestartWindow, Instant) {
        (
            RestartWindow::new(RestartIntensity { max_restarts: 5, period: Duration::from_secs(60) }),
            Instant::now() + Duration::from_secs(1000),
        )
    }

    #[test]
    fn the_sixth_restart_within_the_period_is_too_many() {
        let (mut window, start) = five_in_sixty();
        for second in 0..5 {
            assert!(window.add(start + Duration::from_secs(second)));
        }
        assert!(!window.add(start + Duration::from_secs(59)));
    }

    #[test]
    fn a_restart_exactly_one_period_old_still_counts() {
        let (mut window, start) = five_in_sixty();
        for _ in 0..5 {
            assert!(window.add(start));
        }
        assert!(!window.clone().add(start + Duration::from_secs(60)));
        assert!(window.add(start + Duration::from_secs(60) + Duration::from_nanos(1)));
    }

    #[test]
    fn no_restart_is_allowed_with_an_intensity_of_zero() {
        let mut window = RestartWindow::new(RestartIntensity { max_restarts: 0, period: Duration::from_secs(5) });
        assert!(!window.add(Instant::now()));
    }

    #[test]
    fn a_period_too_long_for_the_clock_counts_every_restart() {
        let mut window = RestartWindow::new(RestartIntensity { max_restarts: 1, period: Duration::MAX });
        let now = Instant::now();
        assert!(window.add(now));
        assert!(!window.add(now + Duration::from_secs(86_400)));
    }
}
