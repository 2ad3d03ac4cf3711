//! What presence asks of the engine: an engine that notes the requests of nodes in this process, and limits the answers.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use futures_util::future::{LocalBoxFuture, join_all};
use janus_core::engine::{Answer, Engine, Link, LinkError, NodeId, Request};
use janus_core::wire::TopicName;
use parking_lot::Mutex;

use super::*;

/// A request about members.
#[derive(Clone, Debug)]
struct Asked {
    /// What the node says of its own members; `None` for a question.
    words: Option<String>,
    known: u64,
}

/// The engine of these tests. A clone is the same engine.
#[derive(Clone, Debug, Default)]
struct Noting {
    inner: Memory,
    asked: Arc<Mutex<Vec<Asked>>>,
    /// Whether answers wait.
    is_held: Arc<AtomicBool>,
    /// Whether an answer has the words of a single node.
    is_limited: Arc<AtomicBool>,
}

struct NotingLink {
    inner: Box<dyn Link>,
    engine: Noting,
}

impl Engine for Noting {
    fn name(&self) -> &'static str {
        "noting"
    }

    fn shard_of(&self, topic: &TopicName) -> usize {
        self.inner.shard_of(topic)
    }

    fn connect(&self, shard: usize, node: NodeId) -> LocalBoxFuture<'static, Result<Box<dyn Link>, LinkError>> {
        let (engine, connected) = (self.clone(), self.inner.connect(shard, node));
        Box::pin(async move { Ok(Box::new(NotingLink { inner: connected.await?, engine }) as Box<dyn Link>) })
    }
}

impl Link for NotingLink {
    fn request(&mut self, request: Request<'_>) {
        let Request::Presence { topic, ask, members, known, valid, most } = request else {
            return self.inner.request(request);
        };
        let words = members.map(|words| String::from_utf8(words.to_vec()).unwrap());
        self.engine.asked.lock().push(Asked { words, known });
        let most = if self.engine.is_limited.load(Ordering::Relaxed) { 1 } else { most };
        self.inner.request(Request::Presence { topic, ask, members, known, valid, most });
    }

    fn backlog(&self) -> usize {
        self.inner.backlog()
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Answer, LinkError>> {
        if self.engine.is_held.load(Ordering::Relaxed) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        self.inner.poll(cx)
    }
}

impl Noting {
    fn questions(&self) -> usize {
        self.asked.lock().iter().filter(|asked| asked.words.is_none()).count()
    }

    /// A node with this engine.
    async fn node(&self, change: impl FnOnce(&mut Config)) -> (Janus, SocketAddr) {
        let mut config = Config {
            listen: Vec::new(),
            http_listen: vec![own_address()],
            drain_period: Duration::ZERO,
            engine_report_interval: Duration::from_secs(20),
            ..config(Presence::Members)
        };
        change(&mut config);
        let janus = Janus::builder().config(config).hooks(tokens()).engine(self.clone()).start().await.unwrap();
        let addr = janus.local_addrs()[0];
        (janus, addr)
    }
}

#[tokio::test]
async fn callers_that_ask_at_the_same_time_share_a_question() {
    let engine = Noting::default();
    let (one, addr) = engine.node(|_| {}).await;
    let (two, _) = engine.node(|_| {}).await;
    let _alice = subscriber(addr, "a", "news").await;
    until("the words of alice", || engine.asked.lock().iter().any(|asked| asked.words.is_some())).await;
    engine.is_held.store(true, Ordering::Relaxed);
    let asking = join_all((0..50).map(|_| two.presence("news")));
    let (answers, ()) = tokio::join!(asking, async {
        until("a question", || engine.questions() > 0).await;
        engine.is_held.store(false, Ordering::Relaxed);
    });
    answers.into_iter().for_each(|answer| assert_eq!(names(&answer.unwrap()), ["alice"]));
    assert!(engine.questions() < 10, "{} questions of 50 callers", engine.questions());
    // A caller that gives up takes no answer from the others.
    engine.is_held.store(true, Ordering::Relaxed);
    let before = engine.questions();
    let mut given_up = Box::pin(two.presence("news"));
    assert!((&mut given_up).now_or_never().is_none());
    until("another question", || engine.questions() > before).await;
    let mut patient = Box::pin(two.presence("news"));
    assert!((&mut patient).now_or_never().is_none());
    drop(given_up);
    engine.is_held.store(false, Ordering::Relaxed);
    assert_eq!(names(&patient.await.unwrap()), ["alice"]);
    drop((one, two));
}

#[tokio::test]
async fn words_that_do_not_fit_in_an_answer_come_with_the_next() {
    let engine = Noting::default();
    engine.is_limited.store(true, Ordering::Relaxed);
    let mut nodes = Vec::new();
    for token in ["a", "b", "c"] {
        let (janus, addr) = engine.node(|_| {}).await;
        let client = subscriber(addr, token, "news").await;
        nodes.push((janus, client));
    }
    let (last, addr) = engine.node(|_| {}).await;
    let all = ["alice", "bob", "carol"];
    let present = async || names(&last.presence("news").await.unwrap()).len() == all.len();
    let end = tokio::time::Instant::now() + Duration::from_secs(10);
    while !present().await {
        assert!(tokio::time::Instant::now() < end, "{:?}", engine.asked.lock());
        tokio::task::yield_now().await;
    }
    assert_eq!(names(&last.presence("news").await.unwrap()), all);
    let (mut dave, state) = watcher(addr, "d", "news").await;
    let users = state["members"].as_array().unwrap().iter();
    let mut listed: Vec<_> = users.map(|member| member["user"].as_str().unwrap().to_owned()).collect();
    until_listed(&mut dave, &mut listed, &["alice", "bob", "carol", "dave"]).await;
}

#[tokio::test]
async fn the_words_of_a_topic_that_ends_at_once_are_taken_back() {
    let engine = Noting::default();
    let (one, left) = engine.node(|_| {}).await;
    let (two, right) = engine.node(|config| config.max_topics_per_client = 1).await;
    let (mut watcher, _) = watcher(left, "a", "news").await;
    let mut bob = client(right, "b").await;
    let mut subscribe = async |kind: &str, topic: &str| {
        let answer = bob.ask(json!({"type": kind, "topic": topic})).await;
        assert_ne!(answer["type"], "error", "{answer}");
    };
    subscribe("subscribe", "news").await;
    assert_eq!(watcher.json().await["members"][0]["user"], "bob");
    // The client's next topic pushes the topic out before the departure is told.
    for (kind, topic) in [("unsubscribe", "news"), ("subscribe", "other"), ("unsubscribe", "other")] {
        subscribe(kind, topic).await;
    }
    until("the end of the topic", || two.topic_info("news").is_none()).await;
    assert_eq!(watcher.json().await, frame("left", "news", 1, &json!([{"user": "bob"}])));
    drop(one);
}

#[tokio::test]
async fn all_words_are_read_in_each_interval_however_many_changes_there_are() {
    let engine = Noting::default();
    let (_one, addr) = engine.node(|config| config.engine_report_interval = Duration::from_secs(1)).await;
    let mut bob = client(addr, "b").await;
    let whole = || engine.asked.lock().iter().skip(1).filter(|asked| asked.known == 0).count();
    let end = tokio::time::Instant::now() + Duration::from_secs(15);
    let mut changes = tokio::time::interval(Duration::from_millis(50));
    // The words of another node give the requests a version to be known.
    let (_two, other) = engine.node(|_| {}).await;
    let _alice = subscriber(other, "a", "news").await;
    while whole() < 2 {
        for kind in ["subscribe", "unsubscribe"] {
            changes.tick().await;
            bob.ask(json!({"type": kind, "topic": "news"})).await;
        }
        assert!(tokio::time::Instant::now() < end, "{:?}", engine.asked.lock());
    }
}
