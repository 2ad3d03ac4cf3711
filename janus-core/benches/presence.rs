//! The price of presence for messages.
//!
//! - A topic whose members are only counted, against a topic without presence: the time from a message to the last of its
//!   subscribers, for each subscriber. No delivery looks at presence, so the ratio is 1.
//! - A topic of 1,000 clients that watch each other while 100 users a second join and as many leave, against the same clients,
//!   joins and leaves without presence: the time from a message to one of the subscribers. Users leave at once
//!   (`presence_linger = 0`), so each of them is told of.

#![expect(clippy::unwrap_used, reason = "a bench that meets what it does not expect has failed")]
#![expect(clippy::disallowed_methods, reason = "joins and messages come at a pace")]

mod client;
mod interleaved;

use std::io::{ErrorKind, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use client::Client;
use futures_executor::block_on;
use interleaved::{Comparison, rounds};
use janus_core::hooks::{ConnectRequest, Denied, Hooks, Identity};
use janus_core::wire::classic::client::{ServerFrame, subscribe};
use janus_core::wire::{v1, websocket};
use janus_core::{Config, Janus, Namespace, Presence};
use tokio::io::AsyncReadExt as _;

/// Subscribers of the topic that counts. Both ends of each connection are in this process, twice.
const COUNTED: usize = 4_500;

/// Clients that watch.
const WATCHING: usize = 1_000;

/// Users that come and go, each once a second.
const GUESTS: usize = 100;

/// Messages of a turn, and the time from one to the next.
const MESSAGES: u32 = 20;
const PACE: Duration = Duration::from_millis(15);

/// Every client is who it says.
struct Believing;

impl Hooks for Believing {
    async fn authenticate(&self, request: ConnectRequest) -> Result<Identity, Denied> {
        Ok(Identity::user(request.auth.unwrap_or_default()).may_subscribe(true))
    }
}

fn start(presence: Presence) -> Janus {
    let config = Config {
        listen: vec![SocketAddr::from(([127, 0, 0, 1], 0))],
        http_listen: vec![SocketAddr::from(([127, 0, 0, 1], 0))],
        default_namespace: Namespace { presence, ..Namespace::default() },
        max_presence_members: 2 * WATCHING,
        presence_linger: Duration::ZERO,
        ..Config::default()
    };
    block_on(Janus::builder().config(config).hooks(Believing).start()).unwrap()
}

fn is_message(frame: &ServerFrame<'_>) -> bool {
    matches!(frame, ServerFrame::Message { .. })
}

/// Reads up to a wanted frame, however often a signal interrupts the read.
fn read(client: &mut Client, is_wanted: impl Fn(&ServerFrame<'_>) -> bool) {
    loop {
        match client.read_until(&is_wanted) {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            read => return read.unwrap(),
        }
    }
}

/// Subscribers of the classic protocol, to be read one after the other.
fn subscribers(janus: &Janus, count: usize) -> Vec<Client> {
    let subscriber = |_| {
        let mut client = Client::connect(janus.local_addrs()[0]).unwrap();
        client.send(&subscribe("news")).unwrap();
        read(&mut client, |frame| matches!(frame, ServerFrame::Ack));
        client
    };
    (0..count).map(subscriber).collect()
}

fn counting() {
    let mut comparison = Comparison::new(format!("a message to {COUNTED} subscribers, for each"), COUNTED as u32);
    let servers = [("no presence", Presence::Off), ("count", Presence::Count)].map(|(name, presence)| {
        let janus = start(presence);
        let clients = subscribers(&janus, COUNTED);
        (name, janus, clients)
    });
    for (name, janus, mut clients) in servers {
        if name == "count" {
            assert_eq!(block_on(janus.presence("news")).unwrap().count, COUNTED);
        }
        let against = (name == "count").then_some("no presence");
        comparison = comparison.contender(name, against, move || {
            let begun = Instant::now();
            block_on(janus.publish("news", "hello")).unwrap();
            clients.iter_mut().for_each(|client| read(client, is_message));
            begun.elapsed()
        });
    }
    comparison.run(rounds(200));
}

/// Opens a WebSocket as this user, on a blocking socket.
fn websocket_of(addr: SocketAddr, user: &str, frames: &[String]) -> TcpStream {
    let mut stream = TcpStream::connect(addr).unwrap();
    stream.set_nodelay(true).unwrap();
    let mut request = websocket::client::upgrade(&addr.to_string(), "/ws", "dGhlIHNhbXBsZSBub25jZQ==");
    for frame in [v1::client::hello(None, Some(user))].iter().chain(frames) {
        request.extend(websocket::client::text(frame, [1, 2, 3, 4]));
    }
    stream.write_all(&request).unwrap();
    stream
}

/// Reads what comes for these clients, and throws it away.
fn read_all(streams: Vec<TcpStream>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, async move {
        let read = |stream: TcpStream| async move {
            stream.set_nonblocking(true).unwrap();
            let mut stream = tokio::net::TcpStream::from_std(stream).unwrap();
            let mut bytes = vec![0; 16 * 1_024];
            while stream.read(&mut bytes).await.is_ok_and(|read| read > 0) {}
        };
        let readers: Vec<_> = streams.into_iter().map(|stream| tokio::task::spawn_local(read(stream))).collect();
        for reader in readers {
            reader.await.unwrap();
        }
    });
}

/// Has guests subscribe and unsubscribe, while this is the server's turn.
fn come_and_go(addr: SocketAddr, is_on: &AtomicBool) {
    let mut guests: Vec<_> = (0..GUESTS).map(|guest| websocket_of(addr, &format!("guest {guest}"), &[])).collect();
    let readers = guests.iter().map(|guest| guest.try_clone().unwrap()).collect();
    thread::spawn(move || read_all(readers));
    let requests = [v1::client::subscribe(None, "news", None), v1::client::unsubscribe(None, "news")];
    let frames = requests.map(|request| websocket::client::text(&request, [1, 2, 3, 4]));
    loop {
        for frame in &frames {
            for guest in &mut guests {
                while !is_on.load(Ordering::Relaxed) {
                    thread::sleep(Duration::from_millis(1));
                }
                if guest.write_all(frame).is_err() {
                    return;
                }
                thread::sleep(Duration::from_secs(1) / (2 * GUESTS as u32));
            }
        }
    }
}

fn joining() {
    let title = format!("a message to one of {WATCHING}, with {GUESTS} joins and leaves a second");
    let mut comparison = Comparison::new(title, MESSAGES);
    for (name, presence) in [("no presence", Presence::Off), ("members", Presence::Members)] {
        let janus = start(presence);
        let http = janus.local_addrs()[1];
        let subscribe = match presence {
            Presence::Off => v1::client::subscribe(None, "news", None),
            _ => r#"{"type":"subscribe","topic":"news","presence":true}"#.to_owned(),
        };
        let watching =
            (0..WATCHING).map(|user| websocket_of(http, &format!("user {user}"), std::slice::from_ref(&subscribe)));
        let watching: Vec<_> = watching.collect();
        while janus.topic_info("news").is_none_or(|topic| topic.subscribers < WATCHING) {
            thread::sleep(Duration::from_millis(10));
        }
        thread::spawn(move || read_all(watching));
        let is_on = Arc::new(AtomicBool::new(false));
        let guests = Arc::clone(&is_on);
        thread::spawn(move || come_and_go(http, &guests));
        let mut probe = subscribers(&janus, 1);
        let against = (presence != Presence::Off).then_some("no presence");
        comparison = comparison.contender(name, against, move || {
            is_on.store(true, Ordering::Relaxed);
            let mut sum = Duration::ZERO;
            for _ in 0..MESSAGES {
                thread::sleep(PACE);
                let begun = Instant::now();
                block_on(janus.publish("news", "hello")).unwrap();
                read(&mut probe[0], is_message);
                sum += begun.elapsed();
            }
            is_on.store(false, Ordering::Relaxed);
            let told = janus.stats().presence_frames;
            assert_eq!(told > 0, presence != Presence::Off, "{told} frames about presence");
            sum
        });
    }
    comparison.run(rounds(60));
}

fn main() {
    counting();
    joining();
}
