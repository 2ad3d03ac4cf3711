//! Asks hooks on the embedder's runtime, and keeps their deadlines on the server's runtime.
//!
//! A question that gets no answer in time, or whose hook panics, is refused; an observer is given up. The log names the
//! hook in either case.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::runtime::Handle;
use tokio::task::{AbortHandle, JoinError};
use tokio::time::{Instant, timeout};

use super::observer::Queue;
use super::times::{HookTimes, Question, Verdict};
use super::{
    Cause, Client, ConnectRequest, Denied, Disconnect, DropReason, Hooks, Identity, News, Occupancy, SlowClient,
};
use crate::config::Config;
use crate::config::settings::Gate;
use crate::ground::log_lines::LogLines;
use crate::supervision::ExitReason;
use crate::supervision::in_words;
use crate::wire::{ErrorCode, Publication, TopicName};

/// The hooks of one instance, and the runtime of the hooks.
pub(crate) struct HookRunner {
    pub(super) hooks: Arc<dyn AnyHooks>,
    runtime: Handle,
    /// In milliseconds.
    timeout: AtomicU64,
    questions: Gate,
    pub(super) queue: Queue,
    lost: AtomicU64,
    begun: Instant,
    lines: LogLines,
    pub(crate) times: HookTimes,
}

/// A refusal for the client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refused {
    pub(crate) code: ErrorCode,
    pub(crate) message: String,
    /// The time after which the client may come back, if the hook named a time.
    pub(crate) retry_after: Option<Duration>,
    /// Whether the client may still show a proof of identity.
    pub(crate) lacks_credentials: bool,
}

impl Refused {
    pub(crate) fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), retry_after: None, lacks_credentials: false }
    }

    /// The refusal of a request.
    fn denied(denied: Denied, code: ErrorCode) -> Self {
        let code = if denied.retry_after.is_some() { ErrorCode::AuthorizationFailed } else { code };
        Self { retry_after: denied.retry_after, ..Self::new(code, denied.reason) }
    }

    /// The refusal of a connection.
    pub(super) fn connection(denied: Denied) -> Self {
        let cause = denied.cause;
        let code = if cause == Cause::Expired { ErrorCode::TokenExpired } else { ErrorCode::Unauthorized };
        let refused = Self::denied(denied, code);
        let lacks_credentials = cause == Cause::NoCredentials && refused.retry_after.is_none();
        Self { lacks_credentials, ..refused }
    }

    fn unanswered() -> Self {
        Self::new(ErrorCode::AuthorizationFailed, "the authorization service did not answer; try again later")
    }
}

/// The reason why a hook has no answer.
enum Failure {
    TooLate,
    Panicked(ExitReason),
    /// The runtime of the hook was shut down.
    NoRuntime,
}

impl HookRunner {
    /// Runs `hooks` on `runtime`, within the limits of `config`.
    pub(crate) fn new(hooks: Arc<dyn AnyHooks>, runtime: Handle, config: &Config) -> Self {
        let runner = Self {
            hooks,
            runtime,
            timeout: AtomicU64::new(0),
            questions: Gate::new(config.max_hook_questions),
            queue: Queue::default(),
            lost: AtomicU64::new(0),
            begun: Instant::now(),
            lines: LogLines::default(),
            times: HookTimes::default(),
        };
        runner.follow(config);
        runner
    }

    /// Takes over the limits of these settings, for questions and events from then on.
    pub(crate) fn follow(&self, config: &Config) {
        let milliseconds = u64::try_from(config.hook_timeout.as_millis()).unwrap_or(u64::MAX);
        self.timeout.store(milliseconds, Ordering::Relaxed);
        self.questions.set_limit(config.max_hook_questions);
        self.queue.set_limit(config.hook_queue);
    }

    fn timeout(&self) -> Duration {
        Duration::from_millis(self.timeout.load(Ordering::Relaxed))
    }

    /// See [`Hooks::are_needed`].
    pub(crate) fn are_needed(&self) -> bool {
        self.hooks.are_needed()
    }

    /// Asks for the identity of a connection's client.
    pub(crate) fn authenticate(
        self: &Arc<Self>,
        request: ConnectRequest,
    ) -> impl Future<Output = Result<Arc<Identity>, Refused>> + Send + use<> {
        let hooks = Arc::clone(&self.hooks);
        let answer = self.ask(Question::Authenticate, async move { hooks.authenticate(request).await });
        async move {
            let identity = answer.await?.map_err(Refused::connection)?;
            Ok(Arc::new(identity))
        }
    }

    /// Asks for the identity of a client from now on. A refusal leaves the connection open, so its code closes nothing.
    pub(crate) fn refresh(
        self: &Arc<Self>,
        client: &Client,
        auth: String,
    ) -> impl Future<Output = Result<Arc<Identity>, Refused>> + Send + use<> {
        let (hooks, client) = (Arc::clone(&self.hooks), client.clone());
        let answer = self.ask(Question::Refresh, async move { hooks.refresh(&client, auth).await });
        async move {
            let identity = answer.await?.map_err(|denied| Refused::denied(denied, ErrorCode::Forbidden))?;
            Ok(Arc::new(identity))
        }
    }

    /// Asks whether a client may subscribe. Returns `Ok(None)` if the client may by an earlier decision, or if the hooks
    /// are no longer needed and the earlier decision leaves the matter to them.
    pub(crate) fn authorize_subscribe(
        self: &Arc<Self>,
        client: &Client,
        topic: &TopicName,
    ) -> Result<Option<impl Future<Output = Result<(), Refused>> + Send + use<>>, Refused> {
        if granted_subscribe(&client.identity, topic)? || !self.are_needed() {
            return Ok(None);
        }
        let (hooks, client, topic) = (Arc::clone(&self.hooks), client.clone(), topic.clone());
        let answer =
            self.ask(Question::AuthorizeSubscribe, async move { hooks.authorize_subscribe(&client, &topic).await });
        Ok(Some(allowed(answer)))
    }

    /// Asks whether a client may publish a message. Returns `Ok(None)` as
    /// [`authorize_subscribe`](Self::authorize_subscribe).
    pub(crate) fn authorize_publish(
        self: &Arc<Self>,
        client: &Client,
        topic: &TopicName,
        publication: &Publication,
    ) -> Result<Option<impl Future<Output = Result<(), Refused>> + Send + use<>>, Refused> {
        if granted_publish(&client.identity, topic)? || !self.are_needed() {
            return Ok(None);
        }
        let (hooks, client) = (Arc::clone(&self.hooks), client.clone());
        let (topic, publication) = (topic.clone(), publication.clone());
        let answer = self.ask(Question::AuthorizePublish, async move {
            hooks.authorize_publish(&client, &topic, &publication).await
        });
        Ok(Some(allowed(answer)))
    }

    /// Queues an event for the observers. An event is left out and counted if the queue is full.
    pub(crate) fn tell(&self, news: News) {
        self.queue(news);
    }

    /// Queues an event of a topic. Returns `false` if the event is left out.
    pub(super) fn tell_of_topic(&self, occupancy: &Arc<Occupancy>) -> bool {
        self.queue(News::Occupancy(Arc::clone(occupancy)))
    }

    fn queue(&self, news: News) -> bool {
        let is_queued = self.queue.push(news);
        if !is_queued {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
        is_queued
    }

    /// The number of events left out because the queue was full.
    pub(crate) fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    fn ask<T, F>(
        self: &Arc<Self>,
        kind: Question,
        question: F,
    ) -> impl Future<Output = Result<Result<T, Denied>, Refused>> + Send + use<T, F>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, Denied>> + Send + 'static,
    {
        let answer = self.question(question);
        let this = Arc::clone(self);
        async move {
            let asked = Instant::now();
            let answer = answer.await;
            let verdict = match &answer {
                Ok(Ok(_)) => Verdict::Allowed,
                Ok(Err(_)) => Verdict::Denied,
                Err(Failure::TooLate) => Verdict::TimedOut,
                Err(Failure::Panicked(_) | Failure::NoRuntime) => Verdict::Failed,
            };
            this.times.record(kind, verdict, asked.elapsed());
            answer.map_err(|failure| {
                this.complain(kind.as_str(), &failure);
                Refused::unanswered()
            })
        }
    }

    fn question<T, F>(&self, question: F) -> impl Future<Output = Result<T, Failure>> + Send + use<T, F>
    where
        T: Send + 'static,
        F: Future<Output = T> + Send + 'static,
    {
        let (questions, runtime, limit) = (self.questions.clone(), self.runtime.clone(), self.timeout());
        // The deadline runs on the thread of the caller: a hook may block the thread of its own runtime.
        async move {
            let answer = async {
                let place = questions.enter().await;
                run(&runtime, async move {
                    // Held by the hook, so that a blocking hook still counts after its time.
                    let _place = place;
                    question.await
                })
                .await
            };
            timeout(limit, answer).await.unwrap_or(Err(Failure::TooLate))
        }
    }

    /// Calls an observer, and returns at its end or at the end of its time.
    pub(super) async fn notify(&self, name: &'static str, observer: impl Future<Output = ()> + Send + 'static) {
        let told = timeout(self.timeout(), run(&self.runtime, observer)).await.unwrap_or(Err(Failure::TooLate));
        if let Err(failure) = told {
            self.complain(name, &failure);
        }
    }

    fn complain(&self, name: &str, failure: &Failure) {
        // A broken hook is broken for every client, and the log must not delay the clients that are served.
        let second = u32::try_from(self.begun.elapsed().as_secs()).unwrap_or(u32::MAX);
        if !self.lines.take(second) {
            return;
        }
        match failure {
            Failure::TooLate => {
                let timeout = in_words(self.timeout());
                log::error!(hook = name; "hook {name}: did not end within hook_timeout ({timeout}) and was given up");
            }
            Failure::Panicked(reason) => log::error!(hook = name; "hook {name}: {reason}"),
            Failure::NoRuntime => log::error!(hook = name; "hook {name}: the runtime of the hooks has been shut down"),
        }
    }
}

/// Runs a hook on its runtime, and drops the hook if the caller goes away.
async fn run<T: Send + 'static>(
    runtime: &Handle,
    hook: impl Future<Output = T> + Send + 'static,
) -> Result<T, Failure> {
    let task = runtime.spawn(hook);
    let _abort = AbortOnDrop(task.abort_handle());
    task.await.map_err(|error: JoinError| match error.try_into_panic() {
        Ok(panic) => Failure::Panicked(ExitReason::from_unwind(panic)),
        Err(_cancelled) => Failure::NoRuntime,
    })
}

/// Aborts a task on drop. For a task that has ended, the abort does nothing.
struct AbortOnDrop(AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Returns whether the identity lets its client subscribe to the topic, or an error if not; `false` if the hook decides.
pub(crate) fn granted_subscribe(identity: &Identity, topic: &TopicName) -> Result<bool, Refused> {
    decided(identity.decides_subscribe(topic), "subscribe to")
}

/// Returns whether the identity lets its client publish to the topic, as [`granted_subscribe`].
pub(crate) fn granted_publish(identity: &Identity, topic: &TopicName) -> Result<bool, Refused> {
    decided(identity.publish.decide(topic), "publish to")
}

/// Returns whether a topic is granted by the identity, or an error if not; `false` if the hook decides.
fn decided(may: Option<bool>, what: &str) -> Result<bool, Refused> {
    match may {
        Some(false) => Err(Refused::new(ErrorCode::Forbidden, format!("this client may not {what} this topic"))),
        may => Ok(may == Some(true)),
    }
}

async fn allowed(answer: impl Future<Output = Result<Result<(), Denied>, Refused>>) -> Result<(), Refused> {
    answer.await?.map_err(|denied| Refused::denied(denied, ErrorCode::Forbidden))
}

impl fmt::Debug for HookRunner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HookRunner").field("timeout", &self.timeout()).field("lost", &self.lost).finish_non_exhaustive()
    }
}

/// [`Hooks`] as a trait object. The public trait is not dyn compatible, because each implementation has its own future
/// types.
pub(crate) trait AnyHooks: Send + Sync {
    fn are_needed(&self) -> bool;
    fn authenticate(&self, request: ConnectRequest) -> BoxFuture<'_, Result<Identity, Denied>>;
    fn refresh<'a>(&'a self, client: &'a Client, auth: String) -> BoxFuture<'a, Result<Identity, Denied>>;
    fn authorize_subscribe<'a>(&'a self, client: &'a Client, topic: &'a TopicName)
    -> BoxFuture<'a, Result<(), Denied>>;
    fn authorize_publish<'a>(
        &'a self,
        client: &'a Client,
        topic: &'a TopicName,
        publication: &'a Publication,
    ) -> BoxFuture<'a, Result<(), Denied>>;
    fn connected<'a>(&'a self, client: &'a Client) -> BoxFuture<'a, ()>;
    fn disconnected<'a>(&'a self, client: &'a Client, why: Disconnect) -> BoxFuture<'a, ()>;
    fn slow<'a>(&'a self, client: &'a Client, lag: &'a SlowClient) -> BoxFuture<'a, ()>;
    fn dropped<'a>(&'a self, topic: &'a TopicName, messages: u64, why: DropReason) -> BoxFuture<'a, ()>;
    fn topic_occupied<'a>(&'a self, topic: &'a TopicName) -> BoxFuture<'a, ()>;
    fn topic_vacated<'a>(&'a self, topic: &'a TopicName) -> BoxFuture<'a, ()>;
}

impl<H: Hooks> AnyHooks for H {
    fn are_needed(&self) -> bool {
        Hooks::are_needed(self)
    }

    fn authenticate(&self, request: ConnectRequest) -> BoxFuture<'_, Result<Identity, Denied>> {
        Box::pin(Hooks::authenticate(self, request))
    }

    fn refresh<'a>(&'a self, client: &'a Client, auth: String) -> BoxFuture<'a, Result<Identity, Denied>> {
        Box::pin(Hooks::refresh(self, client, auth))
    }

    fn authorize_subscribe<'a>(
        &'a self,
        client: &'a Client,
        topic: &'a TopicName,
    ) -> BoxFuture<'a, Result<(), Denied>> {
        Box::pin(Hooks::authorize_subscribe(self, client, topic))
    }

    fn authorize_publish<'a>(
        &'a self,
        client: &'a Client,
        topic: &'a TopicName,
        publication: &'a Publication,
    ) -> BoxFuture<'a, Result<(), Denied>> {
        Box::pin(Hooks::authorize_publish(self, client, topic, publication))
    }

    fn connected<'a>(&'a self, client: &'a Client) -> BoxFuture<'a, ()> {
        Box::pin(Hooks::connected(self, client))
    }

    fn disconnected<'a>(&'a self, client: &'a Client, why: Disconnect) -> BoxFuture<'a, ()> {
        Box::pin(Hooks::disconnected(self, client, why))
    }

    fn slow<'a>(&'a self, client: &'a Client, lag: &'a SlowClient) -> BoxFuture<'a, ()> {
        Box::pin(Hooks::slow(self, client, lag))
    }

    fn dropped<'a>(&'a self, topic: &'a TopicName, messages: u64, why: DropReason) -> BoxFuture<'a, ()> {
        Box::pin(Hooks::dropped(self, topic, messages, why))
    }

    fn topic_occupied<'a>(&'a self, topic: &'a TopicName) -> BoxFuture<'a, ()> {
        Box::pin(Hooks::topic_occupied(self, topic))
    }

    fn topic_vacated<'a>(&'a self, topic: &'a TopicName) -> BoxFuture<'a, ()> {
        Box::pin(Hooks::topic_vacated(self, topic))
    }
}
