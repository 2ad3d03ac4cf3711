//! The soak: a server under load for minutes, while clients come, go, stall, lose their connections and come back, and
//! parts of the tree crash. No subscriber may miss a message without being told, or get a message twice or out of
//! order, and memory and descriptors must not grow.
//!
//! | file | kind | owns |
//! |---|---|---|
//! | `soak.rs` | the run | settings, the world shared by all tasks, the run and its final checks |
//! | `soak/progress.rs` | model | topics, their messages, and the progress of each subscriber |
//! | `soak/publishing.rs` | tasks | publishers |
//! | `soak/reading.rs` | tasks | connections of subscribers, and the subscribers that stay to the end |
//! | `soak/visitors.rs` | tasks | clients that come and go |
//! | `soak/faults.rs` | tasks | injected crashes |
//!
//! The soak is not part of the usual tests, because of its length:
//!
//!     cargo test --release --all-features --test soak -- --ignored --nocapture
//!
//! The run ends after `SOAK_MINUTES` (20), or earlier after `SOAK_DELIVERIES`. `SOAK_SUBSCRIBERS` (2,000) is the number
//! of subscribers of the large topic; `SOAK_SEED` repeats the choices of another run, if not its timing.
//!
//! Everything but the server runs on one thread: the clients share one buffer and look only for a message's number, so
//! that the server, and not the checking, has the cores.

#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "a test that meets what it does not expect has failed, wherever it stands")]

#[path = "soak/faults.rs"]
mod faults;
#[path = "soak/progress.rs"]
mod progress;
#[path = "soak/publishing.rs"]
mod publishing;
#[path = "soak/reading.rs"]
mod reading;
#[expect(dead_code, reason = "what the end-to-end tests share is more than this one needs")]
mod support;
#[path = "soak/visitors.rs"]
mod visitors;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use janus_core::{Config, Janus, Namespace, SlowConsumer, SubscribeOptions};
use tokio::task::{JoinSet, LocalSet};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use faults::{Choice, crash};
use progress::{Progress, Topic};
use publishing::publish;
use reading::{Opening, Subscriber, Taken, account, connect, connect_narrowly, read_slowly, stay};
use support::{DEADLINE, serve, until};
use visitors::{churn, lose_and_return, stall};

// The allocator of the server's binary, so that the measured memory is the memory of a server.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Clients that come, stay for a moment and go.
const CHURNING: usize = 24;
/// Clients that stop reading until cut off.
const STALLING: usize = 4;
/// Clients that lose their connections and come back.
const RETURNING: usize = 24;
/// Clients of the topic under `conflate`, which read slowly.
const CONFLATED: usize = 4;
/// Subscribers in this process; the last is slow.
const IN_PROCESS: usize = 3;
/// The number of messages by which the subscribers of a topic may lag, on average. The publishers wait for the
/// subscribers; otherwise the slowest reader of a busy machine would be cut off like a stalled client.
const BEHIND: u64 = 64;
/// How long a client stops reading, unless cut off earlier; the server's `write_timeout` of 5 s is over by then.
const STALL: Duration = Duration::from_secs(12);
/// The number of messages of the large topic that no two kernels can buffer. The buffers hold 140 KiB, because Linux
/// doubles both sizes: 64 KiB at the server, 4 KiB at the client. A message has at least 77 bytes.
const BUFFERED: u64 = 140 * 1024 / 77 + 1;
/// How long the server may take to cut off a stalled client once these buffers are full.
const CUT_OFF: Duration = Duration::from_secs(60);
/// The lifetime of a session without a connection.
const SESSION_TTL: Duration = Duration::from_secs(5);
/// A client that is back this soon should mostly find the missed messages.
const QUICK: Duration = Duration::from_millis(250);

struct Settings {
    time: Duration,
    deliveries: u64,
    subscribers: usize,
    seed: u64,
}

impl Settings {
    fn from_environment() -> Self {
        let number = |name: &str, default: u64| match std::env::var(name) {
            Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name}={text} is not a whole number")),
            Err(_) => default,
        };
        Self {
            time: Duration::from_secs(60 * number("SOAK_MINUTES", 20)),
            deliveries: number("SOAK_DELIVERIES", u64::MAX),
            subscribers: number("SOAK_SUBSCRIBERS", 2_000) as usize,
            seed: number("SOAK_SEED", std::process::id().into()),
        }
    }
}

/// The state shared by the tasks of a run.
struct World {
    janus: Janus,
    addr: SocketAddr,
    topics: Vec<Rc<Topic>>,
    /// The topic under `conflate`.
    prices: Rc<Topic>,
    /// Set at the end, first for the clients that come and go, then for the publishers.
    visitors_leave: Cell<bool>,
    publishers_stop: Cell<bool>,
    /// Connected churning clients.
    churning: RefCell<BTreeSet<SocketAddr>>,
    /// Churning clients whose Transport was made to crash.
    condemned: RefCell<BTreeSet<SocketAddr>>,
    injected: RefCell<BTreeMap<&'static str, u64>>,
    deliveries: Cell<u64>,
    visits: Cell<u64>,
    /// Connections that ended because of an injected crash of their Transport, or of the Acceptor before it served
    /// them.
    crashed: Cell<u64>,
    /// Stalled clients that were cut off.
    cut_off: Cell<u64>,
    returns: Returns,
}

/// The outcomes of clients that came back.
#[derive(Default)]
struct Returns {
    resumed: Cell<u64>,
    /// Clients that were told to continue without the missed messages.
    anew: Cell<u64>,
    /// Resumed clients that were back within [`QUICK`].
    quick_resumed: Cell<u64>,
    /// Clients that continued anew and were back within [`QUICK`].
    quick_anew: Cell<u64>,
    /// The number of missed messages that came after all.
    missed: Cell<u64>,
    /// Connections that ended between an attach and the answer.
    unanswered: Cell<u64>,
    /// Clients whose replay ended early because the missed messages were no longer kept.
    overtaken: Cell<u64>,
}

impl Returns {
    fn note(&self, missed: Option<u64>, away: Duration) {
        let (all, quick) = match missed {
            Some(_) => (&self.resumed, &self.quick_resumed),
            None => (&self.anew, &self.quick_anew),
        };
        count(all);
        if away <= QUICK {
            count(quick);
        }
        self.missed.set(self.missed.get() + missed.unwrap_or(0));
    }
}

impl fmt::Display for Returns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "returns: {} resumed ({} quick) with {} missed messages, {} anew ({} quick), {} unanswered, {} overtaken",
            self.resumed.get(),
            self.quick_resumed.get(),
            self.missed.get(),
            self.anew.get(),
            self.quick_anew.get(),
            self.unanswered.get(),
            self.overtaken.get()
        )
    }
}

fn count(cell: &Cell<u64>) {
    cell.set(cell.get() + 1);
}

/// SplitMix64, good enough for choices.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }
}

/// The bytes of this process in memory, for the server and the clients.
fn rss() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

/// The open descriptors of this process, which has both ends of each connection.
fn descriptors() -> usize {
    // Reading the directory takes one descriptor.
    std::fs::read_dir("/proc/self/fd").unwrap().count() - 1
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

#[tokio::test(flavor = "current_thread")]
#[ignore = "takes minutes; see the head of this file"]
async fn nothing_is_lost_and_nothing_grows_during_churn_and_crashes() {
    LocalSet::new().run_until(soak(Settings::from_environment())).await;
}

/// Panics of the server that were not injected. A supervisor would hide them.
static PANICS: AtomicU64 = AtomicU64::new(0);

/// Counts panics, and hides the injected panics, whose backtraces would fill the screen.
fn count_panics() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if !panic.payload_as_str().is_some_and(|text| text.starts_with("injected: ")) {
            PANICS.fetch_add(1, Ordering::Relaxed);
            usual(panic);
        }
    }));
}

async fn soak(settings: Settings) {
    count_panics();
    println!(
        "SOAK_MINUTES={} SOAK_SUBSCRIBERS={} SOAK_SEED={}",
        settings.time.as_secs() / 60,
        settings.subscribers,
        settings.seed
    );
    let world = World::start(&settings).await;
    let mut run = Run::begin(world, Random(settings.seed)).await;
    let load = run.carry(&settings).await;
    run.wind_down().await;
    run.report(&load);
    run.check(&load);
    run.in_process.shutdown().await;
    run.steady.shutdown().await;
    run.world.janus.shutdown().await;
}

impl World {
    async fn start(settings: &Settings) -> Rc<Self> {
        let times = |seconds| Duration::from_secs(seconds);
        let conflate = Namespace { slow_consumer: SlowConsumer::Conflate, ..Namespace::default() };
        let config = Config {
            session_ttl: SESSION_TTL,
            topic_idle: times(2),
            heartbeat_interval: times(1),
            // At some hundred messages a second, enough for a quick return, and too few for more than a second away.
            resume_messages: 512,
            namespaces: [("prices".to_owned(), conflate)].into(),
            ..Config::default()
        };
        let (janus, addr) = serve(config).await;
        Rc::new(Self {
            janus,
            addr,
            topics: vec![
                Topic::new("large", settings.subscribers, 2),
                Topic::new("middle", 100, 2),
                Topic::new("small", 1, 20),
            ],
            // Publishers do not wait for the subscribers of this topic.
            prices: Topic::new("prices:all", 0, 1),
            visitors_leave: Cell::default(),
            publishers_stop: Cell::default(),
            churning: RefCell::default(),
            condemned: RefCell::default(),
            injected: RefCell::default(),
            deliveries: Cell::default(),
            visits: Cell::default(),
            crashed: Cell::default(),
            cut_off: Cell::default(),
            returns: Returns::default(),
        })
    }
}

/// The tasks of a run. Each task ends by a panic, or on request.
struct Run {
    world: Rc<World>,
    steady: JoinSet<()>,
    in_process: JoinSet<()>,
    publishers: JoinSet<()>,
    visitors: JoinSet<()>,
    /// The topic and the events of each subscriber in this process.
    taken: Vec<(Rc<Topic>, Rc<Taken>)>,
    /// Descriptors with the steady subscribers and the publishers connected.
    expected_descriptors: usize,
}

/// The measurements of the time under load.
struct Load {
    elapsed: Duration,
    /// Memory after the first tenth.
    rss_at_first: u64,
    rss_at_end: u64,
}

impl Run {
    /// Connects the steady subscribers and the publishers, then starts the visitors and the crashes.
    async fn begin(world: Rc<World>, mut seeds: Random) -> Self {
        let mut run = Self {
            world,
            steady: JoinSet::new(),
            in_process: JoinSet::new(),
            publishers: JoinSet::new(),
            visitors: JoinSet::new(),
            taken: Vec::new(),
            expected_descriptors: 0,
        };
        run.subscribe().await;
        run.publish(&mut seeds);
        let (world, connections) = (Rc::clone(&run.world), run.steady.len() + run.publishers.len());
        until("everybody is connected", || world.janus.stats().connections == connections).await;
        run.expected_descriptors = descriptors();
        run.visit(&mut seeds);
        run
    }

    /// Starts the subscribers that stay to the end.
    async fn subscribe(&mut self) {
        let world = &self.world;
        for topic in &world.topics {
            for _ in 0..topic.steady {
                let progress = Progress::new(topic, true);
                let opened = Subscriber::open(connect(world).await, Opening::Subscribe, progress).await;
                let opened = opened.map_err(|refused| refused.cut).expect("a steady client is let in");
                self.steady.spawn_local(stay(Rc::clone(world), opened));
            }
        }
        for _ in 0..CONFLATED {
            let progress = Progress::new(&world.prices, false);
            world.prices.received.borrow_mut().push(Rc::clone(&progress.received));
            // With a smaller buffer the kernel would drop packets for lack of room, and repeat them only after a pause
            // that may become longer than the server waits.
            let narrow = connect_narrowly(world, 32 * 1024).await;
            let opened = Subscriber::open(narrow, Opening::Subscribe, progress).await;
            let opened = opened.map_err(|refused| refused.cut).expect("a slow client is let in");
            self.steady.spawn_local(read_slowly(Rc::clone(world), opened));
        }
        for index in 0..IN_PROCESS {
            let topic = &world.topics[index % 2];
            let options = SubscribeOptions::default().slow_consumer(SlowConsumer::DropOldest).max_queue_frames(16);
            let subscriber = world.janus.subscribe_with(&topic.name, options).expect("it is let in");
            let pause = Duration::from_millis(if index + 1 == IN_PROCESS { 50 } else { 0 });
            let taken = Rc::<Taken>::default();
            self.taken.push((Rc::clone(topic), Rc::clone(&taken)));
            self.in_process.spawn_local(account(Rc::clone(topic), subscriber, pause, taken));
        }
    }

    /// Starts the publishers, each topic at its own pace.
    fn publish(&mut self, seeds: &mut Random) {
        let world = &self.world;
        let paced = world.topics.iter().chain([&world.prices]);
        for (topic, (batch, pace)) in paced.zip([(32, 1), (8, 20), (4, 100), (32, 20)]) {
            for index in 0..topic.publishers.len() {
                let pace = Duration::from_millis(pace);
                let random = Random(seeds.next());
                self.publishers.spawn_local(publish(Rc::clone(world), Rc::clone(topic), index, batch, pace, random));
            }
        }
    }

    /// Starts the clients that come and go, and the crashes.
    fn visit(&mut self, seeds: &mut Random) {
        let (world, visitors) = (&self.world, &mut self.visitors);
        for _ in 0..CHURNING {
            visitors.spawn_local(churn(Rc::clone(world), Random(seeds.next())));
        }
        for _ in 0..STALLING {
            visitors.spawn_local(stall(Rc::clone(world), Random(seeds.next())));
        }
        for _ in 0..RETURNING {
            visitors.spawn_local(lose_and_return(Rc::clone(world), Random(seeds.next())));
        }
        let mut crashes = |pause, next: Choice| {
            visitors.spawn_local(crash(Rc::clone(world), pause, Random(seeds.next()), next));
        };
        crashes(20_000..30_000, World::root_fault);
        crashes(31_000..45_000, World::topic_fault);
        crashes(8_000..12_000, World::sender_fault);
        crashes(500..2_000, World::transport_fault);
    }

    /// Carries the load for the time or the deliveries of the settings, and looks at the run every ten seconds.
    async fn carry(&mut self, settings: &Settings) -> Load {
        let begun = Instant::now();
        let mut rss_at_first = None;
        let mut looks = interval(Duration::from_secs(10));
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        looks.tick().await;
        let mut before = (begun, 0);
        let mut silent = 0;
        loop {
            tokio::select! {
                _ = looks.tick() => {}
                reason = self.world.janus.wait() => panic!("the tree gave up: {reason}"),
                Some(ended) = self.steady.join_next() => panic!("a steady subscriber ended: {ended:?}"),
                Some(ended) = self.in_process.join_next() => panic!("a subscriber in this process ended: {ended:?}"),
                Some(ended) = self.publishers.join_next() => panic!("a publisher ended: {ended:?}"),
                Some(ended) = self.visitors.join_next() => panic!("a visitor ended: {ended:?}"),
            }
            let world = &self.world;
            world.topics.iter().for_each(|topic| topic.check_holes());
            assert_eq!(PANICS.load(Ordering::Relaxed), 0, "something crashed by itself");
            let deliveries = world.deliveries.get();
            world.print(begun, deliveries, before);
            silent = if deliveries == before.1 { silent + 1 } else { 0 };
            assert!(silent < 6, "nothing is delivered any more");
            before = (Instant::now(), deliveries);
            let over = (begun.elapsed().as_secs_f64() / settings.time.as_secs_f64())
                .max(deliveries as f64 / settings.deliveries as f64);
            if over >= 0.1 {
                rss_at_first.get_or_insert_with(rss);
            }
            if over >= 1.0 {
                break;
            }
        }
        Load { elapsed: begun.elapsed(), rss_at_first: rss_at_first.unwrap(), rss_at_end: rss() }
    }

    /// Stops visitors and publishers, and waits until every subscriber has every message and nothing is left over.
    async fn wind_down(&mut self) {
        let world = &self.world;
        let connections = self.steady.len() + self.publishers.len();
        // Stalling clients are cut off only while messages are published.
        world.visitors_leave.set(true);
        while let Some(ended) = timeout(CUT_OFF + DEADLINE, self.visitors.join_next()).await.expect("visitors leave") {
            ended.unwrap();
        }
        world.publishers_stop.set(true);
        while let Some(ended) = timeout(DEADLINE, self.publishers.join_next()).await.expect("publishers end") {
            ended.unwrap();
        }
        for topic in &world.topics {
            let steady = || topic.received.borrow().iter().all(|received| received.get() == topic.accepted.get());
            until("every subscriber has every message", steady).await;
            topic.check_holes();
            assert!(topic.holes.borrow().is_empty());
        }
        let prices = &world.prices.publishers[0];
        let last = (1..=prices.sent.get()).rev().find(|number| !prices.refused.borrow().contains(number)).unwrap();
        until("whoever reads slowly has the last message", || {
            world.prices.received.borrow().iter().all(|place| place.get() == last)
        })
        .await;
        until("the subscribers in this process have, or are told of, every number", || {
            self.taken.iter().all(|(topic, taken)| taken.seq.get() == topic.last_seq.get())
        })
        .await;
        let steady = self.steady.len();
        until("the visitors' connections and sessions, and the publishers', have ended", || {
            let stats = world.janus.stats();
            (stats.connections, stats.sessions, stats.topics) == (steady, steady, world.topics.len() + 1)
        })
        .await;
        // Both ends of each publisher's connection were open before.
        self.expected_descriptors -= 2 * (connections - steady);
        until("no descriptor is left over", || descriptors() == self.expected_descriptors).await;
    }

    fn report(&self, load: &Load) {
        let world = &self.world;
        let refused: usize = (world.topics.iter().flat_map(|topic| &topic.publishers))
            .map(|publisher| publisher.refused.borrow().len())
            .sum();
        println!(
            "{} deliveries in {:.0} s, {:.0} a second: nothing lost, out of order or twice; {} messages accepted, \
             {refused} refused",
            world.deliveries.get(),
            load.elapsed.as_secs_f64(),
            world.deliveries.get() as f64 / load.elapsed.as_secs_f64(),
            world.topics.iter().map(|topic| topic.accepted.get()).sum::<u64>(),
        );
        println!(
            "{} visits, {} ended by an injected crash; {} slow consumers cut off",
            world.visits.get(),
            world.crashed.get(),
            world.cut_off.get()
        );
        println!("{}", world.returns);
        println!("{} messages conflated; the last arrived", world.janus.stats().messages_conflated);
        for (topic, taken) in &self.taken {
            let (messages, missing) = (taken.messages.get(), taken.missing.get());
            println!("in this process, of {}: {messages} messages and gaps of {missing}", topic.name);
        }
        println!("injected: {:?}", world.injected.borrow());
        for name in ["topic_manager", "proxy_mapper", "acceptor", "sender ", "topic "] {
            println!("restarts of {}: {}", name.trim(), world.restarts(name));
        }
        let (first, end) = (mib(load.rss_at_first), mib(load.rss_at_end));
        println!("memory after the first tenth {first:.1} MiB, at the end {end:.1} MiB");
        println!("descriptors {}, as expected", self.expected_descriptors);
    }

    fn check(&self, load: &Load) {
        let (world, returns, stats) = (&self.world, &self.world.returns, self.world.janus.stats());
        assert_eq!(stats.slow_consumers, world.cut_off.get(), "only those that stalled were cut off");
        assert!(returns.quick_resumed.get() > returns.quick_anew.get(), "most of those that are back at once go on");
        assert!(returns.resumed.get() > 0 && returns.anew.get() > 0, "both outcomes occur");
        assert!(stats.messages_conflated > 0, "those that read slowly lag");
        let missing: u64 = self.taken.iter().map(|(_, taken)| taken.missing.get()).sum();
        assert_eq!(stats.messages_dropped_oldest, missing, "every message that was dropped is in a gap");
        let slow = self.taken.last();
        assert!(slow.is_some_and(|(_, slow)| slow.missing.get() > 0), "who is slow does not get everything");
        for (fault, name) in
            [("TopicManager", "topic_manager"), ("ProxyMapper", "proxy_mapper"), ("Acceptor", "acceptor")]
        {
            let (restarts, injected) = (world.restarts(name), world.injected(fault));
            assert_eq!(restarts, injected, "{name} crashes when it is told to, and not else");
        }
        let (first, end) = (load.rss_at_first, load.rss_at_end);
        assert!(end <= first + first / 10 + (8 << 20), "memory grows");
    }
}

impl World {
    /// Prints the state of the run; `before` is the time and the deliveries of the last look.
    fn print(&self, begun: Instant, deliveries: u64, before: (Instant, u64)) {
        let stats = self.janus.stats();
        println!(
            "{:5.0} s: {deliveries} deliveries, {} a second; {:.1} MiB, {} descriptors, {} connections, {} topics, \
             {} sessions; {} visits, {} crashed, {} cut off",
            begun.elapsed().as_secs_f64(),
            (deliveries - before.1) / (before.0.elapsed().as_secs().max(1)),
            mib(rss()),
            descriptors(),
            stats.connections,
            stats.topics,
            stats.sessions,
            self.visits.get(),
            self.crashed.get(),
            self.cut_off.get(),
        );
        println!("        {}", self.returns);
    }
}
