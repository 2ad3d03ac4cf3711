//! A client of `janus.v1.json`, or in every other world of `janus.v1.cbor`, over WebSocket. Numbers and gaps are visible to the client, and each is checked.

use std::collections::VecDeque;
use std::ops::RangeInclusive;
use std::time::Duration;

use tokio::time::Instant;

use super::client::{self, Client, Line, Reason, UNKNOWN_TOKEN};
use super::model::{BEARING, Form, Id, Model, OF_SESSIONS, Outcome, TOPICS, topic_name};
use super::{Chance, Limits, MAX_ENTRY, Trace};
use crate::delivery::memory::Read;
use crate::wire::v1::client::{self as v1, ServerFrame};
use crate::wire::websocket::client::{self as websocket, ServerDecoder};
use crate::wire::{ErrorCode, cbor};
use crate::{Epoch, Position, PublishError};

const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

#[derive(Debug)]
pub(super) struct Modern {
    line: Line,
    decoder: ServerDecoder,
    /// Commands without an answer, with their request ids.
    commands: VecDeque<(u64, Command)>,
    last_request: u64,
    subscriptions: [Option<Subscription>; TOPICS],
    /// The ranges of numbers reported as gaps.
    gaps: [Vec<RangeInclusive<u64>>; TOPICS],
    /// The places in topics that the client has left.
    left: [Option<Place>; TOPICS],
    token: Option<String>,
    /// Whether the connection resumes an earlier session.
    is_back: bool,
    /// The session named in the hello, until the answer.
    earlier: Option<Session>,
    /// At some time since all was settled, the queue may have been long enough for the server to drop messages.
    was_full: bool,
    /// At some time since all was settled, the queue may have been long enough for the server to cut the client off.
    was_slow: bool,
    /// The code of the server's `bye`.
    bye: Option<u16>,
    /// The client has sent a close frame.
    closes: bool,
    /// The client has got a close frame.
    is_closed: bool,
    last_receipt: [(Epoch, u64); TOPICS],
    is_binary: bool,
}

#[derive(Clone, Copy, Debug)]
enum Command {
    Subscribe(Asked),
    Unsubscribe(usize),
    Publish(Id),
    Ping,
}

/// A subscribe without an answer.
#[derive(Clone, Copy, Debug)]
struct Asked {
    topic: usize,
    since: Option<Place>,
    /// The named place is wrong on purpose.
    is_wrong: bool,
    /// The time of the subscribe, on the model's clock.
    at: u64,
    /// The epoch and the highest known number at the time of the subscribe.
    last: (Epoch, u64),
}

/// A place in a topic.
#[derive(Clone, Copy, Debug)]
struct Place {
    position: Position,
    last_id: Option<Id>,
    /// The beginning of the subscription.
    began: Instant,
    /// The time at which the client reached the place.
    at: Instant,
    /// Set if the client was subscribed at the end of the connection, and the server knows.
    kept: Option<Kept>,
}

/// The instance whose session keeps the topic.
#[derive(Clone, Copy, Debug)]
struct Kept {
    instance: usize,
    /// The earliest time at which the server may know of the connection's end.
    detached: Option<Instant>,
}

#[derive(Clone, Copy, Debug)]
struct Subscription {
    place: Place,
    /// The time of the subscribe. A message must not come if its publisher had an answer by then, unless the message
    /// was missed.
    asked: u64,
    /// The first message published after the client had read the answer: this message must come, or be in a gap.
    since: Id,
    /// The number of the last missed message, which the answer promised to replay.
    promised: u64,
    /// The position in the answer: the subscription began after this number.
    start: u64,
    /// The number of messages of the topic that are no longer on their way to the client.
    passed: usize,
    /// The replay may not be complete, and its messages may be trimmed.
    catches_up: bool,
}

/// The knowledge of a client whose connection has ended.
#[derive(Clone, Debug)]
pub(super) struct Session {
    token: String,
    places: [Option<Place>; TOPICS],
    /// Whether client and server agree about the session.
    sure: bool,
}

impl Modern {
    /// Opens a connection, perhaps to resume an earlier session.
    pub(super) fn new(line: Line, earlier: Option<Session>, model: &Model, chance: &Chance) -> Self {
        let mut client = Self {
            line,
            decoder: ServerDecoder::new(),
            commands: VecDeque::new(),
            last_request: 0,
            subscriptions: [None; TOPICS],
            gaps: Default::default(),
            left: [None; TOPICS],
            token: None,
            is_back: false,
            earlier: None,
            was_full: false,
            was_slow: false,
            bye: None,
            closes: false,
            is_closed: false,
            last_receipt: [(Epoch::NONE, 0); TOPICS],
            is_binary: model.is_binary,
        };
        let Some(mut session) = earlier else {
            client.write(&v1::hello(None, None));
            return client;
        };
        // If the session is not sure, an earlier claim may still be on its way.
        client.line.reason.taken = !session.sure;
        match chance.below(20) {
            // Positions are as good without the session.
            0..4 => client.write(&v1::hello(None, None)),
            4 => {
                session.token = UNKNOWN_TOKEN.to_owned();
                client.write(&v1::hello(Some(UNKNOWN_TOKEN), None));
                client.earlier = Some(session.clone());
            }
            _ => {
                client.write(&v1::hello(Some(&session.token), None));
                client.earlier = Some(session.clone());
            }
        }
        for (topic, place) in session.places.iter().enumerate() {
            let Some(place) = *place else { continue };
            client.ask(topic, Some(place), model, chance);
        }
        client
    }

    fn write(&mut self, text: &str) {
        self.line.outgoing.extend(self.message(text));
    }

    /// The message with a frame of the protocol, given in JSON.
    fn message(&self, text: &str) -> Vec<u8> {
        if self.is_binary { websocket::binary(&cbor::client::frame(text), MASK) } else { websocket::text(text, MASK) }
    }

    /// Notes a command, and returns its new request id.
    fn request(&mut self, command: Command) -> Option<u64> {
        self.last_request += 1;
        self.commands.push_back((self.last_request, command));
        Some(self.last_request)
    }

    fn ask(&mut self, topic: usize, since: Option<Place>, model: &Model, chance: &Chance) {
        let is_wrong = since.is_some() && chance.one_in(20);
        let position = since.map(|Place { position, .. }| match (is_wrong, chance.one_in(2)) {
            (false, _) => position,
            (true, false) => Position { epoch: Epoch::new(!position.epoch.number()), ..position },
            (true, true) => Position { seq: position.seq + 1_000_000, ..position },
        });
        let asked = Asked { topic, since, is_wrong, at: model.now, last: model.last(topic) };
        let id = self.request(Command::Subscribe(asked));
        self.write(&v1::subscribe(id, &topic_name(topic), position.map(Into::into)));
    }

    fn take_frames(&mut self, model: &mut Model, trace: &mut Trace, limits: &Limits) {
        let incoming = std::mem::take(&mut self.line.incoming);
        let mut input = &incoming[..];
        let mut decoder = std::mem::take(&mut self.decoder);
        while let Some(frame) = decoder.decode(&mut input) {
            let number = self.line.number;
            assert!(!self.is_closed, "client {number}: {frame:?} came after a close");
            match frame {
                websocket::ServerFrame::Text(text) if !self.is_binary => self.take_frame(text, model, trace, limits),
                websocket::ServerFrame::Binary(bytes) if self.is_binary => {
                    let text = cbor::client::json(bytes);
                    let text = text.unwrap_or_else(|error| panic!("client {number}: {error}: {bytes:02x?}"));
                    self.take_frame(&text, model, trace, limits);
                }
                websocket::ServerFrame::Ping(payload) => {
                    assert!(self.token.is_some(), "client {number}: a ping came before the welcome");
                    trace.note("ping", number, 0, 0);
                    if self.line.is_open() {
                        self.line.outgoing.extend(websocket::pong(payload, MASK));
                    }
                }
                websocket::ServerFrame::Close { code, .. } => {
                    trace.note("close", number, usize::from(code.unwrap_or(0)), 0);
                    let expected = self.bye.or_else(|| self.closes.then_some(1000));
                    assert!(code.is_some() && code == expected, "client {number}: closed with {code:?}: {self:?}");
                    self.is_closed = true;
                }
                other => panic!("client {number}: unknown frame: {other:?}"),
            }
        }
        self.decoder = decoder;
    }

    fn take_frame(&mut self, text: &str, model: &mut Model, trace: &mut Trace, limits: &Limits) {
        let number = self.line.number;
        let frame = ServerFrame::parse(text);
        assert!(self.bye.is_none(), "client {number}: {text} came after the bye");
        let is_served = self.token.is_some() || matches!(frame, ServerFrame::Welcome { .. } | ServerFrame::Bye { .. });
        assert!(is_served, "client {number}: {text} came before the welcome");
        match frame {
            ServerFrame::Welcome { session, resumed, .. } => {
                trace.note("welcome", number, usize::from(resumed), 0);
                self.welcomed(&session, resumed, limits);
            }
            ServerFrame::Message { topic: _, seq, time, .. } => self.received(text, seq, time, model, trace),
            ServerFrame::Gap { topic, epoch, from, to } => {
                trace.note("gap", number, from as usize, to as usize);
                self.skipped(&topic, epoch, from, to, limits);
            }
            ServerFrame::Subscribed { id, topic, position, missed } => {
                let Command::Subscribe(asked) = self.answered(id, text, model) else {
                    panic!("client {number}: not the answer to a subscribe: {text}")
                };
                assert_eq!(topic, topic_name(asked.topic), "client {number}");
                trace.note("subscribed", number, asked.topic, missed.map_or(0, |missed| 1 + missed as usize));
                self.subscribed(&asked, position, missed, model, limits);
            }
            ServerFrame::Unsubscribed { id, topic } => {
                let Command::Unsubscribe(asked) = self.answered(id, text, model) else {
                    panic!("client {number}: not the answer to an unsubscribe: {text}")
                };
                assert_eq!(topic, topic_name(asked), "client {number}");
                trace.note("unsubscribed", number, asked, 0);
                self.left[asked] = self.subscriptions[asked].take().map(|it| it.place);
            }
            ServerFrame::Published { id, topic, position, .. } => {
                let Command::Publish(id) = self.answered(id, text, model) else {
                    panic!("client {number}: not the answer to a publish: {text}")
                };
                self.receipt(id, &topic, position, model, trace);
            }
            ServerFrame::Error { id, topic: _, error, message, .. } => {
                trace.note("error", number, error.len(), 0);
                let command = self.answered(id, text, model);
                self.refused(command, &error, &message, model);
            }
            ServerFrame::Bye { code, error, .. } => {
                trace.note("bye", number, usize::from(code), 0);
                assert!(self.may_end(&error, limits), "client {number}: {text} without a reason: {self:?}");
                self.bye = Some(code);
                self.line.reason.error = true;
            }
            ServerFrame::Refreshed { .. } | ServerFrame::History { .. } => {
                panic!("client {number}: nothing of the kind was asked for: {text}")
            }
            ServerFrame::Pong => {
                let place = self.commands.iter().position(|(_, command)| !matches!(command, Command::Publish(_)));
                let asked = place.and_then(|place| self.commands.remove(place));
                assert!(matches!(asked, Some((_, Command::Ping))), "client {number}: a pong to {asked:?}");
            }
            ServerFrame::Unknown(text) => panic!("client {number}: unknown frame: {text}"),
        }
    }

    /// Whether the server has a reason to end the connection with this error.
    fn may_end(&self, error: &str, limits: &Limits) -> bool {
        let Reason { unfinished, taken, drain, silent, .. } = self.line.reason;
        match error {
            "frame_timeout" | "unfinished_frame" => unfinished,
            "session_taken" => taken,
            "ping_timeout" => silent,
            "server_draining" => drain,
            "topic_unavailable" => limits.crashed,
            _ => false,
        }
    }

    fn welcomed(&mut self, token: &str, resumed: bool, limits: &Limits) {
        let number = self.line.number;
        assert!(self.token.is_none(), "client {number}: welcomed twice");
        self.token = Some(token.to_owned());
        self.is_back = resumed;
        let Some(session) = self.earlier.take() else {
            return assert!(!resumed, "client {number}: resumed without naming a session");
        };
        assert_ne!(token, session.token, "client {number}: each welcome has a new token");
        if session.token == UNKNOWN_TOKEN {
            return assert!(!resumed, "client {number}: resumed a session that does not exist");
        }
        let kept = session.places.iter().flatten().find_map(|place| place.kept);
        let must = kept.is_some_and(|kept| limits.must_know(kept.instance, kept.detached)) && !self.line.reason.taken;
        let after = kept.and_then(|kept| kept.detached).map(|detached| detached.elapsed());
        assert!(resumed || !must, "client {number}: the server has forgotten {session:?} after {after:?}");
    }

    /// The command to which the answer `id` belongs. Commands are answered in order, but the answer to a publish may
    /// come later than the answers to later commands.
    fn answered(&mut self, id: Option<u64>, text: &str, model: &Model) -> Command {
        let number = self.line.number;
        let place = self.commands.iter().position(|(request, _)| Some(*request) == id);
        let Some((_, command)) = place.and_then(|place| self.commands.remove(place)) else {
            panic!("client {number}: an answer without a request: {text}")
        };
        let topic_of = |command: &Command| match command {
            Command::Publish(id) => Some(model.messages[*id].topic),
            _ => None,
        };
        let earlier = self.commands.iter().take(place.unwrap_or(0)).map(|(_, command)| topic_of(command));
        let skipped = match topic_of(&command) {
            Some(_) => 0,
            None => earlier.filter(Option::is_none).count(),
        };
        assert!(skipped == 0, "client {number}: {text} came before the answers to earlier requests");
        command
    }

    fn subscribed(&mut self, asked: &Asked, position: Position, missed: Option<u64>, model: &Model, limits: &Limits) {
        let Asked { topic, since, is_wrong, at, last } = *asked;
        let (number, taken) = (self.line.number, self.line.reason.taken);
        let now = Instant::now();
        let promised = position.seq + missed.unwrap_or(0);
        assert!(
            last.0 != position.epoch || last.1 <= promised,
            "client {number}: number {} of topic {topic}, given before the subscribe, is left out: {asked:?}, {position}, {missed:?}",
            last.1
        );
        let fresh = Place { position, last_id: None, began: now, at: now, kept: None };
        let place = match (missed, since) {
            (Some(_), Some(place)) => {
                assert!(
                    !is_wrong && position == place.position,
                    "client {number}: resumed after {position}, which is not the asked place: {asked:?}"
                );
                let has_session = self.is_back || topic != OF_SESSIONS;
                assert!(has_session, "client {number}: resumed without a session: {asked:?}");
                Place { kept: None, ..place }
            }
            (Some(_), None) => panic!("client {number}: resumed in topic {topic} without being asked"),
            (None, since) => {
                let must = since
                    .filter(|_| !is_wrong && !taken && (self.is_back || topic != OF_SESSIONS))
                    .is_some_and(|place| must_resume(topic, &place, model, limits));
                assert!(!must, "client {number}: should have resumed: {asked:?}, not {position}");
                fresh
            }
        };
        assert!(self.subscriptions[topic].is_none(), "client {number}: subscribed to topic {topic} twice");
        self.subscriptions[topic] = Some(Subscription {
            place,
            asked: at,
            since: model.messages.len(),
            promised,
            start: position.seq,
            passed: 0,
            catches_up: missed.is_some(),
        });
    }

    fn received(&mut self, text: &str, seq: u64, time: Duration, model: &mut Model, trace: &mut Trace) {
        let number = self.line.number;
        let id = model.received(text.as_bytes(), Form::Modern, self.subscriptions.map(|it| it.is_some()));
        let topic = model.messages[id].topic;
        trace.note("message", number, topic, id);
        let Some(subscription) = &mut self.subscriptions[topic] else { return };
        let Place { position, last_id, .. } = subscription.place;
        assert!(
            seq == position.seq + 1,
            "client {number}: message {id} of topic {topic} has number {seq}, after {position}: {subscription:?}"
        );
        model.received_with_number(id, position.epoch, seq, time);
        if let Some(last) = last_id {
            model.follows(last, id);
        }
        let is_missed = seq <= subscription.promised;
        assert!(
            is_missed || !model.was_answered(id, subscription.asked),
            "client {number}: message {id} had a number before the subscribe, and was not counted as missed: {subscription:?}"
        );
        assert!(
            !is_missed || id < subscription.since,
            "client {number}: message {id} was published after the subscribe, and counted as missed: {subscription:?}"
        );
        let position = Position { seq, ..position };
        subscription.place = Place { position, last_id: Some(id), at: Instant::now(), ..subscription.place };
    }

    fn skipped(&mut self, topic: &str, epoch: Epoch, from: u64, to: u64, limits: &Limits) {
        let number = self.line.number;
        let topic = (0..TOPICS).find(|known| topic_name(*known) == topic).expect("a topic that exists");
        let was_full = self.was_full;
        let Some(subscription) = &mut self.subscriptions[topic] else {
            panic!("client {number}: a gap in topic {topic} without a subscription")
        };
        let Position { epoch: before, seq } = subscription.place.position;
        assert!(from == seq + 1 && from <= to, "client {number}: a gap from {from} to {to}: {subscription:?}");
        let dropped = topic >= BEARING && was_full;
        assert!(
            dropped || limits.last_cold.is_some() || subscription.catches_up,
            "client {number}: a gap from {from} to {to} in topic {topic} without a reason: {subscription:?}"
        );
        let excused = epoch == before || limits.last_cold.is_some();
        assert!(excused, "client {number}: topic {topic} has a new epoch without a reason");
        self.gaps[topic].push(from..=to);
        let position = Position { epoch, seq: to };
        subscription.place = Place { position, last_id: None, at: Instant::now(), ..subscription.place };
    }

    fn receipt(&mut self, id: Id, topic: &str, position: Position, model: &mut Model, trace: &mut Trace) {
        let published = model.messages[id].topic;
        assert_eq!(topic, topic_name(published), "the receipt of message {id}");
        let Position { epoch, seq } = position;
        trace.note("receipt", self.line.number, id, seq as usize);
        model.receipt(id, epoch, seq);
        let (last_epoch, last_seq) = std::mem::replace(&mut self.last_receipt[published], (epoch, seq));
        assert!(
            epoch == Epoch::NONE || epoch != last_epoch || seq > last_seq,
            "client {}: receipt {seq} came after {last_seq}: the client's messages were not taken in order",
            self.line.number
        );
    }

    fn refused(&mut self, command: Command, error: &str, message: &str, model: &mut Model) {
        let number = self.line.number;
        match (command, error) {
            (Command::Publish(id), "topic_unavailable" | "topic_crashed" | "connection_closed" | "server_draining") => {
                model.refused(id, &PublishError::Invalid(message.to_owned()));
            }
            (Command::Subscribe(Asked { topic, since, .. }), "topic_unavailable") => {
                let subscribed = self.subscriptions[topic].is_some();
                assert!(!subscribed, "client {number}: {error}, but topic {topic} is subscribed");
                self.left[topic] = since.map(|place| Place { kept: None, ..place });
            }
            (Command::Subscribe(Asked { topic, .. }), "already_subscribed") => {
                let subscribed = self.subscriptions[topic].is_some();
                assert!(subscribed, "client {number}: {error}, but topic {topic} is not subscribed");
            }
            _ => panic!("client {number}: unexpected: {error}: {message}, to {command:?}"),
        }
    }

    /// Checks that the end of the connection has a reason.
    fn check_end(&mut self, read: Read) {
        let Reason { finished, crash, error, unfinished, drain, .. } = self.line.reason;
        let number = self.line.number;
        if crash {
            return;
        }
        if read == Read::Reset {
            let excused = drain || unfinished || error || self.was_slow;
            return assert!(excused, "client {number}: reset without a reason: {self:?}");
        }
        assert!(finished || error || drain, "client {number}: closed without a reason: {self:?}");
        assert!(self.decoder.buffered() == 0, "client {number}: closed in the middle of a frame: {self:?}");
        assert!(self.bye.is_none() || self.is_closed, "client {number}: no close frame after the bye: {self:?}");
        if finished && !error && !drain && !unfinished {
            assert!(self.commands.is_empty(), "client {number}: closed without an answer: {self:?}");
            assert!(self.is_closed == self.closes, "client {number}: no answer to a close frame: {self:?}");
        }
    }

    /// Notes whether messages may be dropped, and whether the server may take the client for a slow consumer.
    fn look_at_queue(&mut self, model: &Model, limits: &Limits) {
        if self.was_full && self.was_slow {
            return;
        }
        let silence = self.line.last_read.elapsed();
        // Answers and heartbeats make no client slow.
        let mut frames = 0;
        let mut patient = true;
        for topic in 0..TOPICS {
            let asked = self.commands.iter().find_map(|(_, command)| match command {
                Command::Subscribe(asked) if asked.topic == topic => Some(*asked),
                _ => None,
            });
            let messages = &model.by_topic[topic];
            frames += match (&mut self.subscriptions[topic], asked) {
                (Some(subscription), _) => subscription.pending(messages, model, limits.frames),
                // The client may have missed any number of messages.
                (None, Some(Asked { since: Some(_), .. })) => limits.frames + 1,
                (None, Some(Asked { at, .. })) => {
                    messages.iter().rev().take(2 * limits.frames).filter(|id| !model.was_answered(**id, at)).count()
                }
                (None, None) => continue,
            };
            patient &= topic >= BEARING;
        }
        let too_many = |frames: usize| frames > limits.frames || frames * MAX_ENTRY > limits.bytes;
        let stalls = silence >= limits.patience;
        self.was_full |= too_many(frames);
        self.was_slow |= stalls || !patient && too_many(frames);
    }

    fn unsubscribes(&self, topic: usize) -> bool {
        self.commands.iter().any(|(_, command)| matches!(command, Command::Unsubscribe(it) if *it == topic))
    }
}

impl Client for Modern {
    fn line(&self) -> &Line {
        &self.line
    }

    fn line_mut(&mut self) -> &mut Line {
        &mut self.line
    }

    fn is_at_leisure(&self) -> bool {
        self.line.is_open() && self.bye.is_none() && self.commands.len() < 12
    }

    fn wants(&self, topic: usize) -> bool {
        let last = self.commands.iter().rev().find_map(|(_, command)| match command {
            Command::Subscribe(asked) if asked.topic == topic => Some(true),
            Command::Unsubscribe(left) if *left == topic => Some(false),
            _ => None,
        });
        last.unwrap_or_else(|| self.subscriptions[topic].is_some())
    }

    fn subscribe(&mut self, topic: usize, model: &Model, chance: &Chance) {
        let since = self.left[topic].take().filter(|_| chance.one_in(2));
        self.ask(topic, since, model, chance);
        if chance.one_in(8) {
            self.request(Command::Ping);
            self.write(v1::PING);
        }
    }

    fn unsubscribe(&mut self, topic: usize) {
        let id = self.request(Command::Unsubscribe(topic));
        self.write(&v1::unsubscribe(id, &topic_name(topic)));
    }

    fn publishes_to(&self, _: &Model) -> Option<usize> {
        None
    }

    fn publish(&mut self, id: Id, model: &Model) {
        let message = &model.messages[id];
        let event = format!("\"{}\"", message.event());
        let request = self.request(Command::Publish(id));
        self.write(&v1::publish(request, &topic_name(message.topic), &event, "\"\"", &id.to_string()));
    }

    fn leave_unfinished(&mut self) {
        let frame = self.message(v1::PING);
        self.line.outgoing.extend(&frame[..frame.len() - 1]);
        self.line.reason.unfinished = true;
    }

    fn finish(&mut self, chance: &Chance) {
        self.line.reason.finished = true;
        if chance.one_in(2) {
            self.closes = true;
            self.line.outgoing.extend(websocket::close(1000, MASK));
        }
    }

    fn session(&self, instance: usize) -> Option<client::Session> {
        if self.line.reason.taken {
            return None;
        }
        let (token, sure) = match (&self.token, &self.earlier) {
            (Some(token), _) => (token, true),
            (None, Some(earlier)) => (&earlier.token, false),
            (None, None) => return None,
        };
        let places = std::array::from_fn(|topic| {
            if self.unsubscribes(topic) {
                return None;
            }
            let asked = self.commands.iter().find_map(|(_, command)| match command {
                Command::Subscribe(asked) if asked.topic == topic => asked.since,
                _ => None,
            });
            let kept = sure.then_some(Kept { instance, detached: self.line.detached() });
            let subscription = self.subscriptions[topic].map(|it| Place { kept, ..it.place });
            subscription.or_else(|| asked.map(|place| Place { kept: None, ..place }))
        });
        Some(client::Session::Modern(Box::new(Session { token: token.clone(), places, sure })))
    }

    fn pump(&mut self, at_most: usize, model: &mut Model, trace: &mut Trace, limits: &Limits) -> bool {
        let moved = self.line.write_out();
        if !self.line.reads() {
            return moved;
        }
        // The queue is judged before the client catches up.
        self.look_at_queue(model, limits);
        match self.line.read(at_most) {
            Read::Bytes => self.take_frames(model, trace, limits),
            Read::Nothing => return moved,
            end @ (Read::Fin | Read::Reset) => {
                self.line.end(end, trace);
                self.check_end(end);
            }
        }
        true
    }

    fn must_get(&self, topic: usize, id: Id) -> bool {
        let Some(subscription) = self.subscriptions[topic] else { return false };
        subscription.since <= id && self.line.is_dependable() && !self.unsubscribes(topic)
    }

    fn was_told_of(&self, topic: usize, seq: Option<u64>) -> bool {
        self.gaps[topic].iter().any(|gap| seq.is_none_or(|seq| gap.contains(&seq)))
    }

    fn check_settled(&mut self, probes: &[Option<Id>; TOPICS], model: &Model) {
        if !self.line.is_dependable() {
            return;
        }
        let number = self.line.number;
        assert!(self.commands.is_empty(), "client {number}: no answer to {:?}", self.commands);
        assert!(self.token.is_some(), "client {number}: no welcome");
        for (topic, probe) in probes.iter().enumerate() {
            let (Some(subscription), Some(probe)) = (&mut self.subscriptions[topic], *probe) else { continue };
            (subscription.catches_up, subscription.passed) = (false, model.by_topic[topic].len());
            let position = subscription.place.position;
            // The last message may be part of a gap, whose reason was checked.
            assert!(
                model.messages[probe].seq == Some(position.seq),
                "the last message of {} is {probe} (number {:?}), which has not reached {self:?}",
                topic_name(topic),
                model.messages[probe].seq,
            );
            assert!(
                position.seq > subscription.promised,
                "client {number}: the probe was counted as missed: {subscription:?}"
            );
            // No message published after the answer may be numbered before the beginning of the subscription.
            let messages = &model.by_topic[topic];
            let begin = messages.partition_point(|id| *id < subscription.since);
            for id in messages[begin..].iter().take(200) {
                let seq = model.messages[*id].seq;
                assert!(
                    seq.is_none_or(|seq| seq > subscription.start),
                    "client {number}: message {id}, published after the answer, has a number before the subscription"
                );
            }
        }
        (self.was_full, self.was_slow) = (false, false);
    }

    fn check_drained(&self, model: &Model) {
        let Reason { finished, crash, unfinished, .. } = self.line.reason;
        let is_drained = self.bye == Some(ErrorCode::ServerDraining.number());
        if self.line.ended != Some(Read::Fin) || !is_drained || finished || crash || unfinished {
            return;
        }
        for (topic, subscription) in self.subscriptions.iter().enumerate() {
            let Some(Subscription { place, since, promised, .. }) = subscription.filter(|_| self.wants(topic)) else {
                continue;
            };
            // Missed messages are fetched from the ring, not queued. A drain does not wait for them.
            if place.position.seq < promised || self.unsubscribes(topic) {
                continue;
            }
            let messages = model.by_topic[topic].iter().map(|id| (*id, &model.messages[*id]));
            let mut missed = messages.filter(|(id, message)| {
                *id >= since
                    && message.outcome == Outcome::Accepted
                    && message.seq.is_some_and(|seq| seq > place.position.seq)
            });
            if let Some((id, message)) = missed.next_back() {
                panic!("client {}: drained without message {id}: {message:?}", self.line.number);
            }
        }
    }

    fn is_subscriber(&self, topic: usize) -> (bool, bool) {
        let told = self.subscriptions[topic].is_some();
        let sure = told && self.commands.is_empty() && self.line.is_dependable();
        (sure, sure || (told || self.wants(topic)) && self.line.ended.is_none())
    }
}

impl Subscription {
    /// The number of messages of the topic that may be on their way. The count stops just above `enough`.
    fn pending(&mut self, messages: &[Id], model: &Model, enough: usize) -> usize {
        let last = self.place.position.seq;
        let is_pending = |id: &Id| {
            let message = &model.messages[*id];
            let came_before = !self.catches_up && model.was_answered(*id, self.asked);
            message.can_be_received() && !came_before && message.seq.is_none_or(|seq| seq > last)
        };
        self.passed += messages[self.passed..].iter().take_while(|id| !is_pending(id)).count();
        messages[self.passed..].iter().filter(|id| is_pending(id)).take(enough + 1).count()
    }
}

/// Whether the server has to keep the messages after `place`.
fn must_resume(topic: usize, place: &Place, model: &Model, limits: &Limits) -> bool {
    place.kept.is_some_and(|kept| limits.must_know(kept.instance, kept.detached))
        && limits.was_warm(place.began)
        && limits.must_keep(topic, place.position.seq, place.at, model)
}
