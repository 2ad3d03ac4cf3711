//! The sending side of one connection.
//!
//! A slot owns the socket and, while the client lags, a bounded queue. The slot is shared by the connection's Transport
//! (it reads, and writes the queue out) and by the threads of a delivery: the home arbiter and the senders. One short
//! lock per slot keeps the bytes of two frames apart, and the order of each topic.
//!
//! The socket lies in the slot and not behind a pointer of its own: a fan-out to many subscribers finds few of its
//! cache lines in the CPU's caches, and would wait for one more line in each delivery.
//!
//! Bytes go straight to the socket (see [`Link`]). Bytes refused by the kernel are queued, and the Transport is woken
//! to write the queue when the socket is ready.
//!
//! When the queue is full, the client is a slow consumer, and the policy of the subscription decides (see
//! [`queue`](super::queue)): by default the connection is reset. No other client waits for a slow consumer.
//!
//! A subscriber in this process is a slot without a link: every message waits in the queue until the subscriber takes
//! it.

mod deliver;
mod heartbeat;
mod lag;
mod pause;
mod subscription;
#[cfg(test)]
mod tests;
mod unseen;
#[cfg(target_os = "linux")]
pub(super) mod volley;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering};
use std::task::{self, Poll, Waker};

use bytes::{Bytes, BytesMut};
use futures_util::task::AtomicWaker;
use once_cell::race::OnceBox;
use parking_lot::Mutex;

#[cfg(target_os = "linux")]
use super::Sending;
use super::codecs::{CLASSIC, CodecId, CodecPanicked, Codecs};
use super::pulse::Pulse;
use super::queue::{Entry, Flushed, Messages, Queue, Taken};
use super::terms::QueueLimits;
use super::{End, Link, Terms};
use crate::accounts::Account;
use crate::accounts::received::Kept;
use crate::ground::clock::{AtomicTick, Deadline, Tick};
use crate::ground::figures::Figures;
use crate::ground::tasks::yield_now;
use crate::wire::{ClientId, Epoch, ServerEvent, TopicName};
use subscription::ENDED;
pub(crate) use subscription::Subscription;
use unseen::{Notes, Unseen};

/// The place of a subscriber in this process. No table has as many connections.
const NO_PLACE: u32 = u32::MAX;

/// One connection; see the module's documentation.
///
/// `repr(C)` keeps the order of declaration: the fields touched by a delivery come first and lie on two or three cache
/// lines.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct Slot {
    pub(crate) id: u64,
    out: Mutex<Out>,
    /// The tick of the last message or PING sent; 0 before the first message, and after the last words to the client.
    quiet_since: AtomicTick,
    /// See [`place`](Self::place).
    place: u32,
    /// Whether the client's program is alive.
    pub(crate) pulse: Pulse,
    /// When the client's identity ends, grace included.
    pub(crate) expires: Deadline,
    /// The Transport's task, woken to write the queue out or to end the connection.
    transport: AtomicWaker,
    /// The tick since which a frame from the client is unfinished; 0 without such a frame.
    frame_since: AtomicTick,
    /// Messages from this client whose outcome has not been answered.
    unanswered: AtomicU32,
    /// Whether the Transport waits for these answers.
    awaited: AtomicBool,
    /// The codec of the connection. It may change before the client's first subscription, and not after.
    codec: AtomicU8,
    /// Mirrors [`Out::needs_attention`], so the Transport sees without the lock that all is well.
    attention: AtomicBool,
    /// Whether the client is not read until it takes some of its answers.
    paused: AtomicBool,
    /// Subscriptions of the client with a policy that grants a lagging client more time.
    patient: AtomicU32,
    terms: Arc<Terms>,
    /// The account of the peer's address; `None` for a subscriber in this process.
    peer_account: Option<Arc<Account>>,
    /// The account of the client's own address, if the peer is a trusted proxy that has named the client.
    own_account: OnceBox<Arc<Account>>,
    /// The bytes kept of the client's input.
    pub(crate) kept: Kept,
    /// The reads of the link, as far as the Transport does not see them, and the Transport's notes.
    unseen: Unseen,
    #[cfg(feature = "fault-injection")]
    pub(crate) crash: AtomicBool,
    /// A copy of the session's field would be 32 bytes more for each of 19,000 clients, so only tests have it here.
    #[cfg(feature = "fault-injection")]
    pub(crate) peer: Option<crate::wire::Peer>,
}

#[derive(Debug)]
struct Out {
    /// `None` once closed, by the Transport alone, and for a subscriber in this process.
    link: Option<Link>,
    /// Whether anything can still be sent.
    sends: bool,
    /// Exists only while something waits, so a client that has caught up is as cheap as a client that never lagged.
    queue: Option<Box<Queue>>,
    end: Option<End>,
    reads: Reads,
    /// Whether the queue has to wait for earlier bytes. A corked slot always has a queue, so a delivery need not look
    /// at this flag.
    corked: bool,
}

impl Out {
    /// See [`Queue::has_room_for_frame`].
    fn has_room_for_frame(&self, length: usize) -> bool {
        self.queue.as_ref().is_none_or(|queue| queue.has_room_for_frame(length))
    }
}

/// The state of reading from the link. A client that cannot be sent anything may have sent something before, and that
/// input counts. But not every link then comes to its end by itself, and no connection may keep its place for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reads {
    /// Nothing.
    Unknown,
    /// The link has to come to its end, because sending has failed.
    Ending,
    /// Ending, and nothing has been read since the heartbeat's last look.
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
        let link = link.into();
        link.account_to(&terms.ledger);
        Self::with_link(id, place, Some(link), codec, Some(account), terms)
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
            place: place.unwrap_or(NO_PLACE),
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
            peer_account: account,
            own_account: OnceBox::new(),
            kept: Kept::default(),
            unseen: Unseen::default(),
            expires: Deadline::default(),
            #[cfg(feature = "fault-injection")]
            crash: AtomicBool::new(false),
        }
    }

    /// The public name of the connection.
    pub(crate) fn client_id(&self) -> ClientId {
        ClientId::new(self.terms.node, self.id)
    }

    /// The place in the table of connections; `None` for a subscriber in this process.
    pub(crate) fn place(&self) -> Option<u32> {
        Some(self.place).filter(|place| *place != NO_PLACE)
    }

    /// The account of the client's address; `None` for a subscriber in this process.
    pub(crate) fn account(&self) -> Option<&Arc<Account>> {
        self.own_account.get().or(self.peer_account.as_ref())
    }

    /// Moves the connection to the account of the client's own address, once. Tables that list connections by address must
    /// not list this connection meanwhile.
    pub(crate) fn move_to(&self, account: Arc<Account>) {
        account.connections.add(1);
        match self.own_account.set(Box::new(account)) {
            Ok(()) => self.peer_account.iter().for_each(|before| before.connections.remove(1)),
            Err(again) => again.connections.remove(1),
        }
    }

    pub(crate) fn codec(&self) -> CodecId {
        self.codec.load(Ordering::Relaxed)
    }

    /// Changes the codec of the connection. Answers still owed are encoded in the new codec, which must know the numbers of
    /// their requests.
    pub(crate) fn set_codec(&self, codec: CodecId) {
        self.codec.store(codec, Ordering::Relaxed);
    }

    pub(crate) fn codecs(&self) -> &Codecs {
        &self.terms.codecs
    }

    /// How pieces of this instance reach the kernel.
    #[cfg(target_os = "linux")]
    pub(super) fn sending(&self) -> &Sending {
        &self.terms.sending
    }

    pub(crate) fn queue_limits(&self) -> QueueLimits {
        self.terms.limits()
    }

    pub(crate) fn figures(&self) -> &Figures {
        &self.terms.ledger.figures
    }

    /// Sends an event without a place in a topic's order: a greeting, an answer, an error.
    pub(crate) fn tell(&self, event: &ServerEvent<'_>) {
        match self.codecs().encode(self.codec(), event) {
            Ok(frame) => self.send(frame),
            Err(CodecPanicked) => self.end(End::CodecPanicked),
        }
    }

    /// Queues all frames from now on, within the limits of the queue, until [`uncork`](Self::uncork) is given the first
    /// bytes.
    pub(crate) fn cork(&self) {
        let mut out = self.out.lock();
        if out.sends && out.queue.is_none() {
            out.corked = true;
            self.wait(&mut out, |_| Ok(()));
        }
    }

    /// Sends these bytes, and then the frames that waited for them.
    pub(crate) fn uncork(&self, first: Bytes) {
        let mut out = self.out.lock();
        if std::mem::take(&mut out.corked)
            && let Some(queue) = &mut out.queue
        {
            queue.push_first(first);
            self.transport.wake();
        }
    }

    /// Drops the frames behind the cork, because the client is told something else instead.
    pub(crate) fn uncork_empty(&self) {
        let mut out = self.out.lock();
        if std::mem::take(&mut out.corked) {
            out.queue = None;
            self.mirror_attention(&out);
        }
    }

    /// Sends a frame without a topic.
    pub(crate) fn send(&self, frame: Bytes) {
        if !frame.is_empty() {
            self.send_if(&frame, || true);
        }
    }

    /// Sends a frame if `may_send` says so, under the lock of the slot.
    fn send_if(&self, frame: &Bytes, may_send: impl FnOnce() -> bool) {
        let mut out = self.out.lock();
        if may_send() {
            self.send_locked(&mut out, frame);
        }
    }

    fn send_locked(&self, out: &mut Out, frame: &Bytes) {
        if let Some(sent) = self.send_now(out, frame)
            && sent < frame.len()
        {
            let rest = Entry::Frame(frame.slice(sent..));
            self.wait(out, |queue| if sent > 0 { queue.admit_started(rest) } else { queue.admit(rest) });
            self.mirror_pause(out);
        }
    }

    /// Sends a frame without a topic's order that the client has not asked for, if the frame has room next to the
    /// client's answers. Returns false without room: the caller tells the client later, and less.
    pub(crate) fn offer(&self, frame: &Bytes) -> bool {
        let mut out = self.out.lock();
        let has_room = out.has_room_for_frame(frame.len());
        if has_room && !frame.is_empty() {
            self.send_locked(&mut out, frame);
        }
        has_room
    }

    /// Whether [`offer`](Self::offer) would send a frame of this length now.
    pub(crate) fn would_offer(&self, length: usize) -> bool {
        self.out.lock().has_room_for_frame(length)
    }

    /// Sends a portion of requested messages; returns whether all of them are gone. Nothing may wait before the call:
    /// requested messages are not subject to limits.
    pub(crate) fn replay(&self, portion: Vec<Messages>, tick: Tick) -> bool {
        let messages = portion.iter().map(|messages| messages.seqs.end - messages.seqs.start).sum();
        self.terms.ledger.counters.messages_replayed.fetch_add(messages, Ordering::Relaxed);
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
        // One send instead of one for each batch, because a batch may be a single message.
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

    /// Continues delivery with `seq` in a topic that had to start afresh under a new epoch. If messages are left out,
    /// the subscriber finds a gap; a client without words for a gap is closed.
    pub(crate) fn skip_to(&self, subscription: &Arc<Subscription>, topic: &TopicName, epoch: Epoch, seq: u64) {
        let mut out = self.out.lock();
        // Read and changed under one lock: a sender may be at work on the skipped numbers, and a message already sent
        // is not lost.
        let next_seq = subscription.next_seq.load(Ordering::Relaxed);
        if next_seq == ENDED || next_seq >= seq {
            return;
        }
        if !subscription.tells() {
            // The end is carried out later, and no message from behind the gap may come first. The client's count of
            // messages leads to no position any more.
            subscription.next_seq.store(ENDED, Ordering::Relaxed);
            subscription.set_lossy();
            self.end_locked(&mut out, End::MessagesLost);
            return;
        }
        subscription.next_seq.store(seq, Ordering::Relaxed);
        if out.sends {
            self.wait(&mut out, |queue| {
                queue.push_gap(subscription, topic, epoch, next_seq..seq);
                Ok(())
            });
        }
    }

    /// How many of these bytes the socket took at once; `None` if nothing can be sent any more.
    #[inline]
    fn send_now(&self, out: &mut Out, bytes: &[u8]) -> Option<usize> {
        match out.open_link() {
            Some(link) => {
                let sent = link.send(bytes);
                self.note_sent(out, sent)
            }
            // To overtake the queue would break the order. A subscriber in this process takes messages by itself.
            None => out.sends.then_some(0),
        }
    }

    /// What a send on the [open link](Out::open_link) came to: how many bytes were taken; `None` if nothing can be sent
    /// any more.
    #[inline]
    fn note_sent(&self, out: &mut Out, sent: io::Result<usize>) -> Option<usize> {
        match sent {
            Ok(sent) => {
                if out.holds_back() {
                    // The link has taken bytes that the kernel has not.
                    self.attention.store(true, Ordering::Release);
                    self.transport.wake();
                }
                Some(sent)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Some(0),
            Err(error) => {
                self.end_locked(out, End::Broken(error.kind()));
                None
            }
        }
    }

    /// Queues an entry, and wakes the Transport if the queue was empty.
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

    /// Reads bytes of the client; 0 bytes are the client's FIN. The error `Interrupted` says that another thread uses
    /// the link for a moment. For the Transport alone.
    pub(crate) fn poll_read(&self, cx: &mut task::Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        // A sender thread interrupted in the middle of a send must not stop the whole arbiter until it runs again.
        let Some(mut out) = self.out.try_lock() else {
            return Poll::Ready(Err(io::ErrorKind::Interrupted.into()));
        };
        let Out { link: Some(link), reads, .. } = &mut *out else { return Poll::Ready(Ok(0)) };
        let read = link.poll_read(cx, buffer);
        #[cfg(feature = "tls")]
        if let Link::Tls(tls) = link {
            self.unseen.note(&tls.take_unseen());
        }
        if *reads == Reads::Idle && read.is_ready() {
            *reads = Reads::Ending;
        }
        read
    }

    /// Writes the queue out, as far as the kernel takes it and for at most one turn. The calling task must be the
    /// Transport's, and is woken for the rest.
    pub(crate) fn flush(&self, cx: &mut task::Context<'_>) {
        let mut out = self.out.lock();
        // A failed stream is not written again.
        let Out { link: Some(link), queue, reads: Reads::Unknown, corked: false, .. } = &mut *out else { return };
        if let Some(queue) = queue {
            let Poll::Ready(flushed) = link.poll_write(cx, |link| queue.write_to(link)) else {
                // Bytes taken before may still be held back.
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

    /// Ends the connection for a reason of the server; the Transport is woken to carry the end out.
    pub(crate) fn end(&self, end: End) {
        self.end_locked(&mut self.out.lock(), end);
    }

    /// Ends the connection because reading failed.
    pub(crate) fn lost(&self, kind: io::ErrorKind) {
        let mut out = self.out.lock();
        let end = out.queue.as_ref().map_or(End::Broken(kind), |queue| queue.end_for(kind));
        self.end_locked(&mut out, end);
    }

    fn end_locked(&self, out: &mut Out, end: End) {
        // An end that resets takes precedence over an orderly end, which may take for ever. A client that cannot be
        // sent anything continues to send, and may be closed for its input.
        let is_ending = out.end.is_some_and(|earlier| !earlier.may_lapse());
        if !out.sends && end != End::Overloaded || is_ending && !end.resets() {
            return;
        }
        out.end = Some(end);
        if let (End::Broken(_), Some(link)) = (end, &out.link)
            && !link.reads_end_with_writes()
        {
            out.reads = Reads::Ending;
        }
        if let (None, End::SlowConsumer { why, .. }) = (&out.link, end) {
            // No Transport carries this end out and counts it.
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

    /// Ends the stream; nothing can be sent from here on. The peer sees a FIN after the bytes in the kernel, or a reset
    /// if something is still queued: a stream that breaks off must not look complete. Returns whether the stream was
    /// complete.
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

    /// Gives the link away, to code that continues with it; `None` if bytes wait to be written, or nothing can be sent.
    pub(crate) fn take_link(&self) -> Option<Link> {
        let mut out = self.out.lock();
        if !out.sends || out.queue.is_some() {
            return None;
        }
        out.sends = false;
        out.link.take()
    }

    /// Closes the socket; otherwise like [`shut_down`](Self::shut_down).
    pub(crate) fn close(&self) -> bool {
        let complete = self.shut_down();
        let link = self.out.lock().link.take();
        // Without the lock: a close is slow, and a delivery need not wait for it.
        drop(link);
        complete
    }

    /// Registers the Transport's task, and returns whether the slot needs the Transport: for a queue or an end.
    pub(crate) fn poll_attention(&self, waker: &Waker) -> bool {
        self.transport.register(waker);
        self.attention.load(Ordering::Acquire)
    }

    #[cfg(feature = "fault-injection")]
    pub(crate) fn crash_transport(&self) {
        {
            // With the lock, or the Transport might overwrite the attention set here.
            let _out = self.out.lock();
            self.crash.store(true, Ordering::Relaxed);
            self.attention.store(true, Ordering::Release);
        }
        self.transport.wake();
    }

    /// Takes the reason for the end of the connection, if there is one.
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

    /// Notes a message from this client with an [answer](Self::answered) to come.
    pub(crate) fn expect_answer(&self) {
        self.unanswered.fetch_add(1, Ordering::SeqCst);
    }

    /// A message from this client has been answered, or needs no answer.
    pub(crate) fn answered(&self) {
        // Sequentially consistent with `is_settled`, or each could see the other's earlier value.
        if self.unanswered.fetch_sub(1, Ordering::SeqCst) == 1 && self.awaited.load(Ordering::SeqCst) {
            self.transport.wake();
        }
    }

    /// Whether a message of this client has not been answered.
    pub(crate) fn is_answering(&self) -> bool {
        self.unanswered.load(Ordering::SeqCst) > 0
    }

    /// Whether every message of this client has been answered; if not, the Transport is woken after the last answer.
    pub(crate) fn is_settled(&self) -> bool {
        self.awaited.store(true, Ordering::SeqCst);
        let settled = self.unanswered.load(Ordering::SeqCst) == 0;
        if settled {
            self.awaited.store(false, Ordering::SeqCst);
        }
        settled
    }

    /// Whether the queue is empty, and all bytes given to the link are on their way.
    pub(crate) fn is_flushed(&self) -> bool {
        let out = self.out.lock();
        out.queue.is_none() && !out.holds_back()
    }

    /// Whether a queue waits for the client, or the connection is about to end, or should be.
    pub(crate) fn needs_attention(&self) -> bool {
        self.attention.load(Ordering::Relaxed)
    }

    /// Notes that a frame has begun and not ended, or that no frame has. A frame behind a completed frame is a new one:
    /// a client that is always in the middle of some frame is not late with any.
    pub(crate) fn set_unfinished(&self, unfinished: bool, completed_another: bool, tick: Tick) {
        if !unfinished {
            self.frame_since.clear();
        } else if completed_another || self.frame_since.get().is_none() {
            self.frame_since.set(tick);
        }
    }

    /// For how many ticks a frame has been unfinished; `None` without such a frame. Called once a tick.
    pub(crate) fn unfinished_for(&self, tick: Tick) -> Option<u32> {
        let since = self.frame_since.get()?;
        if self.is_paused() {
            // The rest of the frame may have come, and is not read yet. Or has just been read, on another home.
            self.frame_since.advance(Some(since), tick);
            return None;
        }
        Some(tick.since(since))
    }

    /// Notes whether the client is between two requests; returns the note before. For the Transport alone.
    pub(crate) fn set_idle(&self, is_idle: bool) -> bool {
        self.unseen.notes.set(Notes::IDLE, is_idle)
    }

    /// Whether the client is between two requests.
    pub(crate) fn is_idle(&self) -> bool {
        self.unseen.notes.has(Notes::IDLE)
    }

    /// Notes a request of the client.
    pub(crate) fn note_asked(&self) {
        self.unseen.notes.set(Notes::ASKED, true);
    }

    /// Whether the client has asked for anything yet.
    pub(crate) fn has_asked(&self) -> bool {
        self.unseen.notes.has(Notes::ASKED)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if let Some(account) = self.account() {
            account.connections.remove(1);
        }
    }
}

impl Out {
    /// The link, if bytes may go to it at once.
    #[inline]
    fn open_link(&self) -> Option<&Link> {
        match self {
            Self { link: Some(link), sends: true, queue: None, .. } => Some(link),
            _ => None,
        }
    }

    /// Whether there is something to do for the Transport or for the heartbeat.
    fn needs_attention(&self) -> bool {
        self.queue.is_some() || self.end.is_some() || self.reads != Reads::Unknown || self.holds_back()
    }

    /// Whether the link holds bytes that may not be on their way.
    fn holds_back(&self) -> bool {
        self.link.as_ref().is_some_and(Link::is_unflushed)
    }

    /// The number of bytes that the link has taken and the kernel has not.
    fn unsent(&self) -> usize {
        self.link.as_ref().map_or(0, Link::unsent)
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
