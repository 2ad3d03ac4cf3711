//! The steps of a topic's actor: number the inbox, begin a pass, end a pass.
//!
//! Each step is one short hold of the lock over [`TopicState`]. The order of the steps, and how many of them fit into
//! a turn, is the business of the [`actor`](super::actor).

use std::sync::Arc;
use std::task::Waker;
use std::time::Instant;

use super::actor::{NUMBERING, Wake};
use super::batch_size::BatchSize;
use super::publish::{Pending, Receipt, Reply};
use super::shared::Topics;
use super::state::TopicState;
use crate::delivery::Pass;
use crate::delivery::pass::{Help, PIECE, Server};
use crate::ground::clock::timestamp;
use crate::ground::figures::Run;
use crate::ground::homes::HomeId;
use crate::ground::trace::{self, Said, TraceKind};
use crate::wire::classic::MessageHead;
use crate::wire::{Position, TopicName};

/// The next step of a topic's actor.
pub(super) enum Next {
    /// Number the messages in the inbox.
    Number,
    /// Serve this pass.
    Serve(Arc<Pass>),
    /// Wait for the next message.
    Rest,
}

/// How a step of the actor on another home has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Elsewhere {
    /// There may be another step.
    Continue,
    /// Nothing is left to do.
    Rest,
    /// Only the actor can continue.
    Stuck,
}

impl TopicState {
    /// Numbers and encodes all messages in the inbox.
    pub(super) fn number_inbox(&self, shared: &Topics) {
        if !self.core.lock().has_unnumbered() {
            return;
        }
        shared.faults.before_numbering();
        // Publishers are told in any case: even if this panics, numbered messages will be delivered. Publishers are
        // told without the lock, taken later and so dropped first: a promise wakes a task of any program.
        let mut answers = Answers { topic: &self.name, answers: Vec::new() };
        let mut core = self.core.lock();
        let core = &mut *core;
        if core.is_stopped() {
            return;
        }
        core.follow(&self.name, shared);
        core.last_used = shared.clock.tick();
        // One instant for all messages numbered together, and for every subscriber: the clock is read once, and all
        // subscribers get identical bytes.
        let head = MessageHead::new(&timestamp());
        let config = shared.config();
        let queue = shared.terms.limits().min(core.roster.least_queue());
        let size = BatchSize::of(core.roster.len(), queue, &config);
        let now = Instant::now();
        let mut accepted = Run::new(&shared.figures.published, core.namespace);
        if size.is_full(&core.sequence) {
            // A small rest joins a full batch once: one rest after the other would make a batch without a limit.
            self.seal(core, shared);
        }
        while let Some(Pending { publication, reply }) = core.inbox.take() {
            if let Some(key) = publication.key()
                && let Some(Position { epoch, seq }) = core.keys.find(key, config.idempotency_ttl)
            {
                core.inbox.note_left_out(&publication);
                let receipt = Receipt { epoch, seq, subscribers: core.roster.len(), again: true };
                answers.answers.push((reply, receipt));
                continue;
            }
            let (position, length) = core.sequence.number(&head, &publication, now, &shared.faults);
            accepted.add(reply.via());
            core.inbox.note_numbered(publication.len(), length);
            if let Some(key) = publication.key() {
                core.keys.note(key, position, config.max_idempotency_keys);
            }
            let Position { epoch, seq } = position;
            let receipt = Receipt { epoch, seq, subscribers: core.roster.len(), again: false };
            if reply.wants_receipt() {
                answers.answers.push((reply, receipt));
            } else {
                reply.accept(&self.name, receipt);
            }
            shared.faults.after_commit();
            if size.is_full(&core.sequence) && size.is_worth_another(&core.inbox) {
                self.seal(core, shared);
            }
        }
    }

    /// What has to be done next, on this home. After [`Next::Rest`] the next message wakes the actor.
    pub(super) fn next(&self, shared: &Topics, home: HomeId) -> Next {
        let mut guard = self.core.lock();
        let core = &mut *guard;
        if core.is_stopped() {
            return Next::Rest;
        }
        if let Some(pass) = core.sequence.pass() {
            return Next::Serve(Arc::clone(pass));
        }
        if core.sequence.next_batch().is_none() {
            self.seal(core, shared);
        }
        let Some(batch) = core.sequence.next_batch().cloned() else {
            if core.has_unnumbered() {
                return Next::Number;
            }
            core.rest();
            return Next::Rest;
        };
        let subscribers = Arc::clone(core.roster.list());
        self.note_width(subscribers.len());
        core.sequence.note_under_way(&batch, self.pass_numbers.begin());
        // Encoded now, because a codec must not run in a sender.
        let codecs = core.roster.codecs();
        for codec in codecs.iter().filter(|_| !batch.is_lost()) {
            batch.view(codec, &shared.terms.codecs);
        }
        let tick = shared.clock.tick();
        let help = help(subscribers.len(), shared, home);
        let pass = Arc::new(Pass::new(batch, subscribers, tick, help, Arc::clone(&shared.faults)));
        core.sequence.begin(&pass);
        if help != Help::None {
            shared.senders.offer(Arc::clone(&pass));
        }
        drop(guard);
        if help == Help::Together {
            // As many homes as there are pieces for: the senders are enough for a pass of few, and a wake-up costs more
            // than a piece.
            let others = shared.homes.others(home).take(pass.work_for().saturating_sub(shared.sender_threads()));
            others.for_each(|other| shared.errands(other.id).help());
        }
        shared.tracer.tell(TraceKind::Pass, || self.describe(&pass));
        Next::Serve(pass)
    }

    /// Takes the steps of the actor on another home than the topic's, for at most a turn; returns the part of the turn
    /// taken. If there is more to do, or to wait for, the actor continues.
    pub(super) fn serve_elsewhere(&self, shared: &Topics, home: HomeId) -> usize {
        let errand = Errand::of(self);
        shared.faults.with_an_errand();
        errand.carry_out(shared, home)
    }

    /// The same with a pause before each step: another task then plays the part of another thread.
    #[cfg(all(test, feature = "fault-injection"))]
    pub(super) async fn serve_elsewhere_slowly<P: Future>(&self, shared: &Topics, home: HomeId, pause: impl Fn() -> P) {
        let mut turn = PIECE;
        let mut errand = Errand::of(self);
        let mut end = self.actor.on_behalf(|| {
            self.number_inbox(shared);
            Elsewhere::Continue
        });
        while turn > 0 && end == Ok(Elsewhere::Continue) {
            pause().await;
            shared.faults.with_an_errand();
            end = self.actor.on_behalf(|| self.step_elsewhere(shared, home, &mut turn));
        }
        errand.is_done = end == Ok(Elsewhere::Rest);
    }

    fn serve_for_a_turn(&self, shared: &Topics, home: HomeId, turn: &mut usize) -> Elsewhere {
        self.number_inbox(shared);
        while *turn > 0 {
            match self.step_elsewhere(shared, home, turn) {
                Elsewhere::Continue => {}
                end => return end,
            }
        }
        Elsewhere::Continue
    }

    /// Takes the next step of the actor on another home.
    fn step_elsewhere(&self, shared: &Topics, home: HomeId, turn: &mut usize) -> Elsewhere {
        let pass = match self.next(shared, home) {
            Next::Rest if self.is_torn() => return Elsewhere::Stuck,
            Next::Rest => return Elsewhere::Rest,
            Next::Serve(pass) => pass,
            Next::Number => {
                self.number_inbox(shared);
                *turn = turn.saturating_sub(NUMBERING);
                return Elsewhere::Continue;
            }
        };
        // A pass of several pieces, or with senders at work, has to be waited for, which the actor can.
        if pass.help() != Help::None || pass.work_for() > 1 {
            return Elsewhere::Stuck;
        }
        if let Some(served) = pass.serve_piece(Server::Home(home)) {
            *turn = turn.saturating_sub(served.max(1));
            shared.homes.get(home).load.add(served);
        }
        if !pass.is_complete() {
            return Elsewhere::Stuck;
        }
        self.end_pass(pass, shared);
        Elsewhere::Continue
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
        self.core.lock().rest()
    }

    /// Ends a complete pass: the batch has been handed out, and the changes to the list that waited are applied.
    pub(super) fn end_pass(&self, pass: Arc<Pass>, shared: &Topics) {
        if pass.help() != Help::None {
            // So that no sender holds on to the list when the next client joins.
            shared.senders.withdraw(&pass);
        }
        let (waiting, asks) = {
            let mut core = self.core.lock();
            let Some(handed_out) = core.sequence.end(pass) else { return };
            let is_changed = core.roster.apply_changes();
            let waiting = core.inbox.note_handed_out(handed_out);
            let asks = core.clustered.is_some() && self.note_less_behind(&mut core, shared);
            if is_changed {
                self.unlock_and_tell(core);
            }
            (waiting, asks)
        };
        if asks {
            self.ask_by_name(shared);
        }
        waiting.into_iter().for_each(Waker::wake);
    }
}

/// A topic taken out of a queue of errands. Unless nothing is left to do, the topic's actor continues, even if the task
/// with the errand ends in the middle.
pub(super) struct Errand<'a> {
    topic: &'a TopicState,
    is_done: bool,
}

impl<'a> Errand<'a> {
    pub(super) fn of(topic: &'a TopicState) -> Self {
        Self { topic, is_done: false }
    }

    /// Serves the topic for at most a turn; returns the part of the turn taken.
    pub(super) fn carry_out(mut self, shared: &Topics, home: HomeId) -> usize {
        let mut turn = PIECE;
        let end = self.topic.actor.on_behalf(|| self.topic.serve_for_a_turn(shared, home, &mut turn));
        self.is_done = end == Ok(Elsewhere::Rest);
        PIECE - turn
    }
}

impl Drop for Errand<'_> {
    fn drop(&mut self) {
        if !self.is_done {
            // A topic without an actor looks into the inbox at its start.
            let _ = self.topic.actor.cast(Wake);
        }
    }
}

/// How the senders help with the next pass of a topic.
fn help(subscribers: usize, shared: &Topics, home: HomeId) -> Help {
    let config = shared.config();
    if config.threads == 1 {
        return Help::None;
    }
    if subscribers > config.inline_subscribers {
        // Other homes help where there is no sender.
        return Help::Together;
    }
    let leaves = shared.sender_threads() > 0 && subscribers >= WORTH_LEAVING && shared.homes.get(home).is_behind();
    if leaves && shared.senders.has_room() { Help::First } else { Help::None }
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
    use crate::config::{Config, SlowConsumer};
    use crate::ground::clock::Tick;
    use crate::ground::figures::Via;
    use crate::topic::Beginning;
    use crate::topic::publish::{PublishError, Publisher, route};
    use crate::topic::roster::tests::{subscription, subscription_with};
    use crate::topic::sequence::tests::name;
    use crate::topic::shared::tests::with_topics;
    use crate::wire::{HistoryQuery, Publication};

    const TICK: Tick = Tick::new(1);

    type Outcome = oneshot::Receiver<Result<Receipt, PublishError>>;

    fn publish(topics: &Topics) -> Outcome {
        let (reply, outcome) = Reply::promise(Via::API);
        let publication = Publication::of_checked(&name(), "1", "2", "3");
        assert!(route(topics, &mut None, &name(), Publisher::default(), Pending { publication, reply }, None).is_ok());
        outcome
    }

    fn receipt(outcome: Outcome) -> Receipt {
        outcome.now_or_never().expect("the message has been answered").unwrap().unwrap()
    }

    fn begin(topic: &TopicState, topics: &Topics) -> Arc<Pass> {
        let Next::Serve(pass) = topic.next(topics, HomeId::FIRST) else { panic!("a batch waits") };
        pass
    }

    fn end(topic: &TopicState, topics: &Topics, pass: Arc<Pass>) {
        while pass.serve_piece(Server::Home(HomeId::FIRST)).is_some() {}
        topic.end_pass(pass, topics);
    }

    #[cfg(feature = "fault-injection")]
    #[test]
    fn no_step_is_taken_on_half_a_change_before_a_successor_has_checked_it() {
        use std::panic::{AssertUnwindSafe, catch_unwind};

        let default_namespace = crate::config::Namespace { history: true, ..Default::default() };
        with_topics(Config { default_namespace, ..Config::default() }, |topics| {
            let topic = topics.open_topic(&name(), None).unwrap();
            let subscription = subscription();
            topic.join(&subscription, Beginning::Now, Tick::new(1)).unwrap();
            let mut outcomes = [(); 3].map(|()| publish(topics));
            topics.faults.arm(&crate::ground::fault::Fault::TopicEncode(2));
            assert!(catch_unwind(AssertUnwindSafe(|| topic.number_inbox(topics))).is_err());
            // On other homes, until the actor has ended.
            topic.number_inbox(topics);
            assert!(matches!(topic.next(topics, HomeId::FIRST), Next::Rest) && topic.is_torn());
            assert!(topic.history(HistoryQuery::latest(10), topics).is_some());
            assert_eq!(topic.info().position.seq, 1);
            assert!(topic.inherit() && !topic.is_torn());
            topic.number_inbox(topics);
            let pass = begin(&topic, topics);
            assert_eq!((pass.batch().first_seq(), pass.batch().last_seq()), (1, 2));
            let frames = pass.batch().view(subscription.codec(), &topics.terms.codecs);
            let ends = frames.bytes().iter().filter(|byte| **byte == 1).count();
            assert_eq!(ends, 2, "nothing of the second message is left");
            end(&topic, topics, pass);
            let seqs = outcomes.each_mut().map(|outcome| outcome.try_recv().unwrap().map(|receipt| receipt.seq));
            assert_eq!(seqs, [Ok(1), Err(PublishError::TopicCrashed), Ok(2)]);
        });
    }

    #[test]
    fn receipts_have_the_numbers_in_the_order_of_publishing() {
        with_topics(Config::default(), |topics| {
            let topic = topics.open_topic(&name(), None).unwrap();
            topic.join(&subscription(), Beginning::Now, TICK).unwrap();
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
            assert!(matches!(topic.next(topics, HomeId::FIRST), Next::Rest) && topic.is_idle());
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
    fn a_full_batch_takes_in_nothing_that_comes_later() {
        with_topics(Config { coalesce_bytes: 1, ..Config::default() }, |topics| {
            let topic = topics.open_topic(&name(), None).unwrap();
            let _outcomes = [(); 3].map(|()| {
                let outcome = publish(topics);
                topic.number_inbox(topics);
                outcome
            });
            for seq in 1..=3 {
                let pass = begin(&topic, topics);
                assert_eq!((pass.batch().first_seq(), pass.batch().frames()), (seq, 1));
                end(&topic, topics, pass);
            }
        });
    }

    #[test]
    fn a_batch_leaves_room_in_the_smallest_queue() {
        // Each frame takes some 80 bytes.
        let largest = |queue: usize, config: Config| {
            let mut largest = 0;
            with_topics(Config { coalesce_bytes: 400, ..config }, |topics| {
                let topic = topics.open_topic(&name(), None).unwrap();
                for _ in 0..16 {
                    topic.join(&subscription_with(1_000, SlowConsumer::Disconnect), Beginning::Now, TICK).unwrap();
                }
                topic.join(&subscription_with(queue, SlowConsumer::Disconnect), Beginning::Now, TICK).unwrap();
                let _outcomes = [(); 60].map(|()| publish(topics));
                topic.number_inbox(topics);
                while let Next::Serve(pass) = topic.next(topics, HomeId::FIRST) {
                    largest = largest.max(pass.batch().frames());
                    end(&topic, topics, pass);
                }
            });
            largest
        };
        assert_eq!(largest(1_000, Config::default()), 60);
        assert!(largest(40, Config::default()) < 15, "a quarter, and a rest of less than half as much");
        assert!(largest(1_000, Config { max_queue_frames: 40, ..Config::default() }) < 15);
    }

    #[test]
    fn a_small_rest_joins_the_batch_before_it() {
        // Each frame takes some 80 bytes.
        for messages in 15..60 {
            let config = Config { coalesce_bytes: 1_200, max_inflight_frames: 256, ..Config::default() };
            with_topics(config, |topics| {
                let topic = topics.open_topic(&name(), None).unwrap();
                let _outcomes: Vec<_> = (0..messages).map(|_| publish(topics)).collect();
                topic.number_inbox(topics);
                let mut frames = 0;
                while let Next::Serve(pass) = topic.next(topics, HomeId::FIRST) {
                    assert!((300..1_800).contains(&pass.batch().byte_len()), "{messages} messages");
                    frames += pass.batch().frames();
                    end(&topic, topics, pass);
                }
                assert_eq!(frames, messages);
            });
        }
    }

    #[test]
    fn a_subscriber_that_joins_during_a_pass_begins_after_it() {
        with_topics(Config::default(), |topics| {
            let topic = topics.open_topic(&name(), None).unwrap();
            let _outcome = publish(topics);
            topic.number_inbox(topics);
            let pass = begin(&topic, topics);
            let subscription = subscription();
            topic.join(&subscription, Beginning::Now, TICK).unwrap();
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
            assert!(matches!(topic.next(topics, HomeId::FIRST), Next::Number));
        });
    }
}
