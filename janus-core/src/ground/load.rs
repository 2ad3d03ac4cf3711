//! Whether a home arbiter keeps up with its work.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// The load of a home arbiter; written by the arbiter's thread alone.
#[derive(Debug, Default)]
pub(crate) struct Load {
    /// The last pause of the arbiter seen here.
    pause: AtomicU64,
    /// The number of sends since then.
    sends: AtomicUsize,
}

impl Load {
    /// The sends of a millisecond or two. An arbiter busy for this long has too much work.
    const BEHIND: usize = 256;

    pub(crate) fn add(&self, sends: usize) {
        self.sends.store(self.sends.load(Ordering::Relaxed).saturating_add(sends), Ordering::Relaxed);
    }

    /// Whether the arbiter has too much work; `pause` is the number of its last pause.
    pub(crate) fn is_behind(&self, pause: u64) -> bool {
        if self.pause.swap(pause, Ordering::Relaxed) != pause {
            self.sends.store(0, Ordering::Relaxed);
        }
        self.sends.load(Ordering::Relaxed) >= Self::BEHIND
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_arbiter_that_sends_without_a_pause_is_behind() {
        let load = Load::default();
        assert!(!load.is_behind(7));
        load.add(Load::BEHIND - 1);
        assert!(!load.is_behind(7));
        load.add(1);
        assert!(load.is_behind(7));
        assert!(!load.is_behind(8), "it has had a pause since");
    }
}
