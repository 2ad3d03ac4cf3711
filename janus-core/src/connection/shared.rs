//! The shared part of the connection floor: the connections, and how the time of a home arbiter is divided between them.

use std::ops::Deref;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use arc_swap::{ArcSwap, Guard};
use parking_lot::Mutex;

use super::acceptor::Endpoint;
use super::heartbeat::Promised;
use super::rates::Rates;
use super::socket_options::Options;
use super::table::ConnectionTable;
use super::tls::Tls;
use super::turn::Turns;
use super::users::Users;
use crate::accounts::fairness::Fairness;
use crate::config::Config;
use crate::delivery::Slot;
use crate::ground::homes::HomeId;
use crate::ground::log_lines::LogLines;
use crate::hooks::{Client, Gates, HookRunner, Revocations};
use crate::session::{Session, Sessions};
use crate::supervision::{DynamicSupervisor, Shutdown};
use crate::wire::TopicName;

/// See the module's documentation. Dereferences to the [`Sessions`] below.
#[derive(Debug)]
pub(crate) struct Connections {
    pub(crate) sessions: Arc<Sessions>,
    pub(crate) table: ConnectionTable,
    pub(crate) endpoints: Vec<Arc<Endpoint>>,
    /// The options of their listening sockets.
    pub(crate) bound: Options,
    pub(crate) transport_supervisor: DynamicSupervisor,
    /// How the time of each home arbiter is divided, in the order of the homes.
    shifts: Box<[Shift]>,
    /// The rates of each client.
    rates: ArcSwap<Rates>,
    /// Whether the rates limit messages: to load the rates for each message would be a noticeable part of its cost.
    limits_publishes: AtomicBool,
    /// The heartbeats that clients were promised before a reload.
    promised: Mutex<Promised>,
    pub(crate) users: Users,
    /// Clients that lagged in the last tick.
    pub(crate) slow_clients: AtomicUsize,
    /// Limits the log lines about slow consumers.
    pub(crate) cut_off_lines: LogLines,
    /// Limits the log lines about clients that exceed their rates.
    pub(crate) rate_lines: LogLines,
    /// Limits the lines about clients closed because they would have missed messages.
    pub(crate) lost_lines: LogLines,
    /// The embedder's hooks, if there are any.
    hooks: Option<Arc<HookRunner>>,
    /// The protocols that decide about their own clients; set once, before the first client.
    pub(crate) gates: OnceLock<Gates>,
    /// Users and tokens that are not served, whatever the hooks say.
    pub(crate) revocations: Revocations,
    /// For TLS listeners, if there are any.
    pub(crate) tls: Option<Arc<Tls>>,
}

impl Connections {
    pub(crate) fn new(
        sessions: Arc<Sessions>,
        endpoints: Vec<Arc<Endpoint>>,
        transport_supervisor: DynamicSupervisor,
        hooks: Option<Arc<HookRunner>>,
        tls: Option<Arc<Tls>>,
    ) -> Self {
        let revocations = Revocations::new(sessions.config().max_revocations);
        let rates = Rates::new(&sessions.config(), None);
        Self {
            limits_publishes: AtomicBool::new(rates.publishes.is_some()),
            rates: ArcSwap::from_pointee(rates),
            promised: Mutex::default(),
            slow_clients: AtomicUsize::new(0),
            bound: Options::of(&sessions.config()),
            shifts: sessions.homes.iter().map(|home| Shift::new(home.id)).collect(),
            sessions,
            table: ConnectionTable::default(),
            endpoints,
            transport_supervisor,
            users: Users::default(),
            cut_off_lines: LogLines::default(),
            rate_lines: LogLines::default(),
            lost_lines: LogLines::default(),
            hooks,
            gates: OnceLock::new(),
            revocations,
            tls,
        }
    }

    /// How the time of a home arbiter is divided.
    pub(crate) fn shift(&self, home: HomeId) -> &Shift {
        &self.shifts[home.index()]
    }

    /// The endpoints without those that accept from a port of an earlier endpoint.
    pub(crate) fn ports(&self) -> impl Iterator<Item = &Arc<Endpoint>> {
        self.endpoints.iter().filter(|endpoint| endpoint.home == HomeId::FIRST)
    }

    /// Whether connections have been taken from the kernel and are not served yet.
    pub(crate) fn has_unserved(&self) -> bool {
        self.endpoints.iter().any(|endpoint| endpoint.unserved() > 0)
            || self.tls.as_ref().is_some_and(|tls| tls.is_busy())
    }

    /// The embedder's hooks, if there are any and they are needed now.
    pub(crate) fn hooks(&self) -> Option<&Arc<HookRunner>> {
        self.hooks.as_ref().filter(|hooks| hooks.are_needed())
    }

    /// The embedder's hooks, needed or not.
    pub(crate) fn installed_hooks(&self) -> Option<&Arc<HookRunner>> {
        self.hooks.as_ref()
    }

    /// The client of a connection; `None` if neither hooks nor a gate have identified the client.
    pub(crate) fn client(&self, slot: &Slot, session: &Session) -> Option<Client> {
        let identity = session.identity()?;
        Some(Client::new(slot.id, self.codecs().name(slot.codec()), session.peer(), identity))
    }

    /// Whether the topic belongs to a protocol, and takes a grant that names the topic.
    pub(crate) fn is_reserved(&self, topic: &TopicName) -> bool {
        self.gates.get().is_some_and(|gates| gates.reserve(topic))
    }

    /// The rates of each client.
    pub(crate) fn rates(&self) -> Guard<Arc<Rates>> {
        self.rates.load()
    }

    /// Whether the rates limit messages.
    pub(crate) fn limits_publishes(&self) -> bool {
        self.limits_publishes.load(Ordering::Relaxed)
    }

    /// The heartbeats that clients were promised before a reload.
    pub(crate) fn promised(&self) -> Promised {
        *self.promised.lock()
    }

    /// Takes over the settings of a reload where this floor keeps something made from them.
    pub(crate) fn follow(&self, old: &Config, new: &Config) {
        let rates = Rates::new(new, Some(&self.rates()));
        self.limits_publishes.store(rates.publishes.is_some(), Ordering::Relaxed);
        self.rates.store(Arc::new(rates));
        self.promised.lock().follow(old.heartbeat_interval, new.heartbeat_interval, self.slot_ids.last());
        self.revocations.follow(new.max_revocations);
        self.terms.follow(new);
        if let Some(hooks) = &self.hooks {
            hooks.follow(new);
        }
        self.topic_supervisor.set_quarantine(new.topic_quarantine);
        self.transport_supervisor.set_shutdown(Shutdown::Timeout(new.drain_timeout));
    }

    /// Bytes that messages, queues, sessions, connections and topics take, by the server's own account. This sum is
    /// held against `memory_budget_bytes`. Cheap enough to call for each new connection.
    pub(crate) fn memory_used(&self) -> usize {
        let (_, detached) = self.sessions.table.count();
        let (topics, asleep) = self.topics.table.count();
        self.ledger().bytes()
            + self.table.all() * CONNECTION_BYTES
            + detached * DETACHED_SESSION_BYTES
            + topics * TOPIC_BYTES
            + asleep * ASLEEP_BYTES
            + self.tls.as_ref().map_or(0, |tls| tls.memory())
            + self.faults.memory_taken()
    }

    /// Whether `percent` of the memory budget are used; false without a budget.
    pub(crate) fn memory_is_at(&self, percent: usize) -> bool {
        let budget = self.config().memory_budget_bytes;
        budget > 0 && self.memory_used() >= budget / 100 * percent
    }

    /// By how many bytes usage is above `percent` of the memory budget; 0 without a budget.
    pub(crate) fn memory_over(&self, percent: usize) -> usize {
        let budget = self.config().memory_budget_bytes;
        if budget == 0 {
            return 0;
        }
        self.memory_used().saturating_sub(budget / 100 * percent)
    }
}

/// How the time of one home arbiter is divided between its connections.
#[derive(Debug)]
pub(crate) struct Shift {
    pub(crate) turns: Turns,
    pub(crate) fairness: Fairness,
}

impl Shift {
    fn new(home: HomeId) -> Self {
        Self { turns: Turns::default(), fairness: Fairness::new(home) }
    }
}

impl Deref for Connections {
    type Target = Sessions;

    fn deref(&self) -> &Sessions {
        &self.sessions
    }
}

/// A connection with slot, Transport and session: 19,000 subscribers took 1,068 bytes each of the binary's resident memory
/// (`docs/BENCHMARKS.md`), with a subscription that has a price of its own.
pub(crate) const CONNECTION_BYTES: usize = 1_010;

/// A session in the tables, without its cursors: 15,000 sessions with a cursor each took 315 bytes each, before
/// sessions were also kept by address.
const DETACHED_SESSION_BYTES: usize = 340;

/// A topic with its actor, without messages and subscribers: 50,000 topics with a subscriber each took 2,622 bytes
/// each. Since topics are kept by address as well, 38,400 topics have taken 170 bytes more each.
const TOPIC_BYTES: usize = 2_700;

/// The memory of a sleeping topic.
const ASLEEP_BYTES: usize = 400;
