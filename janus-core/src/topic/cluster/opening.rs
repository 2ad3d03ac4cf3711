//! How a topic becomes ready for a subscriber: opened at the engine, and its ring filled for a client that returns.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{self, Poll, Waker};
use std::time::Duration;

use tokio::time::Instant;

use super::super::join::Beginning;
use super::super::state::{Core, Life, TopicError, TopicState};
use super::clustered::{Fill, Phase};
use super::{Cluster, keep};
use crate::engine::{Keep, Record};
use crate::topic::Topics;
use crate::wire::Position;

/// The wish of a client that a topic must be ready for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Want {
    /// A subscriber that begins here.
    Join(Beginning),
    /// A reader of the history.
    History,
}

/// Whether a topic can serve a wish.
enum Readiness {
    Ready,
    Wait,
    /// The engine has been away for too long.
    Refused,
}

/// The request of a topic to be opened or filled.
pub(super) enum Opening {
    Open { ask: u64, keep: Keep, known: Option<Position>, from: Option<u64> },
    Read { ask: u64, from: u64 },
}

impl TopicState {
    /// Whether the topic can serve the wish at once: always without an engine.
    pub(crate) fn is_prepared(&self, want: Want, shared: &Topics) -> bool {
        let Some(cluster) = shared.cluster.as_ref() else { return true };
        let mut core = self.core.lock();
        core.clustered.is_none() || matches!(self.readiness(&mut core, want, cluster, shared), Readiness::Ready)
    }

    /// Waits until the topic can serve the wish. Without an engine this is at once. While the engine is away, a topic that
    /// has been open serves from its ring.
    ///
    /// # Errors
    ///
    /// The topic has ended, or the engine has been away for `engine_timeout` and has never said where the topic is.
    pub(crate) async fn prepare(self: &Arc<Self>, want: Want, shared: &Topics) -> Result<(), TopicError> {
        poll_fn(|cx| self.poll_prepared(want, false, shared, cx)).await
    }

    /// The same as [`prepare`](Self::prepare). A patient caller waits for an engine that is away for long, too.
    pub(crate) fn poll_prepared(
        self: &Arc<Self>,
        want: Want,
        is_patient: bool,
        shared: &Topics,
        cx: &mut task::Context<'_>,
    ) -> Poll<Result<(), TopicError>> {
        let Some(cluster) = shared.cluster.as_ref() else { return Poll::Ready(Ok(())) };
        let mut core = self.core.lock();
        core.check_exists()?;
        if core.clustered.is_none() {
            return Poll::Ready(Ok(()));
        }
        match self.readiness(&mut core, want, cluster, shared) {
            Readiness::Ready => return Poll::Ready(Ok(())),
            Readiness::Refused if !is_patient => return Poll::Ready(Err(TopicError::NoEngine)),
            Readiness::Refused | Readiness::Wait => {}
        }
        let is_new = core.clustered.as_mut().is_some_and(|clustered| {
            clustered.add_waiting(cx.waker());
            clustered.set_ready()
        });
        drop(core);
        if is_new {
            cluster.add_ready(self);
        }
        Poll::Pending
    }

    fn readiness(&self, core: &mut Core, want: Want, cluster: &Cluster, shared: &Topics) -> Readiness {
        let link = cluster.shard(self).link();
        let Core { clustered: Some(clustered), sequence, life: Life::Live, .. } = core else {
            // The caller is told why the topic is out of service.
            return Readiness::Ready;
        };
        let reaches = |from| sequence.can_continue(from);
        let is_full = match want {
            Want::Join(Beginning::Now | Beginning::Session(None) | Beginning::Pass(_)) => true,
            Want::Join(Beginning::Position(since)) => {
                sequence.leads_here(since) && reaches(since.seq.saturating_add(1))
            }
            Want::Join(Beginning::Session(Some(from))) => reaches(from),
            Want::History | Want::Join(Beginning::Start) => clustered.fill == Fill::Done,
            Want::Join(Beginning::Last) => {
                clustered.fill == Fill::Done || sequence.last_message() < sequence.next_seq()
            }
        };
        if link == 0 {
            // The link may come back soon, and bring the messages that the ring lacks. A client that has had messages from
            // beyond this node's last would get them twice then, and goes to another node.
            let is_lost = cluster.refuses(self);
            let is_ahead =
                matches!(want, Want::Join(Beginning::Position(since)) if since.seq > sequence.position().seq);
            let is_served = is_full || is_lost && !is_ahead && !matches!(want, Want::History);
            return match clustered.is_placed && is_served {
                true => Readiness::Ready,
                false if is_lost => Readiness::Refused,
                false => Readiness::Wait,
            };
        }
        clustered.follow(link);
        if clustered.has_just_failed() {
            return Readiness::Refused;
        }
        if clustered.phase != Phase::Open {
            clustered.is_wanted = true;
        }
        let now = sequence.position();
        if let Want::Join(Beginning::Position(since)) = want
            && since.seq > now.seq
            && clustered.phase == Phase::Open
            && clustered.may_look()
        {
            // The client has had messages from beyond this node's last. Under another epoch, too: this node may have missed
            // a failover, and hear of the end of its link in a moment.
            clustered.reopen();
        }
        // While memory is short the ring is not filled, and the client is told of a gap.
        if !is_full && clustered.fill == Fill::No && shared.pressure() == 0 {
            clustered.fill = Fill::Wanted;
        }
        let is_filled = is_full || clustered.fill == Fill::Done || clustered.fill == Fill::No;
        if clustered.phase == Phase::Open && is_filled { Readiness::Ready } else { Readiness::Wait }
    }

    /// The request that the topic has to make over this link, if any, to be open or filled.
    pub(super) fn opening(&self, core: &mut Core, link: u64, cluster: &Cluster, shared: &Topics) -> Option<Opening> {
        let in_use = self.is_in_use(core);
        let Core { clustered: Some(clustered), sequence, life: Life::Live, is_torn: false, .. } = core else {
            return None;
        };
        clustered.follow(link);
        let config = shared.config();
        let keep = keep(&self.name, &config);
        if clustered.phase == Phase::Open {
            if clustered.fill != Fill::Wanted {
                return None;
            }
            let ask = cluster.next_ask();
            clustered.fill = Fill::Asked(ask);
            return Some(Opening::Read { ask, from: sequence.next_seq().saturating_sub(keep.messages).max(1) });
        }
        if clustered.phase != Phase::Closed || !in_use || clustered.is_behind || clustered.has_just_failed() {
            return None;
        }
        let ask = cluster.next_ask();
        clustered.phase = Phase::Asked(ask);
        clustered.is_wanted = false;
        if clustered.is_placed {
            let (known, from) = (sequence.position(), sequence.next_seq());
            return Some(Opening::Open { ask, keep, known: Some(known), from: Some(from) });
        }
        let fills = clustered.fill == Fill::Wanted;
        if fills {
            clustered.fill = Fill::Asked(ask);
        }
        Some(Opening::Open { ask, keep, known: None, from: fills.then_some(1) })
    }

    /// Whether the records of the topic are wanted on this node.
    pub(super) fn is_in_use(&self, core: &Core) -> bool {
        let Some(clustered) = &core.clustered else { return false };
        clustered.is_wanted
            || !clustered.waiting.is_empty()
            || core.roster.len() > 0
            || self.holds.load(Ordering::Relaxed) > 0
    }

    /// The engine has opened the topic.
    pub(super) fn opened(
        self: &Arc<Self>,
        (ask, position): (u64, Position),
        records: Vec<Record>,
        cluster: &Cluster,
        shared: &Topics,
    ) {
        let mut answers = self.answers();
        let mut core = self.core.lock();
        let is_asked = |core: &Core| core.clustered.as_ref().is_some_and(|known| known.phase == Phase::Asked(ask));
        if core.is_stopped() || !is_asked(&core) {
            return;
        }
        let was_placed = core.clustered.as_mut().is_some_and(|clustered| {
            clustered.phase = Phase::Open;
            clustered.failed = None;
            clustered.has_looked();
            std::mem::replace(&mut clustered.is_placed, true)
        });
        if was_placed {
            shared.counters.engine_resynced_topics.fetch_add(1, Ordering::Relaxed);
            self.catch_up_with_engine(&mut core, position, records, shared, &mut answers);
        } else {
            let pass = self.pass_numbers.begin().number;
            if core.roster.len() == 0 {
                core.sequence.begin_at(position, pass);
            } else {
                // A classic client has joined without an engine's word.
                let to = Position { seq: position.seq.max(core.sequence.next_seq()), ..position };
                core.sequence.jump(to, &self.name, shared.clock.tick(), shared.ledger(), pass);
            }
            self.fill_ring(&mut core, ask, &records, shared);
        }
        self.conclude(answers, core, cluster, shared);
    }

    /// The engine has read the topic's log.
    pub(super) fn read(self: &Arc<Self>, ask: u64, records: &[Record], cluster: &Cluster, shared: &Topics) {
        let answers = self.answers();
        let mut core = self.core.lock();
        if core.is_stopped() {
            return;
        }
        self.fill_ring(&mut core, ask, records, shared);
        self.conclude(answers, core, cluster, shared);
    }

    /// Puts records into the ring that come before the first kept message, if this is the answer to the topic's request.
    fn fill_ring(&self, core: &mut Core, ask: u64, records: &[Record], shared: &Topics) {
        let Some(clustered) = core.clustered.as_mut().filter(|clustered| clustered.fill == Fill::Asked(ask)) else {
            return;
        };
        clustered.fill = Fill::Done;
        // The messages numbered since must be in the ring already.
        self.seal(core, shared);
        let first = core.sequence.first_in_ring();
        let earlier = records.iter().filter(|record| record.last().seq < first);
        let batches: Option<Vec<_>> = earlier.map(|record| self.batch_of(record, shared)).collect();
        let is_whole = batches.is_some_and(|batches| core.sequence.fill(batches, shared.clock.tick()));
        if !is_whole {
            log::debug!(topic:% = self.name; "topic {}: the engine's log does not lead to the kept messages", self.name);
        }
    }

    /// The topic's actor has started, and answers of the engine find the actor up from now on.
    pub(in crate::topic) fn ask_with_actor(self: &Arc<Self>, shared: &Topics) {
        let Some(cluster) = shared.cluster.as_ref() else { return };
        let has_to_ask = {
            let mut core = self.core.lock();
            if let Some(clustered) = core.clustered.as_mut() {
                clustered.has_actor = true;
            }
            self.has_to_ask(&mut core)
        };
        if has_to_ask {
            cluster.add_ready(self);
        }
    }

    /// The topic has ended.
    pub(in crate::topic) fn leave_engine(self: &Arc<Self>, shared: &Topics) {
        let Some(cluster) = shared.cluster.as_ref() else { return };
        let is_open = self.core.lock().clustered.as_mut().is_some_and(|clustered| {
            cluster.figures.count_waiting(clustered, 0);
            clustered.phase != Phase::Closed
        });
        if is_open {
            cluster.add_ready(self);
        }
    }

    /// A new link is up: the topic opens again if in use, and sends the submission again.
    pub(super) fn follow_link(self: &Arc<Self>, link: u64, cluster: &Cluster) {
        let mut core = self.core.lock();
        // A submission under way waits in the inbox, too.
        let is_ready = self.is_in_use(&core) || core.inbox.unnumbered_frames() > 0;
        let Some(clustered) = core.clustered.as_mut() else { return };
        clustered.follow(link);
        // A topic that was on the list of a crashed task may be on no list.
        clustered.is_ready = is_ready;
        drop(core);
        if is_ready {
            cluster.add_ready(self);
        }
    }

    /// An answer or a record has not been taken, because the topic has no actor that could. A successor opens the topic again.
    pub(super) fn miss(&self) {
        self.core.lock().reopen();
    }

    /// The engine has failed a request of the topic, or a record. By the contract the topic is not open by then; a later
    /// request opens the topic again.
    pub(super) fn fail(self: &Arc<Self>, cluster: &Cluster, shared: &Topics) {
        let answers = self.answers();
        let mut core = self.core.lock();
        let Some(clustered) = core.clustered.as_mut() else { return };
        let was_open = clustered.phase == Phase::Open;
        clustered.fail();
        clustered.is_wanted = was_open;
        if let Fill::Asked(_) = clustered.fill {
            // Clients that return are told of a gap.
            clustered.fill = Fill::Done;
        }
        self.conclude(answers, core, cluster, shared);
    }

    /// The number of subscribers, if a report is due: of a changed number, the number of an open topic at least
    /// once in `every`, and the number of a topic that has a publisher. A topic that the engine has failed to open asks again.
    pub(super) fn to_report(self: &Arc<Self>, link: u64, every: Duration, cluster: &Cluster) -> Option<u64> {
        let mut core = self.core.lock();
        if self.has_to_ask(&mut core) {
            cluster.add_ready(self);
        }
        let subscribers = core.roster.len() as u64;
        let clustered = core.clustered.as_mut().filter(|clustered| clustered.link == link)?;
        let is_due = match clustered.reported {
            Some((at, reported)) => reported != subscribers || clustered.phase == Phase::Open && at.elapsed() >= every,
            None => clustered.phase == Phase::Open,
        };
        if !is_due && !std::mem::take(&mut clustered.is_asked_for) {
            return None;
        }
        clustered.reported = Some((Instant::now(), subscribers));
        Some(subscribers)
    }

    /// The engine has said where the topic is. A topic that is behind has missed a record.
    pub(super) fn reported(
        self: &Arc<Self>,
        position: Option<Position>,
        subscribers: u64,
        cluster: &Cluster,
        shared: &Topics,
    ) {
        let answers = self.answers();
        let mut core = self.core.lock();
        let (now, here) = (core.sequence.position(), core.roster.len() as u64);
        let Some(clustered) = core.clustered.as_mut() else { return };
        clustered.elsewhere = subscribers.saturating_sub(here);
        if clustered.phase == Phase::Open && position != Some(now) {
            shared.counters.engine_holes.fetch_add(1, Ordering::Relaxed);
            clustered.reopen();
        }
        self.conclude(answers, core, cluster, shared);
    }

    /// Whether the engine has an unanswered request of the topic, or has to be reached first.
    pub(in crate::topic) fn waits_for_engine(&self) -> bool {
        let core = self.core.lock();
        let Some(clustered) = core.clustered.as_ref().filter(|clustered| clustered.has_actor && !clustered.is_behind)
        else {
            return false;
        };
        clustered.phase != Phase::Open || matches!(clustered.fill, Fill::Wanted | Fill::Asked(_))
    }

    /// Whether the records of the topic come over this link, or have been asked for.
    pub(super) fn has_records(&self, link: u64) -> bool {
        let core = self.core.lock();
        core.clustered.as_ref().is_some_and(|known| known.link == link && known.phase != Phase::Closed)
    }

    /// Wakes the tasks that wait for the topic.
    pub(in crate::topic) fn wake_waiting(&self) {
        let waiting = Self::take_waiting(&mut self.core.lock());
        waiting.into_iter().for_each(Waker::wake);
    }

    /// Takes the tasks that wait for the topic.
    pub(super) fn take_waiting(core: &mut Core) -> Vec<Waker> {
        core.clustered.as_mut().map(|clustered| std::mem::take(&mut clustered.waiting)).unwrap_or_default()
    }
}
