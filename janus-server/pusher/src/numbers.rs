//! The numbers of Pusher for every error code of Janus.
//!
//! The two sets of numbers contradict each other: with Janus 4000 to 4199 mean "try again" and 4400 to 4599 "do not"; with
//! Pusher 4000 to 4099 mean "do not", 4100 to 4199 "again after a pause", and 4200 to 4299 "again at once". So no number of
//! Janus ever goes to a client of Pusher.

use janus_core::wire::ErrorCode;

/// A number of Pusher, as in `pusher:error` and in the close frame.
pub type Number = u16;

/// The key of the application is unknown.
pub(crate) const NO_APP: Number = 4001;
/// The address names a version of the protocol that is no number.
pub(crate) const BAD_VERSION: Number = 4006;
/// The address names another version of the protocol.
pub(crate) const OTHER_VERSION: Number = 4007;
/// The address names no version of the protocol.
pub(crate) const NO_VERSION: Number = 4008;
/// The client has no right.
pub(crate) const UNAUTHORIZED: Number = 4009;
/// A message that no client may send; Pusher itself has no number for it.
pub(crate) const BAD_MESSAGE: Number = 4010;
/// The server has no room; again after a pause.
pub(crate) const OVER_CAPACITY: Number = 4100;
/// Again at once.
pub(crate) const RECONNECT: Number = 4200;
/// The client has answered no ping.
pub(crate) const NO_PONG: Number = 4201;
/// A client event was refused. The connection continues.
pub(crate) const CLIENT_EVENT: Number = 4301;

/// Each code with its number. Codes that refuse a request, and leave the connection open, have the number that closes a
/// connection with the same class, because a client may be closed with any code.
const TABLE: &[(ErrorCode, Number)] = &[
    (ErrorCode::TopicCrashed, OVER_CAPACITY),
    (ErrorCode::TopicUnavailable, OVER_CAPACITY),
    (ErrorCode::ServerDraining, RECONNECT),
    (ErrorCode::TooManyConnections, OVER_CAPACITY),
    (ErrorCode::TooManyTopicsOnServer, OVER_CAPACITY),
    (ErrorCode::Internal, OVER_CAPACITY),
    (ErrorCode::AuthorizationFailed, OVER_CAPACITY),
    (ErrorCode::Disconnected, RECONNECT),
    (ErrorCode::ConnectionClosed, RECONNECT),
    (ErrorCode::FrameTimeout, RECONNECT),
    (ErrorCode::UnfinishedFrame, RECONNECT),
    (ErrorCode::PingTimeout, NO_PONG),
    (ErrorCode::EngineUnavailable, OVER_CAPACITY),
    (ErrorCode::OutcomeUnknown, OVER_CAPACITY),
    (ErrorCode::BadJson, BAD_MESSAGE),
    (ErrorCode::BadUtf8, BAD_MESSAGE),
    (ErrorCode::FrameTooLarge, BAD_MESSAGE),
    (ErrorCode::BadFrame, BAD_MESSAGE),
    (ErrorCode::UnsupportedFrame, BAD_MESSAGE),
    (ErrorCode::UnknownAction, BAD_MESSAGE),
    (ErrorCode::DuplicateKey, BAD_MESSAGE),
    (ErrorCode::BadTopic, BAD_MESSAGE),
    (ErrorCode::BadPublish, BAD_MESSAGE),
    (ErrorCode::BadAttach, BAD_MESSAGE),
    (ErrorCode::SessionTaken, UNAUTHORIZED),
    (ErrorCode::PublishNotAllowed, UNAUTHORIZED),
    (ErrorCode::BadOpen, BAD_MESSAGE),
    (ErrorCode::Unauthorized, UNAUTHORIZED),
    (ErrorCode::Forbidden, UNAUTHORIZED),
    (ErrorCode::AlreadySubscribed, BAD_MESSAGE),
    (ErrorCode::BadRequest, BAD_MESSAGE),
    (ErrorCode::Banned, UNAUTHORIZED),
    (ErrorCode::TokenExpired, UNAUTHORIZED),
    (ErrorCode::ConnectionReplaced, UNAUTHORIZED),
    (ErrorCode::BadCbor, BAD_MESSAGE),
    (ErrorCode::NoPresence, BAD_MESSAGE),
    (ErrorCode::NoHistory, BAD_MESSAGE),
    (ErrorCode::TooManyTopics, OVER_CAPACITY),
    (ErrorCode::ServerOverloaded, OVER_CAPACITY),
    (ErrorCode::SlowConsumer, OVER_CAPACITY),
    (ErrorCode::RateLimited, OVER_CAPACITY),
];

/// The number of Pusher for an error code of Janus.
///
/// ```
/// use janus_core::wire::ErrorCode;
///
/// assert_eq!(janus_pusher::number(ErrorCode::ServerDraining), 4200, "come back at once");
/// assert_eq!(janus_pusher::number(ErrorCode::Banned), 4009, "stay away");
/// ```
#[must_use]
pub fn number(code: ErrorCode) -> Number {
    TABLE.iter().find(|(other, _)| *other == code).map_or(OVER_CAPACITY, |(_, number)| *number)
}

/// The type of a `pusher:subscription_error` for an error code of Janus: who can mend what. Pusher itself has AuthError alone.
pub(crate) fn subscription_error(code: ErrorCode) -> &'static str {
    match code {
        ErrorCode::Unauthorized | ErrorCode::Forbidden | ErrorCode::Banned | ErrorCode::TokenExpired => AUTH_ERROR,
        ErrorCode::NoPresence | ErrorCode::NoHistory => "NotConfigured",
        ErrorCode::TooManyTopics
        | ErrorCode::TooManyTopicsOnServer
        | ErrorCode::ServerOverloaded
        | ErrorCode::RateLimited => "LimitReached",
        _ if code.http_status() < 500 => BAD_REQUEST,
        _ => "ServerError",
    }
}

/// The application has not signed for the subscription.
pub(crate) const AUTH_ERROR: &str = "AuthError";

/// No client may ask so.
pub(crate) const BAD_REQUEST: &str = "BadRequest";

#[cfg(test)]
mod tests {
    use janus_core::wire::ErrorClass;

    use super::*;

    #[test]
    fn every_code_has_one_number_of_the_class_of_the_code() {
        for code in ErrorCode::ALL {
            let numbers: Vec<_> = TABLE.iter().filter(|(other, _)| other == code).map(|(_, number)| *number).collect();
            let [number] = numbers[..] else { panic!("{code} has the numbers {numbers:?}") };
            match code.class() {
                ErrorClass::DoNot => assert!((4001..4100).contains(&number), "{code}: {number}"),
                ErrorClass::TryAgain => assert!((4100..4300).contains(&number), "{code}: {number}"),
                ErrorClass::SlowDown => assert!((4100..4200).contains(&number), "{code}: {number}"),
            }
        }
        assert_eq!(TABLE.len(), ErrorCode::ALL.len());
    }

    #[test]
    fn a_refused_subscription_has_a_type_that_says_who_can_mend_it() {
        for (code, kind) in [
            (ErrorCode::TooManyTopics, "LimitReached"),
            (ErrorCode::TooManyTopicsOnServer, "LimitReached"),
            (ErrorCode::NoPresence, "NotConfigured"),
            (ErrorCode::BadTopic, "BadRequest"),
            (ErrorCode::Forbidden, "AuthError"),
            (ErrorCode::TopicUnavailable, "ServerError"),
            (ErrorCode::Internal, "ServerError"),
        ] {
            assert_eq!(subscription_error(code), kind, "{code}");
        }
    }

    #[test]
    fn no_number_sends_clients_to_another_port() {
        // pusher-js takes 4000 for the order to use TLS.
        assert!(TABLE.iter().all(|(_, number)| *number != 4000));
    }

    #[test]
    fn the_document_has_every_code_with_its_number() {
        let document = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/PUSHER.md")).unwrap();
        for (code, number) in TABLE {
            let row = document.lines().find(|line| line.starts_with(&format!("| {number} |")));
            assert!(row.is_some_and(|row| row.contains(&format!("`{code}`"))), "no row {number} with {code}");
        }
    }
}
