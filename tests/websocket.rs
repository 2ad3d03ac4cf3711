//! WebSockets over real sockets, byte by byte if necessary: the view of a client, and the absence of effects on others.
//!
//! The client here shares no line with the server: its frames may break every rule, and the server's frames must break
//! none.

mod access;
mod conversation;
mod framing;
mod library;
mod limits;
mod liveness;
mod rates;
mod resuming;
mod upgrade;
mod users;

use std::net::SocketAddr;
use std::time::Duration;

use janus_core::{Config, Janus};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::support::{Close, DEADLINE, own_address};

const CONTINUATION: u8 = 0x0;
const TEXT: u8 = 0x1;
const BINARY: u8 = 0x2;
const CLOSE: u8 = 0x8;
const PING: u8 = 0x9;
const PONG: u8 = 0xa;
/// The bit that marks the last frame of a message.
const FIN: u8 = 0x80;

/// A server with only an HTTP port, at an address of its own.
async fn serve(config: Config) -> (Janus, SocketAddr) {
    let _ = env_logger::builder().is_test(true).try_init();
    let asked_for = config.drain_period != Config::default().drain_period;
    let drain_period = if asked_for { config.drain_period } else { Duration::ZERO };
    let config = Config { listen: Vec::new(), http_listen: vec![own_address()], drain_period, ..config };
    let janus = Janus::builder().config(config).start().await.expect("the server starts");
    let addr = janus.local_addrs()[0];
    (janus, addr)
}

/// A client's frame. The first byte is `FIN`, the reserved bits and the opcode.
fn frame(first: u8, payload: impl AsRef<[u8]>) -> Vec<u8> {
    const MASK: [u8; 4] = [0xa5, 0x5a, 0x0f, 0xf1];
    let payload = payload.as_ref();
    let mut frame = vec![first];
    match payload.len() {
        length @ ..126 => frame.push(0x80 | length as u8),
        length @ ..0x1_0000 => {
            frame.push(0x80 | 126);
            frame.extend((length as u16).to_be_bytes());
        }
        length => {
            frame.push(0x80 | 127);
            frame.extend((length as u64).to_be_bytes());
        }
    }
    frame.extend(MASK);
    frame.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    frame
}

/// A text message in one frame.
fn text(text: impl AsRef<[u8]>) -> Vec<u8> {
    frame(FIN | TEXT, text)
}

/// A text message with this JSON.
fn said(json: &Value) -> Vec<u8> {
    text(json.to_string())
}

/// A close with a code.
fn close(code: u16) -> Vec<u8> {
    frame(FIN | CLOSE, code.to_be_bytes())
}

/// The upgrade request of a browser's script with the subprotocol.
fn upgrade(addr: SocketAddr) -> String {
    format!(
        "GET /ws HTTP/1.1\r\nHost: {addr}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nOrigin: http://{addr}\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
         Sec-WebSocket-Protocol: janus.v1.json\r\n\r\n"
    )
}

/// The next event of a client.
#[derive(Debug, PartialEq)]
enum Seen {
    Text(Value),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    /// The frame, with its code and reason.
    Close(Option<u16>, String),
    /// The end of the connection.
    End(Close),
}

/// One end of a connection to an HTTP port.
pub(crate) struct Socket {
    stream: TcpStream,
    received: Vec<u8>,
}

impl Socket {
    /// Connects and sends nothing.
    async fn connect(addr: SocketAddr) -> Self {
        let stream = timeout(DEADLINE, TcpStream::connect(addr)).await.expect("connects in time").expect("connects");
        stream.set_nodelay(true).expect("TCP_NODELAY can be set");
        Self { stream, received: Vec::new() }
    }

    /// Opens a WebSocket without sending a frame.
    pub(crate) async fn upgraded(addr: SocketAddr) -> Self {
        let mut socket = Self::connect(addr).await;
        socket.send(upgrade(addr)).await;
        let head = socket.head().await;
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        socket
    }

    /// Opens a WebSocket whose client is served.
    pub(crate) async fn open(addr: SocketAddr) -> Self {
        let mut socket = Self::upgraded(addr).await;
        let welcome = socket.ask(json!({"type": "hello"})).await;
        assert_eq!(welcome["type"], "welcome", "{welcome}");
        socket
    }

    async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.try_send(bytes).await.expect("sent");
    }

    /// Sends on a connection that the server may have ended.
    async fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> std::io::Result<()> {
        timeout(DEADLINE, self.stream.write_all(bytes.as_ref())).await.expect("sent in time")
    }

    pub(crate) async fn say(&mut self, json: Value) {
        self.send(said(&json)).await;
    }

    /// Sends a request and reads the next message.
    #[track_caller]
    pub(crate) fn ask(&mut self, json: Value) -> impl Future<Output = Value> {
        let caller = std::panic::Location::caller();
        async move {
            self.say(json).await;
            match self.next().await {
                Seen::Text(json) => json,
                other => panic!("{caller}: {other:?}"),
            }
        }
    }

    /// Subscribes and waits until the subscribe has its effect. Returns the answer.
    #[track_caller]
    fn subscribe(&mut self, topic: &str) -> impl Future<Output = Value> {
        let caller = std::panic::Location::caller();
        let answer = self.ask(json!({"type": "subscribe", "topic": topic}));
        async move {
            let answer = answer.await;
            assert_eq!(answer["type"], "subscribed", "{caller}: {answer}");
            answer
        }
    }

    async fn half_close(&mut self) {
        self.stream.shutdown().await.expect("the write side can be shut down");
    }

    /// Reads more bytes. Returns the end of the connection, if any.
    async fn more(&mut self) -> Result<(), Close> {
        match timeout(DEADLINE, self.stream.read_buf(&mut self.received)).await.expect("something comes") {
            Ok(0) => Err(Close::Fin),
            Ok(_) => Ok(()),
            Err(_) => Err(Close::Reset),
        }
    }

    /// The head of a response, with the empty line at its end.
    async fn head(&mut self) -> String {
        loop {
            if let Some(at) = self.received.windows(4).position(|window| window == b"\r\n\r\n") {
                let head = self.received.drain(..at + 4).collect();
                return String::from_utf8(head).expect("a head is text");
            }
            if let Err(close) = self.more().await {
                panic!("{close:?} instead of a head, after {:?}", String::from_utf8_lossy(&self.received));
            }
        }
    }

    /// Reads a refusal: head and body, and the server's close.
    async fn refusal(&mut self) -> (String, Value) {
        let head = self.head().await;
        let close = loop {
            if let Err(close) = self.more().await {
                break close;
            }
        };
        assert_eq!(close, Close::Fin, "{head}");
        let length = format!("\r\ncontent-length: {}\r\n", self.received.len());
        assert!(head.contains(&length), "{head}");
        let body = serde_json::from_slice(&self.received).expect("the body is JSON");
        (head, body)
    }

    /// The next event. Every rule for a server's frames is checked.
    #[track_caller]
    fn next(&mut self) -> impl Future<Output = Seen> {
        let caller = std::panic::Location::caller();
        async move {
            loop {
                if let Some((first, payload)) = self.take_frame() {
                    assert_eq!(first & 0xf0, FIN, "{caller}: reserved bits, or a fragment: {first:#x}");
                    return match first & 0x0f {
                        TEXT => Seen::Text(serde_json::from_slice(&payload).expect("a message is JSON")),
                        PING => Seen::Ping(payload),
                        PONG => Seen::Pong(payload),
                        CLOSE => {
                            let (code, reason) = payload.split_at(payload.len().min(2));
                            let code = code.try_into().ok().map(u16::from_be_bytes);
                            Seen::Close(code, str::from_utf8(reason).expect("a reason is text").to_owned())
                        }
                        other => panic!("{caller}: no server sends a frame of opcode {other}"),
                    };
                }
                if let Err(close) = self.more().await {
                    assert!(self.received.is_empty() || close == Close::Reset, "{caller}: the last frame is cut");
                    return Seen::End(close);
                }
            }
        }
    }

    fn take_frame(&mut self) -> Option<(u8, Vec<u8>)> {
        let (&[first, short], rest) = self.received.split_first_chunk()?;
        assert!(short < 0x80, "a server masks nothing");
        let (size, length) = match short {
            126 => (2, usize::from(u16::from_be_bytes(*rest.first_chunk()?))),
            127 => (8, u64::from_be_bytes(*rest.first_chunk()?) as usize),
            short => (0, usize::from(short)),
        };
        let shortest = [0, 126, 0x1_0000][[0, 2, 8].iter().position(|&other| other == size)?];
        assert!(length >= shortest, "{length} in {size} bytes more than it needs");
        let end = 2 + size + length;
        if self.received.len() < end {
            return None;
        }
        let payload = self.received[2 + size..end].to_vec();
        self.received.drain(..end);
        Some((first, payload))
    }

    /// The next message, which must be text.
    #[track_caller]
    pub(crate) fn json(&mut self) -> impl Future<Output = Value> {
        let caller = std::panic::Location::caller();
        let next = self.next();
        async move {
            match next.await {
                Seen::Text(json) => json,
                other => panic!("{caller}: {other:?}"),
            }
        }
    }

    /// The text of the next message.
    pub(crate) async fn text(&mut self) -> String {
        loop {
            if let Some((first, payload)) = self.take_frame() {
                assert_eq!(first, FIN | TEXT);
                return String::from_utf8(payload).expect("a message is text");
            }
            self.more().await.expect("the connection stays");
        }
    }

    /// Reads the end of the protocol: a `bye`, which is returned, a close with the same code, and the end of the
    /// stream.
    #[track_caller]
    fn bye(&mut self, code: u16) -> impl Future<Output = Value> {
        let caller = std::panic::Location::caller();
        async move {
            let bye = self.json().await;
            assert_eq!((&bye["type"], &bye["code"]), (&json!("bye"), &json!(code)), "{caller}: {bye}");
            let reason = bye["error"].as_str().expect("a bye has a name").to_owned();
            assert_eq!(self.next().await, Seen::Close(Some(code), reason), "{caller}");
            assert_eq!(self.next().await, Seen::End(Close::Fin), "{caller}");
            bye
        }
    }
}

/// An uninvolved client with a separate connection, unaffected by other clients.
struct Bystander {
    socket: Socket,
    heard: u64,
}

impl Bystander {
    async fn new(addr: SocketAddr) -> Self {
        let mut socket = Socket::open(addr).await;
        socket.subscribe("bystander").await;
        Self { socket, heard: 0 }
    }

    /// Publishes and receives a message: nothing else has come, and everything works.
    async fn is_undisturbed(&mut self, after: &str) {
        self.heard += 1;
        let heard = self.socket.ask(json!({"type": "publish", "topic": "bystander", "data": self.heard})).await;
        assert_eq!((&heard["seq"], &heard["data"]), (&json!(self.heard), &json!(self.heard)), "after {after}: {heard}");
    }
}
