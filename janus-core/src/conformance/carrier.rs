//! Carriers: the ways by which the clients of the suite reach an instance.
//!
//! A [`Carrier`] prepares the builder of each instance, and yields a [`Connector`] for the clients of the instance.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio::net::TcpSocket;

use crate::connection::listener::{ByteStream, Incoming};
use crate::wire::{Codec, Peer};
use crate::{Builder, Janus};

/// A future of the client's end of a connected stream.
pub type Connecting = Pin<Box<dyn Future<Output = io::Result<Pin<Box<dyn ByteStream>>>> + Send>>;

/// A builder prepared to accept clients of the codec, and the function by which clients connect to the instance.
pub type Accepting = (Builder, Box<dyn Fn(&Janus) -> Connecting + Send + Sync>);

/// A way for clients to reach an instance.
pub struct Carrier {
    name: String,
    kind: Kind,
}

enum Kind {
    Tcp,
    Pipe,
    Own(Box<dyn Fn(Builder, Arc<dyn Codec>) -> Accepting + Send + Sync>),
}

impl fmt::Debug for Carrier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Carrier").field(&self.name).finish()
    }
}

impl Carrier {
    /// TCP on loopback, by [`Builder::listen`].
    #[must_use]
    pub fn tcp() -> Self {
        Self { name: "tcp".to_owned(), kind: Kind::Tcp }
    }

    /// Pipes in memory, by [`Janus::serve`].
    #[must_use]
    pub fn pipe() -> Self {
        Self { name: "pipe".to_owned(), kind: Kind::Pipe }
    }

    /// A way of the author. The suite calls `accept` once per instance. `accept` makes the builder listen for clients
    /// of the codec, and returns the function by which clients connect.
    ///
    /// ```
    /// use std::sync::Arc;
    ///
    /// use janus_core::Incoming;
    /// use janus_core::conformance::Carrier;
    ///
    /// let served = Carrier::own("served", |builder, codec| {
    ///     let connect = move |janus: &janus_core::Janus| {
    ///         let (client, server) = tokio::io::duplex(4096);
    ///         let served = janus.serve(Incoming::stream(server), &codec, None).map_err(std::io::Error::other);
    ///         let connected: janus_core::conformance::Connecting = Box::pin(async move {
    ///             served?;
    ///             Ok(Box::pin(client) as _)
    ///         });
    ///         connected
    ///     };
    ///     (builder, Box::new(connect))
    /// });
    /// # let _ = served;
    /// ```
    #[must_use]
    pub fn own(
        name: impl Into<String>,
        accept: impl Fn(Builder, Arc<dyn Codec>) -> Accepting + Send + Sync + 'static,
    ) -> Self {
        Self { name: name.into(), kind: Kind::Own(Box::new(accept)) }
    }

    /// The name in the report.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn accept(&self, builder: Builder, codec: Arc<dyn Codec>) -> (Builder, Connector) {
        match &self.kind {
            Kind::Tcp => (builder.listen(SocketAddr::from(([127, 0, 0, 1], 0)), codec), Connector::Tcp),
            Kind::Pipe => (builder, Connector::Pipe { codec, clients: AtomicU32::new(0) }),
            Kind::Own(accept) => {
                let (builder, connect) = accept(builder, codec);
                (builder, Connector::Own(connect))
            }
        }
    }
}

/// Connects clients to one instance.
pub(super) enum Connector {
    Tcp,
    Pipe { codec: Arc<dyn Codec>, clients: AtomicU32 },
    Own(Box<dyn Fn(&Janus) -> Connecting + Send + Sync>),
}

/// A client's end of a stream, and the client's address as known to the instance.
pub(super) type Connected = (Pin<Box<dyn ByteStream>>, Option<SocketAddr>);

impl Connector {
    /// Connects a client. At most about `capacity` bytes wait for the client, if the carrier allows a choice.
    pub(super) async fn connect(&self, janus: &Janus, capacity: usize) -> io::Result<Connected> {
        match self {
            Self::Tcp => {
                let addr = *janus.local_addrs().first().ok_or(io::ErrorKind::NotConnected)?;
                let socket = TcpSocket::new_v4()?;
                if capacity < ROOMY {
                    socket.set_recv_buffer_size(u32::try_from(capacity).unwrap_or(u32::MAX))?;
                }
                let stream = socket.connect(addr).await?;
                stream.set_nodelay(true)?;
                // Thousands of clients come and go: none may leave a port behind in TIME_WAIT.
                socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
                let local = stream.local_addr()?;
                Ok((Box::pin(stream), Some(local)))
            }
            Self::Pipe { codec, clients } => {
                // An invented address, which names the client.
                let [a, b, c, d] = (0x7f00_0000 | clients.fetch_add(1, Ordering::Relaxed)).to_be_bytes();
                let addr = SocketAddr::from(([a, b, c, d], 1));
                let (client, server) = tokio::io::duplex(capacity);
                let incoming = Incoming::stream_from(server, Peer::Addr(addr));
                janus.serve(incoming, codec, None).map_err(io::Error::other)?;
                Ok((Box::pin(client), Some(addr)))
            }
            Self::Own(connect) => Ok((connect(janus).await?, None)),
        }
    }
}

/// The capacity, in bytes, for a client that reads.
pub(super) const ROOMY: usize = 64 * 1024;
