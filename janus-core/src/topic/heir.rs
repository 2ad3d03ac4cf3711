//! The fate of a topic whose actor crashes or cannot run.
//!
//! A successor inherits the state of the topic: warm, if the state is consistent, or cold, under a new epoch. A topic
//! without an actor is quarantined, abandoned or shut down; then no message and no publisher may wait any longer.

use std::task::Waker;

use super::publish::PublishError;
use super::sequence::random_epoch;
use super::state::{Life, TopicState};
use crate::delivery::{End, SenderPool};

impl TopicState {
    /// Takes the topic out of service until its next start: messages without a number are refused, subscribers stay.
    pub(crate) fn quarantine(&self, senders: &SenderPool) {
        self.refuse_all(Life::Quarantined, &PublishError::TopicUnavailable, senders);
    }

    /// Ends the topic together with the instance.
    pub(crate) fn shut_down(&self, senders: &SenderPool) {
        self.refuse_all(Life::Ended, &PublishError::ShuttingDown, senders);
    }

    /// Retires a topic whose actor could not be started.
    pub(crate) fn abandon(&self, senders: &SenderPool) {
        // Subscribers may have joined before the start. Without an actor they would wait for ever.
        let mut core = self.core.lock();
        let subscribers = core.roster.take();
        self.unlock_and_tell(core);
        for subscription in subscribers.iter() {
            subscription.slot.end(End::MessagesLost);
        }
        self.refuse_all(Life::Ended, &PublishError::TopicUnavailable, senders);
    }

    fn refuse_all(&self, life: Life, error: &PublishError, senders: &SenderPool) {
        let (submitted, inbox, waiting, pass, told) = {
            let mut core = self.core.lock();
            core.change_life(life);
            let submitted = core.take_submission();
            let mut told = Vec::new();
            if life == Life::Ended {
                // Connections are closed by their Transports. Only the topic can tell a subscriber in this process.
                told.extend(core.roster.iter().filter(|subscription| subscription.is_local()).cloned());
            }
            let open_bytes = core.sequence.open_bytes();
            let (inbox, waiting) = core.inbox.refuse_all(open_bytes);
            (submitted, inbox, waiting, core.sequence.pass().cloned(), told)
        };
        for subscription in told {
            subscription.slot.end(End::ShutDown);
        }
        if let Some(pass) = pass {
            // The pass may be what made the topic's actor panic again and again. It must not reach the senders, whose
            // crashes end the instance.
            senders.withdraw(&pass);
        }
        self.wake_waiting();
        for pending in submitted {
            pending.refuse(PublishError::OutcomeUnknown);
        }
        for pending in inbox {
            pending.refuse(error.clone());
        }
        waiting.into_iter().for_each(Waker::wake);
        self.given_up.notify_waiters();
    }

    /// Takes subscribers off the list that left while the topic had no actor: an unsubscribe goes to the actor's
    /// address, and reaches the actor from now on.
    pub(super) fn sweep(&self) {
        let mut core = self.core.lock();
        let in_pass = core.sequence.is_in_pass();
        core.roster.sweep(in_pass);
        self.unlock_and_tell(core);
    }

    /// Checks the state left behind by a crashed predecessor, and makes the state fit to continue. Returns `false` if
    /// the state is inconsistent.
    pub(super) fn inherit(&self) -> bool {
        let mut guard = self.core.lock();
        let core = &mut *guard;
        core.is_torn = false;
        core.change_life(Life::Live);
        core.sequence.truncate_uncommitted();
        core.reopen();
        core.roster.sweep(core.sequence.is_in_pass());
        core.sequence.recount_foreign();
        let waiting = core.inbox.recount(core.sequence.in_flight(), core.sequence.open_bytes());
        let consistent = core.sequence.check() && core.roster.check();
        self.unlock_and_tell(guard);
        // The message in hand at the crash has left room.
        waiting.into_iter().for_each(Waker::wake);
        consistent
    }

    /// Starts afresh under a new epoch. Subscribers stay. Subscribers that would miss messages are told, or closed if
    /// their protocol has no words for a gap, such as the classic protocol.
    pub(super) fn restart_cold(&self, senders: &SenderPool) {
        let mut guard = self.core.lock();
        let core = &mut *guard;
        core.is_torn = false;
        core.change_life(Life::Live);
        core.reopen();
        // An engine's epoch continues: the topic catches up from the engine's log.
        let epoch = if core.clustered.is_some() { core.sequence.epoch() } else { random_epoch() };
        if let Some(pass) = core.sequence.restart(epoch, self.pass_numbers.last()) {
            senders.withdraw(&pass);
        }
        core.roster.sweep(false);
        for subscription in core.roster.list().iter() {
            // Numbers continue under the new epoch: a sender may still be at work on the old pass, and must find that
            // all subscribers have been served.
            subscription.slot.skip_to(subscription, &self.name, core.sequence.epoch(), core.sequence.next_seq());
        }
        // Last, because a panic before the wakers are woken would leave their publishers waiting.
        let waiting = core.inbox.recount(core.sequence.in_flight(), core.sequence.open_bytes());
        self.unlock_and_tell(guard);
        waiting.into_iter().for_each(Waker::wake);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::ground::figures::Via;
    use crate::topic::publish::{Pending, Reply};
    use crate::topic::roster::tests::subscription;
    use crate::topic::sequence::tests::{name, number, seal};
    use crate::topic::state::{Enqueued, TopicError};
    use crate::wire::{Position, Publication};

    fn topic() -> Arc<TopicState> {
        Arc::new(TopicState::for_test(name()))
    }

    /// Offers a message, and returns the future outcome.
    fn enqueue(
        topic: &Arc<TopicState>,
    ) -> tokio::sync::oneshot::Receiver<Result<crate::topic::publish::Receipt, PublishError>> {
        let (reply, outcome) = Reply::promise(Via::API);
        let publication = Publication::of_checked(&name(), "1", "2", "3");
        let enqueued = topic.enqueue(Pending { publication, reply }, None);
        assert!(matches!(enqueued, Enqueued::Accepted { .. } | Enqueued::Refused), "the message is answered");
        outcome
    }

    #[test]
    fn a_successor_continues_a_consistent_topic() {
        let topic = topic();
        let mut outcome = enqueue(&topic);
        number(&mut topic.core.lock().sequence, 3);
        seal(&mut topic.core.lock().sequence);
        number(&mut topic.core.lock().sequence, 2);
        let epoch = topic.epoch();
        assert!(topic.inherit());
        assert_eq!((topic.epoch(), topic.info().in_flight), (epoch, 6));
        assert!(outcome.try_recv().is_err(), "the message still waits for its number");
    }

    #[test]
    fn a_cold_restart_keeps_the_inbox_and_tells_subscribers_of_the_gap() {
        let topic = topic();
        let subscription = subscription();
        topic.core.lock().roster.add(Arc::clone(&subscription), false);
        assert!(subscription.begin(1));
        let mut outcome = enqueue(&topic);
        number(&mut topic.core.lock().sequence, 3);
        let before = Position { epoch: topic.epoch(), seq: 3 };
        topic.restart_cold(&SenderPool::default());
        assert_ne!(topic.epoch(), before.epoch);
        assert!(topic.knows(before) && !topic.knows(Position { seq: 2, ..before }));
        assert_eq!((subscription.next_seq(), topic.info().in_flight), (4, 1));
        assert!(subscription.slot.needs_attention(), "a gap waits for the subscriber");
        assert!(outcome.try_recv().is_err(), "the message still waits for its number");
    }

    #[test]
    fn a_quarantined_topic_refuses_messages_and_comes_back() {
        let topic = topic();
        let mut outcome = enqueue(&topic);
        topic.quarantine(&SenderPool::default());
        assert_eq!(outcome.try_recv(), Ok(Err(PublishError::TopicUnavailable)));
        assert_eq!(enqueue(&topic).try_recv(), Ok(Err(PublishError::TopicUnavailable)));
        assert!(!topic.info().available && topic.is_idle());
        assert!(topic.inherit() && topic.info().available);
    }

    #[test]
    fn an_ended_topic_does_not_come_back() {
        let topic = topic();
        topic.shut_down(&SenderPool::default());
        assert!(topic.inherit() && topic.has_ended());
        let joined = topic.join(&subscription(), crate::topic::Beginning::Now, crate::ground::clock::Tick::new(1));
        assert_eq!(joined.map(|entry| entry.position), Err(TopicError::Ended));
    }
}
