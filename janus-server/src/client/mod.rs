//! The client commands, and the connection shared by them: a blocking socket.
//!
//! | file | what it is | what it owns |
//! |---|---|---|
//! | `mod.rs` | a connection and its errors | opening a connection, reading frames of the classic protocol |
//! | `publish.rs` | the command `publish` | reading messages from the command line or standard input, printing receipts |
//! | `subscribe.rs` | the command `subscribe` | printing messages, returning to the session after a lost connection |
//! | `trace.rs` | the command `trace` | a request to the HTTP API, printing the lines of the answer |
//! | `admin.rs` | flags and a request | finding the admin port of a server by its settings |
//! | `health.rs` | the command `health` | the exit code by the server's health |
//! | `log.rs` | the command `log` | showing and changing the levels of a server's log |
//! | `reload.rs` | the command `reload` | showing what a reload of a server's settings has changed |
//! | `http.rs` | a request and its answer | HTTP on a blocking socket, for the commands that need it |
//! | `tls.rs` | a stream | TLS: the flags, the accepted authorities, the handshake |

pub(crate) mod admin;
pub(crate) mod health;
mod http;
pub(crate) mod log;
pub(crate) mod publish;
pub(crate) mod reload;
pub(crate) mod subscribe;
pub(crate) mod tls;
pub(crate) mod trace;

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs as _};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use janus_core::supervision::in_words;
use janus_core::wire::classic::client::ServerFrame;
use rustls::ClientConfig;
use socket2::{SockRef, TcpKeepalive};

use crate::settings::Problems;
use tls::Stream;

/// Why a client command failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClientError {
    /// The address on the command line is malformed.
    #[error("{to} is not an address: expected HOST:PORT")]
    BadAddress { to: String, source: io::Error },
    /// No server listens at the address, or none answers.
    #[error("cannot connect to {to}{}", advice(.source))]
    Connect { to: String, source: io::Error },
    /// The server's certificate is not accepted, or the server does not speak TLS.
    #[error("no TLS with {to}{}", tls::advice(.source))]
    Handshake { to: String, source: io::Error },
    #[error("cannot use {} as the authorities of servers: {reason}", file.display())]
    Authorities { file: PathBuf, reason: String },
    #[error("the system has no list of trusted authorities: name a PEM file with --ca")]
    NoAuthorities,
    #[error(transparent)]
    Settings(Problems),
    #[error("admin_listen {0}: name the address of the admin port with --admin")]
    NoAdminPort(&'static str),
    /// The words of the server.
    #[error("{0}")]
    Unhealthy(String),
    #[error("the server closed the connection")]
    Closed,
    #[error("the server speaks TLS on this port: add --tls, or --ca FILE for an authority of its own")]
    NeedsTls,
    #[error("the connection was lost")]
    Lost(#[source] io::Error),
    /// The peer is not a Janus server, or is too old to know the request.
    #[error("no {awaited} from the server within {}", in_words(timeout))]
    Late { awaited: &'static str, timeout: Duration },
    #[error("the server does not speak the Janus protocol: it sent a frame of more than {FRAME_BYTES_MAX} bytes")]
    FrameTooLarge,
    #[error("the server refused: {code}: {message}")]
    Refused { code: String, message: String },
    #[error("line {line} of the input failed")]
    Line { line: usize, source: Box<Self> },
    #[error("the message is not JSON")]
    NotJson(#[source] serde_json::Error),
    #[error("the message is not UTF-8")]
    NotUtf8,
    #[error("cannot read standard input")]
    Input(#[source] io::Error),
    #[error("cannot write to standard output")]
    Output(#[source] io::Error),
}

/// Advice for a user whose connection cannot be made, where the system's error text has none.
pub(crate) fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => " (is the server running?)",
        io::ErrorKind::AddrNotAvailable => {
            " (no free local port, because closed connections keep their ports for a minute; wait, or widen \
             net.ipv4.ip_local_port_range)"
        }
        _ => "",
    }
}

impl ClientError {
    pub(crate) fn is_usage(&self) -> bool {
        match self {
            Self::BadAddress { .. }
            | Self::Authorities { .. }
            | Self::NoAuthorities
            | Self::Settings(_)
            | Self::NoAdminPort(_)
            | Self::NotJson(_)
            | Self::NotUtf8 => true,
            Self::Line { source, .. } => source.is_usage(),
            _ => false,
        }
    }
}

/// A connection to a server, read frame by frame.
pub(crate) struct Connection {
    stream: Stream,
    /// The bytes read so far.
    buffer: Vec<u8>,
    /// Bytes before this index belong to frames already returned.
    start: usize,
    /// Bytes from `start` up to this index contain no end of a frame.
    searched: usize,
}

impl Connection {
    /// Opens a connection, over TLS if there are settings for TLS.
    pub(crate) fn open(to: &str, timeout: Duration, tls: Option<&Arc<ClientConfig>>) -> Result<Self, ClientError> {
        Ok(Self { stream: open_stream(to, timeout, tls)?, buffer: Vec::new(), start: 0, searched: 0 })
    }

    pub(crate) fn send(&mut self, frame: &[u8]) -> Result<(), ClientError> {
        self.stream.write_all(frame).map_err(ClientError::Lost)
    }

    /// Waits for the next frame, for ever or until the deadline; `None` if the deadline has passed.
    pub(crate) fn receive(&mut self, deadline: Option<Instant>) -> Result<Option<ServerFrame<'_>>, ClientError> {
        self.buffer.drain(..self.start);
        self.searched = self.searched.saturating_sub(self.start);
        self.start = 0;
        let length = loop {
            if let Some(length) = self.buffer[self.searched..].iter().position(|&byte| byte == 1) {
                break self.searched + length;
            }
            self.searched = self.buffer.len();
            if self.buffer.len() > FRAME_BYTES_MAX {
                return Err(ClientError::FrameTooLarge);
            }
            let patience = match deadline.map(|deadline| deadline.saturating_duration_since(Instant::now())) {
                Some(Duration::ZERO) => return Ok(None),
                patience => patience,
            };
            self.stream.socket().set_read_timeout(patience).map_err(ClientError::Lost)?;
            let mut piece = [0; 16 * 1024];
            match self.stream.read(&mut piece) {
                Ok(0) if self.buffer.starts_with(&TLS_ALERT) => return Err(ClientError::NeedsTls),
                Ok(0) => return Err(ClientError::Closed),
                Ok(read) => self.buffer.extend_from_slice(&piece[..read]),
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
                Err(error) => return Err(ClientError::Lost(error)),
            }
        };
        self.start = length + 1;
        self.searched = self.start;
        Ok(Some(ServerFrame::parse(&self.buffer[..length])))
    }
}

/// Opens a connection for any protocol, over TLS if there are settings for TLS.
pub(crate) fn open_stream(to: &str, timeout: Duration, tls: Option<&Arc<ClientConfig>>) -> Result<Stream, ClientError> {
    let socket = open_socket(to, timeout)?;
    match tls {
        None => Ok(Stream::Plain(socket)),
        Some(config) => Stream::encrypt(socket, to, config, timeout),
    }
}

/// Opens a connection in plain text, whose writes fail after the timeout.
pub(crate) fn open_socket(to: &str, timeout: Duration) -> Result<TcpStream, ClientError> {
    let stream = connect(to, timeout)?;
    // A subscriber sends nothing, so only the kernel's probes can detect that the server's machine is gone.
    let keepalive = TcpKeepalive::new().with_time(Duration::from_secs(30)).with_interval(Duration::from_secs(10));
    // Without these options a connection still works; only a lost machine is detected later, and small writes are
    // slower.
    let _ = SockRef::from(&stream).set_tcp_keepalive(&keepalive);
    let _ = stream.set_nodelay(true);
    stream.set_write_timeout(Some(timeout)).map_err(ClientError::Lost)?;
    Ok(stream)
}

/// Tries every address of the host name, and reports the last failure.
fn connect(to: &str, timeout: Duration) -> Result<TcpStream, ClientError> {
    let mut failure = no_address();
    for address in resolve(to)? {
        match TcpStream::connect_timeout(&address, timeout) {
            Ok(stream) => return Ok(stream),
            Err(source) => failure = source,
        }
    }
    Err(ClientError::Connect { to: to.to_owned(), source: failure })
}

/// Looks up the addresses of a host name; there is at least one.
pub(crate) fn resolve(to: &str) -> Result<Vec<SocketAddr>, ClientError> {
    let found = to.to_socket_addrs().map(Vec::from_iter);
    let found = found.and_then(|addresses| if addresses.is_empty() { Err(no_address()) } else { Ok(addresses) });
    found.map_err(|source| match source.kind() {
        io::ErrorKind::InvalidInput => ClientError::BadAddress { to: to.to_owned(), source },
        _ => ClientError::Connect { to: to.to_owned(), source },
    })
}

fn no_address() -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, "the name has no address")
}

/// The beginning of a TLS record with an alert, by which a server of TLS answers a frame in plain text (RFC 8446, 5.1).
const TLS_ALERT: [u8; 2] = [21, 3];

/// Twice the largest frame that a server can be configured to accept.
const FRAME_BYTES_MAX: usize = 32 << 20;
