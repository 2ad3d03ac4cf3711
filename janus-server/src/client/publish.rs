//! `janus-server publish`: publishes messages, and prints the receipt of each.
//!
//! A message is sent only after the receipt of the previous message. So the user knows which messages a failure leaves
//! unpublished: the line named in the error, and all later lines.

use std::io::{self, BufRead as _, Write as _};
use std::time::Instant;

use janus_core::wire::classic::client::{self, ServerFrame};
use serde_json::json;
use serde_json::value::RawValue;

use super::{ClientError, Connection};
use crate::cli::Publish;

pub(crate) fn run(command: &Publish) -> Result<(), ClientError> {
    if command.data != "-" {
        let data = json_text(command.data.as_bytes(), command.json)?;
        let mut connection = Connection::open(&command.to, command.timeout)?;
        return publish(&mut connection, command, &data);
    }
    let mut connection = Connection::open(&command.to, command.timeout)?;
    let mut input = io::stdin().lock();
    let mut text = Vec::new();
    for line in 1.. {
        text.clear();
        if input.read_until(b'\n', &mut text).map_err(ClientError::Input)? == 0 {
            break;
        }
        let message = text.strip_suffix(b"\n").unwrap_or(&text);
        let message = message.strip_suffix(b"\r").unwrap_or(message);
        if message.trim_ascii().is_empty() {
            continue;
        }
        let published = json_text(message, command.json).and_then(|data| publish(&mut connection, command, &data));
        published.map_err(|error| match error {
            ClientError::Output(_) => error,
            source => ClientError::Line { line, source: Box::new(source) },
        })?;
    }
    Ok(())
}

/// The message as JSON text: JSON unchanged, any other text as a JSON string, or refused with `only_json`.
fn json_text(message: &[u8], only_json: bool) -> Result<String, ClientError> {
    let message = str::from_utf8(message).map_err(|_| ClientError::NotUtf8)?;
    match serde_json::from_str::<&RawValue>(message) {
        Ok(_) => Ok(message.to_owned()),
        Err(error) if only_json => Err(ClientError::NotJson(error)),
        Err(_) => Ok(json!(message).to_string()),
    }
}

fn publish(connection: &mut Connection, command: &Publish, data: &str) -> Result<(), ClientError> {
    let event = json!(command.event).to_string();
    let id = json!(command.id.as_deref().unwrap_or("")).to_string();
    connection.send(&client::publish_with_ack(&command.topic, &event, &id, data))?;

    let deadline = Instant::now() + command.timeout;
    loop {
        match connection.receive(Some(deadline))? {
            Some(ServerFrame::Published { topic, epoch, seq, subscribers }) => {
                let receipt = json!({"topic": topic, "epoch": epoch, "seq": seq, "subscribers": subscribers});
                return writeln!(io::stdout().lock(), "{receipt}").map_err(ClientError::Output);
            }
            Some(ServerFrame::Error { code, message }) => {
                return Err(ClientError::Refused { code: code.into_owned(), message: message.into_owned() });
            }
            Some(
                ServerFrame::Greeting { .. }
                | ServerFrame::Ack
                | ServerFrame::Ping
                | ServerFrame::Message { .. }
                | ServerFrame::Attached { .. }
                | ServerFrame::Assigned { .. }
                | ServerFrame::Refreshed { .. }
                | ServerFrame::Unknown(_)
                | ServerFrame::TooLarge,
            ) => {}
            None => return Err(ClientError::Late { awaited: "receipt", timeout: command.timeout }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_sent_unchanged_and_other_text_as_a_json_string() {
        assert_eq!(json_text(b"{\"a\": 1.50}", false).unwrap(), "{\"a\": 1.50}");
        assert_eq!(json_text(b"42", false).unwrap(), "42");
        assert_eq!(json_text(b"hello \"you\"", false).unwrap(), "\"hello \\\"you\\\"\"");
        assert_eq!(json_text(b"", false).unwrap(), "\"\"");
        assert!(matches!(json_text(b"hello", true), Err(ClientError::NotJson(_))));
        assert!(matches!(json_text(b"\xff", false), Err(ClientError::NotUtf8)));
    }
}
