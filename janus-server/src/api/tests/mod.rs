//! Tests of the API over real sockets, through the HTTP port: servers, requests and answers for all tests.
//!
//! | file | tests of |
//! |---|---|
//! | `kept.rs` | connections with several requests |
//! | `live.rs` | looks at a running server, and event streams |
//! | `openapi.rs` | `openapi.json` against the routes and the answers |
//! | `publishing.rs` | publications and broadcasts |
//! | `reading.rs` | histories, lists, and the memory for large answers |
//! | `requests.rs` | bodies, parameters, the key, and the places that requests take |

mod kept;
mod live;
mod openapi;
mod publishing;
mod reading;
mod requests;

use std::net::SocketAddr;
use std::task::{Context, Poll};
use std::time::Instant;

use futures_util::future::LocalBoxFuture;
use janus_core::engine::{self, Engine, Link, LinkError, NodeId};
use janus_core::{Builder, Config, Namespace, Presence};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use super::*;
use crate::admin::{self, Admin, Health};
use crate::reload::Sources;
use crate::service_manager::notify::ServiceManager;
use crate::settings::{ApiKey, Flags};

const KEY: &str = "correct-horse-battery";

/// Far longer than any test takes: only a hang gets here.
const PATIENCE: Duration = Duration::from_secs(30);

struct Server {
    janus: Janus,
    api: Arc<Api>,
    addr: SocketAddr,
    admin: Arc<Admin>,
    admin_addr: SocketAddr,
    /// With the folder of the file of settings, if there is one.
    reloader: Option<(Reloader, TempDir)>,
}

/// Every topic has history and presence, except those of the namespace `plain`.
fn settings() -> Settings {
    let core = Config {
        listen: vec![SocketAddr::from(([127, 0, 0, 1], 0))],
        http_listen: vec![SocketAddr::from(([127, 0, 0, 1], 0))],
        default_namespace: Namespace { history: true, presence: Presence::Members, ..Namespace::default() },
        namespaces: [("plain".to_owned(), Namespace::default())].into(),
        ..Config::default()
    };
    Settings { core, admin_listen: vec![SocketAddr::from(([127, 0, 0, 1], 0))], ..Settings::default() }
}

async fn serve(settings: &Settings) -> Server {
    serve_and(settings, || {}).await
}

/// Starts a server whose actors seem to have been silent for a while.
async fn serve_in_silence(settings: &Settings) -> Server {
    start(settings, || {}, |janus| Health::of_silent(janus, |_| Duration::from_secs(6))).await
}

/// Starts a server that calls `then` on the home arbiter after each request passed on.
async fn serve_and(settings: &Settings, then: impl Fn() + Send + Sync + 'static) -> Server {
    start(settings, then, |janus| Health::new(janus, None)).await
}

async fn start(
    settings: &Settings,
    then: impl Fn() + Send + Sync + 'static,
    health: impl FnOnce(Janus) -> Health,
) -> Server {
    start_of(Janus::builder(), settings, then, health).await
}

/// Starts a node of a cluster whose engine takes requests, and never answers.
async fn serve_without_outcomes(settings: &Settings) -> Server {
    start_of(Janus::builder().engine(Swallowing), settings, || {}, |janus| Health::new(janus, None)).await
}

/// See [`serve_without_outcomes`].
#[derive(Debug)]
struct Swallowing;

impl Engine for Swallowing {
    fn name(&self) -> &'static str {
        "swallowing"
    }

    fn connect(&self, _: usize, _: NodeId) -> LocalBoxFuture<'static, Result<Box<dyn Link>, LinkError>> {
        Box::pin(async { Ok(Box::new(Self) as _) })
    }
}

impl Link for Swallowing {
    fn request(&mut self, _: engine::Request<'_>) {}

    fn backlog(&self) -> usize {
        0
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<Result<engine::Answer, LinkError>> {
        Poll::Pending
    }
}

async fn start_of(
    builder: Builder,
    settings: &Settings,
    then: impl Fn() + Send + Sync + 'static,
    health: impl FnOnce(Janus) -> Health,
) -> Server {
    let (passed_on, requests) = mpsc::channel(100);
    let builder = builder.config(settings.core.clone());
    let pass_on = move |request| {
        passed_on.try_send(request).expect("no test sends 100 requests at once");
        then();
    };
    let shared = Shared::new(settings);
    let builder = builder.pass_on(pass_on).publish_route(shared.publish_route());
    let janus = builder.start().await.unwrap();
    let api = Arc::new(Api::new(janus.clone(), settings, &shared, None));
    api.serve_all(requests);
    let addr = SocketAddr::from(([127, 0, 0, 1], janus.local_addrs()[1].port()));
    let admin = Arc::new(Admin::new(&api, settings, Arc::new(health(janus.clone()))));
    let admin_addr = admin.serve(admin::listen(&settings.admin_listen).unwrap()).unwrap()[0];
    let admin_addr = SocketAddr::from(([127, 0, 0, 1], admin_addr.port()));
    Server { janus, api, addr, admin, admin_addr, reloader: None }
}

/// Starts a server with a file of settings, and then changes the file.
async fn serve_file(changed: &str) -> Server {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("janus.toml");
    let listen = "listen = \"127.0.0.1:0\"\nhttp_listen = \"127.0.0.1:0\"\nadmin_listen = \"127.0.0.1:0\"\n";
    std::fs::write(&file, listen).unwrap();
    let sources = Arc::new(Sources::new(Flags { file: Some(file.clone()), ..Flags::default() }));
    let loaded = sources.read().unwrap();
    let settings = loaded.settings.clone();
    let mut server = serve(&settings).await;
    let access = crate::access::Access::new(&settings).unwrap();
    let parts = (Arc::clone(&server.api), Arc::clone(&server.admin), Arc::new(ServiceManager::of_this_process()));
    let reloader = Reloader::new(sources, (loaded, &settings), (server.janus.clone(), access), parts);
    std::fs::write(&file, format!("{listen}{changed}")).unwrap();
    server.reloader = Some((reloader, folder));
    server
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
        Self::send_to(self.addr, pieces).await
    }

    /// Sends a request to the admin port, and reads to the end of the stream.
    async fn send_to_admin(&self, request: &[u8]) -> Answer {
        let head = request.iter().position(|&byte| byte == b'\n').unwrap() + 1;
        Self::send_to(self.admin_addr, &[&request[..head], b"Connection: close\r\n", &request[head..]]).await
    }

    async fn send_to(addr: SocketAddr, pieces: &[&[u8]]) -> Answer {
        let exchange = async {
            let mut stream = TcpStream::connect(addr).await.unwrap();
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
            let kinds = [
                "application/json",
                "text/plain; charset=utf-8",
                "text/javascript; charset=utf-8",
                crate::metrics::Format::OpenMetrics.content_type(),
            ];
            assert!(kinds.iter().any(|kind| head.contains(&format!("\r\ncontent-type: {kind}\r\n"))), "{head}");
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
    with_body("POST", path, headers, body)
}

fn with_body(method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Vec<u8> {
    let length = body.len().to_string();
    let own = [("Content-Type", "application/json"), ("Content-Length", &*length)];
    request(method, path, &[&own, headers].concat(), body)
}

fn request(method: &str, target: &str, headers: &[(&str, &str)], body: &str) -> Vec<u8> {
    let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    format!("{method} {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{headers}\r\n{body}").into_bytes()
}

async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "still waiting for: {what}");
        tokio::task::yield_now().await;
    }
}
