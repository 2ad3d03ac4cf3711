//! The mailbox of a supervisor: ends of children, commands, and notes to itself, in the order of arrival.
//!
//! Owns the limit on waiting commands. Does not know the meaning of the mail.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

/// Commands that may wait for a supervisor; further senders wait for room.
const COMMANDS_MAX: usize = 64;

/// A single queue for all mail, because callers rely on the order: a command finds the children as they were at the
/// time of the command. Neither a child in a crash loop nor a caller with many commands keeps the others waiting.
///
/// Not tokio's channel, which keeps mail sent during the drop of the receiver. Here such mail is refused or dropped.
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

    /// For mail with a natural limit: a child ends once for each start, and has at most one next start.
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
        // Refused mail is dropped after the lock is released.
        let envelope = Envelope { mail, _room: room };
        match &mut *self.mail.lock() {
            Some(queue) => queue.push_back(envelope),
            None => return false,
        }
        self.arrived.notify_one();
        true
    }

    /// The next mail, in the order of arrival. Cancel safe.
    pub(crate) async fn next(&self) -> M {
        loop {
            let first = self.mail.lock().as_mut().and_then(VecDeque::pop_front);
            if let Some(envelope) = first {
                return envelope.mail;
            }
            self.arrived.notified().await;
        }
    }

    /// Refuses new mail and drops all waiting mail. Callers that wait for an answer learn of the end by this drop.
    pub(crate) fn close(&self) {
        self.room.close();
        let left = self.mail.lock().take();
        drop(left);
    }
}
