//! The part of an instance that belongs to delivery: the terms of all queues, the senders, and the numbers of slots and
//! passes.

use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::{Codecs, Ledger, PassNumbers, SenderPool, Terms};
use crate::accounts::Accounts;
use crate::ground::Ground;

/// See the module's documentation. Dereferences to the [`Ground`] below.
#[derive(Debug)]
pub(crate) struct Engine {
    ground: Ground,
    pub(crate) accounts: Accounts,
    pub(crate) terms: Arc<Terms>,
    pub(crate) senders: Arc<SenderPool>,
    pub(crate) slot_ids: SlotIds,
    /// The numbers of the passes of all topics.
    pub(crate) pass_numbers: Arc<PassNumbers>,
}

impl Engine {
    /// With `drops_by_topic`, dropped messages are counted for each topic, too.
    pub(crate) fn new(ground: Ground, codecs: Arc<Codecs>, drops_by_topic: bool) -> Self {
        let ledger = Arc::new(Ledger::new(&ground.counters, &ground.figures));
        ledger.count_by_topic(drops_by_topic);
        let terms = Terms::new(&ground.config(), ledger, codecs);
        Self {
            ground,
            accounts: Accounts::default(),
            terms: Arc::new(terms),
            senders: Arc::default(),
            slot_ids: SlotIds::default(),
            pass_numbers: Arc::default(),
        }
    }

    pub(crate) fn ledger(&self) -> &Arc<Ledger> {
        &self.terms.ledger
    }

    pub(crate) fn codecs(&self) -> &Arc<Codecs> {
        &self.terms.codecs
    }
}

impl Deref for Engine {
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
