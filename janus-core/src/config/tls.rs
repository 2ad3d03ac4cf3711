//! The values of the TLS settings, and the rules across these settings.

use std::path::PathBuf;

use super::{Config, ConfigError};

/// Whether a TLS listener asks clients for a certificate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ClientCertificates {
    /// No client is asked.
    #[default]
    Off,
    /// A client may have a certificate. A client without a certificate is served as well.
    Optional,
    /// Only clients with a certificate are served.
    Required,
}

/// A version of TLS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum TlsVersion {
    /// TLS 1.2.
    #[default]
    V1_2,
    /// TLS 1.3.
    V1_3,
}

names!(ClientCertificates as "tls_client": Off = "off", Optional = "optional", Required = "required");

names!(TlsVersion as "tls_min_version": V1_2 = "1.2", V1_3 = "1.3");

impl Config {
    /// Whether any listener speaks TLS.
    pub(crate) fn has_tls(&self) -> bool {
        !self.tls_listen.is_empty() || !self.https_listen.is_empty()
    }

    /// Checks that a TLS listener has what TLS needs.
    pub(super) fn check_tls(&self) -> Result<(), ConfigError> {
        let refuse = |key: &'static str, value: String, expected: &'static str| {
            Err(ConfigError { key: key.into(), value, expected: expected.into() })
        };
        let (listener, addresses) = match self.tls_listen.is_empty() {
            true => ("https_listen", &self.https_listen),
            false => ("tls_listen", &self.tls_listen),
        };
        if self.has_tls() && !cfg!(feature = "tls") {
            let built = "no address: this program was built without the feature `tls` of janus-core";
            return refuse(listener, format!("{addresses:?}"), built);
        }
        if self.tls_key.len() != self.tls_cert.len() {
            return refuse("tls_key", shown(&self.tls_key), "one file for each file of tls_cert, in the same order");
        }
        if self.has_tls() && self.tls_cert.is_empty() {
            return Err(no_certificate());
        }
        if self.tls_client != ClientCertificates::Off && self.tls_client_ca.is_none() {
            let expected = "\"off\", or a file of authorities in tls_client_ca";
            return refuse("tls_client", format!("\"{}\"", self.tls_client), expected);
        }
        Ok(())
    }
}

/// Why a TLS listener without a certificate cannot start.
pub(crate) fn no_certificate() -> ConfigError {
    let expected = "a file with the certificate, because a listener has TLS";
    ConfigError { key: "tls_cert".into(), value: "[]".to_owned(), expected: expected.into() }
}

fn shown(files: &[PathBuf]) -> String {
    format!("{files:?}")
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;

    fn with_listener() -> Config {
        Config { https_listen: vec![SocketAddr::from(([127, 0, 0, 1], 0))], ..Config::default() }
    }

    #[track_caller]
    fn assert_refused(config: &Config, expected: &str) {
        let error = config.validate().unwrap_err().to_string();
        assert!(error.starts_with(expected), "{error}");
    }

    #[test]
    #[cfg(not(feature = "tls"))]
    fn a_tls_listener_needs_the_feature() {
        let config = Config { tls_cert: vec!["a".into()], tls_key: vec!["b".into()], ..with_listener() };
        assert_refused(&config, "https_listen = [127.0.0.1:0]: expected no address: this program was built without");
    }

    #[test]
    #[cfg(feature = "tls")]
    fn a_tls_listener_needs_a_certificate_and_a_key_for_each_certificate() {
        assert_refused(&with_listener(), "tls_cert = []: expected a file");
        let config = Config { tls_cert: vec!["a".into(), "b".into()], tls_key: vec!["a".into()], ..with_listener() };
        assert_refused(&config, "tls_key = [\"a\"]: expected one file for each");
        let config = Config { tls_key: vec!["a".into(), "b".into()], ..config };
        assert_eq!(config.validate(), Ok(()));
    }

    #[test]
    fn certificates_of_clients_need_an_authority() {
        for tls_client in [ClientCertificates::Optional, ClientCertificates::Required] {
            let config = Config { tls_client, ..Config::default() };
            assert_refused(&config, &format!("tls_client = \"{tls_client}\": expected \"off\", or a file"));
            assert_eq!(Config { tls_client_ca: Some("ca.pem".into()), ..config }.validate(), Ok(()));
        }
    }
}
