//! Who may do what: the hooks of the binary, made from the settings.
//!
//! Without any setting there are no hooks, and no connection waits for any.

use std::time::Duration;

use janus_access::{AccessSettings, Ask, Backend, BackendError, Reporter, Webhooks};
use janus_core::{Builder, Config};

/// The hooks of a server, and what is left to do at the server's end.
#[derive(Debug, Default)]
pub(crate) struct Access {
    hooks: Option<Webhooks<Ask>>,
    reporter: Option<Reporter>,
}

/// How much longer a hook may take than the question to the backend, for the way to the hook and back.
const MARGIN: Duration = Duration::from_secs(1);

/// The time for waiting events at the end, even if the drain has used up its own.
const LAST_EVENTS: Duration = Duration::from_secs(2);

impl Access {
    /// Makes the hooks that the settings need.
    ///
    /// # Errors
    ///
    /// The authorities of `backend_ca` cannot be read.
    pub(crate) fn new(settings: &AccessSettings) -> Result<Self, BackendError> {
        if !Ask::is_needed(settings) && settings.webhook_url.is_none() {
            return Ok(Self::default());
        }
        let backend = Backend::new(settings)?;
        announce(settings, &backend);
        let hooks = Webhooks::new(&backend, settings, Ask::new(&backend, settings));
        let reporter = settings.webhook_url.is_some().then(|| hooks.reporter());
        Ok(Self { hooks: Some(hooks), reporter })
    }

    /// Adds the hooks to an instance with this configuration.
    pub(crate) fn install(&mut self, builder: Builder, config: Config, settings: &AccessSettings) -> Builder {
        match self.hooks.take() {
            Some(hooks) => builder.config(fit(config, settings)).hooks(hooks),
            None => builder.config(config),
        }
    }

    /// Sends the events that still wait, in the time that is left of the drain.
    pub(crate) async fn finish(&self, left: Duration) {
        let Some(reporter) = &self.reporter else { return };
        let lost = reporter.flush(left.max(LAST_EVENTS)).await;
        if lost > 0 {
            log::warn!("{lost} events for webhook_url are lost, because they were not taken in the time of the drain");
        }
    }
}

/// The settings of hooks in the core, which the binary does not show: the limits of questions to the backend must be
/// reached first.
fn fit(config: Config, settings: &AccessSettings) -> Config {
    let hook_timeout = config.hook_timeout.max(settings.ask_timeout + MARGIN);
    let max_hook_questions = config.max_hook_questions.max(settings.ask_concurrency * 2);
    Config { hook_timeout, max_hook_questions, ..config }
}

fn announce(settings: &AccessSettings, backend: &Backend) {
    let namespaces = settings.namespaces.values().chain([&settings.default_namespace]);
    let of_topics = namespaces.flat_map(|namespace| {
        [("ask_subscribe", &namespace.ask_subscribe), ("ask_publish", &namespace.ask_publish)]
    });
    let mut urls: Vec<_> = [("ask_connect", &settings.ask_connect), ("webhook_url", &settings.webhook_url)]
        .into_iter()
        .chain(of_topics)
        .filter_map(|(name, url)| Some((name, url.as_ref()?.to_string())))
        .collect();
    urls.sort_unstable();
    urls.dedup();
    for (name, url) in urls {
        log::info!("{name}: {url}, as instance {}", backend.instance());
    }
    if !backend.signs() {
        log::warn!(
            "requests to the backend are not signed, so the backend cannot know that they are from this server; set \
             backend_secret"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_asked_without_a_setting() {
        assert!(Access::new(&AccessSettings::default()).unwrap().hooks.is_none());
        let webhook_url = Some("http://127.0.0.1:1/".parse().unwrap());
        let access = Access::new(&AccessSettings { webhook_url, ..AccessSettings::default() }).unwrap();
        assert!(access.hooks.is_some() && access.reporter.is_some());
        let ask_connect = Some("http://127.0.0.1:1/".parse().unwrap());
        let access = Access::new(&AccessSettings { ask_connect, ..AccessSettings::default() }).unwrap();
        assert!(access.hooks.is_some() && access.reporter.is_none());
    }

    #[test]
    fn a_question_ends_before_its_hook() {
        let (ask_timeout, ask_concurrency) = (Duration::from_secs(60), 65_536);
        let config = fit(Config::default(), &AccessSettings { ask_timeout, ask_concurrency, ..Default::default() });
        assert!(config.hook_timeout > ask_timeout && config.max_hook_questions > ask_concurrency);
        assert_eq!(config.validate(), Ok(()));
        assert_eq!(fit(Config::default(), &AccessSettings::default()), Config::default());
    }
}
