//! The steps of a topic's actor: number the inbox, begin a pass, end a pass.
//!
//! Each step is one short hold of the lock over [`TopicState`]. The order of the steps, and how many of them fit into
//! a turn, is the business of the [`actor`](super::actor).

use std::sync::Arc;
use std::task::Waker;
use std::time::Instant;

use super::publish::{Pending, Receipt, Reply};
use super::shared::Topics;
use super::state::TopicState;
use crate::delivery::Pass;
use crate::delivery::pass::Help;
use crate::ground::clock::timestamp;
use crate::ground::figures::Run;
use crate::ground::trace::{self, Said, TraceKind};
use crate::wire::TopicName;
use crate::wire::classic::MessageHead;

/// The next step of a topic's actor.
pub(super) enum Next {
    /// Number the messages in the inbox.
    Number,
    /// Serve this pass.
    Serve(Arc<Pass>),
    /// Wait for the next message.
    Rest,
}

impl TopicState {
    /// Numbers and encodes all messages in the inbox.
    pub(super) fn number_inbox(&self, shared: &Topics) {
        if self.core.lock().inbox.is_empty() {
            return;
        }
        shared.faults.before_numbering();
        // Publishers are told in any case: even if this panics, numbered messages will be delivered. Publishers are
        // told without the lock, taken later and so dropped first: a promise wakes a task of any program.
        let mut answers = Answers { topic: &self.name, answers: Vec::new() };
        let mut core = self.core.lock();
        let core = &mut *core;
        core.follow(&self.name, shared);
        core.last_used = shared.clock.tick();
        // One instant for all messages numbered together, and for every subscriber: the clock is read once, and all
        // subscribers get identical bytes.
        let head = MessageHead::new(&timestamp());
        let coalesce_bytes = shared.config().coalesce_bytes;
        let now = Instant::now();
        let mut accepted = Run::new(&shared.figures.published, core.namespace);
        while let Some(Pending { publication, reply }) = core.inbox.take() {
            let (position, length) = core.sequence.number(&head, &publication, now);
            accepted.add(reply.via());
            core.inbox.note_numbered(publication.len(), length);
            let receipt = Receipt { epoch: position.epoch, seq: position.seq, subscribers: core.roster.len() };
            if reply.wants_receipt() {
                answers.answers.push((reply, receipt));
            } else {
                reply.accept(&self.name, receipt);
            }
            shared.faults.after_commit();
            if core.sequence.open_bytes() >= coalesce_bytes {
                self.seal(core, shared);
            }
        }
    }

    /// What the actor has to do next. After [`Next::Rest`] the next message wakes the actor.
    pub(super) fn next(&self, shared: &Topics) -> Next {
        let mut guard = self.core.lock();
        let core = &mut *guard;
        if let Some(pass) = core.sequence.pass() {
            return Next::Serve(Arc::clone(pass));
        }
        if core.sequence.next_batch().is_none() {
            self.seal(core, shared);
        }
        let Some(batch) = core.sequence.next_batch().cloned() else {
            if !core.inbox.is_empty() {
                return Next::Number;
            }
            core.inbox.rest();
            return Next::Rest;
        };
        let subscribers = Arc::clone(core.roster.list());
        core.sequence.note_under_way(&batch, self.pass_numbers.begin());
        // Encoded now, because a codec must not run in a sender.
        for codec in core.roster.codecs().iter() {
            batch.view(codec, &shared.terms.codecs);
        }
        let tick = shared.clock.tick();
        let help = help(subscribers.len(), shared);
        let pass = Arc::new(Pass::new(batch, subscribers, tick, help, Arc::clone(&shared.faults)));
        core.sequence.begin(&pass);
        if help != Help::None {
            shared.senders.offer(Arc::clone(&pass));
        }
        drop(guard);
        shared.tracer.tell(TraceKind::Pass, || self.describe(&pass));
        Next::Serve(pass)
    }

    fn describe(&self, pass: &Pass) -> Said {
        let (batch, subscribers) = (pass.batch(), pass.subscribers());
        let (first, last, bytes) = (batch.first_seq(), batch.last_seq(), batch.byte_len());
        let to = if pass.help() == Help::None { "subscribers" } else { "senders" };
        let about = format!("numbers {first} to {last}, {bytes} bytes, to {subscribers} subscribers");
        Said { from: trace::topic(&self.name), to: to.to_owned(), about }
    }

    /// The actor is about to wait for the senders, and the next message is to wake it. Returns false if a message is in
    /// the inbox already.
    pub(super) fn rest_in_pass(&self) -> bool {
        self.core.lock().inbox.rest()
    }

    /// Ends a complete pass: the batch has been handed out, and the changes to the list that waited are applied.
    pub(super) fn end_pass(&self, pass: Arc<Pass>, shared: &Topics) {
        if pass.help() != Help::None {
            // So that no sender holds on to the list when the next client joins.
            shared.senders.withdraw(&pass);
        }
        let waiting = {
            let mut core = self.core.lock();
            let Some(handed_out) = core.sequence.end(pass) else { return };
            let is_changed = core.roster.apply_changes();
            let waiting = core.inbox.note_handed_out(handed_out);
            if is_changed {
                self.unlock_and_tell(core);
            }
            waiting
        };
        waiting.into_iter().for_each(Waker::wake);
    }
}

/// How the senders help with the next pass of a topic.
fn help(subscribers: usize, shared: &Topics) -> Help {
    let config = shared.config();
    if config.threads == 1 {
        Help::None
    } else if subscribers > config.inline_subscribers {
        Help::Together
    } else if subscribers >= WORTH_LEAVING && shared.load.is_behind(shared.home.pauses()) && shared.senders.has_room() {
        Help::First
    } else {
        Help::None
    }
}

/// From this many subscribers on, a topic may leave its delivery to a sender. The handover takes some locks and perhaps
/// a wake-up, and costs more than a send or two. The exact number at which the two are level has not been measured.
const WORTH_LEAVING: usize = 4;

/// Receipts for numbered messages.
struct Answers<'a> {
    topic: &'a TopicName,
    answers: Vec<(Reply, Receipt)>,
}

impl Drop for Answers<'_> {
    fn drop(&mut self) {
        for (reply, receipt) in self.answers.drain(..) {
            reply.accept(self.topic, receipt);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use tokio::sync::oneshot;

    use super::*;
    use crate::config::Config;
    use crate::delivery::pass::Server;
    use crate::ground::clock::Tick;
    use crate::ground::figures::Via;
    use crate::topic::Since;
    use crate::topic::publish::{PublishError, route};
    use crate::topic::roster::tests::subscription;
    use crate::topic::sequence::tests::name;
    use crate::topic::shared::tests::with_topics;
    use crate::wire::Publication;

    const TICK: Tick = Tick::new(1);

    type Outcome = oneshot::Receiver<Result<Receipt, PublishError>>;

    fn publish(topics: &Topics) -> Outcome {
        let (reply, outcome) = Reply::promise(Via::API);
        let publication = Publication::of_checked(&name(), "1", "2", "3");
        assert!(route(topics, &mut None, &name(), None, Pending { publication, reply }, None).is_ok());
        outcome
    }

    fn receipt(outcome: Outcome) -> Receipt {
        outcome.now_or_never().expect("the message has been answered").unwrap().unwrap()
    }

    fn begin(topic: &TopicState, topics: &Topics) -> Arc<Pass> {
        let Next::Serve(pass) = topic.next(topics) else { panic!("a batch waits") };
        pass
    }

    fn end(topic: &TopicState, topics: &Topics, pass: Arc<Pass>) {
        while pass.serve_piece(Server::Topic).is_some() {}
        topic.end_pass(pass, topics);
    }

    #[test]
    fn receipts_have_the_numbers_in_the_order_of_publishing() {
        with_topics(Config::default(), |topics| {
            let topic = topics.open_topic(&name(), None).unwrap();
            topic.join(&subscription(), Since::Now, TICK).unwrap();
            let outcomes = [(); 3].map(|()| publish(topics));
            topic.number_inbox(topics);
            let receipts = outcomes.map(receipt);
            assert_eq!(receipts.map(|receipt| receipt.seq), [1, 2, 3]);
            assert!(receipts.iter().all(|receipt| (receipt.epoch, receipt.subscribers) == (topic.epoch(), 1)));
        });
    }

    #[test]
    fn messages_numbered_during_a_pass_go_out_together_after_it() {
        with_topics(Config::default(), |topics| {
            let topic = topics.open_topic(&name(), None).unwrap();
            let outcomes = [publish(topics)];
            topic.number_inbox(topics);
            let pass = begin(&topic, topics);
            let later = [(); 2].map(|()| publish(topics));
            topic.number_inbox(topics);
            assert!(Arc::ptr_eq(&begin(&topic, topics), &pass), "the pass is still under way");
            end(&topic, topics, pass);
            let next = begin(&topic, topics);
            assert_eq!((next.batch().first_seq(), next.batch().last_seq()), (2, 3));
            end(&topic, topics, next);
            assert!(matches!(topic.next(topics), Next::Rest) && topic.is_idle());
            assert_eq!(outcomes.into_iter().chain(later).map(|outcome| receipt(outcome).seq).max(), Some(3));
        });
    }

    #[test]
    fn a_batch_of_the_largest_size_is_sealed_while_a_pass_is_under_way() {
        with_topics(Config { coalesce_bytes: 1, ..Config::default() }, |topics| {
            let topic = topics.open_topic(&name(), None).unwrap();
            let _outcomes = [(); 3].map(|()| publish(topics));
            topic.number_inbox(topics);
            for seq in 1..=3 {
                let pass = begin(&topic, topics);
                assert_eq!((pass.batch().first_seq(), pass.batch().frames()), (seq, 1));
                end(&topic, topics, pass);
            }
        });
    }

    #[test]
    fn a_subscriber_that_joins_during_a_pass_begins_after_it() {
        with_topics(Config::default(), |topics| {
            let topic = topics.open_topic(&name(), None).unwrap();
            let _outcome = publish(topics);
            topic.number_inbox(topics);
            let pass = begin(&topic, topics);
            let subscription = subscription();
            topic.join(&subscription, Since::Now, TICK).unwrap();
            assert_eq!((pass.subscribers(), topic.info().subscribers, subscription.next_seq()), (0, 1, 2));
            end(&topic, topics, pass);
            let _outcome = publish(topics);
            topic.number_inbox(topics);
            let pass = begin(&topic, topics);
            assert_eq!(pass.subscribers(), 1);
            end(&topic, topics, pass);
            assert_eq!(subscription.next_seq(), 3);
        });
    }

    #[test]
    fn a_message_during_the_rest_keeps_the_actor_from_resting() {
        with_topics(Config::default(), |topics| {
            let topic = topics.open_topic(&name(), None).unwrap();
            assert!(topic.rest_in_pass());
            let _outcome = publish(topics);
            assert!(!topic.rest_in_pass());
            assert!(matches!(topic.next(topics), Next::Number));
        });
    }
}
