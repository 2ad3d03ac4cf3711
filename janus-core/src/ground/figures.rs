//! Figures beyond the table of counters: with labels, by thread, and of durations.
//!
//! Each label has a closed set of values, which only the program and its settings change, so a stranger can add no series.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;

use super::histogram::Histogram;
use crate::config::Config;
use crate::wire::ErrorCode;

/// See the module's documentation.
#[derive(Debug, Default)]
pub(crate) struct Figures {
    pub(crate) deliveries: Deliveries,
    /// From the number of the first message of a batch to the last subscriber.
    pub(crate) fan_outs: Histogram,
    /// From one pause of the home arbiter to the next.
    pub(crate) turns: Histogram,
    pub(crate) published: Published,
    /// Messages refused by their topic, or on the way there.
    pub(crate) publish_errors: ByCode,
    /// Connections ended by the server.
    pub(crate) disconnects: ByCode,
    /// Connections ended by the client.
    pub(crate) left: AtomicU64,
    pub(crate) restarts: Restarts,
}

impl Figures {
    pub(crate) fn new(config: &Config) -> Self {
        Self { published: Published::new(config), ..Self::default() }
    }
}

/// The counts of a thread, on cache lines of their own.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Cell {
    messages: AtomicU64,
    bytes: AtomicU64,
}

/// Messages handed to subscribers, and their bytes. Each thread that delivers adds to a cell of its own, so that the
/// threads of a fan-out do not wait for each other's cache line; a reader adds the cells up.
#[derive(Debug, Default)]
pub(crate) struct Deliveries([Cell; Self::CELLS]);

impl Deliveries {
    /// Threads beyond this number share the cells of others.
    const CELLS: usize = 16;

    /// Adds the deliveries of a piece, made by this thread.
    #[inline]
    pub(crate) fn add(&self, thread: usize, messages: u64, bytes: u64) {
        let cell = &self.0[thread % Self::CELLS];
        cell.messages.fetch_add(messages, Ordering::Relaxed);
        cell.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn messages(&self) -> u64 {
        self.0.iter().map(|cell| cell.messages.load(Ordering::Relaxed)).sum()
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.0.iter().map(|cell| cell.bytes.load(Ordering::Relaxed)).sum()
    }
}

/// A count for each code of an error.
#[derive(Debug)]
pub(crate) struct ByCode([AtomicU64; ErrorCode::ALL.len()]);

impl ByCode {
    pub(crate) fn add(&self, code: ErrorCode) {
        // The codes are numbered from 0 in the order of `ALL`.
        self.0[code as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn counts(&self) -> impl Iterator<Item = (ErrorCode, u64)> {
        ErrorCode::ALL.iter().zip(&self.0).map(|(code, count)| (*code, count.load(Ordering::Relaxed)))
    }
}

impl Default for ByCode {
    fn default() -> Self {
        Self([const { AtomicU64::new(0) }; ErrorCode::ALL.len()])
    }
}

/// By which way a message has come: the number of a codec, or [`API`](Self::API).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Via(u8);

impl Via {
    /// A call of the program, such as its HTTP API.
    pub(crate) const API: Self = Self(Self::WAYS as u8 - 1);

    /// A number of ways beyond the number of codecs.
    const WAYS: usize = 65;

    pub(crate) const fn codec(codec: u8) -> Self {
        Self(codec)
    }

    pub(crate) fn as_codec(self) -> Option<u8> {
        (self != Self::API).then_some(self.0)
    }
}

/// The place of a namespace among the counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct NamespaceId(u16);

/// Accepted messages, by namespace and way. A namespace without settings of its own counts as the default.
#[derive(Debug)]
pub(crate) struct Published(ArcSwap<Namespaces>);

/// The namespaces that have had settings since the start. Namespaces are added and never removed, because a count never
/// falls.
#[derive(Clone, Debug)]
struct Namespaces {
    /// The default namespace first, then the others in the order of their coming.
    all: Vec<(String, Arc<[AtomicU64; Via::WAYS]>)>,
    /// The namespaces with settings now.
    places: HashMap<String, NamespaceId>,
}

/// The label of topics without a namespace of the settings. A namespace of this name has the same label.
pub(crate) const DEFAULT_NAMESPACE: &str = "default";

impl Namespaces {
    /// The limit of namespaces since the start, each with half a kilobyte: several times as many as the settings may have
    /// at once. Further namespaces count as the default. Only an operator with as many new names in reloads gets there.
    const MAX: usize = 4_096;

    /// The same namespaces and those of the settings.
    fn with(&self, config: &Config) -> Self {
        let Self { mut all, .. } = self.clone();
        let known: HashMap<String, usize> = all.iter().map(|(name, _)| name.clone()).zip(0..).collect();
        let mut places = HashMap::new();
        for name in config.namespaces.keys().filter(|name| *name != DEFAULT_NAMESPACE) {
            let place = known.get(name).copied().unwrap_or(all.len());
            if place == all.len() && place < Self::MAX {
                all.push((name.clone(), no_messages()));
            }
            if place < all.len() {
                places.insert(name.clone(), NamespaceId(place as u16));
            }
        }
        Self { all, places }
    }
}

fn no_messages() -> Arc<[AtomicU64; Via::WAYS]> {
    Arc::new([const { AtomicU64::new(0) }; Via::WAYS])
}

impl Published {
    fn new(config: &Config) -> Self {
        let default = (DEFAULT_NAMESPACE.to_owned(), no_messages());
        let namespaces = Namespaces { all: vec![default], places: HashMap::new() };
        Self(ArcSwap::from_pointee(namespaces.with(config)))
    }

    /// Follows a change of the settings. A namespace without settings keeps its counts, and its topics count as the default
    /// from then on.
    pub(super) fn follow(&self, config: &Config) {
        self.0.rcu(|namespaces| namespaces.with(config));
    }

    /// The namespace of a topic, until the settings change.
    pub(crate) fn namespace(&self, topic: &str) -> NamespaceId {
        let namespaces = self.0.load();
        if namespaces.places.is_empty() {
            return NamespaceId::default();
        }
        let namespace = topic.split_once(':').and_then(|(name, _)| namespaces.places.get(name));
        namespace.copied().unwrap_or_default()
    }

    pub(crate) fn add(&self, NamespaceId(namespace): NamespaceId, Via(way): Via, messages: u64) {
        let (_, counts) = &self.0.load().all[usize::from(namespace)];
        counts[usize::from(way)].fetch_add(messages, Ordering::Relaxed);
    }

    /// The messages of all namespaces and ways.
    pub(crate) fn total(&self) -> u64 {
        let namespaces = self.0.load();
        namespaces.all.iter().flat_map(|(_, counts)| &**counts).map(|count| count.load(Ordering::Relaxed)).sum()
    }

    /// The namespaces and ways with a message.
    pub(crate) fn counts(&self) -> Vec<(String, Via, u64)> {
        let namespaces = self.0.load();
        let ways = namespaces.all.iter().flat_map(|(name, counts)| {
            let counts = (0..).map(Via).zip(&**counts).map(|(way, count)| (way, count.load(Ordering::Relaxed)));
            counts.filter(|(_, count)| *count > 0).map(|(way, count)| (name.clone(), way, count))
        });
        ways.collect()
    }
}

impl Default for Published {
    fn default() -> Self {
        Self::new(&Config::default())
    }
}

/// Messages of a topic that came the same way one after the other, added up before they are counted.
pub(crate) struct Run<'a> {
    published: &'a Published,
    namespace: NamespaceId,
    via: Via,
    messages: u64,
}

impl<'a> Run<'a> {
    pub(crate) fn new(published: &'a Published, namespace: NamespaceId) -> Self {
        Self { published, namespace, via: Via::API, messages: 0 }
    }

    #[inline]
    pub(crate) fn add(&mut self, via: Via) {
        if via != self.via {
            self.flush();
            self.via = via;
        }
        self.messages += 1;
    }

    fn flush(&mut self) {
        let messages = std::mem::take(&mut self.messages);
        if messages > 0 {
            self.published.add(self.namespace, self.via, messages);
        }
    }
}

impl Drop for Run<'_> {
    fn drop(&mut self) {
        self.flush();
    }
}

macro_rules! kinds {
    ($($(#[doc = $doc:literal])+ $kind:ident = $name:literal,)+) => {
        /// The kinds of children in the tree.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum ActorKind {
            $($(#[doc = $doc])+ $kind,)+
        }

        impl ActorKind {
            const ALL: &[Self] = &[$(Self::$kind),+];

            pub(crate) const fn as_str(self) -> &'static str {
                match self { $(Self::$kind => $name),+ }
            }
        }
    };
}

kinds! {
    /// A listener.
    Acceptor = "acceptor",
    /// A child of the embedder, or a part of one.
    Application = "application",
    /// Keeps the links to the engine.
    Engine = "engine",
    /// Topics with messages from other homes.
    Errands = "errands",
    /// The tick of all connections.
    Heartbeat = "heartbeat",
    /// Holds the memory budget.
    MemoryKeeper = "memory_keeper",
    /// Tells the hooks of events.
    Observer = "observer",
    /// Tells clients that watch a topic who comes and goes.
    Presence = "presence",
    /// Maps tokens to sessions.
    ProxyMapper = "proxy_mapper",
    /// A thread that delivers.
    Sender = "sender",
    /// A supervisor of the instance.
    Supervisor = "supervisor",
    /// A thread of TLS handshakes.
    Tls = "tls",
    /// A topic.
    Topic = "topic",
    /// Makes and ends topics.
    TopicManager = "topic_manager",
    /// Divides the arbiter's time.
    Turns = "turns",
    /// Watches for actors that hang.
    Watchdog = "watchdog",
}

impl ActorKind {
    /// The kind of a child by its supervisor and its name. Names of topics are a stranger's, and a program names its own
    /// children, so the supervisor decides where it can.
    pub(crate) fn of(supervisor: &str, child: &str) -> Self {
        match (supervisor, child) {
            ("topic_supervisor", _) => Self::Topic,
            ("senders", _) => Self::Sender,
            ("tls_handshakes", _) => Self::Tls,
            ("homes", _) => Self::Supervisor,
            ("janus", "watchdog") => Self::Watchdog,
            ("janus", "topic_manager") => Self::TopicManager,
            ("janus", "engine") => Self::Engine,
            ("janus", "presence") => Self::Presence,
            ("janus", "proxy_mapper") => Self::ProxyMapper,
            ("janus", "heartbeat") => Self::Heartbeat,
            (home, "errands") if home.starts_with("home ") => Self::Errands,
            (home, "turns") if home.starts_with("home ") => Self::Turns,
            ("janus", "memory_keeper") => Self::MemoryKeeper,
            ("janus", "observer") => Self::Observer,
            ("janus", child) if child.starts_with("acceptor ") => Self::Acceptor,
            ("janus", "application") => Self::Application,
            ("janus", _) => Self::Supervisor,
            _ => Self::Application,
        }
    }
}

/// Restarts of actors and supervisors.
#[derive(Debug)]
pub(crate) struct Restarts([AtomicU64; ActorKind::ALL.len()]);

impl Restarts {
    pub(crate) fn add(&self, kind: ActorKind) {
        self.0[kind as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn counts(&self) -> impl Iterator<Item = (ActorKind, u64)> {
        ActorKind::ALL.iter().zip(&self.0).map(|(kind, count)| (*kind, count.load(Ordering::Relaxed)))
    }
}

impl Default for Restarts {
    fn default() -> Self {
        Self([const { AtomicU64::new(0) }; ActorKind::ALL.len()])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Namespace;

    #[test]
    fn deliveries_of_all_threads_add_up() {
        let deliveries = Deliveries::default();
        for thread in 0..40 {
            deliveries.add(thread, 2, 100);
        }
        assert_eq!((deliveries.messages(), deliveries.bytes()), (80, 4_000));
    }

    #[test]
    fn a_child_of_the_tree_is_told_from_a_child_of_the_embedder() {
        let kinds = [("janus", "homes"), ("homes", "home 2"), ("home 2", "turns"), ("home 2", "errands"), ("a", "b")];
        let kinds = kinds.map(|(supervisor, child)| ActorKind::of(supervisor, child).as_str());
        assert_eq!(kinds, ["supervisor", "supervisor", "turns", "errands", "application"]);
    }

    #[test]
    fn each_code_has_its_own_count() {
        let by_code = ByCode::default();
        ErrorCode::ALL.iter().for_each(|code| by_code.add(*code));
        by_code.add(ErrorCode::RateLimited);
        for (code, count) in by_code.counts() {
            assert_eq!(count, 1 + u64::from(code == ErrorCode::RateLimited), "{code}");
        }
    }

    #[test]
    fn messages_count_for_a_namespace_of_the_settings_and_otherwise_for_the_default() {
        let namespaces = [("chat".to_owned(), Namespace::default())].into();
        let published = Published::new(&Config { namespaces, ..Config::default() });
        assert_eq!(published.total(), 0);
        for topic in ["chat:lobby", "chat", "other:lobby", "", ":", "chat:a:b"] {
            published.add(published.namespace(topic), Via::codec(3), 1);
        }
        published.add(NamespaceId::default(), Via::API, 10);
        let expected = [("default", Via::codec(3), 4), ("default", Via::API, 10), ("chat", Via::codec(3), 2)];
        assert_eq!(published.counts(), expected.map(|(name, via, count)| (name.to_owned(), via, count)));
        assert_eq!(published.total(), expected.iter().map(|(_, _, count)| count).sum::<u64>());
    }

    fn with_namespaces(names: impl IntoIterator<Item = String>) -> Config {
        let namespaces = names.into_iter().map(|name| (name, Namespace::default())).collect();
        Config { namespaces, ..Config::default() }
    }

    #[test]
    fn a_namespace_that_comes_and_goes_keeps_its_place_and_its_count() {
        let published = Published::new(&with_namespaces(["b".to_owned()]));
        let count = |topic| published.add(published.namespace(topic), Via::API, 1);
        count("b:1");
        published.follow(&with_namespaces(["a".to_owned()]));
        let _ = ["a:1", "b:1"].map(count);
        published.follow(&with_namespaces(["a".to_owned(), "b".to_owned()]));
        let _ = ["a:1", "b:1", "b:1"].map(count);
        let expected = [("default", 1), ("b", 3), ("a", 2)].map(|(name, count)| (name.to_owned(), Via::API, count));
        assert_eq!(published.counts(), expected);
    }

    #[test]
    fn beyond_the_limit_a_namespace_counts_as_the_default_and_known_ones_as_before() {
        let published = Published::default();
        for round in 0..5 {
            published.follow(&with_namespaces((0..1_000).map(|number| format!("{round}-{number}"))));
        }
        assert_eq!(published.0.load().all.len(), Namespaces::MAX);
        assert_eq!(published.namespace("4-999:a"), NamespaceId::default());
        published.follow(&with_namespaces(["0-7".to_owned()]));
        assert_ne!(published.namespace("0-7:a"), NamespaceId::default());
    }

    #[test]
    fn a_run_counts_each_message_once_and_in_portions() {
        let published = Published::default();
        let mut run = Run::new(&published, NamespaceId::default());
        for via in [Via::API, Via::API, Via::codec(0), Via::API] {
            run.add(via);
        }
        drop(run);
        let expected = [(Via::codec(0), 1), (Via::API, 3)].map(|(via, count)| ("default".to_owned(), via, count));
        assert_eq!(published.counts(), expected);
    }

    #[test]
    fn a_child_named_by_a_stranger_or_by_the_program_is_of_its_supervisors_kind() {
        assert_eq!(ActorKind::of("topic_supervisor", "heartbeat"), ActorKind::Topic);
        assert_eq!(ActorKind::of("application", "heartbeat"), ActorKind::Application);
        assert_eq!(ActorKind::of("desk of the program", "topic news #1"), ActorKind::Application);
        assert_eq!(ActorKind::of("janus", "heartbeat"), ActorKind::Heartbeat);
        assert_eq!(ActorKind::of("janus", "senders"), ActorKind::Supervisor);
        assert_eq!(ActorKind::of("janus", "acceptor 127.0.0.1:8081"), ActorKind::Acceptor);
    }
}
