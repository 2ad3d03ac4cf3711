//! `janus-server reload`: has a running server read its settings again, and shows what has changed.

use std::fmt::Write as _;
use std::io::{self, Write as _};

use serde_json::Value;

use super::ClientError;
use super::admin::{AdminPort, Asker};

pub(crate) fn run(port: &AdminPort) -> Result<(), ClientError> {
    let (status, body) = port.asker()?.ask("POST", "/api/reload", None)?;
    if status != 200 {
        return Err(Asker::refusal(status, &body));
    }
    let changes: Value = serde_json::from_slice(&body).map_err(|_| Asker::refusal(status, &body))?;
    io::stdout().lock().write_all(in_words(&changes).as_bytes()).map_err(ClientError::Output)
}

/// A line for each setting.
fn in_words(changes: &Value) -> String {
    let mut lines = String::new();
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
    if lines.is_empty() { "no setting has changed\n".to_owned() } else { lines }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_change_is_a_line_and_no_change_is_said_as_well() {
        let changes = json!({
            "applied": ["max_topics"], "new_connections": ["send_buffer_bytes"], "needs_restart": ["threads"],
            "hidden": [{"setting": "log", "by": "flag --log"}],
        });
        assert_eq!(
            in_words(&changes),
            "max_topics: applied\nsend_buffer_bytes: for new connections\nthreads: needs a restart\nlog: the change of \
             the file is hidden by flag --log\n"
        );
        assert_eq!(in_words(&json!({})), "no setting has changed\n");
    }
}
