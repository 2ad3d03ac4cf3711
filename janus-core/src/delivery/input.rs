//! The bound on all clients' input without a result so far, enforced at the moment at which more input is kept.
//!
//! [`accounts::received`](crate::accounts::received) decides which connection gives back first.

use std::collections::BinaryHeap;
use std::sync::Arc;

use super::{Deliveries, End, Slot};
use crate::accounts::Account;
use crate::accounts::received::{Holder, Kept};
use crate::ground::clock::Tick;

/// Connections closed in one go; each takes the home arbiter some 30 µs.
const AT_ONCE: usize = 32;

impl Slot {
    /// Notes the bytes of input kept for this connection; returns whether there are more than before.
    pub(crate) fn note_kept(self: &Arc<Self>, bytes: usize, tick: Tick, deliveries: &Deliveries) -> bool {
        let Some(account) = self.account() else { return false };
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX).min(Kept::MAX_BYTES);
        let holder = || Arc::clone(self) as Arc<dyn Holder>;
        let noted = self.kept.note(account, bytes, self.unfinished_for(tick), tick, (self.id, holder));
        let Some(before) = noted else { return false };
        deliveries.ledger().add_received(bytes as usize);
        deliveries.ledger().remove_received(before as usize);
        bytes > before
    }
}

impl Holder for Slot {
    fn kept(&self) -> &Kept {
        &self.kept
    }

    fn close(&self) {
        self.end(End::Overloaded);
    }
}

impl Deliveries {
    /// The limit in bytes for all clients' input together; `None` without a budget.
    pub(crate) fn input_bound(&self) -> Option<usize> {
        let config = self.config();
        let budget = config.memory_budget_bytes;
        (budget > 0).then(|| budget / 100 * config.input_share)
    }

    /// Enforces the bound on clients' input. Called when more input is kept.
    pub(crate) fn bound_input(&self) {
        let Some(bound) = self.input_bound().filter(|bound| self.ledger().received() > *bound) else { return };
        // By an eighth less, so that not every further read has to look for an address.
        self.give_up_input(self.clock.tick(), |_| self.ledger().received() <= bound - bound / 8);
    }

    /// Closes connections for input held since `tick` or longer, each time of the address that holds most by then,
    /// until enough is given back. Returns the number of closed connections, at most [`AT_ONCE`].
    pub(crate) fn give_up_input(&self, tick: Tick, enough: impl Fn(usize) -> bool) -> usize {
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
            let Some(holder) = account.holders.take(tick) else { continue };
            // Now, and not when the Transport has carried the end out, or further connections would be closed for the
            // same bytes.
            let bytes = holder.kept().give_up();
            self.ledger().remove_received(bytes);
            account.received.remove(bytes);
            by_bytes.push((account.received.get(), index));
            given_up.push(holder);
        }
        given_up.iter().for_each(|holder| holder.close());
        given_up.len()
    }
}
