//! The HTTP API of the real binary. The answers of each route are tested in `janus-server/src/api/tests/`.

use std::io::Write as _;
use std::net::SocketAddr;

use serde_json::{Value, json};

use crate::cli_run::Running;
use crate::http::Http;

const KEY: &str = "correct-horse-battery";

/// The address at the end of the log line about the HTTP port.
pub(crate) fn http_address(server: &Running) -> SocketAddr {
    server.error_line("serving HTTP on ").rsplit(' ').next().unwrap().parse().unwrap()
}

/// Sends a request with further lines in the head, and returns status and body of the answer.
pub(crate) async fn ask(
    addr: SocketAddr,
    method: &str,
    target: &str,
    headers: &str,
    body: Option<Value>,
) -> (u16, Value) {
    let body = body.map(|body| body.to_string()).unwrap_or_default();
    let length = body.len();
    let head = format!("{method} {target} HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\n{headers}");
    let request = format!("{head}Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}");
    let answer = Http::send(addr, request).await.read_to_end().await;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {answer:?}"));
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {answer}")))
}

#[tokio::test]
async fn a_message_sent_over_http_reaches_an_event_stream_on_the_same_port() {
    let server = Running::start(&["--listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0"]);
    let addr = http_address(&server);
    let mut client = Http::events(addr, "topic=news", "").await;
    let first = client.id().await;
    let message = json!({"topic": "news", "data": {"price": 1.5}});
    let (status, receipt) = ask(addr, "POST", "/api/publish", "", Some(message)).await;
    assert_eq!((status, &receipt["seq"], &receipt["subscribers"]), (200, &json!(1), &json!(1)));
    assert!(first.starts_with(receipt["epoch"].as_str().unwrap()));
    assert_eq!(client.message().await, (1, json!({"price": 1.5})));

    let (_, list) = ask(addr, "GET", "/api/connections", "", None).await;
    let connection = &list["connections"][0];
    assert_eq!((&connection["transport"], &connection["topics"]), (&json!("sse"), &json!(1)), "{list}");
    let request = json!({"connection": connection["connection"], "reconnect": false});
    assert_eq!(ask(addr, "POST", "/api/disconnect", "", Some(request)).await.0, 200);
    let bye = client.block().await;
    assert_eq!((bye.event.as_deref(), &bye.data.unwrap()["error"]), (Some("bye"), &json!("banned")));
    assert_eq!(client.read_to_end().await, "");
}

#[tokio::test]
async fn a_target_in_absolute_form_is_served_for_its_host() {
    let server = Running::start(&["--listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0"]);
    let addr = http_address(&server);
    let own = format!("http://{addr}");
    assert_eq!(ask(addr, "GET", &format!("{own}/api/topics"), "", None).await, (200, json!({"topics": []})));
    // `Host` names this machine, but the target, which counts, names another.
    let (status, answer) = ask(addr, "GET", "http://evil.example/api/topics", "", None).await;
    assert_eq!((status, &answer["error"]["code"]), (403, &json!("api_key_required")));
    let request = format!("GET {own}/events?topic=news HTTP/1.1\r\nHost: evil.example:{}\r\n\r\n", addr.port());
    let head = Http::send(addr, request).await.up_to("\r\n\r\n").await;
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
}

#[tokio::test]
async fn a_malformed_head_gets_a_reason_on_the_port_of_the_api() {
    let server = Running::start(&["--listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0"]);
    let addr = http_address(&server);
    let two = "Content-Length: 5\r\n";
    let codings = "Transfer-Encoding: xchunked\r\n";
    for (method, target, headers) in [
        ("POST", "/api/publish", two),
        ("POST", "/api/publish", codings),
        ("GET", "/api/topics?a=<>|^", ""),
        ("GET", "api/topics", ""),
    ] {
        let (status, answer) = ask(addr, method, target, headers, None).await;
        assert_eq!((status, &answer["error"]["code"]), (400, &json!("bad_frame")), "{method} {target} {headers}");
    }
}

#[tokio::test]
async fn a_key_from_the_file_is_required_and_never_logged() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    writeln!(file, "api_key = \"{KEY}\"\nlisten = \"127.0.0.1:0\"\nhttp_listen = \"127.0.0.1:0\"\nlog = \"trace\"")
        .unwrap();
    // An empty variable would win over the file.
    let flags = ["--config", file.path().to_str().unwrap(), "--http-listen", "127.0.0.1:0"];
    let server = Running::start(&flags);
    let addr = http_address(&server);
    assert_eq!(ask(addr, "GET", "/api/topics", "", None).await.0, 401);
    assert_eq!(ask(addr, "GET", "/api/topics", "Authorization: Bearer wrong-horse-battery\r\n", None).await.0, 401);
    let shown = format!("Authorization: Bearer {KEY}\r\n");
    assert_eq!(ask(addr, "GET", "/api/topics", &shown, None).await, (200, json!({"topics": []})));
    server.signal("TERM");
    loop {
        let line = server.error_line("");
        assert!(!line.contains(KEY), "{line}");
        if line.contains("drained") {
            break;
        }
    }
}

#[tokio::test]
async fn without_a_key_clients_behind_a_proxy_are_kept_out() {
    let server = Running::start(&["--listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0"]);
    let addr = http_address(&server);
    for sign in [
        "X-Forwarded-For: 192.0.2.1",
        "X-Forwarded-Proto: https",
        "Forwarded: for=192.0.2.1",
        "Via: 1.1 proxy",
        "X-Real-IP: ::1",
    ] {
        let message = json!({"topic": "news", "data": 1});
        let (status, answer) = ask(addr, "POST", "/api/publish", &format!("{sign}\r\n"), Some(message)).await;
        assert_eq!((status, &answer["error"]["code"]), (403, &json!("api_key_required")), "{sign}");
        assert!(answer["error"]["message"].as_str().unwrap().contains("proxy"), "{answer}");
        // Public routes are served.
        assert_eq!(ask(addr, "GET", "/api/openapi.json", &format!("{sign}\r\n"), None).await.0, 200);
        Http::events(addr, "topic=news", &format!("{sign}\r\n")).await;
    }
    let old = "GET /api/topics HTTP/1.0\r\nHost: localhost\r\n\r\n";
    assert!(Http::send(addr, old).await.read_to_end().await.contains("api_key_required"));
    assert_eq!(ask(addr, "GET", "/api/topics", "", None).await.0, 200);
}

#[tokio::test]
async fn without_a_key_other_machines_are_kept_out() {
    let server = Running::start(&["--listen", "127.0.0.1:0", "--http-listen", "0.0.0.0:0"]);
    let addr = SocketAddr::from(([127, 0, 0, 1], http_address(&server).port()));
    server.error_line("the HTTP API is closed");
    let (status, answer) = ask(addr, "GET", "/api/topics", "", None).await;
    assert_eq!((status, &answer["error"]["code"]), (403, &json!("api_key_required")));
    assert!(answer["error"]["message"].as_str().unwrap().contains("JANUS_API_KEY"), "{answer}");
    assert_eq!(ask(addr, "GET", "/api/openapi.json", "", None).await.1["openapi"], "3.1.0");
    Http::events(addr, "topic=news", "").await;
}

/// A session of a common library, which uses its connection again for as long as the server allows.
const SESSION: &str = r#"
import http.client, json, sys
session = http.client.HTTPConnection("127.0.0.1", int(sys.argv[1]), timeout=30)
session.connect()
socket = session.sock
def ask(method, path, body=None):
    headers = {"content-type": "application/json"} if body else {}
    session.request(method, path, json.dumps(body) if body else None, headers)
    answer = session.getresponse()
    text = answer.read()
    assert session.sock is socket, (path, "the connection was closed")
    return answer.status, text and json.loads(text)
for number in range(20):
    assert ask("POST", "/api/publish", {"topic": "news", "data": number})[0] == 200
    assert ask("POST", "/api/publish", {"topic": ""})[0] == 400
    assert ask("HEAD", "/api/topics")[0] == 200
    assert ask("GET", "/api/topics")[1] == {"topics": []}
    assert ask("POST", "/api/broadcast", {"topics": ["news", "quotes"], "data": number})[0] == 200
session.request("GET", "/events?topic=news")
assert session.getresponse().getheader("content-type").startswith("text/event-stream")
assert session.sock is None or session.sock is socket
stranger = http.client.HTTPConnection("127.0.0.1", int(sys.argv[1]), timeout=30)
stranger.request("GET", "/nothing")
answer = stranger.getresponse()
assert (answer.status, answer.getheader("connection")) == (404, "close")
"#;

#[test]
fn a_client_library_keeps_its_connection_through_every_kind_of_request() {
    let server = Running::start(&["--listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0"]);
    let port = http_address(&server).port().to_string();
    let output = std::process::Command::new("python3").args(["-c", SESSION, &port]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test]
async fn a_request_repeated_with_its_key_publishes_once() {
    let server = Running::start(&["--listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0"]);
    let addr = http_address(&server);
    let mut client = Http::events(addr, "topic=news", "").await;
    client.id().await;
    let publish = async |data: u64, key: &str| {
        let message = json!({"topic": "news", "data": data});
        ask(addr, "POST", "/api/publish", &format!("Idempotency-Key: {key}\r\n"), Some(message)).await
    };
    let (status, first) = publish(1, "order-17").await;
    assert_eq!((status, &first["seq"], first.get("again")), (200, &json!(1), None));
    let (status, again) = publish(2, "order-17").await;
    assert_eq!((status, &again["seq"], &again["again"]), (200, &json!(1), &json!(true)));
    assert_eq!(publish(3, "order-18").await.1["seq"], 2);
    assert_eq!((client.message().await, client.message().await), ((1, json!(1)), (2, json!(3))));
    let (status, error) = publish(4, "two words").await;
    assert_eq!((status, &error["error"]["code"]), (400, &json!("bad_publish")), "{error}");
    let message = error["error"]["message"].as_str().unwrap();
    assert!(message.starts_with("the header Idempotency-Key: "), "{message}");
}
