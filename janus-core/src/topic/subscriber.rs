//! Subscribers in this process: a program takes messages as a client does, without a socket.
//!
//! A [`Subscriber`] is a slot without a link. Messages wait in the slot's queue until the program takes them. The queue
//! refers to the same frames as the sockets' queues. Unlike a client of the classic protocol, a subscriber is told
//! every number and every gap.

use std::future::poll_fn;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{self, Poll};

use bytes::Bytes;
use futures_util::{Stream, ready};
use serde::de::{self, DeserializeOwned};
use serde::ser;
use serde::{Serialize, Serializer};
use serde_json::value::RawValue;

use crate::config::SlowConsumer;
use crate::delivery::queue::Taken;
use crate::delivery::{Batch, End, Slot, Subscription};
use crate::topic::cluster::Want;
use crate::topic::{Beginning, CatchUp, Entry, Hold, TopicError, TopicState, Topics, leave};
use crate::wire::classic::MessageParts;
use crate::wire::{Base64, Epoch, NumberedMessage, Position, Since, Timestamp, TopicName, json_and_base64};

/// How a subscriber in this process wants its messages.
///
/// ```
/// use janus_core::{Position, SlowConsumer, SubscribeOptions};
///
/// let options = SubscribeOptions::default()
///     .since("9f86d081884c7d65.41".parse::<Position>()?)
///     .slow_consumer(SlowConsumer::DropOldest)
///     .max_queue_frames(16);
/// # let _ = options;
/// # Ok::<_, janus_core::wire::PositionError>(())
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct SubscribeOptions {
    since: Option<Since>,
    slow_consumer: Option<SlowConsumer>,
    max_queue_frames: Option<usize>,
    max_queue_bytes: Option<usize>,
}

impl SubscribeOptions {
    /// Begins after this [`Position`], with the [start](Since::Start) of the topic or with its [last](Since::Last) message
    /// instead of with the next message, if the topic still has the messages from there on; see
    /// [`Subscriber::resumption`]. A program is trusted: [`Namespace::resume`](crate::Namespace::resume) is for clients.
    #[must_use]
    pub fn since(mut self, since: impl Into<Since>) -> Self {
        self.since = Some(since.into());
        self
    }

    /// The policy for a full queue; by default the policy of the topic's namespace.
    #[must_use]
    pub fn slow_consumer(mut self, policy: SlowConsumer) -> Self {
        self.slow_consumer = Some(policy);
        self
    }

    /// Messages that may wait to be taken; 0 for no limit except the limit in bytes. By default
    /// [`Config::max_queue_frames`](crate::Config).
    #[must_use]
    pub fn max_queue_frames(mut self, frames: usize) -> Self {
        self.max_queue_frames = Some(frames);
        self
    }

    /// Bytes that may wait to be taken, with 64 for each batch of messages; by default
    /// [`Config::max_queue_bytes`](crate::Config). One message may always wait.
    #[must_use]
    pub fn max_queue_bytes(mut self, bytes: usize) -> Self {
        self.max_queue_bytes = Some(bytes);
        self
    }
}

/// Why a subscriber was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SubscribeError {
    /// The topic's name is not allowed: the caller's mistake.
    #[error("{0}")]
    Invalid(String),
    /// The topic keeps crashing and is out of service for `topic_quarantine`.
    #[error("the topic keeps failing and is out of service for now; try again in a minute")]
    TopicUnavailable,
    /// There are `max_topics` topics already.
    #[error("the topic limit (max_topics) is reached")]
    TooManyTopics,
    /// The cluster's engine is away, and has never said where the topic is.
    #[error("the cluster's engine cannot be reached; try again in a moment")]
    EngineUnavailable,
    /// The instance is shutting down, or has ended.
    #[error("the instance is shutting down")]
    ShuttingDown,
}

/// Whether a subscriber continues where it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resumption {
    /// True if the subscriber gets all messages after the requested position, without a hole. False if no position was
    /// requested.
    pub resumed: bool,
    /// How many of the messages to come were published before; 0 unless resumed.
    pub missed: u64,
    /// The first message that the subscriber could have begun with, in the topic's present life: a position with the
    /// number `first_available.seq - 1` can be resumed from. Unless resumed, the subscriber gets the messages published
    /// from now on.
    pub first_available: Position,
}

/// A message, delivered to a subscriber.
///
/// Serde writes the shape that messages have in event streams, with the keys of a message of `janus.v1.json`: the text of the
/// publisher is carried as it is, bytes are `data_base64` in place of `data`, and `time` is in milliseconds since the Unix
/// epoch. The epoch of the position is not
/// part of the shape; serialize [`position`](Self::position) for a client that resumes. For JSON, by `serde_json`.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # use janus_core::{Config, Janus, Message};
/// # let config = Config { listen: Vec::new(), http_listen: Vec::new(), ..Config::default() };
/// # let janus = Janus::builder().config(config).start().await?;
/// let mut subscriber = janus.subscribe("news")?;
/// # subscriber.ready().await?;
/// janus.publish("news", &1.5).await?;
/// let Some(janus_core::Event::Message(delivery)) = subscriber.next().await else { panic!("no message") };
/// let time = delivery.timestamp.unix_millis();
/// let json = format!(r#"{{"topic":"news","seq":1,"time":{time},"event":"","message_id":"","data":1.5}}"#);
/// assert_eq!(serde_json::to_string(&delivery)?, json);
/// # janus.shutdown().await;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// Its topic.
    pub topic: TopicName,
    /// Its place in the topic's order, to resume from.
    pub position: Position,
    /// The time of its numbering; the same for every subscriber.
    pub timestamp: Timestamp,
    event: Bytes,
    message_id: Bytes,
    /// As in the topic's frames: see [`json_and_base64`].
    data: Bytes,
}

impl Delivery {
    pub(super) fn new(topic: &TopicName, batch: &Batch, seq: u64) -> Self {
        let MessageParts { timestamp, event, message_id, data } = batch.parts(seq);
        Self {
            topic: topic.clone(),
            position: Position { epoch: batch.epoch, seq },
            timestamp,
            event: batch.keep(event),
            message_id: batch.keep(message_id),
            data: batch.keep(data),
        }
    }

    /// Its number in the topic.
    #[must_use]
    pub fn seq(&self) -> u64 {
        self.position.seq
    }

    /// The event, as JSON text.
    #[must_use]
    pub fn event(&self) -> &str {
        text(&self.event)
    }

    /// The message's identifier, as JSON text.
    #[must_use]
    pub fn message_id(&self) -> &str {
        text(&self.message_id)
    }

    /// The data, as JSON text; `null` if the payload is bytes.
    #[must_use]
    pub fn data(&self) -> &str {
        json_and_base64(text(&self.data)).0
    }

    /// The payload, if it is bytes: see [`Message::bytes`](crate::Message::bytes). Each call decodes the payload anew.
    #[must_use]
    pub fn bytes(&self) -> Option<Vec<u8>> {
        self.base64().map(Base64::decode)
    }

    /// The payload, if it is bytes, as text.
    #[must_use]
    pub fn base64(&self) -> Option<Base64<'_>> {
        json_and_base64(text(&self.data)).1
    }

    /// Bytes of the message as JSON, nearly.
    pub(crate) fn text_bytes(&self) -> usize {
        /// The keys and two numbers.
        const BESIDES: usize = 80;
        BESIDES + self.event.len() + self.message_id.len() + self.data.len()
    }

    /// The message as a codec gets it: for programs that write it in the form of a protocol of their own. `topic_json` is the
    /// name of the topic as a JSON string.
    #[must_use]
    pub fn numbered<'a>(&'a self, topic_json: &'a str) -> NumberedMessage<'a> {
        NumberedMessage {
            topic: &self.topic,
            topic_json,
            position: self.position,
            horizon: None,
            timestamp: self.timestamp,
            event: self.event(),
            message_id: self.message_id(),
            data: self.data(),
            base64: self.base64(),
        }
    }

    /// Reads the data as a value.
    ///
    /// # Errors
    ///
    /// The data is not a value of this type: a mistake of the publisher, or of the subscriber about the type. Bytes are no
    /// value of any type.
    pub fn parse<T: DeserializeOwned>(&self) -> serde_json::Result<T> {
        if self.base64().is_some() {
            return Err(de::Error::custom("the payload is bytes and not JSON: take it with Delivery::bytes"));
        }
        serde_json::from_slice(&self.data)
    }
}

impl Serialize for Delivery {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        MessageJson::of(self, Some(&self.topic))?.serialize(serializer)
    }
}

/// The shape of a message in event streams, and without the topic in the history of the HTTP API.
#[derive(Serialize)]
pub(super) struct MessageJson<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    topic: Option<&'a TopicName>,
    seq: u64,
    time: u64,
    event: &'a RawValue,
    message_id: &'a RawValue,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data_base64: Option<&'a str>,
}

impl<'a> MessageJson<'a> {
    /// Fails for text that is not JSON, which publishing does not let pass.
    pub(super) fn of<E: ser::Error>(message: &'a Delivery, topic: Option<&'a TopicName>) -> Result<Self, E> {
        let raw = |text: &'a str| {
            serde_json::from_str(text).map_err(|error| E::custom(format_args!("a message is not valid JSON: {error}")))
        };
        let base64 = message.base64();
        Ok(Self {
            topic,
            seq: message.seq(),
            time: message.timestamp.unix_millis(),
            event: raw(message.event())?,
            message_id: raw(message.message_id())?,
            data: if base64.is_none() { Some(raw(message.data())?) } else { None },
            data_base64: base64.map(Base64::as_str),
        })
    }
}

fn text(bytes: &[u8]) -> &str {
    str::from_utf8(bytes).expect("a publication is text")
}

/// The next event of a subscriber.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// A message.
    Message(Delivery),
    /// These messages do not come: they were dropped under the policy for slow consumers, were no longer kept by the
    /// topic when the subscriber could take them, or were lost when the topic started afresh.
    Gap {
        /// The number of the first message.
        from: u64,
        /// The number of the last message.
        to: u64,
    },
    /// The end: no further event comes.
    Closed(Closed),
}

/// Why a subscriber was closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Closed {
    /// The queue was full under the policy `disconnect`, and its messages are lost. Subscribe again, since
    /// [`Subscriber::position`]: [`Resumption`] tells which messages can still be had.
    SlowConsumer,
    /// The topic keeps crashing and is out of service.
    TopicUnavailable,
    /// The instance has ended.
    ShutDown,
}

/// A subscription of this process to one topic. A dropped subscriber has unsubscribed.
///
/// ```
/// use janus_core::{Config, Event, Janus};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let config = Config { listen: vec!["127.0.0.1:0".parse()?], ..Config::default() };
/// let janus = Janus::builder().config(config).start().await?;
/// let mut subscriber = janus.subscribe("quotes:eur")?;
/// janus.publish("quotes:eur", &1.07).await?;
/// let Some(Event::Message(message)) = subscriber.next().await else { panic!("nothing else was published") };
/// assert_eq!((message.seq(), message.parse::<f64>()?), (1, 1.07));
/// janus.shutdown().await;
/// # Ok(())
/// # }
/// ```
///
/// Messages wait in a queue until they are taken. The queue has the limits of a client's queue, and a
/// [policy](SlowConsumer) for the case that it is full. Under each policy except `disconnect` the subscriber is told
/// which messages it did not get, with an [`Event::Gap`] in their place. No other subscriber waits for a slow
/// subscriber.
#[derive(Debug)]
pub struct Subscriber {
    shared: Arc<Topics>,
    topic: Arc<TopicState>,
    subscription: Arc<Subscription>,
    progress: Progress,
    resumption: Option<Resumption>,
    position: Position,
    closed: bool,
}

/// How far a subscriber is on its way onto the topic's list. A hold keeps the topic from ending as unused.
#[derive(Debug)]
enum Progress {
    /// The cluster's engine has not said yet where the topic is.
    Waiting {
        _hold: Hold,
        since: Beginning,
    },
    /// The subscriber catches up, and this is its next number.
    CatchingUp {
        _hold: Hold,
        next: u64,
    },
    Joined,
}

impl Subscriber {
    pub(crate) fn new(shared: &Arc<Topics>, topic: &str, options: SubscribeOptions) -> Result<Self, SubscribeError> {
        let name = TopicName::new(topic, shared.config().max_topic_bytes)
            .map_err(|error| SubscribeError::Invalid(error.to_string()))?;
        let own_limits = options.max_queue_frames.is_some() || options.max_queue_bytes.is_some();
        let own_terms = own_limits
            .then(|| Arc::new(shared.terms.with_own_limits(options.max_queue_frames, options.max_queue_bytes)));
        let terms = own_terms.as_ref().unwrap_or(&shared.terms);
        let policy = options.slow_consumer.unwrap_or_else(|| shared.config().namespace(topic).slow_consumer);
        loop {
            if shared.is_draining() {
                return Err(SubscribeError::ShuttingDown);
            }
            let topic = match shared.open_topic(&name, None) {
                // The table is closed, and this look at it came too early.
                Err(TopicError::Ended) => return Err(SubscribeError::ShuttingDown),
                opened => opened?,
            };
            let slot = Arc::new(Slot::local(shared.slot_ids.next(), terms));
            let subscription = Arc::new(Subscription::local(Arc::clone(&slot), policy));
            let (hold, since) = (Hold::new(&topic), Beginning::after(options.since));
            let mut subscriber = Self {
                shared: Arc::clone(shared),
                progress: Progress::Waiting { _hold: hold, since },
                topic,
                subscription,
                resumption: None,
                position: options.since.and_then(Since::position).unwrap_or(Position { epoch: Epoch::NONE, seq: 0 }),
                closed: false,
            };
            if subscriber.topic.is_prepared(Want::Join(since), shared) {
                match subscriber.join(since) {
                    Ok(()) => {}
                    Err(TopicError::Ended) => {
                        shared.table.remove(&subscriber.topic);
                        continue;
                    }
                    Err(error) => return Err(error.into()),
                }
            }
            shared.locals.lock().insert(slot.id, slot);
            return Ok(subscriber);
        }
    }

    /// Joins the list of the topic, which is prepared.
    fn join(&mut self, since: Beginning) -> Result<(), TopicError> {
        let entry = self.topic.join(&self.subscription, since, self.shared.clock.tick())?;
        let Entry { position, missed, first_available } = entry;
        self.shared.trace_joined(&self.subscription, &self.topic.name, position.seq);
        self.position = position;
        self.resumption = Some(Resumption { resumed: missed.is_some(), missed: missed.unwrap_or(0), first_available });
        self.progress = match missed {
            Some(_) => Progress::CatchingUp { _hold: Hold::new(&self.topic), next: entry.first_seq() },
            None => Progress::Joined,
        };
        Ok(())
    }

    /// Joins the list once the cluster's engine has said where the topic is.
    fn poll_join(&mut self, is_patient: bool, cx: &mut task::Context<'_>) -> Poll<Result<(), TopicError>> {
        let Progress::Waiting { since, .. } = self.progress else { return Poll::Ready(Ok(())) };
        ready!(self.topic.poll_prepared(Want::Join(since), is_patient, &self.shared, cx))?;
        Poll::Ready(self.join(since))
    }

    /// Waits until the subscriber has its place in the topic, from which on it gets all messages. Without an engine this is
    /// so from the beginning; in a cluster it takes an answer of the engine. [`next`](Self::next) waits as well.
    ///
    /// # Errors
    ///
    /// [`SubscribeError::EngineUnavailable`] if the engine is away; the subscriber still waits for the engine, and the call
    /// may be repeated. The topic is out of service, or the instance is shutting down.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn ready(&mut self) -> Result<Resumption, SubscribeError> {
        poll_fn(|cx| self.poll_join(false, cx)).await?;
        Ok(self.resumption.expect("a subscriber that has joined knows its place"))
    }

    /// Whether the subscriber continues after the requested position, and the first position it could have requested. `None`
    /// until the subscriber is [ready](Self::ready), which takes time in a cluster only.
    #[must_use]
    pub fn resumption(&self) -> Option<Resumption> {
        self.resumption
    }

    /// The position after which the subscriber continues: of the last message or gap, or of its beginning. Until the
    /// subscriber is [ready](Self::ready), the requested position, or without one a position of no topic
    /// ([`Epoch::NONE`]).
    #[must_use]
    pub fn position(&self) -> Position {
        self.position
    }

    /// The subscriber's topic.
    #[must_use]
    pub fn topic(&self) -> &TopicName {
        &self.topic.name
    }

    /// Waits for the next message or gap. `None` after [`Event::Closed`].
    ///
    /// Cancel safe: an event not returned by this call is returned by the next call.
    pub async fn next(&mut self) -> Option<Event> {
        poll_fn(|cx| self.poll_event(cx)).await
    }

    fn poll_event(&mut self, cx: &mut task::Context<'_>) -> Poll<Option<Event>> {
        if self.closed {
            return Poll::Ready(None);
        }
        match ready!(self.poll_join(true, cx)) {
            Ok(()) => {}
            Err(_) if self.shared.is_draining() => return Poll::Ready(Some(self.close(Closed::ShutDown))),
            Err(_) => return Poll::Ready(Some(self.close(Closed::TopicUnavailable))),
        }
        loop {
            match self.subscription.slot.poll_take(cx) {
                Poll::Ready(Ok(Taken::Message { batch, seq })) => {
                    let message = Delivery::new(&self.topic.name, &batch, seq);
                    self.position = message.position;
                    return Poll::Ready(Some(Event::Message(message)));
                }
                Poll::Ready(Ok(Taken::Gap { epoch, seqs })) => return Poll::Ready(Some(self.gap(epoch, seqs))),
                Poll::Ready(Err(end)) => {
                    return Poll::Ready(Some(self.close(match end {
                        End::SlowConsumer { .. } => Closed::SlowConsumer,
                        End::MessagesLost => Closed::TopicUnavailable,
                        _ => Closed::ShutDown,
                    })));
                }
                Poll::Pending => {}
            }
            let Progress::CatchingUp { next: from, .. } = &mut self.progress else { return Poll::Pending };
            match self.topic.catch_up(&self.subscription, *from, self.shared.clock.tick()) {
                Ok(CatchUp::Joined) => self.progress = Progress::Joined,
                Ok(CatchUp::More(next)) => *from = next,
                Ok(CatchUp::Lost(to)) => {
                    let first = std::mem::replace(from, to.seq + 1);
                    self.position = to;
                    return Poll::Ready(Some(Event::Gap { from: first, to: to.seq }));
                }
                Err(_) if self.shared.is_draining() => return Poll::Ready(Some(self.close(Closed::ShutDown))),
                Err(_) => return Poll::Ready(Some(self.close(Closed::TopicUnavailable))),
            }
        }
    }

    fn gap(&mut self, epoch: Epoch, seqs: Range<u64>) -> Event {
        // Without an engine the topic may have started afresh, and a position of its earlier life would lead nowhere.
        let epoch = if self.topic.shard.is_some() { epoch } else { self.topic.epoch() };
        self.position = Position { epoch, seq: seqs.end - 1 };
        Event::Gap { from: seqs.start, to: seqs.end - 1 }
    }

    fn close(&mut self, reason: Closed) -> Event {
        self.closed = true;
        Event::Closed(reason)
    }
}

impl Stream for Subscriber {
    type Item = Event;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut task::Context<'_>) -> Poll<Option<Event>> {
        self.poll_event(cx)
    }
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        leave(&self.shared, &self.topic, Arc::clone(&self.subscription), None);
        let slot = &self.subscription.slot;
        self.shared.locals.lock().remove(&slot.id);
        // Entries of the queue refer to the subscription, and would keep both alive.
        slot.close();
    }
}

impl From<TopicError> for SubscribeError {
    fn from(error: TopicError) -> Self {
        match error {
            TopicError::TooMany => Self::TooManyTopics,
            TopicError::Unavailable | TopicError::Ended => Self::TopicUnavailable,
            TopicError::NoEngine => Self::EngineUnavailable,
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use futures_util::FutureExt;

    use super::*;
    use crate::config::Config;
    use crate::delivery::SenderPool;
    use crate::delivery::pass::Server;
    use crate::ground::figures::Via;
    use crate::ground::homes::HomeId;
    use crate::topic::history::HistoryError;
    use crate::topic::publish::{Pending, Publisher, Reply, route};
    use crate::topic::shared::tests::with_topics;
    use crate::topic::work::Next;
    use crate::wire::{HistoryQuery, Publication};

    fn news(topics: &Topics) -> Arc<TopicState> {
        topics.table.find("news").expect("the topic has a subscriber, or history")
    }

    /// Publishes this many messages, and hands them out in place of the topic's actor.
    pub(in crate::topic) fn publish(topics: &Topics, messages: usize) {
        let name = TopicName::new("news", 255).unwrap();
        let publication = Publication::of_checked(&name, "\"greeting\"", "42", "[1, 2]");
        publish_all(topics, vec![publication; messages]);
    }

    fn publish_all(topics: &Topics, publications: Vec<Publication>) {
        let name = TopicName::new("news", 255).unwrap();
        for publication in publications {
            assert!(
                route(
                    topics,
                    &mut None,
                    &name,
                    Publisher::default(),
                    Pending { publication, reply: Reply::promise(Via::API).0 },
                    None
                )
                .is_ok()
            );
        }
        let topic = news(topics);
        topic.number_inbox(topics);
        while let Next::Serve(pass) = topic.next(topics, HomeId::FIRST) {
            while pass.serve_piece(Server::Home(HomeId::FIRST)).is_some() {}
            topic.end_pass(pass, topics);
        }
    }

    fn subscribe(topics: &Arc<Topics>, options: SubscribeOptions) -> Subscriber {
        Subscriber::new(topics, "news", options).unwrap()
    }

    /// The events at hand: numbers of messages, bounds of gaps, and the end.
    fn events(subscriber: &mut Subscriber) -> Vec<String> {
        let next = || match subscriber.next().now_or_never()?? {
            Event::Message(message) => Some(message.seq().to_string()),
            Event::Gap { from, to } => Some(format!("gap {from} to {to}")),
            Event::Closed(reason) => Some(format!("{reason:?}")),
        };
        std::iter::from_fn(next).collect()
    }

    #[test]
    fn a_delivery_has_the_parts_that_were_published() {
        with_topics(Config::default(), |topics| {
            let mut subscriber = subscribe(topics, SubscribeOptions::default());
            publish(topics, 1);
            let Some(Some(Event::Message(message))) = subscriber.next().now_or_never() else { panic!("a message") };
            assert_eq!((message.event(), message.message_id(), message.data()), ("\"greeting\"", "42", "[1, 2]"));
            assert_eq!(message.parse::<(u8, u8)>().unwrap(), (1, 2));
            assert!(message.parse::<String>().is_err());
            assert_eq!((message.position, message.seq()), (subscriber.position(), 1));
            assert_eq!((message.bytes(), message.base64()), (None, None));
        });
    }

    #[test]
    fn bytes_come_back_and_are_no_value_of_any_type() {
        with_topics(Config::default(), |topics| {
            let mut subscriber = subscribe(topics, SubscribeOptions::default());
            let name = TopicName::new("news", 255).unwrap();
            publish_all(topics, vec![Publication::of_bytes(&name, "1", "2", b"\0\xff").unwrap()]);
            let Some(Some(Event::Message(message))) = subscriber.next().now_or_never() else { panic!("a message") };
            assert_eq!((message.event(), message.message_id(), message.data()), ("1", "2", "null"));
            assert_eq!((message.bytes(), message.base64().map(Base64::as_str)), (Some(vec![0, 0xff]), Some("AP8=")));
            assert!(message.parse::<Option<u8>>().unwrap_err().to_string().contains("Delivery::bytes"));
            let json = serde_json::to_string(&message).unwrap();
            assert!(json.ends_with(r#","event":1,"message_id":2,"data_base64":"AP8="}"#), "{json}");
        });
    }

    #[test]
    fn a_subscriber_resumes_after_a_position_and_then_gets_new_messages() {
        with_topics(Config::default(), |topics| {
            let first = subscribe(topics, SubscribeOptions::default());
            publish(topics, 4);
            let since = Position { seq: 2, ..first.position() };
            let mut second = subscribe(topics, SubscribeOptions::default().since(since));
            let Resumption { resumed, missed, first_available } = second.resumption().unwrap();
            assert_eq!((resumed, missed, first_available.seq, second.position()), (true, 2, 1, since));
            assert_eq!(events(&mut second), ["3", "4"]);
            publish(topics, 1);
            assert_eq!(events(&mut second), ["5"]);
        });
    }

    #[test]
    fn a_position_of_another_life_begins_with_the_next_message() {
        with_topics(Config::default(), |topics| {
            let first = subscribe(topics, SubscribeOptions::default());
            publish(topics, 2);
            let since = Position { epoch: Epoch::new(first.position().epoch.number() ^ 1), seq: 1 };
            let mut second = subscribe(topics, SubscribeOptions::default().since(since));
            assert_eq!((second.resumption().unwrap().resumed, second.position().seq), (false, 2));
            publish(topics, 1);
            assert_eq!(events(&mut second), ["3"]);
        });
    }

    #[test]
    fn dropped_messages_are_told_as_a_gap_in_their_place() {
        with_topics(Config::default(), |topics| {
            let options = SubscribeOptions::default().max_queue_frames(2);
            let mut oldest = subscribe(topics, options.slow_consumer(SlowConsumer::DropOldest));
            let mut newest = subscribe(topics, options.slow_consumer(SlowConsumer::DropNewest));
            publish(topics, 5);
            assert_eq!(events(&mut oldest), ["gap 1 to 3", "4", "5"]);
            assert_eq!(events(&mut newest), ["1", "2", "gap 3 to 5"]);
        });
    }

    #[test]
    fn a_slow_subscriber_is_closed_where_it_was() {
        with_topics(Config::default(), |topics| {
            let options = SubscribeOptions::default().max_queue_frames(2).slow_consumer(SlowConsumer::Disconnect);
            let mut subscriber = subscribe(topics, options);
            publish(topics, 1);
            assert_eq!(events(&mut subscriber), ["1"]);
            (0..3).for_each(|_| publish(topics, 1));
            assert_eq!(events(&mut subscriber), ["SlowConsumer"]);
            assert_eq!(subscriber.next().now_or_never(), Some(None));
            assert_eq!(subscriber.position().seq, 1, "the place to continue from");
        });
    }

    #[test]
    fn a_topic_that_starts_afresh_leaves_a_gap_and_a_new_epoch() {
        with_topics(Config::default(), |topics| {
            let mut subscriber = subscribe(topics, SubscribeOptions::default());
            let before = subscriber.position();
            let topic = news(topics);
            crate::topic::sequence::tests::number(&mut topic.core.lock().sequence, 2);
            topic.restart_cold(&SenderPool::default());
            assert_eq!(events(&mut subscriber), ["gap 1 to 2"]);
            assert_eq!(subscriber.position(), Position { epoch: topic.epoch(), seq: 2 });
            assert_ne!(subscriber.position().epoch, before.epoch);
        });
    }

    #[test]
    fn the_end_of_the_instance_closes_subscribers() {
        with_topics(Config::default(), |topics| {
            let mut subscriber = subscribe(topics, SubscribeOptions::default());
            topics.table.close().iter().for_each(|topic| topic.shut_down(&topics.senders));
            assert_eq!(events(&mut subscriber), ["ShutDown"]);
            let refused = Subscriber::new(topics, "other", SubscribeOptions::default());
            assert_eq!(refused.map(drop), Err(SubscribeError::ShuttingDown));
        });
    }

    #[test]
    fn a_look_at_all_subscribers_in_portions_sees_each_once() {
        with_topics(Config::default(), |topics| {
            let subscribers: Vec<_> = (0..5).map(|_| subscribe(topics, SubscribeOptions::default())).collect();
            let all: Vec<_> = subscribers.iter().map(|subscriber| subscriber.subscription.slot.id).collect();
            let mut seen = Vec::new();
            loop {
                let portion = topics.local_portion(seen.last().copied().unwrap_or(0), 2);
                assert!(portion.len() <= 2);
                if portion.is_empty() {
                    break;
                }
                seen.extend(portion.iter().map(|slot| slot.id));
            }
            assert_eq!(seen, all);
        });
    }

    #[test]
    fn a_dropped_subscriber_has_unsubscribed() {
        with_topics(Config::default(), |topics| {
            let subscriber = subscribe(topics, SubscribeOptions::default());
            let subscription = Arc::clone(&subscriber.subscription);
            assert_eq!((topics.local_slots().len(), subscription.has_ended()), (1, false));
            drop(subscriber);
            assert_eq!((topics.local_slots().len(), subscription.has_ended()), (0, true));
            news(topics).sweep();
            assert_eq!(news(topics).info().subscribers, 0);
        });
    }

    #[test]
    fn a_name_that_no_topic_can_have_is_refused() {
        with_topics(Config::default(), |topics| {
            for name in ["", "a\nb"] {
                let refused = Subscriber::new(topics, name, SubscribeOptions::default()).map(drop);
                assert!(matches!(refused, Err(SubscribeError::Invalid(_))), "{name:?}: {refused:?}");
                let history = topics.read_history(name, HistoryQuery::latest(1)).now_or_never().unwrap();
                assert!(matches!(history, Err(HistoryError::Invalid(_))), "{name:?}");
            }
        });
    }
}
