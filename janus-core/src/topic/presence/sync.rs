//! When a node tells the engine its members, and hears of the members of other nodes.
//!
//! A single request does both: the request writes the words of this node, and the answer has the words of other nodes since the
//! last time. A change is told at once, but at most once in [`PAUSE`]; after the engine's answer the node calls the other
//! nodes, and these ask. So all nodes know of a user after some milliseconds, or a second or two in a busy topic. A call may be
//! lost; each topic in use reads all words once in `engine_report_interval` anyway. An answer has a limited number of bytes
//! of words, and further requests follow at once for the rest.
//!
//! The words of a node end after [`valid`], and so the members of a dead node leave.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::members::{Limits, Members};
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
    /// When the words of all nodes are next read anew, which finds anything missed.
    whole: Instant,
    /// Whether the engine may have words of this node.
    has_words: bool,
    /// Requests on the link without an answer.
    unanswered: u32,
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
            whole: now,
            has_words: false,
            unanswered: 0,
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
            Self { refresh, whole, .. } => refresh.map(|refresh| refresh.min(*whole)),
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

/// The most bytes of the words of a node about one topic. A node with more counts its members there without names.
const WORDS_BYTES: usize = 4 * 1024 * 1024;

impl Presence {
    /// The request for which the topic has waited.
    pub(crate) fn take_request(&self, topic: &Arc<TopicState>, shared: &Topics) -> Option<Asked> {
        let (config, has_ended) = (shared.config(), topic.has_ended());
        // A topic of the same name speaks for this node from now on.
        if has_ended && shared.table.find(topic.name.as_str()).is_some_and(|topic| topic.has_members()) {
            return None;
        }
        let (mut inner, now) = (self.0.lock(), Instant::now());
        let Inner { members, sync, .. } = &mut *inner;
        let sync = sync.as_mut()?;
        if sync.whole <= now {
            (sync.known, sync.whole) = (0, now + config.engine_report_interval);
        }
        (sync.is_changed, sync.is_called, sync.is_queued) = (false, false, false);
        let words = if has_ended { Bytes::new() } else { words(members, config.max_presence_members, WORDS_BYTES) };
        sync.refresh = (!words.is_empty()).then(|| now + config.engine_report_interval);
        sync.has_words |= !words.is_empty();
        sync.unanswered += 1;
        let asked = Asked { members: words, known: sync.known, valid: valid(&config) };
        if !has_ended {
            inner.list(topic, now, shared);
        }
        Some(asked)
    }

    /// Takes the words of the other nodes. Without `is_whole` there are more, for the next request.
    pub(crate) fn hear(
        &self,
        topic: &Arc<TopicState>,
        (version, is_whole): (u64, bool),
        said: Vec<NodePresence>,
        shared: &Topics,
    ) {
        let (config, limits) = (shared.config(), Limits::of(shared));
        let (mut inner, now) = (self.0.lock(), Instant::now());
        let Inner { members, sync, .. } = &mut *inner;
        let Some(sync) = sync else { return };
        sync.unanswered = sync.unanswered.saturating_sub(1);
        sync.has_words &= sync.unanswered > 0 || sync.refresh.is_some();
        sync.known = version;
        if is_whole {
            // Without members of its own the topic is not called, and knows nothing for long.
            sync.heard = sync.refresh.map(|_| now);
        } else {
            (sync.is_called, sync.next) = (true, now);
        }
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
        let is_used = inner.members.has_connections();
        let Some(sync) = inner.sync.as_mut() else { return };
        if is_afresh {
            // A request on a link that has ended has no answer. Words of members that have left in the meantime are taken
            // back.
            (sync.is_changed, sync.known, sync.next) = (is_used || sync.has_words, 0, now);
            sync.unanswered = 0;
        } else {
            sync.is_called |= is_used;
        }
        inner.list(topic, now, shared);
    }

    /// What this node knows of all nodes; `None` if the engine has to be asked.
    pub(super) fn current(&self, shared: &Topics) -> Option<PresenceInfo> {
        let (mut inner, config) = (self.0.lock(), shared.config());
        let is_current = inner.sync.as_ref().is_none_or(|sync| sync.is_current(config.engine_report_interval));
        is_current.then(|| inner.info(Limits::of(shared)))
    }
}

impl TopicState {
    /// Whether a client of this node is a member of the topic.
    fn has_members(&self) -> bool {
        self.presence.as_ref().is_some_and(|presence| presence.has_connections())
    }
}

/// What this node says of its members; nothing without any.
fn words(members: &Members, listed: usize, most: usize) -> Bytes {
    let said = members.of_this_node(listed);
    if said.is_empty() {
        return Bytes::new();
    }
    let text = said.text();
    if text.len() <= most { text } else { members.of_this_node(0).text() }
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

    /// Has the words of a topic that has ended taken back, which would count for [`valid`] otherwise.
    pub(super) fn take_back_words(&mut self, topic: &Arc<TopicState>, shared: &Topics) {
        if let (Some(sync), Some(cluster)) = (&mut self.sync, &shared.cluster)
            && sync.has_words
            && !std::mem::replace(&mut sync.is_queued, true)
        {
            sync.has_words = false;
            cluster.present(topic);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Presence as Mode;
    use crate::wire::Member;

    #[test]
    fn a_node_with_too_long_words_counts_its_members() {
        let mut members = Members::new(Mode::Members);
        let limits = Limits { linger: Duration::ZERO, listed: 9 };
        assert_eq!(words(&members, 9, 0), "");
        for connection in 0..3 {
            members.join(connection, Some(Member::new(connection.to_string(), None)), Instant::now(), limits);
        }
        let full = words(&members, 9, 1_000);
        assert_eq!(NodeMembers::read(&full, 9).unwrap().users.len(), 3);
        let counted = NodeMembers { nameless: 3, unlisted: true, users: vec![] };
        assert_eq!(NodeMembers::read(&words(&members, 9, full.len() - 1), 9), Some(counted));
    }

    #[test]
    fn all_words_are_read_by_time_however_many_changes_there_are() {
        let start = Instant::now();
        let mut sync = Sync::new(start);
        let round = Duration::from_secs(20);
        (sync.refresh, sync.whole) = (Some(start + round), start + round);
        sync.refresh = Some(start + round * 3 / 2);
        assert_eq!(sync.due(), Some(start + round), "before the next refresh");
    }
}
