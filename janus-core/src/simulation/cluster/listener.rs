//! A subscriber in the process of a node, which comes and goes and continues on any node.
//!
//! The subscriber is looked at only after its waker was called, so a forgotten wake-up shows.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use super::super::trace::Trace;
use super::model::{Model, topic_name};
use crate::ground::simulated::Chance;
use crate::{
    Closed, Epoch, Event, Janus, Position, Resumption, SlowConsumer, SubscribeError, SubscribeOptions, Subscriber,
};

/// Whether the links of a node are up.
pub(super) fn is_up(janus: &Janus) -> bool {
    janus.tables().topics.cluster.as_ref().is_some_and(|cluster| cluster.is_up())
}

#[derive(Debug)]
struct Bell(AtomicBool);

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// The place of a subscriber in the order of its topic.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) position: Position,
    /// The epoch of the next message, unless a gap comes first. After a gap the next message may be of any epoch.
    epoch: Option<Epoch>,
}

#[derive(Debug)]
pub(super) struct Listener {
    pub(super) number: usize,
    /// The number of the node.
    pub(super) node: usize,
    pub(super) topic: usize,
    subscriber: Subscriber,
    policy: SlowConsumer,
    bell: Arc<Bell>,
    since: Option<Place>,
    /// `None` until the subscriber has its place.
    place: Option<Place>,
    /// No loss can happen, so no gap may be told.
    is_strict: bool,
    pub(super) stalled: bool,
    pub(super) closed: Option<Closed>,
}

impl Listener {
    pub(super) fn new(
        (number, node, topic): (usize, usize, usize),
        since: Option<Place>,
        janus: &Janus,
        chance: &Chance,
        is_strict: bool,
    ) -> Result<Self, SubscribeError> {
        let policies = [SlowConsumer::Disconnect, SlowConsumer::DropOldest, SlowConsumer::DropNewest];
        let policy = if chance.one_in(3) { chance.pick(&policies) } else { SlowConsumer::Disconnect };
        let most = chance.pick(&[3, 40, 1_000, 1_000]);
        let mut options = SubscribeOptions::default().slow_consumer(policy).max_queue_frames(most);
        if let Some(since) = since {
            options = options.since(since.position);
        }
        let subscriber = janus.subscribe_with(&topic_name(topic), options)?;
        let mut listener = Self {
            number,
            node,
            topic,
            subscriber,
            policy,
            bell: Arc::new(Bell(AtomicBool::new(true))),
            since,
            place: None,
            is_strict,
            stalled: false,
            closed: None,
        };
        if let Some(resumption) = listener.subscriber.resumption() {
            listener.begin(is_up(janus), resumption, listener.subscriber.position());
        }
        Ok(listener)
    }

    /// Where the subscriber would continue, if that is known.
    pub(super) fn place(&self) -> Option<Place> {
        self.place.or(self.since)
    }

    /// Takes about `at_most` events, if the waker was called. Returns whether there was any. `is_up` for
    /// the link of the node.
    pub(super) fn pump(&mut self, at_most: usize, is_up: bool, model: &mut Model, trace: &mut Trace) -> bool {
        if self.stalled || self.closed.is_some() || !self.bell.0.swap(false, Ordering::Relaxed) {
            return false;
        }
        let waker = Waker::from(Arc::clone(&self.bell));
        let mut cx = Context::from_waker(&waker);
        for taken in 0..at_most {
            let Poll::Ready(event) = self.poll(is_up, &mut cx) else { return taken > 0 };
            self.take(event.expect("a subscriber is not asked after its end"), model, trace);
            if self.closed.is_some() {
                return true;
            }
        }
        self.bell.0.store(true, Ordering::Relaxed);
        true
    }

    fn poll(&mut self, is_up: bool, cx: &mut Context<'_>) -> Poll<Option<Event>> {
        if self.place.is_none() {
            let ready = pin!(self.subscriber.ready()).poll(cx);
            match ready {
                Poll::Ready(Ok(resumption)) => self.begin(is_up, resumption, self.subscriber.position()),
                // A subscriber that is not impatient waits for the engine; the end is told by the next event.
                Poll::Ready(Err(_)) => {}
                Poll::Pending => return Poll::Pending,
            }
        }
        let event = pin!(self.subscriber.next()).poll(cx);
        if self.place.is_none()
            && let Some(resumption) = self.subscriber.resumption()
        {
            let position = self.subscriber.position();
            let position = match (&event, self.since) {
                (_, Some(since)) if resumption.resumed => since.position,
                (Poll::Ready(Some(Event::Message(message))), _) => {
                    Position { seq: message.seq() - 1, ..message.position }
                }
                (Poll::Ready(Some(Event::Gap { from, .. })), _) => Position { seq: from - 1, ..position },
                _ => position,
            };
            self.begin(is_up, resumption, position);
        }
        event
    }

    fn begin(&mut self, is_up: bool, resumption: Resumption, position: Position) {
        let place = Place { position, epoch: Some(position.epoch) };
        self.place = Some(if resumption.resumed {
            let since = self.since.expect("a subscriber without a position continues nowhere");
            assert!(since.position == position, "listener {}: {since:?}, but resumed at {position}", self.number);
            since
        } else {
            // A node without a link serves what it has.
            let is_due = self.is_strict && is_up;
            let (number, since) = (self.number, self.since);
            assert!(!is_due || since.is_none(), "listener {number}: {resumption:?} at {position} since {since:?}");
            place
        });
    }

    fn take(&mut self, event: Event, model: &mut Model, trace: &mut Trace) {
        let number = self.number;
        if let Event::Closed(reason) = event {
            trace.note("closed", number, reason as usize, 0);
            self.closed = Some(reason);
            return;
        }
        let place = self.place.unwrap_or_else(|| panic!("listener {number} gets {event:?} without a place"));
        let last = place.position.seq;
        match event {
            Event::Message(message) => {
                let at = message.position;
                let id = message.parse().expect("the data is a number");
                trace.note("heard", number, id, at.seq as usize);
                assert!(at.seq == last + 1, "listener {number} ({:?}): {at} after {place:?}: {self:?}", self.policy);
                let is_told = place.epoch.is_none_or(|epoch| epoch == at.epoch);
                assert!(is_told, "listener {number}: {at} after {place:?}, without a word about the epoch");
                model.heard(id, self.topic, at);
                self.place = Some(Place { position: at, epoch: Some(at.epoch) });
            }
            Event::Gap { from, to } => {
                trace.note("gap", number, from as usize, to as usize);
                model.gaps += 1;
                assert!(from == last + 1 && from <= to, "listener {number}: a gap of {from} to {to} after {place:?}");
                let may_drop = self.policy != SlowConsumer::Disconnect;
                assert!(!self.is_strict || may_drop, "listener {number}: {from} to {to} told as lost, and nothing is");
                self.place = Some(Place { position: Position { seq: to, ..self.subscriber.position() }, epoch: None });
            }
            Event::Closed(_) => {}
        }
    }

    /// Checks, with nothing left to do, that the subscriber has had everything.
    pub(super) fn check_settled(&self, last: Position) {
        let seq = self.place.map(|place| place.position.seq);
        assert!(seq == Some(last.seq), "the last message is at {last}, but listener {} is not: {self:?}", self.number);
    }
}
