//! Clients of the formats of this crate, for tests of other listeners with these formats.
//!
//! | file | kind | owns |
//! |---|---|---|
//! | `mod.rs` | pure | [`ResponseHead`], the head of an HTTP response, for the clients over HTTP |
//! | `classic.rs` | pure | [`ClassicClient`], the classic protocol |
//! | `websocket.rs` | pure | [`WebSocketClient`], `janus.v1.json` over WebSocket |
//! | `cbor.rs` | pure | [`CborClient`], `janus.v1.cbor` over WebSocket |
//! | `sse.rs` | pure | [`SseClient`], server-sent events |

mod cbor;
mod classic;
mod sse;
mod websocket;

pub use cbor::CborClient;
pub use classic::ClassicClient;
pub use sse::SseClient;
pub use websocket::WebSocketClient;

/// Splits off the head of an HTTP response, and keeps the facts needed for the body.
#[derive(Debug, Default)]
struct ResponseHead {
    received: Vec<u8>,
    over: bool,
    /// Whether the body comes in chunks; known at the end of the head.
    chunked: bool,
}

/// The head of a response.
enum Begun {
    /// The status, and the first bytes of the body.
    With(u16, Vec<u8>),
    /// The text of an invalid head.
    Wrong(String),
}

impl ResponseHead {
    /// Takes bytes up to the end of the head. Returns `None` before the end of the head, and in later calls.
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
