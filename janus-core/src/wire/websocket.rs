//! WebSocket (RFC 6455), as a server speaks it, carrying [`janus.v1.json`](super::v1).
//!
//! [`WebSocket::accept`] answers the request that upgrades a connection; what comes after it is the [`Codec`]'s. Text
//! messages are frames of the protocol, pings are answered, extensions are not used. What a client sends is checked
//! strictly, since nothing can be trusted after a frame that breaks the rules. How a client frames what it sends is in
//! [`client`].

use std::io::Cursor;
use std::mem;

use bytes::{BufMut, Bytes, BytesMut};
use tungstenite::handshake::derive_accept_key;
use tungstenite::protocol::frame::FrameHeader;
use tungstenite::protocol::frame::coding::{CloseCode, Control, Data, OpCode};

use super::http::{NO_BODY, date};
use super::request::{bad_utf8, text, unfinished};
use super::{
    Answers, Codec, Command, Decoder, ErrorCode, Event, FrameError, Heartbeat, HttpRequest, Limits, Opens, Refusal,
    Timestamp, v1,
};

pub mod client;

/// The subprotocol that the messages are of.
pub const SUBPROTOCOL: &str = "janus.v1.json";

/// Bytes that the payload of a ping, a pong or a close may have.
const CONTROL_BYTES_MAX: usize = 125;

/// Bytes of the longest header, of a masked frame whose length takes eight bytes.
const HEADER_BYTES_MAX: usize = 14;

/// The codec of `janus.v1.json` over WebSocket.
///
/// An HTTP server that got a request to upgrade answers with [`accept`](Self::accept), and has the bytes that follow
/// decoded by [`decoder_for`](Self::decoder_for). Whether the request's `Origin` may connect is for that server to decide.
#[derive(Clone, Copy, Debug, Default)]
pub struct WebSocket;

impl WebSocket {
    /// Answers a request to upgrade: the head of the response, after which the connection is a WebSocket.
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
    /// What the request lacks, with the status to answer with.
    pub fn accept(request: &HttpRequest) -> Result<Bytes, UpgradeError> {
        let mut head = "HTTP/1.1 101 Switching Protocols\r\n".to_owned();
        for (name, value) in Self::accept_headers(request)? {
            head.extend([name, ": ", &value, "\r\n"]);
        }
        head.extend(["date: ", &date(), "\r\n\r\n"]);
        Ok(head.into())
    }

    /// The headers of that response, for an HTTP server that writes heads itself; the status is 101.
    ///
    /// # Errors
    ///
    /// As [`accept`](Self::accept).
    pub fn accept_headers(request: &HttpRequest) -> Result<Vec<(&'static str, String)>, UpgradeError> {
        let asks_for_head = request.method == "HEAD";
        if request.method != "GET" && !asks_for_head {
            return Err(UpgradeError::new(405, "open a WebSocket with GET"));
        }
        if request.is_http_1_0 {
            let message = "a WebSocket needs HTTP/1.1: the request, or a proxy, speaks HTTP/1.0";
            return Err(UpgradeError::new(400, message));
        }
        if request.has_body() {
            return Err(UpgradeError::new(400, NO_BODY));
        }
        // HEAD gets the head that GET without an upgrade gets: only GET opens a WebSocket (RFC 6455, 4.1).
        if asks_for_head || !tokens(request, "upgrade").any(|token| token.eq_ignore_ascii_case("websocket")) {
            return Err(UpgradeError::new(426, "this is a WebSocket: send \"upgrade: websocket\""));
        }
        if !tokens(request, "connection").any(|token| token.eq_ignore_ascii_case("upgrade")) {
            return Err(UpgradeError::new(
                400,
                "send \"connection: upgrade\", or have the proxies on the way pass it on",
            ));
        }
        if only(request, "sec-websocket-version") != Some("13") {
            return Err(UpgradeError::new(426, "speak version 13 of the WebSocket protocol"));
        }
        let key = only(request, "sec-websocket-key").filter(|key| is_key(key));
        let key = key.ok_or_else(|| UpgradeError::new(400, "send one \"sec-websocket-key\", 16 bytes in base64"))?;
        let mut subprotocols = tokens(request, "sec-websocket-protocol").peekable();
        let names_any = subprotocols.peek().is_some();
        let names_ours = subprotocols.any(|name| name == SUBPROTOCOL);
        if names_any && !names_ours {
            return Err(UpgradeError::new(400, "name \"janus.v1.json\" among the subprotocols, or name none"));
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

    /// The decoder of a connection that this request has upgraded. It gives the request with the client's
    /// [`Command::Open`], and does not keep it after that.
    #[must_use]
    pub fn decoder_for(request: HttpRequest) -> Box<dyn Decoder> {
        Box::new(FrameDecoder { request: Some(Box::new(request)), ..FrameDecoder::default() })
    }
}

/// Why a request does not open a WebSocket; whoever sent it is to blame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct UpgradeError {
    /// The status of the answer.
    pub status: u16,
    /// What the client should do, for a person to read.
    pub message: &'static str,
}

impl UpgradeError {
    fn new(status: u16, message: &'static str) -> Self {
        Self { status, message }
    }

    /// The headers that an answer with this status must have.
    #[must_use]
    pub fn headers(&self) -> &'static [(&'static str, &'static str)] {
        match self.status {
            405 => &[("allow", "GET")],
            426 => &[("upgrade", "websocket"), ("connection", "upgrade"), ("sec-websocket-version", "13")],
            _ => &[],
        }
    }
}

/// The tokens of all headers of a name that is a list.
fn tokens<'a>(request: &'a HttpRequest, name: &'a str) -> impl Iterator<Item = &'a str> {
    let headers = request.headers.iter().filter(move |(other, _)| other == name);
    headers.flat_map(|(_, value)| value.split(',')).map(str::trim).filter(|token| !token.is_empty())
}

/// The header of a name that must stand once.
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
        Box::new(FrameDecoder::default())
    }

    fn encode(&self, event: &Event<'_>, _at: &Timestamp, out: &mut BytesMut) {
        match event {
            Event::Bye(refusal) | Event::Refused(refusal) => {
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

    /// As RFC 6455 asks of every client (5.5.2).
    fn answers(&self) -> Answers {
        Answers::Always
    }
}

/// Appends a text frame, the payload of which `write` appends; nothing if it appends nothing.
fn put_text(out: &mut BytesMut, write: impl FnOnce(&mut BytesMut)) {
    let start = out.len();
    write(out);
    let length = out.len() - start;
    if length == 0 {
        return;
    }
    // What goes before the payload depends on its length, so the payload makes room: moving bytes that were just
    // written is cheaper than counting them beforehand.
    let opcode = OpCode::Data(Data::Text);
    let size = header(opcode).len(length as u64);
    out.put_bytes(0, size);
    out.copy_within(start..start + length, start + size);
    put_header(&mut &mut out[start..start + size], opcode, length);
}

fn put_close(out: &mut BytesMut, code: CloseCode, refusal: &Refusal<'_>) {
    // A client that is not told in a frame of the protocol has only this to read.
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

/// The header of a whole message from the server.
fn header(opcode: OpCode) -> FrameHeader {
    FrameHeader { opcode, ..FrameHeader::default() }
}

fn put_header(out: &mut impl std::io::Write, opcode: OpCode, length: usize) {
    header(opcode).format(length as u64, out).expect("there is room for it");
}

/// Turns the bytes of one WebSocket into commands.
///
/// Bytes are copied once, to where they are unmasked, and are looked at a bounded number of times however they were cut
/// into pieces. Between messages, and between reads, it keeps no heap memory but the request of a client that has not
/// said `hello`.
#[derive(Default)]
struct FrameDecoder {
    /// The protocol in the messages.
    requests: v1::Decoder,
    /// The request that began the connection, until the `hello`.
    request: Option<Box<HttpRequest>>,
    /// The payload, unmasked, of the text message that has not ended. Within a read its memory is used again.
    message: Vec<u8>,
    /// The bytes of `message` up to here are known to be UTF-8.
    checked: usize,
    /// The same of a ping, pong or close, which may come between the frames of a message.
    control: Vec<u8>,
    /// The frame whose payload has not ended.
    frame: Option<Frame>,
    /// The header that has not ended.
    header: [u8; HEADER_BYTES_MAX],
    header_len: u8,
    /// Whether `message` goes on in another frame.
    fragmented: bool,
    /// The last command or a fatal error was handed out; further bytes mean nothing.
    over: bool,
}

/// A frame whose header was read.
#[derive(Clone, Copy)]
struct Frame {
    kind: Kind,
    /// Whether its message ends with it.
    is_final: bool,
    /// What the next byte of the payload and those after it are masked with.
    mask: [u8; 4],
    /// Bytes of the payload that have not come.
    remaining: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// A text message or the continuation of one.
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
                Ok(None) if self.frame.is_some() => break None,
                Ok(None) => {}
                Ok(Some(command)) => break Some(Ok(command)),
                Err(error) if error.is_fatal() => break Some(Err(error)),
                Err(error) => break Some(Ok(Command::Refused(error))),
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

    fn buffered(&self) -> usize {
        self.message.len() + self.control.len() + usize::from(self.header_len)
    }

    fn memory(&self) -> usize {
        let request = self.request.as_ref().map_or(0, |request| request.memory());
        self.message.capacity() + self.control.capacity() + request
    }
}

impl FrameDecoder {
    fn end(&mut self) {
        *self = Self { over: true, ..Self::default() };
    }

    /// The next frame's header, or `None` if its end has not come.
    fn take_header(&mut self, input: &mut &[u8], limits: &Limits) -> Option<Result<Frame, FrameError>> {
        let kept = usize::from(self.header_len);
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
            Err(_) => Some(Err(bad_frame("no frame has this opcode"))),
        }
    }

    /// What a header announces, or why that cannot be taken.
    fn check_header(
        &mut self,
        header: &FrameHeader,
        size: usize,
        length: u64,
        limits: &Limits,
    ) -> Result<Frame, FrameError> {
        let FrameHeader { is_final, rsv1, rsv2, rsv3, opcode, mask } = *header;
        if rsv1 || rsv2 || rsv3 {
            return Err(bad_frame("no extension is in use; the reserved bits must be 0"));
        }
        let Some(mask) = mask else { return Err(bad_frame("a client must mask its frames")) };
        if size != header.len(length) || length >> 63 != 0 {
            return Err(bad_frame("a length must be written in as few bytes as it needs"));
        }
        let kind = match opcode {
            OpCode::Control(opcode) => {
                if !is_final || length > CONTROL_BYTES_MAX as u64 {
                    return Err(bad_frame("a ping, pong or close is one frame with at most 125 bytes of payload"));
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
                    (Data::Continue, false) => return Err(bad_frame("there is no message to continue")),
                    (_, true) => return Err(bad_frame("a message must end before the next begins")),
                    (_, false) => {
                        return Err(FrameError::new(
                            ErrorCode::UnsupportedFrame,
                            "send text messages; this protocol has no binary ones",
                        ));
                    }
                }
                let max = limits.max_frame_bytes;
                if usize::try_from(length).map_or(true, |length| length > max.saturating_sub(self.message.len())) {
                    return Err(FrameError::new(
                        ErrorCode::FrameTooLarge,
                        format!("a message must not be longer than {max} bytes"),
                    ));
                }
                self.fragmented = !is_final;
                Kind::Text
            }
        };
        // Both limits above fit.
        Ok(Frame { kind, is_final, mask, remaining: length as usize })
    }

    /// Takes what has come of a frame's payload, and says what it means if that is all of it.
    fn take_payload(
        &mut self,
        mut frame: Frame,
        input: &mut &[u8],
        limits: &Limits,
    ) -> Result<Option<Command>, FrameError> {
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
            Frame { kind: Kind::Text, is_final: true, remaining: 0, .. } => self.end_message(rest.len(), limits),
            Frame { kind: Kind::Text, .. } => self.check_text().map(|()| None),
            Frame { remaining: 0, .. } => self.end_control(frame.kind),
            _ => Ok(None),
        }
    }

    /// What a whole message says. `more` is how many bytes of the same read follow it.
    fn end_message(&mut self, more: usize, limits: &Limits) -> Result<Option<Command>, FrameError> {
        let asked = text(&self.message).and_then(|text| self.requests.decode(text, more, limits));
        self.message.clear();
        self.checked = 0;
        let mut command = match asked? {
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
        Ok(Some(command))
    }

    /// Refuses what can be no text before the rest of it comes.
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
            // Nothing was pinged before the connection opened.
            Kind::Pong => self.requests.is_opened().then_some(Command::Pong),
            Kind::Text | Kind::Close => Some(Command::Close(answer_close(&payload)?)),
        })
    }
}

/// The close frame that answers a client's: it says the same code.
fn answer_close(payload: &[u8]) -> Result<Bytes, FrameError> {
    let code = match payload.split_first_chunk() {
        None if payload.is_empty() => &[],
        None => return Err(bad_frame("the code of a close has two bytes")),
        Some((code, reason)) => {
            if !CloseCode::from(u16::from_be_bytes(*code)).is_allowed() {
                return Err(bad_frame("a close must not be sent with this code"));
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
