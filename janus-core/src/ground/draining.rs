//! How far the end of an instance has come.

use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use tokio::time::Instant;

/// Written by the drain, read by all code that must begin nothing new or must end in time.
#[derive(Debug, Default)]
pub(crate) struct Draining {
    /// From then on nothing is published.
    begun: AtomicBool,
    /// When the drain must be over.
    deadline: Mutex<Option<Instant>>,
    /// When the drain will be over, unless clients are slow to take their queued messages.
    end: Mutex<Option<Instant>>,
    /// Whether another node of the cluster takes the clients at once.
    has_successor: AtomicBool,
}

impl Draining {
    pub(crate) fn begin(&self) {
        self.begun.store(true, Ordering::Release);
    }

    pub(crate) fn has_begun(&self) -> bool {
        self.begun.load(Ordering::Acquire)
    }

    /// Notes whether another node of the cluster takes the clients.
    pub(crate) fn set_successor(&self, has_successor: bool) {
        self.has_successor.store(has_successor, Ordering::Release);
    }

    pub(crate) fn has_successor(&self) -> bool {
        self.has_successor.load(Ordering::Acquire)
    }

    pub(crate) fn set_deadline(&self, deadline: Instant) {
        *self.deadline.lock() = Some(deadline);
    }

    pub(crate) fn set_end(&self, end: Instant) {
        *self.end.lock() = Some(end);
    }

    pub(crate) fn end(&self) -> Option<Instant> {
        *self.end.lock()
    }

    /// The earlier of `deadline` and the deadline of the drain.
    pub(crate) fn limit(&self, deadline: Instant) -> Instant {
        self.deadline.lock().map_or(deadline, |drain| drain.min(deadline))
    }
}
