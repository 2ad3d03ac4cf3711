//! The end of an instance: queued messages are delivered, each connection closes with a FIN, and nothing is left.

use std::time::Duration;

use janus_core::{Config, Fault, Message, PublishError};
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::support::{Client, Close, publish_frame, serve, until};

#[tokio::test]
async fn a_shutdown_delivers_the_queues_and_closes_with_a_fin() {
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
async fn a_drain_closes_clients_spread_over_time_and_not_in_accept_order() {
    let drain_period = Duration::from_millis(300);
    let (janus, addr) = serve(Config { drain_period, ..Config::default() }).await;
    let (closed, mut order) = tokio::sync::mpsc::channel(60);
    for number in 0..60 {
        let mut client = Client::connect(addr).await;
        client.subscribe("news").await;
        let closed = closed.clone();
        tokio::spawn(async move {
            assert_eq!(client.json().await["data"], "last");
            assert_eq!(client.close().await, Close::Fin);
            closed.send(number).await.expect("somebody listens");
        });
    }
    drop(closed);
    janus.publish("news", "last").await.unwrap();
    let begun = Instant::now();
    let report = janus.shutdown().await;
    // All but the last batch are closed before the period ends.
    assert!(begun.elapsed() > drain_period / 2, "it took {:?}", begun.elapsed());
    assert_eq!((report.connections, report.cut_off), (60, 0));
    let mut numbers = Vec::new();
    while let Some(number) = order.recv().await {
        numbers.push(number);
    }
    assert_eq!(numbers.len(), 60);
    assert!(!numbers.is_sorted(), "{numbers:?}");
}

#[tokio::test]
async fn a_drain_refuses_connects_and_publishes_until_the_last_client_left() {
    let (drain_period, drain_timeout) = (Duration::from_secs(600), Duration::from_secs(600));
    let (janus, addr) = serve(Config { drain_period, drain_timeout, ..Config::default() }).await;
    let mut clients = Vec::new();
    for _ in 0..10 {
        clients.push(Client::connect(addr).await);
    }
    let callers = (0..3).map(|_| {
        let janus = janus.clone();
        tokio::spawn(async move { janus.shutdown().await })
    });
    let callers = callers.collect::<Vec<_>>();
    // One client is closed in each minute, the first at once.
    let mut refused = false;
    while !refused {
        refused = TcpStream::connect(addr).await.is_err();
    }
    assert!(janus.stats().connections > 0, "they are closed after nobody can come any more");
    while janus.publish("news", "late").await != Err(PublishError::ShuttingDown) {}
    let mut publishers_refused = 0;
    for client in &mut clients {
        client.send(publish_frame("news", "1")).await;
        if let Ok(frame) = client.next().await {
            assert!(String::from_utf8_lossy(&frame).contains("server_draining"), "{frame:?}");
            publishers_refused += 1;
        }
    }
    assert!(publishers_refused > 0, "they are open and told so");
    drop(clients);
    let mut reports = Vec::new();
    for caller in callers {
        reports.push(caller.await.unwrap());
    }
    // In addition, clients that connected at the beginning of the drain.
    assert!(reports[0].connections >= 10);
    assert!(reports.iter().all(|report| *report == reports[0]), "whoever waits gets the same report: {reports:?}");
}

#[tokio::test]
async fn a_slow_client_does_not_keep_a_drain_from_closing_the_others() {
    let (drain_period, drain_timeout) = (Duration::from_millis(100), Duration::from_secs(600));
    let config = Config { send_buffer_bytes: 8 * 1024, drain_period, drain_timeout, ..Config::default() };
    let (janus, addr) = serve(config).await;
    let mut stalled = Client::connect(addr).await.reset_on_drop();
    stalled.subscribe("news").await;
    let mut others = Vec::new();
    for _ in 0..20 {
        others.push(Client::connect(addr).await);
    }
    let padding = "x".repeat(60_000);
    for _ in 0..15 {
        janus.publish("news", &padding).await.unwrap();
    }
    let shutdown = tokio::spawn(async move { janus.shutdown().await });
    for client in &mut others {
        assert_eq!(client.close().await, Close::Fin);
    }
    assert!(!shutdown.is_finished(), "the slow client has its time");
    drop((others, stalled));
    assert_eq!(shutdown.await.unwrap().connections, 21);
}

#[tokio::test]
async fn a_message_accepted_just_before_the_shutdown_is_delivered() {
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
async fn a_topic_out_of_service_does_not_delay_a_shutdown() {
    let (janus, addr) = serve(Config { drain_timeout: Duration::from_secs(20), ..Config::default() }).await;
    let mut subscriber = Client::connect(addr).await.reset_on_drop();
    subscriber.subscribe("cursed").await;
    janus.inject(Fault::TopicStarts(100));
    // The message has a number, but no actor to deliver it.
    janus.inject(Fault::TopicCommit(1));
    drop(janus.try_publish(Message::new("cursed", "x").unwrap()).unwrap());
    until("the topic is out of service", || janus.topic_info("cursed").is_some_and(|topic| !topic.available)).await;
    let begun = Instant::now();
    janus.shutdown().await;
    assert!(begun.elapsed() < Duration::from_secs(10), "it took {:?}", begun.elapsed());
}

#[tokio::test]
async fn a_client_that_reads_nothing_delays_a_shutdown_by_drain_timeout() {
    let config = Config { send_buffer_bytes: 8 * 1024, drain_timeout: Duration::from_millis(200), ..Config::default() };
    let (janus, addr) = serve(config).await;
    let mut stalled = Client::connect(addr).await;
    stalled.subscribe("news").await;
    let padding = "x".repeat(60_000);
    // Until bytes wait that the kernel does not take.
    for _ in 0..15 {
        janus.publish("news", &padding).await.unwrap();
    }
    let begun = Instant::now();
    let (report, second) = tokio::join!(janus.shutdown(), janus.shutdown());
    assert!(begun.elapsed() < Duration::from_secs(2), "it took {:?}", begun.elapsed());
    assert_eq!(second.cut_off, 1, "whoever asks second waits as well");
    assert_eq!(report.connections, 1);
    assert_eq!(report.cut_off, 1);
}

#[tokio::test]
async fn after_a_shutdown_publishing_fails_with_a_reason_and_wait_returns() {
    let (janus, _) = serve(Config::default()).await;
    janus.shutdown().await;
    assert_eq!(janus.publish("news", "late").await, Err(PublishError::ShuttingDown));
    assert!(!janus.wait().await.is_abnormal());
    janus.shutdown().await;
}
