//! The HTTP port and the rules of RFC 9110 and RFC 9112 for all servers, held against the binary.

use std::net::SocketAddr;

use serde_json::{Value, json};

use crate::api::http_address;
use crate::cli_run::Running;
use crate::http::Http;

const UPGRADE: &str = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                       Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

fn start(more: &[&str]) -> (Running, SocketAddr) {
    let server = Running::start(&[&["--listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0"], more].concat());
    let addr = http_address(&server);
    (server, addr)
}

/// The head of the answer to these bytes.
async fn head(addr: SocketAddr, request: impl AsRef<[u8]>) -> String {
    Http::send(addr, request).await.up_to("\r\n\r\n").await
}

/// The values of a header.
fn values<'a>(head: &'a str, name: &str) -> Vec<&'a str> {
    let lines = head.lines().filter_map(|line| line.split_once(": "));
    lines.filter(|(other, _)| other.eq_ignore_ascii_case(name)).map(|(_, value)| value).collect()
}

#[tokio::test]
async fn every_answer_has_a_date() {
    let (_server, addr) = start(&["--frame-timeout", "20ms"]);
    let host = format!("Host: {addr}\r\n");
    for (request, status) in [
        (format!("GET /ws HTTP/1.1\r\n{host}{UPGRADE}\r\n"), 101),
        (format!("GET /events?topic=news HTTP/1.1\r\n{host}\r\n"), 200),
        (format!("GET /api/topics HTTP/1.1\r\n{host}\r\n"), 200),
        (format!("GET /api/openapi.json HTTP/1.1\r\n{host}\r\n"), 200),
        (format!("OPTIONS /events HTTP/1.1\r\n{host}\r\n"), 204),
        (format!("GET /events HTTP/1.1\r\n{host}\r\n"), 400),
        ("GET /events?topic=news HTTP/1.1\r\n\r\n".to_owned(), 400),
        ("PING\0".to_owned(), 400),
        (format!("GET /events?topic=news HTTP/1.1\r\n{host}Origin: http://evil.example\r\n\r\n"), 403),
        (format!("GET /nothing HTTP/1.1\r\n{host}\r\n"), 404),
        (format!("POST /api/topics HTTP/1.1\r\n{host}\r\n"), 405),
        (format!("POST /events?topic=news HTTP/1.1\r\n{host}\r\n"), 405),
        ("GET /events?topic=news HTTP/1.1\r\n".to_owned(), 408),
        (format!("POST /api/publish HTTP/1.1\r\n{host}\r\n"), 415),
        (format!("GET /ws HTTP/1.1\r\n{host}\r\n"), 426),
        (format!("GET /events?topic=news HTTP/1.1\r\n{host}X: {}\r\n\r\n", "x".repeat(20_000)), 431),
    ] {
        let head = head(addr, &request).await;
        assert_eq!(head.split(' ').nth(1), Some(&*status.to_string()), "{request}{head}");
        let [date] = values(&head, "date")[..] else { panic!("{request}{head}") };
        // Such as `Sun, 06 Nov 1994 08:49:37 GMT`.
        let shape = |byte: u8| if byte.is_ascii_digit() { b'0' } else { byte.to_ascii_lowercase() };
        let shape: String = date.bytes().map(|byte| char::from(shape(byte))).collect();
        assert!(shape.len() == 29 && shape.ends_with(" 0000 00:00:00 gmt"), "{date}");
    }
}

/// A head without the time.
fn without_date(head: &str) -> Vec<&str> {
    head.lines().filter(|line| !line.to_ascii_lowercase().starts_with("date: ")).collect()
}

#[tokio::test]
async fn head_is_answered_with_the_head_of_get_and_no_body() {
    let (_server, addr) = start(&[]);
    let _subscriber = Http::events(addr, "topic=news", "").await;
    for (target, headers, status) in [
        ("/events?topic=news", "", 200),
        ("/events?topic=news", "Accept: text/event-stream\r\n", 200),
        ("/events", "", 400),
        ("/events?topic=news", "Origin: http://evil.example\r\n", 403),
        ("/ws", "", 426),
        ("/api/topics", "", 200),
        ("/api/openapi.json", "", 200),
        ("/api/topics?limit=0", "", 400),
        ("/api/publish", "", 405),
        ("/nothing", "", 404),
    ] {
        let request =
            |method: &str| format!("{method} {target} HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\n{headers}\r\n");
        let of_get = head(addr, request("GET")).await;
        let answer = Http::send(addr, request("HEAD")).await.read_to_end().await;
        let (of_head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {answer:?}"));
        assert_eq!((of_head.split(' ').nth(1), body), (Some(&*status.to_string()), ""), "{target}: {answer}");
        assert_eq!(without_date(of_head), without_date(of_get.trim_end()), "{target}");
    }
    let upgrade = format!("HEAD /ws HTTP/1.1\r\nHost: {addr}\r\n{UPGRADE}\r\n");
    let answer = Http::send(addr, upgrade).await.read_to_end().await;
    assert!(answer.starts_with("HTTP/1.1 426 ") && answer.ends_with("\r\n\r\n"), "{answer}");
}

#[tokio::test]
async fn a_request_needs_exactly_one_valid_host() {
    let (_server, addr) = start(&[]);
    let ask = async |first: &str, hosts: &[&str]| {
        let hosts: String = hosts.iter().map(|host| format!("Host:{host}\r\n")).collect();
        let answer = Http::send(addr, format!("{first}\r\nConnection: close\r\n{hosts}\r\n")).await.read_to_end().await;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {answer:?}"));
        let status: u16 = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, serde_json::from_str(body).unwrap_or(Value::Null))
    };
    for target in ["/ws", "/events?topic=news", "/api/topics", "/nothing"] {
        let first = format!("GET {target} HTTP/1.1");
        for hosts in [
            &[][..],
            &[" localhost", " localhost"],
            &[" localhost", " evil.example"],
            &[" localhost, evil.example"],
            &[" localhost,evil.example"],
            &[""],
            &["  "],
            &[" :8080"],
            &[" user@localhost"],
            &[" user:password@localhost:8080"],
            &[" localhost/api"],
            &[" http://localhost"],
            &[" localhost?a"],
            &[" localhost#a"],
            &[" local host"],
            &[" localhost\\@evil.example"],
            &[" localhost:http"],
            &[" localhost:+80"],
            &[" localhost:99999"],
            &[" localhost:80:80"],
            &[" [::1"],
            &[" ::1"],
            &[" [localhost]"],
            &[" local%"],
            &[" local%2"],
            &[" \u{fc}nicode.example"],
        ] {
            let (status, body) = ask(&first, hosts).await;
            assert_eq!((status, &body["error"]["code"]), (400, &json!("bad_frame")), "{first} {hosts:?}");
        }
    }
    let api = "GET /api/topics HTTP/1.1";
    for host in [" localhost", "localhost ", " LOCALHOST:1", " localhost:", " 127.0.0.1", " [::1]", " [::1]:8080"] {
        assert_eq!(ask(api, &[host]).await.0, 200, "{host}");
    }
    // Hosts, but not of this machine.
    for host in [" push.example", " under_score.example", " a%2Db.example"] {
        assert_eq!(ask(api, &[host]).await.1["error"]["code"], "api_key_required", "{host}");
    }
    // A target in absolute form has a host, and HTTP/1.0 needs none.
    assert_eq!(ask("GET http://localhost/api/topics HTTP/1.1", &[""]).await.0, 200);
    assert_eq!(ask("GET http://localhost/api/topics HTTP/1.1", &[" user@localhost"]).await.0, 400);
    assert_eq!(ask("GET /api/openapi.json HTTP/1.0", &[]).await.0, 200);
    assert_eq!(ask("GET /api/openapi.json HTTP/1.0", &[" a/b"]).await.0, 400);
}
