//! The client's end of the classic protocol: encoders for requests, and a decoder for the server's frames.
//!
//! For the command-line client, the load generator and tests. Each encoder returns a frame; the parts of a message are
//! JSON text, not checked by the encoders.

use std::borrow::Cow;
use std::mem;
use std::time::Duration;

use super::super::json::{self, Reader};
use super::super::publication::{data_of_bytes, put_json_string};
use super::parse_timestamp;
use crate::wire::{Base64, Timestamp};

/// The optional preamble of a classic client, allowed before any frame.
pub const PREAMBLE: &[u8] = b"<regular-socket/>\0";

/// A sign of life.
pub const PING: &[u8] = b"PING\0";

/// Subscribes to a topic.
#[must_use]
pub fn subscribe(topic: &str) -> Vec<u8> {
    action("subscribe", topic)
}

/// Ends a subscription.
#[must_use]
pub fn unsubscribe(topic: &str) -> Vec<u8> {
    action("unsubscribe", topic)
}

/// Takes over the session of an earlier connection, given the number of messages received on each topic. Only valid as
/// the first frame of a connection.
#[must_use]
pub fn attach<'a>(token: &str, received: impl IntoIterator<Item = (&'a str, u64)>) -> Vec<u8> {
    let mut frame = b"{\"action\":\"attach\",\"data\":{\"token\":".to_vec();
    put_json_string(&mut frame, token);
    frame.extend_from_slice(b",\"received\":{");
    for (index, (topic, count)) in received.into_iter().enumerate() {
        if index > 0 {
            frame.push(b',');
        }
        put_json_string(&mut frame, topic);
        frame.extend_from_slice(format!(":{count}").as_bytes());
    }
    frame.extend_from_slice(b"}}}\0");
    frame
}

/// Proves the client's identity, as the first frame of a connection or later; answered with
/// [`ServerFrame::Greeting`], if the connection has had none yet, or [`ServerFrame::Refreshed`].
#[must_use]
pub fn auth(token: &str) -> Vec<u8> {
    action("auth", token)
}

/// Publishes and keeps the connection. Event, message id and data are JSON text.
#[must_use]
pub fn publish(topic: &str, event: &str, message_id: &str, data: &str) -> Vec<u8> {
    let mut frame = b"{\"action\":\"publish\",\"data\":".to_vec();
    put_publication(&mut frame, topic, event, message_id, data);
    frame.extend_from_slice(b"}\0");
    frame
}

/// As [`publish`], with a receipt: the server answers with [`ServerFrame::Published`].
#[must_use]
pub fn publish_with_ack(topic: &str, event: &str, message_id: &str, data: &str) -> Vec<u8> {
    let mut frame = b"{\"action\":\"publish\",\"data\":".to_vec();
    put_publication(&mut frame, topic, event, message_id, data);
    frame.extend_from_slice(b",\"ack\":true}\0");
    frame
}

/// As [`publish_with_ack`], with bytes as payload.
#[must_use]
pub fn publish_bytes_with_ack(topic: &str, event: &str, message_id: &str, bytes: &[u8]) -> Vec<u8> {
    publish_with_ack(topic, event, message_id, &data_of_bytes(bytes))
}

/// The classic publication; the server closes the connection afterwards. Event, message id and data are JSON text.
#[must_use]
pub fn publish_and_close(topic: &str, event: &str, message_id: &str, data: &str) -> Vec<u8> {
    let mut frame = b"PUBLISH\0".to_vec();
    put_publication(&mut frame, topic, event, message_id, data);
    frame.push(0);
    frame
}

fn action(action: &str, topic: &str) -> Vec<u8> {
    let mut frame = format!("{{\"action\":\"{action}\",\"data\":").into_bytes();
    put_json_string(&mut frame, topic);
    frame.extend_from_slice(b"}\0");
    frame
}

fn put_publication(frame: &mut Vec<u8>, topic: &str, event: &str, message_id: &str, data: &str) {
    frame.extend_from_slice(b"{\"topic\":");
    put_json_string(frame, topic);
    for (key, value) in [("event", event), ("message_id", message_id), ("data", data)] {
        frame.extend_from_slice(format!(",\"{key}\":").as_bytes());
        frame.extend_from_slice(value.as_bytes());
    }
    frame.push(b'}');
}

/// A frame from the server, borrowed from the input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServerFrame<'a> {
    /// The first frame of a connection.
    Greeting {
        /// The token of the session.
        token: Cow<'a, str>,
    },
    /// The client is subscribed.
    Ack,
    /// The heartbeat.
    Ping,
    /// A published message. All but the topic is the publisher's JSON text.
    Message {
        /// When the message was published.
        timestamp: Timestamp,
        /// The topic's name, unescaped.
        topic: Cow<'a, str>,
        /// JSON text.
        event: &'a str,
        /// JSON text.
        message_id: &'a str,
        /// JSON text; `null` if the payload is bytes.
        data: &'a str,
        /// The payload, if it is bytes.
        base64: Option<Base64<'a>>,
    },
    /// A request was refused.
    Error {
        /// The name of an [`ErrorCode`](super::ErrorCode), or a name introduced by a later server.
        code: Cow<'a, str>,
        /// The reason, for people.
        message: Cow<'a, str>,
    },
    /// The receipt of a publication.
    Published {
        /// The topic's name, unescaped.
        topic: Cow<'a, str>,
        /// Changes when the topic loses its history.
        epoch: Cow<'a, str>,
        /// The message's place in the topic's order.
        seq: u64,
        /// How many subscribers the topic had at that moment.
        subscribers: u64,
    },
    /// The answer to an attach.
    Attached {
        /// For each topic, how many missed messages follow now; `None` if the topic continues without the missed
        /// messages.
        topics: Vec<(Cow<'a, str>, Option<u64>)>,
        /// The token of the session from now on.
        token: Cow<'a, str>,
    },
    /// The server has subscribed the client to a topic by itself.
    Assigned {
        /// The topic's name, unescaped.
        topic: Cow<'a, str>,
    },
    /// A new proof of identity is accepted.
    Refreshed {
        /// The time until the end of the identity, if it ends.
        expires: Option<Duration>,
    },
    /// A frame unknown to this client, without its terminator.
    Unknown(&'a [u8]),
    /// A frame exceeds the limit. Nothing further is decoded: close the connection.
    TooLarge,
}

/// Splits the bytes from a server into frames, however the bytes are split between reads.
///
/// ```
/// use janus_core::wire::classic::client::{ServerDecoder, ServerFrame};
///
/// let mut decoder = ServerDecoder::new();
/// let mut input: &[u8] = b"ACK\x01PI";
/// assert_eq!(decoder.decode(&mut input), Some(ServerFrame::Ack));
/// assert_eq!(decoder.decode(&mut input), None);
/// let mut input: &[u8] = b"NG\x01";
/// assert_eq!(decoder.decode(&mut input), Some(ServerFrame::Ping));
/// ```
#[derive(Debug)]
pub struct ServerDecoder {
    /// The beginning of an unfinished frame.
    unfinished: Vec<u8>,
    /// Whether `unfinished` is a complete frame instead, lent out by the last call.
    lent_out: bool,
    max_frame_bytes: usize,
    too_large: bool,
}

impl Default for ServerDecoder {
    fn default() -> Self {
        Self::new()
    }
}

impl ServerDecoder {
    /// A decoder for frames of at most 32 MiB, twice the largest limit a server can be configured with.
    #[must_use]
    pub fn new() -> Self {
        Self::with_max_frame_bytes(32 << 20)
    }

    /// A decoder with its own limit.
    #[must_use]
    pub fn with_max_frame_bytes(max_frame_bytes: usize) -> Self {
        Self { unfinished: Vec::new(), lent_out: false, max_frame_bytes, too_large: false }
    }

    /// Takes bytes from `input` up to the end of the next frame. `None` means that all input is taken.
    pub fn decode<'a, 'i: 'a>(&'a mut self, input: &mut &'i [u8]) -> Option<ServerFrame<'a>> {
        if mem::take(&mut self.lent_out) {
            self.unfinished.clear();
        }
        if self.too_large {
            *input = &[];
            return None;
        }
        let end = find_terminator(input);
        // Checked for a complete frame too, or the split between reads would decide whether a frame is too large.
        if self.unfinished.len() + end.unwrap_or(input.len()) > self.max_frame_bytes {
            *input = &[];
            self.unfinished = Vec::new();
            self.too_large = true;
            return Some(ServerFrame::TooLarge);
        }
        let Some(end) = end else {
            self.unfinished.extend_from_slice(input);
            *input = &[];
            return None;
        };
        let piece = &input[..end];
        *input = &input[end + 1..];
        if self.unfinished.is_empty() {
            return Some(ServerFrame::parse(piece));
        }
        self.unfinished.extend_from_slice(piece);
        self.lent_out = true;
        Some(ServerFrame::parse(&self.unfinished))
    }

    /// How many bytes of an unfinished frame are kept; never more than the limit.
    #[must_use]
    pub fn buffered(&self) -> usize {
        if self.lent_out { 0 } else { self.unfinished.len() }
    }
}

impl<'a> ServerFrame<'a> {
    /// Parses a frame, given without its terminator.
    #[must_use]
    pub fn parse(frame: &'a [u8]) -> Self {
        match frame {
            b"ACK" => Self::Ack,
            b"PING" => Self::Ping,
            _ => Self::parse_json(frame).unwrap_or(Self::Unknown(frame)),
        }
    }

    fn parse_json(frame: &'a [u8]) -> Option<Self> {
        let text = str::from_utf8(frame).ok()?;
        let [timestamp, token, topic, event, message_id, data, error, published, attached] = json::members(
            text,
            ["timestamp", "token", "topic", "event", "message_id", "data", "error", "published", "attached"],
        )
        .ok()?
        .values;
        if let Some(topic) = topic {
            // Read apart, because messages of bytes are few.
            let base64 = match data? {
                "null" => json::members(text, ["data_base64"]).ok()?.values[0],
                _ => None,
            };
            return Some(Self::Message {
                timestamp: parse_timestamp(timestamp?)?,
                topic: json::string(topic)?,
                event: event?,
                message_id: message_id?,
                data: data?,
                base64: base64.map(Base64::of_json).transpose().ok()?,
            });
        }
        if let Some(published) = published {
            let [topic, epoch, seq, subscribers] =
                json::members(published, ["topic", "epoch", "seq", "subscribers"]).ok()?.values;
            return Some(Self::Published {
                topic: json::string(topic?)?,
                epoch: json::string(epoch?)?,
                seq: seq?.parse().ok()?,
                subscribers: subscribers?.parse().ok()?,
            });
        }
        if let Some(error) = error {
            let [code, message] = json::members(error, ["code", "message"]).ok()?.values;
            return Some(Self::Error { code: json::string(code?)?, message: json::string(message?)? });
        }
        if let Some(attached) = attached {
            return Some(Self::Attached { topics: attached_topics(attached)?, token: json::string(token?)? });
        }
        if let Some(token) = token {
            return Some(Self::Greeting { token: json::string(token)? });
        }
        let [subscribed, refreshed] = json::members(text, ["subscribed", "refreshed"]).ok()?.values;
        if let Some(subscribed) = subscribed {
            let [topic] = json::members(subscribed, ["topic"]).ok()?.values;
            return Some(Self::Assigned { topic: json::string(topic?)? });
        }
        let [expires] = json::members(refreshed?, ["expires_ms"]).ok()?.values;
        let expires = match expires {
            Some(raw) => Some(Duration::from_millis(raw.parse().ok()?)),
            None => None,
        };
        Some(Self::Refreshed { expires })
    }
}

fn attached_topics(raw: &str) -> Option<Vec<(Cow<'_, str>, Option<u64>)>> {
    let mut reader = Reader::new(raw);
    let mut topics = Vec::new();
    let mut key = reader.first_key().ok()?;
    while let Some(topic) = key {
        let [resumed, missed] = json::members(reader.value().ok()?, ["resumed", "missed"]).ok()?.values;
        let missed = match resumed? {
            "true" => Some(missed?.parse().ok()?),
            "false" => None,
            _ => return None,
        };
        topics.push((topic, missed));
        key = reader.next_key().ok()?;
    }
    Some(topics)
}

/// Searches by blocks first, because `contains` is fast and `position` is not.
fn find_terminator(input: &[u8]) -> Option<usize> {
    const BLOCK: usize = 64;
    let start = BLOCK * input.chunks(BLOCK).position(|block| block.contains(&1))?;
    input[start..].iter().position(|&byte| byte == 1).map(|at| start + at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn parsed(frame: &str) -> ServerFrame<'_> {
        ServerFrame::parse(frame.as_bytes())
    }

    #[test]
    fn every_frame_of_the_server_is_recognised() {
        assert_eq!(parsed("ACK"), ServerFrame::Ack);
        assert_eq!(parsed("PING"), ServerFrame::Ping);
        assert_eq!(parsed(r#"{"timestamp":[1,2,3],"token":"0123"}"#), ServerFrame::Greeting { token: "0123".into() });
        assert_eq!(
            parsed(
                r#"{"timestamp":[1258,870801,42],"topic":"caf\u00e9","event":"e","message_id":7,"data":{"a":0.10}}"#
            ),
            ServerFrame::Message {
                base64: None,
                timestamp: Timestamp { mega: 1_258, sec: 870_801, micro: 42 },
                topic: "café".into(),
                event: "\"e\"",
                message_id: "7",
                data: r#"{"a":0.10}"#,
            }
        );
        assert_eq!(
            parsed(r#"{"timestamp":[1,2,3],"subscribed":{"topic":"t"}}"#),
            ServerFrame::Assigned { topic: "t".into() }
        );
        for (body, millis) in [(r#"{"expires_ms":5000}"#, Some(5_000)), ("{}", None)] {
            let frame = format!(r#"{{"timestamp":[1,2,3],"refreshed":{body}}}"#);
            assert_eq!(parsed(&frame), ServerFrame::Refreshed { expires: millis.map(Duration::from_millis) });
        }
        assert_eq!(
            parsed(r#"{"timestamp":[1,2,3],"error":{"code":"bad_topic","message":"no"}}"#),
            ServerFrame::Error { code: "bad_topic".into(), message: "no".into() }
        );
        assert_eq!(
            parsed(r#"{"timestamp":[1,2,3],"published":{"topic":"t","epoch":"00ff","seq":9,"subscribers":2}}"#),
            ServerFrame::Published { topic: "t".into(), epoch: "00ff".into(), seq: 9, subscribers: 2 }
        );
        assert_eq!(
            parsed(
                r#"{"timestamp":[1,2,3],"attached":{"t":{"resumed":true,"missed":3},"u":{"resumed":false}},"token":"00"}"#
            ),
            ServerFrame::Attached { topics: vec![("t".into(), Some(3)), ("u".into(), None)], token: "00".into() }
        );
    }

    #[test]
    fn unknown_frames_are_returned_unchanged() {
        for frame in ["", "NEWS", "[1]", "{}", "{\"token\":1}", "{\"attached\":{}}", "{\"topic\":\"t\"}"] {
            assert_eq!(parsed(frame), ServerFrame::Unknown(frame.as_bytes()), "{frame}");
        }
        assert_eq!(ServerFrame::parse(b"\xff"), ServerFrame::Unknown(b"\xff"));
    }

    #[test]
    fn the_original_servers_list_of_a_token_is_unknown() {
        let frame = "{\"timestamp\":[1,2,3],\"token\":[100,50]}";
        assert_eq!(parsed(frame), ServerFrame::Unknown(frame.as_bytes()));
    }

    #[test]
    fn frames_are_the_same_at_any_split() {
        let bytes = [
            &b"{\"timestamp\":[1,2,3],\"token\":\"00\"}\x01ACK\x01"[..],
            b"{\"timestamp\":[1,2,3],\"topic\":\"t\",\"event\":\"e\",\"message_id\":\"\",\"data\":null}\x01PING\x01",
        ]
        .concat();
        let read = |size: usize| {
            let mut decoder = ServerDecoder::new();
            let mut frames = Vec::new();
            for mut piece in bytes.chunks(size) {
                while let Some(frame) = decoder.decode(&mut piece) {
                    frames.push(format!("{frame:?}"));
                }
            }
            frames
        };
        let whole = read(bytes.len());
        assert_eq!(whole.len(), 4);
        for size in 1..bytes.len() {
            assert_eq!(read(size), whole, "in pieces of {size}");
        }
    }

    #[test]
    fn a_frame_is_too_large_at_any_split() {
        for size in 1..12 {
            let mut decoder = ServerDecoder::with_max_frame_bytes(8);
            let mut frames = Vec::new();
            for mut piece in b"12345678\x01123456789\x01ACK\x01".chunks(size) {
                while let Some(frame) = decoder.decode(&mut piece) {
                    frames.push(format!("{frame:?}"));
                }
                assert!(decoder.buffered() <= 8);
            }
            let expected = [ServerFrame::Unknown(b"12345678"), ServerFrame::TooLarge].map(|frame| format!("{frame:?}"));
            assert_eq!(frames, expected, "in pieces of {size}");
        }
    }

    #[test]
    fn an_endless_frame_of_a_server_is_cut_off_at_the_limit() {
        let mut decoder = ServerDecoder::with_max_frame_bytes(8);
        let mut input: &[u8] = b"12345678";
        assert_eq!(decoder.decode(&mut input), None);
        let mut input: &[u8] = b"9";
        assert_eq!(decoder.decode(&mut input), Some(ServerFrame::TooLarge));
        let mut input: &[u8] = b"ACK\x01";
        assert_eq!(decoder.decode(&mut input), None);
    }
}
