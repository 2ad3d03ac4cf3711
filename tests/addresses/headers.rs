//! The PROXY protocol on every plain port; `tests/tls/proxied.rs` has the TLS ports.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use janus_core::Config;
use janus_core::wire::classic::Classic;

use super::{HELLO, OTHER, PROXY, Raw, Server, network, request, websocket_text};
use crate::support::{Close, own_address, publish_frame, subscribe_frame, until};

const V4: &str = "203.0.113.9:4242";
const V6: &str = "[2001:db8::7]:4242";

pub(crate) fn version_1(client: &str) -> Vec<u8> {
    let client: SocketAddr = client.parse().unwrap();
    let (family, to) = if client.is_ipv4() { ("TCP4", "192.0.2.1") } else { ("TCP6", "2001:db8::1") };
    format!("PROXY {family} {} {to} {} 443\r\n", client.ip(), client.port()).into_bytes()
}

/// A header of version 2 with this command (1 for a client, 0 for the proxy itself) and these extensions.
pub(crate) fn version_2(command: u8, client: &str, extensions: &[u8]) -> Vec<u8> {
    let client: SocketAddr = client.parse().unwrap();
    let (family, addresses) = match client {
        SocketAddr::V4(client) => (0x11, [client.ip().octets(), [192, 0, 2, 1]].concat()),
        SocketAddr::V6(client) => (0x21, [client.ip().octets(), [1; 16]].concat()),
    };
    let rest = [&addresses[..], &client.port().to_be_bytes(), &443_u16.to_be_bytes(), extensions].concat();
    let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
    [b"\r\n\r\n\0\r\nQUIT\n", &[0x20 | command, family][..], &length, &rest].concat()
}

fn behind_a_proxy() -> Config {
    Config { proxy_protocol: network(PROXY), ..Config::default() }
}

#[tokio::test]
async fn a_header_of_either_version_names_the_client_on_every_port() {
    let own_port = own_address();
    let server = Server::start_with(behind_a_proxy(), |builder| builder.listen(own_port, Arc::new(Classic))).await;
    let third = server.janus.local_addrs()[2];
    for (header, client) in [
        (version_1(V4), V4),
        (version_1(V6), V6),
        (version_2(1, V4, &[]), V4),
        (version_2(1, V6, &[0x03, 0, 4, 1, 2, 3, 4]), V6),
    ] {
        for addr in [server.classic, third] {
            let mut classic = Raw::send(PROXY, addr, [&header[..], &subscribe_frame("news")].concat()).await;
            assert!(classic.frame().await.contains("\"token\""));
            assert_eq!(classic.frame().await, "ACK");
            assert_eq!(server.peers(), [client]);
            drop(classic);
            until("the client is gone", || server.peers().is_empty()).await;
        }
        let hello = [header.clone(), request("/ws", "").into(), websocket_text(HELLO)].concat();
        let mut websocket = Raw::send(PROXY, server.http, hello).await;
        websocket.up_to("\"welcome\"").await;
        let mut events =
            Raw::send(PROXY, server.http, [header, request("/events?topic=news", "").into()].concat()).await;
        events.up_to("subscribed").await;
        assert_eq!(server.peers(), [client, client]);
        drop((websocket, events));
        until("the clients are gone", || server.peers().is_empty()).await;
    }
    assert_eq!(server.janus.stats().proxy_headers_refused, 0);
}

#[tokio::test]
async fn a_header_may_arrive_byte_by_byte() {
    let server = Server::start(behind_a_proxy()).await;
    for header in [version_1(V4), version_2(1, V4, &[])] {
        let mut client = Raw::connect(PROXY, server.classic).await;
        for byte in [&header[..], &subscribe_frame("news")].concat() {
            client.write([byte]).await;
            tokio::task::yield_now().await;
        }
        assert!(client.frame().await.contains("\"token\""));
        assert_eq!(client.frame().await, "ACK");
        assert_eq!(server.peers(), [V4]);
        drop(client);
        until("the client is gone", || server.peers().is_empty()).await;
    }
}

#[tokio::test]
async fn a_client_is_local_only_if_its_own_address_is() {
    let server = Server::start(behind_a_proxy()).await;
    let unspecified = [&version_2(1, V4, &[])[..13], &[0, 0, 0]].concat();
    for (header, is_local, own) in [
        (version_2(0, V4, &[]), true, false),
        (b"PROXY UNKNOWN\r\n".to_vec(), false, false),
        (unspecified, false, false),
        (version_1(V4), false, true),
        (version_1("127.0.0.9:4242"), true, true),
        (version_1("[::1]:4242"), true, true),
    ] {
        let mut client = Raw::send(PROXY, server.classic, &header).await;
        client.frame().await;
        let shown = server.peers();
        let is_own = !shown[0].starts_with("127.0.0.2:");
        assert_eq!((shown.len(), is_own), (1, own), "{shown:?}");
        client.write(publish_frame("news", "1")).await;
        let answer = client.frame().await;
        let expected = if is_local { "\"published\"" } else { "\"publish_not_allowed\"" };
        assert!(answer.contains(expected), "{header:?}: {answer}");
        drop(client);
        until("the client is gone", || server.peers().is_empty()).await;
    }
}

#[tokio::test]
async fn a_proxy_without_a_header_is_told_what_is_missing() {
    let server = Server::start(behind_a_proxy()).await;
    let mut classic = Raw::send(PROXY, server.classic, subscribe_frame("news")).await;
    let error = classic.error().await;
    assert_eq!(error["code"], "bad_frame");
    assert!(error["message"].as_str().unwrap().contains("must begin with a PROXY header"), "{error}");
    assert_eq!(classic.end().await, (String::new(), Close::Fin));
    let (answer, end) = Raw::send(PROXY, server.http, request("/ws", "")).await.end().await;
    assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains("must begin with a PROXY header"), "{answer}");
    assert_eq!(end, Close::Fin);
    let too_long = version_2(1, V4, &[0; 600]);
    for bad in [&b"PROXY TCP4 nowhere\r\n\r\n"[..], b"PROXY TCP4 1.2.3.4 5.6.7.8 1 x\r\n", &too_long] {
        let (answer, _) = Raw::send(PROXY, server.http, bad).await.end().await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    }
    assert_eq!(server.janus.stats().proxy_headers_refused, 5);
    // Many load balancers look at a port in this way.
    drop(Raw::connect(PROXY, server.classic).await);
    let mut client = Raw::send(PROXY, server.classic, version_1(V4)).await;
    client.frame().await;
    assert_eq!(server.janus.stats().proxy_headers_refused, 5);
}

#[tokio::test]
async fn a_header_from_another_address_is_refused_with_the_reason() {
    let server = Server::start(behind_a_proxy()).await;
    for header in [version_1("127.0.0.1:1"), version_2(1, "127.0.0.1:1", &[])] {
        let mut classic = Raw::send(OTHER, server.classic, [&header[..], &subscribe_frame("news")].concat()).await;
        classic.frame().await;
        let error = classic.error().await;
        assert_eq!(error["code"], "bad_frame", "{error}");
        assert!(error["message"].as_str().unwrap().contains("networks in proxy_protocol"), "{error}");
        classic.end().await;
        let http = Raw::send(OTHER, server.http, [&header[..], request("/ws", "").as_bytes()].concat()).await;
        let (answer, _) = http.end().await;
        assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains("networks in proxy_protocol"), "{answer}");
    }
    assert!(server.peers().is_empty());
}

#[tokio::test]
async fn half_a_header_is_cut_after_frame_timeout() {
    let config = Config { frame_timeout: Duration::from_millis(100), ..behind_a_proxy() };
    let server = Server::start(config).await;
    for part in [&b""[..], b"PROXY TCP4 203.0.113.9", &version_2(1, V4, &[])[..20]] {
        let (words, _) = Raw::send(PROXY, server.http, part).await.end().await;
        assert_eq!(words, "");
    }
    assert_eq!(server.janus.stats().proxy_headers_refused, 3);
}

#[tokio::test]
async fn a_flood_of_half_headers_makes_room_for_whole_ones() {
    let proxy_protocol = [network(PROXY), network(OTHER)].concat();
    let frame_timeout = Duration::from_secs(8);
    let config = Config { proxy_protocol, frame_timeout, max_handshakes: 16, ..Config::default() };
    let server = Server::start(config).await;
    let mut flood = Vec::new();
    for _ in 0..40 {
        flood.push(Raw::send(PROXY, server.classic, "PROXY TCP4 ").await);
    }
    let mut other = Raw::send(OTHER, server.classic, version_1(V4)).await;
    other.frame().await;
    assert_eq!(server.peers(), [V4]);
    let cut = server.janus.stats().proxy_headers_refused;
    assert!((25..=40).contains(&cut), "{cut} are cut, the oldest first");
    assert!(flood.pop().unwrap().stream.try_read(&mut [0]).is_err(), "the last one still waits");
}
