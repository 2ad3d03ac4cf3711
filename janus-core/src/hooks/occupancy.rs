//! Whether a topic has subscribers, as far as the observers know.
//!
//! A client may join and leave a topic any number of times a second. So a topic has at most one entry in the queue of
//! the observers, and the entry says nothing but the name: the observers are told the state at the time of their turn,
//! and nothing if the state is the one told before.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::HookRunner;
use crate::wire::TopicName;

/// One for each topic of an instance with hooks.
#[derive(Debug)]
pub(crate) struct Occupancy {
    topic: TopicName,
    occupied: AtomicBool,
    /// Whether an entry waits in the queue.
    queued: AtomicBool,
    /// The state that the observers were told last.
    told: AtomicBool,
}

impl Occupancy {
    /// A topic without subscribers.
    pub(crate) fn new(topic: TopicName) -> Arc<Self> {
        let [occupied, queued, told] = [(); 3].map(|()| AtomicBool::new(false));
        Arc::new(Self { topic, occupied, queued, told })
    }

    /// Notes the state, under the topic's lock. After a change the caller must [tell](Self::tell) without the lock.
    pub(crate) fn set(&self, occupied: bool) -> bool {
        self.occupied.load(Ordering::Relaxed) != occupied && self.occupied.swap(occupied, Ordering::Relaxed) != occupied
    }

    /// Queues an entry for the observers, unless an entry waits already.
    pub(crate) fn tell(self: &Arc<Self>, hooks: &HookRunner) {
        if !self.queued.swap(true, Ordering::AcqRel) && !hooks.tell_of_topic(self) {
            // Left out. The next change is told against the state told last.
            self.queued.store(false, Ordering::Release);
        }
    }

    /// The topic, and its state if the state is news. The entry has left the queue.
    pub(super) fn take(&self) -> Option<(TopicName, bool)> {
        // Before the look, or a change in between would wait for the next change.
        self.queued.swap(false, Ordering::AcqRel);
        let occupied = self.occupied.load(Ordering::Relaxed);
        (self.told.swap(occupied, Ordering::Relaxed) != occupied).then(|| (self.topic.clone(), occupied))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn observers_are_told_the_present_state_once() {
        let occupancy = Occupancy::new(TopicName::new("news", 255).unwrap());
        let state = || occupancy.take().map(|(_, occupied)| occupied);
        assert_eq!((occupancy.set(false), state()), (false, None));
        assert_eq!(
            (occupancy.set(true), occupancy.set(true), occupancy.set(false), state()),
            (true, false, true, None)
        );
        assert_eq!((occupancy.set(true), state(), state()), (true, Some(true), None));
        assert_eq!((occupancy.set(false), state(), state()), (true, Some(false), None));
    }
}
