//! The model of a cluster: which message has which number, and what each publisher was told.
//!
//! The engine's record is the truth: a number that a publisher or a subscriber is told must be the number of that very
//! message there, on whichever server. So no two nodes can give one number to two messages.

use std::collections::BTreeMap;

use crate::engine::unreliable::Unreliable;
use crate::engine::{Record, What};
use crate::wire::TopicName;
use crate::{Epoch, Position, PublishError, Receipt};

pub(super) const TOPICS: usize = 3;

/// The data of a message, which is its index in [`Model::messages`].
pub(super) type Id = usize;

pub(super) fn topic_name(topic: usize) -> String {
    match topic {
        // With history: a message without a subscriber is kept.
        2 => "kept:topic".to_owned(),
        _ => format!("topic {topic}"),
    }
}

fn name(topic: usize) -> TopicName {
    TopicName::new(&topic_name(topic), 255).expect("it is a name")
}

#[derive(Debug)]
pub(super) struct Message {
    pub(super) topic: usize,
    pub(super) has_key: bool,
    /// Attempts to publish without an answer.
    attempts: usize,
    /// Whether an attempt may have been carried out although its publisher does not know.
    is_unsure: bool,
    /// What a publisher was told, if nobody gets the message and no attempt can have been carried out.
    refused: Option<String>,
    /// A number that a publisher or a subscriber was told.
    position: Option<Position>,
}

impl Message {
    /// Whether the publisher has reason to try again with the same key.
    pub(super) fn is_to_be_repeated(&self) -> bool {
        self.has_key && self.attempts == 0
    }

    pub(super) fn position(&self) -> Option<Position> {
        self.position
    }
}

#[derive(Debug)]
pub(super) struct Model {
    pub(super) messages: Vec<Message>,
    pub(super) receipts: usize,
    pub(super) refusals: usize,
    pub(super) heard: usize,
    pub(super) gaps: usize,
    engine: Unreliable,
}

impl Model {
    pub(super) fn new(engine: Unreliable) -> Self {
        Self { messages: Vec::new(), receipts: 0, refusals: 0, heard: 0, gaps: 0, engine }
    }

    pub(super) fn publish(&mut self, topic: usize, has_key: bool) -> Id {
        let message = Message { topic, has_key, attempts: 1, is_unsure: false, refused: None, position: None };
        self.messages.push(message);
        self.messages.len() - 1
    }

    pub(super) fn publish_again(&mut self, id: Id) {
        self.messages[id].attempts += 1;
        self.messages[id].refused = None;
    }

    /// The publisher has gone with its node.
    pub(super) fn publisher_gone(&mut self, id: Id) {
        self.messages[id].attempts -= 1;
        self.messages[id].is_unsure = true;
    }

    /// A publisher was answered.
    pub(super) fn answered(&mut self, id: Id, outcome: &Result<Receipt, PublishError>) {
        let message = &mut self.messages[id];
        message.attempts -= 1;
        match outcome {
            Ok(receipt) if receipt.seq == 0 => {
                self.receipts += 1;
                // Of this attempt alone.
                self.refused(id, "there is no subscriber");
            }
            Ok(receipt) => {
                self.receipts += 1;
                assert!(!receipt.again || message.has_key, "message {id} has no key, but was published before");
                message.is_unsure = true;
                self.names(id, Position { epoch: receipt.epoch, seq: receipt.seq });
            }
            Err(PublishError::OutcomeUnknown) => message.is_unsure = true,
            Err(error) => {
                self.refusals += 1;
                self.refused(id, &error.to_string());
            }
        }
    }

    fn refused(&mut self, id: Id, why: &str) {
        let message = &mut self.messages[id];
        if !message.is_unsure && message.attempts == 0 {
            let position = message.position;
            assert!(position.is_none(), "message {id} has the number {position:?}, but its publisher was told: {why}");
            message.refused = Some(why.to_owned());
        }
    }

    /// A subscriber has received a message.
    pub(super) fn heard(&mut self, id: Id, topic: usize, at: Position) {
        let message = self.messages.get(id).unwrap_or_else(|| panic!("no publisher has sent {id}"));
        assert!(message.topic == topic, "message {id} came under topic {topic}: {message:?}");
        assert!(message.refused.is_none(), "message {id} came at {at}, but was refused: {message:?}");
        self.names(id, at);
        self.heard += 1;
    }

    /// Somebody was told this number: it must be that of the engine.
    fn names(&mut self, id: Id, at: Position) {
        let message = &mut self.messages[id];
        let record = self.engine.record_with(&name(message.topic), at);
        let named = record.as_ref().and_then(|record| ids(record)?.get((at.seq - record.first) as usize).copied());
        assert!(named == Some(id), "message {id} is said to be at {at}, where the engine has {named:?} of {record:?}");
        message.position = Some(at);
    }

    /// Checks the histories of all servers: no message whose publisher was refused, none twice in one history.
    pub(super) fn check_histories(&self) {
        let records = self.engine.records();
        for topic in 0..TOPICS {
            let name = name(topic);
            let own = || records.iter().filter(|(of, _)| *of == name).map(|(_, record)| record);
            let mut cut_at = BTreeMap::new();
            for record in own() {
                if let What::Lost { after } = record.what
                    && after.epoch != record.epoch
                {
                    cut_at.insert(record.epoch.number(), after);
                }
            }
            let mut places: BTreeMap<Id, Vec<Position>> = BTreeMap::new();
            for record in own() {
                for (seq, id) in (record.first..).zip(ids(record).into_iter().flatten()) {
                    places.entry(id).or_default().push(Position { epoch: record.epoch, seq });
                }
            }
            for (id, places) in places {
                let message = &self.messages[id];
                assert!(message.refused.is_none(), "message {id} is at {places:?}, but was refused: {message:?}");
                for (index, one) in places.iter().enumerate() {
                    for other in &places[index + 1..] {
                        let is_twice = leads_to(*one, other.epoch, &cut_at) || leads_to(*other, one.epoch, &cut_at);
                        assert!(!is_twice, "message {id} is twice in one history, at {one} and {other}");
                    }
                }
            }
        }
    }
}

/// Whether a position is in the history of an epoch.
fn leads_to(at: Position, epoch: Epoch, cut_at: &BTreeMap<u64, Position>) -> bool {
    let mut here = Position { epoch, seq: u64::MAX };
    loop {
        if here.epoch == at.epoch {
            return at.seq <= here.seq;
        }
        let Some(before) = cut_at.get(&here.epoch.number()) else { return false };
        // Numbers only rise from epoch to epoch.
        here = Position { seq: before.seq.min(here.seq), ..*before };
    }
}

/// The messages of a record; `None` for a loss mark.
fn ids(record: &Record) -> Option<Vec<Id>> {
    let What::Messages { payload, .. } = &record.what else { return None };
    let messages = payload.messages(&name(0), record.count).expect("the engine keeps what nodes have sent");
    Some(messages.iter().map(|message| message.data().parse().expect("the data is a number")).collect())
}
