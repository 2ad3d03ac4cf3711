//! The latest messages of a topic, kept for clients that resume and as the history of the namespace.
//!
//! The ring refers to the batches that were handed out, so keeping a message costs no copy. The ring has limits in
//! messages, bytes and age. For readers the limits are exact; memory is freed batch by batch. The limits are those of
//! resuming, or those of the namespace's history if the history is on and larger.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use crate::delivery::Batch;
use crate::ground::clock::Tick;

/// How much a ring keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Keep {
    pub(crate) messages: usize,
    pub(crate) bytes: usize,
    /// In ticks since the message was numbered.
    pub(crate) age: u32,
}

impl Keep {
    /// The larger of each limit.
    pub(crate) fn max(self, other: Self) -> Self {
        Self {
            messages: self.messages.max(other.messages),
            bytes: self.bytes.max(other.bytes),
            age: self.age.max(other.age),
        }
    }

    /// The limits while memory is short.
    pub(crate) fn under_pressure(self, pressure: u32) -> Self {
        Self { messages: self.messages >> pressure, bytes: self.bytes >> pressure, age: self.age }
    }
}

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Ring {
    /// The numbers `first_seq..end` without a hole, and perhaps some numbers before `first_seq`, which count as gone.
    batches: VecDeque<Arc<Batch>>,
    /// At most `end`.
    first_seq: u64,
    end: u64,
    /// The sum over the frames from `first_seq` on.
    bytes: usize,
    /// When the first of the batches was sealed. A copy, because that batch is the one longest out of the CPU's caches.
    oldest: Tick,
    /// The pass of the last batch that was let go; `None` if that batch had not been handed out.
    gone: Option<u64>,
}

impl Ring {
    /// An empty ring whose first message will have this number. Earlier messages may have been handed out up to the
    /// pass `gone`.
    pub(crate) fn new(next_seq: u64, gone: u64) -> Self {
        Self {
            batches: VecDeque::new(),
            first_seq: next_seq,
            end: next_seq,
            bytes: 0,
            oldest: Tick::new(0),
            gone: Some(gone),
        }
    }

    /// The first kept number; the number of the next message if the ring is empty.
    pub(crate) fn first_seq(&self) -> u64 {
        self.first_seq
    }

    /// The number after the last message.
    pub(crate) fn end(&self) -> u64 {
        self.end
    }

    /// How many messages are kept.
    pub(crate) fn len(&self) -> usize {
        (self.end - self.first_seq) as usize
    }

    /// Bytes of the kept batches in the ledger's account.
    pub(crate) fn accounted_bytes(&self) -> usize {
        self.batches.iter().map(|batch| batch.accounted_bytes()).sum()
    }

    pub(crate) fn push(&mut self, batch: &Arc<Batch>, keep: &Keep) {
        debug_assert_eq!(batch.first_seq(), self.end);
        self.end = batch.last_seq() + 1;
        self.bytes += batch.byte_len();
        if self.batches.is_empty() {
            self.oldest = batch.tick;
        }
        self.batches.push_back(Arc::clone(batch));
        self.trim(keep, batch.tick);
    }

    /// Puts messages before the first, and lets go of messages over a limit. The messages must be without a hole, and the last
    /// must come right before the first kept message; otherwise nothing is changed, and the answer is false.
    ///
    /// `latest` is the pass of the last batch that was handed out.
    pub(crate) fn prepend(&mut self, earlier: Vec<Arc<Batch>>, keep: &Keep, tick: Tick, latest: u64) -> bool {
        let Some(first) = earlier.first() else { return true };
        let is_whole = self.batches.front().is_none_or(|front| front.first_seq() == self.first_seq);
        if !is_whole || earlier.last().is_some_and(|last| last.last_seq() + 1 != self.first_seq) {
            return false;
        }
        // As messages that were handed out before the ring began: a client with that pass or a later one has had them.
        let pass = self.gone.unwrap_or(latest);
        earlier.iter().for_each(|batch| batch.note_handed_out_by(pass));
        self.first_seq = first.first_seq();
        self.oldest = first.tick;
        self.bytes += earlier.iter().map(|batch| batch.byte_len()).sum::<usize>();
        for batch in earlier.into_iter().rev() {
            self.batches.push_front(batch);
        }
        self.trim(keep, tick);
        true
    }

    /// Lets go of all messages over a limit. Returns how many messages.
    pub(crate) fn trim(&mut self, keep: &Keep, tick: Tick) -> usize {
        let is_within = self.len() <= keep.messages && self.bytes <= keep.bytes;
        if is_within && !self.batches.is_empty() && !is_older(self.oldest, keep.age, tick) {
            return 0;
        }
        let before = self.first_seq;
        while let Some(front) = self.batches.front() {
            let old = is_older(front.tick, keep.age, tick);
            let over = self.len().saturating_sub(keep.messages) as u64;
            let rest = front.last_seq() + 1 - self.first_seq;
            let rest_bytes = front.byte_len() - front.start_of(self.first_seq);
            if old || over >= rest || self.bytes - rest_bytes >= keep.bytes.max(1) {
                self.first_seq = front.last_seq() + 1;
                self.bytes -= rest_bytes;
                self.pop_front();
                continue;
            }
            // Most of the time the limit falls into this batch.
            let mut first_seq = self.first_seq + over;
            let excess = |seq| self.bytes - (front.start_of(seq) - front.start_of(self.first_seq)) > keep.bytes;
            while excess(first_seq) {
                first_seq += 1;
            }
            self.bytes -= front.start_of(first_seq) - front.start_of(self.first_seq);
            self.first_seq = first_seq;
            if first_seq > front.last_seq() {
                self.pop_front();
                continue;
            }
            break;
        }
        if self.batches.is_empty() {
            self.first_seq = self.end;
            // An idle topic must not pay for its busiest time.
            self.batches = VecDeque::new();
        }
        (self.first_seq - before) as usize
    }

    fn pop_front(&mut self) {
        if let Some(batch) = self.batches.pop_front() {
            self.gone = batch.pass();
        }
        if let Some(front) = self.batches.front() {
            self.oldest = front.tick;
        }
    }

    /// The first number within narrower limits.
    pub(crate) fn first_within(&self, keep: &Keep, tick: Tick) -> u64 {
        let mut room = keep.bytes;
        let mut first = self.end;
        for batch in self.batches.iter().rev() {
            if is_older(batch.tick, keep.age, tick) {
                break;
            }
            while first > batch.first_seq().max(self.first_seq) && ((self.end - first) as usize) < keep.messages {
                let length = batch.range(first - 1..first).len();
                if length > room {
                    return first;
                }
                room -= length;
                first -= 1;
            }
            if first > batch.first_seq() {
                break;
            }
        }
        first
    }

    /// Forgets everything, and is as [`new`](Self::new).
    pub(crate) fn clear(&mut self, next_seq: u64, gone: u64) {
        *self = Self::new(next_seq, gone);
    }

    /// The first number of a pass later than `pass`, or of a pass to come; `None` if that message is no longer kept.
    /// `latest` is the pass of the last batch that was handed out.
    pub(crate) fn first_after(&self, pass: u64, latest: u64) -> Option<u64> {
        if self.gone.unwrap_or(latest) > pass {
            return None;
        }
        let at = self.batches.partition_point(|batch| !batch.is_after(pass));
        let first = self.batches.get(at).map_or(self.end, |batch| batch.first_seq());
        // Only a part of the first batch may be left.
        (at > 0 || first >= self.first_seq).then_some(first)
    }

    /// The first kept number whose pass began, or will begin, after all passes up to `pass` had ended.
    pub(crate) fn first_following(&self, pass: u64) -> u64 {
        let at = self.batches.partition_point(|batch| !batch.follows(pass));
        self.batches.get(at).map_or(self.end, |batch| batch.first_seq().max(self.first_seq))
    }

    /// The batch with this number.
    pub(crate) fn batch_with(&self, seq: u64) -> Option<&Arc<Batch>> {
        let at = self.batches.partition_point(|batch| batch.last_seq() < seq);
        self.batches.get(at).filter(|batch| batch.first_seq() <= seq && self.first_seq <= seq)
    }

    /// The kept messages of these numbers, batch by batch, up to `max_bytes` but at least one message.
    pub(crate) fn portion(&self, seqs: Range<u64>, max_bytes: usize) -> Vec<(Arc<Batch>, Range<u64>)> {
        let mut portion = Vec::new();
        let mut room = max_bytes;
        let seqs = seqs.start.max(self.first_seq)..seqs.end.min(self.end);
        let skipped = self.batches.partition_point(|batch| batch.last_seq() < seqs.start);
        for batch in self.batches.range(skipped..) {
            let start = seqs.start.max(batch.first_seq());
            let mut end = seqs.end.min(batch.last_seq() + 1);
            if start >= end {
                break;
            }
            while batch.range(start..end).len() > room && (end > start + 1 || !portion.is_empty()) {
                end -= 1;
                if end == start {
                    return portion;
                }
            }
            room = room.saturating_sub(batch.range(start..end).len());
            let is_whole = end == seqs.end.min(batch.last_seq() + 1);
            portion.push((Arc::clone(batch), start..end));
            if !is_whole || room == 0 {
                break;
            }
        }
        portion
    }

    /// Whether the batches agree with the limits of the ring, for the successor of a crashed topic.
    pub(crate) fn is_consistent(&self) -> bool {
        let mut next = self.batches.front().map_or(self.end, |batch| batch.first_seq());
        for batch in &self.batches {
            if batch.first_seq() != next {
                return false;
            }
            next = batch.last_seq() + 1;
        }
        next == self.end && self.first_seq <= self.end
    }
}

/// Compares by distance: the caller may have read the clock before the batch was sealed, and such a batch is not old.
fn is_older(sealed: Tick, age: u32, tick: Tick) -> bool {
    i64::from(tick.distance(sealed)) > i64::from(age)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::delivery::PassNumbers;
    use crate::delivery::batch::tests::batch_of;

    const PLENTY: Keep = Keep { messages: 1_000, bytes: 1 << 20, age: 1_000 };

    fn ring_of(batches: &[usize], keep: &Keep) -> Ring {
        let mut ring = Ring::new(1, 0);
        for &frames in batches {
            let end = ring.end() + frames as u64;
            ring.push(&Arc::new(batch_of(&vec!["0123456789"; frames], end)), keep);
        }
        ring
    }

    fn numbers(portion: &[(Arc<Batch>, Range<u64>)]) -> Vec<u64> {
        portion.iter().flat_map(|(_, seqs)| seqs.clone()).collect()
    }

    #[test]
    fn a_limit_of_messages_holds_exactly_within_a_batch() {
        let ring = ring_of(&[3, 4], &Keep { messages: 5, ..PLENTY });
        assert_eq!((ring.first_seq(), ring.end(), ring.len()), (3, 8, 5));
        assert_eq!(numbers(&ring.portion(0..u64::MAX, 1_000)), [3, 4, 5, 6, 7]);
    }

    #[test]
    fn a_limit_of_bytes_holds_exactly_within_a_batch() {
        let ring = ring_of(&[3, 4], &Keep { bytes: 45, ..PLENTY });
        assert_eq!(numbers(&ring.portion(0..u64::MAX, 1_000)), [4, 5, 6, 7]);
    }

    #[test]
    fn old_messages_are_gone_and_the_position_after_them_is_known() {
        let mut ring = ring_of(&[3], &PLENTY);
        assert_eq!(ring.trim(&Keep { age: 10, ..PLENTY }, Tick::new(11)), 0);
        assert_eq!(ring.trim(&Keep { age: 10, ..PLENTY }, Tick::new(12)), 3);
        assert_eq!((ring.first_seq(), ring.end(), ring.len()), (4, 4, 0));
    }

    #[test]
    fn a_reader_whose_clock_is_behind_finds_new_messages() {
        let mut ring = ring_of(&[3], &PLENTY);
        let keep = Keep { age: 10, ..PLENTY };
        // The batches are of tick 1.
        assert_eq!(ring.trim(&keep, Tick::new(0)), 0);
        assert_eq!(ring.first_within(&keep, Tick::new(0)), 1);
        assert_eq!(ring.trim(&keep, Tick::new(u32::MAX)), 0);
    }

    #[test]
    fn a_ring_that_keeps_nothing_still_knows_its_place() {
        let ring = ring_of(&[3, 2], &Keep { messages: 0, bytes: 0, age: 0 });
        assert_eq!((ring.first_seq(), ring.end()), (6, 6));
    }

    #[test]
    fn messages_after_a_pass_are_known_while_all_of_them_are_kept() {
        let pass_numbers = Arc::default();
        let mut ring = Ring::new(1, 1);
        let mut passes = Vec::new();
        for end in [3, 5, 7] {
            let batch = Arc::new(batch_of(&["0123456789"; 2], end));
            ring.push(&batch, &PLENTY);
            let pass = PassNumbers::begin(&pass_numbers);
            batch.begin(&pass);
            passes.push(pass.number);
        }
        ring.push(&Arc::new(batch_of(&["0123456789"; 2], 9)), &PLENTY);
        let [first, second, third] = passes[..] else { panic!("three passes") };
        let after = |ring: &Ring, pass| ring.first_after(pass, third);
        assert_eq!(after(&ring, 0), None, "something may have been handed out before the first");
        assert_eq!([1, first, second, third].map(|pass| after(&ring, pass)), [Some(1), Some(3), Some(5), Some(7)]);
        ring.trim(&Keep { messages: 5, ..PLENTY }, Tick::new(1));
        assert_eq!([first, second].map(|pass| after(&ring, pass)), [None, Some(5)], "a part of 3 and 4 is gone");
        ring.trim(&Keep { messages: 0, ..PLENTY }, Tick::new(1));
        assert_eq!([second, third].map(|pass| after(&ring, pass)), [None, Some(9)]);
    }

    #[test]
    fn a_portion_is_as_long_as_allowed_and_at_least_one_message() {
        let ring = ring_of(&[3, 4], &PLENTY);
        assert_eq!(numbers(&ring.portion(2..7, 30)), [2, 3, 4]);
        assert_eq!(numbers(&ring.portion(2..7, 5)), [2]);
        assert_eq!(numbers(&ring.portion(5..5, 1_000)), [0; 0]);
        assert_eq!(numbers(&ring.portion(7..100, 1_000)), [7]);
    }

    proptest! {
        #[test]
        fn a_ring_keeps_the_newest_within_its_limits(
            batches in prop::collection::vec(1_usize..6, 0..12),
            messages in 0_usize..20,
            bytes in 0_usize..200,
            room in 0_usize..100,
        ) {
            let ring = ring_of(&batches, &Keep { messages, bytes, ..PLENTY });
            let all: usize = batches.iter().sum();
            // Every frame has ten bytes.
            let kept = all.min(messages).min(bytes / 10);
            prop_assert_eq!(ring.len(), kept);
            prop_assert!(ring.is_consistent());
            let whole = ring_of(&batches, &PLENTY);
            prop_assert_eq!(whole.first_within(&Keep { messages, bytes, ..PLENTY }, Tick::new(1)), ring.first_seq());
            let mut from = ring.first_seq();
            let mut read = Vec::new();
            while from < ring.end() {
                let portion = numbers(&ring.portion(from..ring.end(), room));
                prop_assert!(!portion.is_empty() && (portion.len() == 1 || portion.len() * 10 <= room));
                from = portion.last().unwrap() + 1;
                read.extend(portion);
            }
            prop_assert_eq!(read, ((all - kept) as u64 + 1..=all as u64).collect::<Vec<_>>());
        }
    }
}
