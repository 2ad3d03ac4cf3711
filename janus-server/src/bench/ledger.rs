//! What one client has received of its topic: which messages came in order, late, twice, or not at all.

/// A client's account. A topic's messages are numbered densely from 0, so what is missing is known exactly.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    /// One more than the highest number that has come.
    next: u32,
    /// Numbers below `next` that have not come; empty unless something went wrong.
    missing: Vec<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Arrival {
    InOrder,
    /// For the first time, but after a later one.
    Late,
    Again,
}

impl Ledger {
    pub(super) fn arrive(&mut self, number: u32) -> Arrival {
        if number >= self.next {
            self.missing.extend(self.next..number);
            self.next = number + 1;
            return Arrival::InOrder;
        }
        match self.missing.iter().position(|&missing| missing == number) {
            Some(index) => {
                self.missing.swap_remove(index);
                Arrival::Late
            }
            None => Arrival::Again,
        }
    }

    /// The numbers below `total` that have not come.
    pub(super) fn not_arrived(&self, total: u32) -> impl Iterator<Item = u32> {
        self.missing.iter().copied().filter(move |&number| number < total).chain(self.next..total)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lost_late_and_repeated_messages_are_told_apart() {
        let mut ledger = Ledger::default();
        let arrivals: Vec<Arrival> = [0, 1, 4, 2, 4, 2, 5].into_iter().map(|number| ledger.arrive(number)).collect();
        use Arrival::{Again, InOrder, Late};
        assert_eq!(arrivals, [InOrder, InOrder, InOrder, Late, Again, Again, InOrder]);
        assert_eq!(ledger.not_arrived(8).collect::<Vec<_>>(), [3, 6, 7]);
        assert_eq!(ledger.not_arrived(3).count(), 0);
    }
}
