//! What the server is held against: the messages of each topic, and the one order in which everybody gets them.
//!
//! The order is not computed but observed. Who receives `a` and then `b` says that `b` follows `a`, and so it must be for
//! everybody. Receipts give messages numbers; a message whose receipt was lost gets its number from its neighbours. If
//! two neighbours are not one apart, a message between them is missing.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::PublishError;
use crate::ground::simulated::since_unix_epoch;

pub(super) const TOPICS: usize = 8;

/// From here on clients that lag are borne with: their messages are dropped.
pub(super) const BEARING: usize = 5;

/// The last of these: all but the latest message are.
pub(super) const CONFLATED: usize = 7;

/// One of these: only sessions go on where they were.
pub(super) const OF_SESSIONS: usize = 6;

/// The wire formats, in each of which a message has the same bytes for everybody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    Classic,
    Modern,
}

/// What the data of a message is: its place in [`Model::messages`].
pub(super) type Id = usize;

#[derive(Debug)]
pub(super) struct Message {
    pub(super) topic: usize,
    pub(super) outcome: Outcome,
    pub(super) seq: Option<u64>,
    /// How long its event is.
    padding: usize,
    /// When the publisher learned what became of it; see [`Model::now`].
    answered: u64,
    pub(super) published: Instant,
    /// The last number of its topic that was known when it was published, and the epoch of that.
    after: (u64, u64),
    /// Its first bytes in each form, the same for all subscribers.
    heads: [Vec<u8>; 2],
    previous: Option<Id>,
    next: Option<Id>,
}

/// What the publisher was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Nothing, so far or for ever.
    Unknown,
    /// It has a number, known or not.
    Accepted,
    /// Nobody was subscribed.
    Unnumbered,
    /// Nobody gets it.
    Refused,
}

impl Message {
    /// The end of its frame, which is the same at any time.
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
    /// The messages of each topic, in the order in which they were published.
    pub(super) by_topic: [Vec<Id>; TOPICS],
    /// Messages by epoch and number.
    numbers: HashMap<(u64, u64), Id>,
    /// The highest number of each topic that is known, and its epoch.
    last: [(u64, u64); TOPICS],
    /// Rises with everything that is learned.
    pub(super) now: u64,
}

impl Model {
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
    pub(super) fn receipt(&mut self, id: Id, epoch: u64, seq: u64) {
        let message = self.answered(id);
        if seq == 0 {
            assert!(
                !message.was_received(),
                "message {id} was received, and its receipt says that nobody was subscribed"
            );
            message.outcome = Outcome::Unnumbered;
            return;
        }
        let (topic, after) = (message.topic, message.after);
        self.accepted(id);
        if after.0 == epoch {
            assert!(seq > after.1, "message {id} got the number {seq}, and {} was given before it was sent", after.1);
        }
        if self.last[topic].0 != epoch || self.last[topic].1 < seq {
            self.last[topic] = (epoch, seq);
        }
        self.has_number(id, epoch, seq);
    }

    /// Somebody was told a message's number.
    fn has_number(&mut self, id: Id, epoch: u64, seq: u64) {
        let other = *self.numbers.entry((epoch, seq)).or_insert(id);
        assert!(other == id, "messages {other} and {id} have the same number {seq}");
        self.number(id, seq);
    }

    /// The highest number that is known of a topic, and its epoch.
    pub(super) fn last(&self, topic: usize) -> (u64, u64) {
        self.last[topic]
    }

    /// A publisher was told, in whatever way, that its message has a number.
    pub(super) fn accepted(&mut self, id: Id) {
        let message = &mut self.messages[id];
        assert!(message.outcome == Outcome::Unknown, "message {id} is answered twice: {message:?}");
        message.outcome = Outcome::Accepted;
    }

    pub(super) fn refused(&mut self, id: Id, why: &PublishError) {
        let message = self.answered(id);
        assert!(!message.was_received(), "message {id} was received, and its publisher got an error: {why}");
        assert!(message.outcome == Outcome::Unknown, "message {id} is answered twice: {message:?}");
        message.outcome = Outcome::Refused;
    }

    /// A subscriber received a message.
    pub(super) fn received(&mut self, frame: &[u8], form: Form, topic_only: [bool; TOPICS]) -> Id {
        let text = str::from_utf8(frame).expect("a message is text");
        let digits = text.rsplit_once("\"data\":").and_then(|(_, data)| data.strip_suffix('}'));
        let id: Id = digits.and_then(|digits| digits.parse().ok()).unwrap_or_else(|| panic!("not a message: {text}"));
        let message = self.messages.get_mut(id).unwrap_or_else(|| panic!("nobody published this: {text}"));
        let tail = message.tail(id, form);
        assert!(text.ends_with(&tail), "not what was published: {text}, but {tail}");
        let head = &frame[..frame.len() - tail.len()];
        let expected = &mut message.heads[form as usize];
        if expected.is_empty() {
            *expected = head.to_vec();
        }
        assert!(expected == head, "not the bytes that others got: {text}");
        assert!(
            message.can_be_received(),
            "a message was received whose publisher was told that nobody gets it: {message:?}"
        );
        assert!(topic_only[message.topic], "message {id} of a topic that is not subscribed to: {text}");
        id
    }

    /// A subscriber to whom numbers are told received a message, of which it sees when it got its number.
    pub(super) fn received_with_number(&mut self, id: Id, epoch: u64, seq: u64, time: Duration) {
        let now = since_unix_epoch().expect("it is a simulation");
        let published = now - self.messages[id].published.elapsed();
        let milliseconds = published.as_millis()..=now.as_millis();
        assert!(
            milliseconds.contains(&time.as_millis()),
            "message {id} is of {time:?}, and not of {published:?} to {now:?}"
        );
        self.has_number(id, epoch, seq);
    }

    /// Somebody in this process received a message, and saw its number.
    pub(super) fn heard(&mut self, id: Id, topic: usize, event: &str, seq: u64) {
        let message = self.messages.get(id).unwrap_or_else(|| panic!("nobody published {id}"));
        assert!(message.topic == topic && event.len() == message.padding + 2, "not what was published: {message:?}");
        assert!(
            message.can_be_received(),
            "a message was heard whose publisher was told that nobody gets it: {message:?}"
        );
        self.number(id, seq);
    }

    /// Whether a publisher had its answer to the message at that time.
    pub(super) fn was_answered(&self, id: Id, at: u64) -> bool {
        self.messages[id].answered <= at
    }

    /// Somebody received `id` next after `previous`.
    pub(super) fn follows(&mut self, previous: Id, id: Id) {
        let next = *self.messages[previous].next.get_or_insert(id);
        assert!(next == id, "after message {previous} comes {id}, but somebody else got {next}");
        let before = *self.messages[id].previous.get_or_insert(previous);
        assert!(before == previous, "before message {id} comes {previous}, but somebody else had {before}");
        match (self.messages[previous].seq, self.messages[id].seq) {
            (Some(seq), next) if next != Some(seq + 1) => self.number(id, seq + 1),
            (None, Some(next)) => self.number(previous, next - 1),
            _ => {}
        }
    }

    /// Notes the number of a message, and what it says about those before and after it.
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

    /// Whether that is new.
    fn set_number(&mut self, id: Id, seq: u64) -> bool {
        match self.messages[id].seq {
            Some(known) => {
                assert!(
                    known == seq,
                    "message {id} has the number {known}; by its place in the order it would be {seq}"
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
