//! The NATS client protocol.
//!
//! Without `verbose`, a subscription is not acknowledged. But the server answers in order, so the PONG to a PING sent
//! after SUB means that the subscription is in effect.

use std::io::Write as _;

use super::splitter::{Cursor, length};
use super::{Decoded, Frame, Malformed, Refusal};

pub(super) const PONG: &[u8] = b"PONG\r\n";

pub(super) fn opening(topic: Option<&str>) -> Vec<u8> {
    let version = env!("CARGO_PKG_VERSION");
    let subscription = topic.map_or_else(String::new, |topic| format!("SUB {topic} 1\r\n"));
    format!(
        "CONNECT {{\"verbose\":false,\"pedantic\":false,\"lang\":\"rust\",\"version\":\"{version}\",\"protocol\":0}}\r\n\
         {subscription}PING\r\n"
    )
    .into_bytes()
}

pub(super) fn publish(topic: &str, data: &str, out: &mut Vec<u8>) {
    write!(out, "PUB {topic} {}\r\n{data}\r\n", data.len()).expect("writing to memory does not fail");
}

pub(super) fn decode(bytes: &[u8]) -> Decoded<'_> {
    // A server of another protocol might never end the line.
    if !b"MPI+-".contains(&bytes[0]) {
        return Err(Malformed);
    }
    let mut cursor = Cursor::new(bytes);
    let Some(line) = cursor.line()? else { return Ok(None) };
    let frame = match line {
        [b'M', b'S', b'G', b' ', rest @ ..] => {
            let size = rest.rsplit(|&byte| byte == b' ').next().ok_or(Malformed)?;
            let Some(data) = cursor.bytes_of_line(length(size)?)? else { return Ok(None) };
            Frame::Message(data)
        }
        b"PONG" => Frame::Ack,
        b"PING" => Frame::Ping,
        b"+OK" => Frame::Other,
        [b'I', b'N', b'F', b'O', b' ', ..] => Frame::Other,
        [b'-', b'E', b'R', b'R', message @ ..] => {
            let message = message.trim_ascii();
            let message = message.strip_prefix(b"'").and_then(|m| m.strip_suffix(b"'")).unwrap_or(message);
            let closes = !STAYS_AFTER.iter().any(|error| message.starts_with(error));
            Frame::Refused(Refusal { code: "ERR".into(), message: String::from_utf8_lossy(message), closes })
        }
        _ => return Err(Malformed),
    };
    Ok(Some((frame, cursor.at)))
}

/// Errors after which the connection stays open.
const STAYS_AFTER: [&[u8]; 2] = [b"Invalid Subject", b"Permissions Violation"];
