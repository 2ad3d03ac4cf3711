//! A slow engine, and a slow node.

use super::moving::{message, subscribed};
use super::*;
use crate::support::{Client, publish_frame, until};

/// Data of a message so long that the buffers of the kernel hold some hundred of these at most.
fn long(number: u64) -> Value {
    json!(format!("{number} {}", "x".repeat(60_000)))
}

fn number_of(data: &Value) -> u64 {
    data.as_str().and_then(|text| text.split(' ').next()?.parse().ok()).unwrap_or_else(|| panic!("no message: {data}"))
}

/// The messages of a topic without an answer of the engine, at most; and all messages.
const ROOM: f64 = 16.0;
const MESSAGES: u64 = 400;

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_engine_holds_up_publishers_and_makes_larger_batches() {
    let redis = RedisServer::start();
    let (engine, room) = (redis.url(), ROOM.to_string());
    let settings = [("JANUS_ENGINE", &*engine), ("JANUS_ENGINE_TIMEOUT", "60 s"), ("JANUS_MAX_INFLIGHT_FRAMES", &room)];
    let node = Node::with(&settings).ready();
    let (mut here, _) = subscribed(&node, None).await;
    redis.pause();
    // More than the kernel holds, so the publisher has to wait until the server reads again.
    let mut publisher = Client::connect(node.classic).await;
    let sending = tokio::spawn(async move {
        for number in 1..=MESSAGES {
            publisher.send(publish_frame("news", &long(number).to_string())).await;
        }
        publisher
    });
    until("the topic is full", || node.figure("janus_engine_waiting_messages") == Some(ROOM)).await;
    let (status, answer) = node.publish("news", 0).await;
    assert_eq!((status, &answer["error"]["code"]), (503, &json!("topic_busy")), "{answer}");
    // Where publications of clients are served, a message waits for room.
    let http = node.http;
    let message = json!({"topic": "news", "data": long(0)});
    let waiting = tokio::spawn(async move { ask_with_key(http, "POST", "/api/publish", Some(message)).await });
    assert_eq!(get(node.admin, "/readyz", "").0, 200);
    assert_eq!(node.figure("janus_engine_waiting_messages"), Some(ROOM));
    assert!(!sending.is_finished() && !waiting.is_finished());
    redis.resume();
    let mut heard = Vec::new();
    for seq in 1..=MESSAGES + 1 {
        let message = here.hear().await;
        assert_eq!(message["seq"], seq, "{message}");
        heard.push(number_of(&message["data"]));
    }
    assert_eq!(waiting.await.unwrap().0, 200);
    heard.retain(|number| *number != 0);
    assert_eq!(heard, (1..=MESSAGES).collect::<Vec<_>>());
    let mut publisher = sending.await.unwrap();
    for _ in 0..MESSAGES {
        let receipt = publisher.json().await;
        assert!(receipt["published"]["seq"].is_u64(), "{receipt}");
    }
    assert_eq!(node.figure("janus_engine_waiting_messages"), Some(0.0));
    // The messages that waited went together.
    let submissions = node.figure("janus_engine_append_seconds_count").unwrap();
    assert!(submissions <= MESSAGES as f64 - ROOM + 3.0, "{submissions} submissions");
}

/// The bytes for a silent node that Redis holds.
const OUTPUT_LIMIT: &str = "pubsub 1mb 0 0";

/// The connections with subscriptions, one of each node.
fn links(redis: &RedisServer) -> usize {
    redis.run(&["CLIENT", "LIST", "TYPE", "pubsub"]).text().lines().count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_node_is_cut_by_the_engine_and_catches_up_from_the_log() {
    let redis = RedisServer::start();
    redis.run(&["CONFIG", "SET", "client-output-buffer-limit", OUTPUT_LIMIT]);
    // Everything comes at once when the node goes on.
    let (engine, queue) = (redis.url(), ("JANUS_MAX_QUEUE_BYTES", "64 MiB"));
    let stopped = Node::with(&[("JANUS_ENGINE", &engine), ("JANUS_NODE_NAME", "stopped"), queue]).ready();
    let other = Node::start(&redis, "other").ready();
    let (mut here, _) = subscribed(&stopped, None).await;
    let (mut there, _) = subscribed(&other, None).await;
    assert_eq!(other.publish("news", 1).await.1["seq"], 1);
    assert_eq!(message(&mut here).await, (1, 1));
    assert_eq!(message(&mut there).await, (1, 1));
    assert_eq!(links(&redis), 2);

    stopped.server.signal("STOP");
    let mut last = 1;
    while links(&redis) == 2 {
        last += 1;
        assert!(last < 1_000, "the engine holds {last} messages");
        let message = json!({"topic": "news", "data": long(last)});
        let (status, answer) = other.ask("POST", "/api/publish", Some(message)).await;
        assert_eq!((status, &answer["seq"]), (200, &json!(last)), "{answer}");
        let heard = there.hear().await;
        assert_eq!((&heard["seq"], number_of(&heard["data"])), (&json!(last), last));
    }
    stopped.server.signal("CONT");
    for number in 2..=last {
        let heard = here.hear().await;
        assert_eq!((&heard["seq"], number_of(&heard["data"])), (&json!(number), number), "of {last}");
    }
    until_status(stopped.admin, "/readyz", 200);
    assert_eq!(stopped.figure("janus_engine_reconnects_total{reason=\"closed\"}"), Some(1.0));
    assert!(stopped.figure("janus_engine_resynced_topics_total") >= Some(1.0));
    assert_eq!(other.figure("janus_engine_resynced_topics_total"), Some(0.0));
    assert_eq!(links(&redis), 2);
}
