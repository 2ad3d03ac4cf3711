//! What all clients have in common, whatever they speak: a connection, reasons for its end, and what the steps do with them.

use std::fmt::Debug;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::Instant;

use super::model::{Form, Id, Model, TOPICS};
use super::{Chance, Limits, Trace, classic, modern};
use crate::delivery::memory::{Peer, Read};

/// Not by any chance that of a session.
pub(super) const UNKNOWN_TOKEN: &str = "0123456789abcdef0123456789abcdef";

/// A client that believes nothing.
///
/// It writes commands, reads frames when it is not stalled, and holds each of them against the model. It also knows what
/// it has given the server reason for: a connection that ends without one is a fault.
pub(super) trait Client: Debug {
    fn line(&self) -> &Line;

    fn line_mut(&mut self) -> &mut Line;

    /// Whether it can ask for something more.
    fn is_at_leisure(&self) -> bool;

    /// Whether it will be subscribed when all commands are carried out.
    fn wants(&self, topic: usize) -> bool;

    /// Asks for a topic, unless its protocol has no words for what may happen there.
    fn subscribe(&mut self, topic: usize, model: &Model, chance: &Chance);

    fn unsubscribe(&mut self, topic: usize);

    /// The only topic that it may publish to for now.
    fn publishes_to(&self, model: &Model) -> Option<usize>;

    /// Publishes and asks for a receipt.
    fn publish(&mut self, id: Id, model: &Model);

    fn leave_unfinished(&mut self);

    /// Sends what it has to send, then its end, and goes on reading.
    fn finish(&mut self, chance: &Chance);

    /// What it can come back with.
    fn session(&self, instance: usize) -> Option<Session>;

    /// Writes and reads what there is, up to so many bytes; whether anything moved.
    fn pump(&mut self, at_most: usize, model: &mut Model, trace: &mut Trace, limits: &Limits) -> bool;

    /// Whether a message that was published to this topic with this id, and got a number, must reach it, or a gap instead.
    fn must_get(&self, topic: usize, id: Id) -> bool;

    /// Whether it knows of the message with this number, or of any without one, that it does not come.
    fn was_told_of(&self, topic: usize, seq: Option<u64>) -> bool;

    /// The server has nothing left to do and this client has read everything: has it been told all?
    fn check_settled(&mut self, probes: &[Option<Id>; TOPICS], model: &Model);

    /// After a drain: it was closed and not cut off, so it has everything that has a number.
    fn check_drained(&self, model: &Model);

    /// Whether it counts as a subscriber, for sure or perhaps.
    fn is_subscriber(&self, topic: usize) -> (bool, bool);
}

/// What remains with a client whose connection has ended.
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
    /// Written and not yet taken by the stream.
    pub(super) outgoing: Vec<u8>,
    /// Read and not yet understood.
    pub(super) incoming: Vec<u8>,
    /// When it was first seen that the server had ended its side.
    pub(super) cut: Option<Instant>,
    /// It does not read.
    pub(super) stalled: bool,
    pub(super) reason: Reason,
    pub(super) last_read: Instant,
    /// How its connection ended.
    pub(super) ended: Option<Read>,
}

/// Why its connection may end.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Reason {
    /// It has sent its end, or will when all is written.
    pub(super) finished: bool,
    /// The FIN is on its way.
    fin_sent: bool,
    /// Its Transport was made to crash.
    pub(super) crash: bool,
    /// It left a frame unfinished.
    pub(super) unfinished: bool,
    /// It got an error that closes.
    pub(super) error: bool,
    /// Somebody else has asked for its session.
    pub(super) taken: bool,
    pub(super) drain: bool,
    /// It has not read for so long that it may have been closed for a ping without an answer, until all is settled.
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

    /// Whether it can say something more.
    pub(super) fn is_open(&self) -> bool {
        !self.reason.finished && !self.reason.unfinished && self.ended.is_none()
    }

    pub(super) fn is_served(&self) -> bool {
        self.peer.is_served()
    }

    /// Nothing has happened that ends, or may end, its connection.
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

    /// Goes away at once, as soon as it is dropped.
    pub(super) fn vanish(&self, chance: &Chance) {
        if chance.one_in(2) {
            self.peer.reset();
        } else {
            self.peer.close();
        }
    }

    /// Writes what the stream takes; whether it took anything.
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

/// For what the server promises to those who come back, before which it may break a promise that is about to end.
const MARGIN: Duration = Duration::from_secs(3);

impl Limits {
    /// Whether the server has to keep what was published to a topic after the message with this number, which was there at
    /// that time.
    pub(super) fn must_keep(&self, topic: usize, last_seq: u64, at: Instant, model: &Model) -> bool {
        let (mut missed, mut bytes, mut oldest) = (0, 0, Duration::ZERO);
        // Without a number it may come before or after, but nothing is under way for so long.
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

    /// Whether the server has to know a session of this instance whose connection has ended, if it has, at that time.
    pub(super) fn must_know(&self, instance: usize, detached: Option<Instant>) -> bool {
        self.keeps_sessions
            && instance == self.instance
            && detached.is_none_or(|detached| detached.elapsed() + MARGIN < self.session_ttl)
    }

    /// Whether no topic has started afresh since then.
    pub(super) fn was_warm(&self, since: Instant) -> bool {
        self.last_cold.is_none_or(|cold| cold + MARGIN < since)
    }
}
