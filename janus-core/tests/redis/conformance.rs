//! The contract of an engine.

use janus_core::conformance::engine;
use janus_core::engine::redis::{Options, Redis};

use crate::node::{here, options};
use crate::redis_server::{RedisCluster, RedisServer};

#[test]
fn the_engine_keeps_the_contract() {
    here(async {
        let server = RedisServer::start();
        engine::run(Redis::new(options(&server.url())).unwrap()).await.assert_passed();
    });
}

#[test]
fn several_servers_are_one_engine() {
    here(async {
        let servers = [RedisServer::start(), RedisServer::start(), RedisServer::start()];
        let addresses = servers.iter().map(|server| server.unix_url().parse().unwrap());
        engine::run(Redis::new(Options::new(addresses)).unwrap()).await.assert_passed();
    });
}

#[test]
fn a_redis_cluster_is_one_engine() {
    here(async {
        let cluster = RedisCluster::start(3, 0);
        engine::run(Redis::new(options(&cluster.url())).unwrap()).await.assert_passed();
    });
}
