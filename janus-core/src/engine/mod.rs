//! Engines: what makes a cluster of several instances.
//!
//! An engine numbers the messages of a topic for all instances (its *nodes*), keeps the latest messages in a log, and
//! hands each message on to every node that has opened the topic. Without an engine an instance does all of this itself.
//!
//! | file | what it is | what it owns |
//! |---|---|---|
//! | `mod.rs` | API | the contract between an instance and its engine |
//! | `log.rs` | pure | the topics of one server: numbers, logs, loss marks, and what nodes say of themselves |
//! | `exchange.rs` | pure | one server with its links, and the way of each answer |
//! | `memory.rs` | engine | an engine for several instances in one process |
//! | `unreliable.rs` | engine | an engine whose links and servers fail as a test decides |
//! | `payload.rs` | pure | the messages of a record as text |
//! | `redis/` | engine | an engine with Redis or Valkey servers between the instances (feature `redis`) |
//!
//! # The contract
//!
//! An instance talks to its engine over a [`Link`]. Requests go in with [`Link::request`], which never waits; answers and
//! the records of opened topics come out of [`Link::poll`]. An engine has to keep these promises:
//!
//! 1. **One order.** The records of a topic have dense numbers, whichever node has sent the messages: each record begins
//!    with the number after the last number of the record before.
//! 2. **One epoch, one history.** No two messages ever have the same epoch and number. An engine that may have lost
//!    messages (a restart, a failover to a copy that lags) takes a new epoch, and puts a [loss mark](What::Lost) into the
//!    log before the next message.
//! 3. **Numbers never go back.** A node opens a topic with the position that the node has handed out. Where the engine
//!    has not come so far, or has come there under another epoch, the engine declares the numbers up to one beyond that
//!    position lost.
//! 4. **A submission is carried out once.** The submissions of a node to a topic have rising numbers. A submission whose
//!    number is not above the last is [known](Outcome::Known), and nothing happens.
//!
//! Records reach a node at most once and may be missing: the node finds out by the numbers, and opens the topic again. No
//! order is promised between the record of a submission and the answer to it.
//!
//! No number is above [`LAST_NUMBER`]: a submission that would go beyond is [refused](AppendError).
//!
//! The checks of `conformance::engine` (feature `conformance`) hold any engine against this contract.

pub mod memory;
#[cfg(feature = "redis")]
pub mod redis;

mod exchange;
mod log;
mod payload;
#[cfg(test)]
pub(crate) mod unreliable;

use std::fmt;
use std::str::FromStr;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::LocalBoxFuture;

use crate::wire::{Epoch, Position, Timestamp, TopicName};

pub use payload::{Payload, PayloadError};

/// The greatest number of a message, 2^53 − 1: the greatest that JSON, JavaScript and Lua carry without rounding.
pub const LAST_NUMBER: u64 = (1 << 53) - 1;

/// What numbers the messages of topics for all nodes, keeps the messages, and hands them on.
///
/// An engine belongs to one instance, or is shared by several instances of the same process.
pub trait Engine: fmt::Debug + Send + Sync + 'static {
    /// A name for the log and for metrics, such as `redis`.
    fn name(&self) -> &'static str;

    /// The number of independent servers behind the engine, at least 1. Each has a link of its own, and a lost link costs
    /// the topics of its server only.
    fn shards(&self) -> usize {
        1
    }

    /// The name of a server for the log and for operators, such as its address; without secrets. By default the name of the
    /// engine, and the place of the server if there are several.
    fn server(&self, shard: usize) -> String {
        if self.shards() > 1 { format!("{} {shard}", self.name()) } else { self.name().to_owned() }
    }

    /// The server of a topic, below [`shards`](Self::shards). The same on every node, for as long as the servers are the
    /// same.
    fn shard_of(&self, topic: &TopicName) -> usize {
        let _ = topic;
        0
    }

    /// A link to a server. Called on a home arbiter at the start of the instance, and again after the end of each link.
    ///
    /// # Errors
    ///
    /// The server cannot be reached, or is not fit to be an engine: the text is for the operator.
    ///
    /// # Cancel safety
    ///
    /// The instance drops the future if the instance ends, or if the link takes longer than `engine_timeout`.
    fn connect(&self, shard: usize, node: NodeId) -> LocalBoxFuture<'static, Result<Box<dyn Link>, LinkError>>;
}

/// A link to an engine that is up. To drop the link ends it; requests without an answer may still be carried out.
pub trait Link {
    /// Takes a request, in the order of the calls. Never waits: bytes that cannot be written now wait in the link.
    fn request(&mut self, request: Request<'_>);

    /// Bytes that wait to be written. The instance makes no submission while there are more than `engine_buffer_bytes`.
    fn backlog(&self) -> usize;

    /// Writes what waits, and returns the next answer or record.
    ///
    /// # Errors
    ///
    /// The link has ended. The outcome of each submission without an answer is unknown.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Answer, LinkError>>;

    /// Lets go of a part of what the link holds for its topics. Called again and again after the end of the link, before the
    /// drop, for as long as there is more; other tasks of the thread run between the calls. For a link that holds nothing for
    /// each topic there is nothing to do.
    fn let_go(&mut self) -> bool {
        false
    }
}

/// The name of a node: 64 random bits of one instance, as 16 hexadecimal digits. A restarted instance is another node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(u64);

impl NodeId {
    /// The node with this number.
    #[must_use]
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// The number of the node.
    #[must_use]
    pub const fn number(self) -> u64 {
        self.0
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Epoch::new(self.0).fmt(f)
    }
}

impl FromStr for NodeId {
    type Err = crate::wire::EpochError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse::<Epoch>().map(|number| Self(number.number()))
    }
}

/// How much of a topic an engine keeps: at least the latest messages within all of these limits, and not much more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keep {
    /// Messages in the log; 0 for no log.
    pub messages: u64,
    /// Bytes of the log.
    pub bytes: u64,
    /// How long the log is kept after the last message.
    pub age: Duration,
    /// How long the topic's epoch and last number are kept after the last use: an open, a report, or a submission that was
    /// carried out.
    pub state: Duration,
}

/// A request to an engine.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Request<'a> {
    /// Have the records of a topic come here from now on, and say where the topic is. The answer is [`Answer::Opened`].
    /// Records of the topic that come before the answer belong to the time before, and the node ignores them.
    Open {
        /// The topic, which is made if there is none.
        topic: &'a TopicName,
        /// The number of the request, for the answer.
        ask: u64,
        /// How much is kept.
        keep: Keep,
        /// The last position that the node has handed out, if any.
        known: Option<Position>,
        /// The first number whose record the answer should have, if the log still has that record.
        from: Option<u64>,
    },
    /// Read the log of a topic without opening it. The answer is [`Answer::Records`].
    Read {
        /// The topic.
        topic: &'a TopicName,
        /// The number of the request, for the answer.
        ask: u64,
        /// The first number to be read.
        from: u64,
    },
    /// Have no more records of the topic come here. No answer.
    Close {
        /// The topic.
        topic: &'a TopicName,
    },
    /// Number these messages, keep them, and hand them on. The answer is [`Answer::Appended`].
    Append {
        /// The topic.
        topic: &'a TopicName,
        /// How much is kept.
        keep: Keep,
        /// Whether a topic that does not exist is made.
        create: bool,
        /// The number of the submission, above all earlier submissions of this node to this topic.
        submission: u64,
        /// How many messages the payload has, at least 1. They take as many numbers.
        count: u64,
        /// The messages.
        payload: &'a Payload,
        /// The publisher's key against repetitions, for a payload of one message, and how long the engine keeps the key.
        key: Option<(&'a str, Duration)>,
    },
    /// Say where the topic is, and note the number of this node's subscribers. The answer is [`Answer::Reported`].
    Report {
        /// The topic.
        topic: &'a TopicName,
        /// The subscribers on this node.
        subscribers: u64,
        /// How long the number counts unless it is reported again.
        valid: Duration,
    },
    /// Note what this node says of its members of a topic, and say what the other nodes say. The answer is
    /// [`Answer::Presence`]. What a node says ends with the node's time, and a topic of which no node says anything is
    /// forgotten; nothing else about the topic changes.
    ///
    /// An answer has the oldest of the new words, up to `most` bytes, and those of one node in any case. The node asks for the
    /// rest with the version of the answer.
    Presence {
        /// The topic.
        topic: &'a TopicName,
        /// The number of the request, for the answer.
        ask: u64,
        /// What this node says; empty if the node has no members any more. `None` to ask alone.
        members: Option<&'a [u8]>,
        /// The version up to which the node knows what other nodes say; 0 for nothing.
        known: u64,
        /// How long the node's words count unless they are repeated.
        valid: Duration,
        /// The bytes of words in the answer.
        most: usize,
    },
    /// Note that the node is alive. No answer.
    Beat {
        /// What the node says of itself, as JSON.
        about: &'a str,
        /// How long the node counts as alive.
        valid: Duration,
    },
    /// List the nodes that are alive. The answer is [`Answer::Nodes`].
    Nodes {
        /// The number of the request, for the answer.
        ask: u64,
    },
    /// Send a message to another node, or to all nodes except this one. At most once, and without an answer. A node gets
    /// the messages sent after its link has answered a request.
    Control {
        /// `None` for all nodes.
        to: Option<NodeId>,
        /// The message.
        message: &'a [u8],
    },
}

/// An answer of an engine, or a record of a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Answer {
    /// The topic is open.
    Opened {
        /// The topic.
        topic: TopicName,
        /// The number of the request.
        ask: u64,
        /// The topic's last position.
        position: Position,
        /// The records from the requested number on, up to `position`; some before it, or later ones, if the log begins
        /// there.
        records: Vec<Record>,
    },
    /// The engine cannot open or read the topic, or cannot read a record of the open topic. The link goes on, and the
    /// topic is not open.
    Failed {
        /// The topic.
        topic: TopicName,
        /// The number of the request; `None` for a record of an open topic.
        ask: Option<u64>,
        /// For the operator: why, and what to do.
        message: String,
    },
    /// The answer to [`Request::Read`].
    Records {
        /// The topic.
        topic: TopicName,
        /// The number of the request.
        ask: u64,
        /// From the requested number on, as for `Opened`.
        records: Vec<Record>,
    },
    /// A record of an open topic.
    Record {
        /// The topic.
        topic: TopicName,
        /// The record.
        record: Record,
    },
    /// The outcome of a submission.
    Appended {
        /// The topic.
        topic: TopicName,
        /// The number of the submission.
        submission: u64,
        /// What has become of it.
        outcome: Result<Outcome, AppendError>,
    },
    /// The answer to [`Request::Report`].
    Reported {
        /// The topic.
        topic: TopicName,
        /// The topic's last position; `None` if the engine no longer knows the topic. A node opens the topic again if the
        /// node is elsewhere for longer than records are under way: a node behind has missed a record, and a node ahead
        /// has records lost by the engine.
        position: Option<Position>,
        /// The subscribers on all nodes.
        subscribers: u64,
    },
    /// The answer to [`Request::Presence`].
    Presence {
        /// The topic.
        topic: TopicName,
        /// The number of the request.
        ask: u64,
        /// The version of the answer, for the next request. Rises with each change, also after a loss of the engine's data.
        version: u64,
        /// Whether the answer has all new words. Otherwise `version` is that of the newest words in the answer.
        is_whole: bool,
        /// Whether the words of the asking node are other than before.
        is_changed: bool,
        /// The other nodes with members of the topic, in the order of their ids.
        nodes: Vec<NodePresence>,
    },
    /// The answer to [`Request::Nodes`]: what each node says of itself.
    Nodes {
        /// The number of the request.
        ask: u64,
        /// In the order of the ids.
        nodes: Vec<(NodeId, String)>,
    },
    /// A message of another node.
    Control {
        /// The sender.
        from: NodeId,
        /// The message.
        message: Bytes,
    },
}

/// What a node says of its members of a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodePresence {
    /// The node.
    pub node: NodeId,
    /// For how long the words count from now on.
    pub valid: Duration,
    /// The words; `None` if they are older than the version that the asking node knows, or newer than that of the answer.
    pub members: Option<Bytes>,
}

/// What has become of a submission.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The messages are in the log; this is the position of the first.
    New(Position),
    /// The engine has had this submission before.
    Known,
    /// A message with this key was published before, and has this position.
    Again(Position),
    /// The topic does not exist, and was not to be made: no node has anybody subscribed.
    Nobody,
}

/// Some numbers of a topic, in their place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The epoch of the numbers.
    pub epoch: Epoch,
    /// The first number.
    pub first: u64,
    /// How many numbers, at least 1.
    pub count: u64,
    /// The time of the numbering by the clock of the engine.
    pub time: Timestamp,
    /// What has these numbers.
    pub what: What,
}

impl Record {
    /// The position of the last number.
    #[must_use]
    pub fn last(&self) -> Position {
        Position { epoch: self.epoch, seq: self.first + self.count - 1 }
    }
}

/// The contents of a [`Record`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// Messages of a submission.
    Messages {
        /// The node of the submission.
        node: NodeId,
        /// The number of the submission.
        submission: u64,
        /// The messages.
        payload: Payload,
    },
    /// A loss mark. The engine may have lost messages behind `after`, the last position known of the epoch before.
    Lost {
        /// That position.
        after: Position,
    },
}

/// Why a link could not be made, or has ended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct LinkError {
    /// One word for metrics, such as `refused`, `timeout` or `read_only`.
    pub reason: &'static str,
    /// For the operator: what has happened, and what to do.
    pub message: String,
}

impl LinkError {
    /// An error with these words.
    pub fn new(reason: &'static str, message: impl Into<String>) -> Self {
        Self { reason, message: message.into() }
    }
}

/// Why an engine has refused a submission. None of the messages is in the log.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct AppendError(pub String);
