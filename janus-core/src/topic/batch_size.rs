//! How large the batches of a topic may become while a pass is under way.

use super::inbox::Inbox;
use super::sequence::Sequence;
use crate::config::Config;
use crate::delivery::terms::QueueLimits;

/// The size at which a batch is sealed, if half as much waits for the next batch: a small rest joins the batch, because a
/// batch of its own would cost as many system calls as a full batch.
///
/// A batch costs a system call for each subscriber, some 5 µs, and 16 KiB more in a batch delay the first of the batch's
/// messages by the time to number 16 KiB, some 10 µs. So the batches of a single subscriber stay small: the subscriber works
/// on the first batch while the second is made. For many subscribers, fewer system calls are worth the delay.
///
/// The kernel doubles the size of a send buffer, so a batch with its small rest fits into an empty buffer. A batch that
/// does not fit is sent in two parts, the second by the subscriber's Transport.
///
/// A queue takes a batch as a whole, or its client is a slow consumer. So a batch larger than `coalesce_bytes` is at most a
/// quarter of the smallest queue, in bytes and in messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BatchSize {
    bytes: usize,
    /// With this many messages, `least` bytes are enough.
    frames: usize,
    least: usize,
}

impl BatchSize {
    /// For this many subscribers, whose smallest queue has these limits.
    pub(super) fn of(subscribers: usize, queue: QueueLimits, config: &Config) -> Self {
        let least = config.coalesce_bytes;
        let fits = config.send_buffer_bytes.min(queue.bytes / 4);
        let most = config.coalesce_max_bytes.min(fits).max(least);
        Self { bytes: least.saturating_mul(subscribers.max(1)).min(most), frames: queue.frames / 4, least }
    }

    /// Whether the open batch is full.
    #[inline]
    pub(super) fn is_full(&self, open: &Sequence) -> bool {
        let bytes = open.open_bytes();
        bytes >= self.bytes || bytes >= self.least && open.open_frames() >= self.frames
    }

    /// Whether the messages in the inbox are worth a batch of their own.
    #[inline]
    pub(super) fn is_worth_another(&self, inbox: &Inbox) -> bool {
        let bytes = inbox.unnumbered_bytes();
        bytes >= self.bytes / 2 || bytes >= self.least / 2 && inbox.unnumbered_frames() >= self.frames / 2
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NO_LIMIT: QueueLimits = QueueLimits { frames: usize::MAX, bytes: usize::MAX };

    #[test]
    fn batches_grow_with_the_subscribers_as_far_as_buffers_and_queues_allow() {
        let config = Config { coalesce_bytes: 10, coalesce_max_bytes: 100, ..Config::default() };
        let bytes = |subscribers: &[usize], queue, config: &Config| -> Vec<_> {
            subscribers.iter().map(|subscribers| BatchSize::of(*subscribers, queue, config).bytes).collect()
        };
        assert_eq!(bytes(&[0, 1, 3, 10, 1_000], NO_LIMIT, &config), [10, 10, 30, 100, 100]);
        assert_eq!(bytes(&[3, 1_000], NO_LIMIT, &Config { send_buffer_bytes: 50, ..config.clone() }), [30, 50]);
        assert_eq!(bytes(&[3, 1_000], QueueLimits { bytes: 200, ..NO_LIMIT }, &config), [30, 50]);
        let narrow = Config { coalesce_bytes: 500, ..config };
        assert_eq!(bytes(&[1_000], NO_LIMIT, &narrow), [500], "the operator's word for each subscriber");
    }
}
