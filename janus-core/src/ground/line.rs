//! Waiting tasks in the order of their arrival.
//!
//! A [`Line`] holds a waker for each waiting task, and nothing for a called task or a task that has left, so the length
//! is the number of waiting tasks.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::task::Waker;

/// A place in a line: a number in two parts, the upper first. Two words of four bytes need no alignment to eight, which
/// each of tens of thousands of connections would pay for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Ticket(u32, NonZeroU32);

/// Gives out tickets, each once. Lines that come and go share a source of tickets, or a ticket of an earlier line could
/// be taken for a ticket of a later line.
#[derive(Debug)]
pub(crate) struct Tickets(Ticket);

impl Default for Tickets {
    fn default() -> Self {
        Self(Ticket(0, NonZeroU32::MIN))
    }
}

impl Tickets {
    pub(crate) fn take(&mut self) -> Ticket {
        let ticket = self.0;
        let Ticket(upper, lower) = ticket;
        self.0 = match lower.checked_add(1) {
            Some(lower) => Ticket(upper, lower),
            None => Ticket(upper.saturating_add(1), NonZeroU32::MIN),
        };
        ticket
    }
}

#[derive(Debug, Default)]
pub(crate) struct Line(BTreeMap<Ticket, Waker>);

impl Line {
    /// Queues a task in the place of its ticket; an old ticket means the earlier place.
    pub(crate) fn enter(&mut self, ticket: Ticket, waker: &Waker) {
        self.0.insert(ticket, waker.clone());
    }

    /// Whether the task with this ticket still waits. If so, the call will wake `waker`.
    pub(crate) fn still_waits(&mut self, ticket: Ticket, waker: &Waker) -> bool {
        let waiting = self.0.get_mut(&ticket);
        waiting.map(|waiting| waiting.clone_from(waker)).is_some()
    }

    /// Gives up a place; false if the task has been called before.
    pub(crate) fn leave(&mut self, ticket: Ticket) -> bool {
        self.0.remove(&ticket).is_some()
    }

    /// Calls the first task: takes its waker out of the line, for the caller to wake.
    pub(crate) fn call(&mut self) -> Option<Waker> {
        self.0.pop_first().map(|(_, waker)| waker)
    }

    /// The number of waiting tasks.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tasks_are_called_by_ticket_and_tasks_that_left_are_not() {
        let (mut tickets, mut line) = (Tickets::default(), Line::default());
        let [first, second, third] = [(); 3].map(|()| tickets.take());
        let mut late = Tickets(Ticket(0, NonZeroU32::MAX));
        let [last, next] = [(); 2].map(|()| late.take());
        assert!(third < last && last < next && next < late.take());
        [third, first, second].into_iter().for_each(|ticket| line.enter(ticket, Waker::noop()));
        assert!(line.leave(second) && !line.leave(second));
        assert!(line.call().is_some());
        assert!(!line.still_waits(first, Waker::noop()) && line.still_waits(third, Waker::noop()));
        // Back in the earlier place.
        line.enter(first, Waker::noop());
        assert!(line.call().is_some() && line.still_waits(third, Waker::noop()));
        assert!(line.call().is_some() && line.call().is_none() && line.is_empty());
    }
}
