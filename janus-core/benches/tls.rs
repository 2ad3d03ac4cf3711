//! Three ways to keep a TLS connection with rustls, held against each other: the time to encrypt a small frame, and the
//! memory of an idle connection.
//!
//! The contenders: `ServerConnection`, with its own buffers; `UnbufferedServerConnection`, without buffers; and the
//! kernel API, which gives the keys out after the handshake, with a record layer of this file that resembles
//! `delivery/tls`. That record layer expands the client's key for each read, and the expansion is measured, too.
//!
//! Each frame has 100 bytes and goes to one connection, or to 2,000 connections in turns, as in a fan-out. The
//! contenders take turns within the run. The memory is the growth of the resident memory of a process, per connection
//! after a handshake.
//!
//! This comparison decides how `delivery/tls` keeps connections; the header of `delivery/tls/mod.rs` has the verdict.

mod interleaved;

use std::hint::black_box;
use std::io::Write;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use aws_lc_rs::aead::{AES_128_GCM, AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use interleaved::{Comparison, rounds};
use rustls::kernel::KernelConnection;
use rustls::pki_types::{PrivateKeyDer, ServerName};
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{ConnectionState, EncodeError, InsufficientSizeError, UnbufferedStatus};
use rustls::version::TLS13;
use rustls::{ClientConfig, ClientConnection, ConnectionTrafficSecrets, RootCertStore, ServerConfig, ServerConnection};

/// The allocator of the server, because the memory of a connection depends on the allocator, too.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const FRAME: [u8; 100] = [b'x'; 100];
/// Connections whose memory is measured.
const IDLE: usize = 5_000;
/// Names the contender in the process that measures its memory.
const VARIABLE: &str = "JANUS_BENCH_TLS";

fn main() {
    let configs = Configs::new();
    if let Ok(name) = std::env::var(VARIABLE) {
        let idle = if rounds(2) == 1 { 10 } else { IDLE };
        return println!("  {name:<32} {:>9.0} B", memory(&configs, &name, idle));
    }
    // A mere test of the bench needs no crowd.
    let many = if rounds(2) == 1 { 10 } else { 2_000 };
    for (connections, repetitions) in [(1, 20_000), (many, 20_000)] {
        let mut buffered = several(connections, || configs.buffered());
        let mut unbuffered = several(connections, || configs.unbuffered());
        let mut keys = several(connections, || Keys::of(configs.unbuffered()));
        let mut record = vec![0; 16 * 1024 + 256];
        let mut second = record.clone();
        Comparison::new(format!("a frame of 100 B, {connections} connections in turns"), repetitions)
            .contender("ServerConnection", None, || {
                time(repetitions, &mut buffered, |connection| {
                    connection.writer().write_all(&FRAME).expect("room");
                    connection.write_tls(&mut &mut record[..]).expect("room")
                })
            })
            .contender("UnbufferedServerConnection", Some("ServerConnection"), || {
                time(repetitions, &mut unbuffered, |connection| encrypt(connection, &mut second))
            })
            .contender("kernel API", Some("UnbufferedServerConnection"), || {
                let mut record = Vec::with_capacity(256);
                time(repetitions, &mut keys, |keys| keys.seal(&FRAME, &mut record))
            })
            .run(rounds(60));
    }
    let mut keys = several(many, || Keys::of(configs.unbuffered()));
    Comparison::new(format!("the key for a read, {many} connections in turns"), 20_000)
        .contender("kernel API", None, || {
            time(20_000, &mut keys, |keys| {
                black_box(Key::new(&keys.open));
                1
            })
        })
        .run(rounds(60));
    println!("\nresident memory of an idle connection");
    for name in ["ServerConnection", "UnbufferedServerConnection", "kernel API"] {
        let program = std::env::current_exe().expect("this program");
        let status = Command::new(program).args(std::env::args().skip(1)).env(VARIABLE, name).status();
        assert!(status.expect("this program starts").success());
    }
}

fn several<T>(count: usize, connect: impl FnMut() -> T) -> Vec<T> {
    std::iter::repeat_with(connect).take(count).collect()
}

fn time<T>(repetitions: u32, connections: &mut [T], mut send: impl FnMut(&mut T) -> usize) -> Duration {
    let start = Instant::now();
    let mut left = repetitions;
    while left > 0 {
        for connection in connections.iter_mut().take(left as usize) {
            black_box(send(connection));
            left -= 1;
        }
    }
    start.elapsed()
}

/// Bytes of resident memory for each idle connection.
fn memory(configs: &Configs, name: &str, idle: usize) -> f64 {
    fn measure<T>(idle: usize, mut connect: impl FnMut() -> T) -> f64 {
        // The first connections bring tables and code into memory.
        let mut connections = several(idle / 10, &mut connect);
        let before = resident();
        connections.extend(several(idle, connect));
        (resident() - before) / idle as f64
    }
    match name {
        "ServerConnection" => measure(idle, || Box::new(configs.buffered())),
        "UnbufferedServerConnection" => measure(idle, || Box::new(configs.unbuffered())),
        _ => measure(idle, || Box::new(Keys::of(configs.unbuffered()))),
    }
}

fn resident() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a line of the kernel");
    let kilobytes: f64 = line.trim().trim_end_matches(" kB").parse().expect("a number");
    kilobytes * 1024.0
}

struct Configs {
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
}

impl Configs {
    fn new() -> Self {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
        let chain = vec![made.cert.der().clone()];
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).expect("a key");
        let mut roots = RootCertStore::empty();
        roots.add(made.cert.der().clone()).expect("a root");
        let builder = ServerConfig::builder_with_protocol_versions(&[&TLS13]);
        let mut server = builder.with_no_client_auth().with_single_cert(chain, key).expect("a configuration");
        server.send_tls13_tickets = 1;
        server.enable_secret_extraction = true;
        let client = ClientConfig::builder_with_protocol_versions(&[&TLS13]);
        let client = client.with_root_certificates(roots).with_no_client_auth();
        Self { server: Arc::new(server), client: Arc::new(client) }
    }

    fn client(&self) -> ClientConnection {
        let name = ServerName::try_from("localhost").expect("a name");
        ClientConnection::new(Arc::clone(&self.client), name).expect("a client")
    }

    fn buffered(&self) -> ServerConnection {
        let mut client = self.client();
        let mut server = ServerConnection::new(Arc::clone(&self.server)).expect("a server");
        while client.is_handshaking() || server.is_handshaking() || server.wants_write() {
            let mut flight = Vec::new();
            client.write_tls(&mut flight).expect("memory");
            server.read_tls(&mut &flight[..]).expect("memory");
            server.process_new_packets().expect("a valid flight");
            flight.clear();
            while server.wants_write() {
                server.write_tls(&mut flight).expect("memory");
            }
            let mut flight = &flight[..];
            while !flight.is_empty() {
                client.read_tls(&mut flight).expect("memory");
                client.process_new_packets().expect("a valid flight");
            }
        }
        server.set_buffer_limit(Some(16 * 1024));
        server
    }

    fn unbuffered(&self) -> UnbufferedServerConnection {
        let mut client = self.client();
        let mut server = UnbufferedServerConnection::new(Arc::clone(&self.server)).expect("a server");
        while client.is_handshaking() || server.is_handshaking() {
            let mut input = Vec::new();
            client.write_tls(&mut input).expect("memory");
            let output = advance(&mut server, &mut input);
            let mut output = &output[..];
            while !output.is_empty() {
                client.read_tls(&mut output).expect("memory");
                client.process_new_packets().expect("a valid flight");
            }
        }
        server
    }
}

/// Processes all input, and returns the output.
fn advance(server: &mut UnbufferedServerConnection, mut input: &mut [u8]) -> Vec<u8> {
    let mut output = Vec::new();
    loop {
        let UnbufferedStatus { discard, state } = server.process_tls_records(input);
        match state.expect("a valid flight") {
            ConnectionState::EncodeTlsData(mut data) => {
                let start = output.len();
                if let Err(EncodeError::InsufficientSize(InsufficientSizeError { required_size })) =
                    data.encode(&mut [])
                {
                    output.resize(start + required_size, 0);
                    data.encode(&mut output[start..]).expect("room");
                }
            }
            ConnectionState::TransmitTlsData(transmit) => transmit.done(),
            _ => return output,
        }
        input = &mut input[discard..];
    }
}

fn encrypt(connection: &mut UnbufferedServerConnection, record: &mut [u8]) -> usize {
    match connection.process_tls_records(&mut []).state.expect("an established connection") {
        ConnectionState::WriteTraffic(mut traffic) => traffic.encrypt(&FRAME, record).expect("room"),
        other => panic!("{other:?}"),
    }
}

/// A connection with its record layer outside of rustls.
struct Keys {
    /// Changes the keys, and sends tickets.
    _connection: Box<KernelConnection<ServerConnectionData>>,
    seal: Key,
    /// Expanded for the length of a read.
    open: (u64, ConnectionTrafficSecrets),
}

struct Key {
    key: LessSafeKey,
    iv: [u8; 12],
    seq: u64,
}

impl Keys {
    fn of(connection: UnbufferedServerConnection) -> Self {
        let (secrets, connection) = connection.dangerous_into_kernel_connection().expect("secrets");
        Self { _connection: Box::new(connection), seal: Key::new(&secrets.tx), open: secrets.rx }
    }

    fn seal(&mut self, frame: &[u8], record: &mut Vec<u8>) -> usize {
        let Key { key, iv, seq } = &mut self.seal;
        let length = u16::try_from(frame.len() + 17).expect("a small frame").to_be_bytes();
        let head = [23, 3, 3, length[0], length[1]];
        record.clear();
        record.extend_from_slice(&head);
        record.extend_from_slice(frame);
        record.push(23);
        let mut nonce = *iv;
        nonce[4..].iter_mut().zip(seq.to_be_bytes()).for_each(|(byte, part)| *byte ^= part);
        *seq += 1;
        let nonce = Nonce::assume_unique_for_key(nonce);
        let tag = key.seal_in_place_separate_tag(nonce, Aad::from(head), &mut record[5..]).expect("a short frame");
        record.extend_from_slice(tag.as_ref());
        record.len()
    }
}

impl Key {
    fn new((seq, secrets): &(u64, ConnectionTrafficSecrets)) -> Self {
        let (algorithm, key, iv) = match secrets {
            ConnectionTrafficSecrets::Aes128Gcm { key, iv } => (&AES_128_GCM, key, iv),
            ConnectionTrafficSecrets::Aes256Gcm { key, iv } => (&AES_256_GCM, key, iv),
            _ => panic!("another cipher"),
        };
        let key = LessSafeKey::new(UnboundKey::new(algorithm, key.as_ref()).expect("a key"));
        Self { key, iv: iv.as_ref().try_into().expect("12 bytes"), seq: *seq }
    }
}
