//! TLS listeners, as their clients and their operators see them. The authorities and certificates are made at run time.

mod browser;
pub(crate) mod certificates;
mod commands;
mod conforming;
mod documented;
mod kept;
mod openssl;
mod proxied;
mod records;
mod reloading;
mod verifying;
mod warnings;

use std::net::SocketAddr;
use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use janus_core::wire::v1::client as v1;
use janus_core::wire::websocket::client as websocket;
use janus_core::{Builder, Config, Janus, SlowConsumer, StartupError};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_tungstenite::tungstenite::Message;

use crate::support::{Client, DEADLINE, own_address, publish_frame, subscribe_frame, subscribers, until};
use certificates::{Authority, Files};

/// A server with a classic port and an HTTP port over TLS, and a plain classic port.
struct Server {
    janus: Janus,
    plain: SocketAddr,
    tls: SocketAddr,
    https: SocketAddr,
    authority: Authority,
    files: Files,
}

impl Server {
    async fn start(change: impl FnOnce(Config, &Files) -> Config) -> Self {
        Self::start_with(change, |builder| builder).await
    }

    async fn start_with(change: impl FnOnce(Config, &Files) -> Config, set: impl FnOnce(Builder) -> Builder) -> Self {
        let _ = env_logger::builder().is_test(true).try_init();
        let (authority, files) = (Authority::new(), Files::new());
        let config = files.config("server", &authority.server(&["localhost"]));
        let config = Config { drain_period: Duration::ZERO, ..change(config, &files) };
        let config = Config {
            listen: vec![own_address()],
            tls_listen: vec![own_address()],
            https_listen: vec![own_address()],
            ..config
        };
        let janus = set(Janus::builder().config(config)).start().await.unwrap();
        let [plain, tls, https] = janus.local_addrs()[..] else { panic!("three listeners") };
        Self { janus, plain, tls, https, authority, files }
    }

    async fn connect(&self, addr: SocketAddr) -> Stream {
        Stream::connect(&self.authority.connector(None), addr, "localhost").await.unwrap()
    }

    /// A classic client, after the greeting.
    async fn classic(&self) -> Stream {
        let mut stream = self.connect(self.tls).await;
        stream.frame().await;
        stream
    }

    async fn subscriber(&self, topic: &str) -> Stream {
        let mut stream = self.classic().await;
        stream.send(&subscribe_frame(topic)).await;
        assert_eq!(stream.frame().await, "ACK");
        stream
    }
}

/// A client over TLS.
struct Stream {
    io: TlsStream<TcpStream>,
    received: Vec<u8>,
}

impl Stream {
    async fn connect(connector: &TlsConnector, addr: SocketAddr, name: &str) -> std::io::Result<Self> {
        let stream = timeout(DEADLINE, TcpStream::connect(addr)).await.unwrap()?;
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let io = timeout(DEADLINE, connector.connect(name, stream)).await.expect("a handshake in time")?;
        Ok(Self { io, received: Vec::new() })
    }

    async fn send(&mut self, bytes: &[u8]) {
        timeout(DEADLINE, self.io.write_all(bytes)).await.unwrap().unwrap();
        self.io.flush().await.unwrap();
    }

    /// Reads up to `end`, which is left out.
    async fn up_to(&mut self, end: &[u8]) -> String {
        loop {
            if let Some(start) = self.received.windows(end.len()).position(|window| window == end) {
                let text = String::from_utf8_lossy(&self.received[..start]).into_owned();
                self.received.drain(..start + end.len());
                return text;
            }
            let read = timeout(DEADLINE, self.io.read_buf(&mut self.received)).await;
            let read = read.unwrap_or_else(|_| panic!("only {:?}", String::from_utf8_lossy(&self.received)));
            assert_ne!(read.unwrap(), 0, "the end after {:?}", String::from_utf8_lossy(&self.received));
        }
    }

    /// The next frame of the classic protocol.
    async fn frame(&mut self) -> String {
        self.up_to(b"\x01").await
    }

    /// Reads to the end. An end without `close_notify` is an error for this client.
    async fn read_to_the_end(&mut self) -> std::io::Result<Vec<u8>> {
        let mut bytes = std::mem::take(&mut self.received);
        timeout(DEADLINE, self.io.read_to_end(&mut bytes)).await.expect("an end")?;
        Ok(bytes)
    }
}

/// The address at the end of a log line about a TLS listener.
fn logged_address(line: &str) -> SocketAddr {
    line.trim_end().strip_suffix(" (TLS)").unwrap().rsplit(' ').next().unwrap().parse().unwrap()
}

#[tokio::test]
async fn messages_cross_between_tls_and_plain_clients() {
    let server = Server::start(|config, _| config).await;
    let mut subscriber = server.subscriber("news").await;
    let mut plain = Client::connect(server.plain).await;
    plain.subscribe("news").await;
    let mut publisher = server.classic().await;
    publisher.send(&publish_frame("news", "\"over TLS\"")).await;
    assert!(publisher.frame().await.contains("\"published\""));
    assert!(subscriber.frame().await.contains("over TLS"));
    assert!(plain.frame().await.contains("over TLS"));
    assert_eq!(server.janus.stats().tls_handshakes, 2);
    server.janus.shutdown().await;
}

#[tokio::test]
async fn a_reset_connection_gives_an_incomplete_record_back() {
    const RECORD: usize = 10_000;
    let server = Server::start(|config, _| config).await;
    let used = || server.janus.stats().memory_used;
    let mut client = server.classic().await;
    let before = used();
    let socket = client.io.get_mut().0;
    socket.write_all(&[23, 3, 3, 0x40, 0]).await.unwrap();
    socket.write_all(&[0; RECORD]).await.unwrap();
    until("the record is accounted for", || used() >= before + RECORD).await;
    socket2::SockRef::from(&*socket).set_linger(Some(Duration::ZERO)).unwrap();
    drop(client);
    until("the connection is closed", || server.janus.stats().connections == 0).await;
    until("nothing of the record is left", || used() < before + RECORD).await;
    server.janus.shutdown().await;
}

#[tokio::test]
async fn websockets_and_event_streams_are_served_over_https() {
    let server = Server::start(|config, _| config).await;
    let mut socket = server.connect(server.https).await;
    socket.send(&websocket::upgrade("localhost", "/ws", "dGhlIHNhbXBsZSBub25jZQ==")).await;
    assert!(socket.up_to(b"\r\n\r\n").await.starts_with("HTTP/1.1 101 "));
    socket.send(&websocket::text(&v1::hello(None, None), [1, 2, 3, 4])).await;
    assert!(socket.up_to(b"heartbeat_ms").await.contains("welcome"));

    let mut events = server.connect(server.https).await;
    events.send(b"GET /events?topic=news HTTP/1.1\r\nhost: localhost\r\n\r\n").await;
    assert!(events.up_to(b"\r\n\r\n").await.starts_with("HTTP/1.1 200 "));
    until("a subscriber", || subscribers(&server.janus, "news") == Some(1)).await;
    server.janus.publish("news", "to a stream").await.unwrap();
    assert!(events.up_to(b"to a stream").await.contains("data:"));
    server.janus.shutdown().await;
}

#[tokio::test]
async fn an_independent_websocket_client_subscribes_and_publishes_over_wss() {
    let server = Server::start(|config, _| Config { allow_publish: true, ..config }).await;
    let stream = server.connect(server.https).await.io;
    let (mut socket, _) = tokio_tungstenite::client_async("wss://localhost/ws", stream).await.unwrap();
    let frames = [
        v1::hello(None, None),
        v1::subscribe(Some(1), "news", None),
        v1::publish(Some(2), "news", "\"\"", "\"\"", "\"over wss\""),
    ];
    for frame in frames {
        socket.send(Message::text(frame)).await.unwrap();
    }
    let mut types = Vec::new();
    while types.len() < 4 {
        let frame = timeout(DEADLINE, socket.next()).await.expect("a frame in time").unwrap().unwrap();
        let frame: serde_json::Value = serde_json::from_str(frame.to_text().unwrap()).unwrap();
        types.push(frame["type"].as_str().unwrap().to_owned());
    }
    types.sort_unstable();
    assert_eq!(types, ["message", "published", "subscribed", "welcome"]);
    server.janus.shutdown().await;
}

#[tokio::test]
async fn http_is_negotiated_on_the_http_port_alone() {
    let server = Server::start(|config, _| config).await;
    let mut config = server.authority.client_config(None);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let connector = TlsConnector::from(std::sync::Arc::new(config));
    let https = Stream::connect(&connector, server.https, "localhost").await.unwrap();
    assert_eq!(https.io.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
    let classic = Stream::connect(&connector, server.tls, "localhost").await.unwrap();
    assert_eq!(classic.io.get_ref().1.alpn_protocol(), None);
    server.janus.shutdown().await;
}

#[tokio::test]
async fn a_client_without_tls_gets_an_alert_and_an_end() {
    let server = Server::start(|config, _| config).await;
    for addr in [server.tls, server.https] {
        let mut stream = TcpStream::connect(addr).await.unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
        let mut answer = Vec::new();
        timeout(DEADLINE, stream.read_to_end(&mut answer)).await.expect("an end").expect("a FIN");
        assert_eq!(answer.first(), Some(&21), "an alert: {answer:?}");
    }
    until("both are counted", || server.janus.stats().tls_handshakes_failed == 2).await;
    server.janus.shutdown().await;
}

#[tokio::test]
async fn a_half_done_handshake_is_cut_after_frame_timeout() {
    let time = Duration::from_millis(400);
    let server = Server::start(|config, _| Config { frame_timeout: time, ..config }).await;
    let begun = Instant::now();
    // Silence, and the first bytes of a record that never ends.
    for sent in [&[][..], &[22, 3, 1, 2, 0, 1]] {
        let mut stream = TcpStream::connect(server.tls).await.unwrap();
        stream.write_all(sent).await.unwrap();
        let end = timeout(DEADLINE, stream.read(&mut [0; 64])).await.expect("an end");
        assert!(matches!(end, Ok(0) | Err(_)), "{end:?}");
    }
    assert!(begun.elapsed() >= time * 2);
    until("both are counted", || server.janus.stats().tls_handshakes_failed == 2).await;
    assert_eq!(server.janus.stats().connections, 0);
    server.janus.shutdown().await;
}

#[tokio::test]
async fn silent_handshakes_make_room_for_a_client() {
    let config = |config, _: &Files| Config { max_handshakes: 8, frame_timeout: Duration::from_secs(8), ..config };
    let server = Server::start(config).await;
    let mut silent = Vec::new();
    for _ in 0..20 {
        silent.push(TcpStream::connect(server.tls).await.unwrap());
    }
    let begun = Instant::now();
    server.classic().await;
    assert!(begun.elapsed() < Duration::from_secs(8), "the client need not wait for frame_timeout");
    assert!(server.janus.stats().tls_handshakes_failed > 0);
    server.janus.shutdown().await;
}

#[cfg(feature = "fault-injection")]
#[tokio::test]
async fn a_crashed_handshake_thread_loses_one_handshake_and_no_client() {
    let server = Server::start(|config, _| Config { tls_handshake_threads: 1, ..config }).await;
    let mut subscriber = server.subscriber("news").await;
    server.janus.inject(janus_core::Fault::TlsHandshake(1));
    let lost = Stream::connect(&server.authority.connector(None), server.tls, "localhost").await;
    assert!(lost.is_err(), "the connection closes");
    let mut next = server.classic().await;
    next.send(&publish_frame("news", "\"after the crash\"")).await;
    assert!(subscriber.frame().await.contains("after the crash"));
    let tree = server.janus.tree();
    assert_eq!(tree.find("tls 1").map(|thread| thread.restarts), Some(1));
    server.janus.shutdown().await;
}

#[tokio::test]
async fn a_full_server_says_so_over_tls() {
    let server = Server::start(|config, _| Config { max_connections: 1, ..config }).await;
    let _subscriber = server.subscriber("news").await;
    let mut second = server.connect(server.tls).await;
    second.send(&subscribe_frame("news")).await;
    let bytes = second.read_to_the_end().await.unwrap();
    assert!(String::from_utf8_lossy(&bytes).contains("too_many_connections"), "{}", String::from_utf8_lossy(&bytes));
    server.janus.shutdown().await;
}

#[tokio::test]
async fn a_slow_tls_subscriber_meets_the_policy_of_its_namespace() {
    let policy = |config: Config, _: &Files| {
        let mut config = Config { max_queue_bytes: 64 * 1024, send_buffer_bytes: 4 * 1024, ..config };
        config.default_namespace.slow_consumer = SlowConsumer::Disconnect;
        config
    };
    let server = Server::start(policy).await;
    let mut slow = server.subscriber("news").await;
    let message = "x".repeat(16 * 1024);
    while server.janus.stats().slow_consumers_queue_full == 0 {
        server.janus.publish("news", &message).await.unwrap();
    }
    // The end has no `close_notify`, because the rest of the messages is missing.
    let _ = slow.read_to_the_end().await.unwrap_err();
    server.janus.shutdown().await;
}

#[tokio::test]
async fn a_drain_ends_with_every_message_and_close_notify() {
    let server = Server::start(|config, _| config).await;
    let mut subscriber = server.subscriber("news").await;
    for number in 0..100 {
        server.janus.publish("news", &number).await.unwrap();
    }
    server.janus.shutdown().await;
    let bytes = subscriber.read_to_the_end().await.expect("close_notify comes before the FIN");
    assert!(bytes.iter().filter(|&&byte| byte == 1).count() >= 100);
}

#[tokio::test]
async fn a_client_that_goes_without_close_notify_leaves_its_topics() {
    let server = Server::start(|config, _| config).await;
    let subscriber = server.subscriber("news").await;
    until("a subscriber", || subscribers(&server.janus, "news") == Some(1)).await;
    let (mut socket, _) = subscriber.io.into_inner();
    socket.shutdown().await.unwrap();
    until("no subscriber", || subscribers(&server.janus, "news") != Some(1)).await;
    server.janus.shutdown().await;
}

#[tokio::test]
async fn a_start_with_a_bad_certificate_binds_no_port() {
    let (authority, files) = (Authority::new(), Files::new());
    let config = files.config("server", &authority.server(&["localhost"]));
    files.write("server.key", &authority.server(&["localhost"]).key.serialize_pem());
    let addr = std::net::TcpListener::bind(own_address()).unwrap().local_addr().unwrap();
    let config = Config { listen: vec![addr], tls_listen: vec![own_address()], ..config };
    let error = Janus::builder().config(config).start().await.unwrap_err();
    assert!(matches!(error, StartupError::Certificate(_)), "{error}");
    assert!(error.to_string().contains("is not the key of the first certificate in"), "{error}");
    std::net::TcpListener::bind(addr).expect("the port is free");
}
