//! The settings in force, which a reload replaces all at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::{ArcSwap, Guard};
use tokio::sync::watch;

use crate::config::Config;

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct InForce {
    config: ArcSwap<Config>,
    /// The number of reloads, for parts that compare in passing.
    version: AtomicU64,
    /// Wakes tasks that wait for a time of the settings.
    reloads: watch::Sender<()>,
}

impl InForce {
    pub(super) fn new(config: Config) -> Self {
        Self { config: ArcSwap::from_pointee(config), version: AtomicU64::new(0), reloads: watch::Sender::new(()) }
    }

    /// The settings in force. A load costs some nanoseconds, so a turn or a batch loads them once, and a delivery to a
    /// client never does.
    #[inline]
    pub(super) fn load(&self) -> Guard<Arc<Config>> {
        self.config.load()
    }

    /// Replaces the settings.
    pub(super) fn replace(&self, config: Config) {
        self.config.store(Arc::new(config));
        self.version.fetch_add(1, Ordering::Release);
        self.reloads.send_replace(());
    }

    /// Rises with each reload. Read before the settings, so that no reload is missed.
    #[inline]
    pub(super) fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// Becomes ready after each reload.
    pub(super) fn reloads(&self) -> watch::Receiver<()> {
        self.reloads.subscribe()
    }
}
