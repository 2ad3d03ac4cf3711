//! The requests of clients, in terms shared by every wire format.
//!
//! A [`Decoder`](super::Decoder) makes [`Command`]s from bytes; the connection obeys. Some commands come from the
//! decoder alone: an answer it knows by itself, a change of codec, the end of a stream.

use std::fmt;

use bytes::Bytes;

use super::{FrameError, HistoryQuery, HttpRequest, Member, Publication, Since, TopicName};

/// The number of a request, chosen by the client and echoed in the answer; `None` if the request has none.
pub type RequestId = Option<u64>;

/// A request of a client, or a step of its connection.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Command {
    /// Opens the connection; the answer is [`ServerEvent::Opened`](super::ServerEvent::Opened) or
    /// [`ServerEvent::Refused`](super::ServerEvent::Refused). Codecs whose [`Codec::opens`](super::Codec::opens) is
    /// [`Opens::WhenAsked`](super::Opens::WhenAsked) give this command once, before everything else.
    Open(Box<Open>),
    /// A sign of life without an answer.
    Ping,
    /// The answer to a heartbeat of the server; see [`Codec::answers`](super::Codec::answers).
    Pong,
    /// Sends these bytes: an answer known to the decoder, such as the answer to a ping. The bytes take their place
    /// among the answers to other commands.
    Answer(Bytes),
    /// Sends these bytes before everything else, once each requested topic has been joined or refused.
    ///
    /// After these bytes the client takes the stream for open, and must not miss messages published from then on. Until
    /// then the client can still be refused with [`ServerEvent::Refused`](super::ServerEvent::Refused); afterwards this
    /// may be too late, because the head of a response has a status. The preface comes before [`Command::Open`], and
    /// [`Command::AllAsked`] must follow the last topic, or the stream never begins.
    Preface(Bytes),
    /// The client has asked for all its topics. If the client has none of them, the connection is closed with the
    /// reason. Only valid after a [`Command::Preface`].
    AllAsked,
    /// Subscribes to a topic.
    Subscribe {
        /// The topic.
        topic: TopicName,
        /// Begins there, if the topic still has the messages from there on.
        since: Option<Since>,
        /// How far the client has seen topics other than the topic of `since`; see
        /// [`NumberedMessage::horizon`](super::NumberedMessage::horizon). Counts if `since` belongs to a topic of the
        /// client's requests before [`Command::AllAsked`].
        horizon: Option<u64>,
        /// Whether the client watches the topic's presence: [`ServerEvent::Presence`](super::ServerEvent::Presence) after
        /// the answer, and then each change.
        presence: bool,
        /// The user as whom the client is a member of this topic, whatever the client's identity says: for a protocol whose
        /// decoder has checked who the client is in this topic. Held to the limits of
        /// [`Config::max_presence_member_bytes`](crate::Config::max_presence_member_bytes), as an identity is. `None` for the
        /// user of the identity. Without a meaning between a [`Preface`](Self::Preface) and [`AllAsked`](Self::AllAsked).
        member: Option<Box<Member>>,
        /// Request id, echoed in the answer.
        id: RequestId,
    },
    /// Asks for the presence of a topic to which the client may subscribe; the answer is
    /// [`ServerEvent::Presence`](super::ServerEvent::Presence).
    Presence {
        /// The topic.
        topic: TopicName,
        /// Request id, echoed in the answer.
        id: RequestId,
    },
    /// Asks for messages of a topic to which the client may subscribe, if the topic keeps history and lets clients read what
    /// was before them; the answer is [`ServerEvent::History`](super::ServerEvent::History). The server has limits of its own
    /// (`max_history_reply_messages`, `max_history_reply_bytes`).
    History {
        /// The topic.
        topic: TopicName,
        /// Which messages.
        query: HistoryQuery,
        /// Request id, echoed in the answer.
        id: RequestId,
    },
    /// Ends a subscription.
    Unsubscribe {
        /// The topic.
        topic: TopicName,
        /// Request id, echoed in the answer.
        id: RequestId,
    },
    /// Resumes an earlier session by the number of messages received. Only valid as the first command of a connection.
    Attach {
        /// The token of the session, as sent by the client.
        token: String,
        /// How many messages the client has received on each topic.
        received: Vec<(TopicName, u64)>,
    },
    /// Publishes and keeps the connection.
    Publish {
        /// The topic.
        topic: TopicName,
        /// The message.
        publication: Publication,
        /// Whether the client wants a receipt.
        ack: bool,
        /// Request id, echoed in the answer.
        id: RequestId,
    },
    /// Publishes and closes the connection. Later input from the client is ignored.
    PublishAndClose {
        /// The topic.
        topic: TopicName,
        /// The message.
        publication: Publication,
    },
    /// Asks whether a request may be carried out that shows its own right, on a connection that is never opened. The
    /// connection answers with [`Decoder::admit`](super::Decoder::admit), and continues to decode.
    Admit,
    /// Publishes by the right of a request that was [admitted](Self::Admit), and sends the receipt. Neither hooks nor the
    /// rates of clients apply. The next command is decoded after the answer to this one: HTTP has no numbers of requests,
    /// and its answers must be in order.
    Submit {
        /// The topic.
        topic: TopicName,
        /// The message.
        publication: Publication,
        /// Request id, echoed in the answer.
        id: RequestId,
        /// Whether the connection is closed after the answer.
        last: bool,
    },
    /// Proves the client's identity, in a format whose connections open before the client has sent anything. For a
    /// connection that is not open yet, because no hook serves it without a proof, as [`Command::Open`]; later, as a new
    /// proof. See [`Codec::refreshes`](super::Codec::refreshes).
    Authenticate {
        /// The client's proof, meaningful only to the embedder's hook.
        auth: Credentials,
    },
    /// Proves the client's identity anew, before the end of the earlier proof; the answer is
    /// [`ServerEvent::Refreshed`](super::ServerEvent::Refreshed), or an error that changes nothing.
    Refresh {
        /// The client's proof, meaningful only to the embedder's hook.
        auth: Credentials,
        /// Request id, echoed in the answer.
        id: RequestId,
    },
    /// Answers an impossible request with an error. The connection continues, because the start of the next frame is
    /// known.
    Refused(FrameError),
    /// The client wants to leave: sends these bytes, possibly none, and closes.
    Close(Bytes),
    /// Switches to another codec from the next byte on; [`Decoder::successor`](super::Decoder::successor) returns the
    /// codec. These bytes, possibly none, are sent before any output of the new codec.
    Become(Bytes),
    /// The stream is not meant for Janus: hands the stream over as a [`PassedOn`](crate::PassedOn), with all bytes
    /// received so far ([`Decoder::take_received`](super::Decoder::take_received) and the rest of the input).
    PassOn,
}

impl Command {
    /// Subscribes to a topic from now on.
    #[must_use]
    pub fn subscribe(topic: TopicName) -> Self {
        Self::Subscribe { topic, since: None, horizon: None, presence: false, member: None, id: None }
    }

    /// Subscribes to a topic from this position on, from its start, or from its last message.
    #[must_use]
    pub fn subscribe_since(topic: TopicName, since: impl Into<Since>) -> Self {
        Self::Subscribe { topic, since: Some(since.into()), horizon: None, presence: false, member: None, id: None }
    }

    /// Publishes this data, JSON text, with an empty event and message id and without a receipt.
    ///
    /// # Errors
    ///
    /// [`ErrorCode::BadPublish`](super::ErrorCode::BadPublish) if the data is not a single JSON value.
    pub fn publish(topic: TopicName, data: &str) -> Result<Self, FrameError> {
        let publication = Publication::new(&topic, "\"\"", "\"\"", data)?;
        Ok(Self::Publish { topic, publication, ack: false, id: None })
    }
}

/// A client's proof of identity. `Debug` does not show the text.
///
/// ```
/// use janus_core::wire::Credentials;
///
/// assert_eq!(format!("{:?}", Credentials("key of alice".to_owned())), "Credentials(…)");
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials(pub String);

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials(…)")
    }
}

/// How a client opens its connection. `Debug` shows neither the token of the session nor the credentials.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Open {
    /// The token of an earlier session, to be taken over by this connection.
    pub session: Option<String>,
    /// The client's credentials, meaningful only to the embedder's hook.
    pub auth: Option<String>,
    /// The HTTP request at the start of the connection, if there was one.
    pub request: Option<Box<HttpRequest>>,
    /// Request id, echoed in the answer.
    pub id: RequestId,
}

impl fmt::Debug for Open {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Open")
            .field("session", &self.session.as_ref().map(|_| "…"))
            .field("auth", &self.auth.as_ref().map(|_| "…"))
            .field("request", &self.request)
            .field("id", &self.id)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::ErrorCode;

    #[test]
    fn data_other_than_json_publishes_nothing() {
        let topic = || TopicName::new("news", 4).unwrap();
        assert!(matches!(Command::publish(topic(), "[1]"), Ok(Command::Publish { ack: false, id: None, .. })));
        let error = Command::publish(topic(), "[1").unwrap_err();
        assert_eq!(error.code, ErrorCode::BadPublish);
        assert!(error.message.starts_with("\"data\" must be one JSON value: "), "{error}");
    }
}
