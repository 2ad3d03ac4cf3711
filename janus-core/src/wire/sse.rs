//! Server-sent events: a stream of text that a browser's `EventSource` reads and comes back to by itself.
//!
//! The request is all that its client ever says; what it asks for becomes one open and a subscribe for each topic. The
//! position of a message is its `id`, which the browser gives back when it comes back. `docs/PROTOCOL.md` has the
//! format.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use percent_encoding::percent_decode_str;

use super::http::{AllowedOrigins, Head, HeadReader, HttpError, NO_BODY, Reader};
use super::object::Object;
use super::publication::put_decimal;
use super::{
    Codec, Command, Decoder, ErrorClass, ErrorCode, Event, FrameError, Heartbeat, HttpRequest, Limits, Message, Open,
    Opens, Position, Refusal, Refusing, Timestamp, TopicName,
};

/// When a browser is to come back that is not to come back: a day from now. It has no other word for it once a stream has
/// begun.
const NEVER_MILLIS: u64 = 24 * 60 * 60 * 1_000;

/// The codec of server-sent events.
///
/// [`HttpPort`](super::HttpPort) makes connections to `/events` speak it. Alone on a listener it serves every path. What
/// has its own HTTP server uses [`Sse::body`] and [`decoder_for`](Self::decoder_for).
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
#[derive(Debug)]
pub struct Sse {
    retry: Duration,
    /// `None` if somebody else sends the head of the response.
    allowed_origins: Option<AllowedOrigins>,
}

impl Sse {
    /// Streams with the head of their response, for browsers from the same host and from these origins, which come back
    /// after `retry` when they have lost their connection.
    #[must_use]
    pub fn new(retry: Duration, allowed_origins: AllowedOrigins) -> Self {
        Self { retry, allowed_origins: Some(allowed_origins) }
    }

    /// Streams for a response whose head somebody else has sent, with the status 200, the type `text/event-stream`, and
    /// its own rules about origins.
    ///
    /// A client that is refused after that is told so by an event of type `bye`, because it is too late for a status.
    #[must_use]
    pub fn body(retry: Duration) -> Self {
        Self { retry, allowed_origins: None }
    }

    /// The decoder of a stream that begins with this request.
    ///
    /// # Errors
    ///
    /// What the request is answered with instead: it names no topic, too many, one twice, or one whose name is not allowed
    /// (400), it has a body (400), or its method is not GET (405).
    pub fn decoder_for(&self, request: HttpRequest, limits: &Limits) -> Result<Box<dyn Decoder>, HttpError> {
        let (commands, asker) = self.commands(request, limits)?;
        Ok(Box::new(StreamDecoder { commands, asker: Some(asker), head: None }))
    }

    /// The body of a stream that only says why its client is not served. A browser's `EventSource` comes back after that; any
    /// status but 200 it takes for final.
    #[must_use]
    pub fn farewell(refusal: &Refusal<'_>) -> Bytes {
        let mut body = BytesMut::new();
        put_bye(&mut body, refusal);
        body.freeze()
    }

    /// Everything that the client will ever have said.
    fn commands(&self, request: HttpRequest, limits: &Limits) -> Result<(VecDeque<Command>, Box<Asker>), HttpError> {
        if request.method != "GET" {
            return Err(HttpError::new(405, "method_not_allowed", "a stream of events is asked for with GET"));
        }
        if request.has_body() {
            return Err(HttpError::new(400, ErrorCode::BadOpen.as_str(), NO_BODY));
        }
        let mut last_event_id = None;
        let mut topics: Vec<TopicName> = Vec::new();
        let parameters = request.query().split('&').filter(|parameter| !parameter.is_empty());
        for (parameter, (name, value)) in parameters.zip(form_urlencoded::parse(request.query().as_bytes())) {
            match &*name {
                // The parser puts another character in the place of bytes that are none, and so makes it another topic.
                "topic" if percent_decode_str(parameter).decode_utf8().is_err() => {
                    let message = format!("topic number {} of the request is not UTF-8", topics.len() + 1);
                    return Err(HttpError::new(400, ErrorCode::BadTopic.as_str(), message));
                }
                "topic" => topics.push(topic(&value, &topics, limits)?),
                "last_event_id" => last_event_id = Some(value.into_owned()),
                // Some clients add a parameter that nobody reads, so that no cache answers.
                _ => {}
            }
        }
        if topics.is_empty() {
            let message = "name at least one topic, as in /events?topic=news";
            return Err(HttpError::new(400, ErrorCode::BadTopic.as_str(), message));
        }
        // The header is what the browser has seen since it was given the address.
        let header = request.header("last-event-id").filter(|id| !id.is_empty());
        let since = header.or(last_event_id.as_deref()).filter(|id| !id.is_empty()).map(position);

        let mut commands = VecDeque::with_capacity(topics.len() + 3);
        let start = self.start(&request);
        commands.push_back(Command::Preface(start.clone()));
        let reader = self.allowed_origins.as_ref().map(|allowed_origins| Reader::of(&request, allowed_origins));
        let asker = Box::new(Asker { start, comes_back: request.accepts("text/event-stream"), reader });
        let open = Open { request: Some(Box::new(request)), ..Open::default() };
        commands.push_back(Command::Open(Box::new(open)));
        commands.extend(topics.into_iter().map(|topic| Command::Subscribe { topic, since, id: None }));
        commands.push_back(Command::AllAsked);
        Ok((commands, asker))
    }

    /// What is sent once the client may have a topic. It is a command of the decoder's, because only that knows the origin.
    fn start(&self, request: &HttpRequest) -> Bytes {
        let mut start = String::new();
        if let Some(allowed_origins) = &self.allowed_origins {
            // `x-accel-buffering` is for nginx, which would hold messages back.
            start.push_str(
                "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncache-control: no-store\r\n\
                 x-accel-buffering: no\r\nconnection: close\r\n",
            );
            start.push_str(&allowed_origins.cors(request));
            start.push_str("\r\n");
        }
        let _ = write!(start, "retry: {}\n\n", self.retry.as_millis());
        start.into()
    }
}

/// One more topic of a request.
fn topic(name: &str, before: &[TopicName], limits: &Limits) -> Result<TopicName, HttpError> {
    let bad = |code: ErrorCode, message: String| HttpError::new(code.http_status(), code.as_str(), message);
    let place = before.len() + 1;
    let topic = TopicName::new(name, limits.max_topic_bytes)
        .map_err(|error| bad(ErrorCode::BadTopic, format!("topic number {place} of the request: {error}")))?;
    if before.contains(&topic) {
        return Err(bad(ErrorCode::BadTopic, format!("topic number {place} of the request, {topic}, is named twice")));
    }
    if before.len() == limits.max_topics {
        let message = format!("a client may be subscribed to {} topics", limits.max_topics);
        return Err(bad(ErrorCode::TooManyTopics, message));
    }
    Ok(topic)
}

/// The position that an id stands for. What is no id of ours counts as one that is too old: a browser that got it
/// from somebody else at this address is told that messages may be missing, and goes on.
fn position(id: &str) -> Position {
    let read = || {
        let (epoch, seq) = id.split_once('.')?;
        let is_number = |text: &str, radix| text.chars().all(|digit: char| digit.is_digit(radix));
        if epoch.len() != 16 || !is_number(epoch, 16) || !is_number(seq, 10) {
            return None;
        }
        Some(Position { epoch: u64::from_str_radix(epoch, 16).ok()?, seq: seq.parse().ok()? })
    };
    read().unwrap_or(Position { epoch: 0, seq: 0 })
}

impl Codec for Sse {
    fn name(&self) -> &'static str {
        "sse"
    }

    fn decoder(&self) -> Box<dyn Decoder> {
        let sse = Self { retry: self.retry, allowed_origins: self.allowed_origins.clone() };
        let head = Some(Box::new((sse, HeadReader::default())));
        Box::new(StreamDecoder { commands: VecDeque::new(), asker: None, head })
    }

    fn encode(&self, event: &Event<'_>, _: &Timestamp, out: &mut BytesMut) {
        match event {
            Event::Subscribed { topic, position, since, missed, .. } => {
                if since.is_some() && missed.is_none() {
                    out.put_slice(b"event: gap\n");
                    put_id(out, *position);
                    put_data(out, |json| {
                        json.text("topic", topic.as_str()).epoch(position.epoch).raw("resumed", "false")
                    });
                } else {
                    put_id(out, *position);
                    out.put_u8(b'\n');
                }
            }
            Event::Message(message) => put_message(out, message),
            Event::Gap { topic, epoch, from, to } => {
                out.put_slice(b"event: gap\n");
                put_id(out, Position { epoch: *epoch, seq: *to });
                put_data(out, |json| {
                    json.text("topic", topic.as_str()).epoch(*epoch).number("from", *from).number("to", *to)
                });
            }
            Event::Error { topic, code, message, .. } => {
                out.put_slice(b"event: refused\n");
                put_data(out, |json| {
                    let json = match topic {
                        Some(topic) => json.text("topic", topic.as_str()),
                        None => json,
                    };
                    json.reason(*code, message)
                });
            }
            Event::Bye(refusal) => put_bye(out, refusal),
            Event::Refused(refusal) if self.allowed_origins.is_none() => put_bye(out, refusal),
            Event::Refused(refusal) => out.put_slice(&HttpError::from(refusal).response()),
            // What an event stream has no words for: its client asks for nothing that these would answer.
            _ => {}
        }
    }

    fn opens(&self) -> Opens {
        Opens::WhenAsked
    }

    fn heartbeat(&self) -> Heartbeat {
        Heartbeat::Always(Bytes::from_static(b":\n\n"))
    }
}

fn put_bye(out: &mut BytesMut, refusal: &Refusal<'_>) {
    let reconnect_after = refusal.reconnect_after.map(|time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
    // Every browser obeys this, also where the page does not listen for the event.
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

fn put_message(out: &mut BytesMut, message: &Message<'_>) {
    out.reserve(200 + message.topic_json.len() + message.event.len() + message.message_id.len() + message.data.len());
    put_id(out, message.position);
    put_data(out, |json| {
        json.raw("topic", message.topic_json)
            .number("seq", message.position.seq)
            .number("time", message.timestamp.unix_millis())
            .raw("event", message.event)
            .raw("message_id", message.message_id)
            .raw("data", message.data)
    });
}

fn put_id(out: &mut BytesMut, position: Position) {
    let _ = write!(out, "id: {:016x}.", position.epoch);
    put_decimal(out, position.seq);
    out.put_u8(b'\n');
}

/// The line of a block that has a JSON object, and the end of the block.
fn put_data(out: &mut BytesMut, write: impl FnOnce(Object<'_, BytesMut>) -> Object<'_, BytesMut>) {
    out.put_slice(b"data: ");
    let from = out.len();
    write(Object::new(out)).end();
    // A line break, which JSON allows as white space between tokens alone, would end the line; as a blank it leaves the
    // value what it is.
    for byte in &mut out[from..] {
        if matches!(byte, b'\n' | b'\r') {
            *byte = b' ';
        }
    }
    out.put_slice(b"\n\n");
}

/// Hands out what the request asks for; whatever the client sends after it means nothing.
struct StreamDecoder {
    commands: VecDeque<Command>,
    /// Until all commands have been handed out.
    asker: Option<Box<Asker>>,
    /// Until the request has been read, where nobody else has done that. Boxed, because it is gone for most of a
    /// connection's life.
    head: Option<Box<(Sse, HeadReader)>>,
}

/// What matters for how a client is refused.
struct Asker {
    start: Bytes,
    /// Whether it is a browser's `EventSource`, or says that it is like one.
    comes_back: bool,
    /// `None` if the status has been sent by somebody else.
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
            // An `EventSource` takes any status but 200 for final (HTML, 9.2.3), and what has passed with a pause is not.
            Some(asker) if asker.comes_back && refusal.code.class() != ErrorClass::DoNot => {
                let mut stream = BytesMut::from(&*asker.start);
                put_bye(&mut stream, refusal);
                Refusing::With(stream.freeze())
            }
            Some(Asker { reader: Some(reader), .. }) => Refusing::With(HttpError::from(refusal).response_to(reader)),
            _ => Refusing::ByCodec,
        }
    }

    fn is_mid_frame(&self) -> bool {
        self.head.as_ref().is_some_and(|head| head.1.is_mid_head())
    }

    fn buffered(&self) -> usize {
        self.head.as_ref().map_or(0, |head| head.1.buffered())
    }

    fn memory(&self) -> usize {
        self.head.as_ref().map_or(0, |head| head.1.memory())
    }
}

#[cfg(test)]
mod tests;
