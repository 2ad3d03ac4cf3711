//! A batch on its way to all subscribers of a topic.
//!
//! The list of subscribers is a snapshot; a cursor tells how much of it has been claimed. The home arbiter and the
//! senders claim pieces and serve them. A thread that dies with a piece in hand gives the piece back on the way out,
//! and another thread finishes it. Subscribers served already are recognised by their `next_seq` and not served again.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Waker;

use futures_util::task::AtomicWaker;
use parking_lot::Mutex;

#[cfg(target_os = "linux")]
use super::slot::volley;
use super::{Batch, Ledger, Subscription};
use crate::ground::clock::Tick;
use crate::ground::fault::Faults;
pub(crate) use crate::ground::fault::Server;

/// Subscribers claimed at once: few enough to let a small topic wait a quarter of a millisecond behind a large topic,
/// enough to make claiming cheap compared to the sends.
///
/// Tests of this crate have few subscribers, and still want several pieces.
pub(crate) const PIECE: usize = if cfg!(test) { 4 } else { 32 };

/// Pieces of a small pass that several threads serve together: several for each thread, so that the threads end at
/// nearly the same time.
const PIECES: usize = 8;

/// The smallest piece.
const LEAST_PIECE: usize = 4;

/// Bytes of a batch that take as long to send as a small batch. A piece of a large batch has fewer subscribers, and a
/// turn fewer sends, or everything else on this thread would wait for milliseconds.
const WEIGHT_BYTES: usize = 24 * 1024;

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Pass {
    batch: Arc<Batch>,
    subscribers: Arc<Vec<Arc<Subscription>>>,
    tick: Tick,
    help: Help,
    /// Subscribers claimed at once.
    piece: usize,
    /// What a subscriber counts for in a turn: the sends of small batches that take as long.
    weight: usize,
    /// The first unclaimed subscriber; may run past the end.
    cursor: AtomicUsize,
    /// Finished subscribers. The pass is complete when all are finished.
    served: AtomicUsize,
    /// Pieces whose claimant died.
    abandoned: Mutex<Vec<Range<usize>>>,
    /// The Topic, which waits for pieces in other threads' hands.
    topic: AtomicWaker,
    faults: Arc<Faults>,
}

impl Pass {
    pub(crate) fn new(
        batch: Arc<Batch>,
        subscribers: Arc<Vec<Arc<Subscription>>>,
        tick: Tick,
        help: Help,
        faults: Arc<Faults>,
    ) -> Self {
        let weight = 1 + batch.byte_len() / WEIGHT_BYTES;
        let most = (PIECE / weight).max(LEAST_PIECE);
        let piece = match help {
            Help::Together => subscribers.len().div_ceil(PIECES).clamp(LEAST_PIECE, most),
            Help::None | Help::First => most,
        };
        Self {
            batch,
            subscribers,
            tick,
            help,
            piece,
            weight,
            cursor: AtomicUsize::new(0),
            served: AtomicUsize::new(0),
            abandoned: Mutex::new(Vec::new()),
            topic: AtomicWaker::new(),
            faults,
        }
    }

    pub(crate) fn batch(&self) -> &Arc<Batch> {
        &self.batch
    }

    /// The number of subscribers.
    pub(crate) fn subscribers(&self) -> usize {
        self.subscribers.len()
    }

    pub(crate) fn help(&self) -> Help {
        self.help
    }

    /// The number of senders that can find work in the pass.
    pub(crate) fn work_for(&self) -> usize {
        let pieces = self.subscribers.len().div_ceil(self.piece);
        match self.help {
            // The topic's actor takes a piece at once.
            Help::Together => pieces.saturating_sub(1),
            Help::None | Help::First => pieces,
        }
    }

    /// Whether every piece has been claimed and none been given back.
    pub(crate) fn is_claimed(&self) -> bool {
        self.cursor.load(Ordering::Relaxed) >= self.subscribers.len() && self.abandoned.lock().is_empty()
    }

    /// Serves one piece, and returns the part of a turn taken, in sends of small batches; `None` if no piece is left to
    /// claim.
    pub(crate) fn serve_piece(&self, by: Server) -> Option<usize> {
        let claim = self.claim()?;
        let piece = claim.piece.clone();
        let length = piece.len();
        let piece = &self.subscribers[piece];
        // The cache misses of a whole piece are taken together, so the CPU waits once; between two system calls it
        // would wait for each miss.
        piece.iter().for_each(|subscription| subscription.prefetch());
        let mut tally = Tally::new(&self.batch.ledger, by);
        if self.batch.is_lost() {
            for subscription in piece {
                self.faults.before_send(by);
                self.tell_of_loss(subscription);
            }
        } else if !self.serve_through_ring(piece, by, &mut tally) {
            for subscription in piece {
                self.faults.before_send(by);
                tally.add(subscription.slot.deliver(subscription, &self.batch, self.tick));
            }
        }
        drop(tally);
        claim.complete();
        Some(length * self.weight)
    }

    /// Has a subscriber continue behind the lost numbers of the batch.
    fn tell_of_loss(&self, subscription: &Arc<Subscription>) {
        subscription.slot.skip_to(subscription, &self.batch.topic, self.batch.epoch, self.batch.last_seq() + 1);
    }

    /// Returns false, having done nothing, without a ring or with few subscribers.
    #[cfg(target_os = "linux")]
    fn serve_through_ring(&self, piece: &[Arc<Subscription>], by: Server, tally: &mut Tally<'_>) -> bool {
        if piece.len() < volley::FEWEST {
            return false;
        }
        let before_each = || self.faults.before_send(by);
        let serve = |ring: &mut _| volley::serve(piece, (&self.batch, self.tick), ring, before_each, tally);
        piece[0].slot.sending().with_ring(serve).is_some()
    }

    #[cfg(not(target_os = "linux"))]
    #[expect(clippy::unused_self, reason = "as on Linux")]
    fn serve_through_ring(&self, _: &[Arc<Subscription>], _: Server, _: &mut Tally<'_>) -> bool {
        false
    }

    /// Serves one piece with a pause before each send and after the last: another task then plays the part of another
    /// thread.
    #[cfg(all(test, feature = "fault-injection"))]
    pub(crate) async fn serve_piece_slowly<P: Future>(&self, by: Server, pause: impl Fn() -> P) {
        let Some(claim) = self.claim() else { return };
        for subscription in &self.subscribers[claim.piece.clone()] {
            pause().await;
            self.faults.before_send(by);
            if self.batch.is_lost() {
                self.tell_of_loss(subscription);
                continue;
            }
            let delivered = subscription.slot.deliver(subscription, &self.batch, self.tick);
            Tally::new(&self.batch.ledger, by).add(delivered);
        }
        pause().await;
        claim.complete();
    }

    /// Whether all subscribers have been served.
    pub(crate) fn is_complete(&self) -> bool {
        self.served.load(Ordering::Acquire) == self.subscribers.len()
    }

    /// Whether all subscribers have been served; if not, `waker` is woken after the last one, or when a piece was given
    /// back.
    pub(crate) fn poll_complete(&self, waker: &Waker) -> bool {
        self.topic.register(waker);
        self.is_complete()
    }

    fn claim(&self) -> Option<Claim<'_>> {
        let length = self.subscribers.len();
        // The load keeps the cursor from running far past the end under idle claimants.
        if self.cursor.load(Ordering::Relaxed) < length {
            let start = self.cursor.fetch_add(self.piece, Ordering::Relaxed);
            if start < length {
                return Some(Claim { pass: self, piece: start..(start + self.piece).min(length) });
            }
        }
        let piece = self.abandoned.lock().pop()?;
        Some(Claim { pass: self, piece })
    }
}

/// The right, and the duty, to serve a piece of a pass.
struct Claim<'a> {
    pass: &'a Pass,
    piece: Range<usize>,
}

impl Claim<'_> {
    fn complete(self) {
        let pass = self.pass;
        let length = self.piece.len();
        std::mem::forget(self);
        let served = pass.served.fetch_add(length, Ordering::AcqRel) + length;
        if served == pass.subscribers.len() {
            pass.batch.ledger.figures.fan_outs.record(pass.batch.begun.elapsed());
            pass.topic.wake();
        }
    }
}

/// Runs only when serving the piece panicked.
impl Drop for Claim<'_> {
    fn drop(&mut self) {
        self.pass.abandoned.lock().push(self.piece.clone());
        self.pass.topic.wake();
    }
}

/// What one subscriber was handed: sent, or queued.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Delivered {
    pub(crate) messages: u64,
    pub(crate) bytes: usize,
}

/// The deliveries of a piece, added up and counted at its end, even if it ends with a panic: those subscribers are not
/// served again.
pub(super) struct Tally<'a> {
    ledger: &'a Ledger,
    by: Server,
    messages: u64,
    bytes: u64,
}

impl<'a> Tally<'a> {
    fn new(ledger: &'a Ledger, by: Server) -> Self {
        Self { ledger, by, messages: 0, bytes: 0 }
    }

    #[inline]
    pub(super) fn add(&mut self, Delivered { messages, bytes }: Delivered) {
        self.messages += messages;
        self.bytes += bytes as u64;
    }
}

impl Drop for Tally<'_> {
    fn drop(&mut self) {
        self.ledger.figures.deliveries.add(self.by.thread(), self.messages, self.bytes);
    }
}

/// The part of the senders in a pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Help {
    /// Nothing: the topic's actor delivers alone.
    None,
    /// The senders deliver together with the topic's actor.
    Together,
    /// The senders go first, and the topic's actor serves the rest in its next turn.
    First,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::SlowConsumer;
    use crate::delivery::batch::tests::batch_of;
    use crate::delivery::{Slot, Terms};
    use crate::ground::homes::HomeId;

    #[test]
    fn a_large_batch_takes_more_of_a_turn() {
        let terms = Terms::in_tests(8, 1 << 20);
        let part_of_turn = |bytes: usize| {
            let subscribe = || {
                let slot = Arc::new(Slot::local(1, &terms));
                let subscription = Arc::new(Subscription::local(slot, SlowConsumer::Disconnect));
                assert!(subscription.begin(1));
                subscription
            };
            let subscribers: Vec<_> = (0..PIECE).map(|_| subscribe()).collect();
            let batch = Arc::new(batch_of(&["x".repeat(bytes).as_str()], 2));
            let pass = Pass::new(batch, Arc::new(subscribers), Tick::new(1), Help::None, Arc::default());
            let part = pass.serve_piece(Server::Home(HomeId::FIRST));
            assert!(pass.is_complete());
            part
        };
        assert_eq!([100, 16 * 1024, 100 * 1024].map(part_of_turn), [1, 1, 5].map(|weight| Some(weight * PIECE)));
    }
}
