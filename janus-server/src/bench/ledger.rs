//! The ledger of a client: the messages received in order, late, twice, or not at all.

/// A client's account. The messages of a topic are numbered from 0 without gaps, so the missing numbers are known
/// exactly.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    /// The highest number so far, plus 1.
    next: u32,
    /// Numbers below `next` that have not arrived; empty unless something went wrong.
    missing: Vec<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Arrival {
    InOrder,
    /// For the first time, but after a message with a higher number.
    Late,
    /// Not for the first time.
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

    /// The numbers below `total` that have not arrived.
    pub(super) fn not_arrived(&self, total: u32) -> impl Iterator<Item = u32> {
        self.missing.iter().copied().filter(move |&number| number < total).chain(self.next..total)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lost_late_and_repeated_messages_are_distinguished() {
        let mut ledger = Ledger::default();
        let arrivals: Vec<Arrival> = [0, 1, 4, 2, 4, 2, 5].into_iter().map(|number| ledger.arrive(number)).collect();
        use Arrival::{Again, InOrder, Late};
        assert_eq!(arrivals, [InOrder, InOrder, InOrder, Late, Again, Again, InOrder]);
        assert_eq!(ledger.not_arrived(8).collect::<Vec<_>>(), [3, 6, 7]);
        assert_eq!(ledger.not_arrived(3).count(), 0);
    }
}
