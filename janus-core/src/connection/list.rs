//! The clients that are connected, as the operator sees them: a list in pages, and the means to end one.

use std::collections::BinaryHeap;
use std::sync::Arc;

use crate::delivery::{End, Slot};
use crate::instance::janus::Janus;
use crate::instance::shared::Shared;
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

impl Janus {
    /// The clients that are served, in the order of their numbers: the first `limit` of those above `after`.
    ///
    /// To see all, begin with 0 and go on after the last number of each page until one is empty. Who comes or goes meanwhile
    /// may be on it or not; nobody is on it twice. Each call looks at every connection, a portion at a time.
    ///
    /// ```
    /// # use janus_core::{Config, Janus};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let config = Config { listen: vec!["127.0.0.1:0".parse()?], ..Config::default() };
    /// # let janus = Janus::builder().config(config).start().await?;
    /// let mut after = 0;
    /// loop {
    ///     let page = janus.connections(after, 1_000);
    ///     let Some(last) = page.last() else { break };
    ///     after = last.connection;
    ///     for client in page {
    ///         println!("{} from {} has {} topics", client.connection, client.peer, client.topics.len());
    ///     }
    /// }
    /// # janus.shutdown().await;
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn connections(&self, after: u64, limit: usize) -> Vec<ConnectionInfo> {
        let shared = self.tables();
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

    /// Closes a connection; false if there is none of this number any more.
    ///
    /// The client gets what is queued for it and is told `disconnected` if it may come back, or `banned`, and then its
    /// session ends with it. Nothing keeps it from connecting again all the same but
    /// [`authenticate`](crate::hooks::Hooks::authenticate).
    pub fn disconnect(&self, connection: u64, reconnect: bool) -> bool {
        let mut found = None;
        for_all(self.tables(), |slot, _| {
            if slot.id == connection {
                found = Some(Arc::clone(slot));
            }
        });
        // Not under the lock of the table.
        if let Some(slot) = &found {
            slot.end(End::Disconnected { reconnect });
        }
        found.is_some()
    }

    /// Closes all connections of a user, as [`disconnect`](Self::disconnect) does; how many there were.
    ///
    /// An empty name is nobody's, and closes none.
    pub fn disconnect_user(&self, user: &str, reconnect: bool) -> usize {
        let mut found = Vec::new();
        for_all(self.tables(), |slot, session| {
            if !user.is_empty() && session.is_some_and(|session| session.user() == user) {
                found.push(Arc::clone(slot));
            }
        });
        found.iter().for_each(|slot| slot.end(End::Disconnected { reconnect }));
        found.len()
    }
}

fn for_all(shared: &Shared, mut visit: impl FnMut(&Arc<Slot>, Option<&Arc<Session>>)) {
    let mut portion = 0..PORTION;
    while shared.connections.visit_with_session(portion.clone(), &mut visit) {
        portion = portion.end..portion.end + PORTION;
    }
}

fn describe(shared: &Shared, slot: &Slot, session: &Session) -> ConnectionInfo {
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
