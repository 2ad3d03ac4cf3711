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

use janus_core::wire::{ErrorCode, HttpError, HttpRequest};
use janus_core::{RouteRequest, RouteResponse};
use serde::Serialize;

use crate::app::App;
use crate::signature::{BadRequest, Parameters, Signed, check_body};

pub(crate) use events::MAX_BATCH;

/// Checks a request by its head: the application's id and its signature. Requests of strangers are not read further.
///
/// # Errors
///
/// The request is not signed by the application.
pub(crate) fn check(app: &App, head: &HttpRequest) -> Result<Parameters, HttpError> {
    let rest = head.path().strip_prefix("/apps/").unwrap_or_default();
    if rest.split('/').next() != Some(&app.id) {
        return Err(HttpError::new(404, "unknown_app", "this server has no application with this id"));
    }
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    let signed = Signed { method: &head.method, path: head.path(), query: head.query() };
    signed.check(&app.key, &app.keys, now).map_err(unauthorized)
}

fn unauthorized(error: BadRequest) -> HttpError {
    HttpError::new(401, "unauthorized", error.to_string())
}

/// The answer to a request under `/apps/`.
///
/// # Errors
///
/// The body is not the signed one.
pub(crate) async fn answer(app: Arc<App>, request: RouteRequest) -> Result<RouteResponse, HttpError> {
    let query = check(&app, &request.head)?;
    check_body(&query, &request.body).map_err(unauthorized)?;
    let rest = request.rest.split_once('/').map_or("", |(_, rest)| rest);
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
        _ => Err(Refusal::new(404, "unknown_path", "no such request; see docs/PUSHER.md for what this server has")),
    };
    // The connection is kept, unlike that of a stranger.
    Ok(answer.unwrap_or_else(|Refusal(error)| RouteResponse::from(&error)))
}

/// A refused request of the application. The body is JSON, as that of the refusal of a stranger. Pusher answers with plain
/// text, and the publishers of Pusher show any body as text.
#[derive(Debug)]
struct Refusal(HttpError);

impl Refusal {
    fn new(status: u16, code: &'static str, text: impl Into<String>) -> Self {
        Self(HttpError::new(status, code, text))
    }

    fn bad(text: impl Into<String>) -> Self {
        Self::new(400, ErrorCode::BadRequest.as_str(), text)
    }
}

type Answer = Result<RouteResponse, Refusal>;

/// A signed request.
struct Asked<'r> {
    app: &'r App,
    janus: &'r janus_core::Janus,
    query: Parameters,
}

impl Asked<'_> {
    fn parameter(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|(other, _)| other == name).map(|(_, value)| value.as_str())
    }
}

fn ok(value: &impl Serialize) -> Answer {
    Ok(RouteResponse::json(200, value))
}
