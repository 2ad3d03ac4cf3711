//! The parts of requests and answers that several routes have in common.

use bytes::Bytes;
use janus_core::wire::{ErrorCode, HttpError, HttpRequest};
use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer, Serialize};

/// A body in JSON, as a value.
pub(crate) fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, HttpError> {
    // serde would accept an array as a struct without the names of the fields.
    if body.trim_ascii_start().starts_with(b"[") {
        return Err(bad_request("the body: expected an object, got an array"));
    }
    serde_json::from_slice(body).map_err(|error| {
        let code = if error.is_data() { ErrorCode::BadRequest } else { ErrorCode::BadJson };
        HttpError::new(400, code.as_str(), format!("the body: {error}"))
    })
}

/// Whether the body of a request is declared as of this type.
pub(crate) fn has_type(request: &HttpRequest, kind: &str) -> bool {
    let declared = request.header("content-type").and_then(|value| value.split(';').next());
    declared.is_some_and(|declared| declared.trim().eq_ignore_ascii_case(kind))
}

/// Refuses a query on a path without parameters: only the sender would notice an ignored parameter.
pub(crate) fn no_query(request: &HttpRequest) -> Result<(), HttpError> {
    match request.query() {
        "" => Ok(()),
        _ => Err(bad_request("the query: this path accepts no parameters")),
    }
}

/// A refusal of a request that is wrong, with status 400.
#[must_use]
pub fn bad_request(message: impl Into<String>) -> HttpError {
    HttpError::new(400, ErrorCode::BadRequest.as_str(), message)
}

/// An answer in JSON.
pub(crate) fn json(answer: &impl Serialize) -> Bytes {
    to_json(answer).into()
}

pub(crate) fn to_json(answer: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(answer).expect("answers have only strings as keys of maps")
}

/// A number in a query, made of digits only.
#[must_use]
pub fn digits(text: &str) -> Option<u64> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

/// A whole number in JSON, from 0 to 2^53 − 1; 5.0 is a whole number.
#[derive(Debug)]
pub(crate) struct Whole(pub(crate) u64);

impl Whole {
    const MAX: u64 = (1 << 53) - 1;
}

impl<'de> Deserialize<'de> for Whole {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let number = serde_json::Number::deserialize(deserializer)?;
        // A float represents every whole number up to `MAX`.
        let of_float = |number: f64| (number.fract() == 0.0 && number >= 0.0).then_some(number as u64);
        let whole = number.as_u64().or_else(|| number.as_f64().and_then(of_float)).filter(|whole| *whole <= Self::MAX);
        whole.map(Self).ok_or_else(|| D::Error::custom("expected a whole number from 0 to 9007199254740991"))
    }
}
