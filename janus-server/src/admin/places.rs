//! The open connections of the admin port, and which of them makes room for another.
//!
//! A connection is busy while its request is carried out, up to the last byte of the answer, and idle otherwise: before
//! its first request, between two requests, and while a client sends the head of a request slowly. The limit of requests
//! is below the limit of connections, so one of them is idle whenever the port is full.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::task::AbortHandle;
use tokio::time::Instant;

/// The table of connections.
#[derive(Debug)]
pub(super) struct Places {
    limit: usize,
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    /// The number of the latest connection.
    last: u64,
    connections: BTreeMap<u64, Entry>,
}

#[derive(Debug)]
struct Entry {
    /// The end of the latest request, or the accept; `None` while a request is carried out.
    idle_since: Option<Instant>,
    /// `None` for a moment after the accept.
    task: Option<AbortHandle>,
}

/// The place of one connection, free again after the drop.
#[derive(Debug)]
pub(super) struct Place {
    places: Arc<Places>,
    number: u64,
}

/// Marks a connection as busy until the drop.
#[derive(Debug)]
pub(super) struct Busy(Arc<Place>);

impl Places {
    pub(super) fn new(limit: usize) -> Self {
        Self { limit, open: Mutex::default() }
    }

    /// Takes a place for a connection. If there is none, the connection that has been idle for longest is cut.
    pub(super) fn take(places: &Arc<Self>) -> Arc<Place> {
        let mut open = places.open();
        if open.connections.len() >= places.limit {
            let idle = open.connections.iter().filter_map(|(number, entry)| Some((entry.idle_since?, *number)));
            if let Some((_, number)) = idle.min()
                && let Some(entry) = open.connections.remove(&number)
                && let Some(task) = entry.task
            {
                task.abort();
            }
        }
        open.last += 1;
        let number = open.last;
        open.connections.insert(number, Entry { idle_since: Some(Instant::now()), task: None });
        drop(open);
        Arc::new(Place { places: Arc::clone(places), number })
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// The task that serves the connection, which is aborted to cut the connection.
    pub(super) fn may_be_cut_by(&self, task: AbortHandle) {
        if let Some(entry) = self.places.open().connections.get_mut(&self.number) {
            entry.task = Some(task);
        }
    }

    /// Marks the connection as busy.
    pub(super) fn busy(self: &Arc<Self>) -> Busy {
        self.set_idle_since(None);
        Busy(Arc::clone(self))
    }

    /// Cuts the connection.
    pub(super) fn cut(&self) {
        if let Some(task) = self.places.open().connections.get(&self.number).and_then(|entry| entry.task.as_ref()) {
            task.abort();
        }
    }

    fn set_idle_since(&self, since: Option<Instant>) {
        if let Some(entry) = self.places.open().connections.get_mut(&self.number) {
            entry.idle_since = since;
        }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.set_idle_since(Some(Instant::now()));
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.open().connections.remove(&self.number);
    }
}
