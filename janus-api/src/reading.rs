//! The routes that read: the history and the members of a topic, the nodes of a cluster, and the figures.

use std::error::Error;
use std::time::SystemTime;

use bytes::Bytes;
use janus_core::wire::{Base64, ErrorCode, HttpError, HttpRequest, Member};
use janus_core::{
    Delivery, Epoch, HistoryError, Janus, MetricKind, NodeInfo, Position, PresenceError, PresenceInfo, Stats,
};
use serde::ser::SerializeMap as _;
use serde::{Deserialize, Serialize, Serializer};

use crate::body::{Whole, bad_request, json, no_query, read, to_json};
use crate::query::Query;
use crate::room::Room;
use crate::{DEFAULT_LIMIT, MAX_ANSWER_BYTES, MAX_LIMIT, check_topic};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct History {
    topic: String,
    #[serde(default)]
    since: Option<SinceJson>,
    #[serde(default)]
    limit: Option<Whole>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct SinceJson {
    epoch: Epoch,
    seq: Whole,
}

pub(crate) async fn history(janus: &Janus, room: &Room, body: &[u8]) -> Result<Bytes, HttpError> {
    let request: History = read(body)?;
    check_topic(janus, &request.topic)?;
    let limit = limit(request.limit.as_ref().map(|limit| limit.0))?;
    let since = request.since.as_ref().map(|since| Position { epoch: since.epoch, seq: since.seq.0 });
    let mut history = janus.history(&request.topic, since, limit).await.map_err(|error| match &error {
        HistoryError::NotKept => {
            let message = "no history is kept for this topic; the server's operator can set history = true, in \
                           [namespace.NAME] for topics NAME:…, or at the top level for topics without a namespace";
            HttpError::new(404, "no_history", message)
        }
        HistoryError::EngineUnavailable => unavailable(ErrorCode::EngineUnavailable, &error),
        HistoryError::TooManyTopics => unavailable(ErrorCode::TooManyTopicsOnServer, &error),
        other => bad_request(other.to_string()),
    })?;
    let messages = &mut history.messages;
    if since.is_none() {
        let cut = messages.len() - fitting(messages.iter().rev());
        messages.drain(..cut);
        history.more |= cut > 0;
    } else if let Some(last) = fitting(messages.iter()).checked_sub(1)
        && last + 1 < messages.len()
    {
        messages.truncate(last + 1);
        (history.position, history.more) = (messages[last].position, true);
    }
    room.check(history.messages.iter().map(text_bytes).sum())?;
    // Publishing has checked the messages; a fault of ours must not end the process.
    let answer = serde_json::to_vec(&HistoryJson { topic: &request.topic, history: &history });
    room.take(answer.map_err(|error| HttpError::new(500, ErrorCode::Internal.as_str(), error.to_string()))?)
}

pub(crate) async fn presence(janus: &Janus, room: &Room, query: &str) -> Result<Bytes, HttpError> {
    let query = Query::of(query, &["topic"])?;
    let topic = query.text("topic").unwrap_or_default();
    check_topic(janus, topic)?;
    let mut presence = janus.presence(topic).await.map_err(|error| match &error {
        PresenceError::Off => HttpError::new(404, ErrorCode::NoPresence.as_str(), error.to_string()),
        PresenceError::EngineUnavailable => unavailable(ErrorCode::EngineUnavailable, &error),
        other => bad_request(other.to_string()),
    })?;
    let bytes = |member: &Member| member.user.len() + member.info.as_ref().map_or(0, |info| info.len());
    let length = presence.members.iter().flatten().map(bytes).sum();
    if length > MAX_ANSWER_BYTES {
        presence.members = None;
    } else {
        room.check(length)?;
    }
    room.take(to_json(&PresenceJson { topic, presence: &presence }))
}

pub(crate) fn nodes(janus: &Janus, head: &HttpRequest) -> Result<Bytes, HttpError> {
    no_query(head)?;
    Ok(json(&Nodes { nodes: janus.nodes() }))
}

pub(crate) fn stats(janus: &Janus, head: &HttpRequest) -> Result<Bytes, HttpError> {
    no_query(head)?;
    // A clock before 1970 is wrong in any case.
    let time = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let time = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    Ok(json(&StatsJson { version: env!("CARGO_PKG_VERSION"), time, stats: Figures(&janus.stats()) }))
}

/// How many of these messages fit into one answer.
fn fitting<'a>(messages: impl Iterator<Item = &'a Delivery>) -> usize {
    let mut bytes = 0;
    let fits = messages.enumerate().take_while(|(index, message)| {
        bytes += text_bytes(message);
        *index == 0 || bytes <= MAX_ANSWER_BYTES
    });
    fits.count()
}

fn text_bytes(message: &Delivery) -> usize {
    let payload = message.base64().map_or_else(|| message.data(), Base64::as_str);
    message.event().len() + message.message_id().len() + payload.len()
}

fn limit(asked_for: Option<u64>) -> Result<usize, HttpError> {
    let limit = asked_for.map_or(Some(DEFAULT_LIMIT), |limit| usize::try_from(limit).ok());
    let limit = limit.filter(|limit| (1..=MAX_LIMIT).contains(limit));
    limit.ok_or_else(|| bad_request("limit: expected a whole number from 1 to 10,000"))
}

/// For a request that may succeed later.
fn unavailable(code: ErrorCode, error: &dyn Error) -> HttpError {
    HttpError::new(code.http_status(), code.as_str(), error.to_string())
}

#[derive(Debug, Serialize)]
struct HistoryJson<'a> {
    topic: &'a str,
    #[serde(flatten)]
    history: &'a janus_core::History,
}

#[derive(Debug, Serialize)]
struct PresenceJson<'a> {
    topic: &'a str,
    #[serde(flatten)]
    presence: &'a PresenceInfo,
}

#[derive(Debug, Serialize)]
struct Nodes {
    nodes: Vec<NodeInfo>,
}

#[derive(Serialize)]
struct StatsJson<'a> {
    version: &'static str,
    /// Milliseconds since 1970.
    time: u64,
    stats: Figures<'a>,
}

/// All figures of a moment, each under its name.
struct Figures<'a>(&'a Stats);

impl Serialize for Figures<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        for metric in self.0.metrics() {
            map.serialize_entry(metric.name, &Figure { value: metric.value, kind: metric.kind, text: metric.text })?;
        }
        map.end()
    }
}

#[derive(Serialize)]
struct Figure {
    value: u64,
    kind: MetricKind,
    text: &'static str,
}
