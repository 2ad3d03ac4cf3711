//! The client of this crate: against the server of this crate, and against a server of the test where no real server does
//! what the test needs. `tests/clients/passes.py` has what all clients pass.

#![expect(clippy::unwrap_used, reason = "a test that meets what it does not expect has failed, wherever it stands")]

mod fake;

use std::future::ready;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use futures_util::FutureExt as _;
use janus_core::client::{
    Client, ClientBuilder, ClientError, Gap, HistoryPage, HistoryQuery, Item, PresenceChange, State, Subscription,
    TokenError, WhenFull,
};
use janus_core::hooks::{ConnectRequest, Denied, Hooks, Identity, Patterns};
use janus_core::testing::TestServer;
use janus_core::wire::TopicName;
use janus_core::{Config, Janus, Namespace, Position, Presence, Since, rustls};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::time::timeout;

use fake::Fake;

/// Long enough for a busy machine; no passing test comes near.
const PATIENCE: Duration = Duration::from_secs(20);

fn to(server: &TestServer) -> ClientBuilder {
    quick(Client::builder(format!("ws://{}", server.addr())))
}

fn quick(builder: ClientBuilder) -> ClientBuilder {
    builder.back_off(Duration::from_millis(1), Duration::from_millis(50))
}

/// A server whose topics keep this many messages.
async fn keeping(resume_messages: usize) -> TestServer {
    let config = Config { resume_messages, resume_bytes: 64 << 20, ..Config::default() };
    TestServer::of(Janus::builder().config(config)).await
}

async fn next(subscription: &mut Subscription) -> Item {
    let item = timeout(PATIENCE, subscription.next()).await.unwrap_or_else(|_| panic!("nothing comes"));
    item.unwrap_or_else(|| panic!("the end")).unwrap()
}

/// The numbers of the next messages, which have no gap between them.
async fn numbers(subscription: &mut Subscription, count: usize) -> Vec<u64> {
    let mut numbers = Vec::new();
    while numbers.len() < count {
        match next(subscription).await {
            Item::Message(message) => numbers.push(message.seq()),
            Item::Resumed { .. } => {}
            other => panic!("{other:?} after {numbers:?}"),
        }
    }
    numbers
}

async fn publish(server: &TestServer, count: u64) {
    for number in 0..count {
        server.janus().publish("news", &number).await.unwrap();
    }
}

/// Waits until the condition holds.
async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let holds = async {
        let mut looks = tokio::time::interval(Duration::from_millis(1));
        while !condition() {
            looks.tick().await;
        }
    };
    timeout(PATIENCE, holds).await.unwrap_or_else(|_| panic!("not in time: {what}"));
}

async fn is_state(client: &Client, wanted: fn(&State) -> bool) -> State {
    let mut state = client.state();
    let found = timeout(PATIENCE, state.wait_for(wanted)).await.unwrap_or_else(|_| panic!("not in time"));
    found.unwrap().clone()
}

#[tokio::test]
async fn a_message_has_all_that_the_publisher_has_given() {
    let server = TestServer::start().await;
    let client = to(&server).connect().await.unwrap();
    let mut news = client.subscribe("news").await.unwrap();
    let key = || "order-17".parse().unwrap();
    let receipt = client.publish("news", &json!({"a": 1.5})).event("e\"").message_id("7").idempotency_key(key());
    let receipt = receipt.await.unwrap();
    assert_eq!((receipt.seq(), receipt.subscribers, receipt.again), (1, 1, false));
    let again = client.publish("news", "other").idempotency_key(key()).await.unwrap();
    assert_eq!((again.position, again.again), (receipt.position, true));
    client.publish_bytes("news", [0, 255]).await.unwrap();

    let message = next(&mut news).await.message().unwrap();
    assert_eq!((message.topic(), message.position()), ("news", receipt.position));
    assert_eq!((message.event(), message.message_id(), message.data()), (r#""e\"""#, r#""7""#, r#"{"a":1.5}"#));
    assert_eq!((message.parse::<Value>().unwrap(), message.bytes()), (json!({"a": 1.5}), None));
    assert!(SystemTime::UNIX_EPOCH + message.time() <= SystemTime::now());
    let message = next(&mut news).await.message().unwrap();
    assert_eq!((message.seq(), message.data(), message.bytes()), (2, "null", Some(vec![0, 255])));
    assert!(message.parse::<Value>().unwrap_err().to_string().contains("Message::bytes"));
}

#[tokio::test]
async fn a_publisher_may_keep_its_message_from_itself_or_another() {
    let server = TestServer::start().await;
    let (one, other) = (to(&server).connect().await.unwrap(), to(&server).connect().await.unwrap());
    let mut of_one = one.subscribe("news").await.unwrap();
    let mut of_other = other.subscribe("news").await.unwrap();
    one.publish("news", "not to one").exclude_self().await.unwrap();
    let State::Open { client: Some(name), .. } = other.state().borrow().clone() else { panic!("it is open") };
    one.publish("news", "not to the other").exclude(name).await.unwrap();
    one.publish("news", "to both").await.unwrap();
    assert_eq!(numbers(&mut of_one, 2).await, [2, 3]);
    assert_eq!(numbers(&mut of_other, 2).await, [1, 3]);
}

#[tokio::test]
async fn a_subscription_begins_where_the_program_says() {
    let server = keeping(5).await;
    let client = to(&server).connect().await.unwrap();
    drop(client.subscribe("news").await.unwrap());
    publish(&server, 8).await;
    let mut last = client.subscribe("news").since(Since::Last).await.unwrap();
    assert_eq!((numbers(&mut last, 1).await, last.begun().missed), (vec![8], Some(1)));
    let Position { epoch, .. } = last.begun().position;
    drop(last);
    let mut start = client.subscribe("news").since(Since::Start).await.unwrap();
    assert_eq!(numbers(&mut start, 5).await, [4, 5, 6, 7, 8]);
    drop(start);
    let mut after = client.subscribe("news").since(Position { epoch, seq: 6 }).await.unwrap();
    assert_eq!(numbers(&mut after, 2).await, [7, 8]);
    drop(after);
    // The server no longer keeps what followed.
    let mut gone = client.subscribe("news").since(Position { epoch, seq: 1 }).await.unwrap();
    let gap = Item::Gap(Gap::Unknown { position: Position { epoch, seq: 8 } });
    assert_eq!((next(&mut gone).await, gone.begun().missed), (gap, None));
    publish(&server, 1).await;
    assert_eq!(numbers(&mut gone, 1).await, [9]);
}

#[tokio::test]
async fn the_history_comes_page_by_page() {
    let default_namespace = Namespace { history: true, ..Namespace::default() };
    let server = TestServer::of(Janus::builder().config(Config { default_namespace, ..Config::default() })).await;
    let client = to(&server).connect().await.unwrap();
    publish(&server, 4).await;
    client.publish_bytes("news", [0, 255]).await.unwrap();
    let newest = client.history("news", HistoryQuery::latest(2).reversed()).await.unwrap();
    let numbers = |page: &HistoryPage| page.messages.iter().map(|message| message.seq()).collect::<Vec<_>>();
    assert_eq!((numbers(&newest), newest.complete, newest.more, newest.top), (vec![5, 4], true, true, 5));
    assert_eq!((newest.messages[0].bytes(), newest.messages[1].data()), (Some(vec![0, 255]), "3"));
    let older = client.history("news", HistoryQuery::latest(9).reversed().since(newest.position)).await.unwrap();
    assert_eq!((numbers(&older), older.more), (vec![3, 2, 1], false));
    let server = TestServer::start().await;
    let client = to(&server).connect().await.unwrap();
    let error = client.history("news", HistoryQuery::latest(1)).await.unwrap_err();
    assert_eq!(error.code(), Some(4422), "{error}");
}

#[tokio::test]
async fn members_of_a_topic_are_told_and_can_be_asked_for() {
    let default_namespace = Namespace { presence: Presence::Members, ..Namespace::default() };
    let server = TestServer::of(Janus::builder().config(Config { default_namespace, ..Config::default() })).await;
    let client = to(&server).connect().await.unwrap();
    let mut lobby = client.subscribe("lobby").presence().await.unwrap();
    let Item::Presence(all) = next(&mut lobby).await else { panic!("all members come first") };
    assert_eq!((all.change, all.count, all.members.map(|members| members.len())), (PresenceChange::All, 1, Some(0)));
    let other = to(&server).connect().await.unwrap();
    let _other = other.subscribe("lobby").await.unwrap();
    let Item::Presence(joined) = next(&mut lobby).await else { panic!("a member has joined") };
    assert_eq!((joined.change, joined.count), (PresenceChange::Joined, 2));
    assert_eq!(other.presence("lobby").await.unwrap().count, 2);
}

#[tokio::test]
async fn a_dropped_subscription_leaves_the_topic() {
    let server = TestServer::start().await;
    let client = to(&server).connect().await.unwrap();
    let news = client.subscribe("news").await.unwrap();
    let error = client.subscribe("news").await.unwrap_err();
    assert!(matches!(&error, ClientError::AlreadySubscribed(topic) if topic == "news"), "{error:?}");
    drop(news);
    let _other = server.janus().subscribe("news").unwrap();
    let left = async { while client.publish("news", "who is there").await.unwrap().subscribers > 1 {} };
    timeout(PATIENCE, left).await.unwrap();
    client.subscribe("news").await.unwrap();
}

#[tokio::test]
async fn the_last_handle_closes_the_connection_and_ends_all() {
    let server = TestServer::start().await;
    let client = to(&server).connect().await.unwrap();
    let (other, mut state) = (client.clone(), client.state());
    let mut news = client.subscribe("news").await.unwrap();
    publish(&server, 1).await;
    drop(client);
    other.publish("news", "a handle is left").await.unwrap();
    assert_eq!(numbers(&mut news, 2).await, [1, 2]);
    drop(other);
    assert!(timeout(PATIENCE, news.next()).await.unwrap().is_none());
    // The sender of the states is gone with the task.
    timeout(PATIENCE, async { while state.changed().await.is_ok() {} }).await.unwrap();
    until("the server has no connection", || server.janus().connections(0, 1).is_empty()).await;
}

#[tokio::test]
async fn a_closed_client_has_said_goodbye_and_refuses_calls() {
    let server = TestServer::start().await;
    let client = to(&server).connect().await.unwrap();
    let mut news = client.subscribe("news").await.unwrap();
    timeout(PATIENCE, client.close()).await.unwrap();
    assert!(matches!(&*client.state().borrow(), State::Closed { error: None }));
    assert!(news.next().await.is_none());
    assert!(matches!(client.publish("news", "late").await, Err(ClientError::Closed)));
    assert!(matches!(client.subscribe("news").await, Err(ClientError::Closed)));
    client.close().await;
}

#[tokio::test]
async fn a_client_without_a_server_waits_only_if_started() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    drop(listener);
    let error = Client::builder(format!("ws://{addr}")).connect().await.unwrap_err();
    assert!(matches!(&error, ClientError::Connect { .. }) && !error.is_final(), "{error:?}");
    let client = quick(Client::builder(format!("ws://{addr}"))).request_timeout(Duration::from_millis(50)).start();
    let client = client.unwrap();
    is_state(&client, |state| matches!(state, State::Waiting { .. })).await;
    let late = client.publish("news", "too late").await.unwrap_err();
    assert!(matches!(late, ClientError::NotSent { awaited: "receipt", .. }) && !late.is_final(), "{late:?}");
    let told = format!("no receipt within 50ms: not sent, no connection: cannot connect to {addr}: Connection refused");
    assert!(late.to_string().starts_with(&told), "{late}");
    let config = Config { listen: vec![], http_listen: vec![addr], ..Config::default() };
    let janus = Janus::builder().config(config).start().await.unwrap();
    is_state(&client, |state| matches!(state, State::Open { .. })).await;
    let mut news = timeout(PATIENCE, client.subscribe("news").into_future()).await.unwrap().unwrap();
    janus.publish("news", "hello").await.unwrap();
    // The call that came too late was not sent.
    assert_eq!(next(&mut news).await.message().unwrap().data(), "\"hello\"");
    janus.shutdown().await;
}

struct Users;

impl Hooks for Users {
    async fn authenticate(&self, request: ConnectRequest) -> Result<Identity, Denied> {
        let own = || Patterns::new(["news", "alice"]).unwrap();
        let soon = SystemTime::now() + Duration::from_millis(1_500);
        match request.auth.as_deref() {
            Some("alice") => Ok(Identity::user("alice").subscribe(own()).publish(own())),
            Some("topics") => {
                let topics = ["alice", "news"].map(|name| TopicName::new(name, 255).unwrap());
                Ok(Identity::user("alice").subscribe(own()).topics(topics))
            }
            Some("old") => Err(Denied::expired("old")),
            Some(token) if token.starts_with("short") => {
                Ok(Identity::user("alice").subscribe(own()).publish(own()).expires(soon))
            }
            _ => Err(Denied::new("show a token")),
        }
    }
}

async fn users() -> TestServer {
    let config = Config { token_grace: Duration::ZERO, ..Config::default() };
    TestServer::of(Janus::builder().config(config).hooks(Users)).await
}

#[tokio::test]
async fn a_final_refusal_ends_the_client_or_the_topic_alone() {
    let server = users().await;
    let error = to(&server).connect().await.unwrap_err();
    assert!(error.is_final() && error.code() == Some(4413), "{error:?}");
    let stranger = to(&server).token("guess").start().unwrap();
    let error = stranger.subscribe("news").await.unwrap_err();
    assert_eq!(error.code(), Some(4413), "{error:?}");
    is_state(&stranger, |state| matches!(state, State::Closed { error: Some(_) })).await;

    let alice = to(&server).token("alice").connect().await.unwrap();
    let error = alice.subscribe("secret").await.unwrap_err();
    assert!(error.is_final() && error.to_string().contains("forbidden"), "{error}");
    alice.subscribe("news").await.unwrap();
    // Without a source of tokens an expired token is the end.
    let old = to(&server).token("old").start().unwrap();
    let end = is_state(&old, |state| matches!(state, State::Closed { .. })).await;
    assert!(matches!(&end, State::Closed { error: Some(error) } if error.code() == Some(4418)), "{end:?}");
}

#[tokio::test]
async fn tokens_are_asked_for_until_the_program_has_no_more() {
    let server = users().await;
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let get_token = move || {
        ready(match count.fetch_add(1, Ordering::Relaxed) {
            0 => Err(std::io::Error::other("offline").into()),
            1 => Ok("old".to_owned()),
            2 => Ok("short 1".to_owned()),
            3 => Ok("short 2".to_owned()),
            _ => Err(TokenError::final_word("logged out")),
        })
    };
    let client = to(&server).get_token(get_token).start().unwrap();
    is_state(&client, |state| matches!(state, State::Open { .. })).await;
    assert_eq!(asked.load(Ordering::Relaxed), 3);
    until("the token is renewed", || asked.load(Ordering::Relaxed) == 4).await;
    // After a renewal without success the client asks again, and the last word ends the client.
    let closed = is_state(&client, |state| matches!(state, State::Closed { .. })).await;
    assert!(matches!(&closed, State::Closed { error: Some(ClientError::Token(_)) }), "{closed:?}");
    assert_eq!(asked.load(Ordering::Relaxed), 5);
}

/// A client whose first token is a short one, and what follows comes from the function.
async fn with_second_token(server: &TestServer, second: fn() -> &'static str) -> Client {
    let asked = AtomicUsize::new(0);
    let get_token = move || {
        let token = if asked.fetch_add(1, Ordering::Relaxed) == 0 { "short" } else { second() };
        ready(Ok(token.to_owned()))
    };
    to(server).get_token(get_token).connect().await.unwrap()
}

#[tokio::test]
async fn a_client_without_a_good_token_ends_with_its_last_good_token() {
    let server = users().await;
    let client = with_second_token(&server, || "guess").await;
    let closed = is_state(&client, |state| matches!(state, State::Closed { .. })).await;
    let State::Closed { error: Some(error @ ClientError::Refused { .. }) } = &closed else { panic!("{closed:?}") };
    assert!(error.is_final(), "{error}");
}

#[tokio::test]
async fn a_token_that_is_not_renewed_is_followed_by_another() {
    let mut fake = Fake::start().await;
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let get_token = move || ready(Ok(format!("token {}", count.fetch_add(1, Ordering::Relaxed))));
    let _client = fake.builder().get_token(get_token).start().unwrap();
    let mut talk = fake.accept_until(Some(Duration::ZERO)).await;
    assert_eq!(talk.hello["auth"], "token 0");
    let refused = talk.hear().await;
    assert_eq!((&refused["type"], &refused["auth"]), (&json!("refresh"), &json!("token 1")));
    talk.say(json!({"type": "error", "id": refused["id"], "code": 4414, "error": "forbidden", "message": ""})).await;
    let again = talk.hear().await;
    assert_eq!((&again["type"], &again["auth"]), (&json!("refresh"), &json!("token 2")));
}

#[tokio::test]
async fn a_panic_of_the_program_is_an_end_with_an_error() {
    let server = users().await;
    let client = with_second_token(&server, || panic!("the program has a fault")).await;
    let mut news = client.subscribe("news").await.unwrap();
    let end = timeout(PATIENCE, news.next()).await.unwrap().unwrap();
    assert!(matches!(&end, Err(ClientError::Panicked(text)) if text == "the program has a fault"), "{end:?}");
    is_state(&client, |state| matches!(state, State::Closed { error: Some(ClientError::Panicked(_)) })).await;
    assert!(matches!(client.publish("news", "late").await, Err(ClientError::Panicked(_))));
}

#[tokio::test]
async fn a_panic_of_the_program_does_not_go_through_connect() {
    let server = TestServer::start().await;
    let get_token = || -> std::future::Ready<Result<String, TokenError>> { panic!("the program has a fault") };
    let error = to(&server).get_token(get_token).connect().await.unwrap_err();
    assert!(matches!(&error, ClientError::Panicked(text) if text == "the program has a fault"), "{error:?}");
}

#[tokio::test]
async fn an_empty_token_is_an_error_and_a_line_end_is_left_out() {
    let server = users().await;
    let error = to(&server).token("\n").connect().await.unwrap_err();
    assert!(error.is_final() && error.to_string() == "no token: the token is empty", "{error:?}");
    to(&server).token("alice\n").connect().await.unwrap();
}

#[tokio::test]
async fn settings_without_end_are_no_fault() {
    let server = TestServer::start().await;
    let builder = to(&server).max_pending(usize::MAX).max_unread(usize::MAX).max_unread_bytes(usize::MAX);
    let builder = builder.heartbeat(Duration::MAX).timeout(Duration::MAX).request_timeout(Duration::MAX);
    let builder = builder.back_off(Duration::MAX, Duration::MAX);
    let (client, _topics) = builder.connect_with_assigned(usize::MAX).await.unwrap();
    let mut news = client.subscribe("news").await.unwrap();
    client.publish("news", "hello").await.unwrap();
    assert_eq!(numbers(&mut news, 1).await, [1]);
    let State::Open { session, .. } = client.state().borrow().clone() else { panic!("open") };
    assert!(!format!("{:?}", client.state().borrow()).contains(&session), "the session is a secret");
}

#[tokio::test]
async fn a_cancelled_subscribe_leaves_no_subscription() {
    let server = TestServer::start().await;
    let client = to(&server).connect().await.unwrap();
    // Whether the client's task takes the command or the wake-up first is by chance.
    for number in 0..64 {
        let topic = format!("topic-{number}");
        assert!(client.subscribe(&topic).into_future().now_or_never().is_none());
        assert_eq!(client.publish(&topic, "hello").await.unwrap().subscribers, 0, "{number}");
    }
}

#[tokio::test]
async fn cancelled_subscribes_neither_fill_the_client_nor_tire_the_server() {
    let server = TestServer::start().await;
    let client = to(&server).connect().await.unwrap();
    for number in 0..700 {
        let topic = if number % 2 == 0 { "a" } else { "b" };
        let cancelled = timeout(Duration::from_millis(1), client.subscribe(topic).into_future()).await;
        assert!(!matches!(cancelled, Ok(Err(_))), "{number}: {cancelled:?}");
    }
    for topic in ["a", "b"] {
        timeout(PATIENCE, client.subscribe(topic).into_future()).await.unwrap().unwrap();
    }
    assert_eq!(server.janus().stats().connections_accepted, 1);
}

#[tokio::test]
async fn a_subscribe_waits_for_the_answer_to_a_cancelled_one() {
    let mut fake = Fake::start().await;
    let client = fake.builder().max_pending(1).request_timeout(Duration::from_millis(50)).start().unwrap();
    let mut talk = fake.accept().await;
    let late = client.subscribe("news").await.unwrap_err();
    assert!(matches!(late, ClientError::Late { .. }), "{late:?}");
    let owed = talk.hear().await;
    assert_eq!(talk.hear().await["type"], "unsubscribe");
    // No other frame is sent before the answer, and no call is refused for many calls.
    for _ in 0..3 {
        let error = client.subscribe("news").await.unwrap_err();
        assert!(matches!(error, ClientError::NotSent { source: None, .. }), "{error:?}");
    }
    let subscribing = tokio::spawn(async move { client.subscribe("news").await });
    talk.subscribed(&owed, 1, 5, None).await;
    let Ok(request) = timeout(PATIENCE, talk.hear()).await else { panic!("no subscribe") };
    talk.subscribed(&request, 1, 6, None).await;
    let news = subscribing.await.unwrap();
    assert!(news.is_ok_and(|news| news.begun().position.seq == 6));
}

#[tokio::test]
async fn topics_of_the_token_come_as_a_stream() {
    let server = users().await;
    let (client, mut topics) = to(&server).token("topics").connect_with_assigned(8).await.unwrap();
    let mut assigned = async || timeout(PATIENCE, topics.next()).await.unwrap().unwrap();
    let (alice, news) = (assigned().await, assigned().await);
    assert_eq!((alice.topic.as_str(), news.topic.as_str()), ("alice", "news"));
    server.janus().publish("alice", "hello").await.unwrap();
    assert_eq!(numbers(&mut alice.subscription.unwrap(), 1).await, [1]);
    // A subscription of the program's own takes the place of the server's.
    let mut own = client.subscribe("news").since(Since::Start).await.unwrap();
    assert!(timeout(PATIENCE, news.subscription.unwrap().next()).await.unwrap().is_none());
    server.janus().publish("news", "hello").await.unwrap();
    assert_eq!(numbers(&mut own, 1).await, [1]);
    drop(client);
    assert!(timeout(PATIENCE, topics.next()).await.unwrap().is_none());
}

#[tokio::test]
async fn a_program_that_reads_slowly_misses_nothing_that_is_kept() {
    let server = keeping(1_000).await;
    let client = to(&server).max_unread(10).connect().await.unwrap();
    let mut news = client.subscribe("news").await.unwrap();
    let _other = server.janus().subscribe("news").unwrap();
    publish(&server, 200).await;
    for number in 1..=200 {
        assert_eq!(next(&mut news).await.message().unwrap().seq(), number);
        // The receipt does not wait for room.
        client.publish("other", "at once").await.unwrap();
    }
}

#[tokio::test]
async fn a_program_that_reads_too_slowly_is_told_of_the_gap() {
    let server = keeping(5).await;
    let client = to(&server).max_unread(10).connect().await.unwrap();
    let mut news = client.subscribe("news").await.unwrap();
    let _other = server.janus().subscribe("news").unwrap();
    publish(&server, 200).await;
    client.publish("other", "all before has come").await.unwrap();
    assert_eq!(numbers(&mut news, 10).await, Vec::from_iter(1..=10));
    let gap = next(&mut news).await;
    assert!(matches!(gap, Item::Gap(Gap::Unknown { position }) if position.seq == 200), "{gap:?}");
    publish(&server, 1).await;
    assert_eq!(numbers(&mut news, 1).await, [201]);
}

#[tokio::test]
async fn large_messages_are_bounded_by_their_bytes() {
    let server = keeping(1_000).await;
    let client = to(&server).max_unread_bytes(100_000).connect().await.unwrap();
    let mut news = client.subscribe("news").await.unwrap();
    let _other = server.janus().subscribe("news").unwrap();
    for _ in 0..40 {
        server.janus().publish("news", &"x".repeat(30_000)).await.unwrap();
    }
    client.publish("other", "all before has come").await.unwrap();
    // Three have room; the others come again from the server.
    assert_eq!(numbers(&mut news, 40).await, Vec::from_iter(1..=40));
}

#[tokio::test]
async fn a_waiting_client_leaves_the_rest_to_the_server() {
    let server = keeping(1_000).await;
    let builder = to(&server).max_unread(3).when_full(WhenFull::Wait).heartbeat(Duration::from_millis(50));
    let client = builder.timeout(Duration::from_millis(500)).connect().await.unwrap();
    let mut news = client.subscribe("news").await.unwrap();
    publish(&server, 50).await;
    let receipt = tokio::spawn({
        let client = client.clone();
        async move { client.publish("other", "waits as well").await }
    });
    // Silence does not count while the client itself does not read. Another client has given up a mute server by then.
    let mut mute = Fake::start().await;
    let other =
        mute.builder().heartbeat(Duration::from_millis(50)).timeout(Duration::from_millis(500)).start().unwrap();
    let _talk = mute.accept().await;
    let given_up = is_state(&other, |state| matches!(state, State::Waiting { .. })).await;
    assert!(matches!(&given_up, State::Waiting { error: ClientError::Late { .. }, .. }), "{given_up:?}");
    assert!(!receipt.is_finished(), "the client reads nothing while the queue is full");
    assert_eq!(numbers(&mut news, 50).await, Vec::from_iter(1..=50));
    timeout(PATIENCE, receipt).await.unwrap().unwrap().unwrap();
    assert_eq!(server.janus().stats().connections_accepted, 1);
}

#[tokio::test]
async fn tls_trusts_the_authority_of_the_program_only() {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let chain = vec![made.cert.der().clone()];
    let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let tls = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let tls = tls.with_no_client_auth().with_single_cert(chain, key).unwrap();
    let https_listen = vec!["127.0.0.1:0".parse().unwrap()];
    let config = Config { listen: vec![], http_listen: vec![], https_listen, ..Config::default() };
    let janus = Janus::builder().config(config).tls(Arc::new(tls)).start().await.unwrap();
    let url = format!("wss://localhost:{}", janus.local_addrs()[0].port());

    let client = Client::builder(&url).authorities_pem(made.cert.pem()).connect().await.unwrap();
    assert_eq!(client.publish("news", "over TLS").await.unwrap().seq(), 0);
    let other = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let error = Client::builder(&url).authorities_pem(other.cert.pem()).connect().await.unwrap_err();
    assert!(matches!(error, ClientError::Handshake { .. }), "{error:?}");
    let text = error.to_string();
    assert!(text.contains("TLS handshake with localhost") && text.ends_with("see authorities_pem"), "{text}");
    let error = Client::builder(&url).authorities_pem("no PEM").connect().await.unwrap_err();
    assert!(error.is_final() && error.to_string().contains("not its path"), "{error}");
    let error = Client::builder(url.replace("wss", "ws")).connect().await.unwrap_err();
    assert!(error.to_string().contains("wss://"), "{error}");
    let server = TestServer::start().await;
    let no_tls = Client::builder(format!("wss://{}", server.addr())).authorities_pem(made.cert.pem());
    let error = no_tls.connect().await.unwrap_err();
    assert!(matches!(error, ClientError::Handshake { .. }) && error.to_string().contains("ws://"), "{error}");
    janus.shutdown().await;
}
