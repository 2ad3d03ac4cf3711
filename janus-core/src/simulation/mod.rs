//! The whole server in one thread, under virtual time, with clients that do anything at any moment.
//!
//! Every decision comes from one seeded generator: what happens next, how much a stream takes, who gets the next turn. A
//! failure prints its seed, and the seed makes it happen again:
//!
//! ```text
//! JANUS_SIM_SEED=17 JANUS_SIM_STEPS=20000 cargo test -p janus-core --all-features simulation
//! ```
//!
//! - [`stream`]: sockets without a kernel.
//! - [`client`]: what clients have in common; [`classic`] and [`modern`]: what those of the two protocols say, and what each
//!   of them may and must see.
//! - [`listener`]: subscribers in the same process.
//! - [`model`]: the order of the messages, in which all clients have to agree.
//! - Here: the steps, the server that they happen to, and the turns of its tasks.
//!
//! The home arbiter, the supervisors and two senders are tasks of this thread. A sender pauses between any two sends, so
//! that anything can happen there that could happen while a thread is interrupted. Nothing but the seed may decide anything:
//! hash tables have fixed hashers in tests, and whoever takes random numbers from the system for more than a name asks
//! [`seed`] first.
//!
//! # Is it any good?
//!
//! Faults were planted to see whether it notices. Steps until it did, for the seeds 1 to 10, with 10,000 steps each. With
//! clients of both protocols:
//!
//! | planted fault | first found | half of the seeds by | seeds that find it |
//! |---|---|---|---|
//! | the time of a message in another codec loses its fraction of a second | 21 | 97 | 10 |
//! | a longer batch in another codec is cut where the frames of the classic one end | 57 | 169 | 10 |
//! | `next_seq` is not stored with the send | 87 | 233 | 10 |
//! | who resumes is sent what it had last once more | 94 | 142 | 10 |
//! | a welcome always says that the session is known | 151 | 1,193 | 10 |
//! | the epoch of a position is not looked at | 238 | 2,853 | 8 |
//! | an unsubscribe is answered, and does not end delivery | 344 | 1,215 | 10 |
//! | conflation tells no gap | 364 | 998 | 10 |
//! | what is dropped ends where the frame of the classic codec would | 858 | 5,229 | 6 |
//! | what is numbered and not handed out is not counted as missed | 1,254 | 5,067 | 9 |
//! | who resumes starts live with the next number instead of the first that was not handed out | 2,306 | 3,777 | 8 |
//! | what is trimmed during a replay is left out without a word | 2,631 | – | 3 |
//!
//! With clients of the classic protocol alone:
//!
//! | planted fault | first found | half of the seeds by | seeds that find it |
//! |---|---|---|---|
//! | a piece given back by a dead sender is forgotten | 87 | 324 | 10 |
//! | a warm restart forgets who joined during the pass | 5,073 | – | 1 |
//! | a flush drops what is left of a message after a partial write | 41 | 95 | 10 |
//! | a warm restart drops the open batch | 11 | 282 | 10 |
//! | a subscription starts one number too late if a batch is open | 446 | 1,763 | 9 |
//! | nobody is ever resumed | 63 | 221 | 6 |
//! | a cold restart tells nobody what was lost | 108 | 365 | 10 |
//! | publishers are not woken when there is room | 26 | 119 | 10 |
//!
//! And these were faults before it was written, or when it was; the last but one since it has clients of the modern protocol, the last
//! since clients give up a connection and attach on the next:
//!
//! | fault | first found | half of the seeds by | seeds that find it |
//! |---|---|---|---|
//! | a subscriber waits for 5 s for a topic that has ended | 371 | 1,113 | 7 |
//! | a count that the server has declared void is taken for a new one, if its answer was lost | 38 | 230 | 10 |
//! | who resumes in a topic that then cannot be started hears nothing more | 8,764 | – | 1 |
//! | conflation puts a message before a gap of lower numbers | 354 | 5,044 | 5 |
//! | a heartbeat comes behind a close frame, if the client reads slowly | 7,878 | – | 1 |
//! | an older connection whose claim is read last takes a session from a newer one | 1,398 | 2,918 | 8 |

mod classic;
mod client;
mod listener;
mod model;
mod modern;

use std::cell::RefCell;
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
use self::model::{BEARING, CONFLATED, Id, Model, OF_SESSIONS, Outcome, TOPICS, topic_name};
use self::modern::Modern;
use crate::connection::acceptor;
use crate::connection::listener::Origin;
use crate::delivery::memory;
use crate::delivery::pass::Server;
use crate::ground::simulated::{self, Chance};
use crate::instance::builder;
use crate::instance::shared::Shared;
use crate::supervision::{ChildSpec, Place, Shutdown, Strategy, Supervisor};
use crate::wire::{Codec, WebSocket};
use crate::{Config, Fault, Janus, Message, Namespace, Position, PublishError, Receipt, Resume, SlowConsumer};

/// What happened, as a hash of everything and as the last of it in words.
#[derive(Debug, Default)]
struct Trace {
    hash: u64,
    events: VecDeque<(&'static str, usize, usize, usize)>,
}

const EVENTS_SHOWN: usize = 60;

impl Trace {
    fn note(&mut self, what: &'static str, a: usize, b: usize, c: usize) {
        let kind = what.bytes().fold(0, |hash: u64, byte| hash.wrapping_mul(31).wrapping_add(u64::from(byte)));
        for word in [kind, a as u64, b as u64, c as u64] {
            self.hash = (self.hash ^ word).wrapping_mul(0x0100_0000_01b3).rotate_left(23);
        }
        if self.events.len() == EVENTS_SHOWN {
            self.events.pop_front();
        }
        self.events.push_back((what, a, b, c));
    }
}

/// How much a client may let wait before it is cut off.
#[derive(Clone, Copy, Debug)]
struct Limits {
    frames: usize,
    bytes: usize,
    /// How long it may take nothing.
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
    /// Whether a topic has crashed, perhaps at its first start: then it is given up.
    crashed: bool,
    /// When a topic may last have started afresh.
    last_cold: Option<Instant>,
    /// Which server it is.
    instance: usize,
}

/// No frame of these clients takes more of a queue: 512 bytes, terminator included, and the price of an entry.
const MAX_ENTRY: usize = 512 + 64;

thread_local! {
    /// When topics have crashed: a fault may hit long after it was armed.
    static TOPIC_CRASHES: RefCell<VecDeque<Instant>> = const { RefCell::new(VecDeque::new()) };
}

/// What publishers in this process were told and the model has not seen.
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
    /// Where listeners were that have gone.
    places: Vec<(usize, Position)>,
    /// Clients that have lost their connection and may come back.
    lost: Vec<Session>,
    model: Model,
    trace: Trace,
    receipts: Receipts,
    /// Messages of publishers in this process that have not been answered.
    unanswered: usize,
    /// How many messages of each topic have been checked.
    settled: [usize; TOPICS],
    step: usize,
    next_client: usize,
    /// When actors crashed whose supervisor ends the instance if it happens too often.
    root_crashes: VecDeque<Instant>,
    sender_crashes: VecDeque<Instant>,
    /// How much this run likes crashes: one step in so many.
    crash_rate: usize,
    /// Of ten clients, how many speak the modern protocol.
    modern: usize,
    /// The modern protocol, as connections of this instance speak it.
    websocket: Arc<Origin>,
}

/// Tells what is needed to see a failure again.
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

/// One thread, and time that passes when nothing is left to do.
fn runtime() -> LocalRuntime {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_time().start_paused(true);
    builder.build_local(LocalOptions::default()).expect("a runtime without reactor needs nothing")
}

/// Runs so many steps; returns the hash of everything that happened.
fn run(seed: u64, steps: usize) -> u64 {
    silence_injected_panics();
    let hash = runtime().block_on(async {
        simulated::begin();
        TOPIC_CRASHES.take();
        let mut world = World::new(seed).await;
        for step in 0..steps {
            world.step = step;
            world.take_step().await;
        }
        world.settle(true).await;
        world.drain().await;
        world.trace.hash
    });
    simulated::end();
    hash
}

/// Thousands of panics are part of the plan; their messages would hide the one that is not.
fn silence_injected_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let others = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            let payload = panic.payload();
            let literal = payload.downcast_ref::<&str>().copied();
            let message = literal.or_else(|| payload.downcast_ref().map(String::as_str)).unwrap_or_default();
            if !simulated::is_running() || !message.starts_with("injected: ") {
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
                        pass.serve_piece_slowly(Server::Sender, || chance.pause()).await;
                    }
                }
            };
            senders.child(ChildSpec::task(format!("sender {number}"), sender).shutdown(Shutdown::BrutalKill))
        },
    )
}

/// Small limits, so that all of them are met.
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
        threads: 3,
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
        ..Config::default()
    }
}

/// The modern protocol without a request to upgrade: it is framed as in a WebSocket that is open.
fn websocket(janus: &Janus) -> Arc<Origin> {
    let codec: Arc<dyn Codec> = Arc::new(WebSocket);
    let codec_id = janus.tables().codecs().register(&codec).expect("it is the second");
    Arc::new(Origin { codec, codec_id, is_local: true, pass_on: None })
}

const CLIENTS: usize = 40;
const LISTENERS: usize = 6;

impl World {
    async fn new(seed: u64) -> Self {
        let chance = Chance::new(seed);
        let place = Place::here();
        let (janus, config) = Self::start(&chance, &place).await;
        let crash_rate = chance.pick(&[10, 40, 100, 400]);
        let modern = chance.pick(&[2, 5, 8]);
        Self {
            seed,
            limits: Self::limits(&config, 0),
            websocket: websocket(&janus),
            chance,
            place,
            janus,
            config,
            clients: Vec::new(),
            listeners: Vec::new(),
            places: Vec::new(),
            lost: Vec::new(),
            model: Model::default(),
            trace: Trace::default(),
            receipts: Rc::default(),
            unanswered: 0,
            settled: [0; TOPICS],
            step: 0,
            next_client: 0,
            root_crashes: VecDeque::new(),
            sender_crashes: VecDeque::new(),
            crash_rate,
            modern,
        }
    }

    async fn start(chance: &Chance, place: &Place) -> (Janus, Config) {
        let config = config(chance);
        config.validate().expect("these settings are allowed");
        let shared = Shared::new(config.clone(), place.clone(), Arc::default(), Vec::new(), None);
        let senders = senders(&shared, chance);
        let janus =
            builder::start(shared, senders, place.clone(), None, &Default::default()).await.expect("the tree starts");
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

    async fn take_step(&mut self) {
        if self.chance.one_in(self.crash_rate) {
            self.crash();
        }
        match self.chance.below(1000) {
            0..60 => self.connect(),
            60..90 => self.attach(),
            90..220 => self.subscribe(),
            220..250 => self.unsubscribe(),
            250..430 => self.publish(1),
            430..460 => {
                let burst = 2 + self.chance.below(20);
                self.publish(burst);
            }
            460..480 => self.try_publish(),
            480..580 => self.publish_by_client(),
            580..600 => self.publish_classic(),
            600..620 => self.with_client(|client, _, _| client.line_mut().stalled = true),
            620..660 => self.with_client(|client, _, _| client.line_mut().stalled = false),
            660..670 => self.with_client(|client, _, chance| client.finish(chance)),
            670..685 => self.vanish(),
            685..689 => self.with_client(|client, _, _| client.leave_unfinished()),
            689..699 => self.listen(),
            699..705 => self.stop_listening(),
            705..713 => self.with_listener(|listener| listener.stalled ^= true),
            713..790 => self.pass_time(20).await,
            790..810 => self.pass_time(2_000).await,
            810..812 => self.pass_time(70_000).await,
            812..825 => {
                let full = self.chance.one_in(3);
                self.settle(full).await;
            }
            825 if self.chance.one_in(3) => {
                self.drain().await;
                self.restart().await;
            }
            _ => {
                self.pump(1, usize::MAX);
            }
        }
        self.chance.pause().await;
        self.pump(4, 300);
        self.chance.pause().await;
    }

    /// One of the topics; the first is the one with many subscribers.
    fn topic(&self) -> usize {
        if self.chance.one_in(2) { 0 } else { self.chance.below(TOPICS) }
    }

    fn padding(&self) -> usize {
        match self.chance.below(10) {
            0 => self.chance.below(300),
            _ => self.chance.below(40),
        }
    }

    fn with_client(&mut self, act: impl FnOnce(&mut dyn Client, &mut Model, &Chance)) {
        if self.clients.is_empty() {
            return;
        }
        let number = self.chance.below(self.clients.len());
        let client = &mut *self.clients[number];
        if client.is_at_leisure() {
            act(client, &mut self.model, &self.chance);
        }
    }

    fn connect(&mut self) {
        if self.clients.len() >= CLIENTS {
            return;
        }
        if self.chance.below(10) < self.modern {
            let line = self.accept(Arc::clone(&self.websocket));
            self.clients.push(Box::new(Modern::new(line, None, &self.model, &self.chance)));
        } else {
            let classic = self.connect_classic();
            self.clients.push(Box::new(classic));
        }
    }

    fn connect_classic(&mut self) -> Classic {
        let origin = Origin::classic(self.janus.tables().codecs(), true);
        Classic::new(self.accept(origin))
    }

    /// A new connection to the server.
    fn accept(&mut self, origin: Arc<Origin>) -> Line {
        self.next_client += 1;
        let number = self.next_client;
        let addr = SocketAddr::from(([10, 0, (number >> 16) as u8, (number >> 8) as u8], number as u16));
        let capacity = self.chance.pick(&[64, 200, 700, 2_000]);
        let (server, peer) = memory::pair(addr, capacity, self.chance.clone());
        acceptor::serve(self.janus.tables(), server.into(), addr.into(), &origin);
        self.trace.note("connect", number, capacity, usize::from(origin.codec_id));
        Line::new(number, addr, peer)
    }

    /// Comes back after its connection has ended, or while it has not.
    fn attach(&mut self) {
        if self.clients.len() >= CLIENTS {
            return;
        }
        let session = if self.chance.one_in(4) && !self.clients.is_empty() {
            let older = self.chance.below(self.clients.len());
            let older = &mut self.clients[older];
            let session = older.session(self.limits.instance);
            older.line_mut().reason.taken = true;
            self.trace.note("taken", older.line().number, self.next_client + 1, 0);
            session
        } else if self.lost.is_empty() {
            None
        } else {
            let latest = self.lost.len() - 1 - self.chance.below(self.lost.len().min(4));
            Some(self.lost.swap_remove(latest))
        };
        match session {
            Some(Session::Classic(session)) if self.chance.one_in(3) => self.attach_twice(*session),
            Some(Session::Classic(session)) => {
                let mut client = self.connect_classic();
                client.attach(*session, &self.model, &self.chance);
                self.clients.push(Box::new(client));
            }
            Some(Session::Modern(session)) => {
                let line = self.accept(Arc::clone(&self.websocket));
                self.clients.push(Box::new(Modern::new(line, Some(*session), &self.model, &self.chance)));
            }
            None => {}
        }
    }

    /// Comes back, gives up the connection before the answer has come, and comes back on another one. Both claims may be under
    /// way together, and the later connection is the one that must have the session.
    fn attach_twice(&mut self, session: classic::Session) {
        let mut older = self.connect_classic();
        let mut newer = self.connect_classic();
        older.attach(session, &self.model, &self.chance);
        if let Some(Session::Classic(session)) = older.session(self.limits.instance) {
            newer.attach(*session, &self.model, &self.chance);
        }
        older.line_mut().reason.taken = true;
        self.trace.note("given up", older.line().number, newer.line().number, 0);
        self.clients.push(Box::new(newer));
        if self.chance.one_in(2) {
            older.pump(usize::MAX, &mut self.model, &mut self.trace, &self.limits);
            older.line().vanish(&self.chance);
        } else {
            self.clients.push(Box::new(older));
        }
    }

    /// Subscribes in this process, perhaps where somebody was before.
    fn listen(&mut self) {
        if self.listeners.len() >= LISTENERS {
            return;
        }
        let (topic, since) = if self.chance.one_in(2) && !self.places.is_empty() {
            let place = self.chance.below(self.places.len());
            let (topic, since) = self.places.swap_remove(place);
            (topic, Some(since))
        } else {
            (self.topic(), None)
        };
        self.next_client += 1;
        let number = self.next_client;
        self.trace.note("listen", number, topic, 0);
        self.look_for_crashes();
        self.listeners.extend(Listener::new(number, topic, since, &self.janus, &self.chance, &self.limits));
    }

    fn with_listener(&mut self, act: impl FnOnce(&mut Listener)) {
        if !self.listeners.is_empty() {
            let listener = self.chance.below(self.listeners.len());
            act(&mut self.listeners[listener]);
        }
    }

    fn stop_listening(&mut self) {
        if !self.listeners.is_empty() {
            let listener = self.listeners.swap_remove(self.chance.below(self.listeners.len()));
            self.places.push((listener.topic, listener.position()));
        }
    }

    fn subscribe(&mut self) {
        let topic = self.topic();
        self.with_client(|client, model, chance| client.subscribe(topic, model, chance));
    }

    fn unsubscribe(&mut self) {
        let topic = self.topic();
        self.with_client(|client, _, _| {
            if client.wants(topic) {
                client.unsubscribe(topic);
            }
        });
    }

    fn publish(&mut self, count: usize) {
        let topic = self.topic();
        for _ in 0..count {
            let id = self.model.publish(topic, self.padding());
            self.publish_here(id);
        }
    }

    fn message(&self, id: Id) -> Message {
        let message = &self.model.messages[id];
        Message::new(&topic_name(message.topic), &id).expect("a number can be published").event(&message.event())
    }

    fn publish_here(&mut self, id: Id) {
        self.trace.note("publish", 0, id, 0);
        self.unanswered += 1;
        let (janus, receipts, message) = (self.janus.clone(), Rc::clone(&self.receipts), self.message(id));
        tokio::task::spawn_local(async move {
            let outcome = janus.publish_message(message).await;
            drop(janus);
            receipts.borrow_mut().push_back((id, outcome));
        });
    }

    fn try_publish(&mut self) {
        let id = self.model.publish(self.topic(), self.padding());
        match self.janus.try_publish(self.message(id)) {
            Ok(receipt) => {
                self.unanswered += 1;
                let receipts = Rc::clone(&self.receipts);
                tokio::task::spawn_local(async move {
                    let outcome = receipt.await;
                    receipts.borrow_mut().push_back((id, outcome));
                });
            }
            Err(error) => self.model.refused(id, &error),
        }
    }

    fn publish_by_client(&mut self) {
        let (topic, padding) = (self.topic(), self.padding());
        self.with_client(|client, model, _| {
            let id = model.publish(client.publishes_to(model).unwrap_or(topic), padding);
            client.publish(id, model);
        });
    }

    fn publish_classic(&mut self) {
        let (topic, padding) = (self.topic(), self.padding());
        let goes_away = self.chance.one_in(3);
        // A client of its own: an error could overtake the receipts of others, and does not say what it is about.
        if self.clients.len() >= CLIENTS {
            return;
        }
        let mut client = self.connect_classic();
        let id = self.model.publish(topic, padding);
        client.publish_and_finish(id, &self.model);
        if goes_away {
            client.pump(usize::MAX, &mut self.model, &mut self.trace, &self.limits);
            client.line().vanish(&self.chance);
        } else {
            self.clients.push(Box::new(client));
        }
    }

    fn vanish(&mut self) {
        if !self.clients.is_empty() {
            let mut client = self.clients.swap_remove(self.chance.below(self.clients.len()));
            client.line_mut().note_cut();
            self.lost.extend(client.session(self.limits.instance));
            self.trace.note("vanish", client.line().number, 0, 0);
            client.line().vanish(&self.chance);
        }
    }

    /// Makes an actor panic, or arms a fault that will; never so often that the instance has to give up.
    fn crash(&mut self) {
        let soon = 1 + self.chance.below(30) as u32;
        let topic = topic_name(self.topic());
        let kind = self.chance.below(20);
        let fault = match kind {
            0 => Fault::TopicManager,
            1 => Fault::ProxyMapper,
            2 => Fault::TopicListed,
            3 => Fault::TopicStarts(1 + soon % 2),
            4..7 => Fault::Topic(topic),
            7..11 => Fault::TopicSend(soon),
            11..14 => Fault::TopicCommit(1 + soon / 4),
            14..18 => Fault::SenderSend(soon),
            _ => {
                if self.clients.is_empty() {
                    return;
                }
                let number = self.chance.below(self.clients.len());
                let line = self.clients[number].line_mut();
                line.reason.crash = true;
                Fault::Transport(line.addr)
            }
        };
        self.trace.note("crash", kind, soon as usize, 0);
        let now = Instant::now();
        let (window, most) = match fault {
            Fault::TopicManager | Fault::ProxyMapper | Fault::TopicListed => (&mut self.root_crashes, 4),
            Fault::SenderSend(_) => (&mut self.sender_crashes, 18),
            _ => return self.janus.inject(fault),
        };
        while window.pop_front_if(|crash| now - *crash > Duration::from_secs(61)).is_some() {}
        if window.len() < most {
            window.push_back(now);
            self.janus.inject(fault);
        }
    }

    /// Notes when a topic may have started afresh.
    fn look_for_crashes(&mut self) {
        let recent = |within: u64| {
            TOPIC_CRASHES.with_borrow(|crashes| {
                crashes.iter().rev().take_while(|crash| crash.elapsed() <= Duration::from_secs(within)).count()
            })
        };
        self.limits.crashed |= recent(61) > 0;
        // Six in a minute, and a quarter of a minute of rest.
        self.limits.quarantine = recent(77) >= 6;
        if recent(61) >= 3 || self.limits.quarantine {
            self.limits.last_cold = Some(Instant::now());
        }
    }

    /// Lets up to so many milliseconds pass. Those who read go on reading.
    async fn pass_time(&mut self, at_most: usize) {
        let mut left = 1 + self.chance.below(at_most);
        while left > 0 {
            let portion = left.min(500);
            sleep(Duration::from_millis(portion as u64)).await;
            left -= portion;
            self.run_until_idle().await;
        }
    }

    /// Some of the clients, one in `one_in`, write and read; whether anything moved.
    fn pump(&mut self, one_in: usize, at_most: usize) -> bool {
        self.look_for_crashes();
        let mut moved = self.collect_receipts();
        for place in 0..self.clients.len() {
            if one_in == 1 || self.chance.one_in(one_in) {
                let at_most = if at_most == usize::MAX { at_most } else { 1 + self.chance.below(at_most) };
                moved |= self.clients[place].pump(at_most, &mut self.model, &mut self.trace, &self.limits);
            }
        }
        for listener in &mut self.listeners {
            if one_in == 1 || self.chance.one_in(one_in) {
                moved |= listener.pump(at_most, &mut self.model, &mut self.trace, &self.limits);
            }
        }
        for listener in self.listeners.extract_if(.., |listener| listener.closed) {
            self.places.push((listener.topic, listener.position()));
        }
        let instance = self.limits.instance;
        for client in self.clients.extract_if(.., |client| client.line().ended.is_some()) {
            self.lost.extend(client.session(instance));
        }
        moved
    }

    fn collect_receipts(&mut self) -> bool {
        let receipts = std::mem::take(&mut *self.receipts.borrow_mut());
        for (id, outcome) in &receipts {
            self.unanswered -= 1;
            match outcome {
                Ok(receipt) => {
                    self.trace.note("receipt", 0, *id, receipt.seq as usize);
                    self.model.receipt(*id, receipt.epoch, receipt.seq);
                    if receipt.seq == 0 {
                        let topic = self.model.messages[*id].topic;
                        let client = self.clients.iter().find(|client| client.must_get(topic, *id));
                        assert!(client.is_none(), "message {id} had no topic, but a subscriber: {client:?}");
                    }
                }
                Err(error) => {
                    self.trace.note("refusal", 0, *id, 0);
                    self.model.refused(*id, error);
                }
            }
        }
        !receipts.is_empty()
    }

    async fn run_until_idle(&mut self) {
        let mut quiet = 0;
        let mut rounds = 0;
        while quiet < 2 {
            // Over when no task has anything to do.
            sleep(Duration::from_millis(1)).await;
            quiet = if self.pump(1, usize::MAX) { 0 } else { quiet + 1 };
            rounds += 1;
            assert!(rounds < 20_000, "the server does not come to rest");
        }
    }

    /// Lets everything come to its end, and checks that everybody has everything.
    async fn settle(&mut self, full: bool) {
        self.trace.note("settle", self.clients.len(), usize::from(full), 0);
        if full {
            self.clients.iter_mut().for_each(|client| client.line_mut().stalled = false);
            self.listeners.iter_mut().for_each(|listener| listener.stalled = false);
        }
        self.run_until_idle().await;
        for client in &mut self.clients {
            let line = client.line_mut();
            // Who was closed for it has been told by now.
            line.reason.silent &= line.stalled;
        }
        let mut probes: [Option<Id>; TOPICS] = std::array::from_fn(|topic| Some(self.model.publish(topic, 0)));
        for probe in probes.into_iter().flatten() {
            self.publish_here(probe);
        }
        self.run_until_idle().await;
        assert_eq!(self.unanswered, 0, "every publisher in this process is answered");
        for (topic, probe) in probes.iter_mut().enumerate() {
            // A topic in quarantine takes nothing, and what it has taken waits.
            let rests = self.janus.topic_info(&topic_name(topic)).is_some_and(|info| !info.available);
            assert!(!rests || self.limits.quarantine, "topic {topic} is out of service without a reason");
            probe.take_if(|id| rests || self.model.messages[*id].outcome != Outcome::Accepted);
        }
        for client in &mut self.clients {
            client.check_settled(&probes, &self.model);
        }
        for listener in &self.listeners {
            listener.check_settled(probes[listener.topic], &self.model);
        }
        for (topic, probe) in probes.iter().enumerate() {
            // A topic in quarantine has not decided what becomes of its last messages.
            if probe.is_some() {
                self.check_handed_out(topic);
            }
        }
        self.check_tables(full);
    }

    /// Every message that got a number has reached somebody, if there was anybody.
    fn check_handed_out(&mut self, topic: usize) {
        for id in self.model.by_topic[topic].iter().copied().skip(self.settled[topic]) {
            let message = &self.model.messages[id];
            if message.outcome == Outcome::Accepted && !message.was_received() {
                let told = |client: &dyn Client| client.was_told_of(topic, message.seq);
                let client = self.clients.iter().find(|client| client.must_get(topic, id) && !told(&***client));
                assert!(client.is_none(), "message {id} has a number, and nobody has it, not even {client:?}");
            }
        }
        self.settled[topic] = self.model.by_topic[topic].len();
    }

    /// The server holds what it should, and nothing else.
    fn check_tables(&self, full: bool) {
        let stats = self.janus.stats();
        assert!(
            stats.connections >= self.clients.iter().filter(|client| client.line().is_served()).count(),
            "{stats:?}"
        );
        if full {
            assert_eq!(stats.connections, self.clients.len(), "all who are connected read: {stats:?}");
        }
        for topic in 0..TOPICS {
            let info = self.janus.topic_info(&topic_name(topic));
            let (sure, perhaps) = self.clients.iter().fold((0, 0), |(sure, perhaps), client| {
                let (is, may_be) = client.is_subscriber(topic);
                (sure + usize::from(is), perhaps + usize::from(may_be))
            });
            let listeners = self.listeners.iter().filter(|listener| listener.topic == topic);
            // One that has not caught up is not on the list.
            let (sure, perhaps) =
                (sure + listeners.clone().filter(|l| !l.stalled).count(), perhaps + listeners.count());
            let Some(info) = info else {
                assert_eq!(sure, 0, "topic {topic} does not exist");
                continue;
            };
            // Those who leave during a quarantine are taken off the list after it.
            let most = if info.available { perhaps } else { usize::MAX };
            assert!((sure..=most).contains(&info.subscribers), "{sure} to {most} subscribers, but {info:?}");
            assert!(info.in_flight == 0 || !info.available, "nothing is left to do, but {info:?}");
        }
    }

    /// Ends the instance; what it has taken reaches those who read.
    async fn drain(&mut self) {
        self.trace.note("drain", self.clients.len(), 0, 0);
        self.clients.iter_mut().for_each(|client| client.line_mut().reason.drain = true);
        self.limits.draining = true;
        let janus = self.janus.clone();
        let drained = tokio::task::spawn_local(async move { janus.shutdown().await });
        let mut ended = Vec::new();
        while !drained.is_finished() || !self.clients.is_empty() {
            sleep(Duration::from_millis(1)).await;
            self.collect_receipts();
            if drained.is_finished() {
                self.clients.iter_mut().for_each(|client| client.line_mut().stalled = false);
            }
            for mut client in std::mem::take(&mut self.clients) {
                client.pump(usize::MAX, &mut self.model, &mut self.trace, &self.limits);
                if client.line().ended.is_some() { ended.push(client) } else { self.clients.push(client) }
            }
        }
        sleep(Duration::from_millis(1)).await;
        self.listeners.iter_mut().for_each(|listener| listener.stalled = false);
        self.pump(1, usize::MAX);
        assert_eq!(self.listeners.len(), 0, "every subscriber in this process knows that it was the end");
        assert_eq!(self.unanswered, 0, "every publisher in this process is answered");
        self.look_for_crashes();
        if !self.limits.quarantine {
            ended.iter().for_each(|client| client.check_drained(&self.model));
        }
        assert_eq!(self.janus.stats().connections, 0);
    }

    async fn restart(&mut self) {
        let old = Arc::downgrade(self.janus.tables());
        let (janus, config) = Self::start(&self.chance, &self.place).await;
        self.websocket = websocket(&janus);
        (self.janus, self.limits, self.config) = (janus, Self::limits(&config, self.limits.instance + 1), config);
        sleep(Duration::from_millis(1)).await;
        assert_eq!(old.strong_count(), 0, "nothing of the old instance is left");
        self.root_crashes.clear();
        self.sender_crashes.clear();
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
    fn nothing_follows_the_last_words_to_a_client_that_reads_slowly() {
        use crate::wire::v1::client as v1;
        use crate::wire::websocket::client::{ServerDecoder, ServerFrame, close, text};

        const MASK: [u8; 4] = [1, 2, 3, 4];
        runtime().block_on(async {
            let (chance, place) = (Chance::new(1), Place::here());
            let config = Config { heartbeat_interval: Duration::from_secs(2), listen: Vec::new(), ..Config::default() };
            let shared = Shared::new(config, place.clone(), Arc::default(), Vec::new(), None);
            let senders = senders(&shared, &chance);
            let janus = builder::start(shared, senders, place, None, &Default::default()).await.unwrap();
            let addr = SocketAddr::from(([10, 0, 0, 1], 1));
            let (server, peer) = memory::pair(addr, 64, chance.clone());
            acceptor::serve(janus.tables(), server.into(), addr.into(), &websocket(&janus));
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
            // Meanwhile heartbeats would be due.
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
    fn the_same_seed_is_the_same_run() {
        for seed in [1, 2] {
            assert_eq!(run(seed, 5_000), run(seed, 5_000));
        }
        assert_ne!(run(1, 100), run(2, 100));
    }

    #[test]
    fn nobody_misses_anything_in_known_runs() {
        for seed in 1..=20 {
            run(seed, 10_000);
        }
    }

    #[test]
    fn nobody_misses_anything_in_a_random_run() {
        let random = getrandom::u64().expect("the system has random numbers") >> 16;
        let seed = setting("JANUS_SIM_SEED").unwrap_or(random);
        let steps = setting("JANUS_SIM_STEPS").unwrap_or(50_000);
        eprintln!("JANUS_SIM_SEED={seed} JANUS_SIM_STEPS={steps}");
        run(seed, usize::try_from(steps).expect("no run is that long"));
    }
}
