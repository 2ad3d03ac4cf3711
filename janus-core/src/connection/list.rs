//! The connected clients, as the operator sees them: a list in pages.

use std::collections::BinaryHeap;
use std::sync::Arc;

use super::Connections;
use crate::delivery::Slot;
use crate::session::Session;
use crate::wire::{Peer, TopicName};

/// Connections looked at before other connections may enter or leave the table.
const PORTION: usize = 1_024;

/// A served client.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConnectionInfo {
    /// The number of the connection, as in the log; never used again in the instance.
    pub connection: u64,
    /// The protocol of the connection, such as `classic`.
    pub transport: &'static str,
    /// The address of the client.
    pub peer: Peer,
    /// The user's name from the [hook](crate::hooks::Hooks::authenticate); empty for an unknown user.
    pub user: String,
    /// The topics of the client, in no order.
    pub topics: Vec<TopicName>,
}

/// Clients that are served, in the order of their numbers: the first `limit` clients above `after`.
pub(crate) fn page(shared: &Connections, after: u64, limit: usize) -> Vec<ConnectionInfo> {
    let mut page = BinaryHeap::new();
    for_all(shared, |slot, session| {
        if let Some(session) = session
            && slot.id > after
            && (page.len() < limit || page.peek().is_some_and(|last: &Entry| slot.id < last.slot.id))
        {
            page.push(Entry { slot: Arc::clone(slot), session: Arc::clone(session) });
            // At most a single entry above the limit: a page costs no more memory than the caller asked for.
            if page.len() > limit {
                page.pop();
            }
        }
    });
    page.into_sorted_vec().iter().map(|Entry { slot, session }| describe(shared, slot, session)).collect()
}

/// Calls `visit` with every connection, and with the session of a served client.
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
        user: session.identity().map(|identity| identity.user.clone()).unwrap_or_default(),
        topics: session.info().topics,
    }
}

/// Ordered by the connection's number.
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
