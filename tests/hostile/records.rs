//! Attacks below the frames: handshakes and records of TLS without an end, and records without a use.

use std::io::Write as _;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;

use janus_core::Config;
use socket2::{Domain, Socket, Type};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpSocket;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, ClientConnection};

use super::{Bystander, FRAME_TIMEOUT, Identity, MIB, PATIENT, Process, SLACK, SOON, Target, Way, all, mib};
use super::{costs_at_most, leaves_nothing_behind};
use crate::support::{Close, own_address, serve, until};

/// The address of the attackers.
const THEIRS: [u8; 4] = [127, 0, 0, 2];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_without_an_end_are_cut_off_and_cost_their_length() {
    let attack = async |target: &Target| unfinished_records(target, 200).await;
    leaves_nothing_behind(FRAME_TIMEOUT, &attack, Way::Tls).await;
    costs_at_most(FRAME_TIMEOUT, &attack, Way::Tls, 200 * 18 * 1_024 + SLACK).await;
}

/// Clients that leave a record unfinished, at different places.
async fn unfinished_records(target: &Target, clients: usize) {
    let leave = |target: Target, length: usize| async move {
        let mut client = target.connect().await;
        let beginning = [&[23, 3, 3, 0x40, 0][..], &vec![0; 16 * 1_024]].concat();
        client.send_below_tls(&beginning[..length]).await;
        assert_eq!(client.error_code().await, "frame_timeout", "{length} bytes");
        assert_eq!(client.close().await, Close::Fin);
    };
    let lengths = [1, 4, 5, 6, 1_000, 16_388];
    all(lengths.into_iter().cycle().take(clients).map(|length| leave(target.clone(), length))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_done_handshakes_of_a_crowd_stay_within_the_memory_budget() {
    const BUDGET: u64 = 32 * MIB;
    const CLIENTS: usize = 3_000;
    let server = Process::start_with(PATIENT, &["--memory-budget-bytes", &BUDGET.to_string()]);
    let (bystander, target) = (Bystander::start(server.addr).await, server.target(Way::Tls));
    let closed = Arc::new(AtomicUsize::new(0));
    let mut clients = tokio::task::JoinSet::new();
    // The longest beginning of a hello that is not refused for its length.
    let hello = Arc::new([&[22, 3, 1, 0x3f, 0, 1, 0, 0x3e, 0xfc, 3, 3][..], &[0; 15_000]].concat());
    for _ in 0..CLIENTS {
        let (hello, closed, addr) = (Arc::clone(&hello), Arc::clone(&closed), target.addr);
        clients.spawn(async move {
            let socket = TcpSocket::new_v4().unwrap();
            socket.bind(SocketAddr::from((THEIRS, 0))).unwrap();
            if let Ok(mut stream) = socket.connect(addr).await {
                let _ = stream.write_all(&hello).await;
                let _ = stream.read(&mut [0; 64]).await;
            }
            closed.fetch_add(1, Ordering::Relaxed);
        });
    }
    until("half of them are closed", || closed.load(Ordering::Relaxed) >= CLIENTS / 2).await;
    bystander.makes_progress().await;
    let mut other = target.connect().await;
    other.subscribe("another").await;
    let peak = server.memory_peak();
    println!("{:.1} MiB of memory at most, with a budget of {:.1}", mib(peak), mib(BUDGET));
    assert!(peak <= BUDGET + BUDGET / 4, "{:.1} MiB of memory, with a budget of {:.1}", mib(peak), mib(BUDGET));
    bystander.finish().await;
}

/// The records of a flood; all of them are valid.
#[derive(Clone, Copy, Debug)]
enum Flood {
    /// A frame of one byte in each record.
    Tiny,
    /// Another key after each byte.
    Keys,
}

/// Clients on threads of their own: to encrypt takes as long as to decrypt.
struct Running {
    stop: Arc<AtomicBool>,
    pieces: Arc<AtomicUsize>,
    threads: Vec<JoinHandle<()>>,
}

impl Running {
    fn start(flood: Flood, addr: SocketAddr, config: &Arc<ClientConfig>) -> Self {
        let (stop, pieces) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let pour = || {
            let (stop, pieces, config) = (Arc::clone(&stop), Arc::clone(&pieces), Arc::clone(config));
            std::thread::spawn(move || flood.pour(addr, config, &stop, &pieces))
        };
        let threads = [(); 4].map(|()| pour()).into();
        Self { stop, pieces, threads }
    }

    async fn makes_progress(&self) {
        let goal = self.pieces.load(Ordering::Relaxed) + 100;
        until("the flood goes on", || self.pieces.load(Ordering::Relaxed) >= goal).await;
    }

    fn finish(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.into_iter().for_each(|thread| thread.join().unwrap());
    }
}

impl Flood {
    fn pour(self, addr: SocketAddr, config: Arc<ClientConfig>, stop: &AtomicBool, pieces: &AtomicUsize) {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::from((THEIRS, 0)).into()).unwrap();
        socket.connect(&addr.into()).unwrap();
        let mut socket = TcpStream::from(socket);
        let mut client = ClientConnection::new(config, ServerName::try_from("localhost").unwrap()).unwrap();
        client.complete_io(&mut socket).unwrap();
        while !stop.load(Ordering::Relaxed) {
            let mut records = Vec::new();
            for _ in 0..200 {
                if matches!(self, Self::Keys) {
                    client.refresh_traffic_keys().unwrap();
                }
                client.writer().write_all(b"\0").unwrap();
                while client.wants_write() {
                    client.write_tls(&mut records).unwrap();
                }
            }
            socket.write_all(&records).expect("the server reads all of it");
            pieces.fetch_add(1, Ordering::Relaxed);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn floods_of_records_stop_no_message_of_another() {
    let identity = Identity::new();
    let config = Config { session_ttl: SOON, tls_listen: vec![own_address()], ..Config::default() };
    let (janus, addr) = serve(identity.config(config)).await;
    let tls = janus.local_addrs()[1];
    let client = Arc::new(identity.authority.client_config(None));
    for flood in [Flood::Tiny, Flood::Keys] {
        let running = Running::start(flood, tls, &client);
        running.makes_progress().await;
        let bystander = Bystander::start(addr).await;
        bystander.makes_progress().await;
        running.makes_progress().await;
        bystander.finish().await;
        running.finish();
    }
    janus.shutdown().await;
}

#[tokio::test]
#[ignore = "measures, which needs an idle machine; see the head of the file above"]
async fn floods_of_records_and_their_cost_for_a_bystander() {
    for flood in [Flood::Tiny, Flood::Keys] {
        let server = Process::start(FRAME_TIMEOUT);
        let bystander = Bystander::start(server.addr).await;
        let client = Arc::new(server.identity.authority.client_config(None));
        let running = Running::start(flood, server.tls, &client);
        running.makes_progress().await;
        super::quiet().await;
        let latencies = bystander.finish().await;
        println!("4 x {flood:?}, {} pieces: {}", running.pieces.load(Ordering::Relaxed), super::summary(latencies));
        running.finish();
    }
}
