//! The key with which a publisher may repeat a message.

use std::fmt;
use std::str::FromStr;

/// A publisher's name for one message, so that a repetition of the message is published once: 1 to 64 printable ASCII
/// characters, without blanks.
///
/// A key belongs to a topic and is kept for `idempotency_ttl`. A repetition within this time gets the receipt of the first
/// message, whatever the repetition's data are.
///
/// ```
/// use janus_core::wire::IdempotencyKey;
///
/// let key: IdempotencyKey = "order-17".parse()?;
/// assert_eq!(key.as_str(), "order-17");
/// assert!("order 17".parse::<IdempotencyKey>().is_err());
/// # Ok::<_, janus_core::wire::IdempotencyKeyError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct IdempotencyKey(Box<str>);

impl IdempotencyKey {
    /// The longest key in bytes.
    pub const MAX_BYTES: usize = 64;

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for IdempotencyKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for IdempotencyKey {
    type Err = IdempotencyKeyError;

    fn from_str(text: &str) -> Result<Self, IdempotencyKeyError> {
        let is_key = (1..=Self::MAX_BYTES).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic());
        is_key.then(|| Self(text.into())).ok_or(IdempotencyKeyError)
    }
}

/// The text is not an [`IdempotencyKey`]: a mistake of the publisher.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an idempotency key is 1 to 64 printable ASCII characters without blanks")]
pub struct IdempotencyKeyError;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_short_and_printable() {
        let longest = "k".repeat(IdempotencyKey::MAX_BYTES);
        for key in ["a", "~!", "8e03978e-40d5-43dd-bc93-6894a57f9324", &longest] {
            assert_eq!(key.parse::<IdempotencyKey>().map(|key| key.to_string()), Ok(key.to_owned()));
        }
        for text in ["", "a b", "a\n", "ä", &(longest.clone() + "k")] {
            assert_eq!(text.parse::<IdempotencyKey>(), Err(IdempotencyKeyError), "{text:?}");
        }
    }
}
