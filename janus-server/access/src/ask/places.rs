//! The questions at the backend at once, and when clients without a place come back.
//!
//! The clients of one address must not take all places. The rule is that of switches with a shared buffer: an address
//! may take a further place while it has fewer than [`GREED`] times as many as are free. An address alone gets three
//! quarters; more addresses share, and there is always room for a newcomer. Nothing is reserved for anybody in advance.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use janus_core::wire::Peer;
use parking_lot::Mutex;
use tokio::time::Instant;

/// See the module's documentation.
const GREED: usize = 3;

/// The last client of a storm comes back after this time at the latest, and at random in the later half if more clients
/// are waiting than come in this time.
const LONGEST: Duration = Duration::from_secs(60);

/// Places for questions.
#[derive(Debug)]
pub(super) struct Places {
    limit: usize,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    total: usize,
    /// Invariant: the sum is `total`, and no entry is 0. So there are at most `limit` entries.
    by: HashMap<Address, usize>,
}

/// An IPv4 host, an IPv6 /64 network, or this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Address(Option<IpAddr>);

impl From<Peer> for Address {
    fn from(peer: Peer) -> Self {
        let Peer::Addr(address) = peer else { return Self(None) };
        Self(Some(match address.ip().to_canonical() {
            IpAddr::V4(host) => host.into(),
            IpAddr::V6(host) => Ipv6Addr::from_bits(host.to_bits() >> 64 << 64).into(),
        }))
    }
}

/// A place, until dropped.
#[derive(Debug)]
pub(super) struct Place {
    places: Arc<Places>,
    address: Address,
}

impl Places {
    pub(super) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { limit, taken: Mutex::default() })
    }

    /// A place for a question about a client of this address, if there is room.
    pub(super) fn take(self: &Arc<Self>, address: Address) -> Option<Place> {
        let mut taken = self.taken.lock();
        let own = taken.by.get(&address).copied().unwrap_or_default();
        if own >= GREED * (self.limit - taken.total) {
            return None;
        }
        taken.total += 1;
        taken.by.insert(address, own + 1);
        Some(Place { places: Arc::clone(self), address })
    }

    pub(super) fn taken(&self) -> usize {
        self.taken.lock().total
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.taken.lock();
        taken.total -= 1;
        if let Some(own) = taken.by.get_mut(&self.address) {
            *own -= 1;
            if *own == 0 {
                taken.by.remove(&self.address);
            }
        }
    }
}

/// The line of clients that were told to come back. Each is given a time of its own, as far behind the client before as
/// the backend needs for a question at its slowest.
#[derive(Debug)]
pub(super) struct Line {
    step: Duration,
    /// The time of the last client in the line.
    end: Mutex<Option<Instant>>,
}

impl Line {
    /// `concurrency` questions at once, each of which takes `time` at most.
    pub(super) fn new(concurrency: usize, time: Duration) -> Self {
        let step = time / u32::try_from(concurrency).unwrap_or(u32::MAX);
        Self { step, end: Mutex::default() }
    }

    /// When a further client comes back, not before `pause` has passed.
    pub(super) fn join(&self, pause: Duration, now: Instant) -> Duration {
        let mut end = self.end.lock();
        let turn = end.map_or(now, |end| end.max(now)) + self.step;
        let longest = now + LONGEST;
        if turn > longest {
            return pause + LONGEST.mul_f64(0.5 + fastrand::f64() / 2.0);
        }
        *end = Some(turn);
        // A part at random, because clients of one second reach the server in one moment.
        pause + turn.duration_since(now) + pause.mul_f64(fastrand::f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(number: u8) -> Address {
        Peer::from(std::net::SocketAddr::from(([10, 0, 0, number], 1))).into()
    }

    fn take_all(places: &Arc<Places>, address: Address) -> Vec<Place> {
        std::iter::from_fn(|| places.take(address)).collect()
    }

    #[test]
    fn an_address_leaves_room_for_others() {
        let places = Places::new(256);
        let alone = take_all(&places, address(1));
        assert_eq!(alone.len(), 192);
        let second = take_all(&places, address(2));
        assert_eq!(second.len(), 48);
        assert!(places.take(address(1)).is_none() && places.take(address(3)).is_some());
        drop((alone, second));
        assert_eq!((places.taken(), places.taken.lock().by.len()), (0, 0));
        let crowd: Vec<_> = (0..=255).map(|number| places.take(address(number))).collect();
        assert!(crowd.iter().all(Option::is_some) && places.take(address(0)).is_none(), "never beyond the limit");
    }

    #[test]
    fn the_only_place_is_for_anybody() {
        let places = Places::new(1);
        let place = places.take(address(1));
        assert!(place.is_some() && places.take(address(2)).is_none());
        drop(place);
        assert!(places.take(address(2)).is_some());
    }

    #[test]
    fn a_network_of_ipv6_is_one_address() {
        let of = |text: &str| Address::from(Peer::from(text.parse::<std::net::SocketAddr>().unwrap()));
        assert_eq!(of("[2001:db8::1]:1"), of("[2001:db8::ffff:1]:2"));
        assert_ne!(of("[2001:db8::1]:1"), of("[2001:db8:0:1::1]:1"));
        assert_eq!(of("[::ffff:10.0.0.1]:1"), of("10.0.0.1:2"));
    }

    #[test]
    fn clients_come_back_one_after_the_other() {
        let (line, now) = (Line::new(256, Duration::from_secs(1)), Instant::now());
        let times: Vec<Duration> = (0..10_000).map(|_| line.join(Duration::ZERO, now)).collect();
        assert!(times.is_sorted_by(|a, b| a < b));
        assert!(times[255] <= Duration::from_secs(1) && times[9_999] > Duration::from_secs(39));
        let late: Vec<Duration> = (0..10_000).map(|_| line.join(Duration::ZERO, now)).skip(5_400).collect();
        assert!(late.iter().all(|&time| time >= LONGEST / 2 && time <= LONGEST));
        let later = line.join(Duration::from_secs(4), now + 2 * LONGEST);
        assert!(later >= Duration::from_secs(4) && later < Duration::from_secs(9), "{later:?}");
    }
}
