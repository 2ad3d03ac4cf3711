//! What 100,000 topics with a subscriber each cost the first home arbiter when the link to the engine is cut and comes
//! back, on a `redis-server` of its own.
//!
//! A thread wakes a task of the home arbiter twice a millisecond, and the task notes how long the wake-up has taken: as long
//! as any client's request would have waited. On a busy machine the system may give the thread's core away meanwhile, so
//! each wait is also bounded by the processor time of the home arbiter since the task's turn before: only that part is of
//! this program's making (`own`).
//!
//! The cut is by `CLIENT KILL`, with all numbers of the topics kept, and by a restart of Redis with nothing kept, where each
//! subscriber is told of a gap. The way back is in three parts: from the cut until the link has ended and is let go of, then
//! until the last topic has asked, then until the last topic is open.
//!
//! `TOPICS` and `ROUNDS` set the numbers of topics and of cuts of each kind.

#![expect(clippy::unwrap_used, reason = "a bench that meets what it does not expect has failed")]
#![expect(clippy::disallowed_methods, reason = "what is at rest is measured for a while")]

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::thread;
use std::time::{Duration, Instant};

use futures_util::future::{LocalBoxFuture, join_all};
use futures_util::task::AtomicWaker;
use janus_core::engine::redis::{Options, Redis};
use janus_core::engine::{Answer, Engine, Link, LinkError, NodeId, Request};
use janus_core::{Config, Janus, Subscriber};
use parking_lot::Mutex;
use rustix::time::{ClockId, clock_gettime};

#[path = "../../tests/cluster/redis_server.rs"]
mod redis_server;

use redis_server::RedisServer;

const BEAT: Duration = Duration::from_micros(500);

/// One wait of the task on the home arbiter.
#[derive(Clone, Copy, Debug)]
struct Wait {
    at: Instant,
    whole: Duration,
    own: Duration,
}

/// What the task on the home arbiter and the link note.
#[derive(Debug)]
struct Notes {
    /// When the task was woken, in nanoseconds since `start`; 0 while no wake-up is under way.
    woken: AtomicU64,
    start: Instant,
    task: AtomicWaker,
    is_over: AtomicBool,
    waits: Mutex<Vec<Wait>>,
    opened: AtomicU64,
    reported: AtomicU64,
    times: Mutex<Times>,
}

/// The course of the present link.
#[derive(Clone, Copy, Debug, Default)]
struct Times {
    up: Option<Instant>,
    /// The last link has been let go of.
    let_go: Option<Instant>,
    /// How long that took.
    letting_go: Duration,
    asked: Option<Instant>,
    opened: Option<Instant>,
    /// The longest call of a link.
    longest_request: Duration,
    longest_poll: Duration,
}

fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

impl Notes {
    fn new() -> Self {
        Self {
            woken: AtomicU64::new(0),
            start: Instant::now(),
            task: AtomicWaker::new(),
            is_over: AtomicBool::new(false),
            waits: Mutex::default(),
            opened: AtomicU64::new(0),
            reported: AtomicU64::new(0),
            times: Mutex::default(),
        }
    }

    /// The task on the home arbiter.
    async fn watch(&self) {
        let mut cpu = cpu_time();
        let turn = |cx: &mut Context<'_>| {
            self.task.register(cx.waker());
            let woken = self.woken.swap(0, Ordering::AcqRel);
            if woken > 0 {
                let at = self.start + Duration::from_nanos(woken);
                let (whole, spent) = (at.elapsed(), cpu_time());
                let own = whole.min(spent - cpu);
                cpu = spent;
                self.waits.lock().push(Wait { at, whole, own });
            }
            if self.is_over.load(Ordering::Relaxed) { Poll::Ready(()) } else { Poll::Pending }
        };
        poll_fn(turn).await;
    }

    /// The thread that wakes the task.
    fn wake(&self) {
        while !self.is_over.load(Ordering::Relaxed) {
            thread::sleep(BEAT);
            let now = u64::try_from(self.start.elapsed().as_nanos()).unwrap();
            // A wake-up under way goes on.
            if self.woken.compare_exchange(0, now, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
                self.task.wake();
            }
        }
        self.task.wake();
    }

    /// The waits since then.
    fn since(&self, begun: Instant) -> Waits {
        Waits(self.waits.lock().iter().filter(|wait| wait.at >= begun).copied().collect())
    }
}

struct Waits(Vec<Wait>);

impl Waits {
    fn until(&self, end: Instant) -> Self {
        Self(self.0.iter().filter(|wait| wait.at < end).copied().collect())
    }

    fn from(&self, begun: Instant) -> Self {
        Self(self.0.iter().filter(|wait| wait.at >= begun).copied().collect())
    }

    fn longest(&self) -> (f64, f64) {
        let whole = self.0.iter().map(|wait| wait.whole).max().unwrap_or_default();
        let own = self.0.iter().map(|wait| wait.own).max().unwrap_or_default();
        (millis(whole), millis(own))
    }

    fn p99(&self) -> f64 {
        let mut waits: Vec<_> = self.0.iter().map(|wait| wait.whole).collect();
        waits.sort_unstable();
        waits.get(waits.len() * 99 / 100).copied().map_or(0.0, millis)
    }

    /// The waits in words: p99, the longest, and its own part.
    fn words(&self) -> String {
        let (whole, own) = self.longest();
        format!("p99 {:5.2}, longest {whole:6.2}, own {own:6.2} ms", self.p99())
    }
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// The engine, with notes.
#[derive(Debug)]
struct Noted {
    engine: Redis,
    notes: Arc<Notes>,
    is_watched: AtomicBool,
}

impl Engine for Noted {
    fn name(&self) -> &'static str {
        self.engine.name()
    }

    fn connect(&self, shard: usize, node: NodeId) -> LocalBoxFuture<'static, Result<Box<dyn Link>, LinkError>> {
        let notes = Arc::clone(&self.notes);
        if !self.is_watched.swap(true, Ordering::Relaxed) {
            let notes = Arc::clone(&notes);
            tokio::task::spawn_local(async move { notes.watch().await });
        }
        let connecting = self.engine.connect(shard, node);
        Box::pin(async move {
            let link = connecting.await?;
            let mut times = notes.times.lock();
            *times = Times {
                up: Some(Instant::now()),
                let_go: times.let_go,
                letting_go: times.letting_go,
                ..Times::default()
            };
            drop(times);
            Ok(Box::new(NotedLink { link: Some(link), notes }) as Box<dyn Link>)
        })
    }
}

struct NotedLink {
    link: Option<Box<dyn Link>>,
    notes: Arc<Notes>,
}

impl Link for NotedLink {
    fn request(&mut self, request: Request<'_>) {
        let begun = Instant::now();
        let opens = matches!(request, Request::Open { .. });
        self.link.as_mut().unwrap().request(request);
        let mut times = self.notes.times.lock();
        times.longest_request = times.longest_request.max(begun.elapsed());
        if opens {
            times.asked = Some(begun);
        }
    }

    fn backlog(&self) -> usize {
        self.link.as_ref().unwrap().backlog()
    }

    fn let_go(&mut self) -> bool {
        self.link.as_mut().unwrap().let_go()
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Answer, LinkError>> {
        let begun = Instant::now();
        let polled = self.link.as_mut().unwrap().poll(cx);
        let mut times = self.notes.times.lock();
        times.longest_poll = times.longest_poll.max(begun.elapsed());
        match &polled {
            Poll::Ready(Ok(Answer::Opened { .. })) => {
                times.opened = Some(Instant::now());
                self.notes.opened.fetch_add(1, Ordering::Relaxed);
            }
            Poll::Ready(Ok(Answer::Reported { .. })) => {
                self.notes.reported.fetch_add(1, Ordering::Relaxed);
            }
            _ => {}
        }
        polled
    }
}

impl Drop for NotedLink {
    fn drop(&mut self) {
        let begun = Instant::now();
        drop(self.link.take());
        let mut times = self.notes.times.lock();
        times.let_go = Some(Instant::now());
        times.letting_go = begun.elapsed();
    }
}

/// An instance, Redis, and the notes.
struct Bench {
    janus: Janus,
    server: RedisServer,
    notes: Arc<Notes>,
    topics: usize,
}

impl Bench {
    async fn start(topics: usize) -> Self {
        let server = RedisServer::start();
        let notes = Arc::new(Notes::new());
        let engine = Redis::new(Options::new([server.url().parse().unwrap()])).unwrap();
        let engine = Noted { engine, notes: Arc::clone(&notes), is_watched: AtomicBool::new(false) };
        let config =
            Config { listen: vec!["127.0.0.1:0".parse().unwrap()], max_topics: topics, homes: 1, ..Config::default() };
        let janus = Janus::builder().config(config).engine(engine).start().await.unwrap();
        let waker = Arc::clone(&notes);
        thread::spawn(move || waker.wake());
        Self { janus, server, notes, topics }
    }

    fn wait_until(&self, what: &str, condition: impl Fn() -> bool) {
        let end = Instant::now() + Duration::from_secs(60);
        while !condition() {
            assert!(Instant::now() < end, "{what}");
            thread::sleep(Duration::from_millis(1));
        }
    }

    fn opened(&self) -> usize {
        usize::try_from(self.notes.opened.load(Ordering::Relaxed)).unwrap()
    }

    /// The waits of so long a time.
    fn rest(&self, time: Duration) -> Waits {
        let begun = Instant::now();
        thread::sleep(time);
        self.notes.since(begun)
    }

    async fn subscribe(&self) -> Vec<Subscriber> {
        let begun = Instant::now();
        let subscribe = |number| self.janus.subscribe(&format!("topic {number}")).unwrap();
        let mut subscribers: Vec<_> = (0..self.topics).map(subscribe).collect();
        let made = Instant::now();
        join_all(subscribers.iter_mut().map(Subscriber::ready)).await.into_iter().for_each(|ready| {
            ready.unwrap();
        });
        let waits = self.notes.since(begun);
        println!("topics made in {:.0} ms: {}", millis(made - begun), waits.until(made).words());
        println!("first opened in {:.0} ms: {}", millis(made.elapsed()), waits.from(made).words());
        subscribers
    }

    /// Cuts the link, and waits until all topics are open. Returns the figures of the round.
    fn cut(&mut self, cut: impl FnOnce(&mut RedisServer)) -> Vec<f64> {
        self.notes.opened.store(0, Ordering::Relaxed);
        let begun = Instant::now();
        cut(&mut self.server);
        self.wait_until("all topics are open", || self.opened() >= self.topics);
        let times = *self.notes.times.lock();
        let (let_go, asked, opened) = (times.let_go.unwrap(), times.asked.unwrap(), times.opened.unwrap());
        let waits = self.notes.since(begun).until(opened);
        let parts = [waits.until(let_go), waits.from(let_go).until(asked), waits.from(asked)];
        println!(
            "  opened in {:.0} ms, {:.0} after the link was up; let go of the link in {:.2}, longest request {:.2}, longest poll {:.2} ms",
            millis(opened - begun),
            millis(opened - times.up.unwrap()),
            millis(times.letting_go),
            millis(times.longest_request),
            millis(times.longest_poll),
        );
        for (part, name) in parts.iter().zip(["end of the link", "requests", "last answers"]) {
            println!("    {name:15}: {}", part.words());
        }
        let (whole, own) = waits.longest();
        let owns = parts.iter().map(|part| part.longest().1);
        [millis(opened - times.up.unwrap()), waits.p99(), whole, own].into_iter().chain(owns).collect()
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn print_medians(what: &str, rounds: &[Vec<f64>]) {
    let column = |index: usize| rounds.iter().map(|round| round[index]).collect::<Vec<_>>();
    let figures: Vec<_> = (0..7).map(|index| median(column(index))).collect();
    let worst = column(3).into_iter().fold(0.0, f64::max);
    println!(
        "{what}, medians: open again {:.0} ms after the link; p99 {:.2}, longest {:.2}, own {:.2} ms (worst round {worst:.2}); own by parts: {:.2}, {:.2}, {:.2} ms",
        figures[0], figures[1], figures[2], figures[3], figures[4], figures[5], figures[6]
    );
}

fn number(name: &str, otherwise: usize) -> usize {
    std::env::var(name).map_or(otherwise, |text| text.parse().unwrap())
}

fn main() {
    let (topics, rounds) = (number("TOPICS", 100_000), number("ROUNDS", 5));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut bench = runtime.block_on(Bench::start(topics));
    println!("without topics: {}", bench.rest(Duration::from_secs(3)).words());
    let subscribers = runtime.block_on(bench.subscribe());
    assert_eq!(subscribers.iter().filter(|subscriber| subscriber.resumption().is_some()).count(), topics);
    let begun = Instant::now();
    bench.wait_until("each topic has been reported", || bench.notes.reported.load(Ordering::Relaxed) >= topics as u64);
    println!("first reports in {:.1} s: {}", begun.elapsed().as_secs_f64(), bench.notes.since(begun).words());
    println!("at rest: {}", bench.rest(Duration::from_secs(4)).words());
    let mut cuts = Vec::new();
    for round in 0..rounds {
        println!("cut {round}");
        cuts.push(bench.cut(|server| {
            server.run(&["CLIENT", "KILL", "TYPE", "pubsub"]);
        }));
        bench.rest(Duration::from_secs(1));
    }
    let mut restarts = Vec::new();
    for round in 0..rounds {
        println!("restart {round}");
        restarts.push(bench.cut(RedisServer::restart));
        bench.rest(Duration::from_secs(1));
    }
    print_medians("cut", &cuts);
    print_medians("restart", &restarts);
    let begun = Instant::now();
    runtime.block_on(bench.janus.shutdown());
    println!("end in {:.0} ms: {}", millis(begun.elapsed()), bench.notes.since(begun).words());
    bench.notes.is_over.store(true, Ordering::Relaxed);
    drop(subscribers);
}
