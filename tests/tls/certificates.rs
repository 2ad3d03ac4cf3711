//! Authorities and certificates, made anew for each test.

use std::path::PathBuf;
use std::sync::Arc;

use janus_core::Config;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair, date_time_ymd,
};
use tempfile::TempDir;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, ServerConfig};

/// Issues certificates.
pub(super) struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate and the key.
pub(super) struct Pair {
    pub(super) der: CertificateDer<'static>,
    pub(super) pem: String,
    pub(super) key: KeyPair,
}

impl Authority {
    pub(super) fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "authority of a test");
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    pub(super) fn pem(&self) -> String {
        self.0.pem()
    }

    pub(super) fn server(&self, names: &[&str]) -> Pair {
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        self.issue(CertificateParams::new(names).unwrap())
    }

    /// Settings of a server with a new certificate for these names.
    pub(super) fn server_config(&self, names: &[&str]) -> Arc<ServerConfig> {
        let pair = self.server(names);
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(pair.key.serialize_der()));
        let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![pair.der], key)
            .unwrap();
        Arc::new(config)
    }

    pub(super) fn client(&self) -> Pair {
        self.issue(Self::client_params())
    }

    pub(super) fn expired_client(&self) -> Pair {
        let mut params = Self::client_params();
        (params.not_before, params.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(2021, 1, 1));
        self.issue(params)
    }

    fn client_params() -> CertificateParams {
        let mut params = CertificateParams::default();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.distinguished_name.push(DnType::CommonName, "alice");
        params
    }

    fn issue(&self, params: CertificateParams) -> Pair {
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap();
        Pair { der: certificate.der().clone(), pem: certificate.pem(), key }
    }

    /// A client with trust in this authority.
    pub(super) fn connector(&self, own: Option<&Pair>) -> TlsConnector {
        TlsConnector::from(Arc::new(self.client_config(own)))
    }

    pub(super) fn client_config(&self, own: Option<&Pair>) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(self.0.der().clone()).unwrap();
        let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        match own {
            None => builder.with_no_client_auth(),
            Some(own) => {
                let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(own.key.serialize_der()));
                builder.with_client_auth_cert(vec![own.der.clone()], key).unwrap()
            }
        }
    }
}

/// The files of a server's certificates.
pub(super) struct Files(TempDir);

impl Files {
    pub(super) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Writes a file for the owner's eyes alone.
    pub(super) fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, text).unwrap();
        #[cfg(unix)]
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        path
    }

    /// Writes a pair as `NAME.pem` and `NAME.key`.
    pub(super) fn write_pair(&self, name: &str, pair: &Pair) -> (PathBuf, PathBuf) {
        let certificate = self.write(&format!("{name}.pem"), &pair.pem);
        (certificate, self.write(&format!("{name}.key"), &pair.key.serialize_pem()))
    }

    /// Settings with the pair `NAME.pem` and `NAME.key`.
    pub(super) fn config(&self, name: &str, pair: &Pair) -> Config {
        let (certificate, key) = self.write_pair(name, pair);
        Config { tls_cert: vec![certificate], tls_key: vec![key], ..Config::default() }
    }
}
