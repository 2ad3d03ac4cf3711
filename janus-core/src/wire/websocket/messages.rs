//! Messages of a WebSocket: complete messages of a client, and the frames of the server's own messages.

use std::borrow::Cow;

use bytes::{BufMut, Bytes, BytesMut};
use tungstenite::protocol::frame::FrameHeader;
use tungstenite::protocol::frame::coding::{CloseCode, Control, Data, OpCode};

use super::CONTROL_BYTES_MAX;
use crate::wire::{ErrorCode, FrameError, Refusal};

/// A complete message of a client, whatever frames it came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientMessage<'m> {
    /// A text message, known to be UTF-8.
    Text(&'m str),
    /// A binary message.
    Binary(&'m [u8]),
}

impl<'m> ClientMessage<'m> {
    /// The bytes of the message.
    #[must_use]
    pub fn bytes(&self) -> &'m [u8] {
        match self {
            Self::Text(text) => text.as_bytes(),
            Self::Binary(bytes) => bytes,
        }
    }

    /// The text of the message, for a decoder that [takes](super::Takes) text alone; empty for a binary message.
    #[must_use]
    pub fn text(&self) -> &'m str {
        match self {
            Self::Text(text) => text,
            Self::Binary(_) => "",
        }
    }
}

/// How the server ends a WebSocket: the code and the reason of the close frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Close<'r> {
    /// The code. Servers may send 1000 to 1003, 1007 to 1014 and 3000 to 4999; any other code is sent as 1011.
    pub code: u16,
    /// The reason, cut after 123 bytes at most.
    pub reason: Cow<'r, str>,
}

impl<'r> Close<'r> {
    /// The close frame of `janus.v1.json`: [`ErrorCode::number`] with the name of the code, or the code of RFC 6455 with the
    /// message, for input outside the rules of the WebSocket.
    #[must_use]
    pub fn of(refusal: &Refusal<'r>) -> Self {
        match broken_rule(refusal.code) {
            Some(code) => Self { code: code.into(), reason: refusal.message.into() },
            None => Self { code: refusal.code.number(), reason: refusal.code.as_str().into() },
        }
    }
}

/// The close code for input outside the rules of the WebSocket; `None` for the codes of protocols in the messages.
pub(super) fn broken_rule(code: ErrorCode) -> Option<CloseCode> {
    match code {
        ErrorCode::BadFrame => Some(CloseCode::Protocol),
        ErrorCode::UnsupportedFrame => Some(CloseCode::Unsupported),
        ErrorCode::BadUtf8 => Some(CloseCode::Invalid),
        ErrorCode::FrameTooLarge => Some(CloseCode::Size),
        _ => None,
    }
}

/// Writes messages of the server, each as one unfragmented frame.
///
/// ```
/// use janus_core::wire::Command;
/// use janus_core::wire::websocket::MessageWriter;
///
/// let answer = Command::Answer(MessageWriter::bytes(|out| out.text("pong")));
/// assert_eq!(answer, Command::Answer((&b"\x81\x04pong"[..]).into()));
/// ```
#[derive(Debug)]
pub struct MessageWriter<'o>(&'o mut BytesMut);

impl<'o> MessageWriter<'o> {
    pub(super) fn new(out: &'o mut BytesMut) -> Self {
        Self(out)
    }

    /// The frames that `write` writes, for [`Command::Answer`](crate::wire::Command::Answer) and
    /// [`Command::Close`](crate::wire::Command::Close).
    #[must_use]
    pub fn bytes(write: impl FnOnce(&mut MessageWriter<'_>)) -> Bytes {
        let mut out = BytesMut::new();
        write(&mut MessageWriter(&mut out));
        out.freeze()
    }

    /// Writes a text message.
    pub fn text(&mut self, text: &str) {
        self.put(Data::Text, |out| out.put_slice(text.as_bytes()));
    }

    /// Writes a binary message.
    pub fn binary(&mut self, bytes: &[u8]) {
        self.put(Data::Binary, |out| out.put_slice(bytes));
    }

    /// Writes a text message with the output of `write`, which must be UTF-8; no message if there is no output. Messages
    /// to many subscribers are written like this, because nothing is copied.
    #[inline]
    pub fn text_with(&mut self, write: impl FnOnce(&mut BytesMut)) {
        put_usual(self.0, Data::Text, write);
    }

    /// Writes a binary message with the output of `write`; no message if there is no output.
    #[inline]
    pub fn binary_with(&mut self, write: impl FnOnce(&mut BytesMut)) {
        put_usual(self.0, Data::Binary, write);
    }

    /// Writes a ping with this payload, cut after 125 bytes.
    pub fn ping(&mut self, payload: &[u8]) {
        self.control(Control::Ping, payload);
    }

    /// Writes a close frame, the last frame of a connection.
    pub fn close(&mut self, close: &Close<'_>) {
        let code = CloseCode::from(close.code);
        let code = if code.is_allowed() { code } else { CloseCode::Error };
        let reason = &close.reason[..close.reason.floor_char_boundary(CONTROL_BYTES_MAX - 2)];
        self.header(OpCode::Control(Control::Close), reason.len() + 2);
        self.0.put_u16(code.into());
        self.0.put_slice(reason.as_bytes());
    }

    pub(super) fn control(&mut self, control: Control, payload: &[u8]) {
        let payload = &payload[..payload.len().min(CONTROL_BYTES_MAX)];
        self.header(OpCode::Control(control), payload.len());
        self.0.put_slice(payload);
    }

    fn put(&mut self, kind: Data, write: impl FnOnce(&mut BytesMut)) {
        let start = self.0.len();
        put_usual(self.0, kind, write);
        if self.0.len() == start {
            // An empty message is a message.
            self.header(OpCode::Data(kind), 0);
        }
    }

    fn header(&mut self, opcode: OpCode, length: usize) {
        put_header(&mut self.0.writer(), opcode, length);
    }
}

/// Bytes of the header of most messages, whose payload has 126 to 65,535 bytes.
const USUAL_HEADER: usize = 4;

/// Appends a frame with the output of `write` as payload; nothing if there is no output.
#[inline]
fn put_usual(out: &mut BytesMut, kind: Data, write: impl FnOnce(&mut BytesMut)) {
    let start = out.len();
    out.put_bytes(0, USUAL_HEADER);
    write(out);
    let length = out.len() - start - USUAL_HEADER;
    if length == 0 {
        return out.truncate(start);
    }
    // The header depends on the payload's length, so a payload behind an unusual header is moved: moving freshly written
    // bytes is cheaper than counting these bytes in advance.
    let opcode = OpCode::Data(kind);
    let size = header(opcode).len(length as u64);
    if size != USUAL_HEADER {
        out.put_bytes(0, size.saturating_sub(USUAL_HEADER));
        out.copy_within(start + USUAL_HEADER..start + USUAL_HEADER + length, start + size);
        out.truncate(start + size + length);
    }
    match u16::try_from(length) {
        // By hand, because this is done for each message to a WebSocket.
        Ok(length) if size == USUAL_HEADER => {
            let [high, low] = length.to_be_bytes();
            let first = if kind == Data::Text { super::TEXT } else { super::BINARY };
            out[start..start + size].copy_from_slice(&[first, 126, high, low]);
        }
        _ => put_header(&mut &mut out[start..start + size], opcode, length),
    }
}

/// A control frame from the server.
pub(super) fn control_frame(control: Control, payload: &[u8]) -> Bytes {
    MessageWriter::bytes(|out| out.control(control, payload))
}

/// The header of an unfragmented message from the server.
fn header(opcode: OpCode) -> FrameHeader {
    FrameHeader { opcode, ..FrameHeader::default() }
}

fn put_header(out: &mut impl std::io::Write, opcode: OpCode, length: usize) {
    header(opcode).format(length as u64, out).expect("there is room for it");
}

pub(super) fn bad_frame(message: &str) -> FrameError {
    FrameError::new(ErrorCode::BadFrame, message)
}
