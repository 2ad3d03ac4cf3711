//! The clients that watch a topic, and their frames.
//!
//! A watching client is told the state once, and then each *batch* of changes with a frame or two. Batches have numbers. A
//! client without room for a frame has missed the batch, and gets the state when there is room: presence never makes a client
//! a slow consumer, and a client that lags costs no more than a frame.
//!
//! Changes are collected for `presence_interval`, and longer in a topic with many watching clients, so that the frames of a
//! topic have a limit however many users come and go. A step sends two [`Portion`]s at most, to *newcomers* without a first
//! list and to the clients of a *round*, with the presence locked: so the frames of a client have the order of the batches.
//! A frame is encoded once for all clients with the same need, over all steps up to the next batch.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::time::Instant;

use super::members::Members;
use super::news::Change;
use crate::delivery::Slot;
use crate::delivery::codecs::CodecId;
use crate::topic::Topics;
use crate::wire::{ServerEvent, TopicName};

/// Frames of a portion.
pub(super) const PORTION: usize = 32;

/// Bytes of a portion; the last frame may go beyond.
const PORTION_BYTES: usize = 64 * 1024;

/// Watching clients looked at in a portion.
const LOOKS: usize = 512;

/// The time after which clients without room for a frame are offered another, if nothing new is to be told.
const RETRY: Duration = Duration::from_millis(500);

/// Up to this number of watching clients, changes are told each `presence_interval`.
const WATCHED_CLOSELY: u32 = 1_000;

/// The price of a watching client, with the place among the newcomers.
const WATCHER_BYTES: usize = 88;

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Watchers {
    /// By the numbers of the slots.
    all: BTreeMap<u64, Watcher>,
    /// The clients to be offered their first list, in the order in which they came: [`Watcher::since`] and slot of each.
    newcomers: BTreeSet<(u64, u64)>,
    /// The number of the last batch.
    batch: u64,
    /// What the last batch says. The whole list while all clients have been told.
    change: Change,
    /// Bytes of the names and the infos in the change.
    change_texts: usize,
    /// The watching clients before this slot have had their frames of the round under way; `None` without a round.
    round: Option<u64>,
    /// Whether a client has missed a batch.
    is_behind: bool,
    /// When the last round has begun; `None` before the first.
    last_round: Option<Instant>,
    /// The frames of the last batch. Empty while all clients have been told.
    made: Vec<Made>,
    /// Whether the next look at a newcomer panics.
    #[cfg(test)]
    crashes: bool,
}

/// A client that watches.
#[derive(Debug)]
struct Watcher {
    slot: Arc<Slot>,
    /// The version of the members when the client began to watch.
    since: u64,
    /// Whether the client is among the newcomers.
    is_new: bool,
    /// The last batch known to the client; `None` without a first list.
    seen: Option<u64>,
    /// Whether the client has been told the users, and can be told changes alone.
    has_list: bool,
    /// Whether there was no room for the last frame.
    is_deferred: bool,
}

/// A frame of the last batch.
#[derive(Debug)]
struct Made {
    codec: CodecId,
    kind: Kind,
    frame: Bytes,
}

/// What a frame says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// The last batch alone, for a client with all earlier batches.
    Change,
    /// The state at this version of the members, with or without a list.
    State { version: u64, has_list: bool },
}

/// What a step may still do.
struct Portion {
    frames: usize,
    bytes: usize,
    looks: usize,
}

impl Portion {
    fn new() -> Self {
        Self { frames: PORTION, bytes: PORTION_BYTES, looks: LOOKS }
    }

    fn is_over(&self) -> bool {
        self.frames == 0 || self.bytes == 0 || self.looks == 0
    }

    fn take(&mut self, frame: &Bytes) {
        self.frames -= 1;
        self.bytes = self.bytes.saturating_sub(frame.len());
    }
}

impl Default for Watchers {
    fn default() -> Self {
        Self {
            all: BTreeMap::new(),
            newcomers: BTreeSet::new(),
            batch: 0,
            change: Change::List,
            change_texts: 0,
            round: None,
            is_behind: false,
            last_round: None,
            made: Vec::new(),
            #[cfg(test)]
            crashes: false,
        }
    }
}

impl Watchers {
    /// Adds a client that is told the state next. `since` is the present version of the members.
    pub(super) fn add(&mut self, slot: &Arc<Slot>, since: u64) {
        self.remove(slot.id);
        self.newcomers.insert((since, slot.id));
        let watcher =
            Watcher { slot: Arc::clone(slot), since, is_new: true, seen: None, has_list: false, is_deferred: false };
        self.all.insert(slot.id, watcher);
    }

    /// Takes a client out. Returns whether the client was the last.
    pub(super) fn remove(&mut self, id: u64) -> bool {
        let Some(watcher) = self.all.remove(&id) else { return false };
        if watcher.is_new {
            self.newcomers.remove(&(watcher.since, id));
        }
        let was_last = self.all.is_empty();
        if was_last {
            (self.round, self.is_behind) = (None, false);
            self.forget_batch();
        }
        was_last
    }

    /// Drops the last batch with its frames, because each client has been told.
    fn forget_batch(&mut self) {
        self.made = Vec::new();
        (self.change, self.change_texts) = (Change::List, 0);
    }

    /// What the watching clients take, with the last batch and the frames on their way.
    pub(super) fn bytes(&self) -> usize {
        let frames: usize = self.made.iter().map(|made| made.frame.len()).sum();
        self.all.len() * WATCHER_BYTES + self.change.entries_bytes() + self.change_texts + frames
    }

    /// When a client is to be told something.
    pub(super) fn due(&self, members: &Members, now: Instant, interval: Duration) -> Option<Instant> {
        if self.has_work() {
            Some(now)
        } else if members.has_news() {
            Some(self.next_round(interval).unwrap_or(now))
        } else {
            // Clients that lag need some time.
            self.is_behind.then(|| self.next_round(interval.max(RETRY)).unwrap_or(now))
        }
    }

    /// Whether clients wait for their turn.
    pub(super) fn has_work(&self) -> bool {
        self.round.is_some() || !self.newcomers.is_empty()
    }

    /// The earliest moment of the next round; `None` before the first.
    fn next_round(&self, interval: Duration) -> Option<Instant> {
        let watchers = u32::try_from(self.all.len()).unwrap_or(u32::MAX);
        Some(self.last_round? + interval.saturating_mul(watchers.div_ceil(WATCHED_CLOSELY).max(1)))
    }

    /// Tells a portion of the newcomers the state, and a portion of the clients of the round what is new.
    pub(super) fn step(&mut self, members: &mut Members, topic: &TopicName, now: Instant, shared: &Topics) {
        let interval = shared.config().presence_interval;
        if self.round.is_none() && self.next_round(interval).is_none_or(|next| next <= now) {
            self.begin_round(members, now);
        }
        let mut told = Told::default();
        // A crash in the middle leaves clients without their frames, and out of both lists: the next round is for these.
        let mut is_behind = std::mem::replace(&mut self.is_behind, true);
        is_behind |= self.greet(members, topic, &mut told);
        is_behind |= self.go_round(members, topic, &mut told);
        self.is_behind = is_behind;
        if !self.has_work() {
            self.made = Vec::new();
            if !is_behind {
                self.forget_batch();
            }
        }
        shared.counters.presence_frames.fetch_add(told.sent, Ordering::Relaxed);
        shared.counters.presence_deferred.fetch_add(told.deferred, Ordering::Relaxed);
    }

    /// Begins a round if there is a change to tell, or a client without an earlier change.
    fn begin_round(&mut self, members: &mut Members, now: Instant) {
        if let Some(change) = members.take_news() {
            self.batch += 1;
            (self.change_texts, self.change) = (change.texts(), change);
            self.made.clear();
        } else if !self.is_behind {
            return;
        }
        self.is_behind = false;
        self.round = Some(0);
        self.last_round = Some(now);
    }

    /// Returns whether a client had no room.
    fn greet(&mut self, members: &mut Members, topic: &TopicName, told: &mut Told) -> bool {
        let (mut portion, mut is_behind) = (Portion::new(), false);
        while !portion.is_over()
            && let Some((_, id)) = self.newcomers.pop_first()
        {
            portion.looks -= 1;
            let change_texts = self.change_texts;
            let mut frames = Frames { members, topic, change: &self.change, change_texts, made: &mut self.made };
            if let Some(watcher) = self.all.get_mut(&id) {
                watcher.is_new = false;
                #[cfg(test)]
                assert!(!std::mem::take(&mut self.crashes), "a planted fault");
                is_behind |= !watcher.tell(self.batch, &mut frames, &mut portion, told);
            }
        }
        is_behind
    }

    /// Returns whether a client had no room.
    fn go_round(&mut self, members: &mut Members, topic: &TopicName, told: &mut Told) -> bool {
        let Some(from) = self.round.take() else { return false };
        let (mut portion, mut is_behind) = (Portion::new(), false);
        let change_texts = self.change_texts;
        let mut frames = Frames { members, topic, change: &self.change, change_texts, made: &mut self.made };
        for (id, watcher) in self.all.range_mut(from..) {
            if portion.is_over() {
                // The client is the first of the next portion.
                self.round = Some(*id);
                break;
            }
            portion.looks -= 1;
            if !watcher.is_new && watcher.seen.is_none_or(|seen| seen < self.batch) {
                is_behind |= !watcher.tell(self.batch, &mut frames, &mut portion, told);
            }
        }
        is_behind
    }
}

#[cfg(test)]
impl Watchers {
    /// Frames that are kept.
    pub(super) fn made(&self) -> usize {
        self.made.len()
    }

    /// Whether the last change is kept.
    pub(super) fn keeps_change(&self) -> bool {
        self.change != Change::List
    }

    /// A step that panics at the first client.
    pub(super) fn crash_in_step(&mut self, members: &mut Members, topic: &TopicName, shared: &Topics) {
        self.crashes = true;
        self.step(members, topic, Instant::now(), shared);
    }

    /// Tells the newcomers the state between two rounds.
    pub(super) fn greet_all(&mut self, members: &mut Members, topic: &TopicName) {
        self.greet(members, topic, &mut Told::default());
    }
}

/// What a step has done.
#[derive(Default)]
struct Told {
    sent: u64,
    deferred: u64,
}

impl Watcher {
    /// Offers the client the frame with which the client has had all batches up to this. Returns false without room.
    fn tell(&mut self, batch: u64, frames: &mut Frames<'_>, portion: &mut Portion, told: &mut Told) -> bool {
        let follows = self.has_list
            && self.seen.is_some_and(|seen| seen + 1 == batch)
            && matches!(frames.change, Change::Users { .. });
        // A client that lags may be told any state of this batch, and a first list has the client itself.
        let since = if self.seen.is_none() { self.since } else { 0 };
        let state_since = (!follows).then_some(since);
        let offered = frames.get(&self.slot, state_since).filter(|(_, frame)| self.slot.offer(frame));
        let Some((kind, frame)) = offered else {
            told.deferred += u64::from(!std::mem::replace(&mut self.is_deferred, true));
            return false;
        };
        (self.seen, self.is_deferred) = (Some(batch), false);
        self.has_list = matches!(kind, Kind::Change | Kind::State { has_list: true, .. });
        portion.take(&frame);
        told.sent += 1;
        true
    }
}

/// The frames of the last batch, each made when first needed.
struct Frames<'a> {
    members: &'a mut Members,
    topic: &'a TopicName,
    change: &'a Change,
    change_texts: usize,
    made: &'a mut Vec<Made>,
}

impl Frames<'_> {
    /// The frame for a client: the last batch alone, or the state at this version of the members or a later version. Empty
    /// from a codec that panics, or has no words. `None` without a frame that is made already, if the texts alone have no
    /// room: a list is not made in vain for each client that lags. A codec with fewer bytes than the texts only waits until the
    /// client has taken the answers before.
    fn get(&mut self, slot: &Slot, state_since: Option<u64>) -> Option<(Kind, Bytes)> {
        let codec = slot.codec();
        let fits = |kind: Kind| match (kind, state_since) {
            (Kind::Change, None) => true,
            (Kind::State { version, .. }, Some(since)) => version >= since,
            _ => false,
        };
        if let Some(made) = self.made.iter().find(|made| made.codec == codec && fits(made.kind)) {
            return Some((made.kind, made.frame.clone()));
        }
        let texts = if state_since.is_none() { self.change_texts } else { self.members.texts() };
        if !slot.would_offer(texts) {
            return None;
        }
        let (kind, frame) = match state_since {
            None => (Kind::Change, self.encode_change(codec, slot)),
            Some(_) => self.encode_state(codec, slot),
        };
        // A state takes the place of an earlier state.
        self.made.retain(|made| made.codec != codec || (made.kind == Kind::Change) != (kind == Kind::Change));
        self.made.push(Made { codec, kind, frame: frame.clone() });
        Some((kind, frame))
    }

    fn encode_change(&self, codec: CodecId, slot: &Slot) -> Bytes {
        let Change::Users { joined, left, count, more } = self.change else { return Bytes::new() };
        let (topic, count, mut frame) = (self.topic, *count, BytesMut::new());
        if !joined.is_empty() || left.is_empty() && *more {
            frame.extend_from_slice(&encode(codec, slot, &ServerEvent::Joined { topic, count, members: joined }));
        }
        if !left.is_empty() || joined.is_empty() && !*more {
            frame.extend_from_slice(&encode(codec, slot, &ServerEvent::Left { topic, count, members: left }));
        }
        frame.freeze()
    }

    fn encode_state(&mut self, codec: CodecId, slot: &Slot) -> (Kind, Bytes) {
        self.members.tell_ahead();
        let (count, list) = (self.members.count(), self.members.list());
        let frame = encode(
            codec,
            slot,
            &ServerEvent::Presence { id: None, topic: self.topic, count, members: list.as_deref() },
        );
        (Kind::State { version: self.members.version(), has_list: list.is_some() }, frame)
    }
}

fn encode(codec: CodecId, slot: &Slot, event: &ServerEvent<'_>) -> Bytes {
    slot.codecs().encode(codec, event).unwrap_or_default()
}
