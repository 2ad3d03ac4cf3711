//! Clients that send as fast as the server reads and never stop by themselves, from another address than the
//! bystander's.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use janus_core::wire::classic::client::unsubscribe;
use janus_core::{Config, Namespace, Stats};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use super::{Bystander, FRAME_TIMEOUT, Identity, NEWS, Process, SOON, Target, Way, all, summary};
use crate::support::{Client, DEADLINE, Wire, own_address, publish_frame, serve, subscribe_frame, until};

/// A ping of a WebSocket client, without payload.
const PING: [u8; 6] = [0x89, 0x80, 0, 0, 0, 0];

/// Bytes of each client in the kernel, for a server that does not read.
const SEND_BUFFER: u32 = 8 * 1_024;

/// The repeated frames of each client of a flood.
#[derive(Clone, Copy, Debug)]
enum Flood {
    /// WebSocket pings, each of which is answered.
    Pings,
    /// Invalid requests, each of which is answered with an error.
    Nonsense,
    /// A frame without an end, followed by the next connection.
    Unfinished,
    /// Messages to one topic that has no subscriber.
    Messages,
    /// New topics, each for a moment.
    Topics,
}

impl Flood {
    const ALL: [Self; 5] = [Self::Pings, Self::Nonsense, Self::Unfinished, Self::Messages, Self::Topics];

    async fn connect(self, target: &Target) -> std::io::Result<Wire> {
        let socket = TcpSocket::new_v4()?;
        socket.bind(([127, 0, 0, 2], 0).into())?;
        // Unsent bytes of a client on another machine take no memory of this machine. Here, 8,000 clients with buffers
        // of the usual size are enough for the kernel to drop packets of any connection; the packets are repeated after
        // 200 ms.
        socket.set_send_buffer_size(SEND_BUFFER)?;
        let mut stream = Wire::Plain(socket.connect(target.addr).await?);
        if let Some(tls) = &target.tls {
            stream = stream.over(tls).await?;
        }
        if matches!(self, Self::Pings) {
            let request = format!(
                "GET /ws HTTP/1.1\r\nHost: {}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                 Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
                target.addr
            );
            stream.write_all(request.as_bytes()).await?;
        }
        Ok(stream)
    }

    /// The bytes of client number `client` for round `round`.
    fn piece(self, client: usize, round: usize) -> Vec<u8> {
        match self {
            Self::Pings => PING.repeat(1_000),
            Self::Nonsense => b"{}\0".repeat(1_000),
            Self::Unfinished => [b"\"".as_slice(), &[b'x'; 16_000]].concat(),
            Self::Messages => publish_frame("flood", "1").repeat(100),
            Self::Topics => {
                let name = |index| format!("flood {client} {round} {index}");
                (0..20).flat_map(|index| [subscribe_frame(&name(index)), unsubscribe(&name(index))].concat()).collect()
            }
        }
    }
}

/// A flood under way, on separate threads: a bystander on the same threads would wait for the flooding clients, too.
struct Running {
    stop: Arc<AtomicBool>,
    /// The number of pieces taken by the server, and of answers.
    pieces: Arc<AtomicUsize>,
    clients: JoinSet<()>,
    threads: Runtime,
}

impl Running {
    fn start(flood: Flood, target: &Target, clients: usize) -> Self {
        let (stop, pieces) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let threads = Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let mut set = JoinSet::new();
        for client in 0..clients {
            set.spawn_on(pour(flood, target.clone(), client, Arc::clone(&stop), Arc::clone(&pieces)), threads.handle());
        }
        Self { stop, pieces, clients: set, threads }
    }

    /// Waits until the server has taken some more pieces.
    async fn makes_progress(&self) {
        let goal = self.pieces.load(Ordering::Relaxed) + 10;
        until("the flood goes on", || self.pieces.load(Ordering::Relaxed) >= goal).await;
    }

    async fn finish(self) {
        self.stop.store(true, Ordering::Relaxed);
        let mut clients = self.clients;
        // Some clients wait for a server that will not read.
        clients.abort_all();
        while timeout(DEADLINE, clients.join_next()).await.expect("the flood ends").is_some() {}
        self.threads.shutdown_background();
    }
}

/// A single client, which connects anew after a close.
async fn pour(flood: Flood, target: Target, client: usize, stop: Arc<AtomicBool>, pieces: Arc<AtomicUsize>) {
    let mut round = 0;
    while !stop.load(Ordering::Relaxed) {
        let Ok(stream) = flood.connect(&target).await else { continue };
        let (mut answers, mut out) = tokio::io::split(stream);
        let read = async {
            let mut buffer = vec![0; 64 * 1_024];
            while answers.read(&mut buffer).await.is_ok_and(|length| length > 0) {
                // The kernels hold many pieces of small frames; only an answer shows that the server has read.
                pieces.fetch_add(1, Ordering::Relaxed);
            }
        };
        let write = async {
            while !stop.load(Ordering::Relaxed) && out.write_all(&flood.piece(client, round)).await.is_ok() {
                pieces.fetch_add(1, Ordering::Relaxed);
                round += 1;
            }
        };
        tokio::select! {
            () = read => {}
            () = write => {}
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn floods_from_one_address_stop_no_message_of_another() {
    stop_no_message(20, Config { client_subscribe_rate: 0, ..Config::default() }, |_, _| true).await;
}

/// With rates, clients of a flood wait most of the time, are closed, and come again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn floods_ahead_of_their_rates_are_closed_and_stop_no_message() {
    let config = Config {
        default_namespace: Namespace { client_publish_rate: 200, ..Namespace::default() },
        client_bytes_rate: 8 * 1_024,
        max_frame_bytes: 8 * 1_024,
        client_subscribe_rate: 100,
        rate_patience: Duration::from_millis(100),
        ..Config::default()
    };
    let mut closed = 0;
    // So few that even a slow server answers all of them faster than their rates.
    stop_no_message(4, config, |flood, stats| {
        // A connection that is closed for its frame never reaches a rate.
        let is_enough = stats.rate_limited >= closed + 20 || matches!(flood, Flood::Unfinished);
        if is_enough {
            closed = stats.rate_limited;
        }
        is_enough
    })
    .await;
}

/// Runs each flood until `is_enough`, with a bystander.
async fn stop_no_message(clients: usize, config: Config, mut is_enough: impl FnMut(Flood, Stats) -> bool) {
    let identity = Identity::new();
    let config = Config {
        tls_listen: vec![own_address()],
        http_listen: vec![own_address()],
        https_listen: vec![own_address()],
        session_ttl: SOON,
        ..identity.config(config)
    };
    let (janus, addr) = serve(config).await;
    let [_, tls, http, https] = janus.local_addrs()[..] else { panic!("four listeners") };
    for (way, flood) in Way::ALL.into_iter().flat_map(|way| Flood::ALL.map(|flood| (way, flood))) {
        let pings = matches!(flood, Flood::Pings);
        let target = if pings { identity.target(way, http, https) } else { identity.target(way, addr, tls) };
        let running = Running::start(flood, &target, clients);
        running.makes_progress().await;
        let bystander = Bystander::start(addr).await;
        bystander.makes_progress().await;
        running.makes_progress().await;
        until(format!("{flood:?} over {way:?} has been as strong as it gets"), || is_enough(flood, janus.stats()))
            .await;
        bystander.finish().await;
        running.finish().await;
    }
    janus.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn publishers_get_room_in_turn_even_if_earlier_publishers_leave() {
    const MESSAGES: usize = 20;
    let (janus, addr) = serve(Config { max_inflight_frames: 2, ..Config::default() }).await;
    let mut subscriber = Client::connect(addr).await;
    subscriber.subscribe(NEWS).await;
    let publish = move |publisher: usize| async move {
        let mut client = Client::connect(addr).await.reset_on_drop();
        let number = |index| publish_frame(NEWS, &format!("[{publisher},{index}]"));
        client.send((0..MESSAGES).flat_map(number).collect::<Vec<_>>()).await;
        // Every third publisher leaves while its messages wait for room.
        if !publisher.is_multiple_of(3) {
            for _ in 0..MESSAGES {
                assert!(client.json().await["published"]["seq"].is_u64());
            }
        }
    };
    let publishers = tokio::spawn(all((0..60).map(publish)));
    let mut next = [0; 60];
    while next.iter().enumerate().any(|(publisher, next)| publisher % 3 > 0 && *next < MESSAGES) {
        let message: serde_json::Value = serde_json::from_str(&subscriber.frame().await).unwrap();
        let [publisher, index] = [0, 1].map(|at| message["data"][at].as_u64().unwrap() as usize);
        assert_eq!(index, next[publisher], "the messages of one publisher keep their order");
        next[publisher] += 1;
    }
    timeout(DEADLINE, publishers).await.expect("all have their receipts").unwrap();
    janus.shutdown().await;
}

#[tokio::test]
#[ignore = "measures, which needs an idle machine; see the head of the file above"]
async fn floods_at_full_size_and_their_cost_for_a_bystander() {
    let floods = [
        (Flood::Pings, 1),
        (Flood::Pings, 100),
        (Flood::Nonsense, 100),
        (Flood::Unfinished, 1_000),
        (Flood::Messages, 8_000),
        (Flood::Topics, 20),
    ];
    for (way, (flood, clients)) in Way::ALL.into_iter().flat_map(|way| floods.map(|flood| (way, flood))) {
        let http = own_address();
        let port = if way == Way::Tls { "--https-listen" } else { "--http-listen" };
        let server = Process::start_with(FRAME_TIMEOUT, &[port, &http.to_string()]);
        let target = if matches!(flood, Flood::Pings) { server.http(way) } else { server.target(way) };
        let bystander = Bystander::start(server.addr).await;
        let running = Running::start(flood, &target, clients);
        running.makes_progress().await;
        let begun = Instant::now();
        until("five seconds are over", || begun.elapsed() >= Duration::from_secs(5)).await;
        let latencies = bystander.finish().await;
        running.finish().await;
        println!("{way:?}, {clients} x {flood:?}: {}", summary(latencies));
    }
}
