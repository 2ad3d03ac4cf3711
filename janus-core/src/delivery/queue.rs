//! What waits for one client that does not keep up, and what happens when it is too much.
//!
//! A queue exists only while something waits. It holds references to the frames, which all subscribers share. When it is
//! full, the policy of the subscription whose messages arrive decides: the client is closed, or some of that
//! subscription's own messages are dropped. What has been written in part is never dropped, or the stream would break in
//! the middle of a frame.
//!
//! Frames that belong to no topic (an ACK, an error, a receipt) are answers to what the client asks, and their number is
//! the client's choice. They take no room from messages, are always let in and never dropped: while many of them wait,
//! the client is not read (see [`Slot::is_paused`](super::Slot::is_paused)), and asks for no more.
//!
//! The limit in bytes counts what an entry really takes: its bytes, and a price for the entry itself. Successive messages
//! of one batch share an entry, so that a burst of tiny messages costs about what its bytes do.
//!
//! What is dropped from a subscription that can be told leaves a gap in its place: the client learns which numbers it
//! will not see, where it would have seen them.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::ops::{AddAssign, Range, SubAssign};
use std::sync::Arc;

use bytes::{Buf, Bytes};

use super::batch::View;
use super::codecs::CodecPanicked;
use super::ledger::Dropped;
use super::slot::{End, SlowReason, Subscription};
use super::{Batch, Ledger, Link, Terms};
use crate::config::SlowConsumer;
use crate::ground::clock::Tick;
use crate::wire::{Epoch, ServerEvent, TopicName};

/// Frames handed to one `writev`: as many as one 64 KiB send buffer takes of common message sizes.
const WRITEV_FRAMES: usize = 64;

/// Bytes one flush writes before others get their turn.
const FLUSH_TURN_BYTES: usize = 256 * 1024;

/// Answers may take one part in so many of what messages may, before the client that asks is paused: enough for a thousand
/// receipts by default, and little beside the messages.
const ANSWERS_SHARE: usize = 4;

/// How far a flush got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flushed {
    /// Nothing waits any more.
    All,
    /// More could be written, but it is somebody else's turn.
    Turn,
}

/// Invariants: `messages` and `answers` are the sums over `entries`; the head may be written in part and then stays the head.
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
    /// The tick at which the queue was first seen, and the last at which it had got on.
    since: Option<(Tick, Tick)>,
}

#[derive(Debug)]
pub(crate) enum Entry {
    /// Belongs to no topic, or was asked for: never dropped.
    Frame(Bytes),
    Messages(Messages),
    /// These numbers of this subscription were dropped here.
    Gap(Box<Gap>),
}

#[derive(Debug)]
pub(crate) struct Gap {
    subscription: Arc<Subscription>,
    topic: TopicName,
    epoch: Epoch,
    seqs: Range<u64>,
}

/// Successive messages of one batch.
#[derive(Clone, Debug)]
pub(crate) struct Messages {
    pub(crate) subscription: Arc<Subscription>,
    pub(crate) batch: Arc<Batch>,
    /// Not empty, and within the batch.
    pub(crate) seqs: Range<u64>,
    /// Where what has not been written begins in the batch's bytes.
    pub(crate) start: usize,
}

impl Messages {
    pub(crate) fn new(subscription: &Arc<Subscription>, batch: &Arc<Batch>, seqs: Range<u64>) -> Self {
        let start = batch.view(subscription.codec(), subscription.slot.codecs()).start_of(seqs.start);
        Self { subscription: Arc::clone(subscription), batch: Arc::clone(batch), seqs, start }
    }

    /// The batch as this client gets it.
    pub(crate) fn view(&self) -> View<'_> {
        self.batch.view(self.subscription.codec(), self.subscription.slot.codecs())
    }

    fn frames(&self) -> usize {
        (self.seqs.end - self.seqs.start) as usize
    }

    fn end(&self) -> usize {
        self.view().start_of(self.seqs.end)
    }

    fn load(&self) -> Load {
        Load { frames: self.frames(), bytes: Entry::OVERHEAD_BYTES + self.end() - self.start }
    }

    /// Whether a part of the first message has been written.
    fn is_started(&self) -> bool {
        self.start > self.view().start_of(self.seqs.start)
    }

    /// Notes that so many bytes have been written, and lets go of the messages that are whole among them; how many those
    /// are. The last message stays, also without a byte left.
    pub(crate) fn advance(&mut self, written: usize) -> usize {
        self.start += written;
        let before = self.seqs.start;
        while self.seqs.start + 1 < self.seqs.end && self.view().start_of(self.seqs.start + 1) <= self.start {
            self.seqs.start += 1;
        }
        (self.seqs.start - before) as usize
    }

    /// Cuts off the first `count` messages; their numbers.
    fn drop_first(&mut self, count: usize) -> Range<u64> {
        let dropped = self.seqs.start..self.seqs.start + count as u64;
        self.seqs.start = dropped.end;
        self.start = self.view().start_of(dropped.end);
        dropped
    }

    /// What the messages from the number `from` on would take in a queue.
    fn load_from(&self, from: u64) -> Load {
        let bytes = self.end() - self.view().start_of(from);
        Load { frames: (self.seqs.end - from) as usize, bytes: Entry::OVERHEAD_BYTES + bytes }
    }

    /// How many of the messages fit into so much room, counted from the first.
    fn fitting(&self, room: Load) -> usize {
        let load_to = |seq: u64| {
            let bytes = self.view().start_of(seq) - self.view().start_of(self.seqs.start);
            Load { frames: (seq - self.seqs.start) as usize, bytes: Entry::OVERHEAD_BYTES + bytes }
        };
        (self.seqs.start + 1..=self.seqs.end).take_while(|&seq| load_to(seq).fits(room)).count()
    }
}

/// Frames, and bytes with the price of their entries: what waits, or what there is room for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Load {
    frames: usize,
    bytes: usize,
}

impl Load {
    fn fits(self, room: Self) -> bool {
        self.frames <= room.frames && self.bytes <= room.bytes
    }
}

impl AddAssign for Load {
    fn add_assign(&mut self, other: Self) {
        self.frames += other.frames;
        self.bytes += other.bytes;
    }
}

impl SubAssign for Load {
    fn sub_assign(&mut self, other: Self) {
        self.frames -= other.frames;
        self.bytes -= other.bytes;
    }
}

/// What the consumer of a queue in this process gets.
#[derive(Debug)]
pub(crate) enum Taken {
    Message { batch: Arc<Batch>, seq: u64 },
    Gap(Range<u64>),
}

impl Entry {
    fn gap(subscription: &Arc<Subscription>, topic: &TopicName, epoch: Epoch, seqs: Range<u64>) -> Self {
        Self::Gap(Box::new(Gap { subscription: Arc::clone(subscription), topic: topic.clone(), epoch, seqs }))
    }

    /// What an entry takes beside the frames it refers to.
    const OVERHEAD_BYTES: usize = size_of::<Self>() + 16;

    /// What the entry takes of the queue. A gap takes nothing: it stands for messages that made room, and the gaps of a
    /// subscription between two of its messages are one.
    fn load(&self) -> Load {
        match self {
            Self::Frame(frame) => Load { frames: 1, bytes: Self::OVERHEAD_BYTES + frame.len() },
            Self::Messages(messages) => messages.load(),
            Self::Gap(_) => Load::default(),
        }
    }

    fn unwritten(&self) -> &[u8] {
        match self {
            Self::Frame(frame) => frame,
            Self::Messages(messages) => &messages.view().bytes()[messages.start..messages.end()],
            Self::Gap(_) => &[],
        }
    }

    fn accounted_bytes(&self) -> usize {
        match self {
            Self::Frame(frame) => Self::OVERHEAD_BYTES + frame.len(),
            Self::Messages(_) => Self::OVERHEAD_BYTES,
            Self::Gap(_) => Self::OVERHEAD_BYTES + size_of::<Gap>(),
        }
    }

    fn is_of(&self, subscription: &Arc<Subscription>) -> bool {
        match self {
            Self::Frame(_) => false,
            Self::Messages(messages) => Arc::ptr_eq(subscription, &messages.subscription),
            Self::Gap(gap) => Arc::ptr_eq(subscription, &gap.subscription),
        }
    }
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

    /// Takes in what is left of something that has been sent in part. Where messages may be dropped, only the one that was
    /// begun is the head that nobody touches.
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

    /// Takes an entry in, by its policy if there is no room.
    ///
    /// A queue without messages takes any batch from a subscription whose client would be closed otherwise: a message
    /// larger than the limit would cut off everybody it is for.
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
                    // What can do with less makes room for what cannot.
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

    /// Whether so many answers wait that the client is to take some before it asks for more.
    pub(crate) fn holds_many_answers(&self) -> bool {
        self.answers.bytes > self.terms.max_bytes / ANSWERS_SHARE
    }

    /// Puts bytes before everything else. Nothing must have been written of what waits.
    pub(crate) fn push_first(&mut self, frame: Bytes) {
        debug_assert!(!self.started);
        self.insert(0, Entry::Frame(frame));
    }

    /// Takes an entry in without looking at the limits: for what its taker has asked for a portion of.
    pub(crate) fn push(&mut self, entry: Entry) {
        self.insert(self.entries.len(), entry);
    }

    fn room(&self) -> Load {
        Load {
            frames: self.terms.max_frames.saturating_sub(self.messages.frames),
            bytes: self.terms.max_bytes.saturating_sub(self.messages.bytes),
        }
    }

    /// The account that an entry is on.
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

    /// Drops waiting messages of the same subscription, oldest first, until there is room for the new ones; if that is
    /// not enough, the oldest of the new ones as well.
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
        // None of its own is left. Of the new ones at least the last is kept if nothing else waits.
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

    /// Keeps the last message of the subscription, in the place of those that waited. It is let in also if there is no
    /// room: one message of each topic is the least that this policy promises, and `max_topics_per_client` limits them.
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

    /// Keeps of every subscription with this policy nothing but its last message.
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
            // Taken out with the others, and told of only as far as it is not kept.
            let last_at = self.entries.iter().rposition(|entry| is_last(&entry)).expect("just found");
            let Entry::Messages(mut last) = self.remove(last_at) else { unreachable!("just found") };
            if last.frames() > 1 {
                last.seqs.end -= 1;
                self.insert(last_at, Entry::Messages(last));
            }
            self.admit_latest(latest);
        }
    }

    /// Drops all that waits of a subscription; the place for what is to come instead, behind the gaps that tell of it.
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
                // Numbers must not come behind a gap that follows on them.
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

    /// Drops the first message of the entry at `at`, and the entry with its last; the message's batch and number.
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

    /// Counts dropped messages and, if the client can be told, leaves a gap before place `at`; how many entries that
    /// added before it.
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
        // Joined to the gap before, if no message of the subscription stands between them.
        let before = self.entries.range_mut(..at).rev().find(|entry| entry.is_of(subscription));
        if let Some(Entry::Gap(gap)) = before
            && gap.seqs.end == seqs.start
        {
            (gap.seqs.end, gap.epoch) = (seqs.end, of.epoch);
            return 0;
        }
        let gap = Entry::gap(subscription, &of.topic, of.epoch, seqs);
        self.ledger().add_queued(gap.accounted_bytes());
        self.entries.insert(at, gap);
        1
    }

    /// Leaves a gap behind everything that waits.
    pub(crate) fn push_gap(
        &mut self,
        subscription: &Arc<Subscription>,
        topic: &TopicName,
        epoch: Epoch,
        seqs: Range<u64>,
    ) {
        self.push(Entry::gap(subscription, topic, epoch, seqs));
    }

    /// Puts a gap into words that is the head; from then on it is a frame, which grows no more and is never dropped. Those
    /// behind it go on taking in what is dropped, or a client that takes nothing would have one for each look at it.
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

    /// Writes for at most one turn.
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
                // It has not been told.
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
                Entry::Gap(gap) => Some(Taken::Gap(gap.seqs)),
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

    /// Frames and bytes that wait, the price of their entries among the bytes.
    pub(crate) fn size(&self) -> (usize, usize) {
        (self.messages.frames + self.answers.frames, self.messages.bytes + self.answers.bytes)
    }

    /// The tick since which something waits, if it was seen by [`watch`](Self::watch).
    pub(crate) fn since(&self) -> Option<Tick> {
        self.since.map(|(since, _)| since)
    }

    /// Looks after the queue once a tick: for how many ticks nothing of it could be written.
    pub(crate) fn watch(&mut self, tick: Tick) -> u32 {
        let (_, progress) = self.since.get_or_insert((tick, tick));
        if std::mem::take(&mut self.progressed) {
            *progress = tick;
        }
        tick.since(*progress)
    }

    /// Why a connection ends whose queue takes no more, or does not move.
    pub(crate) fn overflow(&self, why: SlowReason) -> End {
        let fit = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        let (frames, bytes) = self.size();
        End::SlowConsumer { why, frames: fit(frames), bytes: fit(bytes) }
    }

    /// Why a connection ends that could not be written.
    pub(crate) fn end_for_error(&self, error: &io::Error) -> End {
        if error.get_ref().is_some_and(|inner| inner.is::<CodecPanicked>()) {
            return End::CodecPanicked;
        }
        self.end_for(error.kind())
    }

    /// Why a connection ends that failed while something waited. The kernel's time-out means that the client has taken
    /// nothing for `tcp_user_timeout`: it is slow, whether or not its host still answers.
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
mod tests {
    use std::cell::RefCell;
    use std::time::Duration;

    use proptest::prelude::*;

    use super::super::Slot;
    use super::super::batch::tests::{batch_of, topic};
    use super::super::stream::Stream;
    use super::*;
    use crate::wire::Peer;

    /// Every frame has ten bytes.
    const FRAME: &str = "0123456789";
    /// What an entry costs beside its bytes.
    const PRICE: usize = Entry::OVERHEAD_BYTES;

    fn terms(max_frames: usize, max_bytes: usize) -> Arc<Terms> {
        Arc::new(Terms {
            max_frames,
            max_bytes,
            patience: Duration::ZERO,
            ledger: Arc::default(),
            codecs: Arc::default(),
        })
    }

    fn subscription(terms: &Arc<Terms>, policy: SlowConsumer, tells: bool) -> Arc<Subscription> {
        let slot = Arc::new(Slot::local(1, terms));
        Arc::new(if tells { Subscription::local(slot, policy) } else { Subscription::of_connection(slot, policy) })
    }

    fn messages(subscription: &Arc<Subscription>, seqs: Range<u64>) -> Entry {
        let frames = vec![FRAME; (seqs.end - seqs.start) as usize];
        Entry::Messages(Messages::new(subscription, &Arc::new(batch_of(&frames, seqs.end)), seqs))
    }

    /// What waits, as numbers of messages, ranges of gaps and `None` for a frame of no topic.
    fn waiting(queue: &Queue) -> Vec<Option<(Range<u64>, bool)>> {
        let show = |entry: &Entry| match entry {
            Entry::Frame(_) => None,
            Entry::Messages(messages) => Some((messages.seqs.clone(), true)),
            Entry::Gap(gap) => Some((gap.seqs.clone(), false)),
        };
        queue.entries.iter().map(show).collect()
    }

    fn check_sums(queue: &Queue) {
        let (mut messages, mut answers) = (Load::default(), Load::default());
        for entry in &queue.entries {
            *if matches!(entry, Entry::Frame(_)) { &mut answers } else { &mut messages } += entry.load();
        }
        assert_eq!((queue.messages, queue.answers), (messages, answers));
    }

    #[test]
    fn what_was_written_in_part_stays_the_head_and_whole() {
        let terms = terms(4, 1_000);
        let subscription = subscription(&terms, SlowConsumer::DropOldest, true);
        let mut queue = Queue::new(&terms);
        queue.admit(messages(&subscription, 1..3)).unwrap();
        queue.admit(messages(&subscription, 3..5)).unwrap();
        queue.advance(3);
        assert_eq!(queue.size(), (4, 37 + 2 * PRICE));
        queue.admit(messages(&subscription, 5..6)).unwrap();
        assert_eq!(waiting(&queue), [Some((1..3, true)), Some((3..4, false)), Some((4..5, true)), Some((5..6, true))]);
        queue.advance(17);
        let gap_and_rest = [Some((3..4, false)), Some((4..5, true)), Some((5..6, true))];
        assert_eq!(waiting(&queue), gap_and_rest, "a gap waits until it is told");
        check_sums(&queue);
    }

    #[test]
    fn conflation_puts_the_latest_in_the_place_of_the_first_that_waited() {
        let terms = terms(4, 1_000);
        let quotes = subscription(&terms, SlowConsumer::Conflate, false);
        let other = subscription(&terms, SlowConsumer::Disconnect, false);
        let mut queue = Queue::new(&terms);
        queue.admit(messages(&quotes, 1..3)).unwrap();
        queue.admit(messages(&other, 1..2)).unwrap();
        queue.admit(messages(&quotes, 3..4)).unwrap();
        queue.admit(messages(&quotes, 4..6)).unwrap();
        assert_eq!(waiting(&queue), [Some((5..6, true)), Some((1..2, true))]);
        assert_eq!(terms.ledger.counts().conflated, 4);
        assert!(quotes.is_lossy(), "its client's count leads nowhere");
        check_sums(&queue);
    }

    #[test]
    fn conflation_leaves_the_latest_behind_every_gap_of_its_topic() {
        let terms = terms(4, 1_000);
        let quotes = subscription(&terms, SlowConsumer::Conflate, true);
        let mut queue = Queue::new(&terms);
        queue.admit(messages(&quotes, 1..5)).unwrap();
        queue.push_gap(&quotes, &topic(), Epoch::new(7), 5..7);
        queue.admit(messages(&quotes, 7..11)).unwrap();
        assert_eq!(waiting(&queue), [Some((1..5, false)), Some((5..10, false)), Some((10..11, true))]);
        check_sums(&queue);
    }

    #[test]
    fn a_conflated_topic_has_its_latest_message_in_the_queue_however_full_others_have_made_it() {
        let terms = terms(4, 1_000);
        let (busy, rare) =
            (subscription(&terms, SlowConsumer::Conflate, false), subscription(&terms, SlowConsumer::Conflate, false));
        let mut queue = Queue::new(&terms);
        queue.admit(messages(&busy, 1..5)).unwrap();
        queue.admit(messages(&rare, 1..2)).unwrap();
        assert_eq!(waiting(&queue), [Some((1..5, true)), Some((1..2, true))]);
        // What cannot be conflated finds the room that can be made.
        let other = subscription(&terms, SlowConsumer::Disconnect, false);
        queue.admit(messages(&other, 1..3)).unwrap();
        assert_eq!(waiting(&queue), [Some((4..5, true)), Some((1..2, true)), Some((1..3, true))]);
        check_sums(&queue);
    }

    #[test]
    fn of_a_batch_that_was_sent_in_part_only_the_message_that_was_begun_is_beyond_the_policy() {
        let terms = terms(3, 1_000);
        let subscription = subscription(&terms, SlowConsumer::Conflate, false);
        let mut queue = Queue::new(&terms);
        let Entry::Messages(mut rest) = messages(&subscription, 1..20) else { unreachable!("made of messages") };
        // Four are sent and half of the fifth.
        rest.advance(45);
        queue.admit_started(Entry::Messages(rest)).unwrap();
        assert_eq!(waiting(&queue), [Some((5..6, true)), Some((19..20, true))]);
        queue.admit(messages(&subscription, 20..22)).unwrap();
        assert_eq!(waiting(&queue), [Some((5..6, true)), Some((21..22, true))]);
        check_sums(&queue);
    }

    #[test]
    fn what_has_been_written_does_not_count() {
        let terms = terms(8, 1_000);
        let subscription = subscription(&terms, SlowConsumer::Disconnect, false);
        let mut queue = Queue::new(&terms);
        queue.admit(messages(&subscription, 1..21)).unwrap();
        queue.advance(199);
        assert_eq!(queue.size(), (1, 1 + PRICE));
        queue.admit(messages(&subscription, 21..28)).unwrap();
        check_sums(&queue);
    }

    #[test]
    fn a_message_never_stands_before_a_gap_that_comes_before_it() {
        let terms = terms(2, 1_000);
        let subscription = subscription(&terms, SlowConsumer::Conflate, true);
        let mut queue = Queue::new(&terms);
        queue.admit(messages(&subscription, 1..2)).unwrap();
        queue.push_gap(&subscription, &topic(), Epoch::new(7), 2..5);
        queue.admit(messages(&subscription, 5..6)).unwrap();
        queue.admit(messages(&subscription, 6..7)).unwrap();
        assert_eq!(waiting(&queue), [Some((1..2, false)), Some((2..6, false)), Some((6..7, true))]);
        check_sums(&queue);
    }

    #[test]
    fn answers_are_let_in_always_and_take_no_room_from_messages() {
        let terms = terms(2, 1_000);
        let subscription = subscription(&terms, SlowConsumer::Disconnect, true);
        let mut queue = Queue::new(&terms);
        let mut answers = 0;
        while !queue.holds_many_answers() {
            queue.admit(Entry::Frame(Bytes::from_static(b"ACK\x01"))).unwrap();
            answers += 1;
        }
        assert_eq!(answers, 1_000 / ANSWERS_SHARE / (4 + PRICE) + 1);
        queue.admit(messages(&subscription, 1..3)).unwrap();
        queue.admit(Entry::Frame(Bytes::from_static(b"ACK\x01"))).unwrap();
        check_sums(&queue);
        assert!(matches!(queue.admit(messages(&subscription, 3..4)), Err(End::SlowConsumer { .. })));
        // The client has taken two.
        queue.advance(8);
        assert!(!queue.holds_many_answers());
        check_sums(&queue);
    }

    #[test]
    fn a_batch_of_many_tiny_messages_takes_the_room_of_one_entry() {
        let terms = terms(usize::MAX, 10_000 + 2 * PRICE);
        let subscription = subscription(&terms, SlowConsumer::Disconnect, false);
        let mut queue = Queue::new(&terms);
        queue.admit(messages(&subscription, 1..1_000)).unwrap();
        queue.admit(messages(&subscription, 1_000..1_001)).unwrap();
        assert_eq!(queue.size(), (1_000, 10_000 + 2 * PRICE));
        assert!(queue.admit(messages(&subscription, 1_001..1_002)).is_err(), "each entry has its price");
    }

    #[test]
    fn one_message_that_is_larger_than_the_queue_may_wait_alone() {
        for policy in
            [SlowConsumer::Disconnect, SlowConsumer::DropOldest, SlowConsumer::DropNewest, SlowConsumer::Conflate]
        {
            let terms = terms(4, 5);
            let subscription = subscription(&terms, policy, true);
            let mut queue = Queue::new(&terms);
            queue.admit(messages(&subscription, 1..2)).unwrap();
            assert_eq!(waiting(&queue), [Some((1..2, true))], "{policy}");
        }
    }

    #[test]
    fn a_client_that_takes_nothing_has_the_newest_behind_one_gap_however_often_it_is_looked_after() {
        let terms = terms(4, 1_000);
        let subscription = subscription(&terms, SlowConsumer::DropOldest, true);
        let mut queue = Queue::new(&terms);
        // Written by its task alone, which is not here.
        let link = Link::from(Stream::new(Box::pin(tokio::io::empty()), Peer::Local));
        for number in 1..=100 {
            queue.admit(messages(&subscription, number..number + 1)).unwrap();
            assert_eq!(queue.write_to(&link).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        }
        let newest = [97, 98, 99, 100].map(|number| Some((number..number + 1, true)));
        // The first gap was the head, and put into words.
        assert_eq!(waiting(&queue), [&[None, Some((2..97, false))][..], &newest].concat());
        check_sums(&queue);
    }

    #[test]
    fn a_stall_is_counted_from_the_last_progress() {
        let terms = terms(4, 1_000);
        let subscription = subscription(&terms, SlowConsumer::Disconnect, false);
        let mut queue = Queue::new(&terms);
        queue.admit(messages(&subscription, 1..3)).unwrap();
        assert_eq!((queue.watch(Tick::new(10)), queue.watch(Tick::new(12))), (0, 2));
        queue.advance(1);
        assert_eq!((queue.watch(Tick::new(13)), queue.watch(Tick::new(15))), (0, 2));
        assert_eq!(queue.since(), Some(Tick::new(10)));
    }

    #[derive(Clone, Debug)]
    enum Step {
        Admit { whose: usize, frames: u64, sent: usize },
        Ack,
        Write(usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (0..3_usize, 1..6_u64, 0..60_usize).prop_map(|(whose, frames, sent)| Step::Admit { whose, frames, sent }),
            1 => Just(Step::Ack),
            3 => (0..60_usize).prop_map(Step::Write),
        ]
    }

    fn policy() -> impl Strategy<Value = SlowConsumer> {
        use SlowConsumer::{Conflate, Disconnect, DropNewest, DropOldest};
        prop::sample::select(vec![Disconnect, DropOldest, DropNewest, Conflate])
    }

    proptest! {
        /// Three subscriptions of any policies share a queue that is written out in pieces of any size.
        #[test]
        fn every_number_comes_out_once_and_in_order_as_a_message_or_in_a_gap(
            policies in prop::array::uniform3(policy()),
            max_frames in 1_usize..12,
            max_bytes in 10 + PRICE..600,
            steps in prop::collection::vec(step(), 1..60),
        ) {
            let terms = terms(max_frames, max_bytes);
            let subscriptions = policies.map(|policy| subscription(&terms, policy, true));
            let mut queue = Queue::new(&terms);
            // The number that must come out next, and the next to go in.
            let out = RefCell::new([1_u64; 3]);
            let mut next = [1_u64; 3];
            let mut acks = 0_i32;
            let whose = |subscription: &Arc<Subscription>| {
                subscriptions.iter().position(|other| Arc::ptr_eq(other, subscription)).unwrap()
            };
            let settle = |subscription: &Arc<Subscription>, seqs: &Range<u64>| {
                let whose = whose(subscription);
                let mut out = out.borrow_mut();
                assert_eq!(seqs.start, out[whose]);
                out[whose] = seqs.end;
            };
            let take = |entry: &Entry, acks: &mut i32| match entry {
                Entry::Frame(_) => *acks -= 1,
                Entry::Messages(Messages { subscription, seqs, .. }) => settle(subscription, seqs),
                Entry::Gap(gap) => settle(&gap.subscription, &gap.seqs),
            };
            for step in steps {
                match step {
                    Step::Admit { whose, frames, sent } => {
                        let seqs = next[whose]..next[whose] + frames;
                        next[whose] = seqs.end;
                        let (is_empty, had_messages) = (queue.is_empty(), queue.messages.frames > 0);
                        let entry = messages(&subscriptions[whose], seqs);
                        let admitted = match entry {
                            // A part of it has been sent at once.
                            Entry::Messages(mut entry) if is_empty && sent > 0 => {
                                let sent = sent.min(entry.end() - 1);
                                entry.advance(sent);
                                let first = entry.seqs.start;
                                out.borrow_mut()[whose] = first;
                                queue.admit_started(Entry::Messages(entry))
                            }
                            entry => queue.admit(entry),
                        };
                        if let Err(end) = admitted {
                            prop_assert!(matches!(end, End::SlowConsumer { .. }), "{:?}", end);
                            prop_assert!(!is_empty && had_messages, "without messages a queue takes anything");
                            prop_assert_eq!(policies[whose], SlowConsumer::Disconnect, "no other ends a client");
                            return Ok(());
                        }
                    }
                    Step::Ack => {
                        prop_assert!(queue.admit(Entry::Frame(Bytes::from_static(b"ACK\x01"))).is_ok());
                        acks += 1;
                    }
                    Step::Write(bytes) => {
                        if let Some(Entry::Gap(_)) = queue.entries.front() {
                            take(&queue.remove(0), &mut acks);
                        }
                        let told = queue.entries.iter().take_while(|entry| !matches!(entry, Entry::Gap(_)));
                        let bytes = bytes.min(told.map(|entry| entry.unwritten().len()).sum());
                        let before: Vec<Entry> = queue
                            .entries
                            .iter()
                            .map(|entry| match entry {
                                Entry::Frame(frame) => Entry::Frame(frame.clone()),
                                Entry::Messages(messages) => Entry::Messages(messages.clone()),
                                Entry::Gap(gap) => {
                                    Entry::gap(&gap.subscription, &gap.topic, gap.epoch, gap.seqs.clone())
                                }
                            })
                            .collect();
                        queue.advance(bytes);
                        let popped = before.len() - queue.entries.len();
                        before[..popped].iter().for_each(|entry| take(entry, &mut acks));
                        // Of the entry that is the head now, some may have been written.
                        if let (Some(Entry::Messages(head)), Entry::Messages(was)) =
                            (queue.entries.front(), before.get(popped).unwrap_or(&Entry::Frame(Bytes::new())))
                        {
                            let mut out = out.borrow_mut();
                            assert_eq!(was.seqs.start, out[whose(&head.subscription)]);
                            out[whose(&head.subscription)] = head.seqs.start;
                        }
                    }
                }
                check_sums(&queue);
                let first = queue.entries.iter().find(|entry| matches!(entry, Entry::Messages(_)));
                let first = first.map_or_else(Load::default, Entry::load);
                // One message of each conflated subscription is let in beyond the limits, and behind a first entry of any
                // size.
                let conflated = policies.iter().filter(|policy| **policy == SlowConsumer::Conflate).count();
                let within = queue.messages.frames - first.frames <= max_frames + conflated
                    && queue.messages.bytes - first.bytes <= max_bytes + (10 + PRICE) * conflated;
                prop_assert!(within, "{:?}", queue.messages);
                // Gaps are joined, or a client that never reads would have one for each message it lost.
                prop_assert!(queue.entries.len() <= 2 * queue.size().0 + subscriptions.len());
            }
            for entry in &queue.entries {
                take(entry, &mut acks);
            }
            prop_assert_eq!((out.into_inner(), acks), (next, 0));
            drop(queue);
            drop(subscriptions);
            prop_assert_eq!(terms.ledger.bytes(), 0);
        }
    }
}
