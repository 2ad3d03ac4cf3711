//! Typed topics: values in, values out, and undecodable values reported unchanged.

use futures_util::StreamExt;
use janus_core::wire::TopicNameError;
use janus_core::{Closed, Config, Janus, PublishError, SlowConsumer, SubscribeOptions, TypedEvent, TypedSubscriber};
use serde::{Deserialize, Serialize};
use tokio::time::timeout;

use crate::support::{Client, DEADLINE, serve, until};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Quote {
    bid: f64,
    ask: f64,
}

const QUOTE: Quote = Quote { bid: 1.07, ask: 1.08 };

async fn next(quotes: &mut TypedSubscriber<Quote>) -> TypedEvent<Quote> {
    timeout(DEADLINE, quotes.next()).await.expect("something comes").expect("it is not over")
}

async fn started() -> Janus {
    serve(Config::default()).await.0
}

#[tokio::test]
async fn a_value_arrives_unchanged_with_its_place_and_event() {
    let janus = started().await;
    let eur = janus.topic::<Quote>("quotes:eur").unwrap();
    let mut quotes = eur.subscribe().unwrap();
    let receipt = janus.publish_message(eur.message(&QUOTE).unwrap().event("tick").message_id("7")).await.unwrap();
    assert_eq!((receipt.seq, receipt.subscribers), (1, 1));
    let TypedEvent::Message(quote) = next(&mut quotes).await else { panic!("a message") };
    assert_eq!((quote.value, quote.delivery.position), (QUOTE, quotes.position()));
    assert_eq!((quote.delivery.event(), quote.delivery.message_id()), ("\"tick\"", "\"7\""));
}

#[tokio::test]
async fn wire_clients_and_typed_topics_share_their_messages() {
    let (janus, addr) = serve(Config::default()).await;
    let eur = janus.topic::<Quote>("quotes:eur").unwrap();
    let mut client = Client::connect(addr).await;
    client.subscribe("quotes:eur").await;
    eur.publish(&QUOTE).await.unwrap();
    assert_eq!(client.json().await["data"], serde_json::json!({"bid": 1.07, "ask": 1.08}));
}

#[tokio::test]
async fn an_undecodable_value_is_reported_and_the_stream_continues() {
    let janus = started().await;
    let eur = janus.topic::<Quote>("quotes:eur").unwrap();
    let mut quotes = eur.subscribe().unwrap();
    janus.publish("quotes:eur", "a text").await.unwrap();
    eur.publish(&QUOTE).await.unwrap();
    let TypedEvent::Undecodable { error, delivery } = next(&mut quotes).await else { panic!("it is no quote") };
    assert!(error.is_data() && error.to_string().contains("expected struct Quote"), "{error}");
    assert_eq!((delivery.data(), delivery.seq()), ("\"a text\"", 1));
    let TypedEvent::Message(quote) = next(&mut quotes).await else { panic!("a message") };
    assert_eq!(quote.value, QUOTE);
}

#[tokio::test]
async fn a_typed_subscriber_is_a_stream_that_ends_with_the_instance() {
    let janus = started().await;
    let numbers = janus.topic::<u64>("numbers").unwrap();
    let subscriber = numbers.subscribe().unwrap();
    for number in 1..=3 {
        drop(numbers.try_publish(&number).unwrap());
    }
    janus.shutdown().await;
    let events = timeout(DEADLINE, subscriber.collect::<Vec<_>>()).await.unwrap();
    let values = events.iter().filter_map(|event| match event {
        TypedEvent::Message(message) => Some(message.value),
        _ => None,
    });
    assert_eq!(values.collect::<Vec<_>>(), [1, 2, 3]);
    assert!(matches!(events.last(), Some(TypedEvent::Closed(Closed::ShutDown))) && events.len() == 4, "{events:?}");
    assert_eq!(numbers.publish(&4).await, Err(PublishError::ShuttingDown));
}

#[tokio::test]
async fn a_gap_is_told_in_its_place_and_a_position_can_be_resumed() {
    let janus = started().await;
    let numbers = janus.topic::<u64>("numbers").unwrap();
    let options = SubscribeOptions::default().slow_consumer(SlowConsumer::DropOldest).max_queue_frames(1);
    let mut subscriber = numbers.subscribe_with(options).unwrap();
    let start = subscriber.position();
    for number in 1..=3 {
        numbers.publish(&number).await.unwrap();
    }
    until("everything is handed out", || janus.topic_info("numbers").is_some_and(|topic| topic.in_flight == 0)).await;
    assert!(matches!(subscriber.next().await, Some(TypedEvent::Gap { from: 1, to: 2 })));
    assert!(matches!(subscriber.next().await, Some(TypedEvent::Message(message)) if message.value == 3));
    let mut again = numbers.subscribe_with(SubscribeOptions::default().since(start)).unwrap();
    assert_eq!((again.resumption().unwrap().resumed, again.resumption().unwrap().missed), (true, 3));
    assert!(matches!(again.next().await, Some(TypedEvent::Message(message)) if message.value == 1));
}

#[tokio::test]
async fn a_forbidden_name_is_refused_before_any_publish() {
    let janus = started().await;
    assert_eq!(janus.topic::<u64>("").unwrap_err(), TopicNameError::Empty);
    assert_eq!(janus.topic::<u64>(&"x".repeat(256)).unwrap_err(), TopicNameError::TooLong { max_bytes: 255 });
}

#[tokio::test]
async fn a_value_without_a_json_form_is_refused() {
    let janus = started().await;
    let topic = janus.topic::<std::collections::BTreeMap<Vec<u8>, u8>>("odd").unwrap();
    let refused = topic.publish(&[(vec![1], 1)].into()).await.unwrap_err();
    assert!(matches!(&refused, PublishError::Invalid(why) if why.contains("key must be a string")), "{refused:?}");
}
