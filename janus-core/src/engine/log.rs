//! The rules of an engine as plain data: the topics of one server with their numbers, their logs and their loss marks.
//!
//! Nothing here waits, sends, reads a clock or makes a random number. The caller gives the time and an epoch to each
//! step, and gets the answer with the records to be handed on. A clone of a server is a replica. `property.rs` holds the rules against a plain model.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;

use super::{AppendError, Keep, LAST_NUMBER, NodeId, NodePresence, Outcome, Payload, Record, What};
use crate::wire::{Epoch, Position, Timestamp, TopicName};

/// Bytes of a record in the log besides the payload: the size of the head of a record as text.
const RECORD_BYTES: u64 = 96;

/// A smaller map is not worth the search for old values.
const LEAST_FULL: usize = 16;

/// Given by the caller to each step.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Given {
    /// The time since the Unix epoch.
    pub now: Duration,
    /// An epoch never given before, in case the step needs a new epoch.
    pub fresh: Epoch,
}

/// The messages of a submission, and the sender.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Submission<'a> {
    pub node: NodeId,
    pub number: u64,
    /// The messages in the payload, at least 1.
    pub count: u64,
    pub payload: &'a Payload,
    /// The publisher's key, and how long the key is kept.
    pub key: Option<(&'a str, Duration)>,
}

/// The answer to an open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Opened {
    pub position: Position,
    /// The log from the requested number on.
    pub records: Vec<Record>,
    /// The records made by this step, for every node with the topic open.
    pub new: Vec<Record>,
}

/// The answer to an append.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Appended {
    pub outcome: Result<Outcome, AppendError>,
    /// The records made by this step, for every node with the topic open.
    pub new: Vec<Record>,
}

/// The answer about the members of a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Present {
    pub version: u64,
    pub is_whole: bool,
    pub is_changed: bool,
    pub nodes: Vec<NodePresence>,
}

/// The data of one server.
#[derive(Clone, Debug)]
pub(crate) struct Server {
    /// Names the past of the data. Under another history, some of the past may be missing.
    history: u64,
    topics: Ageing<TopicName, Topic>,
    keys: Ageing<(TopicName, String), Kept<Position>>,
    subscribers: Ageing<TopicName, Ageing<NodeId, Kept<u64>>>,
    /// What nodes say of their members, each with its version.
    members: Ageing<TopicName, Ageing<NodeId, Kept<(u64, Bytes)>>>,
    nodes: Ageing<NodeId, Kept<String>>,
}

/// A map whose values have an end.
#[derive(Clone, Debug)]
struct Ageing<K, V> {
    map: BTreeMap<K, V>,
    /// At this size the map lets go of old values; twice the size after the last time.
    full: usize,
}

trait Ends {
    fn is_over(&self, now: Duration) -> bool;
}

#[derive(Clone, Debug)]
struct Kept<T> {
    value: T,
    until: Duration,
}

#[derive(Clone, Debug)]
struct Topic {
    /// The last number given out.
    position: Position,
    /// The history of the server when the last number was given out.
    history: u64,
    /// The last submission of each node.
    submissions: BTreeMap<NodeId, u64>,
    log: Log,
    /// How long a use prolongs the life of the topic.
    state: Duration,
    until: Duration,
}

#[derive(Clone, Debug, Default)]
struct Log {
    records: VecDeque<Record>,
    bytes: u64,
    until: Duration,
}

impl Server {
    /// A server without data.
    pub(crate) fn new(history: u64) -> Self {
        Self {
            history,
            topics: Ageing::default(),
            keys: Ageing::default(),
            subscribers: Ageing::default(),
            members: Ageing::default(),
            nodes: Ageing::default(),
        }
    }

    /// Makes the topic if there is none, brings the topic beyond `known`, and reads the log from `from` on.
    pub(crate) fn open(
        &mut self,
        given: Given,
        name: &TopicName,
        keep: Keep,
        known: Option<Position>,
        from: Option<u64>,
    ) -> Opened {
        let mut step = Step { given, keep, history: self.history, new: Vec::new() };
        // Lets go of an old log.
        self.topic(given.now, name);
        let topic = self.topics.get_or_insert(given.now, name, || Topic::new(&step));
        topic.notice_history(&mut step);
        if let Some(known) = known {
            let Position { epoch, seq } = topic.position;
            // The node has handed out numbers beyond the end, or the last number under another epoch. The epoch of a new
            // topic is unknown to every node.
            if known.seq > seq || known.seq == seq && known.epoch != epoch {
                topic.lose(&mut step, known.seq.saturating_add(1), epoch);
            }
        }
        topic.prolong(given.now, keep.state);
        let records = from.map(|from| topic.log.read(from)).unwrap_or_default();
        Opened { position: topic.position, records, new: step.new }
    }

    /// Numbers and keeps the messages of a submission.
    pub(crate) fn append(
        &mut self,
        given: Given,
        name: &TopicName,
        keep: Keep,
        create: bool,
        submission: Submission<'_>,
    ) -> Appended {
        let mut step = Step { given, keep, history: self.history, new: Vec::new() };
        let outcome = self.try_append(&mut step, name, create, submission);
        Appended { outcome, new: step.new }
    }

    fn try_append(
        &mut self,
        step: &mut Step,
        name: &TopicName,
        create: bool,
        submission: Submission<'_>,
    ) -> Result<Outcome, AppendError> {
        let now = step.given.now;
        let exists = self.topic(now, name).map(|topic| topic.notice_history(step)).is_some();
        let key = submission.key.map(|(key, life)| ((name.clone(), key.to_owned()), life));
        if let Some(earlier) = key.as_ref().and_then(|(key, _)| self.keys.get(now, key)) {
            return Ok(Outcome::Again(earlier.value));
        }
        if !exists && !create {
            return Ok(Outcome::Nobody);
        }
        let topic = self.topics.get_or_insert(now, name, || Topic::new(step));
        if topic.submissions.get(&submission.node).is_some_and(|&last| last >= submission.number) {
            return Ok(Outcome::Known);
        }
        let first = topic.submit(step, submission)?;
        if let Some((key, life)) = key {
            self.keys.insert(now, key, Kept { value: first, until: now.saturating_add(life) });
        }
        Ok(Outcome::New(first))
    }

    /// The log of the topic from this number on.
    pub(crate) fn read(&mut self, now: Duration, name: &TopicName, from: u64) -> Vec<Record> {
        self.topic(now, name).map(|topic| topic.log.read(from)).unwrap_or_default()
    }

    /// Notes the subscribers of a node, and returns the topic's position and the subscribers of all nodes. A report is a
    /// use of the topic, so that a topic with subscribers and without messages is kept.
    pub(crate) fn report(
        &mut self,
        now: Duration,
        name: &TopicName,
        node: NodeId,
        subscribers: u64,
        valid: Duration,
    ) -> (Option<Position>, u64) {
        let nodes = self.subscribers.get_or_insert(now, name, Ageing::default);
        nodes.insert(now, node, Kept { value: subscribers, until: now.saturating_add(valid) });
        let sum = nodes.values(now).map(|(_, count)| count.value).sum();
        let position = self.topic(now, name).map(|topic| {
            topic.prolong(now, topic.state);
            topic.position
        });
        (position, sum)
    }

    /// Notes what a node says of its members, and returns what the others say.
    pub(crate) fn presence(
        &mut self,
        now: Duration,
        name: &TopicName,
        (node, members, valid): (NodeId, Option<&[u8]>, Duration),
        (known, most): (u64, usize),
    ) -> Present {
        let said = self.members.get_or_insert(now, name, Ageing::default);
        said.map.retain(|_, kept| !kept.is_over(now));
        let mut version = said.map.values().map(|kept| kept.value.0).max().unwrap_or(0);
        let before = said.map.get(&node).map(|kept| kept.value.clone());
        let mut is_changed = false;
        match members {
            None => {}
            Some([]) => is_changed = said.map.remove(&node).is_some(),
            Some(members) => {
                let value = before.filter(|(_, before)| before == members).unwrap_or_else(|| {
                    is_changed = true;
                    // Above each version from before a loss of the data.
                    version = (version + 1).max(u64::try_from(now.as_micros()).unwrap_or(u64::MAX));
                    (version, Bytes::copy_from_slice(members))
                });
                said.insert(now, node, Kept { value, until: now.saturating_add(valid) });
            }
        }
        let others = || said.map.iter().filter(|(other, _)| **other != node);
        let mut new: Vec<_> = others().map(|(_, kept)| (kept.value.0, kept.value.1.len())).collect();
        new.retain(|(number, _)| *number > known);
        new.sort_unstable();
        let bytes = new.iter().scan(0, |bytes, (_, length)| {
            *bytes += length;
            Some(*bytes)
        });
        let fitting = bytes.enumerate().take_while(|(index, bytes)| *index == 0 || *bytes <= most).count();
        let is_whole = fitting == new.len();
        if !is_whole {
            version = new[fitting - 1].0;
        }
        let nodes = others().map(|(&node, Kept { value: (number, members), until })| NodePresence {
            node,
            valid: until.saturating_sub(now),
            members: (known < *number && *number <= version).then(|| members.clone()),
        });
        let nodes = nodes.collect();
        if said.map.is_empty() {
            self.members.map.remove(name);
        }
        Present { version, is_whole, is_changed, nodes }
    }

    /// Notes that a node is alive.
    pub(crate) fn beat(&mut self, now: Duration, node: NodeId, about: &str, valid: Duration) {
        self.nodes.insert(now, node, Kept { value: about.to_owned(), until: now.saturating_add(valid) });
    }

    /// The nodes that are alive, in the order of their ids.
    pub(crate) fn nodes(&self, now: Duration) -> Vec<(NodeId, String)> {
        self.nodes.values(now).map(|(&id, node)| (id, node.value.clone())).collect()
    }

    /// The topic with this name, without an old log.
    fn topic(&mut self, now: Duration, name: &TopicName) -> Option<&mut Topic> {
        let topic = self.topics.get_mut(now, name)?;
        if topic.log.until <= now {
            topic.log = Log::default();
        }
        Some(topic)
    }
}

/// Faults.
#[cfg(test)]
impl Server {
    /// Goes on with the data at hand under another history, as after a restart or a promotion.
    pub(crate) fn restart(&mut self, history: u64) {
        self.history = history;
    }

    /// Forgets a topic and its log.
    pub(crate) fn evict(&mut self, name: &TopicName) {
        self.topics.map.remove(name);
    }

    /// Forgets the log of a topic, but not where the topic is.
    pub(crate) fn evict_log(&mut self, name: &TopicName) {
        if let Some(topic) = self.topics.map.get_mut(name) {
            topic.log = Log::default();
        }
    }

    /// Forgets which submissions of the topic have been carried out.
    #[cfg(feature = "fault-injection")]
    pub(crate) fn forget_submissions(&mut self, name: &TopicName) {
        if let Some(topic) = self.topics.map.get_mut(name) {
            topic.submissions.clear();
        }
    }

    /// The topics of any age.
    pub(crate) fn names(&self) -> Vec<TopicName> {
        self.topics.map.keys().cloned().collect()
    }

    /// The last position of a topic of any age.
    pub(crate) fn position(&self, name: &TopicName) -> Option<Position> {
        self.topics.map.get(name).map(|topic| topic.position)
    }
}

/// The needs of a step besides the topic, and the records made so far.
#[derive(Debug)]
struct Step {
    given: Given,
    keep: Keep,
    history: u64,
    new: Vec<Record>,
}

impl Topic {
    fn new(step: &Step) -> Self {
        let mut topic = Self {
            position: Position { epoch: step.given.fresh, seq: 0 },
            history: step.history,
            submissions: BTreeMap::new(),
            log: Log::default(),
            state: Duration::ZERO,
            until: Duration::ZERO,
        };
        topic.prolong(step.given.now, step.keep.state);
        topic
    }

    /// Marks a loss if the server writes another history than at the last number: some of the past may be missing.
    fn notice_history(&mut self, step: &mut Step) {
        if self.history != step.history {
            self.lose(step, self.position.seq.saturating_add(1), step.given.fresh);
        }
    }

    /// Declares the numbers up to `through` lost. Later numbers belong to `epoch`.
    fn lose(&mut self, step: &mut Step, through: u64, epoch: Epoch) {
        // A topic at the last number stays there: no message can come after this number, in any epoch.
        let through = through.min(LAST_NUMBER);
        if through > self.position.seq {
            let after = self.position;
            self.position.epoch = epoch;
            self.keep(step, through - after.seq, What::Lost { after });
        }
    }

    fn submit(&mut self, step: &mut Step, submission: Submission<'_>) -> Result<Position, AppendError> {
        let Position { epoch, seq } = self.position;
        if submission.count == 0 {
            return Err(AppendError("a submission needs a message".to_owned()));
        }
        // The second condition: a topic without room for a loss mark must not go on as if nothing were lost.
        if submission.count > LAST_NUMBER - seq || self.history != step.history {
            let text = format!("{} more messages after number {seq} go beyond {LAST_NUMBER}", submission.count);
            return Err(AppendError(text));
        }
        self.submissions.insert(submission.node, submission.number);
        let Submission { node, number, count, payload, .. } = submission;
        self.keep(step, count, What::Messages { node, submission: number, payload: payload.clone() });
        Ok(Position { epoch, seq: seq + 1 })
    }

    fn keep(&mut self, step: &mut Step, count: u64, what: What) {
        let Step { given, keep, history, new } = step;
        let Position { epoch, seq } = self.position;
        let record = Record { epoch, first: seq + 1, count, time: Timestamp::from_unix(given.now), what };
        self.position.seq += count;
        self.history = *history;
        new.push(record.clone());
        self.log.push(record, *keep);
        self.log.until = given.now.saturating_add(keep.age);
        self.prolong(given.now, keep.state);
    }

    fn prolong(&mut self, now: Duration, state: Duration) {
        self.state = state;
        self.until = now.saturating_add(state);
    }
}

impl Log {
    fn push(&mut self, record: Record, keep: Keep) {
        let last = record.last().seq;
        self.bytes += bytes_of(&record);
        self.records.push_back(record);
        // A record stays while any message of the record is among the latest: the limits are a minimum.
        let oldest = last.saturating_sub(keep.messages).saturating_add(1);
        while let Some(front) = self.records.front() {
            let size = bytes_of(front);
            if front.last().seq >= oldest && self.bytes - size < keep.bytes {
                break;
            }
            self.bytes -= size;
            self.records.pop_front();
        }
    }

    fn read(&self, from: u64) -> Vec<Record> {
        let start = self.records.partition_point(|record| record.last().seq < from);
        self.records.range(start..).cloned().collect()
    }
}

fn bytes_of(record: &Record) -> u64 {
    let payload = match &record.what {
        What::Messages { payload, .. } => payload.bytes().len() as u64,
        What::Lost { .. } => 0,
    };
    RECORD_BYTES + payload
}

impl<K: Ord + Clone, V: Ends> Ageing<K, V> {
    fn get(&self, now: Duration, key: &K) -> Option<&V> {
        self.map.get(key).filter(|value| !value.is_over(now))
    }

    fn get_mut(&mut self, now: Duration, key: &K) -> Option<&mut V> {
        self.map.get_mut(key).filter(|value| !value.is_over(now))
    }

    fn values(&self, now: Duration) -> impl Iterator<Item = (&K, &V)> {
        self.map.iter().filter(move |(_, value)| !value.is_over(now))
    }

    fn insert(&mut self, now: Duration, key: K, value: V) {
        if self.map.len() >= self.full {
            self.map.retain(|_, value| !value.is_over(now));
            self.full = (2 * self.map.len()).max(LEAST_FULL);
        }
        self.map.insert(key, value);
    }

    fn get_or_insert(&mut self, now: Duration, key: &K, make: impl FnOnce() -> V) -> &mut V {
        if self.get(now, key).is_none() {
            self.insert(now, key.clone(), make());
        }
        self.map.get_mut(key).expect("the value was there, or has just been put there")
    }
}

impl<K, V> Default for Ageing<K, V> {
    fn default() -> Self {
        Self { map: BTreeMap::new(), full: LEAST_FULL }
    }
}

impl<T> Ends for Kept<T> {
    fn is_over(&self, now: Duration) -> bool {
        self.until <= now
    }
}

impl Ends for Topic {
    fn is_over(&self, now: Duration) -> bool {
        self.until <= now
    }
}

/// The words of the nodes about a topic.
impl<T> Ends for Ageing<NodeId, Kept<T>> {
    fn is_over(&self, now: Duration) -> bool {
        self.map.values().all(|kept| kept.is_over(now))
    }
}

#[cfg(test)]
mod property;
#[cfg(test)]
mod tests;
