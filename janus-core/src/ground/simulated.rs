//! Time and randomness of a simulation, for code that would otherwise ask the system for them.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// The part of another thread, played once in this many times.
type Others = (usize, Rc<dyn Fn()>);

thread_local! {
    /// When the simulation of this thread began.
    static BEGIN: Cell<Option<Instant>> = const { Cell::new(None) };
    /// The source of the decisions of the simulation of this thread.
    static CHANCE: RefCell<Option<Chance>> = const { RefCell::new(None) };
    /// The mistake that the code of this thread makes.
    static PLANTED: Cell<Option<Planted>> = const { Cell::new(None) };
    /// What another thread does when this thread is interrupted.
    static OTHERS: RefCell<Option<Others>> = const { RefCell::new(None) };
}

/// A mistake in the product, to show that a simulation finds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Planted {
    /// A position leads to a topic whatever its epoch.
    AnyEpochResumes,
    /// A record follows whatever its epoch, and whatever a loss mark comes after.
    AnyEpochFollows,
    /// A record behind a hole is taken for the next record.
    HoleTaken,
}

/// Has the code of this thread make a mistake, until the end of the simulation.
pub(crate) fn plant(planted: Planted) {
    PLANTED.set(Some(planted));
}

pub(crate) fn is_planted(planted: Planted) -> bool {
    PLANTED.get() == Some(planted)
}

/// Begins a simulation on this thread, in place of an earlier one.
pub(crate) fn begin(chance: &Chance) {
    BEGIN.set(Some(Instant::now()));
    CHANCE.set(Some(chance.clone()));
}

/// Ends the simulation of this thread.
pub(crate) fn end() {
    BEGIN.set(None);
    CHANCE.set(None);
    PLANTED.set(None);
    OTHERS.set(None);
}

/// Sets what happens at one in so many [interruptions](interrupt).
pub(crate) fn on_interruption(one_in: usize, others: impl Fn() + 'static) {
    OTHERS.set(Some((one_in, Rc::new(others))));
}

/// Code that another thread could overtake here calls this: sometimes, the part of another thread is played now.
pub(crate) fn interrupt() {
    let one_in = OTHERS.with_borrow(|others| others.as_ref().map(|(one_in, _)| *one_in));
    let is_interrupted = one_in.zip(chance()).is_some_and(|(one_in, chance)| chance.one_in(one_in));
    if is_interrupted && let Some((one_in, others)) = OTHERS.take() {
        // The other thread is not interrupted itself.
        others();
        OTHERS.set(Some((one_in, others)));
    }
}

pub(crate) fn is_running() -> bool {
    BEGIN.get().is_some()
}

/// The source of all decisions, if this thread runs a simulation.
pub(crate) fn chance() -> Option<Chance> {
    CHANCE.with_borrow(Clone::clone)
}

/// Virtual time, if this thread runs a simulation: the length of a frame must not depend on the clock of the machine.
pub(crate) fn since_unix_epoch() -> Option<Duration> {
    Some(Duration::from_secs(1_700_000_000) + BEGIN.get()?.elapsed())
}

/// A seed in place of the system's randomness, if this thread runs a simulation.
pub(crate) fn seed() -> Option<u64> {
    Some(BEGIN.get()?.elapsed().as_nanos() as u64)
}

/// The source of all decisions. Clones share a single sequence, which is splitmix64.
#[derive(Clone, Debug)]
pub(crate) struct Chance(Arc<AtomicU64>);

impl Chance {
    pub(crate) fn new(seed: u64) -> Self {
        Self(Arc::new(AtomicU64::new(seed)))
    }

    fn next(&self) -> u64 {
        let mut z = self.0.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed).wrapping_add(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `limit`.
    pub(crate) fn below(&self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }

    pub(crate) fn one_in(&self, many: usize) -> bool {
        self.below(many) == 0
    }

    pub(crate) fn pick<T: Copy>(&self, among: &[T]) -> T {
        among[self.below(among.len())]
    }

    /// Lets other tasks run, a few times or not at all.
    pub(crate) async fn pause(&self) {
        let turns = if self.one_in(40) { 40 } else { self.below(8).saturating_sub(3) };
        for _ in 0..turns {
            tokio::task::yield_now().await;
        }
    }
}
