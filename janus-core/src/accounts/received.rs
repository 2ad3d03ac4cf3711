//! Input without a result yet, kept by Transports: frames and heads without an end, requests before a connection is
//! opened, and messages waiting for room.
//!
//! All of it together is bounded by `input_share`, at the moment of growth: thousands of clients can send a frame each
//! between two looks of the memory keeper. Beyond the bound the address with the largest holding gives back first, and
//! among its connections the largest, then the oldest. Their connections are closed.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use parking_lot::Mutex;

use super::Account;
use crate::ground::clock::{AtomicTick, Tick};

/// The kept input of a connection. Written by the home arbiter alone.
#[derive(Debug, Default)]
pub(crate) struct Kept {
    bytes: AtomicU32,
    /// The tick of the first kept byte.
    since: AtomicTick,
}

impl Kept {
    /// In place of the bytes, once the connection is to be closed for them: the bytes are accounted for no longer, and
    /// later figures of the Transport mean nothing.
    const GIVEN_UP: u32 = u32::MAX;

    /// The largest number of bytes that is noted.
    pub(crate) const MAX_BYTES: u32 = Self::GIVEN_UP - 1;

    /// Whether the connection is to be closed for its input.
    pub(crate) fn is_given_up(&self) -> bool {
        self.bytes.load(Ordering::Relaxed) == Self::GIVEN_UP
    }

    /// Notes `bytes` (at most [`MAX_BYTES`](Self::MAX_BYTES)) of kept input for a connection of `account`, unfinished for `unfinished` ticks if a frame or a
    /// head is incomplete. Returns the number of bytes kept before; `None` if nothing has changed.
    ///
    /// `holder` gives the connection with its number; it is called only for a change of place.
    pub(crate) fn note(
        &self,
        account: &Account,
        bytes: u32,
        unfinished: Option<u32>,
        tick: Tick,
        (id, holder): (u64, impl FnOnce() -> Arc<dyn Holder>),
    ) -> Option<u32> {
        let before = self.bytes.load(Ordering::Relaxed);
        if before == bytes || before == Self::GIVEN_UP {
            return None;
        }
        let since_before = self.since.get();
        let since = match unfinished {
            Some(ticks) => tick.before(ticks),
            None => since_before.filter(|_| before > 0).unwrap_or(tick),
        };
        self.bytes.store(bytes, Ordering::Relaxed);
        self.since.set(since);
        account.received.add(bytes as usize);
        account.received.remove(before as usize);
        account.holders.rank(
            holder,
            since_before.and_then(|since| Rank::of(before, since, id)),
            Rank::of(bytes, since, id),
        );
        Some(before)
    }

    /// Gives up the bytes: from now on they are accounted for no longer. Returns their number.
    pub(crate) fn give_up(&self) -> usize {
        self.bytes.swap(Self::GIVEN_UP, Ordering::Relaxed) as usize
    }
}

/// A connection with kept input.
pub(crate) trait Holder: Debug + Send + Sync {
    fn kept(&self) -> &Kept;

    /// Closes the connection because memory is short.
    fn close(&self);
}

/// The connections of an address with kept input, in the order of being closed.
#[derive(Debug, Default)]
pub(crate) struct Holders(Mutex<BTreeMap<Rank, Arc<dyn Holder>>>);

impl Holders {
    fn rank(&self, holder: impl FnOnce() -> Arc<dyn Holder>, before: Option<Rank>, now: Option<Rank>) {
        if before == now {
            return;
        }
        let mut slots = self.0.lock();
        if let Some(before) = before {
            slots.remove(&before);
        }
        if let Some(now) = now {
            slots.insert(now, holder());
        }
    }

    /// Takes out the first connection whose input is as old as `tick`, or older.
    pub(crate) fn take(&self, tick: Tick) -> Option<Arc<dyn Holder>> {
        let mut slots = self.0.lock();
        let mut from = Rank::FIRST;
        loop {
            let (&rank, _) = slots.range(from..).next()?;
            // Compared as a distance, because ticks wrap around.
            if tick.has_reached(Tick::new(rank.since)) {
                return slots.remove(&rank);
            }
            // The rest of this size is younger.
            from = Rank { size: Reverse(rank.size.0.checked_sub(1)?), ..Rank::FIRST };
        }
    }
}

/// Largest first, then oldest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    /// The number of times that the size can be halved; a growing frame moves a few times and not with each read.
    size: Reverse<u32>,
    since: u32,
    id: u64,
}

impl Rank {
    const FIRST: Self = Self { size: Reverse(u32::BITS), since: 0, id: 0 };

    /// Sizes up to this number of bytes make no difference.
    const SMALL: u32 = 1_023;

    fn of(bytes: u32, since: Tick, id: u64) -> Option<Self> {
        (bytes > 0).then(|| Self { size: Reverse((bytes | Self::SMALL).ilog2()), since: since.number(), id })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_input_goes_first_and_then_the_oldest() {
        let rank = |bytes, since, id| Rank::of(bytes, since, id).unwrap();
        let order = [
            rank(65_536, Tick::new(9), 1),
            rank(40_000, Tick::new(3), 7),
            rank(60_000, Tick::new(4), 6),
            rank(3_000, Tick::new(1), 2),
            rank(5, Tick::new(1), 3),
        ];
        assert!(order.is_sorted(), "{order:?}");
        assert!(Rank::FIRST < order[0]);
        assert_eq!(Rank::of(0, Tick::new(1), 1), None);
        assert_eq!(
            rank(5, Tick::new(1), 1),
            rank(1_000, Tick::new(1), 1),
            "small input does not change its place as it grows"
        );
    }
}
