//! The routes that publish: a message to one topic, or to many.

use std::collections::HashSet;
use std::time::Duration;

use http_body_util::Full;
use hyper::Response;
use hyper::body::Bytes;
use janus_core::wire::{ErrorCode, HttpError};
use janus_core::{ClientId, Janus, Message, PublishError, Receipt};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio::task::yield_now;

use super::routes::{bad_request, json};
use super::{Api, traceparent};

/// Topics that one broadcast may go to.
pub(super) const MAX_BROADCAST_TOPICS: usize = 1_000;

/// A portion of a broadcast, published before the receipts are awaited: at most this many bytes (but at least one
/// message) to at most [`PORTION_TOPICS`] topics.
pub(super) const PORTION_BYTES: usize = 256 * 1024;
const PORTION_TOPICS: usize = 64;

impl Api {
    pub(super) async fn publish(
        &self,
        request: Publish,
        traceparent: Option<&str>,
    ) -> Result<Response<Full<Bytes>>, HttpError> {
        self.check_topic(&request.topic)?;
        traceparent::note(traceparent, &request.topic);
        let message = message(&request.topic, &request.event, &request.message_id, &request.data, request.exclude)?;
        let receipt = match self.janus.try_publish(message) {
            Ok(receipt) => receipt.await,
            Err(error) => Err(error),
        };
        let receipt = receipt.map_err(|error| publish_error(&error))?;
        Ok(json(&receipt))
    }

    pub(super) async fn broadcast(&self, request: Broadcast) -> Result<Response<Full<Bytes>>, HttpError> {
        let Broadcast { topics, event, message_id, data, exclude } = request;
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
            self.check_topic(topic).map_err(|error| {
                let message = format!("topics[{index}]: {}", error.message);
                HttpError { message, ..error }
            })?;
        }
        let message = message(&topics[0], &event, &message_id, &data, exclude)?;
        drop(data);
        Ok(publish_to_all(&self.janus, &message, &topics).await)
    }
}

fn message(
    topic: &str,
    event: &str,
    message_id: &str,
    data: &RawValue,
    exclude: Option<ClientId>,
) -> Result<Message, HttpError> {
    let message = Message::new(topic, data).map_err(|error| publish_error(&error))?;
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
pub(super) async fn publish_to_all(janus: &Janus, message: &Message, topics: &[String]) -> Response<Full<Bytes>> {
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
pub(super) struct Publish {
    topic: String,
    #[serde(default)]
    event: String,
    #[serde(default)]
    message_id: String,
    data: Box<RawValue>,
    exclude: Option<ClientId>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Broadcast {
    topics: Vec<String>,
    #[serde(default)]
    event: String,
    #[serde(default)]
    message_id: String,
    data: Box<RawValue>,
    exclude: Option<ClientId>,
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
