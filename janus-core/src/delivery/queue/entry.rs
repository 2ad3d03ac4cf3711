//! The entries of a [`Queue`](super::Queue), and the room that each takes.
//!
//! An entry refers to frames of a batch, shared by all subscribers. Successive messages of a batch are a single entry.

use std::ops::{AddAssign, Range, SubAssign};
use std::sync::Arc;

use bytes::Bytes;

use crate::delivery::batch::View;
use crate::delivery::{Batch, Subscription};
use crate::wire::{Epoch, TopicName};

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
    pub(super) subscription: Arc<Subscription>,
    pub(super) topic: TopicName,
    pub(super) epoch: Epoch,
    pub(super) seqs: Range<u64>,
}

/// Successive messages of a batch.
#[derive(Clone, Debug)]
pub(crate) struct Messages {
    pub(crate) subscription: Arc<Subscription>,
    pub(crate) batch: Arc<Batch>,
    /// Not empty, and within the batch.
    pub(crate) seqs: Range<u64>,
    /// The first unwritten byte, as an index into the batch's bytes.
    pub(crate) start: usize,
}

impl Messages {
    pub(crate) fn new(subscription: &Arc<Subscription>, batch: &Arc<Batch>, seqs: Range<u64>) -> Self {
        let start = batch.view(subscription.codec(), subscription.slot.codecs()).start_of(seqs.start);
        Self { subscription: Arc::clone(subscription), batch: Arc::clone(batch), seqs, start }
    }

    /// The batch in this client's codec.
    pub(crate) fn view(&self) -> View<'_> {
        self.batch.view(self.subscription.codec(), self.subscription.slot.codecs())
    }

    pub(super) fn frames(&self) -> usize {
        (self.seqs.end - self.seqs.start) as usize
    }

    pub(super) fn end(&self) -> usize {
        self.view().start_of(self.seqs.end)
    }

    pub(super) fn load(&self) -> Load {
        Load { frames: self.frames(), bytes: Entry::OVERHEAD_BYTES + self.end() - self.start }
    }

    /// Whether a part of the first message has been written.
    pub(super) fn is_started(&self) -> bool {
        self.start > self.view().start_of(self.seqs.start)
    }

    /// Notes written bytes, and lets go of the completely written messages. Returns their number. The last message
    /// stays, even without a byte left.
    pub(crate) fn advance(&mut self, written: usize) -> usize {
        self.start += written;
        let before = self.seqs.start;
        while self.seqs.start + 1 < self.seqs.end && self.view().start_of(self.seqs.start + 1) <= self.start {
            self.seqs.start += 1;
        }
        (self.seqs.start - before) as usize
    }

    /// Cuts off the first `count` messages; their numbers.
    pub(super) fn drop_first(&mut self, count: usize) -> Range<u64> {
        let dropped = self.seqs.start..self.seqs.start + count as u64;
        self.seqs.start = dropped.end;
        self.start = self.view().start_of(dropped.end);
        dropped
    }

    /// The room for the messages from number `from` on.
    pub(super) fn load_from(&self, from: u64) -> Load {
        let bytes = self.end() - self.view().start_of(from);
        Load { frames: (self.seqs.end - from) as usize, bytes: Entry::OVERHEAD_BYTES + bytes }
    }

    /// How many of the messages fit into so much room, counted from the first.
    pub(super) fn fitting(&self, room: Load) -> usize {
        let load_to = |seq: u64| {
            let bytes = self.view().start_of(seq) - self.view().start_of(self.seqs.start);
            Load { frames: (seq - self.seqs.start) as usize, bytes: Entry::OVERHEAD_BYTES + bytes }
        };
        (self.seqs.start + 1..=self.seqs.end).take_while(|&seq| load_to(seq).fits(room)).count()
    }
}

/// Frames, and bytes with the price of their entries: a load, or the room for a load.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Load {
    pub(super) frames: usize,
    pub(super) bytes: usize,
}

impl Load {
    pub(super) fn fits(self, room: Self) -> bool {
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

/// An item for the consumer of a queue in this process.
#[derive(Debug)]
pub(crate) enum Taken {
    Message {
        batch: Arc<Batch>,
        seq: u64,
    },
    /// The epoch is that of the numbers behind the gap.
    Gap {
        epoch: Epoch,
        seqs: Range<u64>,
    },
}

impl Entry {
    pub(super) fn gap(subscription: &Arc<Subscription>, topic: &TopicName, epoch: Epoch, seqs: Range<u64>) -> Self {
        Self::Gap(Box::new(Gap { subscription: Arc::clone(subscription), topic: topic.clone(), epoch, seqs }))
    }

    /// The price of an entry, in addition to its frames.
    pub(super) const OVERHEAD_BYTES: usize = size_of::<Self>() + 16;

    /// The room of the entry. A gap takes none: it replaces messages that made room, and all gaps of a subscription
    /// between two messages are joined.
    pub(super) fn load(&self) -> Load {
        match self {
            Self::Frame(frame) => Load { frames: 1, bytes: Self::OVERHEAD_BYTES + frame.len() },
            Self::Messages(messages) => messages.load(),
            Self::Gap(_) => Load::default(),
        }
    }

    pub(super) fn unwritten(&self) -> &[u8] {
        match self {
            Self::Frame(frame) => frame,
            Self::Messages(messages) => &messages.view().bytes()[messages.start..messages.end()],
            Self::Gap(_) => &[],
        }
    }

    pub(super) fn accounted_bytes(&self) -> usize {
        match self {
            Self::Frame(frame) => Self::OVERHEAD_BYTES + frame.len(),
            Self::Messages(_) => Self::OVERHEAD_BYTES,
            Self::Gap(_) => Self::OVERHEAD_BYTES + size_of::<Gap>(),
        }
    }

    pub(super) fn is_of(&self, subscription: &Arc<Subscription>) -> bool {
        match self {
            Self::Frame(_) => false,
            Self::Messages(messages) => Arc::ptr_eq(subscription, &messages.subscription),
            Self::Gap(gap) => Arc::ptr_eq(subscription, &gap.subscription),
        }
    }
}
