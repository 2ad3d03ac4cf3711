//! The account of the memory that the messages of an instance take, and of messages and clients given up.
//!
//! A frame is counted once, however many holders it has (a topic's ring, a pass, a thousand queues), from the sealing
//! of the batch until the last holder lets go; before the sealing as a publication. The memory budget is held against
//! these figures (with the tables, see `Connections::memory_used`). They are sums of lengths and fixed prices, not the
//! figures of an allocator.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use parking_lot::Mutex;

use super::SlowReason;
use crate::ground::counters::Counters;
use crate::ground::figures::Figures;
use crate::wire::TopicName;

/// The ledger of an instance; see the module's documentation.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    /// Bytes of batches, with the price of each batch.
    frames: AtomicUsize,
    /// Bytes of the queues of lagging clients, without the batches they refer to.
    queues: AtomicUsize,
    /// Bytes of publications accepted by topics and not yet sealed into a batch.
    waiting: AtomicUsize,
    /// Bytes from clients kept by their Transports: frames without an end, and input behind a command under way.
    received: AtomicUsize,
    /// Bytes of the members of topics, and of frames about members on their way to clients that watch.
    members: AtomicUsize,
    /// The number of subscriptions, each with a fixed price.
    subscriptions: AtomicUsize,
    /// The number of TLS sessions, each with a fixed price.
    tls_sessions: AtomicUsize,
    /// The number of cursors of sessions without a connection, each with a fixed price.
    cursors: AtomicUsize,
    pub(crate) counters: Arc<Counters>,
    pub(crate) figures: Arc<Figures>,
    /// Messages dropped since the last [`take_dropped`](Self::take_dropped), if there are hooks to tell: at most one
    /// entry for each topic and reason.
    by_topic: Mutex<HashMap<(TopicName, Dropped), u64>>,
    counts_by_topic: AtomicBool,
}

/// Why messages were taken out of a client's queue, or never entered it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Dropped {
    Oldest,
    Newest,
    Conflated,
}

/// The price of a subscription, with the places in the list of the topic and of the session.
const SUBSCRIPTION_BYTES: usize = 96;

/// The price of a TLS session, besides the part of a record that the kernel has refused: the connection on the heap, and
/// the keys (`benches/tls.rs`).
const TLS_SESSION_BYTES: usize = 1_700;

/// The price of a cursor in the list of its session.
const CURSOR_BYTES: usize = 16;

impl Ledger {
    /// The ledger of an instance with these counters.
    pub(crate) fn new(counters: &Arc<Counters>, figures: &Arc<Figures>) -> Self {
        Self { counters: Arc::clone(counters), figures: Arc::clone(figures), ..Self::default() }
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

    /// The members of a topic take other bytes than before.
    pub(crate) fn change_members(&self, before: usize, now: usize) {
        if now > before {
            self.members.fetch_add(now - before, Ordering::Relaxed);
        } else if now < before {
            self.members.fetch_sub(before - now, Ordering::Relaxed);
        }
    }

    /// Bytes of batches and queues.
    pub(crate) fn sent(&self) -> usize {
        self.frames() + self.queues()
    }

    /// Bytes of batches, with the price of each batch.
    pub(crate) fn frames(&self) -> usize {
        self.frames.load(Ordering::Relaxed)
    }

    /// Bytes of the queues, without the batches they refer to.
    pub(crate) fn queues(&self) -> usize {
        self.queues.load(Ordering::Relaxed)
    }

    /// The number of subscriptions.
    pub(crate) fn subscriptions(&self) -> usize {
        self.subscriptions.load(Ordering::Relaxed)
    }

    /// Bytes from clients kept by their Transports.
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

    #[cfg(feature = "tls")]
    pub(crate) fn add_tls_session(&self) {
        self.tls_sessions.fetch_add(1, Ordering::Relaxed);
    }

    #[cfg(feature = "tls")]
    pub(crate) fn remove_tls_session(&self) {
        self.tls_sessions.fetch_sub(1, Ordering::Relaxed);
    }

    pub(crate) fn drop_messages(&self, topic: &TopicName, why: Dropped, messages: u64) {
        if self.counts_by_topic.load(Ordering::Relaxed) {
            *self.by_topic.lock().entry((topic.clone(), why)).or_default() += messages;
        }
        let count = match why {
            Dropped::Oldest => &self.counters.messages_dropped_oldest,
            Dropped::Newest => &self.counters.messages_dropped_newest,
            Dropped::Conflated => &self.counters.messages_conflated,
        };
        count.fetch_add(messages, Ordering::Relaxed);
    }

    /// The messages dropped since the last call, by topic.
    pub(crate) fn take_dropped(&self) -> HashMap<(TopicName, Dropped), u64> {
        std::mem::take(&mut *self.by_topic.lock())
    }

    /// Also counts dropped messages for each topic from now on, or does so no longer.
    pub(crate) fn count_by_topic(&self, counts: bool) {
        self.counts_by_topic.store(counts, Ordering::Relaxed);
    }

    pub(crate) fn cut_off(&self, why: SlowReason) {
        let count = match why {
            SlowReason::QueueFull => &self.counters.slow_consumers_queue_full,
            SlowReason::Stalled => &self.counters.slow_consumers_stalled,
            SlowReason::Memory => &self.counters.slow_consumers_out_of_memory,
        };
        count.fetch_add(1, Ordering::Relaxed);
    }

    /// The accounted bytes of everything.
    pub(crate) fn bytes(&self) -> usize {
        let load = |figure: &AtomicUsize| figure.load(Ordering::Relaxed);
        load(&self.frames)
            + load(&self.queues)
            + load(&self.waiting)
            + load(&self.received)
            + load(&self.members)
            + self.subscriptions() * SUBSCRIPTION_BYTES
            + load(&self.tls_sessions) * TLS_SESSION_BYTES
            + load(&self.cursors) * CURSOR_BYTES
    }
}
