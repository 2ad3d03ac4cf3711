//! The soak: a server under load for minutes, while clients come, go and stall and parts of the tree crash. No subscriber
//! may miss a message, get one twice or out of order, and memory and descriptors must not grow.
//!
//! It is no part of the usual tests, as it takes as long as it is told to:
//!
//!     cargo test --release --all-features --test soak -- --ignored --nocapture
//!
//! It ends after `SOAK_MINUTES` (20), or with so many `SOAK_DELIVERIES` before. `SOAK_SUBSCRIBERS` (2,000) is how many the
//! large topic has; `SOAK_SEED` repeats the choices of another run, if not its timing.
//!
//! Everything but the server runs on one thread: the clients share one buffer and look for nothing but a message's
//! number, so that the server, and not the checking, has the cores.

#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "a test that meets what it does not expect has failed, wherever it stands")]

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::ops::Range;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use janus_core::supervision::Tree;
use janus_core::wire::classic::client::{ServerDecoder, ServerFrame};
use janus_core::{Config, Fault, Janus};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, Interest};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::Notify;
use tokio::task::{JoinSet, LocalSet};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};

use support::{Close, DEADLINE, publish_frame, serve, subscribe_frame, until};

#[expect(dead_code, reason = "what the end-to-end tests share is more than this one needs")]
mod support;

// As in the server's binary, so that the memory that is looked at is what a server would take.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Clients that come, stay for a moment and go.
const CHURNING: usize = 24;
/// Clients that stop reading until they are cut off.
const STALLING: usize = 4;
/// Messages that the subscribers of a topic may be behind its publishers, on average: these wait for them, or the slowest
/// reader of a busy machine would be cut off with the stalled ones.
const BEHIND: u64 = 64;
/// How long a client stops reading, unless it is cut off before; by then `tcp_user_timeout` has.
const STALL: Duration = Duration::from_secs(35);
/// How long it may take until a client that stalls is cut off.
const CUT_OFF: Duration = Duration::from_secs(180);

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

/// What the tasks of a run share.
struct World {
    janus: Janus,
    addr: SocketAddr,
    topics: Vec<Rc<Topic>>,
    /// Set first for those that come and go, then for the publishers.
    visitors_leave: Cell<bool>,
    publishers_stop: Cell<bool>,
    /// Churning clients that are connected, and those of them whose Transport was made to crash.
    churning: RefCell<BTreeSet<SocketAddr>>,
    condemned: RefCell<BTreeSet<SocketAddr>>,
    injected: RefCell<BTreeMap<&'static str, u64>>,
    deliveries: Cell<u64>,
    visits: Cell<u64>,
    /// Connections that ended because of an injected crash of their Transport, or of the Acceptor before it served them.
    crashed: Cell<u64>,
    /// Stalled clients that were cut off.
    cut_off: Cell<u64>,
}

/// A topic with its publishers, and what is known of its messages.
struct Topic {
    name: String,
    /// Subscribers that stay from the first message to the last.
    steady: u64,
    publishers: Vec<Publisher>,
    accepted: Cell<u64>,
    /// Messages that the steady ones have, all together, and each of them.
    delivered: Cell<u64>,
    received: RefCell<Vec<Rc<Cell<u64>>>>,
    /// Tells publishers that the subscribers have caught up.
    caught_up: Notify,
    /// Numbers that did not come, to be compared with those that were refused once that is known.
    holes: RefCell<Vec<Hole>>,
}

/// The numbers of one publisher, which begin with 1.
#[derive(Default)]
struct Publisher {
    sent: Cell<u64>,
    /// How many have been answered.
    answered: Cell<u64>,
    /// Those that were answered with an error: nobody may get them.
    refused: RefCell<BTreeSet<u64>>,
}

struct Hole {
    publisher: usize,
    numbers: Range<u64>,
}

impl Topic {
    fn new(name: &str, steady: usize, publishers: usize) -> Rc<Self> {
        Rc::new(Self {
            name: name.to_owned(),
            steady: steady as u64,
            publishers: (0..publishers).map(|_| Publisher::default()).collect(),
            accepted: Cell::default(),
            delivered: Cell::default(),
            received: RefCell::default(),
            caught_up: Notify::new(),
            holes: RefCell::default(),
        })
    }

    fn is_behind(&self) -> bool {
        let sent: u64 = self.publishers.iter().map(|publisher| publisher.sent.get()).sum();
        (sent * self.steady).saturating_sub(self.delivered.get()) > BEHIND * self.steady
    }

    /// Compares what did not come with what was refused, as far as the answers are there.
    fn check_holes(&self) {
        self.holes.borrow_mut().retain(|hole| {
            let publisher = &self.publishers[hole.publisher];
            if publisher.answered.get() + 1 < hole.numbers.end {
                return true;
            }
            for number in hole.numbers.clone() {
                let refused = publisher.refused.borrow().contains(&number);
                assert!(refused, "{}: message {number} of publisher {} was lost", self.name, hole.publisher);
            }
            false
        });
    }
}

/// What one subscriber has of its topic. It outlives the connection: whoever can go on where it stopped keeps it.
struct Progress {
    topic: Rc<Topic>,
    last: Vec<Last>,
    received: Rc<Cell<u64>>,
    /// Whether it is one of those that the publishers wait for.
    steady: bool,
}

/// The place of a subscriber among the messages of one publisher.
#[derive(Clone, Copy)]
enum Last {
    /// None has come. What was sent up to this number was sent before the subscription was acknowledged.
    Before(u64),
    Received(u64),
}

/// Published data is the publisher's index times this, plus the message's number.
const PUBLISHER: u64 = 1_000_000_000_000;

impl Progress {
    fn new(topic: &Rc<Topic>, steady: bool) -> Self {
        let received = Rc::default();
        if steady {
            topic.received.borrow_mut().push(Rc::clone(&received));
        }
        Self { topic: Rc::clone(topic), last: vec![Last::Before(u64::MAX); topic.publishers.len()], received, steady }
    }

    /// The subscription stands: what is sent from now on must come.
    fn begin(&mut self) {
        for (last, publisher) in self.last.iter_mut().zip(&self.topic.publishers) {
            if let Last::Before(number) = last {
                *number = publisher.sent.get();
            }
        }
    }

    fn take(&mut self, data: u64) {
        let (publisher, number) = ((data / PUBLISHER) as usize, data % PUBLISHER);
        let last = self.last.get_mut(publisher).unwrap_or_else(|| panic!("{}: {data} is no message", self.topic.name));
        let expected = match *last {
            Last::Received(last) => {
                let name = &self.topic.name;
                assert!(number > last, "{name}: {number} of publisher {publisher} came after {last}, or twice");
                last + 1
            }
            Last::Before(sent) => number.min(sent.saturating_add(1)),
        };
        if number != expected {
            self.topic.holes.borrow_mut().push(Hole { publisher, numbers: expected..number });
        }
        *last = Last::Received(number);
        self.received.set(self.received.get() + 1);
    }
}

/// A client that checks each message it gets.
struct Subscriber {
    stream: TcpStream,
    /// The beginning of a frame whose end has not come.
    unfinished: Vec<u8>,
    progress: Progress,
    greeted: bool,
    acknowledged: bool,
    /// The code of the last error frame.
    told: Option<String>,
}

/// How the server ended a connection, and whether it had begun to serve it.
#[derive(Debug)]
struct Cut {
    close: Close,
    greeted: bool,
}

/// How a client's connection begins.
enum Opening {
    /// With a new subscription, from which on everything must come.
    Subscribe,
}

const SCRATCH_BYTES: usize = 256 * 1024;

thread_local! {
    static SCRATCH: RefCell<Vec<u8>> = RefCell::new(vec![0; SCRATCH_BYTES]);
}

impl Subscriber {
    /// Opens the conversation on a new connection, and waits until the server has agreed.
    async fn open(mut stream: TcpStream, opening: Opening, progress: Progress) -> Result<Self, Cut> {
        let frame = match opening {
            Opening::Subscribe => subscribe_frame(&progress.topic.name),
        };
        stream.set_nodelay(true).unwrap();
        stream.write_all(&frame).await.map_err(unserved)?;
        let unfinished = Vec::new();
        let mut subscriber = Self { stream, unfinished, progress, greeted: false, acknowledged: false, told: None };
        while !subscriber.acknowledged {
            subscriber.read().await?;
            assert_eq!(subscriber.told, None, "a subscribe is refused");
        }
        Ok(subscriber)
    }

    /// Reads once and checks what came; the number of messages.
    async fn read(&mut self) -> Result<u64, Cut> {
        self.read_once().await.map_err(|close| Cut { close, greeted: self.greeted })
    }

    async fn read_once(&mut self) -> Result<u64, Close> {
        loop {
            self.stream.readable().await.map_err(|_| Close::Reset)?;
            let taken = SCRATCH.with_borrow_mut(|scratch| match self.stream.try_read(scratch) {
                Ok(0) => Err(Close::Fin),
                Ok(length) => Ok(Some(self.take(&scratch[..length]))),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => Ok(None),
                Err(_) => Err(Close::Reset),
            });
            if let Some(messages) = taken? {
                return Ok(messages);
            }
        }
    }

    fn take(&mut self, mut bytes: &[u8]) -> u64 {
        let mut messages = 0;
        while let Some(end) = bytes.iter().position(|&byte| byte == 1) {
            let frame = &bytes[..end];
            bytes = &bytes[end + 1..];
            messages += u64::from(if self.unfinished.is_empty() {
                self.take_frame(frame)
            } else {
                let mut whole = std::mem::take(&mut self.unfinished);
                whole.extend_from_slice(frame);
                self.take_frame(&whole)
            });
        }
        self.unfinished.extend_from_slice(bytes);
        let topic = &self.progress.topic;
        if self.progress.steady {
            topic.delivered.set(topic.delivered.get() + messages);
            if !topic.is_behind() {
                topic.caught_up.notify_waiters();
            }
        }
        messages
    }

    /// Whether it is a message.
    fn take_frame(&mut self, frame: &[u8]) -> bool {
        if let Some(data) = data(frame) {
            self.progress.take(data);
            return true;
        }
        match ServerFrame::parse(frame) {
            ServerFrame::Greeting { .. } => self.greeted = true,
            ServerFrame::Ping => {}
            ServerFrame::Ack => {
                self.acknowledged = true;
                self.progress.begin();
            }
            ServerFrame::Error { code, .. } => self.told = Some(code.into_owned()),
            frame => panic!("{}: a subscriber gets {frame:?}", self.progress.topic.name),
        }
        false
    }
}

/// The data of a message, which stands last in it: `…,"data":17}`.
fn data(frame: &[u8]) -> Option<u64> {
    let frame = frame.strip_suffix(b"}")?;
    let digits = frame.iter().rev().take_while(|byte| byte.is_ascii_digit()).count();
    let (head, digits) = frame.split_at(frame.len() - digits);
    if digits.is_empty() || !head.ends_with(b"\"data\":") {
        return None;
    }
    Some(digits.iter().fold(0, |number, digit| number * 10 + u64::from(digit - b'0')))
}

/// A subscriber that stays to the end.
async fn stay(world: Rc<World>, mut subscriber: Subscriber) {
    loop {
        match subscriber.read().await {
            Ok(messages) => world.deliveries.set(world.deliveries.get() + messages),
            Err(cut) => {
                let (topic, told) = (&subscriber.progress.topic.name, &subscriber.told);
                panic!("a subscriber of {topic} that reads was closed: {cut:?}, told {told:?}");
            }
        }
    }
}

/// Publishes up to `batch` messages at a time, no oftener than once in `pace`, and waits for their receipts.
async fn publish(world: Rc<World>, topic: Rc<Topic>, index: usize, batch: u64, pace: Duration, mut random: Random) {
    let publisher = &topic.publishers[index];
    let mut stream = connect(&world).await;
    let mut decoder = ServerDecoder::new();
    let mut buffer = vec![0; 16 * 1024];
    let mut last: Option<(String, u64)> = None;
    let mut turns = interval(pace);
    turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while !world.publishers_stop.get() {
        turns.tick().await;
        while topic.is_behind() {
            topic.caught_up.notified().await;
        }
        let mut frames = Vec::new();
        for _ in 0..=random.below(batch) {
            publisher.sent.set(publisher.sent.get() + 1);
            let data = index as u64 * PUBLISHER + publisher.sent.get();
            frames.extend(publish_frame(&topic.name, &data.to_string()));
        }
        stream.write_all(&frames).await.expect("a publisher stays connected");
        while publisher.answered.get() < publisher.sent.get() {
            let length = timeout(DEADLINE, stream.read(&mut buffer)).await.expect("answers come").unwrap();
            assert!(length > 0, "a publisher to {} was closed", topic.name);
            let mut input = &buffer[..length];
            while let Some(frame) = decoder.decode(&mut input) {
                match frame {
                    ServerFrame::Greeting { .. } => continue,
                    ServerFrame::Published { epoch, seq, subscribers, .. } => {
                        if let Some((last_epoch, last_seq)) = &last {
                            assert_eq!(*last_epoch, epoch, "{}: started afresh", topic.name);
                            assert!(*last_seq < seq, "{}: receipt {seq} after {last_seq}", topic.name);
                        }
                        assert!(subscribers >= topic.steady, "{}: {subscribers} subscribers", topic.name);
                        last = Some((epoch.into_owned(), seq));
                        topic.accepted.set(topic.accepted.get() + 1);
                    }
                    ServerFrame::Error { code, .. } if code == "topic_crashed" => {
                        publisher.refused.borrow_mut().insert(publisher.answered.get() + 1);
                        // Nobody will have it.
                        topic.delivered.set(topic.delivered.get() + topic.steady);
                    }
                    frame => panic!("{}: a publisher gets {frame:?}", topic.name),
                }
                publisher.answered.set(publisher.answered.get() + 1);
            }
        }
    }
}

async fn connect(world: &World) -> TcpStream {
    let stream = timeout(DEADLINE, TcpStream::connect(world.addr)).await.expect("connects in time").expect("connects");
    // A reset leaves no port behind in TIME_WAIT.
    socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
    stream
}

/// A client that comes and goes, in one way after the other.
async fn churn(world: Rc<World>, mut random: Random) {
    while !world.visitors_leave.get() {
        let acceptor_crashes = world.injected("Acceptor");
        let stream = connect(&world).await;
        let visitor = Churning::new(&world, &stream);
        let ended = if random.below(4) == 0 {
            visit_a_passing_topic(stream, &mut random).await
        } else {
            visit(&world, stream, &mut random).await
        };
        world.visits.set(world.visits.get() + 1);
        if let Err(cut) = ended {
            let unserved = !cut.greeted && world.injected("Acceptor") > acceptor_crashes;
            assert!(unserved || visitor.is_condemned(), "a churning client was closed: {cut:?}");
            world.crashed.set(world.crashed.get() + 1);
        }
    }
}

/// Stays with one of the topics for a while and checks what comes.
async fn visit(world: &World, stream: TcpStream, random: &mut Random) -> Result<(), Cut> {
    let topic = &world.topics[random.below(world.topics.len() as u64) as usize];
    let mut subscriber = Subscriber::open(stream, Opening::Subscribe, Progress::new(topic, false)).await?;
    let until = Instant::now() + Duration::from_millis(100 + random.below(3_000));
    let mut wanted = 1 + random.below(1_000);
    while Instant::now() < until && wanted > 0 {
        let messages = subscriber.read().await?;
        world.deliveries.set(world.deliveries.get() + messages);
        wanted = wanted.saturating_sub(messages);
    }
    leave(subscriber.stream, &topic.name, random).await;
    Ok(())
}

/// Makes a topic, or finds one that others made or that is on its way out, and publishes to it.
async fn visit_a_passing_topic(mut stream: TcpStream, random: &mut Random) -> Result<(), Cut> {
    let name = format!("passing {}", random.below(50));
    let mine = random.next() >> 1;
    let frames = [subscribe_frame(&name), publish_frame(&name, &mine.to_string())].concat();
    stream.write_all(&frames).await.map_err(unserved)?;
    let (mut greeted, mut receipt, mut message) = (false, false, false);
    let mut decoder = ServerDecoder::new();
    let mut buffer = [0; 4_096];
    while !(receipt && message) {
        let read = timeout(DEADLINE, stream.read(&mut buffer)).await.expect("answers come");
        let length = read.map_err(|_| Cut { close: Close::Reset, greeted })?;
        if length == 0 {
            return Err(Cut { close: Close::Fin, greeted });
        }
        let mut input = &buffer[..length];
        while let Some(frame) = decoder.decode(&mut input) {
            match frame {
                ServerFrame::Greeting { .. } => greeted = true,
                ServerFrame::Published { subscribers, .. } => {
                    assert!(subscribers > 0, "{name}: a subscriber that is acknowledged is not there");
                    receipt = true;
                }
                ServerFrame::Message { data, .. } => message |= data == mine.to_string(),
                ServerFrame::Ack | ServerFrame::Ping => {}
                // It crashed on the way; then there is nothing to wait for.
                ServerFrame::Error { code, .. } if code == "topic_crashed" => (receipt, message) = (true, true),
                frame => panic!("{name}: {frame:?}"),
            }
        }
    }
    leave(stream, &name, random).await;
    Ok(())
}

fn unserved(_: std::io::Error) -> Cut {
    Cut { close: Close::Reset, greeted: false }
}

/// Ends with a FIN or a reset, and perhaps with an unsubscribe before. Whether the server still reads it does not matter.
async fn leave(mut stream: TcpStream, topic: &str, random: &mut Random) {
    if random.below(2) == 0 {
        let _ = stream.write_all(&janus_core::wire::classic::client::unsubscribe(topic)).await;
    }
    if random.below(2) == 0 {
        let _ = stream.shutdown().await;
    }
}

/// A churning client in the list of those whose Transport may be made to crash.
struct Churning<'w> {
    world: &'w World,
    addr: SocketAddr,
}

impl<'w> Churning<'w> {
    fn new(world: &'w World, stream: &TcpStream) -> Self {
        let addr = stream.local_addr().unwrap();
        world.churning.borrow_mut().insert(addr);
        Self { world, addr }
    }

    fn is_condemned(&self) -> bool {
        self.world.condemned.borrow().contains(&self.addr)
    }
}

impl Drop for Churning<'_> {
    fn drop(&mut self) {
        self.world.churning.borrow_mut().remove(&self.addr);
        self.world.condemned.borrow_mut().remove(&self.addr);
    }
}

/// A client of the large topic that reads for a while, stops until it is cut off, and comes back.
async fn stall(world: Rc<World>, mut random: Random) {
    let topic = &world.topics[0];
    while !world.visitors_leave.get() {
        let acceptor_crashes = world.injected("Acceptor");
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4_096).unwrap();
        let stream = timeout(DEADLINE, socket.connect(world.addr)).await.expect("connects in time").expect("connects");
        let opened = Subscriber::open(stream, Opening::Subscribe, Progress::new(topic, false)).await;
        let mut subscriber = match opened {
            Ok(subscriber) => subscriber,
            Err(cut) => {
                let unserved = !cut.greeted && world.injected("Acceptor") > acceptor_crashes;
                assert!(unserved, "a client that has not stalled yet was closed: {cut:?}");
                continue;
            }
        };
        let mut wanted = 1 + random.below(200);
        while wanted > 0 {
            let messages = subscriber.read().await.expect("a client that still reads stays connected");
            world.deliveries.set(world.deliveries.get() + messages);
            wanted = wanted.saturating_sub(messages);
        }
        let cut = timeout(CUT_OFF, async {
            loop {
                // Where the kernel ends a connection for `tcp_user_timeout`, its peer finds out when it reads again.
                let _ = timeout(STALL, subscriber.stream.ready(Interest::ERROR)).await;
                let read = timeout(Duration::from_secs(1), async {
                    loop {
                        // What had come before the reset is still there.
                        match subscriber.read().await {
                            Ok(messages) => world.deliveries.set(world.deliveries.get() + messages),
                            Err(cut) => return cut,
                        }
                    }
                });
                if let Ok(cut) = read.await {
                    return cut;
                }
            }
        });
        let cut = cut.await.expect("a client that does not read is cut off");
        assert_eq!(cut.close, Close::Reset);
        world.cut_off.set(world.cut_off.get() + 1);
    }
}

/// What is to crash next, if there is anything.
type Choice = fn(&World, &mut Random) -> Option<Fault>;

/// Makes one part after the other crash, with a pause of so many milliseconds in between.
async fn crash(
    world: Rc<World>,
    pause: Range<u64>,
    mut random: Random,
    next: fn(&World, &mut Random) -> Option<Fault>,
) {
    loop {
        let until = Instant::now() + Duration::from_millis(pause.start + random.below(pause.end - pause.start));
        while Instant::now() < until {
            if world.visitors_leave.get() {
                return;
            }
            sleep(Duration::from_millis(100)).await;
        }
        let Some(fault) = next(&world, &mut random) else { continue };
        let name = match &fault {
            Fault::TopicManager => "TopicManager",
            Fault::ProxyMapper => "ProxyMapper",
            Fault::Acceptor => "Acceptor",
            Fault::Topic(_) => "Topic",
            Fault::TopicSend(_) => "TopicSend",
            Fault::TopicCommit(_) => "TopicCommit",
            Fault::SenderSend(_) => "SenderSend",
            Fault::Transport(_) => "Transport",
            fault => panic!("{fault:?} has no name here"),
        };
        *world.injected.borrow_mut().entry(name).or_default() += 1;
        world.janus.inject(fault);
    }
}

impl World {
    fn injected(&self, name: &str) -> u64 {
        self.injected.borrow().get(name).copied().unwrap_or(0)
    }

    /// How often the children of this name, or whose name begins so, were restarted.
    fn restarts(&self, name: &str) -> u64 {
        fn sum(tree: &Tree, name: &str) -> u64 {
            let own = if tree.name.starts_with(name) { tree.restarts } else { 0 };
            own + tree.children.iter().map(|child| sum(child, name)).sum::<u64>()
        }
        sum(&self.janus.tree(), name)
    }

    /// One after the other, far from the five in a minute that would end the instance.
    fn root_fault(&self, random: &mut Random) -> Option<Fault> {
        Some(match random.below(3) {
            0 => Fault::TopicManager,
            1 => Fault::ProxyMapper,
            _ => Fault::Acceptor,
        })
    }

    /// No more than two of them in a minute: with the third a topic would start cold, which closes subscribers.
    fn topic_fault(&self, random: &mut Random) -> Option<Fault> {
        let nth = 1 + random.below(5_000) as u32;
        Some(match random.below(3) {
            0 => Fault::Topic(self.topics[random.below(self.topics.len() as u64) as usize].name.clone()),
            1 => Fault::TopicSend(nth),
            _ => Fault::TopicCommit(1 + nth % 100),
        })
    }

    fn sender_fault(&self, random: &mut Random) -> Option<Fault> {
        Some(Fault::SenderSend(1 + random.below(5_000) as u32))
    }

    fn transport_fault(&self, random: &mut Random) -> Option<Fault> {
        let churning = self.churning.borrow();
        let victim = *churning.iter().nth(random.below(churning.len().max(1) as u64) as usize)?;
        self.condemned.borrow_mut().insert(victim);
        Some(Fault::Transport(victim))
    }
}

/// SplitMix64: enough to choose with.
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

/// Bytes of this process that are in memory, of the server and of the clients.
fn rss() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

/// Open descriptors of this process, of both ends of each connection.
fn descriptors() -> usize {
    // Reading the directory takes one.
    std::fs::read_dir("/proc/self/fd").unwrap().count() - 1
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

#[tokio::test(flavor = "current_thread")]
#[ignore = "takes minutes; see the head of this file"]
async fn nothing_is_lost_and_nothing_grows_while_clients_churn_and_parts_crash() {
    LocalSet::new().run_until(soak(Settings::from_environment())).await;
}

/// Panics of the server that nobody asked for. A supervisor would hide them.
static PANICS: AtomicU64 = AtomicU64::new(0);

/// The injected ones would fill the screen with backtraces.
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
    let times = |seconds| Duration::from_secs(seconds);
    let config =
        Config { session_ttl: times(5), topic_idle: times(2), heartbeat_interval: times(1), ..Config::default() };
    let (janus, addr) = serve(config).await;
    let world = Rc::new(World {
        janus,
        addr,
        topics: vec![
            Topic::new("large", settings.subscribers, 2),
            Topic::new("middle", 100, 2),
            Topic::new("small", 1, 20),
        ],
        visitors_leave: Cell::default(),
        publishers_stop: Cell::default(),
        churning: RefCell::default(),
        condemned: RefCell::default(),
        injected: RefCell::default(),
        deliveries: Cell::default(),
        visits: Cell::default(),
        crashed: Cell::default(),
        cut_off: Cell::default(),
    });

    // All of them end with a panic, or when they are told to.
    let mut seeds = Random(settings.seed);
    let (mut steady, mut publishers, mut visitors) = (JoinSet::new(), JoinSet::new(), JoinSet::new());
    for topic in &world.topics {
        for _ in 0..topic.steady {
            let progress = Progress::new(topic, true);
            let opened = Subscriber::open(connect(&world).await, Opening::Subscribe, progress).await;
            steady.spawn_local(stay(Rc::clone(&world), opened.expect("a steady client is let in")));
        }
    }
    for (topic, (batch, pace)) in world.topics.iter().zip([(32, 1), (8, 20), (4, 100)]) {
        for index in 0..topic.publishers.len() {
            let pace = Duration::from_millis(pace);
            let random = Random(seeds.next());
            publishers.spawn_local(publish(Rc::clone(&world), Rc::clone(topic), index, batch, pace, random));
        }
    }
    let connections = steady.len() + publishers.len();
    until("everybody is connected", || world.janus.stats().connections == connections).await;
    let expected_descriptors = descriptors();
    for _ in 0..CHURNING {
        visitors.spawn_local(churn(Rc::clone(&world), Random(seeds.next())));
    }
    for _ in 0..STALLING {
        visitors.spawn_local(stall(Rc::clone(&world), Random(seeds.next())));
    }
    let mut crashes = |pause, next: Choice| {
        visitors.spawn_local(crash(Rc::clone(&world), pause, Random(seeds.next()), next));
    };
    crashes(20_000..30_000, World::root_fault);
    crashes(31_000..45_000, World::topic_fault);
    crashes(8_000..12_000, World::sender_fault);
    crashes(500..2_000, World::transport_fault);

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
            reason = world.janus.wait() => panic!("the tree gave up: {reason}"),
            Some(ended) = steady.join_next() => panic!("a steady subscriber ended: {ended:?}"),
            Some(ended) = publishers.join_next() => panic!("a publisher ended: {ended:?}"),
            Some(ended) = visitors.join_next() => panic!("a visitor ended: {ended:?}"),
        }
        world.topics.iter().for_each(|topic| topic.check_holes());
        assert_eq!(PANICS.load(Ordering::Relaxed), 0, "something crashed by itself");
        let (deliveries, stats) = (world.deliveries.get(), world.janus.stats());
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
            world.visits.get(),
            world.crashed.get(),
            world.cut_off.get(),
        );
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
    let (elapsed, rss_at_end) = (begun.elapsed(), rss());

    // Those that stall are cut off only while somebody publishes.
    world.visitors_leave.set(true);
    while let Some(ended) = timeout(CUT_OFF + DEADLINE, visitors.join_next()).await.expect("visitors leave") {
        ended.unwrap();
    }
    world.publishers_stop.set(true);
    while let Some(ended) = timeout(DEADLINE, publishers.join_next()).await.expect("publishers end") {
        ended.unwrap();
    }
    for topic in &world.topics {
        let steady = || topic.received.borrow().iter().all(|received| received.get() == topic.accepted.get());
        until("every subscriber has every message", steady).await;
        topic.check_holes();
        assert!(topic.holes.borrow().is_empty());
    }
    until("the visitors' connections and sessions, and the publishers', have ended", || {
        let stats = world.janus.stats();
        (stats.connections, stats.sessions, stats.topics) == (steady.len(), steady.len(), world.topics.len())
    })
    .await;
    // Both ends of each publisher's connection were open before.
    let expected_descriptors = expected_descriptors - 2 * (connections - steady.len());
    until("no descriptor is left over", || descriptors() == expected_descriptors).await;

    let refused: usize = (world.topics.iter().flat_map(|topic| &topic.publishers))
        .map(|publisher| publisher.refused.borrow().len())
        .sum();
    println!(
        "{} deliveries in {:.0} s, {:.0} a second: nothing lost, out of order or twice; {} messages accepted, {refused} \
         refused",
        world.deliveries.get(),
        elapsed.as_secs_f64(),
        world.deliveries.get() as f64 / elapsed.as_secs_f64(),
        world.topics.iter().map(|topic| topic.accepted.get()).sum::<u64>(),
    );
    println!(
        "{} visits, {} ended by an injected crash; {} slow consumers cut off",
        world.visits.get(),
        world.crashed.get(),
        world.cut_off.get()
    );
    println!("injected: {:?}", world.injected.borrow());
    for name in ["topic_manager", "proxy_mapper", "acceptor", "sender ", "topic "] {
        println!("restarts of {}: {}", name.trim(), world.restarts(name));
    }
    let rss_at_first = rss_at_first.unwrap();
    println!("memory after the first tenth {:.1} MiB, at the end {:.1} MiB", mib(rss_at_first), mib(rss_at_end));
    println!("descriptors {expected_descriptors}, as expected");

    assert_eq!(world.janus.stats().slow_consumers, world.cut_off.get(), "only those that stalled were cut off");
    for (fault, name) in [("TopicManager", "topic_manager"), ("ProxyMapper", "proxy_mapper"), ("Acceptor", "acceptor")]
    {
        assert_eq!(world.restarts(name), world.injected(fault), "{name} crashes when it is told to, and not else");
    }
    assert!(rss_at_end <= rss_at_first + rss_at_first / 10 + (8 << 20), "memory grows");
    steady.shutdown().await;
    world.janus.shutdown().await;
}
