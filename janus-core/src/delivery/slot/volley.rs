//! A piece of a pass, sent with one system call for all subscribers whose socket is ready for it.
//!
//! The slots of the piece are locked together, because the bytes of two frames must not mix and the outcome of a send
//! belongs to its slot. A deadlock with another thread that locks the same slots in another order is impossible: a
//! thread waits for a lock only while holding none. A slot locked by another thread is served at the end, by itself, and
//! so is a slot whose socket is not ready: no slot is kept locked for the work of another.

#[cfg(test)]
mod tests;

use std::os::fd::BorrowedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::{io, slice, vec};

use parking_lot::MutexGuard;

use super::deliver::Unsent;
use super::{Out, Slot, Subscription};
use crate::delivery::pass::Tally;
use crate::delivery::ring::{Outcome, Outgoing, Ring};
use crate::delivery::{Batch, Link};
use crate::ground::clock::Tick;

/// Fewer sends than this go without the ring. With 4 subscribers and a topic under load, the ring takes 0.84 of the CPU,
/// with 3 it is hard to tell.
pub(crate) const FEWEST: usize = if cfg!(test) { 2 } else { 4 };

/// Sends the unsent messages of `batch` to all subscribers of `piece`.
///
/// Like [`Slot::deliver`](super::Slot::deliver), this sends a batch once to each subscriber, whoever has served some of
/// them before.
pub(crate) fn serve(
    piece: &[Arc<Subscription>],
    (batch, tick): (&Arc<Batch>, Tick),
    ring: &mut Ring,
    before_each: impl Fn(),
    tally: &mut Tally<'_>,
) {
    let mut shots = Vec::with_capacity(piece.len());
    let mut later = Vec::new();
    let is_excluded = |slot: &Slot| batch.exclusions().is_some_and(|exclusions| exclusions.name(slot.client_id()));
    for subscription in piece {
        before_each();
        // The waker of a program's task may be any code, and must not run while slots of others are locked. A client that
        // does not get all messages needs several sends.
        if subscription.is_local() || is_excluded(&subscription.slot) {
            later.push(subscription);
            continue;
        }
        let out = if shots.is_empty() { Some(subscription.slot.out.lock()) } else { subscription.slot.out.try_lock() };
        let Some(mut out) = out else {
            later.push(subscription);
            continue;
        };
        let Some(unsent) = subscription.slot.unsent(subscription, batch, tick) else { continue };
        if socket(&out).is_some() {
            shots.push(Shot { subscription, out, unsent });
        } else if shots.is_empty() {
            tally.add(subscription.slot.deliver_locked(&mut out, &unsent));
        } else {
            // To encrypt, or to write a long queue out, takes longer than all sends of the piece.
            later.push(subscription);
        }
    }
    let outcomes = if shots.len() < FEWEST {
        &[]
    } else {
        let sends: Vec<_> = shots.iter().map(Shot::outgoing).collect();
        ring.send(&sends)
    };
    let mut aftermath = Aftermath { shots: shots.into_iter(), outcomes: outcomes.iter(), tally };
    while aftermath.conclude_next() {}
    drop(aftermath);
    for subscription in later {
        tally.add(subscription.slot.deliver(subscription, batch, tick));
    }
}

/// The socket of a slot, if a delivery may send on it at once and by itself.
#[inline]
fn socket(out: &Out) -> Option<BorrowedFd<'_>> {
    out.open_link().and_then(Link::socket)
}

/// Messages for a locked slot.
struct Shot<'a> {
    subscription: &'a Arc<Subscription>,
    out: MutexGuard<'a, Out>,
    unsent: Unsent<'a>,
}

impl Shot<'_> {
    fn outgoing(&self) -> Outgoing<'_> {
        let socket = socket(&self.out).expect("the slot is locked since its socket was found");
        Outgoing { socket, bytes: self.unsent.batch_bytes, start: self.unsent.start }
    }
}

/// Shots and what they came to; those without an outcome are made now.
///
/// Bytes in the kernel must not be sent again by the successor of a thread that panics. So a panic while one of the
/// shots is concluded keeps none of the others from it.
struct Aftermath<'a, 'b> {
    shots: vec::IntoIter<Shot<'a>>,
    outcomes: slice::Iter<'a, Outcome>,
    tally: &'a mut Tally<'b>,
}

impl Aftermath<'_, '_> {
    #[inline]
    fn conclude_next(&mut self) -> bool {
        let Some(Shot { subscription, mut out, unsent }) = self.shots.next() else { return false };
        let sent = match self.outcomes.next() {
            Some(Outcome::Sent(sent)) => Some(Ok(*sent)),
            None | Some(Outcome::NotAsked | Outcome::Failed(libc::EINTR)) => None,
            Some(Outcome::Failed(error)) => Some(Err(io::Error::from_raw_os_error(*error))),
            // Part of the bytes may be on their way.
            Some(Outcome::Unknown) => Some(Err(io::ErrorKind::Other.into())),
        };
        let slot = &subscription.slot;
        self.tally.add(match sent {
            Some(sent) => slot.conclude_sent(&mut out, &unsent, sent),
            None => slot.deliver_locked(&mut out, &unsent),
        });
        true
    }
}

impl Drop for Aftermath<'_, '_> {
    fn drop(&mut self) {
        while !self.shots.as_slice().is_empty() {
            // Another panic would end the process, and the first one is under way.
            let _ = catch_unwind(AssertUnwindSafe(|| self.conclude_next()));
        }
    }
}
