//! The route that withdraws the right of a user or a token to be served.

use std::time::{Duration, SystemTime};

use http_body_util::Full;
use hyper::Response;
use hyper::body::Bytes;
use janus_core::hooks::{Revocation, RevokeError};
use janus_core::wire::HttpError;
use serde::Deserialize;

use super::Api;
use super::routes::{Whole, bad_request, json};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Revoke {
    user: Option<String>,
    jti: Option<String>,
    /// Seconds since 1970, as in a token.
    until: Whole,
}

impl Api {
    pub(super) async fn revoke(&self, request: &Revoke) -> Result<Response<Full<Bytes>>, HttpError> {
        let revocation = match (&request.user, &request.jti) {
            (Some(user), None) => Revocation::user(user),
            (None, Some(id)) => Revocation::token(id),
            _ => return Err(bad_request("the body: expected either user or jti, and until")),
        };
        let until = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(request.until.0));
        let until = until.ok_or_else(|| bad_request("until: expected seconds since 1970"))?;
        let everywhere = self.janus.revoke_everywhere(revocation, until).await.map_err(|error| match error {
            RevokeError::TooMany { .. } => HttpError::new(503, "too_many_revocations", error.to_string()),
            other => bad_request(other.to_string()),
        })?;
        Ok(json(&self.closed(everywhere)))
    }
}
