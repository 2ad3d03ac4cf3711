//! The soak of a cluster: three nodes, and a Redis with a replica and a Sentinel, under random faults for minutes.
//!
//! Every message comes to every subscriber once and in order, or the subscriber is told of a gap in the message's place.
//!
//! | file | kind | owns |
//! |---|---|---|
//! | `soak.rs` | the run | settings, the world shared by all tasks, the run and its end |
//! | `soak/ledger.rs` | model | messages, receipts, and every word to each subscriber |
//! | `soak/publishing.rs` | tasks | publishers over HTTP, with keys |
//! | `soak/subscribing.rs` | tasks | subscribers with positions, back at any node |
//! | `soak/faults.rs` | threads | kills, stops and drains of nodes; kills, stops and promotions of Redis |
//!
//! The soak is not part of the usual tests, because of its length:
//!
//!     cargo test -p janus-server --all-features --test e2e -- --ignored --nocapture cluster::soak
//!
//! `JANUS_SOAK_SECONDS` (600) is the time with faults. `JANUS_SOAK_SEED` repeats the choices of another run, if not
//! their timing. With `JANUS_SOAK_FAULTS=nodes` the engine stays, only its connections are cut, and no subscriber may be
//! told of any gap. `JANUS_SOAK_LOGS` names a folder for the logs of the nodes.

mod faults;
mod ledger;
mod publishing;
mod subscribing;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use fastrand::Rng;
use parking_lot::{Condvar, Mutex};
use tokio::task::JoinSet;

use super::KEY;
use faults::Engine;
use ledger::{Ledger, Place, Stream};

const NODES: usize = 3;
const TOPICS: usize = 20;
/// Publishers of each topic.
const PUBLISHERS: usize = 2;
const WEBSOCKETS: usize = 180;
const EVENT_STREAMS: usize = 80;

/// How long messages may take to reach all subscribers once all is quiet.
const BOUND: Duration = Duration::from_secs(60);

/// Every other topic keeps a history.
fn name_of(topic: usize) -> String {
    if topic.is_multiple_of(2) { format!("kept:{topic}") } else { format!("passing-{topic}") }
}

/// Which faults there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Faults {
    All,
    /// Faults of nodes and of links, after which no subscriber may be told of a gap.
    Nodes,
}

/// The parts of a run, in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    Faults,
    /// All servers are there, and clients no longer leave by themselves.
    Quiet,
    /// The publishers have stopped.
    Last,
    Over,
}

/// The state shared by the tasks of a run.
struct World {
    ledger: Ledger,
    faults: Faults,
    engine: String,
    config: PathBuf,
    logs: Option<PathBuf>,
    part: Mutex<Part>,
    changed: Condvar,
    /// The HTTP port and the admin port of each running node.
    nodes: Mutex<[Option<(SocketAddr, SocketAddr)>; NODES]>,
    /// How many of the nodes and the engine are well after the last fault.
    healed: AtomicUsize,
}

impl World {
    fn part(&self) -> Part {
        *self.part.lock()
    }

    fn go_to(&self, part: Part) {
        *self.part.lock() = part;
        self.changed.notify_all();
        self.ledger.event(format!("{part:?}"));
    }

    fn is_over(&self) -> bool {
        self.part() == Part::Over
    }

    fn is_quiet(&self) -> bool {
        self.part() >= Part::Quiet
    }

    fn publishers_stop(&self) -> bool {
        self.part() >= Part::Last
    }

    /// Waits while there are faults, at most for this time. Returns whether there are still to be faults.
    fn pause(&self, time: Duration) -> bool {
        let mut part = self.part.lock();
        let end = Instant::now() + time;
        while *part == Part::Faults && !self.changed.wait_until(&mut part, end).timed_out() {}
        *part == Part::Faults
    }

    fn until_over(&self) {
        let mut part = self.part.lock();
        while *part != Part::Over {
            self.changed.wait(&mut part);
        }
    }

    /// A node, or the engine, has seen its last fault and is there.
    fn is_healed(&self) {
        self.healed.fetch_add(1, Ordering::Relaxed);
    }

    fn set_node(&self, place: usize, node: Option<(SocketAddr, SocketAddr)>) {
        self.nodes.lock()[place] = node;
    }

    /// The HTTP port of a node.
    fn any_node(&self, rng: &mut Rng) -> Option<SocketAddr> {
        let nodes: Vec<_> = self.nodes.lock().iter().flatten().map(|node| node.0).collect();
        (!nodes.is_empty()).then(|| nodes[rng.usize(..nodes.len())])
    }

    fn fault(&self, text: String) {
        self.ledger.event(text);
    }

    fn engine_fault(&self, what: &str) {
        self.ledger.event(format!("the engine is {what}"));
        self.ledger.count(format!("faults: engine {what}"));
    }
}

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}

fn world(engine: &Engine, config: PathBuf) -> Arc<World> {
    let faults = match std::env::var("JANUS_SOAK_FAULTS").as_deref() {
        Ok("nodes") => Faults::Nodes,
        Ok("all") | Err(_) => Faults::All,
        Ok(other) => panic!("JANUS_SOAK_FAULTS={other}: all or nodes"),
    };
    Arc::new(World {
        ledger: Ledger::new(TOPICS),
        faults,
        engine: engine.url(),
        config,
        logs: std::env::var_os("JANUS_SOAK_LOGS").map(PathBuf::from),
        part: Mutex::new(Part::Faults),
        changed: Condvar::new(),
        nodes: Mutex::new([None; NODES]),
        healed: AtomicUsize::new(0),
    })
}

/// The tasks of all subscribers, and their number of subscriptions.
fn subscribers(world: &Arc<World>, rng: &mut Rng) -> (JoinSet<()>, usize) {
    let (mut tasks, mut subscriptions) = (JoinSet::new(), 0);
    for who in 0..WEBSOCKETS + EVENT_STREAMS {
        let is_websocket = who < WEBSOCKETS;
        let count = if is_websocket { rng.usize(1..=3) } else { 1 };
        let topics = rng.choose_multiple(0..TOPICS, count);
        subscriptions += topics.len();
        let streams = topics.into_iter().map(|topic| Stream::new(who, topic)).collect();
        tasks.spawn(subscribing::subscribe(Arc::clone(world), streams, is_websocket, rng.fork()));
    }
    (tasks, subscriptions)
}

fn publishers(world: &Arc<World>, rng: &mut Rng) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    for publisher in 0..TOPICS * PUBLISHERS {
        let task = publishing::publish(Arc::clone(world), publisher % TOPICS, publisher as u64 + 1, rng.fork());
        tasks.spawn(task);
    }
    tasks
}

/// A last message to each topic comes to all of its subscribers.
async fn settle(world: &World, rng: &mut Rng) {
    let mut goals: Vec<Place> = Vec::new();
    for topic in 0..TOPICS {
        let place = publishing::until_receipt(world, &mut None, topic, u64::MAX >> 11, rng).await;
        goals.push(place.expect("the run is not over"));
    }
    let end = Instant::now() + BOUND;
    let began = Instant::now();
    let mut looks = tokio::time::interval(Duration::from_millis(50));
    loop {
        looks.tick().await;
        let behind: Vec<_> = (0..TOPICS).map(|topic| world.ledger.behind(topic, goals[topic])).collect();
        if behind.iter().all(Vec::is_empty) {
            println!("the last messages came to all subscribers within {:?}", began.elapsed());
            return;
        }
        if Instant::now() > end || world.ledger.is_broken() {
            for (topic, who) in behind.iter().enumerate().filter(|(_, who)| !who.is_empty()) {
                let goal = ledger::show(goals[topic]);
                world.ledger.breach(format!("topic {topic}: {goal} has not come to {who:x?}"));
            }
            return;
        }
    }
}

/// Waits for a condition, for so long at most, and not beyond the first breach.
async fn until(world: &World, time: Duration, condition: impl Fn() -> bool) {
    let end = Instant::now() + time;
    let mut looks = tokio::time::interval(Duration::from_millis(100));
    while !condition() && Instant::now() < end && !world.ledger.is_broken() {
        looks.tick().await;
    }
}

/// Waits for the end of the tasks.
async fn all(world: &World, what: &str, mut tasks: JoinSet<()>) {
    let joined = tokio::time::timeout(BOUND * 2, async {
        while let Some(ended) = tasks.join_next().await {
            if let Err(error) = ended {
                world.ledger.breach(format!("{what}: {error}"));
            }
        }
    });
    if joined.await.is_err() {
        world.ledger.breach(format!("{what} do not come to an end"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "runs for minutes"]
async fn every_message_comes_once_and_in_order_or_inside_a_gap_under_random_faults() {
    let (seconds, seed) = (setting("JANUS_SOAK_SECONDS", 600), setting("JANUS_SOAK_SEED", fastrand::u64(..100_000)));
    println!("JANUS_SOAK_SEED={seed} JANUS_SOAK_SECONDS={seconds}");
    let mut rng = Rng::with_seed(seed);
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("janus.toml");
    let kept = "[namespace.kept]\nhistory = true\nhistory_messages = 20000\nhistory_bytes = \"64 MiB\"\n";
    std::fs::write(&config, kept).unwrap();
    let engine = Engine::start();
    let world = world(&engine, config);

    let mut threads = Vec::new();
    for place in 0..NODES {
        let (world, rng) = (Arc::clone(&world), rng.fork());
        threads.push(std::thread::spawn(move || faults::of_a_node(&world, place, rng)));
    }
    let (shared, own) = (Arc::clone(&world), rng.fork());
    threads.push(std::thread::spawn(move || engine.suffer(&shared, own)));
    let (subscribers, subscriptions) = subscribers(&world, &mut rng);
    // No subscriber can miss a message from before the first subscription.
    until(&world, BOUND, || world.ledger.subscriptions() == subscriptions).await;
    let publishers = publishers(&world, &mut rng);

    until(&world, Duration::from_secs(seconds), || false).await;
    world.go_to(Part::Quiet);
    until(&world, BOUND * 3, || world.healed.load(Ordering::Relaxed) == NODES + 1).await;
    world.go_to(Part::Last);
    all(&world, "publishers", publishers).await;
    settle(&world, &mut rng).await;
    world.go_to(Part::Over);
    all(&world, "subscribers", subscribers).await;
    for thread in threads {
        if tokio::task::spawn_blocking(|| thread.join()).await.unwrap().is_err() {
            world.ledger.breach("a thread of the faults has panicked");
        }
    }
    let totals = world.ledger.close();
    println!("JANUS_SOAK_SEED={seed} JANUS_SOAK_SECONDS={seconds} {:?}", world.faults);
    world.ledger.report(&totals);
    if let Some(folder) = &world.logs {
        std::fs::write(folder.join("events.log"), world.ledger.events()).unwrap();
    }
    assert!(!world.ledger.is_broken(), "JANUS_SOAK_SEED={seed}: see the breaches above");
    assert!(totals.messages > seconds as usize && totals.receipts >= totals.messages / 2, "too quiet for a soak");
    if world.faults == Faults::Nodes {
        let gaps = ["subscriptions told of a gap", "gaps under a new epoch", "gaps under the same epoch"];
        let told: Vec<_> = gaps.map(|gap| (gap, world.ledger.counted(gap))).into();
        assert!(told.iter().all(|gap| gap.1 == 0), "JANUS_SOAK_SEED={seed}: the engine has lost nothing: {told:?}");
        assert_eq!((totals.epochs, totals.unseen), (1, 0), "JANUS_SOAK_SEED={seed}: one epoch, and nothing unseen");
    }
}
