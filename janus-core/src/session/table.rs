//! All sessions by token, and the order in which detached sessions end.
//!
//! The table outlives crashes of the ProxyMapper. Transports enter and detach their sessions directly.

use std::borrow::Borrow;
use std::collections::{BTreeMap, HashSet};
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use parking_lot::Mutex;

use super::{Brief, Joined, Session, SessionInfo, SessionToken, State, cursors_of};
use crate::accounts::shares::{Shares, share};
use crate::accounts::{Account, Address};
use crate::config::Config;
use crate::delivery::Slot;
use crate::ground::clock::Tick;

/// Sessions by token. There are as many attached sessions as connections. `max_detached_sessions` limits the detached
/// sessions: beyond the limit, the longest detached session ends, of the address with most sessions, or of the
/// newcomer's address if it would hold more than its share.
#[derive(Debug, Default)]
pub(crate) struct SessionTable(Mutex<Table>);

/// Invariant: `shares` holds the numbers in `detached`.
#[derive(Debug, Default)]
struct Table {
    sessions: Sessions,
    /// Detached sessions by number; numbers rise.
    detached: BTreeMap<u64, Detached>,
    shares: Shares<u64, ()>,
    last_number: u64,
}

/// Sessions by the token in each of them: a map with the token as its key would take four times as much memory for each
/// of tens of thousands of clients.
#[derive(Debug, Default)]
struct Sessions(HashSet<Listed>);

#[derive(Debug)]
struct Listed(Arc<Session>);

impl Borrow<SessionToken> for Listed {
    fn borrow(&self) -> &SessionToken {
        &self.0.token
    }
}

impl Hash for Listed {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.token.hash(state);
    }
}

impl PartialEq for Listed {
    fn eq(&self, other: &Self) -> bool {
        self.0.token == other.0.token
    }
}

impl Eq for Listed {}

impl Sessions {
    fn get(&self, token: &SessionToken) -> Option<&Arc<Session>> {
        self.0.get(token).map(|Listed(session)| session)
    }

    /// Lists a session, in place of the session of the same token.
    fn put(&mut self, session: Arc<Session>) {
        self.0.replace(Listed(session));
    }

    fn remove(&mut self, token: &SessionToken) {
        self.0.remove(token);
    }

    fn iter(&self) -> impl Iterator<Item = &Arc<Session>> {
        self.0.iter().map(|Listed(session)| session)
    }

    /// Gives back the memory of a crowd that has gone.
    fn shrink(&mut self) {
        if self.0.capacity() > 1024 && self.0.len() < self.0.capacity() / 8 {
            self.0.shrink_to(self.0.len() * 2);
        }
    }
}

/// A session without a connection.
#[derive(Debug)]
struct Detached {
    token: SessionToken,
    /// The tick of the session's end.
    expires: Tick,
    address: Address,
    account: Option<Arc<Account>>,
}

impl Drop for Detached {
    fn drop(&mut self) {
        if let Some(account) = &self.account {
            account.detached.remove(1);
        }
    }
}

/// How many sessions may be without a connection, and, once all places are taken, how many per cent of the places one
/// address may hold.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Places {
    pub(crate) max: usize,
    pub(crate) share: usize,
}

impl Places {
    pub(crate) fn of(config: &Config) -> Self {
        Self { max: config.max_detached_sessions, share: config.address_share }
    }
}

/// The work left after a session has been detached.
#[derive(Debug)]
pub(crate) struct Detachment {
    /// The subscriptions of the session, for the caller to end.
    pub(crate) joined: Vec<Joined>,
    /// How many sessions have ended to make room.
    pub(crate) ended: usize,
}

/// A session taken over by a new connection.
#[derive(Debug)]
pub(crate) struct Claimed {
    /// The new session in place of the old; its claim must be [completed](Session::complete_claim).
    pub(crate) session: Arc<Session>,
    /// The earlier connection, if still open, and its subscriptions; the caller must end both.
    pub(crate) older: Option<(Arc<Slot>, Vec<Joined>)>,
}

/// Why a connection does not get a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unclaimed {
    /// There is no such session, or the session is the connection's own or another user's.
    Unknown,
    /// A connection that was opened later has the session.
    Overtaken,
}

impl SessionTable {
    /// Lists a session of an open connection.
    pub(crate) fn enter(&self, session: Arc<Session>) {
        self.0.lock().sessions.put(session);
    }

    /// Gives the session of `token` to the connection of `by`, whose own session ends. Of two claimants, the connection
    /// opened later gets the session, in any order of the claims.
    pub(crate) fn claim(&self, token: &SessionToken, by: &Session, slot: &Arc<Slot>) -> Result<Claimed, Unclaimed> {
        let mut table = self.0.lock();
        let table = &mut *table;
        if *token == by.token {
            return Err(Unclaimed::Unknown);
        }
        let claimed = Arc::clone(table.sessions.get(token).ok_or(Unclaimed::Unknown)?);
        if !claimed.has_user_of(by) {
            return Err(Unclaimed::Unknown);
        }
        if claimed.is_kept_from(slot) {
            return Err(Unclaimed::Overtaken);
        }
        let mut detached = None;
        let (cursors, older) = match std::mem::replace(&mut *claimed.state.lock(), State::Over) {
            State::Attached { slot, joined, earlier } => {
                (cursors_of(&joined, earlier), Some((slot, joined.into_vec())))
            }
            State::Attaching { slot, cursors } => (cursors, Some((slot, Vec::new()))),
            State::Detached { number, cursors } => {
                detached = Some(number);
                (cursors, None)
            }
            State::Over => (Box::default(), None),
        };
        let state = Mutex::new(State::Attaching { slot: Arc::clone(slot), cursors });
        let (peer, identity) = (Brief::new(by.peer(), true), ArcSwapOption::new(by.identity.load_full()));
        let session = Arc::new(Session { token: *token, peer, identity, state });
        table.sessions.put(Arc::clone(&session));
        *by.state.lock() = State::Over;
        table.sessions.remove(&by.token);
        if let Some(number) = detached {
            table.forget(number);
        }
        Ok(Claimed { session, older })
    }

    /// The number of the connection that a [claim](Self::claim) of the session for the connection of `slot` would end.
    pub(crate) fn holder(&self, token: &SessionToken, user: &str, slot: &Slot) -> Option<u64> {
        let table = self.0.lock();
        let session = table.sessions.get(token).filter(|session| session.is_of(user))?;
        if session.is_kept_from(slot) {
            return None;
        }
        match &*session.state.lock() {
            State::Attached { slot, .. } | State::Attaching { slot, .. } => Some(slot.id),
            State::Detached { .. } | State::Over => None,
        }
    }

    /// Gives a claimed session the token of its connection's greeting; the old token becomes void.
    pub(crate) fn rename(&self, session: &Arc<Session>, token: SessionToken) -> Arc<Session> {
        let mut table = self.0.lock();
        let state = std::mem::replace(&mut *session.state.lock(), State::Over);
        let (peer, identity) = (Brief::new(session.peer(), false), ArcSwapOption::new(session.identity.load_full()));
        let renamed = Arc::new(Session { token, peer, identity, state: Mutex::new(state) });
        if table.sessions.get(&session.token).is_some_and(|listed| Arc::ptr_eq(listed, session)) {
            table.sessions.remove(&session.token);
            table.sessions.put(Arc::clone(&renamed));
        }
        renamed
    }

    /// Ends the attachment of a session, and keeps the session until the tick `expires`; a session without a
    /// subscription ends now.
    pub(crate) fn detach(&self, session: &Arc<Session>, expires: Tick, places: Places) -> Detachment {
        let mut table = self.0.lock();
        let table = &mut *table;
        let is_listed = table.sessions.get(&session.token).is_some_and(|listed| Arc::ptr_eq(listed, session));
        if !is_listed {
            return Detachment { joined: session.detach(0), ended: 0 };
        }
        table.last_number += 1;
        let account = session.account();
        let joined = session.detach(table.last_number);
        if !session.has_topics() {
            table.sessions.remove(&session.token);
            return Detachment { joined, ended: 0 };
        }
        let address = Address::of(session.peer());
        table.keep(Detached { token: session.token, expires, address, account });
        let mut ended = 0;
        while table.detached.len() > places.max && table.end_one(Some((address, share(places.max, places.share)))) {
            ended += 1;
        }
        Detachment { joined, ended }
    }

    /// Ends a detached session before its time.
    pub(crate) fn end(&self, session: &Arc<Session>) {
        let mut table = self.0.lock();
        let is_listed = table.sessions.get(&session.token).is_some_and(|listed| Arc::ptr_eq(listed, session));
        if is_listed {
            table.sessions.remove(&session.token);
            if let State::Detached { number, .. } = &*session.state.lock() {
                table.forget(*number);
            }
        }
    }

    /// Ends at most `max` detached sessions whose time is over; returns how many.
    pub(crate) fn expire(&self, tick: Tick, max: usize) -> usize {
        let mut table = self.0.lock();
        let table = &mut *table;
        let mut ended = 0;
        // Compared as a distance: a clock that wraps around ends nothing early.
        while ended < max
            && let Some((&number, oldest)) = table.detached.first_key_value()
            && tick.has_reached(oldest.expires)
        {
            table.end(number);
            ended += 1;
        }
        table.sessions.shrink();
        ended
    }

    /// Ends up to `count` detached sessions, each time the oldest of the address that holds most; returns how many.
    pub(crate) fn end_oldest(&self, count: usize) -> usize {
        let mut table = self.0.lock();
        (0..count).take_while(|_| table.end_one(None)).count()
    }

    pub(crate) fn locate(&self, token: &SessionToken) -> Option<SessionInfo> {
        self.0.lock().sessions.get(token).map(|session| session.info())
    }

    pub(crate) fn list(&self) -> Vec<SessionInfo> {
        self.0.lock().sessions.iter().map(|session| session.info()).collect()
    }

    /// The number of listed sessions, and of detached sessions among them.
    pub(crate) fn count(&self) -> (usize, usize) {
        let table = self.0.lock();
        (table.sessions.0.len(), table.detached.len())
    }
}

impl Table {
    /// Lists a detached session under the last number.
    fn keep(&mut self, detached: Detached) {
        if let Some(account) = &detached.account {
            account.detached.add(1);
        }
        self.shares.hold(detached.address);
        self.shares.offer(detached.address, self.last_number, ());
        self.detached.insert(self.last_number, detached);
    }

    /// Takes a session off the list of detached ones.
    fn forget(&mut self, number: u64) -> Option<Detached> {
        let detached = self.detached.remove(&number)?;
        self.shares.withdraw(detached.address, number);
        self.shares.release(detached.address);
        Some(detached)
    }

    /// Ends a detached session.
    fn end(&mut self, number: u64) {
        if let Some(detached) = self.forget(number) {
            self.sessions.remove(&detached.token);
        }
    }

    /// Ends the oldest detached session of the address with most sessions, or of the address in need of a place if it
    /// holds more than its share; false if there is none.
    fn end_one(&mut self, needs: Option<(Address, usize)>) -> bool {
        let own = needs.filter(|(address, share)| self.shares.held(*address) > *share).map(|(address, _)| address);
        let Some(address) = own.or_else(|| self.shares.largest()) else {
            return false;
        };
        let Some(oldest) = self.shares.first(address) else { return false };
        self.end(oldest);
        true
    }
}

#[cfg(test)]
mod tests {

    use super::*;
    use crate::config::SlowConsumer;
    use crate::delivery::{Subscription, Terms};
    use crate::session::Cursor;
    use crate::topic::TopicState;
    use crate::wire::{Peer, TopicName};

    const PLACES: Places = Places { max: 100, share: 10 };

    fn slot() -> Arc<Slot> {
        slot_number(1)
    }

    /// The slot of the connection that was opened as number `id`.
    fn slot_number(id: u64) -> Arc<Slot> {
        Arc::new(Slot::local(id, &Terms::in_tests(1, 1)))
    }

    /// A session with a connection and this many topics.
    fn session(topics: usize) -> Arc<Session> {
        session_of(Peer::Local, topics)
    }

    fn session_of(peer: Peer, topics: usize) -> Arc<Session> {
        let session = Session::new(peer, &slot());
        let topic = |number: usize| {
            let topic = TopicState::for_test(TopicName::new(&format!("topic {number}"), 255).unwrap());
            (Arc::new(topic), Arc::new(Subscription::local(slot(), SlowConsumer::Disconnect)))
        };
        assert!(session.complete_claim((0..topics).map(topic).collect()).is_empty());
        Arc::new(session)
    }

    #[test]
    fn a_detached_session_is_listed_until_its_time_is_over() {
        let table = SessionTable::default();
        let session = session(1);
        table.enter(Arc::clone(&session));
        assert_eq!(table.detach(&session, Tick::new(10), PLACES).joined.len(), 1);
        let info = table.locate(&session.token).unwrap();
        assert_eq!((info.connected, info.topics.len()), (false, 1));
        assert_eq!(table.expire(Tick::new(9), 100), 0);
        assert_eq!(table.expire(Tick::new(10), 100), 1);
        assert_eq!(table.locate(&session.token), None);
    }

    #[test]
    fn a_session_without_a_subscription_ends_with_its_connection() {
        let table = SessionTable::default();
        let session = session(0);
        table.enter(Arc::clone(&session));
        table.detach(&session, Tick::new(10), PLACES);
        assert_eq!(table.count(), (0, 0));
    }

    #[test]
    fn beyond_the_limit_the_oldest_detached_session_ends() {
        let table = SessionTable::default();
        let sessions = [session(1), session(1), session(1)];
        for session in &sessions {
            table.enter(Arc::clone(session));
            table.detach(session, Tick::new(10), Places { max: 2, ..PLACES });
        }
        assert_eq!(table.count(), (2, 2));
        assert_eq!(table.locate(&sessions[0].token), None);
        assert!(table.locate(&sessions[2].token).is_some());
        assert_eq!(table.end_oldest(1), 1);
        assert_eq!(table.locate(&sessions[1].token), None);
    }

    #[test]
    fn a_claimed_session_belongs_to_its_new_connection_and_does_not_expire() {
        let table = SessionTable::default();
        let (earlier, later) = (session(2), session(0));
        table.enter(Arc::clone(&earlier));
        table.enter(Arc::clone(&later));
        table.detach(&earlier, Tick::new(10), PLACES);
        let claimed = table.claim(&earlier.token, &later, &slot()).unwrap();
        assert!(claimed.older.is_none());
        assert_eq!(claimed.session.with_cursors(<[Cursor]>::len), 2);
        assert_eq!(table.count(), (1, 0), "the token of the new connection is no more");
        assert_eq!(table.expire(Tick::new(10), 100), 0);
        assert_eq!(table.claim(&later.token, &earlier, &slot()).unwrap_err(), Unclaimed::Unknown);
    }

    #[test]
    fn a_connection_that_ends_before_joining_leaves_the_session_as_it_was() {
        let table = SessionTable::default();
        let (earlier, later) = (session(2), session(0));
        table.enter(Arc::clone(&earlier));
        table.enter(Arc::clone(&later));
        table.detach(&earlier, Tick::new(10), PLACES);
        let claimed = table.claim(&earlier.token, &later, &slot()).unwrap();
        assert!(table.detach(&claimed.session, Tick::new(20), PLACES).joined.is_empty());
        assert_eq!(table.locate(&earlier.token).unwrap().topics.len(), 2);
        assert_eq!(table.expire(Tick::new(20), 100), 1);
    }

    #[test]
    fn of_two_claimants_the_newer_gets_the_session_and_learns_of_the_older() {
        let table = SessionTable::default();
        let (earlier, later) = (session(1), session(0));
        table.enter(Arc::clone(&earlier));
        table.enter(Arc::clone(&later));
        let claimed = table.claim(&earlier.token, &later, &slot()).unwrap();
        assert_eq!(claimed.older.unwrap().1.len(), 1);
        // The older connection ends later, and does not take the session along.
        assert!(table.detach(&earlier, Tick::new(10), PLACES).joined.is_empty());
        assert!(table.locate(&claimed.session.token).unwrap().connected);
    }

    fn peer(last: u8) -> Peer {
        Peer::Addr(([192, 0, 2, last], 1).into())
    }

    #[test]
    fn an_older_claimant_that_is_heard_last_does_not_get_the_session() {
        let table = SessionTable::default();
        let (first, second, third) = (session(1), session(0), session(0));
        for session in [&first, &second, &third] {
            table.enter(Arc::clone(session));
        }
        let newest = table.claim(&first.token, &third, &slot_number(3)).unwrap().session;
        let again = |id| table.claim(&first.token, &second, &slot_number(id));
        assert_eq!(again(2).unwrap_err(), Unclaimed::Overtaken, "while the topics are being joined");
        assert!(newest.complete_claim(Vec::new()).is_empty(), "it still has the session");
        assert_eq!(again(2).unwrap_err(), Unclaimed::Overtaken);
        assert!(again(4).is_ok());
    }

    #[test]
    fn an_older_connection_gets_a_session_that_no_connection_has() {
        let table = SessionTable::default();
        let (first, second, third) = (session(1), session(0), session(0));
        for session in [&first, &second, &third] {
            table.enter(Arc::clone(session));
        }
        let newest = table.claim(&first.token, &third, &slot_number(3)).unwrap().session;
        table.detach(&newest, Tick::new(10), PLACES);
        assert!(table.claim(&first.token, &second, &slot_number(2)).is_ok());
    }

    #[test]
    fn a_claim_to_the_token_of_a_greeting_is_newer_than_the_connection() {
        let table = SessionTable::default();
        let (earlier, later, last) = (session(0), session(1), session(0));
        for session in [&earlier, &later, &last] {
            table.enter(Arc::clone(session));
        }
        let claimed = table.claim(&later.token, &earlier, &slot_number(0)).unwrap().session;
        assert_eq!(claimed.token, later.token);
        // A claim to a token from the answer to an attach is newer, too.
        let claimed = table.claim(&later.token, &last, &slot_number(3)).unwrap().session;
        let renamed = table.rename(&claimed, last.token);
        assert!(table.claim(&renamed.token, &session(0), &slot_number(2)).is_ok());
    }

    #[test]
    fn sessions_that_come_and_go_end_those_of_the_same_address() {
        let table = SessionTable::default();
        let detach = |session: &Arc<Session>, max| {
            table.enter(Arc::clone(session));
            table.detach(session, Tick::new(10), Places { max, share: 10 }).ended
        };
        let quiet: Vec<_> = (0..5).map(|_| session_of(peer(1), 1)).collect();
        assert_eq!(quiet.iter().map(|session| detach(session, 20)).sum::<usize>(), 0);
        let churn: Vec<_> = (0..100).map(|_| session_of(peer(2), 1)).collect();
        assert_eq!(churn.iter().map(|session| detach(session, 20)).sum::<usize>(), 85);
        let newest: Vec<_> = churn.iter().map(|session| table.locate(&session.token).is_some()).collect();
        assert_eq!(newest, [vec![false; 85], vec![true; 15]].concat(), "its oldest have ended");
        // A newcomer takes a place from the address with most sessions.
        let newcomer = session_of(peer(3), 1);
        assert_eq!(detach(&newcomer, 20), 1);
        assert!(quiet.iter().chain([&newcomer]).all(|session| table.locate(&session.token).is_some()));
        // Sessions that end for memory are of that address, too.
        assert_eq!(table.end_oldest(9), 9);
        assert!(quiet.iter().all(|session| table.locate(&session.token).is_some()));
    }

    #[test]
    fn beyond_its_share_an_address_ends_its_own_session() {
        let table = SessionTable::default();
        let places = Places { max: 10, share: 20 };
        let sessions: Vec<_> = [1, 1, 1, 1, 1, 1, 1, 2, 2, 2, 2].map(|last| session_of(peer(last), 1)).into();
        for session in &sessions {
            table.enter(Arc::clone(session));
            table.detach(session, Tick::new(10), places);
        }
        assert_eq!(table.locate(&sessions[7].token), None);
        assert_eq!(table.count(), (10, 10));
    }

    #[test]
    fn one_address_alone_may_have_all_places() {
        let table = SessionTable::default();
        for _ in 0..12 {
            let session = session_of(peer(1), 1);
            table.enter(Arc::clone(&session));
            table.detach(&session, Tick::new(10), Places { max: 10, share: 10 });
        }
        assert_eq!(table.count(), (10, 10));
    }
}
