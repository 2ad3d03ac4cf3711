//! An io_uring that sends on many sockets with one system call: the only unsafe code of Janus.
//!
//! Everything a program could do wrong with a ring is done here, so the interface is safe: [`Ring::send`] takes sockets
//! and bytes by reference, and returns when the kernel uses neither any more.
//!
//! # Why no send outlives the call
//!
//! - The kernel reads an entry of the submission queue only inside `io_uring_enter`, because the ring has no polling
//!   thread. Entries that were not submitted (`io_uring_enter` failed, or came back early for want of memory) are
//!   therefore no danger. The kernel is asked for them again; if that does not help, they remain in the queue, and the ring
//!   is not used any more: a closed ring submits nothing.
//! - Each send says `MSG_DONTWAIT`, which the kernel turns into "this request must not wait" (`REQ_F_NOWAIT`): a
//!   socket without room completes the request with `EAGAIN` at once, and no poll is armed and no worker thread asked.
//!   Without `MSG_WAITALL` a short send is a completed send. So all requests are complete when `io_uring_enter`
//!   returns. [`Ring::try_out`] tries both on the running kernel.
//! - Nothing relies on this: a completion is counted for each submitted request before [`Ring::send`] returns. The queue
//!   of completions has two places for each entry of the submission queue and is empty before each call, so none is
//!   dropped.
//! - Should the kernel refuse to be waited for (for which no reason is known), the bytes of the sends in its hands
//!   are kept for ever: their memory is leaked, and the caller learns that the outcome is unknown.
//! - No code between the first entry and the last completion can panic with sends under way, and even then
//!   [`UnderWay`] would leak their memory.

#![expect(unsafe_code, reason = "the kernel is given pointers; the module's documentation has the proof")]

use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use bytes::Bytes;
use io_uring::{IoUring, opcode, types};
use socket2::SockRef;

/// Bytes for a socket.
#[derive(Debug)]
pub(super) struct Outgoing<'a> {
    pub(super) socket: BorrowedFd<'a>,
    pub(super) bytes: &'a Bytes,
    /// The first byte to send.
    pub(super) start: usize,
}

/// What a send came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The kernel has not been asked; the ring is [broken](Ring::is_broken).
    NotAsked,
    /// The kernel has taken this many bytes.
    Sent(usize),
    /// The number of the error, as of `send`.
    Failed(i32),
    /// The kernel has been asked, and has not answered; the ring is [broken](Ring::is_broken).
    Unknown,
}

/// See the module's documentation. Usable on the thread that made it, as `SINGLE_ISSUER` demands.
pub(super) struct Ring {
    ring: IoUring,
    outcomes: Box<[Outcome]>,
    is_broken: bool,
    /// Why the kernel did not take all entries, the last time it did not.
    refusal: Option<io::Error>,
    _of_this_thread: PhantomData<*const ()>,
}

impl Ring {
    /// A ring with room for this many sends at once; at most 4,096.
    pub(super) fn new(room: usize) -> io::Result<Self> {
        let entries = u32::try_from(room.next_power_of_two().min(4_096)).expect("a small number");
        let mut builder = IoUring::builder();
        builder.dontfork().setup_single_issuer().setup_defer_taskrun().setup_submit_all();
        let ring = match builder.clone().setup_no_sqarray().build(entries) {
            // The flag came with Linux 6.6, the others by 6.1.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => builder.build(entries),
            built => built,
        }?;
        let outcomes = vec![Outcome::NotAsked; ring.params().sq_entries() as usize].into();
        Ok(Self { ring, outcomes, is_broken: false, refusal: None, _of_this_thread: PhantomData })
    }

    /// How many sends fit into one call.
    pub(super) fn room(&self) -> usize {
        self.outcomes.len()
    }

    /// Whether the ring must not be used any more.
    pub(super) fn is_broken(&self) -> bool {
        self.is_broken
    }

    /// Why the ring is broken, for operators.
    pub(super) fn refusal(&self) -> String {
        let unanswered = || "the kernel has left sends without an answer".to_owned();
        self.refusal
            .as_ref()
            .map_or_else(unanswered, |error| format!("the kernel does not take sends any more ({error})"))
    }

    /// Sends on all these sockets, without waiting for room in any. The outcomes are in the order of the sends.
    ///
    /// # Panics
    ///
    /// There are more sends than [room](Self::room), or the ring is broken.
    pub(super) fn send(&mut self, sends: &[Outgoing<'_>]) -> &[Outcome] {
        assert!(sends.len() <= self.room() && !self.is_broken, "a sound ring with room for {} sends", sends.len());
        let outcomes = &mut self.outcomes[..sends.len()];
        outcomes.fill(Outcome::NotAsked);
        // Until all completions have been counted, so also on any early way out.
        self.is_broken = true;
        let mut queue = self.ring.submission();
        for (index, Outgoing { socket, bytes, start }) in sends.iter().enumerate() {
            let bytes = &bytes[*start..];
            // More bytes than this are sent like a short send.
            let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
            let entry = opcode::Send::new(types::Fd(socket.as_raw_fd()), bytes.as_ptr(), length)
                .flags(libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL)
                .build()
                .user_data(index as u64);
            // SAFETY: pointer and length are of borrowed bytes. The kernel uses them from `io_uring_enter` until the
            // completion, and this function does not return earlier, or else leaks the memory of the bytes. The proof
            // is in the module's documentation. The socket is open at least as long as it is borrowed, and the kernel
            // holds a reference of its own while the request is under way.
            let pushed = unsafe { queue.push(&entry) };
            debug_assert!(pushed.is_ok(), "the queue is empty before each call, and has this much room");
        }
        drop(queue);
        let mut under_way = UnderWay { sends, outcomes: &mut *outcomes, asked: 0 };
        let (mut answered, mut refusals) = (0, 0);
        while answered < sends.len() && refusals < MAX_REFUSALS {
            // Usually one call without a wait. If entries are left, because the kernel had no memory for them, the next
            // call asks for them again.
            let entered = self.ring.submit_and_wait(under_way.asked.saturating_sub(answered));
            let mut queue = self.ring.submission();
            queue.sync();
            // The kernel takes entries in their order, and tells how far it has come, whatever the call returned.
            under_way.asked = sends.len() - queue.len();
            drop(queue);
            for completion in self.ring.completion() {
                answered += usize::from(under_way.note(completion.user_data(), completion.result()));
            }
            match entered {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(_) if under_way.asked == sends.len() => {}
                entered => {
                    refusals += 1;
                    self.refusal = entered.err();
                }
            }
        }
        drop(under_way);
        self.is_broken = answered < sends.len();
        outcomes
    }
}

/// How often the kernel may fail to take all entries, before they are given up.
const MAX_REFUSALS: usize = 100;

/// The sends that the kernel may be using.
struct UnderWay<'a> {
    sends: &'a [Outgoing<'a>],
    outcomes: &'a mut [Outcome],
    /// How many of them the kernel has taken.
    asked: usize,
}

impl UnderWay<'_> {
    /// Notes a completion; returns whether it was of one of these sends.
    fn note(&mut self, index: u64, result: i32) -> bool {
        let place = usize::try_from(index).ok().and_then(|index| self.outcomes.get_mut(index));
        let Some(outcome) = place.filter(|outcome| **outcome == Outcome::NotAsked) else { return false };
        *outcome = usize::try_from(result).map_or(Outcome::Failed(-result), Outcome::Sent);
        true
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        for (send, outcome) in self.sends.iter().zip(&mut *self.outcomes).take(self.asked) {
            if *outcome == Outcome::NotAsked {
                *outcome = Outcome::Unknown;
                std::mem::forget(send.bytes.clone());
            }
        }
    }
}

impl std::fmt::Debug for Ring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ring").field("room", &self.room()).field("is_broken", &self.is_broken).finish_non_exhaustive()
    }
}

impl Ring {
    /// Tries a ring on the running kernel, with sends that are taken, refused for want of room, and cut short.
    ///
    /// # Errors
    ///
    /// The system does not allow io_uring, or the kernel does something else than the module relies on.
    pub(super) fn try_out() -> io::Result<()> {
        let mut ring = Self::new(4)?;
        let (ours, theirs) = UnixStream::pair()?;
        let (open, closed) = UnixStream::pair()?;
        drop(closed);
        SockRef::from(&ours).set_send_buffer_size(4 * 1024)?;
        let (small, large) = (Bytes::from_static(b"small"), Bytes::from(vec![b'x'; 1 << 20]));
        let send = |socket, bytes| Outgoing { socket, bytes, start: 1 };
        let ours = ours.as_fd();
        let sends = [send(ours, &small), send(ours, &large), send(ours, &large), send(open.as_fd(), &small)];
        let outcomes = ring.send(&sends).to_vec();
        let _ = theirs;
        match outcomes[..] {
            [Outcome::Sent(4), Outcome::Sent(part), Outcome::Failed(libc::EAGAIN), Outcome::Failed(libc::EPIPE)]
                if part < large.len() - 1 =>
            {
                Ok(())
            }
            // A filter of system calls may let a program make a ring, and not use it.
            _ => Err(ring
                .refusal
                .take()
                .unwrap_or_else(|| io::Error::other(format!("the kernel answers four sends with {outcomes:?}")))),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    /// A ring, unless the system forbids it: some containers do.
    fn ring() -> Option<Ring> {
        Ring::try_out().ok()?;
        Some(Ring::new(4).unwrap())
    }

    #[test]
    fn the_outcomes_are_in_the_order_of_the_sends() {
        let Some(mut ring) = ring() else { return };
        assert_eq!(ring.room(), 4);
        let pairs: Vec<_> = (0..4).map(|_| UnixStream::pair().unwrap()).collect();
        let bytes = Bytes::from_static(b"0123456789");
        for _ in 0..1_000 {
            let sends: Vec<_> = pairs
                .iter()
                .enumerate()
                .map(|(start, (ours, _))| Outgoing { socket: ours.as_fd(), bytes: &bytes, start })
                .collect();
            assert_eq!(ring.send(&sends), [10, 9, 8, 7].map(Outcome::Sent));
            for (start, (_, theirs)) in pairs.iter().enumerate() {
                let mut received = [0; 16];
                let length = (&*theirs).read(&mut received).unwrap();
                assert_eq!(received[..length], bytes[start..]);
            }
        }
        assert!(!ring.is_broken());
        assert_eq!(ring.send(&[]), []);
    }

    #[test]
    fn the_memory_of_a_send_without_an_answer_is_never_reused() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let [taken, answered, left] = [1, 2, 3].map(|byte| Bytes::from(vec![byte; 10]));
        let sends = [&answered, &taken, &left].map(|bytes| Outgoing { socket: ours.as_fd(), bytes, start: 0 });
        let mut outcomes = [Outcome::NotAsked; 3];
        let mut under_way = UnderWay { sends: &sends, outcomes: &mut outcomes, asked: 2 };
        assert!(under_way.note(0, -libc::EPIPE));
        assert!(!under_way.note(0, 10), "only the first answer counts");
        assert!(!under_way.note(3, 10) && !under_way.note(u64::MAX, 10), "no send of these");
        drop(under_way);
        assert_eq!(outcomes, [Outcome::Failed(libc::EPIPE), Outcome::Unknown, Outcome::NotAsked]);
        assert_eq!([&answered, &taken, &left].map(Bytes::is_unique), [true, false, true]);
    }

    #[test]
    fn a_descriptor_that_is_no_socket_is_an_error_of_that_send_alone() {
        let Some(mut ring) = ring() else { return };
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let file = std::fs::File::open("/dev/null").unwrap();
        let bytes = Bytes::from_static(b"bytes");
        let sends = [file.as_fd(), ours.as_fd()].map(|socket| Outgoing { socket, bytes: &bytes, start: 0 });
        assert_eq!(ring.send(&sends), [Outcome::Failed(libc::ENOTSOCK), Outcome::Sent(5)]);
    }
}
