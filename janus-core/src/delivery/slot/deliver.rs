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
        if batch.exclusions().is_some_and(|exclusions| exclusions.name(self.client_id())) {
            return self.deliver_parts(&mut out, subscription, batch, tick);
        }
        match self.unsent(subscription, batch, tick) {
            Some(unsent) => self.deliver_locked(&mut out, &unsent),
            None => Delivered::default(),
        }
    }

    /// The same for a client that does not get some of the messages.
    #[cold]
    fn deliver_parts(
        &self,
        out: &mut Out,
        subscription: &Arc<Subscription>,
        batch: &Arc<Batch>,
        tick: Tick,
    ) -> Delivered {
        let (next_seq, end) = (subscription.next_seq.load(Ordering::Relaxed), batch.last_seq() + 1);
        if next_seq >= end {
            return Delivered::default();
        }
        let view = batch.view(subscription.codec(), &self.terms.codecs);
        let mut delivered = Delivered::default();
        for seqs in batch.parts_for(self.client_id(), next_seq.max(batch.first_seq())..end) {
            let bytes = &view.bytes()[view.range(seqs.clone())];
            let sent = self.send_now(out, bytes);
            let part = self.queue_rest(out, (subscription, batch), seqs, bytes.len(), sent);
            delivered.messages += part.messages;
            delivered.bytes += part.bytes;
        }
        if !subscription.tells() {
            // The client counts the messages, and its count leads to no position any more.
            subscription.set_lossy();
        }
        subscription.next_seq.store(end, Ordering::Relaxed);
        if delivered.messages > 0 {
            self.quiet_since.set(tick);
        }
        delivered
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
        let delivered = self.queue_rest(out, (subscription, batch), start..end, unsent.bytes().len(), sent);
        subscription.next_seq.store(end, Ordering::Relaxed);
        self.quiet_since.set(tick);
        delivered
    }

    /// Queues what the socket has not taken of these messages, of this length together.
    #[inline]
    fn queue_rest(
        &self,
        out: &mut Out,
        (subscription, batch): (&Arc<Subscription>, &Arc<Batch>),
        seqs: Range<u64>,
        length: usize,
        sent: Option<usize>,
    ) -> Delivered {
        let Some(sent) = sent else { return Delivered::default() };
        let delivered = Delivered { messages: seqs.end - seqs.start, bytes: length };
        if sent < length {
            let mut messages = Messages::new(subscription, batch, seqs);
            messages.advance(sent);
            if sent > 0 {
                self.wait(out, |queue| queue.admit_started(Entry::Messages(messages)));
            } else {
                self.queue_messages(out, messages);
            }
        }
        delivered
    }
}
