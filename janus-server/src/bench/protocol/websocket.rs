//! `janus.v1.json` over WebSocket, as a client that only subscribes speaks it.
//!
//! The header of a frame gives its end, and the data of a message is found at the end of the payload; no other bytes of
//! a delivery are examined. Frames are masked with zeros, which leaves the payload unchanged: masking exists to keep a
//! browser's scripts from choosing the bytes on the wire, and no browser is involved here.

use std::net::SocketAddr;

use janus_core::wire::v1::client as v1;
use janus_core::wire::websocket::client;

use super::http::{self, Welcome};
use super::said::Said;
use super::splitter::{FRAME_BYTES_MAX, data_at_the_end};
use super::{Decoded, Frame, Malformed, Refusal};

/// The answer to the server's pings, which have no payload.
pub(super) const PONG: &[u8] = &[FINAL | OPCODE_PONG, MASKED, 0, 0, 0, 0];

pub(super) fn opening(server: SocketAddr, topic: &str) -> Vec<u8> {
    let mut bytes = client::upgrade(&server.to_string(), "/ws", KEY);
    bytes.extend(client::text(&v1::hello(None, None), MASK));
    bytes.extend(client::text(&v1::subscribe(None, topic, None), MASK));
    bytes
}

pub(super) fn decode(bytes: &[u8], data_bytes: u32) -> Decoded<'_> {
    if http::begins(bytes) {
        return http::decode(bytes, &WELCOME);
    }
    decode_frame(bytes, OPCODE_TEXT, |payload| match data_at_the_end(payload, data_bytes as usize) {
        Some(data) => Ok(Frame::Message(data)),
        None => said(payload),
    })
}

/// Decodes a frame of a server whose messages have this opcode.
pub(super) fn decode_frame<'a>(
    bytes: &'a [u8],
    of_messages: u8,
    message: impl FnOnce(&'a [u8]) -> Result<Frame<'a>, Malformed>,
) -> Decoded<'a> {
    let Some((opcode, start, end)) = header(bytes, of_messages)? else { return Ok(None) };
    let Some(payload) = bytes.get(start..end) else { return Ok(None) };
    let frame = match opcode {
        _ if opcode == of_messages => message(payload)?,
        OPCODE_PING => Frame::Ping,
        OPCODE_PONG => Frame::Other,
        OPCODE_CLOSE => Frame::Refused(close(payload)),
        _ => return Err(Malformed),
    };
    Ok(Some((frame, end)))
}

/// The opcode of a frame, and the start and end of its payload. Janus sends neither fragments nor messages of two kinds.
fn header(bytes: &[u8], of_messages: u8) -> Result<Option<(u8, usize, usize)>, Malformed> {
    let opcode = bytes[0] ^ FINAL;
    let is_control = matches!(opcode, OPCODE_PING | OPCODE_PONG | OPCODE_CLOSE);
    if opcode != of_messages && !is_control {
        return Err(Malformed);
    }
    let Some(&short) = bytes.get(1) else { return Ok(None) };
    // Only clients mask their frames, and control frames are short.
    if short & MASKED != 0 || (is_control && short >= LENGTH_IN_2_BYTES) {
        return Err(Malformed);
    }
    let (start, length) = match short {
        LENGTH_IN_2_BYTES => {
            let Some((&length, _)) = bytes[2..].split_first_chunk() else { return Ok(None) };
            (4, u16::from_be_bytes(length).into())
        }
        LENGTH_IN_8_BYTES => {
            let Some((&length, _)) = bytes[2..].split_first_chunk() else { return Ok(None) };
            (10, u64::from_be_bytes(length))
        }
        _ => (2, short.into()),
    };
    let length = usize::try_from(length).ok().filter(|&length| length <= FRAME_BYTES_MAX).ok_or(Malformed)?;
    Ok(Some((opcode, start, start + length)))
}

fn said(text: &[u8]) -> Result<Frame<'_>, Malformed> {
    let said = Said::parse(text)?;
    Ok(match &*said.kind {
        "message" => Frame::Message(said.data.ok_or(Malformed)?.get().as_bytes()),
        "welcome" => Frame::Welcome,
        "subscribed" => Frame::Ack,
        "error" => Frame::Refused(said.refusal(false)?),
        "bye" => Frame::Refused(said.refusal(true)?),
        // Includes gaps: the ledger counts missing messages anyway.
        _ => Frame::Other,
    })
}

/// A close without a `bye`, because a `bye` would already have ended the client.
fn close(payload: &[u8]) -> Refusal<'_> {
    let (code, reason) = match payload.split_first_chunk() {
        Some((&code, reason)) => (format!("close {}", u16::from_be_bytes(code)), reason),
        None => ("close".to_owned(), payload),
    };
    Refusal { code: code.into(), message: String::from_utf8_lossy(reason), closes: true }
}

/// The key from the example in RFC 6455, section 1.3, and the answer to this key. A random key would only defend
/// against caches between client and server, and here there are none.
pub(super) const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
pub(super) const WELCOME: Welcome =
    Welcome { status: b"101", header: (b"sec-websocket-accept", b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=") };

pub(super) const MASK: [u8; 4] = [0; 4];

const FINAL: u8 = 0x80;
const OPCODE_TEXT: u8 = 1;
const OPCODE_CLOSE: u8 = 8;
const OPCODE_PING: u8 = 9;
const OPCODE_PONG: u8 = 10;
const MASKED: u8 = 0x80;
/// Marks a length in the next 2 bytes.
const LENGTH_IN_2_BYTES: u8 = 126;
/// Marks a length in the next 8 bytes.
const LENGTH_IN_8_BYTES: u8 = 127;
