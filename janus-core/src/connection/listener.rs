//! Where byte streams come from: the trait that a transport's other half, its codec, is put beside.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{self, Poll};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
#[cfg(unix)]
use tokio::net::UnixStream;

use crate::delivery::codecs::{CLASSIC, CodecId};
use crate::delivery::stream::Stream;
pub use crate::delivery::stream::{ByteStream, PassedStream};
use crate::delivery::{Codecs, Link};
use crate::wire::{Codec, Peer};

/// Yields the byte streams of clients, one after the other.
///
/// An Acceptor polls it on the home arbiter, inside a tokio runtime: it must not block. It outlives a crash of its Acceptor.
///
/// ```
/// use std::io;
/// use std::task::{Context, Poll};
///
/// use janus_core::{Incoming, Listener};
/// use tokio::io::DuplexStream;
/// use tokio::sync::mpsc::Receiver;
///
/// /// Clients in this process, whose ends of a pipe come over a channel.
/// struct Pipes(Receiver<DuplexStream>);
///
/// impl Listener for Pipes {
///     fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Incoming>> {
///         match self.0.poll_recv(cx) {
///             Poll::Ready(Some(stream)) => Poll::Ready(Ok(Incoming::stream(stream))),
///             // There will be no more clients; a listener has no end.
///             Poll::Ready(None) | Poll::Pending => Poll::Pending,
///         }
///     }
/// }
/// ```
pub trait Listener: Send + 'static {
    /// Where clients connect to, if that is an address: for [`Janus::local_addrs`](crate::Janus::local_addrs) and names.
    fn local_addr(&self) -> Option<SocketAddr> {
        None
    }

    /// Called on the home arbiter, before the first poll and again whenever the Acceptor has been restarted: the place
    /// to register with the runtime.
    ///
    /// # Errors
    ///
    /// The Acceptor does not start, which counts as a crash of it.
    fn start(&mut self) -> io::Result<()> {
        Ok(())
    }

    /// The next stream.
    ///
    /// # Errors
    ///
    /// One that is about the stream that was next, such as [`ConnectionAborted`](io::ErrorKind::ConnectionAborted), is
    /// passed over; after any other the Acceptor waits for 100 ms, in the belief that descriptors have run out.
    fn poll_accept(&mut self, cx: &mut task::Context<'_>) -> Poll<io::Result<Incoming>>;
}

/// A client's byte stream, on its way to be served.
#[derive(Debug)]
pub struct Incoming {
    pub(crate) link: Link,
    pub(crate) peer: Peer,
    /// Whether its socket has the options of a listener of ours.
    pub(crate) inherits: bool,
}

impl Incoming {
    /// A TCP connection, which takes the direct path: whoever delivers writes to its socket.
    ///
    /// The socket gets the options of the server's own: no delay, `send_buffer_bytes`, `tcp_keepalive` and `tcp_user_timeout`.
    #[must_use]
    pub fn tcp(stream: TcpStream, peer: SocketAddr) -> Self {
        Self { link: stream.into(), peer: peer.into(), inherits: false }
    }

    /// A connection over a Unix socket, which takes the direct path as well. Its client is a local one.
    ///
    /// The socket gets `send_buffer_bytes`, of which the kernel takes some hundred for each message beside its own.
    /// The kernel has no reset for it: a slow consumer that is cut off can still read what was sent to it, and then sees the end.
    #[cfg(unix)]
    #[must_use]
    pub fn unix(stream: UnixStream) -> Self {
        Self { link: stream.into(), peer: Peer::Local, inherits: false }
    }

    /// Any other stream. It takes the queued path: what is delivered waits until the connection's own actor writes it.
    ///
    /// When writing or flushing has failed, what can still be read counts; the stream is dropped with the end of that, or when nothing
    /// has come for two seconds.
    ///
    /// It is polled on the home arbiter, with its connection's lock held: it must neither block nor ask the instance about its
    /// clients.
    #[must_use]
    pub fn stream(stream: impl AsyncRead + AsyncWrite + Send + 'static) -> Self {
        Self::stream_from(stream, Peer::Local)
    }

    /// The same for a client whose address is known.
    #[must_use]
    pub fn stream_from(stream: impl AsyncRead + AsyncWrite + Send + 'static, peer: Peer) -> Self {
        Self { link: Stream::new(Box::pin(stream), peer).into(), peer, inherits: false }
    }
}

/// A stream that a codec did not want ([`Command::PassOn`](crate::wire::Command::PassOn)).
#[derive(Debug)]
pub struct PassedOn {
    /// The stream itself.
    pub stream: PassedStream,
    /// What has been received on it.
    pub received: Bytes,
    /// Where it comes from.
    pub peer: Peer,
}

/// Takes the streams that a codec passes on. It is called on the home arbiter and must not block.
pub(crate) type PassOn = Arc<dyn Fn(PassedOn) + Send + Sync>;

/// What the connections of one listener have in common.
pub(crate) struct Origin {
    pub(crate) codec: Arc<dyn Codec>,
    pub(crate) codec_id: CodecId,
    /// Whether only this machine can connect, whose clients may publish.
    pub(crate) is_local: bool,
    pub(crate) pass_on: Option<PassOn>,
}

impl Origin {
    pub(crate) fn classic(codecs: &Codecs, is_local: bool) -> Arc<Self> {
        let codec = Arc::clone(codecs.codec(CLASSIC));
        Arc::new(Self { codec, codec_id: CLASSIC, is_local, pass_on: None })
    }
}

impl fmt::Debug for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { codec, is_local, .. } = self;
        f.debug_struct("Origin").field("codec", codec).field("is_local", is_local).finish_non_exhaustive()
    }
}
