//! Topics without subscribers: when a topic may end, and what remains of an ended topic.
//!
//! An unused topic lives on for `topic_idle`, for returning clients. At the limit `max_topics` an unused topic ends
//! before its time; the [`TopicTable`](crate::topic::table::TopicTable) chooses the topic. Detached sessions do not
//! keep a topic. Their numbers must continue in the next life of the topic, and [`Asleep`] is enough for this.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use super::sequence::Start;
use super::shared::Topics;
use super::state::{Core, Life, TopicState};
use crate::delivery::{Ledger, PassNumbers};
use crate::ground::clock::Tick;
use crate::wire::TopicName;

/// What the cursors of detached sessions refer to: a topic, running or asleep. A topic that begins afresh under the
/// same name has a new anchor.
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

    /// Whether a detached session refers to the topic.
    pub(crate) fn has_cursors(&self) -> bool {
        self.cursors.load(Ordering::Relaxed) > 0
    }
}

/// Where a topic without an actor continues on the next request.
#[derive(Debug)]
pub(crate) struct Asleep {
    pub(crate) anchor: Arc<Anchor>,
    pub(super) start: Start,
}

impl Asleep {
    /// The beginning of a topic without a past.
    ///
    /// A topic of the same name may have been handed out up to this moment.
    pub(super) fn afresh(name: &TopicName, ledger: &Arc<Ledger>, pass_numbers: &PassNumbers) -> Self {
        Self::at(name, Start::afresh(pass_numbers.last()), ledger)
    }

    /// A topic that continues from here, and to which no session refers yet.
    pub(super) fn at(name: &TopicName, start: Start, ledger: &Arc<Ledger>) -> Self {
        let anchor = Anchor { name: name.clone(), cursors: AtomicUsize::new(0), ledger: Arc::clone(ledger) };
        Self { anchor: Arc::new(anchor), start }
    }
}

/// Keeps a topic from ending while a subscriber is about to join its list.
#[derive(Debug)]
pub(crate) struct Hold(Arc<TopicState>);

impl Hold {
    /// Must be taken before the topic gives any answer that the holder relies on.
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

/// The place of a topic among the unused topics of its address: topics without messages come first, then the topic left
/// first. 0 for a topic without a place.
#[derive(Debug, Default)]
pub(crate) struct Spare(AtomicU64);

impl Spare {
    const KEEPS: u64 = 1 << 63;

    /// The place of a topic that was left after `left` other topics.
    pub(crate) fn place(left: u64, keeps_messages: bool) -> u64 {
        left | if keeps_messages { Self::KEEPS } else { 0 }
    }

    /// Whether the topic with this place keeps messages.
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

/// The outcome for a topic that is asked to end.
#[derive(Debug)]
pub(crate) enum Fate {
    /// The topic has ended, and would continue from here.
    Ended(Asleep),
    /// The topic stays for the sake of its kept messages.
    Keeps,
    /// The topic is in use.
    Used,
}

impl TopicState {
    /// Whether the topic has been unused for `idle` ticks, and may [end](Self::end).
    pub(crate) fn is_idle_for(&self, idle: u32, shared: &Topics, tick: Tick) -> bool {
        let mut core = self.core.lock();
        if self.is_used(&core) {
            core.last_used = tick;
        }
        core.sequence.trim(tick);
        // A topic counts as used for as long as it has any history.
        if core.sequence.keeps_messages() && core.sequence.has_history() && core.clustered.is_none() {
            core.last_used = tick;
        }
        // A repetition may still come.
        if core.keys.are_kept(shared.config().idempotency_ttl) {
            core.last_used = tick;
        }
        tick.since(core.last_used) >= idle
    }

    /// Whether the topic keeps messages that a client could miss: a returning client, or a reader of the history.
    pub(crate) fn keeps_messages(&self) -> bool {
        self.core.lock().sequence.keeps_messages()
    }

    pub(crate) fn is_unused(&self) -> bool {
        !self.is_used(&self.core.lock())
    }

    /// Ends an unused topic. From then on every request gets [`TopicError::Ended`](super::TopicError). A topic with
    /// kept messages ends only if the caller gives these messages up, and a topic with history never.
    pub(crate) fn end(&self, give_up_messages: bool, tick: Tick) -> Fate {
        let mut core = self.core.lock();
        if self.is_used(&core) {
            return Fate::Used;
        }
        core.sequence.trim(tick);
        // An engine keeps the messages.
        let is_keeper = core.clustered.is_none() && core.sequence.keeps_messages();
        if is_keeper && (core.sequence.has_history() || !give_up_messages) {
            return Fate::Keeps;
        }
        core.life = Life::Ended;
        let start = core.sequence.start();
        drop(core);
        self.wake_waiting();
        self.given_up.notify_waiters();
        Fate::Ended(Asleep { anchor: Arc::clone(&self.anchor), start })
    }

    fn is_used(&self, core: &Core) -> bool {
        core.life != Life::Live
            || core.roster.len() > 0
            || core.inbox.frames_in_flight() > 0
            || core.clustered.as_ref().is_some_and(|clustered| clustered.is_waited_for())
            || self.holds.load(Ordering::Relaxed) > 0
            // The actor is on its way up. The number of topics to be started is limited by `max_topics`.
            || !self.actor.is_running()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topic::sequence::tests::name;

    #[test]
    fn topics_without_messages_end_before_topics_left_earlier() {
        let places = [Spare::place(1, true), Spare::place(2, false), Spare::place(3, false), Spare::place(4, true)];
        let mut in_order = places;
        in_order.sort_unstable();
        assert_eq!(in_order, [places[1], places[2], places[0], places[3]]);
        assert_eq!(places.map(Spare::keeps_messages), [true, false, false, true]);
    }

    #[test]
    fn a_held_topic_is_in_use() {
        let topic = Arc::new(TopicState::for_test(name()));
        let holds = [(); 2].map(|()| Hold::new(&topic));
        assert_eq!(topic.holds.load(Ordering::Relaxed), 2);
        assert!(matches!(topic.end(true, Tick::new(9)), Fate::Used));
        drop(holds);
        assert_eq!(topic.holds.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn an_anchor_counts_the_cursors_of_all_sessions() {
        let ledger = Arc::new(Ledger::default());
        let Asleep { anchor, start } = Asleep::afresh(&name(), &ledger, &PassNumbers::default());
        assert_eq!((anchor.has_cursors(), start.next_seq), (false, 1));
        anchor.add_cursor();
        anchor.add_cursor();
        anchor.remove_cursor();
        assert!(anchor.has_cursors() && ledger.bytes() > 0);
        anchor.remove_cursor();
        assert_eq!((anchor.has_cursors(), ledger.bytes()), (false, 0));
    }
}
