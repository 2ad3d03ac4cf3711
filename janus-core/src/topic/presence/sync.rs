//! When a node tells the engine its members, and hears of the members of other nodes.
//!
//! A single request does both: the request writes the words of this node, and the answer has the words of other nodes since the
//! last time. A change is told at once, but at most once in [`PAUSE`]; after the engine's answer the node calls the other
//! nodes, and these ask. So all nodes know of a user after some milliseconds, or a second or two in a busy topic. A call may be
//! lost; each topic in use asks once in `engine_report_interval` anyway.
//!
//! The words of a node end after [`valid`], and so the members of a dead node leave.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::members::Limits;
use super::others::NodeMembers;
use super::{Inner, Presence, PresenceInfo};
use crate::config::Config;
use crate::engine::{NodeId, NodePresence};
use crate::topic::{TopicState, Topics};

/// The shortest time between two requests for a topic: a request has all members of the node.
const PAUSE: Duration = Duration::from_secs(1);

/// The same during a drain, whose last departures are to be told before the end.
const PAUSE_OF_DRAIN: Duration = Duration::from_millis(20);

/// How long the words of a node count: two rounds, and as much more as a busy node may be late. With the default interval
/// and linger, a dead node's users have left after 55 s.
pub(super) fn valid(config: &Config) -> Duration {
    config.engine_report_interval.mul_f64(2.5)
}

/// What a topic's presence has to do with the engine.
#[derive(Debug)]
pub(super) struct Sync {
    /// Whether this node's members have changed since the last request.
    is_changed: bool,
    /// Whether another node may have new members.
    is_called: bool,
    /// Whether a request waits for the link.
    is_queued: bool,
    /// The earliest moment of the next request.
    next: Instant,
    /// The moment of the next request without a reason; `None` while the topic has no members here.
    refresh: Option<Instant>,
    /// The engine's version of the words known here.
    known: u64,
    /// When the words of each known node end.
    nodes: BTreeMap<NodeId, Instant>,
    /// The last answer.
    heard: Option<Instant>,
}

impl Sync {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            is_changed: false,
            is_called: false,
            is_queued: false,
            next: now,
            refresh: None,
            known: 0,
            nodes: BTreeMap::new(),
            heard: None,
        }
    }

    /// This node's members have changed.
    pub(super) fn note_change(&mut self) {
        self.is_changed = true;
    }

    /// The next moment with something to do.
    pub(super) fn due(&self) -> Option<Instant> {
        self.next_request().into_iter().chain(self.nodes.values().copied()).min()
    }

    fn next_request(&self) -> Option<Instant> {
        match self {
            Self { is_queued: true, .. } => None,
            Self { is_changed: true, next, .. } | Self { is_called: true, next, .. } => Some(*next),
            Self { refresh, .. } => *refresh,
        }
    }

    /// Whether a request is due. From then on the request waits for the link.
    fn begin_request(&mut self, now: Instant, pause: Duration) -> bool {
        let is_due = self.next_request().is_some_and(|due| due <= now);
        if is_due {
            self.is_queued = true;
            self.next = now + pause;
        }
        is_due
    }

    /// Whether the members of other nodes are known as of a moment ago.
    fn is_current(&self, interval: Duration) -> bool {
        self.heard.is_some_and(|heard| heard.elapsed() < interval * 2)
    }
}

/// What is asked of the engine about a topic.
pub(crate) struct Asked {
    pub(crate) members: Bytes,
    pub(crate) known: u64,
    pub(crate) valid: Duration,
}

impl Presence {
    /// The request for which the topic has waited.
    pub(crate) fn take_request(&self, topic: &Arc<TopicState>, shared: &Topics) -> Option<Asked> {
        let config = shared.config();
        let (mut inner, now) = (self.0.lock(), Instant::now());
        let Inner { members, sync, .. } = &mut *inner;
        let sync = sync.as_mut()?;
        let said = members.of_this_node(config.max_presence_members);
        if !sync.is_changed && !sync.is_called {
            // The round reads everything, and finds anything missed.
            sync.known = 0;
        }
        (sync.is_changed, sync.is_called, sync.is_queued) = (false, false, false);
        sync.refresh = (!said.is_empty()).then(|| now + config.engine_report_interval);
        let members = if said.is_empty() { Bytes::new() } else { said.text() };
        let asked = Asked { members, known: sync.known, valid: valid(&config) };
        inner.list(topic, now, shared);
        Some(asked)
    }

    /// Takes the words of the other nodes.
    pub(crate) fn hear(&self, topic: &Arc<TopicState>, version: u64, said: Vec<NodePresence>, shared: &Topics) {
        let config = shared.config();
        let limits = Limits::of(&config);
        let (mut inner, now) = (self.0.lock(), Instant::now());
        let Inner { members, sync, .. } = &mut *inner;
        let Some(sync) = sync else { return };
        // Without members of its own the topic is not called, and knows nothing for long.
        (sync.known, sync.heard) = (version, sync.refresh.map(|_| now));
        let before = std::mem::take(&mut sync.nodes);
        sync.nodes = said.iter().map(|said| (said.node, now + said.valid)).collect();
        for node in before.into_keys().filter(|node| !sync.nodes.contains_key(node)) {
            members.hear(node, None, now, limits);
        }
        for NodePresence { node, members: text, .. } in said {
            if let Some(text) = text {
                let read = NodeMembers::read(&text, config.max_presence_members);
                members.hear(node, Some(read.unwrap_or_default()), now, limits);
            }
        }
        inner.list(topic, now, shared);
    }

    /// Another node may have new members, or (`is_afresh`) the engine may have lost the words of this node.
    pub(crate) fn call(&self, topic: &Arc<TopicState>, is_afresh: bool, shared: &Topics) {
        let (mut inner, now) = (self.0.lock(), Instant::now());
        let is_used = !inner.members.of_this_node(0).is_empty();
        let Some(sync) = inner.sync.as_mut() else { return };
        if is_afresh {
            // A request on a link that has ended has no answer.
            (sync.is_changed, sync.known, sync.next) = (is_used, 0, now);
        } else {
            sync.is_called |= is_used;
        }
        inner.list(topic, now, shared);
    }

    /// What this node knows of all nodes; `None` if the engine has to be asked.
    pub(super) fn current(&self, config: &Config) -> Option<PresenceInfo> {
        let mut inner = self.0.lock();
        let is_current = inner.sync.as_ref().is_none_or(|sync| sync.is_current(config.engine_report_interval));
        is_current.then(|| inner.info(Limits::of(config)))
    }
}

impl Inner {
    /// Forgets nodes whose words have ended.
    pub(super) fn forget_nodes(&mut self, now: Instant, limits: Limits) {
        let Self { members, sync: Some(sync), .. } = self else { return };
        for (node, _) in sync.nodes.extract_if(.., |_, end| *end <= now) {
            members.hear(node, None, now, limits);
            // The node may repeat the same words.
            sync.known = 0;
        }
    }

    /// Makes the request that is due.
    pub(super) fn sync(&mut self, topic: &Arc<TopicState>, now: Instant, shared: &Topics) {
        let pause = if shared.is_draining() { PAUSE_OF_DRAIN } else { PAUSE };
        if let (Some(sync), Some(cluster)) = (&mut self.sync, &shared.cluster)
            && sync.begin_request(now, pause)
        {
            cluster.present(topic);
        }
    }
}
