//! What a subscription has for the program: messages, gaps, presence. And receipts.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::de::{DeserializeOwned, Error as _};

use crate::wire::v1::client::{KeptMessage, PresenceChange, kept_messages};
use crate::wire::{Base64, Epoch, Member, Position};

/// The next of a [`Subscription`](super::Subscription).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Item {
    /// A message.
    Message(Message),
    /// Messages are missing here.
    Gap(Gap),
    /// The members of the topic, or a change of the members; for a subscription
    /// [with presence](super::Subscribe::presence) alone.
    Presence(Presence),
    /// The client has come back, and misses nothing: this many messages were published while the client was away, and
    /// follow. Nothing to do for most programs.
    Resumed {
        /// The number of the messages; 0 if none was published.
        missed: u64,
    },
}

impl Item {
    /// The message, if this is one.
    #[must_use]
    pub fn message(self) -> Option<Message> {
        match self {
            Self::Message(message) => Some(message),
            _ => None,
        }
    }
}

/// Messages that do not come, in their place among the others. The program loads the state anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Gap {
    /// Messages of these numbers.
    Numbers {
        /// The number of the first message.
        from: u64,
        /// The number of the last message.
        to: u64,
    },
    /// An unknown number of messages, perhaps none: the server no longer keeps what followed the client's position.
    Unknown {
        /// Messages after this position follow, perhaps in another epoch. The state that a program loads anew, or
        /// the [history](super::Client::history), joins the stream without a hole if it reaches up to this position.
        position: Position,
    },
}

/// A message, as the publisher has sent it. Takes memory of its own, and a clone shares that memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    topic: Arc<str>,
    position: Position,
    time: Duration,
    /// The text of the frame.
    frame: Bytes,
    event: Range<usize>,
    message_id: Range<usize>,
    /// JSON text, or base64 without its quotes.
    payload: Range<usize>,
    is_bytes: bool,
}

/// The parts of a message, as they stand in the text of a frame.
pub(super) struct Parts<'a> {
    pub(super) time: Duration,
    pub(super) event: &'a str,
    pub(super) message_id: &'a str,
    pub(super) data: &'a str,
    pub(super) base64: Option<Base64<'a>>,
}

impl Message {
    /// A message whose parts are parts of this text, of which `frame` is a copy.
    pub(super) fn new(topic: Arc<str>, position: Position, text: &str, frame: &Bytes, parts: &Parts<'_>) -> Self {
        let place = |part: &str| {
            let start = (part.as_ptr() as usize).checked_sub(text.as_ptr() as usize);
            let start = start.filter(|start| start + part.len() <= text.len());
            let start = start.expect("a part lies inside of its text");
            start..start + part.len()
        };
        Self {
            topic,
            position,
            time: parts.time,
            frame: frame.clone(),
            event: place(parts.event),
            message_id: place(parts.message_id),
            payload: place(parts.base64.map_or(parts.data, Base64::as_str)),
            is_bytes: parts.base64.is_some(),
        }
    }

    /// The name of the topic.
    #[must_use]
    pub fn topic(&self) -> &str {
        &self.topic
    }

    /// The number in the topic.
    #[must_use]
    pub fn seq(&self) -> u64 {
        self.position.seq
    }

    /// The place in the topic's order, for a program that stores how far it has come, and begins
    /// [since](super::Subscribe::since) there.
    #[must_use]
    pub fn position(&self) -> Position {
        self.position
    }

    /// When the message was numbered, since 1970.
    #[must_use]
    pub fn time(&self) -> Duration {
        self.time
    }

    /// The event, as JSON text: `""` with its quotes, if the publisher has given none.
    #[must_use]
    pub fn event(&self) -> &str {
        self.text(&self.event)
    }

    /// The message's identifier, as JSON text.
    #[must_use]
    pub fn message_id(&self) -> &str {
        self.text(&self.message_id)
    }

    /// The data, as the publisher's JSON text; `null` if the payload is bytes.
    #[must_use]
    pub fn data(&self) -> &str {
        if self.is_bytes { "null" } else { self.text(&self.payload) }
    }

    /// The payload, if it is bytes. Each call decodes the payload anew.
    #[must_use]
    pub fn bytes(&self) -> Option<Vec<u8>> {
        self.base64().map(Base64::decode)
    }

    /// The payload, if it is bytes, as text.
    #[must_use]
    pub fn base64(&self) -> Option<Base64<'_>> {
        if self.is_bytes { Base64::new(self.text(&self.payload)).ok() } else { None }
    }

    /// Reads the data as a value.
    ///
    /// # Errors
    ///
    /// The data is not a value of this type. Bytes are no value of any type.
    pub fn parse<T: DeserializeOwned>(&self) -> serde_json::Result<T> {
        if self.is_bytes {
            return Err(serde_json::Error::custom("the payload is bytes and not JSON: take it with Message::bytes"));
        }
        serde_json::from_str(self.data())
    }

    /// The memory that the message takes.
    pub(super) fn size(&self) -> usize {
        self.frame.len()
    }

    fn text(&self, part: &Range<usize>) -> &str {
        str::from_utf8(&self.frame[part.clone()]).expect("a frame is text")
    }
}

/// The members of a topic, or a change of the members.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Presence {
    /// What [`members`](Self::members) are: all, or the users that have joined or left.
    pub change: PresenceChange,
    /// How many members the topic has from now on.
    pub count: u64,
    /// The users with a name; `None` if the topic is counted only.
    pub members: Option<Vec<Member>>,
}

/// Where a subscription has begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Begun {
    /// Messages after this position follow.
    pub position: Position,
    /// How many messages follow that were published earlier; `None` if the subscription begins with the next message, be it
    /// that no `since` was given or that the server no longer keeps what followed.
    pub missed: Option<u64>,
}

impl Begun {
    /// Before the answer of the server.
    pub(super) const NOWHERE: Self = Self { position: Position { epoch: Epoch::NONE, seq: 0 }, missed: None };
}

/// A part of what a topic keeps; see [`Client::history`](super::Client::history).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct HistoryPage {
    /// The messages, which share the memory of the page.
    pub messages: Vec<Message>,
    /// Where these messages end: the `since` of the next part, and unless reversed of a subscription that continues
    /// without a hole.
    pub position: Position,
    /// Whether nothing is missing before the first of the messages.
    pub complete: bool,
    /// Whether a limit has cut further messages off: those after the page, or those before the page if the request was
    /// reversed or had no `since`.
    pub more: bool,
    /// The number of the topic's latest message.
    pub top: u64,
}

impl HistoryPage {
    /// The page in a frame; `None` if a message cannot be read.
    pub(super) fn read(topic: &str, text: &str, kept: &str, page: Self) -> Option<Self> {
        let (topic, frame) = (Arc::<str>::from(topic), Bytes::copy_from_slice(text.as_bytes()));
        let message = |kept: KeptMessage<'_>| {
            let KeptMessage { seq, time, event, message_id, data, base64, .. } = kept;
            let parts = Parts { time, event, message_id, data, base64 };
            Message::new(Arc::clone(&topic), Position { seq, ..page.position }, text, &frame, &parts)
        };
        let messages = kept_messages(kept)?.into_iter().map(message).collect();
        Some(Self { messages, ..page })
    }
}

/// The receipt of a publication.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Published {
    /// The message's place in the topic's order. Zeros if the topic does not exist: no client is subscribed, and nothing is
    /// kept.
    pub position: Position,
    /// How many subscribers the topic had at that moment.
    pub subscribers: u64,
    /// Whether the message was published before, with the same idempotency key, and not again.
    pub again: bool,
}

impl Published {
    /// The message's number in the topic.
    #[must_use]
    pub fn seq(&self) -> u64 {
        self.position.seq
    }
}
