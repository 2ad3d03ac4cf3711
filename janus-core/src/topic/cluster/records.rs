//! How records become messages of a topic.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Waker;
use std::time::Instant;

use super::super::batch_size::BatchSize;
use super::super::core_lock::CoreGuard;
use super::super::publish::{Pending, PublishError, Receipt, Reply};
use super::super::state::{Core, TopicState};
use super::clustered::{Fill, Phase};
use super::{Cluster, Topics};
use crate::delivery::{Batch, OpenBatch};
use crate::engine::{Record, What};
use crate::ground::figures::Run;
use crate::ground::homes::HomeId;
use crate::wire::classic::MessageHead;
use crate::wire::{Position, Publication, TopicName};

/// How a record stands to the numbers of this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// Next.
    Next,
    /// The node has these numbers.
    Seen,
    /// Records are missing in between, or the record is of a history that this node has not seen.
    Apart,
}

impl TopicState {
    /// A record has come.
    pub(super) fn apply(self: &Arc<Self>, record: &Record, cluster: &Cluster, shared: &Topics) {
        let mut answers = self.answers();
        let mut core = self.core.lock();
        let is_open = core.clustered.as_ref().is_some_and(|clustered| clustered.phase == Phase::Open);
        if core.is_stopped() || !is_open || record.count == 0 || record.first == 0 {
            return;
        }
        match standing(&core, record) {
            Standing::Next => self.take_record(&mut core, record, shared, &mut answers),
            Standing::Seen => return,
            Standing::Apart => {
                if let Some(clustered) = core.clustered.as_mut() {
                    log::debug!(topic:% = self.name; "topic {}: records are missing, opened again", self.name);
                    shared.counters.engine_holes.fetch_add(1, Ordering::Relaxed);
                    clustered.reopen();
                }
            }
        }
        self.conclude(answers, core, cluster, shared);
    }

    /// Follows the engine up to `position` with these records, and tells a gap where they do not lead on.
    pub(super) fn catch_up_with_engine(
        &self,
        core: &mut Core,
        position: Position,
        records: Vec<Record>,
        shared: &Topics,
        answers: &mut Answers<'_>,
    ) {
        for record in records {
            if standing(core, &record) == Standing::Apart {
                // The log does not lead on from here: the missing numbers before the record are a gap.
                let Some(to) = before(&record, core.sequence.position()) else { continue };
                self.lose(core, to, shared);
            }
            if standing(core, &record) == Standing::Next {
                self.take_record(core, &record, shared, answers);
            }
        }
        let is_behind = core.clustered.as_ref().is_some_and(|clustered| clustered.is_behind);
        let now = core.sequence.position();
        if now == position || is_behind {
            return;
        }
        if position.seq <= now.seq {
            log::error!(
                topic:% = self.name;
                "topic {}: the engine is at {position} and has not raised its numbers above {now}, which breaks its contract",
                self.name
            );
            if let Some(clustered) = core.clustered.as_mut() {
                clustered.fail();
            }
            return;
        }
        self.lose(core, position, shared);
    }

    /// Goes on behind numbers that are lost.
    fn lose(&self, core: &mut Core, to: Position, shared: &Topics) {
        self.seal(core, shared);
        shared.counters.engine_losses.fetch_add(1, Ordering::Relaxed);
        core.sequence.lose(to, &self.name, shared.clock.tick(), shared.ledger());
    }

    fn take_record(&self, core: &mut Core, record: &Record, shared: &Topics, answers: &mut Answers<'_>) {
        let (frames, bytes) = {
            let foreign = core.sequence.foreign();
            (foreign.frames, foreign.bytes)
        };
        let config = shared.config();
        if bytes >= config.max_behind_bytes || frames >= MOST_BEHIND {
            // Otherwise the messages of faster nodes would fill the memory. The log still has them.
            if let Some(clustered) = core.clustered.as_mut() {
                clustered.reopen();
                clustered.is_behind = true;
            }
            return;
        }
        match &record.what {
            What::Lost { .. } => self.lose(core, record.last(), shared),
            What::Messages { node, submission, payload } => {
                // A crash may have come in the middle of the record.
                let seen = core.sequence.next_seq().saturating_sub(record.first);
                let is_own = shared.cluster.as_ref().is_some_and(|cluster| cluster.node() == *node)
                    && core.is_under_way(*submission, record.count - seen);
                if is_own {
                    self.number_own(core, record, shared, answers);
                } else {
                    match payload.messages(&self.name, record.count) {
                        Ok(messages) => self.number_foreign(core, record, &messages[seen as usize..], shared),
                        Err(error) => {
                            log::error!(topic:% = self.name; "topic {}: {error}; told as a gap", self.name);
                            self.lose(core, record.last(), shared);
                        }
                    }
                }
            }
        }
    }

    /// Numbers the messages of the submission under way, whose record has come.
    fn number_own(&self, core: &mut Core, record: &Record, shared: &Topics, answers: &mut Answers<'_>) {
        let (head, now) = (MessageHead::new(&record.time), Instant::now());
        let size = self.batch_size(core, shared);
        let mut accepted = Run::new(&shared.figures.published, core.namespace);
        while core.clustered.as_ref().is_some_and(|clustered| clustered.submitted() > 0) {
            let Core { inbox, sequence, .. } = &mut *core;
            let Some(publication) = inbox.publications(1).next() else { break };
            // Taken out after the commit only: the engine has the message, and a successor must not lose the publisher.
            let (Position { epoch, seq }, length) = sequence.number(&head, publication, now, &shared.faults);
            let Some(Pending { publication, reply }) = inbox.take() else { break };
            if let Some(own) = core.clustered.as_mut().and_then(|clustered| clustered.submission.as_mut()) {
                own.messages -= 1;
                own.numbered += 1;
                // The engine may have answered before the record. After a crash here the rest is answered from this place on.
                own.first.iter_mut().for_each(|first| first.seq += 1);
            }
            accepted.add(reply.via());
            core.inbox.note_numbered(publication.len(), length);
            answers.add(reply, Receipt { epoch, seq, subscribers: core.subscribers(), again: false });
            shared.faults.after_commit();
            if size.is_full(&core.sequence) {
                self.seal(core, shared);
            }
        }
        if let Some(clustered) = core.clustered.as_mut() {
            // Otherwise counted with the answer, which has come before.
            if let (Some(sent), Some(cluster)) = (clustered.submission, &shared.cluster)
                && sent.first.is_none()
            {
                cluster.figures.appends.record(sent.sent.elapsed());
            }
            (clustered.submission, clustered.waits_since) = (None, None);
        }
    }

    /// Numbers the messages of another node.
    fn number_foreign(&self, core: &mut Core, record: &Record, messages: &[Publication], shared: &Topics) {
        let (head, now) = (MessageHead::new(&record.time), Instant::now());
        let size = self.batch_size(core, shared);
        for publication in messages {
            let (_, length) = core.sequence.number(&head, publication, now, &shared.faults);
            core.sequence.note_foreign(length);
            core.inbox.account_foreign(length);
            if size.is_full(&core.sequence) {
                self.seal(core, shared);
            }
        }
    }

    fn batch_size(&self, core: &Core, shared: &Topics) -> BatchSize {
        let queue = shared.terms.limits().min(core.roster.least_queue());
        BatchSize::of(core.roster.len(), queue, &shared.config())
    }

    /// A batch for the ring, whose messages this node has not handed out. `None` if the record makes no sense.
    pub(super) fn batch_of(&self, record: &Record, shared: &Topics) -> Option<Arc<Batch>> {
        let (tick, ledger) = (shared.clock.tick(), shared.ledger());
        let batch = match &record.what {
            What::Lost { after } if after.seq + 1 == record.first => {
                Batch::lost(&self.name, *after, record.last(), tick, ledger)
            }
            What::Lost { .. } => return None,
            What::Messages { payload, .. } => {
                let (head, now) = (MessageHead::new(&record.time), Instant::now());
                let mut open = OpenBatch::default();
                for publication in payload.messages(&self.name, record.count).ok()? {
                    head.encode_message(open.buffer(), &publication);
                    if let Some(client) = publication.excluded() {
                        open.exclude(client);
                    }
                    open.commit(now);
                }
                open.seal(&self.name, record.last().seq + 1, record.epoch, tick, ledger)
            }
        };
        Some(Arc::new(batch))
    }

    /// The end of each step: waiting tasks are told, without the lock.
    pub(super) fn conclude(
        self: &Arc<Self>,
        // Dropped last, without the lock.
        answers: Answers<'_>,
        mut core: CoreGuard<'_>,
        cluster: &Cluster,
        shared: &Topics,
    ) {
        let waiting = Self::take_waiting(&mut core);
        let publishers = core.inbox.call();
        let has_batch = core.sequence.has_open() || core.sequence.next_batch().is_some();
        let wakes = has_batch && !core.sequence.is_in_pass() && core.inbox.notify();
        let asks = self.has_requests(&core);
        let unnumbered = core.inbox.unnumbered_frames();
        if let Some(clustered) = core.clustered.as_mut() {
            cluster.figures.count_waiting(clustered, unnumbered);
        }
        let is_ready = asks && core.clustered.as_mut().is_some_and(|clustered| clustered.set_ready());
        let is_unused = core.roster.len() == 0 && core.inbox.frames_in_flight() == 0 && waiting.is_empty();
        drop(core);
        if is_unused && self.spare.get() == 0 && self.is_unused() {
            // A publisher must not take the places of topics with subscribers.
            shared.table.note_unused(self);
        }
        if is_ready {
            cluster.add_ready(self);
        }
        if wakes {
            self.wake_actor(shared, Some(HomeId::FIRST));
        }
        drop(answers);
        waiting.into_iter().chain(publishers).for_each(Waker::wake);
    }

    /// Whether the task of the link should look at the topic.
    pub(in crate::topic) fn has_requests(&self, core: &Core) -> bool {
        let Some(clustered) = &core.clustered else { return false };
        let submits = match clustered.submission {
            // Sent over an earlier link. A topic in use must be open first.
            Some(sent) => sent.link != clustered.link && clustered.phase == Phase::Open,
            None => core.inbox.unnumbered_frames() > 0,
        };
        let may_open = !clustered.is_behind && !clustered.has_just_failed();
        let opens = clustered.phase == Phase::Closed && self.is_in_use(core) && may_open;
        let fills = clustered.phase == Phase::Open && clustered.fill == Fill::Wanted;
        submits || opens || fills
    }

    /// The topic is asked for something, by a publisher or a subscriber. Returns whether the task of the link has to be told.
    pub(in crate::topic) fn has_to_ask(&self, core: &mut Core) -> bool {
        self.has_requests(core) && core.clustered.as_mut().is_some_and(|clustered| clustered.set_ready())
    }

    /// A pass has ended: a topic that has left records out for want of room may ask for them.
    /// Returns whether the task of the link has to be told, without the lock: the table of topics is locked before a topic.
    pub(in crate::topic) fn note_less_behind(&self, core: &mut Core, shared: &Topics) -> bool {
        let foreign = core.sequence.foreign();
        let Some(clustered) = core.clustered.as_mut().filter(|clustered| clustered.is_behind) else { return false };
        // Half, so that the topic does not ask for every batch.
        if foreign.bytes > shared.config().max_behind_bytes / 2 || foreign.frames > MOST_BEHIND / 2 {
            return false;
        }
        clustered.is_behind = false;
        clustered.set_ready()
    }

    /// Has the task of the link look at the topic, for a caller without a reference to share.
    pub(in crate::topic) fn ask_by_name(&self, shared: &Topics) {
        if let (Some(cluster), Some(topic)) = (shared.cluster.as_ref(), shared.table.find(self.name.as_str())) {
            cluster.add_ready(&topic);
        }
    }

    /// The answers to publishers at the end of a step.
    pub(super) fn answers(&self) -> Answers<'_> {
        Answers { topic: &self.name, accepted: Vec::new(), refused: Vec::new() }
    }
}

/// Messages of other nodes that may wait to be handed out, beside `max_behind_bytes`.
const MOST_BEHIND: usize = 16_384;

fn standing(core: &Core, record: &Record) -> Standing {
    let (now, last) = (core.sequence.position(), record.last());
    let follows = match &record.what {
        What::Messages { .. } => record.epoch == now.epoch,
        What::Lost { after } => *after == now,
    };
    let is_next = match &record.what {
        What::Messages { .. } => (record.first..=last.seq).contains(&(now.seq + 1)),
        What::Lost { .. } => record.first == now.seq + 1,
    };
    #[cfg(all(test, feature = "fault-injection"))]
    let (is_next, follows) = mistaken(is_next, follows, record.first > now.seq);
    if is_next && follows {
        Standing::Next
    } else if last.seq <= now.seq && record.epoch == now.epoch {
        Standing::Seen
    } else {
        Standing::Apart
    }
}

/// The last position before a record that does not lead on from `now`, or the end of the record if no number is left for a gap
/// before it. `None` for a record of the past.
fn before(record: &Record, now: Position) -> Option<Position> {
    let last = record.last();
    if last.seq <= now.seq {
        return None;
    }
    let is_message = matches!(record.what, What::Messages { .. });
    let has_room = record.first > now.seq + 1;
    Some(if is_message && has_room { Position { seq: record.first - 1, ..last } } else { last })
}

/// How a record would stand if the planted mistake were made.
#[cfg(all(test, feature = "fault-injection"))]
fn mistaken(is_next: bool, follows: bool, is_later: bool) -> (bool, bool) {
    use crate::ground::simulated::{Planted, is_planted};

    (is_next || is_planted(Planted::HoleTaken) && is_later, follows || is_planted(Planted::AnyEpochFollows))
}

impl Core {
    fn is_under_way(&self, submission: u64, count: u64) -> bool {
        let under_way = self.clustered.as_ref().and_then(|clustered| clustered.submission);
        under_way.is_some_and(|sent| sent.number == submission && sent.messages as u64 == count)
    }
}

/// Answers to publishers, given without the topic's lock: a promise wakes a task of any program.
pub(super) struct Answers<'a> {
    topic: &'a TopicName,
    accepted: Vec<(Reply, Receipt)>,
    refused: Vec<(Reply, PublishError)>,
}

impl Answers<'_> {
    pub(super) fn add(&mut self, reply: Reply, receipt: Receipt) {
        self.accepted.push((reply, receipt));
    }

    pub(super) fn refuse(&mut self, reply: Reply, error: PublishError) {
        self.refused.push((reply, error));
    }
}

/// In the drop, so that publishers are told even if a step panics: numbered messages will be delivered.
impl Drop for Answers<'_> {
    fn drop(&mut self) {
        for (reply, receipt) in self.accepted.drain(..) {
            reply.accept(self.topic, receipt);
        }
        for (reply, error) in self.refused.drain(..) {
            reply.refuse(error);
        }
    }
}
