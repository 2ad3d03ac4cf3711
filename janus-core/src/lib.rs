//! Push messages to tens of thousands of connected clients, with the lowest possible latency to the last of them, under
//! a supervision tree in which any part may crash.
//!
//! Programs publish messages to topics. Clients subscribe to topics over WebSocket, server-sent events, or plain TCP;
//! the program itself subscribes in process. Every topic has one order for all its subscribers. A client that lost its
//! connection resumes without a hole, or is told of a gap. No message comes twice, except on an event stream of several
//! topics, where the numbers show the repeats. A slow client never delays the others.
//!
//! This crate is the library. The binary `janus-server` is the same server with a command line and an HTTP API.
//!
//! ```
//! use janus_core::{Config, Janus, TypedEvent};
//! use serde::{Deserialize, Serialize};
//!
//! #[derive(Serialize, Deserialize)]
//! struct Quote {
//!     bid: f64,
//!     ask: f64,
//! }
//!
//! #[tokio::main]
//! async fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     // Clients connect to this address; the system chooses a port in place of 0.
//!     let config = Config { listen: vec!["127.0.0.1:0".parse()?], ..Config::default() };
//!     let janus = Janus::builder().config(config).start().await?;
//!
//!     // Subscribe in this process: a queue with limits, in which every loss is visible as a gap.
//!     let eur = janus.topic::<Quote>("quotes:eur")?;
//!     let mut quotes = eur.subscribe()?;
//!
//!     // Publish to this subscriber and to all clients. The receipt has the message's number.
//!     let receipt = eur.publish(&Quote { bid: 1.07, ask: 1.08 }).await?;
//!     println!("message {} goes to {} subscribers", receipt.seq, receipt.subscribers);
//!
//!     if let Some(TypedEvent::Message(quote)) = quotes.next().await {
//!         println!("ask {}", quote.value.ask);
//!     }
//!
//!     janus.shutdown().await; // closes clients gently and ends all threads
//!     Ok(())
//! }
//! ```
//!
//! # Using an instance
//!
//! | to | use |
//! |---|---|
//! | start | [`Janus::builder`], with the settings in [`Config`] |
//! | publish | [`Janus::publish`], [`Janus::try_publish`], [`Janus::topic`] for values of one type |
//! | subscribe | [`Janus::subscribe`], [`Janus::subscribe_with`] to resume after a position, [`Janus::history`] |
//! | decide about clients, and hear of them | [`hooks`] and [`Builder::hooks`] |
//! | run actors in the same tree | [`Builder::child`], [`supervision`] |
//! | test a program | the feature `testing`: a server on a port of its own, a client, time that a test moves |
//! | be a part of a web application | [`mount::Mount`]; the crates `janus-axum` and `janus-actix-web` mount it in one line, and the HTTP API of the crate `janus-api` in another |
//! | serve another protocol, or streams of another server | [`wire::Codec`], [`Builder::listen`], [`Listener`], [`Janus::serve`]; the feature `conformance` checks them |
//! | serve TLS, with the feature `tls` | [`Config::tls_listen`], [`Config::https_listen`], [`Config::tls_cert`]; `Builder::tls`, `Janus::reload_certificates` |
//! | connect to a server elsewhere | the feature `client`: subscribe, publish, and come back by itself |
//! | watch | [`Janus::stats`], [`Janus::metrics`] for an exporter, [`Janus::topics`], [`Janus::connections`], [`Janus::find_connections`], [`Janus::sessions`], [`Janus::slow_clients`], [`Janus::topic_counts`] for rates, [`Janus::trace`], [`Janus::tree`] |
//! | close clients | [`Janus::disconnect`], [`Janus::disconnect_user`] |
//! | be a node of a cluster | [`Builder::engine`], [`engine`], [`Janus::cluster`], [`Janus::nodes`], [`Janus::disconnect_user_everywhere`], [`Janus::revoke_everywhere`] |
//! | end | [`Janus::shutdown`]; [`Janus::wait`] returns when the tree has ended, for any reason |
//!
//! [`Janus`] is a handle: `Clone`, `Send` and `Sync`. An instance has threads of its own, so the caller needs no
//! runtime:
//!
//! ```
//! use futures_executor::block_on; // any executor will do: nothing here waits for tokio's reactor
//! use janus_core::{Config, Janus};
//!
//! let config = Config { listen: vec!["127.0.0.1:0".parse()?], ..Config::default() };
//! let janus = block_on(Janus::builder().config(config).start())?;
//! block_on(janus.publish("news", "hello"))?;
//! block_on(janus.shutdown());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Limits
//!
//! Every queue, table and wait has a limit, most of them settings of [`Config`], and a documented behaviour at the
//! limit:
//!
//! - **Publishers** wait for room in their topic ([`Janus::publish`]), or get [`PublishError::Full`]
//!   ([`Janus::try_publish`]).
//! - **Slow clients** meet the policy of their topic, [`SlowConsumer`]: to be closed, or to miss some of the messages.
//! - **Connections, topics, sessions and memory** have limits for the whole instance. Beyond a limit, the network
//!   address with the largest holding makes room first.
//!
//! An instance keeps messages in memory alone. Messages do not survive the end of the process, and instances do not
//! share topics, unless an [`engine`] makes them the nodes of a cluster.
//!
//! # Left to the program
//!
//! The library installs no signal handler, logger, panic hook or allocator, never ends the process, and has no global
//! state; two instances in one process do not see each other.
//!
//! It logs through the `log` crate, on the home arbiter as well: a logger that blocks holds up every client.
//!
//! A message of the log says everything in words; key-values (`log::Record::key_values`) repeat facts for programs.
//! The keys do not depend on the message:
//!
//! | key | value |
//! |---|---|
//! | `conn` | number of a connection, as in [`Janus::connections`] |
//! | `peer`, `proxy` | address of the client, with the port where it is known; of the proxy in front |
//! | `topic` | name of a topic |
//! | `user` | name of a user (revocations) |
//! | `code` | code of an error, such as `rate_limited` |
//! | `transport` | name of a codec: `classic`, `http`, … |
//! | `session` | beginning of a session's token: six of 32 digits |
//! | `hook`, `setting` | name of a hook; of a setting whose limit is reached |
//! | `supervisor`, `child` | names in the tree of actors |
//! | `refused`, `ended`, `closed`, `missed`, `topics`, `sessions`, `clients`, `pauses` | counts |
//!
//! Names of topics and users are chosen by clients and publishers: a logger must escape them. A program that uses
//! `tracing` gets the lines through `tracing_log::LogTracer`, which carries no key-values.
//!
//! # Inside: the path of a message
//!
//! 1. `connection/transport.rs` reads a socket, and a codec (`wire/codec.rs`) decodes the publisher's frame;
//! 2. `topic/` numbers the message, encodes it once for each codec of its subscribers, and starts a pass;
//! 3. `delivery/pass.rs` is the pass: the home arbiter and the sender threads claim pieces of the subscriber list;
//! 4. `delivery/slot.rs` sends to one subscriber's socket, or queues for a subscriber that lags.
//!
//! # Inside: the files
//!
//! The crate is a house with floors: a folder knows only the folders below. From the ground up:
//!
//! | file | what it owns |
//! |---|---|
//! | [`supervision`] | OTP supervision for actix actors: the crate `janus-supervision` |
//! | `wire/` | the wire formats, as pure functions |
//! | `client/` | a client of a server elsewhere (a feature) |
//! | `config/` | the settings, each a row of a table |
//! | `ground/` | the parts that an instance has once: clock, counters, faults, traces |
//! | `engine/` | what makes a cluster of several instances |
//! | `accounts/` | the holdings of each network address, and its share of the home arbiter's time |
//! | `delivery/` | the hot path: slots, queues, batches, passes, sender threads |
//! | `hooks/` | questions to the embedder, and news of clients |
//! | `topic/` | the sequencer of messages, the list of subscribers, TopicManager |
//! | `session/` | sessions, which outlive their connections, and ProxyMapper |
//! | `connection/` | Acceptor, Transport, heartbeat |
//! | `instance/` | the handle, the supervision tree, the memory keeper, the drain |
//! | `typed.rs` | topics for values of one type |
//! | `conformance/` | the contract of a transport as checks (a feature) |
//! | `testing/` | servers and clients for tests of programs (a feature) |
//! | `simulation/` | the whole tree on one thread under virtual time (tests) |
//! | `internals.rs` | the delivery path without its actors, for benches (a feature) |
//!
//! `docs/ARCHITECTURE.md` in the repository gives the reasons.

#![deny(missing_docs)]

mod accounts;
#[cfg(feature = "client")]
pub mod client;
mod config;
#[cfg(feature = "conformance")]
pub mod conformance;
mod connection;
mod delivery;
pub mod engine;
mod ground;
pub mod hooks;
mod instance;
#[cfg(feature = "internals")]
#[doc(hidden)]
pub mod internals;
mod session;
#[cfg(all(test, feature = "fault-injection"))]
mod simulation;
#[cfg(feature = "testing")]
pub mod testing;
mod topic;
mod typed;
pub mod wire;

/// Janus behind the HTTP server of another program, whose middleware comes first; see [`Mount`](mount::Mount).
///
/// The crates `janus-axum` and `janus-actix-web` do the rest for those frameworks.
pub mod mount {
    pub use crate::instance::mount::{Answer, Body, BodyError, Input, Mount, Routed, Upgrade};
}

#[doc(hidden)]
pub use config::settings;
pub use config::{
    ClientCertificates, Config, ConfigError, IoUring, Namespace, Presence, Reloaded, Resume, SlowConsumer, TlsVersion,
    UserLimit,
};
pub use connection::list::{
    ConnectionInfo, ConnectionOrder, ConnectionQuery, FoundConnections, PeerFilter, UnknownPeer,
};
pub use connection::listener::{
    ByteStream, Incoming, Listener, PassedOn, PassedRequest, PassedStream, ReturnError, WayBack,
};
#[cfg(feature = "tls")]
pub use connection::tls::certificates::CertificateError;
#[cfg(feature = "tls")]
pub use connection::tls::warnings::CertificateWarning;
pub use delivery::codecs::TooManyCodecs;
#[cfg(feature = "tls")]
pub use delivery::tls::{PassedTls, TlsStream};
pub use ground::counters::{Metric, MetricKind, Stats};
pub use ground::families::{MetricFamily, MetricSeries, MetricValue};
#[cfg(feature = "fault-injection")]
pub use ground::fault::Fault;
pub use ground::histogram::{Distribution, Histogram};
pub use ground::trace::{Trace, TraceError, TraceKind, TraceLine, TraceOptions, UnknownKind};
pub use hooks::SlowClient;
pub use instance::builder::{Builder, Speaks};
pub use instance::cluster::{ClusterState, EngineLink, Everywhere, NodeInfo};
pub use instance::drain::DrainReport;
pub use instance::janus::{Janus, WeakJanus};
pub use instance::reload::{PreparedReload, ReloadError};
pub use instance::routes::{HttpRoute, RouteRequest, RouteResponse};
pub use instance::serve::ServeError;
pub use instance::startup::StartupError;
/// The type of networks in [`Config`].
pub use ipnet::IpNet;
#[doc(inline)]
pub use janus_supervision as supervision;
#[cfg(any(feature = "client", feature = "tls"))]
pub use rustls;
pub use session::{SessionInfo, SessionToken};
pub use topic::history::{History, HistoryError};
pub use topic::publish::{Message, PublishError, Receipt};
pub use topic::subscriber::{Closed, Delivery, Event, Resumption, SubscribeError, SubscribeOptions, Subscriber};
pub use topic::{Handover, PresenceError, PresenceInfo, TopicInfo};
pub use typed::{TypedEvent, TypedMessage, TypedSubscriber, TypedTopic};
pub use wire::{ClientId, Epoch, Position, Since};

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct ReadmeExamples;
