//! What can be asked of the API: each route, how its request is read, and what it answers.
//!
//! `openapi.json` says the same for programs; the tests hold the two against each other.

use std::collections::HashSet;
use std::error::Error;
use std::io;
use std::time::Duration;

use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::body::{Body as _, Bytes, Incoming};
use hyper::{Method, Request, Response, Version, header};
use janus_core::wire::{ErrorCode, HttpError, HttpRequest, TopicName};
use janus_core::{Delivery, HistoryError, Janus, Message, Position, PublishError, Receipt};
use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;
use tokio::task::yield_now;
use tokio::time::timeout;

use super::{Api, refusal, response};

/// Topics that one broadcast may go to.
pub(super) const MAX_BROADCAST_TOPICS: usize = 1_000;

/// What a broadcast gives to its topics before it waits for their receipts: so many bytes, in one message at least, to so
/// many topics.
pub(super) const PORTION_BYTES: usize = 256 * 1024;
const PORTION_TOPICS: usize = 64;

/// Entries of one answer: how many there are if nobody says it, and how many there may be.
pub(super) const DEFAULT_LIMIT: usize = 100;
pub(super) const MAX_LIMIT: usize = 10_000;

/// Bytes of messages, or of names, in one answer, which has one message at least.
pub(super) const MAX_ANSWER_BYTES: usize = 8 << 20;

/// Entries of a list that are looked up before others get their turn.
const LIST_PORTION: usize = 512;

/// The description of the API, for programs, and what in it is a setting of its server.
const OPENAPI: &str = include_str!("../../openapi.json");
const DEFAULT_TOPIC_BYTES: &str = "\"maxLength\": 255,";

/// The description of a server with this setting.
pub(super) fn openapi(max_topic_bytes: usize) -> Bytes {
    OPENAPI.replacen(DEFAULT_TOPIC_BYTES, &format!("\"maxLength\": {max_topic_bytes},"), 1).into()
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Endpoint {
    Publish,
    Broadcast,
    History,
    Topics,
    Connections,
    Disconnect,
    Trace,
    OpenApi,
}

/// Every path, with its only method. One with GET has HEAD as well, and hyper leaves out the body.
pub(super) const ROUTES: &[(&str, Method, Endpoint)] = &[
    ("/api/publish", Method::POST, Endpoint::Publish),
    ("/api/broadcast", Method::POST, Endpoint::Broadcast),
    ("/api/history", Method::POST, Endpoint::History),
    ("/api/topics", Method::GET, Endpoint::Topics),
    ("/api/connections", Method::GET, Endpoint::Connections),
    ("/api/disconnect", Method::POST, Endpoint::Disconnect),
    ("/api/trace", Method::GET, Endpoint::Trace),
    ("/api/openapi.json", Method::GET, Endpoint::OpenApi),
];

/// What becomes of a request once its head is known.
pub(super) enum Admission {
    /// It may be carried out.
    Granted(Endpoint),
    /// This is all there is for it.
    Answered(Response<Full<Bytes>>),
}

impl Api {
    /// Looks at who asks for what, which needs nothing but the head.
    pub(super) fn admit(&self, request: &Request<Incoming>) -> Admission {
        let Some((_, method, endpoint)) = ROUTES.iter().find(|(path, ..)| *path == request.uri().path()) else {
            let message = "there is nothing at this path; the API is described in /api/openapi.json, WebSockets are at \
                           /ws and server-sent events at /events";
            return Admission::Answered(refusal(&HttpError::new(404, "unknown_path", message)));
        };
        let allowed = if method == Method::GET { "GET, HEAD" } else { "POST" };
        if request.method() != method && !(method == Method::GET && request.method() == Method::HEAD) {
            let error = HttpError::new(405, "method_not_allowed", format!("this path accepts {allowed}"));
            let mut refusal = refusal(&error);
            refusal.headers_mut().insert(header::ALLOW, header::HeaderValue::from_static(allowed));
            return Admission::Answered(refusal);
        }
        if *endpoint == Endpoint::OpenApi {
            // The same for everybody, and in the source for all to see.
            let answer = no_query(request).map(|()| response(200, self.openapi.clone()));
            return Admission::Answered(answer.unwrap_or_else(|error| refusal(&error)));
        }
        match self.access.check(&head_of(request)) {
            Ok(()) => Admission::Granted(*endpoint),
            Err(error) => Admission::Answered(refusal(&error)),
        }
    }

    pub(super) async fn carry_out(
        &self,
        endpoint: Endpoint,
        request: Request<Incoming>,
    ) -> Result<Response<Full<Bytes>>, HttpError> {
        match endpoint {
            Endpoint::Publish => self.publish(self.body(request).await?).await,
            Endpoint::Broadcast => self.broadcast(self.body(request).await?).await,
            Endpoint::History => self.history(&self.body(request).await?),
            Endpoint::Topics => self.topics(&Page::of(&request)?).await,
            Endpoint::Connections => self.connections(&Page::of(&request)?).await,
            Endpoint::Disconnect => self.disconnect(&self.body(request).await?),
            Endpoint::Trace => unreachable!("its answer comes line by line"),
            Endpoint::OpenApi => unreachable!("answered when it was admitted"),
        }
    }

    async fn publish(&self, request: Publish) -> Result<Response<Full<Bytes>>, HttpError> {
        self.check_topic(&request.topic)?;
        let message = message(&request.topic, &request.event, &request.message_id, &request.data)?;
        let receipt = match self.janus.try_publish(message) {
            Ok(receipt) => receipt.await,
            Err(error) => Err(error),
        };
        let receipt = receipt.map_err(|error| publish_error(&error))?;
        Ok(json(&ReceiptJson::from(receipt)))
    }

    async fn broadcast(&self, request: Broadcast) -> Result<Response<Full<Bytes>>, HttpError> {
        let Broadcast { topics, event, message_id, data } = request;
        let count = topics.len();
        if !(1..=MAX_BROADCAST_TOPICS).contains(&count) {
            let message = format!("a broadcast goes to 1 to {MAX_BROADCAST_TOPICS} topics, and not to {count}");
            return Err(bad_request(message));
        }
        let mut seen = HashSet::new();
        // All names are right before the first message goes out.
        for (index, topic) in topics.iter().enumerate() {
            if !seen.insert(topic) {
                return Err(bad_request(format!("topics: {} is there twice", serde_json::Value::from(&**topic))));
            }
            self.check_topic(topic).map_err(|error| {
                let message = format!("topics[{index}]: {}", error.message);
                HttpError { message, ..error }
            })?;
        }
        let message = message(&topics[0], &event, &message_id, &data)?;
        drop(data);
        Ok(publish_to_all(&self.janus, &message, &topics).await)
    }

    fn check_topic(&self, topic: &str) -> Result<(), HttpError> {
        match TopicName::new(topic, self.max_topic_bytes) {
            Ok(_) => Ok(()),
            Err(error) => Err(HttpError::new(400, ErrorCode::BadTopic.as_str(), error.to_string())),
        }
    }

    fn history(&self, request: &History) -> Result<Response<Full<Bytes>>, HttpError> {
        self.check_topic(&request.topic)?;
        let limit = limit(request.limit.as_ref().map(|limit| limit.0))?;
        let since = request.since.as_ref().map(|since| Position { epoch: since.epoch, seq: since.seq.0 });
        let history = self.janus.history(&request.topic, since, limit).map_err(|error| match error {
            HistoryError::NotKept => {
                let message = "no history is kept for this topic; the server's operator can set history = true, in \
                               [namespace.NAME] for the topics NAME:…, or at the top level for those of no namespace";
                HttpError::new(404, "no_history", message)
            }
            other => bad_request(other.to_string()),
        })?;
        let mut part = &history.messages[..];
        let (mut position, mut more) = (history.position, history.more);
        if since.is_none() {
            part = &part[part.len() - fitting(part.iter().rev())..];
        } else if let Some(last) = fitting(part.iter()).checked_sub(1)
            && last + 1 < part.len()
        {
            part = &part[..=last];
            (position, more) = (part[last].position, true);
        }
        self.check_room(part.iter().map(text_bytes).sum())?;
        self.large(to_json(&HistoryJson {
            topic: &request.topic,
            epoch: hex(position.epoch),
            seq: position.seq,
            complete: history.complete,
            more,
            messages: part.iter().map(MessageJson::of).collect::<Result<_, _>>()?,
        }))
    }

    async fn topics(&self, page: &Page) -> Result<Response<Full<Bytes>>, HttpError> {
        let mut after = page.after.clone().unwrap_or_default();
        let mut list = List::new(page.limit);
        let mut bytes = 0;
        loop {
            let portion = self.janus.topics_after(&after, list.wanted());
            if let Some(last) = portion.last() {
                last.name.as_str().clone_into(&mut after);
            }
            bytes += portion.iter().map(|topic| topic.name.as_str().len()).sum::<usize>();
            if !list.extend(portion) || bytes >= MAX_ANSWER_BYTES {
                break;
            }
            yield_now().await;
        }
        let (topics, more) = list.end();
        let next = topics.last().filter(|_| more).map(|topic| topic.name.to_string());
        let topics = topics
            .iter()
            .map(|topic| TopicJson {
                topic: topic.name.as_str(),
                subscribers: topic.subscribers,
                in_flight: topic.in_flight,
                available: topic.available,
            })
            .collect();
        self.large(to_json(&Topics { topics, next }))
    }

    async fn connections(&self, page: &Page) -> Result<Response<Full<Bytes>>, HttpError> {
        let mut after = match &page.after {
            Some(text) => {
                let number = digits(text).filter(|_| text.len() <= CONNECTION_DIGITS);
                number.ok_or_else(|| bad_request("after: expected the number of a connection"))?
            }
            None => 0,
        };
        let mut list = List::new(page.limit);
        loop {
            let portion = self.janus.connections(after, list.wanted());
            if let Some(last) = portion.last() {
                after = last.connection;
            }
            // Not kept as they are: each has the names of all its topics.
            let portion = portion.iter().map(|connection| ConnectionJson {
                connection: connection.connection,
                peer: connection.peer.to_string(),
                transport: connection.transport,
                topics: connection.topics.len(),
            });
            if !list.extend(portion.collect()) {
                break;
            }
            yield_now().await;
        }
        let (connections, more) = list.end();
        let next = connections.last().filter(|_| more).map(|connection| connection.connection.to_string());
        self.large(to_json(&Connections { connections, next }))
    }

    fn disconnect(&self, request: &Disconnect) -> Result<Response<Full<Bytes>>, HttpError> {
        let connection = request.connection.0;
        if self.janus.disconnect(connection, request.reconnect) {
            return Ok(json(&Disconnected { connection }));
        }
        let message = "there is no such connection, or not any more; GET /api/connections lists them";
        Err(HttpError::new(404, "unknown_connection", message))
    }

    /// Reads the body as JSON of this type.
    async fn body<T: DeserializeOwned>(&self, request: Request<Incoming>) -> Result<T, HttpError> {
        no_query(&request)?;
        // A page of another site can send JSON only under another type's name, without asking first.
        let is_json = request.headers().get(header::CONTENT_TYPE).is_some_and(|value| {
            let kind = value.to_str().unwrap_or_default().split(';').next().unwrap_or_default();
            kind.trim().eq_ignore_ascii_case("application/json")
        });
        if !is_json {
            let message = "the body must be JSON, and be declared as it: Content-Type: application/json";
            return Err(HttpError::new(415, "unsupported_media_type", message));
        }
        let too_large = || {
            let message = format!("the body must not be longer than max_frame_bytes, {} bytes", self.max_body_bytes);
            HttpError::new(413, ErrorCode::FrameTooLarge.as_str(), message)
        };
        let body = request.into_body();
        if body.size_hint().lower() > self.max_body_bytes as u64 {
            return Err(too_large());
        }
        let body = match timeout(self.read_timeout, Limited::new(body, self.max_body_bytes).collect()).await {
            Ok(Ok(body)) => body.to_bytes(),
            Ok(Err(error)) if error.is::<LengthLimitError>() => return Err(too_large()),
            Ok(Err(error)) => return Err(unreadable(&*error)),
            Err(_) => {
                let message = "the body was not finished within frame_timeout";
                return Err(HttpError::new(408, ErrorCode::FrameTimeout.as_str(), message));
            }
        };
        // To serde, an array would be a struct whose fields have lost their names.
        if body.trim_ascii_start().starts_with(b"[") {
            return Err(bad_request("the body: expected an object, and it is an array"));
        }
        serde_json::from_slice(&body).map_err(|error| {
            let code = if error.is_data() { ErrorCode::BadRequest } else { ErrorCode::BadJson };
            HttpError::new(400, code.as_str(), format!("the body: {error}"))
        })
    }
}

/// Why a body cannot be read: the client's mistake, or the end of its stream, after which the same request may succeed.
fn unreadable(error: &(dyn Error + Send + Sync + 'static)) -> HttpError {
    let first: &(dyn Error + 'static) = error;
    let causes = std::iter::successors(Some(first), |&error| error.source());
    // hyper says no more of a chunk that breaks the rules than this.
    let malformed = causes
        .filter_map(|cause| cause.downcast_ref::<io::Error>())
        .find(|cause| matches!(cause.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData));
    match malformed {
        Some(cause) => HttpError::new(400, ErrorCode::BadFrame.as_str(), format!("the chunks of the body: {cause}")),
        None => HttpError::new(400, ErrorCode::UnfinishedFrame.as_str(), format!("the body: {error}")),
    }
}

fn message(topic: &str, event: &str, message_id: &str, data: &RawValue) -> Result<Message, HttpError> {
    let message = Message::new(topic, data).map_err(|error| publish_error(&error))?;
    Ok(message.event(event).message_id(message_id))
}

/// Publishes a message to these topics, and answers with what became of it on each.
///
/// It is carried through also if its client goes away, which hyper does not look at before it has the answer. A portion at a
/// time: so much waits for its topics to number it, and then others get their turn.
pub(super) async fn publish_to_all(janus: &Janus, message: &Message, topics: &[String]) -> Response<Full<Bytes>> {
    let mut results = Vec::with_capacity(topics.len());
    let portion = (PORTION_BYTES / message.len()).clamp(1, PORTION_TOPICS);
    for topics in topics.chunks(portion) {
        let publish = |topic: &String| message.for_topic(topic).and_then(|message| janus.try_publish(message));
        let started: Vec<_> = topics.iter().map(publish).collect();
        for (topic, started) in topics.iter().zip(started) {
            let result = match started {
                Ok(receipt) => receipt.await,
                Err(error) => Err(error),
            };
            results.push(match result {
                Ok(receipt) => Outcome::Published { topic, receipt: receipt.into() },
                Err(error) => {
                    let HttpError { code, message, .. } = publish_error(&error);
                    Outcome::Refused { topic, error: ErrorJson { code, message } }
                }
            });
        }
        // Topics that nobody listens to answer at once.
        yield_now().await;
    }
    json(&Results { results })
}

/// How many of these messages fit into one answer.
fn fitting<'a>(messages: impl Iterator<Item = &'a Delivery>) -> usize {
    let mut bytes = 0;
    let fits = messages.enumerate().take_while(|(index, message)| {
        bytes += text_bytes(message);
        *index == 0 || bytes <= MAX_ANSWER_BYTES
    });
    fits.count()
}

fn text_bytes(message: &Delivery) -> usize {
    message.event().len() + message.message_id().len() + message.data().len()
}

/// What [`super::Access`] looks at.
fn head_of(request: &Request<Incoming>) -> HttpRequest {
    let headers = request.headers().iter().map(|(name, value)| (name.as_str(), value.as_bytes()));
    let head = HttpRequest::new(request.method().as_str(), request.uri().to_string(), headers);
    HttpRequest { is_http_1_0: request.version() == Version::HTTP_10, ..head }
}

/// Which part of a list is asked for.
#[derive(Debug)]
struct Page {
    limit: usize,
    after: Option<String>,
}

impl Page {
    fn of(request: &Request<Incoming>) -> Result<Self, HttpError> {
        let (mut count, mut after) = (None, None);
        for (name, value) in form_urlencoded::parse(request.uri().query().unwrap_or_default().as_bytes()) {
            let is_first = match &*name {
                "limit" => {
                    let number = digits(&value).ok_or_else(|| bad_request(format!("limit: expected {LIMITS}")))?;
                    count.replace(number).is_none()
                }
                "after" => after.replace(value.into_owned()).is_none(),
                _ => return Err(bad_request("the query: expected limit and after, and nothing else")),
            };
            if !is_first {
                return Err(bad_request("the query: limit and after must not be there twice"));
            }
        }
        Ok(Self { limit: limit(count)?, after: after.filter(|after| !after.is_empty()) })
    }
}

/// Refuses a query where none means anything: a parameter that was ignored would be missed by its sender alone.
fn no_query(request: &Request<Incoming>) -> Result<(), HttpError> {
    match request.uri().query() {
        None | Some("") => Ok(()),
        Some(_) => Err(bad_request("the query: this path has no parameters")),
    }
}

/// Digits of the number of a connection in a query, which is below 2^53.
const CONNECTION_DIGITS: usize = 16;

const LIMITS: &str = "a whole number from 1 to 10,000";

fn limit(asked_for: Option<u64>) -> Result<usize, HttpError> {
    let limit = asked_for.map_or(Some(DEFAULT_LIMIT), |limit| usize::try_from(limit).ok());
    let limit = limit.filter(|limit| (1..=MAX_LIMIT).contains(limit));
    limit.ok_or_else(|| bad_request(format!("limit: expected {LIMITS}")))
}

/// A number of a query, which has digits and nothing else.
pub(super) fn digits(text: &str) -> Option<u64> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

/// A page of a list, while it is looked up in portions.
struct List<T> {
    entries: Vec<T>,
    limit: usize,
    /// Whether there may be further entries.
    more: bool,
}

impl<T> List<T> {
    fn new(limit: usize) -> Self {
        Self { entries: Vec::new(), limit, more: true }
    }

    /// How many entries the next portion may have. One beyond the page tells that it is not the last.
    fn wanted(&self) -> usize {
        (self.limit + 1 - self.entries.len()).min(LIST_PORTION)
    }

    /// Adds the next portion; whether another is wanted.
    fn extend(&mut self, portion: Vec<T>) -> bool {
        self.more = portion.len() == self.wanted();
        self.entries.extend(portion);
        self.more && self.entries.len() <= self.limit
    }

    /// The page, and whether it is not the last.
    fn end(mut self) -> (Vec<T>, bool) {
        self.entries.truncate(self.limit);
        (self.entries, self.more)
    }
}

pub(super) fn bad_request(message: impl Into<String>) -> HttpError {
    HttpError::new(400, ErrorCode::BadRequest.as_str(), message)
}

fn publish_error(error: &PublishError) -> HttpError {
    let code = match error {
        PublishError::Full => None,
        other => Some(other.code()),
    };
    let status = code.map_or(503, ErrorCode::http_status);
    let mut refusal = HttpError::new(status, code.map_or("topic_busy", ErrorCode::as_str), error.to_string());
    refusal.retry_after = (status == 503).then_some(Duration::from_secs(1));
    refusal
}

fn json(answer: &impl Serialize) -> Response<Full<Bytes>> {
    response(200, to_json(answer).into())
}

fn to_json(answer: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(answer).expect("answers have no maps whose keys are no strings")
}

/// Epochs are text in JSON, whose numbers are too small for them.
fn hex(epoch: u64) -> String {
    format!("{epoch:016x}")
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Publish {
    topic: String,
    #[serde(default)]
    event: String,
    #[serde(default)]
    message_id: String,
    data: Box<RawValue>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Broadcast {
    topics: Vec<String>,
    #[serde(default)]
    event: String,
    #[serde(default)]
    message_id: String,
    data: Box<RawValue>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct History {
    topic: String,
    #[serde(default)]
    since: Option<Since>,
    #[serde(default)]
    limit: Option<Whole>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Since {
    #[serde(deserialize_with = "epoch")]
    epoch: u64,
    seq: Whole,
}

fn epoch<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    let text = String::deserialize(deserializer)?;
    let digits = text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let epoch = digits.then(|| u64::from_str_radix(&text, 16).ok()).flatten();
    epoch.ok_or_else(|| D::Error::custom("epoch: expected 16 hexadecimal digits, as in a receipt"))
}

/// A whole number, as JSON has it: from 0 to 2^53 − 1, and 5.0 is one.
#[derive(Debug)]
struct Whole(u64);

impl Whole {
    const MAX: u64 = (1 << 53) - 1;
}

impl<'de> Deserialize<'de> for Whole {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let number = serde_json::Number::deserialize(deserializer)?;
        // Up to there a float has every whole number.
        let of_float = |number: f64| (number.fract() == 0.0 && number >= 0.0).then_some(number as u64);
        let whole = number.as_u64().or_else(|| number.as_f64().and_then(of_float)).filter(|whole| *whole <= Self::MAX);
        whole.map(Self).ok_or_else(|| D::Error::custom("expected a whole number from 0 to 9007199254740991"))
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Disconnect {
    connection: Whole,
    /// Whether the client is told that it may come back.
    reconnect: bool,
}

#[derive(Debug, Serialize)]
struct ReceiptJson {
    epoch: String,
    seq: u64,
    subscribers: usize,
}

impl From<Receipt> for ReceiptJson {
    fn from(receipt: Receipt) -> Self {
        Self { epoch: hex(receipt.epoch), seq: receipt.seq, subscribers: receipt.subscribers }
    }
}

#[derive(Debug, Serialize)]
struct Results<'a> {
    results: Vec<Outcome<'a>>,
}

#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Outcome<'a> {
    Published {
        topic: &'a str,
        #[serde(flatten)]
        receipt: ReceiptJson,
    },
    Refused {
        topic: &'a str,
        error: ErrorJson,
    },
}

#[derive(Debug, Serialize)]
struct ErrorJson {
    code: &'static str,
    message: String,
}

#[derive(Debug, Serialize)]
struct HistoryJson<'a> {
    topic: &'a str,
    epoch: String,
    seq: u64,
    complete: bool,
    more: bool,
    messages: Vec<MessageJson<'a>>,
}

#[derive(Debug, Serialize)]
struct MessageJson<'a> {
    seq: u64,
    time: u64,
    event: &'a RawValue,
    message_id: &'a RawValue,
    data: &'a RawValue,
}

impl<'a> MessageJson<'a> {
    fn of(message: &'a Delivery) -> Result<Self, HttpError> {
        let raw = |text: &'a str| {
            // It was checked when it was published; a fault of ours must not end the process.
            serde_json::from_str(text).map_err(|error| {
                HttpError::new(500, ErrorCode::Internal.as_str(), format!("a message that is kept is no JSON: {error}"))
            })
        };
        Ok(Self {
            seq: message.seq(),
            time: message.timestamp.unix_millis(),
            event: raw(message.event())?,
            message_id: raw(message.message_id())?,
            data: raw(message.data())?,
        })
    }
}

#[derive(Debug, Serialize)]
struct Topics<'a> {
    topics: Vec<TopicJson<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

#[derive(Debug, Serialize)]
struct TopicJson<'a> {
    topic: &'a str,
    subscribers: usize,
    in_flight: usize,
    available: bool,
}

#[derive(Debug, Serialize)]
struct Connections {
    connections: Vec<ConnectionJson>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

#[derive(Debug, Serialize)]
struct ConnectionJson {
    connection: u64,
    peer: String,
    transport: &'static str,
    topics: usize,
}

#[derive(Debug, Serialize)]
struct Disconnected {
    connection: u64,
}
