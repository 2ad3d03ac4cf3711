//! Settings of delivery, memory, shutdown and hooks.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use janus_core::hooks::{Client as HookClient, ConnectRequest, Denied, Hooks, Identity, Revocation, RevokeError};
use janus_core::{Message, Namespace, PublishError, SlowConsumer, TraceKind, TraceOptions};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::Live;
use crate::http::Http;
use crate::support::{Client, DEADLINE, until};

const DAY: Duration = Duration::from_secs(86_400);
const MOMENT: Duration = Duration::from_millis(10);

/// The receiver, and the numbers, of the next passes of a topic.
async fn passes(live: &Live, messages: usize) -> Vec<(String, String)> {
    let mut trace = live.janus.trace(TraceOptions::default().kinds([TraceKind::Pass])).unwrap();
    let receipts: Vec<_> =
        (0..messages).map(|_| live.janus.try_publish(Message::new("news", "1").unwrap()).unwrap()).collect();
    for receipt in receipts {
        receipt.await.unwrap();
    }
    let mut passes = Vec::new();
    let mut last = 0;
    while last < messages {
        let line = timeout(DEADLINE, trace.next()).await.unwrap().unwrap();
        let numbers = line.about.split(", ").next().unwrap_or_default().to_owned();
        let words: Vec<usize> = numbers.split(' ').filter_map(|word| word.parse().ok()).collect();
        last += words[1] - words[0] + 1;
        passes.push((line.to, numbers));
    }
    passes
}

pub(super) async fn inline_subscribers() {
    let mut live = Live::start(|_| {}).await;
    let _client = live.subscriber("news").await;
    assert_eq!(passes(&live, 1).await[0].0, "subscribers");
    live.reload("inline_subscribers", |config| config.inline_subscribers = 0);
    assert_eq!(passes(&live, 1).await[0].0, "senders");
}

pub(super) async fn coalesce_bytes() {
    let mut live = Live::start(|_| {}).await;
    let _client = live.subscriber("news").await;
    live.reload("coalesce_bytes", |config| config.coalesce_bytes = 1);
    assert_eq!(passes(&live, 20).await.len(), 20, "each message goes out alone");
}

pub(super) async fn coalesce_max_bytes() {
    let mut live = Live::start(|config| config.coalesce_bytes = 64).await;
    let mut clients = Vec::new();
    for _ in 0..8 {
        clients.push(live.subscriber("news").await);
    }
    live.reload("coalesce_max_bytes", |config| config.coalesce_max_bytes = 1);
    assert_eq!(passes(&live, 20).await.len(), 20, "each message goes out alone");
}

/// Whether a program that publishes without waiting finds the topic full.
fn fills(live: &Live, data: &str) -> bool {
    (0..2_000).any(|_| {
        let message = Message::new("news", data).unwrap();
        matches!(live.janus.try_publish(message).map(drop), Err(PublishError::Full))
    })
}

pub(super) async fn max_inflight_frames() {
    let mut live = Live::start(|config| config.max_inflight_frames = 1 << 20).await;
    let _client = live.subscriber("news").await;
    live.reload("max_inflight_frames", |config| config.max_inflight_frames = 1);
    // With this message the topic takes over its new limits.
    live.janus.publish("news", "1").await.unwrap();
    until("a full topic", || fills(&live, "1")).await;
}

pub(super) async fn max_inflight_bytes() {
    let mut live = Live::start(|config| {
        (config.max_inflight_frames, config.max_inflight_bytes) = (1 << 20, 1 << 30);
    })
    .await;
    let _client = live.subscriber("news").await;
    live.reload("max_inflight_bytes", |config| config.max_inflight_bytes = 1_024);
    live.janus.publish("news", "1").await.unwrap();
    until("a full topic", || fills(&live, &"x".repeat(1_000))).await;
}

/// A client that reads nothing, without any limit of time.
async fn patient(change: impl FnOnce(&mut janus_core::Config)) -> (Live, Client) {
    let live = Live::start(|config| {
        (config.write_timeout, config.stall_timeout, config.max_queue_bytes) = (DAY, DAY, 1 << 30);
        change(config);
    })
    .await;
    let client = live.sluggish("news").await;
    (live, client)
}

pub(super) async fn max_queue_frames() {
    let (mut live, _client) = patient(|_| {}).await;
    live.reload("max_queue_frames", |config| config.max_queue_frames = 1);
    live.flood("news", 60).await;
    until("a full queue", || live.janus.stats().slow_consumers_queue_full == 1).await;
}

pub(super) async fn max_queue_bytes() {
    let (mut live, _client) = patient(|_| {}).await;
    live.reload("max_queue_bytes", |config| config.max_queue_bytes = 1_024);
    live.flood("news", 60).await;
    until("a full queue", || live.janus.stats().slow_consumers_queue_full == 1).await;
}

pub(super) async fn write_timeout() {
    let (mut live, _client) = patient(|_| {}).await;
    live.flood("news", 60).await;
    live.reload("write_timeout", |config| config.write_timeout = MOMENT);
    until("the end of a stalled client", || live.janus.stats().slow_consumers_stalled == 1).await;
}

pub(super) async fn stall_timeout() {
    let conflate = Namespace { slow_consumer: SlowConsumer::Conflate, ..Namespace::default() };
    let (mut live, _client) = patient(|config| config.default_namespace = conflate).await;
    live.flood("news", 60).await;
    live.reload("stall_timeout", |config| config.stall_timeout = MOMENT);
    until("the end of a stalled client", || live.janus.stats().slow_consumers_stalled == 1).await;
}

pub(super) async fn memory_budget_bytes() {
    let mut live = Live::start(|config| {
        config.default_namespace.history = true;
        (config.default_namespace.history_bytes, config.default_namespace.history_messages) = (1 << 30, 1_000_000);
        config.default_namespace.history_age = DAY;
    })
    .await;
    let _subscriber = live.subscriber("other").await;
    live.flood("news", 2_000).await;
    assert_eq!(live.janus.stats().messages_trimmed, 0);
    live.reload("memory_budget_bytes", |config| config.memory_budget_bytes = 16 << 20);
    until("history to be trimmed", || live.janus.stats().messages_trimmed > 0).await;
}

pub(super) async fn input_share() {
    let mut live = Live::start(|config| {
        (config.memory_budget_bytes, config.input_share, config.max_frame_bytes) = (16 << 20, 100, 4 << 20);
    })
    .await;
    let mut client = live.client().await;
    client.send("x".repeat(500_000)).await;
    live.reload("input_share", |config| config.input_share = 1);
    let _ = client.try_send("x".repeat(200_000)).await;
    until("the end of the client", || live.janus.stats().connections == 0).await;
}

pub(super) async fn drain_timeout() {
    let (mut live, _client) = patient(|config| config.drain_timeout = DAY).await;
    live.flood("news", 60).await;
    live.reload("drain_timeout", |config| config.drain_timeout = MOMENT);
    let report = timeout(DEADLINE, live.janus.shutdown()).await.expect("a drain in time");
    assert_eq!(report.cut_off, 1);
}

pub(super) async fn drain_period() {
    let mut live = Live::start(|config| (config.drain_timeout, config.drain_period) = (4 * DAY, DAY)).await;
    let _client = live.subscriber("news").await;
    live.reload("drain_period", |config| config.drain_period = Duration::ZERO);
    timeout(DEADLINE, live.janus.shutdown()).await.expect("a drain in time");
}

pub(super) async fn restart_time() {
    let mut live = Live::start(|config| config.restart_time = Duration::ZERO).await;
    let mut stream = Http::events(live.http, "topic=news", "").await;
    stream.id().await;
    live.reload("restart_time", |config| config.restart_time = DAY);
    live.janus.shutdown().await;
    let bye = stream.up_to("\n\n").await;
    let retry = bye.lines().find_map(|line| line.strip_prefix("retry: ")).unwrap();
    assert!(retry.parse::<u128>().unwrap() >= DAY.as_millis(), "{bye}");
}

/// Identities that end a second after they were given.
struct Brief;

impl Hooks for Brief {
    async fn authenticate(&self, _: ConnectRequest) -> Result<Identity, Denied> {
        Ok(Identity::user("alice").may_subscribe(true).expires(SystemTime::now() + Duration::from_secs(1)))
    }
}

pub(super) async fn token_grace() {
    let mut live = Live::start_with(|config| config.token_grace = DAY, Brief).await;
    live.reload("token_grace", |config| config.token_grace = Duration::ZERO);
    let mut client = live.client().await;
    assert_eq!(client.error_code().await, "token_expired");
}

pub(super) async fn max_revocations() {
    let mut live = Live::start(|_| {}).await;
    let revoke = |live: &Live, user: &str| live.janus.revoke(Revocation::user(user), SystemTime::now() + DAY);
    revoke(&live, "alice").unwrap();
    live.reload("max_revocations", |config| config.max_revocations = 1);
    assert_eq!(revoke(&live, "bob"), Err(RevokeError::TooMany { max: 1 }));
}

/// Hooks that let clients and events pass one by one.
#[derive(Clone)]
struct Gated {
    gate: Arc<Semaphore>,
    inside: Arc<AtomicUsize>,
}

impl Gated {
    fn new() -> Self {
        Self { gate: Arc::new(Semaphore::new(0)), inside: Arc::default() }
    }

    async fn pass(&self) {
        self.inside.fetch_add(1, Ordering::SeqCst);
        self.gate.acquire().await.unwrap().forget();
        self.inside.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Decisions wait at the gate.
struct Deciding(Gated);

impl Hooks for Deciding {
    async fn authenticate(&self, _: ConnectRequest) -> Result<Identity, Denied> {
        self.0.pass().await;
        Ok(Identity::anonymous().may_subscribe(true))
    }
}

/// Observers wait at the gate.
struct Observing(Gated);

impl Hooks for Observing {
    async fn connected(&self, _: &HookClient) {
        self.0.pass().await;
    }
}

pub(super) async fn hook_timeout() {
    let mut live = Live::start_with(|config| config.hook_timeout = DAY, Deciding(Gated::new())).await;
    live.reload("hook_timeout", |config| config.hook_timeout = MOMENT);
    assert_eq!(live.refusal().await, "authorization_failed");
}

pub(super) async fn max_hook_questions() {
    let gated = Gated::new();
    let mut live = Live::start_with(|config| config.hook_timeout = DAY, Deciding(gated.clone())).await;
    live.reload("max_hook_questions", |config| config.max_hook_questions = 1);
    let mut clients = Vec::new();
    for _ in 0..3 {
        clients.push(Client::connect_silently(live.classic).await);
    }
    until("three connections", || live.janus.stats().connections_accepted == 3).await;
    for client in clients {
        until("a question", || gated.inside.load(Ordering::SeqCst) > 0).await;
        assert_eq!(gated.inside.load(Ordering::SeqCst), 1);
        gated.gate.add_permits(1);
        drop(client);
        until("the answer", || gated.gate.available_permits() == 0).await;
    }
}

pub(super) async fn hook_queue() {
    let mut live = Live::start_with(|_| {}, Observing(Gated::new())).await;
    live.reload("hook_queue", |config| config.hook_queue = 1);
    for _ in 0..5 {
        live.client().await;
    }
    until("events to be left out", || live.janus.stats().hook_news_lost > 0).await;
}
