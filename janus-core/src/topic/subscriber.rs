//! Subscribers in this process: a program takes messages as a client does, without a socket.
//!
//! A [`Subscriber`] is a slot without a link. Messages wait in its queue, which refers to the same frames that sockets get,
//! until they are taken. It is told what a client of the classic protocol cannot be told: every number, and every gap.

use std::future::poll_fn;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{self, Poll};

use bytes::Bytes;
use futures_util::Stream;
use serde::de::DeserializeOwned;

use crate::config::SlowConsumer;
use crate::delivery::queue::Taken;
use crate::delivery::{Batch, End, Slot, Subscription, Terms};
use crate::topic::{CatchUp, Excerpt, Hold, TopicError, TopicState, Topics, leave};
use crate::wire::classic::MessageParts;
use crate::wire::{Position, Timestamp, TopicName};

/// How a subscriber in this process wants its messages.
///
/// ```
/// use janus_core::{Position, SlowConsumer, SubscribeOptions};
///
/// let options = SubscribeOptions::default()
///     .since(Position { epoch: 7, seq: 41 })
///     .slow_consumer(SlowConsumer::DropOldest)
///     .max_queue_frames(16);
/// # let _ = options;
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct SubscribeOptions {
    since: Option<Position>,
    slow_consumer: Option<SlowConsumer>,
    max_queue_frames: Option<usize>,
    max_queue_bytes: Option<usize>,
}

impl SubscribeOptions {
    /// Goes on after this position instead of with the next message, if the topic still has what comes after it; see
    /// [`Subscriber::resumption`]. A program is trusted: [`Namespace::resume`](crate::Namespace::resume) is for clients.
    #[must_use]
    pub fn since(mut self, position: Position) -> Self {
        self.since = Some(position);
        self
    }

    /// What happens when the queue is full; by default what the topic's namespace says.
    #[must_use]
    pub fn slow_consumer(mut self, policy: SlowConsumer) -> Self {
        self.slow_consumer = Some(policy);
        self
    }

    /// Messages that may wait to be taken; 0 for no limit but that in bytes. By default
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
    /// There are as many topics as `max_topics` allows.
    #[error("there are as many topics as max_topics allows")]
    TooManyTopics,
    /// The instance is shutting down, or has ended.
    #[error("this Janus is shutting down")]
    ShuttingDown,
}

/// Whether a subscriber goes on where it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resumption {
    /// True if everything after the position that was asked for comes, without a hole. False also if none was asked for.
    pub resumed: bool,
    /// How many messages come that were published before; 0 unless resumed.
    pub missed: u64,
    /// The first message that could have been asked for, in the topic's life of now: with `first_available.seq - 1` as
    /// its number a position can be resumed from. What comes is what is published from now on, unless resumed.
    pub first_available: Position,
}

/// A message as its subscriber gets it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// Its topic.
    pub topic: TopicName,
    /// Its place in the topic's order, to resume from.
    pub position: Position,
    /// When it was numbered; the same for every subscriber.
    pub timestamp: Timestamp,
    event: Bytes,
    message_id: Bytes,
    data: Bytes,
}

impl Delivery {
    fn new(topic: &TopicName, batch: &Batch, seq: u64) -> Self {
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

    /// The data, as JSON text.
    #[must_use]
    pub fn data(&self) -> &str {
        text(&self.data)
    }

    /// Reads the data as a value.
    ///
    /// # Errors
    ///
    /// The data is not such a value; its publisher, or the subscriber's idea of it, is to blame.
    pub fn parse<T: DeserializeOwned>(&self) -> serde_json::Result<T> {
        serde_json::from_slice(&self.data)
    }
}

fn text(bytes: &[u8]) -> &str {
    str::from_utf8(bytes).expect("a publication is text")
}

/// What a subscriber finds next.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// A message.
    Message(Delivery),
    /// These messages do not come: they were dropped under the policy for slow consumers, were pushed out of what the
    /// topic keeps before they could be taken, or were lost when the topic had to start afresh.
    Gap {
        /// The number of the first.
        from: u64,
        /// The number of the last.
        to: u64,
    },
    /// Nothing comes any more.
    Closed(Closed),
}

/// Why nothing comes any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Closed {
    /// The queue was full under the policy `disconnect`; what was in it is lost. Subscribe again, since
    /// [`Subscriber::position`], which tells what can still be had.
    SlowConsumer,
    /// The topic keeps crashing and is out of service.
    TopicUnavailable,
    /// The instance has ended.
    ShutDown,
}

/// A subscription of this process to one topic. Dropping it ends it.
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
/// Messages wait in a queue until they are taken, limited as that of a client; what happens when it is full is the
/// [policy](SlowConsumer)'s choice. Under each of them but `disconnect` it is told what it did not get, as an
/// [`Event::Gap`] in its place. Nobody else waits for it.
#[derive(Debug)]
pub struct Subscriber {
    shared: Arc<Topics>,
    topic: Arc<TopicState>,
    subscription: Arc<Subscription>,
    /// What keeps the topic from ending as unused, and the next number to be asked for, while it catches up.
    catching_up: Option<(Hold, u64)>,
    resumption: Resumption,
    position: Position,
    closed: bool,
}

impl Subscriber {
    pub(crate) fn new(shared: &Arc<Topics>, topic: &str, options: SubscribeOptions) -> Result<Self, SubscribeError> {
        let name = TopicName::new(topic, shared.config.max_topic_bytes)
            .map_err(|error| SubscribeError::Invalid(error.to_string()))?;
        let own_limits = options.max_queue_frames.is_some() || options.max_queue_bytes.is_some();
        let own_terms = own_limits.then(|| {
            Arc::new(Terms {
                max_frames: options.max_queue_frames.map_or(shared.terms.max_frames, Terms::frame_limit),
                max_bytes: options.max_queue_bytes.unwrap_or(shared.terms.max_bytes),
                ..(*shared.terms).clone()
            })
        });
        let terms = own_terms.as_ref().unwrap_or(&shared.terms);
        let policy = options.slow_consumer.unwrap_or_else(|| shared.config.namespace(topic).slow_consumer);
        loop {
            if shared.is_draining() {
                return Err(SubscribeError::ShuttingDown);
            }
            let tick = shared.clock.tick();
            let topic = match shared.open_topic(&name, None) {
                // The table is closed, and this look at it came too early.
                Err(TopicError::Ended) => return Err(SubscribeError::ShuttingDown),
                opened => opened?,
            };
            let slot = Arc::new(Slot::local(shared.slot_ids.next(), terms));
            let subscription = Arc::new(Subscription::local(Arc::clone(&slot), policy));
            let hold = Hold::new(&topic);
            let first_available = topic.first_available(tick);
            let resumed = match options.since {
                Some(since) => topic.resumable(since, tick).map(|missed| missed.map(|missed| (since, missed))),
                None => Ok(None),
            };
            let joined = match resumed {
                Ok(Some((since, missed))) => Ok((since, Some(missed))),
                Ok(None) => topic.subscribe(Arc::clone(&subscription), tick).map(|position| (position, None)),
                Err(error) => Err(error),
            };
            let (position, missed) = match joined {
                Ok(joined) => joined,
                Err(TopicError::Ended) => {
                    shared.table.remove(&topic);
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            shared.trace_joined(&subscription, &name, position.seq);
            shared.locals.lock().insert(slot.id, slot);
            return Ok(Self {
                shared: Arc::clone(shared),
                catching_up: missed.map(|_| (hold, position.seq + 1)),
                topic,
                subscription,
                resumption: Resumption { resumed: missed.is_some(), missed: missed.unwrap_or(0), first_available },
                position,
                closed: false,
            });
        }
    }

    /// Whether it goes on where it was asked to, and from where it could have.
    #[must_use]
    pub fn resumption(&self) -> Resumption {
        self.resumption
    }

    /// The place after which it goes on: that of the last message or gap it has been given, or where it began.
    #[must_use]
    pub fn position(&self) -> Position {
        self.position
    }

    /// The topic that it is subscribed to.
    #[must_use]
    pub fn topic(&self) -> &TopicName {
        &self.topic.name
    }

    /// Waits for the next message or gap. `None` after [`Event::Closed`].
    ///
    /// Cancel safe: what has not been returned is returned by the next call.
    pub async fn next(&mut self) -> Option<Event> {
        poll_fn(|cx| self.poll_event(cx)).await
    }

    fn poll_event(&mut self, cx: &mut task::Context<'_>) -> Poll<Option<Event>> {
        if self.closed {
            return Poll::Ready(None);
        }
        loop {
            match self.subscription.slot.poll_take(cx) {
                Poll::Ready(Ok(Taken::Message { batch, seq })) => {
                    let message = Delivery::new(&self.topic.name, &batch, seq);
                    self.position = message.position;
                    return Poll::Ready(Some(Event::Message(message)));
                }
                Poll::Ready(Ok(Taken::Gap(seqs))) => return Poll::Ready(Some(self.gap(seqs))),
                Poll::Ready(Err(end)) => {
                    return Poll::Ready(Some(self.close(match end {
                        End::SlowConsumer { .. } => Closed::SlowConsumer,
                        End::MessagesLost => Closed::TopicUnavailable,
                        _ => Closed::ShutDown,
                    })));
                }
                Poll::Pending => {}
            }
            let Some((_, from)) = &mut self.catching_up else { return Poll::Pending };
            match self.topic.catch_up(&self.subscription, *from, self.shared.clock.tick()) {
                Ok(CatchUp::Joined) => self.catching_up = None,
                Ok(CatchUp::More(next)) => *from = next,
                Ok(CatchUp::Lost(first)) => {
                    let lost = std::mem::replace(from, first)..first;
                    return Poll::Ready(Some(self.gap(lost)));
                }
                Err(_) if self.shared.is_draining() => return Poll::Ready(Some(self.close(Closed::ShutDown))),
                Err(_) => return Poll::Ready(Some(self.close(Closed::TopicUnavailable))),
            }
        }
    }

    fn gap(&mut self, seqs: Range<u64>) -> Event {
        // The topic may have started afresh; a position of its earlier life would lead nowhere.
        self.position = Position { epoch: self.topic.epoch(), seq: seqs.end - 1 };
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
        leave(&self.topic, Arc::clone(&self.subscription));
        let slot = &self.subscription.slot;
        self.shared.locals.lock().remove(&slot.id);
        // What waits in its queue refers to the subscription, and would keep both alive.
        slot.close();
    }
}

impl From<TopicError> for SubscribeError {
    fn from(error: TopicError) -> Self {
        match error {
            TopicError::TooMany => Self::TooManyTopics,
            TopicError::Unavailable | TopicError::Ended => Self::TopicUnavailable,
        }
    }
}

/// Messages of a topic whose namespace keeps history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct History {
    /// Where these messages end: asking again, or subscribing, since this position goes on right after them. Of a topic that
    /// does not exist, both numbers are 0.
    pub position: Position,
    /// False if messages after the position that was asked for are no longer there, or if that position is not of this
    /// life of the topic; then the first of `messages` is the first there is. A limit makes no difference to it.
    pub complete: bool,
    /// Whether messages follow after these: the limit has cut them off.
    pub more: bool,
    /// In the order of their numbers.
    pub messages: Vec<Delivery>,
}

/// Why there is no history.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HistoryError {
    /// The topic's namespace keeps none; set `history` for it.
    #[error("the namespace of this topic keeps no history")]
    NotKept,
    /// The topic's name is not allowed: the caller's mistake.
    #[error("{0}")]
    Invalid(String),
}

/// The first `limit` messages of a topic's history after `since`, or the last `limit` of all.
pub(crate) fn history(
    shared: &Topics,
    topic: &str,
    since: Option<Position>,
    limit: usize,
) -> Result<History, HistoryError> {
    let name = TopicName::new(topic, shared.config.max_topic_bytes)
        .map_err(|error| HistoryError::Invalid(error.to_string()))?;
    if !shared.config.namespace(topic).history {
        return Err(HistoryError::NotKept);
    }
    let Some(excerpt) = shared.find_or_wake(&name, None).and_then(|topic| topic.history(since, limit, shared)) else {
        let position = Position { epoch: 0, seq: 0 };
        let complete = since.is_none_or(|since| since == position);
        return Ok(History { position, complete, more: false, messages: Vec::new() });
    };
    let Excerpt { position, complete, more, kept } = excerpt;
    let messages = kept.iter().flat_map(|(batch, seqs)| seqs.clone().map(|seq| Delivery::new(&name, batch, seq)));
    Ok(History { position, complete, more, messages: messages.collect() })
}
