//! The checks with well-behaved clients, slow clients and clients that come back.
//!
//! Each check starts its own instances on a [`Stage`] and returns at the first failed expectation. The variant of the
//! same name in [`Check`](super::Check) states the demand. Misbehaving clients and crashes are in
//! [`hostile`](super::hostile).

use std::time::Duration;

use futures_util::future::{join, join_all, try_join_all};

use super::connection::{Connection, End};
use super::stage::{Server, Stage, Stop, both, failed, skipped};
use super::{ResumePoint, Seen};
use crate::config::{Config, Namespace, SlowConsumer};

use crate::topic::publish::Receipt;
use crate::wire::{Epoch, Limits, Opens, Position};

/// The data of a message with a number and a padding of `bytes` bytes.
fn numbered(number: u64, bytes: usize) -> String {
    format!("{{\"n\":{number},\"pad\":\"{}\"}}", "x".repeat(bytes))
}

/// The number of a [`numbered`] message.
fn number(data: &str) -> Result<u64, Stop> {
    let value: Option<serde_json::Value> = serde_json::from_str(data).ok();
    let number = value.as_ref().and_then(|value| value["n"].as_u64());
    number.ok_or_else(|| failed(format!("a message arrived as {data:.80}")))
}

/// Reads the messages `from..=to`, each of which must come once and in order.
async fn read_on(connection: &mut Connection, topic: &str, from: u64, to: u64) -> Result<(), Stop> {
    for expected in from..=to {
        let data = connection.message(topic).await?;
        let number = number(&data)?;
        if number != expected {
            return Err(connection.stop(format!("message {number} came instead of message {expected}")));
        }
    }
    Ok(())
}

/// The size of the check `order`.
const SUBSCRIBERS: usize = 8;
const PUBLISHERS: u64 = 4;
const MESSAGES_EACH: u64 = 50;

pub(super) async fn order(stage: &Stage<'_>) -> Result<(), Stop> {
    let server = stage.start(Config { inline_subscribers: 4, ..Config::default() }).await?;
    let subscribers = try_join_all((0..SUBSCRIBERS).map(|_| server.subscriber("order"))).await?;
    let published = try_join_all((0..PUBLISHERS).map(|publisher| publish_in_order(&server, publisher)));
    let (published, listened) = join(published, try_join_all(subscribers.into_iter().map(listen_in_order))).await;
    let listened = match (published, listened) {
        (Ok(_), Ok(listened)) => listened,
        (Ok(mut publishers), Err(stop)) => {
            return Err(publishers.iter_mut().flatten().fold(stop, |stop, publisher| publisher.explain(stop)));
        }
        (Err(stop), Ok(_)) => return Err(stop),
        (Err(one), Err(other)) => return Err(one.and(other)),
    };
    server.publish("order", &numbered(9_999, 0)).await?;
    let (_, first_order) = &listened[0];
    let first_order = first_order.clone();
    for (mut connection, got) in listened {
        if got != first_order {
            return Err(failed(format!("two subscribers got different orders: {first_order:?} and {got:?}")));
        }
        read_on(&mut connection, "order", 9_999, 9_999).await?;
    }
    Ok(())
}

/// Publishes the messages of a publisher through a connection, and returns the connection. Publishes in the process if
/// the format has no publishers.
async fn publish_in_order(server: &Server<'_>, publisher: u64) -> Result<Option<Connection>, Stop> {
    let stage = server.stage;
    let data = |message: u64| numbered(publisher * 1_000 + message, 10);
    if stage.client.publish("order", "0").is_none() {
        for message in 0..MESSAGES_EACH {
            server.publish("order", &data(message)).await?;
        }
        return Ok(None);
    }
    let mut connection = server.connect().await?;
    connection.send(&stage.client.open()).await?;
    for message in 0..MESSAGES_EACH {
        if !connection.send(&stage.publishing("order", &data(message))?).await? {
            let stop = connection.stop("a publisher's connection ended");
            return Err(connection.explain(stop));
        }
    }
    Ok(Some(connection))
}

/// Reads the messages of all publishers; returns the order in which the messages came.
async fn listen_in_order(mut connection: Connection) -> Result<(Connection, Vec<u64>), Stop> {
    let mut got: Vec<u64> = Vec::new();
    let mut last_seq = None;
    while got.len() < (PUBLISHERS * MESSAGES_EACH) as usize {
        let (data, seq) = connection
            .until("a message", |seen| match seen {
                Seen::Message { data, seq, .. } => Some(Ok((data, seq))),
                Seen::Gap { .. } | Seen::Error { .. } | Seen::Bye { .. } => Some(Err(seen)),
                _ => None,
            })
            .await?
            .map_err(|other| failed(format!("a subscriber got {other:?} after {} messages", got.len())))?;
        let number = number(&data)?;
        if got.contains(&number) {
            return Err(connection.stop(format!("message {number} came twice")));
        }
        if let (Some(last), Some(seq)) = (last_seq, seq)
            && seq != last + 1
        {
            return Err(connection.stop(format!("number {seq} came after number {last}")));
        }
        last_seq = seq;
        let publisher = number / 1_000;
        if let Some(later) = got.iter().find(|&&other| other / 1_000 == publisher && other > number) {
            return Err(connection.stop(format!("message {number} came after message {later} of the same publisher")));
        }
        got.push(number);
    }
    Ok((connection, got))
}

/// Removes the white space between the tokens of a JSON text, and changes nothing else.
fn tight(json: &str) -> String {
    let (mut in_string, mut escaped) = (false, false);
    json.chars()
        .filter(|&c| {
            let keep = in_string || !matches!(c, ' ' | '\n' | '\r' | '\t');
            if c == '"' && !escaped {
                in_string = !in_string;
            }
            escaped = in_string && c == '\\' && !escaped;
            keep
        })
        .collect()
}

pub(super) async fn text(stage: &Stage<'_>) -> Result<(), Stop> {
    carry(stage, "q\"u\\o%te:ü&=+?#'/").await
}

pub(super) async fn blanks(stage: &Stage<'_>) -> Result<(), Stop> {
    let name = "with two  blanks";
    if !stage.client.carries_topic(name) {
        return Err(skipped("the format cannot carry topic names with blanks"));
    }
    carry(stage, name).await
}

/// Publishes various JSON texts to the topic, in the process and through the transport, and compares what arrives.
async fn carry(stage: &Stage<'_>, topic: &str) -> Result<(), Stop> {
    let long = format!("\"{}\"", "long ".repeat(4_000));
    let texts = [
        "null",
        "\"\"",
        "{ \"a\" :\n [ 1.50,\r\n\t1e400 , -0.0 ],\n\n \"b\": {} }\n",
        r#""line\nbreak\r\n and \u0000 \u0001 \" \\ \/""#,
        "\"é 😀 \u{2028} \u{7f} \u{85}\"",
        "\"data: x\"",
        "\"msg a 1 2\"",
        &long,
    ];
    let server = stage.start(Config::default()).await?;
    let mut connection = server.subscriber(topic).await?;
    for text in texts {
        server.publish(topic, text).await?;
        // The format may end a client's frames with a line break: only a text without line breaks is sure to fit.
        let spoken = (!text.contains('\n')).then(|| stage.client.publish(topic, text)).flatten();
        let times = if let Some(frame) = spoken {
            connection.send(&frame).await?;
            2
        } else {
            1
        };
        for _ in 0..times {
            let data = connection.message(topic).await?;
            if tight(&data) != tight(text) {
                return Err(connection.stop(format!("{text:?} arrived as {data:?}")));
            }
        }
    }
    Ok(())
}

pub(super) async fn unsubscribe(stage: &Stage<'_>) -> Result<(), Stop> {
    let Some(frame) = stage.client.unsubscribe("left") else {
        return Err(skipped("the format has no unsubscribe"));
    };
    let server = stage.start(Config::default()).await?;
    let mut connection = server.subscriber("left").await?;
    server.publish("left", &numbered(1, 0)).await?;
    read_on(&mut connection, "left", 1, 1).await?;
    connection.send(&frame).await?;
    server.until("the unsubscribe to be carried out", || server.subscribers("left") == 0).await?;
    server.publish("left", &numbered(2, 0)).await?;
    connection.send(&stage.client.subscribe("joined")).await?;
    connection.subscribed().await?;
    server.publish("joined", &numbered(3, 0)).await?;
    read_on(&mut connection, "joined", 3, 3).await
}

pub(super) async fn splits(stage: &Stage<'_>) -> Result<(), Stop> {
    let limits = Limits { max_frame_bytes: 65_536, max_topic_bytes: 255, max_topics: 128 };
    let conversation = stage.conversation("split");
    let whole = stage.decode(&[&conversation], &limits);
    for cut in 1..conversation.len() {
        let (head, tail) = conversation.split_at(cut);
        let decoded = stage.decode(&[head, tail], &limits);
        if decoded != whole {
            return Err(failed(format!(
                "cut after byte {cut}, a conversation decodes to {decoded:?} instead of {whole:?}"
            )));
        }
    }
    let bytes: Vec<&[u8]> = conversation.chunks(1).collect();
    let decoded = stage.decode(&bytes, &limits);
    if decoded != whole {
        return Err(failed(format!("byte by byte, a conversation decodes to {decoded:?} instead of {whole:?}")));
    }

    let server = stage.start(Config::default()).await?;
    let speaks = stage.client.publish("split", "0").is_some();
    // A pipe with a capacity of `cut` bytes is read in pieces of `cut` bytes.
    for cut in 1..conversation.len() {
        let mut connection = server.connect_with(cut).await?;
        let (head, tail) = conversation.split_at(cut);
        connection.send(head).await?;
        // An answer from the reading thread, which has probably read the head before.
        server.janus.sessions().await;
        connection.send(tail).await?;
        let answered = spoken(&mut connection, &server, speaks).await;
        answered.map_err(|stop| stop.context(format_args!("cut after byte {cut}")))?;
        drop(connection);
        server.until("the connection to end", || server.subscribers("split") == 0).await?;
    }
    let mut connection = server.connect().await?;
    for byte in &bytes {
        connection.send(byte).await?;
        server.janus.sessions().await;
    }
    spoken(&mut connection, &server, speaks).await
}

/// Waits for the answers to a conversation.
async fn spoken(connection: &mut Connection, server: &Server<'_>, speaks: bool) -> Result<(), Stop> {
    connection.subscribed().await?;
    if !speaks {
        server.publish("split", "\"spoken\"").await?;
    }
    let data = connection.message("split").await?;
    if tight(&data) == "\"spoken\"" {
        Ok(())
    } else {
        Err(connection.stop(format!("{data} arrived instead of \"spoken\"")))
    }
}

pub(super) async fn frame_limit(stage: &Stage<'_>) -> Result<(), Stop> {
    const LIMIT: usize = 4_096;
    let server = stage.start(Config { max_frame_bytes: LIMIT, ..Config::default() }).await?;
    let mut witness = server.subscriber("sized").await?;
    let mut bystander = server.bystander().await?;
    if let Some(frame) = stage.client.publish("sized", &numbered(1, LIMIT / 2)) {
        let mut connection = server.connect().await?;
        connection.send(&stage.client.open()).await?;
        connection.send(&frame).await?;
        read_on(&mut witness, "sized", 1, 1).await.map_err(|stop| connection.explain(stop))?;
    }
    let oversized = |bytes: usize| {
        let mut conversation = stage.client.open();
        let publish = stage.client.publish("sized", &numbered(2, bytes));
        conversation.extend(publish.unwrap_or_else(|| stage.client.subscribe(&"x".repeat(bytes))));
        conversation
    };
    let mut connection = server.connect().await?;
    connection.send(&oversized(16 * LIMIT)).await?;
    connection.refused("a frame far longer than max_frame_bytes").await?;
    bystander.notices_nothing(&server).await?;

    // A frame without an end must be refused, too.
    let before = server.janus.stats().memory_used;
    let mut endless = oversized(256 * LIMIT);
    endless.pop();
    let mut connection = server.connect().await?;
    let mut refused = false;
    for piece in endless.chunks(8 * LIMIT) {
        if !connection.send(piece).await? {
            refused = true;
            break;
        }
        let kept = server.janus.stats().memory_used.saturating_sub(before);
        if kept > 64 * LIMIT {
            return Err(failed(format!(
                "the server keeps {kept} bytes of an unfinished frame; refuse a frame longer than max_frame_bytes ({LIMIT})"
            )));
        }
    }
    if !refused {
        connection.refused("a frame without an end").await?;
    }
    bystander.notices_nothing(&server).await?;
    server.publish("sized", &numbered(3, 0)).await?;
    let data = witness.message("sized").await?;
    if number(&data)? != 3 {
        return Err(witness.stop("a message longer than max_frame_bytes was delivered"));
    }
    Ok(())
}

pub(super) async fn topic_limit(stage: &Stage<'_>) -> Result<(), Stop> {
    const LIMIT: usize = 4;
    if !stage.client.subscribes_again() {
        return Err(skipped("a connection of this format subscribes only once"));
    }
    let server = stage.start(Config { max_topics_per_client: LIMIT, ..Config::default() }).await?;
    let topics: Vec<String> = (0..LIMIT).map(|topic| format!("topic{topic}")).collect();
    let mut connection = server.subscriber(&topics[0]).await?;
    for topic in &topics[1..] {
        connection.send(&stage.client.subscribe(topic)).await?;
        connection.subscribed().await?;
    }
    connection.send(&stage.client.subscribe("beyond")).await?;
    let closed = connection.refused("a topic beyond max_topics_per_client").await?;
    if server.subscribers("beyond") > 0 {
        return Err(failed("a topic beyond max_topics_per_client was refused and subscribed all the same"));
    }
    for topic in topics.iter().filter(|_| !closed) {
        server.publish(topic, &numbered(1, 0)).await?;
        read_on(&mut connection, topic, 1, 1).await?;
    }
    Ok(())
}

pub(super) async fn topic_names(stage: &Stage<'_>) -> Result<(), Stop> {
    const LIMIT: usize = 64;
    let server = stage.start(Config { max_topic_bytes: LIMIT, ..Config::default() }).await?;
    let mut bystander = server.bystander().await?;
    // The longest name allowed.
    let longest = "é".repeat(LIMIT / 2);
    drop(server.subscriber(&longest).await?);
    for name in ["", &format!("{longest}x"), "a\u{1}b", "a\u{7f}b", "a\u{85}b"] {
        let what = format!("the topic {name:?}");
        let mut connection = server.connect().await?;
        connection.send(&stage.subscribing(name)).await?;
        connection.refused(&what).await?;
        if let Some(frame) = stage.client.publish(name, "1").filter(|_| !name.is_empty()) {
            let mut connection = server.connect().await?;
            connection.send(&stage.client.open()).await?;
            connection.send(&frame).await?;
            connection.refused(&what).await?;
        }
    }
    bystander.notices_nothing(&server).await?;
    let made: Vec<String> = server.janus.topics().iter().map(|topic| topic.name.to_string()).collect();
    match made.iter().find(|name| **name != longest && *name != "bystander") {
        Some(name) => Err(failed(format!("the topic {name:?} was created, and its name is not allowed"))),
        None => Ok(()),
    }
}

pub(super) async fn frame_timeout(stage: &Stage<'_>) -> Result<(), Stop> {
    let server = stage.start(Config { frame_timeout: Duration::from_millis(150), ..Config::default() }).await?;
    let mut bystander = server.bystander().await?;
    let mut unfinished = stage.subscribing("late");
    unfinished.pop();
    let mut connection = server.connect().await?;
    connection.send(&unfinished).await?;
    connection.end("an unfinished frame").await?;
    let mut opening = stage.client.open();
    if opening.pop().is_some() {
        let mut connection = server.connect().await?;
        connection.send(&opening).await?;
        connection.end("an unfinished opening").await?;
    }
    if stage.codec.opens() == Opens::WhenAsked {
        let mut connection = server.connect().await?;
        connection.end("a client that says nothing").await?;
    }
    if server.subscribers("late") > 0 {
        return Err(failed("an unfinished frame subscribed its client"));
    }
    bystander.notices_nothing(&server).await
}

/// Small limits, for few messages to reach.
fn tight_queues() -> Config {
    Config {
        max_queue_frames: 16,
        max_queue_bytes: 64 * 1024,
        send_buffer_bytes: 4_096,
        max_inflight_bytes: 64 * 1024,
        resume_messages: 4,
        resume_bytes: 16 * 1024,
        ..Config::default()
    }
}

/// The size of a message to a client that does not read, and a number of such messages beyond the buffers of any
/// system.
const FLOOD_BYTES: usize = 8 * 1024;
const FLOOD: u64 = 4_096;

/// The buffer, in bytes, between the server and a client that does not read.
const NARROW: usize = 4 * 1024;

pub(super) async fn slow_client(stage: &Stage<'_>) -> Result<(), Stop> {
    let mut config = tight_queues();
    config.default_namespace.slow_consumer = SlowConsumer::Disconnect;
    // The messages in the queue, under way and kept for resuming, and the memory of the connections themselves.
    let allowance = config.max_queue_bytes + config.max_inflight_bytes + config.resume_bytes + 256 * 1024;
    let server = stage.start(config).await?;
    let mut stalled = server.subscriber_with("flood", NARROW).await?;
    let mut reading = server.subscriber("flood").await?;
    let mut bystander = server.bystander().await?;
    let before = server.janus.stats().memory_used;
    let mut sent = 0;
    while server.janus.stats().slow_consumers == 0 {
        if sent == FLOOD {
            return Err(failed(format!("a client that left {FLOOD} messages unread was not cut off")));
        }
        sent += 1;
        server.publish("flood", &numbered(sent, FLOOD_BYTES)).await?;
        read_on(&mut reading, "flood", sent, sent).await?;
        let kept = server.janus.stats().memory_used.saturating_sub(before);
        if kept > allowance {
            return Err(failed(format!(
                "the server keeps {kept} bytes for a slow client; its limits allow {allowance}"
            )));
        }
    }
    for more in sent + 1..=sent + 10 {
        server.publish("flood", &numbered(more, FLOOD_BYTES)).await?;
        read_on(&mut reading, "flood", more, more).await?;
    }
    bystander.notices_nothing(&server).await?;
    let mut got = 0;
    loop {
        match stalled.next().await? {
            Some(Seen::Message { data, .. }) => {
                got += 1;
                if number(&data)? != got {
                    return Err(stalled.stop(format!("a slow client misses message {got} and got no gap")));
                }
            }
            Some(Seen::Gap { .. }) => return Err(stalled.stop("a client got a gap under the policy disconnect")),
            Some(_) => {}
            None => break,
        }
    }
    if got > sent { Err(failed("a client that was cut off got every message")) } else { Ok(()) }
}

pub(super) async fn gaps(stage: &Stage<'_>) -> Result<(), Stop> {
    if !stage.codec.tells_gaps() {
        return Err(skipped("the codec tells no gaps; slow clients are cut off instead"));
    }
    let policy = |slow_consumer| Namespace { slow_consumer, ..Namespace::default() };
    let policies = [SlowConsumer::DropOldest, SlowConsumer::DropNewest, SlowConsumer::Conflate];
    let namespaces = policies.map(|slow_consumer| (slow_consumer.to_string(), policy(slow_consumer))).into();
    let server = stage.start(Config { namespaces, ..tight_queues() }).await?;
    for policy in policies {
        let topic = format!("{policy}:flood");
        let mut stalled = server.subscriber_with(&topic, NARROW).await?;
        let dropped = || {
            let stats = server.janus.stats();
            stats.messages_dropped_oldest + stats.messages_dropped_newest + stats.messages_conflated
        };
        let enough = dropped() + 20;
        let mut sent = 0;
        while dropped() < enough {
            if sent == FLOOD {
                return Err(failed(format!(
                    "under {policy}, no message was dropped for a client that left {FLOOD} messages unread"
                )));
            }
            sent += 1;
            expect_number(&server.publish(&topic, &numbered(sent, FLOOD_BYTES)).await?, sent)?;
        }
        // After the client has caught up, a last message shows any missing messages before.
        let caught_up = async {
            server.until("a client to catch up", || server.janus.slow_clients(1).is_empty()).await?;
            expect_number(&server.publish(&topic, &numbered(sent + 1, 0)).await?, sent + 1)
        };
        both(read_messages_and_gaps(&mut stalled, policy, sent + 1), caught_up).await?;
    }
    Ok(())
}

/// Reads up to the message `last`. Every number must come once and in order, as a message or in a gap, and at least one
/// gap must come.
async fn read_messages_and_gaps(stalled: &mut Connection, policy: SlowConsumer, last: u64) -> Result<(), Stop> {
    let (mut next, mut told) = (1, 0);
    while next <= last {
        match stalled.next().await? {
            Some(Seen::Message { data, .. }) => {
                let number = number(&data)?;
                if number != next {
                    let missing = format!("under {policy}, message {number} came instead of {next}");
                    return Err(stalled.stop(missing));
                }
                next += 1;
            }
            Some(Seen::Gap { from, to }) => {
                if from != next || to < from {
                    let wrong = format!("under {policy}, a gap from {from} to {to} came instead of {next}");
                    return Err(stalled.stop(wrong));
                }
                told += to - from + 1;
                next = to + 1;
            }
            Some(_) => {}
            None => return Err(stalled.stop(format!("under {policy}, the connection ended"))),
        }
    }
    if told == 0 { Err(stalled.stop(format!("under {policy}, the client got no gap"))) } else { Ok(()) }
}

/// A topic with a subscriber since its first message numbers all its messages from 1.
fn expect_number(receipt: &Receipt, number: u64) -> Result<(), Stop> {
    if receipt.seq == number { Ok(()) } else { Err(failed(format!("message {number} was numbered {}", receipt.seq))) }
}

/// The bytes with which a new connection resumes at `place`.
fn resuming(stage: &Stage<'_>, place: &ResumePoint) -> Result<Vec<u8>, Stop> {
    let bytes = stage.client.resume(place);
    bytes.ok_or_else(|| skipped("clients of this format cannot resume"))
}

pub(super) async fn resume(stage: &Stage<'_>) -> Result<(), Stop> {
    let server = stage.start(Config::default()).await?;
    // The connection is cut after `read` messages, with more messages on their way.
    for (round, read) in [0, 1, 5, 9].into_iter().enumerate() {
        let topic = format!("resumed{round}");
        let mut connection = server.subscriber(&topic).await?;
        connection.read_in_pieces_of(7);
        resuming(stage, &connection.place(&topic))?;
        for number in 1..=10 {
            server.publish(&topic, &numbered(number, 100)).await?;
        }
        read_on(&mut connection, &topic, 1, read).await?;
        let place = connection.place(&topic);
        drop(connection);
        for number in 11..=15 {
            server.publish(&topic, &numbered(number, 100)).await?;
        }
        server.until("the connection to end", || server.janus.stats().connections == 0).await?;
        for number in 16..=20 {
            server.publish(&topic, &numbered(number, 100)).await?;
        }
        let mut connection = server.connect().await?;
        connection.send(&resuming(stage, &place)?).await?;
        read_on(&mut connection, &topic, read + 1, 20).await?;
        server.publish(&topic, &numbered(21, 100)).await?;
        read_on(&mut connection, &topic, 21, 21).await?;
        drop(connection);
        server.until("the connection to end", || server.janus.stats().connections == 0).await?;
    }
    Ok(())
}

pub(super) async fn resume_too_late(stage: &Stage<'_>) -> Result<(), Stop> {
    let server = stage.start(Config { resume_messages: 4, ..Config::default() }).await?;
    let mut connection = server.subscriber("late").await?;
    server.publish("late", &numbered(1, 0)).await?;
    read_on(&mut connection, "late", 1, 1).await?;
    let place = connection.place("late");
    resuming(stage, &place)?;
    drop(connection);
    server.until("the connection to end", || server.janus.stats().connections == 0).await?;
    for number in 2..=12 {
        server.publish("late", &numbered(number, 0)).await?;
    }
    let never = ResumePoint {
        session: place.session.as_ref().map(|token| "0".repeat(token.len())),
        position: place.position.map(|Position { epoch, seq }| Position { epoch: Epoch::new(epoch.number() ^ 1), seq }),
        ..place.clone()
    };
    // Without a session name or a position there is no place that never existed.
    let never = Some(never).filter(|never| *never != place);
    let mut live = 12;
    for (what, place) in [("too late", Some(place)), ("with a place that never existed", never)] {
        let Some(place) = place else { continue };
        let mut connection = server.connect().await?;
        connection.send(&resuming(stage, &place)?).await?;
        let told = connection.until("the answer that the client cannot resume", |seen| match seen {
            Seen::Subscribed { resumed: Some(false), .. } | Seen::Gap { .. } => Some(Ok(true)),
            Seen::Error { .. } | Seen::Bye { .. } => Some(Ok(false)),
            Seen::Subscribed { resumed: Some(true), .. } | Seen::Message { .. } => Some(Err(seen)),
            _ => None,
        });
        match told.await {
            Ok(Ok(true)) => {
                server.until("the client to be subscribed", || server.subscribers("late") > 0).await?;
                live += 1;
                server.publish("late", &numbered(live, 0)).await?;
                let mut last = None;
                while last != Some(live) {
                    let number = number(&connection.message("late").await?)?;
                    if last.is_some_and(|last| number != last + 1) {
                        return Err(connection.stop(format!("message {number} came after {last:?}")));
                    }
                    last = Some(number);
                }
            }
            Ok(Ok(false)) => {}
            Ok(Err(seen)) => {
                let untold =
                    format!("a client came back {what} and got {seen:?} instead of a gap, an error or the end");
                return Err(connection.stop(untold));
            }
            // The end of the connection is an answer, too.
            Err(stop) if server.janus.stats().connections > 0 => return Err(stop),
            Err(_) => {}
        }
        drop(connection);
        server.until("the connection to end", || server.janus.stats().connections == 0).await?;
    }
    Ok(())
}

pub(super) async fn drain(stage: &Stage<'_>) -> Result<(), Stop> {
    const CLIENTS: usize = 20;
    const MESSAGES: u64 = 100;
    let server = stage.start(Config::default()).await?;
    let clients = try_join_all((0..CLIENTS).map(|_| server.subscriber_with("last", NARROW))).await?;
    for number in 1..=MESSAGES {
        server.publish("last", &numbered(number, 1_000)).await?;
    }
    let reads = clients.into_iter().map(async |mut client| {
        read_on(&mut client, "last", 1, MESSAGES).await?;
        match client.end("a drain").await? {
            End::Fin => Ok(()),
            End::Lost(kind) => Err(client.stop(format!("a drain reset the connection ({kind}) instead of closing"))),
        }
    });
    let drained = async {
        let report = server.janus.shutdown().await;
        if report.connections != CLIENTS || report.cut_off > 0 {
            return Err(failed(format!("{CLIENTS} clients read everything, but the drain reports {report:?}")));
        }
        Ok(())
    };
    let read = async { join_all(reads).await.into_iter().collect::<Result<(), Stop>>() };
    both(read, drained).await.map(drop)
}
