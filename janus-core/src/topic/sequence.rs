//! The numbers of a topic's messages, and the progress of numbered messages to the subscribers.
//!
//! A message is numbered into the open batch. The open batch is sealed, kept in the ring, and queued for a pass; a pass
//! hands the first of these batches out. The sequence also knows which positions lead here: the epoch of the numbers,
//! and the epoch before. The sequence has no lock and sends nothing. Messages without a number are the business of the
//! [`Inbox`](super::inbox::Inbox).

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use super::ring::{Keep, Ring};
use super::room::InFlight;
use crate::config::{Config, Resume};
use crate::delivery::batch::Share;
use crate::delivery::{Batch, Ledger, OpenBatch, Pass, UnderWay};
use crate::ground::clock::{Clock, Tick};
use crate::ground::fault::Faults;
#[cfg(all(test, feature = "fault-injection"))]
use crate::ground::simulated;
use crate::wire::classic::MessageHead;
use crate::wire::{Epoch, HistoryQuery, Position, Publication, Since, TopicName};

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Sequence {
    epoch: Epoch,
    /// The last position of the previous epoch. Numbers continued from there, and a subscriber with all of these
    /// messages was not told of the new epoch.
    earlier: Option<Position>,
    /// The number of the next message; at least 1.
    next_seq: u64,
    /// Numbered messages without a batch: the last numbers before `next_seq`.
    open: OpenBatch,
    /// Sealed batches not handed out. Followed by `open`, they hold the numbers up to `next_seq` without a hole.
    batches: VecDeque<Arc<Batch>>,
    /// Every sealed batch, handed out or not, within the limits of `keep`. Ends where `open` begins.
    ring: Ring,
    /// The limits of the ring, for resuming clients and for history.
    keep: Keep,
    /// The part of `keep` that is history; `None` where the namespace keeps no history.
    history: Option<Keep>,
    /// The pass under way, with the front of `batches`.
    pass: Option<Arc<Pass>>,
    /// The same pass, as counted among the passes of all topics.
    under_way: Option<UnderWay>,
    /// The number of the last pass.
    latest: u64,
    /// Whether messages have gone to a client whose subscription conflates: the id of such a message says nothing about
    /// the other topics of the client. For as long as the numbers continue, whatever the settings say by then.
    conflated: bool,
    /// Messages of other nodes' publishers that have not been handed out.
    foreign: Share,
}

/// Where the numbers of a topic begin, or continue after the topic was asleep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Start {
    pub(super) epoch: Epoch,
    pub(super) earlier: Option<Position>,
    pub(super) next_seq: u64,
    /// The number of the last pass.
    pub(super) latest: u64,
    /// As in [`Sequence`].
    pub(super) conflated: bool,
}

impl Start {
    /// The beginning of a topic without a past. A topic of the same name may have been handed out up to the pass
    /// `latest`.
    pub(super) fn afresh(latest: u64) -> Self {
        Self { epoch: random_epoch(), earlier: None, next_seq: 1, latest, conflated: false }
    }
}

/// Never counted up, so that a restarted server cannot claim to continue an old epoch.
pub(super) fn random_epoch() -> Epoch {
    Epoch::new(getrandom::u64().expect("the system has a source of random numbers"))
}

/// The limits on a topic's kept messages.
#[derive(Clone, Copy, Debug)]
pub(super) struct Kept {
    keep: Keep,
    history: Option<Keep>,
}

impl Kept {
    pub(super) fn of(topic: &TopicName, config: &Config, clock: &Clock) -> Self {
        let namespace = config.namespace(topic.as_str());
        let mut resume =
            Keep { messages: config.resume_messages, bytes: config.resume_bytes, age: clock.ticks(config.resume_age) };
        if namespace.resume == Resume::Off {
            // No client may ask for these messages.
            (resume.messages, resume.bytes) = (0, 0);
        }
        let history = namespace.history.then(|| Keep {
            messages: namespace.history_messages,
            bytes: namespace.history_bytes,
            age: clock.ticks(namespace.history_age),
        });
        Self { keep: history.map_or(resume, |history| history.max(resume)), history }
    }
}

/// The messages of this node's publishers in a batch.
fn of_this_node(batch: &Batch) -> InFlight {
    let foreign = batch.foreign();
    InFlight { frames: batch.frames() - foreign.frames, bytes: batch.byte_len() - foreign.bytes }
}

/// Messages, batch by batch.
pub(super) type Portion = Vec<(Arc<Batch>, Range<u64>)>;

/// A part of a topic's history.
pub(crate) struct Excerpt {
    /// The position after the messages; for a reader of the newest first, the position of the last that was read.
    pub(crate) position: Position,
    /// The number of the latest message.
    pub(crate) top: u64,
    /// Whether no message is missing before `messages`.
    pub(crate) complete: bool,
    /// Whether further messages follow, or for the latest messages come before.
    pub(crate) more: bool,
    pub(crate) messages: Portion,
}

impl Sequence {
    pub(super) fn new(start: Start, Kept { keep, history }: Kept) -> Self {
        let Start { epoch, earlier, next_seq, latest, conflated } = start;
        Self {
            epoch,
            earlier,
            next_seq,
            open: OpenBatch::default(),
            batches: VecDeque::new(),
            ring: Ring::new(next_seq, latest),
            keep,
            history,
            pass: None,
            under_way: None,
            latest,
            conflated,
            foreign: Share::default(),
        }
    }

    /// Takes over other limits on the kept messages, from the next batch or look on.
    pub(super) fn follow(&mut self, Kept { keep, history }: Kept) {
        (self.keep, self.history) = (keep, history);
    }

    /// Where the numbers would continue if the topic fell asleep now.
    pub(super) fn start(&self) -> Start {
        let Self { epoch, earlier, next_seq, latest, conflated, .. } = *self;
        Start { epoch, earlier, next_seq, latest, conflated }
    }

    /// Messages go to a client whose subscription conflates.
    pub(super) fn note_conflated(&mut self) {
        self.conflated = true;
    }

    /// Whether messages have gone to a client whose subscription conflates.
    pub(super) fn has_conflated(&self) -> bool {
        self.conflated
    }
}

/// Numbering.
impl Sequence {
    /// Encodes a message under the next number. Returns the message's position, and the length of the frame.
    ///
    /// Contains the commit point. A panic before the commit leaves bytes without a number, to be cut off by the
    /// successor. After the commit every subscriber gets the message.
    #[inline]
    pub(super) fn number(
        &mut self,
        head: &MessageHead,
        publication: &Publication,
        now: Instant,
        faults: &Faults,
    ) -> (Position, usize) {
        head.encode_message(self.open.buffer(), publication);
        if let Some(client) = publication.excluded() {
            self.open.exclude(client);
        }
        faults.before_commit();
        let length = self.open.commit(now);
        let seq = self.next_seq;
        self.next_seq += 1;
        (Position { epoch: self.epoch, seq }, length)
    }

    /// The message numbered last is of another node's publisher. Takes the length of its frame.
    pub(super) fn note_foreign(&mut self, length: usize) {
        self.open.note_foreign(length);
        self.foreign.frames += 1;
        self.foreign.bytes += length;
    }

    /// Messages of other nodes' publishers that have not been handed out.
    pub(super) fn foreign(&self) -> Share {
        self.foreign
    }

    /// Bytes of the numbered messages without a batch.
    #[inline]
    pub(super) fn open_bytes(&self) -> usize {
        self.open.committed_len()
    }

    /// The number of these messages.
    #[inline]
    pub(super) fn open_frames(&self) -> usize {
        self.open.frames()
    }

    pub(super) fn has_open(&self) -> bool {
        self.open.frames() > 0
    }

    /// Ends the open batch, which must not be empty. The ring keeps the batch, and the next pass can take the batch.
    /// While memory is short the ring keeps less; returns the number of messages let go for this reason.
    pub(super) fn seal(&mut self, topic: &TopicName, tick: Tick, ledger: &Arc<Ledger>, pressure: u32) -> usize {
        let batch = Arc::new(self.open.seal(topic, self.next_seq, self.epoch, tick, ledger));
        self.ring.push(&batch, &self.keep);
        let trimmed = if pressure > 0 { self.ring.trim(&self.keep.under_pressure(pressure), tick) } else { 0 };
        self.batches.push_back(batch);
        trimmed
    }

    /// The engine has lost the messages behind the last position, or the node has missed these messages: numbers continue
    /// after `to`, under its epoch. Each subscriber is told in the place of the lost numbers. The open batch must have
    /// been sealed.
    pub(super) fn lose(&mut self, to: Position, topic: &TopicName, tick: Tick, ledger: &Arc<Ledger>) {
        let batch = Arc::new(Batch::lost(topic, self.position(), to, tick, ledger));
        (self.epoch, self.next_seq, self.earlier) = (to.epoch, to.seq + 1, None);
        self.ring.push(&batch, &self.keep);
        self.batches.push_back(batch);
    }

    /// The same, and forgets the messages before: a client that comes back from there may find them at the engine. `pass` is
    /// a number after all passes so far.
    pub(super) fn jump(&mut self, to: Position, topic: &TopicName, tick: Tick, ledger: &Arc<Ledger>, pass: u64) {
        self.lose(to, topic, tick, ledger);
        self.ring.clear(self.next_seq, pass);
    }

    /// Continues after this position, before the first message of this life and without any subscriber. `pass` is a number
    /// after all passes so far: messages may have been published that no pass of this node has handed out.
    pub(super) fn begin_at(&mut self, position: Position, pass: u64) {
        (self.epoch, self.next_seq, self.earlier) = (position.epoch, position.seq + 1, None);
        self.latest = pass;
        self.ring.clear(self.next_seq, pass);
    }

    /// Puts earlier messages into the ring, which must end right before the ring begins, in the same history: the log of an
    /// engine that has started afresh may have other messages under the same numbers. Returns whether they do.
    pub(super) fn fill(&mut self, earlier: Vec<Arc<Batch>>, tick: Tick) -> bool {
        let Some(last) = earlier.last().map(|batch| batch.last_position()) else { return true };
        let leads_on = match self.batch_with(self.ring.first_seq()) {
            Some(first) => first.continues(last),
            None => self.epoch == last.epoch,
        };
        let is_one = earlier.windows(2).all(|pair| pair[1].continues(pair[0].last_position()));
        leads_on && is_one && self.ring.prepend(earlier, &self.keep, tick, self.latest)
    }
}

/// Passes.
impl Sequence {
    pub(super) fn pass(&self) -> Option<&Arc<Pass>> {
        self.pass.as_ref()
    }

    pub(super) fn is_in_pass(&self) -> bool {
        self.pass.is_some()
    }

    /// The batch of the next pass.
    pub(super) fn next_batch(&self) -> Option<&Arc<Batch>> {
        self.batches.front()
    }

    /// The next batch is handed out from now on, under this number.
    pub(super) fn note_under_way(&mut self, batch: &Batch, under_way: UnderWay) {
        batch.begin(&under_way);
        self.latest = under_way.number;
        self.under_way = Some(under_way);
    }

    /// Begins the pass of the next batch.
    pub(super) fn begin(&mut self, pass: &Arc<Pass>) {
        self.pass = Some(Arc::clone(pass));
    }

    /// Ends the pass under way, if it is this pass. Returns the frames and bytes that have been handed out.
    ///
    /// Takes the pass, because the list of subscribers must not be in use when subscribers join next: a list in use
    /// would be copied.
    pub(super) fn end(&mut self, pass: Arc<Pass>) -> Option<InFlight> {
        if !self.pass.as_ref().is_some_and(|current| Arc::ptr_eq(current, &pass)) {
            return None;
        }
        (self.pass, self.under_way) = (None, None);
        let handed_out = of_this_node(pass.batch());
        let foreign = pass.batch().foreign();
        self.foreign.frames -= foreign.frames;
        self.foreign.bytes -= foreign.bytes;
        drop(pass);
        self.batches.pop_front();
        Some(handed_out)
    }
}

/// Positions.
impl Sequence {
    pub(super) fn epoch(&self) -> Epoch {
        self.epoch
    }

    pub(super) fn next_seq(&self) -> u64 {
        self.next_seq
    }

    /// The position of the last message.
    pub(super) fn position(&self) -> Position {
        Position { epoch: self.epoch, seq: self.next_seq - 1 }
    }

    /// The number of the first message that has not been handed out, and is not in the pass under way.
    pub(super) fn handed_out(&self) -> u64 {
        match (&self.pass, self.batches.front()) {
            (Some(pass), _) => pass.batch().last_seq() + 1,
            (None, Some(batch)) => batch.first_seq(),
            (None, None) => self.next_seq - self.open.frames() as u64,
        }
    }

    /// Whether a position belongs to this life of the topic: to the epoch of the message behind it, or to the epoch before
    /// if no message was lost between the two, or else the loss is told.
    ///
    /// The present epoch is not enough: an engine that starts afresh may give its numbers to messages that this node never
    /// had, before it learns how far this node has come.
    pub(super) fn leads_here(&self, since: Position) -> bool {
        #[cfg(all(test, feature = "fault-injection"))]
        if simulated::is_planted(simulated::Planted::AnyEpochResumes) {
            return true;
        }
        let missed_nothing = |earlier: Position| since.epoch == earlier.epoch && since.seq >= earlier.seq;
        let is_ours = match since.seq.checked_add(1).and_then(|seq| self.batch_with(seq)) {
            // Messages that were lost behind the position, or within the loss.
            Some(batch) => batch.epoch == since.epoch || batch.lost_after().is_some_and(|after| after == since),
            None => since.epoch == self.epoch,
        };
        is_ours || self.earlier.is_some_and(missed_nothing)
    }

    /// The epoch of the message with this number, if the message is kept or has not been handed out; otherwise the present
    /// epoch.
    pub(super) fn epoch_of(&self, seq: u64) -> Epoch {
        self.batch_with(seq).map_or(self.epoch, |batch| batch.epoch)
    }

    /// The batch with this number, if it is kept or has not been handed out.
    fn batch_with(&self, seq: u64) -> Option<&Arc<Batch>> {
        let has = |batch: &&Arc<Batch>| (batch.first_seq()..=batch.last_seq()).contains(&seq);
        self.ring.batch_with(seq).or_else(|| self.batches.iter().find(has))
    }

    /// The first number behind the lost numbers, if this number is one of them.
    pub(super) fn behind_loss(&self, seq: u64) -> Option<u64> {
        let lost = self.ring.batch_with(seq).filter(|batch| batch.is_lost())?;
        Some(lost.last_seq() + 1)
    }

    /// The first number in the ring, or the number of the next batch.
    pub(super) fn first_in_ring(&self) -> u64 {
        self.ring.first_seq()
    }

    /// The first number that a subscriber can still be given.
    pub(super) fn first_kept(&self) -> u64 {
        self.ring.first_seq().min(self.handed_out())
    }

    /// The first message that a subscriber can still be given, or the number of the next.
    pub(super) fn first_message(&self) -> u64 {
        let first = self.first_kept();
        self.behind_loss(first).unwrap_or(first)
    }

    /// The last message that a subscriber can still be given, or the number of the next.
    pub(super) fn last_message(&self) -> u64 {
        let mut seq = self.next_seq - 1;
        while let Some(lost) = self.batch_with(seq).filter(|batch| batch.is_lost()) {
            seq = lost.first_seq() - 1;
        }
        if self.can_continue(seq) { seq } else { self.next_seq }
    }

    /// Whether a subscriber that had everything before this number can continue without a hole.
    pub(super) fn can_continue(&self, from: u64) -> bool {
        (self.first_kept()..=self.next_seq).contains(&from)
    }

    /// The first number of a pass later than `pass`, or of a pass to come; `None` if that message is no longer kept.
    pub(super) fn first_after(&self, pass: u64) -> Option<u64> {
        Some(self.ring.first_after(pass, self.latest)?.min(self.handed_out()))
    }

    /// The first kept number whose pass began, or will begin, after all passes up to `pass` had ended.
    pub(super) fn first_following(&self, pass: u64) -> u64 {
        self.ring.first_following(pass)
    }

    /// The pass that handed the message with this number out: `None` for a pass to come, 0 for a message no longer
    /// kept.
    pub(super) fn handed_out_by(&self, seq: u64) -> Option<u64> {
        let pass = || self.ring.batch_with(seq).and_then(|batch| batch.pass()).unwrap_or(0);
        (seq < self.handed_out()).then(pass)
    }
}

/// Kept messages.
impl Sequence {
    /// The kept messages of these numbers, up to this many bytes but at least one message.
    pub(super) fn portion(&self, seqs: Range<u64>, max_bytes: usize) -> Portion {
        self.ring.portion(seqs, max_bytes)
    }

    /// Lets go of messages that are too old, or over a limit.
    pub(super) fn trim(&mut self, tick: Tick) {
        self.ring.trim(&self.keep, tick);
    }

    /// The same, and of messages beyond the limits under `pressure`. Returns how many the latter were.
    pub(super) fn trim_under_pressure(&mut self, tick: Tick, pressure: u32) -> usize {
        self.trim(tick);
        self.ring.trim(&self.keep.under_pressure(pressure), tick)
    }

    pub(super) fn keeps_messages(&self) -> bool {
        self.ring.len() > 0
    }

    pub(super) fn has_history(&self) -> bool {
        self.history.is_some()
    }

    /// Bytes of the kept messages in the ledger's account.
    pub(super) fn kept_bytes(&self) -> usize {
        self.ring.accounted_bytes()
    }

    /// The messages of the history within the query's number, in their order; `None` without history. A position of another
    /// life of the topic comes before all messages. The open batch must have been sealed.
    pub(super) fn excerpt(&mut self, query: HistoryQuery, tick: Tick) -> Option<Excerpt> {
        let history = self.history?;
        self.trim(tick);
        let (kept, all, limit) = (self.ring.first_within(&history, tick), self.next_seq, query.limit as u64);
        let (range, complete) = if query.reverse {
            let (end, complete) = match query.since {
                None | Some(Since::Last) => (all, true),
                Some(Since::Start) => (kept, true),
                Some(Since::Position(since)) if self.leads_here(since) => (since.seq.clamp(kept, all), true),
                Some(Since::Position(_)) => (all, false),
            };
            (kept.max(end.saturating_sub(limit))..end, complete)
        } else {
            let (first, complete) = match query.since {
                None => (kept.max(all.saturating_sub(limit)), true),
                Some(Since::Last) => (kept.max(all.saturating_sub(1)), true),
                Some(Since::Start) => (kept, true),
                Some(Since::Position(since)) if self.leads_here(since) => {
                    let first = since.seq.saturating_add(1);
                    (first.clamp(kept, all), (kept..=all).contains(&first))
                }
                Some(Since::Position(_)) => (kept, false),
            };
            (first..first.saturating_add(limit).min(all), complete)
        };
        let last = if query.reverse && !range.is_empty() { range.start } else { range.end - u64::from(!query.reverse) };
        let last = last.min(all - 1);
        let is_end = query.reverse || query.since.is_none();
        let more = if is_end { range.start > kept } else { range.end < all };
        let mut messages = self.portion(range, usize::MAX);
        let found = messages.len();
        messages.retain(|(batch, _)| !batch.is_lost());
        Some(Excerpt {
            position: Position { epoch: self.epoch_of(last), seq: last },
            top: all - 1,
            complete: complete && messages.len() == found,
            more,
            messages,
        })
    }
}

/// After a crash.
impl Sequence {
    /// Cuts off the bytes of a message that was not committed.
    pub(super) fn truncate_uncommitted(&mut self) {
        self.open.truncate_uncommitted();
    }

    /// Whether all numbered messages have been handed out.
    pub(super) fn is_handed_out(&self) -> bool {
        !self.has_open() && self.batches.is_empty() && !self.is_in_pass()
    }

    /// The same messages, of this node's publishers.
    pub(super) fn in_flight(&self) -> InFlight {
        let batches = self.batches.iter().map(|batch| of_this_node(batch));
        let foreign = self.open.foreign();
        let open = InFlight { frames: self.open.frames() - foreign.frames, bytes: self.open_bytes() - foreign.bytes };
        batches.fold(open, |sum, batch| InFlight { frames: sum.frames + batch.frames, bytes: sum.bytes + batch.bytes })
    }

    /// Makes the account of other nodes' messages true again.
    pub(super) fn recount_foreign(&mut self) {
        let foreign = self.batches.iter().map(|batch| batch.foreign());
        self.foreign = foreign.fold(self.open.foreign(), |sum, batch| Share {
            frames: sum.frames + batch.frames,
            bytes: sum.bytes + batch.bytes,
        });
    }

    /// Whether the numbers of all batches are without a hole, and the ring ends where the open batch begins: what a
    /// successor requires of a crashed topic's numbers.
    pub(super) fn check(&self) -> bool {
        let open = self.next_seq.wrapping_sub(self.open.frames() as u64);
        let mut expected = self.batches.front().map_or(open, |batch| batch.first_seq());
        for batch in &self.batches {
            if batch.first_seq() != expected {
                return false;
            }
            expected = batch.last_seq() + 1;
        }
        expected == open && self.ring.is_consistent() && self.ring.end() == open
    }

    /// Starts afresh under this epoch: nothing is kept, numbers continue. Returns the former pass under way.
    pub(super) fn restart(&mut self, epoch: Epoch, latest: u64) -> Option<Arc<Pass>> {
        // Where the numbers do not add up, no earlier position has a meaning.
        let adds_up = self.ring.end() + self.open.frames() as u64 == self.next_seq;
        let is_afresh = epoch != self.epoch;
        self.earlier = (adds_up && is_afresh).then_some(Position { epoch: self.epoch, seq: self.next_seq - 1 });
        self.epoch = epoch;
        self.under_way = None;
        self.latest = latest;
        self.batches.clear();
        self.open = OpenBatch::default();
        self.foreign = Share::default();
        self.ring.clear(self.next_seq, latest);
        self.pass.take()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::delivery::PassNumbers;
    use crate::delivery::pass::{Help, Server};
    use crate::ground::homes::HomeId;
    use crate::wire::Timestamp;

    pub(in crate::topic) fn name() -> TopicName {
        TopicName::new("news", 255).unwrap()
    }

    const EPOCH: Epoch = Epoch::new(7);

    const KEEP: Keep = Keep { messages: 8, bytes: 1 << 20, age: 1_000 };

    fn sequence(history: Option<Keep>) -> Sequence {
        let start = Start { epoch: EPOCH, earlier: None, next_seq: 1, latest: 1, conflated: false };
        Sequence::new(start, Kept { keep: KEEP, history })
    }

    pub(in crate::topic) fn number(sequence: &mut Sequence, messages: usize) {
        let head = MessageHead::new(&Timestamp { mega: 1, sec: 2, micro: 3 });
        for _ in 0..messages {
            let publication = Publication::of_checked(&name(), "1", "2", "3");
            sequence.number(&head, &publication, Instant::now(), &Faults::default());
        }
    }

    pub(in crate::topic) fn seal(sequence: &mut Sequence) {
        if sequence.has_open() {
            sequence.seal(&name(), Tick::new(1), &Arc::default(), 0);
        }
    }

    fn begin(sequence: &mut Sequence, numbers: &Arc<PassNumbers>) -> Option<Arc<Pass>> {
        let batch = sequence.next_batch().filter(|_| !sequence.is_in_pass()).cloned()?;
        sequence.note_under_way(&batch, numbers.begin());
        let pass = Arc::new(Pass::new(batch, Arc::default(), Tick::new(1), Help::None, Arc::default()));
        sequence.begin(&pass);
        while pass.serve_piece(Server::Home(HomeId::FIRST)).is_some() {}
        Some(pass)
    }

    /// Numbers, seals and hands out this many messages.
    pub(in crate::topic) fn hand_out(sequence: &mut Sequence, numbers: &Arc<PassNumbers>, messages: usize) -> u64 {
        number(sequence, messages);
        seal(sequence);
        let pass = begin(sequence, numbers).expect("a batch waits");
        sequence.end(pass).expect("the pass is under way");
        sequence.latest
    }

    #[test]
    fn numbers_continue_where_a_topic_fell_asleep() {
        let mut sequence = sequence(None);
        let last = hand_out(&mut sequence, &Arc::default(), 3);
        let woken = Sequence::new(sequence.start(), Kept { keep: KEEP, history: None });
        assert_eq!((woken.position(), woken.latest), (Position { epoch: EPOCH, seq: 3 }, last));
        assert!(woken.can_continue(4) && !woken.can_continue(3) && woken.check());
    }

    #[test]
    fn a_restart_forgets_messages_and_keeps_numbers() {
        let (mut sequence, numbers) = (sequence(None), Arc::default());
        hand_out(&mut sequence, &numbers, 2);
        number(&mut sequence, 2);
        seal(&mut sequence);
        let pass = begin(&mut sequence, &numbers).unwrap();
        let under_way = sequence.restart(Epoch::new(8), numbers.last());
        assert!(under_way.is_some_and(|under_way| Arc::ptr_eq(&under_way, &pass)));
        assert_eq!((sequence.position(), sequence.first_kept()), (Position { epoch: Epoch::new(8), seq: 4 }, 5));
        assert_eq!((sequence.in_flight(), sequence.check()), (InFlight::default(), true));
        let leads = |seq| sequence.leads_here(Position { epoch: EPOCH, seq });
        assert!(leads(4) && !leads(3), "only a subscriber that has missed no message goes on");
        assert_eq!(sequence.end(pass), None, "the pass is no longer under way");
    }

    #[test]
    fn numbers_that_do_not_add_up_are_found() {
        let mut sound = sequence(None);
        hand_out(&mut sound, &Arc::default(), 2);
        number(&mut sound, 1);
        assert!(sound.check());
        sound.next_seq += 1;
        assert!(!sound.check(), "a number without a message");
        let mut lost_batch = sequence(None);
        for _ in 0..3 {
            number(&mut lost_batch, 2);
            seal(&mut lost_batch);
        }
        assert!(lost_batch.check());
        lost_batch.batches.remove(1);
        assert!(!lost_batch.check(), "a hole between two batches");
        lost_batch.restart(Epoch::new(9), 1);
        assert!(lost_batch.check() && lost_batch.earlier.is_some());
    }

    #[test]
    fn an_uncommitted_message_is_cut_off() {
        let mut sequence = sequence(None);
        number(&mut sequence, 1);
        let committed = sequence.open_bytes();
        sequence.open.buffer().extend_from_slice(b"half a message");
        sequence.truncate_uncommitted();
        assert_eq!((sequence.open.buffer().len(), sequence.check()), (committed, true));
    }

    #[test]
    fn history_begins_where_the_reader_was() {
        let mut sequence = sequence(Some(KEEP));
        number(&mut sequence, 10);
        seal(&mut sequence);
        let mut read = |since: Option<u64>, limit| {
            let since = since.map(|seq| Position { epoch: EPOCH, seq });
            let query = HistoryQuery { since: since.map(Since::Position), ..HistoryQuery::latest(limit) };
            let excerpt = sequence.excerpt(query, Tick::new(1)).unwrap();
            let seqs: Vec<u64> = excerpt.messages.iter().flat_map(|(_, seqs)| seqs.clone()).collect();
            (seqs, excerpt.complete, excerpt.more)
        };
        assert_eq!(read(None, 2), (vec![9, 10], true, true), "earlier messages are kept");
        assert_eq!(read(Some(3), 2), (vec![4, 5], true, true));
        assert_eq!(read(Some(1), 2), (vec![3, 4], false, true), "message 2 is no longer kept");
        assert_eq!(read(Some(10), 2), (vec![], true, false));
        let stranger = HistoryQuery::latest(100).since(Position { epoch: Epoch::new(8), seq: 9 });
        let stranger = sequence.excerpt(stranger, Tick::new(1)).unwrap();
        assert_eq!((stranger.position.seq, stranger.complete), (10, false));
    }

    #[derive(Clone, Debug)]
    enum Step {
        Number(usize),
        Seal,
        BeginPass,
        EndPass,
        Crash,
        Restart,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (1_usize..4).prop_map(Step::Number),
            3 => Just(Step::Seal),
            3 => Just(Step::BeginPass),
            3 => Just(Step::EndPass),
            1 => Just(Step::Crash),
            1 => Just(Step::Restart),
        ]
    }

    proptest! {
        #[test]
        fn numbers_have_no_hole_whatever_happens(steps in prop::collection::vec(step(), 0..100)) {
            let (mut sequence, numbers) = (sequence(None), Arc::<PassNumbers>::default());
            let (mut numbered, mut handed_out, mut under_way) = (0_u64, 0_u64, None);
            for step in steps {
                match step {
                    Step::Number(messages) => {
                        number(&mut sequence, messages);
                        numbered += messages as u64;
                    }
                    Step::Seal => seal(&mut sequence),
                    Step::BeginPass => under_way = begin(&mut sequence, &numbers).or(under_way),
                    Step::EndPass => if let Some(pass) = under_way.take() {
                        prop_assert_eq!(pass.batch().first_seq(), handed_out + 1);
                        handed_out = pass.batch().last_seq();
                        prop_assert!(sequence.end(pass).is_some());
                    },
                    Step::Crash => {
                        sequence.open.buffer().extend_from_slice(b"half a message");
                        sequence.truncate_uncommitted();
                    }
                    Step::Restart => {
                        let before = sequence.epoch();
                        sequence.restart(Epoch::new(before.number() + 1), numbers.last());
                        (handed_out, under_way) = (numbered, None);
                        let last = Position { epoch: before, seq: numbered };
                        prop_assert!(sequence.leads_here(last));
                    }
                }
                prop_assert!(sequence.check());
                prop_assert_eq!(sequence.position().seq, numbered);
                prop_assert_eq!(sequence.in_flight().frames as u64, numbered - handed_out);
                let last_begun = under_way.as_ref().map_or(handed_out, |pass| pass.batch().last_seq());
                prop_assert_eq!(sequence.handed_out(), last_begun + 1);
                // A subscriber that had everything before the first kept number gets all the rest, in order.
                let first = sequence.first_kept();
                prop_assert!(sequence.can_continue(first) && sequence.can_continue(numbered + 1));
                prop_assert!(!sequence.can_continue(first - 1) && !sequence.can_continue(numbered + 2));
                let kept = sequence.portion(first..sequence.handed_out(), usize::MAX);
                let seqs: Vec<u64> = kept.into_iter().flat_map(|(_, seqs)| seqs).collect();
                prop_assert_eq!(seqs, (first..sequence.handed_out()).collect::<Vec<_>>());
                // No message of a later pass is skipped.
                if let Some(from) = sequence.first_after(numbers.last()) {
                    prop_assert!(from <= last_begun + 1);
                }
            }
        }
    }
}
