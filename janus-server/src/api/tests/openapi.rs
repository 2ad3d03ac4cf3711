//! Tests of `openapi.json` against the routes and the answers of servers.

use std::collections::BTreeSet;

use super::super::events::MAX_VIEWS;
use super::super::routes::{ROUTES, Served};
use super::super::subscribing::MAX_TOPICS;
use super::super::tracing::{DEFAULT_COUNT, DEFAULT_SECONDS, MAX_COUNT, MAX_SECONDS};
use super::live::Events;
use super::*;
use crate::live::KEPT;
use crate::logging;
use janus_api::{
    DEFAULT_CHILDREN, DEFAULT_LIMIT, DEFAULT_SLOW, MAX_BROADCAST_TOPICS, MAX_CHILDREN, MAX_LIMIT, MAX_SLOW,
};
use log::LevelFilter;

fn description() -> Value {
    serde_json::from_str(include_str!("../../../openapi.json")).unwrap()
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
    assert!(errors.is_empty(), "{instance} differs from the file: {errors:?}");
}

/// The target and the body, if any, of a valid request for this path.
async fn good_request(
    server: &Server,
    clients: &mut Vec<TcpStream>,
    method: &str,
    path: &str,
) -> (String, Option<Value>) {
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
        "/api/revoke" => json!({"jti": "f81d4fae", "until": 4_000_000_000_u64}),
        "/api/log" if method == "put" => json!({"level": "debug", "target": "a::b", "for": "1 m"}),
        "/api/log" if method == "delete" => return (format!("{path}?target=a::b"), None),
        "/api/presence" => return (format!("{path}?topic=news"), None),
        "/api/topics" | "/api/connections" => return (format!("{path}?limit=5&after="), None),
        "/api/events" => return (format!("{path}?view=topics%3Fsort%3Drate&view=stats%3Fsamples%3D2"), None),
        "/api/subscribe" => return (format!("{path}?topic=news"), None),
        "/api/trace" => return (format!("{path}?seconds=1&count=2&kinds=connect,close"), None),
        crate::dashboard::PATH => return ("/dashboard/main.js".to_owned(), None),
        _ => return (path.to_owned(), None),
    };
    (path.to_owned(), Some(body))
}

/// Servers in different states, each with its own reason to refuse requests.
struct Servers {
    open: Server,
    keyed: Server,
    closed: Server,
    hurried: Server,
    full: Server,
    silent: Server,
    swallowed: Server,
    reloading: Server,
    mistaken: Server,
    _holders: Vec<TcpStream>,
    _streams: Vec<Events>,
}

impl Servers {
    async fn start() -> Self {
        let mut everywhere = settings();
        everywhere.core.http_listen = vec![SocketAddr::from(([0, 0, 0, 0], 0))];
        everywhere.admin_listen = everywhere.core.http_listen.clone();
        let mut hurried = settings();
        hurried.core.frame_timeout = Duration::from_millis(20);
        let mut impatient = settings();
        impatient.core.engine_timeout = Duration::from_millis(100);
        let mut full = Settings { max_api_connections: 1, ..settings() };
        full.core.max_topics = 1;
        // The requests that fill the API must not end before the tests do.
        full.core.frame_timeout = 10 * PATIENCE;
        let full = serve(&full).await;
        full.janus.publish("the only topic", &1).await.unwrap();
        let unfinished = post("/api/broadcast", &[], "{}");
        let mut holders = Vec::new();
        while full.api.free_places() + full.admin.free_places() > 0 {
            let addr = if full.api.free_places() > 0 { full.addr } else { full.admin_addr };
            let mut holder = TcpStream::connect(addr).await.unwrap();
            let free = full.api.free_places() + full.admin.free_places();
            holder.write_all(&unfinished[..unfinished.len() - 1]).await.unwrap();
            until("a place to be taken", || full.api.free_places() + full.admin.free_places() < free).await;
            holders.push(holder);
        }
        let mut streams = Vec::new();
        while full.admin.free_streams() > 0 {
            streams.push(Events::open(&full, "/api/events").await);
        }
        Self {
            open: serve(&settings()).await,
            keyed: serve(&Settings { api_key: ApiKey::new(KEY), ..settings() }).await,
            closed: serve(&everywhere).await,
            hurried: serve(&hurried).await,
            full,
            silent: serve_in_silence(&settings()).await,
            swallowed: serve_without_outcomes(&impatient).await,
            reloading: serve_file("max_topics = 7\nthreads = 255\n").await,
            mistaken: serve_file("max_topics = 0\nmax_topcs = 1\n").await,
            _holders: holders,
            _streams: streams,
        }
    }

    /// A server and a request with this status as the answer; `good` is a request that `open` carries out.
    fn provoke(&self, status: &str, (method, path): (&str, &str), has_body: bool, good: Vec<u8>) -> (&Server, Vec<u8>) {
        match (status, has_body) {
            ("200", _) if path == "/api/reload" => (&self.reloading, good),
            ("200", _) => (&self.open, good),
            ("422", _) => (&self.mistaken, good),
            ("400", true) => (&self.open, with_body(method, path, &[], "{")),
            ("400", false) => {
                let path = path.replace("{file}", "main.js");
                (&self.open, request(method, &format!("{path}?limit=0"), &[], ""))
            }
            ("401", _) => (&self.keyed, good),
            ("403", _) => (&self.closed, good),
            ("404", _) if path == "/api/presence" => {
                (&self.open, request(method, &format!("{path}?topic=plain:a"), &[], ""))
            }
            ("404", _) if path == "/api/history" => (&self.open, post(path, &[], r#"{"topic":"plain:a"}"#)),
            ("404", _) => (&self.open, post(path, &[], r#"{"connection":9007199254740991,"reconnect":true}"#)),
            ("408", _) => (&self.hurried, good[..good.len() - 1].to_vec()),
            ("409", _) => {
                logging::take_back(|_| true);
                for number in 0..16 {
                    let _ = logging::change(Some(format!("t{number}")), LevelFilter::Info, PATIENCE);
                }
                (&self.open, good)
            }
            ("413", _) => (&self.open, with_body(method, path, &[], &" ".repeat(self.open.api.max_body_bytes() + 1))),
            ("415", _) => (&self.open, request(method, path, &[("Content-Type", "text/plain")], "")),
            ("503", _) if !path.starts_with("/api/") => (&self.silent, good),
            ("503", _) => (&self.full, good),
            ("504", _) => (&self.swallowed, good),
            _ => panic!("no request here makes {path} answer with {status}"),
        }
    }
}

#[tokio::test]
async fn the_server_gives_every_answer_described_in_the_openapi_file() {
    let servers = Servers::start().await;
    let file = description();
    let mut clients = Vec::new();
    let mut seen = 0;
    for (path, operations) in file["paths"].as_object().unwrap() {
        for (method, operation) in operations.as_object().unwrap() {
            for (status, response) in operation["responses"].as_object().unwrap() {
                let (target, body) = good_request(&servers.open, &mut clients, method, path).await;
                if let Some(body) = &body {
                    assert_valid(&validator(&file, &schema_of(&operation["requestBody"])), body);
                }
                let method = method.to_uppercase();
                let good = match &body {
                    Some(body) => with_body(&method, &target, &[], &body.to_string()),
                    None => request(&method, &target, &[], ""),
                };
                let (server, request) = servers.provoke(status, (&method, path), body.is_some(), good);
                let is_stream = response["content"].get("text/event-stream").is_some();
                let answer = match is_of_the_admin_port(operation) {
                    true if is_stream => Events::first(server, &target).await,
                    true => server.send_to_admin(&request).await,
                    false => server.send(&[&request]).await,
                };
                assert_eq!(answer.status.to_string(), *status, "{method} {path}: {answer:?}");
                assert_described(&file, response, &answer);
                seen += 1;
            }
        }
    }
    assert!(seen > 40, "the file describes {seen} answers");
}

/// Whether an operation of the file is served on the admin port alone.
fn is_of_the_admin_port(operation: &Value) -> bool {
    operation["tags"] == json!(["admin"])
}

/// Asserts that the body and the headers of an answer are as the file describes the response.
#[track_caller]
fn assert_described(file: &Value, response: &Value, answer: &Answer) {
    let response = match response["$ref"].as_str() {
        Some(name) => file.pointer(name.trim_start_matches('#')).unwrap(),
        None => response,
    };
    let instances = match &answer.head {
        head if head.contains("x-ndjson") => answer.lines(),
        head if head.contains("text/plain") || head.contains("text/javascript") || head.contains("openmetrics") => {
            vec![json!(answer.body)]
        }
        _ => vec![answer.json()],
    };
    for instance in instances {
        assert_valid(&validator(file, &schema_of(response)), &instance);
    }
    for header in response["headers"].as_object().into_iter().flat_map(serde_json::Map::keys) {
        assert!(answer.head.contains(&format!("\r\n{}: ", header.to_ascii_lowercase())), "{answer:?}");
    }
}

/// The schema of the body of a request or response, or of a line of the body.
fn schema_of(with_content: &Value) -> Value {
    let content = with_content["content"].as_object().and_then(|content| content.values().next()).unwrap();
    content["schema"].clone()
}

#[test]
fn the_openapi_file_has_every_route_and_no_other() {
    let file = description();
    let in_file: BTreeSet<(String, String)> = file["paths"]
        .as_object()
        .unwrap()
        .iter()
        .flat_map(|(path, operations)| {
            operations.as_object().unwrap().keys().map(|method| (path.clone(), method.to_ascii_uppercase()))
        })
        .collect();
    let routes = ROUTES.iter().map(|(path, method, ..)| ((*path).to_owned(), method.to_string())).collect();
    assert_eq!(in_file, routes);
    for (path, method, served, _) in ROUTES {
        let operation = &file["paths"][*path][method.as_str().to_ascii_lowercase()];
        assert_eq!(is_of_the_admin_port(operation), *served == Served::Admin, "{method} {path}");
    }
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
    for (path, default, max) in [("/api/tree", DEFAULT_CHILDREN, MAX_CHILDREN), ("/api/slow", DEFAULT_SLOW, MAX_SLOW)] {
        let schema = &file["paths"][path]["get"]["parameters"][0]["schema"];
        assert_eq!((&schema["default"], &schema["maximum"]), (&json!(default), &json!(max)), "{path}");
    }
    assert_eq!(file["paths"]["/api/stats"]["get"]["parameters"][0]["schema"]["maximum"], KEPT);
    for (path, max) in [("/api/events", MAX_VIEWS), ("/api/subscribe", MAX_TOPICS)] {
        assert_eq!(file["paths"][path]["get"]["parameters"][0]["schema"]["maxItems"], max, "{path}");
    }
    let kinds = janus_core::TraceKind::ALL.map(janus_core::TraceKind::as_str);
    assert_eq!(file["components"]["schemas"]["TraceKind"]["enum"], json!(kinds));
}

#[tokio::test]
async fn the_served_openapi_file_has_the_servers_own_limit_of_names() {
    let mut settings = settings();
    settings.core.max_topic_bytes = 1_000;
    let file = serve(&settings).await.get("/api/openapi.json").await.json();
    assert_eq!(file["components"]["schemas"]["TopicName"]["maxLength"], 1_000);
    let usual = description();
    assert_eq!(usual["components"]["schemas"]["TopicName"]["maxLength"], Config::default().max_topic_bytes);
    assert_eq!(usual.to_string().matches("\"maxLength\":255").count(), 1);
}
