//! The settings in force, which a reload replaces all at once.

use std::sync::Arc;

use arc_swap::{ArcSwap, Guard};

use crate::config::Config;

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct InForce(ArcSwap<Config>);

impl InForce {
    pub(super) fn new(config: Config) -> Self {
        Self(ArcSwap::from_pointee(config))
    }

    /// The settings in force. A load costs some nanoseconds, so a turn or a batch loads them once, and a delivery to a
    /// client never does.
    #[inline]
    pub(super) fn load(&self) -> Guard<Arc<Config>> {
        self.0.load()
    }
}
