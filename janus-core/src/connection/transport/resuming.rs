//! Resuming: an attach takes over an earlier session, and missed messages are replayed from the topics' rings.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{self, Poll};

use futures_util::FutureExt;
use futures_util::future::join_all;

use super::subscribing::find_or_create;
use super::{CONTROL_TIMEOUT, Outcome, Step, Transport};
use crate::config::Resume;
use crate::delivery::{End, Subscription};
use crate::ground::tasks::yield_now;
use crate::hooks::Refused;
use crate::session::{Joined, SessionToken, Unclaimed};
use crate::topic::cluster::Want;
use crate::topic::leave;
use crate::topic::{Anchor, Beginning, CatchUp, Hold, Together, TopicError, TopicState};
use crate::wire::{ErrorCode, FrameError, Position, ServerEvent, Since, TopicName};

/// The attach of a returning client, once its topics exist.
pub(super) struct Prepared {
    pub(super) received: Vec<(TopicName, u64)>,
    /// The token of the connection's greeting.
    pub(super) own: SessionToken,
    /// The topics that failed to start.
    pub(super) failed: Vec<(TopicName, TopicError)>,
    /// The topics to which the client may not subscribe.
    pub(super) denied: Vec<(TopicName, Refused)>,
}

/// A topic that the client does not join, and why.
type Refusal = (TopicName, ErrorCode, String);

/// A topic that a client wants to resume.
pub(super) struct Wanted {
    pub(super) name: TopicName,
    /// Whether the client was subscribed to the topic before.
    pub(super) kept: bool,
    /// The anchor of the client's cursor, the first number of the client's count, and the count; `None` if the client
    /// cannot know a position.
    pub(super) from: Option<(Arc<Anchor>, u64, u64)>,
}

/// The topics in which a client still has to catch up.
pub(super) struct Replaying {
    pub(super) replays: Vec<Replay>,
    /// Whether the client gets the messages of all topics in the order of their passes, and joins the topics in the
    /// same turn: see [`beginning`](super::beginning). Otherwise topic follows topic, the last first.
    pub(super) together: bool,
}

impl Replaying {
    pub(super) fn one_by_one(replays: Vec<Replay>) -> Self {
        Self { replays, together: false }
    }
}

/// A topic in which a client catches up.
pub(super) struct Replay {
    /// Keeps the topic from ending as unused before the client is on its list.
    pub(super) topic: Hold,
    pub(super) subscription: Arc<Subscription>,
    /// The number of the next message for the client.
    pub(super) from: u64,
}

impl Transport {
    /// Carries out an attach: takes over the session of `token`, or, if there is none, begins anew with the topics that
    /// the client names.
    pub(super) fn attach(&mut self, token: &str, received: Vec<(TopicName, u64)>) {
        if received.len() > self.shared.config().max_topics_per_client {
            let message = "more topics than one client may be subscribed to; name fewer";
            return self.answer_error(FrameError::new(ErrorCode::TooManyTopics, message));
        }
        self.yield_all_assigned();
        let own = self.session.token;
        if let Some(token) = SessionToken::from_hex(token)
            && self.claim(&token) == Err(Unclaimed::Overtaken)
        {
            let message = "a connection opened after this one has this session; attach with a new connection";
            return self.say_bye(None, ErrorCode::SessionTaken, message);
        }
        let mut missing = Vec::new();
        // A classic client comes back to the node of its session, whose ring the count refers to.
        let want = Want::Join(Beginning::Now);
        let is_missing = |name: &TopicName| {
            let found = self.shared.topics.table.find(name.as_str());
            found.is_none_or(|topic| !topic.is_prepared(want, &self.shared))
        };
        self.session.with_cursors(|cursors| {
            missing.extend(cursors.iter().map(|cursor| &cursor.anchor.name).filter(|name| is_missing(name)).cloned());
        });
        missing.extend(received.iter().map(|(name, _)| name).filter(|name| is_missing(name)).cloned());
        let mut prepared = Box::new(Prepared { received, own, failed: Vec::new(), denied: Vec::new() });
        let mut asked = Vec::new();
        for Wanted { name, .. } in self.wanted(&prepared.received) {
            match self.permission_to_subscribe(&name) {
                Ok(None) => {}
                Ok(Some(answer)) => asked.push(answer.map(|answer| answer.err().map(|denied| (name, denied)))),
                Err(denied) => prepared.denied.push((name, denied)),
            }
        }
        if missing.is_empty() && asked.is_empty() {
            return self.resume(*prepared);
        }
        self.add_topics(missing.len());
        let (shared, by) = (Arc::clone(&self.shared), self.slot.account().cloned());
        self.step = Step::waiting(async move {
            prepared.denied.extend(join_all(asked).await.into_iter().flatten());
            missing.retain(|name| prepared.denied.iter().all(|(denied, _)| denied != name));
            let create_all = async {
                for name in missing {
                    if let Err(error) = find_or_create(&shared, &name, by.clone(), want).await {
                        prepared.failed.push((name, error));
                    }
                }
            };
            // A topic that was not made in time is missing later.
            let _ = tokio::time::timeout(CONTROL_TIMEOUT, create_all).await;
            Outcome::Prepared(prepared)
        });
    }

    /// Joins the topics of the session, each from the client's position if possible, and tells the client which topics
    /// resume.
    ///
    /// All of this happens under the locks of the topics: no message can come between the answer and the first moment of a
    /// subscription.
    ///
    /// The session continues under the connection's own token if the client has to count afresh anywhere. A client that
    /// never gets this answer returns with the old token, and its old counts must not be taken for new counts.
    pub(super) fn resume(&mut self, prepared: Prepared) {
        let own = prepared.own;
        let tick = self.shared.clock.tick();
        let (found, mut errors) = self.find_wanted(prepared);
        let mut joined = Vec::new();
        let mut replays = Vec::new();
        let mut answers = Vec::new();
        let mut together = Together::lock(found.iter().map(|(_, topic)| &**topic));
        for (Wanted { name, kept, from }, topic) in &found {
            let subscription = Arc::new(self.subscription(name));
            let hold = Hold::new(topic);
            let counted = from
                .as_ref()
                .filter(|(anchor, ..)| Arc::ptr_eq(anchor, &topic.anchor) && self.keeps_places(name))
                .and_then(|(_, first_seq, count)| Some((*first_seq, first_seq.checked_add(*count)?)));
            let since = if *kept { Beginning::Session(counted.map(|(_, from)| from)) } else { Beginning::Now };
            let entry = match together.join(topic, &subscription, since, tick) {
                Ok(entry) => entry,
                Err(error) => {
                    errors.push((name.clone(), error.code(), error.to_string()));
                    continue;
                }
            };
            self.shared.trace_joined(&subscription, name, entry.position.seq);
            if let (Some(missed), Some((first_seq, from))) = (entry.missed, counted) {
                subscription.count_from(first_seq);
                self.note_resumed(name, missed);
                replays.push(Replay { topic: hold, subscription: Arc::clone(&subscription), from });
            } else {
                self.note_joined(name);
                self.note_not_resumed();
            }
            joined.push((Arc::clone(topic), subscription));
            answers.push((name.clone(), entry.missed));
        }
        let taken = self.answer_attach(own, joined, &answers);
        together.unlock();
        self.note_all_present();
        // Another connection has taken over the session.
        for (topic, subscription) in taken {
            leave(&self.shared, &topic, subscription, Some(self.home));
        }
        for (name, code, message) in errors {
            self.tell_error(None, Some(&name), code, &message);
        }
        // Topics without a replay are joined already.
        self.step =
            if replays.is_empty() { Step::Reading } else { Step::Replaying(Box::new(Replaying::one_by_one(replays))) };
    }

    /// The topics that the client may join, and the errors for the other topics.
    fn find_wanted(&self, prepared: Prepared) -> (Vec<(Wanted, Arc<TopicState>)>, Vec<Refusal>) {
        let Prepared { received, failed, denied, .. } = prepared;
        let (mut found, mut errors) = (Vec::new(), Vec::new());
        for wanted in self.wanted(&received) {
            let name = &wanted.name;
            if let Some((_, denied)) = denied.iter().find(|(denied, _)| denied == name) {
                errors.push((wanted.name, denied.code, denied.message.clone()));
            } else if found.len() >= self.shared.config().max_topics_per_client {
                let message = "the limit of topics per client is reached; unsubscribe first";
                errors.push((wanted.name, ErrorCode::TooManyTopics, message.to_owned()));
            } else if let Some(topic) = self.shared.find_or_wake(name, self.slot.account())
                && topic.is_prepared(Want::Join(Beginning::Now), &self.shared)
            {
                found.push((wanted, topic));
            } else {
                let error = failed.iter().find(|(failed, _)| failed == name);
                let error = error.map_or(TopicError::Unavailable, |(_, error)| *error);
                errors.push((wanted.name, error.code(), error.to_string()));
            }
        }
        (found, errors)
    }

    /// Completes the claim, and tells the client the resumed topics. Returns the subscriptions if another connection has
    /// taken over the session.
    fn answer_attach(
        &mut self,
        own: SessionToken,
        mut joined: Vec<Joined>,
        answers: &[(TopicName, Option<u64>)],
    ) -> Vec<Joined> {
        if own != self.session.token && answers.iter().any(|(_, missed)| missed.is_none()) {
            self.session = self.shared.sessions.table.rename(&self.session, own);
            self.shared.table.set_session(&self.slot, &self.session);
        }
        joined.shrink_to_fit();
        let taken = self.session.complete_claim(joined);
        self.slot.tell(&ServerEvent::Attached { topics: answers, session: &self.session.token.to_hex() });
        taken
    }

    /// Whether returning clients of this topic get missed messages.
    fn keeps_places(&self, topic: &TopicName) -> bool {
        self.shared.config().namespace(topic.as_str()).resume != Resume::Off
    }

    /// Whether the client may begin there: anywhere, or only after a position within an earlier subscription of the
    /// session. A client can make up a position, but not a session.
    pub(super) fn may_resume(&self, topic: &Arc<TopicState>, since: Since) -> bool {
        match self.shared.config().namespace(topic.name.as_str()).resume {
            Resume::Position => true,
            Resume::Session => self
                .session
                .began_earlier(topic)
                .zip(since.position())
                .is_some_and(|(first, since)| since.seq >= first - 1),
            Resume::Off => false,
        }
    }

    /// The topics of a claimed session, and further topics named by the client.
    pub(super) fn wanted(&self, received: &[(TopicName, u64)]) -> Vec<Wanted> {
        let mut wanted: Vec<Wanted> = self.session.with_cursors(|cursors| {
            let wanted = cursors.iter().map(|cursor| {
                let count = received.iter().find(|(name, _)| *name == cursor.anchor.name);
                let from = count.zip(cursor.counts_from());
                let from = from.map(|((_, count), first_seq)| (Arc::clone(&cursor.anchor), first_seq, *count));
                Wanted { name: cursor.anchor.name.clone(), kept: true, from }
            });
            wanted.collect()
        });
        for (name, _) in received {
            if wanted.iter().all(|other| other.name != *name) {
                wanted.push(Wanted { name: name.clone(), kept: false, from: None });
            }
        }
        wanted
    }

    /// Sends missed messages, a portion at a time.
    pub(super) fn replay(&mut self, cx: &mut task::Context<'_>) -> Poll<()> {
        if matches!(&self.step, Step::Replaying(replaying) if replaying.together) {
            return self.replay_together(cx);
        }
        let tick = self.shared.clock.tick();
        while let Step::Replaying(replaying) = &mut self.step {
            let replays = &mut replaying.replays;
            let Some(replay) = replays.last_mut() else {
                self.step = Step::Reading;
                break;
            };
            // A client gets the next portion when the queue is empty; `run` writes the queue.
            if !self.slot.is_flushed() {
                return Poll::Pending;
            }
            match replay.topic.topic().catch_up(&replay.subscription, replay.from, tick) {
                Ok(CatchUp::Joined) => {
                    replays.pop();
                }
                Ok(CatchUp::More(from)) => {
                    replay.from = from;
                    // A mass of returning clients must leave turns to all other connections.
                    return yield_now(cx);
                }
                // The client was promised these messages.
                Ok(CatchUp::Lost(lost)) if replay.subscription.tells() => {
                    self.shared.counters.resume_gaps.fetch_add(1, Ordering::Relaxed);
                    let (topic, from) = (replay.topic.topic(), replay.from);
                    let Position { epoch, seq: to } = lost;
                    self.slot.tell(&ServerEvent::Gap { topic: &topic.name, epoch, from, to });
                    replay.from = to + 1;
                }
                Ok(CatchUp::Lost(_)) | Err(_) => self.end(End::MessagesLost),
            }
        }
        Poll::Ready(())
    }
}
