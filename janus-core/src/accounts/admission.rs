//! The limits of connections of an address: how many at once, and how many a second.
//!
//! Decided before anything is spent on the connection, and again for the client's own address as soon as a trusted proxy
//! has named the client.

use std::sync::Arc;

use tokio::time::Instant;

use super::arrivals::Arrival;
use super::{Account, Accounts};
use crate::config::Config;
use crate::wire::Peer;

/// A connection counted against the limit of its address; given back by the drop.
#[derive(Debug, Default)]
pub(crate) struct Admission(Option<Arc<Account>>);

impl Drop for Admission {
    fn drop(&mut self) {
        if let Some(account) = &self.0 {
            account.admitted.remove(1);
        }
    }
}

/// A connection beyond a limit of its address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Excess {
    pub(crate) limit: AddressLimit,
    /// Whether the client is told. The connections of a flood are closed without a word.
    pub(crate) is_told: bool,
}

/// A limit of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AddressLimit {
    Connections,
    Rate,
}

impl AddressLimit {
    /// The words for the client.
    pub(crate) fn message(self) -> &'static str {
        match self {
            Self::Connections => "too many connections from this address: close some, or try again later",
            Self::Rate => "too many new connections from this address: slow down, and try again later",
        }
    }
}

impl Accounts {
    /// Admits a connection of a peer, within the limits of the peer's address.
    pub(crate) fn admit(&self, peer: Peer, config: &Config) -> Result<Admission, Excess> {
        self.admit_as(peer, config, true)
    }

    /// Admits a connection that was the same peer's before: no arrival is counted.
    pub(crate) fn admit_again(&self, peer: Peer, config: &Config) -> Result<Admission, Excess> {
        self.admit_as(peer, config, false)
    }

    fn admit_as(&self, peer: Peer, config: &Config, arrives: bool) -> Result<Admission, Excess> {
        let Config { max_connections_per_ip, connect_rate_per_ip, .. } = *config;
        let Peer::Addr(addr) = peer else { return Ok(Admission(None)) };
        if max_connections_per_ip == 0 && connect_rate_per_ip == 0 || config.is_unlimited(addr.ip()) {
            return Ok(Admission(None));
        }
        let account = self.of(peer);
        let now = Instant::now();
        let limit = if max_connections_per_ip > 0 { max_connections_per_ip } else { usize::MAX };
        if !account.admitted.add_within(limit) {
            let is_told =
                connect_rate_per_ip == 0 || self.arrivals.count_refused(account.address, connect_rate_per_ip, now);
            return Err(Excess { limit: AddressLimit::Connections, is_told });
        }
        let address = account.address;
        let admission = Admission(Some(account));
        if connect_rate_per_ip > 0 && arrives {
            let arrival = self.arrivals.count(address, connect_rate_per_ip, now);
            if arrival != Arrival::Admitted {
                return Err(Excess { limit: AddressLimit::Rate, is_told: arrival == Arrival::Told });
            }
        }
        Ok(admission)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(connections: usize, rate: usize) -> Config {
        Config { max_connections_per_ip: connections, connect_rate_per_ip: rate, ..Config::default() }
    }

    fn peer(text: &str) -> Peer {
        Peer::Addr(text.parse().unwrap())
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_has_at_most_so_many_connections_and_each_end_makes_room() {
        let (accounts, config) = (Accounts::new(1), config(2, 0));
        let admit = |text| accounts.admit(peer(text), &config);
        let (first, _second) = (admit("203.0.113.9:1").unwrap(), admit("203.0.113.9:2").unwrap());
        let excess = Excess { limit: AddressLimit::Connections, is_told: true };
        assert_eq!(admit("203.0.113.9:3").unwrap_err(), excess);
        let _other = admit("203.0.113.10:1").unwrap();
        drop(first);
        let _third = admit("203.0.113.9:3").unwrap();
        assert_eq!(admit("203.0.113.9:4").unwrap_err(), excess);
        let _v6 = [admit("[2001:db8::1]:1").unwrap(), admit("[2001:db8::2]:1").unwrap()];
        assert_eq!(admit("[2001:db8::3]:1").unwrap_err(), excess, "a network of 64 bits is an address");
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_connects_at_its_rate_and_floods_get_no_words() {
        let (accounts, config) = (Accounts::new(1), config(0, 1));
        let fates: Vec<_> = (0..21).map(|_| accounts.admit(peer("203.0.113.9:1"), &config).map(drop)).collect();
        let excess = |is_told| Err(Excess { limit: AddressLimit::Rate, is_told });
        assert_eq!((fates[9], fates[10], fates[19], fates[20]), (Ok(()), excess(true), excess(true), excess(false)));
        tokio::time::advance(std::time::Duration::from_secs(1)).await;
        assert!(accounts.admit(peer("203.0.113.9:1"), &config).is_ok());
    }

    #[test]
    fn networks_without_limits_and_streams_without_an_address_are_admitted() {
        let trusted_proxies = vec!["203.0.113.0/24".parse().unwrap()];
        let (accounts, config) = (Accounts::new(1), Config { trusted_proxies, ..config(1, 1) });
        for peer in [peer("127.0.0.1:1"), peer("[::1]:1"), peer("10.0.0.1:1"), peer("203.0.113.9:1"), Peer::Local] {
            let admissions: Vec<_> = (0..100).map(|_| accounts.admit(peer, &config).unwrap()).collect();
            assert!(admissions.iter().all(|admission| admission.0.is_none()), "{peer}");
        }
    }
}
