//! The parameters of methods. Unknown parameters are ignored, as Centrifugo does; a known one without a meaning here is refused.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::value::RawValue;

/// What `publish` and `broadcast` have in common.
#[derive(Debug, Deserialize)]
pub(super) struct Content<'a> {
    #[serde(default, borrow)]
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
