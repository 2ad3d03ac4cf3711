//! The certificates of the TLS listeners, with their keys, and the authorities for certificates of clients.
//!
//! The files are read before any port is bound, and again at each reload. A reload replaces only what it could read
//! whole: a pair of certificate and key that is missing, malformed or mismatched leaves the earlier pair in place. Open
//! connections keep the keys of their own handshake.
//!
//! The provider of cryptography is named in each configuration. A program with a default provider of its own keeps it.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use parking_lot::RwLock;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, TrustAnchor};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{
    ClientHello, NoServerSessionStorage, ParsedCertificate, ProducesTickets, ResolvesServerCert, WebPkiClientVerifier,
};
use rustls::sign::CertifiedKey;
use rustls::{
    CipherSuite, ConfigBuilder, RootCertStore, ServerConfig, SupportedProtocolVersion, WantsVerifier, version,
};

use super::TlsPort;
use super::warnings::{self, CertificateWarning, Pair};
use crate::config::{ClientCertificates, Config, TlsVersion};
use crate::delivery::tls;

/// Why certificates cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CertificateError {
    /// A file cannot be read.
    #[error("{setting}: cannot read {}: {source}", file.display())]
    Unreadable {
        /// The setting with the path.
        setting: &'static str,
        /// The path from the settings.
        file: PathBuf,
        /// The error of the system.
        source: io::Error,
    },
    /// A file has other content than expected.
    #[error("{}: expected {expected}: {reason}", file.display())]
    Malformed {
        /// The path from the settings.
        file: PathBuf,
        /// The expected content.
        expected: &'static str,
        /// What is wrong with the content.
        reason: String,
    },
    /// The key is not the key of the certificate.
    #[error(
        "the key in {} is not the key of the first certificate in {}; the server's own certificate comes first",
        key.display(),
        certificate.display()
    )]
    Mismatched {
        /// The path of the certificate.
        certificate: PathBuf,
        /// The path of the key.
        key: PathBuf,
    },
    /// TLS cannot be set up for another reason, such as a system without random numbers.
    #[error("cannot set up TLS: {0}")]
    Tls(String),
}

/// A setting with files, and the content that is expected there.
#[derive(Clone, Copy)]
struct Content {
    setting: &'static str,
    expected: &'static str,
}

const CERTIFICATES: Content =
    Content { setting: "tls_cert", expected: "certificates in PEM, the server's own certificate first" };
const KEY: Content = Content { setting: "tls_key", expected: "a private key in PEM, without a password" };
const AUTHORITIES: Content = Content { setting: "tls_client_ca", expected: "certificates of authorities in PEM" };

/// The certificates in use. Each handshake takes the configuration of its moment.
pub(crate) struct Certificates(RwLock<Served>);

/// Certificates that were read for other settings, and are not in use yet.
pub(crate) struct Prepared(Served);

/// The files of the certificates, and the settings with an influence on handshakes.
#[derive(Debug)]
struct Source {
    pairs: Vec<(PathBuf, PathBuf)>,
    authorities: Option<PathBuf>,
    clients: ClientCertificates,
    oldest: TlsVersion,
    provider: Arc<CryptoProvider>,
}

struct Served {
    classic: Arc<ServerConfig>,
    http: Arc<ServerConfig>,
    /// `None` if the embedder brings its own configuration, which no reload touches.
    of_files: Option<(Arc<Source>, Loaded)>,
}

impl Served {
    fn new(mut config: ServerConfig, http_protocols: Vec<Vec<u8>>, of_files: Option<(Arc<Source>, Loaded)>) -> Self {
        tls::prepare(&mut config);
        config.alpn_protocols.clear();
        let mut http = config.clone();
        http.alpn_protocols = http_protocols;
        Self { classic: Arc::new(config), http: Arc::new(http), of_files }
    }

    /// Goes on with the tickets of the certificates in use, unless clients with these tickets were verified otherwise: a
    /// resumed session is not verified again.
    fn keep_tickets_of(&mut self, in_use: &Self) {
        let (Some((before, earlier)), Some((after, loaded))) = (&in_use.of_files, &mut self.of_files) else { return };
        let asks_the_same = (before.clients, before.oldest) == (after.clients, after.oldest);
        if asks_the_same && anchors(earlier) == anchors(loaded) {
            loaded.ticketer = Arc::clone(&earlier.ticketer);
            for config in [&mut self.classic, &mut self.http] {
                Arc::make_mut(config).ticketer = Arc::clone(&earlier.ticketer);
            }
        }
    }
}

/// The same files, read again.
struct Reread {
    /// The configuration in use before, which stands for all certificates in use.
    earlier: Arc<ServerConfig>,
    /// `None` if TLS cannot be set up.
    served: Option<Served>,
}

/// The content of the files.
#[derive(Clone)]
struct Loaded {
    pairs: Vec<Arc<CertifiedKey>>,
    authorities: Option<Arc<RootCertStore>>,
    ticketer: Arc<dyn ProducesTickets>,
}

impl fmt::Debug for Certificates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificates").field("source", &self.source()).finish_non_exhaustive()
    }
}

impl fmt::Debug for Prepared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let source = self.0.of_files.as_ref().map(|(source, _)| source);
        f.debug_struct("Prepared").field("source", &source).finish_non_exhaustive()
    }
}

impl Certificates {
    /// Reads the files of the settings.
    pub(crate) fn load(config: &Config) -> Result<Self, CertificateError> {
        let source = Arc::new(Source::of(config));
        let pairs = source.pairs.iter().map(|(certificate, key)| read_pair(certificate, key, &source.provider));
        let loaded = Loaded {
            pairs: pairs.collect::<Result<_, _>>()?,
            authorities: source.authorities.as_deref().map(read_authorities).transpose()?,
            ticketer: ticketer()?,
        };
        Ok(Self(RwLock::new(source.serve(loaded)?)))
    }

    /// Reads the files of other settings, to be put in use as a whole; `None` if the embedder brings its own
    /// configuration.
    ///
    /// # Errors
    ///
    /// All errors, in the order of the settings.
    pub(crate) fn prepare(&self, config: &Config) -> Result<Option<Prepared>, Vec<CertificateError>> {
        if !self.are_of_files() {
            return Ok(None);
        }
        let source = Arc::new(Source::of(config));
        let (mut pairs, mut errors) = (Vec::new(), Vec::new());
        for (certificate, key) in &source.pairs {
            match read_pair(certificate, key, &source.provider) {
                Ok(pair) => pairs.push(pair),
                Err(error) => errors.push(error),
            }
        }
        let authorities = source.authorities.as_deref().map(read_authorities).transpose();
        let authorities = authorities.map_err(|error| errors.push(error)).unwrap_or_default();
        if !errors.is_empty() {
            return Err(errors);
        }
        // Whether the earlier tickets stay is known when the certificates are put in use.
        let served = ticketer().and_then(|ticketer| source.serve(Loaded { pairs, authorities, ticketer }));
        served.map(|served| Some(Prepared(served))).map_err(|error| vec![error])
    }

    /// Puts certificates in use, for handshakes from then on.
    pub(crate) fn replace(&self, Prepared(mut served): Prepared) {
        let mut in_use = self.0.write();
        served.keep_tickets_of(&in_use);
        *in_use = served;
    }

    fn of_files(&self) -> Option<(Arc<Source>, Loaded)> {
        self.0.read().of_files.clone()
    }

    fn source(&self) -> Option<Arc<Source>> {
        self.0.read().of_files.as_ref().map(|(source, _)| Arc::clone(source))
    }

    /// Whether the certificates come from the files of the settings.
    pub(crate) fn are_of_files(&self) -> bool {
        self.0.read().of_files.is_some()
    }

    /// Serves the configuration of the embedder. For the HTTP port, `http/1.1` is negotiated unless the configuration
    /// names protocols.
    pub(crate) fn of_embedder(config: &ServerConfig) -> Self {
        let config = config.clone();
        let http = if config.alpn_protocols.is_empty() { vec![HTTP.to_vec()] } else { config.alpn_protocols.clone() };
        Self(RwLock::new(Served::new(config, http, None)))
    }

    /// The configuration for a handshake that begins now with these bytes of the client.
    pub(crate) fn config(&self, port: TlsPort, hello: &[u8]) -> Arc<ServerConfig> {
        let served = self.0.read();
        let config = match port {
            TlsPort::Classic => &served.classic,
            TlsPort::Http => &served.http,
        };
        // The order of an embedder stays.
        if served.of_files.is_none() || !tls::prefers_chacha20(hello) {
            return Arc::clone(config);
        }
        let mut config = ServerConfig::clone(config);
        config.ignore_client_order = false;
        Arc::new(config)
    }

    /// Warnings about the pairs in use at the time `now`.
    pub(crate) fn warnings(&self, now: SystemTime) -> Vec<CertificateWarning> {
        let Some((source, loaded)) = self.of_files() else { return Vec::new() };
        let pairs = source.pairs.iter().zip(&loaded.pairs);
        let pairs: Vec<_> = pairs.map(|((certificate, key), loaded)| Pair { certificate, key, loaded }).collect();
        warnings::warnings(&pairs, now, &source.provider)
    }

    /// When the first certificate in use expires, those of the chains included; `None` for certificates of the embedder.
    pub(crate) fn end(&self) -> Option<SystemTime> {
        let (source, loaded) = self.of_files()?;
        let certificates = loaded.pairs.iter().flat_map(|pair| &pair.cert);
        certificates.filter_map(|certificate| warnings::end_of(certificate, &source.provider)).min()
    }

    /// Writes the present warnings to the log.
    pub(crate) fn warn(&self) {
        for warning in self.warnings(SystemTime::now()) {
            log::warn!("{warning}");
        }
    }

    /// Whether clients may be asked for a certificate.
    pub(crate) fn asks_clients(&self) -> bool {
        self.source().is_none_or(|source| source.authorities.is_some())
    }

    /// Reads the files again. An error leaves the earlier pair, or the earlier authorities, in place.
    ///
    /// # Errors
    ///
    /// All errors, in the order of the settings.
    pub(crate) fn reload(&self) -> Result<(), Vec<CertificateError>> {
        loop {
            let Some((reread, errors)) = self.read_again() else { return Ok(()) };
            if self.put(reread) {
                return if errors.is_empty() { Ok(()) } else { Err(errors) };
            }
        }
    }

    /// Reads the files in use again; `None` for certificates of the embedder. Handshakes continue meanwhile.
    fn read_again(&self) -> Option<(Reread, Vec<CertificateError>)> {
        let (in_use, (source, earlier)) = {
            let served = self.0.read();
            (Arc::clone(&served.classic), served.of_files.clone()?)
        };
        let (mut loaded, mut errors) = (earlier.clone(), Vec::new());
        for ((certificate, key), pair) in source.pairs.iter().zip(&mut loaded.pairs) {
            match read_pair(certificate, key, &source.provider) {
                Ok(read) => *pair = read,
                Err(error) => errors.push(error),
            }
        }
        if let Some(file) = &source.authorities {
            match read_authorities(file) {
                Ok(read) => loaded.authorities = Some(read),
                Err(error) => errors.push(error),
            }
        }
        let ticketer = ticketer_after(&earlier, &loaded);
        let served = ticketer.and_then(|ticketer| source.serve(Loaded { ticketer, ..loaded }));
        let served = served.map_err(|error| errors.push(error)).ok();
        Some((Reread { earlier: in_use, served }, errors))
    }

    /// Puts files in use that were read again. Returns `false`, and changes nothing, if other certificates have been put
    /// in use since: the settings may name other files by now.
    fn put(&self, Reread { earlier, served }: Reread) -> bool {
        let mut in_use = self.0.write();
        let is_current = Arc::ptr_eq(&in_use.classic, &earlier);
        if is_current && let Some(served) = served {
            *in_use = served;
        }
        is_current
    }
}

/// The provider of cryptography, with AES-128-GCM and SHA-256 in front: a handshake with SHA-256, for which CPUs have
/// instructions, takes the server 30 µs less than one with SHA-384, and the client as much.
fn provider() -> CryptoProvider {
    let mut provider = aws_lc_rs::default_provider();
    let is_first = |cipher: CipherSuite| {
        matches!(
            cipher,
            CipherSuite::TLS13_AES_128_GCM_SHA256
                | CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256
                | CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256
        )
    };
    provider.cipher_suites.sort_by_key(|cipher| !is_first(cipher.suite()));
    provider
}

/// The authorities that decide about certificates of clients.
fn anchors(loaded: &Loaded) -> Option<&[TrustAnchor<'static>]> {
    loaded.authorities.as_ref().map(|authorities| &*authorities.roots)
}

/// The tickets after a change. A resumed session is not verified again, so tickets from before must not outlive a change
/// of authorities.
fn ticketer_after(earlier: &Loaded, loaded: &Loaded) -> Result<Arc<dyn ProducesTickets>, CertificateError> {
    if anchors(earlier) == anchors(loaded) { Ok(Arc::clone(&earlier.ticketer)) } else { ticketer() }
}

fn ticketer() -> Result<Arc<dyn ProducesTickets>, CertificateError> {
    aws_lc_rs::Ticketer::new().map_err(|error| CertificateError::Tls(error.to_string()))
}

/// The name of HTTP/1.1 in ALPN. HTTP/2 is not offered: there the queue, the policy for slow consumers and the direct
/// path would all be per stream.
const HTTP: &[u8] = b"http/1.1";

impl Source {
    fn of(config: &Config) -> Self {
        Self {
            pairs: config.tls_cert.iter().cloned().zip(config.tls_key.iter().cloned()).collect(),
            authorities: config.tls_client_ca.clone().filter(|_| config.tls_client != ClientCertificates::Off),
            clients: config.tls_client,
            oldest: config.tls_min_version,
            provider: Arc::new(provider()),
        }
    }

    fn serve(self: &Arc<Self>, loaded: Loaded) -> Result<Served, CertificateError> {
        let versions: &[&SupportedProtocolVersion] = match self.oldest {
            TlsVersion::V1_2 => &[&version::TLS13, &version::TLS12],
            TlsVersion::V1_3 => &[&version::TLS13],
        };
        let builder: ConfigBuilder<ServerConfig, WantsVerifier> =
            ServerConfig::builder_with_provider(Arc::clone(&self.provider))
                .with_protocol_versions(versions)
                .map_err(|error| CertificateError::Tls(error.to_string()))?;
        let builder = match &loaded.authorities {
            Some(authorities) => builder.with_client_cert_verifier(self.verifier(authorities)?),
            None => builder.with_no_client_auth(),
        };
        let mut config = builder.with_cert_resolver(Arc::new(ByName(loaded.pairs.clone())));
        // Clients with OpenSSL have AES-256 in front of equally good ciphers.
        config.ignore_client_order = true;
        config.ticketer = Arc::clone(&loaded.ticketer);
        // Clients without tickets make a full handshake; the server remembers no sessions.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        Ok(Served::new(config, vec![HTTP.to_vec()], Some((Arc::clone(self), loaded))))
    }

    fn verifier(&self, authorities: &Arc<RootCertStore>) -> Result<Arc<dyn ClientCertVerifier>, CertificateError> {
        let builder = WebPkiClientVerifier::builder_with_provider(Arc::clone(authorities), Arc::clone(&self.provider));
        let builder = match self.clients {
            ClientCertificates::Required => builder,
            ClientCertificates::Off | ClientCertificates::Optional => builder.allow_unauthenticated(),
        };
        builder.build().map_err(|error| CertificateError::Tls(error.to_string()))
    }
}

/// The first pair whose certificate has the name that the client asks for, and otherwise the first of all.
#[derive(Debug)]
struct ByName(Vec<Arc<CertifiedKey>>);

impl ResolvesServerCert for ByName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let Self(pairs) = self;
        let name = hello.server_name().filter(|_| pairs.len() > 1).and_then(|name| ServerName::try_from(name).ok());
        let named = name.and_then(|name| pairs.iter().find(|pair| has_name(pair, &name)));
        named.or_else(|| pairs.first()).cloned()
    }
}

pub(super) fn has_name(pair: &CertifiedKey, name: &ServerName<'_>) -> bool {
    let certificate = pair.end_entity_cert().and_then(ParsedCertificate::try_from);
    certificate.is_ok_and(|certificate| rustls::client::verify_server_name(&certificate, name).is_ok())
}

fn read_pair(certificate: &Path, key: &Path, provider: &CryptoProvider) -> Result<Arc<CertifiedKey>, CertificateError> {
    let chain = read_certificates(certificate, CERTIFICATES)?;
    let private =
        PrivateKeyDer::from_pem_slice(&read(key, KEY)?).map_err(|error| malformed(key, KEY, &words(&error)))?;
    // The key comes first, because an error about the key does not concern the certificate's file.
    let signing = provider.key_provider.load_private_key(private).map_err(|error| malformed(key, KEY, &error))?;
    let pair = CertifiedKey::new(chain, signing);
    match pair.keys_match() {
        Ok(()) | Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::Unknown)) => Ok(Arc::new(pair)),
        Err(rustls::Error::InconsistentKeys(_)) => {
            Err(CertificateError::Mismatched { certificate: certificate.into(), key: key.into() })
        }
        Err(error) => Err(malformed(certificate, CERTIFICATES, &error)),
    }
}

fn read_authorities(file: &Path) -> Result<Arc<RootCertStore>, CertificateError> {
    let mut authorities = RootCertStore::empty();
    for certificate in read_certificates(file, AUTHORITIES)? {
        authorities.add(certificate).map_err(|error| malformed(file, AUTHORITIES, &error))?;
    }
    Ok(Arc::new(authorities))
}

/// At least one certificate.
fn read_certificates(file: &Path, content: Content) -> Result<Vec<CertificateDer<'static>>, CertificateError> {
    let text = read(file, content)?;
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    let certificates = certificates.map_err(|error| malformed(file, content, &words(&error)))?;
    match certificates.is_empty() {
        true => Err(malformed(file, content, &words(&pem::Error::NoItemsFound))),
        false => Ok(certificates),
    }
}

fn read(file: &Path, Content { setting, .. }: Content) -> Result<Vec<u8>, CertificateError> {
    fs::read(file).map_err(|source| CertificateError::Unreadable { setting, file: file.into(), source })
}

fn malformed(file: &Path, Content { expected, .. }: Content, reason: &dyn fmt::Display) -> CertificateError {
    CertificateError::Malformed { file: file.into(), expected, reason: reason.to_string() }
}

/// An error of PEM, without the words that only name a type of Rust.
fn words(error: &pem::Error) -> String {
    match error {
        pem::Error::NoItemsFound => "the file has none".to_owned(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertifiedKey as Made, generate_simple_self_signed};
    use tempfile::TempDir;

    use super::*;

    fn made(name: &str) -> (String, String) {
        let Made { cert, signing_key } = generate_simple_self_signed([name.to_owned()]).unwrap();
        (cert.pem(), signing_key.serialize_pem())
    }

    /// Settings whose files are in a folder, each under the name of its key.
    fn settings(folder: &TempDir, files: &[(&str, &str)]) -> Config {
        for (name, text) in files {
            fs::write(folder.path().join(name), text).unwrap();
        }
        let path = |name: &str| folder.path().join(name);
        Config { tls_cert: vec![path("cert")], tls_key: vec![path("key")], ..Config::default() }
    }

    /// The error without the folder's name.
    fn error(folder: &TempDir, config: &Config) -> String {
        let error = Certificates::load(config).unwrap_err().to_string();
        error.replace(&format!("{}/", folder.path().display()), "")
    }

    fn served(certificates: &Certificates) -> Vec<u8> {
        let (_, loaded) = certificates.of_files().unwrap();
        loaded.pairs[0].cert[0].to_vec()
    }

    #[test]
    fn a_key_may_be_in_the_file_of_its_certificate_with_windows_line_ends() {
        let folder = TempDir::new().unwrap();
        let (cert, key) = made("a.example");
        let both = format!("{key}{cert}").replace('\n', "\r\n");
        let config = settings(&folder, &[("cert", &both), ("key", &both)]);
        Certificates::load(&config).unwrap();
    }

    #[test]
    fn an_error_names_the_file_and_the_expected_content() {
        let folder = TempDir::new().unwrap();
        let ((cert, key), (other, _)) = (made("a.example"), made("b.example"));
        let config = settings(&folder, &[("cert", &cert)]);
        assert!(error(&folder, &config).starts_with("tls_key: cannot read key: "));
        settings(&folder, &[("key", &cert)]);
        assert_eq!(error(&folder, &config), format!("key: expected {}: the file has none", KEY.expected));
        settings(&folder, &[("key", &key), ("cert", "nonsense")]);
        assert_eq!(error(&folder, &config), format!("cert: expected {}: the file has none", CERTIFICATES.expected));
        settings(&folder, &[("cert", &format!("{other}{cert}"))]);
        let expected =
            "the key in key is not the key of the first certificate in cert; the server's own certificate comes first";
        assert_eq!(error(&folder, &config), expected);
    }

    #[test]
    fn a_reload_replaces_a_good_pair_and_keeps_the_earlier_pair_otherwise() {
        let folder = TempDir::new().unwrap();
        let ((cert, key), (new_cert, new_key)) = (made("a.example"), made("b.example"));
        let config = settings(&folder, &[("cert", &cert), ("key", &key)]);
        let certificates = Certificates::load(&config).unwrap();
        let first = served(&certificates);
        // A certificate is written before its key.
        settings(&folder, &[("cert", &new_cert)]);
        let errors = certificates.reload().unwrap_err();
        assert!(matches!(errors[..], [CertificateError::Mismatched { .. }]), "{errors:?}");
        assert_eq!(served(&certificates), first);
        settings(&folder, &[("key", &new_key)]);
        certificates.reload().unwrap();
        assert_ne!(served(&certificates), first);
    }

    fn replace(certificates: &Certificates, config: &Config) {
        certificates.replace(certificates.prepare(config).unwrap().unwrap());
    }

    #[test]
    fn files_that_were_read_again_do_not_undo_a_reload_of_other_settings() {
        let folders = ["a.example", "b.example"].map(|name| (TempDir::new().unwrap(), made(name)));
        let [first, second] =
            folders.each_ref().map(|(folder, (cert, key))| settings(folder, &[("cert", cert), ("key", key)]));
        let certificates = Certificates::load(&first).unwrap();
        let (reread, errors) = certificates.read_again().unwrap();
        assert!(errors.is_empty(), "{errors:?}");
        replace(&certificates, &second);
        let of_second = served(&certificates);
        assert!(!certificates.put(reread), "the files are no longer those of the settings");
        assert_eq!(served(&certificates), of_second);
        certificates.reload().unwrap();
        assert_eq!(served(&certificates), of_second);
    }

    #[test]
    fn tickets_do_not_outlive_a_change_of_authorities_between_preparing_and_committing_a_reload() {
        let folder = TempDir::new().unwrap();
        let (cert, key) = made("a.example");
        let of_files = settings(&folder, &[("cert", &cert), ("key", &key), ("ca", &made("ca.example").0)]);
        let config = Config {
            tls_client_ca: Some(folder.path().join("ca")),
            tls_client: ClientCertificates::Required,
            ..of_files
        };
        let certificates = Certificates::load(&config).unwrap();
        let tickets = || certificates.of_files().unwrap().1.ticketer;
        let first = tickets();
        let prepared = certificates.prepare(&config).unwrap().unwrap();
        settings(&folder, &[("ca", &made("other.example").0)]);
        certificates.reload().unwrap();
        let second = tickets();
        assert!(!Arc::ptr_eq(&first, &second));
        certificates.replace(prepared);
        let third = tickets();
        assert!(!Arc::ptr_eq(&second, &third), "the authorities have changed once more");
        // The files of now.
        replace(&certificates, &config);
        let fourth = tickets();
        assert!(!Arc::ptr_eq(&third, &fourth));
        replace(&certificates, &config);
        assert!(Arc::ptr_eq(&fourth, &tickets()), "nothing has changed");
        assert!(Arc::ptr_eq(&fourth, &certificates.config(TlsPort::Http, &[]).ticketer), "handshakes use the same");
    }
}
