//! The way of a published message to its topic, and the answer to its publisher.
//!
//! A message on its way to a topic is a [`Pending`]: the publication and a [`Reply`]. The reply is answered exactly
//! once. A dropped reply (a topic panics with the message in hand, an instance is torn down) answers with an error
//! itself, so no publisher waits for ever, and no publisher believes in a lost message.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use crate::accounts::Account;
use crate::config::Config;
use crate::delivery::Slot;
use crate::ground::figures::{Figures, Via};
use crate::ground::homes::HomeId;
use crate::ground::trace::{self, Said, TraceKind};
use crate::topic::table::LookUp;
use crate::topic::{Enqueued, TopicError, TopicState, Topics, Waiter};
use crate::wire::{
    ClientId, Epoch, ErrorCode, Handling, IdempotencyKey, Position, Publication, RequestId, ServerEvent, TopicName,
    data_of_bytes,
};

/// The longest name of a topic under any setting.
const MAX_TOPIC_BYTES: usize = 4_096;

/// The answer to the publisher of an accepted message.
///
/// Serde writes and reads the answer of the HTTP API to a publication; `again` is left out unless true.
///
/// ```
/// use janus_core::Receipt;
///
/// let json = r#"{"epoch":"9f86d081884c7d65","seq":42,"subscribers":1}"#;
/// let receipt: Receipt = serde_json::from_str(json)?;
/// assert_eq!((receipt.seq, receipt.subscribers, receipt.again), (42, 1, false));
/// assert_eq!(serde_json::to_string(&receipt)?, json);
/// # Ok::<_, serde_json::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Receipt {
    /// Names the life of the topic in which the message was numbered. Random; changes when a topic starts afresh.
    pub epoch: Epoch,
    /// The message's number in its topic, without holes within an epoch. The first number is 1. 0 if the topic does not
    /// exist, because it has no subscriber and keeps no history.
    pub seq: u64,
    /// Subscribers of the topic when the message was numbered. Each gets the message, unless its connection ends first.
    pub subscribers: usize,
    /// Whether a message with the same [key](Message::idempotency_key) was published before. Then this is the receipt of
    /// that message, and this message was not published.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub again: bool,
}

impl Receipt {
    /// For a message without a topic.
    pub(crate) const UNNUMBERED: Self = Self { epoch: Epoch::NONE, seq: 0, subscribers: 0, again: false };
}

/// Why a message was not published. No subscriber gets a refused message, unless a variant says otherwise.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PublishError {
    /// The messages under way in this topic have reached `max_inflight_frames` or `max_inflight_bytes`. Try again, or
    /// use [`Janus::publish`](crate::Janus::publish), which waits.
    #[error("the topic's inflight limit is reached; try again later")]
    Full,
    /// The topic crashed with the message in hand, before the message had a number. No subscriber gets the message.
    #[error("the topic crashed with the message in hand; publish it again")]
    TopicCrashed,
    /// The topic keeps crashing and is out of service for `topic_quarantine`.
    #[error("the topic keeps failing and is out of service for now; try again in a minute")]
    TopicUnavailable,
    /// The topic would have to be made, because its namespace keeps history, and there are `max_topics` topics already.
    #[error("the topic limit (max_topics) is reached")]
    TooManyTopics,
    /// The instance is shutting down, or has ended.
    #[error("the instance is shutting down")]
    ShuttingDown,
    /// The cluster's engine cannot be reached, and the message was not sent to the engine. No subscriber gets the message.
    #[error("the cluster's engine cannot be reached; publish the message again in a moment, or at another server")]
    EngineUnavailable,
    /// The cluster's engine has refused the message.
    #[error("the cluster's engine has refused the message: {0}")]
    EngineRefused(String),
    /// The message was sent to the cluster's engine, and no answer came within `engine_timeout`. Subscribers may get the
    /// message. Publish it again with the same idempotency key to be sure that it is published once.
    #[error("the cluster's engine has not answered: the message may be published or not")]
    OutcomeUnknown,
    /// The publisher's connection was closed while the message waited, for room or for a hook. A publisher in this
    /// process never gets this error.
    #[error("the connection was closed before the message was published; publish it again on another connection")]
    ConnectionClosed,
    /// The client is not known to be on the server's own machine, and remote clients may not publish.
    #[error(
        "only clients on the server's own machine may publish; the server's operator can allow it with allow_publish"
    )]
    NotAllowed,
    /// The embedder's [hook](crate::hooks::Hooks::authorize_publish) has refused the message, or has not answered.
    /// Messages of publishers in this process are not subject to the hook.
    #[error("{reason}")]
    Denied {
        /// `forbidden`, or `authorization_failed` if the client may try again.
        code: ErrorCode,
        /// The reason for the publisher, for a person to read.
        reason: String,
    },
    /// The topic's name or the message is invalid, or the message is larger than `max_frame_bytes`: the caller's
    /// mistake.
    #[error("{0}")]
    Invalid(String),
}

impl PublishError {
    /// The code that a client is told.
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::NotAllowed => ErrorCode::PublishNotAllowed,
            Self::Denied { code, .. } => *code,
            // Connections wait for room. Only a publisher in this process gets this error.
            Self::Full => ErrorCode::Internal,
            Self::TopicCrashed => ErrorCode::TopicCrashed,
            Self::TopicUnavailable => ErrorCode::TopicUnavailable,
            Self::TooManyTopics => ErrorCode::TooManyTopicsOnServer,
            Self::ShuttingDown => ErrorCode::ServerDraining,
            Self::ConnectionClosed => ErrorCode::ConnectionClosed,
            Self::EngineUnavailable | Self::EngineRefused(_) => ErrorCode::EngineUnavailable,
            Self::OutcomeUnknown => ErrorCode::OutcomeUnknown,
            Self::Invalid(_) => ErrorCode::BadPublish,
        }
    }
}

/// A message of a publisher in this process: a value as JSON, or [bytes](Self::bytes). A clone shares the text.
///
/// ```
/// use janus_core::Message;
///
/// let message = Message::new("news", &["hello", "world"])?.event("greeting").message_id("42");
/// assert_eq!(message.topic(), "news");
/// # Ok::<_, janus_core::PublishError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Message {
    topic: TopicName,
    text: Arc<Text>,
    /// In a box, because few publishers say anything.
    handling: Option<Box<Handling>>,
}

/// The parts of a message besides its topic, each a JSON value, or for the data that of [`data_of_bytes`].
#[derive(Clone, Debug)]
struct Text {
    event: String,
    message_id: String,
    data: String,
}

impl Message {
    /// A message with this data, serialized as JSON, and with an empty event and message id.
    ///
    /// # Errors
    ///
    /// [`PublishError::Invalid`] if the topic's name is empty, longer than 4,096 bytes or holds control characters, or
    /// if the data cannot be serialized.
    pub fn new(topic: &str, data: &(impl Serialize + ?Sized)) -> Result<Self, PublishError> {
        let topic = topic_name(topic)?;
        let mut data = serde_json::to_string(data).map_err(|error| invalid(&error))?;
        // A type may write any text in place of a value.
        let value = Publication::check_data(&data).map_err(|error| invalid(&error))?;
        if value.len() < data.len() {
            data = value.to_owned();
        }
        let text = Text { event: "\"\"".to_owned(), message_id: "\"\"".to_owned(), data };
        Ok(Self { topic, text: Arc::new(text), handling: None })
    }

    /// A message whose payload is these bytes, with an empty event and message id.
    ///
    /// Clients of `janus.v1.cbor` get the bytes as they are; clients of other protocols see them as `data_base64`, a third
    /// longer, in place of `data`. Subscribers in this process take them with [`Delivery::bytes`](crate::Delivery::bytes).
    /// The limit `max_frame_bytes` counts the bytes as they are. In memory (the limits of topics and queues, the history) the
    /// message takes the length of the base64.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # use janus_core::{Config, Janus};
    /// use janus_core::{Event, Message};
    ///
    /// # let config = Config { listen: Vec::new(), http_listen: Vec::new(), ..Config::default() };
    /// # let janus = Janus::builder().config(config).start().await?;
    /// let mut frames = janus.subscribe("camera:1")?;
    /// # frames.ready().await?;
    /// janus.publish_message(Message::bytes("camera:1", b"\x00\xff")?.event("frame")).await?;
    /// let Some(Event::Message(frame)) = frames.next().await else { panic!("no message") };
    /// assert_eq!(frame.bytes().as_deref(), Some(&b"\x00\xff"[..]));
    /// # janus.shutdown().await;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`PublishError::Invalid`] if a topic cannot have this name, as in [`new`](Self::new).
    pub fn bytes(topic: &str, bytes: impl AsRef<[u8]>) -> Result<Self, PublishError> {
        let data = data_of_bytes(bytes.as_ref());
        let text = Text { event: "\"\"".to_owned(), message_id: "\"\"".to_owned(), data };
        Ok(Self { topic: topic_name(topic)?, text: Arc::new(text), handling: None })
    }

    /// Sets the message's `event`, a string.
    #[must_use]
    pub fn event(mut self, event: &str) -> Self {
        Arc::make_mut(&mut self.text).event = serde_json::Value::from(event).to_string();
        self
    }

    /// Sets the message's `message_id`, a string.
    #[must_use]
    pub fn message_id(mut self, message_id: &str) -> Self {
        Arc::make_mut(&mut self.text).message_id = serde_json::Value::from(message_id).to_string();
        self
    }

    /// Sets a key against repetitions. A message whose key was published to the topic within `idempotency_ttl` is not
    /// published, and its receipt is that of the first message, with [`again`](Receipt::again) true: a program that does not
    /// know whether a message was published may publish it again with the same key. In a cluster this holds on all nodes.
    #[must_use]
    pub fn idempotency_key(mut self, key: IdempotencyKey) -> Self {
        self.handling.get_or_insert_default().key = Some(key);
        self
    }

    /// Keeps the message from one client, mostly the client in whose name the program publishes; see
    /// [`Publication::excluding`].
    ///
    /// ```
    /// use janus_core::{ClientId, Message};
    ///
    /// let sender: ClientId = "718281828459045235.17".parse()?;
    /// let message = Message::new("room:5", "hello")?.exclude(sender);
    /// # let _ = message;
    /// # Ok::<_, Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn exclude(mut self, client: ClientId) -> Self {
        self.handling.get_or_insert_default().excluded = Some(client);
        self
    }

    /// The same message for another topic, with the same text: a large message for many topics is held and checked
    /// once, until it is published.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # use janus_core::{Config, Janus};
    /// use janus_core::Message;
    ///
    /// # let config = Config { listen: vec!["127.0.0.1:0".parse()?], http_listen: vec![], ..Config::default() };
    /// # let janus = Janus::builder().config(config).start().await?;
    /// let message = Message::new("news:de", "to whom it may concern")?.event("notice");
    /// for topic in ["news:de", "news:en", "news:fr"] {
    ///     janus.publish_message(message.for_topic(topic)?).await?;
    /// }
    /// # janus.shutdown().await;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`PublishError::Invalid`] if a topic cannot have this name, as in [`new`](Self::new).
    pub fn for_topic(&self, topic: &str) -> Result<Self, PublishError> {
        Ok(Self { topic: topic_name(topic)?, text: Arc::clone(&self.text), handling: self.handling.clone() })
    }

    /// The message's topic.
    #[must_use]
    pub fn topic(&self) -> &str {
        self.topic.as_str()
    }

    /// Bytes of its text: data, event and message id as JSON, without the topic. Bytes count as base64.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a message is never empty")]
    pub fn len(&self) -> usize {
        let Text { event, message_id, data } = &*self.text;
        event.len() + message_id.len() + data.len()
    }

    pub(crate) fn into_parts(self, config: &Config) -> Result<(TopicName, Publication), PublishError> {
        // The limit of the instance differs from the limit of `new`.
        let topic = TopicName::new(self.topic.as_str(), config.max_topic_bytes).map_err(|error| invalid(&error))?;
        let Text { event, message_id, data } = &*self.text;
        let publication = Publication::of_checked(&topic, event, message_id, data);
        let (length, limit) = (publication.payload_len(), config.max_frame_bytes);
        if length > limit {
            return Err(PublishError::Invalid(format!(
                "the message takes {length} bytes, and max_frame_bytes allows {limit}"
            )));
        }
        Ok((topic, publication.with_handling(self.handling)))
    }
}

fn topic_name(name: &str) -> Result<TopicName, PublishError> {
    TopicName::new(name, MAX_TOPIC_BYTES).map_err(|error| invalid(&error))
}

fn invalid(error: &dyn std::error::Error) -> PublishError {
    PublishError::Invalid(error.to_string())
}

/// Finds the topic of a message and puts the message into the inbox. If the topic has no room the message comes back,
/// and `waiter` is woken in its turn when there is room.
///
/// `last` is the topic of the publisher's last message, which is usually that of the next message as well.
pub(crate) fn route(
    shared: &Topics,
    last: &mut Option<Arc<TopicState>>,
    name: &TopicName,
    by: Publisher<'_>,
    mut pending: Pending,
    mut waiter: Option<Waiter<'_>>,
) -> Result<(), Pending> {
    let publisher = shared.tracer.is_on().then(|| (pending.reply.publisher(), pending.publication.len()));
    let tell = |fate: &str| {
        if let Some((from, bytes)) = &publisher {
            let about = format!("{bytes} bytes, {fate}");
            shared.tracer.tell(TraceKind::Publish, || Said { from: from.clone(), to: trace::topic(name), about });
        }
    };
    loop {
        if shared.is_draining() {
            pending.refuse(PublishError::ShuttingDown);
            return Ok(());
        }
        let cached = last.take().filter(|topic| topic.name == *name);
        let topic = match cached.map_or_else(|| topic_for(shared, name, by.account), |topic| Ok(Some(topic))) {
            Ok(Some(topic)) => topic,
            Ok(None) => {
                // No topic counts the message.
                let namespace = shared.figures.published.namespace(name.as_str());
                shared.figures.published.add(namespace, pending.reply.via(), 1);
                pending.reply.accept(name, Receipt::UNNUMBERED);
                tell("there is no such topic");
                return Ok(());
            }
            Err(error) => {
                pending.refuse(error);
                return Ok(());
            }
        };
        if shared.cluster.as_ref().is_some_and(|cluster| cluster.refuses(&topic)) {
            *last = Some(topic);
            pending.refuse(PublishError::EngineUnavailable);
            return Ok(());
        }
        match topic.enqueue(pending, waiter.as_mut()) {
            Enqueued::Accepted { wakes } => {
                if wakes {
                    topic.tell_of_message(shared, by.home);
                }
                *last = Some(topic);
                tell("accepted");
                return Ok(());
            }
            Enqueued::Refused => {
                *last = Some(topic);
                tell("refused");
                return Ok(());
            }
            Enqueued::Full(refused) => {
                *last = Some(topic);
                return Err(refused);
            }
            Enqueued::Ended(refused) => {
                shared.table.remove(&topic);
                pending = refused;
            }
        }
    }
}

/// Finds the topic of a message, or makes it for a later reader. `None` if no subscriber, session or reader can want
/// the message.
fn topic_for(
    shared: &Topics,
    name: &TopicName,
    by: Option<&Arc<Account>>,
) -> Result<Option<Arc<TopicState>>, PublishError> {
    loop {
        let looked_up = shared.table.look_up(name);
        if let LookUp::Found(topic) = looked_up {
            return Ok(Some(topic));
        }
        if shared.cluster_of(name).is_some() {
            // Only the engine knows whether there is a subscriber on any node.
            return Ok(Some(shared.open_topic(name, by)?));
        }
        if shared.config().namespace(name.as_str()).history {
            // A later reader may ask for the history.
            return Ok(Some(shared.open_topic(name, by)?));
        }
        if let LookUp::None = looked_up {
            return Ok(None);
        }
        // Sessions without a connection rely on the topic.
        if let Ok(topic) = shared.open_topic(name, by) {
            return Ok(Some(topic));
        }
        if shared.table.forget(name) {
            return Ok(None);
        }
        // Another thread has made the topic in the meantime.
    }
}

impl From<TopicError> for PublishError {
    fn from(error: TopicError) -> Self {
        match error {
            TopicError::TooMany => Self::TooManyTopics,
            TopicError::Unavailable => Self::TopicUnavailable,
            // Only a closed table answers so: the instance is shutting down.
            TopicError::Ended => Self::ShuttingDown,
            TopicError::NoEngine => Self::EngineUnavailable,
        }
    }
}

/// The publisher of a message. A publisher in this process has neither an account nor a home.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Publisher<'a> {
    /// The account of the publisher's address.
    pub(crate) account: Option<&'a Arc<Account>>,
    /// The home of the publisher's connection, on whose thread the message is published.
    pub(crate) home: Option<HomeId>,
}

/// A message without a number.
#[derive(Debug)]
pub(crate) struct Pending {
    pub(crate) publication: Publication,
    pub(crate) reply: Reply,
}

impl Pending {
    pub(crate) fn accounted_bytes(&self) -> usize {
        self.publication.len() + size_of::<Self>()
    }

    pub(crate) fn refuse(self, error: PublishError) {
        self.reply.refuse(error);
    }
}

/// The way back to the publisher, who waits for the outcome.
#[derive(Debug)]
pub(crate) struct Reply(Option<ReplyTo>);

#[derive(Debug)]
enum ReplyTo {
    /// A publisher in this process, or a connection that closes after its message.
    Promise { outcome: oneshot::Sender<Result<Receipt, PublishError>>, via: Via },
    /// A connection: gets an error frame for a failure, and a receipt on request.
    Connection { owed: Arc<Owed>, ack: bool, id: RequestId },
}

/// The answers owed to a connection for its messages to a topic. The messages of a read share it, because to count each
/// answer, and to hold slot and topic for each, would cost as much as to number a message.
#[derive(Debug)]
pub(crate) struct Owed {
    slot: Arc<Slot>,
    pub(crate) topic: TopicName,
    via: Via,
}

impl Owed {
    /// Owes answers to the client of a connection, which speaks its codec.
    pub(crate) fn to_client(slot: &Arc<Slot>, topic: TopicName) -> Arc<Self> {
        Self::new(slot, topic, Via::codec(slot.codec()))
    }

    /// Owes the answer to a request of an HTTP API, which counts as one of the program whatever carries the answer.
    pub(crate) fn to_request(slot: &Arc<Slot>, topic: TopicName) -> Arc<Self> {
        Self::new(slot, topic, Via::API)
    }

    fn new(slot: &Arc<Slot>, topic: TopicName, via: Via) -> Arc<Self> {
        slot.expect_answer();
        Arc::new(Self { slot: Arc::clone(slot), topic, via })
    }
}

impl Drop for Owed {
    fn drop(&mut self) {
        self.slot.answered();
    }
}

impl Reply {
    /// A reply to a publisher that counts the errors it is told, see [`told`].
    pub(crate) fn promise(via: Via) -> (Self, oneshot::Receiver<Result<Receipt, PublishError>>) {
        let (outcome, receiver) = oneshot::channel();
        (Self(Some(ReplyTo::Promise { outcome, via })), receiver)
    }

    /// The way by which the message has come.
    pub(crate) fn via(&self) -> Via {
        match &self.0 {
            Some(ReplyTo::Promise { via, .. }) => *via,
            Some(ReplyTo::Connection { owed, .. }) => owed.via,
            None => Via::API,
        }
    }

    /// A reply to a connection, with a receipt if `ack` says so.
    pub(crate) fn connection(owed: Arc<Owed>, ack: bool, id: RequestId) -> Self {
        Self(Some(ReplyTo::Connection { owed, ack, id }))
    }

    /// The publisher's name in a trace.
    fn publisher(&self) -> String {
        match &self.0 {
            Some(ReplyTo::Connection { owed, .. }) => trace::client(owed.slot.id),
            _ => "program".to_owned(),
        }
    }

    /// Whether the publisher wants to hear of success, too.
    pub(crate) fn wants_receipt(&self) -> bool {
        !matches!(self.0, Some(ReplyTo::Connection { ack: false, .. }))
    }

    /// The message was numbered. The publisher hears of success only on request.
    pub(crate) fn accept(mut self, topic: &TopicName, receipt: Receipt) {
        match self.0.take() {
            // The publisher may have gone away.
            Some(ReplyTo::Promise { outcome, .. }) => drop(outcome.send(Ok(receipt))),
            Some(ReplyTo::Connection { owed, ack: true, id }) => {
                let Receipt { epoch, seq, subscribers, again } = receipt;
                let position = Position { epoch, seq };
                owed.slot.tell(&ServerEvent::Published { id, topic, position, subscribers, again });
            }
            Some(ReplyTo::Connection { .. }) => {}
            None => {}
        }
    }

    pub(crate) fn refuse(mut self, error: PublishError) {
        self.answer_error(error);
    }

    fn answer_error(&mut self, error: PublishError) {
        match self.0.take() {
            Some(ReplyTo::Promise { outcome, .. }) => drop(outcome.send(Err(error))),
            Some(ReplyTo::Connection { owed, id, .. }) => {
                let (topic, code, message) = (Some(&owed.topic), error.code(), error.to_string());
                owed.slot.figures().publish_errors.add(code);
                owed.slot.tell(&ServerEvent::Error { id, topic, code, message: &message });
            }
            None => {}
        }
    }
}

/// Counts the error that a publisher is told, where the publisher is no connection.
pub(crate) fn told<T>(outcome: Result<T, PublishError>, figures: &Figures) -> Result<T, PublishError> {
    outcome.inspect_err(|error| figures.publish_errors.add(error.code()))
}

impl Drop for Reply {
    fn drop(&mut self) {
        // A topic drops a message in hand only when it panics. Without a panic the message still waited, and the
        // instance or the connection has ended.
        self.answer_error(match self.0 {
            _ if std::thread::panicking() => PublishError::TopicCrashed,
            Some(ReplyTo::Connection { .. }) => PublishError::ConnectionClosed,
            _ => PublishError::ShuttingDown,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_for_many_topics_holds_its_text_once() {
        let message = Message::new("one", &"x".repeat(1_000)).unwrap().event("e");
        let other = message.for_topic("two").unwrap();
        assert!(Arc::ptr_eq(&message.text, &other.text));
        assert_eq!((message.topic(), other.topic()), ("one", "two"));
        // A change copies the text.
        let other = other.message_id("2");
        assert_eq!((&*message.text.message_id, &*other.text.message_id), ("\"\"", "\"2\""));
        assert!(matches!(message.for_topic("a\nb"), Err(PublishError::Invalid(_))));
    }

    #[test]
    fn max_frame_bytes_counts_bytes_as_they_are() {
        let config = Config { max_frame_bytes: 1_000, ..Config::default() };
        let publication = |length| Message::bytes("news", vec![0xff; length]).unwrap().into_parts(&config);
        let beside = publication(0).unwrap().1.payload_len();
        let (_, longest) = publication(1_000 - beside).unwrap();
        assert_eq!((longest.payload_len(), longest.len() > 1_250), (1_000, true));
        assert!(matches!(publication(1_001 - beside), Err(PublishError::Invalid(_))));
    }

    #[test]
    fn raw_text_of_a_type_is_kept_as_one_json_value() {
        let raw = serde_json::value::RawValue::from_string(" [1.50] ".to_owned()).unwrap();
        assert_eq!(Message::new("news", &raw).unwrap().text.data, "[1.50]");
    }
}
