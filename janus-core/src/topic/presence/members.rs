//! The members of a topic: a table without a clock, a lock or a socket.
//!
//! A user is a member while a connection of the user is subscribed, on this node or on another, and for the linger
//! afterwards. Changes are collected as *news* while a client watches, and taken together ([`Members::take_news`]). A
//! user with a departure and a return between two takes is no news.
//!
//! Limits: an entry for each subscription of this node, the members in [`Others`], and at most [`Limits::listed`] lingering
//! users. News have names only while the topic is listed: at most `listed` arrivals, and the departures since the last take.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::others::{NodeMembers, Others};
use crate::config::{Config, Presence as Mode};
use crate::engine::NodeId;
use crate::wire::Member;

/// The settings of presence.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) linger: Duration,
    pub(super) listed: usize,
}

impl Limits {
    pub(super) fn of(config: &Config) -> Self {
        Self { linger: config.presence_linger, listed: config.max_presence_members }
    }
}

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Members {
    /// Whether the namespace shows users at all.
    may_list: bool,
    /// Whether the topic has few enough users to be listed.
    lists: bool,
    users: BTreeMap<Arc<str>, User>,
    /// The subscribed connections by the number of their slots, each with the user.
    connections: HashMap<u64, Option<Arc<str>>>,
    /// Connections without a user.
    anonymous: usize,
    others: Others,
    /// The users without a connection, in the order of their departures.
    lingering: BTreeSet<(Instant, Arc<str>)>,
    /// `None` while no client watches.
    news: Option<News>,
}

#[derive(Debug)]
struct User {
    info: Option<Arc<str>>,
    /// Connections of this node.
    here: u32,
    /// Other nodes with the user.
    there: u32,
    /// When the user leaves; `None` while there is a connection.
    leaves: Option<Instant>,
    /// Whether the watching clients know the user.
    is_told: bool,
}

impl User {
    fn is_connected(&self) -> bool {
        self.here > 0 || self.there > 0
    }
}

/// What has changed since the last take.
#[derive(Debug, Default)]
struct News {
    /// The number of members, as the watching clients know.
    count: usize,
    /// New users of the table, and users with another info.
    came: BTreeSet<Arc<str>>,
    /// Users who have left the table and are known to the watching clients, with the info if that is known to the clients, too.
    gone: BTreeMap<Arc<str>, Option<Option<Arc<str>>>>,
    /// Whether the topic was listed at the last take.
    listed: bool,
}

/// News for the watching clients.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// The number alone, because the topic is counted and not listed.
    Count,
    /// The whole list, because the topic has been counted up to now.
    List,
    /// These changes of the list.
    Users {
        joined: Vec<Member>,
        left: Vec<Member>,
        /// The number of members.
        count: usize,
        /// Whether there are more than before.
        more: bool,
    },
}

impl Members {
    pub(super) fn new(mode: Mode) -> Self {
        Self {
            may_list: mode == Mode::Members,
            lists: mode == Mode::Members,
            users: BTreeMap::new(),
            connections: HashMap::new(),
            anonymous: 0,
            others: Others::default(),
            lingering: BTreeSet::new(),
            news: None,
        }
    }

    /// The number of members.
    pub(super) fn count(&self) -> usize {
        self.users.len() + self.anonymous + self.others.nameless()
    }

    /// Whether a watching client would be told the users.
    pub(super) fn is_listed(&self) -> bool {
        self.lists
    }

    /// The users by name; `None` if the topic is counted and not listed.
    pub(super) fn list(&self) -> Option<Vec<Member>> {
        let member = |(name, user): (&Arc<str>, &User)| member(name, user.info.as_ref());
        self.lists.then(|| self.users.iter().map(member).collect())
    }

    /// The users of connections of this node, and the number of connections without a user, for other nodes.
    pub(super) fn of_this_node(&self, listed: usize) -> NodeMembers {
        let here = self.users.iter().filter(|(_, user)| user.here > 0);
        let count = here.clone().count();
        if count > listed {
            return NodeMembers { nameless: count + self.anonymous, unlisted: true, users: Vec::new() };
        }
        let info = |user: &User| user.info.clone().filter(|_| self.may_list);
        let users = here.map(|(name, user)| member(name, info(user).as_ref())).collect();
        NodeMembers { nameless: self.anonymous, unlisted: false, users }
    }

    /// Notes a subscribed connection, or another identity of its client.
    pub(super) fn join(&mut self, connection: u64, user: Option<Member>, now: Instant, limits: Limits) {
        let name = user.as_ref().map(|user| Arc::clone(&user.user));
        let before = self.connections.insert(connection, name.clone());
        // The new user first: otherwise a user with both would linger for a moment.
        match user {
            Some(user) => {
                self.enter(&user.user, user.info, true).here += 1;
            }
            None => self.anonymous += 1,
        }
        if let Some(before) = before {
            self.take_connection(before, now, limits);
        }
        self.decide(limits);
    }

    /// Notes the end of a connection's subscription. Returns whether there was one.
    pub(super) fn leave(&mut self, connection: u64, now: Instant, limits: Limits) -> bool {
        let Some(user) = self.connections.remove(&connection) else { return false };
        self.take_connection(user, now, limits);
        if self.connections.len() < self.connections.capacity() / 4 {
            self.connections.shrink_to(self.connections.len() * 2);
        }
        self.decide(limits);
        true
    }

    /// Whether the connection is subscribed.
    pub(super) fn has(&self, connection: u64) -> bool {
        self.connections.contains_key(&connection)
    }

    fn take_connection(&mut self, user: Option<Arc<str>>, now: Instant, limits: Limits) {
        let Some(name) = user else {
            self.anonymous -= 1;
            return;
        };
        if let Some(user) = self.users.get_mut(&name) {
            user.here -= 1;
        }
        self.linger_if_gone(&name, now, limits);
    }

    /// Takes the words of another node; `None` if the node is gone.
    pub(super) fn hear(&mut self, node: NodeId, said: Option<NodeMembers>, now: Instant, limits: Limits) {
        let new: Vec<Member> = said.as_ref().map(|said| said.users.clone()).unwrap_or_default();
        // Users that are counted without their names from now on have not left: those who linger would count twice.
        let is_unlisted = said.as_ref().is_some_and(|said| said.unlisted);
        let limits = if is_unlisted { Limits { linger: Duration::ZERO, ..limits } } else { limits };
        let before = self.others.replace(node, said);
        for Member { user, info } in new {
            // A user may have different infos at different nodes. The latest counts, and this node's before any.
            let is_news = before.get(&user) != Some(&info) && self.users.get(&user).is_none_or(|user| user.here == 0);
            self.enter(&user, info, is_news).there += 1;
        }
        for name in before.into_keys() {
            if let Some(user) = self.users.get_mut(&name) {
                user.there -= 1;
            }
            self.linger_if_gone(&name, now, limits);
        }
        self.decide(limits);
    }

    /// The entry of a user with a connection more. `replaces` says whether the info replaces a known one.
    fn enter(&mut self, name: &Arc<str>, info: Option<Arc<str>>, replaces: bool) -> &mut User {
        let news = self.news.as_mut().filter(|news| news.listed);
        match self.users.entry(Arc::clone(name)) {
            Entry::Vacant(entry) => {
                let mut is_told = false;
                if let Some(news) = news {
                    match news.gone.remove(name) {
                        Some(known) => {
                            is_told = true;
                            if known.as_ref() != Some(&info) {
                                news.came.insert(Arc::clone(name));
                            }
                        }
                        None => _ = news.came.insert(Arc::clone(name)),
                    }
                }
                entry.insert(User { info, here: 0, there: 0, leaves: None, is_told })
            }
            Entry::Occupied(entry) => {
                let user = entry.into_mut();
                if let Some(leaves) = user.leaves.take() {
                    self.lingering.remove(&(leaves, Arc::clone(name)));
                }
                if replaces && user.info != info {
                    user.info = info;
                    if let Some(news) = news {
                        news.came.insert(Arc::clone(name));
                    }
                }
                user
            }
        }
    }

    fn linger_if_gone(&mut self, name: &Arc<str>, now: Instant, Limits { linger, listed }: Limits) {
        let Some(user) = self.users.get_mut(name) else { return };
        if user.is_connected() || user.leaves.is_some() {
            return;
        }
        if linger.is_zero() || self.lingering.len() >= listed {
            self.remove(name);
        } else {
            let leaves = now + linger;
            user.leaves = Some(leaves);
            self.lingering.insert((leaves, Arc::clone(name)));
        }
    }

    fn remove(&mut self, name: &Arc<str>) {
        let Some(user) = self.users.remove(name) else { return };
        if let Some(news) = self.news.as_mut().filter(|news| news.listed) {
            let is_known = !news.came.remove(name);
            if user.is_told {
                news.gone.insert(Arc::clone(name), is_known.then_some(user.info));
            }
        }
    }

    /// When the next user leaves.
    pub(super) fn next_leave(&self) -> Option<Instant> {
        self.lingering.first().map(|(leaves, _)| *leaves)
    }

    /// Lets users leave whose linger is over.
    pub(super) fn expire(&mut self, now: Instant, limits: Limits) {
        while let Some((leaves, _)) = self.lingering.first()
            && *leaves <= now
        {
            let Some((_, name)) = self.lingering.pop_first() else { break };
            self.remove(&name);
        }
        self.decide(limits);
    }

    /// Decides whether the users are listed. A topic at the limit must not change between the two with each user.
    pub(super) fn decide(&mut self, Limits { listed, .. }: Limits) {
        if !self.may_list {
            return;
        }
        let most = if self.lists { listed } else { listed - listed / 8 };
        self.lists = self.users.len() <= most && !self.others.has_unlisted();
    }

    /// Begins to collect news: from now on, clients that know the present state watch.
    pub(super) fn collect(&mut self) {
        if self.news.is_none() {
            self.news = Some(News::default());
            self.settle();
        }
    }

    /// Collects no news any more.
    pub(super) fn ignore(&mut self) {
        self.news = None;
    }

    /// The watching clients are told the present state.
    fn settle(&mut self) {
        let (count, listed) = (self.count(), self.lists);
        if let Some(news) = &mut self.news {
            *news = News { count, listed, ..News::default() };
            if listed {
                self.users.values_mut().for_each(|user| user.is_told = true);
            }
        }
    }

    /// Whether the watching clients have to be told anything.
    pub(super) fn has_news(&self) -> bool {
        self.news.as_ref().is_some_and(|news| {
            news.count != self.count() || news.listed != self.lists || !news.came.is_empty() || !news.gone.is_empty()
        })
    }

    /// Takes the news for the watching clients.
    pub(super) fn take_news(&mut self) -> Option<Change> {
        if !self.has_news() {
            return None;
        }
        let (count, lists) = (self.count(), self.lists);
        let news = self.news.as_mut()?;
        if !lists || !news.listed {
            let change = if lists { Change::List } else { Change::Count };
            self.settle();
            return Some(change);
        }
        let more = count > news.count;
        news.count = count;
        let (came, gone) = (std::mem::take(&mut news.came), std::mem::take(&mut news.gone));
        let mut joined = Vec::with_capacity(came.len());
        for name in came {
            if let Some(user) = self.users.get_mut(&name) {
                user.is_told = true;
                joined.push(member(&name, user.info.as_ref()));
            }
        }
        let left = gone.into_keys().map(|name| member(&name, None)).collect();
        Some(Change::Users { joined, left, count, more })
    }
}

fn member(name: &Arc<str>, info: Option<&Arc<str>>) -> Member {
    let mut member = Member::new(Arc::clone(name), None);
    member.info = info.cloned();
    member
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { linger: Duration::from_secs(5), listed: 8 };

    fn members() -> Members {
        Members::new(Mode::Members)
    }

    fn user(name: &str) -> Option<Member> {
        Some(Member::new(name, None))
    }

    fn names(members: &Members) -> Vec<String> {
        members.list().unwrap().iter().map(|member| member.user.to_string()).collect()
    }

    fn news(members: &mut Members) -> Option<(Vec<String>, Vec<String>)> {
        let names = |list: Vec<Member>| list.into_iter().map(|member| member.user.to_string()).collect();
        match members.take_news() {
            Some(Change::Users { joined, left, .. }) => Some((names(joined), names(left))),
            None => None,
            other => panic!("{other:?}"),
        }
    }

    fn only(name: &str) -> Vec<String> {
        vec![name.to_owned()]
    }

    #[test]
    fn a_user_with_two_connections_is_one_member_until_the_last_is_over() {
        let (mut members, now) = (members(), Instant::now());
        members.collect();
        for connection in [1, 2] {
            members.join(connection, user("alice"), now, LIMITS);
        }
        assert_eq!((members.count(), news(&mut members)), (1, Some((only("alice"), vec![]))));
        members.leave(1, now, LIMITS);
        assert_eq!((members.next_leave(), news(&mut members)), (None, None));
        members.leave(2, now, LIMITS);
        assert_eq!((members.count(), news(&mut members)), (1, None), "she lingers");
        members.expire(now + LIMITS.linger, LIMITS);
        assert_eq!((members.count(), news(&mut members)), (0, Some((vec![], only("alice")))));
    }

    #[test]
    fn a_user_that_returns_within_the_linger_is_no_news() {
        let (mut members, now) = (members(), Instant::now());
        members.collect();
        members.join(1, user("alice"), now, LIMITS);
        members.take_news();
        members.leave(1, now, LIMITS);
        members.join(2, user("alice"), now + LIMITS.linger / 2, LIMITS);
        members.expire(now + LIMITS.linger * 2, LIMITS);
        assert_eq!((names(&members), members.has_news()), (only("alice"), false));
    }

    #[test]
    fn a_user_that_leaves_and_returns_between_two_takes_is_no_news() {
        let (mut members, now) = (members(), Instant::now());
        let limits = Limits { linger: Duration::ZERO, ..LIMITS };
        members.collect();
        members.join(1, user("alice"), now, limits);
        members.take_news();
        members.leave(1, now, limits);
        members.join(2, user("alice"), now, limits);
        assert_eq!(news(&mut members), None);
        members.leave(2, now, limits);
        members.join(3, user("bob"), now, limits);
        members.leave(3, now, limits);
        assert_eq!(news(&mut members), Some((vec![], only("alice"))), "bob has come and gone unseen");
    }

    #[test]
    fn connections_without_a_user_count_and_are_not_listed() {
        let (mut members, now) = (members(), Instant::now());
        members.collect();
        members.join(1, None, now, LIMITS);
        members.join(2, user("alice"), now, LIMITS);
        assert_eq!((members.count(), names(&members)), (2, only("alice")));
        members.take_news();
        members.leave(1, now, LIMITS);
        assert_eq!((members.count(), news(&mut members)), (1, Some((vec![], vec![]))), "at once, and the number alone");
        members.leave(1, now, LIMITS);
        assert_eq!(members.count(), 1, "a second leave changes nothing");
    }

    #[test]
    fn another_identity_of_a_connection_takes_the_place_of_the_earlier() {
        let (mut members, now) = (members(), Instant::now());
        members.collect();
        members.join(1, None, now, LIMITS);
        members.join(1, user("alice"), now, LIMITS);
        assert_eq!((members.count(), names(&members)), (1, only("alice")));
        members.take_news();
        members.join(1, Some(Member::new("alice", Some("{\"is\":\"away\"}"))), now, LIMITS);
        assert_eq!(news(&mut members), Some((only("alice"), vec![])), "with another info");
        members.leave(1, now, LIMITS);
        assert!(members.next_leave().is_some() && !members.has(1));
    }

    #[test]
    fn a_topic_beyond_the_limit_is_counted_and_listed_again_with_an_eighth_less() {
        let (mut members, now) = (members(), Instant::now());
        let limits = Limits { linger: Duration::ZERO, ..LIMITS };
        members.collect();
        for connection in 0..9 {
            members.join(connection, user(&connection.to_string()), now, limits);
        }
        assert_eq!((members.count(), members.list()), (9, None));
        assert_eq!(members.take_news(), Some(Change::Count));
        members.leave(0, now, limits);
        assert_eq!((members.list(), members.take_news()), (None, Some(Change::Count)));
        members.leave(1, now, limits);
        assert_eq!(members.take_news(), Some(Change::List));
        assert_eq!(names(&members).len(), 7);
        members.leave(2, now, limits);
        assert_eq!(news(&mut members), Some((vec![], only("2"))), "the list is known");
    }

    #[test]
    fn a_topic_that_counts_lists_no_user() {
        let (mut members, now) = (Members::new(Mode::Count), Instant::now());
        members.collect();
        members.join(1, user("alice"), now, LIMITS);
        members.join(2, user("alice"), now, LIMITS);
        assert_eq!((members.count(), members.list(), members.take_news()), (1, None, Some(Change::Count)));
    }

    #[test]
    fn more_users_than_can_be_listed_do_not_linger() {
        let (mut members, now) = (members(), Instant::now());
        for connection in 0..20 {
            members.join(connection, user(&connection.to_string()), now, LIMITS);
        }
        for connection in 0..20 {
            members.leave(connection, now, LIMITS);
        }
        assert_eq!((members.count(), members.lingering.len()), (LIMITS.listed, LIMITS.listed));
        members.expire(now + LIMITS.linger, LIMITS);
        assert_eq!((members.count(), members.next_leave()), (0, None));
    }

    #[test]
    fn a_user_that_moves_to_another_node_has_not_left() {
        let (mut members, now, node) = (members(), Instant::now(), NodeId::new(2));
        members.collect();
        members.join(1, user("alice"), now, LIMITS);
        members.take_news();
        members.leave(1, now, LIMITS);
        let there = || NodeMembers { nameless: 2, unlisted: false, users: vec![Member::new("alice", None)] };
        members.hear(node, Some(there()), now, LIMITS);
        members.expire(now + LIMITS.linger, LIMITS);
        assert_eq!((members.count(), news(&mut members)), (3, Some((vec![], vec![]))));
        members.hear(node, Some(there()), now, LIMITS);
        assert!(!members.has_news(), "nothing new");
        members.hear(node, None, now, LIMITS);
        members.expire(now + LIMITS.linger, LIMITS);
        assert_eq!((members.count(), news(&mut members)), (0, Some((vec![], only("alice")))));
    }

    #[test]
    fn users_that_a_node_counts_without_names_do_not_count_twice() {
        let (mut members, now, node) = (members(), Instant::now(), NodeId::new(2));
        let users = (0..8).map(|number| Member::new(number.to_string(), None)).collect();
        members.hear(node, Some(NodeMembers { nameless: 0, unlisted: false, users }), now, LIMITS);
        assert_eq!(members.count(), 8);
        let counted = NodeMembers { nameless: 9, unlisted: true, users: vec![] };
        members.hear(node, Some(counted), now, LIMITS);
        assert_eq!(members.count(), 9);
    }

    #[test]
    fn a_node_says_who_is_connected_to_it() {
        let (mut members, now) = (members(), Instant::now());
        members.join(1, Some(Member::new("alice", Some("1"))), now, LIMITS);
        members.join(2, None, now, LIMITS);
        members.join(3, user("bob"), now, LIMITS);
        members.leave(3, now, LIMITS);
        let said = members.of_this_node(8);
        let users = vec![Member::new("alice", Some("1"))];
        assert_eq!(said, NodeMembers { nameless: 1, unlisted: false, users });
        assert_eq!(members.of_this_node(0), NodeMembers { nameless: 2, unlisted: true, users: vec![] });
    }

    #[test]
    fn without_clients_that_watch_no_news_pile_up() {
        let (mut members, now) = (members(), Instant::now());
        members.join(1, user("alice"), now, LIMITS);
        assert!(!members.has_news());
        members.collect();
        assert!(!members.has_news(), "the first client that watches is told the state");
        members.ignore();
        members.leave(1, now, LIMITS);
        members.expire(now + LIMITS.linger, LIMITS);
        assert!(!members.has_news());
    }
}
