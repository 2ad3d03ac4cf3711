//! Whose address counts: PROXY headers, forwarded headers, and the limits of an address. Clients and proxies connect from
//! different loopback addresses, which only Linux has.

#![cfg(target_os = "linux")]

mod forwarded;
mod headers;
mod limits;
pub(crate) mod proxies;

use std::net::SocketAddr;
use std::time::Duration;

use janus_core::hooks::Hooks;
use janus_core::{Builder, Config, IpNet, Janus};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use crate::support::{Close, DEADLINE, own_address};

/// The address of the proxy, and of another host.
const PROXY: [u8; 4] = [127, 0, 0, 2];
const OTHER: [u8; 4] = [127, 0, 0, 3];

/// The network of one loopback address.
fn network(address: [u8; 4]) -> Vec<IpNet> {
    vec![std::net::IpAddr::from(address).into()]
}

/// A server with a classic port and an HTTP port.
struct Server {
    janus: Janus,
    classic: SocketAddr,
    http: SocketAddr,
}

impl Server {
    async fn start(config: Config) -> Self {
        Self::start_with(config, |builder| builder).await
    }

    async fn with_hooks(config: Config, hooks: impl Hooks) -> Self {
        Self::start_with(config, |builder| builder.hooks(hooks)).await
    }

    async fn start_with(config: Config, set: impl FnOnce(Builder) -> Builder) -> Self {
        let _ = env_logger::builder().is_test(true).try_init();
        let (listen, http_listen) = (vec![own_address()], vec![own_address()]);
        let config = Config { listen, http_listen, drain_period: Duration::ZERO, ..config };
        let janus = set(Janus::builder().config(config)).start().await.unwrap();
        let [classic, http, ..] = janus.local_addrs()[..] else { panic!("two listeners") };
        Self { janus, classic, http }
    }

    /// The addresses of the served clients.
    fn peers(&self) -> Vec<String> {
        self.janus.connections(0, 1_000).iter().map(|client| client.peer.to_string()).collect()
    }
}

/// A client that speaks no protocol by itself.
struct Raw {
    stream: TcpStream,
    received: Vec<u8>,
}

impl Raw {
    async fn connect(from: [u8; 4], addr: SocketAddr) -> Self {
        Self::try_connect(from, addr).await.unwrap()
    }

    /// An error if the server has reset the connection before the client has noticed that it is connected.
    async fn try_connect(from: [u8; 4], addr: SocketAddr) -> std::io::Result<Self> {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::from((from, 0))).unwrap();
        let stream = timeout(DEADLINE, socket.connect(addr)).await.unwrap()?;
        // Fails if the server has reset the connection already.
        let _ = stream.set_nodelay(true);
        Ok(Self { stream, received: Vec::new() })
    }

    /// Connects and sends bytes.
    async fn send(from: [u8; 4], addr: SocketAddr, bytes: impl AsRef<[u8]>) -> Self {
        let mut client = Self::connect(from, addr).await;
        client.write(bytes).await;
        client
    }

    async fn write(&mut self, bytes: impl AsRef<[u8]>) {
        timeout(DEADLINE, self.stream.write_all(bytes.as_ref())).await.unwrap().unwrap();
    }

    /// Reads up to `end`, which is included.
    async fn up_to(&mut self, end: &str) -> String {
        let read = async {
            loop {
                if let Some(at) = self.received.windows(end.len()).position(|window| window == end.as_bytes()) {
                    let rest = self.received.split_off(at + end.len());
                    // A WebSocket has bytes that are no text.
                    return String::from_utf8_lossy(&std::mem::replace(&mut self.received, rest)).into_owned();
                }
                let length = self.stream.read_buf(&mut self.received).await.unwrap();
                assert_ne!(length, 0, "an end instead of {end:?}: {:?}", String::from_utf8_lossy(&self.received));
            }
        };
        timeout(DEADLINE, read).await.unwrap_or_else(|_| panic!("{end:?} does not come"))
    }

    /// The next frame of the classic protocol.
    async fn frame(&mut self) -> String {
        self.up_to("\x01").await.trim_end_matches('\x01').to_owned()
    }

    /// The error in the next frame of the classic protocol.
    async fn error(&mut self) -> Value {
        let frame: Value = serde_json::from_str(&self.frame().await).unwrap();
        frame["error"].clone()
    }

    /// Everything up to the end of the connection, and its kind.
    async fn end(mut self) -> (String, Close) {
        let end = match timeout(DEADLINE, self.stream.read_to_end(&mut self.received)).await.expect("an end") {
            Ok(_) => Close::Fin,
            Err(_) => Close::Reset,
        };
        (String::from_utf8_lossy(&self.received).into_owned(), end)
    }
}

/// The head of a request with these header lines; the path `/ws` asks for a WebSocket.
fn request(path: &str, headers: &str) -> String {
    let upgrade = match path {
        "/ws" => {
            "connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n\
             sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
        }
        path if path.starts_with("/api/") => "connection: close\r\n",
        _ => "",
    };
    format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n{upgrade}{headers}\r\n")
}

/// The frame of a WebSocket whose mask is 0, with a text of at most 125 bytes.
fn websocket_text(text: &str) -> Vec<u8> {
    let length = u8::try_from(text.len()).ok().filter(|length| *length < 126).unwrap();
    [&[0x81, 0x80 | length, 0, 0, 0, 0], text.as_bytes()].concat()
}

const HELLO: &str = "{\"type\":\"hello\"}";
