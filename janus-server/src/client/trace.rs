//! `janus-server trace`: prints messages between the actors of a server, each as a line of JSON.

use std::time::Duration;

use serde_json::Value;

use super::ClientError;
use super::http::Http;
use super::output::{print_json, say};
use super::server::Need;
use crate::cli::Trace;

pub(crate) fn run(command: &Trace) -> Result<(), ClientError> {
    let mut http = Http::new(command.server.target("trace", Need::Api)?)?;
    let mut ended = None;
    // The server ends the answer in time.
    http.lines(&target(command), Duration::from_secs(command.seconds), |line| {
        match line.starts_with("{\"end\":").then(|| serde_json::from_str::<Value>(line).ok()).flatten() {
            Some(last) => ended = Some(last),
            None => print_json(line)?,
        }
        Ok(())
    })?;
    let Some(last) = ended else { return Err(ClientError::Closed) };
    let end = last["end"].as_str().unwrap_or_default();
    say(&format!("{} lines, {} lost; ended by {end}", last["lines"], last["lost"]));
    if end == "server" { Err(ClientError::Closed) } else { Ok(()) }
}

fn target(command: &Trace) -> String {
    let mut query = form_urlencoded::Serializer::new(String::new());
    if !command.kinds.is_empty() {
        let kinds: Vec<&str> = command.kinds.iter().map(|kind| kind.as_str()).collect();
        query.append_pair("kinds", &kinds.join(","));
    }
    query.extend_pairs(command.names.iter().map(|name| ("name", name)));
    query.append_pair("seconds", &command.seconds.to_string());
    query.append_pair("count", &command.count.to_string());
    format!("/api/trace?{}", query.finish())
}
