//! The routes that close connections, and withdraw the right of a user or a token to be served.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use janus_core::hooks::{Revocation, RevokeError};
use janus_core::wire::HttpError;
use janus_core::{Everywhere, Janus};
use serde::{Deserialize, Serialize};

use crate::body::{Whole, bad_request, json, read};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Disconnect {
    #[serde(default)]
    connection: Option<Whole>,
    #[serde(default)]
    user: Option<String>,
    /// Whether the client is told that it may reconnect.
    reconnect: bool,
}

pub(crate) async fn disconnect(janus: &Janus, body: &[u8]) -> Result<Bytes, HttpError> {
    let request: Disconnect = read(body)?;
    let connection = match (&request.connection, &request.user) {
        (Some(connection), None) => connection.0,
        (None, Some(user)) if !user.is_empty() => {
            let everywhere = janus.disconnect_user_everywhere(user, request.reconnect).await;
            let closed = everywhere.closed;
            log::info!(
                user = user.as_str(), closed;
                "closed the connections of user {user:?} at the request of an operator: {closed}"
            );
            return Ok(json(&Closed::of(janus, everywhere)));
        }
        _ => return Err(bad_request("the body: expected either connection or user, and reconnect")),
    };
    if janus.disconnect(connection, request.reconnect) {
        log::info!(connection; "closing connection {connection} at the request of an operator");
        return Ok(json(&Disconnected { connection }));
    }
    let message = "no such connection (it may have closed); GET /api/connections lists the open connections";
    Err(HttpError::new(404, "unknown_connection", message))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Revoke {
    user: Option<String>,
    jti: Option<String>,
    /// Seconds since 1970, as in a token.
    until: Whole,
}

pub(crate) async fn revoke(janus: &Janus, body: &[u8]) -> Result<Bytes, HttpError> {
    let request: Revoke = read(body)?;
    let revocation = match (&request.user, &request.jti) {
        (Some(user), None) => Revocation::user(user),
        (None, Some(id)) => Revocation::token(id),
        _ => return Err(bad_request("the body: expected either user or jti, and until")),
    };
    let until = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(request.until.0));
    let until = until.ok_or_else(|| bad_request("until: expected seconds since 1970"))?;
    let everywhere = janus.revoke_everywhere(revocation, until).await.map_err(|error| match error {
        RevokeError::TooMany { .. } => HttpError::new(503, "too_many_revocations", error.to_string()),
        other => bad_request(other.to_string()),
    })?;
    Ok(json(&Closed::of(janus, everywhere)))
}

/// What has become of a request to all nodes. Without an engine there are no other nodes to be told of.
#[derive(Debug, Serialize)]
struct Closed {
    closed: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    nodes: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    answered: Option<usize>,
}

impl Closed {
    fn of(janus: &Janus, Everywhere { closed, nodes, answered, .. }: Everywhere) -> Self {
        let is_node = janus.cluster().is_some();
        Self { closed, nodes: is_node.then_some(nodes), answered: is_node.then_some(answered) }
    }
}

#[derive(Debug, Serialize)]
struct Disconnected {
    connection: u64,
}
