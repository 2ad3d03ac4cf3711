//! A client of server-sent events.

use serde::Deserialize;
use serde_json::value::RawValue;

use super::super::{ClientFormat, Reader, ResumePoint, Seen};
use super::{Begun, ResponseHead};
use crate::wire::Position;

/// A client of server-sent events ([`Sse`](crate::wire::Sse)) at `/events`, as on an
/// [`HttpPort`](crate::wire::HttpPort).
#[derive(Clone, Copy, Debug, Default)]
pub struct SseClient;

fn request(target: &str, headers: &str) -> Vec<u8> {
    format!("GET {target} HTTP/1.1\r\nhost: localhost\r\naccept: text/event-stream\r\n{headers}\r\n").into_bytes()
}

fn target(topic: &str) -> String {
    let mut target = "/events?topic=".to_owned();
    for byte in topic.bytes() {
        if byte.is_ascii_alphanumeric() {
            target.push(byte.into());
        } else {
            target.push_str(&format!("%{byte:02X}"));
        }
    }
    target
}

impl ClientFormat for SseClient {
    fn subscribe(&self, topic: &str) -> Vec<u8> {
        request(&target(topic), "")
    }

    fn resume(&self, place: &ResumePoint) -> Option<Vec<u8>> {
        Some(request(&target(&place.topic), &format!("last-event-id: {}\r\n", place.position?)))
    }

    fn reader(&self) -> Box<dyn Reader> {
        Box::new(SseReader::default())
    }

    fn subscribes_again(&self) -> bool {
        false
    }

    fn garbage(&self) -> Vec<Vec<u8>> {
        vec![
            request("/events", ""),
            request("/events?topic=a&topic=a", ""),
            request("/events?topic=a", "origin: https://elsewhere.example\r\n"),
            b"POST /events?topic=a HTTP/1.1\r\nhost: localhost\r\ncontent-length: 0\r\n\r\n".to_vec(),
            b"GET /events?topic=a HTTP/9.9\r\nhost: localhost\r\n\r\n".to_vec(),
            b"GET /events?topic=a\r\n\r\n".to_vec(),
            b"GET /events?topic=a HTTP/1.1\r\nno header\r\n\r\n".to_vec(),
            b"\0\xff\0\xff\r\n\r\n".to_vec(),
        ]
    }
}

#[derive(Default)]
struct SseReader {
    head: ResponseHead,
    /// The bytes of an unfinished chunk.
    chunk: Vec<u8>,
    /// The lines of an unfinished block.
    block: Vec<u8>,
}

impl Reader for SseReader {
    fn read(&mut self, input: &[u8], seen: &mut Vec<Seen>) {
        if self.head.over {
            return self.read_body(input, seen);
        }
        match self.head.read(input) {
            Some(Begun::With(200, rest)) => {
                seen.push(Seen::Opened { session: None });
                self.read_body(&rest, seen);
            }
            Some(Begun::With(status, _)) => seen.push(Seen::Bye { code: status.to_string() }),
            Some(Begun::Wrong(head)) => seen.push(Seen::Unknown(head)),
            None => {}
        }
    }
}

impl SseReader {
    fn read_body(&mut self, input: &[u8], seen: &mut Vec<Seen>) {
        if !self.head.chunked {
            return self.read_blocks(input, seen);
        }
        self.chunk.extend_from_slice(input);
        // A chunk consists of a length in hexadecimal digits, a line break, the bytes, and another line break.
        while let Some(end) = self.chunk.windows(2).position(|window| window == b"\r\n") {
            let line = String::from_utf8_lossy(&self.chunk[..end]).into_owned();
            let Ok(length) = usize::from_str_radix(&line, 16) else {
                seen.push(Seen::Unknown(format!("not the head of a chunk: {line}")));
                return self.chunk.clear();
            };
            let (from, to) = (end + 2, end + 2 + length);
            if self.chunk.len() < to + 2 {
                return;
            }
            let rest = self.chunk.split_off(to + 2);
            let chunk = std::mem::replace(&mut self.chunk, rest);
            self.read_blocks(&chunk[from..to], seen);
        }
    }

    fn read_blocks(&mut self, input: &[u8], seen: &mut Vec<Seen>) {
        self.block.extend_from_slice(input);
        let mut start = 0;
        while let Some(length) = self.block[start..].windows(2).position(|window| window == b"\n\n") {
            let block = String::from_utf8_lossy(&self.block[start..start + length]);
            seen.push(understand(&block).unwrap_or_else(|| Seen::Unknown(block.into_owned())));
            start += length + 2;
        }
        self.block.drain(..start);
    }
}

#[derive(Deserialize)]
struct Message<'a> {
    topic: String,
    seq: u64,
    #[serde(borrow)]
    data: &'a RawValue,
}

#[derive(Deserialize)]
struct Gap {
    from: Option<u64>,
    to: Option<u64>,
    resumed: Option<bool>,
}

#[derive(Deserialize)]
struct Subscribed {
    resumed: bool,
}

#[derive(Deserialize)]
struct Failure {
    error: String,
}

/// The event of a block; `None` for a block that no server sends.
fn understand(block: &str) -> Option<Seen> {
    let (mut event, mut id, mut data) = (None, None, None);
    for line in block.lines().filter(|line| !line.starts_with(':')) {
        let (field, value) = line.split_once(": ")?;
        match field {
            "event" => event = Some(value),
            // The positions of other topics follow. This client has only one topic.
            "id" => id = Some(value.splitn(3, '.').take(2).collect::<Vec<_>>().join(".").parse::<Position>().ok()?),
            "data" => data = Some(value),
            "retry" => {}
            _ => return None,
        }
    }
    let seen = match (event, data) {
        (None, Some(data)) => {
            let message: Message<'_> = serde_json::from_str(data).ok()?;
            // A browser would resume with this id.
            (id?.seq == message.seq).then(|| Seen::message(message.topic, Some(message.seq), message.data.get()))?
        }
        (Some("gap"), Some(data)) => match serde_json::from_str(data).ok()? {
            // The following `subscribed` says the same.
            Gap { resumed: Some(false), .. } => Seen::Other,
            Gap { from, to, .. } => Seen::Gap { from: from?, to: to? },
        },
        (Some("subscribed"), Some(data)) => {
            let subscribed: Subscribed = serde_json::from_str(data).ok()?;
            Seen::subscribed().at(id?).resumed(subscribed.resumed)
        }
        (Some("heartbeat"), Some("{}")) => Seen::Other,
        (Some("refused"), Some(data)) => Seen::Error { code: serde_json::from_str::<Failure>(data).ok()?.error },
        (Some("bye"), Some(data)) => Seen::Bye { code: serde_json::from_str::<Failure>(data).ok()?.error },
        _ => return None,
    };
    Some(seen)
}
