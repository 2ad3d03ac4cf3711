//! `janus.v1.json` over WebSocket, from the hello to the goodbye.

use std::net::SocketAddr;
use std::time::Duration;

use janus_core::hooks::{Client, Denied, Hooks};
use janus_core::wire::{Publication, TopicName};
use janus_core::{ClientId, Config, Fault, Janus};
use serde_json::{Value, json};

use super::{Bystander, FIN, PING, PONG, Seen, Socket, TEXT, close, frame, said, serve, text};
use crate::support::{Close, own_address, runs_after_restarts, subscribers, until};

/// A client that has just sent a hello with the token of an earlier session. Returns the welcome, too.
async fn come_back(addr: SocketAddr, session: &Value) -> (Socket, Value) {
    let mut socket = Socket::upgraded(addr).await;
    let welcome = socket.ask(json!({"type": "hello", "session": session})).await;
    assert_eq!(welcome["type"], "welcome", "{welcome}");
    (socket, welcome)
}

/// A position in the client's notation, from the epoch and the number that the client was told.
fn since(epoch: &Value, seq: u64) -> Value {
    json!({"epoch": epoch, "seq": seq})
}

#[track_caller]
fn assert_error(answer: &Value, code: &str, id: Option<u64>) {
    let seen = (answer["type"].as_str(), answer["error"].as_str(), answer["id"].as_u64());
    assert_eq!(seen, (Some("error"), Some(code), id), "{answer}");
    assert_eq!(answer.get("id").is_some(), id.is_some(), "{answer}");
    assert!(answer["code"].as_u64().is_some_and(|code| (4_000..4_600).contains(&code)), "{answer}");
    assert!(answer["message"].as_str().is_some_and(|message| !message.is_empty()), "{answer}");
}

#[tokio::test]
async fn the_welcome_tells_the_limits_of_the_configuration() {
    let config = Config {
        max_frame_bytes: 1_234,
        max_topic_bytes: 56,
        max_topics_per_client: 7,
        heartbeat_interval: Duration::from_millis(8_900),
        ..Config::default()
    };
    let (_janus, addr) = serve(config).await;
    let mut socket = Socket::upgraded(addr).await;
    let mut welcome = socket.ask(json!({"type": "hello"})).await;
    let token = welcome["session"].take();
    assert!(token.as_str().is_some_and(|token| token.len() == 32), "{token}");
    let client = welcome["client"].take();
    assert!(client.as_str().is_some_and(|client| client.parse::<ClientId>().is_ok()), "{client}");
    let limits = json!({"max_frame_bytes": 1_234, "max_topic_bytes": 56, "max_topics": 7});
    let expected = json!({
        "type": "welcome", "session": null, "client": null, "resumed": false, "limits": limits, "heartbeat_ms": 8_900
    });
    assert_eq!(welcome, expected);
}

#[tokio::test]
async fn only_pings_are_accepted_before_the_hello() {
    let (janus, addr) = serve(Config::default()).await;
    let mut bystander = Bystander::new(addr).await;
    let firsts = [
        json!({"type": "subscribe", "id": 1, "topic": "news"}),
        json!({"type": "unsubscribe", "topic": "news"}),
        json!({"type": "publish", "topic": "bystander", "data": "unheard"}),
        json!({"type": "ping"}),
        json!({"type": "pong"}),
        json!({"type": "welcome"}),
        json!({"type": "hello", "session": 7}),
        json!({}),
        json!([]),
        json!("hello"),
    ];
    for first in firsts {
        let mut socket = Socket::upgraded(addr).await;
        // After the request, a hello comes too late.
        socket.send([said(&first), said(&json!({"type": "hello"}))].concat()).await;
        let bye = socket.bye(4412).await;
        assert_eq!((&bye["error"], bye.get("reconnect_after_ms")), (&json!("bad_open"), None), "{first}");
        bystander.is_undisturbed(&first.to_string()).await;
    }
    for (first, code) in [("{", 4400), ("hello", 4400), (r#"{"type":"hello","type":"hello"}"#, 4406)] {
        let mut socket = Socket::upgraded(addr).await;
        socket.send(text(first)).await;
        socket.bye(code).await;
    }
    let mut socket = Socket::upgraded(addr).await;
    socket.send([frame(FIN | PING, "hello?"), frame(FIN | PONG, "")].concat()).await;
    assert_eq!(socket.next().await, Seen::Pong(b"hello?".into()));
    assert_eq!(socket.ask(json!({"type": "hello"})).await["type"], "welcome");
    assert_eq!(subscribers(&janus, "news"), None);
}

#[tokio::test]
async fn a_second_hello_ends_the_connection() {
    let (_janus, addr) = serve(Config::default()).await;
    let mut socket = Socket::open(addr).await;
    socket.subscribe("news").await;
    socket.say(json!({"type": "hello"})).await;
    assert_eq!(socket.bye(4412).await["error"], "bad_open");
}

#[tokio::test]
async fn the_conversation_of_the_document_works() {
    let (_janus, addr) = serve(Config::default()).await;
    let mut socket = Socket::open(addr).await;
    let subscribed = socket.ask(json!({"type": "subscribe", "id": 1, "topic": "news"})).await;
    let epoch = subscribed["epoch"].clone();
    assert!(epoch.as_str().is_some_and(|epoch| epoch.len() == 16), "{epoch}");
    let expected = json!({"type": "subscribed", "id": 1, "topic": "news", "epoch": epoch, "seq": 0, "resumed": false});
    assert_eq!(subscribed, expected);
    // As text, because the publisher's bytes are carried unchanged.
    let publish =
        r#"{"type":"publish","id":2,"topic":"news","event":"greeting","message_id":"1","data":{"price" : 1.50}}"#;
    let mut other = Socket::open(addr).await;
    other.send(text(publish)).await;
    let published = json!({
        "type": "published", "id": 2, "topic": "news", "epoch": epoch, "seq": 1, "subscribers": 1
    });
    assert_eq!(other.json().await, published);
    let message = loop {
        if let Some((_, payload)) = socket.take_frame() {
            break String::from_utf8(payload).expect("a message is text");
        }
        socket.more().await.expect("it goes on");
    };
    let time = serde_json::from_str::<Value>(&message).expect("it is JSON")["time"].clone();
    assert!(time.as_u64().is_some_and(|time| time > 1_600_000_000_000), "milliseconds since 1970: {time}");
    let expected = format!(
        r#"{{"type":"message","topic":"news","seq":1,"time":{time},"event":"greeting","message_id":"1","data":{{"price" : 1.50}}}}"#
    );
    assert_eq!(message, expected);
    let unsubscribed = json!({"type": "unsubscribed", "id": 3, "topic": "news"});
    assert_eq!(socket.ask(json!({"type": "unsubscribe", "id": 3, "topic": "news"})).await, unsubscribed);
    // A repeated request, without an id, is answered as well.
    let unsubscribed = json!({"type": "unsubscribed", "topic": "news"});
    assert_eq!(socket.ask(json!({"type": "unsubscribe", "topic": "news"})).await, unsubscribed);
    other.send(text(publish)).await;
    assert_eq!(other.json().await["subscribers"], 0);
    assert_eq!(socket.ask(json!({"type": "ping"})).await, json!({"type": "pong"}));
}

#[tokio::test]
async fn a_message_without_subscribers_has_a_receipt_of_zeros() {
    let (_janus, addr) = serve(Config::default()).await;
    let mut socket = Socket::open(addr).await;
    let receipt = socket.ask(json!({"type": "publish", "id": 0, "topic": "nobody", "data": 1})).await;
    let zeros = json!({
        "type": "published", "id": 0, "topic": "nobody", "epoch": "0000000000000000", "seq": 0, "subscribers": 0
    });
    assert_eq!(receipt, zeros);
    socket.say(json!({"type": "publish", "topic": "nobody", "data": 2})).await;
    let last = 9_007_199_254_740_991_u64;
    let receipt = socket.ask(json!({"type": "publish", "id": last, "topic": "nobody", "data": 3})).await;
    assert_eq!(receipt["id"], last);
}

#[tokio::test]
async fn requests_in_one_write_are_answered_in_their_order() {
    let (_janus, addr) = serve(Config::default()).await;
    let mut socket = Socket::open(addr).await;
    let requests = (0..50_u64).flat_map(|number| {
        let topic = format!("topic {number}");
        [
            said(&json!({"type": "subscribe", "id": 3 * number, "topic": topic})),
            said(&json!({"type": "subscribe", "id": 3 * number + 1, "topic": topic})),
            said(&json!({"type": "unsubscribe", "id": 3 * number + 2, "topic": topic})),
        ]
        .concat()
    });
    socket.send(requests.collect::<Vec<_>>()).await;
    for id in 0..150 {
        let answer = socket.json().await;
        assert_eq!(answer["id"], id, "{answer}");
        assert_eq!(answer["type"], ["subscribed", "error", "unsubscribed"][id as usize % 3]);
    }
}

#[tokio::test]
async fn a_refusal_carries_the_request_id_and_the_connection_continues() {
    let (_janus, addr) = serve(Config::default()).await;
    let mut socket = Socket::open(addr).await;
    socket.subscribe("news").await;
    let long = format!(r#"{{"type":"subscribe","id":9,"topic":"{}"}}"#, "x".repeat(256));
    let cases = [
        (r#"{"type":"dance","id":1}"#, "unknown_action", Some(1)),
        (r#"{"type":"dance"}"#, "unknown_action", None),
        (r#"{"id":2}"#, "unknown_action", Some(2)),
        (r#"{"type":"attach","id":3,"token":"x"}"#, "unknown_action", Some(3)),
        (r#"[]"#, "unknown_action", None),
        (r#"{"type":"subscribe","id":4}"#, "bad_topic", Some(4)),
        (r#"{"type":"subscribe","id":5,"topic":""}"#, "bad_topic", Some(5)),
        (r#"{"type":"unsubscribe","id":6,"topic":7}"#, "bad_topic", Some(6)),
        (r#"{"type":"publish","id":7,"topic":"a\u0000b"}"#, "bad_topic", Some(7)),
        (r#"{"type":"publish","topic":"\ud800"}"#, "bad_topic", None),
        (&long, "bad_topic", Some(9)),
        (r#"{"type":"subscribe","id":10,"topic":"news"}"#, "already_subscribed", Some(10)),
        (r#"{"type":"subscribe","topic":"news"}"#, "already_subscribed", None),
        (r#"{"type":"subscribe","id":11,"topic":"a","topic":"b"}"#, "duplicate_key", Some(11)),
        (r#"{"type":"subscribe","id":12,"id":13,"topic":"a"}"#, "duplicate_key", None),
        (r#"{"type":"subscribe","id":-1,"topic":"a"}"#, "bad_request", None),
        (r#"{"type":"subscribe","id":"1","topic":"a"}"#, "bad_request", None),
        (r#"{"type":"subscribe","id":9007199254740992,"topic":"a"}"#, "bad_request", None),
        (r#"{"type":"subscribe","id":14,"topic":"a","since":5}"#, "bad_request", Some(14)),
        (r#"{"type":"subscribe","id":15,"topic":"a","since":{"epoch":"9f86","seq":1}}"#, "bad_request", Some(15)),
        (r#"{"type":"subscribe","id":16,"topic":"a","since":{"epoch":"9f86d081884c7d65"}}"#, "bad_request", Some(16)),
    ];
    for (request, code, id) in cases {
        socket.send(text(request)).await;
        assert_error(&socket.json().await, code, id);
    }
    let heard = socket.ask(json!({"type": "publish", "topic": "news", "data": "still here"})).await;
    assert_eq!(heard["data"], "still here");
}

#[tokio::test]
async fn invalid_json_ends_the_connection_after_earlier_answers() {
    let (_janus, addr) = serve(Config::default()).await;
    let mut socket = Socket::open(addr).await;
    let good = |id: u64| said(&json!({"type": "publish", "id": id, "topic": "nobody", "data": id}));
    socket.send([good(1), good(2), text("{\"type\":\"pub"), good(3)].concat()).await;
    for id in 1..=2 {
        assert_eq!(socket.json().await["id"], id);
    }
    assert_eq!(socket.bye(4400).await["error"], "bad_json");
}

#[tokio::test]
async fn a_message_in_many_fragments_is_obeyed_like_any_message() {
    let (_janus, addr) = serve(Config::default()).await;
    let mut socket = Socket::open(addr).await;
    socket.subscribe("news").await;
    let data = "ß".repeat(20_000);
    let publish = json!({"type": "publish", "topic": "news", "data": data}).to_string().into_bytes();
    let last = publish.len().div_ceil(7) - 1;
    for (at, piece) in publish.chunks(7).enumerate() {
        let opcode = if at == 0 { TEXT } else { 0 };
        socket.send(frame(if at == last { FIN | opcode } else { opcode }, piece)).await;
    }
    assert_eq!(socket.json().await["data"], data);
}

/// Publishes numbers. Returns the number of the topic's messages so far.
async fn publish_numbers(janus: &Janus, topic: &str, numbers: std::ops::RangeInclusive<u64>) {
    for number in numbers {
        let receipt = janus.publish(topic, &number).await.expect("published");
        assert_eq!(receipt.seq, number);
    }
}

/// Subscribes, reads three messages, and vanishes. Returns the welcome's token and the topic's epoch.
async fn lost_after_three_messages(janus: &Janus, addr: SocketAddr) -> (Value, Value) {
    let mut socket = Socket::upgraded(addr).await;
    let welcome = socket.ask(json!({"type": "hello"})).await;
    let subscribed = socket.subscribe("news").await;
    publish_numbers(janus, "news", 1..=3).await;
    for number in 1..=3 {
        assert_eq!(socket.json().await["seq"], number);
    }
    drop(socket);
    until("it is noticed", || subscribers(janus, "news") == Some(0)).await;
    (welcome["session"].clone(), subscribed["epoch"].clone())
}

#[tokio::test]
async fn a_returning_client_resumes_exactly_at_its_position() {
    let (janus, addr) = serve(Config::default()).await;
    let (session, epoch) = lost_after_three_messages(&janus, addr).await;
    publish_numbers(&janus, "news", 4..=6).await;
    let (mut socket, welcome) = come_back(addr, &session).await;
    assert_eq!(welcome["resumed"], true);
    assert_ne!(welcome["session"], session, "the welcome has a new token");
    let subscribed =
        socket.ask(json!({"type": "subscribe", "id": 1, "topic": "news", "since": since(&epoch, 3)})).await;
    let expected = json!({
        "type": "subscribed", "id": 1, "topic": "news", "epoch": epoch, "seq": 3, "resumed": true, "missed": 3
    });
    assert_eq!(subscribed, expected);
    publish_numbers(&janus, "news", 7..=7).await;
    for number in 4..=7 {
        let message = socket.json().await;
        assert_eq!((&message["seq"], &message["data"]), (&json!(number), &json!(number)));
    }
    // A client without missed messages resumes as well, even without a session.
    let mut other = Socket::open(addr).await;
    let subscribed = other.ask(json!({"type": "subscribe", "topic": "news", "since": since(&epoch, 7)})).await;
    assert_eq!((&subscribed["resumed"], &subscribed["missed"]), (&json!(true), &json!(0)));
    publish_numbers(&janus, "news", 8..=8).await;
    for socket in [&mut socket, &mut other] {
        assert_eq!(socket.json().await["seq"], 8);
    }
}

#[tokio::test]
async fn an_up_to_date_client_resumes_exactly_after_a_cold_restart() {
    let (janus, addr) = serve(Config::default()).await;
    let mut socket = Socket::open(addr).await;
    let epoch = socket.subscribe("news").await["epoch"].clone();
    publish_numbers(&janus, "news", 1..=2).await;
    for number in 1..=2 {
        assert_eq!(socket.json().await["seq"], number);
    }
    for restarts in 1..=3 {
        until("the topic runs", || runs_after_restarts(&janus, "news", restarts - 1)).await;
        janus.inject(Fault::Topic("news".to_owned()));
    }
    until("the topic has restarted", || runs_after_restarts(&janus, "news", 3)).await;
    publish_numbers(&janus, "news", 3..=3).await;
    // The client has had everything, and nothing of the new epoch.
    assert_eq!(socket.json().await["seq"], 3);
    drop(socket);
    publish_numbers(&janus, "news", 4..=5).await;
    let now = janus.publish("news", &6).await.unwrap().epoch;
    let now = json!(now);
    assert_ne!(now, epoch, "it was a cold restart");
    let mut socket = Socket::open(addr).await;
    let subscribed = socket.ask(json!({"type": "subscribe", "topic": "news", "since": since(&epoch, 3)})).await;
    let expected =
        json!({"type": "subscribed", "topic": "news", "epoch": epoch, "seq": 3, "resumed": true, "missed": 3});
    assert_eq!(subscribed, expected);
    for number in 4..=6 {
        assert_eq!(socket.json().await["seq"], number);
    }
    // A client that was behind at the beginning of the new epoch has lost messages.
    let mut behind = Socket::open(addr).await;
    let subscribed = behind.ask(json!({"type": "subscribe", "topic": "news", "since": since(&epoch, 1)})).await;
    assert_eq!((&subscribed["resumed"], &subscribed["epoch"]), (&json!(false), &now));
}

#[tokio::test]
async fn a_client_that_cannot_resume_is_told_and_continues_live() {
    let (janus, addr) = serve(Config { resume_messages: 2, ..Config::default() }).await;
    let (_, epoch) = lost_after_three_messages(&janus, addr).await;
    publish_numbers(&janus, "news", 4..=6).await;
    let other_epoch = json!("0123456789abcdef");
    let positions =
        [since(&other_epoch, 3), since(&other_epoch, 6), since(&epoch, 7), since(&epoch, u64::MAX), since(&epoch, 3)];
    let mut sockets = Vec::new();
    for position in positions {
        let mut socket = Socket::open(addr).await;
        let subscribed = socket.ask(json!({"type": "subscribe", "topic": "news", "since": position})).await;
        let expected = json!({"type": "subscribed", "topic": "news", "epoch": epoch, "seq": 6, "resumed": false});
        assert_eq!(subscribed, expected, "since {position}");
        sockets.push(socket);
    }
    // The ring still has the messages after these positions.
    for (seq, missed) in [(4, 2), (5, 1), (6, 0)] {
        let mut socket = Socket::open(addr).await;
        let subscribed = socket.ask(json!({"type": "subscribe", "topic": "news", "since": since(&epoch, seq)})).await;
        assert_eq!((&subscribed["resumed"], &subscribed["missed"]), (&json!(true), &json!(missed)), "since {seq}");
        for number in seq + 1..=6 {
            assert_eq!(socket.json().await["seq"], number);
        }
        sockets.push(socket);
    }
    publish_numbers(&janus, "news", 7..=7).await;
    for socket in &mut sockets {
        assert_eq!(socket.json().await["seq"], 7);
    }
}

#[tokio::test]
async fn an_unknown_session_becomes_a_new_session() {
    let (_janus, addr) = serve(Config::default()).await;
    for token in ["0123456789abcdef0123456789abcdef", "", "x"] {
        let (_, welcome) = come_back(addr, &json!(token)).await;
        assert_eq!(welcome["resumed"], false, "{token:?}");
    }
}

#[tokio::test]
async fn a_returning_client_replaces_its_earlier_connection() {
    let (janus, addr) = serve(Config::default()).await;
    let mut older = Socket::upgraded(addr).await;
    let welcome = older.ask(json!({"type": "hello"})).await;
    let subscribed = older.subscribe("news").await;
    let (mut newer, welcome) = come_back(addr, &welcome["session"]).await;
    assert_eq!(welcome["resumed"], true);
    let bye = older.bye(4410).await;
    assert_eq!((&bye["error"], bye.get("reconnect_after_ms")), (&json!("session_taken"), None), "{bye}");
    assert_eq!(janus.sessions().await.len(), 1);
    // The client subscribes again to its topics.
    publish_numbers(&janus, "news", 1..=1).await;
    let position = since(&subscribed["epoch"], 0);
    let subscribed = newer.ask(json!({"type": "subscribe", "topic": "news", "since": position})).await;
    assert_eq!((&subscribed["resumed"], &subscribed["missed"]), (&json!(true), &json!(1)));
    assert_eq!(newer.json().await["seq"], 1);
}

#[tokio::test]
async fn a_clients_close_is_answered_and_its_session_can_resume() {
    let (janus, addr) = serve(Config::default()).await;
    let mut socket = Socket::upgraded(addr).await;
    let welcome = socket.ask(json!({"type": "hello"})).await;
    socket.subscribe("news").await;
    socket.send(close(1001)).await;
    assert_eq!(socket.next().await, Seen::Close(Some(1001), String::new()));
    assert_eq!(socket.next().await, Seen::End(Close::Fin));
    until("it has left", || subscribers(&janus, "news") == Some(0)).await;
    assert_eq!(come_back(addr, &welcome["session"]).await.1["resumed"], true);
}

#[tokio::test]
async fn a_client_that_ends_its_stream_gets_its_answers_first() {
    let (_janus, addr) = serve(Config::default()).await;
    let mut socket = Socket::open(addr).await;
    socket.say(json!({"type": "publish", "id": 1, "topic": "nobody", "data": 1})).await;
    socket.half_close().await;
    assert_eq!(socket.json().await["id"], 1);
    assert_eq!(socket.next().await, Seen::End(Close::Fin));
    // In the middle of a frame, and of a message.
    for begun in [text("{}")[..3].to_vec(), frame(TEXT, "{")] {
        let mut socket = Socket::open(addr).await;
        socket.send(begun).await;
        socket.half_close().await;
        assert_eq!(socket.bye(4010).await["error"], "unfinished_frame");
    }
}

#[tokio::test]
async fn a_drain_says_when_to_come_back() {
    let (janus, addr) = serve(Config::default()).await;
    let mut sockets = Vec::new();
    for _ in 0..5 {
        let mut socket = Socket::open(addr).await;
        socket.subscribe("news").await;
        sockets.push(socket);
    }
    // The client has not sent a hello, and gets only a close with a reason.
    let mut silent = Socket::upgraded(addr).await;
    publish_numbers(&janus, "news", 1..=20).await;
    let shutdown = tokio::spawn({
        let janus = janus.clone();
        async move { janus.shutdown().await }
    });
    for socket in &mut sockets {
        for number in 1..=20 {
            assert_eq!(socket.json().await["seq"], number);
        }
        let bye = socket.bye(4002).await;
        assert_eq!(bye["error"], "server_draining");
        // The rest of the drain, the time of a restart and a random moment, 10, 5 and up to 2 s by default.
        assert!(bye["reconnect_after_ms"].as_u64().is_some_and(|after| (5_100..17_000).contains(&after)), "{bye}");
    }
    silent.bye(4002).await;
    drop((sockets, silent));
    let report = shutdown.await.expect("the shutdown comes to its end");
    assert_eq!((report.connections, report.cut_off), (6, 0));
}

#[tokio::test]
async fn a_client_closed_by_the_operator_learns_whether_to_come_back() {
    let (janus, addr) = serve(Config::default()).await;
    for (reconnect, code, name) in [(true, 4007, "disconnected"), (false, 4417, "banned")] {
        let mut socket = Socket::open(addr).await;
        let listed = janus.connections(0, 10);
        assert_eq!(listed.len(), 1);
        assert!(janus.disconnect(listed[0].connection, reconnect));
        let bye = socket.bye(code).await;
        assert_eq!((&bye["error"], bye.get("reconnect_after_ms").is_some()), (&json!(name), reconnect), "{bye}");
        drop(socket);
        until("it is gone", || janus.stats().connections == 0).await;
    }
}

#[tokio::test]
async fn silence_is_broken_by_pings_even_before_the_first_message() {
    let config = Config { heartbeat_interval: Duration::from_secs(1), ..Config::default() };
    let (janus, addr) = serve(Config { pong_timeout: Duration::ZERO, ..config }).await;
    let mut idle = Socket::open(addr).await;
    let mut subscriber = Socket::open(addr).await;
    subscriber.subscribe("news").await;
    for _ in 0..2 {
        for socket in [&mut idle, &mut subscriber] {
            assert_eq!(socket.next().await, Seen::Ping(Vec::new()));
            socket.send(frame(FIN | PONG, "")).await;
        }
    }
    // Without a required answer, a client that never answers loses nothing.
    janus.publish("news", "now").await.expect("published");
    let message = loop {
        match subscriber.next().await {
            Seen::Ping(payload) => assert!(payload.is_empty()),
            Seen::Text(message) => break message,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(message["data"], "now");
}

#[tokio::test]
async fn a_closing_client_gets_all_answers_before_the_close_and_none_after() {
    let (_janus, addr) = serve(Config::default()).await;
    let mut subscriber = Socket::open(addr).await;
    subscriber.subscribe("news").await;
    for _ in 0..20 {
        let mut socket = Socket::open(addr).await;
        let publish = |id: u64| said(&json!({"type": "publish", "id": id, "topic": "news", "data": id}));
        let frames = (1..=20).flat_map(publish).chain(close(1000)).collect::<Vec<_>>();
        socket.send(frames).await;
        for id in 1..=20 {
            assert_eq!(socket.json().await["id"], id);
        }
        assert_eq!(socket.next().await, Seen::Close(Some(1000), String::new()));
        assert_eq!(socket.next().await, Seen::End(Close::Fin));
    }
}

#[tokio::test]
async fn a_duplicate_key_is_named() {
    let (_janus, addr) = serve(Config::default()).await;
    let mut socket = Socket::open(addr).await;
    for (request, key) in [
        (r#"{"type":"subscribe","id":1,"topic":"a","topic":"b"}"#, "topic"),
        (r#"{"type":"subscribe","id":1,"id":1,"topic":"a"}"#, "id"),
        (r#"{"type":"publish","id":1,"topic":"a","data":1,"d\u0061ta":2}"#, "data"),
        (r#"{"type":"subscribe","topic":"a","since":{"epoch":"9f86d081884c7d65","seq":1,"seq":2}}"#, "seq"),
    ] {
        socket.send(text(request)).await;
        let answer = socket.json().await;
        let expected = format!("duplicate key \"{key}\": send it once");
        assert_eq!((&answer["error"], &answer["message"]), (&json!("duplicate_key"), &json!(expected)), "{request}");
    }
}

/// Denies every publish.
struct NoPublishers;

impl Hooks for NoPublishers {
    async fn authorize_publish(&self, _: &Client, _: &TopicName, _: &Publication) -> Result<(), Denied> {
        Err(Denied::new("nobody publishes here"))
    }
}

#[tokio::test]
async fn a_refused_message_is_reported_with_its_topic() {
    let config = Config { listen: Vec::new(), http_listen: vec![own_address()], ..Config::default() };
    let janus = Janus::builder().config(config).hooks(NoPublishers).start().await.expect("the server starts");
    let mut socket = Socket::open(janus.local_addrs()[0]).await;
    for (request, code, id, topic) in [
        (json!({"type": "publish", "id": 1, "topic": "news", "data": 1}), "forbidden", Some(1), Some("news")),
        (json!({"type": "publish", "topic": "sports", "data": 1}), "forbidden", None, Some("sports")),
        (json!({"type": "publish", "id": 2, "topic": "a\"b"}), "bad_publish", Some(2), Some("a\"b")),
        (json!({"type": "subscribe", "id": 3, "topic": "news", "since": 1}), "bad_request", Some(3), Some("news")),
        (json!({"type": "subscribe", "id": 4, "topic": 4}), "bad_topic", Some(4), None),
    ] {
        let answer = socket.ask(request).await;
        assert_error(&answer, code, id);
        assert_eq!(answer["topic"].as_str(), topic, "{answer}");
    }
    let twice = r#"{"type":"publish","id":5,"topic":"a","topic":"b","data":1}"#;
    socket.send(text(twice)).await;
    let answer = socket.json().await;
    assert!(answer.get("topic").is_none(), "which one is meant is a guess: {answer}");
    // A listener reachable by other machines allows no publishing.
    let config = Config { listen: Vec::new(), http_listen: vec![([0, 0, 0, 0], 0).into()], ..Config::default() };
    let janus = Janus::builder().config(config).start().await.expect("the server starts");
    let mut socket = Socket::open(([127, 0, 0, 1], janus.local_addrs()[0].port()).into()).await;
    let answer = socket.ask(json!({"type": "publish", "id": 1, "topic": "news", "data": 1})).await;
    assert_error(&answer, "publish_not_allowed", Some(1));
    assert_eq!(answer["topic"], "news", "{answer}");
}

/// Never decides about publishes.
struct Undecided;

impl Hooks for Undecided {
    async fn authorize_publish(&self, _: &Client, _: &TopicName, _: &Publication) -> Result<(), Denied> {
        std::future::pending().await
    }
}

#[tokio::test]
async fn a_bye_comes_after_the_answers_to_abandoned_requests() {
    let config = Config { listen: Vec::new(), http_listen: vec![own_address()], ..Config::default() };
    let config = Config { drain_period: Duration::ZERO, ..config };
    let janus = Janus::builder().config(config).hooks(Undecided).start().await.expect("the server starts");
    let addr = janus.local_addrs()[0];
    let mut socket = Socket::open(addr).await;
    let publish = said(&json!({"type": "publish", "id": 1, "topic": "nobody", "data": 1}));
    socket.send([frame(FIN | PING, ""), publish].concat()).await;
    assert_eq!(socket.next().await, Seen::Pong(Vec::new()));
    assert!(janus.disconnect(janus.connections(0, 10)[0].connection, true));
    assert_error(&socket.json().await, "connection_closed", Some(1));
    assert_eq!(socket.bye(4007).await["error"], "disconnected");
}

#[tokio::test]
async fn a_message_published_after_a_subscribes_answer_reaches_the_socket() {
    let (janus, addr) = serve(Config::default()).await;
    let mut socket = Socket::open(addr).await;
    for round in 0..50 {
        // A topic that must be created first.
        let topic = format!("fresh:{round}");
        socket.subscribe(&topic).await;
        janus.publish(&topic, &round).await.expect("published");
        let Seen::Text(message) = socket.next().await else { panic!("a message") };
        assert_eq!((&message["topic"], &message["data"]), (&json!(topic), &json!(round)));
    }
}

#[tokio::test]
async fn a_message_repeated_with_its_key_is_published_once() {
    let (_janus, addr) = serve(Config::default()).await;
    let mut socket = Socket::open(addr).await;
    socket.subscribe("news").await;
    let message =
        |id: u64, key: &str| json!({"type": "publish", "id": id, "topic": "news", "data": id, "idempotency_key": key});
    for (id, key, seq, again) in [(1, "a", 1, None), (2, "a", 1, Some(true)), (3, "b", 2, None)] {
        socket.send(text(message(id, key).to_string())).await;
        let mut answers = vec![socket.json().await];
        if again.is_none() {
            answers.push(socket.json().await);
        }
        let receipt = answers.iter().find(|answer| answer["type"] == "published").unwrap();
        assert_eq!((&receipt["seq"], receipt["again"].as_bool()), (&json!(seq), again), "{receipt}");
        let message = answers.iter().find(|answer| answer["type"] == "message");
        assert_eq!(message.map(|message| message["data"].clone()), again.is_none().then(|| json!(id)));
    }
    for key in [json!(""), json!("a b"), json!(7), json!("k".repeat(65))] {
        let answer = socket.ask(json!({"type": "publish", "topic": "news", "data": 1, "idempotency_key": key})).await;
        assert_error(&answer, "bad_publish", None);
    }
}
