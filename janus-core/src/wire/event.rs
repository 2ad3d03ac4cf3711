//! The server's side of a conversation, in terms shared by every wire format.
//!
//! A [`Codec`](super::Codec) encodes [`ServerEvent`]s to bytes. Messages are encoded once for all subscribers; every
//! other event is for a single client.

use std::time::Duration;

use super::{Base64, ClientId, Epoch, ErrorCode, Limits, Member, Position, RequestId, Since, Timestamp, TopicName};

/// An answer to a client, or news for a client.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum ServerEvent<'a> {
    /// The connection is open and the client is served.
    Opened {
        /// The request, if there was one and if it had a number.
        id: RequestId,
        /// The public name of the connection.
        client: ClientId,
        /// The token of the session, a secret, for [`Open::session`](super::Open::session) or an attach.
        session: &'a str,
        /// Whether this is the session of the client's request.
        resumed: bool,
        /// The limits on the client's frames and subscriptions.
        limits: &'a Limits,
        /// How long the server stays silent before a heartbeat.
        heartbeat: Duration,
        /// The time until the end of the client's identity, if it ends.
        expires: Option<Duration>,
    },
    /// The answer to [`Command::Refresh`](super::Command::Refresh), and to
    /// [`Command::Authenticate`](super::Command::Authenticate) on an open connection.
    Refreshed {
        /// The request.
        id: RequestId,
        /// The time until the end of the client's identity, if it ends.
        expires: Option<Duration>,
    },
    /// The client is not served; the stream ends after this.
    Refused(Refusal<'a>),
    /// The topic is delivered to the client from now on.
    Subscribed {
        /// The request.
        id: RequestId,
        /// The topic.
        topic: &'a TopicName,
        /// Delivery begins after this position: the requested position if the topic resumes, otherwise the topic's
        /// latest.
        position: Position,
        /// The last message received by the client across its topics, if the client resumes after this message. A
        /// client that loses this connection before its next message comes back with `last`, and not with `position`.
        last: Option<Position>,
        /// Tells of the client's other topics, for `last` or else `position`, as [`NumberedMessage::horizon`] does.
        horizon: Option<u64>,
        /// Where the client asked to begin.
        since: Option<Since>,
        /// How many messages were published since that position, all of which follow; `None` if the topic does not
        /// resume.
        missed: Option<u64>,
        /// How many of the first of these messages the client may already have.
        repeated: u64,
    },
    /// The topic is delivered to the client from now on, without a request of the client: the client's identity names the
    /// topic.
    Assigned {
        /// The topic.
        topic: &'a TopicName,
        /// Delivery begins after this position, the topic's latest.
        position: Position,
    },
    /// The client is subscribed to the topic already; nothing has changed.
    AlreadySubscribed {
        /// The request.
        id: RequestId,
        /// The topic.
        topic: &'a TopicName,
    },
    /// The topic is no longer delivered to the client, or was not before either.
    Unsubscribed {
        /// The request.
        id: RequestId,
        /// The topic.
        topic: &'a TopicName,
    },
    /// The receipt of a publication.
    Published {
        /// The request.
        id: RequestId,
        /// The topic of the message.
        topic: &'a TopicName,
        /// The message's place in the topic's order; both numbers are 0 if the topic does not exist: without
        /// subscribers and history, no number was needed.
        position: Position,
        /// How many subscribers the topic had at that moment.
        subscribers: usize,
        /// Whether a message with the same [key](super::IdempotencyKey) was published before, and has this position.
        again: bool,
    },
    /// The answer to an attach.
    Attached {
        /// For each topic, how many messages the client has missed, all of which follow; `None` if the topic continues
        /// without the missed messages.
        topics: &'a [(TopicName, Option<u64>)],
        /// The token of the session from now on.
        session: &'a str,
    },
    /// A published message.
    Message(NumberedMessage<'a>),
    /// Messages of a topic lost to the client. Only for codecs that [tell gaps](super::Codec::tells_gaps).
    Gap {
        /// The topic.
        topic: &'a TopicName,
        /// The topic's current epoch.
        epoch: Epoch,
        /// The number of the first lost message.
        from: u64,
        /// The number of the last lost message.
        to: u64,
    },
    /// The state of a topic's presence: the answer to [`Command::Presence`](super::Command::Presence), the beginning for a
    /// client that [watches](super::Command::Subscribe::presence), and a new beginning where events were left out.
    Presence {
        /// The request; `None` for a client that watches.
        id: RequestId,
        /// The topic.
        topic: &'a TopicName,
        /// The number of members: users, and connections without a user.
        count: usize,
        /// The users by name. `None` if the topic is counted and not listed.
        members: Option<&'a [Member]>,
    },
    /// Users have subscribed to a topic, or have another info than before. For clients that watch the topic.
    Joined {
        /// The topic.
        topic: &'a TopicName,
        /// The number of members from now on.
        count: usize,
        /// These users; none if the number alone has changed.
        members: &'a [Member],
    },
    /// Users have no connection with the topic any more. For clients that watch the topic.
    Left {
        /// The topic.
        topic: &'a TopicName,
        /// The number of members from now on.
        count: usize,
        /// These users.
        members: &'a [Member],
    },
    /// The answer to [`Command::History`](super::Command::History).
    History {
        /// The request.
        id: RequestId,
        /// The topic.
        topic: &'a TopicName,
        /// The end of these messages; with the newest first, the place before which the next part begins. The number is 0 if the
        /// topic does not exist.
        position: Position,
        /// The number of the topic's latest message.
        top: u64,
        /// Whether nothing is missing between the place asked for and the first of these messages.
        complete: bool,
        /// Whether a limit has cut further messages off.
        more: bool,
        /// In the order of their numbers, or the newest first.
        messages: &'a [NumberedMessage<'a>],
    },
    /// A request was refused; the connection continues.
    Error {
        /// The request, if it is known and had a number.
        id: RequestId,
        /// The topic of the request, if known.
        topic: Option<&'a TopicName>,
        /// The reason, for programs.
        code: ErrorCode,
        /// The reason, for people.
        message: &'a str,
    },
    /// The server closes the connection after this.
    Bye(Refusal<'a>),
}

/// Why a client is not served, or no longer served.
#[derive(Clone, Copy, Debug)]
pub struct Refusal<'a> {
    /// The request at fault, if any, and if it had a number.
    pub id: RequestId,
    /// The reason, for programs.
    pub code: ErrorCode,
    /// The reason, for people.
    pub message: &'a str,
    /// When the client may come back; `None` if the client had better stay away.
    pub reconnect_after: Option<Duration>,
    /// The status of an HTTP response, if another than the code's own: a limit of the client's address is the client's
    /// doing (429), and the same limit for all clients together is not (503).
    pub status: Option<u16>,
}

/// A published message with its place in the topic's order, as given to [`Codec::encode`](super::Codec::encode).
#[derive(Clone, Copy, Debug)]
pub struct NumberedMessage<'a> {
    /// The topic.
    pub topic: &'a TopicName,
    /// The topic as a JSON string.
    pub topic_json: &'a str,
    /// The message's place in the topic's order.
    pub position: Position,
    /// How far this server had come with the client's other topics: everything handed out up to here was written to
    /// each subscriber before this message. A client that gives the horizon back with the message's position (in
    /// [`Command::Subscribe`](super::Command::Subscribe)) resumes its other topics from there. `None` if unknown.
    ///
    /// A rising number without a unit, meaningless to another server, or to the same server after a restart.
    pub horizon: Option<u64>,
    /// When the message was numbered.
    pub timestamp: Timestamp,
    /// The event, as JSON text.
    pub event: &'a str,
    /// The message's identifier, as JSON text.
    pub message_id: &'a str,
    /// The data, as JSON text; `null` if the payload is bytes.
    pub data: &'a str,
    /// The payload, if it is bytes. A format of JSON tells its clients `data_base64` in place of `data`; a binary format
    /// [puts](Base64::put) the bytes as they are.
    pub base64: Option<Base64<'a>>,
}
