//! The bound on the input of all clients that has led to nothing yet, held at the moment at which more of it is kept.
//!
//! [`accounts::received`](crate::accounts::received) says which connection gives back first.

use std::collections::BinaryHeap;
use std::sync::Arc;

use super::{End, Engine, Slot};
use crate::accounts::Account;
use crate::accounts::received::{Holder, Kept};
use crate::ground::clock::Tick;

/// Connections that are closed in one go; each takes the home arbiter some 30 µs.
const AT_ONCE: usize = 32;

impl Slot {
    /// Notes how many bytes of its client's input are kept for this connection; whether they are more than before.
    pub(crate) fn note_kept(self: &Arc<Self>, bytes: usize, tick: Tick, engine: &Engine) -> bool {
        let Some(account) = &self.account else { return false };
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        let holder = || Arc::clone(self) as Arc<dyn Holder>;
        let noted = self.kept.note(account, bytes, self.unfinished_for(tick), tick, (self.id, holder));
        let Some(before) = noted else { return false };
        engine.ledger().add_received(bytes as usize);
        engine.ledger().remove_received(before as usize);
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

impl Engine {
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
            // Now, and not when its Transport has carried it out, or others would be closed for the same bytes.
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
