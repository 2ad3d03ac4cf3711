//! Who may do what: the hooks of the binary, by the settings of `janus_access`.
//!
//! Without these settings the hooks are not needed, and a connection, a subscription or a message costs no question.
//! Tokens decide first, the backend about what tokens leave open, and webhooks tell of both. A reload replaces the
//! rules; what rules have learnt (fetched keys, kept answers, events that wait) stays where its settings stay.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use futures_util::future::join_all;
use janus_access::tokens::{PreparedTokens, SetupError, TokenHooks, Tokens};
use janus_access::{AccessSettings, Ask, Backend, Reporter, Webhooks};
use janus_core::SlowClient;
use janus_core::hooks::{Client, ConnectRequest, Denied, Disconnect, DropReason, Hooks, Identity};
use janus_core::wire::{Publication, TopicName};
use parking_lot::Mutex;
use tokio::task::JoinHandle;

use crate::logging::counted;
use crate::settings::Settings;

/// The access rules in force, and their parts that run beside the tree. Clones are the same.
#[derive(Clone, Debug)]
pub(crate) struct Access {
    tokens: Tokens,
    rules: Arc<ArcSwap<Rules>>,
    /// Events for an address that a reload took away, and the tasks that wait until they are sent.
    orphans: Arc<Mutex<Vec<Orphan>>>,
}

/// Events that wait for an address without a setting, and the task that sends them.
type Orphan = (JoinHandle<()>, Reporter);

/// The rules of one set of settings.
#[derive(Debug)]
struct Rules {
    decide: Decide,
    /// `None` if no setting has an address of a backend.
    backend: Option<Backend>,
    ask: Option<Ask>,
    /// `None` without `webhook_url`.
    reporter: Option<Reporter>,
    settings: AccessSettings,
}

/// The hooks that decide.
#[derive(Debug)]
enum Decide {
    /// Without rules.
    Open,
    Tokens(TokenHooks),
    Backend(Webhooks<Ask>),
    Both(Box<Webhooks<TokenHooks<Ask>>>),
}

/// Rules of other settings, not in force yet.
#[derive(Debug)]
pub(crate) struct PreparedAccess {
    tokens: PreparedTokens,
    backend: Option<Backend>,
    settings: AccessSettings,
    origins: Vec<String>,
}

/// The time for waiting events at the end, even if the drain has used up its own.
const LAST_EVENTS: Duration = Duration::from_secs(2);

/// The time for waiting events whose address a reload has taken away: as long as events are repeated in any case.
const ORPHANED_EVENTS: Duration = Duration::from_secs(300);

/// Descriptors for connections to a backend in addition to the questions under way: webhooks, and keys of tokens.
const OTHER_REQUESTS: usize = 16;

impl Access {
    /// Reads the keys of tokens and the authorities of the backend.
    pub(crate) fn new(settings: &Settings) -> Result<Self, SetupError> {
        let tokens = Tokens::that_follow(&settings.access)?;
        if tokens.is_in_use() {
            let verb = if settings.access.anonymous { "may have" } else { "need" };
            log::info!("clients {verb} a token; keys of token_keys: {}", tokens.stats().keys);
        }
        let backend = match has_backend(&settings.access) {
            true => Some(Backend::new(&settings.access)?),
            false => None,
        };
        let rules = Rules::new(None, &tokens, backend, settings.access.clone(), &settings.core.allowed_origins);
        Ok(Self { tokens, rules: Arc::new(ArcSwap::from_pointee(rules)), orphans: Arc::default() })
    }

    /// Reads the files of other settings, and changes nothing.
    pub(crate) fn prepare(&self, settings: &Settings) -> Result<PreparedAccess, SetupError> {
        let access = settings.access.clone();
        let rules = self.rules.load();
        let backend = match (&rules.backend, has_backend(&access)) {
            (_, false) => None,
            // The file of authorities may have another content.
            (Some(backend), true) if access.backend_ca.is_none() && same_backend(&rules.settings, &access) => {
                Some(backend.clone())
            }
            (Some(backend), true) => Some(backend.with_settings(&access)?),
            (None, true) => Some(Backend::new(&access)?),
        };
        let origins = settings.core.allowed_origins.clone();
        Ok(PreparedAccess { tokens: self.tokens.prepare(&access)?, backend, settings: access, origins })
    }

    /// Puts other rules in force, for clients and questions from then on. Must be called on the runtime of the hooks.
    pub(crate) fn follow(&self, prepared: PreparedAccess) {
        let PreparedAccess { tokens, backend, settings, origins } = prepared;
        self.tokens.follow(tokens);
        let before = self.rules.load_full();
        let rules = Rules::new(Some(&before), &self.tokens, backend, settings, &origins);
        let is_told = rules.reporter.is_some();
        self.rules.store(Arc::new(rules));
        if let Some(reporter) = before.reporter.clone().filter(|_| !is_told) {
            let mut orphans = self.orphans.lock();
            orphans.retain(|(sending, _)| !sending.is_finished());
            let events = reporter.clone();
            orphans.push((tokio::spawn(async move { lose(&events, ORPHANED_EVENTS).await }), reporter));
        }
    }

    /// The keys for tokens.
    pub(crate) fn tokens(&self) -> &Tokens {
        &self.tokens
    }

    /// The questions to the backend, and the reports to it, as far as the settings have any.
    pub(crate) fn backends(&self) -> (Option<Ask>, Option<Reporter>) {
        let rules = self.rules.load();
        let ask = rules.ask.clone().filter(|_| Ask::is_needed(&rules.settings));
        (ask, rules.reporter.clone())
    }

    /// Keeps the keys fresh. Never ends.
    pub(crate) async fn run(&self) {
        self.tokens.run().await;
    }

    /// Sends the events that still wait, in the time that is left of the drain.
    pub(crate) async fn finish(&self, left: Duration) {
        let orphans = std::mem::take(&mut *self.orphans.lock()).into_iter();
        let orphans = orphans.filter(|(sending, _)| !sending.is_finished()).map(|(sending, reporter)| {
            sending.abort();
            reporter
        });
        let reporters: Vec<Reporter> = self.rules.load().reporter.iter().cloned().chain(orphans).collect();
        join_all(reporters.iter().map(|reporter| lose(reporter, left.max(LAST_EVENTS)))).await;
    }

    fn decide(&self) -> Arc<Rules> {
        self.rules.load_full()
    }
}

/// Sends the events that wait, and names the rest.
async fn lose(reporter: &Reporter, within: Duration) {
    let lost = reporter.flush(within).await;
    if lost > 0 {
        log::warn!(lost; "{} lost: webhook_url has not taken them in time", counted(lost, "event"));
    }
}

impl Rules {
    fn new(
        before: Option<&Self>,
        tokens: &Tokens,
        backend: Option<Backend>,
        settings: AccessSettings,
        origins: &[String],
    ) -> Self {
        let origins = || origins.iter().map(String::as_str);
        let has_tokens = tokens.is_in_use();
        let ask = backend.as_ref().map(|backend| {
            // With the same settings, answers and breakers stay.
            let same = before.filter(|before| before.settings == settings && before.settings.backend_ca.is_none());
            let ask = same.and_then(|before| before.ask.clone()).unwrap_or_else(|| ask(backend, &settings));
            // Without tokens, `ask_connect` alone says what a question without an address means.
            ask.allow_unasked(!has_tokens && settings.ask_connect.is_none())
        });
        let continues = backend.as_ref().and_then(|backend| {
            before.and_then(|before| before.reporter.clone()).filter(|reporter| reporter.follow(backend, &settings))
        });
        let token_hooks = |tokens: &Tokens| TokenHooks::new(tokens.clone()).settings(&settings, origins());
        let decide = match (has_tokens, &backend, &ask) {
            (false, None, _) | (false, _, None) => Decide::Open,
            (true, None, _) | (true, _, None) => Decide::Tokens(token_hooks(tokens)),
            (false, Some(backend), Some(ask)) => Decide::Backend(webhooks(continues, backend, &settings, ask.clone())),
            (true, Some(backend), Some(ask)) => {
                let inner = TokenHooks::with_inner(tokens.clone(), ask.clone()).settings(&settings, origins());
                Decide::Both(Box::new(webhooks(continues, backend, &settings, inner)))
            }
        };
        let reporter = match &decide {
            Decide::Backend(hooks) => Some(hooks.reporter()),
            Decide::Both(hooks) => Some(hooks.reporter()),
            Decide::Open | Decide::Tokens(_) => None,
        };
        let reporter = reporter.filter(|_| settings.webhook_url.is_some());
        Self { decide, backend, ask, reporter, settings }
    }
}

fn webhooks<H: Hooks>(
    continues: Option<Reporter>,
    backend: &Backend,
    settings: &AccessSettings,
    inner: H,
) -> Webhooks<H> {
    match continues {
        Some(reporter) => Webhooks::continuing(reporter, inner),
        None => Webhooks::new(backend, settings, inner),
    }
}

/// Whether requests to the backend are made in the same way.
fn same_backend(before: &AccessSettings, after: &AccessSettings) -> bool {
    let of = |settings: &AccessSettings| {
        (settings.backend_ca.clone(), settings.backend_secret.clone(), settings.ask_concurrency)
    };
    of(before) == of(after)
}

/// Calls the hooks in force; `$open` is the answer without rules.
macro_rules! in_force {
    ($self:ident, $open:expr, $hooks:ident => $call:expr) => {
        match &$self.decide().decide {
            Decide::Open => $open,
            Decide::Tokens($hooks) => $call,
            Decide::Backend($hooks) => $call,
            Decide::Both($hooks) => {
                let $hooks = &**$hooks;
                $call
            }
        }
    };
}

impl Hooks for Access {
    fn are_needed(&self) -> bool {
        !matches!(self.rules.load().decide, Decide::Open)
    }

    async fn authenticate(&self, request: ConnectRequest) -> Result<Identity, Denied> {
        // A question from just before the rules were taken away.
        let open = || Ok(Identity::anonymous().may_subscribe(true));
        in_force!(self, open(), hooks => hooks.authenticate(request).await)
    }

    async fn refresh(&self, client: &Client, auth: String) -> Result<Identity, Denied> {
        let open = || Err(Denied::new("this server takes no refresh"));
        in_force!(self, open(), hooks => hooks.refresh(client, auth).await)
    }

    async fn authorize_subscribe(&self, client: &Client, topic: &TopicName) -> Result<(), Denied> {
        in_force!(self, Ok(()), hooks => hooks.authorize_subscribe(client, topic).await)
    }

    async fn authorize_publish(
        &self,
        client: &Client,
        topic: &TopicName,
        publication: &Publication,
    ) -> Result<(), Denied> {
        in_force!(self, Ok(()), hooks => hooks.authorize_publish(client, topic, publication).await)
    }

    async fn connected(&self, client: &Client) {
        in_force!(self, (), hooks => hooks.connected(client).await);
    }

    async fn disconnected(&self, client: &Client, why: Disconnect) {
        in_force!(self, (), hooks => hooks.disconnected(client, why).await);
    }

    async fn slow(&self, client: &Client, lag: &SlowClient) {
        in_force!(self, (), hooks => hooks.slow(client, lag).await);
    }

    async fn dropped(&self, topic: &TopicName, messages: u64, why: DropReason) {
        in_force!(self, (), hooks => hooks.dropped(topic, messages, why).await);
    }

    async fn topic_occupied(&self, topic: &TopicName) {
        in_force!(self, (), hooks => hooks.topic_occupied(topic).await);
    }

    async fn topic_vacated(&self, topic: &TopicName) {
        in_force!(self, (), hooks => hooks.topic_vacated(topic).await);
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
