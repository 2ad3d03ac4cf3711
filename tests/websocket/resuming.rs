//! Access to earlier messages: by a position, which any client can guess, and by a session, which is secret.

use std::net::SocketAddr;

use janus_core::{Config, Janus, Namespace, Resume};
use serde_json::{Value, json};

use super::{Socket, serve};
use crate::support::{subscribers, until};

/// Topics of `private:` resume only for sessions, topics of `gone:` never.
fn config() -> Config {
    let with = |resume| Namespace { resume, ..Namespace::default() };
    let namespaces = [("private", with(Resume::Session)), ("gone", with(Resume::Off))];
    let namespaces = namespaces.map(|(name, namespace)| (name.to_owned(), namespace));
    Config { namespaces: namespaces.into(), ..Config::default() }
}

async fn publish(janus: &Janus, topic: &str, numbers: std::ops::RangeInclusive<u64>) {
    for number in numbers {
        assert_eq!(janus.publish(topic, &number).await.expect("published").seq, number);
    }
}

/// A client that sends a hello with the token of an earlier session, known to the server.
async fn come_back(addr: SocketAddr, session: &Value) -> (Socket, Value) {
    let mut socket = Socket::upgraded(addr).await;
    let welcome = socket.ask(json!({"type": "hello", "session": session})).await;
    assert_eq!(welcome["resumed"], true, "{welcome}");
    (socket, welcome["session"].clone())
}

async fn since(socket: &mut Socket, topic: &str, epoch: &Value, seq: u64) -> (Value, Value) {
    let since = json!({"epoch": epoch, "seq": seq});
    let answer = socket.ask(json!({"type": "subscribe", "topic": topic, "since": since})).await;
    assert_eq!(answer["type"], "subscribed", "{answer}");
    (answer["resumed"].clone(), answer["missed"].clone())
}

/// A client that subscribes after the first message, reads up to the third, and is lost. Returns session and epoch.
async fn lost_after_three(janus: &Janus, addr: SocketAddr, topic: &'static str) -> (Value, Value) {
    let _keeper = janus.subscribe(topic).expect("subscribed");
    publish(janus, topic, 1..=1).await;
    let mut socket = Socket::upgraded(addr).await;
    let session = socket.ask(json!({"type": "hello"})).await["session"].clone();
    let epoch = socket.subscribe(topic).await["epoch"].clone();
    publish(janus, topic, 2..=3).await;
    for number in 2..=3 {
        assert_eq!(socket.json().await["seq"], number);
    }
    lose(janus, socket, topic, 1).await;
    (session, epoch)
}

async fn lose(janus: &Janus, socket: Socket, topic: &'static str, left: usize) {
    drop(socket);
    until("it is noticed", || janus.stats().connections == 0 && subscribers(janus, topic) <= Some(left)).await;
}

const RESUMED: fn(u64) -> (Value, Value) = |missed| (json!(true), json!(missed));
const FRESH: (Value, Value) = (Value::Bool(false), Value::Null);

#[tokio::test]
async fn under_resume_session_a_newcomer_sees_no_earlier_message() {
    let (janus, addr) = serve(config()).await;
    for (topic, sees) in [("news", true), ("private:news", false), ("gone:news", false)] {
        let _keeper = janus.subscribe(topic).unwrap();
        publish(&janus, topic, 1..=2).await;
        let mut spy = Socket::open(addr).await;
        let epoch = spy.subscribe(topic).await["epoch"].clone();
        spy.ask(json!({"type": "unsubscribe", "topic": topic})).await;
        let expected = if sees { RESUMED(2) } else { FRESH };
        assert_eq!(since(&mut spy, topic, &epoch, 0).await, expected, "{topic}");
        publish(&janus, topic, 3..=3).await;
        assert_eq!(spy.json().await["seq"], if sees { 1 } else { 3 }, "{topic}");
    }
}

#[tokio::test]
async fn a_client_with_its_session_resumes_exactly_at_its_place() {
    let (janus, addr) = serve(config()).await;
    let (session, epoch) = lost_after_three(&janus, addr, "private:news").await;
    publish(&janus, "private:news", 4..=5).await;
    let (mut socket, session) = come_back(addr, &session).await;
    assert_eq!(since(&mut socket, "private:news", &epoch, 3).await, RESUMED(2));
    publish(&janus, "private:news", 6..=6).await;
    for number in 4..=6 {
        assert_eq!(socket.json().await["seq"], number);
    }
    // And once more, from a position before the messages of this connection.
    lose(&janus, socket, "private:news", 0).await;
    let (mut socket, _) = come_back(addr, &session).await;
    assert_eq!(since(&mut socket, "private:news", &epoch, 4).await, RESUMED(2));
    for number in 5..=6 {
        assert_eq!(socket.json().await["seq"], number);
    }
}

#[tokio::test]
async fn a_session_resumes_no_earlier_than_its_subscribe() {
    let (janus, addr) = serve(config()).await;
    let (session, epoch) = lost_after_three(&janus, addr, "private:news").await;
    let _other = janus.subscribe("private:other").unwrap();
    publish(&janus, "private:other", 1..=1).await;
    let other_epoch = janus.publish("private:other", &2).await.unwrap().epoch;

    let (mut socket, session) = come_back(addr, &session).await;
    assert_eq!(since(&mut socket, "private:other", &json!(other_epoch), 0).await, FRESH, "it was never there");
    assert_eq!(since(&mut socket, "private:news", &epoch, 0).await, FRESH, "it came after the first message");
    lose(&janus, socket, "private:news", 0).await;
    // The subscription has begun anew.
    let (mut socket, session) = come_back(addr, &session).await;
    assert_eq!(since(&mut socket, "private:news", &epoch, 2).await, FRESH);
    // A topic stays left after an unsubscribe.
    socket.ask(json!({"type": "unsubscribe", "topic": "private:news"})).await;
    assert_eq!(since(&mut socket, "private:news", &epoch, 3).await, FRESH);
    lose(&janus, socket, "private:news", 0).await;
    let (mut socket, _) = come_back(addr, &session).await;
    socket.ask(json!({"type": "unsubscribe", "topic": "private:news"})).await;
    assert_eq!(since(&mut socket, "private:news", &epoch, 3).await, FRESH);
}

#[tokio::test]
async fn a_session_lost_again_before_its_subscribe_keeps_its_place() {
    let (janus, addr) = serve(config()).await;
    let (mut session, epoch) = lost_after_three(&janus, addr, "private:news").await;
    publish(&janus, "private:news", 4..=4).await;
    for _ in 0..3 {
        let socket;
        (socket, session) = come_back(addr, &session).await;
        lose(&janus, socket, "private:news", 0).await;
    }
    let (mut socket, _) = come_back(addr, &session).await;
    assert_eq!(since(&mut socket, "private:news", &epoch, 3).await, RESUMED(1));
    assert_eq!(socket.json().await["seq"], 4);
}

#[tokio::test]
async fn a_session_keeps_no_more_places_than_the_limit_of_topics() {
    let (janus, addr) = serve(Config { max_topics_per_client: 3, ..config() }).await;
    let mut socket = Socket::upgraded(addr).await;
    let mut session = socket.ask(json!({"type": "hello"})).await["session"].clone();
    for round in 0..5 {
        for number in 0..3 {
            socket.subscribe(&format!("private:{round}.{number}")).await;
        }
        drop(socket);
        until("it is noticed", || janus.stats().connections == 0).await;
        assert_eq!(janus.sessions().await[0].topics.len(), 3, "round {round}");
        (socket, session) = come_back(addr, &session).await;
    }
}

#[tokio::test]
async fn under_resume_none_a_session_does_not_resume() {
    let (janus, addr) = serve(config()).await;
    let (session, epoch) = lost_after_three(&janus, addr, "gone:news").await;
    let (mut socket, _) = come_back(addr, &session).await;
    assert_eq!(since(&mut socket, "gone:news", &epoch, 3).await, FRESH);
}
