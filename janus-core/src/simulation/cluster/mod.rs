//! Several whole servers in one thread, under virtual time, with one engine between them whose links, servers and data
//! fail.
//!
//! | file | kind | owns |
//! |---|---|---|
//! | `mod.rs` | the world | the nodes, the engine, the settings, the runs |
//! | `steps.rs` | steps | what publishers, subscribers, nodes, crashes, the engine and time do, and the checks at rest |
//! | `listener.rs` | subscriber | a subscriber in the process of a node, and its checks |
//! | `model.rs` | model | the messages with their numbers, and the histories of the engine's servers |
//!
//! What is checked:
//!
//! - An epoch and a number name one message, the same for the engine, for publishers and for subscribers on all nodes.
//! - The numbers given to a subscriber are dense within an epoch, or a gap is told in its place; a new epoch comes with
//!   a gap only. An epoch is one history, so what comes between two gaps is a contiguous part of one history.
//! - A message is in one history at most once.
//! - A message whose publisher was told that nobody gets it is in no history, and reaches nobody.
//! - At rest every publisher is answered, every subscriber has had everything, and nothing waits.
//! - In a *calm* run nothing is lost, only delayed: no subscriber is told of a gap.
//!
//! # Does the simulation find faults?
//!
//! Faults were planted to find out. The test `planted_mistakes_are_found` plants them again; the table shows how many of
//! the seeds 1 to 100 find the fault within 300 steps, and the first of these seeds:
//!
//! | planted fault | seeds that find it | first seed | at step |
//! |---|---|---|---|
//! | a server with another past goes on as if nothing were lost | 48 | 3 | 234 |
//! | a server does not ask which numbers a node has handed out | 25 | 7 | at rest |
//! | a submission is carried out as often as it comes | 62 | 1 | at rest |
//! | a position is continued whatever its epoch | 21 | 5 | 214 |
//! | a record or a loss mark follows whatever its epoch | 21 | 4 | 294 |
//! | a record behind a hole is taken for the next record | 31 | 2 | 22 |
//!
//! The following faults were real:
//!
//! | fault | seeds that find it | first seed | at step |
//! |---|---|---|---|
//! | "there is no subscriber" for a submission sent again, which was carried out and lost the first time | 10 of 200 | 36 | at rest |
//! | an earlier number in a receipt, if a topic crashes in the middle of a record after its answer | 1 of 30 (10,000 steps) | 119 | 8,208 |
//!
//! ```text
//! JANUS_SIM_SEED=17 JANUS_SIM_STEPS=2000 cargo test -p janus-core --all-features simulation::cluster
//! ```

mod listener;
mod model;
mod steps;

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::Instant;

use self::listener::{Listener, Place as Stand};
use self::model::{Id, Model};
use super::trace::Trace;
use super::{PANICS, TOPIC_CRASHES, runtime, senders, silence_injected_panics};
use crate::engine::NodeId;
use crate::engine::unreliable::{Mistake, Unreliable};
use crate::ground::simulated::{self, Chance, Planted};
use crate::instance::builder;
use crate::instance::janus::WeakJanus;
use crate::instance::shared::Shared;
use crate::supervision::Place;
use crate::topic::cluster::Cluster;
use crate::topic::{self, Topics};
use crate::{Config, Janus, Namespace, PublishError, Receipt};

/// Answers to publishers, until the model has seen them.
type Receipts = Rc<RefCell<VecDeque<(Id, Result<Receipt, PublishError>)>>>;

/// A whole server.
struct Node {
    number: usize,
    id: NodeId,
    janus: Janus,
    /// Publishers without an answer, some of which may have been answered by now.
    publishers: Vec<(Id, JoinHandle<()>)>,
    /// Crashes that count for the restart intensity of the root.
    root_crashes: VecDeque<Instant>,
}

struct World {
    seed: u64,
    step: usize,
    chance: Chance,
    place: Place,
    engine: Unreliable,
    nodes: Vec<Node>,
    config: Config,
    listeners: Vec<Listener>,
    /// The topics of listeners that have gone, and where they were.
    places: Vec<(usize, Stand)>,
    model: Model,
    trace: Trace,
    receipts: Receipts,
    /// The tables of all living nodes, for what happens on another thread.
    tables: Rc<RefCell<Vec<Weak<Topics>>>>,
    next_node: usize,
    next_listener: usize,
    /// The time that the engine knows.
    time: Duration,
    /// One step of the engine in `fault_rate` may be a fault; 0 for none.
    fault_rate: usize,
    /// One step in `crash_rate` is a crash; 0 for none.
    crash_rate: usize,
}

/// What a run has seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Seen {
    hash: u64,
    messages: usize,
    receipts: usize,
    refusals: usize,
    heard: usize,
    gaps: usize,
}

/// A planted mistake.
#[derive(Clone, Copy, Debug)]
enum Wrong {
    Engine(Mistake),
    Node(Planted),
}

thread_local! {
    /// The step at which the last run has failed.
    static FAILED_AT: Cell<usize> = const { Cell::new(0) };
}

/// Prints the facts needed to repeat a failure.
impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            FAILED_AT.set(self.step);
            eprintln!("the last events (what, who, message, number):");
            self.trace.events.iter().for_each(|event| eprintln!("  {event:?}"));
            for node in &self.nodes {
                eprintln!("node {} {}: {:?}", node.number, node.id, node.janus.topics());
            }
            eprintln!("fault rate {}, crash rate {}", self.fault_rate, self.crash_rate);
            let (seed, step) = (self.seed, self.step);
            eprintln!("failed at step {step}; again with JANUS_SIM_SEED={seed} JANUS_SIM_STEPS={}", step + 1);
        }
    }
}

/// Runs `steps` steps.
fn run(seed: u64, steps: usize, mistake: Option<Wrong>) -> Seen {
    silence_injected_panics();
    let seen = runtime().block_on(async {
        let chance = Chance::new(seed);
        simulated::begin(&chance);
        TOPIC_CRASHES.take();
        PANICS.take();
        let mut world = World::new(seed, chance).await;
        match mistake {
            Some(Wrong::Engine(mistake)) => world.engine.make_mistake(mistake),
            Some(Wrong::Node(planted)) => simulated::plant(planted),
            None => {}
        }
        for step in 0..steps {
            world.step = step;
            world.take_step().await;
            if step % 1_000 == 999 {
                world.settle().await;
            }
        }
        world.settle().await;
        world.seen()
    });
    simulated::end();
    assert_eq!(PANICS.take(), 0, "nothing panics that was not made to");
    seen
}

fn config(chance: &Chance, is_calm: bool) -> Config {
    let secs = Duration::from_secs;
    let kept = Namespace { history: true, ..Namespace::default() };
    let many = if is_calm { 65_536 } else { chance.pick(&[8, 128, 65_536]) };
    Config {
        namespaces: [("kept".to_owned(), kept)].into(),
        listen: Vec::new(),
        threads: 5,
        max_inflight_frames: chance.pick(&[8, 64]),
        max_inflight_bytes: 4 * 1024,
        inline_subscribers: chance.pick(&[0, 4, 100]),
        resume_messages: many,
        resume_bytes: if is_calm { 1 << 28 } else { chance.pick(&[2 * 1024, 1 << 20]) },
        resume_age: if is_calm { secs(3_600 * 24) } else { chance.pick(&[secs(6), secs(600)]) },
        topic_idle: secs(10),
        topic_quarantine: secs(2),
        drain_timeout: secs(10),
        engine_timeout: chance.pick(&[secs(1), secs(5)]),
        engine_report_interval: chance.pick(&[secs(1), secs(4)]),
        idempotency_ttl: secs(3_600 * 24),
        ..Config::default()
    }
}

impl World {
    async fn new(seed: u64, chance: Chance) -> Self {
        let time = simulated::since_unix_epoch().expect("it is a simulation");
        let engine = Unreliable::new(time);
        let fault_rate = chance.pick(&[0, 1, 3, 10, 30]);
        let tables: Rc<RefCell<Vec<Weak<Topics>>>> = Rc::default();
        let (others, by_chance) = (Rc::clone(&tables), chance.clone());
        let one_in = chance.pick(&[6, 60, usize::MAX]);
        simulated::on_interruption(one_in, move || {
            let others = others.borrow();
            if !others.is_empty()
                && let Some(topics) = others[by_chance.below(others.len())].upgrade()
            {
                topic::errands::interrupt(&topics, &by_chance);
            }
        });
        let config = config(&chance, fault_rate == 0);
        config.validate().expect("these settings are allowed");
        let mut world = Self {
            seed,
            step: 0,
            place: Place::here(),
            model: Model::new(engine.clone()),
            nodes: Vec::new(),
            listeners: Vec::new(),
            places: Vec::new(),
            trace: Trace::default(),
            receipts: Rc::default(),
            tables,
            next_node: 0,
            next_listener: 0,
            crash_rate: if fault_rate == 0 { 0 } else { chance.pick(&[0, 10, 40]) },
            engine,
            config,
            time,
            fault_rate,
            chance,
        };
        for _ in 0..world.chance.pick(&[1, 2, 2, 3]) {
            let node = world.start().await;
            world.nodes.push(node);
        }
        world
    }

    /// Whether nothing is lost in this run.
    fn is_calm(&self) -> bool {
        self.fault_rate == 0
    }

    async fn start(&mut self) -> Node {
        self.next_node += 1;
        let number = self.next_node;
        let id = NodeId::new(number as u64);
        let shared = Shared::new(
            self.config.clone(),
            vec![self.place.clone(); self.chance.pick(&[1, 1, 2])],
            Default::default(),
            (Vec::new(), Shared::no_http_port()),
            None,
            None,
            Some(Arc::new(Cluster::new(Arc::new(self.engine.clone()), id).named(format!("node {number}")))),
        );
        let senders = senders(&shared, &self.chance);
        self.tables.borrow_mut().retain(|tables| tables.strong_count() > 0);
        self.tables.borrow_mut().push(Arc::downgrade(&shared.topics));
        let children = Default::default();
        let janus = builder::start(shared, senders, self.place.clone(), None, (&children, &WeakJanus::to_come())).await;
        let janus = janus.expect("the tree starts");
        Node { number, id, janus, publishers: Vec::new(), root_crashes: VecDeque::new() }
    }

    fn seen(&self) -> Seen {
        Seen {
            hash: self.trace.hash,
            messages: self.model.messages.len(),
            receipts: self.model.receipts,
            refusals: self.model.refusals,
            heard: self.model.heard,
            gaps: self.model.gaps,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn setting(name: &str) -> Option<u64> {
        std::env::var(name).ok().map(|value| value.parse().unwrap_or_else(|_| panic!("{name} must be a number")))
    }

    #[test]
    fn the_same_seed_repeats_the_same_run_of_a_cluster() {
        for seed in 1..=4 {
            assert_eq!(run(seed, 300, None), run(seed, 300, None));
        }
    }

    /// Whether a run with this mistake fails.
    fn is_found(mistake: Wrong, seed: u64, steps: usize) -> bool {
        let is_found = std::panic::catch_unwind(|| run(seed, steps, Some(mistake))).is_err();
        simulated::end();
        is_found
    }

    #[test]
    fn planted_mistakes_are_found() {
        let steps = setting("JANUS_SIM_STEPS").unwrap_or(300) as usize;
        for mistake in [
            Wrong::Engine(Mistake::NoHistory),
            Wrong::Engine(Mistake::NumbersGoBack),
            Wrong::Engine(Mistake::NoSubmissions),
            Wrong::Node(Planted::AnyEpochResumes),
            Wrong::Node(Planted::AnyEpochFollows),
            Wrong::Node(Planted::HoleTaken),
        ] {
            let seed = (1..=60).find(|&seed| is_found(mistake, seed, steps));
            assert!(seed.is_some(), "{mistake:?} is not found");
            eprintln!("FOUND {mistake:?} with seed {seed:?} at step {}", FAILED_AT.get());
        }
    }

    #[test]
    fn no_node_of_a_cluster_misses_anything_without_a_word() {
        let steps = setting("JANUS_SIM_STEPS").unwrap_or(300) as usize;
        let first = setting("JANUS_SIM_SEED");
        let usual = if first.is_some() { 1 } else { 100 };
        let seeds = setting("JANUS_SIM_SEEDS").unwrap_or(usual);
        let first = first.unwrap_or(1);
        for seed in first..first + seeds {
            eprintln!("JANUS_SIM_SEED={seed} JANUS_SIM_STEPS={steps}: {:?}", run(seed, steps, None));
        }
    }
}
