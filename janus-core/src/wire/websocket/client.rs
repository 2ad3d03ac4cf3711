//! The client's end of a WebSocket: the request to upgrade, builders for frames, and a decoder for the server's frames.
//!
//! For tests, load tools and embedders. The content of the messages is in [`v1::client`](crate::wire::v1::client).

use std::io::Cursor;
use std::mem;

use tungstenite::protocol::frame::FrameHeader;
use tungstenite::protocol::frame::coding::{Control, Data, OpCode};

use super::SUBPROTOCOL;
use super::frames::unmask;

/// The request to upgrade a connection to `janus.v1.json`. The key is 16 random bytes in base64.
#[must_use]
pub fn upgrade(host: &str, target: &str, key: &str) -> Vec<u8> {
    upgrade_to(host, target, key, SUBPROTOCOL)
}

/// As [`upgrade`], to another subprotocol.
#[must_use]
pub fn upgrade_to(host: &str, target: &str, key: &str, subprotocol: &str) -> Vec<u8> {
    format!(
        "GET {target} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\nSec-WebSocket-Protocol: {subprotocol}\r\n\r\n"
    )
    .into_bytes()
}

/// A text message in a single frame. The mask should be random where a script chooses the text; see section 10.3 of RFC
/// 6455.
#[must_use]
pub fn text(text: &str, mask: [u8; 4]) -> Vec<u8> {
    frame(OpCode::Data(Data::Text), true, text.as_bytes(), mask)
}

/// A binary message in a single frame.
#[must_use]
pub fn binary(bytes: &[u8], mask: [u8; 4]) -> Vec<u8> {
    frame(OpCode::Data(Data::Binary), true, bytes, mask)
}

/// A text message in frames with at most `max_payload_bytes` of payload each.
///
/// # Panics
///
/// If `max_payload_bytes` is 0.
#[must_use]
pub fn fragmented_text(text: &str, mask: [u8; 4], max_payload_bytes: usize) -> Vec<u8> {
    let mut rest = text.as_bytes();
    let mut frames = Vec::new();
    let mut opcode = Data::Text;
    loop {
        assert!(max_payload_bytes > 0, "frames without payload would never end the message");
        let (payload, after) = rest.split_at(rest.len().min(max_payload_bytes));
        frames.extend(frame(OpCode::Data(opcode), after.is_empty(), payload, mask));
        if after.is_empty() {
            return frames;
        }
        (rest, opcode) = (after, Data::Continue);
    }
}

/// A ping, answered by the server with a pong of the same payload; at most 125 bytes.
#[must_use]
pub fn ping(payload: &[u8], mask: [u8; 4]) -> Vec<u8> {
    frame(OpCode::Control(Control::Ping), true, payload, mask)
}

/// The answer to a ping.
#[must_use]
pub fn pong(payload: &[u8], mask: [u8; 4]) -> Vec<u8> {
    frame(OpCode::Control(Control::Pong), true, payload, mask)
}

/// The frame to end a connection.
#[must_use]
pub fn close(code: u16, mask: [u8; 4]) -> Vec<u8> {
    frame(OpCode::Control(Control::Close), true, &code.to_be_bytes(), mask)
}

fn frame(opcode: OpCode, is_final: bool, payload: &[u8], mask: [u8; 4]) -> Vec<u8> {
    let header = FrameHeader { is_final, opcode, mask: Some(mask), ..FrameHeader::default() };
    let mut frame = Vec::with_capacity(header.len(payload.len() as u64) + payload.len());
    header.format(payload.len() as u64, &mut frame).expect("a vector has room");
    let start = frame.len();
    frame.extend_from_slice(payload);
    unmask(&mut frame[start..], mask);
    frame
}

/// A frame from the server, borrowed from the input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServerFrame<'a> {
    /// A text message, for [`v1::client::ServerFrame::parse`](crate::wire::v1::client::ServerFrame::parse).
    Text(&'a str),
    /// A binary message, for [`cbor::client::json`](crate::wire::cbor::client::json).
    Binary(&'a [u8]),
    /// A ping, to be answered with a pong of the same payload.
    Ping(&'a [u8]),
    /// The answer to a ping.
    Pong(&'a [u8]),
    /// The connection ends.
    Close {
        /// The close code, if given.
        code: Option<u16>,
        /// The reason, for people.
        reason: &'a str,
    },
    /// A frame never sent by Janus: masked, fragmented, not UTF-8, longer than the limit or outside the
    /// protocol. Nothing further is decoded: close the connection.
    Unexpected,
}

/// Splits the bytes from a server, after the head of the answer, into frames, however the bytes are split between
/// reads.
///
/// ```
/// use janus_core::wire::websocket::client::{ServerDecoder, ServerFrame};
///
/// let mut decoder = ServerDecoder::new();
/// let mut input: &[u8] = b"\x89\x00\x81\x02{";
/// assert_eq!(decoder.decode(&mut input), Some(ServerFrame::Ping(b"")));
/// assert_eq!(decoder.decode(&mut input), None);
/// let mut input: &[u8] = b"}";
/// assert_eq!(decoder.decode(&mut input), Some(ServerFrame::Text("{}")));
/// ```
#[derive(Debug)]
pub struct ServerDecoder {
    /// The beginning of an unfinished frame.
    unfinished: Vec<u8>,
    /// Whether `unfinished` is a complete frame instead, lent out by the last call.
    lent_out: bool,
    max_frame_bytes: usize,
    over: bool,
}

impl Default for ServerDecoder {
    fn default() -> Self {
        Self::new()
    }
}

impl ServerDecoder {
    /// A decoder for frames of at most 32 MiB, twice the largest limit a server can be configured with.
    #[must_use]
    pub fn new() -> Self {
        Self::with_max_frame_bytes(32 << 20)
    }

    /// A decoder with its own limit for the payload of a frame.
    #[must_use]
    pub fn with_max_frame_bytes(max_frame_bytes: usize) -> Self {
        Self { unfinished: Vec::new(), lent_out: false, max_frame_bytes, over: false }
    }

    /// Takes bytes from `input` up to the end of the next frame. `None` means that all input is taken.
    pub fn decode<'a, 'i: 'a>(&'a mut self, input: &mut &'i [u8]) -> Option<ServerFrame<'a>> {
        if mem::take(&mut self.lent_out) {
            self.unfinished.clear();
        }
        if self.over {
            *input = &[];
            return None;
        }
        if self.unfinished.is_empty() {
            match Head::read(input, self.max_frame_bytes) {
                Ok(Some(head)) if input.len() >= head.end => {
                    let (frame, rest) = input.split_at(head.end);
                    *input = rest;
                    return Some(head.frame(frame).unwrap_or_else(|| self.give_up()));
                }
                Ok(_) => {}
                Err(Unreadable) => {
                    *input = &[];
                    return Some(self.give_up());
                }
            }
        }
        loop {
            // The header first, then the payload announced in the header.
            let head = Head::read(&self.unfinished, self.max_frame_bytes);
            let wanted = match &head {
                Ok(Some(head)) => head.end,
                Ok(None) => self.unfinished.len() + 1,
                Err(Unreadable) => {
                    *input = &[];
                    return Some(self.give_up());
                }
            };
            let (piece, rest) = input.split_at(input.len().min(wanted - self.unfinished.len()));
            *input = rest;
            self.unfinished.extend_from_slice(piece);
            match head {
                Ok(Some(head)) if self.unfinished.len() == head.end => {
                    self.lent_out = true;
                    let frame = head.frame(&self.unfinished);
                    self.over = frame.is_none();
                    return Some(frame.unwrap_or(ServerFrame::Unexpected));
                }
                _ if piece.is_empty() => return None,
                _ => {}
            }
        }
    }

    /// How many bytes of an unfinished frame are kept; never more than the limit and a header.
    #[must_use]
    pub fn buffered(&self) -> usize {
        if self.lent_out { 0 } else { self.unfinished.len() }
    }

    fn give_up(&mut self) -> ServerFrame<'static> {
        self.unfinished = Vec::new();
        self.lent_out = false;
        self.over = true;
        ServerFrame::Unexpected
    }
}

/// The kind of a frame, and the place of its payload.
struct Head {
    opcode: OpCode,
    start: usize,
    end: usize,
}

/// The bytes do not begin an acceptable frame.
struct Unreadable;

impl Head {
    fn read(bytes: &[u8], max_frame_bytes: usize) -> Result<Option<Self>, Unreadable> {
        let mut cursor = Cursor::new(bytes);
        let Some((header, length)) = FrameHeader::parse(&mut cursor).map_err(|_| Unreadable)? else { return Ok(None) };
        let FrameHeader { is_final, rsv1, rsv2, rsv3, opcode, mask } = header;
        let length = usize::try_from(length).map_err(|_| Unreadable)?;
        if !is_final || rsv1 || rsv2 || rsv3 || mask.is_some() || length > max_frame_bytes {
            return Err(Unreadable);
        }
        let start = cursor.position() as usize;
        Ok(Some(Self { opcode, start, end: start + length }))
    }

    fn frame<'a>(&self, frame: &'a [u8]) -> Option<ServerFrame<'a>> {
        let payload = &frame[self.start..];
        Some(match self.opcode {
            OpCode::Data(Data::Text) => ServerFrame::Text(str::from_utf8(payload).ok()?),
            OpCode::Data(Data::Binary) => ServerFrame::Binary(payload),
            OpCode::Control(Control::Ping) => ServerFrame::Ping(payload),
            OpCode::Control(Control::Pong) => ServerFrame::Pong(payload),
            OpCode::Control(Control::Close) => match payload.split_first_chunk() {
                Some((code, reason)) => {
                    let reason = str::from_utf8(reason).ok()?;
                    ServerFrame::Close { code: Some(u16::from_be_bytes(*code)), reason }
                }
                None => ServerFrame::Close { code: None, reason: "" },
            },
            _ => return None,
        })
    }
}
