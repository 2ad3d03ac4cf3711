//! Faults for tests of a running tree, to show their effect on clients.
//!
//! Without the feature `fault-injection` every check here is empty and costs nothing.

#[cfg(feature = "fault-injection")]
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};

use super::homes::HomeId;

/// The server of a piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Server {
    /// A home arbiter: mostly the topic's own actor.
    Home(HomeId),
    /// A home arbiter that helps with a pass of another home, as a sender does.
    Helper(HomeId),
    /// The sender thread of this number, from 1 on.
    Sender(usize),
}

impl Server {
    /// The number of the thread among the threads that deliver.
    pub(crate) fn thread(self) -> usize {
        match self {
            Self::Home(home) | Self::Helper(home) => home.index(),
            // From the other end, because the number of homes is not known here.
            Self::Sender(number) => usize::MAX - number,
        }
    }
}

/// The armed faults, each with a moment.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    #[cfg(feature = "fault-injection")]
    sender_sends: Countdown,
    #[cfg(feature = "fault-injection")]
    helper_sends: Countdown,
    #[cfg(feature = "fault-injection")]
    topic_sends: Countdown,
    #[cfg(feature = "fault-injection")]
    topic_encodings: Countdown,
    #[cfg(feature = "fault-injection")]
    topic_publications: Countdown,
    #[cfg(feature = "fault-injection")]
    topic_starts: Countdown,
    #[cfg(feature = "fault-injection")]
    topic_lists: Countdown,
    #[cfg(feature = "fault-injection")]
    errands: Countdown,
    #[cfg(feature = "fault-injection")]
    engine_answers: Countdown,
    #[cfg(feature = "fault-injection")]
    tls_handshakes: Countdown,
    #[cfg(feature = "fault-injection")]
    topic_hang: parking_lot::Mutex<Option<std::time::Duration>>,
    #[cfg(feature = "fault-injection")]
    memory_taken: AtomicUsize,
}

impl Faults {
    /// Called before each send of a fan-out.
    #[cfg_attr(not(feature = "fault-injection"), expect(clippy::unused_self, reason = "empty without the feature"))]
    #[inline]
    pub(crate) fn before_send(&self, _by: Server) {
        #[cfg(feature = "fault-injection")]
        match _by {
            Server::Sender(_) => self.sender_sends.hit("a sender, in the middle of a fan-out"),
            Server::Helper(_) => self.helper_sends.hit("a helping home, in the middle of a fan-out"),
            Server::Home(_) => self.topic_sends.hit("a topic, in the middle of a fan-out"),
        }
    }

    /// Called in the middle of the numbering of a message, before the commit.
    #[cfg_attr(not(feature = "fault-injection"), expect(clippy::unused_self, reason = "empty without the feature"))]
    #[inline]
    pub(crate) fn before_commit(&self) {
        #[cfg(feature = "fault-injection")]
        self.topic_encodings.hit("a topic, before committing a message");
    }

    /// Called between the numbering of a message and the first send.
    #[cfg_attr(not(feature = "fault-injection"), expect(clippy::unused_self, reason = "empty without the feature"))]
    #[inline]
    pub(crate) fn after_commit(&self) {
        #[cfg(feature = "fault-injection")]
        self.topic_publications.hit("a topic, after committing a message");
    }

    /// Called before a topic numbers messages.
    #[cfg_attr(not(feature = "fault-injection"), expect(clippy::unused_self, reason = "empty without the feature"))]
    #[inline]
    pub(crate) fn before_numbering(&self) {
        #[cfg(feature = "fault-injection")]
        if let Some(time) = self.topic_hang.lock().take() {
            Crash { hang: Some(time) }.now("a topic");
        }
    }

    /// Bytes that count as used, in addition to the accounted bytes.
    #[cfg_attr(not(feature = "fault-injection"), expect(clippy::unused_self, reason = "empty without the feature"))]
    #[inline]
    pub(crate) fn memory_taken(&self) -> usize {
        #[cfg(feature = "fault-injection")]
        return self.memory_taken.load(Ordering::Relaxed);
        #[cfg(not(feature = "fault-injection"))]
        0
    }

    /// Called when the TopicManager has listed a topic and not yet started it.
    #[cfg_attr(not(feature = "fault-injection"), expect(clippy::unused_self, reason = "empty without the feature"))]
    #[inline]
    pub(crate) fn topic_listed(&self) {
        #[cfg(feature = "fault-injection")]
        self.topic_lists.hit("the TopicManager, between listing a topic and starting it");
    }

    /// Called by the errands of a home, with a topic in hand.
    #[cfg_attr(not(feature = "fault-injection"), expect(clippy::unused_self, reason = "empty without the feature"))]
    #[inline]
    pub(crate) fn with_an_errand(&self) {
        #[cfg(feature = "fault-injection")]
        self.errands.hit("the errands of a home, with a topic in hand");
    }

    /// Called by the task of the engine, with an answer in hand.
    #[cfg_attr(not(feature = "fault-injection"), expect(clippy::unused_self, reason = "empty without the feature"))]
    #[inline]
    pub(crate) fn with_an_answer(&self) {
        #[cfg(feature = "fault-injection")]
        self.engine_answers.hit("the task of the engine, with an answer in hand");
    }

    /// Called before each TLS handshake, outside of the handshake's own task.
    #[cfg(feature = "tls")]
    #[cfg_attr(not(feature = "fault-injection"), expect(clippy::unused_self, reason = "empty without the feature"))]
    pub(crate) fn before_handshake(&self) {
        #[cfg(feature = "fault-injection")]
        self.tls_handshakes.hit("a thread of TLS handshakes");
    }

    /// Called when a topic's actor starts.
    #[cfg_attr(not(feature = "fault-injection"), expect(clippy::unused_self, reason = "empty without the feature"))]
    #[inline]
    pub(crate) fn topic_started(&self) {
        #[cfg(feature = "fault-injection")]
        self.topic_starts.hit("a topic, at its start");
    }
}

/// Where a test makes the tree panic.
#[cfg(feature = "fault-injection")]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The TopicManager panics in the next message.
    TopicManager,
    /// The ProxyMapper panics in the next message.
    ProxyMapper,
    /// Every Acceptor panics in the next message.
    Acceptor,
    /// The named Topic panics in the next message.
    Topic(String),
    /// A Topic panics before its n-th send from now.
    TopicSend(u32),
    /// A Topic panics before committing its n-th message from now, with the message encoded.
    TopicEncode(u32),
    /// A Topic panics after committing its n-th message from now.
    TopicCommit(u32),
    /// The next n starts of a Topic panic.
    TopicStarts(u32),
    /// The TopicManager panics after listing the next topic, before the start.
    TopicListed,
    /// The errands of a home panic with their n-th topic from now in hand.
    Errand(u32),
    /// The task of the cluster's engine panics with its n-th answer from now in hand.
    EngineAnswer(u32),
    /// A sender panics before its n-th send from now.
    SenderSend(u32),
    /// A home arbiter that helps with a pass of another home panics before its n-th send from now.
    HelperSend(u32),
    /// A thread of TLS handshakes panics before its n-th handshake from now.
    TlsHandshake(u32),
    /// The Transport of the client with this address panics.
    Transport(std::net::SocketAddr),
    /// A Topic hangs for this long before it numbers the next message.
    TopicHang(std::time::Duration),
    /// This many bytes count as used from now on, and nothing gives them back.
    MemoryTaken(usize),
    /// The home arbiter hangs in a handler for this long.
    Hang(std::time::Duration),
}

#[cfg(feature = "fault-injection")]
impl Faults {
    pub(crate) fn arm(&self, fault: &Fault) {
        match fault {
            Fault::TopicSend(n) => self.topic_sends.set(i64::from(*n), 1),
            Fault::TopicEncode(n) => self.topic_encodings.set(i64::from(*n), 1),
            Fault::TopicCommit(n) => self.topic_publications.set(i64::from(*n), 1),
            Fault::TopicStarts(n) => self.topic_starts.set(1, i64::from(*n)),
            Fault::TopicHang(time) => *self.topic_hang.lock() = Some(*time),
            Fault::MemoryTaken(bytes) => self.memory_taken.store(*bytes, Ordering::Relaxed),
            Fault::Errand(n) => self.errands.set(i64::from(*n), 1),
            Fault::EngineAnswer(n) => self.engine_answers.set(i64::from(*n), 1),
            Fault::TopicListed => self.topic_lists.set(1, 1),
            Fault::TlsHandshake(n) => self.tls_handshakes.set(i64::from(*n), 1),
            Fault::SenderSend(n) => self.sender_sends.set(i64::from(*n), 1),
            Fault::HelperSend(n) => self.helper_sends.set(i64::from(*n), 1),
            _ => {}
        }
    }
}

/// Panics on the n-th hit, and on this many hits after it.
#[cfg(feature = "fault-injection")]
#[derive(Debug, Default)]
struct Countdown {
    left: AtomicI64,
    times: AtomicI64,
}

#[cfg(feature = "fault-injection")]
impl Countdown {
    fn set(&self, nth: i64, times: i64) {
        self.left.store(nth, Ordering::Relaxed);
        self.times.store(times, Ordering::Release);
    }

    #[inline]
    fn hit(&self, at: &str) {
        if self.times.load(Ordering::Acquire) <= 0 {
            return;
        }
        if self.left.fetch_sub(1, Ordering::Relaxed) <= 1 && self.times.fetch_sub(1, Ordering::AcqRel) > 0 {
            panic!("injected: {at}");
        }
    }
}

/// Makes the receiving actor panic, or hang first.
#[cfg(feature = "fault-injection")]
#[derive(Debug, actix::Message)]
#[rtype(result = "()")]
pub(crate) struct Crash {
    pub(crate) hang: Option<std::time::Duration>,
}

#[cfg(feature = "fault-injection")]
impl Crash {
    #[expect(clippy::disallowed_methods, reason = "a handler that blocks its thread is the fault")]
    pub(crate) fn now(self, actor: &str) {
        match self.hang {
            Some(time) => std::thread::sleep(time),
            None => panic!("injected: {actor}"),
        }
    }
}
