//! The session of a client, the original's `client_proxy`: what stays of it when its connection ends.
//!
//! A session is state with an owner and a life of its own, not an actor: 19,000 of them must fit beside 19,000
//! Transports in 2 KiB each. It is listed under its token in the [`SessionTable`], which outlives the ProxyMapper that
//! works on it. A session whose connection has ended stays listed for `session_ttl`; one that has no subscription ends
//! with its connection.
//!
//! A detached session holds a cursor for each of its topics and nothing else: what its client misses meanwhile is in the
//! topics' rings, once for all, and a topic that has ended meanwhile goes on where it was. A new connection that shows the token takes the session over
//! ([`SessionTable::claim`]).
//!
//! | file | what it is | what it owns |
//! |---|---|---|
//! | `mod.rs` | table | a session, and the table of all sessions |
//! | `proxy_mapper.rs` | actor | nothing: answers questions about sessions, ends expired ones |
//! | `shared.rs` | table | what this floor shares |

pub(crate) mod proxy_mapper;
mod shared;

pub(crate) use shared::Sessions;

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;

use crate::accounts::shares::{Shares, share};
use crate::accounts::{Account, Address};
use crate::config::Config;
use crate::delivery::{Slot, Subscription};
use crate::ground::clock::Tick;
use crate::hooks::Client;
use crate::topic::{Anchor, TopicState};
use crate::wire::{Peer, TopicName};

/// Names a session. A client that knows it may take the session over, so at most its beginning is ever logged.
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

    /// What logs and traces may show of it: six digits, which tell sessions apart and leave 104 bits to guess.
    pub(crate) fn beginning(self) -> String {
        format!("{}…", &self.to_hex()[..6])
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
    /// Whether the token is that of an earlier connection, so that another claim may be older than that of the present connection.
    inherited: bool,
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

/// Where the client of a session was in a topic, whose messages it keeps from being given up while they are young enough. The
/// topic itself may end: its numbers go on where they were when it is wanted again.
#[derive(Debug)]
pub(crate) struct Cursor {
    pub(crate) anchor: Arc<Anchor>,
    /// The number of the first message that was meant for the client, 0 if it is not known; and [`LOSSY`](Self::LOSSY).
    began: u64,
}

impl Cursor {
    /// Set in `began` if messages after it were dropped, so that the client's count leads nowhere. A bit, because there is
    /// a cursor for every topic of every detached session.
    const LOSSY: u64 = 1 << 63;

    fn of((topic, subscription): &Joined) -> Self {
        let lossy = if subscription.is_lossy() { Self::LOSSY } else { 0 };
        topic.anchor.add_cursor();
        Self { anchor: Arc::clone(&topic.anchor), began: subscription.first_seq().unwrap_or(0) | lossy }
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
        self.anchor.remove_cursor();
    }
}

impl Session {
    pub(crate) fn new(peer: Peer, slot: &Arc<Slot>) -> Self {
        let topics = Topics::Attached { slot: Arc::clone(slot), joined: Vec::new(), earlier: None };
        let (token, client) = (SessionToken::random(), OnceLock::new());
        Self { token, peer, inherited: false, client, topics: Mutex::new(topics) }
    }

    /// Notes who the client is, once it has shown that.
    pub(crate) fn identify(&self, client: &Arc<Client>) {
        let _ = self.client.set(Arc::clone(client));
    }

    pub(crate) fn client(&self) -> Option<&Arc<Client>> {
        self.client.get()
    }

    /// What the clients of its peer's address hold, while it has a connection.
    fn account(&self) -> Option<Arc<Account>> {
        match &*self.topics.lock() {
            Topics::Attached { slot, .. } | Topics::Attaching { slot, .. } => slot.account.clone(),
            Topics::Detached { .. } | Topics::Over => None,
        }
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
        let cursors: Vec<Cursor> = std::mem::take(cursors).into_iter().filter(|it| keeps(&it.anchor.name)).collect();
        let earlier = (!cursors.is_empty()).then(|| Box::new(Earlier(cursors)));
        *topics = Topics::Attached { slot: Arc::clone(slot), joined: Vec::new(), earlier };
    }

    /// The number of the first message of a topic that was meant for the client on an earlier connection, if it has not
    /// subscribed anew.
    pub(crate) fn began_earlier(&self, topic: &Arc<TopicState>) -> Option<u64> {
        let topics = self.topics.lock();
        let Topics::Attached { earlier: Some(earlier), .. } = &*topics else { return None };
        earlier.0.iter().find(|cursor| Arc::ptr_eq(&cursor.anchor, &topic.anchor))?.first_seq()
    }

    /// Forgets where the client was in a topic, and in as many others as there is no room for beside its subscriptions.
    pub(crate) fn forget_earlier(&self, topic: &TopicName, max_topics: usize) {
        let mut topics = self.topics.lock();
        let Topics::Attached { joined, earlier: kept, .. } = &mut *topics else { return };
        let Some(earlier) = kept else { return };
        earlier.0.retain(|cursor| cursor.anchor.name != *topic);
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

    /// Whether a connection that was opened later than that of `slot` has claimed the session, and still has it.
    ///
    /// The order in which claims are read says little: the claim of a dead connection may be read, or may even arrive, last. A
    /// token that the present connection was greeted with is another matter: clients know that token only from there, so that
    /// each claim to it is newer.
    fn is_kept_from(&self, slot: &Slot) -> bool {
        match &*self.topics.lock() {
            Topics::Attached { slot: holder, .. } | Topics::Attaching { slot: holder, .. } => {
                self.inherited && holder.id > slot.id
            }
            Topics::Detached { .. } | Topics::Over => false,
        }
    }

    fn has_topics(&self) -> bool {
        match &*self.topics.lock() {
            Topics::Attached { joined, earlier, .. } => !joined.is_empty() || earlier.is_some(),
            Topics::Attaching { cursors, .. } | Topics::Detached { cursors, .. } => !cursors.is_empty(),
            Topics::Over => false,
        }
    }

    pub(crate) fn info(&self) -> SessionInfo {
        let names = |cursors: &[Cursor]| cursors.iter().map(|cursor| cursor.anchor.name.clone()).collect();
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
/// beyond it the one that has been detached longest ends, of the address that holds most, or of the one that wants to hold
/// more than its share.
#[derive(Debug, Default)]
pub(crate) struct SessionTable(Mutex<Table>);

/// Invariant: `shares` holds the numbers in `detached`.
#[derive(Debug, Default)]
struct Table {
    sessions: HashMap<SessionToken, Arc<Session>>,
    /// Detached sessions by their number, which rises.
    detached: BTreeMap<u64, Detached>,
    shares: Shares<u64, ()>,
    last_number: u64,
}

/// A session without a connection.
#[derive(Debug)]
struct Detached {
    token: SessionToken,
    /// The tick at which it ends.
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

/// How many sessions may be without a connection, and how many per cent of them may be of one address while there are so many.
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

/// What is left to do for a session that has been detached.
#[derive(Debug)]
pub(crate) struct Leaving {
    /// Its subscriptions, which must be ended.
    pub(crate) joined: Vec<Joined>,
    /// How many sessions have made room for it.
    pub(crate) ended: usize,
}

/// A session that a new connection has taken over.
#[derive(Debug)]
pub(crate) struct Claimed {
    /// The new one in the old one's place, to be [attached](Session::attached).
    pub(crate) session: Arc<Session>,
    /// The connection that had it, if that is still open, and its subscriptions; both must be ended.
    pub(crate) older: Option<(Arc<Slot>, Vec<Joined>)>,
}

/// Why a connection does not get a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unclaimed {
    /// There is no such session, it is that connection's own, or another user's.
    Unknown,
    /// A connection that was opened later has it.
    Overtaken,
}

impl SessionTable {
    pub(crate) fn attach(&self, session: Arc<Session>) {
        self.0.lock().sessions.insert(session.token, session);
    }

    /// Hands the session of `token` to the connection of `by`, whose own session ends. Of two claimants the connection that
    /// was opened later gets it, in whatever order they are heard.
    pub(crate) fn claim(&self, token: &SessionToken, by: &Session, slot: &Arc<Slot>) -> Result<Claimed, Unclaimed> {
        let mut table = self.0.lock();
        let table = &mut *table;
        if *token == by.token {
            return Err(Unclaimed::Unknown);
        }
        let claimed = table.sessions.get_mut(token).ok_or(Unclaimed::Unknown)?;
        if claimed.user() != by.user() {
            return Err(Unclaimed::Unknown);
        }
        if claimed.is_kept_from(slot) {
            return Err(Unclaimed::Overtaken);
        }
        let mut detached = None;
        let (cursors, older) = match std::mem::replace(&mut *claimed.topics.lock(), Topics::Over) {
            Topics::Attached { slot, joined, earlier } => (cursors_of(&joined, earlier), Some((slot, joined))),
            Topics::Attaching { slot, cursors } => (cursors, Some((slot, Vec::new()))),
            Topics::Detached { number, cursors } => {
                detached = Some(number);
                (cursors, None)
            }
            Topics::Over => (Box::default(), None),
        };
        let topics = Mutex::new(Topics::Attaching { slot: Arc::clone(slot), cursors });
        let (peer, client) = (by.peer, by.client.clone());
        *claimed = Arc::new(Session { token: *token, peer, inherited: true, client, topics });
        let session = Arc::clone(claimed);
        *by.topics.lock() = Topics::Over;
        table.sessions.remove(&by.token);
        if let Some(number) = detached {
            table.forget(number);
        }
        Ok(Claimed { session, older })
    }

    /// Gives a session that is being taken over the token that its connection was greeted with; the old one is void.
    pub(crate) fn rename(&self, session: &Arc<Session>, token: SessionToken) -> Arc<Session> {
        let mut table = self.0.lock();
        let topics = std::mem::replace(&mut *session.topics.lock(), Topics::Over);
        let (peer, client) = (session.peer, session.client.clone());
        let renamed = Arc::new(Session { token, peer, inherited: false, client, topics: Mutex::new(topics) });
        if table.sessions.get(&session.token).is_some_and(|listed| Arc::ptr_eq(listed, session)) {
            table.sessions.remove(&session.token);
            table.sessions.insert(token, Arc::clone(&renamed));
        }
        renamed
    }

    /// Ends the attachment of a session and keeps it until the tick `expires`; one without a subscription ends now.
    pub(crate) fn detach(&self, session: &Arc<Session>, expires: Tick, places: Places) -> Leaving {
        let mut table = self.0.lock();
        let table = &mut *table;
        let is_listed = table.sessions.get(&session.token).is_some_and(|listed| Arc::ptr_eq(listed, session));
        if !is_listed {
            return Leaving { joined: session.detach(0), ended: 0 };
        }
        table.last_number += 1;
        let account = session.account();
        let joined = session.detach(table.last_number);
        if !session.has_topics() {
            table.sessions.remove(&session.token);
            return Leaving { joined, ended: 0 };
        }
        let address = Address::of(session.peer);
        table.keep(Detached { token: session.token, expires, address, account });
        let mut ended = 0;
        while table.detached.len() > places.max && table.end_one(Some((address, share(places.max, places.share)))) {
            ended += 1;
        }
        Leaving { joined, ended }
    }

    /// Ends a session that has been detached, before its time.
    pub(crate) fn end(&self, session: &Arc<Session>) {
        let mut table = self.0.lock();
        let is_listed = table.sessions.get(&session.token).is_some_and(|listed| Arc::ptr_eq(listed, session));
        if is_listed {
            table.sessions.remove(&session.token);
            if let Topics::Detached { number, .. } = &*session.topics.lock() {
                table.forget(*number);
            }
        }
    }

    /// Ends detached sessions whose time is over, at most so many; how many there were.
    pub(crate) fn expire(&self, tick: Tick, max: usize) -> usize {
        let mut table = self.0.lock();
        let table = &mut *table;
        let mut ended = 0;
        // Compared as a distance, so that a clock that wraps around ends nothing early.
        while ended < max
            && let Some((&number, oldest)) = table.detached.first_key_value()
            && tick.has_reached(oldest.expires)
        {
            table.end(number);
            ended += 1;
        }
        if table.sessions.capacity() > 1024 && table.sessions.len() < table.sessions.capacity() / 8 {
            table.sessions.shrink_to(table.sessions.len() * 2);
        }
        ended
    }

    /// Ends so many detached sessions, each time the oldest of the address that has most; how many there were.
    pub(crate) fn end_oldest(&self, count: usize) -> usize {
        let mut table = self.0.lock();
        (0..count).take_while(|_| table.end_one(None)).count()
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

    /// Ends the oldest detached session of the address that has most, or of the one that needs a place and has more than this
    /// share of them; false if there is none.
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
    use std::time::Duration;

    use super::*;
    use crate::config::SlowConsumer;
    use crate::delivery::Terms;

    const PLACES: Places = Places { max: 100, share: 10 };

    fn slot() -> Arc<Slot> {
        slot_number(1)
    }

    /// That of the connection that was opened as this one.
    fn slot_number(id: u64) -> Arc<Slot> {
        let terms = Terms {
            max_frames: 1,
            max_bytes: 1,
            patience: Duration::ZERO,
            ledger: Arc::default(),
            codecs: Arc::default(),
        };
        Arc::new(Slot::local(id, &Arc::new(terms)))
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
        table.attach(Arc::clone(&session));
        table.detach(&session, Tick::new(10), PLACES);
        assert_eq!(table.count(), (0, 0));
    }

    #[test]
    fn beyond_the_limit_the_oldest_detached_session_ends() {
        let table = SessionTable::default();
        let sessions = [session(1), session(1), session(1)];
        for session in &sessions {
            table.attach(Arc::clone(session));
            table.detach(session, Tick::new(10), Places { max: 2, ..PLACES });
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
        table.detach(&earlier, Tick::new(10), PLACES);
        let claimed = table.claim(&earlier.token, &later, &slot()).unwrap();
        assert!(claimed.older.is_none());
        assert_eq!(claimed.session.with_cursors(<[Cursor]>::len), 2);
        assert_eq!(table.count(), (1, 0), "the token of the new connection is no more");
        assert_eq!(table.expire(Tick::new(10), 100), 0);
        assert_eq!(table.claim(&later.token, &earlier, &slot()).unwrap_err(), Unclaimed::Unknown);
    }

    #[test]
    fn a_connection_that_ends_before_it_has_joined_leaves_the_session_as_it_was() {
        let table = SessionTable::default();
        let (earlier, later) = (session(2), session(0));
        table.attach(Arc::clone(&earlier));
        table.attach(Arc::clone(&later));
        table.detach(&earlier, Tick::new(10), PLACES);
        let claimed = table.claim(&earlier.token, &later, &slot()).unwrap();
        assert!(table.detach(&claimed.session, Tick::new(20), PLACES).joined.is_empty());
        assert_eq!(table.locate(&earlier.token).unwrap().topics.len(), 2);
        assert_eq!(table.expire(Tick::new(20), 100), 1);
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
        assert!(table.detach(&earlier, Tick::new(10), PLACES).joined.is_empty());
        assert!(table.locate(&claimed.session.token).unwrap().connected);
    }

    fn peer(last: u8) -> Peer {
        Peer::Addr(([192, 0, 2, last], 1).into())
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
    fn an_older_claimant_that_is_heard_last_does_not_get_the_session() {
        let table = SessionTable::default();
        let (first, second, third) = (session(1), session(0), session(0));
        for session in [&first, &second, &third] {
            table.attach(Arc::clone(session));
        }
        let newest = table.claim(&first.token, &third, &slot_number(3)).unwrap().session;
        let again = |id| table.claim(&first.token, &second, &slot_number(id));
        assert_eq!(again(2).unwrap_err(), Unclaimed::Overtaken, "while the topics are being joined");
        assert!(newest.attached(Vec::new()).is_empty(), "it still has the session");
        assert_eq!(again(2).unwrap_err(), Unclaimed::Overtaken);
        assert!(again(4).is_ok());
    }

    #[test]
    fn an_older_connection_gets_a_session_that_no_connection_has() {
        let table = SessionTable::default();
        let (first, second, third) = (session(1), session(0), session(0));
        for session in [&first, &second, &third] {
            table.attach(Arc::clone(session));
        }
        let newest = table.claim(&first.token, &third, &slot_number(3)).unwrap().session;
        table.detach(&newest, Tick::new(10), PLACES);
        assert!(table.claim(&first.token, &second, &slot_number(2)).is_ok());
    }

    #[test]
    fn a_claim_to_what_a_connection_was_greeted_with_is_newer_than_that_connection() {
        let table = SessionTable::default();
        let (earlier, later, last) = (session(0), session(1), session(0));
        for session in [&earlier, &later, &last] {
            table.attach(Arc::clone(session));
        }
        let claimed = table.claim(&later.token, &earlier, &slot_number(0)).unwrap().session;
        assert_eq!(claimed.token, later.token);
        // So is one to the token that an attach was answered with in place of the old one.
        let claimed = table.claim(&later.token, &last, &slot_number(3)).unwrap().session;
        let renamed = table.rename(&claimed, last.token);
        assert!(table.claim(&renamed.token, &session(0), &slot_number(2)).is_ok());
    }

    #[test]
    fn sessions_that_come_and_go_end_those_of_the_same_address() {
        let table = SessionTable::default();
        let detach = |session: &Arc<Session>, max| {
            table.attach(Arc::clone(session));
            table.detach(session, Tick::new(10), Places { max, share: 10 }).ended
        };
        let quiet: Vec<_> = (0..5).map(|_| session_of(peer(1), 1)).collect();
        assert_eq!(quiet.iter().map(|session| detach(session, 20)).sum::<usize>(), 0);
        let churn: Vec<_> = (0..100).map(|_| session_of(peer(2), 1)).collect();
        assert_eq!(churn.iter().map(|session| detach(session, 20)).sum::<usize>(), 85);
        let newest: Vec<_> = churn.iter().map(|session| table.locate(&session.token).is_some()).collect();
        assert_eq!(newest, [vec![false; 85], vec![true; 15]].concat(), "its oldest have ended");
        // A newcomer takes its place from the address that holds most.
        let newcomer = session_of(peer(3), 1);
        assert_eq!(detach(&newcomer, 20), 1);
        assert!(quiet.iter().chain([&newcomer]).all(|session| table.locate(&session.token).is_some()));
        // So does memory that runs short.
        assert_eq!(table.end_oldest(9), 9);
        assert!(quiet.iter().all(|session| table.locate(&session.token).is_some()));
    }

    #[test]
    fn beyond_its_share_an_address_ends_its_own_session_though_another_has_more() {
        let table = SessionTable::default();
        let places = Places { max: 10, share: 20 };
        let sessions: Vec<_> = [1, 1, 1, 1, 1, 1, 1, 2, 2, 2, 2].map(|last| session_of(peer(last), 1)).into();
        for session in &sessions {
            table.attach(Arc::clone(session));
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
            table.attach(Arc::clone(&session));
            table.detach(&session, Tick::new(10), Places { max: 10, share: 10 });
        }
        assert_eq!(table.count(), (10, 10));
    }
}
