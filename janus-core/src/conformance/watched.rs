//! A codec under observation: what it does besides what it says.
//!
//! A panic in a decoder ends its connection, which a client cannot tell from a close; and one that takes nothing and
//! returns something for ever cannot be told at all. Here both leave a note.

use std::any::Any;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;

use bytes::BytesMut;
use parking_lot::Mutex;

use crate::wire::{Answers, Codec, Command, Decoder, Event, FrameError, Heartbeat, Limits, Opens, Timestamp};

/// What was noted first; the rest follows from it.
#[derive(Clone, Debug, Default)]
pub(super) struct Notes(Arc<Mutex<Option<String>>>);

impl Notes {
    pub(super) fn first(&self) -> Option<String> {
        self.0.lock().clone()
    }

    fn take_down(&self, note: impl Into<String>) {
        self.0.lock().get_or_insert_with(|| note.into());
    }

    /// Lets a panic go on after it was noted.
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

/// The codec of the author, which the server believes to be another.
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

    fn encode(&self, event: &Event<'_>, at: &Timestamp, out: &mut BytesMut) {
        self.notes.watch("encoder", || self.codec.encode(event, at, out));
    }

    fn opens(&self) -> Opens {
        self.codec.opens()
    }

    fn tells_gaps(&self) -> bool {
        self.codec.tells_gaps()
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

/// Commands in a row for which nothing is taken. A decoder may keep some; one that keeps so many keeps them for ever.
const MAX_IDLE: u32 = 10_000;

/// The same for errors. A decoder keeps none of them: what was wrong has been taken.
const MAX_IDLE_ERRORS: u32 = 8;

struct WatchedDecoder {
    decoder: Box<dyn Decoder>,
    notes: Notes,
    /// Commands since something was taken.
    idle: u32,
    /// Errors since something was taken, or a command came.
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
                self.notes.take_down(format!("the decoder returned None and left {} bytes", input.len()));
            }
        } else if self.idle > MAX_IDLE || self.idle_errors > MAX_IDLE_ERRORS {
            self.notes.take_down("the decoder returns commands for ever and takes no bytes for them");
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
