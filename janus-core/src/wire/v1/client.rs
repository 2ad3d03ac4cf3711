//! The other end of `janus.v1.json`: what a client sends, and what it reads.
//!
//! For tests, load tools and embedders. The builders return the text of one frame each; the parts of a message are JSON
//! text, which they do not check.

use std::borrow::Cow;
use std::time::Duration;

use super::super::json::{self, Members};
use super::super::object::Object;
use super::{frame, parse_epoch};
use crate::wire::{Limits, Position, RequestId};

/// A sign of life, which the server answers.
pub const PING: &str = r#"{"type":"ping"}"#;

/// The first frame of a connection, with the token of an earlier session and with what shows who the client is, where
/// there are such.
#[must_use]
pub fn hello(session: Option<&str>, auth: Option<&str>) -> String {
    build("hello", |mut frame| {
        for (key, value) in [("session", session), ("auth", auth)] {
            if let Some(value) = value {
                frame = frame.text(key, value);
            }
        }
        frame
    })
}

/// The frame that subscribes to a topic, from now on or from after a position.
#[must_use]
pub fn subscribe(id: RequestId, topic: &str, since: Option<Position>) -> String {
    build("subscribe", |frame| {
        let frame = frame.id(id).text("topic", topic);
        match since {
            Some(Position { epoch, seq }) => {
                frame.raw("since", &format!("{{\"epoch\":\"{epoch:016x}\",\"seq\":{seq}}}"))
            }
            None => frame,
        }
    })
}

/// The frame that ends a subscription.
#[must_use]
pub fn unsubscribe(id: RequestId, topic: &str) -> String {
    build("unsubscribe", |frame| frame.id(id).text("topic", topic))
}

/// The frame that publishes; the server answers one that has an id with [`ServerFrame::Published`]. Event, message id
/// and data are JSON text.
#[must_use]
pub fn publish(id: RequestId, topic: &str, event: &str, message_id: &str, data: &str) -> String {
    build("publish", |frame| {
        frame.id(id).text("topic", topic).raw("event", event).raw("message_id", message_id).raw("data", data)
    })
}

fn build(kind: &str, members: impl FnOnce(Object<'_, Vec<u8>>) -> Object<'_, Vec<u8>>) -> String {
    let mut text = Vec::new();
    members(frame(&mut text, kind)).end();
    String::from_utf8(text).expect("every part is text")
}

/// A frame from the server, borrowed from where it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServerFrame<'a> {
    /// The client is served.
    Welcome {
        /// What names the session.
        session: Cow<'a, str>,
        /// Whether the server still knew the session of the `hello`.
        resumed: bool,
        /// What the client may send.
        limits: Limits,
        /// After what silence the server sends its heartbeat.
        heartbeat: Duration,
    },
    /// A topic is delivered from now on.
    Subscribed {
        /// The request.
        id: RequestId,
        /// The topic's name, its escapes undone; and likewise below.
        topic: Cow<'a, str>,
        /// Delivery goes on after this.
        position: Position,
        /// How many messages follow that were published before; `None` if it is not resumed.
        missed: Option<u64>,
    },
    /// A topic is delivered no longer.
    Unsubscribed {
        /// The request.
        id: RequestId,
        /// Which.
        topic: Cow<'a, str>,
    },
    /// The receipt of a publication.
    Published {
        /// The request.
        id: RequestId,
        /// Its topic.
        topic: Cow<'a, str>,
        /// Its place in the topic's order.
        position: Position,
        /// How many subscribers the topic had at that moment.
        subscribers: u64,
    },
    /// A published message. All but the topic is the publisher's JSON text.
    Message {
        /// Its topic.
        topic: Cow<'a, str>,
        /// Its number.
        seq: u64,
        /// When it was numbered, since 1970.
        time: Duration,
        /// JSON text.
        event: &'a str,
        /// JSON text.
        message_id: &'a str,
        /// JSON text.
        data: &'a str,
    },
    /// Messages that do not come.
    Gap {
        /// Of which topic.
        topic: Cow<'a, str>,
        /// The life of the topic that the numbers belong to.
        epoch: u64,
        /// The number of the first.
        from: u64,
        /// The number of the last.
        to: u64,
    },
    /// A request was refused.
    Error {
        /// The request, if it is known.
        id: RequestId,
        /// Its topic, if it is known.
        topic: Option<Cow<'a, str>>,
        /// The number of an [`ErrorCode`](crate::wire::ErrorCode), or of one that a later server knows.
        code: u16,
        /// Its name.
        error: Cow<'a, str>,
        /// For a person to read.
        message: Cow<'a, str>,
    },
    /// The server closes the connection after this.
    Bye {
        /// As in an error.
        code: u16,
        /// As in an error.
        error: Cow<'a, str>,
        /// As in an error.
        message: Cow<'a, str>,
        /// After what time the client may come back; `None` if it had better not.
        reconnect_after: Option<Duration>,
    },
    /// The answer to a ping.
    Pong,
    /// A frame that this client does not know.
    Unknown(&'a str),
}

impl<'a> ServerFrame<'a> {
    /// Reads one frame.
    ///
    /// ```
    /// use janus_core::wire::v1::client::ServerFrame;
    ///
    /// let frame = ServerFrame::parse(r#"{"type":"unsubscribed","topic":"news"}"#);
    /// assert_eq!(frame, ServerFrame::Unsubscribed { id: None, topic: "news".into() });
    /// ```
    #[must_use]
    pub fn parse(text: &'a str) -> Self {
        Self::read(text).unwrap_or(Self::Unknown(text))
    }

    fn read(text: &'a str) -> Option<Self> {
        let Members { values: [kind, topic, seq, time, event, message_id, data], .. } =
            json::members(text, ["type", "topic", "seq", "time", "event", "message_id", "data"]).ok()?;
        let kind = json::string(kind?)?;
        let topic = topic.map(json::string);
        if kind == "message" {
            return Some(Self::Message {
                topic: topic??,
                seq: seq?.parse().ok()?,
                time: Duration::from_millis(time?.parse().ok()?),
                event: event?,
                message_id: message_id?,
                data: data?,
            });
        }
        let Members { values: [id, epoch, resumed, missed, subscribers, from, to], .. } =
            json::members(text, ["id", "epoch", "resumed", "missed", "subscribers", "from", "to"]).ok()?;
        let id = match id {
            Some(id) => Some(id.parse().ok()?),
            None => None,
        };
        let epoch = epoch.and_then(json::string).and_then(|text| parse_epoch(&text));
        let position = || Some(Position { epoch: epoch?, seq: seq?.parse().ok()? });
        let resumed = resumed.map(|raw| raw == "true");
        Some(match &*kind {
            "subscribed" => {
                let missed = if resumed? { Some(missed?.parse().ok()?) } else { None };
                Self::Subscribed { id, topic: topic??, position: position()?, missed }
            }
            "unsubscribed" => Self::Unsubscribed { id, topic: topic?? },
            "published" => {
                Self::Published { id, topic: topic??, position: position()?, subscribers: subscribers?.parse().ok()? }
            }
            "gap" => Self::Gap { topic: topic??, epoch: epoch?, from: from?.parse().ok()?, to: to?.parse().ok()? },
            "pong" => Self::Pong,
            "welcome" => Self::welcome(text, resumed?)?,
            "error" => {
                let (code, error, message, _) = reason(text)?;
                let topic = match topic {
                    Some(topic) => Some(topic?),
                    None => None,
                };
                Self::Error { id, topic, code, error, message }
            }
            "bye" => {
                let (code, error, message, reconnect_after) = reason(text)?;
                Self::Bye { code, error, message, reconnect_after }
            }
            _ => return None,
        })
    }

    fn welcome(text: &'a str, resumed: bool) -> Option<Self> {
        let [session, limits, heartbeat] = json::members(text, ["session", "limits", "heartbeat_ms"]).ok()?.values;
        let [max_frame_bytes, max_topic_bytes, max_topics] =
            json::members(limits?, ["max_frame_bytes", "max_topic_bytes", "max_topics"]).ok()?.values;
        let limits = Limits {
            max_frame_bytes: max_frame_bytes?.parse().ok()?,
            max_topic_bytes: max_topic_bytes?.parse().ok()?,
            max_topics: max_topics?.parse().ok()?,
        };
        let heartbeat = Duration::from_millis(heartbeat?.parse().ok()?);
        Some(Self::Welcome { session: json::string(session?)?, resumed, limits, heartbeat })
    }
}

type Reason<'a> = (u16, Cow<'a, str>, Cow<'a, str>, Option<Duration>);

fn reason(text: &str) -> Option<Reason<'_>> {
    let [code, error, message, after] =
        json::members(text, ["code", "error", "message", "reconnect_after_ms"]).ok()?.values;
    let after = match after {
        Some(after) => Some(Duration::from_millis(after.parse().ok()?)),
        None => None,
    };
    Some((code?.parse().ok()?, json::string(error?)?, json::string(message?)?, after))
}
