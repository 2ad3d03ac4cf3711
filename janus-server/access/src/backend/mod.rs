//! A small HTTP client for the operator's own servers: the backend that is asked, and the server with keys of tokens.
//!
//! | file | content |
//! |---|---|
//! | `mod.rs` | [`Backend`]: what all requests share; [`Client`]: requests with a deadline and a limit for the answer |
//! | `url.rs` | [`Url`]: an address as in the settings |
//! | `names.rs` | the lookup of host names, away from the threads that call |
//! | `tests.rs` | hostile servers |
//!
//! The client trusts no answer: the time and the size are limited, certificates are verified, and a redirect is an
//! answer like any other, because a backend must not lead the server to addresses that only the server can reach. No
//! variable of the environment names a proxy. Callers limit the number of requests at once.

mod names;
#[cfg(test)]
mod tests;
mod url;

use std::error::Error;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::header::HeaderMap;
use hyper::{Method, Request, StatusCode};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};
use tokio::time::timeout;

use crate::settings::AccessSettings;
use crate::signature::Signer;
use janus_core::ConfigError;
use names::Names;
pub use url::{Url, UrlError};

/// Bytes of an answer's body, for answers of a few fields.
pub(crate) const ANSWER_BYTES: usize = 64 << 10;

/// How long a connection without a request is kept. Shorter than the 60 s or more after which most servers and load
/// balancers close such a connection, so that few requests meet a connection that is about to be closed.
const IDLE: Duration = Duration::from_secs(30);

/// Bytes of the head of an answer.
const HEAD_BYTES: usize = 64 << 10;

/// An HTTP client. Clones share their connections.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    http: legacy::Client<HttpsConnector<HttpConnector<Names>>, Full<Bytes>>,
}

/// The limits of one request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// From the lookup of the name to the last byte of the answer.
    pub(crate) time: Duration,
    /// Bytes of the answer's body.
    pub(crate) body: usize,
}

/// An answer of any status, read whole.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CallError {
    #[error("no answer within {0:?}")]
    TooLate(Duration),
    #[error("the answer is longer than {0} bytes")]
    TooLong(usize),
    /// The connection, the TLS handshake or the answer failed.
    #[error("{0}")]
    Failed(String),
}

/// The operator's own servers, as far as all requests share something: connections, trusted authorities, keys of
/// signatures, and the name of this instance. Clones share everything.
///
/// The example of [`Ask`](crate::Ask) has the use.
#[derive(Clone, Debug)]
pub struct Backend {
    pub(crate) client: Client,
    pub(crate) signer: Signer,
    /// A random name, new with each start.
    instance: Arc<str>,
}

impl Backend {
    /// Reads the authorities that may issue certificates, of the system or of `backend_ca`.
    ///
    /// # Errors
    ///
    /// A setting is not accepted, or the file has no authorities.
    pub fn new(settings: &AccessSettings) -> Result<Self, BackendError> {
        settings.validate()?;
        Ok(Self {
            client: Client::new(settings.backend_ca.as_deref(), settings.ask_concurrency)?,
            signer: Signer::new(&settings.backend_secret),
            instance: format!("{:016x}", fastrand::u64(..)).into(),
        })
    }

    /// The same instance with other settings: authorities, connections and keys of signatures.
    ///
    /// # Errors
    ///
    /// As [`new`](Self::new).
    pub fn with_settings(&self, settings: &AccessSettings) -> Result<Self, BackendError> {
        Ok(Self { instance: Arc::clone(&self.instance), ..Self::new(settings)? })
    }

    /// The name of this instance in all requests, new with each start. What the backend knows of an instance of another
    /// name on this machine is no longer true.
    #[must_use]
    pub fn instance(&self) -> &str {
        &self.instance
    }

    /// Whether requests are signed, with `backend_secret`.
    #[must_use]
    pub fn signs(&self) -> bool {
        self.signer.has_keys()
    }

    /// The name of a connection, which is never used again.
    pub(crate) fn name_of(&self, connection: u64) -> String {
        format!("{}/{connection}", self.instance)
    }
}

/// Why the operator's own servers cannot be reached.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BackendError {
    /// A setting is not accepted.
    #[error(transparent)]
    Setting(#[from] ConfigError),
    /// The file of authorities cannot be read, or has no certificates.
    #[error("backend_ca = {:?}: expected certificates of authorities in PEM: {reason}", file.display())]
    Authorities {
        /// The path from the settings.
        file: PathBuf,
        /// What is wrong with the file.
        reason: String,
    },
    /// TLS cannot be set up.
    #[error("cannot set up TLS for the backend: {0}")]
    Tls(String),
}

impl Client {
    /// A client that trusts the authorities of the file, or those of the system without a file, and that keeps up to
    /// `idle` connections to each server for further requests. Reads files.
    pub(crate) fn new(authorities: Option<&Path>, idle: usize) -> Result<Self, BackendError> {
        let roots = match authorities {
            Some(file) => read_authorities(file)?,
            None => system_authorities(),
        };
        // The provider is named, so that a program with another default provider keeps its own.
        let tls = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| BackendError::Tls(error.to_string()))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let mut tcp = HttpConnector::new_with_resolver(Names::default());
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        let connector =
            HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1().wrap_connector(tcp);
        let http = legacy::Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .pool_max_idle_per_host(idle)
            .http1_max_buf_size(HEAD_BYTES)
            .build(connector);
        Ok(Self { http })
    }

    /// Fetches an address.
    ///
    /// Cancel safe: the connection of a dropped request is closed.
    pub(crate) async fn get(&self, url: &Url, headers: HeaderMap, limits: Limits) -> Result<Answer, CallError> {
        self.call(Method::GET, url, headers, Bytes::new(), limits).await
    }

    /// Posts a body to an address.
    ///
    /// Cancel safe: the connection of a dropped request is closed.
    pub(crate) async fn post(
        &self,
        url: &Url,
        headers: HeaderMap,
        body: Bytes,
        limits: Limits,
    ) -> Result<Answer, CallError> {
        self.call(Method::POST, url, headers, body, limits).await
    }

    async fn call(
        &self,
        method: Method,
        url: &Url,
        headers: HeaderMap,
        body: Bytes,
        limits: Limits,
    ) -> Result<Answer, CallError> {
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method;
        *request.uri_mut() = url.uri().clone();
        *request.headers_mut() = headers;
        let answer = timeout(limits.time, self.exchange(request, limits.body)).await;
        answer.unwrap_or(Err(CallError::TooLate(limits.time)))
    }

    async fn exchange(&self, request: Request<Full<Bytes>>, limit: usize) -> Result<Answer, CallError> {
        let answer = self.http.request(request).await.map_err(|error| CallError::Failed(in_full(&error)))?;
        let (head, body) = answer.into_parts();
        let body = match Limited::new(body, limit).collect().await {
            Ok(body) => body.to_bytes(),
            Err(error) if error.is::<LengthLimitError>() => return Err(CallError::TooLong(limit)),
            Err(error) => return Err(CallError::Failed(in_full(&*error))),
        };
        Ok(Answer { status: head.status, headers: head.headers, body })
    }
}

/// An error with all its causes: hyper's own text is only "client error".
fn in_full(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.ends_with(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}

fn read_authorities(file: &Path) -> Result<RootCertStore, BackendError> {
    let refuse = |reason: String| BackendError::Authorities { file: file.into(), reason };
    let pem = std::fs::read(file).map_err(|error: io::Error| refuse(error.to_string()))?;
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let certificate = certificate.map_err(|error| refuse(error.to_string()))?;
        roots.add(certificate).map_err(|error| refuse(error.to_string()))?;
    }
    if roots.is_empty() { Err(refuse("the file has no certificate".to_owned())) } else { Ok(roots) }
}

/// The authorities that the system trusts. Without any, each `https` address fails, and the error names the reason.
fn system_authorities() -> RootCertStore {
    let found = rustls_native_certs::load_native_certs();
    for error in &found.errors {
        log::warn!("some authorities of the system cannot be read: {error}");
    }
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(found.certs);
    roots
}
