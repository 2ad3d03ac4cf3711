//! One client's place in one topic: the next number to send, the policy for a client that lags, and the codec.
//!
//! A topic holds all its subscriptions, a session the subscriptions of a client. Numbers change only under the slot's
//! lock, so an unsubscribe and a delivery cannot cross.

use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use super::Slot;
use crate::config::SlowConsumer;
use crate::delivery::codecs::{CLASSIC, CodecId};
use crate::ground::trace;

/// One client's place in one topic.
#[derive(Debug)]
pub(crate) struct Subscription {
    pub(crate) slot: Arc<Slot>,
    /// The next sequence number to send; no earlier number is sent. [`ENDED`] after an unsubscribe. Changes only under
    /// the slot's lock, so a delivery cannot undo an unsubscribe.
    pub(super) next_seq: AtomicU64,
    /// The number of the first message for the client, received or to come: with this number, a count of received
    /// messages leads to a position. 0 until delivery has begun.
    first_seq: AtomicU64,
    /// The place in the topic's list; for the topic alone.
    pub(crate) index: AtomicU32,
    /// Whether the client has been told of its subscription: a request repeated at a topic's successor is answered
    /// once.
    acknowledged: AtomicBool,
    /// Whether messages were dropped, so the client's count of messages leads to no position.
    lossy: AtomicBool,
    policy: SlowConsumer,
    /// The number of the client's codec, and [`TELLS`](Self::TELLS).
    wire: u8,
}

pub(super) const ENDED: u64 = u64::MAX;

impl Subscription {
    /// The name of the subscriber in a trace.
    pub(crate) fn trace_name(&self) -> String {
        let id = self.slot.id;
        if self.is_local() { format!("subscriber {id}") } else { trace::client(id) }
    }

    /// Set in `wire` if the codec has words for a gap. One bit, because a server keeps this field for every
    /// subscription of every client.
    const TELLS: u8 = 0x80;

    /// A subscription of a connection. A client whose codec has no words for a gap is closed instead of dropping
    /// messages one by one, and a client that must not miss any is closed under each policy.
    pub(crate) fn of_connection(slot: Arc<Slot>, policy: SlowConsumer) -> Self {
        let codec = slot.codec();
        let tells = slot.codecs().tells_gaps(codec);
        let policy = match policy {
            SlowConsumer::DropOldest | SlowConsumer::DropNewest if !tells => SlowConsumer::Disconnect,
            SlowConsumer::Conflate if !slot.codecs().conflates(codec) => SlowConsumer::Disconnect,
            policy => policy,
        };
        Self::new(slot, policy, codec | if tells { Self::TELLS } else { 0 })
    }

    /// A subscription of this process.
    pub(crate) fn local(slot: Arc<Slot>, policy: SlowConsumer) -> Self {
        Self::new(slot, policy, CLASSIC | Self::TELLS)
    }

    fn new(slot: Arc<Slot>, policy: SlowConsumer, wire: u8) -> Self {
        slot.terms.ledger.add_subscription();
        if policy != SlowConsumer::Disconnect {
            slot.bear_with();
        }
        Self {
            slot,
            next_seq: AtomicU64::new(0),
            first_seq: AtomicU64::new(0),
            index: AtomicU32::new(u32::MAX),
            acknowledged: AtomicBool::new(false),
            lossy: AtomicBool::new(false),
            policy,
            wire,
        }
    }

    pub(crate) fn policy(&self) -> SlowConsumer {
        self.policy
    }

    /// Whether the client can be told of a gap.
    pub(crate) fn tells(&self) -> bool {
        self.wire & Self::TELLS != 0
    }

    pub(crate) fn codec(&self) -> CodecId {
        self.wire & !Self::TELLS
    }

    /// Whether the subscriber is in this process.
    pub(crate) fn is_local(&self) -> bool {
        self.wire == CLASSIC | Self::TELLS
    }

    pub(crate) fn set_lossy(&self) {
        self.lossy.store(true, Ordering::Relaxed);
    }

    /// Whether messages were dropped, so the client's count of messages leads to no position.
    pub(crate) fn is_lossy(&self) -> bool {
        self.lossy.load(Ordering::Relaxed)
    }

    /// The number of the first message for the client, received or to come; `None` if delivery has not begun.
    pub(crate) fn first_seq(&self) -> Option<u64> {
        let first_seq = self.first_seq.load(Ordering::Relaxed);
        (first_seq > 0).then_some(first_seq)
    }

    /// Continues the client's count of an earlier connection, which began with `seq`.
    pub(crate) fn count_from(&self, seq: u64) {
        self.first_seq.store(seq, Ordering::Relaxed);
    }

    /// Brings the cache lines of a delivery into the CPU's cache.
    pub(crate) fn prefetch(&self) {
        // Plain loads, because a prefetch instruction would be unsafe code; `black_box` keeps the compiler from
        // dropping them. The slot's three fields lie at the start, in the middle and at the end of the lines of a send.
        let Slot { id, out, quiet_since, .. } = &*self.slot;
        black_box((self.next_seq(), *id, out.is_locked(), quiet_since.get()));
    }

    /// Starts delivery with `seq`, unless the client has unsubscribed meanwhile.
    pub(crate) fn begin(&self, seq: u64) -> bool {
        let _out = self.slot.out.lock();
        if self.next_seq.load(Ordering::Relaxed) == ENDED {
            return false;
        }
        self.next_seq.store(seq, Ordering::Relaxed);
        // Numbers go on when delivery begins anew, and so does the client's count.
        let _ = self.first_seq.compare_exchange(0, seq, Ordering::Relaxed, Ordering::Relaxed);
        true
    }

    /// Stops delivery at once, also in the middle of a pass.
    pub(crate) fn end(&self) {
        let _out = self.slot.out.lock();
        self.next_seq.store(ENDED, Ordering::Relaxed);
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.next_seq.load(Ordering::Relaxed) == ENDED
    }

    pub(crate) fn next_seq(&self) -> u64 {
        self.next_seq.load(Ordering::Relaxed)
    }

    /// True the first time only.
    pub(crate) fn acknowledge(&self) -> bool {
        !self.acknowledged.swap(true, Ordering::Relaxed)
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.slot.terms.ledger.remove_subscription();
        if self.policy != SlowConsumer::Disconnect {
            self.slot.patient.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{slot, subscribed};
    use super::*;
    use crate::delivery::batch::tests::{batch_of, topic};
    use crate::delivery::stream::Stream;
    use crate::delivery::{End, SlowReason, Terms};
    use crate::ground::clock::Tick;
    use crate::wire::{Epoch, Peer};

    fn connection() -> Arc<Slot> {
        slot(Stream::new(Box::pin(tokio::io::duplex(64).1), Peer::Local)).0
    }

    #[test]
    fn an_unsubscribe_is_final_and_a_count_begins_once() {
        let subscription = Subscription::of_connection(connection(), SlowConsumer::Disconnect);
        assert_eq!((subscription.first_seq(), subscription.next_seq()), (None, 0));
        assert!(subscription.begin(5) && subscription.begin(9));
        assert_eq!((subscription.first_seq(), subscription.next_seq()), (Some(5), 9));
        subscription.count_from(3);
        assert_eq!(subscription.first_seq(), Some(3), "as an earlier connection counted");
        subscription.end();
        assert!(subscription.has_ended() && !subscription.begin(10) && subscription.has_ended());
    }

    #[test]
    fn a_subscription_is_acknowledged_once() {
        let subscription = Subscription::of_connection(connection(), SlowConsumer::Disconnect);
        assert!(subscription.acknowledge() && !subscription.acknowledge());
    }

    #[test]
    fn a_client_that_cannot_be_told_of_gaps_is_closed_and_keeps_no_holes() {
        for policy in [SlowConsumer::DropOldest, SlowConsumer::DropNewest] {
            let classic = Subscription::of_connection(connection(), policy);
            assert_eq!((classic.tells(), classic.policy()), (false, SlowConsumer::Disconnect));
            let local = Subscription::local(Arc::new(Slot::local(1, &Terms::in_tests(8, 1_024))), policy);
            assert_eq!((local.tells(), local.policy(), local.is_local()), (true, policy, true));
        }
        let conflated = Subscription::of_connection(connection(), SlowConsumer::Conflate);
        assert_eq!((conflated.policy(), conflated.codec()), (SlowConsumer::Conflate, CLASSIC));

        let slot = connection();
        let classic = subscribed(&slot, SlowConsumer::Disconnect);
        slot.skip_to(&classic, &topic(), Epoch::new(7), 5);
        // Messages that follow at once do not come before the end.
        assert!(classic.has_ended() && classic.is_lossy());
        slot.deliver(&classic, &Arc::new(batch_of(&["message"], 6)), Tick::new(1));
        assert_eq!((slot.is_flushed(), slot.take_end()), (true, Some(End::MessagesLost)));
    }

    #[test]
    fn a_policy_that_drops_messages_buys_a_stalled_client_time() {
        let slot = connection();
        let patient = subscribed(&slot, SlowConsumer::Conflate);
        slot.deliver(&patient, &Arc::new(batch_of(&["message"], 2)), Tick::new(1));
        let end_at = |tick| {
            slot.end_if_stalled(Tick::new(tick), 10, 30);
            slot.take_end()
        };
        assert_eq!([1, 11, 30].map(end_at), [None; 3]);
        let end = end_at(31);
        assert!(matches!(end, Some(End::SlowConsumer { why: SlowReason::Stalled, .. })), "{end:?}");

        let slot = connection();
        let (patient, other) = (subscribed(&slot, SlowConsumer::Conflate), subscribed(&slot, SlowConsumer::Disconnect));
        slot.deliver(&other, &Arc::new(batch_of(&["message"], 2)), Tick::new(1));
        slot.end_if_stalled(Tick::new(1), 10, 30);
        drop(patient);
        slot.end_if_stalled(Tick::new(11), 10, 30);
        assert!(slot.take_end().is_some(), "the time of the usual policy");
    }
}
