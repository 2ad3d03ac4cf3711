//! The limits of an address: connections at once and per second.

use std::sync::Arc;

use janus_core::wire::classic::Classic;
use janus_core::wire::{Codec, HttpError};
use janus_core::{Config, Incoming, PassedOn, ServeError};

use super::headers::version_1;
use super::{OTHER, PROXY, Raw, Server, network, request};
use crate::support::{Client, Close, until};

const CLIENT: [u8; 4] = [127, 0, 0, 4];

/// The limits hold on loopback, too.
fn limited(connections: usize, rate: usize) -> Config {
    Config {
        max_connections_per_ip: connections,
        connect_rate_per_ip: rate,
        unlimited_networks: Vec::new(),
        ..Config::default()
    }
}

#[tokio::test]
async fn an_address_with_too_many_connections_is_told_and_others_are_served() {
    let server = Server::start(limited(2, 0)).await;
    let mut clients =
        [Client::connect_from(CLIENT, server.classic).await, Client::connect_from(CLIENT, server.classic).await];
    let mut third = Raw::connect(CLIENT, server.classic).await;
    let error = third.error().await;
    assert_eq!(error["code"], "too_many_connections");
    assert!(error["message"].as_str().unwrap().contains("from this address"), "{error}");
    assert_eq!(third.end().await, (String::new(), Close::Fin));
    let _other = Client::connect_from(OTHER, server.classic).await;
    let stats = server.janus.stats();
    assert_eq!((stats.connections_refused, stats.connections_refused_for_address), (1, 1));
    let [first, second] = &mut clients;
    second.subscribe("news").await;
    first.half_close().await;
    assert_eq!(first.close().await, Close::Fin);
    until("there is room", || server.janus.stats().connections == 2).await;
    let _third = Client::connect_from(CLIENT, server.classic).await;
}

#[tokio::test]
async fn over_http_the_refusal_is_status_429_with_a_time_to_wait() {
    let pass_on = |_: PassedOn| panic!("nothing is passed on");
    let server = Server::start_with(limited(1, 0), |builder| builder.pass_on(pass_on)).await;
    let mut first = Raw::send(CLIENT, server.http, request("/events?topic=news", "")).await;
    first.up_to("subscribed").await;
    for path in ["/ws", "/events?topic=news", "/api/topics"] {
        let (answer, end) = Raw::send(CLIENT, server.http, request(path, "")).await.end().await;
        assert!(answer.starts_with("HTTP/1.1 429 Too Many Requests\r\n"), "{path}: {answer}");
        assert!(answer.contains("\r\nretry-after: ") && answer.contains("\"too_many_connections\""), "{answer}");
        assert_eq!(end, Close::Fin);
    }
    // A browser's `EventSource` would take the status for final.
    let asked = request("/events?topic=news", "accept: text/event-stream\r\n");
    let (answer, _) = Raw::send(CLIENT, server.http, asked).await.end().await;
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("event: bye"), "{answer}");
    let mut other = Raw::send(OTHER, server.http, request("/events?topic=news", "")).await;
    other.up_to("subscribed").await;
}

#[tokio::test]
async fn an_address_that_connects_too_often_is_told_and_then_reset() {
    let server = Server::start(limited(0, 1)).await;
    let mut served = Vec::new();
    for _ in 0..10 {
        served.push(Client::connect_from(CLIENT, server.classic).await.reset_on_drop());
    }
    // All of them before the first end is read: a client that is served after all has its end much later, and meanwhile
    // there would be room for further clients.
    let mut arrivals = Vec::new();
    for _ in 0..40 {
        arrivals.push(Raw::try_connect(CLIENT, server.classic).await);
    }
    let mut fates = [0, 0, 0];
    for arrival in arrivals {
        let (words, end) = match arrival {
            Ok(arrival) => arrival.end().await,
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => (String::new(), Close::Reset),
            Err(error) => panic!("{error}"),
        };
        match (words.contains("too_many_connections"), words.contains("\"token\""), end) {
            (false, true, _) => fates[0] += 1,
            (true, _, Close::Fin) => fates[1] += 1,
            (false, false, Close::Reset) => fates[2] += 1,
            (_, _, end) => panic!("{words:?}, {end:?}"),
        }
    }
    // A second or two may have passed.
    assert!(fates[1] >= 10 && fates[2] >= 10, "{fates:?}");
    let _other = Client::connect_from(OTHER, server.classic).await;
}

#[tokio::test]
async fn by_default_loopback_has_no_limits() {
    let unlimited_networks = Config::default().unlimited_networks;
    let server = Server::start(Config { unlimited_networks, ..limited(1, 1) }).await;
    for _ in 0..30 {
        Client::connect_from(CLIENT, server.classic).await.reset_on_drop().subscribe("news").await;
    }
}

#[tokio::test]
async fn behind_a_load_balancer_the_limit_is_that_of_the_client() {
    let server = Server::start(Config { proxy_protocol: network(PROXY), ..limited(1, 0) }).await;
    let mut clients = Vec::new();
    for client in ["203.0.113.1:1", "203.0.113.2:1", "[2001:db8::1]:1", "[2001:db8:0:1::1]:1"] {
        let mut raw = Raw::send(PROXY, server.classic, version_1(client)).await;
        assert!(raw.frame().await.contains("\"token\""));
        clients.push(raw);
    }
    // Another address of the same /64 network.
    for client in ["203.0.113.1:2", "[2001:db8::2]:1"] {
        let mut refused = Raw::send(PROXY, server.classic, version_1(client)).await;
        assert_eq!(refused.error().await["code"], "too_many_connections");
    }
}

#[tokio::test]
async fn behind_a_trusted_proxy_the_limit_is_that_of_the_client() {
    let server = Server::start(Config { trusted_proxies: network(PROXY), ..limited(1, 0) }).await;
    let asked = |client: &str| request("/events?topic=news", &format!("x-forwarded-for: 203.0.113.9, {client}\r\n"));
    let mut clients = Vec::new();
    for client in ["203.0.113.1", "203.0.113.2", "2001:db8::1"] {
        let mut raw = Raw::send(PROXY, server.http, asked(client)).await;
        raw.up_to("subscribed").await;
        clients.push(raw);
    }
    for client in ["203.0.113.1:99", "[2001:db8::2]"] {
        let (answer, _) = Raw::send(PROXY, server.http, asked(client)).await.end().await;
        assert!(answer.starts_with("HTTP/1.1 429 "), "{answer}");
    }
    let websocket = request("/ws", "x-forwarded-for: 203.0.113.1\r\n");
    let (answer, _) = Raw::send(PROXY, server.http, websocket).await.end().await;
    assert!(answer.starts_with("HTTP/1.1 429 "), "before the upgrade: {answer}");
    drop(clients.remove(0));
    until("there is room", || server.peers().len() == 2).await;
    Raw::send(PROXY, server.http, asked("203.0.113.1")).await.up_to("subscribed").await;
}

#[tokio::test]
async fn streams_of_a_program_count_by_the_address_given() {
    let server = Server::start(limited(1, 0)).await;
    let codec: Arc<dyn Codec> = Arc::new(Classic);
    let serve = |peer: &str| {
        let (mine, yours) = tokio::io::duplex(1_024);
        let incoming = Incoming::stream_from(yours, peer.parse::<std::net::SocketAddr>().unwrap().into());
        server.janus.serve(incoming, &codec, None).map(|()| mine)
    };
    let _first = serve("203.0.113.9:1").unwrap();
    let error = serve("203.0.113.9:2").unwrap_err();
    assert!(matches!(error, ServeError::Address { .. }), "{error:?}");
    let error = HttpError::from(&error.refusal());
    assert_eq!((error.status, error.code), (429, "too_many_connections"));
    let _other = serve("203.0.113.10:1").unwrap();
}
