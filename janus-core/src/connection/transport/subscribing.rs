//! Subscribing: with the next message, or after a position named by the client.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{self, Poll, ready};

use actix::prelude::Request;
use futures_util::FutureExt;

use super::presence::no_presence;
use super::resuming::{Replay, Replaying};
use super::{CONTROL_TIMEOUT, Lengthy, Outcome, Step, Transport};
use crate::accounts::Account;
use crate::connection::Connections;
use crate::delivery::Subscription;
use crate::ground::homes::HomeId;
use crate::hooks::{Client, RESERVED, Refused, granted_subscribe};
use crate::session::Joined;
use crate::topic::cluster::Want;
use crate::topic::manager::Create;
use crate::topic::{Beginning, Entry, Hold, Subscribe, Topic, TopicError, TopicState, leave, subscribe_elsewhere};
use crate::wire::{ErrorCode, FrameError, Member, RequestId, ServerEvent, Since, TopicName};

/// The subscribe command of a client.
pub(super) struct Asking {
    pub(super) name: TopicName,
    pub(super) since: Option<Since>,
    pub(super) horizon: Option<u64>,
    pub(super) id: RequestId,
    /// Whether the server subscribes the client without a request.
    pub(super) is_assigned: bool,
    /// Whether the client watches the topic's presence.
    pub(super) presence: bool,
    /// The user as whom the client is a member of the topic; `None` for the user of the identity.
    pub(super) member: Option<Box<Member>>,
}

/// A subscribe that waits for the answer of a running topic. Small, because all clients may subscribe at the same
/// moment.
pub(super) struct Asked {
    pub(super) joining: Joining,
    pub(super) topic: Arc<TopicState>,
    pub(super) answer: Pin<Box<Request<Topic, Subscribe>>>,
}

/// A subscribe that waits for a topic to be made, or to recover.
pub(super) struct AskedPatiently {
    pub(super) name: TopicName,
    pub(super) id: RequestId,
    pub(super) subscription: Arc<Subscription>,
    pub(super) joined: Pin<Box<dyn Future<Output = Result<Joined, TopicError>>>>,
}

impl Transport {
    /// Asks the embedder's hook, if any, and then subscribes.
    pub(super) fn ask_to_subscribe(&mut self, asking: Box<Asking>) {
        if asking.presence && !self.shared.topics.has_presence(&asking.name) {
            return self.answer_error(no_presence(asking.id, &asking.name));
        }
        self.note_since(&asking);
        let permission = self.permission_to_subscribe(&asking.name);
        match permission {
            Ok(None) => self.in_turn(Lengthy::Subscribe(asking)),
            Ok(Some(answer)) => {
                self.step = Step::waiting(answer.map(|answer| Outcome::Permitted(asking, answer)));
            }
            Err(denied) => self.conclude(Outcome::Permitted(asking, Err(denied))),
        }
    }

    pub(super) fn permission_to_subscribe(
        &self,
        topic: &TopicName,
    ) -> Result<Option<impl Future<Output = Result<(), Refused>> + use<>>, Refused> {
        let client = self.client();
        let names = |client: &Client| client.identity.names_subscribe(topic);
        if self.is_reserved(topic) && !client.as_ref().is_some_and(names) {
            return Err(Refused::new(ErrorCode::Forbidden, RESERVED));
        }
        let Some(client) = client else { return Ok(None) };
        // Any client could do without its token, so a public topic is open to each.
        if self.shared.config().namespace(topic.as_str()).anonymous_subscribe {
            return Ok(None);
        }
        // A client keeps its grants when hooks are no longer needed, and those of the program hold without hooks.
        match self.shared.installed_hooks() {
            Some(hooks) => hooks.authorize_subscribe(&client, topic),
            None => granted_subscribe(&client.identity, topic).map(|_| None),
        }
    }

    /// Whether the topic belongs to a protocol, and takes a grant that names the topic.
    pub(super) fn is_reserved(&self, topic: &TopicName) -> bool {
        self.shared.is_reserved(topic)
    }

    pub(super) fn subscribe(&mut self, asking: Asking) {
        let Asking { name, since, id, .. } = &asking;
        let id = *id;
        let is_assigned = asking.is_assigned;
        let Some((already, count)) = self.session.with_subscriptions(|subscriptions| {
            (subscriptions.iter().any(|(topic, _)| topic.name == *name), subscriptions.len())
        }) else {
            return;
        };
        if already && !self.yield_assigned(name) {
            return self.slot.tell(&ServerEvent::AlreadySubscribed { id, topic: name });
        }
        let count = count + self.resuming() - usize::from(already);
        if count >= self.shared.config().max_topics_per_client {
            let message = "the limit of topics per client is reached; unsubscribe first";
            return self.answer_error(FrameError::new(ErrorCode::TooManyTopics, message).with_id(id).with_topic(name));
        }
        if since.is_some() || is_assigned || asking.presence || asking.member.is_some() {
            return self.find(asking);
        }
        let subscription = Some(Arc::new(self.subscription(name)));
        let by = self.slot.account().cloned();
        let (shared, home) = (Arc::clone(&self.shared), self.home);
        let joining = Joining { shared, home, name: asking.name, by, id, subscription };
        let Some(topic) = self.shared.topics.table.find(joining.name.as_str()) else {
            self.add_topics(1);
            self.step = joining.patiently();
            return;
        };
        if !topic.is_prepared(Want::Join(Beginning::Now), &self.shared) {
            self.step = joining.patiently();
            return;
        }
        if self.shared.homes.of_topic(topic.number) != home {
            match subscribe_elsewhere(&self.shared, &topic, joining.request()) {
                Some(Ok(())) => self.joined((topic, joining.joined())),
                // The topic has no actor for now, or has ended.
                Some(Err(_)) | None => self.step = joining.patiently(),
            }
            return;
        }
        self.step = match topic.actor.addr().map(|actor| actor.send(joining.request())) {
            Some(answer) => Step::Joining(Box::new(Asked { joining, topic, answer: Box::pin(answer) })),
            None => joining.patiently(),
        };
    }

    /// Finds or makes a topic for a client to resume.
    pub(super) fn find(&mut self, asking: Asking) {
        let want = Want::Join(Beginning::after(asking.since));
        if let Some(topic) = self.shared.topics.table.find(asking.name.as_str()) {
            if topic.is_prepared(want, &self.shared) {
                return self.go_on(asking, &topic);
            }
        } else {
            self.add_topics(1);
        }
        let (shared, by) = (Arc::clone(&self.shared), self.slot.account().cloned());
        self.step = Step::waiting(async move {
            let found = tokio::time::timeout(CONTROL_TIMEOUT, find_or_create(&shared, &asking.name, by, want)).await;
            let found = found.unwrap_or_else(|_| Err(shared.topics.late(&asking.name)));
            Outcome::Found(Box::new(asking), found)
        });
    }

    /// Subscribes from the client's position, if possible, and tells the client whether the topic resumes.
    ///
    /// No message can come between the answer and the first moment of the subscription.
    pub(super) fn go_on(&mut self, asking: Asking, topic: &Arc<TopicState>) {
        if self.is_held() {
            return self.go_on_together(asking, topic);
        }
        let Asking { name, since, id, is_assigned, presence, member, .. } = &asking;
        let tick = self.shared.clock.tick();
        let subscription = Arc::new(self.subscription(name));
        let hold = Hold::new(topic);
        let leads_on = since.filter(|since| self.may_resume(topic, *since));
        let tell = |Entry { position, missed, .. }: Entry| {
            let event = ServerEvent::Subscribed {
                id: *id,
                topic: name,
                position,
                last: None,
                // A client that asks for topic after topic knows a position in each.
                horizon: None,
                since: *since,
                missed,
                repeated: 0,
            };
            let assigned = ServerEvent::Assigned { topic: name, position };
            self.slot.tell(if *is_assigned { &assigned } else { &event });
        };
        let entry = match topic.join_and_tell(&subscription, Beginning::after(leads_on), tick, tell) {
            Ok(entry) => entry,
            Err(TopicError::Ended) if !self.shared.is_draining() => {
                self.shared.topics.table.remove(topic);
                return self.find(asking);
            }
            Err(error) => return self.answer_error(refused(error, *id, name)),
        };
        self.shared.trace_joined(&subscription, name, entry.position.seq);
        if let Some(missed) = entry.missed {
            self.note_resumed(name, missed);
            // A connection may be lost in the middle of the replay.
            subscription.count_from(entry.first_seq());
            let replay = Replay { topic: hold, subscription: Arc::clone(&subscription), from: entry.first_seq() };
            self.step = Step::Replaying(Box::new(Replaying::one_by_one(vec![replay])));
        } else if since.and_then(Since::position).is_some() {
            self.note_not_resumed();
        }
        self.joined_as((Arc::clone(topic), subscription), member.as_deref());
        if *presence {
            self.watch(topic);
        }
    }

    pub(super) fn subscription(&self, topic: &TopicName) -> Subscription {
        let policy = self.shared.config().namespace(topic.as_str()).slow_consumer;
        Subscription::of_connection(Arc::clone(&self.slot), policy)
    }

    /// Notes that the client is on the list of a topic.
    pub(super) fn joined(&self, joined: Joined) {
        self.joined_as(joined, None);
    }

    /// As [`joined`](Self::joined), for a client that is a member of the topic under a name of its own.
    fn joined_as(&self, joined: Joined, member: Option<&Member>) {
        self.session.forget_earlier(&joined.0.name, self.shared.config().max_topics_per_client - 1);
        self.note_joined(&joined.0.name);
        self.note_present(&joined.0, member);
        let mut joined = Some(joined);
        self.session.with_subscriptions(|subscriptions| {
            if subscriptions.is_empty() {
                // Most clients have one topic, and a vector begins with room for four.
                subscriptions.reserve_exact(1);
            }
            subscriptions.extend(joined.take());
        });
        // Another connection has taken over the session.
        if let Some((topic, subscription)) = joined {
            leave(&self.shared, &topic, subscription, Some(self.home));
        }
    }

    /// Takes the client off a topic. The latest `max_topics_per_client` topics that the client has left stay; an
    /// earlier topic ends if unused. So a client that goes from topic to topic takes no more than that many places.
    pub(super) fn unsubscribe(&mut self, name: &TopicName) {
        let left = self.session.with_subscriptions(|subscriptions| {
            let index = subscriptions.iter().position(|(topic, _)| topic.name == *name)?;
            Some(subscriptions.swap_remove(index))
        });
        let Some(Some((topic, subscription))) = left else { return };
        leave(&self.shared, &topic, subscription, Some(self.home));
        self.note_left(name);
        let max = self.shared.config().max_topics_per_client;
        let left = self.rare.make().left.get_or_insert_default();
        left.push_back(topic.number);
        // Two rounds for a single new entry: a topic that found no place among the ending topics is caught up with.
        for _ in 0..2 {
            if left.len() > max
                && let Some(place) = self.shared.topics.table.ending.try_place()
                && let Some(number) = left.pop_front()
            {
                self.shared.topics.table.end_if_unused(number, &self.shared, place);
            }
        }
        left.truncate(2 * max);
    }

    pub(super) fn unsubscribe_and_answer(&mut self, name: &TopicName, id: RequestId) {
        self.unsubscribe(name);
        self.session.forget_earlier(name, self.shared.config().max_topics_per_client);
        self.slot.tell(&ServerEvent::Unsubscribed { id, topic: name });
    }

    pub(super) fn await_topic(&mut self, cx: &mut task::Context<'_>) -> Poll<()> {
        let Step::Joining(asked) = &mut self.step else { return Poll::Ready(()) };
        let answer = ready!(asked.answer.as_mut().poll(cx));
        let Step::Joining(asked) = std::mem::replace(&mut self.step, Step::Reading) else { return Poll::Ready(()) };
        match answer {
            Ok(Ok(())) => self.joined((asked.topic, asked.joining.joined())),
            // The topic has crashed or ended.
            Ok(Err(_)) | Err(_) => self.step = asked.joining.patiently(),
        }
        Poll::Ready(())
    }
}

/// A subscribe under way.
pub(super) struct Joining {
    pub(super) shared: Arc<Connections>,
    /// The home of the Transport.
    pub(super) home: HomeId,
    pub(super) name: TopicName,
    pub(super) by: Option<Arc<Account>>,
    pub(super) id: RequestId,
    /// `None` once the subscription belongs to the Transport.
    pub(super) subscription: Option<Arc<Subscription>>,
}

impl Joining {
    pub(super) fn request(&self) -> Subscribe {
        let subscription = Arc::clone(self.subscription.as_ref().expect("it is given away at the end"));
        Subscribe { subscription, id: self.id }
    }

    pub(super) fn joined(mut self) -> Arc<Subscription> {
        self.subscription.take().expect("it is given away once")
    }

    /// Subscribes to a topic that must be made, or has just crashed; gives up after [`CONTROL_TIMEOUT`].
    pub(super) fn patiently(self) -> Step {
        let (name, id) = (self.name.clone(), self.id);
        let subscription = Arc::clone(self.subscription.as_ref().expect("it is given away at the end"));
        let joined = Box::pin(async move {
            let (shared, name) = (Arc::clone(&self.shared), self.name.clone());
            let joined = tokio::time::timeout(CONTROL_TIMEOUT, self.join()).await;
            joined.unwrap_or_else(|_| Err(shared.topics.late(&name)))
        });
        Step::JoiningPatiently(Box::new(AskedPatiently { name, id, subscription, joined }))
    }

    /// Finds or makes the topic and subscribes. If an actor crashes, asks the successor.
    async fn join(self) -> Result<Joined, TopicError> {
        loop {
            let topic = find_or_create(&self.shared, &self.name, self.by.clone(), Want::Join(Beginning::Now)).await?;
            match topic.actor.call(self.request()).await {
                Ok(Ok(())) => return Ok((topic, self.joined())),
                Ok(Err(TopicError::Ended)) => self.shared.topics.table.remove(&topic),
                Ok(Err(error)) => return Err(error),
                Err(_) => match topic.when_up().await {
                    Ok(()) => {}
                    Err(TopicError::Ended) => self.shared.topics.table.remove(&topic),
                    Err(error) => return Err(error),
                },
            }
        }
    }
}

/// Finds a topic that is ready for the client, or asks the TopicManager to make it. If the TopicManager crashes, asks the
/// successor.
pub(super) async fn find_or_create(
    shared: &Connections,
    name: &TopicName,
    by: Option<Arc<Account>>,
    want: Want,
) -> Result<Arc<TopicState>, TopicError> {
    loop {
        let found = shared.topics.table.find(name.as_str());
        let topic = match found {
            Some(topic) => topic,
            None => match shared.topic_manager.call(Create { name: name.clone(), by: by.clone() }).await {
                Ok(created) => created?,
                Err(_) => {
                    shared.topic_manager.when_up(None).await;
                    continue;
                }
            },
        };
        match topic.prepare(want, shared).await {
            Ok(()) => return Ok(topic),
            Err(TopicError::Ended) => shared.topics.table.remove(&topic),
            Err(error) => return Err(error),
        }
    }
}

/// A subscribe may take effect even after the client has given up or the connection has ended.
impl Drop for Joining {
    fn drop(&mut self) {
        if let Some(subscription) = self.subscription.take() {
            subscription.end();
            if let Some(topic) = self.shared.topics.table.find(self.name.as_str()) {
                leave(&self.shared, &topic, subscription, Some(self.home));
            }
        }
    }
}

pub(super) fn refused(error: TopicError, id: RequestId, topic: &TopicName) -> FrameError {
    FrameError::new(error.code(), error.to_string()).with_id(id).with_topic(topic)
}
