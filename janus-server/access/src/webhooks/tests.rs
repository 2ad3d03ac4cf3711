//! Webhooks with backends that take, refuse and vanish.

use std::future::ready;
use std::net::SocketAddr;
use std::sync::atomic::AtomicBool;

use janus_core::wire::classic::client::subscribe;
use janus_core::{Config, Janus};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::*;
use crate::ask::Ask;
use crate::settings::Secrets;
use crate::testing::{DEADLINE, Seen, backend, until};

fn webhooks(url: &Url, change: impl FnOnce(&mut AccessSettings)) -> Webhooks<Ask> {
    let mut settings = AccessSettings { webhook_url: Some(url.clone()), ..Default::default() };
    change(&mut settings);
    let backend = Backend::new(&settings).unwrap();
    Webhooks::new(&backend, &settings, Ask::new(&backend, &settings))
}

async fn instance(webhooks: Webhooks<Ask>) -> Janus {
    let config = Config {
        listen: vec![SocketAddr::from(([127, 0, 0, 1], 0))],
        http_listen: Vec::new(),
        drain_period: Duration::ZERO,
        ..Config::default()
    };
    Janus::builder().config(config).hooks(webhooks).start().await.unwrap()
}

/// A client that is subscribed to a topic.
async fn subscriber(janus: &Janus, topic: &str) -> TcpStream {
    let mut client = TcpStream::connect(janus.local_addrs()[0]).await.unwrap();
    client.write_all(&subscribe(topic)).await.unwrap();
    let mut received = Vec::new();
    while !received.ends_with(b"ACK\x01") {
        received.push(client.read_u8().await.unwrap());
    }
    client
}

/// All events in the order of their arrival.
fn events(seen: &Seen) -> Vec<Value> {
    seen.requests.lock().iter().flat_map(|request| request.json()["events"].as_array().unwrap().clone()).collect()
}

fn names(seen: &Seen) -> Vec<String> {
    events(seen).iter().map(|event| event["event"].as_str().unwrap().to_owned()).collect()
}

fn topic(name: &str) -> TopicName {
    TopicName::new(name, 255).unwrap()
}

fn taken() -> std::future::Ready<(u16, String)> {
    ready((204, String::new()))
}

#[tokio::test]
async fn the_backend_is_told_of_clients_and_topics() {
    let (url, seen) = backend(|_| taken()).await;
    let webhooks = webhooks(&url, |settings| settings.webhook_linger = Duration::ZERO);
    let reporter = webhooks.reporter();
    let janus = instance(webhooks).await;
    let client = subscriber(&janus, "news").await;
    until("both are told", || names(&seen) == ["connected", "topic_occupied"]).await;
    let peer = client.local_addr().unwrap().to_string();
    drop(client);
    let all = ["connected", "topic_occupied", "disconnected", "topic_vacated"];
    until("the end is told", || names(&seen).len() == 4).await;
    let mut told = names(&seen);
    told.sort_unstable();
    assert_eq!(told, {
        let mut all = all;
        all.sort_unstable();
        all
    });
    let events = events(&seen);
    assert_eq!((&events[0]["peer"], &events[0]["transport"]), (&peer.into(), &"classic".into()));
    assert_eq!(events[1]["topic"], "news");
    let disconnected = events.iter().find(|event| event["event"] == "disconnected").unwrap();
    assert_eq!((&disconnected["connection"], disconnected.get("code")), (&events[0]["connection"], None));
    until("all are counted", || reporter.stats().delivered == 4).await;
    janus.shutdown().await;
}

#[tokio::test]
async fn a_client_that_comes_right_back_vacates_no_topic() {
    let (url, seen) = backend(|_| taken()).await;
    let webhooks = webhooks(&url, |settings| settings.webhook_linger = DEADLINE);
    let reporter = webhooks.reporter();
    let news = topic("news");
    webhooks.topic_occupied(&news).await;
    for _ in 0..100 {
        webhooks.topic_vacated(&news).await;
        webhooks.topic_occupied(&news).await;
    }
    webhooks.topic_occupied(&topic("other")).await;
    webhooks.topic_vacated(&topic("other")).await;
    assert_eq!(reporter.flush(DEADLINE).await, 0);
    // At the end nothing lingers.
    assert_eq!(names(&seen), ["topic_occupied", "topic_occupied", "topic_vacated"]);
    assert_eq!(events(&seen)[2]["topic"], "other");
}

#[tokio::test(start_paused = true)]
async fn a_topic_left_alone_is_vacated_after_its_time() {
    let mut outbox = Outbox::default();
    assert!(outbox.linger(&topic("news"), Instant::now() + Duration::from_secs(3), 10));
    tokio::time::advance(Duration::from_millis(2_999)).await;
    assert_eq!(outbox.take_vacated(Some(Instant::now())), None);
    tokio::time::advance(Duration::from_millis(1)).await;
    assert_eq!(outbox.take_vacated(Some(Instant::now())), Some(topic("news")));
}

#[tokio::test]
async fn events_are_sent_again_in_order_until_they_are_taken() {
    let attempts = AtomicU64::new(0);
    let (url, seen) = backend(move |_| {
        let refused = attempts.fetch_add(1, Ordering::SeqCst) < 2;
        ready((if refused { 500 } else { 200 }, String::new()))
    })
    .await;
    let webhooks = webhooks(&url, |_| {});
    let reporter = webhooks.reporter();
    let topics: Vec<_> = (0..250).map(|number| topic(&number.to_string())).collect();
    for topic in &topics {
        webhooks.topic_occupied(topic).await;
    }
    until("all are taken", || reporter.stats().delivered == 250).await;
    let sizes: Vec<usize> =
        seen.requests.lock().iter().map(|request| request.json()["events"].as_array().unwrap().len()).collect();
    assert_eq!(sizes, [100, 100, 100, 100, 50], "a batch is sent again as it was");
    let mut ids = Vec::new();
    for event in events(&seen) {
        // A backend knows an event by its id.
        if !ids.contains(&event["id"]) {
            ids.push(event["id"].clone());
        }
    }
    let instance = seen.requests.lock()[0].json()["instance"].as_str().unwrap().to_owned();
    assert_eq!(ids, (1..=250).map(|number| format!("{instance}-{number}").into()).collect::<Vec<Value>>());
    assert_eq!(reporter.stats().failed_requests, 2);
}

#[tokio::test]
async fn each_attempt_is_signed_with_both_keys_of_a_rotation() {
    let (url, seen) = backend(|_| taken()).await;
    let keys = "correct-horse-battery,another-horse-battery";
    let webhooks = webhooks(&url, |settings| settings.backend_secret = Secrets::new(keys));
    webhooks.topic_occupied(&topic("news")).await;
    assert_eq!(webhooks.reporter().flush(DEADLINE).await, 0);
    let request = seen.requests.lock()[0].clone();
    let signature = &request.headers["janus-signature"];
    let time: u64 = signature.strip_prefix("t=").unwrap().split(',').next().unwrap().parse().unwrap();
    let signer = crate::signature::Signer::new(&Secrets::new(keys));
    let at = SystemTime::UNIX_EPOCH + Duration::from_secs(time);
    assert_eq!(signer.sign(at, request.body.as_bytes()).unwrap(), signature);
    assert_eq!(signature.matches("v1=").count(), 2);
}

#[tokio::test]
async fn events_beyond_the_queue_are_left_out_and_counted() {
    let (url, _) = backend(|_| std::future::pending()).await;
    let webhooks = webhooks(&url, |settings| settings.webhook_queue = 100);
    let reporter = webhooks.reporter();
    for number in 0..80 {
        webhooks.topic_occupied(&topic(&number.to_string())).await;
    }
    assert_eq!((reporter.stats().waiting, reporter.stats().lost), (50, 30), "half is for the events of clients");
    assert_eq!(reporter.flush(Duration::from_millis(20)).await, 50, "nobody takes the events");
}

#[tokio::test]
async fn what_waits_is_sent_at_the_end_even_after_a_failure() {
    let broken = Arc::new(AtomicBool::new(true));
    let state = Arc::clone(&broken);
    let (url, seen) =
        backend(move |_| ready((if state.load(Ordering::SeqCst) { 503 } else { 200 }, String::new()))).await;
    let webhooks = webhooks(&url, |_| {});
    let reporter = webhooks.reporter();
    let janus = instance(webhooks).await;
    let client = subscriber(&janus, "news").await;
    until("an attempt has failed", || reporter.stats().failed_requests > 2).await;
    broken.store(false, Ordering::SeqCst);
    janus.shutdown().await;
    assert_eq!(reporter.flush(DEADLINE).await, 0);
    drop(client);
    let events = events(&seen);
    let disconnected = events.iter().find(|event| event["event"] == "disconnected").unwrap();
    assert!(disconnected["code"].is_string(), "the server has ended the connection: {disconnected}");
}

#[tokio::test]
async fn without_an_address_nothing_waits() {
    let settings = AccessSettings::default();
    let backend = Backend::new(&settings).unwrap();
    let webhooks = Webhooks::new(&backend, &settings, Ask::new(&backend, &settings));
    webhooks.topic_occupied(&topic("news")).await;
    webhooks.topic_vacated(&topic("news")).await;
    assert_eq!((webhooks.reporter().stats(), webhooks.reporter().flush(DEADLINE).await), (WebhookStats::default(), 0));
}
