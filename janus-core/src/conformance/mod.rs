// | file | kind | owns |
// |---|---|---|
// | `mod.rs` | API | `ClientFormat` and `Reader` for authors, the list of checks, `Suite` and `Report` |
// | `stage.rs` | setting of a check | one watched codec, one instance, its subscribers and a bystander |
// | `checks.rs` | checks | well-behaved, slow and returning clients |
// | `endings.rs` | checks | what clients are told at the end of a connection |
// | `hostile.rs` | checks | misbehaving clients, and crashes of parts of the server |
// | `listing.rs` | macro | the list of the checks of a suite |
// | `connection.rs` | one client | a stream, the events read from it, and the client's place |
// | `carrier.rs` | ways in | how clients connect: TCP, pipes, or a way of the author |
// | `watched.rs` | observer of a codec | notes on panics and on decoders that do not advance |
// | `clients/` | clients | the formats of this crate: classic, WebSocket, server-sent events |
// | `engine/` | checks | the contract of an engine, with its own list of checks, suite and report |

//! The contract of a transport, as checks that run on any transport: a listener or a wire format from outside this
//! crate, or both. The contract of an engine is in [`engine`].
//!
//! The author of a [`Codec`] also writes the other end, a [`ClientFormat`]. Both are pure: bytes out, and [`Seen`] values for
//! bytes in. [`run`] then starts real instances with the codec, connects clients over TCP and over pipes, and returns a
//! [`Report`] with one result for each [`Check`]. The variants of [`Check`] state the demands.
//!
//! The module comes with the feature `conformance`, which belongs among the `dev-dependencies`: no server needs it.
//! With the feature `fault-injection` in addition, two further checks crash parts of the server.
//!
//! ```toml
//! [dev-dependencies]
//! janus-core = { path = "../janus/janus-core", features = ["conformance", "fault-injection"] }
//! ```
//!
//! # Example
//!
//! A client of the line protocol of `examples/lines.rs`, and the test of its codec:
//!
//! ```
//! # #[allow(dead_code)] #[path = "../../../examples/lines.rs"] mod lines;
//! # use lines::Lines;
//! use std::sync::Arc;
//!
//! use janus_core::conformance::{Check, ClientFormat, ResumePoint, Reader, Seen, Suite};
//! use janus_core::wire::Delimited;
//!
//! struct LinesClient;
//!
//! impl ClientFormat for LinesClient {
//!     fn subscribe(&self, topic: &str) -> Vec<u8> {
//!         format!("sub {topic}\n").into()
//!     }
//!
//!     fn publish(&self, topic: &str, data: &str) -> Option<Vec<u8>> {
//!         Some(format!("pub {topic} {data}\n").into())
//!     }
//!
//!     fn resume(&self, place: &ResumePoint) -> Option<Vec<u8>> {
//!         Some(format!("sub {} {}\n", place.topic, place.position?).into())
//!     }
//!
//!     fn reader(&self) -> Box<dyn Reader> {
//!         let mut lines = Delimited::new(b'\n');
//!         Box::new(move |mut input: &[u8], seen: &mut Vec<Seen>| {
//!             while let Some(Ok(line)) = lines.next(&mut input, 1 << 20) {
//!                 let line = String::from_utf8_lossy(&line);
//!                 seen.push(read(&line).unwrap_or_else(|| Seen::Unknown(line.into_owned())));
//!             }
//!         })
//!     }
//!
//!     fn carries_topic(&self, name: &str) -> bool {
//!         !name.contains(' ')
//!     }
//! }
//!
//! /// What a line from the server says; `None` if no such line exists.
//! fn read(line: &str) -> Option<Seen> {
//!     let words: Vec<&str> = line.splitn(4, ' ').collect();
//!     Some(match (words[0], words.len()) {
//!         ("msg", 4) => Seen::message(words[1], Some(words[2].parse().ok()?), words[3]),
//!         ("ok", 3) => Seen::subscribed().at(words[2].parse().ok()?).resumed(false),
//!         ("resumed", 3) => Seen::subscribed().at(words[2].parse().ok()?).resumed(true),
//!         ("gap", 4) => Seen::Gap { from: words[2].parse().ok()?, to: words[3].parse().ok()? },
//!         ("error", 2..) => Seen::Error { code: words[1].to_owned() },
//!         ("bye", 2..) => Seen::Bye { code: words[1].to_owned() },
//!         _ => return None,
//!     })
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! // In a test, `conformance::run(Lines, LinesClient)` runs all of it.
//! let report = Suite::new(Lines, LinesClient).checks(&[Check::Order, Check::Splits]).run().await;
//! println!("{report}");
//! report.assert_passed();
//! # }
//! ```
//!
//! # Decoders
//!
//! Every check also watches the codec. A decoder must not panic, and must have taken all of its input when it returns
//! `None`. An error refuses one frame, whose bytes must have been taken by then: a second error in a row without a byte
//! taken fails the check. Several refusals of one frame are [`Command::Refused`](crate::wire::Command::Refused).
//!
//! # Other listeners
//!
//! By default clients come over TCP and over pipes in memory. [`Suite::carrier`] adds any other way, such as Unix
//! sockets or TLS, given a function to listen and a function to connect; see [`Carrier::own`].
//!
//! # Limits
//!
//! Every wait has a [deadline](Suite::deadline); none is a fixed pause. All checks take 5 to 20 seconds for one codec.
//! A failed check reports the awaited event, the last events seen by the client, and the publisher's answer.
//! Random input is reported with its seed, and [`Suite::seed`] repeats the input.

#[macro_use]
mod listing;

mod carrier;
mod checks;
mod clients;
mod connection;
mod endings;
pub mod engine;
mod hostile;
mod stage;
mod watched;

use std::fmt;
use std::panic::Location;
use std::sync::Arc;
use std::time::{Duration, Instant};

pub use carrier::{Accepting, Carrier, Connecting};
pub use clients::{CborClient, ClassicClient, SseClient, WebSocketClient};

use crate::wire::{Codec, Position};
use stage::{Stage, Stop};

/// The client side of a wire format: the frames of a client, and a reader for the frames of the server.
///
/// Like the codec, the client is pure. A method that returns `None` says that the format has no such frame: the checks
/// that need the frame are skipped, and the report names them.
pub trait ClientFormat: Send + Sync + 'static {
    /// The opening of a connection, if the format wants any. Other frames follow at once, in the same piece.
    fn open(&self) -> Vec<u8> {
        Vec::new()
    }

    /// The frame to subscribe to a topic. The frame must be incomplete without its last byte.
    fn subscribe(&self, topic: &str) -> Vec<u8>;

    /// The frame to end a subscription.
    fn unsubscribe(&self, topic: &str) -> Option<Vec<u8>> {
        let _ = topic;
        None
    }

    /// The frame to publish this data, JSON text.
    fn publish(&self, topic: &str, data: &str) -> Option<Vec<u8>> {
        let _ = (topic, data);
        None
    }

    /// All bytes with which a new connection resumes a topic at a place of an earlier connection, the opening included.
    fn resume(&self, place: &ResumePoint) -> Option<Vec<u8>> {
        let _ = place;
        None
    }

    /// Creates the reader for the bytes of one connection.
    fn reader(&self) -> Box<dyn Reader>;

    /// Input of misbehaving clients. Each entry is the whole input of one connection, and must be refused.
    fn garbage(&self) -> Vec<Vec<u8>> {
        Vec::new()
    }

    /// Whether a connection may subscribe to several topics, one after the other. Server-sent events cannot: the topics
    /// are part of the one request.
    fn subscribes_again(&self) -> bool {
        true
    }

    /// Whether the format can tell a client why its connection ends, or why the client is not served. By default it can.
    /// Without such words, the checks of these words are skipped.
    fn hears_farewells(&self) -> bool {
        true
    }

    /// Whether the format can carry this topic name. A format that splits its frames at blanks may have no way to write
    /// a name with blanks.
    fn carries_topic(&self, name: &str) -> bool {
        let _ = name;
        true
    }
}

/// Reads the bytes of one connection, in pieces of any size.
///
/// A closure is a reader, too: `move |input: &[u8], seen: &mut Vec<Seen>| …`.
pub trait Reader: Send {
    /// Takes all of `input`, and appends what the server said.
    fn read(&mut self, input: &[u8], seen: &mut Vec<Seen>);
}

impl<F: FnMut(&[u8], &mut Vec<Seen>) + Send> Reader for F {
    fn read(&mut self, input: &[u8], seen: &mut Vec<Seen>) {
        self(input, seen);
    }
}

/// An event at a client's end of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Seen {
    /// The connection is served.
    Opened {
        /// The name of the session, if the session has a name.
        session: Option<String>,
    },
    /// The answer to a subscribe, or to a resuming client.
    Subscribed {
        /// The position after which delivery begins, if the format carries positions.
        position: Option<Position>,
        /// Whether delivery continues at the requested place, if the client asked for a place and the format carries
        /// the answer.
        resumed: Option<bool>,
    },
    /// A message.
    Message {
        /// The topic of the message.
        topic: String,
        /// The number of the message, if the format carries numbers.
        seq: Option<u64>,
        /// The data of the message, JSON text.
        data: String,
    },
    /// A range of messages lost to the client.
    Gap {
        /// The number of the first missing message.
        from: u64,
        /// The number of the last missing message.
        to: u64,
    },
    /// A request was refused.
    Error {
        /// The reason.
        code: String,
    },
    /// The connection ends, or was not served.
    Bye {
        /// The reason.
        code: String,
    },
    /// Anything else that the format knows: a heartbeat, a receipt, the answer to an unsubscribe.
    Other,
    /// Bytes that no server should send. Any check in which a client sees such bytes fails.
    Unknown(String),
}

impl Seen {
    /// A message.
    #[must_use]
    pub fn message(topic: impl Into<String>, seq: Option<u64>, data: impl Into<String>) -> Self {
        Self::Message { topic: topic.into(), seq, data: data.into() }
    }

    /// The answer to a subscribe in a format whose answer carries nothing else.
    #[must_use]
    pub fn subscribed() -> Self {
        Self::Subscribed { position: None, resumed: None }
    }

    /// Adds the position to a [`Subscribed`](Self::Subscribed).
    #[must_use]
    pub fn at(mut self, at: Position) -> Self {
        if let Self::Subscribed { position, .. } = &mut self {
            *position = Some(at);
        }
        self
    }

    /// Adds the answer of whether delivery resumed to a [`Subscribed`](Self::Subscribed).
    #[must_use]
    pub fn resumed(mut self, whether: bool) -> Self {
        if let Self::Subscribed { resumed, .. } = &mut self {
            *resumed = Some(whether);
        }
        self
    }
}

/// How far a client had come in a topic when the connection was lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResumePoint {
    /// The name of the session, if the client was told the name.
    pub session: Option<String>,
    /// The topic.
    pub topic: String,
    /// The position of the last message or gap that the client got, if the client was told any position.
    pub position: Option<Position>,
    /// How many messages the client has had since the subscribe.
    pub received: u64,
}

checks! {
    "One demand on a transport.", Stop;
    /// Several publishers at once: every subscriber gets every message once, all in the same order. The messages of
    /// each publisher keep their order, and the numbers rise by 1 if the format carries numbers.
    Order = "order", checks::order;
    /// Published JSON arrives as the same JSON, with its digits and escapes, even if the text contains the bytes with
    /// which the format ends frames. Only white space between the tokens may change. Topics may have any characters but
    /// control characters.
    Text = "text", checks::text;
    /// The check `text` for a topic whose name has blanks. Skipped for formats that cannot carry such names.
    Blanks = "text.blanks", checks::blanks;
    /// After an unsubscribe no more messages of the topic come, and the connection stays open.
    Unsubscribe = "unsubscribe", checks::unsubscribe;
    /// A conversation means the same for every cut: in two at every byte, and byte by byte, both decoded directly and
    /// sent over the carrier.
    Splits = "splits", checks::splits;
    /// A frame of half of `max_frame_bytes` is obeyed. A far longer frame is refused by an error or by the end of the
    /// connection, not with silence; the frame publishes nothing, and its bytes are not kept.
    FrameLimit = "limits.frame", checks::frame_limit;
    /// A topic beyond `max_topics_per_client` is refused, and the earlier topics of the client stay subscribed.
    TopicLimit = "limits.topics", checks::topic_limit;
    /// Topics with an empty name, a name longer than `max_topic_bytes`, or control characters in the name are refused,
    /// and not created.
    TopicNames = "limits.names", checks::topic_names;
    /// A frame that is not completed within `frame_timeout` ends its connection. So does a client that never opens the
    /// connection, in formats with an opening by the client. A client that is idle between frames stays.
    FrameTimeout = "limits.time", checks::frame_timeout;
    /// Under `disconnect` a client that does not read is cut off. The client has got the published messages without a
    /// hole, up to the end of the connection. Other clients get everything, and memory stays within the limits of the
    /// queue.
    SlowClient = "slow", checks::slow_client;
    /// Under the policies that drop, a client that reads late gets, for each message, the message or a gap that counts
    /// the message, in order. Skipped for codecs that [tell no gaps](Codec::tells_gaps).
    Gaps = "slow.gaps", checks::gaps;
    /// A connection is lost while messages are on their way, in the middle of a frame, and more messages are published.
    /// The client comes back with its place and gets each later message once, in order.
    Resume = "resume", checks::resume;
    /// A client that comes back too late, or with a place that never existed, is told so: by the answer, a gap, an
    /// error or the end of the connection. The client is never served as if nothing were missing.
    ResumeTooLate = "resume.late", checks::resume_too_late;
    /// A drain ends every connection after the messages that were queued for the client, without a reset: nothing is
    /// lost.
    Drain = "drain", checks::drain;
    /// A client whose connection is closed by the server, and a client that is refused before it was served, are told so:
    /// by an error or a farewell before the end of the stream. Skipped for formats [without
    /// farewells](ClientFormat::hears_farewells).
    Farewell = "farewell", endings::farewell;
    /// A client that ends its side of the stream in the middle of a frame gets an answer: an error, a farewell, or the
    /// answer to a frame that the end of the stream has completed; see [`Decoder::finish`](crate::wire::Decoder::finish).
    /// Skipped for formats [without farewells](ClientFormat::hears_farewells), and for formats whose clients send nothing
    /// but the opening.
    Unfinished = "farewell.finish", endings::unfinished;
    /// Input that the author of the client knows to be [wrong](ClientFormat::garbage) is refused while the client waits for
    /// an answer.
    Garbage = "hostile.garbage", hostile::garbage;
    /// Random bytes, and conversations with random damage: nothing panics, each connection ends, and another client
    /// does not notice.
    RandomInput = "hostile.random", hostile::random_input;
    /// Of a frame whose beginning announces 40 MiB, only received bytes take memory: neither
    /// [`Decoder::memory`](crate::wire::Decoder::memory) nor, on Linux, the address space of the process grows with the
    /// announced length. Memory that the allocator had reserved before does not show.
    Declared = "hostile.declared", hostile::declared;
    /// A client that goes away after any byte of a conversation leaves nothing behind, and another client does not
    /// notice.
    Truncated = "hostile.truncated", hostile::truncated;
    /// A crash of one connection's actor ends this connection and no other. Needs the feature `fault-injection`.
    ConnectionCrash = "crash.connection", hostile::connection_crash;
    /// A topic that crashes in the middle of a delivery loses nothing and sends nothing twice. Needs the feature
    /// `fault-injection`.
    TopicCrash = "crash.topic", hostile::topic_crash;
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Runs all checks over TCP and over pipes.
///
/// ```no_run
/// # mod codec { pub use janus_core::wire::classic::Classic as MyCodec; }
/// # use codec::MyCodec;
/// # use janus_core::conformance::ClassicClient as MyClient;
/// # async fn test() {
/// janus_core::conformance::run(MyCodec, MyClient).await.assert_passed();
/// # }
/// ```
///
/// Must be called from a tokio runtime with I/O and time, such as the runtime of `#[tokio::test]`.
pub async fn run(codec: impl Codec, client: impl ClientFormat) -> Report {
    Suite::new(codec, client).run().await
}

/// A choice of checks and of carriers for one codec.
pub struct Suite {
    codec: Arc<dyn Codec>,
    client: Box<dyn ClientFormat>,
    carriers: Vec<Carrier>,
    checks: Vec<Check>,
    deadline: Duration,
    seed: Option<u64>,
}

impl fmt::Debug for Suite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { codec, carriers, checks, deadline, seed, .. } = self;
        f.debug_struct("Suite")
            .field("codec", codec)
            .field("carriers", carriers)
            .field("checks", checks)
            .field("deadline", deadline)
            .field("seed", seed)
            .finish_non_exhaustive()
    }
}

impl Suite {
    /// All checks, over TCP and over pipes.
    #[must_use]
    pub fn new(codec: impl Codec, client: impl ClientFormat) -> Self {
        Self {
            codec: Arc::new(codec),
            client: Box::new(client),
            carriers: Vec::new(),
            checks: Check::ALL.to_vec(),
            deadline: Duration::from_secs(10),
            seed: None,
        }
    }

    /// Connects the clients by this carrier instead of the default carriers. Further calls add further carriers.
    #[must_use]
    pub fn carrier(mut self, carrier: Carrier) -> Self {
        self.carriers.push(carrier);
        self
    }

    /// Runs only these checks.
    #[must_use]
    pub fn checks(mut self, checks: &[Check]) -> Self {
        self.checks = checks.to_vec();
        self
    }

    /// Sets how long each single wait may take before the check fails. The default of 10 s is enough for a busy
    /// machine.
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Repeats the random input of an earlier report. By default each run has a new seed; a second, constant seed is
    /// always part of the run.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }

    /// Runs the checks, one after the other.
    pub async fn run(mut self) -> Report {
        if self.carriers.is_empty() {
            self.carriers = vec![Carrier::tcp(), Carrier::pipe()];
        }
        // A system that has no random numbers repeats the same input, and the report shows the seed.
        let seed = self.seed.unwrap_or_else(|| getrandom::u64().unwrap_or_default());
        let mut results = Vec::new();
        for carrier in &self.carriers {
            for &check in &self.checks {
                let begun = Instant::now();
                let stage = Stage::new(carrier, &self.codec, &*self.client, self.deadline, seed);
                let stood = check.stand(&stage).await;
                let outcome = match stage.verdict(stood) {
                    Ok(()) => Outcome::Passed,
                    Err(Stop::Failed(reason)) => Outcome::Failed(reason),
                    Err(Stop::Skipped(reason)) => Outcome::Skipped(reason),
                };
                let carrier = carrier.name().to_owned();
                results.push(CheckResult { carrier, check, outcome, took: begun.elapsed() });
            }
        }
        Report { codec: self.codec.name(), seed, results }
    }
}

/// The results of all checks. `Display` writes a table.
#[derive(Clone, Debug)]
#[must_use = "a report that is not looked at has found nothing"]
pub struct Report {
    /// The codec's name.
    pub codec: &'static str,
    /// The seed of the random input; see [`Suite::seed`].
    pub seed: u64,
    /// The results in running order.
    pub results: Vec<CheckResult>,
}

/// The result of a check over a carrier.
#[derive(Clone, Debug)]
pub struct CheckResult {
    /// The name of the [`Carrier`].
    pub carrier: String,
    /// The check.
    pub check: Check,
    /// The outcome of the check.
    pub outcome: Outcome,
    /// The duration of the check.
    pub took: Duration,
}

/// The outcome of a check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The transport does what the check demands.
    Passed,
    /// The transport does something else, as described here.
    Failed(String),
    /// The format, or this build, cannot do what the check needs, as described here.
    Skipped(String),
}

impl Report {
    /// The results that failed.
    pub fn failures(&self) -> impl Iterator<Item = &CheckResult> {
        self.results.iter().filter(|result| matches!(result.outcome, Outcome::Failed(_)))
    }

    /// The results that were skipped.
    pub fn skipped(&self) -> impl Iterator<Item = &CheckResult> {
        self.results.iter().filter(|result| matches!(result.outcome, Outcome::Skipped(_)))
    }

    /// Fails the calling test unless each check has passed or was skipped.
    ///
    /// # Panics
    ///
    /// If a check has failed, with the table.
    #[track_caller]
    pub fn assert_passed(&self) {
        assert!(self.failures().next().is_none(), "{}: the transport does not conform\n{self}", Location::caller());
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (failed, skipped) = (self.failures().count(), self.skipped().count());
        let passed = self.results.len() - failed - skipped;
        let took: Duration = self.results.iter().map(|result| result.took).sum();
        writeln!(
            f,
            "{}: {passed} passed, {failed} failed, {skipped} skipped, in {:.1} s (seed {})",
            self.codec,
            took.as_secs_f64(),
            self.seed
        )?;
        for CheckResult { carrier, check, outcome, took } in &self.results {
            let (word, reason) = match outcome {
                Outcome::Passed => ("passed", ""),
                Outcome::Failed(reason) => ("FAILED", reason.as_str()),
                Outcome::Skipped(reason) => ("skipped", reason.as_str()),
            };
            let line = format!("  {carrier:<6} {check:<18} {word:<8}{:>6.2} s  {reason}", took.as_secs_f64());
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}
