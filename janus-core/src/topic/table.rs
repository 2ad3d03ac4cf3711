//! Topics by name, and the rules by which topics make room for new topics.
//!
//! Each topic counts for the address whose client asked for the topic first. One topic more than `max_topics` takes the
//! place of an unused topic ([`TopicTable::note_unused`]): of the oldest unused topic of the address with most topics,
//! or of the asking address itself if this address holds more than its share. Unused topics are kept in this order, so
//! the search does not go through 100,000 topics. An address within its share keeps the topics whose messages a client
//! may come back for.
//!
//! A topic falls asleep if detached sessions refer to it at its end. A sleeping topic has no actor and no place, but
//! the numbers continue on the next request, so these sessions miss nothing. At most `max_topics` topics may be asleep.
//! Beyond this limit the address with most sleeping topics loses its oldest sleeping topic, and the topic's sessions
//! are told when they come back.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

use crate::accounts::reached::Limit;
use crate::accounts::shares::{Shares, share};
use crate::accounts::{Account, Address};
use crate::ground::clock::Tick;
use crate::ground::trace::{self, Said, TraceKind};
use crate::topic::sequence::{Sequence, Start};
use crate::topic::{Asleep, Fate, Spare, TopicError, TopicState, Topics};
use crate::wire::TopicName;

#[derive(Debug, Default)]
pub(crate) struct TopicTable {
    topics: Mutex<Listed>,
    last_number: AtomicU64,
    pub(crate) ending: Ending,
}

/// Invariant: the first three fields hold the same topics.
#[derive(Debug, Default)]
struct Listed {
    by_name: HashMap<TopicName, Arc<TopicState>>,
    /// For lists, whose pages must cost no more than their entries. Too slow for every message.
    in_order: BTreeMap<TopicName, Arc<TopicState>>,
    /// An order for going through all topics a portion at a time, while topics come and go.
    by_number: BTreeMap<u64, Arc<TopicState>>,
    /// The number of topics of each address, and the unused topics of each address by their place. An unused topic may
    /// be in use again.
    shares: Shares<u64, Arc<TopicState>>,
    asleep: BTreeMap<TopicName, Sleeper>,
    /// The sleeping topics of each address, in the order of falling asleep.
    sleepers: Shares<u64, TopicName>,
    /// The last number in the orders of unused and of sleeping topics.
    left: u64,
    /// Whether the instance has ended. Then no topic is made any more, because no actor would end it.
    closed: bool,
}

/// What is known of a name.
#[derive(Debug)]
pub(crate) enum LookUp {
    Found(Arc<TopicState>),
    /// There is no topic, but sessions may rely on the topic's numbers.
    Asleep,
    None,
}

#[derive(Debug)]
struct Sleeper {
    asleep: Asleep,
    address: Address,
    number: u64,
    /// The tick of the first look that found no session with a cursor in the topic.
    forsaken: Option<Tick>,
}

/// Ended topics whose actors have not ended yet. Each has a place, which is free again when the actor is gone.
///
/// Without this limit a client going from topic to topic would leave actors behind faster than they end.
#[derive(Debug)]
pub(crate) struct Ending {
    places: Arc<Semaphore>,
    topics: Mutex<VecDeque<(Arc<TopicState>, OwnedSemaphorePermit)>>,
    added: Notify,
}

/// A place among the ending topics. More of these at once would make turns too long.
pub(crate) type EndingPlace = OwnedSemaphorePermit;

impl Default for Ending {
    fn default() -> Self {
        Self { places: Arc::new(Semaphore::new(Self::PLACES)), topics: Mutex::default(), added: Notify::new() }
    }
}

impl Ending {
    const PLACES: usize = 64;

    /// Waits for a place, first come, first served.
    pub(crate) async fn place(&self) -> EndingPlace {
        Arc::clone(&self.places).acquire_owned().await.expect("it is never closed")
    }

    pub(crate) fn try_place(&self) -> Option<EndingPlace> {
        Arc::clone(&self.places).try_acquire_owned().ok()
    }

    fn add(&self, topic: Arc<TopicState>, place: EndingPlace) {
        self.topics.lock().push_back((topic, place));
        self.added.notify_one();
    }

    /// The next topic whose actor is to be ended. The caller keeps the place until the actor is gone.
    pub(crate) async fn next(&self) -> (Arc<TopicState>, EndingPlace) {
        loop {
            if let Some(next) = self.topics.lock().pop_front() {
                return next;
            }
            self.added.notified().await;
        }
    }
}

impl TopicTable {
    pub(crate) fn find(&self, name: &str) -> Option<Arc<TopicState>> {
        self.topics.lock().by_name.get(name).cloned()
    }

    /// Finds a topic that may be asleep. In one look: a topic that wakes up between two looks would be overlooked.
    pub(crate) fn look_up(&self, name: &TopicName) -> LookUp {
        let topics = self.topics.lock();
        match topics.by_name.get(name.as_str()) {
            Some(topic) => LookUp::Found(Arc::clone(topic)),
            None if topics.asleep.contains_key(name) => LookUp::Asleep,
            None => LookUp::None,
        }
    }

    /// Finds a topic, or lists a new topic. Returns whether the topic is new, and must be started. If there are
    /// `max_topics` already, an unused topic makes room, which needs a place among the ending topics.
    pub(crate) fn find_or_insert(
        &self,
        name: &TopicName,
        by: Option<&Arc<Account>>,
        place: Option<EndingPlace>,
        shared: &Topics,
    ) -> Result<(Arc<TopicState>, bool), TopicError> {
        let mut topics = self.topics.lock();
        if let Some(topic) = topics.by_name.get(name.as_str()) {
            return Ok((Arc::clone(topic), false));
        }
        if topics.closed {
            return Err(TopicError::Ended);
        }
        let is_full = topics.by_name.len() >= shared.config().max_topics;
        let mut gone = None;
        if is_full {
            let ended = place.and_then(|place| Some((topics.make_room(by, shared)?, place)));
            let Some((ended, place)) = ended else {
                drop(topics);
                shared.accounts.note_refused(Limit::Topics, shared);
                return Err(TopicError::TooMany);
            };
            ended.leave_engine(shared);
            gone = Some(Arc::clone(&ended));
            self.ending.add(ended, place);
        }
        let number = self.last_number.fetch_add(1, Ordering::Relaxed) + 1;
        let asleep = topics.wake(name);
        let topic = Arc::new(TopicState::new(name.clone(), number, by.cloned(), asleep, shared));
        topics.list(&topic);
        drop(topics);
        if let Some(gone) = gone {
            gone.end_presence(shared);
        }
        shared.accounts.note_ended(Limit::Topics, usize::from(is_full), shared);
        Ok((topic, true))
    }

    /// Removes this very topic, and not a later topic of the same name.
    pub(crate) fn remove(&self, topic: &Arc<TopicState>) {
        self.topics.lock().unlist(topic);
    }

    /// Forgets a sleeping topic, because a message to it has been dropped. Returns whether the topic was asleep.
    pub(crate) fn forget(&self, name: &TopicName) -> bool {
        self.topics.lock().wake(name).is_some()
    }

    /// The last subscriber of a topic has left.
    pub(crate) fn note_unused(&self, topic: &Arc<TopicState>) {
        let keeps_messages = topic.keeps_messages();
        let mut topics = self.topics.lock();
        if topics.by_number.contains_key(&topic.number) {
            topics.left += 1;
            let place = Spare::place(topics.left, keeps_messages);
            topics.offer(topic, place);
        }
    }

    /// Ends a topic that has been unused for `idle` ticks. Brings the list of unused topics up to date for other
    /// topics: kept messages may have become too old, and a topic may have become unused without notice. Returns the
    /// place if it was not needed.
    pub(crate) fn look_after(
        &self,
        topic: &Arc<TopicState>,
        idle: u32,
        shared: &Topics,
        place: EndingPlace,
    ) -> Option<EndingPlace> {
        let tick = shared.clock.tick();
        let mut place = Some(place);
        if topic.is_idle_for(idle, shared, tick) {
            // Messages that a session has missed are kept for the session, but no longer than all messages.
            place = self.end(topic, !topic.anchor.has_cursors(), shared, place?);
            place.as_ref()?;
        }
        let place_now = topic.spare.get();
        // Not a new topic, whose subscriber is on the way.
        let is_spare = topic.is_unused() && (place_now != 0 || topic.is_idle_for(idle / 4, shared, tick));
        if is_spare && (place_now == 0 || Spare::keeps_messages(place_now) && !topic.keeps_messages()) {
            self.note_unused(topic);
        } else if !is_spare && place_now != 0 {
            self.topics.lock().withdraw(topic);
        }
        place
    }

    /// Ends the topic of this number if it is unused and keeps no messages.
    pub(crate) fn end_if_unused(&self, number: u64, shared: &Topics, place: EndingPlace) {
        let topic = self.topics.lock().by_number.get(&number).cloned();
        if let Some(topic) = topic {
            self.end(&topic, false, shared, place);
        }
    }

    fn end(
        &self,
        topic: &Arc<TopicState>,
        give_up_messages: bool,
        shared: &Topics,
        place: EndingPlace,
    ) -> Option<EndingPlace> {
        let mut topics = self.topics.lock();
        match topic.end(give_up_messages, shared.clock.tick()) {
            Fate::Ended(asleep) => topics.ended(topic, asleep, shared),
            Fate::Keeps | Fate::Used => return Some(place),
        }
        drop(topics);
        log::debug!(topic:% = topic.name; "topic {}: ended, unused", topic.name);
        shared.tracer.tell(TraceKind::End, || Said {
            from: "topic_manager".to_owned(),
            to: trace::topic(&topic.name),
            about: "unused".to_owned(),
        });
        topic.leave_engine(shared);
        topic.end_presence(shared);
        self.ending.add(Arc::clone(topic), place);
        None
    }

    /// Forgets sleeping topics without a session for `idle` ticks. Looks at the first `count` names after `after`.
    /// Returns the last of these names, or `None` at the end of the list.
    pub(crate) fn forget_forsaken(&self, after: &str, count: usize, idle: u32, tick: Tick) -> Option<TopicName> {
        let mut topics = self.topics.lock();
        let mut forgotten = Vec::new();
        let mut last = None;
        let rest = topics.asleep.range_mut::<str, _>((Bound::Excluded(after), Bound::Unbounded));
        for (name, sleeper) in rest.take(count) {
            last = Some(name.clone());
            if sleeper.asleep.anchor.has_cursors() {
                sleeper.forsaken = None;
            } else if tick.since(*sleeper.forsaken.get_or_insert(tick)) >= idle {
                forgotten.push(name.clone());
            }
        }
        for name in forgotten {
            topics.wake(&name);
        }
        last
    }

    pub(crate) fn len(&self) -> usize {
        self.topics.lock().by_name.len()
    }

    /// The topics with something to do that no thread has locked; none if the table is locked.
    #[cfg(all(test, feature = "fault-injection"))]
    pub(super) fn at_work(&self) -> Vec<Arc<TopicState>> {
        let topics = self.topics.try_lock();
        let topics = topics.iter().flat_map(|topics| topics.by_number.values().cloned());
        topics.filter(|topic| !topic.is_locked() && !topic.is_idle()).collect()
    }

    /// The number of topics made so far.
    pub(crate) fn made(&self) -> u64 {
        self.last_number.load(Ordering::Relaxed)
    }

    /// The number of topics, and the number of sleeping topics.
    pub(crate) fn count(&self) -> (usize, usize) {
        let topics = self.topics.lock();
        (topics.by_name.len(), topics.asleep.len())
    }

    pub(crate) fn all(&self) -> Vec<Arc<TopicState>> {
        self.topics.lock().by_number.values().cloned().collect()
    }

    /// The first `count` topics after the name `after` whose names begin with `prefix`, in the order of names.
    pub(crate) fn page(&self, prefix: &str, after: &str, count: usize) -> Vec<Arc<TopicState>> {
        let topics = self.topics.lock();
        let from = if after < prefix { Bound::Included(prefix) } else { Bound::Excluded(after) };
        let rest = topics.in_order.range::<str, _>((from, Bound::Unbounded));
        let rest = rest.take_while(|(name, _)| name.as_str().starts_with(prefix));
        rest.take(count).map(|(_, topic)| Arc::clone(topic)).collect()
    }

    /// Where the numbers of all topics continue, of `before` and of the table; the table knows better. Without the topics
    /// for which `end` is `None`.
    pub(super) fn ends(
        &self,
        before: &[Arc<TopicState>],
        end: impl Fn(&Sequence) -> Option<Start>,
    ) -> BTreeMap<TopicName, Start> {
        let topics = self.topics.lock();
        let sleepers = topics.asleep.iter().map(|(name, sleeper)| (name.clone(), Some(sleeper.asleep.start)));
        let sleepers: Vec<_> = sleepers.collect();
        let listed: Vec<_> = topics.by_number.values().cloned().collect();
        // A topic is looked at without the lock of the table, which is the first of the two.
        drop(topics);
        let end_of = |topic: &Arc<TopicState>| {
            let core = topic.core.lock();
            // Numbers that the engine has not given are no place to continue from.
            let is_placed = core.clustered.as_ref().is_none_or(|clustered| clustered.is_placed());
            (topic.name.clone(), if is_placed { end(&core.sequence) } else { None })
        };
        let ends = before.iter().map(end_of).chain(sleepers).chain(listed.iter().map(end_of));
        let ends: BTreeMap<_, _> = ends.collect();
        ends.into_iter().filter_map(|(name, end)| Some((name, end?))).collect()
    }

    /// Has a topic continue from `start` on its next request. Nobody relies on the topic yet, and it is forgotten as
    /// topics without a session are.
    pub(super) fn lay_asleep(&self, name: TopicName, start: Start, shared: &Topics) {
        let asleep = Asleep::at(&name, start, shared.ledger());
        self.topics.lock().fall_asleep(name, Address::Local, asleep, shared.config().max_topics);
    }

    /// Takes in no topic from now on. Returns all topics.
    pub(crate) fn close(&self) -> Vec<Arc<TopicState>> {
        let mut topics = self.topics.lock();
        topics.closed = true;
        topics.by_number.values().cloned().collect()
    }

    /// The `count` topics with the lowest numbers above `after`.
    pub(crate) fn portion(&self, after: u64, count: usize) -> Vec<Arc<TopicState>> {
        let topics = self.topics.lock();
        let rest = topics.by_number.range((Bound::Excluded(after), Bound::Unbounded));
        rest.take(count).map(|(_, topic)| Arc::clone(topic)).collect()
    }
}

impl Listed {
    /// The number of addresses asked to make room, the largest holders first.
    const ASKED: usize = 16;

    /// The number of unused topics looked at to make room, over all addresses. Most of them are still unused.
    const LOOKS: usize = 512;

    fn list(&mut self, topic: &Arc<TopicState>) {
        self.by_name.insert(topic.name.clone(), Arc::clone(topic));
        self.in_order.insert(topic.name.clone(), Arc::clone(topic));
        self.by_number.insert(topic.number, Arc::clone(topic));
        self.shares.hold(address_of(topic));
        if let Some(account) = &topic.account {
            account.topics.add(1);
        }
    }

    fn unlist(&mut self, topic: &Arc<TopicState>) -> bool {
        if self.by_number.remove(&topic.number).is_none() {
            return false;
        }
        self.by_name.remove(topic.name.as_ref());
        self.in_order.remove(topic.name.as_ref());
        self.withdraw(topic);
        self.shares.release(address_of(topic));
        if let Some(account) = &topic.account {
            account.topics.remove(1);
        }
        true
    }

    /// Lists a topic as unused.
    fn offer(&mut self, topic: &Arc<TopicState>, place: u64) {
        self.withdraw(topic);
        topic.spare.set(place);
        self.shares.offer(address_of(topic), place, Arc::clone(topic));
    }

    fn withdraw(&mut self, topic: &TopicState) {
        match topic.spare.set(0) {
            0 => {}
            place => drop(self.shares.withdraw(address_of(topic), place)),
        }
    }

    /// Ends an unused topic to make room for a topic that an address asks for.
    fn make_room(&mut self, by: Option<&Arc<Account>>, shared: &Topics) -> Option<Arc<TopicState>> {
        let share = share(shared.config().max_topics, shared.config().address_share);
        let own = by.map(|account| account.address).filter(|address| self.shares.held(*address) >= share);
        let mut looks = Self::LOOKS;
        if let Some(ended) = own.and_then(|address| self.end_one_of(address, true, &mut looks, shared)) {
            return Some(ended);
        }
        // An address with more than its share takes nothing from addresses with less.
        let least = own.map_or(0, |address| self.shares.held(address));
        let givers: Vec<_> = self.shares.givers().take(Self::ASKED).filter(|(held, _)| *held >= least).collect();
        givers.into_iter().find_map(|(held, address)| self.end_one_of(address, held >= share, &mut looks, shared))
    }

    /// Ends the first unused topic of an address.
    fn end_one_of(
        &mut self,
        address: Address,
        give_up_messages: bool,
        looks: &mut usize,
        shared: &Topics,
    ) -> Option<Arc<TopicState>> {
        while let Some(place) = self.shares.first(address) {
            let gives_up_messages = Spare::keeps_messages(place);
            if *looks == 0 || gives_up_messages && !give_up_messages {
                return None;
            }
            *looks -= 1;
            let topic = self.shares.withdraw(address, place)?;
            topic.spare.set(0);
            match topic.end(gives_up_messages, shared.clock.tick()) {
                Fate::Ended(asleep) => {
                    self.ended(&topic, asleep, shared);
                    return Some(topic);
                }
                // The topic has got a message since it was left.
                Fate::Keeps if !gives_up_messages => self.offer(&topic, Spare::place(place, true)),
                // The topic is noted again at the end of its history, or when the next subscriber leaves.
                Fate::Keeps | Fate::Used => {}
            }
        }
        None
    }

    /// Takes an ended topic off the lists. If a session relies on the topic, remembers where the numbers continue.
    fn ended(&mut self, topic: &Arc<TopicState>, asleep: Asleep, shared: &Topics) {
        self.unlist(topic);
        if asleep.anchor.has_cursors() {
            self.fall_asleep(topic.name.clone(), address_of(topic), asleep, shared.config().max_topics);
        }
    }

    /// Remembers where the numbers of a topic continue.
    fn fall_asleep(&mut self, name: TopicName, address: Address, asleep: Asleep, max_topics: usize) {
        // The place of an earlier sleeper of this name.
        self.wake(&name);
        if self.asleep.len() >= max_topics
            && let Some(largest) = self.sleepers.largest()
            && let Some(oldest) = self.sleepers.first(largest)
            && let Some(forgotten) = self.sleepers.withdraw(largest, oldest)
        {
            self.sleepers.release(largest);
            self.asleep.remove(&forgotten);
        }
        self.left += 1;
        let number = self.left;
        self.sleepers.hold(address);
        self.sleepers.offer(address, number, name.clone());
        self.asleep.insert(name, Sleeper { asleep, address, number, forsaken: None });
    }

    /// Takes a sleeping topic off its list.
    fn wake(&mut self, name: &TopicName) -> Option<Asleep> {
        let Sleeper { asleep, address, number, .. } = self.asleep.remove(name)?;
        self.sleepers.withdraw(address, number);
        self.sleepers.release(address);
        Some(asleep)
    }
}

/// The address for which a topic counts.
fn address_of(topic: &TopicState) -> Address {
    topic.account.as_ref().map_or(Address::Local, |account| account.address)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::topic::shared::tests::with_topics;

    fn name(name: &str) -> TopicName {
        TopicName::new(name, 255).unwrap()
    }

    fn is_asleep(topics: &Topics) -> bool {
        matches!(topics.table.look_up(&name("news")), LookUp::Asleep)
    }

    fn names(topics: &[Arc<TopicState>]) -> Vec<&str> {
        topics.iter().map(|topic| topic.name.as_str()).collect()
    }

    #[test]
    fn topics_are_listed_by_name_and_by_number() {
        with_topics(Config::default(), |topics| {
            let table = &topics.table;
            for topic in ["b", "c", "a"] {
                topics.open_topic(&name(topic), None).unwrap();
            }
            assert_eq!((table.len(), table.made(), table.count()), (3, 3, (3, 0)));
            assert_eq!(names(&table.page("", "", 2)), ["a", "b"]);
            assert_eq!(names(&table.page("", "b", 2)), ["c"]);
            assert_eq!(names(&table.portion(0, 2)), ["b", "c"]);
            assert_eq!(names(&table.portion(2, 2)), ["a"]);
            assert!(Arc::ptr_eq(&topics.open_topic(&name("a"), None).unwrap(), &table.find("a").unwrap()));
            assert_eq!(table.made(), 3, "found, not made again");
        });
    }

    #[test]
    fn a_removed_topic_leaves_a_later_topic_of_its_name() {
        with_topics(Config::default(), |topics| {
            let first = topics.open_topic(&name("news"), None).unwrap();
            topics.table.remove(&first);
            assert!(topics.table.find("news").is_none());
            let second = topics.open_topic(&name("news"), None).unwrap();
            assert_ne!(first.epoch(), second.epoch());
            topics.table.remove(&first);
            assert!(topics.table.find("news").is_some_and(|listed| Arc::ptr_eq(&listed, &second)));
        });
    }

    #[test]
    fn a_full_table_without_an_unused_topic_refuses_a_new_topic() {
        with_topics(Config { max_topics: 2, ..Config::default() }, |topics| {
            let opened = ["a", "b", "c"].map(|topic| topics.open_topic(&name(topic), None).err());
            assert_eq!(opened, [None, None, Some(TopicError::TooMany)]);
            // Noted as unused, but on its way up.
            topics.table.note_unused(&topics.table.find("a").unwrap());
            assert_eq!(topics.open_topic(&name("c"), None).err(), Some(TopicError::TooMany));
            assert!(topics.open_topic(&name("b"), None).is_ok(), "an existing topic is found");
        });
    }

    #[test]
    fn a_closed_table_makes_no_topic() {
        with_topics(Config::default(), |topics| {
            topics.open_topic(&name("a"), None).unwrap();
            assert_eq!(names(&topics.table.close()), ["a"]);
            assert_eq!(topics.open_topic(&name("b"), None).err(), Some(TopicError::Ended));
        });
    }

    #[test]
    fn a_sleeping_topic_continues_its_numbers_until_it_is_forgotten() {
        with_topics(Config::default(), |topics| {
            let topic = topics.open_topic(&name("news"), None).unwrap();
            let (anchor, epoch) = (Arc::clone(&topic.anchor), topic.epoch());
            anchor.add_cursor();
            let start = topic.core.lock().sequence.start();
            let asleep = Asleep { anchor: Arc::clone(&anchor), start };
            topics.table.topics.lock().ended(&topic, asleep, topics);
            assert_eq!((topics.table.count(), is_asleep(topics)), ((0, 1), true));
            let idle = 10;
            let forget = |tick| topics.table.forget_forsaken("", 8, idle, Tick::new(tick));
            forget(100);
            assert!(is_asleep(topics), "a session refers to the topic");
            let woken = topics.find_or_wake(&name("news"), None).unwrap();
            assert_eq!((woken.epoch(), Arc::ptr_eq(&woken.anchor, &anchor)), (epoch, true));
            let asleep = Asleep { anchor: Arc::clone(&anchor), start };
            topics.table.topics.lock().ended(&woken, asleep, topics);
            anchor.remove_cursor();
            for (tick, asleep) in [(200, true), (209, true), (210, false)] {
                forget(tick);
                assert_eq!(is_asleep(topics), asleep, "tick {tick}");
            }
            assert_eq!(topics.table.count(), (0, 0));
        });
    }
}
