//! The contract of a transport, as checks that run on any: one's own listener, one's own wire format, or both.
//!
//! Whoever writes a [`Codec`] writes the other end of it as well, a [`Client`], which is as pure: bytes out, what was
//! [`Seen`] in. [`run`] then starts real instances that speak the codec, connects clients to them over TCP and over
//! pipes, and returns a [`Report`] with one result for each [`Check`]. What each check demands stands there.
//!
//! The module comes with the feature `conformance`, which belongs among the `dev-dependencies`: no server needs it.
//! `fault-injection` beside it lets two further checks make parts of the server crash.
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
//! use janus_core::conformance::{Check, Client, Place, Reader, Seen, Suite};
//! use janus_core::wire::Delimited;
//!
//! struct LinesClient;
//!
//! impl Client for LinesClient {
//!     fn subscribe(&self, topic: &str) -> Vec<u8> {
//!         format!("sub {topic}\n").into()
//!     }
//!
//!     fn publish(&self, topic: &str, data: &str) -> Option<Vec<u8>> {
//!         Some(format!("pub {topic} {data}\n").into())
//!     }
//!
//!     fn resume(&self, place: &Place) -> Option<Vec<u8>> {
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
//! # A listener of one's own
//!
//! By default clients come over TCP and over pipes in memory. [`Suite::carrier`] adds any other way, such as Unix
//! sockets or TLS, given what listens and what connects; see [`Carrier::own`].
//!
//! # Limits
//!
//! Every wait has a [deadline](Suite::deadline); none is a fixed pause. All checks take some 5 to 20 seconds for one codec. A
//! check that fails says what it waited for, what the client saw last and what whoever published was told. Random input is told
//! with its seed, and [`Suite::seed`] repeats it.

mod carrier;
mod checks;
mod clients;
mod connection;
mod hostile;
mod watched;

use std::fmt;
use std::panic::Location;
use std::sync::Arc;
use std::time::{Duration, Instant};

pub use carrier::{Accepting, Carrier, Connecting};
pub use clients::{ClassicClient, SseClient, WebSocketClient};

use crate::wire::{Codec, Position};
use checks::{Stage, Stop};

/// What a client of a wire format sends, and how it reads.
///
/// Like the codec it is pure, and all it says of the format is in its methods: what returns `None` the format cannot do,
/// and the checks that need it are skipped, with their names in the report.
pub trait Client: Send + Sync + 'static {
    /// What a client sends first, if the format wants anything. Other frames follow at once, in the same piece.
    fn open(&self) -> Vec<u8> {
        Vec::new()
    }

    /// The frame that subscribes to a topic. Its last byte must be what completes it.
    fn subscribe(&self, topic: &str) -> Vec<u8>;

    /// The frame that ends a subscription.
    fn unsubscribe(&self, topic: &str) -> Option<Vec<u8>> {
        let _ = topic;
        None
    }

    /// The frame that publishes this data, JSON text.
    fn publish(&self, topic: &str, data: &str) -> Option<Vec<u8>> {
        let _ = (topic, data);
        None
    }

    /// Everything that a new connection sends, the opening included, to go on with a topic where an earlier one was.
    fn resume(&self, place: &Place) -> Option<Vec<u8>> {
        let _ = place;
        None
    }

    /// Makes what reads the bytes of one connection.
    fn reader(&self) -> Box<dyn Reader>;

    /// What each connection of a misbehaving client sends instead of anything else, and must be refused for.
    fn garbage(&self) -> Vec<Vec<u8>> {
        Vec::new()
    }

    /// Whether a connection may subscribe to several topics, one after the other. Server-sent events cannot: what they
    /// subscribe to stands in the one request they make.
    fn subscribes_again(&self) -> bool {
        true
    }

    /// Whether the format can say this topic's name. One that is split at blanks may be unable to say those with blanks.
    fn carries_topic(&self, name: &str) -> bool {
        let _ = name;
        true
    }
}

/// Reads what the server sends on one connection, in whatever pieces it comes.
///
/// A closure will do: `move |input: &[u8], seen: &mut Vec<Seen>| …`.
pub trait Reader: Send {
    /// Takes all of `input`, and appends what it says.
    fn read(&mut self, input: &[u8], seen: &mut Vec<Seen>);
}

impl<F: FnMut(&[u8], &mut Vec<Seen>) + Send> Reader for F {
    fn read(&mut self, input: &[u8], seen: &mut Vec<Seen>) {
        self(input, seen);
    }
}

/// What a client was told.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Seen {
    /// It is served.
    Opened {
        /// What names its session, if it has a name.
        session: Option<String>,
    },
    /// The answer to a subscribe, or to what resumes.
    Subscribed {
        /// The position after which delivery begins, if the format tells it.
        position: Option<Position>,
        /// Whether it goes on where it asked to, if it asked and the format tells.
        resumed: Option<bool>,
    },
    /// A message.
    Message {
        /// Its topic.
        topic: String,
        /// Its number, if the format tells it.
        seq: Option<u64>,
        /// Its data, JSON text.
        data: String,
    },
    /// These messages do not come.
    Gap {
        /// The number of the first.
        from: u64,
        /// The number of the last.
        to: u64,
    },
    /// A request was refused.
    Error {
        /// Why.
        code: String,
    },
    /// The connection ends, or was not served.
    Bye {
        /// Why.
        code: String,
    },
    /// Anything else that the format knows: a heartbeat, a receipt, the answer to an unsubscribe.
    Other,
    /// Bytes that no server should send. Any check in which a client sees them fails.
    Unknown(String),
}

impl Seen {
    /// A message.
    #[must_use]
    pub fn message(topic: impl Into<String>, seq: Option<u64>, data: impl Into<String>) -> Self {
        Self::Message { topic: topic.into(), seq, data: data.into() }
    }

    /// The answer to a subscribe in a format that tells nothing else.
    #[must_use]
    pub fn subscribed() -> Self {
        Self::Subscribed { position: None, resumed: None }
    }

    /// The same [`Subscribed`](Self::Subscribed) with a position.
    #[must_use]
    pub fn at(mut self, at: Position) -> Self {
        if let Self::Subscribed { position, .. } = &mut self {
            *position = Some(at);
        }
        self
    }

    /// The same [`Subscribed`](Self::Subscribed) with whether it resumed.
    #[must_use]
    pub fn resumed(mut self, whether: bool) -> Self {
        if let Self::Subscribed { resumed, .. } = &mut self {
            *resumed = Some(whether);
        }
        self
    }
}

/// How far a client had come on a topic when it lost its connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// What named its session, if it was told.
    pub session: Option<String>,
    /// The topic.
    pub topic: String,
    /// The position of the last message or gap it had, if it was told any.
    pub position: Option<Position>,
    /// How many messages it has had since it subscribed.
    pub received: u64,
}

macro_rules! checks {
    ($($(#[doc = $doc:literal])+ $variant:ident = $name:literal, $run:expr;)+) => {
        /// One demand on a transport.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum Check {
            $($(#[doc = $doc])+ $variant,)+
        }

        impl Check {
            /// All of them, in the order they run.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// The name in the report.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),+ }
            }

            async fn stand(self, stage: &Stage<'_>) -> Result<(), Stop> {
                match self { $(Self::$variant => $run(stage).await),+ }
            }
        }
    };
}

checks! {
    /// Several publishers at once: every subscriber gets every message once, all in the same order, each publisher's in the
    /// order it sent them, with rising numbers where the format tells numbers.
    Order = "order", checks::order;
    /// Whatever JSON is published arrives as that JSON, with its digits and escapes: also text that holds what the format
    /// itself ends frames with. Only white space between the tokens may change. Topics may have any characters but
    /// control characters.
    Text = "text", checks::text;
    /// The same for a topic whose name holds blanks. Skipped for formats that cannot say such names.
    Blanks = "text.blanks", checks::blanks;
    /// After an unsubscribe nothing of that topic comes, and the connection goes on.
    Unsubscribe = "unsubscribe", checks::unsubscribe;
    /// A conversation means the same wherever it is cut: in two at every byte, and byte by byte, decoded and over the
    /// carrier.
    Splits = "splits", checks::splits;
    /// A frame of half of `max_frame_bytes` is obeyed. A far longer one is refused, by an error or by the end of the
    /// connection and not with silence, publishes nothing, and its bytes are not kept.
    FrameLimit = "limits.frame", checks::frame_limit;
    /// One topic more than `max_topics_per_client` is refused, and those before it go on.
    TopicLimit = "limits.topics", checks::topic_limit;
    /// Topics without a name, with one longer than `max_topic_bytes`, or with control characters in it are refused, and
    /// not made.
    TopicNames = "limits.names", checks::topic_names;
    /// A frame that is begun and not finished within `frame_timeout` ends its connection, as does a client that opens no
    /// connection where that is its part; one that is idle between frames stays.
    FrameTimeout = "limits.time", checks::frame_timeout;
    /// Under `disconnect` a client that does not read is cut off: what it got is what was published, without a hole, up to
    /// the end of its connection. Others get everything meanwhile, and memory stays within the limits of the queue.
    SlowClient = "slow", checks::slow_client;
    /// Under the policies that drop, a client that reads at last has, for each message, the message or a gap that
    /// counts it, in their order. Skipped for codecs that [tell no gaps](Codec::tells_gaps).
    Gaps = "slow.gaps", checks::gaps;
    /// A connection is lost while messages are on their way, in the middle of a frame; more are published; the client comes
    /// back with its place: it gets each message after it, once, in order.
    Resume = "resume", checks::resume;
    /// A client that comes back too late, or with a place that never was, is told so: by the answer, a gap, an error or
    /// the end of its connection. It is never served on as if nothing were missing.
    ResumeTooLate = "resume.late", checks::resume_too_late;
    /// A drain ends every connection after what was queued for it, without a reset: nothing is lost.
    Drain = "drain", checks::drain;
    /// What the client's author knows to be [wrong](Client::garbage) is refused while the client waits for an answer.
    Garbage = "hostile.garbage", hostile::garbage;
    /// Random bytes, and conversations with random damage: nothing panics, each connection ends, and another client does
    /// not notice.
    RandomInput = "hostile.random", hostile::random_input;
    /// A client that goes away after any byte of a conversation leaves nothing behind, and another does not notice.
    Truncated = "hostile.truncated", hostile::truncated;
    /// A crash of one connection's actor ends that connection, and no other. Needs the feature `fault-injection`.
    ConnectionCrash = "crash.connection", hostile::connection_crash;
    /// A topic that crashes while it hands out loses nothing and sends nothing twice. Needs the feature `fault-injection`.
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
/// It must be called from a tokio runtime with I/O and time, such as that of `#[tokio::test]`.
pub async fn run(codec: impl Codec, client: impl Client) -> Report {
    Suite::new(codec, client).run().await
}

/// Which checks are to run, and over what.
pub struct Suite {
    codec: Arc<dyn Codec>,
    client: Box<dyn Client>,
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
    pub fn new(codec: impl Codec, client: impl Client) -> Self {
        Self {
            codec: Arc::new(codec),
            client: Box::new(client),
            carriers: Vec::new(),
            checks: Check::ALL.to_vec(),
            deadline: Duration::from_secs(10),
            seed: None,
        }
    }

    /// Has the clients come this way instead. May be called again for further ways.
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

    /// How long each single wait may take until its check has failed. By default 10 s, which is enough for a busy machine.
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Repeats the random input of an earlier report. By default each run has its own, besides one that never changes.
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
        // A system without randomness to give repeats itself, which the report shows.
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

/// What came of each check. Its `Display` is a table.
#[derive(Clone, Debug)]
#[must_use = "a report that nobody looks at has found nothing"]
pub struct Report {
    /// The codec's name.
    pub codec: &'static str,
    /// Where the random input came from; see [`Suite::seed`].
    pub seed: u64,
    /// In the order the checks ran.
    pub results: Vec<CheckResult>,
}

/// What came of one check over one carrier.
#[derive(Clone, Debug)]
pub struct CheckResult {
    /// The name of the [`Carrier`].
    pub carrier: String,
    /// Which check.
    pub check: Check,
    /// What came of it.
    pub outcome: Outcome,
    /// How long it took.
    pub took: Duration,
}

/// What came of a check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The transport does what the check demands.
    Passed,
    /// It does not, and this is what was seen instead.
    Failed(String),
    /// The format, or this build, cannot do what the check needs.
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

    /// Fails the test in which it is called unless each check has passed or was skipped.
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
