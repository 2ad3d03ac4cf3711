//! Frames of one topic on their way together: encoded once for each wire format, sent to each subscriber in a single
//! system call.
//!
//! Coalescing is nearly all of the throughput to small topics: the price of a delivery is the system call, not the
//! bytes. A batch therefore takes in messages until a pass takes the batch, or until the batch is large enough; then it
//! is sealed. A sealed batch lives on in the topic's ring and in the queues of clients that lag.
//!
//! Messages are kept in the classic protocol. The bytes of another codec are added for the first subscriber with this
//! codec: by the topic for its pass, by a Transport for a replay, and never by a sender, because a codec may be an
//! embedder's code.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use bytes::{Bytes, BytesMut};

use super::codecs::{CLASSIC, CodecId, Codecs};
use super::{Ledger, UnderWay};
use crate::ground::clock::Tick;
use crate::wire::classic::{MessageParts, Run};
use crate::wire::{self, ClientId, Epoch, Position, ServerEvent, TopicName};

/// Sealed frames with dense sequence numbers, or numbers whose messages an engine has lost.
#[derive(Debug)]
pub(crate) struct Batch {
    pub(crate) topic: TopicName,
    first_seq: u64,
    last_seq: u64,
    /// For lost numbers, the last position before them that belongs to the history of this batch's epoch. A batch of lost
    /// numbers has no frames, and each subscriber is told of a gap in its place.
    lost_after: Option<Position>,
    /// The share of other nodes' publishers in the batch.
    foreign: Share,
    /// The clients that do not get some of the messages, if there are any.
    exclusions: Option<Box<Exclusions>>,
    classic: Frames,
    /// The same frames in other wire formats.
    others: Others,
    /// The topic's epoch when the frames were numbered.
    pub(crate) epoch: Epoch,
    /// When the batch was sealed.
    pub(crate) tick: Tick,
    /// When the first frame was numbered.
    pub(crate) begun: Instant,
    /// The number of the batch's pass, and the horizon in its messages; 0 before the pass. Both belong to the topic,
    /// and are read under its lock; see [`horizon`](super::horizon).
    pass: AtomicU64,
    horizon: AtomicU64,
    pub(super) ledger: Arc<Ledger>,
}

/// The frames of a batch in one wire format.
#[derive(Debug)]
struct Frames {
    bytes: Bytes,
    /// The end of each frame in `bytes`; never empty, and the last end is `bytes.len()`.
    ends: Vec<u32>,
}

/// A number of messages, and the bytes of their frames in the classic protocol.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Share {
    pub(crate) frames: usize,
    pub(crate) bytes: usize,
}

/// A list for growth at the end and reads without a lock.
type Others = OnceLock<Box<Other>>;

#[derive(Debug)]
struct Other {
    codec: CodecId,
    frames: Frames,
    next: Others,
}

/// A batch in the wire format of some subscribers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct View<'a> {
    first_seq: u64,
    bytes: &'a Bytes,
    ends: &'a [u32],
}

impl<'a> View<'a> {
    /// The start of the frame with this number in [`bytes`](Self::bytes): 0 for a number before the batch, the end of
    /// the bytes for a number after it. A subscriber that joined in the middle of the batch gets the bytes from here
    /// on.
    #[inline]
    pub(crate) fn start_of(&self, seq: u64) -> usize {
        match seq.saturating_sub(self.first_seq) {
            0 => 0,
            // Lost numbers have no frames.
            _ if self.ends.is_empty() => 0,
            skipped => self.ends[(skipped as usize).min(self.ends.len()) - 1] as usize,
        }
    }

    /// The range of the frames with these numbers in [`bytes`](Self::bytes).
    pub(crate) fn range(&self, seqs: Range<u64>) -> Range<usize> {
        self.start_of(seqs.start)..self.start_of(seqs.end)
    }

    #[inline]
    pub(crate) fn bytes(&self) -> &'a Bytes {
        self.bytes
    }
}

const NOTHING_BUT_MESSAGES: &str = "a topic numbers nothing but messages, which it encoded";

impl Frames {
    fn accounted_bytes(&self) -> usize {
        self.bytes.len() + self.ends.len() * size_of::<u32>()
    }
}

impl Batch {
    /// The price of a batch, in addition to its frames and their ends.
    const OVERHEAD_BYTES: usize = 240;

    pub(crate) fn first_seq(&self) -> u64 {
        self.first_seq
    }

    pub(crate) fn last_seq(&self) -> u64 {
        self.last_seq
    }

    /// The number of messages; 0 for a batch of lost numbers.
    pub(crate) fn frames(&self) -> usize {
        self.classic.ends.len()
    }

    /// The messages of other nodes' publishers, which take no room of this node's publishers.
    pub(crate) fn foreign(&self) -> Share {
        self.foreign
    }

    /// The clients that do not get some of the messages, if there are any.
    #[inline]
    pub(crate) fn exclusions(&self) -> Option<&Exclusions> {
        self.exclusions.as_deref()
    }

    /// The parts of these numbers that are for this client, each as long as possible.
    pub(crate) fn parts_for(&self, client: ClientId, seqs: Range<u64>) -> impl Iterator<Item = Range<u64>> {
        let excluded = self.exclusions().map_or(&[][..], |exclusions| exclusions.of(client));
        let excluded = excluded.iter().map(|exclusion| exclusion.number).filter({
            let seqs = seqs.clone();
            move |seq| seqs.contains(seq)
        });
        let mut start = seqs.start;
        excluded
            .chain([seqs.end])
            .map(move |end| std::mem::replace(&mut start, end + 1)..end)
            .filter(|part| !part.is_empty())
    }

    /// Whether an engine has lost the messages with these numbers.
    #[inline]
    pub(crate) fn is_lost(&self) -> bool {
        self.lost_after.is_some()
    }

    /// For a batch of lost numbers, the last position before them.
    pub(crate) fn lost_after(&self) -> Option<Position> {
        self.lost_after
    }

    /// The position of the last number.
    pub(crate) fn last_position(&self) -> Position {
        Position { epoch: self.epoch, seq: self.last_seq }
    }

    /// Whether the batch comes right after this position, in the same history.
    pub(crate) fn continues(&self, position: Position) -> bool {
        let is_same = self.lost_after.map_or(self.epoch == position.epoch, |after| after == position);
        is_same && self.first_seq == position.seq + 1
    }

    /// A batch of the lost numbers `after.seq + 1` up to `to`, whose epoch is that of the numbers behind.
    pub(crate) fn lost(topic: &TopicName, after: Position, to: Position, tick: Tick, ledger: &Arc<Ledger>) -> Self {
        let batch = Self {
            topic: topic.clone(),
            first_seq: after.seq + 1,
            last_seq: to.seq,
            lost_after: Some(after),
            foreign: Share::default(),
            exclusions: None,
            classic: Frames { bytes: Bytes::new(), ends: Vec::new() },
            others: OnceLock::new(),
            epoch: to.epoch,
            tick,
            begun: Instant::now(),
            pass: AtomicU64::new(0),
            horizon: AtomicU64::new(0),
            ledger: Arc::clone(ledger),
        };
        ledger.add_frames(batch.accounted_bytes());
        batch
    }

    /// Notes that the batch is handed out from now on. A second time, after a crash in between, only the later pass
    /// counts; the earlier horizon, which may be encoded already, claims less and stays true.
    pub(crate) fn begin(&self, pass: &UnderWay) {
        if self.pass.swap(pass.number, Ordering::Relaxed) == 0 {
            self.horizon.store(pass.horizon, Ordering::Relaxed);
        }
    }

    /// Notes that the messages were handed out before, at the time of this pass at the latest.
    pub(crate) fn note_handed_out_by(&self, pass: u64) {
        self.pass.store(pass, Ordering::Relaxed);
    }

    /// The number of the pass that has handed the batch out, or is about to.
    pub(crate) fn pass(&self) -> Option<u64> {
        Some(self.pass.load(Ordering::Relaxed)).filter(|pass| *pass > 0)
    }

    /// Whether the pass began, or will begin, after all passes up to this number had ended.
    pub(crate) fn follows(&self, pass: u64) -> bool {
        self.pass().is_none() || self.horizon.load(Ordering::Relaxed) >= pass
    }

    /// Whether the pass has a greater number than this, or no number yet.
    pub(crate) fn is_after(&self, pass: u64) -> bool {
        self.pass().is_none_or(|own| own > pass)
    }

    pub(crate) fn byte_len(&self) -> usize {
        self.classic.bytes.len()
    }

    /// The bytes of the batch in the ledger, in all its codecs.
    pub(crate) fn accounted_bytes(&self) -> usize {
        let exclusions = self.exclusions().map_or(0, Exclusions::accounted_bytes);
        let mut accounted = self.classic.accounted_bytes() + Self::OVERHEAD_BYTES + exclusions;
        let mut place = &self.others;
        while let Some(other) = place.get() {
            accounted += other.frames.accounted_bytes();
            place = &other.next;
        }
        accounted
    }

    /// The start of the frame with this number in the classic protocol's bytes; limits count these bytes.
    pub(crate) fn start_of(&self, seq: u64) -> usize {
        self.classic().start_of(seq)
    }

    /// The range of the frames with these numbers in the same bytes.
    pub(crate) fn range(&self, seqs: Range<u64>) -> Range<usize> {
        self.classic().range(seqs)
    }

    /// The batch in the classic protocol.
    pub(crate) fn classic(&self) -> View<'_> {
        self.view_of(&self.classic)
    }

    /// The batch in this codec. The first call for a codec encodes the batch.
    #[inline]
    pub(crate) fn view(&self, codec: CodecId, codecs: &Codecs) -> View<'_> {
        if codec == CLASSIC { self.classic() } else { self.view_of(self.other(codec, codecs)) }
    }

    fn view_of<'a>(&self, frames: &'a Frames) -> View<'a> {
        View { first_seq: self.first_seq, bytes: &frames.bytes, ends: &frames.ends }
    }

    fn other(&self, codec: CodecId, codecs: &Codecs) -> &Frames {
        let mut place = &self.others;
        loop {
            let other = place.get_or_init(|| {
                let frames = self.encode(codec, codecs);
                self.ledger.add_frames(frames.accounted_bytes());
                Box::new(Other { codec, frames, next: OnceLock::new() })
            });
            if other.codec == codec {
                return &other.frames;
            }
            place = &other.next;
        }
    }

    fn encode(&self, codec: CodecId, codecs: &Codecs) -> Frames {
        let codec = codecs.codec(codec);
        let mut bytes = BytesMut::with_capacity(self.byte_len());
        let mut ends = Vec::with_capacity(self.frames());
        // Parsed from the frames: to keep the place of each part would cost memory for every message in every codec.
        let mut topic_json = BytesMut::new();
        wire::put_json_string(&mut topic_json, self.topic.as_str());
        let topic_json = str::from_utf8(&topic_json).expect("JSON is text");
        let horizon = Some(self.horizon.load(Ordering::Relaxed)).filter(|horizon| *horizon > 0);
        let (mut run, mut start) = (Run::default(), 0);
        for (seq, &end) in (self.first_seq..).zip(&self.classic.ends) {
            let frame = &self.classic.bytes[start..end as usize];
            start = end as usize;
            let parts = run.next(frame).expect(NOTHING_BUT_MESSAGES);
            let (data, base64) = wire::json_and_base64(parts.data);
            let message = wire::NumberedMessage {
                topic: &self.topic,
                topic_json,
                position: Position { epoch: self.epoch, seq },
                horizon,
                timestamp: parts.timestamp,
                event: parts.event,
                message_id: parts.message_id,
                data,
                base64,
            };
            codec.encode(&ServerEvent::Message(message), &parts.timestamp, &mut bytes);
            ends.push(u32::try_from(bytes.len()).expect("a batch is sealed long before 4 GiB"));
        }
        Frames { bytes: bytes.freeze(), ends }
    }

    /// The message with this number of the batch.
    pub(crate) fn parts(&self, seq: u64) -> MessageParts<'_> {
        let range = self.classic().range(seq..seq + 1);
        MessageParts::of(&self.classic.bytes[range]).expect(NOTHING_BUT_MESSAGES)
    }

    /// The part of the batch's memory with this text of [`parts`](Self::parts).
    pub(crate) fn keep(&self, part: &str) -> Bytes {
        self.classic.bytes.slice_ref(part.as_bytes())
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        self.ledger.remove_frames(self.accounted_bytes());
    }
}

/// Which clients do not get which messages of a batch.
#[derive(Debug, Default)]
pub(crate) struct Exclusions(Vec<Exclusion>);

/// One message that one client does not get.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Exclusion {
    client: ClientId,
    /// The number of the message; in an open batch, counted from the first of the batch.
    number: u64,
}

impl Exclusions {
    /// Whether this client does not get some of the messages.
    pub(crate) fn name(&self, client: ClientId) -> bool {
        !self.of(client).is_empty()
    }

    /// The exclusions of this client.
    fn of(&self, client: ClientId) -> &[Exclusion] {
        let start = self.0.partition_point(|exclusion| exclusion.client < client);
        let behind = &self.0[start..];
        &behind[..behind.partition_point(|exclusion| exclusion.client == client)]
    }

    fn accounted_bytes(&self) -> usize {
        self.0.len() * size_of::<Exclusion>()
    }

    /// The exclusions of a batch that begins with this number.
    fn numbered(mut self: Box<Self>, first_seq: u64) -> Box<Self> {
        self.0.iter_mut().for_each(|exclusion| exclusion.number += first_seq);
        self.0.sort_unstable();
        self
    }
}

/// A batch open for more frames.
///
/// Its commit point is [`commit`](Self::commit): [`truncate_uncommitted`](Self::truncate_uncommitted) cuts off frames
/// encoded but not committed when a topic crashed, so they are never sent.
#[derive(Debug, Default)]
pub(crate) struct OpenBatch {
    bytes: BytesMut,
    ends: Vec<u32>,
    /// When the first frame was committed, if any.
    begun: Option<Instant>,
    /// The share of other nodes' publishers.
    foreign: Share,
    /// The clients that do not get some of the messages, if there are any.
    exclusions: Option<Box<Exclusions>>,
}

impl OpenBatch {
    /// Where the next frame is encoded.
    pub(crate) fn buffer(&mut self) -> &mut BytesMut {
        &mut self.bytes
    }

    /// The next frame is not for this client.
    pub(crate) fn exclude(&mut self, client: ClientId) {
        let number = self.ends.len() as u64;
        self.exclusions.get_or_insert_default().0.push(Exclusion { client, number });
    }

    /// Makes a frame of the bytes encoded since the last commit; returns its length.
    pub(crate) fn commit(&mut self, now: Instant) -> usize {
        self.begun.get_or_insert(now);
        let start = self.committed_len();
        self.ends.push(u32::try_from(self.bytes.len()).expect("a batch is sealed long before 4 GiB"));
        self.bytes.len() - start
    }

    /// The last frame is of another node's publisher. Takes the length of the frame.
    pub(crate) fn note_foreign(&mut self, length: usize) {
        self.foreign.frames += 1;
        self.foreign.bytes += length;
    }

    /// The share of other nodes' publishers in the batch so far.
    pub(crate) fn foreign(&self) -> Share {
        self.foreign
    }

    pub(crate) fn truncate_uncommitted(&mut self) {
        self.bytes.truncate(self.committed_len());
        if let Some(exclusions) = &mut self.exclusions {
            exclusions.0.retain(|exclusion| exclusion.number < self.ends.len() as u64);
        }
    }

    pub(crate) fn committed_len(&self) -> usize {
        self.ends.last().map_or(0, |&end| end as usize)
    }

    pub(crate) fn frames(&self) -> usize {
        self.ends.len()
    }

    /// Ends the batch; `next_seq` is the number the next committed frame would have got.
    pub(crate) fn seal(
        &mut self,
        topic: &TopicName,
        next_seq: u64,
        epoch: Epoch,
        tick: Tick,
        ledger: &Arc<Ledger>,
    ) -> Batch {
        let ends = std::mem::take(&mut self.ends);
        let first_seq = next_seq - ends.len() as u64;
        let begun = self.begun.take().unwrap_or_else(Instant::now);
        let sealed = self.bytes.split();
        // The rest is memory of the same allocation, and would keep the whole allocation beyond the life of the batch.
        // Keep it for the next batches only if there is room for another batch.
        if self.bytes.capacity() < sealed.len() {
            self.bytes = BytesMut::new();
        }
        let classic = Frames { bytes: sealed.freeze(), ends };
        let exclusions = self.exclusions.take().map(|exclusions| exclusions.numbered(first_seq));
        let batch = Batch {
            topic: topic.clone(),
            first_seq,
            last_seq: next_seq - 1,
            lost_after: None,
            foreign: std::mem::take(&mut self.foreign),
            exclusions,
            classic,
            others: OnceLock::new(),
            epoch,
            tick,
            begun,
            pass: AtomicU64::new(0),
            horizon: AtomicU64::new(0),
            ledger: Arc::clone(ledger),
        };
        ledger.add_frames(batch.accounted_bytes());
        batch
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::wire::Timestamp;

    pub(crate) fn topic() -> TopicName {
        TopicName::new("news", 255).unwrap()
    }

    pub(crate) fn batch_of(frames: &[&str], next_seq: u64) -> Batch {
        let mut open = OpenBatch::default();
        for frame in frames {
            open.buffer().extend_from_slice(frame.as_bytes());
            open.commit(Instant::now());
        }
        open.seal(&topic(), next_seq, Epoch::new(7), Tick::new(1), &Arc::default())
    }

    #[test]
    fn the_memory_of_a_large_batch_goes_with_it() {
        let mut open = OpenBatch::default();
        for seq in 2..5 {
            open.buffer().extend_from_slice(&vec![b'x'; 1 << 20]);
            open.commit(Instant::now());
            let batch = open.seal(&topic(), seq, Epoch::new(7), Tick::new(1), &Arc::default());
            assert!(batch.classic.bytes.is_unique(), "the open batch holds no part of it");
        }
    }

    #[test]
    fn a_subscriber_that_joined_in_the_middle_gets_the_rest() {
        let batch = batch_of(&["one", "two", "three"], 13);
        assert_eq!(batch.last_seq(), 12);
        assert_eq!(batch.classic().start_of(0), 0);
        assert_eq!(batch.classic().start_of(10), 0);
        assert_eq!(batch.classic().start_of(11), 3);
        assert_eq!(batch.classic().start_of(12), 6);
        assert_eq!(batch.classic().start_of(13), 11);
        assert_eq!(batch.classic().range(11..12), 3..6);
    }

    #[test]
    fn lost_numbers_have_no_bytes_in_any_codec() {
        let (ledger, after) = (Arc::default(), Position { epoch: Epoch::new(7), seq: 9 });
        let batch = Batch::lost(&topic(), after, Position { epoch: Epoch::new(8), seq: 11 }, Tick::new(1), &ledger);
        assert_eq!((batch.first_seq(), batch.last_seq(), batch.frames()), (10, 11, 0));
        assert_eq!((batch.is_lost(), batch.lost_after()), (true, Some(after)));
        assert!((9..=13).all(|seq| batch.start_of(seq) == 0 && batch.range(seq..seq + 1).is_empty()));
        assert!(ledger.bytes() > 0);
        drop(batch);
        assert_eq!(ledger.bytes(), 0);
    }

    #[test]
    fn a_batch_is_accounted_for_until_the_last_of_its_holders_lets_go() {
        let ledger = Arc::new(Ledger::default());
        let mut open = OpenBatch::default();
        open.buffer().extend_from_slice(&[b'x'; 1_000]);
        open.commit(Instant::now());
        let batch = Arc::new(open.seal(&topic(), 2, Epoch::new(7), Tick::new(1), &ledger));
        let held = Arc::clone(&batch);
        drop(batch);
        assert!(ledger.bytes() >= 1_000);
        drop(held);
        assert_eq!(ledger.bytes(), 0);
    }

    #[test]
    fn each_codec_encodes_a_batch_once_and_it_is_accounted_for() {
        let (codecs, ledger) = (Codecs::new(), Arc::new(Ledger::default()));
        let other = codecs.register(&(Arc::new(wire::classic::Classic) as Arc<dyn wire::Codec>)).unwrap();
        let mut open = OpenBatch::default();
        for data in ["1", " {} "] {
            let publication = wire::Publication::new(&topic(), "\"e\"", "2", data).unwrap();
            wire::classic::encode_message(open.buffer(), &Timestamp { mega: 1, sec: 2, micro: 3 }, &publication);
            open.commit(Instant::now());
        }
        let batch = open.seal(&topic(), 7, Epoch::new(9), Tick::new(1), &ledger);
        let before = ledger.bytes();
        let view = batch.view(other, &codecs);
        assert_eq!(view.bytes(), batch.classic().bytes(), "it is the same codec under another number");
        assert_eq!(view.range(6..7), batch.classic().range(6..7));
        assert_ne!(view.bytes().as_ptr(), batch.classic().bytes().as_ptr());
        assert_eq!(batch.view(other, &codecs).bytes().as_ptr(), view.bytes().as_ptr(), "encoded once");
        assert_eq!(ledger.bytes() - before, view.bytes().len() + 8);
        drop(batch);
        assert_eq!(ledger.bytes(), 0);
    }

    #[test]
    fn an_uncommitted_frame_is_never_sent() {
        let mut open = OpenBatch::default();
        open.buffer().extend_from_slice(b"whole");
        open.commit(Instant::now());
        open.buffer().extend_from_slice(b"half");
        open.truncate_uncommitted();
        let batch = open.seal(&topic(), 2, Epoch::new(7), Tick::new(1), &Arc::default());
        assert_eq!(&batch.classic().bytes()[..], b"whole");
        assert_eq!(batch.frames(), 1);
    }

    #[test]
    fn the_parts_for_a_client_leave_out_the_messages_of_its_own() {
        let (ledger, mut open) = (Arc::new(Ledger::default()), OpenBatch::default());
        let [own, other] = [ClientId::new(1, 17), ClientId::new(2, 17)];
        for excluded in [Some(own), None, Some(other), Some(own), Some(own), None] {
            excluded.into_iter().for_each(|client| open.exclude(client));
            open.buffer().extend_from_slice(b"message");
            open.commit(Instant::now());
        }
        // A crash between the two steps of a message.
        open.exclude(own);
        open.truncate_uncommitted();
        let batch = open.seal(&topic(), 16, Epoch::new(7), Tick::new(1), &ledger);
        let parts = |client, seqs| batch.parts_for(client, seqs).map(|part| (part.start, part.end)).collect::<Vec<_>>();
        assert_eq!(parts(own, 10..16), [(11, 13), (15, 16)]);
        assert_eq!(parts(own, 12..15), [(12, 13)]);
        assert_eq!(parts(own, 13..15), []);
        assert_eq!(parts(other, 10..16), [(10, 12), (13, 16)]);
        assert_eq!(parts(ClientId::new(3, 17), 10..16), [(10, 16)]);
        let exclusions = batch.exclusions().expect("there are some");
        assert!(exclusions.name(own) && exclusions.name(other) && !exclusions.name(ClientId::new(1, 18)));
        drop(batch);
        assert_eq!(ledger.bytes(), 0, "all of it was accounted for");
    }
}
