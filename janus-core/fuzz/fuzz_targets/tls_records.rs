//! Any bytes of a client after the handshake, sealed with its keys or not, split anywhere, never make the record layer of
//! TLS 1.3 panic, and never make it keep more than a record. Valid records give their data.

#![no_main]

use std::sync::{Arc, LazyLock};

use arbitrary::Arbitrary;
use aws_lc_rs::aead::{AES_128_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use janus_core::internals::BareSession;
use libfuzzer_sys::fuzz_target;
use rustls::client::{ClientConnectionData, UnbufferedClientConnection};
use rustls::crypto::aws_lc_rs::{cipher_suite, default_provider, kx_group};
use rustls::kernel::KernelConnection;
use rustls::pki_types::{PrivateKeyDer, ServerName};
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{ConnectionState, EncodeError, InsufficientSizeError, UnbufferedStatus};
use rustls::version::TLS13;
use rustls::{ClientConfig, ConnectionTrafficSecrets, RootCertStore, ServerConfig};

#[derive(Arbitrary, Debug)]
struct Input<'a> {
    /// Lengths of the pieces, used in turn.
    pieces: [u8; 4],
    steps: Vec<Step<'a>>,
}

#[derive(Arbitrary, Debug)]
enum Step<'a> {
    Data(&'a [u8]),
    /// A record of this many bytes, up to the limit and beyond.
    Long(u16),
    /// A change of keys, with or without the wish for an answer.
    Update(bool),
    /// Content of any type, with padding.
    Record(u8, &'a [u8], u8),
    /// Bytes below the record layer.
    Raw(&'a [u8]),
    /// The server sends a frame.
    Send(u8),
}

struct Configs {
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
}

static CONFIGS: LazyLock<Configs> = LazyLock::new(|| {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let mut provider = default_provider();
    // The fastest of each.
    provider.kx_groups = vec![kx_group::X25519];
    provider.cipher_suites = vec![cipher_suite::TLS13_AES_128_GCM_SHA256];
    let provider = Arc::new(provider);
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let mut server = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    server.enable_secret_extraction = true;
    server.send_tls13_tickets = 0;
    let mut roots = RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    let mut client = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    client.enable_secret_extraction = true;
    Configs { server: Arc::new(server), client: Arc::new(client) }
});

/// Takes one side of a handshake as far as `$input` allows, and appends its words to `$output`.
macro_rules! advance {
    ($connection:expr, $input:expr, $output:expr) => {
        loop {
            let UnbufferedStatus { discard, state, .. } = $connection.process_tls_records(&mut $input);
            let is_over = match state.expect("a handshake between two sides that agree") {
                ConnectionState::EncodeTlsData(mut data) => {
                    let mut size = 0;
                    loop {
                        let start = $output.len();
                        $output.resize(start + size, 0);
                        match data.encode(&mut $output[start..]) {
                            Err(EncodeError::InsufficientSize(InsufficientSizeError { required_size })) => {
                                $output.truncate(start);
                                size = required_size;
                            }
                            Err(EncodeError::AlreadyEncoded) | Ok(_) => break,
                        }
                    }
                    false
                }
                ConnectionState::TransmitTlsData(transmit) => {
                    transmit.done();
                    false
                }
                ConnectionState::BlockedHandshake | ConnectionState::WriteTraffic(_) => true,
                state => panic!("{state:?}"),
            };
            $input.drain(..discard);
            if is_over {
                break;
            }
        }
    };
}

/// The client's side of the record layer.
struct Forger {
    secrets: KernelConnection<ClientConnectionData>,
    key: LessSafeKey,
    iv: [u8; 12],
    seq: u64,
}

impl Forger {
    fn connect() -> (BareSession, Self) {
        let mut server = UnbufferedServerConnection::new(Arc::clone(&CONFIGS.server)).unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        let mut client = UnbufferedClientConnection::new(Arc::clone(&CONFIGS.client), name).unwrap();
        let (mut to_server, mut to_client) = (Vec::new(), Vec::new());
        while server.is_handshaking() || client.is_handshaking() {
            advance!(client, to_client, to_server);
            advance!(server, to_server, to_client);
        }
        let (keys, secrets) = client.dangerous_into_kernel_connection().unwrap();
        let (key, iv) = Self::key(keys.tx.1);
        (BareSession::new(server).unwrap(), Self { secrets, key, iv, seq: keys.tx.0 })
    }

    fn key(secrets: ConnectionTrafficSecrets) -> (LessSafeKey, [u8; 12]) {
        let ConnectionTrafficSecrets::Aes128Gcm { key, iv } = secrets else { panic!("another cipher") };
        let key = LessSafeKey::new(UnboundKey::new(&AES_128_GCM, key.as_ref()).unwrap());
        (key, iv.as_ref().try_into().unwrap())
    }

    fn record(&mut self, content: u8, bytes: &[u8], padding: u8) -> Vec<u8> {
        let mut inner = [bytes, &[content], &vec![0; usize::from(padding)]].concat();
        let length = u16::try_from(inner.len() + 16).unwrap().to_be_bytes();
        let head = [23, 3, 3, length[0], length[1]];
        let mut nonce = self.iv;
        nonce[4..].iter_mut().zip(self.seq.to_be_bytes()).for_each(|(byte, part)| *byte ^= part);
        self.seq += 1;
        let nonce = Nonce::assume_unique_for_key(nonce);
        self.key.seal_in_place_append_tag(nonce, Aad::from(head), &mut inner).unwrap();
        [&head[..], &inner].concat()
    }

    fn update(&mut self, asks: bool) -> Vec<u8> {
        let record = self.record(22, &[24, 0, 0, 1, u8::from(asks)], 0);
        let (seq, secrets) = self.secrets.update_tx_secret().unwrap();
        (self.key, self.iv) = Self::key(secrets);
        self.seq = seq;
        record
    }
}

fuzz_target!(|input: Input<'_>| {
    let (mut session, mut forger) = Forger::connect();
    let mut lengths = input.pieces.iter().cycle();
    // Data that has to arrive, until a step that may end the connection.
    let (mut expected, mut received, mut is_valid) = (Vec::new(), Vec::new(), true);
    let mut fruitless = 0;
    for step in &input.steps {
        let bytes = match *step {
            Step::Data(data) => {
                let data = &data[..data.len().min(16_384)];
                fruitless = if data.is_empty() { fruitless + 1 } else { 0 };
                expected.extend_from_slice(data);
                forger.record(23, data, 0)
            }
            Step::Long(length) => {
                let length = usize::from(length).min(17_000);
                is_valid &= (1..=16_384).contains(&length);
                fruitless = 0;
                let data = vec![b'x'; length];
                expected.extend_from_slice(&data);
                forger.record(23, &data, 0)
            }
            Step::Update(asks) => {
                fruitless += 1;
                forger.update(asks)
            }
            Step::Record(content, bytes, padding) => {
                is_valid = false;
                forger.record(content, &bytes[..bytes.len().min(16_384)], padding)
            }
            Step::Raw(bytes) => {
                is_valid &= bytes.is_empty();
                bytes.to_vec()
            }
            Step::Send(length) => {
                // One answer to any number of requests for new keys goes in front.
                if let Ok(sent) = session.send(&vec![b'x'; usize::from(length)]) {
                    assert!(sent <= usize::from(length) + 22 + 27);
                }
                continue;
            }
        };
        is_valid &= fruitless <= 32;
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let (piece, after) = rest.split_at(usize::from(*lengths.next().unwrap()).saturating_mul(97).clamp(1, rest.len()));
            rest = after;
            match session.receive(piece) {
                Ok(Some(data)) => received.extend_from_slice(&data),
                Ok(None) | Err(_) => assert!(!is_valid, "an end after {input:?}"),
            }
            assert!(session.kept() <= BareSession::MAX_INPUT, "{} bytes of input", session.kept());
            assert!(session.refused() <= BareSession::MAX_REFUSED, "{} bytes refused", session.refused());
        }
        if is_valid {
            assert_eq!(received, expected);
            assert_eq!(session.kept(), 0);
        }
    }
});
