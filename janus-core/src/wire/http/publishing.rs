//! A request that publishes, served where the publications of other clients are: `POST` to a [`PublishRoute`], with a
//! JSON object or bytes as body, and the receipt as answer. The connection is kept for the next request.
//!
//! The request shows its right to publish by itself, so its connection is never opened, and no hook is asked.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use percent_encoding::percent_decode_str;
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::answer::{Ends, put_answer, put_error};
use super::body::BodyReader;
use super::{HttpError, HttpRequest, PathPattern};
use crate::wire::http_request::trim_ows;
use crate::wire::object::Object;
use crate::wire::publication::{data_of_base64, data_of_bytes, put_json_string};
use crate::wire::request::{bad_base64, two_payloads};
use crate::wire::{
    Base64, ClientId, ClientIdError, Command, ErrorCode, FrameError, IdempotencyKey, Limits, Publication, ServerEvent,
    TopicName,
};

/// A path of an HTTP port at which requests publish: `POST`, with the header `Content-Type: application/json` and the body
/// `{"topic":T,"event":E,"message_id":I,"data":D,"exclude":C}`; all but `topic` and `data` may be left out, and `data_base64`
/// may stand in place of `data`. The message does not go to the client `exclude`, a [`ClientId`](crate::ClientId). Or the body
/// is the payload as it is, with the header `Content-Type: application/octet-stream`, and the other members are in the query:
/// see [`PublishQuery`]. The answer is the receipt,
/// `{"epoch":E,"seq":N,"subscribers":N}`. With the header `Idempotency-Key`, an [`IdempotencyKey`], a repetition within
/// `idempotency_ttl` gets the first receipt, with `"again":true`.
///
/// Such a request never leaves the thread of the connections, and its connection is kept: this is the fast way to publish
/// over HTTP. Requests to the same path with another method are [passed on](Command::PassOn). The rates of clients and
/// the hooks do not apply: the check given here decides alone. While a topic has no room, the request waits, as a
/// publisher over another protocol does.
///
/// Limits: `max_frame_bytes` for the body (413), `frame_timeout` for head and body together (408).
///
/// ```
/// use janus_core::wire::{HttpError, PublishRoute};
///
/// let route = PublishRoute::new("/publish", |request, is_local| match request.header("authorization") {
///     Some("Bearer secret") => Ok(()),
///     None if is_local => Ok(()),
///     _ => Err(HttpError::new(401, "unauthorized", "send the key in the header Authorization: Bearer KEY")),
/// });
/// # let _ = janus_core::Janus::builder().publish_route(route);
/// ```
#[derive(Clone)]
pub struct PublishRoute {
    path: Arc<str>,
    check: Arc<Check>,
    published: Option<Arc<Published>>,
    answered: Option<Arc<dyn Fn(u16) + Send + Sync>>,
}

type Published = dyn Fn(&HttpRequest, &TopicName) + Send + Sync;

type Check = dyn Fn(&HttpRequest, bool) -> Result<(), HttpError> + Send + Sync;

impl PublishRoute {
    /// A route at this path. `check` decides from the head whether a request may be carried out; its second argument says
    /// whether the client is on this machine, as in [`PassedOn::is_local`](crate::PassedOn::is_local). A refused request
    /// gets the error as answer, its body is not read, and the connection is closed.
    ///
    /// `check` is called on the home arbiter, for each request: the function must not block, and should not panic. A panic
    /// ends the connection.
    #[must_use]
    pub fn new(
        path: &str,
        check: impl Fn(&HttpRequest, bool) -> Result<(), HttpError> + Send + Sync + 'static,
    ) -> Self {
        Self { path: path.into(), check: Arc::new(check), published: None, answered: None }
    }

    /// Calls `published` with each request whose message is about to be published, for a log or a trace. The same
    /// conditions as for the check apply.
    #[must_use]
    pub fn on_publication(self, published: impl Fn(&HttpRequest, &TopicName) + Send + Sync + 'static) -> Self {
        Self { published: Some(Arc::new(published)), ..self }
    }

    /// Calls `answered` with the status of each answer, for statistics. The same conditions as for the check apply.
    #[must_use]
    pub fn on_answer(self, answered: impl Fn(u16) + Send + Sync + 'static) -> Self {
        Self { answered: Some(Arc::new(answered)), ..self }
    }

    /// The path.
    pub(crate) fn path(&self) -> PathPattern {
        PathPattern::exact(&self.path)
    }

    fn takes(&self, request: &HttpRequest) -> bool {
        request.method == "POST" && request.path() == &*self.path
    }

    fn note(&self, status: u16) {
        if let Some(answered) = &self.answered {
            answered(status);
        }
    }
}

impl fmt::Debug for PublishRoute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PublishRoute").field("path", &self.path).finish_non_exhaustive()
    }
}

/// All publishing routes of a port.
#[derive(Clone, Debug, Default)]
pub(super) struct Routes(Arc<[PublishRoute]>);

impl Routes {
    pub(super) fn with(&self, route: PublishRoute) -> Self {
        Self(self.0.iter().cloned().chain([route]).collect())
    }

    /// The request, if a route takes it.
    pub(super) fn submission(&self, request: HttpRequest) -> Result<Submission, HttpRequest> {
        let Some(number) = self.0.iter().position(|route| route.takes(&request)) else { return Err(request) };
        let ends = Ends::of(&request);
        let expects = !request.is_http_1_0
            && request.header("expect").is_some_and(|value| value.eq_ignore_ascii_case("100-continue"));
        Ok(Submission {
            route: self.0[number].clone(),
            answer: Answer { route: number, ends },
            request: Box::new(request),
            step: Step::Asked,
            content: Content::Json,
            expects,
        })
    }

    /// The answer to a request of a publishing route, in HTTP. With `last`, the answer announces the end of the
    /// connection.
    pub(super) fn encode(&self, event: &ServerEvent<'_>, last: bool, out: &mut BytesMut) {
        let (ServerEvent::Published { id: Some(id), .. } | ServerEvent::Error { id: Some(id), .. }) = *event else {
            return;
        };
        let Answer { route, ends } = Answer::from_id(id);
        let ends = if last { Ends::Closes } else { ends };
        let status = match *event {
            ServerEvent::Published { position, subscribers, again, .. } => {
                let mut body = Vec::with_capacity(96);
                let receipt = Object::new(&mut body).position(position).number("subscribers", subscribers as u64);
                receipt.again(again).end();
                put_answer(out, 200, ends, &body);
                200
            }
            ServerEvent::Error { code, message, .. } => {
                let error = error(code, message);
                put_error(out, &error, ends);
                error.status
            }
            _ => return,
        };
        if let Some(route) = self.0.get(route) {
            route.note(status);
        }
    }
}

/// The form of an answer, as the number of the request: the answer is encoded long after its request was decoded.
#[derive(Clone, Copy)]
struct Answer {
    route: usize,
    ends: Ends,
}

impl Answer {
    fn id(self) -> u64 {
        (self.route as u64) << 2 | self.ends as u64
    }

    fn from_id(id: u64) -> Self {
        Self { route: (id >> 2) as usize, ends: Ends::from_number(id & 3) }
    }
}

/// A request of a publishing route on its way to a command.
pub(super) struct Submission {
    route: PublishRoute,
    answer: Answer,
    pub(super) request: Box<HttpRequest>,
    step: Step,
    /// Known once the head is checked.
    content: Content,
    /// Whether the client waits with the body for a word of the server (RFC 9110, 10.1.1).
    expects: bool,
}

enum Step {
    /// The head is there, and nothing is decided.
    Asked,
    Refused(HttpError),
    Admitted,
    Body(BodyReader),
}

/// The result of more input.
pub(super) enum Progress {
    /// The request continues.
    Goes(Command),
    /// The request is over, and another may follow.
    Ends(Command),
    /// The connection ends behind this request.
    Closes(Command),
}

impl Submission {
    /// Decides whether the request may be carried out.
    pub(super) fn admit(&mut self, is_local: bool) {
        self.step = match (self.route.check)(&self.request, is_local) {
            Ok(()) => Step::Admitted,
            Err(error) => Step::Refused(error),
        };
    }

    /// Continues with more input; `None` if the body is incomplete.
    pub(super) fn decode(&mut self, input: &mut &[u8], limits: &Limits) -> Option<Progress> {
        if matches!(self.step, Step::Admitted) {
            self.step = match self.checked(limits) {
                Ok(body) => Step::Body(body),
                Err(error) => Step::Refused(error),
            };
        }
        let body = match &mut self.step {
            Step::Body(body) => body,
            Step::Refused(error) => {
                let error = error.clone();
                return Some(Progress::Closes(Command::Close(self.refuse(&error))));
            }
            // The caller did not obey the order of calls.
            Step::Asked | Step::Admitted => return Some(Progress::Closes(Command::Close(Bytes::new()))),
        };
        if std::mem::take(&mut self.expects) && input.is_empty() && !body.is_complete() {
            return Some(Progress::Goes(Command::Answer(Bytes::from_static(b"HTTP/1.1 100 Continue\r\n\r\n"))));
        }
        let body = match body.read(input)? {
            Ok(body) => body,
            Err(error) => return Some(Progress::Closes(Command::Close(self.refuse(&error)))),
        };
        let last = self.answer.ends == Ends::Closes;
        let id = Some(self.answer.id());
        let command = match self.publication(&body, limits) {
            Ok((topic, publication)) => {
                if let Some(published) = &self.route.published {
                    published(&self.request, &topic);
                }
                Command::Submit { topic, publication, id, last }
            }
            Err(error) if last => Command::Close(self.refuse(&self::error(error.code, &error.message))),
            Err(error) => Command::Refused(error.with_id(id)),
        };
        Some(if last { Progress::Closes(command) } else { Progress::Ends(command) })
    }

    /// The client has ended its side of the stream in the middle of this request.
    pub(super) fn finish(&mut self) -> Option<Command> {
        matches!(self.step, Step::Body(_)).then(|| {
            let code = ErrorCode::UnfinishedFrame;
            let message = "the body: the stream ended before the end of the body; the request had no effect";
            Command::Close(self.refuse(&HttpError::new(code.http_status(), code.as_str(), message)))
        })
    }

    pub(super) fn memory(&self) -> usize {
        let body = if let Step::Body(body) = &self.step { body.memory() } else { 0 };
        self.request.memory() + body
    }

    /// The message of the request, with the key of the header `Idempotency-Key`.
    fn publication(&self, body: &[u8], limits: &Limits) -> Result<(TopicName, Publication), FrameError> {
        publication_of(&self.request, self.content, body, limits)
    }

    /// What the head says about the body.
    fn checked(&mut self, limits: &Limits) -> Result<BodyReader, HttpError> {
        self.content = check_head(&self.request)?;
        BodyReader::of(&self.request, limits.max_frame_bytes)
    }

    /// The answer to a request whose end is unknown: the connection closes. The caller sends the answer.
    fn refuse(&self, error: &HttpError) -> Bytes {
        self.note(error);
        error.response()
    }

    /// Counts an answer that is sent.
    pub(super) fn note(&self, error: &HttpError) {
        self.route.note(error.status);
    }
}

/// What the body of a request is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Content {
    /// An object with the parts of the message.
    Json,
    /// The payload as it is.
    Bytes,
}

/// The message of a request, with the key of the header `Idempotency-Key`.
pub(super) fn publication_of(
    request: &HttpRequest,
    content: Content,
    body: &[u8],
    limits: &Limits,
) -> Result<(TopicName, Publication), FrameError> {
    let key = request.header("idempotency-key").map(str::parse::<IdempotencyKey>).transpose();
    let key = key.map_err(|error| harmless(ErrorCode::BadPublish, format!("the header Idempotency-Key: {error}")))?;
    let (topic, publication) = match content {
        Content::Json => of_json(body, limits)?,
        Content::Bytes => of_bytes(request.query(), body, limits)?,
    };
    if publication.payload_len() > limits.max_frame_bytes {
        let (length, limit) = (publication.payload_len(), limits.max_frame_bytes);
        let message = format!("the message takes {length} bytes, and max_frame_bytes allows {limit}");
        return Err(harmless(ErrorCode::BadPublish, message));
    }
    Ok((
        topic,
        match key {
            Some(key) => publication.with_key(key),
            None => publication,
        },
    ))
}

/// What the body of a request that publishes is, by its head.
///
/// # Errors
///
/// The head cannot belong to a request that publishes.
pub(super) fn check_head(request: &HttpRequest) -> Result<Content, HttpError> {
    // Without a preflight, a page of another site can send JSON or bytes only under another content type.
    let kind = request.header("content-type").unwrap_or_default().split(';').next().unwrap_or_default();
    if trim_ows(kind).eq_ignore_ascii_case("application/octet-stream") {
        return Ok(Content::Bytes);
    }
    if !request.query().is_empty() {
        let message = "the query: with a body of JSON this path accepts no parameters";
        return Err(HttpError::new(400, ErrorCode::BadRequest.as_str(), message));
    }
    if trim_ows(kind).eq_ignore_ascii_case("application/json") {
        return Ok(Content::Json);
    }
    let message = "the body must be JSON with the header Content-Type: application/json, or bytes with Content-Type: \
                   application/octet-stream";
    Err(HttpError::new(415, "unsupported_media_type", message))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Publish<'a> {
    #[serde(borrow)]
    topic: Cow<'a, str>,
    #[serde(borrow, default)]
    event: Cow<'a, str>,
    #[serde(borrow, default)]
    message_id: Cow<'a, str>,
    #[serde(borrow, default, deserialize_with = "given")]
    data: Option<&'a RawValue>,
    #[serde(borrow, default)]
    data_base64: Option<Cow<'a, str>>,
    exclude: Option<ClientId>,
}

/// A value that is there: serde would take `null` for none.
fn given<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<&'de RawValue>, D::Error> {
    Deserialize::deserialize(deserializer).map(Some)
}

/// The message in a body of JSON.
fn of_json(body: &[u8], limits: &Limits) -> Result<(TopicName, Publication), FrameError> {
    // serde would accept an array as a struct without the names of the fields.
    if body.trim_ascii_start().starts_with(b"[") {
        return Err(harmless(ErrorCode::BadRequest, "the body: expected an object, got an array"));
    }
    let Publish { topic, event, message_id, data, data_base64, exclude } =
        serde_json::from_slice(body).map_err(|error| {
            let code = if error.is_data() { ErrorCode::BadRequest } else { ErrorCode::BadJson };
            harmless(code, format!("the body: {error}"))
        })?;
    let topic = TopicName::new(&topic, limits.max_topic_bytes)
        .map_err(|error| harmless(ErrorCode::BadTopic, error.to_string()))?;
    let bytes;
    let data = match (data.map(RawValue::get), &data_base64) {
        (None, None) => return Err(harmless(ErrorCode::BadRequest, NO_PAYLOAD)),
        (Some(json), None) => {
            Publication::check_data(json).map_err(|error| harmless(ErrorCode::BadPublish, error.to_string()))?
        }
        (None | Some("null"), Some(text)) => {
            let base64 = Base64::new(text).map_err(|error| bad_base64(&error.to_string()).into_harmless())?;
            bytes = data_of_base64(base64);
            &bytes
        }
        (Some(_), Some(_)) => return Err(two_payloads().into_harmless()),
    };
    let publication = Publication::of_checked(&topic, &json_string(&event), &json_string(&message_id), data);
    Ok((
        topic,
        match exclude {
            Some(client) => publication.excluding(client),
            None => publication,
        },
    ))
}

const NO_PAYLOAD: &str = "the body: missing field `data`, or `data_base64` for bytes";

/// The message whose payload is a body.
fn of_bytes(query: &str, body: &[u8], limits: &Limits) -> Result<(TopicName, Publication), FrameError> {
    let PublishQuery { topic, event, message_id, exclude } =
        PublishQuery::parse(query).map_err(FrameError::into_harmless)?;
    let topic = TopicName::new(&topic, limits.max_topic_bytes)
        .map_err(|error| harmless(ErrorCode::BadTopic, error.to_string()))?;
    let (event, message_id) = (json_string(&event), json_string(&message_id));
    let publication = Publication::of_checked(&topic, &event, &message_id, &data_of_bytes(body));
    Ok((
        topic,
        match exclude {
            Some(client) => publication.excluding(client),
            None => publication,
        },
    ))
}

/// The query of a request whose body is the payload as it is: `topic`, `event` and `message_id` if they are not empty, and
/// `exclude` for a client that does not get the message.
///
/// ```
/// use janus_core::wire::PublishQuery;
///
/// let query = PublishQuery::parse("topic=camera%3A1&event=frame")?;
/// assert_eq!((&*query.topic, &*query.event, &*query.message_id), ("camera:1", "frame", ""));
/// assert!(PublishQuery::parse("topic=a&topic=b").is_err());
/// # Ok::<_, janus_core::wire::FrameError>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PublishQuery {
    /// The topic, unchecked.
    pub topic: String,
    /// The event, a text.
    pub event: String,
    /// The publisher's id of the message, a text.
    pub message_id: String,
    /// The client that does not get the message.
    pub exclude: Option<ClientId>,
}

impl PublishQuery {
    /// Reads a query, without its `?`.
    ///
    /// # Errors
    ///
    /// `bad_request` for a parameter that is unknown, duplicate or not UTF-8, and `bad_topic` without a topic.
    pub fn parse(query: &str) -> Result<Self, FrameError> {
        let bad = |why: String| FrameError::new(ErrorCode::BadRequest, format!("the query: {why}"));
        const NAMES: [&str; 4] = ["topic", "event", "message_id", "exclude"];
        let mut read = [const { None }; NAMES.len()];
        let parameters = query.split('&').filter(|parameter| !parameter.is_empty());
        for (parameter, (name, value)) in parameters.zip(form_urlencoded::parse(query.as_bytes())) {
            let Some(place) = NAMES.iter().position(|known| *known == name) else {
                let names = "topic, event, message_id and exclude";
                return Err(bad(format!("expected only {names}, the payload is the body")));
            };
            // The parser would replace invalid bytes by another character.
            if percent_decode_str(parameter).decode_utf8().is_err() {
                return Err(bad(format!("{name} is not UTF-8")));
            }
            if read[place].replace(value.into_owned()).is_some() {
                return Err(bad(format!("duplicate {name}: send it once")));
            }
        }
        let [topic, event, message_id, exclude] = read;
        let exclude = exclude.map(|client: String| client.parse()).transpose();
        let exclude = exclude.map_err(|error: ClientIdError| bad(format!("exclude: {error}")))?;
        let missing = "missing topic: name it in the query, as in ?topic=news";
        let topic = topic.ok_or_else(|| FrameError::new(ErrorCode::BadTopic, missing))?;
        Ok(Self { topic, event: event.unwrap_or_default(), message_id: message_id.unwrap_or_default(), exclude })
    }
}

fn json_string(text: &str) -> Cow<'static, str> {
    if text.is_empty() {
        return Cow::Borrowed("\"\"");
    }
    let mut json = Vec::with_capacity(text.len() + 2);
    put_json_string(&mut json, text);
    Cow::Owned(String::from_utf8_lossy(&json).into_owned())
}

/// An error about a request whose end is known, so that the connection continues whatever the code.
fn harmless(code: ErrorCode, message: impl Into<String>) -> FrameError {
    FrameError::new(code, message).into_harmless()
}

/// The same answer as by [`HttpError::from`] a refusal.
pub(super) fn error(code: ErrorCode, message: &str) -> HttpError {
    let mut error = HttpError::new(code.http_status(), code.as_str(), message);
    error.retry_after = (error.status == 503).then_some(std::time::Duration::from_secs(1));
    error
}
