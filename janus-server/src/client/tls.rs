//! TLS for the client commands: the flags, the accepted authorities, and a stream with or without encryption.
//!
//! The handshake is finished before the first frame, so that a refused certificate is reported as such.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{CertificateError, ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use super::ClientError;

/// The flags of every client command.
#[derive(Debug, Args)]
pub(crate) struct Tls {
    /// Connect over TLS, and accept certificates of the authorities that the system trusts.
    #[arg(long)]
    tls: bool,
    /// Connect over TLS, and accept certificates of the authorities in this PEM file alone.
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
}

impl Tls {
    /// The settings of the connections; `None` without TLS.
    pub(super) fn client_config(&self) -> Result<Option<Arc<ClientConfig>>, ClientError> {
        let authorities = match &self.ca {
            Some(file) => from_file(file)?,
            None if self.tls => of_the_system()?,
            None => return Ok(None),
        };
        // Named, because other crates may set a default provider, or none.
        let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("the provider has the default versions")
            .with_root_certificates(authorities)
            .with_no_client_auth();
        Ok(Some(Arc::new(config)))
    }
}

fn from_file(file: &Path) -> Result<RootCertStore, ClientError> {
    let bad = |reason: String| ClientError::Authorities { file: file.to_owned(), reason };
    let text = std::fs::read(file).map_err(|error| bad(error.to_string()))?;
    let mut authorities = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&text) {
        let added = certificate.map_err(|error| error.to_string());
        added.and_then(|der| authorities.add(der).map_err(|error| error.to_string())).map_err(bad)?;
    }
    if authorities.is_empty() { Err(bad("no certificate in PEM".to_owned())) } else { Ok(authorities) }
}

fn of_the_system() -> Result<RootCertStore, ClientError> {
    let mut authorities = RootCertStore::empty();
    // A system has hundreds of authorities, and single malformed ones are no reason to fail.
    authorities.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if authorities.is_empty() { Err(ClientError::NoAuthorities) } else { Ok(authorities) }
}

/// A connection to a server.
pub(crate) enum Stream {
    Plain(TcpStream),
    Encrypted(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl Stream {
    /// Does the handshake with the server at `to`, whose host name or address the certificate must have.
    pub(super) fn encrypt(
        mut socket: TcpStream,
        to: &str,
        config: &Arc<ClientConfig>,
        timeout: Duration,
    ) -> Result<Self, ClientError> {
        let name = server_name(to)?;
        let mut connection = ClientConnection::new(Arc::clone(config), name)
            .map_err(|error| ClientError::Handshake { to: to.to_owned(), source: io::Error::other(error) })?;
        socket.set_read_timeout(Some(timeout)).map_err(ClientError::Lost)?;
        while connection.is_handshaking() {
            connection.complete_io(&mut socket).map_err(|source| match source.kind() {
                io::ErrorKind::InvalidData => ClientError::Handshake { to: to.to_owned(), source },
                io::ErrorKind::WouldBlock => ClientError::Late { awaited: "TLS handshake", timeout },
                _ => ClientError::Connect { to: to.to_owned(), source },
            })?;
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

/// The host of `HOST:PORT`.
fn server_name(to: &str) -> Result<ServerName<'static>, ClientError> {
    let host = to.rsplit_once(':').map_or(to, |(host, _)| host);
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    ServerName::try_from(host.to_owned()).map_err(|error| ClientError::BadAddress {
        to: to.to_owned(),
        source: io::Error::new(io::ErrorKind::InvalidInput, error),
    })
}

/// What a user can do about a failed handshake.
pub(super) fn advice(error: &io::Error) -> &'static str {
    match error.get_ref().and_then(|error| error.downcast_ref::<rustls::Error>()) {
        // Of two authorities with the same name, the other one has a bad signature.
        Some(rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer | CertificateError::BadSignature)) => {
            " (--ca FILE names the authority of the server's certificate)"
        }
        Some(rustls::Error::InvalidMessage(_)) => {
            " (is this a port with TLS? the settings are tls_listen and https_listen)"
        }
        Some(rustls::Error::AlertReceived(_)) => " (the log of the server has the reason)",
        _ => "",
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
