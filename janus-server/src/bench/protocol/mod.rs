//! The protocols of the servers that the bench can drive.
//!
//! | file | what it is | what it owns |
//! |---|---|---|
//! | `mod.rs` | pure | the list of protocols and transports, the frames common to all, the dispatch |
//! | `splitter.rs` | buffer of a connection | unfinished frames, and the parts shared by the decoders |
//! | `janus.rs` | decoder | the classic protocol |
//! | `redis.rs` | decoder | RESP2 |
//! | `nats.rs` | decoder | the NATS client protocol |
//! | `mqtt.rs` | decoder | MQTT 3.1.1 |
//! | `websocket.rs` | decoder | `janus.v1.json` over WebSocket |
//! | `sse.rs` | decoder | server-sent events |
//! | `cbor.rs` | decoder | `janus.v1.cbor` over WebSocket |
//! | `http.rs` | pure | the HTTP response that begins a stream, for `websocket.rs` and `sse.rs` |
//! | `said.rs` | pure | objects of `janus.v1.json`, for `websocket.rs` and `sse.rs` |
//! | `tests/` | tests | sample bytes of each protocol, and the tests of all decoders |
//!
//! Only the bytes differ between the protocols. The data of the messages, the ledger, the clock and the sockets are the
//! same for all. A protocol defines the bytes that open a client's connection, the bytes that publish a message, and
//! the meaning of the server's bytes. A client sends its whole opening in a single write, without waiting for a
//! greeting. All of these servers accept that, so connecting costs a single round trip with each.

mod cbor;
mod http;
mod janus;
mod mqtt;
mod nats;
mod redis;
mod said;
mod splitter;
mod sse;
#[cfg(test)]
mod tests;
mod websocket;

use std::borrow::Cow;
use std::fmt;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

pub(super) use janus::publish_and_close;
pub(super) use splitter::Splitter;

/// The protocol of the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Protocol {
    /// The classic protocol of Janus.
    Janus,
    /// RESP2 (SUBSCRIBE and PUBLISH).
    Redis,
    /// The NATS protocol (CONNECT, SUB, PUB and PING).
    Nats,
    /// MQTT 3.1.1 with QoS 0.
    Mqtt,
    /// Only for subscribers, with [`Transport::Ws`].
    #[value(skip)]
    WebSocket,
    /// Only for subscribers, with [`Transport::Cbor`].
    #[value(skip)]
    Cbor,
    /// Only for subscribers, with [`Transport::Sse`].
    #[value(skip)]
    Sse,
}

/// The transport of the subscribers of a Janus server. Publishing is the same with each, so results can be compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Transport {
    /// The protocol of `--protocol`, on `--to`.
    Tcp,
    /// janus.v1.json over WebSocket, on `--http`.
    Ws,
    /// janus.v1.cbor over WebSocket, on `--http`.
    Cbor,
    /// Server-sent events, on `--http`.
    Sse,
}

impl Transport {
    /// The protocol of the subscribers, given the publisher's.
    pub(super) fn protocol_of_subscribers(self, publisher: Protocol) -> Protocol {
        match self {
            Self::Tcp => publisher,
            Self::Ws => Protocol::WebSocket,
            Self::Cbor => Protocol::Cbor,
            Self::Sse => Protocol::Sse,
        }
    }
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Ws => "ws",
            Self::Cbor => "cbor",
            Self::Sse => "sse",
        })
    }
}

/// A frame from a server, reduced to its meaning for the bench.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Frame<'a> {
    /// The server has accepted the client.
    Welcome,
    /// The subscription is in effect.
    Ack,
    /// The data of a message.
    Message(&'a [u8]),
    /// The server expects a sign of life: [`Protocol::pong`].
    Ping,
    Refused(Refusal<'a>),
    /// A frame without meaning for the bench.
    Other,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Refusal<'a> {
    pub(super) code: Cow<'a, str>,
    pub(super) message: Cow<'a, str>,
    /// Whether the server ends the connection, and so does not read the bytes after the refused message.
    pub(super) closes: bool,
}

/// The server does not speak the protocol: probably `--to` or a flag named in the text is wrong.
#[derive(Debug, thiserror::Error)]
#[error("the server does not speak {protocol} (see {}): it sent {excerpt:?}", protocol.flags())]
pub(crate) struct Foreign {
    protocol: Protocol,
    excerpt: String,
}

/// The bytes do not belong to the protocol.
#[derive(Debug, PartialEq, Eq)]
struct Malformed;

/// A whole frame with its length, or `None` if more bytes are needed.
type Decoded<'a> = Result<Option<(Frame<'a>, usize)>, Malformed>;

impl Protocol {
    /// The bytes a client sends as soon as the connection is made. The answer to a subscriber (with a topic) is
    /// [`Frame::Ack`]; the answer to a publisher (without a topic) is [`Frame::Ack`] or [`Frame::Welcome`].
    ///
    /// The name must be unique among the clients of the server.
    pub(super) fn opening(self, server: SocketAddr, name: &str, topic: Option<&str>) -> Vec<u8> {
        match self {
            Self::Janus => janus::opening(topic),
            Self::Redis => redis::opening(topic),
            Self::Nats => nats::opening(topic),
            Self::Mqtt => mqtt::opening(name, topic),
            Self::WebSocket => websocket::opening(server, topic.expect(NO_PUBLISHER)),
            Self::Cbor => cbor::opening(server, topic.expect(NO_PUBLISHER)),
            Self::Sse => sse::opening(server, topic.expect(NO_PUBLISHER)),
        }
    }

    /// Appends the bytes that publish a message. The data is a JSON string; to servers other than Janus, just bytes.
    ///
    /// # Panics
    ///
    /// If only subscribers speak the protocol.
    pub(super) fn publish(self, topic: &str, data: &str, out: &mut Vec<u8>) {
        match self {
            Self::WebSocket | Self::Cbor | Self::Sse => panic!("{NO_PUBLISHER}"),
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
            Self::WebSocket | Self::Cbor => websocket::PONG,
            // These servers do not ping.
            Self::Janus | Self::Redis | Self::Mqtt | Self::Sse => b"",
        }
    }

    /// Decodes the frame at the beginning of `bytes`. The first `searched` bytes are known not to contain its end.
    fn decode(self, bytes: &[u8], searched: usize, data_bytes: u32) -> Decoded<'_> {
        match self {
            Self::Janus => janus::decode(bytes, searched, data_bytes),
            Self::Redis => redis::decode(bytes),
            Self::Nats => nats::decode(bytes),
            Self::Mqtt => mqtt::decode(bytes),
            Self::WebSocket => websocket::decode(bytes, data_bytes),
            Self::Cbor => cbor::decode(bytes, data_bytes),
            Self::Sse => sse::decode(bytes, searched, data_bytes),
        }
    }

    /// The flags for the server's address and protocol.
    fn flags(self) -> &'static str {
        match self {
            Self::Janus | Self::Redis | Self::Nats | Self::Mqtt => "--protocol",
            Self::WebSocket | Self::Cbor | Self::Sse => "--transport and --http",
        }
    }

    /// Advice for a refused connection.
    pub(super) fn advice_if_refused(self) -> &'static str {
        match self {
            Self::Janus | Self::Redis | Self::Nats | Self::Mqtt => " (is the server running?)",
            Self::WebSocket | Self::Cbor | Self::Sse => " (is the server running, and is --http its http_listen?)",
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
            Self::Cbor => "janus.v1.cbor over WebSocket",
            Self::Sse => "server-sent events",
        })
    }
}

const NO_PUBLISHER: &str = "messages are published with the protocol of --protocol";
