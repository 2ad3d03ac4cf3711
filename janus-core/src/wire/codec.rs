//! What a wire format is: a [`Codec`], which is pure, and the [`Decoder`] that it makes for each connection.
//!
//! Bytes in, [`Command`]s out; [`Event`]s in, bytes out. No socket, no clock, no runtime: who writes a codec writes two
//! functions from values to values, and everything that keeps tens of thousands of connections fast and bounded comes
//! with what calls them. What a message looks like on the wire is encoded once for each topic and codec, and shared by
//! all subscribers.

use std::borrow::Cow;
use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};

use super::request::{checked_topic_name, unfinished};
use super::{ErrorCode, FrameError, Publication, Timestamp, TopicName};

/// The limits that a decoder enforces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of one frame from a client, without its terminator or header.
    pub max_frame_bytes: usize,
    /// Bytes of a topic's name, without quotes and escapes.
    pub max_topic_bytes: usize,
    /// Topics that one client may be subscribed to.
    pub max_topics: usize,
}

impl Limits {
    /// The topic of this name.
    ///
    /// # Errors
    ///
    /// [`ErrorCode::BadTopic`] if none can be called so.
    pub fn topic(&self, name: &str) -> Result<TopicName, FrameError> {
        checked_topic_name(name, self.max_topic_bytes)
    }
}

/// A place in a topic's order: what a subscriber that lost its connection goes on from.
///
/// Numbers mean nothing without the epoch they belong to: a topic that starts afresh takes a new one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Position {
    /// The life of the topic, as in [`Receipt::epoch`](crate::Receipt::epoch).
    pub epoch: u64,
    /// The number of the last message that was received; 0 before the first.
    pub seq: u64,
}

/// The epoch in 16 hexadecimal digits, and the number: `9f86d081884c7d65.42`. It has no blanks, and reads back.
impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}.{}", self.epoch, self.seq)
    }
}

impl FromStr for Position {
    type Err = PositionError;

    /// ```
    /// use janus_core::Position;
    ///
    /// let position: Position = "9f86d081884c7d65.42".parse()?;
    /// assert_eq!((position.seq, &*position.to_string()), (42, "9f86d081884c7d65.42"));
    /// # Ok::<_, janus_core::wire::PositionError>(())
    /// ```
    fn from_str(text: &str) -> Result<Self, PositionError> {
        let (epoch, seq) = text.split_once('.').ok_or(PositionError)?;
        if epoch.len() != 16
            || !epoch.bytes().all(|byte| byte.is_ascii_hexdigit())
            || !seq.bytes().all(|byte| byte.is_ascii_digit())
        {
            return Err(PositionError);
        }
        let epoch = u64::from_str_radix(epoch, 16).map_err(|_| PositionError)?;
        Ok(Self { epoch, seq: seq.parse().map_err(|_| PositionError)? })
    }
}

/// A text that is no [`Position`]; whoever wrote it is to blame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a position is 16 hexadecimal digits, a dot and a number, as it was told before")]
pub struct PositionError;

/// The number that a client gave a request, to know the answer by; `None` if it gave none.
pub type RequestId = Option<u64>;

/// One thing that a client said.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Command {
    /// Serve me. Meant once, before everything else, by the codecs whose [`Codec::opens`] is
    /// [`Opens::WhenAsked`]; the answer is [`Event::Opened`] or [`Event::Refused`].
    Open(Box<Open>),
    /// A sign of life that wants no answer.
    Ping,
    /// An answer to our own heartbeat; see [`Codec::answers`].
    Pong,
    /// Send these bytes: an answer that the decoder knows by itself, such as the one to a ping. It takes its place among
    /// the answers to other commands.
    Answer(Bytes),
    /// Send these bytes before everything else, and not before each topic that the client asks for has been joined or
    /// refused: behind these bytes the client takes the stream for open, and must not miss what is published from then on.
    /// Until then the client may still be refused with [`Event::Refused`], for which it may be too late behind these
    /// bytes: the head of a response has a status. Meant before [`Command::Open`], and with [`Command::AllAsked`] behind
    /// the last topic, without which the stream never begins.
    Preface(Bytes),
    /// I have asked for every topic that I will ever ask for: if I have none of them, tell me why and close. Only meant where
    /// there was a [`Command::Preface`].
    AllAsked,
    /// Deliver this topic to me.
    Subscribe {
        /// Which.
        topic: TopicName,
        /// Go on after this position, if what comes after it is still there.
        since: Option<Position>,
        /// What the client has seen of topics other than that position's: see [`Message::horizon`]. It counts if the
        /// position belongs to one of the topics that the client asks for before [`Command::AllAsked`].
        horizon: Option<u64>,
        /// To answer by.
        id: RequestId,
    },
    /// Deliver this topic to me no longer.
    Unsubscribe {
        /// Which.
        topic: TopicName,
        /// To answer by.
        id: RequestId,
    },
    /// Go on with an earlier session, by how many messages came. Only meant as the first command of a connection.
    Attach {
        /// What names the session, as its client sent it.
        token: String,
        /// How many messages the client has had on each topic.
        received: Vec<(TopicName, u64)>,
    },
    /// Publish and go on.
    Publish {
        /// Where to.
        topic: TopicName,
        /// What.
        publication: Publication,
        /// Whether the client wants a receipt.
        ack: bool,
        /// To answer by.
        id: RequestId,
    },
    /// Publish and close the connection. Whatever the client sends after it is ignored.
    PublishAndClose {
        /// Where to.
        topic: TopicName,
        /// What.
        publication: Publication,
    },
    /// A frame that asks for something impossible but leaves no doubt where the next one begins: answer with an error
    /// and go on.
    Refused(FrameError),
    /// The client wants to part: send it these bytes, which may be none, and close.
    Close(Bytes),
    /// The connection speaks another codec from the next byte on: [`Decoder::successor`] says which. These bytes, which
    /// may be none, are sent before anything of that codec.
    Become(Bytes),
    /// This stream is none of Janus's: hand it to whoever takes what a listener passes on, with all bytes that were
    /// received on it ([`Decoder::take_received`] and what follows in the input).
    PassOn,
}

impl Command {
    /// Deliver this topic to me from now on.
    #[must_use]
    pub fn subscribe(topic: TopicName) -> Self {
        Self::Subscribe { topic, since: None, horizon: None, id: None }
    }

    /// Deliver this topic to me as from this position on.
    #[must_use]
    pub fn subscribe_since(topic: TopicName, since: Position) -> Self {
        Self::Subscribe { topic, since: Some(since), horizon: None, id: None }
    }

    /// Publish this data, JSON text, with an empty event and message id and without a receipt.
    ///
    /// # Errors
    ///
    /// [`ErrorCode::BadPublish`] if the data is not one JSON value.
    pub fn publish(topic: TopicName, data: &str) -> Result<Self, FrameError> {
        let publication = Publication::new(&topic, "\"\"", "\"\"", data)?;
        Ok(Self::Publish { topic, publication, ack: false, id: None })
    }
}

/// How a client opens its connection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Open {
    /// The token of an earlier session of the client, which it takes over.
    pub session: Option<String>,
    /// What the client says to show who it is; only the embedder's hook knows what to make of it.
    pub auth: Option<String>,
    /// The HTTP request with which the connection began, where it did.
    pub request: Option<Box<HttpRequest>>,
}

/// The head of an HTTP request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HttpRequest {
    /// Such as `GET`.
    pub method: String,
    /// The path with its query, as it was sent. Of a target in absolute form, `http://host/path`, it is what follows the host.
    pub target: String,
    /// Names in lower case, and values, in the order they came. A value that is no UTF-8 has its bad bytes replaced. `host` is
    /// the host of a target in absolute form, whatever the header says (RFC 9112, 3.2.2).
    pub headers: Vec<(String, String)>,
    /// Whether the client, or a proxy on the way, speaks HTTP/1.0, which has no upgrades.
    pub is_http_1_0: bool,
}

impl HttpRequest {
    /// The head of a request that another server has read: names in any case, values as they were sent, the target in any
    /// form. If it is of HTTP/1.0, say so in [`is_http_1_0`](Self::is_http_1_0).
    ///
    /// ```
    /// use janus_core::wire::HttpRequest;
    ///
    /// let request = HttpRequest::new("GET", "http://push.example/events?topic=news", [("Host", &b"proxy"[..])]);
    /// assert_eq!((request.path(), request.header("host")), ("/events", Some("push.example")));
    /// ```
    pub fn new<'a>(
        method: impl Into<String>,
        target: impl Into<String>,
        headers: impl IntoIterator<Item = (&'a str, &'a [u8])>,
    ) -> Self {
        let header =
            |(name, value): (&str, &[u8])| (name.to_ascii_lowercase(), String::from_utf8_lossy(value).into_owned());
        let headers = headers.into_iter().map(header).collect();
        Self { method: method.into(), target: target.into(), headers, is_http_1_0: false }.into_origin_form()
    }

    /// The same with nothing in the target but the path and the query.
    pub(super) fn into_origin_form(mut self) -> Self {
        let Some((scheme, rest)) = self.target.split_once("://") else { return self };
        if !["http", "https"].iter().any(|known| scheme.eq_ignore_ascii_case(known)) {
            return self;
        }
        let (authority, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
        self.headers.retain(|(name, _)| name != "host");
        self.headers.push(("host".to_owned(), authority.to_owned()));
        self.target = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
        self
    }

    /// The path, as it was sent, without its query.
    #[must_use]
    pub fn path(&self) -> &str {
        self.target.split_once('?').map_or(&*self.target, |(path, _)| path)
    }

    /// The query, as it was sent; empty if there is none.
    #[must_use]
    pub fn query(&self) -> &str {
        self.target.split_once('?').map_or("", |(_, query)| query)
    }

    /// The first parameter of this name in the query, its escapes undone: where a browser's `EventSource`, which cannot set
    /// headers, may carry a token.
    ///
    /// ```
    /// use janus_core::wire::HttpRequest;
    ///
    /// let request = HttpRequest::new("GET", "/events?topic=news&token=a%2Bb", []);
    /// assert_eq!(request.query_parameter("token").as_deref(), Some("a+b"));
    /// ```
    #[must_use]
    pub fn query_parameter(&self, name: &str) -> Option<Cow<'_, str>> {
        form_urlencoded::parse(self.query().as_bytes()).find(|(other, _)| other == name).map(|(_, value)| value)
    }

    /// The first header of this name, which is given in lower case.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers_named(name).next()
    }

    /// All headers of this name, which is given in lower case.
    pub(super) fn headers_named(&self, name: &str) -> impl Iterator<Item = &str> {
        self.headers.iter().filter(move |(other, _)| other == name).map(|(_, value)| value.trim())
    }

    /// Whether the request shows that a proxy has passed it on: it has one of the headers that proxies add
    /// (`X-Forwarded-For`, `X-Forwarded-Host`, `X-Forwarded-Proto` and their like, `Forwarded`, `Via`, `X-Real-IP`), or it is of
    /// HTTP/1.0, which hardly anything else speaks.
    ///
    /// Then its peer is the proxy, and says nothing of where its client is. A client can make a request look forwarded, and a
    /// proxy may pass one on without a sign: so being forwarded must take something away, and never grant anything.
    ///
    /// ```
    /// use janus_core::wire::HttpRequest;
    ///
    /// let request = |header| HttpRequest::new("GET", "/ws", [(header, &b"192.0.2.1"[..])]);
    /// assert!(request("X-Forwarded-For").is_forwarded());
    /// assert!(!request("X-Request-Id").is_forwarded());
    /// ```
    #[must_use]
    pub fn is_forwarded(&self) -> bool {
        let is_sign = |name: &str| {
            const PREFIX: &str = "x-forwarded";
            name.get(..PREFIX.len()).is_some_and(|start| start.eq_ignore_ascii_case(PREFIX))
                || ["forwarded", "via", "x-real-ip"].iter().any(|sign| name.eq_ignore_ascii_case(sign))
        };
        self.is_http_1_0 || self.headers.iter().any(|(name, _)| is_sign(name))
    }

    /// Whether a body follows the head.
    pub(super) fn has_body(&self) -> bool {
        // All of them: what the first says, and another one denies, may be what a proxy goes by.
        self.headers_named("content-length").any(|length| length != "0")
            || self.headers_named("transfer-encoding").next().is_some()
    }

    /// The memory that the request takes, with what an allocator adds to small pieces.
    pub(crate) fn memory(&self) -> usize {
        let text = |text: &String| size_of::<String>() + text.capacity() + text.capacity() / 8 + 16;
        let headers: usize = self.headers.iter().map(|(name, value)| text(name) + text(value)).sum();
        size_of::<Self>() + text(&self.method) + text(&self.target) + headers
    }

    /// Whether `Accept` names this type, other than by a wildcard: `text/event-stream` is named by every browser's
    /// `EventSource`.
    #[must_use]
    pub fn accepts(&self, media_type: &str) -> bool {
        let types = self.headers_named("accept").flat_map(|accept| accept.split(','));
        types
            .map(|accepted| accepted.split(';').next().unwrap_or_default().trim())
            .any(|accepted| accepted.eq_ignore_ascii_case(media_type))
    }
}

/// What a client is told.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// It is served.
    Opened {
        /// What names its session, for [`Open::session`] or an attach.
        session: &'a str,
        /// Whether that is the session it asked for.
        resumed: bool,
        /// What it may send.
        limits: &'a Limits,
        /// How long the server stays silent before it sends its heartbeat.
        heartbeat: Duration,
    },
    /// It is not served; the stream ends after this.
    Refused(Refusal<'a>),
    /// A topic is delivered to it from now on.
    Subscribed {
        /// The request.
        id: RequestId,
        /// Which topic.
        topic: &'a TopicName,
        /// The place after which delivery begins: the one it asked for if it is resumed, otherwise the topic's of now.
        position: Position,
        /// The last message that the client has had of all its topics, where it goes on after that one. A client that loses
        /// this connection before its next message comes back with it, and not with `position`.
        last: Option<Position>,
        /// What `last`, or else `position`, tells of the client's other topics, as [`Message::horizon`] does.
        horizon: Option<u64>,
        /// The place it asked to go on from, if it did.
        since: Option<Position>,
        /// How many messages were published since that place, all of which follow; `None` if it is not resumed.
        missed: Option<u64>,
        /// How many of the first of them the client may have had before.
        repeated: u64,
    },
    /// It is subscribed to the topic already; nothing has changed.
    AlreadySubscribed {
        /// The request.
        id: RequestId,
        /// Which topic.
        topic: &'a TopicName,
    },
    /// A topic is delivered to it no longer, or was not before.
    Unsubscribed {
        /// The request.
        id: RequestId,
        /// Which topic.
        topic: &'a TopicName,
    },
    /// The receipt of a publication that asked for one.
    Published {
        /// The request.
        id: RequestId,
        /// Its topic.
        topic: &'a TopicName,
        /// Its place in the topic's order; both numbers are 0 if there was nobody to number it for.
        position: Position,
        /// How many subscribers the topic had at that moment.
        subscribers: usize,
    },
    /// The answer to an attach.
    Attached {
        /// For each topic how many messages it has missed, which follow, or that it goes on without them.
        topics: &'a [(TopicName, Option<u64>)],
        /// What names the session from now on.
        session: &'a str,
    },
    /// A published message.
    Message(Message<'a>),
    /// These messages of a topic do not come. Only for codecs that [tell gaps](Codec::tells_gaps).
    Gap {
        /// Which topic.
        topic: &'a TopicName,
        /// The topic's life of now.
        epoch: u64,
        /// The number of the first.
        from: u64,
        /// The number of the last.
        to: u64,
    },
    /// A request was refused; the connection goes on.
    Error {
        /// The request, if it is known and had a number.
        id: RequestId,
        /// The topic that it was about, if it is known.
        topic: Option<&'a TopicName>,
        /// Why.
        code: ErrorCode,
        /// The same for people.
        message: &'a str,
    },
    /// The server closes the connection after this.
    Bye(Refusal<'a>),
}

/// Why a client is not served, or not any more.
#[derive(Clone, Copy, Debug)]
pub struct Refusal<'a> {
    /// The request that was at fault, if one was, and had a number.
    pub id: RequestId,
    /// Why.
    pub code: ErrorCode,
    /// The same for people.
    pub message: &'a str,
    /// After what time the client may come back; `None` if it had better not.
    pub reconnect_after: Option<Duration>,
}

/// A published message, as a codec encodes it: once for all subscribers.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    /// Its topic.
    pub topic: &'a TopicName,
    /// Its topic as a JSON string.
    pub topic_json: &'a str,
    /// Its place in the topic's order.
    pub position: Position,
    /// What the message tells of its client's other topics: everything that this server had handed out up to here was written
    /// to each subscriber before the message. A client that says it with the message's position
    /// (in [`Command::Subscribe`]) goes on with the others from there; `None` where nothing is known.
    ///
    /// A number without a unit, which rises and means nothing to another server, or to the same one after a restart.
    pub horizon: Option<u64>,
    /// When it was numbered.
    pub timestamp: Timestamp,
    /// The event, as JSON text.
    pub event: &'a str,
    /// The message's identifier, as JSON text.
    pub message_id: &'a str,
    /// The data, as JSON text.
    pub data: &'a str,
}

/// When a connection is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opens {
    /// As soon as it is accepted; the client has said nothing.
    AtOnce,
    /// With the first [`Command::Open`]. Until then nothing else is obeyed but [`Command::Answer`],
    /// [`Command::Preface`], [`Command::Refused`], [`Command::Close`], [`Command::Become`] and [`Command::PassOn`].
    WhenAsked,
}

/// What is sent to a client that has heard nothing for a while.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Heartbeat {
    /// Nothing.
    Never,
    /// These bytes, to clients that have had a message.
    AfterMessages(Bytes),
    /// These bytes, also to clients that never had a message.
    Always(Bytes),
}

/// Whose answers to the [`Heartbeat`] are counted on. A client that owes one for `pong_timeout` is closed
/// ([`ErrorCode::PingTimeout`]); whatever comes from it counts as an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answers {
    /// Nobody's.
    Never,
    /// Those of a client that has answered one with [`Command::Pong`], in time.
    OnceShown,
    /// Everybody's: the format obliges clients to answer.
    Always,
}

/// A wire format: what all its connections share.
///
/// All of it is pure. It runs on the thread on which all actors of an instance live: it must not block, and should not
/// panic. A panic in [`encode`](Self::encode) of a message counts as a crash of its topic, any other as one of the
/// connection.
pub trait Codec: fmt::Debug + Send + Sync + 'static {
    /// What the format is called, in lower case: in logs, lists of connections and hooks.
    fn name(&self) -> &'static str;

    /// The decoder of a new connection.
    fn decoder(&self) -> Box<dyn Decoder>;

    /// Appends what a client is to read; nothing if the format has no words for it. `at` is the time of now.
    ///
    /// For [`Event::Message`] it is called once for all subscribers, and what it appends must depend on nothing but
    /// the event.
    fn encode(&self, event: &Event<'_>, at: &Timestamp, out: &mut BytesMut);

    /// When connections are opened.
    fn opens(&self) -> Opens {
        Opens::AtOnce
    }

    /// Whether clients can be told which messages they do not get ([`Event::Gap`]). A format that cannot has its clients
    /// closed instead, and the policies that drop messages act as the one that disconnects.
    fn tells_gaps(&self) -> bool {
        true
    }

    /// What is sent into silence.
    fn heartbeat(&self) -> Heartbeat {
        Heartbeat::Never
    }

    /// Whose answers to that are counted on.
    fn answers(&self) -> Answers {
        Answers::Never
    }

    /// The codecs that a connection of this one may become. They must not lead back to it: an instance takes that for
    /// `TooManyCodecs`.
    fn successors(&self) -> Vec<Arc<dyn Codec>> {
        Vec::new()
    }
}

/// Turns the bytes of one connection into commands, however they were cut into pieces.
pub trait Decoder: Send {
    /// Takes bytes from `input` up to the end of the next command. It is called until it returns `None`: then everything
    /// must have been taken, and the beginning of an unfinished frame be kept.
    ///
    /// An `Err` refuses a frame. If it [is fatal](FrameError::is_fatal), the client is told with [`Event::Bye`], or
    /// [`Event::Refused`] before it was opened, the connection closes, and the decoder is not asked again.
    fn decode(&mut self, input: &mut &[u8], limits: &Limits) -> Option<Result<Command, FrameError>>;

    /// The client has ended its side of the stream: what its last, unfinished frame means.
    fn finish(&mut self, limits: &Limits) -> Option<Result<Command, FrameError>> {
        let _ = limits;
        None
    }

    /// How many bytes of an unfinished frame are kept.
    fn buffered(&self) -> usize;

    /// How much memory the decoder takes beside itself: the capacity of its buffers, and whatever else it keeps of what the
    /// client has sent. A client that sends too much of what leads to nothing is closed by this figure. By default, what is
    /// [buffered](Self::buffered).
    fn memory(&self) -> usize {
        self.buffered()
    }

    /// Whether a frame was begun and has not ended. Its time is limited by `frame_timeout`. By default, whether anything
    /// of one is kept.
    fn is_mid_frame(&self) -> bool {
        self.buffered() > 0
    }

    /// How to tell the client that it is not served, before anything else has been sent to it.
    fn refuse(&self, refusal: &Refusal<'_>) -> Refusing {
        let _ = refusal;
        Refusing::ByCodec
    }

    /// After [`Command::Become`]: the codec, by its place in [`Codec::successors`], and its decoder.
    fn successor(&mut self) -> Option<(usize, Box<dyn Decoder>)> {
        None
    }

    /// After [`Command::PassOn`]: the bytes that were taken from the input.
    fn take_received(&mut self) -> Vec<u8> {
        Vec::new()
    }
}

/// How a client is told that it is not served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusing {
    /// As the codec encodes [`Event::Refused`].
    ByCodec,
    /// With these bytes, which depend on what the client has asked for.
    With(Bytes),
    /// That depends on what the client asks for, which has not been read. A server that is full reads so far, for
    /// `frame_timeout` at most, and then tells it as the codec does.
    OnceRead,
}

/// Where a client is connected from, as far as a stream without an address has one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Peer {
    /// An address of the network.
    Addr(SocketAddr),
    /// This machine, by something that has no address: a Unix socket, memory.
    Local,
}

impl Peer {
    /// Whether this is the machine that the server runs on, as far as an address tells: one of loopback, or none.
    ///
    /// It may be a proxy for clients from elsewhere: see [`HttpRequest::is_forwarded`].
    #[must_use]
    pub fn is_local(self) -> bool {
        match self {
            Self::Addr(addr) => addr.ip().to_canonical().is_loopback(),
            Self::Local => true,
        }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Addr(addr) => addr.fmt(f),
            Self::Local => f.pad("local"),
        }
    }
}

impl serde::Serialize for Peer {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl From<SocketAddr> for Peer {
    fn from(addr: SocketAddr) -> Self {
        Self::Addr(addr)
    }
}

/// Cuts a stream into frames that each end with the same byte: what many a decoder begins with.
///
/// It keeps the beginning of an unfinished frame and nothing else; a frame that lies in one piece is not copied.
///
/// ```
/// use janus_core::wire::Delimited;
///
/// let mut lines = Delimited::new(b'\n');
/// let mut input: &[u8] = b"one\ntw";
/// assert_eq!(&*lines.next(&mut input, 100).unwrap()?, b"one");
/// assert!(lines.next(&mut input, 100).is_none() && lines.is_mid_frame());
/// let mut input: &[u8] = b"o\n";
/// assert_eq!(&*lines.next(&mut input, 100).unwrap()?, b"two");
/// # Ok::<_, janus_core::wire::FrameError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Delimited {
    delimiter: u8,
    unfinished: Vec<u8>,
}

impl Delimited {
    /// For frames that end with this byte.
    #[must_use]
    pub fn new(delimiter: u8) -> Self {
        Self { delimiter, unfinished: Vec::new() }
    }

    /// The next frame without its delimiter; `None` if its end has not come, and all of the input has been taken.
    ///
    /// # Errors
    ///
    /// [`ErrorCode::FrameTooLarge`] if a frame is longer than `max_bytes`; the stream cannot be trusted after it.
    pub fn next<'i>(&mut self, input: &mut &'i [u8], max_bytes: usize) -> Option<Result<Cow<'i, [u8]>, FrameError>> {
        let room = max_bytes.saturating_sub(self.unfinished.len());
        let window = &input[..input.len().min(room.saturating_add(1))];
        let Some(length) = window.iter().position(|&byte| byte == self.delimiter) else {
            if window.len() > room {
                let message = format!("a frame must not be longer than {max_bytes} bytes");
                return Some(Err(FrameError::new(ErrorCode::FrameTooLarge, message)));
            }
            self.unfinished.extend_from_slice(input);
            *input = &[];
            return None;
        };
        let piece = &input[..length];
        *input = &input[length + 1..];
        if self.unfinished.is_empty() {
            return Some(Ok(Cow::Borrowed(piece)));
        }
        self.unfinished.extend_from_slice(piece);
        Some(Ok(Cow::Owned(std::mem::take(&mut self.unfinished))))
    }

    /// Whether a frame was begun and has not ended.
    #[must_use]
    pub fn is_mid_frame(&self) -> bool {
        !self.unfinished.is_empty()
    }

    /// How many bytes of an unfinished frame are kept.
    #[must_use]
    pub fn buffered(&self) -> usize {
        self.unfinished.len()
    }

    /// The memory that the unfinished frame takes, which may be more than is kept of it.
    #[must_use]
    pub fn memory(&self) -> usize {
        self.unfinished.capacity()
    }

    /// The decoder of a format in which each frame is one request, which `parse` reads: all there is to do for a line
    /// protocol. `examples/lines.rs` is one.
    ///
    /// A stream that ends in the middle of a frame is answered with [`ErrorCode::UnfinishedFrame`].
    #[must_use]
    pub fn decoder<F>(self, parse: F) -> Box<dyn Decoder>
    where
        F: FnMut(&[u8], &Limits) -> Result<Command, FrameError> + Send + 'static,
    {
        Box::new(RequestDecoder { frames: self, parse })
    }
}

/// See [`Delimited::decoder`].
struct RequestDecoder<F> {
    frames: Delimited,
    parse: F,
}

impl<F> Decoder for RequestDecoder<F>
where
    F: FnMut(&[u8], &Limits) -> Result<Command, FrameError> + Send,
{
    fn decode(&mut self, input: &mut &[u8], limits: &Limits) -> Option<Result<Command, FrameError>> {
        let frame = self.frames.next(input, limits.max_frame_bytes)?;
        Some(frame.and_then(|frame| (self.parse)(&frame, limits)))
    }

    fn finish(&mut self, _: &Limits) -> Option<Result<Command, FrameError>> {
        self.frames.is_mid_frame().then(|| Err(unfinished()))
    }

    fn buffered(&self) -> usize {
        self.frames.buffered()
    }

    fn memory(&self) -> usize {
        self.frames.memory()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { max_frame_bytes: 16, max_topic_bytes: 4, max_topics: 1 };

    #[test]
    fn a_position_reads_back_from_its_text_and_nothing_else_does() {
        for position in [Position { epoch: 0, seq: 0 }, Position { epoch: 0xab, seq: 7 }] {
            assert_eq!(position.to_string().parse(), Ok(position));
        }
        let longest = Position { epoch: u64::MAX, seq: u64::MAX };
        assert_eq!(longest.to_string().parse(), Ok(longest));
        let bad = [
            "",
            ".",
            "7.7",
            "00000000000000ab",
            "00000000000000ab.",
            "00000000000000ab.-1",
            "00000000000000ab.+1",
            "+0000000000000ab.1",
            "00000000000000xb.1",
            "000000000000000ab.1",
            "00000000000000ab.1 ",
            "00000000000000ab.18446744073709551616",
        ];
        for text in bad {
            assert_eq!(text.parse::<Position>(), Err(PositionError), "{text}");
        }
    }

    #[test]
    fn a_decoder_of_delimited_requests_gives_what_they_parse_to_and_refuses_one_without_an_end() {
        let mut decoder = Delimited::new(b'\n').decoder(|frame, limits| {
            let topic = limits.topic(str::from_utf8(frame)?)?;
            Ok(Command::subscribe(topic))
        });
        let mut input: &[u8] = b"news\nevents\n\xff\nne";
        let mut codes = || decoder.decode(&mut input, &LIMITS).map(|decoded| decoded.map_err(|error| error.code));
        let news = Command::subscribe(TopicName::new("news", 4).unwrap());
        assert_eq!(codes(), Some(Ok(news.clone())));
        assert_eq!(codes(), Some(Err(ErrorCode::BadTopic)));
        assert_eq!(codes(), Some(Err(ErrorCode::BadUtf8)));
        assert_eq!(codes(), None);
        assert!(decoder.is_mid_frame() && decoder.buffered() == 2);
        let mut input: &[u8] = b"ws\n";
        assert_eq!(decoder.decode(&mut input, &LIMITS), Some(Ok(news)));
        assert_eq!(decoder.finish(&LIMITS), None);
        let mut input: &[u8] = b"n";
        assert_eq!(decoder.decode(&mut input, &LIMITS), None);
        assert_eq!(decoder.finish(&LIMITS).unwrap().unwrap_err().code, ErrorCode::UnfinishedFrame);
    }

    #[test]
    fn data_that_is_no_json_publishes_nothing() {
        let topic = || TopicName::new("news", 4).unwrap();
        assert!(matches!(Command::publish(topic(), "[1]"), Ok(Command::Publish { ack: false, id: None, .. })));
        let error = Command::publish(topic(), "[1").unwrap_err();
        assert_eq!(error.code, ErrorCode::BadPublish);
        assert!(error.message.starts_with("the data of a publication must be one JSON value: "), "{error}");
    }
}
