//! A Redis Cluster: topics on all servers, a master that fails, and slots that move.

use janus_core::engine::{Answer, Outcome};

use crate::faults::{connect_at_last, mark};
use crate::node::{KEEP, connect, here, options, texts, topic};
use crate::redis_server::{RedisCluster, RedisServer, Reply};

#[test]
fn topics_lie_on_all_servers_and_messages_on_one() {
    here(async {
        let cluster = RedisCluster::start(3, 0);
        let (mut one, mut two) =
            (connect(options(&cluster.url()), 1).await.unwrap(), connect(options(&cluster.url()), 2).await.unwrap());
        let topics: Vec<_> = (0..30).map(|number| topic(&format!("topic {{{number}}}"))).collect();
        for name in &topics {
            two.open(name, None, None).await;
        }
        for (submission, name) in (1..).zip(&topics) {
            one.append(name, submission, &["1", "2"]).await.unwrap();
            assert_eq!(texts(name, &two.records(name, 1).await), ["1", "2"]);
            assert_eq!(one.read(name, 1).await.len(), 1);
            assert_eq!(two.report(name, 3).await.1, 3);
        }
        for server in &cluster.servers {
            let Reply::Number(keys) = server.run(&["DBSIZE"]) else { panic!("a number") };
            assert!(keys > 15, "{keys} keys of 90 on a server");
            let stats = server.run(&["INFO", "commandstats"]).text();
            assert!(!stats.contains("cmdstat_publish:"), "{stats}");
        }
    });
}

#[test]
fn the_replica_of_a_failed_master_takes_over() {
    here(async {
        let mut cluster = RedisCluster::start(3, 1);
        let master = cluster.id(0);
        let replica = &cluster.servers[3];
        replica.run(&["CLUSTER", "REPLICATE", &master]);
        replica.wait_for("the replica is in step", || replica.info("replication", "master_link_status") == "up");
        let mut one = connect(options(&cluster.url()), 1).await.unwrap();
        // A topic in the first third of the slots.
        let mut number = 0;
        let name = loop {
            let name = topic(&format!("topic {number}"));
            one.append(&name, 1, &["1"]).await.unwrap();
            if cluster.servers[0].run(&["DBSIZE"]) != Reply::Number(0) {
                break name;
            }
            number += 1;
        };
        let (known, _) = one.open(&name, None, None).await;
        let offset = |server: &RedisServer, name| server.info("replication", name);
        replica.wait_for("the replica has the message", || {
            offset(replica, "slave_repl_offset") == offset(&cluster.servers[0], "master_repl_offset")
        });
        cluster.servers[0].kill();
        assert_eq!(one.end().await.reason, "closed");
        let mut one = connect_at_last(&cluster.url(), &["refused", "closed", "cluster", "read_only"]).await;
        let (position, records) = one.open(&name, Some(known), Some(2)).await;
        assert_eq!((position.seq, mark(&records).1), (2, known));
        assert_eq!(one.append(&name, 1, &["1"]).await, Ok(Outcome::Known));
    });
}

#[test]
fn a_slot_that_moves_ends_the_link_and_is_found_again() {
    here(async {
        let cluster = RedisCluster::start(2, 0);
        let mut one = connect(options(&cluster.url()), 1).await.unwrap();
        let name = topic("a");
        // The tag is FNV-1a of the name.
        let Reply::Number(slot) = cluster.servers[0].run(&["CLUSTER", "KEYSLOT", "af63dc4c8601ec8c"]) else {
            panic!("a number")
        };
        let from = usize::from(slot >= 8_192);
        let (slot, target) = (slot.to_string(), cluster.id(1 - from));
        for server in [1 - from, from] {
            cluster.servers[server].run(&["CLUSTER", "SETSLOT", &slot, "NODE", &target]);
        }
        one.submit(&name, KEEP, true, 1, &["1"], None);
        assert_eq!(one.end().await.reason, "cluster");
        let server = &cluster.servers[from];
        server.wait_for("all servers know of the move", || !server.run(&["CLUSTER", "NODES"]).text().contains("->-"));
        let mut one = connect(options(&cluster.url()), 1).await.unwrap();
        one.open(&name, None, None).await;
        one.append(&name, 1, &["1"]).await.unwrap();
        assert!(matches!(one.next().await, Answer::Record { .. }));
        assert_ne!(cluster.servers[1 - from].run(&["DBSIZE"]), Reply::Number(0));
    });
}

#[test]
fn each_kind_of_address_is_refused_by_servers_of_another_kind() {
    here(async {
        let (single, cluster) = (RedisServer::start(), RedisCluster::start(1, 0));
        for (address, words) in [
            (single.url().replace("redis://", "redis+cluster://"), "not part of a Redis Cluster"),
            (cluster.url().replace("redis+cluster://", "redis://"), "write redis+cluster://"),
        ] {
            let error = connect(options(&address), 1).await.err().unwrap();
            assert!(error.reason == "mode" && error.message.contains(words), "{error}");
        }
        cluster.servers[0].run(&["CLUSTER", "DELSLOTS", "7"]);
        let error = connect(options(&cluster.url()), 1).await.err().unwrap();
        assert!(error.reason == "cluster" && error.message.contains("slots without a master"), "{error}");
    });
}
