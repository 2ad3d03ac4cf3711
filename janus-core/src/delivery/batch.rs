//! Frames of one topic that travel together: encoded once, sent to each subscriber in one system call.
//!
//! Coalescing is nearly all of the throughput to small topics: the price of a delivery is the system call, not the
//! bytes. A batch therefore takes in what is published until it is sealed, which happens when a pass takes it or when
//! it is large enough.

use bytes::{Bytes, BytesMut};

/// Sealed frames with dense sequence numbers.
#[derive(Debug)]
pub(crate) struct Batch {
    first_seq: u64,
    bytes: Bytes,
    /// Where each frame ends in `bytes`; never empty, and the last one is `bytes.len()`.
    ends: Vec<u32>,
}

impl Batch {
    pub(crate) fn last_seq(&self) -> u64 {
        self.first_seq + self.ends.len() as u64 - 1
    }

    pub(crate) fn frames(&self) -> usize {
        self.ends.len()
    }

    pub(crate) fn byte_len(&self) -> usize {
        self.bytes.len()
    }

    /// The frames from sequence number `from` on: where they begin in [`bytes`](Self::bytes), and how many they are.
    /// A subscriber that joined in the middle of the batch gets only those.
    pub(crate) fn since(&self, from: u64) -> (usize, u32) {
        let skipped = from.saturating_sub(self.first_seq).min(self.ends.len() as u64) as usize;
        let start = if skipped == 0 { 0 } else { self.ends[skipped - 1] as usize };
        (start, (self.ends.len() - skipped) as u32)
    }

    pub(crate) fn bytes(&self) -> &Bytes {
        &self.bytes
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
    pub(crate) fn seal(&mut self, next_seq: u64) -> Batch {
        let ends = std::mem::take(&mut self.ends);
        Batch { first_seq: next_seq - ends.len() as u64, bytes: self.bytes.split().freeze(), ends }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch_of(frames: &[&str], next_seq: u64) -> Batch {
        let mut open = OpenBatch::default();
        for frame in frames {
            open.buffer().extend_from_slice(frame.as_bytes());
            open.commit();
        }
        open.seal(next_seq)
    }

    #[test]
    fn a_subscriber_that_joined_in_the_middle_gets_the_rest() {
        let batch = batch_of(&["one", "two", "three"], 13);
        assert_eq!(batch.last_seq(), 12);
        assert_eq!(batch.since(0), (0, 3));
        assert_eq!(batch.since(10), (0, 3));
        assert_eq!(batch.since(11), (3, 2));
        assert_eq!(batch.since(12), (6, 1));
        assert_eq!(batch.since(13), (11, 0));
    }

    #[test]
    fn what_was_not_committed_is_never_sent() {
        let mut open = OpenBatch::default();
        open.buffer().extend_from_slice(b"whole");
        open.commit();
        open.buffer().extend_from_slice(b"half");
        open.truncate_uncommitted();
        let batch = open.seal(2);
        assert_eq!(&batch.bytes()[..], b"whole");
        assert_eq!(batch.frames(), 1);
    }
}
