//! Hostile clients: in every attack the server's memory stays within a bound, other clients lose no message, and
//! nothing of the attackers is left.
//!
//! Each attack runs against two servers, over plain TCP and over TLS: an instance in this process, whose remaining state
//! can be checked, and the binary, whose memory and descriptors can be measured. During the attack a bystander publishes one numbered message
//! after the other, and waits for the receipt and for the delivery of each.
//!
//! The waiting times of the bystander are not asserted here, as the machine may be busy, but measured, with larger
//! crowds, by
//!
//!     cargo test --release --all-features --test e2e -- --ignored --nocapture hostile

#![cfg(target_os = "linux")]

mod floods;
mod records;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use janus_core::Config;
use janus_core::wire::classic::client::{publish_and_close, unsubscribe};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, interval, timeout};
use tokio_rustls::TlsConnector;

use crate::cli_run::Running;
use crate::support::{Client, Close, DEADLINE, own_address, publish_frame, serve, subscribe_frame, subscribers, until};
use crate::tls::certificates::{Authority, Files};

const MIB: u64 = 1 << 20;

/// The cost of an attack on top of its stated cost: allocators keep some memory, and the log has a line for some
/// clients.
const SLACK: u64 = 8 * MIB;

/// The lifetime of unused sessions and topics. The other settings are defaults.
const SOON: Duration = Duration::from_millis(100);

/// For clients that leave frames unfinished. On a busy machine other clients do so for a moment, and must not be cut
/// off, nor in the middle of their handshakes.
const FRAME_TIMEOUT: Duration = Duration::from_secs(2);
const PATIENT: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_loris_frames_are_cut_off_and_cost_their_length() {
    withstands(FRAME_TIMEOUT, async |target: &Target| slow_loris(target, 200).await, SLACK).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn endless_frames_cost_no_more_than_the_longest_frame_each() {
    // A buffer that grows by doubling may be twice as large as its contents.
    let frames = 200 * 2 * Config::default().max_frame_bytes as u64;
    withstands(FRAME_TIMEOUT, async |target: &Target| endless_frames(target, 200).await, frames + SLACK).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_million_tiny_frames_cost_no_memory() {
    // One of the clients reads none of its answers.
    let queue = Config::default().max_queue_bytes as u64;
    withstands(PATIENT, async |target: &Target| tiny_frames(target, 1_000_000).await, queue + SLACK).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crowd_with_128_topics_each_costs_a_kilobyte_per_subscription() {
    withstands(PATIENT, async |target: &Target| many_topics(target, 1_000).await, 1_000 * 128 * 1_024 + SLACK).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn storms_of_subscribing_and_unsubscribing_leave_nothing_behind() {
    withstands(PATIENT, async |target: &Target| subscription_storm(target, 50, 200).await, SLACK).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_conversation_may_be_reset_at_any_byte() {
    withstands(PATIENT, resets, SLACK).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unfinished_input_of_a_crowd_stays_within_the_memory_budget() {
    const BUDGET: u64 = 32 * MIB;
    for way in Way::ALL {
        let server = Process::start_with(PATIENT, &["--memory-budget-bytes", &BUDGET.to_string()]);
        let bystander = Bystander::start(server.addr).await;
        unfinished_input(&server.target(way), 1_500).await;
        bystander.makes_progress().await;
        let peak = server.memory_peak();
        println!("{way:?}: {:.1} MiB of memory at most, with a budget of {:.1}", mib(peak), mib(BUDGET));
        assert!(peak <= BUDGET + BUDGET / 4, "{:.1} MiB of memory, with a budget of {:.1}", mib(peak), mib(BUDGET));
        bystander.finish().await;
    }
}

/// Runs the attack on both servers, in each way. The binary may take at most `memory` bytes more at any moment.
async fn withstands(frame_timeout: Duration, attack: impl AsyncFn(&Target), memory: u64) {
    for way in Way::ALL {
        leaves_nothing_behind(frame_timeout, &attack, way).await;
        costs_at_most(frame_timeout, &attack, way, memory).await;
    }
}

/// Runs the attack on an instance in this process.
async fn leaves_nothing_behind(frame_timeout: Duration, attack: &impl AsyncFn(&Target), way: Way) {
    let identity = Identity::new();
    let config =
        Config { frame_timeout, session_ttl: SOON, topic_idle: SOON, client_subscribe_rate: 0, ..Config::default() };
    let (janus, addr) = serve(Config { tls_listen: vec![own_address()], ..identity.config(config) }).await;
    let target = identity.target(way, addr, janus.local_addrs()[1]);
    let bystander = Bystander::start(addr).await;
    attack(&target).await;
    bystander.makes_progress().await;
    until("only the bystander is left", || {
        let stats = janus.stats();
        (stats.connections, stats.sessions, stats.topics, subscribers(&janus, NEWS)) == (2, 2, 1, Some(1))
    })
    .await;
    bystander.finish().await;
    until("not even an actor is left", || {
        let tree = janus.tree();
        let topics = tree.find("topic_supervisor").unwrap().children.len();
        (janus.stats().sessions, topics, tree.find("transport_supervisor").unwrap().numbered) == (0, 0, 0)
    })
    .await;
    assert_eq!(janus.topics(), []);
    until("all memory is given back", || janus.stats().memory_used == 0).await;
    janus.shutdown().await;
}

/// Runs the attack on the binary.
async fn costs_at_most(frame_timeout: Duration, attack: &impl AsyncFn(&Target), way: Way, memory: u64) {
    let server = Process::start(frame_timeout);
    let bystander = Bystander::start(server.addr).await;
    let (memory_before, descriptors_before) = (server.memory(), server.descriptors());
    attack(&server.target(way)).await;
    bystander.makes_progress().await;
    until("no descriptor is left", || server.descriptors() == descriptors_before).await;
    let grown = server.memory_peak().saturating_sub(memory_before);
    println!("{way:?}: at most {:.1} MiB more, of {:.1}", mib(grown), mib(memory));
    assert!(grown <= memory, "{way:?}: {:.1} MiB, may be {:.1}", mib(grown), mib(memory));
    bystander.finish().await;
}

/// How the clients of an attack are connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Plain,
    Tls,
}

impl Way {
    const ALL: [Self; 2] = [Self::Plain, Self::Tls];
}

/// A port under attack.
#[derive(Clone)]
struct Target {
    addr: SocketAddr,
    tls: Option<TlsConnector>,
}

impl Target {
    /// A client whose end is a reset, after the greeting.
    async fn connect(&self) -> Client {
        self.connect_silently().await.greeted().await
    }

    async fn connect_silently(&self) -> Client {
        self.secure(Client::connect_silently(self.addr).await.reset_on_drop()).await
    }

    async fn connect_from(&self, from: [u8; 4]) -> Client {
        let client = Client::connect_silently_from(from, self.addr).await.reset_on_drop();
        self.secure(client).await.greeted().await
    }

    async fn secure(&self, client: Client) -> Client {
        match &self.tls {
            Some(tls) => client.over(tls).await.expect("a handshake"),
            None => client,
        }
    }
}

/// The certificate of a server under attack, in files.
struct Identity {
    authority: Authority,
    files: Files,
}

impl Identity {
    fn new() -> Self {
        Self { authority: Authority::new(), files: Files::new() }
    }

    fn write_pair(&self) -> (PathBuf, PathBuf) {
        self.files.write_pair("server", &self.authority.server(&["localhost"]))
    }

    fn config(&self, config: Config) -> Config {
        let (certificate, key) = self.write_pair();
        Config { tls_cert: vec![certificate], tls_key: vec![key], ..config }
    }

    fn target(&self, way: Way, plain: SocketAddr, tls: SocketAddr) -> Target {
        match way {
            Way::Plain => Target { addr: plain, tls: None },
            Way::Tls => Target { addr: tls, tls: Some(self.authority.connector(None)) },
        }
    }
}

/// The binary, with the settings of [`withstands`].
struct Process {
    running: Running,
    addr: SocketAddr,
    tls: SocketAddr,
    identity: Identity,
}

impl Process {
    fn start(frame_timeout: Duration) -> Self {
        Self::start_with(frame_timeout, &[])
    }

    /// Starts the binary with further settings.
    fn start_with(frame_timeout: Duration, further: &[&str]) -> Self {
        let identity = Identity::new();
        let (certificate, key) = identity.write_pair();
        let (address, tls_address) = (own_address().to_string(), own_address().to_string());
        let (frame_timeout, soon) = (format!("{}ms", frame_timeout.as_millis()), format!("{}ms", SOON.as_millis()));
        let settings = [
            ["--listen", &address],
            ["--tls-listen", &tls_address],
            ["--tls-cert", certificate.to_str().unwrap()],
            ["--tls-key", key.to_str().unwrap()],
            ["--frame-timeout", &frame_timeout],
            ["--session-ttl", &soon],
            ["--topic-idle", &soon],
            // A limit would weaken the attacks.
            ["--client-subscribe-rate", "0"],
        ];
        let running = Running::start(&[&settings.concat(), further].concat());
        let [addr, tls] = [(); 2].map(|()| address_in(&running.error_line("listening on ")));
        Self { running, addr, tls, identity }
    }

    fn target(&self, way: Way) -> Target {
        self.identity.target(way, self.addr, self.tls)
    }

    /// The HTTP port, from the next log line.
    fn http(&self, way: Way) -> Target {
        let addr = address_in(&self.running.error_line("serving HTTP on "));
        self.identity.target(way, addr, addr)
    }

    /// The current bytes in memory.
    fn memory(&self) -> u64 {
        self.status("VmRSS:")
    }

    /// The peak of bytes in memory.
    fn memory_peak(&self) -> u64 {
        self.status("VmHWM:")
    }

    fn status(&self, key: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.running.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(key)).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1_024
    }

    fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.running.id())).unwrap().count()
    }
}

/// The address at the end of a log line.
fn address_in(line: &str) -> SocketAddr {
    line.trim_end_matches(" (TLS)").rsplit(' ').next().unwrap().parse().unwrap()
}

/// An uninvolved client: a subscriber, and a publisher that numbers its messages. The publisher sends the next message
/// after the receipt and the delivery of the message before.
struct Bystander {
    stop: Arc<AtomicBool>,
    rounds: Arc<AtomicUsize>,
    task: JoinHandle<Vec<Duration>>,
}

/// The bystander's topic, which hostile clients know, too.
const NEWS: &str = "news";

impl Bystander {
    async fn start(addr: SocketAddr) -> Self {
        let mut subscriber = Client::connect(addr).await;
        subscriber.subscribe(NEWS).await;
        let publisher = Client::connect(addr).await;
        let (stop, rounds) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let task = tokio::spawn(publish_and_receive(publisher, subscriber, Arc::clone(&stop), Arc::clone(&rounds)));
        let bystander = Self { stop, rounds, task };
        bystander.makes_progress().await;
        bystander
    }

    /// Waits until some further messages have arrived.
    async fn makes_progress(&self) {
        let goal = self.rounds.load(Ordering::Relaxed) + 10;
        until("the bystander goes on", || self.task.is_finished() || self.rounds.load(Ordering::Relaxed) >= goal).await;
    }

    /// The time of each message. Fails if a message did not come.
    async fn finish(self) -> Vec<Duration> {
        self.makes_progress().await;
        self.stop.store(true, Ordering::Relaxed);
        timeout(DEADLINE, self.task).await.expect("the bystander ends").expect("the bystander lost nothing")
    }
}

async fn publish_and_receive(
    mut publisher: Client,
    mut subscriber: Client,
    stop: Arc<AtomicBool>,
    rounds: Arc<AtomicUsize>,
) -> Vec<Duration> {
    let (mut latencies, mut first) = (Vec::new(), None);
    for number in 1_u64.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let sent = Instant::now();
        publisher.send(publish_frame(NEWS, &number.to_string())).await;
        let message = loop {
            let frame = subscriber.frame().await;
            if frame != "PING" {
                break serde_json::from_str::<serde_json::Value>(&frame).unwrap();
            }
        };
        latencies.push(sent.elapsed());
        assert_eq!(message["data"], number);
        // There may have been an earlier bystander.
        let seq = publisher.json().await["published"]["seq"].as_u64().expect("a receipt has a number");
        assert_eq!(seq - *first.get_or_insert(seq) + 1, number);
        rounds.fetch_add(1, Ordering::Relaxed);
    }
    latencies
}

/// Waits for all clients, each of which has its own deadlines.
async fn all(clients: impl Iterator<Item = impl Future<Output = ()> + Send + 'static>) {
    let mut set = clients.collect::<JoinSet<()>>();
    while let Some(ended) = set.join_next().await {
        ended.unwrap();
    }
}

/// Clients that begin a frame in one of many ways and never end it, but send a further byte now and then.
async fn slow_loris(target: &Target, clients: usize) {
    const FRAMES: [(&str, &[u8]); 6] = [
        ("{\"action\":\"subscribe\",\"data\":\"", b"x"),
        ("", b" "),
        ("PING\0<regular-socket/", b"\n"),
        ("PUBLISH\0", b" "),
        // Empty frames before the body do not start it anew.
        ("PUBLISH\0", b"\0"),
        ("PUBLISH\0{\"topic\":", b"["),
    ];
    let drip = |target: Target, (head, drop): (&'static str, &'static [u8])| async move {
        let mut client = target.connect().await;
        client.send(head).await;
        let mut drops = interval(Duration::from_millis(10));
        let begun = Instant::now();
        let frame = loop {
            assert!(begun.elapsed() < DEADLINE, "{head:?} may go on for ever");
            tokio::select! {
                frame = client.next() => break frame.expect("an error frame comes before the close"),
                _ = drops.tick() => {
                    let _ = client.try_send(drop).await;
                }
            }
        };
        assert!(String::from_utf8_lossy(&frame).contains("\"frame_timeout\""), "{head:?}");
        assert_eq!(client.close().await, Close::Fin);
    };
    all(FRAMES.into_iter().cycle().take(clients).map(|frame| drip(target.clone(), frame))).await;
}

/// Clients that send a frame without end. Some stop just before the limit, and leave the bytes with the server.
async fn endless_frames(target: &Target, clients: usize) {
    /// More than the server reads from any of these clients, and than sockets hold.
    const ENDLESS: usize = 16 << 20;
    let limit = Config::default().max_frame_bytes;
    let heads: [(&str, usize); 4] =
        [("\"", ENDLESS), ("PUBLISH\0{\"", ENDLESS), ("\"", limit - 1), ("PUBLISH\0{\"", limit - 2)];
    let send = move |target: Target, (head, length): (&'static str, usize)| async move {
        let mut client = target.connect().await;
        client.send(head).await;
        let (piece, mut left) = (vec![b'x'; 16 * 1_024], length);
        while left > 0 && client.try_send(&piece[..left.min(piece.len())]).await.is_ok() {
            left = left.saturating_sub(piece.len());
        }
        let code = if length == ENDLESS { "frame_too_large" } else { "frame_timeout" };
        match timeout(DEADLINE, client.next()).await.expect("an answer or the end comes") {
            Ok(frame) => assert!(String::from_utf8_lossy(&frame).contains(code), "{length} bytes after {head:?}"),
            // A client that does not stop need not see its error frame: the server does not read forever.
            Err(Close::Reset) if length == ENDLESS => {}
            Err(close) => panic!("{close:?} after {length} bytes after {head:?}"),
        }
        assert!(left > 0 || length < ENDLESS, "all of it was read");
    };
    all(heads.into_iter().cycle().take(clients).map(|head| send(target.clone(), head))).await;
}

/// Clients that all send nearly the longest frame at once, without its end, until half of the clients have been closed.
async fn unfinished_input(target: &Target, clients: usize) {
    let part = vec![b'x'; Config::default().max_frame_bytes - 10];
    let mut crowd = Vec::new();
    for _ in 0..clients {
        crowd.push(target.connect_from([127, 0, 0, 2]).await);
    }
    let closed = Arc::new(AtomicUsize::new(0));
    let mut set = JoinSet::new();
    for mut client in crowd {
        let (part, closed) = (part.clone(), Arc::clone(&closed));
        set.spawn(async move {
            let _ = client.try_send(&part).await;
            match client.next().await {
                Ok(frame) => assert!(String::from_utf8_lossy(&frame).contains("\"server_overloaded\"")),
                Err(close) => assert_eq!(close, Close::Reset),
            }
            closed.fetch_add(1, Ordering::Relaxed);
            // The client keeps its socket for the whole attack.
            std::future::pending::<()>().await;
        });
    }
    until("half of them are closed", || closed.load(Ordering::Relaxed) >= clients / 2).await;
}

/// Ten clients that together send `frames` frames of a few bytes.
async fn tiny_frames(target: &Target, frames: usize) {
    const FRAMES: [&str; 10] =
        ["\0", "PING\0", "PONG\0", " \0", "<regular-socket/>\0", "\0", "PING\0", "\0", "1\0", "{}\0"];
    let send = move |target: Target, (index, frame): (usize, &'static str)| async move {
        let mut client = target.connect().await;
        let (is_answered, reads) = (index >= 8, index < 9);
        for _ in 0..frames / FRAMES.len() / 100 {
            let sent = client.try_send(frame.repeat(100)).await;
            if !reads && sent.is_err() {
                return;
            }
            sent.expect("a client that reads its answers stays connected");
            if is_answered && reads {
                for _ in 0..100 {
                    assert_eq!(client.error_code().await, "unknown_action");
                }
            }
        }
        if reads {
            client.subscribe("the end").await;
        } else {
            client.lost().await;
        }
    };
    all(FRAMES.into_iter().enumerate().map(|frame| send(target.clone(), frame))).await;
}

/// Clients with the maximum of topics each. Groups of twenty share their topics, so there are many topics as well.
async fn many_topics(target: &Target, clients: usize) {
    let topics = Config::default().max_topics_per_client;
    let mut crowd = Vec::new();
    let mut set = JoinSet::new();
    for index in 0..clients {
        // Not all at once: the backlog is not under test.
        if set.len() == 100 {
            crowd.push(set.join_next().await.unwrap().unwrap());
        }
        let target = target.clone();
        set.spawn(async move {
            let mut client = target.connect().await;
            let topic = |number: usize| subscribe_frame(&format!("crowd {} topic {number}", index / 20));
            client.send((0..=topics).map(topic).collect::<Vec<_>>().concat()).await;
            for _ in 0..topics {
                assert_eq!(client.frame().await, "ACK");
            }
            assert_eq!(client.error_code().await, "too_many_topics");
            client
        });
    }
    while let Some(client) = set.join_next().await {
        crowd.push(client.unwrap());
    }
    assert_eq!(crowd.len(), clients);
    // All clients are connected, and one client speaks.
    crowd[0].send(publish_frame("crowd 0 topic 0", "1")).await;
    assert!(crowd[0].frame().await.contains("crowd 0 topic 0"));
}

/// Clients that subscribe and unsubscribe as fast as possible: a shared topic, and topics of their own.
async fn subscription_storm(target: &Target, clients: usize, rounds: usize) {
    let storm = move |target: Target, index: usize| async move {
        let mut client = target.connect().await;
        for round in 0..rounds {
            let topics = [NEWS.to_owned(), "storm".to_owned(), format!("storm {}", (index * rounds + round) % 1_000)];
            let request = |topic: &String| [subscribe_frame(topic), unsubscribe(topic)].concat();
            client.send(topics.iter().map(request).collect::<Vec<_>>().concat()).await;
            for _ in &topics {
                // A message of the bystander may come in between.
                while client.frame().await != "ACK" {}
            }
        }
    };
    all((0..clients).map(|index| storm(target.clone(), index))).await;
}

/// For each byte of a conversation, clients whose connection is reset after this byte: at once, and after the answers
/// to the bytes so far.
async fn resets(target: &Target) {
    let talk = "talk";
    let classic = publish_and_close(talk, "\"\"", "\"\"", "2");
    let parts = [subscribe_frame(NEWS), subscribe_frame(talk), publish_frame(talk, "1"), unsubscribe(talk), classic];
    let conversation = parts.concat();
    let acks = [parts[0].len(), parts[0].len() + parts[1].len()];
    for end in 0..=conversation.len() {
        for waits in [false, true] {
            let mut client = target.connect_silently().await;
            client.send(&conversation[..end]).await;
            if waits {
                assert!(client.json().await["token"].is_string());
                for _ in acks.iter().filter(|ack| **ack <= end) {
                    while client.frame().await != "ACK" {}
                }
            }
        }
    }
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / MIB as f64
}

/// Not for every run: ten thousand connections take most of a process's descriptors.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "measures, which needs minutes and an idle machine; see the head of this file"]
async fn hostile_crowds_at_full_size_and_their_cost_for_a_bystander() {
    for way in Way::ALL {
        measure_all(way).await;
    }
}

async fn measure_all(way: Way) {
    println!("{way:?}:");
    measure(way, "nothing", async |_: &Target| quiet().await).await;
    measure(way, "slow loris, 2,000 clients", async |target: &Target| slow_loris(target, 2_000).await).await;
    measure(way, "endless frames, 2,000 clients", async |target: &Target| endless_frames(target, 2_000).await).await;
    let budget = ["--memory-budget-bytes", "64MiB"];
    let name = "unfinished input, 15,000 clients of one address, budget of 64 MiB";
    measure_with(way, name, &budget, async |target: &Target| unfinished_input(target, 15_000).await).await;
    measure(way, "ten million tiny frames", async |target: &Target| tiny_frames(target, 10_000_000).await).await;
    measure(way, "storm, 200 clients, 600,000 subscribes", async |target: &Target| {
        subscription_storm(target, 200, 1_000).await
    })
    .await;
    measure(way, "resets, ten conversations", async |target: &Target| {
        for _ in 0..10 {
            resets(target).await;
        }
    })
    .await;
    measure(way, "128 topics each, 10,000 clients", async |target: &Target| many_topics(target, 10_000).await).await;
}

/// Waits for as long as a few thousand messages take.
async fn quiet() {
    let begun = Instant::now();
    until("five seconds are over", || begun.elapsed() >= Duration::from_secs(5)).await;
}

async fn measure(way: Way, name: &str, attack: impl AsyncFn(&Target)) {
    measure_with(way, name, &[], attack).await;
}

async fn measure_with(way: Way, name: &str, settings: &[&str], attack: impl AsyncFn(&Target)) {
    let server = Process::start_with(FRAME_TIMEOUT, settings);
    let bystander = Bystander::start(server.addr).await;
    let (memory, descriptors) = (server.memory(), server.descriptors());
    let begun = Instant::now();
    attack(&server.target(way)).await;
    let lasted = begun.elapsed();
    until("no descriptor is left", || server.descriptors() == descriptors).await;
    let grown = server.memory_peak().saturating_sub(memory);
    let summary = summary(bystander.finish().await);
    println!("{name}: {:.1} s, memory + {:.1} MiB at most; {summary}", lasted.as_secs_f64(), mib(grown));
}

fn summary(mut latencies: Vec<Duration>) -> String {
    latencies.sort_unstable();
    let per_mille = |part: usize| latencies[(latencies.len() - 1) * part / 1_000].as_secs_f64() * 1e3;
    format!(
        "{} messages of the bystander, p50 {:.2} ms, p99 {:.2} ms, worst {:.2} ms",
        latencies.len(),
        per_mille(500),
        per_mille(990),
        per_mille(1_000),
    )
}
