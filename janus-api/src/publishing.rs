//! The routes that publish: a message to one topic, or to many.

use std::collections::HashSet;
use std::time::Duration;

use bytes::Bytes;
use janus_core::wire::{Base64, ErrorCode, HttpError, HttpRequest, IdempotencyKey, PublishQuery};
use janus_core::{ClientId, Janus, Message, PublishError, Receipt};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;
use tokio::task::yield_now;

use crate::body::{bad_request, has_type, json, read};
use crate::check_topic;

/// Topics that one broadcast may go to.
pub const MAX_BROADCAST_TOPICS: usize = 1_000;

/// A portion of a broadcast, published before the receipts are awaited: at most this many bytes (but at least one
/// message) to at most 64 topics.
pub const PORTION_BYTES: usize = 256 * 1024;
const PORTION_TOPICS: usize = 64;

/// Publishes the message of a request. `note` is given the topic before the message goes out.
pub(crate) async fn publish(
    janus: &Janus,
    head: &HttpRequest,
    body: Bytes,
    note: impl FnOnce(&str),
) -> Result<Bytes, HttpError> {
    let key = idempotency_key(head)?;
    let (topic, event, message_id, payload, exclude) = if has_type(head, "application/octet-stream") {
        let PublishQuery { topic, event, message_id, exclude, .. } = PublishQuery::parse(head.query())
            .map_err(|error| HttpError::new(400, error.code.as_str(), error.message))?;
        (topic, event, message_id, Payload::Bytes(body), exclude)
    } else {
        let Publish { topic, event, message_id, data, data_base64, exclude } = read(&body)?;
        (topic, event, message_id, Payload::of(data, data_base64)?, exclude)
    };
    check_topic(janus, &topic)?;
    note(&topic);
    let message = message(&topic, &event, &message_id, &payload, exclude)?;
    let message = match key {
        Some(key) => message.idempotency_key(key),
        None => message,
    };
    let receipt = match janus.try_publish(message) {
        Ok(receipt) => receipt.await,
        Err(error) => Err(error),
    };
    let receipt = receipt.map_err(|error| publish_error(&error))?;
    Ok(json(&receipt))
}

/// Publishes the message of a request to each of its topics.
pub(crate) async fn broadcast(janus: &Janus, body: &[u8]) -> Result<Bytes, HttpError> {
    let Broadcast { topics, event, message_id, data, data_base64, exclude } = read(body)?;
    let payload = Payload::of(data, data_base64)?;
    let count = topics.len();
    if !(1..=MAX_BROADCAST_TOPICS).contains(&count) {
        return Err(bad_request(format!("topics: expected 1 to {MAX_BROADCAST_TOPICS} topics, got {count}")));
    }
    let mut seen = HashSet::new();
    // Every name is checked before the first message is published.
    for (index, topic) in topics.iter().enumerate() {
        if !seen.insert(topic) {
            return Err(bad_request(format!("topics: duplicate topic {}", serde_json::Value::from(&**topic))));
        }
        check_topic(janus, topic).map_err(|error| {
            let message = format!("topics[{index}]: {}", error.message);
            HttpError { message, ..error }
        })?;
    }
    let message = message(&topics[0], &event, &message_id, &payload, exclude)?;
    drop(payload);
    Ok(publish_to_all(janus, &message, &topics).await)
}

/// The key of the header `Idempotency-Key`, as on the HTTP port.
fn idempotency_key(head: &HttpRequest) -> Result<Option<IdempotencyKey>, HttpError> {
    let Some(key) = head.header("idempotency-key") else { return Ok(None) };
    key.parse().map(Some).map_err(|error| {
        HttpError::new(400, ErrorCode::BadPublish.as_str(), format!("the header Idempotency-Key: {error}"))
    })
}

/// The payload of a message.
enum Payload {
    Json(Box<RawValue>),
    Bytes(Bytes),
}

impl Payload {
    /// The payload of a request in JSON.
    fn of(data: Option<Box<RawValue>>, base64: Option<String>) -> Result<Self, HttpError> {
        let bad = |message: String| HttpError::new(400, ErrorCode::BadPublish.as_str(), message);
        match (data, base64) {
            (None, None) => Err(bad_request("the body: missing field `data`, or `data_base64` for bytes")),
            (Some(data), None) => Ok(Self::Json(data)),
            (Some(data), Some(_)) if data.get() != "null" => {
                Err(bad("send either \"data\" or \"data_base64\"".to_owned()))
            }
            (_, Some(text)) => {
                let base64 = Base64::new(&text).map_err(|error| bad(format!("\"data_base64\": {error}")))?;
                Ok(Self::Bytes(base64.decode().into()))
            }
        }
    }
}

fn message(
    topic: &str,
    event: &str,
    message_id: &str,
    payload: &Payload,
    exclude: Option<ClientId>,
) -> Result<Message, HttpError> {
    let message = match payload {
        Payload::Json(data) => Message::new(topic, data),
        Payload::Bytes(bytes) => Message::bytes(topic, bytes),
    };
    let message = message.map_err(|error| publish_error(&error))?;
    let message = message.event(event).message_id(message_id);
    Ok(match exclude {
        Some(client) => message.exclude(client),
        None => message,
    })
}

/// Publishes a message to these topics, and answers with the outcome on each.
///
/// A broadcast is completed even if its client disconnects: neither port looks at the connection before the answer is
/// ready. Messages go out in portions. Each portion waits for its receipts, and then other tasks get a turn.
pub(crate) async fn publish_to_all(janus: &Janus, message: &Message, topics: &[String]) -> Bytes {
    let mut results = Vec::with_capacity(topics.len());
    let portion = (PORTION_BYTES / message.len()).clamp(1, PORTION_TOPICS);
    for topics in topics.chunks(portion) {
        let publish = |topic: &String| message.for_topic(topic).and_then(|message| janus.try_publish(message));
        let started: Vec<_> = topics.iter().map(publish).collect();
        for (topic, started) in topics.iter().zip(started) {
            let result = match started {
                Ok(receipt) => receipt.await,
                Err(error) => Err(error),
            };
            results.push(match result {
                Ok(receipt) => Outcome::Published { topic, receipt },
                Err(error) => {
                    let HttpError { code, message, .. } = publish_error(&error);
                    Outcome::Refused { topic, error: ErrorJson { code, message } }
                }
            });
        }
        // Topics without subscribers answer at once, so the receipts above may not have yielded.
        yield_now().await;
    }
    json(&Results { results })
}

fn publish_error(error: &PublishError) -> HttpError {
    let code = match error {
        PublishError::Full => None,
        other => Some(other.code()),
    };
    let status = code.map_or(503, ErrorCode::http_status);
    let mut refusal = HttpError::new(status, code.map_or("topic_busy", ErrorCode::as_str), error.to_string());
    refusal.retry_after = (status == 503).then_some(Duration::from_secs(1));
    refusal
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Publish {
    topic: String,
    #[serde(default)]
    event: String,
    #[serde(default)]
    message_id: String,
    #[serde(default, deserialize_with = "given")]
    data: Option<Box<RawValue>>,
    #[serde(default)]
    data_base64: Option<String>,
    exclude: Option<ClientId>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Broadcast {
    topics: Vec<String>,
    #[serde(default)]
    event: String,
    #[serde(default)]
    message_id: String,
    #[serde(default, deserialize_with = "given")]
    data: Option<Box<RawValue>>,
    #[serde(default)]
    data_base64: Option<String>,
    exclude: Option<ClientId>,
}

/// A value that is there: serde would take `null` for none.
fn given<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Box<RawValue>>, D::Error> {
    Deserialize::deserialize(deserializer).map(Some)
}

#[derive(Debug, Serialize)]
struct Results<'a> {
    results: Vec<Outcome<'a>>,
}

#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Outcome<'a> {
    Published {
        topic: &'a str,
        #[serde(flatten)]
        receipt: Receipt,
    },
    Refused {
        topic: &'a str,
        error: ErrorJson,
    },
}

#[derive(Debug, Serialize)]
struct ErrorJson {
    code: &'static str,
    message: String,
}
