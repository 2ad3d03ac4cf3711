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
//! 2. `topic.rs` numbers the message, has it encoded once for each codec among its subscribers, and starts a pass;
//! 3. `delivery/pass.rs` is that pass: the home arbiter and the sender threads claim pieces of the subscriber list;
//! 4. `delivery/slot.rs` sends to one subscriber's socket, or queues for one that does not keep up.
//!
//! # What is where
//!
//! - [`supervision`]: OTP supervision for actix actors; depends on nothing else here.
//! - [`wire`]: the wire formats, as pure functions; depends on nothing else here.
//! - `janus.rs`: the builder and the handle; its function `tree` shows the whole supervision tree.
//! - `acceptor.rs`, `transport.rs`, `topic_manager.rs`, `topic.rs`, `proxy_mapper.rs`: the actors, one a file.
//! - `socket_options.rs`: what is asked of the kernel for each connection.
//! - `listener.rs`: where byte streams come from. `conformance`, a feature: the contract of a transport as checks.
//! - `application.rs`: the embedder's own actors. [`hooks`]: where it decides about clients and observes them.
//! - `address.rs`: what the clients of one address hold of what all share. `shares.rs`: which address gives back first.
//!   `reached.rs`: lines in the log about limits of the server that are reached.
//! - `guests.rs`: connections without a place, and which of them makes room. `received.rs`: the bound on input that has led
//!   to nothing yet.
//! - `connections.rs`: who is connected, and how an operator ends that.
//! - `client_proxy.rs`: the session, which outlives its connection. `ring.rs`: what a topic keeps for those who come back.
//! - `subscriber.rs`: subscribers in this process; `typed.rs`: topics whose messages are values of one type.
//! - `heartbeat.rs`: heartbeats, unfinished frames, stalled clients.
//! - `memory.rs`: what is given up when memory runs short. `slow_clients.rs`: who does not keep up. `drain.rs`: how an
//!   instance ends.
//! - `trace.rs`: messages between actors, for readers who look for a while.
//! - `shared.rs`, `topic_table.rs`: the tables that outlive the actors. `delivery/`: the hot path. `turn.rs`, `fairness.rs`: how
//!   tasks take turns; `line.rs`: the order in which tasks wait.
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

mod acceptor;
mod address;
mod application;
mod client_proxy;
mod config;
#[cfg(feature = "conformance")]
pub mod conformance;
mod connections;
mod delivery;
mod drain;
mod fairness;
mod fault;
mod guests;
mod heartbeat;
pub mod hooks;
#[cfg(feature = "internals")]
#[doc(hidden)]
pub mod internals;
mod janus;
mod line;
mod listener;
mod memory;
mod proxy_mapper;
mod publish;
mod reached;
mod received;
mod ring;
mod senders;
mod shared;
mod shares;
#[cfg(all(test, feature = "fault-injection"))]
mod simulation;
mod slow_clients;
mod socket_options;
mod subscriber;
pub mod supervision;
mod topic;
mod topic_manager;
mod topic_table;
mod trace;
mod transport;
mod turn;
mod typed;
pub mod wire;

pub use client_proxy::{SessionInfo, SessionToken};
pub use config::{Config, ConfigError, Namespace, Resume, SlowConsumer};
pub use connections::ConnectionInfo;
pub use delivery::codecs::TooManyCodecs;
#[cfg(feature = "fault-injection")]
pub use fault::Fault;
pub use janus::{Builder, DrainReport, Janus, ServeError, StartError, Stats, WeakJanus};
pub use listener::{ByteStream, Incoming, Listener, PassedOn, PassedStream};
pub use publish::{Message, PublishError, Receipt};
pub use slow_clients::SlowClient;
pub use subscriber::{
    Closed, Delivery, Event, History, HistoryError, Resumption, SubscribeError, SubscribeOptions, Subscriber,
};
pub use topic::TopicInfo;
pub use trace::{Trace, TraceError, TraceKind, TraceLine, TraceOptions, UnknownKind};
pub use typed::{TypedEvent, TypedMessage, TypedSubscriber, TypedTopic};
pub use wire::Position;

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct ReadmeExamples;
