//! The answers of hooks, as clients see them, and the list of connections, as an operator sees it.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use janus_core::hooks::{Client, ConnectRequest, Denied, Disconnect, DropReason, Hooks, Identity, Patterns};
use janus_core::wire::classic::client::attach;
use janus_core::wire::websocket::client::ServerFrame;
use janus_core::wire::{ErrorCode, Publication, TopicName, classic, v1, websocket};
use janus_core::{
    Builder, Config, ConnectionOrder, ConnectionQuery, Janus, Namespace, SlowClient, SlowConsumer, WeakJanus,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{Instant, timeout};

use crate::support::{
    Client as Connection, Close, DEADLINE, own_address, publish_frame, subscribe_frame, subscribers, until,
};

/// Gives clients the next names in a list. Permissions depend on the names.
struct Gate {
    names: Mutex<Vec<&'static str>>,
    seen: mpsc::Sender<String>,
    /// Subscribers of `slow:…` wait for this semaphore.
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
            "\"slow\"" => {
                self.note(format!("asked for {topic}"));
                std::future::pending().await
            }
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
    /// The first client to connect gets the first name.
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

/// A timeout that is short for a waiting test, and long for a hook that only needs a processor.
fn impatient() -> Config {
    Config { hook_timeout: Duration::from_secs(1), ..Config::default() }
}

#[tokio::test]
async fn a_refused_client_gets_the_reason_instead_of_a_greeting() {
    let scene = Scene::new(["nobody", "later", "broken", "hung", "alice"], impatient()).await;
    for (code, message) in [
        ("unauthorized", "you are nobody"),
        ("authorization_failed", "come back later"),
        ("authorization_failed", "did not answer"),
        ("authorization_failed", "did not answer"),
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
async fn frames_before_the_answer_of_authenticate_wait() {
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
async fn a_failing_subscribe_hook_fails_only_one_request() {
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
async fn a_publish_asks_the_hook_unless_the_identity_decides() {
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
async fn a_message_waiting_for_a_hook_at_a_close_is_reported_unpublished() {
    let mut scene = Scene::new(["alice", "bob", "carol"], Config::default()).await;
    let waits_with = async |scene: &mut Scene, frame: Vec<u8>| {
        let mut client = scene.connect().await;
        client.send(frame).await;
        while scene.seen().await != "asked for news" {}
        client
    };
    // On a connection that stays open, and on a connection that closes with its message, where a mere FIN would be a
    // receipt.
    let whole = classic::client::publish("news", "\"\"", "\"\"", "\"slow\"");
    for frame in [publish_frame("news", "\"slow\""), whole.clone()] {
        let mut client = waits_with(&mut scene, frame).await;
        assert!(scene.janus.disconnect(scene.janus.connections(0, 10)[0].connection, true));
        assert_eq!(client.error_code().await, "connection_closed");
        assert_eq!(client.error_code().await, "disconnected");
        assert_eq!(client.close().await, Close::Fin);
        drop(client);
        until("it is gone", || scene.janus.stats().connections == 0).await;
    }
    let mut client = waits_with(&mut scene, whole).await;
    let janus = scene.janus.clone();
    let shutdown = tokio::spawn(async move { janus.shutdown().await });
    assert_eq!(client.error_code().await, "server_draining");
    assert_eq!(client.close().await, Close::Fin);
    drop(client);
    shutdown.await.unwrap();
}

#[tokio::test]
async fn an_identity_may_publish_even_on_a_listener_without_publishing() {
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
async fn a_topic_forbidden_since_is_not_resumed() {
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

/// Rules that may be taken away. Each client may publish and subscribe to `news`, and to no other topic.
struct Removable {
    are_needed: Arc<AtomicBool>,
    seen: mpsc::Sender<String>,
}

impl Hooks for Removable {
    fn are_needed(&self) -> bool {
        self.are_needed.load(Ordering::SeqCst)
    }

    async fn authenticate(&self, _: ConnectRequest) -> Result<Identity, Denied> {
        let news = Patterns::new(["news"]).unwrap();
        Ok(Identity::user("writer").publish(news.clone()).subscribe(news))
    }

    async fn disconnected(&self, client: &Client, why: Disconnect) {
        let _ = self.seen.try_send(format!("{} disconnected: {why:?}", client.identity.user));
    }
}

#[tokio::test]
async fn a_client_keeps_its_grants_when_the_rules_are_taken_away() {
    // Without a grant no client may publish here.
    let config = Config { listen: vec!["0.0.0.0:0".parse().unwrap()], ..Config::default() };
    let (are_needed, (notes, mut seen)) = (Arc::new(AtomicBool::new(true)), mpsc::channel(1_000));
    let hooks = Removable { are_needed: Arc::clone(&are_needed), seen: notes };
    let janus = Janus::builder().config(config).hooks(hooks).start().await.unwrap();
    let addr = ([127, 0, 0, 1], janus.local_addrs()[0].port()).into();
    let mut writer = Connection::connect(addr).await;
    are_needed.store(false, Ordering::SeqCst);
    writer.send(publish_frame("news", "1")).await;
    assert!(writer.json().await["published"].is_object());
    writer.send(publish_frame("other", "1")).await;
    assert_eq!(writer.error_code().await, "forbidden");
    writer.send(subscribe_frame("other")).await;
    assert_eq!(writer.error_code().await, "forbidden");
    writer.subscribe("news").await;
    // A new client has the rights of any client.
    let mut other = Connection::connect(addr).await;
    other.subscribe("other").await;
    other.send(publish_frame("news", "1")).await;
    assert_eq!(other.error_code().await, "publish_not_allowed");
    drop(writer);
    let told = timeout(DEADLINE, seen.recv()).await.unwrap();
    assert_eq!(told.as_deref(), Some("writer disconnected: ByClient"));
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
async fn observers_hear_of_slow_clients_and_of_dropped_messages() {
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
async fn connections_are_listed_in_pages_with_identity_and_topics() {
    let scene = Scene::new(["alice", "bob", "carol"], Config::default()).await;
    let mut clients = Vec::new();
    for topics in [&["news", "private:alice"][..], &["news"], &[]] {
        let mut client = scene.connect().await;
        for topic in topics {
            client.subscribe(topic).await;
        }
        clients.push(client);
    }
    let topics = || scene.janus.connections(0, 100).iter().map(|client| client.topics.len()).sum::<usize>();
    // The Transports hear of a subscription a moment after the client.
    until("all are listed", || topics() == 3).await;
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

    let find = |query: ConnectionQuery| {
        let found = scene.janus.find_connections(&query);
        (found.connections.into_iter().map(|client| client.user).collect::<Vec<_>>(), found.total)
    };
    let query = ConnectionQuery::default;
    assert_eq!(find(query().user("bob")), (vec!["bob".to_owned()], 1));
    assert_eq!(find(query().user("bob").topic("private:alice")), (vec![], 0));
    assert_eq!(find(query().topic("news").limit(1)), (vec!["alice".to_owned()], 2));
    assert_eq!(find(query().user("")), (vec![], 0));
    let address: SocketAddr = clients[2].local_addr();
    assert_eq!(find(query().peer(address.to_string().parse().unwrap())), (vec!["carol".to_owned()], 1));
    for order in [ConnectionOrder::QueuedBytes, ConnectionOrder::Lag] {
        let (users, total) = find(query().order(order).limit(2));
        assert_eq!((users, total), (vec!["alice".to_owned(), "bob".to_owned()], 3), "equal clients by number");
    }
}

#[tokio::test]
async fn an_operator_closes_a_connection_or_all_connections_of_a_user() {
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
async fn a_session_ends_with_a_connection_that_must_not_come_back() {
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
async fn a_hook_that_blocks_its_thread_delays_no_served_client() {
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

/// Identifies clients by the field of their protocol: `auth` in a hello, or the cookie of a request.
struct Keys;

impl Hooks for Keys {
    async fn authenticate(&self, request: ConnectRequest) -> Result<Identity, Denied> {
        let http = request.request.as_deref().expect("it came over HTTP");
        match request.auth.as_deref().or_else(|| http.header("cookie")) {
            Some("busy") => Err(Denied::for_now("too many of you", Duration::from_secs(9))),
            Some(key) => match key.strip_prefix("key=") {
                Some(user) => Ok(Identity::user(format!("{user} by {}", request.transport))),
                None => Err(Denied::new("this key is not known")),
            },
            None => Err(Denied::new("show a key")),
        }
    }

    async fn authorize_subscribe(&self, _: &Client, topic: &TopicName) -> Result<(), Denied> {
        match topic.as_str() {
            "secret" => Err(Denied::new("not for you")),
            "hung" => std::future::pending().await,
            _ => Ok(()),
        }
    }
}

/// A raw connection to the HTTP port.
struct Http {
    stream: TcpStream,
    received: Vec<u8>,
}

impl Http {
    async fn request(addr: SocketAddr, request: impl AsRef<[u8]>) -> Self {
        let mut stream = TcpStream::connect(addr).await.unwrap();
        stream.write_all(request.as_ref()).await.unwrap();
        Self { stream, received: Vec::new() }
    }

    async fn events(addr: SocketAddr, topic: &str, cookie: &str) -> Self {
        let request = format!("GET /events?topic={topic} HTTP/1.0\r\nHost: {addr}\r\nCookie: {cookie}\r\n\r\n");
        Self::request(addr, request).await
    }

    /// Reads up to and including this text. Returns the text before.
    async fn until(&mut self, end: &str) -> String {
        loop {
            let text = String::from_utf8_lossy(&self.received).into_owned();
            if let Some((before, after)) = text.split_once(end) {
                self.received = after.as_bytes().to_vec();
                return before.to_owned();
            }
            let read = timeout(DEADLINE, self.stream.read_buf(&mut self.received)).await.expect("more comes").unwrap();
            assert!(read > 0, "the end instead of {end:?}: {text}");
        }
    }

    /// Everything up to the end of the connection.
    async fn rest(mut self) -> String {
        timeout(DEADLINE, self.stream.read_to_end(&mut self.received)).await.expect("it ends").unwrap();
        String::from_utf8_lossy(&self.received).into_owned()
    }
}

/// Opens a WebSocket and sends these frames. Returns the first frames up to an end of the connection, or up to `count`.
async fn websocket(addr: SocketAddr, frames: &[String], count: usize) -> Vec<String> {
    let upgrade = websocket::client::upgrade(&addr.to_string(), "/ws", "dGhlIHNhbXBsZSBub25jZQ==");
    let mut http = Http::request(addr, upgrade).await;
    assert!(http.until("\r\n\r\n").await.starts_with("HTTP/1.1 101 "));
    for frame in frames {
        http.stream.write_all(&websocket::client::text(frame, [1, 2, 3, 4])).await.unwrap();
    }
    let (mut decoder, mut got) = (websocket::client::ServerDecoder::new(), Vec::new());
    let mut bytes = std::mem::take(&mut http.received);
    loop {
        let mut input = &bytes[..];
        while let Some(frame) = decoder.decode(&mut input) {
            match frame {
                ServerFrame::Text(text) => got.push(text.to_owned()),
                ServerFrame::Close { code, .. } => got.push(format!("close {}", code.unwrap_or(0))),
                other => panic!("{other:?}"),
            }
            if got.len() == count {
                return got;
            }
        }
        bytes.clear();
        let read = timeout(DEADLINE, http.stream.read_buf(&mut bytes)).await.expect("more comes").unwrap();
        assert!(read > 0, "the end after {got:?}");
    }
}

async fn with_keys() -> (Janus, SocketAddr) {
    let config = Config { listen: Vec::new(), http_listen: vec![own_address()], ..Config::default() };
    let config = Config { drain_period: Duration::ZERO, ..config };
    let janus = Janus::builder().config(config).hooks(Keys).start().await.unwrap();
    let addr = janus.local_addrs()[0];
    (janus, addr)
}

#[tokio::test]
async fn a_websocket_authenticates_with_its_hello() {
    let (janus, addr) = with_keys().await;
    for (auth, code, reconnect) in [(None, 4413, None), (Some("?"), 4413, None), (Some("busy"), 4006, Some(9_000))] {
        let got = websocket(addr, &[v1::client::hello(None, auth)], 2).await;
        let bye: serde_json::Value = serde_json::from_str(&got[0]).unwrap();
        assert_eq!((&bye["type"], &bye["code"]), (&"bye".into(), &code.into()), "{bye}");
        assert_eq!(bye["reconnect_after_ms"].as_u64(), reconnect, "{bye}");
        assert_eq!(got[1], format!("close {code}"));
    }
    let frames = [
        v1::client::hello(None, Some("key=alice")),
        v1::client::subscribe(Some(1), "secret", None),
        v1::client::subscribe(Some(2), "news", None),
    ];
    let got = websocket(addr, &frames, 3).await;
    let types = [("welcome", None), ("error", Some(1)), ("subscribed", Some(2))];
    for (frame, (kind, id)) in got.iter().zip(types) {
        let frame: serde_json::Value = serde_json::from_str(frame).unwrap();
        assert_eq!((frame["type"].as_str(), frame["id"].as_u64()), (Some(kind), id), "{frame}");
    }
    janus.shutdown().await;
}

#[tokio::test]
async fn a_session_of_a_websocket_resumes_for_its_user_only() {
    let (janus, addr) = with_keys().await;
    let frames = [v1::client::hello(None, Some("key=alice")), v1::client::subscribe(Some(1), "news", None)];
    let got = websocket(addr, &frames, 2).await;
    let welcome: serde_json::Value = serde_json::from_str(&got[0]).unwrap();
    let token = welcome["session"].as_str().unwrap();
    for (auth, resumed) in [("key=mallory", false), ("key=alice", true)] {
        let got = websocket(addr, &[v1::client::hello(Some(token), Some(auth))], 1).await;
        let welcome: serde_json::Value = serde_json::from_str(&got[0]).unwrap();
        assert_eq!(welcome["resumed"], resumed, "{auth}: {welcome}");
    }
    janus.shutdown().await;
}

#[tokio::test]
async fn an_event_stream_gets_a_status_or_an_event_for_a_forbidden_topic() {
    let (janus, addr) = with_keys().await;
    let refused = Http::events(addr, "news", "nothing").await.rest().await;
    assert!(refused.starts_with("HTTP/1.1 401 ") && refused.contains("this key is not known"), "{refused}");
    let refused = Http::events(addr, "news", "busy").await.rest().await;
    assert!(refused.starts_with("HTTP/1.1 503 ") && refused.contains("too many of you"), "{refused}");

    let mut events = Http::events(addr, "news", "key=alice").await;
    assert!(events.until("\r\n\r\n").await.starts_with("HTTP/1.1 200 "));
    events.until("id: ").await;
    // The Transport hears of the subscription a moment after the client.
    until("it is listed with its topic", || janus.connections(0, 10).iter().any(|client| client.topics.len() == 1))
        .await;
    let listed = janus.connections(0, 10);
    assert_eq!((listed.len(), &*listed[0].user, listed[0].topics[0].as_str()), (1, "alice by sse", "news"));
    janus.publish("news", "hello").await.unwrap();
    assert!(events.until("\"hello\"").await.contains("data: "));
    assert!(janus.disconnect(listed[0].connection, true));
    assert!(events.until("\n\n").await.contains('}'), "the rest of the message");
    let bye = events.until("\n\n").await;
    assert!(bye.contains("event: bye") && bye.contains("\"error\":\"disconnected\""), "{bye}");

    let mut both = Http::events(addr, "secret&topic=news", "key=alice").await;
    assert!(both.until("\r\n\r\n").await.starts_with("HTTP/1.1 200 "));
    both.until("event: refused").await;
    let refused = both.until("\n\n").await;
    assert!(refused.contains("\"topic\":\"secret\"") && refused.contains("\"error\":\"forbidden\""), "{refused}");
    both.until("id: ").await;
    janus.publish("news", "goes on").await.unwrap();
    both.until("\"goes on\"").await;
    janus.shutdown().await;
}

#[tokio::test]
async fn an_event_stream_without_an_allowed_topic_ends_as_browsers_expect() {
    let config = Config { listen: Vec::new(), http_listen: vec![own_address()], ..impatient() };
    // A heartbeat before the head would spoil the head.
    let (heartbeat_interval, hook_timeout) = (Duration::from_secs(1), Duration::from_secs(2));
    let config = Config { drain_period: Duration::ZERO, max_topics: 1, heartbeat_interval, hook_timeout, ..config };
    let janus = Janus::builder().config(config).hooks(Keys).start().await.unwrap();
    let addr = janus.local_addrs()[0];
    let _only_topic = janus.subscribe("news").unwrap();
    // A browser does not come back after a final refusal.
    let forbidden = Http::events(addr, "secret", "key=alice").await.rest().await;
    assert!(forbidden.starts_with("HTTP/1.1 403 "), "{forbidden}");
    assert!(forbidden.ends_with(r#"{"error":{"code":"forbidden","message":"not for you"}}"#), "{forbidden}");
    // A browser comes back after a temporary refusal: the stream ends, and the browser returns after the `retry`.
    for (topics, codes) in [
        ("hung", &["authorization_failed"][..]),
        ("more", &["too_many_topics_on_server"]),
        ("more&topic=secret", &["too_many_topics_on_server", "forbidden"]),
    ] {
        let stream = Http::events(addr, topics, "key=alice").await.rest().await;
        let (head, events) = stream.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 200 "), "{stream}");
        let (_retry, events) = events.split_once('\n').unwrap();
        let blocks = events.split("\n\n").map(|event| event.trim_start_matches(":\n"));
        let events: Vec<&str> = blocks.filter(|event| !event.is_empty()).collect();
        let (bye, refused) = events.split_last().unwrap();
        assert_eq!(refused.len(), codes.len(), "{stream}");
        for (event, code) in refused.iter().zip(codes) {
            assert!(event.starts_with("event: refused\n") && event.contains(code), "{stream}");
        }
        let (retry, data) = bye.strip_prefix("event: bye\nretry: ").unwrap().split_once("\ndata: ").unwrap();
        let data: serde_json::Value = serde_json::from_str(data).unwrap();
        assert_eq!(data["error"], codes[0], "{stream}");
        assert_eq!(data["reconnect_after_ms"].to_string(), retry, "{stream}");
        assert!((5_000..15_000).contains(&retry.parse().unwrap()), "not in a tight loop: {stream}");
    }
    until("none of them is left", || janus.stats().connections == 0).await;
    // A stream that is closed before the hook has decided also ends as a stream.
    let waiting = Http::events(addr, "hung", "key=alice").await;
    until("it is there", || janus.stats().sessions == 1).await;
    assert!(janus.disconnect(janus.connections(0, 10)[0].connection, true));
    let stream = waiting.rest().await;
    assert!(stream.starts_with("HTTP/1.1 200 ") && stream.contains("\"error\":\"disconnected\""), "{stream}");
    janus.shutdown().await;
}

/// Tells the topic `door` of each client, with the handle of the instance.
struct Doorbell(WeakJanus);

impl Hooks for Doorbell {
    async fn authenticate(&self, _: ConnectRequest) -> Result<Identity, Denied> {
        let janus = self.0.upgrade().ok_or_else(|| Denied::new("the instance is not there"))?;
        janus.publish("door", "knock").await.map_err(|error| Denied::new(error.to_string()))?;
        Ok(Identity::anonymous())
    }
}

#[tokio::test]
async fn hooks_that_are_made_with_the_handle_publish_and_do_not_keep_the_instance_running() {
    let config = Config { listen: vec![own_address()], ..Config::default() };
    let builder = Janus::builder().config(config).hooks_with(|janus| {
        assert!(janus.upgrade().is_none(), "the instance is made after its hooks");
        Doorbell(janus)
    });
    let janus = builder.start().await.unwrap();
    let mut door = janus.subscribe("door").unwrap();
    door.ready().await.unwrap();
    let _client = Connection::connect(janus.local_addrs()[0]).await;
    let heard = timeout(DEADLINE, door.next()).await.expect("a message in time");
    let Some(janus_core::Event::Message(message)) = heard else { panic!("{heard:?}") };
    assert_eq!(message.data(), "\"knock\"");
    let weak = janus.downgrade();
    janus.shutdown().await;
    drop(janus);
    until("the end of the instance", || weak.upgrade().is_none()).await;
}
