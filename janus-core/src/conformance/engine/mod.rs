//! The contract of an [engine](crate::engine), as checks for any engine.
//!
//! [`run`] lets several nodes use the engine over links, as instances would, and returns a [`Report`] with a result for each
//! [`Check`]. The variants of [`Check`] state the demands.
//!
//! ```
//! use janus_core::conformance::engine;
//! use janus_core::engine::memory::Memory;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! // In a test, `engine::run(engine)` runs all of it.
//! let checks = [engine::Check::Order, engine::Check::Submissions];
//! let report = engine::Suite::new(Memory::default()).checks(&checks).run().await;
//! println!("{report}");
//! report.assert_passed();
//! # }
//! ```
//!
//! The checks use topics and nodes with random names, so that an engine may be in use, or have been in use before. Faults of
//! the engine's servers are not checked: no check can cause a failover.
//!
//! # Limits
//!
//! Every wait has a [deadline](Suite::deadline); none is a fixed pause. A failed check reports the expected answer and
//! the last answers. All checks take 2 seconds with an engine of exact lives, and 12 seconds if the engine keeps logs and
//! topics 5 seconds longer.
//!
//! | file | kind | owns |
//! |---|---|---|
//! | `mod.rs` | API | the list of checks, `Suite` and `Report` |
//! | `stage.rs` | setting of a check | nodes with their links, and every wait |
//! | `order.rs` | checks | numbers, submissions, keys, open and close |
//! | `kept.rs` | checks | reads, limits of the log, names and sizes |
//! | `nodes.rs` | checks | control messages, the list of nodes, counts of subscribers |

mod kept;
mod nodes;
mod order;
mod stage;
#[cfg(test)]
mod tests;

use std::fmt;
use std::panic::Location;
use std::time::{Duration, Instant};

use tokio::task::LocalSet;

use self::stage::Stage;
pub use super::Outcome;
use crate::engine::Engine;

checks! {
    "One demand on an engine.", String;
    /// Three nodes submit to a topic at once: every node gets every record once, with the submitted messages, in the same
    /// order and with the same time. The numbers begin at 1 and have no hole, and the answer to each submission says the
    /// first number.
    Order = "order", order::order;
    /// A submission whose number is not above the node's last is known and leaves no record, also on a later link of the
    /// node. Each node has numbers of its own for each topic.
    Submissions = "submissions", order::submissions;
    /// A message with a key is published once within the life of the key: later submissions with this key, of any node,
    /// get the position of the first and leave no record. Keys belong to their topic, and end.
    Keys = "keys", order::keys;
    /// No topic is made by a submission without the wish to make a topic.
    Nobody = "no_topic", order::nobody;
    /// The first open makes the topic, at number 0, and every node is told the same position. A closed topic sends no
    /// more records.
    Open = "open", order::open;
    /// A node returns with the last position: no loss is declared, and the node reads the messages submitted meanwhile.
    Return = "open.return", order::come_back;
    /// A node opens a topic with a position beyond the engine's: the engine declares the numbers up to one beyond the
    /// position lost. The loss mark is kept, and comes to all nodes. Positions passed by the engine cause no loss.
    Ahead = "open.ahead", order::ahead;
    /// A node opens a topic with the engine's number under another epoch: the engine declares the next number lost.
    OtherEpoch = "open.other_epoch", order::other_epoch;
    /// A topic new to the engine and known to the node begins behind the known position, even at number 0, with a loss
    /// mark and a new epoch.
    OtherLife = "open.other_life", order::other_life;
    /// A read begins with the record of the wanted number and goes on to the last, without a hole. Nothing is read of
    /// numbers to come, nor of an unknown topic.
    Read = "read", kept::read;
    /// The log keeps at least the latest messages within the limit, and not the tenfold.
    TrimMessages = "trim.messages", kept::trim_messages;
    /// The log keeps at least the latest bytes within the limit, and not the tenfold.
    TrimBytes = "trim.bytes", kept::trim_bytes;
    /// The log ends at the given age, and not before. The numbers go on in the same epoch.
    TrimAge = "trim.age", kept::trim_age;
    /// A topic without use ends, and then has another epoch. Reports are a use.
    State = "state", kept::state;
    /// Numbers are exact up to 2^53 − 1. A submission beyond is refused as a whole, with a text; a smaller submission is
    /// not.
    LargeNumbers = "numbers.large", kept::large_numbers;
    /// Topics whose names have braces, blanks, quotes, emoji or 4,096 bytes are topics of their own.
    Names = "names", kept::names;
    /// Messages of 1 MiB, batches of 256 messages, and every character of JSON arrive unchanged.
    Payloads = "payloads", kept::payloads;
    /// A control message for a single node comes to this node alone; a control message for all comes to all nodes except the
    /// sender; each comes once, with all bytes. A link listens as soon as the link has answered a request.
    Control = "control", nodes::control;
    /// The nodes alive are listed in the order of their ids, each with the latest words of the node. A node is not listed
    /// after the end of its last beat.
    Nodes = "nodes", nodes::nodes;
    /// The subscribers of a topic are summed over the nodes. A later report replaces the earlier, and a report ends after
    /// its time. The answer has the topic's position.
    Counts = "counts", nodes::counts;
    /// What nodes say of the members of a topic is told to the others, with all bytes, once for each version. Words end
    /// with their time, and with empty words. Nobody is told of the words of the asking node.
    Members = "members", nodes::members;
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Runs all checks on an engine.
///
/// Must be called from a tokio runtime with time, and with I/O if the engine needs I/O, such as the runtime of
/// `#[tokio::test]`.
pub async fn run(engine: impl Engine) -> Report {
    Suite::new(engine).run().await
}

/// A choice of checks for one engine.
#[derive(Debug)]
pub struct Suite<E> {
    engine: E,
    checks: Vec<Check>,
    deadline: Duration,
}

impl<E: Engine> Suite<E> {
    /// All checks.
    #[must_use]
    pub fn new(engine: E) -> Self {
        Self { engine, checks: Check::ALL.to_vec(), deadline: Duration::from_secs(10) }
    }

    /// Runs only these checks.
    #[must_use]
    pub fn checks(mut self, checks: &[Check]) -> Self {
        self.checks = checks.to_vec();
        self
    }

    /// Sets how long each single wait may take before the check fails. The default of 10 s is enough for a busy machine,
    /// and for an engine with lives 5 s longer than asked for.
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Runs the checks, one after the other.
    pub async fn run(self) -> Report {
        let mut results = Vec::new();
        for &check in &self.checks {
            let begun = Instant::now();
            let stage = Stage::new(&self.engine, self.deadline);
            // A link may have tasks of its own, as on a home arbiter.
            let stood = LocalSet::new().run_until(check.stand(&stage)).await;
            let outcome = stood.map_or_else(Outcome::Failed, |()| Outcome::Passed);
            results.push(CheckResult { check, outcome, took: begun.elapsed() });
        }
        Report { engine: self.engine.name(), results }
    }
}

/// The results of all checks. `Display` writes a table.
#[derive(Clone, Debug)]
#[must_use = "a report that is not looked at has found nothing"]
pub struct Report {
    /// The engine's name.
    pub engine: &'static str,
    /// The results in running order.
    pub results: Vec<CheckResult>,
}

/// The result of a check.
#[derive(Clone, Debug)]
pub struct CheckResult {
    /// The check.
    pub check: Check,
    /// The outcome of the check.
    pub outcome: Outcome,
    /// The duration of the check.
    pub took: Duration,
}

impl Report {
    /// The results that failed.
    pub fn failures(&self) -> impl Iterator<Item = &CheckResult> {
        self.results.iter().filter(|result| result.outcome != Outcome::Passed)
    }

    /// Fails the calling test unless each check has passed.
    ///
    /// # Panics
    ///
    /// If a check has failed, with the table.
    #[track_caller]
    pub fn assert_passed(&self) {
        assert!(self.failures().next().is_none(), "{}: the engine does not conform\n{self}", Location::caller());
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let failed = self.failures().count();
        let passed = self.results.len() - failed;
        let took: Duration = self.results.iter().map(|result| result.took).sum();
        writeln!(f, "{}: {passed} passed, {failed} failed, in {:.1} s", self.engine, took.as_secs_f64())?;
        for CheckResult { check, outcome, took } in &self.results {
            let (word, reason) = match outcome {
                Outcome::Passed => ("passed", ""),
                Outcome::Failed(reason) => ("FAILED", reason.as_str()),
                Outcome::Skipped(reason) => ("skipped", reason.as_str()),
            };
            let line = format!("  {check:<18} {word:<8}{:>6.2} s  {reason}", took.as_secs_f64());
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}
