//! `X-Forwarded-For` and `Forwarded` on the HTTP port.

use std::sync::{Arc, Mutex};

use janus_core::Config;
use janus_core::hooks::{Client, ConnectRequest, Denied, Hooks, Identity};
use janus_core::wire::ForwardedHeader;
use serde_json::json;

use super::{HELLO, OTHER, PROXY, Raw, Server, network, request, websocket_text};
use crate::api::http_address;
use crate::cli_run::Running;
use crate::support::until;

fn behind_a_proxy() -> Config {
    Config { trusted_proxies: network(PROXY), ..Config::default() }
}

/// Notes the addresses in questions and observations.
#[derive(Clone, Default)]
struct Seen(Arc<Mutex<Vec<String>>>);

impl Hooks for Seen {
    async fn authenticate(&self, request: ConnectRequest) -> Result<Identity, Denied> {
        self.0.lock().unwrap().push(request.peer.to_string());
        Ok(Identity::anonymous())
    }

    async fn connected(&self, client: &Client) {
        self.0.lock().unwrap().push(client.peer.to_string());
    }
}

#[tokio::test]
async fn a_trusted_proxy_names_the_client_to_hooks_and_lists() {
    let seen = Seen::default();
    let server = Server::with_hooks(behind_a_proxy(), seen.clone()).await;
    for (headers, client) in [
        ("x-forwarded-for: 203.0.113.9\r\n", "203.0.113.9"),
        ("X-Forwarded-For: 127.0.0.1, 203.0.113.9\r\nforwarded: for=127.0.0.1\r\n", "203.0.113.9"),
        ("x-forwarded-for: 127.0.0.1\r\nx-forwarded-for: [2001:db8::7]:4242\r\n", "[2001:db8::7]:4242"),
        ("x-forwarded-for: 203.0.113.9, 127.0.0.2\r\n", "203.0.113.9"),
    ] {
        let asked = [request("/ws", headers).into(), websocket_text(HELLO)].concat();
        let mut websocket = Raw::send(PROXY, server.http, asked).await;
        websocket.up_to("\"welcome\"").await;
        let mut events = Raw::send(PROXY, server.http, request("/events?topic=news", headers)).await;
        events.up_to("subscribed").await;
        assert_eq!(server.peers(), [client, client]);
        drop((websocket, events));
        until("the clients are gone", || server.peers().is_empty()).await;
        until("the observers are told", || seen.0.lock().unwrap().len() == 4).await;
        assert_eq!(std::mem::take(&mut *seen.0.lock().unwrap()), [client; 4]);
    }
}

#[tokio::test]
async fn the_word_of_a_stranger_about_its_address_does_not_count() {
    let server = Server::start(behind_a_proxy()).await;
    let asked = request("/events?topic=news", "x-forwarded-for: 203.0.113.9\r\n");
    let mut stranger = Raw::send(OTHER, server.http, asked).await;
    stranger.up_to("subscribed").await;
    assert!(server.peers()[0].starts_with("127.0.0.3:"), "{:?}", server.peers());
}

#[tokio::test]
async fn only_the_header_of_the_operators_choice_counts() {
    let config = Config { forwarded_header: ForwardedHeader::Forwarded, ..behind_a_proxy() };
    let server = Server::start(config).await;
    let headers = "x-forwarded-for: 127.0.0.1\r\nforwarded: for=127.0.0.1, for=\"[2001:db8::7]:4242\";proto=http\r\n";
    let mut client = Raw::send(PROXY, server.http, request("/events?topic=news", headers)).await;
    client.up_to("subscribed").await;
    assert_eq!(server.peers(), ["[2001:db8::7]:4242"]);
}

#[tokio::test]
async fn a_client_behind_a_proxy_may_publish_only_if_it_is_local() {
    let server = Server::start(behind_a_proxy()).await;
    for (from, headers, is_local) in [
        (PROXY, "", true),
        (PROXY, "x-forwarded-for: 127.0.0.9\r\n", true),
        (PROXY, "x-forwarded-for: ::1\r\n", true),
        (PROXY, "x-forwarded-for: 203.0.113.9\r\n", false),
        (PROXY, "x-forwarded-for: 127.0.0.1, 203.0.113.9\r\n", false),
        (PROXY, "x-forwarded-for: unknown\r\n", false),
        (PROXY, "via: 1.1 proxy\r\n", false),
        (OTHER, "x-forwarded-for: 127.0.0.1\r\n", false),
    ] {
        let publish = r#"{"type":"publish","id":1,"topic":"news","data":1}"#;
        let asked = [request("/ws", headers).into(), websocket_text(HELLO), websocket_text(publish)].concat();
        let mut client = Raw::send(from, server.http, asked).await;
        client.up_to("\"welcome\"").await;
        client.up_to(if is_local { "\"published\"" } else { "publish_not_allowed" }).await;
    }
}

#[tokio::test]
async fn the_api_without_a_key_serves_local_clients_alone() {
    let trusted = "127.0.0.2";
    let settings = ["--listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0", "--trusted-proxies", trusted];
    let server = Running::start(&settings);
    let addr = http_address(&server);
    let mut client =
        Raw::send(PROXY, addr, request("/events?topic=news", "x-forwarded-for: 203.0.113.9:4242\r\n")).await;
    client.up_to("subscribed").await;
    for (from, headers, status) in [
        (OTHER, "", 200),
        (PROXY, "x-forwarded-for: 127.0.0.9\r\n", 200),
        (PROXY, "x-forwarded-for: 203.0.113.9\r\n", 403),
        (PROXY, "x-forwarded-for: 127.0.0.1, 203.0.113.9\r\n", 403),
        (OTHER, "x-forwarded-for: 127.0.0.1\r\n", 403),
    ] {
        let (answer, _) = Raw::send(from, addr, request("/api/connections", headers)).await.end().await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{headers:?}: {answer}");
        if status == 200 {
            let body: serde_json::Value = serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap();
            assert_eq!(body["connections"][0]["peer"], json!("203.0.113.9:4242"));
        }
    }
}
