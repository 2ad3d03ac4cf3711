//! A client of the classic protocol, which counts messages and sees no numbers. The order of its messages is compared
//! with the order at other subscribers.

use std::collections::VecDeque;

use tokio::time::Instant;

use super::client::{self, Client, Line, Reason, UNKNOWN_TOKEN};
use super::model::{CONFLATED, Form, Id, Model, Outcome, TOPICS, topic_name};
use super::{Chance, Limits, MAX_ENTRY, Trace};
use crate::delivery::memory::Read;
use crate::{Epoch, PublishError};

#[derive(Debug)]
pub(super) struct Classic {
    line: Line,
    /// Commands without an answer.
    commands: VecDeque<Command>,
    /// The subscriptions confirmed by the server.
    subscriptions: [Option<Subscription>; TOPICS],
    /// The subscriptions after all commands.
    wants: [bool; TOPICS],
    token: Option<String>,
    /// The claim of a session, until the answer.
    attach: Option<Attach>,
    /// The claim has been answered, and errors about topics that could not be joined may follow.
    attached: bool,
    /// At some time since all was settled, the queue may have been long enough for the server to cut the client off.
    was_slow: bool,
    /// The client has received a message. Before the first message there are no PINGs.
    has_received: bool,
    /// The last receipt for each topic.
    last_receipt: [(Epoch, u64); TOPICS],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Command {
    /// The topic, and the model's clock at the time of the command.
    Subscribe(usize, u64),
    Unsubscribe(usize),
    Publish(Id),
    /// Ends with a close of the connection.
    ClassicPublish(Id),
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Subscription {
    /// The time of the subscribe. A message must not come if its publisher had an answer by then.
    asked: u64,
    /// The number of messages of the topic whose publishers had an answer at the time of the subscribe.
    published_before: usize,
    /// The first message published after the client had read the ACK: this message must come.
    since: Id,
    first: Option<Id>,
    last: Option<Id>,
    /// The count for an attach.
    received: usize,
    began: Instant,
    resumed: Option<Resumed>,
}

impl Subscription {
    fn begin(topic: usize, asked: u64, model: &Model) -> Self {
        Self {
            asked,
            published_before: model.by_topic[topic].iter().filter(|id| model.was_answered(**id, asked)).count(),
            since: model.messages.len(),
            first: None,
            last: None,
            received: 0,
            began: Instant::now(),
            resumed: None,
        }
    }
}

/// The answer to a resumed subscription: the number of missed messages.
#[derive(Clone, Copy, Debug)]
struct Resumed {
    missed: usize,
    received: usize,
    /// The time of the attach. Messages answered by then are among the missed messages.
    asked: u64,
    /// Messages published from here on are not among the missed messages.
    since: Id,
}

/// The knowledge of a client whose connection has ended.
#[derive(Clone, Debug)]
pub(super) struct Session {
    token: String,
    subscriptions: [Option<Subscription>; TOPICS],
    /// Topics without a received message, whether or not a subscribe has been carried out.
    none: [bool; TOPICS],
    /// The earliest time at which the server may know of the connection's end.
    detached: Option<Instant>,
    /// Whether client and server agree about the session.
    sure: bool,
    pub(super) instance: usize,
}

#[derive(Clone, Debug)]
struct Attach {
    session: Session,
    asked: u64,
    /// The topics for which the attach had a count.
    counted: [bool; TOPICS],
    /// The topics with a count too high by a thousand.
    wrong: [bool; TOPICS],
}

impl Classic {
    pub(super) fn new(line: Line) -> Self {
        Self {
            line,
            commands: VecDeque::new(),
            subscriptions: [None; TOPICS],
            wants: [false; TOPICS],
            token: None,
            attach: None,
            attached: false,
            was_slow: false,
            has_received: false,
            last_receipt: [(Epoch::NONE, 0); TOPICS],
        }
    }

    /// Publishes like the clients of 2009: the connection ends with the publish.
    pub(super) fn publish_and_finish(&mut self, id: Id, model: &Model) {
        let message = &model.messages[id];
        let (topic, event) = (topic_name(message.topic), message.event());
        self.write(&format!(
            "PUBLISH\0{{\"topic\":\"{topic}\",\"event\":\"{event}\",\"message_id\":\"\",\"data\":{id}}}"
        ));
        self.commands.push_back(Command::ClassicPublish(id));
        self.line.reason.finished = true;
    }

    /// Takes over a session, as the client's first command. An earlier claim may still be on its way, and must not win.
    pub(super) fn attach(&mut self, session: Session, model: &Model, chance: &Chance) {
        let (mut counted, mut wrong) = ([false; TOPICS], [false; TOPICS]);
        let mut received = String::new();
        for (topic, subscription) in session.subscriptions.iter().enumerate() {
            let count = match subscription {
                Some(_) if chance.one_in(20) => continue,
                Some(subscription) if chance.one_in(20) => {
                    wrong[topic] = true;
                    subscription.received + 1_000
                }
                Some(subscription) => subscription.received,
                None if session.none[topic] && topic != CONFLATED && chance.one_in(20) => 0,
                None => continue,
            };
            let comma = if received.is_empty() { "" } else { "," };
            received += &format!("{comma}\"{}\":{count}", topic_name(topic));
            counted[topic] = true;
        }
        let token = if chance.one_in(20) { UNKNOWN_TOKEN } else { &session.token };
        let frame =
            format!("{{\"action\":\"attach\",\"data\":{{\"token\":\"{token}\",\"received\":{{{received}}}}}}}\0");
        self.write(&frame);
        let session = Session { token: token.to_owned(), ..session };
        self.attach = Some(Attach { session, asked: model.now, counted, wrong });
    }

    fn attached(&mut self, frame: &serde_json::Value, model: &mut Model, trace: &mut Trace, limits: &Limits) {
        let number = self.line.number;
        let Some(Attach { session, asked, counted, wrong }) = self.attach.take() else {
            panic!("client {number}: the answer to an attach without an attach: {frame}");
        };
        self.attached = true;
        let token = frame["token"].as_str().expect("an attached frame has a token").to_owned();
        let resumes = |topic: usize| frame["attached"][topic_name(topic)]["resumed"].as_bool();
        let afresh = (0..TOPICS).any(|topic| resumes(topic) == Some(false));
        assert!(
            !afresh || token != session.token,
            "client {number}: a topic starts afresh under the old token, so old counts could pass for new counts: {frame}"
        );
        self.token = Some(token);
        for topic in 0..TOPICS {
            let answer = &frame["attached"][topic_name(topic)];
            let fresh = || Subscription::begin(topic, asked, model);
            let earlier = session.subscriptions[topic];
            self.wants[topic] = !answer.is_null();
            let resumed = resumes(topic);
            trace.note("attached", number, topic, resumed.map_or(0, |resumed| 1 + usize::from(resumed)));
            self.subscriptions[topic] = match resumed {
                None => None,
                Some(true) => {
                    assert!(
                        session.token != UNKNOWN_TOKEN && counted[topic] && !wrong[topic],
                        "client {number}: topic {topic} resumed without a right count: {frame}"
                    );
                    // The ACK was lost, and a count of 0 was right.
                    let earlier = earlier.unwrap_or_else(|| Subscription { asked: 0, ..fresh() });
                    let missed = answer["missed"].as_u64().expect("how many it missed") as usize;
                    let resumed = Resumed { missed, received: 0, asked, since: model.messages.len() };
                    Some(Subscription { resumed: Some(resumed), ..earlier })
                }
                Some(false) => {
                    let must = earlier
                        .is_some_and(|earlier| counted[topic] && must_resume(topic, &earlier, &session, model, limits));
                    // If a later connection has taken the session and a topic starts afresh there, the token is void.
                    // The later connection may not have read its answer yet, or may have gone without reading, so any
                    // later claim must excuse this answer. Seed 16 meets such an answer within 507 steps.
                    let taken = self.line.reason.taken;
                    assert!(
                        !must || wrong[topic] || taken || session.token == UNKNOWN_TOKEN,
                        "client {number}: topic {topic} should have resumed: {frame} {session:?}"
                    );
                    Some(fresh())
                }
            };
        }
    }

    fn write(&mut self, frame: &str) {
        self.line.outgoing.extend_from_slice(frame.as_bytes());
    }

    fn take_frames(&mut self, mut searched: usize, model: &mut Model, trace: &mut Trace, limits: &Limits) {
        let incoming = std::mem::take(&mut self.line.incoming);
        let mut start = 0;
        while let Some(end) = incoming[searched..].iter().position(|&byte| byte == 1) {
            let end = searched + end;
            self.take_frame(&incoming[start..end], model, trace, limits);
            start = end + 1;
            searched = start;
        }
        self.line.incoming = incoming;
        self.line.incoming.drain(..start);
    }

    fn take_frame(&mut self, frame: &[u8], model: &mut Model, trace: &mut Trace, limits: &Limits) {
        let number = self.line.number;
        if self.token.is_none() {
            let greeting: serde_json::Value = serde_json::from_slice(frame).expect("a greeting");
            self.token = Some(greeting["token"].as_str().expect("a greeting has a token").to_owned());
            return trace.note("greeting", number, 0, 0);
        }
        match frame {
            b"ACK" => return self.acknowledged(model, trace),
            b"PING" => {
                assert!(self.has_received, "client {number}: a PING came before the first message");
                return trace.note("ping", number, 0, 0);
            }
            _ => {}
        }
        let rest = frame.iter().position(|&byte| byte == b']').map_or(frame, |end| &frame[end..]);
        if rest.starts_with(b"],\"topic\":") {
            self.received(frame, model, trace);
        } else if rest.starts_with(b"],\"published\":") {
            let value: serde_json::Value = serde_json::from_slice(frame).expect("a receipt");
            self.receipt(&value["published"], model, trace);
        } else if rest.starts_with(b"],\"error\":") {
            let value: serde_json::Value = serde_json::from_slice(frame).expect("an error");
            self.error(&value["error"], model, trace, limits);
        } else if rest.starts_with(b"],\"attached\":") {
            let value: serde_json::Value = serde_json::from_slice(frame).expect("an answer");
            self.attached(&value, model, trace, limits);
        } else {
            panic!("client {number}: unknown frame: {}", String::from_utf8_lossy(frame));
        }
    }

    fn acknowledged(&mut self, model: &mut Model, trace: &mut Trace) {
        // Commands are carried out in order, but receipts may come later.
        let mut unanswered = Vec::new();
        let Some(place) = self.commands.iter().position(|command| matches!(command, Command::Subscribe(..))) else {
            panic!("client {}: an ACK without a subscribe", self.line.number);
        };
        let later = self.commands.split_off(place + 1);
        for command in std::mem::replace(&mut self.commands, later) {
            match command {
                Command::Subscribe(topic, asked) => self.subscribed(topic, asked, model, trace),
                Command::Unsubscribe(topic) => self.subscriptions[topic] = None,
                Command::Publish(_) | Command::ClassicPublish(_) => unanswered.push(command),
            }
        }
        unanswered.into_iter().rev().for_each(|command| self.commands.push_front(command));
    }

    fn subscribed(&mut self, topic: usize, asked: u64, model: &Model, trace: &mut Trace) {
        trace.note("ack", self.line.number, topic, 0);
        self.subscriptions[topic].get_or_insert_with(|| Subscription::begin(topic, asked, model));
    }

    fn received(&mut self, frame: &[u8], model: &mut Model, trace: &mut Trace) {
        let id = model.received(frame, Form::Classic, self.subscriptions.map(|subscription| subscription.is_some()));
        let topic = model.messages[id].topic;
        trace.note("message", self.line.number, topic, id);
        self.has_received = true;
        let Some(subscription) = &mut self.subscriptions[topic] else { return };
        match subscription.last {
            Some(last) => model.follows(last, id),
            None => {
                assert!(
                    !model.was_answered(id, subscription.asked),
                    "client {}: message {id} came, but was published before the subscribe",
                    self.line.number
                );
                subscription.first = Some(id);
            }
        }
        subscription.last = Some(id);
        subscription.received += 1;
        if let Some(resumed) = &mut subscription.resumed {
            resumed.received += 1;
            let is_missed = resumed.received <= resumed.missed;
            assert!(
                is_missed || !model.was_answered(id, resumed.asked),
                "client {}: message {id} had a number before the attach, and was not counted as missed: {resumed:?}",
                self.line.number
            );
            assert!(
                !is_missed || id < resumed.since,
                "client {}: message {id} was published after the attach, and counted as missed: {resumed:?}",
                self.line.number
            );
        }
    }

    fn receipt(&mut self, receipt: &serde_json::Value, model: &mut Model, trace: &mut Trace) {
        let place = self.commands.iter().position(|command| matches!(command, Command::Publish(_)));
        let Some(Command::Publish(id)) = place.and_then(|place| self.commands.remove(place)) else {
            panic!("client {}: a receipt without a publish: {receipt}", self.line.number);
        };
        let topic = model.messages[id].topic;
        assert_eq!(receipt["topic"], topic_name(topic), "the receipt of message {id}");
        let epoch: Epoch = receipt["epoch"].as_str().expect("an epoch").parse().expect("hexadecimal");
        let seq = receipt["seq"].as_u64().expect("a number");
        trace.note("receipt", self.line.number, id, seq as usize);
        model.receipt(id, epoch, seq);
        let (last_epoch, last_seq) = std::mem::replace(&mut self.last_receipt[topic], (epoch, seq));
        assert!(
            epoch == Epoch::NONE || epoch != last_epoch || seq > last_seq,
            "client {}: receipt {seq} came after {last_seq}: the client's messages were not taken in order",
            self.line.number
        );
    }

    fn error(&mut self, error: &serde_json::Value, model: &mut Model, trace: &mut Trace, limits: &Limits) {
        let (code, message) = (error["code"].as_str().unwrap_or(""), error["message"].as_str().unwrap_or(""));
        trace.note("error", self.line.number, code.len(), 0);
        if message.starts_with("messages were lost") {
            let resumes = self.attached || self.subscriptions.iter().flatten().any(|s| s.resumed.is_some());
            let excused = limits.last_cold.is_some() || resumes;
            assert!(excused, "client {}: messages were lost without a reason", self.line.number);
            self.line.reason.error = true;
            return;
        }
        match code {
            "frame_timeout" | "unfinished_frame" => {
                assert!(self.line.reason.unfinished, "client {}: {code}, but all frames are whole", self.line.number);
                self.line.reason.error = true;
                return;
            }
            "session_taken" => {
                assert!(self.line.reason.taken, "client {}: {code}, but without a later claim", self.line.number);
                self.line.reason.error = true;
                return;
            }
            // A topic that could not be joined again.
            "topic_unavailable" if self.attached => return,
            "topic_unavailable" | "topic_crashed" | "connection_closed" | "server_draining" => {}
            _ => panic!("client {}: unexpected: {error}", self.line.number),
        }
        // Commands are answered in order, but the answer to a publish may come later than the answers to later
        // commands.
        let place = self.commands.iter().position(|command| !matches!(command, Command::Unsubscribe(_)));
        match place.and_then(|place| self.commands.remove(place)) {
            Some(Command::Publish(id) | Command::ClassicPublish(id)) => {
                model.refused(id, &PublishError::Invalid(message.to_owned()));
            }
            Some(Command::Subscribe(topic, _)) => {
                assert!(code == "topic_unavailable", "client {}: subscribing got {error}", self.line.number);
                for earlier in self.commands.drain(..place.unwrap_or(0)) {
                    if let Command::Unsubscribe(topic) = earlier {
                        self.subscriptions[topic] = None;
                    }
                }
                if self.subscriptions[topic].is_none() {
                    self.wants[topic] =
                        self.commands.iter().any(|command| matches!(command, Command::Subscribe(t, _) if *t == topic));
                }
            }
            _ => panic!("client {}: an error without a command: {error}", self.line.number),
        }
    }

    /// Checks that the end of the connection has a reason.
    fn check_end(&mut self, read: Read, model: &mut Model) {
        let Reason { finished, crash, error, unfinished, drain, .. } = self.line.reason;
        let number = self.line.number;
        if crash {
            return;
        }
        if read == Read::Reset {
            let excused = drain || unfinished || error || self.was_slow;
            assert!(excused, "client {number}: reset without a reason: {self:?}");
            return;
        }
        assert!(finished || error || drain, "client {number}: closed without a reason: {self:?}");
        assert!(self.line.incoming.is_empty(), "client {number}: closed in the middle of a frame: {self:?}");
        if finished && !error && !drain && !unfinished {
            for command in std::mem::take(&mut self.commands) {
                match command {
                    // The close is the receipt.
                    Command::ClassicPublish(id) => {
                        if model.messages[id].outcome == Outcome::Unknown {
                            model.accepted(id);
                        }
                    }
                    Command::Unsubscribe(topic) => self.subscriptions[topic] = None,
                    _ => panic!("client {number}: closed without an answer to {command:?}"),
                }
            }
        }
    }

    /// Whether the server may take the client for a slow consumer.
    fn is_slow(&self, model: &Model, limits: &Limits) -> bool {
        if self.line.last_read.elapsed() >= limits.patience {
            return true;
        }
        // Answers and heartbeats make no client slow.
        let mut frames = 0;
        for (topic, subscription) in self.subscriptions.iter().enumerate() {
            let asked = self.commands.iter().any(|command| matches!(command, Command::Subscribe(t, _) if *t == topic));
            let known = match subscription {
                Some(subscription) => subscription.published_before + subscription.received,
                None if asked => 0,
                None => continue,
            };
            frames += model.by_topic[topic].len().saturating_sub(known);
        }
        frames > limits.frames || frames * MAX_ENTRY > limits.bytes
    }

    fn unsubscribes(&self, topic: usize) -> bool {
        self.commands.contains(&Command::Unsubscribe(topic))
    }

    /// Checks that no message published after the ACK has a number below the first received message.
    fn check_begin(&self, topic: usize, subscription: &Subscription, model: &Model) {
        let Some(first) = subscription.first else { return };
        let messages = &model.by_topic[topic];
        let begin = messages.partition_point(|id| *id < subscription.since);
        let Some(first_seq) = model.messages[first].seq else { return };
        for id in messages[begin..].iter().take_while(|id| **id < first + 200) {
            let missed = model.messages[*id].seq.is_some_and(|seq| seq < first_seq);
            assert!(!missed, "client {}: message {id}, published after the ACK, did not come", self.line.number);
        }
    }
}

impl Client for Classic {
    fn line(&self) -> &Line {
        &self.line
    }

    fn line_mut(&mut self) -> &mut Line {
        &mut self.line
    }

    fn is_at_leisure(&self) -> bool {
        self.attach.is_none() && !self.attached && self.line.is_open() && self.commands.len() < 12
    }

    fn wants(&self, topic: usize) -> bool {
        self.wants[topic]
    }

    fn subscribe(&mut self, topic: usize, model: &Model, _: &Chance) {
        // In the topic `conflate` the client would get only the latest message, and no gap.
        if topic == CONFLATED {
            return;
        }
        self.write(&format!("{{\"action\":\"subscribe\",\"data\":\"{}\"}}\0", topic_name(topic)));
        self.commands.push_back(Command::Subscribe(topic, model.now));
        self.wants[topic] = true;
    }

    fn unsubscribe(&mut self, topic: usize) {
        self.write(&format!("{{\"action\":\"unsubscribe\",\"data\":\"{}\"}}\0", topic_name(topic)));
        self.commands.push_back(Command::Unsubscribe(topic));
        self.wants[topic] = false;
    }

    /// Errors do not name their message, so all unanswered messages of a client go to one topic.
    fn publishes_to(&self, model: &Model) -> Option<usize> {
        self.commands.iter().find_map(|command| match command {
            Command::Publish(id) => Some(model.messages[*id].topic),
            _ => None,
        })
    }

    fn publish(&mut self, id: Id, model: &Model) {
        let message = &model.messages[id];
        let (topic, event) = (topic_name(message.topic), message.event());
        self.write(&format!(
            "{{\"action\":\"publish\",\"ack\":true,\"data\":{{\"topic\":\"{topic}\",\"event\":\"{event}\",\"message_id\":\"\",\"data\":{id}}}}}\0"
        ));
        self.commands.push_back(Command::Publish(id));
    }

    fn leave_unfinished(&mut self) {
        self.write("{\"action\":\"subscr");
        self.line.reason.unfinished = true;
    }

    fn finish(&mut self, _: &Chance) {
        self.line.reason.finished = true;
    }

    fn session(&self, instance: usize) -> Option<client::Session> {
        if self.line.reason.taken {
            return None;
        }
        if let Some(attach) = &self.attach {
            let session = Session { sure: false, none: [false; TOPICS], ..attach.session.clone() };
            return Some(client::Session::Classic(Box::new(session)));
        }
        let known = |topic: usize| self.subscriptions[topic].filter(|_| !self.unsubscribes(topic));
        let subscriptions = std::array::from_fn(|topic| {
            known(topic).map(|subscription| Subscription { resumed: None, ..subscription })
        });
        let none = std::array::from_fn(|topic| self.subscriptions[topic].is_none() && !self.unsubscribes(topic));
        let (token, detached) = (self.token.clone()?, self.line.detached());
        let session = Session { token, subscriptions, none, detached, sure: true, instance };
        Some(client::Session::Classic(Box::new(session)))
    }

    fn pump(&mut self, at_most: usize, model: &mut Model, trace: &mut Trace, limits: &Limits) -> bool {
        let moved = self.line.write_out();
        if !self.line.reads() {
            return moved;
        }
        // The queue is judged before the client catches up.
        self.was_slow |= self.attach.is_some() || self.is_slow(model, limits);
        let start = self.line.incoming.len();
        match self.line.read(at_most) {
            Read::Bytes => self.take_frames(start, model, trace, limits),
            Read::Nothing => return moved,
            end @ (Read::Fin | Read::Reset) => {
                self.line.end(end, trace);
                self.check_end(end, model);
            }
        }
        true
    }

    fn must_get(&self, topic: usize, id: Id) -> bool {
        let Some(subscription) = self.subscriptions[topic] else { return false };
        subscription.since <= id && self.wants[topic] && self.line.is_dependable() && !self.unsubscribes(topic)
    }

    fn was_told_of(&self, _: usize, _: Option<u64>) -> bool {
        false
    }

    fn check_settled(&mut self, probes: &[Option<Id>; TOPICS], model: &Model) {
        if !self.line.is_dependable() {
            return;
        }
        self.commands.retain(|command| match command {
            Command::Unsubscribe(topic) => {
                self.subscriptions[*topic] = None;
                false
            }
            _ => panic!("client {}: no answer to {command:?}", self.line.number),
        });
        self.was_slow = false;
        self.attached = false;
        assert!(self.attach.is_none(), "client {}: no answer to an attach", self.line.number);
        for (topic, probe) in probes.iter().enumerate() {
            let (Some(subscription), Some(probe)) = (&mut self.subscriptions[topic], *probe) else { continue };
            if let Some(resumed) = subscription.resumed.take() {
                assert!(resumed.received > resumed.missed, "the probe was counted as missed: {resumed:?}");
            }
            let subscription = *subscription;
            assert!(
                subscription.last == Some(probe),
                "the last message of {} is {probe} (number {:?}), which has not reached {self:?}",
                topic_name(topic),
                model.messages[probe].seq,
            );
            self.check_begin(topic, &subscription, model);
        }
    }

    fn check_drained(&self, model: &Model) {
        let Reason { finished, crash, unfinished, error, .. } = self.line.reason;
        if self.line.ended != Some(Read::Fin) || finished || crash || unfinished || error {
            return;
        }
        for (topic, subscription) in self.subscriptions.iter().enumerate() {
            let Some(subscription) = subscription.filter(|_| self.wants[topic] && !self.unsubscribes(topic)) else {
                continue;
            };
            // Missed messages are fetched from the ring, not queued. A drain does not wait for them.
            if subscription.resumed.is_some_and(|resumed| resumed.received < resumed.missed) {
                continue;
            }
            let messages = model.by_topic[topic].iter().map(|id| (*id, &model.messages[*id]));
            let mut missed = messages.filter(|(id, message)| {
                let seen = subscription.last.and_then(|last| model.messages[last].seq).unwrap_or(0);
                *id >= subscription.since
                    && message.outcome == Outcome::Accepted
                    && message.seq.is_some_and(|s| s > seen)
            });
            if let Some((id, message)) = missed.next_back() {
                panic!("client {}: drained without message {id}: {message:?}", self.line.number);
            }
        }
    }

    fn is_subscriber(&self, topic: usize) -> (bool, bool) {
        let told = self.subscriptions[topic].is_some();
        let sure = told && self.commands.is_empty() && self.line.is_dependable();
        (sure, sure || (told || self.wants[topic]) && self.line.ended.is_none())
    }
}

/// Whether the server has to keep the messages that the client missed.
fn must_resume(topic: usize, earlier: &Subscription, session: &Session, model: &Model, limits: &Limits) -> bool {
    let kept = match earlier.last.map(|last| &model.messages[last]) {
        Some(last) => last.seq.is_some_and(|seq| limits.must_keep(topic, seq, last.published, model)),
        None => model.by_topic[topic].len() <= earlier.published_before,
    };
    kept && session.sure && limits.must_know(session.instance, session.detached) && limits.was_warm(earlier.began)
}
