//! Tests of publications and broadcasts.

use futures_util::FutureExt;
use janus_api::PORTION_BYTES;
use janus_core::{Event, Subscriber};

use super::*;

async fn next(subscriber: &mut Subscriber) -> janus_core::Delivery {
    match timeout(PATIENCE, subscriber.next()).await.expect("a message comes") {
        Some(Event::Message(message)) => message,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_message_is_delivered_verbatim_and_its_publisher_gets_a_receipt() {
    let server = serve(&settings()).await;
    let mut subscriber = server.janus.subscribe("news").unwrap();
    let body = r#"{"data":{"price": 1.50, "n": 1e400},"message_id":"1","topic":"news","event":"gre\u0065ting"}"#;
    let answer = server.post("/api/publish", body).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let message = next(&mut subscriber).await;
    assert_eq!((message.event(), message.message_id()), ("\"greeting\"", "\"1\""));
    assert_eq!(message.data(), r#"{"price": 1.50, "n": 1e400}"#);
    let receipt = json!({"epoch": message.position.epoch, "seq": 1, "subscribers": 1});
    assert_eq!(answer.json(), receipt);
    let nobody = server.post("/api/publish", r#"{"topic":"plain:nobody","data":null}"#).await;
    assert_eq!(nobody.json(), json!({"epoch": "0000000000000000", "seq": 0, "subscribers": 0}));
}

#[tokio::test]
async fn a_repeated_message_is_published_once_through_either_port() {
    let server = serve(&settings()).await;
    let body = r#"{"topic":"news","data":1}"#;
    let request = |key| post("/api/publish", &[("Idempotency-Key", key)], body);
    let first = server.send(&[&request("order-1")]).await.json();
    let again = server.send_to_admin(&request("order-1")).await.json();
    assert_eq!((&first["seq"], &again["seq"], &again["again"]), (&json!(1), &json!(1), &json!(true)));
    let other = server.send_to_admin(&request("order-2")).await.json();
    assert_eq!((&other["seq"], &other["again"]), (&json!(2), &Value::Null));
    assert_eq!(server.send_to_admin(&request("order-2")).await.json()["again"], true);
    for refused in [server.send(&[&request("a b")]).await, server.send_to_admin(&request("a b")).await] {
        assert_eq!((refused.status, &refused.json()["error"]["code"]), (400, &json!("bad_publish")), "{refused:?}");
        assert!(refused.body.contains("the header Idempotency-Key: "), "{refused:?}");
    }
}

#[tokio::test]
async fn a_broadcast_goes_to_all_of_its_topics_or_to_none() {
    let server = serve(&settings()).await;
    let mut one = server.janus.subscribe("one").unwrap();
    let mut two = server.janus.subscribe("two").unwrap();
    for (topics, code, part) in [
        (json!(["one", "two", "one"]), "bad_request", "duplicate topic \"one\""),
        (json!(["one", "two", ""]), "bad_topic", "topics[2]: topic name must not be empty"),
        (json!(["one", "a\nb"]), "bad_topic", "topics[1]: topic name must not contain control"),
        (json!([]), "bad_request", "1 to 1000 topics"),
        (json!((0..1_001).map(|number| number.to_string()).collect::<Vec<_>>()), "bad_request", "got 1001"),
    ] {
        let answer = server.post("/api/broadcast", json!({"topics": topics, "data": 1}).to_string()).await;
        let (actual, message) = answer.error();
        assert_eq!((answer.status, &*actual), (400, code), "{message}");
        assert!(message.contains(part), "{message}");
    }
    let answer = server.post("/api/broadcast", r#"{"topics":["two","plain:x","one"],"event":"e","data":[1]}"#).await;
    let results = answer.json()["results"].clone();
    let summary = |index: usize| (results[index]["topic"].as_str().unwrap(), results[index]["seq"].as_u64().unwrap());
    assert_eq!([summary(0), summary(1), summary(2)], [("two", 1), ("plain:x", 0), ("one", 1)], "{results}");
    assert_eq!(next(&mut one).await.data(), "[1]");
    assert_eq!(next(&mut two).await.event(), "\"e\"");
}

/// Starts a server and holds its home arbiter from the first request passed on until the returned sender is dropped.
async fn serve_and_hold(settings: &Settings) -> (Server, std::sync::mpsc::Sender<()>) {
    let (held, released) = std::sync::mpsc::channel();
    let released = std::sync::Mutex::new(released);
    let server = serve_and(settings, move || {
        let _ = released.lock().unwrap().recv();
    })
    .await;
    (server, held)
}

fn under_way(janus: &Janus) -> usize {
    janus.topics().iter().map(|topic| topic.in_flight).sum()
}

#[tokio::test]
async fn a_broadcast_waits_for_receipts_before_its_next_portion() {
    let (server, held) = serve_and_hold(&settings()).await;
    let topics: Vec<String> = (0..100).map(|number| format!("topic {number}")).collect();
    let data = "x".repeat(30_000);
    let portion = PORTION_BYTES / (data.len() + 2);
    let body = json!({"topics": topics, "data": data}).to_string();
    let mut stream = TcpStream::connect(server.addr).await.unwrap();
    stream.write_all(&post("/api/broadcast", &[], &body)).await.unwrap();
    until("messages without a number", || under_way(&server.janus) > 0).await;
    // Nothing else runs now; without waiting, the broadcast would publish more with each turn.
    for _ in 0..1_000 {
        tokio::task::yield_now().await;
        assert!(under_way(&server.janus) <= portion);
    }
    drop(held);
    let mut answer = String::new();
    timeout(PATIENCE, stream.read_to_string(&mut answer)).await.unwrap().unwrap();
    assert_eq!(answer.matches(r#""seq":1,"#).count(), 100, "{answer}");
}

#[tokio::test]
async fn a_broadcast_is_completed_even_if_its_client_disconnects() {
    let (server, held) = serve_and_hold(&Settings { max_api_connections: 1, ..settings() }).await;
    let topics: Vec<String> = (0..200).map(|number| format!("topic {number}")).collect();
    let mut stream = TcpStream::connect(server.addr).await.unwrap();
    stream.write_all(&post("/api/broadcast", &[], &json!({"topics": topics, "data": 1}).to_string())).await.unwrap();
    until("the first messages", || under_way(&server.janus) > 0).await;
    // A reset ends the exchange.
    socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
    drop(stream);
    for _ in 0..1_000 {
        tokio::task::yield_now().await;
    }
    drop(held);
    let all = || {
        topics
            .iter()
            .all(|topic| server.janus.history(topic, None, 1).now_or_never().unwrap().unwrap().messages.len() == 1)
    };
    until("a message in every topic", all).await;
    until("the place to be free", || server.api.free_places() == 1).await;
}
