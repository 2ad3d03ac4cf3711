//! Several home arbiters: connections and topics spread over them, and what does not change for clients and operators.

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::Duration;

use futures_util::future::join_all;
use janus_core::supervision::State;
use janus_core::{Config, Fault, Janus, StartupError, TraceKind, TraceOptions};
use serde_json::Value;

use crate::support::{Client, Close, publish_frame, runs_after_restarts, serve_as_said, subscribers, until};

const HOMES: usize = 3;

fn config() -> Config {
    Config { threads: HOMES + 1, homes: HOMES, ..Config::default() }
}

#[tokio::test]
async fn the_tree_shows_each_home_with_its_tasks_and_its_acceptor() {
    let (janus, addr) = serve_as_said(config()).await;
    assert_eq!(janus.local_addrs(), [addr], "one port");
    let tree = janus.tree();
    let homes = tree.find("homes").unwrap();
    let names: Vec<_> = homes.children.iter().map(|home| home.name.to_string()).collect();
    assert_eq!(names, ["home 1", "home 2", "home 3"]);
    for home in &homes.children {
        let tasks: Vec<_> = home.children.iter().map(|task| (&*task.name, task.state)).collect();
        assert_eq!(tasks, [("turns", State::Running), ("errands", State::Running)], "{}", home.name);
    }
    for home in 1..=HOMES {
        assert!(tree.find(&format!("acceptor {addr} home {home}")).is_some(), "{tree}");
    }
    assert_eq!(tree.find("senders").unwrap().children.len(), 1);
    janus.shutdown().await;
}

#[tokio::test]
async fn connections_are_spread_over_the_homes() {
    let (janus, addr) = serve_as_said(config()).await;
    const CLIENTS: usize = 60;
    let options = TraceOptions::default().kinds([TraceKind::Connect]).count(CLIENTS as u64);
    let mut trace = janus.trace(options).unwrap();
    let _clients = join_all((0..CLIENTS).map(|_| Client::connect(addr))).await;
    let mut acceptors = BTreeMap::<_, usize>::new();
    while let Some(line) = trace.next().await {
        *acceptors.entry(line.from).or_default() += 1;
    }
    // The kernel goes by a hash of the client's port.
    assert_eq!((acceptors.len(), acceptors.values().sum()), (HOMES, CLIENTS), "{acceptors:?}");
    janus.shutdown().await;
}

/// The number in a frame with a message.
fn number(frame: &Value) -> Option<u64> {
    frame.get("topic").and_then(|_| frame["data"].as_u64())
}

/// Publishes on a connection of its own, one message after the other.
async fn publish(addr: SocketAddr, topic: String, numbers: std::ops::Range<u64>) {
    let mut publisher = Client::connect(addr).await;
    for number in numbers {
        // A message in the hands of a crashed topic is published again.
        loop {
            publisher.send(publish_frame(&topic, &number.to_string())).await;
            let answer = publisher.json().await;
            if answer["published"].is_object() {
                break;
            }
            assert_eq!(answer["error"]["code"], "topic_crashed", "{answer}");
        }
    }
}

/// Reads until this many messages have come; returns their numbers.
async fn read(client: &mut Client, count: usize) -> Vec<u64> {
    let mut numbers = Vec::with_capacity(count);
    while numbers.len() < count {
        numbers.extend(number(&client.json().await));
    }
    numbers
}

#[tokio::test]
async fn messages_between_any_two_homes_come_in_order_and_once() {
    const TOPICS: usize = 12;
    const MESSAGES: u64 = 150;
    let (janus, addr) = serve_as_said(config()).await;
    let mut readers = Vec::new();
    for topic in 0..TOPICS {
        for _ in 0..4 {
            let mut client = Client::connect(addr).await;
            client.subscribe(&format!("topic {topic}")).await;
            readers.push(client);
        }
    }
    let publishers = (0..TOPICS).map(|topic| publish(addr, format!("topic {topic}"), 0..MESSAGES));
    let crashes = async {
        for _ in 0..3 {
            janus.inject(Fault::Errand(5));
            janus.inject(Fault::TopicSend(50));
            janus.inject(Fault::TopicCommit(40));
            tokio::task::yield_now().await;
        }
    };
    let reading = join_all(readers.iter_mut().map(|reader| read(reader, MESSAGES as usize)));
    let (_, numbers, ()) = tokio::join!(join_all(publishers), reading, crashes);
    for (reader, numbers) in numbers.into_iter().enumerate() {
        assert!(numbers.into_iter().eq(0..MESSAGES), "reader {reader}");
    }
    janus.shutdown().await;
}

#[tokio::test]
async fn an_ack_comes_before_the_first_message_from_another_home() {
    let (janus, addr) = serve_as_said(config()).await;
    let stop = std::sync::atomic::AtomicBool::new(false);
    let publishing = async {
        let mut publisher = Client::connect(addr).await;
        let mut keeper = Client::connect(addr).await;
        keeper.subscribe("busy").await;
        let mut next = 0_u64;
        while !stop.load(std::sync::atomic::Ordering::Relaxed) {
            publisher.send(publish_frame("busy", &next.to_string())).await;
            publisher.json().await;
            keeper.json().await;
            next += 1;
        }
    };
    let joining = async {
        for _ in 0..150 {
            let mut client = Client::connect(addr).await;
            // `subscribe` accepts nothing but the ACK.
            client.subscribe("busy").await;
            let first = number(&client.json().await).unwrap();
            assert_eq!(number(&client.json().await), Some(first + 1));
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    };
    tokio::join!(publishing, joining);
    janus.shutdown().await;
}

#[tokio::test]
async fn a_topic_crashed_by_another_home_is_restarted_by_its_supervisor() {
    let (janus, addr) = serve_as_said(config()).await;
    let mut subscriber = Client::connect(addr).await;
    subscriber.subscribe("news").await;
    janus.inject(Fault::TopicCommit(1));
    publish(addr, "news".to_owned(), 7..8).await;
    assert_eq!(read(&mut subscriber, 1).await, [7]);
    until("the topic is restarted", || runs_after_restarts(&janus, "news", 1)).await;
    publish(addr, "news".to_owned(), 8..9).await;
    assert_eq!(read(&mut subscriber, 1).await, [8]);
    janus.shutdown().await;
}

#[tokio::test]
async fn a_drain_serves_and_closes_the_connections_of_all_homes() {
    let (janus, addr) = serve_as_said(Config { drain_period: Duration::from_millis(100), ..config() }).await;
    let mut clients = join_all((0..30).map(|_| Client::connect(addr))).await;
    for client in &mut clients {
        client.subscribe("news").await;
    }
    // A message of each client is on its way as the drain begins.
    for client in &mut clients {
        client.send(publish_frame("news", "1")).await;
    }
    until("the messages have arrived", || janus.stats().published == 30).await;
    let (report, ends) = tokio::join!(
        janus.shutdown(),
        join_all(clients.iter_mut().map(async |client| {
            let mut messages = 0;
            loop {
                match client.next().await {
                    Ok(frame) => {
                        messages += usize::from(
                            frame.starts_with(b"{") && number(&serde_json::from_slice(&frame).unwrap()).is_some(),
                        )
                    }
                    Err(close) => return (messages, close),
                }
            }
        }))
    );
    assert_eq!((report.connections, report.cut_off), (30, 0));
    assert!(ends.iter().all(|end| *end == (30, Close::Fin)), "{ends:?}");
}

#[tokio::test]
async fn a_second_server_gets_no_port_of_the_first_however_many_homes_it_has() {
    let (janus, addr) = serve_as_said(config()).await;
    for homes in [1, HOMES] {
        let second = Config { listen: vec![addr], http_listen: Vec::new(), homes, ..config() };
        match Janus::builder().config(second).start().await {
            Err(StartupError::Bind { addr: refused, source }) => {
                assert_eq!((refused, source.kind()), (addr, ErrorKind::AddrInUse));
            }
            other => panic!("{other:?}"),
        }
    }
    janus.shutdown().await;
}

#[tokio::test]
async fn a_client_leaves_topics_of_all_homes() {
    let (janus, addr) = serve_as_said(config()).await;
    let topics: BTreeSet<_> = (0..2 * HOMES).map(|topic| format!("topic {topic}")).collect();
    let mut client = Client::connect(addr).await.reset_on_drop();
    for topic in &topics {
        client.subscribe(topic).await;
    }
    assert!(topics.iter().all(|topic| subscribers(&janus, topic) == Some(1)));
    drop(client);
    until("the client has left", || topics.iter().all(|topic| subscribers(&janus, topic) == Some(0))).await;
    janus.shutdown().await;
}
