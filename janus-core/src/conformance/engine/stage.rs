//! The setting of a check: nodes with links to the engine, and every wait.
//!
//! While a check waits for an answer to one node, the links of all nodes are polled: an engine writes and reads in
//! [`poll`](crate::engine::Link::poll) only.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fmt;
use std::future::poll_fn;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use crate::engine::{
    Answer, AppendError, Engine, Keep, Link, LinkError, NodeId, NodePresence, Outcome, Payload, Record, Request,
};
use crate::wire::{Position, Publication, TopicName};

pub(super) const HOUR: Duration = Duration::from_secs(3_600);
pub(super) const KEEP: Keep = Keep { messages: 10_000, bytes: 64 << 20, age: HOUR, state: HOUR };

/// The greatest length of a topic's name in any configuration.
const MAX_NAME: usize = 4_096;

/// The time between two looks at a thing not announced by any answer.
const LOOK: Duration = Duration::from_millis(20);

/// The answers in a failed check's reason.
const SHOWN: usize = 4;

/// Bytes of a value in a failed check's reason.
const SHOWN_BYTES: usize = 300;

/// The end of a check: a reason, unless the check has passed.
pub(super) type Checked<T = ()> = Result<T, String>;

pub(super) struct Stage<'a> {
    engine: &'a dyn Engine,
    deadline: Duration,
    /// In the name of each topic.
    run: u64,
    topics: Cell<u64>,
    seats: RefCell<Vec<Seat>>,
}

/// A node's end of its links.
struct Seat {
    /// By shard; none if the node is away.
    links: Vec<Box<dyn Link>>,
    /// Answers not waited for yet.
    inbox: VecDeque<Answer>,
    end: Option<LinkError>,
    asks: u64,
    submissions: u64,
}

/// A node on the stage.
pub(super) struct Node<'a> {
    stage: &'a Stage<'a>,
    seat: usize,
    pub id: NodeId,
}

/// The answer to an open.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Opened {
    pub position: Position,
    pub records: Vec<Record>,
}

/// Fails the check, in these words, unless the values are equal.
pub(super) fn equal<T: PartialEq + fmt::Debug>(what: &str, found: &T, expected: &T) -> Checked {
    ensure(found == expected, || format!("{what}: expected {}, but found {}", shown(expected), shown(found)))
}

/// The beginning of a value in words: a report with a message of 1 MiB is of no use.
pub(super) fn shown(value: &impl fmt::Debug) -> String {
    let mut text = format!("{value:?}");
    if text.len() > SHOWN_BYTES {
        text.truncate(text.floor_char_boundary(SHOWN_BYTES));
        text.push('…');
    }
    text
}

/// Fails the check, in these words, unless the condition holds.
pub(super) fn ensure(condition: bool, what: impl FnOnce() -> String) -> Checked {
    if condition { Ok(()) } else { Err(what()) }
}

/// The payload of messages with these data, JSON text.
pub(super) fn payload(topic: &TopicName, data: &[&str]) -> Payload {
    let message = |data: &&str| Publication::new(topic, "\"check\"", "1", data).expect("the data is JSON text");
    Payload::of(&data.iter().map(message).collect::<Vec<_>>())
}

fn random() -> u64 {
    getrandom::u64().expect("the system has a source of random numbers")
}

impl<'a> Stage<'a> {
    pub(super) fn new(engine: &'a dyn Engine, deadline: Duration) -> Self {
        Self { engine, deadline, run: random(), topics: Cell::new(0), seats: RefCell::default() }
    }

    /// A topic never used before, with this text in the name.
    pub(super) fn topic(&self, text: &str) -> TopicName {
        self.topics.set(self.topics.get() + 1);
        self.named(&format!("check {:016x}.{} {text}", self.run, self.topics.get()))
    }

    pub(super) fn named(&self, name: &str) -> TopicName {
        TopicName::new(name, MAX_NAME).expect("the checks use good names")
    }

    /// A text of this run alone, as long as no other text of the same length is asked for.
    pub(super) fn filler(&self, bytes: usize) -> String {
        format!("{:016x}", self.run).chars().cycle().take(bytes).collect()
    }

    /// A node with a name of its own, connected.
    pub(super) async fn node(&'a self) -> Checked<Node<'a>> {
        let id = NodeId::new(random());
        let links = Vec::new();
        let seat = Seat { links, inbox: VecDeque::new(), end: None, asks: 0, submissions: 0 };
        self.seats.borrow_mut().push(seat);
        let node = Node { stage: self, seat: self.seats.borrow().len() - 1, id };
        node.connect().await?;
        Ok(node)
    }

    pub(super) async fn nodes<const N: usize>(&'a self) -> Checked<[Node<'a>; N]> {
        let mut nodes = Vec::new();
        for _ in 0..N {
            nodes.push(self.node().await?);
        }
        Ok(nodes.try_into().unwrap_or_else(|_| unreachable!("{N} nodes were made")))
    }

    /// Calls `look` until there is a find. For things not announced by any answer, such as the end of a life.
    pub(super) async fn until<T>(&self, what: &str, mut look: impl AsyncFnMut() -> Checked<Option<T>>) -> Checked<T> {
        let begun = Instant::now();
        loop {
            if let Some(found) = look().await? {
                return Ok(found);
            }
            ensure(begun.elapsed() < self.deadline, || format!("{what}: not within {:?}", self.deadline))?;
            sleep(LOOK).await;
        }
    }
}

impl Seat {
    fn poll(&mut self, cx: &mut Context<'_>) {
        for link in &mut self.links {
            while self.end.is_none()
                && let Poll::Ready(answer) = link.poll(cx)
            {
                match answer {
                    Ok(answer) => self.inbox.push_back(answer),
                    Err(end) => self.end = Some(end),
                }
            }
        }
    }
}

/// An answer about the members of a topic.
pub(super) struct Said {
    pub(super) version: u64,
    pub(super) is_whole: bool,
    pub(super) is_changed: bool,
    pub(super) nodes: Vec<NodePresence>,
}

impl Node<'_> {
    /// Connects, in place of earlier links. Answers of earlier links are forgotten.
    pub(super) async fn connect(&self) -> Checked {
        self.leave();
        let mut links = Vec::new();
        for shard in 0..self.stage.engine.shards() {
            let connecting = timeout(self.stage.deadline, self.stage.engine.connect(shard, self.id)).await;
            let link = connecting.map_err(|_| "the engine does not answer a new link".to_owned())?;
            links.push(link.map_err(|error| format!("no link comes up: {error}"))?);
        }
        self.seat(|seat| seat.links = links);
        Ok(())
    }

    /// Drops the links.
    pub(super) fn leave(&self) {
        self.seat(|seat| {
            seat.links.clear();
            seat.inbox.clear();
            seat.end = None;
        });
    }

    fn seat<T>(&self, act: impl FnOnce(&mut Seat) -> T) -> T {
        act(&mut self.stage.seats.borrow_mut()[self.seat])
    }

    fn request(&self, shard: usize, request: Request<'_>) {
        self.seat(|seat| seat.links[shard].request(request));
    }

    fn request_of(&self, topic: &TopicName, request: Request<'_>) {
        self.request(self.stage.engine.shard_of(topic), request);
    }

    fn ask(&self) -> u64 {
        self.seat(|seat| {
            seat.asks += 1;
            seat.asks
        })
    }

    /// Waits for an answer, and leaves the others for later.
    async fn wait<T>(&self, what: &str, pick: impl FnMut(&Answer) -> Option<T>) -> Checked<T> {
        Ok(self.wait_in_place(what, pick).await?.0)
    }

    /// As [`wait`](Self::wait), and says how many of the other answers came before.
    async fn wait_in_place<T>(&self, what: &str, mut pick: impl FnMut(&Answer) -> Option<T>) -> Checked<(T, usize)> {
        let mut looked_at = 0;
        let picked = poll_fn(|cx| {
            let mut seats = self.stage.seats.borrow_mut();
            seats.iter_mut().for_each(|seat| seat.poll(cx));
            let seat = &mut seats[self.seat];
            if let Some(Answer::Failed { topic, message, .. }) = seat.inbox.iter().find(|answer| is_failure(answer)) {
                return Poll::Ready(Err(format!("{what}: topic {} has failed: {message}", shown(topic))));
            }
            for index in looked_at..seat.inbox.len() {
                if let Some(picked) = pick(&seat.inbox[index]) {
                    seat.inbox.remove(index);
                    return Poll::Ready(Ok((picked, index)));
                }
            }
            looked_at = seat.inbox.len();
            match &seat.end {
                Some(end) => Poll::Ready(Err(format!("{what}: the link has ended: {end}"))),
                None => Poll::Pending,
            }
        });
        let picked = timeout(self.stage.deadline, picked).await;
        picked
            .unwrap_or_else(|_| Err(format!("{what}: nothing came within {:?}{}", self.stage.deadline, self.others())))
    }

    /// The other answers, for the reason of a failed check.
    fn others(&self) -> String {
        self.seat(|seat| {
            let latest: Vec<_> = seat.inbox.iter().rev().take(SHOWN).map(shown).collect();
            if latest.is_empty() { String::new() } else { format!("; what came last: {}", latest.join("; ")) }
        })
    }

    pub(super) async fn open(&self, topic: &TopicName) -> Checked<Position> {
        Ok(self.open_at(topic, KEEP, None, None).await?.position)
    }

    pub(super) async fn open_at(
        &self,
        topic: &TopicName,
        keep: Keep,
        known: Option<Position>,
        from: Option<u64>,
    ) -> Checked<Opened> {
        let ask = self.ask();
        self.request_of(topic, Request::Open { topic, ask, keep, known, from });
        let pick = |answer: &Answer| match answer {
            Answer::Opened { topic: of, ask: to, position, records } if of == topic && *to == ask => {
                Some(Opened { position: *position, records: records.clone() })
            }
            _ => None,
        };
        let what = format!("the answer to request {ask}, an open");
        let (opened, mut before) = self.wait_in_place(&what, pick).await?;
        self.seat(|seat| {
            seat.inbox.retain(|answer| {
                // Records before the answer belong to the time before.
                let is_record = matches!(answer, Answer::Record { topic: of, .. } if of == topic);
                let is_before = before > 0;
                before = before.saturating_sub(1);
                !(is_record && is_before)
            });
        });
        Ok(opened)
    }

    pub(super) fn close(&self, topic: &TopicName) {
        self.request_of(topic, Request::Close { topic });
    }

    pub(super) async fn read(&self, topic: &TopicName, from: u64) -> Checked<Vec<Record>> {
        let ask = self.ask();
        self.request_of(topic, Request::Read { topic, ask, from });
        let pick = |answer: &Answer| match answer {
            Answer::Records { topic: of, ask: to, records } if of == topic && *to == ask => Some(records.clone()),
            _ => None,
        };
        self.wait(&format!("the answer to request {ask}, a read"), pick).await
    }

    /// Submits messages, and returns the position of the first.
    pub(super) async fn publish(&self, topic: &TopicName, count: usize) -> Checked<Position> {
        let data = vec!["1"; count];
        let (_, outcome) = self.append(topic, KEEP, true, &payload(topic, &data), count as u64, None).await?;
        new(outcome)
    }

    /// Makes a submission, and returns the number and the outcome.
    pub(super) async fn append(
        &self,
        topic: &TopicName,
        keep: Keep,
        create: bool,
        payload: &Payload,
        count: u64,
        key: Option<(&str, Duration)>,
    ) -> Checked<(u64, Result<Outcome, AppendError>)> {
        let submission = self.seat(|seat| {
            seat.submissions += 1;
            seat.submissions
        });
        self.request_of(topic, Request::Append { topic, keep, create, submission, count, payload, key });
        Ok((submission, self.outcome(topic, submission).await?))
    }

    /// Makes a submission with this number.
    pub(super) async fn append_as(&self, submission: u64, topic: &TopicName, create: bool) -> Checked<Outcome> {
        let payload = &payload(topic, &["\"again\""]);
        let (keep, count, key) = (KEEP, 1, None);
        self.request_of(topic, Request::Append { topic, keep, create, submission, count, payload, key });
        self.outcome(topic, submission).await?.map_err(|error| format!("submission {submission} was refused: {error}"))
    }

    /// Makes submissions without waiting for the answers, and returns their numbers.
    pub(super) fn append_all(&self, topic: &TopicName, keep: Keep, payloads: &[(Payload, u64)]) -> Vec<u64> {
        let submit = |(payload, count): &(Payload, u64)| {
            let submission = self.seat(|seat| {
                seat.submissions += 1;
                seat.submissions
            });
            let (create, count, key) = (true, *count, None);
            self.request_of(topic, Request::Append { topic, keep, create, submission, count, payload, key });
            submission
        };
        payloads.iter().map(submit).collect()
    }

    pub(super) async fn outcome(&self, topic: &TopicName, submission: u64) -> Checked<Result<Outcome, AppendError>> {
        let pick = |answer: &Answer| match answer {
            Answer::Appended { topic: of, submission: to, outcome } if of == topic && *to == submission => {
                Some(outcome.clone())
            }
            _ => None,
        };
        self.wait(&format!("the outcome of submission {submission}"), pick).await
    }

    /// The next record of a topic.
    pub(super) async fn record(&self, topic: &TopicName) -> Checked<Record> {
        let pick = |answer: &Answer| match answer {
            Answer::Record { topic: of, record } if of == topic => Some(record.clone()),
            _ => None,
        };
        self.wait("a record", pick).await
    }

    /// Whether a record of the topic has come.
    pub(super) fn has_record(&self, topic: &TopicName) -> bool {
        self.seat(|seat| {
            seat.inbox.iter().any(|answer| matches!(answer, Answer::Record { topic: of, .. } if of == topic))
        })
    }

    pub(super) async fn report(
        &self,
        topic: &TopicName,
        subscribers: u64,
        valid: Duration,
    ) -> Checked<(Option<Position>, u64)> {
        self.request_of(topic, Request::Report { topic, subscribers, valid });
        let pick = |answer: &Answer| match answer {
            Answer::Reported { topic: of, position, subscribers } if of == topic => Some((*position, *subscribers)),
            _ => None,
        };
        self.wait("the answer to a report", pick).await
    }

    /// Says something of the members of a topic, or asks alone; returns the version, whether the words are new, and the
    /// words of others.
    pub(super) async fn presence(
        &self,
        topic: &TopicName,
        members: Option<&[u8]>,
        known: u64,
        valid: Duration,
    ) -> Checked<(u64, bool, Vec<NodePresence>)> {
        let answer = self.presence_within(topic, (members, valid), (known, usize::MAX)).await?;
        ensure(answer.is_whole, || "an answer without a limit does not have all words".to_owned())?;
        Ok((answer.version, answer.is_changed, answer.nodes))
    }

    /// The same with a limit for the words in the answer.
    pub(super) async fn presence_within(
        &self,
        topic: &TopicName,
        (members, valid): (Option<&[u8]>, Duration),
        (known, most): (u64, usize),
    ) -> Checked<Said> {
        let ask = self.ask();
        self.request_of(topic, Request::Presence { topic, ask, members, known, valid, most });
        let pick = |answer: &Answer| match answer {
            Answer::Presence { ask: to, version, is_whole, is_changed, nodes, .. } if *to == ask => {
                let (version, is_whole, is_changed) = (*version, *is_whole, *is_changed);
                Some(Said { version, is_whole, is_changed, nodes: nodes.clone() })
            }
            _ => None,
        };
        self.wait("the answer about members", pick).await
    }

    pub(super) fn beat(&self, about: &str, valid: Duration) {
        self.request(0, Request::Beat { about, valid });
    }

    pub(super) async fn list(&self) -> Checked<Vec<(NodeId, String)>> {
        let ask = self.ask();
        self.request(0, Request::Nodes { ask });
        let pick = |answer: &Answer| match answer {
            Answer::Nodes { ask: to, nodes } if *to == ask => Some(nodes.clone()),
            _ => None,
        };
        self.wait("the list of the nodes", pick).await
    }

    pub(super) fn say(&self, to: Option<NodeId>, message: &[u8]) {
        self.request(0, Request::Control { to, message });
    }

    /// The next control message.
    pub(super) async fn hear(&self) -> Checked<(NodeId, Vec<u8>)> {
        let pick = |answer: &Answer| match answer {
            Answer::Control { from, message } => Some((*from, message.to_vec())),
            _ => None,
        };
        self.wait("a control message", pick).await
    }
}

/// No check gives an engine a reason to fail a topic.
fn is_failure(answer: &Answer) -> bool {
    matches!(answer, Answer::Failed { .. })
}

/// The position of new messages.
pub(super) fn new(outcome: Result<Outcome, AppendError>) -> Checked<Position> {
    match outcome {
        Ok(Outcome::New(position)) => Ok(position),
        other => Err(format!("a new submission was not carried out: {other:?}")),
    }
}
