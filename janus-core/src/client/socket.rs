//! A WebSocket to a server: opening, and then sending and receiving at once.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_util::stream::FuturesUnordered;
use futures_util::{Sink as _, Stream as _, StreamExt as _};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::TlsConnector;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::error::{CapacityError, ProtocolError};
use tokio_tungstenite::tungstenite::http::header::{HeaderValue, RETRY_AFTER, SEC_WEBSOCKET_PROTOCOL};
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message, Utf8Bytes};

use super::ClientError;
use super::address::Address;

/// No server's `max_frame_bytes` is above 16 MiB; the rest is for the names of keys, and escapes.
const FRAME_BYTES_MAX: usize = 32 << 20;

/// The memory of a connection for reading. The library's default is for connections that transfer files.
const READ_BUFFER_BYTES: usize = 16 * 1024;

/// How many addresses of a host are tried. Each attempt has a socket.
const ADDRESSES_MAX: usize = 16;

/// How long an attempt with an address is alone before the next begins, as in RFC 8305.
const HEAD_START: Duration = Duration::from_millis(250);

/// Codes of a close that are codes of Janus.
const CODES: std::ops::Range<u16> = 4000..5000;

trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// An open WebSocket.
pub(super) struct Socket {
    stream: WebSocketStream<Box<dyn Duplex>>,
    /// Not yet handed to `stream`: at most a frame, a ping, and what is sent before a goodbye.
    outgoing: VecDeque<Message>,
    /// Whether `stream` has bytes that the system has not taken.
    is_unflushed: bool,
    /// Since when the system takes nothing.
    blocked_since: Option<Instant>,
}

/// What has come.
pub(super) enum Received {
    Text(Utf8Bytes),
    /// A ping or a pong: the server lives.
    Life,
}

impl Socket {
    /// Connects, and asks for a WebSocket, until the deadline, which is `time` after the beginning.
    pub(super) async fn open(
        address: &Address,
        config: Option<Arc<ClientConfig>>,
        deadline: Instant,
        time: Duration,
    ) -> Result<Self, ClientError> {
        let Address { to, host, path, .. } = address;
        let connect = |source| ClientError::Connect { to: to.clone(), source: Arc::new(source) };
        let late = |awaited| ClientError::Late { awaited, time };
        let connected = timeout_at(deadline, connect_to_any(to)).await;
        let tcp = connected.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())).map_err(connect)?;
        // Small requests are sent at once; without the option a connection is slower, and works.
        let _ = tcp.set_nodelay(true);
        let stream: Box<dyn Duplex> = match config {
            None => Box::new(tcp),
            Some(config) => {
                let bad_name = |_| ClientError::BadUrl { url: to.clone(), reason: "the host is no name".to_owned() };
                let name = ServerName::try_from(host.clone()).map_err(bad_name)?;
                let shaken = timeout_at(deadline, TlsConnector::from(config).connect(name, tcp)).await;
                let shaken = shaken.map_err(|_| late("TLS handshake"))?;
                Box::new(shaken.map_err(|source| match source.kind() {
                    io::ErrorKind::InvalidData => ClientError::Handshake { to: to.clone(), source: Arc::new(source) },
                    _ => connect(source),
                })?)
            }
        };
        // The scheme has no meaning on a stream that is open already.
        let bad_url = |error: Error| ClientError::BadUrl { url: to.clone(), reason: error.to_string() };
        let mut request = format!("ws://{to}{path}").into_client_request().map_err(bad_url)?;
        request.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static("janus.v1.json"));
        let limits = WebSocketConfig::default()
            .max_message_size(Some(FRAME_BYTES_MAX))
            .max_frame_size(Some(FRAME_BYTES_MAX))
            .read_buffer_size(READ_BUFFER_BYTES);
        let upgraded = tokio_tungstenite::client_async_with_config(request, stream, Some(limits));
        let upgraded = timeout_at(deadline, upgraded).await.map_err(|_| late("welcome"))?;
        let (stream, _) = upgraded.map_err(|error| match in_words(error) {
            ClientError::NotJanus(text) if !address.is_tls => {
                ClientError::NotJanus(format!("{text}; a port with TLS has an address with wss://"))
            }
            other => other,
        })?;
        Ok(Self { stream, outgoing: VecDeque::new(), is_unflushed: false, blocked_since: None })
    }

    /// Takes a frame to be sent, if none waits; [`next`](Self::next) sends. `more` returns the next frame.
    pub(super) fn fill(&mut self, mut more: impl FnMut() -> Option<String>) {
        if self.outgoing.is_empty()
            && let Some(text) = more()
        {
            self.queue(Message::text(text));
        }
    }

    pub(super) fn ping(&mut self) {
        self.queue(Message::Ping(bytes::Bytes::new()));
    }

    fn queue(&mut self, message: Message) {
        self.blocked_since.get_or_insert_with(Instant::now);
        self.outgoing.push_back(message);
    }

    /// Since when the server has taken nothing of what was sent; `None` if nothing waits.
    pub(super) fn blocked_since(&self) -> Option<Instant> {
        self.blocked_since
    }

    /// Sends what is queued and all that `more` returns, and waits for the next frame. Without `reading`, sends alone.
    /// Cancel safe.
    pub(super) async fn next(
        &mut self,
        reading: bool,
        mut more: impl FnMut() -> Option<String>,
    ) -> Result<Received, ClientError> {
        poll_fn(|context| {
            if let Poll::Ready(Err(error)) = self.poll_send(context, &mut more) {
                // The server may have said why before it closed the connection.
                return match self.poll_receive(context) {
                    Poll::Ready(Ok(received)) if reading => Poll::Ready(Ok(received)),
                    _ => Poll::Ready(Err(error)),
                };
            }
            if reading { self.poll_receive(context) } else { Poll::Pending }
        })
        .await
    }

    /// Sends all that `more` returns, says goodbye, and waits for the server's goodbye.
    pub(super) async fn close(&mut self, mut more: impl FnMut() -> Option<String>) {
        while let Some(text) = more() {
            self.queue(Message::text(text));
        }
        let goodbye = CloseFrame { code: CloseCode::Normal, reason: Utf8Bytes::from_static("") };
        self.queue(Message::Close(Some(goodbye)));
        while self.next(true, || None).await.is_ok() {}
    }

    fn poll_send(
        &mut self,
        context: &mut Context<'_>,
        more: &mut impl FnMut() -> Option<String>,
    ) -> Poll<Result<(), ClientError>> {
        loop {
            self.fill(&mut *more);
            if self.outgoing.is_empty() {
                break;
            }
            ready!(Pin::new(&mut self.stream).poll_ready(context)).map_err(in_words)?;
            if let Some(message) = self.outgoing.pop_front() {
                self.blocked_since = Some(Instant::now());
                self.is_unflushed = true;
                Pin::new(&mut self.stream).start_send(message).map_err(in_words)?;
            }
        }
        if self.is_unflushed {
            ready!(Pin::new(&mut self.stream).poll_flush(context)).map_err(in_words)?;
            self.is_unflushed = false;
        }
        self.blocked_since = None;
        Poll::Ready(Ok(()))
    }

    fn poll_receive(&mut self, context: &mut Context<'_>) -> Poll<Result<Received, ClientError>> {
        Poll::Ready(match ready!(Pin::new(&mut self.stream).poll_next(context)) {
            Some(Ok(Message::Text(text))) => Ok(Received::Text(text)),
            Some(Ok(Message::Ping(_) | Message::Pong(_))) => Ok(Received::Life),
            Some(Ok(Message::Close(frame))) => Err(closed(frame)),
            Some(Ok(_)) => Err(ClientError::NotJanus("a frame that is no text".to_owned())),
            Some(Err(error)) => Err(in_words(error)),
            None => Err(ClientError::Lost { source: None }),
        })
    }
}

/// Connects to the first of a host's addresses that answers.
async fn connect_to_any(to: &str) -> io::Result<TcpStream> {
    first_of(tokio::net::lookup_host(to).await?.take(ADDRESSES_MAX), TcpStream::connect).await
}

/// Makes an attempt with each address: the next when the one before has failed, or has not ended after [`HEAD_START`], so
/// that an address without an answer costs that much and not all of the time. The first success counts, and ends the
/// other attempts; without a success, the last error.
async fn first_of<T, A: Future<Output = io::Result<T>>>(
    mut addresses: impl Iterator<Item = SocketAddr>,
    attempt: impl Fn(SocketAddr) -> A,
) -> io::Result<T> {
    let mut attempts = FuturesUnordered::new();
    let mut failed = io::Error::new(io::ErrorKind::NotFound, "the host has no address");
    loop {
        let next = addresses.next();
        let is_last = next.is_none();
        attempts.extend(next.map(&attempt));
        let ended = if is_last { Ok(attempts.next().await) } else { timeout(HEAD_START, attempts.next()).await };
        // After the time, the next address has its turn.
        let Ok(ended) = ended else { continue };
        match ended {
            Some(Ok(connected)) => return Ok(connected),
            Some(Err(error)) => failed = error,
            None => return Err(failed),
        }
    }
}

/// A close without a `bye` before. A code of Janus counts, and any other is a lost connection.
fn closed(frame: Option<CloseFrame>) -> ClientError {
    match frame {
        Some(CloseFrame { code, reason }) if CODES.contains(&code.into()) => {
            let error = format!("closed with {code}");
            ClientError::Refused { code: code.into(), error, message: reason.to_string(), reconnect_after: None }
        }
        _ => ClientError::Lost { source: None },
    }
}

fn in_words(error: Error) -> ClientError {
    match error {
        Error::ConnectionClosed
        | Error::AlreadyClosed
        | Error::Protocol(ProtocolError::ResetWithoutClosingHandshake | ProtocolError::SendAfterClosing) => {
            ClientError::Lost { source: None }
        }
        Error::Io(error) => ClientError::lost(error),
        Error::Http(answer) => {
            let retry_after = answer.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
            let body: Value =
                answer.body().as_ref().and_then(|body| serde_json::from_slice(body).ok()).unwrap_or_default();
            let text = |key: &str| body["error"][key].as_str().unwrap_or_default().to_owned();
            ClientError::Status {
                status: answer.status().as_u16(),
                code: text("code"),
                message: text("message"),
                retry_after: retry_after.map(Duration::from_secs),
            }
        }
        Error::Capacity(CapacityError::MessageTooLong { .. }) => {
            ClientError::NotJanus(format!("a frame of more than {FRAME_BYTES_MAX} bytes"))
        }
        other => ClientError::NotJanus(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use super::*;

    /// The port says what an attempt meets: 1 no answer, 2 a refusal, others a server.
    async fn attempt(address: SocketAddr) -> io::Result<u16> {
        match address.port() {
            1 => pending().await,
            2 => Err(io::ErrorKind::ConnectionRefused.into()),
            port => Ok(port),
        }
    }

    async fn of(ports: &[u16]) -> io::Result<u16> {
        first_of(ports.iter().map(|port| SocketAddr::from(([127, 0, 0, 1], *port))), attempt).await
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_without_an_answer_does_not_hide_the_others() {
        let began = Instant::now();
        assert_eq!(of(&[1, 2, 1, 80, 81]).await.unwrap(), 80);
        assert!(began.elapsed() < HEAD_START * 2 + HEAD_START / 5, "a refusal costs no time");
        assert_eq!(of(&[2, 2]).await.unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
        assert_eq!(of(&[]).await.unwrap_err().kind(), io::ErrorKind::NotFound);
        let stays = timeout(Duration::from_secs(60), of(&[2, 1])).await;
        assert!(stays.is_err(), "the caller has the limit");
    }
}
