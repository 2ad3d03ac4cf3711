//! Records of clients that have no end, or no data.

use std::time::Duration;

use futures_util::future::join_all;
use janus_core::Config;
use tokio::io::AsyncWriteExt as _;
use tokio_rustls::rustls::version::{TLS12, TLS13};

use super::{Server, Stream};
use crate::support::{DEADLINE, subscribe_frame, until};

/// The beginning of a record of 16 KiB.
const HEADER: [u8; 5] = [23, 3, 3, 0x40, 0];

impl Stream {
    /// Sends bytes past TLS.
    async fn send_below(&mut self, bytes: &[u8]) {
        tokio::time::timeout(DEADLINE, self.io.get_mut().0.write_all(bytes)).await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn a_record_left_unfinished_has_the_deadline_of_a_frame() {
    let time = Duration::from_millis(400);
    let server = Server::start(|config, _| Config { frame_timeout: time, ..config }).await;
    let long = [&HEADER[..], &[0; 9_000]].concat();
    let cases = [&TLS12, &TLS13].into_iter().flat_map(|version| [(version, 1), (version, 5), (version, long.len())]);
    join_all(cases.map(async |(version, length)| {
        let connector = server.authority.connector_of(version);
        let mut stream = Stream::connect(&connector, server.tls, "localhost").await.unwrap();
        stream.frame().await;
        stream.send_below(&long[..length]).await;
        let words = stream.frame().await;
        assert!(words.contains("\"frame_timeout\""), "{version:?}, {length} bytes: {words}");
        assert_eq!(stream.read_to_the_end().await.expect("close_notify"), b"", "{version:?}, {length} bytes");
    }))
    .await;
    server.janus.shutdown().await;
}

#[tokio::test]
async fn a_record_completed_in_time_leaves_no_deadline_behind() {
    let (time, beat) = (Duration::from_secs(2), Duration::from_secs(1));
    let config = |config, _: &_| Config { frame_timeout: time, heartbeat_interval: beat, ..config };
    let server = Server::start(config).await;
    let before = server.janus.stats().memory_used;
    // A client is sent PINGs after its first message.
    let mut stream = server.subscriber("news").await;
    server.janus.publish("news", "first").await.unwrap();
    assert!(stream.frame().await.contains("first"));
    // A change of keys has no data, so no frame completes with the record.
    let (_, connection) = stream.io.get_mut();
    connection.refresh_traffic_keys().unwrap();
    let mut record = Vec::new();
    connection.write_tls(&mut record).unwrap();
    let (first, second) = record.split_at(record.len() / 2);
    let idle = server.janus.stats().memory_used;
    assert!(idle > before);
    stream.send_below(first).await;
    until("the first part is kept", || server.janus.stats().memory_used > idle).await;
    stream.send_below(second).await;
    until("nothing is kept", || server.janus.stats().memory_used == idle).await;
    let begun = tokio::time::Instant::now();
    while begun.elapsed() < time * 2 {
        assert_eq!(stream.frame().await, "PING");
    }
    stream.send(&subscribe_frame("more")).await;
    while stream.frame().await != "ACK" {}
    server.janus.shutdown().await;
}

#[tokio::test]
async fn a_connection_reset_inside_a_record_gives_its_memory_back() {
    let server = Server::start(|config, _| config).await;
    let before = server.janus.stats().memory_used;
    let mut stream = server.classic().await;
    let idle = server.janus.stats().memory_used;
    assert!(idle - before > 2_500, "a connection and a TLS session: {} bytes", idle - before);
    stream.send_below(&[&HEADER[..], &[0; 9_000]].concat()).await;
    until("the record is kept", || server.janus.stats().memory_used >= idle + 9_000).await;
    socket2::SockRef::from(stream.io.get_ref().0).set_linger(Some(Duration::ZERO)).unwrap();
    drop(stream);
    until("the connection has ended", || server.janus.stats().connections == 0).await;
    // The session of the client stays for a moment, in case the client comes back.
    let detached = server.janus.stats().detached_sessions;
    let after = server.janus.stats().memory_used;
    assert!(after <= before + detached * 400, "{after} bytes, {before} before, {detached} sessions");
    server.janus.shutdown().await;
}
