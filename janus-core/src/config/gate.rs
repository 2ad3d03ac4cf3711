//! A limit of a setting on what may happen at once, which a reload can change.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Places for what happens at once. A lower limit takes no place away: further places are given once enough have come
/// back. Clones share the places.
#[derive(Clone, Debug)]
pub struct Gate(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    places: Arc<Semaphore>,
    limit: Mutex<usize>,
    /// Places that are to be given up when they come back.
    surplus: AtomicUsize,
}

/// A place; comes back with the drop.
#[derive(Debug)]
pub struct Place {
    permit: Option<OwnedSemaphorePermit>,
    gate: Gate,
}

impl Gate {
    /// A gate with this many places.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        let limit = limit.min(Semaphore::MAX_PERMITS);
        let places = Arc::new(Semaphore::new(limit));
        Self(Arc::new(Inner { places, limit: Mutex::new(limit), surplus: AtomicUsize::new(0) }))
    }

    /// Sets another number of places.
    pub fn set_limit(&self, limit: usize) {
        let Inner { places, limit: present, surplus } = &*self.0;
        let mut present = present.lock();
        let limit = limit.min(Semaphore::MAX_PERMITS);
        if limit >= *present {
            let more = limit - *present;
            let spared = take(surplus, more);
            places.add_permits(more - spared);
        } else {
            let fewer = *present - limit;
            let given_up = places.forget_permits(fewer);
            surplus.fetch_add(fewer - given_up, Ordering::AcqRel);
        }
        *present = limit;
    }

    /// The number of places, taken or not.
    #[must_use]
    pub fn limit(&self) -> usize {
        *self.0.limit.lock()
    }

    /// A place, if there is one now.
    #[must_use]
    pub fn try_enter(&self) -> Option<Place> {
        let permit = Arc::clone(&self.0.places).try_acquire_owned().ok()?;
        Some(Place { permit: Some(permit), gate: self.clone() })
    }

    /// Waits for a place, first come, first served. Cancel safe.
    pub async fn enter(&self) -> Place {
        let permit = Arc::clone(&self.0.places).acquire_owned().await;
        Place { permit: permit.ok(), gate: self.clone() }
    }

    /// Waits until all places have come back. Cancel safe.
    pub async fn all_back(&self) {
        let all = u32::try_from(self.limit()).unwrap_or(u32::MAX);
        let _ = self.0.places.acquire_many(all).await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if take(&self.gate.0.surplus, 1) == 1
            && let Some(permit) = self.permit.take()
        {
            permit.forget();
        }
    }
}

/// Takes up to `most` from the number, and returns how many.
fn take(number: &AtomicUsize, most: usize) -> usize {
    let less = |number: usize| (number > 0).then(|| number.saturating_sub(most));
    number.fetch_update(Ordering::AcqRel, Ordering::Acquire, less).map_or(0, |before| before.min(most))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entered(gate: &Gate) -> Vec<Place> {
        std::iter::from_fn(|| gate.try_enter()).collect()
    }

    #[test]
    fn a_lower_limit_takes_no_place_away_and_gives_none_until_enough_have_come_back() {
        let gate = Gate::new(3);
        let mut places = entered(&gate);
        assert_eq!(places.len(), 3);
        gate.set_limit(1);
        places.pop();
        places.pop();
        assert!(gate.try_enter().is_none(), "the last place is still taken");
        places.pop();
        assert_eq!(entered(&gate).len(), 1);
    }

    #[test]
    fn a_higher_limit_gives_places_at_once_even_after_a_lower_one() {
        let gate = Gate::new(3);
        let places = entered(&gate);
        gate.set_limit(1);
        gate.set_limit(5);
        assert_eq!(entered(&gate).len(), 2);
        drop(places);
        assert_eq!((entered(&gate).len(), gate.limit()), (5, 5));
    }
}
