//! Takes back the memory of strangers, before regular clients have to give anything up.
//!
//! In this order, for as long as usage is at the first threshold: TLS handshakes that have lasted for a second; input
//! that has led to nothing for two ticks, or is more than a quarter of `input_share`; connections that never opened, or
//! have never asked for anything, for a second; queues of clients that do not keep up, where the queues hold more than
//! topics keep in any case. A small part of the budget is left to each kind. With this part no client crowds out
//! another, and a server with a budget always full of history does not close slow newcomers all the time.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::task::yield_now;

use super::{CONNECTIONS, LOOK_INTERVAL, TOPICS, TRIM, WORTH_CLOSING, figures};
use crate::accounts::Address;
use crate::connection::CONNECTION_BYTES;
use crate::delivery::{End, Slot};
use crate::ground::log_lines::counted;
use crate::instance::shared::Shared;

/// Looks in a second: the age at which a connection without a request is a stranger's, the least time from a walk over
/// all connections with nothing to close to the next walk, and the least time between two lines in the log.
const SECOND: u32 = (1_000 / LOOK_INTERVAL.as_millis()) as u32;

/// Ticks after which input without a result is old.
const OLD: u32 = 2;

/// The part of the budget left to strangers at the first threshold, as a divisor, for their input and for their
/// connections each.
const LEFT: usize = 64;

/// The part of `input_share` left to younger input then, as a divisor.
const YOUNG: usize = 4;

/// Looks for which regular clients are spared while strangers hold memory and will soon be closed.
const PATIENCE: u32 = 5 * SECOND;

/// Per cent of the budget from which on there is no such patience.
const FULL: usize = 100;

/// The part of the budget left to queues then, in addition to the messages kept by topics.
const QUEUES: usize = 8;

/// Connections closed before clients get their turn; each takes some 30 µs.
const CLOSES: usize = 16;

/// Handshakes cut in one look.
const HANDSHAKES: usize = 256;

/// Clients closed for their queues in one look.
const CLIENTS: usize = 32;

#[derive(Debug, Default)]
pub(super) struct Strangers {
    /// Looks so far.
    looks: u32,
    /// The connections up to this number are at least a second old; and those up to `newest` will be next.
    elder: u64,
    newest: u64,
    /// The look of the last walk over all connections, and whether the walk found connections to close.
    walked: Option<u32>,
    found: bool,
    /// For how many looks regular clients have been spared since usage was below the first threshold.
    spared: u32,
    /// The look of the last line in the log.
    told: u32,
}

impl Strangers {
    /// Called ten times a second. Returns whether strangers still hold memory and will be closed in a moment, so no
    /// regular client need give anything up yet.
    pub(super) async fn look(&mut self, shared: &Shared) -> bool {
        self.looks = self.looks.wrapping_add(1);
        if self.looks.is_multiple_of(SECOND) {
            self.elder = std::mem::replace(&mut self.newest, shared.slot_ids.last());
        }
        if shared.memory_is_at(TRIM) {
            cut_handshakes(shared).await;
            take_back_input(shared).await;
            let rested = self.walked.is_none_or(|walked| self.looks.wrapping_sub(walked) >= SECOND);
            if (rested || self.found) && shared.memory_is_at(TRIM) {
                self.walked = Some(self.looks);
                let connections = close_strangers(shared, self.elder).await;
                self.found = close_hoarders(shared).await || connections;
            }
        } else {
            (self.found, self.spared) = (false, 0);
        }
        self.tell(shared);
        let holds = self.found || shared.ledger().received() > shared.config().memory_budget_bytes / LEFT;
        let spares = holds && shared.memory_is_at(TRIM) && !shared.memory_is_at(FULL) && self.spared < PATIENCE;
        self.spared += u32::from(spares);
        spares
    }

    /// Logs the number of connections closed for their memory, once a second at most.
    fn tell(&mut self, shared: &Shared) {
        if self.looks.wrapping_sub(self.told) < SECOND {
            return;
        }
        let (mut all, mut most) = (0, (0, Address::Local));
        shared.accounts.visit(|account| {
            let closed = account.given_up.get();
            account.given_up.remove(closed);
            all += closed;
            if closed > most.0 {
                most = (closed, account.address);
            }
        });
        if all > 0 {
            self.told = self.looks;
            let (most, address) = most;
            let connections = counted(all as u64, "connection");
            log::warn!(
                closed = all, peer:% = address;
                "memory: {}; closed {connections} that held memory without a request, {most} of them from {address}",
                figures(shared)
            );
        }
    }
}

/// Cuts TLS handshakes, as far as they hold more than a small part of the budget.
async fn cut_handshakes(shared: &Shared) {
    let Some(tls) = &shared.tls else { return };
    let is_over = || shared.memory_is_at(TRIM) && tls.memory() > shared.config().memory_budget_bytes / LEFT;
    for _ in 0..HANDSHAKES {
        if !is_over() || !tls.give_up_handshake() {
            return;
        }
        yield_now().await;
    }
}

/// Closes connections for the memory of their input.
async fn take_back_input(shared: &Shared) {
    let Some(bound) = shared.input_bound() else { return };
    let left = shared.config().memory_budget_bytes / LEFT;
    let is_over = |bytes| shared.memory_is_at(TRIM) && shared.ledger().received() > bytes;
    let old = shared.clock.tick().before(shared.clock.rounds(OLD));
    while is_over(left) && shared.give_up_input(old, |closed| closed >= CLOSES || !is_over(left)) > 0 {
        yield_now().await;
    }
    let (now, young) = (shared.clock.tick(), left.max(bound / YOUNG));
    while is_over(young) && shared.give_up_input(now, |closed| closed >= CLOSES || !is_over(young)) > 0 {
        yield_now().await;
    }
}

/// Closes connections that never opened, and connections up to the number `elder` that have never asked for anything:
/// first those of the address with the most, the oldest first. Returns whether there are too many, younger ones among
/// them.
async fn close_strangers(shared: &Shared, elder: u64) -> bool {
    let (tick, old) = (shared.clock.tick(), shared.clock.rounds(OLD));
    let (mut strangers, mut young) = (Vec::new(), 0);
    let mut portion = 0..CONNECTIONS;
    while shared.connections.table.visit_with_session(portion.clone(), |slot, session| {
        let is_strange = match session {
            // Publishers over HTTP never open, and are silent between two requests.
            _ if slot.has_asked() => None,
            None => slot.unfinished_for(tick).map(|ticks| ticks >= old),
            Some(_) => Some(slot.id <= elder),
        };
        match is_strange {
            Some(true) => strangers.push((CONNECTION_BYTES, Arc::clone(slot))),
            Some(false) => young += 1,
            None => {}
        }
    }) {
        portion = portion.end..portion.end + CONNECTIONS;
        yield_now().await;
    }
    let left = shared.config().memory_budget_bytes / LEFT / CONNECTION_BYTES;
    let excess = strangers.len().saturating_sub(left);
    let held = by_address(&strangers);
    strangers.sort_by_cached_key(|(_, slot)| (std::cmp::Reverse(held[&address(slot)]), address(slot), slot.id));
    // The memory of a connection is given back only after its end, in a turn of its own.
    let needed = shared.memory_over(TRIM).div_ceil(CONNECTION_BYTES);
    let closing = &strangers[..excess.min(needed)];
    for some in closing.chunks(CLOSES) {
        for (_, slot) in some {
            if !slot.has_asked() {
                slot.end(End::Overloaded);
            }
        }
        yield_now().await;
    }
    strangers.len() + young > left
}

/// Closes the clients with the largest queues, as far as queues hold more than topics keep in any case. Returns whether
/// queues held more.
async fn close_hoarders(shared: &Shared) -> bool {
    let allowed = shared.config().memory_budget_bytes / QUEUES;
    if shared.ledger().sent() <= allowed {
        return false;
    }
    let lagging = largest_queues(shared, CLIENTS).await;
    if lagging.is_empty() {
        return false;
    }
    let kept = kept_by_topics(shared).await;
    let is_over = || shared.memory_is_at(TRIM) && shared.ledger().sent().saturating_sub(kept) > allowed;
    let was_over = is_over();
    for slot in lagging {
        if !is_over() {
            break;
        }
        // The client may have caught up since.
        if slot.queued().is_some_and(|(bytes, _)| bytes >= WORTH_CLOSING) {
            slot.end_for_memory();
        }
        yield_now().await;
    }
    was_over
}

async fn kept_by_topics(shared: &Shared) -> usize {
    let (mut kept, mut last) = (0, 0);
    loop {
        let portion = shared.topics.table.portion(last, TOPICS);
        let Some(topic) = portion.last() else { return kept };
        last = topic.number;
        kept += portion.iter().map(|topic| topic.kept_bytes()).sum::<usize>();
        // The topics may end in the meantime.
        drop(portion);
        yield_now().await;
    }
}

/// The clients with the largest queues, `count` at most: largest first, and among queues of about one size first the
/// clients of the address with the most.
pub(super) async fn largest_queues(shared: &Shared, count: usize) -> Vec<Arc<Slot>> {
    let mut lagging = Vec::new();
    let mut portion = 0..CONNECTIONS;
    while shared.connections.table.visit(portion.clone(), |slot| {
        // Most clients have no queue, and their locks need not be taken.
        let queued = if slot.needs_attention() { slot.queued().map_or(0, |(bytes, _)| bytes) } else { 0 };
        if queued >= WORTH_CLOSING {
            lagging.push((queued, Arc::clone(slot)));
        }
    }) {
        portion = portion.end..portion.end + CONNECTIONS;
        yield_now().await;
    }
    let see = |slot: Arc<Slot>| {
        let queued = slot.queued().map_or(0, |(bytes, _)| bytes);
        if queued >= WORTH_CLOSING {
            lagging.push((queued, slot));
        }
    };
    shared.visit_slow_locals(see).await;
    let held = by_address(&lagging);
    lagging.sort_by_cached_key(|(queued, slot)| {
        std::cmp::Reverse((queued.checked_ilog2(), held[&address(slot)], *queued))
    });
    lagging.into_iter().take(count).map(|(_, slot)| slot).collect()
}

fn by_address(slots: &[(usize, Arc<Slot>)]) -> HashMap<Address, usize> {
    let mut held = HashMap::new();
    for (bytes, slot) in slots {
        *held.entry(address(slot)).or_default() += bytes;
    }
    held
}

/// A subscriber in this process counts as local.
fn address(slot: &Slot) -> Address {
    slot.account().map_or(Address::Local, |account| account.address)
}
