//! The HTTP port as clients see the port: resuming event streams, refusals with a status, and connections passed on.

use std::net::SocketAddr;
use std::time::Duration;

use janus_core::hooks::{ConnectRequest, Denied, Hooks, Identity};
use janus_core::{Config, Janus, Resume};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::support::{DEADLINE, serve, take_chunks, until};

/// A client with text responses.
pub(crate) struct Http {
    stream: TcpStream,
    received: String,
    /// The bytes of an incomplete chunk, in a response with chunks.
    chunks: Option<Vec<u8>>,
}

const HEARTBEAT: &str = "event: heartbeat\ndata: {}\n\n";

/// A block of an event stream.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Block {
    pub(crate) event: Option<String>,
    pub(crate) id: Option<String>,
    pub(crate) data: Option<Value>,
}

impl Http {
    pub(crate) async fn send(addr: SocketAddr, request: impl AsRef<[u8]>) -> Self {
        let mut stream = timeout(DEADLINE, TcpStream::connect(addr)).await.unwrap().unwrap();
        stream.write_all(request.as_ref()).await.unwrap();
        Self { stream, received: String::new(), chunks: None }
    }

    /// Sends further bytes.
    pub(crate) async fn write(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
    }

    /// Opens an event stream, which must have a good head.
    pub(crate) async fn events(addr: SocketAddr, query: &str, headers: &str) -> Self {
        let request = format!("GET /events?{query} HTTP/1.1\r\nHost: {addr}\r\n{headers}\r\n");
        let mut client = Self::send(addr, request).await;
        let head = client.up_to("\r\n\r\n").await;
        assert!(head.starts_with("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n"), "{head}");
        assert!(head.contains("\r\ntransfer-encoding: chunked\r\n"), "{head}");
        client.chunks = Some(Vec::new());
        let body = std::mem::take(&mut client.received);
        client.take(body.as_bytes());
        client
    }

    /// Everything in these tests is ASCII.
    fn take(&mut self, bytes: &[u8]) {
        let bytes = match &mut self.chunks {
            None => bytes.to_vec(),
            Some(chunks) => {
                chunks.extend_from_slice(bytes);
                take_chunks(chunks).0
            }
        };
        self.received.push_str(str::from_utf8(&bytes).unwrap());
    }

    /// Reads up to the end of this text.
    pub(crate) async fn up_to(&mut self, end: &str) -> String {
        let read = async {
            loop {
                if let Some(at) = self.received.find(end) {
                    let rest = self.received.split_off(at + end.len());
                    return std::mem::replace(&mut self.received, rest);
                }
                let mut piece = [0; 4096];
                let length = self.stream.read(&mut piece).await.expect("no reset");
                assert_ne!(length, 0, "the end of the stream instead of {end:?}: {}", self.received);
                self.take(&piece[..length]);
            }
        };
        timeout(DEADLINE, read).await.unwrap_or_else(|_| panic!("no {end:?} came"))
    }

    /// Reads this many bytes.
    pub(crate) async fn exactly(&mut self, length: usize) -> String {
        while self.received.len() < length {
            let mut piece = [0; 4096];
            let read = timeout(DEADLINE, self.stream.read(&mut piece)).await.expect("in time").expect("no reset");
            assert_ne!(read, 0, "the end of the stream: {}", self.received);
            self.take(&piece[..read]);
        }
        let rest = self.received.split_off(length);
        std::mem::replace(&mut self.received, rest)
    }

    pub(crate) async fn read_to_end(mut self) -> String {
        let mut rest = Vec::new();
        timeout(DEADLINE, self.stream.read_to_end(&mut rest)).await.expect("an end").expect("a FIN");
        self.take(&rest);
        self.received
    }

    /// Reads to the end, and discards everything.
    pub(crate) async fn discard(mut self) {
        let _ = tokio::io::copy(&mut self.stream, &mut tokio::io::sink()).await;
    }

    /// The next block except heartbeats.
    pub(crate) async fn block(&mut self) -> Block {
        let text = loop {
            let text = self.up_to("\n\n").await;
            if text != HEARTBEAT {
                break text;
            }
        };
        let mut block = Block::default();
        for line in text.lines().filter(|line| !line.is_empty()) {
            match line.split_once(": ").unwrap() {
                ("event", value) => block.event = Some(value.to_owned()),
                ("id", value) => block.id = Some(value.to_owned()),
                ("data", value) => block.data = Some(serde_json::from_str(value).unwrap()),
                ("retry", _) => {}
                _ => panic!("an unknown field: {line}"),
            }
        }
        block
    }

    /// The number and data of the next block, which must be a message.
    pub(crate) async fn message(&mut self) -> (u64, Value) {
        let block = self.block().await;
        let data = block.data.as_ref().unwrap_or_else(|| panic!("{block:?}"));
        assert_eq!(block.event, None, "{block:?}");
        let seq = data["seq"].as_u64().unwrap();
        assert_eq!(position(block.id.as_ref().unwrap()).1, seq.to_string());
        (seq, data["data"].clone())
    }

    /// The id of the next block, which must confirm the subscriptions. The horizon is left out.
    pub(crate) async fn id(&mut self) -> String {
        let block = self.block().await;
        assert_eq!(block.event.as_deref(), Some("subscribed"), "{block:?}");
        let data = block.data.as_ref().unwrap();
        let (epoch, seq) = position(block.id.as_ref().unwrap());
        assert_eq!((epoch, seq), (data["epoch"].as_str().unwrap(), &*data["seq"].to_string()), "{block:?}");
        format!("{epoch}.{seq}")
    }
}

/// The epoch and the number in an id.
fn position(id: &str) -> (&str, &str) {
    let (epoch, rest) = id.split_once('.').unwrap();
    (epoch, rest.split('.').next().unwrap())
}

/// Ends this client, so that only the state kept by the server is left.
pub(crate) async fn lose(client: Http, janus: &Janus) {
    drop(client);
    until("the connection to end", || janus.stats().connections == 0).await;
}

pub(crate) async fn serve_http(config: Config) -> (Janus, SocketAddr) {
    let http_listen = vec![SocketAddr::from(([127, 0, 0, 1], 0))];
    let (janus, _) = serve(Config { http_listen, ..config }).await;
    let addr = janus.local_addrs()[1];
    (janus, addr)
}

pub(crate) fn last_event_id(id: &str) -> String {
    format!("Last-Event-ID: {id}\r\n")
}

#[tokio::test]
async fn a_stream_of_one_topic_resumes_without_a_hole_and_without_a_repeat() {
    let (janus, addr) = serve_http(Config::default()).await;
    let mut client = Http::events(addr, "topic=news", "").await;
    let first = client.id().await;
    janus.publish("news", &json!({"text": "one\ntwo"})).await.unwrap();
    assert_eq!(client.message().await, (1, json!({"text": "one\ntwo"})));
    lose(client, &janus).await;
    for number in 2..=4 {
        janus.publish("news", &number).await.unwrap();
    }
    let epoch = first.split_once('.').unwrap().0;
    for (id, missed) in [(first.clone(), 1..5), (format!("{epoch}.1"), 2..5), (format!("{epoch}.4"), 5..5)] {
        for (query, header) in
            [("topic=news".to_owned(), last_event_id(&id)), (format!("topic=news&last_event_id={id}"), String::new())]
        {
            let mut client = Http::events(addr, &query, &header).await;
            assert_eq!(client.id().await, id);
            for seq in missed.clone() {
                assert_eq!(client.message().await.0, seq);
            }
            lose(client, &janus).await;
        }
    }
    let mut client = Http::events(addr, "topic=news", &last_event_id(&first)).await;
    client.id().await;
    janus.publish("news", &5).await.unwrap();
    for seq in 1..=5 {
        assert_eq!(client.message().await.0, seq);
    }
}

#[tokio::test]
async fn an_id_without_a_horizon_resumes_only_its_own_topic() {
    let (janus, addr) = serve_http(Config::default()).await;
    let mut client = Http::events(addr, "topic=a&topic=b", "").await;
    client.id().await;
    client.id().await;
    for topic in ["b", "a"] {
        janus.publish(topic, "seen").await.unwrap();
        client.message().await;
    }
    janus.publish("a", "seen, too").await.unwrap();
    let last = client.block().await.id.unwrap();
    let (epoch, seq) = position(&last);
    let last = format!("{epoch}.{seq}");
    lose(client, &janus).await;
    janus.publish("a", "missed").await.unwrap();
    janus.publish("b", "lost").await.unwrap();

    let mut client = Http::events(addr, "topic=b&topic=a", &last_event_id(&last)).await;
    let gap = client.block().await;
    assert_eq!(gap.event.as_deref(), Some("gap"));
    let data = gap.data.unwrap();
    assert_eq!((&data["topic"], &data["resumed"]), (&json!("b"), &json!(false)));
    assert_eq!(client.id().await, format!("{}.2", data["epoch"].as_str().unwrap()));
    assert_eq!(client.id().await, last);
    assert_eq!(client.message().await, (3, json!("missed")));
    janus.publish("b", "new").await.unwrap();
    assert_eq!(client.message().await, (3, json!("new")));
}

#[tokio::test]
async fn an_id_that_is_too_old_or_unknown_is_answered_with_a_gap() {
    let config = Config { resume_messages: 2, ..Config::default() };
    let (janus, addr) = serve_http(config).await;
    let mut client = Http::events(addr, "topic=news", "").await;
    let first = client.id().await;
    lose(client, &janus).await;
    for number in 1..=3 {
        janus.publish("news", &number).await.unwrap();
    }
    for id in [&*first, "0123456789abcdef.1", "strange"] {
        let mut client = Http::events(addr, "topic=news", &last_event_id(id)).await;
        let gap = client.block().await;
        assert_eq!((gap.event.as_deref(), &gap.data.unwrap()["resumed"]), (Some("gap"), &json!(false)), "{id}");
        assert_eq!(position(&gap.id.unwrap()).1, "3", "it goes on after what there is now");
        lose(client, &janus).await;
    }
}

#[tokio::test]
async fn a_stream_does_not_resume_where_only_sessions_resume() {
    for resume in [Resume::Session, Resume::Off] {
        let mut config = Config::default();
        config.default_namespace.resume = resume;
        let (janus, addr) = serve_http(config).await;
        let mut client = Http::events(addr, "topic=news", "").await;
        let first = client.id().await;
        janus.publish("news", "said before").await.unwrap();
        assert_eq!(client.message().await.0, 1);
        for query in ["topic=news".to_owned(), format!("topic=news&last_event_id={first}")] {
            let mut spy = Http::events(addr, &query, &last_event_id(&first)).await;
            let gap = spy.block().await;
            assert_eq!((gap.event.as_deref(), &gap.data.unwrap()["resumed"]), (Some("gap"), &json!(false)), "{resume}");
            spy.id().await;
            let number = janus.publish("news", "said after").await.unwrap().seq;
            assert_eq!(spy.message().await, (number, json!("said after")), "{resume}");
        }
    }
}

#[tokio::test]
async fn silence_is_filled_with_events_visible_to_a_page() {
    let (_janus, addr) = serve_http(Config { heartbeat_interval: Duration::from_secs(1), ..Config::default() }).await;
    let mut client = Http::events(addr, "topic=news", "").await;
    client.id().await;
    assert_eq!(client.up_to("\n\n").await, HEARTBEAT);
    assert_eq!(client.up_to("\n\n").await, HEARTBEAT);
}

#[tokio::test]
async fn a_message_published_after_the_head_reaches_the_stream() {
    let (janus, addr) = serve_http(Config::default()).await;
    let query: Vec<String> = (0..100).map(|number| format!("topic=t%3A{number}")).collect();
    for round in 0..20 {
        // Topics that must be created first, one or many, and then many existing topics.
        let fresh = format!("fresh:{round}");
        let mut client = Http::events(addr, &format!("topic={fresh}"), "").await;
        janus.publish(&fresh, &round).await.unwrap();
        client.id().await;
        assert_eq!(client.message().await, (1, json!(round)));
        let mut client = Http::events(addr, &query.join("&"), "").await;
        let seq = janus.publish("t:99", &round).await.unwrap().seq;
        for _ in 0..100 {
            client.id().await;
        }
        assert_eq!(client.message().await, (seq, json!(round)));
    }
}

#[tokio::test]
async fn a_drain_tells_a_stream_to_come_back_after_the_port_can_reopen() {
    let config = Config {
        drain_timeout: Duration::from_secs(20),
        drain_period: Duration::from_secs(3),
        restart_time: Duration::from_secs(7),
        ..Config::default()
    };
    let (janus, addr) = serve_http(config).await;
    let mut client = Http::events(addr, "topic=news", "").await;
    client.id().await;
    let begun = std::time::Instant::now();
    let drain = tokio::spawn(async move { janus.shutdown().await });
    let bye = client.up_to("\n\n").await;
    let waited = begun.elapsed();
    let retry = bye.strip_prefix("event: bye\nretry: ").unwrap().split('\n').next().unwrap();
    let retry = Duration::from_millis(retry.parse().unwrap());
    // The rest of the time over which clients are closed, and the time of the restart.
    assert!(
        retry + waited >= Duration::from_secs(10) && retry <= Duration::from_secs(12),
        "{retry:?} after {waited:?}"
    );
    drain.await.unwrap();
}

#[tokio::test]
async fn an_http_1_0_client_gets_no_chunks() {
    let (janus, addr) = serve_http(Config::default()).await;
    let mut client = Http::send(addr, "GET /events?topic=news HTTP/1.0\r\n\r\n").await;
    let head = client.up_to("\r\n\r\n").await;
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n") && !head.contains("chunked"), "{head}");
    client.id().await;
    janus.publish("news", "plain").await.unwrap();
    assert_eq!(client.message().await, (1, json!("plain")));
}

#[tokio::test]
async fn streams_are_told_different_times_until_they_come_back() {
    let (_janus, addr) = serve_http(Config::default()).await;
    let mut times = std::collections::BTreeSet::new();
    for _ in 0..20 {
        let mut client = Http::events(addr, "topic=news", "").await;
        let first = client.up_to("\n").await;
        times.insert(first.strip_prefix("retry: ").unwrap().trim().parse::<u64>().unwrap());
    }
    assert!(times.len() > 10 && times.iter().all(|time| (1_500..=2_500).contains(time)), "{times:?}");
}

#[tokio::test]
async fn one_request_subscribes_to_many_topics() {
    let (janus, addr) = serve_http(Config::default()).await;
    let query: Vec<String> = (0..100).map(|number| format!("topic=t%3A{number}")).collect();
    let mut client = Http::events(addr, &query.join("&"), "").await;
    for _ in 0..100 {
        client.id().await;
    }
    janus.publish("t:99", "last").await.unwrap();
    assert_eq!(client.message().await, (1, json!("last")));
}

#[tokio::test]
async fn a_browser_may_come_from_the_same_host_or_a_listed_origin() {
    let config = Config { allowed_origins: vec!["https://app.example".to_owned()], ..Config::default() };
    let (_janus, addr) = serve_http(config).await;
    let answer = async |path: &str, origin: &str| {
        let headers = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                       Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
        let request = format!("GET {path} HTTP/1.1\r\nHost: {addr}\r\nOrigin: {origin}\r\n{headers}\r\n");
        Http::send(addr, request).await.up_to("\r\n\r\n").await
    };
    let own = format!("http://{addr}");
    for origin in ["https://app.example", &*own] {
        assert!(answer("/ws", origin).await.starts_with("HTTP/1.1 101 "), "{origin}");
        let head = answer("/events?topic=a", origin).await;
        assert!(head.starts_with("HTTP/1.1 200 "), "{origin}: {head}");
        assert_eq!(head.contains("access-control-allow-origin: https://app.example\r\n"), origin != own, "{head}");
    }
    for path in ["/ws", "/events?topic=a"] {
        assert!(answer(path, "https://evil.example").await.starts_with("HTTP/1.1 403 "), "{path}");
    }
}

#[tokio::test]
async fn a_foreign_name_that_resolves_to_this_machine_is_not_the_same_host() {
    let answer = async |addr: SocketAddr, path: &str, host: &str, origin: Option<&str>| {
        let origin = origin.map(|origin| format!("Origin: {origin}\r\n")).unwrap_or_default();
        let headers = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                       Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
        let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n{origin}{headers}\r\n");
        let answer = Http::send(addr, request).await.up_to("\r\n\r\n").await;
        answer.split(' ').nth(1).unwrap().parse::<u16>().unwrap()
    };
    let config = Config { allowed_origins: vec!["http://dev.example:8000".to_owned()], ..Config::default() };
    let (_janus, addr) = serve_http(config).await;
    let port = addr.port();
    let rebound = format!("evil.example:{port}");
    assert_eq!(answer(addr, "/ws", &rebound, Some(&format!("http://{rebound}"))).await, 403);
    // An EventSource of the same host sends no origin.
    assert_eq!(answer(addr, "/events?topic=a", &rebound, None).await, 403);
    assert_eq!(answer(addr, "/events?topic=a", &format!("127.0.0.1.evil.example:{port}"), None).await, 403);
    // A page on this machine, and a page behind a proxy that keeps the requested name.
    for name in ["localhost", "app.localhost", "LOCALHOST", "127.0.0.1", "127.1.2.3", "[::1]"] {
        let host = format!("{name}:{port}");
        assert_eq!(answer(addr, "/ws", &host, Some(&format!("http://{host}"))).await, 101, "{host}");
        assert_eq!(answer(addr, "/events?topic=a", &host, None).await, 200, "{host}");
    }
    for (host, origin) in [("push.example", "https://push.example"), ("push.example:1", "http://push.example:1")] {
        assert_eq!(answer(addr, "/ws", host, Some(origin)).await, 101, "{host}");
        assert_eq!(answer(addr, "/events?topic=a", host, None).await, 200, "{host}");
    }
    // A name of this machine known only to its operator, and a server open to other sites.
    let listed = Config { allowed_origins: vec!["*".to_owned()], ..Config::default() };
    let (_janus, addr) = serve_http(listed).await;
    let host = format!("dev.example:{}", addr.port());
    assert_eq!(answer(addr, "/ws", &host, Some(&format!("http://{host}"))).await, 101);
    let both = vec![([127, 0, 0, 1], 0).into(), ([0, 0, 0, 0], 0).into()];
    let janus = Janus::builder().config(Config { listen: vec![], http_listen: both, ..Config::default() });
    let janus = janus.start().await.unwrap();
    let ports = janus.local_addrs().into_iter().map(|addr| addr.port()).collect::<Vec<_>>();
    for (port, status) in [(ports[0], 403), (ports[1], 200)] {
        let addr = SocketAddr::from(([127, 0, 0, 1], port));
        assert_eq!(answer(addr, "/events?topic=a", &format!("push.example:{port}"), None).await, status);
    }
}

#[tokio::test]
async fn a_request_that_cannot_be_served_gets_a_status_and_a_fin() {
    let config = Config { max_connections: 1, frame_timeout: Duration::from_millis(20), ..Config::default() };
    let (_janus, addr) = serve_http(config).await;
    let code = async |request: &str, status: &str| {
        let answer = Http::send(addr, request).await.read_to_end().await;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {answer:?}"));
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
        let body: Value = serde_json::from_str(body).unwrap();
        body["error"]["code"].as_str().unwrap().to_owned()
    };
    assert_eq!(code("GET /events HTTP/1.1\r\nHost: a\r\n\r\n", "400").await, "bad_topic");
    assert_eq!(code("GET /events?topic=a HTTP/1.1\r\nHost: a", "408").await, "frame_timeout");
    assert_eq!(code("", "408").await, "frame_timeout");
    assert_eq!(code("\u{16}\u{3}\u{1}", "400").await, "bad_frame");
    let _only = Http::events(addr, "topic=news", "").await;
    assert_eq!(code("GET /events?topic=a HTTP/1.1\r\nHost: a\r\n\r\n", "503").await, "too_many_connections");
}

/// The beginning of a response's head, and the last event of the stream, or the error in the body.
async fn refused(addr: SocketAddr, headers: &str) -> (String, Value) {
    let request = format!("GET /events?topic=news HTTP/1.1\r\nHost: {addr}\r\n{headers}\r\n");
    let answer = Http::send(addr, request).await.read_to_end().await;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {answer:?}"));
    let body = if head.contains("\r\ntransfer-encoding: chunked") {
        let mut raw = body.as_bytes().to_vec();
        let (body, ended) = take_chunks(&mut raw);
        assert!(ended && raw.is_empty(), "{answer}");
        String::from_utf8(body).unwrap()
    } else {
        body.to_owned()
    };
    let Some((_, bye)) = body.split_once("event: bye\nretry: ") else {
        let body: Value = serde_json::from_str(&body).unwrap();
        return (head.to_owned(), body["error"]["code"].clone());
    };
    let (retry, data) = bye.split_once("\ndata: ").unwrap();
    let data: Value = serde_json::from_str(data.trim()).unwrap();
    assert_eq!(data["reconnect_after_ms"], retry.parse::<u64>().unwrap(), "{body}");
    (head.to_owned(), data["error"].clone())
}

const EVENT_SOURCE: &str = "Accept: text/event-stream\r\nOrigin: https://app.example\r\n";

#[tokio::test]
async fn a_browser_at_a_full_server_is_told_to_come_back_without_a_status() {
    let origins = vec!["https://app.example".to_owned()];
    let frame_timeout = Duration::from_secs(1);
    let config = Config { max_connections: 1, allowed_origins: origins, frame_timeout, ..Config::default() };
    let (janus, addr) = serve_http(config).await;
    let only = Http::events(addr, "topic=news", "").await;
    let (head, error) = refused(addr, EVENT_SOURCE).await;
    assert!(head.starts_with("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n"), "{head}");
    assert!(head.contains("access-control-allow-origin: https://app.example\r\n"), "{head}");
    assert_eq!(error, "too_many_connections");
    // A client that does not read events gets a status, as does a client that cannot be told otherwise.
    let (head, error) = refused(addr, "Origin: https://app.example\r\n").await;
    assert!(head.starts_with("HTTP/1.1 503 ") && head.contains("\r\nretry-after: "), "{head}");
    assert!(head.contains("access-control-allow-origin: https://app.example\r\n"), "{head}");
    assert_eq!(error, "too_many_connections");
    let (head, error) = refused(addr, "Accept: text/event-stream\r\nOrigin: https://evil.example\r\n").await;
    assert!(head.starts_with("HTTP/1.1 403 ") && error == "forbidden", "{head}");
    let api = Http::send(addr, format!("GET /api/topics HTTP/1.1\r\nHost: {addr}\r\n\r\n")).await;
    assert!(api.read_to_end().await.starts_with("HTTP/1.1 503 "));
    let silent = Http::send(addr, "").await.read_to_end().await;
    assert!(silent.starts_with("HTTP/1.1 503 "), "nobody is waited for without an end: {silent}");
    assert_eq!(janus.stats().connections, 1);
    lose(only, &janus).await;
    Http::events(addr, "topic=news", "Accept: text/event-stream\r\n").await;
}

#[tokio::test]
async fn a_browser_that_must_be_dropped_without_a_word_reads_no_status() {
    let frame_timeout = Duration::from_millis(100);
    let (_janus, addr) =
        serve_http(Config { max_connections: 1, max_refusals: 0, frame_timeout, ..Config::default() }).await;
    let _only = Http::events(addr, "topic=news", "").await;
    let mut refused = Http::send(addr, "").await;
    // The server cannot choose between a reset and a FIN here.
    let _ = timeout(DEADLINE, refused.stream.read_to_string(&mut refused.received)).await.expect("an end");
    assert_eq!(refused.received, "");
    // This request has already arrived, so the server need not wait before the answer.
    let (_, error) = self::refused(addr, "Accept: text/event-stream\r\n").await;
    assert_eq!(error, "too_many_connections");
}

/// A failing hook.
struct Broken;

impl Hooks for Broken {
    async fn authenticate(&self, _: ConnectRequest) -> Result<Identity, Denied> {
        panic!("injected: a hook");
    }
}

#[tokio::test]
async fn a_browser_refused_by_a_failing_hook_is_told_to_come_back() {
    let http_listen = vec![SocketAddr::from(([127, 0, 0, 1], 0))];
    let allowed_origins = vec!["https://app.example".to_owned()];
    let config = Config { listen: Vec::new(), http_listen, allowed_origins, ..Config::default() };
    let janus = Janus::builder().config(config).hooks(Broken).start().await.unwrap();
    let addr = janus.local_addrs()[0];
    let (head, error) = refused(addr, EVENT_SOURCE).await;
    assert!(head.starts_with("HTTP/1.1 200 ") && head.contains("access-control-allow-origin: "), "{head}");
    assert_eq!(error, "authorization_failed");
    let (head, error) = refused(addr, "Accept: */*\r\n").await;
    assert!(head.starts_with("HTTP/1.1 503 ") && head.contains("\r\nretry-after: "), "{head}");
    assert_eq!(error, "authorization_failed");
}

#[tokio::test]
async fn a_drain_says_goodbye_to_event_streams() {
    let (janus, addr) = serve_http(Config::default()).await;
    let mut client = Http::events(addr, "topic=news", "").await;
    client.id().await;
    let shutdown = tokio::spawn(async move { janus.shutdown().await });
    let bye = client.block().await;
    assert_eq!(bye.event.as_deref(), Some("bye"));
    assert_eq!(bye.data.unwrap()["error"], "server_draining");
    assert_eq!(client.read_to_end().await, "");
    shutdown.await.unwrap();
}
