//! How an instance ends: what is queued is delivered, each connection closes with a FIN, and nothing is left.

use std::time::Duration;

use janus_core::{Config, Fault, Message, PublishError};
use tokio::net::TcpStream;

use crate::support::{Client, Close, serve, until};

#[tokio::test]
async fn a_shutdown_delivers_what_is_queued_and_closes_with_a_fin() {
    let (janus, addr) = serve(Config { send_buffer_bytes: 8 * 1024, ..Config::default() }).await;
    let mut lagging = Client::connect(addr).await;
    lagging.subscribe("news").await;
    let mut idle = Client::connect(addr).await;
    let padding = "x".repeat(1_000);
    for i in 0..500 {
        janus.publish("news", &(i, &padding)).await.unwrap();
    }
    let shutdown = tokio::spawn({
        let janus = janus.clone();
        async move { janus.shutdown().await }
    });
    assert_eq!(idle.close().await, Close::Fin);
    drop(idle);
    for i in 0..500 {
        assert_eq!(lagging.json().await["data"][0], i);
    }
    assert_eq!(lagging.close().await, Close::Fin);
    drop(lagging);
    let report = shutdown.await.unwrap();
    assert_eq!((report.connections, report.cut_off), (2, 0));
    assert!(TcpStream::connect(addr).await.is_err(), "nobody listens any more");
}

#[tokio::test]
async fn a_message_that_was_accepted_just_before_the_shutdown_is_delivered() {
    for _ in 0..20 {
        let (janus, addr) = serve(Config::default()).await;
        let mut subscriber = Client::connect(addr).await;
        subscriber.subscribe("news").await;
        // The shutdown begins while the message is still in the topic's inbox.
        janus.inject(Fault::TopicHang(Duration::from_millis(20)));
        drop(janus.try_publish(Message::new("news", "last").unwrap()).unwrap());
        let shutdown = tokio::spawn(async move { janus.shutdown().await });
        assert_eq!(subscriber.json().await["data"], "last");
        assert_eq!(subscriber.close().await, Close::Fin);
        drop(subscriber);
        shutdown.await.unwrap();
    }
}

#[tokio::test]
async fn a_topic_out_of_service_does_not_hold_a_shutdown_up() {
    let (janus, addr) = serve(Config { drain_timeout: Duration::from_secs(20), ..Config::default() }).await;
    let mut subscriber = Client::connect(addr).await.reset_on_drop();
    subscriber.subscribe("cursed").await;
    janus.inject(Fault::TopicStarts(100));
    // It has its number, and nobody to hand it out.
    janus.inject(Fault::TopicCommit(1));
    drop(janus.try_publish(Message::new("cursed", "x").unwrap()).unwrap());
    until("the topic is out of service", || janus.topic("cursed").is_some_and(|topic| !topic.available)).await;
    let begun = tokio::time::Instant::now();
    janus.shutdown().await;
    assert!(begun.elapsed() < Duration::from_secs(10), "it took {:?}", begun.elapsed());
}

#[tokio::test]
async fn a_client_that_reads_nothing_holds_a_shutdown_up_for_drain_timeout_and_no_longer() {
    let config = Config { send_buffer_bytes: 8 * 1024, drain_timeout: Duration::from_millis(200), ..Config::default() };
    let (janus, addr) = serve(config).await;
    let mut stalled = Client::connect(addr).await;
    stalled.subscribe("news").await;
    let padding = "x".repeat(60_000);
    // Until something waits that the kernel does not take.
    for _ in 0..15 {
        janus.publish("news", &padding).await.unwrap();
    }
    let begun = tokio::time::Instant::now();
    let (report, second) = tokio::join!(janus.shutdown(), janus.shutdown());
    assert!(begun.elapsed() < Duration::from_secs(2), "it took {:?}", begun.elapsed());
    assert_eq!(second.cut_off, 1, "whoever asks second waits as well");
    assert_eq!(report.connections, 1);
    assert_eq!(report.cut_off, 1);
}

#[tokio::test]
async fn after_a_shutdown_publishing_says_why_it_fails_and_waiting_returns() {
    let (janus, _) = serve(Config::default()).await;
    janus.shutdown().await;
    assert_eq!(janus.publish("news", "late").await, Err(PublishError::ShuttingDown));
    assert!(!janus.wait().await.is_abnormal());
    janus.shutdown().await;
}
