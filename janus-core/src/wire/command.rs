//! What a client may say, in every wire format.

use bytes::Bytes;

use super::{FrameError, HttpRequest, Position, Publication, TopicName};

/// The number that a client gave a request, to know the answer by; `None` if it gave none.
pub type RequestId = Option<u64>;

/// One thing that a client said.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Command {
    /// Serve me. Meant once, before everything else, by the codecs whose [`Codec::opens`](super::Codec::opens) is
    /// [`Opens::WhenAsked`](super::Opens::WhenAsked); the answer is [`Event::Opened`](super::Event::Opened) or [`Event::Refused`](super::Event::Refused).
    Open(Box<Open>),
    /// A sign of life that wants no answer.
    Ping,
    /// An answer to our own heartbeat; see [`Codec::answers`](super::Codec::answers).
    Pong,
    /// Send these bytes: an answer that the decoder knows by itself, such as the one to a ping. It takes its place among
    /// the answers to other commands.
    Answer(Bytes),
    /// Send these bytes before everything else, and not before each topic that the client asks for has been joined or
    /// refused: behind these bytes the client takes the stream for open, and must not miss what is published from then on.
    /// Until then the client may still be refused with [`Event::Refused`](super::Event::Refused), for which it may be too late behind these
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
        /// What the client has seen of topics other than that position's: see [`Message::horizon`](super::Message::horizon). It counts if the
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
    /// The connection speaks another codec from the next byte on: [`Decoder::successor`](super::Decoder::successor) says which. These bytes, which
    /// may be none, are sent before anything of that codec.
    Become(Bytes),
    /// This stream is none of Janus's: hand it to whoever takes what a listener passes on, with all bytes that were
    /// received on it ([`Decoder::take_received`](super::Decoder::take_received) and what follows in the input).
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
    /// [`ErrorCode::BadPublish`](super::ErrorCode::BadPublish) if the data is not one JSON value.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::ErrorCode;

    #[test]
    fn data_that_is_no_json_publishes_nothing() {
        let topic = || TopicName::new("news", 4).unwrap();
        assert!(matches!(Command::publish(topic(), "[1]"), Ok(Command::Publish { ack: false, id: None, .. })));
        let error = Command::publish(topic(), "[1").unwrap_err();
        assert_eq!(error.code, ErrorCode::BadPublish);
        assert!(error.message.starts_with("the data of a publication must be one JSON value: "), "{error}");
    }
}
