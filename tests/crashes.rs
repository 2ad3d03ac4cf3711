//! Crashes of parts of the tree, as seen by clients: the table of docs/ARCHITECTURE.md, row by row.
//!
//! Each test has 1,000 subscribers over real sockets and a publisher that numbers its messages and never pauses. A
//! panic is injected in the middle. Then the test compares the messages of every subscriber.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use janus_core::supervision::{ExitReason, State};
use janus_core::{Config, Fault, IoUring, Janus, Message, PublishError, SessionToken};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::support::{
    Client, Close, DEADLINE, publish_frame, serve, serve_as_said, subscribe_frame, subscribers, topic_actor, until,
};

const SUBSCRIBERS: usize = 1_000;

/// Subscribers of one topic. Each subscriber keeps a list of its messages.
struct Crowd {
    topic: &'static str,
    readers: Vec<JoinHandle<Received>>,
}

/// The messages of one subscriber, and the end of its connection, if any.
struct Received {
    numbers: Vec<u64>,
    close: Option<Close>,
}

/// Ends the readers: the last message of every publisher.
const LAST: u64 = u64::MAX;

impl Crowd {
    async fn subscribe(addr: SocketAddr, topic: &'static str, count: usize) -> Self {
        let mut readers = Vec::new();
        for _ in 0..count {
            let mut client = Client::connect(addr).await.reset_on_drop();
            client.subscribe(topic).await;
            readers.push(tokio::spawn(read_numbers(client)));
        }
        Self { topic, readers }
    }

    async fn received(self) -> Vec<Received> {
        let mut all = Vec::new();
        for reader in self.readers {
            all.push(timeout(DEADLINE, reader).await.expect("every reader ends").expect("no reader panics"));
        }
        all
    }

    /// Asserts that every subscriber got exactly the acknowledged messages, each once and in order. Messages with an
    /// error for the publisher may be missing.
    async fn assert_complete(self, outcome: &Published) {
        let (topic, count) = (self.topic, self.readers.len());
        for (i, received) in self.received().await.into_iter().enumerate() {
            assert_eq!(received.close, None, "subscriber {i} of {topic} was closed");
            assert!(received.numbers.is_sorted_by(|a, b| a < b), "subscriber {i} of {topic}: out of order or twice");
            let expected = received.numbers.iter().filter(|number| !outcome.failed.contains(number));
            assert!(expected.eq(outcome.acknowledged.iter()), "subscriber {i} of {topic} missed a message");
        }
        assert!(count > 0);
    }
}

async fn read_numbers(mut client: Client) -> Received {
    let mut numbers = Vec::new();
    loop {
        let frame = match client.next().await {
            Ok(frame) => frame,
            Err(close) => return Received { numbers, close: Some(close) },
        };
        let message: serde_json::Value = serde_json::from_slice(&frame).expect("a message");
        let number = message["data"].as_u64().expect("a numbered message");
        if number == LAST {
            return Received { numbers, close: None };
        }
        numbers.push(number);
    }
}

/// A publisher that runs until stopped and keeps a few messages under way at any time.
struct Publisher {
    stop: Arc<AtomicBool>,
    acknowledged: Arc<AtomicUsize>,
    task: JoinHandle<Published>,
}

#[derive(Debug, Default)]
struct Published {
    acknowledged: Vec<u64>,
    failed: Vec<u64>,
    epochs: Vec<String>,
}

const WINDOW: u64 = 4;

impl Publisher {
    async fn start(addr: SocketAddr, topic: &'static str) -> Self {
        let client = Client::connect(addr).await;
        let stop = Arc::new(AtomicBool::new(false));
        let acknowledged = Arc::new(AtomicUsize::new(0));
        let task = tokio::spawn(publish_numbers(client, topic, Arc::clone(&stop), Arc::clone(&acknowledged)));
        Self { stop, acknowledged, task }
    }

    /// Waits until `more` further messages have been acknowledged.
    async fn publishes(&self, more: usize) {
        let goal = self.acknowledged.load(Ordering::Relaxed) + more;
        until("the publisher goes on", || self.acknowledged.load(Ordering::Relaxed) >= goal).await;
    }

    async fn finish(self) -> Published {
        self.stop.store(true, Ordering::Relaxed);
        timeout(DEADLINE, self.task).await.expect("the publisher ends").expect("the publisher does not panic")
    }
}

async fn publish_numbers(
    mut client: Client,
    topic: &'static str,
    stop: Arc<AtomicBool>,
    acknowledged: Arc<AtomicUsize>,
) -> Published {
    let mut outcome = Published::default();
    let mut sent = 0;
    let mut answered = 0;
    while answered < sent || !stop.load(Ordering::Relaxed) {
        while sent < answered + WINDOW && !stop.load(Ordering::Relaxed) {
            sent += 1;
            client.send(publish_frame(topic, &sent.to_string())).await;
        }
        if answered == sent {
            continue;
        }
        // Answers come in the order of the messages, receipts and errors alike.
        let answer = client.json().await;
        answered += 1;
        if let Some(epoch) = answer["published"]["epoch"].as_str() {
            outcome.acknowledged.push(answered);
            if outcome.epochs.last().is_none_or(|last| last != epoch) {
                outcome.epochs.push(epoch.to_owned());
            }
            acknowledged.fetch_add(1, Ordering::Relaxed);
        } else {
            assert!(answer["error"].is_object(), "neither receipt nor error: {answer}");
            outcome.failed.push(answered);
        }
    }
    client.send(publish_frame(topic, &LAST.to_string())).await;
    let answer = client.json().await;
    assert!(answer["published"].is_object(), "the last message: {answer}");
    outcome
}

/// A server, 1,000 subscribers of one topic and 100 of another, and a publisher to each.
struct Scene {
    janus: Janus,
    addr: SocketAddr,
    crowd: Crowd,
    others: Crowd,
    publisher: Publisher,
    other_publisher: Publisher,
}

impl Scene {
    async fn new(config: Config) -> Self {
        let (janus, addr) = serve(config).await;
        Self::on(janus, addr).await
    }

    async fn on(janus: Janus, addr: SocketAddr) -> Self {
        let crowd = Crowd::subscribe(addr, "crowd", SUBSCRIBERS).await;
        let others = Crowd::subscribe(addr, "others", 100).await;
        let publisher = Publisher::start(addr, "crowd").await;
        let other_publisher = Publisher::start(addr, "others").await;
        publisher.publishes(20).await;
        Self { janus, addr, crowd, others, publisher, other_publisher }
    }

    /// Publishes for a while longer and checks that no subscriber missed a message.
    async fn assert_unnoticed(self) -> (Janus, SocketAddr) {
        self.publisher.publishes(20).await;
        self.other_publisher.publishes(20).await;
        let (outcome, other_outcome) = (self.publisher.finish().await, self.other_publisher.finish().await);
        assert_eq!(outcome.failed, [0; 0], "no publisher got an error");
        assert_eq!(other_outcome.failed, [0; 0], "no publisher got an error");
        self.crowd.assert_complete(&outcome).await;
        self.others.assert_complete(&other_outcome).await;
        (self.janus, self.addr)
    }

    fn restarts(&self, name: &str) -> u64 {
        restarts(&self.janus, name)
    }

    fn topic_restarts(&self, topic: &str) -> u64 {
        topic_actor(&self.janus, topic).expect("the topic is in the tree").restarts
    }
}

fn restarts(janus: &Janus, name: &str) -> u64 {
    janus.tree().find(name).unwrap_or_else(|| panic!("{name} is in the tree")).restarts
}

async fn crash_and_restart(scene: &Scene, fault: Fault, name: &str) {
    let before = scene.restarts(name);
    scene.janus.inject(fault);
    until("the restart of the crashed actor", || scene.restarts(name) > before).await;
}

#[tokio::test]
async fn clients_do_not_notice_a_crash_of_the_topic_manager() {
    let scene = Scene::new(Config::default()).await;
    crash_and_restart(&scene, Fault::TopicManager, "topic_manager").await;
    let (_janus, addr) = scene.assert_unnoticed().await;
    Client::connect(addr).await.subscribe("a topic made by the successor").await;
}

#[tokio::test]
async fn a_subscribe_survives_a_simultaneous_crash_of_the_topic_manager() {
    let (janus, addr) = serve(Config::default()).await;
    for i in 0..5 {
        let mut client = Client::connect(addr).await;
        janus.inject(Fault::TopicManager);
        client.subscribe(&format!("topic {i}")).await;
    }
}

#[tokio::test]
async fn clients_do_not_notice_a_crash_of_the_proxy_mapper() {
    let scene = Scene::new(Config::default()).await;
    crash_and_restart(&scene, Fault::ProxyMapper, "proxy_mapper").await;
    let sessions = scene.janus.sessions().await;
    assert_eq!(sessions.len(), SUBSCRIBERS + 100 + 2, "every session is still listed");
    scene.assert_unnoticed().await;
}

#[tokio::test]
async fn a_crash_of_a_topic_loses_no_message_and_spares_other_topics() {
    let scene = Scene::new(Config::default()).await;
    scene.janus.inject(Fault::Topic("crowd".to_owned()));
    until("the topic restarts", || scene.topic_restarts("crowd") > 0).await;
    scene.publisher.publishes(20).await;
    let (outcome, other_outcome) = (scene.publisher.finish().await, scene.other_publisher.finish().await);
    assert_eq!(other_outcome.failed, [0; 0]);
    assert_eq!(outcome.epochs.len(), 1, "a warm restart goes on in the same epoch");
    scene.crowd.assert_complete(&outcome).await;
    scene.others.assert_complete(&other_outcome).await;
}

#[tokio::test]
async fn a_topic_that_crashes_during_delivery_delivers_exactly_once() {
    // Without help, and with senders at work on the same pass; sends together, and each by itself.
    for (threads, io_uring) in [(1, IoUring::Auto), (3, IoUring::Auto), (3, IoUring::Off)] {
        let scene = Scene::new(Config { threads, io_uring, ..Config::default() }).await;
        scene.janus.inject(Fault::TopicSend(1_500));
        until("a topic restarts", || scene.topic_restarts("crowd") + scene.topic_restarts("others") > 0).await;
        scene.assert_unnoticed().await;
    }
}

#[tokio::test]
async fn a_numbered_message_reaches_all_subscribers_despite_a_crash() {
    let scene = Scene::new(Config::default()).await;
    scene.janus.inject(Fault::TopicCommit(5));
    until("a topic restarts", || scene.topic_restarts("crowd") + scene.topic_restarts("others") > 0).await;
    scene.assert_unnoticed().await;
}

#[tokio::test]
async fn a_topic_and_the_topic_manager_may_crash_together() {
    for _ in 0..20 {
        let (janus, addr) = serve(Config::default()).await;
        let mut subscriber = Client::connect(addr).await;
        subscriber.subscribe("news").await;
        janus.inject(Fault::TopicManager);
        janus.inject(Fault::Topic("news".to_owned()));
        until("both restart", || {
            restarts(&janus, "topic_manager") > 0 && topic_actor(&janus, "news").is_some_and(|topic| topic.restarts > 0)
        })
        .await;
        assert_eq!(janus.publish("news", "x").await.map(|receipt| receipt.subscribers), Ok(1));
        assert_eq!(subscriber.json().await["data"], "x");
    }
}

#[tokio::test]
async fn a_new_topic_manager_starts_topics_listed_by_a_crashed_one() {
    let (janus, addr) = serve(Config::default()).await;
    let mut subscriber = Client::connect(addr).await;
    janus.inject(Fault::TopicListed);
    subscriber.subscribe("news").await;
    assert_eq!(restarts(&janus, "topic_manager"), 1);
    janus.publish("news", "x").await.unwrap();
    assert_eq!(subscriber.json().await["data"], "x");
}

#[tokio::test]
async fn an_unsubscribe_lost_in_a_crash_leaves_no_subscriber_behind() {
    let (janus, addr) = serve(Config::default()).await;
    let mut client = Client::connect(addr).await;
    client.subscribe("other").await;
    client.subscribe("news").await;
    // The crash waits in the topic's mailbox before the unsubscribe, which is lost with the crash.
    janus.inject(Fault::Hang(Duration::from_millis(50)));
    janus.inject(Fault::Topic("news".to_owned()));
    client.send("{\"action\":\"unsubscribe\",\"data\":\"news\"}\0").await;
    client.subscribe("other").await;
    until("the topic restarts", || topic_actor(&janus, "news").is_some_and(|topic| topic.restarts > 0)).await;
    until("the list is swept", || subscribers(&janus, "news") == Some(0)).await;
}

#[tokio::test]
async fn a_cold_restart_closes_only_subscribers_that_would_miss_a_message() {
    let config = Config { topic_quarantine: Duration::from_millis(200), ..Config::default() };
    let (janus, addr) = serve(config).await;
    let mut subscriber = Client::connect(addr).await;
    subscriber.subscribe("cursed").await;
    let before = janus.publish("cursed", "before").await.unwrap();
    assert_eq!(subscriber.json().await["data"], "before");
    janus.inject(Fault::TopicStarts(6));
    janus.inject(Fault::TopicCommit(1));
    let lost = janus.publish("cursed", "lost").await.unwrap();
    assert_eq!(lost.epoch, before.epoch);
    assert_eq!(subscriber.error_code().await, "topic_unavailable");
    assert_eq!(subscriber.close().await, Close::Fin);
    // The connection was closed by a failing start, and further starts failed later.
    until("the topic is back", || topic_actor(&janus, "cursed").is_some_and(|topic| topic.state == State::Running))
        .await;
    let mut next = Client::connect(addr).await;
    next.subscribe("cursed").await;
    let after = janus.publish("cursed", "after").await.unwrap();
    assert_ne!(after.epoch, before.epoch, "its clients can tell that the order does not go on");
    assert!(after.seq > lost.seq);
    assert_eq!(next.json().await["data"], "after");
}

#[tokio::test]
async fn a_crash_of_a_transport_closes_one_connection_and_keeps_the_session() {
    let scene = Scene::new(Config::default()).await;
    let mut victim = Client::connect(scene.addr).await;
    victim.subscribe("quiet").await;
    let peer = victim.local_addr();
    scene.janus.inject(Fault::Transport(peer));
    victim.close().await;
    let sessions = scene.janus.sessions().await;
    let session = sessions.iter().find(|session| session.peer == peer.into()).expect("the session is still listed");
    assert!(!session.connected);
    assert_eq!(session.topics.iter().map(|topic| topic.as_str()).collect::<Vec<_>>(), ["quiet"]);
    scene.assert_unnoticed().await;
}

#[tokio::test]
async fn a_session_is_found_by_the_token_of_its_greeting() {
    let (janus, addr) = serve(Config::default()).await;
    let mut client = Client::connect_silently(addr).await;
    let greeting = client.json().await;
    client.subscribe("news").await;
    let token = SessionToken::from_hex(greeting["token"].as_str().unwrap()).unwrap();
    janus.inject(Fault::ProxyMapper);
    let session = janus.session(token).await.expect("a successor of the ProxyMapper finds it");
    assert_eq!((session.peer, session.connected, session.topics.len()), (client.local_addr().into(), true, 1));
    let unknown = SessionToken::from_hex("00000000000000000000000000000000").unwrap();
    assert_eq!(janus.session(unknown).await, None);
}

#[tokio::test]
async fn a_detached_session_is_listed_no_longer_than_its_time() {
    let config = Config { session_ttl: Duration::from_millis(50), ..Config::default() };
    let (janus, addr) = serve(Config { heartbeat_interval: Duration::from_secs(1), ..config }).await;
    let mut client = Client::connect(addr).await;
    client.subscribe("quiet").await;
    assert_eq!(janus.stats().sessions, 1);
    drop(client);
    until("the session has ended", || janus.stats().sessions == 0).await;
}

#[tokio::test]
async fn clients_do_not_notice_an_acceptor_crash_and_the_port_reopens() {
    let scene = Scene::new(Config::default()).await;
    let tree = scene.janus.tree();
    let acceptor = tree.children.iter().find(|child| child.name.starts_with("acceptor ")).expect("there is one");
    let acceptor = acceptor.name.to_string();
    crash_and_restart(&scene, Fault::Acceptor, &acceptor).await;
    Client::connect(scene.addr).await.subscribe("crowd too").await;
    scene.assert_unnoticed().await;
}

#[tokio::test]
async fn the_claimed_piece_of_a_dead_sender_is_finished_by_the_others() {
    for io_uring in [IoUring::Auto, IoUring::Off] {
        let scene = Scene::new(Config { threads: 3, io_uring, ..Config::default() }).await;
        for _ in 0..3 {
            let before = scene.restarts("sender 1") + scene.restarts("sender 2");
            scene.janus.inject(Fault::SenderSend(10));
            until("a sender restarts", || scene.restarts("sender 1") + scene.restarts("sender 2") > before).await;
        }
        scene.assert_unnoticed().await;
    }
}

#[tokio::test]
async fn the_claimed_piece_of_a_dead_helping_home_is_finished_by_the_others() {
    for io_uring in [IoUring::Auto, IoUring::Off] {
        let (janus, addr) = serve_as_said(Config { threads: 2, homes: 2, io_uring, ..Config::default() }).await;
        let scene = Scene::on(janus, addr).await;
        let homes = ["home 1", "home 2"];
        let deaths =
            || homes.map(|home| scene.janus.tree().find(home).and_then(|home| home.find("errands")).unwrap().restarts);
        for _ in 0..3 {
            let before: u64 = deaths().iter().sum();
            scene.janus.inject(Fault::HelperSend(10));
            until("a helping home's task restarts", || deaths().iter().sum::<u64>() > before).await;
        }
        scene.assert_unnoticed().await;
    }
}

#[tokio::test]
async fn senders_may_die_while_helping_a_home_arbiter_that_is_behind() {
    // A round of messages is 256 sends, after which an arbiter without a pause is behind.
    const TOPICS: [&str; 8] = ["a", "b", "c", "d", "e", "f", "g", "h"];
    // The server must not wait for the readers, all on a single thread.
    let config = Config { threads: 2, max_queue_frames: 1 << 20, max_queue_bytes: 1 << 30, ..Config::default() };
    let (janus, addr) = serve(config).await;
    let mut crowds = Vec::new();
    for topic in TOPICS {
        crowds.push(Crowd::subscribe(addr, topic, 32).await);
    }
    let stop = Arc::new(AtomicBool::new(false));
    let publisher = std::thread::spawn({
        let (janus, stop) = (janus.clone(), Arc::clone(&stop));
        move || {
            let mut published = Vec::new();
            while !stop.load(Ordering::Relaxed) {
                published.push(published.len() as u64);
                TOPICS.iter().for_each(|topic| publish_patiently(&janus, topic, published.len() as u64 - 1));
            }
            TOPICS.iter().for_each(|topic| publish_patiently(&janus, topic, LAST));
            published
        }
    });
    for crash in 1..=2 {
        // No topic is large, so only a helping sender sends.
        janus.inject(Fault::SenderSend(1));
        until("the sender restarts", || restarts(&janus, "sender 1") >= crash).await;
    }
    stop.store(true, Ordering::Relaxed);
    let acknowledged = publisher.join().expect("the publisher does not panic");
    let outcome = Published { acknowledged, ..Published::default() };
    for crowd in crowds {
        crowd.assert_complete(&outcome).await;
    }
}

fn publish_patiently(janus: &Janus, topic: &str, number: u64) {
    let message = Message::new(topic, &number).expect("a message");
    while let Err(refused) = janus.try_publish(message.clone()).map(drop) {
        assert_eq!(refused, PublishError::Full);
        std::thread::yield_now();
    }
}

#[tokio::test]
async fn a_failing_first_start_of_a_topic_is_retried_five_times() {
    let (janus, addr) = serve(Config::default()).await;
    let mut subscriber = Client::connect(addr).await;
    janus.inject(Fault::TopicStarts(5));
    subscriber.subscribe("unlucky").await;
    janus.publish("unlucky", "hello").await.unwrap();
    assert_eq!(subscriber.json().await["data"], "hello");

    janus.inject(Fault::TopicStarts(6));
    subscriber.send(subscribe_frame("cursed")).await;
    assert_eq!(subscriber.error_code().await, "topic_unavailable");
}

#[tokio::test]
async fn a_topic_that_keeps_crashing_is_quarantined_without_harm_to_others() {
    // Long enough for the requests in between, with a thousand readers on the same thread.
    let config = Config { topic_quarantine: Duration::from_secs(2), ..Config::default() };
    let scene = Scene::new(config).await;
    let mut subscriber = Client::connect(scene.addr).await;
    subscriber.subscribe("cursed").await;
    let mut publisher = Client::connect(scene.addr).await;
    scene.janus.inject(Fault::TopicStarts(6));
    scene.janus.inject(Fault::Topic("cursed".to_owned()));
    until("the topic is out of service", || {
        let actor = topic_actor(&scene.janus, "cursed");
        actor.is_some_and(|topic| topic.state == State::Quarantined)
            && !scene.janus.topic_info("cursed").unwrap().available
    })
    .await;
    publisher.send(publish_frame("cursed", "1")).await;
    assert_eq!(publisher.error_code().await, "topic_unavailable");
    let mut late = Client::connect(scene.addr).await;
    late.send(subscribe_frame("cursed")).await;
    assert_eq!(late.error_code().await, "topic_unavailable");

    until("the quarantine is over", || scene.janus.topic_info("cursed").is_some_and(|topic| topic.available)).await;
    publisher.send(publish_frame("cursed", "2")).await;
    assert!(publisher.json().await["published"].is_object());
    assert_eq!(subscriber.json().await["data"], 2, "the subscription was kept");
    scene.assert_unnoticed().await;
}

#[tokio::test]
async fn a_root_actor_that_keeps_crashing_ends_the_instance_with_a_reason() {
    let (janus, addr) = serve(Config::default()).await;
    let mut client = Client::connect(addr).await;
    // Again and again: a crash during the start of the successor is lost.
    let crashes = tokio::spawn({
        let janus = janus.clone();
        async move {
            until("the end", || {
                janus.inject(Fault::TopicManager);
                false
            })
            .await
        }
    });
    let reason = timeout(DEADLINE, janus.wait()).await.expect("the root gives up");
    crashes.abort();
    assert!(matches!(reason, ExitReason::MaxRestarts { .. }), "{reason}");
    assert!(reason.to_string().contains("topic_manager"), "{reason}");
    client.close().await;
}

#[tokio::test]
async fn a_handler_that_never_returns_ends_the_instance_and_is_reported() {
    let (janus, _) = serve(Config::default()).await;
    janus.inject(Fault::Hang(Duration::from_secs(8)));
    let reason = timeout(DEADLINE, janus.wait()).await.expect("the instance gives up");
    assert!(matches!(reason, ExitReason::Error(_)), "{reason}");
    assert!(reason.to_string().contains("topic_manager"), "{reason}");
}
