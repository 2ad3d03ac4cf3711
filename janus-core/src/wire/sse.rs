//! Server-sent events: a stream of text for a browser's `EventSource`, which reconnects by itself.
//!
//! The request is the client's only input; it becomes an open and a subscribe for each topic. The position of a message
//! is its `id`, returned by the browser when it reconnects. `docs/PROTOCOL.md` has the format, `sse/tests.rs` the
//! rules.
//!
//! Every block has data. Clients that dispatch at each blank line yield an empty event for a block without data, and
//! clients built on npm's eventsource-parser take no id from such a block, and so lose messages when they reconnect. A
//! heartbeat therefore has data too, and `retry` and the first `id` are in the block that reports the subscription.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use percent_encoding::percent_decode_str;

use super::http::{Head, HeadReader, HttpError, NO_BODY, Reader, date};
use super::member::Told;
use super::object::Object;
use super::origins::AllowedOrigins;
use super::publication::put_decimal;
use super::resting::{Resting, Rests};
use super::{
    Base64, Codec, Command, Decoder, Epoch, ErrorClass, ErrorCode, FrameError, Heartbeat, HttpRequest, Limits,
    NumberedMessage, Open, Opens, Position, Refusal, Refusing, ServerEvent, Since, Timestamp, TopicName,
};

/// The `retry` of a browser that should stay away: a day. Once a stream has begun, nothing else can keep a browser
/// away.
const NEVER_MILLIS: u64 = 24 * 60 * 60 * 1_000;

/// An event with a type of its own, visible to pages. The usual heartbeat, a comment, is invisible to pages.
const HEARTBEAT: &[u8] = b"event: heartbeat\ndata: {}\n\n";

/// Ends the body of a chunked response.
const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// Types reserved for this protocol, and so unavailable to a publisher's event.
const OWN_TYPES: [&str; 11] =
    ["heartbeat", "subscribed", "gap", "refused", "presence", "joined", "left", "bye", "open", "error", "message"];

/// Whether a parameter holds the last id: each client that cannot set a header has its own name for the parameter.
fn is_last_event_id(name: &str) -> bool {
    let letters = name.bytes().filter(|byte| !matches!(byte, b'_' | b'-')).map(|byte| byte.to_ascii_lowercase());
    letters.eq(*b"lasteventid")
}

/// The type of a server-sent event, from a publisher's event in JSON.
fn native_type(event: &str) -> Option<String> {
    let kind: String = serde_json::from_str(event).ok()?;
    let fits = !kind.is_empty() && !kind.contains(['\r', '\n', '\0']) && !OWN_TYPES.contains(&&*kind);
    fits.then_some(kind)
}

/// The codec of server-sent events.
///
/// [`HttpPort`](super::HttpPort) switches connections to `/events` to this codec. Alone on a listener, the codec serves
/// every path. A program with its own HTTP server uses [`Sse::body`] and [`decoder_for`](Self::decoder_for).
///
/// ```
/// use std::time::Duration;
/// use janus_core::wire::{AllowedOrigins, Command, HttpRequest, Limits, Sse};
///
/// let sse = Sse::new(Duration::from_secs(2), AllowedOrigins::default());
/// let limits = Limits { max_frame_bytes: 65_536, max_topic_bytes: 255, max_topics: 128 };
/// let request = |target: &str| HttpRequest { method: "GET".into(), target: target.into(), ..HttpRequest::default() };
///
/// let mut decoder = sse.decoder_for(request("/events?topic=news"), &limits)?;
/// assert!(matches!(decoder.decode(&mut &[][..], &limits), Some(Ok(Command::Preface(_)))));
/// assert_eq!(sse.decoder_for(request("/events"), &limits).err().map(|error| error.status), Some(400));
/// # Ok::<_, janus_core::wire::HttpError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Sse {
    retry: Duration,
    /// `None` if another server sends the head of the response.
    allowed_origins: Option<AllowedOrigins>,
    /// Whether each event is a chunk of HTTP/1.1. The chunk's head is part of the bytes shared by all subscribers.
    chunked: bool,
    /// Whether the publisher's event is the type of a message.
    native_events: bool,
}

impl Sse {
    /// Streams with the head of the response, for browsers from the same host and from these origins. A browser that
    /// loses its connection reconnects after `retry`.
    #[must_use]
    pub fn new(retry: Duration, allowed_origins: AllowedOrigins) -> Self {
        Self { retry, allowed_origins: Some(allowed_origins), chunked: false, native_events: false }
    }

    /// Streams for a response whose head another server has sent, with the status 200, the type `text/event-stream`,
    /// and its own rules about origins.
    ///
    /// A client refused after this head is told by an event of type `bye`, because it is too late for a status.
    #[must_use]
    pub fn body(retry: Duration) -> Self {
        Self { retry, allowed_origins: None, chunked: false, native_events: false }
    }

    /// Adds `transfer-encoding: chunked`, for clients of HTTP/1.1: without chunks some client libraries return a
    /// message only when their buffer is full. No effect on a [`body`](Self::body), whose head another server sends.
    #[must_use]
    pub fn chunked(self) -> Self {
        Self { chunked: self.allowed_origins.is_some(), ..self }
    }

    /// Makes the publisher's `event` the type of each message, if the event is a suitable text: not empty, without line
    /// breaks, and not a type reserved for this protocol.
    #[must_use]
    pub fn native_events(self) -> Self {
        Self { native_events: true, ..self }
    }

    /// The decoder of a stream that begins with this request.
    ///
    /// # Errors
    ///
    /// The response to a bad request: no topic, too many topics, a duplicate topic or a topic with an invalid name
    /// (400); a request body (400); or a method other than GET and HEAD (405).
    pub fn decoder_for(&self, request: HttpRequest, limits: &Limits) -> Result<Box<dyn Decoder>, HttpError> {
        let (commands, asker) = self.commands(request, limits)?;
        Ok(Resting::busy(StreamDecoder { commands, asker: Some(asker), head: None }, ()))
    }

    /// The body of a stream that only tells a client why the client is not served. A browser's `EventSource` reconnects
    /// after such a stream, but takes any status other than 200 for final.
    #[must_use]
    pub fn farewell(refusal: &Refusal<'_>) -> Bytes {
        let mut body = BytesMut::new();
        put_bye(&mut body, refusal);
        body.freeze()
    }

    /// Turns the request into all the commands of its client.
    fn commands(&self, request: HttpRequest, limits: &Limits) -> Result<(VecDeque<Command>, Box<Asker>), HttpError> {
        let asks_for_head = request.method == "HEAD";
        if request.method != "GET" && !asks_for_head {
            return Err(HttpError::new(405, "method_not_allowed", "event streams require GET"));
        }
        if request.has_body() {
            return Err(HttpError::new(400, ErrorCode::BadOpen.as_str(), NO_BODY));
        }
        let Asked { topics, begins, presences, last_event_id } = Asked::read(&request, limits)?;
        let begins = Each::of("since", begins, topics.len(), None)?;
        let presences = Each::of("presence", presences, topics.len(), false)?;
        // The header is newer than the address: the browser has read this id since.
        let header = request.header("last-event-id").filter(|id| !id.is_empty());
        let since = header.or(last_event_id.as_deref()).filter(|id| !id.is_empty()).map(position);

        let mut commands = VecDeque::with_capacity(topics.len() + 3);
        let start = if asks_for_head { self.head(&request).into() } else { self.start(&request) };
        commands.push_back(Command::Preface(start.clone()));
        let reader = self.allowed_origins.as_ref().map(|allowed_origins| Reader::of(&request, allowed_origins));
        let asker = Box::new(Asker {
            start: start.clone(),
            sse: self.clone(),
            comes_back: request.accepts("text/event-stream"),
            reader,
        });
        let open = Open { request: Some(Box::new(request)), ..Open::default() };
        commands.push_back(Command::Open(Box::new(open)));
        if asks_for_head {
            // A client allowed to connect gets the head, without joining a topic.
            commands.push_back(Command::Close(start));
            return Ok((commands, asker));
        }
        let horizon = since.and_then(|(_, horizon)| horizon);
        commands.extend(topics.into_iter().enumerate().map(|(place, topic)| {
            let since = since.map_or_else(|| begins.at(place), |(position, _)| Some(position.into()));
            Command::Subscribe { topic, since, horizon, presence: presences.at(place), member: None, id: None }
        }));
        commands.push_back(Command::AllAsked);
        Ok((commands, asker))
    }

    /// The head of the response; empty if another server sends the head.
    fn head(&self, request: &HttpRequest) -> String {
        let mut head = String::new();
        if let Some(allowed_origins) = &self.allowed_origins {
            // nginx would hold messages back without `x-accel-buffering`, and compressing proxies without
            // `no-transform`.
            head.push_str(
                "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n\
                 cache-control: no-store, no-transform\r\nx-accel-buffering: no\r\nconnection: close\r\n",
            );
            let _ = write!(head, "date: {}\r\n", date());
            if self.chunked {
                head.push_str("transfer-encoding: chunked\r\n");
            }
            head.push_str(&allowed_origins.cors(request));
            head.push_str("\r\n");
        }
        head
    }

    /// The bytes sent once the client may have a topic. The decoder makes these bytes, because only the decoder knows
    /// the origin.
    fn start(&self, request: &HttpRequest) -> Bytes {
        let mut start = BytesMut::from(&*self.head(request));
        // The first line of the next block.
        self.chunk(&mut start, |out| {
            let _ = writeln!(out, "retry: {}", self.jittered_retry().as_millis());
        });
        start.freeze()
    }

    /// `retry`, plus or minus a quarter: streams lost together must not reconnect together.
    fn jittered_retry(&self) -> Duration {
        let random = getrandom::u32().unwrap_or(u32::MAX / 2);
        self.retry.mul_f64(0.75 + 0.5 * f64::from(random) / f64::from(u32::MAX))
    }

    /// Makes the output of `write` a chunk, if this stream has chunks.
    fn chunk(&self, out: &mut BytesMut, write: impl FnOnce(&mut BytesMut)) {
        let from = out.len();
        write(out);
        let length = out.len() - from;
        // A chunk without bytes would end the body.
        if self.chunked && length > 0 {
            let head = format!("{length:x}\r\n");
            out.put_slice(head.as_bytes());
            out[from..].rotate_right(head.len());
            out.put_slice(b"\r\n");
        }
    }

    fn put_event(&self, event: &ServerEvent<'_>, out: &mut BytesMut) {
        match event {
            ServerEvent::Subscribed { .. } => put_subscribed(event, out),
            ServerEvent::Message(message) => self.put_message(out, message),
            ServerEvent::Gap { topic, epoch, from, to } => {
                out.put_slice(b"event: gap\n");
                put_id(out, Position { epoch: *epoch, seq: *to }, None);
                put_data(out, |json| {
                    json.text("topic", topic.as_str()).epoch(*epoch).number("from", *from).number("to", *to)
                });
            }
            ServerEvent::Presence { .. } | ServerEvent::Joined { .. } | ServerEvent::Left { .. } => {
                put_presence(event, out);
            }
            ServerEvent::Error { topic, code, message, .. } => {
                out.put_slice(b"event: refused\n");
                put_data(out, |json| {
                    let json = match topic {
                        Some(topic) => json.text("topic", topic.as_str()),
                        None => json,
                    };
                    json.reason(*code, message)
                });
            }
            ServerEvent::Bye(refusal) => put_bye(out, refusal),
            ServerEvent::Refused(refusal) if self.allowed_origins.is_none() => put_bye(out, refusal),
            // An event stream cannot express these: its client makes no requests for such answers, and a refusal is
            // told by a status.
            ServerEvent::Opened { .. }
            | ServerEvent::Refused(_)
            | ServerEvent::AlreadySubscribed { .. }
            | ServerEvent::Assigned { .. }
            | ServerEvent::Refreshed { .. }
            | ServerEvent::Unsubscribed { .. }
            | ServerEvent::Published { .. }
            | ServerEvent::History { .. }
            | ServerEvent::Attached { .. } => {}
        }
    }

    fn put_message(&self, out: &mut BytesMut, message: &NumberedMessage<'_>) {
        let NumberedMessage { topic_json, event, message_id, data, base64, .. } = *message;
        let payload = base64.map_or(data, Base64::as_str);
        out.reserve(200 + topic_json.len() + event.len() + message_id.len() + payload.len());
        if self.native_events
            && let Some(kind) = native_type(event)
        {
            let _ = writeln!(out, "event: {kind}");
        }
        put_id(out, message.position, message.horizon);
        put_data(out, |json| {
            let json = json
                .raw("topic", topic_json)
                .number("seq", message.position.seq)
                .number("time", message.timestamp.unix_millis())
                .raw("event", event)
                .raw("message_id", message_id);
            match base64 {
                None => json.raw("data", data),
                Some(base64) => json.text("data_base64", base64.as_str()),
            }
        });
    }
}

/// The beginning of a topic, and what its client has missed.
fn put_subscribed(event: &ServerEvent<'_>, out: &mut BytesMut) {
    let ServerEvent::Subscribed { topic, position, last, horizon, since, missed, repeated, .. } = event else { return };
    let id = last.unwrap_or(*position);
    if since.and_then(Since::position).is_some() && missed.is_none() {
        out.put_slice(b"event: gap\n");
        put_id(out, id, *horizon);
        put_data(out, |json| json.text("topic", topic.as_str()).epoch(position.epoch).raw("resumed", "false"));
    }
    out.put_slice(b"event: subscribed\n");
    // A browser without an id asks again for the start of all topics; one position would be that of one topic.
    let begins_over = matches!(since, Some(Since::Start | Since::Last)) && horizon.is_none();
    if !begins_over {
        put_id(out, id, *horizon);
    }
    put_data(out, |json| {
        let json = json.text("topic", topic.as_str()).position(*position);
        match missed {
            Some(missed) if *repeated > 0 => {
                json.raw("resumed", "true").number("missed", *missed).number("repeated", *repeated)
            }
            Some(missed) => json.raw("resumed", "true").number("missed", *missed),
            None => json.raw("resumed", "false"),
        }
    });
}

/// Without an id, which is a place among the messages.
fn put_presence(event: &ServerEvent<'_>, out: &mut BytesMut) {
    if let Some(told) = Told::of(event) {
        out.put_slice(b"event: ");
        out.put_slice(told.kind.as_bytes());
        out.put_u8(b'\n');
        put_data(out, |json| json.presence(&told));
    }
}

/// The query of a request.
#[derive(Default)]
struct Asked {
    topics: Vec<TopicName>,
    begins: Vec<Option<Since>>,
    presences: Vec<bool>,
    last_event_id: Option<String>,
}

impl Asked {
    fn read(request: &HttpRequest, limits: &Limits) -> Result<Self, HttpError> {
        let mut asked = Self::default();
        let parameters = request.query().split('&').filter(|parameter| !parameter.is_empty());
        for (parameter, (name, value)) in parameters.zip(form_urlencoded::parse(request.query().as_bytes())) {
            match &*name {
                // The parser would replace invalid bytes by another character, and so name another topic.
                "topic" if percent_decode_str(parameter).decode_utf8().is_err() => {
                    let message = format!("topic number {} is not UTF-8", asked.topics.len() + 1);
                    return Err(HttpError::new(400, ErrorCode::BadTopic.as_str(), message));
                }
                "topic" => asked.topics.push(topic(&value, &asked.topics, limits)?),
                "since" => asked.begins.push(begin(&value)?),
                "presence" => asked.presences.push(wants_presence(&value)?),
                name if is_last_event_id(name) => asked.last_event_id = Some(value.into_owned()),
                "events" if value != "native" => {
                    let message = "unknown value of \"events\": expected \"native\", or omit the parameter";
                    return Err(HttpError::new(400, ErrorCode::BadOpen.as_str(), message));
                }
                // Some clients add a parameter without a meaning, to avoid caches.
                _ => {}
            }
        }
        if asked.topics.is_empty() {
            let message = "missing topic: name at least one, as in /events?topic=news";
            return Err(HttpError::new(400, ErrorCode::BadTopic.as_str(), message));
        }
        Ok(asked)
    }
}

/// A parameter that holds for all topics of a request, or is given once for each topic in the same order.
enum Each<T> {
    All(T),
    One(Vec<T>),
}

impl<T: Copy> Each<T> {
    fn of(name: &str, mut values: Vec<T>, topics: usize, default: T) -> Result<Self, HttpError> {
        match values.len() {
            0 => Ok(Self::All(default)),
            1 => Ok(Self::All(values.remove(0))),
            given if given == topics => Ok(Self::One(values)),
            given => {
                let message = format!(
                    "\"{name}\" is given {given} times for {topics} topics: give it once, or once for each topic"
                );
                Err(HttpError::new(400, ErrorCode::BadOpen.as_str(), message))
            }
        }
    }

    fn at(&self, place: usize) -> T {
        match self {
            Self::All(value) => *value,
            Self::One(values) => values[place],
        }
    }
}

/// Checks the next topic of a request.
fn topic(name: &str, before: &[TopicName], limits: &Limits) -> Result<TopicName, HttpError> {
    let bad = |code: ErrorCode, message: String| HttpError::new(code.http_status(), code.as_str(), message);
    let place = before.len() + 1;
    let topic = TopicName::new(name, limits.max_topic_bytes)
        .map_err(|error| bad(ErrorCode::BadTopic, format!("topic number {place}: {error}")))?;
    if before.contains(&topic) {
        return Err(bad(ErrorCode::BadTopic, format!("topic number {place}: duplicate topic {topic}, name it once")));
    }
    if before.len() == limits.max_topics {
        let message = format!("too many topics: a client may subscribe to at most {} topics", limits.max_topics);
        return Err(bad(ErrorCode::TooManyTopics, message));
    }
    Ok(topic)
}

/// Where a client begins that has read no message yet. A position is for clients without a header of their own. An empty
/// text keeps the place of a topic without a `since`.
fn begin(text: &str) -> Result<Option<Since>, HttpError> {
    if text.is_empty() {
        return Ok(None);
    }
    text.parse()
        .map(Some)
        .map_err(|error| HttpError::new(400, ErrorCode::BadOpen.as_str(), format!("\"since\": {error}")))
}

/// Whether the client watches the presence of its topics.
fn wants_presence(value: &str) -> Result<bool, HttpError> {
    match value {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => {
            let message = "unknown value of \"presence\": expected \"true\" or \"false\", or omit the parameter";
            Err(HttpError::new(400, ErrorCode::BadOpen.as_str(), message))
        }
    }
}

/// The position in an id, and the horizon if present. An unknown id counts as a position too old to resume: a browser
/// that got the id from another server at this address is told that messages may be missing, and continues.
fn position(id: &str) -> (Position, Option<u64>) {
    let number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten();
    let read = || match id.match_indices('.').nth(1) {
        Some((at, _)) => Some((id[..at].parse().ok()?, Some(number(&id[at + 1..])?))),
        None => Some((id.parse().ok()?, None)),
    };
    read().unwrap_or((Position { epoch: Epoch::NONE, seq: 0 }, None))
}

impl Codec for Sse {
    fn name(&self) -> &'static str {
        "sse"
    }

    fn decoder(&self) -> Box<dyn Decoder> {
        let head = Some(Box::new((self.clone(), HeadReader::default())));
        Resting::busy(StreamDecoder { head, ..StreamDecoder::default() }, ())
    }

    fn encode(&self, event: &ServerEvent<'_>, _: &Timestamp, out: &mut BytesMut) {
        if let (ServerEvent::Refused(refusal), Some(_)) = (event, &self.allowed_origins) {
            return out.put_slice(&HttpError::from(refusal).response());
        }
        self.chunk(out, |out| self.put_event(event, out));
        if self.chunked && matches!(event, ServerEvent::Bye(_)) {
            // Nothing follows a bye.
            out.put_slice(LAST_CHUNK);
        }
    }

    fn opens(&self) -> Opens {
        Opens::WhenAsked
    }

    fn heartbeat(&self) -> Heartbeat {
        let mut block = BytesMut::new();
        self.chunk(&mut block, |out| out.put_slice(HEARTBEAT));
        Heartbeat::Always(block.freeze())
    }
}

fn put_bye(out: &mut BytesMut, refusal: &Refusal<'_>) {
    let reconnect_after = refusal.reconnect_after.map(|time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
    // Every browser obeys `retry`, even if the page does not listen for the event.
    let retry = reconnect_after.unwrap_or(NEVER_MILLIS);
    out.put_slice(format!("event: bye\nretry: {retry}\n").as_bytes());
    put_data(out, |json| {
        let json = json.reason(refusal.code, refusal.message);
        match reconnect_after {
            Some(time) => json.number("reconnect_after_ms", time),
            None => json,
        }
    });
}

fn put_id(out: &mut BytesMut, position: Position, horizon: Option<u64>) {
    let _ = write!(out, "id: {}.", position.epoch);
    put_decimal(out, position.seq);
    if let Some(horizon) = horizon {
        out.put_u8(b'.');
        put_decimal(out, horizon);
    }
    out.put_u8(b'\n');
}

/// Appends the data line of a block, a JSON object, and the end of the block.
fn put_data(out: &mut BytesMut, write: impl FnOnce(Object<'_, BytesMut>) -> Object<'_, BytesMut>) {
    out.put_slice(b"data: ");
    let from = out.len();
    write(Object::new(out)).end();
    // A line break would end the line. JSON allows line breaks only as white space between tokens, so a blank leaves
    // the value unchanged.
    for byte in &mut out[from..] {
        if matches!(byte, b'\n' | b'\r') {
            *byte = b' ';
        }
    }
    out.put_slice(b"\n\n");
}

/// Returns the commands of the request; later input from the client means nothing.
#[derive(Default)]
struct StreamDecoder {
    commands: VecDeque<Command>,
    /// Present until all commands have been returned.
    asker: Option<Box<Asker>>,
    /// Present until the request has been read, if no other server reads the request.
    head: Option<Box<(Sse, HeadReader)>>,
}

/// The properties of a request that decide how its client is refused.
struct Asker {
    start: Bytes,
    /// The codec of the stream.
    sse: Sse,
    /// Whether the client is a browser's `EventSource`, or claims to be like one.
    comes_back: bool,
    /// `None` if another server has sent the status.
    reader: Option<Reader>,
}

impl Decoder for StreamDecoder {
    fn decode(&mut self, input: &mut &[u8], limits: &Limits) -> Option<Result<Command, FrameError>> {
        if let Some(head) = &mut self.head {
            let (sse, reader) = &mut **head;
            let asked = match reader.read(input)? {
                Ok(Head { request, .. }) => {
                    let allowed_origins = sse.allowed_origins.clone().unwrap_or_default();
                    let reader = Reader::of(&request, &allowed_origins);
                    let checked = allowed_origins.check(&request);
                    let asked = checked.and_then(|()| sse.commands(request, limits));
                    asked.map_err(|error| error.response_to(&reader))
                }
                Err(error) => Err(error.response()),
            };
            match asked {
                Ok((commands, asker)) => (self.commands, self.asker) = (commands, Some(asker)),
                Err(response) => self.commands = [Command::Close(response)].into(),
            }
            self.head = None;
        }
        let command = self.commands.pop_front();
        if command.is_none() {
            *input = &[];
            self.commands = VecDeque::new();
            self.asker = None;
        }
        command.map(Ok)
    }

    fn refuse(&self, refusal: &Refusal<'_>) -> Refusing {
        match self.asker.as_deref() {
            None if self.head.is_some() => Refusing::OnceRead,
            // An `EventSource` takes any status other than 200 for final (HTML, 9.2.3), but a temporary refusal is not
            // final.
            Some(asker) if asker.comes_back && refusal.code.class() != ErrorClass::DoNot => {
                let mut stream = BytesMut::from(&*asker.start);
                if asker.reader.as_ref().is_some_and(|reader| reader.asked_for_the_head) {
                    return Refusing::With(stream.freeze());
                }
                asker.sse.encode(&ServerEvent::Bye(*refusal), &Timestamp::default(), &mut stream);
                Refusing::With(stream.freeze())
            }
            Some(Asker { reader: Some(reader), .. }) => Refusing::With(HttpError::from(refusal).response_to(reader)),
            _ => Refusing::ByCodec,
        }
    }

    fn request(&self) -> Option<&HttpRequest> {
        self.commands.iter().find_map(|command| match command {
            Command::Open(open) => open.request.as_deref(),
            _ => None,
        })
    }

    fn is_mid_frame(&self) -> bool {
        self.head.as_ref().is_some_and(|head| head.1.is_mid_head())
    }

    fn buffered(&self) -> usize {
        self.head.as_ref().map_or(0, |head| head.1.buffered())
    }

    fn memory(&self) -> usize {
        let request = self.request().map_or(0, HttpRequest::memory);
        self.head.as_ref().map_or(request, |head| head.1.memory() + request)
    }
}

impl Rests for StreamDecoder {
    type Rest = ();

    fn rest(&self) -> Option<()> {
        (self.commands.is_empty() && self.asker.is_none() && self.head.is_none()).then_some(())
    }

    fn resume((): &()) -> Self {
        Self::default()
    }
}

#[cfg(test)]
mod tests;
