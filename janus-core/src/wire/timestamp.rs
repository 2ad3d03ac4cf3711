//! The time of a frame, in the form inherited by the classic protocol from Erlang.

use std::time::Duration;

/// A point in time as written by Erlang's `now()`: 10^6 seconds, seconds and microseconds since the Unix epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp {
    /// Whole millions of seconds.
    pub mega: u32,
    /// Remaining seconds, below 1,000,000.
    pub sec: u32,
    /// Remaining microseconds, below 1,000,000.
    pub micro: u32,
}

impl Timestamp {
    /// Splits the time since the Unix epoch, as returned by `SystemTime::duration_since(UNIX_EPOCH)`.
    ///
    /// ```
    /// use std::time::Duration;
    /// use janus_core::wire::Timestamp;
    ///
    /// let timestamp = Timestamp::from_unix(Duration::from_micros(1_258_870_801_000_042));
    /// assert_eq!(timestamp, Timestamp { mega: 1_258, sec: 870_801, micro: 42 });
    /// ```
    #[must_use]
    pub fn from_unix(since_epoch: Duration) -> Self {
        let seconds = since_epoch.as_secs();
        Self {
            mega: u32::try_from(seconds / 1_000_000).unwrap_or(u32::MAX),
            sec: (seconds % 1_000_000) as u32,
            micro: since_epoch.subsec_micros(),
        }
    }

    /// The milliseconds since the Unix epoch.
    #[must_use]
    pub fn unix_millis(self) -> u64 {
        (u64::from(self.mega) * 1_000_000 + u64::from(self.sec)) * 1_000 + u64::from(self.micro / 1_000)
    }
}
