//! A custom transport: lines of text over TCP, for people with a terminal.
//!
//! `cargo run --example lines`, then `nc 127.0.0.1 7000` twice, and type `sub news` into the first terminal and
//! `pub news "hello"` into the second. The function `request` reads the client's lines, and `encode` writes the
//! server's. The transport keeps the contract of transports, as `tests/conformance/` checks.

use std::fmt::Write;
use std::sync::Arc;

use janus_core::wire::ServerEvent;
use janus_core::wire::{BytesMut, Codec, Command, Decoder, Delimited, ErrorCode, FrameError, Limits, Since, Timestamp};
use janus_core::{Config, Janus};

/// The protocol.
#[derive(Debug)]
pub struct Lines;

impl Codec for Lines {
    fn name(&self) -> &'static str {
        "lines"
    }

    fn decoder(&self) -> Box<dyn Decoder> {
        Delimited::new(b'\n').decoder(request)
    }

    fn encode(&self, event: &ServerEvent<'_>, _: &Timestamp, out: &mut BytesMut) {
        let _ = match *event {
            // Line breaks are allowed between the tokens of JSON, and would end the line.
            ServerEvent::Message(m) => {
                writeln!(out, "msg {} {} {}", m.topic, m.position.seq, m.data.replace(['\r', '\n'], " "))
            }
            ServerEvent::Subscribed { topic, position, missed: None, .. } => writeln!(out, "ok {topic} {position}"),
            ServerEvent::Subscribed { topic, position, .. } => writeln!(out, "resumed {topic} {position}"),
            ServerEvent::Unsubscribed { topic, .. } => writeln!(out, "left {topic}"),
            ServerEvent::Gap { topic, from, to, .. } => writeln!(out, "gap {topic} {from} {to}"),
            ServerEvent::Error { code, message, .. } => writeln!(out, "error {code} {message}"),
            ServerEvent::Refused(why) | ServerEvent::Bye(why) => writeln!(out, "bye {} {}", why.code, why.message),
            _ => Ok(()),
        };
    }
}

/// Reads a line of a client.
///
/// # Errors
///
/// Why the line is no request.
pub fn request(line: &[u8], limits: &Limits) -> Result<Command, FrameError> {
    let words: Vec<&str> = str::from_utf8(line)?.trim_end_matches('\r').splitn(3, ' ').collect();
    match words[..] {
        ["sub", topic] => Ok(Command::subscribe(limits.topic(topic)?)),
        ["sub", topic, since] => Ok(Command::subscribe_since(limits.topic(topic)?, since.parse::<Since>()?)),
        ["unsub", topic] => Ok(Command::Unsubscribe { topic: limits.topic(topic)?, id: None }),
        ["pub", topic, data] => Command::publish(limits.topic(topic)?, data),
        _ => {
            Err(FrameError::new(ErrorCode::UnknownAction, "say: sub TOPIC [POSITION], unsub TOPIC, or pub TOPIC JSON"))
        }
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let config = Config { listen: Vec::new(), ..Config::default() };
    let janus = Janus::builder().config(config).listen("127.0.0.1:7000".parse()?, Arc::new(Lines)).start().await?;
    println!("nc 127.0.0.1 7000, and there: sub news");
    janus.wait().await;
    Ok(())
}
