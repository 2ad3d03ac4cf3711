//! Settings of topics, sessions and namespaces.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::FutureExt;
use janus_core::hooks::{Client as HookClient, ConnectRequest, Denied, Hooks, Identity};
use janus_core::wire::TopicName;
use janus_core::{
    Event, Fault, Message, Namespace, Position, Presence, PresenceError, PresenceInfo, Receipt, Resume, SlowConsumer,
    SubscribeOptions,
};

use super::Live;
use crate::http::{Http, last_event_id};
use crate::support::{Client, publish_frame, subscribe_frame, until};
use janus_core::wire::classic::client::unsubscribe;

const DAY: Duration = Duration::from_secs(86_400);
const MOMENT: Duration = Duration::from_millis(10);

pub(super) async fn max_topics() {
    let mut live = Live::start(|_| {}).await;
    let mut client = live.subscriber("first").await;
    live.reload("max_topics", |config| config.max_topics = 1);
    client.send(subscribe_frame("second")).await;
    assert_eq!(client.error_code().await, "too_many_topics_on_server");
}

pub(super) async fn max_topic_bytes() {
    let mut live = Live::start(|_| {}).await;
    let mut client = live.subscriber("long").await;
    live.reload("max_topic_bytes", |config| config.max_topic_bytes = 3);
    client.send(subscribe_frame("long")).await;
    assert_eq!(client.error_code().await, "bad_topic");
}

pub(super) async fn max_topics_per_client() {
    let mut live = Live::start(|_| {}).await;
    let mut client = live.subscriber("first").await;
    live.reload("max_topics_per_client", |config| config.max_topics_per_client = 1);
    client.send(subscribe_frame("second")).await;
    assert_eq!(client.error_code().await, "too_many_topics");
}

/// Subscribes to a topic and leaves it, so that the topic is unused.
async fn visit(live: &Live, client: &mut Client, topic: &str) {
    client.subscribe(topic).await;
    client.send(unsubscribe(topic)).await;
    until("the topic to be unused", || live.janus.topic_info(topic).is_none_or(|topic| topic.subscribers == 0)).await;
}

pub(super) async fn address_share() {
    let mut live = Live::start(|config| {
        (config.max_topics, config.address_share, config.topic_idle) = (10, 100, DAY);
    })
    .await;
    let [mut many, mut few] = [
        Client::connect_from([127, 0, 0, 2], live.classic).await,
        Client::connect_from([127, 0, 0, 3], live.classic).await,
    ];
    visit(&live, &mut few, "few 1").await;
    for number in 0..9 {
        visit(&live, &mut many, &format!("many {number}")).await;
    }
    // An address within its share has room made by the address with most topics.
    visit(&live, &mut few, "few 2").await;
    assert!(live.janus.topic_info("few 1").is_some());
    live.reload("address_share", |config| config.address_share = 10);
    visit(&live, &mut few, "few 3").await;
    let own = ["few 1", "few 2"].map(|topic| live.janus.topic_info(topic).is_some());
    assert!(own.contains(&false), "an address beyond its share makes room itself");
}

pub(super) async fn topic_idle() {
    let mut live = Live::start(|config| config.topic_idle = DAY).await;
    visit(&live, &mut live.client().await, "news").await;
    live.reload("topic_idle", |config| config.topic_idle = MOMENT);
    until("the unused topic to end", || live.janus.topic_info("news").is_none()).await;
}

pub(super) async fn allow_publish() {
    let mut live = Live::start(|config| config.proxy_protocol = vec!["127.0.0.0/8".parse().unwrap()]).await;
    let mut client = Client::connect_silently(live.classic).await;
    client.send("PROXY TCP4 203.0.113.9 127.0.0.1 1 2\r\n").await;
    let mut client = client.greeted().await;
    client.send(publish_frame("news", "1")).await;
    client.error_code().await;
    live.reload("allow_publish", |config| config.allow_publish = true);
    client.send(publish_frame("news", "1")).await;
    let receipt = client.json().await;
    assert!(receipt["published"].is_object(), "{receipt}");
}

pub(super) async fn session_ttl() {
    let mut live = Live::start(|config| config.session_ttl = DAY).await;
    let client = live.subscriber("news").await;
    live.reload("session_ttl", |config| config.session_ttl = MOMENT);
    drop(client);
    until("the session to end", || live.janus.stats().sessions == 0).await;
}

pub(super) async fn max_detached_sessions() {
    let mut live = Live::start(|config| config.session_ttl = DAY).await;
    let client = live.subscriber("news").await;
    live.reload("max_detached_sessions", |config| config.max_detached_sessions = 0);
    drop(client);
    until("the session to end", || live.janus.stats().sessions == 0).await;
}

async fn publish(live: &Live, data: &str) -> Receipt {
    live.janus.publish("news", data).await.unwrap()
}

/// Whether a subscriber that has all messages up to this one can have the rest.
fn resumes(live: &Live, after: Receipt) -> bool {
    let since = Position { epoch: after.epoch, seq: after.seq };
    let options = SubscribeOptions::default().since(since);
    live.janus.subscribe_with("news", options).unwrap().resumption().unwrap().resumed
}

pub(super) async fn resume_messages() {
    let mut live = Live::start(|_| {}).await;
    let _subscriber = live.janus.subscribe("news").unwrap();
    let first = publish(&live, "1").await;
    publish(&live, "2").await;
    assert!(resumes(&live, first));
    live.reload("resume_messages", |config| config.resume_messages = 0);
    publish(&live, "3").await;
    until("the messages to be forgotten", || !resumes(&live, first)).await;
}

pub(super) async fn resume_bytes() {
    let mut live = Live::start(|_| {}).await;
    let _subscriber = live.janus.subscribe("news").unwrap();
    let first = publish(&live, "1").await;
    publish(&live, "2").await;
    assert!(resumes(&live, first));
    live.reload("resume_bytes", |config| config.resume_bytes = 0);
    publish(&live, "3").await;
    until("the messages to be forgotten", || !resumes(&live, first)).await;
}

pub(super) async fn resume_age() {
    let mut live = Live::start(|config| config.resume_age = DAY).await;
    let _subscriber = live.janus.subscribe("news").unwrap();
    let first = publish(&live, "1").await;
    publish(&live, "2").await;
    live.reload("resume_age", |config| config.resume_age = MOMENT);
    // Even of a topic without further messages.
    until("the message to be forgotten", || !resumes(&live, first)).await;
}

pub(super) async fn history() {
    let mut live = Live::start(|_| {}).await;
    let _subscriber = live.janus.subscribe("news").unwrap();
    publish(&live, "1").await;
    assert!(live.janus.history("news", None, 10).await.is_err());
    live.reload("history", |config| config.default_namespace.history = true);
    publish(&live, "2").await;
    assert!(!live.janus.history("news", None, 10).await.unwrap().messages.is_empty());
}

/// An instance with history for a day, and a topic that does not end.
async fn with_history() -> (Live, janus_core::Subscriber) {
    let live = Live::start(|config| {
        config.default_namespace = Namespace { history: true, history_age: DAY, ..Namespace::default() };
        (config.resume_messages, config.resume_age) = (0, MOMENT);
    })
    .await;
    let subscriber = live.janus.subscribe("news").unwrap();
    (live, subscriber)
}

fn kept(live: &Live) -> usize {
    live.janus.history("news", None, 100).now_or_never().unwrap().unwrap().messages.len()
}

pub(super) async fn history_messages() {
    let (mut live, _subscriber) = with_history().await;
    for _ in 0..5 {
        publish(&live, "1").await;
    }
    assert_eq!(kept(&live), 5);
    live.reload("history_messages", |config| config.default_namespace.history_messages = 2);
    publish(&live, "1").await;
    assert_eq!(kept(&live), 2);
}

pub(super) async fn history_bytes() {
    let (mut live, _subscriber) = with_history().await;
    for _ in 0..5 {
        publish(&live, &"x".repeat(600)).await;
    }
    assert_eq!(kept(&live), 5);
    live.reload("history_bytes", |config| config.default_namespace.history_bytes = 1_024);
    publish(&live, &"x".repeat(600)).await;
    assert_eq!(kept(&live), 1);
}

pub(super) async fn history_age() {
    let (mut live, _subscriber) = with_history().await;
    publish(&live, "1").await;
    live.reload("history_age", |config| config.default_namespace.history_age = MOMENT);
    until("the message to be forgotten", || kept(&live) == 0).await;
}

pub(super) async fn resume() {
    let mut live = Live::start(|_| {}).await;
    let _subscriber = live.janus.subscribe("news").unwrap();
    let id = Http::events(live.http, "topic=news", "").await.id().await;
    publish(&live, "1").await;
    let mut resumed = Http::events(live.http, "topic=news", &last_event_id(&id)).await;
    resumed.id().await;
    assert_eq!(resumed.message().await.0, 1);
    live.reload("resume", |config| config.default_namespace.resume = Resume::Off);
    let mut anew = Http::events(live.http, "topic=news", &last_event_id(&id)).await;
    assert_eq!(anew.block().await.event.as_deref(), Some("gap"), "told that it cannot resume");
    assert_eq!(anew.block().await.data.unwrap()["resumed"], false);
}

pub(super) async fn clustered() {
    let mut live = Live::start_in_cluster().await;
    assert_eq!(live.janus.subscribe("of the cluster").unwrap().resumption(), None, "the engine has to be asked");
    live.reload("clustered", |config| config.default_namespace.clustered = false);
    assert!(live.janus.subscribe("local").unwrap().resumption().is_some());
}

pub(super) async fn slow_consumer() {
    let mut live = Live::start(|config| config.write_timeout = DAY).await;
    live.reload("slow_consumer", |config| config.default_namespace.slow_consumer = SlowConsumer::Conflate);
    let _client = live.sluggish("news").await;
    live.flood("news", 300).await;
    until("messages to be conflated", || live.janus.stats().messages_conflated > 0).await;
}

pub(super) async fn client_publish_rate() {
    let mut live = Live::start(|config| config.rate_patience = MOMENT).await;
    let mut client = live.client().await;
    live.reload("client_publish_rate", |config| config.default_namespace.client_publish_rate = 1);
    client.send(publish_frame("news", "1").repeat(20)).await;
    while !client.frame().await.contains("rate_limited") {}
}

/// Nobody may subscribe to anything.
struct Strict;

impl Hooks for Strict {
    async fn authenticate(&self, _: ConnectRequest) -> Result<Identity, Denied> {
        Ok(Identity::anonymous())
    }

    async fn authorize_subscribe(&self, _: &HookClient, _: &TopicName) -> Result<(), Denied> {
        Err(Denied::new("no"))
    }
}

pub(super) async fn anonymous_subscribe() {
    let mut live = Live::start_with(|_| {}, Strict).await;
    let mut client = live.client().await;
    client.send(subscribe_frame("news")).await;
    assert_eq!(client.error_code().await, "forbidden");
    live.reload("anonymous_subscribe", |config| config.default_namespace.anonymous_subscribe = true);
    client.subscribe("news").await;
}

pub(super) async fn topic_quarantine() {
    let mut live = Live::start(|config| config.topic_quarantine = DAY).await;
    let mut subscriber = live.janus.subscribe("news").unwrap();
    live.reload("topic_quarantine", |config| config.topic_quarantine = Duration::from_millis(100));
    let is_available = || live.janus.topic_info("news").is_some_and(|topic| topic.available);
    // More crashes than a topic is allowed.
    until("the quarantine", || {
        live.janus.inject(Fault::Topic("news".to_owned()));
        !is_available()
    })
    .await;
    until("the end of the quarantine", is_available).await;
    live.janus.publish("news", "1").await.unwrap();
    while !matches!(subscriber.next().await, Some(Event::Message(_))) {}
}

/// Publishes with a key. Returns whether this was a repetition.
async fn repeats(live: &Live, key: &str) -> bool {
    let message = Message::new("news", key).unwrap().idempotency_key(key.parse().unwrap());
    live.janus.publish_message(message).await.unwrap().again
}

pub(super) async fn idempotency_ttl() {
    let mut live = Live::start(|config| config.idempotency_ttl = DAY).await;
    let _subscriber = live.janus.subscribe("news").unwrap();
    assert_eq!((repeats(&live, "a").await, repeats(&live, "a").await), (false, true));
    live.reload("idempotency_ttl", |config| config.idempotency_ttl = Duration::from_secs(1));
    while repeats(&live, "a").await {
        tokio::task::yield_now().await;
    }
}

pub(super) async fn max_idempotency_keys() {
    let mut live = Live::start(|_| {}).await;
    let _subscriber = live.janus.subscribe("news").unwrap();
    assert_eq!((repeats(&live, "a").await, repeats(&live, "b").await, repeats(&live, "a").await), (false, false, true));
    live.reload("max_idempotency_keys", |config| config.max_idempotency_keys = 1);
    assert!(!repeats(&live, "c").await);
    assert_eq!((repeats(&live, "c").await, repeats(&live, "a").await), (true, false));
}

/// Users with a number each, and an info that other clients see.
#[derive(Default)]
struct Numbered(AtomicUsize);

impl Hooks for Numbered {
    async fn authenticate(&self, _: ConnectRequest) -> Result<Identity, Denied> {
        let number = self.0.fetch_add(1, Ordering::Relaxed);
        Ok(Identity::user(number.to_string()).may_subscribe(true).info("i".repeat(70).into()))
    }
}

async fn with_presence(change: impl FnOnce(&mut janus_core::Config)) -> Live {
    let with = |config: &mut janus_core::Config| {
        config.default_namespace.presence = Presence::Members;
        (config.presence_linger, config.presence_interval) = (Duration::from_secs(3_600), MOMENT);
        change(config);
    };
    Live::start_with(with, Numbered::default()).await
}

async fn present(live: &Live, topic: &str) -> PresenceInfo {
    live.janus.presence(topic).await.unwrap()
}

/// Waits until a topic has this number of members, which is a moment after the answers to their subscribes.
async fn until_present(live: &Live, topic: &str, count: usize) {
    let is_present = || live.janus.presence(topic).now_or_never().is_some_and(|info| info.unwrap().count == count);
    until("the members", is_present).await;
}

pub(super) async fn presence() {
    let mut live = Live::start(|_| {}).await;
    let _client = live.subscriber("before").await;
    live.reload("presence", |config| config.default_namespace.presence = Presence::Count);
    let _client = live.subscriber("after").await;
    until_present(&live, "after", 1).await;
    assert_eq!(live.janus.presence("before").await, Err(PresenceError::Off), "made before the change");
}

pub(super) async fn presence_linger() {
    let mut live = with_presence(|_| {}).await;
    let client = live.subscriber("news").await;
    until_present(&live, "news", 1).await;
    live.reload("presence_linger", |config| config.presence_linger = MOMENT);
    drop(client);
    until_present(&live, "news", 0).await;
}

pub(super) async fn presence_interval() {
    let mut live = with_presence(|config| config.presence_interval = Duration::from_secs(60)).await;
    let mut stream = Http::events(live.http, "topic=news&presence=true", "").await;
    stream.id().await;
    assert_eq!(stream.block().await.event.as_deref(), Some("presence"));
    let mut clients = vec![live.subscriber("news").await];
    assert_eq!(stream.block().await.data.unwrap()["count"], 2, "the first change is told at once");
    clients.push(live.subscriber("news").await);
    live.reload("presence_interval", |config| config.presence_interval = MOMENT);
    assert_eq!(stream.block().await.data.unwrap()["count"], 3, "a minute early");
}

pub(super) async fn max_presence_members() {
    let mut live = with_presence(|config| config.max_presence_members = 1).await;
    let _clients = [live.subscriber("news").await, live.subscriber("news").await];
    until_present(&live, "news", 2).await;
    assert_eq!(present(&live, "news").await.members, None);
    live.reload("max_presence_members", |config| config.max_presence_members = 2);
    assert_eq!(present(&live, "news").await.members.unwrap().len(), 2);
    let mut stream = Http::events(live.http, "topic=news&presence=true", "").await;
    stream.id().await;
    assert_eq!(stream.block().await.data.unwrap()["count"], 3);
    live.reload("max_presence_members", |config| config.max_presence_members = 3);
    assert!(stream.block().await.data.unwrap()["members"].is_array());
    live.reload("max_presence_members", |config| config.max_presence_members = 2);
    let counted = stream.block().await;
    assert_eq!(counted.event.as_deref(), Some("presence"), "though nothing else happens in the topic");
    assert_eq!(counted.data.unwrap().get("members"), None);
}

pub(super) async fn max_presence_member_bytes() {
    let mut live = with_presence(|config| config.max_presence_member_bytes = 64).await;
    let _client = live.subscriber("short").await;
    until_present(&live, "short", 1).await;
    assert_eq!(present(&live, "short").await.members.unwrap()[0].info, None);
    live.reload("max_presence_member_bytes", |config| config.max_presence_member_bytes = 1_024);
    let _client = live.subscriber("long").await;
    until_present(&live, "long", 1).await;
    assert!(present(&live, "long").await.members.unwrap()[0].info.is_some());
}
