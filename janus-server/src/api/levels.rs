//! The routes that show and change the levels of the log, on the admin port.

use std::time::{Duration, SystemTime};

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::{Request, Response};
use janus_api::bad_request;
use janus_core::wire::HttpError;
use log::LevelFilter;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::routes::json;
use super::{Api, Incoming};
use crate::logging::{self, LEVELS, MAX_TARGET_BYTES, MAX_TIME, is_target, lower};
use crate::settings::duration;

/// How long a change lasts without `for`.
pub(super) const DEFAULT_TIME: Duration = Duration::from_secs(600);

/// The body of `PUT /api/log`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ChangeLevel {
    /// `null` takes back the change for the target.
    #[serde(deserialize_with = "Option::deserialize")]
    level: Option<String>,
    #[serde(default)]
    target: Option<String>,
    #[serde(default, rename = "for")]
    time: Option<String>,
}

/// The answer of all three methods: the levels in force.
#[derive(Debug, Serialize)]
struct InForce {
    configured: String,
    changes: Vec<ChangeJson>,
}

#[derive(Debug, Serialize)]
struct ChangeJson {
    /// Missing in a change for all targets.
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<String>,
    level: String,
    /// Seconds since 1970.
    until: u64,
    seconds_left: u64,
}

impl Api {
    pub(super) fn levels(&self) -> Response<Full<Bytes>> {
        let (configured, changes) = logging::levels().view();
        let now = Instant::now();
        let changes = changes.into_iter().map(|change| ChangeJson {
            target: change.target,
            level: lower(change.level),
            until: change.until.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs(),
            seconds_left: change.ends.saturating_duration_since(now).as_secs(),
        });
        json(&InForce { configured: configured.to_string(), changes: changes.collect() })
    }

    pub(super) fn change_level(&self, request: ChangeLevel) -> Result<Response<Full<Bytes>>, HttpError> {
        let ChangeLevel { level, target, time } = request;
        let target = target.map(checked_target).transpose()?;
        let Some(level) = level else {
            if time.is_some() {
                return Err(bad_request("for: expected only with a level; the level null takes a change back"));
            }
            logging::take_back(|change| change.target == target);
            return Ok(self.levels());
        };
        let level: LevelFilter =
            level.parse().map_err(|_| bad_request(format!("level: expected {LEVELS}, or null")))?;
        let time = match &time {
            None => DEFAULT_TIME,
            Some(text) => duration(text.trim())
                .filter(|time| !time.is_zero() && *time <= MAX_TIME)
                .ok_or_else(|| bad_request("for: expected at most 24 h, with a unit such as \"10 m\""))?,
        };
        logging::change(target, level, time)
            .map_err(|error| HttpError::new(409, "too_many_changes", error.to_string()))?;
        Ok(self.levels())
    }

    /// Takes back the change for the target in the query, or all changes.
    pub(super) fn reset_levels(&self, request: &Request<Incoming>) -> Result<Response<Full<Bytes>>, HttpError> {
        let mut target = None;
        for (name, value) in form_urlencoded::parse(request.uri().query().unwrap_or_default().as_bytes()) {
            if name != "target" {
                return Err(bad_request("the query: expected only target"));
            }
            if target.replace(checked_target(value.into_owned())?).is_some() {
                return Err(bad_request("the query: duplicate parameter target"));
            }
        }
        logging::take_back(|change| target.is_none() || change.target == target);
        Ok(self.levels())
    }
}

fn checked_target(target: String) -> Result<String, HttpError> {
    let expected = || {
        bad_request(format!(
            "target: expected the beginning of a line's target, such as janus_core::connection, of 1 to \
             {MAX_TARGET_BYTES} letters, digits, _ and :"
        ))
    };
    if is_target(&target) { Ok(target) } else { Err(expected()) }
}
