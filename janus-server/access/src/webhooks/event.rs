//! Events as JSON.

use janus_core::SlowClient;
use janus_core::hooks::{Client, Disconnect};
use janus_core::wire::{Peer, TopicName};
use serde::Serialize;

use crate::backend::Backend;

/// What has happened, and to whom.
#[derive(Debug, Default, Serialize)]
pub(super) struct Event<'a> {
    event: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    connection: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    transport: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    peer: Option<Peer>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<&'a str>,
    /// Why the server has ended the connection; nothing if the client has ended it, or the connection was lost.
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    queued_frames: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    queued_bytes: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    lagging_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    topic: Option<&'a str>,
}

impl<'a> Event<'a> {
    pub(super) fn connected(backend: &Backend, client: &'a Client) -> Self {
        Self::of(backend, "connected", client)
    }

    pub(super) fn disconnected(backend: &Backend, client: &'a Client, why: Disconnect) -> Self {
        let code = match why {
            Disconnect::ByServer(code) => Some(code.as_str()),
            // The enum may have further variants in a later version.
            _ => None,
        };
        Self { code, ..Self::of(backend, "disconnected", client) }
    }

    pub(super) fn slow(backend: &Backend, client: &'a Client, lag: &SlowClient) -> Self {
        Self {
            queued_frames: Some(lag.queued_frames),
            queued_bytes: Some(lag.queued_bytes),
            lagging_ms: Some(u64::try_from(lag.lagging_for.as_millis()).unwrap_or(u64::MAX)),
            ..Self::of(backend, "slow", client)
        }
    }

    pub(super) fn topic_occupied(topic: &'a TopicName) -> Self {
        Self { event: "topic_occupied", topic: Some(topic.as_str()), ..Self::default() }
    }

    pub(super) fn topic_vacated(topic: &'a TopicName) -> Self {
        Self { event: "topic_vacated", topic: Some(topic.as_str()), ..Self::default() }
    }

    pub(super) fn is_of_a_topic(&self) -> bool {
        self.topic.is_some()
    }

    fn of(backend: &Backend, event: &'static str, client: &'a Client) -> Self {
        let user = &*client.identity.user;
        Self {
            event,
            connection: Some(backend.name_of(client.connection)),
            transport: Some(client.transport),
            peer: Some(client.peer),
            user: (!user.is_empty()).then_some(user),
            ..Self::default()
        }
    }
}

/// An event with its name in the order of events.
#[derive(Serialize)]
struct Numbered<'a> {
    id: String,
    time_ms: u64,
    #[serde(flatten)]
    event: &'a Event<'a>,
}

/// The text of an event with this number.
pub(super) fn text(instance: &str, number: u64, time_ms: u64, event: &Event<'_>) -> String {
    let numbered = Numbered { id: format!("{instance}-{number}"), time_ms, event };
    serde_json::to_string(&numbered).expect("texts and numbers")
}

/// The body of a request with these events.
pub(super) fn body<'a>(instance: &str, events: impl Iterator<Item = &'a str>) -> String {
    let events: Vec<&str> = events.collect();
    format!("{{\"version\":1,\"instance\":\"{instance}\",\"events\":[{}]}}", events.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_is_a_list_of_events_with_ids() {
        let topic = TopicName::new("a \"quoted\" name", 255).unwrap();
        let events = [(1, Event::topic_occupied(&topic)), (2, Event::topic_vacated(&topic))];
        let texts = events.map(|(number, event)| text("9f", number, 1_800_000_000_000, &event));
        let read: serde_json::Value = serde_json::from_str(&body("9f", texts.iter().map(|text| &**text))).unwrap();
        let expected = serde_json::json!({"version": 1, "instance": "9f", "events": [
            {"id": "9f-1", "time_ms": 1_800_000_000_000_u64, "event": "topic_occupied", "topic": "a \"quoted\" name"},
            {"id": "9f-2", "time_ms": 1_800_000_000_000_u64, "event": "topic_vacated", "topic": "a \"quoted\" name"},
        ]});
        assert_eq!(read, expected);
    }
}
