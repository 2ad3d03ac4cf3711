//! TLS listeners: the certificates they serve, and the handshakes of their connections.
//!
//! An Acceptor hands each connection of a TLS listener to the [handshake threads](handshakes), and the home arbiter
//! receives the connection when the handshake is complete. From then on a TLS connection is like a plain connection:
//! the delivery encrypts (`delivery/tls/`).
//!
//! | file | kind | owns |
//! |---|---|---|
//! | `mod.rs` | table | [`Tls`]: what the TLS listeners of an instance share |
//! | `certificates.rs` | table | certificates, keys and authorities, as they were read last |
//! | `handshakes.rs` | threads | the handshakes under way, their limit and their order of making room |
//! | `warnings.rs` | pure | what an operator should know about the certificates in use |
//!
//! Without the feature `tls` no instance has TLS listeners, and [`Tls`] has no values.

#[cfg(feature = "tls")]
pub(crate) mod certificates;
#[cfg(feature = "tls")]
pub(crate) mod handshakes;
#[cfg(feature = "tls")]
pub(crate) mod warnings;

/// The protocol of the clients of a TLS listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TlsPort {
    /// A protocol that ALPN has no name for: nothing is negotiated.
    Classic,
    /// `http/1.1` is negotiated with clients that know ALPN.
    Http,
}

/// What the TLS listeners of an instance share.
#[cfg(feature = "tls")]
#[derive(Debug)]
pub(crate) struct Tls {
    pub(crate) certificates: certificates::Certificates,
    pub(crate) handshakes: handshakes::Handshakes,
}

#[cfg(feature = "tls")]
impl Tls {
    pub(crate) fn new(certificates: certificates::Certificates) -> Self {
        Self { certificates, handshakes: handshakes::Handshakes::default() }
    }

    /// The accounted bytes of handshakes.
    pub(crate) fn memory(&self) -> usize {
        self.handshakes.memory()
    }

    /// Whether handshakes are under way.
    pub(crate) fn is_busy(&self) -> bool {
        self.handshakes.memory() > 0
    }

    /// Cuts a handshake because memory is short; false if there is none to cut.
    pub(crate) fn give_up_handshake(&self) -> bool {
        self.handshakes.give_up()
    }
}

#[cfg(not(feature = "tls"))]
impl Tls {
    pub(crate) fn memory(&self) -> usize {
        match *self {}
    }

    pub(crate) fn is_busy(&self) -> bool {
        match *self {}
    }

    pub(crate) fn give_up_handshake(&self) -> bool {
        match *self {}
    }
}

/// No value: without the feature `tls` no instance has TLS listeners.
#[cfg(not(feature = "tls"))]
#[derive(Debug)]
pub(crate) enum Tls {}
