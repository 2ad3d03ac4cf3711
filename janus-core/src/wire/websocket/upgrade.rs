//! The request that opens a WebSocket, and its answer.

use std::borrow::Cow;
use std::sync::Arc;

use tungstenite::handshake::derive_accept_key;

use super::WebSocket;
use super::protocol::MessageProtocol;
use crate::wire::http::NO_BODY;
use crate::wire::{Codec, Decoder, HttpRequest};

/// Why a request does not open a WebSocket; its sender is to blame.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct UpgradeError {
    /// The status of the answer.
    pub status: u16,
    /// What the client should do, for people.
    pub message: Cow<'static, str>,
}

impl UpgradeError {
    /// A refusal with this status, of the classes 4xx and 5xx.
    #[must_use]
    pub fn new(status: u16, message: impl Into<Cow<'static, str>>) -> Self {
        Self { status, message: message.into() }
    }

    /// The headers required with this status.
    #[must_use]
    pub fn headers(&self) -> &'static [(&'static str, &'static str)] {
        match self.status {
            405 => &[("allow", "GET")],
            426 => &[("upgrade", "websocket"), ("connection", "upgrade"), ("sec-websocket-version", "13")],
            _ => &[],
        }
    }
}

/// The protocols of the WebSockets at one path: a client asks for one of them with a subprotocol, and without a subprotocol
/// gets the first.
///
/// ```
/// use janus_core::wire::websocket::Endpoint;
/// use janus_core::wire::{HttpRequest, WebSocket};
///
/// let endpoint = Endpoint::new(WebSocket::v1());
/// let headers = [
///     ("host", "example.org"),
///     ("connection", "Upgrade"),
///     ("upgrade", "websocket"),
///     ("sec-websocket-version", "13"),
///     ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
///     ("sec-websocket-protocol", "chat, janus.v1.json"),
/// ];
/// let request = HttpRequest::new("GET", "/ws", headers.map(|(name, value)| (name, value.as_bytes())));
/// let upgrade = endpoint.upgrade(request)?;
/// assert_eq!(upgrade.codec.name(), "websocket");
/// assert!(upgrade.headers.contains(&("Sec-WebSocket-Protocol", "janus.v1.json".to_owned())));
/// # Ok::<_, janus_core::wire::websocket::UpgradeError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// Never empty.
    codecs: Vec<Arc<dyn AnyProtocol>>,
}

/// A connection on its way to a WebSocket.
pub struct Upgrade {
    /// The headers of the response, whose status is 101. `Date` is left to the caller.
    pub headers: Vec<(&'static str, String)>,
    /// The codec of the connection from the next byte on.
    pub codec: Arc<dyn Codec>,
    /// The decoder of the connection. The request is handed out with the client's [`Command::Open`](crate::wire::Command::Open),
    /// and not kept afterwards.
    pub decoder: Box<dyn Decoder>,
    /// The place of the codec among those of the endpoint.
    pub(in crate::wire) place: usize,
}

/// A WebSocket codec, whatever its protocol.
trait AnyProtocol: Codec {
    fn subprotocols(&self) -> &'static [&'static str];

    fn check(&self, request: &HttpRequest) -> Result<(), UpgradeError>;

    fn decoder_for(&self, request: HttpRequest) -> Box<dyn Decoder>;
}

impl<P: MessageProtocol> AnyProtocol for WebSocket<P> {
    fn subprotocols(&self) -> &'static [&'static str] {
        self.protocol().subprotocols()
    }

    fn check(&self, request: &HttpRequest) -> Result<(), UpgradeError> {
        self.protocol().check(request)
    }

    fn decoder_for(&self, request: HttpRequest) -> Box<dyn Decoder> {
        Self::decoder_for(self, request)
    }
}

impl Endpoint {
    /// An endpoint with one protocol.
    #[must_use]
    pub fn new<P: MessageProtocol>(codec: WebSocket<P>) -> Self {
        Self { codecs: vec![Arc::new(codec)] }
    }

    /// The same endpoint with another protocol, for clients that ask for its subprotocols.
    #[must_use]
    pub fn or<P: MessageProtocol>(mut self, codec: WebSocket<P>) -> Self {
        self.codecs.push(Arc::new(codec));
        self
    }

    /// Turns a request into a WebSocket. The caller must also decide whether the request's `Origin` may connect.
    ///
    /// # Errors
    ///
    /// What the request lacks, with the status of the answer.
    pub fn upgrade(&self, request: HttpRequest) -> Result<Upgrade, UpgradeError> {
        let key = key_of(&request)?;
        let offered: Vec<_> = self.codecs.iter().map(|codec| codec.subprotocols()).collect();
        let (place, subprotocol) = choose(&request, &offered)?;
        let codec = &self.codecs[place];
        codec.check(&request)?;
        let headers = answer(key, subprotocol);
        let decoder = codec.decoder_for(request);
        Ok(Upgrade { headers, codec: Arc::clone(codec) as _, decoder, place })
    }

    /// The codecs, in their order.
    pub fn codecs(&self) -> impl Iterator<Item = Arc<dyn Codec>> {
        self.codecs.iter().map(|codec| Arc::clone(codec) as _)
    }
}

impl<P: MessageProtocol> From<WebSocket<P>> for Endpoint {
    fn from(codec: WebSocket<P>) -> Self {
        Self::new(codec)
    }
}

impl std::fmt::Debug for Upgrade {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Upgrade").field("headers", &self.headers).field("codec", &self.codec).finish_non_exhaustive()
    }
}

/// Checks everything about a request to upgrade except its subprotocols, and returns the client's key.
pub(super) fn key_of(request: &HttpRequest) -> Result<&str, UpgradeError> {
    let asks_for_head = request.method == "HEAD";
    if request.method != "GET" && !asks_for_head {
        return Err(UpgradeError::new(405, "WebSockets require GET"));
    }
    if request.is_http_1_0 {
        let message = "WebSockets require HTTP/1.1, but the client or a proxy speaks HTTP/1.0";
        return Err(UpgradeError::new(400, message));
    }
    if request.has_body() {
        return Err(UpgradeError::new(400, NO_BODY));
    }
    // HEAD gets the same head as GET without an upgrade: only GET opens a WebSocket (RFC 6455, 4.1).
    if asks_for_head || !tokens(request, "upgrade").any(|token| token.eq_ignore_ascii_case("websocket")) {
        return Err(UpgradeError::new(426, "missing header \"upgrade: websocket\": this path is a WebSocket"));
    }
    if !tokens(request, "connection").any(|token| token.eq_ignore_ascii_case("upgrade")) {
        return Err(UpgradeError::new(
            400,
            "missing header \"connection: upgrade\": send it, and configure proxies to pass it on",
        ));
    }
    if only(request, "sec-websocket-version") != Some("13") {
        return Err(UpgradeError::new(426, "\"sec-websocket-version\" must be 13"));
    }
    let key = only(request, "sec-websocket-key").filter(|key| is_key(key));
    key.ok_or_else(|| UpgradeError::new(400, "\"sec-websocket-key\" must be sent once, 16 bytes in base64"))
}

/// The index of the protocol that the request asks for, given the subprotocols of each protocol, and the subprotocol to be
/// named in the answer.
pub(super) fn choose(
    request: &HttpRequest,
    protocols: &[&'static [&'static str]],
) -> Result<(usize, Option<&'static str>), UpgradeError> {
    let mut offers = tokens(request, "sec-websocket-protocol").peekable();
    let known = || (0..).zip(protocols).flat_map(|(place, names)| names.iter().map(move |name| (place, *name)));
    if offers.peek().is_none() || known().next().is_none() {
        return Ok((0, None));
    }
    // In the client's order of preference.
    let chosen = offers.find_map(|offer| known().find(|(_, name)| *name == offer));
    chosen.map(|(place, name)| (place, Some(name))).ok_or_else(|| {
        let names: Vec<_> = known().map(|(_, name)| format!("\"{name}\"")).collect();
        let message = format!("unknown subprotocol: offer {}, or no subprotocol", names.join(" or "));
        UpgradeError::new(400, message)
    })
}

/// The headers of the response to a request with this key.
pub(super) fn answer(key: &str, subprotocol: Option<&str>) -> Vec<(&'static str, String)> {
    let mut headers = vec![
        ("Upgrade", "websocket".to_owned()),
        ("Connection", "Upgrade".to_owned()),
        ("Sec-WebSocket-Accept", derive_accept_key(key.as_bytes())),
    ];
    headers.extend(subprotocol.map(|name| ("Sec-WebSocket-Protocol", name.to_owned())));
    headers
}

/// The tokens of all headers with this name, each a list.
fn tokens<'a>(request: &'a HttpRequest, name: &'a str) -> impl Iterator<Item = &'a str> {
    let headers = request.headers.iter().filter(move |(other, _)| other == name);
    headers.flat_map(|(_, value)| value.split(',')).map(str::trim).filter(|token| !token.is_empty())
}

/// The header with this name, which must not be repeated.
fn only<'a>(request: &'a HttpRequest, name: &str) -> Option<&'a str> {
    let mut values = request.headers.iter().filter(|(other, _)| other == name).map(|(_, value)| value.trim());
    values.next().filter(|_| values.next().is_none())
}

fn is_key(key: &str) -> bool {
    data_encoding::BASE64.decode(key.as_bytes()).is_ok_and(|nonce| nonce.len() == 16)
}
