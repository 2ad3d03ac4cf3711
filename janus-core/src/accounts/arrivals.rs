//! How often the addresses have connected lately: a rate for each address.
//!
//! An address is forgotten after ten seconds without a connection, when its whole rate is available again, and beyond
//! [`MAX_ADDRESSES`] the addresses unused for longest are. The table consists of two halves: an address moves to the
//! younger half with each connection, and the older half goes as a whole. So no connection pays for a search, and no
//! stranger with many addresses makes the table grow.

use std::collections::HashMap;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::Address;

/// Addresses remembered at once: some 6 MB.
const MAX_ADDRESSES: usize = 100_000;

/// How many seconds' worth of connections may come at once; an address is forgotten after this time.
const BURST: u32 = 10;

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Arrivals(Mutex<Halves>);

#[derive(Debug)]
struct Halves {
    younger: HashMap<Address, Arrived>,
    older: HashMap<Address, Arrived>,
    /// When the younger half was empty.
    since: Instant,
}

/// The connections of an address, as the moments at which further ones would come at regular intervals.
#[derive(Clone, Copy, Debug)]
struct Arrived {
    /// For a connection that is admitted.
    admitted: Instant,
    /// For a connection that is refused with words.
    told: Instant,
}

/// The fate of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Arrival {
    Admitted,
    /// Refused, and the client is told why.
    Told,
    /// Refused like many before: words would cost more than the connection.
    Ignored,
}

impl Default for Arrivals {
    fn default() -> Self {
        let halves = Halves { younger: HashMap::new(), older: HashMap::new(), since: Instant::now() };
        Self(Mutex::new(halves))
    }
}

impl Arrivals {
    /// Counts a connection of an address that may connect `rate` times a second. Of the refused connections, one for ten
    /// admitted ones is told.
    pub(super) fn count(&self, address: Address, rate: usize, now: Instant) -> Arrival {
        self.change(address, now, |arrived| {
            if take(&mut arrived.admitted, rate, now) {
                Arrival::Admitted
            } else if take(&mut arrived.told, rate.div_ceil(10), now) {
                Arrival::Told
            } else {
                Arrival::Ignored
            }
        })
    }

    /// Counts a connection that is refused for another reason; true if the client is told.
    pub(super) fn count_refused(&self, address: Address, rate: usize, now: Instant) -> bool {
        self.change(address, now, |arrived| take(&mut arrived.told, rate.div_ceil(10), now))
    }

    fn change<R>(&self, address: Address, now: Instant, change: impl FnOnce(&mut Arrived) -> R) -> R {
        let mut halves = self.0.lock();
        let halves = &mut *halves;
        if halves.younger.len() >= MAX_ADDRESSES / 2 && !halves.younger.contains_key(&address) {
            halves.turn(now);
        }
        let arrived = halves.younger.entry(address).or_insert_with(|| {
            let known = halves.older.remove(&address);
            known.unwrap_or(Arrived { admitted: now, told: now })
        });
        change(arrived)
    }

    /// Forgets addresses whose whole rate is available again. Called once a tick.
    pub(crate) fn sweep(&self, now: Instant) {
        let mut halves = self.0.lock();
        if now.duration_since(halves.since) >= Duration::from_secs(BURST.into()) {
            halves.turn(now);
        }
    }
}

impl Halves {
    fn turn(&mut self, now: Instant) {
        self.older = std::mem::take(&mut self.younger);
        self.since = now;
    }
}

/// Takes a connection from a rate, if there is one.
fn take(next: &mut Instant, rate: usize, now: Instant) -> bool {
    let rate = u32::try_from(rate).unwrap_or(u32::MAX).max(1);
    let interval = Duration::from_secs(1) / rate;
    let ahead = interval * rate.saturating_mul(BURST).saturating_sub(1);
    let admits = *next <= now + ahead;
    if admits {
        *next = (*next).max(now) + interval;
    }
    admits
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    fn address(number: u32) -> Address {
        Address::Network(IpAddr::from(number.to_be_bytes()))
    }

    fn admitted(arrivals: &Arrivals, number: u32, rate: usize, now: Instant) -> bool {
        arrivals.count(address(number), rate, now) == Arrival::Admitted
    }

    #[test]
    fn ten_seconds_worth_comes_at_once_and_then_the_rate_holds() {
        let (arrivals, begun) = (Arrivals::default(), Instant::now());
        let at_once = (0..).take_while(|_| admitted(&arrivals, 1, 5, begun)).count();
        assert_eq!(at_once, 50);
        assert!(admitted(&arrivals, 2, 5, begun), "another address has a rate of its own");
        let mut later = 0;
        for tenth in 1..=100 {
            let now = begun + Duration::from_millis(tenth * 100);
            // Asking more often does not help.
            later += (0..10).filter(|_| admitted(&arrivals, 1, 5, now)).count();
            arrivals.sweep(now);
        }
        assert_eq!(later, 50, "five a second, for ten seconds");
    }

    #[test]
    fn a_tenth_of_the_rate_is_refused_with_words_and_the_rest_without() {
        let (arrivals, now) = (Arrivals::default(), Instant::now());
        let fates: Vec<Arrival> = (0..225).map(|_| arrivals.count(address(1), 20, now)).collect();
        let expected = [&[Arrival::Admitted; 200][..], &[Arrival::Told; 20], &[Arrival::Ignored; 5]].concat();
        assert_eq!(fates, expected);
        assert!((0..20).all(|_| arrivals.count_refused(address(2), 20, now)));
        assert!(!arrivals.count_refused(address(2), 20, now));
        assert!(admitted(&arrivals, 2, 20, now), "refusals take nothing from the rate");
    }

    #[test]
    fn an_address_is_forgotten_when_its_rate_is_whole_and_not_before() {
        let (arrivals, begun) = (Arrivals::default(), Instant::now());
        while admitted(&arrivals, 1, 1, begun) {}
        let after = |seconds| begun + Duration::from_secs(seconds);
        arrivals.sweep(after(9));
        arrivals.sweep(after(10));
        assert!(arrivals.0.lock().older.contains_key(&address(1)), "it may have come a moment ago");
        assert_eq!((0..20).filter(|_| admitted(&arrivals, 1, 1, after(10))).count(), 10);
        arrivals.sweep(after(20));
        arrivals.sweep(after(30));
        let halves = arrivals.0.lock();
        assert!(halves.older.is_empty() && halves.younger.is_empty());
    }

    #[test]
    fn a_hundred_thousand_addresses_are_remembered_and_the_oldest_give_way() {
        let (arrivals, now) = (Arrivals::default(), Instant::now());
        while admitted(&arrivals, 0, 1, now) {}
        for number in 1..=250_000 {
            arrivals.count(address(number), 1, now);
            if number % 40_000 == 0 {
                assert!(!admitted(&arrivals, 0, 1, now), "an address in use stays, after {number} others");
            }
            let halves = arrivals.0.lock();
            assert!(halves.younger.len() + halves.older.len() <= MAX_ADDRESSES);
        }
        assert!(!arrivals.0.lock().older.contains_key(&address(1)));
        assert!(arrivals.0.lock().younger.contains_key(&address(250_000)));
    }
}
