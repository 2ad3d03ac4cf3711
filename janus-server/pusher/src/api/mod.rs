//! The HTTP API of Pusher: `/apps/ID/…`, each request signed by the application.
//!
//! | file | what it is | what it owns |
//! |---|---|---|
//! | `mod.rs` | routes | the check of a request, and the choice of its answer |
//! | `channels.rs` | answers | questions about channels and their users |
//! | `events.rs` | answers | publications, single and in batches |

mod channels;
mod events;

use std::sync::Arc;
use std::time::SystemTime;

use janus_core::wire::HttpError;
use janus_core::{RouteRequest, RouteResponse};
use serde::Serialize;

use crate::app::App;
use crate::signature::Signed;

pub(crate) use events::MAX_BATCH;

/// The answer to a request under `/apps/`.
///
/// # Errors
///
/// The request is not signed by the application, whose sender may be a stranger: the connection is closed.
pub(crate) async fn answer(app: Arc<App>, request: RouteRequest) -> Result<RouteResponse, HttpError> {
    let (id, rest) = request.rest.split_once('/').unwrap_or((&request.rest, ""));
    if id != app.id {
        return Err(HttpError::new(404, "unknown_app", "this server has no application with this id"));
    }
    let query = check(&app, &request)?;
    let asked = Asked { app: &app, janus: &request.janus, query };
    // A HEAD is answered as a GET.
    let is_post = request.head.method == "POST";
    let parts: Vec<&str> = rest.split('/').collect();
    let answer = match (is_post, &parts[..]) {
        (true, ["events"]) => asked.publish(&request.body).await,
        (true, ["batch_events"]) => asked.publish_batch(&request.body).await,
        (true, ["users", user, "terminate_connections"]) => asked.terminate(user).await,
        (false, ["channels"]) => asked.channels().await,
        (false, ["channels", channel]) => asked.channel(channel).await,
        (false, ["channels", channel, "users"]) => asked.users(channel).await,
        _ => Err(Refusal::new(404, "no such request; see docs/PUSHER.md for what this server has")),
    };
    Ok(answer.unwrap_or_else(|Refusal { status, text }| RouteResponse::new(status, "text/plain", text)))
}

/// Checks the signature of a request, and returns the parameters.
fn check(app: &App, request: &RouteRequest) -> Result<Vec<(String, String)>, HttpError> {
    let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let signed = Signed {
        // A HEAD is signed as such.
        method: &request.head.method,
        path: request.head.path(),
        query: request.head.query(),
        body: &request.body,
    };
    signed
        .check(&app.key, &app.keys, since_1970.as_secs())
        .map_err(|error| HttpError::new(401, "unauthorized", error.to_string()))
}

/// A refused request of the application; the connection is kept. Pusher answers with plain text.
#[derive(Debug)]
struct Refusal {
    status: u16,
    text: String,
}

impl Refusal {
    fn new(status: u16, text: impl Into<String>) -> Self {
        Self { status, text: text.into() }
    }

    fn bad(text: impl Into<String>) -> Self {
        Self::new(400, text)
    }
}

type Answer = Result<RouteResponse, Refusal>;

/// A signed request.
struct Asked<'r> {
    app: &'r App,
    janus: &'r janus_core::Janus,
    query: Vec<(String, String)>,
}

impl Asked<'_> {
    fn parameter(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|(other, _)| other == name).map(|(_, value)| value.as_str())
    }
}

fn ok(value: &impl Serialize) -> Answer {
    Ok(RouteResponse::json(200, value))
}
