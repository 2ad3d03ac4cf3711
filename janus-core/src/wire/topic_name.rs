//! The name of a topic, checked once at the edge and trusted from there on.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

/// A topic's name: UTF-8 text of at least one byte, without control characters.
///
/// Names are equal when their text is equal; case and blanks matter. A clone shares the text. A map keyed by names can
/// be queried with a `&str`.
///
/// ```
/// use std::collections::HashMap;
/// use janus_core::wire::TopicName;
///
/// let name = TopicName::new("events", 255)?;
/// let subscribers = HashMap::from([(name, 3)]);
/// assert_eq!(subscribers.get("events"), Some(&3));
/// # Ok::<_, janus_core::wire::TopicNameError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicName(Arc<str>);

/// A text that cannot name a topic; the caller who chose the name is to blame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TopicNameError {
    /// The name has no characters.
    #[error("topic name must not be empty")]
    Empty,
    /// The name has more bytes than the limit allows.
    #[error("topic name must not be longer than {max_bytes} bytes of UTF-8")]
    TooLong {
        /// The limit, in bytes.
        max_bytes: usize,
    },
    /// The name contains a control character, unsafe in terminals, logs and headers.
    #[error("topic name must not contain control characters")]
    ControlCharacter,
}

impl TopicName {
    /// Checks a name.
    ///
    /// # Errors
    ///
    /// The first rule broken by the text.
    pub fn new(text: &str, max_bytes: usize) -> Result<Self, TopicNameError> {
        Self::check(text, max_bytes)?;
        Ok(Self(text.into()))
    }

    /// Checks a text that may name a topic.
    pub(crate) fn check(text: &str, max_bytes: usize) -> Result<(), TopicNameError> {
        if text.is_empty() {
            return Err(TopicNameError::Empty);
        }
        if text.len() > max_bytes {
            return Err(TopicNameError::TooLong { max_bytes });
        }
        if text.chars().any(char::is_control) {
            return Err(TopicNameError::ControlCharacter);
        }
        Ok(())
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TopicName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The name as text.
impl serde::Serialize for TopicName {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl AsRef<str> for TopicName {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for TopicName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_may_fill_its_limit_exactly() {
        assert!(TopicName::new("éé", 4).is_ok());
        assert_eq!(TopicName::new("éé", 3), Err(TopicNameError::TooLong { max_bytes: 3 }));
    }

    #[test]
    fn an_empty_name_is_refused() {
        assert_eq!(TopicName::new("", 255), Err(TopicNameError::Empty));
    }

    #[test]
    fn control_characters_of_ascii_and_of_latin_1_are_refused() {
        for name in ["a\0", "\u{1}", "a\nb", "\u{7f}", "\u{85}"] {
            assert_eq!(TopicName::new(name, 255), Err(TopicNameError::ControlCharacter), "{name:?}");
        }
    }

    #[test]
    fn case_and_blanks_make_another_name() {
        let name = |text| TopicName::new(text, 255).unwrap();
        assert_ne!(name("a"), name("A"));
        assert_ne!(name("a"), name("a "));
        assert_eq!(name("a b"), name("a b"));
    }
}
