//! A server with topics evicted, with an older copy of the data, or with pushes that have not come.

use super::redis_server::Reply;
use super::*;

/// The only key of this form.
pub(super) fn key(server: &RedisServer, pattern: &str) -> String {
    match server.run(&["KEYS", pattern]) {
        Reply::List(mut keys) if keys.len() == 1 => keys.remove(0).text(),
        other => panic!("expected one key {pattern}: {other:?}"),
    }
}

#[tokio::test]
async fn an_evicted_topic_is_told_as_a_gap_on_every_node() {
    let server = RedisServer::with(&["--maxmemory-policy", "allkeys-random"]);
    let (one, two) = (node(&server).await, node(&server).await);
    let mut subscribers = [subscriber(&one, "news").await, subscriber(&two, "news").await];
    publish_to_all(&one, &mut subscribers, 1..=3).await;
    let before = subscribers[0].position();
    server.run(&["CONFIG", "SET", "maxmemory", "1"]);
    server.wait_for("the topic is evicted", || server.run(&["KEYS", "*news"]) == Reply::List(vec![]));
    server.run(&["CONFIG", "SET", "maxmemory", "0"]);
    // The first message of the new state has a number from before, and is inside the gap.
    publish(&two, "news", 4).await;
    for subscriber in &mut subscribers {
        assert_eq!(next(subscriber).await, "gap 4 4");
        assert_ne!(subscriber.position().epoch, before.epoch);
    }
    assert_eq!(subscribers[0].position(), subscribers[1].position());
    publish_to_all(&one, &mut subscribers, 5..=5).await;
}

#[tokio::test]
async fn a_server_with_an_older_copy_is_told_as_a_gap_on_every_node() {
    let mut server = RedisServer::start();
    let (one, two) = (node(&server).await, node(&server).await);
    let mut subscribers = [subscriber(&one, "news").await, subscriber(&two, "news").await];
    publish_to_all(&one, &mut subscribers, 1..=3).await;
    server.run(&["SAVE"]);
    publish_to_all(&one, &mut subscribers, 4..=5).await;
    let before = subscribers[0].position();
    // As after a failover to a replica that lacks two messages, and another history of that server.
    server.restart();
    for subscriber in &mut subscribers {
        assert_eq!(next(subscriber).await, "gap 6 6");
    }
    publish_to_all(&two, &mut subscribers, 7..=7).await;
    // For a node without the messages the lost messages begin at the end of the copy.
    let three = node(&server).await;
    for (seq, resumed) in [(3, true), (5, false)] {
        let since = SubscribeOptions::default().since(Position { seq, ..before });
        let mut again = three.subscribe_with("news", since).unwrap();
        assert_eq!(within(again.ready()).await.unwrap().resumed, resumed, "since {seq}");
    }
}

/// A node's name for a server; can be given to another server.
struct Name {
    folder: tempfile::TempDir,
}

impl Name {
    fn of(server: &RedisServer) -> Self {
        let name = Self { folder: tempfile::tempdir().unwrap() };
        name.give_to(server);
        name
    }

    fn give_to(&self, server: &RedisServer) {
        let next = self.folder.path().join("next");
        std::os::unix::fs::symlink(server.socket(), &next).unwrap();
        std::fs::rename(next, self.folder.path().join("redis.sock")).unwrap();
    }

    fn url(&self) -> String {
        format!("unix://{}/redis.sock", self.folder.path().display())
    }
}

/// Ends the connections of a node.
fn end_links(server: &RedisServer, node: &Janus) {
    let name = format!(" name=janus-{} ", node.cluster().unwrap().node);
    for client in server.run(&["CLIENT", "LIST"]).text().lines().filter(|client| client.contains(&name)) {
        let id = client.strip_prefix("id=").and_then(|rest| rest.split(' ').next()).unwrap();
        server.run(&["CLIENT", "KILL", "ID", id]);
    }
}

#[tokio::test]
async fn an_isolated_old_master_that_is_still_written_to_is_a_gap_on_both_sides() {
    let (old, new) = (RedisServer::start(), RedisServer::start());
    new.follow(&old);
    let names = [Name::of(&old), Name::of(&old)];
    let (one, two) = (node_at(&names[0].url(), config()).await, node_at(&names[1].url(), config()).await);
    let mut subscribers = [subscriber(&one, "news").await, subscriber(&two, "news").await];
    publish_to_all(&one, &mut subscribers, 1..=2).await;
    let before = subscribers[0].position();
    new.wait_for("the replica has the messages", || {
        new.info("replication", "slave_repl_offset") == old.info("replication", "master_repl_offset")
    });
    // The replica is promoted, and only the second node learns of it.
    new.run(&["REPLICAOF", "NO", "ONE"]);
    names[1].give_to(&new);
    end_links(&old, &two);
    let [here, there] = &mut subscribers;
    assert_eq!(next(there).await, "gap 3 3");
    publish(&two, "news", 40).await;
    assert_eq!(next(there).await, "4 40");
    // This receipt becomes untrue.
    publish(&one, "news", 30).await;
    assert_eq!((next(here).await, here.position().epoch), ("3 30".to_owned(), before.epoch));
    // The old master is isolated no longer.
    names[0].give_to(&new);
    old.run(&["REPLICAOF", "127.0.0.1", &new.port().to_string()]);
    end_links(&old, &one);
    assert_eq!(next(here).await, "gap 4 4");
    assert_eq!(here.position(), there.position());
    publish_to_all(&one, &mut subscribers, 5..=5).await;
}

/// Puts a message into the topic as another node does, and has no node hear of the message.
fn publish_unheard(server: &RedisServer, number: u64) {
    let (state, log) = (key(server, "*:s:news"), key(server, "*:l:news"));
    let Reply::List(mut entries) = server.run(&["XREVRANGE", &log, "+", "-", "COUNT", "1"]) else {
        panic!("the log has a message")
    };
    let Some(Reply::List(entry)) = entries.pop() else { panic!("an entry has an id and fields") };
    let Some(Reply::List(fields)) = entry.into_iter().nth(1) else { panic!("an entry has fields") };
    let text = fields.into_iter().nth(1).unwrap().text();
    // The head is `1 msg EPOCH FIRST COUNT …`.
    let (before, number) = (format!(" {} 1 ", number - 1), number.to_string());
    assert_eq!(text.matches(&before).count(), 1, "{text}");
    let text = text.replace(&before, &format!(" {number} 1 "));
    server.run(&["XADD", &log, &format!("{number}-0"), "t", &text]);
    server.run(&["HSET", &state, "s", &number]);
}

#[tokio::test]
async fn a_missed_push_is_found_by_the_number_of_the_next_message() {
    let server = RedisServer::start();
    let (one, two) = (node(&server).await, node(&server).await);
    let mut subscribers = [subscriber(&one, "news").await, subscriber(&two, "news").await];
    publish(&one, "news", 10).await;
    publish_unheard(&server, 2);
    assert_eq!(publish(&two, "news", 30).await.seq, 3);
    for subscriber in &mut subscribers {
        assert_eq!([next(subscriber).await, next(subscriber).await, next(subscriber).await], ["1 10", "2 10", "3 30"]);
    }
    for node in [one, two] {
        let stats = node.stats();
        assert_eq!((stats.engine_holes, stats.engine_losses), (1, 0));
    }
}

#[tokio::test]
async fn a_missed_push_is_found_by_the_round_of_reports_without_a_further_message() {
    let server = RedisServer::start();
    let one = node_with(&server, Config { engine_report_interval: Duration::from_secs(1), ..config() }).await;
    let mut here = subscriber(&one, "news").await;
    publish(&one, "news", 10).await;
    publish_unheard(&server, 2);
    assert_eq!([next(&mut here).await, next(&mut here).await], ["1 10", "2 10"]);
    let stats = one.stats();
    assert_eq!((stats.engine_holes, stats.engine_losses), (1, 0));
}
