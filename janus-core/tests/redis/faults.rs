//! Servers in trouble: restarts, failovers, lost scripts, pauses.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use janus_core::engine::redis::Options;
use janus_core::engine::{Answer, Outcome, Record, Request, What};
use janus_core::wire::TopicName;
use janus_core::{Epoch, Position};

use crate::node::{KEEP, Node, connect, here, options, payload, texts, topic};
use crate::redis_server::{RedisServer, Sentinel, free_port};

/// The only loss mark among these records.
#[track_caller]
pub(crate) fn mark(records: &[Record]) -> (Record, Position) {
    let mut marks = records.iter().filter_map(|record| match record.what {
        What::Lost { after } => Some((record.clone(), after)),
        What::Messages { .. } => None,
    });
    let mark = marks.next().unwrap_or_else(|| panic!("a loss mark among {records:?}"));
    assert_eq!(marks.next(), None);
    mark
}

async fn two_messages(server: &RedisServer, news: &TopicName) -> (Node, Position) {
    let mut one = Node::start(server, 1).await;
    one.open(news, None, None).await;
    one.append(news, 1, &["1", "2"]).await.unwrap();
    let known = one.records(news, 1).await[0].last();
    (one, known)
}

#[test]
fn a_restart_without_data_ends_the_link_and_the_numbers_go_on() {
    here(async {
        let mut server = RedisServer::start();
        let news = topic("news");
        let (mut one, known) = two_messages(&server, &news).await;
        server.restart();
        assert_eq!(one.end().await.reason, "closed");
        let mut one = Node::start(&server, 1).await;
        let (position, records) = one.open(&news, Some(known), Some(3)).await;
        assert_eq!(position.seq, 3);
        assert_ne!(position.epoch, known.epoch);
        let (record, after) = mark(&records);
        assert_eq!((record.first, record.count, after.seq), (1, 3, 0));
        // A node behind gets the same mark, a node ahead raises the numbers.
        let mut two = Node::start(&server, 2).await;
        assert_eq!(two.open(&news, Some(Position { seq: 1, ..known }), Some(2)).await, (position, records));
        let mut three = Node::start(&server, 3).await;
        let (higher, _) = three.open(&news, Some(Position { seq: 57, ..known }), None).await;
        assert_eq!(higher, Position { seq: 58, ..position });
        assert_eq!(one.records(&news, 2).await[1].last(), higher);
    });
}

#[test]
fn a_restart_with_data_is_a_loss_because_nobody_knows_better() {
    here(async {
        let mut server = RedisServer::start();
        let news = topic("news");
        let (mut one, known) = two_messages(&server, &news).await;
        server.run(&["SAVE"]);
        server.restart();
        one.end().await;
        let mut one = Node::start(&server, 1).await;
        let (position, records) = one.open(&news, Some(known), Some(3)).await;
        let (record, after) = mark(&records);
        assert_eq!((record.first, record.count, after), (3, 1, known));
        assert_eq!(position, record.last());
        // The messages from before are there, and are not carried out again.
        assert_eq!(texts(&news, &one.read(&news, 1).await), ["1", "2"]);
        assert_eq!(one.append(&news, 1, &["1", "2"]).await, Ok(Outcome::Known));
    });
}

#[test]
fn a_failover_that_lost_messages_is_marked_before_the_next_message() {
    here(async {
        let (mut master, replica) = (RedisServer::start(), RedisServer::start());
        let news = topic("news");
        // A master takes a new history with its first replica.
        replica.follow(&master);
        let (mut one, known) = two_messages(&master, &news).await;
        one.append(&news, 2, &["3"]).await.unwrap();
        let copied = one.records(&news, 1).await[0].last();
        assert_eq!(copied, Position { seq: 3, ..known });
        replica.wait_for("the replica has message 3", || {
            replica.info("replication", "slave_repl_offset") == master.info("replication", "master_repl_offset")
        });
        // The replication is cut, the master acknowledges two more, and is gone.
        replica.run(&["REPLICAOF", "127.0.0.1", "1"]);
        one.append(&news, 3, &["4", "5"]).await.unwrap();
        let known = one.records(&news, 1).await[0].last();
        master.kill();
        assert_eq!(one.end().await.reason, "closed");
        let error = connect(options(&replica.url()), 1).await.err().unwrap();
        assert_eq!(error.reason, "read_only");
        replica.run(&["REPLICAOF", "NO", "ONE"]);
        // Another node publishes first: messages 5 and 6 of another epoch.
        let mut two = Node::start(&replica, 2).await;
        two.append(&news, 1, &["\"FOUR\"", "\"FIVE\""]).await.unwrap();
        let records = two.read(&news, 4).await;
        let (record, after) = mark(&records);
        assert_eq!((record.first, record.count, after), (4, 1, copied));
        // The first node has handed out message 5 of an epoch with an end at message 3.
        let mut one = Node::start(&replica, 1).await;
        let (position, records) = one.open(&news, Some(known), Some(6)).await;
        assert_eq!(position.seq, 6);
        assert_eq!((records[0].first, records[0].epoch), (5, record.epoch));
        let messages = two.read(&news, 4).await;
        assert_eq!(texts(&news, &messages), ["\"FOUR\"", "\"FIVE\""]);
        assert!(messages.iter().all(|record| record.epoch == position.epoch && position.epoch != known.epoch));
    });
}

/// A link after as many attempts as are needed, which fail for these reasons only.
pub(crate) async fn connect_at_last(address: &str, reasons: &[&str]) -> Node {
    loop {
        match connect(options(address), 1).await {
            Ok(node) => return node,
            Err(error) => assert!(reasons.contains(&error.reason), "{error}"),
        }
    }
}

#[test]
fn a_link_over_sentinel_finds_the_promoted_server() {
    here(async {
        let (mut master, replica) = (RedisServer::start(), RedisServer::start());
        replica.follow(&master);
        let sentinel = Sentinel::start(&master);
        let closed = free_port();
        // The first Sentinel of the list is not there.
        // A password for the servers is no obstacle at a Sentinel without a password.
        let place = format!("redis+sentinel://:secret@127.0.0.1:{closed},127.0.0.1:{}", sentinel.port());
        let address = format!("{place}/tests");
        let news = topic("news");
        let mut one = connect_at_last(&address, &["refused"]).await;
        let error = connect(options(&format!("{place}/other")), 1).await.err().unwrap();
        assert!(error.reason == "sentinel" && error.message.contains("no master has the name other"), "{error}");
        assert!(error.message.contains(&format!("Sentinel 127.0.0.1:{closed}: ")), "{error}");
        assert!(!error.message.contains("secret"), "{error}");

        one.open(&news, None, None).await;
        one.append(&news, 1, &["1"]).await.unwrap();
        let known = one.records(&news, 1).await[0].last();
        replica.wait_for("the Sentinel knows the replica", || sentinel.knows_a_replica());
        replica.wait_for("the replica has the message", || {
            replica.info("replication", "slave_repl_offset") == master.info("replication", "master_repl_offset")
        });
        master.kill();
        assert_eq!(one.end().await.reason, "closed");
        let mut one = connect_at_last(&address, &["refused", "read_only", "closed"]).await;
        assert_eq!(replica.info("replication", "role"), "master");
        let (position, records) = one.open(&news, Some(known), Some(2)).await;
        assert_eq!((position.seq, mark(&records).1), (2, known));
    });
}

#[test]
fn a_promotion_is_noticed_on_a_connection_that_lives_on() {
    here(async {
        let server = RedisServer::start();
        let news = topic("news");
        let (mut one, known) = two_messages(&server, &news).await;
        server.promote();
        let outcome = one.append(&news, 2, &["3"]).await;
        let Ok(Outcome::New(position)) = outcome else { panic!("the message is new: {outcome:?}") };
        assert_eq!(position.seq, 4);
        assert_ne!(position.epoch, known.epoch);
        let records = one.records(&news, 2).await;
        assert_eq!(mark(&records).1, known);
        assert_eq!(records[1].last(), position);
    });
}

#[test]
fn a_master_that_became_a_replica_ends_the_link() {
    here(async {
        let server = RedisServer::start();
        let news = topic("news");
        let (mut one, _) = two_messages(&server, &news).await;
        let (mut two, mut three) = (Node::start(&server, 2).await, Node::start(&server, 3).await);
        server.run(&["REPLICAOF", "127.0.0.1", "1"]);
        one.submit(&news, KEEP, true, 2, &["3"], None);
        two.link.request(Request::Open { topic: &news, ask: 1, keep: KEEP, known: None, from: None });
        three.link.request(Request::Report { topic: &news, subscribers: 1, valid: Duration::from_secs(60) });
        for node in [&mut one, &mut two, &mut three] {
            let error = node.end().await;
            assert_eq!(error.reason, "read_only", "{error}");
            // The end stays the end.
            assert_eq!(node.end().await, error);
        }
    });
}

#[test]
fn a_server_that_hangs_is_given_up_and_one_that_is_idle_is_not() {
    here(async {
        let server = RedisServer::start();
        let timeout = Duration::from_millis(200);
        let impatient = || Options { timeout, ..options(&server.url()) };
        let mut one = connect(impatient(), 1).await.unwrap();
        // Idle for some questions.
        let idle = tokio::time::timeout(timeout * 3, one.end()).await;
        assert!(idle.is_err(), "an idle link has ended: {idle:?}");
        server.pause();
        let start = Instant::now();
        let error = one.end().await;
        assert_eq!(error.reason, "timeout");
        let took = start.elapsed();
        assert!((timeout..timeout * 10).contains(&took), "{took:?}");
        let error = connect(impatient(), 1).await.err().unwrap();
        assert_eq!(error.reason, "timeout");
        assert!(error.message.contains("no answer within 200ms"), "{error}");
        server.resume();
        connect(options(&server.url()), 1).await.unwrap();
    });
}

#[test]
fn scripts_that_the_server_forgets_are_loaded_again() {
    here(async {
        let server = RedisServer::start();
        let news = topic("news");
        let (mut one, _) = two_messages(&server, &news).await;
        let flush = || server.run(&["SCRIPT", "FLUSH"]);
        flush();
        let outcome = one.append_with(&news, KEEP, true, 2, &["3"], Some(("key", Duration::from_secs(60)))).await;
        assert!(matches!(outcome, Ok(Outcome::New(position)) if position.seq == 3));
        flush();
        assert_eq!(one.open(&news, None, Some(3)).await.1, one.records(&news, 1).await);
        flush();
        assert_eq!(one.report(&news, 2).await.1, 2);
        flush();
        assert_eq!(one.nodes().await, []);
        flush();
        one.link.request(Request::Beat { about: "first", valid: Duration::from_secs(60) });
        one.nodes().await;
        one.link.request(Request::Beat { about: "second", valid: Duration::from_secs(60) });
        assert_eq!(one.nodes().await[0].1, "second");
        // Submissions of several topics under way at once, and two of one topic.
        flush();
        let sports = topic("sports");
        one.submit(&news, KEEP, true, 3, &["4"], None);
        one.submit(&sports, KEEP, true, 4, &["1"], None);
        assert!(matches!(one.appended(3).await, Ok(Outcome::New(position)) if position.seq == 4));
        assert!(matches!(one.appended(4).await, Ok(Outcome::New(position)) if position.seq == 1));
        flush();
        one.submit(&news, KEEP, true, 5, &["5"], None);
        one.submit(&news, KEEP, true, 6, &["6"], None);
        assert_eq!(one.end().await.reason, "scripts");
    });
}

#[test]
fn a_full_server_refuses_a_submission_and_the_link_lives_on() {
    here(async {
        let server = RedisServer::start();
        let (news, sports) = (topic("news"), topic("sports"));
        let (mut one, _) = two_messages(&server, &news).await;
        server.run(&["CONFIG", "SET", "maxmemory", "1"]);
        let error = one.append(&news, 2, &["3"]).await.unwrap_err();
        assert!(error.0.starts_with("OOM"), "{error}");
        assert!(one.open_with(&sports, KEEP, None, None).await.unwrap_err().starts_with("OOM"));
        server.run(&["CONFIG", "SET", "maxmemory", "0"]);
        let outcome = one.append(&news, 2, &["3"]).await;
        assert!(matches!(outcome, Ok(Outcome::New(position)) if position.seq == 3));
        one.append(&sports, 1, &["1"]).await.unwrap();
        server.run(&["CONFIG", "SET", "min-replicas-to-write", "1"]);
        assert!(one.append(&news, 3, &["4"]).await.unwrap_err().0.starts_with("NOREPLICAS"));
    });
}

#[test]
fn a_late_command_of_a_dead_connection_is_not_carried_out_twice() {
    here(async {
        let server = RedisServer::start();
        let news = topic("news");
        let (mut one, _) = two_messages(&server, &news).await;
        server.pause();
        one.submit(&news, KEEP, true, 2, &["3"], None);
        // The text stays in the buffer of the dead connection.
        let poll = tokio::time::timeout(Duration::from_millis(20), one.next()).await;
        assert!(poll.is_err(), "a stopped server has answered: {poll:?}");
        drop(one);
        server.resume();
        let mut one = Node::start(&server, 1).await;
        let outcome = one.append(&news, 2, &["3"]).await.unwrap();
        assert!(matches!(outcome, Outcome::Known | Outcome::New(Position { seq: 3, .. })), "{outcome:?}");
        assert_eq!(one.append(&news, 2, &["3"]).await, Ok(Outcome::Known));
        assert_eq!(texts(&news, &one.read(&news, 0).await), ["1", "2", "3"]);
    });
}

#[test]
fn the_limits_of_a_link_end_it_and_name_the_setting() {
    here(async {
        let server = RedisServer::start();
        let news = topic("news");
        let (mut one, _) = two_messages(&server, &news).await;
        let data = format!("\"{}\"", "x".repeat(50_000));
        one.append(&news, 2, &[&data, &data]).await.unwrap();
        let mut two = connect(Options { max_reply_bytes: 90_000, ..options(&server.url()) }, 2).await.unwrap();
        two.link.request(Request::Read { topic: &news, ask: 1, from: 1 });
        let error = two.end().await;
        assert!(error.reason == "too_large" && error.message.contains("max_reply_bytes"), "{error}");

        let mut three = connect(Options { max_backlog_bytes: 90_000, ..options(&server.url()) }, 3).await.unwrap();
        three.submit(&news, KEEP, true, 1, &["\"small\""], None);
        assert!(three.link.backlog() > 100);
        three.appended(1).await.unwrap();
        assert_eq!(three.link.backlog(), 0);
        three.submit(&news, KEEP, true, 2, &[&data, &data], None);
        let error = three.end().await;
        assert!(error.reason == "backlog" && error.message.contains("max_backlog_bytes"), "{error}");
    });
}

#[test]
fn a_node_catches_up_on_more_than_the_server_sends_to_a_connection_with_subscriptions() {
    here(async {
        let server = RedisServer::start();
        server.run(&["CONFIG", "SET", "client-output-buffer-limit", "pubsub 100kb 0 0"]);
        let mut one = Node::start(&server, 1).await;
        let topics: Vec<_> = (0..40).map(|number| topic(&format!("topic {number}"))).collect();
        let data = format!("\"{}\"", "x".repeat(50_000));
        for (topic, submission) in topics.iter().flat_map(|topic| (1..=5).map(move |number| (topic, number))) {
            one.append(topic, submission, &[&data]).await.unwrap();
        }
        let mut two = Node::start(&server, 2).await;
        for (ask, topic) in (0..).zip(&topics) {
            two.link.request(Request::Open { topic, ask, keep: KEEP, known: None, from: Some(1) });
        }
        for _ in &topics {
            let answer = two.next().await;
            assert!(
                matches!(&answer, Answer::Opened { position, records, .. } if position.seq == 5 && records.len() == 5)
            );
        }
        one.append(&topics[39], 6, &["6"]).await.unwrap();
        assert_eq!(texts(&topics[39], &two.records(&topics[39], 1).await), ["6"]);
    });
}

#[test]
fn records_that_come_while_missed_ones_are_read_follow_the_answer() {
    here(async {
        let server = RedisServer::start();
        let (mut one, mut two) = (Node::start(&server, 1).await, Node::start(&server, 2).await);
        let topics: Vec<_> = (0..100).map(|number| topic(&format!("topic {number}"))).collect();
        for topic in &topics {
            one.append(topic, 1, &["1", "2"]).await.unwrap();
        }
        for (ask, topic) in (0..).zip(&topics) {
            two.link.request(Request::Open { topic, ask, keep: KEEP, known: None, from: Some(1) });
            one.submit(topic, KEEP, true, 2, &["3"], None);
        }
        for _ in &topics {
            one.appended(2).await.unwrap();
        }
        let mut had: HashMap<_, Vec<Record>> = HashMap::new();
        while had.values().filter(|records| records.iter().any(|record| record.last().seq == 3)).count() < topics.len()
        {
            match two.next().await {
                Answer::Opened { topic, records, .. } => assert!(had.insert(topic, records).is_none()),
                // What comes before the answer is of the time before.
                Answer::Record { topic, record } => {
                    had.get_mut(&topic).into_iter().for_each(|had| had.push(record.clone()))
                }
                other => panic!("neither opened nor a record: {other:?}"),
            }
        }
        for topic in &topics {
            assert_eq!(texts(topic, &had[topic]), ["1", "2", "3"]);
        }
    });
}

#[test]
fn a_server_that_closes_its_clients_ends_the_link() {
    here(async {
        let server = RedisServer::start();
        let news = topic("news");
        let (mut one, _) = two_messages(&server, &news).await;
        server.run(&["CLIENT", "KILL", "TYPE", "pubsub"]);
        assert_eq!(one.end().await.reason, "closed");
        // The connection for reading alone is a reason as well.
        let (mut one, _) = two_messages(&server, &topic("sports")).await;
        server.run(&["CLIENT", "KILL", "TYPE", "normal"]);
        assert_eq!(one.end().await.reason, "closed");
    });
}

#[test]
fn records_that_come_before_the_answer_to_an_open_are_of_the_time_before() {
    here(async {
        let server = RedisServer::start();
        let news = topic("news");
        let mut one = Node::start(&server, 1).await;
        let payload = payload(&news, &["1"]);
        let known = Some(Position { epoch: Epoch::new(9), seq: 41 });
        one.link.request(Request::Open { topic: &news, ask: 1, keep: KEEP, known, from: Some(42) });
        let key = None;
        let (topic, payload) = (&news, &payload);
        one.link.request(Request::Append { topic, keep: KEEP, create: true, submission: 1, count: 1, payload, key });
        let mut seen = Vec::new();
        let has = |seen: &[Answer], wanted: fn(&Answer) -> bool| seen.iter().any(wanted);
        while !has(&seen, |answer| matches!(answer, Answer::Appended { .. }))
            || !has(&seen, |answer| matches!(answer, Answer::Opened { .. }))
        {
            seen.push(one.next().await);
        }
        let opened = seen.iter().position(|answer| matches!(answer, Answer::Opened { .. })).unwrap();
        let Answer::Opened { position, records, .. } = &seen[opened] else { unreachable!() };
        assert_eq!((position.seq, records.len()), (42, 1));
        let rest = one.records(&news, 1 - seen[opened..].iter().filter(|a| matches!(a, Answer::Record { .. })).count());
        let _ = rest.await;
    });
}
