//! What identities allow, and for how long: grants by pattern, tokens that expire, topics from the start, revocations.
//! Here over the classic protocol and over event streams; `websocket/access.rs` has the modern protocol.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use janus_core::hooks::{Client as User, ConnectRequest, Denied, Hooks, Identity, Patterns, Revocation};
use janus_core::wire::classic::client::{PING, attach, auth};
use janus_core::wire::{Publication, TopicName};
use janus_core::{Config, Janus, Namespace};
use serde_json::json;

use crate::http::Http;
use crate::support::{Client, Close, own_address, publish_frame, subscribe_frame, subscribers, until};

/// Hooks that know tokens by name. Without a token, a client is who the token `""` says.
#[derive(Clone, Default)]
pub(crate) struct Tokens {
    known: Arc<Mutex<HashMap<&'static str, Identity>>>,
    pub(crate) refreshes: Arc<AtomicUsize>,
    /// How long an identity lasts from the moment of its token.
    lasting: HashMap<&'static str, Duration>,
    /// Whether authorizing hooks may be asked.
    may_ask: bool,
}

impl Tokens {
    pub(crate) fn new<const N: usize>(known: [(&'static str, Identity); N]) -> Self {
        Self { known: Arc::new(Mutex::new(known.into())), ..Self::default() }
    }

    /// As [`new`](Self::new), and a hook decides about topics: every topic but `no:…`.
    pub(crate) fn asking<const N: usize>(known: [(&'static str, Identity); N]) -> Self {
        Self { may_ask: true, ..Self::new(known) }
    }

    /// Gives the identity of a token an end, this long after each showing of the token.
    pub(crate) fn lasting(mut self, token: &'static str, time: Duration) -> Self {
        self.lasting.insert(token, time);
        self
    }

    fn identity(&self, token: &str) -> Result<Identity, Denied> {
        let known = self.known.lock().unwrap().get(token).cloned();
        let known = known.map(|identity| match self.lasting.get(token) {
            Some(time) => identity.expires(SystemTime::now() + *time),
            None => identity,
        });
        known.ok_or_else(|| match token {
            "" => Denied::no_credentials("show a token"),
            "old" => Denied::expired("an old token"),
            _ => Denied::new("unknown token"),
        })
    }

    /// Starts a server with a port of the classic protocol, and an HTTP port.
    pub(crate) async fn serve(&self, config: Config) -> (Janus, SocketAddr, SocketAddr) {
        let listen = if config.listen == Config::default().listen { vec![own_address()] } else { config.listen };
        let config = Config {
            listen,
            http_listen: vec![own_address()],
            drain_period: Duration::ZERO,
            // A short time makes the clock finer.
            stall_timeout: Duration::from_millis(200),
            ..config
        };
        let janus = Janus::builder().config(config).hooks(self.clone()).start().await.unwrap();
        let addrs = janus.local_addrs();
        (janus, addrs[0], addrs[1])
    }
}

impl Hooks for Tokens {
    async fn authenticate(&self, request: ConnectRequest) -> Result<Identity, Denied> {
        let cookie = request.request.as_deref().and_then(|request| request.header("cookie"));
        self.identity(request.auth.as_deref().or(cookie).unwrap_or_default())
    }

    async fn refresh(&self, _: &User, auth: String) -> Result<Identity, Denied> {
        self.refreshes.fetch_add(1, Ordering::Relaxed);
        self.identity(&auth)
    }

    async fn authorize_subscribe(&self, _: &User, topic: &TopicName) -> Result<(), Denied> {
        assert!(self.may_ask, "asked about {topic}");
        if topic.as_str().starts_with("no:") { Err(Denied::new("not this topic")) } else { Ok(()) }
    }

    async fn authorize_publish(&self, _: &User, topic: &TopicName, _: &Publication) -> Result<(), Denied> {
        panic!("asked about a message to {topic}")
    }
}

pub(crate) fn topic(name: &str) -> TopicName {
    TopicName::new(name, 255).unwrap()
}

pub(crate) fn patterns<const N: usize>(patterns: [&str; N]) -> Patterns {
    Patterns::new(patterns).unwrap()
}

pub(crate) fn alice() -> Identity {
    Identity::user("alice").may_subscribe(true).may_publish(false)
}

pub(crate) fn in_a_moment() -> SystemTime {
    SystemTime::now() + Duration::from_millis(700)
}

/// Connects and proves the identity with the first frame.
async fn connect(addr: SocketAddr, token: &str) -> Client {
    let mut client = Client::connect_silently(addr).await;
    client.send(auth(token)).await;
    let greeting = client.json().await;
    assert!(greeting["token"].is_string(), "{greeting}");
    client
}

#[tokio::test]
async fn patterns_decide_without_asking_a_hook() {
    let grants = alice().subscribe(patterns(["news", "chat:*"])).publish(patterns(["chat:lobby"]));
    let config = Config { listen: vec!["0.0.0.0:0".parse().unwrap()], ..Config::default() };
    let (janus, addr, _) = Tokens::new([("a", grants)]).serve(config).await;
    let mut client = connect(([127, 0, 0, 1], addr.port()).into(), "a").await;
    for topic in ["news", "chat:lobby"] {
        client.subscribe(topic).await;
    }
    for topic in ["chat", "chat:a:b", "user:bob"] {
        client.send(subscribe_frame(topic)).await;
        assert_eq!(client.error_code().await, "forbidden", "{topic}");
        assert_eq!(subscribers(&janus, topic), None);
    }
    // The grant holds even off loopback, where nobody may publish by default.
    client.send(publish_frame("chat:lobby", "1")).await;
    let seen = [client.json().await, client.json().await];
    assert!(seen.iter().any(|frame| frame["published"].is_object()), "{seen:?}");
    client.send(publish_frame("news", "1")).await;
    assert_eq!(client.error_code().await, "forbidden");
}

#[tokio::test]
async fn a_classic_client_proves_its_identity_with_its_first_frame() {
    let (janus, addr, _) = Tokens::new([("a", alice())]).serve(Config::default()).await;
    let mut client = connect(addr, "a").await;
    client.subscribe("news").await;
    assert_eq!(janus.connections(0, 1)[0].user, "alice");
    let mut stranger = Client::connect_silently(addr).await;
    stranger.send(subscribe_frame("news")).await;
    assert_eq!(stranger.error_code().await, "unauthorized");
    assert_eq!(stranger.close().await, Close::Fin);
    let mut liar = Client::connect_silently(addr).await;
    liar.send(auth("?")).await;
    assert_eq!(liar.error_code().await, "unauthorized");
    let mut late = Client::connect_silently(addr).await;
    late.send(auth("old")).await;
    assert_eq!(late.error_code().await, "token_expired");
}

#[tokio::test]
async fn a_classic_client_has_one_frame_for_its_proof() {
    let (_janus, addr, _) = Tokens::new([]).serve(Config::default()).await;
    let mut client = Client::connect_silently(addr).await;
    client.send(auth("")).await;
    assert_eq!(client.error_code().await, "unauthorized");
    assert_eq!(client.close().await, Close::Fin);
}

#[tokio::test]
async fn a_classic_client_that_sends_no_proof_is_refused_in_time() {
    let config = Config { frame_timeout: Duration::from_millis(200), ..Config::default() };
    let (_janus, addr, _) = Tokens::new([]).serve(config).await;
    let mut silent = Client::connect_silently(addr).await;
    assert_eq!(silent.error_code().await, "unauthorized");
    assert_eq!(silent.close().await, Close::Fin);
}

#[tokio::test]
async fn an_anonymous_classic_client_becomes_a_user_with_its_first_frame() {
    let nobody = Identity::anonymous().may_subscribe(false);
    let (janus, addr, _) =
        Tokens::new([("", nobody), ("a", alice()), ("b", Identity::user("bob"))]).serve(Config::default()).await;
    let mut client = Client::connect(addr).await;
    client.send(auth("a")).await;
    assert_eq!(client.json().await["refreshed"], json!({}));
    assert_eq!(janus.connections(0, 1)[0].user, "alice");
    client.subscribe("news").await;
    client.send(auth("b")).await;
    assert_eq!(client.error_code().await, "forbidden", "another user");
    let mut client = Client::connect(addr).await;
    client.send(auth("?")).await;
    assert_eq!(client.error_code().await, "unauthorized");
    assert_eq!(client.close().await, Close::Fin);
}

#[tokio::test]
async fn a_classic_client_outlives_its_token_with_a_new_one() {
    let tokens = Tokens::new([("a", alice().expires(in_a_moment())), ("b", alice())]);
    let (_janus, addr, _) = tokens.serve(Config { token_grace: Duration::ZERO, ..Config::default() }).await;
    let mut other = Client::connect_silently(addr).await;
    other.send(auth("a")).await;
    assert!(other.json().await["expires_ms"].as_u64().unwrap() <= 700);
    let mut client = connect(addr, "a").await;
    client.send(auth("b")).await;
    assert_eq!(client.json().await["refreshed"], json!({}));
    assert_eq!(other.error_code().await, "token_expired");
    assert_eq!(other.close().await, Close::Fin);
    client.subscribe("news").await;
}

#[tokio::test]
async fn a_session_continues_with_the_grants_of_the_new_token() {
    let before = alice().subscribe(patterns(["a", "b"]));
    let after = alice().subscribe(patterns(["b", "c"]));
    let (janus, addr, _) = Tokens::new([("1", before), ("2", after)]).serve(Config::default()).await;
    let mut client = Client::connect_silently(addr).await;
    client.send(auth("1")).await;
    let session = client.json().await["token"].as_str().unwrap().to_owned();
    client.subscribe("a").await;
    client.subscribe("b").await;
    drop(client);
    until("the client is gone", || janus.stats().connections == 0).await;
    let mut client = connect(addr, "2").await;
    client.send(attach(&session, [("a", 0), ("b", 0), ("c", 0)])).await;
    let attached = client.json().await;
    assert_eq!(attached["attached"], json!({"b": {"resumed": true, "missed": 0}, "c": {"resumed": false}}));
    assert_eq!(client.error_code().await, "forbidden");
    assert_eq!(subscribers(&janus, "a"), Some(0));
}

#[tokio::test]
async fn a_classic_client_gets_its_topics_and_resumes_none_twice() {
    let identity = alice().may_subscribe(false).topics([topic("inbox"), topic("news")]);
    let (janus, addr, _) = Tokens::new([("a", identity)]).serve(Config::default()).await;
    let mut client = Client::connect_silently(addr).await;
    client.send(auth("a")).await;
    let session = client.json().await["token"].as_str().unwrap().to_owned();
    for topic in ["inbox", "news"] {
        assert_eq!(client.json().await["subscribed"], json!({"topic": topic}));
    }
    janus.publish("inbox", "first").await.unwrap();
    assert_eq!(client.json().await["data"], "first");
    drop(client);
    until("the client is gone", || janus.stats().connections == 0).await;
    janus.publish("inbox", "second").await.unwrap();

    let mut client = Client::connect_silently(addr).await;
    client.send([auth("a"), attach(&session, [("inbox", 1)])].concat()).await;
    assert!(client.json().await["token"].is_string());
    let mut frames = vec![client.json().await];
    if frames[0]["subscribed"].is_object() {
        // The attach came after the server had begun; only then may topics be named before.
        frames.clear();
        while frames.last().is_none_or(|frame: &serde_json::Value| frame["attached"].is_null()) {
            frames.push(client.json().await);
        }
    }
    let attached = &frames.last().unwrap()["attached"];
    assert_eq!(attached["inbox"], json!({"resumed": true, "missed": 1}), "{frames:?}");
    assert_eq!(client.json().await["data"], "second");
    client.send(PING).await;
    until("each topic has one subscriber", || {
        ["inbox", "news"].iter().all(|topic| subscribers(&janus, topic) == Some(1))
    })
    .await;
    janus.publish("inbox", "third").await.unwrap();
    loop {
        let frame = client.json().await;
        if frame["subscribed"].is_null() {
            assert_eq!(frame["data"], "third", "once");
            break;
        }
    }
}

#[tokio::test]
async fn an_event_stream_has_the_topics_of_its_identity_and_resumes_them() {
    let identity = alice().topics([topic("inbox")]);
    let (janus, _, addr) = Tokens::new([("a", identity)]).serve(Config::default()).await;
    let mut stream = Http::events(addr, "topic=news", "Cookie: a\r\n").await;
    for topic in ["news", "inbox"] {
        assert_eq!(stream.block().await.data.unwrap()["topic"], topic);
    }
    janus.publish("inbox", &1).await.unwrap();
    let last = stream.block().await;
    assert_eq!(last.data.unwrap()["data"], 1);
    drop(stream);
    until("the client is gone", || subscribers(&janus, "inbox") == Some(0)).await;
    janus.publish("news", &2).await.unwrap();
    janus.publish("inbox", &3).await.unwrap();
    let headers = format!("Cookie: a\r\nLast-Event-ID: {}\r\n", last.id.unwrap());
    let mut stream = Http::events(addr, "topic=news", &headers).await;
    for _ in 0..2 {
        let subscribed = stream.block().await;
        assert_eq!(
            (&subscribed.data.as_ref().unwrap()["resumed"], subscribed.event.as_deref()),
            (&json!(true), Some("subscribed"))
        );
    }
    for data in [2, 3] {
        assert_eq!(stream.block().await.data.unwrap()["data"], data);
    }
    // Even where the request names the topic as well.
    let mut stream = Http::events(addr, "topic=inbox", "Cookie: a\r\n").await;
    assert_eq!(stream.block().await.data.unwrap()["topic"], "inbox");
    janus.publish("inbox", &4).await.unwrap();
    assert_eq!(stream.block().await.data.unwrap()["data"], 4);
}

#[tokio::test]
async fn an_event_stream_ends_with_its_token() {
    let tokens = Tokens::new([("a", alice().expires(in_a_moment()))]);
    let (janus, _, addr) = tokens.serve(Config::default()).await;
    let mut stream = Http::events(addr, "topic=news", "Cookie: a\r\n").await;
    assert_eq!(stream.block().await.event.as_deref(), Some("subscribed"));
    let bye = stream.block().await;
    assert_eq!((bye.event.as_deref(), &bye.data.unwrap()["error"]), (Some("bye"), &json!("token_expired")));
    assert_eq!(janus.stats().tokens_expired, 1);
    // A request with the same token is refused with a status.
    let request = format!("GET /events?topic=news HTTP/1.1\r\nHost: {addr}\r\nCookie: a\r\n\r\n");
    let refused = Http::send(addr, request).await.read_to_end().await;
    assert!(refused.starts_with("HTTP/1.1 401 ") && refused.contains("token_expired"), "{refused}");
}

#[tokio::test]
async fn a_public_namespace_is_open_to_clients_without_the_grant() {
    let public = Namespace { anonymous_subscribe: true, ..Namespace::default() };
    let config = Config { namespaces: [("public".to_owned(), public)].into(), ..Config::default() };
    let nobody = Identity::anonymous().may_subscribe(false).may_publish(false);
    let user = alice().subscribe(patterns(["mine"]));
    let (_janus, addr, _) = Tokens::new([("", nobody), ("a", user)]).serve(config).await;
    let mut nobody = Client::connect(addr).await;
    nobody.subscribe("public:news").await;
    let mut user = Client::connect(addr).await;
    user.send(auth("a")).await;
    assert!(user.json().await["refreshed"].is_object());
    user.subscribe("public:news").await;
    for client in [&mut nobody, &mut user] {
        client.send(subscribe_frame("private:news")).await;
        assert_eq!(client.error_code().await, "forbidden");
        client.send(publish_frame("public:news", "1")).await;
        assert_eq!(client.error_code().await, "forbidden");
    }
}

#[tokio::test]
async fn a_revoked_user_is_closed_and_stays_away() {
    let tokens =
        Tokens::new([("a", alice().token_id("1")), ("a2", alice().token_id("2")), ("b", Identity::user("bob"))]);
    let (janus, addr, _) = tokens.serve(Config { max_revocations: 2, ..Config::default() }).await;
    let (mut first, mut second, _bob) = (connect(addr, "a").await, connect(addr, "a2").await, connect(addr, "b").await);
    let end = SystemTime::now() + Duration::from_secs(60);
    assert_eq!(janus.revoke(Revocation::token("1"), end), Ok(1));
    assert_eq!(first.error_code().await, "unauthorized");
    assert_eq!(first.close().await, Close::Fin);
    drop(first);
    until("the client is gone", || janus.stats().connections == 2).await;
    second.send(auth("a")).await;
    assert_eq!(second.error_code().await, "forbidden", "a revoked token refreshes nothing");
    assert_eq!(janus.revoke(Revocation::user("alice"), end), Ok(1));
    assert_eq!(second.error_code().await, "unauthorized");
    let mut again = Client::connect_silently(addr).await;
    again.send(auth("a2")).await;
    assert_eq!(again.error_code().await, "unauthorized");
    connect(addr, "b").await;
    let full = janus.revoke(Revocation::user("carol"), end).unwrap_err();
    assert_eq!(
        full.to_string(),
        "the limit of 2 revocations in force is reached: raise max_revocations, or change the keys of tokens"
    );
}
