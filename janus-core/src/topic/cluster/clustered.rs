//! How far a topic is with its engine.

use std::task::Waker;
use std::time::Duration;

use tokio::time::Instant;

use crate::wire::Position;

/// The engine's part of a topic's state. Changed under the topic's lock.
#[derive(Debug, Default)]
pub(in crate::topic) struct Clustered {
    /// The number of the link for which `phase` holds.
    pub(super) link: u64,
    pub(super) phase: Phase,
    /// Whether the numbers of the topic are the engine's: the topic has been open, or continues after it was asleep.
    pub(super) is_placed: bool,
    /// Whether the topic has had an actor, which answers of the engine need.
    pub(super) has_actor: bool,
    /// Whether the topic is to be opened before the first subscriber comes.
    pub(super) is_wanted: bool,
    pub(super) fill: Fill,
    /// The submission under way.
    pub(super) submission: Option<Submission>,
    /// When the first of the waiting messages began to wait, or when the last submission ended.
    pub(super) waits_since: Option<Instant>,
    /// Whether the watch has the topic.
    pub(super) is_watched: bool,
    /// Whether the topic is on the list of the task of the link.
    pub(super) is_ready: bool,
    /// When the engine has failed to open the topic; `None` after a success.
    pub(super) failed: Option<Instant>,
    /// Whether records were left out because too many messages wait to be handed out.
    pub(super) is_behind: bool,
    /// Tasks that wait until a subscriber can be given a place.
    pub(super) waiting: Vec<Waker>,
    /// When the topic was opened again for the sake of a client that has had messages elsewhere.
    pub(super) looked: Option<Instant>,
    /// When the number of subscribers was reported last, and the number.
    pub(super) reported: Option<(Instant, u64)>,
    /// Whether a publisher wants the number of all nodes, and no subscriber here has it reported.
    pub(super) is_asked_for: bool,
    /// How many messages of the topic are counted as waiting for the engine.
    pub(super) counted: usize,
    /// Subscribers on other nodes, as last reported.
    pub(super) elsewhere: u64,
}

/// How long a topic waits until the engine is asked again after a failure: a subscriber is told at once, and the round of
/// reports comes by.
const RETRY: Duration = Duration::from_secs(1);

/// Whether the engine sends the records of the topic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Phase {
    #[default]
    Closed,
    /// The request with this number is under way.
    Asked(u64),
    Open,
}

/// Whether the ring holds all messages that the engine keeps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Fill {
    #[default]
    No,
    Wanted,
    /// The request with this number is under way.
    Asked(u64),
    Done,
}

/// Messages on their way to the engine: the first of the inbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Submission {
    pub(super) number: u64,
    pub(super) messages: usize,
    /// Messages that have been numbered already, at a crash of the topic.
    pub(super) numbered: u64,
    /// The number of the link over which the submission was sent.
    pub(super) link: u64,
    /// Whether the submission was sent over an earlier link, too. A server may have carried the submission
    /// out there, and may have lost the messages since.
    pub(super) is_sent_again: bool,
    /// When the submission was sent first.
    pub(super) sent: Instant,
    /// The position of the first of `messages`, once the engine has answered.
    pub(super) first: Option<Position>,
}

impl Clustered {
    /// A topic that continues at a known position.
    pub(in crate::topic) fn placed(is_placed: bool) -> Self {
        Self { is_placed, ..Self::default() }
    }

    /// Forgets the state of earlier links.
    pub(super) fn follow(&mut self, link: u64) {
        if self.link != link {
            self.link = link;
            self.phase = Phase::Closed;
            self.reported = None;
            if let Fill::Asked(_) = self.fill {
                self.fill = Fill::Wanted;
            }
        }
    }

    /// The engine cannot open the topic, or has broken its contract.
    pub(super) fn fail(&mut self) {
        self.phase = Phase::Closed;
        self.is_wanted = false;
        self.failed = Some(Instant::now());
    }

    /// Whether the engine has failed to open the topic a moment ago.
    pub(super) fn has_just_failed(&self) -> bool {
        self.failed.is_some_and(|failed| failed.elapsed() < RETRY)
    }

    /// Whether a message that has come must be told of: the topic is not on the list of ready topics, or not watched.
    pub(in crate::topic) fn has_to_be_told(&self) -> bool {
        !self.is_ready || !self.is_watched
    }

    /// Puts the topic on the list of ready topics. Returns false for a topic on the list.
    pub(super) fn set_ready(&mut self) -> bool {
        !std::mem::replace(&mut self.is_ready, true)
    }

    /// Opens the topic again, because records are missing.
    pub(super) fn reopen(&mut self) {
        self.phase = Phase::Closed;
        self.is_wanted = true;
        if let Fill::Asked(_) = self.fill {
            self.fill = Fill::Wanted;
        }
    }

    /// Whether the topic may be opened again for a client that claims to have had messages from beyond the last. Once in a
    /// while: a client can invent numbers, and all subscribers wait while the topic is opened. Whatever number was claimed
    /// before: a claim that was false must not spoil a true one.
    pub(super) fn may_look(&mut self) -> bool {
        let may = self.looked.is_none_or(|at| at.elapsed() >= RETRY);
        if may {
            self.looked = Some(Instant::now());
        }
        may
    }

    /// The topic has been opened: clients that have waited for a look take what there is.
    pub(super) fn has_looked(&mut self) {
        if let Some(at) = &mut self.looked {
            *at = Instant::now();
        }
    }

    /// Whether tasks wait until a subscriber can be given a place.
    pub(in crate::topic) fn is_waited_for(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Whether the numbers of the topic are the engine's.
    pub(in crate::topic) fn is_placed(&self) -> bool {
        self.is_placed
    }

    pub(super) fn add_waiting(&mut self, waker: &Waker) {
        if !self.waiting.iter().any(|waiting| waiting.will_wake(waker)) {
            self.waiting.push(waker.clone());
        }
    }

    /// How many of the inbox's messages are on their way.
    pub(in crate::topic) fn submitted(&self) -> usize {
        self.submission.map_or(0, |submission| submission.messages)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_engine_is_asked_about_claims_once_a_second_whatever_was_claimed_before() {
        let mut clustered = Clustered::default();
        assert!(clustered.may_look() && !clustered.may_look());
        tokio::time::advance(RETRY).await;
        clustered.has_looked();
        assert!(!clustered.may_look(), "a client that has waited for a slow engine does not ask again");
        tokio::time::advance(RETRY).await;
        assert!(clustered.may_look());
    }
}
