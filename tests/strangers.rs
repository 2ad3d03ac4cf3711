//! Memory held by strangers: bounded, and taken back before other clients give up anything.
//!
//! Strangers and unaffected clients connect from different loopback addresses, which only Linux has.

#![cfg(target_os = "linux")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use janus_core::hooks::{Client as User, ConnectRequest, Denied, Hooks, Identity};
use janus_core::wire::{Publication, TopicName};
use janus_core::{Config, Fault, Janus};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::support::{Client, Close, DEADLINE, own_address, publish_frame, serve, until};

const BUDGET: usize = 16 << 20;

/// A quarter of the budget, in whole per cent.
const BOUND: usize = BUDGET / 100 * 25;

/// The bytes read, and accounted, before the comparison with the bound.
const READ: usize = 128 * 1_024;

/// Addresses of strangers and of other clients: 127.0.0.2 and so on.
const STRANGER: [u8; 4] = [127, 0, 0, 2];
const OTHER: [u8; 4] = [127, 0, 0, 3];

/// The least possible budget, and time enough for every unfinished frame or stall.
fn with_budget() -> Config {
    let long = Duration::from_secs(600);
    Config {
        memory_budget_bytes: BUDGET,
        input_share: 25,
        frame_timeout: long,
        write_timeout: long,
        tcp_user_timeout: long,
        ..Config::default()
    }
}

fn used(janus: &Janus) -> usize {
    janus.stats().memory_used
}

fn closed(janus: &Janus) -> u64 {
    janus.stats().connections_closed_for_memory
}

/// The beginning of a frame of `bytes` bytes, completed only by blanks.
fn part(bytes: usize) -> String {
    let head = "{\"action\":\"subscribe\",\"data\":\"news\"";
    format!("{head}{}", " ".repeat(bytes - head.len()))
}

/// Makes the server account for this part of the budget, and keeps it from being taken back.
fn ballast(janus: &Janus, percent: usize) {
    janus.inject(Fault::MemoryTaken(BUDGET / 100 * percent - used(janus)));
}

/// A client with a topic that keeps ten messages.
async fn with_history(addr: SocketAddr) -> Client {
    let mut client = Client::connect_from(OTHER, addr).await;
    client.subscribe("history").await;
    for number in 0..10 {
        client.send(publish_frame("history", &number.to_string())).await;
        for _ in 0..2 {
            client.json().await;
        }
    }
    client
}

/// Waits until the server has closed the client for memory, perhaps after an error about an unpublished message.
async fn is_closed(client: &mut Client) {
    loop {
        match timeout(DEADLINE, client.next()).await.expect("it is closed") {
            Ok(frame) if String::from_utf8_lossy(&frame).contains("\"server_overloaded\"") => break,
            Ok(frame) => assert!(String::from_utf8_lossy(&frame).contains("\"error\"")),
            // The server had unread bytes.
            Err(close) => return assert_eq!(close, Close::Reset),
        }
    }
}

#[tokio::test]
async fn excess_input_closes_connections_of_the_largest_address() {
    let (janus, addr) = serve(with_budget()).await;
    let mut other = Client::connect_from(OTHER, addr).await;
    // As large as any input, and older.
    other.send(part(60_000)).await;
    until("it is seen", || used(&janus) > 60_000).await;
    let mut strangers = Vec::new();
    for _ in 0..120 {
        let mut stranger = Client::connect_from(STRANGER, addr).await;
        let _ = stranger.try_send(part(60_000)).await;
        strangers.push(stranger);
        assert!(used(&janus) < BOUND + 130 * 2_000 + READ, "{:?}", janus.stats());
    }
    until("so many are closed as do not fit", || closed(&janus) > 120 - BOUND as u64 / 60_000 - 1).await;
    assert!(closed(&janus) < 120, "and no more");
    is_closed(&mut strangers[0]).await;
    other.send("}\0").await;
    assert_eq!(other.frame().await, "ACK");
    drop(strangers);
    until("nothing of the strangers is left", || used(&janus) < 10_000).await;
}

#[tokio::test]
async fn within_an_address_old_input_goes_first_and_small_input_stays() {
    let (janus, addr) = serve(with_budget()).await;
    let mut small = Client::connect_from(STRANGER, addr).await;
    small.send(part(1_000)).await;
    let mut large = Vec::new();
    for number in 1..=70 {
        let before = used(&janus);
        let mut client = Client::connect_from(STRANGER, addr).await;
        client.send(part(60_000)).await;
        until("it is seen", || used(&janus) >= before + 60_000 || closed(&janus) > 0 || number > 1).await;
        large.push(client);
    }
    until("some are closed", || closed(&janus) > 0).await;
    is_closed(&mut large[0]).await;
    let last = large.last_mut().unwrap();
    for client in [&mut small, last] {
        client.send("}\0").await;
        assert_eq!(client.frame().await, "ACK");
    }
}

/// The head of a WebSocket request, with `padding` bytes of meaningless headers.
fn head(padding: usize) -> String {
    let padding: String = (0..padding / 250).map(|number| format!("x{number:02}: {}\r\n", "a".repeat(243))).collect();
    format!(
        "GET /ws HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: \
         13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{padding}\r\n"
    )
}

/// Nearly the longest head allowed, with nearly the most headers.
const HEAD: usize = 14_000;

async fn upgraded(addr: SocketAddr, padding: usize) -> TcpStream {
    let mut stream = timeout(DEADLINE, TcpStream::connect(addr)).await.unwrap().unwrap();
    stream.write_all(head(padding).as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        assert_ne!(timeout(DEADLINE, stream.read_buf(&mut answer)).await.unwrap().unwrap(), 0);
    }
    assert!(answer.starts_with(b"HTTP/1.1 101 "));
    stream
}

/// A `hello` in a frame whose mask is 0.
const HELLO: &[u8] = b"\x81\x90\0\0\0\0{\"type\":\"hello\"}";

async fn serve_http(config: Config, hooks: impl Hooks) -> (Janus, SocketAddr, SocketAddr) {
    let http_listen = vec![SocketAddr::from(([127, 0, 0, 1], 0))];
    let config = Config { listen: vec![own_address()], http_listen, drain_period: Duration::ZERO, ..config };
    let janus = Janus::builder().config(config).hooks(hooks).start().await.unwrap();
    let addrs = janus.local_addrs();
    let (addr, http) = (addrs[0], addrs[1]);
    (janus, addr, http)
}

/// Allows everything.
struct Willing;

impl Hooks for Willing {}

/// Never decides, and counts the questions.
#[derive(Clone, Default)]
struct Undecided {
    asked: Arc<AtomicUsize>,
}

impl Undecided {
    async fn ponder<T>(&self) -> T {
        self.asked.fetch_add(1, Ordering::Relaxed);
        std::future::pending().await
    }
}

/// Undecided about identities.
struct UndecidedWho(Undecided);

impl Hooks for UndecidedWho {
    async fn authenticate(&self, _: ConnectRequest) -> Result<Identity, Denied> {
        self.0.ponder().await
    }
}

/// Undecided about publishes.
struct UndecidedWhat(Undecided);

impl Hooks for UndecidedWhat {
    async fn authorize_publish(&self, _: &User, _: &TopicName, _: &Publication) -> Result<(), Denied> {
        self.0.ponder().await
    }
}

#[tokio::test]
async fn a_websocket_before_its_hello_is_accounted_with_its_head() {
    let (janus, _, http) = serve_http(with_budget(), Willing).await;
    let mut clients = Vec::new();
    for _ in 0..20 {
        clients.push(upgraded(http, HEAD).await);
    }
    assert!(used(&janus) > 20 * (1_010 + HEAD), "{}", used(&janus));
    for client in &mut clients {
        client.write_all(HELLO).await.unwrap();
    }
    until("the heads are forgotten", || used(&janus) == 20 * 1_010).await;
}

#[tokio::test]
async fn a_client_waiting_for_a_hook_is_accounted_with_its_head() {
    let config = Config { hook_timeout: Duration::from_secs(600), ..with_budget() };
    let undecided = Undecided::default();
    let (janus, _, http) = serve_http(config, UndecidedWho(undecided.clone())).await;
    let mut client = upgraded(http, HEAD).await;
    client.write_all(HELLO).await.unwrap();
    until("it is asked about", || undecided.asked.load(Ordering::Relaxed) == 1).await;
    assert!(used(&janus) > 1_010 + HEAD, "{}", used(&janus));
}

#[tokio::test]
async fn the_memory_of_many_websocket_heads_is_bounded() {
    let (janus, _, http) = serve_http(with_budget(), Willing).await;
    let mut clients = Vec::new();
    for _ in 0..400 {
        clients.push(upgraded(http, HEAD).await);
        assert!(used(&janus) < BOUND + 401 * 1_010 + READ, "{:?}", janus.stats());
    }
    until("some are closed", || closed(&janus) > 0).await;
    let mut words = Vec::new();
    timeout(DEADLINE, clients[0].read_to_end(&mut words)).await.unwrap().unwrap();
    assert!(String::from_utf8_lossy(&words).contains("server_overloaded"), "{words:?}");
}

#[tokio::test]
async fn messages_waiting_for_an_answer_are_bounded() {
    let config = Config { hook_timeout: Duration::from_secs(600), ..with_budget() };
    let undecided = Undecided::default();
    let (janus, addr, _) = serve_http(config, UndecidedWhat(undecided.clone())).await;
    let message = format!("\"{}\"", "x".repeat(60_000));
    let mut publishers = Vec::new();
    for _ in 0..120 {
        let mut publisher = Client::connect_from(STRANGER, addr).await;
        let _ = publisher.try_send(publish_frame("news", &message)).await;
        publishers.push(publisher);
        assert!(used(&janus) < BOUND + 130 * 2_000 + READ, "{:?}", janus.stats());
    }
    until("the oldest are closed", || closed(&janus) > 0).await;
    is_closed(&mut publishers[0]).await;
}

/// A client of the classic protocol with a session, which loses its connection and may come back.
async fn detached(janus: &Janus, addr: SocketAddr, topic: &str) {
    let mut client = Client::connect_from(OTHER, addr).await.reset_on_drop();
    client.subscribe(topic).await;
    drop(client);
    until("the session is detached", || janus.stats().detached_sessions > 0).await;
}

#[tokio::test]
async fn idle_connections_are_closed_before_any_history_or_session_ends() {
    let (janus, addr, http) = serve_http(with_budget(), Willing).await;
    let mut other = with_history(addr).await;
    detached(&janus, addr, "history").await;
    ballast(&janus, 77);
    let (mut silent, mut half) = (Vec::new(), Vec::new());
    for _ in 0..300 {
        silent.push(Client::connect_from(STRANGER, addr).await);
        let mut stream = timeout(DEADLINE, TcpStream::connect(http)).await.unwrap().unwrap();
        stream.write_all(b"GET /ws HTTP/1.1\r\n").await.unwrap();
        half.push(stream);
    }
    until("strangers are closed", || closed(&janus) > 0 && used(&janus) < BUDGET / 100 * 80).await;
    let stats = janus.stats();
    assert_eq!((stats.messages_trimmed, stats.sessions_ended_for_memory, stats.slow_consumers), (0, 0, 0));
    assert!(stats.connections_closed_for_memory < 600, "{stats:?}");
    janus.publish("history", &"still there").await.unwrap();
    assert_eq!(other.json().await["data"], "still there");
}

#[tokio::test]
async fn fruitless_input_is_dropped_before_any_history() {
    let (janus, addr) = serve(with_budget()).await;
    let _other = with_history(addr).await;
    ballast(&janus, 75);
    let mut strangers = Vec::new();
    for host in 10..30 {
        let mut stranger = Client::connect_from([127, 0, 0, host], addr).await;
        stranger.send(part(60_000)).await;
        strangers.push(stranger);
    }
    until("strangers are closed", || closed(&janus) > 0 && used(&janus) < BUDGET / 100 * 80).await;
    assert_eq!(janus.stats().messages_trimmed, 0);
    assert!(closed(&janus) < 20, "no more than needed");
    drop(strangers);
}

#[tokio::test]
async fn excess_queues_are_dropped_before_any_history() {
    let config =
        Config { max_queue_bytes: 256 << 20, max_queue_frames: 1 << 20, send_buffer_bytes: 4 * 1_024, ..with_budget() };
    let (janus, addr) = serve(config).await;
    let _other = with_history(addr).await;
    ballast(&janus, 60);
    let mut hoarder = Client::connect_from(STRANGER, addr).await;
    hoarder.subscribe("hoard").await;
    let padding = "x".repeat(60_000);
    for _ in 0..1_000 {
        if janus.stats().slow_consumers > 0 {
            break;
        }
        janus.publish("hoard", &padding).await.unwrap();
    }
    until("the hoarder is closed", || used(&janus) < BUDGET / 100 * 80).await;
    let stats = janus.stats();
    assert_eq!((stats.slow_consumers_out_of_memory, stats.messages_trimmed), (1, 0));
}
