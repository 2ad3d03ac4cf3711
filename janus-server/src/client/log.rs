//! `janus-server log`: shows the levels of a running server's log, and changes a level for a while.

use std::fmt::Write as _;

use hyper::Method;
use serde_json::{Value, json};

use super::ClientError;
use super::http::Http;
use super::output::{print_json, print_visible};
use super::server::Need;
use crate::cli::Log;
use crate::logging::lower;

const PATH: &str = "/api/log";

pub(crate) fn run(command: &Log) -> Result<(), ClientError> {
    let mut http = Http::new(command.server.target("log", Need::Admin)?)?;
    let answer = match (&command.level, command.reset) {
        (Some(level), _) => {
            let mut change = json!({"level": lower(*level), "for": format!("{} ms", command.lasts.as_millis())});
            if let Some(target) = &command.target {
                change["target"] = json!(target);
            }
            http.ask(&Method::PUT, PATH, Some(change.to_string()))?
        }
        (None, true) => {
            let mut query = form_urlencoded::Serializer::new(String::new());
            query.extend_pairs(command.target.iter().map(|target| ("target", target)));
            http.ask(&Method::DELETE, &format!("{PATH}?{}", query.finish()), None)?
        }
        (None, false) => http.ask(&Method::GET, PATH, None)?,
    };
    let in_force: Value = answer.content().ok_or_else(|| http.refusal(&answer))?;
    if command.json { print_json(&String::from_utf8_lossy(&answer.body)) } else { print_visible(&in_words(&in_force)) }
}

/// The levels in force, a line for each change.
fn in_words(in_force: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut lines = format!("configured: {}\n", text(&in_force["configured"]));
    for change in in_force["changes"].as_array().into_iter().flatten() {
        let target = change["target"].as_str().unwrap_or("all targets");
        let _ = writeln!(lines, "{target}: {}, {} s left", text(&change["level"]), change["seconds_left"]);
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_change_is_a_line() {
        let in_force = json!({"configured": "info", "changes": [
            {"target": "janus_core::topic", "level": "debug", "until": 1_764_480_000, "seconds_left": 599},
            {"level": "warn", "until": 1_764_480_000, "seconds_left": 9},
        ]});
        assert_eq!(
            in_words(&in_force),
            "configured: info\njanus_core::topic: debug, 599 s left\nall targets: warn, 9 s left\n"
        );
    }
}
