//! `janus-server publish`: publishes messages, and prints the receipt of each.
//!
//! A message is sent only after the receipt of the previous message. So the user knows which messages a failure leaves
//! unpublished: the line named in the error, and all later lines.

use std::io::{self, BufRead as _, Read as _};
use std::thread;
use std::time::Instant;

use hyper::Method;
use janus_core::wire::classic::client::{self as classic, ServerFrame as ClassicFrame};
use janus_core::wire::v1::client::{self as v1, ServerFrame};
use serde::{Deserialize, Serialize};
use serde_json::json;
use serde_json::value::RawValue;
use tokio::sync::{mpsc, oneshot};

use super::ClientError;
use super::classic::{Connection, FRAME_BYTES_MAX};
use super::http::{Http, runtime};
use super::output::print_json;
use super::server::{Need, Protocol, Target};
use super::websocket::{self, WebSocket};
use crate::cli::Publish;

pub(crate) fn run(command: &Publish) -> Result<(), ClientError> {
    // A message that is refused without a server needs no connection.
    let single = if command.data == "-" { None } else { Some(json_text(command.data.as_bytes(), command.json)?) };
    let target = command.server.target("publish", Need::Publishing)?;
    let mut publisher = Publisher::open(target)?;
    if let Some(data) = single {
        return publisher.publish(command, &data);
    }
    let mut input = io::stdin().lock();
    let mut text = Vec::new();
    for line in 1.. {
        text.clear();
        let mut limited = input.by_ref().take(FRAME_BYTES_MAX as u64);
        if limited.read_until(b'\n', &mut text).map_err(ClientError::Input)? == 0 {
            break;
        }
        if limited.limit() == 0 {
            return Err(ClientError::Line { line, source: Box::new(ClientError::LineTooLong) });
        }
        let message = text.strip_suffix(b"\n").unwrap_or(&text);
        let message = message.strip_suffix(b"\r").unwrap_or(message);
        if message.trim_ascii().is_empty() {
            continue;
        }
        let published = json_text(message, command.json).and_then(|data| publisher.publish(command, &data));
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

/// A way to publish.
enum Publisher {
    /// The HTTP API.
    Http(Http),
    /// A WebSocket, for the token of a user.
    WebSocket(OwnThread, Target),
    Classic(Connection, Target),
}

#[derive(Deserialize)]
struct Receipt {
    epoch: String,
    seq: u64,
    subscribers: u64,
}

impl Publisher {
    fn open(target: Target) -> Result<Self, ClientError> {
        if target.address.protocol == Protocol::Classic {
            let connection = target.connect_classic()?;
            return Ok(Self::Classic(connection, target));
        }
        match target.token {
            None => Ok(Self::Http(Http::new(target)?)),
            Some(_) => Ok(Self::WebSocket(OwnThread::open(target.clone())?, target)),
        }
    }

    /// Publishes a message, and prints the receipt.
    fn publish(&mut self, command: &Publish, data: &str) -> Result<(), ClientError> {
        let receipt = match self {
            Self::Http(http) => by_http(http, command, data)?,
            Self::WebSocket(thread, target) => {
                let (event, id) = event_and_id(command);
                let published = thread.publish(v1::publish(Some(0), &command.topic, &event, &id, data));
                published.map_err(|error| error.advised(|code| websocket::advice(target, code)))?
            }
            Self::Classic(connection, target) => {
                let published = by_classic(connection, target, command, data);
                published.map_err(|error| target.explain(error.advised(|code| websocket::advice(target, code))))?
            }
        };
        let Receipt { epoch, seq, subscribers } = receipt;
        let receipt = json!({"topic": command.topic, "epoch": epoch, "seq": seq, "subscribers": subscribers});
        print_json(&receipt.to_string())
    }
}

/// The event and the id as JSON text.
fn event_and_id(command: &Publish) -> (String, String) {
    (json!(command.event).to_string(), json!(command.id.as_deref().unwrap_or("")).to_string())
}

fn by_http(http: &mut Http, command: &Publish, data: &str) -> Result<Receipt, ClientError> {
    #[derive(Serialize)]
    struct Publication<'a> {
        topic: &'a str,
        event: &'a str,
        message_id: &'a str,
        data: &'a RawValue,
    }
    let publication = Publication {
        topic: &command.topic,
        event: &command.event,
        message_id: command.id.as_deref().unwrap_or(""),
        data: serde_json::from_str(data).map_err(ClientError::NotJson)?,
    };
    let publication = serde_json::to_string(&publication).map_err(ClientError::NotJson)?;
    let answer = http.ask(&Method::POST, "/api/publish", Some(publication))?;
    answer.content().ok_or_else(|| http.refusal(&answer))
}

fn by_classic(
    connection: &mut Connection,
    target: &Target,
    command: &Publish,
    data: &str,
) -> Result<Receipt, ClientError> {
    let (event, id) = event_and_id(command);
    connection.send(&classic::publish_with_ack(&command.topic, &event, &id, data))?;
    let deadline = Instant::now() + target.timeout;
    loop {
        match connection.receive(Some(deadline))? {
            Some(ClassicFrame::Published { epoch, seq, subscribers, .. }) => {
                return Ok(Receipt { epoch: epoch.to_string(), seq, subscribers });
            }
            Some(ClassicFrame::Error { code, message }) => return Err(ClientError::refused(&code, &message)),
            Some(_) => {}
            None => return Err(ClientError::Late { awaited: "receipt", timeout: target.timeout }),
        }
    }
}

/// A WebSocket on a thread of its own, which answers the server's pings while the command waits for input.
struct OwnThread {
    publications: mpsc::Sender<(String, oneshot::Sender<Result<Receipt, ClientError>>)>,
    thread: Option<thread::JoinHandle<Result<(), ClientError>>>,
}

impl OwnThread {
    fn open(target: Target) -> Result<Self, ClientError> {
        let runtime = runtime()?;
        let opened = runtime.block_on(WebSocket::open(&target, None));
        let mut socket = opened.map_err(|error| target.explain(error))?;
        let (publications, mut received) = mpsc::channel(1);
        let thread = thread::spawn(move || {
            runtime.block_on(async {
                loop {
                    // Between two publications only the end of the connection is of interest.
                    let next: Option<(String, oneshot::Sender<_>)> = tokio::select! {
                        next = received.recv() => next,
                        text = socket.receive() => match ServerFrame::parse(&text?) {
                            bye @ ServerFrame::Bye { .. } => return Err(websocket::refused(bye)),
                            _ => continue,
                        }
                    };
                    let Some((frame, reply)) = next else { return Ok(()) };
                    // The command waits for the reply, or has ended.
                    let _ = reply.send(publish_one(&mut socket, frame, &target).await);
                }
            })
        });
        Ok(Self { publications, thread: Some(thread) })
    }

    fn publish(&mut self, frame: String) -> Result<Receipt, ClientError> {
        let (reply, answer) = oneshot::channel();
        let sent = self.publications.blocking_send((frame, reply));
        if let (Ok(()), Ok(receipt)) = (sent, answer.blocking_recv()) {
            return receipt;
        }
        // The thread has ended before the publication, and says why.
        let ended = self.thread.take().and_then(|thread| thread.join().ok());
        Err(ended.and_then(Result::err).unwrap_or(ClientError::Closed))
    }
}

async fn publish_one(socket: &mut WebSocket, frame: String, target: &Target) -> Result<Receipt, ClientError> {
    socket.send(frame).await?;
    let receipt = async {
        loop {
            let text = socket.receive().await?;
            match ServerFrame::parse(&text) {
                ServerFrame::Published { id: Some(0), position, subscribers, .. } => {
                    return Ok(Receipt { epoch: position.epoch.to_string(), seq: position.seq, subscribers });
                }
                // Other errors are about topics to which the token has subscribed the client.
                error @ ServerFrame::Error { id: Some(0), .. } => return Err(websocket::refused(error)),
                bye @ ServerFrame::Bye { .. } => return Err(websocket::refused(bye)),
                _ => {}
            }
        }
    };
    let late = ClientError::Late { awaited: "receipt", timeout: target.timeout };
    tokio::time::timeout(target.timeout, receipt).await.unwrap_or(Err(late))
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
