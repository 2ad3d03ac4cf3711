//! Every setting of a Janus instance, with its unit, its default and what happens at its limit.
//!
//! The settings are plain data: nothing here reads a file, a variable or a flag. `janus-server` does that and hands
//! the result to `Janus::builder`; an embedder fills in the struct.

use std::net::SocketAddr;
use std::time::Duration;

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
    /// Threads that deliver: one home arbiter for the actors, the others send. Default: the number of cores.
    pub threads: usize,
    /// Clients connected at once. One more gets an error frame (`too_many_connections`) and is closed. Default 100,000.
    pub max_connections: usize,
    /// Connections beyond `max_connections` that may wait until their error frame is read, for at most a second each; more
    /// are closed at once. Default 1,024.
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
    /// Topics that exist at once. One more is refused (`too_many_topics_on_server`). Default 100,000.
    pub max_topics: usize,
    /// Frames that wait for one client. One more makes it a slow consumer, and it is cut off. Default 1,024.
    pub max_queue_frames: usize,
    /// Bytes that wait for one client. More make it a slow consumer, and it is cut off. Default 1 MiB.
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
    /// How long a session stays listed after its connection ended. Default 120 s.
    pub session_ttl: Duration,
    /// Sessions without a connection that are kept; beyond it the one detached longest ends. Default 20,000.
    pub max_detached_sessions: usize,
    /// How long an unused topic lives on. Default 60 s.
    pub topic_idle: Duration,
    /// How long a topic that keeps crashing is refused (`topic_unavailable`) before a cold restart. Default 60 s.
    pub topic_quarantine: Duration,
    /// How long a drain, or the close of one connection, may take to deliver what is queued. Default 10 s.
    pub drain_timeout: Duration,
    /// Over how long a drain closes connections, a few at a time and in no order, so that their clients do not all connect
    /// somewhere else at once; at most `drain_timeout`, of which it is a part. Zero closes them all at once. Default 5 s.
    pub drain_period: Duration,
    /// Idle time before TCP keep-alive probes a peer. Default 60 s.
    pub tcp_keepalive: Duration,
    /// How long a client may take nothing of what is sent before the kernel ends the connection, because it is gone or
    /// because it does not read. Default 30 s.
    pub tcp_user_timeout: Duration,
    /// Bytes of the kernel's send buffer for one connection (the kernel doubles the value). Default 64 KiB.
    pub send_buffer_bytes: usize,
    /// Connections the kernel holds until they are accepted; the system's `somaxconn` caps it. Default 65,535.
    pub backlog: u32,
    /// Whether clients of a listener that is not on loopback may publish. Default false.
    pub allow_publish: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: vec![SocketAddr::from(([127, 0, 0, 1], 8081))],
            threads: std::thread::available_parallelism().map_or(2, usize::from).min(MAX_THREADS),
            max_connections: 100_000,
            max_refusals: 1_024,
            accept_rate: 100_000,
            max_handshakes: 4_096,
            max_frame_bytes: 64 * 1024,
            max_topic_bytes: 255,
            max_topics_per_client: 128,
            max_topics: 100_000,
            max_queue_frames: 1_024,
            max_queue_bytes: 1024 * 1024,
            max_inflight_frames: 256,
            max_inflight_bytes: 1024 * 1024,
            coalesce_bytes: 16 * 1024,
            inline_subscribers: 256,
            frame_timeout: Duration::from_secs(10),
            heartbeat_interval: Duration::from_secs(30),
            session_ttl: Duration::from_secs(120),
            max_detached_sessions: 20_000,
            topic_idle: Duration::from_secs(60),
            topic_quarantine: Duration::from_secs(60),
            drain_timeout: Duration::from_secs(10),
            drain_period: Duration::from_secs(5),
            tcp_keepalive: Duration::from_secs(60),
            tcp_user_timeout: Duration::from_secs(30),
            send_buffer_bytes: 64 * 1024,
            backlog: 65_535,
            allow_publish: false,
        }
    }
}

/// The kernel takes no more.
const MAX_TCP_KEEPALIVE: Duration = Duration::from_secs(32_767);

/// More threads than this would only wait for each other's locks.
const MAX_THREADS: usize = 256;

/// A setting whose value cannot work; the caller's configuration is to blame.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{key} = {value}: expected {expected}")]
pub struct ConfigError {
    /// The name of the setting, as in [`Config`].
    pub key: &'static str,
    /// The value that was refused.
    pub value: String,
    /// What would have been accepted.
    pub expected: &'static str,
}

impl Config {
    /// Checks every setting.
    ///
    /// # Errors
    ///
    /// The first setting whose value cannot work, with what was expected.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let range = |key, value: usize, allowed: std::ops::RangeInclusive<usize>, expected| {
            if allowed.contains(&value) { Ok(()) } else { Err(ConfigError { key, value: value.to_string(), expected }) }
        };
        range("threads", self.threads, 1..=MAX_THREADS, "1 to 256")?;
        range("max_connections", self.max_connections, 1..=10_000_000, "1 to 10,000,000")?;
        range("max_refusals", self.max_refusals, 0..=1_000_000, "0 to 1,000,000")?;
        range("accept_rate", self.accept_rate, 1..=10_000_000, "1 to 10,000,000")?;
        range("max_handshakes", self.max_handshakes, 1..=1_000_000, "1 to 1,000,000")?;
        range("max_frame_bytes", self.max_frame_bytes, 64..=16 << 20, "64 bytes to 16 MiB")?;
        range("max_topic_bytes", self.max_topic_bytes, 1..=4_096, "1 to 4,096 bytes")?;
        range("max_topics_per_client", self.max_topics_per_client, 1..=65_536, "1 to 65,536")?;
        range("max_topics", self.max_topics, 1..=10_000_000, "1 to 10,000,000")?;
        range("max_queue_frames", self.max_queue_frames, 1..=1 << 24, "1 to 16,777,216")?;
        range("max_queue_bytes", self.max_queue_bytes, 1_024..=1 << 30, "1 KiB to 1 GiB")?;
        range("max_inflight_frames", self.max_inflight_frames, 1..=1 << 20, "1 to 1,048,576")?;
        range("max_inflight_bytes", self.max_inflight_bytes, 1_024..=1 << 30, "1 KiB to 1 GiB")?;
        range("max_detached_sessions", self.max_detached_sessions, 0..=10_000_000, "0 to 10,000,000")?;
        range("coalesce_bytes", self.coalesce_bytes, 1..=1 << 20, "1 byte to 1 MiB")?;
        range("inline_subscribers", self.inline_subscribers, 0..=1 << 24, "0 to 16,777,216")?;
        range("send_buffer_bytes", self.send_buffer_bytes, 2_048..=1 << 26, "2 KiB to 64 MiB")?;
        range("backlog", self.backlog as usize, 1..=1 << 20, "1 to 1,048,576")?;
        let up_to = |key, value: Duration, longest: Duration, expected| {
            if (Duration::from_millis(1)..=longest).contains(&value) {
                Ok(())
            } else {
                Err(ConfigError { key, value: format!("{value:?}"), expected })
            }
        };
        let longest = Duration::from_secs(7 * 86_400);
        let positive = |key, value| up_to(key, value, longest, "1 ms to 7 days");
        positive("frame_timeout", self.frame_timeout)?;
        positive("heartbeat_interval", self.heartbeat_interval)?;
        positive("session_ttl", self.session_ttl)?;
        positive("topic_idle", self.topic_idle)?;
        positive("topic_quarantine", self.topic_quarantine)?;
        positive("drain_timeout", self.drain_timeout)?;
        let drain_period = |allowed: bool, expected| {
            let (key, value) = ("drain_period", format!("{:?}", self.drain_period));
            if allowed { Ok(()) } else { Err(ConfigError { key, value, expected }) }
        };
        drain_period(self.drain_period <= longest, "0 s to 7 days, at most drain_timeout")?;
        up_to("tcp_keepalive", self.tcp_keepalive, MAX_TCP_KEEPALIVE, "1 ms to 32,767 s")?;
        positive("tcp_user_timeout", self.tcp_user_timeout)?;
        // Last, because it is about two settings: each of them alone is right.
        drain_period(self.drain_period <= self.drain_timeout, "at most drain_timeout")
    }
}
