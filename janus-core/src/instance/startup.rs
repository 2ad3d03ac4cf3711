//! Why an instance did not start.

use std::io;
use std::net::SocketAddr;

use crate::config::ConfigError;
#[cfg(feature = "tls")]
use crate::connection::tls::certificates::CertificateError;
use crate::delivery::codecs::TooManyCodecs;
use crate::wire::PathPattern;

/// Why an instance did not start. Nothing is left running.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartupError {
    /// A setting cannot work; the author of the configuration is to blame.
    #[error("bad setting")]
    Config(#[from] ConfigError),
    /// An address cannot be listened on: the port is in use, or the address is not this machine's, or needs privileges.
    #[error("cannot listen on {addr}")]
    Bind {
        /// The address, as configured.
        addr: SocketAddr,
        /// The error of the system.
        source: io::Error,
    },
    /// A socket given to [`Builder::listen_on`](crate::Builder::listen_on) cannot be used: it does not listen, or is no socket of TCP.
    #[error("cannot listen on a given socket")]
    Socket(#[source] io::Error),
    /// A certificate or key cannot be used. No port has been bound.
    #[cfg(feature = "tls")]
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// The system gives no more threads.
    #[error("cannot start a thread")]
    Thread(#[source] io::Error),
    /// An actor of the tree did not start.
    #[error("cannot start the supervision tree: {0}")]
    Tree(String),
    /// Two parts of the program, or the program and the HTTP port, want the same paths of the HTTP port.
    #[error("two routes of the HTTP port have paths in common, {one} and {other}: give one of them another path")]
    Paths {
        /// The paths of the one.
        one: PathPattern,
        /// The paths of the other.
        other: PathPattern,
    },
    /// The listeners speak too many wire formats.
    #[error("too many codecs")]
    Codecs(#[from] TooManyCodecs),
}
