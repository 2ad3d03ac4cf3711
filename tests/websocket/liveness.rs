//! Clients whose program hangs while the kernel is alive: pings find these clients, and no others.

use std::time::Duration;

use janus_core::hooks::{Client, Denied, Hooks};
use janus_core::wire::{Publication, TopicName};
use janus_core::{Config, Janus};
use serde_json::{Value, json};
use tokio::net::TcpSocket;

use super::{FIN, PONG, Seen, Socket, frame, serve, upgrade};
use crate::support::{own_address, subscribers, until};

fn with_pings(heartbeat_ms: u64, pong_ms: u64) -> Config {
    let heartbeat_interval = Duration::from_millis(heartbeat_ms);
    Config { heartbeat_interval, pong_timeout: Duration::from_millis(pong_ms), ..Config::default() }
}

impl Socket {
    /// Reads without answering any ping, up to the goodbye.
    async fn bye_for_silence(&mut self) -> Value {
        let bye = loop {
            match self.next().await {
                Seen::Ping(_) => {}
                Seen::Text(json) if json["type"] == "message" => {}
                Seen::Text(json) => break json,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!((&bye["type"], &bye["code"], &bye["error"]), (&json!("bye"), &json!(4011), &json!("ping_timeout")));
        assert!(bye["reconnect_after_ms"].is_u64(), "{bye}");
        assert_eq!(self.next().await, Seen::Close(Some(4011), "ping_timeout".to_owned()));
        bye
    }

    /// The next event except pings, each of which is answered with these bytes.
    async fn next_answering(&mut self, answer: &[u8]) -> (Seen, usize) {
        let mut pings = 0;
        loop {
            match self.next().await {
                Seen::Ping(_) => {
                    self.send(answer).await;
                    pings += 1;
                }
                other => return (other, pings),
            }
        }
    }
}

#[tokio::test]
async fn a_client_that_answers_no_ping_is_closed_and_may_come_back() {
    let (janus, addr) = serve(with_pings(1_000, 200)).await;
    let mut idle = Socket::open(addr).await;
    let mut subscriber = Socket::open(addr).await;
    subscriber.subscribe("news").await;
    idle.bye_for_silence().await;
    subscriber.bye_for_silence().await;
    until("they are gone", || janus.stats().connections == 0).await;
    assert_eq!((janus.stats().pings_unanswered, janus.stats().detached_sessions), (2, 1));
}

#[tokio::test]
async fn a_client_is_pinged_even_while_messages_flow() {
    // No machine is so slow that no message comes within the ping interval.
    let (janus, addr) = serve(with_pings(2_000, 1_000)).await;
    let mut subscriber = Socket::open(addr).await;
    subscriber.subscribe("news").await;
    let flow = tokio::spawn({
        let janus = janus.clone();
        async move {
            let mut pace = tokio::time::interval(Duration::from_millis(20));
            while subscribers(&janus, "news") == Some(1) {
                pace.tick().await;
                janus.publish("news", "and").await.expect("published");
            }
        }
    });
    subscriber.bye_for_silence().await;
    flow.await.expect("the flow ends with its subscriber");
}

#[tokio::test]
async fn any_frame_of_a_client_proves_its_life() {
    let (janus, addr) = serve(with_pings(1_000, 1_000)).await;
    let beginning = r#"{"type":"unsubscribe","topic":"n"#;
    let unfinished = frame(0x1, beginning);
    for answers in [[frame(FIN | PONG, ""), frame(FIN | PONG, "unasked")], [unfinished, frame(FIN, "\"}")]] {
        let mut socket = Socket::open(addr).await;
        // More than `pong_timeout` without any other frame.
        for number in 0..3 {
            let ping = loop {
                match socket.next().await {
                    Seen::Ping(payload) => break payload,
                    Seen::Text(json) => assert_eq!(json["type"], "unsubscribed", "{json}"),
                    other => panic!("after {number}: {other:?}"),
                }
            };
            assert!(ping.is_empty());
            socket.send(&answers[number % 2]).await;
        }
    }
    assert_eq!(janus.stats().pings_unanswered, 0);
}

/// Never decides about publishes.
struct Undecided;

impl Hooks for Undecided {
    async fn authorize_publish(&self, _: &Client, _: &TopicName, _: &Publication) -> Result<(), Denied> {
        std::future::pending().await
    }
}

#[tokio::test]
async fn a_pong_not_yet_read_by_the_server_counts() {
    let config = Config { listen: Vec::new(), http_listen: vec![own_address()], ..with_pings(1_000, 200) };
    let config = Config { hook_timeout: Duration::from_secs(3), ..config };
    let janus = Janus::builder().config(config).hooks(Undecided).start().await.expect("the server starts");
    let mut socket = Socket::open(janus.local_addrs()[0]).await;
    let pong = frame(FIN | PONG, "");
    // During a question to the hook, the server reads nothing more from the client.
    socket.say(json!({"type": "publish", "id": 1, "topic": "news", "data": 1})).await;
    let (answer, pings) = socket.next_answering(&pong).await;
    let Seen::Text(answer) = answer else { panic!("{answer:?}") };
    assert_eq!((&answer["error"], &answer["id"]), (&json!("authorization_failed"), &json!(1)), "{answer}");
    assert!(pings > 1, "it was asked meanwhile, {pings} times");
    socket.say(json!({"type": "unsubscribe", "id": 2, "topic": "news"})).await;
    let (answer, _) = socket.next_answering(&pong).await;
    assert!(matches!(&answer, Seen::Text(json) if json["id"] == 2), "{answer:?}");
}

#[tokio::test]
async fn a_lagging_client_is_not_closed_for_a_ping_in_its_queue() {
    let config = Config { send_buffer_bytes: 4_096, max_queue_bytes: 64 << 20, ..with_pings(1_000, 300) };
    let config = Config { write_timeout: Duration::from_secs(60), ..config };
    let (janus, addr) = serve(config).await;
    let small = TcpSocket::new_v4().expect("a socket");
    small.set_recv_buffer_size(4_096).expect("its buffer can be set");
    let stream = small.connect(addr).await.expect("connects");
    let mut lagging = Socket { stream, received: Vec::new() };
    lagging.send(upgrade(addr)).await;
    lagging.head().await;
    assert_eq!(lagging.ask(json!({"type": "hello"})).await["type"], "welcome");
    lagging.subscribe("news").await;
    for _ in 0..20 {
        janus.publish("news", &"x".repeat(50_000)).await.expect("published");
    }
    let lags = || janus.slow_clients(1).first().is_some_and(|slow| slow.lagging_for > Duration::from_secs(2));
    until("it has lagged for several times as long as it may owe an answer", lags).await;
    let mut messages = 0;
    while messages < 20 {
        match lagging.next_answering(&frame(FIN | PONG, "")).await.0 {
            Seen::Text(json) if json["type"] == "message" => messages += 1,
            other => panic!("after {messages} messages: {other:?}"),
        }
    }
    assert_eq!(janus.stats().pings_unanswered, 0);
}
