//! `janus-server reload`: has a running server read its settings again, and shows what has changed.

use std::fmt::Write as _;

use hyper::Method;
use serde_json::Value;

use super::ClientError;
use super::http::Http;
use super::output::{print_json, print_visible};
use super::server::Need;
use crate::cli::Reload;

pub(crate) fn run(command: &Reload) -> Result<(), ClientError> {
    let mut http = Http::new(command.server.target("reload", Need::Admin)?)?;
    let answer = http.ask(&Method::POST, "/api/reload", None)?;
    let changes: Value = answer.content().ok_or_else(|| http.refusal(&answer))?;
    if command.json { print_json(&String::from_utf8_lossy(&answer.body)) } else { print_visible(&in_words(&changes)) }
}

/// A line for the file, and a line for each setting.
fn in_words(changes: &Value) -> String {
    let mut lines = match &changes["file"] {
        Value::String(file) => format!("the server has read {file}\n"),
        _ => "the server has no file of settings: variables and flags are those of its start\n".to_owned(),
    };
    let before = lines.len();
    let kinds =
        [("applied", "applied"), ("new_connections", "for new connections"), ("needs_restart", "needs a restart")];
    for (kind, words) in kinds {
        for name in changes[kind].as_array().into_iter().flatten().filter_map(Value::as_str) {
            let _ = writeln!(lines, "{name}: {words}");
        }
    }
    for hidden in changes["hidden"].as_array().into_iter().flatten() {
        let [setting, by] = ["setting", "by"].map(|key| hidden[key].as_str().unwrap_or_default());
        let _ = writeln!(lines, "{setting}: the change of the file is hidden by {by}");
    }
    if lines.len() == before {
        lines.push_str("no setting has changed\n");
    }
    lines
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_change_is_a_line_and_no_change_is_said_as_well() {
        let changes = json!({
            "file": "/etc/janus.toml",
            "applied": ["max_topics"], "new_connections": ["send_buffer_bytes"], "needs_restart": ["threads"],
            "hidden": [{"setting": "log", "by": "flag --log"}],
        });
        assert_eq!(
            in_words(&changes),
            "the server has read /etc/janus.toml\nmax_topics: applied\nsend_buffer_bytes: for new connections\nthreads: needs a restart\nlog: the change of \
             the file is hidden by flag --log\n"
        );
        let nothing = in_words(&json!({"file": null}));
        assert!(
            nothing.starts_with("the server has no file") && nothing.ends_with("\nno setting has changed\n"),
            "{nothing}"
        );
    }
}
