//! What clients have sent and their Transports keep, because it has led to nothing yet: frames and heads without an end,
//! requests of clients that have not opened their connection, and messages that wait for room.
//!
//! All of it together is bounded by `input_share`, at the moment at which it grows: thousands of clients can send a frame
//! each between two looks of the memory keeper. Beyond the bound the address that holds most gives back first, and of
//! its connections the one that holds most, then the one that has held it longest. Their connections are closed.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use parking_lot::Mutex;

use crate::accounts::Account;
use crate::delivery::{End, Ledger, Slot};
use crate::instance::shared::Shared;

/// Connections that are closed in one go; each takes the home arbiter some 30 µs.
const AT_ONCE: usize = 32;

/// What is kept of one connection's input. Written by the home arbiter alone.
#[derive(Debug, Default)]
pub(crate) struct Kept {
    bytes: AtomicU32,
    /// The tick since which there is something.
    since: AtomicU32,
}

impl Kept {
    /// In place of the bytes, once the connection is to be closed for them: they are accounted for no longer, and what its
    /// Transport says of them means nothing.
    const GIVEN_UP: u32 = u32::MAX;

    /// Whether the connection is to be closed for what it kept.
    pub(crate) fn is_given_up(&self) -> bool {
        self.bytes.load(Ordering::Relaxed) == Self::GIVEN_UP
    }

    /// Notes how many bytes are kept for a connection; whether they are more than before.
    pub(crate) fn note(slot: &Arc<Slot>, bytes: usize, tick: u32, ledger: &Ledger) -> bool {
        let (Some(account), kept) = (&slot.account, &slot.kept) else { return false };
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX).min(Self::GIVEN_UP - 1);
        let before = kept.bytes.load(Ordering::Relaxed);
        if before == bytes || before == Self::GIVEN_UP {
            return false;
        }
        let since_before = kept.since.load(Ordering::Relaxed);
        let since = match slot.unfinished_for(tick) {
            Some(ticks) => tick.wrapping_sub(ticks),
            None if before == 0 => tick,
            None => since_before,
        };
        kept.bytes.store(bytes, Ordering::Relaxed);
        kept.since.store(since, Ordering::Relaxed);
        ledger.add_received(bytes as usize);
        account.received.add(bytes as usize);
        ledger.remove_received(before as usize);
        account.received.remove(before as usize);
        account.holders.rank(slot, Rank::of(before, since_before, slot.id), Rank::of(bytes, since, slot.id));
        bytes > before
    }
}

/// The connections of one address for which something is kept, in the order in which they are closed.
#[derive(Debug, Default)]
pub(crate) struct Holders(Mutex<BTreeMap<Rank, Arc<Slot>>>);

impl Holders {
    fn rank(&self, slot: &Arc<Slot>, before: Option<Rank>, now: Option<Rank>) {
        if before == now {
            return;
        }
        let mut slots = self.0.lock();
        if let Some(before) = before {
            slots.remove(&before);
        }
        if let Some(now) = now {
            slots.insert(now, Arc::clone(slot));
        }
    }

    /// Takes out the first of those for which something has been kept since `tick` or longer.
    fn take(&self, tick: u32) -> Option<Arc<Slot>> {
        let mut slots = self.0.lock();
        let mut from = Rank::FIRST;
        loop {
            let (&rank, _) = slots.range(from..).next()?;
            // Compared as a distance, because ticks wrap around.
            if tick.wrapping_sub(rank.since) as i32 >= 0 {
                return slots.remove(&rank);
            }
            // The others of this size are younger.
            from = Rank { size: Reverse(rank.size.0.checked_sub(1)?), ..Rank::FIRST };
        }
    }
}

/// Largest first, then oldest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    /// How often the size can be halved; a frame that grows changes its place a few times and not with each read.
    size: Reverse<u32>,
    since: u32,
    id: u64,
}

impl Rank {
    const FIRST: Self = Self { size: Reverse(u32::BITS), since: 0, id: 0 };

    /// Bytes below which sizes make no difference.
    const SMALL: u32 = 1_023;

    fn of(bytes: u32, since: u32, id: u64) -> Option<Self> {
        (bytes > 0).then(|| Self { size: Reverse((bytes | Self::SMALL).ilog2()), since, id })
    }
}

impl Shared {
    /// Bytes that all clients' input may take together; `None` without a budget.
    pub(crate) fn input_bound(&self) -> Option<usize> {
        let budget = self.config.memory_budget_bytes;
        (budget > 0).then(|| budget / 100 * self.config.input_share)
    }

    /// Holds what clients have sent against its bound. Called when more of it is kept.
    pub(crate) fn bound_input(&self) {
        let Some(bound) = self.input_bound().filter(|bound| self.ledger().received() > *bound) else { return };
        // By an eighth less, so that not each further read has to look for an address.
        self.give_up_input(self.clock.tick(), |_| self.ledger().received() <= bound - bound / 8);
    }

    /// Closes connections for what they hold of their clients' input since `tick` or longer, each of the address that holds
    /// most by then, until that is enough. How many; at most [`AT_ONCE`].
    pub(crate) fn give_up_input(&self, tick: u32, enough: impl Fn(usize) -> bool) -> usize {
        let mut accounts: Vec<Arc<Account>> = Vec::new();
        self.accounts.visit(|account| {
            if account.received.get() > 0 {
                accounts.push(Arc::clone(account));
            }
        });
        let mut by_bytes: BinaryHeap<(usize, usize)> =
            accounts.iter().enumerate().map(|(index, account)| (account.received.get(), index)).collect();
        let mut given_up = Vec::new();
        while given_up.len() < AT_ONCE
            && !enough(given_up.len())
            && let Some((_, index)) = by_bytes.pop()
        {
            let account = &accounts[index];
            let Some(slot) = account.holders.take(tick) else { continue };
            // Now, and not when its Transport has carried it out, or others would be closed for the same bytes.
            let bytes = slot.kept.bytes.swap(Kept::GIVEN_UP, Ordering::Relaxed) as usize;
            self.ledger().remove_received(bytes);
            account.received.remove(bytes);
            by_bytes.push((account.received.get(), index));
            given_up.push(slot);
        }
        for slot in &given_up {
            slot.end(End::Overloaded);
        }
        given_up.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_input_goes_first_and_then_the_oldest() {
        let rank = |bytes, since, id| Rank::of(bytes, since, id).unwrap();
        let order = [rank(65_536, 9, 1), rank(40_000, 3, 7), rank(60_000, 4, 6), rank(3_000, 1, 2), rank(5, 1, 3)];
        assert!(order.is_sorted(), "{order:?}");
        assert!(Rank::FIRST < order[0]);
        assert_eq!(Rank::of(0, 1, 1), None);
        assert_eq!(rank(5, 1, 1), rank(1_000, 1, 1), "small input does not change its place as it grows");
    }
}
