//! Asks a backend over HTTP who a client is, and what the client may do.
//!
//! | file | content |
//! |---|---|
//! | `mod.rs` | [`Ask`]: the hooks, and the way of a question |
//! | `wire.rs` | pure: questions and answers as JSON |
//! | `places.rs` | the questions at once, and when further clients come back |
//! | `breaker.rs` | when a backend that fails is left alone |
//! | `cache.rs` | answers that are kept |
//! | `counters.rs` | figures |
//! | `tests.rs` | tests with backends that answer, fail and hang |
//!
//! A question never waits for another question: without a place at the backend, or with a breaker that is open, the
//! client is told at once to come back. So a storm of clients holds neither the hooks' runtime nor the backend, and the
//! clients are spread by the times they are told.

mod breaker;
mod cache;
mod counters;
mod places;
#[cfg(test)]
mod tests;
mod wire;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use hyper::StatusCode;
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use janus_core::hooks::{Client, ConnectRequest, Denied, Hooks, Identity};
use janus_core::supervision::in_words;
use janus_core::wire::{Base64, Publication, TopicName};
use serde_json::value::RawValue;
use tokio::time::Instant;

use crate::backend::{ANSWER_BYTES, Answer, Backend, CallError, Limits, Url};
use crate::settings::AccessSettings;
use crate::signature;
use crate::summed::{Summed, counted};
use breaker::{Breaker, Change};
use cache::Cache;
pub use counters::AskStats;
use counters::{Counters, count};
use places::{Line, Places};
use wire::{NOT_ALLOWED, Question, Said};

/// The version of questions and answers.
const VERSION: u32 = 1;

/// The text for clients whose question has no answer.
const LATER: &str = "the authorization service is busy or does not answer; try again later";

/// Hooks that ask a backend: `ask_connect`, `ask_subscribe` and `ask_publish` of [`AccessSettings`].
///
/// ```
/// use janus_access::{AccessSettings, Ask, Backend};
/// use janus_core::Janus;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let ask_connect = Some("http://127.0.0.1:8000/janus".parse()?);
/// let settings = AccessSettings { ask_connect, ..AccessSettings::default() };
/// let ask = Ask::new(&Backend::new(&settings)?, &settings);
/// let builder = Janus::builder().hooks(ask.clone());
/// assert_eq!(ask.stats().allowed, 0);
/// # Ok(())
/// # }
/// ```
///
/// Each question is a `POST` with a JSON object, and so is the answer;
/// [OPERATIONS](https://docs.rs/crate/janus-server) has both field by field. Status 200 with `"allow": true` is a yes,
/// `"allow": false` and each status from 400 to 499 a no, but for 408, 425 and 429. Anything else is a failure, and the
/// client is told to come back: no connection, no answer within `ask_timeout`, redirects, an answer that is longer than
/// 64 KiB or not as expected. After ten failures among the last 20 answers of an address, the address is tried once a
/// second, and every other client is told to come back.
///
/// At most `ask_concurrency` questions are under way. A request whose client has gone away is closed, but a backend
/// that does not notice may still be at work on it.
///
/// [`Config::hook_timeout`](janus_core::Config::hook_timeout) must be longer than `ask_timeout`, and
/// [`Config::max_hook_questions`](janus_core::Config::max_hook_questions) larger than `ask_concurrency`, or questions
/// end or wait before they reach these limits.
///
/// Clones share everything.
#[derive(Clone, Debug)]
pub struct Ask {
    shared: Arc<Shared>,
    /// Whether a client may do what no setting has an address for.
    allows_unasked: bool,
}

#[derive(Debug)]
struct Shared {
    backend: Backend,
    settings: AccessSettings,
    /// `ask_headers` in lower case, as the headers of requests are.
    headers: Vec<String>,
    targets: HashMap<Url, Target>,
    places: Arc<Places>,
    line: Line,
    cache: Cache,
    counters: Counters,
}

/// An address that is asked.
#[derive(Debug, Default)]
struct Target {
    breaker: Breaker,
    failures: Summed,
    /// Answers with a status that says more about the address than about the client.
    strange: Summed,
}

impl Ask {
    /// Hooks that ask at the addresses of the settings. A question without an address is allowed if `ask_connect` has
    /// no address either, and refused otherwise; see [`allow_unasked`](Self::allow_unasked).
    #[must_use]
    pub fn new(backend: &Backend, settings: &AccessSettings) -> Self {
        let namespaces = settings.namespaces.values().chain([&settings.default_namespace]);
        let of_topics = namespaces.flat_map(|namespace| [&namespace.ask_subscribe, &namespace.ask_publish]);
        let urls = of_topics.chain([&settings.ask_connect]).flatten();
        let shared = Shared {
            backend: backend.clone(),
            headers: settings.ask_headers.iter().map(|name| name.to_ascii_lowercase()).collect(),
            targets: urls.map(|url| (url.clone(), Target::default())).collect(),
            places: Places::new(settings.ask_concurrency),
            line: Line::new(settings.ask_concurrency, settings.ask_timeout),
            cache: Cache::new(settings.ask_cache),
            counters: Counters::default(),
            settings: settings.clone(),
        };
        Self { shared: Arc::new(shared), allows_unasked: settings.ask_connect.is_none() }
    }

    /// Whether any setting has an address to ask.
    #[must_use]
    pub fn is_needed(settings: &AccessSettings) -> bool {
        let mut namespaces = settings.namespaces.values().chain([&settings.default_namespace]);
        settings.ask_connect.is_some()
            || namespaces.any(|namespace| namespace.ask_subscribe.is_some() || namespace.ask_publish.is_some())
    }

    /// Decides about subscribes and messages that no setting has an address for: allowed as without hooks, or refused.
    /// Hooks that identify clients in another way and leave some topics to this backend must refuse.
    #[must_use]
    pub fn allow_unasked(self, allow: bool) -> Self {
        Self { allows_unasked: allow, ..self }
    }

    /// What became of the questions.
    #[must_use]
    pub fn stats(&self) -> AskStats {
        let open = self.shared.targets.values().filter(|target| target.breaker.is_open()).count();
        self.shared.counters.stats(self.shared.places.taken(), open)
    }

    fn unasked(&self) -> Result<(), Denied> {
        if self.allows_unasked { Ok(()) } else { Err(Denied::new(NOT_ALLOWED)) }
    }
}

impl Hooks for Ask {
    async fn authenticate(&self, request: ConnectRequest) -> Result<Identity, Denied> {
        let Some(url) = &self.shared.settings.ask_connect else { return Ok(self.shared.nobody(self.allows_unasked)) };
        let question = Question {
            version: VERSION,
            question: "connect",
            connection: self.shared.backend.name_of(request.connection),
            transport: request.transport,
            peer: request.peer,
            auth: request.auth.as_deref(),
            headers: wire::headers(request.request.as_deref(), &self.shared.headers),
            user: None,
            claims: None,
            topic: None,
            data: None,
            data_base64: None,
        };
        let identity = self.shared.identify(url, &question).await;
        identity.map_err(|denied| match denied.retry_after {
            // A client of the classic protocol may still show a proof.
            None if request.auth.is_none() => Denied::no_credentials(denied.reason),
            _ => denied,
        })
    }

    async fn refresh(&self, client: &Client, auth: String) -> Result<Identity, Denied> {
        let Some(url) = &self.shared.settings.ask_connect else {
            return Err(Denied::new("this server takes no refresh"));
        };
        let question = Question { auth: Some(&auth), ..self.shared.about(client, "refresh") };
        self.shared.identify(url, &question).await
    }

    async fn authorize_subscribe(&self, client: &Client, topic: &TopicName) -> Result<(), Denied> {
        let Some(url) = &self.shared.settings.namespace(topic.as_str()).ask_subscribe else { return self.unasked() };
        let question = Question { topic: Some(topic.as_str()), ..self.shared.about(client, "subscribe") };
        self.shared.permit(url, &question).await
    }

    async fn authorize_publish(
        &self,
        client: &Client,
        topic: &TopicName,
        publication: &Publication,
    ) -> Result<(), Denied> {
        let Some(url) = &self.shared.settings.namespace(topic.as_str()).ask_publish else { return self.unasked() };
        let data_base64 = publication.base64().map(Base64::as_str);
        let data: Option<&RawValue> = match data_base64 {
            None => serde_json::from_str(publication.data()).ok(),
            Some(_) => None,
        };
        let topic = Some(topic.as_str());
        let question = Question { topic, data, data_base64, ..self.shared.about(client, "publish") };
        self.shared.permit(url, &question).await
    }
}

impl Shared {
    /// A question about a client that is connected.
    fn about<'a>(&self, client: &'a Client, question: &'static str) -> Question<'a> {
        let Identity { user, claims, .. } = &*client.identity;
        Question {
            version: VERSION,
            question,
            connection: self.backend.name_of(client.connection),
            transport: client.transport,
            peer: client.peer,
            auth: None,
            headers: BTreeMap::new(),
            user: (!user.is_empty()).then_some(user),
            claims: (!claims.is_null()).then_some(claims),
            topic: None,
            data: None,
            data_base64: None,
        }
    }

    /// A client that nobody is asked about. Without an address for subscribes, these need no question.
    fn nobody(&self, allows_unasked: bool) -> Identity {
        let identity = Identity::anonymous();
        let AccessSettings { default_namespace, namespaces, .. } = &self.settings;
        let is_asked =
            namespaces.values().chain([default_namespace]).any(|of_topics| of_topics.ask_subscribe.is_some());
        if allows_unasked && !is_asked { identity.may_subscribe(true) } else { identity }
    }

    async fn identify(&self, url: &Url, question: &Question<'_>) -> Result<Identity, Denied> {
        self.ask(url, question, |said| {
            Ok(match said.verdict() {
                Ok(()) => Ok(said.identity()?),
                Err(denied) => Err(denied),
            })
        })
        .await
    }

    /// Asks about a topic, unless an earlier answer is kept.
    async fn permit(&self, url: &Url, question: &Question<'_>) -> Result<(), Denied> {
        let (user, claims) = (question.user.unwrap_or_default(), question.claims.unwrap_or(&serde_json::Value::Null));
        let key = self.cache.key(question.question, user, claims, question.topic.unwrap_or_default());
        if let Some(verdict) = key.and_then(|key| self.cache.find(key, Instant::now())) {
            count(&self.counters.from_cache);
            return verdict.map_err(Denied::new);
        }
        self.ask(url, question, |said| {
            let verdict = said.verdict();
            let is_final = verdict.as_ref().err().is_none_or(|denied| denied.retry_after.is_none());
            if let (Some(key), Some(time), true) = (key, said.kept(), is_final) {
                let kept = verdict.as_ref().map(|&()| ()).map_err(|denied| denied.reason.clone());
                self.cache.keep(key, Instant::now() + time, kept);
            }
            Ok(verdict)
        })
        .await
    }

    /// The way of every question: a breaker that is closed, a place, the backend, and an answer that `read` can use.
    async fn ask<T>(
        &self,
        url: &Url,
        question: &Question<'_>,
        read: impl FnOnce(Said) -> Result<Result<T, Denied>, &'static str>,
    ) -> Result<T, Denied> {
        let target = self.targets.get(url).expect("a target for each address of the settings");
        // Before the ticket, because a ticket without a question would be a second without a probe.
        let Some(_place) = self.places.take(question.peer.into()) else {
            count(&self.counters.beyond_concurrency);
            return Err(self.later(Duration::from_secs(1)));
        };
        let ticket = match target.breaker.admit(Instant::now()) {
            Ok(ticket) => ticket,
            Err(pause) => {
                count(&self.counters.breaker_open);
                return Err(self.later(pause));
            }
        };
        let heard = self.exchange(url, question).await.map_err(|error| {
            if matches!(error, CallError::TooLate(_)) {
                count(&self.counters.timed_out);
            }
            error.to_string()
        });
        let heard = heard.and_then(|answer| target.understand(url, &answer, read));
        self.note_change(url, ticket.note(heard.is_err(), Instant::now()));
        match heard {
            Ok(Ok(yes)) => {
                count(&self.counters.allowed);
                Ok(yes)
            }
            Ok(Err(no)) => {
                count(&self.counters.refused);
                Err(no)
            }
            Err(error) => {
                count(&self.counters.failed);
                if let Some(failures) = target.failures.count(1) {
                    let all = counted(failures, "question");
                    log::warn!(url:%, failures; "{url}: {all} without an answer; the last: {error}");
                }
                Err(self.later(Duration::from_secs(1)))
            }
        }
    }

    async fn exchange(&self, url: &Url, question: &Question<'_>) -> Result<Answer, CallError> {
        let body = Bytes::from(serde_json::to_vec(question).map_err(|error| CallError::Failed(error.to_string()))?);
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(signature) = self.backend.signer.sign(SystemTime::now(), &body) {
            headers.insert(HeaderName::from_static(signature::HEADER), signature);
        }
        let limits = Limits { time: self.settings.ask_timeout, body: ANSWER_BYTES };
        self.backend.client.post(url, headers, body, limits).await
    }

    fn later(&self, pause: Duration) -> Denied {
        Denied::for_now(LATER, self.line.join(pause, Instant::now()))
    }

    fn note_change(&self, url: &Url, change: Change) {
        match change {
            Change::Nothing => {}
            Change::Opened => log::error!(
                url:%;
                "{url}: half of the last 20 questions have no answer; from now on one question a second is asked, and \
                 all other clients are told to come back"
            ),
            Change::Closed(after) => log::info!(url:%; "{url}: answers again after {}", in_words(after)),
        }
    }
}

impl Target {
    /// What an answer says: a yes, a no, or nothing that can be used.
    fn understand<T>(
        &self,
        url: &Url,
        answer: &Answer,
        read: impl FnOnce(Said) -> Result<Result<T, Denied>, &'static str>,
    ) -> Result<Result<T, Denied>, String> {
        match answer.status {
            // A single user's name or topics may be wrong, which says nothing about the backend: the breaker must not
            // open for all others.
            StatusCode::OK => Ok(read(Said::read(&answer.body)?).unwrap_or_else(|wrong| {
                if let Some(answers) = self.strange.count(1) {
                    let all = counted(answers, "answer");
                    log::warn!(url:%, answers; "{url}: {all} without a client; the last: {wrong}");
                }
                Err(Denied::for_now(LATER, Duration::from_secs(1)))
            })),
            // Of the moment, and not of the client.
            StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_EARLY | StatusCode::TOO_MANY_REQUESTS => {
                Err(format!("status {}", answer.status))
            }
            status if status.is_client_error() => {
                let is_about_the_client = matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN);
                if !is_about_the_client && let Some(answers) = self.strange.count(1) {
                    let all = counted(answers, "client");
                    log::warn!(
                        url:%, answers, status = status.as_u16();
                        "{url}: {all} refused with status {status}; is this the right address?"
                    );
                }
                let said = Said::read(&answer.body).ok().and_then(|said| said.verdict().err());
                Ok(Err(said.unwrap_or_else(|| Denied::new(NOT_ALLOWED))))
            }
            status if status.is_redirection() => Err(format!("status {status}: redirects are not followed")),
            status => Err(format!("status {status}")),
        }
    }
}
