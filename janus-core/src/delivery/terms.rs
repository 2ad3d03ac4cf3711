//! The limits for each client of an instance, and the accounts of all clients.

use std::sync::Arc;
use std::time::Duration;

use super::{Codecs, Ledger};

/// The limits of each client's queue, and the accounts of the instance.
#[derive(Clone, Debug)]
pub(crate) struct Terms {
    /// The limit of messages in a client's queue.
    pub(crate) max_frames: usize,
    /// The limit of bytes for these messages, with the price of each entry.
    pub(crate) max_bytes: usize,
    /// How long the kernel tolerates a stalled client, if a topic's policy grants more time.
    pub(crate) patience: Duration,
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) codecs: Arc<Codecs>,
}

impl Terms {
    /// The limit for a setting `max_queue_frames`: 0 means no limit.
    pub(crate) fn frame_limit(setting: usize) -> usize {
        if setting == 0 { usize::MAX } else { setting }
    }
}

#[cfg(test)]
impl Terms {
    /// Terms with these limits, and accounts of their own.
    pub(crate) fn in_tests(max_frames: usize, max_bytes: usize) -> Arc<Self> {
        let (ledger, codecs) = (Arc::default(), Arc::default());
        Arc::new(Self { max_frames, max_bytes, patience: Duration::ZERO, ledger, codecs })
    }
}
