//! The queue of a lagging client, and the policies for a full queue.
//!
//! A queue exists only while something waits. It refers to frames shared by all subscribers. When the queue is full,
//! the policy of the subscription with the new messages decides: the client is closed, or some of that subscription's
//! own messages are dropped. A message written in part is never dropped, or the stream would break in the middle of a
//! frame.
//!
//! Frames without a topic (an ACK, an error, a receipt) are answers to requests, and their number is the client's
//! choice. They take no room from messages, are always let in and never dropped. While many answers wait, the client is
//! not read (see [`Slot::is_paused`](super::Slot::is_paused)), so no further answers arise.
//!
//! The limit in bytes counts the real size of an entry: its bytes, and a price for the entry itself. Successive
//! messages of a batch share an entry, so a burst of tiny messages costs little more than the bytes.
//!
//! A dropped message leaves a gap in its place if the client can be told: the client learns the missing numbers where
//! their messages would have been.

mod entry;

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::ops::Range;
use std::sync::Arc;

use bytes::{Buf, Bytes};

use entry::Load;
pub(crate) use entry::{Entry, Messages, Taken};

use super::codecs::CodecPanicked;
use super::ledger::Dropped;
use super::{Batch, End, Ledger, Link, SlowReason, Subscription, Terms};
use crate::config::SlowConsumer;
use crate::ground::clock::Tick;
use crate::wire::{Epoch, ServerEvent, TopicName};

/// Frames handed to one `writev`: as many as a 64 KiB send buffer takes of common message sizes.
const WRITEV_FRAMES: usize = 64;

/// Bytes of one flush before other connections get their turn.
const FLUSH_TURN_BYTES: usize = 256 * 1024;

/// Answers may take one part in this many of the room for messages before the client is paused: enough for a thousand
/// receipts by default, and little compared to the messages.
const ANSWERS_SHARE: usize = 4;

/// How far a flush got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flushed {
    /// Nothing waits any more.
    All,
    /// More could be written, but another connection has its turn.
    Turn,
}

/// Invariants: `messages` and `answers` are the sums over `entries`; the head may be written in part and then stays the
/// head.
#[derive(Debug)]
pub(crate) struct Queue {
    entries: VecDeque<Entry>,
    messages: Load,
    answers: Load,
    /// Whether a part of the head has been written.
    started: bool,
    terms: Arc<Terms>,
    /// Whether something has been written since the last look of [`watch`](Self::watch).
    progressed: bool,
    /// The tick of the first look at the queue, and the tick of the last progress.
    since: Option<(Tick, Tick)>,
}

impl Queue {
    pub(crate) fn new(terms: &Arc<Terms>) -> Self {
        Self {
            entries: VecDeque::new(),
            messages: Load::default(),
            answers: Load::default(),
            started: false,
            terms: Arc::clone(terms),
            progressed: false,
            since: None,
        }
    }

    fn ledger(&self) -> &Ledger {
        &self.terms.ledger
    }

    /// Queues the rest of an entry sent in part. Where messages may be dropped, only the message under way becomes the
    /// untouchable head.
    pub(crate) fn admit_started(&mut self, entry: Entry) -> Result<(), End> {
        debug_assert!(self.entries.is_empty());
        let Entry::Messages(mut head) = entry else {
            self.started = true;
            self.push(entry);
            return Ok(());
        };
        self.started = head.is_started();
        if !self.started || head.frames() == 1 || head.subscription.policy() == SlowConsumer::Disconnect {
            self.push(Entry::Messages(head));
            return Ok(());
        }
        let rest = Messages::new(&head.subscription, &head.batch, head.seqs.start + 1..head.seqs.end);
        head.seqs.end = rest.seqs.start;
        self.push(Entry::Messages(head));
        self.admit(Entry::Messages(rest))
    }

    /// Queues an entry; without room, by the policy of its subscription.
    ///
    /// A queue without messages takes any batch from a subscription whose client would be closed otherwise: a message
    /// larger than the limit would cut off every subscriber.
    pub(crate) fn admit(&mut self, entry: Entry) -> Result<(), End> {
        match entry {
            Entry::Messages(messages) if !self.has_room_for(&messages) => return self.admit_by_policy(messages),
            entry => self.push(entry),
        }
        Ok(())
    }

    fn admit_by_policy(&mut self, messages: Messages) -> Result<(), End> {
        match messages.subscription.policy() {
            SlowConsumer::DropNewest => self.admit_oldest(messages),
            SlowConsumer::DropOldest => self.admit_newest(messages),
            SlowConsumer::Conflate => self.admit_latest(messages),
            SlowConsumer::Disconnect => {
                if self.messages.frames > 0 {
                    // Conflated subscriptions can do with less, and make room for this one.
                    self.conflate_all();
                    if !self.has_room_for(&messages) {
                        return Err(self.overflow(SlowReason::QueueFull));
                    }
                }
                self.push(Entry::Messages(messages));
            }
        }
        Ok(())
    }

    fn has_room_for(&self, messages: &Messages) -> bool {
        messages.load().fits(self.room())
    }

    /// Whether the client would be cut off for these messages.
    pub(crate) fn overflows_with(&self, messages: &Messages) -> bool {
        messages.subscription.policy() == SlowConsumer::Disconnect
            && self.messages.frames > 0
            && !self.has_room_for(messages)
    }

    /// Whether the client has to take some answers before it may send more requests.
    pub(crate) fn holds_many_answers(&self) -> bool {
        self.answers.bytes > self.terms.max_bytes() / ANSWERS_SHARE
    }

    /// Whether a frame that the client has not asked for has room among the answers. The first frame always has.
    pub(crate) fn has_room_for_frame(&self, length: usize) -> bool {
        self.answers.bytes == 0
            || self.answers.bytes + Entry::OVERHEAD_BYTES + length <= self.terms.max_bytes() / ANSWERS_SHARE
    }

    /// Puts bytes before everything else. No byte of the queue may have been written.
    pub(crate) fn push_first(&mut self, frame: Bytes) {
        debug_assert!(!self.started);
        self.insert(0, Entry::Frame(frame));
    }

    /// Queues an entry without a look at the limits: for a portion requested by its taker.
    pub(crate) fn push(&mut self, entry: Entry) {
        self.insert(self.entries.len(), entry);
    }

    fn room(&self) -> Load {
        Load {
            frames: self.terms.max_frames().saturating_sub(self.messages.frames),
            bytes: self.terms.max_bytes().saturating_sub(self.messages.bytes),
        }
    }

    /// The account of an entry.
    fn account_of(&mut self, entry: &Entry) -> &mut Load {
        if matches!(entry, Entry::Frame(_)) { &mut self.answers } else { &mut self.messages }
    }

    /// Takes as many of the messages as there is room for; the newest are dropped.
    fn admit_oldest(&mut self, mut messages: Messages) {
        let mut fitting = messages.fitting(self.room());
        if fitting == 0 && self.messages.frames == 0 {
            fitting = 1;
        }
        let end = messages.seqs.end;
        let kept_to = messages.seqs.start + fitting as u64;
        let (subscription, batch) = (Arc::clone(&messages.subscription), Arc::clone(&messages.batch));
        if fitting > 0 {
            messages.seqs.end = kept_to;
            self.push(Entry::Messages(messages));
        }
        self.note_dropped(self.entries.len(), &batch, &subscription, kept_to..end, Dropped::Newest);
    }

    /// Drops waiting messages of the same subscription, oldest first, until there is room for the new messages; if that
    /// is not enough, also the oldest of the new messages.
    fn admit_newest(&mut self, mut messages: Messages) {
        let subscription = Arc::clone(&messages.subscription);
        loop {
            if self.has_room_for(&messages) {
                return self.push(Entry::Messages(messages));
            }
            let oldest = (usize::from(self.started)..self.entries.len())
                .find(|&at| matches!(&self.entries[at], Entry::Messages(old) if Arc::ptr_eq(&old.subscription, &subscription)));
            let Some(at) = oldest else { break };
            let (batch, dropped) = self.drop_first_at(at);
            self.note_dropped(at, &batch, &subscription, dropped, Dropped::Oldest);
        }
        // No older message of the subscription is left. At least the last of the new messages is kept if nothing else
        // waits.
        let room = self.room();
        let fits = |&skip: &usize| messages.load_from(messages.seqs.start + skip as u64).fits(room);
        let mut skip = (0..messages.frames()).find(fits).unwrap_or_else(|| messages.frames());
        if self.messages.frames == 0 {
            skip = skip.min(messages.frames() - 1);
        }
        if skip > 0 {
            let dropped = messages.drop_first(skip);
            self.note_dropped(self.entries.len(), &messages.batch, &subscription, dropped, Dropped::Oldest);
        }
        if messages.frames() > 0 {
            self.push(Entry::Messages(messages));
        }
    }

    /// Keeps the last message of the subscription, in the place of the waiting ones. The message is let in even if
    /// there is no room: one message of each topic is the least this policy promises, and `max_topics_per_client`
    /// limits their number.
    fn admit_latest(&mut self, mut messages: Messages) {
        let subscription = Arc::clone(&messages.subscription);
        let place = self.remove_all(&subscription);
        let skip = messages.frames() - 1;
        let mut at = place.unwrap_or(self.entries.len());
        if skip > 0 {
            let dropped = messages.drop_first(skip);
            at += self.note_dropped(at, &messages.batch, &subscription, dropped, Dropped::Conflated);
        }
        self.insert(at, Entry::Messages(messages));
    }

    /// Keeps nothing but the last message of every subscription with this policy.
    fn conflate_all(&mut self) {
        let mut at = usize::from(self.started);
        while at < self.entries.len() {
            let conflated = match &self.entries[at] {
                Entry::Messages(first) if first.subscription.policy() == SlowConsumer::Conflate => &first.subscription,
                _ => {
                    at += 1;
                    continue;
                }
            };
            let subscription = Arc::clone(conflated);
            let is_last = |entry: &&Entry| matches!(entry, Entry::Messages(last) if Arc::ptr_eq(&last.subscription, &subscription));
            let Some(Entry::Messages(last)) = self.entries.iter().rfind(is_last) else {
                unreachable!("one is at `at`")
            };
            let mut latest = last.clone();
            latest.drop_first(latest.frames() - 1);
            if matches!(&self.entries[at], Entry::Messages(only) if only.seqs == latest.seqs) {
                at += 1;
                continue;
            }
            // Taken out with the others; the gap covers only the dropped numbers.
            let last_at = self.entries.iter().rposition(|entry| is_last(&entry)).expect("just found");
            let Entry::Messages(mut last) = self.remove(last_at) else { unreachable!("just found") };
            if last.frames() > 1 {
                last.seqs.end -= 1;
                self.insert(last_at, Entry::Messages(last));
            }
            self.admit_latest(latest);
        }
    }

    /// Drops all waiting messages of a subscription. Returns the place for their replacement, behind the gaps in their
    /// place.
    fn remove_all(&mut self, subscription: &Arc<Subscription>) -> Option<usize> {
        let mut place = None;
        let mut at = usize::from(self.started);
        while at < self.entries.len() {
            if !self.entries[at].is_of(subscription) {
                at += 1;
                continue;
            }
            if let Entry::Gap(_) = self.entries[at] {
                at += 1;
                // Numbers must not come behind a gap of later numbers.
                place = place.map(|_| at);
                continue;
            }
            let Entry::Messages(old) = self.remove(at) else { unreachable!("it is of a subscription and no gap") };
            at += self.note_dropped(at, &old.batch, subscription, old.seqs, Dropped::Conflated);
            place = Some(place.map_or(at, |place: usize| if subscription.tells() { at } else { place }));
        }
        place
    }

    fn insert(&mut self, at: usize, entry: Entry) {
        *self.account_of(&entry) += entry.load();
        self.ledger().add_queued(entry.accounted_bytes());
        self.entries.insert(at, entry);
    }

    /// Drops the first message of the entry at `at`, and the entry with its last message. Returns the message's batch
    /// and number.
    fn drop_first_at(&mut self, at: usize) -> (Arc<Batch>, Range<u64>) {
        let Entry::Messages(old) = &mut self.entries[at] else { unreachable!("only messages are dropped") };
        if old.frames() == 1 {
            let Entry::Messages(old) = self.remove(at) else { unreachable!("just looked at") };
            return (old.batch, old.seqs);
        }
        let batch = Arc::clone(&old.batch);
        let before = old.end() - old.start;
        let dropped = old.drop_first(1);
        let after = old.end() - old.start;
        self.messages -= Load { frames: 1, bytes: before - after };
        (batch, dropped)
    }

    fn remove(&mut self, at: usize) -> Entry {
        let entry = self.entries.remove(at).expect("the caller has found it there");
        *self.account_of(&entry) -= entry.load();
        self.ledger().remove_queued(entry.accounted_bytes());
        entry
    }

    /// Counts dropped messages and, if the client can be told, leaves a gap before place `at`. Returns the number of
    /// entries added there.
    fn note_dropped(
        &mut self,
        at: usize,
        of: &Arc<Batch>,
        subscription: &Arc<Subscription>,
        seqs: Range<u64>,
        why: Dropped,
    ) -> usize {
        if seqs.is_empty() {
            return 0;
        }
        self.ledger().drop_messages(&of.topic, why, seqs.end - seqs.start);
        subscription.set_lossy();
        if !subscription.tells() {
            return 0;
        }
        // Joined to the gap before, if no message of the subscription stands between the two. Numbers between the two belong
        // to messages that are not for this client: a gap for each would be memory without a limit.
        let before = self.entries.range_mut(..at).rev().find(|entry| entry.is_of(subscription));
        if let Some(Entry::Gap(gap)) = before
            && (gap.seqs.end == seqs.start || gap.epoch == of.epoch && gap.seqs.end < seqs.start)
        {
            (gap.seqs.end, gap.epoch) = (seqs.end, of.epoch);
            return 0;
        }
        let gap = Entry::gap(subscription, &of.topic, of.epoch, seqs);
        self.ledger().add_queued(gap.accounted_bytes());
        self.entries.insert(at, gap);
        1
    }

    /// Leaves a gap behind all entries.
    pub(crate) fn push_gap(
        &mut self,
        subscription: &Arc<Subscription>,
        topic: &TopicName,
        epoch: Epoch,
        seqs: Range<u64>,
    ) {
        self.push(Entry::gap(subscription, topic, epoch, seqs));
    }

    /// Encodes a gap at the head. From then on the gap is a frame: it grows no more and is never dropped. Gaps behind
    /// the head still grow with dropped messages, or a stalled client would get a new gap for each look at the queue.
    fn tell_gap(&mut self) -> io::Result<()> {
        if let Some(Entry::Gap(gap)) = self.entries.front() {
            let (codec, Range { start, end }) = (gap.subscription.codec(), gap.seqs.clone());
            let event = ServerEvent::Gap { topic: &gap.topic, epoch: gap.epoch, from: start, to: end - 1 };
            let frame = gap.subscription.slot.codecs().encode(codec, &event).map_err(io::Error::other)?;
            self.remove(0);
            self.insert(0, Entry::Frame(frame));
        }
        Ok(())
    }

    /// Writes for at most a turn.
    pub(crate) fn write_to(&mut self, link: &Link) -> io::Result<Flushed> {
        let mut turn = 0;
        while !self.entries.is_empty() {
            if turn >= FLUSH_TURN_BYTES {
                return Ok(Flushed::Turn);
            }
            self.tell_gap()?;
            let mut slices = [IoSlice::new(&[]); WRITEV_FRAMES];
            let mut count = 0;
            let told = self.entries.iter().take_while(|entry| !matches!(entry, Entry::Gap(_)));
            for (slice, entry) in slices.iter_mut().zip(told) {
                *slice = IoSlice::new(entry.unwritten());
                count += 1;
            }
            let written = match &slices[..count] {
                [only] => link.send(only)?,
                slices => link.send_vectored(slices)?,
            };
            self.advance(written);
            turn += written;
        }
        Ok(Flushed::All)
    }

    fn advance(&mut self, mut written: usize) {
        self.progressed |= written > 0;
        while let Some(head) = self.entries.front_mut() {
            if let Entry::Gap(_) = head {
                // The gap has not been encoded.
                return;
            }
            let length = head.unwritten().len();
            if written < length {
                if written > 0 {
                    match head {
                        Entry::Frame(frame) => {
                            frame.advance(written);
                            self.answers -= Load { frames: 0, bytes: written };
                            self.terms.ledger.remove_queued(written);
                            self.started = true;
                        }
                        Entry::Messages(messages) => {
                            let frames = messages.advance(written);
                            self.messages -= Load { frames, bytes: written };
                            self.started = messages.is_started();
                        }
                        Entry::Gap(_) => unreachable!("looked at before"),
                    }
                }
                return;
            }
            written -= length;
            self.remove(0);
            self.started = false;
        }
    }

    /// The next message or gap for a consumer in this process.
    pub(crate) fn take(&mut self) -> Option<Taken> {
        self.progressed = true;
        match self.entries.front_mut()? {
            Entry::Messages(messages) => {
                let (batch, seq) = (Arc::clone(&messages.batch), messages.seqs.start);
                self.drop_first_at(0);
                Some(Taken::Message { batch, seq })
            }
            Entry::Gap(_) => match self.remove(0) {
                Entry::Gap(gap) => Some(Taken::Gap { epoch: gap.epoch, seqs: gap.seqs }),
                _ => unreachable!("just looked at"),
            },
            Entry::Frame(_) => {
                self.remove(0);
                self.take()
            }
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The frames and bytes of the queue, with the price of its entries.
    pub(crate) fn size(&self) -> (usize, usize) {
        (self.messages.frames + self.answers.frames, self.messages.bytes + self.answers.bytes)
    }

    /// The tick since which the queue exists, if [`watch`](Self::watch) has seen the queue.
    pub(crate) fn since(&self) -> Option<Tick> {
        self.since.map(|(since, _)| since)
    }

    /// Looks after the queue once a tick. Returns the ticks for which nothing could be written.
    pub(crate) fn watch(&mut self, tick: Tick) -> u32 {
        let (_, progress) = self.since.get_or_insert((tick, tick));
        if std::mem::take(&mut self.progressed) {
            *progress = tick;
        }
        tick.since(*progress)
    }

    /// The end of a connection with a full queue, or with a queue that does not move.
    pub(crate) fn overflow(&self, why: SlowReason) -> End {
        let fit = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        let (frames, bytes) = self.size();
        End::SlowConsumer { why, frames: fit(frames), bytes: fit(bytes) }
    }

    /// The end of a connection after a failed write.
    pub(crate) fn end_for_error(&self, error: &io::Error) -> End {
        if error.get_ref().is_some_and(|inner| inner.is::<CodecPanicked>()) {
            return End::CodecPanicked;
        }
        self.end_for(error.kind())
    }

    /// The end of a connection that failed while its queue waited. The kernel's time-out means that the client has
    /// taken nothing for `tcp_user_timeout`: the client is slow, whether or not its host still answers.
    pub(crate) fn end_for(&self, kind: io::ErrorKind) -> End {
        if kind == io::ErrorKind::TimedOut { self.overflow(SlowReason::Stalled) } else { End::Broken(kind) }
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        let accounted = self.entries.iter().map(Entry::accounted_bytes).sum();
        self.ledger().remove_queued(accounted);
    }
}

#[cfg(test)]
mod tests;
