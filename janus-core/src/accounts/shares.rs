//! The holders of a limited resource shared by all clients.
//!
//! When the resource runs short, the address with the largest holding gives back first, beginning with the oldest item;
//! an address beyond its share makes room for itself. So a stranger never crowds out other clients. Finding the largest
//! holder and its oldest item costs the logarithm of their number, because the search happens under the lock of a
//! table, and most often in a rush.

use std::collections::{BTreeMap, BTreeSet};

use super::Address;

/// The items allowed to an address while there is no room for others: this percentage of the limit.
pub(crate) fn share(limit: usize, percent: usize) -> usize {
    (limit.saturating_mul(percent) / 100).max(1)
}

/// The holdings of each address, and the items to give back, in the order of the keys `K`.
#[derive(Debug)]
pub(crate) struct Shares<K, T> {
    holders: BTreeMap<Address, Holder<K, T>>,
    /// The addresses with something to give back, by the size of their holdings.
    givers: BTreeSet<(usize, Address)>,
}

#[derive(Debug)]
struct Holder<K, T> {
    held: usize,
    spare: BTreeMap<K, T>,
}

impl<K, T> Default for Shares<K, T> {
    fn default() -> Self {
        Self { holders: BTreeMap::new(), givers: BTreeSet::new() }
    }
}

impl<K: Ord + Copy, T> Shares<K, T> {
    /// Adds an item to the holding of an address.
    pub(crate) fn hold(&mut self, address: Address) {
        self.change(address, |holder| holder.held += 1);
    }

    /// Removes an item from the holding of an address.
    pub(crate) fn release(&mut self, address: Address) {
        self.change(address, |holder| holder.held = holder.held.saturating_sub(1));
    }

    /// Offers an item to be given back by its address, which must hold the item already.
    pub(crate) fn offer(&mut self, address: Address, key: K, item: T) {
        self.change(address, |holder| holder.spare.insert(key, item));
    }

    /// Withdraws an item: the address cannot give it back, or not any more.
    pub(crate) fn withdraw(&mut self, address: Address, key: K) -> Option<T> {
        self.change(address, |holder| holder.spare.remove(&key))
    }

    /// The number of items that an address holds.
    pub(crate) fn held(&self, address: Address) -> usize {
        self.holders.get(&address).map_or(0, |holder| holder.held)
    }

    /// The first item for an address to give back.
    pub(crate) fn first(&self, address: Address) -> Option<K> {
        self.holders.get(&address)?.spare.keys().next().copied()
    }

    /// The addresses with something to give back, with the size of their holdings, the largest first.
    pub(crate) fn givers(&self) -> impl Iterator<Item = (usize, Address)> {
        self.givers.iter().rev().copied()
    }

    /// The address with the largest holding, among the addresses with something to give back.
    pub(crate) fn largest(&self) -> Option<Address> {
        self.givers().next().map(|(_, address)| address)
    }

    fn change<R>(&mut self, address: Address, change: impl FnOnce(&mut Holder<K, T>) -> R) -> R {
        let holder = self.holders.entry(address).or_insert_with(|| Holder { held: 0, spare: BTreeMap::new() });
        let place = |holder: &Holder<K, T>| (!holder.spare.is_empty()).then_some((holder.held, address));
        let before = place(holder);
        let result = change(holder);
        let after = place(holder);
        let is_over = holder.held == 0 && holder.spare.is_empty();
        if before != after {
            if let Some(place) = before {
                self.givers.remove(&place);
            }
            self.givers.extend(after);
        }
        if is_over {
            self.holders.remove(&address);
        }
        result
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    fn address(last: u8) -> Address {
        Address::Network(IpAddr::from([192, 0, 2, last]))
    }

    fn shares(held: &[(u8, u64)]) -> Shares<u64, ()> {
        let mut shares = Shares::default();
        for (last, key) in held {
            shares.hold(address(*last));
            shares.offer(address(*last), *key, ());
        }
        shares
    }

    #[test]
    fn the_largest_holder_gives_its_first_item_first() {
        let mut shares = shares(&[(1, 1), (2, 4), (2, 3), (2, 2), (1, 5)]);
        assert_eq!(shares.givers().collect::<Vec<_>>(), [(3, address(2)), (2, address(1))]);
        assert_eq!(shares.first(address(2)), Some(2));
        for key in [2, 3] {
            assert!(shares.withdraw(address(2), key).is_some());
            shares.release(address(2));
        }
        assert_eq!(shares.givers().next(), Some((2, address(1))));
    }

    #[test]
    fn an_address_with_nothing_to_give_back_is_passed_over() {
        let mut shares = shares(&[(1, 1)]);
        (0..10).for_each(|_| shares.hold(address(2)));
        assert_eq!(shares.givers().collect::<Vec<_>>(), [(1, address(1))]);
        assert_eq!((shares.held(address(2)), shares.first(address(2))), (10, None));
    }

    #[test]
    fn an_address_that_holds_nothing_is_forgotten() {
        let mut shares = shares(&[(1, 1)]);
        shares.withdraw(address(1), 1);
        shares.release(address(1));
        assert!(shares.holders.is_empty() && shares.givers.is_empty());
        assert!(shares.withdraw(address(3), 1).is_none() && shares.holders.is_empty());
    }

    #[test]
    fn a_share_is_a_part_of_the_limit_and_never_nothing() {
        assert_eq!((share(20_000, 10), share(5, 10), share(0, 100), share(7, 100)), (2_000, 1, 1, 7));
    }
}
