//! How a stream begins whose client names all its topics at once: server-sent events.
//!
//! Nothing is sent before each of the topics has been joined or refused, because a page that publishes, or loads its state,
//! as soon as its stream is open must not miss what comes after that.
//!
//! A client that comes back knows one message, its last: exactly where it is in that message's topic, and of the others the
//! *horizon*, up to which it has had everything (see [`horizon`](crate::delivery::horizon)). It gets what it has missed of all
//! of them in the order in which it was handed out, and joins them in one turn of the home arbiter. In any other order the
//! horizons of these messages would be wrong: the client would lose what it has not been sent of one topic if its
//! connection ended between two messages of another.

use std::sync::Arc;
use std::task::{self, Poll};

use bytes::Bytes;

use super::opening::slowly;
use super::resuming::{Replay, Replaying};
use super::subscribing::{Asking, refused};
use super::{Step, Transport};
use crate::config::{Resume, SlowConsumer};
use crate::delivery::End;
use crate::topic::{CatchUp, Hold, TopicError, TopicState};
use crate::turn::yield_now;
use crate::wire::{ErrorClass, Event, FrameError, Position, Refusal};

/// Portions that a client that catches up is given in one turn; each may be no more than one message.
const PORTIONS: usize = 16;

/// What is known of a stream until it begins.
pub(super) struct Preface {
    /// What is sent then, before what has been waiting for it. `None` after that.
    held: Option<Bytes>,
    /// Topics to go on with then.
    resuming: Vec<(Asking, Hold)>,
    /// Why it may not have one of its topics; one for which it may try again, if there is any.
    refused: Option<FrameError>,
}

impl Preface {
    pub(super) fn new(held: Bytes) -> Self {
        Self { held: Some(held), resuming: Vec::new(), refused: None }
    }
}

/// What a client that comes back has seen of its topics together.
#[derive(Clone, Copy)]
struct Seen {
    last: Position,
    horizon: u64,
    /// The pass that handed out its last message, if that is known.
    pass: Option<u64>,
}

/// Where a client goes on in a topic.
struct Place {
    position: Position,
    /// As in [`Event::Subscribed`].
    missed: Option<u64>,
    repeated: u64,
}

impl Transport {
    /// Whether the stream has not begun, because a topic that its client asks for has been neither joined nor refused.
    pub(super) fn is_held(&self) -> bool {
        self.preface.as_ref().is_some_and(|preface| preface.held.is_some())
    }

    /// Begins a stream that has been held back.
    pub(super) fn begin(&mut self) {
        if let Some(held) = self.preface.as_mut().and_then(|preface| preface.held.take()) {
            self.slot.uncork(held);
            self.expect_silence();
        }
    }

    /// Gives up a stream that has not begun: something else is said instead, or nothing.
    pub(super) fn give_up_preface(&mut self) {
        if self.preface.as_mut().and_then(|preface| preface.held.take()).is_some() {
            self.slot.uncork_empty();
        }
    }

    /// Tells a client that it may not have a topic, behind the preface if that is still held back.
    pub(super) fn refuse_topic(&mut self, error: FrameError) {
        let FrameError { id, topic, code, message, .. } = &error;
        self.tell_error(*id, topic.as_ref(), *code, message);
        let is_final = |error: &FrameError| error.code.class() == ErrorClass::DoNot;
        let Some(preface) = &mut self.preface else { return };
        if preface.refused.as_ref().is_none_or(is_final) {
            preface.refused = Some(error);
        }
    }

    /// Notes that the client wants to go on with a topic, which exists, until all of them do.
    pub(super) fn go_on_together(&mut self, asking: Asking, topic: &Arc<TopicState>) {
        if let Some(preface) = &mut self.preface {
            preface.resuming.push((asking, Hold::new(topic)));
        }
    }

    /// Begins a stream now that each of its topics has been joined or refused, or ends one that has none and will never
    /// have any.
    pub(super) fn all_asked(&mut self) {
        let resuming = self.preface.as_mut().map(|preface| std::mem::take(&mut preface.resuming)).unwrap_or_default();
        let replays = self.resume_stream(resuming);
        let has_none = self.session.with_subscriptions(|subscriptions| subscriptions.is_empty()).unwrap_or(false);
        let refused = self.preface.as_mut().and_then(|preface| preface.refused.take());
        if let Some(FrameError { id, code, message, .. }) = refused
            && has_none
        {
            // It would be refused again and again, by a topic that is out of service for a minute.
            let reconnect_after = (code.class() != ErrorClass::DoNot).then(slowly);
            self.say_goodbye(Refusal { id, code, message: &message, reconnect_after });
        } else {
            self.begin();
        }
        self.preface = None;
        if !replays.is_empty() && matches!(self.step, Step::Reading) {
            self.step = Step::Replaying(Box::new(Replaying { replays, together: true }));
        }
    }

    /// Tells the client where it goes on in each of these topics; what it is to catch up with.
    fn resume_stream(&mut self, resuming: Vec<(Asking, Hold)>) -> Vec<Replay> {
        let seen = resuming.first().and_then(|(asking, _)| self.seen(asking, &resuming));
        let mut places = Vec::with_capacity(resuming.len());
        for (asking, hold) in resuming {
            match self.place(hold.topic(), asking.since, seen) {
                Ok(place) => places.push((asking, hold, place)),
                Err(error) => self.refuse_topic(refused(error, asking.id, &asking.name)),
            }
        }
        let misses_nothing = places.iter().all(|(.., place)| place.missed.is_none());
        let (last, horizon) = match seen {
            // Nothing of what the client has missed has been sent yet.
            Some(Seen { last, horizon, .. }) if !misses_nothing => (Some(last), Some(horizon)),
            _ => (None, misses_nothing.then(|| self.shared.pass_numbers.horizon())),
        };
        let mut replays = Vec::with_capacity(places.len());
        for (Asking { name, since, id, .. }, hold, Place { position, missed, repeated }) in places {
            let topic = hold.topic();
            self.slot.tell(&Event::Subscribed { id, topic: &name, position, last, horizon, since, missed, repeated });
            let (subscription, from) = (Arc::new(self.subscription(&name)), position.seq + 1);
            // A connection that is lost before all of it has come goes on within it.
            subscription.count_from(from);
            self.shared.trace_joined(&subscription, &name, position.seq);
            if let Some(missed) = missed {
                self.note_resumed(&name, missed);
            }
            self.joined((Arc::clone(topic), Arc::clone(&subscription)));
            replays.push(Replay { topic: hold, subscription, from });
        }
        replays
    }

    /// What the client has seen of its topics together: nothing is known if its last message was of none of them.
    fn seen(&self, asking: &Asking, resuming: &[(Asking, Hold)]) -> Option<Seen> {
        let (since, horizon) = (asking.since?, asking.horizon?);
        let (_, last) = resuming.iter().find(|(_, hold)| hold.topic().knows(since))?;
        let topic = last.topic();
        // A conflated message takes the place of an older one, and so comes before what its horizon tells of.
        let moves = self.shared.config.namespace(topic.name.as_str()).slow_consumer == SlowConsumer::Conflate;
        if moves || !self.may_resume(topic, since) {
            return None;
        }
        let pass = topic.handed_out_by(since.seq).ok().flatten().filter(|pass| *pass > 0);
        Some(Seen { last: since, horizon, pass })
    }

    /// Where the client goes on in a topic: after its last message if that was of this topic, otherwise after what it has
    /// seen together with that, and from now on where that is not kept.
    fn place(&self, topic: &TopicState, since: Option<Position>, seen: Option<Seen>) -> Result<Place, TopicError> {
        let tick = self.shared.clock.tick();
        let now = topic.position()?;
        let resumes = self.shared.config.namespace(topic.name.as_str()).resume == Resume::Position;
        let anew = || topic.may_be_waited_for().map(|()| Place { position: now, missed: None, repeated: 0 });
        let Some(since) = since.filter(|_| resumes) else { return anew() };
        if topic.knows(since) {
            let missed = topic.resumable(since, tick)?;
            return missed.map_or_else(anew, |missed| Ok(Place { position: since, missed: Some(missed), repeated: 0 }));
        }
        let Some(Seen { horizon, pass, .. }) = seen else { return anew() };
        let Some(from) = topic.first_after(horizon, tick)? else { return anew() };
        let unseen = pass.map_or(now.seq + 1, |pass| topic.first_following(pass));
        Ok(Place {
            position: Position { epoch: now.epoch, seq: from - 1 },
            missed: Some(now.seq + 1 - from),
            repeated: unseen.saturating_sub(from),
        })
    }

    /// Sends what the client has missed, in the order in which it was handed out, and has it join all its topics at once.
    pub(super) fn replay_together(&mut self, cx: &mut task::Context<'_>) -> Poll<()> {
        let tick = self.shared.clock.tick();
        for _ in 0..PORTIONS {
            let Step::Replaying(replaying) = &mut self.step else { return Poll::Ready(()) };
            let next = match furthest_behind(&replaying.replays) {
                Ok(Some(next)) => next,
                Ok(None) => return self.join_together(tick),
                Err(_) => {
                    self.end(End::MessagesLost);
                    return Poll::Ready(());
                }
            };
            // Whoever takes what it asked for gets more; what waits is written by `run`.
            if !self.slot.is_flushed() {
                return Poll::Pending;
            }
            let replay = &mut replaying.replays[next.index];
            match replay.topic.topic().catch_up_to(&replay.subscription, replay.from, next.until, tick) {
                Ok(CatchUp::More(from)) => replay.from = from,
                Ok(CatchUp::Lost(first)) if replay.subscription.tells() => {
                    let (topic, from) = (replay.topic.topic(), replay.from);
                    let epoch = topic.epoch();
                    self.slot.tell(&Event::Gap { topic: &topic.name, epoch, from, to: first - 1 });
                    replay.from = first;
                }
                Ok(CatchUp::Lost(_) | CatchUp::Joined) | Err(_) => self.end(End::MessagesLost),
            }
        }
        // A mass of clients that come back must not stop everybody else for as long as they replay.
        yield_now(cx)
    }

    /// Puts a client that has caught up with all its topics on their lists.
    fn join_together(&mut self, tick: u32) -> Poll<()> {
        let Step::Replaying(replaying) = std::mem::replace(&mut self.step, Step::Reading) else {
            return Poll::Ready(());
        };
        for Replay { topic, subscription, from } in replaying.replays {
            if topic.topic().catch_up(&subscription, from, tick) != Ok(CatchUp::Joined) {
                self.end(End::MessagesLost);
                break;
            }
        }
        Poll::Ready(())
    }
}

/// The topic whose next messages come before those of the others.
struct Next {
    index: usize,
    /// The pass up to which they do.
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
