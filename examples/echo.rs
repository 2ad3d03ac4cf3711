//! The smallest protocol over WebSocket: each message is sent back.
//!
//! `cargo run --example echo`, and in the console of a browser on http://127.0.0.1:7001/:
//! `s = new WebSocket("ws://127.0.0.1:7001/echo"); s.onmessage = (m) => console.log(m.data); s.onopen = () => s.send("hi")`.
//! The Autobahn suite runs against this server (`tests/autobahn/`).

use std::net::SocketAddr;
use std::time::Duration;

use janus_core::wire::websocket::{ClientMessage, MessageDecoder, MessageProtocol, MessageWriter, Reading, Takes};
use janus_core::wire::{Command, FrameError, HttpRequest, Opens, ServerEvent, Timestamp, WebSocket};
use janus_core::{Config, Janus, StartupError};

/// The protocol.
#[derive(Debug)]
pub struct Echo;

impl MessageProtocol for Echo {
    type Decoder = Self;

    fn name(&self) -> &'static str {
        "echo"
    }

    fn decoder(&self, _: Option<&HttpRequest>) -> Self {
        Self
    }

    fn opens(&self) -> Opens {
        Opens::AtOnce
    }

    // There are no topics, so nothing but the answers goes to a client.
    fn encode(&self, _: &ServerEvent<'_>, _: &Timestamp, _: &mut MessageWriter<'_>) {}
}

impl MessageDecoder for Echo {
    type Scratch = ();

    const TAKES: Takes = Takes::Both;

    fn decode(&mut self, message: &mut ClientMessage<'_>, _: &mut Reading<'_>) -> Option<Result<Command, FrameError>> {
        let answer = MessageWriter::bytes(|out| match *message {
            ClientMessage::Text(text) => out.text(text),
            ClientMessage::Binary(bytes) => out.binary(bytes),
        });
        Some(Ok(Command::Answer(answer)))
    }
}

/// Starts an instance with the echo at `/echo`.
pub async fn start(addr: SocketAddr) -> Result<Janus, StartupError> {
    let config = Config {
        listen: Vec::new(),
        http_listen: vec![addr],
        // For the suite, whose largest message has 16 MiB, some in frames of 64 bytes.
        max_frame_bytes: 16 * 1024 * 1024,
        frame_timeout: Duration::from_secs(120),
        ..Config::default()
    };
    let path = "/echo".parse().expect("it is a path");
    Janus::builder().config(config).websocket(path, WebSocket::new(Echo)).start().await
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let port = std::env::args().nth(1).map_or(Ok(7001), |port| port.parse())?;
    let janus = start(SocketAddr::from(([127, 0, 0, 1], port))).await?;
    println!("ws://{}/echo", janus.local_addrs()[0]);
    janus.wait().await;
    Ok(())
}
