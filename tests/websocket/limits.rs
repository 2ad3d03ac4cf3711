//! The view of a WebSocket client at each limit.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use janus_core::wire::{Codec, HttpRequest, WebSocket};
use janus_core::{Config, Incoming, Janus, Namespace, SlowConsumer};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;
use tokio::time::{Instant, timeout};

use super::{Bystander, CONTINUATION, FIN, PING, PONG, Seen, Socket, TEXT, frame, said, serve, text, upgrade};
use crate::support::{Close, DEADLINE, until};

#[tokio::test]
async fn a_message_over_max_frame_bytes_is_refused_at_its_header() {
    let (_janus, addr) = serve(Config { max_frame_bytes: 200, ..Config::default() }).await;
    let mut bystander = Bystander::new(addr).await;
    let publish = |bytes: usize| {
        let empty = json!({"type": "publish", "id": 1, "topic": "nobody", "data": ""}).to_string().len();
        json!({"type": "publish", "id": 1, "topic": "nobody", "data": "x".repeat(bytes - empty)}).to_string()
    };
    let mut socket = Socket::open(addr).await;
    socket.send(text(publish(200))).await;
    assert_eq!(socket.json().await["type"], "published", "it is as long as it may be");
    let too_long = [
        text(publish(201))[..8].to_vec(),
        text(vec![b'x'; 0x1_0000])[..14].to_vec(),
        // Either of the two fragments alone would be allowed.
        [frame(TEXT, &publish(201)[..150]), frame(FIN | CONTINUATION, &publish(201)[150..])[..6].to_vec()].concat(),
        [frame(TEXT, [b' '; 200]), frame(CONTINUATION, ""), frame(CONTINUATION, " ")].concat(),
    ];
    for sent in too_long {
        let mut socket = Socket::open(addr).await;
        socket.send(&sent).await;
        let closed = socket.next().await;
        assert!(matches!(&closed, Seen::Close(Some(1009), reason) if reason.contains("200")), "{closed:?}");
        assert_eq!(socket.next().await, Seen::End(Close::Fin));
        bystander.is_undisturbed("a message over the limit").await;
    }
}

#[tokio::test]
async fn an_unfinished_frame_or_message_or_a_missing_hello_is_a_timeout() {
    let (janus, addr) = serve(Config { frame_timeout: Duration::from_millis(100), ..Config::default() }).await;
    let begun = [vec![FIN | TEXT], text("{}")[..7].to_vec(), frame(TEXT, "{"), frame(FIN | PING, "ping")[..4].to_vec()];
    for bytes in begun {
        let mut socket = Socket::open(addr).await;
        socket.send(bytes).await;
        assert_eq!(socket.bye(4009).await["error"], "frame_timeout");
    }
    let mut silent = Socket::upgraded(addr).await;
    assert_eq!(silent.bye(4009).await["error"], "frame_timeout");
    assert_eq!(janus.stats().frames_timed_out, 5);
}

#[tokio::test]
async fn pings_between_fragments_do_not_extend_the_time_of_a_message() {
    let (_janus, addr) = serve(Config { frame_timeout: Duration::from_millis(300), ..Config::default() }).await;
    for (opcode, answers) in [(PING, true), (PONG, false)] {
        let mut socket = Socket::open(addr).await;
        socket.send(frame(TEXT, "{\"type\":\"pub")).await;
        let deadline = Instant::now() + DEADLINE;
        let bye = loop {
            assert!(Instant::now() < deadline, "an unfinished message lives for ever");
            // The server may have closed the connection.
            let _ = socket.try_send(frame(FIN | opcode, "")).await;
            let patience = if answers { DEADLINE } else { Duration::from_millis(10) };
            let seen = timeout(patience, socket.next()).await.ok();
            match seen {
                Some(Seen::Pong(_)) | None => {}
                Some(other) => break other,
            }
        };
        let Seen::Text(bye) = bye else { panic!("{bye:?}") };
        assert_eq!((&bye["type"], &bye["error"]), (&json!("bye"), &json!("frame_timeout")));
    }
}

#[tokio::test]
async fn topics_are_limited_per_client_per_server_and_in_their_names() {
    let config = Config { max_topics_per_client: 2, max_topics: 3, max_topic_bytes: 5, ..Config::default() };
    let (_janus, addr) = serve(config).await;
    let mut first = Socket::open(addr).await;
    let mut second = Socket::open(addr).await;
    first.subscribe("one").await;
    first.subscribe("two").await;
    second.subscribe("three").await;
    let cases = [
        (true, "four", "too_many_topics", 4200),
        (false, "four", "too_many_topics_on_server", 4004),
        (false, "eleven", "bad_topic", 4407),
    ];
    for (is_first, topic, name, code) in cases {
        let socket = if is_first { &mut first } else { &mut second };
        let error = socket.ask(json!({"type": "subscribe", "id": 7, "topic": topic})).await;
        let seen = (&error["type"], &error["id"], &error["error"], &error["code"]);
        assert_eq!(seen, (&json!("error"), &json!(7), &json!(name), &json!(code)), "{error}");
        // An invalid name is not repeated in the error.
        assert_eq!(error["topic"].as_str(), Some(topic).filter(|_| name != "bad_topic"), "{error}");
        // A resume position is no way around the limit.
        let since = json!({"epoch": "0123456789abcdef", "seq": 1});
        let error = socket.ask(json!({"type": "subscribe", "id": 8, "topic": topic, "since": since})).await;
        assert_eq!((&error["id"], &error["error"]), (&json!(8), &json!(name)), "{error}");
    }
    let unsubscribed = first.ask(json!({"type": "unsubscribe", "topic": "one"})).await;
    assert_eq!(unsubscribed["type"], "unsubscribed");
    first.subscribe("three").await;
}

#[tokio::test]
async fn a_client_beyond_max_connections_is_told_with_a_status() {
    let (janus, addr) = serve(Config { max_connections: 1, ..Config::default() }).await;
    let served = Socket::open(addr).await;
    let mut refused = Socket::connect(addr).await;
    refused.send(upgrade(addr)).await;
    let (head, body) = refused.refusal().await;
    assert!(head.starts_with("HTTP/1.1 503 ") && head.contains("\r\nretry-after: "), "{head}");
    assert_eq!(body["error"]["code"], "too_many_connections");
    drop(served);
    until("the place is free", || janus.stats().connections == 0).await;
    Socket::open(addr).await;
}

#[tokio::test]
async fn a_client_behind_a_proxy_on_this_machine_may_not_publish() {
    let publish = json!({"type": "publish", "id": 5, "topic": "news", "data": 1});
    let (janus, addr) = serve(Config::default()).await;
    let signs = [
        "X-Forwarded-For: 127.0.0.1",
        "x-forwarded-host: localhost",
        "X-Forwarded-Proto: https",
        "Forwarded: for=127.0.0.1",
        "Via: 1.1 proxy",
        "X-Real-IP: 127.0.0.1",
    ];
    for sign in signs {
        let mut socket = Socket::connect(addr).await;
        socket.send(upgrade(addr).replacen("\r\n", &format!("\r\n{sign}\r\n"), 1)).await;
        assert!(socket.head().await.starts_with("HTTP/1.1 101 "), "{sign}");
        assert_eq!(socket.ask(json!({"type": "hello"})).await["type"], "welcome", "{sign}");
        let answer = socket.ask(publish.clone()).await;
        assert_eq!((&answer["id"], &answer["error"]), (&json!(5), &json!("publish_not_allowed")), "{sign}: {answer}");
        socket.subscribe("news").await;
    }
    // Nor on a stream that a program hands over with its request.
    let (mut client, stream) = tokio::io::duplex(4_096);
    let request = HttpRequest::new("GET", "/ws", [("X-Forwarded-For", &b"192.0.2.1"[..])]);
    let codec: Arc<dyn Codec> = Arc::new(WebSocket::v1());
    janus.serve(Incoming::stream(stream), &codec, Some(WebSocket::v1().decoder_for(request))).unwrap();
    client.write_all(&[said(&json!({"type": "hello"})), said(&publish)].concat()).await.unwrap();
    let mut received = Vec::new();
    while !String::from_utf8_lossy(&received).contains("publish_not_allowed") {
        let read = timeout(DEADLINE, client.read_buf(&mut received)).await.expect("an answer").unwrap();
        assert!(read > 0, "{}", String::from_utf8_lossy(&received));
    }
    let mut direct = Socket::open(addr).await;
    assert_eq!(direct.ask(publish).await["type"], "published");
    let (_janus, addr) = serve(Config { allow_publish: true, ..Config::default() }).await;
    let mut socket = Socket::connect(addr).await;
    socket.send(upgrade(addr).replacen("\r\n", "\r\nVia: 1.1 proxy\r\n", 1)).await;
    socket.head().await;
    socket.ask(json!({"type": "hello"})).await;
    let published = socket.ask(json!({"type": "publish", "id": 5, "topic": "news", "data": 1})).await;
    assert_eq!(published["type"], "published", "{published}");
}

#[tokio::test]
async fn without_permission_each_publish_is_refused_with_its_request_id() {
    for allow_publish in [false, true] {
        let http_listen = vec![([0, 0, 0, 0], 0).into()];
        let config = Config { listen: Vec::new(), http_listen, allow_publish, ..Config::default() };
        let config = Config { drain_period: Duration::ZERO, ..config };
        let janus = Janus::builder().config(config).start().await.expect("the server starts");
        let addr = SocketAddr::from(([127, 0, 0, 1], janus.local_addrs()[0].port()));
        let mut socket = Socket::open(addr).await;
        socket.subscribe("news").await;
        let publish = json!({"type": "publish", "id": 5, "topic": "news", "data": 1});
        if allow_publish {
            socket.say(publish).await;
            let mut types = [socket.json().await, socket.json().await].map(|json| json["type"].to_string());
            types.sort();
            assert_eq!(types, ["\"message\"", "\"published\""]);
            continue;
        }
        let error = socket.ask(publish).await;
        assert_eq!(
            (&error["type"], &error["id"], &error["code"]),
            (&json!("error"), &json!(5), &json!(4411)),
            "{error}"
        );
        let error = socket.ask(json!({"type": "publish", "topic": "news", "data": 1})).await;
        assert_eq!((&error["error"], error.get("id")), (&json!("publish_not_allowed"), None), "{error}");
        janus.publish("news", "from the program").await.expect("published");
        assert_eq!(socket.json().await["data"], "from the program");
    }
}

/// A server with small queues, which a topic's messages soon fill.
async fn serve_with(slow_consumer: SlowConsumer) -> (Janus, SocketAddr) {
    let default_namespace = Namespace { slow_consumer, ..Namespace::default() };
    let config = Config { max_queue_frames: 8, send_buffer_bytes: 4 * 1024, default_namespace, ..Config::default() };
    serve(config).await
}

/// The data of a message: its number, and a padding that fills buffers.
fn numbered(number: u64) -> (u64, String) {
    (number, "x".repeat(30_000))
}

#[tokio::test]
async fn a_client_that_does_not_read_is_cut_off_without_a_bye() {
    let (janus, addr) = serve_with(SlowConsumer::Disconnect).await;
    let mut bystander = Bystander::new(addr).await;
    let mut slow = Socket::open(addr).await;
    slow.subscribe("news").await;
    let mut published = 0;
    while janus.stats().slow_consumers_queue_full == 0 {
        published += 1;
        janus.publish("news", &numbered(published)).await.expect("published");
        assert!(published < 10_000, "it is never cut off");
    }
    // The client can read the bytes taken by the kernel, in order, and then the stream breaks off visibly.
    let mut next = 1;
    let end = loop {
        match slow.next().await {
            Seen::Text(message) => assert_eq!(message["seq"], next, "{}", message["type"]),
            other => break other,
        }
        next += 1;
    };
    assert_eq!(end, Seen::End(Close::Reset));
    assert!(next <= published, "something was lost, or it would not have been slow");
    bystander.is_undisturbed("a slow consumer").await;
}

/// A WebSocket whose client is served, with a small receive buffer in the kernel.
async fn open_narrow(addr: SocketAddr) -> Socket {
    let socket = TcpSocket::new_v4().expect("there is another socket");
    socket.set_recv_buffer_size(4 * 1024).expect("a buffer has a size");
    let stream = timeout(DEADLINE, socket.connect(addr)).await.expect("connects in time").expect("connects");
    let mut socket = Socket { stream, received: Vec::new() };
    socket.send(upgrade(addr)).await;
    socket.head().await;
    assert_eq!(socket.ask(json!({"type": "hello"})).await["type"], "welcome");
    socket
}

/// A server with few waiting answers, which stops reading a client beyond the limit.
async fn serve_few_answers(write_timeout: Duration) -> (Janus, SocketAddr) {
    let config = Config { max_queue_bytes: 16 * 1024, send_buffer_bytes: 4 * 1024, write_timeout, ..Config::default() };
    serve(config).await
}

#[tokio::test]
async fn a_client_that_never_reads_its_answers_is_cut_off() {
    let (janus, addr) = serve_few_answers(Duration::from_millis(200)).await;
    let mut bystander = Bystander::new(addr).await;
    let questions = [
        frame(FIN | PING, [b'?'; 125]).repeat(1_000),
        said(&json!({"type": "ping"})).repeat(1_000),
        said(&json!({"type": "dance"})).repeat(1_000),
    ];
    for (number, asked) in questions.iter().enumerate() {
        let mut socket = open_narrow(addr).await;
        let mut sent = 0;
        while socket.try_send(asked).await.is_ok() {
            sent += asked.len();
            assert!(sent < 1 << 28, "it is never cut off");
        }
        let stats = janus.stats();
        assert_eq!((stats.slow_consumers_stalled, stats.slow_consumers_queue_full), (number as u64 + 1, 0));
        bystander.is_undisturbed("somebody who does not listen").await;
    }
}

#[tokio::test]
async fn a_client_with_many_requests_before_a_read_gets_every_answer() {
    const QUESTIONS: u64 = 5_000;
    let (janus, addr) = serve_few_answers(Config::default().write_timeout).await;
    let publish = |id| said(&json!({"type": "publish", "id": id, "topic": "nobody", "data": id}));
    let questions: [(_, Vec<u8>); 2] = [
        ("pings", (0..QUESTIONS).flat_map(|id| frame(FIN | PING, id.to_be_bytes())).collect()),
        ("publications", (0..QUESTIONS).flat_map(publish).collect()),
    ];
    for (what, asked) in questions {
        let mut socket = Socket::open(addr).await;
        socket.send(asked).await;
        for id in 0..QUESTIONS {
            match socket.next().await {
                Seen::Pong(payload) => assert_eq!(payload, id.to_be_bytes(), "{what}"),
                Seen::Text(receipt) => {
                    assert_eq!((&receipt["type"], &receipt["id"]), (&json!("published"), &json!(id)))
                }
                other => panic!("{what}: {other:?} instead of answer {id}"),
            }
        }
    }
    assert_eq!(janus.stats().slow_consumers, 0);
}

#[tokio::test]
async fn a_burst_reaches_a_client_that_reads_whole() {
    let (janus, addr) = serve(Config::default()).await;
    let mut reading = Socket::open(addr).await;
    reading.subscribe("news").await;
    let mut publisher = Socket::open(addr).await;
    let burst = (1..=5_000).flat_map(|number: u64| said(&json!({"type": "publish", "topic": "news", "data": number})));
    publisher.send(burst.collect::<Vec<u8>>()).await;
    for number in 1..=5_000 {
        let message = reading.json().await;
        assert_eq!((&message["seq"], &message["data"]), (&json!(number), &json!(number)));
    }
    assert_eq!(janus.stats().slow_consumers, 0);
}

/// Reads to message `last` and checks that each number came once, or is in one gap. Returns the numbers in gaps.
async fn read_to(socket: &mut Socket, epoch: &Value, last: u64) -> u64 {
    let (mut next, mut lost) = (1, 0);
    while next <= last {
        let json = socket.json().await;
        let number = |key: &str| json[key].as_u64().expect("a number");
        if json["type"] == "gap" {
            assert_eq!((&json["topic"], &json["epoch"]), (&json!("news"), epoch), "{json}");
            let (from, to) = (number("from"), number("to"));
            assert!(from == next && to >= from, "{json} where {next} was to come");
            lost += to - from + 1;
            next = to + 1;
        } else {
            assert_eq!((number("seq"), &json["data"][0]), (next, &json!(next)));
            next += 1;
        }
    }
    lost
}

async fn a_gap_comes_in_its_place_and_the_numbers_add_up(policy: SlowConsumer) {
    let (janus, addr) = serve_with(policy).await;
    let mut bystander = Bystander::new(addr).await;
    let mut slow = Socket::open(addr).await;
    let epoch = slow.subscribe("news").await["epoch"].clone();
    let dropped = || {
        let stats = janus.stats();
        match policy {
            SlowConsumer::DropNewest => stats.messages_dropped_newest,
            _ => stats.messages_dropped_oldest,
        }
    };
    let mut published = 0;
    while dropped() < 20 {
        published += 1;
        janus.publish("news", &numbered(published)).await.expect("published");
        assert!(published < 10_000, "nothing is ever dropped");
    }
    assert_eq!(read_to(&mut slow, &epoch, published).await, dropped());
    // From here on the client is a client like any other.
    janus.publish("news", &numbered(published + 1)).await.expect("published");
    assert_eq!(slow.json().await["seq"], published + 1);
    assert_eq!(janus.stats().slow_consumers, 0);
    bystander.is_undisturbed("a client that lagged").await;
}

#[tokio::test]
async fn under_drop_oldest_a_gap_comes_in_place_and_the_numbers_add_up() {
    a_gap_comes_in_its_place_and_the_numbers_add_up(SlowConsumer::DropOldest).await;
}

#[tokio::test]
async fn under_drop_newest_a_gap_comes_in_place_and_the_numbers_add_up() {
    a_gap_comes_in_its_place_and_the_numbers_add_up(SlowConsumer::DropNewest).await;
}

#[tokio::test]
async fn answers_to_a_lagging_client_follow_earlier_messages() {
    let (janus, addr) = serve_with(SlowConsumer::DropOldest).await;
    let mut slow = Socket::open(addr).await;
    slow.subscribe("news").await;
    let mut published = 0;
    while janus.slow_clients(1).is_empty() {
        published += 1;
        janus.publish("news", &numbered(published)).await.expect("published");
        assert!(published < 10_000, "nothing ever waits");
    }
    let asked = [said(&json!({"type": "subscribe", "id": 1, "topic": "other"})), frame(FIN | PING, "here")];
    slow.send(asked.concat()).await;
    for number in 1..=published {
        assert_eq!(slow.json().await["seq"], number);
    }
    assert_eq!(slow.json().await["id"], 1);
    assert_eq!(slow.next().await, Seen::Pong(b"here".into()));
}

#[tokio::test]
async fn a_tolerated_client_may_send_requests_with_a_full_queue() {
    for policy in [SlowConsumer::DropOldest, SlowConsumer::DropNewest, SlowConsumer::Conflate] {
        let (janus, addr) = serve_with(policy).await;
        let mut slow = Socket::open(addr).await;
        slow.subscribe("news").await;
        let dropped = || {
            let stats = janus.stats();
            stats.messages_dropped_oldest + stats.messages_dropped_newest + stats.messages_conflated
        };
        let mut published = 0;
        while dropped() == 0 {
            published += 1;
            janus.publish("news", &numbered(published)).await.expect("published");
            assert!(published < 10_000, "nothing is ever dropped");
        }
        slow.send([frame(FIN | PING, "1"), said(&json!({"type": "ping"})), frame(FIN | PING, "2")].concat()).await;
        // Later clients are served later: by then the requests have met the full queue.
        Bystander::new(addr).await.is_undisturbed("questions of a client that lags").await;
        let (mut next, mut answers) = (1, Vec::new());
        while next <= published || answers.len() < 3 {
            match slow.next().await {
                Seen::Text(json) if json["type"] == "pong" => answers.push("pong".to_owned()),
                Seen::Pong(payload) => answers.push(String::from_utf8(payload).expect("it is what was sent")),
                Seen::Text(json) => {
                    let (from, to) = if json["type"] == "gap" { ("from", "to") } else { ("seq", "seq") };
                    assert_eq!(json[from], next, "{policy}: {}", json["type"]);
                    next = json[to].as_u64().expect("a number") + 1;
                }
                other => panic!("{policy}: {other:?}"),
            }
        }
        assert_eq!(answers, ["1", "pong", "2"], "{policy}");
        assert_eq!(janus.stats().slow_consumers, 0, "{policy}");
    }
}

#[tokio::test]
async fn under_conflate_a_lagging_client_gets_the_latest_of_each_topic() {
    let (janus, addr) = serve_with(SlowConsumer::Conflate).await;
    let mut slow = Socket::open(addr).await;
    slow.subscribe("quotes").await;
    slow.subscribe("orders").await;
    for number in 1..=200 {
        janus.publish("quotes", &numbered(number)).await.expect("published");
        janus.publish("orders", &(number, "small")).await.expect("published");
    }
    let mut last = [0, 0];
    while last != [200, 200] {
        let json = slow.json().await;
        let last = &mut last[usize::from(json["topic"] == "orders")];
        // A subscriber under `conflate` still gets gaps for the messages left out.
        if json["type"] == "gap" {
            assert_eq!(json["from"], *last + 1, "{json}");
            *last = json["to"].as_u64().expect("a number");
        } else {
            assert_eq!(json["seq"], *last + 1, "{}", json["type"]);
            *last += 1;
        }
    }
    let stats = janus.stats();
    assert!(stats.messages_conflated > 0);
    assert_eq!((stats.slow_consumers, stats.messages_dropped_oldest + stats.messages_dropped_newest), (0, 0));
}
