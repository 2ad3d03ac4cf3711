//! Every setting of a Janus instance, with unit, default, limits, and the behaviour at each limit.
//!
//! The settings are plain data: nothing here reads a file, a variable or a flag. `janus-server` does that and hands the
//! result to `Janus::builder`; an embedder fills in the struct.
//!
//! | file | content |
//! |---|---|
//! | `mod.rs` | [`Config`]: the table of settings, and the rules across settings |
//! | `namespace.rs` | [`Namespace`]: the settings with a value for each namespace |
//! | `settings.rs` | the macro `settings!`, from a table of rows to a struct and its description |
//! | `gate.rs` | a limit on what may happen at once |
//! | `reload.rs` | when a change takes effect in a running instance |
//! | `kind.rs` | the kinds of values, their limits, and the words for operators |
//! | `networks.rs` | lists of networks: proxies, and addresses without limits |
//! | `io_uring.rs` | the values of `io_uring` |
//! | `user_limit.rs` | the values of `user_limit` |
//! | `tls.rs` | the values of the TLS settings, and the rules across them |

// First, because macros are known from their declaration on.
#[macro_use]
pub mod settings;

mod gate;
mod io_uring;
mod kind;
mod namespace;
pub(crate) mod networks;
mod reload;
mod tls;
mod user_limit;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use settings::{GIB, KIB, MIB, Table as _, days, millis, secs};

pub use io_uring::IoUring;
pub use namespace::{Namespace, Presence, Resume, SlowConsumer};
pub use reload::Reloaded;
#[cfg(feature = "tls")]
pub(crate) use tls::no_certificate;
pub use tls::{ClientCertificates, TlsVersion};
pub use user_limit::UserLimit;

use crate::wire::ForwardedHeader;

// The shortest accepted durations were tried with 18,000 clients and 95,000 topics; docs/OPERATIONS.md has their cost.
// Where 10 ms is accepted, even less would cost no more: a time-out is only found during a round, and the rounds come
// anyway.
settings! {
    /// The settings of one Janus instance.
    ///
    /// ```
    /// use janus_core::Config;
    ///
    /// let config = Config { max_connections: 5_000, ..Config::default() };
    /// assert!(config.validate().is_ok());
    /// ```
    ///
    /// The defaults are those of `janus-server`, with these exceptions: `http_listen` is empty, `pong_timeout` does not
    /// follow a shorter `heartbeat_interval`, and `memory_budget_bytes` is 0. **A program that serves clients it does not trust should set [`memory_budget_bytes`](Self::memory_budget_bytes)**
    /// to the memory that these clients may cost.
    ///
    /// A minor release may add fields, so build the struct as above, with `..Config::default()`. The struct is not
    /// `#[non_exhaustive]`: the attribute would forbid exactly this form to other crates, and fifty setters would have
    /// to replace it.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct Config {
        "Listening" {
            /// Addresses for connections of the classic protocol. Port 0 lets the system choose a port.
            listen: Vec<SocketAddr> = vec![SocketAddr::from(([127, 0, 0, 1], 8081))], addresses;

            /// Addresses of the HTTP port, for WebSocket (`/ws`), server-sent events (`/events`) and the HTTP API
            /// (`/api/`). Port 0 lets the system choose a port.
            ///
            /// The HTTP API is a part of `janus-server`. Another program receives requests for other paths through
            /// [`Builder::pass_on`](crate::Builder::pass_on).
            http_listen: Vec<SocketAddr> = Vec::new(), addresses;

            // With 1, an eighth of a crowd of 1,000 was not connected after 30 s; with 16, all were.
            /// Connections of each listener in the kernel's queue, until the server accepts them. The system's
            /// `somaxconn` caps the value. When the queue is full, the kernel drops further attempts, and the client's
            /// system tries again after 1 s, then 2 s, then 4 s.
            backlog: u32 = 65_535, count(16..=1 << 20);

            /// Connections accepted per second on each listener, and up to a tenth of that number at once. Further
            /// connections wait in the `backlog`.
            accept_rate: usize = 100_000, count(1..=10_000_000), reload(at_once);

            /// Connections of each listener between accept and greeting, and TLS handshakes of all listeners together.
            /// Further connections wait in the `backlog`. When all handshakes are taken, the oldest of the address with
            /// most of them is cut if it has lasted for a quarter of `frame_timeout`.
            max_handshakes: usize = 4_096, count(1..=1_000_000), reload(at_once);
        }

        "Addresses" {
            // Looked through for each connection; the published list of a large network of proxies has a few hundred.
            /// Networks of load balancers that speak the PROXY protocol, version 1 or 2. Each connection from these
            /// networks must begin with a PROXY header, on every port and before TLS, and all other connections must not.
            /// The address in the header is the client's own from then on. At most 1,000 networks.
            ///
            /// The header may have [536 bytes](crate::wire::ProxyHeader::MAX_BYTES), and has `frame_timeout`. A stream
            /// given to [`Janus::serve`](crate::Janus::serve), or by a listener as another stream than TCP, has no
            /// header: the program knows the address.
            proxy_protocol: Vec<IpNet> = Vec::new(), networks(1_000), reload(new_connections);

            /// Networks of proxies whose header `forwarded_header` is believed: the client's own address is the rightmost
            /// address in the header that is in none of these networks. Only on HTTP ports. At most 1,000 networks.
            trusted_proxies: Vec<IpNet> = Vec::new(), networks(1_000), reload(new_connections);

            /// The header in which the `trusted_proxies` name their clients. The proxies must set this header: the other
            /// header may be a client's invention and is not looked at.
            forwarded_header: ForwardedHeader = ForwardedHeader::XForwardedFor, one_of(ForwardedHeader::NAMES),
                reload(new_connections);

            // A large NAT has a few hundred users of the same service; a hundred such addresses fill 100,000 places.
            /// Connections at once from an address, an IPv4 host or an IPv6 /64 network, outside of `unlimited_networks`.
            /// A further connection is refused (`too_many_connections`, over HTTP with status 429).
            max_connections_per_ip: usize = 1_000, count_or_zero("no limit", 1..=10_000_000), reload(at_once);

            // After a crash of the server all users behind a NAT return at once, and ten seconds' worth lets them in.
            /// Connections per second from an address outside of `unlimited_networks`, and up to ten times that number at
            /// once. A further connection is refused (`too_many_connections`, over HTTP with status 429).
            connect_rate_per_ip: usize = 100, count_or_zero("no limit", 1..=1_000_000), reload(at_once);

            /// Networks whose addresses `max_connections_per_ip` and `connect_rate_per_ip` do not limit: by default the
            /// server's own machine and private networks, from which load balancers and load tests connect. A proxy in
            /// `trusted_proxies` has no limits either, but its clients have. At most 1,000 networks.
            unlimited_networks: Vec<IpNet> = networks::private(), networks(1_000), reload(at_once);
        }

        "TLS" {
            /// Addresses for connections of the classic protocol over TLS. Port 0 lets the system choose a port.
            ///
            /// TLS needs the feature `tls` of the crate.
            tls_listen: Vec<SocketAddr> = Vec::new(), addresses;

            /// Addresses of the HTTP port over TLS: for `wss://`, server-sent events and the HTTP API over `https://`.
            /// Port 0 lets the system choose a port.
            https_listen: Vec<SocketAddr> = Vec::new(), addresses;

            /// PEM files with the server's certificate and, below the certificate, its chain. With several files, the
            /// first whose certificate has the name that the client asks for is served, and otherwise the first of all.
            /// The files are read at the start, at each reload, and within 60 s after a change.
            ///
            /// See `Janus::reload_certificates`.
            tls_cert: Vec<PathBuf> = Vec::new(), paths, reload(new_connections);

            /// PEM files with the private keys, one for each file of `tls_cert` and in the same order. A key may be in
            /// the file of its certificate.
            tls_key: Vec<PathBuf> = Vec::new(), paths, reload(new_connections);

            /// PEM file with the certificates of the authorities that may issue certificates of clients.
            tls_client_ca: Option<PathBuf> = None, path, reload(new_connections);

            /// Whether clients are asked for a certificate: never (`off`), and a client without one is served as well
            /// (`optional`), or every client must have one (`required`). A certificate that `tls_client_ca` has not
            /// issued, or that has expired, is refused in any case.
            tls_client: ClientCertificates = ClientCertificates::Off, one_of(ClientCertificates::NAMES),
                reload(new_connections);

            /// The oldest accepted version of TLS. Versions before 1.2 are never accepted.
            tls_min_version: TlsVersion = TlsVersion::V1_2, one_of(TlsVersion::NAMES), reload(new_connections);

            // A handshake takes a core for 160 µs, and the home arbiter must not wait for handshakes.
            /// Threads for TLS handshakes.
            tls_handshake_threads: usize = cores().saturating_sub(1).max(1), count(1..=256),
                shown as "the number of cores less one";
        }

        "HTTP" {
            // Each origin is a site known to the operator; a longer list means `*`.
            /// Origins whose pages may connect to the HTTP port, in addition to the port's own host, such as
            /// `https://app.example`; `*` allows any. A browser on a page of another origin gets status 403. At most
            /// 1,000 origins.
            allowed_origins: Vec<String> = Vec::new(), origins(1_000), reload(at_once);

            // After a restart all browsers reconnect within this time.
            /// How long a browser waits before it reconnects a lost stream of server-sent events.
            sse_retry: Duration = secs(2), duration(millis(100)..=days(7)), reload(new_connections);
        }

        "Connections" {
            /// Clients connected at once. A further client that subscribes is told `too_many_connections` and closed.
            max_connections: usize = 100_000, count(1..=10_000_000), reload(at_once);

            /// Connections beyond `max_connections`, so that a full server still serves requests to the HTTP API,
            /// publishers of the classic protocol, and connections without a request yet. When all are taken, a new
            /// connection replaces the oldest silent connection of the address with most of them.
            ///
            /// Requests passed on with [`Builder::pass_on`](crate::Builder::pass_on) count here.
            reserved_connections: usize = 256, count(16..=100_000), reload(at_once);

            /// Refused connections kept open until the client has read the reason, for at most 1 s each, or, on a
            /// stream without room, until the reason is written, for at most `drain_timeout`. Further refused
            /// connections are closed at once.
            max_refusals: usize = 1_024, count(0..=1_000_000), reload(at_once);

            /// Bytes of one frame from a client, without its terminator. A longer frame closes the connection
            /// (`frame_too_large`).
            max_frame_bytes: usize = 64 * KIB, bytes(64..=16 * MIB), reload(at_once);

            /// How long a frame, or a TLS record, may stay unfinished. Then the connection is closed (`frame_timeout`). A
            /// TLS handshake has the same time.
            frame_timeout: Duration = secs(10), duration(millis(10)..=days(7)), reload(at_once);

            // Proxies close idle connections to servers behind them after a minute, as nginx does by default. Whoever closes
            // a connection first risks that a request is on its way.
            /// How long a connection that is kept after a request over HTTP may be silent. Then the connection is closed
            /// without a word. Choose a longer time than a proxy in front of the server does: the side that closes an idle
            /// connection must be the side that sends requests.
            api_idle_timeout: Duration = secs(75), duration(millis(10)..=days(7)), reload(at_once);

            // Each client costs one message per interval.
            /// Silence on a connection, counted from the connection's last message, before the server sends a `PING`.
            heartbeat_interval: Duration = secs(30), duration(secs(1)..=days(7)), reload(new_connections);

            // A shorter time is too short for an answer over any network but loopback.
            /// How long a client may owe the answer to a `PING`. Then the connection is closed (`ping_timeout`). The
            /// limit holds for each client over WebSocket, and for a classic client after its first answer. Any bytes
            /// from the client count as an answer. `0 s` closes no connection, and then a client that receives messages
            /// gets no `PING`.
            pong_timeout: Duration = secs(20), duration_or_zero("no limit", millis(100)..=days(7)), reload(at_once);

            // The kernel counts in seconds.
            /// Idle time before TCP keep-alive probes a client, give or take a quarter, so that not all clients are
            /// probed at once. Further probes follow every quarter of this time.
            tcp_keepalive: Duration = secs(60), duration(secs(1)..=secs(32_767)), reload(new_connections);

            // Within a shorter time no client could answer, and every connection would end.
            /// How long a client may take none of the sent bytes, or answer no probe of TCP keep-alive, before the
            /// kernel ends the connection, because the client is gone or does not read. A client under `stall_timeout`
            /// has at least twice `stall_timeout`. With less than twice `tcp_keepalive`, one probe lost on the way ends
            /// an idle client.
            tcp_user_timeout: Duration = secs(120), duration(millis(100)..=days(7)), reload(new_connections);

            /// Bytes of the kernel's send buffer for one connection. The kernel doubles the value.
            send_buffer_bytes: usize = 128 * KIB, bytes(2 * KIB..=64 * MIB), reload(new_connections);
        }

        "Limits by client" {
            /// Bytes per second that a client may send, of any kind. A second's worth, or `max_frame_bytes` if that is
            /// more, may come at once. A client that sends more is read no faster than this, and after `rate_patience`
            /// closed (`rate_limited`). For messages per second see `client_publish_rate`.
            client_bytes_rate: usize = 0, bytes_or_zero("no limit", KIB), reload(at_once);

            // A client that comes back subscribes to all of its topics at once. 100 a second leave an address with a
            // thousand connections less than a tenth of the home arbiter.
            /// Subscribes and unsubscribes per second of a client. A second's worth, or twice `max_topics_per_client` if
            /// that is more, may come at once, so that a client can exchange all of its topics. Further requests of the
            /// client wait, and after `rate_patience` the client is closed (`rate_limited`).
            client_subscribe_rate: usize = 100, count_or_zero("no limit", 1..=1_000_000), reload(at_once);

            // The client is at fault: a client that waits for answers has nothing unread each time that it waits.
            /// How long a client may have more waiting than `client_publish_rate`, `client_bytes_rate` or
            /// `client_subscribe_rate` allows, without a moment at which the server has caught up with it. Then the
            /// client is closed (`rate_limited`). A client that waits for the answer to each request is slowed down and
            /// never closed.
            rate_patience: Duration = secs(5), duration(millis(10)..=days(7)), reload(at_once);

            /// Connections of one user at once, counted by the name that the client has proved. Connections without a
            /// name are not counted. `user_limit` says what happens with a further connection.
            ///
            /// The name is [`Identity::user`](crate::hooks::Identity::user).
            max_connections_per_user: usize = 0, count_or_zero("no limit", 1..=1_000_000), reload(new_connections);

            /// What happens with a connection beyond `max_connections_per_user`: the connection is refused (`refuse`,
            /// with `too_many_connections`), or the oldest connection of the user is closed (`close_oldest`, with
            /// `connection_replaced`).
            ///
            /// A connection that takes over the session of another connection of the user takes its place, and is
            /// neither refused nor closes a third.
            user_limit: UserLimit = UserLimit::Refuse, one_of(UserLimit::NAMES), reload(at_once);
        }

        "Topics" {
            /// Topics in existence at once. A further topic replaces an unused topic, chosen by `address_share`, or is
            /// refused (`too_many_topics_on_server`).
            max_topics: usize = 100_000, count(1..=10_000_000), reload(at_once);

            /// Bytes of a topic's name. A longer name is refused (`bad_topic`).
            max_topic_bytes: usize = 255, bytes(1..=4 * KIB), reload(at_once);

            /// Topics one client may be subscribed to. A further subscription is refused (`too_many_topics`).
            max_topics_per_client: usize = 128, count(1..=65_536), reload(at_once);

            /// Per cent of `max_topics`, and of `max_detached_sessions`, that the clients of one address may hold while
            /// there is no room. An address beyond its share makes room with its own topics and sessions; otherwise the
            /// address with most of them makes room. An address is an IPv4 host or an IPv6 /64 network. An address that
            /// is alone may hold everything.
            address_share: usize = 10, per_cent(1..=100), reload(at_once);

            /// How long an unused topic is kept.
            topic_idle: Duration = secs(60), duration(millis(10)..=days(7)), reload(at_once);

            /// Whether remote clients may publish. A client counts as local only on a listener on loopback, and only if
            /// no proxy has passed the client on, other than a trusted proxy for a client on loopback.
            ///
            /// The signs of a proxy are those of [`HttpRequest::is_forwarded`](crate::wire::HttpRequest::is_forwarded).
            allow_publish: bool = false, boolean, reload(at_once);
        }

        "Delivery" {
            // More threads would only wait for each other's locks.
            /// Threads for delivery: the home arbiters, and senders.
            threads: usize = cores(), count(1..=256), shown as "the number of cores";

            /// Home arbiters: the threads of `threads` that accept and read connections and run the actors. Each
            /// connection and each topic has its home. There are no more homes than `threads`.
            homes: usize = default_homes(), count(1..=MAX_HOMES), shown as "half the number of cores";
            /// Whether messages to many subscribers go through io_uring, 32 sends with one system call: `auto` where the
            /// system allows it, `on` (the start fails where not), `off`. A line at the start says which.
            io_uring: IoUring = IoUring::Auto, one_of(IoUring::NAMES);

            // A sender takes longer to wake than a hundred sends: on two cores 100 subscribers, one message at a time,
            // have a p50 of 1.11 times the floor at 2.8 µs a delivery with 128, and 1.20 at 6.0 µs with 64; messages
            // without a pause come as fast with both.
            /// Subscribers up to which a topic delivers without help. Sender threads help larger topics, and smaller
            /// topics while the home arbiter does not keep up.
            inline_subscribers: usize = 128, count(0..=1 << 24), reload(at_once);

            /// Bytes of waiting messages of one topic, sent to a subscriber in one batch. A topic with more subscribers
            /// sends larger batches, this much for each subscriber, up to `coalesce_max_bytes`.
            coalesce_bytes: usize = 16 * KIB, bytes(1..=MIB), reload(at_once);

            /// The largest batch of a topic with many subscribers, as far as `send_buffer_bytes`, and a quarter of
            /// `max_queue_bytes` and of `max_queue_frames`, allow it. With less than `coalesce_bytes` batches do not grow.
            coalesce_max_bytes: usize = 96 * KIB, bytes(1..=MIB), reload(at_once);

            /// Messages of one topic, accepted but not yet handed to every subscriber. At the limit the publisher's
            /// connection is not read until some are handed over.
            ///
            /// A publisher in the same process waits or gets `Full`.
            max_inflight_frames: usize = 256, count(1..=1 << 20), reload(at_once);

            /// Bytes of messages of one topic, accepted but not yet handed to every subscriber. At the limit the
            /// publisher's connection is not read until some are handed over.
            max_inflight_bytes: usize = MIB, bytes(KIB..=GIB), reload(at_once);

            /// Messages waiting for one client; 0 leaves only the limit `max_queue_bytes`. A client with a further
            /// message is a slow consumer, and `slow_consumer` says what happens.
            max_queue_frames: usize = 0, count_or_zero("no limit", 1..=1 << 24), reload(at_once);

            /// Bytes of messages waiting for one client, plus 64 for each batch. A client with more is a slow consumer,
            /// and `slow_consumer` says what happens. Answers to the client's own requests may take another quarter of
            /// this size; a client with more unread answers is not read until it has taken some.
            max_queue_bytes: usize = MIB, bytes(KIB..=GIB), reload(at_once);

            /// How long a client may take none of its waiting messages, unless `stall_timeout` holds for the client.
            /// Then the client is disconnected as a slow consumer.
            write_timeout: Duration = secs(5), duration(millis(10)..=days(7)), reload(at_once);

            /// Replaces `write_timeout`, even if shorter, for a client with a topic under `conflate` or, over WebSocket
            /// and server-sent events, under `drop_oldest` or `drop_newest`: such a client may be behind, but not dead.
            /// On the classic protocol the two drop policies act as `disconnect`.
            stall_timeout: Duration = secs(60), duration(millis(10)..=days(7)), reload(at_once);
        }

        "Sessions" {
            /// How long a session is kept after its connection ended, so that the client can resume the session.
            session_ttl: Duration = secs(120), duration(millis(10)..=days(7)), reload(at_once);

            /// Sessions without a connection. For a further session, the session detached longest ends, of the address
            /// chosen by `address_share`.
            max_detached_sessions: usize = 20_000, count(0..=10_000_000), reload(at_once);

            /// Messages kept by every topic, even without `history`, so that a client can resume without a gap after a
            /// lost connection. A further message replaces the oldest, and a client that missed the oldest is told of
            /// the gap. Every client with the right to subscribe may ask for these messages, unless `resume` says
            /// otherwise. 0 keeps none.
            resume_messages: usize = 128, count(0..=65_536), reload(at_once);

            /// Bytes of messages kept by every topic for resuming clients. Beyond the limit the oldest messages are
            /// dropped.
            resume_bytes: usize = 256 * KIB, bytes(0..=GIB), reload(at_once);

            // Longer than a publisher tries again.
            /// How long a topic knows the idempotency key of a message, so that a repetition is not published.
            idempotency_ttl: Duration = secs(300), duration(secs(1)..=days(7)), reload(at_once);

            // A key takes some 200 bytes.
            /// Idempotency keys that a topic knows. A further key takes the place of the oldest. An engine keeps all keys.
            max_idempotency_keys: usize = 1_000, count(1..=1_000_000), reload(at_once);

            /// How long a message is kept for resuming clients.
            resume_age: Duration = secs(30), duration(millis(10)..=days(7)), reload(at_once);
        }

        "History" {
            /// Messages in one answer to a client that reads the history of a topic. A longer history is read in parts.
            max_history_reply_messages: usize = 1_000, count(1..=100_000), reload(at_once);

            // Answers may take a quarter of `max_queue_bytes` before the client is not read, and an answer is written in one
            // piece on the home arbiter: this much takes some 100 microseconds.
            /// Bytes of the messages in one answer to a client that reads the history of a topic. One message is answered
            /// however long.
            max_history_reply_bytes: usize = 256 * KIB, bytes(KIB..=16 * MIB), reload(at_once);
        }

        "Presence" {
            // A reload of a page takes a second or two, and a change of the network some more.
            /// How long a user stays a member of a topic after the end of the user's last subscription. A user that returns
            /// within this time has not left, and nothing is told. At most `max_presence_members` users of a topic are kept
            /// so; further users leave at once, and while memory is short all users do.
            presence_linger: Duration = secs(5), duration_or_zero("at once", millis(10)..=secs(3600)), reload(at_once);

            // A round is a send for each client that watches, and people hardly notice a tenth of a second.
            /// How long users that join and leave a topic are collected, to be told to the clients that watch with one frame
            /// each. A topic with more than 1,000 such clients is told less often, in proportion.
            presence_interval: Duration = millis(100), duration(millis(10)..=secs(60)), reload(at_once);

            /// Users listed in one topic. A topic with more users is counted and not listed, until an eighth less than this
            /// are left.
            max_presence_members: usize = 1_000, count(1..=10_000), reload(at_once);

            /// Bytes of one member: the user's name, and the info of the user's token as JSON. A longer info is left out,
            /// and a user with a longer name is counted like a connection without a user. `max_presence_members` of this
            /// size are at most 16 MiB.
            max_presence_member_bytes: usize = KIB, bytes(64..=16 * KIB), reload(at_once);
        }

        "Memory" {
            // With less, even the first clients would be too many.
            /// Bytes of messages, queues, sessions and connections together, by the server's own account; 0 for no
            /// budget. At 80 % strangers give back their memory, and if that is not enough, history is trimmed. At 90 %
            /// detached sessions end, the oldest first. At 92 % the clients with the largest queues are closed. At 95 %
            /// new connections are refused.
            ///
            /// **Not the default of the binary.** `janus-server` has half of the memory of its machine or control group as
            /// its budget, because the process is its own. A library shares the process, and cannot know which part of the
            /// memory is meant for its clients: without a budget of the program's choice, only the other limits hold.
            memory_budget_bytes: usize = 0, bytes_or_zero("no budget", 16 * MIB), reload(at_once);

            /// Per cent of `memory_budget_bytes` for input without a result yet, of all clients together: unfinished
            /// frames and HTTP heads, requests on connections not opened yet, and messages waiting for room. Beyond the
            /// limit, connections of the address with most input are closed (`server_overloaded`), the largest input
            /// first, then the oldest.
            input_share: usize = 10, per_cent(1..=100), reload(at_once);
        }

        "Cluster" {
            // Redis answers within a millisecond, and a failover by Sentinel takes some seconds.
            /// How long the engine may take for an answer, and how long a publisher waits for it. Then the link to the engine
            /// counts as lost, and the publisher is told `engine_unavailable`, or `outcome_unknown` if the message was on its
            /// way.
            engine_timeout: Duration = secs(5), duration(millis(100)..=secs(600));

            /// How long a link to the engine may be down until the server counts as not ready; with several addresses, all
            /// links. The pause between two attempts to make a link grows from 50 ms to 5 s.
            engine_grace: Duration = secs(5), duration(millis(100)..=days(7));

            // So that a client that was away overnight, while nothing happened, is not told that it missed something.
            /// How long the engine keeps the epoch and the last number of an unused topic.
            engine_state_ttl: Duration = secs(24 * 3600), duration(secs(1)..=days(365));

            /// Bytes for the engine that the kernel has not taken. Beyond the limit, messages wait in their topics.
            engine_buffer_bytes: usize = 4 * MIB, bytes(64 * KIB..=GIB);

            // At 100,000 topics this is 5,000 requests a second, some 5 % of Redis' core.
            /// How often the engine is told the number of subscribers of each topic in use, and asked whether the topic has
            /// missed a message.
            engine_report_interval: Duration = secs(20), duration(secs(1)..=secs(3600));

            // At full speed a topic takes some 40 MB/s, so this is a fifth of a second.
            /// Bytes of messages from other nodes that wait in a topic until they are handed out. Beyond the limit the topic
            /// leaves messages out, and reads them from the engine's log later. Subscribers are told of a gap if the log no
            /// longer has them.
            max_behind_bytes: usize = 8 * MIB, bytes(64 * KIB..=GIB);
        }

        "Supervision" {
            // A topic that keeps crashing is started, and reported in the log, once per quarantine.
            /// How long a topic that keeps crashing is refused (`topic_unavailable`) before a cold restart.
            topic_quarantine: Duration = secs(60), duration(millis(100)..=days(7)), reload(at_once);
        }

        "Shutdown" {
            /// How long a drain of the server, or the close of one connection, may take to deliver queued messages.
            drain_timeout: Duration = secs(10), duration(millis(10)..=days(7)), reload(at_once);

            /// How long a drain spreads the closing of connections, a few at a time and in random order, so that not
            /// all clients reconnect at once. The period is a part of `drain_timeout`, and at most half of it. `0 s`
            /// closes all connections at once.
            drain_period: Duration = secs(5), duration(secs(0)..=days(7)), reload(at_once);

            /// How long the port may be closed between the end of a drain and the next start. A drain tells clients to
            /// come back after the rest of `drain_period`, this time, and up to 2 s more: behind a proxy, a browser's
            /// `EventSource` that finds the port closed gets status 502 and never tries again. `0 s` where another
            /// process takes over the port at once. In a cluster clients are told to come back within half a second, to
            /// another node, while another node is ready.
            restart_time: Duration = secs(5), duration(secs(0)..=days(7)), reload(at_once);
        }

        "Access" {
            // Shorter than most answers of a backend to a page, and longer than a lost network round trip.
            /// How long a client is served after the end of its token, so that a new token may come late. Then the
            /// connection is closed (`token_expired`). A stream of server-sent events, which can send no new token, is
            /// closed at the end of its token.
            token_grace: Duration = secs(25), duration(secs(0)..=days(7)), reload(new_connections);

            // An entry takes some 300 bytes with a short name.
            /// Users and tokens revoked at once. A further one is refused. An entry leaves when its time is over.
            max_revocations: usize = 100_000, count(0..=10_000_000), reload(at_once);
        }

        "Hooks" {
            /// How long a decision about a client may take: about its token, or by hooks of a program. A question without
            /// an answer by then is answered with an error (`authorization_failed`); an observer is given up.
            ///
            /// See [`hooks`](crate::hooks).
            hook_timeout: Duration = secs(5), duration(millis(10)..=days(7)), reload(at_once);

            /// Decisions about clients at once, such as tokens that are verified. Further questions wait for their turn,
            /// within `hook_timeout`.
            max_hook_questions: usize = 1_024, count(1..=1 << 20), reload(at_once);

            /// Events waiting for observers. Further events are left out and counted.
            hook_queue: usize = 4_096, count(1..=1 << 20), reload(at_once);
        }

        nested {
            /// The settings of topics outside of `namespaces`.
            default_namespace: Namespace = Namespace::default();

            /// Namespaces by name, at most 1,000. A namespace is the part of a topic's name before the first `:`.
            /// Topics without a namespace, or of a namespace that is not listed, follow `default_namespace`.
            namespaces: BTreeMap<String, Namespace> = BTreeMap::new();
        }
    }
}

/// The kernel takes no more.
pub(crate) const MAX_TCP_KEEPALIVE: Duration = secs(32_767);

const MAX_THREADS: usize = 256;

pub(crate) const MAX_HOMES: usize = 64;

/// With a home for each core, the senders of a large fan-out would take the time of the homes.
fn default_homes() -> usize {
    (cores() / 2).clamp(1, MAX_HOMES)
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(2, usize::from).min(MAX_THREADS)
}

/// Bytes of all members of a topic.
const MAX_LIST_BYTES: usize = 16 * MIB;

/// Each namespace is a section written by hand; a program with more of them means topics.
const MAX_NAMESPACES: usize = 1_000;

/// A setting whose value cannot work; the caller's configuration is to blame.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{key} = {value}: expected {expected}")]
pub struct ConfigError {
    /// The name of the setting, as in [`Config`]; inside a namespace as in `namespaces.NAME.history_bytes`.
    pub key: Cow<'static, str>,
    /// The refused value.
    pub value: String,
    /// The accepted values.
    pub expected: Cow<'static, str>,
}

impl Config {
    /// The settings for a topic: the settings of its namespace, if listed, or else the default settings.
    #[must_use]
    pub fn namespace(&self, topic: &str) -> &Namespace {
        let name = topic.split_once(':').map(|(name, _)| name);
        name.and_then(|name| self.namespaces.get(name)).unwrap_or(&self.default_namespace)
    }

    /// Checks every setting.
    ///
    /// # Errors
    ///
    /// The first setting whose value cannot work, with the accepted values.
    pub fn validate(&self) -> Result<(), ConfigError> {
        self.validate_with(false)
    }

    /// As [`validate`](Self::validate). A program that brings a TLS configuration of its own needs no files.
    pub(crate) fn validate_with(&self, brings_tls: bool) -> Result<(), ConfigError> {
        self.check_each()?;
        self.check_presence()?;
        if !brings_tls {
            self.check_tls()?;
        }
        self.check_namespaces()
    }

    /// The number of home arbiters.
    pub(crate) fn home_threads(&self) -> usize {
        self.homes.min(self.threads)
    }

    /// A list of members is a frame for each client that watches.
    fn check_presence(&self) -> Result<(), ConfigError> {
        let most = MAX_LIST_BYTES / self.max_presence_members.max(1);
        if self.max_presence_member_bytes <= most {
            return Ok(());
        }
        Err(ConfigError {
            key: "max_presence_member_bytes".into(),
            value: self.max_presence_member_bytes.to_string(),
            expected: format!("at most {most} bytes with max_presence_members = {}", self.max_presence_members).into(),
        })
    }

    fn check_namespaces(&self) -> Result<(), ConfigError> {
        let refuse = |value, expected: &'static str| {
            Err(ConfigError { key: "namespaces".into(), value, expected: expected.into() })
        };
        if self.namespaces.len() > MAX_NAMESPACES {
            return refuse(self.namespaces.len().to_string(), "at most 1,000 of them");
        }
        self.default_namespace.check_each().map_err(|error| error.inside("default_namespace"))?;
        for (name, namespace) in &self.namespaces {
            if !(1..=255).contains(&name.len()) || name.contains(|c: char| c == ':' || c.is_control()) {
                return refuse(format!("{name:?}"), "a name of 1 to 255 bytes without ':' and control characters");
            }
            namespace.check_each().map_err(|error| error.inside(&format!("namespaces.{name}")))?;
        }
        Ok(())
    }
}

impl ConfigError {
    fn inside(self, parent: &str) -> Self {
        Self { key: format!("{parent}.{}", self.key).into(), ..self }
    }
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
    fn a_list_of_members_has_a_limit() {
        let with = |members, bytes| {
            let sizes = Config { max_presence_members: members, max_presence_member_bytes: bytes, ..Config::default() };
            sizes.validate().map_err(|error| error.to_string())
        };
        assert_eq!((with(1_024, 16 * KIB), with(10_000, KIB)), (Ok(()), Ok(())));
        let expected =
            "max_presence_member_bytes = 16384: expected at most 8192 bytes with max_presence_members = 2048";
        assert_eq!(with(2_048, 16 * KIB), Err(expected.to_owned()));
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
    fn limits_used_elsewhere_are_the_limits_of_their_rows() {
        for (tcp_keepalive, threads, good) in [
            (MAX_TCP_KEEPALIVE, MAX_THREADS, true),
            (MAX_TCP_KEEPALIVE + secs(1), MAX_THREADS, false),
            (MAX_TCP_KEEPALIVE, MAX_THREADS + 1, false),
        ] {
            let config = Config { tcp_keepalive, threads, ..Config::default() };
            assert_eq!(config.validate().is_ok(), good, "{tcp_keepalive:?}, {threads}");
        }
    }

    #[test]
    fn a_memory_budget_is_none_or_large_enough() {
        for (bytes, good) in [(0, true), (1, false), ((16 << 20) - 1, false), (16 << 20, true), (usize::MAX, false)] {
            let config = Config { memory_budget_bytes: bytes, ..Config::default() };
            assert_eq!(config.validate().is_ok(), good, "{bytes}");
        }
    }
}
