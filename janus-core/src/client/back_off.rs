//! The waits between attempts to connect: random, so that the clients of a restarted server do not all come at once.

use std::time::Duration;

/// The first and the longest wait.
#[derive(Clone, Copy, Debug)]
pub(super) struct BackOff {
    pub(super) first: Duration,
    pub(super) longest: Duration,
}

impl BackOff {
    /// The longest wait after this number of failures in a row, of which there is at least one.
    fn limit(self, failures: u32) -> Duration {
        let doubled = self.first.saturating_mul(1 << failures.saturating_sub(1).min(16));
        doubled.min(self.longest)
    }

    /// A random part of the wait.
    pub(super) fn wait(self, failures: u32) -> Duration {
        self.limit(failures).mul_f64(fastrand::f64())
    }

    /// A random part of the longest wait.
    pub(super) fn long_wait(self) -> Duration {
        self.longest.mul_f64(fastrand::f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_longest() {
        let back_off = BackOff { first: Duration::from_secs(1), longest: Duration::from_secs(30) };
        let limits: Vec<_> = (1..8).map(|failures| back_off.limit(failures).as_secs()).collect();
        assert_eq!(limits, [1, 2, 4, 8, 16, 30, 30]);
        assert_eq!(back_off.limit(u32::MAX).as_secs(), 30);
        let eternal = BackOff { first: Duration::MAX, longest: Duration::MAX };
        assert!(eternal.limit(9) == Duration::MAX);
        assert!((0..100).all(|_| back_off.wait(3) < Duration::from_secs(4)));
    }
}
