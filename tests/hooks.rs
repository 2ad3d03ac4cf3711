//! Hooks, as the clients see their answers, and the list of connections, as an operator does.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use janus_core::hooks::{Client, ConnectRequest, Denied, Disconnect, DropReason, Hooks, Identity};
use janus_core::wire::classic::client::attach;
use janus_core::wire::{ErrorCode, Publication, TopicName};
use janus_core::{Builder, Config, Janus, Namespace, SlowClient, SlowConsumer};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{Instant, timeout};

use crate::support::{
    Client as Connection, Close, DEADLINE, own_address, publish_frame, subscribe_frame, subscribers, until,
};

/// Clients get the names that are next in a list, and what they may do goes by those names.
struct Gate {
    names: Mutex<Vec<&'static str>>,
    seen: mpsc::Sender<String>,
    /// Whoever subscribes to `slow:…` waits for this.
    go: Arc<Semaphore>,
}

impl Gate {
    fn note(&self, note: String) {
        let _ = self.seen.try_send(note);
    }
}

impl Hooks for Gate {
    async fn authenticate(&self, request: ConnectRequest) -> Result<Identity, Denied> {
        assert_eq!((request.transport, request.auth, request.request), ("classic", None, None));
        let next = self.names.lock().unwrap().pop();
        match next {
            Some("nobody") => Err(Denied::new("you are nobody")),
            Some("later") => Err(Denied::for_now("come back later", Duration::from_secs(9))),
            Some("broken") => panic!("on purpose: who is this?"),
            Some("hung") => std::future::pending().await,
            Some("reader") => Ok(Identity::user("reader").may_publish(false)),
            Some("writer") => Ok(Identity::user("writer").may_publish(true).may_subscribe(true)),
            Some(name) => Ok(Identity::user(name)),
            None => Ok(Identity::anonymous()),
        }
    }

    async fn authorize_subscribe(&self, client: &Client, topic: &TopicName) -> Result<(), Denied> {
        match topic.as_str() {
            "broken" => panic!("on purpose: may it?"),
            "hung" => std::future::pending().await,
            "slow" => self.go.acquire().await.expect("it stays open").forget(),
            _ => {}
        }
        match topic.as_str().strip_prefix("private:") {
            Some(owner) if owner != client.identity.user => Err(Denied::new("this topic is somebody else's")),
            _ => Ok(()),
        }
    }

    async fn authorize_publish(&self, _: &Client, topic: &TopicName, message: &Publication) -> Result<(), Denied> {
        match message.data() {
            "\"rude\"" => Err(Denied::new(format!("not to {topic}"))),
            "\"broken\"" => panic!("on purpose: may it?"),
            _ => Ok(()),
        }
    }

    async fn connected(&self, client: &Client) {
        self.note(format!("{} connected", client.identity.user));
    }

    async fn disconnected(&self, client: &Client, why: Disconnect) {
        self.note(format!("{} disconnected: {why:?}", client.identity.user));
    }

    async fn slow(&self, client: &Client, lag: &SlowClient) {
        assert_eq!(client.connection, lag.client);
        self.note(format!("{} is slow", client.identity.user));
    }

    async fn dropped(&self, topic: &TopicName, messages: u64, why: DropReason) {
        self.note(format!("{messages} of {topic} dropped: {why:?}"));
    }
}

struct Scene {
    janus: Janus,
    seen: mpsc::Receiver<String>,
    go: Arc<Semaphore>,
}

impl Scene {
    /// The first to connect gets the first name.
    async fn new<const N: usize>(names: [&'static str; N], config: Config) -> Self {
        Self::with(names, config, |builder| builder).await
    }

    async fn with<const N: usize>(
        names: [&'static str; N],
        config: Config,
        set: impl FnOnce(Builder) -> Builder,
    ) -> Self {
        let (notes, seen) = mpsc::channel(1_000);
        let go = Arc::new(Semaphore::new(0));
        let names = Mutex::new(names.into_iter().rev().collect());
        let gate = Gate { names, seen: notes, go: Arc::clone(&go) };
        let config = Config { listen: vec![own_address()], drain_period: Duration::ZERO, ..config };
        let janus = set(Janus::builder().config(config).hooks(gate)).start().await.unwrap();
        Self { janus, seen, go }
    }

    async fn connect(&self) -> Connection {
        Connection::connect(self.janus.local_addrs()[0]).await
    }

    async fn connect_silently(&self) -> Connection {
        Connection::connect_silently(self.janus.local_addrs()[0]).await
    }

    async fn seen(&mut self) -> String {
        timeout(DEADLINE, self.seen.recv()).await.expect("it is told").expect("the hooks are there")
    }
}

/// Soon over for a test that waits for it, and long for a hook that only has to be given a processor.
fn impatient() -> Config {
    Config { hook_timeout: Duration::from_secs(1), ..Config::default() }
}

#[tokio::test]
async fn who_is_not_let_in_is_told_why_instead_of_a_greeting() {
    let scene = Scene::new(["nobody", "later", "broken", "hung", "alice"], impatient()).await;
    for (code, message) in [
        ("unauthorized", "you are nobody"),
        ("authorization_failed", "come back later"),
        ("authorization_failed", "has not answered"),
        ("authorization_failed", "has not answered"),
    ] {
        let mut refused = scene.connect_silently().await;
        let answer = refused.json().await;
        assert_eq!(answer["error"]["code"], code, "{answer}");
        assert!(answer["error"]["message"].as_str().unwrap().contains(message), "{answer}");
        assert_eq!(refused.close().await, Close::Fin);
    }
    scene.connect().await.subscribe("news").await;
    until("the refused are gone", || scene.janus.stats().sessions == 1).await;
}

#[tokio::test]
async fn what_a_client_says_before_it_is_let_in_waits_for_the_answer() {
    let scene = Scene::new([], Config::default()).await;
    let mut client = scene.connect_silently().await;
    client.send(subscribe_frame("slow")).await;
    client.send(publish_frame("news", "1")).await;
    assert!(client.json().await["token"].is_string());
    let mut other = scene.connect().await;
    other.subscribe("news").await;
    assert_eq!(scene.janus.publish("news", &2).await.unwrap().seq, 1, "the other's message has not overtaken the hook");
    scene.go.add_permits(1);
    assert_eq!(client.frame().await, "ACK");
    assert_eq!(client.json().await["published"]["seq"], 2);
    assert_eq!(other.json().await["data"], 2);
    assert_eq!(other.json().await["data"], 1);
}

#[tokio::test]
async fn a_subscription_is_a_question_and_its_failure_is_that_of_one_request() {
    let scene = Scene::new(["alice"], impatient()).await;
    let mut alice = scene.connect().await;
    alice.subscribe("private:alice").await;
    for (topic, code) in
        [("private:bob", "forbidden"), ("broken", "authorization_failed"), ("hung", "authorization_failed")]
    {
        alice.send(subscribe_frame(topic)).await;
        assert_eq!(alice.error_code().await, code, "{topic}");
        assert_eq!(subscribers(&scene.janus, topic), None);
    }
    scene.janus.publish("private:alice", "hello").await.unwrap();
    assert_eq!(alice.json().await["data"], "hello");
}

#[tokio::test]
async fn a_message_is_a_question_unless_the_identity_has_answered_it() {
    let scene = Scene::new(["alice", "reader", "writer"], Config::default()).await;
    let mut news = scene.janus.subscribe("news").unwrap();
    let mut clients = [scene.connect().await, scene.connect().await, scene.connect().await];
    for (client, data, code) in [
        (0, "\"rude\"", Some("forbidden")),
        (0, "\"broken\"", Some("authorization_failed")),
        (0, "\"kind\"", None),
        (1, "\"kind\"", Some("forbidden")),
        (2, "\"rude\"", None),
    ] {
        clients[client].send(publish_frame("news", data)).await;
        let answer = clients[client].json().await;
        assert_eq!(answer["error"]["code"].as_str(), code, "{answer}");
    }
    for expected in ["\"kind\"", "\"rude\""] {
        let Some(janus_core::Event::Message(message)) = news.next().await else { panic!("a message") };
        assert_eq!(message.data(), expected);
    }
}

#[tokio::test]
async fn an_identity_may_publish_where_the_listener_lets_nobody() {
    let config = Config { listen: vec!["0.0.0.0:0".parse().unwrap()], ..Config::default() };
    let (notes, _seen) = mpsc::channel(1_000);
    let gate = Gate { names: Mutex::new(vec!["writer", "alice"]), seen: notes, go: Arc::new(Semaphore::new(0)) };
    let janus = Janus::builder().config(config).hooks(gate).start().await.unwrap();
    let addr = ([127, 0, 0, 1], janus.local_addrs()[0].port()).into();
    let mut alice = Connection::connect(addr).await;
    alice.send(publish_frame("news", "1")).await;
    assert_eq!(alice.error_code().await, "publish_not_allowed");
    let mut writer = Connection::connect(addr).await;
    writer.send(publish_frame("news", "1")).await;
    assert!(writer.json().await["published"].is_object());
}

#[tokio::test]
async fn a_session_is_taken_over_by_its_own_user_only() {
    let mut scene = Scene::new(["alice", "mallory", "alice"], Config::default()).await;
    let mut alice = scene.connect_silently().await;
    let token = alice.json().await["token"].as_str().unwrap().to_owned();
    alice.subscribe("news").await;
    let mut mallory = scene.connect().await;
    mallory.send(attach(&token, [("news", 0)])).await;
    assert_eq!(mallory.json().await["attached"]["news"]["resumed"], false);
    scene.janus.publish("news", "x").await.unwrap();
    assert_eq!(alice.json().await["data"], "x", "she has not been disturbed");
    assert_eq!(mallory.json().await["data"], "x");

    let mut again = scene.connect().await;
    again.send(attach(&token, [("news", 1)])).await;
    assert_eq!(again.json().await["attached"]["news"]["resumed"], true);
    assert_eq!(alice.error_code().await, "session_taken");
    drop(alice);
    for expected in ["alice connected", "mallory connected", "alice connected"] {
        assert_eq!(scene.seen().await, expected);
    }
    assert_eq!(scene.seen().await, "alice disconnected: ByServer(SessionTaken)");
}

#[tokio::test]
async fn a_topic_that_is_forbidden_now_is_not_resumed() {
    let scene = Scene::new(["alice", "alice"], Config::default()).await;
    let mut alice = scene.connect_silently().await;
    let token = alice.json().await["token"].as_str().unwrap().to_owned();
    alice.subscribe("news").await;
    drop(alice);
    until("she is gone", || scene.janus.stats().connections == 0).await;
    let mut again = scene.connect().await;
    again.send(attach(&token, [("news", 0), ("private:bob", 0)])).await;
    let answer = again.json().await;
    assert_eq!(answer["attached"]["news"]["resumed"], true, "{answer}");
    assert!(answer["attached"]["private:bob"].is_null(), "{answer}");
    assert_eq!(again.error_code().await, "forbidden");
    assert_eq!(subscribers(&scene.janus, "private:bob"), None);
}

#[tokio::test]
async fn observers_hear_how_each_connection_ended() {
    let mut scene = Scene::new(["left", "bad", "drained"], Config::default()).await;
    drop(scene.connect().await);
    assert_eq!(scene.seen().await, "left connected");
    assert_eq!(scene.seen().await, "left disconnected: ByClient");
    let mut bad = scene.connect().await;
    bad.send(b"[\0").await;
    assert_eq!(bad.error_code().await, "bad_json");
    drop(bad);
    assert_eq!(scene.seen().await, "bad connected");
    assert_eq!(scene.seen().await, format!("bad disconnected: {:?}", Disconnect::ByServer(ErrorCode::BadJson)));
    let drained = scene.connect().await;
    assert_eq!(scene.seen().await, "drained connected");
    let reader = tokio::spawn(async move {
        let mut drained = drained;
        while drained.next().await.is_ok() {}
    });
    scene.janus.shutdown().await;
    assert_eq!(scene.seen().await, "drained disconnected: ByServer(ServerDraining)");
    reader.await.unwrap();
}

#[tokio::test]
async fn observers_hear_of_slow_clients_and_of_what_they_do_not_get() {
    let conflate = Namespace { slow_consumer: SlowConsumer::Conflate, ..Namespace::default() };
    // A short timeout makes the clock finer.
    let config = Config {
        frame_timeout: Duration::from_millis(100),
        send_buffer_bytes: 4_096,
        max_queue_frames: 64,
        default_namespace: conflate,
        ..Config::default()
    };
    let mut scene = Scene::new(["sleeper"], config).await;
    let mut sleeper = scene.connect().await;
    sleeper.subscribe("quotes").await;
    assert_eq!(scene.seen().await, "sleeper connected");
    let padding = "x".repeat(60_000);
    let (mut was_slow, mut dropped) = (false, 0);
    let deadline = Instant::now() + DEADLINE;
    while !was_slow || dropped == 0 {
        assert!(Instant::now() < deadline, "slow: {was_slow}, {dropped} dropped");
        scene.janus.publish("quotes", &padding).await.unwrap();
        while let Ok(note) = scene.seen.try_recv() {
            was_slow |= note == "sleeper is slow";
            if let Some(count) = note.strip_suffix(" of quotes dropped: Conflated") {
                dropped += count.parse::<u64>().unwrap();
            }
        }
        tokio::task::yield_now().await;
    }
    assert!(dropped <= scene.janus.stats().messages_conflated);
}

#[tokio::test]
async fn connections_are_listed_in_pages_with_who_they_are_and_what_they_have() {
    let scene = Scene::new(["alice", "bob", "carol"], Config::default()).await;
    let mut clients = Vec::new();
    for topics in [&["news", "private:alice"][..], &["news"], &[]] {
        let mut client = scene.connect().await;
        for topic in topics {
            client.subscribe(topic).await;
        }
        clients.push(client);
    }
    let all = scene.janus.connections(0, 100);
    assert_eq!(all.iter().map(|client| &*client.user).collect::<Vec<_>>(), ["alice", "bob", "carol"]);
    let topics = all[0].topics.iter().map(TopicName::as_str).collect::<BTreeSet<_>>();
    assert_eq!(topics, BTreeSet::from(["news", "private:alice"]));
    assert_eq!((all[1].transport, all[1].peer), ("classic", clients[1].local_addr().into()));
    let page = scene.janus.connections(0, 2);
    assert_eq!(page, all[..2]);
    assert_eq!(scene.janus.connections(page[1].connection, 2), all[2..]);
    assert_eq!(scene.janus.connections(all[2].connection, 2), []);
    assert_eq!(scene.janus.connections(0, 0), []);
}

#[tokio::test]
async fn an_operator_closes_a_connection_or_all_of_a_user() {
    let mut scene = Scene::new(["alice", "alice", "bob"], Config::default()).await;
    let (mut one, mut two, mut bob) = (scene.connect().await, scene.connect().await, scene.connect().await);
    for _ in 0..3 {
        assert!(scene.seen().await.ends_with(" connected"));
    }
    let listed = scene.janus.connections(0, 10);
    assert!(scene.janus.disconnect(listed[2].connection, true));
    assert_eq!(bob.error_code().await, "disconnected");
    assert_eq!(bob.close().await, Close::Fin);
    drop(bob);
    assert_eq!(scene.seen().await, "bob disconnected: ByServer(Disconnected)");
    until("it is gone", || scene.janus.connections(0, 10).len() == 2).await;
    assert!(!scene.janus.disconnect(listed[2].connection, true), "it is gone");

    assert_eq!(scene.janus.disconnect_user("", false), 0);
    assert_eq!(scene.janus.disconnect_user("bob", false), 0);
    assert_eq!(scene.janus.disconnect_user("alice", false), 2);
    for client in [&mut one, &mut two] {
        assert_eq!(client.error_code().await, "banned");
        assert_eq!(client.close().await, Close::Fin);
    }
}

#[tokio::test]
async fn a_session_ends_with_a_connection_that_is_not_wanted_back() {
    for (reconnect, kept) in [(true, 1), (false, 0)] {
        let scene = Scene::new(["alice"], Config::default()).await;
        let mut alice = scene.connect().await;
        alice.subscribe("news").await;
        assert!(scene.janus.disconnect(scene.janus.connections(0, 1)[0].connection, reconnect));
        alice.error_code().await;
        drop(alice);
        until("she is gone", || scene.janus.stats().connections == 0).await;
        assert_eq!(scene.janus.stats().detached_sessions, kept);
    }
}

#[tokio::test]
async fn a_hook_that_blocks_its_thread_holds_up_nobody_who_is_served() {
    struct Blocks(Mutex<std::sync::mpsc::Receiver<()>>);
    impl Hooks for Blocks {
        async fn authorize_subscribe(&self, _: &Client, topic: &TopicName) -> Result<(), Denied> {
            if topic.as_str() == "blocked" {
                let _ = self.0.lock().unwrap().recv();
            }
            Ok(())
        }
    }
    let (release, blocked) = std::sync::mpsc::channel();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();
    let config = Config { listen: vec![own_address()], ..impatient() };
    let builder = Janus::builder().config(Config { drain_period: Duration::ZERO, ..config });
    let hooks = Blocks(Mutex::new(blocked));
    let janus = builder.hooks(hooks).hook_runtime(runtime.handle().clone()).start().await.unwrap();
    let addr = janus.local_addrs()[0];
    let mut served = Connection::connect(addr).await;
    served.subscribe("news").await;
    let mut asking = Connection::connect(addr).await;
    asking.send(subscribe_frame("blocked")).await;
    assert_eq!(asking.error_code().await, "authorization_failed");
    janus.publish("news", "x").await.unwrap();
    assert_eq!(served.json().await["data"], "x");
    release.send(()).unwrap();
    janus.shutdown().await;
    runtime.shutdown_background();
}
