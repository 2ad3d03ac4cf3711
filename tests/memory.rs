//! What is accounted for as memory.

use std::time::Duration;

use janus_core::{Config, Fault, Janus};

use crate::support::{Client, publish_frame, serve, subscribe_frame, until};

fn used(janus: &Janus) -> usize {
    janus.stats().memory_used
}

/// Subscribes to many topics at once.
async fn subscribe_all(client: &mut Client, topics: &[String]) {
    let frames: Vec<u8> = topics.iter().flat_map(|topic| subscribe_frame(topic)).collect();
    client.send(frames).await;
    for _ in topics {
        assert_eq!(client.frame().await, "ACK");
    }
}

fn topics(count: usize) -> Vec<String> {
    (0..count).map(|number| format!("topic {number}")).collect()
}

#[tokio::test]
async fn everything_that_is_accounted_for_is_given_back() {
    let short = Duration::from_millis(50);
    let config = Config {
        session_ttl: short,
        topic_idle: short,
        max_queue_bytes: 200_000,
        send_buffer_bytes: 4 * 1024,
        write_timeout: Duration::from_secs(30),
        ..Config::default()
    };
    let (janus, addr) = serve(config).await;
    assert_eq!((janus.stats().memory_used, janus.stats().memory_budget), (0, 0));
    let mut clients = Vec::new();
    for topics in [topics(3), topics(2), topics(1)] {
        let mut client = Client::connect(addr).await;
        subscribe_all(&mut client, &topics).await;
        clients.push(client);
    }
    let idle = used(&janus);
    // A Transport that crashes with half a frame, and one that is left with half a frame.
    let padding = "x".repeat(30_000);
    let mut crashing = Client::connect(addr).await;
    let mut leaving = Client::connect(addr).await;
    for client in [&mut crashing, &mut leaving] {
        client.send(&padding).await;
    }
    until("half a frame is seen", || used(&janus) > idle + 2 * padding.len()).await;
    janus.inject(Fault::Transport(crashing.local_addr()));
    crashing.close().await;
    leaving.half_close().await;
    assert_eq!(leaving.error_code().await, "unfinished_frame");
    // A topic that crashes with messages in hand, in its inbox and numbered.
    for _ in 0..4 {
        janus.inject(Fault::TopicCommit(3));
        let mut publisher = Client::connect(addr).await;
        publisher.send(publish_frame("topic 2", "1").repeat(20)).await;
        for _ in 0..20 {
            publisher.json().await;
        }
    }
    // A client that is cut off with a full queue.
    while janus.stats().slow_consumers == 0 {
        janus.publish("topic 0", &padding).await.unwrap();
    }
    drop((clients, leaving));
    until("nothing is left", || used(&janus) == 0).await;
    let stats = janus.stats();
    assert_eq!((stats.connections, stats.sessions, stats.topics), (0, 0, 0));
}

#[tokio::test]
async fn unfinished_frames_of_many_clients_are_accounted_for() {
    let (janus, addr) = serve(Config::default()).await;
    let mut clients = Vec::new();
    for _ in 0..100 {
        clients.push(Client::connect(addr).await);
    }
    let before = used(&janus);
    let part = format!("{{\"action\":\"subscribe\",\"data\":\"{}", " ".repeat(60_000));
    for client in &mut clients {
        client.send(&part).await;
    }
    until("all of it is there", || used(&janus) == before + 100 * part.len()).await;
    for client in &mut clients {
        client.send("\"}\0").await;
        assert_eq!(client.error_code().await, "bad_topic");
    }
    until("they are finished", || used(&janus) == before).await;
}

#[tokio::test]
async fn what_a_publisher_waits_with_is_accounted_for() {
    let config = Config { max_inflight_frames: 1, resume_messages: 0, ..Config::default() };
    let (janus, addr) = serve(config).await;
    let mut subscriber = Client::connect(addr).await;
    subscriber.subscribe("news").await;
    let mut publisher = Client::connect(addr).await;
    let before = used(&janus);
    janus.inject(Fault::TopicHang(Duration::from_millis(500)));
    let message = format!("\"{}\"", "x".repeat(4_000));
    // One read: the first is in the topic's inbox, the second waits for room there, and the third for the second.
    publisher.send(publish_frame("news", &message).repeat(3)).await;
    until("all of it is seen", || used(&janus) > before + 3 * message.len()).await;
    for _ in 0..3 {
        subscriber.frame().await;
        publisher.frame().await;
    }
    until("nothing is kept", || used(&janus) == before).await;
}

#[tokio::test]
async fn what_a_topic_refuses_as_it_goes_out_of_service_is_given_back() {
    let (janus, addr) = serve(Config { topic_quarantine: Duration::from_secs(600), ..Config::default() }).await;
    let mut subscriber = Client::connect(addr).await;
    subscriber.subscribe("cursed").await;
    let mut publisher = Client::connect(addr).await;
    let before = used(&janus);
    janus.inject(Fault::TopicStarts(6));
    janus.inject(Fault::TopicCommit(1));
    let message = format!("\"{}\"", "x".repeat(1_000));
    publisher.send(publish_frame("cursed", &message).repeat(10)).await;
    assert!(publisher.json().await["published"].is_object());
    for _ in 1..10 {
        assert_eq!(publisher.error_code().await, "topic_unavailable");
    }
    // Not even the one that has a number: the topic started afresh before it was given up.
    until("none of them is left", || used(&janus) < before + message.len()).await;
}

#[tokio::test]
async fn a_topic_that_nobody_uses_forgets_what_is_too_old() {
    let config = Config {
        resume_age: Duration::from_millis(100),
        write_timeout: Duration::from_millis(400),
        ..Config::default()
    };
    let (janus, addr) = serve(config).await;
    let mut client = Client::connect(addr).await;
    subscribe_all(&mut client, &topics(100)).await;
    let before = used(&janus);
    let padding = "x".repeat(1_000);
    for topic in topics(100) {
        janus.publish(&topic, &padding).await.unwrap();
        client.frame().await;
    }
    until("its messages are gone", || used(&janus) == before).await;
}
