//! A place in a topic's order, and its text.

use std::fmt;
use std::str::FromStr;

/// A place in a topic's order, where a subscriber resumes after a lost connection.
///
/// A number means nothing without the epoch: a topic that starts afresh takes a new epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Position {
    /// The life of the topic, as in [`Receipt::epoch`](crate::Receipt::epoch).
    pub epoch: u64,
    /// The number of the last message received; 0 before the first.
    pub seq: u64,
}

/// The epoch in 16 hexadecimal digits, a dot, and the number: `9f86d081884c7d65.42`. The text has no blanks, and parses
/// back to the same position.
impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}.{}", self.epoch, self.seq)
    }
}

impl FromStr for Position {
    type Err = PositionError;

    /// ```
    /// use janus_core::Position;
    ///
    /// let position: Position = "9f86d081884c7d65.42".parse()?;
    /// assert_eq!((position.seq, &*position.to_string()), (42, "9f86d081884c7d65.42"));
    /// # Ok::<_, janus_core::wire::PositionError>(())
    /// ```
    fn from_str(text: &str) -> Result<Self, PositionError> {
        let (epoch, seq) = text.split_once('.').ok_or(PositionError)?;
        if epoch.len() != 16
            || !epoch.bytes().all(|byte| byte.is_ascii_hexdigit())
            || !seq.bytes().all(|byte| byte.is_ascii_digit())
        {
            return Err(PositionError);
        }
        let epoch = u64::from_str_radix(epoch, 16).map_err(|_| PositionError)?;
        Ok(Self { epoch, seq: seq.parse().map_err(|_| PositionError)? })
    }
}

/// The text is not a [`Position`]; its author is to blame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a position: expected 16 hexadecimal digits, a dot and a number, as in 9f86d081884c7d65.42")]
pub struct PositionError;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_reads_back_from_its_text_and_from_no_other_text() {
        for position in [Position { epoch: 0, seq: 0 }, Position { epoch: 0xab, seq: 7 }] {
            assert_eq!(position.to_string().parse(), Ok(position));
        }
        let longest = Position { epoch: u64::MAX, seq: u64::MAX };
        assert_eq!(longest.to_string().parse(), Ok(longest));
        let bad = [
            "",
            ".",
            "7.7",
            "00000000000000ab",
            "00000000000000ab.",
            "00000000000000ab.-1",
            "00000000000000ab.+1",
            "+0000000000000ab.1",
            "00000000000000xb.1",
            "000000000000000ab.1",
            "00000000000000ab.1 ",
            "00000000000000ab.18446744073709551616",
        ];
        for text in bad {
            assert_eq!(text.parse::<Position>(), Err(PositionError), "{text}");
        }
    }
}
