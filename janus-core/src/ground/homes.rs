//! The home arbiters: the threads on which actors live, and how busy each thread is.
//!
//! A connection stays on the home that has accepted the connection, and the actor of a topic stays on one home, too.
//! Topics take turns among the homes in the order of their numbers, so that the homes have equally many topics.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::load::Load;
use crate::config::MAX_HOMES;
use crate::supervision::Place;

/// The number of a home arbiter among the homes of the instance, from 0 on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct HomeId(u8);

impl HomeId {
    /// The home of an instance that has only one, and of tasks of which an instance has only one.
    pub(crate) const FIRST: Self = Self(0);

    /// The numbers of all homes that an instance may have.
    pub(crate) fn all() -> impl Iterator<Item = Self> {
        (0..).map(Self)
    }

    pub(crate) fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// For people, who count from 1.
impl fmt::Display for HomeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (self.index() + 1).fmt(f)
    }
}

/// A home arbiter.
#[derive(Debug)]
pub(crate) struct Home {
    pub(crate) id: HomeId,
    pub(crate) place: Place,
    pub(crate) load: Load,
}

impl Home {
    /// Whether the home waits for something to do, so that to tell the home anything would wake its thread.
    pub(crate) fn has_nothing_to_do(&self) -> bool {
        self.place.is_paused()
    }

    /// Whether the home has had too much work since its last pause.
    pub(crate) fn is_behind(&self) -> bool {
        self.load.is_behind(self.place.pauses())
    }
}

/// The home arbiters of an instance; at least one.
#[derive(Debug)]
pub(crate) struct Homes {
    homes: Box<[Home]>,
    /// The home of the next connection from elsewhere.
    next: AtomicUsize,
}

impl Homes {
    /// # Panics
    ///
    /// Without a place.
    pub(crate) fn new(places: Vec<Place>) -> Self {
        assert!((1..=MAX_HOMES).contains(&places.len()), "an instance has 1 to {MAX_HOMES} homes");
        let home = |(number, place): (u8, Place)| Home { id: HomeId(number), place, load: Load::default() };
        Self { homes: (0..).zip(places).map(home).collect(), next: AtomicUsize::new(0) }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Home> {
        self.homes.iter()
    }

    /// All homes but this one, beginning with the next one.
    pub(crate) fn others(&self, home: HomeId) -> impl Iterator<Item = &Home> {
        let (before, rest) = self.homes.split_at(home.index());
        rest[1..].iter().chain(before)
    }

    pub(crate) fn len(&self) -> usize {
        self.homes.len()
    }

    pub(crate) fn are_several(&self) -> bool {
        self.len() > 1
    }

    pub(crate) fn get(&self, id: HomeId) -> &Home {
        &self.homes[id.index()]
    }

    /// The home of the parts that an instance has once.
    pub(crate) fn first(&self) -> &Place {
        &self.homes[0].place
    }

    /// The home of a topic.
    pub(crate) fn of_topic(&self, number: u64) -> HomeId {
        self.homes[(number % self.len() as u64) as usize].id
    }

    /// A home for a connection that no home has accepted: each home in its turn.
    pub(crate) fn next(&self) -> &Home {
        &self.homes[self.next.fetch_add(1, Ordering::Relaxed) % self.len()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn topics_and_connections_are_spread_evenly() {
        tokio::task::LocalSet::new()
            .run_until(async {
                let homes = Homes::new(vec![Place::here(), Place::here(), Place::here()]);
                let topics: Vec<_> = (1..=6).map(|number| homes.of_topic(number).index()).collect();
                assert_eq!(topics, [1, 2, 0, 1, 2, 0]);
                let connections: Vec<_> = (0..6).map(|_| homes.next().id.index()).collect();
                assert_eq!(connections, [0, 1, 2, 0, 1, 2]);
                let others =
                    |of: usize| homes.others(homes.homes[of].id).map(|home| home.id.index()).collect::<Vec<_>>();
                assert_eq!([0, 1, 2].map(others), [[1, 2], [2, 0], [0, 1]]);
            })
            .await;
    }
}
