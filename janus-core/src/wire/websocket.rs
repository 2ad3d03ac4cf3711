//! The server's end of WebSocket (RFC 6455), carrying [`janus.v1.json`](super::v1).
//!
//! [`WebSocket::accept`] answers the request to upgrade; the [`Codec`] handles the bytes afterwards. Text messages are
//! frames of the protocol, pings are answered, extensions are not used. Input is checked strictly, since nothing can be
//! trusted after a frame that breaks the rules. [`client`] (`websocket/client.rs`) is the client's end,
//! `websocket/tests.rs` the rules.

use std::io::Cursor;
use std::mem;

use bytes::{BufMut, Bytes, BytesMut};
use tungstenite::handshake::derive_accept_key;
use tungstenite::protocol::frame::FrameHeader;
use tungstenite::protocol::frame::coding::{CloseCode, Control, Data, OpCode};

use super::http::{NO_BODY, date};
use super::request::{bad_utf8, text, unfinished};
use super::resting::{Resting, Rests};
use super::{
    Answers, Codec, Command, Decoder, ErrorCode, FrameError, Heartbeat, HttpRequest, Limits, Opens, Refusal,
    ServerEvent, Timestamp, v1,
};

pub mod client;

/// The subprotocol of the messages.
pub const SUBPROTOCOL: &str = "janus.v1.json";

/// The largest payload of a ping, pong or close, in bytes.
const CONTROL_BYTES_MAX: usize = 125;

/// Bytes of the longest header: a masked frame with an eight-byte length.
const HEADER_BYTES_MAX: usize = 14;

/// The codec of `janus.v1.json` over WebSocket.
///
/// An HTTP server answers a request to upgrade with [`accept`](Self::accept), and decodes the following bytes with
/// [`decoder_for`](Self::decoder_for). The HTTP server must also decide whether the request's `Origin` may connect.
#[derive(Clone, Copy, Debug, Default)]
pub struct WebSocket;

impl WebSocket {
    /// Answers a request to upgrade with the head of a response. Afterwards the connection is a WebSocket.
    ///
    /// ```
    /// use janus_core::wire::{HttpRequest, WebSocket};
    ///
    /// let header = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
    /// let request = HttpRequest {
    ///     method: "GET".into(),
    ///     target: "/ws".into(),
    ///     headers: [
    ///         ("host", "example.org"),
    ///         ("connection", "keep-alive, Upgrade"),
    ///         ("upgrade", "websocket"),
    ///         ("sec-websocket-version", "13"),
    ///         ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ///     ]
    ///     .map(header)
    ///     .into(),
    ///     ..HttpRequest::default()
    /// };
    /// let head = WebSocket::accept(&request)?;
    /// assert!(head.starts_with(b"HTTP/1.1 101 Switching Protocols\r\n"));
    /// # Ok::<_, janus_core::wire::websocket::UpgradeError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// What the request lacks, with the status of the answer.
    pub fn accept(request: &HttpRequest) -> Result<Bytes, UpgradeError> {
        let mut head = "HTTP/1.1 101 Switching Protocols\r\n".to_owned();
        for (name, value) in Self::accept_headers(request)? {
            head.extend([name, ": ", &value, "\r\n"]);
        }
        head.extend(["date: ", &date(), "\r\n\r\n"]);
        Ok(head.into())
    }

    /// The headers of the same response, for an HTTP server that writes heads itself; the status is 101.
    ///
    /// # Errors
    ///
    /// As [`accept`](Self::accept).
    pub fn accept_headers(request: &HttpRequest) -> Result<Vec<(&'static str, String)>, UpgradeError> {
        let asks_for_head = request.method == "HEAD";
        if request.method != "GET" && !asks_for_head {
            return Err(UpgradeError::new(405, "WebSockets require GET"));
        }
        if request.is_http_1_0 {
            let message = "WebSockets require HTTP/1.1, but the client or a proxy speaks HTTP/1.0";
            return Err(UpgradeError::new(400, message));
        }
        if request.has_body() {
            return Err(UpgradeError::new(400, NO_BODY));
        }
        // HEAD gets the same head as GET without an upgrade: only GET opens a WebSocket (RFC 6455, 4.1).
        if asks_for_head || !tokens(request, "upgrade").any(|token| token.eq_ignore_ascii_case("websocket")) {
            return Err(UpgradeError::new(426, "missing header \"upgrade: websocket\": this path is a WebSocket"));
        }
        if !tokens(request, "connection").any(|token| token.eq_ignore_ascii_case("upgrade")) {
            return Err(UpgradeError::new(
                400,
                "missing header \"connection: upgrade\": send it, and configure proxies to pass it on",
            ));
        }
        if only(request, "sec-websocket-version") != Some("13") {
            return Err(UpgradeError::new(426, "\"sec-websocket-version\" must be 13"));
        }
        let key = only(request, "sec-websocket-key").filter(|key| is_key(key));
        let key =
            key.ok_or_else(|| UpgradeError::new(400, "\"sec-websocket-key\" must be sent once, 16 bytes in base64"))?;
        let mut subprotocols = tokens(request, "sec-websocket-protocol").peekable();
        let names_any = subprotocols.peek().is_some();
        let names_ours = subprotocols.any(|name| name == SUBPROTOCOL);
        if names_any && !names_ours {
            return Err(UpgradeError::new(400, "unknown subprotocol: offer \"janus.v1.json\", or no subprotocol"));
        }
        let mut headers = vec![
            ("Upgrade", "websocket".to_owned()),
            ("Connection", "Upgrade".to_owned()),
            ("Sec-WebSocket-Accept", derive_accept_key(key.as_bytes())),
        ];
        if names_ours {
            headers.push(("Sec-WebSocket-Protocol", SUBPROTOCOL.to_owned()));
        }
        Ok(headers)
    }

    /// The decoder of a connection upgraded by this request. The request is handed out with the client's
    /// [`Command::Open`], and not kept afterwards.
    #[must_use]
    pub fn decoder_for(request: HttpRequest) -> Box<dyn Decoder> {
        let decoder = FrameDecoder { request: Some(Box::new(request)), ..FrameDecoder::default() };
        Resting::busy(decoder, false)
    }
}

/// Why a request does not open a WebSocket; its sender is to blame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct UpgradeError {
    /// The status of the answer.
    pub status: u16,
    /// What the client should do, for people.
    pub message: &'static str,
}

impl UpgradeError {
    fn new(status: u16, message: &'static str) -> Self {
        Self { status, message }
    }

    /// The headers required with this status.
    #[must_use]
    pub fn headers(&self) -> &'static [(&'static str, &'static str)] {
        match self.status {
            405 => &[("allow", "GET")],
            426 => &[("upgrade", "websocket"), ("connection", "upgrade"), ("sec-websocket-version", "13")],
            _ => &[],
        }
    }
}

/// The tokens of all headers with this name, each a list.
fn tokens<'a>(request: &'a HttpRequest, name: &'a str) -> impl Iterator<Item = &'a str> {
    let headers = request.headers.iter().filter(move |(other, _)| other == name);
    headers.flat_map(|(_, value)| value.split(',')).map(str::trim).filter(|token| !token.is_empty())
}

/// The header with this name, which must not be repeated.
fn only<'a>(request: &'a HttpRequest, name: &str) -> Option<&'a str> {
    let mut values = request.headers.iter().filter(|(other, _)| other == name).map(|(_, value)| value.trim());
    values.next().filter(|_| values.next().is_none())
}

fn is_key(key: &str) -> bool {
    data_encoding::BASE64.decode(key.as_bytes()).is_ok_and(|nonce| nonce.len() == 16)
}

impl Codec for WebSocket {
    fn name(&self) -> &'static str {
        "websocket"
    }

    fn decoder(&self) -> Box<dyn Decoder> {
        Resting::<FrameDecoder>::at_rest(false)
    }

    fn encode(&self, event: &ServerEvent<'_>, _at: &Timestamp, out: &mut BytesMut) {
        match event {
            ServerEvent::Bye(refusal) | ServerEvent::Refused(refusal) => {
                let code = match refusal.code {
                    ErrorCode::BadFrame => CloseCode::Protocol,
                    ErrorCode::UnsupportedFrame => CloseCode::Unsupported,
                    ErrorCode::BadUtf8 => CloseCode::Invalid,
                    ErrorCode::FrameTooLarge => CloseCode::Size,
                    code => {
                        put_text(out, |out| v1::encode(event, out));
                        CloseCode::Library(code.number())
                    }
                };
                put_close(out, code, refusal);
            }
            _ => put_text(out, |out| v1::encode(event, out)),
        }
    }

    fn opens(&self) -> Opens {
        Opens::WhenAsked
    }

    fn heartbeat(&self) -> Heartbeat {
        Heartbeat::Always(Bytes::from_static(&[0x89, 0]))
    }

    /// RFC 6455 obliges every client to answer (5.5.2).
    fn answers(&self) -> Answers {
        Answers::Always
    }

    fn refreshes(&self) -> bool {
        true
    }
}

/// Bytes of the header of most messages, whose payload has 126 to 65,535 bytes.
const USUAL_HEADER: usize = 4;

/// The first byte of an unfragmented text message.
const TEXT: u8 = 0x81;

/// Appends a text frame with the output of `write` as payload; nothing if there is no output.
fn put_text(out: &mut BytesMut, write: impl FnOnce(&mut BytesMut)) {
    let start = out.len();
    out.put_bytes(0, USUAL_HEADER);
    write(out);
    let length = out.len() - start - USUAL_HEADER;
    if length == 0 {
        return out.truncate(start);
    }
    // The header depends on the payload's length, so a payload behind an unusual header is moved: moving freshly written
    // bytes is cheaper than counting these bytes in advance.
    let opcode = OpCode::Data(Data::Text);
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
            out[start..start + size].copy_from_slice(&[TEXT, 126, high, low]);
        }
        _ => put_header(&mut &mut out[start..start + size], opcode, length),
    }
}

fn put_close(out: &mut BytesMut, code: CloseCode, refusal: &Refusal<'_>) {
    // Without a frame of the protocol, this reason is all the client can read.
    let reason = match code {
        CloseCode::Library(_) => refusal.code.as_str(),
        _ => refusal.message,
    };
    let reason = &reason[..reason.floor_char_boundary(CONTROL_BYTES_MAX - 2)];
    let opcode = OpCode::Control(Control::Close);
    put_header(&mut out.writer(), opcode, reason.len() + 2);
    out.put_u16(code.into());
    out.put_slice(reason.as_bytes());
}

/// A control frame from the server.
fn control_frame(opcode: Control, payload: &[u8]) -> Bytes {
    let mut frame = Vec::with_capacity(2 + payload.len());
    put_header(&mut frame, OpCode::Control(opcode), payload.len());
    frame.extend_from_slice(payload);
    frame.into()
}

/// The header of an unfragmented message from the server.
fn header(opcode: OpCode) -> FrameHeader {
    FrameHeader { opcode, ..FrameHeader::default() }
}

fn put_header(out: &mut impl std::io::Write, opcode: OpCode, length: usize) {
    header(opcode).format(length as u64, out).expect("there is room for it");
}

/// Turns the bytes of a WebSocket into commands.
///
/// Bytes are copied once, to be unmasked, and are read a bounded number of times however the bytes are split between
/// reads. Between messages, and between reads, the decoder keeps no heap memory except the request of a client without
/// a `hello`.
#[derive(Default)]
struct FrameDecoder {
    /// The protocol in the messages.
    requests: v1::RequestDecoder,
    /// The request that began the connection, until the `hello`.
    request: Option<Box<HttpRequest>>,
    /// The unmasked payload of the unfinished text message. Within a read its memory is reused.
    message: Vec<u8>,
    /// The bytes of `message` up to here are known to be UTF-8.
    checked: usize,
    /// The unmasked payload of a ping, pong or close, which may come between the frames of a message.
    control: Vec<u8>,
    /// The frame with an unfinished payload.
    frame: Option<Frame>,
    /// The beginning of an unfinished header.
    header: [u8; HEADER_BYTES_MAX],
    header_len: u8,
    /// Whether `message` continues in another frame.
    fragmented: bool,
    /// The last command or a fatal error was returned; further bytes mean nothing.
    over: bool,
}

/// A frame whose header has been read.
#[derive(Clone, Copy)]
struct Frame {
    kind: Kind,
    /// Whether the frame ends its message.
    is_final: bool,
    /// The mask, rotated to the next byte of the payload.
    mask: [u8; 4],
    /// Bytes of the payload still to come.
    remaining: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// A text message or its continuation.
    Text,
    Ping,
    Pong,
    Close,
}

impl Decoder for FrameDecoder {
    fn decode(&mut self, input: &mut &[u8], limits: &Limits) -> Option<Result<Command, FrameError>> {
        let decoded = loop {
            if self.over {
                *input = &[];
                break None;
            }
            let frame = match self.frame.take() {
                Some(frame) => frame,
                None => match self.take_header(input, limits) {
                    None => break None,
                    Some(Ok(frame)) => frame,
                    Some(Err(error)) => break Some(Err(error)),
                },
            };
            match self.take_payload(frame, input, limits) {
                None if self.frame.is_some() => break None,
                None => {}
                Some(Err(error)) if !error.is_fatal() => break Some(Ok(Command::Refused(error))),
                decoded => break decoded,
            }
        };
        match &decoded {
            None => {
                self.requests.end_of_read();
                if self.message.is_empty() {
                    self.message = Vec::new();
                }
                if self.control.is_empty() {
                    self.control = Vec::new();
                }
            }
            Some(Ok(Command::Close(_)) | Err(_)) => self.end(),
            Some(Ok(_)) => {}
        }
        decoded
    }

    fn finish(&mut self, _limits: &Limits) -> Option<Result<Command, FrameError>> {
        let cut = self.is_mid_frame().then(unfinished).map(Err);
        self.end();
        cut
    }

    fn is_mid_frame(&self) -> bool {
        self.header_len > 0 || self.frame.is_some() || self.fragmented
    }

    fn request(&self) -> Option<&HttpRequest> {
        self.request.as_deref()
    }

    fn buffered(&self) -> usize {
        self.message.len() + self.control.len() + usize::from(self.header_len)
    }

    fn memory(&self) -> usize {
        let request = self.request.as_ref().map_or(0, |request| request.memory());
        self.message.capacity() + self.control.capacity() + request
    }
}

impl Rests for FrameDecoder {
    /// Whether the `hello` has come.
    type Rest = bool;

    fn rest(&self) -> Option<bool> {
        (!self.over && !self.is_mid_frame() && self.request.is_none()).then(|| self.requests.is_opened())
    }

    fn resume(opened: &bool) -> Self {
        Self { requests: v1::RequestDecoder::continued(*opened), ..Self::default() }
    }
}

impl FrameDecoder {
    fn end(&mut self) {
        *self = Self { over: true, ..Self::default() };
    }

    /// The header of the next frame, or `None` if the header is incomplete.
    fn take_header(&mut self, input: &mut &[u8], limits: &Limits) -> Option<Result<Frame, FrameError>> {
        let kept = usize::from(self.header_len);
        if kept == 0
            && !self.fragmented
            && let Some((frame, rest)) = whole_message(input, limits)
        {
            *input = rest;
            return Some(Ok(frame));
        }
        let fresh = input.len().min(HEADER_BYTES_MAX - kept);
        self.header[kept..kept + fresh].copy_from_slice(&input[..fresh]);
        let mut cursor = Cursor::new(&self.header[..kept + fresh]);
        match FrameHeader::parse(&mut cursor) {
            Ok(None) => {
                self.header_len += fresh as u8;
                *input = &[];
                None
            }
            Ok(Some((header, length))) => {
                let size = cursor.position() as usize;
                *input = &input[size - kept..];
                self.header_len = 0;
                Some(self.check_header(&header, size, length, limits))
            }
            Err(_) => Some(Err(bad_frame("unknown opcode"))),
        }
    }

    /// Checks a header, and returns the announced frame.
    fn check_header(
        &mut self,
        header: &FrameHeader,
        size: usize,
        length: u64,
        limits: &Limits,
    ) -> Result<Frame, FrameError> {
        let FrameHeader { is_final, rsv1, rsv2, rsv3, opcode, mask } = *header;
        if rsv1 || rsv2 || rsv3 {
            return Err(bad_frame("reserved bits must be 0: no extension is in use"));
        }
        let Some(mask) = mask else { return Err(bad_frame("frames of a client must be masked")) };
        if size != header.len(length) || length >> 63 != 0 {
            return Err(bad_frame("the length of a frame must be encoded in the fewest bytes"));
        }
        let kind = match opcode {
            OpCode::Control(opcode) => {
                if !is_final || length > CONTROL_BYTES_MAX as u64 {
                    return Err(bad_frame(
                        "a ping, pong or close must be a single frame with at most 125 bytes of payload",
                    ));
                }
                match opcode {
                    Control::Ping => Kind::Ping,
                    Control::Pong => Kind::Pong,
                    _ => Kind::Close,
                }
            }
            OpCode::Data(opcode) => {
                match (opcode, self.fragmented) {
                    (Data::Continue, true) | (Data::Text, false) => {}
                    (Data::Continue, false) => return Err(bad_frame("continuation without a message to continue")),
                    (_, true) => return Err(bad_frame("a message must end before the next message begins")),
                    (_, false) => {
                        return Err(FrameError::new(
                            ErrorCode::UnsupportedFrame,
                            "binary messages are not supported: send text messages",
                        ));
                    }
                }
                let max = limits.max_frame_bytes;
                if usize::try_from(length).map_or(true, |length| length > max.saturating_sub(self.message.len())) {
                    return Err(FrameError::new(
                        ErrorCode::FrameTooLarge,
                        format!("message longer than the limit of {max} bytes"),
                    ));
                }
                self.fragmented = !is_final;
                Kind::Text
            }
        };
        // Checked above: the length fits in a `usize`.
        Ok(Frame { kind, is_final, mask, remaining: length as usize })
    }

    /// Takes the available part of a frame's payload; the last part completes the frame and may give a command.
    fn take_payload(
        &mut self,
        mut frame: Frame,
        input: &mut &[u8],
        limits: &Limits,
    ) -> Option<Result<Command, FrameError>> {
        let (piece, rest) = input.split_at(frame.remaining.min(input.len()));
        *input = rest;
        let payload = if frame.kind == Kind::Text { &mut self.message } else { &mut self.control };
        let start = payload.len();
        payload.extend_from_slice(piece);
        unmask(&mut payload[start..], frame.mask);
        frame.remaining -= piece.len();
        if frame.remaining > 0 {
            frame.mask.rotate_left(piece.len() % 4);
            self.frame = Some(frame);
        }
        match frame {
            Frame { kind: Kind::Text, is_final: true, remaining: 0, .. } => Some(self.end_message(rest.len(), limits)),
            Frame { kind: Kind::Text, .. } => self.check_text().err().map(Err),
            Frame { remaining: 0, .. } => self.end_control(frame.kind).transpose(),
            _ => None,
        }
    }

    /// Reads a complete message, and makes room for the next. `more` is the number of bytes of the same read after the
    /// message.
    fn end_message(&mut self, more: usize, limits: &Limits) -> Result<Command, FrameError> {
        let asked = self.read_message(more, limits);
        self.message.clear();
        self.checked = 0;
        asked
    }

    fn read_message(&mut self, more: usize, limits: &Limits) -> Result<Command, FrameError> {
        let text = text(&self.message)?;
        if let Some(command) = self.requests.repeated(text, more) {
            return Ok(command);
        }
        let mut command = match self.requests.decode_afresh(text, more, limits)? {
            v1::Request::Command(command) => command,
            v1::Request::Ping => {
                let mut pong = BytesMut::new();
                put_text(&mut pong, |out| out.put_slice(v1::PONG.as_bytes()));
                Command::Answer(pong.freeze())
            }
        };
        if let Command::Open(open) = &mut command {
            open.request = self.request.take();
        }
        Ok(command)
    }

    /// Refuses invalid UTF-8 before the rest of the message comes.
    fn check_text(&mut self) -> Result<(), FrameError> {
        match str::from_utf8(&self.message[self.checked..]) {
            Ok(text) => self.checked += text.len(),
            Err(error) if error.error_len().is_none() => self.checked += error.valid_up_to(),
            Err(error) => return Err(bad_utf8(self.checked + error.valid_up_to())),
        }
        Ok(())
    }

    fn end_control(&mut self, kind: Kind) -> Result<Option<Command>, FrameError> {
        let payload = mem::take(&mut self.control);
        Ok(match kind {
            Kind::Ping => Some(Command::Answer(control_frame(Control::Pong, &payload))),
            // The server sends no pings before the connection is open.
            Kind::Pong => self.requests.is_opened().then_some(Command::Pong),
            Kind::Text | Kind::Close => Some(Command::Close(answer_close(&payload)?)),
        })
    }
}

/// The header of an unfragmented text message within the limits, and the input after it; `None` for any other header, good
/// or bad. Nearly all headers of a publisher are such, and to read them as one of all possible headers would take as long
/// as to unmask the message.
#[inline]
fn whole_message<'i>(input: &'i [u8], limits: &Limits) -> Option<(Frame, &'i [u8])> {
    const MASKED: u8 = 0x80;
    const LONG: u8 = MASKED | 126;
    let (length, rest) = match input {
        [TEXT, short @ MASKED..LONG, rest @ ..] => (usize::from(short - MASKED), rest),
        [TEXT, LONG, high, low, rest @ ..] => (usize::from(u16::from_be_bytes([*high, *low])), rest),
        _ => return None,
    };
    let (mask, rest) = rest.split_first_chunk()?;
    let is_long = input[1] == LONG;
    let is_shortest = is_long == (length > CONTROL_BYTES_MAX);
    let frame = Frame { kind: Kind::Text, is_final: true, mask: *mask, remaining: length };
    (is_shortest && length <= limits.max_frame_bytes).then_some((frame, rest))
}

/// The close frame that answers a client's close, with the same code.
fn answer_close(payload: &[u8]) -> Result<Bytes, FrameError> {
    let code = match payload.split_first_chunk() {
        None if payload.is_empty() => &[],
        None => return Err(bad_frame("the code of a close must have two bytes")),
        Some((code, reason)) => {
            if !CloseCode::from(u16::from_be_bytes(*code)).is_allowed() {
                return Err(bad_frame("invalid code in a close"));
            }
            text(reason)?;
            &code[..]
        }
    };
    Ok(control_frame(Control::Close, code))
}

fn unmask(payload: &mut [u8], mask: [u8; 4]) {
    let word = u32::from_ne_bytes(mask);
    let (blocks, rest) = payload.as_chunks_mut();
    for block in blocks {
        *block = (u32::from_ne_bytes(*block) ^ word).to_ne_bytes();
    }
    for (byte, mask) in rest.iter_mut().zip(mask) {
        *byte ^= mask;
    }
}

fn bad_frame(message: &str) -> FrameError {
    FrameError::new(ErrorCode::BadFrame, message)
}

#[cfg(test)]
mod tests;
