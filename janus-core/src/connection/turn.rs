//! The turns in which connections do lengthy work, such as to subscribe.

use std::fmt;
use std::future::poll_fn;
use std::task::{Poll, Waker};

use futures_util::task::AtomicWaker;
use parking_lot::Mutex;

pub(crate) use crate::ground::line::Ticket;
use crate::ground::line::{Line, Tickets};

/// Lets a few connections of each turn do their lengthy work, and queues the others in the order of their arrival.
///
/// Subscribing or leaving costs ten times as much as learning that a client wants to. When thousands of clients want to
/// at once, turns keep the arbiter reading sockets: the next message of a publisher is among the unread input, and the
/// kernel reports sockets in the order of their events. A topic with a fan-out waits for a turn after each piece, so a
/// turn has to be short.
///
/// A waiting task is a connection, so `max_connections` is the limit.
#[derive(Default)]
pub(crate) struct Turns {
    state: Mutex<State>,
    /// The task of [`keep`](Self::keep), woken when a connection has to wait.
    keeper: AtomicWaker,
}

#[derive(Default)]
struct State {
    /// The arbiter's pause at the beginning of this turn: the next pause ends the turn, and comes after every woken
    /// task.
    pause: u64,
    /// Taken places of this turn.
    taken: usize,
    /// Connections called in this turn that have not run yet. A connection that closed instead is counted until the
    /// turn ends: newcomers queue until then, and the next call lets them in.
    called: usize,
    waiting: Line,
    tickets: Tickets,
}

impl Turns {
    /// Places in a turn. Each is some 10 µs of the arbiter's time, and a fan-out to 200 subscribers takes seven turns.
    const PLACES: usize = 8;

    /// Takes a place of this turn, if there is a free place and no earlier connection waits, or was called and has
    /// still to run; `pause` is the number of the arbiter's last pause.
    pub(crate) fn take(&self, pause: u64) -> bool {
        let mut state = self.state.lock();
        if state.pause != pause && state.waiting.is_empty() {
            (state.pause, state.taken, state.called) = (pause, 0, 0);
        }
        let free = state.waiting.is_empty() && state.called == 0 && state.taken < Self::PLACES;
        state.taken += usize::from(free);
        free
    }

    /// Waits for a place behind all waiting connections. A connection dropped in the queue leaves its place unused.
    pub(crate) fn poll_place(&self, ticket: &mut Option<Ticket>, waker: &Waker) -> Poll<()> {
        let mut state = self.state.lock();
        match *ticket {
            Some(ticket) if state.waiting.still_waits(ticket, waker) => {}
            Some(_) => {
                state.called = state.called.saturating_sub(1);
                return Poll::Ready(());
            }
            None => {
                let last = state.tickets.take();
                *ticket = Some(last);
                if state.waiting.is_empty() {
                    self.keeper.wake();
                }
                state.waiting.enter(last, waker);
            }
        }
        Poll::Pending
    }

    /// Gives out places, a turn's at a time, for ever; `pauses` counts the pauses of the arbiter.
    pub(crate) async fn keep(&self, pauses: impl Fn() -> u64) {
        loop {
            poll_fn(|cx| {
                self.keeper.register(cx.waker());
                if self.state.lock().waiting.is_empty() { Poll::Pending } else { Poll::Ready(()) }
            })
            .await;
            // The places of the current turn are taken, or called connections have still to run.
            tokio::task::yield_now().await;
            self.call(pauses());
        }
    }

    /// Begins a turn with the connections at the head of the queue. All connections called earlier have run by now:
    /// their wake-ups came in an earlier turn, and tasks run in the order of their wake-ups.
    fn call(&self, pause: u64) {
        let called: Vec<Waker> = {
            let mut state = self.state.lock();
            let called: Vec<_> = std::iter::from_fn(|| state.waiting.call()).take(Self::PLACES).collect();
            (state.pause, state.taken, state.called) = (pause, called.len(), called.len());
            called
        };
        called.into_iter().for_each(Waker::wake);
    }
}

impl fmt::Debug for Turns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.state.lock();
        f.debug_struct("Turns")
            .field("taken", &state.taken)
            .field("called", &state.called)
            .field("waiting", &state.waiting.len())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turn_has_a_few_places_and_ends_with_a_pause() {
        let turns = Turns::default();
        assert_eq!((0..100).filter(|_| turns.take(1)).count(), Turns::PLACES);
        assert!(turns.take(2));
    }

    #[test]
    fn waiters_are_called_first_come_first_served() {
        let turns = Turns::default();
        let mut tickets = vec![None; 2 * Turns::PLACES + 1];
        let waiting = |tickets: &mut Vec<Option<Ticket>>| {
            tickets.iter_mut().map(|ticket| turns.poll_place(ticket, Waker::noop()).is_pending()).collect::<Vec<_>>()
        };
        for called in [0, Turns::PLACES, 2 * Turns::PLACES] {
            let expected = (0..tickets.len()).map(|number| number >= called).collect::<Vec<_>>();
            assert_eq!(waiting(&mut tickets), expected);
            assert!(!turns.take(called as u64), "others wait already");
            turns.call(called as u64);
        }
        assert!(waiting(&mut tickets).iter().all(|waits| !waits));
        assert!(turns.take(u64::MAX));
    }

    /// Turns with this many waiting connections, and their tickets.
    fn waiting(count: usize) -> (Turns, Vec<Option<Ticket>>) {
        let turns = Turns::default();
        let mut tickets = vec![None; count];
        for ticket in &mut tickets {
            assert!(turns.poll_place(ticket, Waker::noop()).is_pending());
        }
        (turns, tickets)
    }

    #[test]
    fn newcomers_wait_for_called_connections_that_have_not_run() {
        let (turns, mut tickets) = waiting(2);
        turns.call(7);
        for ticket in &mut tickets {
            assert!(!turns.take(7), "one that came earlier has still to run");
            assert!(turns.poll_place(ticket, Waker::noop()).is_ready());
        }
        assert!(turns.take(7), "places are left in this turn");
    }

    #[test]
    fn a_connection_that_ends_when_called_delays_newcomers_for_a_turn() {
        let (turns, tickets) = waiting(2);
        turns.call(7);
        drop(tickets);
        assert!(turns.take(8), "after a pause all have run that ever will");

        let (turns, tickets) = waiting(2);
        turns.call(7);
        drop(tickets);
        // An arbiter without pauses: a newcomer queues, and is called with the next.
        assert!(!turns.take(7));
        let mut newcomer = None;
        assert!(turns.poll_place(&mut newcomer, Waker::noop()).is_pending());
        turns.call(7);
        assert!(turns.poll_place(&mut newcomer, Waker::noop()).is_ready());
        assert!(turns.take(7));
    }
}
