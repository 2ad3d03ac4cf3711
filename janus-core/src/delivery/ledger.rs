//! What the messages of an instance take in memory, and what became of those that nobody got.
//!
//! A frame is counted once, whoever holds it (a topic's ring, a pass, a thousand queues), from when its batch is sealed
//! until the last of them lets go; before that as the publication that it comes from. The figures are what the memory
//! budget is held against (with the tables, see `Shared::memory_used`); they are sums of lengths and fixed prices, not
//! what an allocator makes of them.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;

use super::SlowReason;
use crate::ground::counters::Counters;
use crate::wire::TopicName;

/// One for each instance; see the module's documentation.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    /// Bytes of batches, with what a batch takes beside them.
    frames: AtomicUsize,
    /// Bytes that the queues of lagging clients take beside the batches they refer to.
    queues: AtomicUsize,
    /// Bytes of publications that topics have accepted and not yet sealed into a batch.
    waiting: AtomicUsize,
    /// Bytes from clients that their Transports keep: frames without an end, and what waits behind a command under way.
    received: AtomicUsize,
    /// Subscriptions there are, each of which has a fixed price.
    subscriptions: AtomicUsize,
    /// Places in topics that sessions without a connection refer to; with a fixed price as well.
    cursors: AtomicUsize,
    counters: Arc<Counters>,
    /// What was dropped since it was last asked for, if somebody asks: at most one entry for each topic and reason.
    by_topic: Option<Mutex<HashMap<(TopicName, Dropped), u64>>>,
}

/// Why messages were taken out of a client's queue, or never came into it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Dropped {
    Oldest,
    Newest,
    Conflated,
}

/// A subscription with its place in the topic's list and in its session's.
const SUBSCRIPTION_BYTES: usize = 96;

/// A cursor in the list of its session.
const CURSOR_BYTES: usize = 16;

impl Ledger {
    /// A ledger of an instance with these counters. `by_topic` makes it count dropped messages for each topic, too.
    pub(crate) fn new(counters: &Arc<Counters>, by_topic: bool) -> Self {
        Self { counters: Arc::clone(counters), by_topic: by_topic.then(Mutex::default), ..Self::default() }
    }

    pub(crate) fn add_frames(&self, bytes: usize) {
        self.frames.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn remove_frames(&self, bytes: usize) {
        self.frames.fetch_sub(bytes, Ordering::Relaxed);
    }

    pub(crate) fn add_queued(&self, bytes: usize) {
        self.queues.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn remove_queued(&self, bytes: usize) {
        self.queues.fetch_sub(bytes, Ordering::Relaxed);
    }

    pub(crate) fn add_waiting(&self, bytes: usize) {
        self.waiting.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn remove_waiting(&self, bytes: usize) {
        self.waiting.fetch_sub(bytes, Ordering::Relaxed);
    }

    pub(crate) fn add_received(&self, bytes: usize) {
        self.received.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn remove_received(&self, bytes: usize) {
        self.received.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Bytes of batches, and of the queues that refer to them.
    pub(crate) fn sent(&self) -> usize {
        self.frames.load(Ordering::Relaxed) + self.queues.load(Ordering::Relaxed)
    }

    /// Bytes from clients that their Transports keep.
    pub(crate) fn received(&self) -> usize {
        self.received.load(Ordering::Relaxed)
    }

    pub(crate) fn add_cursor(&self) {
        self.cursors.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn remove_cursor(&self) {
        self.cursors.fetch_sub(1, Ordering::Relaxed);
    }

    pub(crate) fn add_subscription(&self) {
        self.subscriptions.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn remove_subscription(&self) {
        self.subscriptions.fetch_sub(1, Ordering::Relaxed);
    }

    pub(crate) fn drop_messages(&self, topic: &TopicName, why: Dropped, messages: u64) {
        if let Some(by_topic) = &self.by_topic {
            *by_topic.lock().entry((topic.clone(), why)).or_default() += messages;
        }
        let count = match why {
            Dropped::Oldest => &self.counters.messages_dropped_oldest,
            Dropped::Newest => &self.counters.messages_dropped_newest,
            Dropped::Conflated => &self.counters.messages_conflated,
        };
        count.fetch_add(messages, Ordering::Relaxed);
    }

    /// What was dropped since this was asked the last time.
    pub(crate) fn take_dropped(&self) -> HashMap<(TopicName, Dropped), u64> {
        self.by_topic.as_ref().map(|by_topic| std::mem::take(&mut *by_topic.lock())).unwrap_or_default()
    }

    pub(crate) fn cut_off(&self, why: SlowReason) {
        let count = match why {
            SlowReason::QueueFull => &self.counters.slow_consumers_queue_full,
            SlowReason::Stalled => &self.counters.slow_consumers_stalled,
            SlowReason::Memory => &self.counters.slow_consumers_out_of_memory,
        };
        count.fetch_add(1, Ordering::Relaxed);
    }

    #[cfg(test)]
    pub(crate) fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Accounted bytes of all of it.
    pub(crate) fn bytes(&self) -> usize {
        let load = |figure: &AtomicUsize| figure.load(Ordering::Relaxed);
        load(&self.frames)
            + load(&self.queues)
            + load(&self.waiting)
            + load(&self.received)
            + load(&self.subscriptions) * SUBSCRIPTION_BYTES
            + load(&self.cursors) * CURSOR_BYTES
    }
}
