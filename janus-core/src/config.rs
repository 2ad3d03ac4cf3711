//! Every setting of a Janus instance, with its unit, its default and what happens at its limit.
//!
//! The settings are plain data: nothing here reads a file, a variable or a flag. `janus-server` does that and hands
//! the result to `Janus::builder`; an embedder fills in the struct.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use crate::wire::AllowedOrigins;

/// The settings of one Janus instance.
///
/// ```
/// use janus_core::Config;
///
/// let config = Config { max_connections: 5_000, ..Config::default() };
/// assert!(config.validate().is_ok());
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Addresses to accept classic-protocol connections on; port 0 lets the system choose. Default `127.0.0.1:8081`.
    pub listen: Vec<SocketAddr>,
    /// Addresses to serve WebSockets (`/ws`) and server-sent events (`/events`) on; port 0 lets the system choose. Default:
    /// none.
    pub http_listen: Vec<SocketAddr>,
    /// Origins beside its own host from which pages may connect to an HTTP port, each as `https://app.example`; `*` is any.
    /// A browser from elsewhere is refused with status 403. At most 1,000. Default: none.
    pub allowed_origins: Vec<String>,
    /// How long a browser waits before it comes back to a stream of server-sent events that it has lost. Default 2 s.
    pub sse_retry: Duration,
    /// Threads that deliver: one home arbiter for the actors, the others send. Default: the number of cores.
    pub threads: usize,
    /// Clients connected at once. One more that wants to subscribe is told why not (`too_many_connections`) and closed. Default
    /// 100,000.
    pub max_connections: usize,
    /// Connections beyond `max_connections` for what must go on when the server is full: requests that are passed on
    /// ([`Builder::pass_on`](crate::Builder::pass_on)), publishers of the classic protocol, and connections that have not said
    /// yet what they are for. One more takes the room of the oldest silent one of the address that has most of them.
    /// Default 256.
    pub reserved_connections: usize,
    /// Connections that are refused and may wait until they have read why, for at most a second each, or until it is written
    /// to a stream that takes nothing, for at most `drain_timeout`; more are closed at once. Default 1,024.
    pub max_refusals: usize,
    /// Connections accepted per second on each listener, and up to a tenth of that at once; further ones wait in the
    /// `backlog`. Default 100,000.
    pub accept_rate: usize,
    /// Connections of each listener that are accepted and not yet greeted; further ones wait in the `backlog`. Default
    /// 4,096.
    pub max_handshakes: usize,
    /// Bytes of one frame from a client, without its terminator. A longer one closes the connection
    /// (`frame_too_large`). Default 64 KiB.
    pub max_frame_bytes: usize,
    /// Bytes of a topic's name. A longer one is refused (`bad_topic`). Default 255.
    pub max_topic_bytes: usize,
    /// Topics one client may be subscribed to. One more is refused (`too_many_topics`). Default 128.
    pub max_topics_per_client: usize,
    /// Topics that exist at once. One more takes the place of an unused topic (see [`address_share`](Self::address_share)), or
    /// is refused (`too_many_topics_on_server`). Default 100,000.
    pub max_topics: usize,
    /// Per cent of `max_topics`, and of `max_detached_sessions`, that the clients of one address may hold while there is no
    /// room: beyond it they make room for themselves, and otherwise the address that holds most does. An address is an IPv4
    /// host or an IPv6 /64 network; one that is alone may hold everything. Default 10.
    pub address_share: usize,
    /// Messages that wait for one client; 0 for no limit but that in bytes. One more makes it a slow consumer:
    /// [`Namespace::slow_consumer`] says what happens then. Default 0.
    pub max_queue_frames: usize,
    /// Bytes that messages which wait for one client may take, with 64 for each batch of them; what happens beyond it is
    /// the same. Answers to what a client asks for may take a quarter as much: then the client is not read until it has
    /// taken some. Default 1 MiB.
    pub max_queue_bytes: usize,
    /// Messages of one topic that are accepted but not yet handed to every subscriber. Beyond it the reader of the
    /// publisher's connection pauses and an in-process publisher waits or gets `Full`. Default 256.
    pub max_inflight_frames: usize,
    /// The same limit in bytes. Default 1 MiB.
    pub max_inflight_bytes: usize,
    /// Bytes of waiting messages of one topic that are sent to a subscriber in one go. Default 16 KiB.
    pub coalesce_bytes: usize,
    /// Subscribers up to which a topic delivers alone; above it the sender threads help. They help smaller ones while the
    /// home arbiter does not keep up. Default 256.
    pub inline_subscribers: usize,
    /// How long any frame may stay unfinished before its connection is closed (`frame_timeout`). Default 10 s.
    pub frame_timeout: Duration,
    /// Silence on a connection, counted from its last message, after which it gets a `PING`. Default 30 s.
    pub heartbeat_interval: Duration,
    /// How long a client that answers a `PING` may owe the answer before its connection is closed (`ping_timeout`): each
    /// client over WebSocket, and one of the classic protocol that has answered before. Whatever comes from it counts.
    /// Zero never closes, and asks nobody to whom messages flow. Default 20 s.
    pub pong_timeout: Duration,
    /// How long a session stays listed after its connection ended. Default 120 s.
    pub session_ttl: Duration,
    /// Sessions without a connection that are kept; one more, and the one detached longest ends, of those of the address that
    /// [`address_share`](Self::address_share) says. Default 20,000.
    pub max_detached_sessions: usize,
    /// Messages that every topic keeps, so that a client that lost its connection can go on without a hole, even where
    /// history is off. Whoever may subscribe may ask for them, unless [`Namespace::resume`] says otherwise. One more pushes
    /// out the oldest, and a client that has not had that one is told of the hole; 0 keeps none. Default 128.
    pub resume_messages: usize,
    /// The same limit in bytes. Default 256 KiB.
    pub resume_bytes: usize,
    /// How long such a message is kept. Default 30 s.
    pub resume_age: Duration,
    /// What topics do that are in none of `namespaces`. Default: [`Namespace::default`].
    pub default_namespace: Namespace,
    /// Namespaces by name, at most 1,000. A namespace is the part of a topic's name before the first `:`; topics without
    /// one, or of one that is not listed, follow `default_namespace`. Default: none.
    pub namespaces: BTreeMap<String, Namespace>,
    /// How long an unused topic lives on. Default 60 s.
    pub topic_idle: Duration,
    /// How long a topic that keeps crashing is refused (`topic_unavailable`) before a cold restart. Default 60 s.
    pub topic_quarantine: Duration,
    /// How long a drain, or the close of one connection, may take to deliver what is queued. Default 10 s.
    pub drain_timeout: Duration,
    /// How long a client may take nothing of what waits for it until it is cut off as a slow consumer, if no topic of it has
    /// a policy that bears with it. On the classic protocol that is [`SlowConsumer::Conflate`] alone, because the policies
    /// that drop act as [`SlowConsumer::Disconnect`] there. Default 5 s.
    pub write_timeout: Duration,
    /// The same for a client with a topic whose policy bears with it, which may be behind but not dead; also if that is
    /// shorter. Default 60 s.
    pub stall_timeout: Duration,
    /// Over how long a drain closes connections, a few at a time and in no order, so that their clients do not all connect
    /// somewhere else at once. It is a part of `drain_timeout`, and cut to half of it. Zero closes them all at once. Default 5 s.
    pub drain_period: Duration,
    /// How long the port may be closed between the end of a drain and the start of the next instance. Clients that a drain
    /// sends away are told to come back after the rest of the drain, this time, and a random moment: a browser's
    /// `EventSource` that comes back to a closed port behind a proxy gets a 502, and never tries again. Zero where another
    /// process takes over the port at once. Default 5 s.
    pub restart_time: Duration,
    /// Idle time before TCP keep-alive probes a peer, give or take a quarter, so that not all are probed at once; then every
    /// quarter of it. Default 60 s.
    pub tcp_keepalive: Duration,
    /// How long a client may take nothing of what is sent, or answer no probe of TCP keep-alive, before the kernel ends the
    /// connection, because it is gone or because it does not read. If it is less than twice `tcp_keepalive`, one probe that is
    /// lost on the way ends an idle client. At least twice [`stall_timeout`](Self::stall_timeout) for a client that is given
    /// that. Default 120 s.
    pub tcp_user_timeout: Duration,
    /// Bytes of the kernel's send buffer for one connection (the kernel doubles the value). Default 64 KiB.
    pub send_buffer_bytes: usize,
    /// Bytes that messages, queues, sessions and connections may take together, by the server's own account; 0 for no
    /// budget, otherwise at least 16 MiB. At 80 % of it strangers give back what they hold, and where that is not enough
    /// history is trimmed, at 90 % detached sessions end, the oldest first, at 92 % the clients with the largest queues are
    /// closed, at 95 % new connections are refused. Default 0.
    pub memory_budget_bytes: usize,
    /// Per cent of `memory_budget_bytes` that all clients together may take with what they have sent and what has led to
    /// nothing yet: frames and heads without an end, requests of clients that have not opened their connection, messages
    /// that wait for room. Beyond it the address that holds most has its connections closed (`server_overloaded`), those
    /// first that hold most, then those that have held it longest. Default 10.
    pub input_share: usize,
    /// Connections the kernel holds until they are accepted; the system's `somaxconn` caps it. Default 65,535.
    pub backlog: u32,
    /// Whether clients may publish that are not known to be on this machine: those of a listener that is not on loopback, and
    /// those whose HTTP request shows that a proxy has passed it on
    /// ([`HttpRequest::is_forwarded`](crate::wire::HttpRequest::is_forwarded)). Default false.
    pub allow_publish: bool,
    /// How long a [hook](crate::hooks) may take. A question that has no answer by then is answered with an error
    /// (`authorization_failed`), an observer is given up. Default 5 s.
    pub hook_timeout: Duration,
    /// Questions to hooks that are under way at once; others wait for their turn, within `hook_timeout`. Default 1,024.
    pub max_hook_questions: usize,
    /// What has happened and waits to be told to observers; more is left out and counted. Default 4,096.
    pub hook_queue: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: vec![SocketAddr::from(([127, 0, 0, 1], 8081))],
            http_listen: Vec::new(),
            allowed_origins: Vec::new(),
            sse_retry: Duration::from_secs(2),
            threads: std::thread::available_parallelism().map_or(2, usize::from).min(MAX_THREADS),
            max_connections: 100_000,
            reserved_connections: 256,
            max_refusals: 1_024,
            accept_rate: 100_000,
            max_handshakes: 4_096,
            max_frame_bytes: 64 * 1024,
            max_topic_bytes: 255,
            max_topics_per_client: 128,
            max_topics: 100_000,
            address_share: 10,
            max_queue_frames: 0,
            max_queue_bytes: 1024 * 1024,
            max_inflight_frames: 256,
            max_inflight_bytes: 1024 * 1024,
            coalesce_bytes: 16 * 1024,
            inline_subscribers: 256,
            frame_timeout: Duration::from_secs(10),
            heartbeat_interval: Duration::from_secs(30),
            pong_timeout: Duration::from_secs(20),
            session_ttl: Duration::from_secs(120),
            max_detached_sessions: 20_000,
            resume_messages: 128,
            resume_bytes: 256 * 1024,
            resume_age: Duration::from_secs(30),
            default_namespace: Namespace::default(),
            namespaces: BTreeMap::new(),
            topic_idle: Duration::from_secs(60),
            topic_quarantine: Duration::from_secs(60),
            drain_timeout: Duration::from_secs(10),
            write_timeout: Duration::from_secs(5),
            stall_timeout: Duration::from_secs(60),
            drain_period: Duration::from_secs(5),
            restart_time: Duration::from_secs(5),
            tcp_keepalive: Duration::from_secs(60),
            tcp_user_timeout: Duration::from_secs(120),
            send_buffer_bytes: 64 * 1024,
            memory_budget_bytes: 0,
            input_share: 10,
            backlog: 65_535,
            allow_publish: false,
            hook_timeout: Duration::from_secs(5),
            max_hook_questions: 1_024,
            hook_queue: 4_096,
        }
    }
}

/// What the topics of one namespace do.
///
/// ```
/// use janus_core::{Config, Namespace, SlowConsumer};
///
/// let quotes = Namespace { slow_consumer: SlowConsumer::Conflate, ..Namespace::default() };
/// let config = Config { namespaces: [("quotes".to_owned(), quotes)].into(), ..Config::default() };
/// assert_eq!(config.namespace("quotes:ACME").slow_consumer, SlowConsumer::Conflate);
/// assert_eq!(config.namespace("news").slow_consumer, SlowConsumer::Disconnect);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Namespace {
    /// Whether a topic keeps its messages for whoever may subscribe to it, within the three limits below. Where it is off,
    /// the limits have no effect, and a topic keeps only what [`Config::resume_messages`] says. Default false.
    pub history: bool,
    /// Messages in the history of one topic. One more pushes out the oldest. Default 100.
    pub history_messages: usize,
    /// The same limit in bytes. Default 1 MiB.
    pub history_bytes: usize,
    /// How long a message stays in the history. Default 60 s.
    pub history_age: Duration,
    /// Which clients may go on where they were, and so be given what was published before they subscribed; whatever
    /// `history` says. Subscribers in the same process are not asked. Default [`Resume::Position`].
    pub resume: Resume,
    /// What happens when the queue of a client is full. Default [`SlowConsumer::Disconnect`].
    pub slow_consumer: SlowConsumer,
}

impl Default for Namespace {
    fn default() -> Self {
        Self {
            history: false,
            history_messages: 100,
            history_bytes: 1024 * 1024,
            history_age: Duration::from_secs(60),
            resume: Resume::default(),
            slow_consumer: SlowConsumer::default(),
        }
    }
}

/// Which clients of a topic may go on where they were. A client that may not is told so, and gets what is published from
/// then on.
///
/// With [`Position`](Self::Position), whoever may subscribe to a topic may read what it keeps, which is
/// [`Config::resume_messages`] also where there is no history.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Resume {
    /// Whoever names a position, and sessions. Anybody can make up a position.
    #[default]
    Position,
    /// A client that shows its session's token, and none before the session subscribed: a newcomer gets nothing that was
    /// said before. Streams of server-sent events, which have no token, never go on.
    Session,
    /// Nobody. The topic keeps nothing for clients that come back.
    Off,
}

impl Resume {
    const ALL: [Self; 3] = [Self::Position, Self::Session, Self::Off];

    /// The name in a configuration, such as `session`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Position => "position",
            Self::Session => "session",
            Self::Off => "off",
        }
    }
}

impl fmt::Display for Resume {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for Resume {
    type Err = ConfigError;

    fn from_str(name: &str) -> Result<Self, ConfigError> {
        Self::ALL.into_iter().find(|resume| resume.as_str() == name).ok_or_else(|| ConfigError {
            key: "resume".into(),
            value: format!("{name:?}"),
            expected: "\"position\", \"session\" or \"off\"",
        })
    }
}

/// What happens to a message of a topic when the queue of a client is full.
///
/// On the classic protocol the two drop policies act as [`Disconnect`](Self::Disconnect), because a classic client cannot
/// be told what it lost; [`Conflate`](Self::Conflate) stays what it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum SlowConsumer {
    /// Closes the client, which may resume with a new connection.
    #[default]
    Disconnect,
    /// Drops the oldest waiting messages of the topic until there is room, and tells the client which.
    DropOldest,
    /// Drops the messages of the topic that arrive while there is no room, and tells the client which.
    DropNewest,
    /// Keeps only the latest waiting message of the topic.
    Conflate,
}

impl SlowConsumer {
    const ALL: [Self; 4] = [Self::Disconnect, Self::DropOldest, Self::DropNewest, Self::Conflate];

    /// The name of the policy in a configuration, such as `drop_oldest`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Disconnect => "disconnect",
            Self::DropOldest => "drop_oldest",
            Self::DropNewest => "drop_newest",
            Self::Conflate => "conflate",
        }
    }
}

impl fmt::Display for SlowConsumer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for SlowConsumer {
    type Err = ConfigError;

    fn from_str(name: &str) -> Result<Self, ConfigError> {
        Self::ALL.into_iter().find(|policy| policy.as_str() == name).ok_or_else(|| ConfigError {
            key: "slow_consumer".into(),
            value: format!("{name:?}"),
            expected: "\"disconnect\", \"drop_oldest\", \"drop_newest\" or \"conflate\"",
        })
    }
}

// The shortest times that settings may be are those that were tried with 18,000 clients and 95,000 topics; docs/OPERATIONS.md
// has what they cost.

/// Where a shorter time costs no more, because it only has something found in a round that comes anyway.
const SHORTEST: Duration = Duration::from_millis(10);

/// Each client costs a message in every such time.
const MIN_HEARTBEAT: Duration = Duration::from_secs(1);

/// After a restart every browser comes back within such a time.
const MIN_RETRY: Duration = Duration::from_millis(100);

/// A topic that keeps crashing is started once in every such time, and the log told.
const MIN_QUARANTINE: Duration = Duration::from_millis(100);

/// The kernel counts it in seconds.
const MIN_TCP_KEEPALIVE: Duration = Duration::from_secs(1);

/// Less than a client takes to answer would end each one.
const MIN_TCP_USER_TIMEOUT: Duration = Duration::from_millis(100);

/// The longest time that a setting may be.
const LONGEST: Duration = Duration::from_secs(7 * 86_400);

/// Less is no time for an answer over any network but loopback.
const MIN_PONG_TIMEOUT: Duration = Duration::from_millis(100);

/// The kernel takes no more.
pub(crate) const MAX_TCP_KEEPALIVE: Duration = Duration::from_secs(32_767);

/// More threads than this would only wait for each other's locks.
const MAX_THREADS: usize = 256;

/// Each one is a section that somebody wrote; more come from a program that means topics.
const MAX_NAMESPACES: usize = 1_000;

/// Each one is a site that somebody knows; whoever means more of them means `*`.
const MAX_ALLOWED_ORIGINS: usize = 1_000;

/// With 1, an eighth of a crowd of 1,000 was not connected after 30 s; with 16, all were.
const MIN_BACKLOG: usize = 16;

/// With less, the first clients would already be too many.
const MIN_MEMORY_BUDGET: usize = 16 << 20;

/// A setting whose value cannot work; the caller's configuration is to blame.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{key} = {value}: expected {expected}")]
pub struct ConfigError {
    /// The name of the setting, as in [`Config`]; that of a namespace as `namespaces.NAME.history_bytes`.
    pub key: Cow<'static, str>,
    /// The value that was refused.
    pub value: String,
    /// What would have been accepted.
    pub expected: &'static str,
}

impl Config {
    /// What the topic of this name does: its namespace, or the default one if it has none that is listed.
    #[must_use]
    pub fn namespace(&self, topic: &str) -> &Namespace {
        let name = topic.split_once(':').map(|(name, _)| name);
        name.and_then(|name| self.namespaces.get(name)).unwrap_or(&self.default_namespace)
    }

    /// Checks every setting.
    ///
    /// # Errors
    ///
    /// The first setting whose value cannot work, with what was expected.
    pub fn validate(&self) -> Result<(), ConfigError> {
        range("threads", self.threads, 1..=MAX_THREADS, "1 to 256")?;
        range("max_connections", self.max_connections, 1..=10_000_000, "1 to 10,000,000")?;
        range("reserved_connections", self.reserved_connections, 16..=100_000, "16 to 100,000")?;
        range("max_refusals", self.max_refusals, 0..=1_000_000, "0 to 1,000,000")?;
        range("accept_rate", self.accept_rate, 1..=10_000_000, "1 to 10,000,000")?;
        range("max_handshakes", self.max_handshakes, 1..=1_000_000, "1 to 1,000,000")?;
        range("max_frame_bytes", self.max_frame_bytes, 64..=16 << 20, "64 bytes to 16 MiB")?;
        range("max_topic_bytes", self.max_topic_bytes, 1..=4_096, "1 to 4,096 bytes")?;
        range("max_topics_per_client", self.max_topics_per_client, 1..=65_536, "1 to 65,536")?;
        range("max_topics", self.max_topics, 1..=10_000_000, "1 to 10,000,000")?;
        range("address_share", self.address_share, 1..=100, "1 to 100 per cent")?;
        range("max_queue_frames", self.max_queue_frames, 0..=1 << 24, "0 for no limit, or up to 16,777,216")?;
        range("max_queue_bytes", self.max_queue_bytes, 1_024..=1 << 30, "1 KiB to 1 GiB")?;
        range("max_inflight_frames", self.max_inflight_frames, 1..=1 << 20, "1 to 1,048,576")?;
        range("max_inflight_bytes", self.max_inflight_bytes, 1_024..=1 << 30, "1 KiB to 1 GiB")?;
        range("max_detached_sessions", self.max_detached_sessions, 0..=10_000_000, "0 to 10,000,000")?;
        range("coalesce_bytes", self.coalesce_bytes, 1..=1 << 20, "1 byte to 1 MiB")?;
        range("inline_subscribers", self.inline_subscribers, 0..=1 << 24, "0 to 16,777,216")?;
        range("resume_messages", self.resume_messages, 0..=65_536, "0 to 65,536")?;
        range("resume_bytes", self.resume_bytes, 0..=1 << 30, "0 to 1 GiB")?;
        if self.memory_budget_bytes != 0 {
            // No process can have more than isize::MAX; a number above that is a mistake in some calculation.
            let allowed = MIN_MEMORY_BUDGET..=isize::MAX.unsigned_abs();
            range("memory_budget_bytes", self.memory_budget_bytes, allowed, "0 for no budget, or 16 MiB and more")?;
        }
        range("input_share", self.input_share, 1..=100, "1 to 100")?;
        range("send_buffer_bytes", self.send_buffer_bytes, 2_048..=1 << 26, "2 KiB to 64 MiB")?;
        range("max_hook_questions", self.max_hook_questions, 1..=1 << 20, "1 to 1,048,576")?;
        range("hook_queue", self.hook_queue, 1..=1 << 20, "1 to 1,048,576")?;
        range("backlog", self.backlog as usize, MIN_BACKLOG..=1 << 20, "16 to 1,048,576")?;
        range("allowed_origins", self.allowed_origins.len(), 0..=MAX_ALLOWED_ORIGINS, "at most 1,000 of them")?;
        if let Some(bad) = self.allowed_origins.iter().find(|origin| !AllowedOrigins::is_origin(origin)) {
            let expected = "origins such as \"https://app.example\" or \"http://localhost:3000\", or \"*\" for any";
            return Err(ConfigError { key: "allowed_origins".into(), value: format!("{bad:?}"), expected });
        }
        between("sse_retry", self.sse_retry, MIN_RETRY..=LONGEST, "100 ms to 7 days")?;
        time("frame_timeout", self.frame_timeout)?;
        between("heartbeat_interval", self.heartbeat_interval, MIN_HEARTBEAT..=LONGEST, "1 s to 7 days")?;
        if self.pong_timeout != Duration::ZERO && !(MIN_PONG_TIMEOUT..=LONGEST).contains(&self.pong_timeout) {
            let value = format!("{:?}", self.pong_timeout);
            let expected = "0 s for no limit, or 100 ms to 7 days";
            return Err(ConfigError { key: "pong_timeout".into(), value, expected });
        }
        time("session_ttl", self.session_ttl)?;
        time("resume_age", self.resume_age)?;
        time("topic_idle", self.topic_idle)?;
        between("topic_quarantine", self.topic_quarantine, MIN_QUARANTINE..=LONGEST, "100 ms to 7 days")?;
        time("drain_timeout", self.drain_timeout)?;
        if self.drain_period > LONGEST {
            let value = format!("{:?}", self.drain_period);
            return Err(ConfigError { key: "drain_period".into(), value, expected: "0 s to 7 days" });
        }
        if self.restart_time > LONGEST {
            let value = format!("{:?}", self.restart_time);
            return Err(ConfigError { key: "restart_time".into(), value, expected: "0 s to 7 days" });
        }
        time("hook_timeout", self.hook_timeout)?;
        time("write_timeout", self.write_timeout)?;
        time("stall_timeout", self.stall_timeout)?;
        between("tcp_keepalive", self.tcp_keepalive, MIN_TCP_KEEPALIVE..=MAX_TCP_KEEPALIVE, "1 s to 32,767 s")?;
        between("tcp_user_timeout", self.tcp_user_timeout, MIN_TCP_USER_TIMEOUT..=LONGEST, "100 ms to 7 days")?;
        self.validate_namespaces()
    }

    fn validate_namespaces(&self) -> Result<(), ConfigError> {
        range("namespaces", self.namespaces.len(), 0..=MAX_NAMESPACES, "at most 1,000 of them")?;
        self.default_namespace.validate().map_err(|error| error.inside("default_namespace"))?;
        for (name, namespace) in &self.namespaces {
            if !(1..=255).contains(&name.len()) || name.contains(|c: char| c == ':' || c.is_control()) {
                let expected = "a name of 1 to 255 bytes without ':' and control characters";
                return Err(ConfigError { key: "namespaces".into(), value: format!("{name:?}"), expected });
            }
            namespace.validate().map_err(|error| error.inside(&format!("namespaces.{name}")))?;
        }
        Ok(())
    }
}

impl Namespace {
    fn validate(&self) -> Result<(), ConfigError> {
        range("history_messages", self.history_messages, 1..=1_000_000, "1 to 1,000,000")?;
        range("history_bytes", self.history_bytes, 1_024..=1 << 30, "1 KiB to 1 GiB")?;
        time("history_age", self.history_age)
    }
}

impl ConfigError {
    fn inside(self, parent: &str) -> Self {
        Self { key: format!("{parent}.{}", self.key).into(), ..self }
    }
}

fn range(
    key: &'static str,
    value: usize,
    allowed: RangeInclusive<usize>,
    expected: &'static str,
) -> Result<(), ConfigError> {
    if allowed.contains(&value) {
        return Ok(());
    }
    Err(ConfigError { key: key.into(), value: value.to_string(), expected })
}

/// A time after which something is looked at that is gone through in rounds, all of it together.
fn time(key: &'static str, value: Duration) -> Result<(), ConfigError> {
    between(key, value, SHORTEST..=LONGEST, "10 ms to 7 days")
}

fn between(
    key: &'static str,
    value: Duration,
    allowed: RangeInclusive<Duration>,
    expected: &'static str,
) -> Result<(), ConfigError> {
    if allowed.contains(&value) {
        return Ok(());
    }
    Err(ConfigError { key: key.into(), value: format!("{value:?}"), expected })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_namespace(name: &str, namespace: Namespace) -> Config {
        Config { namespaces: [(name.to_owned(), namespace)].into(), ..Config::default() }
    }

    #[test]
    fn a_topic_follows_the_namespace_before_its_first_colon() {
        let conflate = Namespace { slow_consumer: SlowConsumer::Conflate, ..Namespace::default() };
        let config = with_namespace("quotes", conflate.clone());
        for topic in ["quotes:ACME", "quotes:", "quotes:a:b"] {
            assert_eq!(config.namespace(topic), &conflate, "{topic}");
        }
        for topic in ["quotes", "news:quotes:x", "quotesx:y", ":quotes", ":", ""] {
            assert_eq!(config.namespace(topic), &config.default_namespace, "{topic}");
        }
    }

    #[test]
    fn a_bad_value_of_a_namespace_is_named_with_the_namespace() {
        let bad = Namespace { history_bytes: 5, ..Namespace::default() };
        let error = with_namespace("quotes", bad.clone()).validate().unwrap_err();
        assert_eq!(error.to_string(), "namespaces.quotes.history_bytes = 5: expected 1 KiB to 1 GiB");
        let error = Config { default_namespace: bad, ..Config::default() }.validate().unwrap_err();
        assert_eq!(error.key, "default_namespace.history_bytes");
    }

    #[test]
    fn a_namespace_has_a_name_that_a_topic_can_begin_with() {
        for name in ["quotes", "q.1-x", "ö", &"x".repeat(255)] {
            assert_eq!(with_namespace(name, Namespace::default()).validate(), Ok(()), "{name}");
        }
        for name in ["", "a:b", "a\n", &"x".repeat(256)] {
            let error = with_namespace(name, Namespace::default()).validate().unwrap_err();
            assert_eq!((&*error.key, error.value), ("namespaces", format!("{name:?}")));
        }
        let names = |count: usize| (0..count).map(|number| (number.to_string(), Namespace::default())).collect();
        assert_eq!(Config { namespaces: names(1_000), ..Config::default() }.validate(), Ok(()));
        assert_eq!(Config { namespaces: names(1_001), ..Config::default() }.validate().unwrap_err().value, "1001");
    }

    #[test]
    fn an_origin_that_no_browser_would_send_is_named() {
        let with = |origins: &[&str]| {
            let allowed_origins = origins.iter().map(|&origin| origin.to_owned()).collect();
            Config { allowed_origins, ..Config::default() }.validate()
        };
        assert_eq!(with(&["https://app.example", "http://localhost:3000", "*"]), Ok(()));
        for bad in ["app.example", "https://app.example/", "https://*.example", ""] {
            let error = with(&["*", bad]).unwrap_err();
            assert_eq!((&*error.key, error.value), ("allowed_origins", format!("{bad:?}")));
        }
        assert_eq!(with(&["*"; 1_001]).unwrap_err().value, "1001");
    }

    #[test]
    fn a_memory_budget_is_none_or_large_enough() {
        for (bytes, good) in [(0, true), (1, false), ((16 << 20) - 1, false), (16 << 20, true), (usize::MAX, false)] {
            let config = Config { memory_budget_bytes: bytes, ..Config::default() };
            assert_eq!(config.validate().is_ok(), good, "{bytes}");
        }
    }

    #[test]
    fn the_name_of_a_policy_reads_back_as_the_policy() {
        for policy in SlowConsumer::ALL {
            assert_eq!(policy.to_string().parse(), Ok(policy));
        }
        for resume in Resume::ALL {
            assert_eq!(resume.to_string().parse(), Ok(resume));
        }
        let error = "Conflate".parse::<SlowConsumer>().unwrap_err();
        assert!(error.to_string().starts_with("slow_consumer = \"Conflate\": expected \"disconnect\""), "{error}");
    }
}
