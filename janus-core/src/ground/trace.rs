//! Traces: messages between the actors of the tree, for a reader and for a while.
//!
//! Where a message is handled, [`Tracer`] is asked whether there is a trace. Without a trace the answer costs the load
//! of one flag. With a trace, the message becomes a [`TraceLine`] in the queue of the trace. The queue has a limit;
//! lines without room are counted, and no actor waits for a reader. Starts and ends of actors come from the
//! supervisors, which queue events for subscribers in any case.
//!
//! No line has a message's data or a session's token.

mod pattern;

use std::collections::VecDeque;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use serde::Serialize;
use tokio::sync::Notify;
use tokio::sync::broadcast::{self, error::RecvError, error::TryRecvError};

use self::pattern::Pattern;
use super::clock::timestamp;
use crate::supervision::in_words;
use crate::supervision::{EventKind, TreeEvent};
use crate::wire::TopicName;

/// Traces of one instance at a time; one more is refused.
pub(crate) const MAX_TRACES: usize = 4;

/// Lines of one trace, and bytes of lines, that wait for the reader; further lines are lost, and counted.
const MAX_WAITING: usize = 1_024;
const MAX_WAITING_BYTES: usize = 1 << 20;

/// Patterns of one trace, and bytes of a pattern.
const MAX_PATTERNS: usize = 16;
const MAX_PATTERN_BYTES: usize = 256;

/// Lines of a trace without a count of the reader's own.
const DEFAULT_COUNT: u64 = 10_000;

/// The kind of a message; [`as_str`](Self::as_str) has the names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum TraceKind {
    /// An acceptor gives a connection to its Transport.
    Connect,
    /// A client is served from now on, with a session in the table.
    Open,
    /// A connection takes over the session of an earlier connection.
    Attach,
    /// A client leaves its topics, with its connection.
    Detach,
    /// A connection has ended.
    Close,
    /// The TopicManager has a topic started.
    Create,
    /// A subscriber joins a topic.
    Subscribe,
    /// A subscriber leaves a topic.
    Unsubscribe,
    /// A message is given to its topic.
    Publish,
    /// A topic begins to hand out messages.
    Pass,
    /// An unused topic ends.
    End,
    /// The ProxyMapper is asked for sessions.
    Locate,
    /// An actor, a task or a supervisor is up.
    Start,
    /// An actor, a task or a supervisor has ended, or could not be started.
    Exit,
    /// An actor, a task or a supervisor is about to be started again.
    Restart,
    /// An actor, a task or a supervisor has ended too often: a rest follows, or the end of the supervisor.
    Quarantine,
}

impl TraceKind {
    /// All kinds.
    pub const ALL: [Self; 16] = [
        Self::Connect,
        Self::Open,
        Self::Attach,
        Self::Detach,
        Self::Close,
        Self::Create,
        Self::Subscribe,
        Self::Unsubscribe,
        Self::Publish,
        Self::Pass,
        Self::End,
        Self::Locate,
        Self::Start,
        Self::Exit,
        Self::Restart,
        Self::Quarantine,
    ];

    /// The name in lower case.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Open => "open",
            Self::Attach => "attach",
            Self::Detach => "detach",
            Self::Close => "close",
            Self::Create => "create",
            Self::Subscribe => "subscribe",
            Self::Unsubscribe => "unsubscribe",
            Self::Publish => "publish",
            Self::Pass => "pass",
            Self::End => "end",
            Self::Locate => "locate",
            Self::Start => "start",
            Self::Exit => "exit",
            Self::Restart => "restart",
            Self::Quarantine => "quarantine",
        }
    }

    fn bit(self) -> u32 {
        1 << self as u32
    }
}

impl fmt::Display for TraceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Not the name of a [`TraceKind`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown kind of message")]
pub struct UnknownKind;

impl FromStr for TraceKind {
    type Err = UnknownKind;

    fn from_str(name: &str) -> Result<Self, UnknownKind> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == name).ok_or(UnknownKind)
    }
}

/// The lines that a reader asks for: by default all kinds and names, and 10,000 lines.
///
/// ```
/// use janus_core::{TraceKind, TraceOptions};
///
/// let options = TraceOptions::default();
/// let options = options.kinds([TraceKind::Subscribe]).names(["client 7", "topic quotes:*"]).count(100);
/// ```
#[derive(Clone, Debug)]
pub struct TraceOptions {
    kinds: u32,
    names: Vec<String>,
    count: u64,
}

impl Default for TraceOptions {
    fn default() -> Self {
        Self { kinds: 0, names: Vec::new(), count: DEFAULT_COUNT }
    }
}

impl TraceOptions {
    /// Only these kinds; without kinds, all.
    #[must_use]
    pub fn kinds(self, kinds: impl IntoIterator<Item = TraceKind>) -> Self {
        Self { kinds: kinds.into_iter().fold(0, |kinds, kind| kinds | kind.bit()), ..self }
    }

    /// Only messages from or to a name under one of these patterns; without patterns, all. In a pattern `*` stands for
    /// any text. At most 16 patterns, of at most 256 bytes each.
    #[must_use]
    pub fn names<S: Into<String>>(self, names: impl IntoIterator<Item = S>) -> Self {
        Self { names: names.into_iter().map(Into::into).collect(), ..self }
    }

    /// The trace ends after this many lines.
    #[must_use]
    pub fn count(self, count: u64) -> Self {
        Self { count, ..self }
    }
}

/// Why there is no trace.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TraceError {
    /// Four traces run already. Drop a trace, or try again later.
    #[error("the limit of {MAX_TRACES} traces is reached; try again when a trace has ended")]
    TooMany,
    /// More than 16 patterns, or a pattern of more than 256 bytes: the caller's mistake.
    #[error("a trace accepts at most {MAX_PATTERNS} patterns of names, of at most {MAX_PATTERN_BYTES} bytes each")]
    Patterns,
    /// The instance has ended.
    #[error("the instance has ended")]
    ShuttingDown,
}

/// One message between two actors.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct TraceLine {
    /// Milliseconds since 1970.
    pub time: u64,
    /// The kind of the message.
    pub kind: TraceKind,
    /// The name of the sender, such as `client 7`, `acceptor 127.0.0.1:8081`, `topic news`, `topic_manager`; `program`
    /// for the program around the instance.
    pub from: String,
    /// The name of the receiver.
    pub to: String,
    /// More about the message, for people; often empty.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub about: String,
    /// Lines of this trace lost before this line, because the reader did not keep up.
    #[serde(skip_serializing_if = "is_zero")]
    pub lost: u64,
}

fn is_zero(count: &u64) -> bool {
    *count == 0
}

impl TraceLine {
    fn bytes(&self) -> usize {
        self.from.len() + self.to.len() + self.about.len() + size_of::<Self>()
    }
}

/// A message in words, made for a trace alone.
pub(crate) struct Said {
    pub(crate) from: String,
    pub(crate) to: String,
    pub(crate) about: String,
}

/// The name of a connection.
pub(crate) fn client(id: u64) -> String {
    format!("client {id}")
}

pub(crate) fn topic(name: &TopicName) -> String {
    format!("topic {name}")
}

/// The name of a topic's actor. It ends with a number of its own, so that a topic that is on its way out and one that
/// has just taken its name are not mistaken for each other by whoever stops the first.
pub(crate) fn topic_actor(topic: &TopicName, number: u64) -> String {
    format!("topic {topic} #{number}")
}

/// The topic that an actor of this name works on.
pub(crate) fn topic_of(actor_name: &str) -> Option<&str> {
    Some(actor_name.strip_prefix("topic ")?.rsplit_once(" #")?.0)
}

/// The traces of one instance.
#[derive(Debug, Default)]
pub(crate) struct Tracer {
    /// Whether there is a trace.
    on: AtomicBool,
    traces: Mutex<Traces>,
}

#[derive(Debug, Default)]
struct Traces {
    recorders: Vec<Arc<Recorder>>,
    closed: bool,
}

impl Tracer {
    #[inline]
    pub(crate) fn is_on(&self) -> bool {
        self.on.load(Ordering::Relaxed)
    }

    /// Tells all traces of a message. The caller must hold no lock: the reader that wakes up may be a task of any
    /// program.
    #[inline]
    pub(crate) fn tell(&self, kind: TraceKind, said: impl FnOnce() -> Said) {
        if self.is_on() {
            self.record(kind, said);
        }
    }

    #[cold]
    fn record(&self, kind: TraceKind, said: impl FnOnce() -> Said) {
        let mut wanting = self.traces.lock().recorders.clone();
        wanting.retain(|recorder| recorder.kinds & kind.bit() != 0);
        if !wanting.is_empty() {
            let Said { from, to, about } = said();
            let line = TraceLine { time: timestamp().unix_millis(), kind, from, to, about, lost: 0 };
            wanting.iter().for_each(|recorder| recorder.offer(&line));
        }
    }

    pub(crate) fn start(
        self: &Arc<Self>,
        options: TraceOptions,
        events: Option<broadcast::Receiver<TreeEvent>>,
    ) -> Result<Trace, TraceError> {
        let TraceOptions { kinds, names, count } = options;
        if names.len() > MAX_PATTERNS || names.iter().any(|name| name.len() > MAX_PATTERN_BYTES) {
            return Err(TraceError::Patterns);
        }
        let recorder = Arc::new(Recorder {
            kinds: if kinds == 0 { u32::MAX } else { kinds },
            patterns: names.iter().map(|name| Pattern::new(name)).collect(),
            waiting: Mutex::new(Waiting { left: count, ..Waiting::default() }),
            changed: Notify::new(),
        });
        let mut traces = self.traces.lock();
        if traces.closed {
            return Err(TraceError::ShuttingDown);
        }
        if traces.recorders.len() >= MAX_TRACES {
            return Err(TraceError::TooMany);
        }
        traces.recorders.push(Arc::clone(&recorder));
        self.on.store(true, Ordering::Relaxed);
        drop(traces);
        Ok(Trace { tracer: Arc::clone(self), recorder, events })
    }

    /// Ends all traces, together with the instance.
    pub(crate) fn close(&self) {
        let mut traces = self.traces.lock();
        traces.closed = true;
        let recorders = std::mem::take(&mut traces.recorders);
        self.on.store(false, Ordering::Relaxed);
        drop(traces);
        recorders.iter().for_each(|recorder| recorder.end());
    }

    fn stop(&self, recorder: &Arc<Recorder>) {
        let mut traces = self.traces.lock();
        traces.recorders.retain(|other| !Arc::ptr_eq(other, recorder));
        self.on.store(!traces.recorders.is_empty(), Ordering::Relaxed);
    }
}

/// One trace, on the side of the actors.
#[derive(Debug)]
struct Recorder {
    /// A bit for each kind.
    kinds: u32,
    patterns: Vec<Pattern>,
    waiting: Mutex<Waiting>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    lines: VecDeque<TraceLine>,
    bytes: usize,
    /// How many more lines the trace may have.
    left: u64,
    /// Lines lost in all, and lines lost since the last line with room.
    lost: u64,
    untold: u64,
    ended: bool,
}

impl Recorder {
    fn offer_event(&self, event: &TreeEvent) {
        if let Some(line) = line_of(event) {
            self.offer(&line);
        }
    }

    fn offer(&self, line: &TraceLine) {
        let is_meant = |pattern: &Pattern| pattern.covers(&line.from) || pattern.covers(&line.to);
        if self.kinds & line.kind.bit() == 0 || !(self.patterns.is_empty() || self.patterns.iter().any(is_meant)) {
            return;
        }
        let mut waiting = self.waiting.lock();
        if waiting.ended || waiting.left == 0 {
            return;
        }
        let bytes = waiting.bytes + line.bytes();
        if waiting.lines.len() >= MAX_WAITING || bytes > MAX_WAITING_BYTES {
            return waiting.lose(1);
        }
        waiting.bytes = bytes;
        waiting.left -= 1;
        let lost = std::mem::take(&mut waiting.untold);
        waiting.lines.push_back(TraceLine { lost, ..line.clone() });
        drop(waiting);
        self.changed.notify_one();
    }

    fn end(&self) {
        self.waiting.lock().ended = true;
        self.changed.notify_one();
    }
}

impl Waiting {
    fn lose(&mut self, lines: u64) {
        self.lost += lines;
        self.untold += lines;
    }

    fn take(&mut self) -> Option<TraceLine> {
        let line = self.lines.pop_front()?;
        self.bytes -= line.bytes();
        Some(line)
    }

    fn is_over(&self) -> bool {
        self.lines.is_empty() && (self.left == 0 || self.ended)
    }
}

/// Messages between the actors of an instance, from the start of the trace on; see
/// [`Janus::trace`](crate::Janus::trace). Drop a trace to end the trace.
///
/// No actor waits for a reader: up to 1,024 lines, or 1 MiB, are queued, and further lines are lost and counted.
#[derive(Debug)]
pub struct Trace {
    tracer: Arc<Tracer>,
    recorder: Arc<Recorder>,
    /// Events of the supervisors, put into the queue by the reader.
    events: Option<broadcast::Receiver<TreeEvent>>,
}

impl Trace {
    /// Waits for the next line. `None` after [`TraceOptions::count`] lines, or at the end of the instance.
    ///
    /// Cancel safe; needs no runtime.
    pub async fn next(&mut self) -> Option<TraceLine> {
        loop {
            self.take_events();
            {
                let mut waiting = self.recorder.waiting.lock();
                if let Some(line) = waiting.take() {
                    return Some(line);
                }
                if waiting.is_over() {
                    drop(waiting);
                    self.tracer.stop(&self.recorder);
                    return None;
                }
            }
            let Some(events) = &mut self.events else {
                self.recorder.changed.notified().await;
                continue;
            };
            tokio::select! {
                () = self.recorder.changed.notified() => {}
                event = events.recv() => match event {
                    Ok(event) => self.recorder.offer_event(&event),
                    Err(RecvError::Lagged(events)) => self.recorder.waiting.lock().lose(events),
                    Err(RecvError::Closed) => self.events = None,
                },
            }
        }
    }

    /// Lines lost so far, because the reader did not keep up.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.recorder.waiting.lock().lost
    }

    /// Ends the trace; how many lines were lost in all, queued lines included.
    #[must_use]
    pub fn end(self) -> u64 {
        self.recorder.end();
        let waiting = self.recorder.waiting.lock();
        waiting.lost + waiting.lines.len() as u64
    }

    /// Whether the reader has had [`TraceOptions::count`] lines.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        let waiting = self.recorder.waiting.lock();
        waiting.left == 0 && waiting.lines.is_empty()
    }

    fn take_events(&mut self) {
        while let Some(events) = &mut self.events {
            match events.try_recv() {
                Ok(event) => self.recorder.offer_event(&event),
                Err(TryRecvError::Lagged(events)) => self.recorder.waiting.lock().lose(events),
                Err(TryRecvError::Empty) => return,
                Err(TryRecvError::Closed) => self.events = None,
            }
        }
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        self.tracer.stop(&self.recorder);
    }
}

/// The line of an event of supervision, with the time of reading as its time. An event of a kind which is newer than
/// this code has none.
fn line_of(TreeEvent { supervisor, child, what, .. }: &TreeEvent) -> Option<TraceLine> {
    let (kind, about) = match what {
        EventKind::Started => (TraceKind::Start, String::new()),
        EventKind::StartFailed(reason) => (TraceKind::Exit, format!("cannot be started: {reason}")),
        EventKind::Ended(reason) => (TraceKind::Exit, reason.to_string()),
        EventKind::Abandoned => (TraceKind::Exit, "it does not end after a kill".to_owned()),
        EventKind::Restarting(delay) => (TraceKind::Restart, format!("after {}", in_words(delay))),
        EventKind::Quarantined(rest) => (TraceKind::Quarantine, format!("for {}", in_words(rest))),
        EventKind::GaveUp => (TraceKind::Quarantine, "its supervisor gives up".to_owned()),
        _ => return None,
    };
    let child = topic_of(child).map_or_else(|| child.to_string(), |name| format!("topic {name}"));
    Some(TraceLine { time: timestamp().unix_millis(), kind, from: supervisor.to_string(), to: child, about, lost: 0 })
}

#[cfg(test)]
mod tests;
