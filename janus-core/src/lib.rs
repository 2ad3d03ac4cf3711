//! Janus pushes messages that are published to topics to tens of thousands of connected clients, with the lowest possible
//! latency to the last of them, under a supervision tree in which any part may crash.
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
//!     // Clients connect to this address; port 0 lets the system choose.
//!     let config = Config { listen: vec!["127.0.0.1:0".parse()?], ..Config::default() };
//!     let janus = Janus::builder().config(config).start().await?;
//!
//!     // Subscribe in this process: a queue with limits, from which nothing is lost unseen.
//!     let eur = janus.topic::<Quote>("quotes:eur")?;
//!     let mut quotes = eur.subscribe()?;
//!
//!     // Publish to it and to all clients, and learn what became of it.
//!     let receipt = eur.publish(&Quote { bid: 1.07, ask: 1.08 }).await?;
//!     println!("number {} has gone to {} subscribers", receipt.seq, receipt.subscribers);
//!
//!     if let Some(TypedEvent::Message(quote)) = quotes.next().await {
//!         println!("ask {}", quote.value.ask);
//!     }
//!
//!     janus.shutdown().await; // closes clients gently and leaves nothing behind
//!     Ok(())
//! }
//! ```
//!
//! # What a program does with it
//!
//! | | |
//! |---|---|
//! | start | [`Janus::builder`], with every setting there is in [`Config`]; from any runtime or none |
//! | publish | [`Janus::publish`], [`Janus::try_publish`], [`Janus::topic`] for values of one type |
//! | subscribe | [`Janus::subscribe`], [`Janus::subscribe_with`] to go on after a position, [`Janus::history`] |
//! | decide who may do what, and hear of clients | [`hooks`] and [`Builder::hooks`] |
//! | run actors of its own in the tree | [`Builder::child`], [`supervision`] |
//! | serve another protocol, or come by another way | [`wire::Codec`], [`Builder::listen`], [`Listener`], [`Janus::serve`]; `conformance`, a feature, checks them |
//! | look | [`Janus::trace`], [`Janus::stats`], [`Janus::topics`], [`Janus::connections`], [`Janus::sessions`], [`Janus::slow_clients`], [`Janus::tree`] |
//! | close clients | [`Janus::disconnect`], [`Janus::disconnect_user`] |
//! | end | [`Janus::shutdown`], and [`Janus::wait`] for the case that the tree gives up |
//!
//! The handle is `Clone`, `Send` and `Sync`. An instance has threads of its own and needs no runtime of the caller's:
//!
//! ```
//! use futures_executor::block_on; // or any other; nothing here waits for tokio's reactor
//! use janus_core::{Config, Janus};
//!
//! let config = Config { listen: vec!["127.0.0.1:0".parse()?], ..Config::default() };
//! let janus = block_on(Janus::builder().config(config).start())?;
//! block_on(janus.publish("news", "hello"))?;
//! block_on(janus.shutdown());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # The path of a message
//!
//! Four files, in this order:
//!
//! 1. `transport.rs` reads a socket and has a codec decode what the publisher sent (`wire/codec.rs` says what that is);
//! 2. `topic/work.rs` numbers the message, has it encoded once for each codec among its subscribers, and starts a pass;
//! 3. `delivery/pass.rs` is that pass: the home arbiter and the sender threads claim pieces of the subscriber list;
//! 4. `delivery/slot.rs` sends to one subscriber's socket, or queues for one that does not keep up.
//!
//! # What is where
//!
//! The crate is a house with floors: a folder knows only the folders below. From the ground up:
//!
//! | | |
//! |---|---|
//! | [`supervision`] | OTP supervision for actix actors: the crate `janus-supervision` |
//! | `wire/` | the wire formats, as pure functions |
//! | `config/` | the settings, each a row of a table |
//! | `ground/` | what an instance has once: clock, counters, faults, traces |
//! | `accounts/` | what the clients of one network address hold and take of what all clients share |
//! | `delivery/` | the hot path: slots, queues, batches, passes, sender threads |
//! | `hooks/` | the embedder decides about clients and observes them |
//! | `topic/` | the sequencer of messages, the list of subscribers, TopicManager |
//! | `session/` | sessions, which outlive their connections, and ProxyMapper |
//! | `connection/` | Acceptor, Transport, heartbeat |
//! | `instance/` | the handle, the supervision tree, the memory keeper, the drain |
//! | `typed.rs` | topics whose messages are values of one type |
//! | `conformance/` | the contract of a transport as checks (a feature) |
//! | `simulation/` | the whole tree on one thread under virtual time (tests) |
//! | `internals.rs` | the delivery path without its actors, for benches (a feature) |
//!
//! `docs/ARCHITECTURE.md` tells the reasons.
//!
//! # What it leaves alone
//!
//! The library logs through the `log` crate, from the home arbiter, too: a logger must not block, or everything waits with it.
//!
//! The library installs no signal handler, logger, panic hook or allocator, never ends the process, and has no global
//! state; two instances in one process do not see each other.

#![deny(missing_docs)]

mod accounts;
mod config;
#[cfg(feature = "conformance")]
pub mod conformance;
mod connection;
mod delivery;
mod ground;
pub mod hooks;
mod instance;
#[cfg(feature = "internals")]
#[doc(hidden)]
pub mod internals;
mod session;
#[cfg(all(test, feature = "fault-injection"))]
mod simulation;
mod topic;
mod typed;
pub mod wire;

#[doc(hidden)]
pub use config::settings;
pub use config::{Config, ConfigError, Namespace, Resume, SlowConsumer};
pub use connection::list::ConnectionInfo;
pub use connection::listener::{ByteStream, Incoming, Listener, PassedOn, PassedStream};
pub use delivery::codecs::TooManyCodecs;
#[cfg(feature = "fault-injection")]
pub use ground::fault::Fault;
pub use ground::trace::{Trace, TraceError, TraceKind, TraceLine, TraceOptions, UnknownKind};
pub use hooks::SlowClient;
pub use instance::builder::{Builder, StartError};
pub use instance::drain::DrainReport;
pub use instance::janus::{Janus, ServeError, WeakJanus};
pub use instance::stats::Stats;
#[doc(inline)]
pub use janus_supervision as supervision;
pub use session::{SessionInfo, SessionToken};
pub use topic::TopicInfo;
pub use topic::publish::{Message, PublishError, Receipt};
pub use topic::subscriber::{
    Closed, Delivery, Event, History, HistoryError, Resumption, SubscribeError, SubscribeOptions, Subscriber,
};
pub use typed::{TypedEvent, TypedMessage, TypedSubscriber, TypedTopic};
pub use wire::{Epoch, Position};

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct ReadmeExamples;
