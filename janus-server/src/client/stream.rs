//! Connections to servers, with and without TLS: blocking for the classic protocol, asynchronous for HTTP.
//!
//! A handshake is finished before the first byte of a protocol, so that a refused certificate is reported as such.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs as _};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::{ClientConfig, ClientConnection, StreamOwned};
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::{ClientError, tls};

/// A blocking connection to a server.
pub(crate) enum Stream {
    Plain(TcpStream),
    Encrypted(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl Stream {
    /// Opens a connection for any protocol, over TLS if there are settings for TLS.
    pub(super) fn open(to: &str, timeout: Duration, config: Option<&Arc<ClientConfig>>) -> Result<Self, ClientError> {
        let socket = open_socket(to, timeout)?;
        match config {
            None => Ok(Self::Plain(socket)),
            Some(config) => Self::encrypt(socket, to, config, timeout),
        }
    }

    /// Does the handshake with the server at `to`, whose host name or address the certificate must have.
    fn encrypt(
        mut socket: TcpStream,
        to: &str,
        config: &Arc<ClientConfig>,
        timeout: Duration,
    ) -> Result<Self, ClientError> {
        let mut connection = ClientConnection::new(Arc::clone(config), tls::server_name(to)?)
            .map_err(|error| ClientError::Handshake { to: to.to_owned(), source: io::Error::other(error) })?;
        let mut limited = Limited { socket: &mut socket, deadline: Instant::now() + timeout };
        while connection.is_handshaking() {
            connection.complete_io(&mut limited).map_err(|source| tls::failed(to, source, timeout))?;
        }
        Ok(Self::Encrypted(Box::new(StreamOwned::new(connection, socket))))
    }

    pub(crate) fn socket(&self) -> &TcpStream {
        match self {
            Self::Plain(socket) => socket,
            Self::Encrypted(stream) => &stream.sock,
        }
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.read(buffer),
            Self::Encrypted(stream) => stream.read(buffer),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.write(bytes),
            Self::Encrypted(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(socket) => socket.flush(),
            Self::Encrypted(stream) => stream.flush(),
        }
    }
}

/// A socket whose reads end at a deadline, however small the pieces are that the server sends.
struct Limited<'a> {
    socket: &'a mut TcpStream,
    deadline: Instant,
}

impl Read for Limited<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.deadline.saturating_duration_since(Instant::now()) {
            Duration::ZERO => Err(io::ErrorKind::WouldBlock.into()),
            left => self.socket.set_read_timeout(Some(left)).and_then(|()| self.socket.read(buffer)),
        }
    }
}

impl Write for Limited<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.socket.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.socket.flush()
    }
}

/// An asynchronous connection to a server.
pub(super) trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// Opens an asynchronous connection, over TLS if there are settings for TLS. Blocks the thread while connecting, which
/// has nothing else to do.
pub(super) async fn open_duplex(
    to: &str,
    patience: Duration,
    config: Option<&Arc<ClientConfig>>,
) -> Result<Box<dyn Duplex>, ClientError> {
    let socket = open_socket(to, patience)?;
    socket.set_nonblocking(true).map_err(ClientError::Lost)?;
    let socket = tokio::net::TcpStream::from_std(socket).map_err(ClientError::Lost)?;
    let Some(config) = config else { return Ok(Box::new(socket)) };
    let connector = TlsConnector::from(Arc::clone(config));
    match timeout(patience, connector.connect(tls::server_name(to)?, socket)).await {
        Ok(Ok(stream)) => Ok(Box::new(stream)),
        Ok(Err(source)) => Err(tls::failed(to, source, patience)),
        Err(_) => Err(ClientError::Late { awaited: "TLS handshake", timeout: patience }),
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

/// The pause before another attempt.
#[expect(clippy::disallowed_methods, reason = "a command has nothing else to do")]
pub(crate) fn wait(pause: Duration) {
    std::thread::sleep(pause);
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn a_server_that_sends_byte_by_byte_does_not_extend_the_deadline() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut socket = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        listener.accept().unwrap().0.write_all(b"ab").unwrap();
        let mut limited = Limited { socket: &mut socket, deadline: Instant::now() + Duration::from_secs(60) };
        assert_eq!(limited.read(&mut [0]).unwrap(), 1);
        limited.deadline = Instant::now();
        assert_eq!(limited.read(&mut [0]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    }
}
