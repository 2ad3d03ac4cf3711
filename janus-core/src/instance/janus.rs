//! The handle of a running instance: publish, subscribe, look, and end.
//!
//! An instance runs on threads of its own: a control thread for supervisors, a home arbiter for the actors, and the
//! senders. Nothing here is global, nothing touches signals, the logger, the panic hook or the process. Other parts of
//! the handle are in `clients.rs`, `stats.rs` and `typed.rs`.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Weak};

use serde::Serialize;
use tokio::sync::oneshot;

use super::application;
use super::builder::Builder;
use super::drain::{DrainReport, drain};
use super::shared::Shared;
use crate::connection::Connections;
use crate::connection::acceptor::{admit, count_refusal, prepare, serve_with};
use crate::connection::listener::{Incoming, Origin};
use crate::connection::slow_clients::slow_clients;
use crate::connection::transport::{CONTROL_TIMEOUT, refusal};
use crate::delivery::Link;
use crate::delivery::codecs::TooManyCodecs;
use crate::ground::trace::{Trace, TraceError, TraceOptions};
use crate::hooks::{HookThread, SlowClient};
use crate::session::proxy_mapper::{ListSessions, Locate, ProxyMapper};
use crate::session::{SessionInfo, SessionToken};
use crate::supervision::{Arbiter, ExitReason, Place, SupervisorRef, Tree};
use crate::topic::publish::{Message, Pending, PublishError, Receipt, Reply, route};
use crate::topic::subscriber::{History, HistoryError, SubscribeError, SubscribeOptions, Subscriber, history};
use crate::topic::{TopicInfo, Waiter};
use crate::wire::{Codec, Decoder, ErrorCode, Limits, Position, Refusal};

/// Topics looked up before the table is free for other callers.
const TOPICS_PORTION: usize = 1_024;

const HOME_BEHIND: &str = "the server is overloaded; try again later";

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
    /// A second caller of `shutdown` waits for the drain under way.
    pub(super) drained: Arc<tokio::sync::OnceCell<DrainReport>>,
    /// `None` once the threads have been joined, or if the instance has no own threads. Behind an async lock, so that a
    /// second caller of `shutdown` returns when the first is done, and not before.
    pub(super) threads: tokio::sync::Mutex<Option<Threads>>,
}

/// A handle that does not keep an instance running, for parts of the instance: the embedder's own actors.
#[derive(Clone, Debug)]
pub struct WeakJanus {
    pub(super) inner: Weak<Inner>,
}

impl WeakJanus {
    /// The instance, unless its last handle is gone. While the result lives it keeps the instance running like any
    /// other handle.
    #[must_use]
    pub fn upgrade(&self) -> Option<Janus> {
        Some(Janus { inner: self.inner.upgrade()? })
    }
}

#[derive(Debug)]
pub(crate) struct Threads {
    pub(super) control: Arbiter,
    pub(super) home: Arbiter,
    /// For the embedder's children, if there are any.
    pub(super) application: Option<Arbiter>,
    /// For the embedder's hooks, if there are any without a runtime.
    pub(super) hooks: Option<HookThread>,
}

/// Why a stream is not served. The stream has been dropped.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// There is no room for another client: `max_connections` are open or on their way, memory is nearly used up, or the home
    /// arbiter is far behind. Try again later.
    #[error("{message}")]
    Full {
        /// The code that a client of a listener would have been told.
        code: ErrorCode,
        /// The same for people.
        message: &'static str,
    },
    /// The instance is shutting down, or has ended.
    #[error("the instance is shutting down")]
    ShuttingDown,
    /// The streams speak too many wire formats.
    #[error("too many codecs")]
    Codecs(#[from] TooManyCodecs),
    /// The socket cannot be taken from its runtime.
    #[error("the socket cannot be moved to another runtime")]
    Stream(#[source] io::Error),
}

impl ServeError {
    /// The refusal that a client of a listener would have been told. An HTTP server answers with
    /// [`HttpError::from`](crate::wire::HttpError) the refusal or, to a browser that reads events, with
    /// [`Sse::farewell`](crate::wire::Sse::farewell).
    #[must_use]
    pub fn refusal(&self) -> Refusal<'_> {
        match self {
            Self::Full { code, message } => refusal(*code, message),
            Self::ShuttingDown => refusal(ErrorCode::ServerDraining, "the server is shutting down"),
            Self::Codecs(_) | Self::Stream(_) => {
                refusal(ErrorCode::Internal, "internal error; the log of the server has the cause")
            }
        }
    }
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
        WeakJanus { inner: Arc::downgrade(&self.inner) }
    }

    /// The state that the actors share, for the parts of the handle in other files.
    pub(crate) fn tables(&self) -> &Arc<Connections> {
        &self.inner.shared.connections
    }

    /// The addresses of all listeners, with the real ports: those of `listen`, of `http_listen`, and of the
    /// [`Builder`], each in their order.
    #[must_use]
    pub fn local_addrs(&self) -> Vec<SocketAddr> {
        self.inner.shared.endpoints.iter().filter_map(|endpoint| endpoint.addr).collect()
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
        self.publish_message(Message::new(topic, data)?).await
    }

    /// The same as [`publish`](Self::publish), for a message with an event or a message id.
    ///
    /// # Errors
    ///
    /// Why the message was not published; see [`PublishError`].
    pub async fn publish_message(&self, message: Message) -> Result<Receipt, PublishError> {
        let shared = &self.inner.shared;
        let (topic, publication) = message.into_parts(&shared.config)?;
        let (reply, receipt) = Reply::promise();
        let mut pending = Some(Pending { publication, reply });
        let (mut last, mut place) = (None, None);
        std::future::poll_fn(|cx| {
            let offered = pending.take().expect("the future is not polled after it is ready");
            let waiter = Waiter { waker: cx.waker(), place: &mut place };
            match route(shared, &mut last, &topic, None, offered, Some(waiter)) {
                Ok(()) => std::task::Poll::Ready(()),
                Err(refused) => {
                    pending = Some(refused);
                    std::task::Poll::Pending
                }
            }
        })
        .await;
        receipt.await.unwrap_or(Err(PublishError::TopicCrashed))
    }

    /// Publishes a message if its topic has room now; the returned future tells the outcome and may be dropped.
    ///
    /// # Errors
    ///
    /// [`PublishError::Full`] if there is no room; otherwise as [`publish`](Self::publish).
    pub fn try_publish(
        &self,
        message: Message,
    ) -> Result<impl Future<Output = Result<Receipt, PublishError>> + Send + use<>, PublishError> {
        let shared = &self.inner.shared;
        let (topic, publication) = message.into_parts(&shared.config)?;
        let (reply, receipt) = Reply::promise();
        if let Err(pending) = route(shared, &mut None, &topic, None, Pending { publication, reply }, None) {
            pending.refuse(PublishError::Full);
            return Err(PublishError::Full);
        }
        Ok(async move { receipt.await.unwrap_or(Err(PublishError::TopicCrashed)) })
    }

    /// Subscribes this process to a topic, from the next message on. The topic is made if there is none.
    ///
    /// # Errors
    ///
    /// See [`SubscribeError`].
    pub fn subscribe(&self, topic: &str) -> Result<Subscriber, SubscribeError> {
        self.subscribe_with(topic, SubscribeOptions::default())
    }

    /// Subscribes with a position to resume from, or with own limits and an own policy; otherwise like
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
    /// assert_eq!((subscriber.resumption().resumed, subscriber.resumption().missed), (true, 1));
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
    /// let mut history = janus.history("news", Some(Position { epoch: Epoch::NONE, seq: 0 }), 2)?;
    /// let mut parts = vec![history.messages.len()];
    /// while history.more {
    ///     history = janus.history("news", Some(history.position), 2)?;
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
    pub fn history(&self, topic: &str, since: Option<Position>, limit: usize) -> Result<History, HistoryError> {
        history(&self.inner.shared, topic, since, limit)
    }

    /// Serves a byte stream whose client speaks `codec`. Make the codec once and share it between all streams.
    ///
    /// This is how a connection of another server becomes a client: a connection upgraded by a web framework, TLS, a
    /// pipe. `decoder` is the codec's own by default ([`Codec::decoder`]), or a decoder that knows the beginning of the
    /// stream. The connection counts against `max_connections` from this call on. Its client may publish if the stream
    /// comes from this machine and shows no sign of a proxy
    /// ([`HttpRequest::is_forwarded`](crate::wire::HttpRequest::is_forwarded)), or if `allow_publish` says so.
    ///
    /// Give a [`tokio::net::TcpStream`] as [`Incoming::tcp`], and a Unix socket as `Incoming::unix`: then delivery
    /// writes to the socket itself. The stream is moved to Janus's own threads. If the stream needs a runtime to make
    /// progress, the runtime must stay alive.
    ///
    /// # Errors
    ///
    /// See [`ServeError`].
    pub fn serve(
        &self,
        incoming: Incoming,
        codec: &Arc<dyn Codec>,
        decoder: Option<Box<dyn Decoder>>,
    ) -> Result<(), ServeError> {
        let shared = self.tables();
        if shared.is_draining() {
            return Err(ServeError::ShuttingDown);
        }
        // Before anything is queued: connections on their way to the home arbiter, which may be busy, have a limit,
        // too.
        let place = admit(shared).map_err(|(code, message)| {
            count_refusal(shared, incoming.peer, code);
            ServeError::Full { code, message }
        })?;
        let is_local = incoming.peer.is_local();
        let codec_id = shared.codecs().register(codec)?;
        let origin = Arc::new(Origin { codec: Arc::clone(codec), codec_id, is_local, pass_on: None });
        let decoder = decoder.unwrap_or_else(|| codec.decoder());
        prepare(&incoming, &shared.config);
        // A socket belongs to the reactor of its origin.
        let Incoming { link, peer, .. } = incoming;
        let stream = link.leave_reactor().map_err(ServeError::Stream)?;
        let connections = Arc::clone(shared);
        // The place goes along, and comes back with a job that is not run.
        let served = shared.home.run(move || match Link::enter_reactor(stream, peer) {
            Ok(link) => serve_with(&connections, place, link, peer, &origin, decoder),
            Err(error) => log::error!("{peer}: closed, because the socket cannot be registered: {error}"),
        });
        served.map_err(|_| match shared.is_draining() {
            true => ServeError::ShuttingDown,
            // The home arbiter is behind with more jobs than its limit, or about to be found dead.
            false => ServeError::Full { code: ErrorCode::ServerOverloaded, message: HOME_BEHIND },
        })
    }

    /// The limits of frames and names, as decoders enforce them.
    #[must_use]
    pub fn limits(&self) -> Limits {
        self.inner.shared.wire_limits()
    }

    /// The listed sessions, with and without a connection. Empty once the instance has ended.
    pub async fn sessions(&self) -> Vec<SessionInfo> {
        self.ask_proxy_mapper(|| ListSessions).await.unwrap_or_default()
    }

    /// The session of a token, which its client got in the greeting; `None` if no such session is listed, or once the
    /// instance has ended.
    pub async fn session(&self, token: SessionToken) -> Option<SessionInfo> {
        self.ask_proxy_mapper(move || Locate(token)).await.flatten()
    }

    /// Calls the ProxyMapper, or the successor after a crash; `None` if neither answers in time.
    async fn ask_proxy_mapper<M>(&self, request: impl Fn() -> M + Send + 'static) -> Option<M::Result>
    where
        ProxyMapper: actix::Handler<M>,
        M: actix::Message + Send + 'static,
        M::Result: Send,
    {
        let mapper = self.inner.shared.proxy_mapper.clone();
        let ask = async move {
            loop {
                match mapper.call(request()).await {
                    Ok(answer) => return answer,
                    Err(_) => mapper.when_up(None).await,
                };
            }
        };
        on(&self.inner.control, async move { tokio::time::timeout(CONTROL_TIMEOUT, ask).await.ok() }).await.flatten()
    }

    /// The clients that lag the most, largest queue first, at most `count` of them.
    ///
    /// Empty while all clients keep up. The call looks at every connection; call it every few seconds, not for every
    /// message.
    #[must_use]
    pub fn slow_clients(&self, count: usize) -> Vec<SlowClient> {
        slow_clients(&self.inner.shared, count)
    }

    /// The existing topics in the order of their names: the first `limit` after `after`.
    ///
    /// To see all, begin with an empty name and continue after the last name of each page until a page is empty. A
    /// topic made or ended in between may be listed or not, and no topic is listed twice. The cost of a call depends on
    /// the length of its page, not on the number of topics.
    ///
    /// ```
    /// # use janus_core::{Config, Janus};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let config = Config { listen: vec!["127.0.0.1:0".parse()?], http_listen: vec![], ..Config::default() };
    /// # let janus = Janus::builder().config(config).start().await?;
    /// let _subscribers = ["news", "quotes:ACME", "quotes:INITECH"].map(|topic| janus.subscribe(topic));
    /// let mut names = Vec::new();
    /// let mut page = janus.topics_after("", 2);
    /// while let Some(last) = page.last() {
    ///     let after = last.name.clone();
    ///     names.extend(page.iter().map(|topic| topic.name.to_string()));
    ///     page = janus.topics_after(after.as_str(), 2);
    /// }
    /// assert_eq!(names, ["news", "quotes:ACME", "quotes:INITECH"]);
    /// # janus.shutdown().await;
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn topics_after(&self, after: &str, limit: usize) -> Vec<TopicInfo> {
        let table = &self.inner.shared.topics.table;
        let mut page: Vec<TopicInfo> = Vec::new();
        loop {
            let count = (limit - page.len()).min(TOPICS_PORTION);
            let last = page.last().map_or(after, |topic| topic.name.as_str());
            let portion = table.page(last, count);
            // Their state without the table's lock, or no publisher could reach another topic in the meantime.
            page.extend(portion.iter().map(|topic| topic.info()));
            if count == 0 || portion.len() < count {
                return page;
            }
        }
    }

    /// The existing topics, in no order. For thousands of topics, [`topics_after`](Self::topics_after) has pages.
    #[must_use]
    pub fn topics(&self) -> Vec<TopicInfo> {
        self.inner.shared.topics.table.all().iter().map(|topic| topic.info()).collect()
    }

    /// The state of one topic; `None` if it does not exist. To publish and subscribe, see [`topic`](Self::topic).
    #[must_use]
    pub fn topic_info(&self, name: &str) -> Option<TopicInfo> {
        self.inner.shared.topics.table.find(name).map(|topic| topic.info())
    }

    /// The supervision tree as it is now: as data, and with `{}` as a picture for a log or a terminal.
    #[must_use]
    pub fn tree(&self) -> Tree {
        self.inner.root.tree()
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
                threads.home.stop();
                threads.control.stop();
                shared.senders.join();
                drop(shared);
                let _ = done.send(());
            });
            if joiner.is_ok() {
                let _ = joined.await;
            }
        }
        report
    }
}

#[cfg(feature = "fault-injection")]
impl Janus {
    /// Makes a part of the tree fail, now or at its next chance.
    pub fn inject(&self, fault: crate::ground::fault::Fault) {
        use crate::ground::fault::{Crash, Fault};
        use crate::wire::Peer;
        let shared = &self.inner.shared;
        shared.faults.arm(&fault);
        let crash = Crash { hang: None };
        // An actor that is not running has crashed already.
        let _ = match fault {
            Fault::TopicManager => shared.topic_manager.cast(crash),
            Fault::Hang(time) => shared.topic_manager.cast(Crash { hang: Some(time) }),
            Fault::ProxyMapper => shared.proxy_mapper.cast(crash),
            Fault::Acceptor => {
                shared.endpoints.iter().try_for_each(|endpoint| endpoint.acceptor.cast(Crash { hang: None }))
            }
            Fault::Topic(name) => shared.topics.table.find(&name).map_or(Ok(()), |topic| topic.actor.cast(crash)),
            Fault::Transport(peer) => {
                shared.connections.table.visit(0..usize::MAX, |slot| {
                    if slot.peer == Some(Peer::Addr(peer)) {
                        slot.crash_transport();
                    }
                });
                Ok(())
            }
            Fault::TopicSend(_)
            | Fault::TopicCommit(_)
            | Fault::TopicStarts(_)
            | Fault::TopicListed
            | Fault::MemoryTaken(_)
            | Fault::TopicHang(_)
            | Fault::SenderSend(_) => Ok(()),
        };
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
    async fn a_stream_on_its_way_has_a_place_and_gives_it_back_if_it_never_arrives() {
        let config = Config { listen: Vec::new(), max_connections: 1, ..Config::default() };
        let janus = Janus::builder().config(config).start().await.unwrap();
        let codec: Arc<dyn Codec> = Arc::new(crate::wire::classic::Classic);
        let serve = || janus.serve(Incoming::stream(tokio::io::duplex(64).0), &codec, None);
        let shared = &janus.inner.shared;
        // The home arbiter is busy until it is told to end.
        let (release, released) = std::sync::mpsc::channel::<()>();
        let busy = move || {
            let _ = released.recv();
        };
        shared.home.run(busy).unwrap();
        // The arbiter looks for its end between some jobs and the next.
        for _ in 0..100 {
            shared.home.run(|| ()).unwrap();
        }
        serve().unwrap();
        assert_eq!((shared.connections.table.len(), shared.connections.table.all()), (0, 1));
        let refused = serve().unwrap_err();
        assert!(matches!(refused, ServeError::Full { code: ErrorCode::TooManyConnections, .. }), "{refused}");

        let threads = janus.inner.threads.lock().await.take().unwrap();
        drop(threads.home);
        drop(release);
        let deadline = Instant::now() + Duration::from_secs(10);
        while shared.connections.table.all() > 0 && Instant::now() < deadline {
            tokio::task::yield_now().await;
        }
        assert_eq!(shared.connections.table.all(), 0);
        // And with no arbiter to take it.
        let _ = serve().unwrap_err();
        assert_eq!(shared.connections.table.all(), 0);
    }

    #[tokio::test]
    async fn a_page_of_topics_has_to_do_with_no_topic_beyond_it() {
        let config = Config { listen: Vec::new(), http_listen: Vec::new(), ..Config::default() };
        let janus = Janus::builder().config(config).start().await.unwrap();
        let names: Vec<String> = (0..TOPICS_PORTION * 2 + 10).map(|number| format!("{number:05}")).collect();
        let subscribers: Vec<_> = names.iter().rev().map(|name| janus.subscribe(name).unwrap()).collect();
        let page = |after: &str, limit| -> Vec<String> {
            janus.topics_after(after, limit).iter().map(|topic| topic.name.to_string()).collect()
        };
        assert_eq!(page("", usize::MAX), names);
        assert_eq!(page("", TOPICS_PORTION + 1), names[..=TOPICS_PORTION]);
        assert_eq!(page("00002", 2), names[3..5]);
        assert_eq!(page("00002x", 1), names[3..4]);
        assert_eq!((page("", 0), page("9", 5)), (vec![], vec![]));

        let beyond = janus.inner.shared.topics.table.find("00002").unwrap();
        let (sender, receiver) = std::sync::mpsc::channel();
        let looked_at = beyond.while_locked(|| {
            let janus = janus.clone();
            std::thread::spawn(move || sender.send(janus.topics_after("", 2).len()));
            receiver.recv_timeout(Duration::from_secs(4))
        });
        assert_eq!(looked_at, Ok(2));
        drop(subscribers);
        janus.shutdown().await;
    }

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
