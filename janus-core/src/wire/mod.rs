//! The wire formats: pure functions from bytes to commands and from events to bytes.
//!
//! Nothing here owns a socket or knows another module of the crate. Time is passed in, but for the `Date` of an HTTP
//! response. What every format
//! shares stands in this folder: the [`TopicName`], the [`Publication`] (a publisher's JSON text, carried and never
//! re-encoded), the [`Timestamp`] and the [`ErrorCode`]s. [`classic`] is the NUL-framed protocol of 2009 with the
//! actions that this project adds; [`v1`] is the protocol of 2026, which [`websocket`]
//! carries. [`HttpPort`] decides what a connection to the HTTP port becomes; [`Sse`] is server-sent events.

pub mod classic;
mod codec;
mod command;
mod delimited;
mod error;
mod event;
mod http;
mod http_request;
mod json;
mod object;
mod origins;
mod peer;
mod position;
mod publication;
mod request;
mod sse;
mod timestamp;
mod topic_name;
pub mod v1;
pub mod websocket;

/// What a [`Codec`] writes to, and what it shares.
pub use bytes::{Bytes, BytesMut};

pub use codec::{Answers, Codec, Decoder, Heartbeat, Limits, Opens, Refusing};
pub use command::{Command, Open, RequestId};
pub use delimited::Delimited;
pub use error::{ErrorClass, ErrorCode, FrameError};
pub use event::{Event, Message, Refusal};
pub use http::{HttpError, HttpPort};
pub use http_request::HttpRequest;
pub use json::JsonError;
pub use origins::AllowedOrigins;
pub use peer::Peer;
pub use position::{Position, PositionError};
pub use publication::{Publication, PublicationError};
pub use sse::Sse;
pub use timestamp::Timestamp;
pub use topic_name::{TopicName, TopicNameError};
pub use websocket::WebSocket;

/// For what keeps messages in their classic form.
pub(crate) use publication::put_json_string;
