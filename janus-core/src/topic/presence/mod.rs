//! The presence of a topic: the members, and the clients that watch arrivals and departures.
//!
//! A topic has a [`Presence`] if the namespace says so when the topic is made; any other topic pays for a look at a pointer
//! when a client subscribes or leaves. The presence lies beside the topic's state, under a separate lock, and no delivery
//! ever looks there.
//!
//! | file | what it is | what it owns |
//! |---|---|---|
//! | `mod.rs` | table | the presence of one topic |
//! | `asking.rs` | rules | nothing: questions of clients, operators and the program |
//! | `here.rs` | pure | the connections of a user to this node |
//! | `members.rs` | pure | the members, and the news about them |
//! | `news.rs` | pure | changes of the members, and what they take |
//! | `others.rs` | pure | the members of other nodes of the cluster |
//! | `sync.rs` | rules | when a node tells the engine its members, and asks for the members of others |
//! | `task.rs` | task | the topics with something to do, in the order of their times |
//! | `watchers.rs` | table | the watching clients, and their frames |

mod asking;
mod here;
mod members;
mod news;
mod others;
mod sync;
mod task;
mod watchers;

use std::collections::BTreeSet;
use std::sync::Arc;

use parking_lot::Mutex;
use serde::Serialize;
use tokio::time::Instant;

use self::members::{Limits, Members};
use self::others::NodeMembers;
use self::sync::Sync;
use self::watchers::Watchers;
use super::{TopicState, Topics};
use crate::config::{Config, Presence as Mode};
use crate::delivery::{Ledger, Slot};
use crate::hooks::Identity;
use crate::wire::{Member, TopicName};

pub(crate) use asking::Look;
pub use asking::PresenceError;
pub(crate) use task::{Presences, run};

/// The members of a topic: see [`Janus::presence`](crate::Janus::presence).
///
/// Serde writes the answer of the HTTP API without its key `topic`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct PresenceInfo {
    /// The number of members: users, and connections without a user.
    pub count: usize,
    /// The users, by name. `None` if the namespace counts only, and if the topic has more users than
    /// `max_presence_members`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub members: Option<Vec<Member>>,
}

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Presence(Mutex<Inner>);

#[derive(Debug)]
struct Inner {
    members: Members,
    /// The slots of clients that are members under a name given for this topic alone.
    named: BTreeSet<u64>,
    watchers: Watchers,
    /// The topic's place among the topics with something to do.
    due: Option<Instant>,
    /// The topic has ended: nothing has to be done but to give up the place, and what other nodes know.
    has_ended: bool,
    /// For a topic that an engine numbers.
    sync: Option<Box<Sync>>,
    ledger: Arc<Ledger>,
    /// What the ledger counts for this presence.
    accounted: usize,
}

impl Presence {
    /// The presence of a new topic; `None` for a topic without presence.
    pub(super) fn of(
        topic: &TopicName,
        config: &Config,
        is_clustered: bool,
        ledger: &Arc<Ledger>,
    ) -> Option<Box<Self>> {
        let mode = config.namespace(topic.as_str()).presence;
        (mode != Mode::Off).then(|| Box::new(Self::new(mode, is_clustered, Arc::clone(ledger))))
    }

    fn new(mode: Mode, is_clustered: bool, ledger: Arc<Ledger>) -> Self {
        let mut inner = Inner {
            members: Members::new(mode),
            named: BTreeSet::new(),
            watchers: Watchers::default(),
            due: None,
            has_ended: false,
            sync: is_clustered.then(|| Box::new(Sync::new(Instant::now()))),
            ledger,
            accounted: 0,
        };
        inner.account();
        Self(Mutex::new(inner))
    }

    /// Notes a subscribed client, or another identity of a subscribed client. A client with a name of its own in this topic
    /// keeps that name.
    pub(crate) fn join(&self, topic: &Arc<TopicState>, slot: &Slot, identity: Option<&Identity>, shared: &Topics) {
        let config = shared.config();
        let user = identity.and_then(|identity| member_of(identity, config.max_presence_member_bytes));
        let (mut inner, now) = (self.0.lock(), Instant::now());
        if inner.named.contains(&slot.id) {
            return;
        }
        let is_changed = inner.members.join(slot.id, user, now, Limits::of(shared));
        inner.changed(is_changed, topic, now, shared);
    }

    /// Notes a subscribed client that is this member of the topic, whatever its identity says.
    pub(crate) fn join_as(&self, topic: &Arc<TopicState>, slot: &Slot, member: &Member, shared: &Topics) {
        let config = shared.config();
        let member = within(member, config.max_presence_member_bytes);
        let (mut inner, now) = (self.0.lock(), Instant::now());
        inner.named.insert(slot.id);
        let is_changed = inner.members.join(slot.id, member, now, Limits::of(shared));
        inner.changed(is_changed, topic, now, shared);
    }

    /// Notes a client that is subscribed no longer, if the client was.
    pub(crate) fn leave(&self, topic: &Arc<TopicState>, slot: &Slot, shared: &Topics) {
        let (mut inner, now) = (self.0.lock(), Instant::now());
        let Some(is_changed) = inner.members.leave(slot.id, now, Limits::of(shared)) else { return };
        inner.named.remove(&slot.id);
        if inner.watchers.remove(slot.id) {
            inner.members.ignore();
        }
        inner.changed(is_changed, topic, now, shared);
    }

    /// Notes the end of the topic, after which no user lingers: the task would keep the topic until then.
    fn end(&self, topic: &Arc<TopicState>, shared: &Topics) {
        let mut inner = self.0.lock();
        inner.has_ended = true;
        if inner.due.is_some() {
            inner.list(topic, Instant::now(), shared);
        }
    }

    /// Has the task tell a subscribed client the state, and from then on each change. Returns the number of users in the
    /// list.
    pub(crate) fn watch(&self, topic: &Arc<TopicState>, slot: &Arc<Slot>, shared: &Topics) -> usize {
        let mut inner = self.0.lock();
        // Another connection may have taken over the session, and nothing would end the watch.
        if !inner.members.has(slot.id) {
            return 0;
        }
        inner.members.collect();
        let version = inner.members.version();
        inner.watchers.add(slot, version);
        inner.list(topic, Instant::now(), shared);
        inner.members.listed()
    }

    /// The number of members.
    pub(super) fn count(&self) -> usize {
        self.0.lock().members.count()
    }

    /// Whether a client of this node is a member.
    fn has_connections(&self) -> bool {
        self.0.lock().members.has_connections()
    }

    /// The members of connections of this node.
    fn of_this_node(&self, listed: usize) -> NodeMembers {
        self.0.lock().members.of_this_node(listed)
    }

    /// Follows other settings.
    fn follow(&self, topic: &Arc<TopicState>, shared: &Topics) {
        let mut inner = self.0.lock();
        let listed = inner.members.is_listed();
        inner.members.decide(Limits::of(shared));
        let is_changed = inner.members.is_listed() != listed;
        inner.changed(is_changed, topic, Instant::now(), shared);
    }

    /// Does a portion of the work that is due.
    fn turn(&self, topic: &Arc<TopicState>, shared: &Topics) {
        let has_ended = topic.has_ended();
        let (mut inner, now) = (self.0.lock(), Instant::now());
        if has_ended {
            inner.take_back_words(topic, shared);
            return inner.relist(None, topic, shared);
        }
        let (config, limits) = (shared.config(), Limits::of(shared));
        // A successor of a task that crashes here comes back to the topic.
        inner.relist(Some(now + config.presence_interval), topic, shared);
        inner.members.expire(now, limits);
        inner.forget_nodes(now, limits);
        let Inner { watchers, members, .. } = &mut *inner;
        watchers.step(members, &topic.name, now, shared);
        inner.sync(topic, now, shared);
        inner.list(topic, now, shared);
    }
}

impl TopicState {
    /// Has the presence follow the end of the topic.
    pub(super) fn end_presence(self: &Arc<Self>, shared: &Topics) {
        if let Some(presence) = &self.presence {
            presence.end(self, shared);
        }
    }
}

/// A user as other clients see the user; `None` for an unknown user, and for a name that is too long.
fn member_of(identity: &Identity, most: usize) -> Option<Member> {
    let Identity { user, info, .. } = identity;
    if user.is_empty() || user.len() > most {
        return None;
    }
    let info = (!info.is_null()).then(|| info.to_string()).filter(|info| user.len() + info.len() <= most);
    Some(Member::new(user.as_str(), info.as_deref()))
}

/// The member without what exceeds the limit: the info first; `None` if the name alone is too long.
fn within(member: &Member, most: usize) -> Option<Member> {
    let Member { user, info } = member;
    let info = info.as_deref().filter(|info| user.len() + info.len() <= most);
    (!user.is_empty() && user.len() <= most).then(|| Member::new(Arc::clone(user), info))
}

impl Inner {
    /// After a change of this node's members. `is_news` says whether other nodes have to be told.
    fn changed(&mut self, is_news: bool, topic: &Arc<TopicState>, now: Instant, shared: &Topics) {
        if let Some(sync) = self.sync.as_mut().filter(|_| is_news) {
            sync.note_change();
        }
        self.list(topic, now, shared);
    }

    fn info(&mut self, limits: Limits) -> PresenceInfo {
        // The limit may be another than at the last change.
        self.members.decide(limits);
        PresenceInfo { count: self.members.count(), members: self.members.list() }
    }

    /// Lists the topic under the moment at which the topic has something to do.
    fn list(&mut self, topic: &Arc<TopicState>, now: Instant, shared: &Topics) {
        self.account();
        if self.has_ended {
            return self.relist(Some(now), topic, shared);
        }
        let round = self.watchers.due(&self.members, now, shared.config().presence_interval);
        let sync = self.sync.as_ref().and_then(|sync| sync.due());
        let due = [round, self.members.next_leave(), sync].into_iter().flatten().min();
        self.relist(due, topic, shared);
    }

    /// Gives the topic this place among the topics with something to do.
    fn relist(&mut self, due: Option<Instant>, topic: &Arc<TopicState>, shared: &Topics) {
        if self.due != due {
            shared.presences.relist(self.due, due, topic);
            self.due = due;
        }
    }

    /// Tells the ledger what the presence takes now.
    fn account(&mut self) {
        let named = self.named.len() * 2 * size_of::<u64>();
        let bytes = size_of::<Self>() + self.members.bytes() + self.watchers.bytes() + named;
        self.ledger.change_members(self.accounted, bytes);
        self.accounted = bytes;
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.ledger.change_members(self.accounted, 0);
    }
}

#[cfg(test)]
mod tests;
