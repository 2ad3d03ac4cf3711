//! `janus-server disconnect`: closes connections of clients.

use hyper::Method;
use serde_json::{Value, json};

use super::ClientError;
use super::http::Http;
use super::output::{print, say};
use super::server::Need;
use crate::cli::Disconnect;

pub(crate) fn run(command: &Disconnect) -> Result<(), ClientError> {
    let mut http = Http::new(command.server.target("disconnect", Need::Api)?)?;
    let mut failed = 0;
    for connection in &command.connections {
        let request = json!({"connection": connection, "reconnect": !command.ban});
        let answer = http.ask(&Method::POST, "/api/disconnect", Some(request.to_string()))?;
        if answer.content::<Value>().is_some() {
            print(&format!(
                "{connection}: closing, and told {} come back\n",
                if command.ban { "not to" } else { "to" }
            ))?;
            continue;
        }
        match http.refusal(&answer) {
            ClientError::Refused { code, message, .. } if code == "unknown_connection" => {
                failed += 1;
                say(&format!("{connection}: {message}"));
            }
            other => return Err(other),
        }
    }
    let all = command.connections.len();
    if failed == 0 { Ok(()) } else { Err(ClientError::NotAllClosed { failed, all }) }
}
