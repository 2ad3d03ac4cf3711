//! A full server: new subscribers are refused, while publishers, requests and operators are still served.

use std::net::SocketAddr;
use std::time::Duration;

use janus_core::wire::classic::client::attach;
use janus_core::{Config, Fault, Janus};
use serde_json::json;
use tokio::sync::mpsc;

use crate::api::{ask, http_address};
use crate::cli_run::{Running, assert_exit, by_classic, janus as command, text};
use crate::http::Http;
use crate::support::{Client, Close, publish, publish_frame, serve, subscribe_frame, until};

/// A server with a single place, and the client in this place, subscribed to `news`.
async fn full(config: Config) -> (Janus, SocketAddr, Client) {
    let (janus, addr) = serve(Config { max_connections: 1, ..config }).await;
    let mut only = Client::connect(addr).await;
    only.subscribe("news").await;
    (janus, addr, only)
}

#[tokio::test]
async fn publishers_get_through_a_full_server_and_subscribers_are_refused() {
    let (janus, addr, mut only) = full(Config::default()).await;
    assert_eq!(publish(addr, "news", "1").await["subscribers"], 1);
    let mut original = Client::connect(addr).await;
    original.send("PUBLISH\0{\"topic\":\"news\",\"data\":2}").await;
    assert_eq!(original.close().await, Close::Fin);
    for number in 1..=2 {
        assert_eq!(only.json().await["data"], number);
    }
    for frame in [subscribe_frame("news"), attach("of nobody", [("news", 0)])] {
        let mut refused = Client::connect(addr).await;
        refused.send(frame).await;
        assert_eq!(refused.error_code().await, "too_many_connections");
        assert_eq!(refused.close().await, Close::Fin);
    }
    let stats = janus.stats();
    assert_eq!((stats.connections_refused, stats.connections_accepted), (2, 3));
}

#[tokio::test]
async fn a_guest_that_subscribes_while_a_place_is_free_becomes_a_client() {
    let (janus, addr, only) = full(Config::default()).await;
    let mut guest = Client::connect(addr).await;
    drop(only);
    until("the place is free", || janus.stats().connections == 1).await;
    guest.subscribe("news").await;
    assert_eq!(publish(addr, "news", "1").await["subscribers"], 1);
    let mut refused = Client::connect(addr).await;
    refused.send(subscribe_frame("news")).await;
    assert_eq!(refused.error_code().await, "too_many_connections");
    drop(guest);
    until("nobody is left", || janus.stats().connections == 0).await;
}

#[tokio::test]
async fn a_silent_guest_is_refused_at_its_timeout_and_a_publisher_stays() {
    let (_janus, addr, mut only) =
        full(Config { frame_timeout: Duration::from_millis(100), ..Config::default() }).await;
    let mut publisher = Client::connect(addr).await;
    publisher.send(publish_frame("news", "1")).await;
    assert!(publisher.json().await["published"].is_object());
    let mut silent = Client::connect(addr).await;
    // A frame that gains no place gains no time.
    let refused = loop {
        let _ = silent.try_send("PING\0").await;
        if let Ok(frame) = tokio::time::timeout(Duration::from_millis(20), silent.frame()).await {
            break frame;
        }
    };
    assert!(refused.contains("too_many_connections"), "{refused}");
    publisher.send(publish_frame("news", "2")).await;
    assert!(publisher.json().await["published"].is_object());
    for number in 1..=2 {
        assert_eq!(only.json().await["data"], number);
    }
}

#[tokio::test]
async fn silent_guests_leave_the_place_to_a_guest_that_subscribes() {
    let (janus, addr, only) = full(Config { reserved_connections: 16, ..Config::default() }).await;
    let mut guests = Vec::new();
    for _ in 0..40 {
        guests.push(Client::connect_silently(addr).await);
    }
    until("the oldest are gone", || janus.stats().connections_refused == 24).await;
    assert_eq!(janus.stats().connections, 17);
    drop(only);
    until("the place is free", || janus.stats().connections == 16).await;
    Client::connect(addr).await.subscribe("news").await;
}

/// On Linux every address of 127.0.0.0/8 is loopback.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn an_address_that_floods_a_full_server_crowds_out_only_itself() {
    let (janus, addr, mut only) = full(Config { reserved_connections: 16, ..Config::default() }).await;
    let mut first = Client::connect_from([127, 0, 0, 9], addr).await;
    let mut flood = Vec::new();
    for _ in 0..100 {
        flood.push(Client::connect_silently(addr).await);
    }
    until("the flood crowds itself out", || janus.stats().connections_refused == 100 + 1 - 16).await;
    first.send(publish_frame("news", "1")).await;
    assert!(first.json().await["published"].is_object());
    assert_eq!(only.json().await["data"], 1);
    // Publishers may take half of the reserve, even if one address has most.
    for _ in 0..8 {
        let mut publisher = Client::connect(addr).await;
        publisher.send(publish_frame("news", "2")).await;
        assert!(publisher.json().await["published"].is_object());
        flood.push(publisher);
    }
    let oldest = flood.len() - 8;
    assert_eq!(flood[oldest].error_code().await, "too_many_connections");
    first.send(publish_frame("news", "3")).await;
    assert!(first.json().await["published"].is_object(), "it is of another address");
}

#[tokio::test]
async fn at_95_per_cent_of_memory_requests_and_publishers_are_served() {
    const BUDGET: usize = 16 << 20;
    let (passed_on, mut requests) = mpsc::channel(8);
    let long = Duration::from_secs(600);
    let loopback = vec![SocketAddr::from(([127, 0, 0, 1], 0))];
    let config = Config {
        listen: loopback.clone(),
        http_listen: loopback,
        memory_budget_bytes: BUDGET,
        frame_timeout: long,
        drain_period: Duration::ZERO,
        ..Config::default()
    };
    let builder = Janus::builder().config(config).pass_on(move |request| passed_on.try_send(request).unwrap());
    let janus = builder.start().await.unwrap();
    let (classic, http) = (janus.local_addrs()[0], janus.local_addrs()[1]);
    janus.inject(Fault::MemoryTaken(BUDGET / 100 * 95));

    let _request = Http::send(http, "GET /api/topics HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    assert!(requests.recv().await.unwrap().received.starts_with(b"GET /api/topics"));
    assert_eq!(publish(classic, "news", "1").await["subscribers"], 0);
    let refused = Http::send(http, "GET /events?topic=news HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    let refused = refused.read_to_end().await;
    assert!(refused.starts_with("HTTP/1.1 503 ") && refused.contains("server_overloaded"), "{refused}");
    assert_eq!(janus.stats().connections_refused_for_memory, 1);
}

#[tokio::test]
async fn a_full_server_serves_its_api_and_its_command_line() {
    let flags = ["--listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0", "--max-connections", "1"];
    let server = Running::start(&flags);
    let classic = server.error_line("listening on ").rsplit(' ').next().unwrap().to_owned();
    let addr = http_address(&server);
    let mut only = Http::events(addr, "topic=news", "").await;
    only.id().await;
    // More guests than reserved connections.
    let mut silent = Vec::new();
    for _ in 0..300 {
        silent.push(tokio::net::TcpStream::connect(addr).await.unwrap());
    }
    let (status, receipt) = ask(addr, "POST", "/api/publish", "", Some(json!({"topic": "news", "data": 1}))).await;
    assert_eq!((status, &receipt["subscribers"]), (200, &json!(1)), "{receipt}");
    assert_eq!(only.message().await, (1, json!(1)));
    let output = command(&["publish", "news", "2", "--server", &by_classic(&classic)]).output().unwrap();
    assert_exit(&output, 0);
    assert!(text(&output.stdout).contains("\"subscribers\":1"), "{}", text(&output.stdout));
    assert_eq!(only.message().await, (2, json!(2)));

    let refused = Http::send(addr, format!("GET /events?topic=news HTTP/1.1\r\nHost: {addr}\r\n\r\n")).await;
    let refused = refused.read_to_end().await;
    assert!(refused.starts_with("HTTP/1.1 503 ") && refused.contains("too_many_connections"), "{refused}");
    let (status, list) = ask(addr, "GET", "/api/connections", "", None).await;
    let connection = &list["connections"][0]["connection"];
    assert_eq!(status, 200, "{list}");
    let request = json!({"connection": connection, "reconnect": false});
    assert_eq!(ask(addr, "POST", "/api/disconnect", "", Some(request)).await.0, 200);
    assert_eq!(only.block().await.event.as_deref(), Some("bye"));
}
