//! Restarts under load, on a socket that outlives the servers: publishers publish through the restarts, each message on a
//! new connection, and clients of both modern transports come back with their positions. No connection is refused, and
//! no client misses a message.
//!
//! With the usual tests there are a few hundred clients. As a measurement:
//!
//!     RESTART_CLIENTS=5000 cargo test -p janus-server --test e2e --all-features service_manager::load -- --nocapture

use std::cell::{Cell, RefCell};
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use janus_core::Position;
use janus_core::wire::v1::client as v1;
use janus_core::wire::websocket::client::{self as websocket, ServerDecoder, ServerFrame};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::{LocalSet, spawn_blocking, spawn_local};
use tokio::time::{Instant, interval, sleep, timeout};

use super::{copy, start_with};
use crate::cli_run::Running;
use crate::support::own_address;

const TOPIC: &str = "news";
const MASK: [u8; 4] = [1, 2, 3, 4];
/// Clients that connect at the same time before the restart.
const CONNECTING: usize = 256;
/// Publishers, which do not wait for each other.
const PUBLISHERS: usize = 4;
const RESTARTS: u32 = 2;
/// Messages before a restart, and after the last client is back.
const MESSAGES: u64 = 20;
/// No step of a run on a busy machine takes as long.
const PATIENCE: Duration = Duration::from_secs(120);

/// The shared state of clients and publisher.
struct World {
    address: SocketAddr,
    clients: usize,
    publish_every: Duration,
    connecting: Semaphore,
    /// Connections refused, of clients and publisher.
    refused: Cell<u64>,
    /// Connections that ended with a reset.
    reset: Cell<u64>,
    /// How often each client has subscribed, and its position.
    subscribed: RefCell<Vec<(u32, Option<Position>)>>,
    /// The last accepted message, and how many were accepted.
    accepted: Cell<Option<Position>>,
    answers: Cell<u64>,
    /// Attempts to publish without an answer: the message may have been accepted.
    unanswered: Cell<u64>,
    /// Messages refused by the drain, and published again.
    drained: Cell<u64>,
    publishing: Cell<bool>,
}

impl World {
    fn last(&self) -> u64 {
        self.accepted.get().map_or(0, |position| position.seq)
    }

    fn is_everywhere(&self) -> bool {
        let subscribed = self.subscribed.borrow();
        // The answer to the last message may have been lost.
        subscribed[0].1.map_or(0, |position| position.seq) >= self.last()
            && subscribed.iter().all(|(_, position)| *position == subscribed[0].1)
    }

    fn have_subscribed(&self, times: u32) -> bool {
        self.subscribed.borrow().iter().all(|(count, _)| *count == times)
    }

    async fn connect(&self) -> Option<TcpStream> {
        match timeout(PATIENCE, TcpStream::connect(self.address)).await.expect("a connection in time") {
            Ok(stream) => {
                stream.set_nodelay(true).unwrap();
                Some(stream)
            }
            Err(error) => {
                self.note(&error);
                None
            }
        }
    }

    fn note(&self, error: &std::io::Error) {
        let count = if error.kind() == ErrorKind::ConnectionRefused { &self.refused } else { &self.reset };
        count.set(count.get() + 1);
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

/// A client that comes back for as long as the run lasts: every second client at once, the others at the announced time.
struct Client {
    world: Rc<World>,
    number: usize,
    /// The last message, or where the client began.
    seen: Option<Position>,
    /// The id of an event stream.
    id: Option<String>,
}

impl Client {
    async fn stay(mut self) {
        let world = Rc::clone(&self.world);
        let mut turn = Some(world.connecting.acquire().await.unwrap());
        loop {
            let Some(stream) = world.connect().await else { continue };
            let told = match self.number % 4 {
                0 | 1 => self.websocket(stream, &mut turn).await,
                _ => self.events(stream, &mut turn).await,
            };
            match told {
                Ok(Some(time)) if self.number.is_multiple_of(2) => sleep(time).await,
                Ok(_) => {}
                Err(error) => world.note(&error),
            }
        }
    }

    /// Talks to the server until the end of the connection; returns the time after which the client may come back.
    async fn websocket<T>(&mut self, mut stream: TcpStream, turn: &mut Option<T>) -> std::io::Result<Option<Duration>> {
        let mut opening = websocket::upgrade("localhost", "/ws", "dGhlIHNhbXBsZSBub25jZQ==");
        opening.extend(websocket::text(&v1::hello(None, None), MASK));
        opening.extend(websocket::text(&v1::subscribe(Some(1), TOPIC, self.seen.map(Into::into)), MASK));
        stream.write_all(&opening).await?;
        let (mut head, mut decoder, mut told) = (Vec::new(), ServerDecoder::new(), None);
        let mut bytes = [0; 2_048];
        loop {
            let length = stream.read(&mut bytes).await?;
            if length == 0 {
                return Ok(told);
            }
            let mut input = &bytes[..length];
            while !head.ends_with(b"\r\n\r\n") {
                let Some((byte, rest)) = input.split_first() else { break };
                head.push(*byte);
                input = rest;
            }
            while let Some(frame) = decoder.decode(&mut input) {
                match frame {
                    ServerFrame::Text(text) => match v1::ServerFrame::parse(text) {
                        v1::ServerFrame::Bye { reconnect_after, .. } => told = reconnect_after,
                        v1::ServerFrame::Subscribed { position, missed, .. } => {
                            *turn = None;
                            self.is_subscribed(position, missed.is_some());
                        }
                        v1::ServerFrame::Message { seq, .. } => self.has_message(seq),
                        v1::ServerFrame::Welcome { .. } => {}
                        other => panic!("client {}: {other:?}", self.number),
                    },
                    ServerFrame::Close { .. } | ServerFrame::Ping(_) | ServerFrame::Pong(_) => {}
                    ServerFrame::Binary(_) | ServerFrame::Unexpected => {
                        panic!("client {}: an unexpected frame", self.number)
                    }
                }
            }
        }
    }

    /// As [`websocket`](Self::websocket), as a stream of events. Over HTTP/1.0, without chunks.
    async fn events<T>(&mut self, stream: TcpStream, turn: &mut Option<T>) -> std::io::Result<Option<Duration>> {
        let mut stream = BufReader::with_capacity(1_024, stream);
        let id = self.id.as_ref().map_or_else(String::new, |id| format!("Last-Event-ID: {id}\r\n"));
        let request =
            format!("GET /events?topic={TOPIC} HTTP/1.0\r\nHost: localhost\r\nAccept: text/event-stream\r\n{id}\r\n");
        stream.write_all(request.as_bytes()).await?;
        let (mut event, mut data, mut told) = (String::new(), String::new(), None);
        let mut line = String::new();
        loop {
            line.clear();
            if stream.read_line(&mut line).await? == 0 {
                return Ok(told);
            }
            match line.trim_end_matches(['\r', '\n']).split_once(": ") {
                Some(("event", name)) => event = name.to_owned(),
                Some(("data", text)) => data = text.to_owned(),
                Some(("id", text)) => self.id = Some(text.to_owned()),
                Some(_) => {}
                None if data.is_empty() => {}
                None => {
                    let data: Value = serde_json::from_str(&std::mem::take(&mut data)).unwrap();
                    match &*std::mem::take(&mut event) {
                        "subscribed" => {
                            *turn = None;
                            let epoch = data["epoch"].as_str().unwrap().parse().unwrap();
                            let position = Position { epoch, seq: data["seq"].as_u64().unwrap() };
                            self.is_subscribed(position, data["resumed"] == true);
                        }
                        "" => self.has_message(data["seq"].as_u64().unwrap()),
                        "bye" => told = data["reconnect_after_ms"].as_u64().map(Duration::from_millis),
                        "heartbeat" => {}
                        other => panic!("client {}: {other} {data}", self.number),
                    }
                }
            }
        }
    }

    fn is_subscribed(&mut self, position: Position, resumed: bool) {
        if let Some(seen) = self.seen {
            assert!(resumed, "client {}: cannot resume at {seen}", self.number);
            assert_eq!(position, seen, "client {}", self.number);
        }
        self.seen = Some(position);
        self.world.subscribed.borrow_mut()[self.number].0 += 1;
        self.note();
    }

    fn has_message(&mut self, seq: u64) {
        let seen = self.seen.as_mut().expect("a message after the subscription");
        assert_eq!(seq, seen.seq + 1, "client {}: {seen}", self.number);
        seen.seq = seq;
        self.note();
    }

    fn note(&self) {
        self.world.subscribed.borrow_mut()[self.number].1 = self.seen;
    }
}

/// Publishes one message after the other, each on a new connection and until the message is accepted.
async fn publish(world: Rc<World>) {
    let mut ticks = interval(world.publish_every);
    let mut number = 0;
    while world.publishing.get() {
        ticks.tick().await;
        number += 1;
        let body = format!("{{\"topic\":\"{TOPIC}\",\"data\":{number}}}");
        let length = body.len();
        let request = format!(
            "POST /api/publish HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\
             Connection: close\r\n\r\n{body}"
        );
        while !publish_once(&world, &request).await {}
    }
}

async fn publish_once(world: &World, request: &str) -> bool {
    let Some(mut stream) = world.connect().await else { return false };
    let mut answer = Vec::new();
    let exchange = async {
        stream.write_all(request.as_bytes()).await?;
        stream.read_to_end(&mut answer).await
    };
    let outcome = timeout(PATIENCE, exchange).await.expect("an answer in time");
    let answer = String::from_utf8(answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_default();
    if head.starts_with("HTTP/1.1 200") {
        let receipt: Value = serde_json::from_str(body).unwrap();
        let position = Position {
            epoch: receipt["epoch"].as_str().unwrap().parse().unwrap(),
            seq: receipt["seq"].as_u64().unwrap(),
        };
        assert!(world.accepted.get().is_none_or(|last| last.epoch == position.epoch), "a restart begins no epoch");
        let last = world.last().max(position.seq);
        world.accepted.set(Some(Position { seq: last, ..position }));
        world.answers.set(world.answers.get() + 1);
        let possible = world.answers.get()..=world.answers.get() + world.unanswered.get() + PUBLISHERS as u64;
        assert!(possible.contains(&last), "{} answers, the last {position}", world.answers.get());
        return true;
    }
    if head.starts_with("HTTP/1.1 503") {
        assert!(body.contains("server_draining"), "{answer}");
        world.drained.set(world.drained.get() + 1);
    } else {
        assert_eq!(answer, "", "no other answer");
        world.unanswered.set(world.unanswered.get() + 1);
        if let Err(error) = outcome {
            world.note(&error);
        }
    }
    false
}

fn start(socket: &std::net::TcpListener, state: &Path, times: &[&str]) -> Running {
    let state = state.to_str().unwrap();
    let arguments = ["--listen", "", "--http-listen", "127.0.0.1:1", "--restart-time", "0 s", "--state-file", state];
    // For what is published until the last client is back.
    let arguments = [&arguments[..], &["--resume-messages", "4096", "--resume-bytes", "4 MiB"]].concat();
    let server = start_with(&[copy(socket)], "http", &[&arguments[..], times].concat());
    server.error_line("serving HTTP on ");
    server
}

async fn run(clients: usize, times: &'static [&'static str]) {
    rlimit::increase_nofile_limit(u64::MAX).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state");
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&own_address().into()).unwrap();
    socket.listen(65_535).unwrap();
    let socket: std::net::TcpListener = socket.into();
    let world = Rc::new(World {
        address: socket.local_addr().unwrap(),
        clients,
        publish_every: Duration::from_millis(if clients > 1_000 { 400 } else { 100 }),
        connecting: Semaphore::new(CONNECTING),
        refused: Cell::new(0),
        reset: Cell::new(0),
        subscribed: RefCell::new(vec![(0, None); clients]),
        accepted: Cell::new(None),
        unanswered: Cell::new(0),
        drained: Cell::new(0),
        publishing: Cell::new(true),
        answers: Cell::new(0),
    });
    let mut server = start(&socket, &state, times);
    for number in 0..world.clients {
        spawn_local(Client { world: Rc::clone(&world), number, seen: None, id: None }.stay());
    }
    until("all clients to subscribe", || world.have_subscribed(1)).await;
    let publishers: Vec<_> = (0..PUBLISHERS).map(|_| spawn_local(publish(Rc::clone(&world)))).collect();
    for restart in 1..=RESTARTS {
        let so_far = world.last();
        until("messages before the restart", || world.last() >= so_far + MESSAGES).await;
        server = restarted(&world, server, restart, || start(&socket, &state, times)).await;
        assert!(!state.exists(), "the state is used once");
    }
    let so_far = world.last();
    until("messages of the last server", || world.last() >= so_far + MESSAGES).await;
    world.publishing.set(false);
    for publisher in publishers {
        publisher.await.unwrap();
    }
    until("every client to have every message", || world.is_everywhere()).await;
    println!(
        "{} messages; {} refused by a drain and published again; {} connections refused, {} reset, {} publications \
         without an answer",
        world.last(),
        world.drained.get(),
        world.refused.get(),
        world.reset.get(),
        world.unanswered.get(),
    );
    assert_eq!((world.refused.get(), world.reset.get()), (0, 0), "connections refused, and reset");
    assert!(world.have_subscribed(1 + RESTARTS), "no client came back twice");
    server.signal("TERM");
    assert_eq!(spawn_blocking(move || server.wait()).await.unwrap().code(), Some(0));
}

/// Ends a server and starts the next, and waits for the clients.
async fn restarted(world: &World, server: Running, restart: u32, start: impl FnOnce() -> Running) -> Running {
    let (signalled, first) = (Instant::now(), world.last());
    server.signal("TERM");
    assert_eq!(spawn_blocking(move || server.wait()).await.unwrap().code(), Some(0));
    let (ended, second) = (signalled.elapsed(), world.last());
    let server = start();
    let listening = signalled.elapsed();
    until("all clients to come back", || world.have_subscribed(1 + restart)).await;
    println!(
        "restart {restart}, {} clients: the server ended {:.2} s after the signal, the next listened after {:.2} s, all \
         clients were back after {:.2} s; {} messages accepted during the drain, {} by the next server before the last \
         client was back",
        world.clients,
        ended.as_secs_f64(),
        listening.as_secs_f64(),
        signalled.elapsed().as_secs_f64(),
        second - first,
        world.last() - second,
    );
    assert!(world.last() > second, "messages were published before the last client was back");
    server
}

#[test]
fn restarts_under_load_refuse_no_client_and_lose_no_message() {
    let clients = std::env::var("RESTART_CLIENTS").ok().map(|text| text.parse().expect("RESTART_CLIENTS is a number"));
    let times: &[&str] = if clients.is_some() { &[] } else { &["--drain-period", "500 ms"] };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    LocalSet::new().block_on(&runtime, run(clients.unwrap_or(300), times));
}
