//! An engine with Redis or Valkey servers between the instances.
//!
//! | file | kind | owns |
//! |---|---|---|
//! | `mod.rs` | API | the engine and its options |
//! | `address.rs` | API | the address of a server, as a URL |
//! | `connect.rs` | I/O | how a link comes about, and the demands on a server |
//! | `discovery.rs` | I/O | where the masters are: Redis Sentinel, Redis Cluster |
//! | `cluster.rs` | I/O | the link to a Redis Cluster |
//! | `link.rs` | I/O | requests out, answers and records in |
//! | `opened.rs` | pure | the topics open over a link |
//! | `socket.rs` | I/O | one connection: buffers, and whether the server is still there |
//! | `commands.rs` | pure | requests as commands |
//! | `keys.rs` | pure | the names of a topic's keys and channel |
//! | `record.rs` | pure | records as text |
//! | `refusal.rs` | pure | the meaning of an error reply |
//! | `resp.rs` | pure | RESP3 |
//! | `differ.rs` | tests | the scripts against the rules of `engine/log.rs` |
//! | `scripts/` | Lua | the rules of the contract, carried out by the server |
//!
//! # How it works
//!
//! A script of the server numbers a batch of messages, keeps them, and publishes them, in one step. The state and the
//! log of a topic are keys of the server, and each node subscribes to the channels of the topics open on the node.
//!
//! The script asks the server for the name of the history (`master_replid`), which changes with each restart and each
//! promotion of a replica. Before the first message under another history the script puts a loss mark into the log and
//! takes a new epoch: Redis acknowledges a write before its replicas have it, and a failover may have lost the last
//! ones.
//!
//! # Requirements
//!
//! Redis 6.2 or newer, or Valkey; Redis Cluster from 7.0 on. A user with restricted rights needs `~PREFIX:* &PREFIX:*`
//! and `+hello +client|setname +select +ping +subscribe +unsubscribe +publish +script|load +eval +evalsha +info +time
//! +@hash +@stream +@string +@keyspace`, and for a Redis Cluster `+ssubscribe +sunsubscribe +spublish +cluster|slots`.
//! With `maxmemory`, the policy should be `noeviction`.
//!
//! The server closes a connection with subscriptions whose output is over `client-output-buffer-limit pubsub`, 32 MB by
//! default. The logs of topics are read over a connection without subscriptions, so a node can catch up on more.

mod address;
mod cluster;
mod commands;
mod connect;
mod discovery;
mod keys;
mod link;
mod opened;
mod record;
mod refusal;
mod resp;
mod socket;

use std::time::Duration;

use futures_util::future::LocalBoxFuture;

use super::{Engine, Link, LinkError, NodeId};
use crate::wire::TopicName;

pub use address::{Address, AddressError};

/// The servers of an engine, and how to use the servers.
///
/// ```
/// use std::time::Duration;
///
/// use janus_core::engine::redis::Options;
///
/// let options = Options { timeout: Duration::from_secs(2), ..Options::new(["redis://10.0.0.7".parse()?]) };
/// # Ok::<_, janus_core::engine::redis::AddressError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Options {
    /// The servers, at least one. Several servers are independent of each other, and share the topics: a topic has a
    /// place by a hash of the name and by the order of the addresses, which must be the same on every node.
    pub addresses: Vec<Address>,
    /// The beginning of the names of all keys and channels, `janus` by default: letters, digits, `-`, `_`, `.` and `:`.
    /// Nodes with the same servers and the same prefix are one cluster.
    pub prefix: String,
    /// How long connecting may take, and how long the answer to `PING` may take; 5 s by default.
    pub timeout: Duration,
    /// The longest reply in bytes, 64 MiB by default. A longer one ends the link. The longest replies are the kept
    /// messages of a topic, and what the nodes say about the members of a topic, up to 8 MiB.
    pub max_reply_bytes: usize,
    /// The most bytes that wait to be written, 64 MiB by default. More end the link.
    pub max_backlog_bytes: usize,
    /// The certificates to trust, needed for `rediss://` addresses.
    #[cfg(feature = "tls")]
    pub tls: Option<std::sync::Arc<rustls::ClientConfig>>,
}

impl Options {
    /// The defaults with these servers.
    pub fn new(addresses: impl IntoIterator<Item = Address>) -> Self {
        const BYTES: usize = 64 * 1024 * 1024;
        Self {
            addresses: addresses.into_iter().collect(),
            prefix: "janus".to_owned(),
            timeout: Duration::from_secs(5),
            max_reply_bytes: BYTES,
            max_backlog_bytes: BYTES,
            #[cfg(feature = "tls")]
            tls: None,
        }
    }
}

/// No engine can have these options.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OptionsError {
    /// There is no address.
    #[error("the engine needs the address of a server")]
    NoAddress,
    /// The prefix is empty, or has other characters.
    #[error("the prefix \"{0}\" must have letters, digits, -, _, . and : only")]
    Prefix(String),
    /// The timeout is too short.
    #[error("the timeout of {0:?} is below 10 ms")]
    Timeout(Duration),
    /// An address is `rediss://`, and there are no certificates to trust.
    #[error("{0} needs certificates to trust")]
    NoCertificates(Address),
}

/// An engine with Redis or Valkey servers between the instances.
///
/// ```no_run
/// use janus_core::engine::redis::{Options, Redis};
/// use janus_core::engine::{Engine, NodeId};
///
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let engine = Redis::new(Options::new(["redis://10.0.0.7".parse()?]))?;
/// let link = engine.connect(0, NodeId::new(7)).await?; // in a `LocalSet`, or on an actix arbiter
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Redis {
    options: Options,
}

impl Redis {
    /// An engine with these options. Nothing is connected yet.
    ///
    /// # Errors
    ///
    /// The first option that no engine can have.
    pub fn new(options: Options) -> Result<Self, OptionsError> {
        let is_in_prefix = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte);
        if options.addresses.is_empty() {
            return Err(OptionsError::NoAddress);
        }
        if options.prefix.is_empty() || !options.prefix.bytes().all(is_in_prefix) {
            return Err(OptionsError::Prefix(options.prefix));
        }
        if options.timeout < connect::SHORTEST_TIMEOUT {
            return Err(OptionsError::Timeout(options.timeout));
        }
        #[cfg(feature = "tls")]
        if options.tls.is_none()
            && let Some(address) = options.addresses.iter().find(|address| address.place.has_tls())
        {
            return Err(OptionsError::NoCertificates(address.clone()));
        }
        Ok(Self { options })
    }
}

impl Engine for Redis {
    fn name(&self) -> &'static str {
        "redis"
    }

    fn shards(&self) -> usize {
        self.options.addresses.len()
    }

    /// The address, without the password.
    fn server(&self, shard: usize) -> String {
        self.options.addresses.get(shard).map_or_else(|| self.name().to_owned(), ToString::to_string)
    }

    fn shard_of(&self, topic: &TopicName) -> usize {
        keys::server_of(keys::hash_of(topic.as_str()), self.options.addresses.len())
    }

    fn connect(&self, shard: usize, node: NodeId) -> LocalBoxFuture<'static, Result<Box<dyn Link>, LinkError>> {
        let options = self.options.clone();
        Box::pin(async move {
            let address = options.addresses.get(shard).ok_or_else(|| {
                LinkError::new("address", format!("there is no server {shard} of {}", options.addresses.len()))
            })?;
            connect::link(address, &options, node).await
        })
    }
}

#[cfg(test)]
mod differ;
#[cfg(test)]
mod tests;
