//! Turns the commands of one client into commands of Janus.
//!
//! A message has one command or several, separated by white space. A command is read when the command before is carried out, so a
//! message with thousands of commands is no more than as many messages.

use std::collections::VecDeque;

use janus_core::ClientId;
use janus_core::wire::websocket::{ClientMessage, Close, MessageDecoder, MessageWriter, Reading};
use janus_core::wire::{
    BytesMut, Command, Credentials, Epoch, ErrorCode, FrameError, HistoryQuery, Limits, Open, Position, Publication,
    RequestId, Since, TopicName,
};

use crate::codes::{JSON_ALONE, METHOD_NOT_FOUND, NOT_AVAILABLE, PERMISSION_DENIED};
use crate::command::{self, Connect, Recovery};
use crate::json::Object;
use crate::request_id::{Kind, request_id};

/// A client of such a subscription wants an error, and no subscription, if the position cannot be recovered.
const REJECT_UNRECOVERED: u64 = 2;

/// What a client is told that wants a channel which a Centrifugo keeps from most users.
const LIMITED_TO_USERS: &str = "user-limited channels (with a #) and private channels (that begin with $) are not supported: name \
    the channel otherwise, and grant the channel to its users in their tokens";

/// Reads the commands of one client.
#[derive(Debug, Default)]
pub struct CentrifugeDecoder {
    is_opened: bool,
    /// The client speaks Protobuf, and is turned away.
    refuses: bool,
    /// Most clients have none of these.
    rare: Option<Box<Rare>>,
}

#[derive(Debug, Default)]
struct Rare {
    /// What is left to do for a command that is several commands here.
    further: VecDeque<Command>,
    /// Topics whose subscription may be unknown to the client, because the client was told an error. The next subscribe begins anew.
    doubtful: Vec<TopicName>,
}

/// What a command of a client is here.
enum Step {
    One(Command),
    Several(VecDeque<Command>),
    /// Nothing to carry out, and nothing to answer.
    None,
}

impl MessageDecoder for CentrifugeDecoder {
    type Scratch = ();

    fn decode(
        &mut self,
        message: &mut ClientMessage<'_>,
        reading: &mut Reading<'_>,
    ) -> Option<Result<Command, FrameError>> {
        loop {
            let text = message.text();
            if let Some(further) = self.next_further() {
                // A character of the command was left for each of these.
                let first = text.chars().next().map_or(0, char::len_utf8);
                *message = ClientMessage::Text(&text[first..]);
                return Some(Ok(further));
            }
            let text = text.trim_ascii_start();
            if text.is_empty() {
                return None;
            }
            let mut commands = serde_json::Deserializer::from_str(text).into_iter::<command::Command<'_>>();
            let command = match commands.next()? {
                Ok(command) => command,
                Err(error) => return Some(Err(malformed(&error))),
            };
            let end = commands.byte_offset();
            let number = command.id;
            let step = self.step(command, reading.limits);
            *message = ClientMessage::Text(&text[end..]);
            match step {
                Ok(Step::One(command)) => return Some(Ok(command)),
                Ok(Step::Several(mut steps)) => {
                    let first = steps.pop_front()?;
                    let left = text[..end].char_indices().rev().nth(steps.len().saturating_sub(1));
                    if let (Some((at, _)), false) = (left, steps.is_empty()) {
                        *message = ClientMessage::Text(&text[at..]);
                        self.rare.get_or_insert_default().further = steps;
                    }
                    return Some(Ok(first));
                }
                Ok(Step::None) => {}
                Err(error) => {
                    let id = error.id.or_else(|| request_id(Kind::Connect, number));
                    return Some(Err(error.with_id(id)));
                }
            }
        }
    }

    fn begin(&mut self) -> Option<Command> {
        let (code, reason) = JSON_ALONE;
        let close = Close { code, reason: reason.into() };
        self.refuses.then(|| Command::Close(MessageWriter::bytes(|out| out.close(&close))))
    }

    fn opened(&mut self, _: &str, _: ClientId) {
        self.is_opened = true;
    }

    fn memory(&self) -> usize {
        self.rare.as_ref().map_or(0, |rare| {
            size_of::<Rare>()
                + rare.further.capacity() * size_of::<Command>()
                + rare.doubtful.iter().map(|topic| size_of::<TopicName>() + topic.as_str().len()).sum::<usize>()
        })
    }
}

impl CentrifugeDecoder {
    /// The decoder of a client that is turned away with the reason.
    pub(crate) fn refusing() -> Self {
        Self { refuses: true, ..Self::default() }
    }

    fn next_further(&mut self) -> Option<Command> {
        let rare = self.rare.as_mut()?;
        let further = rare.further.pop_front();
        if rare.further.is_empty() && rare.doubtful.is_empty() {
            self.rare = None;
        }
        further
    }

    fn step(&mut self, mut command: command::Command<'_>, limits: &Limits) -> Result<Step, FrameError> {
        let id = command.id;
        if let Some(connect) = command.connect.take() {
            return match self.is_opened || id == 0 {
                true => Err(bad("\"connect\" must be the first command, and have an id").into_fatal()),
                false => {
                    self.is_opened = true;
                    connect_steps(id, connect, limits)
                }
            };
        }
        let is_pong = id == 0 && !command.has_method();
        if !self.is_opened {
            return Err(FrameError::new(ErrorCode::BadOpen, "the first command must be \"connect\""));
        }
        if is_pong {
            return Ok(Step::One(Command::Pong));
        }
        if command.send.is_some() {
            // A message of a client to the server's program, for which Janus has no ear. It has no reply.
            return Ok(Step::None);
        }
        if id == 0 {
            return Err(bad("each command but \"send\" must have an id, a number from 1 to 4294967295").into_fatal());
        }
        self.requested(id, command, limits)
    }

    /// A command with a number.
    fn requested(&mut self, id: u32, command: command::Command<'_>, limits: &Limits) -> Result<Step, FrameError> {
        if command.channel().is_some_and(is_limited_to_users) {
            return Ok(Step::One(refusal(id, PERMISSION_DENIED, LIMITED_TO_USERS)));
        }
        let of = |kind, name: &str| {
            let request = request_id(kind, id);
            limits.topic(name).map(|topic| (topic, request)).map_err(|error| error.with_id(request))
        };
        let one = |command| Ok(Step::One(command));
        if let Some(subscribe) = command.subscribe {
            return self.subscribe(id, &subscribe, limits);
        }
        if let Some(unsubscribe) = command.unsubscribe {
            let (topic, id) = of(Kind::Unsubscribe, &unsubscribe.channel)?;
            return one(Command::Unsubscribe { topic, id });
        }
        if let Some(publish) = command.publish {
            let (topic, id) = of(Kind::Publish, &publish.channel)?;
            let data = publish.data.ok_or_else(|| FrameError::new(ErrorCode::BadPublish, "\"data\" is missing"));
            let data = data.map_err(|error| error.with_id(id))?.get();
            let publication = Publication::new(&topic, "\"\"", "\"\"", data);
            let publication = publication.map_err(|error| FrameError::from(error).with_id(id))?;
            return one(Command::Publish { topic, publication, ack: true, id });
        }
        if let Some(presence) = command.presence {
            let (topic, id) = of(Kind::Presence, &presence.channel)?;
            return one(Command::Presence { topic, id });
        }
        if let Some(stats) = command.presence_stats {
            let (topic, id) = of(Kind::PresenceStats, &stats.channel)?;
            return one(Command::Presence { topic, id });
        }
        if let Some(history) = command.history {
            let (topic, id) = of(Kind::History, &history.channel)?;
            return one(Command::History { topic, query: query(&history), id });
        }
        if let Some(refresh) = command.refresh {
            let auth = Credentials(refresh.token.into_owned());
            return one(Command::Refresh { auth, id: request_id(Kind::Refresh, id) });
        }
        one(if command.ping.is_some() {
            reply(id, |reply| reply.object("ping", |ping| ping.end()))
        } else if command.rpc.is_some() {
            refusal(id, METHOD_NOT_FOUND, "no such method: Janus has no rpc")
        } else if command.sub_refresh.is_some() {
            refusal(id, NOT_AVAILABLE, "subscriptions have no tokens here: the token of the connection grants channels")
        } else {
            refusal(id, METHOD_NOT_FOUND, "unknown or missing method")
        })
    }

    fn subscribe(
        &mut self,
        number: u32,
        subscribe: &command::Subscribe<'_>,
        limits: &Limits,
    ) -> Result<Step, FrameError> {
        if subscribe.kind != 0 || subscribe.tf.is_some() {
            let message = "only subscriptions to all publications of a channel are available, without a filter";
            return Ok(Step::One(refusal(number, NOT_AVAILABLE, message)));
        }
        let or_fail = subscribe.recover && subscribe.flag & REJECT_UNRECOVERED != 0;
        let has_token = subscribe.token.is_some_and(|token| !matches!(token.get(), "\"\"" | "null"));
        let kind = match (or_fail, has_token) {
            (true, _) => Kind::SubscribeOrFail,
            (false, true) => Kind::SubscribeWithToken,
            (false, false) => Kind::Subscribe,
        };
        let id = request_id(kind, number);
        let topic = limits.topic(&subscribe.channel).map_err(|error| error.with_id(id))?;
        let since = subscribe.recover.then(|| position(&subscribe.epoch, subscribe.offset));
        let command = subscribe_to(topic.clone(), since, subscribe.join_leave, id);
        let known = self.rare.as_mut().and_then(|rare| {
            let place = rare.doubtful.iter().position(|doubtful| *doubtful == topic)?;
            Some(rare.doubtful.swap_remove(place))
        });
        if or_fail {
            let doubtful = &mut self.rare.get_or_insert_default().doubtful;
            if doubtful.len() >= limits.max_topics {
                doubtful.remove(0);
            }
            doubtful.push(topic.clone());
        }
        Ok(match known {
            Some(_) => Step::Several([Command::Unsubscribe { topic, id: None }, command].into()),
            None => Step::One(command),
        })
    }
}

/// Whether a Centrifugo admits only some users to a channel of this name, who are named behind a `#` or have a token of the channel. Such
/// a name is plain to Janus, and a grant of many channels at once would open the channel to every user.
fn is_limited_to_users(channel: &str) -> bool {
    channel.contains('#') || channel.starts_with('$')
}

impl command::Command<'_> {
    /// The channel that the client wants something of. A client may leave any channel.
    fn channel(&self) -> Option<&str> {
        let subscribe = self.subscribe.as_ref().map(|subscribe| &subscribe.channel);
        let publish = || self.publish.as_ref().map(|publish| &publish.channel);
        let history = || self.history.as_ref().map(|history| &history.channel);
        let presence = || self.presence.as_ref().or(self.presence_stats.as_ref()).map(|presence| &presence.channel);
        subscribe.or_else(publish).or_else(presence).or_else(history).map(|channel| &**channel)
    }

    fn has_method(&self) -> bool {
        let Self {
            id: _, connect, subscribe, unsubscribe, publish, presence, presence_stats, history, refresh, ..
        } = self;
        let Self { sub_refresh, rpc, send, ping, .. } = self;
        connect.is_some()
            || subscribe.is_some()
            || [unsubscribe, presence, presence_stats].iter().any(|method| method.is_some())
            || publish.is_some()
            || history.is_some()
            || refresh.is_some()
            || [sub_refresh, rpc, send, ping].iter().any(|method| method.is_some())
    }
}

/// Opens the connection, and subscribes to the server's subscriptions of an earlier connection.
fn connect_steps(id: u32, connect: Connect<'_>, limits: &Limits) -> Result<Step, FrameError> {
    // The client says which channels these are: a reserved one begins anew, if it is one of the token's.
    let recoveries =
        connect.subs.into_iter().filter(|(channel, recovery)| recovery.recover && !is_limited_to_users(channel));
    let recoveries = recoveries.take(limits.max_topics);
    let auth = connect.token.filter(|token| !token.is_empty()).map(std::borrow::Cow::into_owned);
    let open = Open { auth, id: request_id(Kind::Connect, id), ..Open::default() };
    let mut steps = VecDeque::from([Command::Open(Box::new(open))]);
    for (channel, Recovery { epoch, offset, .. }) in recoveries {
        let topic =
            limits.topic(&channel).map_err(|error| error.with_id(request_id(Kind::Connect, id)).into_fatal())?;
        steps.push_back(subscribe_to(topic, Some(position(&epoch, offset)), false, None));
    }
    Ok(Step::Several(steps))
}

fn subscribe_to(topic: TopicName, from: Option<Position>, join_leave: bool, number: RequestId) -> Command {
    let mut command = Command::subscribe(topic);
    if let Command::Subscribe { since, presence, id, .. } = &mut command {
        (*since, *presence, *id) = (from.map(Since::Position), join_leave, number);
    }
    command
}

/// The position of a client. An epoch that no Janus has given is the epoch of no life of a topic.
fn position(epoch: &str, seq: u64) -> Position {
    Position { epoch: epoch.parse().unwrap_or(Epoch::NONE), seq }
}

/// Without a position, a history begins with the first message, or backwards with the last.
fn query(history: &command::History<'_>) -> HistoryQuery {
    let limit = usize::try_from(history.limit).unwrap_or(usize::MAX);
    let query = HistoryQuery::latest(limit);
    let query = match &history.since {
        Some(since) => query.since(position(&since.epoch, since.offset)),
        None if history.reverse => query,
        None => query.since(Since::Start),
    };
    if history.reverse { query.reversed() } else { query }
}

/// A reply that needs no question.
fn reply(id: u32, write: impl FnOnce(Object<'_>) -> Object<'_>) -> Command {
    let mut text = BytesMut::new();
    write(Object::new(&mut text).number("id", id.into())).end();
    let text = String::from_utf8_lossy(&text);
    Command::Answer(MessageWriter::bytes(|out| out.text(&text)))
}

fn refusal(id: u32, code: u16, message: &str) -> Command {
    reply(id, |reply| reply.object("error", |error| error.number("code", code.into()).text("message", message).end()))
}

fn bad(message: &str) -> FrameError {
    FrameError::new(ErrorCode::BadRequest, message)
}

fn malformed(error: &serde_json::Error) -> FrameError {
    // The text of serde names what a client has sent; only the place is told.
    let what = if error.is_data() { "a member of an unexpected type" } else { "not JSON" };
    FrameError::new(ErrorCode::BadJson, format!("{what} at byte {} of the command", error.column()))
}

#[cfg(test)]
mod tests;
