//! The program's handle to a client, and the calls.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::Stream;
use serde::Serialize;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::AbortHandle;
use tokio::time::timeout;

use super::desk::{Assigned, Command};
use super::item::{HistoryPage, Presence, Published};
use super::request::{Exclude, OwnPayload, Publication, Reply, Request};
use super::subscription::{Feed, Room, Subscription};
use super::task::Trouble;
use super::{ClientBuilder, ClientError};
use crate::wire::{ClientId, HistoryQuery, IdempotencyKey, Since};

/// A connection to a Janus server that comes back by itself; see the [module](super) for an example.
///
/// A handle: a clone is the same client. With the last handle the connection is closed, the client's task ends, and all
/// subscriptions end; [`close`](Self::close) does this in order. Each call has a limit of time
/// ([`request_timeout`](ClientBuilder::request_timeout)) and may be dropped at any point.
#[derive(Clone)]
pub struct Client {
    shared: Arc<Shared>,
}

struct Shared {
    commands: mpsc::Sender<Command>,
    state: watch::Receiver<State>,
    trouble: Trouble,
    task: AbortHandle,
    changed: Arc<Notify>,
    room: Room,
    request_timeout: Duration,
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What a client is doing. `Debug` hides the session, because states end in logs.
#[derive(Clone)]
#[non_exhaustive]
pub enum State {
    /// Waits for a connection.
    Connecting,
    /// The server has sent its welcome.
    Open {
        /// The public name of the connection, to be excluded from a publication of a backend.
        client: Option<ClientId>,
        /// The token of the session, a secret; see [`session`](ClientBuilder::session).
        session: String,
    },
    /// The connection was lost, or an attempt has failed; the client tries again.
    Waiting {
        /// Why.
        error: ClientError,
        /// The time from the failure to the next attempt.
        retry_in: Duration,
    },
    /// The end.
    Closed {
        /// Why, [a panic](ClientError::Panicked) included; `None` if the program has closed the client.
        error: Option<ClientError>,
    },
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connecting => f.write_str("Connecting"),
            Self::Open { client, session: _ } => f.debug_struct("Open").field("client", client).finish_non_exhaustive(),
            Self::Waiting { error, retry_in } => {
                f.debug_struct("Waiting").field("error", error).field("retry_in", retry_in).finish()
            }
            Self::Closed { error } => f.debug_struct("Closed").field("error", error).finish(),
        }
    }
}

impl Client {
    /// The settings of a client of the server at this URL: `ws://`, or `wss://` for TLS. Without a path, the path is `/ws`.
    /// `http://` is read as `ws://`, and `https://` as `wss://`.
    pub fn builder(url: impl Into<String>) -> ClientBuilder {
        ClientBuilder::new(url.into())
    }

    pub(super) fn new(
        commands: mpsc::Sender<Command>,
        (state, trouble): (watch::Receiver<State>, Trouble),
        task: AbortHandle,
        changed: Arc<Notify>,
        room: Room,
        request_timeout: Duration,
    ) -> Self {
        Self { shared: Arc::new(Shared { commands, state, trouble, task, changed, room, request_timeout }) }
    }

    /// What the client is doing, now and from now on. A state that is followed by another at once may not be seen.
    ///
    /// ```
    /// # use janus_core::client::{Client, State};
    /// # async fn watch(client: Client) {
    /// let mut state = client.state();
    /// while state.changed().await.is_ok() {
    ///     if let State::Waiting { error, retry_in } = &*state.borrow_and_update() {
    ///         eprintln!("{error}; next attempt in {retry_in:?}");
    ///     }
    /// }
    /// # }
    /// ```
    #[must_use]
    pub fn state(&self) -> watch::Receiver<State> {
        self.shared.state.clone()
    }

    /// Subscribes to a topic, from the next message on, unless told otherwise. To be awaited:
    ///
    /// ```no_run
    /// # use janus_core::client::{Client, Item};
    /// # use janus_core::Since;
    /// # async fn subscribe(client: Client) -> Result<(), janus_core::client::ClientError> {
    /// let mut board = client.subscribe("board").since(Since::Start).await?;
    /// while let Some(item) = board.next().await {
    ///     match item? {
    ///         Item::Message(message) => println!("{} {}", message.seq(), message.data()),
    ///         Item::Gap(_) => println!("messages are missing: load the state anew"),
    ///         _ => {}
    ///     }
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// Any refusal, final or not, such as `forbidden` or `topic_unavailable`; [`ClientError::AlreadySubscribed`]; no answer in
    /// time. A dropped call that was not sent yet sends nothing; otherwise the client leaves the topic, and until the answer
    /// of the server comes, the call counts in [`max_pending`](ClientBuilder::max_pending) and further calls for the same
    /// topic wait. Once the call has returned, the client comes back to the topic by itself, and a final refusal alone ends the
    /// subscription.
    pub fn subscribe(&self, topic: impl Into<String>) -> Subscribe<'_> {
        Subscribe { client: self, topic: topic.into(), since: None, presence: false }
    }

    /// Publishes a value as JSON. To be awaited for the receipt:
    ///
    /// ```no_run
    /// # use janus_core::client::Client;
    /// # async fn publish(client: Client) -> Result<(), Box<dyn std::error::Error>> {
    /// let receipt = client.publish("orders", &"one tea").event("order").idempotency_key("order-17".parse()?).await?;
    /// println!("number {} for {} subscribers", receipt.seq(), receipt.subscribers);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// The refusal of the server; [`ClientError::NotSent`], [`ClientError::TooLarge`] and [`ClientError::TooManyPending`],
    /// after which the message is certain not to be published. After [`ClientError::Late`] and [`ClientError::Lost`] the
    /// message may have been published, and the same call may be repeated with the same key. With an idempotency key the
    /// client itself repeats the message on its next connection, within the time of the call. If the client ends before the
    /// receipt comes, with [`ClientError::Closed`] or another final error of the client, the message may have been published
    /// as well.
    ///
    /// A dropped call is not sent if it waits for a connection; otherwise the message may be published.
    pub fn publish(&self, topic: impl Into<String>, data: &(impl Serialize + ?Sized)) -> Publish<'_> {
        let payload = serde_json::to_string(data).map(OwnPayload::Json);
        self.publication(topic.into(), payload.map_err(|error| ClientError::Data(Arc::new(error))))
    }

    /// As [`publish`](Self::publish), with bytes as payload.
    pub fn publish_bytes(&self, topic: impl Into<String>, bytes: impl Into<Vec<u8>>) -> Publish<'_> {
        self.publication(topic.into(), Ok(OwnPayload::Bytes(bytes.into())))
    }

    fn publication(&self, topic: String, payload: Result<OwnPayload, ClientError>) -> Publish<'_> {
        let empty = || "\"\"".to_owned();
        let exclude = Exclude::None;
        Publish { client: self, topic, payload, event: empty(), message_id: empty(), key: None, exclude }
    }

    /// The members of a topic now.
    ///
    /// # Errors
    ///
    /// `no_presence` if the topic's namespace has none, `forbidden`, or no answer in time.
    pub async fn presence(&self, topic: impl Into<String>) -> Result<Presence, ClientError> {
        let topic = topic.into();
        self.ask("answer", |reply| Command::Request(Request::Presence(topic, reply))).await
    }

    /// Messages that a topic keeps, without a subscription: the latest, or those after or before a position. The server cuts
    /// long answers, and says so in [`more`](HistoryPage::more): further messages follow in the direction of the request, or
    /// without a `since` come before the page.
    ///
    /// ```no_run
    /// # use janus_core::client::{Client, HistoryQuery};
    /// # async fn page(client: Client) -> Result<(), janus_core::client::ClientError> {
    /// let newest = client.history("chat:lobby", HistoryQuery::latest(20).reversed()).await?;
    /// let older = client.history("chat:lobby", HistoryQuery::latest(20).reversed().since(newest.position)).await?;
    /// # let _ = older;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// `no_history` if the topic's namespace keeps none, `forbidden`, `bad_request` for a limit of 0, or no answer in time.
    pub async fn history(&self, topic: impl Into<String>, query: HistoryQuery) -> Result<HistoryPage, ClientError> {
        let topic = topic.into();
        self.ask("answer", |reply| Command::Request(Request::History(topic, query, reply))).await
    }

    /// Closes the connection with a goodbye, and ends the client and all its subscriptions. Returns when the client's task is
    /// at its end, after at most a second. A call without an answer fails with [`ClientError::Closed`]: the message of such a
    /// call may or may not be published, because `close` does not wait for publications under way. A program that loses
    /// nothing awaits its own publications first, and then closes the client.
    pub async fn close(&self) {
        // A task that takes no commands has ended.
        let _ = self.shared.commands.send(Command::Close).await;
        let mut state = self.state();
        // An error says that the task is gone.
        let _ = state.wait_for(|state| matches!(state, State::Closed { .. })).await;
    }

    /// Sends a command, and waits for the reply within the time of a call.
    async fn ask<T>(&self, awaited: &'static str, command: impl FnOnce(Reply<T>) -> Command) -> Result<T, ClientError> {
        let time = self.shared.request_timeout;
        let (reply, answer, fate) = Reply::new();
        let asked = async {
            // A command that is not taken holds the sender of its reply, and is dropped here.
            if self.shared.commands.send(command(reply)).await.is_err() {
                return Err(self.reason());
            }
            answer.await.unwrap_or_else(|_| Err(self.reason()))
        };
        match timeout(time, asked).await {
            Ok(answer) => answer,
            Err(_) if fate.give_up() => Err(self.not_sent(awaited)),
            Err(_) => Err(ClientError::Late { awaited, time }),
        }
    }

    /// Why the client has ended.
    fn reason(&self) -> ClientError {
        match &*self.shared.state.borrow() {
            State::Closed { error: Some(error) } => error.as_end(),
            _ => ClientError::Closed,
        }
    }

    /// What a call has waited for in vain.
    fn not_sent(&self, awaited: &'static str) -> ClientError {
        let time = self.shared.request_timeout;
        let (reason, source) = match &*self.shared.state.borrow() {
            State::Open { .. } => {
                ("the server takes no requests for now, or owes the answer to an earlier subscribe of this topic", None)
            }
            _ => ("no connection", self.shared.trouble.lock().clone()),
        };
        ClientError::NotSent { awaited, time, reason, source }
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").finish_non_exhaustive()
    }
}

type Call<'a, T> = Pin<Box<dyn Future<Output = Result<T, ClientError>> + Send + 'a>>;

/// A subscription to be made, by awaiting; see [`Client::subscribe`].
#[must_use = "nothing is sent before the await"]
#[derive(Debug)]
pub struct Subscribe<'a> {
    client: &'a Client,
    topic: String,
    since: Option<Since>,
    presence: bool,
}

impl Subscribe<'_> {
    /// Begins after this position, with the start of what the topic keeps, or with the last message. A position that the
    /// server no longer keeps is told as a [`Gap`](super::Gap).
    pub fn since(mut self, since: impl Into<Since>) -> Self {
        self.since = Some(since.into());
        self
    }

    /// Watches the members of the topic: [`Item::Presence`](super::Item::Presence) has all members at first and after each
    /// return, and then each change.
    pub fn presence(mut self) -> Self {
        self.presence = true;
        self
    }
}

impl<'a> IntoFuture for Subscribe<'a> {
    type Output = Result<Subscription, ClientError>;
    type IntoFuture = Call<'a, Subscription>;

    fn into_future(self) -> Call<'a, Subscription> {
        let Self { client, topic, since, presence } = self;
        Box::pin(async move {
            let Shared { room, changed, .. } = &*client.shared;
            let (topic, feed) = (Arc::<str>::from(topic), Feed::new(*room, Arc::clone(changed)));
            // Made before the request: a dropped call drops this, which unsubscribes.
            let mut subscription = Subscription::new(Arc::clone(&topic), Arc::clone(&feed));
            let command = |reply| Command::Subscribe { topic, feed, since, presence, reply };
            subscription.set_begun(client.ask("answer to a subscribe", command).await?);
            Ok(subscription)
        })
    }
}

/// A message to be published, by awaiting; see [`Client::publish`].
/// `Debug` hides the data, which can be long or secret.
#[must_use = "nothing is sent before the await"]
pub struct Publish<'a> {
    client: &'a Client,
    topic: String,
    payload: Result<OwnPayload, ClientError>,
    event: String,
    message_id: String,
    key: Option<IdempotencyKey>,
    exclude: Exclude,
}

impl fmt::Debug for Publish<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Publish").field("topic", &self.topic).field("event", &self.event).finish_non_exhaustive()
    }
}

impl Publish<'_> {
    /// Sets the event, a text.
    pub fn event(mut self, event: &str) -> Self {
        self.event = serde_json::Value::from(event).to_string();
        self
    }

    /// Sets the message's identifier, a text.
    pub fn message_id(mut self, id: &str) -> Self {
        self.message_id = serde_json::Value::from(id).to_string();
        self
    }

    /// Sets the key by which the server knows a repetition, and publishes the message once; within the server's
    /// `idempotency_ttl`, 5 minutes unless set otherwise.
    pub fn idempotency_key(mut self, key: IdempotencyKey) -> Self {
        self.key = Some(key);
        self
    }

    /// Keeps the message from one client.
    pub fn exclude(mut self, client: ClientId) -> Self {
        self.exclude = Exclude::Client(client);
        self
    }

    /// Keeps the message from this client itself, which has shown the message already.
    pub fn exclude_self(mut self) -> Self {
        self.exclude = Exclude::Publisher;
        self
    }
}

impl<'a> IntoFuture for Publish<'a> {
    type Output = Result<Published, ClientError>;
    type IntoFuture = Call<'a, Published>;

    fn into_future(self) -> Call<'a, Published> {
        let Self { client, topic, payload, event, message_id, key, exclude } = self;
        Box::pin(async move {
            let publication = Publication { topic, event, message_id, payload: payload?, key, exclude };
            let command = |reply| Command::Request(Request::Publish(Box::new(publication), reply));
            client.ask("receipt", command).await
        })
    }
}

/// The topics to which the server has subscribed the client by itself, as a [`Stream`] of [`Assigned`]; see
/// [`connect_with_assigned`](ClientBuilder::connect_with_assigned).
#[derive(Debug)]
pub struct AssignedTopics {
    topics: mpsc::Receiver<Assigned>,
}

impl AssignedTopics {
    pub(super) fn new(topics: mpsc::Receiver<Assigned>) -> Self {
        Self { topics }
    }

    /// The next topic; `None` at the end of the client. Cancel safe.
    pub async fn next(&mut self) -> Option<Assigned> {
        self.topics.recv().await
    }
}

impl Stream for AssignedTopics {
    type Item = Assigned;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Assigned>> {
        self.topics.poll_recv(context)
    }
}
