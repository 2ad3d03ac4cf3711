//! The beginning of an event stream, whose client names all topics in the request.
//!
//! The head of the response waits until each topic has been joined or refused: a page publishes, or loads its state, as
//! soon as the stream is open, and must not miss the messages after that moment.
//!
//! A returning client knows its last message: an exact position in that message's topic, and a *horizon* for the other
//! topics, up to which the client has had every message (see [`horizon`](crate::delivery::horizon)). The missed
//! messages of all topics are sent in the order of their passes, and the client joins all topics in one moment
//! ([`Together`]). Any other order would make horizons wrong: a connection that ends between two messages of one topic
//! would lose the unsent messages of another.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{self, Poll};

use bytes::Bytes;

use super::opening::slowly;
use super::resuming::{Replay, Replaying};
use super::subscribing::{Asking, refused};
use super::{Step, Transport};
use crate::config::{Resume, SlowConsumer};
use crate::delivery::End;
use crate::ground::clock::Tick;
use crate::ground::tasks::yield_now;
use crate::topic::{Beginning, CatchUp, Entry, Hold, Together, TopicError, TopicState};
use crate::wire::{ErrorClass, FrameError, Position, Refusal, ServerEvent, Since, TopicName};

/// Portions for one client in one turn. A portion may be a single message.
const PORTIONS: usize = 16;

/// A stream that has not begun.
pub(super) struct Preface {
    /// The head of the response, to be sent before all queued frames. `None` once the stream has begun.
    held: Option<Bytes>,
    /// Topics of a returning client, each with its request.
    resuming: Vec<(Asking, Hold)>,
    /// The refusal of a topic; a temporary refusal, if there is any.
    refused: Option<FrameError>,
    /// Whether the client has named all its topics. The topics of its identity follow.
    all_asked: bool,
    /// The position and the horizon of a returning client, the same in each request.
    since: (Option<Since>, Option<u64>),
}

impl Preface {
    pub(super) fn new(held: Bytes) -> Self {
        Self { held: Some(held), resuming: Vec::new(), refused: None, all_asked: false, since: (None, None) }
    }
}

/// The part of the topics that a returning client has had.
#[derive(Clone, Copy)]
struct Seen {
    last: Position,
    horizon: u64,
    /// The pass of the last message; `None` if the message is no longer kept.
    pass: Option<u64>,
}

/// The point at which a client goes on in a topic.
struct Place {
    position: Position,
    /// As in [`ServerEvent::Subscribed`].
    missed: Option<u64>,
    repeated: u64,
}

impl Transport {
    /// Whether the stream waits for topics to be joined or refused.
    pub(super) fn is_held(&self) -> bool {
        self.rare.preface().is_some_and(|preface| preface.held.is_some())
    }

    /// Sends the head of the response, and then the queued frames.
    pub(super) fn begin(&mut self) {
        if let Some(held) = self.rare.preface_mut().and_then(|preface| preface.held.take()) {
            self.slot.uncork(held);
            self.expect_silence();
        }
    }

    /// Drops the head and the queued frames, for a refusal or a close.
    pub(super) fn give_up_preface(&mut self) {
        if self.rare.preface_mut().and_then(|preface| preface.held.take()).is_some() {
            self.slot.uncork_empty();
        }
    }

    /// Tells the client about a refused topic, behind the head of the response.
    pub(super) fn refuse_topic(&mut self, error: FrameError) {
        let FrameError { id, topic, code, message, .. } = &error;
        self.tell_error(*id, topic.as_ref(), *code, message);
        let is_final = |error: &FrameError| error.code.class() == ErrorClass::DoNot;
        let Some(preface) = self.rare.preface_mut() else { return };
        if preface.refused.as_ref().is_none_or(is_final) {
            preface.refused = Some(error);
        }
    }

    /// Keeps the request for an existing topic until every topic of the stream exists.
    pub(super) fn go_on_together(&mut self, asking: Asking, topic: &Arc<TopicState>) {
        if let Some(preface) = self.rare.preface_mut() {
            preface.resuming.push((asking, Hold::new(topic)));
        }
    }

    /// Whether the client has named all its topics, and topics of its identity may have to be joined.
    pub(super) fn has_asked_all(&self) -> bool {
        self.rare.preface().is_some_and(|preface| preface.all_asked)
    }

    /// How many topics wait to be resumed together.
    pub(super) fn resuming(&self) -> usize {
        self.rare.preface().map_or(0, |preface| preface.resuming.len())
    }

    /// Whether a topic waits to be resumed together with other topics.
    pub(super) fn is_resuming(&self, name: &TopicName) -> bool {
        self.rare.preface().is_some_and(|preface| preface.resuming.iter().any(|(asking, _)| asking.name == *name))
    }

    /// Notes the position with which the client returns.
    pub(super) fn note_since(&mut self, asking: &Asking) {
        if let Some(preface) = self.rare.preface_mut() {
            preface.since = (asking.since, asking.horizon);
        }
    }

    /// Joins the topics of the client's identity, and begins the stream once each topic has been joined or refused. A
    /// stream without any topic ends.
    pub(super) fn all_asked(&mut self) {
        while matches!(self.step, Step::Reading)
            && let Some(preface) = self.rare.preface_mut()
        {
            preface.all_asked = true;
            let (since, horizon) = preface.since;
            let Some(asking) = self.next_assignment() else { return self.begin_with_topics() };
            self.subscribe(Asking { since, horizon, ..asking });
        }
    }

    fn begin_with_topics(&mut self) {
        let resuming = self.rare.preface_mut().map(|preface| std::mem::take(&mut preface.resuming)).unwrap_or_default();
        let replays = self.resume_stream(resuming);
        let has_none = self.session.with_subscriptions(|subscriptions| subscriptions.is_empty()).unwrap_or(false);
        let refused = self.rare.preface_mut().and_then(|preface| preface.refused.take());
        if let Some(FrameError { id, code, message, .. }) = refused
            && has_none
        {
            // A topic may be out of service for a minute, and would refuse an early return again and again.
            let reconnect_after = (code.class() != ErrorClass::DoNot).then(slowly);
            self.say_goodbye(Refusal { id, code, message: &message, reconnect_after, status: None });
        } else {
            self.begin();
        }
        self.rare.forget_preface();
        if !replays.is_empty() && matches!(self.step, Step::Reading) {
            self.step = Step::Replaying(Box::new(Replaying { replays, together: true }));
        }
    }

    /// Tells the client its position in each topic, and returns the replays.
    fn resume_stream(&mut self, resuming: Vec<(Asking, Hold)>) -> Vec<Replay> {
        let seen = resuming.first().and_then(|(asking, _)| self.seen(asking, &resuming));
        // Before the places: a message that another home hands out in between comes after its place, and must not be
        // taken for a message up to the horizon.
        let now = self.shared.pass_numbers.horizon();
        let mut places = Vec::with_capacity(resuming.len());
        for (asking, hold) in resuming {
            match self.place(hold.topic(), asking.since, seen) {
                Ok(place) => places.push((asking, hold, place)),
                Err(error) => self.refuse_topic(refused(error, asking.id, &asking.name)),
            }
        }
        let misses_nothing = places.iter().all(|(.., place)| place.missed.is_none());
        let (last, horizon) = match seen {
            // No missed message has been sent yet, so the last id still holds.
            Some(Seen { last, horizon, .. }) if !misses_nothing => (Some(last), Some(horizon)),
            _ => (None, misses_nothing.then_some(now)),
        };
        let mut replays = Vec::with_capacity(places.len());
        for (Asking { name, since, id, presence, .. }, hold, Place { position, missed, repeated }) in places {
            let topic = hold.topic();
            self.slot.tell(&ServerEvent::Subscribed {
                id,
                topic: &name,
                position,
                last,
                horizon,
                since,
                missed,
                repeated,
            });
            let (subscription, from) = (Arc::new(self.subscription(&name)), position.seq + 1);
            // A connection may be lost in the middle of the replay.
            subscription.count_from(from);
            self.shared.trace_joined(&subscription, &name, position.seq);
            match missed {
                Some(missed) => self.note_resumed(&name, missed),
                None if since.and_then(Since::position).is_some() => self.note_not_resumed(),
                None => {}
            }
            self.joined((Arc::clone(topic), Arc::clone(&subscription)));
            if presence {
                self.watch(topic);
            }
            replays.push(Replay { topic: hold, subscription, from });
        }
        replays
    }

    /// The part that the client has had; `None` if the last message belongs to no topic of the stream.
    fn seen(&self, asking: &Asking, resuming: &[(Asking, Hold)]) -> Option<Seen> {
        // A horizon of another node of the cluster says nothing about the passes of this one.
        let horizon = asking.horizon.filter(|horizon| self.shared.pass_numbers.knows(*horizon))?;
        let since = asking.since?.position()?;
        let (_, last) = resuming.iter().find(|(_, hold)| hold.topic().knows(since))?;
        let topic = last.topic();
        // A conflated message takes the place of an older message, ahead of messages up to its horizon. The id may come
        // from before a reload or a restart, under another policy than now.
        let conflates = self.shared.config().namespace(topic.name.as_str()).slow_consumer == SlowConsumer::Conflate;
        let moves = conflates || topic.has_conflated();
        if moves || !self.may_resume(topic, since.into()) {
            return None;
        }
        let pass = topic.handed_out_by(since.seq).ok().flatten().filter(|pass| *pass > 0);
        Some(Seen { last: since, horizon, pass })
    }

    /// The place in a topic: after the last message in its own topic, after the horizon in the other topics, and the
    /// current position where messages are no longer kept.
    fn place(&self, topic: &TopicState, since: Option<Since>, seen: Option<Seen>) -> Result<Place, TopicError> {
        let resumes = self.shared.config().namespace(topic.name.as_str()).resume == Resume::Position;
        let since = match (since.filter(|_| resumes), seen) {
            (Some(Since::Position(since)), Some(Seen { horizon, .. })) if !topic.knows(since) => {
                Beginning::Pass(horizon)
            }
            (since, _) => Beginning::after(since),
        };
        let entry = topic.entry(since, self.shared.clock.tick())?;
        let Entry { position, missed, .. } = entry;
        let repeated = match (since, missed, seen) {
            (Beginning::Pass(_), Some(missed), Some(Seen { pass, .. })) => {
                let next = entry.first_seq() + missed;
                let unseen = pass.map_or(next, |pass| topic.first_following(pass));
                unseen.saturating_sub(entry.first_seq())
            }
            _ => 0,
        };
        Ok(Place { position, missed, repeated })
    }

    /// Sends the missed messages in the order of their passes, and then joins all topics at once.
    pub(super) fn replay_together(&mut self, cx: &mut task::Context<'_>) -> Poll<()> {
        let tick = self.shared.clock.tick();
        for _ in 0..PORTIONS {
            let Step::Replaying(replaying) = &mut self.step else { return Poll::Ready(()) };
            let next = match furthest_behind(&replaying.replays) {
                Ok(Some(next)) => next,
                Ok(None) => match join_live(&replaying.replays, tick) {
                    Ok(true) => {
                        self.step = Step::Reading;
                        return Poll::Ready(());
                    }
                    // Another home has handed a message out in the meantime.
                    Ok(false) => continue,
                    Err(_) => return self.end_without_messages(),
                },
                Err(_) => return self.end_without_messages(),
            };
            // A slow client gets the next portion when the queue is empty; `run` writes the queue.
            if !self.slot.is_flushed() {
                return Poll::Pending;
            }
            let replay = &mut replaying.replays[next.index];
            match replay.topic.topic().catch_up_to(&replay.subscription, replay.from, next.until, tick) {
                Ok(CatchUp::More(from)) => replay.from = from,
                Ok(CatchUp::Lost(lost)) if replay.subscription.tells() => {
                    self.shared.counters.resume_gaps.fetch_add(1, Ordering::Relaxed);
                    let (topic, from) = (replay.topic.topic(), replay.from);
                    let Position { epoch, seq: to } = lost;
                    self.slot.tell(&ServerEvent::Gap { topic: &topic.name, epoch, from, to });
                    replay.from = to + 1;
                }
                Ok(CatchUp::Lost(_) | CatchUp::Joined) | Err(_) => self.end(End::MessagesLost),
            }
        }
        // A crowd of returning clients must leave turns to all other connections.
        yield_now(cx)
    }

    fn end_without_messages(&mut self) -> Poll<()> {
        self.end(End::MessagesLost);
        Poll::Ready(())
    }
}

/// Puts the client on the lists of all topics in one moment, if the client has all messages that were handed out.
fn join_live(replays: &[Replay], tick: Tick) -> Result<bool, TopicError> {
    let joins: Vec<_> =
        replays.iter().map(|Replay { topic, subscription, from }| (&**topic.topic(), subscription, *from)).collect();
    let mut together = Together::lock(joins.iter().map(|(topic, ..)| *topic));
    let joined = together.join_live(&joins, tick);
    together.unlock();
    joined
}

/// The topic with the earliest unsent pass.
struct Next {
    index: usize,
    /// The last pass before the next topic has its turn.
    until: u64,
}

fn furthest_behind(replays: &[Replay]) -> Result<Option<Next>, TopicError> {
    let mut next = None;
    let mut least = u64::MAX;
    for (index, replay) in replays.iter().enumerate() {
        let Some(pass) = replay.topic.topic().handed_out_by(replay.from)? else { continue };
        if pass < least {
            next = Some(Next { index, until: least });
            least = pass;
        } else if let Some(next) = &mut next {
            next.until = next.until.min(pass);
        }
    }
    Ok(next)
}
