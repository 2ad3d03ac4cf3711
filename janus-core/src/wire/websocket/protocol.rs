//! The contract of a protocol in the messages of a WebSocket: complete messages in, [`Command`]s out; [`ServerEvent`]s in,
//! messages out. [`WebSocket`](super::WebSocket) does the rest.

use std::fmt;

use super::UpgradeError;
use super::messages::{ClientMessage, Close, MessageWriter};
use crate::wire::{
    Answers, ClientId, Command, FrameError, HttpRequest, Limits, Opens, Refusal, ServerEvent, Timestamp,
};

/// A protocol in the messages of a WebSocket: the part shared by all its connections.
///
/// The same conditions as for a [`Codec`](crate::wire::Codec) apply: pure functions that must not block and should not
/// panic. `examples/words.rs` is a protocol of 60 lines.
///
/// ```
/// use janus_core::wire::websocket::{ClientMessage, MessageDecoder, MessageProtocol, MessageWriter, Reading};
/// use janus_core::wire::{Command, FrameError, HttpRequest, ServerEvent, Timestamp, WebSocket};
///
/// /// Each message of a client is the name of a topic to subscribe to, and each message to a client is the data of a
/// /// publication.
/// #[derive(Debug)]
/// struct Names;
///
/// impl MessageProtocol for Names {
///     type Decoder = NamesDecoder;
///
///     fn name(&self) -> &'static str {
///         "names"
///     }
///
///     fn decoder(&self, _: Option<&HttpRequest>) -> NamesDecoder {
///         NamesDecoder
///     }
///
///     fn opens(&self) -> janus_core::wire::Opens {
///         janus_core::wire::Opens::AtOnce
///     }
///
///     fn encode(&self, event: &ServerEvent<'_>, _: &Timestamp, out: &mut MessageWriter<'_>) {
///         if let ServerEvent::Message(message) = event {
///             out.text(message.data);
///         }
///     }
///
///     fn tells_gaps(&self) -> bool {
///         false
///     }
/// }
///
/// struct NamesDecoder;
///
/// impl MessageDecoder for NamesDecoder {
///     type Scratch = ();
///
///     fn decode(
///         &mut self,
///         message: &mut ClientMessage<'_>,
///         reading: &mut Reading<'_>,
///     ) -> Option<Result<Command, FrameError>> {
///         Some(reading.limits.topic(message.text()).map(Command::subscribe))
///     }
/// }
///
/// let codec = WebSocket::new(Names);
/// # let _ = janus_core::wire::Codec::name(&codec);
/// ```
pub trait MessageProtocol: fmt::Debug + Send + Sync + 'static {
    /// Reads the messages of one connection.
    type Decoder: MessageDecoder;

    /// The name of the protocol, in lower case, for logs, lists of connections and hooks.
    fn name(&self) -> &'static str;

    /// The subprotocols (RFC 6455, 1.9) with which a client asks for this protocol. A client that offers subprotocols, and
    /// none of these, is refused; a client without any offer is served. By default there are none, and offers mean nothing.
    fn subprotocols(&self) -> &'static [&'static str] {
        &[]
    }

    /// Decides from the request whether the connection becomes a WebSocket, for instance by the path.
    ///
    /// # Errors
    ///
    /// The client gets this as the answer to its request, and no WebSocket.
    fn check(&self, request: &HttpRequest) -> Result<(), UpgradeError> {
        let _ = request;
        Ok(())
    }

    /// The decoder of a new connection; `request` is what the connection began with, if that was HTTP.
    fn decoder(&self, request: Option<&HttpRequest>) -> Self::Decoder;

    /// Writes an event as messages: none, one or several. The rules of [`Codec::encode`](crate::wire::Codec::encode) hold:
    /// a [`ServerEvent::Message`] is encoded once for all subscribers of a topic.
    ///
    /// The farewell, [`ServerEvent::Bye`] or [`ServerEvent::Refused`], is written before the [close frame](Self::close). A
    /// client that has broken the rules of the WebSocket gets the close frame alone.
    fn encode(&self, event: &ServerEvent<'_>, at: &Timestamp, out: &mut MessageWriter<'_>);

    /// When connections are opened: with the first [`Command::Open`] of the decoder, or at once.
    fn opens(&self) -> Opens {
        Opens::WhenAsked
    }

    /// Writes what the server sends as a heartbeat, and says which clients must answer. By default a ping frame, which RFC
    /// 6455 obliges every client to answer (5.5.2). Pong frames are [`Command::Pong`]; a protocol with messages for this
    /// purpose gives that command itself.
    fn heartbeat(&self, out: &mut MessageWriter<'_>) -> Answers {
        out.ping(b"");
        Answers::Always
    }

    /// Whether the [heartbeat](Self::heartbeat) is sent once in each `heartbeat_interval`, whatever else is sent, and not only
    /// after a silence.
    fn beats_regularly(&self) -> bool {
        false
    }

    /// The close frame behind the farewell.
    fn close<'r>(&self, refusal: &Refusal<'r>) -> Close<'r> {
        Close::of(refusal)
    }

    /// As [`Codec::tells_gaps`](crate::wire::Codec::tells_gaps).
    fn tells_gaps(&self) -> bool {
        true
    }

    /// As [`Codec::conflates`](crate::wire::Codec::conflates).
    fn conflates(&self) -> bool {
        true
    }

    /// As [`Codec::refreshes`](crate::wire::Codec::refreshes).
    fn refreshes(&self) -> bool {
        false
    }
}

/// Which messages of clients a protocol has a meaning for. Other messages end the connection with the close code 1003.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Takes {
    /// Text messages.
    Text,
    /// Binary messages.
    Binary,
    /// Both.
    Both,
}

/// Reads the messages of one connection.
///
/// All of an idle connection's memory is the decoder itself: keep little in it.
pub trait MessageDecoder: Send + 'static {
    /// Memory for the messages of one read of the socket, dropped at the end of the read; mostly `()`.
    type Scratch: Default + Send;

    /// Which messages have a meaning.
    const TAKES: Takes = Takes::Text;

    /// Reads a message, at most `max_frame_bytes` long.
    ///
    /// A message may hold several requests. A decoder that replaces `message` with a shorter rest is called again for the
    /// rest, until the rest is empty or the decoder returns `None`. The rest may be any part of the message, or a constant of the
    /// decoder's own. A decoder that leaves `message` alone, or replaces it with something as long or longer, is called once
    /// for each message.
    ///
    /// An `Err` refuses the request. If the error [is fatal](FrameError::is_fatal), the connection is closed.
    fn decode(
        &mut self,
        message: &mut ClientMessage<'_>,
        reading: &mut Reading<'_, Self::Scratch>,
    ) -> Option<Result<Command, FrameError>>;

    /// The first command of the connection, before any message and before the connection is opened: for a protocol that
    /// turns a client away in its own words ([`Command::Close`]), or that speaks first ([`Command::Answer`]). Called once. By
    /// default there is none.
    fn begin(&mut self) -> Option<Command> {
        None
    }

    /// The connection has been opened; see [`Decoder::opened`](crate::wire::Decoder::opened).
    fn opened(&mut self, session: &str, client: ClientId) {
        let _ = (session, client);
    }

    /// How much memory the decoder holds in addition to its own size, kept from the client's input.
    fn memory(&self) -> usize {
        0
    }
}

/// What a decoder is given with a message.
#[derive(Debug)]
pub struct Reading<'r, S = ()> {
    /// The limits on the client's requests.
    pub limits: &'r Limits,
    /// How many bytes of the same read follow the message.
    pub more: usize,
    /// The memory of this read.
    pub scratch: &'r mut S,
}
