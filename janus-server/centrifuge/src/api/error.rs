//! Why a method was not carried out.

use std::borrow::Cow;

use janus_core::wire::ErrorCode;
use janus_core::{HistoryError, PresenceError, PublishError};

use crate::codes::{BAD_REQUEST, Codes, LIMIT_EXCEEDED, METHOD_NOT_FOUND, NOT_AVAILABLE};

/// The error in an answer.
#[derive(Debug)]
pub(super) struct ApiError {
    pub(super) code: u16,
    pub(super) message: Cow<'static, str>,
}

impl ApiError {
    pub(super) fn bad_request(message: impl Into<Cow<'static, str>>) -> Self {
        Self { code: BAD_REQUEST, message: message.into() }
    }

    pub(super) fn not_available(message: impl Into<Cow<'static, str>>) -> Self {
        Self { code: NOT_AVAILABLE, message: message.into() }
    }

    pub(super) fn method_not_found() -> Self {
        Self { code: METHOD_NOT_FOUND, message: "method not found".into() }
    }

    /// Of a command that was not carried out because the answers before are this long.
    pub(super) fn batch_full(bytes: usize) -> Self {
        let message = format!(
            "not carried out: the answers before it have reached {bytes} bytes; send the commands from this one on in another batch"
        );
        Self { code: LIMIT_EXCEEDED, message: message.into() }
    }

    pub(super) fn of(code: ErrorCode, message: impl Into<Cow<'static, str>>) -> Self {
        Self { code: Codes::of(code).error, message: message.into() }
    }
}

impl From<PublishError> for ApiError {
    fn from(error: PublishError) -> Self {
        Self::of(error.code(), error.to_string())
    }
}

impl From<HistoryError> for ApiError {
    fn from(error: HistoryError) -> Self {
        Self::of(error.code(), error.to_string())
    }
}

impl From<PresenceError> for ApiError {
    fn from(error: PresenceError) -> Self {
        let code = match error {
            PresenceError::Off => ErrorCode::NoPresence,
            PresenceError::Invalid(_) => ErrorCode::BadTopic,
            _ => ErrorCode::EngineUnavailable,
        };
        Self::of(code, error.to_string())
    }
}
