//! Listening sockets, opened by the service manager and handed to this process: `sd_listen_fds(3)`.
//!
//! The name of each socket (`FileDescriptorName=`) says what the clients speak. The sockets of a name replace the
//! addresses of the setting for the same protocol. A socket outlives the server: connections wait in its backlog while
//! no server runs, and none is refused.

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener};

use janus_core::{Builder, Speaks};
use listenfd::ListenFd;
use socket2::SockRef;

use crate::settings::Settings;

/// The number of the first descriptor.
const FIRST: usize = 3;

/// What the clients of a socket speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Classic,
    Http,
    Tls,
    Https,
    Admin,
}

impl Kind {
    const ALL: [(&'static str, Self); 5] = [
        ("classic", Self::Classic),
        ("http", Self::Http),
        ("tls", Self::Tls),
        ("https", Self::Https),
        ("admin", Self::Admin),
    ];

    fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(known, _)| *known == name).map(|(_, kind)| *kind)
    }

    /// `None` for the admin port, a port of the binary.
    fn speaks(self) -> Option<Speaks> {
        match self {
            Self::Classic => Some(Speaks::Classic),
            Self::Http => Some(Speaks::Http),
            Self::Tls => Some(Speaks::ClassicTls),
            Self::Https => Some(Speaks::Https),
            Self::Admin => None,
        }
    }

    /// The addresses replaced by a socket of this kind.
    fn addresses(self, settings: &mut Settings) -> &mut Vec<SocketAddr> {
        match self {
            Self::Classic => &mut settings.core.listen,
            Self::Http => &mut settings.core.http_listen,
            Self::Tls => &mut settings.core.tls_listen,
            Self::Https => &mut settings.core.https_listen,
            Self::Admin => &mut settings.admin_listen,
        }
    }
}

/// Why a socket of the service manager cannot be used. The author of the unit is to blame.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SocketError {
    #[error(
        "the service manager has passed {sockets} sockets and {names} names: each socket needs FileDescriptorName= in \
         its .socket unit"
    )]
    Names { sockets: usize, names: usize },
    #[error("{0}: unknown name; set FileDescriptorName= in its .socket unit to {1}")]
    Unknown(Descriptor, Names),
    #[error("{0}: not a listening socket of TCP; use ListenStream= with an address and a port, and Accept=no")]
    Kind(Descriptor, #[source] io::Error),
}

/// A descriptor in an error message.
#[derive(Debug)]
pub(crate) struct Descriptor {
    number: usize,
    name: String,
}

impl fmt::Display for Descriptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "descriptor {} of the service manager, named {:?}", self.number, self.name)
    }
}

/// All names, for an error message.
#[derive(Debug)]
pub(crate) struct Names;

impl fmt::Display for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = Kind::ALL.map(|(name, _)| name);
        f.write_str(&names.join(", "))
    }
}

/// The sockets of the service manager.
#[derive(Debug, Default)]
pub(crate) struct Sockets(Vec<(Kind, TcpListener, SocketAddr)>);

impl Sockets {
    /// Takes the sockets. Removes variables from the environment, so the process must have a single thread.
    pub(crate) fn of_this_process() -> Result<Self, SocketError> {
        let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
        Self::take(&mut ListenFd::from_env(), &names)
    }

    fn take(descriptors: &mut ListenFd, names: &str) -> Result<Self, SocketError> {
        if descriptors.len() == 0 {
            return Ok(Self::default());
        }
        let names: Vec<&str> = names.split(':').filter(|name| !name.is_empty()).collect();
        if names.len() != descriptors.len() {
            return Err(SocketError::Names { sockets: descriptors.len(), names: names.len() });
        }
        let mut sockets = Vec::new();
        for (index, name) in names.into_iter().enumerate() {
            let descriptor = || Descriptor { number: FIRST + index, name: name.to_owned() };
            let kind = Kind::named(name).ok_or_else(|| SocketError::Unknown(descriptor(), Names))?;
            let socket = descriptors.take_tcp_listener(index).and_then(|socket| {
                let socket = socket.ok_or(io::ErrorKind::NotFound)?;
                let address = socket.local_addr()?;
                // A connection has the same type.
                let listens = SockRef::from(&socket).is_listener()?;
                listens.then_some((kind, socket, address)).ok_or_else(|| io::Error::other("the socket does not listen"))
            });
            sockets.push(socket.map_err(|error| SocketError::Kind(descriptor(), error))?);
        }
        Ok(Self(sockets))
    }

    pub(crate) fn addresses(&self) -> Addresses {
        Addresses(self.0.iter().map(|(kind, _, address)| (*kind, *address)).collect())
    }

    /// Takes the sockets of the admin port.
    pub(crate) fn take_admin(&mut self) -> Vec<TcpListener> {
        self.0.extract_if(.., |(kind, ..)| *kind == Kind::Admin).map(|(_, socket, _)| socket).collect()
    }

    /// Hands the sockets to an instance with these settings, in place of their addresses.
    pub(crate) fn hand_to(self, mut settings: Settings, builder: Builder) -> Builder {
        for (kind, ..) in &self.0 {
            kind.addresses(&mut settings).clear();
        }
        let builder = builder.config(settings.core);
        self.0.into_iter().fold(builder, |builder, (kind, socket, _)| match kind.speaks() {
            Some(speaks) => builder.listen_on(socket, speaks),
            None => builder,
        })
    }
}

/// The addresses of all sockets of the service manager.
#[derive(Clone, Debug, Default)]
pub(crate) struct Addresses(Vec<(Kind, SocketAddr)>);

impl Addresses {
    pub(crate) fn contain(&self, address: SocketAddr) -> bool {
        self.0.iter().any(|(_, own)| *own == address)
    }

    /// Replaces the addresses in settings that have been read, so all decisions by address are about the sockets.
    pub(crate) fn stand_in(&self, settings: &mut Settings) {
        for (_, kind) in Kind::ALL {
            let own: Vec<_> = self.0.iter().filter(|(its_kind, _)| *its_kind == kind).map(|(_, own)| *own).collect();
            if !own.is_empty() {
                *kind.addresses(settings) = own;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn socket(kind: Kind) -> (Kind, TcpListener, SocketAddr) {
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        (kind, socket, address)
    }

    #[test]
    fn sockets_replace_the_addresses_of_their_protocol_alone() {
        let mut settings = Settings::default();
        let before = settings.core.listen.clone();
        let sockets = Sockets(vec![socket(Kind::Http), socket(Kind::Https), socket(Kind::Http)]);
        sockets.addresses().stand_in(&mut settings);
        let addresses: Vec<_> = sockets.0.iter().map(|(.., address)| *address).collect();
        assert_eq!(settings.core.http_listen, [addresses[0], addresses[2]]);
        assert_eq!(settings.core.https_listen, [addresses[1]]);
        assert_eq!((&settings.core.listen, settings.core.tls_listen.len()), (&before, 0));
        assert!(sockets.addresses().contain(addresses[1]) && !sockets.addresses().contain(before[0]));
    }

    #[test]
    fn without_sockets_nothing_is_replaced() {
        let mut settings = Settings::default();
        let sockets = Sockets::take(&mut ListenFd::empty(), "http").unwrap();
        sockets.addresses().stand_in(&mut settings);
        assert_eq!(settings.core.http_listen, Settings::default().core.http_listen);
    }
}
