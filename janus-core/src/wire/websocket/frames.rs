//! Turns the bytes of a WebSocket into messages, and the messages into commands.

use std::io::Cursor;
use std::mem;
use std::ops::Range;

use bytes::Bytes;
use tungstenite::protocol::frame::FrameHeader;
use tungstenite::protocol::frame::coding::{CloseCode, Control, Data, OpCode};

use super::messages::{ClientMessage, bad_frame, control_frame};
use super::protocol::{MessageDecoder, Reading, Takes};
use super::{BINARY, CONTROL_BYTES_MAX, TEXT};
use crate::wire::request::{bad_utf8, text, unfinished};
use crate::wire::{ClientId, Command, Decoder, ErrorCode, FrameError, HttpRequest, Limits, Open, Opens};

/// Bytes of the longest header: a masked frame with an eight-byte length.
pub(super) const HEADER_BYTES_MAX: usize = 14;

/// The decoder of a WebSocket.
///
/// Bytes are copied once, to be unmasked, and are read a bounded number of times however the bytes are split between
/// reads. Between messages, and between reads, there is no heap memory except that of the protocol's own decoder, and the
/// request of a client whose connection is not open.
pub(super) struct FrameDecoder<D: MessageDecoder> {
    /// Reads the messages.
    pub(super) requests: D,
    stage: Stage,
    /// Exists from the first byte of a read to the end of the last message.
    pub(super) framing: Option<Box<Framing<D::Scratch>>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// The decoder of the messages has not said its first command.
    Begins(Opens),
    /// The connection is to be opened before anything is read.
    OpensAtOnce,
    /// The decoder of the messages has not opened the connection.
    Unopened,
    Opened,
    /// The last command or a fatal error was returned; further bytes mean nothing.
    Over,
}

/// What is known in the middle of a read, and in the middle of a message.
#[derive(Debug, Default)]
pub(super) struct Framing<S> {
    scratch: S,
    /// The request that began the connection, until the connection is opened.
    pub(super) request: Option<Box<HttpRequest>>,
    /// The unmasked payload of the unfinished message. Within a read its memory is reused.
    pub(super) message: Vec<u8>,
    /// The bytes of `message` up to here are known to be UTF-8.
    checked: usize,
    /// The rest of a message with several requests.
    rest: Option<Box<Rest>>,
    /// The unmasked payload of a ping, pong or close, which may come between the frames of a message.
    pub(super) control: Vec<u8>,
    /// The frame with an unfinished payload.
    frame: Option<Frame>,
    /// The beginning of an unfinished header.
    header: [u8; HEADER_BYTES_MAX],
    header_len: u8,
    /// Whether `message` continues in another frame.
    fragmented: bool,
    /// Whether the message under way is binary.
    is_binary: bool,
}

/// A complete message of which the first requests have been read.
#[derive(Debug)]
struct Rest {
    message: Whole,
    /// The place of the requests to come.
    left: Range<usize>,
}

#[derive(Debug)]
enum Whole {
    Text(String),
    Binary(Vec<u8>),
}

/// A frame whose header has been read.
#[derive(Clone, Copy, Debug)]
struct Frame {
    kind: Kind,
    /// Whether the frame ends its message.
    is_final: bool,
    /// The mask, rotated to the next byte of the payload.
    mask: [u8; 4],
    /// Bytes of the payload still to come.
    remaining: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// A message or its continuation.
    Message,
    Ping,
    Pong,
    Close,
}

impl<D: MessageDecoder> FrameDecoder<D> {
    pub(super) fn new(requests: D, opens: Opens, request: Option<HttpRequest>) -> Self {
        let stage = Stage::Begins(opens);
        let framing =
            request.map(|request| Box::new(Framing { request: Some(Box::new(request)), ..Framing::default() }));
        Self { requests, stage, framing }
    }

    #[cold]
    fn begin(&mut self, opens: Opens) -> Option<Command> {
        let first = self.requests.begin();
        self.stage = match (&first, opens) {
            (Some(Command::Close(_)), _) => Stage::Over,
            (_, Opens::AtOnce) => Stage::OpensAtOnce,
            (_, Opens::WhenAsked) => Stage::Unopened,
        };
        first
    }

    #[cold]
    fn open_at_once(&mut self) -> Command {
        self.stage = Stage::Opened;
        let request = self.framing.as_mut().and_then(|framing| framing.request.take());
        Command::Open(Box::new(Open { request, ..Open::default() }))
    }

    fn end(&mut self) {
        self.stage = Stage::Over;
        self.framing = None;
    }
}

impl<D: MessageDecoder> Decoder for FrameDecoder<D> {
    fn decode(&mut self, input: &mut &[u8], limits: &Limits) -> Option<Result<Command, FrameError>> {
        if let Stage::Begins(opens) = self.stage
            && let Some(first) = self.begin(opens)
        {
            return Some(Ok(first));
        }
        match self.stage {
            Stage::OpensAtOnce => return Some(Ok(self.open_at_once())),
            Stage::Over => {
                *input = &[];
                return None;
            }
            Stage::Begins(_) | Stage::Unopened | Stage::Opened => {}
        }
        if input.is_empty() && self.framing.is_none() {
            return None;
        }
        let mut framing = self.framing.take().unwrap_or_default();
        let is_opened = self.stage == Stage::Opened;
        let mut decoded = framing.decode(&mut self.requests, is_opened, input, limits);
        match &mut decoded {
            None => {
                framing.end_read();
                self.framing = Some(framing).filter(|framing| !framing.rests());
            }
            Some(Ok(Command::Close(_)) | Err(_)) => self.stage = Stage::Over,
            Some(Ok(command)) => {
                if let Command::Open(open) = command {
                    self.stage = Stage::Opened;
                    open.request = framing.request.take().or_else(|| open.request.take());
                }
                self.framing = Some(framing);
            }
        }
        decoded
    }

    fn opened(&mut self, session: &str, client: ClientId) {
        self.requests.opened(session, client);
    }

    fn finish(&mut self, _limits: &Limits) -> Option<Result<Command, FrameError>> {
        let cut = self.is_mid_frame().then(unfinished).map(Err);
        self.end();
        cut
    }

    fn is_mid_frame(&self) -> bool {
        self.framing.as_ref().is_some_and(|framing| framing.is_mid_frame())
    }

    fn request(&self) -> Option<&HttpRequest> {
        self.framing.as_ref()?.request.as_deref()
    }

    fn buffered(&self) -> usize {
        self.framing.as_ref().map_or(0, |framing| framing.buffered())
    }

    fn memory(&self) -> usize {
        self.requests.memory() + self.framing.as_ref().map_or(0, |framing| framing.memory())
    }
}

impl<S: Default> Framing<S> {
    fn decode<D: MessageDecoder<Scratch = S>>(
        &mut self,
        requests: &mut D,
        is_opened: bool,
        input: &mut &[u8],
        limits: &Limits,
    ) -> Option<Result<Command, FrameError>> {
        if self.rest.is_some()
            && let Some(decoded) = self.read_on(requests, input.len(), limits)
        {
            return Some(softened(decoded));
        }
        loop {
            let frame = match self.frame.take() {
                Some(frame) => frame,
                None => match self.take_header::<D>(input, limits)? {
                    Ok(frame) => frame,
                    Err(error) => return Some(Err(error)),
                },
            };
            match self.take_payload(frame, requests, input, limits) {
                None if self.frame.is_some() => return None,
                // The server sends no pings before the connection is open.
                Some(Ok(Command::Pong)) if frame.kind == Kind::Pong && !is_opened => {}
                None => {}
                Some(decoded) => return Some(softened(decoded)),
            }
        }
    }

    fn is_mid_frame(&self) -> bool {
        self.header_len > 0 || self.frame.is_some() || self.fragmented
    }

    fn buffered(&self) -> usize {
        let rest = self.rest.as_ref().map_or(0, |rest| rest.message.bytes().len());
        self.message.len() + rest + self.control.len() + usize::from(self.header_len)
    }

    fn memory(&self) -> usize {
        let request = self.request.as_ref().map_or(0, |request| request.memory());
        let rest = self.rest.as_ref().map_or(0, |rest| rest.message.bytes().len() + size_of::<Rest>());
        self.message.capacity() + rest + self.control.capacity() + request
    }

    /// Gives up what lasts for one read.
    fn end_read(&mut self) {
        self.scratch = S::default();
        if self.message.is_empty() {
            self.message = Vec::new();
        }
        if self.control.is_empty() {
            self.control = Vec::new();
        }
    }

    /// Whether nothing is known but what a new decoder knows.
    fn rests(&self) -> bool {
        !self.is_mid_frame() && self.request.is_none()
    }

    /// The header of the next frame, or `None` if the header is incomplete.
    fn take_header<D: MessageDecoder>(
        &mut self,
        input: &mut &[u8],
        limits: &Limits,
    ) -> Option<Result<Frame, FrameError>> {
        let kept = usize::from(self.header_len);
        if kept == 0
            && !self.fragmented
            && let Some((frame, is_binary, rest)) = whole_message::<D>(input, limits)
        {
            *input = rest;
            self.is_binary = is_binary;
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
                Some(self.check_header::<D>(&header, size, length, limits))
            }
            Err(_) => Some(Err(bad_frame("unknown opcode"))),
        }
    }

    /// Checks a header, and returns the announced frame.
    fn check_header<D: MessageDecoder>(
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
                self.check_kind::<D>(opcode)?;
                let max = limits.max_frame_bytes;
                if usize::try_from(length).map_or(true, |length| length > max.saturating_sub(self.message.len())) {
                    return Err(FrameError::new(
                        ErrorCode::FrameTooLarge,
                        format!("message longer than the limit of {max} bytes"),
                    ));
                }
                self.fragmented = !is_final;
                Kind::Message
            }
        };
        // Checked above: the length fits in a `usize`.
        Ok(Frame { kind, is_final, mask, remaining: length as usize })
    }

    /// Whether a frame of a message of this kind may come now.
    fn check_kind<D: MessageDecoder>(&mut self, opcode: Data) -> Result<(), FrameError> {
        let unsupported = |message: &str| Err(FrameError::new(ErrorCode::UnsupportedFrame, message));
        match (opcode, self.fragmented) {
            (Data::Continue, true) => Ok(()),
            (Data::Continue, false) => Err(bad_frame("continuation without a message to continue")),
            (_, true) => Err(bad_frame("a message must end before the next message begins")),
            (Data::Text, false) if D::TAKES == Takes::Binary => {
                unsupported("text messages are not supported: send binary messages")
            }
            (Data::Text, false) => {
                self.is_binary = false;
                Ok(())
            }
            (_, false) if D::TAKES == Takes::Text => {
                unsupported("binary messages are not supported: send text messages")
            }
            (_, false) => {
                self.is_binary = true;
                Ok(())
            }
        }
    }

    /// Takes the available part of a frame's payload; the last part completes the frame and may give a command.
    fn take_payload<D: MessageDecoder<Scratch = S>>(
        &mut self,
        mut frame: Frame,
        requests: &mut D,
        input: &mut &[u8],
        limits: &Limits,
    ) -> Option<Result<Command, FrameError>> {
        let (piece, rest) = input.split_at(frame.remaining.min(input.len()));
        *input = rest;
        let payload = if frame.kind == Kind::Message { &mut self.message } else { &mut self.control };
        let start = payload.len();
        payload.extend_from_slice(piece);
        unmask(&mut payload[start..], frame.mask);
        frame.remaining -= piece.len();
        if frame.remaining > 0 {
            frame.mask.rotate_left(piece.len() % 4);
            self.frame = Some(frame);
        }
        match frame {
            Frame { kind: Kind::Message, is_final: true, remaining: 0, .. } => {
                self.end_message(requests, rest.len(), limits)
            }
            Frame { kind: Kind::Message, .. } => self.check_text().err().map(Err),
            Frame { remaining: 0, .. } => Some(self.end_control(frame.kind)),
            _ => None,
        }
    }

    /// Reads a complete message, and makes room for the next. `more` is the number of bytes of the same read after the
    /// message.
    fn end_message<D: MessageDecoder<Scratch = S>>(
        &mut self,
        requests: &mut D,
        more: usize,
        limits: &Limits,
    ) -> Option<Result<Command, FrameError>> {
        let mut message = match self.is_binary {
            true => ClientMessage::Binary(&self.message),
            false => match text(&self.message) {
                Ok(text) => ClientMessage::Text(text),
                Err(error) => return Some(Err(error)),
            },
        };
        let decoded = requests.decode(&mut message, &mut Reading { limits, more, scratch: &mut self.scratch });
        let left = message.bytes();
        if !left.is_empty() && left.len() < self.message.len() && decoded.is_some() {
            let place =
                place_of(left, &self.message).filter(|_| matches!(message, ClientMessage::Binary(_)) == self.is_binary);
            let foreign = if place.is_none() { Some(Whole::of(&message)) } else { None };
            self.keep_rest(place, foreign);
        }
        self.message.clear();
        self.checked = 0;
        decoded
    }

    /// Keeps the message for the requests behind the first, or what the decoder has put in the message's place.
    #[cold]
    fn keep_rest(&mut self, place: Option<Range<usize>>, foreign: Option<Whole>) {
        let (Some(left), None) = (place, &foreign) else {
            self.rest = foreign.map(|message| Box::new(Rest { left: 0..message.bytes().len(), message }));
            return;
        };
        let message = mem::take(&mut self.message);
        let message = match self.is_binary {
            true => Whole::Binary(message),
            false => Whole::Text(String::from_utf8(message).expect("the message is known to be UTF-8")),
        };
        self.rest = Some(Box::new(Rest { message, left }));
    }

    /// Reads the next request of a message with several.
    fn read_on<D: MessageDecoder<Scratch = S>>(
        &mut self,
        requests: &mut D,
        more: usize,
        limits: &Limits,
    ) -> Option<Result<Command, FrameError>> {
        let mut rest = self.rest.take()?;
        let mut message = match &rest.message {
            Whole::Text(text) => ClientMessage::Text(&text[rest.left.clone()]),
            Whole::Binary(bytes) => ClientMessage::Binary(&bytes[rest.left.clone()]),
        };
        let before = message.bytes().len();
        let decoded = requests.decode(&mut message, &mut Reading { limits, more, scratch: &mut self.scratch });
        let left = message.bytes();
        if !left.is_empty() && left.len() < before && decoded.is_some() {
            let is_alike = matches!(message, ClientMessage::Binary(_)) == matches!(rest.message, Whole::Binary(_));
            match place_of(left, rest.message.bytes()).filter(|_| is_alike) {
                Some(place) => rest.left = place,
                None => *rest = Rest { left: 0..left.len(), message: Whole::of(&message) },
            }
            self.rest = Some(rest);
        }
        decoded
    }

    /// Refuses invalid UTF-8 before the rest of the message comes.
    fn check_text(&mut self) -> Result<(), FrameError> {
        if self.is_binary {
            return Ok(());
        }
        match str::from_utf8(&self.message[self.checked..]) {
            Ok(text) => self.checked += text.len(),
            Err(error) if error.error_len().is_none() => self.checked += error.valid_up_to(),
            Err(error) => return Err(bad_utf8(self.checked + error.valid_up_to())),
        }
        Ok(())
    }

    fn end_control(&mut self, kind: Kind) -> Result<Command, FrameError> {
        let payload = mem::take(&mut self.control);
        Ok(match kind {
            Kind::Ping => Command::Answer(control_frame(Control::Pong, &payload)),
            Kind::Pong => Command::Pong,
            Kind::Message | Kind::Close => Command::Close(answer_close(&payload)?),
        })
    }
}

/// The place of a part in a whole; `None` for bytes from elsewhere.
fn place_of(part: &[u8], whole: &[u8]) -> Option<Range<usize>> {
    let start = (part.as_ptr() as usize).checked_sub(whole.as_ptr() as usize)?;
    let end = start.checked_add(part.len())?;
    (end <= whole.len()).then_some(start..end)
}

impl Whole {
    fn of(message: &ClientMessage<'_>) -> Self {
        match *message {
            ClientMessage::Text(text) => Self::Text(text.to_owned()),
            ClientMessage::Binary(bytes) => Self::Binary(bytes.to_vec()),
        }
    }

    fn bytes(&self) -> &[u8] {
        match self {
            Self::Text(text) => text.as_bytes(),
            Self::Binary(bytes) => bytes,
        }
    }
}

/// An error that does not end the connection is a command among others.
#[inline]
fn softened(decoded: Result<Command, FrameError>) -> Result<Command, FrameError> {
    match decoded {
        Err(error) if !error.is_fatal() => Ok(Command::Refused(error)),
        decoded => decoded,
    }
}

/// The header of an unfragmented message within the limits, whether the message is binary, and the input after the header;
/// `None` for any other header, good or bad. Nearly all headers of a publisher are such, and to read them as one of all
/// possible headers would take as long as to unmask the message.
#[inline]
fn whole_message<'i, D: MessageDecoder>(input: &'i [u8], limits: &Limits) -> Option<(Frame, bool, &'i [u8])> {
    const MASKED: u8 = 0x80;
    const LONG: u8 = MASKED | 126;
    let is_binary = match *input.first()? {
        TEXT if D::TAKES != Takes::Binary => false,
        BINARY if D::TAKES != Takes::Text => true,
        _ => return None,
    };
    let (length, rest) = match &input[1..] {
        [short @ MASKED..LONG, rest @ ..] => (usize::from(short - MASKED), rest),
        [LONG, high, low, rest @ ..] => (usize::from(u16::from_be_bytes([*high, *low])), rest),
        _ => return None,
    };
    let (mask, rest) = rest.split_first_chunk()?;
    let is_long = input[1] == LONG;
    let is_shortest = is_long == (length > CONTROL_BYTES_MAX);
    let frame = Frame { kind: Kind::Message, is_final: true, mask: *mask, remaining: length };
    (is_shortest && length <= limits.max_frame_bytes).then_some((frame, is_binary, rest))
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

pub(super) fn unmask(payload: &mut [u8], mask: [u8; 4]) {
    let word = u32::from_ne_bytes(mask);
    let (blocks, rest) = payload.as_chunks_mut();
    for block in blocks {
        *block = (u32::from_ne_bytes(*block) ^ word).to_ne_bytes();
    }
    for (byte, mask) in rest.iter_mut().zip(mask) {
        *byte ^= mask;
    }
}
