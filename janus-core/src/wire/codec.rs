//! The contract of a wire format: a [`Codec`], shared by all its connections, and a [`Decoder`] for each connection.
//!
//! Bytes in, [`Command`]s out; [`ServerEvent`]s in, bytes out. No socket, no clock, no runtime: the author of a codec
//! writes two functions from values to values, and the callers of these functions keep tens of thousands of connections
//! fast and bounded. The bytes of a message are encoded once for each topic and codec, and shared by all subscribers.

use std::fmt;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::request::checked_topic_name;
use super::{ClientId, Command, FrameError, HttpRequest, Refusal, ServerEvent, Timestamp, TopicName};

/// The limits enforced by a decoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a frame from a client, without terminator or header.
    pub max_frame_bytes: usize,
    /// Bytes of a topic's name, without quotes and escapes.
    pub max_topic_bytes: usize,
    /// Topics to which a client may be subscribed.
    pub max_topics: usize,
}

impl Limits {
    /// The topic with this name.
    ///
    /// # Errors
    ///
    /// [`ErrorCode::BadTopic`](super::ErrorCode::BadTopic) if the text cannot name a topic.
    pub fn topic(&self, name: &str) -> Result<TopicName, FrameError> {
        checked_topic_name(name, self.max_topic_bytes)
    }
}

/// When a connection is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opens {
    /// On accept; the client has sent nothing.
    AtOnce,
    /// With the first [`Command::Open`]. Until then only [`Command::Answer`], [`Command::Preface`],
    /// [`Command::Refused`], [`Command::Close`], [`Command::Become`], [`Command::PassOn`], [`Command::Admit`] and
    /// [`Command::Submit`] are obeyed.
    WhenAsked,
}

/// The bytes that show a client that the server is alive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Heartbeat {
    /// Nothing.
    Never,
    /// These bytes after a silence, to clients with at least one message so far.
    AfterMessages(Bytes),
    /// These bytes after a silence, even to clients without a message.
    Always(Bytes),
    /// These bytes once in each `heartbeat_interval`, whatever else is sent: for formats that announce the interval to clients
    /// that take no other bytes for a sign of life.
    Regularly(Bytes),
}

/// Which clients must answer the [`Heartbeat`]. A client that owes an answer for `pong_timeout` is closed
/// ([`ErrorCode::PingTimeout`](super::ErrorCode::PingTimeout)); any input from the client counts as an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answers {
    /// No client.
    Never,
    /// A client that has once answered a heartbeat with [`Command::Pong`], in time.
    OnceShown,
    /// Every client: the format obliges clients to answer.
    Always,
}

/// A wire format: the part shared by all its connections.
///
/// A codec is pure. It runs on the thread of all actors of an instance: it must not block, and should not panic. A
/// panic while [`encode`](Self::encode) handles a message counts as a crash of the topic; any other panic, as a crash
/// of the connection.
pub trait Codec: fmt::Debug + Send + Sync + 'static {
    /// The name of the format, in lower case, for logs, lists of connections and hooks.
    fn name(&self) -> &'static str;

    /// The decoder of a new connection.
    fn decoder(&self) -> Box<dyn Decoder>;

    /// The decoder of a connection that has been [passed on](Command::PassOn), and [comes back](crate::WayBack). By
    /// default, the decoder of a new connection.
    fn decoder_of_returned(&self) -> Box<dyn Decoder> {
        self.decoder()
    }

    /// Appends an event as the client is to read it; nothing if the format cannot express the event. `at` is the
    /// current time.
    ///
    /// A [`ServerEvent::Message`] is encoded once for all subscribers: the output must depend on nothing but the event.
    fn encode(&self, event: &ServerEvent<'_>, at: &Timestamp, out: &mut BytesMut);

    /// When connections are opened.
    fn opens(&self) -> Opens {
        Opens::AtOnce
    }

    /// Whether the format can tell a client which messages were lost ([`ServerEvent::Gap`]). Without this, the client
    /// is closed instead, and the policies for dropping messages act as the policy for disconnecting.
    fn tells_gaps(&self) -> bool {
        true
    }

    /// Whether the policy `conflate` is for clients of this format: each shows the latest message alone, and misses nothing
    /// in the messages before. Without this, the policy acts as the policy for disconnecting.
    fn conflates(&self) -> bool {
        true
    }

    /// The bytes that show a client that the server is alive, and when they are sent.
    fn heartbeat(&self) -> Heartbeat {
        Heartbeat::Never
    }

    /// Which clients must answer the heartbeat.
    fn answers(&self) -> Answers {
        Answers::Never
    }

    /// Whether a client can prove its identity anew, with [`Command::Refresh`] or [`Command::Authenticate`]. Without
    /// this, the connection is closed at the end of the client's identity, and not `token_grace` later.
    fn refreshes(&self) -> bool {
        false
    }

    /// The codecs a connection can switch to. They must not lead back to this codec: an instance reports such a circle
    /// as `TooManyCodecs`.
    fn successors(&self) -> Vec<Arc<dyn Codec>> {
        Vec::new()
    }
}

/// Turns the bytes of a connection into commands, however the bytes are split between reads.
pub trait Decoder: Send {
    /// Takes bytes from `input` up to the end of the next command. The caller repeats this until `None`: by then the
    /// decoder must have taken all of the input and kept the beginning of an unfinished frame.
    ///
    /// An `Err` refuses a frame, and the next call must not refuse the same frame again. If the error [is
    /// fatal](FrameError::is_fatal), the client is told with [`ServerEvent::Bye`], or with [`ServerEvent::Refused`]
    /// before the connection was opened; the connection closes, and the decoder is not called again.
    fn decode(&mut self, input: &mut &[u8], limits: &Limits) -> Option<Result<Command, FrameError>>;

    /// The client has ended its side of the stream: decides what the last, unfinished frame means.
    fn finish(&mut self, limits: &Limits) -> Option<Result<Command, FrameError>> {
        let _ = limits;
        None
    }

    /// How many bytes of an unfinished frame are kept.
    fn buffered(&self) -> usize;

    /// How much memory the decoder holds in addition to its own size: the capacity of its buffers, and anything else
    /// kept from the client's input. A client with too much input that leads to nothing is closed by this figure. By
    /// default, the [buffered](Self::buffered) bytes.
    fn memory(&self) -> usize {
        self.buffered()
    }

    /// Whether a frame has begun and not ended. Its time is limited by `frame_timeout`. By default, whether any bytes
    /// are [buffered](Self::buffered).
    fn is_mid_frame(&self) -> bool {
        self.buffered() > 0
    }

    /// How to refuse the client before anything else has been sent.
    fn refuse(&self, refusal: &Refusal<'_>) -> Refusing {
        let _ = refusal;
        Refusing::ByCodec
    }

    /// The client is being told the words of [`refuse`](Self::refuse), as its last: for a count of answers. `refuse` itself
    /// is a mere question.
    fn note_refused(&self, refusal: &Refusal<'_>) {
        let _ = refusal;
    }

    /// The HTTP request at the beginning of the connection, if there is one, from the moment at which the decoder has read
    /// the request until [`Command::Open`] hands the request out or [`Command::PassOn`] passes the stream on.
    ///
    /// The request tells the client's own address behind a trusted proxy
    /// ([`Config::trusted_proxies`](crate::Config::trusted_proxies)) before anything is answered.
    fn request(&self) -> Option<&HttpRequest> {
        None
    }

    /// After [`Command::Admit`]: decides about the request. `is_local` says whether its sender is on this machine, as in
    /// [`PassedOn::is_local`](crate::PassedOn::is_local).
    fn admit(&mut self, is_local: bool) {
        let _ = is_local;
    }

    /// The connection has been opened: the token of the session, a secret, and the public name of the connection, as in
    /// [`ServerEvent::Opened`]. Called once, before the next command is decoded. After a [`Command::Attach`] the token may be
    /// another, as [`ServerEvent::Attached`] says.
    fn opened(&mut self, session: &str, client: ClientId) {
        let _ = (session, client);
    }

    /// Whether the decoder waits for another request, after an earlier one was completed. Such a connection may be silent
    /// for `api_idle_timeout`, and not only for `frame_timeout`.
    fn is_idle(&self) -> bool {
        false
    }

    /// The index in [`Codec::successors`] of the codec for the answers still owed, once the server has decided to close the
    /// connection: HTTP announces the close in the last answer. By default, the codec stays the same.
    fn closing(&self) -> Option<usize> {
        None
    }

    /// After [`Command::Become`]: the index of the codec in [`Codec::successors`], and its decoder.
    fn successor(&mut self) -> Option<(usize, Box<dyn Decoder>)> {
        None
    }

    /// After [`Command::PassOn`]: the bytes taken from the input.
    fn take_received(&mut self) -> Vec<u8> {
        Vec::new()
    }
}

/// How a client is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusing {
    /// As the codec encodes [`ServerEvent::Refused`].
    ByCodec,
    /// With these bytes, which depend on the client's request.
    With(Bytes),
    /// This depends on the client's request, which has not been read. A full server reads the request first, for
    /// `frame_timeout` at most, and then refuses as the codec does.
    OnceRead,
}
