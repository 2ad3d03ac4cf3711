//! A subscriber in the same process. Numbers and gaps are visible there, so the order needs no guessing.

use futures_util::FutureExt;

use super::model::{Id, Model, topic_name};
use super::{Chance, Limits, Trace};
use crate::{Closed, Event, Janus, Position, SlowConsumer, SubscribeOptions, Subscriber};

#[derive(Debug)]
pub(super) struct Listener {
    number: usize,
    pub(super) topic: usize,
    subscriber: Subscriber,
    policy: SlowConsumer,
    /// The number of the last message or gap.
    last: u64,
    last_id: Option<Id>,
    /// The listener takes no events.
    pub(super) stalled: bool,
    pub(super) closed: bool,
    /// The last number of the promised replay. No gap may begin after this number without a reason.
    promised: u64,
}

impl Listener {
    /// Subscribes, after `since` if given. Returns `None` if the topic is not available.
    pub(super) fn new(
        number: usize,
        topic: usize,
        since: Option<Position>,
        janus: &Janus,
        chance: &Chance,
        limits: &Limits,
    ) -> Option<Self> {
        let policy = chance.pick(&[
            SlowConsumer::Disconnect,
            SlowConsumer::DropOldest,
            SlowConsumer::DropNewest,
            SlowConsumer::Conflate,
        ]);
        let mut options = SubscribeOptions::default().slow_consumer(policy).max_queue_frames(1 + chance.below(20));
        if let Some(since) = since {
            options = options.since(since);
        }
        let subscriber = match janus.subscribe_with(&topic_name(topic), options) {
            Ok(subscriber) => subscriber,
            Err(error) => {
                assert!(limits.last_cold.is_some(), "subscribing in the process: {error}");
                return None;
            }
        };
        let (last, resumption) = (subscriber.position().seq, subscriber.resumption().expect("there is no engine"));
        assert!(!resumption.resumed || since == Some(subscriber.position()), "{resumption:?}");
        let promised = last + resumption.missed;
        Some(Self { number, topic, subscriber, policy, last, last_id: None, stalled: false, closed: false, promised })
    }

    pub(super) fn position(&self) -> Position {
        self.subscriber.position()
    }

    /// Takes about `at_most` events. Returns whether there was any.
    pub(super) fn pump(&mut self, at_most: usize, model: &mut Model, trace: &mut Trace, limits: &Limits) -> bool {
        let mut moved = false;
        while !self.stalled && !self.closed && moved as usize <= at_most {
            let Some(Some(event)) = self.subscriber.next().now_or_never() else { break };
            moved = true;
            self.take(event, model, trace, limits);
        }
        moved
    }

    fn take(&mut self, event: Event, model: &mut Model, trace: &mut Trace, limits: &Limits) {
        let number = self.number;
        match event {
            Event::Message(message) => {
                let seq = message.seq();
                assert!(
                    seq == self.last + 1,
                    "listener {number}: {seq} after {}, and no gap between: {:?} promised {}",
                    self.last,
                    self.policy,
                    self.promised
                );
                let id = message.parse().expect("the data is a number");
                trace.note("heard", number, self.topic, id);
                model.heard(id, self.topic, message.event(), seq);
                if let Some(last) = self.last_id {
                    model.follows(last, id);
                }
                (self.last, self.last_id) = (seq, Some(id));
            }
            Event::Gap { from, to } => {
                trace.note("gap", number, from as usize, to as usize);
                assert!(
                    from == self.last + 1 && from <= to,
                    "listener {number} ({:?}): {from} to {to} after {}, promised {}",
                    self.policy,
                    self.last,
                    self.promised
                );
                let dropped = self.policy != SlowConsumer::Disconnect;
                assert!(
                    dropped || limits.last_cold.is_some() || from <= self.promised,
                    "listener {number}: a gap without a reason"
                );
                (self.last, self.last_id) = (to, None);
            }
            Event::Closed(reason) => {
                trace.note("closed", number, reason as usize, 0);
                let allowed = match reason {
                    Closed::SlowConsumer => self.policy == SlowConsumer::Disconnect,
                    Closed::TopicUnavailable => limits.crashed,
                    Closed::ShutDown => limits.draining,
                };
                assert!(allowed, "listener {number} ({:?}): closed: {reason:?} {:?}", self.policy, limits);
                self.closed = true;
            }
        }
    }

    /// Checks, with nothing left to do, that the listener has had everything.
    pub(super) fn check_settled(&self, probe: Option<Id>, model: &Model) {
        if let Some(seq) = probe.and_then(|probe| model.messages[probe].seq)
            && !self.stalled
        {
            assert!(self.last == seq, "listener {}: the last message is number {seq}: {self:?}", self.number);
        }
    }
}
