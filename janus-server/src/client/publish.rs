//! `janus-server publish`: publishes messages, and prints the receipt of each.
//!
//! A message is sent only after the receipt of the previous message. So the user knows which messages a failure leaves
//! unpublished: the line named in the error, and all later lines. A repeated message has the same key at each attempt, so
//! that the server publishes it once.

use std::fs::File;
use std::io::{self, BufRead as _, Read as _};
use std::thread;
use std::time::{Duration, Instant};

use hyper::Method;
use hyper::body::Bytes;
use janus_core::ClientId;
use janus_core::client::{Client, Published};
use janus_core::wire::IdempotencyKey;
use janus_core::wire::classic::client::{self as classic, ServerFrame as ClassicFrame};
use serde::{Deserialize, Serialize};
use serde_json::json;
use serde_json::value::RawValue;
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use super::ClientError;
use super::classic::{Connection, FRAME_BYTES_MAX};
use super::http::{Content, Http, runtime};
use super::modern::{advice, builder, in_words};
use super::output::print_json;
use super::server::{Need, Protocol, Target};
use super::stream::wait;
use crate::cli::Publish;

/// The payload of a message.
enum Payload {
    /// JSON text.
    Json(String),
    Bytes(Vec<u8>),
}

pub(crate) fn run(command: &Publish) -> Result<(), ClientError> {
    // A message that is refused without a server needs no connection.
    let single = single(command)?;
    let target = command.server.target("publish", Need::Publishing)?;
    if target.address.protocol == Protocol::Classic && (command.idempotency_key.is_some() || command.retry.is_some()) {
        return Err(ClientError::NoKeys);
    }
    if target.address.protocol == Protocol::Classic && command.exclude.is_some() {
        return Err(ClientError::NoExclusion);
    }
    let mut publisher = Publisher::open(target)?;
    if let Some(payload) = single {
        return publisher.publish(command, &payload);
    }
    if command.idempotency_key.is_some() {
        return Err(ClientError::KeyOfSeveral);
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
        let payload = json_text(message, command.json).map(Payload::Json);
        let published = payload.and_then(|payload| publisher.publish(command, &payload));
        published.map_err(|error| match error {
            ClientError::Output(_) => error,
            source => ClientError::Line { line, source: Box::new(source) },
        })?;
    }
    Ok(())
}

/// The only message of a command; `None` for a message in each line of the input.
fn single(command: &Publish) -> Result<Option<Payload>, ClientError> {
    let read = |input: &mut dyn io::Read| {
        let mut bytes = Vec::new();
        // More than any server takes, and the memory of the command is bounded.
        input.take(FRAME_BYTES_MAX as u64).read_to_end(&mut bytes).map(|_| bytes)
    };
    if let Some(file) = &command.file {
        let opened = File::open(file).and_then(|mut file| read(&mut file));
        let bytes = opened.map_err(|source| ClientError::File { file: file.clone(), source })?;
        return Ok(Some(Payload::Bytes(bytes)));
    }
    let data = command.data.as_deref().unwrap_or_default();
    Ok(match (data, command.bytes) {
        ("-", true) => Some(Payload::Bytes(read(&mut io::stdin().lock()).map_err(ClientError::Input)?)),
        ("-", false) => None,
        (data, true) => Some(Payload::Bytes(data.as_bytes().to_vec())),
        (data, false) => Some(Payload::Json(json_text(data.as_bytes(), command.json)?)),
    })
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

/// A way to publish, and the server for another attempt.
struct Publisher {
    way: Way,
    target: Target,
}

enum Way {
    /// The HTTP API.
    Http(Box<Http>),
    /// A WebSocket, for the token of a user.
    WebSocket(OwnThread),
    Classic(Connection),
}

#[derive(Deserialize)]
struct Receipt {
    epoch: String,
    seq: u64,
    subscribers: u64,
    /// Whether an earlier attempt has published the message.
    #[serde(default)]
    again: bool,
}

/// The shortest and the longest pause before a message is sent again.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));

impl Publisher {
    fn open(target: Target) -> Result<Self, ClientError> {
        let way = match target.token {
            _ if target.address.protocol == Protocol::Classic => Way::Classic(target.connect_classic()?),
            None => Way::Http(Box::new(Http::new(target.clone())?)),
            Some(_) => Way::WebSocket(OwnThread::open(&target)?),
        };
        Ok(Self { way, target })
    }

    /// Publishes a message, again and again for the time of `--retry`, and prints the receipt.
    fn publish(&mut self, command: &Publish, payload: &Payload) -> Result<(), ClientError> {
        let made = || command.retry.map(|_| made_key());
        let key = command.idempotency_key.clone().or_else(made);
        let end = command.retry.map(|retry| Instant::now() + retry);
        let mut pause = PAUSES.0;
        let receipt = loop {
            let error = match self.publish_once(command, payload, key.as_ref()) {
                Ok(receipt) => break receipt,
                Err(error) => error,
            };
            if end.is_none_or(|end| Instant::now() + pause >= end) || !may_pass(&error) {
                return Err(error);
            }
            wait(pause);
            pause = (pause * 2).min(PAUSES.1);
            if !matches!(error, ClientError::Refused { .. }) {
                // A connection that cannot be made now is for the next attempt.
                if let Ok(publisher) = Self::open(self.target.clone()) {
                    *self = publisher;
                }
            }
        };
        let Receipt { epoch, seq, subscribers, again } = receipt;
        let mut receipt = json!({"topic": command.topic, "epoch": epoch, "seq": seq, "subscribers": subscribers});
        if again {
            receipt["again"] = true.into();
        }
        print_json(&receipt.to_string())
    }

    fn publish_once(
        &mut self,
        command: &Publish,
        payload: &Payload,
        key: Option<&IdempotencyKey>,
    ) -> Result<Receipt, ClientError> {
        let target = &self.target;
        match &mut self.way {
            Way::Http(http) => by_http(http, command, payload, key),
            Way::WebSocket(thread) => thread.publish(target, command, payload, key),
            Way::Classic(connection) => {
                let published = by_classic(connection, target, command, payload);
                published.map_err(|error| target.explain(error.advised(|code| advice(target, code))))
            }
        }
    }
}

/// A key that no other message has.
fn made_key() -> IdempotencyKey {
    let key = format!("{:032x}", fastrand::u128(..));
    key.parse().expect("32 hexadecimal digits are a key")
}

/// Whether another attempt may succeed: the engine of a cluster is away, or the connection to the server.
fn may_pass(error: &ClientError) -> bool {
    match error {
        ClientError::Refused { code, .. } => ["engine_unavailable", "outcome_unknown", "topic_busy"].contains(&&**code),
        ClientError::Connect { .. } | ClientError::Closed | ClientError::Lost(_) | ClientError::Late { .. } => true,
        _ => false,
    }
}

/// The event and the id as JSON text.
fn event_and_id(command: &Publish) -> (String, String) {
    (json!(command.event).to_string(), json!(command.id.as_deref().unwrap_or("")).to_string())
}

fn by_http(
    http: &mut Http,
    command: &Publish,
    payload: &Payload,
    key: Option<&IdempotencyKey>,
) -> Result<Receipt, ClientError> {
    #[derive(Serialize)]
    struct Publication<'a> {
        topic: &'a str,
        event: &'a str,
        message_id: &'a str,
        data: &'a RawValue,
        #[serde(skip_serializing_if = "Option::is_none")]
        exclude: Option<ClientId>,
    }
    let (topic, event, message_id) = (&command.topic, &command.event, command.id.as_deref().unwrap_or(""));
    let (path, body) = match payload {
        Payload::Json(data) => {
            let data = serde_json::from_str(data).map_err(ClientError::NotJson)?;
            let publication = Publication { topic, event, message_id, data, exclude: command.exclude };
            let body = serde_json::to_string(&publication).map_err(ClientError::NotJson)?;
            ("/api/publish".to_owned(), body.into())
        }
        // Not as base64 inside JSON: the limit of the server counts the body.
        Payload::Bytes(bytes) => {
            let mut query = form_urlencoded::Serializer::new("/api/publish?".to_owned());
            query.append_pair("topic", topic).append_pair("event", event).append_pair("message_id", message_id);
            if let Some(client) = command.exclude {
                query.append_pair("exclude", &client.to_string());
            }
            (query.finish(), Bytes::from(bytes.clone()))
        }
    };
    let content = Content { body: Some(body), is_bytes: matches!(payload, Payload::Bytes(_)), key };
    let answer = http.ask_with(&Method::POST, &path, &content)?;
    answer.content().ok_or_else(|| http.refusal(&answer))
}

fn by_classic(
    connection: &mut Connection,
    target: &Target,
    command: &Publish,
    payload: &Payload,
) -> Result<Receipt, ClientError> {
    let (event, id) = event_and_id(command);
    connection.send(&match payload {
        Payload::Json(data) => classic::publish_with_ack(&command.topic, &event, &id, data),
        Payload::Bytes(bytes) => classic::publish_bytes_with_ack(&command.topic, &event, &id, bytes),
    })?;
    let deadline = Instant::now() + target.timeout;
    loop {
        match connection.receive(Some(deadline))? {
            Some(ClassicFrame::Published { epoch, seq, subscribers, .. }) => {
                return Ok(Receipt { epoch: epoch.to_string(), seq, subscribers, again: false });
            }
            Some(ClassicFrame::Error { code, message }) => return Err(ClientError::refused(&code, &message)),
            Some(_) => {}
            None => return Err(ClientError::Late { awaited: "receipt", timeout: target.timeout }),
        }
    }
}

/// A client on a thread of its own, which answers the server's pings while the command waits for input.
struct OwnThread {
    client: Client,
    runtime: Handle,
    /// The thread ends when this is dropped.
    _end: oneshot::Sender<()>,
}

impl OwnThread {
    fn open(target: &Target) -> Result<Self, ClientError> {
        let runtime = runtime()?;
        let connected = runtime.block_on(builder(target).connect());
        let client = connected.map_err(|failure| target.explain(in_words(target, failure)))?;
        let handle = runtime.handle().clone();
        let (end, ended) = oneshot::channel::<()>();
        // An error is the end.
        thread::spawn(move || runtime.block_on(ended).ok());
        Ok(Self { client, runtime: handle, _end: end })
    }

    fn publish(
        &self,
        target: &Target,
        command: &Publish,
        payload: &Payload,
        key: Option<&IdempotencyKey>,
    ) -> Result<Receipt, ClientError> {
        let publish = match payload {
            Payload::Json(data) => {
                let data: &RawValue = serde_json::from_str(data).map_err(ClientError::NotJson)?;
                self.client.publish(&command.topic, data)
            }
            Payload::Bytes(bytes) => self.client.publish_bytes(&command.topic, bytes.clone()),
        };
        let publish = publish.event(&command.event).message_id(command.id.as_deref().unwrap_or(""));
        let publish = if let Some(key) = key { publish.idempotency_key(key.clone()) } else { publish };
        let publish = if let Some(client) = command.exclude { publish.exclude(client) } else { publish };
        let published = self.runtime.block_on(publish.into_future());
        let Published { position, subscribers, again, .. } = published.map_err(|failure| in_words(target, failure))?;
        Ok(Receipt { epoch: position.epoch.to_string(), seq: position.seq, subscribers, again })
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
