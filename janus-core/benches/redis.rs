//! What the link adds to the round trip of the script, on a `redis-server` of its own.
//!
//! A bare client sends the same bytes over a TCP connection and waits for the push and the reply; the link has the
//! topic open and waits for the record and the receipt. Rounds of both alternate, because a machine is not the same
//! from one second to the next; the ratios are within a round.

#![expect(clippy::unwrap_used, reason = "a bench that meets what it does not expect has failed")]

use std::future::poll_fn;
use std::io::{Read, Write};
use std::net::TcpStream as BlockingStream;
use std::time::{Duration, Instant};

use janus_core::engine::redis::{Options, Redis};
use janus_core::engine::{Answer, Engine, Keep, Link, NodeId, Payload, Request};
use janus_core::wire::{Publication, TopicName};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

#[path = "../../tests/cluster/redis_server.rs"]
mod redis_server;

use redis_server::RedisServer;

const APPEND: &str = concat!(
    include_str!("../src/engine/redis/scripts/prelude.lua"),
    include_str!("../src/engine/redis/scripts/append.lua")
);
const KEEP: Keep =
    Keep { messages: 128, bytes: 256 * 1024, age: Duration::from_secs(60), state: Duration::from_secs(24 * 3600) };
const ROUNDS: usize = 9;
const CALLS: usize = 1_000;

fn payload(topic: &TopicName, messages: usize) -> Payload {
    let data = format!("\"{}\"", "x".repeat(98));
    let message = Publication::new(topic, "\"tick\"", "1", &data).unwrap();
    Payload::of(&vec![message; messages])
}

fn command(parts: &[&[u8]]) -> Vec<u8> {
    let mut text = format!("*{}\r\n", parts.len()).into_bytes();
    for part in parts {
        text.extend(format!("${}\r\n", part.len()).bytes());
        text.extend(*part);
        text.extend(b"\r\n");
    }
    text
}

/// The least that a client can do: one write, and reads until both answers are there.
struct Bare {
    stream: TcpStream,
    digest: String,
    input: Vec<u8>,
    submission: u64,
}

impl Bare {
    async fn start(server: &RedisServer) -> Self {
        let mut stream = BlockingStream::connect(("127.0.0.1", server.port())).unwrap();
        for parts in [&["HELLO", "3"][..], &["SCRIPT", "LOAD", APPEND], &["SUBSCRIBE", "janus:{0}:c:bare"]] {
            let parts: Vec<_> = parts.iter().map(|part| part.as_bytes()).collect();
            stream.write_all(&command(&parts)).unwrap();
            assert!(stream.read(&mut [0; 4096]).unwrap() > 0);
        }
        stream.set_nodelay(true).unwrap();
        stream.set_nonblocking(true).unwrap();
        let digest = server.run(&["SCRIPT", "LOAD", APPEND]).text();
        Self { stream: TcpStream::from_std(stream).unwrap(), digest, input: vec![0; 1 << 20], submission: 0 }
    }

    async fn append(&mut self, messages: usize, payload: &Payload) {
        self.submission += 1;
        let (submission, count) = (self.submission.to_string(), messages.to_string());
        let keys: [&[u8]; 3] = [b"janus:{0}:s:bare", b"janus:{0}:l:bare", b"janus:{0}:c:bare"];
        let common: [&[u8]; 7] =
            [b"00000000000000ab", b"128", b"262144", b"60000", b"86400000", b"PUBLISH", b"00000000000000cd"];
        let own: [&[u8]; 4] = [b"1", submission.as_bytes(), count.as_bytes(), payload.bytes()];
        let mut parts: Vec<&[u8]> = vec![b"EVALSHA", self.digest.as_bytes(), b"3"];
        parts.extend(keys.into_iter().chain(common).chain(own));
        self.stream.write_all(&command(&parts)).await.unwrap();
        let mut filled = 0;
        loop {
            filled += self.stream.read(&mut self.input[filled..]).await.unwrap();
            // The reply is the last of the two: the server writes the push first, at least up to 7.0.
            let text = &self.input[..filled];
            if text.len() > payload.bytes().len() && text[filled.saturating_sub(60)..].windows(4).any(|w| w == b"new ")
            {
                return;
            }
        }
    }
}

struct Linked {
    link: Box<dyn Link>,
    topic: TopicName,
    submission: u64,
}

impl Linked {
    async fn start(server: &RedisServer) -> Self {
        let engine = Redis::new(Options::new([server.url().parse().unwrap()])).unwrap();
        let mut link = engine.connect(0, NodeId::new(1)).await.unwrap();
        let topic = TopicName::new("link", 255).unwrap();
        link.request(Request::Open { topic: &topic, ask: 1, keep: KEEP, known: None, from: None });
        assert!(matches!(poll_fn(|cx| link.poll(cx)).await.unwrap(), Answer::Opened { .. }));
        Self { link, topic, submission: 0 }
    }

    async fn append(&mut self, messages: usize, payload: &Payload) {
        self.submission += 1;
        let Self { link, topic, submission } = self;
        let (topic, submission, count, key) = (&*topic, *submission, messages as u64, None);
        link.request(Request::Append { topic, keep: KEEP, create: true, submission, count, payload, key });
        let mut missing = 2;
        while missing > 0 {
            match poll_fn(|cx| link.poll(cx)).await.unwrap() {
                Answer::Appended { outcome: Ok(_), .. } | Answer::Record { .. } => missing -= 1,
                other => panic!("{other:?}"),
            }
        }
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

async fn appends(server: &RedisServer) {
    let (mut bare, mut linked) = (Bare::start(server).await, Linked::start(server).await);
    for messages in [1, 16, 64] {
        let payload = payload(&linked.topic, messages);
        let (mut bares, mut links, mut ratios) = (vec![], vec![], vec![]);
        for round in 0..=ROUNDS {
            let mut times = [vec![], vec![]];
            for _ in 0..CALLS {
                let start = Instant::now();
                bare.append(messages, &payload).await;
                times[0].push(start.elapsed().as_secs_f64() * 1e6);
                let start = Instant::now();
                linked.append(messages, &payload).await;
                times[1].push(start.elapsed().as_secs_f64() * 1e6);
            }
            let [bare, link] = times.map(median);
            // The first round warms up.
            if round > 0 {
                bares.push(bare);
                links.push(link);
                ratios.push(link / bare);
            }
        }
        ratios.sort_by(f64::total_cmp);
        println!(
            "append of {messages:2}: bare {:6.1} us, link {:6.1} us, link / bare {:.3} [{:.3} to {:.3}]",
            median(bares),
            median(links),
            median(ratios.clone()),
            ratios[0],
            ratios[ratios.len() - 1]
        );
    }
}

async fn opens(server: &RedisServer) {
    let mut link = Linked::start(server).await.link;
    let topics: Vec<_> = (0..10_000).map(|n| TopicName::new(&format!("topic {n}"), 255).unwrap()).collect();
    for portion in [1, 256, 10_000] {
        let mut times = vec![];
        for _ in 0..3 {
            let start = Instant::now();
            for topics in topics.chunks(portion) {
                for topic in topics {
                    link.request(Request::Open { topic, ask: 1, keep: KEEP, known: None, from: None });
                }
                for _ in topics {
                    assert!(matches!(poll_fn(|cx| link.poll(cx)).await.unwrap(), Answer::Opened { .. }));
                }
            }
            times.push(start.elapsed().as_secs_f64() * 1e3);
            topics.iter().for_each(|topic| link.request(Request::Close { topic }));
        }
        println!("opens of 10,000 topics, {portion} at a time: {:.1} ms", median(times));
    }
}

fn main() {
    let server = RedisServer::start();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(appends(&server));
    runtime.block_on(opens(&server));
}
