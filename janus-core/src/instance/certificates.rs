//! New certificates for a running instance, [`Janus::reload_certificates`], and warnings about certificates.

use std::sync::atomic::Ordering;
use std::time::SystemTime;

use super::janus::Janus;
use crate::config::Config;
use crate::connection::tls::certificates::{CertificateError, Certificates};
use crate::connection::tls::warnings::CertificateWarning;

impl Janus {
    /// Reads the files of [`tls_cert`](crate::Config::tls_cert), [`tls_key`](crate::Config::tls_key) and
    /// [`tls_client_ca`](crate::Config::tls_client_ca) again. New connections are served with the new certificates; open
    /// connections stay as they are.
    ///
    /// A pair of certificate and key is replaced as a whole or not at all: a pair with an error leaves the earlier pair
    /// in use, and does not hold up the other pairs. So a program that reloads between the writes of a certificate and
    /// of its key only has to reload once more.
    ///
    /// Without TLS listeners, and with [`Builder::tls`](crate::Builder::tls), there is nothing to read. The call reads
    /// files, and blocks its thread for as long.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use janus_core::Janus;
    ///
    /// /// Looks for new certificates twice a day.
    /// async fn renew(janus: Janus) {
    ///     loop {
    ///         tokio::time::sleep(Duration::from_secs(12 * 60 * 60)).await;
    ///         let janus = janus.clone();
    ///         match tokio::task::spawn_blocking(move || janus.reload_certificates()).await {
    ///             Ok(Ok(())) => {}
    ///             // The log has a line for each error.
    ///             Ok(Err(error)) => eprintln!("the earlier certificate stays in use: {error}"),
    ///             Err(panic) => eprintln!("{panic}"),
    ///         }
    ///     }
    /// }
    /// ```
    ///
    /// # Errors
    ///
    /// The first error, in the order of the settings. Each error is an `error` line of the log, and counted in
    /// [`Stats::certificates_refused`](crate::Stats::certificates_refused).
    pub fn reload_certificates(&self) -> Result<(), CertificateError> {
        let shared = self.tables();
        let Some(tls) = &shared.tls else { return Ok(()) };
        let reloaded = tls.certificates.reload();
        tls.certificates.warn();
        let Err(errors) = reloaded else { return Ok(()) };
        for error in &errors {
            log::error!("the earlier certificates stay in use: {error}");
        }
        shared.counters.certificates_refused.fetch_add(1, Ordering::Relaxed);
        errors.into_iter().next().map_or(Ok(()), Err)
    }
    /// Warnings about the certificates in use: expired, or nearly; not valid yet; with a name that an earlier
    /// certificate has as well; with a key that every user of the machine can read. The log has them at the start and
    /// after each reload. A program that runs for months asks once a day, because time passes without a reload.
    ///
    /// Without TLS listeners, and with [`Builder::tls`](crate::Builder::tls), there are none. The call looks at files,
    /// and blocks its thread for as long.
    ///
    /// ```
    /// # fn warn(janus: &janus_core::Janus) {
    /// for warning in janus.certificate_warnings() {
    ///     eprintln!("{warning}");
    /// }
    /// # }
    /// ```
    #[must_use]
    pub fn certificate_warnings(&self) -> Vec<CertificateWarning> {
        let tls = &self.tables().tls;
        tls.as_ref().map_or_else(Vec::new, |tls| tls.certificates.warnings(SystemTime::now()))
    }

    /// When the first certificate in use expires, those of the chains included. `None` without TLS listeners, and with
    /// [`Builder::tls`](crate::Builder::tls).
    #[must_use]
    pub fn certificates_end(&self) -> Option<SystemTime> {
        self.tables().tls.as_ref()?.certificates.end()
    }

    /// Reads the files of [`tls_cert`](Config::tls_cert), [`tls_key`](Config::tls_key) and
    /// [`tls_client_ca`](Config::tls_client_ca) as a start does, and returns what the start would warn of. Starts
    /// nothing. The call reads files, and blocks its thread for as long.
    ///
    /// ```
    /// use janus_core::{Config, Janus};
    ///
    /// let config = Config { tls_cert: vec!["cert.pem".into()], tls_key: vec!["key.pem".into()], ..Config::default() };
    /// let error = Janus::check_certificates(&config).unwrap_err();
    /// assert!(error.to_string().starts_with("tls_cert: cannot read cert.pem: "));
    /// ```
    ///
    /// # Errors
    ///
    /// The error with which a start would fail.
    pub fn check_certificates(config: &Config) -> Result<Vec<CertificateWarning>, CertificateError> {
        Ok(Certificates::load(config)?.warnings(SystemTime::now()))
    }
}
