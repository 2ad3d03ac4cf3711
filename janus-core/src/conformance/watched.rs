//! A codec under observation: panics, and decoders that do not advance.
//!
//! A panic in a decoder ends the connection, and looks like a close to the client. A decoder that returns commands for
//! ever without taking bytes is not visible to the client at all. The wrapper in this file notes both.

use std::any::Any;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;

use bytes::BytesMut;
use parking_lot::Mutex;

use crate::wire::{Answers, Codec, Command, Decoder, FrameError, Heartbeat, Limits, Opens, ServerEvent, Timestamp};

/// The first fault of the codec. Later faults may be consequences, and are not kept.
#[derive(Clone, Debug, Default)]
pub(super) struct Notes(Arc<Mutex<Option<String>>>);

impl Notes {
    pub(super) fn first(&self) -> Option<String> {
        self.0.lock().clone()
    }

    fn take_down(&self, note: impl Into<String>) {
        self.0.lock().get_or_insert_with(|| note.into());
    }

    /// Notes a panic of `act`, then resumes the panic.
    fn watch<T>(&self, what: &str, act: impl FnOnce() -> T) -> T {
        catch_unwind(AssertUnwindSafe(act)).unwrap_or_else(|panic| {
            self.take_down(format!("the {what} panicked: {}", text(&*panic)));
            resume_unwind(panic)
        })
    }
}

fn text(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("without a message")
}

/// The author's codec, wrapped for the server.
pub(super) struct Watched {
    codec: Arc<dyn Codec>,
    notes: Notes,
}

impl Watched {
    pub(super) fn new(codec: &Arc<dyn Codec>, notes: &Notes) -> Self {
        Self { codec: Arc::clone(codec), notes: notes.clone() }
    }
}

impl fmt::Debug for Watched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.codec.fmt(f)
    }
}

impl Codec for Watched {
    fn name(&self) -> &'static str {
        self.codec.name()
    }

    fn decoder(&self) -> Box<dyn Decoder> {
        let decoder = self.notes.watch("codec", || self.codec.decoder());
        Box::new(WatchedDecoder { decoder, notes: self.notes.clone(), idle: 0, idle_errors: 0 })
    }

    fn encode(&self, event: &ServerEvent<'_>, at: &Timestamp, out: &mut BytesMut) {
        self.notes.watch("encoder", || self.codec.encode(event, at, out));
    }

    fn opens(&self) -> Opens {
        self.codec.opens()
    }

    fn tells_gaps(&self) -> bool {
        self.codec.tells_gaps()
    }

    fn conflates(&self) -> bool {
        self.codec.conflates()
    }

    fn heartbeat(&self) -> Heartbeat {
        self.codec.heartbeat()
    }

    fn answers(&self) -> Answers {
        self.codec.answers()
    }

    fn successors(&self) -> Vec<Arc<dyn Codec>> {
        let watch = |codec: &Arc<dyn Codec>| Arc::new(Self::new(codec, &self.notes)) as Arc<dyn Codec>;
        self.codec.successors().iter().map(watch).collect()
    }
}

/// The number of results in a row, without a byte taken, at which a decoder is considered stuck. A frame may yield
/// several commands, but not so many.
const MAX_IDLE: u32 = 10_000;

/// The number of errors in a row, without a byte taken, at which a decoder is still considered sound. An `Err` refuses
/// a frame, and a refused frame is taken. Only the first such error may concern a frame from an earlier call; several
/// refusals of one frame are [`Command::Refused`]. Without this limit a server answers the same bytes with errors until
/// the queue of the client is full, and the check sees a refused client.
const MAX_IDLE_ERRORS: u32 = 1;

struct WatchedDecoder {
    decoder: Box<dyn Decoder>,
    notes: Notes,
    /// Results since the last byte was taken.
    idle: u32,
    /// Errors since the last byte was taken, or since the last command.
    idle_errors: u32,
}

impl Decoder for WatchedDecoder {
    fn decode(&mut self, input: &mut &[u8], limits: &Limits) -> Option<Result<Command, FrameError>> {
        let before = input.len();
        let decoded = self.notes.watch("decoder", || self.decoder.decode(input, limits));
        let took = input.len() < before;
        self.idle = if took { 0 } else { self.idle + 1 };
        self.idle_errors = if !took && matches!(decoded, Some(Err(_))) { self.idle_errors + 1 } else { 0 };
        if decoded.is_none() {
            self.idle = 0;
            if !input.is_empty() {
                let left = format!("the decoder returned None and left {} bytes; take all input first", input.len());
                self.notes.take_down(left);
            }
        } else if self.idle > MAX_IDLE || self.idle_errors > MAX_IDLE_ERRORS {
            let stuck = "the decoder returns commands for ever without taking bytes; take the bytes of each frame";
            self.notes.take_down(stuck);
            return None;
        }
        decoded
    }

    fn finish(&mut self, limits: &Limits) -> Option<Result<Command, FrameError>> {
        self.notes.watch("decoder, at the end of the stream,", || self.decoder.finish(limits))
    }

    fn is_mid_frame(&self) -> bool {
        self.decoder.is_mid_frame()
    }

    fn buffered(&self) -> usize {
        self.decoder.buffered()
    }

    fn memory(&self) -> usize {
        self.decoder.memory()
    }

    fn successor(&mut self) -> Option<(usize, Box<dyn Decoder>)> {
        let (place, decoder) = self.notes.watch("decoder", || self.decoder.successor())?;
        Some((place, Box::new(Self { decoder, notes: self.notes.clone(), idle: 0, idle_errors: 0 })))
    }

    fn take_received(&mut self) -> Vec<u8> {
        self.decoder.take_received()
    }
}
