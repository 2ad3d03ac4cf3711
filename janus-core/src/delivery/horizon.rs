//! The progress of delivery over all topics, as one number.
//!
//! A message is encoded once for all subscribers, so the bytes cannot hold each client's positions in other topics. All
//! clients can share this instead: passes are numbered, and each pass knows its *horizon*, the number up to which all
//! passes had ended when the pass began. On every connection, the messages of passes up to the horizon stand before the
//! messages of the pass. A client with one of these messages continues after the horizon in all other topics, without a
//! hole. Messages of overlapping passes may come twice.
//!
//! A topic has at most one pass under way, so the set of numbers is at most as large as the set of topics.

use std::collections::BTreeSet;
use std::sync::Arc;

use parking_lot::Mutex;

/// Gives out the numbers of passes; see the module's documentation.
#[derive(Debug, Default)]
pub(crate) struct PassNumbers(Mutex<Numbers>);

#[derive(Debug)]
struct Numbers {
    /// The last number given out. 0 is the number of no pass, and the horizon of no pass.
    last: u64,
    /// The last number before the first of this instance: earlier horizons are of other instances.
    start: u64,
    under_way: BTreeSet<u64>,
}

impl Default for Numbers {
    fn default() -> Self {
        Self { last: 1, start: 0, under_way: BTreeSet::new() }
    }
}

impl Numbers {
    fn horizon(&self) -> u64 {
        self.under_way.first().map_or(self.last, |first| first - 1)
    }
}

impl PassNumbers {
    /// Continues after the last number of an earlier instance, whose clients come back with its horizons.
    pub(crate) fn continue_after(&self, last: u64) {
        let mut numbers = self.0.lock();
        numbers.last = numbers.last.max(last);
        if numbers.start > 0 {
            numbers.start = numbers.last;
        }
    }

    /// Begins after this number, which other nodes of a cluster have not chosen: their horizons mean nothing here.
    pub(crate) fn begin_apart(&self, start: u64) {
        let mut numbers = self.0.lock();
        (numbers.last, numbers.start) = (start, start);
    }

    /// Whether a horizon may be one of this instance.
    pub(crate) fn knows(&self, horizon: u64) -> bool {
        let numbers = self.0.lock();
        (numbers.start..=numbers.last).contains(&horizon)
    }

    /// Numbers a pass. The pass is under way until the returned guard is dropped.
    pub(crate) fn begin(self: &Arc<Self>) -> UnderWay {
        let mut numbers = self.0.lock();
        let horizon = numbers.horizon();
        numbers.last += 1;
        let number = numbers.last;
        numbers.under_way.insert(number);
        UnderWay { numbers: Arc::clone(self), number, horizon }
    }

    /// The number up to which all passes have ended.
    pub(crate) fn horizon(&self) -> u64 {
        self.0.lock().horizon()
    }

    /// The number of the last pass that has begun.
    pub(crate) fn last(&self) -> u64 {
        self.0.lock().last
    }
}

/// The guard of a pass under way.
#[derive(Debug)]
pub(crate) struct UnderWay {
    numbers: Arc<PassNumbers>,
    pub(crate) number: u64,
    pub(crate) horizon: u64,
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.numbers.0.lock().under_way.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn passes_that_follow_each_other_have_horizons_right_before_them() {
        let numbers = Arc::new(PassNumbers::default());
        for number in 2..5 {
            let pass = numbers.begin();
            assert_eq!((pass.number, pass.horizon, numbers.horizon()), (number, number - 1, number - 1));
            drop(pass);
            assert_eq!((numbers.horizon(), numbers.last()), (number, number));
        }
    }

    #[test]
    fn a_long_pass_keeps_the_horizon_before_it() {
        let numbers = Arc::new(PassNumbers::default());
        let long = numbers.begin();
        for _ in 0..5 {
            assert_eq!(numbers.begin().horizon, long.number - 1);
        }
        drop(long);
        assert_eq!(numbers.begin().horizon, 7);
    }

    #[test]
    fn numbers_after_those_of_an_earlier_instance_are_greater() {
        let numbers = Arc::new(PassNumbers::default());
        numbers.continue_after(7);
        assert_eq!((numbers.last(), numbers.horizon()), (7, 7));
        assert_eq!(numbers.begin().number, 8);
        numbers.continue_after(0);
        assert_eq!(numbers.last(), 8, "numbers never fall");
    }

    proptest! {
        #[test]
        fn no_pass_up_to_a_horizon_is_under_way(steps in prop::collection::vec(any::<Option<prop::sample::Index>>(), 0..100)) {
            let numbers = Arc::new(PassNumbers::default());
            let mut under_way: Vec<UnderWay> = Vec::new();
            for step in steps {
                match step {
                    Some(index) if !under_way.is_empty() => drop(under_way.swap_remove(index.index(under_way.len()))),
                    _ => {
                        let pass = numbers.begin();
                        prop_assert!(under_way.iter().all(|other| pass.horizon < other.number && other.number < pass.number));
                        under_way.push(pass);
                    }
                }
                let first = under_way.iter().map(|pass| pass.number).min();
                prop_assert_eq!(numbers.horizon(), first.map_or_else(|| numbers.last(), |first| first - 1));
            }
        }
    }
}
