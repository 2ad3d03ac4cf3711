//! One connection as those see it who deliver to it.
//!
//! A slot owns the socket and, while the client does not keep up, a bounded queue. It is shared by the connection's
//! Transport (which reads, and writes the queue out) and by whoever delivers to it: the home arbiter and the senders.
//! One short lock per slot keeps the bytes of two frames apart and the order of each topic.
//!
//! The socket lies in the slot and not behind a pointer of its own: a fan-out to many finds little of what it touches in
//! the CPU's caches, and would wait for one line more in each delivery.
//!
//! Bytes go straight to the socket with `send`, past tokio's readiness: on 19,000 subscribers that is a tenth of the
//! CPU. It is rustix's `send`, which makes the system call itself: the C library's is a cancellation point, and prepares
//! for that with two locked instructions. Only what the kernel refuses is queued, and then the Transport is woken to
//! write it when the socket is ready.
//!
//! When the queue is full the client is a slow consumer: the queue is dropped, the connection is reset, and nobody
//! else has waited for it.

use std::collections::VecDeque;
use std::hint::black_box;
use std::io::{self, IoSlice};
use std::net::Shutdown;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::task::{self, Poll, Waker, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use futures_util::task::AtomicWaker;
use parking_lot::Mutex;
use rustix::io::Errno;
use rustix::net::{SendAncillaryBuffer, SendFlags};
use socket2::SockRef;
use tokio::io::{AsyncRead, Interest, ReadBuf};
use tokio::net::TcpStream;

use super::Batch;
use crate::turn::yield_now;

/// Frames handed to one `writev`: as many as one 64 KiB send buffer takes of common message sizes.
const WRITEV_FRAMES: usize = 64;

/// Bytes one flush writes before others get their turn.
const FLUSH_TURN_BYTES: usize = 256 * 1024;

/// How much may wait for one client.
#[derive(Clone, Copy, Debug)]
pub(crate) struct QueueLimits {
    pub(crate) frames: usize,
    pub(crate) bytes: usize,
}

/// How far a flush got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flushed {
    /// Nothing waits any more.
    All,
    /// More could be written, but it is somebody else's turn.
    Turn,
}

/// Why a connection ends before its client asked for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// Its queue was full, with so much in it.
    SlowConsumer { frames: u32, bytes: u32 },
    /// The peer is gone: a send was refused by the kernel.
    Broken(io::ErrorKind),
    /// It let a frame stay unfinished for too long.
    FrameTimeout,
    /// It would have missed messages of a topic that had to start afresh, without being told.
    MessagesLost,
    /// The instance ends.
    Draining,
}

impl End {
    /// Whether the socket is done for, and its close is a reset.
    pub(crate) fn resets(self) -> bool {
        matches!(self, Self::SlowConsumer { .. } | Self::Broken(_))
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
    /// The tick of the last message or PING sent; 0 while the client has received no message.
    quiet_since: AtomicU32,
    /// Where it stands in the table of connections; `None` for one that is being refused.
    pub(crate) place: Option<u32>,
    /// The Transport's task, woken when it has to write the queue out or to end the connection.
    transport: AtomicWaker,
    /// The tick since which a frame from the client is unfinished; 0 if none is.
    frame_since: AtomicU32,
    /// Messages from this client whose outcome has not been answered.
    unanswered: AtomicU32,
    /// Whether the Transport waits for those answers.
    awaited: AtomicBool,
    /// Mirrors `out.queue.is_some() || out.end.is_some()`, so that the Transport need not lock to see that all is well.
    attention: AtomicBool,
    #[cfg(feature = "fault-injection")]
    pub(crate) crash: AtomicBool,
    /// The session knows it, too; here it would be 32 bytes more for each of 19,000 clients.
    #[cfg(feature = "fault-injection")]
    pub(crate) peer: Option<std::net::SocketAddr>,
}

#[derive(Debug)]
struct Out {
    /// `None` once it is closed, which only the Transport does.
    link: Option<TcpStream>,
    /// Whether anything can still be sent.
    sends: bool,
    /// Exists only while something waits, so that a client that caught up costs no more than one that never lagged.
    queue: Option<Box<Queue>>,
    end: Option<End>,
}

/// Invariant: `bytes` and `frames` are the sums over `entries`; the head may be half-written and is never replaced.
#[derive(Debug, Default)]
struct Queue {
    entries: VecDeque<Entry>,
    frames: usize,
    bytes: usize,
}

#[derive(Debug)]
struct Entry {
    bytes: Bytes,
    frames: u32,
}

impl Slot {
    pub(crate) fn new(id: u64, place: Option<u32>, link: TcpStream) -> Self {
        Self {
            id,
            place,
            #[cfg(feature = "fault-injection")]
            peer: link.peer_addr().ok(),
            out: Mutex::new(Out { link: Some(link), sends: true, queue: None, end: None }),
            transport: AtomicWaker::new(),
            quiet_since: AtomicU32::new(0),
            frame_since: AtomicU32::new(0),
            unanswered: AtomicU32::new(0),
            awaited: AtomicBool::new(false),
            attention: AtomicBool::new(false),
            #[cfg(feature = "fault-injection")]
            crash: AtomicBool::new(false),
        }
    }

    /// Sends a frame that belongs to no topic: greeting, ACK, PING, error, receipt.
    pub(crate) fn send(&self, frame: Bytes, limits: QueueLimits) {
        self.push(&mut self.out.lock(), &frame, 0, 1, limits);
    }

    /// Sends what `subscription` has not had of `batch`; returns how many frames that were.
    ///
    /// Serving the same batch twice sends it once: the subscription's `next_seq` says who was served, and it changes
    /// under the slot's lock together with the send.
    pub(crate) fn deliver(&self, subscription: &Subscription, batch: &Batch, limits: QueueLimits, tick: u32) -> u32 {
        let mut out = self.out.lock();
        let next_seq = subscription.next_seq.load(Ordering::Relaxed);
        if next_seq > batch.last_seq() {
            return 0;
        }
        let (start, frames) = batch.since(next_seq);
        self.push(&mut out, batch.bytes(), start, frames, limits);
        subscription.next_seq.store(batch.last_seq() + 1, Ordering::Relaxed);
        self.quiet_since.store(tick, Ordering::Relaxed);
        frames
    }

    fn push(&self, out: &mut Out, bytes: &Bytes, start: usize, frames: u32, limits: QueueLimits) {
        let Out { link: Some(link), sends: true, queue, .. } = out else { return };
        let sent = match queue {
            // Overtaking what waits would break the order.
            Some(_) => 0,
            None => match send(link, &bytes[start..]) {
                Ok(sent) if start + sent == bytes.len() => return,
                Ok(sent) => sent,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
                Err(error) => return self.end_locked(out, End::Broken(error.kind())),
            },
        };
        let rest = bytes.len() - start - sent;
        // An empty queue takes anything, or a message larger than the limit would cut off everybody it is for.
        if let Some(queue) = queue
            && (queue.frames + frames as usize > limits.frames || queue.bytes + rest > limits.bytes)
        {
            let end = queue.overflow();
            return self.end_locked(out, end);
        }
        let queue = queue.get_or_insert_default();
        let first = queue.entries.is_empty();
        queue.frames += frames as usize;
        queue.bytes += rest;
        queue.entries.push_back(Entry { bytes: bytes.slice(start + sent..), frames });
        if first {
            self.attention.store(true, Ordering::Release);
            self.transport.wake();
        }
    }

    /// Reads what the client sent; 0 bytes are its FIN. The Transport alone may call it.
    pub(crate) fn poll_read(&self, cx: &mut task::Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        // A sender that was interrupted in the middle of a send must not stop the whole arbiter until it goes on.
        let Some(mut out) = self.out.try_lock() else { return yield_now(cx) };
        let Some(link) = &mut out.link else { return Poll::Ready(Ok(0)) };
        let mut buffer = ReadBuf::new(buffer);
        ready!(Pin::new(link).poll_read(cx, &mut buffer))?;
        Poll::Ready(Ok(buffer.filled().len()))
    }

    /// Writes what waits, as far as the kernel takes it and for at most one turn; the calling task, which must be the
    /// Transport's, is woken for the rest.
    pub(crate) fn flush(&self, cx: &mut task::Context<'_>) {
        let mut out = self.out.lock();
        let flushed = loop {
            let Out { link: Some(link), queue: Some(queue), .. } = &mut *out else { return };
            // An error comes from a reactor that has ended, and its task with it.
            let Poll::Ready(Ok(())) = link.poll_write_ready(cx) else { return };
            // Sends go past tokio, so only a refused one tells it that the socket is not ready.
            match link.try_io(Interest::WRITABLE, || queue.write_to(link)) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                flushed => break flushed.map_err(|error| queue.end_for(error.kind())),
            }
        };
        match flushed {
            Ok(Flushed::All) => {
                out.queue = None;
                self.attention.store(out.end.is_some(), Ordering::Release);
            }
            Ok(Flushed::Turn) => drop(yield_now::<()>(cx)),
            Err(end) => self.end_locked(&mut out, end),
        }
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
        // An end that resets goes before one that takes its time, which may never come to its end.
        if !out.sends || out.end.is_some() && !end.resets() {
            return;
        }
        out.end = Some(end);
        if end.resets() {
            out.reset();
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
        if std::mem::take(&mut out.sends)
            && let Some(link) = &out.link
        {
            // Fails only if the peer has reset the connection, and then there is nobody to tell.
            let _ = SockRef::from(link).shutdown(Shutdown::Write);
        }
        true
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
        self.crash.store(true, Ordering::Relaxed);
        self.attention.store(true, Ordering::Release);
        self.transport.wake();
    }

    /// Why the connection is to end, once.
    pub(crate) fn take_end(&self) -> Option<End> {
        let mut out = self.out.lock();
        self.attention.store(out.queue.is_some(), Ordering::Release);
        out.end.take()
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

    /// Whether nothing waits for the kernel to take it.
    pub(crate) fn is_flushed(&self) -> bool {
        self.out.lock().queue.is_none()
    }

    /// Notes that a frame has begun and not ended, or that none has. One that follows on a frame just completed is a
    /// new one: a client that is always in the middle of some frame is not late with any.
    pub(crate) fn set_unfinished(&self, unfinished: bool, completed_another: bool, tick: u32) {
        if !unfinished {
            self.frame_since.store(0, Ordering::Relaxed);
        } else if completed_another || self.frame_since.load(Ordering::Relaxed) == 0 {
            self.frame_since.store(tick, Ordering::Relaxed);
        }
    }

    /// Ticks since a frame is unfinished.
    pub(crate) fn unfinished_for(&self, tick: u32) -> Option<u32> {
        match self.frame_since.load(Ordering::Relaxed) {
            0 => None,
            since => Some(tick.wrapping_sub(since)),
        }
    }

    /// Whether a PING is due: so many ticks have passed since the last message or PING. Marks it as sent.
    pub(crate) fn take_ping_due(&self, tick: u32, interval: u32) -> bool {
        let since = self.quiet_since.load(Ordering::Relaxed);
        if since == 0 || tick.wrapping_sub(since) < interval {
            return false;
        }
        self.quiet_since.store(tick, Ordering::Relaxed);
        true
    }
}

impl Out {
    /// Makes the socket's close a reset, and lets nothing more out.
    fn reset(&mut self) {
        self.queue = None;
        self.sends = false;
        if let Some(link) = &self.link {
            // Without it the kernel would go on offering a full send buffer to a client that does not read.
            let _ = SockRef::from(link).set_linger(Some(Duration::ZERO));
        }
    }
}

impl Queue {
    /// Writes for at most one turn.
    fn write_to(&mut self, link: &TcpStream) -> io::Result<Flushed> {
        let mut turn = 0;
        while let Some(head) = self.entries.front() {
            if turn >= FLUSH_TURN_BYTES {
                return Ok(Flushed::Turn);
            }
            let written = if self.entries.len() == 1 {
                send(link, &head.bytes)?
            } else {
                let mut slices = [IoSlice::new(&[]); WRITEV_FRAMES];
                let count = self.entries.len().min(WRITEV_FRAMES);
                for (slice, entry) in slices.iter_mut().zip(&self.entries) {
                    *slice = IoSlice::new(&entry.bytes);
                }
                send_vectored(link, &slices[..count])?
            };
            self.advance(written);
            turn += written;
        }
        Ok(Flushed::All)
    }

    /// Why a connection ends whose queue takes no more. Both numbers are below their settings, which are below 2^31.
    fn overflow(&self) -> End {
        End::SlowConsumer { frames: self.frames as u32, bytes: self.bytes as u32 }
    }

    /// Why a connection ends that failed while something waited. The kernel's time-out means that the client has taken
    /// nothing for `tcp_user_timeout`: it is slow, whether or not its host still answers.
    fn end_for(&self, kind: io::ErrorKind) -> End {
        if kind == io::ErrorKind::TimedOut { self.overflow() } else { End::Broken(kind) }
    }

    fn advance(&mut self, mut written: usize) {
        self.bytes -= written;
        while written > 0 {
            let head = self.entries.front_mut().expect("no more is written than waited");
            if written < head.bytes.len() {
                head.bytes.advance(written);
                return;
            }
            written -= head.bytes.len();
            self.frames -= head.frames as usize;
            self.entries.pop_front();
        }
    }
}

#[cfg(any(target_os = "linux", target_os = "android", target_os = "freebsd"))]
const SEND_FLAGS: SendFlags = SendFlags::NOSIGNAL;
/// Elsewhere the standard library sets `SO_NOSIGPIPE` on every socket it makes.
#[cfg(not(any(target_os = "linux", target_os = "android", target_os = "freebsd")))]
const SEND_FLAGS: SendFlags = SendFlags::empty();

fn send(link: &TcpStream, bytes: &[u8]) -> io::Result<usize> {
    uninterrupted(|| rustix::net::send(link, bytes, SEND_FLAGS))
}

fn send_vectored(link: &TcpStream, slices: &[IoSlice<'_>]) -> io::Result<usize> {
    uninterrupted(|| rustix::net::sendmsg(link, slices, &mut SendAncillaryBuffer::default(), SEND_FLAGS))
}

fn uninterrupted(mut call: impl FnMut() -> rustix::io::Result<usize>) -> io::Result<usize> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            result => return Ok(result?),
        }
    }
}

/// One client's place in one topic.
#[derive(Debug)]
pub(crate) struct Subscription {
    pub(crate) slot: Arc<Slot>,
    /// The next sequence number to send; nothing before it is sent. [`ENDED`] once the client has unsubscribed.
    /// Changes only under the slot's lock, so that an unsubscribe is not undone by a delivery.
    next_seq: AtomicU64,
    /// Where it stands in the topic's list; the topic's business alone.
    pub(crate) index: AtomicU32,
    /// Whether the client has been told of its subscription: a request repeated at a topic's successor is answered once.
    acknowledged: AtomicBool,
}

const ENDED: u64 = u64::MAX;

impl Subscription {
    pub(crate) fn new(slot: Arc<Slot>) -> Self {
        Self {
            slot,
            next_seq: AtomicU64::new(0),
            index: AtomicU32::new(u32::MAX),
            acknowledged: AtomicBool::new(false),
        }
    }

    /// Brings what a delivery touches into the CPU's cache.
    pub(crate) fn prefetch(&self) {
        // Plain loads, because a prefetch instruction would be unsafe code; the hint keeps them from being left out. The
        // slot's three fields lie at the start, in the middle and at the end of what a send touches.
        let Slot { id, out, quiet_since, .. } = &*self.slot;
        black_box((self.next_seq(), *id, out.is_locked(), quiet_since.load(Ordering::Relaxed)));
    }

    /// Starts delivery with `seq`, unless the client has unsubscribed meanwhile.
    pub(crate) fn begin(&self, seq: u64) -> bool {
        let _out = self.slot.out.lock();
        if self.next_seq.load(Ordering::Relaxed) == ENDED {
            return false;
        }
        self.next_seq.store(seq, Ordering::Relaxed);
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
