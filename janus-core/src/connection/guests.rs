//! Connections without a place of `max_connections`, and their order of making room.
//!
//! A guest is a connection with a purpose still unknown, or a publisher that found the server full. Guests have
//! `reserved_connections` to themselves, and use free places of `max_connections` while there are any. When neither is
//! left, a newcomer takes the room of a silent guest: the oldest of the address with most silent guests. So an address
//! that floods the server crowds out its own connections, and the request of another address is read. A guest that has
//! published is no longer silent. Publishing guests have half of `reserved_connections`, and the free places; another
//! publishing guest crowds out the oldest of the address with most publishing guests, if possible an idle one.
//!
//! The connections of HTTP between two requests are guests for as long as they are kept: silent ones, or publishing ones if
//! a request has published.

use std::sync::Arc;

use super::crowd::Crowd;
use crate::accounts::{Account, Address};
use crate::delivery::Slot;

/// All guests of an instance.
#[derive(Debug, Default)]
pub(crate) struct Guests {
    silent: Line,
    publishing: Line,
}

impl Guests {
    pub(crate) fn len(&self) -> usize {
        self.silent.len() + self.publishing.len()
    }

    pub(crate) fn add(&mut self, slot: &Arc<Slot>) {
        self.silent.add(slot);
    }

    pub(crate) fn remove(&mut self, slot: &Slot) {
        if self.silent.remove(slot).is_none() {
            self.publishing.remove(slot);
        }
    }

    /// Moves a guest to the account of its own address.
    pub(crate) fn move_to(&mut self, slot: &Arc<Slot>, account: Arc<Account>) {
        let is_silent = self.silent.remove(slot).is_some();
        let line = if is_silent { &mut self.silent } else { &mut self.publishing };
        line.remove(slot);
        slot.move_to(account);
        line.add(slot);
    }

    /// Takes out the first guest to go.
    pub(crate) fn take_first(&mut self) -> Option<Arc<Slot>> {
        self.silent.take_first().or_else(|| self.publishing.take_idle())
    }

    /// Notes that a guest has published. Returns the guest that must go if there are `max` publishing guests already.
    pub(crate) fn has_published(&mut self, slot: &Slot, max: usize) -> Option<Arc<Slot>> {
        let slot = self.silent.remove(slot)?;
        let goes = if self.publishing.len() >= max { self.publishing.take_idle() } else { None };
        self.publishing.add(&slot);
        goes
    }
}

/// Guests of the same kind, silent or publishing.
#[derive(Debug, Default)]
struct Line(Crowd<Arc<Slot>>);

impl Line {
    fn len(&self) -> usize {
        self.0.len()
    }

    fn add(&mut self, slot: &Arc<Slot>) {
        self.0.add(address(slot), slot.id, Arc::clone(slot));
    }

    fn remove(&mut self, slot: &Slot) -> Option<Arc<Slot>> {
        self.0.remove(address(slot), slot.id)
    }

    fn take_first(&mut self) -> Option<Arc<Slot>> {
        self.0.take_first_if(|_| true)
    }

    /// The first to go among guests between two requests. A guest that waits for an answer goes if there are no others.
    fn take_idle(&mut self) -> Option<Arc<Slot>> {
        self.0.take_best(|slot| slot.is_idle() && !slot.is_answering() && !slot.needs_attention())
    }
}

fn address(slot: &Slot) -> Address {
    slot.account().map(|account| account.address).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::accounts::Accounts;
    use crate::delivery::Terms;
    use crate::delivery::codecs::CLASSIC;
    use crate::delivery::stream::Stream;

    /// Makes connections, numbered in order, from addresses that differ in the last byte.
    struct Host {
        accounts: Accounts,
        terms: Arc<Terms>,
        last: u64,
    }

    impl Host {
        fn new() -> Self {
            Self { accounts: Accounts::new(1), terms: Terms::in_tests(1, 1), last: 0 }
        }

        fn connection(&mut self, address: u8) -> Arc<Slot> {
            self.last += 1;
            let peer = std::net::SocketAddr::from(([192, 0, 2, address], 1)).into();
            let link = Stream::new(Box::pin(tokio::io::empty()), peer);
            Arc::new(Slot::new(self.last, None, link, CLASSIC, self.accounts.of(peer), &self.terms))
        }
    }

    fn number(slot: Option<Arc<Slot>>) -> Option<u64> {
        slot.map(|slot| slot.id)
    }

    #[test]
    fn the_oldest_guest_of_the_address_that_has_most_goes_first() {
        let (mut host, mut guests) = (Host::new(), Guests::default());
        let slots: Vec<_> = [9, 1, 1, 2, 1, 2].map(|address| host.connection(address)).into();
        slots.iter().for_each(|slot| guests.add(slot));
        // Address 1 has three guests. When both addresses have two, address 1 still has the oldest guest.
        assert_eq!([number(guests.take_first()), number(guests.take_first())], [Some(2), Some(3)]);
        guests.remove(&slots[5]);
        // With a guest of each address, the oldest goes first.
        let rest: Vec<_> = std::iter::from_fn(|| number(guests.take_first())).collect();
        assert_eq!((rest, guests.len()), (vec![1, 4, 5], 0));
        guests.remove(&slots[0]);
        assert_eq!(guests.len(), 0);
    }

    #[test]
    fn a_guest_counts_for_its_own_address_once_that_is_known() {
        let (mut host, mut guests) = (Host::new(), Guests::default());
        let slots: Vec<_> = [9, 9, 9, 1].map(|address| host.connection(address)).into();
        slots.iter().for_each(|slot| guests.add(slot));
        let own = host.accounts.of(std::net::SocketAddr::from(([192, 0, 2, 1], 1)).into());
        let proxy = Arc::clone(slots[0].account().unwrap());
        for slot in &slots[..2] {
            guests.move_to(slot, Arc::clone(&own));
            // Again, as after a second request.
            guests.move_to(slot, Arc::clone(&own));
        }
        assert_eq!((own.connections.get(), proxy.connections.get()), (3, 1));
        assert_eq!(number(guests.take_first()), Some(1), "address 1 has three guests now");
        drop(slots);
        drop(guests);
        assert_eq!((own.connections.get(), proxy.connections.get()), (0, 0));
    }

    #[test]
    fn a_guest_that_has_published_goes_after_the_silent_ones() {
        let (mut host, mut guests) = (Host::new(), Guests::default());
        let slots: Vec<_> = [1, 1, 1, 2].map(|address| host.connection(address)).into();
        slots.iter().for_each(|slot| guests.add(slot));
        assert_eq!(number(guests.has_published(&slots[0], 2)), None);
        assert_eq!(number(guests.has_published(&slots[1], 2)), None);
        assert_eq!(number(guests.has_published(&slots[1], 2)), None, "it is publishing already");
        assert_eq!(number(guests.has_published(&slots[3], 2)), Some(1), "there is no room for a third");
        let rest: Vec<_> = std::iter::from_fn(|| number(guests.take_first())).collect();
        assert_eq!((rest, guests.len()), (vec![3, 2, 4], 0));
    }

    #[test]
    fn a_publishing_guest_that_waits_for_an_answer_goes_after_the_idle_ones() {
        let (mut host, mut guests) = (Host::new(), Guests::default());
        let slots: Vec<_> = [1, 1, 1, 1].map(|address| host.connection(address)).into();
        for slot in &slots {
            guests.add(slot);
            guests.has_published(slot, 4);
            slot.set_idle(slot.id != 4);
        }
        slots[0].expect_answer();
        let all: Vec<_> = std::iter::from_fn(|| number(guests.take_first())).collect();
        assert_eq!(all, [2, 3, 1, 4]);
    }
}
