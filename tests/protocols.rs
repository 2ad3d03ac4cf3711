//! Protocols of a program over WebSocket, and its routes, on the HTTP port beside the port's own paths: the examples, and
//! what a client of theirs can see.

use std::net::SocketAddr;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use janus_core::engine::memory::Memory;
use janus_core::hooks::{ConnectRequest, Denied, Hooks, Identity};
use janus_core::wire::websocket::{
    ClientMessage, Close, Endpoint, MessageDecoder, MessageProtocol, MessageWriter, Reading, Takes, UpgradeError,
};
use janus_core::wire::{
    Answers, Command, ErrorCode, FrameError, HttpError, HttpRequest, Open, PublishRoute, Refusal, ServerEvent,
    Timestamp, WebSocket,
};
use janus_core::{
    ClientId, Config, HttpRoute, Janus, Message as Publication, RouteRequest, RouteResponse, StartupError,
};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{self, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

use crate::http::Http;
use crate::support::{DEADLINE, own_address, subscribers, until};

#[expect(dead_code, unreachable_pub, reason = "it is a program of its own")]
#[path = "../examples/echo.rs"]
mod echo;
#[expect(dead_code, unreachable_pub, reason = "it is a program of its own")]
#[path = "../examples/words.rs"]
mod words;

/// A client with the library tungstenite, which shares no line with the server.
struct Client(WebSocketStream<MaybeTlsStream<TcpStream>>);

impl Client {
    async fn open(addr: SocketAddr, path: &str) -> Self {
        let connected = timeout(DEADLINE, connect_async(format!("ws://{addr}{path}"))).await.expect("in time");
        Self(connected.expect("the path is a WebSocket").0)
    }

    async fn say(&mut self, text: &str) {
        self.0.send(Message::text(text)).await.expect("sent");
    }

    async fn next(&mut self) -> Message {
        timeout(DEADLINE, self.0.next()).await.expect("something comes").expect("no end").expect("a frame")
    }

    #[track_caller]
    fn hears(&mut self, text: &str) -> impl Future<Output = ()> {
        let caller = std::panic::Location::caller();
        async move { assert_eq!(self.next().await, Message::text(text), "{caller}") }
    }

    /// The close frame.
    async fn closed(&mut self) -> (u16, String) {
        match self.next().await {
            Message::Close(Some(frame)) => (frame.code.into(), frame.reason.to_string()),
            other => panic!("{other:?}"),
        }
    }
}

/// The status of the answer to a request to upgrade.
async fn refused(addr: SocketAddr, path: &str) -> u16 {
    match timeout(DEADLINE, connect_async(format!("ws://{addr}{path}"))).await.expect("in time") {
        Err(tungstenite::Error::Http(answer)) => answer.status().as_u16(),
        other => panic!("{other:?}"),
    }
}

fn config() -> Config {
    let _ = env_logger::builder().is_test(true).try_init();
    Config { listen: Vec::new(), http_listen: vec![own_address()], drain_period: Duration::ZERO, ..Config::default() }
}

#[test]
fn each_example_has_less_than_eighty_lines_of_code() {
    for source in [include_str!("../examples/echo.rs"), include_str!("../examples/words.rs")] {
        let is_code = |line: &&str| !line.trim().is_empty() && !line.trim_start().starts_with("//");
        let lines = source.lines().filter(is_code).count();
        assert!(lines < 80, "{lines} lines");
    }
}

#[tokio::test]
async fn the_echo_sends_each_message_back_as_it_came() {
    let janus = echo::start(own_address()).await.unwrap();
    let mut client = Client::open(janus.local_addrs()[0], "/echo").await;
    let long = "é".repeat(100_000);
    for message in [Message::text("hello"), Message::binary(vec![0, 255, 7]), Message::text(""), Message::text(long)] {
        client.0.send(message.clone()).await.unwrap();
        assert_eq!(client.next().await, message);
    }
    client.0.send(Message::Ping("beat".into())).await.unwrap();
    assert_eq!(client.next().await, Message::Pong("beat".into()));
    client.0.close(None).await.unwrap();
    assert!(matches!(client.next().await, Message::Close(_)));
    janus.shutdown().await;
}

#[tokio::test]
async fn clients_of_a_made_up_protocol_get_each_others_messages_and_not_their_own() {
    let janus = words::start(own_address()).await.unwrap();
    let addr = janus.local_addrs()[0];
    let (mut one, mut other) = (Client::open(addr, "/words").await, Client::open(addr, "/words").await);
    for client in [&mut one, &mut other] {
        let greeting = client.next().await.into_text().unwrap();
        let name = greeting.strip_prefix("hello ").expect("a greeting");
        assert!(name.parse::<ClientId>().is_ok(), "{name}");
        client.say("sub news").await;
        client.hears("ok news").await;
    }
    one.say("pub news from one").await;
    other.hears("news: from one").await;
    other.say("pub news from \"other\"").await;
    one.hears("news: from \"other\"").await;
    one.say("dance").await;
    one.hears("sorry, say: sub TOPIC, unsub TOPIC, or pub TOPIC TEXT").await;

    let page = Http::send(addr, format!("GET / HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\n\r\n")).await;
    assert!(page.read_to_end().await.ends_with("\r\n\r\nWebSockets are at /words\n"));
    let drained = tokio::spawn(async move { janus.shutdown().await });
    one.hears("bye, the server is shutting down").await;
    assert_eq!(one.closed().await, (ErrorCode::ServerDraining.number(), "server_draining".to_owned()));
    drop((one, other));
    drained.await.unwrap();
}

/// A protocol whose clients open the connection with their key, and may send several requests in a message: one for each
/// line. A refusal has close codes of its own, and the heartbeat is a message.
#[derive(Debug)]
struct Notes;

impl MessageProtocol for Notes {
    type Decoder = NotesDecoder;

    fn name(&self) -> &'static str {
        "notes"
    }

    fn subprotocols(&self) -> &'static [&'static str] {
        &["notes.v2", "notes.v1"]
    }

    fn check(&self, request: &HttpRequest) -> Result<(), UpgradeError> {
        match request.path() {
            "/notes/unknown" => Err(UpgradeError::new(404, "no such app")),
            _ => Ok(()),
        }
    }

    fn decoder(&self, request: Option<&HttpRequest>) -> NotesDecoder {
        NotesDecoder { path: request.map(|request| request.path().to_owned()).unwrap_or_default(), session: None }
    }

    fn encode(&self, event: &ServerEvent<'_>, _: &Timestamp, out: &mut MessageWriter<'_>) {
        match event {
            ServerEvent::Opened { id, .. } => out.text(&format!("open {id:?}")),
            ServerEvent::Subscribed { topic, .. } => out.text(&format!("ok {topic}")),
            ServerEvent::Message(message) => out.binary(message.data.as_bytes()),
            ServerEvent::Error { code, .. } => out.text(&format!("error {code}")),
            ServerEvent::Refused(why) => out.text(&format!("refused {:?} {}", why.id, why.code)),
            _ => {}
        }
    }

    fn heartbeat(&self, out: &mut MessageWriter<'_>) -> Answers {
        out.text("still there?");
        Answers::Always
    }

    fn close<'r>(&self, refusal: &Refusal<'r>) -> Close<'r> {
        match refusal.code {
            ErrorCode::Unauthorized => Close { code: 3001, reason: "who are you?".into() },
            // No server may send this code.
            ErrorCode::FrameTooLarge => Close { code: 1006, reason: "x".repeat(200).into() },
            _ => Close::of(refusal),
        }
    }
}

struct NotesDecoder {
    path: String,
    session: Option<String>,
}

impl MessageDecoder for NotesDecoder {
    type Scratch = ();

    const TAKES: Takes = Takes::Text;

    fn opened(&mut self, session: &str, _: ClientId) {
        self.session = Some(session.to_owned());
    }

    fn decode(
        &mut self,
        message: &mut ClientMessage<'_>,
        reading: &mut Reading<'_>,
    ) -> Option<Result<Command, FrameError>> {
        let text = message.text();
        let (line, rest) = text.split_once('\n').unwrap_or((text, ""));
        *message = ClientMessage::Text(rest);
        let answer = |text: &str| Ok(Command::Answer(MessageWriter::bytes(|out| out.text(text))));
        Some(match line.split_once(' ').unwrap_or((line, "")) {
            ("open", auth) => {
                Ok(Command::Open(Box::new(Open { auth: Some(auth.to_owned()), id: Some(7), ..Open::default() })))
            }
            ("sub", topic) => reading.limits.topic(topic).map(Command::subscribe),
            ("where", _) => answer(&format!("{} {}", self.path, self.session.as_ref().map_or(0, String::len))),
            ("yes", _) => Ok(Command::Pong),
            ("leave", _) => {
                let close = Close { code: 4_321, reason: "as you wish".into() };
                Ok(Command::Close(MessageWriter::bytes(|out| out.close(&close))))
            }
            ("", _) => return None,
            _ => Err(FrameError::new(ErrorCode::UnknownAction, "no such note")),
        })
    }

    fn memory(&self) -> usize {
        self.path.capacity() + self.session.as_ref().map_or(0, String::capacity)
    }
}

struct Door;

impl Hooks for Door {
    async fn authenticate(&self, request: ConnectRequest) -> Result<Identity, Denied> {
        assert_eq!(request.transport, "notes");
        let path = request.request.as_ref().expect("the request is at hand").path().to_owned();
        match request.auth.as_deref() {
            Some("key") if path == "/notes/mine" => Ok(Identity::user("alice")),
            _ => Err(Denied::new("a key is required")),
        }
    }
}

async fn notes(config: Config) -> (Janus, SocketAddr) {
    let endpoint = Endpoint::new(WebSocket::new(Notes)).or(WebSocket::v1());
    let builder = Janus::builder().config(config).hooks(Door).websocket("/notes/*".parse().unwrap(), endpoint);
    let janus = builder.start().await.unwrap();
    let addr = janus.local_addrs()[0];
    (janus, addr)
}

#[tokio::test]
async fn a_message_may_hold_several_requests_which_are_answered_in_their_order() {
    let (janus, addr) = notes(config()).await;
    let mut client = Client::open(addr, "/notes/mine?a=b").await;
    client.say("open key\nsub a\nwhere\ndance\nsub b\n").await;
    for answer in ["open Some(7)", "ok a", "/notes/mine 32", "error unknown_action", "ok b"] {
        client.hears(answer).await;
    }
    janus.publish("b", &json!({"x": 1})).await.unwrap();
    assert_eq!(client.next().await, Message::binary(&br#"{"x":1}"#[..]));
    client.say("where\n\nsub never").await;
    client.hears("/notes/mine 32").await;
    client.say("leave").await;
    assert_eq!(client.closed().await, (4_321, "as you wish".to_owned()));
    assert_eq!(subscribers(&janus, "never"), None, "an empty line ends the message");
    janus.shutdown().await;
}

#[tokio::test]
async fn a_protocol_chooses_its_close_codes_and_farewells() {
    let (janus, addr) = notes(Config { max_frame_bytes: 1_000, ..config() }).await;
    let mut client = Client::open(addr, "/notes/mine").await;
    client.say("open sesame").await;
    client.hears("refused Some(7) unauthorized").await;
    assert_eq!(client.closed().await, (3001, "who are you?".to_owned()));

    let mut client = Client::open(addr, "/notes/mine").await;
    client.say(&"x".repeat(1_001)).await;
    assert_eq!(client.closed().await, (1011, "x".repeat(123)), "a code that no server may send, and no words");
    let mut client = Client::open(addr, "/notes/mine").await;
    client.0.send(Message::binary(vec![1])).await.unwrap();
    let (code, reason) = client.closed().await;
    assert_eq!(
        (CloseCode::from(code), &*reason),
        (CloseCode::Unsupported, "binary messages are not supported: send text messages")
    );
    janus.shutdown().await;
}

#[tokio::test]
async fn the_request_chooses_the_protocol_by_path_and_subprotocol() {
    use tokio_tungstenite::tungstenite::client::IntoClientRequest;

    let (janus, addr) = notes(config()).await;
    let chosen = async |path: &str, offers: &'static str| {
        let mut request = format!("ws://{addr}{path}").into_client_request().unwrap();
        request.headers_mut().insert("sec-websocket-protocol", offers.parse().unwrap());
        match connect_async(request).await {
            Ok((_, head)) => Ok(head.headers()["sec-websocket-protocol"].to_str().unwrap().to_owned()),
            Err(tungstenite::Error::Http(answer)) => Err(answer.status().as_u16()),
            Err(error) => panic!("{error}"),
        }
    };
    assert_eq!(chosen("/notes/x", "notes.v1, notes.v2").await.as_deref(), Ok("notes.v1"), "the client's order");
    assert_eq!(chosen("/notes/x", "other, janus.v1.json").await.as_deref(), Ok("janus.v1.json"));
    assert_eq!(chosen("/notes/x", "other").await, Err(400));
    assert_eq!(chosen("/ws", "notes.v1").await, Err(400), "another path");
    assert_eq!(refused(addr, "/notes/unknown").await, 404);
    assert_eq!(refused(addr, "/note").await, 404);
    janus.shutdown().await;
}

#[tokio::test]
async fn a_heartbeat_of_messages_is_answered_by_messages() {
    let times =
        Config { heartbeat_interval: Duration::from_secs(1), pong_timeout: Duration::from_millis(500), ..config() };
    let (janus, addr) = notes(times).await;
    let mut client = Client::open(addr, "/notes/mine").await;
    client.say("open key").await;
    client.hears("open Some(7)").await;
    client.hears("still there?").await;
    client.say("yes").await;
    client.hears("still there?").await;
    assert_eq!(client.closed().await.0, ErrorCode::PingTimeout.number());
    janus.shutdown().await;
}

async fn greet(request: RouteRequest) -> Result<RouteResponse, HttpError> {
    let RouteRequest { rest, body, is_local, janus, .. } = request;
    match &*rest {
        "panic" => panic!("a route that panics"),
        "error" => Err(HttpError::new(418, "teapot", "no coffee here")),
        _ => {
            let receipt = janus.publish("greetings", &String::from_utf8_lossy(&body)).await.unwrap();
            Ok(RouteResponse::json(
                201,
                &json!({"rest": rest, "local": is_local, "seq": receipt.seq, "bytes": body.len()}),
            ))
        }
    }
}

async fn routes(config: Config) -> (Janus, SocketAddr) {
    let route = |method, path: &str| HttpRoute::new(method, path.parse().unwrap(), greet).max_body_bytes(100);
    let builder = Janus::builder().config(config).route(route("POST", "/greet/*")).route(route("GET", "/greet/*"));
    let janus = builder.start().await.unwrap();
    let addr = janus.local_addrs()[0];
    (janus, addr)
}

async fn answer(client: &mut Http) -> (String, Value) {
    let head = client.up_to("\r\n\r\n").await;
    let length: usize = head.split_once("content-length: ").unwrap().1.split_once("\r\n").unwrap().0.parse().unwrap();
    let body = if length == 0 { String::new() } else { client.up_to("}").await };
    let rest = length - body.len();
    let body = body + &client.exactly(rest).await;
    (head, serde_json::from_str(&body).unwrap_or(Value::Null))
}

#[tokio::test]
async fn a_route_answers_one_request_after_the_other_over_a_connection() {
    let (janus, addr) = routes(config()).await;
    let mut listener = janus.subscribe("greetings").unwrap();
    listener.ready().await.unwrap();
    let mut client =
        Http::send(addr, format!("POST /greet/a HTTP/1.1\r\nHost: {addr}\r\nContent-Length: 5\r\n\r\nhello")).await;
    let (head, body) = answer(&mut client).await;
    assert!(head.starts_with("HTTP/1.1 201 Created\r\n") && !head.contains("connection:"), "{head}");
    assert_eq!(body, json!({"rest": "a", "local": true, "seq": 1, "bytes": 5}));
    let chunked = "POST /greet/b/c?x=y HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n";
    client.write(chunked.as_bytes()).await;
    assert_eq!(answer(&mut client).await.1, json!({"rest": "b/c", "local": true, "seq": 2, "bytes": 3}));
    client.write(b"POST /greet/ HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n").await;
    assert_eq!(client.up_to("\r\n\r\n").await, "HTTP/1.1 100 Continue\r\n\r\n");
    client.write(b"ok").await;
    assert_eq!(answer(&mut client).await.1["bytes"], 2);
    client.write(b"HEAD /greet/d HTTP/1.1\r\nHost: h\r\n\r\n").await;
    assert!(client.up_to("\r\n\r\n").await.starts_with("HTTP/1.1 201 "));
    // The connection may still become a stream.
    client.write(b"GET /events?topic=news HTTP/1.1\r\nHost: h\r\n\r\n").await;
    assert!(client.up_to("\r\n\r\n").await.starts_with("HTTP/1.1 200 OK\r\n"));
    janus.shutdown().await;
}

#[tokio::test]
async fn a_request_that_no_route_carries_out_is_refused_and_its_connection_closed() {
    let (janus, addr) = routes(Config { frame_timeout: Duration::from_millis(200), ..config() }).await;
    for (request, status) in [
        ("POST /greet/a HTTP/1.1\r\nHost: h\r\nContent-Length: 101\r\n\r\n", "413 Content Too Large"),
        ("POST /greet/a HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nlate", "408 Request Timeout"),
        ("POST /greet/a HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\nx", "400 Bad Request"),
        ("PUT /greet/a HTTP/1.1\r\nHost: h\r\n\r\n", "405 Method Not Allowed"),
        ("GET /elsewhere HTTP/1.1\r\nHost: h\r\n\r\n", "404 Not Found"),
        ("GET /greet HTTP/1.1\r\nHost: h\r\n\r\n", "404 Not Found"),
        ("GET /greet/error HTTP/1.1\r\nHost: h\r\n\r\n", "418 Refused"),
        ("GET /greet/panic HTTP/1.1\r\nHost: h\r\n\r\n", "500 Internal Server Error"),
    ] {
        let answer = Http::send(addr, request).await.read_to_end().await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}\r\n")), "{request}: {answer}");
        assert!(answer.contains("\r\nconnection: close\r\n"), "{answer}");
        assert_eq!(answer.contains("\r\nallow: POST, GET\r\n"), status.starts_with("405"), "{answer}");
    }
    janus.shutdown().await;
}

#[tokio::test]
async fn a_crowd_at_one_route_leaves_the_others_alone() {
    let (release, released) = tokio::sync::watch::channel(false);
    let slow = move |_| {
        let mut released = released.clone();
        async move {
            released.wait_for(|released| *released).await.unwrap();
            Ok(RouteResponse::new(200, "text/plain", "slow"))
        }
    };
    let quick = |_| async { Ok(RouteResponse::new(200, "text/plain", "quick")) };
    let builder = Janus::builder().config(config());
    let slow = HttpRoute::new("GET", "/slow".parse().unwrap(), slow).max_requests(1);
    let builder = builder.route(slow).route(HttpRoute::new("GET", "/quick".parse().unwrap(), quick));
    let builder = builder.route(
        HttpRoute::new("GET", "/never".parse().unwrap(), |_| std::future::pending()).timeout(Duration::from_millis(50)),
    );
    let janus = builder.start().await.unwrap();
    let addr = janus.local_addrs()[0];
    let get = async |path: &str| {
        Http::send(addr, format!("GET {path} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")).await
    };
    let first = get("/slow").await;
    // One of the two is being answered, and the other is refused.
    let refused = loop {
        let answer = get("/slow").await;
        match timeout(Duration::from_millis(100), answer.read_to_end()).await {
            Ok(answer) => break answer,
            Err(_) => continue,
        }
    };
    assert!(refused.starts_with("HTTP/1.1 503 ") && refused.contains("\r\nretry-after: 1\r\n"), "{refused}");
    assert!(get("/quick").await.read_to_end().await.ends_with("quick"));
    assert_eq!(get("/never").await.read_to_end().await, "", "closed at the end of its time");
    release.send(true).unwrap();
    drop(first);
    janus.shutdown().await;
}

#[tokio::test]
async fn a_program_passes_on_what_fits_no_route() {
    let (passed, mut streams) = tokio::sync::mpsc::channel(1);
    let route = HttpRoute::new("GET", "/greet/*".parse().unwrap(), greet);
    let builder = Janus::builder().config(config()).route(route).pass_on(move |stream| drop(passed.try_send(stream)));
    let janus = builder.start().await.unwrap();
    let addr = janus.local_addrs()[0];
    let _client = Http::send(addr, "GET /elsewhere HTTP/1.1\r\nHost: h\r\n\r\n").await;
    let stream = timeout(DEADLINE, streams.recv()).await.unwrap().unwrap();
    assert_eq!(stream.request.unwrap().head.path(), "/elsewhere");
    janus.shutdown().await;
}

#[tokio::test]
async fn two_parts_of_a_program_cannot_have_the_same_paths() {
    let websocket = |path: &str| Janus::builder().config(config()).websocket(path.parse().unwrap(), WebSocket::v1());
    let route = |path: &str| HttpRoute::new("GET", path.parse().unwrap(), greet);
    for builder in [
        websocket("/ws"),
        websocket("/ev*"),
        websocket("/a").websocket("/a*".parse().unwrap(), WebSocket::v1()),
        websocket("/a/*").route(route("/a/b")),
        Janus::builder().config(config()).route(route("/ws*")),
    ] {
        let error = builder.start().await.unwrap_err();
        assert!(matches!(error, StartupError::Paths { .. }), "{error}");
    }
    let janus = websocket("/a/*").route(route("/ab/*")).route(route("/ab/c")).start().await.unwrap();
    janus.shutdown().await;
}

/// A subscriber of `news` over WebSocket, with its public name.
async fn subscriber(addr: SocketAddr) -> (Client, String) {
    let mut client = Client::open(addr, "/ws").await;
    client.say(r#"{"type":"hello"}"#).await;
    let welcome: Value = serde_json::from_str(&client.next().await.into_text().unwrap()).unwrap();
    client.say(r#"{"type":"subscribe","topic":"news"}"#).await;
    client.next().await;
    (client, welcome["client"].as_str().expect("a welcome names the client").to_owned())
}

/// The data of the next message.
async fn data(client: &mut Client) -> Value {
    let mut frame: Value = serde_json::from_str(&client.next().await.into_text().unwrap()).unwrap();
    assert_eq!(frame["type"], "message", "{frame}");
    frame["data"].take()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_and_typed_topics_leave_out_the_client_that_they_name() {
    let route = PublishRoute::new("/api/publish", |_, _| Ok(()));
    let janus = Janus::builder().config(config()).publish_route(route).start().await.unwrap();
    let addr = janus.local_addrs()[0];
    let (mut other, _) = subscriber(addr).await;
    let (mut sender, name) = subscriber(addr).await;
    let publish = async |more: &[&str]| {
        let server = format!("http://{addr}");
        let mut command = crate::cli_run::janus(&[&["publish", "news", "--server", &server], more].concat());
        tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
    };
    janus.topic::<i32>("news").unwrap().publish_excluding(name.parse().unwrap(), &0).await.unwrap();
    assert_eq!(data(&mut other).await, json!(0));
    crate::cli_run::assert_exit(&publish(&["1", "--exclude", &name]).await, 0);
    crate::cli_run::assert_exit(&publish(&["2"]).await, 0);
    assert_eq!((data(&mut other).await, data(&mut other).await), (json!(1), json!(2)));
    assert_eq!(data(&mut sender).await, json!(2));
    crate::cli_run::assert_exit(&publish(&["3", "--exclude", "me"]).await, 2);
}

#[tokio::test]
async fn a_message_does_not_go_to_the_client_that_its_publisher_names() {
    let config = Config { allow_publish: true, ..config() };
    let janus = Janus::builder().config(config).start().await.unwrap();
    let addr = janus.local_addrs()[0];
    // More than a volley needs, so that each way of sending is taken.
    let mut others = Vec::new();
    for _ in 0..8 {
        others.push(subscriber(addr).await.0);
    }
    let (mut sender, name) = subscriber(addr).await;
    for round in 0..20 {
        let frame = |exclude: Option<&str>, data: i32| {
            json!({"type": "publish", "topic": "news", "data": data, "exclude": exclude}).to_string()
        };
        // Together, so that they come in the same batch.
        sender.0.feed(Message::text(frame(None, 4 * round))).await.unwrap();
        sender.0.feed(Message::text(frame(Some(&name), 4 * round + 1))).await.unwrap();
        sender.0.feed(Message::text(frame(Some(&name), 4 * round + 2))).await.unwrap();
        sender.say(&frame(None, 4 * round + 3)).await;
        for other in &mut others {
            for number in 0..4 {
                assert_eq!(data(other).await, 4 * round + number);
            }
        }
        assert_eq!((data(&mut sender).await, data(&mut sender).await), (json!(4 * round), json!(4 * round + 3)));
    }
    let excluded = Publication::new("news", "in process").unwrap().exclude(name.parse().unwrap());
    janus.publish_message(excluded).await.unwrap();
    janus.publish("news", "to all").await.unwrap();
    assert_eq!((data(&mut others[0]).await, data(&mut others[0]).await), (json!("in process"), json!("to all")));
    assert_eq!(data(&mut sender).await, "to all");
    // The same connection finds it nowhere; another connection finds it as every other.
    sender.say(r#"{"type":"unsubscribe","topic":"news"}"#).await;
    sender.next().await;
    for client in [&mut sender, &mut others[1]] {
        client.say(r#"{"type":"unsubscribe","topic":"news"}"#).await;
    }
    sender.next().await;
    sender.say(r#"{"type":"subscribe","topic":"news","since":"start"}"#).await;
    sender.next().await;
    let mut replayed = Vec::new();
    while replayed.last() != Some(&json!("to all")) {
        replayed.push(data(&mut sender).await);
    }
    assert!(replayed.len() == 41 && !replayed.contains(&json!("in process")), "{replayed:?}");
    let (mut late, _) = subscriber(addr).await;
    late.say(r#"{"type":"unsubscribe","topic":"news"}"#).await;
    late.next().await;
    late.say(r#"{"type":"subscribe","topic":"news","since":"start"}"#).await;
    late.next().await;
    let mut all = Vec::new();
    while all.last() != Some(&json!("to all")) {
        all.push(data(&mut late).await);
    }
    assert_eq!(all.len(), 82);
    sender.say(r#"{"type":"publish","id":1,"topic":"news","data":1,"exclude":"me"}"#).await;
    assert!(sender.next().await.into_text().unwrap().contains("bad_publish"));
    janus.shutdown().await;
}

#[tokio::test]
async fn an_excluded_client_is_left_out_whichever_node_it_is_on() {
    let engine = Memory::default();
    let node = async || {
        let config = Config { allow_publish: true, ..config() };
        let janus = Janus::builder().config(config).engine(engine.clone()).start().await.unwrap();
        let addr = janus.local_addrs()[0];
        (janus, addr)
    };
    let ((one, addr), (other, other_addr)) = (node().await, node().await);
    let ((mut client, name), (mut neighbour, _)) = (subscriber(addr).await, subscriber(other_addr).await);
    until("both nodes know of both", || [&one, &other].iter().all(|node| subscribers(node, "news") == Some(1))).await;
    for (node, number) in [(&other, 1), (&one, 2)] {
        let message = Publication::new("news", &number).unwrap().exclude(name.parse().unwrap());
        node.publish_message(message).await.unwrap();
        node.publish("news", &-number).await.unwrap();
        assert_eq!((data(&mut neighbour).await, data(&mut neighbour).await), (json!(number), json!(-number)));
        assert_eq!(data(&mut client).await, -number);
    }
    one.shutdown().await;
    other.shutdown().await;
}
