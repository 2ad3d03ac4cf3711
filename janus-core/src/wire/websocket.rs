//! The server's end of WebSocket (RFC 6455), and the seam to the protocols in its messages.
//!
//! [`WebSocket`] is a codec that answers the request to upgrade, joins fragments, unmasks, checks UTF-8, answers pings and
//! closes, and limits messages. A [`MessageProtocol`] gives the messages their meaning: [`V1`], which is
//! [`janus.v1.json`](super::v1), [`Cbor`], which is [`janus.v1.cbor`](super::cbor), or a protocol of your own. Extensions are not used. Input is checked strictly, since
//! nothing can be trusted after a frame that breaks the rules. `websocket/tests.rs` has the rules.
//!
//! | file | what it is | what it owns |
//! |---|---|---|
//! | `cbor.rs` | pure: a protocol | [`Cbor`], `janus.v1.cbor` in messages |
//! | `client.rs` | pure: the other end | [`client`], the client's end of a WebSocket |
//! | `frames.rs` | pure: a decoder | frames of a client, joined to messages |
//! | `messages.rs` | pure: a value and a writer | [`ClientMessage`]; [`MessageWriter`], the frames of the server; [`Close`] |
//! | `protocol.rs` | pure: the contract | the traits [`MessageProtocol`] and [`MessageDecoder`] |
//! | `upgrade.rs` | pure: a part of the codec | the request to upgrade, and [`Endpoint`], the protocols at one path |
//! | `v1.rs` | pure: a protocol | [`V1`], `janus.v1.json` in messages |

use bytes::{Bytes, BytesMut};

use super::http::date;
use super::{Answers, Codec, Decoder, Heartbeat, HttpRequest, Opens, ServerEvent, Timestamp};
use frames::FrameDecoder;
use messages::broken_rule;

mod cbor;
pub mod client;
mod frames;
mod messages;
mod protocol;
mod upgrade;
mod v1;

pub use cbor::{Cbor, CborDecoder};
pub use messages::{ClientMessage, Close, MessageWriter};
pub use protocol::{MessageDecoder, MessageProtocol, Reading, Takes};
pub use upgrade::{Endpoint, Upgrade, UpgradeError};
pub use v1::{SUBPROTOCOL, V1, V1Decoder};

/// The largest payload of a ping, pong or close, in bytes.
const CONTROL_BYTES_MAX: usize = 125;

/// The first byte of an unfragmented text message.
const TEXT: u8 = 0x81;

/// The first byte of an unfragmented binary message.
const BINARY: u8 = 0x82;

/// The codec of a protocol in the messages of a WebSocket.
///
/// The HTTP port of an instance serves [`V1`] and [`Cbor`] at `/ws`, and other protocols at the paths of
/// [`Builder::websocket`](crate::Builder::websocket). Another HTTP server answers a request to upgrade with
/// [`accept`](Self::accept), and decodes the following bytes with [`decoder_for`](Self::decoder_for); it must also decide
/// whether the request's `Origin` may connect.
#[derive(Clone, Copy, Debug, Default)]
pub struct WebSocket<P = V1> {
    protocol: P,
}

impl WebSocket {
    /// The codec of `janus.v1.json`.
    #[must_use]
    pub const fn v1() -> Self {
        Self { protocol: V1 }
    }
}

impl<P: MessageProtocol> WebSocket<P> {
    /// The codec of this protocol.
    #[must_use]
    pub const fn new(protocol: P) -> Self {
        Self { protocol }
    }

    /// The protocol in the messages.
    #[must_use]
    pub const fn protocol(&self) -> &P {
        &self.protocol
    }

    /// Answers a request to upgrade with the head of a response. Afterwards the connection is a WebSocket.
    ///
    /// ```
    /// use janus_core::wire::{HttpRequest, WebSocket};
    ///
    /// let header = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
    /// let request = HttpRequest {
    ///     method: "GET".into(),
    ///     target: "/ws".into(),
    ///     headers: [
    ///         ("host", "example.org"),
    ///         ("connection", "keep-alive, Upgrade"),
    ///         ("upgrade", "websocket"),
    ///         ("sec-websocket-version", "13"),
    ///         ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ///     ]
    ///     .map(header)
    ///     .into(),
    ///     ..HttpRequest::default()
    /// };
    /// let head = WebSocket::v1().accept(&request)?;
    /// assert!(head.starts_with(b"HTTP/1.1 101 Switching Protocols\r\n"));
    /// # Ok::<_, janus_core::wire::websocket::UpgradeError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// What the request lacks, with the status of the answer.
    pub fn accept(&self, request: &HttpRequest) -> Result<Bytes, UpgradeError> {
        Ok(head(self.accept_headers(request)?))
    }

    /// The headers of the same response, for an HTTP server that writes heads itself; the status is 101.
    ///
    /// # Errors
    ///
    /// As [`accept`](Self::accept).
    pub fn accept_headers(&self, request: &HttpRequest) -> Result<Vec<(&'static str, String)>, UpgradeError> {
        let key = upgrade::key_of(request)?;
        let (_, subprotocol) = upgrade::choose(request, &[self.protocol.subprotocols()])?;
        self.protocol.check(request)?;
        Ok(upgrade::answer(key, subprotocol))
    }

    /// The decoder of a connection upgraded by this request. The request is handed out with the client's
    /// [`Command::Open`](super::Command::Open), and not kept afterwards.
    #[must_use]
    pub fn decoder_for(&self, request: HttpRequest) -> Box<dyn Decoder> {
        let requests = self.protocol.decoder(Some(&request));
        Box::new(FrameDecoder::new(requests, self.protocol.opens(), Some(request)))
    }
}

/// The head of the response to a request that opens a WebSocket.
pub(super) fn head(headers: Vec<(&'static str, String)>) -> Bytes {
    let mut head = "HTTP/1.1 101 Switching Protocols\r\n".to_owned();
    for (name, value) in headers {
        head.extend([name, ": ", &value, "\r\n"]);
    }
    head.extend(["date: ", &date(), "\r\n\r\n"]);
    head.into()
}

impl<P: MessageProtocol> Codec for WebSocket<P> {
    fn name(&self) -> &'static str {
        self.protocol.name()
    }

    fn decoder(&self) -> Box<dyn Decoder> {
        Box::new(FrameDecoder::new(self.protocol.decoder(None), self.protocol.opens(), None))
    }

    fn encode(&self, event: &ServerEvent<'_>, at: &Timestamp, out: &mut BytesMut) {
        let mut out = MessageWriter::new(out);
        match event {
            ServerEvent::Bye(refusal) | ServerEvent::Refused(refusal) => {
                if broken_rule(refusal.code).is_none() {
                    self.protocol.encode(event, at, &mut out);
                }
                out.close(&self.protocol.close(refusal));
            }
            _ => self.protocol.encode(event, at, &mut out),
        }
    }

    /// The decoder opens the connection, because the hooks are to see the request.
    fn opens(&self) -> Opens {
        Opens::WhenAsked
    }

    fn tells_gaps(&self) -> bool {
        self.protocol.tells_gaps()
    }

    fn conflates(&self) -> bool {
        self.protocol.conflates()
    }

    fn heartbeat(&self) -> Heartbeat {
        let mut answers = Answers::Never;
        let beat = MessageWriter::bytes(|out| answers = self.protocol.heartbeat(out));
        match self.protocol.beats_regularly() {
            _ if beat.is_empty() => Heartbeat::Never,
            true => Heartbeat::Regularly(beat),
            false => Heartbeat::Always(beat),
        }
    }

    fn answers(&self) -> Answers {
        self.protocol.heartbeat(&mut MessageWriter::new(&mut BytesMut::new()))
    }

    fn refreshes(&self) -> bool {
        self.protocol.refreshes()
    }
}

#[cfg(test)]
mod tests;
