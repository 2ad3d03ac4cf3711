//! What an instance says of its engine and of the other nodes, and requests to all nodes.

use std::time::SystemTime;

use janus_core::hooks::Revocation;
use janus_core::{Message, MetricFamily, MetricValue};

use super::redis_server::Reply;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;

async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let end = tokio::time::Instant::now() + DEADLINE;
    let mut looks = tokio::time::interval(Duration::from_millis(2));
    while !condition() {
        assert!(tokio::time::Instant::now() < end, "still waiting for: {what}");
        looks.tick().await;
    }
}

fn heard_by(nodes: i64) -> Reply {
    Reply::List(vec![Reply::Text("janus:control".to_owned()), Reply::Number(nodes)])
}

async fn both_listed(one: &Janus, other: &Janus) {
    until("both nodes list both", || one.nodes().len() == 2 && other.nodes().len() == 2).await;
}

fn figure(janus: &Janus, name: &str) -> MetricFamily {
    janus.metrics().into_iter().find(|family| family.name == name).unwrap()
}

#[tokio::test]
async fn nodes_list_each_other_until_one_leaves() {
    let server = RedisServer::start();
    let (one, two) = (node(&server).await, node(&server).await);
    both_listed(&one, &two).await;
    let ids: Vec<_> = one.nodes().iter().map(|node| node.id.clone()).collect();
    let state = two.cluster().unwrap();
    assert!(ids.contains(&state.node.to_string()) && ids.is_sorted(), "{ids:?}");
    let addresses: Vec<_> = one.nodes().into_iter().flat_map(|node| node.addresses).collect();
    assert!(addresses.contains(&two.local_addrs()[0]), "{addresses:?}");
    assert_eq!((one.stats().nodes, one.nodes().iter().all(|node| node.ready)), (2, true));
    two.shutdown().await;
    until("the other is gone", || one.nodes().len() == 1).await;
    assert_eq!(one.nodes()[0].id, one.cluster().unwrap().node.to_string());
}

#[tokio::test]
async fn a_request_to_all_nodes_counts_the_nodes_that_have_answered() {
    let server = RedisServer::start();
    let (one, two) = (node(&server).await, node(&server).await);
    both_listed(&one, &two).await;
    let everywhere = within(one.disconnect_user_everywhere("alice", true)).await;
    assert_eq!((everywhere.closed, everywhere.nodes, everywhere.answered), (0, 2, 2));
    let until = SystemTime::now() + Duration::from_secs(60);
    let everywhere = within(two.revoke_everywhere(Revocation::user("alice"), until)).await.unwrap();
    assert_eq!((everywhere.closed, everywhere.nodes, everywhere.answered), (0, 2, 2));
    server.pause();
    let everywhere = within(one.disconnect_user_everywhere("alice", true)).await;
    assert_eq!((everywhere.nodes, everywhere.answered), (2, 1), "the engine hands nothing on");
    server.resume();
}

#[tokio::test]
async fn a_message_of_a_later_release_is_ignored_and_counted() {
    let server = RedisServer::start();
    let one = node(&server).await;
    let hears = || server.run(&["PUBSUB", "NUMSUB", "janus:control"]) == heard_by(1);
    until("the node hears", hears).await;
    // What comes earlier is of the time before the node.
    until("the link is up", || one.cluster().unwrap().is_up()).await;
    for text in
        [r#"{"v":1,"id":1,"kind":"dance"}"#, r#"{"v":9,"id":1,"kind":"disconnect","user":"a","reconnect":true}"#]
    {
        server.run(&["PUBLISH", "janus:control", &format!("1 00000000000000ab\n{text}")]);
    }
    until("both are counted", || one.stats().engine_messages_ignored == 2).await;
}

#[tokio::test]
async fn the_state_of_the_link_is_told_with_the_reason() {
    let mut server = RedisServer::start();
    let one = node(&server).await;
    until("the link is up", || one.cluster().unwrap().is_up()).await;
    assert_eq!(figure(&one, "engine_up").series[0].value, MetricValue::Integer(1));
    server.kill();
    until("the link is down", || !one.cluster().unwrap().is_up()).await;
    let link = &one.cluster().unwrap().links[0];
    assert!(link.has_been_up && link.last_error.is_some(), "{link:?}");
    assert_eq!(figure(&one, "engine_up").series[0].value, MetricValue::Integer(0));
    server.restart();
    until("the link is up again", || one.cluster().unwrap().is_up()).await;
    assert_eq!(figure(&one, "engine_reconnects").series[0].value, MetricValue::Integer(1));
}

#[tokio::test]
async fn the_figures_of_the_engine_follow_messages_losses_and_returns() {
    let mut server = RedisServer::start();
    let one = node(&server).await;
    let mut here = subscriber(&one, "news").await;
    publish(&one, "news", 1).await;
    assert_eq!(next(&mut here).await, "1 1");
    let MetricValue::Distribution(appends) = &figure(&one, "engine_append_seconds").series[0].value else {
        panic!("no distribution")
    };
    assert_eq!(appends.count(), 1);
    // Everything is gone after the restart, and the next number tells so.
    server.restart();
    assert_eq!(next(&mut here).await, "gap 2 2");
    let stats = one.stats();
    assert_eq!((stats.engine_losses, stats.engine_resynced_topics), (1, 1));
    assert_eq!(figure(&one, "engine_waiting_messages").series[0].value, MetricValue::Integer(0));
}

#[tokio::test]
async fn messages_that_wait_for_the_engine_are_counted() {
    let server = RedisServer::start();
    let one = node_with(&server, Config { engine_timeout: Duration::from_secs(20), ..config() }).await;
    let mut here = subscriber(&one, "news").await;
    server.pause();
    let receipts: Vec<_> = (0..3).map(|data| one.try_publish(Message::new("news", &data).unwrap()).unwrap()).collect();
    let waiting = || figure(&one, "engine_waiting_messages").series[0].value.clone();
    until("some wait", || matches!(waiting(), MetricValue::Integer(1..))).await;
    server.resume();
    for receipt in receipts {
        within(receipt).await.unwrap();
    }
    for seq in 1..=3 {
        assert_eq!(next(&mut here).await, format!("{seq} {}", seq - 1));
    }
    until("none waits", || waiting() == MetricValue::Integer(0)).await;
}

/// The time after which the server asks a client to come back that it sends away at the end of the instance.
async fn reconnect_after(janus: Janus) -> u64 {
    let mut client = tokio::net::TcpStream::connect(janus.local_addrs()[1]).await.unwrap();
    client.write_all(b"GET /events?topic=news HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    let mut told = String::new();
    until("the client is subscribed", || janus.topics().iter().any(|topic| topic.subscribers == 1)).await;
    within(janus.shutdown()).await;
    within(client.read_to_string(&mut told)).await.unwrap();
    let (_, after) = told.split_once("\"reconnect_after_ms\":").unwrap_or_else(|| panic!("{told}"));
    after.split(|c: char| !c.is_ascii_digit()).next().unwrap().parse().unwrap()
}

#[tokio::test]
async fn a_node_that_ends_sends_its_clients_to_the_others_at_once() {
    let server = RedisServer::start();
    let any = "127.0.0.1:0".parse().unwrap();
    let config = || Config {
        http_listen: vec![any],
        restart_time: Duration::from_secs(60),
        drain_period: Duration::from_millis(100),
        ..config()
    };
    let (one, two) = (node_with(&server, config()).await, node_with(&server, config()).await);
    until("the nodes know each other", || one.nodes().len() == 2 && two.nodes().len() == 2).await;
    assert!(reconnect_after(one).await < 500);
    // The last node has no other, and is the one that comes back.
    until("the node has left", || two.nodes().len() == 1).await;
    assert!(reconnect_after(two).await >= 60_000);
}
