//! The share of the home arbiter's time for a connection, and for an address, before other connections have their turn.
//!
//! A connection with a lot of input (a ping flood, a frame without an end, thousands of messages) would keep the
//! arbiter to itself for as long as there are bytes in its socket, and a hundred such connections a hundred times as
//! long. So work has a price, and is given out in small portions:
//!
//! - a connection carries out [`FULL`] units of work at once, and less while the arbiter has much to do. A connection
//!   with more work waits behind the other busy connections, and a few of these continue in each turn of the arbiter. A
//!   connection with little input never comes to wait: it overtakes the busy ones;
//! - while several addresses are active, the connections of an address wait after its [`SHARE`] of the turn, even
//!   connections with little input: 8,000 connections with a message each are as much work as a connection with 8,000.
//!
//! Addresses take turns, however many connections each of them has. A single active address, a proxy or a load test,
//! has all of the arbiter, in turns of a few milliseconds. Nothing is refused, and nothing is lost: unread bytes stay
//! in the socket, and a client that sends too fast waits in TCP.
//!
//! A turn ends when the arbiter runs out of tasks, and otherwise when it has run the ready tasks and has looked at the
//! sockets. Prices are counted and not measured, because a clock would cost as much as a small frame, and would make a
//! simulation depend on the machine.
//!
//! A waiting task is a connection, so `max_connections` is the limit.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::task::{Poll, Waker};

use futures_util::task::AtomicWaker;
use parking_lot::Mutex;

use super::{Account, Address};
use crate::ground::homes::HomeId;
use crate::ground::line::{Line, Ticket, Tickets};

/// Units of work for a connection at once. A unit is about half a microsecond.
///
/// A publisher at full speed fills the inbox of a topic with this many frames: with less at once, batches would be
/// smaller, and throughput with them.
const FULL: u16 = if cfg!(test) { 8 } else { 256 };

/// The units at once after other connections have taken much of the turn.
const SMALL: u16 = FULL / 4;

/// Work after which an unfinished connection waits for the next turn: half a millisecond. The work of the topics comes
/// on top, and a message of a bystander is on its way for two or three turns.
const TURN: u32 = 4 * FULL as u32;

/// Turns for which an address counts as active after any work for it: a client with an occasional message must not find
/// the turn taken by another address each time.
const ACTIVE: u32 = 256;

/// Work of one address in a turn while several addresses are active.
const SHARE: u32 = TURN / 4;

/// Work of an address in a turn while no other is active: a few milliseconds. Another address may become active at any
/// moment, and its first input waits until the turn is over: 8,000 publishers with a message each take half a second.
const ALONE: u32 = 4 * TURN;

/// Addresses called in a turn; of each, a busy connection and some others continue.
const ADDRESSES: usize = 4;

/// Connections with little input, waiting because of their address, called with each busy connection. Each is a
/// fraction of the busy connection's work.
const FRESH: usize = 8;

/// Prices of the requests of clients.
pub(crate) mod price {
    /// To look at a socket and to read.
    pub(crate) const READ: u16 = 4;
    /// This many bytes of input cost a unit more.
    pub(crate) const BYTES: usize = 512;
    pub(crate) const FRAME: u16 = 1;
    /// A TLS record, however few bytes it has.
    #[cfg(feature = "tls")]
    pub(crate) const RECORD: u16 = 1;
    /// A TLS record after which the client has another key.
    #[cfg(feature = "tls")]
    pub(crate) const KEY_UPDATE: u16 = 12;
    /// An answer of a Transport itself: a system call, and often the wake-up of the reader.
    pub(crate) const ANSWER: u16 = 24;
    /// A message with a receipt; the topic will send the receipt in a turn of its own, for at most an inbox of
    /// messages.
    pub(crate) const RECEIPT: u16 = 4;
    /// To subscribe, to leave, to attach.
    pub(crate) const LENGTHY: u16 = 20;
    /// A new topic.
    pub(crate) const TOPIC: u16 = 100;
}

/// Why a connection wants a part of the turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Want {
    /// Something may have come from the client.
    Fresh,
    /// Earlier input is not finished.
    More,
}

/// The part of a turn taken by an address; a field of the [`Account`].
#[derive(Debug, Default)]
pub(crate) struct Share {
    /// The turn of `spent`.
    turn: AtomicU32,
    spent: AtomicU32,
    /// Whether connections wait with [`Want::Fresh`].
    waits: AtomicBool,
}

/// See the module's documentation. Each home arbiter has its own, whose figures no other thread reads or writes.
#[derive(Default)]
pub(crate) struct Fairness {
    home: HomeId,
    /// The last pause of the arbiter seen here: it ends a turn.
    pause: AtomicU64,
    /// Turns so far.
    over: AtomicU32,
    /// Work done in this turn.
    spent: AtomicU32,
    /// The account of the last work, as a number.
    last: AtomicUsize,
    /// From this turn on, the address of `last` counts as the only active one.
    alone_from: AtomicU32,
    waiting: Mutex<Waiting>,
    /// The task of [`keep`](Self::keep), woken when a connection has to wait.
    keeper: AtomicWaker,
}

/// Invariant: `order` has the addresses in `lines`, each once; an address whose last connection has left comes out in
/// its turn.
#[derive(Default)]
struct Waiting {
    order: VecDeque<Address>,
    lines: HashMap<Address, Lines>,
    tickets: Tickets,
}

/// The waiting connections of an address.
struct Lines {
    account: Arc<Account>,
    fresh: Line,
    more: Line,
}

impl Lines {
    /// Tells the account whether connections with little input wait.
    fn mirror(&self, home: HomeId) {
        self.account.share(home).waits.store(!self.fresh.is_empty(), Ordering::Relaxed);
    }
}

impl Fairness {
    pub(crate) fn new(home: HomeId) -> Self {
        Self { home, ..Self::default() }
    }

    /// The units of work for a connection now; `None` if the connection has to [wait](Self::wait) for others. `pause`
    /// is the number of the arbiter's last pause.
    pub(crate) fn admit(&self, account: &Account, want: Want, pause: u64) -> Option<u16> {
        if self.pause.load(Ordering::Relaxed) != pause {
            self.pause.store(pause, Ordering::Relaxed);
            self.begin_turn();
        }
        let share = account.share(self.home);
        let waits = match want {
            Want::Fresh => share.waits.load(Ordering::Relaxed),
            Want::More => self.spent.load(Ordering::Relaxed) >= TURN,
        };
        let limit = if self.are_several_active() { SHARE } else { ALONE };
        let has_had_its_share = self.spent_by(share) >= limit;
        (!waits && !has_had_its_share).then(|| self.portion())
    }

    fn are_several_active(&self) -> bool {
        (self.alone_from.load(Ordering::Relaxed).wrapping_sub(self.turn()) as i32) > 0
    }

    fn spent_by(&self, share: &Share) -> u32 {
        if share.turn.load(Ordering::Relaxed) == self.turn() { share.spent.load(Ordering::Relaxed) } else { 0 }
    }

    fn portion(&self) -> u16 {
        if self.spent.load(Ordering::Relaxed) < TURN / 4 { FULL } else { SMALL }
    }

    /// Notes work done for a client.
    pub(crate) fn charge(&self, account: &Account, work: u32) {
        let (share, turn) = (account.share(self.home), self.turn());
        if share.turn.load(Ordering::Relaxed) != turn {
            share.turn.store(turn, Ordering::Relaxed);
            share.spent.store(0, Ordering::Relaxed);
            self.note_active(account, turn);
        }
        for spent in [&share.spent, &self.spent] {
            spent.store(spent.load(Ordering::Relaxed).saturating_add(work), Ordering::Relaxed);
        }
    }

    fn note_active(&self, account: &Account, turn: u32) {
        // The address in memory tells an account from others; a new account in the place of an old one is the same for
        // this purpose.
        let account = std::ptr::from_ref(account).addr();
        let last = self.last.load(Ordering::Relaxed);
        if last != account {
            self.last.store(account, Ordering::Relaxed);
            if last != 0 {
                self.alone_from.store(turn.wrapping_add(ACTIVE), Ordering::Relaxed);
            }
        }
    }

    /// The number of the turn. The count begins with 1, because a new account has turn 0.
    fn turn(&self) -> u32 {
        self.over.load(Ordering::Relaxed).wrapping_add(1)
    }

    fn begin_turn(&self) {
        self.over.store(self.turn(), Ordering::Relaxed);
        self.spent.store(0, Ordering::Relaxed);
    }

    /// Queues a connection behind the others of the address with the same want.
    pub(crate) fn wait(&self, account: &Arc<Account>, want: Want, waker: &Waker) -> Ticket {
        let mut waiting = self.waiting.lock();
        let Waiting { order, lines, tickets } = &mut *waiting;
        let ticket = tickets.take();
        let lines = lines.entry(account.address).or_insert_with(|| {
            order.push_back(account.address);
            Lines { account: Arc::clone(account), fresh: Line::default(), more: Line::default() }
        });
        match want {
            Want::Fresh => lines.fresh.enter(ticket, waker),
            Want::More => lines.more.enter(ticket, waker),
        }
        lines.mirror(self.home);
        drop(waiting);
        self.keeper.wake();
        ticket
    }

    /// The units of work of a waiting connection, once it has been called.
    pub(crate) fn poll_called(&self, account: &Account, ticket: Ticket, waker: &Waker) -> Poll<u16> {
        let mut waiting = self.waiting.lock();
        let lines = waiting.lines.get_mut(&account.address);
        let waits =
            lines.is_some_and(|lines| lines.fresh.still_waits(ticket, waker) || lines.more.still_waits(ticket, waker));
        if waits { Poll::Pending } else { Poll::Ready(self.portion()) }
    }

    /// Gives up the place of a connection that ends.
    pub(crate) fn leave(&self, account: &Account, ticket: Ticket) {
        if let Some(lines) = self.waiting.lock().lines.get_mut(&account.address) {
            if !lines.fresh.leave(ticket) {
                lines.more.leave(ticket);
            }
            lines.mirror(self.home);
        }
    }

    /// Calls connections, a turn's at a time, for ever.
    pub(crate) async fn keep(&self) {
        loop {
            poll_fn(|cx| {
                self.keeper.register(cx.waker());
                if self.waiting.lock().order.is_empty() { Poll::Pending } else { Poll::Ready(()) }
            })
            .await;
            // Ready tasks go first, and the tasks woken by sockets.
            tokio::task::yield_now().await;
            self.begin_turn();
            self.call();
        }
    }

    fn call(&self) {
        let mut called = Vec::new();
        let mut waiting = self.waiting.lock();
        let Waiting { order, lines, .. } = &mut *waiting;
        for _ in 0..ADDRESSES {
            let Some(address) = order.pop_front() else { break };
            let Some(line) = lines.get_mut(&address) else { continue };
            called.extend((0..FRESH).map_while(|_| line.fresh.call()));
            called.extend(line.more.call());
            line.mirror(self.home);
            if line.fresh.is_empty() && line.more.is_empty() {
                lines.remove(&address);
            } else {
                order.push_back(address);
            }
        }
        if order.is_empty() {
            // The memory of a storm must not be kept until the next storm.
            order.shrink_to(ADDRESSES);
            lines.shrink_to(ADDRESSES);
        }
        drop(waiting);
        called.into_iter().for_each(Waker::wake);
    }
}

impl fmt::Debug for Fairness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let addresses = self.waiting.lock().order.len();
        f.debug_struct("Fairness").field("spent", &self.spent).field("addresses_waiting", &addresses).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::accounts::Accounts;
    use crate::wire::Peer;

    fn accounts<const N: usize>() -> [Arc<Account>; N] {
        let accounts = Accounts::new(1);
        std::array::from_fn(|index| accounts.of(Peer::Addr(([192, 0, 2, index as u8 + 1], 1).into())))
    }

    /// Queues `count` connections of an address.
    fn wait(fairness: &Fairness, account: &Arc<Account>, want: Want, count: usize) -> Vec<Ticket> {
        (0..count).map(|_| fairness.wait(account, want, Waker::noop())).collect()
    }

    /// The number of called connections among these.
    fn called(fairness: &Fairness, account: &Account, tickets: &[Ticket]) -> usize {
        let is_called = |ticket: &&Ticket| fairness.poll_called(account, **ticket, Waker::noop()).is_ready();
        tickets.iter().filter(is_called).count()
    }

    #[test]
    fn a_connection_does_less_at_once_in_a_busy_turn() {
        let (fairness, [account]) = (Fairness::default(), accounts());
        assert_eq!(fairness.admit(&account, Want::More, 0), Some(FULL));
        fairness.charge(&account, TURN / 4);
        assert_eq!(fairness.admit(&account, Want::More, 0), Some(SMALL));
        fairness.charge(&account, TURN);
        assert_eq!(fairness.admit(&account, Want::More, 0), None);
        assert_eq!(fairness.admit(&account, Want::Fresh, 0), Some(SMALL), "a client that says little goes first");
        assert_eq!(fairness.admit(&account, Want::More, 1), Some(FULL), "the arbiter has had a pause");
    }

    #[test]
    fn one_busy_connection_of_each_address_continues_in_a_turn() {
        let (fairness, [crowd, single]) = (Fairness::default(), accounts());
        let many = wait(&fairness, &crowd, Want::More, 100);
        let one = wait(&fairness, &single, Want::More, 1);
        fairness.call();
        assert_eq!((called(&fairness, &crowd, &many), called(&fairness, &single, &one)), (ADDRESSES - 1, 1));
        for ticket in &many[10..] {
            fairness.leave(&crowd, *ticket);
        }
        for _ in 0..10 {
            fairness.call();
        }
        assert_eq!(called(&fairness, &crowd, &many[..10]), 10);
        assert!(fairness.waiting.lock().lines.is_empty() && fairness.waiting.lock().order.is_empty());
    }

    #[test]
    fn an_address_waits_once_it_has_had_its_share_and_another_is_active() {
        let (fairness, [crowd, single]) = (Fairness::default(), accounts());
        fairness.charge(&crowd, SHARE);
        assert!(fairness.admit(&crowd, Want::Fresh, 0).is_some(), "an address alone has more");
        fairness.charge(&single, 1);
        assert_eq!(fairness.admit(&crowd, Want::Fresh, 0), None);
        assert_eq!(fairness.admit(&crowd, Want::More, 0), None);
        assert!(fairness.admit(&single, Want::Fresh, 0).is_some());
        let waiting = wait(&fairness, &crowd, Want::Fresh, ADDRESSES * FRESH + 1);
        fairness.begin_turn();
        assert_eq!(fairness.admit(&crowd, Want::Fresh, 0), None, "nobody overtakes those of the address that wait");
        fairness.call();
        assert_eq!(called(&fairness, &crowd, &waiting), ADDRESSES * FRESH);
        fairness.call();
        assert_eq!(called(&fairness, &crowd, &waiting), waiting.len());
        assert!(fairness.admit(&crowd, Want::Fresh, 0).is_some());
        // The other address was active a few turns before.
        fairness.charge(&crowd, SHARE);
        assert_eq!(fairness.admit(&crowd, Want::Fresh, 0), None);
        (0..ACTIVE).for_each(|_| fairness.begin_turn());
        fairness.charge(&crowd, SHARE);
        assert!(fairness.admit(&crowd, Want::Fresh, 0).is_some(), "it is alone again");
        fairness.charge(&crowd, ALONE - SHARE);
        assert_eq!(fairness.admit(&crowd, Want::Fresh, 0), None, "another may want its turn at any moment");
        assert!(fairness.admit(&single, Want::Fresh, 0).is_some());
    }
}
