//! Presence over real sockets: the members of a topic, arrivals and departures, and the clients that may know of them; on one
//! node and on several.

use std::net::SocketAddr;
use std::time::Duration;

use futures_util::FutureExt as _;
use janus_core::engine::memory::Memory;
use janus_core::hooks::Identity;
use janus_core::wire::classic::client::auth;
use janus_core::{Config, Janus, Namespace, Presence, PresenceError, PresenceInfo};
use serde_json::{Value, json};

use crate::access::{Tokens, alice, patterns, topic};
use crate::http::Http;
use crate::support::{Client, own_address, subscribers, until};
use crate::websocket::Socket;

mod requests;

const HOUR: Duration = Duration::from_secs(3_600);

fn user(name: &str) -> Identity {
    Identity::user(name).may_subscribe(true)
}

fn tokens() -> Tokens {
    let bob = user("bob").info(json!({"name": "Bob", "age": 7})).claims(json!({"secret": 1}));
    let anonymous = Identity::anonymous().may_subscribe(true);
    Tokens::new([("", anonymous), ("a", alice()), ("b", bob), ("c", user("carol")), ("d", user("dave"))])
}

/// Topics whose users are listed, and told of at once.
fn config(presence: Presence) -> Config {
    Config {
        default_namespace: Namespace { presence, ..Namespace::default() },
        presence_linger: Duration::ZERO,
        presence_interval: Duration::from_millis(10),
        ..Config::default()
    }
}

async fn serve(config: Config) -> (Janus, SocketAddr, SocketAddr) {
    tokens().serve(config).await
}

/// A client that is served with a token.
async fn client(addr: SocketAddr, token: &str) -> Socket {
    let mut socket = Socket::upgraded(addr).await;
    let welcome = socket.ask(json!({"type": "hello", "auth": token})).await;
    assert_eq!(welcome["type"], "welcome", "{welcome}");
    socket
}

/// A client that is subscribed to the topic.
async fn subscriber(addr: SocketAddr, token: &str, topic: &str) -> Socket {
    let mut socket = client(addr, token).await;
    let answer = socket.ask(json!({"type": "subscribe", "topic": topic})).await;
    assert_eq!(answer["type"], "subscribed", "{answer}");
    // By the next answer the server has noted the member.
    assert_eq!(socket.ask(json!({"type": "ping"})).await["type"], "pong");
    socket
}

/// A client that watches the topic, and the state with which the client begins.
async fn watcher(addr: SocketAddr, token: &str, topic: &str) -> (Socket, Value) {
    let mut socket = client(addr, token).await;
    let answer = socket.ask(json!({"type": "subscribe", "id": 1, "topic": topic, "presence": true})).await;
    assert_eq!(answer["type"], "subscribed", "{answer}");
    let state = socket.json().await;
    (socket, state)
}

fn frame(kind: &str, topic: &str, count: usize, members: &Value) -> Value {
    json!({"type": kind, "topic": topic, "count": count, "members": members})
}

async fn ask(socket: &mut Socket, topic: &str) -> Value {
    socket.ask(json!({"type": "presence", "id": 9, "topic": topic})).await
}

#[tokio::test]
async fn a_client_that_watches_gets_the_list_and_then_each_change() {
    let (janus, _, addr) = serve(config(Presence::Members)).await;
    let bob = json!([{"user": "bob", "info": {"name": "Bob", "age": 7}}]);
    let first = subscriber(addr, "b", "news").await;
    let (mut watcher, state) = watcher(addr, "a", "news").await;
    assert_eq!(state, frame("presence", "news", 2, &json!([{"user": "alice"}, bob[0]])));
    let carol = subscriber(addr, "c", "news").await;
    assert_eq!(watcher.json().await, frame("joined", "news", 3, &json!([{"user": "carol"}])));
    drop(first);
    assert_eq!(watcher.json().await, frame("left", "news", 2, &json!([{"user": "bob"}])));
    assert_eq!(ask(&mut watcher, "news").await["members"], json!([{"user": "alice"}, {"user": "carol"}]));
    // Messages come between, and have their numbers.
    janus.publish("news", &1).await.unwrap();
    assert_eq!(watcher.json().await["seq"], 1);
    let info = janus.presence("news").await.unwrap();
    let names: Vec<_> = info.members.unwrap().iter().map(|member| member.user.to_string()).collect();
    assert_eq!((info.count, names), (2, vec!["alice".to_owned(), "carol".to_owned()]));
    drop(carol);
    assert_eq!(watcher.json().await["type"], "left");
    watcher.say(json!({"type": "unsubscribe", "topic": "news"})).await;
    assert_eq!(watcher.json().await["type"], "unsubscribed");
    let _bob = subscriber(addr, "b", "news").await;
    until("bob alone", || {
        let members = janus.presence("news").now_or_never().unwrap().unwrap().members.unwrap();
        members.len() == 1 && &*members[0].user == "bob"
    })
    .await;
    assert_eq!(watcher.ask(json!({"type": "ping"})).await["type"], "pong", "the client watches no more");
}

#[tokio::test]
async fn a_user_with_two_connections_is_one_member() {
    let (_janus, _, addr) = serve(config(Presence::Members)).await;
    let (mut watcher, _) = watcher(addr, "a", "news").await;
    let [tab, other] = [subscriber(addr, "c", "news").await, subscriber(addr, "c", "news").await];
    assert_eq!(watcher.json().await, frame("joined", "news", 2, &json!([{"user": "carol"}])));
    drop(tab);
    let _dave = subscriber(addr, "d", "news").await;
    assert_eq!(watcher.json().await, frame("joined", "news", 3, &json!([{"user": "dave"}])), "carol has not left");
    drop(other);
    assert_eq!(watcher.json().await, frame("left", "news", 2, &json!([{"user": "carol"}])));
}

#[tokio::test]
async fn a_user_that_returns_within_the_linger_is_no_news() {
    let (janus, _, addr) = serve(Config { presence_linger: HOUR, ..config(Presence::Members) }).await;
    let (mut watcher, _) = watcher(addr, "a", "news").await;
    let carol = subscriber(addr, "c", "news").await;
    assert_eq!(watcher.json().await["type"], "joined");
    drop(carol);
    until("the connection to be gone", || subscribers(&janus, "news") == Some(1)).await;
    assert_eq!(janus.presence("news").await.unwrap().count, 2, "she lingers");
    let _carol = subscriber(addr, "c", "news").await;
    let _dave = subscriber(addr, "d", "news").await;
    assert_eq!(watcher.json().await, frame("joined", "news", 3, &json!([{"user": "dave"}])));
}

#[tokio::test]
async fn a_user_that_stays_away_leaves_after_the_linger() {
    let linger = Duration::from_millis(300);
    let (janus, _, addr) = serve(Config { presence_linger: linger, ..config(Presence::Members) }).await;
    let (mut watcher, _) = watcher(addr, "a", "news").await;
    let carol = subscriber(addr, "c", "news").await;
    assert_eq!(watcher.json().await["type"], "joined");
    drop(carol);
    until("the connection to be gone", || subscribers(&janus, "news") == Some(1)).await;
    let since = tokio::time::Instant::now();
    assert_eq!(watcher.json().await, frame("left", "news", 1, &json!([{"user": "carol"}])));
    assert!(since.elapsed() > linger / 2, "{:?}", since.elapsed());
}

#[tokio::test]
async fn a_client_that_resumes_its_session_has_not_left() {
    let (janus, _, addr) = serve(Config { presence_linger: HOUR, ..config(Presence::Members) }).await;
    let (mut watcher, _) = watcher(addr, "a", "news").await;
    let mut carol = Socket::upgraded(addr).await;
    let session = carol.ask(json!({"type": "hello", "auth": "c"})).await["session"].clone();
    let position = carol.ask(json!({"type": "subscribe", "topic": "news"})).await;
    assert_eq!(watcher.json().await["type"], "joined");
    drop(carol);
    until("the connection to be gone", || subscribers(&janus, "news") == Some(1)).await;
    janus.publish("news", &1).await.unwrap();
    assert_eq!(watcher.json().await["seq"], 1);
    let mut carol = Socket::upgraded(addr).await;
    let welcome = carol.ask(json!({"type": "hello", "auth": "c", "session": session})).await;
    assert_eq!(welcome["resumed"], true);
    let since = json!({"epoch": position["epoch"], "seq": position["seq"]});
    let subscribe = json!({"type": "subscribe", "topic": "news", "since": since, "presence": true});
    assert_eq!(carol.ask(subscribe).await["missed"], 1);
    let (mut state, mut message) = (carol.json().await, carol.json().await);
    if state["type"] == "message" {
        std::mem::swap(&mut state, &mut message);
    }
    assert_eq!(state, frame("presence", "news", 2, &json!([{"user": "alice"}, {"user": "carol"}])));
    assert_eq!(message["seq"], 1);
    let _dave = subscriber(addr, "d", "news").await;
    assert_eq!(watcher.json().await["members"], json!([{"user": "dave"}]), "nothing of carol in between");
}

#[tokio::test]
async fn connections_without_a_user_count_and_have_no_name() {
    let (_janus, classic, addr) = serve(config(Presence::Members)).await;
    let (mut watcher, _) = watcher(addr, "", "news").await;
    let unknown = subscriber(addr, "", "news").await;
    assert_eq!(watcher.json().await, frame("joined", "news", 2, &json!([])));
    drop(unknown);
    assert_eq!(watcher.json().await, frame("left", "news", 1, &json!([])));
    let mut old = Client::connect(classic).await;
    old.send(auth("d")).await;
    assert!(old.json().await["refreshed"].is_object());
    old.subscribe("news").await;
    assert_eq!(watcher.json().await, frame("joined", "news", 2, &json!([{"user": "dave"}])), "of the classic protocol");
}

#[tokio::test]
async fn a_topic_that_counts_tells_numbers_alone() {
    let (janus, _, addr) = serve(config(Presence::Count)).await;
    let count = |count: usize| json!({"type": "presence", "topic": "news", "count": count});
    let (mut watcher, state) = watcher(addr, "a", "news").await;
    assert_eq!(state, count(1));
    let bob = subscriber(addr, "b", "news").await;
    assert_eq!(watcher.json().await, count(2));
    drop(bob);
    assert_eq!(watcher.json().await, count(1));
    assert_eq!(ask(&mut watcher, "news").await, json!({"type": "presence", "id": 9, "topic": "news", "count": 1}));
    assert_eq!(janus.presence("news").await.unwrap().members, None);
}

#[tokio::test]
async fn beyond_the_limit_the_number_is_told_and_the_list_returns_below_it() {
    let (_janus, _, addr) = serve(Config { max_presence_members: 2, ..config(Presence::Members) }).await;
    let (mut watcher, _) = watcher(addr, "a", "news").await;
    let bob = subscriber(addr, "b", "news").await;
    assert_eq!(watcher.json().await["type"], "joined");
    let _carol = subscriber(addr, "c", "news").await;
    assert_eq!(watcher.json().await, json!({"type": "presence", "topic": "news", "count": 3}));
    assert_eq!(ask(&mut watcher, "news").await.get("members"), None);
    drop(bob);
    let list = json!([{"user": "alice"}, {"user": "carol"}]);
    assert_eq!(watcher.json().await, frame("presence", "news", 2, &list));
}

#[tokio::test]
async fn a_topic_without_presence_says_so() {
    let mut config = config(Presence::Off);
    let chat = Namespace { presence: Presence::Members, ..Namespace::default() };
    config.namespaces = [("chat".to_owned(), chat)].into();
    let (janus, _, addr) = serve(config).await;
    let mut client = client(addr, "a").await;
    let error = ask(&mut client, "news").await;
    assert_eq!((&error["code"], &error["error"], &error["id"]), (&json!(4421), &json!("no_presence"), &json!(9)));
    let error = client.ask(json!({"type": "subscribe", "topic": "news", "presence": true})).await;
    assert_eq!(error["error"], "no_presence");
    assert_eq!(subscribers(&janus, "news"), None, "the request is refused as a whole");
    assert_eq!(janus.presence("news").await, Err(PresenceError::Off));
    assert!(matches!(janus.presence("").await, Err(PresenceError::Invalid(_))));
    assert_eq!(
        ask(&mut client, "chat:x").await,
        json!({"type":"presence","id":9,"topic":"chat:x","count":0,"members":[]})
    );
    let wrong = client.ask(json!({"type": "subscribe", "topic": "chat:x", "presence": 1})).await;
    assert_eq!(wrong["error"], "bad_request");
    let request = format!("GET /events?topic=news&presence=true HTTP/1.1\r\nHost: {addr}\r\nCookie: a\r\n\r\n");
    let answer = Http::send(addr, request).await.read_to_end().await;
    assert!(answer.starts_with("HTTP/1.1 404 ") && answer.contains("\"no_presence\""), "{answer}");
}

#[tokio::test]
async fn only_a_client_that_may_subscribe_may_ask() {
    let asked = Identity::user("asked").subscribe(janus_core::hooks::Grant::Ask);
    let known = [("few", alice().subscribe(patterns(["news"]))), ("asked", asked)];
    let (_janus, _, addr) = Tokens::asking(known).serve(config(Presence::Members)).await;
    let mut few = client(addr, "few").await;
    assert_eq!(ask(&mut few, "news").await["count"], 0, "without being subscribed");
    assert_eq!(ask(&mut few, "chat").await["error"], "forbidden");
    let mut asked = client(addr, "asked").await;
    assert_eq!(ask(&mut asked, "yes:1").await["count"], 0);
    let refused = ask(&mut asked, "no:1").await;
    assert_eq!(
        (&refused["error"], &refused["id"], &refused["topic"]),
        (&json!("forbidden"), &json!(9), &json!("no:1"))
    );
}

#[tokio::test]
async fn a_refresh_with_another_info_is_told() {
    let with = |info: Value| user("bob").info(info);
    let tokens = Tokens::new([("a", alice()), ("1", with(json!({"is": "here"}))), ("2", with(json!({"is": "busy"})))]);
    let (_janus, _, addr) = tokens.serve(config(Presence::Members)).await;
    let mut bob = subscriber(addr, "1", "news").await;
    let (mut watcher, _) = watcher(addr, "a", "news").await;
    assert_eq!(bob.ask(json!({"type": "refresh", "auth": "2"})).await["type"], "refreshed");
    let busy = json!([{"user": "bob", "info": {"is": "busy"}}]);
    assert_eq!(watcher.json().await, frame("joined", "news", 2, &busy));
}

#[tokio::test]
async fn the_info_of_a_closed_tab_gives_way_to_that_of_a_tab_that_is_open() {
    let with = |info: Value| user("bob").info(info);
    let tokens = Tokens::new([("a", alice()), ("1", with(json!({"is": "here"}))), ("2", with(json!({"is": "busy"})))]);
    let (janus, _, addr) = tokens.serve(config(Presence::Members)).await;
    let _first = subscriber(addr, "1", "news").await;
    let second = subscriber(addr, "2", "news").await;
    let (mut watcher, state) = watcher(addr, "a", "news").await;
    assert_eq!(state["members"][1]["info"], json!({"is": "busy"}));
    drop(second);
    let here = json!([{"user": "bob", "info": {"is": "here"}}]);
    assert_eq!(watcher.json().await, frame("joined", "news", 2, &here));
    let info = janus.presence("news").await.unwrap().members.unwrap()[1].info.clone();
    assert_eq!(info.as_deref(), Some(r#"{"is":"here"}"#));
}

#[tokio::test]
async fn an_event_stream_of_many_topics_takes_long_lists_one_by_one() {
    const TOPICS: usize = 60;
    let bob = user("bob").info(json!("x".repeat(15_000)));
    let tokens = Tokens::new([("a", alice()), ("b", bob)]);
    let config = Config {
        max_queue_bytes: 64 * 1_024,
        max_presence_member_bytes: 16 * 1_024,
        send_buffer_bytes: 16 * 1_024,
        ..config(Presence::Members)
    };
    let (janus, _, addr) = tokens.serve(config).await;
    let topics: Vec<_> = (0..TOPICS).map(|topic| format!("topic{topic}")).collect();
    let mut member = client(addr, "b").await;
    for topic in &topics {
        assert_eq!(member.ask(json!({"type": "subscribe", "topic": topic})).await["type"], "subscribed");
    }
    let query: String = topics.iter().map(|topic| format!("topic={topic}&")).collect();
    let mut events = Http::events(addr, &format!("{query}presence=true"), "Cookie: a\r\n").await;
    // The client reads nothing for a while, and the lists wait where no memory of the client's queue is needed.
    until("lists that wait", || janus.stats().presence_deferred > 0).await;
    let queued = janus.stats().queue_bytes;
    assert!(queued < 64 * 1_024, "{queued} bytes wait");
    let (mut subscribed, mut listed) = (Vec::new(), Vec::new());
    while listed.len() < TOPICS {
        let block = events.block().await;
        let topic = block.data.unwrap()["topic"].as_str().unwrap().to_owned();
        match block.event.as_deref() {
            Some("subscribed") => subscribed.push(topic),
            Some("presence") => {
                assert!(subscribed.contains(&topic) && !listed.contains(&topic), "{topic}");
                listed.push(topic);
            }
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn the_topics_of_the_program_have_the_number_of_members() {
    let mut config = config(Presence::Off);
    let chat = Namespace { presence: Presence::Count, ..Namespace::default() };
    config.namespaces = [("chat".to_owned(), chat)].into();
    let (janus, _, addr) = serve(config).await;
    let _clients = [
        subscriber(addr, "a", "chat:1").await,
        subscriber(addr, "a", "chat:1").await,
        subscriber(addr, "", "chat:1").await,
        subscriber(addr, "a", "news").await,
    ];
    let members = |topic: &str| janus.topic_info(topic).unwrap().members;
    assert_eq!((members("chat:1"), members("news")), (Some(2), None));
}

#[tokio::test]
async fn a_long_info_is_left_out_and_a_long_name_only_counts() {
    let long = "x".repeat(100);
    let bob = user("bob").info(json!(long));
    let tokens = Tokens::new([("a", alice()), ("b", bob), ("long", user(&long))]);
    let (_janus, _, addr) = tokens.serve(Config { max_presence_member_bytes: 64, ..config(Presence::Members) }).await;
    let _long = [subscriber(addr, "b", "news").await, subscriber(addr, "long", "news").await];
    let (_watcher, state) = watcher(addr, "a", "news").await;
    assert_eq!(state, frame("presence", "news", 3, &json!([{"user": "alice"}, {"user": "bob"}])));
}

#[tokio::test]
async fn an_event_stream_has_named_events_without_ids() {
    let (janus, _, addr) = serve(config(Presence::Members)).await;
    let mut events = Http::events(addr, "topic=news&presence=true", "Cookie: a\r\n").await;
    let subscribed = events.block().await;
    assert_eq!(subscribed.event.as_deref(), Some("subscribed"));
    let next = async |events: &mut Http| {
        let block = events.block().await;
        assert_eq!(block.id, None, "{block:?}");
        (block.event.unwrap(), block.data.unwrap())
    };
    let of = |kind: &str, count: usize, names: Value| {
        (kind.to_owned(), json!({"topic": "news", "count": count, "members": names}))
    };
    assert_eq!(next(&mut events).await, of("presence", 1, json!([{"user": "alice"}])));
    let carol = subscriber(addr, "c", "news").await;
    assert_eq!(next(&mut events).await, of("joined", 2, json!([{"user": "carol"}])));
    janus.publish("news", &1).await.unwrap();
    assert_eq!(events.message().await.0, 1);
    drop(carol);
    assert_eq!(next(&mut events).await, of("left", 1, json!([{"user": "carol"}])));
    let mut plain = Http::events(addr, "topic=news", "Cookie: a\r\n").await;
    plain.id().await;
    janus.publish("news", &2).await.unwrap();
    assert_eq!(plain.message().await.0, 2, "a stream that does not ask has messages alone");
    let bad = format!("GET /events?topic=news&presence=yes HTTP/1.1\r\nHost: {addr}\r\n\r\n");
    assert!(Http::send(addr, bad).await.read_to_end().await.starts_with("HTTP/1.1 400 "));
}

#[tokio::test]
async fn a_drain_ends_clients_that_watch() {
    let (janus, _, addr) = serve(config(Presence::Members)).await;
    let (mut watcher, _) = watcher(addr, "a", "news").await;
    let _carol = subscriber(addr, "c", "news").await;
    assert_eq!(watcher.json().await["type"], "joined");
    let (report, last) = tokio::join!(janus.shutdown(), async {
        loop {
            let frame = watcher.json().await;
            if frame["type"] == "bye" {
                return frame;
            }
        }
    });
    assert_eq!((last["error"].as_str(), report.cut_off), (Some("server_draining"), 0));
}

#[tokio::test]
async fn topics_of_the_identity_make_a_member_too() {
    let known = [("a", alice()), ("b", user("bob").topics([topic("news")]))];
    let (janus, _, addr) = Tokens::new(known).serve(config(Presence::Members)).await;
    let (mut watcher, _) = watcher(addr, "a", "news").await;
    let mut bob = client(addr, "b").await;
    assert_eq!(bob.json().await["type"], "subscribed");
    assert_eq!(watcher.json().await, frame("joined", "news", 2, &json!([{"user": "bob"}])));
    // The request of the client takes the place of the server's subscription, which is no news.
    let answer = bob.ask(json!({"type": "subscribe", "topic": "news", "presence": true})).await;
    assert_eq!(answer["type"], "subscribed");
    assert_eq!(bob.json().await["count"], 2);
    until("one subscription of each", || subscribers(&janus, "news") == Some(2)).await;
    let _carol = subscriber(addr, "a", "news").await;
    drop(bob);
    assert_eq!(watcher.json().await, frame("left", "news", 1, &json!([{"user": "bob"}])));
}

/// Nodes of a cluster in this process.
async fn nodes<const N: usize>(change: impl Fn(&mut Config)) -> [(Janus, SocketAddr); N] {
    let engine = Memory::default();
    let mut nodes = Vec::new();
    for _ in 0..N {
        let mut config = Config {
            listen: Vec::new(),
            http_listen: vec![own_address()],
            drain_period: Duration::ZERO,
            // The words of a dead node end after 2.5 times this.
            engine_report_interval: Duration::from_secs(1),
            ..config(Presence::Members)
        };
        change(&mut config);
        let janus = Janus::builder().config(config).hooks(tokens()).engine(engine.clone()).start().await.unwrap();
        let addr = janus.local_addrs()[0];
        nodes.push((janus, addr));
    }
    nodes.try_into().unwrap()
}

/// Reads changes until these users are listed, beginning with a list.
async fn until_listed(watcher: &mut Socket, state: &mut Vec<String>, users: &[&str]) {
    while state != users {
        let frame = watcher.json().await;
        let names =
            frame["members"].as_array().unwrap().iter().map(|member| member["user"].as_str().unwrap().to_owned());
        match frame["type"].as_str() {
            Some("joined") => state.extend(names),
            Some("left") => {
                let gone: Vec<_> = names.collect();
                state.retain(|name| !gone.contains(name));
            }
            _ => panic!("{frame}"),
        }
        state.sort_unstable();
        state.dedup();
    }
}

fn names(info: &PresenceInfo) -> Vec<&str> {
    info.members.iter().flatten().map(|member| &*member.user).collect()
}

#[tokio::test]
async fn the_members_of_all_nodes_are_one_list() {
    let [(one, left), (two, right), (three, _)] = nodes(|_| {}).await;
    let (mut watcher, state) = watcher(left, "a", "news").await;
    assert_eq!(state["members"], json!([{"user": "alice"}]));
    let mut listed = vec!["alice".to_owned()];
    let mut bob = subscriber(right, "b", "news").await;
    until_listed(&mut watcher, &mut listed, &["alice", "bob"]).await;
    // A node without the topic asks the engine.
    assert_eq!(names(&three.presence("news").await.unwrap()), ["alice", "bob"]);
    assert_eq!(
        three.presence("news").await.unwrap().members.unwrap()[1].info.as_deref(),
        Some(r#"{"age":7,"name":"Bob"}"#)
    );
    assert_eq!(names(&one.presence("news").await.unwrap()), ["alice", "bob"]);
    // What the other node says comes a moment later.
    let count = |janus: &Janus| janus.presence("news").now_or_never().map(|info| info.unwrap().count);
    until("the node of bob to know of alice", || count(&two) == Some(2)).await;
    let seen = ask(&mut bob, "news").await;
    assert_eq!((&seen["count"], seen["members"].as_array().unwrap().len()), (&json!(2), 2));
    let tab = subscriber(right, "a", "news").await;
    until("both connections", || two.topic_info("news").is_some_and(|topic| topic.subscribers == 2)).await;
    assert_eq!(count(&two), Some(2), "one user on two nodes is one member");
    drop(tab);
    drop(bob);
    until_listed(&mut watcher, &mut listed, &["alice"]).await;
    for janus in [one, two, three] {
        janus.shutdown().await;
    }
}

#[tokio::test]
async fn a_dead_node_takes_its_members_along() {
    let [(one, left), (two, right)] = nodes(|_| {}).await;
    let (mut watcher, _) = watcher(left, "a", "news").await;
    let mut listed = vec!["alice".to_owned()];
    let _bob = subscriber(right, "b", "news").await;
    let _unknown = subscriber(right, "", "news").await;
    until_listed(&mut watcher, &mut listed, &["alice", "bob"]).await;
    // Without a drain, as if killed.
    drop(two);
    until_listed(&mut watcher, &mut listed, &["alice"]).await;
    until("the unknown client to be gone", || {
        one.presence("news").now_or_never().is_some_and(|info| info.unwrap().count == 1)
    })
    .await;
    one.shutdown().await;
}

#[tokio::test]
async fn a_user_that_comes_to_another_node_within_the_linger_has_not_left() {
    let [(one, left), (two, right)] = nodes(|config| config.presence_linger = HOUR).await;
    let (mut watcher, _) = watcher(left, "a", "news").await;
    let mut listed = vec!["alice".to_owned()];
    let bob = subscriber(right, "b", "news").await;
    until_listed(&mut watcher, &mut listed, &["alice", "bob"]).await;
    drop(bob);
    let _bob = subscriber(left, "b", "news").await;
    let _carol = subscriber(right, "c", "news").await;
    let frame = watcher.json().await;
    assert_eq!(frame, json!({"type":"joined","topic":"news","count":3,"members":[{"user":"carol"}]}));
    drop((one, two));
}

#[tokio::test]
async fn a_namespace_outside_of_the_cluster_has_the_members_of_its_node() {
    let local = |config: &mut Config| config.default_namespace.clustered = false;
    let [(one, left), (two, right)] = nodes(local).await;
    let _clients = [subscriber(left, "a", "news").await, subscriber(right, "b", "news").await];
    assert_eq!(names(&one.presence("news").await.unwrap()), ["alice"]);
    assert_eq!(names(&two.presence("news").await.unwrap()), ["bob"]);
}

#[tokio::test]
async fn one_node_with_too_many_users_makes_the_topic_counted_on_all() {
    let [(one, left), (two, right)] = nodes(|config| config.max_presence_members = 2).await;
    let (mut watcher, _) = watcher(left, "a", "news").await;
    let _right = [
        subscriber(right, "b", "news").await,
        subscriber(right, "c", "news").await,
        subscriber(right, "d", "news").await,
    ];
    loop {
        let frame = watcher.json().await;
        if frame == json!({"type":"presence","topic":"news","count":4}) {
            break;
        }
    }
    assert_eq!(two.presence("news").await.unwrap().members, None);
    drop(one);
}
