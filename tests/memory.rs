//! The memory budget: the accounted memory, and the order of losses at each threshold.
//!
//! The ballast of these tests is injected: accounted to the byte, and not for the server to give up. Memory held by
//! strangers is given up first, see `strangers`.

use std::net::SocketAddr;
use std::time::Duration;

use janus_core::wire::classic::client::attach;
use janus_core::{Config, Fault, Janus, SessionToken};
use tokio::time::timeout;

use crate::support::{Client, Close, DEADLINE, publish_frame, serve, subscribe_frame, subscribers, until};

const BUDGET: usize = 16 << 20;

fn percent(percent: usize) -> usize {
    BUDGET / 100 * percent
}

/// The least possible budget, and time enough for every unfinished frame or stall of a test.
fn with_budget(config: Config) -> Config {
    let long = Duration::from_secs(600);
    Config {
        memory_budget_bytes: BUDGET,
        write_timeout: long,
        tcp_user_timeout: long,
        send_buffer_bytes: 4 * 1024,
        ..config
    }
}

fn used(janus: &Janus) -> usize {
    janus.stats().memory_used
}

/// Makes the server account for `bytes` in total.
fn ballast(janus: &Janus, bytes: usize) {
    janus.inject(Fault::MemoryTaken(bytes - used(janus)));
}

/// Subscribes to many topics at once.
async fn subscribe_all(client: &mut Client, topics: &[String]) {
    let frames: Vec<u8> = topics.iter().flat_map(|topic| subscribe_frame(topic)).collect();
    client.send(frames).await;
    for _ in topics {
        assert_eq!(client.frame().await, "ACK");
    }
}

/// A client of these topics, without a connection now. Returns the token.
async fn detached(janus: &Janus, addr: SocketAddr, topics: &[String]) -> SessionToken {
    let mut client = Client::connect_silently(addr).await.reset_on_drop();
    let token = client.json().await["token"].as_str().and_then(SessionToken::from_hex).expect("a greeting");
    subscribe_all(&mut client, topics).await;
    let before = janus.stats().detached_sessions;
    drop(client);
    until("the session is detached", || janus.stats().detached_sessions > before).await;
    token
}

fn topics(count: usize) -> Vec<String> {
    (0..count).map(|number| format!("topic {number}")).collect()
}

#[tokio::test]
async fn all_accounted_memory_is_given_back() {
    let short = Duration::from_millis(50);
    let config = Config {
        session_ttl: short,
        topic_idle: short,
        max_queue_bytes: 200_000,
        send_buffer_bytes: 4 * 1024,
        write_timeout: Duration::from_secs(30),
        ..Config::default()
    };
    let (janus, addr) = serve(config).await;
    assert_eq!((janus.stats().memory_used, janus.stats().memory_budget), (0, 0));
    let mut clients = Vec::new();
    for topics in [topics(3), topics(2), topics(1)] {
        let mut client = Client::connect(addr).await;
        subscribe_all(&mut client, &topics).await;
        clients.push(client);
    }
    let idle = used(&janus);
    // A Transport that crashes with half a frame, and a client that leaves with half a frame.
    let padding = "x".repeat(30_000);
    let mut crashing = Client::connect(addr).await;
    let mut leaving = Client::connect(addr).await;
    for client in [&mut crashing, &mut leaving] {
        client.send(&padding).await;
    }
    until("half a frame is seen", || used(&janus) > idle + 2 * padding.len()).await;
    janus.inject(Fault::Transport(crashing.local_addr()));
    crashing.close().await;
    leaving.half_close().await;
    assert_eq!(leaving.error_code().await, "unfinished_frame");
    // A topic that crashes with messages in hand, in its inbox and numbered.
    for _ in 0..4 {
        janus.inject(Fault::TopicCommit(3));
        let mut publisher = Client::connect(addr).await;
        publisher.send(publish_frame("topic 2", "1").repeat(20)).await;
        for _ in 0..20 {
            publisher.json().await;
        }
    }
    // A client that is cut off with a full queue.
    while janus.stats().slow_consumers == 0 {
        janus.publish("topic 0", &padding).await.unwrap();
    }
    drop((clients, leaving));
    until("nothing is left", || used(&janus) == 0).await;
    let stats = janus.stats();
    assert_eq!((stats.connections, stats.sessions, stats.topics), (0, 0, 0));
}

#[tokio::test]
async fn unfinished_frames_of_many_clients_are_accounted_for() {
    let (janus, addr) = serve(Config::default()).await;
    let mut clients = Vec::new();
    for _ in 0..100 {
        clients.push(Client::connect(addr).await);
    }
    let before = used(&janus);
    let part = format!("{{\"action\":\"subscribe\",\"data\":\"{}", " ".repeat(60_000));
    for client in &mut clients {
        client.send(&part).await;
    }
    until("all of it is there", || used(&janus) >= before + 100 * part.len()).await;
    assert!(used(&janus) <= before + 200 * part.len(), "a buffer is at most twice as large as what is in it");
    for client in &mut clients {
        client.send("\"}\0").await;
        assert_eq!(client.error_code().await, "bad_topic");
    }
    until("they are finished", || used(&janus) == before).await;
}

#[tokio::test]
async fn messages_of_waiting_publishers_are_accounted_for() {
    let config = Config { max_inflight_frames: 1, resume_messages: 0, ..Config::default() };
    let (janus, addr) = serve(config).await;
    let mut subscriber = Client::connect(addr).await;
    subscriber.subscribe("news").await;
    let mut publisher = Client::connect(addr).await;
    let before = used(&janus);
    janus.inject(Fault::TopicHang(Duration::from_millis(500)));
    let message = format!("\"{}\"", "x".repeat(4_000));
    // One read: the first message is in the topic's inbox, the second waits for room there, and the third for the
    // second.
    publisher.send(publish_frame("news", &message).repeat(3)).await;
    until("all of it is seen", || used(&janus) > before + 3 * message.len()).await;
    for _ in 0..3 {
        subscriber.frame().await;
        publisher.frame().await;
    }
    until("nothing is kept", || used(&janus) == before).await;
}

#[tokio::test]
async fn messages_refused_by_a_topic_going_out_of_service_are_given_back() {
    let (janus, addr) = serve(Config { topic_quarantine: Duration::from_secs(600), ..Config::default() }).await;
    let mut subscriber = Client::connect(addr).await;
    subscriber.subscribe("cursed").await;
    let mut publisher = Client::connect(addr).await;
    let before = used(&janus);
    janus.inject(Fault::TopicStarts(6));
    janus.inject(Fault::TopicCommit(1));
    let message = format!("\"{}\"", "x".repeat(1_000));
    publisher.send(publish_frame("cursed", &message).repeat(10)).await;
    assert!(publisher.json().await["published"].is_object());
    for _ in 1..10 {
        assert_eq!(publisher.error_code().await, "topic_unavailable");
    }
    // Not even the numbered message is left: the topic started afresh before the server gave it up.
    until("none of them is left", || used(&janus) < before + message.len()).await;
}

#[tokio::test]
async fn an_unused_topic_forgets_old_messages() {
    let config = Config {
        resume_age: Duration::from_millis(100),
        write_timeout: Duration::from_millis(400),
        ..Config::default()
    };
    let (janus, addr) = serve(config).await;
    let mut client = Client::connect(addr).await;
    subscribe_all(&mut client, &topics(100)).await;
    let before = used(&janus);
    let padding = "x".repeat(1_000);
    for topic in topics(100) {
        janus.publish(&topic, &padding).await.unwrap();
        client.frame().await;
    }
    until("its messages are gone", || used(&janus) == before).await;
    assert_eq!(janus.stats().messages_trimmed, 0, "none of them before its time");
}

#[tokio::test]
async fn from_80_per_cent_topics_keep_less_and_returning_clients_are_told() {
    let (janus, addr) = serve(with_budget(Config::default())).await;
    let names = topics(120);
    let token = detached(&janus, addr, &names).await.to_hex();
    janus.publish("topic 0", "small").await.unwrap();
    let padding = "x".repeat(45_000);
    let mut published = vec![0; names.len()];
    published[0] = 1;
    'filling: for _ in 0..5 {
        for (name, published) in names.iter().zip(&mut published).skip(1) {
            if used(&janus) >= percent(80) {
                break 'filling;
            }
            janus.publish(name, &padding).await.unwrap();
            *published += 1;
        }
    }
    until("messages are trimmed", || janus.stats().messages_trimmed > 0 && used(&janus) < percent(80)).await;
    let stats = janus.stats();
    assert_eq!((stats.sessions_ended_for_memory, stats.detached_sessions), (0, 1), "nothing harsher happened");
    let mut back = Client::connect(addr).await;
    back.send(attach(&token, names.iter().map(|name| (name.as_str(), 0)))).await;
    let answer = back.json().await;
    let attached = |name: &String| &answer["attached"][name];
    let (resumed, lost): (Vec<_>, Vec<_>) =
        names.iter().zip(published).partition(|(name, _)| attached(name)["resumed"] == true);
    // A topic keeps only one large message within a quarter of the 256 KiB.
    assert!(lost.iter().any(|(_, published)| *published > 1), "{answer}");
    assert!(resumed.iter().any(|(name, _)| *name == "topic 0"), "{answer}");
    let mut missed = 0;
    for (name, published) in resumed {
        assert_eq!(attached(name)["missed"], published, "{name}");
        missed += published;
    }
    for _ in 0..missed {
        assert!(back.json().await["data"].is_string());
    }
    drop(back);
    // When memory is no longer short, topics keep the full 128 messages.
    let kept_again = async {
        let mut trimmed = 0;
        while trimmed < janus.stats().messages_trimmed {
            trimmed = janus.stats().messages_trimmed;
            for number in 0..100 {
                janus.publish("topic 0", &number).await.unwrap();
            }
        }
    };
    let over = timeout(DEADLINE, kept_again).await;
    assert!(over.is_ok(), "the alarm is never over: {:?}", janus.stats());
}

#[tokio::test]
async fn from_90_per_cent_detached_sessions_end_oldest_first() {
    let (janus, addr) = serve(with_budget(Config::default())).await;
    let names = topics(60);
    let mut tokens = Vec::new();
    for _ in 0..48 {
        tokens.push(detached(&janus, addr, &names).await);
    }
    // Enough above the threshold that some of the sessions must end, but not all.
    let excess = 16 * 60 * 16;
    ballast(&janus, percent(90) + excess);
    until("sessions have ended", || janus.stats().sessions_ended_for_memory > 0).await;
    until("there is room again", || used(&janus) < percent(90)).await;
    let stats = janus.stats();
    assert_eq!(stats.detached_sessions + stats.sessions_ended_for_memory as usize, 48);
    assert!(stats.detached_sessions > 0, "{stats:?}");
    for (age, token) in tokens.into_iter().enumerate() {
        let lives = janus.session(token).await.is_some();
        assert_eq!(lives, age >= stats.sessions_ended_for_memory as usize, "session {age}");
    }
    assert_eq!(stats.slow_consumers, 0);
}

#[tokio::test]
async fn from_92_per_cent_only_the_client_with_the_largest_queue_is_closed() {
    let config = Config { max_queue_bytes: 256 << 20, max_queue_frames: 1 << 20, ..Config::default() };
    let (janus, addr) = serve(with_budget(config)).await;
    // Large queues, compared with the messages kept by topics, would be closed before.
    ballast(&janus, percent(84));
    let mut reading = Client::connect(addr).await;
    let mut small = Client::connect(addr).await;
    let mut large = Client::connect(addr).await;
    reading.subscribe("large").await;
    small.subscribe("small").await;
    large.subscribe("large").await;
    let padding = "x".repeat(60_000);
    let mut waiting = 0;
    while janus.slow_clients(1).first().is_none_or(|slow| slow.queued_bytes < 1 << 17) {
        janus.publish("small", &padding).await.unwrap();
        waiting += 1;
    }
    let mut published = 0;
    while janus.stats().slow_consumers == 0 {
        janus.publish("large", &padding).await.unwrap();
        reading.frame().await;
        published += 1;
        assert!(published < 2_000, "the client with the large queue is never closed: {:?}", janus.stats());
    }
    until("it is gone", || subscribers(&janus, "large") == Some(1)).await;
    let stats = janus.stats();
    assert_eq!((stats.slow_consumers, stats.slow_consumers_out_of_memory), (1, 1));
    assert!(stats.memory_used < percent(92));
    let close = loop {
        if let Err(close) = large.next().await {
            break close;
        }
    };
    assert_eq!(close, Close::Reset);
    // The other clients have everything.
    for _ in 0..waiting {
        small.frame().await;
    }
    for (topic, client) in [("small", &mut small), ("large", &mut reading)] {
        janus.publish(topic, &1).await.unwrap();
        assert_eq!(client.json().await["data"], 1);
    }
    assert_eq!(janus.stats().slow_consumers, 1);
}

#[tokio::test]
async fn from_95_per_cent_new_subscribers_are_refused_until_there_is_room() {
    let (janus, addr) = serve(with_budget(Config::default())).await;
    let mut client = Client::connect(addr).await;
    client.subscribe("news").await;
    ballast(&janus, percent(95) + 1);
    until("memory is nearly used up", || used(&janus) >= percent(95)).await;
    for refused in 1..=3 {
        let mut refused_client = Client::connect(addr).await;
        refused_client.send(subscribe_frame("news")).await;
        assert_eq!(refused_client.error_code().await, "server_overloaded");
        assert_eq!(refused_client.close().await, Close::Fin);
        let stats = janus.stats();
        assert_eq!((stats.connections_refused, stats.connections_refused_for_memory), (refused, refused));
    }
    janus.publish("news", &1).await.unwrap();
    assert_eq!(client.json().await["data"], 1, "whoever is connected is served");
    janus.inject(Fault::MemoryTaken(0));
    until("there is room", || used(&janus) < percent(95)).await;
    Client::connect(addr).await.subscribe("news").await;
    assert_eq!(janus.stats().connections_refused, 3);
}
