//! Who may do what: the hooks of the binary, made from the settings. Tokens decide first, the backend is asked about the
//! rest, and webhooks are around both.
//!
//! Without any setting there are no hooks, and no connection waits for any.

use std::time::Duration;

use janus_access::tokens::{SetupError, TokenHooks, Tokens};
use janus_access::{AccessSettings, Ask, Backend, Reporter, Webhooks};
use janus_core::{Builder, Config};

/// The hooks of a server, and what is left to do while it runs and at its end.
#[derive(Debug, Default)]
pub(crate) struct Access {
    hooks: Option<Deciders>,
    tokens: Option<Tokens>,
    reporter: Option<Reporter>,
}

/// The hooks in all their combinations.
#[derive(Debug)]
enum Deciders {
    Tokens(TokenHooks),
    Backend(Webhooks<Ask>),
    Both(Webhooks<TokenHooks<Ask>>),
}

/// How much longer a hook may take than the question to the backend, for the way to the hook and back.
const MARGIN: Duration = Duration::from_secs(1);

/// The time for waiting events at the end, even if the drain has used up its own.
const LAST_EVENTS: Duration = Duration::from_secs(2);

impl Access {
    /// Makes the hooks that the settings need. `allowed_origins` are those of the instance.
    ///
    /// # Errors
    ///
    /// The keys for tokens or the authorities of `backend_ca` cannot be read.
    pub(crate) fn new(settings: &AccessSettings, allowed_origins: &[String]) -> Result<Self, SetupError> {
        let origins = allowed_origins.iter().map(String::as_str);
        let tokens = Tokens::from_settings(settings)?;
        if !Ask::is_needed(settings) && settings.webhook_url.is_none() {
            let hooks =
                tokens.clone().map(|tokens| Deciders::Tokens(TokenHooks::new(tokens).settings(settings, origins)));
            return Ok(Self { hooks, tokens, reporter: None });
        }
        let backend = Backend::new(settings)?;
        announce(settings, &backend);
        let ask = Ask::new(&backend, settings);
        let (hooks, reporter) = match &tokens {
            None => {
                let hooks = Webhooks::new(&backend, settings, ask);
                let reporter = hooks.reporter();
                (Deciders::Backend(hooks), reporter)
            }
            Some(tokens) => {
                // A topic that neither the token nor a question grants is refused.
                let hooks =
                    TokenHooks::with_inner(tokens.clone(), ask.allow_unasked(false)).settings(settings, origins);
                let hooks = Webhooks::new(&backend, settings, hooks);
                let reporter = hooks.reporter();
                (Deciders::Both(hooks), reporter)
            }
        };
        let reporter = settings.webhook_url.is_some().then_some(reporter);
        Ok(Self { hooks: Some(hooks), tokens, reporter })
    }

    /// Adds the hooks to an instance with this configuration.
    pub(crate) fn install(&mut self, builder: Builder, config: Config, settings: &AccessSettings) -> Builder {
        match self.hooks.take() {
            Some(Deciders::Tokens(hooks)) => builder.config(config).hooks(hooks),
            Some(Deciders::Backend(hooks)) => builder.config(fit(config, settings)).hooks(hooks),
            Some(Deciders::Both(hooks)) => builder.config(fit(config, settings)).hooks(hooks),
            None => builder.config(config),
        }
    }

    /// The keys for tokens, if there are any.
    pub(crate) fn tokens(&self) -> Option<&Tokens> {
        self.tokens.as_ref()
    }

    /// Keeps the keys for tokens fresh. Never ends.
    pub(crate) async fn run(&self) {
        match &self.tokens {
            Some(tokens) => tokens.run().await,
            None => std::future::pending().await,
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

/// The settings of hooks in the core, raised where needed: the limits of questions to the backend must be reached first.
fn fit(config: Config, settings: &AccessSettings) -> Config {
    let hook_timeout = config.hook_timeout.max(settings.ask_timeout + MARGIN);
    let max_hook_questions = config.max_hook_questions.max(settings.ask_concurrency * 2);
    Config { hook_timeout, max_hook_questions, ..config }
}

fn announce(settings: &AccessSettings, backend: &Backend) {
    let namespaces = settings.namespaces.values().chain([&settings.default_namespace]);
    let of_topics = namespaces
        .flat_map(|namespace| [("ask_subscribe", &namespace.ask_subscribe), ("ask_publish", &namespace.ask_publish)]);
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
        assert!(Access::new(&AccessSettings::default(), &[]).unwrap().hooks.is_none());
        let webhook_url = Some("http://127.0.0.1:1/".parse().unwrap());
        let access = Access::new(&AccessSettings { webhook_url, ..AccessSettings::default() }, &[]).unwrap();
        assert!(access.hooks.is_some() && access.reporter.is_some());
        let ask_connect = Some("http://127.0.0.1:1/".parse().unwrap());
        let access = Access::new(&AccessSettings { ask_connect, ..AccessSettings::default() }, &[]).unwrap();
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
