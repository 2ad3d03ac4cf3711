//! Frames of one topic that travel together: encoded once, sent to each subscriber in one system call.
//!
//! Coalescing is nearly all of the throughput to small topics: the price of a delivery is the system call, not the
//! bytes. A batch therefore takes in what is published until it is sealed, which happens when a pass takes it or when
//! it is large enough. A sealed batch lives on in the topic's ring and in the queues of clients that lag.

use std::ops::Range;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::Ledger;

/// Sealed frames with dense sequence numbers.
#[derive(Debug)]
pub(crate) struct Batch {
    first_seq: u64,
    bytes: Bytes,
    /// Where each frame ends in `bytes`; never empty, and the last one is `bytes.len()`.
    ends: Vec<u32>,
    /// Of the topic when the frames were numbered.
    pub(crate) epoch: u64,
    /// When the batch was sealed.
    pub(crate) tick: u32,
    ledger: Arc<Ledger>,
}

impl Batch {
    /// What a batch takes beside its frames and their ends.
    const OVERHEAD_BYTES: usize = 160;

    pub(crate) fn first_seq(&self) -> u64 {
        self.first_seq
    }

    pub(crate) fn last_seq(&self) -> u64 {
        self.first_seq + self.ends.len() as u64 - 1
    }

    pub(crate) fn frames(&self) -> usize {
        self.ends.len()
    }

    pub(crate) fn byte_len(&self) -> usize {
        self.bytes.len()
    }

    /// Where the frame with this number begins in [`bytes`](Self::bytes): at the beginning for one before the batch, at the
    /// end for one after it. A subscriber that joined in the middle of the batch gets what begins there.
    pub(crate) fn start_of(&self, seq: u64) -> usize {
        match seq.saturating_sub(self.first_seq) {
            0 => 0,
            skipped => self.ends[(skipped as usize).min(self.ends.len()) - 1] as usize,
        }
    }

    /// Where the frames with these numbers lie in [`bytes`](Self::bytes).
    pub(crate) fn range(&self, seqs: Range<u64>) -> Range<usize> {
        self.start_of(seqs.start)..self.start_of(seqs.end)
    }

    fn accounted_bytes(&self) -> usize {
        self.bytes.len() + self.ends.len() * size_of::<u32>() + Self::OVERHEAD_BYTES
    }

    pub(crate) fn bytes(&self) -> &Bytes {
        &self.bytes
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        self.ledger.remove_frames(self.accounted_bytes());
    }
}

/// A batch that still takes frames.
///
/// Its commit point is [`commit`](Self::commit): what was encoded but not committed when a topic crashed is cut off
/// by [`truncate_uncommitted`](Self::truncate_uncommitted) and never sent.
#[derive(Debug, Default)]
pub(crate) struct OpenBatch {
    bytes: BytesMut,
    ends: Vec<u32>,
}

impl OpenBatch {
    /// Where the next frame is encoded.
    pub(crate) fn buffer(&mut self) -> &mut BytesMut {
        &mut self.bytes
    }

    /// Makes what was encoded since the last commit a frame of this batch; returns its length.
    pub(crate) fn commit(&mut self) -> usize {
        let start = self.committed_len();
        self.ends.push(u32::try_from(self.bytes.len()).expect("a batch is sealed long before 4 GiB"));
        self.bytes.len() - start
    }

    pub(crate) fn truncate_uncommitted(&mut self) {
        self.bytes.truncate(self.committed_len());
    }

    pub(crate) fn committed_len(&self) -> usize {
        self.ends.last().map_or(0, |&end| end as usize)
    }

    pub(crate) fn frames(&self) -> usize {
        self.ends.len()
    }

    /// Ends the batch; `next_seq` is the number the next committed frame would have got.
    pub(crate) fn seal(&mut self, next_seq: u64, epoch: u64, tick: u32, ledger: &Arc<Ledger>) -> Batch {
        let ends = std::mem::take(&mut self.ends);
        let first_seq = next_seq - ends.len() as u64;
        let bytes = self.bytes.split().freeze();
        let batch = Batch { first_seq, bytes, ends, epoch, tick, ledger: Arc::clone(ledger) };
        ledger.add_frames(batch.accounted_bytes());
        batch
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn batch_of(frames: &[&str], next_seq: u64) -> Batch {
        let mut open = OpenBatch::default();
        for frame in frames {
            open.buffer().extend_from_slice(frame.as_bytes());
            open.commit();
        }
        open.seal(next_seq, 7, 1, &Arc::default())
    }

    #[test]
    fn a_subscriber_that_joined_in_the_middle_gets_the_rest() {
        let batch = batch_of(&["one", "two", "three"], 13);
        assert_eq!(batch.last_seq(), 12);
        assert_eq!(batch.start_of(0), 0);
        assert_eq!(batch.start_of(10), 0);
        assert_eq!(batch.start_of(11), 3);
        assert_eq!(batch.start_of(12), 6);
        assert_eq!(batch.start_of(13), 11);
        assert_eq!(batch.range(11..12), 3..6);
    }

    #[test]
    fn a_batch_is_accounted_for_until_the_last_of_its_holders_lets_go() {
        let ledger = Arc::new(Ledger::default());
        let mut open = OpenBatch::default();
        open.buffer().extend_from_slice(&[b'x'; 1_000]);
        open.commit();
        let batch = Arc::new(open.seal(2, 7, 1, &ledger));
        let held = Arc::clone(&batch);
        drop(batch);
        assert!(ledger.bytes() >= 1_000);
        drop(held);
        assert_eq!(ledger.bytes(), 0);
    }

    #[test]
    fn what_was_not_committed_is_never_sent() {
        let mut open = OpenBatch::default();
        open.buffer().extend_from_slice(b"whole");
        open.commit();
        open.buffer().extend_from_slice(b"half");
        open.truncate_uncommitted();
        let batch = open.seal(2, 7, 1, &Arc::default());
        assert_eq!(&batch.bytes()[..], b"whole");
        assert_eq!(batch.frames(), 1);
    }
}
