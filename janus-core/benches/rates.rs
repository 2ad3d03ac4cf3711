//! The price of the rates of a client, for each published message: without limits, and under rates that the client
//! never reaches. The client publishes 10,000 small messages at once to a topic without subscribers and waits for the
//! receipt of one more, so the figure is the whole way of a message through its Transport, and a part of it is the
//! client's own write.
//!
//! `SERVERS=before=127.0.0.1:9001,after=127.0.0.1:9002` compares running servers instead, such as two builds of the
//! binary.

mod client;
mod interleaved;

use std::error::Error;
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use client::Client;
use interleaved::{Comparison, rounds};
use janus_core::wire::classic::client::{ServerFrame, publish, publish_with_ack};
use janus_core::{Config, Janus, Namespace};
use parking_lot::Mutex;

const MESSAGES: usize = 10_000;

/// A rate that no client reaches.
const FAST: usize = 1_000_000;

fn main() -> Result<(), Box<dyn Error>> {
    let title = format!("{MESSAGES} messages of a client, per message");
    if let Ok(servers) = std::env::var("SERVERS") {
        let mut comparison = Comparison::new(title, MESSAGES as u32);
        let mut first = None;
        for server in servers.split(',') {
            let (name, addr) = server.split_once('=').ok_or("SERVERS=NAME=ADDRESS,…")?;
            let name: &'static str = name.to_owned().leak();
            comparison = comparison.contender(name, first, publishing(addr.parse()?, "news")?);
            first.get_or_insert(name);
        }
        comparison.run(rounds(200));
        return Ok(());
    }
    let publish_rate = Namespace { client_publish_rate: FAST, ..Namespace::default() };
    let namespaces: Vec<_> = (0..100).map(|number| (format!("namespace{number}"), publish_rate.clone())).collect();
    let off = Config { client_subscribe_rate: 0, ..Config::default() };
    let publishes = Config { default_namespace: publish_rate, ..off.clone() };
    let one_of_100 = Config { namespaces: namespaces.into_iter().collect(), ..off.clone() };
    let bytes = Config { client_bytes_rate: 1 << 40, ..off.clone() };
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    let mut instances = Vec::new();
    let mut comparison = Comparison::new(title, MESSAGES as u32);
    for (name, topic, config) in [
        ("no limit", "news", off),
        ("client_publish_rate", "news", publishes),
        ("client_publish_rate, 100 namespaces", "namespace50:news", one_of_100),
        ("client_bytes_rate", "news", bytes),
    ] {
        let config = Config { listen: vec!["127.0.0.1:0".parse()?], ..config };
        let janus = runtime.block_on(Janus::builder().config(config).start())?;
        let against = (!instances.is_empty()).then_some("no limit");
        comparison = comparison.contender(name, against, publishing(janus.local_addrs()[0], topic)?);
        instances.push(janus);
    }
    comparison.run(rounds(200));
    for janus in instances {
        let stats = janus.stats();
        assert_eq!((stats.publish_rate_waits, stats.bytes_rate_waits), (0, 0), "the rates were reached");
        runtime.block_on(janus.shutdown());
    }
    Ok(())
}

fn publishing(server: SocketAddr, topic: &str) -> io::Result<impl FnMut() -> Duration> {
    let client = Mutex::new(Client::connect(server)?);
    let quiet = publish(topic, "\"\"", "\"\"", "\"hello\"");
    let mut burst = quiet.repeat(MESSAGES);
    burst.extend(publish_with_ack(topic, "\"\"", "\"\"", "\"hello\""));
    Ok(move || {
        let begun = Instant::now();
        let mut client = client.lock();
        client.send(&burst).expect("the server reads");
        let is_receipt = |frame: &ServerFrame<'_>| matches!(frame, ServerFrame::Published { .. });
        client.read_until(is_receipt).expect("a receipt comes");
        begun.elapsed()
    })
}
