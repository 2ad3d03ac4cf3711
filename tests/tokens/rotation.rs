//! Keys from a URL that are replaced, and no client that is refused.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use data_encoding::{BASE64, BASE64URL_NOPAD};
use janus_access::AccessSettings;
use janus_access::tokens::{Algorithm, SigningKey, TokenHooks, Tokens};
use janus_core::Config;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::{Socket, serve, token};
use crate::support::until;

/// A server with a JWK Set, which the test changes.
struct KeyServer {
    addr: SocketAddr,
    state: Arc<State>,
    task: JoinHandle<()>,
}

#[derive(Default)]
struct State {
    answer: Mutex<String>,
    requests: AtomicUsize,
}

impl KeyServer {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (addr, state) = (listener.local_addr().unwrap(), Arc::<State>::default());
        let served = Arc::clone(&state);
        let task = tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let served = Arc::clone(&served);
                tokio::spawn(async move {
                    let mut request = Vec::new();
                    while !request.ends_with(b"\r\n\r\n") {
                        if stream.read_buf(&mut request).await.unwrap_or(0) == 0 {
                            return;
                        }
                    }
                    served.requests.fetch_add(1, Ordering::SeqCst);
                    let answer = served.answer.lock().clone();
                    let _ = stream.write_all(answer.as_bytes()).await;
                });
            }
        });
        Self { addr, state, task }
    }

    fn publish(&self, keys: &[&SigningKey], ids: &[&str]) {
        let keys: Vec<Value> = keys.iter().zip(ids).map(|(key, id)| jwk(key, id)).collect();
        self.answer("200 OK", &json!({"keys": keys}).to_string());
    }

    fn answer(&self, status: &str, body: &str) {
        *self.state.answer.lock() =
            format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len());
    }

    fn requests(&self) -> usize {
        self.state.requests.load(Ordering::SeqCst)
    }

    fn settings(&self) -> AccessSettings {
        let url = format!("http://{}/keys?tenant=secret", self.addr);
        AccessSettings { token_jwks_url: Some(url.parse().unwrap()), ..AccessSettings::default() }
    }
}

impl Drop for KeyServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The public half of a key of Ed25519.
fn jwk(key: &SigningKey, id: &str) -> Value {
    let text: String = key.public_text().lines().filter(|line| !line.starts_with('-')).collect();
    let der = BASE64.decode(text.as_bytes()).unwrap();
    json!({"kty": "OKP", "crv": "Ed25519", "kid": id, "use": "sig", "x": BASE64URL_NOPAD.encode(&der[der.len() - 32..])})
}

fn key(id: &str) -> SigningKey {
    SigningKey::generate(Algorithm::EdDsa).unwrap().with_id(id)
}

#[tokio::test]
async fn keys_are_replaced_under_arriving_clients_and_none_is_refused() {
    let (old, new) = (key("old"), key("new"));
    let server = KeyServer::start().await;
    server.publish(&[&old], &["old"]);
    let tokens = Tokens::from_settings(&server.settings()).unwrap().unwrap();
    let (running, hooks) = (tokens.clone(), TokenHooks::new(tokens.clone()));
    let running = tokio::spawn(async move { running.run().await });
    let (janus, _, http) = serve(hooks, Config::default()).await;
    let arrive = async |key: &SigningKey| {
        let token = token(key, "alice", &["news"]);
        let clients: Vec<_> = (0..20)
            .map(|_| {
                let token = token.clone();
                tokio::spawn(async move { Socket::hello(http, Some(&token)).await.1 })
            })
            .collect();
        for client in clients {
            let answer = client.await.unwrap();
            assert_eq!(answer["type"], "welcome", "{answer}");
        }
    };
    arrive(&old).await;
    // The issuer signs with the new key as soon as the key is published.
    server.publish(&[&old, &new], &["old", "new"]);
    arrive(&new).await;
    arrive(&old).await;
    assert_eq!(server.requests(), 2, "one fetch at the start, one for the new key");
    let stats = tokens.stats();
    assert_eq!((stats.verified, stats.keys, stats.fetches, stats.fetches_for_unknown_keys), (60, 2, 2, 1));
    assert_eq!((stats.expired, stats.unsigned, stats.refused, stats.put_off), (0, 0, 0, 0));
    running.abort();
    janus.shutdown().await;
}

#[tokio::test]
async fn while_the_server_with_the_keys_is_down_clients_are_told_to_come_back() {
    let only = key("k");
    let server = KeyServer::start().await;
    server.answer("503 Service Unavailable", "");
    let tokens = Tokens::from_settings(&server.settings()).unwrap().unwrap();
    let (running, hooks) = (tokens.clone(), TokenHooks::new(tokens.clone()));
    let running = tokio::spawn(async move { running.run().await });
    let (janus, _, http) = serve(hooks, Config::default()).await;
    let token = token(&only, "alice", &["news"]);
    let (_, bye) = Socket::hello(http, Some(&token)).await;
    assert_eq!((&bye["type"], &bye["error"]), (&json!("bye"), &json!("authorization_failed")), "{bye}");
    assert!(bye["reconnect_after_ms"].as_u64().is_some(), "{bye}");
    assert!(!tokens.is_ready());
    server.publish(&[&only], &["k"]);
    until("the keys to be fetched", || tokens.is_ready()).await;
    assert_eq!(Socket::hello(http, Some(&token)).await.1["type"], "welcome");
    running.abort();
    janus.shutdown().await;
}
