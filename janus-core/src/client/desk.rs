//! The client's topics and requests: which frames are to be sent, and what an arrived frame means. No I/O: the client's
//! task hands in commands and frames, and sends what [`Desk::next_frame`] returns.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;

use super::ClientError;
use super::back_off::BackOff;
use super::item::{Begun, Gap, HistoryPage, Item, Message, Parts, Presence, Published};
use super::outbox::Outbox;
use super::request::{Reply, Request};
use super::subscription::{Feed, Pushed, Room, Subscription};
use crate::wire::v1::client::{self as v1, ServerFrame};
use crate::wire::{ClientId, Position, Since};

/// What the program wants of the client's task.
pub(super) enum Command {
    Subscribe { topic: Arc<str>, feed: Arc<Feed>, since: Option<Since>, presence: bool, reply: Reply<Begun> },
    Request(Request),
    Close,
}

/// A topic to which the server has subscribed the client by itself, because the client's token says so.
#[derive(Debug)]
#[non_exhaustive]
pub struct Assigned {
    /// The name of the topic.
    pub topic: String,
    /// The messages, or why the topic has none.
    pub subscription: Result<Subscription, ClientError>,
}

/// A request that was sent.
enum Pending {
    Subscribe(Arc<str>),
    Request(Request),
    Refresh(String),
}

/// A subscribed topic.
struct Topic {
    name: Arc<str>,
    feed: Arc<Feed>,
    /// Where the program wants to begin.
    since: Option<Since>,
    presence: bool,
    /// Whether the server has subscribed the client by itself.
    is_assigned: bool,
    /// Up to here, everything is in the feed. Moves with the feed alone, so that what finds no room comes again.
    position: Option<Position>,
    phase: Phase,
    /// Whether a connection was lost since the last answer.
    was_away: bool,
    /// The call that waits for the first answer.
    begun: Option<Reply<Begun>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// To be asked for on the next connection.
    Away,
    /// Asked for by this request. Messages before the answer belong to an earlier subscription, and are passed over.
    Asked(u64),
    Live,
    /// Left, because the feed is full.
    Full,
    /// Refused, and to be asked for again at this time.
    Refused(Instant),
}

/// Facts of the connection in use.
#[derive(Clone, Copy, Debug)]
pub(super) struct Connection {
    pub(super) client: Option<ClientId>,
    pub(super) max_frame_bytes: usize,
}

/// What the client's task has to do about a frame.
#[derive(Debug)]
pub(super) enum News {
    Nothing,
    /// A queue is half full: the program should have its turn.
    Breather,
    /// The server has accepted this token, and the token ends after this time.
    Renewed(String, Option<Duration>),
    /// The server has refused a token.
    NotRenewed(ClientError),
}

pub(super) struct Desk {
    topics: HashMap<Arc<str>, Topic>,
    /// Requests for the next connection. With those in `pending`, at most `max_pending` and one for each topic.
    waiting: VecDeque<Request>,
    pending: HashMap<u64, Pending>,
    /// Topics that were left before the server has answered the subscribe. One answer is owed for each, and the topic is
    /// asked for again after the answer alone: otherwise calls that are cancelled one after the other would fill `pending`
    /// while the server slows the client down, and the server would close the connection in the end.
    owed: HashSet<Arc<str>>,
    connection: Option<Connection>,
    outbox: Outbox,
    /// When the first refused topic is to be asked for again.
    retry_at: Option<Instant>,
    /// The feed whose room the client's task waits for before it reads on.
    blocked: Option<Arc<Feed>>,
    assigned: Option<mpsc::Sender<Assigned>>,
    room: Room,
    changed: Arc<Notify>,
    max_pending: usize,
    back_off: BackOff,
}

impl Desk {
    pub(super) fn new(
        room: Room,
        changed: Arc<Notify>,
        assigned: Option<mpsc::Sender<Assigned>>,
        max_pending: usize,
        back_off: BackOff,
    ) -> Self {
        Self {
            topics: HashMap::new(),
            waiting: VecDeque::new(),
            pending: HashMap::new(),
            owed: HashSet::new(),
            connection: None,
            outbox: Outbox::default(),
            retry_at: None,
            blocked: None,
            assigned,
            room,
            changed,
            max_pending,
            back_off,
        }
    }

    /// Takes the next frame to be sent, for a socket with room.
    pub(super) fn next_frame(&mut self) -> Option<String> {
        loop {
            let frame = self.outbox.pop()?;
            let Some(id) = frame.id else { return Some(frame.text) };
            let is_wanted = match self.pending.get(&id) {
                Some(Pending::Request(request)) => !request.is_abandoned() && request.is_sent_now(),
                Some(Pending::Subscribe(name)) => {
                    let topic = self.topics.get(name).filter(|topic| topic.phase == Phase::Asked(id));
                    // Without a call that waits, the client itself returns to the topic.
                    topic.is_some_and(|topic| topic.begun.as_ref().is_none_or(Reply::is_sent_now))
                }
                Some(Pending::Refresh(_)) => true,
                None => false,
            };
            if is_wanted {
                return Some(frame.text);
            }
            // The program drops the subscription of a call that has given up, which ends the topic.
            self.pending.remove(&id);
        }
    }

    /// Whether no queue keeps the client's task from reading.
    pub(super) fn may_read(&self) -> bool {
        self.blocked.is_none()
    }

    /// When [`tick`](Self::tick) has something to do.
    pub(super) fn due(&self) -> Option<Instant> {
        self.retry_at
    }

    /// A connection is open: asks for all topics, and sends the requests that have waited.
    pub(super) fn opened(&mut self, connection: Connection) {
        self.connection = Some(connection);
        self.look();
        let away = self.topics.values().filter(|topic| topic.phase == Phase::Away);
        for name in away.map(|topic| Arc::clone(&topic.name)).collect::<Vec<_>>() {
            self.ask(&name);
        }
        for request in std::mem::take(&mut self.waiting) {
            self.request(request);
        }
    }

    /// The connection has ended. Requests without an answer fail, except those that may be repeated on the next connection.
    pub(super) fn left(&mut self, error: &ClientError, comes_back: bool) {
        self.connection = None;
        self.outbox.clear();
        self.owed.clear();
        self.retry_at = None;
        for topic in self.topics.values_mut() {
            topic.was_away = true;
            if topic.phase != Phase::Full {
                topic.phase = Phase::Away;
            }
        }
        let mut pending: Vec<_> = self.pending.drain().collect();
        pending.sort_unstable_by_key(|(id, _)| std::cmp::Reverse(*id));
        for (_, pending) in pending {
            match pending {
                Pending::Request(request) if comes_back && request.is_repeatable() => self.waiting.push_front(request),
                // The program is told that the message may be published, and not what the client does about the end.
                Pending::Request(request) if comes_back => request.fail(error.as_lost()),
                Pending::Request(request) => request.fail(error.as_end()),
                Pending::Subscribe(_) | Pending::Refresh(_) => {}
            }
        }
    }

    /// The end of the client. No subscription and no call waits any longer.
    pub(super) fn end(&mut self, error: Option<&ClientError>) {
        let error = error.map(ClientError::as_end);
        let reason = error.clone().unwrap_or(ClientError::Closed);
        self.left(&reason, false);
        for request in std::mem::take(&mut self.waiting) {
            request.fail(reason.clone());
        }
        for (_, topic) in self.topics.drain() {
            topic.end(&reason, error.clone());
        }
    }

    /// Carries out a command. With `false`, the program wants the client to be closed.
    pub(super) fn command(&mut self, command: Command) -> bool {
        match command {
            Command::Close => return false,
            Command::Request(request) => self.request(request),
            Command::Subscribe { topic: name, feed, since, presence, reply } => {
                // A cancelled call: its wake-up may have come before the command, and no other follows.
                if feed.is_dropped() {
                    return true;
                }
                // The program may have dropped a subscription of this topic a moment ago.
                self.look();
                // The program's own request takes the place of the server's subscription, on either side.
                if self.topics.get(&name).is_some_and(|topic| topic.is_assigned)
                    && let Some(topic) = self.topics.remove(&name)
                {
                    topic.feed.discard();
                    // The client may have waited for room in the discarded queue.
                    self.look();
                }
                if self.pending.len() >= self.max_pending {
                    self.forget_abandoned();
                }
                // Answers outstanding of dropped subscriptions count as well, and a topic that waits for one needs no place.
                let is_full = self.pending.len() >= self.max_pending.saturating_add(self.topics.len());
                if is_full && !self.owed.contains(&name) {
                    reply.send(Err(ClientError::TooManyPending { max: self.max_pending }));
                } else if self.topics.contains_key(&name) {
                    reply.send(Err(ClientError::AlreadySubscribed(name.to_string())));
                } else {
                    let topic = Topic {
                        name: Arc::clone(&name),
                        feed,
                        since,
                        presence,
                        is_assigned: false,
                        position: since.and_then(Since::position),
                        phase: Phase::Away,
                        was_away: false,
                        begun: Some(reply),
                    };
                    self.topics.insert(Arc::clone(&name), topic);
                    self.ask(&name);
                }
            }
        }
        true
    }

    /// Shows the server another token.
    pub(super) fn refresh(&mut self, token: String) {
        self.send(|id| v1::refresh(Some(id), &token)).map_or_else(
            |error| log::warn!("the token is not sent: {error}"),
            |id| drop(self.pending.insert(id, Pending::Refresh(token.clone()))),
        );
    }

    fn request(&mut self, request: Request) {
        if request.is_abandoned() {
            return;
        }
        if self.pending.len() + self.waiting.len() >= self.max_pending {
            self.forget_abandoned();
        }
        if self.pending.len() + self.waiting.len() >= self.max_pending.saturating_add(self.topics.len()) {
            return request.fail(ClientError::TooManyPending { max: self.max_pending });
        }
        let Some(Connection { client, .. }) = self.connection else { return self.waiting.push_back(request) };
        match self.send(|id| request.text(id, client)) {
            Ok(id) => drop(self.pending.insert(id, Pending::Request(request))),
            Err(error) => request.fail(error),
        }
    }

    /// Gives up the requests of calls that have ended. An answer is passed over like any unknown answer.
    fn forget_abandoned(&mut self) {
        self.pending.retain(|_, pending| !matches!(pending, Pending::Request(request) if request.is_abandoned()));
        self.waiting.retain(|request| !request.is_abandoned());
        let pending = &self.pending;
        self.outbox.retain(|id| pending.contains_key(&id));
    }

    /// Queues a request with an id of its own, which is returned.
    fn send(&mut self, text: impl FnOnce(u64) -> String) -> Result<u64, ClientError> {
        self.outbox.request(self.connection.map_or(usize::MAX, |connection| connection.max_frame_bytes), text)
    }

    /// Asks for a topic, if there is a connection.
    fn ask(&mut self, name: &str) {
        if self.connection.is_none() || self.owed.contains(name) {
            return;
        }
        let Some(topic) = self.topics.get(name) else { return };
        let since = topic.position.map(Since::from).or(topic.since);
        let frame = if topic.presence { v1::subscribe_with_presence } else { v1::subscribe };
        match self.send(|id| frame(Some(id), name, since)) {
            Ok(id) => {
                if let Some(topic) = self.topics.get_mut(name) {
                    topic.phase = Phase::Asked(id);
                    self.pending.insert(id, Pending::Subscribe(Arc::clone(&topic.name)));
                }
            }
            Err(error) => {
                if let Some(topic) = self.topics.remove(name) {
                    topic.end(&error, Some(error.clone()));
                }
            }
        }
    }

    /// The server has answered a subscribe. A topic that was left and is wanted again is asked for now.
    fn settle(&mut self, name: &str) {
        if self.owed.remove(name) && self.topics.get(name).is_some_and(|topic| topic.phase == Phase::Away) {
            self.ask(name);
        }
    }

    /// Looks at all queues: leaves topics whose subscription was dropped, and comes back to topics with room.
    pub(super) fn look(&mut self) {
        if self.blocked.as_ref().is_some_and(|feed| !feed.is_full() || feed.is_dropped()) {
            self.blocked = None;
        }
        let mut returning = Vec::new();
        let Self { topics, pending, owed, outbox, connection, .. } = self;
        topics.retain(|name, topic| {
            if topic.feed.is_dropped() {
                match topic.phase {
                    _ if connection.is_none() => {}
                    // Neither a subscribe nor an unsubscribe is sent. Without this, calls that are cancelled one after the
                    // other would fill the memory while the server does not read.
                    Phase::Asked(id) if outbox.take_back(id) => drop(pending.remove(&id)),
                    // The call has given up at the moment of sending.
                    Phase::Asked(id) if !pending.contains_key(&id) => {}
                    // The answer counts in `pending` until it comes.
                    Phase::Asked(_) => {
                        owed.insert(Arc::clone(name));
                        outbox.push(v1::unsubscribe(None, name));
                    }
                    Phase::Live => outbox.push(v1::unsubscribe(None, name)),
                    Phase::Away | Phase::Full | Phase::Refused(_) => {}
                }
                return false;
            }
            if topic.phase == Phase::Full && !topic.feed.is_full() {
                topic.phase = Phase::Away;
                returning.push(Arc::clone(name));
            }
            true
        });
        for name in returning {
            self.ask(&name);
        }
    }

    /// Asks again for topics whose time has come.
    pub(super) fn tick(&mut self, now: Instant) {
        let mut due = Vec::new();
        self.retry_at = None;
        for topic in self.topics.values() {
            match topic.phase {
                Phase::Refused(at) if at <= now => due.push(Arc::clone(&topic.name)),
                Phase::Refused(at) => self.retry_at = Some(self.retry_at.map_or(at, |first| first.min(at))),
                _ => {}
            }
        }
        for name in due {
            self.ask(&name);
        }
    }

    /// Takes in a frame of the server.
    ///
    /// # Errors
    ///
    /// The connection is at its end, by a `bye`.
    pub(super) fn receive(&mut self, text: &str) -> Result<News, ClientError> {
        match ServerFrame::parse(text) {
            ServerFrame::Message { topic, seq, time, event, message_id, data, base64 } => {
                let parts = Parts { time, event, message_id, data, base64 };
                return Ok(self.message(&topic, seq, text, &parts));
            }
            ServerFrame::Gap { topic, epoch, from, to } => {
                return Ok(self.gap(&topic, Position { epoch, seq: to }, from));
            }
            ServerFrame::Presence { id, topic, change, count, members } => {
                let presence = Presence { change, count, members };
                match self.answered(id) {
                    Some(Pending::Request(Request::Presence(_, reply))) => {
                        reply.send(Ok(presence));
                    }
                    _ => return Ok(self.news_of_members(&topic, presence)),
                }
            }
            ServerFrame::History { id, topic, position, complete, more, top, messages } => {
                let page = HistoryPage { messages: Vec::new(), position, complete, more, top };
                if let Some(Pending::Request(Request::History(_, _, reply))) = self.answered(id) {
                    let page = HistoryPage::read(&topic, text, messages, page);
                    reply.send(page.ok_or_else(|| ClientError::NotJanus("a history without messages".to_owned())));
                }
            }
            ServerFrame::Subscribed { id: Some(id), position, missed, .. } => {
                if let Some(Pending::Subscribe(name)) = self.answered(Some(id)) {
                    self.begun(&name, id, Begun { position, missed });
                    self.settle(&name);
                }
            }
            ServerFrame::Subscribed { id: None, topic, position, missed } => {
                self.assigned(&topic, Begun { position, missed });
            }
            ServerFrame::Published { id, position, subscribers, again, .. } => {
                if let Some(Pending::Request(Request::Publish(_, reply))) = self.answered(id) {
                    reply.send(Ok(Published { position, subscribers, again }));
                }
            }
            ServerFrame::Refreshed { id, expires } => {
                if let Some(Pending::Refresh(token)) = self.answered(id) {
                    return Ok(News::Renewed(token, expires));
                }
            }
            ServerFrame::Error { id, topic, code, error, message } => {
                let error = refused(code, &error, &message, None);
                return Ok(self.refused(id, topic.as_deref(), error));
            }
            ServerFrame::Bye { code, error, message, reconnect_after } => {
                return Err(refused(code, &error, &message, reconnect_after));
            }
            // Frames of later servers, answers to requests without an id, and signs of life.
            ServerFrame::Welcome { .. }
            | ServerFrame::Unsubscribed { .. }
            | ServerFrame::Pong
            | ServerFrame::Unknown(_) => {}
        }
        Ok(News::Nothing)
    }

    /// The request that the server answers. A server that answers what was not sent yet could have the client queue
    /// frames without end.
    fn answered(&mut self, id: Option<u64>) -> Option<Pending> {
        let id = id.filter(|id| self.outbox.is_sent(*id))?;
        self.pending.remove(&id)
    }

    fn message(&mut self, name: &str, seq: u64, text: &str, parts: &Parts<'_>) -> News {
        let Some(topic) = self.topics.get_mut(name) else { return News::Nothing };
        let (Phase::Live, Some(before)) = (topic.phase, topic.position) else { return News::Nothing };
        if seq <= before.seq {
            return News::Nothing;
        }
        let position = Position { seq, ..before };
        // A copy, because the text is a part of a buffer with many frames, which one kept message would keep alive.
        let frame = Bytes::copy_from_slice(text.as_bytes());
        let item = Item::Message(Message::new(Arc::clone(&topic.name), position, text, &frame, parts));
        self.push(name, item, Some(position))
    }

    fn gap(&mut self, name: &str, end: Position, from: u64) -> News {
        let Some(topic) = self.topics.get_mut(name) else { return News::Nothing };
        let (Phase::Live, Some(before)) = (topic.phase, topic.position) else { return News::Nothing };
        let is_known = before.epoch == end.epoch;
        if is_known && end.seq <= before.seq {
            return News::Nothing;
        }
        let from = if is_known { from.max(before.seq + 1) } else { from };
        self.push(name, Item::Gap(Gap::Numbers { from, to: end.seq }), Some(end))
    }

    fn news_of_members(&mut self, name: &str, presence: Presence) -> News {
        match self.topics.get(name) {
            Some(topic) if topic.phase == Phase::Live && topic.presence => {
                self.push(name, Item::Presence(presence), None)
            }
            _ => News::Nothing,
        }
    }

    /// Queues an item of a live topic. The position moves if the item finds room.
    fn push(&mut self, name: &str, item: Item, position: Option<Position>) -> News {
        let Some(topic) = self.topics.get_mut(name) else { return News::Nothing };
        let pushed = topic.feed.push(item);
        if pushed == Pushed::Refused {
            topic.phase = Phase::Full;
            self.outbox.push(v1::unsubscribe(None, name));
            return News::Breather;
        }
        topic.position = position.or(topic.position);
        if pushed == Pushed::Last {
            self.blocked = Some(Arc::clone(&topic.feed));
        }
        if pushed == Pushed::Plenty { News::Nothing } else { News::Breather }
    }

    /// The answer to a subscribe.
    fn begun(&mut self, name: &str, id: u64, begun: Begun) {
        let Some(topic) = self.topics.get_mut(name) else { return };
        // An answer to an earlier request: the topic was left and asked for again.
        if topic.phase != Phase::Asked(id) {
            return;
        }
        let Begun { position, missed } = begun;
        let before = topic.position;
        let resumed = missed.filter(|_| before.is_some_and(|before| before.epoch == position.epoch));
        topic.phase = Phase::Live;
        let was_away = std::mem::take(&mut topic.was_away);
        if resumed.is_none() {
            topic.position = Some(position);
        }
        let reply = topic.begun.take();
        match (before, resumed) {
            (Some(_), None) => topic.feed.mark(Item::Gap(Gap::Unknown { position })),
            (Some(_), Some(missed)) if was_away && reply.is_none() => topic.feed.mark(Item::Resumed { missed }),
            _ => {}
        }
        if let Some(reply) = reply {
            // A dropped call has dropped its subscription, which ends the topic.
            if !reply.send(Ok(begun)) {
                self.look();
            }
        }
    }

    /// The server has subscribed the client by itself.
    fn assigned(&mut self, name: &str, begun: Begun) {
        let Some(assigned) = &self.assigned else { return };
        // A server that assigns topics and reads nothing could have the client queue frames without end.
        if self.topics.contains_key(name) || self.outbox.len() >= self.max_pending.saturating_add(self.topics.len()) {
            return;
        }
        let (shared, feed) = (Arc::<str>::from(name), Feed::new(self.room, Arc::clone(&self.changed)));
        let mut subscription = Subscription::new(Arc::clone(&shared), Arc::clone(&feed));
        subscription.set_begun(begun);
        let topic = Topic {
            name: Arc::clone(&shared),
            feed,
            since: None,
            presence: false,
            is_assigned: true,
            position: Some(begun.position),
            phase: Phase::Live,
            was_away: false,
            begun: None,
        };
        self.topics.insert(shared, topic);
        // Without room, the subscription is dropped here, and the topic is left at the next look.
        if assigned.try_send(Assigned { topic: name.to_owned(), subscription: Ok(subscription) }).is_err() {
            log::warn!("the topic {name:?} of the token is left: the program takes no assigned topics");
        }
    }

    /// An error of the server that leaves the connection open.
    fn refused(&mut self, id: Option<u64>, topic: Option<&str>, error: ClientError) -> News {
        match id.zip(self.answered(id)) {
            Some((id, Pending::Subscribe(name))) => {
                self.subscribe_refused(&name, id, error);
                self.settle(&name);
            }
            Some((_, Pending::Request(request))) => request.fail(error),
            Some((_, Pending::Refresh(_))) => return News::NotRenewed(error),
            None => {
                let Some(name) = topic.filter(|_| id.is_none()) else {
                    log::warn!("{error}");
                    return News::Nothing;
                };
                let is_live = self.topics.get(name).is_some_and(|topic| topic.phase == Phase::Live);
                if is_live && error.is_final() {
                    // The topic is granted no longer.
                    if let Some(topic) = self.topics.remove(name) {
                        topic.end(&error, Some(error.clone()));
                    }
                } else if let (false, Some(assigned)) = (is_live, &self.assigned) {
                    let refused = Assigned { topic: name.to_owned(), subscription: Err(error.clone()) };
                    if assigned.try_send(refused).is_err() {
                        log::warn!("the topic {name:?} of the token: {error}");
                    }
                } else {
                    log::warn!("the topic {name:?}: {error}");
                }
            }
        }
        News::Nothing
    }

    /// The first refusal is for the program. Later ones end the subscription if final, and are otherwise tried again.
    fn subscribe_refused(&mut self, name: &str, id: u64, error: ClientError) {
        let Some(topic) = self.topics.get_mut(name).filter(|topic| topic.phase == Phase::Asked(id)) else { return };
        if topic.begun.is_some() || error.is_final() {
            if let Some(topic) = self.topics.remove(name) {
                topic.end(&error, Some(error.clone()));
            }
            return;
        }
        let at = Instant::now() + self.back_off.long_wait();
        topic.phase = Phase::Refused(at);
        self.retry_at = Some(self.retry_at.map_or(at, |first| first.min(at)));
        log::warn!("the topic {name:?}: {error}; the client asks again");
    }
}

impl Topic {
    /// Ends the subscription, and the call that waits for its beginning.
    fn end(mut self, reason: &ClientError, error: Option<ClientError>) {
        if let Some(reply) = self.begun.take() {
            reply.send(Err(reason.clone()));
        }
        self.feed.end(error);
    }
}

/// A task that is dropped leaves no subscription waiting.
impl Drop for Desk {
    fn drop(&mut self) {
        self.end(None);
    }
}

fn refused(code: u16, error: &str, message: &str, reconnect_after: Option<Duration>) -> ClientError {
    ClientError::Refused { code, error: error.to_owned(), message: message.to_owned(), reconnect_after }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::super::subscription::WhenFull;
    use super::*;

    const ROOM: Room = Room { items: 2, bytes: 1_000, when_full: WhenFull::Wait };

    /// A desk with a connection, and the assigned topics.
    fn desk() -> (Desk, mpsc::Receiver<Assigned>) {
        let (sender, assigned) = mpsc::channel(8);
        let back_off = BackOff { first: Duration::ZERO, longest: Duration::ZERO };
        let mut desk = Desk::new(ROOM, Arc::default(), Some(sender), 2, back_off);
        desk.opened(Connection { client: None, max_frame_bytes: 1_000 });
        (desk, assigned)
    }

    fn subscribe() -> (Subscription, Command, oneshot::Receiver<Result<Begun, ClientError>>) {
        let (topic, feed) = (Arc::<str>::from("t"), Feed::new(ROOM, Arc::default()));
        let subscription = Subscription::new(Arc::clone(&topic), Arc::clone(&feed));
        let (reply, answer, _) = Reply::new();
        (subscription, Command::Subscribe { topic, feed, since: None, presence: false, reply }, answer)
    }

    fn receive(desk: &mut Desk, frame: &str) {
        desk.receive(&frame.replace("EPOCH", "0000000000000001")).unwrap();
    }

    /// A desk that reads no further, because the queue of an assigned topic is full.
    fn blocked() -> (Desk, mpsc::Receiver<Assigned>) {
        let (mut desk, assigned) = desk();
        receive(&mut desk, r#"{"type":"subscribed","topic":"t","epoch":"EPOCH","seq":0,"resumed":false}"#);
        for seq in 1..3 {
            let message = r#"{"type":"message","topic":"t","seq":SEQ,"time":1,"event":"","message_id":"","data":1}"#;
            receive(&mut desk, &message.replace("SEQ", &seq.to_string()));
        }
        assert!(!desk.may_read());
        (desk, assigned)
    }

    #[test]
    fn cancelled_calls_are_not_sent_and_take_no_memory() {
        let (mut desk, _assigned) = desk();
        for _ in 0..100 {
            let (reply, cancelled, _) = Reply::new();
            desk.command(Command::Request(Request::Presence("t".to_owned(), reply)));
            drop(cancelled);
            let (subscription, command, _answer) = subscribe();
            desk.command(command);
            drop(subscription);
            desk.look();
            assert!(desk.outbox.len() <= 2 && desk.pending.len() <= 2 && desk.topics.is_empty());
        }
        assert!(desk.next_frame().is_none() && desk.pending.is_empty());
    }

    #[test]
    fn cancelled_subscribes_of_a_topic_owe_one_answer() {
        let (mut desk, _assigned) = desk();
        for number in 0..100 {
            let (subscription, command, _answer) = subscribe();
            desk.command(command);
            let sent = std::iter::from_fn(|| desk.next_frame()).count();
            assert_eq!(sent, [1, 1, 0][number.min(2)], "a subscribe, an unsubscribe, and then nothing");
            drop(subscription);
            desk.look();
            assert_eq!((desk.pending.len(), desk.topics.len()), (1, 0));
        }
        let (_subscription, command, mut answer) = subscribe();
        desk.command(command);
        assert!(desk.next_frame().is_none());
        let subscribed = r#"{"type":"subscribed","id":ID,"topic":"t","epoch":"EPOCH","seq":0,"resumed":false}"#;
        receive(&mut desk, &subscribed.replace("ID", "1"));
        assert!(answer.try_recv().is_err(), "the answer is of the first call");
        assert!(desk.next_frame().unwrap().contains("subscribe"));
        receive(&mut desk, &subscribed.replace("ID", "2"));
        assert!(answer.try_recv().unwrap().is_ok() && desk.pending.is_empty());
    }

    #[test]
    fn a_subscribe_cancelled_before_its_command_is_passed_over() {
        let (mut desk, _assigned) = desk();
        let (subscription, command, _answer) = subscribe();
        drop(subscription);
        // The wake-up of the drop comes first.
        desk.look();
        desk.command(command);
        assert!(desk.topics.is_empty() && desk.next_frame().is_none());
    }

    #[test]
    fn an_answer_to_a_request_not_yet_sent_is_passed_over() {
        let (mut desk, _assigned) = desk();
        let (_subscription, command, mut answer) = subscribe();
        desk.command(command);
        let subscribed = r#"{"type":"subscribed","id":1,"topic":"t","epoch":"EPOCH","seq":0,"resumed":false}"#;
        receive(&mut desk, subscribed);
        assert!(answer.try_recv().is_err());
        assert!(desk.next_frame().is_some());
        receive(&mut desk, subscribed);
        assert!(answer.try_recv().unwrap().is_ok());
    }

    #[test]
    fn taking_over_a_full_assigned_topic_lets_the_client_read_on() {
        let (mut desk, _assigned) = blocked();
        let (_subscription, command, _answer) = subscribe();
        desk.command(command);
        assert!(desk.may_read());
    }

    #[test]
    fn a_full_queue_stops_the_next_connection_as_well() {
        let (mut desk, mut assigned) = blocked();
        desk.left(&ClientError::Closed, true);
        desk.opened(Connection { client: None, max_frame_bytes: 1_000 });
        assert!(!desk.may_read());
        drop(assigned.try_recv());
        desk.look();
        assert!(desk.may_read());
    }
}
