//! The life of a client, in lines of the log and in traces. With the log at `info` and without a trace, each step costs
//! two loads of a flag.

use std::sync::atomic::Ordering;

use super::{Step, Transport};
use crate::delivery::codecs::CodecId;
use crate::ground::log_lines::counted;
use crate::ground::trace::{self, Said, TraceKind};
use crate::hooks::Disconnect;
use crate::supervision::in_words;
use crate::wire::{ErrorCode, Peer, TopicName};

/// A line of the log at `debug`.
macro_rules! debug {
    ($transport:expr, $($words:tt)+) => { log_client!($transport, log::Level::Debug, $($words)+) };
}

impl Transport {
    pub(super) fn note_opened(&self) {
        let (codec, session) = (self.codec_name(), &self.session.token);
        debug!(self, [transport = codec, session:% = session.beginning()], "opened, {codec}, session {}", session.beginning());
        self.say(TraceKind::Open, "sessions", || format!("{codec}, session {}", session.beginning()));
    }

    /// A trusted proxy has named the client.
    pub(super) fn note_named(&self, proxy: Peer) {
        let peer = self.session.peer();
        self.say(TraceKind::Connect, "transport_supervisor", || format!("is {peer}, through the proxy {proxy}"));
    }

    /// The connection has taken over the session of an earlier connection.
    pub(super) fn note_taken_over(&self, from: Option<u64>) {
        let session = &self.session.token;
        debug!(self, [session:% = session.beginning()], "took over session {}", session.beginning());
        self.say(TraceKind::Attach, "sessions", || {
            let from = from.map(|id| format!(" of client {id}")).unwrap_or_default();
            format!("session {}{from}", session.beginning())
        });
    }

    pub(super) fn note_joined(&self, topic: &TopicName) {
        debug!(self, [topic:%], "subscribed to {topic}");
    }

    /// The client continues with a topic after an earlier message.
    pub(super) fn note_resumed(&self, topic: &TopicName, missed: u64) {
        self.shared.counters.resumes_resumed.fetch_add(1, Ordering::Relaxed);
        debug!(self, [topic:%, missed], "resumed {topic}, {missed} missed");
    }

    /// The client wanted to continue with a topic after an earlier message, and begins with the next message instead.
    pub(super) fn note_not_resumed(&self) {
        self.shared.counters.resumes_not_resumed.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn note_left(&self, topic: &TopicName) {
        debug!(self, [topic:%], "unsubscribed from {topic}");
    }

    /// The client leaves all topics, at the end of the connection.
    pub(super) fn note_detached(&self, topics: usize) {
        if topics == 0 {
            return;
        }
        let (session, ttl) = (&self.session.token, self.shared.config().session_ttl);
        let all = counted(topics as u64, "topic");
        debug!(
            self,
            [topics, session:% = session.beginning()],
            "left {all}, session {} is kept for {}",
            session.beginning(),
            in_words(ttl)
        );
        self.say(TraceKind::Detach, "sessions", || format!("session {}, {all}", session.beginning()));
    }

    pub(super) fn note_closed(&self) {
        let (why, code) = match self.ending() {
            Disconnect::ByServer(code) => (code.as_str(), Some(code.as_str())),
            Disconnect::ByClient if matches!(self.step, Step::PassedOn) => ("passed on", None),
            Disconnect::ByClient => ("its stream has ended", None),
        };
        debug!(self, [code], "closed: {why}");
        self.say(TraceKind::Close, "transport_supervisor", || why.to_owned());
    }

    /// Continues in another codec, and counts the connection there.
    pub(super) fn speak(&self, codec: CodecId) {
        if self.counts_as_open {
            self.slot.codecs().note_opened(codec);
            self.slot.codecs().note_closed(self.slot.codec());
        }
        self.slot.set_codec(codec);
    }

    /// The connection no longer counts as open: its stream has ended, or its client is being refused.
    pub(super) fn stop_counting_as_open(&mut self) {
        if std::mem::take(&mut self.counts_as_open) {
            self.slot.codecs().note_closed(self.slot.codec());
        }
    }

    /// Counts the end of the connection by the side that has ended it. A connection that has carried requests alone ends at
    /// no loss, whoever ends it, unless by a fault.
    pub(super) fn count_end(&mut self) {
        self.stop_counting_as_open();
        let figures = &self.shared.figures;
        match self.ending() {
            // The connection continues elsewhere.
            Disconnect::ByClient if matches!(self.step, Step::PassedOn) => {}
            Disconnect::ByServer(ErrorCode::Internal) => figures.disconnects.add(ErrorCode::Internal),
            _ if self.is_of_requests => {}
            Disconnect::ByClient => {
                figures.left.fetch_add(1, Ordering::Relaxed);
            }
            Disconnect::ByServer(code) => figures.disconnects.add(code),
        }
    }

    /// Whether nothing is left to do for the connection.
    pub(super) fn is_over(&self) -> bool {
        matches!(self.step, Step::PassedOn | Step::Over)
    }

    /// The side that has ended the connection.
    pub(super) fn ending(&self) -> Disconnect {
        match self.why {
            Some(code) => Disconnect::ByServer(code),
            None if self.is_over() => Disconnect::ByClient,
            // The Transport was killed, or has panicked.
            None => Disconnect::ByServer(ErrorCode::Internal),
        }
    }

    fn say(&self, kind: TraceKind, to: &str, about: impl FnOnce() -> String) {
        self.shared.tracer.tell(kind, || Said { from: trace::client(self.slot.id), to: to.to_owned(), about: about() });
    }
}
