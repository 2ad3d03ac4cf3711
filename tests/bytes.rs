//! Payloads of bytes: every way in, and the same bytes on every way out.

use std::net::SocketAddr;

use data_encoding::BASE64;
use futures_util::{SinkExt as _, StreamExt as _};
use janus_core::hooks::{Client as Publisher, Denied, Hooks};
use janus_core::wire::{Base64, Publication, TopicName, cbor, classic, v1};
use janus_core::{Config, Event, Janus, Message, Namespace, Position, Since, SubscribeOptions, TypedEvent};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message as Frame;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

use crate::admin::address;
use crate::api::{ask, http_address};
use crate::cli_run::{Running, assert_exit, janus, text};
use crate::http::{Http, serve_http};
use crate::support::{Client, DEADLINE};
use crate::websocket::Socket;

/// Every byte, and the three that end a frame of the classic protocol twice.
fn payload() -> Vec<u8> {
    (0..=255).chain(*b"}\x01\x00}\x01\x00").collect()
}

/// A server with the binary's API that keeps history.
struct Server {
    process: Running,
    classic: SocketAddr,
    http: SocketAddr,
    admin: SocketAddr,
}

impl Server {
    fn start() -> Self {
        let any = "127.0.0.1:0";
        let flags = ["--listen", any, "--http-listen", any, "--admin-listen", any, "--history=true"];
        let process = Running::start(&flags);
        let classic = address(&process.error_line("listening on "));
        let http = http_address(&process);
        let admin = address(&process.error_line("admin port on "));
        Self { process, classic, http, admin }
    }

    fn url(&self) -> String {
        format!("http://{}", self.http)
    }

    /// Publishes a body of bytes. Returns status and answer.
    async fn post(&self, query: &str, headers: &str, body: &[u8]) -> (u16, Value) {
        Self::post_to(self.http, query, headers, body).await
    }

    async fn post_to(addr: SocketAddr, query: &str, headers: &str, body: &[u8]) -> (u16, Value) {
        let length = body.len();
        let head = format!(
            "POST /api/publish?{query} HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\n{headers}\
             Content-Type: application/octet-stream\r\nContent-Length: {length}\r\n\r\n"
        );
        let answer = Http::send(addr, [head.as_bytes(), body].concat()).await.read_to_end().await;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {answer:?}"));
        (head.split(' ').nth(1).unwrap().parse().unwrap(), serde_json::from_str(body).unwrap())
    }
}

/// A subscriber of each protocol of JSON.
struct Readers {
    v1: Socket,
    sse: Http,
    classic: Client,
    seq: u64,
}

impl Readers {
    async fn of(topic: &str, classic: SocketAddr, http: SocketAddr) -> Self {
        let mut v1 = Socket::open(http).await;
        v1.ask(json!({"type": "subscribe", "topic": topic})).await;
        let mut sse = Http::events(http, &format!("topic={topic}"), "").await;
        sse.block().await;
        let mut client = Client::connect(classic).await;
        client.subscribe(topic).await;
        Self { v1, sse, classic: client, seq: 0 }
    }

    /// The next message of each subscriber has this event, id and payload.
    async fn see(&mut self, event: &Value, id: &Value, payload: &[u8]) {
        self.seq += 1;
        let base64 = Value::from(BASE64.encode(payload));
        let at_v1 = self.v1.json().await;
        let at_sse = self.sse.block().await.data.unwrap();
        let at_classic = self.classic.json().await;
        for message in [&at_v1, &at_sse, &at_classic] {
            assert_eq!((&message["event"], &message["message_id"]), (event, id), "{message}");
            assert_eq!(message["data_base64"], base64, "{message}");
        }
        for message in [&at_v1, &at_sse] {
            assert_eq!((&message["seq"], message.get("data")), (&json!(self.seq), None), "{message}");
        }
        assert_eq!(at_classic.get("data"), Some(&Value::Null), "clients of 2009 look at the data: {at_classic}");
    }
}

#[tokio::test]
async fn bytes_published_by_any_client_come_to_the_clients_of_all_protocols() {
    let server = Server::start();
    let mut readers = Readers::of("news", server.classic, server.http).await;
    let (bytes, none) = (payload(), json!(""));
    let base64 = BASE64.encode(&bytes);

    let (status, receipt) = server.post("topic=news&event=frame&message_id=%C3%A9", "", &bytes).await;
    assert_eq!((status, &receipt["seq"], &receipt["subscribers"]), (200, &json!(1), &json!(3)), "{receipt}");
    readers.see(&json!("frame"), &json!("é"), &bytes).await;

    assert_eq!(server.post("topic=news", "", b"").await.0, 200);
    readers.see(&none, &none, b"").await;

    let body = json!({"topic": "news", "event": "frame", "data_base64": base64});
    assert_eq!(ask(server.http, "POST", "/api/publish", "", Some(body)).await.0, 200);
    readers.see(&json!("frame"), &none, &bytes).await;

    let body = json!({"topics": ["news", "other"], "data_base64": base64});
    let (status, results) = ask(server.http, "POST", "/api/broadcast", "", Some(body)).await;
    assert_eq!((status, &results["results"][0]["seq"]), (200, &json!(4)), "{results}");
    readers.see(&none, &none, &bytes).await;

    let mut publisher = Socket::open(server.http).await;
    let frame = v1::client::publish_bytes(Some(7), "news", "[1.50]", "2", &bytes, None);
    let receipt = publisher.ask(serde_json::from_str(&frame).unwrap()).await;
    assert_eq!((&receipt["type"], &receipt["id"]), (&json!("published"), &json!(7)), "{receipt}");
    readers.see(&json!([1.5]), &json!(2), &bytes).await;

    let mut publisher = Client::connect(server.classic).await;
    publisher.send(classic::client::publish_bytes_with_ack("news", "1", "2", &bytes)).await;
    assert!(publisher.json().await["published"].is_object());
    readers.see(&json!(1), &json!(2), &bytes).await;

    let (status, receipt) = Server::post_to(server.admin, "topic=news&event=frame", "", &bytes).await;
    assert_eq!((status, &receipt["seq"]), (200, &json!(7)), "{receipt}");
    readers.see(&json!("frame"), &none, &bytes).await;
    for query in ["topic=news&data=1", "event=frame", "topic=a%0Ab"] {
        let (of_http, of_admin) = (server.http, server.admin);
        let answers =
            [Server::post_to(of_http, query, "", b"x").await, Server::post_to(of_admin, query, "", b"x").await];
        assert_eq!((answers[0].0, &answers[0]), (400, &answers[1]), "{query}");
    }

    // JSON and bytes have one order.
    let (status, _) = ask(server.http, "POST", "/api/publish", "", Some(json!({"topic": "news", "data": null}))).await;
    assert_eq!(status, 200);
    let message = readers.v1.json().await;
    assert_eq!(
        (&message["seq"], message.get("data"), message.get("data_base64")),
        (&json!(8), Some(&Value::Null), None)
    );

    let (status, history) = ask(server.http, "POST", "/api/history", "", Some(json!({"topic": "news"}))).await;
    assert_eq!(status, 200);
    let messages = history["messages"].as_array().unwrap();
    let kept = |index: usize| (messages[index].get("data"), messages[index].get("data_base64"));
    assert_eq!((messages.len(), kept(0), kept(7)), (8, (None, Some(&json!(base64))), (Some(&Value::Null), None)));
}

#[test]
fn the_command_line_publishes_bytes_and_prints_them_as_base64() {
    let server = Server::start();
    let url = server.url();
    let subscriber = Running::start(&["subscribe", "news", "--server", &url]);
    subscriber.error_line("subscribed at ");
    let by_classic = Running::start(&["subscribe", "news", "--server", &format!("classic://{}", server.classic)]);
    by_classic.error_line("subscribed at ");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("frame.bin");
    std::fs::write(&file, payload()).unwrap();
    let file = file.to_str().unwrap();
    let base64 = BASE64.encode(&payload());

    let publish = |arguments: &[&str], to: &str| {
        let mut command = janus(&[&["publish", "news"], arguments, &["--server", to]].concat());
        assert_exit(&command.write_stdin(payload()).output().unwrap(), 0);
    };
    publish(&["--file", file, "--event", "frame"], &url);
    publish(&["-", "--bytes"], &url);
    publish(&["{}", "--bytes"], &url);
    publish(&["--file", file], &format!("classic://{}", server.classic));
    let text_of_object = BASE64.encode(b"{}");
    for (event, data) in [("frame", &base64), ("", &base64), ("", &text_of_object), ("", &base64)] {
        let end = format!(",\"event\":\"{event}\",\"message_id\":\"\",\"data_base64\":\"{data}\"}}");
        for subscriber in [&subscriber, &by_classic] {
            let line = subscriber.line();
            assert!(line.ends_with(&end), "{line}");
        }
    }
    let history = |arguments: &[&str]| {
        let output = janus(&[&["history", "news", "--server", &url], arguments].concat()).output().unwrap();
        assert_exit(&output, 0);
        text(&output.stdout)
    };
    let table = history(&[]);
    assert_eq!(table.lines().filter(|line| line.contains(&format!("base64:{base64}"))).count(), 3, "{table}");
    let lines = history(&["--json", "--limit", "1"]);
    assert!(lines.ends_with(&format!(",\"data_base64\":\"{base64}\"}}\n")), "{lines}");
    for arguments in
        [&["publish", "news", "--server", &url][..], &["publish", "news", "1", "--file", file, "--server", &url]]
    {
        assert_exit(&janus(arguments).output().unwrap(), 2);
    }
}

#[tokio::test]
async fn bytes_of_this_program_reach_clients_and_subscribers_of_this_program() {
    let default_namespace = Namespace { history: true, ..Namespace::default() };
    let (janus, http) = serve_http(Config { default_namespace, ..Config::default() }).await;
    let classic = janus.local_addrs()[0];
    let mut readers = Readers::of("news", classic, http).await;
    let mut subscriber = janus.subscribe("news").unwrap();
    let bytes = payload();
    let message = Message::bytes("news", &bytes).unwrap().event("frame").message_id("1");
    janus.publish_message(message).await.unwrap();
    readers.see(&json!("frame"), &json!("1"), &bytes).await;
    let Some(Event::Message(delivery)) = timeout(DEADLINE, subscriber.next()).await.unwrap() else { panic!() };
    assert_eq!((delivery.bytes(), delivery.data(), delivery.event()), (Some(bytes.clone()), "null", "\"frame\""));
    let history = janus.history("news", None, 10).await.unwrap();
    assert_eq!(history.messages, [delivery]);
    let json = serde_json::to_value(&history).unwrap();
    assert_eq!(json["messages"][0]["data_base64"], json!(BASE64.encode(&bytes)));

    // A client that comes back, and a page that begins with what is kept.
    let mut client = Socket::open(http).await;
    client.ask(json!({"type": "subscribe", "topic": "news", "since": "start"})).await;
    assert_eq!(client.json().await["data_base64"], json!(BASE64.encode(&bytes)));
    let since = SubscribeOptions::default().since(Since::Last);
    let mut subscriber = janus.subscribe_with("news", since).unwrap();
    let Some(Event::Message(delivery)) = timeout(DEADLINE, subscriber.next()).await.unwrap() else { panic!() };
    assert_eq!(delivery.bytes(), Some(bytes));
}

#[tokio::test]
async fn bytes_are_no_value_of_a_typed_topic() {
    let (janus, _) = serve_http(Config::default()).await;
    let topic = janus.topic::<Option<u8>>("news").unwrap();
    let mut subscriber = topic.subscribe().unwrap();
    janus.publish_message(Message::bytes("news", b"1").unwrap()).await.unwrap();
    topic.publish(&None).await.unwrap();
    let mut next = async || timeout(DEADLINE, subscriber.next()).await.unwrap().unwrap();
    let TypedEvent::Undecodable { error, delivery } = next().await else { panic!("bytes are no value") };
    assert_eq!((error.is_data(), delivery.bytes()), (true, Some(b"1".to_vec())));
    let TypedEvent::Message(message) = next().await else { panic!("JSON is a value") };
    assert_eq!(message.value, None);
}

/// Lets through what begins with a zero, and reports what it has seen.
struct Picky(mpsc::Sender<(String, Option<Vec<u8>>)>);

impl Hooks for Picky {
    async fn authorize_publish(&self, _: &Publisher, _: &TopicName, publication: &Publication) -> Result<(), Denied> {
        let bytes = publication.base64().map(Base64::decode);
        self.0.try_send((publication.data().to_owned(), bytes.clone())).unwrap();
        if bytes.is_some_and(|bytes| bytes.first() == Some(&0)) { Ok(()) } else { Err(Denied::new("not a frame")) }
    }
}

#[tokio::test]
async fn a_hook_sees_the_bytes_that_a_client_wants_to_publish() {
    let (sender, mut seen) = mpsc::channel(2);
    let config = Config { listen: vec![], http_listen: vec![crate::support::own_address()], ..Config::default() };
    let janus = Janus::builder().config(config).hooks(Picky(sender)).start().await.unwrap();
    let mut client = Socket::open(janus.local_addrs()[0]).await;
    let request = |data| json!({"type": "publish", "id": 1, "topic": "news", "data_base64": data});
    assert_eq!(client.ask(request("AP8=")).await["type"], "published");
    assert_eq!(client.ask(request("/wA=")).await["error"], "forbidden");
    assert_eq!(seen.recv().await, Some(("null".to_owned(), Some(vec![0x00, 0xff]))));
    assert_eq!(seen.recv().await, Some(("null".to_owned(), Some(vec![0xff, 0x00]))));
    janus.shutdown().await;
}

#[tokio::test]
async fn a_publication_of_malformed_bytes_is_refused_and_the_connection_continues() {
    let (_janus, http) = serve_http(Config::default()).await;
    let mut client = Socket::open(http).await;
    for payload in [
        json!({"data_base64": "AP8"}),
        json!({"data_base64": "_-8="}),
        json!({"data_base64": "AP9="}),
        json!({"data_base64": "AP8=\n"}),
        json!({"data_base64": 7}),
        json!({"data": 1, "data_base64": "AP8="}),
        json!({"data_base64": null}),
    ] {
        let mut request = json!({"type": "publish", "id": 3, "topic": "news"});
        request.as_object_mut().unwrap().append(&mut payload.as_object().unwrap().clone());
        let answer = client.ask(request).await;
        assert_eq!((&answer["error"], &answer["id"]), (&json!("bad_publish"), &json!(3)), "{answer}");
    }
    let null = json!({"type": "publish", "id": 4, "topic": "news", "data": null, "data_base64": "AP8="});
    assert_eq!(client.ask(null).await["type"], "published", "some serializers write null for a member without a value");
}

#[tokio::test]
async fn a_key_against_repetitions_and_the_limit_of_a_body_hold_for_bytes() {
    let server = Server::start();
    let key = "Idempotency-Key: one\r\n";
    let (_, first) = server.post("topic=news", key, b"\x00").await;
    let (_, again) = server.post("topic=news", key, b"\x01").await;
    assert_eq!(
        (&first["seq"], first.get("again"), &again["seq"], &again["again"]),
        (&json!(1), None, &json!(1), &json!(true))
    );
    // As base64 this body is longer than the limit, which counts the bytes as they are.
    let (status, _) = server.post("topic=news", "", &vec![0xff; 65_000]).await;
    assert_eq!(status, 200);
    for (length, expected) in [(65_530, (400, "bad_publish")), (65_537, (413, "frame_too_large"))] {
        let (status, answer) = server.post("topic=news", "", &vec![0xff; length]).await;
        assert_eq!((status, answer["error"]["code"].as_str().unwrap()), expected, "{length}");
    }
    drop(server.process);
}

/// The frames of the table in the documentation, as JSON and as hexadecimal digits.
fn documented_frames() -> Vec<(String, Vec<u8>)> {
    let page = include_str!("../docs/PROTOCOL.md");
    let (_, rows) = page.split_once("| frame | in CBOR, as hexadecimal digits |\n|---|---|\n").unwrap();
    let rows = rows.lines().take_while(|line| line.starts_with('|'));
    let cells = |row: &str| {
        let (json, hex) = row.strip_prefix("| `").unwrap().strip_suffix("` |").unwrap().split_once("` | `").unwrap();
        (json.to_owned(), data_encoding::HEXLOWER.decode(hex.as_bytes()).unwrap())
    };
    rows.map(cells).collect()
}

#[test]
fn the_documented_frames_are_those_of_the_protocol_in_binary() {
    let frames = documented_frames();
    assert!(frames.len() >= 14, "{} frames", frames.len());
    for (json, bytes) in frames {
        assert_eq!(cbor::client::frame(&json), bytes, "{json}");
        assert_eq!(cbor::client::json(&bytes), Ok(json));
    }
}

/// A client of `janus.v1.cbor`, by an independent library of WebSockets.
struct Binary(WebSocketStream<MaybeTlsStream<TcpStream>>);

impl Binary {
    async fn upgraded(http: SocketAddr, subprotocols: &'static str) -> (Self, String) {
        let mut request = format!("ws://{http}/ws").into_client_request().unwrap();
        request.headers_mut().insert("sec-websocket-protocol", HeaderValue::from_static(subprotocols));
        let (stream, response) = timeout(DEADLINE, connect_async(request)).await.unwrap().unwrap();
        let chosen = response.headers()["sec-websocket-protocol"].to_str().unwrap().to_owned();
        (Self(stream), chosen)
    }

    async fn open(http: SocketAddr) -> Self {
        let (mut client, _) = Self::upgraded(http, cbor::SUBPROTOCOL).await;
        let welcome = client.ask(&v1::client::hello(None, None)).await;
        assert!(welcome.starts_with(r#"{"type":"welcome","#), "{welcome}");
        client
    }

    /// Sends the frame of this JSON.
    async fn say(&mut self, json: &str) {
        self.0.send(Frame::binary(cbor::client::frame(json))).await.unwrap();
    }

    async fn ask(&mut self, json: &str) -> String {
        self.say(json).await;
        self.json().await
    }

    async fn next(&mut self) -> Frame {
        timeout(DEADLINE, self.0.next()).await.expect("a message in time").expect("no end").unwrap()
    }

    /// The bytes of the next message.
    async fn frame(&mut self) -> Vec<u8> {
        match self.next().await {
            Frame::Binary(bytes) => bytes.to_vec(),
            other => panic!("{other:?}"),
        }
    }

    /// The JSON of the next message.
    async fn json(&mut self) -> String {
        cbor::client::json(&self.frame().await).unwrap()
    }
}

#[tokio::test]
async fn a_client_gets_the_protocol_that_it_names_first() {
    let (_janus, http) = serve_http(Config::default()).await;
    for (offer, chosen) in [
        ("janus.v1.cbor", "janus.v1.cbor"),
        ("janus.v1.cbor, janus.v1.json", "janus.v1.cbor"),
        ("later.v2, janus.v1.json, janus.v1.cbor", "janus.v1.json"),
    ] {
        assert_eq!(Binary::upgraded(http, offer).await.1, chosen, "{offer}");
    }
}

#[tokio::test]
async fn bytes_are_carried_as_they_are_and_json_as_its_text() {
    let (janus, http) = serve_http(Config::default()).await;
    let mut readers = Readers::of("news", janus.local_addrs()[0], http).await;
    let (mut one, mut two) = (Binary::open(http).await, Binary::open(http).await);
    let answer = one.ask(&v1::client::subscribe(Some(1), "news", None)).await;
    assert!(answer.starts_with(r#"{"type":"subscribed","id":1,"topic":"news","#), "{answer}");
    let bytes = payload();
    let receipt = two.ask(&v1::client::publish_bytes(Some(2), "news", "\"frame\"", "[1.50]", &bytes, None)).await;
    assert!(receipt.starts_with(r#"{"type":"published","id":2,"topic":"news","#), "{receipt}");
    readers.see(&json!("frame"), &json!([1.5]), &bytes).await;
    let frame = one.frame().await;
    assert!(frame.windows(bytes.len()).any(|window| window == bytes), "the bytes themselves");
    let json = cbor::client::json(&frame).unwrap();
    let end = format!(r#","event":"frame","message_id":[1.50],"data_base64":"{}"}}"#, BASE64.encode(&bytes));
    assert!(json.starts_with(r#"{"type":"message","topic":"news","seq":1,"time":"#) && json.ends_with(&end), "{json}");

    // No digit of a publisher changes on any way.
    let data = r#"{"n": 1e400, "price":1.50,"s":"\ud800"}"#;
    one.say(&v1::client::publish(None, "news", "\"\"", "\"\"", data)).await;
    let at_v1 = readers.v1.text().await;
    assert!(at_v1.ends_with(&format!(r#","data":{data}}}"#)), "{at_v1}");
    let at_one = one.json().await;
    assert_eq!(at_one, at_v1);
    janus.publish("news", &json!({"from": "a program"})).await.unwrap();
    assert!(one.json().await.ends_with(r#","data":{"from":"a program"}}"#));
}

#[tokio::test]
async fn a_client_of_the_binary_protocol_resumes_where_it_was() {
    let (janus, http) = serve_http(Config::default()).await;
    let mut client = Binary::open(http).await;
    client.ask(&v1::client::subscribe(None, "news", None)).await;
    janus.publish_message(Message::bytes("news", [1]).unwrap()).await.unwrap();
    let first = client.json().await;
    let epoch = janus.publish_message(Message::bytes("news", [2]).unwrap()).await.unwrap().epoch;
    drop(client);
    let mut client = Binary::open(http).await;
    let since = Position { epoch, seq: 1 };
    let answer = client.ask(&v1::client::subscribe(None, "news", Some(since.into()))).await;
    assert!(answer.ends_with(r#","seq":1,"resumed":true,"missed":1}"#), "{answer}, after {first}");
    assert!(client.json().await.ends_with(r#","data_base64":"Ag=="}"#));
}

#[tokio::test]
async fn what_is_no_frame_closes_the_connection_with_a_reason() {
    let (_janus, http) = serve_http(Config::default()).await;
    let mut client = Binary::open(http).await;
    client.0.send(Frame::binary(&b"\xbf\x64type\x64ping\xff"[..])).await.unwrap();
    let bye = client.json().await;
    let expected = r#"{"type":"bye","code":4420,"error":"bad_cbor","message":"not a frame in CBOR at byte 0: "#;
    assert!(bye.starts_with(expected), "{bye}");
    let Frame::Close(Some(close)) = client.next().await else { panic!("no close") };
    assert_eq!((u16::from(close.code), &*close.reason), (4420, "bad_cbor"));

    let mut client = Binary::open(http).await;
    client.0.send(Frame::text(v1::client::PING)).await.unwrap();
    let Frame::Close(Some(close)) = client.next().await else { panic!("no close") };
    assert_eq!(u16::from(close.code), 1003);
}
