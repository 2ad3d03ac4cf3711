//! The session of a client, the original's `client_proxy`: the state that outlives a connection.
//!
//! A session is state with an owner and a life of its own, not an actor: each of 19,000 clients must fit in little more than
//! 1 KiB, with session and Transport. The [`SessionTable`] lists sessions by token, and outlives the ProxyMapper that works on the
//! table. A session whose connection has ended stays listed for `session_ttl`; a session without a subscription ends
//! with its connection.
//!
//! A detached session holds a cursor for each of its topics and nothing else. Messages missed by the client are in the
//! topics' rings, once for all clients, and a topic that ends and starts again continues its numbers. A new connection
//! with the token takes the session over ([`SessionTable::claim`]).
//!
//! | file | kind | owns |
//! |---|---|---|
//! | `mod.rs` | table | a session, and its position in each topic |
//! | `proxy_mapper.rs` | actor | nothing: answers questions about sessions, ends expired ones |
//! | `shared.rs` | table | the shared part of this floor |
//! | `table.rs` | table | all sessions by token, and the order in which detached sessions end |
//! | `token.rs` | pure | the token of a session |

pub(crate) mod proxy_mapper;
mod shared;
mod table;
mod token;

pub(crate) use shared::Sessions;
pub(crate) use table::{Claimed, Detachment, Places, SessionTable, Unclaimed};
pub use token::SessionToken;

use std::net::{SocketAddr, SocketAddrV4, SocketAddrV6};
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use parking_lot::Mutex;
use smallvec::SmallVec;

use crate::accounts::Account;
use crate::delivery::{Slot, Subscription};
use crate::hooks::Identity;
use crate::topic::{Anchor, TopicState};
use crate::wire::{Peer, TopicName};

/// A listed session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionInfo {
    /// The present or last address of the client.
    pub peer: Peer,
    /// Whether the connection is open.
    pub connected: bool,
    /// The topics of the session, or of its last connection; in no order.
    pub topics: Vec<TopicName>,
}

/// The state of a session, shared by the Transport and the table.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) token: SessionToken,
    peer: Brief,
    /// The identity of the present client, or of the last; empty where no hook identifies clients. Without the rest of a
    /// [`Client`](crate::hooks::Client), which the connection knows: 19,000 clients would pay for a second copy.
    identity: ArcSwapOption<Identity>,
    state: Mutex<State>,
}

/// A peer in 16 bytes instead of 32, at the price of a box for IPv6; and, in a byte of padding, whether the token comes
/// from an earlier connection. Then another claim may be older than the present connection's claim.
#[derive(Debug)]
enum Brief {
    Local(bool),
    V4(SocketAddrV4, bool),
    V6(Box<SocketAddrV6>, bool),
}

impl Brief {
    fn new(peer: Peer, inherited: bool) -> Self {
        match peer {
            Peer::Local => Self::Local(inherited),
            Peer::Addr(SocketAddr::V4(addr)) => Self::V4(addr, inherited),
            Peer::Addr(SocketAddr::V6(addr)) => Self::V6(Box::new(addr), inherited),
        }
    }

    fn inherited(&self) -> bool {
        let (Self::Local(inherited) | Self::V4(_, inherited) | Self::V6(_, inherited)) = self;
        *inherited
    }
}

/// A topic of a session, with its subscription.
pub(crate) type Joined = (Arc<TopicState>, Arc<Subscription>);

/// The subscriptions of a session. Most clients have one, which needs no memory of its own.
pub(crate) type Subscriptions = SmallVec<[Joined; 1]>;

/// The connection of a session, and the session's topics.
#[derive(Debug)]
enum State {
    /// The connection is open. Only the Transport changes the list.
    Attached { slot: Arc<Slot>, joined: Subscriptions, earlier: Option<Box<Earlier>> },
    /// A new connection has claimed the session, and has not joined its topics yet.
    Attaching { slot: Arc<Slot>, cursors: Box<[Cursor]> },
    /// Without a connection; `number` is the key in the table of detached sessions.
    Detached { number: u64, cursors: Box<[Cursor]> },
    /// Another session has taken the place of this session.
    Over,
}

/// The earlier topics of a resumed session, until the client subscribes again. Where a namespace lets only
/// sessions resume, a cursor limits how far back a position may lead. Together with `joined` never more than
/// `max_topics_per_client`.
#[derive(Debug)]
struct Earlier(Vec<Cursor>);

/// The position of a session's client in a topic. Keeps young messages of the topic from being given up. The topic
/// itself may end: its numbers continue when a client wants the topic again.
#[derive(Debug)]
pub(crate) struct Cursor {
    pub(crate) anchor: Arc<Anchor>,
    /// The number of the first message for the client, 0 if unknown; and [`LOSSY`](Self::LOSSY).
    began: u64,
}

impl Cursor {
    /// Set in `began` if later messages were dropped, so that the client's count leads to no number. A bit, because
    /// there is a cursor for every topic of every detached session.
    const LOSSY: u64 = 1 << 63;

    fn of((topic, subscription): &Joined) -> Self {
        let lossy = if subscription.is_lossy() { Self::LOSSY } else { 0 };
        topic.anchor.add_cursor();
        Self { anchor: Arc::clone(&topic.anchor), began: subscription.first_seq().unwrap_or(0) | lossy }
    }

    /// The number with which the client's count began; `None` if the count leads to no number.
    pub(crate) fn counts_from(&self) -> Option<u64> {
        self.first_seq().filter(|_| self.began & Self::LOSSY == 0)
    }

    /// The number of the first message for the client.
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
        let state = State::Attached { slot: Arc::clone(slot), joined: Subscriptions::new(), earlier: None };
        let (token, identity) = (SessionToken::random(), ArcSwapOption::empty());
        Self { token, peer: Brief::new(peer, false), identity, state: Mutex::new(state) }
    }

    /// The present or last address of the client.
    pub(crate) fn peer(&self) -> Peer {
        match &self.peer {
            Brief::Local(_) => Peer::Local,
            Brief::V4(addr, _) => Peer::Addr((*addr).into()),
            Brief::V6(addr, _) => Peer::Addr(SocketAddr::V6(**addr)),
        }
    }

    /// Notes the identity of the client, when the client connects and when it refreshes the identity.
    pub(crate) fn identify(&self, identity: &Arc<Identity>) {
        self.identity.store(Some(Arc::clone(identity)));
    }

    /// The account of the peer's address, while there is a connection.
    fn account(&self) -> Option<Arc<Account>> {
        match &*self.state.lock() {
            State::Attached { slot, .. } | State::Attaching { slot, .. } => slot.account().cloned(),
            State::Detached { .. } | State::Over => None,
        }
    }

    /// The client's identity with the name of the user; `None` where no hook identifies clients.
    pub(crate) fn identity(&self) -> Option<Arc<Identity>> {
        self.identity.load_full()
    }

    /// Whether this is the name of the client's user. The name of an unknown user is empty.
    pub(crate) fn is_of(&self, user: &str) -> bool {
        self.identity.load().as_ref().map_or("", |identity| &identity.user) == user
    }

    /// Whether the sessions belong to the same user, known or unknown.
    fn has_user_of(&self, other: &Self) -> bool {
        self.is_of(other.identity.load().as_ref().map_or("", |identity| &identity.user))
    }

    /// Calls `look` with the subscriptions of an attached session; `None` if the session is not attached.
    pub(crate) fn with_subscriptions<T>(&self, look: impl FnOnce(&mut Subscriptions) -> T) -> Option<T> {
        match &mut *self.state.lock() {
            State::Attached { joined, .. } => Some(look(joined)),
            State::Attaching { .. } | State::Detached { .. } | State::Over => None,
        }
    }

    /// Calls `look` with the cursors of a session that is being taken over.
    pub(crate) fn with_cursors<T>(&self, look: impl FnOnce(&[Cursor]) -> T) -> T {
        match &*self.state.lock() {
            State::Attaching { cursors, .. } => look(cursors),
            State::Attached { .. } | State::Detached { .. } | State::Over => look(&[]),
        }
    }

    /// Completes a claim: the session is attached, with these subscriptions. Returns the subscriptions if another
    /// connection has taken the session over; then the caller must end them.
    pub(crate) fn complete_claim(&self, joined: Vec<Joined>) -> Vec<Joined> {
        let mut state = self.state.lock();
        let (State::Attaching { slot, .. } | State::Attached { slot, .. }) = &*state else { return joined };
        *state = State::Attached { slot: Arc::clone(slot), joined: joined.into(), earlier: None };
        Vec::new()
    }

    /// Completes a claim for a client that names positions itself, topic by topic. The session has no subscription yet,
    /// and the cursors of the topics that `keeps` selects stay until the client subscribes.
    pub(crate) fn complete_claim_without_topics(&self, keeps: impl Fn(&TopicName) -> bool) {
        let mut state = self.state.lock();
        let State::Attaching { slot, cursors } = &mut *state else { return };
        let cursors: Vec<Cursor> =
            std::mem::take(cursors).into_iter().filter(|cursor| keeps(&cursor.anchor.name)).collect();
        let earlier = (!cursors.is_empty()).then(|| Box::new(Earlier(cursors)));
        *state = State::Attached { slot: Arc::clone(slot), joined: Subscriptions::new(), earlier };
    }

    /// The number of the first message of a topic for the client on an earlier connection, until the client subscribes
    /// anew.
    pub(crate) fn began_earlier(&self, topic: &Arc<TopicState>) -> Option<u64> {
        let state = self.state.lock();
        let State::Attached { earlier: Some(earlier), .. } = &*state else { return None };
        earlier.0.iter().find(|cursor| Arc::ptr_eq(&cursor.anchor, &topic.anchor))?.first_seq()
    }

    /// Forgets the client's earlier position in a topic, and in as many others as exceed `max_topics` together with the
    /// subscriptions.
    pub(crate) fn forget_earlier(&self, topic: &TopicName, max_topics: usize) {
        let mut state = self.state.lock();
        let State::Attached { joined, earlier: kept, .. } = &mut *state else { return };
        let Some(earlier) = kept else { return };
        earlier.0.retain(|cursor| cursor.anchor.name != *topic);
        earlier.0.truncate(max_topics.saturating_sub(joined.len()));
        kept.take_if(|earlier| earlier.0.is_empty());
    }

    /// Ends the attachment and returns the subscriptions; the caller must end them.
    fn detach(&self, number: u64) -> Vec<Joined> {
        let mut state = self.state.lock();
        let (cursors, joined) = match std::mem::replace(&mut *state, State::Over) {
            State::Attached { joined, earlier, .. } => (cursors_of(&joined, earlier), joined.into_vec()),
            State::Attaching { cursors, .. } => (cursors, Vec::new()),
            other @ (State::Detached { .. } | State::Over) => {
                *state = other;
                return Vec::new();
            }
        };
        *state = State::Detached { number, cursors };
        joined
    }

    /// Whether a connection opened later than the connection of `slot` has claimed the session, and still has the
    /// session.
    ///
    /// The order in which claims are read says little: the claim of a dead connection may be read, or may even arrive,
    /// last. A token from the greeting of the present connection is another matter: clients know such a token only from
    /// there, so each claim to it is newer.
    fn is_kept_from(&self, slot: &Slot) -> bool {
        match &*self.state.lock() {
            State::Attached { slot: holder, .. } | State::Attaching { slot: holder, .. } => {
                self.peer.inherited() && holder.id > slot.id
            }
            State::Detached { .. } | State::Over => false,
        }
    }

    /// Whether the client of an open connection is subscribed to the topic.
    pub(crate) fn has_topic(&self, name: &str) -> bool {
        let look = |joined: &mut Subscriptions| joined.iter().any(|(topic, _)| topic.name.as_str() == name);
        self.with_subscriptions(look).unwrap_or(false)
    }

    fn has_topics(&self) -> bool {
        match &*self.state.lock() {
            State::Attached { joined, earlier, .. } => !joined.is_empty() || earlier.is_some(),
            State::Attaching { cursors, .. } | State::Detached { cursors, .. } => !cursors.is_empty(),
            State::Over => false,
        }
    }

    pub(crate) fn info(&self) -> SessionInfo {
        let names = |cursors: &[Cursor]| cursors.iter().map(|cursor| cursor.anchor.name.clone()).collect();
        let (connected, topics) = match &*self.state.lock() {
            State::Attached { joined, .. } => (true, joined.iter().map(|(topic, _)| topic.name.clone()).collect()),
            State::Attaching { cursors, .. } => (true, names(cursors)),
            State::Detached { cursors, .. } => (false, names(cursors)),
            State::Over => (false, Vec::new()),
        };
        SessionInfo { peer: self.peer(), connected, topics }
    }
}

/// The cursors left by a connection: from its subscriptions, and from the connection before.
fn cursors_of(joined: &[Joined], earlier: Option<Box<Earlier>>) -> Box<[Cursor]> {
    joined.iter().map(Cursor::of).chain(earlier.into_iter().flat_map(|earlier| earlier.0)).collect()
}

#[cfg(test)]
mod tests {

    use super::*;
    use crate::config::SlowConsumer;
    use crate::delivery::Terms;

    fn slot() -> Arc<Slot> {
        Arc::new(Slot::local(1, &Terms::in_tests(1, 1)))
    }

    fn joined(name: &str) -> Joined {
        let topic = TopicState::for_test(TopicName::new(name, 255).unwrap());
        (Arc::new(topic), Arc::new(Subscription::local(slot(), SlowConsumer::Disconnect)))
    }

    fn attached(topics: &[&str]) -> Session {
        let session = Session::new(Peer::Local, &slot());
        assert!(session.complete_claim(topics.iter().copied().map(joined).collect()).is_empty());
        session
    }

    fn names(session: &Session) -> Vec<String> {
        session.info().topics.iter().map(ToString::to_string).collect()
    }

    /// A claimed session, with cursors for these topics.
    fn claimed(topics: &[&str]) -> Session {
        let session = attached(topics);
        session.detach(1);
        let State::Detached { cursors, .. } = std::mem::replace(&mut *session.state.lock(), State::Over) else {
            panic!("it was detached")
        };
        *session.state.lock() = State::Attaching { slot: slot(), cursors };
        session
    }

    #[test]
    fn a_session_takes_96_bytes_and_knows_its_peer() {
        assert_eq!(size_of::<Session>(), 96);
        let peers = ["192.0.2.1:5", "[2001:db8::1]:0"].map(|addr| Peer::Addr(addr.parse().unwrap()));
        for peer in peers.into_iter().chain([Peer::Local]) {
            assert_eq!(Session::new(peer, &slot()).peer(), peer);
        }
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
    fn a_detached_session_keeps_cursors_and_returns_its_subscriptions() {
        let session = attached(&["a", "b"]);
        assert_eq!(session.with_subscriptions(|joined| joined.len()), Some(2));
        assert_eq!(session.detach(7).len(), 2);
        assert_eq!((session.info().connected, names(&session)), (false, vec!["a".to_owned(), "b".to_owned()]));
        assert_eq!(session.with_subscriptions(|joined| joined.len()), None);
        assert!(session.detach(8).is_empty(), "once");
    }

    #[test]
    fn a_cursor_holds_its_anchor_for_as_long_as_it_lives() {
        let (topic, subscription) = joined("a");
        let cursor = Cursor::of(&(Arc::clone(&topic), subscription));
        assert!(topic.anchor.has_cursors());
        drop(cursor);
        assert!(!topic.anchor.has_cursors());
    }

    #[test]
    fn a_claim_without_topics_keeps_the_selected_cursors() {
        let session = claimed(&["a", "b", "c"]);
        session.complete_claim_without_topics(|name| name.as_str() != "b");
        assert!(names(&session).is_empty(), "it is subscribed to nothing");
        assert!(session.has_topics(), "but its client may still resume");
        let a = TopicName::new("a", 255).unwrap();
        session.forget_earlier(&a, 8);
        assert!(session.has_topics(), "c is left");
        session.forget_earlier(&a, 0);
        assert!(!session.has_topics(), "there was no room for c");
    }

    #[test]
    fn an_overtaken_claim_returns_its_subscriptions() {
        let session = claimed(&["a"]);
        *session.state.lock() = State::Over;
        assert_eq!(session.complete_claim(vec![joined("a")]).len(), 1);
    }
}
