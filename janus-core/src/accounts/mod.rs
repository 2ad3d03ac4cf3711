//! The holdings of the clients of a network address, in resources shared by all clients.
//!
//! Limits per client do not bound a stranger with many connections. When something is short (memory, places for topics,
//! places for detached sessions) the address with the largest holding gives back first, so an attacker crowds out its
//! own connections first. Behind a proxy that is not trusted, all clients share the proxy's address, and the order within
//! an address applies.
//!
//! An [`Account`] exists for as long as a connection, a detached session or a topic refers to it; the table forgets the
//! account at the next tick of the heartbeat. So the limits of connections, sessions and topics bound the table.
//!
//! | file | kind | owns |
//! |---|---|---|
//! | `mod.rs` | table | an account for each network address |
//! | `admission.rs` | table | the limits of connections of an address |
//! | `arrivals.rs` | table | how often each address has connected lately |
//! | `fairness.rs` | table | how much of the home arbiter's time a connection and an address may take |
//! | `reached.rs` | table | log lines about limits of the server that are reached |
//! | `received.rs` | table | which connection gives back unfinished input first |
//! | `shares.rs` | table | which address gives back first |

pub(crate) mod admission;
pub(crate) mod arrivals;
pub(crate) mod fairness;
pub(crate) mod reached;
pub(crate) mod received;
pub(crate) mod shares;

use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;

use crate::ground::homes::HomeId;
use crate::wire::Peer;
use arrivals::Arrivals;
use fairness::Share;
use reached::Reached;
use received::Holders;

/// The part of a peer's address that one party is taken to own: an IPv4 address, or the /64 network of an IPv6 address,
/// the smallest network given to a host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Address {
    /// A connection of this machine without an address (a Unix socket, memory), or this process.
    #[default]
    Local,
    Network(IpAddr),
}

impl Address {
    pub(crate) fn of(peer: Peer) -> Self {
        let Peer::Addr(addr) = peer else { return Self::Local };
        Self::Network(match addr.ip().to_canonical() {
            IpAddr::V4(ip) => IpAddr::V4(ip),
            IpAddr::V6(ip) => IpAddr::V6(Ipv6Addr::from_bits(ip.to_bits() & !u128::from(u64::MAX))),
        })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local => f.pad("local"),
            Self::Network(IpAddr::V4(ip)) => ip.fmt(f),
            Self::Network(IpAddr::V6(ip)) => write!(f, "{ip}/64"),
        }
    }
}

/// The holdings of the clients of an address.
#[derive(Debug, Default)]
pub(crate) struct Account {
    pub(crate) address: Address,
    /// Open connections.
    pub(crate) connections: Count,
    /// Connections that count against `max_connections_per_ip`, from the accept on; none where the limit does not hold.
    pub(crate) admitted: Count,
    /// Bytes from clients kept by their Transports: frames and heads without an end.
    pub(crate) received: Count,
    /// The connections with these bytes.
    pub(crate) holders: Holders,
    /// Connections closed for memory and not yet counted in a line of the log.
    pub(crate) given_up: Count,
    /// Sessions without a connection.
    pub(crate) detached: Count,
    /// Topics made for a client of this address.
    pub(crate) topics: Count,
    /// The part of a turn that the address has taken on the first home arbiter.
    share: Share,
    /// The same for the other home arbiters. Apart, so that the account of an instance with one home takes no further
    /// memory.
    further: Box<[Share]>,
}

impl Account {
    /// The part of a turn that the address has taken on a home arbiter.
    #[inline]
    pub(crate) fn share(&self, home: HomeId) -> &Share {
        match home.index() {
            0 => &self.share,
            other => &self.further[other - 1],
        }
    }
}

/// A figure of an [`Account`].
#[derive(Debug, Default)]
pub(crate) struct Count(AtomicUsize);

impl Count {
    pub(crate) fn add(&self, amount: usize) {
        self.0.fetch_add(amount, Ordering::Relaxed);
    }

    /// Adds 1, unless that would be more than `limit`.
    pub(crate) fn add_within(&self, limit: usize) -> bool {
        let more = |count| (count < limit).then_some(count + 1);
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
    }

    pub(crate) fn remove(&self, amount: usize) {
        self.0.fetch_sub(amount, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

/// The accounts of all addresses.
#[derive(Debug)]
pub(crate) struct Accounts {
    /// The number of home arbiters.
    homes: usize,
    table: Mutex<HashMap<Address, Arc<Account>>>,
    pub(crate) arrivals: Arrivals,
    reached: Reached,
}

impl Accounts {
    /// For an instance with this number of home arbiters.
    pub(crate) fn new(homes: usize) -> Self {
        Self { homes, table: Mutex::default(), arrivals: Arrivals::default(), reached: Reached::default() }
    }

    /// The account of a peer's address; opened if there is none.
    pub(crate) fn of(&self, peer: Peer) -> Arc<Account> {
        let address = Address::of(peer);
        let mut accounts = self.table.lock();
        let account = accounts.entry(address).or_insert_with(|| {
            let further = (1..self.homes).map(|_| Share::default()).collect();
            Arc::new(Account { address, further, ..Account::default() })
        });
        Arc::clone(account)
    }

    /// Forgets the accounts without references.
    pub(crate) fn sweep(&self) {
        let mut accounts = self.table.lock();
        accounts.retain(|_, account| Arc::strong_count(account) > 1);
        if accounts.capacity() > 1_024 && accounts.len() < accounts.capacity() / 8 {
            let keep = accounts.len() * 2;
            accounts.shrink_to(keep);
        }
    }

    /// Shows all accounts.
    pub(crate) fn visit(&self, visit: impl FnMut(&Arc<Account>)) {
        self.table.lock().values().for_each(visit);
    }

    /// The account with the largest figure, and the figure; `None` where all are 0.
    pub(crate) fn largest(&self, figure: impl Fn(&Account) -> usize) -> Option<(Arc<Account>, usize)> {
        let accounts = self.table.lock();
        let (account, most) =
            accounts.values().map(|account| (account, figure(account))).max_by_key(|(_, figure)| *figure)?;
        (most > 0).then(|| (Arc::clone(account), most))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(text: &str) -> Peer {
        Peer::Addr(text.parse().unwrap())
    }

    #[test]
    fn an_address_is_an_ipv4_host_or_an_ipv6_network_of_64_bits() {
        let same = |a, b| Address::of(peer(a)) == Address::of(peer(b));
        assert!(same("192.0.2.1:1", "192.0.2.1:2"));
        assert!(!same("192.0.2.1:1", "192.0.2.2:1"));
        assert!(same("[2001:db8::1]:1", "[2001:db8::ffff:0:0:2]:2"));
        assert!(!same("[2001:db8:0:1::1]:1", "[2001:db8:0:2::1]:1"));
        assert!(same("[::ffff:192.0.2.1]:1", "192.0.2.1:1"));
        assert_eq!(Address::of(peer("[2001:db8::1]:1")).to_string(), "2001:db8::/64");
    }

    #[test]
    fn the_largest_account_is_found_and_an_unused_account_is_forgotten() {
        let accounts = Accounts::new(1);
        let (small, large) = (accounts.of(peer("192.0.2.1:1")), accounts.of(peer("192.0.2.2:1")));
        assert!(accounts.largest(|account| account.received.get()).is_none());
        small.received.add(10);
        large.received.add(20);
        let (found, most) = accounts.largest(|account| account.received.get()).unwrap();
        assert!(Arc::ptr_eq(&found, &large) && most == 20);
        drop((found, large));
        accounts.sweep();
        assert!(
            accounts.largest(|account| account.received.get()).is_some_and(|(found, _)| Arc::ptr_eq(&found, &small))
        );
    }
}
