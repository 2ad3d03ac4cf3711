//! The modern protocol, `janus.v1.json`: one JSON object in each frame, whatever carries the frames.
//!
//! The [`RequestDecoder`] turns the text of a frame into a [`Request`]; [`encode`] appends a [`ServerEvent`] as text. The
//! first frame must be a `hello`. `docs/PROTOCOL.md` has the meaning of the frames; [`client`] (`v1/client.rs`) is the
//! client's end, `v1/tests.rs` the rules.

use std::time::Duration;

use bytes::{BufMut, BytesMut};

use super::json::{self, Members, Reader};
use super::member::Told;
use super::object::Object;
use super::publication::{Handling, put_decimal, put_event_id_and_payload};
use super::request::{self, Batch, RawPublication, bad_json, duplicate_key, topic_must_be_a_string};
use super::{
    Base64, ClientId, ClientIdError, Command, Credentials, ErrorCode, FrameError, HistoryQuery, IdempotencyKey,
    IdempotencyKeyError, Limits, NumberedMessage, Open, Position, Refusal, RequestId, ServerEvent, Since, TopicName,
};

pub mod client;

/// The largest number of a request: beyond this limit JavaScript cannot count.
pub const MAX_REQUEST_ID: u64 = (1 << 53) - 1;

/// What follows the data of a publication, if the data come last.
const PUBLISH_END: &str = "}";

/// The answer to a `ping`.
pub const PONG: &str = r#"{"type":"pong"}"#;

/// The request in a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// A command to carry out.
    Command(Command),
    /// A ping, answered with [`PONG`] in a frame of the underlying protocol.
    Ping,
}

/// Turns the frames of a connection into commands.
///
/// It remembers only whether the `hello` has come, and the memory shared by publications of the same read.
///
/// ```
/// use janus_core::wire::v1::{RequestDecoder, Request};
/// use janus_core::wire::{Command, ErrorCode, Limits, Open};
///
/// let limits = Limits { max_frame_bytes: 65_536, max_topic_bytes: 255, max_topics: 128 };
/// let mut decoder = RequestDecoder::new();
/// let hello = decoder.decode(r#"{"type":"hello"}"#, 0, &limits)?;
/// assert_eq!(hello, Request::Command(Command::Open(Box::new(Open::default()))));
/// assert_eq!(decoder.decode(r#"{"type":"ping"}"#, 0, &limits)?, Request::Ping);
///
/// let error = decoder.decode(r#"{"type":"subscribe","id":7,"topic":""}"#, 0, &limits).unwrap_err();
/// assert_eq!((error.code, error.id, error.is_fatal()), (ErrorCode::BadTopic, Some(7), false));
/// # Ok::<_, janus_core::wire::FrameError>(())
/// ```
#[derive(Debug, Default)]
pub struct RequestDecoder {
    opened: bool,
    batch: Option<Box<Batch>>,
}

impl RequestDecoder {
    /// A decoder at the start of a connection.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads a frame. `more` is the number of bytes of the same read after the frame, as far as known: with many, the
    /// publications in these bytes share memory until [`end_of_read`](Self::end_of_read); 0 is never wrong.
    ///
    /// # Errors
    ///
    /// Why the frame is refused, with the number and the topic of the request if these could be read. The connection
    /// must be closed if the error [is fatal](FrameError::is_fatal); every error is fatal until the `hello` has come.
    pub fn decode(&mut self, text: &str, more: usize, limits: &Limits) -> Result<Request, FrameError> {
        match self.repeated(text, more) {
            Some(command) => Ok(Request::Command(command)),
            None => self.decode_afresh(text, more, limits),
        }
    }

    /// The publication in a frame that begins as an earlier frame of the same read did.
    #[inline]
    pub(super) fn repeated(&mut self, text: &str, more: usize) -> Option<Command> {
        let (topic, publication) = self.batch.as_mut()?.repeated(text, PUBLISH_END, more)?;
        Some(Command::Publish { topic, publication, ack: false, id: None })
    }

    /// As [`decode`](Self::decode), for any other frame.
    pub(super) fn decode_afresh(&mut self, text: &str, more: usize, limits: &Limits) -> Result<Request, FrameError> {
        self.decode_fields(Fields::read(text)?, text, more, limits)
    }

    /// As [`decode`](Self::decode), for a frame whose publication came apart from the other members. An error about the
    /// publication concerns frames that publish.
    pub(super) fn decode_apart(
        &mut self,
        text: &str,
        publication: Result<RawPublication<'_>, FrameError>,
        limits: &Limits,
    ) -> Result<Request, FrameError> {
        let mut fields = Fields::read(text)?;
        match publication {
            Ok(RawPublication { event, message_id, data, .. }) => {
                fields.publication = RawPublication { event, message_id, data, base64: None, ..fields.publication };
            }
            Err(error) if self.opened && fields.kind == Some("\"publish\"") => return Err(fields.about(error, limits)),
            Err(_) => {}
        }
        // The publications of a read share no memory: the text is not that of the frame.
        self.decode_fields(fields, text, 0, limits)
    }

    fn decode_fields(
        &mut self,
        fields: Fields<'_>,
        text: &str,
        more: usize,
        limits: &Limits,
    ) -> Result<Request, FrameError> {
        match json::string(fields.kind.unwrap_or_default()).as_deref() {
            Some("hello") if !self.opened => {
                let open = fields.open().map_err(FrameError::into_fatal)?;
                self.opened = true;
                Ok(Request::Command(Command::Open(Box::new(open))))
            }
            Some("hello") => {
                Err(FrameError::new(ErrorCode::BadOpen, "\"hello\" must be sent once, as the first frame"))
            }
            _ if !self.opened => {
                Err(FrameError::new(ErrorCode::BadOpen, "the first frame must be {\"type\":\"hello\"}"))
            }
            kind => {
                fields.request(kind, text, limits, more, &mut self.batch).map_err(|error| fields.about(error, limits))
            }
        }
    }

    /// Whether the `hello` has come.
    #[must_use]
    pub fn is_opened(&self) -> bool {
        self.opened
    }

    /// Continues where another decoder was, between two frames.
    pub(super) fn continue_from(&mut self, opened: bool) {
        self.opened = opened;
    }

    /// Releases the memory shared by the publications of a read.
    pub fn end_of_read(&mut self) {
        self.batch = None;
    }
}

/// A frame, taken apart but not yet understood: the raw text of every known member.
#[derive(Default)]
struct Fields<'a> {
    kind: Option<&'a str>,
    /// `None` also for a duplicate, reported in `duplicate`.
    id: Option<&'a str>,
    publication: RawPublication<'a>,
    since: Option<&'a str>,
    session: Option<&'a str>,
    auth: Option<&'a str>,
    key: Option<&'a str>,
    exclude: Option<&'a str>,
    /// A known key found twice.
    duplicate: Option<&'static str>,
}

impl<'a> Fields<'a> {
    fn read(text: &'a str) -> Result<Self, FrameError> {
        let mut reader = Reader::new(text);
        if !reader.at_object() {
            json::one_value(text).map_err(bad_json)?;
            return Ok(Self::default());
        }
        let keys = [
            "type",
            "id",
            "topic",
            "event",
            "message_id",
            "data",
            "since",
            "session",
            "auth",
            "idempotency_key",
            "exclude",
            "data_base64",
        ];
        let Members { values, twice } = json::members(text, keys).map_err(bad_json)?;
        let [kind, id, topic, event, message_id, data, since, session, auth, key, exclude, base64] = values;
        // Many serializers write null for an optional key without a value. The parts of a message may be null.
        let given = |raw: Option<&'a str>| raw.filter(|raw| *raw != "null");
        Ok(Self {
            kind,
            id: given(id).filter(|_| !twice[1]),
            publication: RawPublication { topic, event, message_id, data, base64: given(base64) },
            since: given(since),
            session: given(session),
            auth: given(auth),
            key: given(key),
            exclude: given(exclude),
            duplicate: first_of(twice, keys),
        })
    }

    fn open(self) -> Result<Open, FrameError> {
        if let Some(key) = self.duplicate {
            return Err(duplicate_key(key));
        }
        let text = |raw: Option<&str>| {
            raw.map(|raw| json::string(raw).map(Into::into).ok_or_else(session_and_auth_must_be_strings)).transpose()
        };
        Ok(Open { session: text(self.session)?, auth: text(self.auth)?, ..Open::default() })
    }

    /// An error with the number and the topic of the request, as far as these can be read.
    fn about(&self, error: FrameError, limits: &Limits) -> FrameError {
        // With a duplicate key, either of the values may be meant.
        let topic = self.publication.topic.filter(|_| error.code != ErrorCode::DuplicateKey);
        let topic = topic.and_then(|raw| request::topic_name(raw, limits.max_topic_bytes).ok());
        let error = error.with_id(self.id().ok().flatten());
        match topic {
            Some(topic) => error.with_topic(&topic),
            None => error,
        }
    }

    fn request(
        &self,
        kind: Option<&str>,
        text: &str,
        limits: &Limits,
        more: usize,
        batch: &mut Option<Box<Batch>>,
    ) -> Result<Request, FrameError> {
        if let Some(key) = self.duplicate {
            return Err(duplicate_key(key));
        }
        let command = match kind {
            Some("subscribe") => Command::Subscribe {
                id: self.id()?,
                topic: self.topic(limits)?,
                since: self.since()?,
                horizon: None,
                presence: wants_presence(text)?,
                member: None,
            },
            Some("presence") => Command::Presence { id: self.id()?, topic: self.topic(limits)? },
            Some("history") => {
                Command::History { id: self.id()?, topic: self.topic(limits)?, query: self.history(text)? }
            }
            Some("unsubscribe") => Command::Unsubscribe { id: self.id()?, topic: self.topic(limits)? },
            Some("publish") => {
                let RawPublication { data, base64, .. } = self.publication;
                if data.or(base64).is_none() {
                    // A mistyped key must not publish an empty message.
                    self.topic(limits)?;
                    return Err(data_is_missing());
                }
                let id = self.id()?;
                let (key, excluded) = (self.key()?, self.excluded()?);
                let (topic, mut publication) = self.publication.read(limits.max_topic_bytes, more, batch)?;
                if key.is_some() || excluded.is_some() {
                    publication = publication.with_handling(Some(Box::new(Handling { key, excluded })));
                } else if let (Some(batch), None, Some(data), None) = (batch, id, data, base64) {
                    batch.note_opening(text, data, PUBLISH_END, (&topic, &publication));
                }
                Command::Publish { topic, publication, ack: id.is_some(), id }
            }
            Some("refresh") => Command::Refresh { id: self.id()?, auth: self.credentials()? },
            Some("ping") => return Ok(Request::Ping),
            Some("pong") => Command::Pong,
            _ => return Err(unknown_type()),
        };
        Ok(Request::Command(command))
    }

    fn id(&self) -> Result<RequestId, FrameError> {
        let number = |raw: &str| raw.parse().ok().filter(|id| *id <= MAX_REQUEST_ID).ok_or_else(bad_id);
        self.id.map(number).transpose()
    }

    fn key(&self) -> Result<Option<IdempotencyKey>, FrameError> {
        let key = |raw| json::string(raw).and_then(|text| text.parse().ok()).ok_or_else(bad_key);
        self.key.map(key).transpose()
    }

    fn excluded(&self) -> Result<Option<ClientId>, FrameError> {
        let client = |raw| json::string(raw).and_then(|text| text.parse().ok()).ok_or_else(bad_exclude);
        self.exclude.map(client).transpose()
    }

    fn credentials(&self) -> Result<Credentials, FrameError> {
        let auth = self.auth.and_then(json::string).ok_or_else(auth_must_be_a_string)?;
        Ok(Credentials(auth.into_owned()))
    }

    fn topic(&self, limits: &Limits) -> Result<TopicName, FrameError> {
        let raw = self.publication.topic.ok_or_else(topic_must_be_a_string)?;
        request::topic_name(raw, limits.max_topic_bytes)
    }

    fn since(&self) -> Result<Option<Since>, FrameError> {
        const KEYS: [&str; 2] = ["epoch", "seq"];
        let Some(raw) = self.since else { return Ok(None) };
        if let Some(text) = json::string(raw) {
            return Since::of_word(&text).map(Some).ok_or_else(bad_since);
        }
        // The text is known to be JSON, so an unreadable value is not an object.
        let Ok(Members { values: [epoch, seq], twice }) = json::members(raw, KEYS) else {
            return Err(bad_since());
        };
        if let Some(key) = first_of(twice, KEYS) {
            return Err(duplicate_key(key));
        }
        let epoch = epoch.and_then(json::string).and_then(|text| text.parse().ok()).ok_or_else(bad_since)?;
        let seq = seq.and_then(|raw| raw.parse().ok()).ok_or_else(bad_since)?;
        Ok(Some(Since::Position(Position { epoch, seq })))
    }
}

/// Messages in an answer, unless the client gives a limit.
const HISTORY_LIMIT: usize = 100;

impl Fields<'_> {
    /// What a client wants of a history. Read by itself, because publications need no further keys.
    fn history(&self, text: &str) -> Result<HistoryQuery, FrameError> {
        const KEYS: [&str; 2] = ["limit", "reverse"];
        let bad = |message| FrameError::new(ErrorCode::BadRequest, message);
        let Members { values: [limit, reverse], twice } = json::members(text, KEYS).map_err(bad_json)?;
        if let Some(key) = first_of(twice, KEYS) {
            return Err(duplicate_key(key));
        }
        let limit = match limit.filter(|raw| *raw != "null") {
            None => HISTORY_LIMIT,
            Some(raw) => match raw.parse() {
                Ok(limit @ 1_u64..=MAX_REQUEST_ID) => usize::try_from(limit).unwrap_or(usize::MAX),
                _ => return Err(bad("\"limit\" must be a whole number from 1: the number of messages")),
            },
        };
        let reverse = match reverse {
            None | Some("null" | "false") => false,
            Some("true") => true,
            Some(_) => return Err(bad("\"reverse\" must be true or false")),
        };
        Ok(HistoryQuery { since: self.since()?, reverse, ..HistoryQuery::latest(limit) })
    }
}

/// Whether a subscribe asks for presence. Read by itself, because publications need no further key.
fn wants_presence(text: &str) -> Result<bool, FrameError> {
    const KEY: [&str; 1] = ["presence"];
    let Members { values: [presence], twice } = json::members(text, KEY).map_err(bad_json)?;
    if let Some(key) = first_of(twice, KEY) {
        return Err(duplicate_key(key));
    }
    match presence {
        None | Some("null" | "false") => Ok(false),
        Some("true") => Ok(true),
        Some(_) => Err(FrameError::new(ErrorCode::BadRequest, "\"presence\" must be true or false")),
    }
}

/// The first duplicate among these keys.
fn first_of<const N: usize>(twice: [bool; N], keys: [&'static str; N]) -> Option<&'static str> {
    twice.iter().position(|&twice| twice).map(|index| keys[index])
}

fn unknown_type() -> FrameError {
    FrameError::new(
        ErrorCode::UnknownAction,
        "unknown or missing \"type\": expected \"subscribe\", \"unsubscribe\", \"publish\", \"presence\", \
         \"history\", \"refresh\", \"ping\" or \"pong\"",
    )
}

fn session_and_auth_must_be_strings() -> FrameError {
    FrameError::new(ErrorCode::BadOpen, "\"session\" and \"auth\" must be strings; omit a key without a value")
}

fn auth_must_be_a_string() -> FrameError {
    FrameError::new(ErrorCode::BadRequest, "\"auth\" must be a string: the new token")
}

fn data_is_missing() -> FrameError {
    FrameError::new(
        ErrorCode::BadPublish,
        "missing \"data\": expected one JSON value, possibly null; bytes are sent as \"data_base64\"",
    )
}

fn bad_id() -> FrameError {
    FrameError::new(ErrorCode::BadRequest, "\"id\" must be a whole number from 0 to 9007199254740991")
}

fn bad_key() -> FrameError {
    FrameError::new(ErrorCode::BadPublish, format!("\"idempotency_key\": {IdempotencyKeyError}"))
}

fn bad_exclude() -> FrameError {
    FrameError::new(ErrorCode::BadPublish, format!("\"exclude\": {ClientIdError}"))
}

fn bad_since() -> FrameError {
    FrameError::new(
        ErrorCode::BadRequest,
        "\"since\" must be \"start\", \"last\" or a position as sent by the server: \
         {\"epoch\":\"9f86d081884c7d65\",\"seq\":42}",
    )
}

/// Appends an event as the text of a frame; nothing for [`ServerEvent::Attached`], the answer to a request unknown to
/// this protocol.
pub fn encode(event: &ServerEvent<'_>, out: &mut BytesMut) {
    match *event {
        ServerEvent::Message(message) => encode_message(&message, out),
        ServerEvent::Opened { id, client, session, resumed, limits, heartbeat, expires } => {
            let Limits { max_frame_bytes, max_topic_bytes, max_topics } = *limits;
            let limits = format!(
                "{{\"max_frame_bytes\":{max_frame_bytes},\"max_topic_bytes\":{max_topic_bytes},\
                 \"max_topics\":{max_topics}}}"
            );
            let frame = frame(out, "welcome").id(id).text("session", session).text("client", &client.to_string());
            let frame = frame.raw("resumed", bool_text(resumed));
            with_expiry(frame.raw("limits", &limits).number("heartbeat_ms", millis(heartbeat)), expires).end();
        }
        ServerEvent::Refreshed { id, expires } => with_expiry(frame(out, "refreshed").id(id), expires).end(),
        ServerEvent::Assigned { topic, position } => {
            frame(out, "subscribed").text("topic", topic.as_str()).position(position).raw("resumed", "false").end();
        }
        ServerEvent::Subscribed { id, topic, position, missed, .. } => {
            let frame = frame(out, "subscribed").id(id).text("topic", topic.as_str()).position(position);
            match missed {
                Some(missed) => frame.raw("resumed", "true").number("missed", missed).end(),
                None => frame.raw("resumed", "false").end(),
            }
        }
        ServerEvent::Unsubscribed { id, topic } => {
            frame(out, "unsubscribed").id(id).text("topic", topic.as_str()).end();
        }
        ServerEvent::Published { id, topic, position, subscribers, again } => {
            let frame = frame(out, "published").id(id).text("topic", topic.as_str()).position(position);
            frame.number("subscribers", subscribers as u64).again(again).end();
        }
        ServerEvent::Gap { topic, epoch, from, to } => {
            let frame = frame(out, "gap").text("topic", topic.as_str()).epoch(epoch);
            frame.number("from", from).number("to", to).end();
        }
        ServerEvent::Presence { .. } | ServerEvent::Joined { .. } | ServerEvent::Left { .. } => {
            if let Some(told) = Told::of(event) {
                frame(out, told.kind).id(told.id).presence(&told).end();
            }
        }
        ServerEvent::History { .. } => encode_history(event, out),
        ServerEvent::AlreadySubscribed { id, topic } => {
            let message = "already subscribed to this topic; nothing has changed";
            frame(out, "error")
                .id(id)
                .text("topic", topic.as_str())
                .reason(ErrorCode::AlreadySubscribed, message)
                .end();
        }
        ServerEvent::Error { id, topic, code, message } => {
            let frame = frame(out, "error").id(id);
            let frame = match topic {
                Some(topic) => frame.text("topic", topic.as_str()),
                None => frame,
            };
            frame.reason(code, message).end();
        }
        ServerEvent::Refused(refusal) | ServerEvent::Bye(refusal) => encode_bye(&refusal, out),
        ServerEvent::Attached { .. } => {}
    }
}

fn encode_bye(refusal: &Refusal<'_>, out: &mut BytesMut) {
    let Refusal { id: _, code, message, reconnect_after, status: _ } = *refusal;
    let frame = frame(out, "bye").reason(code, message);
    match reconnect_after {
        Some(after) => frame.number("reconnect_after_ms", millis(after)).end(),
        None => frame.end(),
    }
}

fn encode_history(event: &ServerEvent<'_>, out: &mut BytesMut) {
    let ServerEvent::History { id, topic, position, top, complete, more, messages } = *event else { return };
    let frame = frame(out, "history").id(id).text("topic", topic.as_str()).position(position);
    let frame = frame.raw("complete", bool_text(complete)).raw("more", bool_text(more)).number("top", top);
    frame.list("messages", messages, put_kept).end();
}

fn encode_message(message: &NumberedMessage<'_>, out: &mut BytesMut) {
    /// The keys, their punctuation and two numbers of at most 20 digits.
    const BESIDES: usize = 128;
    let NumberedMessage { topic: _, topic_json, position, timestamp, event, message_id, data, base64, .. } = *message;
    let payload = base64.map_or(data, Base64::as_str);
    out.reserve(BESIDES + topic_json.len() + event.len() + message_id.len() + payload.len());
    out.put_slice(b"{\"type\":\"message\",\"topic\":");
    out.put_slice(topic_json.as_bytes());
    out.put_slice(b",\"seq\":");
    put_decimal(out, position.seq);
    out.put_slice(b",\"time\":");
    put_decimal(out, timestamp.unix_millis());
    put_event_id_and_payload(out, event, message_id, data, base64);
    out.put_u8(b'}');
}

/// Appends a message of a history, which has the topic and the epoch of the frame around it.
fn put_kept(message: &NumberedMessage<'_>, out: &mut impl BufMut) {
    let NumberedMessage { position, timestamp, event, message_id, data, base64, .. } = *message;
    out.put_slice(b"{\"seq\":");
    put_decimal(out, position.seq);
    out.put_slice(b",\"time\":");
    put_decimal(out, timestamp.unix_millis());
    put_event_id_and_payload(out, event, message_id, data, base64);
    out.put_u8(b'}');
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn bool_text(value: bool) -> &'static str {
    if value { "true" } else { "false" }
}

/// Adds the time until the end of the client's identity, if it ends.
fn with_expiry<B: BufMut>(frame: Object<'_, B>, expires: Option<Duration>) -> Object<'_, B> {
    match expires {
        Some(expires) => frame.number("expires_ms", millis(expires)),
        None => frame,
    }
}

/// The beginning of a frame.
fn frame<'o, B: BufMut>(out: &'o mut B, kind: &str) -> Object<'o, B> {
    Object::new(out).text("type", kind)
}

#[cfg(test)]
mod tests;
