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

use super::{Batch, Ledger, Subscription};
use crate::ground::clock::Tick;
use crate::ground::fault::Faults;
pub(crate) use crate::ground::fault::Server;

/// Subscribers claimed at once: few enough to let a small topic wait a quarter of a millisecond behind a large topic,
/// enough to make claiming cheap compared to the sends.
///
/// Tests of this crate have few subscribers, and still want several pieces.
pub(crate) const PIECE: usize = if cfg!(test) { 4 } else { 32 };

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Pass {
    batch: Arc<Batch>,
    subscribers: Arc<Vec<Arc<Subscription>>>,
    tick: Tick,
    help: Help,
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
        Self {
            batch,
            subscribers,
            tick,
            help,
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

    /// Whether there is work for a single thread only.
    pub(crate) fn is_one_piece(&self) -> bool {
        self.subscribers.len() <= PIECE
    }

    /// Whether every piece has been claimed and none been given back.
    pub(crate) fn is_claimed(&self) -> bool {
        self.cursor.load(Ordering::Relaxed) >= self.subscribers.len() && self.abandoned.lock().is_empty()
    }

    /// Serves one piece; `None` if no piece is left to claim.
    pub(crate) fn serve_piece(&self, by: Server) -> Option<usize> {
        let claim = self.claim()?;
        let piece = claim.piece.clone();
        let length = piece.len();
        let piece = &self.subscribers[piece];
        // The cache misses of a whole piece are taken together, so the CPU waits once; between two system calls it
        // would wait for each miss.
        piece.iter().for_each(|subscription| subscription.prefetch());
        let mut tally = Tally::new(&self.batch.ledger, by);
        for subscription in piece {
            self.faults.before_send(by);
            tally.add(subscription.slot.deliver(subscription, &self.batch, self.tick));
        }
        drop(tally);
        claim.complete();
        Some(length)
    }

    /// Serves one piece with a pause before each send and after the last: another task then plays the part of another
    /// thread.
    #[cfg(all(test, feature = "fault-injection"))]
    pub(crate) async fn serve_piece_slowly<P: Future>(&self, by: Server, pause: impl Fn() -> P) {
        let Some(claim) = self.claim() else { return };
        for subscription in &self.subscribers[claim.piece.clone()] {
            pause().await;
            self.faults.before_send(by);
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
            let start = self.cursor.fetch_add(PIECE, Ordering::Relaxed);
            if start < length {
                return Some(Claim { pass: self, piece: start..(start + PIECE).min(length) });
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
struct Tally<'a> {
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
    fn add(&mut self, Delivered { messages, bytes }: Delivered) {
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
