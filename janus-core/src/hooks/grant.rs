//! The right of a client to subscribe, or to publish: known when the client connects, or asked for each time.

use std::sync::Arc;

use serde::{Serialize, Serializer};

use super::Patterns;
use crate::wire::TopicName;

/// The topics to which a client may subscribe, or publish.
///
/// All but [`Ask`](Self::Ask) are decided on the spot. A question to a hook takes a way to another thread and back.
///
/// ```
/// use janus_core::hooks::{Grant, Identity, Patterns};
///
/// let alice = Identity::user("alice").subscribe(Patterns::new(["news", "user:alice:**"])?).publish(Grant::None);
/// assert!(matches!(alice.subscribe, Grant::Only(_)));
/// # Ok::<_, janus_core::hooks::PatternError>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Grant {
    /// Every topic.
    All,
    /// No topic.
    None,
    /// The topics that match one of the patterns.
    Only(Arc<Patterns>),
    /// What the hook says, for each subscribe or each message:
    /// [`authorize_subscribe`](super::Hooks::authorize_subscribe) or
    /// [`authorize_publish`](super::Hooks::authorize_publish).
    #[default]
    Ask,
}

impl Grant {
    /// Whether the topic is granted; `None` if the hook decides.
    ///
    /// ```
    /// # use janus_core::hooks::{Grant, Patterns};
    /// # use janus_core::wire::TopicName;
    /// let chat = Grant::from(Patterns::new(["chat:*"])?);
    /// assert_eq!(chat.decide(&TopicName::new("chat:lobby", 255)?), Some(true));
    /// assert_eq!(chat.decide(&TopicName::new("news", 255)?), Some(false));
    /// assert_eq!(Grant::Ask.decide(&TopicName::new("news", 255)?), None);
    /// # Ok::<_, Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn decide(&self, topic: &TopicName) -> Option<bool> {
        match self {
            Self::All => Some(true),
            Self::None => Some(false),
            Self::Only(patterns) => Some(patterns.matches(topic.as_str())),
            Self::Ask => None,
        }
    }

    /// Whether a pattern of the grant matches the topic and does not begin with a wildcard. A grant of all topics, such as
    /// `**`, names none.
    pub(crate) fn names(&self, topic: &TopicName) -> bool {
        matches!(self, Self::Only(patterns) if patterns.names(topic.as_str()))
    }
}

/// All topics, or none.
impl From<bool> for Grant {
    fn from(may: bool) -> Self {
        if may { Self::All } else { Self::None }
    }
}

impl From<Patterns> for Grant {
    fn from(patterns: Patterns) -> Self {
        Self::Only(Arc::new(patterns))
    }
}

/// `"all"`, `"none"`, `"ask"`, or an array of patterns.
impl Serialize for Grant {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::All => serializer.serialize_str("all"),
            Self::None => serializer.serialize_str("none"),
            Self::Ask => serializer.serialize_str("ask"),
            Self::Only(patterns) => patterns.serialize(serializer),
        }
    }
}
