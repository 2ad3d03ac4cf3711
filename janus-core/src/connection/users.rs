//! The connections of each user, which `max_connections_per_user` limits.
//!
//! The name of a user is the hooks' answer about a client, so a connection is entered once its client is known, and
//! leaves when it begins to close, however its Transport ends. Each connection is listed once at most, so
//! `max_connections` bounds the table. Without the limit, the table stays empty.
//!
//! A connection that takes over the session of another connection takes the other's place, in one step: no connection of
//! the user on another home can take the place in between.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::config::UserLimit;
use crate::delivery::Slot;

/// See the module's documentation.
#[derive(Debug, Default)]
pub(crate) struct Users {
    /// Invariant: no user is without a connection, and the connections of a user are in the order of their numbers.
    table: Mutex<HashMap<Box<str>, Vec<Arc<Slot>>>>,
}

/// The user has as many connections as allowed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Full;

impl Users {
    /// Enters a connection of a user who may have `most`, in the place of another connection if that one is listed.
    /// Returns the connection that has to go instead, if any; it is not listed any more, and the caller must end it.
    pub(crate) fn enter(
        &self,
        user: &str,
        slot: &Arc<Slot>,
        in_place_of: Option<u64>,
        most: usize,
        when_full: UserLimit,
    ) -> Result<Option<Arc<Slot>>, Full> {
        let mut table = self.table.lock();
        let Some(connections) = table.get_mut(user) else {
            table.insert(user.into(), vec![Arc::clone(slot)]);
            return Ok(None);
        };
        let other = in_place_of.and_then(|id| connections.binary_search_by_key(&id, |slot| slot.id).ok());
        let other = other.map(|place| connections.remove(place));
        let is_full = connections.len() >= most;
        if is_full && when_full == UserLimit::Refuse {
            return Err(Full);
        }
        let oldest = is_full.then(|| connections.remove(0));
        let place = connections.partition_point(|other| other.id < slot.id);
        connections.insert(place, Arc::clone(slot));
        // Without the lock: this may be the last reference to a socket.
        drop(table);
        drop(other);
        Ok(oldest)
    }

    /// Takes a connection off the list, if listed.
    pub(crate) fn leave(&self, user: &str, id: u64) {
        let mut table = self.table.lock();
        let Some(connections) = table.get_mut(user) else { return };
        let Ok(place) = connections.binary_search_by_key(&id, |slot| slot.id) else { return };
        let slot = connections.remove(place);
        if connections.is_empty() {
            table.remove(user);
            if table.capacity() > 1_024 && table.len() < table.capacity() / 8 {
                let keep = table.len() * 2;
                table.shrink_to(keep);
            }
        }
        // Without the lock: this may be the last reference to a socket.
        drop(table);
        drop(slot);
    }

    #[cfg(test)]
    pub(crate) fn count(&self, user: &str) -> usize {
        self.table.lock().get(user).map_or(0, Vec::len)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::delivery::Terms;

    fn slot(id: u64) -> Arc<Slot> {
        Arc::new(Slot::local(id, &Terms::in_tests(1, 1)))
    }

    #[test]
    fn beyond_the_limit_a_connection_is_refused_or_the_oldest_goes() {
        let users = Users::default();
        assert_eq!(users.enter("alice", &slot(7), None, 2, UserLimit::Refuse).unwrap().map(|slot| slot.id), None);
        assert_eq!(users.enter("alice", &slot(5), None, 2, UserLimit::Refuse).unwrap().map(|slot| slot.id), None);
        assert_eq!(users.enter("alice", &slot(9), None, 2, UserLimit::Refuse).unwrap_err(), Full);
        assert_eq!(users.enter("bob", &slot(10), None, 2, UserLimit::Refuse).unwrap().map(|slot| slot.id), None);
        // The oldest connection, although another was known earlier.
        let goes = users.enter("alice", &slot(9), None, 2, UserLimit::CloseOldest).unwrap();
        assert_eq!((goes.map(|slot| slot.id), users.count("alice")), (Some(5), 2));
        users.leave("alice", 5);
        assert_eq!(users.count("alice"), 2, "it has gone already");
        users.leave("alice", 9);
        users.leave("alice", 7);
        users.leave("bob", 10);
        assert!(users.table.lock().is_empty());
    }

    #[test]
    fn a_connection_with_the_session_of_another_takes_the_place_of_that_one() {
        let users = Users::default();
        for id in [5, 7] {
            users.enter("alice", &slot(id), None, 2, UserLimit::Refuse).unwrap();
        }
        let entered = |id, other| users.enter("alice", &slot(id), Some(other), 2, UserLimit::Refuse).map(|_| ());
        assert_eq!((entered(8, 5), users.count("alice")), (Ok(()), 2));
        assert_eq!(entered(9, 5), Err(Full), "it has gone already");
    }

    proptest! {
        /// Against a plain model, with connections that come, go, and go again.
        #[test]
        fn the_connections_of_a_user_are_the_ones_that_came_and_have_not_gone(
            most in 1_usize..4,
            closes in any::<bool>(),
            steps in prop::collection::vec((0_u8..3, 0_usize..4, 0_usize..40), 1..200),
        ) {
            let when_full = if closes { UserLimit::CloseOldest } else { UserLimit::Refuse };
            let users = Users::default();
            let mut model: BTreeMap<String, Vec<u64>> = BTreeMap::new();
            for (number, (user, what, which)) in steps.into_iter().enumerate() {
                let (id, user) = (number as u64 + 1, user.to_string());
                let listed = model.entry(user.clone()).or_default();
                if what > 0 {
                    let entered = users.enter(&user, &slot(id), None, most, when_full);
                    if listed.len() < most || closes {
                        let goes = (listed.len() >= most).then(|| listed.remove(0));
                        listed.push(id);
                        prop_assert_eq!(entered.map(|slot| slot.map(|slot| slot.id)), Ok(goes));
                    } else {
                        prop_assert_eq!(entered.map(|_| ()), Err(Full));
                    }
                } else {
                    // A connection of the user, of another user, one that has gone already, or none.
                    let id = listed.get(which).copied().unwrap_or(which as u64);
                    users.leave(&user, id);
                    listed.retain(|other| *other != id);
                }
                prop_assert!(users.count(&user) <= most);
                for (user, listed) in &model {
                    prop_assert_eq!(users.count(user), listed.len());
                }
            }
            let left: Vec<_> = model.into_iter().collect();
            for (user, listed) in left {
                listed.iter().for_each(|id| users.leave(&user, *id));
            }
            prop_assert!(users.table.lock().is_empty());
        }
    }
}
