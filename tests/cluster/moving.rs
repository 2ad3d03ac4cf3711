//! Clients that lose their node under load, and go on at another with their position.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::*;
use crate::http::Http;
use crate::support::Client;
use crate::tokens::Socket;

/// Publishes the numbers from 1 on, one after the other, until it is told to stop.
struct Load {
    is_over: Arc<AtomicBool>,
    published: Arc<AtomicU64>,
    task: tokio::task::JoinHandle<()>,
}

impl Load {
    fn on(admin: SocketAddr) -> Self {
        let (is_over, published) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (over, count) = (Arc::clone(&is_over), Arc::clone(&published));
        let task = tokio::spawn(async move {
            while !over.load(Ordering::Relaxed) {
                let number = count.load(Ordering::Relaxed) + 1;
                let (status, answer) = publish(admin, "news", number).await;
                assert_eq!((status, &answer["seq"]), (200, &json!(number)), "{answer}");
                count.store(number, Ordering::Relaxed);
            }
        });
        Self { is_over, published, task }
    }

    /// The last number.
    async fn end(self) -> u64 {
        self.is_over.store(true, Ordering::Relaxed);
        self.task.await.unwrap();
        self.published.load(Ordering::Relaxed)
    }
}

/// The number of the next message, and its data.
pub(super) async fn message(socket: &mut Socket) -> (u64, u64) {
    let heard = socket.hear().await;
    assert_eq!(heard["type"], "message", "{heard}");
    (heard["seq"].as_u64().unwrap(), heard["data"].as_u64().unwrap())
}

pub(super) async fn subscribed(node: &Node, since: Option<(&Value, u64)>) -> (Socket, Value) {
    let (mut socket, welcome) = Socket::hello(node.http, None).await;
    assert_eq!(welcome["type"], "welcome", "{welcome}");
    let mut request = json!({"type": "subscribe", "topic": "news"});
    if let Some((epoch, seq)) = since {
        request["since"] = json!({"epoch": epoch, "seq": seq});
    }
    let answer = socket.ask(request).await;
    assert_eq!(answer["type"], "subscribed", "{answer}");
    (socket, answer)
}

/// Messages that each client reads before the end of its node.
const BEFORE: u64 = 30;

/// Messages published at the other node before the clients come back.
const MEANWHILE: u64 = 20;

#[tokio::test(flavor = "multi_thread")]
async fn clients_of_a_killed_node_go_on_at_another_under_load_and_miss_nothing() {
    let redis = RedisServer::start();
    let doomed = Node::start(&redis, "doomed").ready();
    let other = Node::start(&redis, "other").ready();
    let (mut websocket, answer) = subscribed(&doomed, None).await;
    let epoch = answer["epoch"].clone();
    let mut stream = Http::events(doomed.http, "topic=news", "").await;
    stream.id().await;
    let mut classic = Client::connect(doomed.classic).await;
    classic.subscribe("news").await;
    let load = Load::on(other.admin);
    let mut id = String::new();
    for number in 1..=BEFORE {
        assert_eq!(message(&mut websocket).await, (number, number));
        let block = stream.block().await;
        assert_eq!(block.data.as_ref().unwrap()["data"], number, "{block:?}");
        id = block.id.unwrap();
        assert_eq!(classic.json().await["data"], number);
    }
    doomed.server.signal("KILL");
    doomed.server.wait();
    let gone = load.published.load(Ordering::Relaxed);
    crate::support::until("more is published", || load.published.load(Ordering::Relaxed) > gone + MEANWHILE).await;

    let (mut websocket, answer) = subscribed(&other, Some((&epoch, BEFORE))).await;
    assert_eq!(answer["resumed"], true, "{answer}");
    let mut stream = Http::events(other.http, "topic=news", &format!("Last-Event-ID: {id}\r\n")).await;
    let block = stream.block().await;
    assert_eq!((block.event.as_deref(), &block.data.as_ref().unwrap()["resumed"]), (Some("subscribed"), &json!(true)));
    let last = load.end().await;
    assert!(last > BEFORE + MEANWHILE, "{last}");
    for number in BEFORE + 1..=last {
        assert_eq!(message(&mut websocket).await, (number, number));
        assert_eq!(stream.message().await, (number, json!(number)));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_hops_between_nodes_that_are_killed_one_after_the_other() {
    let redis = RedisServer::start();
    let stable = Node::start(&redis, "stable").ready();
    let mut here = Node::start(&redis, "first").ready();
    let (mut socket, answer) = subscribed(&here, None).await;
    let epoch = answer["epoch"].clone();
    let load = Load::on(stable.admin);
    let mut last = 0;
    for hop in 0..4 {
        for _ in 0..BEFORE {
            assert_eq!(message(&mut socket).await, (last + 1, last + 1));
            last += 1;
        }
        here.server.signal("KILL");
        // A node that has just started has nothing of the topic.
        here = Node::start(&redis, &format!("hop {hop}")).ready();
        let answer;
        (socket, answer) = subscribed(&here, Some((&epoch, last))).await;
        assert_eq!((&answer["resumed"], &answer["epoch"]), (&json!(true), &epoch), "{answer}");
    }
    for number in last + 1..=load.end().await {
        assert_eq!(message(&mut socket).await, (number, number));
    }
}

#[tokio::test]
async fn a_session_of_the_classic_protocol_is_honestly_not_resumed_on_another_node() {
    let redis = RedisServer::start();
    let (one, other) = (Node::start(&redis, "one").ready(), Node::start(&redis, "other").ready());
    let mut client = Client::connect_silently(one.classic).await;
    let token = client.json().await["token"].as_str().unwrap().to_owned();
    client.subscribe("news").await;
    assert_eq!(other.publish("news", 1).await.0, 200);
    assert_eq!(client.json().await["data"], 1);
    one.server.signal("KILL");
    one.server.wait();
    let mut client = Client::connect(other.classic).await;
    client.send(janus_core::wire::classic::client::attach(&token, [("news", 1)])).await;
    let attached = client.json().await;
    assert_eq!(attached["attached"]["news"]["resumed"], false, "{attached}");
    assert_eq!(other.publish("news", 2).await.0, 200);
    assert_eq!(client.json().await["data"], 2, "from the answer on");
}

#[tokio::test]
async fn a_restarted_server_continues_its_topics_where_they_were() {
    let redis = RedisServer::start();
    let server = Node::start(&redis, "only").ready();
    let (mut socket, answer) = subscribed(&server, None).await;
    assert_eq!(server.publish("news", 1).await.1["seq"], 1);
    assert_eq!(message(&mut socket).await, (1, 1));
    server.server.signal("KILL");
    server.server.wait();
    let server = Node::start(&redis, "only").ready();
    let epoch = answer["epoch"].clone();
    let (mut socket, answer) = subscribed(&server, Some((&epoch, 1))).await;
    assert_eq!((&answer["resumed"], &answer["epoch"]), (&json!(true), &epoch), "{answer}");
    assert_eq!(server.publish("news", 2).await.1["seq"], 2);
    assert_eq!(message(&mut socket).await, (2, 2));
}
