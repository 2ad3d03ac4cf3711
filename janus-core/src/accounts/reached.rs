//! Lines in the log about reached limits of the server.
//!
//! An operator must learn about limits that bite, and about the address to blame. One line in ten seconds for each
//! limit sums up the events, so a flood of clients makes no flood of lines. The heartbeat logs the rest.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use super::admission::AddressLimit;
use super::{Account, Accounts, Address};
use crate::ground::Ground;
use crate::ground::clock::AtomicTick;
use crate::ground::log_lines::counted;

/// A limit for all clients together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Limit {
    Connections,
    Topics,
    DetachedSessions,
}

/// The events at each limit since the last line about it.
#[derive(Debug, Default)]
pub(super) struct Reached {
    limits: [Since; 3],
    of_addresses: [Refusals; 2],
}

/// The refusals at a limit of addresses.
#[derive(Debug, Default)]
struct Refusals {
    since: Since,
    /// The address refused last.
    address: Mutex<Address>,
}

#[derive(Debug, Default)]
struct Since {
    /// When the last line was written.
    last: AtomicTick,
    ended: AtomicU64,
    refused: AtomicU64,
}

const BETWEEN: Duration = Duration::from_secs(10);

impl Accounts {
    /// Notes how many items have ended to make room.
    pub(crate) fn note_ended(&self, limit: Limit, count: usize, ground: &Ground) {
        if count > 0 {
            let since = &self.reached.limits[limit as usize];
            since.ended.fetch_add(count as u64, Ordering::Relaxed);
            since.tell(limit, self, ground);
        }
    }

    /// Notes a refused request.
    pub(crate) fn note_refused(&self, limit: Limit, ground: &Ground) {
        let since = &self.reached.limits[limit as usize];
        since.refused.fetch_add(1, Ordering::Relaxed);
        since.tell(limit, self, ground);
    }

    /// Notes a connection refused for a limit of its address.
    pub(crate) fn note_excess(&self, limit: AddressLimit, address: Address, ground: &Ground) {
        let refusals = &self.reached.of_addresses[limit as usize];
        *refusals.address.lock() = address;
        refusals.since.refused.fetch_add(1, Ordering::Relaxed);
        refusals.tell(limit, ground);
    }

    /// Logs the events since the last lines.
    pub(crate) fn tell_rest_of_reached(&self, ground: &Ground) {
        for limit in [Limit::Connections, Limit::Topics, Limit::DetachedSessions] {
            let since = &self.reached.limits[limit as usize];
            if since.ended.load(Ordering::Relaxed) + since.refused.load(Ordering::Relaxed) > 0 {
                since.tell(limit, self, ground);
            }
        }
        for limit in [AddressLimit::Connections, AddressLimit::Rate] {
            let refusals = &self.reached.of_addresses[limit as usize];
            if refusals.since.refused.load(Ordering::Relaxed) > 0 {
                refusals.tell(limit, ground);
            }
        }
    }
}

impl Refusals {
    /// Writes a line, unless the last line was a moment ago.
    fn tell(&self, limit: AddressLimit, ground: &Ground) {
        if !self.since.is_due(ground) {
            return;
        }
        let (refused, address) = (self.since.refused.swap(0, Ordering::Relaxed), *self.address.lock());
        let config = ground.config();
        let (setting, value) = match limit {
            AddressLimit::Connections => ("max_connections_per_ip", config.max_connections_per_ip),
            AddressLimit::Rate => ("connect_rate_per_ip", config.connect_rate_per_ip),
        };
        let all = counted(refused, "connection");
        log::warn!(
            setting, refused, peer:% = address;
            "{setting} ({value}) is reached: {all} refused since the last such line, the last from \
             {address}; if this is a proxy, add its address to trusted_proxies, proxy_protocol or unlimited_networks"
        );
    }
}

impl Since {
    /// Whether a line may be written now; the caller must write the line.
    fn is_due(&self, ground: &Ground) -> bool {
        let (last, tick) = (self.last.get(), ground.clock.tick());
        last.is_none_or(|last| tick.since(last) >= ground.clock.ticks(BETWEEN)) && self.last.advance(last, tick)
    }

    /// Writes a line, unless the last line was a moment ago.
    fn tell(&self, limit: Limit, accounts: &Accounts, ground: &Ground) {
        if !self.is_due(ground) {
            return;
        }
        let (ended, refused) = (self.ended.swap(0, Ordering::Relaxed), self.refused.swap(0, Ordering::Relaxed));
        let (setting, value) = limit.setting(ground);
        let largest = accounts.largest(|account| limit.held_by(account));
        let holder = largest.map(|(account, most)| format!("; {} holds the most: {most}", account.address));
        log::warn!(
            setting, ended, refused;
            "{setting} ({value}) is reached: {ended} {limit} ended early to make room, {refused} refused, since the last \
             such line{}",
            holder.unwrap_or_default()
        );
    }
}

impl Limit {
    fn setting(self, ground: &Ground) -> (&'static str, usize) {
        match self {
            Self::Connections => ("max_connections", ground.config().max_connections),
            Self::Topics => ("max_topics", ground.config().max_topics),
            Self::DetachedSessions => ("max_detached_sessions", ground.config().max_detached_sessions),
        }
    }

    fn held_by(self, account: &Account) -> usize {
        match self {
            Self::Connections => account.connections.get(),
            Self::Topics => account.topics.get(),
            Self::DetachedSessions => account.detached.get(),
        }
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Connections => "connections",
            Self::Topics => "topics",
            Self::DetachedSessions => "sessions without a connection",
        })
    }
}
