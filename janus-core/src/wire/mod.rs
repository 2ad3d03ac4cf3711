//! The wire formats: pure functions from bytes to commands and from events to bytes.
//!
//! Nothing here owns a socket or depends on another module of the crate. Time is passed in, except for the `Date` of an
//! HTTP response.
//!
//! | file | what it is | what it owns |
//! |---|---|---|
//! | `codec.rs` | pure: the contract | the traits [`Codec`] and [`Decoder`], the [`Limits`] of a decoder |
//! | `command.rs` | pure: values | a client's requests, as [`Command`] and [`Open`] |
//! | `event.rs` | pure: values | the server's side, as [`ServerEvent`], [`NumberedMessage`] and [`Refusal`] |
//! | `error.rs` | pure: a table | every [`ErrorCode`] with number, class and HTTP status; [`FrameError`] |
//! | `classic.rs` | pure: a codec | the NUL-framed protocol of 2009, with the actions added by this project |
//! | `cbor.rs` | pure: a protocol | `janus.v1.cbor`, the frames of `janus.v1.json` in binary |
//! | `v1.rs` | pure: a protocol | `janus.v1.json`, the protocol of 2026, carried by a WebSocket |
//! | `websocket.rs` | pure: a codec | WebSocket frames (RFC 6455), and the contract of the protocols in its messages; its parts are in `websocket/` |
//! | `sse.rs` | pure: a codec | server-sent events |
//! | `http.rs` | pure: a codec | the HTTP port: the head of a request, and what the connection becomes; its parts are in `http/` |
//! | `origins.rs` | pure: a rule | the origins whose pages may connect |
//! | `history.rs` | pure: a value | [`HistoryQuery`], a request for a part of a topic's history |
//! | `http_request.rs` | pure: a value | [`HttpRequest`], the parsed head of a request |
//! | `forwarded.rs` | pure: a reader | [`ForwardedClient`], a client behind proxies that speak HTTP |
//! | `proxy_header.rs` | pure: a reader | [`ProxyHeader`], a client behind a proxy that speaks the PROXY protocol |
//! | `delimited.rs` | pure: a decoder | [`Delimited`], frames that end with a delimiter |
//! | `length_prefixed.rs` | pure: a decoder | [`LengthPrefixed`], frames that begin with their length |
//! | `request.rs` | pure: helpers | topics, publications and errors common to all formats |
//! | `resting.rs` | pure: a decoder | decoders that give up their memory between frames |
//! | `publication.rs` | pure: a value | [`Publication`], a publisher's JSON text or bytes, carried and never re-encoded |
//! | `base64.rs` | pure: a value | [`Base64`], bytes inside JSON |
//! | `client_id.rs` | pure: a value | [`ClientId`], the public name of a connection |
//! | `member.rs` | pure: a value | [`Member`], a user subscribed to a topic, as other clients see the user |
//! | `position.rs` | pure: a value | [`Position`], a place in a topic's order, and [`Epoch`] |
//! | `topic_name.rs` | pure: a value | [`TopicName`], checked once and trusted afterwards |
//! | `timestamp.rs` | pure: a value | [`Timestamp`], a time in Erlang's form |
//! | `peer.rs` | pure: a value | [`Peer`], a client's address |
//! | `idempotency.rs` | pure: a value | the key with which a publisher may repeat a message |
//! | `json.rs` | pure: a reader | JSON in one pass, without decoding |
//! | `object.rs` | pure: a writer | JSON objects, member by member |
//!
//! `classic/client.rs`, `v1/client.rs`, `cbor/client.rs` and `websocket/client.rs` are the clients' ends of these protocols.
//! `classic/parts.rs` takes stored messages apart.

mod base64;
pub mod cbor;
pub mod classic;
mod client_id;
mod codec;
mod command;
mod delimited;
mod error;
mod event;
mod forwarded;
mod history;
mod http;
mod http_request;
mod idempotency;
pub(crate) mod json;
mod length_prefixed;
mod member;
mod object;
mod origins;
mod peer;
mod position;
mod proxy_header;
mod publication;
mod request;
mod resting;
mod sse;
mod timestamp;
mod topic_name;
pub mod v1;
pub mod websocket;

/// The buffers of a [`Codec`]: `BytesMut` to write to, `Bytes` to share.
pub use bytes::{Bytes, BytesMut};

pub use base64::{Base64, Base64Error};
pub use client_id::{ClientId, ClientIdError};
pub use codec::{Answers, Codec, Decoder, Heartbeat, Limits, Opens, Refusing};
pub use command::{Command, Credentials, Open, RequestId};
pub use delimited::Delimited;
pub use error::{ErrorClass, ErrorCode, FrameError};
pub use event::{NumberedMessage, Refusal, ServerEvent};
pub use forwarded::{ForwardedClient, ForwardedHeader};
pub use history::HistoryQuery;
pub use http::{BodyReader, HttpError, HttpPort, PathPattern, PathPatternError, PublishQuery, PublishRoute};
pub use http_request::HttpRequest;
pub use idempotency::{IdempotencyKey, IdempotencyKeyError};
pub use json::JsonError;
pub use length_prefixed::{LengthPrefix, LengthPrefixed};
pub use member::Member;
pub use origins::AllowedOrigins;
pub use peer::Peer;
pub use position::{Epoch, EpochError, Position, PositionError, Since, SinceError};
pub use proxy_header::{ProxyHeader, ProxyHeaderError};
pub use publication::{Publication, PublicationError};
pub use sse::Sse;
pub use timestamp::Timestamp;
pub use topic_name::{TopicName, TopicNameError};
pub use websocket::WebSocket;

/// For answers of routes.
pub(crate) use http::{date as http_date, reason_phrase};
/// For stored messages in their classic form.
pub(crate) use publication::{Handling, data_of_bytes, json_and_base64, json_string, put_decimal, put_json_string};
