//! How an instance ends: what is queued is delivered, each connection closes with a FIN, and nothing is left.

use std::time::Duration;

use janus_core::{Config, PublishError};
use tokio::net::TcpStream;

use crate::support::{Client, Close, serve};

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
    let report = janus.shutdown().await;
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
