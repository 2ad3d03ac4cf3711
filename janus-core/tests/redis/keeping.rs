//! The log and the state of a topic: how much is kept, and for how long.

use std::time::Duration;

use janus_core::engine::{Answer, Keep, LAST_NUMBER, Outcome, What};
use janus_core::{Epoch, Position};

use crate::node::{KEEP, Node, here, texts, topic};
use crate::redis_server::{RedisServer, Reply};

fn number(reply: &Reply) -> i64 {
    match reply {
        Reply::Number(number) => *number,
        other => panic!("expected a number: {other:?}"),
    }
}

fn key(server: &RedisServer, pattern: &str) -> String {
    match server.run(&["KEYS", pattern]) {
        Reply::List(keys) if keys.len() == 1 => keys.into_iter().next().unwrap().text(),
        other => panic!("expected one key {pattern}: {other:?}"),
    }
}

#[test]
fn the_log_keeps_the_latest_messages_and_few_more() {
    here(async {
        let server = RedisServer::start();
        let mut one = Node::start(&server, 1).await;
        let news = topic("news");
        let keep = Keep { messages: 128, ..KEEP };
        let mut submissions = 1..;
        // Whole nodes of the stream are cut, of 100 entries unless the server says otherwise.
        for entries in [100, 1] {
            server.run(&["CONFIG", "SET", "stream-node-max-entries", &entries.to_string()]);
            for submission in submissions.by_ref().take(400) {
                one.append_with(&news, keep, true, submission, &["1", "2", "3"], None).await.unwrap();
            }
            let records = one.read(&news, 0).await;
            let kept: u64 = records.iter().map(|record| record.count).sum();
            assert!((128..=128 + 3 * entries).contains(&kept), "{kept} messages");
            assert_eq!(records.last().unwrap().last().seq % 1_200, 0);
            assert!(records.windows(2).all(|pair| pair[1].first == pair[0].last().seq + 1));
        }
    });
}

#[test]
fn the_log_keeps_the_latest_bytes_and_few_more() {
    here(async {
        let server = RedisServer::start();
        let mut one = Node::start(&server, 1).await;
        let news = topic("news");
        let keep = Keep { messages: 1_000_000, bytes: 100_000, ..KEEP };
        let mut submissions = 1..;
        for (size, entries) in [(100, 100), (100, 1), (3_000, 100), (40_000, 100), (200_000, 100)] {
            server.run(&["CONFIG", "SET", "stream-node-max-entries", &entries.to_string()]);
            let data = format!("\"{}\"", "x".repeat(size));
            for submission in submissions.by_ref().take(400_000_usize.div_ceil(size)) {
                one.append_with(&news, keep, true, submission, &[&data], None).await.unwrap();
            }
            let records = one.read(&news, 0).await;
            let bytes: usize = texts(&news, &records).iter().map(|text| text.len() + 100).sum();
            assert!(bytes >= 100_000, "{bytes} bytes kept of messages of {size}");
            // Two looks are an eighth apart, and so is the note of the front; then there is the last node of the front.
            let node = if size < 4_096 { (size + 200) * entries } else { 0 };
            let most = 100_000 * 5 / 4 + 2 * (size + 200) + node;
            assert!(bytes <= most, "{bytes} bytes kept of messages of {size}, and not at most {most}");
        }
    });
}

#[test]
fn a_topic_may_keep_no_log_and_have_one_again() {
    here(async {
        let server = RedisServer::start();
        let mut one = Node::start(&server, 1).await;
        let news = topic("news");
        one.open(&news, None, None).await;
        one.append(&news, 1, &["1"]).await.unwrap();
        let none = [Keep { messages: 0, ..KEEP }, Keep { bytes: 0, ..KEEP }, Keep { age: Duration::ZERO, ..KEEP }];
        for (submission, keep) in (2..).zip(none) {
            one.append_with(&news, keep, true, submission, &["2"], None).await.unwrap();
            assert_eq!(server.run(&["KEYS", "*:l:*"]), Reply::List(vec![]));
        }
        one.append(&news, 5, &["5"]).await.unwrap();
        assert_eq!(texts(&news, &one.read(&news, 0).await), ["5"]);
        assert!(number(&server.run(&["PTTL", &key(&server, "*:l:news")])) > 0);
        assert_eq!(texts(&news, &one.records(&news, 5).await), ["1", "2", "2", "2", "5"]);
    });
}

#[test]
fn every_key_expires() {
    here(async {
        let server = RedisServer::start();
        let mut one = Node::start(&server, 1).await;
        let news = topic("news");
        one.open(&news, None, None).await;
        let lives = |pattern: &str| number(&server.run(&["PTTL", &key(&server, pattern)]));
        assert!((3_600_000..=3_605_000).contains(&lives("*:s:news")));
        one.append_with(&news, KEEP, true, 1, &["1"], Some(("key", Duration::from_secs(300)))).await.unwrap();
        // Prolonged at most every 5 s, so up to that much longer.
        assert!((59_000..=65_000).contains(&lives("*:l:news")));
        assert!((3_599_000..=3_605_000).contains(&lives("*:s:news")));
        assert!((299_000..=300_000).contains(&lives("*:i:news:key")));
        one.report(&news, 3).await;
        assert!((59_000..=60_000).contains(&lives("*:p:news")));
        // A report prolongs the state, as does an open, and a later message both.
        let (state, log) = (key(&server, "*:s:news"), key(&server, "*:l:news"));
        server.run(&["PEXPIRE", &state, "10000"]);
        one.report(&news, 3).await;
        assert!(lives("*:s:news") > 3_500_000);
        server.run(&["PEXPIRE", &state, "10000"]);
        one.open(&news, None, None).await;
        assert!(lives("*:s:news") > 3_500_000);
        server.run(&["PEXPIRE", &state, "10000"]);
        server.run(&["PEXPIRE", &log, "10000"]);
        server.run(&["HINCRBY", &state, "x", "-5000"]);
        one.append(&news, 2, &["1"]).await.unwrap();
        assert!(lives("*:s:news") > 3_500_000 && lives("*:l:news") > 50_000);
    });
}

#[test]
fn a_topic_whose_log_has_expired_goes_on() {
    here(async {
        let server = RedisServer::start();
        let mut one = Node::start(&server, 1).await;
        let news = topic("news");
        one.append(&news, 1, &["1"]).await.unwrap();
        server.run(&["DEL", &key(&server, "*:l:news")]);
        let (position, records) = one.open(&news, None, Some(1)).await;
        assert_eq!((position.seq, records), (1, vec![]));
        one.append(&news, 2, &["2"]).await.unwrap();
        assert_eq!(texts(&news, &one.read(&news, 0).await), ["2"]);
    });
}

#[test]
fn a_topic_whose_state_was_evicted_never_goes_back() {
    here(async {
        let server = RedisServer::start();
        let mut one = Node::start(&server, 1).await;
        let news = topic("news");
        one.append(&news, 1, &["1", "2", "3"]).await.unwrap();
        let (known, _) = one.open(&news, None, None).await;
        server.run(&["DEL", &key(&server, "*:s:news")]);
        // The log is still there, with ids in the way of a new state.
        let (position, records) = one.open(&news, Some(known), Some(4)).await;
        assert_eq!((position.seq, records.len()), (4, 1));
        assert_ne!(position.epoch, known.epoch);
        assert!(matches!(records[0].what, What::Lost { .. }));
        assert_eq!((records[0].first, records[0].count), (1, 4));
        server.run(&["DEL", &key(&server, "*:s:news")]);
        assert!(matches!(one.append(&news, 1, &["1"]).await, Ok(Outcome::New(position)) if position.seq == 1));
    });
}

#[test]
fn numbers_end_where_they_are_no_longer_exact() {
    here(async {
        let server = RedisServer::start();
        let mut one = Node::start(&server, 1).await;
        let news = topic("news");
        let known = Position { epoch: Epoch::new(7), seq: LAST_NUMBER - 4 };
        let (position, records) = one.open(&news, Some(known), Some(known.seq + 1)).await;
        assert_eq!((position.seq, records[0].last().seq), (LAST_NUMBER - 3, LAST_NUMBER - 3));
        let outcome = one.append(&news, 1, &["1", "2"]).await;
        assert!(matches!(outcome, Ok(Outcome::New(first)) if first.seq == LAST_NUMBER - 2));
        let error = one.append(&news, 2, &["3", "4"]).await.unwrap_err();
        assert!(
            error.0.contains("2 more messages after number 9007199254740990 go beyond 9007199254740991"),
            "{error}"
        );
        let outcome = one.append(&news, 2, &["3"]).await;
        assert!(matches!(outcome, Ok(Outcome::New(first)) if first.seq == LAST_NUMBER));
        assert!(one.append(&news, 3, &["4"]).await.is_err());
        assert_eq!(texts(&news, &one.read(&news, LAST_NUMBER).await), ["3"]);
        // Nothing comes after the last number, not even a loss mark; the topic stays where it is.
        let beyond = Position { epoch: Epoch::new(7), seq: u64::MAX };
        assert_eq!(one.open(&news, Some(beyond), None).await.0.seq, LAST_NUMBER);
        server.promote();
        assert!(one.append(&news, 3, &["4"]).await.is_err());
    });
}

#[test]
fn a_state_does_not_remember_every_node_that_ever_was() {
    here(async {
        let server = RedisServer::start();
        let mut one = Node::start(&server, 1).await;
        let news = topic("news");
        one.append(&news, 1, &["1"]).await.unwrap();
        let state = key(&server, "*:s:news");
        for node in 0..100 {
            server.run(&["HSET", &state, &format!("n:{node:016x}"), "9 1000000000"]);
        }
        server.run(&["HSET", &state, "x", "0", "n:0000000000000001", "1 1000000000"]);
        let mut two = Node::start(&server, 0xffff).await;
        two.append(&news, 7, &["2"]).await.unwrap();
        let fields = number(&server.run(&["HLEN", &state]));
        assert!(fields < 12, "{fields} fields are left");
        assert_eq!(two.append(&news, 7, &["2"]).await, Ok(Outcome::Known));
    });
}

#[test]
fn a_record_of_a_newer_release_ends_the_topic_and_not_the_link() {
    here(async {
        let server = RedisServer::start();
        let mut one = Node::start(&server, 1).await;
        let (news, sports) = (topic("news"), topic("sports"));
        one.append(&news, 1, &["1"]).await.unwrap();
        one.open(&news, None, None).await;
        let log = key(&server, "*:l:news");
        server.run(&["PUBLISH", &log.replace(":l:", ":c:"), "3 messages, in a form to come"]);
        let answer = one.next().await;
        let Answer::Failed { topic, ask: None, message } = answer else { panic!("expected a failure: {answer:?}") };
        assert_eq!(topic, news);
        assert!(message.contains("form 3") && message.contains("upgrade this node"), "{message}");
        server.run(&["XADD", &log, "2-0", "t", "3 messages, in a form to come"]);
        server.run(&["HSET", &key(&server, "*:s:news"), "s", "2"]);
        assert!(one.open_with(&news, KEEP, None, Some(1)).await.unwrap_err().contains("form 3"));
        // Without its log the topic can be opened, and the link serves the other topics.
        assert_eq!(one.open(&news, None, None).await.0.seq, 2);
        one.append(&sports, 1, &["1"]).await.unwrap();
    });
}
