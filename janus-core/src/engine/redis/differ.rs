//! The scripts on a real server against the rules of `engine/log.rs`: the same random operations, equal answers, equal
//! records, and equal logs.
//!
//! Epochs are random on the server; each has one counterpart in the reference. The server may keep more of a log than
//! the limits ask for.

use std::collections::{HashMap, VecDeque};
use std::future::poll_fn;
use std::time::Duration;

use fastrand::Rng;

use super::super::log::{Given, Server, Submission};
use super::super::{Answer, Engine as _, Keep, Link, NodeId, Payload, Record, Request, What};
use super::{Options, Redis};
use crate::wire::{Epoch, Position, Publication, Timestamp, TopicName};

#[path = "../../../../tests/cluster/redis_server.rs"]
mod redis_server;

use redis_server::RedisServer;

const HOUR: Duration = Duration::from_secs(3600);
/// No node is within this of a limit of age, so the clock of the reference stands still.
const NOW: Duration = Duration::from_secs(1_800_000_000);
const NODES: u64 = 3;

struct Node {
    id: NodeId,
    link: Box<dyn Link>,
    /// Records from the server and not yet compared, and the records of the reference.
    came: VecDeque<(TopicName, Record)>,
    due: VecDeque<(TopicName, Record)>,
    opened: Vec<TopicName>,
}

impl Node {
    /// The next answer, behind the records before.
    async fn answer(&mut self) -> Answer {
        loop {
            match poll_fn(|cx| self.link.poll(cx)).await.unwrap() {
                Answer::Record { topic, record } => self.came.push_back((topic, record)),
                answer => return answer,
            }
        }
    }
}

/// A server and the reference.
struct Pair<'a> {
    server: &'a RedisServer,
    nodes: Vec<Node>,
    reference: Server,
    histories: u64,
    epochs: u64,
    /// The epochs of the server, with the names in the reference.
    counterparts: HashMap<Epoch, Epoch>,
    rng: Rng,
    seed: u64,
    topics: Vec<TopicName>,
    /// The last position of each topic on the server.
    last: HashMap<TopicName, Position>,
}

impl<'a> Pair<'a> {
    async fn new(server: &'a RedisServer, seed: u64) -> Self {
        let engine = Redis::new(Options::new([server.url().parse().unwrap()])).unwrap();
        let mut nodes = Vec::new();
        for number in 1..=NODES {
            let id = NodeId::new(number);
            let link = engine.connect(0, id).await.unwrap();
            nodes.push(Node { id, link, came: VecDeque::new(), due: VecDeque::new(), opened: Vec::new() });
        }
        let topics = (0..2).map(|number| TopicName::new(&format!("{seed}: {number} {{x}}"), 255).unwrap());
        Self {
            server,
            nodes,
            reference: Server::new(1),
            histories: 1,
            epochs: 0,
            counterparts: HashMap::new(),
            rng: Rng::with_seed(seed),
            seed,
            topics: topics.collect(),
            last: HashMap::new(),
        }
    }

    fn given(&mut self) -> Given {
        self.epochs += 1;
        Given { now: NOW, fresh: Epoch::new(self.epochs) }
    }

    fn keep(&mut self) -> Keep {
        let messages = self.rng.choice([0, 4, 9, 1_000_000, 1_000_000]).unwrap();
        Keep { messages, bytes: 1 << 40, age: HOUR, state: HOUR }
    }

    /// The counterpart of an epoch, which is noted at the first meeting.
    #[track_caller]
    fn pair(&mut self, epoch: Epoch, reference: Epoch) {
        let seed = self.seed;
        if let Some(other) = self.counterparts.insert(epoch, reference) {
            assert_eq!(other, reference, "seed {seed}: one epoch of the server is two of the reference");
        } else {
            let is_new = self.counterparts.values().filter(|known| **known == reference).count() == 1;
            assert!(is_new, "seed {seed}: one epoch of the reference is two of the server");
        }
    }

    #[track_caller]
    fn same_position(&mut self, position: Position, reference: Position) {
        self.pair(position.epoch, reference.epoch);
        assert_eq!(position.seq, reference.seq, "seed {}", self.seed);
    }

    #[track_caller]
    fn same_record(&mut self, record: &Record, reference: &Record) {
        self.pair(record.epoch, reference.epoch);
        let mut translated = record.clone();
        translated.epoch = reference.epoch;
        if let (What::Lost { after }, What::Lost { after: other }) = (&mut translated.what, &reference.what) {
            self.pair(after.epoch, other.epoch);
            after.epoch = other.epoch;
        }
        assert_ne!(translated.time, Timestamp::default());
        translated.time = reference.time;
        assert_eq!(translated, *reference, "seed {}", self.seed);
    }

    /// The server may have more of the log, but nothing else.
    #[track_caller]
    fn same_log(&mut self, records: &[Record], reference: &[Record]) {
        let more = records.len().checked_sub(reference.len());
        let more = more.unwrap_or_else(|| panic!("seed {}: {records:?} instead of {reference:?}", self.seed));
        assert!(records.windows(2).all(|pair| pair[1].first == pair[0].last().seq + 1), "a hole: {records:?}");
        for (record, other) in records[more..].iter().zip(reference) {
            self.same_record(record, other);
        }
    }

    /// What the reference hands on is due on every node that has the topic open.
    fn hand_on(&mut self, topic: &TopicName, new: &[Record]) {
        for node in &mut self.nodes {
            if node.opened.contains(topic) {
                node.due.extend(new.iter().map(|record| (topic.clone(), record.clone())));
            }
        }
    }

    async fn step(&mut self) {
        let node = self.rng.usize(..self.nodes.len());
        let topic = self.rng.choice(self.topics.clone()).unwrap();
        match self.rng.u32(..100) {
            0..55 => self.append(node, &topic).await,
            55..75 => self.open(node, &topic).await,
            75..80 => self.read(node, &topic).await,
            80..85 => self.report(node, &topic).await,
            85..89 => {
                // Records on the way to a closed topic are dropped.
                self.compare_records().await;
                self.nodes[node].link.request(Request::Close { topic: &topic });
                self.nodes[node].opened.retain(|opened| *opened != topic);
            }
            89..92 => {
                self.server.promote();
                self.histories += 1;
                self.reference.restart(self.histories);
            }
            92..94 => {
                self.server.run(&["DEL", &self.key(&topic, 's')]);
                self.reference.evict(&topic);
                self.open(node, &topic).await;
            }
            94..96 => {
                self.server.run(&["DEL", &self.key(&topic, 'l')]);
                self.reference.evict_log(&topic);
            }
            96..97 => drop(self.server.run(&["SCRIPT", "FLUSH"])),
            _ => self.compare_records().await,
        }
    }

    fn key(&self, topic: &TopicName, kind: char) -> String {
        format!("janus:{{{:016x}}}:{kind}:{topic}", super::keys::hash_of(topic.as_str()))
    }

    async fn append(&mut self, node: usize, topic: &TopicName) {
        let (keep, given) = (self.keep(), self.given());
        let (submission, count, create) = (self.rng.u64(1..30), self.rng.u64(1..4), self.rng.u8(..4) > 0);
        let key = self.rng.choice(["a", "b", "c"]).filter(|_| self.rng.u8(..8) == 0).map(|key| (key, HOUR));
        let data = self.rng.u64(..).to_string();
        let messages = vec![Publication::new(topic, "null", "0", &data).unwrap(); count as usize];
        let payload = &Payload::of(&messages);
        let request = Request::Append { topic, keep, create, submission, count, payload, key };
        self.nodes[node].link.request(request);
        let submitted = Submission { node: self.nodes[node].id, number: submission, count, payload, key };
        let expected = self.reference.append(given, topic, keep, create, submitted);
        let Answer::Appended { outcome, .. } = self.nodes[node].answer().await else { panic!("not the answer") };
        use super::super::Outcome::{Again, New};
        match (outcome, expected.outcome) {
            (Ok(New(position)), Ok(New(other))) | (Ok(Again(position)), Ok(Again(other))) => {
                self.same_position(position, other);
                self.last.insert(topic.clone(), Position { seq: position.seq + count - 1, ..position });
            }
            (outcome, other) => assert_eq!(outcome, other, "seed {}", self.seed),
        }
        self.hand_on(topic, &expected.new);
    }

    async fn open(&mut self, node: usize, topic: &TopicName) {
        let (keep, given) = (self.keep(), self.given());
        let known = self.last.get(topic).copied().filter(|_| self.rng.bool()).map(|last| {
            let (behind, ahead) = (self.rng.u64(..4), self.rng.u64(..4));
            let epochs: Vec<_> = self.counterparts.keys().copied().collect();
            let epoch = if self.rng.u8(..4) == 0 { self.rng.choice(epochs).unwrap() } else { last.epoch };
            Position { epoch, seq: last.seq.saturating_sub(behind) + ahead }
        });
        let from =
            known.filter(|_| self.rng.bool()).map(|known| known.seq + 1).or_else(|| self.rng.bool().then_some(0));
        let is_new = !self.nodes[node].opened.contains(topic);
        self.nodes[node].link.request(Request::Open { topic, ask: 7, keep, known, from });
        let translated = known.map(|known| Position { epoch: self.counterparts[&known.epoch], ..known });
        let expected = self.reference.open(given, topic, keep, translated, from);
        let answer = self.nodes[node].answer().await;
        let Answer::Opened { ask: 7, position, records, .. } = answer else { panic!("not the answer: {answer:?}") };
        self.same_position(position, expected.position);
        if is_new {
            // What came before the answer is of the time before, except for the records of this very request.
            let own = |record: &Record| {
                let is_same = |new: &Record| self.counterparts.get(&record.epoch) == Some(&new.epoch);
                expected.new.iter().any(|new| new.first == record.first && is_same(new))
            };
            self.nodes[node].came.retain(|(other, record)| other != topic || own(record));
            self.nodes[node].opened.push(topic.clone());
        }
        self.same_log(&records, &expected.records);
        assert!(records.iter().all(|record| record.last().seq >= from.unwrap_or(0)));
        self.last.insert(topic.clone(), position);
        self.hand_on(topic, &expected.new);
    }

    async fn read(&mut self, node: usize, topic: &TopicName) {
        let from = self.last.get(topic).map_or(0, |last| last.seq.saturating_sub(self.rng.u64(..10)));
        self.nodes[node].link.request(Request::Read { topic, ask: 8, from });
        let Answer::Records { ask: 8, records, .. } = self.nodes[node].answer().await else { panic!("not the answer") };
        let expected = self.reference.read(NOW, topic, from);
        self.same_log(&records, &expected);
    }

    async fn report(&mut self, node: usize, topic: &TopicName) {
        let subscribers = self.rng.u64(..3);
        self.nodes[node].link.request(Request::Report { topic, subscribers, valid: HOUR });
        let (position, sum) = self.reference.report(NOW, topic, self.nodes[node].id, subscribers, HOUR);
        let Answer::Reported { position: reported, subscribers, .. } = self.nodes[node].answer().await else {
            panic!("not the answer")
        };
        assert_eq!((reported.is_some(), subscribers), (position.is_some(), sum), "seed {}", self.seed);
        if let (Some(reported), Some(position)) = (reported, position) {
            self.same_position(reported, position);
        }
    }

    /// All due records have come, in order, and no other record.
    async fn compare_records(&mut self) {
        for index in 0..self.nodes.len() {
            let node = &mut self.nodes[index];
            node.link.request(Request::Nodes { ask: 9 });
            assert!(matches!(node.answer().await, Answer::Nodes { ask: 9, .. }));
            let (came, due) = (std::mem::take(&mut node.came), std::mem::take(&mut node.due));
            assert_eq!(came.len(), due.len(), "seed {}: {came:?} instead of {due:?}", self.seed);
            for ((topic, record), (other_topic, other)) in came.iter().zip(&due) {
                assert_eq!(topic, other_topic, "seed {}", self.seed);
                self.same_record(record, other);
            }
        }
    }
}

#[test]
fn the_scripts_do_what_the_rules_say() {
    let server = RedisServer::start();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let random = getrandom::u64().unwrap() >> 16;
    println!("the last seed is {random}");
    for seed in (0..60).chain([random]) {
        runtime.block_on(async {
            let mut pair = Pair::new(&server, seed).await;
            for _ in 0..300 {
                pair.step().await;
            }
            pair.compare_records().await;
        });
    }
}
