//! The wire formats of an instance, by number: a slot and a subscription name theirs in a byte.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;

use crate::ground::clock::timestamp;
use crate::ground::log_lines::LogLines;
use crate::supervision::ExitReason;
use crate::wire::classic::Classic;
use crate::wire::{Answers, Codec, Heartbeat, Opens, ServerEvent};

/// The number of a codec in an instance.
pub(crate) type CodecId = u8;

/// The number of the classic protocol, in which a topic's messages are kept.
pub(crate) const CLASSIC: CodecId = 0;

/// The limit of codecs in one instance. A number must fit into a byte next to a flag, and no program speaks this many.
pub(crate) const MAX_CODECS: usize = 64;

/// See the module's documentation. Codecs are added and never removed.
pub(crate) struct Codecs {
    codecs: [OnceLock<Registered>; MAX_CODECS],
    /// The number of codecs; locked while a codec is added.
    count: Mutex<usize>,
    /// For lines about panics: what panics for one client may panic for each.
    lines: LogLines,
    begun: Instant,
}

/// A codec, with the answers to frequent questions.
struct Registered {
    codec: Arc<dyn Codec>,
    name: &'static str,
    tells_gaps: bool,
    conflates: bool,
    opens: Opens,
    heartbeat: Heartbeat,
    answers: Answers,
    refreshes: bool,
    successors: Vec<CodecId>,
    /// Open connections.
    open: AtomicUsize,
}

/// More codecs than an instance can tell apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an instance knows at most {MAX_CODECS} codecs: make each codec once, and share it between connections")]
pub struct TooManyCodecs;

/// A codec has panicked, and a client does not get the bytes of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the codec has panicked")]
pub(crate) struct CodecPanicked;

impl Codecs {
    pub(crate) fn new() -> Self {
        let codecs = [const { OnceLock::new() }; MAX_CODECS];
        let codecs = Self { codecs, count: Mutex::new(0), lines: LogLines::default(), begun: Instant::now() };
        let classic: Arc<dyn Codec> = Arc::new(Classic);
        codecs.register(&classic).expect("it is the first");
        codecs
    }

    /// The number of this very codec. An unknown codec is added, together with its successors.
    pub(crate) fn register(&self, codec: &Arc<dyn Codec>) -> Result<CodecId, TooManyCodecs> {
        self.register_after(0, codec)
    }

    /// Registers a codec, reached through `earlier` others. Where successors lead in a circle there would be no end,
    /// and no stack for it.
    fn register_after(&self, earlier: usize, codec: &Arc<dyn Codec>) -> Result<CodecId, TooManyCodecs> {
        if let Some(known) = self.find(codec) {
            return Ok(known);
        }
        if earlier >= MAX_CODECS {
            return Err(TooManyCodecs);
        }
        // Called without the lock, because a codec may be an embedder's code, and before this codec has its number.
        let successors = codec.successors();
        let successors = successors.iter().map(|successor| self.register_after(earlier + 1, successor));
        let successors = successors.collect::<Result<_, _>>()?;
        let registered = Registered {
            name: codec.name(),
            tells_gaps: codec.tells_gaps(),
            conflates: codec.conflates(),
            opens: codec.opens(),
            heartbeat: codec.heartbeat(),
            answers: codec.answers(),
            refreshes: codec.refreshes(),
            successors,
            open: AtomicUsize::new(0),
            codec: Arc::clone(codec),
        };
        let mut count = self.count.lock();
        // Another thread may have added the codec in the meantime.
        if let Some(known) = self.find(codec) {
            return Ok(known);
        }
        let place = self.codecs.get(*count).ok_or(TooManyCodecs)?;
        let id = CodecId::try_from(*count).map_err(|_| TooManyCodecs)?;
        if place.set(registered).is_err() {
            unreachable!("places are filled in their order, under the lock");
        }
        *count += 1;
        Ok(id)
    }

    fn find(&self, codec: &Arc<dyn Codec>) -> Option<CodecId> {
        let known = self.codecs.iter().map_while(OnceLock::get);
        (0..).zip(known).find(|(_, known)| Arc::ptr_eq(&known.codec, codec)).map(|(id, _)| id)
    }

    fn get(&self, id: CodecId) -> &Registered {
        self.codecs[usize::from(id)].get().expect("a number is given out when its codec is there")
    }

    pub(crate) fn codec(&self, id: CodecId) -> &Arc<dyn Codec> {
        &self.get(id).codec
    }

    pub(crate) fn name(&self, id: CodecId) -> &'static str {
        self.get(id).name
    }

    /// Counts an open connection of this codec.
    pub(crate) fn note_opened(&self, id: CodecId) {
        self.get(id).open.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn note_closed(&self, id: CodecId) {
        self.get(id).open.fetch_sub(1, Ordering::Relaxed);
    }

    /// The names of all codecs, with the number of open connections. A name may occur twice.
    pub(crate) fn open(&self) -> impl Iterator<Item = (&'static str, usize)> {
        let known = self.codecs.iter().map_while(OnceLock::get);
        known.map(|known| (known.name, known.open.load(Ordering::Relaxed)))
    }

    pub(crate) fn tells_gaps(&self, id: CodecId) -> bool {
        self.get(id).tells_gaps
    }

    /// Whether the policy `conflate` is for clients of this codec.
    pub(crate) fn conflates(&self, id: CodecId) -> bool {
        self.get(id).conflates
    }

    pub(crate) fn opens(&self, id: CodecId) -> Opens {
        self.get(id).opens
    }

    /// The codec that a connection of this codec becomes; `None` if there is no successor.
    pub(crate) fn successor(&self, id: CodecId, place: usize) -> Option<CodecId> {
        self.get(id).successors.get(place).copied()
    }

    /// The bytes of a heartbeat.
    pub(crate) fn heartbeat(&self, id: CodecId) -> Option<Bytes> {
        match &self.get(id).heartbeat {
            Heartbeat::Never => None,
            Heartbeat::AfterMessages(frame) | Heartbeat::Always(frame) | Heartbeat::Regularly(frame) => {
                Some(frame.clone())
            }
        }
    }

    /// Whether clients get heartbeats before their first message, too.
    pub(crate) fn beats_from_the_start(&self, id: CodecId) -> bool {
        matches!(self.get(id).heartbeat, Heartbeat::Always(_) | Heartbeat::Regularly(_))
    }

    /// Whether clients get a heartbeat in each interval, whatever else is sent.
    pub(crate) fn beats_regularly(&self, id: CodecId) -> bool {
        matches!(self.get(id).heartbeat, Heartbeat::Regularly(_))
    }

    /// Whether a client must answer heartbeats.
    pub(crate) fn answers(&self, id: CodecId) -> Answers {
        self.get(id).answers
    }

    /// Whether a client can prove its identity anew.
    pub(crate) fn refreshes(&self, id: CodecId) -> bool {
        self.get(id).refreshes
    }

    /// The bytes of an event; empty if the codec has no words for the event.
    ///
    /// The caller may be a topic, the heartbeat, or code that cleans up after a panic. A codec that panics must not
    /// take the caller along.
    pub(crate) fn encode(&self, id: CodecId, event: &ServerEvent<'_>) -> Result<Bytes, CodecPanicked> {
        let Registered { codec, name, .. } = self.get(id);
        let encoded = catch_unwind(AssertUnwindSafe(|| {
            let mut frame = BytesMut::new();
            codec.encode(event, &timestamp(), &mut frame);
            frame.freeze()
        }));
        encoded.map_err(|panic| {
            let second = self.begun.elapsed().as_secs() as u32;
            let level = if self.lines.take(second) { log::Level::Error } else { log::Level::Debug };
            log::log!(level, transport = name; "codec {name}: {}", ExitReason::from_unwind(panic));
            CodecPanicked
        })
    }
}

impl Default for Codecs {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Codecs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.codecs.iter().map_while(OnceLock::get).map(|known| known.name)).finish()
    }
}

/// Some codecs of an instance.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct CodecSet(u64);

const _: () = assert!(MAX_CODECS <= u64::BITS as usize);

impl CodecSet {
    pub(crate) fn insert(&mut self, codec: CodecId) {
        self.0 |= 1 << codec;
    }

    pub(crate) fn iter(self) -> impl Iterator<Item = CodecId> {
        let mut rest = self.0;
        std::iter::from_fn(move || {
            let codec = rest.trailing_zeros();
            rest &= rest.wrapping_sub(1);
            (codec < u64::BITS).then_some(codec as CodecId)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_codec_has_one_number_and_another_instance_of_it_another() {
        let codecs = Codecs::new();
        let codec: Arc<dyn Codec> = Arc::new(Classic);
        let id = codecs.register(&codec).unwrap();
        assert_ne!(id, CLASSIC);
        assert_eq!(codecs.register(&Arc::clone(&codec)), Ok(id));
        assert_ne!(codecs.register(&(Arc::new(Classic) as Arc<dyn Codec>)), Ok(id));
    }

    /// Becomes another codec of this kind, and so does the other.
    #[derive(Debug)]
    struct Endless;

    impl Codec for Endless {
        fn name(&self) -> &'static str {
            "endless"
        }

        fn decoder(&self) -> Box<dyn crate::wire::Decoder> {
            Classic.decoder()
        }

        fn encode(&self, event: &ServerEvent<'_>, at: &crate::wire::Timestamp, out: &mut BytesMut) {
            Classic.encode(event, at, out);
        }

        fn successors(&self) -> Vec<Arc<dyn Codec>> {
            vec![Arc::new(Self)]
        }
    }

    #[test]
    fn codecs_that_lead_to_others_without_an_end_are_too_many() {
        let codecs = Codecs::new();
        let endless: Arc<dyn Codec> = Arc::new(Endless);
        assert_eq!(codecs.register(&endless), Err(TooManyCodecs));
        assert!(codecs.register(&(Arc::new(Classic) as Arc<dyn Codec>)).is_ok(), "it has taken nobody's number");
    }

    #[test]
    fn more_codecs_than_there_are_numbers_are_refused() {
        let codecs = Codecs::new();
        let register = || codecs.register(&(Arc::new(Classic) as Arc<dyn Codec>));
        assert!((1..MAX_CODECS).all(|_| register().is_ok()));
        assert_eq!(register(), Err(TooManyCodecs));
    }
}
