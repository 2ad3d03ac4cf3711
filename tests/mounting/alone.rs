//! Janus in an app without a middleware: the hooks and the limits of the instance decide, before a stream begins.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use janus_core::hooks::{ConnectRequest, Denied, Gate, Hooks, Identity, Patterns};
use janus_core::testing::{Connect, TestServer};
use janus_core::wire::websocket::client as websocket;
use janus_core::wire::{ErrorCode, v1};
use janus_core::{Config, Janus};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{Site, Start, UPGRADE, ask, get, in_time, read_until, until_all_have_left};

/// Decides by the header `Authorization`, or by the proof in a `hello`.
struct ByKey;

impl Hooks for ByKey {
    async fn authenticate(&self, request: ConnectRequest) -> Result<Identity, Denied> {
        let header = request.request.as_ref().and_then(|request| request.header("authorization"));
        match request.auth.as_deref().or(header) {
            Some("alice") => Ok(Identity::user("alice").subscribe(Patterns::new(["news"]).expect("a pattern"))),
            Some("later") => Err(Denied::for_now("the database is away", Duration::from_secs(7))),
            Some("late") => Ok(Identity::user("late").expires(SystemTime::UNIX_EPOCH)),
            Some(_) => Err(Denied::new("the key is wrong")),
            None => Err(Denied::no_credentials("show a key")),
        }
    }
}

/// With the topics of a protocol that has its own clients.
async fn instance(config: Config) -> Janus {
    let config = Config { listen: Vec::new(), drain_period: Duration::ZERO, ..config };
    let words = Gate::new("words", |_| Ok(Arc::new(Identity::anonymous())));
    let words = words.reserve(Patterns::new(["words:**"]).unwrap());
    Janus::builder().config(config).gate(words).start().await.unwrap()
}

async fn with_keys(start: Start) -> Site {
    let config = Config { listen: Vec::new(), drain_period: Duration::ZERO, ..Config::default() };
    start(Janus::builder().config(config).hooks(ByKey).start().await.unwrap()).await
}

async fn refused(site: &Site, target: &str, headers: &str, status: u16, words: &[&str]) {
    let (_, answer) = ask(site, target, headers, "\"}}").await;
    let answer = answer.to_lowercase();
    assert!(answer.starts_with(&format!("http/1.1 {status} ")), "{status} for {target}: {answer}");
    for word in words {
        assert!(answer.contains(word), "no {word:?} in {answer}");
    }
}

fn key(name: &str) -> String {
    format!("authorization: {name}\r\n")
}

pub(super) async fn a_hook_refuses_a_client_before_a_stream_begins(start: Start) {
    let site = with_keys(start).await;
    let websocket = |name: &str| format!("{}{UPGRADE}", key(name));
    for (name, code) in [("mallory", "unauthorized"), ("late", "token_expired")] {
        for (target, headers) in [("/ws", websocket(name)), ("/events?topic=news", key(name))] {
            refused(&site, target, &headers, 401, &[code, "www-authenticate: bearer"]).await;
        }
    }
    refused(&site, "/events?topic=news", "", 401, &["unauthorized", "show a key"]).await;
    refused(&site, "/events?topic=secret", &key("alice"), 403, &["forbidden"]).await;
    refused(&site, "/events?topic=", &key("alice"), 400, &["bad_topic"]).await;
    let mut alice = Connect::to(site.addr).header("authorization", "alice").connect().await;
    alice.subscribe("news").await;
    assert_eq!(alice.try_subscribe("secret", None).await.unwrap_err().error, "forbidden");
    let (_stream, head) = ask(&site, "/events?topic=news", &key("alice"), "\nid: ").await;
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    let users: Vec<_> = site.janus.connections(0, 10).into_iter().map(|connection| connection.user).collect();
    assert_eq!(users, ["alice", "alice"]);
    site.stop().await;
}

pub(super) async fn a_client_may_prove_its_identity_in_the_hello(start: Start) {
    let site = with_keys(start).await;
    let mut alice = Connect::to(site.addr).auth("alice").connect().await;
    alice.subscribe("news").await;
    // A proof in the `hello` counts more than one in a header.
    let refused = Connect::to(site.addr).header("authorization", "alice").auth("mallory").refused().await;
    assert_eq!((refused.status, &*refused.error), (None, "unauthorized"));
    let refused = Connect::to(site.addr).refused().await;
    assert_eq!((refused.status, &*refused.message), (None, "show a key"));
    site.stop().await;
}

pub(super) async fn a_hook_that_refuses_only_for_now_says_when_to_come_back(start: Start) {
    let site = with_keys(start).await;
    let later = key("later");
    refused(&site, "/ws", &format!("{later}{UPGRADE}"), 503, &["retry-after: 7\r\n", "authorization_failed"]).await;
    refused(&site, "/events?topic=news", &later, 503, &["retry-after: 7\r\n", "authorization_failed"]).await;
    // A browser would take the status for final.
    let accepts = format!("{later}accept: text/event-stream\r\n");
    let (_, answer) = ask(&site, "/events?topic=news", &accepts, "authorization_failed").await;
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("event: bye\nretry: 7000\n"), "{answer}");
    site.stop().await;
}

pub(super) async fn a_full_server_and_a_crowded_address_refuse_before_a_stream_begins(start: Start) {
    let site = start(instance(Config { max_connections: 1, ..Config::default() }).await).await;
    let first = Connect::to(site.addr).connect().await;
    for (target, headers) in [("/ws", UPGRADE), ("/events?topic=news", "")] {
        refused(&site, target, headers, 503, &["too_many_connections", "retry-after: "]).await;
    }
    first.close().await;
    until_all_have_left(&site.janus).await;
    Connect::to(site.addr).connect().await;
    site.stop().await;

    let config = Config { max_connections_per_ip: 1, unlimited_networks: Vec::new(), ..Config::default() };
    let site = start(instance(config).await).await;
    let _first = Connect::to(site.addr).connect().await;
    for (target, headers) in [("/ws", UPGRADE), ("/events?topic=news", "")] {
        refused(&site, target, headers, 429, &["too_many_connections", "retry-after: "]).await;
    }
    site.stop().await;
}

pub(super) async fn a_client_behind_a_trusted_proxy_has_its_own_address(start: Start) {
    let trusted_proxies = vec!["127.0.0.0/8".parse().unwrap()];
    let site = start(instance(Config { trusted_proxies, ..Config::default() }).await).await;
    let mut client = Connect::to(site.addr).header("x-forwarded-for", "192.0.2.7").connect().await;
    let forwarded = "x-forwarded-for: 192.0.2.8\r\n";
    let (_stream, _) = ask(&site, "/events?topic=news", forwarded, "\nid: ").await;
    let mut peers: Vec<_> =
        site.janus.connections(0, 10).into_iter().map(|connection| connection.peer.to_string()).collect();
    peers.sort_unstable();
    assert_eq!(peers.len(), 2);
    assert!(peers[0].starts_with("192.0.2.7") && peers[1].starts_with("192.0.2.8"), "{peers:?}");
    // The proxy is on this machine, and the client is not.
    assert_eq!(client.try_publish("news", "x").await.unwrap_err().error, ErrorCode::PublishNotAllowed.as_str());
    site.stop().await;
}

pub(super) async fn bytes_sent_ahead_of_the_upgrade_are_not_lost(start: Start) {
    let site = start(instance(Config::default()).await).await;
    let mut stream = TcpStream::connect(site.addr).await.unwrap();
    let mut request = websocket::upgrade("localhost", "/ws", "dGhlIHNhbXBsZSBub25jZQ==");
    for text in [v1::client::hello(None, None), v1::client::subscribe(Some(1), "news", None)] {
        request.extend(websocket::text(&text, [1, 2, 3, 4]));
    }
    stream.write_all(&request).await.unwrap();
    let answer = read_until_lossy(&mut stream, "\"subscribed\"").await;
    assert!(answer.starts_with("HTTP/1.1 101") && answer.contains("\"welcome\""), "{answer}");
    site.stop().await;
}

/// For a stream with bytes that are no text.
async fn read_until_lossy(stream: &mut TcpStream, end: &str) -> String {
    let mut received = Vec::new();
    in_time(async {
        while !String::from_utf8_lossy(&received).contains(end) {
            assert!(stream.read_buf(&mut received).await.unwrap() > 0, "{}", String::from_utf8_lossy(&received));
        }
    })
    .await;
    String::from_utf8_lossy(&received).into_owned()
}

pub(super) async fn a_client_that_reads_nothing_is_cut_off_and_delays_no_other(start: Start) {
    let config = Config { send_buffer_bytes: 4 * 1024, max_queue_bytes: 64 * 1024, ..Config::default() };
    let site = start(instance(config).await).await;
    let mut quick = Connect::to(site.addr).connect().await;
    quick.subscribe("news").await;
    for target in ["/events?topic=news", "/ws"] {
        let mut slow = TcpStream::connect(site.addr).await.unwrap();
        if target == "/ws" {
            let mut request = websocket::upgrade("localhost", "/ws", "dGhlIHNhbXBsZSBub25jZQ==");
            for text in [v1::client::hello(None, None), v1::client::subscribe(Some(1), "news", None)] {
                request.extend(websocket::text(&text, [1, 2, 3, 4]));
            }
            slow.write_all(&request).await.unwrap();
            read_until_lossy(&mut slow, "\"subscribed\"").await;
        } else {
            get(&mut slow, target, "", "\nid: ").await;
        }
        let before = site.janus.stats().slow_consumers;
        let padding = "x".repeat(30_000);
        in_time(async {
            while site.janus.stats().slow_consumers == before {
                site.janus.publish("news", &padding).await.unwrap();
                assert_eq!(quick.next_message().await.data::<String>().len(), padding.len());
            }
        })
        .await;
        // The connection of the slow client breaks off, and does not end as if everything had been said.
        let mut received = Vec::new();
        let end = in_time(slow.read_to_end(&mut received)).await;
        assert!(end.is_err() || !received.ends_with(b"0\r\n\r\n"), "{target}: {end:?}");
    }
    quick.expect_no_message().await;
    site.stop().await;
}

pub(super) async fn the_end_of_an_identity_ends_the_client(start: Start) {
    struct AnHour;

    impl Hooks for AnHour {
        async fn authenticate(&self, _: ConnectRequest) -> Result<Identity, Denied> {
            Ok(Identity::user("alice").expires(SystemTime::now() + Duration::from_secs(3600)))
        }
    }

    let server = TestServer::with_stopped_time(Janus::builder().hooks(AnHour)).await;
    let site = start(server.janus().clone()).await;
    let mut client = Connect::to(site.addr).connect().await;
    let (mut stream, _) = ask(&site, "/events?topic=news", "", "\nid: ").await;
    in_time(server.advance(Duration::from_secs(3500))).await;
    assert_eq!(site.janus.stats().connections, 2);
    client.expect_no_message().await;
    in_time(server.advance(Duration::from_secs(200))).await;
    assert_eq!(client.closed().await.error, "token_expired");
    read_until(&mut stream, "token_expired").await;
    drop((client, stream));
    drop(server);
    site.stop().await;
}

pub(super) async fn a_page_of_an_allowed_origin_may_ask_in_advance_and_read_the_answer(start: Start) {
    let allowed_origins = vec!["https://app.example".to_owned()];
    let site = start(instance(Config { allowed_origins, ..Config::default() }).await).await;
    let mut stream = TcpStream::connect(site.addr).await.unwrap();
    stream
        .write_all(b"OPTIONS /events?topic=news HTTP/1.1\r\nhost: localhost\r\norigin: https://app.example\r\n\r\n")
        .await
        .unwrap();
    let answer = read_until(&mut stream, "\r\n\r\n").await.to_lowercase();
    assert!(answer.starts_with("http/1.1 204 ") && answer.contains("access-control-allow-methods: get"), "{answer}");
    for target in ["/events?topic=news", "/events"] {
        let (_, answer) = ask(&site, target, "origin: https://app.example\r\n", "\r\n\r\n").await;
        let answer = answer.to_lowercase();
        assert!(answer.contains("access-control-allow-origin: https://app.example\r\n"), "{answer}");
    }
    site.stop().await;
}

pub(super) async fn a_client_that_goes_away_is_gone_for_janus(start: Start) {
    let config = Config { heartbeat_interval: Duration::from_secs(1), ..Config::default() };
    let site = start(instance(config).await).await;
    let client = Connect::to(site.addr).connect().await;
    let (stream, _) = ask(&site, "/events?topic=news", "", "\nid: ").await;
    assert_eq!(site.janus.stats().connections, 2);
    drop((client, stream));
    until_all_have_left(&site.janus).await;
    site.stop().await;
}

async fn post(site: &Site, body: &str, headers: &str) -> String {
    let mut stream = TcpStream::connect(site.addr).await.unwrap();
    let request = format!(
        "POST /api/publish HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: {}\r\n{headers}\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    in_time(stream.read_to_string(&mut answer)).await.unwrap();
    answer
}

pub(super) async fn a_request_publishes_by_the_right_of_its_client(start: Start) {
    const JSON: &str = "content-type: application/json\r\n";
    let message = r#"{"topic":"news","data":1}"#;
    let site = start(instance(Config::default()).await).await;
    let mut reader = Connect::to(site.addr).connect().await;
    reader.subscribe("news").await;
    for (number, answer) in [(1, r#","seq":1,"subscribers":1}"#), (1, r#","seq":1,"subscribers":1,"again":true}"#)] {
        let posted = post(&site, message, &format!("{JSON}idempotency-key: order-{number}\r\n")).await;
        assert!(posted.starts_with("HTTP/1.1 200 ") && posted.ends_with(answer), "{posted}");
    }
    assert_eq!(reader.next_message().await.data::<u32>(), 1);
    for (body, headers, status, code) in [
        (message, "", 415, "unsupported_media_type"),
        ("{}", JSON, 400, "bad_request"),
        (r#"{"topic":"words:a","data":1}"#, JSON, 403, "forbidden"),
        (message, "content-type: application/json\r\norigin: https://evil.example\r\n", 403, "forbidden"),
        (message, "content-type: application/json\r\nx-forwarded-for: 192.0.2.1\r\n", 403, "publish_not_allowed"),
        (&format!(r#"{{"topic":"news","data":"{}"}}"#, "x".repeat(70_000)), JSON, 413, "frame_too_large"),
    ] {
        let posted = post(&site, body, headers).await;
        assert!(posted.starts_with(&format!("HTTP/1.1 {status} ")) && posted.contains(code), "{posted}");
    }
    let (_, answer) = ask(&site, "/api/publish", "", "\"}}").await;
    assert!(answer.starts_with("HTTP/1.1 405 ") && answer.to_lowercase().contains("allow: post\r\n"), "{answer}");
    reader.expect_no_message().await;
    until_there_is(&site.janus, 1).await;
    site.stop().await;

    let site = with_keys(start).await;
    for (key, status) in [("alice", 200), ("mallory", 401), ("", 401)] {
        let key = if key.is_empty() { String::new() } else { self::key(key) };
        let posted = post(&site, message, &format!("{JSON}{key}")).await;
        assert!(posted.starts_with(&format!("HTTP/1.1 {status} ")), "{posted}");
    }
    site.stop().await;
}

/// A request counts as a connection only while it lasts.
async fn until_there_is(janus: &Janus, connections: usize) {
    in_time(async {
        while janus.stats().connections != connections {
            tokio::task::yield_now().await;
        }
    })
    .await;
}
