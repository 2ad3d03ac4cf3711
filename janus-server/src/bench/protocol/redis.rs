//! RESP2, the protocol of Redis and compatible servers.

use std::io::Write as _;

use super::splitter::{Cursor, length};
use super::{Decoded, Frame, Malformed, Refusal};

pub(super) fn opening(topic: Option<&str>) -> Vec<u8> {
    let mut bytes = Vec::new();
    match topic {
        Some(topic) => command(&["SUBSCRIBE", topic], &mut bytes),
        None => command(&["PING"], &mut bytes),
    }
    bytes
}

pub(super) fn publish(topic: &str, data: &str, out: &mut Vec<u8>) {
    command(&["PUBLISH", topic, data], out);
}

fn command(words: &[&str], out: &mut Vec<u8>) {
    write!(out, "*{}\r\n", words.len()).expect("writing to memory does not fail");
    for word in words {
        write!(out, "${}\r\n{word}\r\n", word.len()).expect("writing to memory does not fail");
    }
}

pub(super) fn decode(bytes: &[u8]) -> Decoded<'_> {
    let mut cursor = Cursor::new(bytes);
    let frame = match bytes[0] {
        b'*' => array(&mut cursor)?,
        b'+' | b'-' | b':' => cursor.line()?.map(|line| match line {
            b"+PONG" => Frame::Welcome,
            [b'-', error @ ..] => {
                let at = error.iter().position(|&byte| byte == b' ').unwrap_or(error.len());
                let (code, message) = error.split_at(at);
                let message = String::from_utf8_lossy(message.trim_ascii_start());
                Frame::Refused(Refusal { code: String::from_utf8_lossy(code), message, closes: false })
            }
            // To a publisher, for example: the number of subscribers reached by a message.
            _ => Frame::Other,
        }),
        _ => return Err(Malformed),
    };
    Ok(frame.map(|frame| (frame, cursor.at)))
}

/// Decodes an array sent to a subscriber: the kind, the topic, and the data or a number.
fn array<'a>(cursor: &mut Cursor<'a>) -> Result<Option<Frame<'a>>, Malformed> {
    let Some(header) = cursor.line()? else { return Ok(None) };
    let (mut kind, mut last) = (None, &b""[..]);
    for _ in 0..length(&header[1..])? {
        let Some(element) = cursor.line()? else { return Ok(None) };
        last = match element {
            [b'$', digits @ ..] => match cursor.bytes_of_line(length(digits)?)? {
                Some(bytes) => bytes,
                None => return Ok(None),
            },
            [b':', digits @ ..] => digits,
            _ => return Err(Malformed),
        };
        kind = kind.or(Some(last));
    }
    Ok(Some(match kind {
        Some(b"message") => Frame::Message(last),
        Some(b"subscribe") => Frame::Ack,
        _ => Frame::Other,
    }))
}
