//! Topics with a message from another home than their own.
//!
//! A wake-up of another thread costs more than to serve a small topic. So the home of the publisher carries out the
//! steps of a small topic itself while the topic's home has nothing to do, on behalf of the topic's actor. While the
//! topic's home is at work, or the publisher's home has too much work, the topic goes to its home: one wake-up brings
//! all topics of a turn.
//!
//! The steps run under the topic's lock, and each of them finds the state as the step before has left it, whichever
//! thread took that step. A panic ends the actor, as a panic of its own would ([`ActorRef::on_behalf`]).
//!
//! Only the first message after a rest of the topic brings the topic into a queue. The topic may rest again while it
//! waits there, if the topic's own actor is at work, too. So a queue holds a topic at most as often as connections
//! publish to the topic in a turn of the home: the queue is emptied a portion at a time, ahead of the next input.
//!
//! [`ActorRef::on_behalf`]: crate::supervision::ActorRef::on_behalf

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{self, Poll};
use std::{iter, mem};

use futures_util::task::AtomicWaker;
use parking_lot::Mutex;

use super::actor::Wake;
use super::{TopicState, Topics};
use crate::delivery::pass::{PIECE, Server};
use crate::ground::homes::HomeId;

/// The errands of one home. A topic stays in its queue until it is taken to be served: if the task of the home crashes,
/// its successor continues with the queue.
#[derive(Debug, Default)]
pub(crate) struct Errands {
    waiting: Mutex<Waiting>,
    /// The task of [`run`].
    task: AtomicWaker,
}

#[derive(Debug, Default)]
struct Waiting {
    /// Topics of other homes, with messages of this home's publishers.
    brought: VecDeque<Arc<TopicState>>,
    /// Topics of this home, from other homes.
    arrived: VecDeque<Arc<TopicState>>,
    /// Whether a pass of another home wants help.
    helps: bool,
    /// Whether the task has been woken and has not looked yet.
    is_woken: bool,
}

impl Errands {
    /// Takes on a topic of another home. Called on this home.
    pub(super) fn bring(&self, topic: Arc<TopicState>) {
        self.add(|waiting| waiting.brought.push_back(topic));
    }

    /// Gives a topic to its home, which is this one.
    fn arrive(&self, topic: Arc<TopicState>) {
        self.add(|waiting| waiting.arrived.push_back(topic));
    }

    /// Asks the home to help with the passes of other homes.
    pub(super) fn help(&self) {
        self.add(|waiting| waiting.helps = true);
    }

    fn add(&self, add: impl FnOnce(&mut Waiting)) {
        let was_woken = {
            let mut waiting = self.waiting.lock();
            add(&mut waiting);
            mem::replace(&mut waiting.is_woken, true)
        };
        if !was_woken {
            self.task.wake();
        }
    }

    /// Ready when there is an errand.
    fn poll_errand(&self, cx: &mut task::Context<'_>) -> Poll<()> {
        self.task.register(cx.waker());
        let mut waiting = self.waiting.lock();
        let has_errand = waiting.helps || !waiting.arrived.is_empty() || !waiting.brought.is_empty();
        waiting.is_woken = has_errand;
        if has_errand { Poll::Ready(()) } else { Poll::Pending }
    }

    fn take_brought(&self) -> Option<Arc<TopicState>> {
        self.waiting.lock().brought.pop_front()
    }

    fn take_arrived(&self) -> Option<Arc<TopicState>> {
        self.waiting.lock().arrived.pop_front()
    }

    fn take_help(&self) -> bool {
        mem::take(&mut self.waiting.lock().helps)
    }
}

/// Sends for topics of other homes in a turn. For more, the wake-up of their home costs less than it brings: with 8 homes
/// and as many publishers, the homes of the publishers would otherwise do most of the work.
const HERE: usize = PIECE / 4;

/// Topics sent home or woken before other tasks get their turn.
const PORTION: usize = 64;

/// Runs the errands of a home, for ever.
pub(crate) async fn run(shared: Arc<Topics>, home: HomeId) {
    let errands = shared.errands(home);
    loop {
        poll_fn(|cx| errands.poll_errand(cx)).await;
        for topic in iter::from_fn(|| errands.take_arrived()).take(PORTION) {
            // A topic without an actor looks into its inbox at its start.
            let _ = topic.actor.cast(Wake);
        }
        #[cfg(all(test, feature = "fault-injection"))]
        carry_out_slowly(&shared, home).await;
        carry_out(&shared, home);
        if errands.take_help() && shared.senders.help(Server::Helper(home)) {
            errands.help();
        }
        tokio::task::yield_now().await;
    }
}

/// Serves topics of other homes, or sends the topics home.
fn carry_out(shared: &Topics, home: HomeId) {
    let errands = shared.errands(home);
    let mut turn = HERE;
    for topic in iter::from_fn(|| errands.take_brought()).take(PORTION) {
        let its_home = shared.homes.get(shared.homes.of_topic(topic.number));
        if turn > 0 && its_home.has_nothing_to_do() && !shared.homes.get(home).is_behind() {
            turn = turn.saturating_sub(topic.serve_elsewhere(shared, home));
        } else {
            shared.errands(its_home.id).arrive(topic);
        }
    }
}

/// The same in a simulation, where other tasks take the part of other threads between any two steps.
#[cfg(all(test, feature = "fault-injection"))]
async fn carry_out_slowly(shared: &Topics, home: HomeId) {
    let errands = shared.errands(home);
    while let Some(chance) = crate::ground::simulated::chance()
        && let Some(topic) = errands.take_brought()
    {
        if chance.one_in(2) {
            topic.serve_elsewhere_slowly(shared, home, || chance.pause()).await;
        } else {
            shared.errands(shared.homes.of_topic(topic.number)).arrive(topic);
        }
    }
}

/// Plays the part of another home in a simulation: a home that is not the topic's serves a topic with something to do.
#[cfg(all(test, feature = "fault-injection"))]
pub(crate) fn interrupt(shared: &Topics, chance: &crate::ground::simulated::Chance) {
    if !shared.homes.are_several() {
        return;
    }
    let topics = shared.table.at_work();
    if let Some(topic) = topics.get(chance.below(topics.len().max(1)))
        && let Some(other) = shared.homes.iter().find(|home| home.id != shared.homes.of_topic(topic.number))
    {
        super::work::Errand::of(topic).carry_out(shared, other.id);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;
    use crate::config::Config;
    use crate::ground::figures::Via;
    use crate::topic::publish::{Pending, Publisher, Reply, route};
    use crate::topic::shared::tests::{with_homes, with_running_topics};
    use crate::wire::{Publication, TopicName};

    const OTHER: usize = 1;

    fn home(topics: &Topics, index: usize) -> HomeId {
        topics.homes.iter().nth(index).expect("there are several").id
    }

    /// The topic of this name, made if there is none; the first topic is of the second home.
    fn topic(topics: &Topics, name: &str) -> Arc<TopicState> {
        topics.open_topic(&TopicName::new(name, 255).unwrap(), None).unwrap()
    }

    /// Publishes from a connection of this home.
    fn publish(topics: &Topics, topic: &TopicState, home: HomeId) {
        let publication = Publication::of_checked(&topic.name, "1", "2", "3");
        let pending = Pending { publication, reply: Reply::promise(Via::API).0 };
        let by = Publisher { account: None, home: Some(home) };
        assert!(route(topics, &mut None, &topic.name, by, pending, None).is_ok());
    }

    fn waiting(errands: &Errands) -> (usize, usize) {
        let waiting = errands.waiting.lock();
        (waiting.brought.len(), waiting.arrived.len())
    }

    #[test]
    fn one_wake_up_brings_all_topics_of_a_turn() {
        with_homes(2, |topics| {
            let (wakes, waker) = counting_waker();
            let (first, errands) = (HomeId::FIRST, topics.errands(HomeId::FIRST));
            let poll = || errands.poll_errand(&mut task::Context::from_waker(&waker)).is_ready();
            assert!(!poll());
            for name in ["a", "b", "c", "d"] {
                let topic = topic(topics, name);
                if topics.homes.of_topic(topic.number) != first {
                    publish(topics, &topic, first);
                    publish(topics, &topic, first);
                }
            }
            assert_eq!((waiting(errands), wakes()), ((2, 0), 1), "the second message of a topic tells nothing new");
            assert!(poll() && poll(), "until they are taken");
            topics.errands(first).help();
            while errands.take_brought().is_some() {}
            assert!(errands.take_help() && !errands.take_help());
            assert!(!poll());
            errands.help();
            assert_eq!(wakes(), 2);
        });
    }

    #[test]
    fn a_topic_of_a_home_that_does_not_wait_goes_home() {
        // The homes of this test are no arbiters, and count as waiting until one is behind.
        with_homes(2, |topics| {
            let (first, other) = (HomeId::FIRST, home(topics, OTHER));
            let [a, c] = ["a", "b", "c"]
                .map(|name| topic(topics, name))
                .into_iter()
                .step_by(2)
                .collect::<Vec<_>>()
                .try_into()
                .unwrap();
            topics.homes.get(first).load.add(1_000);
            publish(topics, &a, first);
            publish(topics, &c, first);
            carry_out(topics, first);
            assert_eq!(waiting(topics.errands(first)), (0, 0));
            assert_eq!(waiting(topics.errands(other)), (0, 2), "the publisher's home has too much work");
        });
    }

    #[tokio::test]
    async fn a_topic_of_a_waiting_home_is_served_on_the_publishers_home() {
        with_running_topics(2, async |topics| {
            let (first, topic) = (HomeId::FIRST, topic(&topics, "a"));
            topic.actor.when_up(None).await;
            publish(&topics, &topic, first);
            assert_eq!(topic.info().in_flight, 1);
            carry_out(&topics, first);
            assert_eq!((topic.info().in_flight, topic.info().position.seq), (0, 1));
            assert_eq!(waiting(topics.errands(home(&topics, OTHER))), (0, 0));
        })
        .await;
    }

    #[cfg(feature = "fault-injection")]
    #[tokio::test]
    async fn a_crash_with_a_topic_in_hand_leaves_the_topic_to_its_actor() {
        with_running_topics(2, async |topics| {
            let (first, topics_too) = (HomeId::FIRST, ["a", "b", "c"].map(|name| topic(&topics, name)));
            for topic in &topics_too {
                topic.actor.when_up(None).await;
                publish(&topics, topic, first);
            }
            topics.faults.arm(&crate::ground::fault::Fault::Errand(1));
            let crashed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| carry_out(&topics, first)));
            assert!(crashed.is_err());
            // The task's successor.
            carry_out(&topics, first);
            tokio::time::timeout(std::time::Duration::from_secs(10), async {
                while topics_too.iter().any(|topic| topic.info().in_flight > 0) {
                    tokio::task::yield_now().await;
                }
            })
            .await
            .expect("no topic is forgotten");
        })
        .await;
    }

    #[test]
    fn a_home_helps_with_a_large_pass_as_long_as_there_are_pieces() {
        let config = Config { threads: 2, homes: 2, inline_subscribers: 1, ..Config::default() };
        crate::topic::shared::tests::with_homes_and(config, 2, |topics| {
            let topic = topic(topics, "a");
            let subscriptions: Vec<_> = (0..3 * PIECE).map(|_| crate::topic::roster::tests::subscription()).collect();
            for subscription in &subscriptions {
                topic.join(subscription, crate::topic::Beginning::Now, topics.clock.tick()).unwrap();
            }
            let own = topics.homes.of_topic(topic.number);
            publish(topics, &topic, own);
            topic.number_inbox(topics);
            assert!(matches!(topic.next(topics, own), crate::topic::work::Next::Serve(_)));
            let others: Vec<_> = topics.homes.iter().map(|home| home.id).filter(|home| *home != own).collect();
            let errands = topics.errands(others[0]);
            let help = || errands.take_help() && topics.senders.help(Server::Helper(others[0]));
            let mut pieces = 0;
            while help() {
                pieces += 1;
                errands.help();
            }
            assert_eq!(pieces, 3);
            assert!(subscriptions.iter().all(|subscription| subscription.next_seq() == 2));
            assert!(!topics.errands(own).take_help(), "the topic's home serves the pass anyway");
        });
    }

    #[test]
    fn a_pass_wakes_no_more_homes_than_it_has_pieces_for() {
        let asked = |threads, pieces: usize| {
            let config = Config { threads, homes: 4, inline_subscribers: 1, ..Config::default() };
            let mut asked = 0;
            crate::topic::shared::tests::with_homes_and(config, 4, |topics| {
                let topic = topic(topics, "a");
                for _ in 0..pieces * PIECE {
                    let subscription = crate::topic::roster::tests::subscription();
                    topic.join(&subscription, crate::topic::Beginning::Now, topics.clock.tick()).unwrap();
                }
                let own = topics.homes.of_topic(topic.number);
                publish(topics, &topic, own);
                topic.number_inbox(topics);
                assert!(matches!(topic.next(topics, own), crate::topic::work::Next::Serve(_)));
                asked = topics.homes.iter().filter(|home| topics.errands(home.id).take_help()).count();
            });
            asked
        };
        assert_eq!([1, 2, 3, 8].map(|pieces| asked(4, pieces)), [0, 1, 2, 3], "the topic's home takes a piece");
        assert_eq!([1, 2, 3, 8].map(|pieces| asked(6, pieces)), [0, 0, 0, 3], "and two senders take two");
    }

    #[test]
    fn an_errand_that_comes_during_the_look_is_not_missed() {
        with_homes(2, |topics| {
            let errands = topics.errands(HomeId::FIRST);
            let mut look = Box::pin(poll_fn(|cx| errands.poll_errand(cx)));
            assert!(look.as_mut().now_or_never().is_none());
            errands.bring(topic(topics, "a"));
            assert!(look.now_or_never().is_some());
        });
    }

    /// A waker that counts.
    fn counting_waker() -> (impl Fn() -> usize, task::Waker) {
        struct Count(std::sync::atomic::AtomicUsize);
        impl task::Wake for Count {
            fn wake(self: Arc<Self>) {
                self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            }
        }
        let count = Arc::new(Count(std::sync::atomic::AtomicUsize::new(0)));
        let waker = task::Waker::from(Arc::clone(&count));
        (move || count.0.load(std::sync::atomic::Ordering::Relaxed), waker)
    }
}
