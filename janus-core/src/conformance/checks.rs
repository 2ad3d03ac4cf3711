//! The checks of what a transport does for clients that behave, or are slow, or come back.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{join, join_all, try_join_all};
use serde_json::value::RawValue;
use tokio::time::Instant;

use super::carrier::{Carrier, Connector, ROOMY};
use super::connection::{Connection, End};
use super::watched::{Notes, Watched};
use super::{Client, Place, Seen};
use crate::Janus;
use crate::config::{Config, Namespace, SlowConsumer};
use crate::topic::publish::Receipt;
use crate::wire::{Codec, Command, FrameError, Limits, Opens, Position};

/// Why a check has not passed.
#[derive(Debug)]
pub(super) enum Stop {
    Failed(String),
    Skipped(String),
}

pub(super) fn failed(reason: impl Into<String>) -> Stop {
    Stop::Failed(reason.into())
}

pub(super) fn skipped(reason: impl Into<String>) -> Stop {
    Stop::Skipped(reason.into())
}

impl Stop {
    /// This and another, which was found in the other half of the same check: either may be why the other came.
    fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Failed(one), Self::Failed(other)) => failed(format!("{one}; and {other}")),
            (Self::Failed(reason), _) | (_, Self::Failed(reason)) => failed(reason),
            (skipped, _) => skipped,
        }
    }
}

/// Both, each to its end: whoever waits for messages finds out that none come, and whoever publishes them knows why.
async fn both<A, B>(
    one: impl Future<Output = Result<A, Stop>>,
    other: impl Future<Output = Result<B, Stop>>,
) -> Result<(A, B), Stop> {
    match join(one, other).await {
        (Ok(one), Ok(other)) => Ok((one, other)),
        (Err(one), Err(other)) => Err(one.and(other)),
        (Err(stop), Ok(_)) | (Ok(_), Err(stop)) => Err(stop),
    }
}

/// What a check plays on.
pub(super) struct Stage<'a> {
    carrier: &'a Carrier,
    pub(super) codec: Arc<dyn Codec>,
    pub(super) client: &'a dyn Client,
    deadline: Duration,
    pub(super) seed: u64,
    notes: Notes,
}

impl<'a> Stage<'a> {
    pub(super) fn new(
        carrier: &'a Carrier,
        codec: &Arc<dyn Codec>,
        client: &'a dyn Client,
        deadline: Duration,
        seed: u64,
    ) -> Self {
        let notes = Notes::default();
        Self { carrier, codec: Arc::new(Watched::new(codec, &notes)), client, deadline, seed, notes }
    }

    /// What came of a check, in the light of what the codec did meanwhile.
    pub(super) fn verdict(&self, stood: Result<(), Stop>) -> Result<(), Stop> {
        match (self.notes.first(), stood) {
            (None, stood) => stood,
            (Some(note), Err(Stop::Failed(reason))) => Err(Stop::Failed(format!("{note}; then: {reason}"))),
            (Some(note), _) => Err(Stop::Failed(note)),
        }
    }

    /// An instance with these settings and no other listener.
    pub(super) async fn start(&self, config: Config) -> Result<Server<'_>, Stop> {
        // A [`Reader`](super::Reader) sees a heartbeat, and has no words to answer it.
        let config = Config { pong_timeout: Duration::ZERO, ..config };
        let config = Config { listen: Vec::new(), threads: 2, drain_period: Duration::ZERO, ..config };
        let builder = Janus::builder().config(config);
        let (builder, connector) = self.carrier.accept(builder, Arc::clone(&self.codec));
        let janus = builder.start().await.map_err(|error| failed(format!("the instance did not start: {error}")))?;
        Ok(Server { stage: self, janus, connector })
    }

    /// A whole conversation of one client: it opens, subscribes and publishes if it can.
    pub(super) fn conversation(&self, topic: &str) -> Vec<u8> {
        let mut conversation = self.subscribing(topic);
        conversation.extend(self.client.publish(topic, "\"spoken\"").unwrap_or_default());
        conversation
    }

    fn subscribing(&self, topic: &str) -> Vec<u8> {
        let mut bytes = self.client.open();
        bytes.extend(self.client.subscribe(topic));
        bytes
    }

    fn publishing(&self, topic: &str, data: &str) -> Result<Vec<u8>, Stop> {
        self.client.publish(topic, data).ok_or_else(|| skipped("clients of this format cannot publish"))
    }

    /// What these pieces decode to, up to the end of the stream; a preface without its digits, because a head may have the
    /// time in it.
    pub(super) fn decode(&self, pieces: &[&[u8]], limits: &Limits) -> Vec<Result<Command, FrameError>> {
        let mut decoder = self.codec.decoder();
        let mut decoded = Vec::new();
        for piece in pieces {
            let mut input = *piece;
            while let Some(command) = decoder.decode(&mut input, limits) {
                let over = match &command {
                    Ok(Command::Become(_)) => match decoder.successor() {
                        Some((_, successor)) => {
                            decoder = successor;
                            false
                        }
                        None => true,
                    },
                    Ok(Command::PassOn | Command::Close(_) | Command::PublishAndClose { .. }) => true,
                    Ok(_) => false,
                    Err(error) => error.is_fatal(),
                };
                decoded.push(match command {
                    Ok(Command::Preface(bytes)) => {
                        let bytes = bytes.iter().map(|byte| if byte.is_ascii_digit() { b'0' } else { *byte });
                        Ok(Command::Preface(bytes.collect()))
                    }
                    command => command,
                });
                if over {
                    return decoded;
                }
            }
        }
        decoded.extend(decoder.finish(limits));
        decoded
    }
}

/// An instance that is checked.
pub(super) struct Server<'a> {
    pub(super) stage: &'a Stage<'a>,
    pub(super) janus: Janus,
    connector: Connector,
}

impl Server<'_> {
    /// A client that has said nothing.
    pub(super) async fn connect(&self) -> Result<Connection, Stop> {
        self.connect_with(ROOMY).await
    }

    /// The same with about so many bytes between server and client.
    pub(super) async fn connect_with(&self, capacity: usize) -> Result<Connection, Stop> {
        let connected = tokio::time::timeout(self.stage.deadline, self.connector.connect(&self.janus, capacity)).await;
        let (stream, addr) = match connected {
            Ok(Ok(connected)) => connected,
            Ok(Err(error)) => return Err(failed(format!("cannot connect: {error}"))),
            Err(_) => return Err(failed(format!("cannot connect for {:?}", self.stage.deadline))),
        };
        Ok(Connection::new(stream, addr, self.stage.client.reader(), self.stage.deadline))
    }

    /// A client that is subscribed to this topic.
    pub(super) async fn subscriber(&self, topic: &str) -> Result<Connection, Stop> {
        self.subscriber_with(topic, ROOMY).await
    }

    async fn subscriber_with(&self, topic: &str, capacity: usize) -> Result<Connection, Stop> {
        let mut connection = self.connect_with(capacity).await?;
        connection.send(&self.stage.subscribing(topic)).await?;
        connection.subscribed().await?;
        if self.subscribers(topic) == 0 {
            return Err(connection.stop("a subscribe was answered before it was carried out"));
        }
        Ok(connection)
    }

    pub(super) fn subscribers(&self, topic: &str) -> usize {
        self.janus.topic_info(topic).map_or(0, |topic| topic.subscribers)
    }

    /// Publishes from within, where nothing of the transport is involved.
    pub(super) async fn publish(&self, topic: &str, data: &str) -> Result<Receipt, Stop> {
        let data = RawValue::from_string(data.to_owned()).map_err(|error| failed(error.to_string()))?;
        match tokio::time::timeout(self.stage.deadline, self.janus.publish(topic, &data)).await {
            Ok(Ok(receipt)) => Ok(receipt),
            Ok(Err(error)) => Err(failed(format!("a message to {topic:?} was not published: {error}"))),
            Err(_) => Err(failed(format!("a message to {topic:?} has no answer after {:?}", self.stage.deadline))),
        }
    }

    /// Waits until `condition` holds.
    pub(super) async fn until(&self, what: &str, mut condition: impl FnMut() -> bool) -> Result<(), Stop> {
        let until = Instant::now() + self.stage.deadline;
        let mut looks = tokio::time::interval(Duration::from_millis(1));
        while !condition() {
            if Instant::now() > until {
                return Err(failed(format!("after {:?} still waiting for {what}", self.stage.deadline)));
            }
            looks.tick().await;
        }
        Ok(())
    }

    /// One who must not notice what others do.
    pub(super) async fn bystander(&self) -> Result<Bystander, Stop> {
        Ok(Bystander { connection: self.subscriber("bystander").await?, count: 0 })
    }
}

pub(super) struct Bystander {
    connection: Connection,
    count: u64,
}

impl Bystander {
    /// It still gets what is published.
    pub(super) async fn notices_nothing(&mut self, server: &Server<'_>) -> Result<(), Stop> {
        self.count += 1;
        server.publish("bystander", &self.count.to_string()).await?;
        let blame = |stop| match stop {
            Stop::Failed(reason) => failed(format!("another client was harmed: {reason}")),
            stop @ Stop::Skipped(_) => stop,
        };
        let data = self.connection.message("bystander").await.map_err(blame)?;
        if data.trim() != self.count.to_string() {
            return Err(self.connection.stop(format!("another client got {data} instead of message {}", self.count)));
        }
        Ok(())
    }
}

/// A message that can be told from others and has some length.
fn numbered(number: u64, bytes: usize) -> String {
    format!("{{\"n\":{number},\"pad\":\"{}\"}}", "x".repeat(bytes))
}

fn number(data: &str) -> Result<u64, Stop> {
    let value: Option<serde_json::Value> = serde_json::from_str(data).ok();
    let number = value.as_ref().and_then(|value| value["n"].as_u64());
    number.ok_or_else(|| failed(format!("a message arrived as {data:.80}")))
}

/// Reads messages up to the one of this number, which must come in order, each once.
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

pub(super) async fn order(stage: &Stage<'_>) -> Result<(), Stop> {
    const SUBSCRIBERS: usize = 8;
    const PUBLISHERS: u64 = 4;
    const EACH: u64 = 50;
    let server = stage.start(Config { inline_subscribers: 4, ..Config::default() }).await?;
    let server = &server;
    let subscribers = try_join_all((0..SUBSCRIBERS).map(|_| server.subscriber("order"))).await?;
    let publish = async |publisher: u64| {
        let data = |message: u64| numbered(publisher * 1_000 + message, 10);
        if stage.client.publish("order", "0").is_none() {
            for message in 0..EACH {
                server.publish("order", &data(message)).await?;
            }
            return Ok(None);
        }
        let mut connection = server.connect().await?;
        connection.send(&stage.client.open()).await?;
        for message in 0..EACH {
            if !connection.send(&stage.publishing("order", &data(message))?).await? {
                let stop = connection.stop("a publisher's connection ended");
                return Err(connection.explain(stop));
            }
        }
        Ok(Some(connection))
    };
    let listen = async |mut connection: Connection| {
        let mut got: Vec<u64> = Vec::new();
        let mut last_seq = None;
        while got.len() < (PUBLISHERS * EACH) as usize {
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
                return Err(connection.stop(format!("message {number} of one publisher came after its {later}")));
            }
            got.push(number);
        }
        Ok((connection, got))
    };
    let published = try_join_all((0..PUBLISHERS).map(publish));
    let (published, listened) = join(published, try_join_all(subscribers.into_iter().map(listen))).await;
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

/// JSON as it was written, without the white space between its tokens.
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
        return Err(skipped("the format cannot say topics with blanks"));
    }
    carry(stage, name).await
}

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
        // What a client sends is framed by the format: only what stands in one line is sure to be sayable.
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
            return Err(failed(format!("cut after byte {cut} it decodes to {decoded:?} instead of {whole:?}")));
        }
    }
    let bytes: Vec<&[u8]> = conversation.chunks(1).collect();
    let decoded = stage.decode(&bytes, &limits);
    if decoded != whole {
        return Err(failed(format!("byte by byte it decodes to {decoded:?} instead of {whole:?}")));
    }

    let server = stage.start(Config::default()).await?;
    let speaks = stage.client.publish("split", "0").is_some();
    // A pipe that holds so many bytes is read in pieces of as many.
    for cut in 1..conversation.len() {
        let mut connection = server.connect_with(cut).await?;
        let (head, tail) = conversation.split_at(cut);
        connection.send(head).await?;
        // An answer of the thread that reads, which has probably read before it gave that.
        server.janus.sessions().await;
        connection.send(tail).await?;
        spoken(&mut connection, &server, speaks).await.map_err(|stop| match stop {
            Stop::Failed(reason) => failed(format!("cut after byte {cut}: {reason}")),
            stop @ Stop::Skipped(_) => stop,
        })?;
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

/// The answers to a conversation.
async fn spoken(connection: &mut Connection, server: &Server<'_>, speaks: bool) -> Result<(), Stop> {
    connection.subscribed().await?;
    if !speaks {
        server.publish("split", "\"spoken\"").await?;
    }
    let data = connection.message("split").await?;
    if tight(&data) == "\"spoken\"" { Ok(()) } else { Err(connection.stop(format!("{data} arrived"))) }
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

    // One that does not end, either.
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
            return Err(failed(format!("{kept} bytes of a frame are kept, and max_frame_bytes is {LIMIT}")));
        }
    }
    if !refused {
        connection.refused("a frame without an end").await?;
    }
    bystander.notices_nothing(&server).await?;
    server.publish("sized", &numbered(3, 0)).await?;
    let data = witness.message("sized").await?;
    if number(&data)? != 3 {
        return Err(witness.stop("a message that is too long was delivered"));
    }
    Ok(())
}

pub(super) async fn topic_limit(stage: &Stage<'_>) -> Result<(), Stop> {
    const LIMIT: usize = 4;
    if !stage.client.subscribes_again() {
        return Err(skipped("a connection of this format subscribes once"));
    }
    let server = stage.start(Config { max_topics_per_client: LIMIT, ..Config::default() }).await?;
    let topics: Vec<String> = (0..LIMIT).map(|topic| format!("topic{topic}")).collect();
    let mut connection = server.subscriber(&topics[0]).await?;
    for topic in &topics[1..] {
        connection.send(&stage.client.subscribe(topic)).await?;
        connection.subscribed().await?;
    }
    connection.send(&stage.client.subscribe("beyond")).await?;
    let closed = connection.refused("a topic more than max_topics_per_client").await?;
    if server.subscribers("beyond") > 0 {
        return Err(failed("the client was told that it has too many topics, and got one more"));
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
    // The longest that is allowed.
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
        Some(name) => Err(failed(format!("the topic {name:?} was made of a name that is not allowed"))),
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
        return Err(failed("a frame that was not finished had an effect"));
    }
    bystander.notices_nothing(&server).await
}

/// Small limits, so that little has to be sent until they are reached.
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

/// Bytes of a message to a client that does not read, and how many such messages are more than any system keeps.
const FLOOD_BYTES: usize = 8 * 1024;
const FLOOD: u64 = 4_096;

/// What waits between a server and a client that does not read.
const NARROW: usize = 4 * 1024;

pub(super) async fn slow_client(stage: &Stage<'_>) -> Result<(), Stop> {
    let mut config = tight_queues();
    config.default_namespace.slow_consumer = SlowConsumer::Disconnect;
    // What is queued, on its way and kept, and what the connections themselves take.
    let allowance = config.max_queue_bytes + config.max_inflight_bytes + config.resume_bytes + 256 * 1024;
    let server = stage.start(config).await?;
    let mut stalled = server.subscriber_with("flood", NARROW).await?;
    let mut reading = server.subscriber("flood").await?;
    let mut bystander = server.bystander().await?;
    let before = server.janus.stats().memory_used;
    let mut sent = 0;
    while server.janus.stats().slow_consumers == 0 {
        if sent == FLOOD {
            return Err(failed(format!("a client that did not read {FLOOD} messages was not cut off")));
        }
        sent += 1;
        server.publish("flood", &numbered(sent, FLOOD_BYTES)).await?;
        read_on(&mut reading, "flood", sent, sent).await?;
        let kept = server.janus.stats().memory_used.saturating_sub(before);
        if kept > allowance {
            return Err(failed(format!("{kept} bytes are kept for a slow client, more than its limits allow")));
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
                    return Err(stalled.stop(format!("a slow client misses message {got} and was not told")));
                }
            }
            Some(Seen::Gap { .. }) => return Err(stalled.stop("a gap was told under the policy disconnect")),
            Some(_) => {}
            None => break,
        }
    }
    if got > sent { Err(failed("a client that was cut off has had everything")) } else { Ok(()) }
}

pub(super) async fn gaps(stage: &Stage<'_>) -> Result<(), Stop> {
    if !stage.codec.tells_gaps() {
        return Err(skipped("the codec tells no gaps; its slow clients are cut off instead"));
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
                return Err(failed(format!("a client that did not read {FLOOD} messages made nothing drop")));
            }
            sent += 1;
            expect_number(&server.publish(&topic, &numbered(sent, FLOOD_BYTES)).await?, sent)?;
        }
        // When it has caught up, a last message shows what is missing before it.
        let caught_up = async {
            server.until("a client to catch up", || server.janus.slow_clients(1).is_empty()).await?;
            expect_number(&server.publish(&topic, &numbered(sent + 1, 0)).await?, sent + 1)
        };
        let reads = async {
            let (mut next, mut told) = (1, 0);
            while next <= sent + 1 {
                match stalled.next().await? {
                    Some(Seen::Message { data, .. }) => {
                        let number = number(&data)?;
                        if number != next {
                            let missing = format!("under {policy}, message {number} came and {next} was due");
                            return Err(stalled.stop(missing));
                        }
                        next += 1;
                    }
                    Some(Seen::Gap { from, to }) => {
                        if from != next || to < from {
                            return Err(stalled.stop(format!("under {policy}, {from} to {to} are a gap at {next}")));
                        }
                        told += to - from + 1;
                        next = to + 1;
                    }
                    Some(_) => {}
                    None => return Err(stalled.stop(format!("under {policy} the connection ended"))),
                }
            }
            if told == 0 { Err(stalled.stop("no gap was told")) } else { Ok(()) }
        };
        both(reads, caught_up).await?;
    }
    Ok(())
}

/// A topic that somebody is subscribed to since its first message has numbered all of them.
fn expect_number(receipt: &Receipt, number: u64) -> Result<(), Stop> {
    if receipt.seq == number { Ok(()) } else { Err(failed(format!("message {number} was numbered {}", receipt.seq))) }
}

fn resuming(stage: &Stage<'_>, place: &Place) -> Result<Vec<u8>, Stop> {
    let bytes = stage.client.resume(place);
    bytes.ok_or_else(|| skipped("clients of this format cannot resume"))
}

pub(super) async fn resume(stage: &Stage<'_>) -> Result<(), Stop> {
    let server = stage.start(Config::default()).await?;
    // Cut after this many messages, with more on their way.
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
    let never = Place {
        session: place.session.as_ref().map(|token| "0".repeat(token.len())),
        position: place.position.map(|Position { epoch, seq }| Position { epoch: epoch ^ 1, seq }),
        ..place.clone()
    };
    // Without a name or a position there is no such place to make up.
    let never = Some(never).filter(|never| *never != place);
    let mut live = 12;
    for (what, place) in [("too late", Some(place)), ("with a place that never was", never)] {
        let Some(place) = place else { continue };
        let mut connection = server.connect().await?;
        connection.send(&resuming(stage, &place)?).await?;
        let told = connection.until("word that it cannot resume", |seen| match seen {
            Seen::Subscribed { resumed: Some(false), .. } | Seen::Gap { .. } => Some(Ok(true)),
            Seen::Error { .. } | Seen::Bye { .. } => Some(Ok(false)),
            Seen::Subscribed { resumed: Some(true), .. } | Seen::Message { .. } => Some(Err(seen)),
            _ => None,
        });
        match told.await {
            Ok(Ok(true)) => {
                server.until("it to be subscribed", || server.subscribers("late") > 0).await?;
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
                return Err(connection.stop(format!("a client that came {what} was not told; {seen:?} came instead")));
            }
            // The end of the connection tells as well.
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
            End::Lost(kind) => Err(client.stop(format!("a drain lost the connection: {kind}"))),
        }
    });
    let drained = async {
        let report = server.janus.shutdown().await;
        if report.connections != CLIENTS || report.cut_off > 0 {
            return Err(failed(format!("the instance says of {CLIENTS} clients that read everything: {report:?}")));
        }
        Ok(())
    };
    let read = async { join_all(reads).await.into_iter().collect::<Result<(), Stop>>() };
    both(read, drained).await.map(drop)
}
