//! `janus-server health`: asks a server whether it is alive or ready, for containers without `curl`.

use std::io::{self, Write as _};

use serde_json::Value;

use super::ClientError;
use super::admin::Asker;
use crate::cli::Health;

pub(crate) fn run(command: &Health) -> Result<(), ClientError> {
    let (path, word) = if command.ready { ("/readyz", "ready") } else { ("/livez", "live") };
    let (status, body) = command.port.asker()?.ask("GET", path, None)?;
    match status {
        200 => writeln!(io::stdout().lock(), "{word}").map_err(ClientError::Output),
        503 => Err(ClientError::Unhealthy(format!("not {word}: {}", reasons(&body)))),
        _ => Err(Asker::refusal(status, &body)),
    }
}

/// The reasons in the body of an answer, in words.
fn reasons(body: &[u8]) -> String {
    let body: Value = serde_json::from_slice(body).unwrap_or_default();
    let checks = body["checks"].as_object().into_iter().flatten();
    let reasons: Vec<String> =
        checks.map(|(check, reason)| format!("{check}: {}", reason.as_str().unwrap_or_default())).collect();
    if reasons.is_empty() { "the server gives no reason".to_owned() } else { reasons.join("; ") }
}
