//! Subscribing from the start of what a topic keeps, or from its last message: state and updates in one order.

use std::net::SocketAddr;

use janus_core::{Config, Event, Janus, Namespace, Resume, Since, SubscribeOptions};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::http::{Http, last_event_id, lose, serve_http};
use crate::websocket::Socket;

/// Topics of `kept:` have a history of ten messages. Topics of `private:` resume only for sessions, topics of `gone:`
/// never.
fn config() -> Config {
    let kept = Namespace { history: true, history_messages: 10, ..Namespace::default() };
    let with = |resume| Namespace { resume, ..Namespace::default() };
    let namespaces = [("kept", kept), ("private", with(Resume::Session)), ("gone", with(Resume::Off))];
    let namespaces = namespaces.map(|(name, namespace)| (name.to_owned(), namespace));
    Config { namespaces: namespaces.into(), resume_messages: 2, ..Config::default() }
}

async fn publish(janus: &Janus, topic: &str, numbers: std::ops::RangeInclusive<u64>) {
    for number in numbers {
        assert_eq!(janus.publish(topic, &number).await.expect("published").seq, number);
    }
}

/// Subscribes over a WebSocket. Returns the answer.
async fn asked(socket: &mut Socket, topic: &str, since: &str) -> Value {
    socket.ask(json!({"type": "subscribe", "topic": topic, "since": since})).await
}

#[tokio::test]
async fn a_websocket_begins_with_the_start_or_the_last_message_and_goes_on() {
    let (janus, addr) = serve_http(config()).await;
    publish(&janus, "kept:board", 1..=12).await;
    for (since, first) in [("start", 3), ("last", 12)] {
        let mut socket = Socket::open(addr).await;
        let answer = asked(&mut socket, "kept:board", since).await;
        assert_eq!((&answer["seq"], &answer["resumed"]), (&json!(first - 1), &json!(true)), "{answer}");
        assert_eq!(answer["missed"], 13 - first, "{answer}");
        for number in first..=12 {
            assert_eq!(socket.json().await["data"], number);
        }
    }
    let mut socket = Socket::open(addr).await;
    asked(&mut socket, "kept:board", "last").await;
    publish(&janus, "kept:board", 13..=14).await;
    for number in 12..=14 {
        let message = socket.json().await;
        assert_eq!((&message["seq"], &message["data"]), (&json!(number), &json!(number)));
    }
}

#[tokio::test]
async fn without_a_history_a_page_gets_what_is_kept_for_returning_clients() {
    let (janus, addr) = serve_http(config()).await;
    let _keeper = janus.subscribe("news").expect("subscribed");
    publish(&janus, "news", 1..=5).await;
    let mut socket = Socket::open(addr).await;
    assert_eq!(asked(&mut socket, "news", "start").await["missed"], 2);
    for number in 4..=5 {
        assert_eq!(socket.json().await["data"], number);
    }
    // Where nothing was ever published, nothing is missing either.
    let answer = asked(&mut socket, "empty", "start").await;
    assert_eq!((&answer["seq"], &answer["resumed"], &answer["missed"]), (&json!(0), &json!(true), &json!(0)));
}

#[tokio::test]
async fn a_newcomer_gets_no_earlier_messages_where_only_sessions_resume() {
    let (janus, addr) = serve_http(config()).await;
    for topic in ["private:a", "gone:a"] {
        let _keeper = janus.subscribe(topic).expect("subscribed");
        publish(&janus, topic, 1..=2).await;
        let mut socket = Socket::open(addr).await;
        let answer = asked(&mut socket, topic, "start").await;
        assert_eq!((&answer["seq"], &answer["resumed"]), (&json!(2), &json!(false)), "{topic}: {answer}");
        publish(&janus, topic, 3..=3).await;
        assert_eq!(socket.json().await["data"], 3);
    }
}

#[tokio::test]
async fn a_stream_begins_with_the_start_and_comes_back_with_its_id() {
    let (janus, addr) = serve_http(config()).await;
    publish(&janus, "kept:board", 1..=3).await;
    let mut client = Http::events(addr, "topic=kept:board&since=start", "").await;
    let begun = client.block().await;
    assert_eq!((begun.event.as_deref(), begun.id), (Some("subscribed"), None), "an id would be the end of the start");
    assert_eq!(begun.data.unwrap()["missed"], 3);
    assert_eq!(client.message().await, (1, json!(1)));
    let id = client.block().await.id.unwrap();
    lose(client, &janus).await;
    let mut client = Http::events(addr, "topic=kept:board&since=start", &last_event_id(&id)).await;
    assert_eq!(client.block().await.data.unwrap()["missed"], 1, "the browser asks with the same address");
    assert_eq!(client.message().await, (3, json!(3)));
    let refused = Http::send(addr, "GET /events?topic=a&since=soon HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    let refused = refused.read_to_end().await;
    assert!(
        refused.starts_with("HTTP/1.1 400 ") && refused.contains("expected start, last, or a position"),
        "{refused}"
    );
}

#[tokio::test]
async fn a_stream_of_several_topics_begins_with_all_starts_in_one_order() {
    let (janus, addr) = serve_http(config()).await;
    for number in 1..=3 {
        for topic in ["kept:a", "kept:b"] {
            publish(&janus, topic, number..=number).await;
        }
    }
    let mut client = Http::events(addr, "topic=kept:a&topic=kept:b&since=start", "").await;
    for _ in 0..2 {
        let begun = client.block().await;
        assert_eq!((begun.event.as_deref(), begun.id), (Some("subscribed"), None));
    }
    let mut id = None;
    for number in 1..=2 {
        for topic in ["kept:a", "kept:b"] {
            let block = client.block().await;
            let data = block.data.unwrap();
            assert_eq!((&data["topic"], &data["data"]), (&json!(topic), &json!(number)));
            id = block.id;
        }
    }
    lose(client, &janus).await;
    let mut client = Http::events(addr, "topic=kept:a&topic=kept:b&since=start", &last_event_id(&id.unwrap())).await;
    for _ in 0..2 {
        assert_eq!(client.block().await.data.unwrap()["resumed"], true);
    }
    for topic in ["kept:a", "kept:b"] {
        assert_eq!(client.block().await.data.unwrap()["topic"], topic, "only the third messages are missing");
    }
}

#[tokio::test]
async fn a_subscriber_in_the_program_begins_with_the_start_or_the_last_message() {
    let (janus, _) = serve_http(config()).await;
    publish(&janus, "kept:board", 1..=4).await;
    for (since, first) in [(Since::Start, 1), (Since::Last, 4)] {
        let mut subscriber = janus.subscribe_with("kept:board", SubscribeOptions::default().since(since)).unwrap();
        let resumption = subscriber.ready().await.unwrap();
        assert_eq!((resumption.resumed, resumption.missed), (true, 5 - first));
        for number in first..=4 {
            let Some(Event::Message(message)) = subscriber.next().await else { panic!("a message comes") };
            assert_eq!(message.seq(), number);
        }
    }
}

/// One page: the numbers of the messages it gets until `last`.
async fn page(addr: SocketAddr, last: u64) -> Vec<u64> {
    let mut socket = Socket::open(addr).await;
    let answer = asked(&mut socket, "kept:board", "start").await;
    assert_eq!(answer["resumed"], true, "{answer}");
    let mut numbers = vec![answer["seq"].as_u64().unwrap()];
    while numbers.last() != Some(&last) {
        numbers.push(socket.json().await["data"].as_u64().unwrap());
    }
    numbers
}

#[tokio::test]
async fn pages_that_open_while_messages_are_published_have_all_from_their_start_on() {
    const LAST: u64 = 400;
    let (janus, addr) = serve_http(config()).await;
    let mut pages = JoinSet::new();
    for number in 1..=LAST {
        publish(&janus, "kept:board", number..=number).await;
        if number % 10 == 0 && number < LAST {
            pages.spawn(page(addr, LAST));
        }
    }
    // A page that subscribes after everything has the last ten.
    while let Some(numbers) = pages.join_next().await {
        let numbers = numbers.expect("the page is served");
        let expected: Vec<_> = (numbers[0]..=LAST).collect();
        assert_eq!(numbers, expected);
    }
}
