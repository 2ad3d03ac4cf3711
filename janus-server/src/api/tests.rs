//! Tests of the API over real sockets, through the HTTP port, and of `openapi.json` against the answers.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Instant;

use janus_core::wire::ErrorCode;
use janus_core::{Config, Event, Message, Namespace, Subscriber};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;

use super::routes::{
    DEFAULT_LIMIT, MAX_ANSWER_BYTES, MAX_BROADCAST_TOPICS, MAX_LIMIT, PORTION_BYTES, ROUTES, publish_to_all,
};
use super::tracing::{DEFAULT_COUNT, DEFAULT_SECONDS, MAX_COUNT, MAX_SECONDS};
use super::*;
use crate::settings::ApiKey;

const KEY: &str = "correct-horse-battery";

/// Far longer than any test takes: only a hang gets here.
const PATIENCE: Duration = Duration::from_secs(30);

struct Server {
    janus: Janus,
    api: Arc<Api>,
    addr: SocketAddr,
}

/// Every topic keeps history, except those of the namespace `plain`.
fn settings() -> Settings {
    let core = Config {
        listen: vec![SocketAddr::from(([127, 0, 0, 1], 0))],
        http_listen: vec![SocketAddr::from(([127, 0, 0, 1], 0))],
        default_namespace: Namespace { history: true, ..Namespace::default() },
        namespaces: [("plain".to_owned(), Namespace::default())].into(),
        ..Config::default()
    };
    Settings { core, ..Settings::default() }
}

async fn serve(settings: &Settings) -> Server {
    serve_and(settings, || {}).await
}

/// Starts a server that calls `then` on the home arbiter after each request passed on.
async fn serve_and(settings: &Settings, then: impl Fn() + Send + Sync + 'static) -> Server {
    let (passed_on, requests) = mpsc::channel(100);
    let builder = Janus::builder().config(settings.core.clone());
    let pass_on = move |request| {
        passed_on.try_send(request).expect("no test sends 100 requests at once");
        then();
    };
    let janus = builder.pass_on(pass_on).start().await.unwrap();
    let api = Arc::new(Api::new(janus.clone(), settings));
    api.serve_all(requests);
    let addr = SocketAddr::from(([127, 0, 0, 1], janus.local_addrs()[1].port()));
    Server { janus, api, addr }
}

/// An answer, read up to the end of its connection.
#[derive(Debug)]
struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The objects of an answer with an object per line.
    fn lines(&self) -> Vec<Value> {
        self.body
            .lines()
            .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
            .collect()
    }

    /// The code and the message of an error.
    #[track_caller]
    fn error(&self) -> (String, String) {
        let body = self.json();
        let text = |key: &str| body["error"][key].as_str().unwrap_or_else(|| panic!("{body}")).to_owned();
        (text("code"), text("message"))
    }
}

impl Server {
    /// Sends these pieces and reads to the end of the stream.
    async fn send(&self, pieces: &[&[u8]]) -> Answer {
        let exchange = async {
            let mut stream = TcpStream::connect(self.addr).await.unwrap();
            stream.set_nodelay(true).unwrap();
            for piece in pieces {
                stream.write_all(piece).await.unwrap();
                tokio::task::yield_now().await;
            }
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.expect("the connection ends with a FIN, not a reset");
            answer
        };
        let answer = timeout(PATIENCE, exchange).await.expect("the connection ends after the answer");
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {answer:?}"));
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let head = format!("{}\r\n", head.to_ascii_lowercase());
        assert!(head.contains("\r\nconnection: close\r\n"), "{head}");
        if !head.contains("\r\ntransfer-encoding: chunked\r\n") {
            assert!(head.contains("\r\ncontent-type: application/json\r\n"), "{head}");
            return Answer { status, head, body: body.to_owned() };
        }
        assert!(head.contains("\r\ncontent-type: application/x-ndjson\r\n"), "{head}");
        Answer { status, head, body: without_chunks(body) }
    }

    async fn post(&self, path: &str, body: impl AsRef<str>) -> Answer {
        self.send(&[&post(path, &[], body.as_ref())]).await
    }

    async fn get(&self, target: &str) -> Answer {
        self.send(&[&get(target, &[])]).await
    }
}

/// Joins the chunks of an ASCII body.
fn without_chunks(mut body: &str) -> String {
    let mut whole = String::new();
    loop {
        let (length, rest) = body.split_once("\r\n").unwrap_or_else(|| panic!("no last chunk: {whole}"));
        let length = usize::from_str_radix(length, 16).unwrap();
        if length == 0 {
            return whole;
        }
        whole.push_str(&rest[..length]);
        body = &rest[length + 2..];
    }
}

fn get(target: &str, headers: &[(&str, &str)]) -> Vec<u8> {
    request("GET", target, headers, "")
}

fn post(path: &str, headers: &[(&str, &str)], body: &str) -> Vec<u8> {
    let length = body.len().to_string();
    let own = [("Content-Type", "application/json"), ("Content-Length", &*length)];
    request("POST", path, &[&own, headers].concat(), body)
}

fn request(method: &str, target: &str, headers: &[(&str, &str)], body: &str) -> Vec<u8> {
    let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    format!("{method} {target} HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n{body}").into_bytes()
}

async fn next(subscriber: &mut Subscriber) -> janus_core::Delivery {
    match timeout(PATIENCE, subscriber.next()).await.expect("a message comes") {
        Some(Event::Message(message)) => message,
        other => panic!("{other:?}"),
    }
}

async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "still waiting for: {what}");
        tokio::task::yield_now().await;
    }
}

fn openapi() -> Value {
    serde_json::from_str(include_str!("../../openapi.json")).unwrap()
}

/// A schema of the file, with the components for its references.
fn validator(file: &Value, schema: &Value) -> jsonschema::Validator {
    let mut schema = schema.clone();
    schema["components"] = file["components"].clone();
    jsonschema::draft202012::new(&schema).unwrap()
}

#[track_caller]
fn assert_valid(validator: &jsonschema::Validator, instance: &Value) {
    let errors: Vec<String> = validator.iter_errors(instance).map(|error| error.to_string()).collect();
    assert!(errors.is_empty(), "{instance} is not what the file says: {errors:?}");
}

/// The target and the body, if any, of a valid request for this path.
async fn good_request(server: &Server, clients: &mut Vec<TcpStream>, path: &str) -> (String, Option<Value>) {
    let body = match path {
        "/api/publish" => json!({"topic": "news", "event": "greeting", "message_id": "1", "data": {"price": 1.5}}),
        "/api/broadcast" => json!({"topics": ["news", "plain:quotes"], "data": null}),
        "/api/history" => {
            server.janus.publish("news", "kept").await.unwrap();
            json!({"topic": "news", "since": {"epoch": "0123456789abcdef", "seq": 0}, "limit": 10})
        }
        "/api/disconnect" => {
            let client = janus_core::wire::classic::client::subscribe("news");
            let mut stream = TcpStream::connect(server.janus.local_addrs()[0]).await.unwrap();
            stream.write_all(&client).await.unwrap();
            clients.push(stream);
            until("a connection", || !server.janus.connections(0, 1).is_empty()).await;
            json!({"connection": server.janus.connections(0, 1)[0].connection, "reconnect": true})
        }
        "/api/topics" | "/api/connections" => return (format!("{path}?limit=5&after="), None),
        "/api/trace" => return (format!("{path}?seconds=1&count=2&kinds=connect,close"), None),
        _ => return (path.to_owned(), None),
    };
    (path.to_owned(), Some(body))
}

#[tokio::test]
async fn the_server_gives_every_answer_described_in_the_openapi_file() {
    let open = serve(&settings()).await;
    let keyed = serve(&Settings { api_key: ApiKey::new(KEY), ..settings() }).await;
    let mut everywhere = settings();
    everywhere.core.http_listen = vec![SocketAddr::from(([0, 0, 0, 0], 0))];
    let closed = serve(&everywhere).await;
    let mut hurried = settings();
    hurried.core.frame_timeout = Duration::from_millis(20);
    let hurried = serve(&hurried).await;
    let full = serve(&Settings { max_api_connections: 1, ..settings() }).await;
    let mut holder = TcpStream::connect(full.addr).await.unwrap();
    let unfinished = post("/api/publish", &[], "{}");
    holder.write_all(&unfinished[..unfinished.len() - 1]).await.unwrap();
    until("the only place to be taken", || full.api.connections.available_permits() == 0).await;

    let file = openapi();
    let mut clients = Vec::new();
    let mut seen = 0;
    for (path, operations) in file["paths"].as_object().unwrap() {
        for (method, operation) in operations.as_object().unwrap() {
            for (status, response) in operation["responses"].as_object().unwrap() {
                let (target, body) = good_request(&open, &mut clients, path).await;
                if let Some(body) = &body {
                    assert_valid(&validator(&file, &schema_of(&operation["requestBody"])), body);
                }
                let good = match &body {
                    Some(body) => post(&target, &[], &body.to_string()),
                    None => get(&target, &[]),
                };
                let (server, request) = match (&**status, &body) {
                    ("200", _) => (&open, good),
                    ("400", Some(_)) => (&open, post(path, &[], "{")),
                    ("400", None) => (&open, get(&format!("{path}?limit=0"), &[])),
                    ("401", _) => (&keyed, good),
                    ("403", _) => (&closed, good),
                    ("404", _) if path == "/api/history" => (&open, post(path, &[], r#"{"topic":"plain:a"}"#)),
                    ("404", _) => (&open, post(path, &[], r#"{"connection":9007199254740991,"reconnect":true}"#)),
                    ("408", _) => (&hurried, good[..good.len() - 1].to_vec()),
                    ("413", _) => (&open, post(path, &[], &" ".repeat(open.api.max_body_bytes + 1))),
                    ("415", _) => (&open, request("POST", path, &[("Content-Type", "text/plain")], "")),
                    ("503", _) => (&full, good),
                    _ => panic!("nothing here makes {method} {path} answer with {status}"),
                };
                let answer = server.send(&[&request]).await;
                assert_eq!(answer.status.to_string(), *status, "{method} {path}: {answer:?}");
                let response = match response["$ref"].as_str() {
                    Some(name) => file.pointer(name.trim_start_matches('#')).unwrap(),
                    None => response,
                };
                let is_lines = answer.head.contains("x-ndjson");
                for instance in if is_lines { answer.lines() } else { vec![answer.json()] } {
                    assert_valid(&validator(&file, &schema_of(response)), &instance);
                }
                for header in response["headers"].as_object().into_iter().flat_map(serde_json::Map::keys) {
                    assert!(answer.head.contains(&format!("\r\n{}: ", header.to_ascii_lowercase())), "{answer:?}");
                }
                seen += 1;
            }
        }
    }
    assert!(seen > 40, "the file has answers");
}

/// The schema of the body of a request or response, or of a line of the body.
fn schema_of(with_content: &Value) -> Value {
    let content = with_content["content"].as_object().and_then(|content| content.values().next()).unwrap();
    content["schema"].clone()
}

#[test]
fn the_openapi_file_has_every_route_and_no_other() {
    let file = openapi();
    let in_file: BTreeSet<(String, String)> = file["paths"]
        .as_object()
        .unwrap()
        .iter()
        .flat_map(|(path, operations)| {
            operations.as_object().unwrap().keys().map(|method| (path.clone(), method.to_ascii_uppercase()))
        })
        .collect();
    let routes = ROUTES.iter().map(|(path, method, _)| ((*path).to_owned(), method.to_string())).collect();
    assert_eq!(in_file, routes);
    assert_eq!(file["components"]["schemas"]["Broadcast"]["properties"]["topics"]["maxItems"], MAX_BROADCAST_TOPICS);
    for limit in [
        &file["components"]["schemas"]["HistoryRequest"]["properties"]["limit"],
        &file["paths"]["/api/topics"]["get"]["parameters"][0]["schema"],
        &file["paths"]["/api/connections"]["get"]["parameters"][0]["schema"],
    ] {
        assert_eq!((&limit["default"], &limit["maximum"]), (&json!(DEFAULT_LIMIT), &json!(MAX_LIMIT)));
    }
    let parameters = &file["paths"]["/api/trace"]["get"]["parameters"];
    for (at, default, max) in [(2, DEFAULT_SECONDS, MAX_SECONDS), (3, DEFAULT_COUNT, MAX_COUNT)] {
        let schema = &parameters[at]["schema"];
        assert_eq!((&schema["default"], &schema["maximum"]), (&json!(default), &json!(max)));
    }
    let kinds = janus_core::TraceKind::ALL.map(janus_core::TraceKind::as_str);
    assert_eq!(file["components"]["schemas"]["TraceKind"]["enum"], json!(kinds));
}

#[tokio::test]
async fn a_message_is_delivered_verbatim_and_its_publisher_gets_a_receipt() {
    let server = serve(&settings()).await;
    let mut subscriber = server.janus.subscribe("news").unwrap();
    let body = r#"{"data":{"price": 1.50, "n": 1e400},"message_id":"1","topic":"news","event":"gre\u0065ting"}"#;
    let answer = server.post("/api/publish", body).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let message = next(&mut subscriber).await;
    assert_eq!((message.event(), message.message_id()), ("\"greeting\"", "\"1\""));
    assert_eq!(message.data(), r#"{"price": 1.50, "n": 1e400}"#);
    let receipt = json!({"epoch": format!("{:016x}", message.position.epoch), "seq": 1, "subscribers": 1});
    assert_eq!(answer.json(), receipt);
    let nobody = server.post("/api/publish", r#"{"topic":"plain:nobody","data":null}"#).await;
    assert_eq!(nobody.json(), json!({"epoch": "0000000000000000", "seq": 0, "subscribers": 0}));
}

#[tokio::test]
async fn a_broadcast_goes_to_all_of_its_topics_or_to_none() {
    let server = serve(&settings()).await;
    let mut one = server.janus.subscribe("one").unwrap();
    let mut two = server.janus.subscribe("two").unwrap();
    for (topics, code, part) in [
        (json!(["one", "two", "one"]), "bad_request", "duplicate topic \"one\""),
        (json!(["one", "two", ""]), "bad_topic", "topics[2]: a topic's name must not be empty"),
        (json!(["one", "a\nb"]), "bad_topic", "topics[1]: a topic's name must not hold control"),
        (json!([]), "bad_request", "1 to 1000 topics"),
        (json!((0..1_001).map(|number| number.to_string()).collect::<Vec<_>>()), "bad_request", "got 1001"),
    ] {
        let answer = server.post("/api/broadcast", json!({"topics": topics, "data": 1}).to_string()).await;
        let (actual, message) = answer.error();
        assert_eq!((answer.status, &*actual), (400, code), "{message}");
        assert!(message.contains(part), "{message}");
    }
    let answer = server.post("/api/broadcast", r#"{"topics":["two","plain:x","one"],"event":"e","data":[1]}"#).await;
    let results = answer.json()["results"].clone();
    let summary = |index: usize| (results[index]["topic"].as_str().unwrap(), results[index]["seq"].as_u64().unwrap());
    assert_eq!([summary(0), summary(1), summary(2)], [("two", 1), ("plain:x", 0), ("one", 1)], "{results}");
    assert_eq!(next(&mut one).await.data(), "[1]");
    assert_eq!(next(&mut two).await.event(), "\"e\"");
}

/// Starts a server and holds its home arbiter from the first request passed on until the returned sender is dropped.
async fn serve_and_hold(settings: &Settings) -> (Server, std::sync::mpsc::Sender<()>) {
    let (held, released) = std::sync::mpsc::channel();
    let released = std::sync::Mutex::new(released);
    let server = serve_and(settings, move || {
        let _ = released.lock().unwrap().recv();
    })
    .await;
    (server, held)
}

fn under_way(janus: &Janus) -> usize {
    janus.topics().iter().map(|topic| topic.in_flight).sum()
}

#[tokio::test]
async fn a_broadcast_waits_for_receipts_before_its_next_portion() {
    let (server, held) = serve_and_hold(&settings()).await;
    let topics: Vec<String> = (0..100).map(|number| format!("topic {number}")).collect();
    let data = "x".repeat(30_000);
    let portion = PORTION_BYTES / (data.len() + 2);
    let body = json!({"topics": topics, "data": data}).to_string();
    let mut stream = TcpStream::connect(server.addr).await.unwrap();
    stream.write_all(&post("/api/broadcast", &[], &body)).await.unwrap();
    until("messages without a number", || under_way(&server.janus) > 0).await;
    // Nothing else runs now; without waiting, the broadcast would publish more with each turn.
    for _ in 0..1_000 {
        tokio::task::yield_now().await;
        assert!(under_way(&server.janus) <= portion);
    }
    drop(held);
    let mut answer = String::new();
    timeout(PATIENCE, stream.read_to_string(&mut answer)).await.unwrap().unwrap();
    assert_eq!(answer.matches(r#""seq":1,"#).count(), 100, "{answer}");
}

#[tokio::test]
async fn a_broadcast_without_subscribers_yields_to_other_tasks() {
    let server = serve(&settings()).await;
    let topics: Vec<String> = (0..1_000).map(|number| format!("plain:{number}")).collect();
    let message = Message::new("plain:0", &"x".repeat(60_000)).unwrap();
    let mut broadcast = std::pin::pin!(publish_to_all(&server.janus, &message, &topics));
    let mut turns = 0;
    let answer = std::future::poll_fn(|cx| {
        turns += 1;
        broadcast.as_mut().poll(cx)
    });
    assert_eq!(answer.await.status(), 200);
    assert!(turns > 200, "four topics a turn: {turns}");
}

#[tokio::test]
async fn a_broadcast_is_completed_even_if_its_client_disconnects() {
    let (server, held) = serve_and_hold(&Settings { max_api_connections: 1, ..settings() }).await;
    let topics: Vec<String> = (0..200).map(|number| format!("topic {number}")).collect();
    let mut stream = TcpStream::connect(server.addr).await.unwrap();
    stream.write_all(&post("/api/broadcast", &[], &json!({"topics": topics, "data": 1}).to_string())).await.unwrap();
    until("the first messages", || under_way(&server.janus) > 0).await;
    // A reset ends the exchange.
    socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
    drop(stream);
    for _ in 0..1_000 {
        tokio::task::yield_now().await;
    }
    drop(held);
    let all = || topics.iter().all(|topic| server.janus.history(topic, None, 1).unwrap().messages.len() == 1);
    until("a message in every topic", all).await;
    until("the place to be free", || server.api.connections.available_permits() == 1).await;
}

#[tokio::test]
async fn history_begins_after_the_requested_position() {
    let server = serve(&settings()).await;
    for number in 1..=3 {
        server.janus.publish("news", &number).await.unwrap();
    }
    let all = server.post("/api/history", r#"{"topic":"news"}"#).await.json();
    let data = |history: &Value| -> Vec<(u64, u64)> {
        let pair = |message: &Value| (message["seq"].as_u64().unwrap(), message["data"].as_u64().unwrap());
        history["messages"].as_array().unwrap().iter().map(pair).collect()
    };
    assert_eq!(data(&all), [(1, 1), (2, 2), (3, 3)]);
    assert_eq!((&all["seq"], &all["complete"]), (&json!(3), &json!(true)));
    let since = json!({"topic": "news", "since": {"epoch": all["epoch"], "seq": 1}});
    assert_eq!(data(&server.post("/api/history", since.to_string()).await.json()), [(2, 2), (3, 3)]);
    assert_eq!(data(&server.post("/api/history", r#"{"topic":"news","limit":1}"#).await.json()), [(3, 3)]);
    let cut = json!({"topic": "news", "since": {"epoch": all["epoch"], "seq": 0}, "limit": 2});
    let cut = server.post("/api/history", cut.to_string()).await.json();
    assert_eq!((data(&cut), &cut["complete"], &cut["more"]), (vec![(1, 1), (2, 2)], &json!(true), &json!(true)));
    let rest = json!({"topic": "news", "since": {"epoch": cut["epoch"], "seq": cut["seq"]}, "limit": 2});
    let rest = server.post("/api/history", rest.to_string()).await.json();
    assert_eq!((data(&rest), &rest["complete"], &rest["more"]), (vec![(3, 3)], &json!(true), &json!(false)));
    let strange = r#"{"topic":"news","since":{"epoch":"0123456789abcdef","seq":1}}"#;
    assert_eq!(server.post("/api/history", strange).await.json()["complete"], false);
    for bad in ["123", "0123456789abcdeg", "+123456789abcdef"] {
        let answer =
            server.post("/api/history", format!(r#"{{"topic":"a","since":{{"epoch":"{bad}","seq":1}}}}"#)).await;
        assert!(answer.error().1.contains("16 hexadecimal digits"), "{answer:?}");
    }
}

#[tokio::test]
async fn a_long_history_is_answered_in_parts_of_a_few_megabytes() {
    let mut settings = settings();
    settings.core.max_frame_bytes = 4 << 20;
    settings.core.default_namespace.history_bytes = 64 << 20;
    settings.core.max_inflight_bytes = 64 << 20;
    let server = serve(&settings).await;
    let text = "x".repeat(3 << 20);
    for _ in 0..4 {
        server.janus.publish("large", &text).await.unwrap();
    }
    let part = async |since: Option<(&Value, u64)>| {
        let since = since.map(|(epoch, seq)| json!({"epoch": epoch, "seq": seq}));
        let history = server.post("/api/history", json!({"topic": "large", "since": since}).to_string()).await.json();
        let messages = history["messages"].as_array().unwrap();
        let seqs: Vec<u64> = messages.iter().map(|message| message["seq"].as_u64().unwrap()).collect();
        (seqs, history["seq"].as_u64().unwrap(), history["more"].as_bool().unwrap(), history["epoch"].clone())
    };
    let (latest, end, more, epoch) = part(None).await;
    assert_eq!((latest, end, more), (vec![3, 4], 4, false));
    let (first, end, more, _) = part(Some((&epoch, 0))).await;
    assert_eq!((first, end, more), (vec![1, 2], 2, true));
    let (rest, end, more, _) = part(Some((&epoch, end))).await;
    assert_eq!((rest, end, more), (vec![3, 4], 4, false));
}

#[tokio::test]
async fn unread_answers_are_limited_by_their_memory() {
    let mut settings = settings();
    settings.core.max_frame_bytes = MAX_ANSWER_BYTES;
    settings.core.default_namespace.history_bytes = 64 << 20;
    settings.core.max_inflight_bytes = 64 << 20;
    let server = serve(&settings).await;
    server.janus.publish("large", &"x".repeat(MAX_ANSWER_BYTES - 1_000)).await.unwrap();
    let request = post("/api/history", &[], r#"{"topic":"large"}"#);
    let mut clients = Vec::new();
    let refused = loop {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        // A small buffer keeps most of the answer in the server.
        socket.set_recv_buffer_size(4_096).unwrap();
        let mut stream = socket.connect(server.addr).await.unwrap();
        stream.write_all(&request).await.unwrap();
        let mut status = [0; 12];
        timeout(PATIENCE, stream.read_exact(&mut status)).await.unwrap().unwrap();
        if &status != b"HTTP/1.1 200" {
            break stream;
        }
        clients.push(stream);
        assert!(clients.len() < 20, "answers without a limit");
    };
    assert_eq!(clients.len(), MAX_ANSWERS_BYTES / MAX_ANSWER_BYTES);
    drop(refused);
    let answer = server.send(&[&request]).await;
    assert_eq!((answer.status, &*answer.error().0), (503, "too_many_requests"));
    assert!(answer.head.contains("\r\nretry-after: "), "{answer:?}");
    // Small answers are not affected.
    assert_eq!(server.post("/api/publish", r#"{"topic":"plain:a","data":1}"#).await.status, 200);
    drop(clients);
    until("the memory to be free", || server.api.answers.available_permits() == MAX_ANSWERS_BYTES).await;
    assert_eq!(server.send(&[&request]).await.status, 200);
}

#[tokio::test]
async fn a_list_of_long_names_is_cut_at_the_size_limit() {
    let mut settings = settings();
    settings.core.max_topic_bytes = 4_096;
    settings.core.max_frame_bytes = 16 << 20;
    let server = serve(&settings).await;
    let fill = "x".repeat(4_000);
    let subscribers: Vec<_> =
        (0..3_000).map(|number| server.janus.subscribe(&format!("{number:04}{fill}")).unwrap()).collect();
    let first = server.get("/api/topics?limit=10000").await.json();
    let (names, next) = (first["topics"].as_array().unwrap(), first["next"].as_str().unwrap());
    assert!((MAX_ANSWER_BYTES / 4_004..3_000).contains(&names.len()), "{}", names.len());
    assert_eq!(names.last().unwrap()["topic"], next);
    let rest = server.get(&format!("/api/topics?limit=10000&after={next}")).await.json();
    assert_eq!(rest["topics"].as_array().unwrap().len() + names.len(), subscribers.len());
    assert_eq!(rest["next"], Value::Null);
}

#[tokio::test]
async fn pages_of_a_list_have_every_entry_exactly_once() {
    let server = serve(&settings()).await;
    let _subscribers: Vec<_> =
        (0..25).map(|number| server.janus.subscribe(&format!("topic {number}")).unwrap()).collect();
    let (mut names, mut after, mut parts) = (Vec::new(), String::new(), 0);
    loop {
        let part = server.get(&format!("/api/topics?limit=10&after={}", after.replace(' ', "+"))).await.json();
        names
            .extend(part["topics"].as_array().unwrap().iter().map(|topic| topic["topic"].as_str().unwrap().to_owned()));
        parts += 1;
        match part["next"].as_str() {
            Some(next) => next.clone_into(&mut after),
            None => break,
        }
    }
    assert_eq!((parts, names.len()), (3, 25));
    assert!(names.is_sorted());
    for (query, part) in [
        ("limit=10001", "1 to 10,000"),
        ("limit=x", "1 to 10,000"),
        ("limit=1&limit=2", "duplicate parameter limit"),
        ("count=1", "limit and after"),
    ] {
        let answer = server.get(&format!("/api/topics?{query}")).await;
        assert_eq!(answer.status, 400, "{answer:?}");
        assert!(answer.error().1.contains(part), "{answer:?}");
    }
    assert_eq!(server.get("/api/connections?after=x").await.status, 400);
}

#[tokio::test]
async fn the_served_openapi_file_has_the_servers_own_limit_of_names() {
    let mut settings = settings();
    settings.core.max_topic_bytes = 1_000;
    let file = serve(&settings).await.get("/api/openapi.json").await.json();
    assert_eq!(file["components"]["schemas"]["TopicName"]["maxLength"], 1_000);
    let usual = openapi();
    assert_eq!(usual["components"]["schemas"]["TopicName"]["maxLength"], Config::default().max_topic_bytes);
    assert_eq!(usual.to_string().matches("\"maxLength\":255").count(), 1);
}

#[tokio::test]
async fn a_whole_number_is_accepted_in_every_json_notation() {
    let server = serve(&settings()).await;
    server.janus.publish("news", &1).await.unwrap();
    let history =
        async |limit: &str| server.post("/api/history", format!(r#"{{"topic":"news","limit":{limit}}}"#)).await;
    for limit in ["1", "1.0", "1e0", "null", "1e3"] {
        assert_eq!(history(limit).await.status, 200, "{limit}");
    }
    for limit in ["0", "1.5", "-1", "-1.0", "10001", "1e300", "9007199254740992", "18446744073709551616", "\"1\""] {
        assert_eq!((history(limit).await.status, &*history(limit).await.error().0), (400, "bad_request"), "{limit}");
    }
    for query in ["limit=%2B5", "limit=5.0", "limit=", "limit=5%0A", "after=%2B5", "after=99999999999999999"] {
        assert_eq!(server.get(&format!("/api/connections?{query}")).await.status, 400, "{query}");
    }
}

#[tokio::test]
async fn a_parameter_is_refused_on_paths_without_parameters() {
    let server = serve(&settings()).await;
    let answer = server.post("/api/publish?topic=news", r#"{"topic":"news","data":1}"#).await;
    assert_eq!((answer.status, &*answer.error().0), (400, "bad_request"));
    assert!(server.janus.topics().is_empty());
    assert_eq!(server.get("/api/openapi.json?version=2").await.error().0, "bad_request");
    assert_eq!(server.get("/api/topics?").await.status, 200);
    assert_eq!(server.get("/api/openapi.json?").await.status, 200);
}

#[tokio::test]
async fn a_mistake_in_a_body_is_reported_with_its_place() {
    let server = serve(&settings()).await;
    for (body, code, parts) in [
        ("", "bad_json", &["line 1 column 0"][..]),
        ("{\"topic\":\n  oops}", "bad_json", &["line 2 column 3"]),
        (r#"{"topic":"a","data":1}x"#, "bad_json", &["column 23"]),
        (r#"{"topic":"a"}"#, "bad_request", &["missing field `data`"]),
        (r#"{"topic":1,"data":1}"#, "bad_request", &["expected a string", "column 10"]),
        (r#"{"topic":"a","data":1,"extra":2}"#, "bad_request", &["unknown field `extra`"]),
        (r#"{"topic":"a","topic":"b","data":1}"#, "bad_request", &["duplicate field `topic`"]),
        (r#"{"topic":"","data":1}"#, "bad_topic", &["empty"]),
        (r#" ["a","","",1]"#, "bad_request", &["expected an object"]),
    ] {
        let answer = server.post("/api/publish", body).await;
        let (actual, message) = answer.error();
        assert_eq!((answer.status, &*actual), (400, code), "{body}: {message}");
        assert!(parts.iter().all(|part| message.contains(part)), "{body}: {message}");
    }
    let answer =
        server.send(&[b"POST /api/publish HTTP/1.1\r\nHost: a\r\n", b"Content-Length: 1\r\n\r\n", b"\xff"]).await;
    assert_eq!(answer.status, 403, "a request with a foreign Host is refused before its body is read: {answer:?}");
}

#[tokio::test]
async fn an_unknown_path_or_method_is_answered_with_a_hint() {
    let server = serve(&settings()).await;
    for path in ["/", "/api", "/api/publish/", "/ws/", "/favicon.ico"] {
        let answer = server.get(path).await;
        assert_eq!((answer.status, &*answer.error().0), (404, "unknown_path"));
        assert!(answer.error().1.contains("/api/openapi.json"), "{answer:?}");
    }
    for (path, method, _) in ROUTES {
        let other = if method == "GET" { "DELETE" } else { "GET" };
        let answer = server.send(&[&request(other, path, &[], "")]).await;
        assert_eq!((answer.status, &*answer.error().0), (405, "method_not_allowed"));
        let allowed = if method == "GET" { "get, head" } else { "post" };
        assert!(answer.head.contains(&format!("\r\nallow: {allowed}\r\n")), "{answer:?}");
    }
}

#[tokio::test]
async fn without_the_key_no_request_is_carried_out() {
    let server = serve(&Settings { api_key: ApiKey::new(KEY), ..settings() }).await;
    let body = r#"{"topic":"news","data":1}"#;
    for headers in [&[][..], &[("Authorization", "Bearer wrong-horse-battery")]] {
        let answer = server.send(&[&post("/api/publish", headers, body)]).await;
        assert_eq!((answer.status, &*answer.error().0), (401, ErrorCode::Unauthorized.as_str()));
        assert!(answer.head.contains("\r\nwww-authenticate: bearer\r\n"), "{answer:?}");
        assert!(!answer.body.contains(KEY));
    }
    assert!(server.janus.topics().is_empty());
    let shown = format!("Bearer {KEY}");
    let answer = server.send(&[&post("/api/publish", &[("Authorization", &shown)], body)]).await;
    assert_eq!((answer.status, &answer.json()["seq"]), (200, &json!(1)));
    assert!(!format!("{:?}", server.api).contains(KEY));
}

/// Sends a request, reads the answer to its end, and leaves the client's side of the connection open.
async fn ask_and_stay(server: &Server, request: &[u8]) -> (TcpStream, String) {
    let mut stream = TcpStream::connect(server.addr).await.unwrap();
    stream.write_all(request).await.unwrap();
    let mut answer = String::new();
    timeout(PATIENCE, stream.read_to_string(&mut answer)).await.unwrap().unwrap();
    (stream, answer)
}

#[tokio::test]
async fn answered_clients_that_stay_connected_take_no_places() {
    let server = serve(&Settings { api_key: ApiKey::new(KEY), max_api_connections: 1, ..settings() }).await;
    let shown = format!("Bearer {KEY}");
    let mut staying = Vec::new();
    let mut lingering = None;
    for round in 0..5 {
        if round == 3 {
            // With all lingering places taken, connections are closed at once, but still with their answers.
            lingering = Some(server.api.lingering.acquire_many(MAX_LINGERING as u32).await.unwrap());
        }
        for (headers, status) in [(&[][..], "401"), (&[("Authorization", &*shown)], "200")] {
            let (stream, answer) = ask_and_stay(&server, &get("/api/topics", headers)).await;
            assert_eq!(answer.split(' ').nth(1), Some(status), "{answer}");
            staying.push(stream);
        }
    }
    drop((lingering, staying));
}

#[tokio::test]
async fn clients_without_the_key_take_no_places_of_clients_with_the_key() {
    let server = serve(&Settings { api_key: ApiKey::new(KEY), max_api_connections: 1, ..settings() }).await;
    let shown = format!("Bearer {KEY}");
    let keyed = get("/api/topics", &[("Authorization", &shown)]);
    // All places for refusals are taken, as if by clients reading slowly.
    let refusals = Arc::clone(&server.api.refusals).acquire_many_owned(MAX_REFUSALS as u32).await.unwrap();
    assert_eq!(server.send(&[&keyed]).await.status, 200);
    for target in ["/api/topics", "/api/openapi.json", "/nothing"] {
        let mut stream = TcpStream::connect(server.addr).await.unwrap();
        stream.write_all(&get(target, &[])).await.unwrap();
        let mut answer = Vec::new();
        // The connection may end with a reset.
        let _ = timeout(PATIENCE, stream.read_to_end(&mut answer)).await.unwrap();
        assert_eq!(answer, b"", "a further connection is closed without an answer");
    }
    drop(refusals);
    // With the only place taken, clients without the key still get their refusal, not "try again".
    let _place = Arc::clone(&server.api.connections).try_acquire_owned().unwrap();
    assert_eq!(server.send(&[&keyed]).await.status, 503);
    assert_eq!(server.get("/api/topics").await.status, 401);
    assert_eq!(server.get("/api/openapi.json").await.status, 200);
}

#[tokio::test]
async fn a_request_split_anywhere_gets_the_same_answer() {
    let server = serve(&settings()).await;
    let request = post("/api/publish", &[("Connection", "keep-alive")], r#"{"topic":"plain:a","data":1}"#);
    for at in (1..request.len()).step_by(7) {
        let answer = server.send(&[&request[..at], &request[at..]]).await;
        assert_eq!(answer.status, 200, "cut at {at}: {answer:?}");
    }
    let chunked = [&b"7\r\n{\"topic\r\n"[..], b"15\r\n\":\"plain:a\",\"data\":1}\r\n0\r\n\r\n"];
    let head = request_head_of_chunks();
    assert_eq!(server.send(&[&head, chunked[0], chunked[1]]).await.status, 200);
}

#[tokio::test]
async fn malformed_chunks_are_bad_frames_and_early_ends_unfinished_frames() {
    let server = serve(&settings()).await;
    let head = request_head_of_chunks();
    for chunks in [
        "x\r\n{}\r\n0\r\n\r\n",
        "-2\r\n{}\r\n0\r\n\r\n",
        "\r\n{}\r\n0\r\n\r\n",
        "2 2\r\n{}\r\n0\r\n\r\n",
        "2\r\n{}0\r\n\r\n",
        "2\rx{}\r\n0\r\n\r\n",
        "ffffffffffffffffff\r\n{}\r\n0\r\n\r\n",
        "2\r\n{}\r\n0\r\n\rx",
    ] {
        let answer = server.send(&[&head, chunks.as_bytes()]).await;
        let (code, message) = answer.error();
        assert_eq!((answer.status, &*code), (400, ErrorCode::BadFrame.as_str()), "{chunks:?}: {message}");
        assert!(message.contains("chunk"), "{chunks:?}: {message}");
    }
    for unfinished in ["", "2", "2\r\n{", "2\r\n{}\r\n0\r\n"] {
        let mut stream = TcpStream::connect(server.addr).await.unwrap();
        stream.write_all(&[&head, unfinished.as_bytes()].concat()).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = String::new();
        timeout(PATIENCE, stream.read_to_string(&mut answer)).await.unwrap().unwrap();
        assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains("unfinished_frame"), "{unfinished:?}: {answer}");
    }
}

fn request_head_of_chunks() -> Vec<u8> {
    request("POST", "/api/publish", &[("Content-Type", "application/json"), ("Transfer-Encoding", "chunked")], "")
}

#[tokio::test]
async fn a_body_that_is_too_large_is_refused_before_the_read() {
    let server = serve(&settings()).await;
    let limit = server.api.max_body_bytes;
    let refused = |answer: Answer| assert_eq!((answer.status, &*answer.error().0), (413, "frame_too_large"));
    let large = " ".repeat(limit + 1);
    refused(server.send(&[&post("/api/publish", &[], &large)]).await);
    let head =
        request("POST", "/api/publish", &[("Content-Type", "application/json"), ("Content-Length", "999999999")], "");
    refused(server.send(&[&head]).await);
    let chunks = format!("{:x}\r\n{large}\r\n0\r\n\r\n", large.len());
    refused(server.send(&[&request_head_of_chunks(), chunks.as_bytes()]).await);
    let json = r#"{"topic":"plain:a","data":1}"#;
    let fits = [json, &" ".repeat(limit - json.len())].concat();
    assert_eq!(server.post("/api/publish", fits).await.status, 200);
}

#[tokio::test]
async fn a_client_that_shuts_down_its_write_side_still_gets_its_answer() {
    let server = serve(&settings()).await;
    let mut stream = TcpStream::connect(server.addr).await.unwrap();
    stream.write_all(&get("/api/topics", &[])).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = String::new();
    timeout(PATIENCE, stream.read_to_string(&mut answer)).await.unwrap().unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
}

#[tokio::test]
async fn a_second_request_on_a_connection_is_not_answered() {
    let server = serve(&settings()).await;
    let both = [get("/api/topics", &[("Connection", "keep-alive")]), get("/events?topic=news", &[])].concat();
    let answer = server.send(&[&both]).await;
    assert_eq!(answer.status, 200);
    assert!(!answer.body.contains("HTTP/1.1"), "{answer:?}");
}

#[tokio::test]
async fn places_are_freed_after_their_requests() {
    let server = serve(&Settings { max_api_connections: 2, ..settings() }).await;
    for _ in 0..10 {
        assert_eq!(server.get("/api/topics").await.status, 200);
        until("the place to be free", || server.api.connections.available_permits() == 2).await;
    }
    timeout(PATIENCE, server.api.finish()).await.unwrap();
}
