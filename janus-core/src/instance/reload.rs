//! Other settings for a running instance: [`Janus::reload`].

use std::fmt;

use super::janus::Janus;
use crate::config::{Config, ConfigError, Reloaded};
#[cfg(feature = "tls")]
use crate::connection::tls::certificates::{CertificateError, Prepared};
use crate::wire::AllowedOrigins;

/// Why other settings are not taken over. Nothing has changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReloadError {
    /// A setting cannot work.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The files of certificates cannot be used, in the order of the settings.
    #[cfg(feature = "tls")]
    #[error("{}", in_words(.0))]
    Certificates(Vec<CertificateError>),
}

#[cfg(feature = "tls")]
fn in_words(errors: &[CertificateError]) -> String {
    let errors: Vec<String> = errors.iter().map(ToString::to_string).collect();
    errors.join("; ")
}

/// Other settings for an instance, checked and not in force yet: see [`Janus::prepare_reload`].
#[must_use = "the settings are put in force by `commit`"]
pub struct PreparedReload {
    janus: Janus,
    config: Config,
    #[cfg(feature = "tls")]
    certificates: Option<Prepared>,
}

impl Janus {
    /// Puts other settings in force, all of them or none. Clients stay connected.
    ///
    /// [`Reloaded`] says for each setting with another value when the change takes effect: at once, for new connections
    /// only, or at the next start; the documents of the settings say the same. A limit below the present use takes
    /// nothing away: further use is refused until there is room. Certificates are read again, as by
    /// [`reload_certificates`](Self::reload_certificates), but a pair with an error refuses the whole reload.
    ///
    /// Some limits belong to the program, and no reload changes them: those of
    /// [`SubscribeOptions`](crate::SubscribeOptions), and the time in which the program's own actors must stop, which is
    /// the [`drain_timeout`](Config::drain_timeout) of the start. Nor does a reload change how long the observers among
    /// the [hooks](crate::hooks) hear the last news at the end of the instance: the
    /// [`hook_timeout`](Config::hook_timeout) of the start, together for all news.
    ///
    /// With TLS listeners the call reads files, and blocks its thread for as long.
    ///
    /// ```
    /// use janus_core::{Config, Janus};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let config = Config { listen: vec!["127.0.0.1:0".parse()?], threads: 1, ..Config::default() };
    /// let janus = Janus::builder().config(config.clone()).start().await?;
    ///
    /// let reloaded = janus.reload(Config { max_topics: 500, threads: 2, ..config.clone() })?;
    /// assert_eq!(reloaded.applied, ["max_topics"]);
    /// assert_eq!(reloaded.needs_restart, ["threads"]);
    ///
    /// let error = janus.reload(Config { max_topics: 0, allow_publish: true, ..config }).unwrap_err();
    /// assert!(error.to_string().starts_with("max_topics = 0: expected"));
    /// assert_eq!((janus.config().max_topics, janus.config().allow_publish), (500, false));
    /// # janus.shutdown().await;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// See [`ReloadError`]. Nothing has changed.
    pub fn reload(&self, config: Config) -> Result<Reloaded, ReloadError> {
        self.prepare_reload(config).map(PreparedReload::commit)
    }

    /// Checks other settings and reads the files of certificates, without putting anything in force: for a program with
    /// settings of its own that are to change together with these, or not at all.
    ///
    /// With TLS listeners the call reads files, and blocks its thread for as long.
    ///
    /// # Errors
    ///
    /// See [`ReloadError`].
    pub fn prepare_reload(&self, config: Config) -> Result<PreparedReload, ReloadError> {
        config.validate_with(self.brings_tls())?;
        #[cfg(feature = "tls")]
        let certificates = match &self.tables().tls {
            Some(tls) if self.takes_tls(&config) => {
                tls.certificates.prepare(&config).map_err(ReloadError::Certificates)?
            }
            // Read as at the next start.
            _ if config.has_tls() && !self.brings_tls() => {
                Self::check_certificates(&config).map_err(|error| ReloadError::Certificates(vec![error]))?;
                None
            }
            _ => None,
        };
        Ok(PreparedReload {
            janus: self.clone(),
            config,
            #[cfg(feature = "tls")]
            certificates,
        })
    }

    /// The settings in force. Settings that need a restart are those of the start.
    ///
    /// ```
    /// # fn show(janus: &janus_core::Janus) {
    /// println!("{} topics at most", janus.config().max_topics);
    /// # }
    /// ```
    #[must_use]
    pub fn config(&self) -> std::sync::Arc<Config> {
        std::sync::Arc::clone(&self.tables().config())
    }

    /// Whether the embedder has a TLS configuration of its own.
    fn brings_tls(&self) -> bool {
        #[cfg(feature = "tls")]
        return self.tables().tls.as_ref().is_some_and(|tls| !tls.certificates.are_of_files());
        #[cfg(not(feature = "tls"))]
        false
    }

    /// Whether the settings of TLS apply to listeners that exist.
    fn takes_tls(&self, new: &Config) -> bool {
        self.tables().tls.is_some() && !self.brings_tls() && !new.tls_cert.is_empty()
    }
}

impl PreparedReload {
    /// Puts the settings in force.
    pub fn commit(self) -> Reloaded {
        let shared = &self.janus.inner.shared;
        let _one_at_a_time = shared.reloading.lock();
        let old = self.janus.config();
        let (config, reloaded) = old.change_to(self.config.clone(), self.janus.takes_tls(&self.config));
        #[cfg(feature = "tls")]
        if let (Some(tls), Some(certificates)) = (&shared.tls, self.certificates) {
            tls.certificates.replace(certificates);
            tls.certificates.warn();
        }
        shared.put_in_force(config.clone());
        shared.connections.follow(&old, &config);
        let origins = AllowedOrigins::new(config.allowed_origins.iter().map(String::as_str));
        shared.http_port.set_rules(origins, config.sse_retry);
        reloaded
    }
}

impl fmt::Debug for PreparedReload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PreparedReload").field("config", &self.config).finish_non_exhaustive()
    }
}
