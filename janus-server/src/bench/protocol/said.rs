//! The objects of `janus.v1.json` that are no message of this run, in whatever they come.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::{Malformed, Refusal};

/// What a bench looks at of an object from the server.
#[derive(Deserialize)]
pub(super) struct Said<'a> {
    /// Not in server-sent events, which have a field for it.
    #[serde(rename = "type", borrow, default)]
    pub(super) kind: Cow<'a, str>,
    #[serde(borrow)]
    pub(super) data: Option<&'a RawValue>,
    error: Option<String>,
    message: Option<String>,
}

impl<'a> Said<'a> {
    pub(super) fn parse(object: &'a [u8]) -> Result<Self, Malformed> {
        serde_json::from_slice(object).map_err(|_| Malformed)
    }

    /// Of an `error` or a `bye`.
    pub(super) fn refusal(self, closes: bool) -> Result<Refusal<'a>, Malformed> {
        let (code, message) = self.error.zip(self.message).ok_or(Malformed)?;
        Ok(Refusal { code: code.into(), message: message.into(), closes })
    }
}
