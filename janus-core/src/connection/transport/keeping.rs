//! A connection of HTTP that is kept between its requests.
//!
//! HTTP answers requests in their order, and has no numbers to tell the answers apart. So the next request is decoded when
//! the answer to the earlier one is on its way. Requests that a client sends ahead wait in TCP meanwhile, as those of any
//! publisher ahead of its topic do.
//!
//! Such a connection is a [guest](crate::connection::guests): on a full server it makes room, silent connections first.

use std::sync::atomic::Ordering;
use std::task::Poll;

use super::pacing::Pace;
use super::whence::Arrival;
use super::{Step, Transport};
use crate::accounts::fairness::price;
use crate::connection::returning::Kept;
use crate::topic::publish::{Owed, Pending, Reply};
use crate::wire::{Bytes, Command, Peer, Publication, RequestId, TopicName};

/// The order of the answers to the requests of a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Answers {
    /// Each names its request.
    #[default]
    Named,
    /// One after the other.
    InOrder,
    /// As `InOrder`, and the connection is closed after the answer under way.
    Last,
}

/// A connection that comes back after it was passed on.
pub(crate) struct Returning {
    /// Whether the connection was counted as accepted.
    pub(crate) is_counted: bool,
    /// Input of the client.
    pub(crate) received: Bytes,
    pub(crate) kept: Kept,
}

impl Transport {
    /// Continues with a connection that was passed on.
    pub(crate) fn return_with(&mut self, returning: Returning) {
        let Returning { is_counted, received, kept: Kept { bytes, is_submitter, client } } = returning;
        self.is_counted = is_counted;
        self.is_of_requests = true;
        self.pace = Pace::with_bytes(bytes);
        if is_submitter {
            self.answers = Answers::InOrder;
        }
        if client.is_some() {
            let arrival = Arrival { client, ..self.take_arrival() };
            self.rare.make().arrival = Some(Box::new(arrival));
        }
        self.rest = Some(Box::new(received)).filter(|rest| !rest.is_empty());
        // A request that was passed on has led to a connection more.
        self.portion.add(price::LENGTHY);
    }

    /// Counts the connection as accepted, once.
    pub(super) fn count_accepted(&mut self) {
        if !std::mem::replace(&mut self.is_counted, true) {
            self.shared.counters.connections_accepted.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Decides about a request that shows its own right. Its client may be another one than that of the request before,
    /// because proxies keep connections for all their clients: the connection stays the proxy's.
    pub(super) fn admit_request(&mut self) {
        self.is_of_requests = true;
        let is_foreign = match self.decoder.request() {
            Some(request) => self.client_of(request).1,
            None => true,
        };
        self.decoder.admit(self.origin.is_local && !self.is_foreign && !is_foreign);
    }

    /// Publishes by the right of an admitted request.
    pub(super) fn submit(&mut self, topic: TopicName, publication: Publication, id: RequestId, last: bool) {
        self.answers = if last { Answers::Last } else { Answers::InOrder };
        if self.shared.is_draining() {
            self.announce_close();
            self.answers = Answers::Last;
        }
        let reply = Reply::connection(Owed::to_request(&self.slot, topic.clone()), true, id);
        self.offer(topic, Pending { publication, reply }, None);
    }

    /// Whether the client is trusted with as many bytes as it likes: its last request was admitted.
    pub(super) fn is_submitter(&self) -> bool {
        self.answers != Answers::Named
    }

    /// Announces the end of the connection in the answers still owed.
    pub(super) fn announce_close(&mut self) {
        let codecs = self.shared.codecs();
        let closing = self.decoder.closing().and_then(|place| codecs.successor(self.slot.codec(), place));
        if let Some(codec) = closing {
            self.speak(codec);
        }
    }

    /// Whether the answer to an earlier request comes before anything else.
    pub(super) fn owes_answer_first(&self) -> bool {
        self.answers != Answers::Named && self.slot.is_answering()
    }

    /// Waits for the answer to an earlier request.
    pub(super) fn await_answer(&mut self) -> Poll<()> {
        if !self.slot.is_settled() {
            return Poll::Pending;
        }
        self.step = Step::Reading;
        if self.answers == Answers::Last {
            self.close();
        }
        Poll::Ready(())
    }

    /// Gives the stream another use once the client has taken all answers: they would be lost, or come too late.
    pub(super) fn after_answers(&mut self, command: Command) {
        self.step = Step::Emptying(Box::new(command));
        let _ = self.empty();
    }

    /// Continues after [`after_answers`](Self::after_answers).
    pub(super) fn empty(&mut self) -> Poll<()> {
        if !self.slot.is_flushed() {
            return Poll::Pending;
        }
        if let Step::Emptying(command) = std::mem::replace(&mut self.step, Step::Reading) {
            match *command {
                Command::Become(bytes) => {
                    if self.is_submitter() {
                        // From here on, the client is like any other, and owes nothing for its publications.
                        self.pace = Pace::default();
                    }
                    (self.answers, self.is_of_requests) = (Answers::Named, false);
                    self.become_successor(bytes);
                }
                _ => self.pass_on(),
            }
        }
        Poll::Ready(())
    }

    /// Tells the heartbeat whether the client owes bytes, and how patient to be. `completed` says whether the client has
    /// completed a frame since the last time.
    pub(crate) fn note_awaited(&self, completed: bool) {
        let is_awaited = self.is_awaited();
        let was_idle = self.slot.set_idle(is_awaited && self.decoder.is_idle());
        let begins_anew = completed || was_idle != self.slot.is_idle();
        self.slot.set_unfinished(is_awaited, begins_anew, self.shared.clock.tick());
    }

    /// What holds for the next request, if the connection comes back; `arrived` is the peer without any request.
    pub(super) fn kept_from(&self, arrived: Peer) -> Kept {
        let client = Some(self.session.peer()).filter(|peer| *peer != arrived);
        Kept { bytes: self.pace.bytes(), is_submitter: self.is_submitter(), client }
    }

    /// What the connection needs to come back after it was passed on.
    pub(super) fn take_arrival(&mut self) -> Arrival {
        match self.rare.take_arrival() {
            Some(arrival) => *arrival,
            None => Arrival { peer: self.session.peer(), is_foreign: self.is_foreign, client: None },
        }
    }
}
