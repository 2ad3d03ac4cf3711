//! A place in a topic's order, and its text.

use std::fmt;
use std::str::FromStr;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The name of one life of a topic. The numbers of an epoch have no hole; a topic that starts afresh takes a new epoch,
/// at random.
///
/// The text of an epoch is 16 hexadecimal digits everywhere, even in JSON, whose numbers are too small.
///
/// ```
/// use janus_core::wire::Epoch;
///
/// let epoch: Epoch = "9f86d081884c7d65".parse()?;
/// assert_eq!((epoch, &*epoch.to_string()), (Epoch::new(0x9f86_d081_884c_7d65), "9f86d081884c7d65"));
/// assert_eq!(format!("{epoch:?}"), "Epoch(9f86d081884c7d65)");
/// # Ok::<_, janus_core::wire::EpochError>(())
/// ```
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Epoch(u64);

impl Epoch {
    /// The epoch of a topic that does not exist. No topic has this epoch.
    pub const NONE: Self = Self(0);

    /// The epoch with this number.
    #[must_use]
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// The number of the epoch.
    #[must_use]
    pub const fn number(self) -> u64 {
        self.0
    }
}

/// The digits of `Display`, so that a log and a frame show the same.
impl fmt::Debug for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Epoch({self})")
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl FromStr for Epoch {
    type Err = EpochError;

    fn from_str(text: &str) -> Result<Self, EpochError> {
        // `from_str_radix` alone would also accept a sign, and fewer digits.
        let has_digits = text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        has_digits.then(|| u64::from_str_radix(text, 16).ok()).flatten().map(Self).ok_or(EpochError)
    }
}

/// As text.
impl Serialize for Epoch {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// From text.
impl<'de> Deserialize<'de> for Epoch {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

/// The text is not an [`Epoch`]: a mistake of its author.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an epoch: expected 16 hexadecimal digits, as in 9f86d081884c7d65")]
pub struct EpochError;

/// A place in a topic's order, where a subscriber resumes after a lost connection.
///
/// A number means nothing without the epoch: a topic that starts afresh takes a new epoch.
///
/// Serde writes the shape that `since` has in `janus.v1.json`, and reads this shape from any object with its two keys, such
/// as a receipt. The shorter text is that of `Display`.
///
/// ```
/// use janus_core::Position;
///
/// let position: Position = "9f86d081884c7d65.42".parse()?;
/// let json = r#"{"epoch":"9f86d081884c7d65","seq":42}"#;
/// assert_eq!(serde_json::to_string(&position)?, json);
/// assert_eq!(serde_json::from_str::<Position>(json)?, position);
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Position {
    /// The life of the topic, as in [`Receipt::epoch`](crate::Receipt::epoch).
    pub epoch: Epoch,
    /// The number of the last message received; 0 before the first.
    pub seq: u64,
}

/// The epoch in 16 hexadecimal digits, a dot, and the number: `9f86d081884c7d65.42`. The text has no blanks, and parses
/// back to the same position.
impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.epoch, self.seq)
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
        if !seq.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(PositionError);
        }
        let epoch = epoch.parse().map_err(|_| PositionError)?;
        Ok(Self { epoch, seq: seq.parse().map_err(|_| PositionError)? })
    }
}

/// Where a subscriber begins that does not begin with the next message.
///
/// Whatever the topic still has from there on follows, with nothing missing and nothing repeated before the new messages. So
/// a page has its state and the updates of this state by one subscription, without knowing an epoch first.
///
/// ```
/// use janus_core::wire::Since;
///
/// let since: Since = "9f86d081884c7d65.42".parse()?;
/// assert_eq!(["start".parse()?, "last".parse()?, since], [Since::Start, Since::Last, since]);
/// assert_eq!(since.position().map(|position| position.seq), Some(42));
/// # Ok::<_, janus_core::wire::SinceError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Since {
    /// With the first message that the topic keeps. What a topic keeps is a matter of its namespace: `history`, or else
    /// the messages for returning clients.
    Start,
    /// With the last message that the topic keeps: the present value of a topic whose messages replace each other.
    Last,
    /// After this position, with the messages that the subscriber has missed.
    Position(Position),
}

impl Since {
    /// The position that the subscriber has named.
    #[must_use]
    pub const fn position(self) -> Option<Position> {
        match self {
            Self::Position(position) => Some(position),
            Self::Start | Self::Last => None,
        }
    }

    /// The word for a place without a position, the same in every protocol.
    #[must_use]
    pub const fn word(self) -> Option<&'static str> {
        match self {
            Self::Start => Some("start"),
            Self::Last => Some("last"),
            Self::Position(_) => None,
        }
    }

    /// The place of this word.
    #[must_use]
    pub fn of_word(word: &str) -> Option<Self> {
        [Self::Start, Self::Last].into_iter().find(|since| since.word() == Some(word))
    }
}

impl From<Position> for Since {
    fn from(position: Position) -> Self {
        Self::Position(position)
    }
}

impl FromStr for Since {
    type Err = SinceError;

    fn from_str(text: &str) -> Result<Self, SinceError> {
        let position = || text.parse().ok().map(Self::Position);
        Self::of_word(text).or_else(position).ok_or(SinceError)
    }
}

/// The text is not a [`Since`]; its author is to blame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a place to begin: expected start, last, or a position as in 9f86d081884c7d65.42")]
pub struct SinceError;

/// The text is not a [`Position`]; its author is to blame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a position: expected 16 hexadecimal digits, a dot and a number, as in 9f86d081884c7d65.42")]
pub struct PositionError;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epoch_has_one_text_in_json_and_elsewhere() {
        for (epoch, text) in [(Epoch::NONE, "0000000000000000"), (Epoch::new(0xab), "00000000000000ab")] {
            assert_eq!((&*epoch.to_string(), text.parse()), (text, Ok(epoch)));
            let json = format!("\"{text}\"");
            assert_eq!(serde_json::to_string(&epoch).unwrap(), json);
            assert_eq!(serde_json::from_str::<Epoch>(&json).unwrap(), epoch);
        }
        for text in ["", "ab", "+0000000000000ab", "000000000000000ab", "00000000000000 b", "0x000000000000ab"] {
            assert_eq!(text.parse::<Epoch>(), Err(EpochError), "{text}");
            assert!(serde_json::from_value::<Epoch>(text.into()).is_err(), "{text}");
        }
        assert!(serde_json::from_str::<Epoch>("171").is_err());
    }

    #[test]
    fn a_position_reads_back_from_its_text_and_from_no_other_text() {
        for position in [Position { epoch: Epoch::NONE, seq: 0 }, Position { epoch: Epoch::new(0xab), seq: 7 }] {
            assert_eq!(position.to_string().parse(), Ok(position));
        }
        let longest = Position { epoch: Epoch::new(u64::MAX), seq: u64::MAX };
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
