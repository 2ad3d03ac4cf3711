//! Who may do what: the hooks of the binary, by the settings of `janus_access`.
//!
//! Without these settings there are no hooks, and a connection, a subscription or a message costs no question. Tokens
//! decide first, the backend about what tokens leave open, and webhooks tell of both.

use std::time::Duration;

use janus_access::tokens::{SetupError, TokenHooks, Tokens};
use janus_access::{AccessSettings, Ask, Backend, Reporter, Webhooks};
use janus_core::Builder;
use janus_core::hooks::Hooks;

use crate::logging::counted;
use crate::settings::Settings;

/// The parts of the access rules that run beside the tree.
#[derive(Debug)]
pub(crate) struct Access {
    /// `None` without keys.
    tokens: Option<Tokens>,
    /// `None` if no setting has an address of a backend.
    backend: Option<Backend>,
    /// `None` before the hooks are made, and without a backend.
    reporter: Option<Reporter>,
}

/// The time for waiting events at the end, even if the drain has used up its own.
const LAST_EVENTS: Duration = Duration::from_secs(2);

/// Descriptors for connections to a backend in addition to the questions under way: webhooks, and keys of tokens.
const OTHER_REQUESTS: usize = 16;

impl Access {
    /// Reads the keys of tokens and the authorities of the backend.
    pub(crate) fn new(settings: &Settings) -> Result<Self, SetupError> {
        let tokens = Tokens::from_settings(&settings.access)?;
        if let Some(tokens) = &tokens {
            let verb = if settings.access.anonymous { "may have" } else { "need" };
            log::info!("clients {verb} a token; keys of token_keys: {}", tokens.stats().keys);
        }
        let backend = match has_backend(&settings.access) {
            true => Some(Backend::new(&settings.access)?),
            false => None,
        };
        Ok(Self { tokens, backend, reporter: None })
    }

    /// Adds the hooks to an instance.
    pub(crate) fn hooks(&mut self, builder: Builder, settings: &Settings) -> Builder {
        let origins = settings.core.allowed_origins.iter().map(String::as_str);
        let access = &settings.access;
        match (&self.tokens, &self.backend) {
            (None, None) => builder,
            (Some(tokens), None) => builder.hooks(TokenHooks::new(tokens.clone()).settings(access, origins)),
            (None, Some(backend)) => {
                let hooks = Webhooks::new(backend, access, ask(backend, access));
                self.tell(builder, access, hooks)
            }
            (Some(tokens), Some(backend)) => {
                let inner = ask(backend, access).allow_unasked(false);
                let hooks = TokenHooks::with_inner(tokens.clone(), inner).settings(access, origins);
                let hooks = Webhooks::new(backend, access, hooks);
                self.tell(builder, access, hooks)
            }
        }
    }

    fn tell<H: Hooks>(&mut self, builder: Builder, access: &AccessSettings, hooks: Webhooks<H>) -> Builder {
        if access.webhook_url.is_some() {
            self.reporter = Some(hooks.reporter());
        }
        builder.hooks(hooks)
    }

    /// The keys for tokens, if there are any.
    pub(crate) fn tokens(&self) -> Option<&Tokens> {
        self.tokens.as_ref()
    }

    /// Keeps the keys fresh. Never ends.
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
            log::warn!(
                lost;
                "{} lost, because webhook_url has not taken them in the time of the drain",
                counted(lost, "event")
            );
        }
    }
}

/// How many descriptors the connections to the operator's own servers may take.
pub(crate) fn descriptors(settings: &AccessSettings) -> usize {
    if has_backend(settings) { settings.ask_concurrency + OTHER_REQUESTS } else { 0 }
}

fn has_backend(settings: &AccessSettings) -> bool {
    Ask::is_needed(settings) || settings.webhook_url.is_some()
}

/// The questions to the backend, announced in the log.
fn ask(backend: &Backend, settings: &AccessSettings) -> Ask {
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
        log::info!(url; "{name}: {url}, as instance {}", backend.instance());
    }
    if !backend.signs() {
        log::warn!(
            "requests to the backend are not signed, and the backend cannot know that they are from this server; set \
             backend_secret"
        );
    }
    Ask::new(backend, settings)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backend_takes_descriptors_only_if_there_is_one() {
        let mut settings = AccessSettings::default();
        assert_eq!(descriptors(&settings), 0);
        settings.webhook_url = Some("http://127.0.0.1:1/".parse().unwrap());
        assert_eq!(descriptors(&settings), 256 + OTHER_REQUESTS);
    }
}
