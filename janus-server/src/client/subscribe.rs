//! `janus-server subscribe`: subscribes, says so on standard error, and prints each message as one line of JSON.
//!
//! It ends by itself only with `--count`; a server that ends first is a failure, as messages may be missed from then on.

use std::io::{self, Write as _};
use std::time::Instant;

use janus_core::wire::classic::client::{self, ServerFrame};
use serde_json::json;

use super::{ClientError, Connection};
use crate::cli::Subscribe;

pub(crate) fn run(command: &Subscribe) -> Result<(), ClientError> {
    let mut connection = Connection::open(&command.from, command.timeout)?;
    let mut frames = client::PREAMBLE.to_vec();
    for topic in &command.topics {
        frames.extend_from_slice(&client::subscribe(topic));
    }
    connection.send(&frames)?;

    let mut deadline = Some(Instant::now() + command.timeout);
    let mut unacknowledged = command.topics.len();
    let mut printed = 0;
    while command.count.is_none_or(|count| printed < count) {
        match connection.receive(deadline)? {
            Some(ServerFrame::Ack) => {
                unacknowledged = unacknowledged.saturating_sub(1);
                if unacknowledged == 0 {
                    deadline = None;
                    eprintln!("subscribed at {}", command.from);
                }
            }
            Some(ServerFrame::Message { timestamp, topic, event, message_id, data }) => {
                let (mega, sec, micro) = (timestamp.mega, timestamp.sec, timestamp.micro);
                let topic = json!(topic);
                let line = format!(
                    "{{\"timestamp\":[{mega},{sec},{micro}],\"topic\":{topic},\"event\":{event},\
                     \"message_id\":{message_id},\"data\":{data}}}"
                );
                // Line ends can only stand between the parts of the JSON, where a blank means the same.
                let line = line.replace(['\n', '\r'], " ");
                writeln!(io::stdout().lock(), "{line}").map_err(ClientError::Output)?;
                printed += 1;
            }
            Some(ServerFrame::Error { code, message }) => {
                return Err(ClientError::Refused { code: code.into_owned(), message: message.into_owned() });
            }
            Some(_) => {}
            None => return Err(ClientError::Late { awaited: "acknowledgement", timeout: command.timeout }),
        }
    }
    Ok(())
}
