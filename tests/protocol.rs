//! The classic protocol as a client sees it, over real sockets: every row of docs/CLASSIC.md.

use std::time::Duration;

use janus_core::Config;
use serde_json::json;
use tokio::time::{Instant, timeout};

use crate::support::{Client, Close, DEADLINE, publish, publish_frame, serve, subscribe_frame, subscribers};

#[tokio::test]
async fn the_greeting_comes_before_any_byte_of_the_client() {
    let (_janus, addr) = serve(Config::default()).await;
    let mut client = Client::connect_silently(addr).await;
    let greeting = client.frame().await;
    let parsed: serde_json::Value = serde_json::from_str(&greeting).unwrap();
    let token = parsed["token"].as_str().unwrap();
    assert_eq!(token.len(), 32);
    assert!(token.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')), "{token}");
    assert_eq!(parsed["timestamp"].as_array().map(Vec::len), Some(3));
    assert!(greeting.starts_with(r#"{"timestamp":["#), "clients match on the first key: {greeting}");
}

#[tokio::test]
async fn every_subscriber_of_a_message_gets_the_same_bytes() {
    let (_janus, addr) = serve(Config::default()).await;
    let mut subscribers = [Client::connect(addr).await, Client::connect(addr).await];
    for subscriber in &mut subscribers {
        subscriber.subscribe("news").await;
    }
    publish(addr, "news", r#"{"price":1.50}"#).await;
    let first = subscribers[0].frame().await;
    assert_eq!(first, subscribers[1].frame().await);
    let (timestamp, rest) = first.split_once("],").unwrap();
    assert!(timestamp.starts_with(r#"{"timestamp":["#), "{first}");
    assert_eq!(rest, r#""topic":"news","event":"","message_id":"","data":{"price":1.50}}"#);
}

#[tokio::test]
async fn the_publishers_text_is_carried_without_re_encoding() {
    let (_janus, addr) = serve(Config::default()).await;
    let mut subscriber = Client::connect(addr).await;
    subscriber.subscribe("news").await;
    let mut publisher = Client::connect_silently(addr).await;
    publisher
        .send("PUBLISH\0{\"data\": {\"b\":1,\"a\" :1e400,\"\\u00e9\":0.10}, \"message_id\":12345678901234567890123, \"event\":null,\"topic\":\"news\",\"extra\":1}\0")
        .await;
    let message = subscriber.frame().await;
    assert!(
        message.ends_with(
            r#""topic":"news","event":null,"message_id":12345678901234567890123,"data":{"b":1,"a" :1e400,"\u00e9":0.10}}"#
        ),
        "{message}"
    );
}

#[tokio::test]
async fn a_publisher_may_close_at_once_without_reading() {
    let (_janus, addr) = serve(Config::default()).await;
    let mut subscriber = Client::connect(addr).await;
    subscriber.subscribe("news").await;
    for i in 0..20 {
        let mut publisher = Client::connect_silently(addr).await;
        publisher.send(format!("<regular-socket/>\0PUBLISH\0{{\"topic\":\"news\",\"data\":{i}}}")).await;
        drop(publisher);
    }
    let mut received = Vec::new();
    for _ in 0..20 {
        received.push(subscriber.json().await["data"].as_u64().unwrap());
    }
    received.sort_unstable();
    assert!(received.into_iter().eq(0..20));
}

#[tokio::test]
async fn messages_sent_before_a_close_count_even_if_receipts_are_lost() {
    let (_janus, addr) = serve(Config::default()).await;
    let mut subscriber = Client::connect(addr).await;
    subscriber.subscribe("news").await;
    subscriber.subscribe("other").await;
    for i in 0..50 {
        let mut publisher = Client::connect_silently(addr).await;
        // The greeting meets a closed socket and the ACK a broken socket, before the message is read.
        let message = format!("PUBLISH\0{{\"topic\":\"news\",\"data\":{i}}}").into_bytes();
        publisher.send([subscribe_frame("other"), message].concat()).await;
        drop(publisher);
        assert_eq!(subscriber.json().await["data"], i);
    }
}

#[tokio::test]
async fn an_error_does_not_overtake_the_receipts_of_earlier_messages() {
    let (_janus, addr) = serve(Config::default()).await;
    let mut client = Client::connect(addr).await;
    let mut subscriber = Client::connect(addr).await;
    subscriber.subscribe("news").await;
    let bad = b"{\"action\":\"publish\",\"data\":{\"topic\":7}}\0".to_vec();
    for _ in 0..50 {
        client.send([publish_frame("news", "1"), bad.clone(), publish_frame("news", "2")].concat()).await;
        assert!(client.json().await["published"].is_object());
        assert_eq!(client.error_code().await, "bad_topic");
        assert!(client.json().await["published"].is_object());
        subscriber.frame().await;
        subscriber.frame().await;
    }
}

#[tokio::test]
async fn a_classic_publish_closes_its_connection_after_the_commit() {
    let (_janus, addr) = serve(Config::default()).await;
    let mut subscriber = Client::connect(addr).await;
    subscriber.subscribe("news").await;
    for end in ["\0", " ", "\n", ""] {
        let mut publisher = Client::connect(addr).await;
        publisher.send(format!("PUBLISH\0{{\"topic\":\"news\",\"data\":1}}{end}")).await;
        assert_eq!(publisher.close().await, Close::Fin, "after a body that ends with {end:?}");
        assert_eq!(subscriber.json().await["data"], 1);
    }
}

#[tokio::test]
async fn a_publish_action_keeps_the_connection_and_is_silent_unless_asked() {
    let (_janus, addr) = serve(Config::default()).await;
    let mut client = Client::connect(addr).await;
    client.subscribe("news").await;
    client
        .send("{\"action\":\"publish\",\"data\":{\"topic\":\"news\",\"event\":\"e\",\"message_id\":7,\"data\":[1]}}\0")
        .await;
    let message = client.json().await;
    assert_eq!(
        (&message["event"], &message["message_id"], &message["data"]),
        (&json!("e"), &json!(7), &json!([1])),
        "no answer stands before the message"
    );
    client.send(publish_frame("news", "2")).await;
    let mut frames = [client.json().await, client.json().await];
    frames.sort_by_key(|frame| frame["published"].is_object());
    assert_eq!(frames[0]["data"], 2);
    assert_eq!(frames[1]["published"]["topic"], "news");
    assert_eq!(frames[1]["published"]["seq"], 2);
    assert_eq!(frames[1]["published"]["subscribers"], 1);
}

#[tokio::test]
async fn a_message_without_subscribers_has_a_receipt_with_none() {
    let (_janus, addr) = serve(Config::default()).await;
    let receipt = publish(addr, "nobody is here", "1").await;
    assert_eq!(receipt["subscribers"], 0);
    assert_eq!(receipt["seq"], 0);
}

#[tokio::test]
async fn a_message_published_after_the_ack_arrives() {
    let (_janus, addr) = serve(Config::default()).await;
    for i in 0..50 {
        let mut subscriber = Client::connect(addr).await;
        subscriber.subscribe("news").await;
        publish(addr, "news", &i.to_string()).await;
        assert_eq!(subscriber.json().await["data"], i);
    }
}

#[tokio::test]
async fn every_subscribe_is_acknowledged_even_if_repeated() {
    let (_janus, addr) = serve(Config::default()).await;
    let mut client = Client::connect(addr).await;
    client.subscribe("news").await;
    client.subscribe("news").await;
    client.subscribe("news").await;
    publish(addr, "news", "1").await;
    publish(addr, "news", "2").await;
    assert_eq!(client.json().await["data"], 1);
    assert_eq!(client.json().await["data"], 2, "and yet each message comes once");
}

#[tokio::test]
async fn delivery_stops_after_an_unsubscribe() {
    let (janus, addr) = serve(Config::default()).await;
    let mut client = Client::connect(addr).await;
    client.subscribe("news").await;
    client.subscribe("weather").await;
    client.send("{\"action\":\"unsubscribe\",\"data\":\"news\"}\0").await;
    // A repeated subscribe is answered after the unsubscribe before has been carried out.
    client.subscribe("weather").await;
    publish(addr, "news", "1").await;
    publish(addr, "weather", "2").await;
    assert_eq!(client.json().await["data"], 2);
    assert_eq!(subscribers(&janus, "news"), Some(0));
}

#[tokio::test]
async fn equal_topics_are_equal_after_unescaping() {
    let (_janus, addr) = serve(Config::default()).await;
    let mut client = Client::connect(addr).await;
    client.send("{\"action\":\"subscribe\",\"data\":\"caf\\u00e9\"}\0").await;
    assert_eq!(client.frame().await, "ACK");
    publish(addr, "café", "1").await;
    assert_eq!(client.json().await["topic"], "café");
    assert_eq!(publish(addr, "CAFÉ", "1").await["subscribers"], 0, "case matters");
    assert_eq!(publish(addr, "café ", "1").await["subscribers"], 0, "blanks matter");
}

#[tokio::test]
async fn frames_may_arrive_cut_at_any_byte() {
    let (_janus, addr) = serve(Config::default()).await;
    let session = [
        b"<regular-socket/>\0\0PING\0".to_vec(),
        subscribe_frame("news"),
        b"<regular-socket/>\0PONG\0".to_vec(),
        publish_frame("news", r#""two words""#),
    ]
    .concat();
    for step in [1, 2, 3, 7, session.len()] {
        let mut client = Client::connect(addr).await;
        for piece in session.chunks(step) {
            client.send(piece).await;
        }
        assert_eq!(client.frame().await, "ACK", "in pieces of {step}");
        let frames = [client.json().await, client.json().await];
        assert!(frames.iter().any(|frame| frame["data"] == "two words"), "in pieces of {step}: {frames:?}");
    }
}

#[tokio::test]
async fn acks_come_in_request_order() {
    let (janus, addr) = serve(Config::default()).await;
    let mut client = Client::connect(addr).await;
    let topics = (0..100).map(|i| format!("topic {i}")).collect::<Vec<_>>();
    let requests = topics.iter().flat_map(|topic| subscribe_frame(topic)).collect::<Vec<_>>();
    client.send(requests).await;
    for topic in &topics {
        assert_eq!(client.frame().await, "ACK");
        assert_eq!(subscribers(&janus, topic), Some(1), "{topic} is subscribed when its ACK comes");
    }
}

#[tokio::test]
async fn a_frame_that_cannot_be_trusted_is_answered_and_closes() {
    let (_janus, addr) = serve(Config::default()).await;
    let cases: [(&[u8], &str); 4] = [
        (b"{\"action\":\0", "bad_json"),
        (b"{\"action\":\"publish\",\"data\":{\"topic\":\"t\",\"data\":\"raw \x01 byte\"}}\0", "bad_json"),
        (b"{\"action\":\"subscribe\",\"data\":\"\xff\"}\0", "bad_utf8"),
        (&[b'x'; 70_000], "frame_too_large"),
    ];
    for (bytes, code) in cases {
        let mut client = Client::connect(addr).await;
        client.send(bytes).await;
        assert_eq!(client.error_code().await, code);
        assert_eq!(client.close().await, Close::Fin, "{code}");
    }
}

#[tokio::test]
async fn an_impossible_request_is_answered_and_the_connection_continues() {
    let (_janus, addr) = serve(Config::default()).await;
    let mut client = Client::connect(addr).await;
    let long = format!("{{\"action\":\"subscribe\",\"data\":\"{}\"}}\0", "x".repeat(256));
    let cases = [
        ("{\"action\":\"dance\",\"data\":\"t\"}\0", "unknown_action"),
        ("{\"action\":\"subscribe\",\"data\":7}\0", "bad_topic"),
        ("{\"action\":\"subscribe\",\"data\":\"\"}\0", "bad_topic"),
        (&long, "bad_topic"),
        ("{\"action\":\"publish\",\"data\":7}\0", "bad_publish"),
    ];
    for (frame, code) in cases {
        client.send(frame).await;
        assert_eq!(client.error_code().await, code, "{frame}");
    }
    client.subscribe("news").await;
}

#[tokio::test]
async fn errors_of_one_connection_are_invisible_to_others() {
    let (_janus, addr) = serve(Config::default()).await;
    let mut subscriber = Client::connect(addr).await;
    subscriber.subscribe("news").await;
    for bytes in
        [&b"PUBLISH\0{\"topic\":\"news\",\"data\":\"\xed\xa0\x80\"}\0"[..], b"PUBLISH\0nonsense", b"\xff\xfe\0"]
    {
        let mut client = Client::connect(addr).await;
        client.send(bytes).await;
        client.half_close().await;
        client.error_code().await;
        assert_eq!(client.close().await, Close::Fin);
    }
    publish(addr, "news", "1").await;
    assert_eq!(subscriber.json().await["data"], 1);
}

#[tokio::test]
async fn after_a_half_close_all_received_frames_are_answered_before_the_fin() {
    let (_janus, addr) = serve(Config::default()).await;
    let mut subscriber = Client::connect(addr).await;
    subscriber.subscribe("news").await;
    // Often enough to read the FIN once together with the frames.
    for _ in 0..50 {
        let mut client = Client::connect(addr).await;
        client.send([publish_frame("news", "1"), publish_frame("news", "2")].concat()).await;
        client.half_close().await;
        assert!(client.json().await["published"].is_object());
        assert!(client.json().await["published"].is_object());
        assert_eq!(client.close().await, Close::Fin);
        assert_eq!(subscriber.json().await["data"], 1);
        assert_eq!(subscriber.json().await["data"], 2);
    }
}

#[tokio::test]
async fn a_quiet_client_gets_a_ping_after_its_first_message_and_not_before() {
    let heartbeat_interval = Duration::from_secs(1);
    let (_janus, addr) = serve(Config { heartbeat_interval, ..Config::default() }).await;
    let mut never = Client::connect(addr).await;
    never.subscribe("other").await;
    let mut client = Client::connect(addr).await;
    client.subscribe("news").await;
    // The start of the measurement comes before its event, so that a slow machine makes the times longer and never
    // shorter.
    let mut quiet_since = Instant::now();
    publish(addr, "news", "1").await;
    assert_eq!(client.json().await["data"], 1);
    for _ in 0..2 {
        assert_eq!(client.frame().await, "PING");
        assert!(quiet_since.elapsed() >= heartbeat_interval, "a PING after {:?}", quiet_since.elapsed());
        quiet_since = Instant::now() - heartbeat_interval / 2;
    }
    publish(addr, "other", "1").await;
    assert_eq!(never.json().await["data"], 1, "no PING came before the first message");
    timeout(DEADLINE, async { while client.frame().await != "PING" {} }).await.expect("and PINGs go on");
}

#[tokio::test]
async fn only_a_client_that_has_answered_a_ping_must_answer_the_next() {
    let (heartbeat_interval, pong_timeout) = (Duration::from_secs(1), Duration::from_secs(1));
    let (janus, addr) = serve(Config { heartbeat_interval, pong_timeout, ..Config::default() }).await;
    let (mut silent, mut answers) = (Client::connect(addr).await, Client::connect(addr).await);
    // An unrequested PONG.
    silent.send(b"PONG\0").await;
    for client in [&mut silent, &mut answers] {
        client.subscribe("news").await;
    }
    publish(addr, "news", "1").await;
    for client in [&mut silent, &mut answers] {
        assert_eq!(client.json().await["data"], 1);
        assert_eq!(client.frame().await, "PING");
    }
    answers.send(b"PONG\0").await;
    let last = loop {
        match answers.frame().await {
            frame if frame == "PING" => {}
            frame => break frame,
        }
    };
    assert!(last.contains("\"error\":{\"code\":\"ping_timeout\""), "{last}");
    assert_eq!(answers.close().await, Close::Fin);
    publish(addr, "news", "2").await;
    let next = loop {
        match silent.frame().await {
            frame if frame == "PING" => {}
            frame => break frame,
        }
    };
    assert!(next.contains("\"data\":2"), "{next}");
    assert_eq!(janus.stats().pings_unanswered, 1);
}

#[tokio::test]
async fn a_publisher_in_this_process_learns_the_outcome() {
    let (janus, addr) = serve(Config::default()).await;
    let mut subscriber = Client::connect(addr).await;
    subscriber.subscribe("news").await;
    let first = janus.publish("news", &json!({"hello": "world"})).await.unwrap();
    let second = janus.publish("news", "again").await.unwrap();
    assert_eq!((first.seq, first.subscribers), (1, 1));
    assert_eq!((second.seq, second.epoch), (2, first.epoch));
    assert_eq!(subscriber.json().await["data"]["hello"], "world");
    assert_eq!(subscriber.json().await["data"], "again");
    assert!(matches!(janus.publish("", "x").await, Err(janus_core::PublishError::Invalid(_))));
}

#[tokio::test]
async fn a_message_published_after_a_subscribes_ack_reaches_the_client() {
    let (janus, addr) = serve(Config::default()).await;
    let mut client = Client::connect(addr).await;
    for round in 0..50 {
        // A topic that must be created first.
        let topic = format!("fresh:{round}");
        client.subscribe(&topic).await;
        janus.publish(&topic, &round).await.expect("published");
        let message = client.json().await;
        assert_eq!((&message["topic"], &message["data"]), (&json!(topic), &json!(round)));
    }
}
