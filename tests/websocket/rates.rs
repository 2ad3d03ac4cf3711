//! The rates of a client: a client ahead of a rate is slowed down, and closed if it stays ahead for too long.

use std::ops::Range;
use std::time::Duration;

use janus_core::{Config, Namespace};
use serde_json::json;
use tokio::time::Instant;

use super::{Bystander, FIN, PONG, Seen, Socket, frame, said, serve};
use crate::support::{Close, publish, until};

/// For tests in which the server never runs out of patience.
const FOR_EVER: Duration = Duration::from_secs(3_600);

fn publishing(client_publish_rate: usize) -> Config {
    let default_namespace = Namespace { client_publish_rate, ..Namespace::default() };
    Config { default_namespace, rate_patience: FOR_EVER, ..Config::default() }
}

/// Requests to publish, each with its number as id.
fn publications(ids: Range<u64>, topic: &str) -> Vec<u8> {
    ids.flat_map(|id| said(&json!({"type": "publish", "id": id, "topic": topic, "data": id}))).collect()
}

impl Socket {
    async fn receipts(&mut self, ids: Range<u64>) {
        for id in ids {
            let receipt = self.json().await;
            assert_eq!((&receipt["type"], &receipt["id"]), (&json!("published"), &json!(id)), "{receipt}");
        }
    }
}

#[tokio::test]
async fn a_publisher_ahead_of_its_rate_gets_each_receipt_at_the_rate() {
    let (janus, addr) = serve(publishing(100)).await;
    let mut publisher = Socket::open(addr).await;
    let begun = Instant::now();
    publisher.send(publications(0..150, "news")).await;
    publisher.half_close().await;
    publisher.receipts(0..150).await;
    assert!(begun.elapsed() >= Duration::from_millis(490), "100 at once, and 50 in half a second");
    assert_eq!(publisher.next().await, Seen::End(Close::Fin));
    let stats = janus.stats();
    assert!(stats.publish_rate_waits > 0 && stats.rate_limited == 0, "{stats:?}");
}

#[tokio::test]
async fn a_client_ahead_of_a_rate_for_too_long_is_told_rate_limited() {
    let unsubscribes = said(&json!({"type": "unsubscribe", "topic": "news"})).repeat(400);
    let pings = said(&json!({"type": "ping"})).repeat(400);
    let subscribing = Config { client_subscribe_rate: 10, max_topics_per_client: 4, ..Config::default() };
    let sending = Config { client_bytes_rate: 1_024, max_frame_bytes: 1_024, ..Config::default() };
    for (config, flood, answer, words) in [
        (publishing(10), publications(0..400, "news"), "published", "publish more slowly"),
        (subscribing, unsubscribes, "unsubscribed", "send fewer"),
        (sending, pings, "pong", "send less"),
    ] {
        let (janus, addr) = serve(Config { rate_patience: Duration::from_millis(300), ..config }).await;
        let mut client = Socket::open(addr).await;
        client.send(flood).await;
        let bye = loop {
            let frame = client.json().await;
            match frame["type"].as_str().unwrap() {
                "bye" => break frame,
                // The message that waited for room.
                "error" => assert_eq!(frame["error"], "connection_closed", "{frame}"),
                other => assert_eq!(other, answer),
            }
        };
        assert_eq!((&bye["code"], &bye["error"]), (&json!(4203), &json!("rate_limited")), "{bye}");
        assert!(bye["message"].as_str().unwrap().contains(words), "{bye}");
        assert!((5_000..15_000).contains(&bye["reconnect_after_ms"].as_u64().unwrap()), "{bye}");
        assert_eq!(client.next().await, Seen::Close(Some(4203), "rate_limited".to_owned()));
        assert_eq!(janus.stats().rate_limited, 1);
    }
}

#[tokio::test]
async fn a_client_that_waits_for_its_answers_is_slowed_down_and_never_closed() {
    // A message more every 50 ms: each wait is nearly as long as the patience.
    let (janus, addr) = serve(Config { rate_patience: Duration::from_millis(60), ..publishing(20) }).await;
    let mut publisher = Socket::open(addr).await;
    for id in 0..32 {
        publisher.send(publications(id..id + 1, "news")).await;
        publisher.receipts(id..id + 1).await;
    }
    let stats = janus.stats();
    assert!(stats.publish_rate_waits >= 5 && stats.rate_limited == 0, "{stats:?}");
}

#[tokio::test]
async fn a_client_that_waits_for_room_gets_messages_and_is_not_taken_for_dead() {
    let pinged = Config {
        heartbeat_interval: Duration::from_secs(1),
        pong_timeout: Duration::from_millis(100),
        frame_timeout: Duration::from_millis(200),
        ..publishing(1)
    };
    let (janus, addr) = serve(pinged).await;
    let mut client = Socket::open(addr).await;
    client.subscribe("news").await;
    // The last frame is not complete.
    let flood = publications(0..1_000, "other");
    client.send(&flood[..flood.len() - 1]).await;
    let mut pings = 0;
    while pings < 3 {
        match client.next().await {
            Seen::Ping(_) => {
                pings += 1;
                // Behind all the messages, where the server does not look yet.
                client.send(frame(FIN | PONG, [])).await;
            }
            Seen::Text(receipt) => assert_eq!(receipt["type"], "published"),
            other => panic!("{other:?}"),
        }
    }
    janus.publish("news", "still here").await.unwrap();
    loop {
        let message = client.json().await;
        if message["type"] == "message" {
            break assert_eq!(message["data"], "still here");
        }
    }
    assert_eq!((janus.stats().pings_unanswered, janus.stats().frames_timed_out), (0, 0));
}

#[tokio::test]
async fn each_listed_namespace_has_a_rate_of_its_own() {
    let slow = Namespace { client_publish_rate: 1, ..Namespace::default() };
    let free = Namespace::default();
    let namespaces = [("slow".to_owned(), slow), ("free".to_owned(), free)].into();
    let (janus, addr) = serve(Config { namespaces, ..publishing(2) }).await;
    let mut publisher = Socket::open(addr).await;
    publisher.send(publications(0..1, "slow:a")).await;
    publisher.send(publications(1..100, "free:a")).await;
    publisher.send(publications(100..102, "news")).await;
    publisher.receipts(0..102).await;
    assert_eq!(janus.stats().publish_rate_waits, 0);
    publisher.send(publications(102..103, "slow:b")).await;
    publisher.receipts(102..103).await;
    assert_eq!(janus.stats().publish_rate_waits, 1, "the topics of a namespace share its rate");
}

#[tokio::test]
async fn a_client_exchanges_all_of_its_topics_at_once_and_waits_after_that() {
    let config = Config { client_subscribe_rate: 5, max_topics_per_client: 8, ..Config::default() };
    let (janus, addr) = serve(config).await;
    let mut client = Socket::open(addr).await;
    for kind in ["subscribe", "unsubscribe"] {
        let all = (0..8).flat_map(|topic| said(&json!({"type": kind, "topic": format!("topic {topic}")})));
        client.send(all.collect::<Vec<_>>()).await;
        for _ in 0..8 {
            assert_eq!(client.json().await["type"], format!("{kind}d"));
        }
    }
    assert_eq!(janus.stats().subscribe_rate_waits, 0);
    client.send(said(&json!({"type": "subscribe", "topic": "one"})).repeat(3)).await;
    for answer in ["subscribed", "error", "error"] {
        assert_eq!(client.json().await["type"], answer);
    }
    assert!(janus.stats().subscribe_rate_waits > 0);
}

#[tokio::test]
async fn a_frame_that_waits_for_the_byte_rate_is_not_late() {
    let config = Config {
        client_bytes_rate: 1_024,
        max_frame_bytes: 4_096,
        frame_timeout: Duration::from_millis(200),
        rate_patience: FOR_EVER,
        ..Config::default()
    };
    let (janus, addr) = serve(config).await;
    let mut publisher = Socket::open(addr).await;
    let begun = Instant::now();
    for id in 0..2 {
        publisher.say(json!({"type": "publish", "id": id, "topic": "news", "data": "x".repeat(2_500)})).await;
    }
    publisher.receipts(0..2).await;
    assert!(begun.elapsed() >= Duration::from_millis(900), "5,000 bytes and more, of which 4,096 come at once");
    let stats = janus.stats();
    assert!(stats.bytes_rate_waits > 0 && stats.frames_timed_out == 0, "{stats:?}");
}

#[tokio::test]
async fn a_message_that_waits_for_room_is_refused_when_the_server_drains() {
    let (janus, addr) = serve(publishing(1)).await;
    let mut publisher = Socket::open(addr).await;
    publisher.send(publications(0..3, "news")).await;
    publisher.receipts(0..1).await;
    until("the next message waits", || janus.stats().publish_rate_waits > 0).await;
    let drained = tokio::spawn(async move { janus.shutdown().await });
    let mut error = publisher.json().await;
    while error["type"] == "published" {
        error = publisher.json().await;
    }
    assert_eq!((&error["error"], error["id"].is_u64()), (&json!("server_draining"), true), "{error}");
    publisher.bye(4002).await;
    drained.await.unwrap();
}

#[tokio::test]
async fn floods_ahead_of_their_rate_leave_a_bystander_alone() {
    let (janus, addr) = serve(publishing(50)).await;
    let mut floods = Vec::new();
    for _ in 0..20 {
        let mut flood = Socket::open(addr).await;
        flood.send(publications(0..2_000, "flood")).await;
        floods.push(flood);
    }
    until("they wait", || janus.stats().publish_rate_waits >= 20).await;
    let mut bystander = Bystander::new(addr).await;
    for _ in 0..40 {
        bystander.is_undisturbed("a message").await;
    }
    let stats = janus.stats();
    assert_eq!((stats.connections, stats.rate_limited), (21, 0));
}

#[tokio::test]
async fn a_connection_for_each_message_has_a_rate_for_each() {
    let config = Config { listen: vec![crate::support::own_address()], ..publishing(1) };
    let janus = janus_core::Janus::builder().config(config).start().await.unwrap();
    for message in 0..5 {
        publish(janus.local_addrs()[0], "news", &message.to_string()).await;
    }
    assert_eq!(janus.stats().publish_rate_waits, 0);
}
