//! The places for requests that are carried out at once, whose number a reload can change.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Places {
    free: Arc<Semaphore>,
    limit: AtomicUsize,
    /// Places beyond a lower limit, to be given up once they come back.
    surplus: Mutex<usize>,
}

impl Places {
    pub(super) fn new(limit: usize) -> Self {
        Self { free: Arc::new(Semaphore::new(limit)), limit: AtomicUsize::new(limit), surplus: Mutex::new(0) }
    }

    /// Takes no place away: further places are given once enough have come back.
    pub(super) fn set_limit(&self, limit: usize) {
        let mut surplus = self.surplus.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.limit.swap(limit, Ordering::Relaxed);
        // At most one of the two is not zero.
        let (more, fewer) = (limit.saturating_sub(before), before.saturating_sub(limit));
        let spared = more.min(*surplus);
        *surplus = *surplus - spared + fewer;
        self.free.add_permits(more - spared);
        *surplus -= self.free.forget_permits(*surplus);
    }

    /// A place, if there is one.
    pub(super) fn take(&self) -> Option<OwnedSemaphorePermit> {
        {
            let mut surplus = self.surplus.lock().unwrap_or_else(PoisonError::into_inner);
            if *surplus > 0 {
                *surplus -= self.free.forget_permits(*surplus);
            }
        }
        Arc::clone(&self.free).try_acquire_owned().ok()
    }

    /// Whether the place is of these, and not of others.
    pub(super) fn has(&self, place: &OwnedSemaphorePermit) -> bool {
        Arc::ptr_eq(place.semaphore(), &self.free)
    }

    /// Waits until all places have come back.
    pub(super) async fn all_back(&self) {
        let all = u32::try_from(self.limit.load(Ordering::Relaxed)).unwrap_or(u32::MAX);
        let _ = self.free.acquire_many(all).await;
    }

    #[cfg(test)]
    pub(super) fn free(&self) -> usize {
        self.free.available_permits()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take_all(places: &Places) -> Vec<OwnedSemaphorePermit> {
        std::iter::from_fn(|| places.take()).collect()
    }

    #[test]
    fn a_lower_limit_takes_no_place_away_and_gives_none_until_enough_have_come_back() {
        let places = Places::new(3);
        let mut taken = take_all(&places);
        places.set_limit(1);
        assert_eq!(taken.len(), 3);
        taken.truncate(1);
        assert!(places.take().is_none(), "the last place is still taken");
        taken.clear();
        assert_eq!(take_all(&places).len(), 1);
    }

    #[test]
    fn a_higher_limit_gives_places_at_once_even_after_a_lower_one() {
        let places = Places::new(3);
        let taken = take_all(&places);
        places.set_limit(1);
        places.set_limit(5);
        assert_eq!(take_all(&places).len(), 2);
        drop(taken);
        assert_eq!(take_all(&places).len(), 5);
    }
}
