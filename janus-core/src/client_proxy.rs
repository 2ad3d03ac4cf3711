//! The session of a client, the original's `client_proxy`: what stays of it when its connection ends.
//!
//! A session is state with an owner and a life of its own, not an actor: 19,000 of them must fit beside 19,000
//! Transports in 2 KiB each. It is listed under its token in the [`SessionTable`], which outlives the ProxyMapper that
//! works on it. A session whose connection has ended stays listed for `session_ttl`; one that has no subscription ends
//! with its connection.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::delivery::Subscription;
use crate::topic::TopicState;
use crate::wire::TopicName;

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
    pub peer: SocketAddr,
    /// Whether its connection is open.
    pub connected: bool,
    /// The topics it is subscribed to, or was when its connection ended; in no order.
    pub topics: Vec<TopicName>,
}

/// The state of a session that its Transport and the table share.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) token: SessionToken,
    pub(crate) peer: SocketAddr,
    topics: Mutex<Topics>,
}

/// One topic that a session is subscribed to.
pub(crate) type Joined = (Arc<TopicState>, Arc<Subscription>);

/// What a session is subscribed to.
#[derive(Debug)]
enum Topics {
    /// While its connection is open; only its Transport changes it.
    Attached(Vec<Joined>),
    Detached(Box<[TopicName]>),
}

impl Session {
    pub(crate) fn new(peer: SocketAddr) -> Self {
        Self { token: SessionToken::random(), peer, topics: Mutex::new(Topics::Attached(Vec::new())) }
    }

    /// Looks at, and changes, the subscriptions of an attached session; `None` if it is detached.
    pub(crate) fn with_subscriptions<T>(&self, look: impl FnOnce(&mut Vec<Joined>) -> T) -> Option<T> {
        match &mut *self.topics.lock() {
            Topics::Attached(subscriptions) => Some(look(subscriptions)),
            Topics::Detached(_) => None,
        }
    }

    /// Ends the attachment and hands out its subscriptions, which the caller must end.
    pub(crate) fn detach(&self) -> Vec<Joined> {
        let mut topics = self.topics.lock();
        match std::mem::replace(&mut *topics, Topics::Detached(Box::default())) {
            Topics::Attached(subscriptions) => {
                *topics = Topics::Detached(subscriptions.iter().map(|(topic, _)| topic.name.clone()).collect());
                subscriptions
            }
            detached @ Topics::Detached(_) => {
                *topics = detached;
                Vec::new()
            }
        }
    }

    fn info(&self) -> SessionInfo {
        let (connected, topics) = match &*self.topics.lock() {
            Topics::Attached(subscriptions) => {
                (true, subscriptions.iter().map(|(topic, _)| topic.name.clone()).collect())
            }
            Topics::Detached(names) => (false, names.to_vec()),
        };
        SessionInfo { peer: self.peer, connected, topics }
    }
}

/// Sessions by token. Attached ones are as many as connections; detached ones are limited by `max_detached_sessions`:
/// beyond it the one that has been detached longest ends.
#[derive(Debug, Default)]
pub(crate) struct SessionTable(Mutex<Table>);

#[derive(Debug, Default)]
struct Table {
    sessions: HashMap<SessionToken, Arc<Session>>,
    /// Detached sessions, oldest first, with the tick at which they end.
    detached: VecDeque<(u32, SessionToken)>,
}

impl SessionTable {
    pub(crate) fn attach(&self, session: Arc<Session>) {
        self.0.lock().sessions.insert(session.token, session);
    }

    /// Keeps a session that has been detached until the tick `expires`; one without a subscription ends now.
    pub(crate) fn detach(&self, session: &Session, expires: u32, max_detached: usize) {
        let mut table = self.0.lock();
        if session.info().topics.is_empty() {
            table.sessions.remove(&session.token);
            return;
        }
        table.detached.push_back((expires, session.token));
        if table.detached.len() > max_detached
            && let Some((_, oldest)) = table.detached.pop_front()
        {
            table.sessions.remove(&oldest);
        }
    }

    /// Ends the detached sessions whose time is over.
    pub(crate) fn expire(&self, tick: u32) -> usize {
        let mut table = self.0.lock();
        let table = &mut *table;
        let mut ended = 0;
        // Compared as a distance, so that a clock that wraps around ends nothing early.
        while let Some((_, token)) =
            table.detached.pop_front_if(|(expires, _)| (tick.wrapping_sub(*expires) as i32) >= 0)
        {
            table.sessions.remove(&token);
            ended += 1;
        }
        if table.sessions.capacity() > 1024 && table.sessions.len() < table.sessions.capacity() / 8 {
            table.sessions.shrink_to(table.sessions.len() * 2);
        }
        ended
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

#[cfg(test)]
mod tests {
    use super::*;

    /// A session whose connection has ended.
    fn session(topics: Vec<TopicName>) -> Arc<Session> {
        let session = Session::new(SocketAddr::from(([127, 0, 0, 1], 1)));
        *session.topics.lock() = Topics::Detached(topics.into_boxed_slice());
        Arc::new(session)
    }

    fn topics() -> Vec<TopicName> {
        vec![TopicName::new("news", 255).unwrap()]
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
        let session = session(topics());
        table.attach(Arc::clone(&session));
        table.detach(&session, 10, 100);
        assert_eq!(table.locate(&session.token).map(|info| (info.connected, info.topics)), Some((false, topics())));
        assert_eq!(table.expire(9), 0);
        assert_eq!(table.expire(10), 1);
        assert_eq!(table.locate(&session.token), None);
    }

    #[test]
    fn a_session_without_a_subscription_ends_with_its_connection() {
        let table = SessionTable::default();
        let session = session(Vec::new());
        table.attach(Arc::clone(&session));
        table.detach(&session, 10, 100);
        assert_eq!(table.count(), (0, 0));
    }

    #[test]
    fn beyond_the_limit_the_oldest_detached_session_ends() {
        let table = SessionTable::default();
        let sessions = [session(topics()), session(topics()), session(topics())];
        for session in &sessions {
            table.attach(Arc::clone(session));
            table.detach(session, 10, 2);
        }
        assert_eq!(table.count(), (2, 2));
        assert_eq!(table.locate(&sessions[0].token), None);
        assert!(table.locate(&sessions[2].token).is_some());
    }
}
