//! The behaviour at each limit, over real sockets.

use std::time::Duration;

use janus_core::{Config, Fault, Message, PublishError};

use crate::support::{Client, Close, publish, publish_frame, serve, subscribe_frame, subscribers, topic_actor, until};

#[tokio::test]
async fn a_slow_consumer_is_cut_off_and_counted_and_delays_no_client() {
    let config = Config { max_queue_bytes: 64 * 1024, send_buffer_bytes: 8 * 1024, ..Config::default() };
    let (janus, addr) = serve(config).await;
    let mut slow = Client::connect(addr).await;
    slow.subscribe("news").await;
    let mut others = Vec::new();
    for _ in 0..10 {
        let mut client = Client::connect(addr).await;
        client.subscribe("news").await;
        others.push(client);
    }
    // The slow client reads nothing; its kernel buffers and its queue fill up.
    let data = format!("\"{}\"", "x".repeat(30_000));
    let mut published = 0;
    while janus.stats().slow_consumers == 0 {
        publish(addr, "news", &data).await;
        published += 1;
        assert!(published < 1_000, "the slow consumer is never cut off");
        for client in &mut others {
            client.frame().await;
        }
    }
    until("the connection is gone", || subscribers(&janus, "news") == Some(10)).await;
    publish(addr, "news", "1").await;
    for client in &mut others {
        assert_eq!(client.json().await["data"], 1);
    }
    let close = loop {
        match slow.next().await {
            Ok(_) => {}
            Err(close) => break close,
        }
    };
    assert_eq!(close, Close::Reset, "a slow consumer gets a reset, so that no kernel buffer is left behind");
}

#[tokio::test]
async fn a_client_that_catches_up_receives_everything_in_order() {
    let config = Config { send_buffer_bytes: 8 * 1024, ..Config::default() };
    let (janus, addr) = serve(config).await;
    let mut lagging = Client::connect(addr).await;
    lagging.subscribe("news").await;
    let padding = "x".repeat(1_000);
    for i in 0..700 {
        janus.publish("news", &(i, &padding)).await.unwrap();
    }
    for i in 0..700 {
        assert_eq!(lagging.json().await["data"][0], i);
    }
    assert_eq!(janus.stats().slow_consumers, 0);
}

#[tokio::test]
async fn a_queue_is_limited_in_frames_as_well_as_in_bytes() {
    let config = Config { max_queue_frames: 10, send_buffer_bytes: 4 * 1024, ..Config::default() };
    let (janus, addr) = serve(config).await;
    let mut slow = Client::connect(addr).await;
    slow.subscribe("news").await;
    let padding = "x".repeat(1_000);
    // Far less than the 1 MiB of the queue, together with the kernel's buffers.
    for _ in 0..1_000 {
        if janus.stats().slow_consumers == 1 {
            return;
        }
        janus.publish("news", &padding).await.unwrap();
    }
    until("the slow consumer is cut off", || janus.stats().slow_consumers == 1).await;
}

#[tokio::test]
async fn a_message_larger_than_the_queue_reaches_a_client_that_reads() {
    let config = Config { max_queue_bytes: 10_000, send_buffer_bytes: 4 * 1024, ..Config::default() };
    let (janus, addr) = serve(config).await;
    let mut client = Client::connect(addr).await;
    client.subscribe("news").await;
    let data = "x".repeat(60_000);
    janus.publish("news", &data).await.unwrap();
    assert_eq!(client.json().await["data"], data);
    let too_large = "x".repeat(70_000);
    assert!(matches!(janus.publish("news", &too_large).await, Err(PublishError::Invalid(_))), "over max_frame_bytes");
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_client_that_takes_nothing_for_tcp_user_timeout_is_slow_too() {
    let config =
        Config { tcp_user_timeout: Duration::from_millis(500), send_buffer_bytes: 4 * 1024, ..Config::default() };
    let (janus, addr) = serve(config).await;
    let mut stalled = Client::connect(addr).await;
    stalled.subscribe("news").await;
    let data = "x".repeat(50_000);
    until("something waits that the kernel does not take", || {
        let _ = janus.try_publish(Message::new("news", &data).unwrap());
        janus.stats().slow_consumers == 1
    })
    .await;
}

#[tokio::test]
async fn refused_clients_take_no_place_from_later_clients() {
    let (janus, addr) = serve(Config { max_connections: 1, ..Config::default() }).await;
    let first = Client::connect(addr).await;
    // The refused clients stay open, to be refused as slowly as possible.
    let mut refused = Vec::new();
    for _ in 0..40 {
        let mut client = Client::connect_silently(addr).await;
        client.send(subscribe_frame("news")).await;
        refused.push(client);
    }
    until("all have been refused", || janus.stats().connections_refused == 40).await;
    assert_eq!(janus.stats().connections, 1);
    drop(first);
    until("the place is free", || janus.stats().connections == 0).await;
    Client::connect(addr).await.subscribe("news").await;
}

#[tokio::test]
async fn a_topic_requested_again_while_it_ends_is_created_anew() {
    let config = Config { topic_idle: Duration::from_millis(20), client_subscribe_rate: 0, ..Config::default() };
    let (_janus, addr) = serve(config).await;
    let mut client = Client::connect(addr).await;
    let begun = tokio::time::Instant::now();
    while begun.elapsed() < Duration::from_secs(1) {
        for i in 0..20 {
            let topic = format!("topic {i}");
            client.subscribe(&topic).await;
            client.send(format!("{{\"action\":\"unsubscribe\",\"data\":\"{topic}\"}}\0")).await;
        }
    }
}

#[tokio::test]
async fn a_client_beyond_max_connections_is_told_so_and_accepting_continues() {
    let (janus, addr) = serve(Config { max_connections: 3, ..Config::default() }).await;
    let mut clients = Vec::new();
    for _ in 0..3 {
        clients.push(Client::connect(addr).await);
    }
    for _ in 0..5 {
        let mut refused = Client::connect(addr).await;
        refused.send(subscribe_frame("news")).await;
        assert_eq!(refused.error_code().await, "too_many_connections");
        assert_eq!(refused.close().await, Close::Fin);
    }
    assert_eq!(janus.stats().connections_refused, 5);
    clients.pop();
    until("the place is free", || janus.stats().connections < 3).await;
    Client::connect(addr).await.subscribe("news").await;
}

#[tokio::test]
async fn clients_beyond_accept_rate_wait_in_the_backlog_and_are_all_greeted() {
    let (janus, addr) = serve(Config { accept_rate: 20, max_handshakes: 1, ..Config::default() }).await;
    let begun = tokio::time::Instant::now();
    let mut clients = Vec::new();
    // Two may come at once; the others are accepted at one per 50 ms.
    for _ in 0..12 {
        clients.push(Client::connect_silently(addr).await);
    }
    for (number, client) in clients.iter_mut().enumerate() {
        assert!(client.json().await["token"].is_string());
        let earliest = Duration::from_millis(50) * (number as u32).saturating_sub(1);
        assert!(begun.elapsed() >= earliest, "client {number} came after {:?}", begun.elapsed());
    }
    assert_eq!(janus.stats().connections_accepted, 12);
}

#[tokio::test]
async fn simultaneous_clients_are_all_greeted_even_with_a_short_backlog() {
    let (janus, addr) = serve(Config { max_handshakes: 1, ..Config::default() }).await;
    let mut clients = Vec::new();
    for _ in 0..300 {
        clients.push(Client::connect_silently(addr).await);
    }
    for client in &mut clients {
        assert!(client.json().await["token"].is_string());
    }
    assert_eq!(janus.stats().connections, 300);
}

#[tokio::test]
async fn a_topic_beyond_the_limit_is_refused_and_the_others_stay() {
    let (_janus, addr) = serve(Config { max_topics_per_client: 2, ..Config::default() }).await;
    let mut client = Client::connect(addr).await;
    client.subscribe("one").await;
    client.subscribe("two").await;
    client.send(subscribe_frame("three")).await;
    assert_eq!(client.error_code().await, "too_many_topics");
    client.send("{\"action\":\"unsubscribe\",\"data\":\"one\"}\0").await;
    client.subscribe("three").await;
    publish(addr, "two", "2").await;
    assert_eq!(client.json().await["data"], 2);
}

#[tokio::test]
async fn a_topic_beyond_the_server_limit_is_refused_until_others_end() {
    // The session of a departed client counts as a use for as long as the client can resume.
    let short = Duration::from_millis(100);
    let config = Config { max_topics: 1, topic_idle: short, session_ttl: short, ..Config::default() };
    let (janus, addr) = serve(config).await;
    let mut first = Client::connect(addr).await;
    first.subscribe("one").await;
    let mut second = Client::connect(addr).await;
    second.send(subscribe_frame("two")).await;
    assert_eq!(second.error_code().await, "too_many_topics_on_server");
    drop(first);
    until("the unused topic has ended", || janus.stats().topics == 0).await;
    second.subscribe("two").await;
    until("its actor is gone, too", || topic_actor(&janus, "one").is_none()).await;
}

#[tokio::test]
async fn any_unfinished_frame_closes_its_connection() {
    let (janus, addr) = serve(Config { frame_timeout: Duration::from_millis(100), ..Config::default() }).await;
    let mut client = Client::connect(addr).await;
    client.subscribe("news").await;
    client.send("{\"action\":").await;
    assert_eq!(client.error_code().await, "frame_timeout");
    assert_eq!(client.close().await, Close::Fin);
    assert_eq!(janus.stats().frames_timed_out, 1);
    let mut publisher = Client::connect(addr).await;
    publisher.send("PUBLISH\0{\"topic\":\"news\",").await;
    assert_eq!(publisher.error_code().await, "frame_timeout");
}

#[tokio::test]
async fn a_client_always_within_some_frame_is_late_with_none() {
    let frame_timeout = Duration::from_millis(50);
    let (_janus, addr) = serve(Config { frame_timeout, ..Config::default() }).await;
    let mut client = Client::connect(addr).await;
    let frame = publish_frame("news", "1");
    let (head, tail) = frame.split_at(10);
    client.send(head).await;
    let begun = tokio::time::Instant::now();
    while begun.elapsed() < 6 * frame_timeout {
        client.send([tail, head].concat()).await;
        assert!(client.json().await["published"].is_object());
    }
}

#[tokio::test]
async fn an_idle_connection_between_frames_stays_open() {
    let config = Config { frame_timeout: Duration::from_millis(40), ..Config::default() };
    let (janus, addr) = serve(config).await;
    let mut idle = Client::connect(addr).await;
    idle.subscribe("news").await;
    let mut late = Client::connect(addr).await;
    late.send("{").await;
    assert_eq!(late.error_code().await, "frame_timeout");
    assert_eq!(late.close().await, Close::Fin);
    janus.publish("news", "still here").await.unwrap();
    assert_eq!(idle.json().await["data"], "still here");
}

#[tokio::test]
async fn a_publisher_faster_than_its_topic_is_slowed_and_loses_nothing() {
    let config = Config { max_inflight_frames: 4, ..Config::default() };
    let (_janus, addr) = serve(config).await;
    let mut subscribers = Vec::new();
    for _ in 0..50 {
        let mut client = Client::connect(addr).await;
        client.subscribe("news").await;
        subscribers.push(client);
    }
    let mut publisher = Client::connect(addr).await;
    let burst = (0..500).flat_map(|i| publish_frame("news", &i.to_string())).collect::<Vec<_>>();
    publisher.send(burst).await;
    for i in 1..=500 {
        assert_eq!(publisher.json().await["published"]["seq"], i);
    }
    for subscriber in &mut subscribers {
        for i in 0..500 {
            assert_eq!(subscriber.json().await["data"], i);
        }
    }
}

#[tokio::test]
async fn try_publish_fails_on_a_full_topic_and_publish_waits() {
    let (janus, addr) = serve(Config { max_inflight_frames: 2, ..Config::default() }).await;
    let mut subscriber = Client::connect(addr).await;
    subscriber.subscribe("news").await;
    // During the hang of the home arbiter, nothing is handed out.
    janus.inject(Fault::Hang(Duration::from_millis(500)));
    let message = |i: u64| Message::new("news", &i).unwrap();
    let mut receipts = Vec::new();
    let refused = loop {
        match janus.try_publish(message(receipts.len() as u64)) {
            Ok(receipt) => receipts.push(receipt),
            Err(error) => break error,
        }
    };
    assert_eq!(refused, PublishError::Full);
    let waiting = (0..10).map(|i| {
        let janus = janus.clone();
        tokio::spawn(async move { janus.publish_message(message(100 + i)).await })
    });
    let waiting = waiting.collect::<Vec<_>>();
    tokio::task::yield_now().await;
    assert_eq!(janus.topic_info("news").unwrap().in_flight, 2, "those that wait take no room");
    let accepted = receipts.len();
    for receipt in receipts {
        receipt.await.unwrap();
    }
    for publisher in waiting {
        publisher.await.unwrap().unwrap();
    }
    for _ in 0..accepted + 10 {
        subscriber.frame().await;
    }
}

#[tokio::test]
async fn a_fast_connection_takes_no_more_than_its_room_in_a_topic() {
    let (janus, addr) = serve(Config { max_inflight_frames: 4, ..Config::default() }).await;
    let mut subscriber = Client::connect(addr).await;
    subscriber.subscribe("news").await;
    let mut publisher = Client::connect(addr).await;
    janus.inject(Fault::TopicHang(Duration::from_millis(300)));
    let burst = (0..100).flat_map(|i| publish_frame("news", &i.to_string())).collect::<Vec<_>>();
    publisher.send(burst).await;
    until("the topic is full", || {
        let in_flight = janus.topic_info("news").unwrap().in_flight;
        assert!(in_flight <= 4, "{in_flight} messages are under way");
        in_flight == 4
    })
    .await;
    for i in 1..=100 {
        let in_flight = janus.topic_info("news").unwrap().in_flight;
        assert!(in_flight <= 4, "{in_flight} messages are under way");
        assert_eq!(publisher.json().await["published"]["seq"], i);
        subscriber.frame().await;
    }
}

#[tokio::test]
async fn all_waiting_publishers_get_through() {
    let (janus, addr) = serve(Config { max_inflight_frames: 1, ..Config::default() }).await;
    let mut subscriber = Client::connect(addr).await;
    subscriber.subscribe("news").await;
    let publishers = (0..20).map(|_| {
        let janus = janus.clone();
        tokio::spawn(async move {
            for i in 0..20 {
                janus.publish("news", &i).await.unwrap();
            }
        })
    });
    for publisher in publishers.collect::<Vec<_>>() {
        publisher.await.unwrap();
    }
    for _ in 0..400 {
        subscriber.frame().await;
    }
}

#[tokio::test]
async fn clients_off_loopback_may_publish_only_if_the_settings_allow() {
    for (allow_publish, expected) in [(false, Some("publish_not_allowed")), (true, None)] {
        let config = Config { listen: vec![([0, 0, 0, 0], 0).into()], allow_publish, ..Config::default() };
        let janus = janus_core::Janus::builder().config(config).start().await.unwrap();
        let addr = ([127, 0, 0, 1], janus.local_addrs()[0].port()).into();
        let mut client = Client::connect(addr).await;
        client.send(publish_frame("news", "1")).await;
        assert_eq!(client.json().await["error"]["code"].as_str(), expected);
        let mut classic = Client::connect(addr).await;
        classic.send("PUBLISH\0{\"topic\":\"news\",\"data\":1}").await;
        if let Some(code) = expected {
            assert_eq!(classic.error_code().await, code);
        }
        assert_eq!(classic.close().await, Close::Fin);
    }
}
