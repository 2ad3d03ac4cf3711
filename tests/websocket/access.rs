//! Identities over the modern protocol: the end of a token, refresh, and topics from the start.

use std::sync::atomic::Ordering;
use std::time::Duration;

use janus_core::Config;
use janus_core::hooks::Identity;
use serde_json::{Value, json};

use super::{Socket, said};
use crate::access::{Tokens, alice, in_a_moment, patterns, topic};
use crate::support::{subscribers, until};

/// A client that is served with this token, and the welcome.
async fn welcomed(addr: std::net::SocketAddr, token: &str) -> (Socket, Value) {
    let mut socket = Socket::upgraded(addr).await;
    let welcome = socket.ask(json!({"type": "hello", "auth": token})).await;
    assert_eq!(welcome["type"], "welcome", "{welcome}");
    (socket, welcome)
}

fn refresh(id: u64, token: &str) -> Value {
    json!({"type": "refresh", "id": id, "auth": token})
}

#[tokio::test]
async fn a_token_ends_after_its_grace_unless_the_client_refreshes() {
    let tokens = Tokens::new([("a", alice().expires(in_a_moment())), ("b", alice())]);
    let (janus, _, addr) = tokens.serve(Config { token_grace: Duration::from_millis(100), ..Config::default() }).await;
    let (mut ends, welcome) = welcomed(addr, "a").await;
    assert!((1..=700).contains(&welcome["expires_ms"].as_u64().unwrap()), "{welcome}");
    let (mut lives, _) = welcomed(addr, "a").await;
    let refreshed = lives.ask(refresh(7, "b")).await;
    assert_eq!(refreshed, json!({"type": "refreshed", "id": 7}), "a token without an end");
    let bye = ends.bye(4418).await;
    assert_eq!((&bye["error"], bye.get("reconnect_after_ms")), (&json!("token_expired"), None));
    lives.subscribe("news").await;
    assert_eq!(janus.stats().tokens_expired, 1);
    // The same token is no longer good for a new connection.
    let mut late = Socket::upgraded(addr).await;
    late.say(json!({"type": "hello", "auth": "a"})).await;
    late.bye(4418).await;
}

#[tokio::test]
async fn a_refused_refresh_changes_nothing() {
    let bob = Identity::user("bob").may_subscribe(true);
    let gone = alice().expires(std::time::SystemTime::now());
    let known = [("a", alice().subscribe(patterns(["news"]))), ("b", bob), ("gone", gone)];
    let (_janus, _, addr) = Tokens::new(known).serve(Config::default()).await;
    let (mut socket, _) = welcomed(addr, "a").await;
    for (id, token) in [(1, "b"), (2, "?"), (3, "old"), (4, "gone")] {
        let error = socket.ask(refresh(id, token)).await;
        assert_eq!((&error["id"], &error["error"]), (&json!(id), &json!("forbidden")), "{token}: {error}");
    }
    socket.subscribe("news").await;
    let error = socket.ask(json!({"type": "subscribe", "topic": "chat"})).await;
    assert_eq!(error["error"], "forbidden");
}

#[tokio::test]
async fn a_server_without_hooks_takes_no_refresh() {
    let (_janus, addr) = super::serve(Config::default()).await;
    let mut socket = Socket::open(addr).await;
    let error = socket.ask(refresh(1, "a")).await;
    assert_eq!((&error["id"], &error["error"]), (&json!(1), &json!("forbidden")), "{error}");
}

#[tokio::test]
async fn a_refresh_under_load_ends_what_is_lost_and_loses_nothing_else() {
    const MESSAGES: u64 = 3_000;
    let known =
        [("a", alice().subscribe(patterns(["kept", "lost"]))), ("b", alice().subscribe(patterns(["kept", "new"])))];
    let (janus, _, addr) = Tokens::new(known).serve(Config::default()).await;
    let (mut socket, _) = welcomed(addr, "a").await;
    for topic in ["kept", "lost"] {
        socket.subscribe(topic).await;
    }
    let publisher = {
        let janus = janus.clone();
        tokio::spawn(async move {
            for number in 1..=MESSAGES {
                for topic in ["kept", "lost"] {
                    janus.publish(topic, &number).await.unwrap();
                }
            }
        })
    };
    let (mut kept, mut lost) = (0, 0);
    let (mut refreshed, mut ended) = (false, false);
    while kept < MESSAGES {
        let frame = socket.json().await;
        match (frame["type"].as_str().unwrap(), frame["topic"].as_str()) {
            ("message", Some("kept")) => {
                kept += 1;
                assert_eq!(frame["data"], kept);
                if kept == 500 {
                    socket.say(refresh(9, "b")).await;
                }
            }
            ("message", Some("lost")) => {
                lost += 1;
                assert_eq!(frame["data"], lost);
                assert!(!ended, "a message of a topic that has ended");
            }
            ("refreshed", None) => refreshed = true,
            ("error", Some("lost")) => {
                assert_eq!((&frame["error"], frame.get("id")), (&json!("forbidden"), None), "{frame}");
                ended = true;
            }
            _ => panic!("{frame}"),
        }
    }
    assert!(refreshed && ended && lost < MESSAGES, "{refreshed} {ended} {lost}");
    publisher.await.unwrap();
    assert_eq!(subscribers(&janus, "lost"), Some(0));
    socket.subscribe("new").await;
}

#[tokio::test]
async fn topics_that_a_hook_forbids_end_with_a_refresh() {
    let known = [("a", Identity::user("alice").may_subscribe(true)), ("b", Identity::user("alice"))];
    let (janus, _, addr) = Tokens::asking(known).serve(Config::default()).await;
    let (mut socket, _) = welcomed(addr, "a").await;
    for topic in ["no:news", "news"] {
        socket.subscribe(topic).await;
    }
    assert_eq!(socket.ask(refresh(1, "b")).await["type"], "refreshed");
    let error = socket.json().await;
    assert_eq!((&error["topic"], &error["error"]), (&json!("no:news"), &json!("forbidden")), "{error}");
    // The client is told first; the topic takes the subscriber out in its own time.
    until("the topic is left", || subscribers(&janus, "no:news") == Some(0)).await;
    assert_eq!(subscribers(&janus, "news"), Some(1));
}

#[tokio::test]
async fn topics_of_an_identity_are_subscribed_without_a_request() {
    let known = [
        ("a", alice().may_subscribe(false).topics(["inbox", "news", "third"].map(topic))),
        ("b", alice().may_subscribe(false).topics(["news", "later"].map(topic))),
    ];
    let config = Config { max_topics_per_client: 2, ..Config::default() };
    let (janus, _, addr) = Tokens::new(known).serve(config).await;
    let (mut socket, _) = welcomed(addr, "a").await;
    for name in ["inbox", "news"] {
        let subscribed = socket.json().await;
        assert_eq!((&subscribed["type"], &subscribed["topic"]), (&json!("subscribed"), &json!(name)), "{subscribed}");
        assert_eq!((subscribed.get("id"), &subscribed["seq"]), (None, &json!(0)));
    }
    let error = socket.json().await;
    assert_eq!((&error["topic"], &error["error"]), (&json!("third"), &json!("too_many_topics")), "{error}");
    janus.publish("inbox", "hello").await.unwrap();
    assert_eq!(socket.json().await["data"], "hello");
    // The client asks by itself, and its request takes the place of the server's subscription.
    let subscribed = socket.ask(json!({"type": "subscribe", "id": 1, "topic": "inbox"})).await;
    assert_eq!((&subscribed["type"], &subscribed["seq"]), (&json!("subscribed"), &json!(1)), "{subscribed}");
    let again = socket.ask(json!({"type": "subscribe", "id": 2, "topic": "inbox"})).await;
    assert_eq!(again["error"], "already_subscribed");
    janus.publish("inbox", "once").await.unwrap();
    assert_eq!(socket.json().await["data"], "once");
    // A refresh takes away a topic, and adds another.
    assert_eq!(socket.ask(refresh(3, "b")).await["type"], "refreshed");
    let ended = socket.json().await;
    assert_eq!((&ended["topic"], &ended["error"]), (&json!("inbox"), &json!("forbidden")), "{ended}");
    assert_eq!(socket.json().await["topic"], "later");
    assert_eq!((subscribers(&janus, "news"), subscribers(&janus, "later")), (Some(1), Some(1)));
}

#[tokio::test]
async fn topics_of_an_earlier_token_are_not_subscribed_under_the_next() {
    let known = [
        ("a", alice().may_subscribe(false).topics([topic("secret")])),
        ("b", alice().may_subscribe(false).topics([topic("inbox")])),
    ];
    let (janus, _, addr) = Tokens::new(known).serve(Config::default()).await;
    let mut socket = Socket::upgraded(addr).await;
    // In one packet, so that the second token arrives before the topics of the first are subscribed.
    let hello = json!({"type": "hello", "auth": "a"});
    socket.send([said(&hello), said(&refresh(1, "b"))].concat()).await;
    assert_eq!(socket.json().await["type"], "welcome");
    assert_eq!(socket.json().await["type"], "refreshed");
    let subscribed = socket.json().await;
    assert_eq!((&subscribed["type"], &subscribed["topic"]), (&json!("subscribed"), &json!("inbox")), "{subscribed}");
    assert_eq!(subscribers(&janus, "secret"), None);
}

#[tokio::test]
async fn topics_of_an_identity_longer_than_allowed_are_told_and_left_out() {
    let known = [("a", alice().topics(["x".repeat(20).as_str(), "inbox"].map(topic)))];
    let (_janus, _, addr) = Tokens::new(known).serve(Config { max_topic_bytes: 10, ..Config::default() }).await;
    let (mut socket, _) = welcomed(addr, "a").await;
    assert_eq!(socket.json().await["error"], "bad_topic");
    assert_eq!(socket.json().await["topic"], "inbox");
}

#[tokio::test]
async fn a_resumed_client_asks_for_its_topics_and_gets_none_twice() {
    let identity = alice().topics([topic("inbox")]);
    let (janus, _, addr) = Tokens::new([("a", identity)]).serve(Config::default()).await;
    let (mut socket, welcome) = welcomed(addr, "a").await;
    let position = socket.json().await;
    drop(socket);
    until("the client is gone", || janus.stats().connections == 0).await;
    janus.publish("inbox", "missed").await.unwrap();
    let mut socket = Socket::upgraded(addr).await;
    let welcome = socket.ask(json!({"type": "hello", "auth": "a", "session": welcome["session"]})).await;
    assert_eq!(welcome["resumed"], true, "{welcome}");
    let since = json!({"epoch": position["epoch"], "seq": position["seq"]});
    let subscribed = socket.ask(json!({"type": "subscribe", "id": 1, "topic": "inbox", "since": since})).await;
    assert_eq!((&subscribed["id"], &subscribed["missed"]), (&json!(1), &json!(1)), "{subscribed}");
    assert_eq!(socket.json().await["data"], "missed");
    assert_eq!(subscribers(&janus, "inbox"), Some(1));
}

#[tokio::test]
async fn refreshes_in_a_loop_are_slowed_down() {
    let tokens = Tokens::new([("a", alice())]);
    let (_janus, _, addr) = tokens.serve(Config::default()).await;
    let (mut socket, _) = welcomed(addr, "a").await;
    for id in 0..50 {
        socket.say(refresh(id, "a")).await;
    }
    assert_eq!(socket.json().await["id"], 0);
    // The second waits for its time; a sign of life is behind it.
    socket.say(json!({"type": "ping"})).await;
    assert_eq!(socket.json().await["id"], 1);
    assert_eq!(tokens.refreshes.load(Ordering::Relaxed), 2);
}
