//! The setting of a check: a carrier, a watched codec, and the instances started by the check.
//!
//! [`Stage`] lasts for one check over one carrier. [`Server`] is an instance on this stage, [`Bystander`] a client of
//! the instance that must not notice the checked clients, and [`Stop`] the reason why a check has not passed. The
//! checks themselves are in [`checks`](super::checks) and [`hostile`](super::hostile).

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join;
use serde_json::value::RawValue;
use tokio::time::Instant;

use super::ClientFormat;
use super::carrier::{Carrier, Connector, ROOMY};
use super::connection::Connection;
use super::watched::{Notes, Watched};
use crate::config::Config;
use crate::wire::{Codec, Command, Decoder, FrameError, Limits};
use crate::{Builder, Janus, Receipt};

/// The reason why a check has not passed.
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
    /// Joins two failures of the same check: either may be the cause of the other.
    pub(super) fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Failed(one), Self::Failed(other)) => failed(format!("{one}; and {other}")),
            (Self::Failed(reason), _) | (_, Self::Failed(reason)) => failed(reason),
            (skipped, _) => skipped,
        }
    }

    /// Prepends the circumstances of a failure.
    pub(super) fn context(self, context: impl fmt::Display) -> Self {
        match self {
            Self::Failed(reason) => Self::Failed(format!("{context}: {reason}")),
            skipped @ Self::Skipped(_) => skipped,
        }
    }
}

/// Runs both futures to the end, even if the first fails: a subscriber only sees missing messages, and the publisher
/// knows the reason.
pub(super) async fn both<A, B>(
    one: impl Future<Output = Result<A, Stop>>,
    other: impl Future<Output = Result<B, Stop>>,
) -> Result<(A, B), Stop> {
    match join(one, other).await {
        (Ok(one), Ok(other)) => Ok((one, other)),
        (Err(one), Err(other)) => Err(one.and(other)),
        (Err(stop), Ok(_)) | (Ok(_), Err(stop)) => Err(stop),
    }
}

/// The setting of a check over a carrier.
pub(super) struct Stage<'a> {
    carrier: &'a Carrier,
    pub(super) codec: Arc<dyn Codec>,
    pub(super) client: &'a dyn ClientFormat,
    deadline: Duration,
    pub(super) seed: u64,
    notes: Notes,
}

impl<'a> Stage<'a> {
    pub(super) fn new(
        carrier: &'a Carrier,
        codec: &Arc<dyn Codec>,
        client: &'a dyn ClientFormat,
        deadline: Duration,
        seed: u64,
    ) -> Self {
        let notes = Notes::default();
        Self { carrier, codec: Arc::new(Watched::new(codec, &notes)), client, deadline, seed, notes }
    }

    /// The result of a check, given the notes about its codec: the first note is the cause of any failure.
    pub(super) fn verdict(&self, stood: Result<(), Stop>) -> Result<(), Stop> {
        match (self.notes.first(), stood) {
            (None, stood) => stood,
            (Some(note), Err(Stop::Failed(reason))) => Err(Stop::Failed(format!("{note}; then {reason}"))),
            (Some(note), _) => Err(Stop::Failed(note)),
        }
    }

    /// Starts an instance with these settings and no listener but the carrier's.
    pub(super) async fn start(&self, config: Config) -> Result<Server<'_>, Stop> {
        self.start_with(config, |builder| builder).await
    }

    /// Starts such an instance with further settings of its builder.
    pub(super) async fn start_with(
        &self,
        config: Config,
        prepare: impl FnOnce(Builder) -> Builder,
    ) -> Result<Server<'_>, Stop> {
        // A [`Reader`](super::Reader) sees heartbeats and cannot answer.
        let config = Config { pong_timeout: Duration::ZERO, ..config };
        // The same on any machine.
        let config = Config { listen: Vec::new(), threads: 2, homes: 1, drain_period: Duration::ZERO, ..config };
        let builder = prepare(Janus::builder().config(config));
        let (builder, connector) = self.carrier.accept(builder, Arc::clone(&self.codec));
        let janus = builder.start().await.map_err(|error| failed(format!("the instance did not start: {error}")))?;
        Ok(Server { stage: self, janus, connector })
    }

    /// A whole conversation of one client: an opening, a subscribe, and a publish if the format has publishers.
    pub(super) fn conversation(&self, topic: &str) -> Vec<u8> {
        let mut conversation = self.subscribing(topic);
        conversation.extend(self.client.publish(topic, "\"spoken\"").unwrap_or_default());
        conversation
    }

    pub(super) fn subscribing(&self, topic: &str) -> Vec<u8> {
        let mut bytes = self.client.open();
        bytes.extend(self.client.subscribe(topic));
        bytes
    }

    pub(super) fn publishing(&self, topic: &str, data: &str) -> Result<Vec<u8>, Stop> {
        self.client.publish(topic, data).ok_or_else(|| skipped("clients of this format cannot publish"))
    }

    /// Decodes the pieces up to the end of the stream. The bytes for the client are [without the time](without_time).
    pub(super) fn decode(&self, pieces: &[&[u8]], limits: &Limits) -> Vec<Result<Command, FrameError>> {
        let mut decoder = self.codec.decoder();
        let mut decoded = Vec::new();
        for piece in pieces {
            if feed(&mut decoder, piece, limits, &mut decoded) {
                return decoded;
            }
        }
        decoded.extend(decoder.finish(limits));
        decoded
    }
}

/// Decodes a piece of a stream. Where the codec changes, the successor takes the place of the decoder. Returns whether the
/// connection is over.
pub(super) fn feed(
    decoder: &mut Box<dyn Decoder>,
    piece: &[u8],
    limits: &Limits,
    decoded: &mut Vec<Result<Command, FrameError>>,
) -> bool {
    let mut input = piece;
    while let Some(command) = decoder.decode(&mut input, limits) {
        let over = match &command {
            Ok(Command::Become(_)) => match decoder.successor() {
                Some((_, successor)) => {
                    *decoder = successor;
                    false
                }
                None => true,
            },
            Ok(Command::PassOn | Command::Close(_) | Command::PublishAndClose { .. }) => true,
            Ok(_) => false,
            Err(error) => error.is_fatal(),
        };
        decoded.push(command.map(without_time));
        if over {
            return true;
        }
    }
    false
}

/// The command with zeros for all digits in the bytes for the client: the head of a response has the date, and the second
/// may change between two conversations that are compared.
fn without_time(command: Command) -> Command {
    let zeros = |bytes: Bytes| bytes.iter().map(|byte| if byte.is_ascii_digit() { b'0' } else { *byte }).collect();
    match command {
        Command::Answer(bytes) => Command::Answer(zeros(bytes)),
        Command::Become(bytes) => Command::Become(zeros(bytes)),
        Command::Close(bytes) => Command::Close(zeros(bytes)),
        Command::Preface(bytes) => Command::Preface(zeros(bytes)),
        command => command,
    }
}

/// A running instance under test.
pub(super) struct Server<'a> {
    pub(super) stage: &'a Stage<'a>,
    pub(super) janus: Janus,
    connector: Connector,
}

impl Server<'_> {
    /// Connects a client and sends nothing.
    pub(super) async fn connect(&self) -> Result<Connection, Stop> {
        self.connect_with(ROOMY).await
    }

    /// Connects a client with a buffer of about `capacity` bytes between server and client.
    pub(super) async fn connect_with(&self, capacity: usize) -> Result<Connection, Stop> {
        let connected = tokio::time::timeout(self.stage.deadline, self.connector.connect(&self.janus, capacity)).await;
        let (stream, addr) = match connected {
            Ok(Ok(connected)) => connected,
            Ok(Err(error)) => return Err(failed(format!("cannot connect: {error}"))),
            Err(_) => return Err(failed(format!("no connection within {:?}", self.stage.deadline))),
        };
        Ok(Connection::new(stream, addr, self.stage.client.reader(), self.stage.deadline))
    }

    /// Connects a client and subscribes to the topic.
    pub(super) async fn subscriber(&self, topic: &str) -> Result<Connection, Stop> {
        self.subscriber_with(topic, ROOMY).await
    }

    pub(super) async fn subscriber_with(&self, topic: &str, capacity: usize) -> Result<Connection, Stop> {
        let mut connection = self.connect_with(capacity).await?;
        connection.send(&self.stage.subscribing(topic)).await?;
        connection.subscribed().await?;
        if self.subscribers(topic) == 0 {
            return Err(connection.stop("the answer to a subscribe came before the subscription existed"));
        }
        Ok(connection)
    }

    pub(super) fn subscribers(&self, topic: &str) -> usize {
        self.janus.topic_info(topic).map_or(0, |topic| topic.subscribers)
    }

    /// Publishes in the process, without the transport under test.
    pub(super) async fn publish(&self, topic: &str, data: &str) -> Result<Receipt, Stop> {
        let data = RawValue::from_string(data.to_owned()).map_err(|error| failed(error.to_string()))?;
        match tokio::time::timeout(self.stage.deadline, self.janus.publish(topic, &data)).await {
            Ok(Ok(receipt)) => Ok(receipt),
            Ok(Err(error)) => Err(failed(format!("a message to {topic:?} was not published: {error}"))),
            Err(_) => Err(failed(format!("no receipt for a message to {topic:?} within {:?}", self.stage.deadline))),
        }
    }

    /// Waits until `condition` holds.
    pub(super) async fn until(&self, what: &str, mut condition: impl FnMut() -> bool) -> Result<(), Stop> {
        let until = Instant::now() + self.stage.deadline;
        let mut looks = tokio::time::interval(Duration::from_millis(1));
        while !condition() {
            if Instant::now() > until {
                return Err(failed(format!("still waiting for {what} after {:?}", self.stage.deadline)));
            }
            looks.tick().await;
        }
        Ok(())
    }

    /// Connects a client that must not notice the behaviour of other clients.
    pub(super) async fn bystander(&self) -> Result<Bystander, Stop> {
        Ok(Bystander { connection: self.subscriber("bystander").await?, count: 0 })
    }
}

/// A well-behaved subscriber of a separate topic. Messages on this topic show whether the server still serves other
/// clients.
pub(super) struct Bystander {
    connection: Connection,
    count: u64,
}

impl Bystander {
    /// Publishes a message to the bystander, and checks that the message arrives.
    pub(super) async fn notices_nothing(&mut self, server: &Server<'_>) -> Result<(), Stop> {
        self.count += 1;
        server.publish("bystander", &self.count.to_string()).await?;
        let data =
            self.connection.message("bystander").await.map_err(|stop| stop.context("another client was harmed"))?;
        if data.trim() != self.count.to_string() {
            return Err(self.connection.stop(format!("another client got {data} instead of message {}", self.count)));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_conversations_are_equal_even_if_a_second_has_passed_between_them() {
        let head = |second| Bytes::from(format!("HTTP/1.1 101 \r\ndate: Mon, 30 Nov 2026 05:23:0{second} GMT\r\n\r\n"));
        for command in [Command::Answer, Command::Become, Command::Close, Command::Preface] {
            assert_eq!(without_time(command(head(1))), without_time(command(head(2))));
            assert_ne!(without_time(command(head(1))), without_time(command(Bytes::from_static(b"HTTP"))));
        }
    }
}
