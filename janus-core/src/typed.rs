//! Topics whose messages are values of one type: [`TypedTopic`] publishes them, [`TypedSubscriber`] receives them.
//!
//! The type is an agreement of this program with itself. On the wire there is JSON as ever, and clients of any protocol
//! take part. Other messages are handed on unchanged.

use std::fmt;
use std::future::poll_fn;
use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{self, Poll};

use futures_util::Stream;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::instance::janus::Janus;
use crate::topic::publish::{Message, PublishError, Receipt};
use crate::topic::subscriber::{Closed, Delivery, Event, Resumption, SubscribeError, SubscribeOptions, Subscriber};
use crate::wire::{ClientId, Position, TopicName, TopicNameError};

impl Janus {
    /// A topic whose messages are values of the type `T`, to publish and to subscribe to.
    ///
    /// The call itself makes and sends nothing; a topic exists from the first subscriber, or from the first message if
    /// the namespace keeps history. The result holds a clone of this handle.
    ///
    /// ```
    /// use janus_core::{Config, Janus, TypedEvent};
    /// use serde::{Deserialize, Serialize};
    ///
    /// #[derive(Serialize, Deserialize)]
    /// struct Quote {
    ///     bid: f64,
    ///     ask: f64,
    /// }
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let config = Config { listen: vec!["127.0.0.1:0".parse()?], ..Config::default() };
    /// # let janus = Janus::builder().config(config).start().await?;
    /// let eur = janus.topic::<Quote>("quotes:eur")?;
    /// let mut quotes = eur.subscribe()?;
    /// eur.publish(&Quote { bid: 1.07, ask: 1.08 }).await?;
    /// let Some(TypedEvent::Message(quote)) = quotes.next().await else { panic!("one was published") };
    /// assert_eq!((quote.value.ask, quote.delivery.seq()), (1.08, 1));
    /// # janus.shutdown().await;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// The name is not allowed; `max_topic_bytes` of the instance limits its length.
    pub fn topic<T>(&self, name: &str) -> Result<TypedTopic<T>, TopicNameError> {
        let name = TopicName::new(name, self.tables().config().max_topic_bytes)?;
        Ok(TypedTopic { janus: self.clone(), name, values: PhantomData })
    }
}

/// A topic whose messages are values of one type; made by [`Janus::topic`], which has an example.
///
/// A typed topic is a handle to the instance, like [`Janus`]: the instance runs while one is left.
pub struct TypedTopic<T> {
    janus: Janus,
    name: TopicName,
    // A typed topic holds no value, and can go to other threads whatever the type.
    values: PhantomData<fn(T) -> T>,
}

impl<T> TypedTopic<T> {
    /// The topic's name.
    #[must_use]
    pub fn name(&self) -> &TopicName {
        &self.name
    }
}

impl<T: Serialize> TypedTopic<T> {
    /// Publishes a value and waits for the place in the topic's order, like [`Janus::publish`].
    ///
    /// # Errors
    ///
    /// Why the value was not published. A value that cannot be serialized gives [`PublishError::Invalid`].
    pub async fn publish(&self, value: &T) -> Result<Receipt, PublishError> {
        self.janus.publish_message(self.message(value)?).await
    }

    /// Publishes a value to all subscribers but this client, which has shown the value already; otherwise like
    /// [`publish`](Self::publish). See [`Message::exclude`].
    ///
    /// ```
    /// # use janus_core::{Config, Janus};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let config = Config { listen: Vec::new(), ..Config::default() };
    /// # let janus = Janus::builder().config(config).start().await?;
    /// let sender = "718281828459045235.17".parse()?;
    /// janus.topic::<String>("room:5")?.publish_excluding(sender, &"hello".to_owned()).await?;
    /// # janus.shutdown().await;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`publish`](Self::publish).
    pub async fn publish_excluding(&self, client: ClientId, value: &T) -> Result<Receipt, PublishError> {
        self.janus.publish_message(self.message(value)?.exclude(client)).await
    }

    /// Publishes a value if the topic has room now; the returned future tells the outcome and may be dropped.
    ///
    /// # Errors
    ///
    /// [`PublishError::Full`] if there is no room; otherwise like [`publish`](Self::publish).
    pub fn try_publish(
        &self,
        value: &T,
    ) -> Result<impl Future<Output = Result<Receipt, PublishError>> + Send + use<T>, PublishError> {
        self.janus.try_publish(self.message(value)?)
    }

    /// Turns a value into the message of [`publish`](Self::publish), to give it an event, a message id, a key or an excluded
    /// client first:
    /// `janus.publish_message(topic.message(&value)?.event("tick"))`.
    ///
    /// # Errors
    ///
    /// [`PublishError::Invalid`] if the value cannot be serialized.
    pub fn message(&self, value: &T) -> Result<Message, PublishError> {
        Message::new(self.name.as_str(), value)
    }
}

impl<T: DeserializeOwned> TypedTopic<T> {
    /// Subscribes this process, from the next message on.
    ///
    /// # Errors
    ///
    /// See [`SubscribeError`].
    pub fn subscribe(&self) -> Result<TypedSubscriber<T>, SubscribeError> {
        self.subscribe_with(SubscribeOptions::default())
    }

    /// Subscribes with options: a position to resume from, limits, a policy. Otherwise like
    /// [`subscribe`](Self::subscribe).
    ///
    /// # Errors
    ///
    /// See [`SubscribeError`].
    pub fn subscribe_with(&self, options: SubscribeOptions) -> Result<TypedSubscriber<T>, SubscribeError> {
        let subscriber = self.janus.subscribe_with(self.name.as_str(), options)?;
        Ok(TypedSubscriber { subscriber, values: PhantomData })
    }
}

// Not derived: a derived `Clone` or `Debug` would demand the same of `T`.
impl<T> Clone for TypedTopic<T> {
    fn clone(&self) -> Self {
        Self { janus: self.janus.clone(), name: self.name.clone(), values: PhantomData }
    }
}

impl<T> fmt::Debug for TypedTopic<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TypedTopic").field("name", &self.name).field("type", &std::any::type_name::<T>()).finish()
    }
}

/// A message with its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TypedMessage<T> {
    /// The data, as a value.
    pub value: T,
    /// The message's position, time, event, message id, and data as text. The delivery refers to the frame shared by
    /// all subscribers; a program that collects values should keep only the values.
    pub delivery: Delivery,
}

/// The next item for a subscriber to a typed topic.
#[derive(Debug)]
#[non_exhaustive]
pub enum TypedEvent<T> {
    /// A message.
    Message(TypedMessage<T>),
    /// A message whose data is no such value: another program published it, or the type has changed. Later messages
    /// arrive all the same.
    Undecodable {
        /// Why the data is no such value.
        error: serde_json::Error,
        /// The message as it came.
        delivery: Delivery,
    },
    /// Messages were left out; see [`Event::Gap`].
    Gap {
        /// The number of the first message left out.
        from: u64,
        /// The number of the last message left out.
        to: u64,
    },
    /// The subscription has ended, and nothing more arrives.
    Closed(Closed),
}

/// A subscription of this process to a typed topic. Dropping it ends the subscription.
///
/// A typed subscriber is a [`Subscriber`], with the same queue, limits and policies, and also reads the values;
/// [`Janus::topic`] has an example. The [`Stream`] yields the same items as [`next`](Self::next).
pub struct TypedSubscriber<T> {
    subscriber: Subscriber,
    values: PhantomData<fn() -> T>,
}

impl<T> TypedSubscriber<T> {
    /// Waits until the subscriber has its place in the topic; see [`Subscriber::ready`].
    ///
    /// # Errors
    ///
    /// As for [`Subscriber::ready`].
    pub async fn ready(&mut self) -> Result<Resumption, SubscribeError> {
        self.subscriber.ready().await
    }

    /// Whether the subscription continues after the requested position, and from where it could have; see
    /// [`Subscriber::resumption`].
    #[must_use]
    pub fn resumption(&self) -> Option<Resumption> {
        self.subscriber.resumption()
    }

    /// The position of the last message or gap returned, or of the beginning: subscribe with it to continue from here.
    #[must_use]
    pub fn position(&self) -> Position {
        self.subscriber.position()
    }

    /// The topic of the subscription.
    #[must_use]
    pub fn topic(&self) -> &TopicName {
        self.subscriber.topic()
    }
}

impl<T: DeserializeOwned> TypedSubscriber<T> {
    /// Waits for the next message or gap. `None` after [`TypedEvent::Closed`].
    ///
    /// Cancel safe: the next call returns the item that a dropped call did not.
    pub async fn next(&mut self) -> Option<TypedEvent<T>> {
        poll_fn(|cx| Pin::new(&mut *self).poll_next(cx)).await
    }
}

impl<T: DeserializeOwned> Stream for TypedSubscriber<T> {
    type Item = TypedEvent<T>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut task::Context<'_>) -> Poll<Option<TypedEvent<T>>> {
        Pin::new(&mut self.subscriber).poll_next(cx).map(|event| {
            Some(match event? {
                Event::Message(delivery) => match delivery.parse() {
                    Ok(value) => TypedEvent::Message(TypedMessage { value, delivery }),
                    Err(error) => TypedEvent::Undecodable { error, delivery },
                },
                Event::Gap { from, to } => TypedEvent::Gap { from, to },
                Event::Closed(reason) => TypedEvent::Closed(reason),
            })
        })
    }
}

impl<T> fmt::Debug for TypedSubscriber<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TypedSubscriber")
            .field("topic", self.topic())
            .field("position", &self.position())
            .field("type", &std::any::type_name::<T>())
            .finish_non_exhaustive()
    }
}
