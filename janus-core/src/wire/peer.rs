//! The address of a client, for streams with and without an address.

use std::fmt;
use std::net::SocketAddr;

/// Where a client is connected from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Peer {
    /// A network address. Port 0 stands for an unknown port: a proxy has named the client without.
    Addr(SocketAddr),
    /// This machine, through a stream without an address: a Unix socket, memory.
    Local,
}

impl Peer {
    /// Whether the peer is the server's own machine, judged by the address: loopback, or none.
    ///
    /// The peer may be a proxy for clients from elsewhere: see
    /// [`HttpRequest::is_forwarded`](super::HttpRequest::is_forwarded).
    #[must_use]
    pub fn is_local(self) -> bool {
        match self {
            Self::Addr(addr) => addr.ip().to_canonical().is_loopback(),
            Self::Local => true,
        }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Addr(addr) if addr.port() == 0 => addr.ip().fmt(f),
            Self::Addr(addr) => addr.fmt(f),
            Self::Local => f.pad("local"),
        }
    }
}

impl serde::Serialize for Peer {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl From<SocketAddr> for Peer {
    fn from(addr: SocketAddr) -> Self {
        Self::Addr(addr)
    }
}
