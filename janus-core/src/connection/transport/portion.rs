//! The portion of work that a connection does at once, before other connections have their portions (see
//! [`fairness`](crate::accounts::fairness)).

use std::task::{self, Poll, ready};

use super::{Step, Transport};
use crate::accounts::fairness::{Want, price};
use crate::ground::line::Ticket;
use crate::ground::tasks::yield_now;
use crate::wire::{Command, FrameError};

/// The work allowed and done since the task of the connection was polled.
#[derive(Debug, Default)]
pub(super) struct Portion {
    /// The place in the line of connections that wait.
    ticket: Option<Ticket>,
    /// Units of work allowed; 0 until the connection is admitted.
    allowed: u16,
    done: u16,
}

impl Portion {
    pub(super) fn add(&mut self, work: u16) {
        self.done = self.done.saturating_add(work);
    }

    /// Notes a read of `length` bytes.
    pub(super) fn add_read(&mut self, length: usize) {
        self.add(price::READ + u16::try_from(length / price::BYTES).unwrap_or(u16::MAX));
    }

    pub(super) fn add_command(&mut self, decoded: &Result<Command, FrameError>) {
        self.add(price::FRAME);
        self.add(match decoded {
            Ok(Command::Ping | Command::Pong | Command::Publish { ack: false, .. } | Command::Admit) => 0,
            Ok(Command::Publish { .. } | Command::PublishAndClose { .. } | Command::Submit { .. }) => price::RECEIPT,
            Ok(
                Command::Subscribe { .. }
                | Command::Unsubscribe { .. }
                | Command::Presence { .. }
                | Command::History { .. }
                | Command::Attach { .. }
                | Command::Authenticate { .. }
                | Command::Refresh { .. },
            ) => price::LENGTHY,
            Ok(_) | Err(_) => price::ANSWER,
        });
    }

    /// Whether the connection waits in the line for its portion.
    pub(super) fn is_waiting(&self) -> bool {
        self.ticket.is_some()
    }

    pub(super) fn is_used_up(&self) -> bool {
        self.done >= self.allowed
    }
}

impl Transport {
    /// Waits until the connection may do a portion of work; from then on ready for the rest of this poll.
    pub(super) fn poll_portion(&mut self, cx: &mut task::Context<'_>) -> Poll<()> {
        if self.portion.allowed > 0 {
            return Poll::Ready(());
        }
        let Some(account) = self.slot.account() else {
            self.portion.allowed = u16::MAX;
            return Poll::Ready(());
        };
        let fairness = &self.shared.shift(self.home).fairness;
        let allowed = match self.portion.ticket {
            Some(ticket) => Some(ready!(fairness.poll_called(account, ticket, cx.waker()))),
            None => fairness.admit(account, self.want(), self.shared.homes.get(self.home).place.pauses()),
        };
        match allowed {
            Some(allowed) => {
                let allowed = if self.publishes_widely() { allowed * 2 } else { allowed };
                (self.portion.ticket, self.portion.allowed) = (None, allowed);
                Poll::Ready(())
            }
            None => self.wait_for_portion(self.want(), cx),
        }
    }

    /// Whether the last message went to a topic whose passes take longer than a portion. Messages of such a publisher are
    /// better read together: each batch costs a system call for each subscriber.
    pub(super) fn publishes_widely(&self) -> bool {
        self.published.as_ref().is_some_and(|topic| topic.is_wide())
    }

    /// Whether a portion has ended before the input.
    pub(super) fn is_interrupted(&self) -> bool {
        self.undecoded && matches!(self.step, Step::Reading)
    }

    fn want(&self) -> Want {
        match self.step {
            Step::Reading if self.rest.is_none() => Want::Fresh,
            _ => Want::More,
        }
    }

    /// Lets other connections go first, because there is more to do than a portion.
    pub(super) fn wait_for_portion<T>(&mut self, want: Want, cx: &mut task::Context<'_>) -> Poll<T> {
        let Some(account) = self.slot.account() else { return yield_now(cx) };
        self.portion.ticket = Some(self.shared.shift(self.home).fairness.wait(account, want, cx.waker()));
        Poll::Pending
    }

    /// At the end of a poll: charges the work to the address.
    pub(super) fn charge(&mut self) {
        if let Some(account) = self.slot.account()
            && self.portion.done > 0
        {
            self.shared.shift(self.home).fairness.charge(account, self.portion.done.into());
        }
        (self.portion.allowed, self.portion.done) = (0, 0);
    }

    /// Notes that a command made this many topics.
    pub(super) fn add_topics(&mut self, topics: usize) {
        let topics = u16::try_from(topics).unwrap_or(u16::MAX);
        self.portion.add(price::TOPIC.saturating_mul(topics));
    }

    /// Gives up the place in the line of a connection that ends.
    pub(super) fn cancel_portion(&mut self) {
        if let Some(account) = self.slot.account()
            && let Some(ticket) = self.portion.ticket.take()
        {
            self.shared.shift(self.home).fairness.leave(account, ticket);
        }
    }
}
