//! Connections over TLS, between real sockets and a client of rustls.

use std::future::poll_fn;
use std::io::{Read, Write};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use bytes::Bytes;
use proptest::prelude::*;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::version::{TLS12, TLS13};
use rustls::{
    ClientConfig, ClientConnection, ConnectionTrafficSecrets, RootCertStore, ServerConfig, StreamOwned,
    SupportedProtocolVersion,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::*;
use crate::delivery::codecs::CLASSIC;
use crate::delivery::stream::PassedStream;
use crate::delivery::{Link, Slot, Terms};

const DEADLINE: Duration = Duration::from_secs(20);
const VERSIONS: [&SupportedProtocolVersion; 2] = [&TLS12, &TLS13];
/// Kernel buffers that hold less than a record.
const TINY: usize = 4 * 1024;

type Client = StreamOwned<ClientConnection, std::net::TcpStream>;

/// A certificate for `localhost`, which the clients trust, and its key.
static CERTIFICATE: LazyLock<(CertificateDer<'static>, Vec<u8>)> = LazyLock::new(|| {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    (made.cert.der().clone(), made.signing_key.serialize_der())
});

fn identity() -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
    let (certificate, key) = &*CERTIFICATE;
    (vec![certificate.clone()], PrivateKeyDer::try_from(key.clone()).unwrap())
}

fn roots() -> Arc<RootCertStore> {
    let mut roots = RootCertStore::empty();
    roots.add(CERTIFICATE.0.clone()).unwrap();
    Arc::new(roots)
}

fn server_config(versions: &[&'static SupportedProtocolVersion]) -> ServerConfig {
    let (chain, key) = identity();
    let builder = ServerConfig::builder_with_protocol_versions(versions);
    let mut config = builder.with_no_client_auth().with_single_cert(chain, key).unwrap();
    prepare(&mut config);
    config
}

fn client_config(versions: &[&'static SupportedProtocolVersion]) -> ClientConfig {
    ClientConfig::builder_with_protocol_versions(versions).with_root_certificates(roots()).with_no_client_auth()
}

/// A connection between two sockets, the client's without a handshake so far.
async fn sockets(buffers: Option<usize>) -> (TcpStream, std::net::TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    if let Some(bytes) = buffers {
        SockRef::from(&listener).set_send_buffer_size(bytes).unwrap();
    }
    let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    if let Some(bytes) = buffers {
        SockRef::from(&client).set_recv_buffer_size(bytes).unwrap();
    }
    let (server, _) = listener.accept().await.unwrap();
    let client = client.into_std().unwrap();
    client.set_nonblocking(false).unwrap();
    client.set_read_timeout(Some(DEADLINE)).unwrap();
    (server, client)
}

/// The results of a handshake on both sides.
async fn shake_hands(
    server: &TcpStream,
    client: std::net::TcpStream,
    server_config: ServerConfig,
    client_config: ClientConfig,
) -> (Result<Established, HandshakeError>, io::Result<Client>) {
    let client = spawn_blocking(move || {
        let name = ServerName::try_from("localhost").unwrap();
        let mut client = StreamOwned::new(ClientConnection::new(Arc::new(client_config), name).unwrap(), client);
        client.conn.complete_io(&mut client.sock)?;
        Ok(client)
    });
    let accepted = timeout(DEADLINE, accept(server, |_| Arc::new(server_config), true, |_| true))
        .await
        .expect("a handshake in time");
    (accepted, client.await.unwrap())
}

async fn connect_with(version: &'static SupportedProtocolVersion, buffers: Option<usize>) -> (Tls, Client) {
    let (socket, client) = sockets(buffers).await;
    let (server, client) = shake_hands(&socket, client, server_config(&[version]), client_config(&[version])).await;
    (Tls::new(socket, server.unwrap().session), client.unwrap())
}

async fn connect(version: &'static SupportedProtocolVersion) -> (Tls, Client) {
    connect_with(version, None).await
}

/// Bytes that differ at each position.
fn message(length: usize) -> Vec<u8> {
    (0..length).map(|index| (index.wrapping_mul(31) ^ (index >> 8)) as u8).collect()
}

async fn send_all(link: &Link, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        let sent = timeout(DEADLINE, poll_fn(|cx| link.poll_write(cx, |link| link.send(bytes)))).await.unwrap();
        bytes = &bytes[sent.unwrap()..];
    }
}

async fn flush(link: &Link) {
    timeout(DEADLINE, poll_fn(|cx| link.poll_flush(cx))).await.unwrap().unwrap();
    assert!(!link.is_unflushed());
}

async fn read(tls: &mut Tls, buffer: &mut [u8]) -> io::Result<usize> {
    timeout(DEADLINE, poll_fn(|cx| tls.poll_read(cx, buffer))).await.expect("a read in time")
}

/// Reads with a buffer of this size until the client's end.
async fn read_to_end(tls: &mut Tls, size: usize) -> io::Result<Vec<u8>> {
    let (mut all, mut buffer) = (Vec::new(), vec![0; size]);
    loop {
        match read(tls, &mut buffer).await? {
            0 => return Ok(all),
            length => all.extend_from_slice(&buffer[..length]),
        }
    }
}

async fn received(mut client: Client) -> (io::Result<usize>, Vec<u8>, Client) {
    spawn_blocking(move || {
        let mut all = Vec::new();
        (client.read_to_end(&mut all), all, client)
    })
    .await
    .unwrap()
}

/// Sends until the kernel takes no more; returns the bytes sent.
fn fill(link: &Link) -> Vec<u8> {
    let mut sent = Vec::new();
    loop {
        let next = message(7_001);
        match link.send(&next) {
            Ok(length) => sent.extend_from_slice(&next[..length]),
            Err(error) => {
                assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
                assert!(link.is_unflushed(), "only a waiting record refuses a send");
                return sent;
            }
        }
    }
}

#[tokio::test]
async fn messages_of_any_length_arrive_whole_through_tiny_buffers() {
    for version in VERSIONS {
        let (tls, client) = connect_with(version, Some(TINY)).await;
        let link = Link::from(tls);
        let reading = tokio::spawn(received(client));
        let mut expected = Vec::new();
        for length in [0, 1, 2, 100, 16_383, 16_384, 16_385, 32_768, 100_000] {
            let message = message(length);
            send_all(&link, &message).await;
            expected.extend_from_slice(&message);
        }
        flush(&link).await;
        link.shut_down();
        flush(&link).await;
        let (end, all, _) = reading.await.unwrap();
        end.expect("close_notify in front of the FIN");
        assert!(all == expected, "{version:?}: {} of {} bytes", all.len(), expected.len());
    }
}

#[tokio::test]
async fn frames_sent_together_share_a_record() {
    let (tls, mut client) = connect(&TLS13).await;
    let link = Link::from(tls);
    let frames: Vec<Vec<u8>> = [100, 0, 200, 16_000, 1_000].map(message).into();
    let slices: Vec<IoSlice<'_>> = frames.iter().map(|frame| IoSlice::new(frame)).collect();
    assert_eq!(link.send_vectored(&slices).unwrap(), 16 * 1024, "one record of the largest size");
    let mut first = vec![0; 16 * 1024];
    let read = spawn_blocking(move || {
        client.conn.read_tls(&mut client.sock).unwrap();
        while !client.conn.process_new_packets().is_ok_and(|state| state.plaintext_bytes_to_read() > 0) {
            client.conn.read_tls(&mut client.sock).unwrap();
        }
        let length = client.conn.reader().read(&mut first).unwrap();
        first.truncate(length);
        first
    });
    assert!(read.await.unwrap() == frames.concat()[..16 * 1024]);
}

#[tokio::test]
async fn a_refused_record_waits_and_is_flushed() {
    for version in VERSIONS {
        let (tls, client) = connect_with(version, Some(TINY)).await;
        let link = Link::from(tls);
        let expected = fill(&link);
        let pending = poll_fn(|cx| Poll::Ready(link.poll_flush(cx).is_pending())).await;
        assert!(pending && link.is_unflushed());
        let Link::Tls(tls) = &link else { unreachable!() };
        assert!(tls.session.borrow().rest().len() <= MAX_RECORD_OUT + 256);
        let reading = tokio::spawn(received(client));
        flush(&link).await;
        link.shut_down();
        flush(&link).await;
        let (end, all, _) = reading.await.unwrap();
        end.unwrap();
        assert!(all == expected, "{version:?}");
    }
}

#[tokio::test]
async fn a_delivery_that_meets_a_full_socket_wakes_the_transport() {
    let (tls, client) = connect_with(&TLS13, Some(TINY)).await;
    let slot = Slot::new(1, None, tls, CLASSIC, Arc::default(), &Terms::in_tests(1_000, 1 << 20));
    let frame = Bytes::from(message(1_000));
    let mut sent = 0;
    while slot.is_flushed() {
        assert!(!slot.needs_attention());
        slot.send(frame.clone());
        sent += 1;
    }
    assert!(slot.needs_attention(), "nothing is queued, and yet bytes wait");
    for _ in 0..50 {
        slot.send(frame.clone());
        sent += 1;
    }
    let reading = tokio::spawn(received(client));
    let flushed = poll_fn(|cx| {
        slot.poll_attention(cx.waker());
        slot.flush(cx);
        if slot.is_flushed() { Poll::Ready(()) } else { Poll::Pending }
    });
    timeout(DEADLINE, flushed).await.unwrap();
    assert!(!slot.needs_attention());
    assert!(slot.close(), "all is on its way");
    let (end, all, _) = reading.await.unwrap();
    end.unwrap();
    assert!(all == frame.repeat(sent));
}

#[tokio::test]
async fn the_end_follows_a_record_that_waits() {
    for version in VERSIONS {
        let (tls, client) = connect_with(version, Some(TINY)).await;
        let link = Link::from(tls);
        let expected = fill(&link);
        link.shut_down();
        link.shut_down();
        assert_eq!(link.send(b"too late").unwrap_err().kind(), io::ErrorKind::WouldBlock);
        let Link::Tls(mut tls) = link else { unreachable!() };
        let reading = tokio::spawn(received(client));
        // The Transport reads on after the end of its own side, and thereby flushes.
        let mut buffer = [0; 100];
        let end = poll_fn(|cx| {
            assert!(tls.poll_read(cx, &mut buffer).is_pending(), "the client has not ended its side");
            if tls.session.borrow().shuts_down() { Poll::Pending } else { Poll::Ready(()) }
        });
        timeout(DEADLINE, end).await.unwrap();
        let (end, all, client) = reading.await.unwrap();
        end.expect("close_notify in front of the FIN");
        assert!(all == expected, "{version:?}");
        assert_eq!(tls.send(b"too late").unwrap_err().kind(), io::ErrorKind::BrokenPipe);
        drop(client);
        assert_eq!(read(&mut tls, &mut buffer).await.unwrap(), 0);
    }
}

#[tokio::test]
async fn the_close_notify_of_a_client_ends_the_input_alone() {
    for version in VERSIONS {
        let (mut tls, mut client) = connect(version).await;
        client.write_all(b"last words").unwrap();
        client.conn.send_close_notify();
        client.conn.complete_io(&mut client.sock).unwrap();
        assert_eq!(read_to_end(&mut tls, 64).await.unwrap(), b"last words");
        assert_eq!(read(&mut tls, &mut [0; 8]).await.unwrap(), 0, "the end stays the end");
        assert_eq!(tls.send(b"an answer").unwrap(), 9);
        tls.shut_down();
        let (end, all, _) = received(client).await;
        end.unwrap();
        assert_eq!(all, b"an answer");
    }
}

#[tokio::test]
async fn a_fin_without_close_notify_ends_the_input() {
    let (mut tls, mut client) = connect(&TLS13).await;
    client.write_all(b"last words").unwrap();
    // The beginning of a record is no message.
    client.sock.write_all(&[23, 3, 3, 0, 100, 1, 2, 3]).unwrap();
    client.sock.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_to_end(&mut tls, 64).await.unwrap(), b"last words");
    assert!(tls.session.borrow().input().is_empty(), "what can never be complete is dropped");
    assert_eq!(tls.send(b"an answer").unwrap(), 9);
    tls.shut_down();
    let (end, all, _) = received(client).await;
    end.unwrap();
    assert_eq!(all, b"an answer");
}

#[tokio::test]
async fn an_incomplete_record_counts_as_input_of_the_client() {
    let (tls, mut client) = connect(&TLS13).await;
    let (link, terms) = (Link::Tls(Box::new(tls)), Terms::in_tests(1_000, 1 << 20));
    let slot = Slot::new(1, None, link, CLASSIC, Arc::default(), &terms);
    assert_eq!(slot.unseen_bytes(), 0);
    client.sock.write_all(&[23, 3, 3, 0x40, 0]).unwrap();
    client.sock.write_all(&[0; 1_000]).unwrap();
    let kept = poll_fn(|cx| {
        assert!(slot.poll_read(cx, &mut [0; 64]).is_pending(), "no data yet");
        if slot.unseen_bytes() == 1_005 { Poll::Ready(()) } else { Poll::Pending }
    });
    timeout(DEADLINE, kept).await.expect("the incomplete record is kept");
    assert!(slot.is_mid_record());
}

#[tokio::test]
async fn a_session_and_its_refused_bytes_are_accounted_for_until_the_end() {
    for ends_by_reset in [false, true] {
        let (tls, client) = connect_with(&TLS13, Some(TINY)).await;
        let terms = Terms::in_tests(1_000, 1 << 20);
        let ledger = &terms.ledger;
        let slot = Slot::new(1, None, tls, CLASSIC, Arc::default(), &terms);
        let session = ledger.bytes();
        assert!(session > 1_000, "{session} bytes for the keys");
        let frame = Bytes::from(message(1_000));
        while slot.is_flushed() {
            slot.send(frame.clone());
        }
        let refused = ledger.bytes() - session;
        assert!((1..=1_022).contains(&refused), "{refused} bytes of a record");
        assert_eq!(ledger.sent(), refused);
        slot.send(frame.clone());
        let (queued, _) = slot.queued().expect("a frame waits");
        assert!(queued >= 1_000 + refused, "{queued} bytes");
        let client = if ends_by_reset {
            slot.end(crate::delivery::End::Overloaded);
            slot.lost(io::ErrorKind::ConnectionReset);
            assert_eq!(ledger.bytes(), session, "a reset leaves nothing to send");
            client
        } else {
            let reading = tokio::spawn(received(client));
            let flushed = poll_fn(|cx| {
                slot.poll_attention(cx.waker());
                slot.flush(cx);
                if slot.is_flushed() { Poll::Ready(()) } else { Poll::Pending }
            });
            timeout(DEADLINE, flushed).await.unwrap();
            assert_eq!(ledger.bytes(), session);
            assert!(slot.close());
            reading.await.unwrap().2
        };
        drop((slot, client));
        assert_eq!(ledger.bytes(), 0);
    }
}

#[tokio::test]
async fn records_have_their_price_and_changes_of_keys_a_higher_price() {
    use crate::accounts::fairness::price;

    let (tls, _client, mut forger) = Forger::connect().await;
    let (_, mut session) = tls.into_parts();
    session.take_work();
    let mut records = [forger.record(23, b"a"), forger.record(23, b""), forger.record(23, b"b")].concat();
    assert_eq!(session.decrypt(&mut records, &mut [0; 8]), 2);
    assert_eq!(session.take_work(), 3 * price::RECORD);
    session.decrypt(&mut forger.record(HANDSHAKE, &KEY_UPDATE), &mut [0; 8]);
    assert_eq!(session.take_work(), price::KEY_UPDATE);
    assert_eq!(session.take_work(), 0);
}

#[tokio::test]
async fn garbage_is_answered_with_an_alert_and_ends_both_directions() {
    for version in VERSIONS {
        let (mut tls, mut client) = connect(version).await;
        client.write_all(b"valid").unwrap();
        client.sock.write_all(&[23, 3, 3, 0, 20, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0]).unwrap();
        let mut buffer = [0; 100];
        assert_eq!(read(&mut tls, &mut buffer).await.unwrap(), 5, "bytes in front of the error count");
        for _ in 0..2 {
            read(&mut tls, &mut buffer).await.unwrap_err();
        }
        assert_eq!(tls.send(b"more").unwrap_err().kind(), io::ErrorKind::BrokenPipe);
        tls.shut_down();
        let (end, all, _) = received(client).await;
        let error = end.unwrap_err().to_string();
        assert!(error.contains("BadRecordMac"), "{version:?}: {error}");
        assert_eq!(all, b"");
    }
}

#[tokio::test]
async fn a_client_may_change_its_keys_at_any_time() {
    let (mut tls, mut client) = connect(&TLS13).await;
    let mut buffer = [0; 100];
    for round in 0..100 {
        client.conn.refresh_traffic_keys().unwrap();
        client.write_all(b"question").unwrap();
        assert_eq!(read(&mut tls, &mut buffer).await.unwrap(), 8, "round {round}");
        // The answer of rustls to the KeyUpdate goes ahead of the next record.
        assert_eq!(tls.send(b"answer").unwrap(), 6);
        client.read_exact(&mut buffer[..6]).unwrap();
        assert_eq!(&buffer[..6], b"answer");
    }
    // Without end, and without any other word, they are an attack.
    for _ in 0..40 {
        client.conn.refresh_traffic_keys().unwrap();
        client.conn.complete_io(&mut client.sock).unwrap();
    }
    read(&mut tls, &mut buffer).await.unwrap_err();
}

/// Seals records of any content with the keys of a client under TLS 1.3, as no library would.
struct Forger {
    key: LessSafeKey,
    iv: [u8; 12],
    seq: u64,
}

impl Forger {
    async fn connect() -> (Tls, std::net::TcpStream, Self) {
        let (socket, client) = sockets(None).await;
        let mut config = client_config(&[&TLS13]);
        config.enable_secret_extraction = true;
        let (server, client) = shake_hands(&socket, client, server_config(&[&TLS13]), config).await;
        let Client { conn, sock } = client.unwrap();
        let (seq, ConnectionTrafficSecrets::Aes256Gcm { key, iv }) = conn.dangerous_extract_secrets().unwrap().tx
        else {
            panic!("another cipher")
        };
        let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key.as_ref()).unwrap());
        let forger = Self { key, iv: iv.as_ref().try_into().unwrap(), seq };
        (Tls::new(socket, server.unwrap().session), sock, forger)
    }

    fn record(&mut self, content: u8, bytes: &[u8]) -> Vec<u8> {
        let mut inner = [bytes, &[content]].concat();
        let length = u16::try_from(inner.len() + 16).unwrap().to_be_bytes();
        let head = [23, 3, 3, length[0], length[1]];
        let mut nonce = self.iv;
        nonce[4..].iter_mut().zip(self.seq.to_be_bytes()).for_each(|(byte, part)| *byte ^= part);
        self.seq += 1;
        let nonce = Nonce::assume_unique_for_key(nonce);
        self.key.seal_in_place_append_tag(nonce, Aad::from(head), &mut inner).unwrap();
        [&head[..], &inner].concat()
    }
}

const HANDSHAKE: u8 = 22;
const KEY_UPDATE: [u8; 5] = [24, 0, 0, 1, 0];

#[tokio::test]
async fn a_delivery_in_the_middle_of_a_message_of_the_handshake_is_sent() {
    let (tls, _client, mut forger) = Forger::connect().await;
    let (_, mut session) = tls.into_parts();
    let (mut buffer, mut record) = ([0; 100], [0; MAX_RECORD_OUT]);
    for part in KEY_UPDATE.chunks(2) {
        let mut input = [session.input(), &forger.record(HANDSHAKE, part)].concat();
        assert_eq!(session.decrypt(&mut input, &mut buffer), 0);
        session.encrypt(b"frame", &mut record).unwrap();
    }
    assert!(session.read_kept(&mut buffer).is_none(), "no error, no end");
    assert_eq!(session.kept(), (0, false));
}

#[tokio::test]
async fn a_message_of_the_handshake_without_an_end_is_refused() {
    let (mut tls, mut client, mut forger) = Forger::connect().await;
    let writing = spawn_blocking(move || {
        // Begins a message of 60,000 bytes.
        let mut part = vec![24, 0, 0xea, 0x60];
        for _ in 0..10 {
            part.resize(4_000, 0);
            if client.write_all(&forger.record(HANDSHAKE, &part)).is_err() {
                break;
            }
            part.clear();
        }
        client
    });
    let error = read(&mut tls, &mut [0; 100]).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    assert_eq!(tls.session.get_mut().kept(), (0, false));
    drop(tls);
    writing.await.unwrap();
}

#[tokio::test]
async fn a_connection_at_rest_keeps_nothing_but_its_keys() {
    for version in VERSIONS {
        let (mut tls, mut client) = connect(version).await;
        client.write_all(b"question").unwrap();
        assert_eq!(read(&mut tls, &mut [0; 100]).await.unwrap(), 8);
        assert_eq!(tls.send(b"answer").unwrap(), 6);
        let session = tls.session.get_mut();
        assert_eq!((session.kept(), session.rest().len()), ((0, false), 0));
        // The ciphers, and the secrets of the next keys, are on the heap.
        assert!(size_of::<Tls>() <= 320, "{} bytes", size_of::<Tls>());
    }
}

#[tokio::test]
async fn a_key_is_changed_before_its_limit() {
    let (mut tls, mut client) = connect(&TLS13).await;
    tls.session.get_mut().limit_key(3);
    for round in 0..50 {
        assert_eq!(tls.send(b"frame").unwrap(), 5);
        let mut frame = [0; 5];
        client.read_exact(&mut frame).unwrap();
        assert_eq!(&frame, b"frame", "round {round}");
    }
    tls.shut_down();
    received(client).await.0.unwrap();
}

#[tokio::test]
async fn each_cipher_of_tls_1_3_is_understood() {
    for suite in rustls::crypto::aws_lc_rs::DEFAULT_CIPHER_SUITES.iter().filter(|suite| suite.tls13().is_some()) {
        let (socket, client) = sockets(None).await;
        let mut provider = rustls::crypto::aws_lc_rs::default_provider();
        provider.cipher_suites = vec![*suite];
        let builder = ClientConfig::builder_with_provider(Arc::new(provider)).with_safe_default_protocol_versions();
        let config = builder.unwrap().with_root_certificates(roots()).with_no_client_auth();
        let (server, client) = shake_hands(&socket, client, server_config(&VERSIONS), config).await;
        let (mut tls, mut client) = (Tls::new(socket, server.unwrap().session), client.unwrap());
        client.write_all(b"question").unwrap();
        let mut buffer = [0; 100];
        assert_eq!(read(&mut tls, &mut buffer).await.unwrap(), 8, "{suite:?}");
        assert_eq!(tls.send(b"answer").unwrap(), 6);
        tls.shut_down();
        let (end, all, _) = received(client).await;
        end.unwrap();
        assert_eq!(all, b"answer", "{suite:?}");
    }
}

#[tokio::test]
async fn alerts_and_forged_contents_have_their_answers() {
    // The content type, the content, and the end of the input that it makes.
    let cases: [(u8, &[u8], Option<&str>); 9] = [
        (21, &[1, 0], Some("end")),
        (21, &[1, 90], None),
        (21, &[2, 48], Some("UnknownCA")),
        (21, &[2], Some("malformed")),
        (22, &[], Some("misbehaved")),
        (22, &[24, 0, 0, 1, 7], Some("KeyUpdate")),
        (22, &[24, 0, 0, 1, 0, 24], Some("misbehaved")),
        (22, &[1, 0, 0, 0], Some("misbehaved")),
        (24, &[1], Some("misbehaved")),
    ];
    for (content, bytes, expected) in cases {
        let (tls, _client, mut forger) = Forger::connect().await;
        let (_, mut session) = tls.into_parts();
        let mut buffer = [0; 100];
        assert_eq!(session.decrypt(&mut forger.record(content, bytes), &mut buffer), 0);
        let found = session.read_kept(&mut buffer).map(|read| match read {
            Ok(length) => {
                if length == 0 {
                    "end".to_owned()
                } else {
                    "data".to_owned()
                }
            }
            Err(error) => error.to_string(),
        });
        match (expected, found) {
            (None, None) => {}
            (Some(expected), Some(found)) => assert!(found.contains(expected), "{content} {bytes:?}: {found}"),
            (expected, found) => panic!("{content} {bytes:?}: {found:?} in place of {expected:?}"),
        }
        let is_told = !matches!(expected, None | Some("end" | "UnknownCA"));
        assert_eq!(!session.rest().is_empty(), is_told, "an alert answers all but alerts: {content} {bytes:?}");
    }
}

#[tokio::test]
async fn records_without_data_come_to_an_end() {
    let (tls, _client, mut forger) = Forger::connect().await;
    let (_, mut session) = tls.into_parts();
    let mut buffer = [0; 100];
    for round in 0..100 {
        let data = if round < 60 && round % 30 == 0 { &b"x"[..] } else { b"" };
        assert_eq!(session.decrypt(&mut forger.record(23, data), &mut buffer), data.len());
        if session.read_kept(&mut buffer).is_some_and(|read| read.is_err()) {
            assert_eq!(round, 30 + 33);
            return;
        }
    }
    panic!("a hundred empty records");
}

#[tokio::test]
async fn a_caller_with_a_small_buffer_gets_all_bytes() {
    for size in [1, 7, 1_000, 16_384] {
        let (mut tls, mut client) = connect(&TLS13).await;
        let expected = message(if size < 10 { 5_000 } else { 100_000 });
        let sent = expected.clone();
        let writing = spawn_blocking(move || {
            client.write_all(&sent).unwrap();
            client.conn.send_close_notify();
            client.conn.complete_io(&mut client.sock).unwrap();
            // A close with an unread ticket would be a reset.
            client
        });
        assert!(read_to_end(&mut tls, size).await.unwrap() == expected, "{size}");
        writing.await.unwrap();
        assert_eq!(tls.session.get_mut().kept(), (0, false), "all memory is given back");
    }
}

#[tokio::test]
async fn a_client_without_tls_is_told_so_and_left() {
    for (words, told) in [(&b"GET / HTTP/1.1\r\n\r\n"[..], true), (b"{", true), (b"", false)] {
        let (server, mut client) = sockets(None).await;
        client.write_all(words).unwrap();
        if !told {
            client.shutdown(Shutdown::Write).unwrap();
        }
        let config = Arc::new(server_config(&VERSIONS));
        let error = timeout(DEADLINE, accept(&server, |_| config, false, |_| true)).await.unwrap().err().unwrap();
        drop(server);
        let mut answer = Vec::new();
        let _ = client.read_to_end(&mut answer);
        match told {
            true => assert!(matches!(error, HandshakeError::Plaintext), "{error}"),
            false => assert!(matches!(error, HandshakeError::Eof), "{error}"),
        }
        assert!(answer.len() == if told { 7 } else { 0 } || answer.is_empty(), "{answer:?}");
    }
}

#[tokio::test]
async fn a_handshake_with_nothing_in_common_fails_with_an_alert() {
    let (socket, client) = sockets(None).await;
    let (server, client) = shake_hands(&socket, client, server_config(&[&TLS13]), client_config(&[&TLS12])).await;
    let error = server.err().unwrap();
    assert!(matches!(&error, HandshakeError::Tls(_)), "{error}");
    let told = client.unwrap_err().to_string();
    assert!(told.contains("ProtocolVersion"), "{told}");
}

#[tokio::test]
async fn a_handshake_tells_protocol_name_and_certificate() {
    for version in VERSIONS {
        let (chain, key) = identity();
        let verifier = WebPkiClientVerifier::builder(roots()).build().unwrap();
        let builder = ServerConfig::builder_with_protocol_versions(&[version]).with_client_cert_verifier(verifier);
        let mut server = builder.with_single_cert(chain.clone(), key.clone_key()).unwrap();
        server.alpn_protocols = vec![b"http/1.1".to_vec()];
        prepare(&mut server);
        let builder = ClientConfig::builder_with_protocol_versions(&[version]).with_root_certificates(roots());
        let mut client = builder.with_client_auth_cert(chain, key).unwrap();
        client.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let (socket, socket_of_client) = sockets(None).await;
        let (established, connected) = shake_hands(&socket, socket_of_client, server, client).await;
        connected.unwrap();
        let established = established.unwrap();
        assert_eq!(established.alpn.as_deref(), Some(&b"http/1.1"[..]));
        assert_eq!(established.server_name.as_deref(), Some("localhost"));
        assert_eq!(established.client_certificate.as_deref(), Some(&*CERTIFICATE.0));
    }
}

#[tokio::test]
async fn a_client_that_sends_with_the_end_of_its_handshake_is_heard() {
    let (server, client) = sockets(None).await;
    let writing = spawn_blocking(move || {
        let name = ServerName::try_from("localhost").unwrap();
        let mut client =
            StreamOwned::new(ClientConnection::new(Arc::new(client_config(&[&TLS13])), name).unwrap(), client);
        // Goes out with the Finished.
        client.conn.writer().write_all(&message(10_000)).unwrap();
        client.conn.complete_io(&mut client.sock).unwrap();
        client.conn.send_close_notify();
        client.conn.complete_io(&mut client.sock).unwrap();
        client
    });
    let established = accept(&server, |_| Arc::new(server_config(&[&TLS13])), false, |_| true).await.unwrap();
    let mut tls = Tls::new(server, established.session);
    assert!(read_to_end(&mut tls, 16 * 1024).await.unwrap() == message(10_000));
    writing.await.unwrap();
}

/// A client with early data, which its ticket allows, for a server that does not.
#[tokio::test]
async fn early_data_is_skipped_and_never_heard() {
    // The ticket is of another server, and names a session that this server does not know.
    let mut allows = server_config(&[&TLS13]);
    allows.max_early_data_size = 16 * 1024;
    let refuses = server_config(&[&TLS13]);
    let mut client = client_config(&[&TLS13]);
    client.enable_early_data = true;
    let (socket, first) = sockets(None).await;
    let (established, first) = shake_hands(&socket, first, allows, client.clone()).await;
    let tls = Tls::new(socket, established.unwrap().session);
    tls.send(b"x").unwrap();
    let mut first = first.unwrap();
    // The ticket comes with the data.
    first.read_exact(&mut [0]).unwrap();

    let (server, socket) = sockets(None).await;
    let talking = spawn_blocking(move || {
        let name = ServerName::try_from("localhost").unwrap();
        let mut client = StreamOwned::new(ClientConnection::new(Arc::new(client), name).unwrap(), socket);
        client.conn.early_data().expect("the ticket allows early data").write_all(b"replayed").unwrap();
        client.conn.complete_io(&mut client.sock).unwrap();
        assert!(!client.conn.is_early_data_accepted());
        client.write_all(b"in time").unwrap();
        client.conn.send_close_notify();
        client.conn.complete_io(&mut client.sock).unwrap();
        client
    });
    let established =
        timeout(DEADLINE, accept(&server, |_| Arc::new(refuses), false, |_| true)).await.unwrap().unwrap();
    let mut tls = Tls::new(server, established.session);
    assert_eq!(read_to_end(&mut tls, 64).await.unwrap(), b"in time");
    talking.await.unwrap();
}

#[tokio::test]
async fn a_hello_that_is_too_large_is_refused_before_its_end() {
    for (asks_for_certificate, most) in [(false, 16 * 1024), (true, 64 * 1024)] {
        for fragment in [1, 300] {
            let (server, mut client) = sockets(None).await;
            // The beginning of the largest message of the handshake.
            let hello = [&[1, 0, 0xff, 0xff, 3, 3][..], &message(65_000)].concat();
            let bytes: Vec<u8> = hello
                .chunks(fragment)
                .flat_map(|part| [&[22, 3, 1][..], &u16::try_from(part.len()).unwrap().to_be_bytes(), part].concat())
                .collect();
            let writing = spawn_blocking(move || {
                let _ = client.write_all(&bytes);
                client
            });
            let kept = std::cell::Cell::new(0);
            let accepted = accept(
                &server,
                |_| Arc::new(server_config(&VERSIONS)),
                asks_for_certificate,
                |bytes| {
                    kept.set(kept.get().max(bytes));
                    true
                },
            );
            let error = timeout(DEADLINE, accepted).await.unwrap().err().unwrap();
            assert!(error.to_string().contains("too large"), "{fragment}: {error}");
            assert!((most / 2..=2 * most).contains(&kept.get()), "{fragment}: {} bytes kept", kept.get());
            drop(server);
            writing.await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_connection_continues_as_a_stream_on_another_runtime() {
    let (tls, client) = connect_with(&TLS13, Some(TINY)).await;
    let link = Link::from(tls);
    let mut expected = fill(&link);
    let PassedStream::Tls(passed) = link.leave_reactor().unwrap() else { unreachable!() };
    let mut stream = passed.register().unwrap();
    let reading = tokio::spawn(received(client));
    let more = message(50_000);
    timeout(DEADLINE, stream.write_all(&more)).await.unwrap().unwrap();
    timeout(DEADLINE, stream.flush()).await.unwrap().unwrap();
    timeout(DEADLINE, stream.shutdown()).await.unwrap().unwrap();
    expected.extend_from_slice(&more);
    let (end, all, mut client) = reading.await.unwrap();
    end.unwrap();
    assert!(all == expected);
    client.write_all(b"question").unwrap();
    let mut question = [0; 8];
    timeout(DEADLINE, stream.read_exact(&mut question)).await.unwrap().unwrap();
    assert_eq!(&question, b"question");
}

#[tokio::test]
async fn a_reset_follows_a_record_that_waits_nowhere() {
    let (tls, client) = connect_with(&TLS13, Some(TINY)).await;
    let link = Link::from(tls);
    fill(&link);
    link.reset_on_close();
    assert!(!link.is_unflushed());
    drop(link);
    let (end, ..) = received(client).await;
    assert_eq!(end.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
}

#[test]
fn a_panic_in_the_library_is_an_error_of_one_connection() {
    let caught: Result<(), _> = session::caught(|| panic!("a bug"));
    assert!(caught.unwrap_err().to_string().contains("panic"));
}

/// The encrypted bytes of these messages, each a write of the client.
fn encrypted(client: &mut ClientConnection, messages: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for message in messages {
        let mut message = &message[..];
        while !message.is_empty() {
            let length = client.writer().write(message).unwrap();
            message = &message[length..];
            while client.wants_write() {
                client.write_tls(&mut bytes).unwrap();
            }
        }
    }
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn any_split_of_the_input_gives_the_same_bytes_within_bounds(
        lengths in proptest::collection::vec(prop_oneof![0..300_usize, 0..40_000_usize], 1..8),
        chunks in proptest::collection::vec(prop_oneof![1..40_usize, 1..MAX_RECORD_IN], 1..20),
        buffers in proptest::collection::vec(prop_oneof![1..40_usize, 1..20_000_usize], 1..10),
        is_new in any::<bool>(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (tls, mut client) = runtime.block_on(connect(VERSIONS[usize::from(is_new)]));
        let (_, mut session) = tls.into_parts();
        let messages: Vec<Vec<u8>> = lengths.into_iter().map(message).collect();
        let bytes = encrypted(&mut client.conn, &messages);
        let (mut chunks, mut buffers) = (chunks.iter().cycle(), buffers.iter().cycle());
        let (mut rest, mut all) = (&bytes[..], Vec::new());
        while !rest.is_empty() {
            let mut buffer = vec![0; *buffers.next().unwrap()];
            if let Some(read) = session.read_kept(&mut buffer) {
                all.extend_from_slice(&buffer[..read.unwrap()]);
                continue;
            }
            let mut input = session.input().to_vec();
            prop_assert!(input.len() < MAX_RECORD_IN, "there is room for more");
            let room = MAX_RECORD_IN - input.len();
            let (chunk, others) = rest.split_at((*chunks.next().unwrap()).min(room).min(rest.len()));
            rest = others;
            input.extend_from_slice(chunk);
            let length = session.decrypt(&mut input, &mut buffer);
            all.extend_from_slice(&buffer[..length]);
            prop_assert!(session.kept().0 <= MAX_RECORD_IN, "{} bytes kept", session.kept().0);
        }
        let mut buffer = [0; MAX_RECORD_IN];
        while let Some(read) = session.read_kept(&mut buffer) {
            all.extend_from_slice(&buffer[..read.unwrap()]);
        }
        prop_assert!(all == messages.concat());
        prop_assert_eq!(session.kept(), (0, false));
    }

    #[test]
    fn any_bytes_in_place_of_a_record_end_in_an_error_or_in_a_wait(
        bytes in proptest::collection::vec(any::<u8>(), 1..2_000),
        content in prop_oneof![Just(20_u8), Just(21), Just(22), Just(23), any::<u8>()],
        is_new in any::<bool>(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (tls, _client) = runtime.block_on(connect(VERSIONS[usize::from(is_new)]));
        let (_, mut session) = tls.into_parts();
        let length = u16::try_from(bytes.len()).unwrap().to_be_bytes();
        let mut input = [&[content, 3, 3, length[0], length[1]], &bytes[..]].concat();
        let mut buffer = [0; 100];
        prop_assert_eq!(session.decrypt(&mut input, &mut buffer), 0);
        // A server may be told anything, and delivers in the same moment.
        let mut record = [0; MAX_RECORD_OUT];
        let sent = session.encrypt(b"a frame", &mut record);
        match session.read_kept(&mut buffer) {
            Some(Err(error)) => prop_assert!(error.to_string().len() > 3 && sent.is_err()),
            Some(Ok(read)) => prop_assert_eq!(read, 0),
            None => prop_assert!(sent.is_ok()),
        }
    }
}

#[test]
fn the_first_cipher_of_a_client_is_found_behind_a_meaningless_one() {
    let hello = |session_id: u8, ciphers: &[[u8; 2]]| {
        let mut hello = vec![0; 5 + 4 + 2 + 32];
        hello.push(session_id);
        hello.resize(hello.len() + usize::from(session_id), 0x13);
        hello.extend([0, 2 * ciphers.len() as u8]);
        hello.extend(ciphers.concat());
        hello
    };
    let (meaningless, aes, chacha20) = ([0xaa, 0xaa], [0x13, 0x01], [0x13, 0x03]);
    for session_id in [0, 32] {
        let of_phone = hello(session_id, &[meaningless, chacha20, aes]);
        assert!(prefers_chacha20(&of_phone));
        assert!(!prefers_chacha20(&of_phone[..of_phone.len() - 3]), "the first cipher is incomplete");
        assert!(!prefers_chacha20(&hello(session_id, &[meaningless, aes, chacha20])));
    }
}
