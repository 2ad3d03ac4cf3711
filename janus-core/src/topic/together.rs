//! The locks of several topics at once, for a client that joins these topics in one moment.
//!
//! Topics hand out messages on the threads of several homes. An answer about several topics must reach the client before
//! any message of these topics, and an event stream must be on all lists before any topic continues: with the locks of
//! all topics, no pass of any of them can begin.

use std::sync::Arc;

use super::core_lock::CoreGuard;
use super::join::{Beginning, Entry};
use super::state::{TopicError, TopicState};
use crate::delivery::Subscription;
use crate::ground::clock::Tick;

/// See the module's documentation. The locks are taken in the order of the topics' numbers, so that two clients never
/// wait for each other.
pub(crate) struct Together<'a>(Vec<(&'a TopicState, CoreGuard<'a>)>);

impl<'a> Together<'a> {
    /// Takes the locks. The caller must hold no topic's lock.
    pub(crate) fn lock(topics: impl Iterator<Item = &'a TopicState>) -> Self {
        let mut topics: Vec<_> = topics.collect();
        topics.sort_unstable_by_key(|topic| topic.number);
        topics.dedup_by_key(|topic| topic.number);
        Self(topics.into_iter().map(|topic| (topic, topic.core.lock())).collect())
    }

    /// As [`TopicState::join`]; the topic must be among the locked topics.
    pub(crate) fn join(
        &mut self,
        topic: &TopicState,
        subscription: &Arc<Subscription>,
        since: Beginning,
        tick: Tick,
    ) -> Result<Entry, TopicError> {
        self.core(topic).join(subscription, since, tick)
    }

    /// Puts a subscriber on the lists of topics, in each from a number on, if the subscriber has all messages that were
    /// handed out. Otherwise returns false, and the subscriber is on no list.
    pub(crate) fn join_live(
        &mut self,
        joins: &[(&TopicState, &Arc<Subscription>, u64)],
        tick: Tick,
    ) -> Result<bool, TopicError> {
        for (topic, _, from) in joins {
            let core = self.core(topic);
            core.check_exists()?;
            if *from < core.sequence.handed_out() {
                return Ok(false);
            }
        }
        for (topic, subscription, from) in joins {
            let core = self.core(topic);
            core.last_used = tick;
            core.list(subscription, *from);
        }
        Ok(true)
    }

    /// Lets go of the locks, and tells the observers of topics with a first subscriber.
    pub(crate) fn unlock(self) {
        for (topic, core) in self.0 {
            topic.unlock_and_tell(core);
        }
    }

    fn core(&mut self, topic: &TopicState) -> &mut CoreGuard<'a> {
        let place = self.0.binary_search_by_key(&topic.number, |(topic, _)| topic.number);
        &mut self.0[place.expect("the topic is among the locked topics")].1
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topic::roster::tests::subscription;
    use crate::topic::sequence::tests::{hand_out, name};

    const TICK: Tick = Tick::new(1);

    fn topic(number: u64) -> TopicState {
        let mut topic = TopicState::for_test(name());
        topic.number = number;
        topic
    }

    #[test]
    fn no_topic_can_hand_out_a_message_until_all_are_unlocked() {
        let topics = [topic(2), topic(1)];
        let subscriptions = [subscription(), subscription()];
        // The same topic twice is locked once.
        let mut together = Together::lock(topics.iter().chain(&topics));
        assert!(topics.iter().all(TopicState::is_locked));
        for (topic, subscription) in topics.iter().zip(&subscriptions) {
            assert_eq!(together.join(topic, subscription, Beginning::Now, TICK).map(|entry| entry.missed), Ok(None));
        }
        together.unlock();
        assert!(topics.iter().all(|topic| !topic.is_locked() && topic.info().subscribers == 1));
    }

    #[test]
    fn a_client_that_has_missed_a_message_of_one_topic_joins_none() {
        let topics = [topic(1), topic(2)];
        let subscriptions = [subscription(), subscription()];
        let join = |from: [u64; 2]| {
            let mut together = Together::lock(topics.iter());
            let joins = [(&topics[0], &subscriptions[0], from[0]), (&topics[1], &subscriptions[1], from[1])];
            let joined = together.join_live(&joins, TICK);
            together.unlock();
            (joined, [0, 1].map(|topic| topics[topic].info().subscribers))
        };
        hand_out(&mut topics[1].core.lock().sequence, &topics[1].pass_numbers, 1);
        assert_eq!(join([1, 1]), (Ok(false), [0, 0]));
        assert_eq!(join([1, 2]), (Ok(true), [1, 1]));
        let ended = topic(3);
        ended.shut_down(&crate::delivery::SenderPool::default());
        let (mut together, late) = (Together::lock([&ended].into_iter()), subscription());
        assert_eq!(together.join_live(&[(&ended, &late, 1)], TICK), Err(TopicError::Ended));
    }
}
