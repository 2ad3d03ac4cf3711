//! `janus-server health`: asks a server whether it is alive or ready, for containers without `curl`.

use hyper::Method;
use serde_json::Value;

use super::ClientError;
use super::http::Http;
use super::output::{print, visible};
use super::server::Need;
use crate::cli::Health;

pub(crate) fn run(command: &Health) -> Result<(), ClientError> {
    let (path, word) = if command.ready { ("/readyz", "ready") } else { ("/livez", "live") };
    let mut http = Http::new(command.server.target("health", Need::Admin)?)?;
    let answer = http.ask(&Method::GET, path, None)?;
    let body: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    match answer.status {
        200 if body[word] == true && has_checks(&body) => print(&format!("{word}\n{}\n", visible(&reasons(&body)))),
        200 if body[word] == true => print(&format!("{word}\n")),
        503 if body[word] == false => Err(ClientError::Unhealthy(format!("not {word}: {}", visible(&reasons(&body))))),
        _ => Err(http.refusal(&answer)),
    }
}

/// Whether a part of a server that is ready does not work.
fn has_checks(body: &Value) -> bool {
    body["checks"].as_object().is_some_and(|checks| !checks.is_empty())
}

/// The reasons in the body of an answer, in words.
fn reasons(body: &Value) -> String {
    let checks = body["checks"].as_object().into_iter().flatten();
    let reasons: Vec<String> =
        checks.map(|(check, reason)| format!("{check}: {}", reason.as_str().unwrap_or_default())).collect();
    if reasons.is_empty() { "the server gives no reason".to_owned() } else { reasons.join("; ") }
}
