//! The helper threads of large fan-outs.
//!
//! Each sender waits until a pass is offered, then claims and serves pieces, one pass after the other in turn, so that
//! a second topic does not wait for the first to end. Senders hold no state and run no user code: what one was doing
//! when it died is given back to its pass. The home arbiter serves the same passes, so a pass needs no sender to end.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::{Condvar, Mutex};

use super::Pass;
use super::pass::Server;

/// What the senders share.
///
/// The queue holds at most one pass per topic with many subscribers: a topic offers its next pass when the last one is
/// complete.
#[derive(Debug, Default)]
pub(crate) struct SenderPool {
    passes: Mutex<VecDeque<Arc<Pass>>>,
    offered: Condvar,
}

impl SenderPool {
    /// Asks the senders to help with `pass`.
    pub(crate) fn offer(&self, pass: Arc<Pass>) {
        let mut passes = self.passes.lock();
        // While no sender runs, nobody else would remove those that have ended.
        passes.retain(|other| !other.is_complete());
        passes.push_back(pass);
        drop(passes);
        self.offered.notify_all();
    }

    /// Serves passes on the calling thread until `stop` says so.
    pub(crate) fn serve(&self, stop: &StopSender) {
        while let Some(pass) = self.next(stop) {
            if pass.serve_piece(Server::Sender).is_none() {
                self.passes.lock().retain(|other| !Arc::ptr_eq(other, &pass));
            }
        }
    }

    /// Waits for a pass and moves it to the back, so that passes take turns.
    fn next(&self, stop: &StopSender) -> Option<Arc<Pass>> {
        let mut passes = self.passes.lock();
        loop {
            if stop.0.load(Ordering::Acquire) {
                return None;
            }
            if let Some(pass) = passes.pop_front() {
                passes.push_back(Arc::clone(&pass));
                return Some(pass);
            }
            self.offered.wait(&mut passes);
        }
    }

    /// Makes the sender that was given `stop` return after the piece it is serving.
    pub(crate) fn stop(&self, stop: &StopSender) {
        // Under the lock, so that it cannot fall between a sender's look at the flag and its wait.
        let _passes = self.passes.lock();
        stop.0.store(true, Ordering::Release);
        self.offered.notify_all();
    }
}

/// Tells one sender to end.
#[derive(Debug, Default)]
pub(crate) struct StopSender(AtomicBool);
