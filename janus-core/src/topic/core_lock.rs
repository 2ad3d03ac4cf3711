//! The lock over the state of a topic, which notices when a thread panics in the middle of a change.
//!
//! The threads of several homes take the steps of a topic. The panic of a thread ends the topic's actor, but until the
//! end has come, another thread may be about to take the next step. That thread must not continue with half a change.

use std::ops::{Deref, DerefMut};
use std::thread::panicking;

use parking_lot::{Mutex, MutexGuard};

use super::state::Core;

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct CoreLock(Mutex<Core>);

impl CoreLock {
    pub(super) fn new(core: Core) -> Self {
        Self(Mutex::new(core))
    }

    pub(super) fn get_mut(&mut self) -> &mut Core {
        self.0.get_mut()
    }

    #[cfg(test)]
    pub(super) fn is_locked(&self) -> bool {
        self.0.is_locked()
    }

    #[inline]
    pub(super) fn lock(&self) -> CoreGuard<'_> {
        CoreGuard {
            core: self.0.lock(),
            was_panicking: panicking(),
            #[cfg(all(test, feature = "fault-injection"))]
            _unlocked: Unlocked,
        }
    }
}

/// The right to change the state.
pub(super) struct CoreGuard<'a> {
    core: MutexGuard<'a, Core>,
    /// The lock may be taken by a `Drop` during a panic somewhere else, and nothing is half done then.
    was_panicking: bool,
    /// Declared and so dropped behind the lock.
    #[cfg(all(test, feature = "fault-injection"))]
    _unlocked: Unlocked,
}

/// Another thread may take the lock here.
#[cfg(all(test, feature = "fault-injection"))]
struct Unlocked;

#[cfg(all(test, feature = "fault-injection"))]
impl Drop for Unlocked {
    fn drop(&mut self) {
        if !panicking() {
            crate::ground::simulated::interrupt();
        }
    }
}

impl Deref for CoreGuard<'_> {
    type Target = Core;

    fn deref(&self) -> &Core {
        &self.core
    }
}

impl DerefMut for CoreGuard<'_> {
    fn deref_mut(&mut self) -> &mut Core {
        &mut self.core
    }
}

impl Drop for CoreGuard<'_> {
    fn drop(&mut self) {
        if panicking() && !self.was_panicking {
            self.core.is_torn = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;
    use crate::topic::TopicState;
    use crate::topic::sequence::tests::name;

    /// Takes the lock in its drop.
    struct InDrop<'a>(&'a CoreLock);

    impl Drop for InDrop<'_> {
        fn drop(&mut self) {
            drop(self.0.lock());
        }
    }

    #[test]
    fn a_panic_with_the_lock_leaves_the_state_torn_until_it_is_inherited() {
        let topic = TopicState::for_test(name());
        let elsewhere = catch_unwind(AssertUnwindSafe(|| {
            let _in_drop = InDrop(&topic.core);
            panic!("without the lock");
        }));
        assert!(elsewhere.is_err() && !topic.core.lock().is_torn);
        let in_the_middle = catch_unwind(AssertUnwindSafe(|| {
            let _core = topic.core.lock();
            panic!("with the lock");
        }));
        assert!(in_the_middle.is_err() && topic.core.lock().is_torn);
        assert!(topic.inherit() && !topic.core.lock().is_torn);
    }
}
