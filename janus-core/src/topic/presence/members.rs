//! The members of a topic: a table without a clock, a lock or a socket.
//!
//! A user is a member while a connection of the user is subscribed, on this node or on another, and for the linger
//! afterwards. Changes are collected as *news* while a client watches, and taken together ([`Members::take_news`]). A
//! user with a departure and a return between two takes is no news.
//!
//! Limits: an entry for each subscription of this node, the members in [`Others`], and at most [`Limits::listed`] lingering
//! users. News have names only while the topic is listed: at most `listed` arrivals, and the departures since the last take.
//! [`Members::bytes`] is the account of all of these for the memory budget.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::here::{Here, Info};
use super::news::{Change, News, text};
use super::others::{NodeMembers, Others};
use crate::config::Presence as Mode;
use crate::engine::NodeId;
use crate::topic::Topics;
use crate::wire::Member;

/// The settings of presence.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) linger: Duration,
    pub(super) listed: usize,
}

impl Limits {
    /// While memory is short, users do not linger: connections end with their clients, and lingering users with nothing.
    pub(super) fn of(shared: &Topics) -> Self {
        let config = shared.config();
        let linger = if shared.pressure() > 0 { Duration::ZERO } else { config.presence_linger };
        Self { linger, listed: config.max_presence_members }
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
    /// The subscribed connections by the number of their slots, each with the user and the number of the join.
    connections: HashMap<u64, Option<(Arc<str>, u64)>>,
    /// The number of the last join.
    joins: u64,
    /// Connections without a user.
    anonymous: usize,
    others: Others,
    /// The users without a connection, in the order of their departures.
    lingering: BTreeSet<(Instant, Arc<str>)>,
    /// `None` while no client watches.
    news: Option<News>,
    /// Rises with each change of the members.
    version: u64,
    account: Account,
}

/// What the users take, without [`Others`] and connections.
#[derive(Debug, Default)]
struct Account {
    bytes: usize,
    /// The names and the infos alone.
    texts: usize,
}

impl Account {
    fn add(&mut self, name: &str, user: &User) {
        self.bytes += user.bytes(name);
        self.texts += text(name, &user.info);
    }

    fn take(&mut self, name: &str, user: &User) {
        self.bytes -= user.bytes(name);
        self.texts -= text(name, &user.info);
    }
}

/// The price of a user, with the places in the tables: `Members::users` and `lingering`.
const USER_BYTES: usize = 200;

/// The price of a subscribed connection in the table.
const CONNECTION_BYTES: usize = 56;

#[derive(Debug)]
struct User {
    /// Of the latest connection of this node, or else of another node, or else of the last connection.
    info: Info,
    /// Connections of this node.
    here: Here,
    /// Other nodes with the user.
    there: u32,
    /// When the user leaves; `None` while there is a connection.
    leaves: Option<Instant>,
    /// Whether the watching clients know the user.
    is_told: bool,
}

impl User {
    fn is_connected(&self) -> bool {
        !self.here.is_empty() || self.there > 0
    }

    fn bytes(&self, name: &str) -> usize {
        USER_BYTES + text(name, &self.info) + self.here.bytes()
    }
}

impl Members {
    pub(super) fn new(mode: Mode) -> Self {
        Self {
            may_list: mode == Mode::Members,
            lists: mode == Mode::Members,
            users: BTreeMap::new(),
            connections: HashMap::new(),
            joins: 0,
            anonymous: 0,
            others: Others::default(),
            lingering: BTreeSet::new(),
            news: None,
            version: 0,
            account: Account::default(),
        }
    }

    /// What the members take: lengths, and fixed prices.
    pub(super) fn bytes(&self) -> usize {
        let news = self.news.as_ref().map_or(0, News::bytes);
        self.account.bytes + self.connections.len() * CONNECTION_BYTES + self.others.bytes() + news
    }

    /// Rises with each change.
    pub(super) fn version(&self) -> u64 {
        self.version
    }

    /// The number of members.
    pub(super) fn count(&self) -> usize {
        self.users.len() + self.anonymous + self.others.nameless()
    }

    /// Whether a watching client would be told the users.
    pub(super) fn is_listed(&self) -> bool {
        self.lists
    }

    /// The number of users in the list.
    pub(super) fn listed(&self) -> usize {
        if self.lists { self.users.len() } else { 0 }
    }

    /// Bytes of the names and the infos in the list: hardly less than a frame with the list has.
    pub(super) fn texts(&self) -> usize {
        if self.lists { self.account.texts } else { 0 }
    }

    /// The users by name; `None` if the topic is counted and not listed.
    pub(super) fn list(&self) -> Option<Vec<Member>> {
        let member = |(name, user): (&Arc<str>, &User)| member(name, user.info.as_ref());
        self.lists.then(|| self.users.iter().map(member).collect())
    }

    /// Whether a client of this node is subscribed.
    pub(super) fn has_connections(&self) -> bool {
        !self.connections.is_empty()
    }

    /// The users of connections of this node, and the number of connections without a user, for other nodes.
    pub(super) fn of_this_node(&self, listed: usize) -> NodeMembers {
        let here = self.users.iter().filter(|(_, user)| !user.here.is_empty());
        let count = here.clone().count();
        if count > listed {
            return NodeMembers { nameless: count + self.anonymous, unlisted: true, users: Vec::new() };
        }
        let info = |user: &User| user.info.clone().filter(|_| self.may_list);
        let users = here.map(|(name, user)| member(name, info(user).as_ref())).collect();
        NodeMembers { nameless: self.anonymous, unlisted: false, users }
    }

    /// What other nodes are told of a user; `None` without a connection of the user to this node.
    fn words(&self, name: &Arc<str>) -> Option<Info> {
        self.users
            .get(name)
            .filter(|user| !user.here.is_empty())
            .map(|user| user.info.clone().filter(|_| self.may_list))
    }

    /// Notes a subscribed connection, or another identity of its client. Returns whether other nodes have to be told.
    pub(super) fn join(&mut self, connection: u64, user: Option<Member>, now: Instant, limits: Limits) -> bool {
        let before = self.connections.get(&connection);
        if before.is_some_and(|before| self.is_same(before.as_ref(), user.as_ref())) {
            return false;
        }
        let of_before = before.and_then(|before| before.as_ref().map(|(name, _)| Arc::clone(name)));
        // The names of a user are one text, however many connections the user has.
        let user = user.map(|Member { user, info }| {
            let known = self.users.get_key_value(&user).map(|(name, _)| Arc::clone(name));
            (known.unwrap_or(user), info)
        });
        let names = [of_before, user.as_ref().map(|(name, _)| Arc::clone(name))];
        let said = |members: &Self| {
            let words = names.each_ref().map(|name| name.as_ref().and_then(|name| members.words(name)));
            (words, members.anonymous)
        };
        let said_before = said(self);
        self.version += 1;
        self.joins += 1;
        let join = self.joins;
        let place = user.as_ref().map(|(name, _)| (Arc::clone(name), join));
        let before = self.connections.insert(connection, place);
        // The new user first: otherwise a user with both would linger for a moment.
        match user {
            Some((name, info)) => {
                self.enter(&name, info, true);
                self.change(&name, |user| user.here.add(join, user.info.clone()));
            }
            None => self.anonymous += 1,
        }
        if let Some(before) = before {
            self.take_connection(before, now, limits);
        }
        self.decide(limits);
        said(self) != said_before
    }

    /// Whether a connection has this user already, with this info.
    fn is_same(&self, before: Option<&(Arc<str>, u64)>, user: Option<&Member>) -> bool {
        match (before, user) {
            (None, None) => true,
            (Some((name, join)), Some(Member { user, info })) => {
                let known = || self.users.get(name).and_then(|user| user.here.info(*join));
                name == user && known() == Some(info)
            }
            _ => false,
        }
    }

    /// Notes the end of a connection's subscription. Returns whether other nodes have to be told; `None` without such a
    /// connection.
    pub(super) fn leave(&mut self, connection: u64, now: Instant, limits: Limits) -> Option<bool> {
        let user = self.connections.remove(&connection)?;
        let name = user.as_ref().map(|(name, _)| Arc::clone(name));
        let words = |members: &Self| (name.as_ref().and_then(|name| members.words(name)), members.anonymous);
        let before = words(self);
        self.version += 1;
        self.take_connection(user, now, limits);
        if self.connections.len() < self.connections.capacity() / 4 {
            self.connections.shrink_to(self.connections.len() * 2);
        }
        self.decide(limits);
        Some(words(self) != before)
    }

    /// Whether the connection is subscribed.
    pub(super) fn has(&self, connection: u64) -> bool {
        self.connections.contains_key(&connection)
    }

    fn take_connection(&mut self, user: Option<(Arc<str>, u64)>, now: Instant, limits: Limits) {
        let Some((name, join)) = user else {
            self.anonymous -= 1;
            return;
        };
        self.change(&name, |user| user.here.remove(join));
        self.show_present_info(&name);
        self.linger_if_gone(&name, now, limits);
    }

    /// Takes the words of another node; `None` if the node is gone.
    pub(super) fn hear(&mut self, node: NodeId, said: Option<NodeMembers>, now: Instant, limits: Limits) {
        self.version += 1;
        let new: Vec<Member> = said.as_ref().map(|said| said.users.clone()).unwrap_or_default();
        // Users that are counted without their names from now on have not left: those who linger would count twice.
        let is_unlisted = said.as_ref().is_some_and(|said| said.unlisted);
        let limits = if is_unlisted { Limits { linger: Duration::ZERO, ..limits } } else { limits };
        let before = self.others.replace(node, said);
        for Member { user, info } in new {
            // A user may have different infos at different nodes. The latest counts, and this node's before any.
            let is_here = self.users.get(&user).is_some_and(|user| !user.here.is_empty());
            let is_news = before.get(&user) != Some(&info) && !is_here;
            self.enter(&user, info, is_news);
            self.change(&user, |user| user.there += 1);
        }
        for name in before.into_keys() {
            self.change(&name, |user| user.there -= 1);
            self.show_present_info(&name);
            self.linger_if_gone(&name, now, limits);
        }
        self.decide(limits);
    }

    /// Changes the entry of a user, and the account.
    fn change(&mut self, name: &Arc<str>, change: impl FnOnce(&mut User)) {
        let Some(user) = self.users.get_mut(name) else { return };
        self.account.take(name, user);
        change(user);
        self.account.add(name, user);
    }

    /// Makes an entry for a user with a connection more, if there is none. `replaces` says whether the info replaces a known
    /// one.
    fn enter(&mut self, name: &Arc<str>, info: Info, replaces: bool) {
        let news = self.news.as_mut().filter(|news| news.listed);
        match self.users.entry(Arc::clone(name)) {
            Entry::Vacant(entry) => {
                let mut is_told = false;
                if let Some(news) = news {
                    match news.take_gone(name) {
                        Some(known) => {
                            is_told = true;
                            if known.as_ref() != Some(&info) {
                                news.came.insert(Arc::clone(name));
                            }
                        }
                        None => _ = news.came.insert(Arc::clone(name)),
                    }
                }
                let user = User { info, here: Here::default(), there: 0, leaves: None, is_told };
                self.account.add(name, &user);
                entry.insert(user);
            }
            Entry::Occupied(entry) => {
                let user = entry.into_mut();
                if let Some(leaves) = user.leaves.take() {
                    self.lingering.remove(&(leaves, Arc::clone(name)));
                }
                if replaces {
                    self.show(name, info);
                }
            }
        }
    }

    /// Shows this info of a user.
    fn show(&mut self, name: &Arc<str>, info: Info) {
        if self.users.get(name).is_none_or(|user| user.info == info) {
            return;
        }
        self.change(name, |user| user.info = info);
        if let Some(news) = self.news.as_mut().filter(|news| news.listed) {
            news.came.insert(Arc::clone(name));
        }
    }

    /// Shows the info of a connection that is there, after another has ended. A user without any connection keeps the last.
    fn show_present_info(&mut self, name: &Arc<str>) {
        let Some(user) = self.users.get(name) else { return };
        let info = match user.here.latest() {
            Some(info) => Some(info.clone()),
            None => self.others.info(name, &user.info),
        };
        if let Some(info) = info {
            self.show(name, info);
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
        self.account.take(name, &user);
        if let Some(news) = self.news.as_mut().filter(|news| news.listed) {
            let is_known = !news.came.remove(name);
            if user.is_told {
                news.note_gone(Arc::clone(name), is_known.then_some(user.info));
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
            self.version += 1;
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
        let lists = self.users.len() <= most && !self.others.has_unlisted();
        self.version += u64::from(lists != self.lists);
        self.lists = lists;
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

    /// A client is told the present state, ahead of the news: from now on, no change may cancel out against a change that
    /// the client has been told.
    pub(super) fn tell_ahead(&mut self) {
        let (has_news, lists) = (self.has_news(), self.lists);
        let Some(news) = self.news.as_mut().filter(|_| has_news) else { return };
        news.is_ahead = true;
        if news.listed && lists {
            self.users.values_mut().for_each(|user| user.is_told = true);
            news.forget_infos();
        }
    }

    /// Whether the watching clients have to be told anything.
    pub(super) fn has_news(&self) -> bool {
        self.news.as_ref().is_some_and(|news| {
            news.is_ahead
                || news.count != self.count()
                || news.listed != self.lists
                || !news.came.is_empty()
                || !news.gone.is_empty()
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
        (news.count, news.is_ahead) = (count, false);
        let (came, gone) = (std::mem::take(&mut news.came), std::mem::take(&mut news.gone));
        news.gone_texts = 0;
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
        assert_eq!(members.leave(1, now, LIMITS), None);
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

    #[test]
    fn the_info_shown_is_that_of_a_connection_that_is_there() {
        let (mut members, now, node) = (members(), Instant::now(), NodeId::new(2));
        let with = |info: &str| Member::new("alice", Some(info));
        let shown = |members: &Members| members.list().unwrap()[0].info.clone().unwrap().to_string();
        for (connection, info) in [(1, "1"), (2, "2"), (3, "3")] {
            members.join(connection, Some(with(info)), now, LIMITS);
        }
        members.collect();
        assert_eq!(shown(&members), "3");
        members.leave(2, now, LIMITS);
        assert_eq!((shown(&members), members.has_news()), ("3".to_owned(), false));
        assert_eq!(members.leave(3, now, LIMITS), Some(true));
        assert_eq!((shown(&members), news(&mut members)), ("1".to_owned(), Some((only("alice"), vec![]))));
        let there = |info: &str| Some(NodeMembers { nameless: 0, unlisted: false, users: vec![with(info)] });
        members.hear(node, there("4"), now, LIMITS);
        members.hear(NodeId::new(3), there("5"), now, LIMITS);
        assert_eq!(shown(&members), "1", "of this node");
        members.leave(1, now, LIMITS);
        assert_eq!(shown(&members), "4");
        members.hear(node, None, now, LIMITS);
        assert_eq!(shown(&members), "5");
        members.hear(NodeId::new(3), None, now, LIMITS);
        assert_eq!((shown(&members), members.next_leave().is_some()), ("5".to_owned(), true), "alice lingers");
        members.expire(now + LIMITS.linger, LIMITS);
        members.ignore();
        assert_eq!((members.count(), members.bytes()), (0, 0));
    }

    #[test]
    fn the_account_of_texts_and_news_is_exact() {
        let (mut members, now) = (members(), Instant::now());
        let limits = Limits { linger: Duration::ZERO, ..LIMITS };
        let alice = |info: &str| Some(Member::new("alice", Some(info)));
        let gone = |members: &Members| members.news.as_ref().unwrap().gone_texts;
        members.collect();
        members.join(1, alice("12"), now, limits);
        members.join(2, user("bob"), now, limits);
        assert_eq!((members.texts(), members.listed(), members.take_news().unwrap().texts()), (10, 2, 10));
        let settled = members.bytes();
        members.leave(1, now, limits);
        assert_eq!((members.texts(), gone(&members)), (3, 7), "the info is known to the clients");
        members.tell_ahead();
        assert_eq!(gone(&members), 5, "and not known any more");
        members.join(3, alice("12"), now, limits);
        assert_eq!((members.texts(), gone(&members)), (10, 0));
        members.leave(3, now, limits);
        members.join(4, alice("345"), now, limits);
        members.leave(4, now, limits);
        members.leave(2, now, limits);
        assert_eq!((members.texts(), gone(&members)), (0, 8));
        assert_eq!(members.take_news().unwrap().texts(), 8);
        assert_eq!((gone(&members), members.bytes() < settled), (0, true));
        members.ignore();
        assert_eq!(members.bytes(), 0);
    }

    #[test]
    fn other_nodes_are_told_of_no_change_that_they_cannot_see() {
        let (mut members, now) = (members(), Instant::now());
        let alice = |info: &str| Some(Member::new("alice", Some(info)));
        assert!(members.join(1, alice("1"), now, LIMITS));
        let version = members.version();
        assert!(!members.join(1, alice("1"), now, LIMITS), "a refresh with the same token");
        assert_eq!(members.version(), version);
        assert!(!members.join(2, alice("1"), now, LIMITS), "a second tab");
        assert_eq!(members.leave(2, now, LIMITS), Some(false));
        assert!(members.join(1, alice("2"), now, LIMITS));
        assert!(members.join(1, user("bob"), now, LIMITS));
        assert!(members.join(2, None, now, LIMITS) && members.join(3, None, now, LIMITS));
        assert_eq!(members.leave(3, now, LIMITS), Some(true));
        assert_eq!(members.leave(1, now, LIMITS), Some(true));
    }
}
