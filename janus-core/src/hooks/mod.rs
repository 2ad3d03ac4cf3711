// | file | kind | owns |
// |---|---|---|
// | `mod.rs` | API | `Hooks`, and the types of its questions and events |
// | `identity.rs` | value | who a client is, what the client may do, and for how long |
// | `gate.rs` | value | protocols that decide about their own clients |
// | `grant.rs` | value | the topics to which a client may subscribe, or publish |
// | `patterns.rs` | pure | patterns of topic names |
// | `revocations.rs` | table | users and tokens whose right was withdrawn |
// | `runner.rs` | shared object | the embedder's hooks with their runtime, their deadlines and the limit of questions |
// | `observer.rs` | queue and task | the events for observers, and the task that calls the observers |
// | `occupancy.rs` | shared object | whether a topic has subscribers, as far as the observers know |
// | `slow_client.rs` | value | a client that does not keep up, as observers and operators see it |
// | `times.rs` | histograms | how long questions take |
// | `thread.rs` | thread | a runtime for hooks, if the embedder has none |
// | `tests.rs` | tests | scripted hooks |

//! Hooks: an embedder decides which clients may connect, subscribe and publish, and hears of the fate of clients.
//!
//! An embedder implements some of the [`Hooks`] as plain `async fn`s, and passes the implementation to
//! [`Builder::hooks`](crate::Builder::hooks). No hook runs on a thread that serves clients: a hook may be slow, fail or
//! panic, and only the request or the connection in question is affected.
//!
//! ```
//! use janus_core::hooks::{Client, ConnectRequest, Denied, Hooks, Identity};
//! use janus_core::wire::TopicName;
//! use janus_core::{Config, Janus};
//!
//! struct Accounts;
//!
//! impl Hooks for Accounts {
//!     async fn authenticate(&self, request: ConnectRequest) -> Result<Identity, Denied> {
//!         match request.auth.as_deref() {
//!             Some("key of alice") => Ok(Identity::user("alice")),
//!             Some(_) => Err(Denied::new("this key is not known")),
//!             None => Ok(Identity::anonymous().may_publish(false)),
//!         }
//!     }
//!
//!     async fn authorize_subscribe(&self, client: &Client, topic: &TopicName) -> Result<(), Denied> {
//!         match topic.as_str().strip_prefix("private:") {
//!             Some(owner) if owner != client.identity.user => Err(Denied::new("this topic is somebody else's")),
//!             _ => Ok(()),
//!         }
//!     }
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let config = Config { listen: vec!["127.0.0.1:0".parse()?], ..Config::default() };
//! let janus = Janus::builder().config(config).hooks(Accounts).start().await?;
//! # janus.shutdown().await;
//! # Ok(())
//! # }
//! ```
//!
//! Hooks that publish, or look at the instance, are made with a handle: [`Builder::hooks_with`](crate::Builder::hooks_with).
//!
//! # Questions
//!
//! [`authenticate`](Hooks::authenticate), [`refresh`](Hooks::refresh) and the two `authorize` hooks are questions: the client's request, and the
//! client's later requests, wait for the answer; other clients do not. Each question has
//! [`hook_timeout`](crate::Config::hook_timeout). Without an answer by then, or after a panic of the hook, a connection
//! is refused and a request is answered with the error `authorization_failed`, after which clients may try again; the
//! log names the hook. At most [`max_hook_questions`](crate::Config::max_hook_questions) are under way at once; further
//! questions wait for a turn within the same time. The future of a question is dropped at an await point at the end of
//! its time, or after the server has closed the connection. A client's departure shows only at the answer to its
//! question: until then the server reads nothing more from the client.
//!
//! # Grants
//!
//! A question about each message takes a way to another thread and back. An [`Identity`] can carry the answers instead: a
//! [`Grant`] of all topics, of none, or of those that match [`Patterns`] is decided on the spot. An identity may also
//! have an end ([`Identity::expires`]), and topics to which the server subscribes the client by itself
//! ([`Identity::topics`]). [`Janus::revoke`](crate::Janus::revoke) withdraws an identity before its end.
//!
//! # Observers
//!
//! [`connected`](Hooks::connected), [`disconnected`](Hooks::disconnected), [`slow`](Hooks::slow),
//! [`dropped`](Hooks::dropped), [`topic_occupied`](Hooks::topic_occupied) and [`topic_vacated`](Hooks::topic_vacated)
//! only hear of past events. Observers are called one after the other, events of clients in their order and events of
//! topics in their order, and each has the same time as a question. After a timeout or a panic the log names the observer, and the
//! next observer is called. Clients never wait for observers: events wait in a queue of
//! [`hook_queue`](crate::Config::hook_queue), those of topics in a queue of the same size. While the queue is full, further events are left out and counted
//! ([`Stats::hook_news_lost`](crate::Stats::hook_news_lost)).
//!
//! # Where hooks run
//!
//! On the tokio runtime in which [`start`](crate::Builder::start) is called, or on the runtime named by
//! [`Builder::hook_runtime`](crate::Builder::hook_runtime); without a runtime, on a separate thread, `janus-hooks`. A
//! hook that blocks its thread delays all other tasks there, including other hooks, which then exceed their time; use
//! `tokio::task::spawn_blocking` for blocking work. The deadlines hold in any case.

mod gate;
mod grant;
mod identity;
mod observer;
mod occupancy;
mod patterns;
mod revocations;
mod runner;
mod slow_client;
#[cfg(test)]
mod tests;
mod thread;
mod times;

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;

pub use gate::Gate;
pub(crate) use gate::{Gates, RESERVED};
pub use grant::Grant;
pub use identity::Identity;
pub(crate) use observer::{News, observe};
pub(crate) use occupancy::Occupancy;
pub use patterns::{PatternError, Patterns};
pub(crate) use revocations::Revocations;
pub use revocations::{Revocation, RevokeError};
use runner::AnyHooks;
pub(crate) use runner::{HookRunner, Refused, granted_publish, granted_subscribe};
pub use slow_client::SlowClient;
pub(crate) use thread::HookThread;

use crate::config::Config;
use crate::wire::{ErrorCode, HttpRequest, Peer, Publication, TopicName};

/// The decisions and observations of an embedder; see the [module](self). Each hook has a default: questions allow, and
/// observers do nothing.
///
/// An implementation writes each hook as an `async fn`, whose future must be `Send`.
pub trait Hooks: Send + Sync + 'static {
    /// Whether the hooks have anything to decide or to observe now; always, by default. While they have not, the instance
    /// serves clients as without hooks, and at no further cost: for programs whose rules may change. A topic that begins
    /// meanwhile is not observed.
    ///
    /// A client that is connected keeps the rights with which the client was served. A client without an identity is not
    /// asked for one later. A client with an [`Identity`] keeps the grants of the identity, and its end, when the hooks
    /// are no longer needed: a forbidden topic stays forbidden, until the client connects anew. [`Grant::Ask`] then
    /// means what is allowed without hooks, a refresh is refused, and [`disconnected`](Self::disconnected) is called at
    /// the end of the connection.
    ///
    /// Asked for each connection, subscription and message: must return at once.
    fn are_needed(&self) -> bool {
        true
    }

    /// Identifies a client. Asked once per connection, before the connection is served or takes over an earlier
    /// session.
    ///
    /// By default every client is [anonymous](Identity::anonymous).
    fn authenticate(&self, request: ConnectRequest) -> impl Future<Output = Result<Identity, Denied>> + Send {
        let _ = request;
        async { Ok(Identity::anonymous()) }
    }

    /// Decides about the new proof of identity of a client that is connected, as sent in a `refresh` before the end of
    /// the old. Returns the client's identity from now on.
    ///
    /// The user must be the same. The new grants hold at once: the client loses each topic that is granted no longer. A
    /// refusal changes nothing; [`Denied::for_now`] tells the client to try again. Asked at most once a second for a
    /// client, and one question at a time.
    ///
    /// By default every refresh is refused.
    fn refresh(&self, client: &Client, auth: String) -> impl Future<Output = Result<Identity, Denied>> + Send {
        let _ = (client, auth);
        async { Err(Denied::new("this server takes no refresh")) }
    }

    /// Decides whether the client may subscribe to the topic. Asked only under [`Grant::Ask`]. Asked again for each
    /// topic of a client that comes back, or that refreshes its identity.
    fn authorize_subscribe(
        &self,
        client: &Client,
        topic: &TopicName,
    ) -> impl Future<Output = Result<(), Denied>> + Send {
        let _ = (client, topic);
        async { Ok(()) }
    }

    /// Decides whether the client may publish the message to the topic. Asked only under [`Grant::Ask`], and if the
    /// listener allows publishing ([`Config::allow_publish`](crate::Config::allow_publish)).
    ///
    /// The hook sees the payload as [`Publication::data`], or as [`Publication::base64`] if it is bytes.
    ///
    /// Asked once per message, and the next message of the same client waits: for fast publishers, let `authenticate`
    /// decide, with [`Grant::Only`] for some topics.
    fn authorize_publish(
        &self,
        client: &Client,
        topic: &TopicName,
        publication: &Publication,
    ) -> impl Future<Output = Result<(), Denied>> + Send {
        let _ = (client, topic, publication);
        async { Ok(()) }
    }

    /// Called when a client begins to be served, and again when a client of the classic protocol that was served as an
    /// unknown user has proved its identity.
    fn connected(&self, client: &Client) -> impl Future<Output = ()> + Send {
        let _ = client;
        async {}
    }

    /// Called when a client is no longer served.
    fn disconnected(&self, client: &Client, why: Disconnect) -> impl Future<Output = ()> + Send {
        let _ = (client, why);
        async {}
    }

    /// Called when a client begins to lag: output has waited for the client for two ticks (of a second by default). The
    /// client may catch up, or be cut off.
    fn slow(&self, client: &Client, lag: &SlowClient) -> impl Future<Output = ()> + Send {
        let _ = (client, lag);
        async {}
    }

    /// Called when messages of a topic did not reach slow subscribers. `messages` is the number in the last tick (a
    /// second by default), counted once for each subscriber.
    fn dropped(&self, topic: &TopicName, messages: u64, why: DropReason) -> impl Future<Output = ()> + Send {
        let _ = (topic, messages, why);
        async {}
    }

    /// Called when a topic has its first subscriber, be it a client or a subscriber in this process.
    ///
    /// For a topic that changes faster than observers are called, only the last state counts: the calls of
    /// `topic_occupied` and of [`topic_vacated`](Self::topic_vacated) take turns, and a topic waits for one call at most.
    /// After news that were left out, or after an [`end`](crate::Janus::shutdown) of the instance, a topic is vacated
    /// without a call.
    fn topic_occupied(&self, topic: &TopicName) -> impl Future<Output = ()> + Send {
        let _ = topic;
        async {}
    }

    /// Called when a topic has no subscriber any more. A client that reconnects may come back a moment later.
    fn topic_vacated(&self, topic: &TopicName) -> impl Future<Output = ()> + Send {
        let _ = topic;
        async {}
    }
}

/// The hooks of an instance before its start, and the runtime chosen for the hooks.
#[derive(Clone, Default)]
pub(crate) struct HookSettings {
    hooks: Option<Arc<dyn AnyHooks>>,
    pub(crate) runtime: Option<Handle>,
}

impl HookSettings {
    pub(crate) fn set(&mut self, hooks: impl Hooks) {
        self.hooks = Some(Arc::new(hooks));
    }

    /// Returns the hooks, if any, with the runtime of the embedder's functions, which is needed for the hooks and if
    /// `is_needed` says so, and with the thread that is started for the runtime if the caller has none.
    pub(crate) fn start(&self, config: &Config, is_needed: bool) -> io::Result<Started> {
        if self.hooks.is_none() && !is_needed {
            return Ok(Started::default());
        }
        let (runtime, thread) = match self.runtime.clone().or_else(|| Handle::try_current().ok()) {
            Some(runtime) => (runtime, None),
            None => HookThread::start().map(|(thread, runtime)| (runtime, Some(thread)))?,
        };
        let runner = |hooks: &Arc<_>| Arc::new(HookRunner::new(Arc::clone(hooks), runtime.clone(), config));
        Ok(Started { hooks: self.hooks.as_ref().map(runner), runtime: Some(runtime), thread })
    }
}

/// What runs the embedder's functions.
#[derive(Default)]
pub(crate) struct Started {
    pub(crate) hooks: Option<Arc<HookRunner>>,
    pub(crate) runtime: Option<Handle>,
    pub(crate) thread: Option<HookThread>,
}

impl fmt::Debug for HookSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HookSettings").field("are_set", &self.hooks.is_some()).finish_non_exhaustive()
    }
}

/// A connection before the decision about its client. `Debug` shows no proof of identity.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConnectRequest {
    /// The number of the connection, as in the log.
    pub connection: u64,
    /// The protocol of the connection, such as `classic`.
    pub transport: &'static str,
    /// The address of the client.
    pub peer: Peer,
    /// The client's proof of identity, if the protocol has a field for the proof.
    pub auth: Option<String>,
    /// The HTTP request at the beginning of the connection, if there was a request. Its headers carry cookies, tokens
    /// and origins.
    pub request: Option<Box<HttpRequest>>,
    /// The result of the TLS handshake, if the client is connected to a TLS listener of Janus.
    pub tls: Option<Box<TlsClient>>,
}

/// What the TLS handshake says about a client.
///
/// ```
/// use janus_core::hooks::{ConnectRequest, Denied, Hooks, Identity};
///
/// struct ByCertificate;
///
/// impl Hooks for ByCertificate {
///     async fn authenticate(&self, request: ConnectRequest) -> Result<Identity, Denied> {
///         let certificate = request.tls.and_then(|tls| tls.certificate);
///         let user = certificate.as_deref().and_then(user_of).ok_or_else(|| Denied::new("a certificate is required"))?;
///         Ok(Identity::user(user))
///     }
/// }
///
/// /// The user named in a certificate, for example read with the crate `x509-parser`.
/// fn user_of(der: &[u8]) -> Option<String> {
/// #   let _ = der;
///     None
/// }
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct TlsClient {
    /// The client's certificate in DER, if the client has shown one. An authority of
    /// [`Config::tls_client_ca`](crate::Config::tls_client_ca) has issued the certificate, and the certificate was valid
    /// at the time of the handshake, or of the earlier handshake that a client with a session ticket resumes.
    pub certificate: Option<Vec<u8>>,
    /// The name of the server for which the client has asked (SNI).
    pub server_name: Option<String>,
    /// The protocol agreed on (ALPN).
    pub protocol: Option<Vec<u8>>,
}

impl ConnectRequest {
    pub(crate) fn new(connection: u64, transport: &'static str, peer: Peer) -> Self {
        Self { connection, transport, peer, auth: None, request: None, tls: None }
    }
}

impl fmt::Debug for ConnectRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectRequest")
            .field("connection", &self.connection)
            .field("transport", &self.transport)
            .field("peer", &self.peer)
            .field("auth", &self.auth.as_ref().map(|_| "…"))
            .field("request", &self.request)
            .field("tls", &self.tls)
            .finish()
    }
}

/// A negative answer to a question.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
#[non_exhaustive]
pub struct Denied {
    /// The text for the client, to be read by a person.
    pub reason: String,
    /// The time after which the client may try again; `None` if the answer will be the same.
    pub retry_after: Option<Duration>,
    /// What a final answer is about.
    pub(crate) cause: Cause,
}

/// What a final answer is about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Cause {
    /// The client has no right.
    #[default]
    NoRight,
    /// The client has shown no proof of identity yet.
    NoCredentials,
    /// The proof of identity has ended.
    Expired,
}

impl Denied {
    /// A final answer: a connection is refused with `unauthorized`, a request with `forbidden`.
    #[must_use]
    pub fn new(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), retry_after: None, cause: Cause::NoRight }
    }

    /// A temporary answer, refused with `authorization_failed`. A client whose connection is refused is told
    /// `retry_after`, if the protocol has a field for the time.
    #[must_use]
    pub fn for_now(reason: impl Into<String>, retry_after: Duration) -> Self {
        Self { retry_after: Some(retry_after), ..Self::new(reason) }
    }

    /// A final answer to a client whose proof of identity has ended: a connection is refused with `token_expired`, which
    /// tells the client to come back with a new proof. Otherwise as [`new`](Self::new).
    #[must_use]
    pub fn expired(reason: impl Into<String>) -> Self {
        Self { cause: Cause::Expired, ..Self::new(reason) }
    }

    /// The answer of [`authenticate`](Hooks::authenticate) to a client without any proof of identity. A client of the
    /// classic protocol, which is asked about as soon as it connects, may still send its proof with its first frame,
    /// within [`Config::frame_timeout`](crate::Config::frame_timeout); then `authenticate` is asked again. Any other
    /// client is refused as with [`new`](Self::new).
    #[must_use]
    pub fn no_credentials(reason: impl Into<String>) -> Self {
        Self { cause: Cause::NoCredentials, ..Self::new(reason) }
    }
}

/// A client that is, or was, served.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Client {
    /// The number of the client's connection, which is never used again in the instance.
    pub connection: u64,
    /// The protocol of the connection, such as `classic`.
    pub transport: &'static str,
    /// The address of the client.
    pub peer: Peer,
    /// The answer of [`Hooks::authenticate`].
    pub identity: Arc<Identity>,
}

impl Client {
    pub(crate) fn new(connection: u64, transport: &'static str, peer: Peer, identity: Arc<Identity>) -> Self {
        Self { connection, transport, peer, identity }
    }
}

impl fmt::Display for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "client {} ({})", self.connection, self.peer)
    }
}

/// The end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Disconnect {
    /// The client has ended the connection, or the connection was lost.
    ByClient,
    /// The server has ended the connection, for this reason.
    ByServer(ErrorCode),
}

/// The reason why a subscriber did not get messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DropReason {
    /// The messages were the oldest in a full queue, under the policy `drop_oldest`.
    Oldest,
    /// The messages came while the queue was full, under the policy `drop_newest`.
    Newest,
    /// A later message has replaced the messages, under the policy `conflate`.
    Conflated,
}
