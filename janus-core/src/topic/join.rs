//! How a subscriber joins a topic, and catches up with missed messages.
//!
//! [`TopicState::join`] is the only way onto the list, for a subscribe, for a returning session, and for a subscriber
//! in this process. The decision is made under one lock: a subscriber with missed messages is not listed yet, but takes
//! these messages from the ring in portions ([`TopicState::catch_up`]). The last portion and the entry into the list
//! happen under one lock, too, so nothing is missing and nothing comes twice between the missed messages and the new
//! messages.
//!
//! An event stream of several topics asks for all entries first ([`TopicState::entry`]) and joins all topics later, in
//! one moment ([`Together`](super::Together)).

use std::ops::Range;
use std::sync::Arc;

use super::state::{Core, TopicError, TopicState};
use crate::config::SlowConsumer;
use crate::delivery::Subscription;
use crate::delivery::queue::Messages;
use crate::ground::clock::Tick;
use crate::wire::{Position, Since};

/// Where a subscriber wants to begin. Without the messages after that place the subscriber begins with the next
/// message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Beginning {
    /// With the next message.
    Now,
    /// With the first message that the topic keeps.
    Start,
    /// With the last message that the topic keeps.
    Last,
    /// After this position, which may be of another life of the topic.
    Position(Position),
    /// With this number, for a subscription of a returning session; `None` if the number is not known. The topic may be
    /// out of service, because such a topic keeps the subscriptions of connected clients, too.
    Session(Option<u64>),
    /// After all messages of passes up to this pass.
    Pass(u64),
}

impl Beginning {
    /// Where a client asks to begin, if the client asks.
    pub(crate) fn after(since: Option<Since>) -> Self {
        match since {
            None => Self::Now,
            Some(Since::Start) => Self::Start,
            Some(Since::Last) => Self::Last,
            Some(Since::Position(position)) => Self::Position(position),
        }
    }
}

/// Where a subscriber begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// The subscriber gets all messages after this position.
    pub(crate) position: Position,
    /// The number of missed messages. The subscriber must [catch up](TopicState::catch_up) with them to join the list.
    /// `None` for a subscriber that begins with the next message, and is on the list already.
    pub(crate) missed: Option<u64>,
    /// The first message that a subscriber could have begun with.
    pub(crate) first_available: Position,
}

impl Entry {
    /// The number of the subscriber's first message.
    pub(crate) fn first_seq(&self) -> u64 {
        self.position.seq + 1
    }
}

/// The progress in catching up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CatchUp {
    /// The subscriber has all messages and is on the list.
    Joined,
    /// The subscriber has a portion. The next portion begins with this number.
    More(u64),
    /// The next message is no longer kept, or an engine has lost it. The position of the last such message: what follows is
    /// kept, or comes live.
    Lost(Position),
}

/// The bytes of a portion. A client must take a portion before the next portion comes.
const PORTION_BYTES: usize = 64 * 1024;

impl TopicState {
    /// Puts a subscriber on the list, or says how many messages the subscriber has to catch up with first.
    ///
    /// Idempotent: repeated at a topic's successor, the subscriber is listed once.
    pub(crate) fn join(
        &self,
        subscription: &Arc<Subscription>,
        since: Beginning,
        tick: Tick,
    ) -> Result<Entry, TopicError> {
        self.join_and_tell(subscription, since, tick, |_| {})
    }

    /// The same, and answers the subscriber with `tell` under the topic's lock: a message that another home hands out in
    /// the next moment must not overtake the answer.
    pub(crate) fn join_and_tell(
        &self,
        subscription: &Arc<Subscription>,
        since: Beginning,
        tick: Tick,
        tell: impl FnOnce(Entry),
    ) -> Result<Entry, TopicError> {
        let mut core = self.core.lock();
        let entry = core.join(subscription, since, tick)?;
        tell(entry);
        self.unlock_and_tell(core);
        Ok(entry)
    }

    /// Where a subscriber joining now would begin.
    pub(crate) fn entry(&self, since: Beginning, tick: Tick) -> Result<Entry, TopicError> {
        self.core.lock().entry(since, tick)
    }

    /// Sends a portion of the messages from `from` on to a subscriber that has missed them. With the last of these
    /// messages the subscriber joins the list in the same moment.
    ///
    /// The subscriber's queue must be empty, or the portions would pile up there.
    pub(crate) fn catch_up(
        &self,
        subscription: &Arc<Subscription>,
        mut from: u64,
        tick: Tick,
    ) -> Result<CatchUp, TopicError> {
        let mut core = self.core.lock();
        core.check_exists()?;
        core.last_used = tick;
        // Numbered messages that have not been handed out come with the next passes.
        let handed_out = core.sequence.handed_out();
        if from < handed_out {
            if let Some(lost) = core.lost(from) {
                return Ok(CatchUp::Lost(lost));
            }
            let (next, is_taken) = core.replay(subscription, from..handed_out, tick);
            from = next;
            // The rest of a portion must not meet live messages in the limited queue.
            if from < handed_out || !is_taken {
                return Ok(CatchUp::More(from));
            }
        }
        core.list(subscription, from);
        self.unlock_and_tell(core);
        Ok(CatchUp::Joined)
    }

    /// Sends a portion of the messages from `from` on, of passes up to this pass, to a subscriber that has missed them.
    /// The caller lets the subscriber [join](Self::catch_up) later.
    pub(crate) fn catch_up_to(
        &self,
        subscription: &Arc<Subscription>,
        from: u64,
        pass: u64,
        tick: Tick,
    ) -> Result<CatchUp, TopicError> {
        let mut core = self.core.lock();
        core.check_exists()?;
        core.last_used = tick;
        if let Some(lost) = core.lost(from) {
            return Ok(CatchUp::Lost(lost));
        }
        // At least the next message, which is kept: the caller asks until it has been sent.
        let end = core.sequence.first_after(pass).unwrap_or(from).max(from + 1).min(core.sequence.handed_out());
        Ok(CatchUp::More(core.replay(subscription, from..end, tick).0))
    }

    /// The pass that handed the message with this number out: `None` for a pass to come, 0 for a message no longer
    /// kept.
    pub(crate) fn handed_out_by(&self, seq: u64) -> Result<Option<u64>, TopicError> {
        let core = self.core.lock();
        core.check_exists()?;
        Ok(core.sequence.handed_out_by(seq))
    }

    /// The first kept number that no client can have had whose last message was of this pass.
    pub(crate) fn first_following(&self, pass: u64) -> u64 {
        self.core.lock().sequence.first_following(pass)
    }
}

impl Core {
    /// See [`TopicState::join`].
    pub(super) fn join(
        &mut self,
        subscription: &Arc<Subscription>,
        since: Beginning,
        tick: Tick,
    ) -> Result<Entry, TopicError> {
        let entry = self.entry(since, tick)?;
        if entry.missed.is_none() {
            self.last_used = tick;
            self.list(subscription, entry.first_seq());
        }
        Ok(entry)
    }

    fn entry(&mut self, since: Beginning, tick: Tick) -> Result<Entry, TopicError> {
        self.check_exists()?;
        let sequence = &mut self.sequence;
        sequence.trim(tick);
        let from = match since {
            Beginning::Now => None,
            Beginning::Start => Some(sequence.first_message()),
            Beginning::Last => Some(sequence.last_message()),
            Beginning::Position(position) => position.seq.checked_add(1).filter(|_| sequence.leads_here(position)),
            Beginning::Session(from) => from,
            Beginning::Pass(pass) => sequence.first_after(pass),
        };
        let from = from.filter(|from| sequence.can_continue(*from));
        let now = sequence.position();
        let position = match (from, since) {
            (None, _) => now,
            (Some(_), Beginning::Position(position)) => position,
            (Some(from), Beginning::Start | Beginning::Last) => {
                Position { epoch: sequence.epoch_of(from), seq: from - 1 }
            }
            (Some(from), _) => Position { seq: from - 1, ..now },
        };
        let missed = from.map(|from| sequence.next_seq() - from);
        let first_kept = sequence.first_kept();
        let first_available = Position { epoch: sequence.epoch_of(first_kept), seq: first_kept };
        if missed.is_none() && !matches!(since, Beginning::Session(_)) {
            self.check_life()?;
        }
        Ok(Entry { position, missed, first_available })
    }

    /// If the message with this number, or the first numbers from there on, cannot be given to a subscriber: the last such
    /// position.
    fn lost(&self, from: u64) -> Option<Position> {
        let first = self.sequence.first_kept();
        let first = if from < first { Some(first) } else { self.sequence.behind_loss(from) };
        first.map(|first| Position { epoch: self.sequence.epoch_of(first), seq: first - 1 })
    }

    /// Puts a subscriber on the list, with this number as the next, unless the subscriber is listed or has left
    /// already.
    pub(super) fn list(&mut self, subscription: &Arc<Subscription>, from: u64) {
        self.note_policy(subscription);
        if subscription.next_seq() == 0 && subscription.begin(from) {
            self.roster.add(Arc::clone(subscription), self.sequence.is_in_pass());
        }
    }

    /// Must be known before the client has any id: the client may come back under other settings. A subscriber in this
    /// process has no ids of several topics.
    fn note_policy(&mut self, subscription: &Subscription) {
        if subscription.policy() == SlowConsumer::Conflate && !subscription.is_local() {
            self.sequence.note_conflated();
        }
    }

    /// Sends a portion of these messages, which are kept. Returns the number after the portion, and whether the client
    /// has taken the portion.
    fn replay(&mut self, subscription: &Arc<Subscription>, seqs: Range<u64>, tick: Tick) -> (u64, bool) {
        self.note_policy(subscription);
        let from = seqs.start;
        let mut portion = self.sequence.portion(seqs, PORTION_BYTES);
        // Lost numbers are told in their place, in the next portion.
        let messages = portion.iter().take_while(|(batch, _)| !batch.is_lost()).count();
        portion.truncate(messages);
        let next = portion.last().map_or(from, |(_, seqs)| seqs.end);
        let client = subscription.slot.client_id();
        let messages: Vec<_> = portion
            .iter()
            .flat_map(|(batch, seqs)| batch.parts_for(client, seqs.clone()).map(move |seqs| (batch, seqs)))
            .map(|(batch, seqs)| Messages::new(subscription, batch, seqs))
            .collect();
        let given: u64 = messages.iter().map(|messages| messages.seqs.end - messages.seqs.start).sum();
        if given < next - from && !subscription.tells() {
            // The client counts the messages, and its count leads to no position any more.
            subscription.set_lossy();
        }
        (next, messages.is_empty() || subscription.slot.replay(messages, tick))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::delivery::SenderPool;
    use crate::topic::roster::tests::subscription;
    use crate::topic::sequence::tests::{hand_out, name, number};
    use crate::wire::Epoch;

    const TICK: Tick = Tick::new(1);

    /// A topic that has handed out this many messages, and the number of the last pass.
    fn topic(messages: usize) -> (TopicState, u64) {
        let topic = TopicState::for_test(name());
        let pass = hand_out(&mut topic.core.lock().sequence, &topic.pass_numbers, messages);
        (topic, pass)
    }

    fn subscribers(topic: &TopicState) -> usize {
        topic.info().subscribers
    }

    #[test]
    fn a_new_subscriber_begins_with_the_next_message() {
        let (topic, _) = topic(3);
        number(&mut topic.core.lock().sequence, 2);
        let subscription = subscription();
        for _ in 0..2 {
            let entry = topic.join(&subscription, Beginning::Now, TICK).unwrap();
            assert_eq!((entry.position.seq, entry.missed, entry.first_available.seq), (5, None, 1));
            assert_eq!((subscription.next_seq(), subscribers(&topic)), (6, 1), "listed once");
        }
    }

    #[test]
    fn no_message_can_be_handed_out_between_the_place_on_the_list_and_the_answer() {
        let (topic, _) = topic(3);
        let mut told = None;
        let tell = |entry: Entry| told = Some((entry.position.seq, topic.is_locked()));
        topic.join_and_tell(&subscription(), Beginning::Now, TICK, tell).unwrap();
        assert_eq!((told, topic.is_locked()), (Some((3, true)), false));
    }

    #[test]
    fn a_subscriber_that_missed_messages_is_listed_after_it_has_them() {
        let (topic, _) = topic(3);
        let since = Position { epoch: topic.epoch(), seq: 1 };
        let subscription = subscription();
        let entry = topic.join(&subscription, Beginning::Position(since), TICK).unwrap();
        assert_eq!((entry.position, entry.missed, entry.first_seq()), (since, Some(2), 2));
        assert_eq!(subscribers(&topic), 0);
        assert_eq!(topic.catch_up(&subscription, 2, TICK), Ok(CatchUp::More(4)), "the portion waits in the queue");
        assert_eq!(topic.catch_up(&subscription, 4, TICK), Ok(CatchUp::Joined));
        assert_eq!((subscription.next_seq(), subscribers(&topic)), (4, 1));
    }

    #[test]
    fn a_position_that_leads_nowhere_begins_with_the_next_message() {
        let (topic, _) = topic(3);
        let epoch = topic.epoch();
        let other = Epoch::new(epoch.number() ^ 1);
        let strange = [(other, 2), (epoch, 4), (epoch, u64::MAX)];
        for (epoch, seq) in strange {
            let entry = topic.join(&subscription(), Beginning::Position(Position { epoch, seq }), TICK).unwrap();
            assert_eq!((entry.position.seq, entry.missed), (3, None), "{epoch} {seq}");
        }
        assert_eq!(subscribers(&topic), strange.len());
    }

    #[test]
    fn a_subscriber_begins_with_the_start_or_the_last_of_what_is_kept() {
        let (topic, _) = topic(3);
        let epoch = topic.epoch();
        let begins = |since| {
            let entry = topic.entry(since, TICK).unwrap();
            assert_eq!(entry.position.epoch, epoch);
            (entry.first_seq(), entry.missed)
        };
        let both = |topic: [Beginning; 2]| topic.map(begins);
        assert_eq!(both([Beginning::Start, Beginning::Last]), [(1, Some(3)), (3, Some(1))]);
        // Numbered, and not handed out yet.
        number(&mut topic.core.lock().sequence, 1);
        assert_eq!(both([Beginning::Start, Beginning::Last]), [(1, Some(4)), (4, Some(1))]);
        let subscription = subscription();
        assert_eq!(topic.catch_up(&subscription, 4, TICK), Ok(CatchUp::Joined), "the next pass brings the message");
        assert_eq!(subscription.next_seq(), 4);
        topic.core.lock().sequence.trim_under_pressure(TICK, 31);
        assert_eq!(begins(Beginning::Start), (4, Some(1)), "what is not handed out is still to come");
    }

    #[test]
    fn a_topic_that_keeps_nothing_begins_with_the_next_message() {
        let (trimmed, _) = topic(2);
        trimmed.core.lock().sequence.trim_under_pressure(TICK, 31);
        for (topic, messages) in [(TopicState::for_test(name()), 0), (trimmed, 2)] {
            for since in [Beginning::Start, Beginning::Last] {
                let entry = topic.entry(since, TICK).unwrap();
                assert_eq!((entry.position.seq, entry.missed), (messages, Some(0)), "{since:?}");
            }
        }
    }

    #[test]
    fn a_session_keeps_its_subscription_while_the_topic_is_out_of_service() {
        let (topic, _) = topic(3);
        topic.quarantine(&SenderPool::default());
        assert_eq!(topic.join(&subscription(), Beginning::Now, TICK), Err(TopicError::Unavailable));
        let missed = |from| topic.join(&subscription(), Beginning::Session(from), TICK).unwrap().missed;
        assert_eq!([Some(2), Some(4), Some(5), Some(0), None].map(missed), [Some(2), Some(0), None, None, None]);
        assert_eq!(subscribers(&topic), 3);
    }

    #[test]
    fn a_stream_begins_after_a_pass_where_the_messages_are_kept() {
        let (topic, first) = topic(3);
        let second = hand_out(&mut topic.core.lock().sequence, &topic.pass_numbers, 2);
        let begins = |pass| {
            let entry = topic.entry(Beginning::Pass(pass), TICK).unwrap();
            (entry.first_seq(), entry.missed)
        };
        assert_eq!([first, second].map(begins), [(4, Some(2)), (6, Some(0))]);
        assert_eq!(begins(0), (6, None), "messages may have been handed out before the first kept message");
        assert_eq!(topic.handed_out_by(4), Ok(Some(second)));
        let subscription = subscription();
        assert_eq!(topic.catch_up_to(&subscription, 1, first, TICK), Ok(CatchUp::More(4)));
        assert_eq!(subscribers(&topic), 0, "the caller lets the subscriber join later");
    }

    #[test]
    fn a_subscriber_slower_than_the_ring_is_told_the_first_kept_number() {
        let (topic, _) = topic(3);
        topic.core.lock().sequence.trim_under_pressure(TICK, 31);
        assert_eq!(
            topic.catch_up(&subscription(), 2, TICK),
            Ok(CatchUp::Lost(Position { epoch: topic.epoch(), seq: 3 }))
        );
    }
}
