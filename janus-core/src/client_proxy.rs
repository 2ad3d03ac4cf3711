//! The session of a client, the original's `client_proxy`: what stays of it when its connection ends.
//!
//! A session is state with an owner and a life of its own, not an actor: 19,000 of them must fit beside 19,000
//! Transports in 2 KiB each. It is listed under its token in the [`SessionTable`], which outlives the ProxyMapper that
//! works on it. A session whose connection has ended stays listed for `session_ttl`; one that has no subscription ends
//! with its connection.
//!
//! A detached session holds a cursor for each of its topics and nothing else: what its client misses meanwhile is in the
//! topics' rings, once for all. A new connection that shows the token takes the session over
//! ([`SessionTable::claim`]).

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;

use crate::delivery::{Slot, Subscription};
use crate::hooks::Client;
use crate::topic::TopicState;
use crate::wire::{Peer, TopicName};

/// Names a session; whoever knows it may take the session over, so it is never logged.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SessionToken(u128);

impl SessionToken {
    /// 128 bits from the operating system.
    pub(crate) fn random() -> Self {
        let mut bytes = [0; 16];
        getrandom::fill(&mut bytes).expect("the system has a source of random numbers");
        Self(u128::from_ne_bytes(bytes))
    }

    /// The token as clients see it: 32 lower-case hexadecimal digits.
    #[must_use]
    pub fn to_hex(self) -> String {
        uuid::Uuid::from_u128(self.0).simple().to_string()
    }

    /// Reads a token as [`to_hex`](Self::to_hex) writes it.
    #[must_use]
    pub fn from_hex(text: &str) -> Option<Self> {
        let token = uuid::Uuid::try_parse(text).ok()?;
        (text.len() == 32).then(|| Self(token.as_u128()))
    }
}

/// Shows that there is a token, not which.
impl fmt::Debug for SessionToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SessionToken(…)")
    }
}

/// One listed session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionInfo {
    /// Where its client is, or was last, connected from.
    pub peer: Peer,
    /// Whether its connection is open.
    pub connected: bool,
    /// The topics it is subscribed to, or was when its connection ended; in no order.
    pub topics: Vec<TopicName>,
}

/// The state of a session that its Transport and the table share.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) token: SessionToken,
    pub(crate) peer: Peer,
    /// Who its client is, or was last; nothing where no hook says so.
    client: OnceLock<Arc<Client>>,
    topics: Mutex<Topics>,
}

/// One topic that a session is subscribed to.
pub(crate) type Joined = (Arc<TopicState>, Arc<Subscription>);

/// What a session is subscribed to.
#[derive(Debug)]
enum Topics {
    /// While its connection is open; only its Transport changes it.
    Attached { slot: Arc<Slot>, joined: Vec<Joined>, earlier: Option<Box<Earlier>> },
    /// While a new connection takes it over, until its topics have been joined.
    Attaching { slot: Arc<Slot>, cursors: Box<[Cursor]> },
    /// Without a connection, with its number among the detached ones.
    Detached { number: u64, cursors: Box<[Cursor]> },
    /// Another session has taken its place.
    Over,
}

/// What a session that has come back was subscribed to before, until its client subscribes to that again. Where a
/// namespace lets only sessions resume, it says how far back a position may lead. With `joined` it is never more than
/// `max_topics_per_client`.
#[derive(Debug)]
struct Earlier(Vec<Cursor>);

/// Where the client of a session was in a topic, which it keeps from ending.
#[derive(Debug)]
pub(crate) struct Cursor {
    pub(crate) topic: Arc<TopicState>,
    /// The number of the first message that was meant for the client, 0 if it is not known; and [`LOSSY`](Self::LOSSY).
    began: u64,
}

impl Cursor {
    /// Set in `began` if messages after it were dropped, so that the client's count leads nowhere. A bit, because there is
    /// a cursor for every topic of every detached session.
    const LOSSY: u64 = 1 << 63;

    pub(crate) fn new(topic: &Arc<TopicState>, first_seq: u64) -> Self {
        topic.add_cursor();
        Self { topic: Arc::clone(topic), began: first_seq }
    }

    fn of((topic, subscription): &Joined) -> Self {
        let lossy = if subscription.is_lossy() { Self::LOSSY } else { 0 };
        Self::new(topic, subscription.first_seq().unwrap_or(0) | lossy)
    }

    /// The number that the client's count began with; `None` if the count leads nowhere.
    pub(crate) fn counts_from(&self) -> Option<u64> {
        self.first_seq().filter(|_| self.began & Self::LOSSY == 0)
    }

    /// The number of the first message that was meant for the client.
    pub(crate) fn first_seq(&self) -> Option<u64> {
        Some(self.began & !Self::LOSSY).filter(|first_seq| *first_seq > 0)
    }
}

impl Drop for Cursor {
    fn drop(&mut self) {
        self.topic.remove_cursor();
    }
}

impl Session {
    pub(crate) fn new(peer: Peer, slot: &Arc<Slot>) -> Self {
        let topics = Topics::Attached { slot: Arc::clone(slot), joined: Vec::new(), earlier: None };
        Self { token: SessionToken::random(), peer, client: OnceLock::new(), topics: Mutex::new(topics) }
    }

    /// Notes who the client is, once it has shown that.
    pub(crate) fn identify(&self, client: &Arc<Client>) {
        let _ = self.client.set(Arc::clone(client));
    }

    pub(crate) fn client(&self) -> Option<&Arc<Client>> {
        self.client.get()
    }

    /// The name of the client's user; empty for somebody unknown.
    pub(crate) fn user(&self) -> &str {
        self.client().map_or("", |client| &client.identity.user)
    }

    /// Looks at, and changes, the subscriptions of an attached session; `None` if it is not attached.
    pub(crate) fn with_subscriptions<T>(&self, look: impl FnOnce(&mut Vec<Joined>) -> T) -> Option<T> {
        match &mut *self.topics.lock() {
            Topics::Attached { joined, .. } => Some(look(joined)),
            Topics::Attaching { .. } | Topics::Detached { .. } | Topics::Over => None,
        }
    }

    /// The cursors of a session that is being taken over, for a look.
    pub(crate) fn with_cursors<T>(&self, look: impl FnOnce(&[Cursor]) -> T) -> T {
        match &*self.topics.lock() {
            Topics::Attaching { cursors, .. } => look(cursors),
            Topics::Attached { .. } | Topics::Detached { .. } | Topics::Over => look(&[]),
        }
    }

    /// Ends the taking over of a session: it is attached with these subscriptions. Hands them back if another connection
    /// has taken it over meanwhile; then the caller must end them.
    pub(crate) fn attached(&self, joined: Vec<Joined>) -> Vec<Joined> {
        let mut topics = self.topics.lock();
        let (Topics::Attaching { slot, .. } | Topics::Attached { slot, .. }) = &*topics else { return joined };
        *topics = Topics::Attached { slot: Arc::clone(slot), joined, earlier: None };
        Vec::new()
    }

    /// The same for a client that says itself where it was, topic by topic: it has none yet, and the cursors of these topics
    /// stay until it does.
    pub(crate) fn attached_anew(&self, keeps: impl Fn(&TopicName) -> bool) {
        let mut topics = self.topics.lock();
        let Topics::Attaching { slot, cursors } = &mut *topics else { return };
        let cursors: Vec<Cursor> = std::mem::take(cursors).into_iter().filter(|it| keeps(&it.topic.name)).collect();
        let earlier = (!cursors.is_empty()).then(|| Box::new(Earlier(cursors)));
        *topics = Topics::Attached { slot: Arc::clone(slot), joined: Vec::new(), earlier };
    }

    /// The number of the first message of a topic that was meant for the client on an earlier connection, if it has not
    /// subscribed anew.
    pub(crate) fn began_earlier(&self, topic: &Arc<TopicState>) -> Option<u64> {
        let topics = self.topics.lock();
        let Topics::Attached { earlier: Some(earlier), .. } = &*topics else { return None };
        earlier.0.iter().find(|cursor| Arc::ptr_eq(&cursor.topic, topic))?.first_seq()
    }

    /// Forgets where the client was in a topic, and in as many others as there is no room for beside its subscriptions.
    pub(crate) fn forget_earlier(&self, topic: &TopicName, max_topics: usize) {
        let mut topics = self.topics.lock();
        let Topics::Attached { joined, earlier: kept, .. } = &mut *topics else { return };
        let Some(earlier) = kept else { return };
        earlier.0.retain(|cursor| cursor.topic.name != *topic);
        earlier.0.truncate(max_topics.saturating_sub(joined.len()));
        kept.take_if(|earlier| earlier.0.is_empty());
    }

    /// Ends the attachment and hands out its subscriptions, which the caller must end.
    fn detach(&self, number: u64) -> Vec<Joined> {
        let mut topics = self.topics.lock();
        let (cursors, joined) = match std::mem::replace(&mut *topics, Topics::Over) {
            Topics::Attached { joined, earlier, .. } => (cursors_of(&joined, earlier), joined),
            Topics::Attaching { cursors, .. } => (cursors, Vec::new()),
            other @ (Topics::Detached { .. } | Topics::Over) => {
                *topics = other;
                return Vec::new();
            }
        };
        *topics = Topics::Detached { number, cursors };
        joined
    }

    fn has_topics(&self) -> bool {
        match &*self.topics.lock() {
            Topics::Attached { joined, earlier, .. } => !joined.is_empty() || earlier.is_some(),
            Topics::Attaching { cursors, .. } | Topics::Detached { cursors, .. } => !cursors.is_empty(),
            Topics::Over => false,
        }
    }

    pub(crate) fn info(&self) -> SessionInfo {
        let names = |cursors: &[Cursor]| cursors.iter().map(|cursor| cursor.topic.name.clone()).collect();
        let (connected, topics) = match &*self.topics.lock() {
            Topics::Attached { joined, .. } => (true, joined.iter().map(|(topic, _)| topic.name.clone()).collect()),
            Topics::Attaching { cursors, .. } => (true, names(cursors)),
            Topics::Detached { cursors, .. } => (false, names(cursors)),
            Topics::Over => (false, Vec::new()),
        };
        SessionInfo { peer: self.peer, connected, topics }
    }
}

/// What is kept of the subscriptions of a connection that ends, and of those of the one before.
fn cursors_of(joined: &[Joined], earlier: Option<Box<Earlier>>) -> Box<[Cursor]> {
    joined.iter().map(Cursor::of).chain(earlier.into_iter().flat_map(|earlier| earlier.0)).collect()
}

/// Sessions by token. Attached ones are as many as connections; detached ones are limited by `max_detached_sessions`:
/// beyond it the one that has been detached longest ends.
#[derive(Debug, Default)]
pub(crate) struct SessionTable(Mutex<Table>);

#[derive(Debug, Default)]
struct Table {
    sessions: HashMap<SessionToken, Arc<Session>>,
    /// Detached sessions by their number, which rises, with the tick at which they end.
    detached: BTreeMap<u64, (u32, SessionToken)>,
    last_number: u64,
}

/// A session that a new connection has taken over.
#[derive(Debug)]
pub(crate) struct Claimed {
    /// The new one in the old one's place, to be [attached](Session::attached).
    pub(crate) session: Arc<Session>,
    /// The connection that had it, if that is still open, and its subscriptions; both must be ended.
    pub(crate) older: Option<(Arc<Slot>, Vec<Joined>)>,
}

impl SessionTable {
    pub(crate) fn attach(&self, session: Arc<Session>) {
        self.0.lock().sessions.insert(session.token, session);
    }

    /// Hands the session of `token` to the connection of `by`, whose own session ends. `None` if there is no such session,
    /// if it is that connection's own, or another user's.
    pub(crate) fn claim(&self, token: &SessionToken, by: &Session, slot: &Arc<Slot>) -> Option<Claimed> {
        let mut table = self.0.lock();
        let table = &mut *table;
        if *token == by.token {
            return None;
        }
        let claimed = table.sessions.get_mut(token)?;
        if claimed.user() != by.user() {
            return None;
        }
        let (cursors, older) = match std::mem::replace(&mut *claimed.topics.lock(), Topics::Over) {
            Topics::Attached { slot, joined, earlier } => (cursors_of(&joined, earlier), Some((slot, joined))),
            Topics::Attaching { slot, cursors } => (cursors, Some((slot, Vec::new()))),
            Topics::Detached { number, cursors } => {
                table.detached.remove(&number);
                (cursors, None)
            }
            Topics::Over => (Box::default(), None),
        };
        let topics = Mutex::new(Topics::Attaching { slot: Arc::clone(slot), cursors });
        *claimed = Arc::new(Session { token: *token, peer: by.peer, client: by.client.clone(), topics });
        let session = Arc::clone(claimed);
        *by.topics.lock() = Topics::Over;
        table.sessions.remove(&by.token);
        Some(Claimed { session, older })
    }

    /// Gives a session that is being taken over another token; the old one is void.
    pub(crate) fn rename(&self, session: &Arc<Session>, token: SessionToken) -> Arc<Session> {
        let mut table = self.0.lock();
        let topics = std::mem::replace(&mut *session.topics.lock(), Topics::Over);
        let renamed =
            Arc::new(Session { token, peer: session.peer, client: session.client.clone(), topics: Mutex::new(topics) });
        if table.sessions.get(&session.token).is_some_and(|listed| Arc::ptr_eq(listed, session)) {
            table.sessions.remove(&session.token);
            table.sessions.insert(token, Arc::clone(&renamed));
        }
        renamed
    }

    /// Ends the attachment of a session and keeps it until the tick `expires`; one without a subscription ends now. Hands
    /// out its subscriptions, which the caller must end.
    pub(crate) fn detach(&self, session: &Arc<Session>, expires: u32, max_detached: usize) -> Vec<Joined> {
        let mut table = self.0.lock();
        let table = &mut *table;
        let is_listed = table.sessions.get(&session.token).is_some_and(|listed| Arc::ptr_eq(listed, session));
        if !is_listed {
            return session.detach(0);
        }
        table.last_number += 1;
        let joined = session.detach(table.last_number);
        if session.has_topics() {
            table.detached.insert(table.last_number, (expires, session.token));
            table.end_beyond(max_detached);
        } else {
            table.sessions.remove(&session.token);
        }
        joined
    }

    /// Ends a session that has been detached, before its time.
    pub(crate) fn end(&self, session: &Arc<Session>) {
        let mut table = self.0.lock();
        let is_listed = table.sessions.get(&session.token).is_some_and(|listed| Arc::ptr_eq(listed, session));
        if is_listed {
            table.sessions.remove(&session.token);
            if let Topics::Detached { number, .. } = &*session.topics.lock() {
                table.detached.remove(number);
            }
        }
    }

    /// Ends the detached sessions whose time is over.
    pub(crate) fn expire(&self, tick: u32) -> usize {
        let mut table = self.0.lock();
        let table = &mut *table;
        let mut ended = 0;
        while let Some(oldest) = table.detached.first_entry() {
            let (expires, token) = *oldest.get();
            // Compared as a distance, so that a clock that wraps around ends nothing early.
            if (tick.wrapping_sub(expires) as i32) < 0 {
                break;
            }
            oldest.remove();
            table.sessions.remove(&token);
            ended += 1;
        }
        if table.sessions.capacity() > 1024 && table.sessions.len() < table.sessions.capacity() / 8 {
            table.sessions.shrink_to(table.sessions.len() * 2);
        }
        ended
    }

    /// Ends so many detached sessions, the oldest first; how many there were.
    pub(crate) fn end_oldest(&self, count: usize) -> usize {
        let mut table = self.0.lock();
        let keep = table.detached.len().saturating_sub(count);
        table.end_beyond(keep)
    }

    pub(crate) fn locate(&self, token: &SessionToken) -> Option<SessionInfo> {
        self.0.lock().sessions.get(token).map(|session| session.info())
    }

    pub(crate) fn list(&self) -> Vec<SessionInfo> {
        self.0.lock().sessions.values().map(|session| session.info()).collect()
    }

    /// How many sessions are listed, and how many of them are detached.
    pub(crate) fn count(&self) -> (usize, usize) {
        let table = self.0.lock();
        (table.sessions.len(), table.detached.len())
    }
}

impl Table {
    /// Ends the oldest detached sessions until there are at most `max`; how many that were.
    fn end_beyond(&mut self, max: usize) -> usize {
        let mut ended = 0;
        while self.detached.len() > max
            && let Some((_, (_, token))) = self.detached.pop_first()
        {
            self.sessions.remove(&token);
            ended += 1;
        }
        ended
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::SlowConsumer;
    use crate::delivery::Terms;

    fn slot() -> Arc<Slot> {
        let terms = Terms {
            max_frames: 1,
            max_bytes: 1,
            patience: Duration::ZERO,
            ledger: Arc::default(),
            codecs: Arc::default(),
        };
        Arc::new(Slot::local(1, &Arc::new(terms)))
    }

    /// A session with a connection and this many topics.
    fn session(topics: usize) -> Arc<Session> {
        let session = Session::new(Peer::Local, &slot());
        let topic = |number: usize| {
            let topic = TopicState::for_test(TopicName::new(&format!("topic {number}"), 255).unwrap());
            (Arc::new(topic), Arc::new(Subscription::local(slot(), SlowConsumer::Disconnect)))
        };
        assert!(session.attached((0..topics).map(topic).collect()).is_empty());
        Arc::new(session)
    }

    #[test]
    fn a_token_survives_its_text_form_and_hides_in_logs() {
        let token = SessionToken::random();
        assert_eq!(token.to_hex().len(), 32);
        assert_eq!(SessionToken::from_hex(&token.to_hex()), Some(token));
        assert_eq!(SessionToken::from_hex("not a token"), None);
        assert_eq!(format!("{token:?}"), "SessionToken(…)");
    }

    #[test]
    fn a_detached_session_is_listed_until_its_time_is_over() {
        let table = SessionTable::default();
        let session = session(1);
        table.attach(Arc::clone(&session));
        assert_eq!(table.detach(&session, 10, 100).len(), 1);
        let info = table.locate(&session.token).unwrap();
        assert_eq!((info.connected, info.topics.len()), (false, 1));
        assert_eq!(table.expire(9), 0);
        assert_eq!(table.expire(10), 1);
        assert_eq!(table.locate(&session.token), None);
    }

    #[test]
    fn a_session_without_a_subscription_ends_with_its_connection() {
        let table = SessionTable::default();
        let session = session(0);
        table.attach(Arc::clone(&session));
        table.detach(&session, 10, 100);
        assert_eq!(table.count(), (0, 0));
    }

    #[test]
    fn beyond_the_limit_the_oldest_detached_session_ends() {
        let table = SessionTable::default();
        let sessions = [session(1), session(1), session(1)];
        for session in &sessions {
            table.attach(Arc::clone(session));
            table.detach(session, 10, 2);
        }
        assert_eq!(table.count(), (2, 2));
        assert_eq!(table.locate(&sessions[0].token), None);
        assert!(table.locate(&sessions[2].token).is_some());
        assert_eq!(table.end_oldest(1), 1);
        assert_eq!(table.locate(&sessions[1].token), None);
    }

    #[test]
    fn a_claimed_session_goes_to_its_new_connection_and_no_longer_expires() {
        let table = SessionTable::default();
        let (earlier, later) = (session(2), session(0));
        table.attach(Arc::clone(&earlier));
        table.attach(Arc::clone(&later));
        table.detach(&earlier, 10, 100);
        let claimed = table.claim(&earlier.token, &later, &slot()).unwrap();
        assert!(claimed.older.is_none());
        assert_eq!(claimed.session.with_cursors(<[Cursor]>::len), 2);
        assert_eq!(table.count(), (1, 0), "the token of the new connection is no more");
        assert_eq!(table.expire(10), 0);
        assert!(table.claim(&later.token, &earlier, &slot()).is_none());
    }

    #[test]
    fn a_connection_that_ends_before_it_has_joined_leaves_the_session_as_it_was() {
        let table = SessionTable::default();
        let (earlier, later) = (session(2), session(0));
        table.attach(Arc::clone(&earlier));
        table.attach(Arc::clone(&later));
        table.detach(&earlier, 10, 100);
        let claimed = table.claim(&earlier.token, &later, &slot()).unwrap();
        assert!(table.detach(&claimed.session, 20, 100).is_empty());
        assert_eq!(table.locate(&earlier.token).unwrap().topics.len(), 2);
        assert_eq!(table.expire(20), 1);
    }

    #[test]
    fn of_two_claimants_the_newer_gets_the_session_and_the_older_is_named() {
        let table = SessionTable::default();
        let (earlier, later) = (session(1), session(0));
        table.attach(Arc::clone(&earlier));
        table.attach(Arc::clone(&later));
        let claimed = table.claim(&earlier.token, &later, &slot()).unwrap();
        assert_eq!(claimed.older.unwrap().1.len(), 1);
        // The older connection, which is told later, does not take the session along.
        assert!(table.detach(&earlier, 10, 100).is_empty());
        assert!(table.locate(&claimed.session.token).unwrap().connected);
    }

    #[test]
    fn a_place_outlives_what_was_dropped_and_a_count_does_not() {
        let topic = Arc::new(TopicState::for_test(TopicName::new("news", 255).unwrap()));
        let subscription = Arc::new(Subscription::local(slot(), SlowConsumer::DropOldest));
        let cursor = || {
            let cursor = Cursor::of(&(Arc::clone(&topic), Arc::clone(&subscription)));
            (cursor.first_seq(), cursor.counts_from())
        };
        assert_eq!(cursor(), (None, None), "delivery has not begun");
        subscription.count_from(7);
        assert_eq!(cursor(), (Some(7), Some(7)));
        subscription.set_lossy();
        assert_eq!(cursor(), (Some(7), None));
    }

    #[test]
    fn a_topic_counts_the_cursors_that_keep_it() {
        let table = SessionTable::default();
        let session = session(1);
        table.attach(Arc::clone(&session));
        let topic = Arc::clone(&table.detach(&session, 10, 100)[0].0);
        assert!(!topic.end_if_unused(1_000, 1));
        table.expire(10);
        drop(session);
        assert!(topic.end_if_unused(2_000, 1));
    }
}
