//! Traces of a running server: contents, filters, limits, and the end of a trace.

use std::io::Write as _;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use janus_core::{Config, Fault, Trace, TraceKind, TraceLine, TraceOptions};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::api::{ask, http_address};
use crate::cli_run::{Running, assert_exit, binary, janus, text};
use crate::http::Http;
use crate::support::{Client, DEADLINE, publish, publish_frame, runs_after_restarts, serve, until};

const KEY: &str = "correct-horse-battery";

async fn next(trace: &mut Trace) -> TraceLine {
    timeout(DEADLINE, trace.next()).await.expect("a line comes").expect("the trace goes on")
}

fn told(line: &TraceLine) -> (TraceKind, &str, &str) {
    (line.kind, &line.from, &line.to)
}

#[tokio::test]
async fn the_life_of_a_client_and_of_its_message_is_traced_in_order() {
    let (janus, addr) = serve(Config::default()).await;
    let mut trace = janus.trace(TraceOptions::default().names(["client *", "topic news"])).unwrap();
    let mut client = Client::connect(addr).await;
    client.subscribe("news").await;
    client.send(publish_frame("news", "\"hello\"")).await;
    // The message and the receipt.
    client.frame().await;
    client.frame().await;
    drop(client);
    until("the connection to end", || janus.stats().connections == 0).await;

    let acceptor = format!("acceptor {addr}");
    let first = next(&mut trace).await;
    let name = first.to.clone();
    assert_eq!(told(&first), (TraceKind::Connect, &*acceptor, &*name));
    assert!(first.about.ends_with(", classic"), "{first:?}");
    let mut lines = Vec::new();
    while lines.last().is_none_or(|line: &TraceLine| line.kind != TraceKind::Close) {
        lines.push(next(&mut trace).await);
    }
    // Events of supervisors come from another thread, and the topic hears of the client's end last.
    lines.retain(|line| !matches!(line.kind, TraceKind::Start | TraceKind::Unsubscribe));
    let expected = [
        (TraceKind::Open, &*name, "sessions"),
        (TraceKind::Create, "topic_manager", "topic news"),
        (TraceKind::Subscribe, &*name, "topic news"),
        (TraceKind::Publish, &*name, "topic news"),
        (TraceKind::Pass, "topic news", "subscribers"),
        (TraceKind::Detach, &*name, "sessions"),
        (TraceKind::Close, &*name, "transport_supervisor"),
    ];
    assert_eq!(lines.iter().map(told).collect::<Vec<_>>(), expected);
    assert_eq!(lines[2].about, "from number 1 on");
    assert!(lines[4].about.starts_with("numbers 1 to 1, ") && lines[4].about.ends_with(" to 1 subscribers"));
    assert!(lines.iter().all(|line| line.lost == 0 && !line.about.contains("hello")), "{lines:?}");
}

#[tokio::test]
async fn only_the_requested_names_and_kinds_are_traced() {
    let (janus, addr) = serve(Config::default()).await;
    let kinds = [TraceKind::Subscribe, TraceKind::Unsubscribe];
    let mut trace = janus.trace(TraceOptions::default().kinds(kinds).names(["topic quotes:*"]).count(3)).unwrap();
    let mut client = Client::connect(addr).await;
    for topic in ["news", "quotes:ACME", "sports", "quotes:INITECH"] {
        client.subscribe(topic).await;
    }
    client
        .send("{\"action\":\"unsubscribe\",\"data\":\"news\"}\0{\"action\":\"unsubscribe\",\"data\":\"quotes:ACME\"}\0")
        .await;
    let mut lines = Vec::new();
    while let Some(line) = timeout(DEADLINE, trace.next()).await.unwrap() {
        lines.push((line.kind, line.to));
    }
    let [subscribe, unsubscribe] = kinds;
    let expected =
        [(subscribe, "topic quotes:ACME"), (subscribe, "topic quotes:INITECH"), (unsubscribe, "topic quotes:ACME")];
    assert_eq!(lines, expected.map(|(kind, name)| (kind, name.to_owned())));
}

#[tokio::test]
async fn the_restart_of_a_crashed_actor_is_traced() {
    let (janus, addr) = serve(Config::default()).await;
    let mut client = Client::connect(addr).await;
    client.subscribe("news").await;
    // Without the subscribe, whose line may come after the answer to the client.
    let kinds = [TraceKind::Exit, TraceKind::Restart, TraceKind::Start];
    let mut trace = janus.trace(TraceOptions::default().names(["topic news"]).kinds(kinds)).unwrap();
    janus.inject(Fault::Topic("news".to_owned()));
    until("the topic to be back", || runs_after_restarts(&janus, "news", 1)).await;
    let mut kinds = Vec::new();
    while kinds.last() != Some(&TraceKind::Start) {
        let line = next(&mut trace).await;
        assert_eq!((&*line.from, &*line.to), ("topic_supervisor", "topic news"), "{line:?}");
        assert!(line.kind != TraceKind::Exit || line.about.contains("injected"), "{line:?}");
        kinds.push(line.kind);
    }
    assert_eq!(kinds, [TraceKind::Exit, TraceKind::Restart, TraceKind::Start]);
}

#[tokio::test]
async fn a_stalled_trace_reader_delays_no_client_and_learns_its_losses() {
    let (janus, addr) = serve(Config::default()).await;
    let mut client = Client::connect(addr).await;
    client.subscribe("news").await;
    let mut trace = janus.trace(TraceOptions::default().kinds([TraceKind::Publish])).unwrap();
    for number in 0..2_000 {
        janus.publish("news", &number).await.unwrap();
    }
    for _ in 0..2_000 {
        client.frame().await;
    }
    assert_eq!(trace.lost(), 2_000 - 1_024);
    for _ in 0..1_024 {
        assert_eq!(next(&mut trace).await.lost, 0);
    }
    janus.publish("news", "late").await.unwrap();
    assert_eq!(next(&mut trace).await.lost, 2_000 - 1_024);
}

#[tokio::test]
async fn a_trace_ends_with_its_instance() {
    let (janus, _) = serve(Config::default()).await;
    let mut trace = janus.trace(TraceOptions::default().kinds([TraceKind::Locate])).unwrap();
    let other = janus.clone();
    assert!(other.sessions().await.is_empty());
    assert_eq!(told(&next(&mut trace).await), (TraceKind::Locate, "program", "proxy_mapper"));
    janus.shutdown().await;
    assert_eq!(timeout(DEADLINE, trace.next()).await.unwrap(), None);
    assert!(!trace.is_complete());
    assert!(other.trace(TraceOptions::default()).is_err());
}

/// A server with HTTP, and the addresses of its two ports.
fn start(more: &[&str]) -> (Running, SocketAddr, SocketAddr) {
    let server = Running::start(&[&["--listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0"], more].concat());
    let classic = server.error_line("listening on ").rsplit(' ').next().unwrap().parse().unwrap();
    let http = http_address(&server);
    (server, classic, http)
}

/// The answer to a request for a trace, after the head.
async fn trace(http: SocketAddr, query: &str) -> Http {
    let mut answer =
        Http::send(http, format!("GET /api/trace?{query} HTTP/1.1\r\nHost: {http}\r\nConnection: close\r\n\r\n")).await;
    let head = answer.up_to("\r\n\r\n").await;
    assert!(head.starts_with("HTTP/1.1 200 ") && head.contains("\r\ncontent-type: application/x-ndjson\r\n"), "{head}");
    answer
}

/// The lines of a trace up to the last. Each line is a chunk, with a length in front.
async fn lines(answer: Http) -> Vec<Value> {
    objects(&answer.read_to_end().await)
}

fn objects(body: &str) -> Vec<Value> {
    body.lines().filter(|line| line.starts_with('{')).map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test]
async fn over_http_a_trace_ends_with_its_count() {
    let (_server, classic, http) = start(&[]);
    let answer = trace(http, "kinds=subscribe,publish&name=topic+n*&seconds=600&count=2").await;
    let mut client = Client::connect(classic).await;
    for topic in ["news", "sports"] {
        client.subscribe(topic).await;
        publish(classic, topic, "1").await;
        client.frame().await;
    }
    let lines = lines(answer).await;
    let kinds: Vec<_> = lines.iter().map(|line| (&line["kind"], &line["to"])).collect();
    let to = &json!("topic news");
    assert_eq!(kinds, [(&json!("subscribe"), to), (&json!("publish"), to), (&Value::Null, &Value::Null)]);
    assert_eq!(lines[2], json!({"end": "count", "lines": 2, "lost": 0}));
}

#[tokio::test]
async fn over_http_a_trace_ends_with_its_time() {
    let (_server, _, http) = start(&[]);
    let begun = Instant::now();
    let lines = lines(trace(http, "kinds=locate&seconds=1").await).await;
    assert!(begun.elapsed() >= Duration::from_secs(1));
    assert_eq!(lines, [json!({"end": "seconds", "lines": 0, "lost": 0})]);
}

#[tokio::test]
async fn over_http_a_trace_beyond_the_limit_is_refused_until_one_ends() {
    let (_server, _, http) = start(&[]);
    let mut running = Vec::new();
    for seconds in [600, 600, 600, 1] {
        running.push(trace(http, &format!("seconds={seconds}&kinds=locate")).await);
    }
    let (status, answer) = ask(http, "GET", "/api/trace", "", None).await;
    assert_eq!((status, &answer["error"]["code"]), (503, &json!("too_many_requests")));
    assert_eq!(lines(running.pop().unwrap()).await.len(), 1);
    assert_eq!(lines(trace(http, "seconds=1&kinds=locate").await).await.len(), 1);
}

#[tokio::test]
async fn over_http_a_stalled_trace_loses_lines_and_ends_in_time() {
    let (_server, classic, http) = start(&[]);
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4_096).unwrap();
    let mut silent: TcpStream = socket.connect(http).await.unwrap();
    let request = format!(
        "GET /api/trace?kinds=publish&seconds=2&count=1000000 HTTP/1.1\r\nHost: {http}\r\nConnection: close\r\n\r\n"
    );
    silent.write_all(request.as_bytes()).await.unwrap();
    let mut status = [0; 12];
    timeout(DEADLINE, silent.read_exact(&mut status)).await.unwrap().unwrap();
    assert_eq!(&status, b"HTTP/1.1 200");
    let running = [trace(http, "seconds=600&kinds=locate").await, trace(http, "seconds=600&kinds=locate").await];
    let _another = trace(http, "seconds=600&kinds=locate").await;
    // More than the kernel holds, and the queues.
    let topic = "x".repeat(200);
    let mut publisher = Client::connect(classic).await;
    let frame = janus_core::wire::classic::client::publish_with_ack(&topic, "\"\"", "\"\"", "1");
    for _ in 0..20 {
        publisher.send(frame.repeat(1_000)).await;
        for _ in 0..1_000 {
            publisher.frame().await;
        }
    }
    // The place of the silent reader is free as soon as the time is over.
    let begun = Instant::now();
    let request = format!("GET /api/trace?seconds=1&kinds=locate HTTP/1.1\r\nHost: {http}\r\n\r\n");
    while !Http::send(http, &request).await.up_to("\r\n\r\n").await.starts_with("HTTP/1.1 200 ") {
        assert!(begun.elapsed() < DEADLINE);
    }
    let mut rest = String::new();
    timeout(DEADLINE, silent.read_to_string(&mut rest)).await.unwrap().unwrap();
    let last = objects(&rest).pop().unwrap();
    let (lines, lost) = (last["lines"].as_u64().unwrap(), last["lost"].as_u64().unwrap());
    assert!(lines > 0 && lost > 1_024 && lines + lost <= 20_000, "{last}");
    assert_eq!(last["end"], "seconds");
    drop(running);
}

#[tokio::test]
async fn a_trace_requires_the_key_of_the_api() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    writeln!(file, "api_key = \"{KEY}\"").unwrap();
    let (_server, _, http) = start(&["--config", file.path().to_str().unwrap()]);
    for headers in ["", "Authorization: Bearer wrong-horse-battery\r\n"] {
        let (status, answer) = ask(http, "GET", "/api/trace?seconds=1", headers, None).await;
        assert_eq!((status, &answer["error"]["code"]), (401, &json!("unauthorized")));
    }
    let address = http.to_string();
    let command = ["trace", "--server", &address, "--seconds", "1", "--kind", "locate"];
    let output = janus(&command).output().unwrap();
    assert_exit(&output, 1);
    assert!(text(&output.stderr).contains("unauthorized"), "{}", text(&output.stderr));
    let output = janus(&command).env("JANUS_API_KEY", KEY).output().unwrap();
    assert_exit(&output, 0);
    assert!(!text(&output.stderr).contains(KEY));

    let (server, _, http) = start(&["--http-listen", "0.0.0.0:0"]);
    server.error_line("the HTTP API is closed");
    let http = SocketAddr::from(([127, 0, 0, 1], http.port()));
    assert_eq!(ask(http, "GET", "/api/trace?seconds=1", "", None).await.1["error"]["code"], "api_key_required");
}

#[tokio::test]
async fn an_invalid_query_is_refused() {
    let (_server, _, http) = start(&[]);
    for (query, part) in [
        ("kinds=subscribe,nonsense", "nonsense"),
        ("kinds=", "quarantine"),
        ("kinds=open&kinds=close", "duplicate parameter kinds"),
        ("seconds=0", "1 to 3600"),
        ("seconds=3601", "1 to 3600"),
        ("seconds=+1", "1 to 3600"),
        ("count=0", "1 to 1000000"),
        ("count=x", "1 to 1000000"),
        ("second=1", "kinds, name, seconds and count"),
    ] {
        let (status, answer) = ask(http, "GET", &format!("/api/trace?{query}"), "", None).await;
        assert_eq!((status, &answer["error"]["code"]), (400, &json!("bad_request")), "{query}");
        assert!(answer["error"]["message"].as_str().unwrap().contains(part), "{query}: {answer}");
    }
    let names = vec!["name=a"; 17].join("&");
    assert_eq!(ask(http, "GET", &format!("/api/trace?{names}"), "", None).await.0, 400);
    let head =
        Http::send(http, format!("HEAD /api/trace?seconds=600 HTTP/1.1\r\nHost: {http}\r\nConnection: close\r\n\r\n"))
            .await;
    let head = head.read_to_end().await;
    assert!(head.starts_with("HTTP/1.1 200 ") && head.ends_with("\r\n\r\n"), "{head}");
}

#[tokio::test]
async fn from_the_command_line_each_message_is_a_line() {
    let (server, classic, http) = start(&[]);
    let address = http.to_string();
    let command = ["trace", "--server", &address, "--kind", "subscribe", "--kind", "end", "--name", "topic n*s"];
    let mut running = Running::spawn(&mut binary(&[&command[..], &["--seconds", "600", "--count", "2"]].concat()));
    // The command does not say when the trace has begun.
    let mut clients = Vec::new();
    while !running.has_ended() {
        let mut client = Client::connect(classic).await;
        client.subscribe("sports").await;
        client.subscribe("news").await;
        clients.push(client);
    }
    for _ in 0..2 {
        let line: Value = serde_json::from_str(&running.line()).unwrap();
        assert_eq!((&line["kind"], &line["to"]), (&json!("subscribe"), &json!("topic news")));
    }
    let last = running.error_line("lines");
    assert!(last.starts_with("2 lines, ") && last.ends_with("ended by count"), "{last}");
    assert_eq!(running.wait().code(), Some(0));

    let output = janus(&["trace", "--kind", "nonsense"]).output().unwrap();
    assert_exit(&output, 2);
    assert!(text(&output.stderr).contains("unsubscribe"), "{}", text(&output.stderr));
    let endless = Running::start(&["trace", "--server", &address, "--seconds", "600", "--kind", "connect"]);
    let has_begun = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !has_begun.load(std::sync::atomic::Ordering::Relaxed) {
                drop(std::net::TcpStream::connect(classic));
            }
        });
        endless.line();
        has_begun.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    server.signal("TERM");
    endless.error_line("the server closed the connection");
    assert_eq!(endless.wait().code(), Some(1));
}
