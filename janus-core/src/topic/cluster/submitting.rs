//! How messages go to the engine, and how publishers are answered without a record.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::super::core_lock::CoreGuard;
use super::super::publish::{Pending, PublishError, Receipt};
use super::super::state::{Core, Life, TopicState};
use super::clustered::{Fill, Phase, Submission};
use super::opening::Opening;
use super::records::Answers;
use super::{Cluster, keep};
use crate::engine::{AppendError, Keep, Outcome, Payload};
use crate::ground::figures::Run;
use crate::topic::Topics;
use crate::wire::{IdempotencyKey, Position};

/// Messages of one submission. Redis takes 3 µs for each of 16 messages in a submission, and 1.4 µs for each of 64; more
/// would gain little, and delay the first.
const MOST_MESSAGES: usize = 256;

/// Messages that go to the engine.
pub(super) struct Append {
    pub(super) keep: Keep,
    pub(super) create: bool,
    pub(super) submission: u64,
    pub(super) count: u64,
    pub(super) payload: Payload,
    pub(super) key: Option<(IdempotencyKey, Duration)>,
}

/// All that a topic has to ask for.
#[derive(Default)]
pub(super) struct Requests {
    pub(super) opening: Option<Opening>,
    pub(super) append: Option<Append>,
    /// Whether the topic has ended, and wants no more records.
    pub(super) close: bool,
}

impl TopicState {
    /// The topic's requests over this link.
    pub(super) fn take_requests(self: &Arc<Self>, link: u64, cluster: &Cluster, shared: &Topics) -> Requests {
        let mut core = self.core.lock();
        let has_ended = core.life == Life::Ended;
        let Some(clustered) = core.clustered.as_mut() else { return Requests::default() };
        clustered.is_ready = false;
        let was_open = clustered.link == link && clustered.phase != Phase::Closed;
        if has_ended {
            return Requests { close: was_open, ..Requests::default() };
        }
        if !clustered.has_actor {
            // The actor asks at its start.
            return Requests::default();
        }
        core.follow(&self.name, shared);
        let opening = self.opening(&mut core, link, cluster, shared);
        let append = self.next_append(&mut core, link, cluster, shared);
        self.watch(core, cluster, shared);
        Requests { opening, append, close: false }
    }

    /// The next submission, or the submission under way if an earlier link has ended before the answer. A topic that is in
    /// use must be open first, so that the record of the submission comes here.
    fn next_append(&self, core: &mut Core, link: u64, cluster: &Cluster, shared: &Topics) -> Option<Append> {
        let in_use = self.is_in_use(core);
        if core.is_stopped() {
            return None;
        }
        let Core { clustered: Some(clustered), inbox, .. } = core else { return None };
        if in_use && clustered.phase != Phase::Open {
            return None;
        }
        let config = shared.config();
        let submission = match clustered.submission {
            Some(sent) if sent.link == link => return None,
            // Only the rest is sent, and the answer of an earlier link is no longer sure.
            Some(sent) => Submission { link, is_sent_again: true, numbered: 0, first: None, ..sent },
            None => {
                let messages = inbox.portion(MOST_MESSAGES, config.max_inflight_bytes);
                if messages == 0 {
                    return None;
                }
                let (number, sent) = (cluster.next_submission(), Instant::now());
                Submission { number, messages, numbered: 0, link, is_sent_again: false, sent, first: None }
            }
        };
        clustered.submission = Some(submission);
        Some(Append {
            keep: keep(&self.name, &config),
            // Without a subscriber on any node, and without history, the messages have no reader.
            create: in_use || config.namespace(self.name.as_str()).history,
            submission: submission.number,
            count: submission.messages as u64,
            payload: Payload::of(inbox.publications(submission.messages)),
            key: inbox
                .publications(submission.messages)
                .next()
                .and_then(|publication| Some((publication.key()?.clone(), config.idempotency_ttl))),
        })
    }

    /// A message has come.
    pub(in crate::topic) fn note_message(self: &Arc<Self>, cluster: &Cluster, shared: &Topics) {
        let mut core = self.core.lock();
        let asks = self.has_to_ask(&mut core);
        self.watch(core, cluster, shared);
        if asks {
            cluster.add_ready(self);
        }
    }

    /// Has the watch look at the topic when its messages have waited for too long.
    fn watch(self: &Arc<Self>, mut core: CoreGuard<'_>, cluster: &Cluster, shared: &Topics) {
        let waiting = core.inbox.unnumbered_frames();
        let Some(clustered) = core.clustered.as_mut() else { return };
        cluster.figures.count_waiting(clustered, waiting);
        if waiting == 0 {
            clustered.waits_since = None;
            return;
        }
        let since = *clustered.waits_since.get_or_insert_with(Instant::now);
        let is_new = !std::mem::replace(&mut clustered.is_watched, true);
        drop(core);
        if is_new {
            cluster.watch.add(since + shared.config().engine_timeout, Arc::clone(self));
        }
    }

    /// The engine has answered a submission.
    pub(super) fn appended(
        self: &Arc<Self>,
        submission: u64,
        outcome: Result<Outcome, AppendError>,
        cluster: &Cluster,
        shared: &Topics,
    ) {
        let mut answers = self.answers();
        let mut core = self.core.lock();
        let subscribers = core.subscribers();
        let position = core.sequence.position();
        let Some(clustered) = core.clustered.as_mut() else { return };
        let Some(sent) = clustered.submission.as_mut().filter(|sent| sent.number == submission) else { return };
        cluster.figures.appends.record(sent.sent.elapsed());
        match outcome {
            Ok(Outcome::New(first)) => {
                let first = Position { seq: first.seq + sent.numbered, ..first };
                sent.first = Some(first);
                if clustered.phase == Phase::Open && position.seq + 1 < first.seq + sent.messages as u64 {
                    // The receipts come with the record.
                    return;
                }
                self.answer_without_record(&mut core, first, shared, &mut answers);
            }
            Ok(Outcome::Again(position)) => {
                core.take_submission().into_iter().for_each(|pending| {
                    answers.add(
                        pending.reply,
                        Receipt { epoch: position.epoch, seq: position.seq, subscribers, again: true },
                    )
                });
            }
            // Nothing has been done this time. Subscribers may have had the messages the first time.
            Ok(Outcome::Nobody) | Err(_) if sent.is_sent_again => {
                if let Err(AppendError(reason)) = &outcome {
                    cluster.figures.refused(&self.name, reason, shared);
                }
                let submitted = core.take_submission().into_iter();
                submitted.for_each(|pending| answers.refuse(pending.reply, PublishError::OutcomeUnknown));
            }
            Ok(Outcome::Nobody) => {
                let submitted = core.take_submission().into_iter();
                submitted.for_each(|pending| answers.add(pending.reply, Receipt::UNNUMBERED));
            }
            // The record has not come, and will not: the number is not known here.
            Ok(Outcome::Known) => {
                let submitted = core.take_submission().into_iter();
                submitted.for_each(|pending| answers.refuse(pending.reply, PublishError::OutcomeUnknown));
            }
            Err(AppendError(reason)) => {
                cluster.figures.refused(&self.name, &reason, shared);
                for pending in core.take_submission() {
                    answers.refuse(pending.reply, PublishError::EngineRefused(reason.clone()));
                }
            }
        }
        self.conclude(answers, core, cluster, shared);
    }

    /// Answers the publishers of the submission under way, whose first message has this position.
    fn answer_without_record(&self, core: &mut Core, first: Position, shared: &Topics, answers: &mut Answers<'_>) {
        let subscribers = core.subscribers();
        if let Some(clustered) = core.clustered.as_mut() {
            clustered.is_asked_for = true;
        }
        let mut accepted = Run::new(&shared.figures.published, core.namespace);
        for (seq, pending) in (first.seq..).zip(core.take_submission()) {
            accepted.add(pending.reply.via());
            answers.add(pending.reply, Receipt { epoch: first.epoch, seq, subscribers, again: false });
        }
    }

    /// Answers the publishers that have waited for too long. Called by the watch.
    pub(super) fn give_up_waiting(self: &Arc<Self>, cluster: &Cluster, shared: &Topics) {
        let timeout = shared.config().engine_timeout;
        let mut answers = self.answers();
        let mut core = self.core.lock();
        let Some(clustered) = core.clustered.as_mut() else { return };
        clustered.is_watched = false;
        if clustered.waits_since.is_some_and(|since| since.elapsed() >= timeout) {
            // The submission may be carried out late. The messages then come like those of another node.
            let link = cluster.shard(self).link();
            match clustered.submission.filter(|sent| sent.link == link).and_then(|sent| sent.first) {
                // The record is late, but the engine has answered.
                Some(first) => self.answer_without_record(&mut core, first, shared, &mut answers),
                None => {
                    for pending in core.take_submission() {
                        answers.refuse(pending.reply, PublishError::OutcomeUnknown);
                    }
                }
            }
            while let Some(pending) = core.inbox.take_back() {
                answers.refuse(pending.reply, PublishError::EngineUnavailable);
            }
        }
        self.conclude(answers, core, cluster, shared);
        self.watch(self.core.lock(), cluster, shared);
    }
}

impl Core {
    /// The subscribers on this node, and on the other nodes as last reported.
    pub(super) fn subscribers(&self) -> usize {
        let elsewhere = self.clustered.as_ref().map_or(0, |clustered| clustered.elsewhere);
        self.roster.len() + elsewhere as usize
    }

    /// Has a topic that an engine numbers opened again, at the present position.
    pub(in crate::topic) fn reopen(&mut self) {
        if let Some(clustered) = self.clustered.as_mut() {
            clustered.reopen();
            // Waiting batches and kept messages may be gone.
            clustered.is_behind = false;
            clustered.fill = Fill::No;
        }
    }

    /// Takes the messages of the submission under way out of the inbox.
    pub(in crate::topic) fn take_submission(&mut self) -> Vec<Pending> {
        let Some(clustered) = self.clustered.as_mut() else { return Vec::new() };
        let messages = clustered.submission.take().map_or(0, |submission| submission.messages);
        clustered.waits_since = None;
        (0..messages).map_while(|_| self.inbox.take_back()).collect()
    }
}
