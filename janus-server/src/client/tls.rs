//! TLS for the client commands: the accepted authorities, the name of the server, and failed handshakes in words.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{CertificateError, ClientConfig, RootCertStore};

use super::ClientError;

/// The settings of connections over TLS: accepted are certificates of the authorities in the PEM file alone, or without
/// a file those of the authorities that the system trusts.
pub(super) fn client_config(ca: Option<&Path>) -> Result<Arc<ClientConfig>, ClientError> {
    let authorities = match ca {
        Some(file) => from_file(file)?,
        None => of_the_system()?,
    };
    // Named, because other crates may set a default provider, or none.
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("the provider has the default versions")
        .with_root_certificates(authorities)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

/// The settings of the links to an engine: accepted are certificates of the authorities that the system trusts.
pub(crate) fn engine_tls() -> Result<Arc<ClientConfig>, ClientError> {
    client_config(None)
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

/// The name that the certificate must have: the host of `HOST:PORT`.
pub(super) fn server_name(to: &str) -> Result<ServerName<'static>, ClientError> {
    let host = to.rsplit_once(':').map_or(to, |(host, _)| host);
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    ServerName::try_from(host.to_owned()).map_err(|error| ClientError::BadAddress {
        to: to.to_owned(),
        source: io::Error::new(io::ErrorKind::InvalidInput, error),
    })
}

/// The error of a handshake that has failed.
pub(super) fn failed(to: &str, source: io::Error, timeout: Duration) -> ClientError {
    match source.kind() {
        io::ErrorKind::InvalidData => ClientError::Handshake { to: to.to_owned(), source },
        io::ErrorKind::WouldBlock => ClientError::Late { awaited: "TLS handshake", timeout },
        _ => ClientError::Connect { to: to.to_owned(), source },
    }
}

/// Whether the other end does not speak TLS.
pub(super) fn is_no_tls(error: &io::Error) -> bool {
    let error = error.get_ref().and_then(|error| error.downcast_ref::<rustls::Error>());
    matches!(error, Some(rustls::Error::InvalidMessage(_)))
}

/// What a user can do about a failed handshake.
pub(super) fn advice(error: &io::Error) -> &'static str {
    match error.get_ref().and_then(|error| error.downcast_ref::<rustls::Error>()) {
        // Of two authorities with the same name, the other one has a bad signature.
        Some(rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer | CertificateError::BadSignature)) => {
            " (--ca FILE names the authority of the server's certificate)"
        }
        Some(rustls::Error::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        )) => " (--server must have a name of the server's certificate)",
        Some(rustls::Error::InvalidMessage(_)) => {
            " (is this a port with TLS? the settings are tls_listen and https_listen)"
        }
        Some(rustls::Error::AlertReceived(_)) => " (the log of the server has the reason)",
        _ => "",
    }
}
