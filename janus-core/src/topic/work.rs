//! The steps of a topic's actor: number the inbox, begin a pass, end a pass.
//!
//! Each step is one short hold of the lock over [`TopicState`]. The order of the steps, and how many of them fit into
//! a turn, is the business of the [`actor`](super::actor).

use std::sync::Arc;
use std::task::Waker;

use super::publish::{Pending, Receipt, Reply};
use super::shared::Topics;
use super::state::TopicState;
use crate::delivery::Pass;
use crate::delivery::pass::Help;
use crate::ground::clock::timestamp;
use crate::ground::trace::{self, Said, TraceKind};
use crate::wire::TopicName;
use crate::wire::classic::MessageHead;

/// The next step of a topic's actor.
pub(super) enum Next {
    /// Number the messages in the inbox.
    Number,
    /// Serve this pass.
    Serve(Arc<Pass>),
    /// Wait for the next message.
    Rest,
}

impl TopicState {
    /// Numbers and encodes all messages in the inbox.
    pub(super) fn number_inbox(&self, shared: &Topics) {
        if self.core.lock().inbox.is_empty() {
            return;
        }
        shared.faults.before_numbering();
        // Publishers are told in any case: even if this panics, numbered messages will be delivered. Publishers are
        // told without the lock, taken later and so dropped first: a promise wakes a task of any program.
        let mut answers = Answers { topic: &self.name, answers: Vec::new() };
        let mut core = self.core.lock();
        let core = &mut *core;
        core.last_used = shared.clock.tick();
        // One instant for all messages numbered together, and for every subscriber: the clock is read once, and all
        // subscribers get identical bytes.
        let head = MessageHead::new(&timestamp());
        while let Some(Pending { publication, reply }) = core.inbox.take() {
            let (position, length) = core.sequence.number(&head, &publication);
            core.inbox.note_numbered(publication.len(), length);
            let receipt = Receipt { epoch: position.epoch, seq: position.seq, subscribers: core.roster.len() };
            if reply.wants_receipt() {
                answers.answers.push((reply, receipt));
            } else {
                reply.accept(&self.name, receipt);
            }
            shared.faults.after_commit();
            if core.sequence.open_bytes() >= shared.config.coalesce_bytes {
                self.seal(core, shared);
            }
        }
    }

    /// What the actor has to do next. After [`Next::Rest`] the next message wakes the actor.
    pub(super) fn next(&self, shared: &Topics) -> Next {
        let mut guard = self.core.lock();
        let core = &mut *guard;
        if let Some(pass) = core.sequence.pass() {
            return Next::Serve(Arc::clone(pass));
        }
        if core.sequence.next_batch().is_none() {
            self.seal(core, shared);
        }
        let Some(batch) = core.sequence.next_batch().cloned() else {
            if !core.inbox.is_empty() {
                return Next::Number;
            }
            core.inbox.rest();
            return Next::Rest;
        };
        let subscribers = Arc::clone(core.roster.list());
        core.sequence.note_under_way(&batch, self.pass_numbers.begin());
        // Encoded now, because a codec must not run in a sender.
        for codec in core.roster.codecs().iter() {
            batch.view(codec, &shared.terms.codecs);
        }
        let tick = shared.clock.tick();
        let help = help(subscribers.len(), shared);
        let pass = Arc::new(Pass::new(batch, subscribers, tick, help, Arc::clone(&shared.faults)));
        core.sequence.begin(&pass);
        if help != Help::None {
            shared.senders.offer(Arc::clone(&pass));
        }
        drop(guard);
        shared.tracer.tell(TraceKind::Pass, || self.describe(&pass));
        Next::Serve(pass)
    }

    fn describe(&self, pass: &Pass) -> Said {
        let (batch, subscribers) = (pass.batch(), pass.subscribers());
        let (first, last, bytes) = (batch.first_seq(), batch.last_seq(), batch.byte_len());
        let to = if pass.help() == Help::None { "subscribers" } else { "senders" };
        let about = format!("numbers {first} to {last}, {bytes} bytes, to {subscribers} subscribers");
        Said { from: trace::topic(&self.name), to: to.to_owned(), about }
    }

    /// The actor is about to wait for the senders, and the next message is to wake it. Returns false if a message is in
    /// the inbox already.
    pub(super) fn rest_in_pass(&self) -> bool {
        self.core.lock().inbox.rest()
    }

    /// Ends a complete pass: the batch has been handed out, and the changes to the list that waited are applied.
    pub(super) fn end_pass(&self, pass: Arc<Pass>, shared: &Topics) {
        if pass.help() != Help::None {
            // So that no sender holds on to the list when the next client joins.
            shared.senders.withdraw(&pass);
        }
        let waiting = {
            let mut core = self.core.lock();
            let Some(handed_out) = core.sequence.end(pass) else { return };
            core.roster.apply_changes();
            core.inbox.note_handed_out(handed_out)
        };
        waiting.into_iter().for_each(Waker::wake);
    }
}

/// How the senders help with the next pass of a topic.
fn help(subscribers: usize, shared: &Topics) -> Help {
    if shared.config.threads == 1 {
        Help::None
    } else if subscribers > shared.config.inline_subscribers {
        Help::Together
    } else if subscribers >= WORTH_LEAVING && shared.load.is_behind(shared.home.pauses()) && shared.senders.has_room() {
        Help::First
    } else {
        Help::None
    }
}

/// From this many subscribers on, a topic may leave its delivery to a sender. The handover takes some locks and perhaps
/// a wake-up, and costs more than a send or two. The exact number at which the two are level has not been measured.
const WORTH_LEAVING: usize = 4;

/// Receipts for numbered messages.
struct Answers<'a> {
    topic: &'a TopicName,
    answers: Vec<(Reply, Receipt)>,
}

impl Drop for Answers<'_> {
    fn drop(&mut self) {
        for (reply, receipt) in self.answers.drain(..) {
            reply.accept(self.topic, receipt);
        }
    }
}
