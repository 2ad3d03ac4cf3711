//! All topics of a cluster's node come back after a cut in portions: between two turns of any other task on the home arbiter,
//! the task of the link does a limited number of things. Counted, and not timed.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::{LocalBoxFuture, join_all};
use futures_util::task::AtomicWaker;
use janus_core::engine::{Answer, Engine, Link, LinkError, NodeId, Request};
use janus_core::wire::{Epoch, Position};
use janus_core::{Config, Janus, Subscriber};
use tokio::task::yield_now;

const TOPICS: usize = 10_000;

/// Turns of the link's task between two turns of another task: tokio takes tasks that have yielded in turns from the front
/// and from the back, and a third task among them changes the turns.
const TURNS: usize = 3;

/// Answers handed on, topics that ask, topics that are reported, and some words to other nodes: more than 64 of none.
const MOST: usize = TURNS * (3 * 64 + 8);

/// Parts of the things that a link holds for its topics.
const PARTS: usize = 100;

/// How long a condition is waited for.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Debug, PartialEq, Eq)]
enum Happened {
    Opened,
    Reported,
    LetGo,
}

/// What the link's task has done since the last turn of another task, and the most so far.
#[derive(Debug, Default)]
struct Count {
    now: AtomicUsize,
    most: AtomicUsize,
}

impl Count {
    fn add(&self) {
        self.now.fetch_add(1, Ordering::Relaxed);
    }

    fn end_turn(&self) {
        self.most.fetch_max(self.now.swap(0, Ordering::Relaxed), Ordering::Relaxed);
    }
}

/// What the engine and the test share.
#[derive(Debug)]
struct Shared {
    /// Requests and answers.
    things: Count,
    /// Parts that were let go of.
    parts: Count,
    is_cut: AtomicBool,
    task: AtomicWaker,
    is_watched: AtomicBool,
    is_over: AtomicBool,
    happened: Sender<Happened>,
}

impl Shared {
    /// Another task of the home arbiter.
    async fn watch(&self) {
        while !self.is_over.load(Ordering::Relaxed) {
            self.things.end_turn();
            self.parts.end_turn();
            yield_now().await;
        }
    }

    fn tell(&self, happened: Happened) {
        // The test may be over.
        let _ = self.happened.send(happened);
    }
}

/// An engine whose answers are at hand at once, and whose topics have no message.
#[derive(Debug)]
struct Ready(Arc<Shared>);

impl Engine for Ready {
    fn name(&self) -> &'static str {
        "ready"
    }

    fn connect(&self, _: usize, _: NodeId) -> LocalBoxFuture<'static, Result<Box<dyn Link>, LinkError>> {
        let shared = Arc::clone(&self.0);
        Box::pin(async move {
            if !shared.is_watched.swap(true, Ordering::Relaxed) {
                let shared = Arc::clone(&shared);
                tokio::task::spawn_local(async move { shared.watch().await });
            }
            Ok(Box::new(ReadyLink { shared, answers: VecDeque::new(), parts: PARTS }) as Box<dyn Link>)
        })
    }
}

struct ReadyLink {
    shared: Arc<Shared>,
    answers: VecDeque<Answer>,
    parts: usize,
}

impl Link for ReadyLink {
    fn request(&mut self, request: Request<'_>) {
        self.shared.things.add();
        let position = Position { epoch: Epoch::new(1), seq: 0 };
        match request {
            Request::Open { topic, ask, .. } => {
                self.answers.push_back(Answer::Opened { topic: topic.clone(), ask, position, records: Vec::new() });
            }
            Request::Report { topic, subscribers, .. } => {
                let position = Some(position);
                self.answers.push_back(Answer::Reported { topic: topic.clone(), position, subscribers });
            }
            _ => {}
        }
    }

    fn backlog(&self) -> usize {
        0
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Answer, LinkError>> {
        self.shared.task.register(cx.waker());
        if self.shared.is_cut.swap(false, Ordering::Relaxed) {
            return Poll::Ready(Err(LinkError::new("closed", "cut by the test")));
        }
        let Some(answer) = self.answers.pop_front() else { return Poll::Pending };
        self.shared.things.add();
        self.shared.tell(match answer {
            Answer::Opened { .. } => Happened::Opened,
            _ => Happened::Reported,
        });
        Poll::Ready(Ok(answer))
    }

    fn let_go(&mut self) -> bool {
        self.shared.parts.add();
        self.parts -= 1;
        if self.parts == 0 {
            self.shared.tell(Happened::LetGo);
        }
        self.parts > 0
    }
}

/// Waits until so much has happened.
fn wait_for(happened: &Receiver<Happened>, opened: usize, reported: usize, let_go: usize) {
    let mut missing = [(Happened::Opened, opened), (Happened::Reported, reported), (Happened::LetGo, let_go)];
    while missing.iter().any(|(_, count)| *count > 0) {
        let one = happened.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("these do not happen: {missing:?}"));
        let place = missing.iter_mut().find(|(kind, _)| *kind == one);
        place.into_iter().for_each(|(_, count)| *count = count.saturating_sub(1));
    }
}

#[test]
fn ten_thousand_topics_come_back_after_a_cut_a_portion_in_a_turn() {
    let (sender, happened) = channel();
    let shared = Arc::new(Shared {
        things: Count::default(),
        parts: Count::default(),
        is_cut: AtomicBool::new(false),
        task: AtomicWaker::new(),
        is_watched: AtomicBool::new(false),
        is_over: AtomicBool::new(false),
        happened: sender,
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let config = Config { listen: vec!["127.0.0.1:0".parse().unwrap()], homes: 1, ..Config::default() };
    let starting = Janus::builder().config(config).engine(Ready(Arc::clone(&shared))).start();
    let janus = runtime.block_on(starting).unwrap();
    let subscribe = |number| janus.subscribe(&format!("topic {number}")).unwrap();
    let mut subscribers: Vec<_> = (0..TOPICS).map(subscribe).collect();
    let ready = runtime.block_on(join_all(subscribers.iter_mut().map(Subscriber::ready)));
    assert!(ready.iter().all(Result::is_ok), "each subscriber has its place");
    wait_for(&happened, TOPICS, TOPICS, 0);

    // From here on the engine alone calls the task of the link.
    shared.things.most.store(0, Ordering::Relaxed);
    shared.is_cut.store(true, Ordering::Relaxed);
    shared.task.wake();
    wait_for(&happened, TOPICS, TOPICS, 1);
    let most = shared.things.most.load(Ordering::Relaxed);
    assert!(most > 0 && most <= MOST, "{most} requests and answers in a turn");
    let parts = shared.parts.most.load(Ordering::Relaxed);
    assert!(parts > 0 && parts <= TURNS, "{parts} of {PARTS} parts let go of in a turn");
    shared.is_over.store(true, Ordering::Relaxed);
    runtime.block_on(janus.shutdown());
    drop(subscribers);
}
