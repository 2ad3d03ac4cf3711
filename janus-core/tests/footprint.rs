//! The memory of an idle subscriber, to the byte: the sum of all allocations that the client's connection has caused and
//! that are still there.
//!
//! One test, alone in its binary, because the allocator counts for the whole process. The kernel's buffers are not
//! counted, and neither is what an allocator adds by rounding: a few per cent in the binary, see `docs/BENCHMARKS.md`.
#![cfg(target_os = "linux")]

use std::alloc::System;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use janus_core::wire::{classic, websocket};
use janus_core::{Config, Janus};
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Clients of each protocol. The tables of the server grow in steps, and have just grown at a power of two.
const CLIENTS: usize = 512;

/// The most that an idle subscriber may take, its entries in tables included. A task 256, the registration of a socket 256,
/// a slot 192 at most, a session 112, the cell of an actor 80, a subscription 48; the rest is tables.
const MOST: usize = 1_080 + if cfg!(feature = "fault-injection") { 48 } else { 0 };

/// The bytes allocated and not freed.
fn allocated() -> usize {
    let stats = ALLOCATOR.stats();
    stats.bytes_allocated - stats.bytes_deallocated
}

/// Waits until nothing has been allocated or freed for a while; then all work for earlier clients is done.
fn settled() -> usize {
    let (begun, mut last, mut since) = (Instant::now(), allocated(), Instant::now());
    while since.elapsed() < Duration::from_millis(300) {
        assert!(begun.elapsed() < Duration::from_secs(60), "the server never rests");
        thread::park_timeout(Duration::from_millis(20));
        if last != allocated() {
            (last, since) = (allocated(), Instant::now());
        }
    }
    last
}

fn read_until(client: &mut TcpStream, end: &[u8]) {
    let (mut received, mut buffer) = (Vec::new(), [0; 4_096]);
    while !received.windows(end.len()).any(|window| window == end) {
        let length = client.read(&mut buffer).expect("the server answers in time");
        assert!(length > 0, "closed after {}", String::from_utf8_lossy(&received));
        received.extend_from_slice(&buffer[..length]);
    }
}

fn connect(to: SocketAddr) -> TcpStream {
    let client = TcpStream::connect(to).expect("the server listens");
    client.set_read_timeout(Some(Duration::from_secs(30))).expect("a time limit");
    client
}

fn classic_subscriber(to: SocketAddr) -> TcpStream {
    let mut client = connect(to);
    read_until(&mut client, b"\x01");
    client.write_all(&classic::client::subscribe("news")).expect("it is connected");
    read_until(&mut client, b"ACK\x01");
    client
}

fn websocket_subscriber(to: SocketAddr) -> TcpStream {
    let mut client = connect(to);
    let head = "GET /ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\
                Sec-WebSocket-Protocol: janus.v1.json\r\n\r\n";
    client.write_all(head.as_bytes()).expect("it is connected");
    read_until(&mut client, b"\r\n\r\n");
    for (frame, answer) in
        [(r#"{"type":"hello"}"#, "welcome"), (r#"{"type":"subscribe","id":1,"topic":"news"}"#, "subscribed")]
    {
        client.write_all(&websocket::client::text(frame, [1, 2, 3, 4])).expect("it is connected");
        read_until(&mut client, answer.as_bytes());
    }
    client
}

fn event_stream(to: SocketAddr) -> TcpStream {
    let mut client = connect(to);
    client.write_all(b"GET /events?topic=news HTTP/1.1\r\nHost: localhost\r\n\r\n").expect("it is connected");
    read_until(&mut client, b"id: ");
    client
}

/// Makes a subscriber of the topic `news`.
type Subscriber = fn(SocketAddr) -> TcpStream;

/// An address of loopback where nothing listens.
fn free() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    listener.local_addr().expect("it is bound")
}

#[test]
fn an_idle_subscriber_takes_little_more_than_a_kilobyte_in_any_protocol() {
    rlimit::increase_nofile_limit(8_192).expect("descriptors for both ends of the connections");
    let (classic, http) = (free(), free());
    let config = Config { listen: vec![classic], http_listen: vec![http], ..Config::default() };
    let janus = futures_executor::block_on(Janus::builder().config(config).start()).expect("it starts");
    let kinds: [(&str, Subscriber, SocketAddr); 3] = [
        ("classic", classic_subscriber, classic),
        ("WebSocket", websocket_subscriber, http),
        ("server-sent events", event_stream, http),
    ];
    let mut clients = Vec::with_capacity(kinds.len() * (CLIENTS + 8));
    let mut taken = Vec::new();
    for (name, subscriber, to) in kinds {
        // What the first clients leave behind is there once: buffers of threads, the topic.
        clients.extend((0..8).map(|_| subscriber(to)));
        let before = settled();
        clients.extend((0..CLIENTS).map(|_| subscriber(to)));
        taken.push((name, (settled() - before) / CLIENTS));
    }
    println!("bytes for each client: {taken:?}");
    assert!(taken.iter().all(|(_, bytes)| *bytes <= MOST), "{taken:?}, and {MOST} at most");
    drop(clients);
    futures_executor::block_on(janus.shutdown());
}
