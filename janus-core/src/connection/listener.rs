//! Sources of byte streams: the trait [`Listener`], which together with a codec makes a transport.

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

pub use crate::connection::returning::{ReturnError, WayBack};
use crate::connection::tls::TlsPort;
use crate::delivery::codecs::{CLASSIC, CodecId};
use crate::delivery::stream::Stream;
pub use crate::delivery::stream::{ByteStream, PassedStream};
use crate::delivery::{Codecs, Link};
use crate::hooks::Identity;
use crate::wire::{Codec, HttpRequest, Peer};

/// Yields the byte streams of clients, one after the other.
///
/// An Acceptor polls the listener on the home arbiter, inside a tokio runtime; `poll_accept` must not block. The
/// listener outlives a crash of its Acceptor.
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
    /// The address to which clients connect, if any: for [`Janus::local_addrs`](crate::Janus::local_addrs) and names.
    fn local_addr(&self) -> Option<SocketAddr> {
        None
    }

    /// Called on the home arbiter, before the first poll and again whenever the Acceptor has been restarted: the place
    /// to register with the runtime.
    ///
    /// # Errors
    ///
    /// The Acceptor does not start; this counts as a crash of the Acceptor.
    fn start(&mut self) -> io::Result<()> {
        Ok(())
    }

    /// The next stream.
    ///
    /// # Errors
    ///
    /// The Acceptor skips an error about the next stream, such as
    /// [`ConnectionAborted`](io::ErrorKind::ConnectionAborted). After any other error the Acceptor waits for 100 ms, in
    /// the belief that descriptors have run out.
    fn poll_accept(&mut self, cx: &mut task::Context<'_>) -> Poll<io::Result<Incoming>>;
}

/// A client's byte stream, on its way to be served.
#[derive(Debug)]
pub struct Incoming {
    pub(crate) link: Link,
    pub(crate) peer: Peer,
    /// Whether the socket has inherited its options from the server's own listener.
    pub(crate) inherits: bool,
    pub(crate) identity: Option<Arc<Identity>>,
}

impl Incoming {
    /// A TCP connection. TCP takes the direct path: a delivery writes straight to the socket.
    ///
    /// The socket gets the options of the server's own sockets: no delay, `send_buffer_bytes`, `tcp_keepalive` and
    /// `tcp_user_timeout`.
    #[must_use]
    pub fn tcp(stream: TcpStream, peer: SocketAddr) -> Self {
        Self::new(stream, peer.into())
    }

    /// A connection over a Unix socket. Unix sockets take the direct path as well, and count as local clients.
    ///
    /// The socket gets `send_buffer_bytes`, of which the kernel takes some hundred for each message in addition to the
    /// message's own bytes. The kernel has no reset for Unix sockets: a slow consumer, once cut off, can still read the
    /// bytes sent before, and then sees the end.
    #[cfg(unix)]
    #[must_use]
    pub fn unix(stream: UnixStream) -> Self {
        Self::new(stream, Peer::Local)
    }

    /// Any other stream. Such a stream takes the queued path: a delivery waits until the connection's own actor writes
    /// the bytes.
    ///
    /// When writing or flushing has failed, input that can still be read counts. The stream is dropped at the end of
    /// the input, or when nothing has come for two seconds.
    ///
    /// The stream is polled on the home arbiter, with its connection's lock held: polling must neither block nor ask
    /// the instance about clients.
    #[must_use]
    pub fn stream(stream: impl AsyncRead + AsyncWrite + Send + 'static) -> Self {
        Self::stream_from(stream, Peer::Local)
    }

    /// As [`stream`](Self::stream), for a client whose address is known.
    #[must_use]
    pub fn stream_from(stream: impl AsyncRead + AsyncWrite + Send + 'static, peer: Peer) -> Self {
        Self::new(Stream::new(Box::pin(stream), peer), peer)
    }

    fn new(link: impl Into<Link>, peer: Peer) -> Self {
        Self { link: link.into(), peer, inherits: false, identity: None }
    }

    /// Sets the identity of the client, for a program that knows the client: by a session of its own, by a certificate,
    /// or by an account of the operating system.
    ///
    /// [`Hooks::authenticate`](crate::hooks::Hooks::authenticate) is not asked, and a proof in the client's opening frame
    /// has no meaning. The grants hold, with and without hooks: under [`Grant::Ask`](crate::hooks::Grant::Ask) the hooks
    /// decide, if there are any, and otherwise the settings. Janus keeps the time: the client is closed with
    /// `token_expired` at the [end](Identity::expires) of the identity, or
    /// [`Config::token_grace`](crate::Config::token_grace) later where the protocol has a refresh. A refresh is a
    /// question for the hooks; without hooks each is refused. The client is found by its user
    /// ([`Janus::disconnect_user`](crate::Janus::disconnect_user)), and revocations hold.
    ///
    /// No PROXY header is read from such a connection.
    ///
    /// ```
    /// use std::sync::Arc;
    /// use std::time::{Duration, SystemTime};
    ///
    /// use janus_core::hooks::{Identity, Patterns};
    /// use janus_core::wire::classic::Classic;
    /// use janus_core::wire::Codec;
    /// use janus_core::{Config, Incoming, Janus};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let config = Config { listen: Vec::new(), ..Config::default() };
    /// let janus = Janus::builder().config(config).start().await?;
    /// let codec: Arc<dyn Codec> = Arc::new(Classic);
    /// let (client, stream) = tokio::io::duplex(4096);
    /// let alice = Identity::user("alice")
    ///     .subscribe(Patterns::new(["alice:*"])?)
    ///     .publish(false)
    ///     .expires(SystemTime::now() + Duration::from_secs(3600));
    /// janus.serve(Incoming::stream(stream).identity(alice), &codec, None)?;
    /// # drop(client);
    /// # janus.shutdown().await;
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn identity(self, identity: Identity) -> Self {
        Self { identity: Some(Arc::new(identity)), ..self }
    }
}

/// A stream that a codec has passed on ([`Command::PassOn`](crate::wire::Command::PassOn)).
#[derive(Debug)]
pub struct PassedOn {
    /// The stream itself.
    pub stream: PassedStream,
    /// The bytes that have been received on the stream.
    pub received: Bytes,
    /// The address of the client.
    pub peer: Peer,
    /// Whether the client is on this machine: its listener is on loopback, and no proxy has passed the client on from
    /// elsewhere. A proxy in [`Config::trusted_proxies`](crate::Config::trusted_proxies) may pass on a client on loopback;
    /// any other sign of a proxy in the request makes the client foreign.
    pub is_local: bool,
    /// The HTTP request with which `received` begins, if the codec has read one.
    pub request: Option<PassedRequest>,
    /// The way back to the listener, once the request is answered.
    pub back: WayBack,
}

/// The head of a request, read before its stream was passed on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PassedRequest {
    /// The head.
    pub head: HttpRequest,
    /// The number of bytes of the head in [`PassedOn::received`]; a body and further requests may follow.
    pub bytes: usize,
}

/// Takes passed-on streams. Called on the home arbiter; must not block.
pub(crate) type PassOn = Arc<dyn Fn(PassedOn) + Send + Sync>;

/// The common properties of the connections of one listener.
pub(crate) struct Origin {
    pub(crate) codec: Arc<dyn Codec>,
    pub(crate) codec_id: CodecId,
    /// Whether only clients on this machine can connect. Such clients may publish.
    pub(crate) is_local: bool,
    pub(crate) pass_on: Option<PassOn>,
    /// For a TLS listener.
    pub(crate) tls: Option<TlsPort>,
}

impl Origin {
    pub(crate) fn classic(codecs: &Codecs, is_local: bool, tls: Option<TlsPort>) -> Arc<Self> {
        let codec = Arc::clone(codecs.codec(CLASSIC));
        Arc::new(Self { codec, codec_id: CLASSIC, is_local, pass_on: None, tls })
    }
}

impl fmt::Debug for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { codec, is_local, .. } = self;
        f.debug_struct("Origin").field("codec", codec).field("is_local", is_local).finish_non_exhaustive()
    }
}
