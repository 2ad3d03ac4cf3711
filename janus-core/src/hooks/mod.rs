//! Hooks: where an embedder decides who may connect, subscribe and publish, and hears of what becomes of clients.
//!
//! An embedder implements [`Hooks`] with plain `async fn`s, as many as it needs, and hands it to
//! [`Builder::hooks`](crate::Builder::hooks). None of them runs on a thread that serves clients: a hook may be slow, fail or
//! panic, and only the request, or the connection, that asked it notices.
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
//! # Questions
//!
//! [`authenticate`](Hooks::authenticate) and the two `authorize` hooks are questions: what the client asked for waits for
//! the answer, and so does what it asks for after that; nobody else does. Each has
//! [`hook_timeout`](crate::Config::hook_timeout). Without an answer by then, or if the hook panics, a connection is refused
//! and a request answered with an error (`authorization_failed`, which clients may try again); the log says which hook it was. At
//! most [`max_hook_questions`](crate::Config::max_hook_questions) are under way at once, the others wait for their turn within the
//! same time. The future of a question is dropped where it waits when its time is over, or the server closes the connection.
//! That a client has gone shows when its question is answered: until then nothing more is read from it.
//!
//! # Observers
//!
//! [`connected`](Hooks::connected), [`disconnected`](Hooks::disconnected), [`slow`](Hooks::slow) and
//! [`dropped`](Hooks::dropped) only hear of what has happened, one after the other in its order, each within the same time;
//! then, or if one panics, the log says so and the next one is called. Nobody waits for them: what happens waits in a queue of
//! [`hook_queue`](crate::Config::hook_queue), and while that is full further news is left out and counted
//! ([`Stats::hook_news_lost`](crate::Stats::hook_news_lost)).
//!
//! # Where they run
//!
//! On the tokio runtime in which [`start`](crate::Builder::start) is called, or the one that
//! [`Builder::hook_runtime`](crate::Builder::hook_runtime) names; if there is neither, on a thread of their own,
//! `janus-hooks`. A hook that blocks its thread holds up whatever else runs there, other hooks included, which then take too
//! long; `tokio::task::spawn_blocking` is for that. The deadlines hold in any case.

mod observer;
mod runner;
mod slow_client;
#[cfg(test)]
mod tests;
mod thread;

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use tokio::runtime::Handle;

pub(crate) use observer::{News, observe};
use runner::AnyHooks;
pub(crate) use runner::{HookRunner, Refused};
pub use slow_client::SlowClient;
pub(crate) use thread::HookThread;

use crate::config::Config;
use crate::wire::{ErrorCode, HttpRequest, Peer, Publication, TopicName};

/// What an embedder decides and observes; the [module](self) tells how. Each hook has a default that allows, or does
/// nothing.
///
/// In an implementation each is written as an `async fn`, whose future must be `Send`.
pub trait Hooks: Send + Sync + 'static {
    /// Who is this? Asked once for each connection, before it is served or takes over an earlier session.
    ///
    /// By default everybody is [anonymous](Identity::anonymous).
    fn authenticate(&self, request: ConnectRequest) -> impl Future<Output = Result<Identity, Denied>> + Send {
        let _ = request;
        async { Ok(Identity::anonymous()) }
    }

    /// May this client subscribe to this topic? Not asked where [`Identity::may_subscribe`] has decided, and asked again for
    /// each topic that a client comes back to.
    fn authorize_subscribe(
        &self,
        client: &Client,
        topic: &TopicName,
    ) -> impl Future<Output = Result<(), Denied>> + Send {
        let _ = (client, topic);
        async { Ok(()) }
    }

    /// May this client publish this message to this topic? Not asked where [`Identity::may_publish`] has decided, nor where the
    /// listener allows nobody ([`Config::allow_publish`](crate::Config::allow_publish)).
    ///
    /// It is asked for each message, and the next one of the same client waits: let `authenticate` decide for publishers that
    /// are in a hurry.
    fn authorize_publish(
        &self,
        client: &Client,
        topic: &TopicName,
        publication: &Publication,
    ) -> impl Future<Output = Result<(), Denied>> + Send {
        let _ = (client, topic, publication);
        async { Ok(()) }
    }

    /// A client is served from now on.
    fn connected(&self, client: &Client) -> impl Future<Output = ()> + Send {
        let _ = client;
        async {}
    }

    /// A client that was served is not any more.
    fn disconnected(&self, client: &Client, why: Disconnect) -> impl Future<Output = ()> + Send {
        let _ = (client, why);
        async {}
    }

    /// A client has begun to lag: something has waited for it for two ticks (of a second by default). It may catch up, or be
    /// cut off.
    fn slow(&self, client: &Client, lag: &SlowClient) -> impl Future<Output = ()> + Send {
        let _ = (client, lag);
        async {}
    }

    /// Messages of a topic did not reach subscribers that did not keep up: so many in the last tick (a second by default),
    /// counted once for each subscriber.
    fn dropped(&self, topic: &TopicName, messages: u64, why: DropReason) -> impl Future<Output = ()> + Send {
        let _ = (topic, messages, why);
        async {}
    }
}

/// What an instance is to have for hooks.
#[derive(Clone, Default)]
pub(crate) struct HookSettings {
    hooks: Option<Arc<dyn AnyHooks>>,
    pub(crate) runtime: Option<Handle>,
}

impl HookSettings {
    pub(crate) fn set(&mut self, hooks: impl Hooks) {
        self.hooks = Some(Arc::new(hooks));
    }

    /// The hooks, if there are any, and the thread that is started for them if the caller has no runtime.
    pub(crate) fn start(&self, config: &Config) -> io::Result<(Option<Arc<HookRunner>>, Option<HookThread>)> {
        let Some(hooks) = &self.hooks else { return Ok((None, None)) };
        let (runtime, thread) = match self.runtime.clone().or_else(|| Handle::try_current().ok()) {
            Some(runtime) => (runtime, None),
            None => HookThread::start().map(|(thread, runtime)| (runtime, Some(thread)))?,
        };
        Ok((Some(Arc::new(HookRunner::new(Arc::clone(hooks), runtime, config))), thread))
    }
}

impl fmt::Debug for HookSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HookSettings").field("are_set", &self.hooks.is_some()).finish_non_exhaustive()
    }
}

/// A connection that wants to be served.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConnectRequest {
    /// The number of the connection, by which the log names it, too.
    pub connection: u64,
    /// The protocol that it speaks, such as `classic`.
    pub transport: &'static str,
    /// Where it comes from.
    pub peer: Peer,
    /// What the client says to show who it is, if its protocol has words for that.
    pub auth: Option<String>,
    /// The HTTP request with which it began, where it did: cookies, tokens and origins are in its headers.
    pub request: Option<Box<HttpRequest>>,
}

impl ConnectRequest {
    pub(crate) fn new(connection: u64, transport: &'static str, peer: Peer) -> Self {
        Self { connection, transport, peer, auth: None, request: None }
    }
}

/// Who a client is, as far as the embedder wants to know.
///
/// ```
/// use janus_core::hooks::Identity;
///
/// let identity = Identity::user("alice").may_publish(true).claims(serde_json::json!({"team": 7}));
/// assert_eq!((&*identity.user, identity.may_publish, identity.may_subscribe), ("alice", Some(true), None));
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Identity {
    /// The user's name; empty for somebody unknown. A session can be taken over by a client of the same name only, and
    /// [`Janus::disconnect_user`](crate::Janus::disconnect_user) goes by it.
    pub user: String,
    /// Whether the client may subscribe to everything, or to nothing; `None` has
    /// [`authorize_subscribe`](Hooks::authorize_subscribe) asked for each topic.
    pub may_subscribe: Option<bool>,
    /// Whether the client may publish to everything, whatever [`Config::allow_publish`](crate::Config::allow_publish) says,
    /// or to nothing; `None` has [`authorize_publish`](Hooks::authorize_publish) asked for each message, where the listener
    /// allows publishing.
    pub may_publish: Option<bool>,
    /// Whatever the later hooks are to know of the client: its teams, when its token expires.
    pub claims: serde_json::Value,
}

impl Identity {
    /// Somebody unknown.
    #[must_use]
    pub fn anonymous() -> Self {
        Self::default()
    }

    /// A user by name.
    #[must_use]
    pub fn user(name: impl Into<String>) -> Self {
        Self { user: name.into(), ..Self::default() }
    }

    /// Decides about all topics it may subscribe to.
    #[must_use]
    pub fn may_subscribe(self, may: bool) -> Self {
        Self { may_subscribe: Some(may), ..self }
    }

    /// Decides about all topics it may publish to.
    #[must_use]
    pub fn may_publish(self, may: bool) -> Self {
        Self { may_publish: Some(may), ..self }
    }

    /// Sets what the later hooks are to know.
    #[must_use]
    pub fn claims(self, claims: serde_json::Value) -> Self {
        Self { claims, ..self }
    }
}

/// A no to a question.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
#[non_exhaustive]
pub struct Denied {
    /// What the client is told, for a person to read.
    pub reason: String,
    /// After what time the client may try again; `None` if the answer will be the same.
    pub retry_after: Option<Duration>,
}

impl Denied {
    /// For good: a connection is refused with `unauthorized`, a request with `forbidden`.
    #[must_use]
    pub fn new(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), retry_after: None }
    }

    /// For now: it is refused with `authorization_failed`. A client whose connection is refused is told this time, if its
    /// protocol has words for it.
    #[must_use]
    pub fn for_now(reason: impl Into<String>, retry_after: Duration) -> Self {
        Self { reason: reason.into(), retry_after: Some(retry_after) }
    }
}

/// A client that is, or was, served.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Client {
    /// The number of its connection, which is never used again in the instance.
    pub connection: u64,
    /// The protocol that it speaks, such as `classic`.
    pub transport: &'static str,
    /// Where it is connected from.
    pub peer: Peer,
    /// Who it is.
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

/// How a connection came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Disconnect {
    /// The client has ended it, or it was lost on the way.
    ByClient,
    /// The server has ended it, for this reason.
    ByServer(ErrorCode),
}

/// Why a subscriber did not get messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DropReason {
    /// They were the oldest in a full queue, under the policy `drop_oldest`.
    Oldest,
    /// They came while the queue was full, under the policy `drop_newest`.
    Newest,
    /// A later message has taken their place, under the policy `conflate`.
    Conflated,
}
