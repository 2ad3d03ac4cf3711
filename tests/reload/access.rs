//! Settings of tokens.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use data_encoding::{BASE64, BASE64URL_NOPAD};
use janus_access::tokens::{Algorithm, NewToken, SigningKey};
use janus_core::wire::classic::client::auth;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::binary::Server;
use crate::http::Http;
use crate::support::{Client, own_address, publish_frame, subscribe_frame, until};

fn key() -> SigningKey {
    SigningKey::generate(Algorithm::EdDsa).unwrap()
}

fn new_token() -> NewToken {
    NewToken::new("alice").subscribe(["news"]).good_for(Duration::from_secs(3_600))
}

/// A server with these lines, and with tokens of this key.
fn start(key: &SigningKey, lines: &str) -> Server {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keys.pem");
    std::fs::write(&file, key.public_text()).unwrap();
    Server::start_in(folder, &format!("token_keys = {file:?}\n{lines}"), &[])
}

/// The answer to a client of the classic protocol with this token: a greeting, or the code of an error.
async fn answer(server: &Server, token: &str) -> (Client, String) {
    let mut client = Client::connect_silently(server.classic).await;
    client.send(auth(token)).await;
    let answer = client.json().await;
    let code = answer["error"]["code"].as_str().unwrap_or("greeting").to_owned();
    (client, code)
}

async fn code(server: &Server, token: &str) -> String {
    answer(server, token).await.1
}

pub(super) async fn token_keys() {
    let (old, new) = (key(), key());
    let mut server = start(&old, "");
    let [old_token, new_token] = [&old, &new].map(|key| key.sign(&new_token()).unwrap());
    assert_eq!([code(&server, &old_token).await, code(&server, &new_token).await], ["greeting", "unauthorized"]);
    std::fs::write(server.folder.path().join("new.pem"), new.public_text()).unwrap();
    let path = server.path("new.pem");
    server.reload("token_keys", &path).await;
    assert_eq!([code(&server, &old_token).await, code(&server, &new_token).await], ["unauthorized", "greeting"]);
}

/// A JWK Set with this key, of which the last 32 bytes in DER are the point.
fn jwks(key: &SigningKey) -> String {
    let base64: String = key.public_text().lines().filter(|line| !line.starts_with("-----")).collect();
    let der = BASE64.decode(base64.as_bytes()).unwrap();
    let x = BASE64URL_NOPAD.encode(&der[der.len() - 32..]);
    json!({"keys": [{"kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "x": x}]}).to_string()
}

/// Serves a JWK Set with this key over HTTP, and counts the requests.
async fn serve_keys(key: &SigningKey) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind(own_address()).await.unwrap();
    let (addr, fetches) = (listener.local_addr().unwrap(), Arc::new(AtomicUsize::new(0)));
    let (body, count) = (jwks(key), Arc::clone(&fetches));
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            count.fetch_add(1, Ordering::SeqCst);
            let mut request = [0; 4_096];
            let _ = stream.read(&mut request).await;
            let answer =
                format!("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}", body.len());
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    (addr, fetches)
}

pub(super) async fn token_jwks_url() {
    let (own, remote) = (key(), key());
    let mut server = start(&own, "");
    let token = remote.sign(&new_token()).unwrap();
    assert_eq!(code(&server, &token).await, "unauthorized");
    let (addr, _) = serve_keys(&remote).await;
    server.reload("token_jwks_url", &format!("\"http://{addr}/\"")).await;
    while code(&server, &token).await != "greeting" {}
}

pub(super) async fn token_jwks_interval() {
    let remote = key();
    let (addr, fetches) = serve_keys(&remote).await;
    let mut server = Server::start(&format!("token_jwks_url = \"http://{addr}/\""));
    until("the keys", || fetches.load(Ordering::SeqCst) == 1).await;
    // With another interval the keys are fetched anew, and then at this interval.
    server.reload("token_jwks_interval", "\"60 s\"").await;
    until("the keys again", || fetches.load(Ordering::SeqCst) == 2).await;
}

pub(super) async fn token_exp() {
    let own = key();
    let mut server = start(&own, "");
    let token = own.sign(&NewToken::new("alice").subscribe(["news"])).unwrap();
    assert_eq!(code(&server, &token).await, "unauthorized");
    server.reload("token_exp", "\"optional\"").await;
    assert_eq!(code(&server, &token).await, "greeting");
}

pub(super) async fn token_aud() {
    let own = key();
    let mut server = start(&own, "");
    let token = own.sign(&new_token()).unwrap();
    assert_eq!(code(&server, &token).await, "greeting");
    server.reload("token_aud", "\"push.example\"").await;
    assert_eq!(code(&server, &token).await, "unauthorized");
}

pub(super) async fn token_iss() {
    let own = key();
    let mut server = start(&own, "");
    let token = own.sign(&new_token()).unwrap();
    assert_eq!(code(&server, &token).await, "greeting");
    server.reload("token_iss", "\"https://app.example\"").await;
    assert_eq!(code(&server, &token).await, "unauthorized");
}

pub(super) async fn token_default_subscribe() {
    let own = key();
    let mut server = start(&own, "");
    let token = own.sign(&NewToken::new("alice").good_for(Duration::from_secs(3_600))).unwrap();
    let (mut before, _) = answer(&server, &token).await;
    before.send(subscribe_frame("news")).await;
    assert_eq!(before.error_code().await, "forbidden");
    server.reload("token_default_subscribe", "\"all\"").await;
    answer(&server, &token).await.0.subscribe("news").await;
}

pub(super) async fn token_default_publish() {
    let own = key();
    let mut server = start(&own, "");
    let token = own.sign(&new_token()).unwrap();
    let (mut before, _) = answer(&server, &token).await;
    before.send(publish_frame("news", "1")).await;
    before.error_code().await;
    server.reload("token_default_publish", "\"all\"").await;
    let (mut after, _) = answer(&server, &token).await;
    after.send(publish_frame("news", "1")).await;
    let receipt = after.json().await;
    assert!(receipt["published"].is_object(), "{receipt}");
}

/// The status of a stream that is asked for in this way.
async fn status(server: &Server, query: &str, headers: &str) -> String {
    let request = format!("GET /events?topic=news{query} HTTP/1.1\r\nHost: {}\r\n{headers}\r\n", server.http);
    let head = Http::send(server.http, request).await.up_to("\r\n").await;
    head.split(' ').nth(1).unwrap().to_owned()
}

pub(super) async fn token_cookie() {
    let own = key();
    let mut server = start(&own, "");
    let cookie = format!("Cookie: id={}\r\nSec-Fetch-Site: same-origin\r\n", own.sign(&new_token()).unwrap());
    assert_eq!(status(&server, "", &cookie).await, "401");
    server.reload("token_cookie", "\"id\"").await;
    assert_eq!(status(&server, "", &cookie).await, "200");
}

pub(super) async fn token_in_query() {
    let own = key();
    let mut server = start(&own, "");
    let query = format!("&access_token={}", own.sign(&new_token()).unwrap());
    assert_eq!(status(&server, &query, "").await, "401");
    server.reload("token_in_query", "true").await;
    assert_eq!(status(&server, &query, "").await, "200");
}

pub(super) async fn anonymous() {
    let mut server = start(&key(), "anonymous_subscribe = true");
    assert_eq!(status(&server, "", "").await, "401");
    server.reload("anonymous", "true").await;
    assert_eq!(status(&server, "", "").await, "200");
}
