//! Janus pushes messages that are published to topics to tens of thousands of connected clients, with the lowest possible
//! latency to the last of them, under a supervision tree in which any part may crash.
//!
//! ```
//! use janus_core::{Config, Janus};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let config = Config { listen: vec!["127.0.0.1:0".parse()?], ..Config::default() };
//! let janus = Janus::builder().config(config).start().await?;
//! println!("clients connect to {}", janus.local_addrs()[0]);
//!
//! let receipt = janus.publish("news", "hello").await?;
//! println!("message {} has gone to {} subscribers", receipt.seq, receipt.subscribers);
//!
//! janus.shutdown().await;
//! # Ok(())
//! # }
//! ```
//!
//! # The path of a message
//!
//! Four files, in this order:
//!
//! 1. `transport.rs` reads a socket and decodes what the publisher sent (`wire/classic.rs`);
//! 2. `topic.rs` numbers the message, encodes it once, and starts a pass;
//! 3. `delivery/pass.rs` is that pass: the home arbiter and the sender threads claim pieces of the subscriber list;
//! 4. `delivery/slot.rs` sends to one subscriber's socket, or queues for one that does not keep up.
//!
//! # What is where
//!
//! - [`supervision`]: OTP supervision for actix actors; depends on nothing else here.
//! - [`wire`]: the wire formats, as pure functions; depends on nothing else here.
//! - `janus.rs`: the builder and the handle; its function `tree` shows the whole supervision tree.
//! - `acceptor.rs`, `transport.rs`, `topic_manager.rs`, `topic.rs`, `proxy_mapper.rs`: the actors, one a file.
//! - `client_proxy.rs`: the session, which outlives its connection. `ring.rs`: what a topic keeps for those who come back.
//! - `subscriber.rs`: subscribers in this process. `heartbeat.rs`: PINGs, unfinished frames, stalled clients.
//! - `memory.rs`: what is given up when memory runs short. `slow_clients.rs`: who does not keep up. `drain.rs`: how an
//!   instance ends.
//! - `shared.rs`: the tables that outlive the actors. `delivery/`: the hot path. `turn.rs`: how tasks take turns.
//!
//! `docs/ARCHITECTURE.md` tells the reasons.
//!
//! # What it leaves alone
//!
//! The library installs no signal handler, logger, panic hook or allocator, never ends the process, and has no global
//! state; two instances in one process do not see each other.

#![deny(missing_docs)]

mod acceptor;
mod client_proxy;
mod config;
#[cfg(feature = "conformance")]
pub mod conformance;
mod delivery;
mod drain;
mod fault;
mod heartbeat;
#[cfg(feature = "internals")]
#[doc(hidden)]
pub mod internals;
mod janus;
mod listener;
mod memory;
mod proxy_mapper;
mod publish;
mod ring;
mod senders;
mod shared;
#[cfg(all(test, feature = "fault-injection"))]
mod simulation;
mod slow_clients;
mod subscriber;
pub mod supervision;
mod topic;
mod topic_manager;
mod transport;
mod turn;
pub mod wire;

pub use client_proxy::{SessionInfo, SessionToken};
pub use config::{Config, ConfigError, Namespace, SlowConsumer};
pub use delivery::codecs::TooManyCodecs;
#[cfg(feature = "fault-injection")]
pub use fault::Fault;
pub use janus::{Builder, DrainReport, Janus, ServeError, StartError, Stats};
pub use listener::{ByteStream, Incoming, Listener, PassedOn, PassedStream};
pub use publish::{Message, PublishError, Receipt};
pub use slow_clients::SlowClient;
pub use subscriber::{
    Closed, Delivery, Event, History, HistoryError, Resumption, SubscribeError, SubscribeOptions, Subscriber,
};
pub use topic::TopicInfo;
pub use wire::Position;
