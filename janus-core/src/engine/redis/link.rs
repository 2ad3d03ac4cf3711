//! The link of an instance to a server.
//!
//! Two connections: the first for everything in order (submissions, opened topics, records, control messages), the
//! second for reading the logs of topics. A megabyte of history must not stand before the live messages. And the server
//! ends a connection with subscriptions whose output is over a limit: a node that has been cut off at this limit has
//! missed at least as much, and would be cut off again by every answer with the missed records.

use std::collections::{HashMap, VecDeque};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;

use super::super::{
    Answer, AppendError, Keep, LAST_NUMBER, Link, LinkError, NodePresence, Outcome, Payload, Record, Request, What,
};
use super::commands::{Append, Commands, Script, control_of};
use super::opened::Opened;
use super::record::{decimal, record_of};
use super::refusal::{Refusal, refusal_of};
use super::resp::{Value, put_part};
use super::socket::{Heard, Socket};
use crate::wire::{Epoch, Position, TopicName};

/// A command without a reply.
#[derive(Debug)]
pub(super) enum Note {
    /// Of the preparation of a connection.
    Check,
    Append(Appending),
    Open(Opening),
    Missed(Missed),
    Read {
        topic: TopicName,
        ask: u64,
    },
    Report {
        topic: TopicName,
        subscribers: u64,
        valid: Duration,
    },
    Presence(Presenting),
    Nodes {
        ask: u64,
    },
    Beat,
    Control,
    Load,
}

/// A submission under way, complete, for a server without the script.
#[derive(Debug)]
pub(super) struct Appending {
    topic: TopicName,
    keep: Keep,
    create: bool,
    submission: u64,
    count: u64,
    payload: Payload,
    key: Option<(String, Duration)>,
}

/// A request about the members of a topic.
#[derive(Debug)]
pub(super) struct Presenting {
    topic: TopicName,
    ask: u64,
    members: Option<Bytes>,
    known: u64,
    valid: Duration,
    most: usize,
}

#[derive(Debug)]
pub(super) struct Opening {
    topic: TopicName,
    ask: u64,
    keep: Keep,
    known: Option<Position>,
    from: Option<u64>,
}

/// The records between what a node knows and the position at which its topic was opened.
#[derive(Debug)]
pub(super) struct Missed {
    topic: TopicName,
    ask: u64,
    from: u64,
    position: Position,
}

/// An opened topic whose missed records are still read.
#[derive(Debug)]
struct Behind {
    ask: u64,
    /// The records that have come since.
    later: Vec<Record>,
    /// Whether there were too many, and the topic must be opened again.
    is_cut: bool,
}

/// The bytes of records that may wait behind missed records, of all topics of the link.
const LATER_BYTES: usize = 8 * 1024 * 1024;

/// Messages of the server without an answer to be handed on, before other tasks get their turn.
const HEARD: usize = 64;

/// Logs that are read at the same time for topics that have been opened. The server holds the replies in memory.
const READS: usize = 16;

#[derive(Debug)]
pub(super) struct RedisLink {
    commands: Commands,
    /// The most bytes of both backlogs together; the link ends beyond.
    max_backlog: usize,
    main: Socket<Note>,
    reads: Socket<Note>,
    opened: Opened,
    /// The opened topics whose missed records are still read.
    behind: HashMap<TopicName, Behind>,
    /// The bytes of all records that wait behind missed records.
    later_bytes: usize,
    /// What waits to be read, and how many logs are read.
    unread: VecDeque<Missed>,
    reading: usize,
    /// Which of the two connections is looked at first: neither must stand before the other.
    reads_first: bool,
    answers: VecDeque<Answer>,
    failed: Option<LinkError>,
}

impl RedisLink {
    /// A link over two connections that are ready.
    pub(super) fn new(commands: Commands, max_backlog: usize, main: Socket<Note>, reads: Socket<Note>) -> Self {
        Self {
            commands,
            max_backlog,
            main,
            reads,
            opened: Opened::default(),
            behind: HashMap::new(),
            later_bytes: 0,
            reads_first: false,
            unread: VecDeque::new(),
            reading: 0,
            answers: VecDeque::new(),
            failed: None,
        }
    }

    fn append(&mut self, appending: Appending) {
        let Appending { topic, keep, create, submission, count, payload, key } = &appending;
        let (keep, create, submission, count) = (*keep, *create, *submission, *count);
        const BEYOND: u64 = LAST_NUMBER + 1;
        let refusal = match (submission, count) {
            (_, 0) => Some("a submission needs a message".to_owned()),
            (0, _) => Some("submissions are numbered from 1".to_owned()),
            (BEYOND.., _) => Some(format!("submission {submission} is beyond {LAST_NUMBER}")),
            _ => None,
        };
        if let Some(error) = refusal.map(AppendError) {
            self.answers.push_back(appended(appending.topic, submission, Err(error)));
            return;
        }
        let key = key.as_ref().map(|(key, life)| (&**key, *life));
        let out = self.main.command(Commands::append_parts(key.is_some()));
        self.commands.put_append(out, topic.as_str(), &Append { keep, create, submission, count, payload, key });
        self.main.expect(Note::Append(appending));
    }

    fn open(&mut self, opening: Opening) {
        let Opening { topic, keep, known, .. } = &opening;
        if self.opened.insert(topic, keep.state) {
            self.commands.keys.of(topic.as_str()).put_channel(self.main.subscription(self.commands.channels.subscribe));
        }
        self.commands.put_open(self.main.command(Commands::OPEN_PARTS), topic.as_str(), *keep, *known);
        self.main.expect(Note::Open(opening));
    }

    /// The topic is open at this position. The answer waits for the records that the node has missed.
    fn located(&mut self, opening: Opening, position: Position) -> Option<Answer> {
        let Opening { topic, ask, from, .. } = opening;
        // Whatever has come since an earlier request is of the time before.
        self.take_behind(&topic);
        let Some(from) = from.filter(|from| *from <= position.seq) else {
            return Some(Answer::Opened { topic, ask, position, records: Vec::new() });
        };
        if self.opened.get(topic.as_str()).is_some() {
            self.behind.insert(topic.clone(), Behind { ask, later: Vec::new(), is_cut: false });
        }
        self.unread.push_back(Missed { topic, ask, from, position });
        self.read_missed();
        None
    }

    fn read_missed(&mut self) {
        while self.reading < READS
            && let Some(missed) = self.unread.pop_front()
        {
            self.reading += 1;
            let (out, through) = (self.reads.command(Commands::READ_PARTS), Some(missed.position.seq));
            self.commands.put_read(out, missed.topic.as_str(), missed.from, through);
            self.reads.expect(Note::Missed(missed));
        }
    }

    /// The missed records have come, and go before the records that have come since.
    fn caught_up(&mut self, Missed { topic, ask, position, .. }: Missed, mut records: Vec<Record>) {
        // A topic that was evicted in between may have another log by now.
        if records.last().is_some_and(|record| record.last() != position) {
            records.clear();
        }
        let behind = if self.waits_for(&topic, ask) { self.take_behind(&topic) } else { None };
        self.answers.push_back(Answer::Opened { topic: topic.clone(), ask, position, records });
        let Some(Behind { later, is_cut, .. }) = behind else { return };
        self.answers.extend(later.into_iter().map(|record| Answer::Record { topic: topic.clone(), record }));
        if is_cut {
            let message = format!("more than {LATER_BYTES} bytes of messages have come while logs were read");
            self.fail(topic, None, message);
        }
    }

    /// Whether the missed records of this request are still wanted.
    fn waits_for(&self, topic: &TopicName, ask: u64) -> bool {
        self.behind.get(topic).is_some_and(|behind| behind.ask == ask)
    }

    fn take_behind(&mut self, topic: &TopicName) -> Option<Behind> {
        let behind = self.behind.remove(topic)?;
        self.later_bytes -= behind.later.iter().map(bytes_of).sum::<usize>();
        Some(behind)
    }

    fn close(&mut self, topic: &TopicName) {
        self.take_behind(topic);
        if self.opened.remove(topic) {
            self.commands
                .keys
                .of(topic.as_str())
                .put_channel(self.main.subscription(self.commands.channels.unsubscribe));
        }
    }

    fn report(&mut self, topic: TopicName, subscribers: u64, valid: Duration) {
        let out = self.main.command(Commands::REPORT_PARTS);
        let state = self.opened.get(topic.as_str()).map(|(_, state)| state);
        self.commands.put_report(out, topic.as_str(), subscribers, valid, state);
        self.main.expect(Note::Report { topic, subscribers, valid });
    }

    fn presence(&mut self, presenting: Presenting) {
        let Presenting { topic, members, known, valid, most, .. } = &presenting;
        let out = self.main.command(Commands::PRESENCE_PARTS);
        self.commands.put_presence(out, topic.as_str(), (members.as_deref(), *valid), (*known, *most));
        self.main.expect(Note::Presence(presenting));
    }

    fn nodes(&mut self, ask: u64) {
        self.commands.put_nodes(self.main.command(Commands::NODES_PARTS));
        self.main.expect(Note::Nodes { ask });
    }

    fn heard(&mut self, heard: Heard<Note>) -> Result<(), LinkError> {
        match heard {
            Heard::Message { channel, message } => {
                self.message(&channel, message);
                Ok(())
            }
            Heard::Reply(note, Value::Error(text)) => match refusal_of(&text) {
                Refusal::Ends(error) => Err(error),
                Refusal::NoScript => self.again(note),
                Refusal::Refused(message) => {
                    self.refused(note, message);
                    Ok(())
                }
            },
            Heard::Reply(note, reply) => {
                let answer = self.answer(note, reply).ok_or_else(|| {
                    LinkError::new(
                        "protocol",
                        "a script has answered what it never answers; is the engine another one?",
                    )
                })?;
                self.answers.extend(answer);
                Ok(())
            }
        }
    }

    fn message(&mut self, channel: &[u8], mut message: Bytes) {
        let topic = self.commands.keys.topic_of(channel);
        if let Some((topic, _)) = topic.and_then(|topic| self.opened.get(topic)) {
            let topic = topic.clone();
            match record_of(message) {
                Ok(record) => match self.behind.get_mut(&topic) {
                    Some(behind) if !behind.is_cut && self.later_bytes + bytes_of(&record) <= LATER_BYTES => {
                        self.later_bytes += bytes_of(&record);
                        behind.later.push(record);
                    }
                    Some(behind) => behind.is_cut = true,
                    None => self.answers.push_back(Answer::Record { topic, record }),
                },
                Err(error) => self.fail(topic, None, error.to_string()),
            }
        } else if topic.is_none()
            && let Some((from, start)) = control_of(&message)
            && from != self.commands.node
        {
            self.answers.push_back(Answer::Control { from, message: message.split_off(start) });
        }
    }

    /// The topic is not open, or no longer.
    fn fail(&mut self, topic: TopicName, ask: Option<u64>, message: String) {
        self.close(&topic);
        self.answers.push_back(Answer::Failed { topic, ask, message });
    }

    fn refused(&mut self, note: Note, message: String) {
        match note {
            Note::Append(Appending { topic, submission, .. }) => {
                self.answers.push_back(appended(topic, submission, Err(AppendError(message))));
            }
            Note::Open(Opening { topic, ask, .. }) => self.fail(topic, Some(ask), message),
            Note::Missed(Missed { topic, ask, .. }) => {
                self.reading -= 1;
                self.read_missed();
                if self.waits_for(&topic, ask) {
                    self.fail(topic, Some(ask), message);
                }
            }
            Note::Read { topic, ask } => self.answers.push_back(Answer::Failed { topic, ask: Some(ask), message }),
            // The instance repeats each of these requests before long.
            Note::Report { .. }
            | Note::Presence(_)
            | Note::Beat
            | Note::Nodes { .. }
            | Note::Control
            | Note::Load
            | Note::Check => {
                log::debug!("the engine refused {note:?}: {message}");
            }
        }
    }

    /// The server has forgotten the scripts (`SCRIPT FLUSH`), and gets the script and the request once more.
    fn again(&mut self, note: Note) -> Result<(), LinkError> {
        match note {
            Note::Append(appending) => {
                // After a later submission was carried out, the server would take this submission for known.
                let overtaken = self
                    .main
                    .under_way()
                    .any(|note| matches!(note, Note::Append(later) if later.topic == appending.topic));
                if overtaken {
                    let message = "the server has forgotten its scripts while submissions were under way";
                    return Err(LinkError::new("scripts", message));
                }
                self.load(Script::Append);
                self.append(appending);
            }
            Note::Open(opening) => {
                self.load(Script::Open);
                self.open(opening);
            }
            Note::Report { topic, subscribers, valid } => {
                self.load(Script::Report);
                self.report(topic, subscribers, valid);
            }
            Note::Presence(presenting) => {
                self.load(Script::Presence);
                self.presence(presenting);
            }
            Note::Nodes { ask } => {
                self.load(Script::Nodes);
                self.nodes(ask);
            }
            Note::Beat => self.load(Script::Nodes),
            // None of these is a script.
            Note::Missed(_) | Note::Read { .. } | Note::Control | Note::Load | Note::Check => {}
        }
        Ok(())
    }

    fn load(&mut self, script: Script) {
        let out = self.main.command(3);
        [b"SCRIPT", &b"LOAD"[..], script.text().as_bytes()].into_iter().for_each(|part| put_part(out, part));
        self.main.expect(Note::Load);
    }

    /// The answer for the instance, if there is any; `None` if the reply makes no sense.
    fn answer(&mut self, note: Note, reply: Value) -> Option<Option<Answer>> {
        let answer = match (note, reply) {
            (Note::Append(Appending { topic, submission, .. }), Value::Text(text)) => {
                appended(topic, submission, Ok(outcome_of(str::from_utf8(&text).ok()?)?))
            }
            (Note::Open(opening), Value::Array(parts)) => {
                let mut parts = parts.into_iter();
                let epoch = str::from_utf8(parts.next()?.as_text()?).ok()?.parse().ok()?;
                let seq = decimal(str::from_utf8(parts.next()?.as_text()?).ok()?)?;
                return Some(self.located(opening, Position { epoch, seq }));
            }
            (Note::Missed(missed), Value::Array(entries)) => {
                self.reading -= 1;
                self.read_missed();
                match records_of(entries.into_iter().map(entry_of)) {
                    Ok(records) => self.caught_up(missed, records),
                    Err(message) => self.fail(missed.topic, Some(missed.ask), message),
                }
                return Some(None);
            }
            (Note::Read { topic, ask }, Value::Array(entries)) => match records_of(entries.into_iter().map(entry_of)) {
                Ok(records) => Answer::Records { topic, ask, records },
                Err(message) => Answer::Failed { topic, ask: Some(ask), message },
            },
            (Note::Report { topic, .. }, Value::Text(text)) => {
                let mut words = str::from_utf8(&text).ok()?.split(' ');
                let (epoch, seq, subscribers) = (words.next()?, decimal(words.next()?)?, decimal(words.next()?)?);
                let position = epoch.parse().ok().map(|epoch| Position { epoch, seq });
                Answer::Reported { topic, position, subscribers }
            }
            (Note::Presence(Presenting { topic, ask, .. }), Value::Array(parts)) => presence_of(topic, ask, parts)?,
            (Note::Nodes { ask }, Value::Array(parts)) => {
                let mut texts = parts.iter().map(|part| part.as_text().map(|text| String::from_utf8_lossy(text)));
                let mut nodes = Vec::new();
                while let Some(node) = texts.next() {
                    nodes.push((node?.parse().ok()?, texts.next()??.into_owned()));
                }
                nodes.sort_unstable();
                Answer::Nodes { ask, nodes }
            }
            (Note::Beat | Note::Control, Value::Integer(_)) | (Note::Load | Note::Check, _) => return Some(None),
            _ => return None,
        };
        Some(Some(answer))
    }
}

impl Link for RedisLink {
    fn request(&mut self, request: Request<'_>) {
        match request {
            Request::Open { topic, ask, keep, known, from } => {
                self.open(Opening { topic: topic.clone(), ask, keep, known, from });
            }
            Request::Read { topic, ask, from } => {
                self.commands.put_read(self.reads.command(Commands::READ_PARTS), topic.as_str(), from, None);
                self.reads.expect(Note::Read { topic: topic.clone(), ask });
            }
            Request::Close { topic } => self.close(topic),
            Request::Append { topic, keep, create, submission, count, payload, key } => {
                let key = key.map(|(key, life)| (key.to_owned(), life));
                let (topic, payload) = (topic.clone(), payload.clone());
                self.append(Appending { topic, keep, create, submission, count, payload, key });
            }
            Request::Report { topic, subscribers, valid } => self.report(topic.clone(), subscribers, valid),
            Request::Presence { topic, ask, members, known, valid, most } => {
                let (topic, members) = (topic.clone(), members.map(Bytes::copy_from_slice));
                self.presence(Presenting { topic, ask, members, known, valid, most });
            }
            Request::Beat { about, valid } => {
                self.commands.put_beat(self.main.command(Commands::BEAT_PARTS), about, valid);
                self.main.expect(Note::Beat);
            }
            Request::Nodes { ask } => self.nodes(ask),
            Request::Control { to, message } => {
                self.commands.put_control(self.main.command(Commands::CONTROL_PARTS), to, message);
                self.main.expect(Note::Control);
            }
        }
        if self.backlog() > self.max_backlog && self.failed.is_none() {
            let message = format!("more than {} bytes wait for the server (`max_backlog_bytes`)", self.max_backlog);
            self.failed = Some(LinkError::new("backlog", message));
        }
    }

    fn backlog(&self) -> usize {
        self.main.backlog() + self.reads.backlog()
    }

    fn let_go(&mut self) -> bool {
        self.opened.let_go()
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Answer, LinkError>> {
        for _ in 0..HEARD {
            if let Some(answer) = self.answers.pop_front() {
                return Poll::Ready(Ok(answer));
            }
            if let Some(error) = &self.failed {
                return Poll::Ready(Err(error.clone()));
            }
            self.reads_first = !self.reads_first;
            let (first, second) = match self.reads_first {
                true => (&mut self.reads, &mut self.main),
                false => (&mut self.main, &mut self.reads),
            };
            let heard = match first.poll(cx) {
                Poll::Pending => second.poll(cx),
                ready => ready,
            };
            let Poll::Ready(heard) = heard else { return Poll::Pending };
            if let Err(error) = heard.and_then(|heard| self.heard(heard)) {
                self.failed = Some(error);
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

/// What a record takes.
fn bytes_of(record: &Record) -> usize {
    let payload = match &record.what {
        What::Messages { payload, .. } => payload.bytes().len(),
        What::Lost { .. } => 0,
    };
    size_of::<Record>() + payload
}

fn appended(topic: TopicName, submission: u64, outcome: Result<Outcome, AppendError>) -> Answer {
    Answer::Appended { topic, submission, outcome }
}

fn outcome_of(text: &str) -> Option<Outcome> {
    let mut words = text.split(' ');
    let kind = words.next()?;
    let position = match (words.next(), words.next()) {
        (Some(epoch), Some(seq)) => Some(Position { epoch: epoch.parse::<Epoch>().ok()?, seq: decimal(seq)? }),
        _ => None,
    };
    match (kind, position) {
        ("new", Some(position)) => Some(Outcome::New(position)),
        ("again", Some(position)) => Some(Outcome::Again(position)),
        ("known", None) => Some(Outcome::Known),
        ("absent", None) => Some(Outcome::Nobody),
        _ => None,
    }
}

/// The answer about the members of a topic: the version, whether this node's words are new, whether the answer has all new
/// words, and of each other node the id, the milliseconds, and the words or nothing.
fn presence_of(topic: TopicName, ask: u64, parts: Vec<Value>) -> Option<Answer> {
    let mut texts = parts.into_iter().map(|part| if let Value::Text(text) = part { Some(text) } else { None });
    let number = |texts: &mut dyn Iterator<Item = Option<Bytes>>| decimal(str::from_utf8(&texts.next()??).ok()?);
    let (version, is_changed, is_whole) = (number(&mut texts)?, number(&mut texts)? == 1, number(&mut texts)? == 1);
    let mut nodes = Vec::new();
    while let Some(node) = texts.next() {
        let node = str::from_utf8(&node?).ok()?.parse().ok()?;
        let valid = Duration::from_millis(number(&mut texts)?);
        let members = Some(texts.next()??).filter(|members| !members.is_empty());
        nodes.push(NodePresence { node, valid, members });
    }
    nodes.sort_unstable_by_key(|presence| presence.node);
    Some(Answer::Presence { topic, ask, version, is_whole, is_changed, nodes })
}

/// The text of an entry of a stream: an id, and fields with values.
fn entry_of(entry: Value) -> Option<Value> {
    let Value::Array(mut parts) = entry else { return None };
    let Some(Value::Array(mut fields)) = parts.pop() else { return None };
    if fields.len() == 2 { fields.pop() } else { None }
}

fn records_of(texts: impl Iterator<Item = Option<Value>>) -> Result<Vec<Record>, String> {
    let record_of = |text: Option<Value>| match text {
        Some(Value::Text(text)) => record_of(text).map_err(|error| error.to_string()),
        _ => Err("the log has an entry that is no record; is the prefix also used by another program?".to_owned()),
    };
    texts.map(record_of).collect()
}
