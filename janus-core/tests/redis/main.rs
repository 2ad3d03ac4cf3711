//! The engine on a real `redis-server`: the view of the nodes, the keys of the server, and faults.

#![expect(clippy::unwrap_used, reason = "a test that meets what it does not expect has failed")]

mod checks;
mod cluster;
#[cfg(feature = "conformance")]
mod conformance;
mod faults;
mod keeping;
mod node;
#[path = "../../../tests/cluster/redis_server.rs"]
mod redis_server;
mod storm;
#[cfg(feature = "tls")]
mod tls;

use std::time::Duration;

use bytes::Bytes;
use janus_core::engine::{Answer, LAST_NUMBER, NodeId, Outcome, Request, What};

use node::{KEEP, Node, here, in_time, texts, topic};
use redis_server::RedisServer;

#[test]
fn every_node_gets_the_messages_of_all_in_one_order() {
    here(async {
        let server = RedisServer::start();
        let (mut one, mut two) = (Node::start(&server, 1).await, Node::start(&server, 2).await);
        let news = topic("news");
        let (start, records) = one.open(&news, None, None).await;
        assert_eq!((start.seq, records), (0, vec![]));
        assert_eq!(two.open(&news, None, None).await.0, start);
        let outcome = one.append(&news, 1, &["1", "2"]).await.unwrap();
        assert!(matches!(outcome, Outcome::New(position) if position.seq == 1 && position.epoch == start.epoch));
        let outcome = two.append(&news, 1, &["3"]).await.unwrap();
        assert!(matches!(outcome, Outcome::New(position) if position.seq == 3));
        let seen = [one.records(&news, 2).await, two.records(&news, 2).await];
        assert_eq!(seen[0], seen[1]);
        assert_eq!(seen[0].iter().map(|record| (record.first, record.count)).collect::<Vec<_>>(), [(1, 2), (3, 1)]);
        assert_eq!(texts(&news, &seen[0]), ["1", "2", "3"]);
        let nodes = seen[0].iter().map(|record| match record.what {
            What::Messages { node, submission, .. } => (node.number(), submission),
            What::Lost { .. } => (0, 0),
        });
        assert_eq!(nodes.collect::<Vec<_>>(), [(1, 1), (2, 1)]);
        // The same records for a later node, over either connection.
        let mut three = Node::start(&server, 3).await;
        let (position, records) = three.open(&news, None, Some(1)).await;
        assert_eq!((position.seq, &records), (3, &seen[0]));
        assert_eq!(three.read(&news, 3).await, seen[0][1..]);
        assert_eq!(three.read(&news, 4).await, []);
    });
}

#[test]
fn a_closed_topic_sends_no_more_records() {
    here(async {
        let server = RedisServer::start();
        let (mut one, mut two) = (Node::start(&server, 1).await, Node::start(&server, 2).await);
        let (news, sports) = (topic("news"), topic("sports"));
        for name in [&news, &sports] {
            two.open(name, None, None).await;
        }
        two.link.request(Request::Close { topic: &news });
        two.report(&news, 0).await;
        one.append(&news, 1, &["1"]).await.unwrap();
        one.append(&sports, 1, &["2"]).await.unwrap();
        assert!(matches!(two.next().await, Answer::Record { topic, .. } if topic == sports));
        assert_eq!(two.open(&news, None, Some(1)).await.0.seq, 1);
        one.append(&news, 2, &["3"]).await.unwrap();
        assert_eq!(texts(&news, &two.records(&news, 1).await), ["3"]);
    });
}

#[test]
fn a_submission_is_carried_out_once() {
    here(async {
        let server = RedisServer::start();
        let mut one = Node::start(&server, 1).await;
        let news = topic("news");
        let first = one.append(&news, 7, &["1"]).await;
        assert!(matches!(first, Ok(Outcome::New(position)) if position.seq == 1));
        for submission in [7, 6] {
            assert_eq!(one.append(&news, submission, &["1"]).await, Ok(Outcome::Known));
        }
        // Another node counts for itself.
        let mut two = Node::start(&server, 2).await;
        assert!(matches!(two.append(&news, 1, &["2"]).await, Ok(Outcome::New(position)) if position.seq == 2));
        assert!(one.append(&news, LAST_NUMBER + 1, &["3"]).await.unwrap_err().0.contains("is beyond 9007199254740991"));
    });
}

#[test]
fn a_publishers_key_is_good_for_one_message() {
    here(async {
        let server = RedisServer::start();
        let mut one = Node::start(&server, 1).await;
        let news = topic("news");
        let long = Duration::from_secs(60);
        let Ok(Outcome::New(first)) = one.append_with(&news, KEEP, true, 1, &["1"], Some(("order 7", long))).await
        else {
            panic!("the first message with the key is new")
        };
        let mut two = Node::start(&server, 2).await;
        let again = two.append_with(&news, KEEP, true, 1, &["1"], Some(("order 7", long))).await;
        assert_eq!(again, Ok(Outcome::Again(first)));
        let short = Duration::from_millis(1);
        let other = two.append_with(&news, KEEP, true, 2, &["2"], Some(("order 8", short))).await;
        assert!(matches!(other, Ok(Outcome::New(position)) if position.seq == 2));
        server.wait_for("the key has expired", || {
            server.run(&["KEYS", "*:i:news:order 8"]) == redis_server::Reply::List(vec![])
        });
        let other = two.append_with(&news, KEEP, true, 3, &["2"], Some(("order 8", short))).await;
        assert!(matches!(other, Ok(Outcome::New(position)) if position.seq == 3));
    });
}

#[test]
fn a_message_to_nobody_makes_no_topic() {
    here(async {
        let server = RedisServer::start();
        let mut one = Node::start(&server, 1).await;
        let news = topic("news");
        assert_eq!(one.append_with(&news, KEEP, false, 1, &["1"], None).await, Ok(Outcome::Nobody));
        assert_eq!(server.run(&["DBSIZE"]), redis_server::Reply::Number(0));
        Node::start(&server, 2).await.open(&news, None, None).await;
        let outcome = one.append_with(&news, KEEP, false, 1, &["1"], None).await;
        assert!(matches!(outcome, Ok(Outcome::New(position)) if position.seq == 1));
    });
}

#[test]
fn subscribers_of_all_nodes_are_summed_while_their_reports_are_valid() {
    here(async {
        let server = RedisServer::start();
        let (mut one, mut two) = (Node::start(&server, 1).await, Node::start(&server, 2).await);
        let news = topic("news");
        assert_eq!(one.report(&news, 3).await, (None, 3));
        let (position, _) = one.open(&news, None, None).await;
        assert_eq!(two.report(&news, 4).await, (Some(position), 7));
        assert_eq!(two.report_for(&news, 1, Duration::from_millis(1)).await.0, Some(position));
        in_time(async { while one.report(&news, 3).await.1 != 3 {} }).await;
        assert_eq!(two.report(&news, 5).await.1, 8);
        assert_eq!(one.report(&news, 0).await.1, 5);
    });
}

#[test]
fn nodes_that_are_alive_are_listed() {
    here(async {
        let server = RedisServer::start();
        let (mut one, mut two) = (Node::start(&server, 0xb).await, Node::start(&server, 0xa).await);
        let long = Duration::from_secs(60);
        one.link.request(Request::Beat { about: r#"{"name":"one"}"#, valid: long });
        two.link.request(Request::Beat { about: "{\n}", valid: long });
        two.nodes().await;
        let both = [(NodeId::new(0xa), "{\n}".to_owned()), (NodeId::new(0xb), r#"{"name":"one"}"#.to_owned())];
        assert_eq!(one.nodes().await, both);
        two.link.request(Request::Beat { about: "bye", valid: Duration::from_millis(1) });
        two.nodes().await;
        in_time(async { while one.nodes().await.len() > 1 {} }).await;
        assert_eq!(one.nodes().await, both[1..]);
    });
}

#[test]
fn control_messages_go_to_one_node_or_to_all_others() {
    here(async {
        let server = RedisServer::start();
        let (mut one, mut two) = (Node::start(&server, 1).await, Node::start(&server, 2).await);
        let mut three = Node::start(&server, 3).await;
        one.link.request(Request::Control { to: None, message: b"to all\n" });
        one.link.request(Request::Control { to: Some(NodeId::new(3)), message: b"\xff" });
        one.nodes().await;
        let control = |from, message| Answer::Control { from: NodeId::new(from), message: Bytes::from_static(message) };
        assert_eq!(two.next().await, control(1, b"to all\n"));
        assert_eq!(three.next().await, control(1, b"to all\n"));
        assert_eq!(three.next().await, control(1, b"\xff"));
        two.link.request(Request::Control { to: Some(NodeId::new(1)), message: b"" });
        two.nodes().await;
        assert_eq!(one.next().await, control(2, b""));
    });
}

#[test]
fn names_and_messages_of_all_kinds_come_through() {
    here(async {
        let server = RedisServer::start();
        let mut one = Node::start(&server, 1).await;
        let long = "n".repeat(4096);
        let names = ["a {b} c", "{}", "}{", ":c:", "\"'\\", "€ 🙂 \u{202e}", "*", "[a]?", "news", "news:c:", &long];
        for name in names {
            let name = topic(name);
            one.open(&name, None, None).await;
            let large = format!("\"{}\"", "é\\n".repeat(200_000));
            one.append(&name, 1, &["1", &large]).await.unwrap();
            let records = one.records(&name, 1).await;
            assert_eq!(texts(&name, &records), ["1", &large], "{name}");
            assert_eq!(one.open(&name, None, Some(1)).await.1, records);
        }
    });
}

#[test]
fn ten_thousand_topics_are_opened_in_one_go() {
    here(async {
        let server = RedisServer::start();
        let mut one = Node::start(&server, 1).await;
        let names: Vec<_> = (0..10_000).map(|number| topic(&format!("topic {number}"))).collect();
        for (ask, topic) in (0..).zip(&names) {
            one.link.request(Request::Open { topic, ask, keep: KEEP, known: None, from: None });
        }
        for (ask, name) in (0..).zip(&names) {
            let answer = one.next().await;
            assert!(
                matches!(&answer, Answer::Opened { topic, ask: a, .. } if topic == name && *a == ask),
                "{answer:?}"
            );
        }
        one.append(&names[9_999], 1, &["1"]).await.unwrap();
        assert_eq!(one.records(&names[9_999], 1).await.len(), 1);
    });
}
