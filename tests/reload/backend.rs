//! Settings of the backend that is asked and told.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use super::binary::Server;
use crate::http::Http;
use crate::support::{Client, DEADLINE, own_address, publish_frame, subscribe_frame, until};
use crate::tls::certificates::Authority;

/// A request to the backend: its head in lower case, and its body.
type Request = (String, Value);

/// A backend that says yes to everything, once its gate is open.
#[derive(Clone)]
struct Backend {
    addr: SocketAddr,
    requests: Arc<Mutex<Vec<Request>>>,
    gate: Arc<Semaphore>,
}

impl Backend {
    async fn start() -> Self {
        Self::start_on(own_address(), None).await
    }

    async fn start_on(addr: SocketAddr, tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind(addr).await.unwrap();
        let addr = listener.local_addr().unwrap();
        let backend = Self { addr, requests: Arc::default(), gate: Arc::new(Semaphore::new(1_000)) };
        let this = backend.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (this, tls) = (this.clone(), tls.clone());
                tokio::spawn(async move {
                    match tls {
                        None => this.converse(stream).await,
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                this.converse(stream).await;
                            }
                        }
                    }
                });
            }
        });
        backend
    }

    async fn converse(&self, mut stream: impl AsyncRead + AsyncWrite + Unpin) {
        let mut received = Vec::new();
        loop {
            if let Some(end) = received.windows(4).position(|window| window == b"\r\n\r\n") {
                let head = String::from_utf8_lossy(&received[..end]).to_ascii_lowercase();
                let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
                let all = end + 4 + length.map_or(0, |length| length.parse::<usize>().unwrap());
                if received.len() >= all {
                    let body = serde_json::from_slice(&received[end + 4..all]).unwrap_or_default();
                    received.drain(..all);
                    self.requests.lock().push((head, body));
                    let _open = self.gate.acquire().await;
                    let body = json!({"allow": true, "user": "alice", "cache_seconds": 600}).to_string();
                    let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
                    if stream.write_all(answer.as_bytes()).await.is_err() {
                        return;
                    }
                    continue;
                }
            }
            match stream.read_buf(&mut received).await {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            }
        }
    }

    fn url(&self) -> String {
        format!("\"http://{}/\"", self.addr)
    }

    fn close(&self) {
        self.gate.forget_permits(1_000);
    }

    /// How many questions of this kind have come.
    fn asked(&self, question: &str) -> usize {
        self.requests.lock().iter().filter(|(_, body)| body["question"] == question).count()
    }

    /// Whether an event of this kind has been told.
    fn was_told(&self, event: &str) -> bool {
        self.requests.lock().iter().any(|(_, body)| body.to_string().contains(&format!("\"{event}\"")))
    }
}

pub(super) async fn ask_connect() {
    let backend = Backend::start().await;
    let mut server = Server::start("");
    let _before = server.client().await;
    server.reload("ask_connect", &backend.url()).await;
    let _client = server.client().await;
    assert_eq!(backend.asked("connect"), 1);
}

pub(super) async fn ask_timeout() {
    let backend = Backend::start().await;
    let mut server = Server::start(&format!("ask_connect = {}", backend.url()));
    let _before = server.client().await;
    backend.close();
    server.reload("ask_timeout", "\"10 ms\"").await;
    let mut client = Client::connect_silently(server.classic).await;
    let refused = timeout(Duration::from_millis(900), client.error_code()).await;
    assert_eq!(refused.expect("sooner than the earlier second"), "authorization_failed");
}

pub(super) async fn ask_concurrency() {
    let backend = Backend::start().await;
    let mut server =
        Server::start(&format!("ask_connect = {}\nask_timeout = \"50 s\"\nhook_timeout = \"60 s\"", backend.url()));
    server.reload("ask_concurrency", "1").await;
    backend.close();
    let _asking = Client::connect_silently(server.classic).await;
    until("a question", || backend.asked("connect") == 1).await;
    let mut beyond = Client::connect_silently(server.classic).await;
    assert_eq!(beyond.error_code().await, "authorization_failed");
}

pub(super) async fn ask_headers() {
    let backend = Backend::start().await;
    let mut server = Server::start(&format!("ask_connect = {}", backend.url()));
    server.reload("ask_headers", "[\"x-a\"]").await;
    let request = format!("GET /events?topic=news HTTP/1.1\r\nHost: {}\r\nX-A: one\r\n\r\n", server.http);
    Http::send(server.http, request).await.up_to("\r\n\r\n").await;
    assert_eq!(backend.requests.lock()[0].1["headers"]["x-a"], "one");
}

pub(super) async fn ask_cache() {
    let backend = Backend::start().await;
    let mut server = Server::start(&format!("ask_subscribe = {}", backend.url()));
    for _ in 0..2 {
        server.client().await.subscribe("news").await;
    }
    assert_eq!(backend.asked("subscribe"), 1, "the answer is kept");
    server.reload("ask_cache", "0").await;
    for _ in 0..2 {
        server.client().await.subscribe("news").await;
    }
    assert_eq!(backend.asked("subscribe"), 3);
}

pub(super) async fn backend_secret() {
    let backend = Backend::start().await;
    let mut server = Server::start(&format!("ask_connect = {}", backend.url()));
    server.client().await;
    server.reload("backend_secret", "\"correct-horse-battery\"").await;
    server.client().await;
    let signed: Vec<bool> =
        backend.requests.lock().iter().map(|(head, _)| head.contains("janus-signature: ")).collect();
    assert_eq!(signed, [false, true]);
}

pub(super) async fn backend_ca() {
    let (authority, addr) = (Authority::new(), own_address());
    let tls = TlsAcceptor::from(authority.server_config(&[&addr.ip().to_string()]));
    let backend = Backend::start_on(addr, Some(tls)).await;
    let mut server = Server::start(&format!("ask_connect = \"https://{}/\"", backend.addr));
    std::fs::write(server.folder.path().join("ca.pem"), authority.pem()).unwrap();
    let path = server.path("ca.pem");
    server.reload("backend_ca", &path).await;
    server.client().await;
    assert_eq!(backend.asked("connect"), 1);
}

pub(super) async fn ask_subscribe() {
    let backend = Backend::start().await;
    let mut server = Server::start(&format!("ask_connect = {}", backend.url()));
    server.reload("ask_subscribe", &backend.url()).await;
    server.client().await.subscribe("news").await;
    assert_eq!(backend.asked("subscribe"), 1);
}

pub(super) async fn ask_publish() {
    let backend = Backend::start().await;
    let mut server = Server::start(&format!("ask_connect = {}", backend.url()));
    server.reload("ask_publish", &backend.url()).await;
    let mut client = server.client().await;
    client.send(publish_frame("news", "1")).await;
    client.frame().await;
    assert_eq!(backend.asked("publish"), 1);
}

pub(super) async fn webhook_url() {
    let backend = Backend::start().await;
    let mut server = Server::start("");
    server.reload("webhook_url", &backend.url()).await;
    let _client = server.client().await;
    until("the event", || backend.was_told("connected")).await;
}

pub(super) async fn webhook_linger() {
    let backend = Backend::start().await;
    let mut server = Server::start(&format!("webhook_url = {}\nwebhook_linger = \"1 h\"", backend.url()));
    server.reload("webhook_linger", "\"0 s\"").await;
    let mut client = server.client().await;
    client.subscribe("news").await;
    // A client that leaves at once is no news at all.
    until("the first event", || backend.was_told("topic_occupied")).await;
    drop(client);
    until("the event", || backend.was_told("topic_vacated")).await;
}

pub(super) async fn webhook_queue() {
    let backend = Backend::start().await;
    backend.close();
    let mut server = Server::start(&format!("webhook_url = {}", backend.url()));
    server.reload("webhook_queue", "100").await;
    let clients = async {
        for _ in 0..120 {
            server.client().await.send(subscribe_frame("news")).await;
        }
    };
    timeout(DEADLINE, clients).await.unwrap();
    server.process.error_line("left out, because webhook_queue is full");
}
