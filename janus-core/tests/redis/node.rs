//! A node with one link, as a test drives it.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::time::Duration;

use janus_core::Position;
use janus_core::engine::redis::{Options, Redis};
use janus_core::engine::{
    Answer, AppendError, Engine, Keep, Link, LinkError, NodeId, Outcome, Payload, Record, Request, What,
};
use janus_core::wire::{Publication, TopicName};

use crate::redis_server::RedisServer;

/// More than the tests publish.
pub(crate) const KEEP: Keep =
    Keep { messages: 1_000, bytes: 64 * 1024 * 1024, age: Duration::from_secs(60), state: Duration::from_secs(3600) };

/// How long the test waits for an answer.
const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) struct Node {
    pub(crate) link: Box<dyn Link>,
    asks: u64,
    /// Answers from the time of waiting for another answer.
    waiting: VecDeque<Answer>,
}

/// Runs a test on this thread, as an instance runs its links.
pub(crate) fn here(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, test);
}

/// What must come before long.
pub(crate) async fn in_time<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, what).await.expect("what must come before long")
}

pub(crate) fn topic(name: &str) -> TopicName {
    TopicName::new(name, 4096).unwrap()
}

pub(crate) fn payload(topic: &TopicName, data: &[&str]) -> Payload {
    let messages: Vec<_> = data.iter().map(|data| Publication::new(topic, "\"event\"", "1", data).unwrap()).collect();
    Payload::of(&messages)
}

/// The data of the messages of these records.
pub(crate) fn texts(topic: &TopicName, records: &[Record]) -> Vec<String> {
    let mut texts = Vec::new();
    for record in records {
        if let What::Messages { payload, .. } = &record.what {
            let messages = payload.messages(topic, record.count).unwrap();
            texts.extend(messages.iter().map(|message| message.data().to_owned()));
        }
    }
    texts
}

pub(crate) fn options(address: &str) -> Options {
    Options::new([address.parse().unwrap()])
}

pub(crate) async fn connect(options: Options, node: u64) -> Result<Node, LinkError> {
    let link = Redis::new(options).unwrap().connect(0, NodeId::new(node)).await?;
    Ok(Node { link, asks: 0, waiting: VecDeque::new() })
}

impl Node {
    pub(crate) async fn start(server: &RedisServer, node: u64) -> Self {
        connect(options(&server.url()), node).await.unwrap()
    }

    /// The next answer or record, or the end of the link.
    pub(crate) async fn hear(&mut self) -> Result<Answer, LinkError> {
        in_time(poll_fn(|cx| self.link.poll(cx))).await
    }

    /// The next answer or record.
    pub(crate) async fn next(&mut self) -> Answer {
        match self.waiting.pop_front() {
            Some(answer) => answer,
            None => self.hear().await.unwrap(),
        }
    }

    /// The end of the link, whatever comes before.
    pub(crate) async fn end(&mut self) -> LinkError {
        loop {
            if let Err(error) = self.hear().await {
                return error;
            }
        }
    }

    /// The first wanted answer; the other answers wait.
    async fn wait_for<T>(&mut self, mut wanted: impl FnMut(&Answer) -> Option<T>) -> T {
        if let Some(found) = self.waiting.iter().position(|answer| wanted(answer).is_some()) {
            return wanted(&self.waiting.remove(found).unwrap()).unwrap();
        }
        loop {
            let answer = self.hear().await.unwrap();
            match wanted(&answer) {
                Some(found) => return found,
                None => self.waiting.push_back(answer),
            }
        }
    }

    pub(crate) async fn open(
        &mut self,
        topic: &TopicName,
        known: Option<Position>,
        from: Option<u64>,
    ) -> (Position, Vec<Record>) {
        self.open_with(topic, KEEP, known, from).await.unwrap()
    }

    pub(crate) async fn open_with(
        &mut self,
        topic: &TopicName,
        keep: Keep,
        known: Option<Position>,
        from: Option<u64>,
    ) -> Result<(Position, Vec<Record>), String> {
        self.asks += 1;
        let wanted = self.asks;
        self.link.request(Request::Open { topic, ask: wanted, keep, known, from });
        self.wait_for(|answer| match answer {
            Answer::Opened { ask, position, records, .. } if *ask == wanted => Some(Ok((*position, records.clone()))),
            Answer::Failed { ask, message, .. } if *ask == Some(wanted) => Some(Err(message.clone())),
            _ => None,
        })
        .await
    }

    pub(crate) async fn read(&mut self, topic: &TopicName, from: u64) -> Vec<Record> {
        self.asks += 1;
        let wanted = self.asks;
        self.link.request(Request::Read { topic, ask: wanted, from });
        self.wait_for(|answer| match answer {
            Answer::Records { ask, records, .. } if *ask == wanted => Some(records.clone()),
            _ => None,
        })
        .await
    }

    pub(crate) async fn append(
        &mut self,
        topic: &TopicName,
        submission: u64,
        data: &[&str],
    ) -> Result<Outcome, AppendError> {
        self.append_with(topic, KEEP, true, submission, data, None).await
    }

    pub(crate) async fn append_with(
        &mut self,
        topic: &TopicName,
        keep: Keep,
        create: bool,
        submission: u64,
        data: &[&str],
        key: Option<(&str, Duration)>,
    ) -> Result<Outcome, AppendError> {
        self.submit(topic, keep, create, submission, data, key);
        self.appended(submission).await
    }

    pub(crate) fn submit(
        &mut self,
        topic: &TopicName,
        keep: Keep,
        create: bool,
        submission: u64,
        data: &[&str],
        key: Option<(&str, Duration)>,
    ) {
        let (payload, count) = (&payload(topic, data), data.len() as u64);
        self.link.request(Request::Append { topic, keep, create, submission, count, payload, key });
    }

    pub(crate) async fn appended(&mut self, wanted: u64) -> Result<Outcome, AppendError> {
        self.wait_for(|answer| match answer {
            Answer::Appended { submission, outcome, .. } if *submission == wanted => Some(outcome.clone()),
            _ => None,
        })
        .await
    }

    /// The next records of a topic.
    pub(crate) async fn records(&mut self, name: &TopicName, count: usize) -> Vec<Record> {
        let mut records = Vec::new();
        while records.len() < count {
            let next = |answer: &Answer| match answer {
                Answer::Record { topic, record } if topic == name => Some(record.clone()),
                _ => None,
            };
            records.push(self.wait_for(next).await);
        }
        records
    }

    pub(crate) async fn report(&mut self, topic: &TopicName, subscribers: u64) -> (Option<Position>, u64) {
        self.report_for(topic, subscribers, Duration::from_secs(60)).await
    }

    pub(crate) async fn report_for(
        &mut self,
        topic: &TopicName,
        subscribers: u64,
        valid: Duration,
    ) -> (Option<Position>, u64) {
        self.link.request(Request::Report { topic, subscribers, valid });
        self.wait_for(|answer| match answer {
            Answer::Reported { position, subscribers, .. } => Some((*position, *subscribers)),
            _ => None,
        })
        .await
    }

    pub(crate) async fn nodes(&mut self) -> Vec<(NodeId, String)> {
        self.asks += 1;
        let wanted = self.asks;
        self.link.request(Request::Nodes { ask: wanted });
        self.wait_for(|answer| match answer {
            Answer::Nodes { ask, nodes } if *ask == wanted => Some(nodes.clone()),
            _ => None,
        })
        .await
    }
}
