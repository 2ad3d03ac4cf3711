//! A client of the suite: one connection, the events read from the connection, and the client's place in a topic.
//!
//! Every wait ends at the deadline of the suite with a failure: the awaited event, and the last events seen.

use std::collections::VecDeque;
use std::fmt::Debug;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{self, Poll};
use std::time::Duration;

use tokio::io::ReadBuf;
use tokio::time::{Instant, timeout_at};

use super::stage::Stop;
use super::{Reader, ResumePoint, Seen};
use crate::connection::listener::ByteStream;
use crate::wire::Position;

/// The number of recent events in a failure report.
const REMEMBERED: usize = 6;

/// The end of a connection, as the client sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Fin,
    Lost(io::ErrorKind),
}

pub(super) struct Connection {
    stream: Pin<Box<dyn ByteStream>>,
    /// The client's address, as known to the server.
    #[cfg_attr(not(feature = "fault-injection"), expect(dead_code, reason = "only crashes are aimed by it"))]
    pub(super) addr: Option<SocketAddr>,
    reader: Box<dyn Reader>,
    buffer: Vec<u8>,
    seen: VecDeque<Seen>,
    last: VecDeque<String>,
    ended: Option<End>,
    minds_unknown: bool,
    deadline: Duration,
    /// The place from which a later connection of the same client resumes.
    place: ResumePoint,
}

impl Connection {
    pub(super) fn new(
        stream: Pin<Box<dyn ByteStream>>,
        addr: Option<SocketAddr>,
        reader: Box<dyn Reader>,
        deadline: Duration,
    ) -> Self {
        let place = ResumePoint { session: None, topic: String::new(), position: None, received: 0 };
        Self {
            stream,
            addr,
            reader,
            buffer: vec![0; 16 * 1024],
            seen: VecDeque::new(),
            last: VecDeque::new(),
            ended: None,
            minds_unknown: true,
            deadline,
            place,
        }
    }

    /// Reads at most `bytes` bytes at a time from now on.
    pub(super) fn read_in_pieces_of(&mut self, bytes: usize) {
        self.buffer.resize(bytes, 0);
    }

    /// Accepts bytes unknown to the reader from now on: the client has sent input that may cause any answer.
    pub(super) fn read_anything(&mut self) {
        self.minds_unknown = false;
    }

    /// The client's place in the topic.
    pub(super) fn place(&self, topic: &str) -> ResumePoint {
        ResumePoint { topic: topic.to_owned(), ..self.place.clone() }
    }

    /// Sends `bytes`, and reads at the same time: a server with unread output may stop reading. Returns whether the
    /// server took all bytes; `false` if the server has ended the connection.
    pub(super) async fn send(&mut self, mut bytes: &[u8]) -> Result<bool, Stop> {
        let until = Instant::now() + self.deadline;
        let sent = poll_fn(|cx| {
            let _ = self.poll_read(cx);
            while !bytes.is_empty() {
                match self.stream.as_mut().poll_write(cx, bytes) {
                    Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(false),
                    Poll::Ready(Ok(length)) => bytes = &bytes[length..],
                    Poll::Pending => return Poll::Pending,
                }
            }
            self.stream.as_mut().poll_flush(cx).map(|flushed| flushed.is_ok())
        });
        match timeout_at(until, sent).await {
            Ok(sent) => Ok(sent),
            Err(_) => {
                let unsent =
                    format!("the server did not take all bytes within {:?}; read while writing", self.deadline);
                Err(self.stop(unsent))
            }
        }
    }

    /// Ends the client's side of the stream. A connection that is gone needs no end.
    pub(super) async fn half_close(&mut self) {
        let _ = timeout_at(Instant::now() + self.deadline, poll_fn(|cx| self.stream.as_mut().poll_shutdown(cx))).await;
    }

    /// The next event; `None` at the end of the connection.
    pub(super) async fn next(&mut self) -> Result<Option<Seen>, Stop> {
        let until = Instant::now() + self.deadline;
        let next = poll_fn(|cx| {
            loop {
                if let Some(seen) = self.seen.pop_front() {
                    return Poll::Ready(Some(seen));
                }
                if self.ended.is_some() {
                    return Poll::Ready(None);
                }
                task::ready!(self.poll_read(cx));
            }
        });
        let next = timeout_at(until, next).await;
        match next {
            Ok(Some(Seen::Unknown(text))) if self.minds_unknown => {
                Err(self.stop(format!("the client's reader does not know {text:?}")))
            }
            Ok(seen) => {
                if let Some(seen) = &seen {
                    self.remember(seen);
                }
                Ok(seen)
            }
            Err(_) => Err(self.stop(format!("nothing more came for {:?}", self.deadline))),
        }
    }

    /// The next event accepted by `pick`. Other events are skipped.
    pub(super) async fn until<T>(&mut self, what: &str, mut pick: impl FnMut(Seen) -> Option<T>) -> Result<T, Stop> {
        loop {
            match self.next().await {
                Ok(Some(seen)) => {
                    if let Some(picked) = pick(seen) {
                        return Ok(picked);
                    }
                }
                Ok(None) => {
                    return Err(self.stop(format!("the connection ended ({:?}) instead of {what}", self.ended)));
                }
                Err(Stop::Failed(reason)) => return Err(Stop::Failed(format!("waiting for {what}: {reason}"))),
                Err(stop) => return Err(stop),
            }
        }
    }

    /// The data of the next message of the topic. Errors, gaps and messages of other topics are failures.
    pub(super) async fn message(&mut self, topic: &str) -> Result<String, Stop> {
        let found = self.until("a message", |seen| match seen {
            Seen::Message { topic: of, data, .. } if of == topic => Some(Ok(data)),
            seen @ (Seen::Message { .. } | Seen::Gap { .. } | Seen::Error { .. } | Seen::Bye { .. }) => Some(Err(seen)),
            _ => None,
        });
        match found.await? {
            Ok(data) => Ok(data),
            Err(other) => Err(self.stop(format!("{other:?} came instead of a message of {topic:?}"))),
        }
    }

    /// Waits for the answer to a subscribe.
    pub(super) async fn subscribed(&mut self) -> Result<(), Stop> {
        let answer = self.until("the answer to a subscribe", |seen| match seen {
            Seen::Subscribed { .. } => Some(Ok(())),
            Seen::Error { .. } | Seen::Bye { .. } | Seen::Message { .. } => Some(Err(seen)),
            _ => None,
        });
        match answer.await? {
            Ok(()) => Ok(()),
            Err(other) => Err(self.stop(format!("{other:?} came instead of the answer to a subscribe"))),
        }
    }

    /// Waits for an error, a farewell or the end of the connection. Returns `false` only for an error.
    pub(super) async fn refused(&mut self, what: &str) -> Result<bool, Stop> {
        loop {
            match self.next().await {
                Ok(Some(Seen::Error { .. })) => return Ok(false),
                Ok(Some(Seen::Bye { .. })) | Ok(None) => return Ok(true),
                Ok(Some(Seen::Subscribed { .. })) => return Err(self.stop(format!("{what} was accepted"))),
                Ok(Some(_)) => {}
                Err(Stop::Failed(reason)) => {
                    let ignored = "was neither refused with an error nor ended the connection";
                    return Err(Stop::Failed(format!("{what} {ignored}: {reason}")));
                }
                Err(stop) => return Err(stop),
            }
        }
    }

    /// Waits for the end of the connection, after any other events.
    pub(super) async fn end(&mut self, what: &str) -> Result<End, Stop> {
        loop {
            match self.next().await {
                Ok(Some(_)) => {}
                Ok(None) => return Ok(self.ended.unwrap_or(End::Fin)),
                Err(Stop::Failed(reason)) => {
                    return Err(Stop::Failed(format!("{what} did not end the connection: {reason}")));
                }
                Err(stop) => return Err(stop),
            }
        }
    }

    /// Adds this publisher's knowledge to another client's failure: an unread error, or the end of the connection. Does
    /// not wait for either.
    pub(super) fn explain(&mut self, stop: Stop) -> Stop {
        let mut cx = task::Context::from_waker(task::Waker::noop());
        while self.ended.is_none() && self.poll_read(&mut cx).is_ready() {}
        let refused = self.seen.iter().find(|seen| matches!(seen, Seen::Error { .. } | Seen::Bye { .. }));
        let told = match (refused, self.ended) {
            (Some(seen), _) => shortened(seen),
            (None, Some(end)) => format!("the end of its connection ({end:?})"),
            (None, None) => return stop,
        };
        match stop {
            Stop::Failed(reason) => Stop::Failed(format!("{reason}; the publisher got {told}")),
            stop @ Stop::Skipped(_) => stop,
        }
    }

    /// A failure with the last events seen.
    pub(super) fn stop(&self, reason: impl Into<String>) -> Stop {
        let (reason, last) = (reason.into(), self.last.iter().map(String::as_str).collect::<Vec<_>>().join(", "));
        let last = if last.is_empty() { "nothing".to_owned() } else { last };
        Stop::Failed(format!("{reason}; seen last: {last}"))
    }

    fn poll_read(&mut self, cx: &mut task::Context<'_>) -> Poll<()> {
        if self.ended.is_some() {
            return Poll::Ready(());
        }
        let mut buffer = ReadBuf::new(&mut self.buffer);
        match task::ready!(self.stream.as_mut().poll_read(cx, &mut buffer)) {
            Ok(()) if buffer.filled().is_empty() => self.ended = Some(End::Fin),
            Ok(()) => {
                let mut seen = Vec::new();
                self.reader.read(buffer.filled(), &mut seen);
                self.seen.extend(seen);
            }
            Err(error) => self.ended = Some(End::Lost(error.kind())),
        }
        Poll::Ready(())
    }

    fn remember(&mut self, seen: &Seen) {
        if self.last.len() == REMEMBERED {
            self.last.pop_front();
        }
        self.last.push_back(shortened(seen));
        match seen {
            Seen::Opened { session } => self.place.session.clone_from(session),
            Seen::Subscribed { position, .. } => self.place.position = *position,
            Seen::Message { seq, .. } => {
                self.place.received += 1;
                self.goes_to(*seq);
            }
            Seen::Gap { to, .. } => self.goes_to(Some(*to)),
            _ => {}
        }
    }

    fn goes_to(&mut self, seq: Option<u64>) {
        if let (Some(Position { seq: at, .. }), Some(seq)) = (&mut self.place.position, seq) {
            *at = seq;
        }
    }
}

fn shortened(value: &impl Debug) -> String {
    let mut text = format!("{value:?}");
    if text.len() > 160 {
        text.truncate(text.floor_char_boundary(160));
        text.push('…');
    }
    text
}
