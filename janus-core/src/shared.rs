//! What the actors of one tree share, and what must outlive any of them: the tables.
//!
//! No actor owns a table. Each table plays the part of an ETS table with an heir: whoever crashes, its successor finds
//! it as it was. Nothing here is global; two instances in one process do not see each other.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use slab::Slab;
use tokio::time::Instant;

use crate::acceptor::Endpoint;
use crate::address::Accounts;
use crate::client_proxy::{Session, SessionTable};
use crate::config::Config;
use crate::delivery::{Codecs, Ledger, SenderPool, Slot, Terms};
use crate::fault::Faults;
use crate::hooks::HookRunner;
use crate::proxy_mapper::ProxyMapper;
use crate::slow_clients::Lines;
use crate::supervision::{ActorRef, DynamicSupervisor, Place};
use crate::topic::{TopicError, TopicState, topic_of};
use crate::topic_manager::{TopicManager, Unstarted};
use crate::turn::Turns;
use crate::wire::{Limits, Timestamp, TopicName};

/// Everything the tree shares; every actor holds one `Arc` of it.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) config: Config,
    pub(crate) clock: Clock,
    pub(crate) topics: TopicTable,
    pub(crate) unstarted: Unstarted,
    /// The slots of subscribers in this process, by their number; as many as the program has made.
    pub(crate) locals: Mutex<HashMap<u64, Arc<Slot>>>,
    pub(crate) sessions: SessionTable,
    pub(crate) connections: ConnectionTable,
    pub(crate) accounts: Accounts,
    pub(crate) senders: SenderPool,
    pub(crate) terms: Arc<Terms>,
    /// See [`pressure`](Self::pressure); set by the memory keeper.
    pub(crate) pressure: AtomicU32,
    pub(crate) counters: Counters,
    pub(crate) cut_off_lines: Lines,
    pub(crate) faults: Arc<Faults>,
    pub(crate) topic_manager: ActorRef<TopicManager>,
    pub(crate) proxy_mapper: ActorRef<ProxyMapper>,
    pub(crate) endpoints: Vec<Arc<Endpoint>>,
    /// Where the actors live.
    pub(crate) home: Place,
    pub(crate) load: Load,
    pub(crate) turns: Turns,
    pub(crate) topic_supervisor: DynamicSupervisor,
    pub(crate) transport_supervisor: DynamicSupervisor,
    /// Set when a drain begins: from then on nobody may publish.
    pub(crate) draining: AtomicBool,
    /// When a drain must be over.
    pub(crate) drain_deadline: Mutex<Option<Instant>>,
    /// The embedder's, if it has any.
    pub(crate) hooks: Option<Arc<HookRunner>>,
}

impl Shared {
    pub(crate) fn ledger(&self) -> &Arc<Ledger> {
        &self.terms.ledger
    }

    /// The topic of this name, which is made if there is none. Its actor may still be on its way up: what it is given waits.
    pub(crate) fn open_topic(&self, name: &TopicName) -> Result<Arc<TopicState>, TopicError> {
        let (topic, is_new) = self
            .topics
            .find_or_insert(name, self.config.max_topics, |number| TopicState::new(name.clone(), number, self))?;
        if is_new {
            self.unstarted.add(Arc::clone(&topic));
        }
        Ok(topic)
    }

    /// Bytes that messages, queues, sessions, connections and topics take, by the server's own account: what
    /// `memory_budget_bytes` is held against. Cheap enough to be asked for each new connection.
    pub(crate) fn memory_used(&self) -> usize {
        let (_, detached) = self.sessions.count();
        self.ledger().bytes()
            + (self.connections.taken() + self.connections.refusals()) * CONNECTION_BYTES
            + detached * DETACHED_SESSION_BYTES
            + self.topics.len() * TOPIC_BYTES
    }

    /// Whether so many per cent of the memory budget are used; never without a budget.
    pub(crate) fn memory_is_at(&self, percent: usize) -> bool {
        let budget = self.config.memory_budget_bytes;
        budget > 0 && self.memory_used() >= budget / 100 * percent
    }

    pub(crate) fn local_slots(&self) -> Vec<Arc<Slot>> {
        self.locals.lock().values().cloned().collect()
    }

    /// By how much topics must keep less than they may, in powers of two.
    pub(crate) fn pressure(&self) -> u32 {
        self.pressure.load(Ordering::Relaxed)
    }

    pub(crate) fn wire_limits(&self) -> Limits {
        let Config { max_frame_bytes, max_topic_bytes, max_topics_per_client: max_topics, .. } = self.config;
        Limits { max_frame_bytes, max_topic_bytes, max_topics }
    }

    pub(crate) fn codecs(&self) -> &Arc<Codecs> {
        &self.terms.codecs
    }

    /// Takes the topic whose actor has this name out of service, and puts it back when its quarantine is over.
    pub(crate) fn quarantine_topic(&self, actor: &str) {
        if let Some(topic) = topic_of(actor).and_then(|name| self.topics.find(name)) {
            log::error!("topic {}: keeps crashing, out of service for {:?}", topic.name, self.config.topic_quarantine);
            topic.quarantine(&self.senders);
        }
    }

    /// What is left to do when the tree has ended, in whatever way: nobody must wait for it any more.
    pub(crate) fn close(&self) {
        self.draining.store(true, Ordering::Release);
        self.endpoints.iter().for_each(|endpoint| endpoint.close());
        self.topics.close().iter().for_each(|topic| topic.shut_down(&self.senders));
    }

    /// When a close that begins now, and may take so long, must be over.
    pub(crate) fn close_deadline(&self, time: Duration) -> Instant {
        let deadline = Instant::now() + time;
        self.drain_deadline.lock().map_or(deadline, |drain| drain.min(deadline))
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }
}

/// A connection with its slot, its Transport and its session: of the binary's resident memory, 4,000 took 1,880 bytes each.
/// With a subscription, which has a price of its own, it was 1,954 (`docs/BENCHMARKS.md`).
const CONNECTION_BYTES: usize = 1_880;

/// A session in the tables, without its cursors: 15,000 with one each took 315 bytes.
const DETACHED_SESSION_BYTES: usize = 300;

/// A topic with its actor, without messages and subscribers: 50,000 with one each took 2,622 bytes.
const TOPIC_BYTES: usize = 2_500;

/// The time of a frame, as the classic protocol writes it.
pub(crate) fn timestamp() -> Timestamp {
    #[cfg(all(test, feature = "fault-injection"))]
    if let Some(virtual_time) = crate::simulation::since_unix_epoch() {
        return Timestamp::from_unix(virtual_time);
    }
    // A clock before 1970 is wrong in any case; the frame goes out all the same.
    Timestamp::from_unix(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default())
}

/// Coarse time: one tick a second (less where a timeout is shorter), kept by the heartbeat.
///
/// Thousands of connections note when they were last served; reading a real clock each time, or a timer each, would
/// cost more than what it times.
#[derive(Debug)]
pub(crate) struct Clock {
    /// Starts at 1, because 0 stands for "never" wherever a tick is stored.
    tick: AtomicU32,
    pub(crate) period: Duration,
}

impl Clock {
    /// A clock fine enough for the shortest timeout that is measured in ticks.
    pub(crate) fn for_config(config: &Config) -> Self {
        let shortest = config
            .heartbeat_interval
            .min(config.frame_timeout)
            .min(config.topic_idle)
            .min(config.write_timeout)
            .min(config.stall_timeout);
        let period = (shortest / 4).clamp(Duration::from_millis(5), Duration::from_secs(1));
        Self { tick: AtomicU32::new(1), period }
    }

    pub(crate) fn tick(&self) -> u32 {
        self.tick.load(Ordering::Relaxed)
    }

    pub(crate) fn advance(&self) -> u32 {
        let tick = self.tick.load(Ordering::Relaxed).wrapping_add(1).max(1);
        self.tick.store(tick, Ordering::Relaxed);
        tick
    }

    /// How many ticks `time` is, rounded up, and one more because the current tick is already running.
    pub(crate) fn ticks(&self, time: Duration) -> u32 {
        let ticks = time.as_nanos().div_ceil(self.period.as_nanos());
        u32::try_from(ticks).unwrap_or(u32::MAX - 1) + 1
    }
}

/// How busy the home arbiter is; written by its thread alone.
#[derive(Debug, Default)]
pub(crate) struct Load {
    /// The arbiter's last pause that was seen.
    pause: AtomicU64,
    /// How often it has sent something since then.
    sends: AtomicUsize,
}

impl Load {
    /// Sends of a millisecond or two. An arbiter that has had no pause for so long has more to do than it can.
    const BEHIND: usize = 256;

    pub(crate) fn add(&self, sends: usize) {
        self.sends.store(self.sends.load(Ordering::Relaxed).saturating_add(sends), Ordering::Relaxed);
    }

    /// Whether the arbiter has more to do than it can; `pause` is the number of its last pause.
    pub(crate) fn is_behind(&self, pause: u64) -> bool {
        if self.pause.swap(pause, Ordering::Relaxed) != pause {
            self.sends.store(0, Ordering::Relaxed);
        }
        self.sends.load(Ordering::Relaxed) >= Self::BEHIND
    }
}

/// Topics by name: the truth that the TopicManager works on.
#[derive(Debug, Default)]
pub(crate) struct TopicTable {
    topics: Mutex<Topics>,
    last_number: AtomicU64,
}

/// Invariant: all three hold the same topics.
#[derive(Debug, Default)]
struct Topics {
    by_name: HashMap<TopicName, Arc<TopicState>>,
    /// For lists, whose pages must cost no more than what is on them; too slow for every message.
    in_order: BTreeMap<TopicName, Arc<TopicState>>,
    /// An order in which they can be gone through a portion at a time, while others come and go.
    by_number: BTreeMap<u64, Arc<TopicState>>,
    /// Whether the instance has ended, and no topic is made any more: nobody would end it.
    closed: bool,
}

impl TopicTable {
    pub(crate) fn find(&self, name: &str) -> Option<Arc<TopicState>> {
        self.topics.lock().by_name.get(name).cloned()
    }

    /// Finds a topic, or lists one made by `make` from a number that no other topic of the instance has had, unless there
    /// are `max` already; whether it is new, and must be started.
    pub(crate) fn find_or_insert(
        &self,
        name: &TopicName,
        max: usize,
        make: impl FnOnce(u64) -> TopicState,
    ) -> Result<(Arc<TopicState>, bool), TopicError> {
        let mut topics = self.topics.lock();
        if let Some(topic) = topics.by_name.get(name.as_str()) {
            return Ok((Arc::clone(topic), false));
        }
        if topics.closed {
            return Err(TopicError::Ended);
        }
        if topics.by_name.len() >= max {
            return Err(TopicError::TooMany);
        }
        let topic = Arc::new(make(self.last_number.fetch_add(1, Ordering::Relaxed) + 1));
        topics.by_name.insert(name.clone(), Arc::clone(&topic));
        topics.in_order.insert(name.clone(), Arc::clone(&topic));
        topics.by_number.insert(topic.number, Arc::clone(&topic));
        Ok((topic, true))
    }

    /// Removes this very topic; one that has taken its name since stays.
    pub(crate) fn remove(&self, topic: &Arc<TopicState>) {
        let mut topics = self.topics.lock();
        if topics.by_name.get(topic.name.as_ref()).is_some_and(|other| Arc::ptr_eq(other, topic)) {
            topics.by_name.remove(topic.name.as_ref());
            topics.in_order.remove(topic.name.as_ref());
            topics.by_number.remove(&topic.number);
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.topics.lock().by_name.len()
    }

    pub(crate) fn all(&self) -> Vec<Arc<TopicState>> {
        self.topics.lock().by_number.values().cloned().collect()
    }

    /// At most `count` topics, in the order of their names, those that come after `after`.
    pub(crate) fn page(&self, after: &str, count: usize) -> Vec<Arc<TopicState>> {
        let topics = self.topics.lock();
        let rest = topics.in_order.range::<str, _>((Bound::Excluded(after), Bound::Unbounded));
        rest.take(count).map(|(_, topic)| Arc::clone(topic)).collect()
    }

    /// Takes in no topic from now on; all there are.
    pub(crate) fn close(&self) -> Vec<Arc<TopicState>> {
        let mut topics = self.topics.lock();
        topics.closed = true;
        topics.by_number.values().cloned().collect()
    }

    /// At most `count` topics, those with the lowest numbers above `after`.
    pub(crate) fn portion(&self, after: u64, count: usize) -> Vec<Arc<TopicState>> {
        let topics = self.topics.lock();
        let rest = topics.by_number.range((Bound::Excluded(after), Bound::Unbounded));
        rest.take(count).map(|(_, topic)| Arc::clone(topic)).collect()
    }
}

/// The slots of all connections, and the count that `max_connections` limits.
#[derive(Debug, Default)]
pub(crate) struct ConnectionTable {
    listed: Mutex<Listed>,
    last_id: AtomicU64,
    /// Connections that are being refused; they are in no table.
    refusals: AtomicUsize,
}

#[derive(Debug, Default)]
struct Listed {
    slots: Slab<Connected>,
    /// Places of connections that are on their way into the table.
    reserved: usize,
}

/// An open connection.
#[derive(Debug)]
struct Connected {
    slot: Arc<Slot>,
    /// Once it is served.
    session: Option<Arc<Session>>,
}

impl ConnectionTable {
    /// A number for a connection, which is never used again.
    pub(crate) fn next_id(&self) -> u64 {
        self.last_id.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Notes that one more connection is being refused, unless `limit` are.
    pub(crate) fn begin_refusal(&self, limit: usize) -> bool {
        let add = |refusals| (refusals < limit).then_some(refusals + 1);
        self.refusals.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add).is_ok()
    }

    pub(crate) fn end_refusal(&self) {
        self.refusals.fetch_sub(1, Ordering::Relaxed);
    }

    /// How many connections are being refused.
    pub(crate) fn refusals(&self) -> usize {
        self.refusals.load(Ordering::Relaxed)
    }

    /// Notes the session of a connection, which may change.
    pub(crate) fn set_session(&self, slot: &Arc<Slot>, session: &Arc<Session>) {
        let earlier = slot.place.and_then(|place| {
            let slots = &mut self.listed.lock().slots;
            let connected = slots.get_mut(place as usize).filter(|other| Arc::ptr_eq(&other.slot, slot))?;
            connected.session.replace(Arc::clone(session))
        });
        // Without the lock: it may be the last to hold a topic.
        drop(earlier);
    }

    /// The session of a connection, if it is served.
    pub(crate) fn session(&self, slot: &Slot) -> Option<Arc<Session>> {
        let slots = &self.listed.lock().slots;
        slots.get(slot.place? as usize).filter(|other| other.slot.id == slot.id)?.session.clone()
    }

    pub(crate) fn remove(&self, slot: &Arc<Slot>) {
        let Some(place) = slot.place.map(|place| place as usize) else { return self.end_refusal() };
        let removed = {
            let slots = &mut self.listed.lock().slots;
            let is_there = slots.get(place).is_some_and(|other| Arc::ptr_eq(&other.slot, slot));
            is_there.then(|| slots.remove(place))
        };
        drop(removed);
    }

    pub(crate) fn len(&self) -> usize {
        self.listed.lock().slots.len()
    }

    /// How many places are taken: by connections, and by those on their way.
    pub(crate) fn taken(&self) -> usize {
        let listed = self.listed.lock();
        listed.slots.len() + listed.reserved
    }

    /// Shows `visit` the connections in `places`; false once there are none so far up in the table.
    pub(crate) fn visit(&self, places: std::ops::Range<usize>, mut visit: impl FnMut(&Arc<Slot>)) -> bool {
        self.visit_with_session(places, |slot, _| visit(slot))
    }

    /// The same, with the session of each connection that is served.
    pub(crate) fn visit_with_session(
        &self,
        places: std::ops::Range<usize>,
        mut visit: impl FnMut(&Arc<Slot>, Option<&Arc<Session>>),
    ) -> bool {
        let slots = &self.listed.lock().slots;
        let more = places.end < slots.capacity();
        let places = places.start..places.end.min(slots.capacity());
        let connected = places.filter_map(|place| slots.get(place));
        connected.for_each(|connected| visit(&connected.slot, connected.session.as_ref()));
        more
    }
}

/// A place in the table for a connection that is on its way there, from whatever thread; it is given back with a connection that
/// never arrives.
pub(crate) struct Reservation {
    shared: Arc<Shared>,
    /// Whether the place is the connection's own by now.
    used: bool,
}

impl Reservation {
    /// Takes a place, unless `max_connections` are taken.
    pub(crate) fn new(shared: &Arc<Shared>) -> Option<Self> {
        let mut listed = shared.connections.listed.lock();
        if listed.slots.len() + listed.reserved >= shared.config.max_connections {
            return None;
        }
        listed.reserved += 1;
        Some(Self { shared: Arc::clone(shared), used: false })
    }

    /// Enters a connection made by `make` from its number, which is never used again, and its place in the table.
    pub(crate) fn enter(mut self, make: impl FnOnce(u64, u32) -> Slot) -> Arc<Slot> {
        let connections = &self.shared.connections;
        let mut listed = connections.listed.lock();
        let id = connections.next_id();
        let entry = listed.slots.vacant_entry();
        let slot = Arc::new(make(id, u32::try_from(entry.key()).expect("fewer clients than 2^32")));
        let slot = Arc::clone(&entry.insert(Connected { slot, session: None }).slot);
        // In one go, or the connection would count twice for a moment.
        listed.reserved -= 1;
        drop(listed);
        self.used = true;
        slot
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if !self.used {
            self.shared.connections.listed.lock().reserved -= 1;
        }
    }
}

/// What happened so far.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) connections_refused: AtomicU64,
    /// Of those, the ones for which there was no memory.
    pub(crate) connections_refused_for_memory: AtomicU64,
    /// Messages that topics did not keep for as long as they may, because memory was short.
    pub(crate) messages_trimmed: AtomicU64,
    pub(crate) sessions_ended_for_memory: AtomicU64,
    pub(crate) connections_accepted: AtomicU64,
    pub(crate) frames_timed_out: AtomicU64,
    pub(crate) pings_unanswered: AtomicU64,
    pub(crate) frames_refused: AtomicU64,
    pub(crate) accept_pauses: AtomicU64,
    /// Connections that ended with something still queued for them, other than slow consumers.
    pub(crate) cut_off: AtomicU64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeout_in_ticks_is_never_shorter_than_the_time() {
        let clock = Clock::for_config(&Config::default());
        assert_eq!(clock.period, Duration::from_secs(1));
        assert_eq!(clock.ticks(Duration::from_secs(30)), 31);
        assert_eq!(clock.ticks(Duration::from_millis(1_001)), 3);
    }

    #[test]
    fn an_arbiter_is_behind_when_it_sends_and_sends_without_a_pause() {
        let load = Load::default();
        assert!(!load.is_behind(7));
        load.add(Load::BEHIND - 1);
        assert!(!load.is_behind(7));
        load.add(1);
        assert!(load.is_behind(7));
        assert!(!load.is_behind(8), "it has had a pause since");
    }

    #[test]
    fn a_short_timeout_makes_the_clock_finer() {
        let short = Duration::from_millis(100);
        for config in [
            Config { heartbeat_interval: short, ..Config::default() },
            Config { write_timeout: short, ..Config::default() },
            Config { stall_timeout: short, ..Config::default() },
        ] {
            assert_eq!(Clock::for_config(&config).period, Duration::from_millis(25));
        }
    }
}
