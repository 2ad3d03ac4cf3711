//! Clients that do not keep up: their fate, the reports about them, and the absence of harm to other clients.

use std::time::Duration;

use janus_core::{Config, Namespace, SlowConsumer};

use crate::support::{Client, Close, serve, until};

fn with_policy(slow_consumer: SlowConsumer, config: Config) -> Config {
    let namespace = Namespace { slow_consumer, ..config.default_namespace.clone() };
    Config { default_namespace: namespace, send_buffer_bytes: 4 * 1024, ..config }
}

#[tokio::test]
async fn a_client_that_takes_nothing_for_write_timeout_is_cut_off() {
    let config = Config { write_timeout: Duration::from_millis(100), ..Config::default() };
    let (janus, addr) = serve(with_policy(SlowConsumer::Disconnect, config)).await;
    let mut client = Client::connect(addr).await;
    client.subscribe("news").await;
    let padding = "x".repeat(30_000);
    // More than the sockets hold, which may need a while to fill, and less than the queue.
    while janus.stats().slow_consumers_stalled == 0 {
        if janus.slow_clients(1).is_empty() {
            janus.publish("news", &padding).await.unwrap();
        }
        tokio::task::yield_now().await;
    }
    until("it is gone", || janus.stats().connections == 0).await;
    let stats = janus.stats();
    assert_eq!((stats.slow_consumers, stats.slow_consumers_queue_full), (1, 0));
    // The client can still read the sent messages, and then the stream breaks off visibly.
    let close = loop {
        if let Err(close) = client.next().await {
            break close;
        }
    };
    assert_eq!(close, Close::Reset);
}

#[tokio::test]
async fn a_client_that_reads_a_little_now_and_then_is_not_cut_off() {
    let config = Config { write_timeout: Duration::from_millis(200), ..Config::default() };
    let (janus, addr) = serve(with_policy(SlowConsumer::Disconnect, config)).await;
    let mut client = Client::connect(addr).await;
    client.subscribe("news").await;
    let padding = "x".repeat(30_000);
    let mut published = 0;
    while published < 25 || janus.slow_clients(10).is_empty() {
        janus.publish("news", &(published, &padding)).await.unwrap();
        published += 1;
    }
    let mut pauses = tokio::time::interval(Duration::from_millis(25));
    for number in 0..published {
        pauses.tick().await;
        assert_eq!(client.json().await["data"][0], number);
    }
    assert_eq!(janus.stats().slow_consumers, 0);
}

#[tokio::test]
async fn under_conflate_a_stalled_client_stays_and_then_gets_the_latest() {
    let config = Config { write_timeout: Duration::from_millis(50), max_queue_frames: 8, ..Config::default() };
    let (janus, addr) = serve(with_policy(SlowConsumer::Conflate, config)).await;
    let mut client = Client::connect(addr).await;
    client.subscribe("quotes").await;
    client.subscribe("orders").await;
    let padding = "x".repeat(30_000);
    for number in 0..500 {
        janus.publish("quotes", &(number, &padding)).await.unwrap();
        janus.publish("orders", &(number, "small")).await.unwrap();
    }
    // The client outlasts the write timeout many times over.
    until("it is seen to lag", || {
        janus.slow_clients(1).first().is_some_and(|slow| slow.lagging_for > Duration::from_millis(200))
    })
    .await;
    let mut last = [None, None];
    while last != [Some(499), Some(499)] {
        let message = client.json().await;
        let of = usize::from(message["topic"] == "orders");
        let number = message["data"][0].as_u64();
        assert!(number > last[of], "in order: {message}");
        last[of] = number;
    }
    let stats = janus.stats();
    assert_eq!(stats.slow_consumers, 0);
    assert!(stats.messages_conflated > 0);
    assert_eq!(stats.messages_dropped_oldest + stats.messages_dropped_newest, 0);
}

#[tokio::test]
async fn under_conflate_a_stalled_client_is_cut_off_after_stall_timeout() {
    let config = Config { stall_timeout: Duration::from_millis(100), max_queue_frames: 8, ..Config::default() };
    let (janus, addr) = serve(with_policy(SlowConsumer::Conflate, config)).await;
    let mut client = Client::connect(addr).await;
    client.subscribe("quotes").await;
    let padding = "x".repeat(30_000);
    while janus.stats().slow_consumers_stalled == 0 {
        janus.publish("quotes", &padding).await.unwrap();
    }
    until("it is gone", || janus.stats().connections == 0).await;
}

#[tokio::test]
async fn in_the_classic_protocol_drop_policies_act_as_disconnect() {
    for policy in [SlowConsumer::DropOldest, SlowConsumer::DropNewest] {
        let config = Config { max_queue_frames: 8, ..Config::default() };
        let (janus, addr) = serve(with_policy(policy, config)).await;
        let mut client = Client::connect(addr).await;
        client.subscribe("news").await;
        let padding = "x".repeat(30_000);
        while janus.stats().slow_consumers_queue_full == 0 {
            janus.publish("news", &padding).await.unwrap();
        }
        let stats = janus.stats();
        assert_eq!(stats.messages_dropped_oldest + stats.messages_dropped_newest, 0, "{policy}");
        drop(client);
    }
}

#[tokio::test]
async fn the_slowest_clients_are_named_largest_queue_first() {
    // More than the kernel ever takes off a queue afterwards, for as long as its buffers grow.
    const BEYOND_THE_KERNEL: usize = 8 * 1024 * 1024;
    let write_timeout = Duration::from_secs(3_600);
    let config = Config { max_queue_bytes: 8 * BEYOND_THE_KERNEL, write_timeout, ..Config::default() };
    let (janus, addr) = serve(with_policy(SlowConsumer::Disconnect, config)).await;
    let mut clients = Vec::new();
    for topics in [&["a", "b"][..], &["a"], &["c"]] {
        let mut client = Client::connect(addr).await;
        for topic in topics {
            client.subscribe(topic).await;
        }
        clients.push(client);
    }
    assert_eq!(janus.slow_clients(10), []);
    let padding = "x".repeat(60_000);
    while janus.slow_clients(2).get(1).is_none_or(|smaller| smaller.queued_bytes < BEYOND_THE_KERNEL) {
        janus.publish("a", &padding).await.unwrap();
    }
    for _ in 0..BEYOND_THE_KERNEL / padding.len() {
        janus.publish("b", &padding).await.unwrap();
    }
    janus.publish("c", "small").await.unwrap();
    let slow = janus.slow_clients(10);
    let peers: Vec<_> = slow.iter().map(|slow| slow.peer.unwrap()).collect();
    assert_eq!(peers, [clients[0].local_addr().into(), clients[1].local_addr().into()]);
    assert!(slow[0].queued_bytes > slow[1].queued_bytes && slow[1].queued_bytes > 0);
    assert!(slow[0].queued_frames > slow[1].queued_frames);
    assert_eq!(janus.slow_clients(1), slow[..1]);
    until("both are counted", || janus.stats().slow_clients == 2).await;
    drop(clients);
    until("no client is slow", || janus.stats().slow_clients == 0).await;
}

#[tokio::test]
async fn under_conflate_a_reading_client_is_not_cut_off_by_bursts() {
    let config = Config { max_queue_frames: 8, ..Config::default() };
    let (janus, addr) = serve(with_policy(SlowConsumer::Conflate, config)).await;
    let mut client = Client::connect(addr).await;
    client.subscribe("quotes").await;
    let reader = tokio::spawn(async move {
        let mut last = None;
        while last != Some(9_999) {
            let number = client.json().await["data"].as_u64();
            assert!(number > last, "in order");
            last = number;
        }
    });
    let mut answers = Vec::new();
    for number in 0..10_000 {
        // As fast as the topic takes messages, so that messages travel together.
        loop {
            match janus.try_publish(janus_core::Message::new("quotes", &number).unwrap()) {
                Ok(answer) => break answers.push(answer),
                Err(_) => tokio::task::yield_now().await,
            }
        }
    }
    reader.await.unwrap();
    assert_eq!(janus.stats().slow_consumers, 0);
}

#[tokio::test]
async fn under_conflate_the_kernel_keeps_a_stalled_client_like_the_server() {
    let config = Config { tcp_user_timeout: Duration::from_millis(300), max_queue_frames: 8, ..Config::default() };
    let (janus, addr) = serve(with_policy(SlowConsumer::Conflate, config)).await;
    let mut client = Client::connect(addr).await;
    client.subscribe("quotes").await;
    let padding = "x".repeat(30_000);
    for number in 0..500 {
        janus.publish("quotes", &(number, &padding)).await.unwrap();
    }
    // The tick is a second here: the kernel's own time is over several times by then.
    until("it has lagged for long", || {
        janus.slow_clients(1).first().is_some_and(|slow| slow.lagging_for >= Duration::from_secs(2))
    })
    .await;
    let mut last = None;
    while last != Some(499) {
        last = client.json().await["data"][0].as_u64();
    }
}
