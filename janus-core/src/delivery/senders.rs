//! The helper threads of large fan-outs, and of small ones while the home arbiter is behind.
//!
//! Each sender waits until a pass is offered, then claims and serves pieces, one pass after the other in turn, so a
//! second topic does not wait for the first to end. Senders hold no state: a dying sender gives its piece back to the
//! pass. The home arbiter serves the same passes, so a pass needs no sender to end.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use parking_lot::{Condvar, Mutex};

use super::pass::Server;
use super::{Pass, Sending};

/// Passes in the queue, of large and small topics together, from which on no small topic leaves another pass to the
/// senders: enough to keep a sender busy between two turns of the arbiter, few enough for short waits.
const LEFT: usize = 8;

/// A pass with work for this many senders wakes all of them.
const WAKE_ALL: usize = 8;

/// The shared state of the senders.
///
/// The queue holds at most one pass of each topic, because a topic offers the next pass when the last is complete. A
/// topic with few subscribers adds a pass only while the queue holds fewer than [`LEFT`].
#[derive(Debug, Default)]
pub(crate) struct SenderPool {
    sending: Arc<Sending>,
    passes: Mutex<VecDeque<Arc<Pass>>>,
    offered: Condvar,
    #[cfg(all(test, feature = "fault-injection"))]
    offered_to_tasks: tokio::sync::Notify,
    /// The threads not joined yet: at most one per sender, and the threads that died since the last start.
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl SenderPool {
    pub(super) fn new(sending: Arc<Sending>) -> Self {
        Self { sending, ..Self::default() }
    }

    /// Asks the senders to help with `pass`.
    pub(crate) fn offer(&self, pass: Arc<Pass>) {
        let work_for = pass.work_for();
        self.passes.lock().push_back(pass);
        if work_for >= WAKE_ALL {
            self.offered.notify_all();
        } else {
            // Up to the last sender that waits.
            let _ = (0..work_for).all(|_| self.offered.notify_one());
        }
        #[cfg(all(test, feature = "fault-injection"))]
        self.offered_to_tasks.notify_waiters();
    }

    /// Whether a small topic may leave another pass to the senders.
    pub(crate) fn has_room(&self) -> bool {
        self.passes.lock().len() < LEFT
    }

    /// Takes back a complete pass.
    pub(crate) fn withdraw(&self, pass: &Arc<Pass>) {
        self.passes.lock().retain(|other| !Arc::ptr_eq(other, pass));
    }

    /// Serves passes on the calling thread, the sender of this number, until `stop` says so.
    pub(crate) fn serve(&self, number: usize, stop: &StopSender) {
        self.sending.prepare_thread();
        while let Some(pass) = self.next(stop) {
            pass.serve_piece(Server::Sender(number));
        }
    }

    /// Serves one piece of a pass; returns whether there may be more.
    pub(crate) fn help(&self, by: Server) -> bool {
        let pass = take_turns(&mut self.passes.lock());
        pass.is_some_and(|pass| pass.serve_piece(by).is_some())
    }

    /// Waits for a pass and moves it to the back, so passes take turns.
    fn next(&self, stop: &StopSender) -> Option<Arc<Pass>> {
        let mut passes = self.passes.lock();
        loop {
            if stop.0.load(Ordering::Acquire) {
                return None;
            }
            match take_turns(&mut passes) {
                Some(pass) => return Some(pass),
                None => self.offered.wait(&mut passes),
            }
        }
    }

    /// Waits the same way for a sender in a task instead of a thread; never ends by itself.
    #[cfg(all(test, feature = "fault-injection"))]
    pub(crate) async fn next_for_task(&self) -> Arc<Pass> {
        loop {
            let pass = take_turns(&mut self.passes.lock());
            match pass {
                Some(pass) => return pass,
                None => self.offered_to_tasks.notified().await,
            }
        }
    }

    /// Tells the sender with this `stop` to return after its current piece.
    pub(crate) fn stop(&self, stop: &StopSender) {
        // Under the lock, so the stop cannot fall between a sender's look at the flag and its wait.
        let _passes = self.passes.lock();
        stop.0.store(true, Ordering::Release);
        self.offered.notify_all();
    }
}

/// The next pass in need of help; the pass moves to the back.
fn take_turns(passes: &mut VecDeque<Arc<Pass>>) -> Option<Arc<Pass>> {
    while let Some(pass) = passes.pop_front() {
        // A fully claimed pass needs no help, and leaves the queue.
        if !pass.is_claimed() {
            passes.push_back(Arc::clone(&pass));
            return Some(pass);
        }
    }
    None
}

impl SenderPool {
    /// Keeps a sender's thread to be joined at the end.
    pub(crate) fn keep(&self, thread: JoinHandle<()>) {
        let mut threads = self.threads.lock();
        threads.retain(|thread| !thread.is_finished());
        threads.push(thread);
    }

    /// Waits for the end of all threads. They must have been told to stop.
    pub(crate) fn join(&self) {
        for thread in std::mem::take(&mut *self.threads.lock()) {
            // The supervisor has been told of the panic.
            let _ = thread.join();
        }
    }
}

/// Tells a sender to end.
#[derive(Debug, Default)]
pub(crate) struct StopSender(AtomicBool);
