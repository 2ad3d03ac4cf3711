//! Topics whose messages an [`Engine`] numbers, for all nodes of a cluster.
//!
//! A topic of a cluster does not number its messages by itself. A message waits in the inbox and goes to the engine with a
//! *submission*; a topic has one submission under way, and all messages that come meanwhile go with the next. The engine
//! answers with a [`Record`](crate::engine::Record), which comes to all nodes. Applying records is the only way by which
//! numbers enter a node, and everything behind that is the same as without an engine: batches, passes, the ring.
//!
//! | file | what it is | what it owns |
//! |---|---|---|
//! | `mod.rs` | table | the engine, its links, and the topics with something to ask for |
//! | `clustered.rs` | pure | how far a topic is with its engine |
//! | `control.rs` | queue | messages between nodes, and what nodes say of themselves |
//! | `figures.rs` | figures | what the engine costs, and which of its links are up |
//! | `link.rs` | task | the links to the engine |
//! | `members.rs` | queue | requests and questions about the members of topics |
//! | `opening.rs` | rules | nothing: how a topic becomes ready for a subscriber |
//! | `records.rs` | rules | nothing: how records become messages |
//! | `submitting.rs` | rules | nothing: how messages go to the engine |
//!
//! A lost link is no crash. Subscribers stay, and resume as far as the ring reaches; publishers are told. When the link
//! is back, each topic that is in use is opened again at its own position, and catches up from the engine's log, or tells
//! its subscribers of a gap.

mod clustered;
mod control;
mod figures;
mod link;
mod members;
mod opening;
mod records;
mod submitting;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::Waker;
use std::time::Duration;

use futures_util::task::AtomicWaker;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::{TopicState, Topics};
use crate::config::{Config, Resume};
use crate::engine::{Engine, Keep, NodeId};
use crate::wire::TopicName;

pub(super) use clustered::Clustered;
pub(crate) use control::{Exchange, News, Voice};
pub(crate) use figures::{EngineFigures, LinkState};
pub(crate) use link::run;
pub(crate) use opening::Want;

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Cluster {
    engine: Arc<dyn Engine>,
    node: NodeId,
    name: String,
    shards: Box<[Shard]>,
    asks: AtomicU64,
    submissions: AtomicU64,
    watch: Watch,
    pub(crate) exchange: Exchange,
    /// Questions about members without an answer.
    questions: members::Questions,
    /// Topics whose change the other nodes are to be told of.
    changed: members::Changed,
    pub(crate) figures: EngineFigures,
}

/// One of the engine's servers.
#[derive(Debug, Default)]
struct Shard {
    /// Topics with a request, each at most once ([`Clustered`] knows), so at most `max_topics`.
    ready: Mutex<VecDeque<Arc<TopicState>>>,
    /// Requests about members.
    presenting: members::Waiting,
    /// The task of the link.
    task: Called,
    /// The number of the link that is up; 0 while no link is up.
    link: AtomicU64,
    /// The number of the last link.
    links: AtomicU64,
    /// Whether there has been no link for `engine_timeout`. Then messages are refused at once.
    is_lost: AtomicBool,
    /// The state of the link, for an operator.
    state: Mutex<LinkState>,
}

/// Calls the task of a link. A call in the middle of the task's own turn is for the next turn, and lets sockets, timers and
/// other tasks have theirs before: tokio takes a task that wakes itself up to 61 times in a row.
#[derive(Debug, Default)]
struct Called {
    waker: AtomicWaker,
    is_called: AtomicBool,
}

impl Called {
    fn call(&self) {
        self.is_called.store(true, Ordering::Release);
        self.waker.wake();
    }

    /// The task begins a turn.
    fn begin_turn(&self) {
        self.waker.take();
        self.is_called.swap(false, Ordering::AcqRel);
    }

    /// The task ends a turn. Returns whether there has been a call since the begin.
    fn end_turn(&self, waker: &Waker) -> bool {
        self.waker.register(waker);
        self.is_called.load(Ordering::Acquire)
    }
}

/// Topics whose messages wait, in the order in which the wait would become too long. Each at most once.
#[derive(Debug, Default)]
struct Watch {
    topics: Mutex<VecDeque<(Instant, Arc<TopicState>)>>,
    added: Notify,
}

impl Cluster {
    pub(crate) fn new(engine: Arc<dyn Engine>, node: NodeId) -> Self {
        let shards = (0..engine.shards().max(1)).map(|_| Shard::default()).collect();
        Self {
            engine,
            node,
            name: String::new(),
            shards,
            asks: AtomicU64::new(0),
            submissions: AtomicU64::new(0),
            watch: Watch::default(),
            exchange: Exchange::default(),
            questions: members::Questions::default(),
            changed: members::Changed::default(),
            figures: EngineFigures::default(),
        }
    }

    /// The same cluster, in which this node has a name for people.
    pub(crate) fn named(self, name: String) -> Self {
        Self { name, ..self }
    }

    /// The name of this node for people.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The id of this node.
    pub(crate) fn node(&self) -> NodeId {
        self.node
    }

    /// The name of the engine.
    pub(crate) fn engine_name(&self) -> &'static str {
        self.engine.name()
    }

    /// The name of one of the engine's servers.
    pub(crate) fn server_name(&self, shard: usize) -> String {
        self.engine.server(shard)
    }

    /// The links to the engine's servers, in their order.
    pub(crate) fn links(&self) -> impl Iterator<Item = LinkState> {
        self.shards.iter().map(|shard| shard.state.lock().clone())
    }

    /// The place of a topic's server among the shards.
    fn shard_of(&self, topic: &TopicName) -> usize {
        // An engine with a mistake costs its topics, and no panic.
        self.engine.shard_of(topic).min(self.shards.len() - 1)
    }

    fn shard(&self, topic: &TopicState) -> &Shard {
        &self.shards[topic.shard.unwrap_or(0)]
    }

    /// Whether messages to this topic are refused, because the engine has been away for too long.
    pub(super) fn refuses(&self, topic: &TopicState) -> bool {
        topic.shard.is_some_and(|shard| self.shards[shard].is_lost.load(Ordering::Relaxed))
    }

    /// Has the task of the link look at a topic.
    pub(super) fn add_ready(&self, topic: &Arc<TopicState>) {
        let shard = self.shard(topic);
        shard.ready.lock().push_back(Arc::clone(topic));
        shard.task.call();
    }

    /// Whether all links are up, as topics know.
    #[cfg(all(test, feature = "fault-injection"))]
    pub(crate) fn is_up(&self) -> bool {
        self.shards.iter().all(|shard| shard.link() != 0)
    }

    fn next_ask(&self) -> u64 {
        self.asks.fetch_add(1, Ordering::Relaxed) + 1
    }

    fn next_submission(&self) -> u64 {
        self.submissions.fetch_add(1, Ordering::Relaxed) + 1
    }
}

impl Shard {
    fn link(&self) -> u64 {
        self.link.load(Ordering::Acquire)
    }
}

impl Watch {
    fn add(&self, deadline: Instant, topic: Arc<TopicState>) {
        self.topics.lock().push_back((deadline, topic));
        self.added.notify_one();
    }

    /// Waits for the next topic whose wait has become too long.
    async fn next(&self) -> Arc<TopicState> {
        loop {
            let Some(deadline) = self.topics.lock().front().map(|(deadline, _)| *deadline) else {
                self.added.notified().await;
                continue;
            };
            tokio::time::sleep_until(deadline).await;
            if let Some((_, topic)) = self.topics.lock().pop_front() {
                return topic;
            }
        }
    }
}

/// How much of a topic an engine keeps: for resuming clients, and for the history of the namespace.
fn keep(topic: &TopicName, config: &Config) -> Keep {
    let namespace = config.namespace(topic.as_str());
    let mut keep = Keep {
        messages: config.resume_messages as u64,
        bytes: config.resume_bytes as u64,
        age: config.resume_age,
        state: config.engine_state_ttl,
    };
    if namespace.resume == Resume::Off {
        (keep.messages, keep.bytes, keep.age) = (0, 0, Duration::ZERO);
    }
    if namespace.history {
        keep.messages = keep.messages.max(namespace.history_messages as u64);
        keep.bytes = keep.bytes.max(namespace.history_bytes as u64);
        keep.age = keep.age.max(namespace.history_age);
    }
    // A log needs the numbers of the state.
    keep.state = keep.state.max(keep.age);
    keep
}

impl Topics {
    /// The cluster, for a topic that the engine numbers.
    pub(in crate::topic) fn cluster_of(&self, topic: &TopicName) -> Option<&Arc<Cluster>> {
        self.cluster.as_ref().filter(|_| self.config().namespace(topic.as_str()).clustered)
    }

    /// The place of a topic's server among the engine's; `None` for a topic that this instance numbers.
    pub(super) fn shard_of(&self, topic: &TopicName) -> Option<usize> {
        self.cluster_of(topic).map(|cluster| cluster.shard_of(topic))
    }
}
