//! From the request to the WebSocket: accepted clients, and the answers to refused clients.

use std::net::SocketAddr;
use std::time::Duration;

use janus_core::Config;
use serde_json::{Value, json};

use super::{FIN, PING, Seen, Socket, frame, said, serve, upgrade};
use crate::support::Close;

/// The upgrade request with some headers changed: repeated for several values, left out for none.
fn changed(addr: SocketAddr, changes: &[(&str, &[&str])]) -> String {
    let request = upgrade(addr);
    let mut lines = request.trim_end().split("\r\n");
    let first = lines.next().expect("a request has a first line").to_owned();
    let name = |line: &str| line.split(':').next().unwrap_or_default().to_owned();
    let is_changed = |line: &&str| changes.iter().any(|(changed, _)| changed.eq_ignore_ascii_case(&name(line)));
    let kept = lines.filter(|line| !is_changed(line)).map(str::to_owned);
    let changed = changes.iter().flat_map(|(name, values)| values.iter().map(move |value| format!("{name}: {value}")));
    let lines = [first].into_iter().chain(kept).chain(changed);
    lines.map(|line| line + "\r\n").collect::<String>() + "\r\n"
}

/// The head of the answer to an accepted request.
async fn accepted(addr: SocketAddr, request: &str) -> String {
    let mut socket = Socket::connect(addr).await;
    socket.send(request).await;
    let head = socket.head().await;
    assert!(head.starts_with("HTTP/1.1 101 Switching Protocols\r\n"), "{request}{head}");
    // The connection is a WebSocket now, whatever was special about its request.
    assert_eq!(socket.ask(json!({"type": "hello"})).await["type"], "welcome", "{request}");
    head
}

/// Status, head and body of the answer to a refused request.
async fn refused(addr: SocketAddr, request: impl AsRef<[u8]>) -> (u16, String, Value) {
    let mut socket = Socket::connect(addr).await;
    socket.send(&request).await;
    let (head, body) = socket.refusal().await;
    let status = head["HTTP/1.1 ".len()..][..3].parse().expect("a status");
    assert!(body["error"]["message"].as_str().is_some_and(|message| !message.is_empty()), "{body}");
    (status, head, body["error"]["code"].clone())
}

#[tokio::test]
async fn the_key_in_the_rfc_has_the_answer_in_the_rfc() {
    let (_janus, addr) = serve(Config::default()).await;
    let head = accepted(addr, &upgrade(addr)).await.to_lowercase();
    for line in [
        "upgrade: websocket",
        "connection: upgrade",
        &"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=".to_lowercase(),
    ] {
        assert!(head.contains(&format!("\r\n{line}\r\n")), "{line}: {head}");
    }
    assert!(!head.contains("sec-websocket-extensions"), "{head}");
}

#[tokio::test]
async fn a_status_names_the_missing_part_of_a_request() {
    let (_janus, addr) = serve(Config::default()).await;
    let cases: [(&str, &[&str], u16, &str); 16] = [
        ("Upgrade", &[], 426, "upgrade_required"),
        ("Upgrade", &["h2c"], 426, "upgrade_required"),
        ("Connection", &[], 400, "bad_open"),
        ("Connection", &["keep-alive"], 400, "bad_open"),
        ("Sec-WebSocket-Version", &[], 426, "upgrade_required"),
        ("Sec-WebSocket-Version", &["8"], 426, "upgrade_required"),
        ("Sec-WebSocket-Version", &["13", "13"], 426, "upgrade_required"),
        ("Sec-WebSocket-Key", &[], 400, "bad_open"),
        ("Sec-WebSocket-Key", &["dG9vIHNob3J0"], 400, "bad_open"),
        ("Sec-WebSocket-Key", &["not base64, but 24 chars"], 400, "bad_open"),
        ("Sec-WebSocket-Key", &["dGhlIHNhbXBsZSBub25jZQ==", "dGhlIHNhbXBsZSBub25jZQ=="], 400, "bad_open"),
        ("Host", &[], 400, "bad_frame"),
        ("Host", &["a.example", "b.example"], 400, "bad_frame"),
        ("Content-Length", &["5"], 400, "bad_open"),
        ("Transfer-Encoding", &["chunked"], 400, "bad_open"),
        ("Bad Header", &["x"], 400, "bad_frame"),
    ];
    for (name, values, status, code) in cases {
        let (seen, head, error) = refused(addr, changed(addr, &[(name, values)])).await;
        assert_eq!((seen, &error), (status, &json!(code)), "{name}: {values:?}: {head}");
        if status == 426 {
            let head = head.to_lowercase();
            assert!(head.contains("\r\nsec-websocket-version: 13\r\n"), "{head}");
            assert!(head.contains("\r\nupgrade: websocket\r\n") && head.contains("\r\nconnection: upgrade, close\r\n"));
        }
    }
    let (status, head, error) = refused(addr, upgrade(addr).replacen("GET", "POST", 1)).await;
    assert_eq!((status, error), (405, json!("method_not_allowed")));
    assert!(head.to_lowercase().contains("\r\nallow: get, head\r\n"), "{head}");
    let (status, _, error) = refused(addr, upgrade(addr).replacen("HTTP/1.1", "HTTP/1.0", 1)).await;
    assert_eq!((status, error), (400, json!("bad_open")));
}

#[tokio::test]
async fn a_client_of_another_protocol_is_told_at_once() {
    let (_janus, addr) = serve(Config::default()).await;
    // Clients of TLS, of the classic protocol, of HTTP/2 and of a line protocol.
    let others: [&[u8]; 4] = [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"PUBLISH\0{\"topic\":\"news\"}\0",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"EHLO example\r\n\r\n",
    ];
    for bytes in others {
        let (status, _, error) = refused(addr, bytes).await;
        assert_eq!((status, error), (400, json!("bad_frame")), "{bytes:?}");
    }
}

#[tokio::test]
async fn header_lists_letter_case_and_proxies_make_no_difference() {
    let (_janus, addr) = serve(Config::default()).await;
    let spellings: [(&str, &[&str]); 6] = [
        ("CONNECTION", &["keep-alive, uPGRADE"]),
        ("connection", &["keep-alive", "upgrade"]),
        ("upgrade", &["WebSocket"]),
        ("content-length", &["0"]),
        ("sec-websocket-extensions", &["permessage-deflate; client_max_window_bits"]),
        ("x-forwarded-for", &["2001:db8::1"]),
    ];
    for change in spellings {
        let head = accepted(addr, &changed(addr, &[change])).await.to_lowercase();
        assert!(!head.contains("sec-websocket-extensions"), "{head}");
    }
    accepted(addr, &upgrade(addr).replacen("/ws", "/ws?client=7", 1)).await;
}

#[tokio::test]
async fn the_subprotocol_is_chosen_only_if_the_client_names_one() {
    let (_janus, addr) = serve(Config::default()).await;
    let chosen = "\r\nsec-websocket-protocol: janus.v1.json\r\n";
    let ours: [&[&str]; 4] =
        [&["janus.v1.json"], &["mqtt, janus.v1.json"], &["mqtt", "janus.v1.json"], &["janus.v1.json,janus.v2.cbor"]];
    for names in ours {
        let head = accepted(addr, &changed(addr, &[("Sec-WebSocket-Protocol", names)])).await.to_lowercase();
        assert!(head.contains(chosen), "{names:?}: {head}");
    }
    let head = accepted(addr, &changed(addr, &[("Sec-WebSocket-Protocol", &[])])).await.to_lowercase();
    assert!(!head.contains("sec-websocket-protocol"), "{head}");
    let others: [&[&str]; 3] = [&["mqtt"], &["janus.v2.json", "mqtt"], &["JANUS.V1.JSON"]];
    for names in others {
        let (status, _, error) = refused(addr, changed(addr, &[("Sec-WebSocket-Protocol", names)])).await;
        assert_eq!((status, error), (400, json!("bad_open")), "{names:?}");
    }
}

/// Whether pages of an origin may connect to a host.
async fn accepts_page(addr: SocketAddr, host: &str, origin: &[&str]) -> bool {
    let request = changed(addr, &[("Host", &[host]), ("Origin", origin)]);
    let mut socket = Socket::connect(addr).await;
    socket.send(&request).await;
    let head = socket.head().await;
    assert!(head.starts_with("HTTP/1.1 101 ") || head.starts_with("HTTP/1.1 403 "), "{request}{head}");
    head.starts_with("HTTP/1.1 101 ")
}

#[tokio::test]
async fn a_page_may_connect_only_to_its_own_host_and_port() {
    let (_janus, addr) = serve(Config::default()).await;
    let cases = [
        ("push.example", "http://push.example", true),
        ("push.example", "http://push.example:80", true),
        ("push.example:443", "https://push.example", true),
        ("push.example", "https://PUSH.example", true),
        ("push.example:8080", "http://push.example:8080", true),
        ("push.example:8080", "http://push.example", false),
        ("push.example", "http://push.example:8080", false),
        ("push.example:80", "https://push.example", false),
        ("push.example", "http://example", false),
        ("push.example", "http://push.example.evil.test", false),
        ("push.example", "http://evil.test/push.example", false),
        ("[::1]:8080", "http://[::1]:8080", true),
        ("[::1]:8080", "http://[::1]", false),
        ("push.example", "null", false),
        ("push.example", "", false),
        ("push.example", "*", false),
    ];
    for (host, origin, expected) in cases {
        assert_eq!(accepts_page(addr, host, &[origin]).await, expected, "{origin} to {host}");
    }
    assert!(accepts_page(addr, "push.example", &[]).await, "what is no browser has no origin");
    let (status, _, error) = refused(addr, changed(addr, &[("Origin", &["null"])])).await;
    assert_eq!((status, error), (403, json!("forbidden")));
}

#[tokio::test]
async fn allowed_origins_may_connect_in_addition() {
    let allowed_origins = vec!["https://app.example".to_owned(), "http://localhost:3000".to_owned()];
    let (_janus, addr) = serve(Config { allowed_origins, ..Config::default() }).await;
    let cases = [
        ("https://app.example", true),
        ("https://app.example:443", true),
        ("http://localhost:3000", true),
        ("http://push.example", true),
        ("http://app.example", false),
        ("https://app.example:444", false),
        ("http://localhost", false),
        ("null", false),
    ];
    for (origin, expected) in cases {
        assert_eq!(accepts_page(addr, "push.example", &[origin]).await, expected, "{origin}");
    }
}

#[tokio::test]
async fn a_star_allows_every_page() {
    let (_janus, addr) = serve(Config { allowed_origins: vec!["*".to_owned()], ..Config::default() }).await;
    for origin in ["https://evil.test", "null", "file://"] {
        assert!(accepts_page(addr, "push.example", &[origin]).await, "{origin}");
    }
}

#[tokio::test]
async fn half_a_head_or_no_head_is_a_timeout() {
    let (janus, addr) = serve(Config { frame_timeout: Duration::from_millis(100), ..Config::default() }).await;
    for (count, begun) in ["", "G", "GET /ws HTTP/1.1\r\nHost: a", "\r\n", upgrade(addr).trim_end()].iter().enumerate()
    {
        let (status, _, error) = refused(addr, begun).await;
        assert_eq!((status, error), (408, json!("frame_timeout")), "{begun}");
        assert_eq!(janus.stats().frames_timed_out, count as u64 + 1);
    }
}

#[tokio::test]
async fn a_head_over_the_limits_is_refused_before_its_end() {
    let (_janus, addr) = serve(Config { max_frame_bytes: 64, ..Config::default() }).await;
    // The limit of a head does not depend on the limit for messages.
    accepted(addr, &changed(addr, &[("Cookie", &["x".repeat(8_000).as_str()])])).await;
    let endless = format!("GET /ws HTTP/1.1\r\nCookie: {}", "x".repeat(17_000));
    let (status, _, error) = refused(addr, endless).await;
    assert_eq!((status, error), (431, json!("frame_too_large")));
    let many = vec!["x"; 65];
    let (status, _, error) = refused(addr, changed(addr, &[("X-Header", &many)])).await;
    assert_eq!((status, error), (431, json!("frame_too_large")));
    let lines = "\r\n".repeat(9_000);
    let (status, ..) = refused(addr, lines).await;
    assert!(status == 400 || status == 431, "{status}");
}

/// A request, and the client's frames right behind it.
fn impatient(addr: SocketAddr) -> Vec<u8> {
    let frames = [
        said(&json!({"type": "hello"})),
        said(&json!({"type": "subscribe", "id": 1, "topic": "news"})),
        frame(FIN | PING, "here"),
        said(&json!({"type": "publish", "topic": "news", "data": "first"})),
    ];
    [upgrade(addr).into_bytes(), frames.concat()].concat()
}

#[tokio::test]
async fn frames_right_behind_the_request_are_read_at_every_cut() {
    let (_janus, addr) = serve(Config::default()).await;
    let all = impatient(addr);
    let head = upgrade(addr).len();
    let cuts = [1, head / 2, head - 2, head, head + 1, head + 6, head + 30, all.len() - 1];
    for cut in cuts {
        let mut socket = Socket::connect(addr).await;
        for piece in [&all[..cut], &all[cut..]] {
            socket.send(piece).await;
        }
        assert!(socket.head().await.starts_with("HTTP/1.1 101 "), "cut at {cut}");
        assert_eq!(socket.json().await["type"], "welcome", "cut at {cut}");
        assert_eq!(socket.json().await["type"], "subscribed", "cut at {cut}");
        assert_eq!(socket.next().await, Seen::Pong(b"here".into()), "cut at {cut}");
        assert_eq!(socket.json().await["data"], "first", "cut at {cut}");
    }
}

#[tokio::test]
async fn a_client_that_sends_byte_by_byte_is_served_like_any_client() {
    let (_janus, addr) = serve(Config::default()).await;
    let mut socket = Socket::connect(addr).await;
    for byte in impatient(addr) {
        socket.send([byte]).await;
    }
    assert!(socket.head().await.starts_with("HTTP/1.1 101 "));
    for kind in ["welcome", "subscribed"] {
        assert_eq!(socket.json().await["type"], kind);
    }
    assert_eq!(socket.next().await, Seen::Pong(b"here".into()));
    assert_eq!(socket.json().await["data"], "first");
}

#[tokio::test]
async fn a_second_request_on_a_connection_is_ignored() {
    let (_janus, addr) = serve(Config::default()).await;
    // Behind an accepted request, a second request is no frame of a WebSocket.
    let mut socket = Socket::connect(addr).await;
    socket.send(upgrade(addr).repeat(2)).await;
    assert!(socket.head().await.starts_with("HTTP/1.1 101 "));
    assert!(matches!(socket.next().await, Seen::Close(Some(1002), _)));
    assert_eq!(socket.next().await, Seen::End(Close::Fin));
    // Behind a refused request, a second request gets no answer: the refusal announced the close.
    let bad = changed(addr, &[("Sec-WebSocket-Key", &[])]);
    let (status, ..) = refused(addr, bad + &upgrade(addr)).await;
    assert_eq!(status, 400);
}

#[tokio::test]
async fn a_request_cut_off_within_its_head_gets_no_websocket() {
    let (janus, addr) = serve(Config::default()).await;
    let mut socket = Socket::connect(addr).await;
    socket.send(upgrade(addr).trim_end()).await;
    socket.half_close().await;
    assert_eq!(socket.more().await, Err(Close::Fin));
    assert!(socket.received.is_empty());
    crate::support::until("it is gone", || janus.stats().connections == 0).await;
}
