//! Clients that come and go. The state left behind takes nothing from the clients that stay.

#![cfg(target_os = "linux")]

use std::net::SocketAddr;
use std::time::Duration;

use janus_core::wire::classic::client::attach;
use janus_core::{Config, Epoch, Janus};
use serde_json::json;

use crate::cli_run::Running;
use crate::support::{Client, serve, subscribe_frame, subscribers, until};

const STRANGER: [u8; 4] = [127, 0, 0, 3];
const BYSTANDER: [u8; 4] = [127, 0, 0, 2];
const NEWCOMER: [u8; 4] = [127, 0, 0, 4];

async fn unsubscribe(client: &mut Client, topic: &str) {
    client.send(format!("{{\"action\":\"unsubscribe\",\"data\":\"{topic}\"}}\0")).await;
}

/// Connects, subscribes, and loses the connection. Returns the token for a later attach.
async fn come_and_go(janus: &Janus, addr: SocketAddr, from: [u8; 4], topics: &[&str]) -> String {
    let mut client = Client::connect_silently_from(from, addr).await;
    let token = client.json().await["token"].as_str().expect("a greeting").to_owned();
    for topic in topics {
        client.subscribe(topic).await;
    }
    drop(client.reset_on_drop());
    until("the connection is gone", || janus.stats().connections == 0).await;
    token
}

/// Comes back and reads the answer about the topics.
async fn come_back(addr: SocketAddr, token: &str, received: &[(&str, u64)]) -> (Client, serde_json::Value) {
    let mut client = Client::connect(addr).await;
    client.send(attach(token, received.iter().copied())).await;
    let answer = client.json().await;
    (client, answer["attached"].clone())
}

#[tokio::test]
async fn sessions_left_by_a_stranger_end_only_the_strangers_sessions() {
    let (janus, addr) = serve(Config { max_detached_sessions: 20, ..Config::default() }).await;
    let mut tokens = Vec::new();
    for _ in 0..3 {
        tokens.push(come_and_go(&janus, addr, BYSTANDER, &["news"]).await);
    }
    for _ in 0..60 {
        come_and_go(&janus, addr, STRANGER, &["other"]).await;
    }
    assert_eq!(janus.stats().detached_sessions, 20, "the stranger may have the places that nobody else needs");
    for token in tokens {
        let (_client, attached) = come_back(addr, &token, &[("news", 0)]).await;
        assert_eq!(attached, json!({"news": {"resumed": true, "missed": 0}}));
    }
}

#[tokio::test]
async fn an_abandoned_topic_makes_room_at_once_for_a_new_topic() {
    let (_janus, addr) = serve(Config { max_topics: 3, ..Config::default() }).await;
    let mut client = Client::connect(addr).await;
    for number in 0..50 {
        let topic = format!("topic {number}");
        client.subscribe(&topic).await;
        unsubscribe(&mut client, &topic).await;
    }
    for topic in ["a", "b", "c"] {
        client.subscribe(topic).await;
    }
    client.send(subscribe_frame("d")).await;
    assert_eq!(client.error_code().await, "too_many_topics_on_server", "no topic that is used makes room");
}

#[tokio::test]
async fn a_topic_with_kept_messages_makes_room_within_its_address_share() {
    let (janus, addr) = serve(Config { max_topics: 2, ..Config::default() }).await;
    let mut client = Client::connect(addr).await;
    for topic in ["a", "b", "c", "d"] {
        client.subscribe(topic).await;
        assert_eq!(janus.publish(topic, &1).await.unwrap().seq, 1);
        client.frame().await;
        unsubscribe(&mut client, topic).await;
        until("the topic is left", || subscribers(&janus, topic) == Some(0)).await;
    }
}

#[tokio::test]
async fn a_client_that_moves_from_topic_to_topic_keeps_few_places() {
    let (janus, addr) = serve(Config { max_topics_per_client: 8, ..Config::default() }).await;
    let mut client = Client::connect(addr).await;
    let mut most = 0;
    for number in 0..500 {
        let topic = format!("topic {number}");
        client.subscribe(&topic).await;
        unsubscribe(&mut client, &topic).await;
        most = janus.stats().topics.max(most);
    }
    // The allowed topics, the same number of abandoned topics, and topics about to end.
    assert!(most <= 8 + 2 * 8 + 64, "{most} topics");
}

#[tokio::test]
async fn topics_of_departed_clients_make_room_and_their_sessions_resume() {
    let (janus, addr) = serve(Config { max_topics: 3, ..Config::default() }).await;
    let token = come_and_go(&janus, addr, BYSTANDER, &["a", "b", "c"]).await;
    let mut newcomer = Client::connect_from(NEWCOMER, addr).await;
    for topic in ["d", "e"] {
        newcomer.subscribe(topic).await;
    }
    let left = ["a", "b", "c"].into_iter().filter(|topic| janus.topic_info(topic).is_some()).count();
    // Topics of several homes that were left together were left in no order.
    assert_eq!(left, 1, "two have made room");
    unsubscribe(&mut newcomer, "d").await;
    unsubscribe(&mut newcomer, "e").await;
    until("they are left", || ["d", "e"].iter().all(|topic| subscribers(&janus, topic) == Some(0))).await;
    // A message published to a topic that is asleep is not lost.
    assert_eq!(janus.publish("b", "while it was away").await.unwrap().seq, 1);
    let (mut back, attached) = come_back(addr, &token, &[("a", 0), ("b", 0), ("c", 0)]).await;
    let missed = |missed: u64| json!({"resumed": true, "missed": missed});
    assert_eq!(attached, json!({"a": missed(0), "b": missed(1), "c": missed(0)}));
    assert_eq!(back.json().await["data"], "while it was away");
    for topic in ["a", "b", "c"] {
        janus.publish(topic, topic).await.unwrap();
        assert_eq!(back.json().await["data"], topic);
    }
}

#[tokio::test]
async fn a_session_learns_of_a_message_published_while_its_topic_slept() {
    let (janus, addr) = serve(Config { max_topics: 1, ..Config::default() }).await;
    let token = come_and_go(&janus, addr, BYSTANDER, &["a"]).await;
    let mut newcomer = Client::connect_from(NEWCOMER, addr).await;
    newcomer.subscribe("b").await;
    // There is no room to wake the topic.
    let receipt = janus.publish("a", "unheard").await.unwrap();
    assert_eq!((receipt.epoch, receipt.seq), (Epoch::NONE, 0));
    unsubscribe(&mut newcomer, "b").await;
    until("it is left", || subscribers(&janus, "b") == Some(0)).await;
    let (_back, attached) = come_back(addr, &token, &[("a", 0)]).await;
    assert_eq!(attached, json!({"a": {"resumed": false}}));
}

#[tokio::test]
async fn a_detached_session_does_not_keep_topics_without_messages() {
    let config = Config { topic_idle: Duration::from_millis(50), resume_messages: 1, ..Config::default() };
    let (janus, addr) = serve(config).await;
    let token = come_and_go(&janus, addr, BYSTANDER, &["a", "b"]).await;
    until("its topics have ended", || janus.stats().topics == 0).await;
    assert_eq!(janus.publish("a", &1).await.unwrap().seq, 1, "the message is kept for the session");
    let (mut back, attached) = come_back(addr, &token, &[("a", 0), ("b", 0)]).await;
    let missed = |missed: u64| json!({"resumed": true, "missed": missed});
    assert_eq!(attached, json!({"a": missed(1), "b": missed(0)}));
    assert_eq!(back.json().await["data"], 1);
}

#[tokio::test]
async fn the_numbers_of_a_topic_continue_after_sleep() {
    let short = Duration::from_millis(50);
    let (janus, addr) = serve(Config { topic_idle: short, resume_age: short, ..Config::default() }).await;
    let mut client = Client::connect_silently(addr).await;
    let token = client.json().await["token"].as_str().expect("a greeting").to_owned();
    client.subscribe("a").await;
    let before = janus.publish("a", &1).await.unwrap();
    client.frame().await;
    drop(client);
    until("its topic has ended", || janus.stats().topics == 0).await;
    let after = janus.publish("a", &2).await.unwrap();
    assert_eq!((after.epoch, after.seq), (before.epoch, before.seq + 1));
    until("its topic has ended again", || janus.stats().topics == 0).await;
    let (_back, attached) = come_back(addr, &token, &[("a", 1)]).await;
    assert_eq!(attached, json!({"a": {"resumed": false}}), "the second message is too old");
}

#[tokio::test]
async fn topics_left_by_a_stranger_end_before_other_topics() {
    let (janus, addr) = serve(Config { max_topics: 20, max_topics_per_client: 100, ..Config::default() }).await;
    let mut bystander = Client::connect_from(BYSTANDER, addr).await;
    bystander.subscribe("quiet").await;
    unsubscribe(&mut bystander, "quiet").await;
    until("it is left", || subscribers(&janus, "quiet") == Some(0)).await;
    let mut stranger = Client::connect_from(STRANGER, addr).await;
    for number in 0..60 {
        let topic = format!("noise {number}");
        stranger.subscribe(&topic).await;
        unsubscribe(&mut stranger, &topic).await;
    }
    let mut newcomer = Client::connect_from(NEWCOMER, addr).await;
    newcomer.subscribe("new").await;
    assert_eq!(subscribers(&janus, "quiet"), Some(0), "the topic of the bystander is still there");
}

#[tokio::test]
async fn an_address_above_its_share_takes_no_room_from_addresses_below() {
    let config = Config { max_topics: 10, address_share: 20, ..Config::default() };
    let (janus, addr) = serve(config).await;
    let mut bystander = Client::connect_from(BYSTANDER, addr).await;
    for topic in ["quiet 1", "quiet 2"] {
        bystander.subscribe(topic).await;
        unsubscribe(&mut bystander, topic).await;
        until("it is left", || subscribers(&janus, topic) == Some(0)).await;
    }
    let mut stranger = Client::connect_from(STRANGER, addr).await;
    for number in 0..8 {
        stranger.subscribe(&format!("noise {number}")).await;
    }
    stranger.send(subscribe_frame("one more")).await;
    assert_eq!(stranger.error_code().await, "too_many_topics_on_server");
    assert_eq!(janus.stats().topics, 10);
    let mut newcomer = Client::connect_from(NEWCOMER, addr).await;
    newcomer.subscribe("new").await;
    assert_eq!(janus.topic_info("quiet 1"), None, "the topic that was left first has made room");
}

#[tokio::test]
async fn a_reached_limit_is_logged_with_the_largest_holder() {
    let server = Running::start(&[
        "--listen",
        "127.0.0.1:0",
        "--max-topics",
        "1",
        "--max-detached-sessions",
        "0",
        "--max-connections",
        "2",
    ]);
    let line = server.error_line("listening on ");
    let addr: SocketAddr = line.rsplit(' ').next().unwrap().parse().unwrap();
    let mut stranger = Client::connect_from(STRANGER, addr).await;
    stranger.subscribe("a").await;
    stranger.send(subscribe_frame("b")).await;
    assert_eq!(stranger.error_code().await, "too_many_topics_on_server");
    let line = server.error_line("max_topics (1) is reached");
    assert!(line.contains(", 1 refused,") && line.ends_with("127.0.0.3 holds the most: 1"), "{line}");
    let bystander = Client::connect_from(BYSTANDER, addr).await;
    let mut refused = Client::connect(addr).await;
    refused.send(subscribe_frame("a")).await;
    assert_eq!(refused.error_code().await, "too_many_connections");
    server.error_line("max_connections (2) is reached");
    drop((bystander, stranger));
    server.error_line("max_detached_sessions (0) is reached: 1 sessions without a connection ended early");
}
