//! The soak: a server under load for minutes, while clients come, go, stall, lose their connections and come back, and
//! parts of the tree crash. No subscriber may miss a message without being told, get one twice or out of order, and memory
//! and descriptors must not grow.
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
use std::fmt;
use std::net::SocketAddr;
use std::ops::Range;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use janus_core::supervision::Tree;
use janus_core::wire::classic::client::{ServerDecoder, ServerFrame, attach};
use janus_core::{Config, Event, Fault, Janus, Namespace, SlowConsumer, SubscribeOptions, Subscriber as InProcess};
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
/// Clients that lose their connections and come back.
const RETURNING: usize = 24;
/// Clients of the topic under `conflate`, which read slowly.
const CONFLATED: usize = 4;
/// Subscribers in this process, of which the last is slow.
const IN_PROCESS: usize = 3;
/// Messages that the subscribers of a topic may be behind its publishers, on average: these wait for them, or the slowest
/// reader of a busy machine would be cut off with the stalled ones.
const BEHIND: u64 = 64;
/// How long a client stops reading, unless it is cut off before; by then the server's `write_timeout` of 5 s has.
const STALL: Duration = Duration::from_secs(12);
/// More messages of the large topic than the buffers of two kernels hold: each has some 100 bytes, and the buffers 140 KiB.
const BUFFERED: u64 = 3_000;
/// How long it may take, after that, until a client that stalls is cut off.
const CUT_OFF: Duration = Duration::from_secs(60);
/// A session without a connection ends after this.
const SESSION_TTL: Duration = Duration::from_secs(5);
/// Whoever is back so soon should find what it has missed, mostly.
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

/// What the tasks of a run share.
struct World {
    janus: Janus,
    addr: SocketAddr,
    topics: Vec<Rc<Topic>>,
    /// The topic under `conflate`.
    prices: Rc<Topic>,
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
    returns: Returns,
}

/// How those fared that came back.
#[derive(Default)]
struct Returns {
    resumed: Cell<u64>,
    /// Those that were told that they go on without what they missed.
    anew: Cell<u64>,
    /// Of both, those after no longer than [`QUICK`].
    quick_resumed: Cell<u64>,
    quick_anew: Cell<u64>,
    /// What was missed, and came after all.
    missed: Cell<u64>,
    /// Connections that ended between the question and its answer.
    unanswered: Cell<u64>,
    /// Clients that were told, while they were given what they had missed, that there is no more of it.
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

/// A topic with its publishers, and what is known of its messages.
struct Topic {
    name: String,
    /// Subscribers that stay from the first message to the last.
    steady: u64,
    publishers: Vec<Publisher>,
    accepted: Cell<u64>,
    /// The number that the server gave to the latest of them.
    last_seq: Cell<u64>,
    /// Whether messages may be left out for those that do not keep up, which are not told.
    conflates: bool,
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
            last_seq: Cell::default(),
            conflates: name.starts_with("prices:"),
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

/// What one subscriber has of its topic. It outlives the connection: whoever comes back keeps it.
struct Progress {
    topic: Rc<Topic>,
    places: Vec<Place>,
    received: Rc<Cell<u64>>,
    /// Whether it is one of those that the publishers wait for.
    steady: bool,
    /// What names its session.
    token: String,
    /// Messages since the ACK, or since the last answer that told it to begin anew.
    count: u64,
}

/// The place of a subscriber among the messages of one publisher.
#[derive(Clone, Copy, Default)]
struct Place {
    /// The last that came; 0 before the first.
    last: u64,
    /// Until the next comes: what was sent up to this number was sent before the subscription stood, and need not come.
    excused: Option<u64>,
}

/// Published data is the publisher's index times this, plus the message's number.
const PUBLISHER: u64 = 1_000_000_000_000;

impl Progress {
    fn new(topic: &Rc<Topic>, steady: bool) -> Self {
        let received = Rc::default();
        if steady {
            topic.received.borrow_mut().push(Rc::clone(&received));
        }
        let places = vec![Place::default(); topic.publishers.len()];
        Self { topic: Rc::clone(topic), places, received, steady, token: String::new(), count: 0 }
    }

    /// A new subscription stands: what is sent from now on must come.
    fn begin(&mut self) {
        self.count = 0;
        for (place, publisher) in self.places.iter_mut().zip(&self.topic.publishers) {
            place.excused = Some(publisher.sent.get());
        }
    }

    /// Shows the number of the last message instead of how many there were; for a topic with one publisher.
    fn show_place(&self) {
        self.received.set(self.places[0].last);
    }

    fn take(&mut self, data: u64) {
        let (publisher, number) = ((data / PUBLISHER) as usize, data % PUBLISHER);
        let name = &self.topic.name;
        let place = self.places.get_mut(publisher).unwrap_or_else(|| panic!("{name}: {data} is no message"));
        let last = place.last;
        assert!(number > last, "{name}: {number} of publisher {publisher} came after {last}, or twice");
        let expected = last.max(place.excused.take().unwrap_or(0)) + 1;
        if number > expected && !self.topic.conflates {
            self.topic.holes.borrow_mut().push(Hole { publisher, numbers: expected..number });
        }
        place.last = number;
        self.count += 1;
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
    /// What an attach was answered with: how many messages were missed, if they come after all.
    missed: Option<u64>,
    /// How many of them have not come yet.
    replay: u64,
    /// The token of the greeting.
    token: String,
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
    /// With the session that an earlier connection of this client has left behind.
    Attach,
}

/// A client that was cut before it was let in.
struct Refused {
    cut: Cut,
    /// With what it can come back, if it has been let in before.
    progress: Option<Progress>,
}

const SCRATCH_BYTES: usize = 256 * 1024;

thread_local! {
    static SCRATCH: RefCell<Vec<u8>> = RefCell::new(vec![0; SCRATCH_BYTES]);
}

impl Subscriber {
    /// Opens the conversation on a new connection, and waits until the server has agreed.
    async fn open(mut stream: TcpStream, opening: Opening, progress: Progress) -> Result<Self, Refused> {
        let frame = match opening {
            Opening::Subscribe => subscribe_frame(&progress.topic.name),
            Opening::Attach => attach(&progress.token, [(&*progress.topic.name, progress.count)]),
        };
        stream.set_nodelay(true).unwrap();
        if let Err(error) = stream.write_all(&frame).await {
            return Err(Refused { cut: unserved(error), progress: Some(progress) });
        }
        let mut subscriber = Self {
            stream,
            unfinished: Vec::new(),
            progress,
            greeted: false,
            acknowledged: false,
            missed: None,
            replay: 0,
            token: String::new(),
            told: None,
        };
        while !subscriber.acknowledged {
            if let Err(cut) = subscriber.read().await {
                return Err(Refused { cut, progress: Some(subscriber.progress) });
            }
            assert_eq!(subscriber.told, None, "a subscriber is refused");
        }
        Ok(subscriber)
    }

    /// Whether the server ended the connection because what it had promised was no longer there.
    fn was_overtaken(&self) -> bool {
        self.replay > 0 && self.told.as_deref() == Some("topic_unavailable")
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
            assert!(self.acknowledged, "{}: a message before the subscription stands", self.progress.topic.name);
            self.progress.take(data);
            self.replay = self.replay.saturating_sub(1);
            return true;
        }
        match ServerFrame::parse(frame) {
            ServerFrame::Greeting { token } => {
                self.greeted = true;
                self.token = token.into_owned();
            }
            ServerFrame::Ping => {}
            ServerFrame::Ack => {
                self.acknowledged = true;
                self.progress.token = std::mem::take(&mut self.token);
                self.progress.begin();
            }
            ServerFrame::Attached { topics, token } => {
                let [(topic, missed)] = &topics[..] else { panic!("an answer about {topics:?}") };
                assert_eq!(*topic, self.progress.topic.name);
                if missed.is_some() {
                    assert_eq!(token, self.progress.token, "a session that is resumed keeps its token");
                } else {
                    assert_eq!(token, self.token, "one that is not resumed has that of its new connection");
                    self.progress.begin();
                    self.progress.token = token.into_owned();
                }
                self.acknowledged = true;
                self.missed = *missed;
                self.replay = missed.unwrap_or(0);
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
                        topic.last_seq.set(topic.last_seq.get().max(seq));
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

/// The same with a small receive buffer, so that it is soon full.
async fn connect_narrowly(world: &World, buffer: u32) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(buffer).unwrap();
    timeout(DEADLINE, socket.connect(world.addr)).await.expect("connects in time").expect("connects")
}

/// A client that comes and goes, in one way after the other. If its Transport crashes, it comes back.
async fn churn(world: Rc<World>, mut random: Random) {
    let mut lost: Option<(Progress, Instant)> = None;
    while !world.visitors_leave.get() {
        let acceptor_crashes = world.injected("Acceptor");
        let stream = connect(&world).await;
        let visitor = Churning::new(&world, &stream);
        let ended = if let Some((progress, since)) = lost.take() {
            visit(&world, stream, progress, Some(since), &mut random).await
        } else if random.below(4) == 0 {
            visit_a_passing_topic(stream, &mut random).await.map_err(|cut| Refused { cut, progress: None })
        } else {
            let topic = &world.topics[random.below(world.topics.len() as u64) as usize];
            visit(&world, stream, Progress::new(topic, false), None, &mut random).await
        };
        count(&world.visits);
        if let Err(Refused { cut, progress }) = ended {
            let unserved = !cut.greeted && world.injected("Acceptor") > acceptor_crashes;
            assert!(unserved || visitor.is_condemned(), "a churning client was closed: {cut:?}");
            count(&world.crashed);
            // Whoever has no session yet has nothing to come back to.
            lost = progress.filter(|progress| !progress.token.is_empty()).map(|progress| (progress, Instant::now()));
        }
    }
}

/// Stays with a topic for a while and checks what comes; comes back to it if it was `lost`.
async fn visit(
    world: &World,
    stream: TcpStream,
    progress: Progress,
    lost: Option<Instant>,
    random: &mut Random,
) -> Result<(), Refused> {
    let mut subscriber = enter(world, stream, progress, lost).await?;
    let until = Instant::now() + Duration::from_millis(100 + random.below(3_000));
    let mut wanted = 1 + random.below(1_000);
    while Instant::now() < until && wanted > 0 {
        match subscriber.read().await {
            Ok(messages) => {
                world.deliveries.set(world.deliveries.get() + messages);
                wanted = wanted.saturating_sub(messages);
            }
            Err(_) if subscriber.was_overtaken() => {
                count(&world.returns.overtaken);
                return Ok(());
            }
            Err(cut) => return Err(Refused { cut, progress: Some(subscriber.progress) }),
        }
    }
    leave(subscriber.stream, &subscriber.progress.topic.name, random).await;
    Ok(())
}

/// Subscribes, or comes back after it was `lost`, and notes what came of that.
async fn enter(
    world: &World,
    stream: TcpStream,
    progress: Progress,
    lost: Option<Instant>,
) -> Result<Subscriber, Refused> {
    let Some(lost) = lost else { return Subscriber::open(stream, Opening::Subscribe, progress).await };
    // Until the question is asked: what comes after it is the server's time.
    let away = lost.elapsed();
    let opened = Subscriber::open(stream, Opening::Attach, progress).await;
    match &opened {
        Ok(subscriber) => world.returns.note(subscriber.missed, away),
        Err(refused) if refused.cut.greeted => count(&world.returns.unanswered),
        Err(_) => {}
    }
    opened
}

/// Attaches, and loses the connection before it has read the answer.
async fn ask_and_vanish(mut stream: TcpStream, progress: &Progress, random: &mut Random) {
    let _ = stream.write_all(&attach(&progress.token, [(&*progress.topic.name, progress.count)])).await;
    sleep(Duration::from_millis(random.below(20))).await;
}

/// A client that loses its connection on purpose, and comes back for what it has missed.
async fn lose_and_return(world: Rc<World>, mut random: Random) {
    let mut lost: Option<(Progress, Instant)> = None;
    while !world.visitors_leave.get() {
        let acceptor_crashes = world.injected("Acceptor");
        let stream = connect(&world).await;
        let (progress, since) = match lost.take() {
            Some((progress, since)) => (progress, Some(since)),
            None => {
                let topic = &world.topics[random.below(world.topics.len() as u64) as usize];
                (Progress::new(topic, false), None)
            }
        };
        if since.is_some() && random.below(8) == 0 {
            // The answer does not arrive, and the client asks again: it cannot know whether it was heard.
            ask_and_vanish(stream, &progress, &mut random).await;
            count(&world.returns.unanswered);
            lost = since.map(|since| (progress, since));
            continue;
        }
        let mut subscriber = match enter(&world, stream, progress, since).await {
            Ok(subscriber) => subscriber,
            Err(Refused { cut, progress }) => {
                let unserved = !cut.greeted && world.injected("Acceptor") > acceptor_crashes;
                assert!(unserved, "a client that comes back was closed: {cut:?}");
                lost = progress.and_then(|progress| Some((progress, since?)));
                continue;
            }
        };
        // Some are gone before they have what they missed.
        let longest = if random.below(4) == 0 { 20 } else { 1_500 };
        let stay = Duration::from_millis(random.below(longest));
        let reading = async {
            loop {
                match subscriber.read().await {
                    Ok(messages) => world.deliveries.set(world.deliveries.get() + messages),
                    Err(cut) => return cut,
                }
            }
        };
        if let Ok(cut) = timeout(stay, reading).await {
            assert!(subscriber.was_overtaken(), "a client that reads was closed: {cut:?}, told {:?}", subscriber.told);
            count(&world.returns.overtaken);
        }
        // What comes meanwhile is lost with the connection.
        if random.below(2) == 0 {
            sleep(Duration::from_millis(random.below(100))).await;
        }
        let Subscriber { mut stream, progress, .. } = subscriber;
        let since = Instant::now();
        if random.below(2) == 0 {
            // A close as a client makes it that knows nothing of the server: a FIN, or a reset if something is unread.
            let _ = stream.shutdown().await;
            socket2::SockRef::from(&stream).set_linger(None).unwrap();
        }
        drop(stream);
        let away = match random.below(10) {
            0 => 1_000 + random.below(7_000),
            1..4 => 0,
            _ => random.below(QUICK.as_millis() as u64 / 2),
        };
        sleep(Duration::from_millis(away)).await;
        lost = Some((progress, since));
    }
}

/// A client of the topic under `conflate` that reads slowly, for as long as something is published.
async fn read_slowly(world: Rc<World>, mut subscriber: Subscriber) {
    let mut buffer = [0; 512];
    while !world.publishers_stop.get() {
        sleep(Duration::from_millis(50)).await;
        match subscriber.stream.try_read(&mut buffer) {
            Ok(0) => panic!("a slow client under conflate was closed"),
            Ok(length) => {
                let messages = subscriber.take(&buffer[..length]);
                world.deliveries.set(world.deliveries.get() + messages);
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(error) => panic!("a slow client under conflate was cut off: {error}, {:?}", world.janus.stats()),
        }
        subscriber.progress.show_place();
    }
    loop {
        subscriber.read().await.expect("a client under conflate stays connected");
        subscriber.progress.show_place();
    }
}

/// What a subscriber in this process has been given.
#[derive(Default)]
struct Taken {
    /// The number of the last message or gap.
    seq: Cell<u64>,
    messages: Cell<u64>,
    missing: Cell<u64>,
}

/// A subscriber in this process, which stays to the end and accounts for every number.
async fn account(topic: Rc<Topic>, mut subscriber: InProcess, pause: Duration, taken: Rc<Taken>) {
    let epoch = subscriber.position().epoch;
    let mut places = vec![0; topic.publishers.len()];
    loop {
        let expected = taken.seq.get() + 1;
        match subscriber.next().await {
            Some(Event::Message(message)) => {
                assert_eq!((message.position.epoch, message.seq()), (epoch, expected), "{}: a hole", topic.name);
                let data: u64 = message.parse().unwrap();
                let place = &mut places[(data / PUBLISHER) as usize];
                assert!(data % PUBLISHER > *place, "{}: {data} came after {place}, or twice", topic.name);
                *place = data % PUBLISHER;
                taken.seq.set(expected);
                count(&taken.messages);
                if !pause.is_zero() {
                    sleep(pause).await;
                }
            }
            Some(Event::Gap { from, to }) => {
                assert!(from == expected && to >= from, "{}: a gap {from} to {to} at {expected}", topic.name);
                taken.seq.set(to);
                taken.missing.set(taken.missing.get() + to + 1 - from);
            }
            event => panic!("{}: a subscriber in this process gets {event:?}", topic.name),
        }
    }
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

/// A client of the large topic that reads for a while, stops until it is cut off, and comes back: to its session, or anew.
async fn stall(world: Rc<World>, mut random: Random) {
    let topic = &world.topics[0];
    let mut lost: Option<(Progress, Instant)> = None;
    while !world.visitors_leave.get() {
        let acceptor_crashes = world.injected("Acceptor");
        let stream = connect_narrowly(&world, 4_096).await;
        let (progress, since) = match lost.take() {
            Some((progress, since)) => (progress, Some(since)),
            None => (Progress::new(topic, false), None),
        };
        let mut subscriber = match enter(&world, stream, progress, since).await {
            Ok(subscriber) => subscriber,
            Err(Refused { cut, .. }) => {
                let unserved = !cut.greeted && world.injected("Acceptor") > acceptor_crashes;
                assert!(unserved, "a client that has not stalled yet was closed: {cut:?}");
                continue;
            }
        };
        let cut = match read_and_stall(&world, &mut subscriber, 1 + random.below(200)).await {
            Some(cut) => cut,
            None => {
                fill_buffers(topic, &subscriber).await;
                let stalled = timeout(CUT_OFF, stalled(&world, &mut subscriber)).await;
                stalled.expect("a client that does not read is cut off")
            }
        };
        let since = Instant::now();
        if subscriber.was_overtaken() {
            count(&world.returns.overtaken);
        } else {
            assert_eq!(cut.close, Close::Reset, "told {:?}", subscriber.told);
            count(&world.cut_off);
        }
        if random.below(2) == 0 {
            sleep(Duration::from_millis(random.below(500))).await;
            lost = Some((subscriber.progress, since));
        }
    }
}

/// Reads so many messages; `Some` if what was missed is pushed out before.
async fn read_and_stall(world: &World, subscriber: &mut Subscriber, mut wanted: u64) -> Option<Cut> {
    while wanted > 0 {
        match subscriber.read().await {
            Ok(messages) => {
                world.deliveries.set(world.deliveries.get() + messages);
                wanted = wanted.saturating_sub(messages);
            }
            Err(cut) if subscriber.was_overtaken() => return Some(cut),
            Err(cut) => panic!("a client that still reads was closed: {cut:?}, told {:?}", subscriber.told),
        }
    }
    None
}

/// Reads nothing until more has been published than the kernels of both sides hold, which no server can take for slowness. How
/// long that takes is up to the machine: on a busy one a client could stop for `STALL`, and still have taken all.
async fn fill_buffers(topic: &Topic, subscriber: &Subscriber) {
    let enough = topic.accepted.get() + BUFFERED;
    while topic.accepted.get() < enough {
        if timeout(Duration::from_millis(100), subscriber.stream.ready(Interest::ERROR)).await.is_ok() {
            return;
        }
    }
}

/// Reads nothing until the connection is reset, but for a moment now and then.
async fn stalled(world: &World, subscriber: &mut Subscriber) -> Cut {
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
async fn nothing_is_lost_and_nothing_grows_during_churn_and_crashes() {
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
    let conflate = Namespace { slow_consumer: SlowConsumer::Conflate, ..Namespace::default() };
    let config = Config {
        session_ttl: SESSION_TTL,
        topic_idle: times(2),
        heartbeat_interval: times(1),
        // What some hundred messages a second add up to in a quick return, and in more than a second not.
        resume_messages: 512,
        namespaces: [("prices".to_owned(), conflate)].into(),
        ..Config::default()
    };
    let (janus, addr) = serve(config).await;
    let world = Rc::new(World {
        janus,
        addr,
        topics: vec![
            Topic::new("large", settings.subscribers, 2),
            Topic::new("middle", 100, 2),
            Topic::new("small", 1, 20),
        ],
        // Nobody waits for its subscribers.
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
    });

    // All of them end with a panic, or when they are told to.
    let mut seeds = Random(settings.seed);
    let (mut steady, mut publishers, mut visitors) = (JoinSet::new(), JoinSet::new(), JoinSet::new());
    let mut in_process = JoinSet::new();
    for topic in &world.topics {
        for _ in 0..topic.steady {
            let progress = Progress::new(topic, true);
            let opened = Subscriber::open(connect(&world).await, Opening::Subscribe, progress).await;
            let opened = opened.map_err(|refused| refused.cut).expect("a steady client is let in");
            steady.spawn_local(stay(Rc::clone(&world), opened));
        }
    }
    for _ in 0..CONFLATED {
        let progress = Progress::new(&world.prices, false);
        world.prices.received.borrow_mut().push(Rc::clone(&progress.received));
        // With less the kernel would drop what it has no room for, and send it again only after a pause that may become longer
        // than the server waits.
        let narrow = connect_narrowly(&world, 32 * 1024).await;
        let opened = Subscriber::open(narrow, Opening::Subscribe, progress).await;
        let opened = opened.map_err(|refused| refused.cut).expect("a slow client is let in");
        steady.spawn_local(read_slowly(Rc::clone(&world), opened));
    }
    let mut taken = Vec::new();
    for index in 0..IN_PROCESS {
        let topic = &world.topics[index % 2];
        let options = SubscribeOptions::default().slow_consumer(SlowConsumer::DropOldest).max_queue_frames(16);
        let subscriber = world.janus.subscribe_with(&topic.name, options).expect("it is let in");
        let pause = Duration::from_millis(if index + 1 == IN_PROCESS { 50 } else { 0 });
        taken.push((Rc::clone(topic), Rc::<Taken>::default()));
        in_process.spawn_local(account(Rc::clone(topic), subscriber, pause, Rc::clone(&taken[index].1)));
    }
    let paced = world.topics.iter().chain([&world.prices]);
    for (topic, (batch, pace)) in paced.zip([(32, 1), (8, 20), (4, 100), (32, 20)]) {
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
    for _ in 0..RETURNING {
        visitors.spawn_local(lose_and_return(Rc::clone(&world), Random(seeds.next())));
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
            Some(ended) = in_process.join_next() => panic!("a subscriber in this process ended: {ended:?}"),
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
        println!("        {}", world.returns);
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
    let prices = &world.prices.publishers[0];
    let last = (1..=prices.sent.get()).rev().find(|number| !prices.refused.borrow().contains(number)).unwrap();
    until("whoever reads slowly has the last message", || {
        world.prices.received.borrow().iter().all(|place| place.get() == last)
    })
    .await;
    until("the subscribers in this process have, or are told of, every number", || {
        taken.iter().all(|(topic, taken)| taken.seq.get() == topic.last_seq.get())
    })
    .await;
    until("the visitors' connections and sessions, and the publishers', have ended", || {
        let stats = world.janus.stats();
        (stats.connections, stats.sessions, stats.topics) == (steady.len(), steady.len(), world.topics.len() + 1)
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
    let (returns, stats) = (&world.returns, world.janus.stats());
    println!("{returns}");
    println!("{} messages conflated; the last arrived", stats.messages_conflated);
    for (topic, taken) in &taken {
        let (messages, missing) = (taken.messages.get(), taken.missing.get());
        println!("in this process, of {}: {messages} messages and gaps of {missing}", topic.name);
    }
    println!("injected: {:?}", world.injected.borrow());
    for name in ["topic_manager", "proxy_mapper", "acceptor", "sender ", "topic "] {
        println!("restarts of {}: {}", name.trim(), world.restarts(name));
    }
    let rss_at_first = rss_at_first.unwrap();
    println!("memory after the first tenth {:.1} MiB, at the end {:.1} MiB", mib(rss_at_first), mib(rss_at_end));
    println!("descriptors {expected_descriptors}, as expected");

    assert_eq!(stats.slow_consumers, world.cut_off.get(), "only those that stalled were cut off");
    assert!(returns.quick_resumed.get() > returns.quick_anew.get(), "most of those that are back at once go on");
    assert!(returns.resumed.get() > 0 && returns.anew.get() > 0, "both outcomes occur");
    assert!(stats.messages_conflated > 0, "those that read slowly lag");
    let missing: u64 = taken.iter().map(|(_, taken)| taken.missing.get()).sum();
    assert_eq!(stats.messages_dropped_oldest, missing, "every message that was dropped is in a gap");
    assert!(taken.last().is_some_and(|(_, slow)| slow.missing.get() > 0), "who is slow does not get everything");
    for (fault, name) in [("TopicManager", "topic_manager"), ("ProxyMapper", "proxy_mapper"), ("Acceptor", "acceptor")]
    {
        assert_eq!(world.restarts(name), world.injected(fault), "{name} crashes when it is told to, and not else");
    }
    assert!(rss_at_end <= rss_at_first + rss_at_first / 10 + (8 << 20), "memory grows");
    in_process.shutdown().await;
    steady.shutdown().await;
    world.janus.shutdown().await;
}
