//! The classic protocol: NUL-framed commands from clients, SOH-framed JSON to clients.
//!
//! The [`ClassicDecoder`] turns the bytes of a connection into [`Command`]s, however the bytes are split between reads; each
//! `encode_*` function appends a frame. `docs/CLASSIC.md` has the meaning of the frames, byte by byte; [`client`]
//! (`classic/client.rs`) is the client's end, `classic/tests.rs` the rules.

use std::borrow::Cow;
use std::ffi::CStr;
use std::mem;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};

use super::codec::{self, Answers, Codec, Heartbeat};
use super::event::{NumberedMessage, Refusal, ServerEvent};
use super::json::{self, JsonError, Reader};
use super::proxy_header::ProxyHeader;
use super::publication::{Parts, data_of_base64, put_decimal, put_json_string, put_topic};
use super::request::{
    self, Batch, RawPublication, bad_json, duplicate_key, duplicate_topic, text, topic_must_be_a_string, unfinished,
};
use super::resting::Resting;
use super::{Credentials, Epoch, Position, Publication, Timestamp, TopicName};

pub use super::codec::Limits;
pub use super::command::Command;
pub use super::error::{ErrorClass, ErrorCode, FrameError};

pub mod client;
mod parts;

pub(crate) use parts::{MessageParts, Run};

/// The classic protocol as a [`Codec`].
///
/// Classic clients cannot be told of gaps, and get a `PING` only after their first message: some clients of the
/// original cannot bear an early `PING`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Classic;

impl Codec for Classic {
    fn name(&self) -> &'static str {
        "classic"
    }

    fn decoder(&self) -> Box<dyn codec::Decoder> {
        Resting::<ClassicDecoder>::at_rest(())
    }

    fn encode(&self, event: &ServerEvent<'_>, at: &Timestamp, out: &mut BytesMut) {
        match *event {
            ServerEvent::Opened { session, expires, .. } => encode_greeting(out, at, session, expires),
            ServerEvent::Refreshed { expires, .. } => encode_refreshed(out, at, expires),
            ServerEvent::Assigned { topic, .. } => encode_assigned(out, at, topic),
            ServerEvent::Subscribed { .. } | ServerEvent::AlreadySubscribed { .. } => out.put_slice(ACK),
            ServerEvent::Published { topic, position: Position { epoch, seq }, subscribers, .. } => {
                encode_published(out, at, topic, epoch, seq, subscribers);
            }
            ServerEvent::Attached { topics, session } => {
                encode_attached(out, at, topics.iter().map(|(topic, missed)| (topic, *missed)), session);
            }
            ServerEvent::Message(message) => {
                put_timestamp(out, &message.timestamp);
                let NumberedMessage { event, message_id, data, base64, .. } = message;
                let bytes = base64.map(data_of_base64);
                put_topic(out, message.topic);
                Parts { event, message_id, data: bytes.as_deref().unwrap_or(data) }.write(out);
            }
            // A drain is no error, and a classic client can be told of errors only: the FIN is enough.
            ServerEvent::Bye(Refusal { code: ErrorCode::ServerDraining, .. }) => {}
            ServerEvent::Error { code, message, .. }
            | ServerEvent::Refused(Refusal { code, message, .. })
            | ServerEvent::Bye(Refusal { code, message, .. }) => encode_error(out, at, code, message),
            ServerEvent::Unsubscribed { .. }
            | ServerEvent::Gap { .. }
            | ServerEvent::History { .. }
            | ServerEvent::Presence { .. }
            | ServerEvent::Joined { .. }
            | ServerEvent::Left { .. } => {}
        }
    }

    fn tells_gaps(&self) -> bool {
        false
    }

    fn heartbeat(&self) -> Heartbeat {
        Heartbeat::AfterMessages(Bytes::from_static(PING))
    }

    /// The clients of the original answer nothing.
    fn answers(&self) -> Answers {
        Answers::OnceShown
    }

    fn refreshes(&self) -> bool {
        true
    }
}

/// Turns the bytes of a connection into commands, however the bytes are split between reads.
///
/// Between calls the decoder keeps only the beginning of an unfinished frame: a connection idle between frames costs no
/// heap memory here. A frame in a single piece is parsed in place. No byte is searched twice for the end of a frame.
///
/// ```
/// use janus_core::wire::classic::{Command, ClassicDecoder, Limits};
///
/// let limits = Limits { max_frame_bytes: 65_536, max_topic_bytes: 255, max_topics: 128 };
/// let mut decoder = ClassicDecoder::new();
/// let mut input: &[u8] = b"<regular-socket/>\0PING\0{\"action\":\"sub";
/// assert_eq!(decoder.decode(&mut input, &limits), Some(Ok(Command::Ping)));
/// assert_eq!(decoder.decode(&mut input, &limits), None);
/// assert!(decoder.is_mid_frame());
/// ```
#[derive(Debug, Default)]
pub struct ClassicDecoder {
    /// The beginning of an unfinished frame. Contains no terminator, and owns no heap memory while empty.
    unfinished: Vec<u8>,
    /// Memory shared by the publications of a read; `None` once the read is consumed.
    batch: Option<Box<Batch>>,
    /// How far the bytes of `unfinished` lead into the object of a `PUBLISH` body.
    body: BodyScan,
    phase: Phase,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Phase {
    /// Each frame ends with a NUL.
    #[default]
    Frames,
    /// A `PUBLISH` was read; the body ends with its JSON object.
    Body,
    /// The last command or a fatal error was returned; further bytes mean nothing.
    Over,
}

impl ClassicDecoder {
    /// A decoder at the start of a connection.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes bytes from `input` up to the end of the next command. Call this until `None`: by then all input is taken,
    /// and the beginning of an unfinished frame is kept.
    ///
    /// An `Err` means that the stream cannot be trusted any more (malformed JSON, bad UTF-8, a frame over its limit, a
    /// bad `PUBLISH`): answer with the error frame and close. After an error, as after a [`Command::PublishAndClose`],
    /// further bytes are discarded.
    pub fn decode(&mut self, input: &mut &[u8], limits: &Limits) -> Option<Result<Command, FrameError>> {
        let decoded = loop {
            match self.phase {
                Phase::Frames => {
                    let frame = match self.take_frame(input, limits) {
                        None => break None,
                        Some(Ok(frame)) => frame,
                        Some(Err(error)) => break Some(Err(error)),
                    };
                    let decoded = self.parse_frame(&frame, limits, input.len());
                    if decoded.is_some() {
                        break decoded;
                    }
                }
                Phase::Body => {
                    let Some(body) = self.take_body(input, limits) else { break None };
                    break Some(body.and_then(|body| self.parse_body(&body, limits)));
                }
                Phase::Over => {
                    *input = &[];
                    break None;
                }
            }
        };
        match &decoded {
            None => self.batch = None,
            Some(Ok(Command::PublishAndClose { .. }) | Err(_)) => self.end(),
            Some(Ok(_)) => {}
        }
        decoded
    }

    /// The client has ended its side of the stream; the end counts as the terminator of an unfinished frame. A frame
    /// completed in this way is obeyed: an object cut short can never look complete. Any other frame has no effect, and
    /// the client is told.
    pub fn finish(&mut self, limits: &Limits) -> Option<Result<Command, FrameError>> {
        let frame = mem::take(&mut self.unfinished);
        let finished = match self.phase {
            Phase::Frames => match self.parse_frame(&frame, limits, 0) {
                None if self.phase == Phase::Frames => None,
                Some(Ok(command)) => Some(Ok(command)),
                None | Some(Err(_)) => Some(Err(unfinished())),
            },
            // A complete body would have been returned with its last bracket.
            Phase::Body => Some(Err(unfinished())),
            Phase::Over => None,
        };
        self.end();
        finished
    }

    /// Whether a frame, or the body of a `PUBLISH`, has begun and not ended. The caller should limit the time for the
    /// rest.
    #[must_use]
    pub fn is_mid_frame(&self) -> bool {
        match self.phase {
            Phase::Frames => !self.unfinished.is_empty(),
            Phase::Body => true,
            Phase::Over => false,
        }
    }

    /// How many bytes of an unfinished frame are kept.
    #[must_use]
    pub fn buffered(&self) -> usize {
        self.unfinished.len()
    }

    /// Whether there is nothing to know but that another frame may come.
    pub(super) fn rests(&self) -> bool {
        self.phase == Phase::Frames && self.unfinished.is_empty()
    }

    fn end(&mut self) {
        *self = Self { phase: Phase::Over, ..Self::default() };
    }

    /// The next frame without its terminator, or `None` if the frame has not ended.
    fn take_frame<'i>(&mut self, input: &mut &'i [u8], limits: &Limits) -> Option<Result<Cow<'i, [u8]>, FrameError>> {
        let room = limits.max_frame_bytes.saturating_sub(self.unfinished.len());
        let window = &input[..input.len().min(room.saturating_add(1))];
        match CStr::from_bytes_until_nul(window) {
            Ok(frame) => Some(Ok(self.take_piece(input, frame.count_bytes(), 1))),
            Err(_) if window.len() > room => Some(Err(too_large(limits))),
            Err(_) => {
                self.keep(input);
                None
            }
        }
    }

    /// The body of a `PUBLISH`, which ends with its object, or `None` if the body has not ended.
    fn take_body<'i>(&mut self, input: &mut &'i [u8], limits: &Limits) -> Option<Result<Cow<'i, [u8]>, FrameError>> {
        let mut at = 0;
        while let Some(&byte) = input.get(at) {
            if byte != 0 && self.unfinished.len() + at >= limits.max_frame_bytes {
                return Some(Err(too_large(limits)));
            }
            match self.body.step(byte) {
                BodyStep::Inside => at += 1,
                BodyStep::Complete => return Some(Ok(self.take_piece(input, at + 1, 0))),
                BodyStep::Terminator => {
                    let frame = self.take_piece(input, at, 1);
                    // Preambles and empty frames may come before the body, as before any frame.
                    if !matches!(trim(&frame), b"" | PREAMBLE) {
                        return Some(Ok(frame));
                    }
                    self.body = BodyScan::default();
                    at = 0;
                }
                BodyStep::NotAnObject => return Some(Err(publish_needs_an_object().into_fatal())),
            }
        }
        self.keep(input);
        None
    }

    /// Joins the kept bytes and `len` bytes of the input; drops `skip` further bytes.
    fn take_piece<'i>(&mut self, input: &mut &'i [u8], len: usize, skip: usize) -> Cow<'i, [u8]> {
        let piece = &input[..len];
        *input = &input[len + skip..];
        if self.unfinished.is_empty() {
            return Cow::Borrowed(piece);
        }
        self.unfinished.extend_from_slice(piece);
        Cow::Owned(mem::take(&mut self.unfinished))
    }

    fn keep(&mut self, input: &mut &[u8]) {
        self.unfinished.extend_from_slice(input);
        *input = &[];
    }

    /// Parses a complete frame; `None` if the frame is empty. `more` is the number of bytes of the same read after the
    /// frame.
    fn parse_frame(&mut self, frame: &[u8], limits: &Limits, more: usize) -> Option<Result<Command, FrameError>> {
        match trim(frame) {
            b"" | PREAMBLE => None,
            b"PING" => Some(Ok(Command::Ping)),
            b"PONG" => Some(Ok(Command::Pong)),
            b"PUBLISH" => {
                self.phase = Phase::Body;
                None
            }
            _ => {
                let text = match text(frame) {
                    Ok(text) => text,
                    Err(error) => return Some(Err(not_a_frame(frame, error))),
                };
                let repeated = self.batch.as_mut().and_then(|batch| batch.repeated(text, PUBLISH_END, more));
                if let Some((topic, publication)) = repeated {
                    return Some(Ok(Command::Publish { topic, publication, ack: false, id: None }));
                }
                let mut request = Request::default();
                if let Err(error) = request.read(text) {
                    return Some(Err(not_a_frame(frame, error)));
                }
                let command = request.command(text, limits, more, &mut self.batch);
                Some(command.or_else(|error| Ok(Command::Refused(error))))
            }
        }
    }

    fn parse_body(&mut self, body: &[u8], limits: &Limits) -> Result<Command, FrameError> {
        let (mut reader, mut fields) = (Reader::new(text(body)?), DataFields::default());
        fields.read(&mut reader).and_then(|()| reader.end()).map_err(bad_json)?;
        match fields.publication(limits, 0, &mut self.batch) {
            Ok((topic, publication)) => Ok(Command::PublishAndClose { topic, publication }),
            Err(error) => Err(error.into_fatal()),
        }
    }
}

impl codec::Decoder for ClassicDecoder {
    fn decode(&mut self, input: &mut &[u8], limits: &Limits) -> Option<Result<Command, FrameError>> {
        Self::decode(self, input, limits)
    }

    fn finish(&mut self, limits: &Limits) -> Option<Result<Command, FrameError>> {
        Self::finish(self, limits)
    }

    fn is_mid_frame(&self) -> bool {
        Self::is_mid_frame(self)
    }

    fn buffered(&self) -> usize {
        Self::buffered(self)
    }

    fn memory(&self) -> usize {
        self.unfinished.capacity()
    }
}

/// The error about a frame, with a word about headers of the PROXY protocol: a client sees only JSON at fault otherwise.
fn not_a_frame(frame: &[u8], error: FrameError) -> FrameError {
    let frame = frame.trim_ascii_start();
    if ProxyHeader::begins(frame) || ProxyHeader::continues(frame) {
        return FrameError::new(ErrorCode::BadFrame, ProxyHeader::UNEXPECTED);
    }
    error
}

/// What follows the data of a publication, if the data come last.
const PUBLISH_END: &str = "}}";

const PREAMBLE: &[u8] = b"<regular-socket/>";

/// Finds the end of an object in a stream of bytes by counting brackets outside of strings. This is enough for JSON;
/// whether the object is JSON is checked afterwards.
#[derive(Clone, Copy, Debug, Default)]
struct BodyScan {
    /// The number of open brackets.
    depth: u32,
    state: BodyState,
}

#[derive(Clone, Copy, Debug, Default)]
enum BodyState {
    /// Nothing but white space so far.
    #[default]
    Blank,
    /// A `<` came first: perhaps another preamble, to be checked at its terminator.
    Preamble,
    /// Inside the object, outside of a string.
    Object,
    /// Inside a string.
    String,
    /// After a backslash in a string.
    Escape,
}

enum BodyStep {
    /// The body continues after this byte.
    Inside,
    /// This byte is the last of the object.
    Complete,
    /// This byte is a NUL, which ends any frame.
    Terminator,
    /// No body begins with this byte.
    NotAnObject,
}

impl BodyScan {
    fn step(&mut self, byte: u8) -> BodyStep {
        self.state = match (self.state, byte) {
            (_, 0) => return BodyStep::Terminator,
            (BodyState::Blank, b'{') => {
                self.depth = 1;
                BodyState::Object
            }
            (BodyState::Blank, b'<') => BodyState::Preamble,
            (BodyState::Blank, byte) if !json::is_white_space(byte) => return BodyStep::NotAnObject,
            (BodyState::Object, b'"') => BodyState::String,
            (BodyState::Object, b'{' | b'[') => {
                self.depth += 1;
                BodyState::Object
            }
            (BodyState::Object, b'}' | b']') => {
                self.depth -= 1;
                if self.depth == 0 {
                    return BodyStep::Complete;
                }
                BodyState::Object
            }
            (BodyState::String, b'"') => BodyState::Object,
            (BodyState::String, b'\\') => BodyState::Escape,
            (BodyState::Escape, _) => BodyState::String,
            (state, _) => state,
        };
        BodyStep::Inside
    }
}

/// A JSON frame, taken apart but not yet understood.
#[derive(Default)]
struct Request<'a> {
    action: Option<&'a str>,
    data: Option<Data<'a>>,
    /// The members of `data`, if that is an object.
    fields: DataFields<'a>,
    ack: Option<&'a str>,
    /// A known key found twice.
    duplicate: Option<&'static str>,
}

#[derive(Clone, Copy)]
enum Data<'a> {
    Object,
    /// The text of any other value.
    Other(&'a str),
}

impl<'a> Request<'a> {
    /// Reads a frame into an empty request.
    fn read(&mut self, text: &'a str) -> Result<(), FrameError> {
        let mut reader = Reader::new(text);
        let read = if reader.at_object() { self.members(&mut reader) } else { reader.value().map(|_| ()) };
        read.and_then(|()| reader.end()).map_err(bad_json)
    }

    fn members(&mut self, reader: &mut Reader<'a>) -> Result<(), JsonError> {
        let mut key = reader.first_key()?;
        while let Some(name) = key {
            let again = match &*name {
                "action" => self.action.replace(reader.value()?).is_some().then_some("action"),
                "ack" => self.ack.replace(reader.value()?).is_some().then_some("ack"),
                "data" => {
                    let data = if reader.at_object() {
                        self.fields.read(reader)?;
                        Data::Object
                    } else {
                        Data::Other(reader.value()?)
                    };
                    self.data.replace(data).is_some().then_some("data")
                }
                _ => {
                    reader.value()?;
                    None
                }
            };
            self.duplicate = self.duplicate.or(again);
            key = reader.next_key()?;
        }
        Ok(())
    }

    /// The command in the frame with this text, or the reason for a refusal.
    fn command(
        &self,
        text: &str,
        limits: &Limits,
        more: usize,
        batch: &mut Option<Box<Batch>>,
    ) -> Result<Command, FrameError> {
        if let Some(key) = self.duplicate {
            return Err(duplicate_key(key));
        }
        let topic = |data: Option<Data<'_>>| match data {
            Some(Data::Other(raw)) => request::topic_name(raw, limits.max_topic_bytes),
            _ => Err(topic_must_be_a_string()),
        };
        match self.action.and_then(json::string).as_deref() {
            Some("subscribe") => Ok(Command::subscribe(topic(self.data)?)),
            Some("unsubscribe") => Ok(Command::Unsubscribe { topic: topic(self.data)?, id: None }),
            Some("publish") => {
                let Some(Data::Object) = self.data else { return Err(publish_needs_an_object()) };
                let ack = match self.ack {
                    None | Some("false") => false,
                    Some("true") => true,
                    Some(_) => {
                        return Err(FrameError::new(ErrorCode::BadPublish, "\"ack\" must be true or false"));
                    }
                };
                let (topic, publication) = self.fields.publication(limits, more, batch)?;
                let RawPublication { data, base64, .. } = self.fields.publication;
                if let (Some(batch), Some(data), None, false) = (batch, data, base64, ack) {
                    batch.note_opening(text, data, PUBLISH_END, (&topic, &publication));
                }
                Ok(Command::Publish { topic, publication, ack, id: None })
            }
            Some("attach") => match self.data {
                Some(Data::Object) => self.fields.attach(limits),
                _ => Err(bad_attach()),
            },
            Some("auth") => match self.data {
                Some(Data::Other(raw)) if let Some(auth) = json::string(raw) => {
                    Ok(Command::Authenticate { auth: Credentials(auth.into_owned()) })
                }
                _ => Err(FrameError::new(ErrorCode::BadRequest, "auth needs the token as a JSON string")),
            },
            _ => Err(FrameError::new(
                ErrorCode::UnknownAction,
                "unknown request: expected PING, PONG, PUBLISH or an object whose \"action\" is \"subscribe\", \
                 \"unsubscribe\", \"publish\", \"attach\" or \"auth\"",
            )),
        }
    }
}

/// The object of a publication or of an attach, as raw text.
#[derive(Default)]
struct DataFields<'a> {
    publication: RawPublication<'a>,
    token: Option<&'a str>,
    received: Option<&'a str>,
    duplicate: Option<&'static str>,
}

impl<'a> DataFields<'a> {
    /// Reads an object. After a second object the fields mean nothing, and nobody asks for them.
    fn read(&mut self, reader: &mut Reader<'a>) -> Result<(), JsonError> {
        let mut key = reader.first_key()?;
        while let Some(name) = key {
            let value = reader.value()?;
            let field = match &*name {
                "topic" => Some(("topic", &mut self.publication.topic)),
                "event" => Some(("event", &mut self.publication.event)),
                "message_id" => Some(("message_id", &mut self.publication.message_id)),
                "data" => Some(("data", &mut self.publication.data)),
                "data_base64" => Some(("data_base64", &mut self.publication.base64)),
                "token" => Some(("token", &mut self.token)),
                "received" => Some(("received", &mut self.received)),
                _ => None,
            };
            if let Some((key, field)) = field
                && field.replace(value).is_some()
            {
                self.duplicate = self.duplicate.or(Some(key));
            }
            key = reader.next_key()?;
        }
        Ok(())
    }

    fn attach(&self, limits: &Limits) -> Result<Command, FrameError> {
        if let Some(key) = self.duplicate {
            return Err(duplicate_key(key));
        }
        let token = self.token.and_then(json::string).ok_or_else(bad_attach)?.into_owned();
        let mut reader = Reader::new(self.received.ok_or_else(bad_attach)?);
        if !reader.at_object() {
            return Err(bad_attach());
        }
        let mut received: Vec<(TopicName, u64)> = Vec::new();
        let mut key = reader.first_key().map_err(bad_json)?;
        while let Some(name) = key {
            let topic = request::checked_topic_name(&name, limits.max_topic_bytes)?;
            let count = reader.value().map_err(bad_json)?.parse().map_err(|_| bad_attach())?;
            received.push((topic, count));
            key = reader.next_key().map_err(bad_json)?;
        }
        // Sorted, because a frame of 64 KiB has room for thousands.
        let mut names: Vec<&TopicName> = received.iter().map(|(topic, _)| topic).collect();
        names.sort_unstable();
        if let Some(pair) = names.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(duplicate_topic(pair[0]));
        }
        Ok(Command::Attach { token, received })
    }

    fn publication(
        &self,
        limits: &Limits,
        more: usize,
        batch: &mut Option<Box<Batch>>,
    ) -> Result<(TopicName, Publication), FrameError> {
        if let Some(key) = self.duplicate {
            return Err(duplicate_key(key));
        }
        self.publication.read(limits.max_topic_bytes, more, batch)
    }
}

fn trim(mut frame: &[u8]) -> &[u8] {
    while let [first, rest @ ..] = frame
        && json::is_white_space(*first)
    {
        frame = rest;
    }
    while let [rest @ .., last] = frame
        && json::is_white_space(*last)
    {
        frame = rest;
    }
    frame
}

fn too_large(limits: &Limits) -> FrameError {
    FrameError::new(
        ErrorCode::FrameTooLarge,
        format!("frame longer than the limit of {} bytes; end each frame with a NUL byte", limits.max_frame_bytes),
    )
}

fn bad_attach() -> FrameError {
    FrameError::new(
        ErrorCode::BadAttach,
        "attach needs the token of the earlier greeting and the number of messages received on each topic: \
         {\"token\":\"…\",\"received\":{\"topic\":7}}",
    )
}

fn publish_needs_an_object() -> FrameError {
    FrameError::new(
        ErrorCode::BadPublish,
        "publish needs an object: {\"topic\":\"…\",\"event\":…,\"message_id\":…,\"data\":…}",
    )
}

/// The answer to a subscribe.
pub const ACK: &[u8] = b"ACK\x01";

/// The heartbeat.
pub const PING: &[u8] = b"PING\x01";

/// Appends the greeting, the first frame of every connection. The token is 32 hexadecimal digits. With the time until the
/// end of the client's identity, if it ends.
pub fn encode_greeting(out: &mut impl BufMut, timestamp: &Timestamp, token: &str, expires: Option<Duration>) {
    put_timestamp(out, timestamp);
    out.put_slice(b"\"token\":");
    put_json_string(out, token);
    if let Some(expires) = expires {
        out.put_slice(format!(",\"expires_ms\":{}", millis(expires)).as_bytes());
    }
    out.put_slice(b"}\x01");
}

/// Appends the answer to an `auth` on an open connection.
pub fn encode_refreshed(out: &mut impl BufMut, timestamp: &Timestamp, expires: Option<Duration>) {
    put_timestamp(out, timestamp);
    match expires {
        Some(expires) => {
            out.put_slice(format!("\"refreshed\":{{\"expires_ms\":{}}}}}\x01", millis(expires)).as_bytes())
        }
        None => out.put_slice(b"\"refreshed\":{}}\x01"),
    }
}

/// Appends the news that the server has subscribed the client to a topic by itself.
pub fn encode_assigned(out: &mut impl BufMut, timestamp: &Timestamp, topic: &TopicName) {
    put_timestamp(out, timestamp);
    out.put_slice(b"\"subscribed\":{\"topic\":");
    put_json_string(out, topic.as_str());
    out.put_slice(b"}}\x01");
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Appends a published message.
pub fn encode_message(out: &mut impl BufMut, timestamp: &Timestamp, publication: &Publication) {
    MessageHead::new(timestamp).encode_message(out, publication);
}

/// The common beginning of messages of the same instant, written once: reading a clock and formatting numbers is a
/// noticeable part of the cost of encoding a message.
///
/// ```
/// use janus_core::wire::classic::MessageHead;
/// use janus_core::wire::{Publication, Timestamp, TopicName};
///
/// let publication = Publication::new(&TopicName::new("news", 255)?, "1", "2", "3")?;
/// let mut frames = Vec::new();
/// let head = MessageHead::new(&Timestamp { mega: 1_258, sec: 870_801, micro: 42 });
/// head.encode_message(&mut frames, &publication);
/// head.encode_message(&mut frames, &publication);
/// let frame = b"{\"timestamp\":[1258,870801,42],\"topic\":\"news\",\"event\":1,\"message_id\":2,\"data\":3}\x01";
/// assert_eq!(frames, frame.repeat(2));
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct MessageHead {
    text: [u8; Self::MAX_BYTES],
    len: usize,
}

impl MessageHead {
    /// Three numbers of at most ten digits, and the text around the numbers.
    const MAX_BYTES: usize = 48;

    /// The head of messages of this instant.
    #[must_use]
    pub fn new(timestamp: &Timestamp) -> Self {
        let mut text = [0; Self::MAX_BYTES];
        let mut rest = &mut text[..];
        put_timestamp(&mut rest, timestamp);
        let len = Self::MAX_BYTES - rest.len();
        Self { text, len }
    }

    /// Appends a published message.
    pub fn encode_message(&self, out: &mut impl BufMut, publication: &Publication) {
        out.put_slice(&self.text[..self.len]);
        out.put_slice(publication.classic_tail());
    }
}

/// Appends an error frame.
pub fn encode_error(out: &mut impl BufMut, timestamp: &Timestamp, code: ErrorCode, message: &str) {
    put_timestamp(out, timestamp);
    out.put_slice(b"\"error\":{\"code\":\"");
    out.put_slice(code.as_str().as_bytes());
    out.put_slice(b"\",\"message\":");
    put_json_string(out, message);
    out.put_slice(b"}}\x01");
}

/// Appends the receipt of a publication: the epoch, the message's place in the topic's order,
/// and the topic's number of subscribers at that moment.
pub fn encode_published(
    out: &mut impl BufMut,
    timestamp: &Timestamp,
    topic: &TopicName,
    epoch: Epoch,
    seq: u64,
    subscribers: usize,
) {
    put_timestamp(out, timestamp);
    out.put_slice(b"\"published\":{\"topic\":");
    put_json_string(out, topic.as_str());
    out.put_slice(format!(",\"epoch\":\"{epoch}\",\"seq\":{seq},\"subscribers\":{subscribers}}}}}\x01").as_bytes());
}

/// Appends the answer to an attach: for each topic, how many messages the client has missed, all of which follow, or
/// `None` if the topic continues without these messages; and the token of the session from now on.
pub fn encode_attached<'a>(
    out: &mut impl BufMut,
    timestamp: &Timestamp,
    topics: impl IntoIterator<Item = (&'a TopicName, Option<u64>)>,
    token: &str,
) {
    put_timestamp(out, timestamp);
    out.put_slice(b"\"attached\":{");
    for (index, (topic, missed)) in topics.into_iter().enumerate() {
        if index > 0 {
            out.put_u8(b',');
        }
        put_json_string(out, topic.as_str());
        match missed {
            Some(missed) => out.put_slice(format!(":{{\"resumed\":true,\"missed\":{missed}}}").as_bytes()),
            None => out.put_slice(b":{\"resumed\":false}"),
        }
    }
    out.put_slice(b"},\"token\":");
    put_json_string(out, token);
    out.put_slice(b"}\x01");
}

/// Parses the array of `{"timestamp":[MEGA,SEC,MICRO],`, the beginning of every JSON frame to a client.
fn parse_timestamp(raw: &str) -> Option<Timestamp> {
    let mut numbers = raw.strip_prefix('[')?.strip_suffix(']')?.split(',').map(|number| number.trim().parse().ok());
    let timestamp = Timestamp { mega: numbers.next()??, sec: numbers.next()??, micro: numbers.next()?? };
    numbers.next().is_none().then_some(timestamp)
}

fn put_timestamp(out: &mut impl BufMut, timestamp: &Timestamp) {
    out.put_slice(b"{\"timestamp\":[");
    put_decimal(out, timestamp.mega);
    out.put_u8(b',');
    put_decimal(out, timestamp.sec);
    out.put_u8(b',');
    put_decimal(out, timestamp.micro);
    out.put_slice(b"],");
}

#[cfg(test)]
mod tests;
