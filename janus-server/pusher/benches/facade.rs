//! What the facade costs, next to `janus.v1.json` in the same run: the time to the last of many clients, and the memory of an
//! idle client.
//!
//! `cargo bench -p janus-pusher --bench facade`, with the number of clients of each protocol as an argument (2,000). Both
//! protocols are served by the same instance, and take turns round by round, so that a busy machine is busy for both. A
//! client is a socket that counts bytes. The memory is that of the process (RSS) by batches of connections, without the
//! buffers of the kernel, which are the same for both.

#![allow(missing_docs, clippy::unwrap_used)]

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use janus_core::{Config, Janus, Message};
use janus_pusher::{Pusher, PusherSettings};
use tokio::io::AsyncReadExt as _;
use tokio::sync::Notify;

const ROUNDS: usize = 41;
const MESSAGES: usize = 20;
const CLIENTS: usize = 2_000;
const BATCHES: usize = 4;

#[derive(Clone, Copy, Debug)]
enum Protocol {
    Native,
    Pusher,
}

impl Protocol {
    fn path(self) -> &'static str {
        match self {
            Self::Native => "/ws",
            Self::Pusher => "/app/key?protocol=7",
        }
    }

    /// What a client sends, each with the beginning of the last frame of the answer.
    fn requests(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Native => &[
                ("{\"type\":\"hello\"}", "\"welcome\""),
                ("{\"type\":\"subscribe\",\"topic\":\"bench\",\"id\":1}", "\"subscribed\""),
            ],
            Self::Pusher => {
                &[("{\"event\":\"pusher:subscribe\",\"data\":{\"channel\":\"bench\"}}", "subscription_succeeded")]
            }
        }
    }

    fn topic(self) -> &'static str {
        match self {
            Self::Native => "bench",
            Self::Pusher => "pusher:bench",
        }
    }
}

/// A client's text frame with a mask of zeros.
fn frame(text: &str) -> Vec<u8> {
    assert!(text.len() < 126);
    [&[0x81, 0x80 | text.len() as u8, 0, 0, 0, 0][..], text.as_bytes()].concat()
}

fn connect(addr: SocketAddr, protocol: Protocol) -> TcpStream {
    let mut socket = TcpStream::connect(addr).unwrap();
    let path = protocol.path();
    let head = format!(
        "GET {path} HTTP/1.1\r\nhost: {addr}\r\nupgrade: websocket\r\nconnection: upgrade\r\nsec-websocket-version: 13\r\n\
         sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    socket.write_all(head.as_bytes()).unwrap();
    let read_until = |socket: &mut TcpStream, end: &str| {
        let mut text = String::new();
        while !text.contains(end) {
            let mut bytes = [0; 4_096];
            let length = socket.read(&mut bytes).unwrap();
            assert!(length > 0, "{text}");
            text.push_str(&String::from_utf8_lossy(&bytes[..length]));
        }
    };
    read_until(&mut socket, "\r\n\r\n");
    for (request, answer) in protocol.requests() {
        socket.write_all(&frame(request)).unwrap();
        read_until(&mut socket, answer);
    }
    socket
}

/// Counts what all clients of a protocol receive.
#[derive(Default)]
struct Counter {
    bytes: AtomicUsize,
    goal: AtomicUsize,
    reached: Notify,
}

impl Counter {
    fn read(self: &Arc<Self>, socket: TcpStream) {
        socket.set_nonblocking(true).unwrap();
        let (counter, mut socket) = (Arc::clone(self), tokio::net::TcpStream::from_std(socket).unwrap());
        tokio::spawn(async move {
            let mut bytes = vec![0; 4_096];
            while let Ok(length @ 1..) = socket.read(&mut bytes).await {
                let sum = counter.bytes.fetch_add(length, Ordering::AcqRel) + length;
                if sum >= counter.goal.load(Ordering::Acquire) {
                    counter.reached.notify_one();
                }
            }
        });
    }
}

/// Bytes of this process in memory.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/statm").unwrap();
    status.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4_096
}

async fn start() -> Janus {
    let settings = PusherSettings {
        pusher_app_id: Some("1".to_owned()),
        pusher_key: Some("key".to_owned()),
        ..PusherSettings::default()
    };
    let mut config = Config {
        listen: Vec::new(),
        http_listen: vec![SocketAddr::from(([127, 0, 0, 1], 0))],
        // A ping would count as a part of a message.
        heartbeat_interval: Duration::from_secs(3_600),
        ..Config::default()
    };
    settings.prepare(&mut config);
    let pusher = Pusher::with_secrets(&settings, ["a-secret-of-the-bench"]).unwrap();
    pusher.add_to(Janus::builder().config(config)).start().await.unwrap()
}

/// The time to the last client, for each message.
async fn round(janus: &Janus, protocol: Protocol, counter: &Counter, bytes: usize) -> Duration {
    let data = serde_json::json!({ "symbol": "ACME", "bid": 101.25, "ask": 101.5, "text": "x".repeat(100) });
    let message = Message::new(protocol.topic(), &data).unwrap().event("quote");
    let start = Instant::now();
    counter.goal.store(counter.bytes.load(Ordering::Acquire) + bytes * MESSAGES, Ordering::Release);
    for _ in 0..MESSAGES {
        janus.publish_message(message.clone()).await.unwrap();
    }
    while counter.bytes.load(Ordering::Acquire) < counter.goal.load(Ordering::Acquire) {
        counter.reached.notified().await;
    }
    start.elapsed() / MESSAGES as u32
}

/// The bytes that all clients together receive for one message.
async fn size(janus: &Janus, protocol: Protocol, counter: &Counter) -> usize {
    counter.goal.store(usize::MAX, Ordering::Release);
    let before = counter.bytes.load(Ordering::Acquire);
    let data = serde_json::json!({ "symbol": "ACME", "bid": 101.25, "ask": 101.5, "text": "x".repeat(100) });
    // The number of a message grows by a digit once in a while, and would change the size: the rounds stay below.
    for _ in 0..1_000 {
        let message = Message::new(protocol.topic(), &data).unwrap().event("quote");
        janus.publish_message(message).await.unwrap();
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    let start = counter.bytes.load(Ordering::Acquire);
    assert!(start > before);
    janus.publish_message(Message::new(protocol.topic(), &data).unwrap().event("quote")).await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    counter.bytes.load(Ordering::Acquire) - start
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

#[tokio::main]
async fn main() {
    let clients = std::env::args().skip(1).find_map(|text| text.parse().ok()).unwrap_or(CLIENTS);
    let janus = start().await;
    let addr = janus.local_addrs()[0];
    let protocols = [Protocol::Native, Protocol::Pusher];

    // Idle clients first, in turns. The first batch of each also pays for what all clients share.
    let mut sockets = [Vec::new(), Vec::new()];
    let mut costs = [Vec::new(), Vec::new()];
    for batch in 0..=BATCHES {
        for (at, protocol) in protocols.into_iter().enumerate() {
            let before = resident();
            let count = clients / BATCHES;
            sockets[at].extend((0..count).map(|_| connect(addr, protocol)));
            if batch > 0 {
                costs[at].push((resident() as f64 - before as f64) / count as f64);
            }
        }
    }
    let [native, pusher] = costs.map(median);
    println!("idle client: native {native:.0} B, pusher {pusher:.0} B, ratio {:.3}", pusher / native);

    let counters = [Arc::new(Counter::default()), Arc::new(Counter::default())];
    for (counter, sockets) in counters.iter().zip(sockets) {
        sockets.into_iter().for_each(|socket| counter.read(socket));
    }
    let mut sizes = [0; 2];
    for at in 0..2 {
        sizes[at] = size(&janus, protocols[at], &counters[at]).await;
    }
    let (mut times, mut ratios) = ([Vec::new(), Vec::new()], Vec::new());
    for number in 0..ROUNDS {
        let mut both = [0.0; 2];
        for step in 0..2 {
            let at = (number + step) % 2;
            both[at] = round(&janus, protocols[at], &counters[at], sizes[at]).await.as_secs_f64() * 1e6;
            times[at].push(both[at]);
        }
        ratios.push(both[1] / both[0]);
    }
    let [native, pusher] = times.map(median);
    println!(
        "delivery to {clients} clients: native {native:.0} µs ({} B), pusher {pusher:.0} µs ({} B), ratio {:.3}",
        sizes[0] / clients.max(1),
        sizes[1] / clients.max(1),
        median(ratios)
    );
    janus.shutdown().await;
}
