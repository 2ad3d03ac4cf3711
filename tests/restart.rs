//! A restart of the server under TLS clients: WebSocket clients, subscribed to a topic that is published to all the
//! time, are sent away by a drain, come back to the next server with their positions, and miss no message of either
//! server.
//!
//! With the usual tests there are a few clients and short times. With thousands of clients and the server's own times,
//! the run is a measurement. Server and clients are two processes:
//!
//!     RESTART_CLIENTS=10000 RESTART_BINARY=$PWD/target/release/janus-server \
//!         cargo test -p janus-server --test restart -- --nocapture
//!
//! `RESTART_BINARY` names another server than the server of the build. With `RESTART_STORM=1` the drain closes all
//! clients at once, and the clients come back at once instead of at the announced time.

#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "a test that meets what it does not expect has failed, wherever it stands")]

#[expect(dead_code, reason = "what the end-to-end tests share is more than this one needs")]
#[path = "tls/certificates.rs"]
mod certificates;
#[expect(dead_code, reason = "what the end-to-end tests share is more than this one needs")]
mod cli_run;
#[expect(dead_code, reason = "what the end-to-end tests share is more than this one needs")]
mod support;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::process::Command;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use janus_core::wire::Position;
use janus_core::wire::classic::client as classic;
use janus_core::wire::v1::client as v1;
use janus_core::wire::websocket::client::{self as websocket, ServerDecoder, ServerFrame};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::task::{LocalSet, spawn_blocking, spawn_local};
use tokio::time::{Instant, interval, sleep, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::client::Resumption;
use tokio_rustls::rustls::pki_types::ServerName;

use certificates::{Authority, Files};
use cli_run::{Running, binary};
use support::own_address;

const TOPIC: &str = "news";
const MASK: [u8; 4] = [1, 2, 3, 4];
/// Clients that connect at the same time before the restart.
const CONNECTING: usize = 256;
/// Clients of one address. Each has its share of the server.
const CLIENTS_OF_AN_ADDRESS: usize = 100;
/// From one message to the next.
const PUBLISH_EVERY: Duration = Duration::from_millis(50);
/// Messages before the restart, and after the last client is back.
const MESSAGES: u64 = 20;
/// The pause of a client that could not connect, plus up to as much again.
const RETRY: Duration = Duration::from_millis(100);
/// No step of a run on a busy machine takes as long.
const PATIENCE: Duration = Duration::from_secs(120);

struct Settings {
    clients: usize,
    storm: bool,
    measures: bool,
}

impl Settings {
    fn from_environment() -> Self {
        let clients = std::env::var("RESTART_CLIENTS").ok();
        Self {
            clients: clients.as_ref().map_or(100, |text| text.parse().expect("RESTART_CLIENTS is a number")),
            storm: std::env::var_os("RESTART_STORM").is_some(),
            measures: clients.is_some(),
        }
    }

    fn times(&self) -> &'static [&'static str] {
        match (self.storm, self.measures) {
            (true, _) => &["--drain-period", "0 s"],
            (false, true) => &[],
            (false, false) => &["--drain-period", "500 ms", "--restart-time", "100 ms"],
        }
    }
}

/// The server process, with the times and the addresses of the run.
struct Server {
    running: Running,
    classic: SocketAddr,
    https: SocketAddr,
    /// Before the first client.
    rss: u64,
}

impl Server {
    fn start(files: &Files, times: &[&str], classic: SocketAddr, https: SocketAddr) -> Self {
        let (certificate, key) = (files.path("server.pem"), files.path("server.key"));
        let (classic, https) = (classic.to_string(), https.to_string());
        let listen = ["--listen", &classic, "--https-listen", &https];
        let pair = ["--tls-cert", certificate.to_str().unwrap(), "--tls-key", key.to_str().unwrap()];
        let mut command = binary(&[&listen[..], &pair, times].concat());
        if let Some(other) = std::env::var_os("RESTART_BINARY") {
            let arguments: Vec<_> = command.get_args().map(ToOwned::to_owned).collect();
            command = Command::new(other);
            command.env("JANUS_HTTP_LISTEN", "").env("JANUS_ADMIN_LISTEN", "").args(arguments);
        }
        let running = Running::spawn(&mut command);
        let address = |line: String| line.trim_end_matches(" (TLS)").rsplit(' ').next().unwrap().parse().unwrap();
        let classic = address(running.error_line("listening on "));
        let https = address(running.error_line("serving HTTP on "));
        let rss = rss(running.id());
        Self { running, classic, https, rss }
    }
}

/// The state shared by all tasks.
struct World {
    connector: TlsConnector,
    classic: SocketAddr,
    https: SocketAddr,
    clients: usize,
    /// Whether clients come back when they are told to, and not at once.
    obedient: bool,
    /// Turns of the clients that connect for the first time.
    connecting: Semaphore,
    /// When each client was subscribed at the present server.
    subscribed: RefCell<Vec<Instant>>,
    /// Attempts to connect that failed.
    failed: Cell<u64>,
    /// The epoch of each server, in order, and the last message that the server accepted.
    accepted: RefCell<Vec<(String, u64)>>,
    /// The last message of each epoch that each client has.
    received: RefCell<Vec<BTreeMap<String, u64>>>,
    publishing: Cell<bool>,
}

impl World {
    /// The number of the last message accepted by this server, the first or the second.
    fn last_accepted(&self, server: usize) -> u64 {
        self.accepted.borrow().get(server - 1).map_or(0, |(_, last)| *last)
    }

    fn accept(&self, epoch: &str, seq: u64) {
        let mut accepted = self.accepted.borrow_mut();
        match accepted.last_mut() {
            Some((latest, last)) if latest == epoch => *last = seq,
            _ => accepted.push((epoch.to_owned(), seq)),
        }
    }

    /// Whether every client has every accepted message.
    fn is_complete(&self) -> bool {
        let accepted = self.accepted.borrow();
        let has_all = |received: &BTreeMap<String, u64>| {
            accepted.iter().all(|(epoch, last)| received.get(epoch).is_some_and(|received| received >= last))
        };
        self.received.borrow().iter().all(has_all)
    }
}

async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    let mut looks = interval(Duration::from_millis(2));
    while !condition() {
        assert!(Instant::now() < deadline, "still waiting for: {what}");
        looks.tick().await;
    }
}

/// A client that comes back for as long as the run lasts.
async fn stay(world: Rc<World>, number: usize) {
    let turn = Some(world.connecting.acquire().await.unwrap());
    let mut client = Client { world: &world, number, turn, seen: None, is_rewinding: false };
    loop {
        let told = match client.connect().await {
            Ok(stream) => client.converse(stream).await,
            Err(_) => {
                world.failed.set(world.failed.get() + 1);
                None
            }
        };
        let retry = RETRY + RETRY.mul_f64(fastrand::f64());
        sleep(told.filter(|_| world.obedient).unwrap_or(retry)).await;
    }
}

struct Client<'world> {
    world: &'world World,
    number: usize,
    /// Held until the client is subscribed for the first time.
    turn: Option<SemaphorePermit<'world>>,
    /// The last message, or where the client began.
    seen: Option<Position>,
    /// The client has asked a new server for the messages from the first one on, and passes over all others.
    is_rewinding: bool,
}

impl Client<'_> {
    async fn connect(&self) -> std::io::Result<TlsStream<TcpStream>> {
        let socket = TcpSocket::new_v4()?;
        let [high, low] = u16::try_from(self.number / CLIENTS_OF_AN_ADDRESS).unwrap().to_be_bytes();
        socket.bind(SocketAddr::from(([127, 0, high + 1, low], 0)))?;
        let attempt = async {
            let stream = socket.connect(self.world.https).await?;
            stream.set_nodelay(true)?;
            self.world.connector.connect(ServerName::try_from("localhost").unwrap(), stream).await
        };
        timeout(PATIENCE, attempt).await?
    }

    /// Talks to the server until the end of the connection; returns the time after which the client may come back.
    async fn converse(&mut self, mut stream: TlsStream<TcpStream>) -> Option<Duration> {
        let mut opening = websocket::upgrade("localhost", "/ws", "dGhlIHNhbXBsZSBub25jZQ==");
        opening.extend(websocket::text(&v1::hello(None, None), MASK));
        opening.extend(websocket::text(&v1::subscribe(Some(1), TOPIC, self.seen.map(Into::into)), MASK));
        stream.write_all(&opening).await.ok()?;
        let (mut head, mut decoder, mut told) = (Vec::new(), ServerDecoder::new(), None);
        let mut bytes = [0; 2_048];
        loop {
            let length = match stream.read(&mut bytes).await {
                Ok(0) | Err(_) => return told,
                Ok(length) => length,
            };
            let mut input = &bytes[..length];
            while !head.ends_with(b"\r\n\r\n") {
                let Some((byte, rest)) = input.split_first() else { break };
                head.push(*byte);
                input = rest;
            }
            let mut answers = Vec::new();
            while let Some(frame) = decoder.decode(&mut input) {
                match frame {
                    ServerFrame::Text(text) => match v1::ServerFrame::parse(text) {
                        v1::ServerFrame::Bye { reconnect_after, .. } => told = reconnect_after,
                        frame => answers.extend(self.take(&frame)),
                    },
                    ServerFrame::Ping(payload) => answers.extend(websocket::pong(payload, MASK)),
                    ServerFrame::Pong(_) | ServerFrame::Close { .. } => {}
                    ServerFrame::Binary(_) | ServerFrame::Unexpected => {
                        panic!("client {}: an unexpected frame", self.number)
                    }
                }
            }
            if !answers.is_empty() && stream.write_all(&answers).await.is_err() {
                return told;
            }
        }
    }

    /// Checks a frame; returns the client's answer.
    fn take(&mut self, frame: &v1::ServerFrame<'_>) -> Vec<u8> {
        let number = self.number;
        match *frame {
            v1::ServerFrame::Subscribed { position, missed, .. } => return self.is_subscribed(position, missed),
            v1::ServerFrame::Message { seq, .. } if !self.is_rewinding => {
                let seen = self.seen.as_mut().expect("a message after the subscription");
                assert_eq!(seq, seen.seq + 1, "client {number}: {seen}");
                seen.seq = seq;
                self.note();
            }
            v1::ServerFrame::Welcome { .. }
            | v1::ServerFrame::Message { .. }
            | v1::ServerFrame::Unsubscribed { .. } => {}
            _ => panic!("client {number}: {frame:?}"),
        }
        Vec::new()
    }

    fn is_subscribed(&mut self, position: Position, missed: Option<u64>) -> Vec<u8> {
        let mut answer = Vec::new();
        if self.is_rewinding {
            assert!(missed.is_some(), "client {}: messages before {position} are gone", self.number);
            self.is_rewinding = false;
            self.seen = Some(Position { seq: 0, ..position });
        } else {
            self.turn = None;
            self.world.subscribed.borrow_mut().push(Instant::now());
            match self.seen {
                Some(seen) if missed.is_some() => assert_eq!(position, seen, "client {}", self.number),
                Some(seen) if position.seq > 0 => {
                    assert_ne!(seen.epoch, position.epoch, "client {}: cannot resume at the same server", self.number);
                    self.is_rewinding = true;
                    answer.extend(websocket::text(&v1::unsubscribe(Some(2), TOPIC), MASK));
                    let from_the_first = Some(Position { seq: 0, ..position });
                    answer
                        .extend(websocket::text(&v1::subscribe(Some(3), TOPIC, from_the_first.map(Into::into)), MASK));
                }
                _ => self.seen = Some(position),
            }
        }
        self.note();
        answer
    }

    fn note(&self) {
        if let Some(seen) = self.seen {
            self.world.received.borrow_mut()[self.number].insert(seen.epoch.to_string(), seen.seq);
        }
    }
}

/// Publishes one message after the other by the classic protocol, to whichever server listens.
async fn publish(world: Rc<World>) {
    let mut ticks = interval(PUBLISH_EVERY);
    let mut number = 0;
    while world.publishing.get() {
        ticks.tick().await;
        let Ok(mut stream) = TcpStream::connect(world.classic).await else { continue };
        let mut received = Vec::new();
        'connection: while world.publishing.get() {
            number += 1;
            let frame = classic::publish_with_ack(TOPIC, "\"\"", "\"\"", &number.to_string());
            if stream.write_all(&frame).await.is_err() {
                break;
            }
            loop {
                if let Some(end) = received.iter().position(|&byte| byte == 1) {
                    let frame: Vec<u8> = received.drain(..=end).collect();
                    match classic::ServerFrame::parse(&frame[..end]) {
                        classic::ServerFrame::Published { epoch, seq, .. } => {
                            if seq > 0 {
                                world.accept(&epoch, seq);
                            }
                            break;
                        }
                        classic::ServerFrame::Error { .. } => break 'connection,
                        _ => {}
                    }
                } else if !matches!(stream.read_buf(&mut received).await, Ok(1..)) {
                    break 'connection;
                }
            }
            ticks.tick().await;
        }
    }
}

fn rss(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().trim().parse::<u64>().unwrap() * 1024
}

/// The CPU time of all threads of a process, in seconds.
fn cpu(pid: u32) -> f64 {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let of = |thread: std::fs::DirEntry| std::fs::read_to_string(thread.path().join("schedstat")).unwrap_or_default();
    let nanoseconds = |text: String| text.split_whitespace().next().map_or(0.0, |number| number.parse().unwrap_or(0.0));
    threads.map(|thread| nanoseconds(of(thread.unwrap()))).sum::<f64>() / 1e9
}

/// Prints when the clients were subscribed, and what that took.
fn report(what: &str, world: &World, server: &Server, since: Instant, own_cpu: f64) {
    let mut at: Vec<f64> = world.subscribed.borrow().iter().map(|at| (*at - since).as_secs_f64()).collect();
    at.sort_by(f64::total_cmp);
    let (first, median, last) = (at[0], at[at.len() / 2], at[at.len() - 1]);
    let clients = at.len() as f64;
    // The tenth at either end is left out: there the rate is that of the slowest and of the first.
    let (from, to) = (at[at.len() / 10], at[at.len() * 9 / 10]);
    let rate = if to > from { clients * 0.8 / (to - from) } else { 0.0 };
    let (pid, own) = (server.running.id(), std::process::id());
    println!(
        "{what}: {clients} clients; subscribed after {first:.2} s (first), {median:.2} s (median), {last:.2} s (last); \
         {rate:.0} handshakes/s; {} failed attempts; CPU {:.0} µs of the server and {:.0} µs of the clients for each; \
         {:.0} B of the server for each",
        world.failed.replace(0),
        cpu(pid) * 1e6 / clients,
        (cpu(own) - own_cpu) * 1e6 / clients,
        (rss(pid) as f64 - server.rss as f64) / clients,
    );
}

async fn run(settings: Settings) {
    rlimit::increase_nofile_limit(u64::MAX).unwrap();
    let (authority, files) = (Authority::new(), Arc::new(Files::new()));
    files.write_pair("server", &authority.server(&["localhost"]));
    let mut config = authority.client_config(None);
    // The tickets of one server are worthless at the next.
    config.resumption = Resumption::disabled();
    let server = Server::start(&files, settings.times(), own_address(), own_address());
    let world = Rc::new(World {
        connector: TlsConnector::from(Arc::new(config)),
        classic: server.classic,
        https: server.https,
        clients: settings.clients,
        obedient: !settings.storm,
        connecting: Semaphore::new(CONNECTING),
        subscribed: RefCell::default(),
        failed: Cell::new(0),
        accepted: RefCell::default(),
        received: RefCell::new(vec![BTreeMap::new(); settings.clients]),
        publishing: Cell::new(true),
    });
    let (begun, own_cpu) = (Instant::now(), cpu(std::process::id()));
    for number in 0..world.clients {
        spawn_local(stay(Rc::clone(&world), number));
    }
    until("all clients to subscribe", || world.subscribed.borrow().len() == world.clients).await;
    report("connecting", &world, &server, begun, own_cpu);
    let publisher = spawn_local(publish(Rc::clone(&world)));
    until("messages of the first server", || world.last_accepted(1) >= MESSAGES).await;

    world.subscribed.borrow_mut().clear();
    let (signalled, own_cpu) = (Instant::now(), cpu(std::process::id()));
    server.running.signal("TERM");
    let Server { running, classic, https, .. } = server;
    assert_eq!(spawn_blocking(move || running.wait()).await.unwrap().code(), Some(0));
    let ended = signalled.elapsed();
    let times = settings.times();
    let server = spawn_blocking(move || Server::start(&files, times, classic, https)).await.unwrap();
    let listening = Instant::now();
    until("all clients to come back", || world.subscribed.borrow().len() == world.clients).await;
    println!(
        "the first server ended {:.2} s after the signal, and the second listened after {:.2} s",
        ended.as_secs_f64(),
        (listening - signalled).as_secs_f64()
    );
    report("coming back, since the signal", &world, &server, signalled, own_cpu);

    let so_far = world.last_accepted(2);
    until("messages of the second server", || world.last_accepted(2) >= so_far + MESSAGES).await;
    world.publishing.set(false);
    publisher.await.unwrap();
    until("every client to have every message", || world.is_complete()).await;
    println!("every client has every message: {:?}", world.accepted.borrow());
    println!(
        "then {:.0} B of the server for each client",
        (rss(server.running.id()) as f64 - server.rss as f64) / world.clients as f64
    );
    assert_eq!(world.subscribed.borrow().len(), world.clients, "no client came back twice");
    assert_eq!(world.accepted.borrow().len(), 2, "both servers have accepted messages");
}

#[test]
fn tls_clients_miss_no_message_through_a_restart() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    LocalSet::new().block_on(&runtime, run(Settings::from_environment()));
}
