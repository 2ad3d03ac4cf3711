//! Sessions outlive connections: a client comes back with its token and continues without a hole.

use std::time::Duration;

use janus_core::wire::classic::client::attach;
use janus_core::{Config, Fault, Janus, Resume, SlowConsumer};
use serde_json::{Value, json};

use crate::support::{Client, Close, DEADLINE, publish, runs_after_restarts, serve, subscribers, until};

/// A client that can come back.
struct Returning {
    client: Client,
    token: String,
}

impl Returning {
    async fn connect(addr: std::net::SocketAddr) -> Self {
        let mut client = Client::connect_silently(addr).await;
        let token = client.json().await["token"].as_str().expect("a greeting").to_owned();
        Self { client, token }
    }

    async fn numbers(&mut self, count: usize) -> Vec<u64> {
        let mut numbers = Vec::new();
        for _ in 0..count {
            let message = self.client.json().await;
            numbers.push(message["data"].as_u64().unwrap_or_else(|| panic!("not a numbered message: {message}")));
        }
        numbers
    }

    /// Loses the connection and waits until the server has noticed.
    async fn vanish(self, janus: &Janus) -> String {
        let before = janus.stats().detached_sessions;
        drop(self.client);
        until("the session is detached", || janus.stats().detached_sessions > before).await;
        self.token
    }
}

/// Connects with a session's token. Returns the topics of the answer.
async fn come_back(addr: std::net::SocketAddr, token: &str, received: &[(&str, u64)]) -> (Returning, Value) {
    let mut back = Returning::connect(addr).await;
    back.client.send(attach(token, received.iter().copied())).await;
    let answer = back.client.json().await;
    assert!(answer["attached"].is_object(), "not an answer to an attach: {answer}");
    back.token = answer["token"].as_str().expect("the answer names the token").to_owned();
    (back, answer["attached"].clone())
}

async fn publish_numbers(janus: &Janus, topic: &str, numbers: std::ops::Range<u64>) {
    for number in numbers {
        janus.publish(topic, &number).await.expect("published");
    }
}

#[tokio::test]
async fn a_returning_client_gets_missed_messages_and_then_new_messages() {
    let (janus, addr) = serve(Config::default()).await;
    let mut client = Returning::connect(addr).await;
    client.client.subscribe("news").await;
    publish_numbers(&janus, "news", 0..5).await;
    assert_eq!(client.numbers(5).await, [0, 1, 2, 3, 4]);
    let token = client.vanish(&janus).await;
    publish_numbers(&janus, "news", 5..8).await;
    let (mut back, attached) = come_back(addr, &token, &[("news", 5)]).await;
    assert_eq!(attached, json!({"news": {"resumed": true, "missed": 3}}));
    assert_eq!(back.token, token, "the session keeps its token");
    publish_numbers(&janus, "news", 8..10).await;
    assert_eq!(back.numbers(5).await, [5, 6, 7, 8, 9]);
    assert_eq!(subscribers(&janus, "news"), Some(1));
    assert_eq!((janus.stats().sessions, janus.stats().detached_sessions), (1, 0));
}

#[tokio::test]
async fn a_session_resumes_under_resume_session_and_not_under_resume_none() {
    for (resume, expected) in
        [(Resume::Session, json!({"resumed": true, "missed": 2})), (Resume::Off, json!({"resumed": false}))]
    {
        let mut config = Config::default();
        config.default_namespace.resume = resume;
        let (janus, addr) = serve(config).await;
        let mut client = Returning::connect(addr).await;
        client.client.subscribe("news").await;
        publish_numbers(&janus, "news", 0..2).await;
        assert_eq!(client.numbers(2).await, [0, 1]);
        let _other = janus.subscribe("other").unwrap();
        publish_numbers(&janus, "other", 0..1).await;
        let token = client.vanish(&janus).await;
        publish_numbers(&janus, "news", 2..4).await;
        let (mut back, attached) = come_back(addr, &token, &[("news", 2), ("other", 0)]).await;
        assert_eq!(attached, json!({"news": expected, "other": {"resumed": false}}), "{resume}");
        publish_numbers(&janus, "news", 4..5).await;
        let next = if resume == Resume::Off { 4 } else { 2 };
        assert_eq!(back.numbers(1).await, [next], "{resume}");
    }
}

#[tokio::test]
async fn a_client_that_lost_messages_on_the_way_gets_them_again() {
    let (janus, addr) = serve(Config::default()).await;
    let mut client = Returning::connect(addr).await;
    client.client.subscribe("news").await;
    publish_numbers(&janus, "news", 0..5).await;
    assert_eq!(client.numbers(2).await, [0, 1]);
    // Three messages were sent and never read: the server believes them delivered.
    let token = client.vanish(&janus).await;
    let (mut back, attached) = come_back(addr, &token, &[("news", 2)]).await;
    assert_eq!(attached, json!({"news": {"resumed": true, "missed": 3}}));
    assert_eq!(back.numbers(3).await, [2, 3, 4]);
}

#[tokio::test]
async fn a_client_that_missed_nothing_is_told_so() {
    let (janus, addr) = serve(Config::default()).await;
    let mut client = Returning::connect(addr).await;
    client.client.subscribe("news").await;
    let token = client.vanish(&janus).await;
    let (mut back, attached) = come_back(addr, &token, &[("news", 0)]).await;
    assert_eq!(attached, json!({"news": {"resumed": true, "missed": 0}}));
    publish_numbers(&janus, "news", 0..1).await;
    assert_eq!(back.numbers(1).await, [0]);
}

#[tokio::test]
async fn a_session_can_be_resumed_again_and_again() {
    let (janus, addr) = serve(Config::default()).await;
    let mut client = Returning::connect(addr).await;
    client.client.subscribe("news").await;
    let mut received = 0;
    for round in 0..10 {
        publish_numbers(&janus, "news", round * 3..round * 3 + 2).await;
        assert_eq!(client.numbers(2).await, [round * 3, round * 3 + 1]);
        received += 2;
        let token = client.vanish(&janus).await;
        publish_numbers(&janus, "news", round * 3 + 2..round * 3 + 3).await;
        let attached;
        (client, attached) = come_back(addr, &token, &[("news", received)]).await;
        assert_eq!(attached, json!({"news": {"resumed": true, "missed": 1}}));
        assert_eq!(client.numbers(1).await, [round * 3 + 2]);
        received += 1;
    }
}

#[tokio::test]
async fn a_topic_that_cannot_resume_continues_live_and_says_so() {
    let (janus, addr) = serve(Config { resume_messages: 4, ..Config::default() }).await;
    let mut client = Returning::connect(addr).await;
    for topic in ["short", "long", "uncounted", "future"] {
        client.client.subscribe(topic).await;
    }
    let token = client.vanish(&janus).await;
    publish_numbers(&janus, "short", 0..4).await;
    publish_numbers(&janus, "long", 0..5).await;
    let received = [("short", 0), ("long", 0), ("future", 1), ("unknown", 7)];
    let (mut back, attached) = come_back(addr, &token, &received).await;
    assert_eq!(
        attached,
        json!({
            "short": {"resumed": true, "missed": 4},
            "long": {"resumed": false},
            "uncounted": {"resumed": false},
            "future": {"resumed": false},
            "unknown": {"resumed": false},
        })
    );
    assert_eq!(back.numbers(4).await, [0, 1, 2, 3]);
    for topic in ["short", "long", "uncounted", "future", "unknown"] {
        publish_numbers(&janus, topic, 100..101).await;
        assert_eq!(back.numbers(1).await, [100], "{topic}");
    }
    // The count begins anew in the topics named by the answer.
    let token = back.vanish(&janus).await;
    publish_numbers(&janus, "long", 101..103).await;
    let (mut back, attached) = come_back(addr, &token, &[("long", 1), ("short", 5)]).await;
    assert_eq!(attached["long"], json!({"resumed": true, "missed": 2}));
    assert_eq!(attached["short"], json!({"resumed": true, "missed": 0}));
    assert_eq!(back.numbers(2).await, [101, 102]);
}

#[tokio::test]
async fn losing_the_answer_to_an_attach_does_not_misplace_a_client() {
    let (janus, addr) = serve(Config { resume_messages: 16, ..Config::default() }).await;
    let mut client = Returning::connect(addr).await;
    client.client.subscribe("news").await;
    publish_numbers(&janus, "news", 0..5).await;
    assert_eq!(client.numbers(5).await, [0, 1, 2, 3, 4]);
    let token = client.vanish(&janus).await;
    // More than the topic keeps: the answer would be to count anew.
    publish_numbers(&janus, "news", 5..30).await;
    let mut unanswered = Returning::connect(addr).await;
    unanswered.client.send(attach(&token, [("news", 5)])).await;
    until("it is subscribed", || subscribers(&janus, "news") == Some(1)).await;
    unanswered.vanish(&janus).await;
    // With the messages published since, the old count would fit.
    publish_numbers(&janus, "news", 30..40).await;
    let (mut back, attached) = come_back(addr, &token, &[("news", 5)]).await;
    assert_eq!(attached, json!({"news": {"resumed": false}}));
    assert_ne!(back.token, token);
    publish_numbers(&janus, "news", 40..41).await;
    assert_eq!(back.numbers(1).await, [40]);
}

#[tokio::test]
async fn a_client_that_lost_the_answer_to_a_resume_can_resume_again() {
    let (janus, addr) = serve(Config::default()).await;
    let mut client = Returning::connect(addr).await;
    client.client.subscribe("news").await;
    publish_numbers(&janus, "news", 0..2).await;
    assert_eq!(client.numbers(2).await, [0, 1]);
    let token = client.vanish(&janus).await;
    publish_numbers(&janus, "news", 2..4).await;
    let mut unanswered = Returning::connect(addr).await;
    unanswered.client.send(attach(&token, [("news", 2)])).await;
    until("it is subscribed", || subscribers(&janus, "news") == Some(1)).await;
    unanswered.vanish(&janus).await;
    let (mut back, attached) = come_back(addr, &token, &[("news", 2)]).await;
    assert_eq!((attached, &back.token), (json!({"news": {"resumed": true, "missed": 2}}), &token));
    assert_eq!(back.numbers(2).await, [2, 3]);
}

#[tokio::test]
async fn an_unknown_session_is_reported_and_continues_live() {
    let (janus, addr) = serve(Config::default()).await;
    for token in ["0123456789abcdef0123456789abcdef", "nonsense", ""] {
        let (mut back, attached) = come_back(addr, token, &[("news", 3)]).await;
        assert_eq!(attached, json!({"news": {"resumed": false}}));
        assert_ne!(back.token, token, "the token of the greeting stays good");
        publish_numbers(&janus, "news", 0..1).await;
        assert_eq!(back.numbers(1).await, [0]);
        let token = back.vanish(&janus).await;
        let (mut back, attached) = come_back(addr, &token, &[("news", 1)]).await;
        assert_eq!(attached, json!({"news": {"resumed": true, "missed": 0}}));
        back.client.send("PING\0").await;
    }
}

#[tokio::test]
async fn a_session_that_was_detached_for_too_long_is_gone() {
    let config =
        Config { session_ttl: Duration::from_millis(50), topic_idle: Duration::from_millis(100), ..Config::default() };
    let (janus, addr) = serve(config).await;
    let mut client = Returning::connect(addr).await;
    client.client.subscribe("news").await;
    let token = client.vanish(&janus).await;
    until("the session has ended", || janus.stats().sessions == 0).await;
    let (_back, attached) = come_back(addr, &token, &[("news", 0)]).await;
    assert_eq!(attached, json!({"news": {"resumed": false}}));
}

#[tokio::test]
async fn a_topic_without_subscribers_lives_as_long_as_its_last_session() {
    let config = Config { topic_idle: Duration::from_millis(40), ..Config::default() };
    let (janus, addr) = serve(config).await;
    let mut client = Returning::connect(addr).await;
    client.client.subscribe("quiet").await;
    // A second topic shows that the idle time has passed.
    let mut other = Client::connect(addr).await;
    other.subscribe("other").await;
    let token = client.vanish(&janus).await;
    drop(other);
    until("the other topic has its own detached session", || janus.stats().detached_sessions == 2).await;
    janus.publish("quiet", &1).await.unwrap();
    let mut third = Client::connect(addr).await;
    third.subscribe("third").await;
    third.send(janus_core::wire::classic::client::unsubscribe("third")).await;
    until("an unused topic has ended", || janus.topic_info("third").is_none()).await;
    let (mut back, attached) = come_back(addr, &token, &[("quiet", 0)]).await;
    assert_eq!(attached, json!({"quiet": {"resumed": true, "missed": 1}}));
    assert_eq!(back.numbers(1).await, [1]);
}

#[tokio::test]
async fn of_two_claimants_the_newer_gets_the_session_and_the_older_is_told() {
    let (janus, addr) = serve(Config::default()).await;
    let mut older = Returning::connect(addr).await;
    older.client.subscribe("news").await;
    publish_numbers(&janus, "news", 0..2).await;
    assert_eq!(older.numbers(2).await, [0, 1]);
    let (mut newer, attached) = come_back(addr, &older.token, &[("news", 1)]).await;
    assert_eq!(attached, json!({"news": {"resumed": true, "missed": 1}}));
    assert_eq!(older.client.error_code().await, "session_taken");
    assert_eq!(older.client.close().await, Close::Fin);
    assert_eq!(newer.numbers(1).await, [1]);
    until("the older connection has gone", || janus.stats().connections == 1).await;
    publish_numbers(&janus, "news", 2..3).await;
    assert_eq!(newer.numbers(1).await, [2]);
    assert_eq!(subscribers(&janus, "news"), Some(1));
    assert_eq!(janus.stats().sessions, 1);
}

#[tokio::test]
async fn an_older_claimant_read_last_is_told_and_takes_nothing() {
    let (janus, addr) = serve(Config::default()).await;
    let mut first = Returning::connect(addr).await;
    first.client.subscribe("news").await;
    let token = first.vanish(&janus).await;
    // The client gives this connection up; its frames there are still on their way.
    let mut older = Returning::connect(addr).await;
    let (mut newer, attached) = come_back(addr, &token, &[("news", 0)]).await;
    assert_eq!(attached, json!({"news": {"resumed": true, "missed": 0}}));
    older.client.send(attach(&token, [("news", 0)])).await;
    assert_eq!(older.client.error_code().await, "session_taken");
    assert_eq!(older.client.close().await, Close::Fin);
    until("the older connection has gone", || janus.stats().connections == 1).await;
    publish_numbers(&janus, "news", 0..1).await;
    assert_eq!(newer.numbers(1).await, [0]);
    assert_eq!((subscribers(&janus, "news"), janus.stats().sessions), (Some(1), 1));
}

#[tokio::test]
async fn a_client_may_come_back_on_a_spare_connection() {
    let (janus, addr) = serve(Config::default()).await;
    let mut reserve = Returning::connect(addr).await;
    let mut lost = Returning::connect(addr).await;
    lost.client.subscribe("news").await;
    // Only a client that has read from the other connection knows its token.
    reserve.client.send(attach(&lost.token, [("news", 0)])).await;
    assert_eq!(reserve.client.json().await["attached"], json!({"news": {"resumed": true, "missed": 0}}));
    assert_eq!(lost.client.error_code().await, "session_taken");
    publish_numbers(&janus, "news", 0..1).await;
    assert_eq!(reserve.numbers(1).await, [0]);
}

/// The client attaches on one connection, gives up, and attaches on the next, as fast as possible.
#[tokio::test]
async fn the_later_of_two_close_connections_has_the_session() {
    let (janus, addr) = serve(Config::default()).await;
    let mut client = Returning::connect(addr).await;
    client.client.subscribe("news").await;
    for round in 0..20 {
        let mut older = Returning::connect(addr).await;
        let mut newer = Returning::connect(addr).await;
        older.client.send(attach(&client.token, [("news", round)])).await;
        newer.client.send(attach(&client.token, [("news", round)])).await;
        // The older connection may have had the session for a moment.
        while older.client.json().await["error"]["code"] != "session_taken" {}
        assert_eq!(older.client.close().await, Close::Fin);
        assert_eq!(newer.client.json().await["attached"], json!({"news": {"resumed": true, "missed": 0}}));
        publish_numbers(&janus, "news", round..round + 1).await;
        assert_eq!(newer.numbers(1).await, [round]);
        newer.token = client.token;
        client = newer;
    }
}

#[tokio::test]
async fn the_token_of_the_new_connection_dies_with_the_attach() {
    let (janus, addr) = serve(Config::default()).await;
    let mut client = Returning::connect(addr).await;
    client.client.subscribe("news").await;
    let token = client.vanish(&janus).await;
    let mut back = Returning::connect(addr).await;
    let own = back.token.clone();
    back.client.send(attach(&token, [("news", 0)])).await;
    assert_eq!(back.client.json().await["token"], token.as_str());
    let (_third, attached) = come_back(addr, &own, &[("news", 0)]).await;
    assert_eq!(attached, json!({"news": {"resumed": false}}));
    publish_numbers(&janus, "news", 0..1).await;
    assert_eq!(back.numbers(1).await, [0], "nobody has taken the session");
}

#[tokio::test]
async fn a_late_or_senseless_attach_is_refused() {
    let (_janus, addr) = serve(Config { max_topics_per_client: 2, ..Config::default() }).await;
    let token = "0123456789abcdef0123456789abcdef";
    for (frame, code) in [
        ("{\"action\":\"attach\"}", "bad_attach"),
        ("{\"action\":\"attach\",\"data\":\"t\"}", "bad_attach"),
        ("{\"action\":\"attach\",\"data\":{\"token\":\"t\"}}", "bad_attach"),
        ("{\"action\":\"attach\",\"data\":{\"received\":{}}}", "bad_attach"),
        ("{\"action\":\"attach\",\"data\":{\"token\":1,\"received\":{}}}", "bad_attach"),
        ("{\"action\":\"attach\",\"data\":{\"token\":\"t\",\"received\":[]}}", "bad_attach"),
        ("{\"action\":\"attach\",\"data\":{\"token\":\"t\",\"received\":{\"a\":-1}}}", "bad_attach"),
        ("{\"action\":\"attach\",\"data\":{\"token\":\"t\",\"received\":{\"a\":1.5}}}", "bad_attach"),
        ("{\"action\":\"attach\",\"data\":{\"token\":\"t\",\"received\":{\"a\":99999999999999999999}}}", "bad_attach"),
        ("{\"action\":\"attach\",\"data\":{\"token\":\"t\",\"received\":{\"\":1}}}", "bad_topic"),
        ("{\"action\":\"attach\",\"data\":{\"token\":\"t\",\"received\":{\"a\":1,\"a\":1}}}", "duplicate_key"),
        (
            "{\"action\":\"attach\",\"data\":{\"token\":\"t\",\"received\":{\"a\":1,\"b\":1,\"c\":1}}}",
            "too_many_topics",
        ),
    ] {
        let mut client = Client::connect(addr).await;
        client.send(format!("{frame}\0")).await;
        assert_eq!(client.error_code().await, code, "{frame}");
        // The connection stays usable.
        client.subscribe("news").await;
        client.send(attach(token, [])).await;
        assert_eq!(client.error_code().await, "bad_attach", "not the first frame");
    }
    // A client cannot take over its own session.
    let mut client = Returning::connect(addr).await;
    client.client.send(attach(&client.token, [("news", 0)])).await;
    assert_eq!(client.client.json().await["attached"], json!({"news": {"resumed": false}}));
}

#[tokio::test]
async fn a_duplicate_key_or_topic_is_named() {
    let (_janus, addr) = serve(Config::default()).await;
    let mut client = Client::connect(addr).await;
    for (frame, named) in [
        (r#"{"action":"subscribe","action":"subscribe","data":"t"}"#, "key \"action\""),
        (r#"{"action":"publish","data":{"topic":"t"},"ack":true,"ack":false}"#, "key \"ack\""),
        (r#"{"action":"publish","data":{"topic":"t"},"data":{"topic":"u"}}"#, "key \"data\""),
        (r#"{"action":"publish","data":{"topic":"t","event":1,"event":2}}"#, "key \"event\""),
        (r#"{"action":"attach","data":{"token":"t","token":"u","received":{}}}"#, "key \"token\""),
        (r#"{"action":"attach","data":{"token":"t","received":{"a\"":1,"b":1,"a\"":2}}}"#, "topic \"a\\\"\""),
    ] {
        client.send(format!("{frame}\0")).await;
        let answer = client.json().await;
        let expected = format!("duplicate {named}: send it once");
        let error = &answer["error"];
        assert_eq!((error["code"].as_str(), error["message"].as_str()), (Some("duplicate_key"), Some(&*expected)));
    }
}

#[tokio::test]
async fn a_slow_replay_amid_publishing_has_no_hole_and_no_repeat() {
    let config =
        Config { send_buffer_bytes: 4 * 1024, resume_messages: 10_000, resume_bytes: 64 << 20, ..Config::default() };
    let (janus, addr) = serve(config).await;
    let mut client = Returning::connect(addr).await;
    client.client.subscribe("news").await;
    let token = client.vanish(&janus).await;
    let padding = "x".repeat(2_000);
    for number in 0..1_000 {
        janus.publish("news", &(number, &padding)).await.unwrap();
    }
    let (mut back, attached) = come_back(addr, &token, &[("news", 0)]).await;
    assert_eq!(attached, json!({"news": {"resumed": true, "missed": 1_000}}));
    let publisher = tokio::spawn({
        let janus = janus.clone();
        async move {
            for number in 1_000..1_500 {
                janus.publish("news", &(number, "live")).await.unwrap();
            }
        }
    });
    for number in 0..1_500 {
        assert_eq!(back.client.json().await["data"][0], number);
    }
    publisher.await.unwrap();
}

#[tokio::test]
async fn a_replay_overtaken_by_new_messages_closes_the_client_with_a_reason() {
    let config = Config { send_buffer_bytes: 4 * 1024, resume_messages: 100, ..Config::default() };
    let (janus, addr) = serve(Config { resume_bytes: 64 << 20, ..config }).await;
    let mut client = Returning::connect(addr).await;
    client.client.subscribe("news").await;
    let token = client.vanish(&janus).await;
    let padding = "x".repeat(60_000);
    for number in 0..100 {
        janus.publish("news", &(number, &padding)).await.unwrap();
    }
    let (mut back, attached) = come_back(addr, &token, &[("news", 0)]).await;
    assert_eq!(attached, json!({"news": {"resumed": true, "missed": 100}}));
    // The client reads nothing during this time; the promised messages not yet delivered are pushed out.
    for number in 100..300 {
        janus.publish("news", &(number, "live")).await.unwrap();
    }
    let mut next = 0;
    let code = loop {
        let frame = back.client.json().await;
        match frame["data"][0].as_u64() {
            Some(number) => {
                assert_eq!(number, next, "no hole before the end");
                next += 1;
            }
            None => break frame["error"]["code"].clone(),
        }
    };
    assert_eq!(code, "topic_unavailable");
    assert_eq!(back.client.close().await, Close::Fin);
    assert!(next < 100);
    // The next attempt reports the hole.
    until("the session is detached", || janus.stats().detached_sessions == 1).await;
    let (_again, attached) = come_back(addr, &token, &[("news", next)]).await;
    assert_eq!(attached, json!({"news": {"resumed": false}}));
}

#[tokio::test]
async fn a_session_resumes_across_crashes_of_its_topic_and_its_transport() {
    let (janus, addr) = serve(Config::default()).await;
    let mut client = Returning::connect(addr).await;
    let peer = client.client.local_addr();
    client.client.subscribe("news").await;
    publish_numbers(&janus, "news", 0..3).await;
    assert_eq!(client.numbers(3).await, [0, 1, 2]);
    janus.inject(Fault::Transport(peer));
    let _ = client.client.close().await;
    until("the session is detached", || janus.stats().detached_sessions == 1).await;
    let token = client.token;
    publish_numbers(&janus, "news", 3..5).await;
    // A warm restart keeps the ring.
    janus.inject(Fault::Topic("news".to_owned()));
    until("the topic has restarted", || runs_after_restarts(&janus, "news", 1)).await;
    let (mut back, attached) = come_back(addr, &token, &[("news", 3)]).await;
    assert_eq!(attached, json!({"news": {"resumed": true, "missed": 2}}));
    assert_eq!(back.numbers(2).await, [3, 4]);
}

#[tokio::test]
async fn a_cold_restart_of_the_topic_is_reported_as_a_hole() {
    let (janus, addr) = serve(Config::default()).await;
    let mut client = Returning::connect(addr).await;
    client.client.subscribe("news").await;
    publish_numbers(&janus, "news", 0..3).await;
    assert_eq!(client.numbers(3).await, [0, 1, 2]);
    let token = client.vanish(&janus).await;
    publish_numbers(&janus, "news", 3..4).await;
    let epoch = janus.publish("news", &4).await.unwrap().epoch;
    for restarts in 1..=3 {
        until("the topic runs", || runs_after_restarts(&janus, "news", restarts - 1)).await;
        janus.inject(Fault::Topic("news".to_owned()));
    }
    until("the topic has restarted", || runs_after_restarts(&janus, "news", 3)).await;
    assert_ne!(janus.publish("news", &5).await.unwrap().epoch, epoch, "it was a cold restart");
    let (_back, attached) = come_back(addr, &token, &[("news", 3)]).await;
    assert_eq!(attached, json!({"news": {"resumed": false}}));
}

#[tokio::test]
async fn a_conflated_topic_cannot_be_resumed_by_count_after_a_drop() {
    let config = Config { max_queue_frames: 4, send_buffer_bytes: 4 * 1024, ..Config::default() };
    let namespace = janus_core::Namespace { slow_consumer: SlowConsumer::Conflate, ..config.default_namespace.clone() };
    let (janus, addr) = serve(Config { default_namespace: namespace, ..config }).await;
    let mut client = Returning::connect(addr).await;
    client.client.subscribe("quotes").await;
    let padding = "x".repeat(20_000);
    // Far more than sockets and queue hold.
    for number in 0..1_000 {
        janus.publish("quotes", &(number, &padding)).await.unwrap();
    }
    let (mut last, mut count) = (None, 0);
    while last != Some(999) {
        let number = client.client.json().await["data"][0].as_u64();
        assert!(number > last, "in order");
        (last, count) = (number, count + 1);
    }
    assert!(count < 1_000, "what waited was replaced by the latest");
    assert!(janus.stats().messages_conflated > 0);
    let token = client.vanish(&janus).await;
    let (_back, attached) = come_back(addr, &token, &[("quotes", count)]).await;
    assert_eq!(attached, json!({"quotes": {"resumed": false}}));
}

#[tokio::test]
async fn a_mass_of_disconnected_clients_comes_back_without_a_hole() {
    let (janus, addr) = serve(Config::default()).await;
    let mut tokens = Vec::new();
    for _ in 0..300 {
        let mut client = Returning::connect(addr).await;
        client.client.subscribe("news").await;
        tokens.push(client);
    }
    let tokens: Vec<String> = tokens.into_iter().map(|client| client.token).collect();
    until("all are detached", || janus.stats().detached_sessions == 300).await;
    publish(addr, "news", "0").await;
    let returns = tokens.into_iter().map(|token| async move {
        let (mut back, attached) = come_back(addr, &token, &[("news", 0)]).await;
        assert_eq!(attached, json!({"news": {"resumed": true, "missed": 1}}));
        assert_eq!(back.numbers(1).await, [0]);
        back
    });
    let returns: Vec<_> = returns.map(tokio::spawn).collect();
    let mut clients = Vec::new();
    for returned in returns {
        clients.push(tokio::time::timeout(DEADLINE, returned).await.expect("in time").expect("no hole"));
    }
    assert_eq!(subscribers(&janus, "news"), Some(300));
    assert_eq!(janus.stats().detached_sessions, 0);
}

#[tokio::test]
async fn a_returning_client_keeps_a_topic_that_is_out_of_service() {
    let config = Config { topic_quarantine: Duration::from_secs(600), ..Config::default() };
    let (janus, addr) = serve(config).await;
    let mut client = Returning::connect(addr).await;
    for topic in ["healthy", "cursed"] {
        client.client.subscribe(topic).await;
    }
    publish_numbers(&janus, "cursed", 0..1).await;
    assert_eq!(client.numbers(1).await, [0]);
    let mut token = client.vanish(&janus).await;
    janus.inject(Fault::TopicStarts(100));
    janus.inject(Fault::Topic("cursed".to_owned()));
    until("the topic is out of service", || janus.topic_info("cursed").is_some_and(|topic| !topic.available)).await;
    for round in 0..3 {
        publish_numbers(&janus, "healthy", round..round + 1).await;
        let (mut back, attached) = come_back(addr, &token, &[("healthy", round), ("cursed", 1)]).await;
        let expected = json!({"healthy": {"resumed": true, "missed": 1}, "cursed": {"resumed": true, "missed": 0}});
        assert_eq!(attached, expected);
        assert_eq!(back.numbers(1).await, [round]);
        token = back.vanish(&janus).await;
    }
}

#[tokio::test]
async fn a_client_cannot_resume_more_topics_than_the_limit() {
    let (janus, addr) = serve(Config { max_topics_per_client: 2, ..Config::default() }).await;
    let mut client = Returning::connect(addr).await;
    client.client.subscribe("a").await;
    let token = client.vanish(&janus).await;
    let (mut back, attached) = come_back(addr, &token, &[("b", 0), ("c", 0)]).await;
    assert_eq!(attached, json!({"a": {"resumed": false}, "b": {"resumed": false}}));
    assert_eq!(back.client.error_code().await, "too_many_topics");
    let token = back.vanish(&janus).await;
    let (mut back, attached) = come_back(addr, &token, &[("d", 0), ("e", 0)]).await;
    assert_eq!(attached.as_object().map(serde_json::Map::len), Some(2));
    assert_eq!(back.client.error_code().await, "too_many_topics");
}

#[tokio::test]
async fn an_attach_without_room_for_a_topic_says_so() {
    let (_janus, addr) = serve(Config { max_topics: 1, ..Config::default() }).await;
    let mut client = Client::connect(addr).await;
    client.subscribe("one").await;
    let (mut back, attached) = come_back(addr, "", &[("two", 0)]).await;
    assert_eq!(attached, json!({}));
    assert_eq!(back.client.error_code().await, "too_many_topics_on_server");
}

#[tokio::test]
async fn a_client_that_leaves_right_after_its_ack_can_come_back() {
    let (janus, addr) = serve(Config::default()).await;
    for round in 0..50 {
        let topic = format!("topic {round}");
        let mut client = Returning::connect(addr).await;
        client.client.subscribe(&topic).await;
        let peer = client.client.local_addr();
        janus.inject(Fault::Transport(peer));
        let _ = client.client.close().await;
        let (_back, attached) = come_back(addr, &client.token, &[(&topic, 0)]).await;
        assert_eq!(attached[&topic], json!({"resumed": true, "missed": 0}), "round {round}");
    }
}
