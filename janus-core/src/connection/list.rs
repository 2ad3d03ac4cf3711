//! The clients that are connected, as the operator sees them: a list in pages, and the means to end one.

use std::collections::BinaryHeap;
use std::sync::Arc;

use super::Connections;
use crate::delivery::Slot;
use crate::session::Session;
use crate::wire::{Peer, TopicName};

/// Connections looked at before others may enter or leave their table.
const PORTION: usize = 1_024;

/// A client that is served.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConnectionInfo {
    /// The number of its connection, by which the log names it, too; never used again in the instance.
    pub connection: u64,
    /// The protocol that it speaks, such as `classic`.
    pub transport: &'static str,
    /// Where it is connected from.
    pub peer: Peer,
    /// Its user, as the [hook](crate::hooks::Hooks::authenticate) named it; empty for somebody unknown.
    pub user: String,
    /// What it is subscribed to, in no order.
    pub topics: Vec<TopicName>,
}

/// The clients that are served, in the order of their numbers: the first `limit` of those above `after`.
pub(crate) fn page(shared: &Connections, after: u64, limit: usize) -> Vec<ConnectionInfo> {
    let mut page = BinaryHeap::new();
    for_all(shared, |slot, session| {
        if let Some(session) = session
            && slot.id > after
            && (page.len() < limit || page.peek().is_some_and(|last: &Entry| slot.id < last.slot.id))
        {
            page.push(Entry { slot: Arc::clone(slot), session: Arc::clone(session) });
            // Beyond the limit by one at most, so that no more is held than asked for.
            if page.len() > limit {
                page.pop();
            }
        }
    });
    page.into_sorted_vec().iter().map(|Entry { slot, session }| describe(shared, slot, session)).collect()
}

pub(crate) fn for_all(shared: &Connections, mut visit: impl FnMut(&Arc<Slot>, Option<&Arc<Session>>)) {
    let mut portion = 0..PORTION;
    while shared.table.visit_with_session(portion.clone(), &mut visit) {
        portion = portion.end..portion.end + PORTION;
    }
}

fn describe(shared: &Connections, slot: &Slot, session: &Session) -> ConnectionInfo {
    ConnectionInfo {
        connection: slot.id,
        transport: shared.codecs().name(slot.codec()),
        peer: session.peer,
        user: session.user().to_owned(),
        topics: session.info().topics,
    }
}

/// In the order of its number.
struct Entry {
    slot: Arc<Slot>,
    session: Arc<Session>,
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.slot.id == other.slot.id
    }
}

impl Eq for Entry {}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Entry {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.slot.id.cmp(&other.slot.id)
    }
}
