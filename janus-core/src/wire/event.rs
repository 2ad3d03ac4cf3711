//! What a client is told, in every wire format.

use std::time::Duration;

use super::{ErrorCode, Limits, Position, RequestId, Timestamp, TopicName};

/// What a client is told.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// It is served.
    Opened {
        /// What names its session, for [`Open::session`](super::Open::session) or an attach.
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
    /// These messages of a topic do not come. Only for codecs that [tell gaps](super::Codec::tells_gaps).
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
    /// (in [`Command::Subscribe`](super::Command::Subscribe)) goes on with the others from there; `None` where nothing is known.
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
