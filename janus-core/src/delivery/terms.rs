//! The limits for each client of an instance, and the accounts of all clients.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use super::{Codecs, Ledger, Sending};
use crate::config::Config;

/// The limits of each client's queue, and the accounts of the instance.
#[derive(Debug)]
pub(crate) struct Terms {
    max_frames: AtomicUsize,
    max_bytes: AtomicUsize,
    /// In milliseconds.
    patience: AtomicU64,
    /// The number of the instance in the public names of its connections.
    pub(super) node: u64,
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) codecs: Arc<Codecs>,
    pub(super) sending: Arc<Sending>,
}

/// How much may wait for a client; see [`Terms::max_frames`] and [`Terms::max_bytes`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct QueueLimits {
    pub(crate) frames: usize,
    pub(crate) bytes: usize,
}

impl QueueLimits {
    /// The smaller of each limit.
    pub(crate) fn min(self, other: Self) -> Self {
        Self { frames: self.frames.min(other.frames), bytes: self.bytes.min(other.bytes) }
    }
}

/// Without limits.
impl Default for QueueLimits {
    fn default() -> Self {
        Self { frames: usize::MAX, bytes: usize::MAX }
    }
}

impl Terms {
    pub(crate) fn new(config: &Config, ledger: Arc<Ledger>, codecs: Arc<Codecs>, sending: Arc<Sending>) -> Self {
        let terms = Self { node: random_node(), ..Self::with_limits(0, 0, ledger, codecs, sending) };
        terms.follow(config);
        terms
    }

    fn with_limits(
        max_frames: usize,
        max_bytes: usize,
        ledger: Arc<Ledger>,
        codecs: Arc<Codecs>,
        sending: Arc<Sending>,
    ) -> Self {
        let (max_frames, max_bytes) = (AtomicUsize::new(max_frames), AtomicUsize::new(max_bytes));
        Self { max_frames, max_bytes, patience: AtomicU64::new(0), node: 0, ledger, codecs, sending }
    }

    /// The terms of a subscriber with limits of its own; `None` is the limit of the instance at this moment.
    pub(crate) fn with_own_limits(&self, max_frames: Option<usize>, max_bytes: Option<usize>) -> Self {
        let frames = max_frames.map_or_else(|| self.max_frames(), frame_limit);
        let bytes = max_bytes.unwrap_or_else(|| self.max_bytes());
        let (ledger, codecs) = (Arc::clone(&self.ledger), Arc::clone(&self.codecs));
        Self { node: self.node, ..Self::with_limits(frames, bytes, ledger, codecs, Arc::clone(&self.sending)) }
    }

    /// Takes over the limits of these settings. A queue beyond a lower limit loses nothing that waits already.
    pub(crate) fn follow(&self, config: &Config) {
        self.max_frames.store(frame_limit(config.max_queue_frames), Ordering::Relaxed);
        self.max_bytes.store(config.max_queue_bytes, Ordering::Relaxed);
        // The heartbeat is to come first: its line in the log tells the reason.
        let patience = config.tcp_user_timeout.max(config.stall_timeout * 2);
        self.patience.store(u64::try_from(patience.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// The number of the instance in the public names of its connections.
    pub(crate) fn node(&self) -> u64 {
        self.node
    }

    /// The limit of messages in a client's queue.
    pub(crate) fn max_frames(&self) -> usize {
        self.max_frames.load(Ordering::Relaxed)
    }

    /// The limit of bytes for these messages, with the price of each entry.
    pub(crate) fn max_bytes(&self) -> usize {
        self.max_bytes.load(Ordering::Relaxed)
    }

    pub(crate) fn limits(&self) -> QueueLimits {
        QueueLimits { frames: self.max_frames(), bytes: self.max_bytes() }
    }

    /// How long the kernel tolerates a stalled client, if a topic's policy grants more time.
    pub(crate) fn patience(&self) -> Duration {
        Duration::from_millis(self.patience.load(Ordering::Relaxed))
    }
}

/// A random number of 18 digits: in the simulation of an instance, the lengths of frames must not depend on chance.
fn random_node() -> u64 {
    const LEAST: u64 = 10_u64.pow(17);
    LEAST + getrandom::u64().expect("the system has a source of random numbers") % (9 * LEAST)
}

/// The limit for a setting `max_queue_frames`: 0 means no limit.
fn frame_limit(setting: usize) -> usize {
    if setting == 0 { usize::MAX } else { setting }
}

#[cfg(any(test, feature = "internals"))]
impl Terms {
    /// Terms with these limits, and accounts of their own, for tests and benches.
    pub(crate) fn in_tests(max_frames: usize, max_bytes: usize) -> Arc<Self> {
        Self::in_tests_with(max_frames, max_bytes, Sending::default())
    }

    /// With a way to send of their own.
    pub(crate) fn in_tests_with(max_frames: usize, max_bytes: usize, sending: Sending) -> Arc<Self> {
        Arc::new(Self::with_limits(max_frames, max_bytes, Arc::default(), Arc::default(), Arc::new(sending)))
    }
}
