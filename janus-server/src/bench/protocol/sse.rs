//! Server-sent events: blocks that end with a blank line, of which those with data and no event are the messages. In a
//! chunked response each is a chunk; the lines of the chunks end with a carriage return, which no line of an event does.

use std::io::BufRead as _;
use std::net::SocketAddr;

use super::http::{self, Welcome};
use super::said::Said;
use super::{Decoded, Frame, Malformed, data_at_the_end};

pub(super) fn opening(server: SocketAddr, topic: &str) -> Vec<u8> {
    // A topic of a bench needs no escapes in a query. Without `Accept: text/event-stream` a refusal has a status, and is no
    // stream that ends.
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

/// Where the block at the beginning ends: after the first line feed that ends no line. It is not among the first
/// `searched` bytes.
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
            // Janus's JSON has no line feeds, so its data is one line.
            b"data" if data.is_none() => data = Some(value),
            b"id" => has_id = true,
            // A comment begins with the colon.
            b"retry" | b"" => {}
            // A client should ignore other fields; here they say that it is another kind of stream.
            _ => return Err(Malformed),
        }
    }
    Ok(match (event, data) {
        (None, Some(data)) => Frame::Message(Said::parse(data)?.data.ok_or(Malformed)?.get().as_bytes()),
        (Some(b"refused"), Some(data)) => Frame::Refused(Said::parse(data)?.refusal(false)?),
        (Some(b"bye"), Some(data)) => Frame::Refused(Said::parse(data)?.refusal(true)?),
        // With the place after which the topic is delivered.
        (Some(b"subscribed"), _) if has_id => Frame::Ack,
        // A gap is counted by what does not come.
        _ => Frame::Other,
    })
}

const WELCOME: Welcome = Welcome { status: b"200", header: (b"content-type", b"text/event-stream") };
