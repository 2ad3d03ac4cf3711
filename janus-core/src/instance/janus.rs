//! The handle of a running instance: publish, subscribe, look, and end.
//!
//! An instance runs on threads of its own: a control thread for supervisors, a home arbiter for the actors, and the
//! senders. Nothing here is global, nothing touches signals, the logger, the panic hook or the process. Other parts of
//! the handle are in `clients.rs`, `topics.rs`, `serve.rs`, `stats.rs` and `typed.rs`.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock, Weak};

use serde::Serialize;
use tokio::sync::oneshot;

use super::application;
use super::builder::Builder;
use super::cluster::Node;
use super::drain::{DrainReport, drain};
use super::metrics::Work;
use super::shared::Shared;
use crate::accounts::Account;
use crate::connection::Connections;
use crate::ground::figures::Via;
use crate::ground::trace::{Trace, TraceError, TraceOptions};
use crate::hooks::HookThread;
use crate::supervision::{Arbiter, ExitReason, Place, SupervisorRef, Tree};
use crate::topic::history::{History, HistoryError};
use crate::topic::publish::{Message, Pending, PublishError, Publisher, Receipt, Reply, route, told};
use crate::topic::subscriber::{SubscribeError, SubscribeOptions, Subscriber};
use crate::topic::{Handover, Waiter};
use crate::wire::{HistoryQuery, Position, Publication, Since, TopicName};

/// A running Janus. Clones are handles to the same instance; after the last handle is dropped the instance stops at
/// once, without the drain of [`shutdown`](Self::shutdown).
///
/// ```
/// use janus_core::{Config, Janus};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let config = Config { listen: vec!["127.0.0.1:0".parse()?], ..Config::default() };
/// let janus = Janus::builder().config(config).start().await?;
/// let receipt = janus.publish("news", "hello").await?;
/// assert_eq!(receipt.subscribers, 0);
/// janus.shutdown().await;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Janus {
    pub(super) inner: Arc<Inner>,
}

#[derive(Debug)]
pub(super) struct Inner {
    pub(super) shared: Arc<Shared>,
    pub(super) root: SupervisorRef,
    pub(super) control: Place,
    /// The work of the threads with actors.
    pub(super) work: Work,
    /// The instance as a node of a cluster, if there is an engine.
    pub(super) node: Option<Arc<Node>>,
    /// A second caller of `shutdown` waits for the drain under way.
    pub(super) drained: Arc<tokio::sync::OnceCell<DrainReport>>,
    /// `None` once the threads have been joined, or if the instance has no threads of its own. Behind an async lock, so
    /// that a second caller of `shutdown` returns when the first is done, and not before.
    pub(super) threads: tokio::sync::Mutex<Option<Threads>>,
}

/// A handle that does not keep an instance running, for parts of the instance: the embedder's own actors, and hooks.
#[derive(Clone, Debug)]
pub struct WeakJanus {
    /// Empty until the instance is made, which is after the making of its hooks.
    inner: Arc<OnceLock<Weak<Inner>>>,
}

impl WeakJanus {
    pub(super) fn new(inner: Weak<Inner>) -> Self {
        Self { inner: Arc::new(inner.into()) }
    }

    /// The handle of an instance to come.
    pub(crate) fn to_come() -> Self {
        Self { inner: Arc::default() }
    }

    /// The instance has come. A second instance is not taken.
    pub(super) fn has_come(&self, inner: Weak<Inner>) {
        let _ = self.inner.set(inner);
    }

    /// The instance, unless its last handle is gone. While the result lives it keeps the instance running like any
    /// other handle.
    #[must_use]
    pub fn upgrade(&self) -> Option<Janus> {
        Some(Janus { inner: self.inner.get()?.upgrade()? })
    }
}

#[derive(Debug)]
pub(crate) struct Threads {
    pub(super) control: Arbiter,
    pub(super) homes: Vec<Arbiter>,
    /// For the embedder's children, if there are any.
    pub(super) application: Option<Arbiter>,
    /// For the embedder's hooks, if there are any without a runtime.
    pub(super) hooks: Option<HookThread>,
}

/// Runs a future on an arbiter and waits for its result without a runtime here; `None` if the arbiter ended.
///
/// The work on the arbiter continues if the returned future is dropped.
pub(super) async fn on<T: Send + 'static>(
    place: &Place,
    future: impl Future<Output = T> + Send + 'static,
) -> Option<T> {
    let (sender, receiver) = oneshot::channel();
    place
        .run(move || {
            tokio::task::spawn_local(async move {
                let _ = sender.send(future.await);
            });
        })
        .ok()?;
    receiver.await.ok()
}

impl Janus {
    /// Starts with the default settings; see [`Config`](crate::Config).
    #[must_use]
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// A handle that does not keep the instance running.
    #[must_use]
    pub fn downgrade(&self) -> WeakJanus {
        WeakJanus::new(Arc::downgrade(&self.inner))
    }

    /// The state that the actors share, for the parts of the handle in other files.
    pub(crate) fn tables(&self) -> &Arc<Connections> {
        &self.inner.shared.connections
    }

    /// The addresses of all listeners, with the real ports: those of `listen`, `tls_listen`, `http_listen` and
    /// `https_listen`, and of the [`Builder`], each in their order.
    #[must_use]
    pub fn local_addrs(&self) -> Vec<SocketAddr> {
        self.inner.shared.ports().filter_map(|endpoint| endpoint.addr).collect()
    }

    /// Publishes a message and waits for the place in the topic's order. While the topic's inflight limit is reached,
    /// the call first waits for room.
    ///
    /// Cancel safety: a future dropped while it waits for room publishes nothing; dropped later, the message is
    /// published and its receipt is lost.
    ///
    /// # Errors
    ///
    /// Why the message was not published; see [`PublishError`].
    pub async fn publish(&self, topic: &str, data: &(impl Serialize + ?Sized)) -> Result<Receipt, PublishError> {
        self.publish_message(told(Message::new(topic, data), &self.inner.shared.figures)?).await
    }

    /// Publishes a message with an event or a message id; otherwise like [`publish`](Self::publish).
    ///
    /// # Errors
    ///
    /// Why the message was not published; see [`PublishError`].
    pub async fn publish_message(&self, message: Message) -> Result<Receipt, PublishError> {
        let shared = &self.inner.shared;
        let (topic, publication) = told(message.into_parts(&shared.config()), &shared.figures)?;
        self.publish_parts(topic, publication, None).await
    }

    /// Publishes a message that has been checked, for the account of an address or for the program.
    pub(super) async fn publish_parts(
        &self,
        topic: TopicName,
        publication: Publication,
        account: Option<&Arc<Account>>,
    ) -> Result<Receipt, PublishError> {
        let shared = &self.inner.shared;
        let by = Publisher { account, home: None };
        let (reply, receipt) = Reply::promise(Via::API);
        let mut pending = Some(Pending { publication, reply });
        let (mut last, mut place) = (None, None);
        std::future::poll_fn(|cx| {
            let offered = pending.take().expect("the future is not polled after it is ready");
            let waiter = Waiter { waker: cx.waker(), place: &mut place };
            match route(shared, &mut last, &topic, by, offered, Some(waiter)) {
                Ok(()) => std::task::Poll::Ready(()),
                Err(refused) => {
                    pending = Some(refused);
                    std::task::Poll::Pending
                }
            }
        })
        .await;
        told(receipt.await.unwrap_or(Err(PublishError::TopicCrashed)), &shared.figures)
    }

    /// Publishes a message if its topic has room now; the returned future tells the outcome and may be dropped.
    ///
    /// # Errors
    ///
    /// [`PublishError::Full`] if there is no room; otherwise like [`publish`](Self::publish).
    pub fn try_publish(
        &self,
        message: Message,
    ) -> Result<impl Future<Output = Result<Receipt, PublishError>> + Send + use<>, PublishError> {
        let shared = &self.inner.shared;
        let (topic, publication) = told(message.into_parts(&shared.config()), &shared.figures)?;
        let (reply, receipt) = Reply::promise(Via::API);
        if let Err(pending) =
            route(shared, &mut None, &topic, Publisher::default(), Pending { publication, reply }, None)
        {
            pending.refuse(PublishError::Full);
            return told(Err(PublishError::Full), &shared.figures);
        }
        let figures = Arc::clone(&shared.figures);
        Ok(async move { told(receipt.await.unwrap_or(Err(PublishError::TopicCrashed)), &figures) })
    }

    /// Subscribes this process to a topic, from the next message on. The topic is made if there is none.
    ///
    /// # Errors
    ///
    /// See [`SubscribeError`].
    pub fn subscribe(&self, topic: &str) -> Result<Subscriber, SubscribeError> {
        self.subscribe_with(topic, SubscribeOptions::default())
    }

    /// Subscribes with options: a position to resume from, limits, a policy. Otherwise like
    /// [`subscribe`](Self::subscribe).
    ///
    /// ```
    /// use janus_core::{Config, Event, Janus, SubscribeOptions};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let config = Config { listen: vec!["127.0.0.1:0".parse()?], ..Config::default() };
    /// # let janus = Janus::builder().config(config).start().await?;
    /// let subscriber = janus.subscribe("news")?;
    /// let position = subscriber.position();
    /// drop(subscriber);
    /// janus.publish("news", "while nobody listened").await?;
    ///
    /// let mut subscriber = janus.subscribe_with("news", SubscribeOptions::default().since(position))?;
    /// let resumption = subscriber.ready().await?;
    /// assert_eq!((resumption.resumed, resumption.missed), (true, 1));
    /// let Some(Event::Message(message)) = subscriber.next().await else { panic!("one was missed") };
    /// assert_eq!(message.data(), "\"while nobody listened\"");
    /// # janus.shutdown().await;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// See [`SubscribeError`].
    pub fn subscribe_with(&self, topic: &str, options: SubscribeOptions) -> Result<Subscriber, SubscribeError> {
        Subscriber::new(&self.inner.shared.topics, topic, options)
    }

    /// Messages of a topic whose namespace keeps history: the first `limit` after `since`, or the last `limit` without
    /// a position.
    ///
    /// A history longer than the limit is read in parts:
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use janus_core::{Config, Epoch, Janus, Namespace, Position};
    ///
    /// let default_namespace = Namespace { history: true, ..Namespace::default() };
    /// let config = Config { default_namespace, ..Config::default() };
    /// # let config = Config { listen: vec!["127.0.0.1:0".parse()?], http_listen: vec![], ..config };
    /// let janus = Janus::builder().config(config).start().await?;
    /// for number in 1..=5 {
    ///     janus.publish("news", &number).await?;
    /// }
    /// // A position that is of no life of the topic is before everything.
    /// let mut history = janus.history("news", Some(Position { epoch: Epoch::NONE, seq: 0 }), 2).await?;
    /// let mut parts = vec![history.messages.len()];
    /// while history.more {
    ///     history = janus.history("news", Some(history.position), 2).await?;
    ///     assert!(history.complete);
    ///     parts.push(history.messages.len());
    /// }
    /// assert_eq!(parts, [2, 2, 1]);
    /// # janus.shutdown().await;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// See [`HistoryError`].
    ///
    /// # Cancel safety
    ///
    /// Cancel safe. Without an [engine](crate::engine) the answer is there at once; in a cluster the engine may have to be
    /// asked, once for each topic.
    pub async fn history(&self, topic: &str, since: Option<Position>, limit: usize) -> Result<History, HistoryError> {
        let since = since.map(Since::Position);
        self.read_history(topic, HistoryQuery { since, ..HistoryQuery::latest(limit) }).await
    }

    /// As [`history`](Self::history), with a choice of the place to begin, of the order, and of a limit in bytes.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use janus_core::wire::HistoryQuery;
    /// use janus_core::{Config, Janus, Namespace};
    ///
    /// let default_namespace = Namespace { history: true, ..Namespace::default() };
    /// let config = Config { default_namespace, ..Config::default() };
    /// # let config = Config { listen: vec!["127.0.0.1:0".parse()?], http_listen: vec![], ..config };
    /// let janus = Janus::builder().config(config).start().await?;
    /// for number in 1..=5 {
    ///     janus.publish("news", &number).await?;
    /// }
    /// let newest = janus.read_history("news", HistoryQuery::latest(2).reversed()).await?;
    /// let numbers: Vec<_> = newest.messages.iter().map(|message| message.seq()).collect();
    /// assert_eq!((numbers, newest.more, newest.top), (vec![5, 4], true, 5));
    /// # janus.shutdown().await;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// See [`HistoryError`].
    ///
    /// # Cancel safety
    ///
    /// As [`history`](Self::history).
    pub async fn read_history(&self, topic: &str, query: HistoryQuery) -> Result<History, HistoryError> {
        self.inner.shared.topics.read_history(topic, query).await
    }

    /// The supervision tree as it is now: as data, and with `{}` as a picture for a log or a terminal.
    #[must_use]
    pub fn tree(&self) -> Tree {
        self.inner.root.tree()
    }

    /// The tree with at most `limit` children of each supervisor; children that do not run or that had to be restarted
    /// are listed before others. For an instance with thousands of topics, whose whole tree takes megabytes.
    #[must_use]
    pub fn tree_within(&self, limit: usize) -> Tree {
        self.inner.root.tree_within(limit)
    }

    /// Traces the messages between the actors of the tree from now on, for a reader who wants to watch the instance at
    /// work. Without a trace, a message costs a look at a flag; with one, it takes some microseconds to put into words.
    /// Four traces may run at a time, and no actor waits for their readers.
    ///
    /// ```
    /// use janus_core::{Config, Janus, TraceKind, TraceOptions};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let config = Config { listen: vec!["127.0.0.1:0".parse()?], http_listen: vec![], ..Config::default() };
    /// # let janus = Janus::builder().config(config).start().await?;
    /// let options = TraceOptions::default().kinds([TraceKind::Subscribe]).names(["topic quotes:*"]).count(1);
    /// let mut trace = janus.trace(options)?;
    /// let _subscribers = [janus.subscribe("news")?, janus.subscribe("quotes:eur")?];
    /// let line = trace.next().await.expect("there is one of the kind and the name");
    /// assert_eq!(line.to, "topic quotes:eur");
    /// assert_eq!(trace.next().await, None);
    /// # janus.shutdown().await;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// See [`TraceError`].
    pub fn trace(&self, options: TraceOptions) -> Result<Trace, TraceError> {
        self.inner.shared.tracer.start(options, self.inner.root.subscribe().ok())
    }

    /// Waits until the tree has ended, by [`shutdown`](Self::shutdown) or because the tree gave up, and returns the
    /// reason.
    ///
    /// Cancel safe; any number of callers may wait.
    pub async fn wait(&self) -> ExitReason {
        let reason = self.inner.root.wait().await;
        // The thread of the tree's end may be about to close the instance; a caller that knows of the end must not find
        // it open.
        self.inner.shared.close();
        self.inner.shared.verdict.lock().clone().unwrap_or(reason)
    }

    /// Drains and ends the instance: no new connections, no new messages; then connections are closed over
    /// `drain_period`, a few at a time, each with a FIN after its queued messages; then the tree stops. The call takes
    /// at most `drain_timeout`, and no longer than there are connections; observers among the [hooks](crate::hooks)
    /// then hear the remaining news, within `hook_timeout`. Afterwards no thread is left, except a thread blocked by
    /// the embedder's own code.
    ///
    /// Any number of callers may wait for the drain, and all get the same report. A caller that goes away does not stop
    /// it.
    pub async fn shutdown(&self) -> DrainReport {
        let (shared, root) = (Arc::clone(&self.inner.shared), self.inner.root.clone());
        let drained = Arc::clone(&self.inner.drained);
        let drained = async move { *drained.get_or_init(|| drain(&shared, &root)).await };
        // The control thread may end while this caller waits, if another caller has waited for the same drain.
        let report = match on(&self.inner.control, drained).await {
            Some(report) => report,
            None => self.inner.drained.get().copied().unwrap_or_default(),
        };
        let mut threads = self.inner.threads.lock().await;
        if let Some(threads) = threads.take() {
            let (done, joined) = oneshot::channel();
            let shared = Arc::clone(&self.inner.shared);
            // Joining blocks, and the caller's runtime must not.
            let joiner = std::thread::Builder::new().name("janus-shutdown".to_owned()).spawn(move || {
                if let Some(arbiter) = threads.application {
                    application::stop(arbiter);
                }
                if let Some(thread) = threads.hooks {
                    thread.stop();
                }
                threads.homes.into_iter().for_each(Arbiter::stop);
                threads.control.stop();
                shared.senders.join();
                #[cfg(feature = "tls")]
                if let Some(tls) = &shared.tls {
                    tls.handshakes.join();
                }
                drop(shared);
                let _ = done.send(());
            });
            if joiner.is_ok() {
                let _ = joined.await;
            }
        }
        report
    }

    /// The end of each topic, for the instance that [continues](Builder::continue_from) from there. `None` before the
    /// first [`shutdown`](Self::shutdown) has returned, and for an instance that has ended in any other way: then no
    /// number can be continued.
    #[must_use]
    pub fn handover(&self) -> Option<Handover> {
        self.inner.shared.handover.get().cloned()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;
    use tokio::time::Instant;

    use std::time::Duration;

    use super::*;
    use crate::config::Config;

    #[tokio::test]
    async fn an_instance_that_has_ended_leaves_no_memory_behind() {
        let config = Config { listen: vec![SocketAddr::from(([127, 0, 0, 1], 0))], ..Config::default() };
        let janus = Janus::builder().config(config).start().await.unwrap();
        let shared = Arc::downgrade(&janus.inner.shared);
        // A topic, whose factory holds the tables.
        let mut client = TcpStream::connect(janus.local_addrs()[0]).await.unwrap();
        client.write_all(b"{\"action\":\"subscribe\",\"data\":\"news\"}\0").await.unwrap();
        let mut received = Vec::new();
        while !received.ends_with(b"ACK\x01") {
            client.read_buf(&mut received).await.unwrap();
        }
        drop(client);
        janus.shutdown().await;
        drop(janus);
        // Threads of the instance may be about to let go.
        let deadline = Instant::now() + Duration::from_secs(10);
        while shared.strong_count() > 0 && Instant::now() < deadline {
            tokio::task::yield_now().await;
        }
        assert_eq!(shared.strong_count(), 0, "nothing refers to the tables in a circle");
    }
}
