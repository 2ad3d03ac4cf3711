//! A topic that nobody is subscribed to: when it may end, and what is remembered of it.
//!
//! An unused topic lives on for `topic_idle`, so that whoever comes back finds its numbers. When topics have reached
//! their limit it ends before its time ([`TopicTable`](crate::topic::table::TopicTable) says which one). Detached sessions
//! do not keep it: what they need is that its numbers go on where they were, and for that its [`Asleep`] is enough.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use super::{Core, Life, TopicState, random_epoch};
use crate::delivery::{Ledger, PassNumbers};
use crate::ground::clock::Tick;
use crate::wire::{Position, TopicName};

/// What the cursors of detached sessions refer to: a topic, whether it runs or has fallen asleep. A topic that begins afresh
/// under the same name has another.
#[derive(Debug)]
pub(crate) struct Anchor {
    pub(crate) name: TopicName,
    cursors: AtomicUsize,
    ledger: Arc<Ledger>,
}

impl Anchor {
    pub(crate) fn add_cursor(&self) {
        self.cursors.fetch_add(1, Ordering::Relaxed);
        self.ledger.add_cursor();
    }

    pub(crate) fn remove_cursor(&self) {
        self.cursors.fetch_sub(1, Ordering::Relaxed);
        self.ledger.remove_cursor();
    }

    /// Whether the session of somebody who may come back refers to it.
    pub(crate) fn has_cursors(&self) -> bool {
        self.cursors.load(Ordering::Relaxed) > 0
    }
}

/// Where a topic without an actor goes on once it is wanted again.
#[derive(Debug)]
pub(crate) struct Asleep {
    pub(crate) anchor: Arc<Anchor>,
    pub(super) epoch: u64,
    pub(super) earlier: Option<Position>,
    pub(super) next_seq: u64,
    /// The number of its last pass.
    pub(super) latest: u64,
}

impl Asleep {
    /// The beginning of a topic that nobody remembers.
    ///
    /// One of the same name may have been handed out up to this moment.
    pub(super) fn afresh(name: &TopicName, ledger: &Arc<Ledger>, pass_numbers: &PassNumbers) -> Self {
        let anchor = Anchor { name: name.clone(), cursors: AtomicUsize::new(0), ledger: Arc::clone(ledger) };
        Self {
            anchor: Arc::new(anchor),
            epoch: random_epoch(),
            earlier: None,
            next_seq: 1,
            latest: pass_numbers.last(),
        }
    }
}

/// Keeps a topic from ending while somebody is about to get on its list.
#[derive(Debug)]
pub(crate) struct Hold(Arc<TopicState>);

impl Hold {
    /// Taken before the topic is asked for anything that the holder counts on.
    pub(crate) fn new(topic: &Arc<TopicState>) -> Self {
        topic.holds.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(topic))
    }

    pub(crate) fn topic(&self) -> &Arc<TopicState> {
        &self.0
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.0.holds.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The place of a topic among the unused ones of its address: those without messages come first, then the one that has been
/// left longest. 0 where it has none.
#[derive(Debug, Default)]
pub(crate) struct Spare(AtomicU64);

impl Spare {
    const KEEPS: u64 = 1 << 63;

    /// The place of a topic that was left after so many others.
    pub(crate) fn place(left: u64, keeps_messages: bool) -> u64 {
        left | if keeps_messages { Self::KEEPS } else { 0 }
    }

    /// Whether the topic of this place keeps messages.
    pub(crate) fn keeps_messages(place: u64) -> bool {
        place & Self::KEEPS != 0
    }

    pub(crate) fn set(&self, place: u64) -> u64 {
        self.0.swap(place, Ordering::Relaxed)
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What becomes of a topic that is asked to end.
#[derive(Debug)]
pub(crate) enum Fate {
    /// It has ended, and would go on from here.
    Ended(Asleep),
    /// It stays for the sake of the messages that it keeps.
    Keeps,
    /// Somebody uses it.
    Used,
}

impl TopicState {
    /// Whether nobody has used the topic for `idle` ticks, so that it may [end](Self::end).
    pub(crate) fn is_idle_for(&self, idle: u32, tick: Tick) -> bool {
        let mut core = self.core.lock();
        if self.is_used(&core) {
            core.last_used = tick;
        }
        core.ring.trim(&self.keep, tick);
        // A topic with history is used for as long as it has any.
        if core.ring.len() > 0 && self.history.is_some() {
            core.last_used = tick;
        }
        tick.since(core.last_used) >= idle
    }

    /// Whether anybody could miss the topic's messages: a client that comes back, or whoever asks for its history.
    pub(crate) fn keeps_messages(&self) -> bool {
        self.core.lock().ring.len() > 0
    }

    pub(crate) fn is_unused(&self) -> bool {
        !self.is_used(&self.core.lock())
    }

    /// Ends the topic if nobody uses it; from then on every request gets [`TopicError::Ended`](super::TopicError). One that
    /// keeps messages ends only if they may be given up, and never one with history.
    pub(crate) fn end(&self, give_up_messages: bool, tick: Tick) -> Fate {
        let mut core = self.core.lock();
        if self.is_used(&core) {
            return Fate::Used;
        }
        core.ring.trim(&self.keep, tick);
        if core.ring.len() > 0 && (self.history.is_some() || !give_up_messages) {
            return Fate::Keeps;
        }
        core.life = Life::Ended;
        let Core { epoch, earlier, next_seq, latest, .. } = *core;
        drop(core);
        self.given_up.notify_waiters();
        Fate::Ended(Asleep { anchor: Arc::clone(&self.anchor), epoch, earlier, next_seq, latest })
    }

    fn is_used(&self, core: &Core) -> bool {
        core.life != Life::Live
            || core.subscriber_count() > 0
            || core.inflight_frames > 0
            || self.holds.load(Ordering::Relaxed) > 0
            // It is on its way up; those that have to be started are limited by what may exist.
            || !self.actor.is_running()
    }
}
