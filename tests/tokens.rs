//! Tokens as clients see them: over WebSockets, event streams and the classic protocol, with keys that are replaced.

mod binary;
mod command;
mod matrix;
mod rotation;

use std::net::SocketAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_util::{SinkExt as _, StreamExt as _};
use janus_access::tokens::{NewToken, SigningKey, TokenHooks};
use janus_core::{Config, Janus};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

use crate::support::{DEADLINE, own_address};

/// A server with tokens, and its addresses: of the classic protocol, and of HTTP.
async fn serve(hooks: TokenHooks, config: Config) -> (Janus, SocketAddr, SocketAddr) {
    let _ = env_logger::builder().is_test(true).try_init();
    let (listen, http_listen) = (vec![own_address()], vec![own_address()]);
    let config = Config { listen, http_listen, drain_period: Duration::ZERO, ..config };
    let janus = Janus::builder().config(config).hooks(hooks).start().await.unwrap();
    let addrs = janus.local_addrs();
    (janus, addrs[0], addrs[1])
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// A token of a user for an hour.
pub(crate) fn token(key: &SigningKey, user: &str, subscribe: &[&str]) -> String {
    let hour = Duration::from_secs(3_600);
    key.sign(&NewToken::new(user).subscribe(subscribe.iter().copied()).good_for(hour)).unwrap()
}

/// A WebSocket of `janus.v1.json`.
pub(crate) struct Socket(WebSocketStream<MaybeTlsStream<TcpStream>>);

impl Socket {
    pub(crate) async fn connect(addr: SocketAddr, target: &str, headers: &[(&'static str, &str)]) -> Self {
        let mut request = format!("ws://{addr}{target}").into_client_request().unwrap();
        for (name, value) in headers {
            request.headers_mut().insert(*name, HeaderValue::from_str(value).unwrap());
        }
        Self(timeout(DEADLINE, connect_async(request)).await.unwrap().unwrap().0)
    }

    /// Says hello, with a token if there is one; returns the `welcome` or the `bye`.
    pub(crate) async fn hello(addr: SocketAddr, token: Option<&str>) -> (Self, Value) {
        let mut socket = Self::connect(addr, "/ws", &[]).await;
        let hello = match token {
            Some(token) => json!({"type": "hello", "auth": token}),
            None => json!({"type": "hello"}),
        };
        let answer = socket.ask(hello).await;
        (socket, answer)
    }

    /// The next message; heartbeats may come before.
    pub(crate) async fn hear(&mut self) -> Value {
        loop {
            match timeout(DEADLINE, self.0.next()).await.expect("something comes") {
                Some(Ok(Message::Text(text))) => return serde_json::from_str(&text).unwrap(),
                Some(Ok(Message::Ping(_))) => {}
                other => panic!("{other:?}"),
            }
        }
    }

    /// Waits for a heartbeat, before which nothing else may come.
    pub(crate) async fn heartbeat(&mut self) {
        match timeout(DEADLINE, self.0.next()).await.expect("something comes") {
            Some(Ok(Message::Ping(_))) => {}
            other => panic!("{other:?} instead of a heartbeat"),
        }
    }

    pub(crate) async fn ask(&mut self, request: Value) -> Value {
        self.0.send(Message::text(request.to_string())).await.unwrap();
        self.hear().await
    }
}
