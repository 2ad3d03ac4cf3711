//! Connections of the same kind by network address, and the order in which they make room: the oldest connection of the
//! address with most connections goes first. So an address that floods the server crowds out its own connections.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::accounts::Address;

/// Members looked at for one that goes first: the caller may hold a lock.
const LOOKED_AT: usize = 64;

/// Members by address and number. Numbers rise: the member with the least number is the oldest.
#[derive(Debug)]
pub(super) struct Crowd<T> {
    by_address: HashMap<Address, BTreeMap<u64, T>>,
    /// Every address in `by_address`, by number of members and oldest member; the last address has most.
    order: BTreeSet<(usize, Reverse<u64>, Address)>,
    len: usize,
}

impl<T> Default for Crowd<T> {
    fn default() -> Self {
        Self { by_address: HashMap::new(), order: BTreeSet::new(), len: 0 }
    }
}

impl<T> Crowd<T> {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn add(&mut self, address: Address, number: u64, member: T) {
        let mut members = self.take(address).unwrap_or_default();
        members.insert(number, member);
        self.len += 1;
        self.put(address, members);
    }

    pub(super) fn remove(&mut self, address: Address, number: u64) -> Option<T> {
        let mut members = self.take(address)?;
        let removed = members.remove(&number);
        self.len -= usize::from(removed.is_some());
        self.put(address, members);
        removed
    }

    /// Takes out the first member to go, unless `may_go` says no.
    pub(super) fn take_first_if(&mut self, may_go: impl FnOnce(&T) -> bool) -> Option<T> {
        let (_, _, address) = *self.order.last()?;
        let (&number, first) = self.by_address.get(&address)?.first_key_value()?;
        if may_go(first) { self.remove(address, number) } else { None }
    }

    /// Takes out the first member to go, or a better one: the first of the [`LOOKED_AT`] oldest of the same address about
    /// which `goes_first` says yes.
    pub(super) fn take_best(&mut self, goes_first: impl Fn(&T) -> bool) -> Option<T> {
        let (_, _, address) = *self.order.last()?;
        let members = self.by_address.get(&address)?;
        let best = members.iter().take(LOOKED_AT).find(|(_, member)| goes_first(member));
        let (&number, _) = best.or_else(|| members.first_key_value())?;
        self.remove(address, number)
    }

    /// Takes out the members of an address. The caller puts the changed members back.
    fn take(&mut self, address: Address) -> Option<BTreeMap<u64, T>> {
        let members = self.by_address.remove(&address)?;
        if let Some(rank) = rank(address, &members) {
            self.order.remove(&rank);
        }
        Some(members)
    }

    fn put(&mut self, address: Address, members: BTreeMap<u64, T>) {
        if let Some(rank) = rank(address, &members) {
            self.order.insert(rank);
            self.by_address.insert(address, members);
        } else if self.by_address.is_empty() {
            // The memory of a crowd is not kept until the next crowd.
            self.by_address = HashMap::new();
        }
    }
}

/// The rank of an address in [`Crowd::order`]; `None` without a member.
fn rank<T>(address: Address, members: &BTreeMap<u64, T>) -> Option<(usize, Reverse<u64>, Address)> {
    let (oldest, _) = members.first_key_value()?;
    Some((members.len(), Reverse(*oldest), address))
}
