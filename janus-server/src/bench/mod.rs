//! `janus-server bench`: many clients, a barrier, messages, and an exact account of every delivery.
//!
//! | file or folder | what it is | what it owns |
//! |---|---|---|
//! | `mod.rs` | the coordinator | the order of a run, the barrier, the messages still under way |
//! | `crew.rs` | child processes | starting workers, talking to workers, ending workers |
//! | `worker.rs` | a process with an epoll loop | the clients, their ledgers, the latencies |
//! | `lines.rs` | pure | the lines of JSON between the coordinator and its workers |
//! | `publisher.rs` | two threads | the schedule, the publisher's connection, the server's refusals |
//! | `protocol/` | pure | the bytes of each server's protocol |
//! | `mark.rs` | pure | run, number and send time in the data of a message |
//! | `ledger.rs` | table | the messages received by a client |
//! | `clock.rs` | clock | nanoseconds comparable between the processes |
//! | `server_process.rs` | reads `/proc` | CPU time and memory of the server |
//! | `report.rs` | pure | the result as text, as JSON, and the verdict |
//!
//! The coordinator also runs the publisher. The clients live in worker processes, because a single process may not have
//! enough descriptors. This file follows the order of a run: workers start and connect, all clients are acknowledged,
//! messages are published and tracked, the workers hand in their tallies, the report is printed. Every wait has a
//! deadline, and every child process is ended by its own handle.

mod clock;
mod crew;
mod ledger;
mod lines;
mod mark;
mod protocol;
mod publisher;
mod report;
mod server_process;
pub(crate) mod worker;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use crate::cli::Bench;
use crate::client::{self, ClientError};
use crate::limits;
use clock::Clock;
use crew::{Crew, Event};
use lines::{FromWorker, Plan, Tally, ToWorker};
pub(crate) use mark::MARK_BYTES;
use protocol::Foreign;
pub(crate) use protocol::{Protocol, Transport};
use publisher::{Pace, Publisher};
use report::{Outcome, Report};
use server_process::{ServerProcess, Usage};

/// Why a bench failed, or has a bad result.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BenchError {
    #[error("{0}")]
    Usage(String),
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error(transparent)]
    Foreign(#[from] Foreign),
    #[error("cannot start a worker process")]
    Spawn(#[source] io::Error),
    #[error("worker {0} ended before its work was done")]
    WorkerEnded(usize),
    #[error("worker {0} did not report in time")]
    WorkerLate(usize),
    /// In a worker: the coordinator has ended, or sent an unknown line.
    #[error("a bench worker is started by the bench, not by hand")]
    NoCoordinator,
    #[error("the worker's event loop failed")]
    Loop(#[source] io::Error),
    #[error("no client could connect and subscribe{}", .0.as_ref().map_or_else(String::new, |e| format!(": {e}")))]
    NobodyReady(Option<String>),
    #[error("{0}")]
    Bad(String),
    #[error("cannot write {}", path.display())]
    Json { path: PathBuf, source: io::Error },
    #[error("cannot write to standard output")]
    Output(#[source] io::Error),
}

impl BenchError {
    pub(crate) fn is_usage(&self) -> bool {
        match self {
            Self::Usage(_) | Self::NoCoordinator => true,
            Self::Client(error) => error.is_usage(),
            _ => false,
        }
    }
}

pub(crate) fn run(command: &Bench) -> Result<(), BenchError> {
    if command.transport != Transport::Tcp && command.protocol != Protocol::Janus {
        return Err(BenchError::Usage(format!(
            "--transport {} needs a Janus server: expected --protocol janus, not {}",
            command.transport, command.protocol
        )));
    }
    let server = resolve(&command.to)?;
    let subscribers_at = command.http_if_used().map_or(Ok(server), resolve)?;
    if command.topics > command.clients {
        return Err(BenchError::Usage(
            "--topics must not be more than --clients: each topic needs a client".to_owned(),
        ));
    }
    if command.classic_publish && command.protocol != Protocol::Janus {
        return Err(BenchError::Usage(format!(
            "--classic-publish needs the classic protocol: expected --protocol janus, not {}",
            command.protocol
        )));
    }
    let process = command.server_pid.map(ServerProcess::find).transpose().map_err(BenchError::Usage)?;
    let clock = Clock::start();
    let run = clock.now() as u32;
    // Measured before the first worker starts, because workers connect as soon as they have their plan.
    let before = process.map(ServerProcess::look);
    let begin = Instant::now();
    let mut crew = start_workers(command, subscribers_at, run)?;
    let setup = connect_clients(&mut crew, command, begin)?;
    let ready = process.map(ServerProcess::look);
    let publication = publish(&mut crew, command, &setup, server, run, clock)?;
    let end = process.map(ServerProcess::look);
    let looks = process.zip(before).zip(ready.zip(end));
    let usage = looks.map(|((process, before), (ready, end))| Usage { process, before, ready, end });
    let tallies = collect(&mut crew, &publication.outcome)?;
    drop(crew);

    let report = Report::new(command, setup, publication, tallies, usage);
    report.print().map_err(BenchError::Output)?;
    if let Some(path) = &command.json {
        report.write_json(path).map_err(|source| BenchError::Json { path: path.clone(), source })?;
    }
    report.verdict().map_err(BenchError::Bad)
}

/// The result of connecting and subscribing.
struct Setup {
    elapsed: Duration,
    workers: usize,
    ready: u32,
    failed: u32,
    errors: Vec<String>,
    /// How many workers have a client on each topic: each of these must report a message as delivered.
    workers_on_topic: Vec<u32>,
}

/// The result of publishing.
struct Publication {
    outcome: Outcome,
    /// Nanoseconds from a message's send time to its last delivery; `None` if a delivery is missing.
    last_delivery: Vec<Option<u64>>,
    /// Whether the bench gave up because no more deliveries arrived.
    stalled: bool,
}

fn start_workers(command: &Bench, server: SocketAddr, run: u32) -> Result<Crew, BenchError> {
    let descriptors = limits::raise_descriptors().saturating_sub(limits::RESERVED_DESCRIPTORS).max(1);
    let capacity = u32::try_from(descriptors).unwrap_or(u32::MAX);
    let workers = command.workers.unwrap_or_else(|| command.clients.div_ceil(capacity)).clamp(1, command.clients);
    let mut crew = Crew::default();
    for worker in 0..workers {
        let share = |index: u32| (u64::from(command.clients) * u64::from(index) / u64::from(workers)) as u32;
        let plan = Plan {
            run,
            protocol: command.transport.protocol_of_subscribers(command.protocol),
            server,
            first_client: share(worker),
            clients: share(worker + 1) - share(worker),
            topics: command.topics,
            messages: command.messages,
            size: command.size,
            connecting: command.connecting,
            timeout_ms: u64::try_from(command.timeout.as_millis()).unwrap_or(u64::MAX),
        };
        crew.hire(&ToWorker::Plan(plan)).map_err(BenchError::Spawn)?;
    }
    Ok(crew)
}

/// The barrier: returns when every client is acknowledged or has failed.
fn connect_clients(crew: &mut Crew, command: &Bench, begin: Instant) -> Result<Setup, BenchError> {
    let bar = ProgressBar::new(command.clients.into());
    bar.set_style(ProgressStyle::with_template(BAR).expect("the template is a constant that parses"));
    let mut setup = Setup {
        elapsed: Duration::ZERO,
        workers: crew.len(),
        ready: 0,
        failed: 0,
        errors: Vec::new(),
        workers_on_topic: vec![0; command.topics as usize],
    };
    let mut progress = vec![0; crew.len()];
    let mut waiting: Vec<usize> = (0..crew.len()).collect();
    // The workers keep the timeout. The grace period is for their report.
    let deadline = begin + command.timeout + GRACE;
    while let Some(&late) = waiting.first() {
        match crew.next_event(deadline) {
            None => return Err(BenchError::WorkerLate(late)),
            Some(Event::Line(worker, FromWorker::Progress { ready })) => progress[worker] = ready,
            Some(Event::Line(worker, FromWorker::Ready { ready_on_topic, failed, errors })) => {
                waiting.retain(|&other| other != worker);
                progress[worker] = ready_on_topic.iter().sum();
                setup.ready += progress[worker];
                setup.failed += failed;
                setup.errors.extend(errors);
                for (workers, ready) in setup.workers_on_topic.iter_mut().zip(ready_on_topic) {
                    *workers += u32::from(ready > 0);
                }
            }
            Some(Event::Ended(worker)) => return Err(BenchError::WorkerEnded(worker)),
            // Nothing is published yet.
            Some(Event::Line(_, FromWorker::Through(_) | FromWorker::Tally(_))) => {}
        }
        bar.set_position(progress.iter().map(|&ready| u64::from(ready)).sum());
    }
    bar.finish_and_clear();
    setup.elapsed = begin.elapsed();
    if setup.ready == 0 {
        return Err(BenchError::NobodyReady(setup.errors.into_iter().next()));
    }
    Ok(setup)
}

/// Publishes at the requested pace, until every message is delivered everywhere or progress stops.
fn publish(
    crew: &mut Crew,
    command: &Bench,
    setup: &Setup,
    server: SocketAddr,
    run: u32,
    clock: Clock,
) -> Result<Publication, BenchError> {
    let pace = match command.rate {
        Some(rate) => Pace::Rate(rate),
        None => Pace::Window(command.window),
    };
    let publisher = match Publisher::start(command, server, run, clock, pace) {
        Ok(publisher) => publisher,
        // A full server refuses the publisher, too. The report still tells how many clients were accepted.
        Err(error) => {
            let outcome = Outcome { error: Some(format!("publisher: {error}")), ..Outcome::default() };
            return Ok(Publication { outcome, last_delivery: Vec::new(), stalled: false });
        }
    };
    let mut through = Through::new(&setup.workers_on_topic, command.messages);
    let mut last_progress = Instant::now();
    let mut sent_before = 0;
    let stalled = loop {
        // The publisher sends no events, so the loop wakes up regularly to look whether the publisher has ended.
        let event = crew.next_event(Instant::now() + Duration::from_millis(20));
        let sent = publisher.sent();
        if let Some(Event::Line(_, FromWorker::Through(messages))) = &event {
            through.note(messages);
            publisher.completed(through.completed);
            last_progress = Instant::now();
        }
        if let Some(Event::Ended(worker)) = event {
            return Err(BenchError::WorkerEnded(worker));
        }
        if sent != sent_before {
            sent_before = sent;
            last_progress = Instant::now();
        }
        if publisher.has_ended() && through.completed >= publisher.sent() {
            break false;
        }
        // A missing delivery is a stall, and so is a blocked write, but a slow schedule is not. Once the publisher has
        // given up, only deliveries already under way can still arrive.
        let idle_by_schedule = command.rate.is_some() && through.completed >= sent && !publisher.is_writing();
        let patience = if publisher.has_ended() { command.timeout.min(AFTERMATH) } else { command.timeout };
        if last_progress.elapsed() > patience && !idle_by_schedule {
            break true;
        }
    };
    let outcome = publisher.finish();
    // Refused messages are not delivered, so missing them is not a stall.
    let stalled = stalled && through.completed.saturating_add(outcome.refused_at_most()) < outcome.sent;
    Ok(Publication { outcome, last_delivery: through.last_delivery(), stalled })
}

/// The progress of all messages: a message is completed when delivered to all clients of its topic.
struct Through {
    /// For each message, the number of workers still to report.
    waiting: Vec<u32>,
    /// For each message, the latest delivery reported so far.
    last: Vec<u64>,
    completed: u32,
}

impl Through {
    fn new(workers_on_topic: &[u32], messages: u32) -> Self {
        let waiting: Vec<u32> = workers_on_topic.iter().copied().cycle().take(messages as usize).collect();
        // Messages to a topic whose clients all failed to connect are completed from the start.
        let completed = waiting.iter().filter(|&&workers| workers == 0).count() as u32;
        Self { last: vec![0; waiting.len()], waiting, completed }
    }

    fn note(&mut self, messages: &[(u32, u64)]) {
        for &(number, last) in messages {
            let Some(waiting) = self.waiting.get_mut(number as usize) else { continue };
            let latest = &mut self.last[number as usize];
            *latest = last.max(*latest);
            *waiting = waiting.saturating_sub(1);
            self.completed += u32::from(*waiting == 0);
        }
    }

    fn last_delivery(self) -> Vec<Option<u64>> {
        let arrived = |(waiting, last)| (waiting == 0 && last > 0).then_some(last);
        self.waiting.into_iter().zip(self.last).map(arrived).collect()
    }
}

fn collect(crew: &mut Crew, outcome: &Outcome) -> Result<Vec<Tally>, BenchError> {
    crew.tell_all(&ToWorker::Finish { published: outcome.sent, missing: outcome.refused_at_most() > 0 });
    let deadline = Instant::now() + GRACE;
    let mut tallies: Vec<Option<Tally>> = (0..crew.len()).map(|_| None).collect();
    while let Some(late) = tallies.iter().position(Option::is_none) {
        match crew.next_event(deadline) {
            None => return Err(BenchError::WorkerLate(late)),
            Some(Event::Line(worker, FromWorker::Tally(tally))) => tallies[worker] = Some(*tally),
            Some(Event::Ended(worker)) if tallies[worker].is_none() => return Err(BenchError::WorkerEnded(worker)),
            Some(
                Event::Ended(_)
                | Event::Line(_, FromWorker::Progress { .. } | FromWorker::Ready { .. } | FromWorker::Through(_)),
            ) => {}
        }
    }
    Ok(tallies.into_iter().flatten().collect())
}

fn resolve(to: &str) -> Result<SocketAddr, ClientError> {
    Ok(client::resolve(to)?[0])
}

const BAR: &str = "connecting {bar:40} {pos}/{len} clients, {elapsed}";
/// How long to wait for deliveries after the publisher has failed.
const AFTERMATH: Duration = Duration::from_secs(2);
/// How long a worker may take for an answer that needs no other waiting.
const GRACE: Duration = Duration::from_secs(15);
