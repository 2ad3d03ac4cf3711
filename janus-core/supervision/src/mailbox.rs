//! The mailbox of a supervisor.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

/// Commands that may wait for one supervisor; further senders wait for room.
const COMMANDS_MAX: usize = 64;

/// What waits for a supervisor: ends of its children, commands, and notes to itself, in the order in which they came.
///
/// One queue, because its order is what everybody relies on: a command finds the children as they were when it was
/// sent, and neither a child that crashes in a loop nor somebody who sends many commands keeps the others waiting.
/// Not tokio's channel, which keeps what is sent while its receiver is being dropped: here it is refused or dropped.
pub(crate) struct Mailbox<M> {
    // `None` once the supervisor has ended.
    mail: Mutex<Option<VecDeque<Envelope<M>>>>,
    arrived: Notify,
    room: Arc<Semaphore>,
}

struct Envelope<M> {
    mail: M,
    // Given back when the mail is taken out.
    _room: Option<OwnedSemaphorePermit>,
}

impl<M> Mailbox<M> {
    pub(crate) fn new() -> Self {
        let room = Arc::new(Semaphore::new(COMMANDS_MAX));
        Self { mail: Mutex::new(Some(VecDeque::new())), arrived: Notify::new(), room }
    }

    /// For mail that is limited by itself: a child ends once for each start, and has one next start at most.
    pub(crate) fn push(&self, mail: M) {
        self.deliver(mail, None);
    }

    /// Waits until there is room. False if the supervisor has ended.
    pub(crate) async fn send(&self, mail: M) -> bool {
        match self.room.clone().acquire_owned().await {
            Ok(room) => self.deliver(mail, Some(room)),
            Err(_closed) => false,
        }
    }

    fn deliver(&self, mail: M, room: Option<OwnedSemaphorePermit>) -> bool {
        // What is refused is dropped after the lock is released.
        let envelope = Envelope { mail, _room: room };
        match &mut *self.mail.lock() {
            Some(queue) => queue.push_back(envelope),
            None => return false,
        }
        self.arrived.notify_one();
        true
    }

    /// Cancel safe.
    pub(crate) async fn next(&self) -> M {
        loop {
            let first = self.mail.lock().as_mut().and_then(VecDeque::pop_front);
            if let Some(envelope) = first {
                return envelope.mail;
            }
            self.arrived.notified().await;
        }
    }

    /// Refuses what comes and drops what waits, which is how those who wait for an answer learn of it.
    pub(crate) fn close(&self) {
        self.room.close();
        let left = self.mail.lock().take();
        drop(left);
    }
}
