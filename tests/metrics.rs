//! The figures for a monitoring system: the format of a scrape, the events behind each figure, and a real Prometheus.

mod prometheus;
mod requests;
pub(crate) mod scrape;

use std::collections::BTreeSet;
use std::io::Write as _;
use std::net::SocketAddr;
use std::time::Duration;

use janus_core::hooks::{Client as HookClient, Denied, Hooks};
use janus_core::wire::classic::client::attach;
use janus_core::wire::{ErrorCode, TopicName};
use janus_core::{Config, Fault, Janus, MetricValue, Namespace, SlowConsumer, SubscribeOptions};
use tempfile::NamedTempFile;

use crate::cli_run::Running;
use crate::support::{Client, Close, own_address, publish, publish_frame, serve, subscribe_frame, subscribers, until};
use crate::tls::certificates::{Authority, Files};
use scrape::{Kind, Scrape, get};

/// The binary with an admin port.
struct Server {
    _running: Running,
    classic: String,
    http: String,
    admin: String,
}

/// A server with the namespace `chat`, on loopback.
fn start(flags: &[&str]) -> Server {
    start_with("", &[&["--admin-listen", "127.0.0.1:0"], flags].concat())
}

/// A server with these further settings at the top of its file.
fn start_with(settings: &str, flags: &[&str]) -> Server {
    let mut file = NamedTempFile::new().unwrap();
    write!(file, "{settings}\n[namespace.chat]\nhistory = true\n").unwrap();
    let config = file.path().display().to_string();
    let ports = ["--listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0"];
    let running = Running::start(&[&["--config", &config][..], &ports, flags].concat());
    let address = |words| running.error_line(words).rsplit(' ').next().unwrap().to_owned();
    let (classic, http, admin) = (address("listening on"), address("serving HTTP on"), address("admin port on"));
    Server { _running: running, classic, http, admin }
}

impl Server {
    fn scrape(&self) -> Scrape {
        let answer = get(&self.admin, "/metrics", &[]);
        assert_eq!(answer.status, 200, "{}", answer.body);
        let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
        assert_eq!(answer.header("content-type"), Some(kind));
        Scrape::parse(&answer.body)
    }

    async fn client(&self) -> Client {
        Client::connect(self.classic.parse().unwrap()).await
    }
}

#[tokio::test]
async fn a_scrape_is_strict_and_its_counters_only_rise() {
    let server = start(&[]);
    let before = server.scrape();
    let mut subscriber = server.client().await;
    subscriber.subscribe("chat:lobby").await;
    subscriber.subscribe("strange:topic").await;
    let mut publisher = server.client().await;
    for topic in ["chat:lobby", "strange:topic"] {
        publisher.send(publish_frame(topic, "1")).await;
        publisher.json().await;
        subscriber.json().await;
    }
    for path in ["/api/topics", "/wp-admin?x=1", "/api/strange\\path"] {
        get(&server.http, path, &[]);
    }
    let after = server.scrape();
    let names = |scrape: &Scrape| scrape.families.keys().cloned().collect::<BTreeSet<_>>();
    assert_eq!(names(&before), names(&after), "a family does not come and go");
    for (series, value) in &before.series {
        if series.kind != Kind::Gauge {
            assert!(after.series[series] >= *value, "{series:?} fell from {value} to {}", after.series[series]);
        }
    }
}

#[tokio::test]
async fn labels_have_closed_sets_of_values_whatever_strangers_send() {
    let server = start(&["--threads", "2", "--homes", "2"]);
    let mut client = server.client().await;
    for topic in ["chat:lobby", "stranger:1", "default:x", "no namespace"] {
        client.subscribe(topic).await;
        client.send(publish_frame(topic, "1")).await;
        // The receipt and the message.
        client.json().await;
        client.json().await;
    }
    client.send(b"{\"action\":\"nonsense\"}\x01").await;
    client.error_code().await;
    for path in ["/strange", "/metrics/", "/api/topics?limit=0"] {
        get(&server.http, path, &[]);
    }
    let scrape = server.scrape();
    let codes = ErrorCode::ALL.iter().map(|code| code.as_str()).chain(["by_client"]);
    let transports = ["cbor", "classic", "http", "sse", "websocket"];
    let sets: [(&str, Vec<&str>); 6] = [
        ("code", codes.collect()),
        ("namespace", vec!["chat", "default"]),
        ("transport", transports.to_vec()),
        ("via", [&transports[..], &["api"]].concat()),
        ("thread", vec!["home-1", "home-2", "control", "application"]),
        ("policy", vec!["drop_oldest", "drop_newest", "conflate"]),
    ];
    for (label, set) in sets {
        let values = scrape.values_of(label);
        assert!(!values.is_empty() && values.iter().all(|value| set.contains(&value.as_str())), "{label}: {values:?}");
    }
    let paths = scrape.values_of("path");
    assert!(paths.contains("/metrics") || paths.contains("other"), "{paths:?}");
    assert!(paths.iter().all(|path| path == "other" || path.starts_with("/api/") || path == "/metrics"), "{paths:?}");
    assert_eq!(scrape.value("janus_published", &[("namespace", "chat"), ("via", "classic")]), 1.0);
    assert_eq!(scrape.value("janus_published", &[("namespace", "default"), ("via", "classic")]), 3.0);
    assert_eq!(scrape.value("janus_http_requests", &[("path", "other"), ("status", "404")]), 2.0);
    assert_eq!(scrape.value("janus_http_requests", &[("path", "/api/topics"), ("status", "400")]), 1.0);
}

#[tokio::test]
async fn the_figures_follow_a_client_from_its_connection_to_its_end() {
    let server = start(&["--homes", "1"]);
    let mut client = server.client().await;
    client.subscribe("chat:lobby").await;
    let mut publisher = server.client().await;
    for number in 0..3 {
        publisher.send(publish_frame("chat:lobby", &number.to_string())).await;
        publisher.json().await;
        client.json().await;
    }
    // A piece is counted after its last send.
    until("the messages are counted", || {
        let scrape = server.scrape();
        scrape.value("janus_deliveries", &[]) >= 3.0 && scrape.count("janus_fanout_duration_seconds") >= 3.0
    })
    .await;
    let scrape = server.scrape();
    let value = |name: &str| scrape.value(name, &[]);
    assert_eq!(scrape.value("janus_connections", &[("transport", "classic")]), 2.0);
    assert_eq!(scrape.value("janus_sessions", &[("state", "attached")]), 2.0);
    assert_eq!((value("janus_topics"), value("janus_subscriptions"), value("janus_deliveries")), (1.0, 1.0, 3.0));
    assert_eq!(value("janus_connections_accepted"), 2.0);
    assert!(value("janus_delivered_bytes") > 100.0, "{}", value("janus_delivered_bytes"));
    assert_eq!(scrape.count("janus_fanout_duration_seconds"), 3.0);
    assert!(scrape.count("janus_arbiter_turn_seconds") > 3.0);
    let busy = scrape.value("janus_arbiter_busy_seconds", &[("thread", "home")]);
    let ratio = scrape.value("janus_arbiter_busy_ratio", &[("thread", "home")]);
    assert!(busy > 0.0 && (0.0..=1.0).contains(&ratio), "{busy} s, {ratio}");
    for check in ["draining", "arbiter", "memory", "connections", "keys"] {
        assert_eq!(scrape.value("janus_ready", &[("check", check)]), 1.0, "{check}");
    }
    assert!(value("janus_memory_used_bytes") > 2_000.0 && value("process_open_fds") > 5.0);

    drop(client);
    drop(publisher);
    until("both have gone", || {
        let scrape = server.scrape();
        scrape.value("janus_disconnects", &[("code", "by_client")]) == 2.0
            && scrape.value("janus_connections", &[("transport", "classic")]) == 0.0
            && scrape.value("janus_sessions", &[("state", "detached")]) == 1.0
    })
    .await;
}

/// A figure of an instance in this process; 0 without a series of these labels.
fn figure(janus: &Janus, family: &str, labels: &[(&str, &str)]) -> u64 {
    let families = janus.metrics();
    let family = families.iter().find(|known| known.name == family).unwrap_or_else(|| panic!("no family {family}"));
    let is_meant = |own: &[(&str, std::borrow::Cow<'_, str>)]| {
        own.iter().map(|(name, value)| (*name, &**value)).eq(labels.iter().copied())
    };
    let series = family.series.iter().find(|series| is_meant(&series.labels));
    series.map_or(0, |series| match &series.value {
        MetricValue::Integer(value) => *value,
        MetricValue::Distribution(distribution) => distribution.count(),
        other => panic!("{other:?}"),
    })
}

#[tokio::test]
async fn a_slow_client_is_counted_with_its_reason_and_its_end() {
    let config = Config { max_queue_bytes: 8 * 1024, send_buffer_bytes: 4 * 1024, ..Config::default() };
    let (janus, addr) = serve(config).await;
    let mut client = Client::connect(addr).await;
    client.subscribe("news").await;
    let padding = "x".repeat(30_000);
    let reason = [("reason", "queue_full")];
    while figure(&janus, "slow_consumers", &reason) == 0 {
        janus.publish("news", &padding).await.unwrap();
    }
    until("the connection has ended", || figure(&janus, "disconnects", &[("code", "slow_consumer")]) == 1).await;
    assert_eq!(figure(&janus, "slow_consumers", &[("reason", "stalled")]), 0);
    assert_eq!(figure(&janus, "subscriptions", &[]), 0);
}

#[tokio::test]
async fn a_dropped_message_is_counted_by_policy_and_not_as_delivered_twice() {
    let (janus, _) = serve(Config::default()).await;
    let options = SubscribeOptions::default().max_queue_frames(2).slow_consumer(SlowConsumer::DropOldest);
    let _subscriber = janus.subscribe_with("news", options).unwrap();
    for number in 0..10 {
        janus.publish("news", &number).await.unwrap();
    }
    until("all have been handed over", || figure(&janus, "deliveries", &[]) == 10).await;
    assert_eq!(figure(&janus, "messages_dropped", &[("policy", "drop_oldest")]), 8);
    assert_eq!(figure(&janus, "messages_dropped", &[("policy", "conflate")]), 0);
    assert_eq!(figure(&janus, "published", &[("namespace", "default"), ("via", "api")]), 10);
}

#[tokio::test]
async fn a_refused_client_is_counted_with_the_reason() {
    let (janus, addr) = serve(Config { max_connections: 1, ..Config::default() }).await;
    let _first = Client::connect(addr).await;
    let mut second = Client::connect(addr).await;
    second.send(subscribe_frame("news")).await;
    assert_eq!(second.error_code().await, "too_many_connections");
    assert_eq!(second.close().await, Close::Fin);
    assert_eq!(figure(&janus, "connections_refused", &[("reason", "full")]), 1);
    assert_eq!(figure(&janus, "connections_refused", &[("reason", "memory")]), 0);
    until("the refused client has gone", || figure(&janus, "disconnects", &[("code", "too_many_connections")]) == 1)
        .await;
    assert_eq!(figure(&janus, "connections", &[("transport", "classic")]), 1, "a refused client is not connected");
    assert_eq!((figure(&janus, "places_taken", &[]), figure(&janus, "connections_limit", &[])), (1, 1));
}

#[tokio::test]
async fn a_returning_client_is_counted_as_resumed_or_not() {
    let (janus, addr) = serve(Config::default()).await;
    let mut client = Client::connect_silently(addr).await;
    let token = client.json().await["token"].as_str().unwrap().to_owned();
    client.subscribe("news").await;
    drop(client);
    until("the session is detached", || janus.stats().detached_sessions == 1).await;
    for number in 0..3 {
        janus.publish("news", &number).await.unwrap();
    }
    let mut back = Client::connect(addr).await;
    back.send(attach(&token, [("news", 0), ("other", 7)])).await;
    back.json().await;
    for _ in 0..3 {
        back.json().await;
    }
    assert_eq!(figure(&janus, "resumes", &[("result", "resumed")]), 1);
    assert_eq!(figure(&janus, "resumes", &[("result", "not_resumed")]), 1);
    assert_eq!(figure(&janus, "messages_replayed", &[]), 3);
    assert_eq!(figure(&janus, "resume_gaps", &[]), 0);
}

#[tokio::test]
async fn a_refused_message_is_counted_by_its_code_for_clients_and_for_the_program() {
    let default_namespace = Namespace { history: true, ..Namespace::default() };
    let (janus, addr) =
        serve(Config { max_frame_bytes: 1_000, max_topics: 1, default_namespace, ..Config::default() }).await;
    assert!(janus.publish("news", &"x".repeat(1_000)).await.is_err());
    assert_eq!(figure(&janus, "publish_errors", &[("code", "bad_publish")]), 1);

    let _subscriber = janus.subscribe("news").unwrap();
    let mut publisher = Client::connect(addr).await;
    publisher.send(publish_frame("other", "1")).await;
    assert_eq!(publisher.error_code().await, "too_many_topics_on_server");
    assert_eq!(figure(&janus, "publish_errors", &[("code", "too_many_topics_on_server")]), 1);
    assert_eq!(figure(&janus, "published", &[("namespace", "default"), ("via", "classic")]), 0);
}

#[tokio::test]
async fn a_restart_is_counted_by_the_kind_of_the_actor() {
    let (janus, addr) = serve(Config::default()).await;
    janus.inject(Fault::TopicManager);
    until("a restart", || figure(&janus, "actor_restarts", &[("actor", "topic_manager")]) == 1).await;
    assert_eq!(figure(&janus, "actor_restarts", &[("actor", "proxy_mapper")]), 0);
    let _subscriber = janus.subscribe("news").unwrap();
    janus.inject(Fault::TopicCommit(1));
    publish(addr, "news", "1").await;
    until("the topic is up again", || figure(&janus, "actor_restarts", &[("actor", "topic")]) == 1).await;
}

struct NoSecrets;

impl Hooks for NoSecrets {
    async fn authorize_subscribe(&self, _: &HookClient, topic: &TopicName) -> Result<(), Denied> {
        match topic.as_str() {
            "secret" => Err(Denied::new("this topic is secret")),
            "slow" => std::future::pending().await,
            _ => Ok(()),
        }
    }
}

#[tokio::test]
async fn questions_to_hooks_are_timed_by_hook_and_result() {
    let config = Config { listen: vec![own_address()], hook_timeout: Duration::from_millis(100), ..Config::default() };
    let janus = Janus::builder().config(config).hooks(NoSecrets).start().await.unwrap();
    let mut client = Client::connect(janus.local_addrs()[0]).await;
    client.subscribe("news").await;
    for topic in ["secret", "slow"] {
        client.send(subscribe_frame(topic)).await;
        client.error_code().await;
    }
    let asked = |hook, result| figure(&janus, "hook_seconds", &[("hook", hook), ("result", result)]);
    assert_eq!(asked("authenticate", "allowed"), 1);
    let subscribes = ["allowed", "denied", "timed_out", "failed"].map(|result| asked("authorize_subscribe", result));
    assert_eq!(subscribes, [1, 1, 1, 0]);
    janus.shutdown().await;
}

#[tokio::test]
async fn a_certificate_and_handshakes_are_counted() {
    let (authority, files) = (Authority::new(), Files::new());
    let config = files.config("server", &authority.server(&["localhost"]));
    let config = Config { listen: Vec::new(), tls_listen: vec![own_address()], ..config };
    let janus = Janus::builder().config(config).start().await.unwrap();
    let addr: SocketAddr = janus.local_addrs()[0];
    let client = Client::connect_silently(addr).await.over(&authority.connector(None)).await.unwrap();
    let _client = client.greeted().await;
    let mut stranger = Client::connect_silently(addr).await;
    stranger.send(b"GET / HTTP/1.1\r\n\r\n").await;
    until("the handshake has failed", || figure(&janus, "tls_handshakes", &[("result", "failed")]) == 1).await;
    assert_eq!(figure(&janus, "tls_handshakes", &[("result", "completed")]), 1);
    let now = std::time::SystemTime::now().duration_since(std::time::SystemTime::UNIX_EPOCH).unwrap().as_secs();
    assert!(figure(&janus, "tls_certificate_expiry_seconds", &[]) > now);
    janus.shutdown().await;
}

#[tokio::test]
async fn off_loopback_the_figures_need_the_key() {
    let server = start_with("api_key = \"correct-horse-battery\"", &["--admin-listen", "0.0.0.0:0"]);
    let port = server.admin.rsplit(':').next().unwrap();
    let admin = format!("127.0.0.1:{port}");
    assert_eq!(get(&admin, "/metrics", &[]).status, 401);
    let answer = get(&admin, "/metrics", &[("Authorization", "Bearer correct-horse-battery")]);
    assert_eq!(answer.status, 200);
    Scrape::parse(&answer.body);
    assert_eq!(get(&server.http, "/metrics", &[]).status, 404, "the HTTP port does not serve the figures");
}

#[tokio::test]
async fn a_scrape_lists_no_topic_and_takes_the_same_time_with_many() {
    let namespace = Namespace { history: true, ..Namespace::default() };
    let config = Config { default_namespace: namespace, ..Config::default() };
    let (janus, _) = serve(config).await;
    let lines = |janus: &Janus| janus.metrics().iter().map(|family| family.series.len()).sum::<usize>();
    janus.publish("topic 0", "x").await.unwrap();
    let before = lines(&janus);
    for number in 1..2_000 {
        janus.publish(&format!("topic {number}"), "x").await.unwrap();
    }
    assert_eq!((figure(&janus, "topics", &[]), lines(&janus)), (2_000, before));
    assert_eq!(subscribers(&janus, "topic 1999"), Some(0));
}
