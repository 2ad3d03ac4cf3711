//! What a wire format is: a [`Codec`], which is pure, and the [`Decoder`] that it makes for each connection.
//!
//! Bytes in, [`Command`]s out; [`Event`]s in, bytes out. No socket, no clock, no runtime: who writes a codec writes two
//! functions from values to values, and everything that keeps tens of thousands of connections fast and bounded comes
//! with what calls them. What a message looks like on the wire is encoded once for each topic and codec, and shared by
//! all subscribers.

use std::fmt;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::request::checked_topic_name;
use super::{Command, Event, FrameError, Refusal, Timestamp, TopicName};

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
    /// [`ErrorCode::BadTopic`](super::ErrorCode::BadTopic) if none can be called so.
    pub fn topic(&self, name: &str) -> Result<TopicName, FrameError> {
        checked_topic_name(name, self.max_topic_bytes)
    }
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
/// ([`ErrorCode::PingTimeout`](super::ErrorCode::PingTimeout)); whatever comes from it counts as an answer.
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
