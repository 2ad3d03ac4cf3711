//! Log lines about failures that come in floods: one line for each period, with the number of failures.

use std::fmt;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// From one line to the next. An operator sees a failure within this time, and a day of failures is a page of lines.
const PERIOD: Duration = Duration::from_secs(10);

/// Counts failures of one kind.
#[derive(Debug, Default)]
pub(crate) struct Summed(Mutex<Sum>);

#[derive(Debug, Default)]
struct Sum {
    /// The time of the last line.
    told: Option<Instant>,
    /// Failures since the last line.
    untold: u64,
}

impl Summed {
    /// Counts a failure. Returns the number of failures since the last line, if a line is due.
    pub(crate) fn count(&self, failures: u64) -> Option<u64> {
        let now = Instant::now();
        let mut sum = self.0.lock();
        sum.untold += failures;
        if sum.told.is_some_and(|told| now.duration_since(told) < PERIOD) {
            return None;
        }
        sum.told = Some(now);
        Some(std::mem::take(&mut sum.untold))
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

    #[tokio::test(start_paused = true)]
    async fn a_flood_of_failures_is_a_line_for_each_period() {
        let summed = Summed::default();
        assert_eq!([summed.count(1), summed.count(1), summed.count(2)], [Some(1), None, None]);
        tokio::time::advance(PERIOD).await;
        assert_eq!([summed.count(1), summed.count(1)], [Some(4), None]);
    }
}
