//! The presence of a topic: the members, and the clients that watch arrivals and departures.
//!
//! A topic has a [`Presence`] if the namespace says so when the topic is made; any other topic pays for a look at a pointer
//! when a client subscribes or leaves. The presence lies beside the topic's state, under a separate lock, and no delivery
//! ever looks there.
//!
//! | file | what it is | what it owns |
//! |---|---|---|
//! | `mod.rs` | table | the members and the watching clients of one topic |
//! | `asking.rs` | rules | nothing: questions of clients, operators and the program |
//! | `members.rs` | pure | the members, and the news about them |
//! | `others.rs` | pure | the members of other nodes of the cluster |
//! | `sync.rs` | rules | when a node tells the engine its members, and asks for the members of others |
//! | `task.rs` | task | the topics with something to do, in the order of their times |
//!
//! A watching client is told the state once, and then each *batch* of changes with a frame or two. Batches have numbers. A
//! client without room for a frame has missed the batch, and gets the state when there is room: presence never makes a client
//! a slow consumer, and a client that lags costs no more than a frame.
//!
//! Changes are collected for `presence_interval`, and longer in a topic with many watching clients, so that the frames of a
//! topic have a limit however many users come and go. A step of the task sends at most [`PORTION`] frames, with the lock held:
//! so the frames of a client have the order of the batches.

mod asking;
mod members;
mod others;
mod sync;
mod task;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use serde::Serialize;
use tokio::time::Instant;

use self::members::{Change, Limits, Members};
use self::others::NodeMembers;
use self::sync::Sync;
use super::{TopicState, Topics};
use crate::config::{Config, Presence as Mode};
use crate::delivery::Slot;
use crate::delivery::codecs::CodecId;
use crate::hooks::Identity;
use crate::wire::{Member, ServerEvent, TopicName};

pub(crate) use asking::Look;
pub use asking::PresenceError;
pub(crate) use task::{Presences, run};

/// Frames of a step.
const PORTION: usize = 32;

/// Watching clients looked at in a step.
const LOOKS: usize = 512;

/// The time after which clients without room for a frame are offered another, if nothing new is to be told.
const RETRY: Duration = Duration::from_millis(500);

/// Up to this number of watching clients, changes are told each `presence_interval`.
const WATCHED_CLOSELY: u32 = 1_000;

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
    /// By the numbers of the slots.
    watchers: BTreeMap<u64, Watcher>,
    /// The number of the last batch.
    batch: u64,
    /// What the last batch says.
    change: Change,
    /// The watching clients before this slot have had their frames of the round under way; `None` without a round.
    round: Option<u64>,
    /// Whether a client has missed a batch.
    is_behind: bool,
    /// When the last round has begun; `None` before the first.
    last_round: Option<Instant>,
    /// The topic's place among the topics with something to do.
    due: Option<Instant>,
    /// For a topic that an engine numbers.
    sync: Option<Box<Sync>>,
}

/// A client that watches.
#[derive(Debug)]
struct Watcher {
    slot: Arc<Slot>,
    /// The last batch known to the client.
    seen: u64,
    /// Whether the client has been told the users, and can be told changes alone.
    has_list: bool,
    /// Whether there was no room for the last frame.
    is_deferred: bool,
}

impl Presence {
    /// The presence of a new topic; `None` for a topic without presence.
    pub(super) fn of(topic: &TopicName, config: &Config, is_clustered: bool) -> Option<Box<Self>> {
        let mode = config.namespace(topic.as_str()).presence;
        (mode != Mode::Off).then(|| Box::new(Self::new(mode, is_clustered)))
    }

    fn new(mode: Mode, is_clustered: bool) -> Self {
        Self(Mutex::new(Inner {
            members: Members::new(mode),
            named: BTreeSet::new(),
            watchers: BTreeMap::new(),
            batch: 0,
            change: Change::List,
            round: None,
            is_behind: false,
            last_round: None,
            due: None,
            sync: is_clustered.then(|| Box::new(Sync::new(Instant::now()))),
        }))
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
        inner.members.join(slot.id, user, now, Limits::of(&config));
        inner.changed(topic, now, shared);
    }

    /// Notes a subscribed client that is this member of the topic, whatever its identity says.
    pub(crate) fn join_as(&self, topic: &Arc<TopicState>, slot: &Slot, member: &Member, shared: &Topics) {
        let config = shared.config();
        let member = within(member, config.max_presence_member_bytes);
        let (mut inner, now) = (self.0.lock(), Instant::now());
        inner.named.insert(slot.id);
        inner.members.join(slot.id, member, now, Limits::of(&config));
        inner.changed(topic, now, shared);
    }

    /// Notes a client that is subscribed no longer, if the client was.
    pub(crate) fn leave(&self, topic: &Arc<TopicState>, slot: &Slot, shared: &Topics) {
        let config = shared.config();
        let (mut inner, now) = (self.0.lock(), Instant::now());
        if !inner.members.leave(slot.id, now, Limits::of(&config)) {
            return;
        }
        inner.named.remove(&slot.id);
        if inner.watchers.remove(&slot.id).is_some() && inner.watchers.is_empty() {
            inner.members.ignore();
            (inner.round, inner.is_behind) = (None, false);
        }
        inner.changed(topic, now, shared);
    }

    /// Tells a subscribed client the state, and from then on each change.
    pub(crate) fn watch(&self, topic: &TopicName, slot: &Arc<Slot>) {
        let mut inner = self.0.lock();
        // Another connection may have taken over the session, and nothing would end the watch.
        if !inner.members.has(slot.id) {
            return;
        }
        inner.members.collect();
        let (count, list) = (inner.members.count(), inner.members.list());
        slot.tell(&ServerEvent::Presence { id: None, topic, count, members: list.as_deref() });
        let (slot, seen, has_list) = (Arc::clone(slot), inner.batch, inner.members.is_listed());
        let watcher = Watcher { slot, seen, has_list, is_deferred: false };
        inner.watchers.insert(watcher.slot.id, watcher);
    }

    /// The members of connections of this node.
    fn of_this_node(&self, listed: usize) -> NodeMembers {
        self.0.lock().members.of_this_node(listed)
    }

    /// Has the topic decide anew when there is something to do.
    fn look_anew(&self, topic: &Arc<TopicState>, presences: &Presences) {
        let mut inner = self.0.lock();
        if let Some(due) = inner.due.replace(Instant::now()) {
            presences.relist(Some(due), inner.due, topic);
        } else {
            inner.due = None;
        }
    }

    /// Does a portion of the work that is due.
    fn turn(&self, topic: &Arc<TopicState>, shared: &Topics) {
        let has_ended = topic.has_ended();
        let (mut inner, now) = (self.0.lock(), Instant::now());
        if has_ended {
            return inner.relist(None, topic, shared);
        }
        let config = shared.config();
        let limits = Limits::of(&config);
        // A successor of a task that crashes here comes back to the topic.
        inner.relist(Some(now + config.presence_interval), topic, shared);
        inner.members.expire(now, limits);
        inner.forget_nodes(now, limits);
        if inner.round.is_none() && inner.next_round(config.presence_interval).is_none_or(|next| next <= now) {
            inner.begin_round(now);
        }
        if inner.round.is_some() {
            inner.step(&topic.name, shared);
        }
        inner.sync(topic, now, shared);
        inner.list(topic, now, shared);
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
    /// After a change of this node's members.
    fn changed(&mut self, topic: &Arc<TopicState>, now: Instant, shared: &Topics) {
        if let Some(sync) = &mut self.sync {
            sync.note_change();
        }
        self.list(topic, now, shared);
    }

    fn info(&mut self, limits: Limits) -> PresenceInfo {
        // The limit may be another than at the last change.
        self.members.decide(limits);
        PresenceInfo { count: self.members.count(), members: self.members.list() }
    }

    /// The earliest moment of the next round; `None` before the first.
    fn next_round(&self, interval: Duration) -> Option<Instant> {
        let watchers = u32::try_from(self.watchers.len()).unwrap_or(u32::MAX);
        Some(self.last_round? + interval.saturating_mul(watchers.div_ceil(WATCHED_CLOSELY).max(1)))
    }

    /// Begins a round if there is a change to tell, or a client without an earlier change.
    fn begin_round(&mut self, now: Instant) {
        if let Some(change) = self.members.take_news() {
            self.batch += 1;
            self.change = change;
        } else if !self.is_behind {
            return;
        }
        self.is_behind = false;
        self.round = Some(0);
        self.last_round = Some(now);
    }

    /// A portion of the round.
    fn step(&mut self, topic: &TopicName, shared: &Topics) {
        let Self { members, watchers, batch, change, round, is_behind, .. } = self;
        let (mut frames, mut sent, mut deferred) = (Frames::new(topic, members, change), 0, 0);
        let from = round.unwrap_or_default();
        *round = None;
        for (looks, (id, watcher)) in watchers.range_mut(from..).enumerate() {
            if sent >= PORTION as u64 || looks >= LOOKS {
                // The client is the first of the next portion.
                *round = Some(*id);
                break;
            }
            if watcher.seen >= *batch {
                continue;
            }
            let follows = watcher.seen + 1 == *batch && (watcher.has_list || *change == Change::Count);
            let frame = frames.get(watcher.slot.codec(), follows, &watcher.slot);
            if watcher.slot.offer(&frame) {
                (watcher.seen, watcher.has_list, watcher.is_deferred) = (*batch, members.is_listed(), false);
                sent += 1;
            } else {
                deferred += u64::from(!std::mem::replace(&mut watcher.is_deferred, true));
                *is_behind = true;
            }
        }
        shared.counters.presence_frames.fetch_add(sent, Ordering::Relaxed);
        shared.counters.presence_deferred.fetch_add(deferred, Ordering::Relaxed);
    }

    /// Lists the topic under the moment at which the topic has something to do.
    fn list(&mut self, topic: &Arc<TopicState>, now: Instant, shared: &Topics) {
        let due = self.next_due(now, shared.config().presence_interval);
        self.relist(due, topic, shared);
    }

    fn next_due(&self, now: Instant, interval: Duration) -> Option<Instant> {
        let round = match (self.round, self.members.has_news(), self.is_behind) {
            (Some(_), ..) => Some(now),
            (_, true, _) => Some(self.next_round(interval).unwrap_or(now)),
            // Clients that lag need some time.
            (_, _, true) => Some(self.next_round(interval.max(RETRY)).unwrap_or(now)),
            _ => None,
        };
        let sync = self.sync.as_ref().and_then(|sync| sync.due());
        [round, self.members.next_leave(), sync].into_iter().flatten().min()
    }

    /// Gives the topic this place among the topics with something to do.
    fn relist(&mut self, due: Option<Instant>, topic: &Arc<TopicState>, shared: &Topics) {
        if self.due != due {
            shared.presences.relist(self.due, due, topic);
            self.due = due;
        }
    }
}

/// The frames of a portion, each made when first needed.
struct Frames<'a> {
    topic: &'a TopicName,
    members: &'a Members,
    change: &'a Change,
    made: Vec<(CodecId, bool, Bytes)>,
}

impl<'a> Frames<'a> {
    fn new(topic: &'a TopicName, members: &'a Members, change: &'a Change) -> Self {
        Self { topic, members, change, made: Vec::new() }
    }

    /// The frame for clients of a codec: the change alone for a client with all earlier batches (`follows`), and the state for
    /// any other client. Empty from a codec that panics, or has no words.
    fn get(&mut self, codec: CodecId, follows: bool, slot: &Slot) -> Bytes {
        let made = self.made.iter().find(|(other, kind, _)| (*other, *kind) == (codec, follows));
        if let Some((.., frame)) = made {
            return frame.clone();
        }
        let encode = |event: &ServerEvent<'_>| slot.codecs().encode(codec, event).unwrap_or_default();
        let topic = self.topic;
        let frame = match self.change {
            Change::Users { joined, left, count, more } if follows => {
                let (count, mut frame) = (*count, BytesMut::new());
                if !joined.is_empty() || left.is_empty() && *more {
                    frame.extend_from_slice(&encode(&ServerEvent::Joined { topic, count, members: joined }));
                }
                if !left.is_empty() || joined.is_empty() && !*more {
                    frame.extend_from_slice(&encode(&ServerEvent::Left { topic, count, members: left }));
                }
                frame.freeze()
            }
            _ => {
                let (count, list) = (self.members.count(), self.members.list());
                encode(&ServerEvent::Presence { id: None, topic, count, members: list.as_deref() })
            }
        };
        self.made.push((codec, follows, frame.clone()));
        frame
    }
}

#[cfg(test)]
mod tests;
