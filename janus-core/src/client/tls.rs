//! TLS of the client: which authorities may issue the certificate of a server.

use std::sync::Arc;

use rustls::crypto::aws_lc_rs;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};

use super::ClientError;

/// A path is the likely mistake.
const NO_PEM: &str = "no certificate in the PEM text; expected is the text of a PEM file, and not its path";

/// Where the accepted authorities come from.
#[derive(Clone, Debug, Default)]
pub(super) enum Authorities {
    /// The authorities that the system trusts.
    #[default]
    System,
    /// The authorities in a PEM text, and no others.
    Pem(Arc<[u8]>),
    /// The settings of the program.
    Config(Arc<ClientConfig>),
}

impl Authorities {
    /// Reads files of the system, which takes some milliseconds, for [`Authorities::System`].
    pub(super) fn config(&self) -> Result<Arc<ClientConfig>, ClientError> {
        let mut store = RootCertStore::empty();
        match self {
            Self::Config(config) => return Ok(Arc::clone(config)),
            Self::Pem(text) => {
                for certificate in CertificateDer::pem_slice_iter(text) {
                    let added = certificate.map_err(|error| error.to_string());
                    let added = added.and_then(|der| store.add(der).map_err(|error| error.to_string()));
                    added.map_err(ClientError::Authorities)?;
                }
                if store.is_empty() {
                    return Err(ClientError::Authorities(NO_PEM.to_owned()));
                }
            }
            Self::System => {
                // A system has hundreds of authorities, and single malformed ones are no reason to fail.
                store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
                if store.is_empty() {
                    let reason = "the system has no list of trusted authorities; name them by authorities_pem()";
                    return Err(ClientError::Authorities(reason.to_owned()));
                }
            }
        }
        // Named, because other crates of the program may set a default provider, or none.
        let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("the provider has the default versions")
            .with_root_certificates(store)
            .with_no_client_auth();
        Ok(Arc::new(config))
    }
}
