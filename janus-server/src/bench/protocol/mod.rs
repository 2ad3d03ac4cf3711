//! What differs between the servers that the bench can drive, and nothing else.
//!
//! Everything measured or counted is the same for all of them: the message's data, the ledger, the clock, the sockets. A
//! protocol says with which bytes a client opens its connection, with which a message is published, and what the bytes
//! from the server mean. Whatever a client has to say at first goes out in one write, without waiting for a greeting in
//! between; all of these servers take that, so connecting costs each of them one round trip.

mod http;
mod janus;
mod mqtt;
mod nats;
mod redis;
mod said;
mod sse;
mod websocket;

use std::borrow::Cow;
use std::fmt;
use std::mem;
use std::net::SocketAddr;
use std::ops::ControlFlow;

use serde::{Deserialize, Serialize};

pub(super) use janus::publish_and_close;

/// What the server speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Protocol {
    /// The classic protocol.
    Janus,
    /// RESP2: SUBSCRIBE and PUBLISH.
    Redis,
    /// NATS: CONNECT, SUB, PUB and PING.
    Nats,
    /// MQTT 3.1.1 with QoS 0.
    Mqtt,
    /// What subscribers speak with [`Transport::Ws`].
    #[value(skip)]
    WebSocket,
    /// What subscribers speak with [`Transport::Sse`].
    #[value(skip)]
    Sse,
}

/// How the subscribers of a Janus are connected. Publishing is the same for all, so that they can be compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Transport {
    /// By the protocol of `--protocol`, on `--to`.
    Tcp,
    /// By janus.v1.json over WebSocket, on `--http`.
    Ws,
    /// By server-sent events, on `--http`.
    Sse,
}

impl Transport {
    /// What the subscribers speak, where the publisher speaks this.
    pub(super) fn protocol_of_subscribers(self, publisher: Protocol) -> Protocol {
        match self {
            Self::Tcp => publisher,
            Self::Ws => Protocol::WebSocket,
            Self::Sse => Protocol::Sse,
        }
    }
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Ws => "ws",
            Self::Sse => "sse",
        })
    }
}

/// What a server said.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Frame<'a> {
    /// The server has taken the client in.
    Welcome,
    /// What was asked for stands: the subscription.
    Ack,
    /// The data of a message.
    Message(&'a [u8]),
    /// The server wants a sign of life, which is [`Protocol::pong`].
    Ping,
    Refused(Refusal<'a>),
    /// Something that a bench has no use for.
    Other,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Refusal<'a> {
    pub(super) code: Cow<'a, str>,
    pub(super) message: Cow<'a, str>,
    /// Whether the server ends the connection, so that it does not read what comes after the refused.
    pub(super) closes: bool,
}

/// The other end does not speak the protocol: one of the flags that are named is probably wrong, or `--to`.
#[derive(Debug, thiserror::Error)]
#[error("the server does not speak {protocol} (see {}): it sent {excerpt:?}", protocol.flags())]
pub(crate) struct Foreign {
    protocol: Protocol,
    excerpt: String,
}

/// Bytes that are not of the protocol.
#[derive(Debug, PartialEq, Eq)]
struct Malformed;

/// A whole frame with its length, or `None` if its end has not come yet.
type Decoded<'a> = Result<Option<(Frame<'a>, usize)>, Malformed>;

impl Protocol {
    /// What a client sends as soon as its connection stands: a subscriber with its topic is answered with
    /// [`Frame::Ack`], a publisher without one with that or [`Frame::Welcome`].
    ///
    /// The name is one that no other client of the server has.
    pub(super) fn opening(self, server: SocketAddr, name: &str, topic: Option<&str>) -> Vec<u8> {
        match self {
            Self::Janus => janus::opening(topic),
            Self::Redis => redis::opening(topic),
            Self::Nats => nats::opening(topic),
            Self::Mqtt => mqtt::opening(name, topic),
            Self::WebSocket => websocket::opening(server, topic.expect(NO_PUBLISHER)),
            Self::Sse => sse::opening(server, topic.expect(NO_PUBLISHER)),
        }
    }

    /// Appends what publishes a message. The data is a JSON string, which for all but Janus is just bytes.
    ///
    /// # Panics
    ///
    /// If only subscribers speak the protocol.
    pub(super) fn publish(self, topic: &str, data: &str, out: &mut Vec<u8>) {
        match self {
            Self::WebSocket | Self::Sse => panic!("{NO_PUBLISHER}"),
            Self::Janus => janus::publish(topic, data, out),
            Self::Redis => redis::publish(topic, data, out),
            Self::Nats => nats::publish(topic, data, out),
            Self::Mqtt => mqtt::publish(topic, data, out),
        }
    }

    /// The answer to [`Frame::Ping`].
    pub(super) fn pong(self) -> &'static [u8] {
        match self {
            Self::Nats => nats::PONG,
            Self::WebSocket => websocket::PONG,
            // These do not ask.
            Self::Janus | Self::Redis | Self::Mqtt | Self::Sse => b"",
        }
    }

    /// Reads the frame at the beginning of `bytes`, of which the first `searched` are known not to hold its end.
    fn decode(self, bytes: &[u8], searched: usize, data_bytes: u32) -> Decoded<'_> {
        match self {
            Self::Janus => janus::decode(bytes, searched, data_bytes),
            Self::Redis => redis::decode(bytes),
            Self::Nats => nats::decode(bytes),
            Self::Mqtt => mqtt::decode(bytes),
            Self::WebSocket => websocket::decode(bytes, data_bytes),
            Self::Sse => sse::decode(bytes, searched, data_bytes),
        }
    }

    /// The flags that say where the server is and what it speaks.
    fn flags(self) -> &'static str {
        match self {
            Self::Janus | Self::Redis | Self::Nats | Self::Mqtt => "--protocol",
            Self::WebSocket | Self::Sse => "--transport and --http",
        }
    }

    /// What to look at if nobody listens.
    pub(super) fn advice_if_refused(self) -> &'static str {
        match self {
            Self::Janus | Self::Redis | Self::Nats | Self::Mqtt => " (is the server running?)",
            Self::WebSocket | Self::Sse => " (is the server running, and --http what its http_listen is?)",
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Janus => "janus",
            Self::Redis => "redis",
            Self::Nats => "nats",
            Self::Mqtt => "mqtt",
            Self::WebSocket => "janus.v1.json over WebSocket",
            Self::Sse => "server-sent events",
        })
    }
}

/// Puts the bytes of one connection together to frames, however they were split.
#[derive(Debug, Default)]
pub(super) struct Splitter {
    /// The beginning of a frame whose end has not come. Not larger than that, as there is one for each client.
    unfinished: Vec<u8>,
}

impl Splitter {
    /// Hands each frame that is now whole to `each`, until that breaks off. `data_bytes` is how much data the messages of
    /// this run have.
    pub(super) fn take(
        &mut self,
        protocol: Protocol,
        data_bytes: u32,
        read: &[u8],
        mut each: impl FnMut(Frame<'_>) -> ControlFlow<()>,
    ) -> Result<(), Foreign> {
        let mut unfinished = mem::take(&mut self.unfinished);
        let mut searched = unfinished.len();
        let mut rest = if unfinished.is_empty() {
            read
        } else {
            unfinished.extend_from_slice(read);
            &unfinished
        };
        while !rest.is_empty() {
            match protocol.decode(rest, mem::take(&mut searched), data_bytes) {
                Ok(Some((frame, length))) => {
                    rest = &rest[length..];
                    if each(frame).is_break() {
                        return Ok(());
                    }
                }
                Ok(None) if rest.len() <= FRAME_BYTES_MAX => break,
                Ok(None) | Err(Malformed) => {
                    let excerpt = rest[..rest.len().min(EXCERPT_BYTES)].escape_ascii().to_string();
                    return Err(Foreign { protocol, excerpt });
                }
            }
        }
        let nothing_taken = rest.len() == unfinished.len();
        self.unfinished = if nothing_taken { unfinished } else { rest.to_vec() };
        Ok(())
    }
}

/// Takes the parts of a frame one after the other; `None` where the bytes end.
struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    fn bytes(&mut self, length: usize) -> Option<&'a [u8]> {
        let bytes = self.bytes.get(self.at..)?.get(..length)?;
        self.at += length;
        Some(bytes)
    }

    /// A line without its end, which is CR LF.
    fn line(&mut self) -> Result<Option<&'a [u8]>, Malformed> {
        let rest = &self.bytes[self.at..];
        let Some(length) = rest.iter().take(LINE_BYTES_MAX).position(|&byte| byte == b'\n') else {
            return if rest.len() < LINE_BYTES_MAX { Ok(None) } else { Err(Malformed) };
        };
        self.at += length + 1;
        rest[..length].strip_suffix(b"\r").map(Some).ok_or(Malformed)
    }

    /// So many bytes, and the end of the line after them.
    fn bytes_of_line(&mut self, length: usize) -> Result<Option<&'a [u8]>, Malformed> {
        let Some(bytes) = self.bytes(length + 2) else { return Ok(None) };
        bytes.strip_suffix(b"\r\n").map(Some).ok_or(Malformed)
    }
}

/// Where the data of a message of this run stands: the last value of its object, as Janus writes it in all formats. A
/// client that gets tens of thousands of them a second need not parse each.
fn data_at_the_end(frame: &[u8], data_bytes: usize) -> Option<&[u8]> {
    let members = frame.strip_suffix(b"}")?;
    let (before, data) = members.split_at_checked(members.len().checked_sub(data_bytes)?)?;
    (before.ends_with(b"\"data\":") && data.starts_with(b"\"") && data.ends_with(b"\"")).then_some(data)
}

/// A length as decimal digits.
fn length(digits: &[u8]) -> Result<usize, Malformed> {
    let length: usize = str::from_utf8(digits).ok().and_then(|text| text.parse().ok()).ok_or(Malformed)?;
    if length <= FRAME_BYTES_MAX { Ok(length) } else { Err(Malformed) }
}

const NO_PUBLISHER: &str = "messages are published with the protocol of --protocol";
/// More than the data a bench can be told to send.
const FRAME_BYTES_MAX: usize = 32 << 20;
/// More than any line but data; the INFO of NATS is the longest.
const LINE_BYTES_MAX: usize = 64 * 1024;
const EXCERPT_BYTES: usize = 40;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DATA: &str = "\"..........................................\\u0001\"";

    fn refused(code: &str, message: &str, closes: bool) -> String {
        let (code, message) = (code.into(), message.into());
        format!("{:?}", Frame::Refused(Refusal { code, message, closes }))
    }

    /// All that the protocol's server may say, and what it means.
    fn conversation(protocol: Protocol) -> (Vec<u8>, Vec<String>) {
        let parts: Vec<(Vec<u8>, String)> = match protocol {
            Protocol::Janus => {
                let message = |data: &str| {
                    let before = "{\"timestamp\":[1,2,3],\"topic\":\"t\",\"event\":\"e\",\"message_id\":\"\",\"data\":";
                    format!("{before}{data}}}\x01").into_bytes()
                };
                let (error, reason) =
                    (&b"{\"timestamp\":[1,2,3],\"error\":{\"code\":"[..], &b"\"message\":\"no\"}}\x01"[..]);
                vec![
                    (b"{\"timestamp\":[1,2,3],\"token\":\"00ff\"}\x01".to_vec(), format!("{:?}", Frame::Welcome)),
                    (b"ACK\x01".to_vec(), format!("{:?}", Frame::Ack)),
                    (message(DATA), format!("{:?}", Frame::Message(DATA.as_bytes()))),
                    (b"PING\x01".to_vec(), format!("{:?}", Frame::Other)),
                    // Data of another length than this run's is found, too.
                    (message("{\"a\":1}"), format!("{:?}", Frame::Message(b"{\"a\":1}"))),
                    ([error, b"\"bad_topic\",", reason].concat(), refused("bad_topic", "no", false)),
                    ([error, b"\"server_draining\",", reason].concat(), refused("server_draining", "no", true)),
                ]
            }
            Protocol::Redis => vec![
                (b"+PONG\r\n".to_vec(), format!("{:?}", Frame::Welcome)),
                (b"*3\r\n$9\r\nsubscribe\r\n$1\r\nt\r\n:1\r\n".to_vec(), format!("{:?}", Frame::Ack)),
                (
                    format!("*3\r\n$7\r\nmessage\r\n$1\r\nt\r\n${}\r\n{DATA}\r\n", DATA.len()).into_bytes(),
                    format!("{:?}", Frame::Message(DATA.as_bytes())),
                ),
                (b":17\r\n".to_vec(), format!("{:?}", Frame::Other)),
                (b"*3\r\n$7\r\nmessage\r\n$1\r\nt\r\n$0\r\n\r\n".to_vec(), format!("{:?}", Frame::Message(b""))),
                (b"-NOAUTH log in first\r\n".to_vec(), refused("NOAUTH", "log in first", false)),
            ],
            Protocol::Nats => vec![
                (b"INFO {\"server_id\":\"X\",\"max_payload\":1048576} \r\n".to_vec(), format!("{:?}", Frame::Other)),
                (b"PONG\r\n".to_vec(), format!("{:?}", Frame::Ack)),
                (b"PING\r\n".to_vec(), format!("{:?}", Frame::Ping)),
                (
                    format!("MSG t 1 {}\r\n{DATA}\r\n", DATA.len()).into_bytes(),
                    format!("{:?}", Frame::Message(DATA.as_bytes())),
                ),
                (b"MSG t 1 reply.to 2\r\n\r\n\r\n".to_vec(), format!("{:?}", Frame::Message(b"\r\n"))),
                (b"+OK\r\n".to_vec(), format!("{:?}", Frame::Other)),
                (b"-ERR 'Invalid Subject'\r\n".to_vec(), refused("ERR", "Invalid Subject", false)),
                (b"-ERR 'Slow Consumer'\r\n".to_vec(), refused("ERR", "Slow Consumer", true)),
            ],
            Protocol::Mqtt => {
                let message = |data: &[u8]| {
                    let length = u8::try_from(data.len() + 3).unwrap();
                    [&[0x30, length, 0, 1, b't'], data].concat()
                };
                let long = [b'x'; 300];
                vec![
                    (vec![0x20, 2, 0, 0], format!("{:?}", Frame::Welcome)),
                    (vec![0x90, 3, 0, 1, 0], format!("{:?}", Frame::Ack)),
                    (message(DATA.as_bytes()), format!("{:?}", Frame::Message(DATA.as_bytes()))),
                    // 303 is 47 + 2 · 128, the length in two bytes.
                    ([&[0x30, 0xaf, 2, 0, 1, b't'], &long[..]].concat(), format!("{:?}", Frame::Message(&long))),
                    (message(b""), format!("{:?}", Frame::Message(b""))),
                    (vec![0xd0, 0], format!("{:?}", Frame::Other)),
                    (vec![0x20, 2, 0, 5], refused("CONNACK 5", "not authorised", true)),
                    (vec![0x90, 3, 0, 1, 0x80], refused("SUBACK 128", "no subscription", false)),
                ]
            }
            Protocol::WebSocket => {
                let message = |data: &str| {
                    let text = format!(
                        "{{\"type\":\"message\",\"topic\":\"t\",\"seq\":1,\"time\":2,\"event\":\"e\",\
                         \"message_id\":\"\",\"data\":{data}}}"
                    );
                    text_frame(&text)
                };
                let long = format!("\"{}\"", "x".repeat(300));
                let reason = "\"error\":\"topic_unavailable\",\"message\":\"no\"}";
                vec![
                    (
                        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                          Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
                            .to_vec(),
                        format!("{:?}", Frame::Welcome),
                    ),
                    (
                        text_frame(r#"{"type":"welcome","session":"00","resumed":false,"limits":{},"heartbeat_ms":1}"#),
                        format!("{:?}", Frame::Welcome),
                    ),
                    (
                        text_frame(r#"{"type":"subscribed","topic":"t","epoch":"00","seq":0,"resumed":false}"#),
                        format!("{:?}", Frame::Ack),
                    ),
                    (message(DATA), format!("{:?}", Frame::Message(DATA.as_bytes()))),
                    (vec![0x89, 0], format!("{:?}", Frame::Ping)),
                    // Data of another length than this run's is found, too; and a length in two bytes.
                    (message(&long), format!("{:?}", Frame::Message(long.as_bytes()))),
                    (vec![0x8a, 1, b'x'], format!("{:?}", Frame::Other)),
                    (
                        text_frame(r#"{"type":"gap","topic":"t","epoch":"00","from":1,"to":2}"#),
                        format!("{:?}", Frame::Other),
                    ),
                    (
                        text_frame(&format!("{{\"type\":\"error\",\"topic\":\"t\",\"code\":4001,{reason}")),
                        refused("topic_unavailable", "no", false),
                    ),
                    (
                        text_frame(&format!("{{\"type\":\"bye\",\"code\":4001,{reason}")),
                        refused("topic_unavailable", "no", true),
                    ),
                    (vec![0x88, 4, 0x03, 0xea, b'n', b'o'], refused("close 1002", "no", true)),
                    (vec![0x88, 0], refused("close", "", true)),
                    (
                        b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 59\r\n\r\n\
                          {\"error\":{\"code\":\"too_many_connections\",\"message\":\"later\"}}"
                            .to_vec(),
                        refused("too_many_connections", "later", true),
                    ),
                ]
            }
            Protocol::Sse => {
                let message = |data: &str| {
                    let before = "{\"topic\":\"t\",\"seq\":1,\"time\":2,\"event\":\"e\",\"message_id\":\"\",\"data\":";
                    format!("id: 9f.1\ndata: {before}{data}}}\n\n").into_bytes()
                };
                let reason = "\"error\":\"server_draining\",\"message\":\"no\"}";
                vec![
                    (
                        b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n\
                          cache-control: no-store\r\n\r\n"
                            .to_vec(),
                        format!("{:?}", Frame::Welcome),
                    ),
                    (
                        // The first line comes in a chunk of its own.
                        b"c\r\nretry: 2000\n\r\n2b\r\nevent: subscribed\nid: 9f.0.1\ndata: {\"seq\":0}\n\n".to_vec(),
                        format!("{:?}", Frame::Ack),
                    ),
                    (b"\r\n1c\r\nid: 9f.1.1\ndata: {\"data\":6}\n\n".to_vec(), format!("{:?}", Frame::Message(b"6"))),
                    (b"\r\nevent: gap\nid: 9f.2\n\n".to_vec(), format!("{:?}", Frame::Other)),
                    (message(DATA), format!("{:?}", Frame::Message(DATA.as_bytes()))),
                    (b":\n\n".to_vec(), format!("{:?}", Frame::Other)),
                    // A stray blank line, and a field without a space.
                    (b"\n".to_vec(), format!("{:?}", Frame::Other)),
                    (b"id:9f.2\ndata:{\"data\":7}\n\n".to_vec(), format!("{:?}", Frame::Message(b"7"))),
                    (message("{\"a\":1}"), format!("{:?}", Frame::Message(b"{\"a\":1}"))),
                    (
                        b"event: gap\nid: 9f.5\ndata: {\"topic\":\"t\",\"from\":3,\"to\":5}\n\n".to_vec(),
                        format!("{:?}", Frame::Other),
                    ),
                    (
                        format!("event: refused\ndata: {{\"topic\":\"t\",\"code\":4002,{reason}\n\n").into_bytes(),
                        refused("server_draining", "no", false),
                    ),
                    (
                        format!("event: bye\ndata: {{\"code\":4002,{reason}\n\n").into_bytes(),
                        refused("server_draining", "no", true),
                    ),
                    (
                        b"HTTP/1.1 401 Unauthorized\r\ncontent-length: 42\r\n\r\n\
                          {\"error\":{\"code\":4403,\"message\":\"no key\"}}"
                            .to_vec(),
                        refused("4403", "no key", true),
                    ),
                    (b"HTTP/1.1 502 Bad Gateway\r\n\r\n".to_vec(), refused("502 Bad Gateway", "", true)),
                ]
            }
        };
        let (bytes, frames): (Vec<Vec<u8>>, Vec<String>) = parts.into_iter().unzip();
        (bytes.concat(), frames)
    }

    /// A text frame as a server sends it.
    fn text_frame(text: &str) -> Vec<u8> {
        let mut frame = vec![0x81];
        match text.len() {
            length @ 0..126 => frame.push(length as u8),
            length @ 126..0x1_0000 => {
                frame.push(126);
                frame.extend((length as u16).to_be_bytes());
            }
            length => {
                frame.push(127);
                frame.extend((length as u64).to_be_bytes());
            }
        }
        frame.extend_from_slice(text.as_bytes());
        frame
    }

    fn frames(protocol: Protocol, pieces: &[&[u8]]) -> Vec<String> {
        let mut splitter = Splitter::default();
        let mut frames = Vec::new();
        for piece in pieces {
            let each = |frame: Frame<'_>| {
                frames.push(format!("{frame:?}"));
                ControlFlow::Continue(())
            };
            splitter.take(protocol, DATA.len() as u32, piece, each).unwrap();
        }
        assert!(splitter.unfinished.is_empty());
        frames
    }

    const ALL: [Protocol; 6] =
        [Protocol::Janus, Protocol::Redis, Protocol::Nats, Protocol::Mqtt, Protocol::WebSocket, Protocol::Sse];

    #[test]
    fn every_frame_of_a_server_is_understood() {
        for protocol in ALL {
            let (bytes, expected) = conversation(protocol);
            assert_eq!(frames(protocol, &[&bytes]), expected, "{protocol}");
        }
    }

    #[test]
    fn frames_are_the_same_wherever_the_bytes_are_split() {
        for protocol in ALL {
            let (bytes, expected) = conversation(protocol);
            for split in 0..=bytes.len() {
                let (first, second) = bytes.split_at(split);
                assert_eq!(frames(protocol, &[first, second]), expected, "{protocol}, split at {split}");
            }
            for size in 1..bytes.len() {
                let pieces: Vec<&[u8]> = bytes.chunks(size).collect();
                assert_eq!(frames(protocol, &pieces), expected, "{protocol}, in pieces of {size}");
            }
        }
    }

    /// Streams that look like the protocol often enough to reach every part of its decoder, and go wrong in many places.
    fn streams(protocol: Protocol) -> impl Strategy<Value = Vec<u8>> {
        let words: &[&[u8]] = match protocol {
            Protocol::Janus => &[
                b"ACK\x01",
                b"PING\x01",
                b"\x01",
                b"{\"timestamp\":[1,2,3],",
                b"\"token\":\"00\"}\x01",
                b"\"topic\":\"t\",\"event\":\"e\",\"message_id\":\"\",\"data\":",
                b"\"12345678\"}\x01",
                b"7}\x01",
                b"\"error\":{\"code\":\"bad_topic\",\"message\":\"no\"}}\x01",
            ],
            Protocol::Redis => &[
                b"*3\r\n",
                b"*0\r\n",
                b"*",
                b"$7\r\nmessage\r\n",
                b"$9\r\nsubscribe\r\n",
                b"$1\r\nt\r\n",
                b"$",
                b":1\r\n",
                b"+PONG\r\n",
                b"-ERR no\r\n",
                b"-\r\n",
                b"33554432\r\n",
                b"99999999999999999999\r\n",
                b"\r\n",
            ],
            Protocol::Nats => &[
                b"INFO {}\r\n",
                b"MSG t 1 3\r\n",
                b"MSG t 1 33554432\r\n",
                b"MSG ",
                b"abc\r\n",
                b"PING\r\n",
                b"PONG\r\n",
                b"+OK\r\n",
                b"-ERR 'no'\r\n",
                b"-ERR",
                b"\r\n",
            ],
            Protocol::Mqtt => &[
                b"\x20\x02\x00\x00",
                b"\x20\x02\x00\x09",
                b"\x90\x03\x00\x01\x00",
                b"\x90\x03\x00\x01\x80",
                b"\x30\x06\x00\x01tabc",
                b"\x30\x02\x00\x01",
                b"\x30",
                b"\x80\x01",
                b"\xff\xff\xff\x0f",
                b"\xd0\x00",
            ],
            Protocol::WebSocket => &[
                b"HTTP/1.1 101 OK\r\n",
                b"HTTP/1.1 403 No\r\n",
                b"sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n",
                b"content-length: 3\r\n",
                b"\r\n",
                b"\x81\x13{\"data\":\"12345678\"}",
                b"\x81\x7e\x00\x13{\"data\":\"12345678\"}",
                b"\x81\x7f\x00\x00\x00\x00\x00\x00\x00\x02{}",
                b"\x81\x7f\x00\x00\x00\x00\x02\x00\x00\x01",
                b"\x81\x1b{\"type\":\"message\",\"data\":7}",
                b"\x81\x15{\"type\":\"subscribed\"}",
                b"\x81",
                b"\x88\x02\x03\xe8",
                b"\x89\x00",
                b"\x8a\x7e",
                b"\x82\x01x",
            ],
            Protocol::Sse => &[
                b"HTTP/1.1 200 OK\r\n",
                b"HTTP/1.1 403 No\r\n",
                b"content-type: text/event-stream\r\n",
                b"content-length: 3\r\n",
                b"\r\n",
                b"\n",
                b"id: 1\n",
                b"data: {\"data\":\"12345678\"}\n",
                b"data: {\"data\":7}\n",
                b"data: {\"error\":\"bad_topic\",\"message\":\"no\"}\n",
                b"event: refused\n",
                b"event: subscribed\n",
                b"event: gap\n",
                b":\n\n",
                b"retry: 7\n",
                b"other: 7\n",
            ],
        };
        let fragment = prop_oneof![
            9 => proptest::sample::select(words).prop_map(<[u8]>::to_vec),
            1 => proptest::collection::vec(any::<u8>(), 0..8),
        ];
        proptest::collection::vec(fragment, 0..16).prop_map(|fragments| fragments.concat())
    }

    /// The frames that come out, and whether the stream was understood to its end.
    fn outcome<'a>(protocol: Protocol, pieces: impl Iterator<Item = &'a [u8]>) -> (Vec<String>, bool) {
        let mut splitter = Splitter::default();
        let mut frames = Vec::new();
        for piece in pieces {
            let each = |frame: Frame<'_>| {
                frames.push(format!("{frame:?}"));
                ControlFlow::Continue(())
            };
            if splitter.take(protocol, 10, piece, each).is_err() {
                return (frames, false);
            }
        }
        (frames, true)
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived_and_mean_the_same_however_they_are_cut(
            (protocol, bytes) in proptest::sample::select(&ALL[..]).prop_flat_map(|it| (Just(it), streams(it))),
            sizes in proptest::collection::vec(1_usize..20, 1..4),
        ) {
            let whole = outcome(protocol, std::iter::once(&bytes[..]));
            let mut rest = &bytes[..];
            let mut sizes = sizes.into_iter().cycle();
            let pieces = std::iter::from_fn(|| {
                let (piece, after) = rest.split_at(sizes.next()?.min(rest.len()));
                rest = after;
                (!piece.is_empty()).then_some(piece)
            });
            prop_assert_eq!(outcome(protocol, pieces), whole, "{}", protocol);
        }

        #[test]
        fn bytes_of_no_protocol_at_all_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            for protocol in ALL {
                outcome(protocol, bytes.chunks(7));
            }
        }
    }

    #[test]
    fn a_frame_as_long_as_any_comes_through_in_pieces() {
        let data = format!("\"{}\"", "x".repeat(70_000));
        let bytes = text_frame(&format!("{{\"type\":\"message\",\"topic\":\"t\",\"data\":{data}}}"));
        let pieces: Vec<&[u8]> = bytes.chunks(9_000).collect();
        let expected = [format!("{:?}", Frame::Message(data.as_bytes()))];
        assert_eq!(frames(Protocol::WebSocket, &pieces), expected);
        let block = format!("id: 9f.1\ndata: {{\"topic\":\"t\",\"data\":{data}}}\n\n");
        let pieces: Vec<&[u8]> = block.as_bytes().chunks(9_000).collect();
        assert_eq!(frames(Protocol::Sse, &pieces), expected);
    }

    #[test]
    fn what_opens_a_stream_of_http_is_sent_in_one_piece() {
        let server = "127.0.0.1:8080".parse().unwrap();
        let bytes = Protocol::WebSocket.opening(server, "name", Some("t"));
        let head = bytes.windows(4).position(|end| end == b"\r\n\r\n").unwrap() + 4;
        let request = str::from_utf8(&bytes[..head]).unwrap();
        assert!(request.starts_with("GET /ws HTTP/1.1\r\nHost: 127.0.0.1:8080\r\nUpgrade: websocket\r\n"), "{request}");
        let (hello, subscribe) = (br#"{"type":"hello"}"#, br#"{"type":"subscribe","topic":"t"}"#);
        // Masked, as a client's frames must be, with zeros.
        let frames = [&[0x81, 0x80 | 16, 0, 0, 0, 0][..], hello, &[0x81, 0x80 | 32, 0, 0, 0, 0], subscribe].concat();
        assert_eq!(bytes[head..], frames);
        let bytes = Protocol::Sse.opening(server, "name", Some("t"));
        let expected = "GET /events?topic=t HTTP/1.1\r\nHost: 127.0.0.1:8080\r\n\r\n";
        assert_eq!(str::from_utf8(&bytes), Ok(expected));
    }

    #[test]
    fn what_follows_the_frame_that_ends_a_client_is_not_handed_out() {
        let mut seen = 0;
        let each = |_: Frame<'_>| {
            seen += 1;
            ControlFlow::Break(())
        };
        Splitter::default().take(Protocol::Nats, 40, b"-ERR 'no'\r\nPING\r\n", each).unwrap();
        assert_eq!(seen, 1);
    }

    #[test]
    fn another_protocol_is_told_by_what_the_server_sent() {
        let greeting = b"{\"timestamp\":[1,2,3],\"token\":\"00ff\"}\x01";
        let foreign: [(Protocol, &[u8]); 24] = [
            (Protocol::Redis, greeting),
            (Protocol::Redis, b"*1\r\n$-5\r\n"),
            (Protocol::Redis, b"*1\r\n$99999999999\r\n"),
            (Protocol::Redis, b"*1\r\n$1\r\nabc\r\n"),
            (Protocol::Nats, greeting),
            (Protocol::Nats, b"POST / HTTP/1.1\r\n"),
            (Protocol::Nats, b"MSG t 1 x\r\n"),
            (Protocol::Nats, b"MSG t 1 1\r\nabc\r\n"),
            (Protocol::Mqtt, greeting),
            (Protocol::Mqtt, b"\x30\xff\xff\xff\xff\x01"),
            (Protocol::Mqtt, b"\x30\x03\x00\x05t"),
            (Protocol::WebSocket, greeting),
            // An answer to another key: something in between has kept it.
            (Protocol::WebSocket, b"HTTP/1.1 101 OK\r\nSec-WebSocket-Accept: AAAA\r\n\r\n"),
            (Protocol::WebSocket, b"HTTP/1.0 200 OK\r\n\r\n"),
            (Protocol::WebSocket, b"HTTP/1.1 403\nlength\n\n"),
            (Protocol::WebSocket, b"\x81\x02no"),
            (Protocol::WebSocket, b"\x81\x81\x00\x00\x00\x00x"),
            (Protocol::WebSocket, b"\x82\x00"),
            (Protocol::WebSocket, b"\x01\x00"),
            (Protocol::WebSocket, b"\x89\x7e"),
            (Protocol::WebSocket, b"\x81\x7f\xff\xff\xff\xff\xff\xff\xff\xff"),
            (Protocol::Sse, greeting),
            (Protocol::Sse, b"HTTP/1.1 200 OK\r\ncontent-type: text/html\r\n\r\n"),
            (Protocol::Sse, b"data: {}\ndata: {}\n\n"),
        ];
        for (protocol, bytes) in foreign {
            let each = |frame: Frame<'_>| panic!("{protocol}: {frame:?}");
            let error = Splitter::default().take(protocol, 40, bytes, each).unwrap_err().to_string();
            assert!(error.starts_with(&format!("the server does not speak {protocol}")), "{error}");
        }
        let each = |_: Frame<'_>| ControlFlow::Continue(());
        let endless = vec![b'x'; FRAME_BYTES_MAX + 1];
        Splitter::default().take(Protocol::Janus, 40, &endless, each).unwrap_err();
        let endless = vec![b'-'; LINE_BYTES_MAX];
        Splitter::default().take(Protocol::Nats, 40, &endless, each).unwrap_err();
    }

    #[test]
    fn each_server_is_spoken_to_in_its_own_words() {
        let text = |bytes: Vec<u8>| bytes.escape_ascii().to_string();
        let said = |protocol: Protocol| {
            let mut message = Vec::new();
            protocol.publish("t", "\"x\"", &mut message);
            let opening = |topic| text(protocol.opening("127.0.0.1:1".parse().unwrap(), "me", topic));
            [opening(Some("t")), opening(None), text(message)]
        };
        assert_eq!(
            said(Protocol::Redis),
            [
                r"*2\r\n$9\r\nSUBSCRIBE\r\n$1\r\nt\r\n",
                r"*1\r\n$4\r\nPING\r\n",
                r#"*3\r\n$7\r\nPUBLISH\r\n$1\r\nt\r\n$3\r\n\"x\"\r\n"#,
            ]
        );
        let [subscriber, publisher, message] = said(Protocol::Nats);
        assert!(
            subscriber.starts_with("CONNECT {") && subscriber.ends_with(r"}\r\nSUB t 1\r\nPING\r\n"),
            "{subscriber}"
        );
        assert!(publisher.starts_with("CONNECT {") && publisher.ends_with(r"}\r\nPING\r\n"), "{publisher}");
        assert_eq!(message, r#"PUB t 3\r\n\"x\"\r\n"#);
        assert_eq!(
            said(Protocol::Mqtt),
            [
                r"\x10\x0e\x00\x04MQTT\x04\x02\x00\x00\x00\x02me\x82\x06\x00\x01\x00\x01t\x00",
                r"\x10\x0e\x00\x04MQTT\x04\x02\x00\x00\x00\x02me",
                r#"0\x06\x00\x01t\"x\""#,
            ]
        );
        assert_eq!(said(Protocol::Janus)[1], r"<regular-socket/>\x00");
    }
}
