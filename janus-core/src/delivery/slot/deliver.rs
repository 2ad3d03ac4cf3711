//! The delivery of a batch to one subscriber.
//!
//! The steps are the same for a send of its own and for a send in a [`volley`](super::volley): the bytes are
//! determined, the kernel is offered them, and the outcome is noted. All of it under the slot's lock.

use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;

use super::{Messages, Out, Slot, Subscription};
use crate::delivery::Batch;
use crate::delivery::pass::Delivered;
use crate::delivery::queue::Entry;
use crate::ground::clock::Tick;

/// The messages of a batch that a subscriber has not been sent.
#[derive(Debug)]
pub(super) struct Unsent<'a> {
    subscription: &'a Arc<Subscription>,
    batch: &'a Arc<Batch>,
    tick: Tick,
    /// The whole batch, in the subscriber's codec.
    pub(super) batch_bytes: &'a Bytes,
    /// Where the unsent messages begin.
    pub(super) start: usize,
    seqs: Range<u64>,
}

impl Unsent<'_> {
    fn bytes(&self) -> &[u8] {
        &self.batch_bytes[self.start..]
    }
}

impl Slot {
    /// Sends the unsent messages of `batch` to `subscription`, a subscription of this slot.
    ///
    /// Serving the same batch twice sends it once: the subscription's `next_seq` marks served subscribers, and changes
    /// under the slot's lock together with the send. Returns what has been sent or queued.
    pub(crate) fn deliver(&self, subscription: &Arc<Subscription>, batch: &Arc<Batch>, tick: Tick) -> Delivered {
        let mut out = self.out.lock();
        match self.unsent(subscription, batch, tick) {
            Some(unsent) => self.deliver_locked(&mut out, &unsent),
            None => Delivered::default(),
        }
    }

    /// What `subscription` has not been sent of `batch`; `None` if nothing is left. The slot must be locked, and remain
    /// locked until the messages are delivered.
    #[inline]
    pub(super) fn unsent<'a>(
        &self,
        subscription: &'a Arc<Subscription>,
        batch: &'a Arc<Batch>,
        tick: Tick,
    ) -> Option<Unsent<'a>> {
        let next_seq = subscription.next_seq.load(Ordering::Relaxed);
        let end = batch.last_seq() + 1;
        if next_seq >= end {
            return None;
        }
        let view = batch.view(subscription.codec(), &self.terms.codecs);
        let seqs = next_seq.max(batch.first_seq())..end;
        Some(Unsent { subscription, batch, tick, batch_bytes: view.bytes(), start: view.start_of(next_seq), seqs })
    }

    #[inline]
    pub(super) fn deliver_locked(&self, out: &mut Out, unsent: &Unsent<'_>) -> Delivered {
        let sent = self.send_now(out, unsent.bytes());
        self.conclude(out, unsent, sent)
    }

    /// Concludes a delivery whose send on the [open link](Out::open_link) has been made elsewhere.
    #[cfg(target_os = "linux")]
    #[inline]
    pub(super) fn conclude_sent(&self, out: &mut Out, unsent: &Unsent<'_>, sent: io::Result<usize>) -> Delivered {
        let sent = self.note_sent(out, sent);
        self.conclude(out, unsent, sent)
    }

    /// Queues what the socket has not taken, and notes that the messages are on their way. `sent` is `None` if nothing
    /// can be sent any more.
    #[inline]
    fn conclude(&self, out: &mut Out, unsent: &Unsent<'_>, sent: Option<usize>) -> Delivered {
        let Unsent { subscription, batch, tick, seqs: Range { start, end }, .. } = *unsent;
        let length = unsent.bytes().len();
        let mut delivered = Delivered::default();
        if let Some(sent) = sent {
            delivered = Delivered { messages: end - start, bytes: length };
            if sent < length {
                let mut messages = Messages::new(subscription, batch, start..end);
                messages.advance(sent);
                if sent > 0 {
                    self.wait(out, |queue| queue.admit_started(Entry::Messages(messages)));
                } else {
                    self.queue_messages(out, messages);
                }
            }
        }
        subscription.next_seq.store(end, Ordering::Relaxed);
        self.quiet_since.set(tick);
        delivered
    }
}
