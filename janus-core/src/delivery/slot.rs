//! One connection as those see it who deliver to it.
//!
//! A slot owns the socket and, while the client does not keep up, a bounded queue. It is shared by the connection's
//! Transport (which reads, and writes the queue out) and by whoever delivers to it: the home arbiter and the senders.
//! One short lock per slot keeps the bytes of two frames apart and the order of each topic.
//!
//! The socket lies in the slot and not behind a pointer of its own: a fan-out to many finds little of what it touches in
//! the CPU's caches, and would wait for one line more in each delivery.
//!
//! Bytes go straight to the socket (see [`Link`]). Only what the kernel refuses is queued, and then the Transport is woken
//! to write it when the socket is ready.
//!
//! When the queue is full the client is a slow consumer, and the policy of the subscription decides what happens (see
//! [`queue`](super::queue)): by default the connection is reset. Nobody else waits for it in any case.
//!
//! A subscriber in this process is a slot without a link: everything waits in its queue, until it takes it.

mod pause;

use std::hint::black_box;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::task::{self, Poll, Waker};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::task::AtomicWaker;
use parking_lot::Mutex;

use super::codecs::{CLASSIC, CodecId, CodecPanicked, Codecs};
use super::pulse::Pulse;
use super::queue::{Entry, Flushed, Messages, Queue, Taken};
use super::{Batch, Ledger, Link};
use crate::accounts::Account;
use crate::accounts::received::Kept;
use crate::config::SlowConsumer;
use crate::ground::clock::{AtomicTick, Tick};
use crate::ground::tasks::yield_now;
use crate::ground::trace;
use crate::wire::{Epoch, Peer, ServerEvent, TopicName};

/// What an instance allows each of its clients, and where it keeps the accounts.
#[derive(Clone, Debug)]
pub(crate) struct Terms {
    /// Messages that may wait for one client.
    pub(crate) max_frames: usize,
    /// Bytes that they may take, the price of each entry of the queue among them.
    pub(crate) max_bytes: usize,
    /// How long the kernel bears with a client that takes nothing, if a topic of it has a policy that bears with it.
    pub(crate) patience: Duration,
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) codecs: Arc<Codecs>,
}

impl Terms {
    /// The limit that a setting `max_queue_frames` stands for: 0 is none.
    pub(crate) fn frame_limit(setting: usize) -> usize {
        if setting == 0 { usize::MAX } else { setting }
    }
}

/// Why a connection ends before its client asked for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// It did not take what waited for it, which was so much.
    SlowConsumer { why: SlowReason, frames: u32, bytes: u32 },
    /// The peer is gone: a send was refused by the kernel.
    Broken(io::ErrorKind),
    /// Nothing can be sent, and nothing has come for a while that would tell that the peer is gone.
    GivenUp,
    /// Its codec has panicked, so that it would miss something without a word.
    CodecPanicked,
    /// It let a frame stay unfinished for too long, or did not say what it is for.
    FrameTimeout,
    /// It has no place of `max_connections`, and another connection needs the room.
    Crowded,
    /// It did not answer a heartbeat in time, unless the answer is there and has not been read.
    PingTimeout,
    /// It would have missed messages of a topic that had to start afresh, without being told.
    MessagesLost,
    /// Another connection has taken over its session.
    SessionTaken,
    /// Memory is short, and the client holds some without having asked for anything.
    Overloaded,
    /// The operator wants the client to go.
    Disconnected {
        /// Whether it may come back.
        reconnect: bool,
    },
    /// The instance ends, and it is this connection's turn to be closed.
    Draining,
    /// The instance has ended; for a subscriber in this process, which has no Transport to tell it.
    ShutDown,
}

/// What made a client too slow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SlowReason {
    /// Its queue took no more.
    QueueFull,
    /// It has taken nothing for too long.
    Stalled,
    /// The memory of the instance was nearly used up, and its queue was among the largest.
    Memory,
}

impl End {
    /// Whether the socket is done for, and its close is a reset.
    pub(crate) fn resets(self) -> bool {
        matches!(self, Self::SlowConsumer { .. } | Self::Broken(_) | Self::GivenUp | Self::CodecPanicked)
    }
}

/// One connection; see the module's documentation.
///
/// In the order of C, because what a delivery touches comes first and lies on two cache lines, or three.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct Slot {
    pub(crate) id: u64,
    out: Mutex<Out>,
    /// The tick of the last message or PING sent; 0 while the client has received no message, and after its last words.
    quiet_since: AtomicTick,
    /// Where it stands in the table of connections; `None` for a subscriber in this process.
    pub(crate) place: Option<u32>,
    /// Whether its program is alive.
    pub(crate) pulse: Pulse,
    /// The Transport's task, woken when it has to write the queue out or to end the connection.
    transport: AtomicWaker,
    /// The tick since which a frame from the client is unfinished; 0 if none is.
    frame_since: AtomicTick,
    /// Messages from this client whose outcome has not been answered.
    unanswered: AtomicU32,
    /// Whether the Transport waits for those answers.
    awaited: AtomicBool,
    /// What the connection speaks; changes before the client subscribes to anything, if at all.
    codec: AtomicU8,
    /// Mirrors [`Out::needs_attention`], so that the Transport need not lock to see that all is well.
    attention: AtomicBool,
    /// Whether the client is not read until it has taken some of its answers.
    paused: AtomicBool,
    /// How many subscriptions of the client have a policy that bears with it for longer.
    patient: AtomicU32,
    terms: Arc<Terms>,
    /// What the clients of the peer's address hold; `None` for a subscriber in this process.
    pub(crate) account: Option<Arc<Account>>,
    /// What is kept of what the client has sent.
    pub(crate) kept: Kept,
    /// Whether the client has asked for anything: to be subscribed, to go on, or to publish.
    has_asked: AtomicBool,
    #[cfg(feature = "fault-injection")]
    pub(crate) crash: AtomicBool,
    /// The session knows it, too; here it would be 32 bytes more for each of 19,000 clients.
    #[cfg(feature = "fault-injection")]
    pub(crate) peer: Option<Peer>,
}

#[derive(Debug)]
struct Out {
    /// `None` once it is closed, which only the Transport does, and for a subscriber in this process.
    link: Option<Link>,
    /// Whether anything can still be sent.
    sends: bool,
    /// Exists only while something waits, so that a client that caught up costs no more than one that never lagged.
    queue: Option<Box<Queue>>,
    end: Option<End>,
    reads: Reads,
    /// Whether what is in the queue has to wait for what comes before all of it. The queue exists as long, so that a
    /// delivery needs no look at this.
    corked: bool,
}

/// What is known of reading from the link. A client that cannot be sent anything may have said something before, which counts; but
/// not every link comes to its end then by itself, and none may keep its place for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reads {
    /// Nothing.
    Unknown,
    /// It has to come to its end, because sending has failed.
    Ending,
    /// The same, and nothing has been read since the heartbeat looked the last time.
    Idle,
}

impl Slot {
    pub(crate) fn new(
        id: u64,
        place: Option<u32>,
        link: impl Into<Link>,
        codec: CodecId,
        account: Arc<Account>,
        terms: &Arc<Terms>,
    ) -> Self {
        account.connections.add(1);
        Self::with_link(id, place, Some(link.into()), codec, Some(account), terms)
    }

    /// The slot of a subscriber in this process, which takes its messages with [`poll_take`](Self::poll_take).
    pub(crate) fn local(id: u64, terms: &Arc<Terms>) -> Self {
        Self::with_link(id, None, None, CLASSIC, None, terms)
    }

    fn with_link(
        id: u64,
        place: Option<u32>,
        link: Option<Link>,
        codec: CodecId,
        account: Option<Arc<Account>>,
        terms: &Arc<Terms>,
    ) -> Self {
        Self {
            id,
            place,
            #[cfg(feature = "fault-injection")]
            peer: link.as_ref().and_then(Link::peer),
            out: Mutex::new(Out { link, sends: true, queue: None, end: None, reads: Reads::Unknown, corked: false }),
            transport: AtomicWaker::new(),
            quiet_since: AtomicTick::default(),
            pulse: Pulse::default(),
            frame_since: AtomicTick::default(),
            unanswered: AtomicU32::new(0),
            awaited: AtomicBool::new(false),
            codec: AtomicU8::new(codec),
            attention: AtomicBool::new(false),
            paused: AtomicBool::new(false),
            patient: AtomicU32::new(0),
            terms: Arc::clone(terms),
            account,
            kept: Kept::default(),
            has_asked: AtomicBool::new(false),
            #[cfg(feature = "fault-injection")]
            crash: AtomicBool::new(false),
        }
    }

    pub(crate) fn codec(&self) -> CodecId {
        self.codec.load(Ordering::Relaxed)
    }

    /// Has the connection speak another codec from now on. Nothing of the old one must wait for an answer.
    pub(crate) fn set_codec(&self, codec: CodecId) {
        self.codec.store(codec, Ordering::Relaxed);
    }

    pub(crate) fn codecs(&self) -> &Codecs {
        &self.terms.codecs
    }

    /// Tells the client something that belongs to no place in a topic's order: a greeting, an answer, an error.
    pub(crate) fn tell(&self, event: &ServerEvent<'_>) {
        match self.codecs().encode(self.codec(), event) {
            Ok(frame) => self.send(frame),
            Err(CodecPanicked) => self.end(End::CodecPanicked),
        }
    }

    /// Sends the heartbeat, unless the client has had its last words since it was due, or has enough to take as it is.
    pub(crate) fn beat(&self, tick: Tick) {
        if self.quiet_since.get().is_none() || self.is_paused() {
            return;
        }
        if let Some(frame) = self.codecs().heartbeat(self.codec()) {
            self.pulse.ask(tick);
            self.send(frame);
        }
    }

    /// Has everything wait for the bytes that are given to [`uncork`](Self::uncork), within the limits of the queue.
    pub(crate) fn cork(&self) {
        let mut out = self.out.lock();
        if out.sends && out.queue.is_none() {
            out.corked = true;
            self.wait(&mut out, |_| Ok(()));
        }
    }

    /// Sends these bytes, and then what has been waiting for them.
    pub(crate) fn uncork(&self, first: Bytes) {
        let mut out = self.out.lock();
        if std::mem::take(&mut out.corked)
            && let Some(queue) = &mut out.queue
        {
            queue.push_first(first);
            self.transport.wake();
        }
    }

    /// Drops what has been waiting, because something else is to be said.
    pub(crate) fn uncork_empty(&self) {
        let mut out = self.out.lock();
        if std::mem::take(&mut out.corked) {
            out.queue = None;
            self.mirror_attention(&out);
        }
    }

    /// Sends a frame that belongs to no topic.
    pub(crate) fn send(&self, frame: Bytes) {
        if frame.is_empty() {
            return;
        }
        let mut out = self.out.lock();
        if let Some(sent) = self.send_now(&mut out, &frame)
            && sent < frame.len()
        {
            let rest = Entry::Frame(frame.slice(sent..));
            self.wait(&mut out, |queue| if sent > 0 { queue.admit_started(rest) } else { queue.admit(rest) });
            self.mirror_pause(&out);
        }
    }

    /// Sends what `subscription`, which is of this slot, has not had of `batch`.
    ///
    /// Serving the same batch twice sends it once: the subscription's `next_seq` says who was served, and it changes
    /// under the slot's lock together with the send.
    pub(crate) fn deliver(&self, subscription: &Arc<Subscription>, batch: &Arc<Batch>, tick: Tick) {
        let mut out = self.out.lock();
        let next_seq = subscription.next_seq.load(Ordering::Relaxed);
        let end = batch.last_seq() + 1;
        if next_seq >= end {
            return;
        }
        let view = batch.view(subscription.codec(), &self.terms.codecs);
        let unsent = &view.bytes()[view.start_of(next_seq)..];
        if let Some(sent) = self.send_now(&mut out, unsent)
            && sent < unsent.len()
        {
            let mut messages = Messages::new(subscription, batch, next_seq.max(batch.first_seq())..end);
            messages.advance(sent);
            if sent > 0 {
                self.wait(&mut out, |queue| queue.admit_started(Entry::Messages(messages)));
            } else {
                self.queue_messages(&mut out, messages);
            }
        }
        subscription.next_seq.store(end, Ordering::Relaxed);
        self.quiet_since.set(tick);
    }

    /// Sends a portion of messages that were asked for; whether all of it is gone. Nothing must wait: what is asked for is
    /// not subject to limits.
    pub(crate) fn replay(&self, portion: Vec<Messages>, tick: Tick) -> bool {
        let mut out = self.out.lock();
        if out.link.is_none() {
            if out.sends {
                self.wait(&mut out, |queue| {
                    portion.into_iter().for_each(|messages| queue.push(Entry::Messages(messages)));
                    Ok(())
                });
            }
            return out.queue.is_none();
        }
        // One send instead of one for each batch, which may be a single message.
        let mut frames = BytesMut::new();
        for messages in portion {
            let view = messages.view();
            frames.extend_from_slice(&view.bytes()[view.range(messages.seqs.clone())]);
        }
        let frames = frames.freeze();
        if let Some(sent) = self.send_now(&mut out, &frames)
            && sent < frames.len()
        {
            let rest = Entry::Frame(frames.slice(sent..));
            self.wait(&mut out, |queue| {
                if sent > 0 {
                    return queue.admit_started(rest);
                }
                queue.push(rest);
                Ok(())
            });
        }
        self.quiet_since.set(tick);
        out.queue.is_none()
    }

    /// Has delivery of a topic that had to start afresh, under a new epoch, go on with `seq`. If that leaves something out,
    /// the subscriber finds a gap; a client that cannot be told of it is closed.
    pub(crate) fn skip_to(&self, subscription: &Arc<Subscription>, topic: &TopicName, epoch: Epoch, seq: u64) {
        let mut out = self.out.lock();
        // In one go with the look at it: a sender may be at work on what is skipped, and what it has sent is not lost.
        let next_seq = subscription.next_seq.load(Ordering::Relaxed);
        if next_seq == ENDED || next_seq >= seq {
            return;
        }
        subscription.next_seq.store(seq, Ordering::Relaxed);
        if !subscription.tells() {
            self.end_locked(&mut out, End::MessagesLost);
        } else if out.sends {
            self.wait(&mut out, |queue| {
                queue.push_gap(subscription, topic, epoch, next_seq..seq);
                Ok(())
            });
        }
    }

    /// How many of these bytes the socket took at once; `None` if nothing can be sent any more.
    #[inline]
    fn send_now(&self, out: &mut Out, bytes: &[u8]) -> Option<usize> {
        let Out { link: Some(link), sends: true, queue: None, .. } = out else {
            // Overtaking what waits would break the order, and a subscriber in this process takes for itself.
            return out.sends.then_some(0);
        };
        match link.send(bytes) {
            Ok(sent) => Some(sent),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Some(0),
            Err(error) => {
                self.end_locked(out, End::Broken(error.kind()));
                None
            }
        }
    }

    /// Has something wait.
    fn wait(&self, out: &mut Out, enter: impl FnOnce(&mut Queue) -> Result<(), End>) {
        let first = out.queue.is_none();
        let queue = out.queue.get_or_insert_with(|| Box::new(Queue::new(&self.terms)));
        if let Err(end) = enter(queue) {
            return self.end_locked(out, end);
        }
        if first {
            self.attention.store(true, Ordering::Release);
            self.transport.wake();
        }
    }

    /// The next message, gap or end for a subscriber in this process.
    pub(crate) fn poll_take(&self, cx: &mut task::Context<'_>) -> Poll<Result<Taken, End>> {
        self.transport.register(cx.waker());
        let mut out = self.out.lock();
        let taken = out.queue.as_mut().and_then(|queue| queue.take());
        if out.queue.as_ref().is_some_and(|queue| queue.is_empty()) {
            out.queue = None;
            self.mirror_attention(&out);
        }
        match (taken, out.end) {
            (Some(taken), _) => Poll::Ready(Ok(taken)),
            (None, Some(end)) => Poll::Ready(Err(end)),
            (None, None) => Poll::Pending,
        }
    }

    /// Reads what the client sent; 0 bytes are its FIN. The Transport alone may call it.
    pub(crate) fn poll_read(&self, cx: &mut task::Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        // A sender that was interrupted in the middle of a send must not stop the whole arbiter until it goes on.
        let Some(mut out) = self.out.try_lock() else { return yield_now(cx) };
        let Out { link: Some(link), reads, .. } = &mut *out else { return Poll::Ready(Ok(0)) };
        let read = link.poll_read(cx, buffer);
        if *reads == Reads::Idle && read.is_ready() {
            *reads = Reads::Ending;
        }
        read
    }

    /// Writes what waits, as far as the kernel takes it and for at most one turn; the calling task, which must be the
    /// Transport's, is woken for the rest.
    pub(crate) fn flush(&self, cx: &mut task::Context<'_>) {
        let mut out = self.out.lock();
        // A stream that has failed is not asked again.
        let Out { link: Some(link), queue, reads: Reads::Unknown, corked: false, .. } = &mut *out else { return };
        if let Some(queue) = queue {
            let Poll::Ready(flushed) = link.poll_write(cx, |link| queue.write_to(link)) else {
                // What was taken before may still be held back.
                if link.is_unflushed()
                    && let Poll::Ready(Err(error)) = link.poll_flush(cx)
                {
                    let end = queue.end_for_error(&error);
                    self.end_locked(&mut out, end);
                }
                return self.mirror_pause(&out);
            };
            match flushed.map_err(|error| queue.end_for_error(&error)) {
                Ok(Flushed::All) => out.queue = None,
                Ok(Flushed::Turn) => {
                    let _ = yield_now::<()>(cx);
                    return self.mirror_pause(&out);
                }
                Err(end) => return self.end_locked(&mut out, end),
            }
        }
        let Out { link: Some(link), .. } = &*out else { return };
        if link.is_unflushed()
            && let Poll::Ready(Err(error)) = link.poll_flush(cx)
        {
            return self.end_locked(&mut out, End::Broken(error.kind()));
        }
        self.mirror_attention(&out);
        self.mirror_pause(&out);
    }

    /// Ends the connection for a reason of the server's; the Transport is woken to carry it out.
    pub(crate) fn end(&self, end: End) {
        self.end_locked(&mut self.out.lock(), end);
    }

    /// Ends the connection because reading from it failed.
    pub(crate) fn lost(&self, kind: io::ErrorKind) {
        let mut out = self.out.lock();
        let end = out.queue.as_ref().map_or(End::Broken(kind), |queue| queue.end_for(kind));
        self.end_locked(&mut out, end);
    }

    fn end_locked(&self, out: &mut Out, end: End) {
        // An end that resets goes before one that takes its time, which may never come to its end. A client that nothing can
        // be sent to goes on sending, and may be closed for that.
        if !out.sends && end != End::Overloaded || out.end.is_some() && !end.resets() {
            return;
        }
        out.end = Some(end);
        if let (End::Broken(_), Some(link)) = (end, &out.link)
            && !link.reads_end_with_writes()
        {
            out.reads = Reads::Ending;
        }
        if let (None, End::SlowConsumer { why, .. }) = (&out.link, end) {
            // No Transport carries it out, which would count it.
            self.terms.ledger.cut_off(why);
        }
        if end.resets() {
            out.reset();
            // Not every link comes to its end without being read.
            self.mirror_pause(out);
        }
        self.attention.store(true, Ordering::Release);
        self.transport.wake();
    }

    /// Ends the stream; nothing can be sent from here on. The peer sees a FIN after what the kernel already has, or a
    /// reset if something is still queued: a stream that breaks off must not look complete. Says whether it was.
    pub(crate) fn shut_down(&self) -> bool {
        let mut out = self.out.lock();
        if out.queue.is_some() {
            out.reset();
            return false;
        }
        let complete = !out.sends || !out.holds_back();
        if std::mem::take(&mut out.sends)
            && let Some(link) = &out.link
        {
            link.shut_down();
        }
        complete
    }

    /// Gives the link away, to somebody who goes on with it; `None` if something waits to be written, or nothing can be.
    pub(crate) fn take_link(&self) -> Option<Link> {
        let mut out = self.out.lock();
        if !out.sends || out.queue.is_some() {
            return None;
        }
        out.sends = false;
        out.link.take()
    }

    /// Closes the socket; as [`shut_down`](Self::shut_down) otherwise.
    pub(crate) fn close(&self) -> bool {
        let complete = self.shut_down();
        let link = self.out.lock().link.take();
        // Without the lock: a close is slow, and whoever delivers need not wait for it.
        drop(link);
        complete
    }

    /// Registers the Transport's task, and says whether something waits for it: a queue or an end.
    pub(crate) fn poll_attention(&self, waker: &Waker) -> bool {
        self.transport.register(waker);
        self.attention.load(Ordering::Acquire)
    }

    #[cfg(feature = "fault-injection")]
    pub(crate) fn crash_transport(&self) {
        {
            // With the lock, or the Transport might forget of it what it is about to see.
            let _out = self.out.lock();
            self.crash.store(true, Ordering::Relaxed);
            self.attention.store(true, Ordering::Release);
        }
        self.transport.wake();
    }

    /// Why the connection is to end, once.
    pub(crate) fn take_end(&self) -> Option<End> {
        let mut out = self.out.lock();
        let end = out.end.take();
        self.mirror_attention(&out);
        end
    }

    fn mirror_attention(&self, out: &Out) {
        let needed = out.needs_attention();
        #[cfg(feature = "fault-injection")]
        let needed = needed || self.crash.load(Ordering::Relaxed);
        self.attention.store(needed, Ordering::Release);
    }

    /// Notes a message from this client that will be [answered](Self::answered).
    pub(crate) fn expect_answer(&self) {
        self.unanswered.fetch_add(1, Ordering::SeqCst);
    }

    /// A message from this client has been answered, or needs no answer.
    pub(crate) fn answered(&self) {
        // Sequentially consistent with `is_settled`, or both could see the other's value of before.
        if self.unanswered.fetch_sub(1, Ordering::SeqCst) == 1 && self.awaited.load(Ordering::SeqCst) {
            self.transport.wake();
        }
    }

    /// Whether every message of this client has been answered; if not, the Transport is woken when that is so.
    pub(crate) fn is_settled(&self) -> bool {
        self.awaited.store(true, Ordering::SeqCst);
        let settled = self.unanswered.load(Ordering::SeqCst) == 0;
        if settled {
            self.awaited.store(false, Ordering::SeqCst);
        }
        settled
    }

    /// Whether nothing waits to be taken, and what was taken is on its way.
    pub(crate) fn is_flushed(&self) -> bool {
        let out = self.out.lock();
        out.queue.is_none() && !out.holds_back()
    }

    /// Whether something waits for the client, or it is about to end, or should be.
    pub(crate) fn needs_attention(&self) -> bool {
        self.attention.load(Ordering::Relaxed)
    }

    /// Ends a client that has taken nothing of what waits for it for `timeout` ticks, or for `patience` ticks if a topic
    /// of it has a policy that bears with it; and one that nothing can be sent to, if nothing comes from it either. Called
    /// once a tick.
    pub(crate) fn end_if_stalled(&self, tick: Tick, timeout: u32, patience: u32) {
        let mut out = self.out.lock();
        match out.reads {
            Reads::Unknown => {}
            Reads::Ending => out.reads = Reads::Idle,
            Reads::Idle => {
                out.end = Some(End::GivenUp);
                self.transport.wake();
            }
        }
        let limit = if self.patient.load(Ordering::Relaxed) > 0 { patience } else { timeout };
        let Out { link, queue: Some(queue), corked: false, .. } = &mut *out else { return };
        // The kernel calls a socket writable when a third of its buffer is free, which a client that reads slowly and
        // steadily may never come to. That a send takes something shows that it reads.
        let flushed = link.as_ref().map_or(Ok(Flushed::Turn), |link| queue.write_to(link));
        let end = match flushed {
            Ok(Flushed::All) => {
                out.queue = None;
                self.mirror_attention(&out);
                self.mirror_pause(&out);
                // It may wait for just that.
                return self.transport.wake();
            }
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => queue.end_for_error(&error),
            Ok(Flushed::Turn) | Err(_) if queue.watch(tick) < limit => return self.mirror_pause(&out),
            Ok(Flushed::Turn) | Err(_) => queue.overflow(SlowReason::Stalled),
        };
        self.end_locked(&mut out, end);
    }

    /// Cuts off a client whose queue is among the largest, because memory runs out.
    pub(crate) fn end_for_memory(&self) {
        let mut out = self.out.lock();
        let Some(queue) = &out.queue else { return };
        let end = queue.overflow(SlowReason::Memory);
        self.end_locked(&mut out, end);
    }

    /// Gives the client the time of those with a topic whose policy bears with them.
    fn bear_with(&self) {
        if self.patient.fetch_add(1, Ordering::Relaxed) == 0
            && let Some(link) = &self.out.lock().link
        {
            // Or the kernel would cut off after `tcp_user_timeout` whom the policy keeps. It is not taken back: the
            // heartbeat comes first in any case.
            link.set_user_timeout(self.terms.patience);
        }
    }

    /// Bytes that wait for this client, and the tick at which it was first seen to lag.
    pub(crate) fn queued(&self) -> Option<(usize, Option<Tick>)> {
        let out = self.out.lock();
        out.queue.as_ref().filter(|_| !out.corked).map(|queue| (queue.size().1, queue.since()))
    }

    /// What waits for this client; `None` if it keeps up.
    pub(crate) fn lag(&self) -> Option<Lag> {
        let out = self.out.lock();
        let queue = out.queue.as_ref().filter(|_| !out.corked)?;
        let (frames, bytes) = queue.size();
        Some(Lag { frames, bytes, since: queue.since(), peer: out.link.as_ref().and_then(Link::peer) })
    }

    /// Notes that a frame has begun and not ended, or that none has. One that follows on a frame just completed is a
    /// new one: a client that is always in the middle of some frame is not late with any.
    pub(crate) fn set_unfinished(&self, unfinished: bool, completed_another: bool, tick: Tick) {
        if !unfinished {
            self.frame_since.clear();
        } else if completed_another || self.frame_since.get().is_none() {
            self.frame_since.set(tick);
        }
    }

    /// Ticks since a frame is unfinished. Looked at once a tick.
    pub(crate) fn unfinished_for(&self, tick: Tick) -> Option<u32> {
        let since = self.frame_since.get()?;
        if self.is_paused() {
            // The rest of the frame may have come, and is not read yet.
            self.frame_since.set(tick);
            return None;
        }
        Some(tick.since(since))
    }

    /// Notes that the client has asked for something.
    pub(crate) fn note_asked(&self) {
        self.has_asked.store(true, Ordering::Relaxed);
    }

    /// Whether the client has asked for anything yet.
    pub(crate) fn has_asked(&self) -> bool {
        self.has_asked.load(Ordering::Relaxed)
    }

    /// Has silence count from now on, and not only from the first message.
    pub(crate) fn expect_silence(&self, tick: Tick) {
        self.quiet_since.set(tick);
    }

    /// Sends no heartbeat from now on. The client must have left its topics, or the next message would bring it back.
    pub(crate) fn fall_silent(&self) {
        self.quiet_since.clear();
    }

    /// Whether a PING is due: so many ticks have passed since the last message or PING, or since something has come from
    /// a client that answers, to which messages may flow all the time. Marks it as sent.
    pub(crate) fn take_ping_due(&self, tick: Tick, interval: u32) -> bool {
        let Some(since) = self.quiet_since.get() else { return false };
        let silent = self.pulse.silent_for(tick).is_some_and(|silence| silence >= interval);
        if tick.since(since) < interval && !silent {
            return false;
        }
        self.quiet_since.set(tick);
        true
    }

    /// Whether the client has owed the answer to a heartbeat for `patience` ticks. While something waits for it, it is the
    /// business of those who look after queues: it may read as fast as its link allows, and not have come to the heartbeat.
    pub(crate) fn is_overdue(&self, tick: Tick, patience: u32) -> bool {
        if self.needs_attention() {
            self.pulse.defer(tick);
        }
        self.pulse.unanswered_for(tick).is_some_and(|time| time >= patience)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if let Some(account) = &self.account {
            account.connections.remove(1);
        }
    }
}

impl Out {
    /// Whether there is something to do for the Transport or for the heartbeat.
    fn needs_attention(&self) -> bool {
        self.queue.is_some() || self.end.is_some() || self.reads != Reads::Unknown || self.holds_back()
    }

    /// Whether the link has taken something that may not be on its way.
    fn holds_back(&self) -> bool {
        self.link.as_ref().is_some_and(Link::is_unflushed)
    }

    /// Makes the socket's close a reset, and lets nothing more out.
    fn reset(&mut self) {
        self.queue = None;
        self.sends = false;
        if let Some(link) = &self.link {
            link.reset_on_close();
        }
    }
}

/// What waits for one client.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lag {
    pub(crate) frames: usize,
    pub(crate) bytes: usize,
    /// The tick at which it was first seen to lag.
    pub(crate) since: Option<Tick>,
    pub(crate) peer: Option<Peer>,
}

/// One client's place in one topic.
#[derive(Debug)]
pub(crate) struct Subscription {
    pub(crate) slot: Arc<Slot>,
    /// The next sequence number to send; nothing before it is sent. [`ENDED`] once the client has unsubscribed.
    /// Changes only under the slot's lock, so that an unsubscribe is not undone by a delivery.
    next_seq: AtomicU64,
    /// The number of the first message that the client has had or will have, from which its own count leads to a number;
    /// 0 until delivery has begun.
    first_seq: AtomicU64,
    /// Where it stands in the topic's list; the topic's business alone.
    pub(crate) index: AtomicU32,
    /// Whether the client has been told of its subscription: a request repeated at a topic's successor is answered once.
    acknowledged: AtomicBool,
    /// Whether messages were dropped, so that the client's count leads nowhere.
    lossy: AtomicBool,
    policy: SlowConsumer,
    /// The number of the codec in which the client gets its messages, and [`TELLS`](Self::TELLS).
    wire: u8,
}

const ENDED: u64 = u64::MAX;

impl Subscription {
    /// The name of its subscriber in a trace.
    pub(crate) fn trace_name(&self) -> String {
        let id = self.slot.id;
        if self.is_local() { format!("subscriber {id}") } else { trace::client(id) }
    }

    /// Set in `wire` if the client can be told which messages it does not get. One bit, because this is kept for every
    /// subscription of every client.
    const TELLS: u8 = 0x80;

    /// A subscription of a connection. Where its codec has no words for what it does not get, it is closed instead of
    /// dropping messages one by one.
    pub(crate) fn of_connection(slot: Arc<Slot>, policy: SlowConsumer) -> Self {
        let codec = slot.codec();
        let tells = slot.codecs().tells_gaps(codec);
        let policy = match policy {
            SlowConsumer::DropOldest | SlowConsumer::DropNewest if !tells => SlowConsumer::Disconnect,
            policy => policy,
        };
        Self::new(slot, policy, codec | if tells { Self::TELLS } else { 0 })
    }

    /// A subscription of this process.
    pub(crate) fn local(slot: Arc<Slot>, policy: SlowConsumer) -> Self {
        Self::new(slot, policy, CLASSIC | Self::TELLS)
    }

    fn new(slot: Arc<Slot>, policy: SlowConsumer, wire: u8) -> Self {
        slot.terms.ledger.add_subscription();
        if policy != SlowConsumer::Disconnect {
            slot.bear_with();
        }
        Self {
            slot,
            next_seq: AtomicU64::new(0),
            first_seq: AtomicU64::new(0),
            index: AtomicU32::new(u32::MAX),
            acknowledged: AtomicBool::new(false),
            lossy: AtomicBool::new(false),
            policy,
            wire,
        }
    }

    pub(crate) fn policy(&self) -> SlowConsumer {
        self.policy
    }

    /// Whether the client can be told which messages it does not get.
    pub(crate) fn tells(&self) -> bool {
        self.wire & Self::TELLS != 0
    }

    pub(crate) fn codec(&self) -> CodecId {
        self.wire & !Self::TELLS
    }

    /// Whether it is a subscription of this process.
    pub(crate) fn is_local(&self) -> bool {
        self.wire == CLASSIC | Self::TELLS
    }

    pub(crate) fn set_lossy(&self) {
        self.lossy.store(true, Ordering::Relaxed);
    }

    /// Whether messages were dropped, so that the client's count leads nowhere.
    pub(crate) fn is_lossy(&self) -> bool {
        self.lossy.load(Ordering::Relaxed)
    }

    /// The number of the first message that the client has had or will have; `None` if delivery has not begun.
    pub(crate) fn first_seq(&self) -> Option<u64> {
        let first_seq = self.first_seq.load(Ordering::Relaxed);
        (first_seq > 0).then_some(first_seq)
    }

    /// Has the client's count go on from an earlier connection, where it began with `seq`.
    pub(crate) fn count_from(&self, seq: u64) {
        self.first_seq.store(seq, Ordering::Relaxed);
    }

    /// Brings what a delivery touches into the CPU's cache.
    pub(crate) fn prefetch(&self) {
        // Plain loads, because a prefetch instruction would be unsafe code; the hint keeps them from being left out. The
        // slot's three fields lie at the start, in the middle and at the end of what a send touches.
        let Slot { id, out, quiet_since, .. } = &*self.slot;
        black_box((self.next_seq(), *id, out.is_locked(), quiet_since.get()));
    }

    /// Starts delivery with `seq`, unless the client has unsubscribed meanwhile.
    pub(crate) fn begin(&self, seq: u64) -> bool {
        let _out = self.slot.out.lock();
        if self.next_seq.load(Ordering::Relaxed) == ENDED {
            return false;
        }
        self.next_seq.store(seq, Ordering::Relaxed);
        // Numbers go on when delivery begins anew, and so does the client's count.
        let _ = self.first_seq.compare_exchange(0, seq, Ordering::Relaxed, Ordering::Relaxed);
        true
    }

    /// Stops delivery at once, also in the middle of a pass.
    pub(crate) fn end(&self) {
        let _out = self.slot.out.lock();
        self.next_seq.store(ENDED, Ordering::Relaxed);
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.next_seq.load(Ordering::Relaxed) == ENDED
    }

    pub(crate) fn next_seq(&self) -> u64 {
        self.next_seq.load(Ordering::Relaxed)
    }

    /// True the first time only.
    pub(crate) fn acknowledge(&self) -> bool {
        !self.acknowledged.swap(true, Ordering::Relaxed)
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.slot.terms.ledger.remove_subscription();
        if self.policy != SlowConsumer::Disconnect {
            self.slot.patient.fetch_sub(1, Ordering::Relaxed);
        }
    }
}
