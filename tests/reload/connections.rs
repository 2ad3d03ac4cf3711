//! Settings of connections: addresses, TLS, limits, rates, heartbeats, and the options of sockets.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use janus_core::hooks::{ConnectRequest, Denied, Hooks, Identity};
use janus_core::wire::ForwardedHeader;
use janus_core::wire::classic::client::unsubscribe;
use janus_core::wire::websocket::client as websocket;
use janus_core::{ClientCertificates, Config, IpNet, Janus, TlsVersion, UserLimit};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::version::TLS12;

use super::Live;
use crate::http::Http;
use crate::support::{Client, own_address, publish, subscribe_frame, until};
use crate::tls::certificates::{Authority, Files};

const DAY: Duration = Duration::from_secs(86_400);
const MOMENT: Duration = Duration::from_millis(10);

fn loopback() -> Vec<IpNet> {
    vec!["127.0.0.0/8".parse().unwrap()]
}

pub(super) async fn accept_rate() {
    let mut live = Live::start(|_| {}).await;
    live.client().await;
    live.reload("accept_rate", |config| config.accept_rate = 1);
    let begun = Instant::now();
    for _ in 0..3 {
        live.client().await;
    }
    assert!(begun.elapsed() > Duration::from_millis(1_500), "{:?}", begun.elapsed());
}

const PROXY_HEADER: &str = "PROXY TCP4 203.0.113.9 127.0.0.1 1 2\r\n";

pub(super) async fn max_handshakes() {
    let mut live = Live::start(|config| {
        config.proxy_protocol = loopback();
        config.frame_timeout = Duration::from_secs(4);
    })
    .await;
    let mut silent = Client::connect_silently(live.classic).await;
    live.reload("max_handshakes", |config| config.max_handshakes = 1);
    let mut next = Client::connect_silently(live.classic).await;
    next.send(PROXY_HEADER).await;
    next.greeted().await;
    // The only place was taken: the next client has come in its place.
    assert!(timeout(Duration::from_millis(100), silent.next()).await.is_ok());
}

pub(super) async fn proxy_protocol() {
    let mut live = Live::start(|_| {}).await;
    live.client().await;
    live.reload("proxy_protocol", |config| config.proxy_protocol = loopback());
    let mut client = Client::connect_silently(live.classic).await;
    client.send(PROXY_HEADER).await;
    let _client = client.greeted().await;
    let peers: Vec<String> = live.janus.connections(0, 10).iter().map(|client| client.peer.to_string()).collect();
    assert!(peers.iter().any(|peer| peer.starts_with("203.0.113.9:")), "{peers:?}");
}

/// Opens a stream through a proxy that sends this header, and returns the address of the client.
async fn forwarded(live: &Live, header: &str) -> String {
    let mut client = Http::events(live.http, "topic=news", &format!("{header}\r\n")).await;
    client.id().await;
    live.janus.connections(0, 10).last().unwrap().peer.to_string()
}

pub(super) async fn trusted_proxies() {
    let mut live = Live::start(|_| {}).await;
    assert!(forwarded(&live, "X-Forwarded-For: 203.0.113.9").await.starts_with("127."));
    live.reload("trusted_proxies", |config| config.trusted_proxies = loopback());
    assert!(forwarded(&live, "X-Forwarded-For: 203.0.113.9").await.starts_with("203.0.113.9"));
}

pub(super) async fn forwarded_header() {
    let mut live = Live::start(|config| config.trusted_proxies = loopback()).await;
    live.reload("forwarded_header", |config| config.forwarded_header = ForwardedHeader::Forwarded);
    assert!(forwarded(&live, "Forwarded: for=203.0.113.9").await.starts_with("203.0.113.9"));
}

pub(super) async fn max_connections_per_ip() {
    let mut live = Live::start(|config| config.unlimited_networks = Vec::new()).await;
    let _first = live.client().await;
    live.reload("max_connections_per_ip", |config| config.max_connections_per_ip = 1);
    assert_eq!(live.refusal().await, "too_many_connections");
}

pub(super) async fn connect_rate_per_ip() {
    let mut live = Live::start(|config| {
        config.unlimited_networks = Vec::new();
        config.connect_rate_per_ip = 0;
    })
    .await;
    live.reload("connect_rate_per_ip", |config| config.connect_rate_per_ip = 1);
    let mut clients = Vec::new();
    for _ in 0..30 {
        clients.push(tokio::net::TcpStream::connect(live.classic).await);
    }
    until("clients to be refused", || live.janus.stats().connections_refused_for_address > 0).await;
}

pub(super) async fn unlimited_networks() {
    let mut live = Live::start(|config| config.max_connections_per_ip = 1).await;
    let _unlimited = [live.client().await, live.client().await];
    live.reload("unlimited_networks", |config| config.unlimited_networks = Vec::new());
    let _only = live.client().await;
    assert_eq!(live.refusal().await, "too_many_connections");
}

/// An instance with TLS, and the files of its certificates.
struct Encrypted {
    live: Live,
    files: Files,
    authority: Authority,
}

impl Encrypted {
    async fn start(change: impl FnOnce(&mut Config, &Files, &Authority)) -> Self {
        let _ = env_logger::builder().is_test(true).try_init();
        let (files, authority) = (Files::new(), Authority::new());
        let mut config = files.config("server", &authority.server(&["localhost"]));
        (config.listen, config.tls_listen, config.drain_period) = (Vec::new(), vec![own_address()], Duration::ZERO);
        change(&mut config, &files, &authority);
        let janus = Janus::builder().config(config.clone()).start().await.unwrap();
        let classic = janus.local_addrs()[0];
        Self { live: Live { janus, classic, http: classic, config }, files, authority }
    }

    async fn greets(&self, connector: &TlsConnector) -> bool {
        let client = Client::connect_silently(self.live.classic).await;
        match client.over(connector).await {
            // With TLS 1.3 a client hears of a refusal after its handshake.
            Ok(mut client) => client.next().await.is_ok(),
            Err(_) => false,
        }
    }
}

pub(super) async fn tls_pair() {
    let mut server = Encrypted::start(|_, _, _| {}).await;
    let new = Authority::new();
    assert!(server.greets(&server.authority.connector(None)).await && !server.greets(&new.connector(None)).await);
    let (certificate, key) = server.files.write_pair("new", &new.server(&["localhost"]));
    server.live.reload("tls_key", |config| (config.tls_cert, config.tls_key) = (vec![certificate], vec![key]));
    assert!(server.greets(&new.connector(None)).await);
}

pub(super) async fn tls_client_ca() {
    let mut server = Encrypted::start(|config, files, authority| {
        config.tls_client = ClientCertificates::Required;
        config.tls_client_ca = Some(files.write("ca.pem", &authority.pem()));
    })
    .await;
    let (old, other) = (server.authority.client(), Authority::new());
    let new = other.client();
    assert!(server.greets(&server.authority.connector(Some(&old))).await);
    let file = server.files.write("other.pem", &other.pem());
    server.live.reload("tls_client_ca", |config| config.tls_client_ca = Some(file));
    assert!(!server.greets(&server.authority.connector(Some(&old))).await);
    assert!(server.greets(&server.authority.connector(Some(&new))).await);
}

pub(super) async fn tls_client() {
    let mut server = Encrypted::start(|config, files, authority| {
        config.tls_client_ca = Some(files.write("ca.pem", &authority.pem()));
    })
    .await;
    assert!(server.greets(&server.authority.connector(None)).await);
    server.live.reload("tls_client", |config| config.tls_client = ClientCertificates::Required);
    assert!(!server.greets(&server.authority.connector(None)).await);
}

pub(super) async fn tls_min_version() {
    let mut server = Encrypted::start(|_, _, _| {}).await;
    assert!(server.greets(&server.authority.connector_of(&TLS12)).await);
    server.live.reload("tls_min_version", |config| config.tls_min_version = TlsVersion::V1_3);
    assert!(!server.greets(&server.authority.connector_of(&TLS12)).await);
    assert!(server.greets(&server.authority.connector(None)).await);
}

/// The head of the answer to a page that asks for a stream.
async fn head(addr: SocketAddr, headers: &str) -> String {
    let request = format!("GET /events?topic=news HTTP/1.1\r\nHost: {addr}\r\n{headers}\r\n");
    Http::send(addr, request).await.up_to("\r\n\r\n").await
}

pub(super) async fn allowed_origins() {
    let mut live = Live::start(|_| {}).await;
    let origin = "Origin: https://app.example\r\n";
    assert!(head(live.http, origin).await.starts_with("HTTP/1.1 403"));
    live.reload("allowed_origins", |config| config.allowed_origins = vec!["https://app.example".to_owned()]);
    assert!(head(live.http, origin).await.starts_with("HTTP/1.1 200"));
}

pub(super) async fn sse_retry() {
    let mut live = Live::start(|_| {}).await;
    live.reload("sse_retry", |config| config.sse_retry = Duration::from_secs(1_000));
    let mut stream = Http::events(live.http, "topic=news", "").await;
    let block = stream.up_to("\n\n").await;
    let retry = block.lines().find_map(|line| line.strip_prefix("retry: ")).unwrap();
    assert!(retry.parse::<u64>().unwrap() >= 750_000, "{block}");
}

pub(super) async fn max_connections() {
    let mut live = Live::start(|_| {}).await;
    let mut first = live.subscriber("news").await;
    let mut second = live.subscriber("news").await;
    live.reload("max_connections", |config| config.max_connections = 1);
    let mut third = live.client().await;
    third.send(subscribe_frame("news")).await;
    assert_eq!(third.error_code().await, "too_many_connections");
    publish(live.classic, "news", "1").await;
    assert!(first.frame().await.contains("\"data\":1") && second.frame().await.contains("\"data\":1"), "both stay");
}

pub(super) async fn reserved_connections() {
    let mut live = Live::start(|config| config.max_connections = 1).await;
    let _placed = live.subscriber("news").await;
    live.reload("reserved_connections", |config| config.reserved_connections = 16);
    let mut guests = Vec::new();
    for _ in 0..20 {
        guests.push(live.client().await);
    }
    guests[0].next().await.ok();
    guests[0].close().await;
}

pub(super) async fn max_refusals() {
    let mut live = Live::start(|config| {
        config.unlimited_networks = Vec::new();
        config.max_connections_per_ip = 1;
    })
    .await;
    let _first = live.client().await;
    assert_eq!(live.refusal().await, "too_many_connections");
    live.reload("max_refusals", |config| config.max_refusals = 0);
    // A refusal without a place is closed at once.
    let mut refused = Client::connect_silently(live.classic).await;
    while refused.next().await.is_ok() {}
    until("no refusal to stay", || live.janus.connections(0, 10).len() == 1).await;
}

pub(super) async fn max_frame_bytes() {
    let mut live = Live::start(|_| {}).await;
    let mut client = live.subscriber("news").await;
    live.reload("max_frame_bytes", |config| config.max_frame_bytes = 64);
    client.send(subscribe_frame(&"x".repeat(100))).await;
    assert_eq!(client.error_code().await, "frame_too_large");
}

pub(super) async fn frame_timeout() {
    let mut live = Live::start(|config| config.frame_timeout = DAY).await;
    let mut client = live.subscriber("news").await;
    live.reload("frame_timeout", |config| config.frame_timeout = MOMENT);
    client.send("{").await;
    assert_eq!(client.error_code().await, "frame_timeout");
}

pub(super) async fn heartbeat_interval() {
    let mut live = Live::start(|config| config.heartbeat_interval = DAY).await;
    live.reload("heartbeat_interval", |config| config.heartbeat_interval = Duration::from_secs(1));
    let mut client = live.subscriber("news").await;
    publish(live.classic, "news", "1").await;
    client.frame().await;
    assert_eq!(client.frame().await, "PING");
}

pub(super) async fn pong_timeout() {
    let mut live = Live::start(|config| {
        (config.heartbeat_interval, config.pong_timeout) = (Duration::from_secs(1), DAY);
    })
    .await;
    let mut client = Http::send(
        live.http,
        format!(
            "GET /ws HTTP/1.1\r\nHost: {}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: janus.v1.json\r\n\r\n",
            live.http
        ),
    )
    .await;
    client.up_to("\r\n\r\n").await;
    client.write(&websocket::text(r#"{"type":"hello"}"#, [1, 2, 3, 4])).await;
    until("the client to be served", || live.janus.stats().sessions == 1).await;
    live.reload("pong_timeout", |config| config.pong_timeout = Duration::from_millis(100));
    until("the end of a client that does not answer", || live.janus.stats().pings_unanswered == 1).await;
}

pub(super) async fn tcp_keepalive() {
    let mut live = Live::start(|_| {}).await;
    live.reload("tcp_keepalive", |config| config.tcp_keepalive = Duration::from_secs(20_000));
    let client = live.client().await;
    // The server's end of the connection, in the words of the kernel: its timer of kind 2 is that of keep-alive.
    let own = format!(":{:04X} ", live.classic.port());
    let remote = format!(":{:04X} ", client.local_addr().port());
    until("a timer of more than four hours", || {
        let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
        let row = table
            .lines()
            .find(|line| line.contains(&own) && line.contains(&remote) && line.find(&own) < line.find(&remote));
        let timer = row.and_then(|row| row.split_whitespace().nth(5)).unwrap_or_default();
        let hundredths = timer.strip_prefix("02:").and_then(|when| u64::from_str_radix(when, 16).ok());
        hundredths.is_some_and(|hundredths| hundredths > 4 * 3_600 * 100)
    })
    .await;
}

pub(super) async fn tcp_user_timeout() {
    let mut live = Live::start(|config| {
        (config.tcp_user_timeout, config.write_timeout, config.stall_timeout) = (DAY, DAY, DAY);
    })
    .await;
    live.reload("tcp_user_timeout", |config| config.tcp_user_timeout = Duration::from_millis(200));
    let _client = live.sluggish("news").await;
    live.flood("news", 90).await;
    until("the kernel to end the connection", || live.janus.stats().connections == 0).await;
}

pub(super) async fn send_buffer_bytes() {
    let mut live = Live::start(|config| {
        (config.send_buffer_bytes, config.write_timeout) = (2_048, DAY);
    })
    .await;
    live.reload("send_buffer_bytes", |config| config.send_buffer_bytes = 1 << 20);
    let _client = live.sluggish("news").await;
    live.flood("news", 12).await;
    until("the kernel to hold everything", || live.janus.slow_clients(1).is_empty()).await;
}

pub(super) async fn client_bytes_rate() {
    let mut live = Live::start(|config| {
        (config.max_frame_bytes, config.rate_patience) = (1_024, MOMENT);
    })
    .await;
    let mut client = live.client().await;
    live.reload("client_bytes_rate", |config| config.client_bytes_rate = 1_024);
    client.send(unsubscribe("a").repeat(1_000)).await;
    while !client.frame().await.contains("rate_limited") {}
}

pub(super) async fn client_subscribe_rate() {
    let mut live = Live::start(|config| {
        (config.client_subscribe_rate, config.max_topics_per_client, config.rate_patience) = (0, 1, MOMENT);
    })
    .await;
    let mut client = live.client().await;
    live.reload("client_subscribe_rate", |config| config.client_subscribe_rate = 1);
    client.send(unsubscribe("a").repeat(20)).await;
    while !client.frame().await.contains("rate_limited") {}
}

pub(super) async fn rate_patience() {
    let mut live = Live::start(|config| {
        (config.client_subscribe_rate, config.max_topics_per_client, config.rate_patience) = (1, 1, DAY);
    })
    .await;
    let mut client = live.client().await;
    live.reload("rate_patience", |config| config.rate_patience = MOMENT);
    client.send(unsubscribe("a").repeat(20)).await;
    while !client.frame().await.contains("rate_limited") {}
}

/// Everybody is the same user.
pub(super) struct Alice;

impl Hooks for Alice {
    async fn authenticate(&self, _: ConnectRequest) -> Result<Identity, Denied> {
        Ok(Identity::user("alice").may_subscribe(true))
    }
}

pub(super) async fn max_connections_per_user() {
    let mut live = Live::start_with(|_| {}, Alice).await;
    let _not_counted = live.subscriber("news").await;
    live.reload("max_connections_per_user", |config| config.max_connections_per_user = 1);
    let _only = live.client().await;
    assert_eq!(live.refusal().await, "too_many_connections");
}

pub(super) async fn user_limit() {
    let mut live = Live::start_with(|config| config.max_connections_per_user = 1, Alice).await;
    let mut first = live.subscriber("news").await;
    live.reload("user_limit", |config| config.user_limit = UserLimit::CloseOldest);
    let _second = live.client().await;
    assert_eq!(first.error_code().await, "connection_replaced");
}
