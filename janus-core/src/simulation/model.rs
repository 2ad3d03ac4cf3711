//! The model of the server: the messages of each topic, and the single order in which all subscribers get the messages.
//!
//! The order is not computed but observed. If a subscriber receives `a` and then `b`, then `b` follows `a` for every
//! other subscriber, too. Receipts give messages numbers; a message whose receipt was lost gets its number from its
//! neighbours. If the numbers of two neighbours differ by more than 1, a message between the two is missing.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::ground::simulated::since_unix_epoch;
use crate::{Epoch, PublishError};

pub(super) const TOPICS: usize = 8;

/// The first topic with a policy that drops: from here on, lagging clients lose messages and stay connected.
pub(super) const BEARING: usize = 5;

/// The topic with the policy `conflate`: all messages but the latest may be dropped.
pub(super) const CONFLATED: usize = 7;

/// The topic with `resume = "session"`: only a session resumes, a position alone does not.
pub(super) const OF_SESSIONS: usize = 6;

/// The wire formats. In each format, a message has the same bytes for all subscribers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    Classic,
    Modern,
}

/// The data of a message, which is its index in [`Model::messages`].
pub(super) type Id = usize;

#[derive(Debug)]
pub(super) struct Message {
    pub(super) topic: usize,
    pub(super) outcome: Outcome,
    pub(super) seq: Option<u64>,
    /// The length of the event.
    padding: usize,
    /// The time of the publisher's answer; see [`Model::now`].
    answered: u64,
    pub(super) published: Instant,
    /// The epoch and the last number of the topic known at the time of publishing.
    after: (Epoch, u64),
    /// The first bytes of the frame in each form, the same for all subscribers.
    heads: [Vec<u8>; 2],
    previous: Option<Id>,
    next: Option<Id>,
}

/// The answer to the publisher.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// No answer, yet or for ever.
    Unknown,
    /// The message has a number, known to the model or not.
    Accepted,
    /// The topic had no subscribers.
    Unnumbered,
    /// No subscriber gets the message.
    Refused,
}

impl Message {
    /// The end of the frame, which does not depend on the time.
    pub(super) fn tail(&self, id: Id, form: Form) -> String {
        let (topic, event) = (topic_name(self.topic), self.event());
        let topic = if form == Form::Classic { format!("\"topic\":\"{topic}\",") } else { String::new() };
        format!("{topic}\"event\":\"{event}\",\"message_id\":\"\",\"data\":{id}}}")
    }

    pub(super) fn event(&self) -> String {
        "x".repeat(self.padding)
    }

    pub(super) fn can_be_received(&self) -> bool {
        matches!(self.outcome, Outcome::Unknown | Outcome::Accepted)
    }

    pub(super) fn was_received(&self) -> bool {
        self.heads.iter().any(|head| !head.is_empty())
    }
}

pub(super) fn topic_name(topic: usize) -> String {
    let namespace = match topic {
        0..BEARING => "",
        5 => "oldest:",
        6 => "newest:",
        _ => "conflate:",
    };
    format!("{namespace}topic {topic}")
}

#[derive(Debug, Default)]
pub(super) struct Model {
    pub(super) messages: Vec<Message>,
    /// The messages of each topic, in the order of publishing.
    pub(super) by_topic: [Vec<Id>; TOPICS],
    /// Messages by epoch and number.
    numbers: HashMap<(Epoch, u64), Id>,
    /// The epoch and the highest known number of each topic.
    last: [(Epoch, u64); TOPICS],
    /// A logical clock, which rises with every answer to a publisher.
    pub(super) now: u64,
    /// Whether the modern clients of this world speak `janus.v1.cbor`.
    pub(super) is_binary: bool,
}

impl Model {
    pub(super) fn new(is_binary: bool) -> Self {
        Self { is_binary, ..Self::default() }
    }

    pub(super) fn publish(&mut self, topic: usize, padding: usize) -> Id {
        let id = self.messages.len();
        self.by_topic[topic].push(id);
        self.messages.push(Message {
            topic,
            outcome: Outcome::Unknown,
            seq: None,
            padding,
            answered: u64::MAX,
            published: Instant::now(),
            after: self.last[topic],
            heads: Default::default(),
            previous: None,
            next: None,
        });
        id
    }

    fn answered(&mut self, id: Id) -> &mut Message {
        self.now += 1;
        let message = &mut self.messages[id];
        message.answered = self.now;
        message
    }

    /// A publisher got a receipt.
    pub(super) fn receipt(&mut self, id: Id, epoch: Epoch, seq: u64) {
        let message = self.answered(id);
        if seq == 0 {
            assert!(
                !message.was_received(),
                "message {id} was received, but its receipt says that the topic had no subscribers"
            );
            message.outcome = Outcome::Unnumbered;
            return;
        }
        let (topic, after) = (message.topic, message.after);
        self.accepted(id);
        if after.0 == epoch {
            assert!(seq > after.1, "message {id} got the number {seq}, but {} was known before it was sent", after.1);
        }
        if self.last[topic].0 != epoch || self.last[topic].1 < seq {
            self.last[topic] = (epoch, seq);
        }
        self.has_number(id, epoch, seq);
    }

    /// A publisher or a subscriber was told the number of a message.
    fn has_number(&mut self, id: Id, epoch: Epoch, seq: u64) {
        let other = *self.numbers.entry((epoch, seq)).or_insert(id);
        assert!(other == id, "messages {other} and {id} have the same number {seq}");
        self.number(id, seq);
    }

    /// The epoch and the highest known number of a topic.
    pub(super) fn last(&self, topic: usize) -> (Epoch, u64) {
        self.last[topic]
    }

    /// A publisher was told that its message has a number, by a receipt or by a close.
    pub(super) fn accepted(&mut self, id: Id) {
        let message = &mut self.messages[id];
        assert!(message.outcome == Outcome::Unknown, "message {id} was answered twice: {message:?}");
        message.outcome = Outcome::Accepted;
    }

    pub(super) fn refused(&mut self, id: Id, why: &PublishError) {
        let message = self.answered(id);
        assert!(!message.was_received(), "message {id} was received, but its publisher got an error: {why}");
        assert!(message.outcome == Outcome::Unknown, "message {id} was answered twice: {message:?}");
        message.outcome = Outcome::Refused;
    }

    /// A subscriber received a message.
    pub(super) fn received(&mut self, frame: &[u8], form: Form, topic_only: [bool; TOPICS]) -> Id {
        let text = str::from_utf8(frame).expect("a message is text");
        let digits = text.rsplit_once("\"data\":").and_then(|(_, data)| data.strip_suffix('}'));
        let id: Id = digits.and_then(|digits| digits.parse().ok()).unwrap_or_else(|| panic!("not a message: {text}"));
        let message = self.messages.get_mut(id).unwrap_or_else(|| panic!("no publisher sent this: {text}"));
        let tail = message.tail(id, form);
        assert!(text.ends_with(&tail), "not the published message: {text}, but {tail}");
        let head = &frame[..frame.len() - tail.len()];
        let expected = &mut message.heads[form as usize];
        if expected.is_empty() {
            *expected = head.to_vec();
        }
        assert!(expected == head, "not the same bytes as for other subscribers: {text}");
        assert!(message.can_be_received(), "a message was received, but its publisher was refused: {message:?}");
        assert!(topic_only[message.topic], "message {id} came without a subscription to its topic: {text}");
        id
    }

    /// A subscriber received a message with its number and the time at which the message got the number.
    pub(super) fn received_with_number(&mut self, id: Id, epoch: Epoch, seq: u64, time: Duration) {
        let now = since_unix_epoch().expect("it is a simulation");
        let published = now - self.messages[id].published.elapsed();
        let milliseconds = published.as_millis()..=now.as_millis();
        assert!(
            milliseconds.contains(&time.as_millis()),
            "message {id} has the time {time:?}, outside of {published:?} to {now:?}"
        );
        self.has_number(id, epoch, seq);
    }

    /// A subscriber in this process received a message with its number.
    pub(super) fn heard(&mut self, id: Id, topic: usize, event: &str, seq: u64) {
        let message = self.messages.get(id).unwrap_or_else(|| panic!("no publisher sent {id}"));
        assert!(message.topic == topic && event.len() == message.padding + 2, "not the published message: {message:?}");
        assert!(message.can_be_received(), "a message was received, but its publisher was refused: {message:?}");
        self.number(id, seq);
    }

    /// Whether the publisher of the message had an answer at the time `at`.
    pub(super) fn was_answered(&self, id: Id, at: u64) -> bool {
        self.messages[id].answered <= at
    }

    /// A subscriber received `id` right after `previous`.
    pub(super) fn follows(&mut self, previous: Id, id: Id) {
        let next = *self.messages[previous].next.get_or_insert(id);
        assert!(next == id, "{id} came after message {previous}, but {next} came there for another subscriber");
        let before = *self.messages[id].previous.get_or_insert(previous);
        assert!(
            before == previous,
            "{previous} came before message {id}, but {before} came there for another subscriber"
        );
        match (self.messages[previous].seq, self.messages[id].seq) {
            (Some(seq), next) if next != Some(seq + 1) => self.number(id, seq + 1),
            (None, Some(next)) => self.number(previous, next - 1),
            _ => {}
        }
    }

    /// Notes the number of a message, and the resulting numbers of the messages before and after.
    fn number(&mut self, id: Id, seq: u64) {
        let mut up = Some((id, seq));
        while let Some((id, seq)) = up {
            up = self.set_number(id, seq).then(|| Some((self.messages[id].next?, seq + 1))).flatten();
        }
        let mut down = self.messages[id].previous.map(|previous| (previous, seq - 1));
        while let Some((id, seq)) = down {
            down = self.set_number(id, seq).then(|| Some((self.messages[id].previous?, seq - 1))).flatten();
        }
    }

    /// Sets a message's number; returns whether the number is new.
    fn set_number(&mut self, id: Id, seq: u64) -> bool {
        match self.messages[id].seq {
            Some(known) => {
                assert!(
                    known == seq,
                    "message {id} has the number {known}, but its place in the order is that of number {seq}"
                );
                false
            }
            None => {
                self.messages[id].seq = Some(seq);
                true
            }
        }
    }
}
