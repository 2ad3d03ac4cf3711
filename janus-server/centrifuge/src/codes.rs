//! What Centrifugo calls each error and each close of Janus.
//!
//! Clients of Centrifugo decide by numbers: an error of a reply is repeated if it is `temporary`, a close below 3500, or from 4000
//! to 4499, is followed by another attempt, and any other close is final. A close without a number of Centrifugo's own keeps the
//! number of Janus, from 4000 to 4299, whose meaning is the same: try again.

use janus_core::wire::ErrorCode;

/// The codes of Centrifugo for one code of Janus.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Codes {
    /// The code of Janus.
    pub janus: ErrorCode,
    /// The code of the error in a reply.
    pub error: u16,
    /// Whether a client may repeat the command.
    pub temporary: bool,
    /// The code of a close.
    pub close: u16,
    /// The reason of a close.
    pub reason: &'static str,
}

/// A channel that a client may not use.
pub(crate) const PERMISSION_DENIED: u16 = 103;
/// A command without a meaning here, such as `rpc`.
pub(crate) const METHOD_NOT_FOUND: u16 = 104;
/// A command that this server does not carry out.
pub(crate) const NOT_AVAILABLE: u16 = 108;
/// More than a limit allows.
pub(crate) const LIMIT_EXCEEDED: u16 = 106;
/// A malformed command of a backend.
pub(crate) const BAD_REQUEST: u16 = 107;
/// A token that has expired.
pub(crate) const TOKEN_EXPIRED: u16 = 109;
/// A position from which messages are gone.
pub(crate) const UNRECOVERABLE: u16 = 112;
/// The end of a subscription by the server.
pub(crate) const UNSUBSCRIBED: u16 = 2000;

/// The close frame of RFC 6455 for messages that are too long.
const TOO_BIG: u16 = 1009;

const INTERNAL: (u16, bool) = (100, true);
pub(crate) const SERVER_ERROR: (u16, &str) = (3004, "internal server error");
const BAD: (u16, bool) = (BAD_REQUEST, false);
const MALFORMED: (u16, &str) = (3501, "bad request");
/// For a client of the Protobuf protocol. Such a client comes back after each close of RFC 6455 but 1009, to the same answer.
pub(crate) const JSON_ALONE: (u16, &str) = (3501, "only the JSON protocol is served: send text messages");

macro_rules! table {
    ($($janus:ident: $error:expr, $close:expr;)+) => {
        &[$(Codes {
            janus: ErrorCode::$janus,
            error: $error.0,
            temporary: $error.1,
            close: $close.0,
            reason: $close.1,
        },)+]
    };
}

/// A row for each code, in the order of [`ErrorCode::ALL`].
pub const TABLE: &[Codes] = table! {
    TopicCrashed: INTERNAL, SERVER_ERROR;
    TopicUnavailable: INTERNAL, SERVER_ERROR;
    ServerDraining: INTERNAL, (3001, "shutdown");
    TooManyConnections: (LIMIT_EXCEEDED, true), (4003, "too many connections");
    TooManyTopicsOnServer: (LIMIT_EXCEEDED, true), SERVER_ERROR;
    Internal: INTERNAL, SERVER_ERROR;
    AuthorizationFailed: INTERNAL, SERVER_ERROR;
    Disconnected: INTERNAL, (3011, "force reconnect");
    ConnectionClosed: INTERNAL, (3000, "connection closed");
    FrameTimeout: INTERNAL, (4009, "frame timeout");
    UnfinishedFrame: INTERNAL, (4010, "unfinished frame");
    PingTimeout: INTERNAL, (3012, "no pong");
    EngineUnavailable: INTERNAL, SERVER_ERROR;
    OutcomeUnknown: INTERNAL, SERVER_ERROR;
    BadJson: BAD, MALFORMED;
    BadUtf8: BAD, (1007, "invalid UTF-8");
    FrameTooLarge: BAD, (TOO_BIG, "message too large");
    BadFrame: BAD, (1002, "protocol error");
    UnsupportedFrame: BAD, JSON_ALONE;
    UnknownAction: (METHOD_NOT_FOUND, false), MALFORMED;
    DuplicateKey: BAD, MALFORMED;
    BadTopic: BAD, MALFORMED;
    BadPublish: BAD, MALFORMED;
    BadAttach: BAD, MALFORMED;
    SessionTaken: (101, false), (3503, "force disconnect");
    PublishNotAllowed: (103, false), (3503, "force disconnect");
    BadOpen: BAD, MALFORMED;
    Unauthorized: (101, false), (3500, "invalid token");
    Forbidden: (103, false), (3503, "force disconnect");
    AlreadySubscribed: (105, false), MALFORMED;
    BadRequest: BAD, MALFORMED;
    Banned: (101, false), (3503, "force disconnect");
    TokenExpired: (TOKEN_EXPIRED, false), (3005, "connection expired");
    ConnectionReplaced: (101, false), (3504, "connection limit");
    BadCbor: BAD, MALFORMED;
    NoPresence: (NOT_AVAILABLE, false), MALFORMED;
    NoHistory: (NOT_AVAILABLE, false), MALFORMED;
    TooManyTopics: (LIMIT_EXCEEDED, false), (3505, "channel limit");
    ServerOverloaded: INTERNAL, (4201, "server overloaded");
    SlowConsumer: INTERNAL, (3008, "slow");
    RateLimited: (111, true), (4203, "rate limited");
};

impl Codes {
    /// The codes for this code of Janus. A code of a later Janus is an internal error.
    ///
    /// ```
    /// use janus_centrifuge::codes::Codes;
    /// use janus_core::wire::ErrorCode;
    ///
    /// let codes = Codes::of(ErrorCode::ServerDraining);
    /// assert_eq!((codes.close, codes.reason), (3001, "shutdown"));
    /// ```
    #[must_use]
    pub fn of(code: ErrorCode) -> Self {
        let row = TABLE.iter().find(|row| row.janus == code).copied();
        row.unwrap_or(Self { janus: code, error: 100, temporary: true, close: 3004, reason: "internal server error" })
    }

    /// Whether a client that is closed with this code tries again.
    #[must_use]
    pub const fn reconnects(&self) -> bool {
        !matches!(self.close, TOO_BIG | 3500..4000 | 4500..5000)
    }
}

#[cfg(test)]
mod tests {
    use janus_core::wire::ErrorClass;

    use super::*;

    #[test]
    fn each_code_of_janus_has_a_row() {
        let rows: Vec<_> = TABLE.iter().map(|row| row.janus).collect();
        let mut missing = ErrorCode::ALL.to_vec();
        missing.retain(|code| !rows.contains(code));
        assert!(missing.is_empty(), "{missing:?}");
        assert_eq!(rows.len(), ErrorCode::ALL.len(), "a row twice");
    }

    #[test]
    fn a_client_comes_back_where_janus_says_so() {
        // Closes by RFC 6455 are clients' bugs; clients of Centrifugo try again after all of them but 1009. An expired token is
        // renewed, which needs another attempt.
        let exceptions = [ErrorCode::BadUtf8, ErrorCode::BadFrame, ErrorCode::TokenExpired];
        for row in TABLE.iter().filter(|row| row.janus.closes() && !exceptions.contains(&row.janus)) {
            assert_eq!(row.reconnects(), row.janus.class() != ErrorClass::DoNot, "{}", row.janus);
        }
    }

    #[test]
    fn an_error_that_repetition_cannot_mend_is_not_temporary() {
        for row in TABLE.iter().filter(|row| row.janus.class() == ErrorClass::DoNot) {
            assert!(!row.temporary, "{}", row.janus);
        }
        for row in TABLE.iter().filter(|row| row.janus.class() == ErrorClass::TryAgain) {
            assert!(row.temporary, "{}", row.janus);
        }
    }

    #[test]
    fn the_document_has_the_same_table() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/CENTRIFUGE.md");
        let document = std::fs::read_to_string(path).expect("the document is in the repository");
        for row in TABLE {
            let Codes { janus, error, temporary, close, reason } = row;
            let temporary = if *temporary { ", temporary" } else { "" };
            let line = format!("| `{janus}` | {error}{temporary} | {close} `{reason}` |");
            assert!(document.contains(&line), "docs/CENTRIFUGE.md lacks: {line}");
        }
    }
}
