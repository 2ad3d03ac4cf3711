//! The part of an instance that belongs to delivery: the terms of all queues, the senders, and the numbers of slots and
//! passes.

use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::{Codecs, Ledger, PassNumbers, SenderPool, Sending, Terms};
use crate::accounts::Accounts;
use crate::ground::Ground;

/// See the module's documentation. Dereferences to the [`Ground`] below.
#[derive(Debug)]
pub(crate) struct Deliveries {
    ground: Ground,
    pub(crate) accounts: Accounts,
    pub(crate) terms: Arc<Terms>,
    pub(crate) senders: Arc<SenderPool>,
    pub(crate) slot_ids: SlotIds,
    /// The numbers of the passes of all topics.
    pub(crate) pass_numbers: Arc<PassNumbers>,
}

impl Deliveries {
    /// With `drops_by_topic`, dropped messages are counted for each topic, too.
    pub(crate) fn new(ground: Ground, codecs: Arc<Codecs>, sending: Sending, drops_by_topic: bool) -> Self {
        let ledger = Arc::new(Ledger::new(&ground.counters, &ground.figures));
        ledger.count_by_topic(drops_by_topic);
        let terms = Terms::new(&ground.config(), ledger, codecs, Arc::new(sending));
        Self {
            accounts: Accounts::new(ground.homes.len()),
            ground,
            senders: Arc::new(SenderPool::new(Arc::clone(&terms.sending))),
            terms: Arc::new(terms),
            slot_ids: SlotIds::default(),
            pass_numbers: Arc::default(),
        }
    }

    pub(crate) fn ledger(&self) -> &Arc<Ledger> {
        &self.terms.ledger
    }

    /// Makes the rings of the homes, if rings are wanted.
    pub(crate) fn prepare_homes(&self) {
        for home in self.homes.iter() {
            let sending = Arc::clone(&self.terms.sending);
            // A home that takes no jobs has ended.
            let _ = home.place.run(move || sending.prepare_thread());
        }
    }

    /// How pieces reach the kernel.
    pub(crate) fn sending(&self) -> &Sending {
        &self.terms.sending
    }

    pub(crate) fn codecs(&self) -> &Arc<Codecs> {
        &self.terms.codecs
    }
}

impl Deref for Deliveries {
    type Target = Ground;

    fn deref(&self) -> &Ground {
        &self.ground
    }
}

/// Numbers for slots, each given once.
#[derive(Debug, Default)]
pub(crate) struct SlotIds(AtomicU64);

impl SlotIds {
    pub(crate) fn next(&self) -> u64 {
        self.0.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// The latest number given.
    pub(crate) fn last(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
