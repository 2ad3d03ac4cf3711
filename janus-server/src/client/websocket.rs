//! A connection of the protocol `janus.v1.json`: a WebSocket, from the request to the frames.

use std::io;
use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use hyper::header::{HeaderValue, SEC_WEBSOCKET_PROTOCOL};
use janus_core::wire::v1::client::{self, ServerFrame};
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::error::CapacityError;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Error, Message, Utf8Bytes};

use super::ClientError;
use super::classic::FRAME_BYTES_MAX;
use super::http::refusal;
use super::server::Target;
use super::stream::{Duplex, open_duplex};

const SUBPROTOCOL: &str = "janus.v1.json";

/// A connection whose server has sent its welcome.
pub(super) struct WebSocket {
    stream: WebSocketStream<Box<dyn Duplex>>,
    /// The token of the session.
    pub(super) session: String,
    /// Longest silence of a server that is alive: its pings come more often.
    silence: Duration,
    /// Longest time for sending a frame.
    patience: Duration,
}

impl WebSocket {
    /// Opens a connection, with the token of an earlier session or without, and waits for the welcome.
    pub(super) async fn open(target: &Target, session: Option<&str>) -> Result<Self, ClientError> {
        let opened = async {
            let stream = open_duplex(&target.address.to, target.timeout, target.tls.as_ref()).await?;
            // The scheme has no meaning on a stream that is open already.
            let request = format!("ws://{}/ws", target.address.to);
            let mut request = request.into_client_request().map_err(|error| in_words(target, error))?;
            request.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(SUBPROTOCOL));
            let limits = WebSocketConfig::default()
                .max_message_size(Some(FRAME_BYTES_MAX))
                .max_frame_size(Some(FRAME_BYTES_MAX));
            let upgraded = tokio_tungstenite::client_async_with_config(request, stream, Some(limits)).await;
            let (stream, _) = upgraded.map_err(|error| in_words(target, error))?;
            let mut opened = Self { stream, session: String::new(), silence: target.timeout, patience: target.timeout };
            opened.send(client::hello(session, target.token.as_deref())).await?;
            loop {
                let text = opened.receive().await?;
                match ServerFrame::parse(&text) {
                    ServerFrame::Welcome { session, heartbeat, .. } => {
                        opened.session = session.into_owned();
                        opened.silence = heartbeat.saturating_mul(2).saturating_add(target.timeout);
                        return Ok(opened);
                    }
                    bye @ ServerFrame::Bye { .. } => return Err(refused(bye).advised(|code| advice(target, code))),
                    _ => {}
                }
            }
        };
        let late = || ClientError::Late { awaited: "welcome", timeout: target.timeout };
        timeout(target.timeout, opened).await.unwrap_or_else(|_| Err(late()))
    }

    /// Sends a frame; a server that reads nothing is given up.
    pub(super) async fn send(&mut self, frame: String) -> Result<(), ClientError> {
        let sent = timeout(self.patience, self.stream.send(Message::text(frame))).await;
        let unread = || Error::Io(io::Error::new(io::ErrorKind::TimedOut, "the server does not read"));
        sent.unwrap_or_else(|_| Err(unread())).map_err(lost)
    }

    /// Waits for the text of the next frame. Cancel safe. Pings are answered in the meantime.
    pub(super) async fn receive(&mut self) -> Result<Utf8Bytes, ClientError> {
        loop {
            if let Some(text) = self.receive_any().await? {
                return Ok(text);
            }
        }
    }

    /// As [`receive`](Self::receive), for a limited time.
    pub(super) async fn receive_within(
        &mut self,
        time: Duration,
        awaited: &'static str,
    ) -> Result<Utf8Bytes, ClientError> {
        timeout(time, self.receive()).await.unwrap_or(Err(ClientError::Late { awaited, timeout: time }))
    }

    /// As [`receive`](Self::receive), for as long as the server is alive. The pings of a server without messages count.
    pub(super) async fn receive_while_alive(&mut self) -> Result<Utf8Bytes, ClientError> {
        let silence = self.silence;
        loop {
            let late = Err(ClientError::Late { awaited: "sign of life", timeout: silence });
            if let Some(text) = timeout(silence, self.receive_any()).await.unwrap_or(late)? {
                return Ok(text);
            }
        }
    }

    /// Waits for the next frame: its text, or `None` for a ping. Cancel safe.
    async fn receive_any(&mut self) -> Result<Option<Utf8Bytes>, ClientError> {
        match self.stream.next().await {
            Some(Ok(Message::Text(text))) => Ok(Some(text)),
            Some(Ok(Message::Close(_))) | None => Err(ClientError::Closed),
            Some(Ok(_)) => Ok(None),
            Some(Err(error)) => Err(lost(error)),
        }
    }
}

/// The error in an `error` or a `bye`; any other frame is none.
pub(super) fn refused(frame: ServerFrame<'_>) -> ClientError {
    match frame {
        ServerFrame::Error { error, message, .. } => ClientError::refused(&error, &message),
        ServerFrame::Bye { error, message, reconnect_after, .. } => {
            ClientError::refused(&error, &message).again_after(reconnect_after)
        }
        _ => ClientError::Closed,
    }
}

/// What the user can do about a refusal with this code, on a WebSocket or on the classic protocol.
pub(super) fn advice(target: &Target, code: &str) -> &'static str {
    match (code, target.token.is_some()) {
        ("unauthorized", false) => " (set the variable JANUS_TOKEN to a token of a user)",
        ("unauthorized" | "token_expired", true) => {
            " (the token came from JANUS_TOKEN; `janus-server token show -` says what is wrong with it)"
        }
        ("forbidden", false) => " (set the variable JANUS_TOKEN to a token that grants this topic)",
        ("forbidden", true) => {
            " (the token in JANUS_TOKEN does not grant this; `janus-server token show -` lists its topics)"
        }
        ("publish_not_allowed", _) => {
            " (or publish over HTTP with the api_key in JANUS_API_KEY, or with a token that grants the topic in JANUS_TOKEN)"
        }
        _ => "",
    }
}

/// The error of an upgrade.
fn in_words(target: &Target, error: Error) -> ClientError {
    match error {
        Error::Http(answer) => match answer.body() {
            Some(body) => refusal(target, body),
            None => refusal(target, &[]),
        },
        Error::HttpFormat(_) | Error::Url(_) => ClientError::BadAddress {
            to: target.address.to.clone(),
            source: io::Error::new(io::ErrorKind::InvalidInput, error),
        },
        other => lost(other),
    }
}

fn lost(error: Error) -> ClientError {
    match error {
        Error::ConnectionClosed | Error::AlreadyClosed => ClientError::Closed,
        Error::Io(error) if error.kind() == io::ErrorKind::UnexpectedEof => ClientError::Closed,
        Error::Io(error) => ClientError::Lost(error),
        Error::Capacity(CapacityError::MessageTooLong { .. }) => ClientError::FrameTooLarge,
        other => ClientError::Lost(io::Error::other(other)),
    }
}
