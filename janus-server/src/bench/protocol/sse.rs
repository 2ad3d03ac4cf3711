//! Server-sent events: blocks of lines that end with a blank line. Blocks with data but no event name are messages.
//!
//! In a chunked response each block is a chunk. The lines of the chunk framing end with a carriage return, unlike the
//! lines of an event, and are skipped.

use std::io::BufRead as _;
use std::net::SocketAddr;

use super::http::{self, Welcome};
use super::said::Said;
use super::splitter::data_at_the_end;
use super::{Decoded, Frame, Malformed};

pub(super) fn opening(server: SocketAddr, topic: &str) -> Vec<u8> {
    // The topics of a bench need no escapes in a query. Without `Accept: text/event-stream`, a refusal is an HTTP
    // status rather than a stream that ends.
    format!("GET /events?topic={topic} HTTP/1.1\r\nHost: {server}\r\n\r\n").into_bytes()
}

pub(super) fn decode(bytes: &[u8], searched: usize, data_bytes: u32) -> Decoded<'_> {
    if http::begins(bytes) {
        return http::decode(bytes, &WELCOME);
    }
    if !b"ider:\n\r0123456789abcdef".contains(&bytes[0]) {
        return Err(Malformed);
    }
    let Some(length) = end_of_block(bytes, searched) else { return Ok(None) };
    let block = bytes[..length].trim_ascii_end();
    let frame = match data_at_the_end(block, data_bytes as usize) {
        Some(data) => Frame::Message(data),
        None => meaning(block)?,
    };
    Ok(Some((frame, length)))
}

/// The length of the first block, up to and including its blank line, which is not within the first `searched` bytes.
fn end_of_block(bytes: &[u8], searched: usize) -> Option<usize> {
    let mut at = searched;
    loop {
        // `skip_until` searches with memchr, which matters for long messages.
        at += (&bytes[at..]).skip_until(b'\n').expect("reading from memory does not fail");
        match bytes[..at] {
            [.., b'\n', b'\n'] | [b'\n'] => return Some(at),
            _ if at == bytes.len() => return None,
            _ => {}
        }
    }
}

fn meaning(block: &[u8]) -> Result<Frame<'_>, Malformed> {
    let (mut event, mut data, mut has_id) = (None, None, false);
    for line in block.split(|&byte| byte == b'\n').filter(|line| !line.ends_with(b"\r")) {
        let colon = line.iter().position(|&byte| byte == b':').unwrap_or(line.len());
        let (field, value) = line.split_at(colon);
        let value = value.strip_prefix(b":").unwrap_or(value);
        let value = value.strip_prefix(b" ").unwrap_or(value);
        match field {
            b"event" => event = Some(value),
            // Janus's JSON has no line feeds, so the data is a single line.
            b"data" if data.is_none() => data = Some(value),
            b"id" => has_id = true,
            // A comment begins with the colon.
            b"retry" | b"" => {}
            // A client should ignore unknown fields, but here an unknown field reveals another kind of stream.
            _ => return Err(Malformed),
        }
    }
    Ok(match (event, data) {
        (None, Some(data)) => Frame::Message(Said::parse(data)?.data.ok_or(Malformed)?.get().as_bytes()),
        (Some(b"refused"), Some(data)) => Frame::Refused(Said::parse(data)?.refusal(false)?),
        (Some(b"bye"), Some(data)) => Frame::Refused(Said::parse(data)?.refusal(true)?),
        // The id is the position after which the topic is delivered.
        (Some(b"subscribed"), _) if has_id => Frame::Ack,
        // Includes gaps: the ledger counts missing messages anyway.
        _ => Frame::Other,
    })
}

const WELCOME: Welcome = Welcome { status: b"200", header: (b"content-type", b"text/event-stream") };
