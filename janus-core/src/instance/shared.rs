//! What the actors of one tree share, and what must outlive any of them: the tables.
//!
//! No actor owns a table. Each table plays the part of an ETS table with an heir: whoever crashes, its successor finds
//! it as it was. Nothing here is global; two instances in one process do not see each other.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use slab::Slab;
use tokio::time::Instant;

use crate::accounts::fairness::Fairness;
use crate::accounts::reached::Reached;
use crate::accounts::{Account, Accounts};
use crate::config::Config;
use crate::connection::acceptor::Endpoint;
use crate::connection::guests::Guests;
use crate::connection::slow_clients::Lines;
use crate::connection::turn::Turns;
use crate::delivery::{Codecs, Ledger, PassNumbers, SenderPool, Slot, Subscription, Terms};
use crate::ground::fault::Faults;
use crate::ground::trace::{self, Said, TraceKind, Tracer};
use crate::hooks::HookRunner;
use crate::session::proxy_mapper::ProxyMapper;
use crate::session::{Session, SessionTable};
use crate::supervision::{ActorRef, DynamicSupervisor, Place};
use crate::topic::manager::{TopicManager, Unstarted};
use crate::topic::table::TopicTable;
use crate::topic::{TopicError, TopicState, topic_of};
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
    /// Of the passes of all topics.
    pub(crate) pass_numbers: Arc<PassNumbers>,
    /// See [`pressure`](Self::pressure); set by the memory keeper.
    pub(crate) pressure: AtomicU32,
    pub(crate) counters: Counters,
    pub(crate) cut_off_lines: Lines,
    pub(crate) reached: Reached,
    pub(crate) faults: Arc<Faults>,
    pub(crate) topic_manager: ActorRef<TopicManager>,
    pub(crate) proxy_mapper: ActorRef<ProxyMapper>,
    pub(crate) endpoints: Vec<Arc<Endpoint>>,
    /// Where the actors live.
    pub(crate) home: Place,
    pub(crate) load: Load,
    pub(crate) turns: Turns,
    pub(crate) fairness: Fairness,
    pub(crate) topic_supervisor: DynamicSupervisor,
    pub(crate) transport_supervisor: DynamicSupervisor,
    /// Set when a drain begins: from then on nobody may publish.
    pub(crate) draining: AtomicBool,
    /// When a drain must be over.
    pub(crate) drain_deadline: Mutex<Option<Instant>>,
    /// When it will be, unless clients are slow to take what waits for them.
    pub(crate) drain_end: Mutex<Option<Instant>>,
    /// The embedder's, if it has any.
    pub(crate) hooks: Option<Arc<HookRunner>>,
    pub(crate) tracer: Arc<Tracer>,
}

impl Shared {
    pub(crate) fn ledger(&self) -> &Arc<Ledger> {
        &self.terms.ledger
    }

    /// The topic of this name, which is made if there is none, for a client of the address that has this account. Its actor may
    /// still be on its way up: what it is given waits.
    pub(crate) fn open_topic(
        &self,
        name: &TopicName,
        by: Option<&Arc<Account>>,
    ) -> Result<Arc<TopicState>, TopicError> {
        let (topic, is_new) = self.topics.find_or_insert(name, by, self.topics.ending.try_place(), self)?;
        if is_new {
            self.unstarted.add(Arc::clone(&topic));
        }
        Ok(topic)
    }

    /// The topic of this name, if there is one, which may have to be woken.
    pub(crate) fn find_or_wake(&self, name: &TopicName, by: Option<&Arc<Account>>) -> Option<Arc<TopicState>> {
        let found = self.topics.find(name.as_str());
        found.or_else(|| self.topics.is_asleep(name).then(|| self.open_topic(name, by).ok())?)
    }

    /// Bytes that messages, queues, sessions, connections and topics take, by the server's own account: what
    /// `memory_budget_bytes` is held against. Cheap enough to be asked for each new connection.
    pub(crate) fn memory_used(&self) -> usize {
        let (_, detached) = self.sessions.count();
        let (topics, asleep) = self.topics.count();
        self.ledger().bytes()
            + self.connections.all() * CONNECTION_BYTES
            + detached * DETACHED_SESSION_BYTES
            + topics * TOPIC_BYTES
            + asleep * ASLEEP_BYTES
            + self.faults.memory_taken()
    }

    /// Whether so many per cent of the memory budget are used; never without a budget.
    pub(crate) fn memory_is_at(&self, percent: usize) -> bool {
        let budget = self.config.memory_budget_bytes;
        budget > 0 && self.memory_used() >= budget / 100 * percent
    }

    /// By how many bytes usage is over so many per cent of the memory budget.
    pub(crate) fn memory_over(&self, percent: usize) -> usize {
        self.memory_used().saturating_sub(self.config.memory_budget_bytes / 100 * percent)
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
        self.tracer.close();
    }

    /// When a close that begins now, and may take so long, must be over.
    pub(crate) fn close_deadline(&self, time: Duration) -> Instant {
        let deadline = Instant::now() + time;
        self.drain_deadline.lock().map_or(deadline, |drain| drain.min(deadline))
    }

    /// Tells the traces, if there are any, that a subscriber has joined a topic.
    pub(crate) fn trace_joined(&self, subscription: &Subscription, topic: &TopicName, after: u64) {
        self.tracer.tell(TraceKind::Subscribe, || Said {
            from: trace::subscriber(subscription),
            to: trace::topic(topic),
            about: format!("from number {} on", after + 1),
        });
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }
}

/// A connection with its slot, its Transport and its session: of the binary's resident memory, 4,000 took 1,880 bytes each.
/// With a subscription, which has a price of its own, it was 1,954 (`docs/BENCHMARKS.md`).
pub(crate) const CONNECTION_BYTES: usize = 1_880;

/// A session in the tables, without its cursors: 15,000 with one each took 315 bytes, before they were also kept by address.
const DETACHED_SESSION_BYTES: usize = 340;

/// A topic with its actor, without messages and subscribers: 50,000 with one each took 2,622 bytes, and since
/// topics are kept by address as well 38,400 have taken 170 more each.
const TOPIC_BYTES: usize = 2_700;

/// What is remembered of a topic that is asleep.
const ASLEEP_BYTES: usize = 400;

/// The time of a frame, as the classic protocol writes it.
pub(crate) fn timestamp() -> Timestamp {
    #[cfg(all(test, feature = "fault-injection"))]
    if let Some(virtual_time) = crate::simulation::since_unix_epoch() {
        return Timestamp::from_unix(virtual_time);
    }
    // A clock before 1970 is wrong in any case; the frame goes out all the same.
    Timestamp::from_unix(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default())
}

/// At each tick all connections are looked at, which with tens of thousands takes milliseconds.
const MIN_TICK: Duration = Duration::from_millis(50);

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
        let period = (shortest / 4).clamp(MIN_TICK, Duration::from_secs(1));
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

/// The slots of all connections, and the counts that `max_connections`, `reserved_connections` and `max_refusals` limit.
#[derive(Debug, Default)]
pub(crate) struct ConnectionTable {
    listed: Mutex<Listed>,
    last_id: AtomicU64,
}

#[derive(Debug, Default)]
struct Listed {
    slots: Slab<Connected>,
    /// Connections that have a place of `max_connections`.
    placed: usize,
    /// Such places of connections that are on their way into the table.
    reserved: usize,
    /// Connections that have none.
    guests: Guests,
    /// Connections that are being refused.
    refusals: usize,
}

/// An open connection.
#[derive(Debug)]
struct Connected {
    slot: Arc<Slot>,
    /// Once it is served.
    session: Option<Arc<Session>>,
    standing: Standing,
}

/// What a connection counts as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// It has a place of `max_connections`.
    Placed,
    /// It has none, see [`Guests`].
    Guest,
    /// It has none, and is among the `max_refusals` that may wait until they have read why.
    Refused,
    /// It counts as nothing, because it is about to be closed.
    Crowded,
}

impl ConnectionTable {
    /// A number for a connection, which is never used again.
    pub(crate) fn next_id(&self) -> u64 {
        self.last_id.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Enters a connection without a place of `max_connections`, made by `make` from its number and its place in the table.
    pub(crate) fn enter_guest(&self, make: impl FnOnce(u64, u32) -> Slot) -> Arc<Slot> {
        let mut listed = self.listed.lock();
        let slot = listed.enter(self.next_id(), Standing::Guest, make);
        listed.guests.add(&slot);
        slot
    }

    /// How many more connections there is room for; `is_short` says that guests must not use the places of others.
    pub(crate) fn room(&self, config: &Config, is_short: bool) -> usize {
        let Config { max_connections, reserved_connections, .. } = *config;
        let listed = self.listed.lock();
        let guests = listed.guests.len();
        let room = (max_connections + reserved_connections).saturating_sub(listed.placed + listed.reserved + guests);
        if is_short { room.min(reserved_connections.saturating_sub(guests)) } else { room }
    }

    /// Takes the guest out of the count that is to go first; the caller must end it.
    pub(crate) fn crowd_out(&self) -> Option<Arc<Slot>> {
        let mut listed = self.listed.lock();
        let slot = listed.guests.take_first()?;
        listed.set_standing(&slot, Standing::Crowded);
        Some(slot)
    }

    /// Notes that a guest has published. The guest that has to go for it must be ended by the caller.
    pub(crate) fn guest_has_published(&self, slot: &Slot, config: &Config) -> Option<Arc<Slot>> {
        let mut listed = self.listed.lock();
        let goes = listed.guests.has_published(slot, config.reserved_connections.div_ceil(2))?;
        listed.set_standing(&goes, Standing::Crowded);
        Some(goes)
    }

    /// Has a connection that closes be no guest any more; false if it is one still, or counts as nothing, because `limit`
    /// connections are being refused.
    pub(crate) fn leave(&self, slot: &Slot, limit: usize) -> bool {
        let mut listed = self.listed.lock();
        match listed.standing(slot) {
            Some(Standing::Guest | Standing::Crowded) if listed.refusals < limit => {
                listed.guests.remove(slot);
                listed.refusals += 1;
                listed.set_standing(slot, Standing::Refused);
                true
            }
            Some(Standing::Guest | Standing::Crowded) => false,
            Some(Standing::Placed | Standing::Refused) | None => true,
        }
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

    /// The number of the connection that came last.
    pub(crate) fn last_id(&self) -> u64 {
        self.last_id.load(Ordering::Relaxed)
    }

    pub(crate) fn remove(&self, slot: &Arc<Slot>) {
        let Some(place) = slot.place.map(|place| place as usize) else { return };
        let removed = {
            let mut listed = self.listed.lock();
            let standing = listed.standing(slot);
            match standing {
                Some(Standing::Placed) => listed.placed -= 1,
                Some(Standing::Guest) => listed.guests.remove(slot),
                Some(Standing::Refused) => listed.refusals -= 1,
                Some(Standing::Crowded) | None => {}
            }
            standing.map(|_| listed.slots.remove(place))
        };
        drop(removed);
    }

    /// How many connections are open that are not being refused.
    pub(crate) fn len(&self) -> usize {
        let listed = self.listed.lock();
        listed.placed + listed.guests.len()
    }

    /// How many connections there are: all that are open, and those on their way.
    pub(crate) fn all(&self) -> usize {
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

impl Listed {
    fn enter(&mut self, id: u64, standing: Standing, make: impl FnOnce(u64, u32) -> Slot) -> Arc<Slot> {
        let entry = self.slots.vacant_entry();
        let slot = Arc::new(make(id, u32::try_from(entry.key()).expect("fewer clients than 2^32")));
        Arc::clone(&entry.insert(Connected { slot, session: None, standing }).slot)
    }

    fn entry(&mut self, slot: &Slot) -> Option<&mut Connected> {
        self.slots.get_mut(slot.place? as usize).filter(|other| std::ptr::eq(&*other.slot, slot))
    }

    fn standing(&mut self, slot: &Slot) -> Option<Standing> {
        self.entry(slot).map(|connected| connected.standing)
    }

    fn set_standing(&mut self, slot: &Slot, standing: Standing) {
        if let Some(connected) = self.entry(slot) {
            connected.standing = standing;
        }
    }
}

/// A place of `max_connections` for a connection that is on its way into the table, from whatever thread, or in it without one;
/// it is given back with a connection that never arrives.
pub(crate) struct Reservation {
    shared: Arc<Shared>,
    /// Whether the place is the connection's own by now.
    used: bool,
}

impl Reservation {
    /// Takes a place, unless `max_connections` are taken.
    pub(crate) fn new(shared: &Arc<Shared>) -> Option<Self> {
        let mut listed = shared.connections.listed.lock();
        if listed.placed + listed.reserved >= shared.config.max_connections {
            return None;
        }
        listed.reserved += 1;
        Some(Self { shared: Arc::clone(shared), used: false })
    }

    /// Enters a connection made by `make` from its number, which is never used again, and its place in the table.
    pub(crate) fn enter(mut self, make: impl FnOnce(u64, u32) -> Slot) -> Arc<Slot> {
        let connections = &self.shared.connections;
        let mut listed = connections.listed.lock();
        let slot = listed.enter(connections.next_id(), Standing::Placed, make);
        // In one go, or the connection would count twice for a moment.
        listed.reserved -= 1;
        listed.placed += 1;
        drop(listed);
        self.used = true;
        slot
    }

    /// Gives the place to a guest.
    pub(crate) fn give_to(mut self, slot: &Slot) {
        let mut listed = self.shared.connections.listed.lock();
        if let Some(Standing::Guest | Standing::Crowded) = listed.standing(slot) {
            listed.guests.remove(slot);
            listed.set_standing(slot, Standing::Placed);
            listed.reserved -= 1;
            listed.placed += 1;
            self.used = true;
        }
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
    /// Connections that were closed for what they held without having asked for anything.
    pub(crate) connections_closed_for_memory: AtomicU64,
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
        let config = |time| {
            let config = Config::default();
            [
                Config { frame_timeout: time, ..config.clone() },
                Config { heartbeat_interval: time, ..config.clone() },
                Config { write_timeout: time, ..config.clone() },
                Config { stall_timeout: time, ..config },
            ]
        };
        for (timeout, tick) in [(1_000, 250), (400, 100), (10, 50)] {
            for config in config(Duration::from_millis(timeout)) {
                assert_eq!(Clock::for_config(&config).period, Duration::from_millis(tick));
            }
        }
    }
}
