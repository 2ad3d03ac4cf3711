//! Parses objects of `janus.v1.json` other than this run's messages, over WebSocket or server-sent events.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::{Malformed, Refusal};

/// The members of an object that matter to the bench.
#[derive(Deserialize)]
pub(super) struct Said<'a> {
    /// Absent in server-sent events, where the event's name is a separate field.
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

    /// Converts an `error` or a `bye`.
    pub(super) fn refusal(self, closes: bool) -> Result<Refusal<'a>, Malformed> {
        let (code, message) = self.error.zip(self.message).ok_or(Malformed)?;
        Ok(Refusal { code: code.into(), message: message.into(), closes })
    }
}
