//! One Janus instance: how it starts, what it can be asked, how it ends.
//!
//! [`tree`] is the one function that shows the whole supervision tree. An instance runs on threads of its own: a
//! control thread for supervisors, a home arbiter for the actors, and the senders. Nothing here is global, nothing
//! touches signals, the logger, the panic hook or the process.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use serde::Serialize;
use tokio::sync::oneshot;

use crate::accounts::Accounts;
use crate::accounts::fairness::Fairness;
use crate::accounts::reached::Reached;
use crate::config::{Config, ConfigError};
use crate::connection::acceptor::{Acceptor, Endpoint, TcpPort, admit, count_refusal, prepare, serve_with};
use crate::connection::heartbeat;
use crate::connection::listener::{Incoming, Listener, Origin, PassOn, PassedOn};
use crate::connection::slow_clients::{Lines, SlowClient, slow_clients};
use crate::connection::socket_options::Told;
use crate::connection::transport::{CONTROL_TIMEOUT, refusal};
use crate::connection::turn::Turns;
use crate::delivery::codecs::TooManyCodecs;
use crate::delivery::sender_threads;
use crate::delivery::{Codecs, Ledger, Link, SenderPool, Terms};
use crate::ground::trace::{Trace, TraceError, TraceOptions};
use crate::hooks::{self, HookRunner, HookSettings, HookThread};
use crate::instance::application::{self, Children};
use crate::instance::drain::drain;
use crate::instance::memory;
use crate::instance::shared::{Clock, ConnectionTable, Counters, Load, Shared};
use crate::session::proxy_mapper::{ListSessions, Locate, ProxyMapper};
use crate::session::{SessionInfo, SessionTable, SessionToken};
use crate::supervision::{
    ActorRef, Arbiter, ChildSpec, DynamicSupervisor, ExitReason, Place, Restart, Shutdown, Strategy, Supervisor,
    SupervisorRef, Tree, Watchdog,
};
use crate::topic::manager::{TOPIC_INTENSITY, TopicManager, Unstarted};
use crate::topic::publish::{Message, Pending, PublishError, Receipt, Reply, hand_over};
use crate::topic::subscriber::{History, HistoryError, SubscribeError, SubscribeOptions, Subscriber, history};
use crate::topic::table::TopicTable;
use crate::topic::{TopicInfo, Waiter};
use crate::wire::{AllowedOrigins, Codec, Decoder, ErrorCode, HttpPort, Limits, Peer, Position, Refusal};

/// A handler that has not returned for so long is named in the log.
const HANG_WARNING: Duration = Duration::from_secs(1);

/// A handler that has not returned for so long ends the instance: no other actor of its thread can run any more.
const HANG_LIMIT: Duration = Duration::from_secs(5);

/// Topics that are looked up before others may use their table.
const TOPICS_PORTION: usize = 1_024;

const HOME_BEHIND: &str = "the server has too much to do; try again later";

/// The whole tree, in the order of its start; it stops in the reverse order, except that a drain first stops the acceptors
/// and the embedder's children.
fn tree(
    shared: &Arc<Shared>,
    senders: Supervisor,
    application: Option<(ChildSpec, &Place)>,
    verdict: &Arc<Mutex<Option<ExitReason>>>,
) -> Supervisor {
    let home = &shared.home;
    let root = Supervisor::new("janus", Strategy::OneForOne).intensity(5, Duration::from_secs(60));
    let mut watchdog = watchdog(home, &root.handle(), verdict);
    if let Some((_, place)) = &application {
        watchdog = watchdog.watch(place);
    }
    let mut root = root
        .child(ChildSpec::task("watchdog", move || watchdog.clone().run()).shutdown(Shutdown::BrutalKill))
        .child(ChildSpec::dynamic(&shared.topic_supervisor))
        .child(
            ChildSpec::actor(&shared.topic_manager, {
                let shared = Arc::clone(shared);
                move |_| Ok(TopicManager::new(Arc::clone(&shared)))
            })
            .place(home.clone()),
        )
        .child(
            ChildSpec::actor(&shared.proxy_mapper, {
                let shared = Arc::clone(shared);
                move |_| Ok(ProxyMapper::new(Arc::clone(&shared)))
            })
            .place(home.clone()),
        )
        .child(ChildSpec::supervisor(senders))
        .child(
            ChildSpec::task("heartbeat", {
                let shared = Arc::clone(shared);
                move || {
                    let shared = Arc::clone(&shared);
                    async move {
                        heartbeat::run(shared).await;
                        Ok(())
                    }
                }
            })
            .shutdown(Shutdown::BrutalKill)
            .place(home.clone()),
        )
        .child(
            ChildSpec::task("turns", {
                let shared = Arc::clone(shared);
                move || {
                    let shared = Arc::clone(&shared);
                    async move {
                        let turns = shared.turns.keep(|| shared.home.pauses());
                        futures_util::future::join(turns, shared.fairness.keep()).await;
                        Ok(())
                    }
                }
            })
            .shutdown(Shutdown::BrutalKill)
            .place(home.clone()),
        );
    if shared.config.memory_budget_bytes > 0 {
        let keeper = Arc::clone(shared);
        let keeper = ChildSpec::task("memory_keeper", move || {
            let shared = Arc::clone(&keeper);
            async move {
                memory::run(shared).await;
                Ok(())
            }
        });
        root = root.child(keeper.shutdown(Shutdown::BrutalKill).place(home.clone()));
    }
    if let Some(runner) = &shared.hooks {
        let runner = Arc::clone(runner);
        // What it still has to tell when everybody has gone takes no longer than one hook may.
        let limit = Shutdown::Timeout(shared.config.hook_timeout);
        let observer = ChildSpec::task("observer", move || hooks::observe(Arc::clone(&runner)));
        root = root.child(observer.shutdown(limit).place(home.clone()));
    }
    root = root.child(ChildSpec::dynamic(&shared.transport_supervisor));
    if let Some((application, _)) = application {
        root = root.child(application);
    }
    for endpoint in &shared.endpoints {
        let spec = ChildSpec::actor(&endpoint.acceptor, {
            let (shared, endpoint) = (Arc::clone(shared), Arc::clone(endpoint));
            move |_| Ok(Acceptor::new(Arc::clone(&shared), &endpoint)?)
        });
        root = root.child(spec.place(home.clone()));
    }
    root
}

/// A running Janus. Clones are handles to the same instance; when the last one is dropped it is stopped at once,
/// without the drain of [`shutdown`](Self::shutdown).
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
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    shared: Arc<Shared>,
    root: SupervisorRef,
    control: Place,
    /// Whoever asks second waits for the drain under way.
    drained: Arc<tokio::sync::OnceCell<DrainReport>>,
    /// Why the instance was ended from outside its tree.
    verdict: Arc<Mutex<Option<ExitReason>>>,
    /// `None` once they have been joined, or if the instance has none of its own. Behind an async lock, so that whoever
    /// shuts down second returns when the first is done, and not before.
    threads: tokio::sync::Mutex<Option<Threads>>,
}

/// A handle that does not keep an instance running, for whatever is part of it: the embedder's own actors.
#[derive(Clone, Debug)]
pub struct WeakJanus {
    inner: Weak<Inner>,
}

impl WeakJanus {
    /// The instance, unless its last handle is gone. While the result lives it is a handle as any other.
    #[must_use]
    pub fn upgrade(&self) -> Option<Janus> {
        Some(Janus { inner: self.inner.upgrade()? })
    }
}

#[derive(Debug)]
pub(crate) struct Threads {
    control: Arbiter,
    home: Arbiter,
    /// For the embedder's children, if there are any.
    application: Option<Arbiter>,
    /// For the embedder's hooks, if there are any and they have no runtime.
    hooks: Option<HookThread>,
}

/// Collects what an instance needs to start.
#[derive(Default)]
pub struct Builder {
    config: Config,
    pub(crate) children: Children,
    pub(crate) hooks: HookSettings,
    ports: Vec<(SocketAddr, Arc<dyn Codec>)>,
    listeners: Vec<(Box<dyn Listener>, Arc<dyn Codec>)>,
    pass_on: Option<PassOn>,
}

impl fmt::Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let codecs = |codecs: &[Arc<dyn Codec>]| codecs.iter().map(|codec| codec.name()).collect::<Vec<_>>();
        let ports = self.ports.iter().map(|(addr, codec)| (addr, codec.name())).collect::<Vec<_>>();
        let listeners = self.listeners.iter().map(|(_, codec)| Arc::clone(codec)).collect::<Vec<_>>();
        f.debug_struct("Builder")
            .field("config", &self.config)
            .field("ports", &ports)
            .field("listeners", &codecs(&listeners))
            .finish_non_exhaustive()
    }
}

/// Why an instance did not start. Nothing of it is left running.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// A setting cannot work; whoever wrote the configuration is to blame.
    #[error("bad setting")]
    Config(#[from] ConfigError),
    /// An address cannot be listened on: it is in use, not this machine's, or needs privileges.
    #[error("cannot listen on {addr}")]
    Bind {
        /// The address, as configured.
        addr: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The system gives no more threads.
    #[error("cannot start a thread")]
    Thread(#[source] io::Error),
    /// An actor of the tree did not start.
    #[error("cannot start the supervision tree: {0}")]
    Tree(String),
    /// The listeners speak too many wire formats.
    #[error("too many codecs")]
    Codecs(#[from] TooManyCodecs),
}

/// Why a stream is not served; it has been dropped.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// There is no room for another client: `max_connections` are open or on their way, memory is nearly used up, or the home
    /// arbiter is far behind. Try again later.
    #[error("{message}")]
    Full {
        /// What a client of a listener would have been told.
        code: ErrorCode,
        /// The same for people.
        message: &'static str,
    },
    /// The instance is shutting down, or has ended.
    #[error("this Janus is shutting down")]
    ShuttingDown,
    /// The streams speak too many wire formats.
    #[error("too many codecs")]
    Codecs(#[from] TooManyCodecs),
    /// The socket cannot be taken from its runtime.
    #[error("the socket cannot be moved to another runtime")]
    Stream(#[source] io::Error),
}

impl ServeError {
    /// The same as a client of a listener would have been told: what an HTTP server answers instead, as
    /// [`HttpError::from`](crate::wire::HttpError) has it or, to a browser that reads events, as
    /// [`Sse::farewell`](crate::wire::Sse::farewell).
    #[must_use]
    pub fn refusal(&self) -> Refusal<'_> {
        match self {
            Self::Full { code, message } => refusal(*code, message),
            Self::ShuttingDown => refusal(ErrorCode::ServerDraining, "the server is shutting down"),
            Self::Codecs(_) | Self::Stream(_) => {
                refusal(ErrorCode::Internal, "a fault of the server; its log says more")
            }
        }
    }
}

impl Builder {
    /// Sets all settings at once.
    #[must_use]
    pub fn config(mut self, config: Config) -> Self {
        self.config = config;
        self
    }

    /// Listens on one more TCP port, whose clients speak this codec.
    ///
    /// Connections take the direct path: delivery writes to their sockets, as it does for the classic protocol. The codec
    /// is made once; several ports may share it.
    #[must_use]
    pub fn listen(mut self, addr: SocketAddr, codec: Arc<dyn Codec>) -> Self {
        self.ports.push((addr, codec));
        self
    }

    /// Serves the byte streams of a listener of one's own, whose clients speak this codec.
    ///
    /// They count as local: they may publish, unless their HTTP request shows that a proxy has passed it on
    /// ([`HttpRequest::is_forwarded`](crate::wire::HttpRequest::is_forwarded)). See [`Janus::serve`] for single streams.
    #[must_use]
    pub fn listener(mut self, listener: impl Listener, codec: Arc<dyn Codec>) -> Self {
        self.listeners.push((Box::new(listener), codec));
        self
    }

    /// Takes the streams that a codec does not want, such as requests on the HTTP port that are neither WebSocket nor
    /// server-sent events. It is called on the home arbiter and must not block. Without it they are refused.
    #[must_use]
    pub fn pass_on(mut self, take: impl Fn(PassedOn) + Send + Sync + 'static) -> Self {
        self.pass_on = Some(Arc::new(take));
        self
    }

    /// Binds the listeners and starts the tree. May be called from any async runtime.
    ///
    /// # Errors
    ///
    /// See [`StartError`].
    pub async fn start(self) -> Result<Janus, StartError> {
        let config = self.config;
        config.validate()?;
        let codecs = Arc::new(Codecs::new());
        let told = Told::default();
        let bind = |addr| match TcpPort::bind(addr, &config, &told) {
            Ok(port) => Ok(Box::new(port)),
            Err(source) => Err(StartError::Bind { addr, source }),
        };
        let mut endpoints = Vec::new();
        let is_local = |addr: SocketAddr| Peer::from(addr).is_local();
        for &addr in &config.listen {
            let origin = Origin::classic(&codecs, is_local(addr));
            endpoints.push(Arc::new(Endpoint::new(bind(addr)?, origin, endpoints.len())));
        }
        let origins = AllowedOrigins::new(config.allowed_origins.iter().map(String::as_str));
        let mut http = HttpPort::new(origins, config.sse_retry);
        let mut ports = Vec::new();
        for &addr in &config.http_listen {
            ports.push((addr, bind(addr)?));
        }
        http = http.for_this_machine(ports_of_loopback_alone(ports.iter().filter_map(|(_, port)| port.local_addr())));
        let http: Arc<dyn Codec> = Arc::new(http);
        let mut ports: Vec<_> = ports.into_iter().map(|(addr, port)| (addr, port, Arc::clone(&http))).collect();
        for (addr, codec) in self.ports {
            ports.push((addr, bind(addr)?, codec));
        }
        for (addr, port, codec) in ports {
            let (codec_id, pass_on) = (codecs.register(&codec)?, self.pass_on.clone());
            let origin = Arc::new(Origin { codec, codec_id, is_local: is_local(addr), pass_on });
            endpoints.push(Arc::new(Endpoint::new(port, origin, endpoints.len())));
        }
        for (listener, codec) in self.listeners {
            let (codec_id, pass_on) = (codecs.register(&codec)?, self.pass_on.clone());
            let is_local = listener.local_addr().is_none_or(is_local);
            let origin = Arc::new(Origin { codec, codec_id, is_local, pass_on });
            endpoints.push(Arc::new(Endpoint::new(listener, origin, endpoints.len())));
        }
        let (hooks, hook_thread) = self.hooks.start(&config).map_err(StartError::Thread)?;
        let threads = Threads {
            control: Arbiter::start("janus-control").map_err(StartError::Thread)?,
            home: Arbiter::start("janus-home").map_err(StartError::Thread)?,
            application: match self.children.is_empty() {
                true => None,
                false => Some(Arbiter::start("janus-application").map_err(StartError::Thread)?),
            },
            hooks: hook_thread,
        };
        let shared = shared(config, threads.home.place(), codecs, endpoints, hooks);
        let senders = sender_threads::supervisor(&shared);
        let control = threads.control.place();
        start(shared, senders, control, Some(threads), &self.children).await
    }
}

/// The ports on which none but programs of this machine can connect.
fn ports_of_loopback_alone(addrs: impl Iterator<Item = SocketAddr>) -> impl Iterator<Item = u16> {
    let mut ports = BTreeMap::new();
    for addr in addrs {
        *ports.entry(addr.port()).or_insert(true) &= Peer::from(addr).is_local();
    }
    ports.into_iter().filter_map(|(port, is_alone)| is_alone.then_some(port))
}

/// Starts the tree, its supervisors on `control` and its actors on the home that `shared` knows.
pub(crate) async fn start(
    shared: Arc<Shared>,
    senders: Supervisor,
    control: Place,
    threads: Option<Threads>,
    children: &Children,
) -> Result<Janus, StartError> {
    let verdict = Arc::default();
    let mut root = None;
    // The handle comes before the tree, because the embedder's children are given one.
    let inner = Arc::new_cyclic(|inner: &Weak<Inner>| {
        let place = threads.as_ref().and_then(|threads| threads.application.as_ref()).map(Arbiter::place);
        let application = place.as_ref().map(|place| {
            let janus = WeakJanus { inner: inner.clone() };
            (children.spec(&janus, place, shared.config.drain_timeout), place)
        });
        let supervisor = tree(&shared, senders, application, &verdict);
        let handle = supervisor.handle();
        root = Some(supervisor);
        Inner {
            shared,
            root: handle,
            control: control.clone(),
            drained: Arc::default(),
            verdict,
            threads: tokio::sync::Mutex::new(threads),
        }
    });
    let Some(root) = root else { unreachable!("the tree has just been made") };
    let started = on(&control, {
        let control = control.clone();
        async move { root.start(&control).await }
    });
    let root = match started.await {
        Some(Ok(root)) => root,
        Some(Err(error)) => return Err(StartError::Tree(error.to_string())),
        None => return Err(StartError::Tree("the control thread ended".to_owned())),
    };
    let ended = Arc::clone(&inner.shared);
    root.monitor(move |_| ended.close()).detach();
    Ok(Janus { inner })
}

pub(crate) fn shared(
    config: Config,
    home: Place,
    codecs: Arc<Codecs>,
    endpoints: Vec<Arc<Endpoint>>,
    hooks: Option<Arc<HookRunner>>,
) -> Arc<Shared> {
    Arc::new_cyclic(|shared: &Weak<Shared>| {
        let topics = shared.clone();
        let topic_supervisor = DynamicSupervisor::new("topic_supervisor")
            .restart(Restart::Permanent)
            .shutdown(Shutdown::Timeout(Duration::from_secs(2)))
            // Topics never use up the budget of the root, however many of them crash.
            .child_intensity(TOPIC_INTENSITY.max_restarts, TOPIC_INTENSITY.period)
            .quarantine(config.topic_quarantine)
            .on_quarantine(move |name, _| {
                if let Some(shared) = topics.upgrade() {
                    shared.quarantine_topic(name);
                }
            });
        let transport_supervisor = DynamicSupervisor::new("transport_supervisor")
            .restart(Restart::Temporary)
            .shutdown(Shutdown::Timeout(config.drain_timeout));
        Shared {
            clock: Clock::for_config(&config),
            topics: TopicTable::default(),
            unstarted: Unstarted::default(),
            locals: Mutex::default(),
            sessions: SessionTable::default(),
            connections: ConnectionTable::default(),
            accounts: Accounts::default(),
            senders: SenderPool::default(),
            terms: Arc::new(Terms {
                max_frames: Terms::frame_limit(config.max_queue_frames),
                max_bytes: config.max_queue_bytes,
                // The heartbeat is to come first, which knows why.
                patience: config.tcp_user_timeout.max(config.stall_timeout * 2),
                ledger: Arc::new(if hooks.is_some() { Ledger::by_topic() } else { Ledger::default() }),
                codecs,
            }),
            pass_numbers: Arc::default(),
            pressure: AtomicU32::new(0),
            counters: Counters::default(),
            cut_off_lines: Lines::default(),
            reached: Reached::default(),
            faults: Arc::default(),
            topic_manager: ActorRef::new("topic_manager"),
            proxy_mapper: ActorRef::new("proxy_mapper"),
            endpoints,
            home,
            load: Load::default(),
            turns: Turns::default(),
            fairness: Fairness::default(),
            topic_supervisor,
            transport_supervisor,
            draining: AtomicBool::new(false),
            drain_deadline: Mutex::default(),
            drain_end: Mutex::default(),
            hooks,
            tracer: Arc::default(),
            config,
        }
    })
}

/// Runs a future on an arbiter and waits for its result without needing a runtime here; `None` if the arbiter ended.
///
/// Dropping the returned future does not stop what runs on the arbiter.
async fn on<T: Send + 'static>(place: &Place, future: impl Future<Output = T> + Send + 'static) -> Option<T> {
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
    /// Starts with the default settings; see [`Config`].
    #[must_use]
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// A handle that does not keep the instance running.
    #[must_use]
    pub fn downgrade(&self) -> WeakJanus {
        WeakJanus { inner: Arc::downgrade(&self.inner) }
    }

    /// What the actors share, for the parts of the handle that stand in other files.
    pub(crate) fn tables(&self) -> &Arc<Shared> {
        &self.inner.shared
    }

    /// The addresses that are listened on, with the real ports: those of `listen`, of `http_listen`, and of the
    /// [`Builder`], each in their order.
    #[must_use]
    pub fn local_addrs(&self) -> Vec<SocketAddr> {
        self.inner.shared.endpoints.iter().filter_map(|endpoint| endpoint.addr).collect()
    }

    /// Publishes a message and waits until it has its place in the topic's order; waits for room before, if the topic
    /// has as many messages under way as it may.
    ///
    /// Cancel safety: a future that is dropped while it waits for room publishes nothing; dropped later, the message is
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
            match hand_over(shared, &mut last, &topic, None, offered, Some(waiter)) {
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
        if let Err(pending) = hand_over(shared, &mut None, &topic, None, Pending { publication, reply }, None) {
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

    /// The same as [`subscribe`](Self::subscribe), with a position to resume from, or with limits and a policy of its own.
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
        Subscriber::new(&self.inner.shared, topic, options)
    }

    /// Messages of a topic whose namespace keeps history: the first `limit` after `since`, or, without it, the last `limit`.
    ///
    /// A history that is longer than the limit is read in parts:
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use janus_core::{Config, Janus, Namespace, Position};
    ///
    /// let default_namespace = Namespace { history: true, ..Namespace::default() };
    /// let config = Config { default_namespace, ..Config::default() };
    /// # let config = Config { listen: vec!["127.0.0.1:0".parse()?], http_listen: vec![], ..config };
    /// let janus = Janus::builder().config(config).start().await?;
    /// for number in 1..=5 {
    ///     janus.publish("news", &number).await?;
    /// }
    /// // A position that is of no life of the topic is before everything.
    /// let mut history = janus.history("news", Some(Position { epoch: 0, seq: 0 }), 2)?;
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

    /// Serves a byte stream whose client speaks `codec`, which is made once and shared by all streams.
    ///
    /// This is how a connection of somebody else's server becomes a client: one that a web framework has upgraded, TLS,
    /// a pipe. `decoder` is the codec's own by default ([`Codec::decoder`]), or one that knows what has been said on the
    /// stream before. It counts against `max_connections` from this call on, and may publish if it comes from this machine and
    /// shows no sign of a proxy ([`HttpRequest::is_forwarded`](crate::wire::HttpRequest::is_forwarded)), or `allow_publish` says
    /// so.
    ///
    /// A [`tokio::net::TcpStream`] is better given as [`Incoming::tcp`], and a Unix socket as `Incoming::unix`: then delivery
    /// writes to the socket itself.
    /// The stream is moved to Janus's own threads; it must not need the runtime it was made on to make progress, or that
    /// must go on running.
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
        let shared = &self.inner.shared;
        if shared.is_draining() {
            return Err(ServeError::ShuttingDown);
        }
        // Before anything is queued: what is on its way to the home arbiter, which may be busy, has a limit, too.
        let place = admit(shared).map_err(|(code, message)| {
            count_refusal(shared, incoming.peer, code);
            ServeError::Full { code, message }
        })?;
        let is_local = incoming.peer.is_local();
        let codec_id = shared.codecs().register(codec)?;
        let origin = Arc::new(Origin { codec: Arc::clone(codec), codec_id, is_local, pass_on: None });
        let decoder = decoder.unwrap_or_else(|| codec.decoder());
        prepare(&incoming, &shared.config);
        // A socket belongs to the reactor that made it.
        let Incoming { link, peer, .. } = incoming;
        let stream = link.leave_reactor().map_err(ServeError::Stream)?;
        let tables = Arc::clone(shared);
        // The place goes along, and comes back with a job that is not run.
        let served = shared.home.run(move || match Link::enter_reactor(stream, peer) {
            Ok(link) => serve_with(&tables, place, link, peer, &origin, decoder),
            Err(error) => log::error!("{peer}: closed, its socket cannot be registered: {error}"),
        });
        served.map_err(|_| match shared.is_draining() {
            true => ServeError::ShuttingDown,
            // The home arbiter is behind with more jobs than it may be, or about to be found dead.
            false => ServeError::Full { code: ErrorCode::ServerOverloaded, message: HOME_BEHIND },
        })
    }

    /// What clients may send, as decoders enforce it.
    #[must_use]
    pub fn limits(&self) -> Limits {
        self.inner.shared.wire_limits()
    }

    /// The sessions that are listed, with and without a connection. Empty once the instance has ended.
    pub async fn sessions(&self) -> Vec<SessionInfo> {
        self.ask_proxy_mapper(|| ListSessions).await.unwrap_or_default()
    }

    /// The session of a token, as its client got it in the greeting; `None` if no such session is listed, or once the
    /// instance has ended.
    pub async fn session(&self, token: SessionToken) -> Option<SessionInfo> {
        self.ask_proxy_mapper(move || Locate(token)).await.flatten()
    }

    /// Asks the ProxyMapper, and its successor if it crashes meanwhile; `None` if neither answers in time.
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

    /// What the instance is doing and has done.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let shared = &self.inner.shared;
        let (sessions, detached_sessions) = shared.sessions.count();
        let drops = shared.ledger().counts();
        let count = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        Stats {
            connections: shared.connections.len(),
            sessions,
            detached_sessions,
            topics: shared.topics.len(),
            memory_used: shared.memory_used(),
            memory_budget: shared.config.memory_budget_bytes,
            connections_accepted: count(&shared.counters.connections_accepted),
            connections_refused: count(&shared.counters.connections_refused),
            connections_refused_for_memory: count(&shared.counters.connections_refused_for_memory),
            slow_consumers: drops.queue_full + drops.stalled + drops.out_of_memory,
            slow_consumers_queue_full: drops.queue_full,
            slow_consumers_stalled: drops.stalled,
            slow_consumers_out_of_memory: drops.out_of_memory,
            messages_dropped_oldest: drops.dropped_oldest,
            messages_dropped_newest: drops.dropped_newest,
            messages_conflated: drops.conflated,
            messages_trimmed: count(&shared.counters.messages_trimmed),
            sessions_ended_for_memory: count(&shared.counters.sessions_ended_for_memory),
            connections_closed_for_memory: count(&shared.counters.connections_closed_for_memory),
            frames_refused: count(&shared.counters.frames_refused),
            frames_timed_out: count(&shared.counters.frames_timed_out),
            pings_unanswered: count(&shared.counters.pings_unanswered),
            accept_pauses: count(&shared.counters.accept_pauses),
            hook_news_lost: shared.hooks.as_ref().map_or(0, |hooks| hooks.lost()),
        }
    }

    /// The clients that lag the most, largest queue first, at most `count` of them.
    ///
    /// Empty while everybody keeps up. It looks at every connection; ask for it every few seconds, not for every message.
    #[must_use]
    pub fn slow_clients(&self, count: usize) -> Vec<SlowClient> {
        slow_clients(&self.inner.shared, count)
    }

    /// The topics that exist now, by name: the first `limit` of those after `after`.
    ///
    /// To see all, begin with an empty name and go on after the last name of each page until one is empty. What is made or
    /// ends meanwhile may be on it or not; nothing is on it twice. A call costs as much as its page is long, however many
    /// topics there are.
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
        let table = &self.inner.shared.topics;
        let mut page: Vec<TopicInfo> = Vec::new();
        loop {
            let count = (limit - page.len()).min(TOPICS_PORTION);
            let last = page.last().map_or(after, |topic| topic.name.as_str());
            let portion = table.page(last, count);
            // Their state without the table's lock, under which nobody could publish to another topic.
            page.extend(portion.iter().map(|topic| topic.info()));
            if count == 0 || portion.len() < count {
                return page;
            }
        }
    }

    /// The topics that exist now, in no order. Where there may be thousands, [`topics_after`](Self::topics_after) has them in
    /// pages.
    #[must_use]
    pub fn topics(&self) -> Vec<TopicInfo> {
        self.inner.shared.topics.all().iter().map(|topic| topic.info()).collect()
    }

    /// What one topic is doing; `None` if it does not exist. [`topic`](Self::topic) is for publishing and subscribing.
    #[must_use]
    pub fn topic_info(&self, name: &str) -> Option<TopicInfo> {
        self.inner.shared.topics.find(name).map(|topic| topic.info())
    }

    /// The supervision tree as it is now: as data, and with `{}` as a picture for a log or a terminal.
    #[must_use]
    pub fn tree(&self) -> Tree {
        self.inner.root.tree()
    }

    /// Messages between the actors of the tree from now on, for readers who want to see what the instance is doing. While there is
    /// no trace, a message costs a look at a flag; with one, it takes some microseconds to put into words. Four traces may run
    /// at a time, and nothing waits for their readers.
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

    /// Waits until the tree has ended, by [`shutdown`](Self::shutdown) or because it gave up, and tells why.
    ///
    /// Cancel safe; any number of callers may wait.
    pub async fn wait(&self) -> ExitReason {
        let reason = self.inner.root.wait().await;
        // The thread on which the tree ended may be about to; nobody is to find it open who knows that it is over.
        self.inner.shared.close();
        self.inner.verdict.lock().clone().unwrap_or(reason)
    }

    /// Drains and ends the instance: no new connections, no new messages; then connections are closed over
    /// `drain_period`, a few at a time, each with a FIN after what is queued for it; then the tree stops. It takes at most
    /// `drain_timeout`, and no longer than there are connections; observers among the [hooks](crate::hooks) then hear what is
    /// left for them, within `hook_timeout`. Afterwards no thread is left, but one that the embedder's own code blocks.
    ///
    /// Any number of callers may wait for it, and all get the same report. A caller that goes away does not stop it.
    pub async fn shutdown(&self) -> DrainReport {
        let (shared, root) = (Arc::clone(&self.inner.shared), self.inner.root.clone());
        let drained = Arc::clone(&self.inner.drained);
        let drained = async move { *drained.get_or_init(|| drain(&shared, &root)).await };
        // The control thread ends while somebody waits if another has waited for the same drain.
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
            Fault::Topic(name) => shared.topics.find(&name).map_or(Ok(()), |topic| topic.actor.cast(crash)),
            Fault::Transport(peer) => {
                shared.connections.visit(0..usize::MAX, |slot| {
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

/// How a drain went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct DrainReport {
    /// Connections that were open when the drain began.
    pub connections: usize,
    /// Connections that ended with something still queued for them: slow consumers, or those that `drain_timeout` was not
    /// long enough for.
    pub cut_off: usize,
}

/// What an instance is doing (the first six) and has done since its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Stats {
    /// Connections open now, also those without a place of `max_connections`; those that are being refused not counted.
    pub connections: usize,
    /// Sessions listed now, with and without a connection.
    pub sessions: usize,
    /// Of those, the ones without.
    pub detached_sessions: usize,
    /// Topics that exist now.
    pub topics: usize,
    /// Bytes that messages, queues, sessions, connections and topics take now, by the server's own account.
    pub memory_used: usize,
    /// The setting `memory_budget_bytes`, which they are held against; 0 if there is no budget.
    pub memory_budget: usize,
    /// Connections accepted and served: with a place of `max_connections`, as a request that was passed on, or as a publisher
    /// that found the server full.
    pub connections_accepted: u64,
    /// Clients refused because `max_connections` were connected, or because memory was nearly used up; those that
    /// [`Janus::serve`] has refused count as well.
    pub connections_refused: u64,
    /// Of those, the ones refused because memory was nearly used up.
    pub connections_refused_for_memory: u64,
    /// Clients cut off because they did not keep up: the sum of the next three.
    pub slow_consumers: u64,
    /// Of those, the ones whose queue was full.
    pub slow_consumers_queue_full: u64,
    /// Those that took nothing of what waited for them for `write_timeout`, or `stall_timeout`.
    pub slow_consumers_stalled: u64,
    /// Those whose queues were the largest when `memory_budget_bytes` was nearly used up.
    pub slow_consumers_out_of_memory: u64,
    /// Messages that a subscriber under the policy `drop_oldest` did not get.
    pub messages_dropped_oldest: u64,
    /// Messages that a subscriber under the policy `drop_newest` did not get.
    pub messages_dropped_newest: u64,
    /// Messages that a subscriber under the policy `conflate` did not get, because a later one took their place.
    pub messages_conflated: u64,
    /// Messages that topics did not keep for as long as they may, because memory was short.
    pub messages_trimmed: u64,
    /// Sessions without a connection that ended before their time, because memory was short.
    pub sessions_ended_for_memory: u64,
    /// Connections closed because memory was short and they held some without having asked for anything: frames, heads and
    /// messages under way beyond `input_share`, and clients that connected and did no more.
    pub connections_closed_for_memory: u64,
    /// Frames of clients that were answered with an error as they stood; messages that their topic refused not counted.
    pub frames_refused: u64,
    /// Clients closed because a frame stayed unfinished for `frame_timeout`.
    pub frames_timed_out: u64,
    /// Clients closed because they did not answer a ping within `pong_timeout`.
    pub pings_unanswered: u64,
    /// Times that accepting paused because the process or the system ran out of descriptors.
    pub accept_pauses: u64,
    /// What observers were not told, because `hook_queue` waited for them already.
    pub hook_news_lost: u64,
}

/// Names an actor that hangs, and gives up when one of ours hangs for good: nothing else on its thread can run. One of the
/// embedder's hurts only the others of its kind.
fn watchdog(home: &Place, root: &SupervisorRef, verdict: &Arc<Mutex<Option<ExitReason>>>) -> Watchdog {
    // Weak, because this becomes part of a spec of the root's.
    let (root_to_end, verdict) = (root.downgrade(), Arc::clone(verdict));
    let vital = Arc::clone(home.name());
    Watchdog::new(HANG_WARNING / 4).level(HANG_WARNING).level(HANG_LIMIT).watch(home).names_from(root).on_hang(
        move |hang| {
            if hang.lasted < HANG_LIMIT || hang.arbiter != vital {
                return log::error!("{hang}");
            }
            verdict.lock().get_or_insert_with(|| ExitReason::Error(hang.to_string().into()));
            if let Some(root) = root_to_end.upgrade() {
                root.kill();
            }
            // Last: an embedder's logger may be what hangs.
            log::error!("{hang}; giving up, because nothing else on its thread can run");
        },
    )
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;
    use tokio::time::Instant;

    use super::*;

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
        // It looks whether it is to end between some jobs and the next.
        for _ in 0..100 {
            shared.home.run(|| ()).unwrap();
        }
        serve().unwrap();
        assert_eq!((shared.connections.len(), shared.connections.all()), (0, 1));
        let refused = serve().unwrap_err();
        assert!(matches!(refused, ServeError::Full { code: ErrorCode::TooManyConnections, .. }), "{refused}");

        let threads = janus.inner.threads.lock().await.take().unwrap();
        drop(threads.home);
        drop(release);
        let deadline = Instant::now() + Duration::from_secs(10);
        while shared.connections.all() > 0 && Instant::now() < deadline {
            tokio::task::yield_now().await;
        }
        assert_eq!(shared.connections.all(), 0);
        // And with nobody there to take it.
        let _ = serve().unwrap_err();
        assert_eq!(shared.connections.all(), 0);
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

        let beyond = janus.inner.shared.topics.find("00002").unwrap();
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
        // What ran on threads of the instance may be about to let go.
        let deadline = Instant::now() + Duration::from_secs(10);
        while shared.strong_count() > 0 && Instant::now() < deadline {
            tokio::task::yield_now().await;
        }
        assert_eq!(shared.strong_count(), 0, "nothing refers to the tables in a circle");
    }
}
