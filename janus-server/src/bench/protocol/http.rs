//! The HTTP response that begins a stream of WebSocket frames or server-sent events.
//!
//! Neither a frame nor a block of a server begins with the first letter of the response, so decoders need not remember
//! whether the response has arrived.

use serde::Deserialize;
use serde_json::Value;

use super::splitter::{Cursor, length};
use super::{Decoded, Frame, Malformed, Refusal};

/// The expected response.
pub(super) struct Welcome {
    pub(super) status: &'static [u8],
    /// The name of a required header, and the required beginning of its value.
    pub(super) header: (&'static [u8], &'static [u8]),
}

/// Whether a response begins here, as far as the first byte tells.
pub(super) fn begins(bytes: &[u8]) -> bool {
    bytes.first() == START.first()
}

/// Decodes a response: a [`Frame::Welcome`], after which the stream begins, or a refusal with its body.
pub(super) fn decode<'a>(bytes: &'a [u8], welcome: &Welcome) -> Decoded<'a> {
    let known = bytes.len().min(START.len());
    if bytes[..known] != START[..known] {
        return Err(Malformed);
    }
    let mut cursor = Cursor::new(bytes);
    let Some(line) = cursor.line()? else { return Ok(None) };
    let (_, status) = line.split_at_checked(START.len()).ok_or(Malformed)?;
    let (mut has_header, mut body_bytes) = (false, 0);
    loop {
        let Some(line) = cursor.line()? else { return Ok(None) };
        if line.is_empty() {
            break;
        }
        let colon = line.iter().position(|&byte| byte == b':').ok_or(Malformed)?;
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        if name.eq_ignore_ascii_case(b"content-length") {
            body_bytes = length(value)?;
        }
        has_header |= name.eq_ignore_ascii_case(welcome.header.0) && value.starts_with(welcome.header.1);
    }
    if status.starts_with(welcome.status) {
        return if has_header { Ok(Some((Frame::Welcome, cursor.at))) } else { Err(Malformed) };
    }
    let Some(body) = cursor.bytes(body_bytes) else { return Ok(None) };
    Ok(Some((Frame::Refused(refusal(status, body)), cursor.at)))
}

/// The body of every refusal by Janus's HTTP port.
#[derive(Deserialize)]
struct Body {
    error: Reason,
}

#[derive(Deserialize)]
struct Reason {
    code: Value,
    message: String,
}

fn refusal<'a>(status: &'a [u8], body: &'a [u8]) -> Refusal<'a> {
    let (code, message) = match serde_json::from_slice(body) {
        Ok(Body { error: Reason { code: Value::String(code), message } }) => (code.into(), message.into()),
        Ok(Body { error: Reason { code, message } }) => (code.to_string().into(), message.into()),
        // The response is from a proxy, or from another server on this port.
        Err(_) => {
            let excerpt = &body[..body.len().min(EXCERPT_BYTES)];
            (String::from_utf8_lossy(status), String::from_utf8_lossy(excerpt))
        }
    };
    Refusal { code, message, closes: true }
}

const START: &[u8] = b"HTTP/1.1 ";
const EXCERPT_BYTES: usize = 200;
