//! The figures of requests to the HTTP port, whose connections are kept and never opened.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use janus_core::wire::ErrorCode;

use super::{start, start_with};
use crate::cli_run::PATIENCE;
use crate::support::until;

/// A connection for one request after the other.
pub(super) struct Kept(TcpStream);

impl Kept {
    pub(super) fn connect(addr: &str) -> Self {
        let stream = TcpStream::connect(addr).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Self(stream)
    }

    pub(super) fn send(&mut self, bytes: &str) {
        self.0.write_all(bytes.as_bytes()).unwrap();
    }

    /// Publishes to a topic; returns the status.
    pub(super) fn publish(&mut self, topic: &str) -> u16 {
        let body = format!("{{\"topic\":\"{topic}\",\"data\":1}}");
        let head = "POST /api/publish HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length";
        self.send(&format!("{head}: {}\r\n\r\n{body}", body.len()));
        self.status()
    }

    /// Asks for the topics; returns the status.
    pub(super) fn list_topics(&mut self) -> u16 {
        self.send("GET /api/topics HTTP/1.1\r\nHost: localhost\r\n\r\n");
        self.status()
    }

    /// Reads an answer whose body has a length.
    pub(super) fn status(&mut self) -> u16 {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            self.0.read_exact(&mut byte).unwrap();
            head.extend(byte);
        }
        let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
        let length = head.split("content-length: ").nth(1).expect("a length").split('\r').next().unwrap();
        self.0.read_exact(&mut vec![0; length.parse().unwrap()]).unwrap();
        head.split(' ').nth(1).unwrap().parse().unwrap()
    }

    /// Waits for the server to close, without another answer.
    pub(super) fn assert_closes(&mut self) {
        assert_eq!(self.0.read(&mut [0]).unwrap(), 0, "nothing but the end of the stream");
    }
}

#[tokio::test]
async fn a_publication_over_the_http_port_counts_as_one_of_the_api() {
    let server = start(&[]);
    let mut subscriber = server.client().await;
    subscriber.subscribe("chat:lobby").await;
    let mut publisher = Kept::connect(&server.http);
    // With a subscriber, and without a topic.
    assert_eq!([publisher.publish("chat:lobby"), publisher.publish("strange")], [200, 200]);
    subscriber.json().await;
    let scrape = server.scrape();
    assert_eq!(scrape.value("janus_published", &[("namespace", "chat"), ("via", "api")]), 1.0);
    assert_eq!(scrape.value("janus_published", &[("namespace", "default"), ("via", "api")]), 1.0);
    assert!(!scrape.values_of("via").contains("http"), "{:?}", scrape.values_of("via"));
}

#[tokio::test]
async fn a_connection_with_requests_alone_is_no_client_that_has_ended() {
    let server = start_with("api_idle_timeout = \"200 ms\"", &["--admin-listen", "127.0.0.1:0"]);
    let request: [fn(&mut Kept) -> u16; 2] = [|kept| kept.publish("news"), Kept::list_topics];
    for ask in request {
        // The server ends the first connection, and the client the second.
        let [mut idle, mut gone] = [Kept::connect(&server.http), Kept::connect(&server.http)];
        assert_eq!([ask(&mut idle), ask(&mut gone)], [200, 200]);
        idle.assert_closes();
    }
    // A refused request is a request.
    let mut refused = Kept::connect(&server.http);
    refused.send(
        "POST /api/publish HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\n{}",
    );
    assert_eq!(refused.status(), 415);
    refused.assert_closes();
    drop(refused);
    // The count of a client that ends later shows that all ends are counted.
    drop(server.client().await);
    until("all have gone", || {
        let scrape = server.scrape();
        let open = ["http", "classic"].map(|transport| scrape.value("janus_connections", &[("transport", transport)]));
        open == [0.0, 0.0] && scrape.value("janus_disconnects", &[("code", "by_client")]) >= 1.0
    })
    .await;
    let scrape = server.scrape();
    let ended: f64 =
        ErrorCode::ALL.iter().map(|code| scrape.value("janus_disconnects", &[("code", code.as_str())])).sum();
    assert_eq!((scrape.value("janus_disconnects", &[("code", "by_client")]), ended), (1.0, 0.0));
}

#[tokio::test]
async fn a_refused_publication_is_counted_once_as_answered() {
    let server = start_with("max_connections = 1\nframe_timeout = \"300 ms\"", &["--admin-listen", "127.0.0.1:0"]);
    let answered = |status| {
        let series = [("path", "/api/publish"), ("status", status)];
        let scrape = server.scrape();
        if scrape.values_of("status").contains(status) { scrape.value("janus_http_requests", &series) } else { 0.0 }
    };
    let half =
        "POST /api/publish HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{";
    // Too slow, on a server with room and on a full one.
    let mut slow = Kept::connect(&server.http);
    slow.send(half);
    assert_eq!(slow.status(), 408);
    slow.assert_closes();
    assert_eq!(answered("408"), 1.0);
    let _client = server.client().await;
    let mut guest = Kept::connect(&server.http);
    guest.send(half);
    assert_eq!(guest.status(), 503);
    guest.assert_closes();
    assert_eq!((answered("408"), answered("503")), (1.0, 1.0));
}

#[tokio::test]
async fn kept_connections_take_no_place_from_clients() {
    let server = start(&["--max-connections", "2"]);
    let mut kept: Vec<Kept> = (0..4).map(|_| Kept::connect(&server.http)).collect();
    assert!(kept.iter_mut().all(|kept| kept.publish("news") == 200 && kept.list_topics() == 200));
    let _client = server.client().await;
    let open = || {
        let scrape = server.scrape();
        ["http", "classic"].map(|transport| scrape.value("janus_connections", &[("transport", transport)]))
    };
    // The last of them comes back from the API after its answer.
    until("all connections are listed", || open() == [4.0, 1.0]).await;
    let scrape = server.scrape();
    let places = ["janus_places_taken", "janus_connections_limit"].map(|name| scrape.value(name, &[]));
    assert_eq!(places, [1.0, 2.0]);
}
