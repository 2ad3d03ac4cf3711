//! Several instances on one engine: what their subscribers and publishers see.

#![expect(clippy::unwrap_used, reason = "a test that meets what it does not expect has failed")]

mod losses;
mod nodes;
#[path = "../../../tests/cluster/redis_server.rs"]
mod redis_server;
mod trouble;

use std::time::Duration;

use janus_core::engine::redis::{Options, Redis};
use janus_core::{
    Config, Event, Janus, Message, Namespace, Position, PublishError, Since, SubscribeError, SubscribeOptions,
    Subscriber,
};

use redis_server::RedisServer;

const DEADLINE: Duration = Duration::from_secs(20);

fn config() -> Config {
    Config {
        listen: vec!["127.0.0.1:0".parse().unwrap()],
        drain_period: Duration::ZERO,
        engine_timeout: Duration::from_millis(500),
        ..Config::default()
    }
}

async fn node_with(server: &RedisServer, config: Config) -> Janus {
    node_at(&server.unix_url(), config).await
}

async fn node_at(engine: &str, config: Config) -> Janus {
    let _ = env_logger::builder().is_test(true).try_init();
    let options = Options { timeout: Duration::from_millis(500), ..Options::new([engine.parse().unwrap()]) };
    Janus::builder().config(config).engine(Redis::new(options).unwrap()).start().await.unwrap()
}

async fn node(server: &RedisServer) -> Janus {
    node_with(server, config()).await
}

async fn subscriber(janus: &Janus, topic: &str) -> Subscriber {
    let mut subscriber = janus.subscribe(topic).unwrap();
    within(subscriber.ready()).await.unwrap();
    subscriber
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, future).await.expect("in time")
}

/// The next event: the data of a message with its number, or the bounds of a gap.
async fn next(subscriber: &mut Subscriber) -> String {
    match within(subscriber.next()).await {
        Some(Event::Message(message)) => format!("{} {}", message.seq(), message.data()),
        Some(Event::Gap { from, to }) => format!("gap {from} {to}"),
        other => format!("{other:?}"),
    }
}

async fn publish(janus: &Janus, topic: &str, data: u64) -> Position {
    let receipt = within(janus.publish(topic, &data)).await.unwrap();
    Position { epoch: receipt.epoch, seq: receipt.seq }
}

/// Publishes these numbers to `news`, each of which is the number of its message, too; every subscriber gets all.
async fn publish_to_all(janus: &Janus, subscribers: &mut [Subscriber], numbers: std::ops::RangeInclusive<u64>) {
    for data in numbers {
        publish(janus, "news", data).await;
        for subscriber in &mut *subscribers {
            assert_eq!(next(subscriber).await, format!("{data} {data}"));
        }
    }
}

#[tokio::test]
async fn a_message_published_on_one_node_reaches_the_subscribers_of_all() {
    let server = RedisServer::start();
    let (one, two) = (node(&server).await, node(&server).await);
    let (mut here, mut there) = (subscriber(&one, "news").await, subscriber(&two, "news").await);
    let mut last = None;
    for data in 1..=20 {
        let publisher = if data % 3 == 0 { &two } else { &one };
        let position = publish(publisher, "news", data).await;
        assert_eq!(position.seq, data);
        last = Some(position);
    }
    for data in 1..=20 {
        let expected = format!("{data} {data}");
        assert_eq!((next(&mut here).await, next(&mut there).await), (expected.clone(), expected));
    }
    assert_eq!((Some(here.position()), Some(there.position())), (last, last));
}

#[tokio::test]
async fn bytes_reach_the_subscribers_of_all_nodes_and_are_kept_as_they_are() {
    let server = RedisServer::start();
    let with_history = || Config { default_namespace: Namespace { history: true, ..Namespace::default() }, ..config() };
    let (one, two) = (node_with(&server, with_history()).await, node_with(&server, with_history()).await);
    let (mut here, mut there) = (subscriber(&one, "news").await, subscriber(&two, "news").await);
    let bytes: Vec<u8> = (0..=255).collect();
    publish(&one, "news", 1).await;
    within(one.publish_message(Message::bytes("news", &bytes).unwrap().event("frame"))).await.unwrap();
    publish(&one, "news", 3).await;
    for subscriber in [&mut here, &mut there] {
        assert_eq!(next(subscriber).await, "1 1");
        let Some(Event::Message(message)) = within(subscriber.next()).await else { panic!("a message") };
        assert_eq!((message.seq(), message.event(), message.bytes().as_ref()), (2, "\"frame\"", Some(&bytes)));
        assert_eq!(next(subscriber).await, "3 3");
    }
    // A node that was not there reads the log.
    let three = node_with(&server, with_history()).await;
    for node in [&one, &three] {
        let history = within(node.history("news", None, 10)).await.unwrap();
        let payloads: Vec<_> = history.messages.iter().map(|message| message.bytes()).collect();
        assert_eq!(payloads, [None, Some(bytes.clone()), None]);
    }
    // Earlier releases read all but the message of bytes, of which they say that it is of a newer release.
    let log = trouble::key(&server, "*:l:news");
    for (seq, form) in [("1", "1 msg "), ("2", "2 msg "), ("3", "1 msg ")] {
        let entry = format!("{:?}", server.run(&["XRANGE", &log, seq, seq]));
        assert!(entry.contains(&format!("Text(\"{form}")), "{entry}");
    }
}

#[tokio::test]
async fn a_message_without_a_subscriber_on_any_node_is_not_numbered() {
    let server = RedisServer::start();
    let (one, two) = (node(&server).await, node(&server).await);
    assert_eq!(publish(&one, "news", 1).await.seq, 0);
    let mut there = subscriber(&two, "news").await;
    // A publisher without a subscriber on its own node is answered by the engine.
    assert_eq!(publish(&one, "news", 2).await, Position { epoch: there.position().epoch, seq: 1 });
    assert_eq!(next(&mut there).await, "1 2");
    let mut here = subscriber(&one, "news").await;
    assert_eq!(here.position(), there.position());
    publish(&two, "news", 3).await;
    assert_eq!(next(&mut here).await, "2 3");
}

#[tokio::test]
async fn a_subscriber_resumes_on_another_node_without_a_hole() {
    let server = RedisServer::start();
    let (one, two) = (node(&server).await, node(&server).await);
    let mut before = subscriber(&one, "news").await;
    for data in 1..=3 {
        publish(&one, "news", data).await;
        next(&mut before).await;
    }
    let since = before.position();
    drop(before);
    for data in 4..=6 {
        publish(&one, "news", data).await;
    }
    // The first client of the topic on that node, and a client that finds the topic there.
    for _ in 0..2 {
        let mut after = two.subscribe_with("news", SubscribeOptions::default().since(since)).unwrap();
        let resumption = within(after.ready()).await.unwrap();
        assert_eq!((resumption.resumed, resumption.missed), (true, 3));
        for data in 4..=6 {
            assert_eq!(next(&mut after).await, format!("{data} {data}"));
        }
    }
    // Without a position: with the next message.
    let mut new = subscriber(&two, "news").await;
    publish(&one, "news", 7).await;
    assert_eq!(next(&mut new).await, "7 7");
}

#[tokio::test]
async fn the_history_outlives_every_node() {
    let server = RedisServer::start();
    let config = Config { default_namespace: Namespace { history: true, ..Namespace::default() }, ..config() };
    let one = node_with(&server, config.clone()).await;
    for data in 1..=5 {
        assert_eq!(publish(&one, "news", data).await.seq, data);
    }
    one.shutdown().await;
    let two = node_with(&server, config).await;
    let history = within(two.history("news", None, 3)).await.unwrap();
    let seqs: Vec<_> = history.messages.iter().map(|message| message.seq()).collect();
    assert_eq!((seqs, history.complete, history.position.seq), (vec![3, 4, 5], true, 5));
    assert_eq!(publish(&two, "news", 6).await.seq, 6);
    let history = within(two.history("news", Some(history.position), 3)).await.unwrap();
    assert_eq!(history.messages.len(), 1);
}

#[tokio::test]
async fn a_namespace_may_stay_local() {
    let server = RedisServer::start();
    let mut config = config();
    config.namespaces.insert("here".to_owned(), Namespace { clustered: false, ..Namespace::default() });
    let (one, two) = (node_with(&server, config.clone()).await, node_with(&server, config).await);
    let (mut here, there) = (subscriber(&one, "here:a").await, two.subscribe("here:a").unwrap());
    assert!(there.resumption().is_some(), "without a question to the engine");
    publish(&two, "here:a", 1).await;
    publish(&one, "here:a", 2).await;
    assert_eq!(next(&mut here).await, "1 2");
    assert_ne!(here.position().epoch, there.position().epoch);
}

#[tokio::test]
async fn many_publishers_of_two_nodes_make_one_order() {
    const EACH: u64 = 200;
    let server = RedisServer::start();
    let nodes = [node(&server).await, node(&server).await];
    let mut subscribers = Vec::new();
    for janus in &nodes {
        let options = SubscribeOptions::default().max_queue_frames(100_000);
        let mut subscriber = janus.subscribe_with("news", options).unwrap();
        within(subscriber.ready()).await.unwrap();
        subscribers.push(subscriber);
    }
    let publishers = (0..8_u64).map(|publisher| {
        let janus = nodes[publisher as usize % 2].clone();
        tokio::spawn(async move {
            for count in 0..EACH {
                publish(&janus, "news", publisher * EACH + count).await;
            }
        })
    });
    for publisher in publishers.collect::<Vec<_>>() {
        within(publisher).await.unwrap();
    }
    let mut orders = Vec::new();
    for subscriber in &mut subscribers {
        let mut order = Vec::new();
        for seq in 1..=8 * EACH {
            let message = next(subscriber).await;
            let (number, data) = message.split_once(' ').unwrap();
            assert_eq!(number.parse(), Ok(seq), "{message}");
            order.push(data.parse::<u64>().unwrap());
        }
        orders.push(order);
    }
    assert_eq!(orders[0], orders[1]);
    for publisher in 0..8 {
        let own = orders[0].iter().filter(|data| **data / EACH == publisher);
        assert!(own.is_sorted(), "each publisher's messages are in its order");
    }
}

#[tokio::test]
async fn a_server_that_starts_without_its_engine_refuses_and_then_recovers() {
    let mut server = RedisServer::start();
    server.kill();
    let one = node(&server).await;
    assert_eq!(within(one.publish("news", &1)).await, Err(PublishError::EngineUnavailable));
    server.restart();
    let mut subscriber = one.subscribe("news").unwrap();
    while within(subscriber.ready()).await.is_err() {
        tokio::task::yield_now().await;
    }
    publish(&one, "news", 2).await;
    assert_eq!(next(&mut subscriber).await, "1 2");
}

#[tokio::test]
async fn a_message_repeated_on_another_node_is_published_once() {
    let server = RedisServer::start();
    let nodes = [node(&server).await, node(&server).await];
    let mut here = subscriber(&nodes[0], "news").await;
    let mut receipts = Vec::new();
    for (janus, key) in [(&nodes[0], "a"), (&nodes[1], "a"), (&nodes[1], "b"), (&nodes[0], "b")] {
        let message = Message::new("news", key).unwrap().idempotency_key(key.parse().unwrap());
        let receipt = within(janus.publish_message(message)).await.unwrap();
        receipts.push((receipt.seq, receipt.again));
    }
    assert_eq!(receipts, [(1, false), (1, true), (2, false), (2, true)]);
    assert_eq!([next(&mut here).await, next(&mut here).await], ["1 \"a\"", "2 \"b\""]);
    assert_eq!(publish(&nodes[1], "news", 3).await.seq, 3);
}

#[tokio::test]
async fn a_subscriber_begins_with_the_start_or_the_last_message_on_any_node() {
    let server = RedisServer::start();
    let config = || {
        let kept = Namespace { history: true, ..Namespace::default() };
        Config { namespaces: [("kept".to_owned(), kept)].into(), ..config() }
    };
    let (one, two) = (node_with(&server, config()).await, node_with(&server, config()).await);
    for data in 1..=3 {
        publish(&one, "kept:board", data).await;
    }
    // The first subscriber on that node has the log read, and further subscribers find the messages in the ring.
    for (since, first) in [(Since::Last, 3), (Since::Start, 1), (Since::Last, 3)] {
        let mut there = two.subscribe_with("kept:board", SubscribeOptions::default().since(since)).unwrap();
        let resumption = within(there.ready()).await.unwrap();
        assert_eq!((resumption.resumed, resumption.missed), (true, 4 - first), "{since:?}");
        for data in first..=3 {
            assert_eq!(next(&mut there).await, format!("{data} {data}"));
        }
    }
    let mut there = two.subscribe_with("kept:board", SubscribeOptions::default().since(Since::Start)).unwrap();
    publish(&one, "kept:board", 4).await;
    for data in 1..=4 {
        assert_eq!(next(&mut there).await, format!("{data} {data}"));
    }
}
