//! Clients of Janus's own formats, for listeners that carry them.

mod classic;
mod sse;
mod websocket;

pub use classic::ClassicClient;
pub use sse::SseClient;
pub use websocket::WebSocketClient;

/// Splits off the head of an HTTP response, and keeps what came of it.
#[derive(Debug, Default)]
struct ResponseHead {
    received: Vec<u8>,
    over: bool,
    /// Whether the body comes in chunks; known when the head is over.
    chunked: bool,
}

/// How a response began.
enum Begun {
    /// It has this status, and these bytes follow its head.
    With(u16, Vec<u8>),
    /// It is none.
    Wrong(String),
}

impl ResponseHead {
    /// Takes bytes up to the end of the head; `None` until that comes, and after it.
    fn read(&mut self, input: &[u8]) -> Option<Begun> {
        self.received.extend_from_slice(input);
        let end = self.received.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
        self.over = true;
        let rest = self.received.split_off(end);
        let head = String::from_utf8_lossy(&self.received).into_owned();
        let status = head.strip_prefix("HTTP/1.1 ").and_then(|line| line.get(..3)).and_then(|code| code.parse().ok());
        self.received = Vec::new();
        self.chunked = head.to_ascii_lowercase().contains("\r\ntransfer-encoding: chunked\r\n");
        Some(status.map_or(Begun::Wrong(head), |status| Begun::With(status, rest)))
    }
}
