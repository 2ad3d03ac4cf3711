//! The common parts of clients of any protocol: the actions of the steps, a connection, and the reasons for its end.

use std::fmt::Debug;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::Instant;

use super::model::{Form, Id, Model, TOPICS};
use super::{Chance, Limits, Trace, classic, modern};
use crate::delivery::memory::{Peer, Read};

/// A token that no session has.
pub(super) const UNKNOWN_TOKEN: &str = "0123456789abcdef0123456789abcdef";

/// A client that believes nothing.
///
/// The client writes commands, reads frames unless stalled, and checks each frame against the model. The client also
/// keeps the reasons for the server to end the connection: an end without a reason is a fault.
pub(super) trait Client: Debug {
    fn line(&self) -> &Line;

    fn line_mut(&mut self) -> &mut Line;

    /// Whether the client can send another command.
    fn is_at_leisure(&self) -> bool;

    /// Whether the client will be subscribed to `topic` after all commands.
    fn wants(&self, topic: usize) -> bool;

    /// Subscribes, unless the protocol has no frame for an event that may happen in the topic.
    fn subscribe(&mut self, topic: usize, model: &Model, chance: &Chance);

    fn unsubscribe(&mut self, topic: usize);

    /// The only topic to which the client may publish for now, if there is such a limit.
    fn publishes_to(&self, model: &Model) -> Option<usize>;

    /// Publishes and asks for a receipt.
    fn publish(&mut self, id: Id, model: &Model);

    fn leave_unfinished(&mut self);

    /// Sends all outgoing bytes and a FIN, and keeps reading.
    fn finish(&mut self, chance: &Chance);

    /// The session with which the client can come back.
    fn session(&self, instance: usize) -> Option<Session>;

    /// Writes and reads up to `at_most` bytes. Returns whether anything moved.
    fn pump(&mut self, at_most: usize, model: &mut Model, trace: &mut Trace, limits: &Limits) -> bool;

    /// Whether the message `id` of `topic`, given a number, must reach the client, or a gap in its place.
    fn must_get(&self, topic: usize, id: Id) -> bool;

    /// Whether the client was told by a gap that the message with this number does not come. Any gap counts if `seq` is
    /// `None`.
    fn was_told_of(&self, topic: usize, seq: Option<u64>) -> bool;

    /// Checks, with nothing left to do or to read, that the client has had everything.
    fn check_settled(&mut self, probes: &[Option<Id>; TOPICS], model: &Model);

    /// Checks, after a drain, that a client which was closed and not cut off has every message with a number.
    fn check_drained(&self, model: &Model);

    /// Whether the client surely counts as a subscriber of `topic`, and whether perhaps.
    fn is_subscriber(&self, topic: usize) -> (bool, bool);
}

/// The knowledge of a client whose connection has ended.
#[derive(Clone, Debug)]
pub(super) enum Session {
    Classic(Box<classic::Session>),
    Modern(Box<modern::Session>),
}

/// A client's end of its connection.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) number: usize,
    pub(super) addr: SocketAddr,
    peer: Peer,
    /// Bytes not yet taken by the stream.
    pub(super) outgoing: Vec<u8>,
    /// Bytes of an incomplete frame.
    pub(super) incoming: Vec<u8>,
    /// When the client first saw that the server had ended its side.
    cut: Option<Instant>,
    /// The client does not read.
    pub(super) stalled: bool,
    pub(super) reason: Reason,
    pub(super) last_read: Instant,
    /// How the connection ended.
    pub(super) ended: Option<Read>,
}

/// The reasons for which the connection may end.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Reason {
    /// The client has sent a FIN, or will after the outgoing bytes.
    pub(super) finished: bool,
    /// The FIN is on its way.
    fin_sent: bool,
    /// The Transport of the connection was made to crash.
    pub(super) crash: bool,
    /// The client left a frame unfinished.
    pub(super) unfinished: bool,
    /// The client got an error that closes.
    pub(super) error: bool,
    /// Another connection has asked for the client's session.
    pub(super) taken: bool,
    pub(super) drain: bool,
    /// The client did not read for so long that a ping may have gone unanswered, and closed the connection. Holds until
    /// all is settled.
    pub(super) silent: bool,
}

/// How long a client may owe the answer to a ping.
pub(super) const PONG_TIMEOUT: Duration = Duration::from_secs(12);

impl Line {
    pub(super) fn new(number: usize, addr: SocketAddr, peer: Peer) -> Self {
        Self {
            number,
            addr,
            peer,
            outgoing: Vec::new(),
            incoming: Vec::new(),
            cut: None,
            stalled: false,
            reason: Reason::default(),
            last_read: Instant::now(),
            ended: None,
        }
    }

    /// Whether the client can still send.
    pub(super) fn is_open(&self) -> bool {
        !self.reason.finished && !self.reason.unfinished && self.ended.is_none()
    }

    pub(super) fn is_served(&self) -> bool {
        self.peer.is_served()
    }

    /// Whether no event has ended the connection, or may end the connection.
    pub(super) fn is_dependable(&self) -> bool {
        let Reason { finished, fin_sent: _, crash, unfinished, error, taken, drain: _, silent } = self.reason;
        let excused = finished || crash || unfinished || error || taken || silent || self.is_silent();
        self.ended.is_none() && !self.stalled && !excused && self.is_served()
    }

    fn is_silent(&self) -> bool {
        self.last_read.elapsed() >= PONG_TIMEOUT
    }

    pub(super) fn note_cut(&mut self) {
        self.cut.get_or_insert_with(Instant::now);
    }

    /// The earliest time at which the session can have lost its connection. The server may have begun to close the
    /// connection of a client that does not read long before the end of the stream: its last words wait.
    pub(super) fn detached(&self) -> Option<Instant> {
        self.cut.map(|cut| cut.min(self.last_read))
    }

    /// Leaves without a goodbye, by a reset or a close. The drop of the client follows.
    pub(super) fn vanish(&self, chance: &Chance) {
        if chance.one_in(2) {
            self.peer.reset();
        } else {
            self.peer.close();
        }
    }

    /// Writes as much as the stream takes. Returns whether anything moved.
    pub(super) fn write_out(&mut self) -> bool {
        let mut moved = false;
        if !self.peer.is_served() {
            self.note_cut();
        }
        if !self.outgoing.is_empty() {
            let length = self.peer.write(&self.outgoing);
            self.outgoing.drain(..length);
            moved = length > 0;
        }
        if self.outgoing.is_empty() && self.reason.finished && !self.reason.fin_sent {
            self.peer.finish();
            self.reason.fin_sent = true;
            moved = true;
        }
        moved
    }

    pub(super) fn reads(&self) -> bool {
        !self.stalled && self.ended.is_none()
    }

    pub(super) fn read(&mut self, at_most: usize) -> Read {
        self.reason.silent |= self.is_silent();
        let read = self.peer.read(&mut self.incoming, at_most);
        if matches!(read, Read::Bytes | Read::Nothing) {
            self.last_read = Instant::now();
        }
        read
    }

    pub(super) fn end(&mut self, read: Read, trace: &mut Trace) {
        trace.note(if read == Read::Fin { "fin" } else { "reset" }, self.number, 0, 0);
        self.ended = Some(read);
        self.peer.close();
    }
}

/// A promise to clients that come back may be broken this long before the promise ends.
const MARGIN: Duration = Duration::from_secs(3);

impl Limits {
    /// Whether the server has to keep the messages of a topic after the number `last_seq`, which was known at the time
    /// `at`.
    pub(super) fn must_keep(&self, topic: usize, last_seq: u64, at: Instant, model: &Model) -> bool {
        let (mut missed, mut bytes, mut oldest) = (0, 0, Duration::ZERO);
        // A message without a number may come before or after, but no message is under way for longer than this.
        let soon = at.elapsed() + Duration::from_secs(10);
        let messages = model.by_topic[topic].iter().map(|id| (*id, &model.messages[*id]));
        for (id, message) in messages.filter(|(_, message)| message.can_be_received()) {
            let age = message.published.elapsed();
            if message.seq.map_or(age < soon, |seq| seq > last_seq) {
                missed += 1;
                bytes += message.tail(id, Form::Classic).len() + 60;
                oldest = oldest.max(age);
            }
        }
        missed <= self.resume_messages && bytes <= self.resume_bytes && oldest + MARGIN < self.resume_age
    }

    /// Whether the server has to know a session of `instance`, whose connection ended at the time `detached`, if at
    /// all.
    pub(super) fn must_know(&self, instance: usize, detached: Option<Instant>) -> bool {
        self.keeps_sessions
            && instance == self.instance
            && detached.is_none_or(|detached| detached.elapsed() + MARGIN < self.session_ttl)
    }

    /// Whether no topic has started afresh after `since`.
    pub(super) fn was_warm(&self, since: Instant) -> bool {
        self.last_cold.is_none_or(|cold| cold + MARGIN < since)
    }
}
