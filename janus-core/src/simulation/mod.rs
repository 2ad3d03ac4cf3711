//! The whole server in one thread, under virtual time, with clients that do anything at any moment.
//!
//! | file | kind | owns |
//! |---|---|---|
//! | `mod.rs` | the world | the server with its clients, its settings and sender tasks, and the runs |
//! | `steps.rs` | steps | every action of clients, publishers, crashes and time |
//! | `settling.rs` | checks | the comparison of server, clients and model at rest and after a drain |
//! | `client.rs` | trait | the parts common to the clients of all protocols: connection, reasons to end, promises |
//! | `classic.rs` | client | a client of the classic protocol, and its checks |
//! | `modern.rs` | client | a client of `janus.v1.json`, and its checks |
//! | `listener.rs` | subscriber | a subscriber in the same process, and its checks |
//! | `model.rs` | model | the messages and their order, the same for all clients |
//! | `cluster/` | simulation | several servers with one engine whose links and data fail, and the checks of a cluster |
//! | `trace.rs` | record | the hash and the last events of a run |
//!
//! `delivery/memory.rs` is the socket without a kernel; `ground/simulated.rs` has the virtual time and the generator of
//! decisions.
//!
//! Every decision comes from one seeded generator: the next step, the bytes that a stream takes, the next task to run.
//! A failure prints its seed, and the seed repeats the failure:
//!
//! ```text
//! JANUS_SIM_SEED=17 JANUS_SIM_STEPS=20000 cargo test -p janus-core --all-features simulation
//! ```
//!
//! One to three home arbiters, the supervisors and two senders are tasks of this thread. A home that serves a topic of
//! another home pauses between any two steps of the topic. A sender pauses between any two sends,
//! so any event that could happen during an interruption of a thread can happen there. Code without a pause is
//! interrupted each time it has let go of a topic's lock: another home may then serve any topic that is not locked. Only the seed may decide
//! anything: hash tables have fixed hashers in tests, and code with random numbers for more than a name calls
//! [`simulated::seed`] instead of the system.
//!
//! # Does the simulation find faults?
//!
//! Faults were planted to find out. The tables show the steps until the simulation failed, for the seeds 1 to 10, with
//! 10,000 steps each. With clients of both protocols:
//!
//! | planted fault | first found | half of the seeds by | seeds that find it |
//! |---|---|---|---|
//! | the time of a message in another codec loses its fraction of a second | 21 | 97 | 10 |
//! | a longer batch in another codec is cut at the ends of the classic frames | 57 | 169 | 10 |
//! | `next_seq` is not stored with the send | 87 | 233 | 10 |
//! | a resuming client gets its last message once more | 94 | 142 | 10 |
//! | a welcome always says that the session is known | 151 | 1,193 | 10 |
//! | the epoch of a position is ignored | 238 | 2,853 | 8 |
//! | an unsubscribe is answered, and does not end delivery | 344 | 1,215 | 10 |
//! | conflation tells no gap | 364 | 998 | 10 |
//! | a drop ends at the end of the classic codec's frame | 858 | 5,229 | 6 |
//! | messages with a number, not yet handed out, are not counted as missed | 1,254 | 5,067 | 9 |
//! | a resuming client goes live at the next number instead of the first number not handed out | 2,306 | 3,777 | 8 |
//! | messages trimmed during a replay are left out without a gap | 2,631 | – | 3 |
//!
//! Faults that show only with several homes, which half of the instances have:
//!
//! | planted fault | first found | half of the seeds by | seeds that find it |
//! |---|---|---|---|
//! | a topic that another home cannot finish is not given back to its actor | 245 | 4,105 | 9 |
//!
//! With clients of the classic protocol alone:
//!
//! | planted fault | first found | half of the seeds by | seeds that find it |
//! |---|---|---|---|
//! | a piece given back by a dead sender is forgotten | 87 | 324 | 10 |
//! | a warm restart forgets the subscribers that joined during the pass | 5,073 | – | 1 |
//! | a flush drops the rest of a message after a partial write | 41 | 95 | 10 |
//! | a warm restart drops the open batch | 11 | 282 | 10 |
//! | a subscription starts one number too late if a batch is open | 446 | 1,763 | 9 |
//! | no client is ever resumed | 63 | 221 | 6 |
//! | a cold restart does not report the lost messages | 108 | 365 | 10 |
//! | publishers are not woken when there is room | 26 | 119 | 10 |
//!
//! The following faults were real, and older than the simulation or found while it was written. The last but one shows
//! since there are clients of the modern protocol, the last since clients give up a connection and attach on the next:
//!
//! | fault | first found | half of the seeds by | seeds that find it |
//! |---|---|---|---|
//! | a subscriber waits for 5 s for a topic that has ended | 371 | 1,113 | 7 |
//! | a count declared void by the server is taken for a new count, if the answer was lost | 38 | 230 | 10 |
//! | a client that resumes a topic which then fails to start hears nothing more | 8,764 | – | 1 |
//! | conflation puts a message before a gap of lower numbers | 354 | 5,044 | 5 |
//! | a heartbeat comes behind a close frame, if the client reads slowly | 7,878 | – | 1 |
//! | an older connection whose claim is read last takes a session from a newer one | 1,398 | 2,918 | 8 |

mod classic;
mod client;
mod cluster;
mod listener;
mod model;
mod modern;
mod settling;
mod steps;
mod trace;

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::{Arc, Once};
use std::time::Duration;

use tokio::runtime::{LocalOptions, LocalRuntime};
use tokio::time::{Instant, sleep};

use self::classic::Classic;
use self::client::{Client, Line, PONG_TIMEOUT, Session};
use self::listener::Listener;
use self::model::{BEARING, CONFLATED, Id, Model, OF_SESSIONS, TOPICS, topic_name};
use self::trace::Trace;
use crate::connection::acceptor::{self, Accepted};
use crate::connection::listener::Origin;
use crate::delivery::memory;
use crate::delivery::pass::Server;
use crate::ground::simulated::{self, Chance};
use crate::instance::builder;
use crate::instance::janus::WeakJanus;
use crate::instance::shared::Shared;
use crate::supervision::{ChildSpec, Place, Shutdown, Strategy, Supervisor};
use crate::topic;
use crate::wire::websocket::Cbor;
use crate::wire::{Codec, WebSocket};
use crate::{Config, Fault, Janus, Message, Namespace, Position, PublishError, Receipt, Resume, SlowConsumer};

/// The limits and promises of the running server, as the clients know them.
#[derive(Clone, Copy, Debug)]
struct Limits {
    /// The queue of a slow client.
    frames: usize,
    bytes: usize,
    /// How long a client may read nothing.
    patience: Duration,
    /// What the server has to keep for a client that comes back.
    resume_messages: usize,
    resume_bytes: usize,
    resume_age: Duration,
    session_ttl: Duration,
    keeps_sessions: bool,
    /// Whether the server is ending.
    draining: bool,
    /// Whether a topic may be out of service.
    quarantine: bool,
    /// Whether a topic has crashed. A topic that crashes at its first start is given up.
    crashed: bool,
    /// When a topic may last have started afresh.
    last_cold: Option<Instant>,
    /// The number of the server: each restart adds 1.
    instance: usize,
}

/// The most that a frame of these clients takes of a queue: 512 bytes with the terminator, and the price of an entry.
const MAX_ENTRY: usize = 512 + 64;

thread_local! {
    /// The times of topic crashes. A fault may hit long after it was armed.
    static TOPIC_CRASHES: RefCell<VecDeque<Instant>> = const { RefCell::new(VecDeque::new()) };
    /// Panics that nobody has injected. Those of actors do not end a run by themselves.
    static PANICS: Cell<usize> = const { Cell::new(0) };
}

/// Answers to publishers in this process, until the model has seen them.
type Receipts = Rc<RefCell<VecDeque<(Id, Result<Receipt, PublishError>)>>>;

/// The server and its clients.
struct World {
    seed: u64,
    chance: Chance,
    place: Place,
    janus: Janus,
    config: Config,
    limits: Limits,
    clients: Vec<Box<dyn Client>>,
    listeners: Vec<Listener>,
    /// The topics and positions of listeners that have gone.
    places: Vec<(usize, Position)>,
    /// Sessions of clients without a connection, which may come back.
    lost: Vec<Session>,
    model: Model,
    trace: Trace,
    receipts: Receipts,
    /// Messages of publishers in this process without an answer.
    unanswered: usize,
    /// The number of messages of each topic that have been checked.
    settled: [usize; TOPICS],
    step: usize,
    next_client: usize,
    /// The crashes of actors whose supervisor ends the instance after too many crashes.
    root_crashes: VecDeque<Instant>,
    sender_crashes: VecDeque<Instant>,
    errand_crashes: VecDeque<Instant>,
    /// One step in `crash_rate` is a crash.
    crash_rate: usize,
    /// The number of clients of the modern protocol, of ten.
    modern: usize,
    /// The modern protocol, registered with this instance.
    websocket: Arc<Origin>,
}

/// Prints the facts needed to repeat a failure.
impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{:?}\nthe last events (what, client, topic or message, message or number):", self.config);
            self.trace.events.iter().for_each(|event| eprintln!("  {event:?}"));
            self.janus.topics().iter().for_each(|topic| eprintln!("{topic:?}"));
            eprintln!("{:?}", self.janus.stats());
            let (seed, step) = (self.seed, self.step);
            eprintln!("failed at step {step}; again with JANUS_SIM_SEED={seed} JANUS_SIM_STEPS={}", step + 1);
        }
    }
}

/// One thread, with a clock that moves only when all tasks wait.
fn runtime() -> LocalRuntime {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_time().start_paused(true);
    builder.build_local(LocalOptions::default()).expect("a runtime without reactor needs nothing")
}

/// Runs `steps` steps, and returns the hash of all events.
fn run(seed: u64, steps: usize) -> u64 {
    silence_injected_panics();
    let hash = runtime().block_on(async {
        let chance = Chance::new(seed);
        simulated::begin(&chance);
        TOPIC_CRASHES.take();
        let mut world = World::new(seed, chance).await;
        for step in 0..steps {
            world.step = step;
            world.take_step().await;
        }
        world.settle(true).await;
        world.drain().await;
        world.trace.hash
    });
    simulated::end();
    assert_eq!(PANICS.take(), 0, "nothing panics that was not made to");
    hash
}

/// Hides the messages of injected panics: thousands of them would bury the message of a real panic.
fn silence_injected_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let others = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            let payload = panic.payload();
            let literal = payload.downcast_ref::<&str>().copied();
            let message = literal.or_else(|| payload.downcast_ref().map(String::as_str)).unwrap_or_default();
            // An injected panic on another home ends the topic's actor with a panic of its own.
            let is_made = message.starts_with("injected: ") || message == topic::TORN;
            if !simulated::is_running() || !is_made {
                PANICS.set(PANICS.get() + 1);
                return others(panic);
            }
            if message.starts_with("injected: a topic") {
                TOPIC_CRASHES.with_borrow_mut(|crashes| crashes.push_back(Instant::now()));
            }
        }));
    });
}

/// Two senders, as tasks.
fn senders(shared: &Arc<Shared>, chance: &Chance) -> Supervisor {
    (1..=2).fold(
        Supervisor::new("senders", Strategy::OneForOne).intensity(20, Duration::from_secs(60)),
        |senders, number| {
            let (shared, chance) = (Arc::clone(shared), chance.clone());
            let sender = move || {
                let (shared, chance) = (Arc::clone(&shared), chance.clone());
                async move {
                    loop {
                        let pass = shared.senders.next_for_task().await;
                        chance.pause().await;
                        pass.serve_piece_slowly(Server::Sender(1), || chance.pause()).await;
                    }
                }
            };
            senders.child(ChildSpec::task(format!("sender {number}"), sender).shutdown(Shutdown::BrutalKill))
        },
    )
}

/// Small limits, so that a run meets all of them.
fn config(chance: &Chance) -> Config {
    let policies = [SlowConsumer::DropOldest, SlowConsumer::DropNewest, SlowConsumer::Conflate];
    let namespaces = (BEARING..=CONFLATED).zip(policies).map(|(topic, slow_consumer)| {
        let name = topic_name(topic).split_once(':').expect("it has a namespace").0.to_owned();
        let resume = if topic == OF_SESSIONS { Resume::Session } else { Resume::Position };
        (name, Namespace { slow_consumer, resume, ..Namespace::default() })
    });
    Config {
        namespaces: namespaces.collect(),
        listen: Vec::new(),
        threads: 5,
        max_queue_frames: chance.pick(&[8, 16, 32, 64]),
        max_queue_bytes: chance.pick(&[4 * 1024, 16 * 1024]),
        max_inflight_frames: 8,
        max_inflight_bytes: chance.pick(&[1024, 4 * 1024]),
        coalesce_bytes: 512,
        inline_subscribers: chance.pick(&[0, 4, 4, 100]),
        frame_timeout: Duration::from_secs(6),
        heartbeat_interval: Duration::from_secs(8),
        pong_timeout: PONG_TIMEOUT,
        session_ttl: Duration::from_secs(20),
        max_detached_sessions: chance.pick(&[5, 1_000, 1_000]),
        resume_messages: chance.pick(&[8, 128, 128]),
        resume_bytes: chance.pick(&[2 * 1024, 256 * 1024]),
        resume_age: chance.pick(&[Duration::from_secs(6), Duration::from_secs(30)]),
        topic_idle: Duration::from_secs(10),
        topic_quarantine: Duration::from_secs(15),
        drain_timeout: Duration::from_secs(10),
        write_timeout: Duration::from_secs(5),
        stall_timeout: Duration::from_secs(5),
        default_namespace: Namespace { client_publish_rate: chance.pick(&[0, 0, 20]), ..Namespace::default() },
        client_bytes_rate: chance.pick(&[0, 0, 0, 4 * 1024]),
        client_subscribe_rate: chance.pick(&[0, 100, 20]),
        // With small bursts, clients meet their rates.
        max_topics_per_client: TOPICS,
        max_frame_bytes: 2 * 1024,
        // The model knows no client that is closed for its haste; real sockets have tests of that.
        rate_patience: Duration::from_secs(3_600),
        ..Config::default()
    }
}

/// The modern protocol in WebSocket frames, without the request to upgrade.
fn websocket(janus: &Janus, is_binary: bool) -> Arc<Origin> {
    let codec: Arc<dyn Codec> = match is_binary {
        true => Arc::new(WebSocket::new(Cbor)),
        false => Arc::new(WebSocket::v1()),
    };
    let codec_id = janus.tables().codecs().register(&codec).expect("it is the second");
    Arc::new(Origin { codec, codec_id, is_local: true, pass_on: None, tls: None })
}

const CLIENTS: usize = 40;
const LISTENERS: usize = 6;

impl World {
    async fn new(seed: u64, chance: Chance) -> Self {
        let place = Place::here();
        let (janus, config) = Self::start(&chance, &place).await;
        let is_binary = seed % 2 == 1;
        let crash_rate = chance.pick(&[10, 40, 100, 400]);
        let modern = chance.pick(&[2, 5, 8]);
        Self {
            seed,
            limits: Self::limits(&config, 0),
            websocket: websocket(&janus, is_binary),
            chance,
            place,
            janus,
            config,
            clients: Vec::new(),
            listeners: Vec::new(),
            places: Vec::new(),
            lost: Vec::new(),
            model: Model::new(is_binary),
            trace: Trace::default(),
            receipts: Rc::default(),
            unanswered: 0,
            settled: [0; TOPICS],
            step: 0,
            next_client: 0,
            root_crashes: VecDeque::new(),
            sender_crashes: VecDeque::new(),
            errand_crashes: VecDeque::new(),
            crash_rate,
            modern,
        }
    }

    async fn start(chance: &Chance, place: &Place) -> (Janus, Config) {
        let config = config(chance);
        config.validate().expect("these settings are allowed");
        let shared = Shared::new(
            config.clone(),
            vec![place.clone(); chance.pick(&[1, 1, 2, 3])],
            Default::default(),
            (Vec::new(), Shared::no_http_port()),
            None,
            None,
            None,
        );
        let senders = senders(&shared, chance);
        let (weak, chance) = (Arc::downgrade(&shared.topics), chance.clone());
        // Without interruptions in some runs: a home that serves any topic at any time hides a forgotten wake-up.
        let one_in = chance.pick(&[6, 60, usize::MAX]);
        simulated::on_interruption(one_in, move || {
            if let Some(topics) = weak.upgrade() {
                topic::errands::interrupt(&topics, &chance);
            }
        });
        let janus = builder::start(shared, senders, place.clone(), None, (&Default::default(), &WeakJanus::to_come()))
            .await
            .expect("the tree starts");
        (janus, config)
    }

    fn limits(config: &Config, instance: usize) -> Limits {
        Limits {
            frames: config.max_queue_frames,
            bytes: config.max_queue_bytes,
            patience: config.write_timeout,
            resume_messages: config.resume_messages,
            resume_bytes: config.resume_bytes,
            resume_age: config.resume_age,
            session_ttl: config.session_ttl,
            keeps_sessions: config.max_detached_sessions >= 1_000,
            draining: false,
            quarantine: false,
            crashed: false,
            last_cold: None,
            instance,
        }
    }

    fn connect_classic(&mut self) -> Classic {
        let origin = Origin::classic(self.janus.tables().codecs(), true, None);
        Classic::new(self.accept(origin))
    }

    /// Opens a connection to the server.
    fn accept(&mut self, origin: Arc<Origin>) -> Line {
        self.next_client += 1;
        let number = self.next_client;
        let addr = SocketAddr::from(([10, 0, (number >> 16) as u8, (number >> 8) as u8], number as u16));
        let capacity = self.chance.pick(&[64, 200, 700, 2_000]);
        let (server, peer) = memory::pair(addr, capacity, self.chance.clone());
        let accepted = Accepted { home: self.janus.tables().homes.next().id, ..Accepted::new(server, addr.into()) };
        acceptor::serve(self.janus.tables(), accepted, &origin);
        self.trace.note("connect", number, capacity, usize::from(origin.codec_id));
        Line::new(number, addr, peer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn setting(name: &str) -> Option<u64> {
        std::env::var(name).ok().map(|value| value.parse().unwrap_or_else(|_| panic!("{name} must be a number")))
    }

    /// A client that reads slowly may have a close frame waiting when its heartbeat is due.
    #[test]
    fn no_heartbeat_follows_a_close_frame_to_a_slow_reader() {
        use crate::wire::v1::client as v1;
        use crate::wire::websocket::client::{ServerDecoder, ServerFrame, close, text};

        const MASK: [u8; 4] = [1, 2, 3, 4];
        runtime().block_on(async {
            let (chance, place) = (Chance::new(1), Place::here());
            let config = Config { heartbeat_interval: Duration::from_secs(2), listen: Vec::new(), ..Config::default() };
            let shared = Shared::new(
                config,
                vec![place.clone()],
                Default::default(),
                (Vec::new(), Shared::no_http_port()),
                None,
                None,
                None,
            );
            let senders = senders(&shared, &chance);
            let janus = builder::start(shared, senders, place, None, (&Default::default(), &WeakJanus::to_come()))
                .await
                .unwrap();
            let addr = SocketAddr::from(([10, 0, 0, 1], 1));
            let (server, peer) = memory::pair(addr, 64, chance.clone());
            acceptor::serve(janus.tables(), Accepted::new(server, addr.into()), &websocket(&janus, false));
            let (mut decoder, mut seen) = (ServerDecoder::new(), Vec::new());
            let mut read = || {
                let mut bytes = Vec::new();
                let end = peer.read(&mut bytes, 8);
                let mut input = &bytes[..];
                while let Some(frame) = decoder.decode(&mut input) {
                    seen.push(match frame {
                        ServerFrame::Text(_) => "text",
                        ServerFrame::Ping(_) => "ping",
                        ServerFrame::Close { .. } => "close",
                        other => panic!("{other:?}"),
                    });
                }
                (end, seen.clone())
            };
            let mut said = vec![text(&v1::hello(None, None), MASK)];
            said.extend((0..8).map(|id| text(&v1::unsubscribe(Some(id), "t"), MASK)));
            said.push(close(1000, MASK));
            let mut said = &said.concat()[..];
            while !said.is_empty() {
                said = &said[peer.write(said)..];
                sleep(Duration::from_millis(1)).await;
            }
            // Heartbeats fall due during this wait.
            let end = loop {
                sleep(Duration::from_millis(100)).await;
                if let (end @ (memory::Read::Fin | memory::Read::Reset), seen) = read() {
                    break (end, seen);
                }
            };
            let (end, seen) = end;
            assert_eq!((end, seen.last(), seen.len()), (memory::Read::Fin, Some(&"close"), 10), "{seen:?}");
            peer.close();
            janus.shutdown().await;
        });
    }

    #[test]
    fn the_same_seed_repeats_the_same_run() {
        for seed in [1, 2] {
            assert_eq!(run(seed, 5_000), run(seed, 5_000));
        }
        assert_ne!(run(1, 100), run(2, 100));
    }

    #[test]
    fn clients_miss_nothing_in_known_runs() {
        for seed in 1..=20 {
            run(seed, 10_000);
        }
    }

    #[test]
    fn clients_miss_nothing_in_a_random_run() {
        let random = getrandom::u64().expect("the system has random numbers") >> 16;
        let seed = setting("JANUS_SIM_SEED").unwrap_or(random);
        let steps = setting("JANUS_SIM_STEPS").unwrap_or(50_000);
        eprintln!("JANUS_SIM_SEED={seed} JANUS_SIM_STEPS={steps}");
        run(seed, usize::try_from(steps).expect("no run is that long"));
    }
}
