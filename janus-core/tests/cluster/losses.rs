//! What subscribers are told when the engine has lost messages, and when the link to it is lost.

use janus_core::Epoch;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;

#[tokio::test]
async fn an_engine_that_restarts_empty_is_told_as_a_gap_on_every_node() {
    let mut server = RedisServer::start();
    let (one, two) = (node(&server).await, node(&server).await);
    let mut subscribers = [subscriber(&one, "news").await, subscriber(&two, "news").await];
    publish_to_all(&one, &mut subscribers, 1..=3).await;
    let before = subscribers[0].position();
    server.kill();
    server.restart();
    for subscriber in &mut subscribers {
        assert_eq!(next(subscriber).await, "gap 4 4");
        assert_ne!(subscriber.position().epoch, before.epoch);
    }
    assert_eq!(subscribers[0].position(), subscribers[1].position());
    publish(&two, "news", 4).await;
    for subscriber in &mut subscribers {
        assert_eq!(next(subscriber).await, "5 4");
    }
    // The position from before is still good on both nodes: everything after it is known, the gap among it.
    for janus in [&one, &two] {
        let mut again =
            janus.subscribe_with("news", SubscribeOptions::default().since(Position { seq: 1, ..before })).unwrap();
        assert!(within(again.ready()).await.unwrap().resumed);
        let told = [next(&mut again).await, next(&mut again).await, next(&mut again).await, next(&mut again).await];
        assert_eq!(told, ["2 2", "3 3", "gap 4 4", "5 4"]);
    }
}

#[tokio::test]
async fn a_stopped_engine_leaves_subscribers_and_tells_publishers() {
    let server = RedisServer::start();
    let one = node(&server).await;
    let mut here = subscriber(&one, "news").await;
    publish(&one, "news", 1).await;
    let since = Position { seq: 0, ..here.position() };
    server.pause();
    let outcome = within(one.publish("news", &2)).await;
    assert_eq!(outcome, Err(PublishError::OutcomeUnknown));
    // The ring still serves clients that come back.
    let mut again = one.subscribe_with("news", SubscribeOptions::default().since(since)).unwrap();
    while again.resumption().is_none() {
        let _ = tokio::time::timeout(Duration::from_millis(50), again.ready()).await;
    }
    assert_eq!(next(&mut again).await, "1 1");
    loop {
        match within(one.publish("news", &3)).await {
            Err(PublishError::EngineUnavailable) => break,
            other => assert_eq!(other, Err(PublishError::OutcomeUnknown)),
        }
    }
    server.resume();
    assert_eq!(next(&mut here).await, "1 1");
    // The messages whose outcome was unknown may have been carried out.
    let mut published = None;
    while published.is_none() {
        published = within(one.publish("news", &4)).await.ok();
    }
    let last = published.unwrap().seq;
    loop {
        let event = next(&mut here).await;
        if event == format!("{last} 4") {
            break;
        }
        assert!(event.ends_with(" 2") || event.ends_with(" 3"), "{event}");
    }
}

/// Ends the connections of a node to the engine.
fn cut(server: &RedisServer, node: &Janus) {
    let name = format!(" name=janus-{} ", node.cluster().unwrap().node);
    let list = server.run(&["CLIENT", "LIST"]).text();
    for line in list.lines().filter(|line| line.contains(&name)) {
        let id = line.split(' ').next().unwrap().strip_prefix("id=").unwrap();
        server.command(&["CLIENT", "KILL", "ID", id]);
    }
}

#[tokio::test]
async fn a_node_without_its_engine_gives_nothing_twice_to_a_client_that_is_ahead_of_it() {
    let server = RedisServer::start();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("redis.sock");
    let connect = || std::os::unix::fs::symlink(server.socket(), &path).unwrap();
    connect();
    let (behind, other) = (node_at(&format!("unix://{}", path.display()), config()).await, node(&server).await);
    let (mut here, mut there) = (subscriber(&behind, "news").await, subscriber(&other, "news").await);
    publish(&other, "news", 1).await;
    assert_eq!((next(&mut here).await, next(&mut there).await), ("1 1".to_owned(), "1 1".to_owned()));
    std::fs::remove_file(&path).unwrap();
    cut(&server, &behind);
    while within(behind.publish("news", &0)).await != Err(PublishError::EngineUnavailable) {}
    publish(&other, "news", 2).await;
    assert_eq!(next(&mut there).await, "2 2");

    let options = SubscribeOptions::default().since(there.position());
    let mut again = behind.subscribe_with("news", options).unwrap();
    assert_eq!(within(again.ready()).await, Err(SubscribeError::EngineUnavailable));
    connect();
    let resumption = loop {
        if let Ok(resumption) = within(again.ready()).await {
            break resumption;
        }
    };
    assert_eq!((resumption.resumed, resumption.missed), (true, 0));
    publish(&other, "news", 3).await;
    assert_eq!(next(&mut again).await, "3 3");
    assert_eq!([next(&mut here).await, next(&mut here).await], ["2 2", "3 3"]);
}

#[tokio::test]
async fn a_client_that_knows_of_a_failover_resumes_on_a_node_that_has_missed_it() {
    let (server, replica) = (RedisServer::start(), RedisServer::start());
    replica.follow(&server);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("redis.sock");
    let connect = |server: &RedisServer| std::os::unix::fs::symlink(server.socket(), &path).unwrap();
    connect(&server);
    let late = node_at(&format!("unix://{}", path.display()), config()).await;
    let mut here = subscriber(&late, "news").await;
    let since = publish(&late, "news", 1).await;
    assert_eq!(next(&mut here).await, "1 1");
    // For a position of another history the node reads the whole log once. The next such client needs no engine.
    let foreign = Position { epoch: Epoch::new(1), seq: 0 };
    let mut stranger = late.subscribe_with("news", SubscribeOptions::default().since(foreign)).unwrap();
    assert!(!within(stranger.ready()).await.unwrap().resumed);
    let has_the_message =
        || replica.info("replication", "slave_repl_offset") == server.info("replication", "master_repl_offset");
    replica.wait_for("the replica has the message", has_the_message);

    replica.run(&["REPLICAOF", "NO", "ONE"]);
    let other = node(&replica).await;
    let mut there = other.subscribe_with("news", SubscribeOptions::default().since(since)).unwrap();
    publish(&other, "news", 2).await;
    assert_eq!([next(&mut there).await, next(&mut there).await], ["gap 2 2", "3 2"]);
    std::fs::remove_file(&path).unwrap();
    connect(&replica);
    server.pause();
    // The node still takes its link to the old master for good.
    let mut again = late.subscribe_with("news", SubscribeOptions::default().since(there.position())).unwrap();
    let resumption = within(again.ready()).await.unwrap();
    assert_eq!((resumption.resumed, resumption.missed), (true, 0));
    publish(&other, "news", 3).await;
    assert_eq!(next(&mut again).await, "4 3");
    assert_eq!([next(&mut here).await, next(&mut here).await, next(&mut here).await], ["gap 2 2", "3 2", "4 3"]);
}

#[tokio::test]
async fn messages_that_the_log_still_has_follow_the_gap() {
    let mut server = RedisServer::start();
    let config = Config { resume_messages: 4, ..config() };
    let (one, two) = (node_with(&server, config.clone()).await, node_with(&server, config).await);
    let mut here = subscriber(&one, "news").await;
    publish(&two, "news", 1).await;
    assert_eq!(next(&mut here).await, "1 1");
    // The node is cut off, and the log of the topic outgrows its limit. Whole nodes of a stream are cut, of 100 entries.
    server.run(&["CLIENT", "KILL", "TYPE", "pubsub"]);
    server.run(&["CONFIG", "SET", "stream-node-max-entries", "1"]);
    let mut there = subscriber(&two, "news").await;
    for data in 2..=600 {
        publish(&two, "news", data).await;
        next(&mut there).await;
    }
    let mut seen = 1;
    while seen < 600 {
        let event = next(&mut here).await;
        let mut words = event.split(' ');
        match words.next().unwrap() {
            "gap" => {
                assert_eq!(words.next().unwrap().parse(), Ok(seen + 1), "{event}");
                seen = words.next().unwrap().parse().unwrap();
            }
            seq => {
                assert_eq!(seq.parse(), Ok(seen + 1), "{event}");
                assert_eq!(words.next(), Some(seq), "{event}");
                seen += 1;
            }
        }
    }
    server.kill();
}

#[tokio::test]
async fn a_full_engine_refuses_messages_in_words_and_serves_subscribers() {
    let server = RedisServer::start();
    let (one, two) = (node(&server).await, node(&server).await);
    let mut here = subscriber(&one, "news").await;
    let first = publish(&one, "news", 1).await;
    server.run(&["CONFIG", "SET", "maxmemory", "1"]);
    let mut there =
        two.subscribe_with("news", SubscribeOptions::default().since(Position { seq: 0, ..first })).unwrap();
    assert_eq!(next(&mut there).await, "1 1", "what is kept can be read");
    let refused = within(one.publish("news", &2)).await.unwrap_err();
    assert!(matches!(&refused, PublishError::EngineRefused(reason) if reason.contains("OOM")), "{refused}");
    assert_eq!(one.stats().engine_refusals, 1);
    server.run(&["CONFIG", "SET", "maxmemory", "0"]);
    publish(&one, "news", 3).await;
    assert_eq!((next(&mut here).await, next(&mut here).await), ("1 1".to_owned(), "2 3".to_owned()));
    assert_eq!(next(&mut there).await, "2 3");
}

#[tokio::test]
async fn a_client_of_a_new_topic_is_told_that_the_engine_is_away() {
    let server = RedisServer::start();
    let one = node(&server).await;
    server.pause();
    let mut client = tokio::net::TcpStream::connect(one.local_addrs()[0]).await.unwrap();
    let ask = async {
        client.write_all(b"{\"action\":\"subscribe\",\"data\":\"news\"}\0").await.unwrap();
        let mut told = String::new();
        while !told.contains("engine_unavailable") {
            assert!(!told.contains("topic_unavailable"), "{told}");
            let mut piece = [0; 1024];
            let read = client.read(&mut piece).await.unwrap();
            assert!(read > 0, "{told}");
            told.push_str(std::str::from_utf8(&piece[..read]).unwrap());
        }
    };
    within(ask).await;
    server.resume();
}
