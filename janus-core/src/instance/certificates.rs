//! New certificates for a running instance: [`Janus::reload_certificates`].

use std::sync::atomic::Ordering;

use super::janus::Janus;
use crate::connection::tls::certificates::CertificateError;

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
        let Err(errors) = tls.certificates.reload() else { return Ok(()) };
        for error in &errors {
            log::error!("the earlier certificates stay in use: {error}");
        }
        shared.counters.certificates_refused.fetch_add(1, Ordering::Relaxed);
        errors.into_iter().next().map_or(Ok(()), Err)
    }
}
