//! The parameters of methods. Unknown parameters are ignored, as Centrifugo does; a known one without a meaning here is refused.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::error::ApiError;

const NO_OBJECT: &str = "the body (in a batch, the value of a method) must be a JSON object";

/// Reads the parameters of a method. An empty body is an empty object.
pub(super) fn read<'a, T: Deserialize<'a>>(params: &'a str) -> Result<T, ApiError> {
    let params = if params.trim_ascii().is_empty() { "{}" } else { params };
    // Without the check, a list would pass for an object, member by member.
    if !params.trim_ascii_start().starts_with('{') {
        return Err(ApiError::bad_request(NO_OBJECT));
    }
    serde_json::from_str(params).map_err(|error| {
        ApiError::bad_request(match error.is_data() {
            // The key that is missing, or the type that was expected, and where.
            true => format!("the parameters: {error}"),
            false => format!("{NO_OBJECT}: {error}"),
        })
    })
}

/// What `publish` and `broadcast` have in common.
#[derive(Debug, Deserialize)]
pub(super) struct Content<'a> {
    #[serde(default, borrow, deserialize_with = "crate::command::present")]
    pub(super) data: Option<&'a RawValue>,
    #[serde(default)]
    pub(super) b64data: Option<String>,
    #[serde(default)]
    pub(super) idempotency_key: Option<String>,
    #[serde(default)]
    pub(super) skip_history: Option<bool>,
    #[serde(default)]
    pub(super) tags: Option<BTreeMap<String, String>>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Channel {
    pub(super) channel: String,
}

#[derive(Debug, Deserialize)]
pub(super) struct Channels {
    pub(super) channels: Vec<String>,
}

#[derive(Debug, Deserialize)]
pub(super) struct History {
    pub(super) channel: String,
    #[serde(default)]
    pub(super) limit: Option<i64>,
    #[serde(default)]
    pub(super) since: Option<crate::command::StreamPosition>,
    #[serde(default)]
    pub(super) reverse: Option<bool>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Disconnect {
    #[serde(default)]
    pub(super) user: Option<String>,
    #[serde(default)]
    pub(super) client: Option<String>,
    #[serde(default)]
    pub(super) session: Option<String>,
    #[serde(default)]
    pub(super) whitelist: Option<Vec<String>>,
    #[serde(default)]
    pub(super) disconnect: Option<Code>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Code {
    #[serde(default)]
    pub(super) code: u32,
}

#[derive(Debug, Deserialize)]
pub(super) struct Pattern {
    #[serde(default)]
    pub(super) pattern: Option<String>,
}
