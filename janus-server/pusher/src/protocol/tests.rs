use janus_core::Epoch;
use janus_core::wire::{Base64, BytesMut, Codec as _, ErrorCode, Position, WebSocket};
use serde_json::Value;

use super::*;
use crate::app::tests::app;

const AT: Position = Position { epoch: Epoch::NONE, seq: 1 };

/// The messages for an event, without the headers of their frames.
fn encoded(event: &ServerEvent<'_>) -> Vec<Value> {
    let mut out = BytesMut::new();
    WebSocket::new(Protocol::new(app(|_| {}))).encode(event, &Timestamp::default(), &mut out);
    let (mut rest, mut messages) = (&out[..], Vec::new());
    while let [0x81, length, ..] = *rest {
        let (header, length) = match length {
            126 => (4, usize::from(u16::from_be_bytes([rest[2], rest[3]]))),
            length => (2, usize::from(length)),
        };
        messages.push(serde_json::from_slice(&rest[header..header + length]).unwrap());
        rest = &rest[header + length..];
    }
    messages
}

fn topic(name: &str) -> TopicName {
    TopicName::new(name, 255).unwrap()
}

fn published(name: &str, event: &str, message_id: &str, data: &str, base64: Option<Base64<'_>>) -> Value {
    let (topic, topic_json) = (topic(name), Value::from(name).to_string());
    let message = NumberedMessage {
        topic: &topic,
        topic_json: &topic_json,
        position: AT,
        horizon: None,
        timestamp: Timestamp::default(),
        event,
        message_id,
        data,
        base64,
    };
    encoded(&ServerEvent::Message(message)).remove(0)
}

#[test]
fn a_message_has_its_data_as_a_string() {
    assert_eq!(
        published("pusher:news", "\"greeting\"", "\"\"", "{\"price\":1.50}", None),
        json!({ "event": "greeting", "channel": "news", "data": "{\"price\":1.50}" })
    );
    assert_eq!(published("pusher:news", "\"\"", "1", "\"hello\"", None)["event"], "message");
    assert_eq!(published("pusher:news", "1", "1", "\"hello\"", None)["data"], "hello");
    let bytes = Base64::new("AP8=").unwrap();
    assert_eq!(published("pusher:news", "\"frame\"", "1", "null", Some(bytes))["data"], "AP8=");
}

#[test]
fn no_publisher_speaks_for_the_server() {
    for event in [
        "pusher:error",
        "pusher_internal:member_added",
        "\\u0070usher:ping",
        "pusher\\u003aerror",
        "pusher:\\\"",
        "pusher:",
    ] {
        let seen = published("pusher-presence:presence-a", &format!("\"{event}\""), "1", "{\"user_id\":1}", None);
        assert_eq!((&seen["event"], &seen["data"]), (&json!("message"), &json!("{\"user_id\":1}")), "{event}");
    }
    for event in ["pusher", "pushers:a", "Pusher:a", "a.pusher:b", "App\\\\Events\\\\OrderShipped"] {
        let meant: String = serde_json::from_str(&format!("\"{event}\"")).unwrap();
        assert_eq!(published("pusher:news", &format!("\"{event}\""), "1", "1", None)["event"], meant);
    }
}

#[test]
fn a_client_event_of_a_presence_channel_names_its_sender() {
    let seen = |name, event| published(name, event, "\"alice\"", "1", None)["user_id"].clone();
    assert_eq!(seen("pusher-presence:presence-a", "\"client-typed\""), "alice");
    assert_eq!(seen("pusher-presence:presence-a", "\"typed\""), Value::Null);
    assert_eq!(seen("pusher:private-a", "\"client-typed\""), Value::Null);
}

#[test]
fn the_members_are_the_answer_to_a_subscription_to_a_presence_channel() {
    let topic = topic("pusher-presence:presence-a");
    let subscribed = |topic| ServerEvent::Subscribed {
        id: Some(SUBSCRIBE),
        topic,
        position: AT,
        last: None,
        horizon: None,
        since: None,
        missed: None,
        repeated: 0,
    };
    assert_eq!(encoded(&subscribed(&topic)), Vec::<Value>::new());
    let members = [Member::new("10", Some("{\"price\":1.50}")), Member::new("11", None)];
    let told = encoded(&ServerEvent::Presence { id: None, topic: &topic, count: 2, members: Some(&members) });
    let data = r#"{"presence":{"count":2,"ids":["10","11"],"hash":{"10":{"price":1.50},"11":null}}}"#;
    let event = "pusher_internal:subscription_succeeded";
    assert_eq!(told, [json!({ "event": event, "channel": "presence-a", "data": data })]);
    let joined = encoded(&ServerEvent::Joined { topic: &topic, count: 2, members: &members });
    assert_eq!(joined.len(), 2);
    let data = r#"{"user_id":"10","user_info":{"price":1.50}}"#;
    assert_eq!(joined[0], json!({ "event": "pusher_internal:member_added", "channel": "presence-a", "data": data }));
    let left = encoded(&ServerEvent::Left { topic: &topic, count: 0, members: &members });
    assert_eq!((left.len(), &left[1]["event"]), (2, &json!("pusher_internal:member_removed")));
}

#[test]
fn a_client_is_told_of_a_cache_channel_without_a_message() {
    let told = |missed| {
        let topic = topic("pusher-cache:private-cache-a");
        let event = ServerEvent::Subscribed {
            id: Some(SUBSCRIBE),
            topic: &topic,
            position: AT,
            last: None,
            horizon: None,
            since: None,
            missed,
            repeated: 0,
        };
        encoded(&event).iter().map(|message| message["event"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(told(Some(0)), ["pusher_internal:subscription_succeeded", "pusher:cache_miss"]);
    assert_eq!(told(Some(1)), ["pusher_internal:subscription_succeeded"]);
}

#[test]
fn errors_have_the_numbers_of_pusher() {
    let topic = topic("pusher:news");
    let error = |id, topic| ServerEvent::Error { id, topic, code: ErrorCode::TooManyTopics, message: "too many" };
    let told = encoded(&error(Some(SUBSCRIBE), Some(&topic))).remove(0);
    assert_eq!((&told["event"], &told["channel"]), (&json!("pusher:subscription_error"), &json!("news")));
    assert!(told["data"].as_str().unwrap().contains(r#""type":"LimitReached""#), "{told}");
    let told = encoded(&error(Some(CLIENT_EVENT), Some(&topic))).remove(0);
    assert_eq!(told, json!({ "event": "pusher:error", "data": { "code": 4301, "message": "too many" } }));
    let refusal =
        Refusal { id: None, code: ErrorCode::ServerDraining, message: "bye", reconnect_after: None, status: None };
    let told = encoded(&ServerEvent::Bye(refusal)).remove(0);
    assert_eq!(told["data"]["code"], 4200);
    let protocol = Protocol::new(app(|_| {}));
    assert_eq!(protocol.close(&refusal).code, 4200);
    assert_eq!(protocol.close(&Refusal { code: ErrorCode::FrameTooLarge, ..refusal }).code, 1009);
}
