//! Tests of kept connections: several requests, for anything on the port, one after the other and ahead.

use janus_core::Event;
use tokio::io::AsyncReadExt as _;

use super::*;

/// A connection that is read answer by answer.
struct Kept {
    stream: TcpStream,
    received: Vec<u8>,
}

impl Kept {
    async fn open(server: &Server) -> Self {
        let stream = TcpStream::connect(server.addr).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream, received: Vec::new() }
    }

    async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).await.unwrap();
    }

    /// Reads up to the end of this text.
    async fn up_to(&mut self, end: &str) -> String {
        loop {
            if let Some(at) = self.received.windows(end.len()).position(|part| part == end.as_bytes()) {
                let rest = self.received.split_off(at + end.len());
                return String::from_utf8_lossy(&std::mem::replace(&mut self.received, rest)).into_owned();
            }
            let read = timeout(PATIENCE, self.stream.read_buf(&mut self.received)).await.expect("an answer comes");
            let soon = String::from_utf8_lossy(&self.received).into_owned();
            assert_ne!(read.unwrap(), 0, "the end of the stream in place of {end:?}: {soon}");
        }
    }

    async fn answer(&mut self) -> Answer {
        let head = self.up_to("\r\n\r\n").await.to_ascii_lowercase();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let length =
            head.split("content-length: ").nth(1).map_or(0, |rest| rest.lines().next().unwrap().parse().unwrap());
        while self.received.len() < length {
            assert_ne!(self.stream.read_buf(&mut self.received).await.unwrap(), 0);
        }
        let rest = self.received.split_off(length);
        let body = String::from_utf8(std::mem::replace(&mut self.received, rest)).unwrap();
        Answer { status, head, body }
    }

    async fn ask(&mut self, request: impl AsRef<[u8]>) -> Answer {
        self.send(request).await;
        self.answer().await
    }

    /// Everything up to the end of the stream, which must come with a FIN.
    async fn rest(mut self) -> String {
        timeout(PATIENCE, self.stream.read_to_end(&mut self.received)).await.expect("an end").expect("a FIN");
        String::from_utf8(self.received).unwrap()
    }
}

/// A request that leaves the connection open; without a body, of GET.
fn ask_for(target: &str, headers: &str, body: Option<&str>) -> Vec<u8> {
    let method = if body.is_some() { "POST" } else { "GET" };
    let of_body = body.map(|body| format!("Content-Type: application/json\r\nContent-Length: {}\r\n", body.len()));
    let head = format!("{method} {target} HTTP/1.1\r\nHost: localhost\r\n{headers}{}\r\n", of_body.unwrap_or_default());
    [head.as_bytes(), body.unwrap_or_default().as_bytes()].concat()
}

fn publication(topic: &str, data: impl std::fmt::Display) -> Vec<u8> {
    ask_for("/api/publish", "", Some(&format!(r#"{{"topic":"{topic}","data":{data}}}"#)))
}

const UPGRADE: &str = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                       Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

#[tokio::test]
async fn a_connection_publishes_asks_the_api_and_becomes_an_event_stream() {
    let server = serve(&settings()).await;
    let mut kept = Kept::open(&server).await;
    for seq in 1..=3 {
        let answer = kept.ask(publication("news", seq)).await;
        assert_eq!((answer.status, &answer.json()["seq"]), (200, &json!(seq)), "{answer:?}");
        assert!(!answer.head.contains("\r\nconnection:"), "{answer:?}");
        let answer = kept.ask(ask_for("/api/topics", "", None)).await;
        assert_eq!((answer.status, &answer.json()["topics"][0]["topic"]), (200, &json!("news")), "{answer:?}");
    }
    assert_eq!(kept.ask(ask_for("/api/history", "", Some(r#"{"topic":"news"}"#))).await.json()["seq"], 3);
    assert_eq!(server.janus.stats().connections_accepted, 1, "a connection counts once");
    kept.send(ask_for("/events?topic=news", "", None)).await;
    assert!(kept.up_to("\r\n\r\n").await.starts_with("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream"));
    kept.up_to("event: subscribed\n").await;
    server.janus.publish("news", "for the stream").await.unwrap();
    kept.up_to("for the stream").await;
}

#[tokio::test]
async fn a_connection_becomes_a_websocket_after_requests_of_either_kind() {
    let server = serve(&settings()).await;
    for first in [publication("news", 1), ask_for("/api/topics", "", None)] {
        let mut kept = Kept::open(&server).await;
        kept.ask(&first).await;
        // The first frame comes with the request, as a hasty client's may.
        let hello = janus_core::wire::websocket::client::text(r#"{"type":"hello"}"#, [0; 4]);
        kept.send([ask_for("/ws", UPGRADE, None), hello].concat()).await;
        assert!(kept.up_to("\r\n\r\n").await.starts_with("HTTP/1.1 101 "));
        kept.up_to("\"welcome\"").await;
    }
}

#[tokio::test]
async fn the_byte_rate_of_clients_holds_from_the_upgrade_on_and_not_for_publications_before() {
    let mut settings = settings();
    settings.core.client_bytes_rate = 64 * 1_024;
    settings.core.rate_patience = Duration::from_millis(200);
    let server = serve(&settings).await;
    let mut kept = Kept::open(&server).await;
    let large = "x".repeat(40_000);
    let begun = Instant::now();
    for _ in 0..40 {
        assert_eq!(kept.ask(publication("plain:a", format!("\"{large}\""))).await.status, 200);
    }
    assert!(begun.elapsed() < Duration::from_secs(15), "at the rate of clients these take 25 s");
    kept.send(ask_for("/ws", UPGRADE, None)).await;
    assert!(kept.up_to("\r\n\r\n").await.starts_with("HTTP/1.1 101 "));
    let text = |text: &str| janus_core::wire::websocket::client::text(text, [0; 4]);
    kept.send(text(r#"{"type":"hello"}"#)).await;
    // The publications have left no debt.
    kept.up_to("\"welcome\"").await;
    let flood = text(&format!(r#"{{"type":"publish","topic":"plain:a","data":"{large}"}}"#)).repeat(50);
    let (mut reader, mut writer) = kept.stream.split();
    let flooding = async {
        let _ = writer.write_all(&flood).await;
    };
    let reading = async {
        let mut received = Vec::new();
        while !String::from_utf8_lossy(&received).contains("rate_limited") {
            assert_ne!(reader.read_buf(&mut received).await.unwrap(), 0, "an end without a reason");
        }
    };
    timeout(PATIENCE, async { tokio::join!(flooding, reading) }).await.expect("the client is told");
}

#[tokio::test]
async fn requests_sent_ahead_are_answered_in_their_order() {
    let server = serve(&settings()).await;
    let mut subscriber = server.janus.subscribe("a").unwrap();
    let mut kept = Kept::open(&server).await;
    // To two topics in turn, so that the topics answer in different turns of the arbiter; and with errors between.
    let mut ahead = Vec::new();
    for number in 0..100 {
        ahead.extend(publication(["a", "plain:b"][number % 2], number));
        if number % 10 == 5 {
            ahead.extend(publication("", number));
            ahead.extend(ask_for("/api/topics?limit=0", "", None));
            ahead.extend(ask_for("/api/connections", "", None));
        }
    }
    kept.send(&ahead).await;
    for number in 0..100_u64 {
        let answer = kept.answer().await;
        let seq = if number % 2 == 0 { number / 2 + 1 } else { 0 };
        assert_eq!((answer.status, &answer.json()["seq"]), (200, &json!(seq)), "{number}: {answer:?}");
        if number % 10 == 5 {
            assert_eq!(kept.answer().await.error().0, "bad_topic");
            assert_eq!(kept.answer().await.error().0, "bad_request");
            assert!(kept.answer().await.json()["connections"].is_array());
        }
    }
    for number in (0..100).step_by(2) {
        let Some(Event::Message(message)) = subscriber.next().await else { panic!("a message comes") };
        assert_eq!(message.data(), number.to_string());
    }
    assert_eq!(server.api.requests.get("/api/publish", 200), 100);
    assert_eq!((server.api.requests.get("/api/publish", 400), server.api.requests.get("/api/topics", 400)), (10, 10));
}

#[tokio::test]
async fn requests_sent_ahead_of_the_end_of_the_stream_are_answered() {
    let server = serve(&settings()).await;
    let mut kept = Kept::open(&server).await;
    kept.send([publication("a", 1), ask_for("/api/topics", "", None), publication("plain:b", 2)].concat()).await;
    kept.stream.shutdown().await.unwrap();
    assert_eq!(kept.rest().await.matches("HTTP/1.1 200 OK").count(), 3);
}

#[tokio::test]
async fn the_client_decides_how_long_a_connection_is_kept() {
    let server = serve(&Settings { api_key: ApiKey::new(KEY), ..settings() }).await;
    let shown = format!("Authorization: Bearer {KEY}\r\n");
    let versions = [("HTTP/1.1", "", ""), ("HTTP/1.0", "Connection: Keep-Alive\r\n", "\r\nconnection: keep-alive\r\n")];
    for request in
        [ask_for("/api/publish", &shown, Some(r#"{"topic":"a","data":1}"#)), ask_for("/api/topics", &shown, None)]
    {
        let request = String::from_utf8(request).unwrap();
        for (version, headers, kept_by) in versions {
            let of_version = request.replacen("HTTP/1.1\r\n", &format!("{version}\r\n{headers}"), 1);
            let mut kept = Kept::open(&server).await;
            for _ in 0..3 {
                let answer = kept.ask(&of_version).await;
                assert_eq!((answer.status, answer.head.contains(kept_by)), (200, true), "{answer:?}");
            }
        }
        for (version, headers) in [("HTTP/1.1", "Connection: x, close\r\n"), ("HTTP/1.0", "")] {
            let of_version = request.replacen("HTTP/1.1\r\n", &format!("{version}\r\n{headers}"), 1);
            let mut closing = Kept::open(&server).await;
            closing.send([of_version.as_bytes(), of_version.as_bytes()].concat()).await;
            let all = closing.rest().await;
            assert_eq!(all.matches("\r\ncache-control: no-store\r\n").count(), 1, "{all}");
            assert!(all.contains("\r\nconnection: close\r\n"), "{all}");
        }
    }
}

#[tokio::test]
async fn a_connection_ends_behind_a_request_that_is_not_carried_out() {
    let server = serve(&Settings { api_key: ApiKey::new(KEY), max_api_connections: 1, ..settings() }).await;
    let shown = format!("Authorization: Bearer {KEY}\r\n");
    let get = |path: &str| String::from_utf8(ask_for(path, &shown, None)).unwrap();
    let ends = async |request: String, status: u16| {
        let mut kept = Kept::open(&server).await;
        // Behind a request that is carried out, and ahead of another that is not read any more.
        let publication = ask_for("/api/publish", &shown, Some(r#"{"topic":"a","data":1}"#));
        kept.send([publication, request.clone().into_bytes(), get("/api/topics").into_bytes()].concat()).await;
        assert_eq!(kept.answer().await.status, 200);
        let rest = kept.rest().await;
        assert!(rest.starts_with(&format!("HTTP/1.1 {status} ")), "{request}: {rest}");
        assert_eq!(
            (rest.matches("\r\nconnection: close\r\n").count(), rest.matches("\r\ndate: ").count()),
            (1, 1),
            "{rest}"
        );
    };
    ends(get("/api/topics").replacen(KEY, "another", 1), 401).await;
    ends(get("/nothing"), 404).await;
    ends(get("/api/topics").replacen("GET", "DELETE", 1), 405).await;
    ends(get("/api/openapi.json"), 200).await;
    let mut tracing = Kept::open(&server).await;
    tracing.send(get("/api/trace?seconds=10&kinds=connect")).await;
    tracing.up_to("\r\n\r\n").await;
    ends(get("/api/topics"), 503).await;
}

#[tokio::test]
async fn the_byte_rate_of_a_client_goes_on_behind_a_request_to_the_api() {
    let mut settings = settings();
    settings.core.client_bytes_rate = 64 * 1_024;
    let server = serve(&settings).await;
    let mut kept = Kept::open(&server).await;
    let cookie = format!("Cookie: {}\r\n", "x".repeat(15_000));
    for _ in 0..8 {
        assert_eq!(kept.ask(ask_for("/api/topics", &cookie, None)).await.status, 200);
    }
    assert!(server.janus.stats().bytes_rate_waits > 0, "120 kB have come, and 64 KiB may come at once");
}

#[tokio::test]
async fn a_client_behind_a_trusted_proxy_connects_once_with_its_requests_in_a_row() {
    let mut settings = Settings { api_key: ApiKey::new(KEY), ..settings() };
    settings.core.trusted_proxies = vec!["127.0.0.1/32".parse().unwrap()];
    settings.core.connect_rate_per_ip = 1;
    let server = serve(&settings).await;
    let request = |client: &str| {
        let headers = format!("Authorization: Bearer {KEY}\r\nX-Forwarded-For: {client}\r\n");
        ask_for("/api/topics", &headers, None)
    };
    let mut kept = Kept::open(&server).await;
    for number in 0..30 {
        assert_eq!(kept.ask(request("203.0.113.9")).await.status, 200, "{number}: ten may come at once");
    }
    assert_eq!(server.janus.stats().connections_refused_for_address, 0);
    // With the requests of others between, each is a connection.
    let mut refused = 0;
    for number in 0..60 {
        let answer = kept.ask(request(["203.0.113.9", "203.0.113.10"][number % 2])).await;
        if answer.status != 200 {
            assert_eq!(answer.status, 429);
            (kept, refused) = (Kept::open(&server).await, refused + 1);
        }
    }
    assert!(refused > 0);
}

#[tokio::test]
async fn a_mistake_in_a_message_leaves_the_connection_open_and_a_mistake_in_a_head_does_not() {
    let server = serve(&settings()).await;
    let mut kept = Kept::open(&server).await;
    for (body, code) in [("{", "bad_json"), ("[]", "bad_request"), (r#"{"topic":"","data":1}"#, "bad_topic")] {
        let answer = kept.ask(ask_for("/api/publish", "", Some(body))).await;
        assert_eq!((answer.status, &*answer.error().0), (400, code));
        assert!(!answer.head.contains("\r\nconnection:"), "{answer:?}");
    }
    assert_eq!(kept.ask(publication("news", 1)).await.status, 200);
    let good = String::from_utf8(publication("news", 1)).unwrap();
    for (bad, status) in [
        (good.replacen("application/json", "text/plain", 1), 415),
        (good.replacen("localhost", "evil.example", 1), 403),
        (good.replacen("Content-Length: ", "Content-Length: 9999999", 1), 413),
        (good.replacen("Host", "Transfer-Encoding: chunked\r\nHost", 1), 400),
        (good.replacen("Host", "Content-Length: 1\r\nHost", 1), 400),
        (good.replacen("Host", "Content-Length: 27\r\nHost", 1), 400),
        (good.replacen("Content-Length: 25", "Content-Length: 27\u{2003}", 1), 400),
        (good.replacen("Content-Length: 25", "Transfer-Encoding: chunked\u{a0}", 1), 400),
        (good.replacen("Host", " folded\r\nHost", 1), 400),
        (good.replacen("\r\nHost", "\nHost", 1), 400),
        (good.replacen("localhost", "local\rhost", 1), 400),
        (good.replacen("Host:", "Host :", 1), 400),
        ("\0garbage\r\n\r\n".to_owned(), 400),
    ] {
        let mut kept = Kept::open(&server).await;
        // A further request is not carried out, or a proxy in front might take its answer for that to another request.
        kept.send([publication("plain:b", 1), bad.clone().into(), publication("unseen", 1)].concat()).await;
        assert_eq!(kept.answer().await.status, 200, "{bad}");
        let rest = kept.rest().await;
        assert!(rest.starts_with(&format!("HTTP/1.1 {status} ")), "{bad}: {rest}");
        assert!(rest.contains("\r\nconnection: close\r\n") && rest.matches("HTTP/1.1").count() == 1, "{bad}: {rest}");
    }
    assert!(server.janus.topics().iter().all(|topic| topic.name.as_str() != "unseen"));
}

#[tokio::test]
async fn a_client_that_waits_for_a_word_before_its_body_gets_the_word() {
    let server = serve(&settings()).await;
    let body = r#"{"topic":"news","data":1}"#;
    let broadcast = r#"{"topics":["news"],"data":1}"#;
    for (path, body) in [("/api/publish", body), ("/api/broadcast", broadcast), ("/api/publish", body)] {
        let request = ask_for(path, "Expect: 100-continue\r\n", Some(body));
        let (head, body) = request.split_at(request.len() - body.len());
        let mut kept = Kept::open(&server).await;
        for _ in 0..2 {
            kept.send(head).await;
            assert_eq!(kept.up_to("\r\n\r\n").await, "HTTP/1.1 100 Continue\r\n\r\n", "{path}");
            assert_eq!(kept.ask(body).await.status, 200);
            assert_eq!(kept.ask(&request).await.status, 200, "the body is there already");
        }
        // A refusal comes in place of the word.
        let foreign = String::from_utf8(head.to_vec()).unwrap().replacen("localhost", "evil.example", 1);
        kept.send(foreign).await;
        assert!(kept.rest().await.starts_with("HTTP/1.1 403 "), "{path}");
    }
}

#[tokio::test]
async fn each_request_of_a_connection_is_allowed_or_refused_by_itself() {
    let server = serve(&Settings { api_key: ApiKey::new(KEY), ..settings() }).await;
    let shown = format!("Authorization: Bearer {KEY}\r\n");
    let message = Some(r#"{"topic":"a","data":1}"#);
    for unseen in [ask_for("/api/publish", "", message), ask_for("/api/topics", "", None)] {
        let mut kept = Kept::open(&server).await;
        for _ in 0..2 {
            assert_eq!(kept.ask(ask_for("/api/topics", &shown, None)).await.status, 200);
            assert_eq!(kept.ask(ask_for("/api/publish", &shown, message)).await.status, 200);
        }
        kept.send(unseen).await;
        assert!(kept.rest().await.starts_with("HTTP/1.1 401 "));
    }
    // A proxy keeps a connection for all its clients.
    let server = serve(&settings()).await;
    let foreign = "X-Forwarded-For: 203.0.113.9\r\n";
    for refused in [ask_for("/api/publish", foreign, message), ask_for("/api/topics", foreign, None)] {
        let mut kept = Kept::open(&server).await;
        for _ in 0..2 {
            assert_eq!(kept.ask(ask_for("/api/topics", "", None)).await.status, 200);
            assert_eq!(kept.ask(publication("a", 1)).await.status, 200);
        }
        kept.send(refused).await;
        assert!(kept.rest().await.starts_with("HTTP/1.1 403 "));
    }
}

#[tokio::test]
async fn a_silent_connection_is_closed_without_a_word_and_a_slow_body_with_one() {
    let mut settings = settings();
    settings.core.frame_timeout = Duration::from_millis(300);
    settings.core.api_idle_timeout = Duration::from_millis(1_200);
    let server = serve(&settings).await;
    for first in [publication("news", 1), ask_for("/api/topics", "", None)] {
        let mut silent = Kept::open(&server).await;
        assert_eq!(silent.ask(&first).await.status, 200);
        let answered = Instant::now();
        assert_eq!(silent.rest().await, "");
        assert!(answered.elapsed() >= Duration::from_millis(900), "longer than a frame may take");
        let request = publication("news", 1);
        for cut in [request.len() - 1, 10] {
            let mut slow = Kept::open(&server).await;
            assert_eq!(slow.ask(&first).await.status, 200);
            slow.send(&request[..cut]).await;
            let rest = slow.rest().await;
            assert!(rest.starts_with("HTTP/1.1 408 ") && rest.contains("frame_timeout"), "{rest}");
        }
    }
}

#[tokio::test]
async fn empty_lines_between_two_requests_gain_no_time() {
    let mut settings = settings();
    settings.core.api_idle_timeout = Duration::from_millis(500);
    let server = serve(&settings).await;
    for first in [publication("news", 1), ask_for("/api/topics", "", None)] {
        let mut idle = Kept::open(&server).await;
        assert_eq!(idle.ask(&first).await.status, 200);
        let mut lines = 0;
        // Some clients send an empty line behind a body, which is no part of the next request.
        while timeout(Duration::from_millis(100), idle.stream.readable()).await.is_err() {
            assert!(lines < 100, "still open after as many times of a fifth of api_idle_timeout");
            idle.send("\r\n").await;
            lines += 1;
        }
        assert!(lines > 0, "a line came in time");
        assert_eq!(idle.rest().await, "");
    }
}

#[tokio::test]
async fn connections_between_two_requests_make_room_for_others() {
    let mut settings = settings();
    (settings.core.max_connections, settings.core.reserved_connections) = (20, 20);
    let server = serve(&settings).await;
    let mut idle = Vec::new();
    for number in 0..100 {
        let mut kept = Kept::open(&server).await;
        let request = if number % 2 == 0 { publication("plain:a", 1) } else { ask_for("/api/topics", "", None) };
        assert_eq!(kept.ask(request).await.status, 200, "{number}");
        idle.push(kept);
        assert!(server.janus.stats().connections <= 40);
    }
    // Clients that stay find all of their places.
    let mut clients = Vec::new();
    for _ in 0..20 {
        let mut client = Kept::open(&server).await;
        client.send(ask_for("/events?topic=news", "", None)).await;
        client.up_to("event: subscribed\n").await;
        clients.push(client);
    }
    let mut one_more = Kept::open(&server).await;
    assert_eq!(one_more.ask(publication("news", 1)).await.json()["subscribers"], 20);
}

#[tokio::test]
async fn a_drain_closes_idle_connections_at_once_and_announces_the_end_in_the_last_answer() {
    let mut settings = settings();
    settings.core.drain_period = Duration::from_secs(20);
    settings.core.drain_timeout = Duration::from_secs(40);
    let server = serve(&settings).await;
    let (mut idle, mut busy) = (Kept::open(&server).await, Kept::open(&server).await);
    assert_eq!(idle.ask(publication("news", 1)).await.status, 200);
    assert_eq!(busy.ask(publication("news", 1)).await.status, 200);
    let request = publication("news", 2);
    busy.send(&request[..request.len() - 1]).await;
    let begun = Instant::now();
    let janus = server.janus.clone();
    let drain = tokio::spawn(async move { janus.shutdown().await });
    assert_eq!(idle.rest().await, "");
    busy.send(&request[request.len() - 1..]).await;
    let last = busy.rest().await;
    assert!(last.starts_with("HTTP/1.1 503 ") && last.contains("server_draining"), "{last}");
    assert!(last.contains("\r\nconnection: close\r\n"), "{last}");
    drain.await.unwrap();
    assert!(begun.elapsed() < Duration::from_secs(15), "nothing else is waited for");
}

#[tokio::test]
async fn a_trace_over_a_kept_connection_ends_with_its_last_line() {
    let server = serve(&settings()).await;
    let mut kept = Kept::open(&server).await;
    for _ in 0..2 {
        kept.send(ask_for("/api/trace?seconds=1&kinds=connect", "", None)).await;
        let head = kept.up_to("\r\n\r\n").await;
        assert!(head.contains("\r\ntransfer-encoding: chunked\r\n") && !head.contains("\r\nconnection:"), "{head}");
        assert!(kept.up_to("\r\n0\r\n\r\n").await.contains(r#""end":"seconds""#));
    }
    assert_eq!(kept.ask(ask_for("/api/topics", "", None)).await.status, 200);
}
