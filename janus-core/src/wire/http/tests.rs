use proptest::prelude::*;

use super::head::MAX_HEAD_BYTES;
use super::*;
use crate::wire::{Epoch, Position, TopicName};

const LIMITS: Limits = Limits { max_frame_bytes: 65_536, max_topic_bytes: 255, max_topics: 3 };

/// An event stream in chunks.
const STREAM: usize = WEBSOCKET + 3;

/// The index of the WebSocket of JSON; that of CBOR is the next.
const WEBSOCKET: usize = 0;

fn port(origins: &[&str]) -> HttpPort {
    HttpPort::new(AllowedOrigins::new(origins.iter().copied()), Duration::from_secs(2))
}

/// The outcome of a connection, given its bytes in pieces.
#[derive(Debug, PartialEq, Eq)]
enum Seen {
    /// The decoder waits for more, in the middle of a head or not.
    Waits(bool),
    /// Refused with this response.
    Refused(String),
    /// Became the codec with this index, after these bytes, with these commands and this remaining input.
    Became(usize, Bytes, Vec<Command>, Vec<u8>),
    /// Passed on with all bytes received.
    PassedOn(Vec<u8>),
}

fn feed(port: &HttpPort, pieces: &[&[u8]]) -> Seen {
    let mut decoder = port.decoder();
    for (at, piece) in pieces.iter().enumerate() {
        let mut input = *piece;
        let Some(decoded) = decoder.decode(&mut input, &LIMITS) else {
            assert!(input.is_empty(), "a decoder that waits has taken everything");
            continue;
        };
        let rest = [input, &pieces[at + 1..].concat()].concat();
        return match decoded.unwrap() {
            Command::Close(response) => Seen::Refused(String::from_utf8(response.to_vec()).unwrap()),
            Command::PassOn => Seen::PassedOn([decoder.take_received(), rest].concat()),
            Command::Become(answer) => {
                let (place, mut successor) = decoder.successor().unwrap();
                let mut commands = Vec::new();
                while place > WEBSOCKET
                    && let Some(command) = successor.decode(&mut &[][..], &LIMITS)
                {
                    // The head of a stream has the time, and a random `retry`.
                    commands.push(match command.unwrap() {
                        Command::Preface(_) => Command::Preface(Bytes::new()),
                        command => command,
                    });
                }
                Seen::Became(place, answer, commands, rest)
            }
            other => panic!("{other:?}"),
        };
    }
    Seen::Waits(decoder.is_mid_frame())
}

fn head(first: &str, headers: &[(&str, &str)]) -> Vec<u8> {
    let lines: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    format!("{first} HTTP/1.1\r\nHost: push.example:8080\r\n{lines}\r\n").into_bytes()
}

#[track_caller]
fn assert_refused(seen: Seen, status: u16, parts: &[&str]) {
    let Seen::Refused(response) = seen else { panic!("{seen:?}") };
    assert!(response.starts_with(&format!("HTTP/1.1 {status} ")), "{response}");
    let (head, body) = response.split_once("\r\n\r\n").unwrap();
    let head = format!("{head}\r\n");
    assert!(head.contains(&format!("content-length: {}\r\n", body.len())), "{response}");
    assert!(head.contains("content-type: application/json\r\n") && head.contains("close\r\n"), "{response}");
    let body: serde_json::Value = serde_json::from_str(body).unwrap();
    assert!(body["error"]["code"].is_string() && body["error"]["message"].is_string(), "{body}");
    for part in parts {
        assert!(response.contains(part), "{part:?} is not in {response}");
    }
}

const UPGRADE: &[(&str, &str)] = &[
    ("Connection", "keep-alive, Upgrade"),
    ("Upgrade", "websocket"),
    ("Sec-WebSocket-Version", "13"),
    ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
];

#[test]
fn the_path_decides_the_protocol_of_a_connection() {
    let seen = feed(&port(&[]), &[&head("GET /ws", UPGRADE), b"\x81"]);
    let Seen::Became(WEBSOCKET, answer, _, rest) = seen else { panic!("{seen:?}") };
    assert!(answer.starts_with(b"HTTP/1.1 101 "));
    assert_eq!(rest, b"\x81", "what follows the head is the WebSocket's");

    let offer = |offer| [UPGRADE, &[("Sec-WebSocket-Protocol", offer)]].concat();
    for (offered, place) in [("janus.v1.json", WEBSOCKET), ("janus.v1.cbor, janus.v1.json", WEBSOCKET + 1)] {
        let seen = feed(&port(&[]), &[&head("GET /ws", &offer(offered))]);
        assert!(matches!(seen, Seen::Became(became, ..) if became == place), "{offered}");
    }

    let seen = feed(&port(&[]), &[&head("GET /events?topic=news", &[])]);
    let Seen::Became(STREAM, answer, commands, _) = seen else { panic!("{seen:?}") };
    assert!(answer.is_empty(), "a client that is refused later must not have read a 200");
    assert!(matches!(commands[1], Command::Open(_)) && commands.len() == 4, "{commands:?}");

    for path in ["/", "/api/topics", "/ws/", "/events/x", "/wsx?/ws", "*"] {
        let request = [&*head(&format!("POST {path}"), &[("Content-Length", "4")]), b"body"].concat();
        assert_eq!(feed(&port(&[]), &[&request]), Seen::PassedOn(request.clone()), "{path}");
    }
}

#[test]
fn on_loopback_a_name_with_the_own_port_must_be_listed() {
    let origins = AllowedOrigins::new(["http://dev.example:8080", "https://tls.example"]);
    let port = HttpPort::new(origins, Duration::ZERO).for_this_machine([8080, 80]);
    let seen = |host: &str| feed(&port, &[format!("GET /events?topic=a HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes()]);
    for host in [
        "dev.example:8080",
        "DEV.example:8080",
        "other.example:8081",
        "tls.example",
        "localhost",
        "a.localhost:8080",
        "[::1]:80",
    ] {
        assert!(matches!(seen(host), Seen::Became(STREAM, ..)), "{host}");
    }
    for host in
        ["other.example:8080", "dev.example", "other.example", "localhost.example:8080", "127.0.0.1.example:8080"]
    {
        let name = host.split(':').next().unwrap();
        assert_refused(seen(host), 403, &["forbidden", "localhost", &format!("http://{name}:"), "allowed_origins"]);
    }
}

#[test]
fn a_refused_request_gets_a_status_and_a_body_with_the_reason() {
    let refused = |request: &[u8], status, parts: &[&str]| assert_refused(feed(&port(&[]), &[request]), status, parts);
    refused(&head("GET /ws", &[]), 426, &["upgrade: websocket\r\n", "sec-websocket-version: 13\r\n"]);
    refused(&head("POST /events?topic=a", &[]), 405, &["allow: GET, HEAD\r\n", "method_not_allowed"]);
    refused(&head("GET /events", &[]), 400, &["bad_topic", "topic=news"]);
    refused(&head("GET /events?topic=a&topic=b&topic=a", &[]), 400, &["bad_topic", "number 3: duplicate topic a"]);
    refused(&head("GET /events?topic=a&topic=b&topic=c&topic=d", &[]), 400, &["too_many_topics", "3 topics"]);
    refused(&head("GET /events?topic=a&topic=a%0Ab", &[]), 400, &["bad_topic", "number 2", "control characters"]);
    refused(&head("GET /events?topic=", &[]), 400, &["bad_topic", "empty"]);
    refused(&head("GET /events?topic=a", &[("Content-Length", "1")]), 400, &["must not have a body"]);
    refused(&head("GET /events?topic=a", &[("Transfer-Encoding", "chunked")]), 400, &["must not have a body"]);
    refused(&head("GET /events?topic=a", &[("Origin", "https://evil.example")]), 403, &["allowed_origins"]);
    let with_upgrade = [UPGRADE, &[("Origin", "null")]].concat();
    refused(&head("GET /ws", &with_upgrade), 403, &["allowed_origins"]);
    refused(b"GET /ws HTTP/1.0\r\n\r\n", 400, &["HTTP/1.1"]);
    refused(b"GET /events?topic=a HTTP/1.1\r\n\r\n", 400, &["one Host"]);
    refused(&head("GET /events?topic=a", &[("host", "other")]), 400, &["one Host"]);
    refused(b"GET /ws HTTP/1.1\r\n nonsense\r\n\r\n", 400, &["bad_frame"]);
    refused(b"GET\r\n\r\n", 400, &["bad_frame"]);
    refused(b"GET / HTTP/9.9\r\n\r\n", 400, &["bad_frame"]);
}

#[test]
fn a_body_is_found_in_any_of_several_headers() {
    for path in ["GET /ws", "GET /events?topic=a"] {
        for body in [
            &[("Content-Length", "0"), ("Content-Length", "5")][..],
            &[("Content-Length", "5"), ("Content-Length", "0")],
            &[("Content-Length", "0, 5")],
            &[("Content-Length", "0"), ("Transfer-Encoding", "chunked")],
            &[("Transfer-Encoding", "identity")],
        ] {
            let request = head(path, &[UPGRADE, body].concat());
            assert_refused(feed(&port(&[]), &[&request, b"hello"]), 400, &["bad_open", "must not have a body"]);
        }
        let request = head(path, &[UPGRADE, &[("Content-Length", "0"), ("content-length", " 0 ")]].concat());
        assert!(matches!(feed(&port(&[]), &[&request]), Seen::Became(..)), "{path}: none is none");
    }
}

#[test]
fn a_target_in_absolute_form_is_its_path_on_its_host() {
    let request = |first: &str| format!("{first} HTTP/1.1\r\nHost: evil.example\r\n\r\n").into_bytes();
    for target in ["http://push.example:8080/events?topic=a", "HTTPS://push.example/events?topic=a"] {
        let seen = feed(&port(&[]), &[&request(&format!("GET {target}"))]);
        let Seen::Became(STREAM, _, commands, _) = seen else { panic!("{target}: {seen:?}") };
        let Command::Open(open) = &commands[1] else { panic!("{commands:?}") };
        let asked = open.request.as_deref().unwrap();
        assert_eq!(asked.target, "/events?topic=a");
        let hosts = asked.headers.iter().filter(|(name, _)| name == "host").collect::<Vec<_>>();
        assert!(matches!(hosts[..], [(_, host)] if host.starts_with("push.example")), "{hosts:?}");
    }
    // The host of the target decides, and not the header.
    let from = |origin: &str| {
        let lines = format!("Host: evil.example\r\nOrigin: {origin}\r\n\r\n");
        feed(&port(&[]), &[format!("GET http://push.example/events?topic=a HTTP/1.1\r\n{lines}").as_bytes()])
    };
    assert!(matches!(from("http://push.example"), Seen::Became(..)));
    assert_refused(from("http://evil.example"), 403, &["forbidden"]);
    let on_loopback = port(&[]).for_this_machine([8080]);
    let lines = "Host: localhost:8080\r\n\r\n";
    let rebound = format!("GET http://evil.example:8080/events?topic=a HTTP/1.1\r\n{lines}");
    assert_refused(feed(&on_loopback, &[rebound.as_bytes()]), 403, &["evil.example"]);
    // Targets of other kinds are passed on, or have no host.
    let passed_on = request("GET http://push.example");
    assert_eq!(feed(&port(&[]), &[&passed_on]), Seen::PassedOn(passed_on.clone()));
    for target in ["http:///events?topic=a", "http://user@push.example/events?topic=a", "http://?topic=a"] {
        assert_refused(feed(&port(&[]), &[&request(&format!("GET {target}"))]), 400, &["bad_frame", "no host"]);
    }
}

#[test]
fn the_answer_to_a_head_request_has_no_body() {
    for path in ["/events", "/ws", "/api?<"] {
        let seen = feed(&port(&[]), &[&head(&format!("HEAD {path}"), &[])]);
        let Seen::Refused(response) = seen else { panic!("{seen:?}") };
        let (head, body) = response.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 4") && !head.contains("content-length: 0"), "{response}");
        assert_eq!(body, "");
    }
}

#[test]
fn bad_heads_for_the_server_behind_the_port_are_refused_with_a_reason() {
    let refused = |first: &str, headers: &[(&str, &str)], part: &str| {
        assert_refused(feed(&port(&[]), &[&head(first, headers)]), 400, &["bad_frame", part]);
    };
    for target in ["/api/topics?a=<>|^", "/api/\"", "/api/`", "api/topics", "ftp://a/b"] {
        refused(&format!("GET {target}"), &[], "target");
    }
    for length in ["", "5, 5", "+5", "five", "-1", "18446744073709551615", "99999999999999999999"] {
        refused("POST /api/publish", &[("Content-Length", length)], "Content-Length");
    }
    refused("POST /api/publish", &[("Content-Length", "22"), ("Content-Length", "5")], "Content-Length");
    let chunked = ("Transfer-Encoding", "chunked");
    for coding in ["xchunked", "identity", "chunked, gzip", ""] {
        refused("POST /api/publish", &[chunked, ("Transfer-Encoding", coding)], "Transfer-Encoding");
    }
    let old = b"POST /api/publish HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n";
    assert_refused(feed(&port(&[]), &[old]), 400, &["HTTP/1.0"]);
    refused("POST /api/publish", &[("Content-Length", "5"); 2], "Content-Length");
    refused("POST /api/publish", &[("Content-Length", "5"), chunked], "exclude each other");
    for headers in [&[chunked][..], &[("Transfer-Encoding", "gzip, Chunked")], &[("Content-Length", "5")]] {
        let request = head("POST /api/publish?a=|^`{}[]%<#<>".replace("%<", "%3C").as_str(), headers);
        assert_eq!(feed(&port(&[]), &[&request]), Seen::PassedOn(request.clone()));
    }
    for first in ["OPTIONS *", "CONNECT push.example:443"] {
        assert!(matches!(feed(&port(&[]), &[&head(first, &[])]), Seen::PassedOn(_)), "{first}");
    }
}

#[test]
fn without_an_origin_sec_fetch_site_tells_pages_of_other_sites() {
    let from = |origins: &[&str], site: &str| {
        feed(&port(origins), &[&head("GET /events?topic=a", &[("Sec-Fetch-Site", site)])])
    };
    for site in ["same-origin", "none", ""] {
        assert!(matches!(from(&[], site), Seen::Became(..)), "{site}");
    }
    for site in ["cross-site", "same-site"] {
        assert_refused(from(&["https://app.example"], site), 403, &["allowed_origins"]);
        assert!(matches!(from(&["*"], site), Seen::Became(..)), "{site}");
    }
    // A page with a known origin may come from another site, if its origin is allowed.
    let said = [("Origin", "https://app.example"), ("Sec-Fetch-Site", "cross-site")];
    assert!(matches!(feed(&port(&["https://app.example"]), &[&head("GET /events?topic=a", &said)]), Seen::Became(..)));
}

#[test]
fn a_page_of_an_allowed_origin_may_read_its_refusal() {
    let asked = |origin| feed(&port(&["https://app.example"]), &[&head("GET /events", &[("Origin", origin)])]);
    let lines = "access-control-allow-origin: https://app.example\r\n";
    assert_refused(
        asked("https://app.example"),
        400,
        &["bad_topic", lines, "access-control-expose-headers: retry-after\r\n"],
    );
    let Seen::Refused(response) = asked("https://evil.example") else { panic!() };
    assert!(!response.contains("access-control"), "{response}");
}

#[test]
fn a_client_with_another_protocol_is_told_at_once() {
    for start in [&b"\x16\x03\x01\x02\x00"[..], b"<regular-socket/>\0", b"PING\0", b"GET /ws\x7f"] {
        assert_refused(feed(&port(&[]), &[start]), 400, &["speaks HTTP"]);
    }
}

#[test]
fn a_head_has_a_limit_in_bytes_and_in_headers() {
    let filler = |length: usize| "x".repeat(length);
    let fixed = head("GET /", &[("X", "")]).len();
    for (length, fits) in [(MAX_HEAD_BYTES, true), (MAX_HEAD_BYTES + 1, false)] {
        let request = head("GET /", &[("X", &filler(length - fixed))]);
        for pieces in [vec![&request[..]], request.chunks(1_000).collect()] {
            let seen = feed(&port(&[]), &pieces);
            if fits {
                assert_eq!(seen, Seen::PassedOn(request.clone()));
            } else {
                assert_refused(seen, 431, &["16384"]);
            }
        }
    }
    let headers = |count: usize| vec![("a", "b"); count - 1];
    assert!(matches!(feed(&port(&[]), &[&head("GET /", &headers(64))]), Seen::PassedOn(_)));
    assert_refused(feed(&port(&[]), &[&head("GET /", &headers(65))]), 431, &["64 headers"]);
}

#[test]
fn empty_lines_before_a_head_are_ignored_up_to_a_limit() {
    let request = head("GET /", &[]);
    assert_eq!(feed(&port(&[]), &[b"\r\n", b"\r", b"\n", &request]), Seen::PassedOn(request.clone()));
    assert_eq!(feed(&port(&[]), &[b"\r\n"]), Seen::Waits(true), "so that its time is limited");
    assert_eq!(feed(&port(&[]), &[b""]), Seen::Waits(false));
    let lines = "\r\n".repeat(MAX_HEAD_BYTES);
    assert_refused(feed(&port(&[]), &[lines.as_bytes()]), 400, &["empty lines"]);
}

#[test]
fn a_refusal_of_the_server_is_a_status_with_the_time_to_come_back() {
    let port = port(&[]);
    let encoded = |code, reconnect_after| {
        let mut out = BytesMut::new();
        let refusal = Refusal { id: None, code, message: "why \"it\" is so", reconnect_after, status: None };
        port.encode(&ServerEvent::Refused(refusal), &Timestamp::default(), &mut out);
        Seen::Refused(String::from_utf8(out.to_vec()).unwrap())
    };
    let after = Some(Duration::from_millis(4_001));
    assert_refused(encoded(ErrorCode::TooManyConnections, after), 503, &["retry-after: 5\r\n", "too_many_connections"]);
    assert_refused(encoded(ErrorCode::ServerDraining, None), 503, &["retry-after: 1\r\n", r#"why \"it\" is so"#]);
    assert_refused(encoded(ErrorCode::FrameTimeout, None), 408, &["frame_timeout"]);
    assert_refused(encoded(ErrorCode::Unauthorized, None), 401, &["www-authenticate: Bearer\r\n"]);
    assert_refused(encoded(ErrorCode::Forbidden, None), 403, &["forbidden"]);
}

#[test]
fn an_origin_without_a_port_has_the_port_of_its_scheme() {
    let check = |origins: &[&str], origin: &str, host: &str| {
        let headers = vec![("host".to_owned(), host.to_owned()), ("origin".to_owned(), origin.to_owned())];
        AllowedOrigins::new(origins.iter().copied()).check(&HttpRequest { headers, ..HttpRequest::default() }).is_ok()
    };
    for (origin, host) in [
        ("http://a.example", "a.example"),
        ("http://a.example", "A.Example:80"),
        ("http://a.example:80", "a.example"),
        ("https://a.example", "a.example"),
        ("https://a.example", "a.example:443"),
        ("http://a.example:8080", "a.example:8080"),
        ("http://[::1]:8080", "[::1]:8080"),
        ("http://[::1]", "[::1]"),
        ("http://127.0.0.1:8080", "127.0.0.1:8080"),
    ] {
        assert!(check(&[], origin, host), "{origin} {host}");
    }
    for (origin, host) in [
        ("http://a.example", "b.example"),
        ("http://a.example", "a.example:8080"),
        ("http://a.example:8080", "a.example"),
        ("https://a.example", "a.example:80"),
        ("http://a.example", "a.example.evil"),
        ("http://a.example@evil", "a.example"),
        ("null", "null"),
        ("", ""),
        ("a.example", "a.example"),
        ("file://", ""),
        ("http://a.example/", "a.example"),
        ("http://[::1]", "[::1"),
        ("http://a.example:99999", "a.example:99999"),
    ] {
        assert!(!check(&[], origin, host), "{origin} {host}");
        assert!(check(&["*"], origin, host), "any is any: {origin}");
    }
    let listed = ["https://app.example", "http://localhost:3000"];
    for origin in ["https://app.example", "https://APP.example:443", "http://localhost:3000"] {
        assert!(check(&listed, origin, "push.example"), "{origin}");
    }
    for origin in ["http://app.example", "https://app.example:8443", "http://localhost", "https://x.app.example"] {
        assert!(!check(&listed, origin, "push.example"), "{origin}");
    }
}

#[test]
fn only_an_origin_or_a_star_can_be_listed() {
    for good in [
        "*",
        "https://a.example",
        "http://localhost:3000",
        "http://[::1]:80",
        "app+x://bundle",
        "null",
        "file://",
        "https://*.a.example",
    ] {
        assert!(AllowedOrigins::is_origin(good), "{good}");
    }
    for bad in
        ["", "a.example", "https://", "https://a.example/", "https://a*.example", "https://*", "://a", "http://a:b"]
    {
        assert!(!AllowedOrigins::is_origin(bad), "{bad}");
    }
}

#[test]
fn a_preflight_is_answered_for_an_allowed_origin_alone() {
    let request = |origin| head("OPTIONS /events?topic=a", &[("Origin", origin)]);
    let allowing = port(&["https://app.example"]);
    let Seen::Refused(response) = feed(&allowing, &[&request("https://app.example")]) else { panic!() };
    assert!(response.starts_with("HTTP/1.1 204 "), "{response}");
    assert!(response.contains("access-control-allow-origin: https://app.example\r\n"), "{response}");
    assert!(response.contains("last-event-id"), "{response}");
    assert_refused(feed(&allowing, &[&request("https://evil.example")]), 403, &[]);
}

#[test]
fn after_its_decision_a_decoder_only_swallows_bytes() {
    let port = port(&[]);
    let mut decoder = port.decoder();
    assert!(matches!(decoder.decode(&mut &b"\x16"[..], &LIMITS), Some(Ok(Command::Close(_)))));
    let mut input = &b"GET /ws HTTP/1.1\r\n\r\n"[..];
    assert_eq!(decoder.decode(&mut input, &LIMITS), None);
    assert!(input.is_empty() && !decoder.is_mid_frame() && decoder.successor().is_none());
}

/// Texts close to a head.
fn nearly_a_head() -> impl Strategy<Value = Vec<u8>> {
    let part = proptest::sample::select(vec![
        "GET ",
        "/ws",
        "/events?topic=a",
        "?",
        "%",
        "%0",
        " HTTP/1.1",
        " HTTP/1.0",
        "\r\n",
        "\n",
        "\r",
        "\r\n\r\n",
        "Host: a",
        "Origin: ",
        "http://a",
        "https://[::1",
        ":",
        "Last-Event-ID: ",
        "Upgrade: websocket",
        "\t",
        "\u{0}",
        "é",
        "x",
    ]);
    let bytes = prop_oneof![
        8 => part.prop_map(|part| part.as_bytes().to_vec()),
        1 => any::<u8>().prop_map(|byte| vec![byte]),
    ];
    proptest::collection::vec(bytes, 0..30).prop_map(|parts| parts.concat())
}

fn pieces<'a>(bytes: &'a [u8], cuts: &[prop::sample::Index]) -> Vec<&'a [u8]> {
    let mut at: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
    at.sort_unstable();
    let starts = std::iter::once(0).chain(at.clone());
    starts.zip(at.iter().copied().chain([bytes.len()])).map(|(from, to)| &bytes[from..to]).collect()
}

proptest! {
    #[test]
    fn a_head_decodes_to_the_same_at_any_split(
        request in prop_oneof![
            Just(head("GET /events?topic=a&topic=b%2B", &[("Last-Event-ID", "9f86d081884c7d65.41")])),
            Just(head("GET /ws", UPGRADE)),
            Just([&*head("POST /api/publish", &[("Content-Length", "2")]), b"{}"].concat()),
            Just(b"\r\nGET / HTTP/1.1\nHost: a\n\n\xff\x00".to_vec()),
            nearly_a_head(),
        ],
        cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..6),
    ) {
        let port = port(&["https://app.example"]);
        prop_assert_eq!(feed(&port, &pieces(&request, &cuts)), feed(&port, &[&request]));
    }

    #[test]
    fn whatever_comes_is_decided_on_or_waited_for(mut request in nearly_a_head()) {
        request.extend_from_slice(b"\r\n\r\n");
        let seen = feed(&port(&["*"]), &[&request]);
        let only_empty_lines = request.iter().all(|byte| b"\r\n".contains(byte));
        prop_assert_eq!(matches!(seen, Seen::Waits(_)), only_empty_lines, "{:?}", seen);
    }

    #[test]
    fn no_origin_can_write_a_line_of_its_own(origin in "[a-z:/\\.\\*0-9\\[\\]@ \t]{0,30}") {
        let headers = vec![("origin".to_owned(), origin.clone())];
        let request = HttpRequest { headers, ..HttpRequest::default() };
        let cors = AllowedOrigins::new(["*", &origin]).cors(&request);
        prop_assert!(cors.lines().count() <= 3);
        prop_assert!(cors.is_empty() || cors.starts_with("access-control-allow-origin: "));
    }
}

#[test]
fn an_operator_can_list_subdomains_sandboxed_frames_and_files() {
    let origins = AllowedOrigins::new(["https://*.example.com", "null", "file://"]);
    let from = |origin: &str| {
        let headers = [("host", "push.example.com"), ("origin", origin)];
        let request = HttpRequest {
            headers: headers.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
            ..HttpRequest::default()
        };
        (origins.check(&request).is_ok(), origins.cors(&request))
    };
    for origin in ["https://app.example.com", "https://a.b.example.com", "null", "file://"] {
        let (allowed, cors) = from(origin);
        assert!(allowed && cors.starts_with(&format!("access-control-allow-origin: {origin}\r\n")), "{origin}: {cors}");
    }
    for origin in [
        "https://example.com",
        "https://.example.com",
        "https://evilexample.com",
        "http://app.example.com",
        "https://app.example.com:444",
        "https://app.example.com.evil",
    ] {
        assert_eq!(from(origin), (false, String::new()), "{origin}");
    }
    assert!(
        AllowedOrigins::default()
            .check(&HttpRequest {
                headers: vec![("host".into(), "a".into()), ("origin".into(), "null".into())],
                ..HttpRequest::default()
            })
            .is_err()
    );
}

#[test]
fn a_line_ends_with_cr_and_lf() {
    let good = "GET /x HTTP/1.1\r\nHost: a\r\nX: y\r\n\r\n";
    assert!(matches!(feed(&port(&[]), &[good.as_bytes()]), Seen::PassedOn(_)));
    let lines: Vec<usize> = good.match_indices("\r\n").map(|(at, _)| at).collect();
    for at in lines {
        for (what, with) in [("a bare LF", "\n"), ("a bare CR", "\r"), ("two CRs", "\r\r\n")] {
            let bad = [&good[..at], with, &good[at + 2..]].concat();
            let seen = feed(&port(&[]), &[bad.as_bytes()]);
            // A bare CR at the end waits for its LF.
            assert!(matches!(seen, Seen::Refused(_)) || bad.ends_with('\r'), "{what} at {at}: {seen:?}");
        }
    }
    assert_refused(feed(&port(&[]), &[b"GET /x HTTP/1.1\r\nHost: a\r\n folded\r\n\r\n"]), 400, &["bad_frame"]);
}

/// A port at which requests with the header `key` publish, and the statuses of its answers.
fn publishing() -> (HttpPort, Arc<parking_lot::Mutex<Vec<u16>>>) {
    let statuses = Arc::<parking_lot::Mutex<Vec<u16>>>::default();
    let noted = Arc::clone(&statuses);
    let route = PublishRoute::new("/publish", |request, is_local| match request.header("key") {
        None if !is_local => Err(HttpError::new(401, "unauthorized", "show a key")),
        _ => Ok(()),
    });
    (port(&[]).publish_route(route.on_answer(move |status| noted.lock().push(status))), statuses)
}

/// All commands for this input, in pieces, of a client elsewhere; and the input behind the end of reading.
fn commands(port: &HttpPort, pieces: &[&[u8]]) -> Vec<String> {
    let mut decoder = port.decoder();
    let mut commands = Vec::new();
    for piece in pieces {
        let mut input = *piece;
        while let Some(command) = decoder.decode(&mut input, &LIMITS) {
            let command = command.unwrap();
            if command == Command::Admit {
                decoder.admit(false);
            }
            let text = match command {
                Command::Close(response) => {
                    let text = String::from_utf8(response.to_vec()).unwrap();
                    format!("Close {}", text.lines().next().unwrap_or_default())
                }
                Command::Submit { topic, publication, last, .. } => {
                    let bytes = publication.base64().map(|base64| format!("{:?} ", base64.decode()));
                    format!("Submit {topic} {}{} {last}", bytes.unwrap_or_default(), publication.data())
                }
                Command::Refused(error) => {
                    assert!(!error.is_fatal() && error.id.is_some());
                    format!("Refused {}", error.code)
                }
                command => format!("{command:?}"),
            };
            commands.push(text);
            if decoder.is_idle() {
                assert!(!decoder.is_mid_frame() && decoder.buffered() == 0);
            }
        }
        assert!(input.is_empty(), "a decoder that waits has taken everything");
    }
    commands
}

fn submission(headers: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    let head = "POST /publish HTTP/1.1\r\nHost: a\r\nContent-Type: application/json; charset=utf-8\r\n";
    format!("{head}{headers}Content-Length: {length}\r\n\r\n{body}").into_bytes()
}

const MESSAGE: &str = r#"{"topic":"news","event":"e","data": [1.50] }"#;

#[test]
fn requests_of_a_publishing_route_follow_each_other() {
    let (port, statuses) = publishing();
    let key = "key: k\r\n";
    let all = [
        submission(key, MESSAGE),
        submission(key, "{"),
        submission(key, r#"{"topic":"","data":1}"#),
        submission(&format!("{key}Connection: close\r\n"), MESSAGE),
        submission(key, MESSAGE),
    ];
    let expected = [
        "Admit",
        "Submit news [1.50] false",
        "Admit",
        "Refused bad_json",
        "Admit",
        "Refused bad_topic",
        "Admit",
        "Submit news [1.50] true",
    ];
    assert_eq!(commands(&port, &[&all.concat()]), expected);
    assert_eq!(*statuses.lock(), [0; 0], "the answers are not there yet");
    assert_eq!(commands(&port, &[&submission("", MESSAGE), b"more"]), ["Admit", "Close HTTP/1.1 401 Unauthorized"]);
    assert_eq!(*statuses.lock(), [401]);
    for (request, status) in [
        (head("GET /publish", &[]), "PassOn"),
        (head("POST /publish?a=b", &[("key", "k")]), "Close HTTP/1.1 400 Bad Request"),
        (head("POST /publish", &[("key", "k")]), "Close HTTP/1.1 415 Unsupported Media Type"),
        (submission(key, &"x".repeat(70_000)), "Close HTTP/1.1 413 Content Too Large"),
    ] {
        assert_eq!(commands(&port, &[&request]).last().unwrap(), status);
    }
}

#[test]
fn a_body_of_bytes_is_the_payload_and_the_query_has_the_rest() {
    let (port, _) = publishing();
    let request = |query: &str, body: &[u8]| {
        let head = format!(
            "POST /publish?{query} HTTP/1.1\r\nHost: a\r\nkey: k\r\nContent-Type: Application/Octet-Stream\r\n"
        );
        [head.as_bytes(), format!("Content-Length: {}\r\n\r\n", body.len()).as_bytes(), body].concat()
    };
    let all = [
        request("topic=a%3Ab", b"\0\xff"),
        request("topic=news&event=e&message_id=%C3%A9", b""),
        request("", b"x"),
        request("topic=", b"x"),
        request("topic=a&topic=b", b"x"),
        request("topic=a&data=b", b"x"),
        request("topic=%FF", b"x"),
        request("topic=news", b"x"),
    ];
    let expected = [
        "Submit a:b [0, 255] null false",
        "Submit news [] null false",
        "Refused bad_topic",
        "Refused bad_topic",
        "Refused bad_request",
        "Refused bad_request",
        "Refused bad_request",
        "Submit news [120] null false",
    ];
    let commands = |input: &[u8]| commands(&port, &[input]).into_iter().filter(|command| command != "Admit");
    assert_eq!(commands(&all.concat()).collect::<Vec<_>>(), expected);
    // The limit counts the bytes as they are: as base64 the longest message is longer than the limit.
    let longest =
        LIMITS.max_frame_bytes - r#""topic":"news","event":"","message_id":"","data":null,"data_base64":""}"#.len() - 1;
    for (length, outcome) in
        [(longest, "Submit"), (longest + 1, "Refused bad_publish"), (LIMITS.max_frame_bytes + 1, "Close")]
    {
        let outcomes: Vec<_> = commands(&request("topic=news", &vec![b'x'; length])).collect();
        assert!(outcomes.len() == 1 && outcomes[0].starts_with(outcome), "{length} bytes");
    }
}

#[test]
fn json_may_carry_bytes_as_base64() {
    let (port, _) = publishing();
    for (members, outcome) in [
        (r#""data_base64":"AP8=""#, "Submit news [0, 255] null false"),
        (r#""data":null,"data_base64":"A\u0050\/=""#, "Refused bad_publish"),
        (r#""data":null,"data_base64":"A\u00508=""#, "Submit news [0, 255] null false"),
        (r#""data":1,"data_base64":null"#, "Submit news 1 false"),
        (r#""data":1,"data_base64":"AP8=""#, "Refused bad_publish"),
        (r#""data_base64":"AP8""#, "Refused bad_publish"),
        (r#""data_base64":7"#, "Refused bad_request"),
        (r#""data_base64":null"#, "Refused bad_request"),
        (r#""data":null"#, "Submit news null false"),
    ] {
        let request = submission("key: k\r\n", &format!(r#"{{"topic":"news",{members}}}"#));
        assert_eq!(commands(&port, &[&request])[1], outcome, "{members}");
    }
}

#[test]
fn an_answer_of_a_publishing_route_says_what_becomes_of_the_connection() {
    let (port, statuses) = publishing();
    let topic = TopicName::new("news", 4).unwrap();
    let answer = |headers: &str, last: bool| {
        let mut decoder = port.decoder();
        let request = submission(&format!("key: k\r\n{headers}"), MESSAGE);
        let mut input = &request[..];
        assert_eq!(decoder.decode(&mut input, &LIMITS), Some(Ok(Command::Admit)));
        decoder.admit(false);
        let Some(Ok(Command::Submit { id, .. })) = decoder.decode(&mut input, &LIMITS) else { panic!() };
        let position = Position { epoch: Epoch::new(1), seq: 2 };
        let mut out = BytesMut::new();
        let codec: Arc<dyn Codec> = match last {
            true => Arc::clone(&port.successors()[decoder.closing().unwrap()]),
            false => Arc::new(port.clone()),
        };
        let event = ServerEvent::Published { id, topic: &topic, position, subscribers: 3, again: false };
        codec.encode(&event, &Timestamp::default(), &mut out);
        String::from_utf8(out.to_vec()).unwrap()
    };
    let kept = answer("", false);
    let (head, body) = kept.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"), "{head}");
    assert!(head.contains("\r\ndate: ") && !head.contains("connection"), "{head}");
    assert!(head.contains(&format!("\r\ncontent-length: {}\r\n", body.len())), "{head}");
    assert_eq!(body, r#"{"epoch":"0000000000000001","seq":2,"subscribers":3}"#);
    assert!(answer("", true).contains("\r\nconnection: close\r\n"));
    assert!(answer("Connection: close\r\n", false).contains("\r\nconnection: close\r\n"));
    assert_eq!(*statuses.lock(), [200; 3]);
}

#[test]
fn nothing_is_said_to_a_client_that_has_asked_for_nothing_yet() {
    let (port, statuses) = publishing();
    let mut decoder = port.decoder();
    let refusal =
        Refusal { id: None, code: ErrorCode::ServerDraining, message: "", reconnect_after: None, status: None };
    assert_eq!(decoder.refuse(&refusal), Refusing::OnceRead);
    let request = [submission("key: k\r\n", MESSAGE), b"POST".to_vec()].concat();
    let mut input = &request[..];
    decoder.decode(&mut input, &LIMITS);
    decoder.admit(false);
    assert!(matches!(decoder.refuse(&refusal), Refusing::With(words) if words.starts_with(b"HTTP/1.1 503 ")));
    assert!(statuses.lock().is_empty(), "a question is no answer");
    assert!(decoder.successor().is_none());
    decoder.note_refused(&refusal);
    assert_eq!(*statuses.lock(), [503]);
    decoder.decode(&mut input, &LIMITS);
    assert_eq!((decoder.is_idle(), decoder.refuse(&refusal)), (true, Refusing::With(Bytes::new())));
    assert_eq!(decoder.decode(&mut input, &LIMITS), None);
    assert_eq!((decoder.is_idle(), decoder.refuse(&refusal)), (false, Refusing::OnceRead));
    assert!(port.decoder_of_returned().is_idle());
}

#[test]
fn a_last_request_is_not_answered_a_second_time_at_the_end() {
    let refusal =
        Refusal { id: None, code: ErrorCode::ServerDraining, message: "", reconnect_after: None, status: None };
    for ends in ["key: k\r\nConnection: close\r\n", "key: k\r\nConnection: x, Close\r\n"] {
        let mut decoder = publishing().0.decoder();
        let request = submission(ends, MESSAGE);
        let mut input = &request[..];
        decoder.decode(&mut input, &LIMITS);
        decoder.admit(false);
        assert!(matches!(decoder.decode(&mut input, &LIMITS), Some(Ok(Command::Submit { last: true, .. }))));
        assert_eq!(decoder.refuse(&refusal), Refusing::With(Bytes::new()));
    }
}

#[test]
fn a_request_counts_until_its_connection_has_another_use() {
    let port = HttpPort::new(AllowedOrigins::default(), Duration::ZERO);
    let cookie = format!("Cookie: {}\r\n", "x".repeat(10_000));
    let upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                   Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    for (request, least) in [("/api/topics", 20_000), ("/ws", 10_000), ("/events?topic=a", 10_000)] {
        let request = format!("GET {request} HTTP/1.1\r\nHost: a\r\n{upgrade}{cookie}\r\n");
        let mut decoder = port.decoder();
        let decoded = decoder.decode(&mut request.as_bytes(), &LIMITS);
        assert!(matches!(decoded, Some(Ok(Command::PassOn | Command::Become(_)))), "{decoded:?}");
        assert!(decoder.memory() >= least, "{request:.20}: {}", decoder.memory());
    }
}

proptest! {
    #[test]
    fn requests_split_anywhere_are_the_same_requests(
        parts in proptest::collection::vec(0..7_usize, 0..6),
        cuts in proptest::collection::vec(0..2_000_usize, 0..5),
    ) {
        let key = "key: k\r\n";
        let chunked = format!(
            "POST /publish HTTP/1.1\r\nHost: a\r\n{key}Content-Type: application/json\r\n\
             Transfer-Encoding: chunked\r\n\r\n{:x}\r\n{MESSAGE}\r\n0\r\n\r\n",
            MESSAGE.len()
        );
        let known = [
            submission(key, MESSAGE),
            submission(key, "{"),
            chunked.into_bytes(),
            b"\r\n".to_vec(),
            submission("", MESSAGE),
            b"x".to_vec(),
            submission("key: k\r\nConnection: close\r\n", MESSAGE),
        ];
        let bytes = parts.iter().map(|part| &known[*part][..]).collect::<Vec<_>>().concat();
        let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut % (bytes.len() + 1)).chain([0, bytes.len()]).collect();
        cuts.sort_unstable();
        let pieces: Vec<&[u8]> = cuts.windows(2).map(|cut| &bytes[cut[0]..cut[1]]).collect();
        let (port, _) = publishing();
        prop_assert_eq!(commands(&port, &pieces), commands(&port, &[&bytes]));
    }
}
