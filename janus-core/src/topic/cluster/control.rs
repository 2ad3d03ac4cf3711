//! What nodes say of themselves, and messages between nodes.
//!
//! The instance above gives a [`Voice`], which makes and understands the texts; here they only travel, over the link to the
//! engine's first server. A message reaches a node at most once.

use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::Cluster;
use crate::engine::{Link, NodeId, Request};
use crate::wire::TopicName;

/// From one sign of life of a node to the next, and from one look at the list of nodes to the next.
pub(super) const BEAT: Duration = Duration::from_secs(5);

/// How long a node counts as alive after a sign of life: two may be lost.
const VALID: Duration = Duration::from_secs(15);

/// Messages that wait for the link. A further message is refused, and the sender is told.
const MOST_WAITING: usize = 256;

/// Topics with new members in one message.
const CHANGED_AT_ONCE: usize = 64;

/// The part of the instance above, with the meaning of the messages.
pub(crate) trait Voice: fmt::Debug + Send + Sync {
    /// The description of this node.
    fn about(&self) -> String;

    /// The message with which this node comes to the cluster.
    fn hello(&self) -> Bytes;

    /// The message that the members of these topics have changed on this node.
    fn members_changed(&self, topics: &[TopicName]) -> Bytes;

    /// A message of another node. Returns the news about the list of nodes.
    fn hear(&self, from: NodeId, message: &[u8]) -> News;
}

/// News about the list of nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum News {
    None,
    /// The sender has come.
    Came,
    /// The sender takes no further clients.
    Left,
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub(crate) struct Exchange {
    voice: OnceLock<Arc<dyn Voice>>,
    outgoing: Mutex<VecDeque<(Option<NodeId>, Bytes)>>,
    nodes: Mutex<Option<Heard>>,
    /// Whether the list of nodes may have changed.
    is_stale: AtomicBool,
    /// Whether this node has stopped to call itself alive.
    is_leaving: AtomicBool,
}

/// The nodes by the latest answer of the engine.
#[derive(Debug)]
struct Heard {
    at: Instant,
    nodes: Vec<(NodeId, String)>,
}

impl Exchange {
    /// Gives the exchange its voice. Only the first counts.
    pub(crate) fn speak_with(&self, voice: Arc<dyn Voice>) {
        let _ = self.voice.set(voice);
    }

    /// The nodes that were alive at the latest look, in the order of their ids. `None` if that was too long ago.
    pub(crate) fn nodes(&self) -> Option<Vec<(NodeId, String)>> {
        let heard = self.nodes.lock();
        heard.as_ref().filter(|heard| heard.at.elapsed() < VALID).map(|heard| heard.nodes.clone())
    }

    /// The number of these nodes.
    pub(crate) fn count(&self) -> Option<usize> {
        let heard = self.nodes.lock();
        heard.as_ref().filter(|heard| heard.at.elapsed() < VALID).map(|heard| heard.nodes.len())
    }

    pub(super) fn heard_nodes(&self, nodes: Vec<(NodeId, String)>) {
        *self.nodes.lock() = Some(Heard { at: Instant::now(), nodes });
    }

    pub(super) fn hear(&self, from: NodeId, message: &[u8]) {
        let Some(voice) = self.voice.get() else { return };
        match voice.hear(from, message) {
            News::None => {}
            News::Came => self.is_stale.store(true, Ordering::Relaxed),
            // Without a look at the engine's list, which may still have the node for a millisecond.
            News::Left => {
                if let Some(heard) = &mut *self.nodes.lock() {
                    heard.nodes.retain(|(id, _)| *id != from);
                }
            }
        }
    }
}

impl Cluster {
    /// Sends a message to a node, or to all other nodes. Returns false if too many messages wait already.
    pub(crate) fn send(&self, to: Option<NodeId>, message: Bytes) -> bool {
        {
            let mut outgoing = self.exchange.outgoing.lock();
            if outgoing.len() >= MOST_WAITING {
                return false;
            }
            outgoing.push_back((to, message));
        }
        self.wake_exchange();
        true
    }

    /// Tells the other nodes that this node takes no further clients. The list of nodes ends without this node.
    pub(crate) fn leave(&self, message: Bytes) {
        self.exchange.is_leaving.store(true, Ordering::Relaxed);
        self.send(None, message);
    }

    pub(super) fn wake_exchange(&self) {
        if let Some(shard) = self.shards.first() {
            shard.task.call();
        }
    }
}

/// The side of the link: the messages for the present link.
#[derive(Debug, Default)]
pub(super) struct Speaking {
    has_begun: bool,
    has_left: bool,
}

impl Speaking {
    /// Asks the link for everything that is to be said. `is_due` at each beat. Returns whether there was anything.
    pub(super) fn speak(&mut self, link: &mut dyn Link, cluster: &Cluster, is_due: bool, limit: usize) -> bool {
        let exchange = &cluster.exchange;
        let Some(voice) = exchange.voice.get() else { return false };
        let is_leaving = exchange.is_leaving.load(Ordering::Relaxed);
        let is_new = !std::mem::replace(&mut self.has_begun, true);
        let beats = !is_leaving && (is_due || is_new);
        let mut any = beats;
        if beats {
            link.request(Request::Beat { about: &voice.about(), valid: VALID });
        }
        if is_leaving && !std::mem::replace(&mut self.has_left, true) {
            link.request(Request::Beat { about: &voice.about(), valid: Duration::ZERO });
            any = true;
        }
        // Behind the beat, so that whoever looks at the list after the message finds this node.
        if is_new && !is_leaving {
            link.request(Request::Control { to: None, message: &voice.hello() });
        }
        while link.backlog() <= limit {
            let Some((to, message)) = exchange.outgoing.lock().pop_front() else { break };
            link.request(Request::Control { to, message: &message });
            any = true;
        }
        while link.backlog() <= limit {
            let topics = cluster.changed.take(CHANGED_AT_ONCE);
            if topics.is_empty() {
                break;
            }
            link.request(Request::Control { to: None, message: &voice.members_changed(&topics) });
            any = true;
        }
        if exchange.is_stale.swap(false, Ordering::Relaxed) || is_due || is_new {
            // The answers need no number: the latest is the newest.
            link.request(Request::Nodes { ask: 0 });
            any = true;
        }
        any
    }
}
