//! `GET /api/subscribe`: the messages of topics as server-sent events, in the format of `/events` of the HTTP port, for an
//! operator's page that knows the admin port alone.
//!
//! The subscribers are in this process. Their queues have limits, and a client that does not read loses the oldest
//! messages and is told which.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use futures_util::Stream as _;
use hyper::body::Bytes;
use hyper::{Method, Request, Response};
use janus_api::{bad_request, check_topic};
use janus_core::wire::{
    BytesMut, Codec as _, ErrorCode, Heartbeat, HttpError, NumberedMessage, ServerEvent, Sse, Timestamp,
};
use janus_core::{Closed, Delivery, Event, SlowConsumer, SubscribeError, SubscribeOptions, Subscriber};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::{MissedTickBehavior, interval};

use super::streams::{self, Kept, bye};
use super::{Api, Incoming, Lines};

/// Topics of one stream.
pub(super) const MAX_TOPICS: usize = 16;

/// Messages of one topic that may wait for the client, and their bytes: 64 MiB for all topics of all streams, unless
/// single messages are longer.
const QUEUE_FRAMES: usize = 1_000;
const QUEUE_BYTES: usize = 256 << 10;

/// Events on the way to the connection; further events wait in the queues of the topics. An event longer than
/// [`SHORT_BYTES`] waits until no other is on the way: 16 messages of `max_frame_bytes` could have 256 MiB.
const EVENTS_UNDER_WAY: usize = 16;
const SHORT_BYTES: usize = 16 << 10;

/// The time between two looks at the settings, and two heartbeats: a client that is gone is noticed when the connection
/// refuses a heartbeat.
const HEARTBEAT: Duration = Duration::from_secs(5);

/// A browser that loses the stream comes back after this time.
const RETRY: Duration = Duration::from_secs(2);

impl Api {
    /// Begins a stream of messages, and puts the place of the stream into `place`.
    pub(super) fn subscribe<'a>(
        &'a self,
        request: &Request<Incoming>,
        kept: Kept,
    ) -> impl Future<Output = Result<(Response<Lines>, Option<OwnedSemaphorePermit>), HttpError>> + use<'a> {
        let names = self.topics_of(request.uri().query().unwrap_or_default());
        let is_head = request.method() == Method::HEAD;
        // Without the request, whose body must not be shared with other threads.
        async move {
            let names = names?;
            let (sender, response) = streams::response(EVENTS_UNDER_WAY);
            if is_head {
                return Ok((response, None));
            }
            let place = self.streams.take()?;
            let subscribers = self.subscribers(&names).await.map_err(|error| refused(&error))?;
            tokio::spawn(pump(subscribers, kept, sender));
            Ok((response, Some(place)))
        }
    }

    /// Subscribes to these topics. In a cluster the engine has to say first where the topics are.
    async fn subscribers(&self, names: &[String]) -> Result<Subscribers, SubscribeError> {
        let options = SubscribeOptions::default().slow_consumer(SlowConsumer::DropOldest);
        let options = options.max_queue_frames(QUEUE_FRAMES).max_queue_bytes(QUEUE_BYTES);
        let subscribers = names.iter().map(|name| self.janus.subscribe_with(name, options)).collect::<Result<_, _>>();
        let mut subscribers = Subscribers(subscribers?);
        let all_ready = async {
            for subscriber in &mut subscribers.0 {
                subscriber.ready().await?;
            }
            Ok(())
        };
        let ready = tokio::time::timeout(self.janus.config().engine_timeout, all_ready).await;
        ready.unwrap_or(Err(SubscribeError::EngineUnavailable))?;
        Ok(subscribers)
    }

    /// The topics of a query.
    fn topics_of(&self, query: &str) -> Result<Vec<String>, HttpError> {
        let mut topics: Vec<String> = Vec::new();
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            if name != "topic" {
                return Err(bad_request(format!("the query: expected only topic, up to {MAX_TOPICS} times")));
            }
            if topics.len() == MAX_TOPICS {
                return Err(bad_request(format!("topic: at most {MAX_TOPICS} topics in a stream")));
            }
            if topics.iter().any(|topic| *topic == value) {
                return Err(bad_request(format!("topic: duplicate topic {value}; name it once")));
            }
            check_topic(&self.janus, &value)?;
            topics.push(value.into_owned());
        }
        match topics.is_empty() {
            true => Err(bad_request("missing topic: name at least one, as in /api/subscribe?topic=news")),
            false => Ok(topics),
        }
    }
}

fn refused(error: &SubscribeError) -> HttpError {
    let code = match error {
        SubscribeError::Invalid(_) => ErrorCode::BadTopic,
        SubscribeError::TopicUnavailable => ErrorCode::TopicUnavailable,
        SubscribeError::TooManyTopics => ErrorCode::TooManyTopicsOnServer,
        SubscribeError::EngineUnavailable => ErrorCode::EngineUnavailable,
        // The enum may have further variants in a later version.
        _ => ErrorCode::ServerDraining,
    };
    let mut refused = HttpError::new(code.http_status(), code.as_str(), error.to_string());
    refused.retry_after = (refused.status == 503).then_some(RETRY);
    refused
}

/// The subscribers of a stream. The first is the next to be asked, so that a busy topic does not hold up the others.
struct Subscribers(VecDeque<Subscriber>);

impl Subscribers {
    /// The next event, with its subscriber at the end of the line.
    async fn next(&mut self) -> Event {
        poll_fn(|cx| {
            for _ in 0..self.0.len() {
                let Some(mut subscriber) = self.0.pop_front() else { break };
                let event = Pin::new(&mut subscriber).poll_next(cx);
                self.0.push_back(subscriber);
                if let Poll::Ready(Some(event)) = event {
                    return Poll::Ready(event);
                }
            }
            Poll::Pending
        })
        .await
    }

    /// The subscriber of the latest event.
    fn latest(&self) -> &Subscriber {
        self.0.back().expect("an event comes from a subscriber")
    }
}

async fn pump(mut subscribers: Subscribers, mut kept: Kept, sender: mpsc::Sender<Bytes>) {
    let format = Format(Sse::body(RETRY));
    let mut heartbeats = interval(HEARTBEAT);
    heartbeats.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // The first tick comes at once.
    heartbeats.tick().await;
    let mut waiting: VecDeque<Bytes> = subscribers.0.iter().map(|subscriber| format.subscribed(subscriber)).collect();
    let last = loop {
        // Without room for an event, no further event is taken from the queues.
        let room = async {
            match waiting.front() {
                None => std::future::pending().await,
                Some(event) if event.len() <= SHORT_BYTES => sender.reserve_many(1).await,
                Some(_) => sender.reserve_many(EVENTS_UNDER_WAY).await,
            }
        };
        tokio::select! {
            room = room => {
                let Ok(mut room) = room else { return };
                if let (Some(room), Some(event)) = (room.next(), waiting.pop_front()) {
                    room.send(event);
                }
            }
            event = subscribers.next(), if waiting.is_empty() => match event {
                Event::Closed(Closed::ShutDown) => break bye(ErrorCode::ServerDraining, "the server is shutting down"),
                event => {
                    let is_closed = matches!(event, Event::Closed(_));
                    waiting.push_back(format.event(&event, subscribers.latest()));
                    if is_closed {
                        subscribers.0.pop_back();
                    }
                    if subscribers.0.is_empty() {
                        let _ = sender.send(waiting.pop_front().unwrap_or_default()).await;
                        break bye(ErrorCode::TopicUnavailable, "no topic of the stream is available");
                    }
                }
            },
            _ = heartbeats.tick() => {
                if let Err(last) = kept.check() {
                    break last;
                }
                if waiting.is_empty() {
                    waiting.push_back(format.heartbeat());
                }
            }
            last = kept.over() => break last,
            () = sender.closed() => return,
        }
    };
    drop(subscribers);
    let _ = sender.send(last).await;
}

/// The format of `/events`.
struct Format(Sse);

impl Format {
    fn subscribed(&self, subscriber: &Subscriber) -> Bytes {
        let (topic, position) = (subscriber.topic(), subscriber.position());
        self.encode(&ServerEvent::Subscribed {
            id: None,
            topic,
            position,
            last: None,
            horizon: None,
            since: None,
            missed: None,
            repeated: 0,
        })
    }

    fn event(&self, event: &Event, subscriber: &Subscriber) -> Bytes {
        let topic = subscriber.topic();
        match event {
            Event::Message(message) => self.message(message),
            Event::Gap { from, to } => {
                let epoch = subscriber.position().epoch;
                self.encode(&ServerEvent::Gap { topic, epoch, from: *from, to: *to })
            }
            // Closed for one reason or another, which may be of a later version.
            _ => self.encode(&ServerEvent::Error {
                id: None,
                topic: Some(topic),
                code: ErrorCode::TopicUnavailable,
                message: "the topic is no longer delivered to this stream; begin another",
            }),
        }
    }

    fn message(&self, message: &Delivery) -> Bytes {
        let topic_json = serde_json::Value::from(message.topic.as_str()).to_string();
        self.encode(&ServerEvent::Message(NumberedMessage {
            topic: &message.topic,
            topic_json: &topic_json,
            position: message.position,
            horizon: None,
            timestamp: message.timestamp,
            event: message.event(),
            message_id: message.message_id(),
            data: message.data(),
            base64: message.base64(),
        }))
    }

    fn heartbeat(&self) -> Bytes {
        match self.0.heartbeat() {
            Heartbeat::Always(bytes) | Heartbeat::AfterMessages(bytes) | Heartbeat::Regularly(bytes) => bytes,
            Heartbeat::Never => Bytes::from_static(b":\n\n"),
        }
    }

    fn encode(&self, event: &ServerEvent<'_>) -> Bytes {
        let mut out = BytesMut::new();
        self.0.encode(event, &Timestamp::default(), &mut out);
        out.freeze()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arc_swap::ArcSwap;
    use janus_core::wire::{AllowedOrigins, HttpRequest};
    use janus_core::{Config, Janus};

    use super::super::access::Access;
    use super::super::streams::Streams;
    use super::*;
    use crate::settings::ApiKey;

    #[tokio::test]
    async fn a_client_that_does_not_read_has_one_long_event_under_way() {
        let config = Config { listen: Vec::new(), http_listen: Vec::new(), ..Config::default() };
        let janus = Janus::builder().config(config).start().await.unwrap();
        let (streams, origins) = (Streams::new(), AllowedOrigins::new([]));
        let access = Arc::new(ArcSwap::from_pointee(Access::new(&ApiKey::new(""), [].iter(), origins)));
        let kept = streams.keep(&access, HttpRequest::default(), true);
        let options = SubscribeOptions::default().slow_consumer(SlowConsumer::DropOldest);
        let subscriber = janus.subscribe_with("news", options.max_queue_bytes(QUEUE_BYTES)).unwrap();
        let (sender, mut events) = mpsc::channel(EVENTS_UNDER_WAY);
        tokio::spawn(pump(Subscribers([subscriber].into()), kept, sender));
        assert!(events.recv().await.unwrap().starts_with(b"event: subscribed\n"));
        let long = "x".repeat(2 * SHORT_BYTES);
        while janus.stats().messages_dropped == 0 {
            janus.publish("news", &long).await.unwrap();
            assert!(events.len() <= 1, "{} long events", events.len());
        }
        loop {
            let event = events.recv().await.unwrap();
            if event.starts_with(b"event: gap\n") {
                break;
            }
            assert!(event.len() > SHORT_BYTES, "the events before the gap are messages");
        }
        janus.shutdown().await;
    }
}
