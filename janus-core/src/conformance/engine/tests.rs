//! The engine in memory conforms. Engines with planted faults are found, each by the responsible check.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::LocalBoxFuture;
use parking_lot::Mutex;

use super::{Check, Outcome, Suite, run};
use crate::engine::memory::Memory;
use crate::engine::{Answer, Engine, Keep, Link, LinkError, NodeId, Outcome as Fate, Payload, Record, Request, What};
use crate::wire::{Epoch, Position, Timestamp, TopicName};

const HOUR: Duration = Duration::from_secs(3_600);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    None,
    LosesRecords,
    DoublesRecords,
    SwapsRecords,
    MixesEpochs,
    CountsOneMessage,
    ChangesMessages,
    TurnsBackTheTime,
    TellsAnotherNumber,
    NeverAnswers,
    EndsLinks,
    ForgetsSubmissions,
    ForgetsSubmissionsOfEarlierLinks,
    IgnoresKeys,
    KeepsKeys,
    AlwaysMakesTopics,
    IgnoresClose,
    OneEpochForAll,
    FailsTopics,
    AlwaysDeclaresALoss,
    ForgetsWhatIsKnown,
    HidesMarks,
    TrustsAnyEpoch,
    ReadsFromTheNext,
    ReadsNotTheLast,
    KeepsTooFewMessages,
    KeepsAllMessages,
    KeepsTooFewBytes,
    KeepsAllBytes,
    KeepsLogs,
    EndsEpochsWithLogs,
    KeepsTopics,
    TakesNoReportForAUse,
    RoundsLargeNumbers,
    GoesBeyondTheLastNumber,
    CutsNames,
    JoinsNamesByBraces,
    CutsMessages,
    EscapesMessages,
    SendsControlToAll,
    EchoesControl,
    DoublesControl,
    EndsControlAtNul,
    KeepsNodes,
    KeepsFirstWords,
    ListsBackwards,
    KeepsCounts,
    CountsOneNode,
    AddsReports,
    TellsNoPosition,
    LosesMembers,
    HidesMembers,
    KeepsMembers,
    HasNoLimitForMembers,
    AlwaysHasNewMembers,
}

const FAULTS: &[(Fault, Check)] = &[
    (Fault::LosesRecords, Check::Order),
    (Fault::DoublesRecords, Check::Order),
    (Fault::SwapsRecords, Check::Order),
    (Fault::MixesEpochs, Check::Order),
    (Fault::CountsOneMessage, Check::Order),
    (Fault::ChangesMessages, Check::Order),
    (Fault::TurnsBackTheTime, Check::Order),
    (Fault::TellsAnotherNumber, Check::Order),
    (Fault::NeverAnswers, Check::Order),
    (Fault::EndsLinks, Check::Order),
    (Fault::ForgetsSubmissions, Check::Submissions),
    (Fault::ForgetsSubmissionsOfEarlierLinks, Check::Submissions),
    (Fault::IgnoresKeys, Check::Keys),
    (Fault::KeepsKeys, Check::Keys),
    (Fault::AlwaysMakesTopics, Check::Nobody),
    (Fault::IgnoresClose, Check::Open),
    (Fault::OneEpochForAll, Check::Open),
    (Fault::FailsTopics, Check::Open),
    (Fault::AlwaysDeclaresALoss, Check::Return),
    (Fault::ForgetsWhatIsKnown, Check::Ahead),
    (Fault::HidesMarks, Check::Ahead),
    (Fault::TrustsAnyEpoch, Check::OtherEpoch),
    (Fault::ForgetsWhatIsKnown, Check::OtherLife),
    (Fault::ReadsFromTheNext, Check::Read),
    (Fault::ReadsNotTheLast, Check::Read),
    (Fault::KeepsTooFewMessages, Check::TrimMessages),
    (Fault::KeepsAllMessages, Check::TrimMessages),
    (Fault::KeepsTooFewBytes, Check::TrimBytes),
    (Fault::KeepsAllBytes, Check::TrimBytes),
    (Fault::KeepsLogs, Check::TrimAge),
    (Fault::EndsEpochsWithLogs, Check::TrimAge),
    (Fault::KeepsTopics, Check::State),
    (Fault::TakesNoReportForAUse, Check::State),
    (Fault::RoundsLargeNumbers, Check::LargeNumbers),
    (Fault::GoesBeyondTheLastNumber, Check::LargeNumbers),
    (Fault::CutsNames, Check::Names),
    (Fault::JoinsNamesByBraces, Check::Names),
    (Fault::CutsMessages, Check::Payloads),
    (Fault::EscapesMessages, Check::Payloads),
    (Fault::SendsControlToAll, Check::Control),
    (Fault::EchoesControl, Check::Control),
    (Fault::DoublesControl, Check::Control),
    (Fault::EndsControlAtNul, Check::Control),
    (Fault::KeepsNodes, Check::Nodes),
    (Fault::KeepsFirstWords, Check::Nodes),
    (Fault::ListsBackwards, Check::Nodes),
    (Fault::KeepsCounts, Check::Counts),
    (Fault::CountsOneNode, Check::Counts),
    (Fault::AddsReports, Check::Counts),
    (Fault::TellsNoPosition, Check::Counts),
    (Fault::LosesMembers, Check::Members),
    (Fault::HidesMembers, Check::Members),
    (Fault::KeepsMembers, Check::Members),
    (Fault::HasNoLimitForMembers, Check::Members),
    (Fault::AlwaysHasNewMembers, Check::Members),
];

/// The engine in memory with a fault.
#[derive(Clone, Debug)]
struct Broken {
    fault: Fault,
    inner: Memory,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    /// Counts links, and other things for some faults.
    count: AtomicU64,
    /// Epochs given out.
    epochs: Mutex<BTreeSet<u64>>,
    /// Until when a topic lives without reports.
    lives: Mutex<BTreeMap<TopicName, Instant>>,
}

struct BrokenLink {
    fault: Fault,
    node: NodeId,
    number: u64,
    inner: Box<dyn Link>,
    shared: Arc<Shared>,
    /// Answers to be polled next.
    held: VecDeque<Answer>,
    swapped: Option<Answer>,
    /// The names of topics before a fault changed them.
    names: HashMap<TopicName, TopicName>,
    has_beaten: bool,
    own_count: u64,
}

impl Engine for Broken {
    fn name(&self) -> &'static str {
        "broken"
    }

    fn connect(&self, shard: usize, node: NodeId) -> LocalBoxFuture<'static, Result<Box<dyn Link>, LinkError>> {
        let (fault, connecting, shared) = (self.fault, self.inner.connect(shard, node), Arc::clone(&self.shared));
        Box::pin(async move {
            let number = shared.count.fetch_add(1, Ordering::Relaxed);
            Ok(Box::new(BrokenLink {
                fault,
                node,
                number,
                inner: connecting.await?,
                shared,
                held: VecDeque::new(),
                swapped: None,
                names: HashMap::new(),
                has_beaten: false,
                own_count: 0,
            }) as Box<dyn Link>)
        })
    }
}

/// The submissions of a link, apart from the submissions of other links.
const SUBMISSIONS: u64 = 1_000_000;

impl Link for BrokenLink {
    fn request(&mut self, request: Request<'_>) {
        match request {
            Request::Open { topic, ask, keep, known, from } => {
                let topic = &self.renamed(topic);
                let (keep, known) = (self.keep(keep), self.known(known));
                self.note_life(topic, keep);
                let from = from.map(|from| from + u64::from(self.fault == Fault::ReadsFromTheNext));
                self.inner.request(Request::Open { topic, ask, keep, known, from });
            }
            Request::Read { topic, ask, from } => {
                let topic = &self.renamed(topic);
                let from = from + u64::from(self.fault == Fault::ReadsFromTheNext);
                self.inner.request(Request::Read { topic, ask, from });
            }
            Request::Close { .. } if self.fault == Fault::IgnoresClose => {}
            Request::Close { topic } => {
                let topic = &self.renamed(topic);
                self.inner.request(Request::Close { topic });
            }
            Request::Append { .. } => self.append(request),
            Request::Report { topic, subscribers, valid } => {
                let topic = &self.renamed(topic);
                self.own_count = subscribers;
                let valid = if self.fault == Fault::KeepsCounts { HOUR } else { valid };
                self.inner.request(Request::Report { topic, subscribers, valid });
            }
            Request::Presence { topic, ask, members, known, valid, most } => {
                let topic = &self.renamed(topic);
                let valid = if self.fault == Fault::KeepsMembers { HOUR } else { valid };
                let known = if self.fault == Fault::HidesMembers { u64::MAX } else { known };
                let members = if self.fault == Fault::LosesMembers { None } else { members };
                let most = if self.fault == Fault::HasNoLimitForMembers { usize::MAX } else { most };
                self.inner.request(Request::Presence { topic, ask, members, known, valid, most });
            }
            Request::Beat { .. } if self.fault == Fault::KeepsFirstWords && self.has_beaten => {}
            Request::Beat { about, valid } => {
                self.has_beaten = true;
                let valid = if self.fault == Fault::KeepsNodes { HOUR } else { valid };
                self.inner.request(Request::Beat { about, valid });
            }
            Request::Nodes { ask } => self.inner.request(Request::Nodes { ask }),
            Request::Control { to, message } => self.control(to, message),
        }
    }

    fn backlog(&self) -> usize {
        self.inner.backlog()
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Answer, LinkError>> {
        loop {
            if let Some(answer) = self.held.pop_front() {
                return Poll::Ready(Ok(answer));
            }
            match self.inner.poll(cx) {
                Poll::Ready(Ok(_)) if self.fault == Fault::EndsLinks && self.count() > 30 => {
                    return Poll::Ready(Err(LinkError::new("planted", "planted: the link ends")));
                }
                Poll::Ready(Ok(answer)) => self.spoil(answer),
                other => return other,
            }
        }
    }
}

/// The way of requests.
impl BrokenLink {
    fn count(&self) -> u64 {
        self.shared.count.fetch_add(1, Ordering::Relaxed)
    }

    fn renamed(&mut self, topic: &TopicName) -> TopicName {
        let name = topic.as_str();
        let name = match self.fault {
            Fault::CutsNames => &name[..name.floor_char_boundary(255)],
            // As a cluster of Redis does with keys, if the name stands there unprotected.
            Fault::JoinsNamesByBraces => {
                let inside = name.split_once('{').and_then(|(_, rest)| rest.split_once('}')).map(|(inside, _)| inside);
                inside.filter(|inside| !inside.is_empty()).unwrap_or(name)
            }
            _ => name,
        };
        let renamed = TopicName::new(name, 4_096).unwrap();
        self.names.insert(renamed.clone(), topic.clone());
        renamed
    }

    fn keep(&self, keep: Keep) -> Keep {
        match self.fault {
            Fault::KeepsTooFewMessages => Keep { messages: keep.messages / 2, ..keep },
            Fault::KeepsAllMessages => Keep { messages: u64::MAX, ..keep },
            Fault::KeepsTooFewBytes => Keep { bytes: keep.bytes / 2, ..keep },
            Fault::KeepsAllBytes => Keep { bytes: u64::MAX, ..keep },
            Fault::KeepsLogs => Keep { age: HOUR, ..keep },
            Fault::EndsEpochsWithLogs => Keep { state: keep.age, ..keep },
            Fault::KeepsTopics => Keep { state: HOUR, ..keep },
            _ => keep,
        }
    }

    fn known(&self, known: Option<Position>) -> Option<Position> {
        let known = known?;
        match self.fault {
            Fault::ForgetsWhatIsKnown => None,
            Fault::AlwaysDeclaresALoss => Some(Position { seq: known.seq + 100, ..known }),
            Fault::TrustsAnyEpoch if !self.shared.epochs.lock().contains(&known.epoch.number()) => {
                known.seq.checked_sub(1).map(|seq| Position { seq, ..known })
            }
            _ => Some(known),
        }
    }

    fn note_life(&self, topic: &TopicName, keep: Keep) {
        self.shared.lives.lock().insert(topic.clone(), Instant::now() + keep.state);
    }

    fn append(&mut self, request: Request<'_>) {
        let Request::Append { topic, keep, create, submission, count, payload, key } = request else {
            panic!("{request:?} is no append");
        };
        let topic = &self.renamed(topic);
        let keep = self.keep(keep);
        self.note_life(topic, keep);
        let create = create || self.fault == Fault::AlwaysMakesTopics;
        let submission = match self.fault {
            Fault::ForgetsSubmissions => self.count() * SUBMISSIONS + submission,
            Fault::ForgetsSubmissionsOfEarlierLinks => self.number * SUBMISSIONS + submission,
            _ => submission,
        };
        let key = match self.fault {
            Fault::IgnoresKeys => None,
            Fault::KeepsKeys => key.map(|(key, _)| (key, HOUR)),
            _ => key,
        };
        let payload = &match self.fault {
            Fault::CutsMessages => Payload::from_bytes(payload.bytes().slice(..payload.bytes().len().min(1 << 19))),
            Fault::EscapesMessages => {
                let text = String::from_utf8_lossy(payload.bytes()).replace('\u{2028}', "\\u2028");
                Payload::from_bytes(Bytes::from(text))
            }
            _ => payload.clone(),
        };
        self.inner.request(Request::Append { topic, keep, create, submission, count, payload, key });
    }

    fn control(&mut self, to: Option<NodeId>, message: &[u8]) {
        let to = to.filter(|_| self.fault != Fault::SendsControlToAll);
        if self.fault == Fault::EchoesControl && to.is_none() {
            self.held.push_back(Answer::Control { from: self.node, message: Bytes::copy_from_slice(message) });
        }
        let end = message.iter().position(|&byte| byte == 0).filter(|_| self.fault == Fault::EndsControlAtNul);
        let message = &message[..end.unwrap_or(message.len())];
        self.inner.request(Request::Control { to, message });
        if self.fault == Fault::DoublesControl {
            self.inner.request(Request::Control { to, message });
        }
    }
}

/// The way of answers.
impl BrokenLink {
    fn spoil(&mut self, mut answer: Answer) {
        match &mut answer {
            Answer::Opened { topic, .. } if self.fault == Fault::FailsTopics => {
                answer = Answer::Failed { topic: topic.clone(), ask: None, message: "planted".to_owned() };
            }
            Answer::Opened { topic, position, records, .. } => {
                self.restore_name(topic);
                self.spoil_position(position);
                self.shared.epochs.lock().insert(position.epoch.number());
                self.spoil_records(records);
            }
            Answer::Records { topic, records, .. } => {
                self.restore_name(topic);
                self.spoil_records(records);
            }
            Answer::Record { topic, record } => {
                self.restore_name(topic);
                self.spoil_record(record);
                return self.spoil_order(answer);
            }
            Answer::Appended { topic, submission, outcome } => {
                self.restore_name(topic);
                *submission %= SUBMISSIONS;
                match outcome {
                    Ok(Fate::New(_)) if self.fault == Fault::NeverAnswers => return,
                    Ok(Fate::New(position)) => self.spoil_position(position),
                    Err(_) if self.fault == Fault::GoesBeyondTheLastNumber => {
                        *outcome = Ok(Fate::New(Position { epoch: Epoch::new(1), seq: 1 << 53 }));
                    }
                    _ => {}
                }
                if let (Fault::TellsAnotherNumber, Ok(Fate::New(position))) = (self.fault, outcome) {
                    position.seq += 1;
                }
            }
            Answer::Reported { topic, position, subscribers } => {
                self.restore_name(topic);
                let is_over = self.shared.lives.lock().get(topic).is_some_and(|&life| life < Instant::now());
                match self.fault {
                    Fault::TakesNoReportForAUse if is_over => *position = None,
                    Fault::TellsNoPosition => *position = None,
                    Fault::CountsOneNode => *subscribers = self.own_count,
                    Fault::AddsReports => *subscribers += self.count(),
                    _ => {}
                }
            }
            Answer::Nodes { nodes, .. } if self.fault == Fault::ListsBackwards => nodes.reverse(),
            Answer::Presence { topic, is_changed, .. } => {
                self.restore_name(topic);
                *is_changed |= self.fault == Fault::AlwaysHasNewMembers;
            }
            Answer::Failed { topic, .. } => self.restore_name(topic),
            Answer::Nodes { .. } | Answer::Control { .. } => {}
        }
        self.held.push_back(answer);
    }

    fn restore_name(&self, topic: &mut TopicName) {
        if let Some(name) = self.names.get(topic) {
            *topic = name.clone();
        }
    }

    fn spoil_position(&self, position: &mut Position) {
        match self.fault {
            Fault::RoundsLargeNumbers if position.seq > 1 << 46 => position.seq = position.seq / 100 * 100,
            Fault::OneEpochForAll => position.epoch = Epoch::new(1),
            _ => {}
        }
    }

    fn spoil_records(&self, records: &mut Vec<Record>) {
        records.iter_mut().for_each(|record| self.spoil_record(record));
        if self.fault == Fault::ReadsNotTheLast {
            records.pop();
        }
    }

    fn spoil_record(&self, record: &mut Record) {
        if let What::Messages { submission, .. } = &mut record.what {
            *submission %= SUBMISSIONS;
        }
        match self.fault {
            Fault::RoundsLargeNumbers if record.first > 1 << 46 => record.first = record.first / 100 * 100,
            Fault::MixesEpochs if self.count() % 9 == 8 => record.epoch = Epoch::new(1),
            Fault::OneEpochForAll => record.epoch = Epoch::new(1),
            Fault::CountsOneMessage => record.count = 1,
            Fault::TurnsBackTheTime if record.first.is_multiple_of(5) => record.time = Timestamp::default(),
            Fault::ChangesMessages if record.first.is_multiple_of(5) => {
                if let What::Messages { payload, .. } = &mut record.what {
                    *payload = Payload::from_bytes(Bytes::from_static(b"1 1 1\n123"));
                }
            }
            _ => {}
        }
    }

    fn spoil_order(&mut self, answer: Answer) {
        let is_mark = matches!(&answer, Answer::Record { record: Record { what: What::Lost { .. }, .. }, .. });
        match self.fault {
            Fault::HidesMarks if is_mark => {}
            Fault::LosesRecords if self.count() % 7 == 6 => {}
            Fault::DoublesRecords => self.held.extend([answer.clone(), answer]),
            Fault::SwapsRecords => match self.swapped.take() {
                None => self.swapped = Some(answer),
                Some(earlier) => self.held.extend([answer, earlier]),
            },
            _ => self.held.push_back(answer),
        }
    }
}

fn broken(fault: Fault) -> Broken {
    Broken { fault, inner: Memory::default(), shared: Arc::default() }
}

#[tokio::test]
async fn the_engine_in_memory_conforms() {
    let report = run(Memory::default()).await;
    eprintln!("{report}");
    report.assert_passed();
    assert_eq!(report.results.len(), Check::ALL.len());
}

#[tokio::test]
async fn the_engine_with_no_planted_fault_conforms() {
    run(broken(Fault::None)).await.assert_passed();
}

#[tokio::test]
async fn an_engine_may_have_been_in_use() {
    let engine = Memory::default();
    run(engine.clone()).await.assert_passed();
    run(engine).await.assert_passed();
}

#[tokio::test]
async fn each_planted_fault_is_found_by_the_responsible_check() {
    let mut missed = Vec::new();
    for &(fault, check) in FAULTS {
        let suite = Suite::new(broken(fault)).checks(&[check]).deadline(Duration::from_millis(400));
        let report = suite.run().await;
        eprintln!("{fault:?}: {report}");
        match &report.results[0].outcome {
            Outcome::Failed(reason) if !reason.is_empty() => {}
            _ => missed.push((fault, check)),
        }
    }
    assert!(missed.is_empty(), "not found: {missed:?}");
}

#[test]
fn every_check_finds_a_fault() {
    let without: Vec<_> = Check::ALL.iter().filter(|check| FAULTS.iter().all(|(_, by)| by != *check)).collect();
    assert!(without.is_empty(), "no planted fault for {without:?}");
}
