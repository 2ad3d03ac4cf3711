//! Why a client is refused: one code for every reason, in every wire format.
//!
//! Codes are names and never change; clients match on codes. The text next to a code is for people and may change.
//! `docs/PROTOCOL.md` has the same table for authors of clients.

use std::fmt;
use std::str::Utf8Error;

use super::request::bad_utf8;
use super::{PositionError, PublicationError, SinceError, TopicNameError};

use super::TopicName;

/// A client's possible response to an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorClass {
    /// The request was fine and may succeed later, perhaps on a new connection.
    TryAgain,
    /// The request cannot succeed as sent; a repetition gets the same answer.
    DoNot,
    /// The client asks for more, or reads less, than its limits allow, and must change its pace before coming back.
    SlowDown,
}

macro_rules! error_codes {
    ($($(#[doc = $doc:literal])+ $variant:ident = $name:literal, $number:literal, $class:ident, $closes:literal;)+) => {
        /// The reason in an error frame.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum ErrorCode {
            $($(#[doc = $doc])+ $variant,)+
        }

        impl ErrorCode {
            /// Every code, in the order of the table in `docs/PROTOCOL.md`.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// The code as written in an error frame.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $name),+ }
            }

            /// The code as a number, as in the close frame of a WebSocket: 4000 to 4199 mean try again, 4200 to 4399
            /// slow down, 4400 to 4599 do not try again.
            #[must_use]
            pub const fn number(self) -> u16 {
                match self { $(Self::$variant => $number),+ }
            }

            /// The client's possible response.
            #[must_use]
            pub const fn class(self) -> ErrorClass {
                match self { $(Self::$variant => ErrorClass::$class),+ }
            }

            /// Whether the connection is closed after the error frame, whatever the client was doing. After a `PUBLISH`
            /// every error closes, because a `PUBLISH` itself closes.
            #[must_use]
            pub const fn closes(self) -> bool {
                match self { $(Self::$variant => $closes),+ }
            }
        }
    };
}

error_codes! {
    /// The topic crashed before the message had its place in the order. No subscriber has seen the message.
    TopicCrashed = "topic_crashed", 4000, TryAgain, false;
    /// The topic crashed too often and is refused for a while.
    TopicUnavailable = "topic_unavailable", 4001, TryAgain, false;
    /// The server is shutting down; a new connection may reach its successor.
    ServerDraining = "server_draining", 4002, TryAgain, true;
    /// The server has reached its limit of connections, or the limit of the client's address.
    TooManyConnections = "too_many_connections", 4003, TryAgain, true;
    /// The server has reached its limit of topics.
    TooManyTopicsOnServer = "too_many_topics_on_server", 4004, TryAgain, false;
    /// A fault of the server without a more precise code. The server's log says more.
    Internal = "internal", 4005, TryAgain, true;
    /// The authorization service did not answer in time, or failed.
    AuthorizationFailed = "authorization_failed", 4006, TryAgain, false;
    /// The server's operator has closed the connection; the client may come back.
    Disconnected = "disconnected", 4007, TryAgain, true;
    /// The connection was closed while the message waited to be published. No subscriber has seen the message.
    ConnectionClosed = "connection_closed", 4008, TryAgain, true;
    /// The frame was begun and not completed in time, as happens to clients with a stalled network.
    FrameTimeout = "frame_timeout", 4009, TryAgain, true;
    /// The client ended its stream in the middle of a frame. The frame had no effect.
    UnfinishedFrame = "unfinished_frame", 4010, TryAgain, true;
    /// The client, known to answer pings, has answered none for a while, as happens to hanging programs.
    PingTimeout = "ping_timeout", 4011, TryAgain, true;

    /// The cluster's engine cannot be reached or has refused the request. No subscriber gets the message.
    EngineUnavailable = "engine_unavailable", 4012, TryAgain, false;
    /// The cluster's engine has not answered in time: the message may be published or not.
    OutcomeUnknown = "outcome_unknown", 4013, TryAgain, false;

    /// The frame is not JSON by RFC 8259.
    BadJson = "bad_json", 4400, DoNot, true;
    /// The frame is not UTF-8.
    BadUtf8 = "bad_utf8", 4401, DoNot, true;
    /// The frame is longer than the server's limit.
    FrameTooLarge = "frame_too_large", 4402, DoNot, true;
    /// The frame breaks the rules of the underlying protocol.
    BadFrame = "bad_frame", 4403, DoNot, true;
    /// The frame is of a kind unused by this format, such as a binary message of a WebSocket.
    UnsupportedFrame = "unsupported_frame", 4404, DoNot, true;
    /// The frame is JSON, but its request is unknown to this server.
    UnknownAction = "unknown_action", 4405, DoNot, false;
    /// A key with a meaning is a duplicate, so that the client's intent would be a guess.
    DuplicateKey = "duplicate_key", 4406, DoNot, false;
    /// The topic is missing, is not a string, or its name is not allowed.
    BadTopic = "bad_topic", 4407, DoNot, false;
    /// The publication is not an object, or its `ack` is neither `true` nor `false`.
    BadPublish = "bad_publish", 4408, DoNot, false;
    /// The attach has no token or no counts, or is not the first frame of its connection.
    BadAttach = "bad_attach", 4409, DoNot, false;
    /// Another connection has taken over this connection's session, or holds the session and was opened later.
    SessionTaken = "session_taken", 4410, DoNot, true;
    /// This listener does not let clients publish.
    PublishNotAllowed = "publish_not_allowed", 4411, DoNot, false;
    /// The connection did not begin with an opening frame, or the opening frame is malformed.
    BadOpen = "bad_open", 4412, DoNot, true;
    /// The client has not shown a right to be served.
    Unauthorized = "unauthorized", 4413, DoNot, true;
    /// The client may not subscribe to this topic, or publish to it.
    Forbidden = "forbidden", 4414, DoNot, false;
    /// The client is subscribed to the topic already.
    AlreadySubscribed = "already_subscribed", 4415, DoNot, false;
    /// The number of the request, or the position to resume from, is malformed.
    BadRequest = "bad_request", 4416, DoNot, false;
    /// The server's operator has closed the connection and does not want the client back.
    Banned = "banned", 4417, DoNot, true;
    /// The client's proof of identity has ended. The client may come back with a new proof, and not with the same.
    TokenExpired = "token_expired", 4418, DoNot, true;
    /// A newer connection of the same user has taken the place of this connection.
    ConnectionReplaced = "connection_replaced", 4419, DoNot, true;

    /// The frame is not a frame in CBOR.
    BadCbor = "bad_cbor", 4420, DoNot, true;

    /// The topic's namespace has no presence.
    NoPresence = "no_presence", 4421, DoNot, false;

    /// The topic's namespace keeps no history, or none for clients.
    NoHistory = "no_history", 4422, DoNot, false;

    /// The client has reached its limit of subscriptions.
    TooManyTopics = "too_many_topics", 4200, SlowDown, false;
    /// The server is short of memory: no further connections are accepted for now, or this connection was closed
    /// because it held memory without having asked for anything.
    ServerOverloaded = "server_overloaded", 4201, SlowDown, true;
    /// The client reads more slowly than its topics publish. The connection may be reset before the client can read
    /// this.
    SlowConsumer = "slow_consumer", 4202, SlowDown, true;
    /// The client has sent faster than its limits allow, for longer than the server waits.
    RateLimited = "rate_limited", 4203, SlowDown, true;
}

impl ErrorCode {
    /// The matching status of an HTTP response.
    #[must_use]
    pub const fn http_status(self) -> u16 {
        match self {
            Self::Unauthorized | Self::TokenExpired => 401,
            Self::PublishNotAllowed | Self::Forbidden | Self::Banned => 403,
            Self::NoPresence | Self::NoHistory => 404,
            Self::FrameTimeout => 408,
            Self::SessionTaken | Self::AlreadySubscribed | Self::ConnectionReplaced => 409,
            Self::FrameTooLarge => 413,
            Self::UnsupportedFrame => 415,
            Self::RateLimited => 429,
            Self::BadJson
            | Self::BadCbor
            | Self::BadUtf8
            | Self::UnfinishedFrame
            | Self::UnknownAction
            | Self::DuplicateKey
            | Self::BadTopic
            | Self::BadPublish
            | Self::BadAttach
            | Self::BadOpen
            | Self::BadRequest
            | Self::BadFrame
            // An HTTP request names all its topics at once: this single request asks for too much.
            | Self::TooManyTopics => 400,
            Self::Internal => 500,
            Self::TopicCrashed
            | Self::TopicUnavailable
            | Self::ServerDraining
            | Self::TooManyConnections
            | Self::TooManyTopicsOnServer
            | Self::AuthorizationFailed
            | Self::Disconnected
            | Self::ConnectionClosed
            | Self::PingTimeout
            | Self::EngineUnavailable
            | Self::ServerOverloaded
            | Self::SlowConsumer => 503,
            Self::OutcomeUnknown => 504,
        }
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A refused frame; its sender is to blame.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {message}")]
pub struct FrameError {
    /// The reason.
    pub code: ErrorCode,
    /// What the client should do, for people. Contains nothing sent by the client except the name of a topic.
    pub message: String,
    /// The number of the refused request, if the request had a number.
    pub id: Option<u64>,
    /// The topic of the request, if known.
    pub topic: Option<TopicName>,
    fatal: bool,
}

impl FrameError {
    /// An error that closes the connection if its code does.
    #[must_use]
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), id: None, topic: None, fatal: code.closes() }
    }

    /// The same error, but the connection closes in any case.
    #[must_use]
    pub fn into_fatal(self) -> Self {
        Self { fatal: true, ..self }
    }

    /// The same error, but the connection stays open: the position of the next request is known all the same.
    #[must_use]
    pub(super) fn into_harmless(self) -> Self {
        Self { fatal: false, ..self }
    }

    /// The same error as the answer to a request with this number.
    #[must_use]
    pub fn with_id(self, id: Option<u64>) -> Self {
        Self { id, ..self }
    }

    /// The same error as the answer to a request about this topic.
    #[must_use]
    pub fn with_topic(self, topic: &TopicName) -> Self {
        Self { topic: Some(topic.clone()), ..self }
    }

    /// Whether the connection must be closed after the error frame.
    #[must_use]
    pub fn is_fatal(&self) -> bool {
        self.fatal
    }
}

/// An error found by a decoder, as the answer to the client. The client is to blame.
impl From<Utf8Error> for FrameError {
    fn from(error: Utf8Error) -> Self {
        bad_utf8(error.valid_up_to())
    }
}

impl From<TopicNameError> for FrameError {
    fn from(error: TopicNameError) -> Self {
        Self::new(ErrorCode::BadTopic, error.to_string())
    }
}

impl From<PositionError> for FrameError {
    fn from(error: PositionError) -> Self {
        Self::new(ErrorCode::BadRequest, error.to_string())
    }
}

impl From<SinceError> for FrameError {
    fn from(error: SinceError) -> Self {
        Self::new(ErrorCode::BadRequest, error.to_string())
    }
}

impl From<PublicationError> for FrameError {
    fn from(error: PublicationError) -> Self {
        Self::new(ErrorCode::BadPublish, format!("{error}: {}", error.source))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_is_one_word_of_lower_case_letters_and_underscores() {
        for (index, code) in ErrorCode::ALL.iter().enumerate() {
            assert!(
                code.as_str().bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_' || byte == b'8'),
                "{code}"
            );
            assert!(ErrorCode::ALL[..index].iter().all(|other| other.as_str() != code.as_str()), "{code} stands twice");
        }
    }

    #[test]
    fn the_number_of_a_code_tells_its_class_and_is_its_own() {
        for (index, code) in ErrorCode::ALL.iter().enumerate() {
            let class = match code.number() {
                4000..4200 => ErrorClass::TryAgain,
                4200..4400 => ErrorClass::SlowDown,
                4400..4600 => ErrorClass::DoNot,
                number => panic!("{code} has the number {number}"),
            };
            assert_eq!(code.class(), class, "{code}");
            assert!(ErrorCode::ALL[..index].iter().all(|other| other.number() != code.number()), "{code}");
        }
    }

    #[test]
    fn no_error_of_the_network_keeps_a_client_away_for_good() {
        for code in [ErrorCode::FrameTimeout, ErrorCode::UnfinishedFrame, ErrorCode::PingTimeout] {
            assert_eq!(code.class(), ErrorClass::TryAgain, "{code}");
        }
    }

    #[test]
    fn the_numbers_of_a_class_have_no_holes() {
        for first in [4000, 4200, 4400] {
            let numbers = ErrorCode::ALL.iter().map(|code| code.number()).filter(|n| (first..first + 200).contains(n));
            assert!(numbers.enumerate().all(|(index, number)| usize::from(number - first) == index), "from {first}");
        }
    }

    #[test]
    fn http_statuses_and_classes_agree_on_the_side_to_blame() {
        for code in ErrorCode::ALL {
            let clients_turn = (400..500).contains(&code.http_status());
            // For incomplete input HTTP has 408 and 400, about this request and not about the next, and for haste 429.
            let expected = match code {
                ErrorCode::TooManyTopics
                | ErrorCode::FrameTimeout
                | ErrorCode::UnfinishedFrame
                | ErrorCode::RateLimited => true,
                code => code.class() == ErrorClass::DoNot,
            };
            assert_eq!(clients_turn, expected, "{code} is a {}", code.http_status());
        }
    }

    #[test]
    fn the_protocol_document_lists_every_code_with_its_class_and_ending() {
        let document = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/PROTOCOL.md")).unwrap();
        for code in ErrorCode::ALL {
            let class = match code.class() {
                ErrorClass::TryAgain => "try again",
                ErrorClass::DoNot => "do not",
                ErrorClass::SlowDown => "slow down",
            };
            let row =
                format!("| `{code}` | {} | {class} | {} |", code.number(), if code.closes() { "yes" } else { "no" });
            assert!(document.contains(&row), "no row starts with {row}");
        }
    }
}
