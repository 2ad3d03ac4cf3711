//! The client's end of `janus.v1.json`: builders for requests, and a parser for the server's frames.
//!
//! For tests, load tools and embedders. Each builder returns the text of a frame; the parts of a message are JSON text,
//! not checked by the builders.

use std::borrow::Cow;
use std::time::Duration;

use super::super::json::{self, Members};
use super::super::object::Object;
use super::frame;
use crate::wire::base64::put_base64;
use crate::wire::{Base64, ClientId, Epoch, HistoryQuery, IdempotencyKey, Limits, Position, RequestId, Since};

/// A sign of life, answered by the server.
pub const PING: &str = r#"{"type":"ping"}"#;

/// The first frame of a connection, with the token of an earlier session and the client's credentials, if given.
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

/// Subscribes to a topic, from now on or from after a position.
#[must_use]
pub fn subscribe(id: RequestId, topic: &str, since: Option<Since>) -> String {
    build("subscribe", |frame| with_since(frame.id(id).text("topic", topic), since))
}

/// Asks for messages of a topic's history; answered with [`ServerFrame::History`].
///
/// ```
/// use janus_core::wire::{HistoryQuery, Since, v1::client};
///
/// let frame = client::history(Some(1), "news", HistoryQuery::latest(10).since(Since::Start));
/// assert_eq!(frame, r#"{"type":"history","id":1,"topic":"news","since":"start","limit":10}"#);
/// ```
#[must_use]
pub fn history(id: RequestId, topic: &str, query: HistoryQuery) -> String {
    build("history", |frame| {
        let frame = with_since(frame.id(id).text("topic", topic), query.since).number("limit", query.limit as u64);
        if query.reverse { frame.raw("reverse", "true") } else { frame }
    })
}

fn with_since(frame: Object<'_, Vec<u8>>, since: Option<Since>) -> Object<'_, Vec<u8>> {
    match since {
        Some(since @ (Since::Start | Since::Last)) => frame.text("since", since.word().unwrap_or_default()),
        Some(Since::Position(Position { epoch, seq })) => {
            frame.raw("since", &format!("{{\"epoch\":\"{epoch}\",\"seq\":{seq}}}"))
        }
        None => frame,
    }
}

/// Ends a subscription.
#[must_use]
pub fn unsubscribe(id: RequestId, topic: &str) -> String {
    build("unsubscribe", |frame| frame.id(id).text("topic", topic))
}

/// Publishes; the server answers a request with an id with [`ServerFrame::Published`]. Event, message id and data are
/// JSON text.
#[must_use]
pub fn publish(id: RequestId, topic: &str, event: &str, message_id: &str, data: &str) -> String {
    build("publish", |frame| {
        frame.id(id).text("topic", topic).raw("event", event).raw("message_id", message_id).raw("data", data)
    })
}

/// As [`publish`], with a key by which the server knows a repetition of the message, for a publisher without a receipt.
///
/// ```
/// use janus_core::wire::v1::client::publish_with_key;
///
/// let frame = publish_with_key(Some(1), "news", "\"\"", "\"\"", "42", &"order-17".parse()?);
/// assert!(frame.contains(r#""idempotency_key":"order-17""#));
/// # Ok::<_, janus_core::wire::IdempotencyKeyError>(())
/// ```
#[must_use]
pub fn publish_with_key(
    id: RequestId,
    topic: &str,
    event: &str,
    message_id: &str,
    data: &str,
    key: &IdempotencyKey,
) -> String {
    build("publish", |frame| {
        let frame = frame.id(id).text("topic", topic).raw("event", event).raw("message_id", message_id);
        frame.text("idempotency_key", key.as_str()).raw("data", data)
    })
}

/// As [`publish`], with bytes as payload, and with a key by which the server knows a repetition of the message, if given.
///
/// ```
/// use janus_core::wire::v1::client::publish_bytes;
///
/// let frame = publish_bytes(None, "frames", "\"\"", "\"\"", b"\x00\xff", None);
/// assert!(frame.contains(r#""data_base64":"AP8=""#));
/// ```
#[must_use]
pub fn publish_bytes(
    id: RequestId,
    topic: &str,
    event: &str,
    message_id: &str,
    bytes: &[u8],
    key: Option<&IdempotencyKey>,
) -> String {
    let mut base64 = String::new();
    put_base64(&mut base64, bytes);
    build("publish", |frame| {
        let frame = frame.id(id).text("topic", topic).raw("event", event).raw("message_id", message_id);
        let frame = match key {
            Some(key) => frame.text("idempotency_key", key.as_str()),
            None => frame,
        };
        frame.text("data_base64", &base64)
    })
}

/// Proves the client's identity anew; answered with [`ServerFrame::Refreshed`].
#[must_use]
pub fn refresh(id: RequestId, auth: &str) -> String {
    build("refresh", |frame| frame.id(id).text("auth", auth))
}

fn build(kind: &str, members: impl FnOnce(Object<'_, Vec<u8>>) -> Object<'_, Vec<u8>>) -> String {
    let mut text = Vec::new();
    members(frame(&mut text, kind)).end();
    String::from_utf8(text).expect("every part is text")
}

/// A frame from the server, borrowed from the input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServerFrame<'a> {
    /// The client is served.
    Welcome {
        /// The token of the session.
        session: Cow<'a, str>,
        /// The public name of the connection, if the server tells it.
        client: Option<ClientId>,
        /// Whether the server still knew the session of the `hello`.
        resumed: bool,
        /// The limits on the client's frames and subscriptions.
        limits: Limits,
        /// The silence after which the server sends a heartbeat.
        heartbeat: Duration,
        /// The time until the end of the client's token, if it ends.
        expires: Option<Duration>,
    },
    /// A new token is accepted.
    Refreshed {
        /// The request.
        id: RequestId,
        /// The time until the end of the token, if it ends.
        expires: Option<Duration>,
    },
    /// A topic is delivered from now on.
    Subscribed {
        /// The request.
        id: RequestId,
        /// The topic's name, unescaped; likewise below.
        topic: Cow<'a, str>,
        /// Delivery continues after this position.
        position: Position,
        /// How many earlier messages follow; `None` if the topic does not resume.
        missed: Option<u64>,
    },
    /// A topic is no longer delivered.
    Unsubscribed {
        /// The request.
        id: RequestId,
        /// The topic.
        topic: Cow<'a, str>,
    },
    /// The receipt of a publication.
    Published {
        /// The request.
        id: RequestId,
        /// The topic of the message.
        topic: Cow<'a, str>,
        /// The message's place in the topic's order.
        position: Position,
        /// How many subscribers the topic had at that moment.
        subscribers: u64,
    },
    /// A published message. All but the topic is the publisher's JSON text.
    Message {
        /// The topic.
        topic: Cow<'a, str>,
        /// The message's number.
        seq: u64,
        /// When the message was numbered, since 1970.
        time: Duration,
        /// JSON text.
        event: &'a str,
        /// JSON text.
        message_id: &'a str,
        /// JSON text; `null` if the payload is bytes.
        data: &'a str,
        /// The payload, if it is bytes.
        base64: Option<Base64<'a>>,
    },
    /// Messages lost to the client.
    Gap {
        /// The topic.
        topic: Cow<'a, str>,
        /// The epoch of the two numbers.
        epoch: Epoch,
        /// The number of the first lost message.
        from: u64,
        /// The number of the last lost message.
        to: u64,
    },
    /// A part of a topic's history.
    History {
        /// The request.
        id: RequestId,
        /// The topic.
        topic: Cow<'a, str>,
        /// The end of these messages, as `since` for the next part.
        position: Position,
        /// Whether nothing is missing before the first of the messages.
        complete: bool,
        /// Whether a limit has cut further messages off.
        more: bool,
        /// The number of the topic's latest message.
        top: u64,
        /// The messages, a JSON list; see [`kept_messages`].
        messages: &'a str,
    },
    /// A request was refused.
    Error {
        /// The request, if known.
        id: RequestId,
        /// The topic, if known.
        topic: Option<Cow<'a, str>>,
        /// The number of an [`ErrorCode`](crate::wire::ErrorCode), or a number introduced by a later server.
        code: u16,
        /// The name of the code.
        error: Cow<'a, str>,
        /// The reason, for people.
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
        /// When the client may come back; `None` if the client had better stay away.
        reconnect_after: Option<Duration>,
    },
    /// The answer to a ping.
    Pong,
    /// A frame unknown to this client.
    Unknown(&'a str),
}

impl<'a> ServerFrame<'a> {
    /// Parses a frame.
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
        let keys = ["type", "topic", "seq", "time", "event", "message_id", "data", "data_base64"];
        let Members { values: [kind, topic, seq, time, event, message_id, data, base64], .. } =
            json::members(text, keys).ok()?;
        let kind = json::string(kind?)?;
        let topic = topic.map(json::string);
        if kind == "message" {
            return Some(Self::Message {
                topic: topic??,
                seq: seq?.parse().ok()?,
                time: Duration::from_millis(time?.parse().ok()?),
                event: event?,
                message_id: message_id?,
                data: data.or_else(|| base64.map(|_| "null"))?,
                base64: base64.map(Base64::of_json).transpose().ok()?,
            });
        }
        let Members { values: [id, epoch, resumed, missed, subscribers, from, to], .. } =
            json::members(text, ["id", "epoch", "resumed", "missed", "subscribers", "from", "to"]).ok()?;
        let id = match id {
            Some(id) => Some(id.parse().ok()?),
            None => None,
        };
        let epoch: Option<Epoch> = epoch.and_then(json::string).and_then(|text| text.parse().ok());
        let position = || Some(Position { epoch: epoch?, seq: seq?.parse().ok()? });
        let resumed = resumed.map(|raw| raw == "true");
        Some(match &*kind {
            "subscribed" => {
                let missed = if resumed? { Some(missed?.parse().ok()?) } else { None };
                Self::Subscribed { id, topic: topic??, position: position()?, missed }
            }
            "refreshed" => Self::Refreshed { id, expires: expires(text)? },
            "unsubscribed" => Self::Unsubscribed { id, topic: topic?? },
            "published" => {
                Self::Published { id, topic: topic??, position: position()?, subscribers: subscribers?.parse().ok()? }
            }
            "gap" => Self::Gap { topic: topic??, epoch: epoch?, from: from?.parse().ok()?, to: to?.parse().ok()? },
            "history" => Self::history(text, id, topic??, position()?)?,
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

    fn history(text: &'a str, id: RequestId, topic: Cow<'a, str>, position: Position) -> Option<Self> {
        let [complete, more, top, messages] = json::members(text, ["complete", "more", "top", "messages"]).ok()?.values;
        Some(Self::History {
            id,
            topic,
            position,
            complete: complete? == "true",
            more: more? == "true",
            top: top?.parse().ok()?,
            messages: messages?,
        })
    }

    fn welcome(text: &'a str, resumed: bool) -> Option<Self> {
        let [session, client, limits, heartbeat] =
            json::members(text, ["session", "client", "limits", "heartbeat_ms"]).ok()?.values;
        let client = client.and_then(json::string).and_then(|text| text.parse().ok());
        let [max_frame_bytes, max_topic_bytes, max_topics] =
            json::members(limits?, ["max_frame_bytes", "max_topic_bytes", "max_topics"]).ok()?.values;
        let limits = Limits {
            max_frame_bytes: max_frame_bytes?.parse().ok()?,
            max_topic_bytes: max_topic_bytes?.parse().ok()?,
            max_topics: max_topics?.parse().ok()?,
        };
        let heartbeat = Duration::from_millis(heartbeat?.parse().ok()?);
        let expires = expires(text)?;
        Some(Self::Welcome { session: json::string(session?)?, client, resumed, limits, heartbeat, expires })
    }
}

/// A message of a [history](ServerFrame::History).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct KeptMessage<'a> {
    /// The message's number.
    pub seq: u64,
    /// When the message was numbered, since 1970.
    pub time: Duration,
    /// JSON text.
    pub event: &'a str,
    /// JSON text.
    pub message_id: &'a str,
    /// JSON text; `null` if the payload is bytes.
    pub data: &'a str,
    /// The payload, if it is bytes.
    pub base64: Option<Base64<'a>>,
}

/// Reads the list of messages in a [history](ServerFrame::History); `None` for another text.
///
/// ```
/// use janus_core::wire::v1::client::kept_messages;
///
/// let messages = kept_messages(r#"[{"seq":7,"time":0,"event":"","message_id":"","data":[1.50]}]"#).unwrap();
/// assert_eq!((messages[0].seq, messages[0].data), (7, "[1.50]"));
/// ```
#[must_use]
pub fn kept_messages(list: &str) -> Option<Vec<KeptMessage<'_>>> {
    let message = |text| {
        let keys = ["seq", "time", "event", "message_id", "data", "data_base64"];
        let [seq, time, event, message_id, data, base64] = json::members(text, keys).ok()?.values;
        Some(KeptMessage {
            seq: seq?.parse().ok()?,
            time: Duration::from_millis(time?.parse().ok()?),
            event: event?,
            message_id: message_id?,
            data: data.or_else(|| base64.map(|_| "null"))?,
            base64: base64.map(Base64::of_json).transpose().ok()?,
        })
    };
    json::items_of(list).ok()?.into_iter().map(message).collect()
}

/// The time in `expires_ms`, if there is the key; the outer `None` for a value that is no number.
#[expect(clippy::option_option, reason = "a missing key is no error")]
fn expires(text: &str) -> Option<Option<Duration>> {
    let [expires] = json::members(text, ["expires_ms"]).ok()?.values;
    expires.map(|raw| raw.parse().ok().map(Duration::from_millis)).map_or(Some(None), |time| time.map(Some))
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
