//! One connection: the original's `transport`.
//!
//! A Transport reads its socket, decodes, and carries out what the client asks for, one command after the other; it
//! writes out the queue of a client that lags, and it closes. It is the only reader of its socket; everybody writes
//! through the connection's [`Slot`].
//!
//! Commands wait for each other: while a topic is being made, or a publisher waits for room, nothing further is read, so
//! that back-pressure reaches the client through TCP. What was read and not yet decoded is kept meanwhile.
//!
//! However a Transport ends (by itself, by a panic, killed), its `Drop` leaves the topics and keeps the session listed.

use std::cell::RefCell;
use std::io;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{self, Poll, ready};
use std::time::Duration;

use actix::fut::ActorFuture;
use actix::prelude::*;
use bytes::{Buf, Bytes};
use futures_util::FutureExt;
use futures_util::future::join_all;
use log::Level;
use tokio::sync::oneshot;
use tokio::time::Sleep;

use crate::client_proxy::{Claimed, Cursor, Joined, Session, SessionToken};
use crate::delivery::{End, Link, Slot, SlowReason, Subscription};
use crate::hooks::{Client, ConnectRequest, Disconnect, Identity, News, Refused};
use crate::listener::{Origin, PassOn, PassedOn};
use crate::publish::{Pending, PublishError, Receipt, Reply, hand_over};
use crate::shared::Shared;
use crate::topic::{CatchUp, Subscribe, Topic, TopicError, TopicState, Unsubscribe};
use crate::topic_manager::Create;
use crate::turn::{Ticket, yield_now};
use crate::wire::{
    Command, Decoder, ErrorClass, ErrorCode, Event, FrameError, Open, Opens, Position, Refusal, RequestId, TopicName,
};

/// Bytes read at once, into one buffer that all connections of an arbiter share; then others get their turn.
///
/// Larger reads would be fewer, but what a publisher sends as fast as it can is to be on its way to the subscribers while
/// the next of it is read: four reads of 64 KiB in a turn give a quarter less throughput to one subscriber.
const SCRATCH_BYTES: usize = 16 * 1024;

/// How long a request that changes no message, such as subscribing, may take, crashes of the actors involved included.
pub(crate) const CONTROL_TIMEOUT: Duration = Duration::from_secs(5);

/// How long, and how much, is still read and discarded after our FIN, so that the peer sees it and not a reset.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES: usize = 256 * 1024;

thread_local! {
    static SCRATCH: RefCell<Vec<u8>> = RefCell::new(vec![0; SCRATCH_BYTES]);
}

/// The actor of one connection.
pub(crate) struct Transport {
    shared: Arc<Shared>,
    slot: Arc<Slot>,
    session: Arc<Session>,
    /// Whether the topics have been left and the session has been detached.
    has_left: bool,
    decoder: Box<dyn Decoder>,
    origin: Arc<Origin>,
    /// Whether the client is served: greeted, and its session listed.
    opened: bool,
    /// Whether the client has not asked for anything yet, so that it may still take over an earlier session.
    fresh: bool,
    /// Where the last message went: a publisher mostly goes on with the same topic.
    published: Option<Arc<TopicState>>,
    /// Read and not yet decoded, while a command waits. Boxed, as the next two, because most connections have none, and
    /// what a connection costs is what it costs 19,000 times.
    rest: Option<Box<Bytes>>,
    /// Bytes from the client that the ledger knows of.
    accounted: u32,
    /// Why the server ends the connection, if it does.
    why: Option<ErrorCode>,
    step: Step,
}

/// What the Transport is doing.
enum Step {
    /// Reading and decoding.
    Reading,
    /// Waiting for a turn to do what takes long, because many others want to as well.
    Queueing(Box<Queueing>),
    /// Waiting for the topic to take the subscriber.
    Joining(Box<Asked>),
    /// The same for a topic that must be made first, or has just crashed.
    JoiningPatiently(Box<AskedPatiently>),
    /// Waiting for a command that takes longer, or others' help.
    Waiting(Pin<Box<dyn Future<Output = Outcome>>>),
    /// Waiting for a hook to say whether a message may be published.
    Permitting(Box<Permitting>),
    /// Waiting for room in a topic.
    Offering(Box<Offering>),
    /// Sending what the client of a session missed while it had no connection.
    Replaying(Box<Replaying>),
    /// Waiting for the answers to earlier messages, which the error must not overtake.
    Settling(Box<FrameError>),
    /// Writing out what is queued and still to be answered, then waiting for the peer to close as well.
    Closing(Box<Closing>),
    /// Giving the stream to somebody else, when what was read with its head is at hand.
    PassingOn(Box<PassingOn>),
    /// Nothing is left to do.
    Over,
}

struct PassingOn {
    take: PassOn,
    received: Vec<u8>,
}

struct Queueing {
    ticket: Option<Ticket>,
    then: Lengthy,
}

/// What takes so much longer than to read that it is wanted, that only a few may do it in one turn.
enum Lengthy {
    Subscribe(Box<Asking>),
    /// The token of a session and what its client has received.
    Attach(Box<(String, Vec<(TopicName, u64)>)>),
    /// The client's end of the stream.
    HalfClosed,
    /// Reading failed.
    Lost(io::ErrorKind),
}

/// A subscribe, as it was asked for.
struct Asking {
    name: TopicName,
    since: Option<Position>,
    id: RequestId,
}

/// What a subscribe to a topic that runs waits for. Everybody may subscribe at the same moment, so it is small.
struct Asked {
    joining: Joining,
    topic: Arc<TopicState>,
    answer: Pin<Box<Request<Topic, Subscribe>>>,
}

struct AskedPatiently {
    name: TopicName,
    id: RequestId,
    subscription: Arc<Subscription>,
    joined: Pin<Box<dyn Future<Output = Result<Joined, TopicError>>>>,
}

struct Permitting {
    topic: TopicName,
    pending: Pending,
    outcome: Option<oneshot::Receiver<Result<Receipt, PublishError>>>,
    answer: Pin<Box<dyn Future<Output = Result<(), Refused>>>>,
}

struct Offering {
    topic: TopicName,
    /// `None` only while it is being offered.
    pending: Option<Pending>,
    /// Awaited before the connection closes, where a classic PUBLISH closes it.
    outcome: Option<oneshot::Receiver<Result<Receipt, PublishError>>>,
}

/// What a client that comes back has said, when its topics exist.
struct Prepared {
    received: Vec<(TopicName, u64)>,
    /// The token that the connection was greeted with.
    own: SessionToken,
    /// The topics that could not be made.
    failed: Vec<(TopicName, TopicError)>,
    /// The topics that it may not subscribe to.
    denied: Vec<(TopicName, Refused)>,
}

/// One topic that a client wants to go on with.
struct Wanted {
    name: TopicName,
    /// Whether it was subscribed to it before.
    kept: bool,
    /// The topic of its cursor, the number that its count began with, and the count; nothing if it cannot know where it was.
    from: Option<(Arc<TopicState>, u64, u64)>,
}

/// The topics that a client still has to catch up with; the last one is next.
struct Replaying(Vec<Replay>);

/// One topic that a client resumes.
struct Replay {
    /// Keeps the topic from ending as unused until the client is on its list.
    cursor: Cursor,
    subscription: Arc<Subscription>,
    /// The next number it is to get.
    from: u64,
}

struct Closing {
    fin_sent: bool,
    discarded: usize,
    /// For writing out what is queued, and then for the peer to close as well.
    deadline: Pin<Box<Sleep>>,
}

enum Outcome {
    /// Who the client is that wants to be served, or why it is not.
    Authenticated(Box<Open>, Result<Arc<Identity>, Refused>),
    /// Whether the client may subscribe.
    Permitted(Box<Asking>, Result<(), Refused>),
    /// The topics of a session that is being taken over exist, as far as they can.
    Prepared(Box<Prepared>),
    /// The topic that a client wants to go on with exists, or cannot.
    Found(Box<Asking>, Result<Arc<TopicState>, TopicError>),
    Published(Result<Receipt, PublishError>),
}

impl Transport {
    pub(crate) fn new(shared: Arc<Shared>, slot: Arc<Slot>, session: Arc<Session>, origin: &Arc<Origin>) -> Self {
        Self::with_decoder(shared, slot, session, origin, origin.codec.decoder())
    }

    /// With a decoder that knows something about the client already.
    pub(crate) fn with_decoder(
        shared: Arc<Shared>,
        slot: Arc<Slot>,
        session: Arc<Session>,
        origin: &Arc<Origin>,
        decoder: Box<dyn Decoder>,
    ) -> Self {
        Self {
            shared,
            slot,
            session,
            has_left: false,
            decoder,
            origin: Arc::clone(origin),
            opened: false,
            fresh: true,
            published: None,
            rest: None,
            accounted: 0,
            why: None,
            step: Step::Reading,
        }
    }

    /// A connection that is only told why it is not served.
    pub(crate) fn refuse(mut self, code: ErrorCode, message: &str) -> Self {
        self.say_bye(None, code, message);
        self.close();
        self
    }

    /// Serves the client once it is known who it is; where nobody wants to know, at once.
    pub(crate) fn open(&mut self, mut open: Open) {
        let Some(hooks) = &self.shared.hooks else { return self.serve(open) };
        let mut request = ConnectRequest::new(self.slot.id, self.codec_name(), self.session.peer);
        (request.auth, request.request) = (open.auth.take(), open.request.take());
        let answer = hooks.authenticate(request);
        self.step = Step::Waiting(Box::pin(answer.map(|identity| Outcome::Authenticated(Box::new(open), identity))));
    }

    fn authenticated(&mut self, open: Open, identity: Result<Arc<Identity>, Refused>) {
        let identity = match identity {
            Ok(identity) => identity,
            Err(Refused { code, message, retry_after }) => {
                log::debug!("client {} ({}): {code}: {message}", self.slot.id, self.session.peer);
                let usual = refusal(code, &message);
                let reconnect_after = retry_after.or(usual.reconnect_after);
                self.say_goodbye(Refusal { reconnect_after, ..usual });
                return self.close();
            }
        };
        let client = Client::new(self.slot.id, self.codec_name(), self.session.peer, identity);
        let client = Arc::new(client);
        self.session.identify(&client);
        self.serve(open);
        self.tell_observers(News::Connected(client));
    }

    fn codec_name(&self) -> &'static str {
        self.shared.codecs().name(self.slot.codec())
    }

    fn tell_observers(&self, news: News) {
        if let Some(hooks) = &self.shared.hooks {
            hooks.tell(news);
        }
    }

    /// Lists the session, which takes the place of an earlier one if that is asked for, and greets.
    fn serve(&mut self, open: Open) {
        let shared = Arc::clone(&self.shared);
        shared.sessions.attach(Arc::clone(&self.session));
        let mut resumed = false;
        if let Some(token) = open.session.as_deref().and_then(SessionToken::from_hex) {
            let own = self.session.token;
            resumed = self.claim(&token);
            if resumed {
                // Its client knows no other position than those it says itself, topic by topic.
                self.session = shared.sessions.rename(&self.session, own);
                self.session.attached(Vec::new());
            }
        }
        shared.connections.set_session(&self.slot, &self.session);
        self.opened = true;
        let codec = self.slot.codec();
        if shared.codecs().beats_from_the_start(codec) {
            self.slot.expect_silence(shared.clock.tick());
        }
        self.slot.tell(&Event::Opened {
            session: &self.session.token.to_hex(),
            resumed,
            limits: &shared.wire_limits(),
            heartbeat: shared.config.heartbeat_interval,
        });
    }

    /// Takes over the session of `token`, and ends the connection that had it; false if there is none.
    fn claim(&mut self, token: &SessionToken) -> bool {
        let Some(Claimed { session, older }) = self.shared.sessions.claim(token, &self.session, &self.slot) else {
            return false;
        };
        self.session = session;
        self.shared.connections.set_session(&self.slot, &self.session);
        if let Some((slot, joined)) = older {
            slot.end(End::SessionTaken);
            for (topic, subscription) in joined {
                leave(&topic, subscription);
            }
        }
        true
    }

    /// Tells the client why its connection ends.
    fn say_bye(&mut self, id: RequestId, code: ErrorCode, message: &str) {
        self.say_goodbye(Refusal { id, ..refusal(code, message) });
    }

    fn say_goodbye(&mut self, refusal: Refusal<'_>) {
        if !matches!(refusal.code, ErrorCode::ServerDraining | ErrorCode::Disconnected | ErrorCode::Banned) {
            self.shared.counters.frames_refused.fetch_add(1, Ordering::Relaxed);
        }
        self.why = Some(refusal.code);
        self.slot.tell(&if self.opened { Event::Bye(refusal) } else { Event::Refused(refusal) });
    }

    /// Tells the client why something is not done.
    fn tell_error(&self, id: RequestId, topic: Option<&TopicName>, code: ErrorCode, message: &str) {
        self.shared.counters.frames_refused.fetch_add(1, Ordering::Relaxed);
        self.slot.tell(&Event::Error { id, topic, code, message });
    }

    /// Answers a frame with an error. It may name no message, so it must not overtake the answers to earlier ones.
    fn answer_error(&mut self, error: FrameError) {
        log::debug!("client {} ({}): {error}", self.slot.id, self.session.peer);
        if !self.slot.is_settled() {
            self.step = Step::Settling(Box::new(error));
        } else if error.is_fatal() {
            self.say_bye(error.id, error.code, &error.message);
            self.close();
        } else {
            self.tell_error(error.id, None, error.code, &error.message);
        }
    }

    fn settle(&mut self) -> Poll<()> {
        if !self.slot.is_settled() {
            return Poll::Pending;
        }
        if let Step::Settling(error) = std::mem::replace(&mut self.step, Step::Reading) {
            self.answer_error(*error);
        }
        Poll::Ready(())
    }

    /// Begins to close: what is queued is written out, then comes a FIN.
    fn close(&mut self) {
        if !matches!(self.step, Step::Closing(_) | Step::Over) {
            self.leave_topics();
            let deadline = self.shared.close_deadline(self.shared.config.drain_timeout);
            let deadline = Box::pin(tokio::time::sleep_until(deadline));
            self.step = Step::Closing(Box::new(Closing { fin_sent: false, discarded: 0, deadline }));
        }
    }

    fn leave_topics(&mut self) {
        if std::mem::replace(&mut self.has_left, true) {
            return;
        }
        // The client may have its ACK already, and count on coming back to it.
        let asked = match &self.step {
            Step::Joining(asked) => {
                asked.joining.subscription.as_ref().map(|asked_for| (Some(Arc::clone(&asked.topic)), asked_for))
            }
            Step::JoiningPatiently(asked) => Some((self.shared.topics.find(asked.name.as_str()), &asked.subscription)),
            _ => None,
        };
        if let Some((Some(topic), subscription)) = asked
            && subscription.first_seq().is_some()
        {
            self.joined((topic, Arc::clone(subscription)));
        }
        let expires = self.shared.clock.tick().wrapping_add(self.shared.clock.ticks(self.shared.config.session_ttl));
        let joined = self.shared.sessions.detach(&self.session, expires, self.shared.config.max_detached_sessions);
        for (topic, subscription) in joined {
            leave(&topic, subscription);
        }
    }

    /// Goes on until there is nothing to do for now; ready when the connection is over.
    fn run(&mut self, cx: &mut task::Context<'_>) -> Poll<()> {
        if self.slot.poll_attention(cx.waker()) {
            #[cfg(feature = "fault-injection")]
            assert!(!self.slot.crash.load(Ordering::Relaxed), "injected: a Transport");
            if let Some(end) = self.slot.take_end() {
                self.end(end);
            }
            self.slot.flush(cx);
        }
        loop {
            match &mut self.step {
                Step::Reading => ready!(self.read(cx)),
                Step::Queueing(queueing) => {
                    ready!(self.shared.turns.poll_place(&mut queueing.ticket, cx.waker()));
                    let Step::Queueing(queueing) = std::mem::replace(&mut self.step, Step::Reading) else { continue };
                    self.proceed(queueing.then);
                }
                Step::Joining(_) => ready!(self.await_topic(cx)),
                Step::JoiningPatiently(asked) => {
                    let joined = ready!(asked.joined.as_mut().poll(cx));
                    let id = asked.id;
                    self.step = Step::Reading;
                    match joined {
                        Ok(joined) => self.joined(joined),
                        Err(error) => self.answer_error(refused(error, id)),
                    }
                }
                Step::Waiting(command) => {
                    let outcome = ready!(command.as_mut().poll(cx));
                    self.step = Step::Reading;
                    self.conclude(outcome);
                }
                Step::Permitting(permitting) => {
                    let answer = ready!(permitting.answer.as_mut().poll(cx));
                    let Step::Permitting(permitting) = std::mem::replace(&mut self.step, Step::Reading) else {
                        continue;
                    };
                    let Permitting { topic, pending, outcome, .. } = *permitting;
                    match answer {
                        Ok(()) => self.hand_over(topic, pending, outcome),
                        Err(denied) => self.deny(denied, pending, outcome),
                    }
                }
                Step::Offering(_) => ready!(self.offer(cx)),
                Step::Replaying(_) => ready!(self.replay(cx)),
                Step::Settling(_) => ready!(self.settle()),
                Step::Closing(_) => ready!(self.finish_closing(cx)),
                Step::PassingOn(_) => self.finish_passing_on(),
                Step::Over => return Poll::Ready(()),
            }
        }
    }

    /// Tells the ledger what is kept of what the client has sent.
    fn account(&mut self) {
        let rest = self.rest.as_ref().map_or(0, |rest| rest.len());
        let offered = match &self.step {
            Step::Offering(offering) => offering.pending.as_ref().map_or(0, Pending::accounted_bytes),
            Step::Permitting(permitting) => permitting.pending.accounted_bytes(),
            _ => 0,
        };
        self.account_for(self.decoder.buffered() + rest + offered);
    }

    fn account_for(&mut self, kept: usize) {
        // It is a few times the longest frame at most.
        let kept = u32::try_from(kept).unwrap_or(u32::MAX);
        if kept != self.accounted {
            self.shared.ledger().add_received(kept as usize);
            self.shared.ledger().remove_received(self.accounted as usize);
            self.accounted = kept;
        }
    }

    /// Carries out what the server decided about this connection.
    fn end(&mut self, end: End) {
        let closing = matches!(self.step, Step::Closing(_) | Step::Over);
        if closing && !end.resets() {
            return;
        }
        let (id, peer) = (self.slot.id, self.session.peer);
        match end {
            End::SlowConsumer { why, frames, bytes } => {
                self.shared.ledger().cut_off(why);
                self.why = Some(ErrorCode::SlowConsumer);
                let why = match why {
                    SlowReason::QueueFull => "its queue is full",
                    SlowReason::Stalled => "it has taken nothing for too long",
                    SlowReason::Memory => "memory is nearly used up and its queue among the largest",
                };
                // Thousands may stall together, and the log must not stall everybody else.
                let level =
                    if self.shared.cut_off_lines.take(self.shared.clock.tick()) { Level::Warn } else { Level::Debug };
                log::log!(
                    level,
                    "client {id} ({peer}): slow consumer, cut off with {frames} frames ({bytes} bytes) queued: {why}"
                );
                self.step = Step::Over;
            }
            End::Broken(kind) => {
                log::debug!("client {id} ({peer}): nothing can be sent any more: {kind}");
                // A publisher may close at once without reading: what it has sent counts all the same, up to the end
                // of its stream.
                if closing {
                    self.step = Step::Over;
                }
            }
            End::FrameTimeout => {
                self.shared.counters.frames_timed_out.fetch_add(1, Ordering::Relaxed);
                let code = ErrorCode::FrameTimeout;
                self.answer_error(FrameError::new(code, "finish each frame in time; this one was left unfinished"));
            }
            End::MessagesLost => {
                log::warn!(
                    "client {id} ({peer}): closed, it would have missed messages of a topic that started afresh"
                );
                self.say_bye(None, ErrorCode::TopicUnavailable, "messages were lost; connect and subscribe again");
                self.close();
            }
            End::Draining | End::ShutDown => self.drain(),
            End::Disconnected { reconnect } => {
                log::debug!("client {id} ({peer}): disconnected by the operator");
                if reconnect {
                    self.say_bye(None, ErrorCode::Disconnected, "the server's operator has closed this connection");
                } else {
                    let message = "the server's operator has closed this connection and does not want it back";
                    self.say_bye(None, ErrorCode::Banned, message);
                }
                self.close();
                if !reconnect {
                    self.shared.sessions.end(&self.session);
                }
            }
            End::SessionTaken => {
                log::debug!("client {id} ({peer}): closed, another connection has taken over its session");
                self.say_bye(None, ErrorCode::SessionTaken, "another connection has taken over this session");
                self.close();
            }
        }
    }

    /// Closes because the instance ends.
    fn drain(&mut self) {
        if !matches!(self.step, Step::Closing(_) | Step::Over) {
            self.say_bye(None, ErrorCode::ServerDraining, "the server is shutting down");
            self.close();
        }
    }

    /// Reads, decodes and carries out; ready when the next step is another one.
    fn read(&mut self, cx: &mut task::Context<'_>) -> Poll<()> {
        // Also where nothing is left: a decoder may have more to say than its client, who asks for many topics at once.
        let rest = self.rest.take();
        let mut input = rest.as_deref().map_or(&[][..], |rest| rest);
        self.process(&mut input);
        let left = input.len();
        if left > 0
            && let Some(mut rest) = rest
        {
            rest.advance(rest.len() - left);
            self.rest = Some(rest);
        }
        SCRATCH.with_borrow_mut(|scratch| {
            while matches!(self.step, Step::Reading) {
                match ready!(self.slot.poll_read(cx, scratch)) {
                    Ok(0) => self.in_turn(Lengthy::HalfClosed),
                    Ok(length) => {
                        let mut input = &scratch[..length];
                        self.process(&mut input);
                        if !input.is_empty() {
                            self.rest = Some(Box::new(Bytes::copy_from_slice(input)));
                        } else if length == scratch.len() {
                            return yield_now(cx);
                        }
                    }
                    Err(error) => {
                        log::debug!("client {} ({}): {error}", self.slot.id, self.session.peer);
                        self.in_turn(Lengthy::Lost(error.kind()));
                    }
                }
            }
            Poll::Ready(())
        })
    }

    /// Carries out the commands in `input`, up to one that has to wait.
    fn process(&mut self, input: &mut &[u8]) {
        let limits = self.shared.wire_limits();
        let mut completed = false;
        while matches!(self.step, Step::Reading) {
            match self.decoder.decode(input, &limits) {
                Some(Ok(command)) => self.carry_out(command),
                Some(Err(error)) => self.answer_error(error),
                None => break,
            }
            completed = true;
        }
        let unfinished = input.is_empty() && self.is_awaited();
        self.slot.set_unfinished(unfinished, completed, self.shared.clock.tick());
    }

    /// Whether the client owes us bytes: the rest of a frame, or what opens its connection.
    fn is_awaited(&self) -> bool {
        matches!(self.step, Step::Reading) && (self.decoder.is_mid_frame() || !self.opened)
    }

    /// Does what takes long, now or when there is a place.
    fn in_turn(&mut self, what: Lengthy) {
        if self.shared.turns.take(self.shared.home.pauses()) {
            self.proceed(what);
        } else {
            self.step = Step::Queueing(Box::new(Queueing { ticket: None, then: what }));
        }
    }

    fn proceed(&mut self, what: Lengthy) {
        match what {
            Lengthy::Subscribe(asking) => self.subscribe(*asking),
            Lengthy::Attach(session) => self.attach(&session.0, session.1),
            Lengthy::HalfClosed => self.half_closed(),
            Lengthy::Lost(kind) => {
                self.step = Step::Over;
                self.slot.lost(kind);
                if let Some(end) = self.slot.take_end() {
                    self.end(end);
                }
            }
        }
    }

    /// The client will send no more: everything it sent is processed, errors are flushed, then comes our FIN.
    fn half_closed(&mut self) {
        match self.decoder.finish(&self.shared.wire_limits()) {
            Some(Ok(command)) => self.carry_out(command),
            Some(Err(error)) => self.answer_error(error),
            None => {}
        }
        if matches!(self.step, Step::Reading) {
            self.close();
        }
    }

    fn carry_out(&mut self, command: Command) {
        let fresh = self.fresh;
        self.fresh &= matches!(command, Command::Ping | Command::Pong);
        match command {
            Command::Open(open) if !self.opened => self.open(*open),
            Command::Open(_) => {
                let message = "a connection is opened once, with what it begins with";
                self.answer_error(FrameError::new(ErrorCode::BadOpen, message));
            }
            Command::Refused(error) => self.answer_error(error),
            Command::Answer(bytes) => self.slot.send(bytes),
            Command::Close(bytes) => {
                self.slot.send(bytes);
                self.close();
            }
            Command::Become(bytes) => self.become_successor(bytes),
            Command::PassOn => self.pass_on(),
            _ if !self.opened => {
                let message = "open the connection first";
                self.answer_error(FrameError::new(ErrorCode::BadOpen, message));
            }
            Command::Ping | Command::Pong => {}
            Command::Attach { token, received } if fresh => self.in_turn(Lengthy::Attach(Box::new((token, received)))),
            Command::Attach { .. } => {
                let message = "attach with the first frame of a connection; this one has its own session";
                self.answer_error(FrameError::new(ErrorCode::BadAttach, message));
            }
            Command::Subscribe { topic: name, since, id } => {
                self.ask_to_subscribe(Box::new(Asking { name, since, id }));
            }
            Command::Unsubscribe { topic: name, id } => {
                let left = self.session.with_subscriptions(|subscriptions| {
                    let index = subscriptions.iter().position(|(topic, _)| topic.name == name)?;
                    Some(subscriptions.swap_remove(index))
                });
                if let Some(Some((topic, subscription))) = left {
                    leave(&topic, subscription);
                }
                self.slot.tell(&Event::Unsubscribed { id, topic: &name });
            }
            Command::Publish { topic, publication, ack, id } => {
                let reply = Reply::connection(Arc::clone(&self.slot), ack, id);
                self.publish(topic, Pending { publication, reply }, None);
            }
            Command::PublishAndClose { topic, publication } => {
                // The FIN follows the commit: the publisher may take it for a receipt.
                let (reply, outcome) = Reply::promise();
                self.publish(topic, Pending { publication, reply }, Some(outcome));
            }
        }
    }

    fn become_successor(&mut self, bytes: Bytes) {
        let successor = self.decoder.successor();
        let Some((codec, decoder)) = successor
            .and_then(|(place, decoder)| Some((self.shared.codecs().successor(self.slot.codec(), place)?, decoder)))
        else {
            log::error!("{}: a decoder has named no successor", self.origin.codec.name());
            return self.answer_error(FrameError::new(ErrorCode::Internal, "a fault of the server"));
        };
        self.slot.send(bytes);
        self.slot.set_codec(codec);
        self.decoder = decoder;
        if self.shared.codecs().opens(codec) == Opens::AtOnce && !self.opened {
            self.open(Open::default());
        }
    }

    /// Gives the stream to whoever takes what is none of ours; what follows in the input goes along.
    fn pass_on(&mut self) {
        let Some(take) = self.origin.pass_on.clone() else {
            return self.answer_error(FrameError::new(ErrorCode::BadOpen, "there is nothing here"));
        };
        let received = self.decoder.take_received();
        self.step = Step::PassingOn(Box::new(PassingOn { take, received }));
    }

    /// Carries out what [`pass_on`](Self::pass_on) began, when it is known what else was read.
    fn finish_passing_on(&mut self) {
        let Step::PassingOn(passing) = std::mem::replace(&mut self.step, Step::Over) else { return };
        let PassingOn { take, mut received } = *passing;
        if let Some(rest) = self.rest.take() {
            received.extend_from_slice(&rest);
        }
        let peer = self.session.peer;
        let stream = match self.slot.take_link().map(Link::into_stream) {
            Some(Ok(stream)) => stream,
            Some(Err(error)) => return log::debug!("{peer}: not passed on: {error}"),
            // It has been cut off meanwhile.
            None => return,
        };
        take(PassedOn { stream, received: received.into(), peer });
    }

    /// Subscribes if the embedder's hook, where there is one, allows it.
    fn ask_to_subscribe(&mut self, asking: Box<Asking>) {
        let permission = self.permission_to_subscribe(&asking.name);
        match permission {
            Ok(None) => self.in_turn(Lengthy::Subscribe(asking)),
            Ok(Some(answer)) => {
                self.step = Step::Waiting(Box::pin(answer.map(|answer| Outcome::Permitted(asking, answer))));
            }
            Err(denied) => self.conclude(Outcome::Permitted(asking, Err(denied))),
        }
    }

    fn permission_to_subscribe(
        &self,
        topic: &TopicName,
    ) -> Result<Option<impl Future<Output = Result<(), Refused>> + use<>>, Refused> {
        match (&self.shared.hooks, self.session.client()) {
            (Some(hooks), Some(client)) => hooks.authorize_subscribe(client, topic),
            _ => Ok(None),
        }
    }

    fn subscribe(&mut self, asking: Asking) {
        let Asking { name, since, id } = &asking;
        let id = *id;
        let Some((already, count)) = self.session.with_subscriptions(|subscriptions| {
            (subscriptions.iter().any(|(topic, _)| topic.name == *name), subscriptions.len())
        }) else {
            return;
        };
        if already {
            return self.slot.tell(&Event::AlreadySubscribed { id, topic: name });
        }
        if count >= self.shared.config.max_topics_per_client {
            let message = "this client is subscribed to as many topics as it may; unsubscribe first";
            return self.answer_error(FrameError::new(ErrorCode::TooManyTopics, message).with_id(id));
        }
        if since.is_some() {
            return self.find(asking);
        }
        let subscription = Some(Arc::new(self.subscription(name)));
        let joining = Joining { shared: Arc::clone(&self.shared), name: asking.name, id, subscription };
        let running = self.shared.topics.find(joining.name.as_str()).and_then(|topic| {
            let answer = topic.actor.addr()?.send(joining.request());
            Some((topic, answer))
        });
        self.step = match running {
            Some((topic, answer)) => Step::Joining(Box::new(Asked { joining, topic, answer: Box::pin(answer) })),
            None => joining.patiently(),
        };
    }

    /// Has the topic made that a client wants to go on with, if there is none.
    fn find(&mut self, asking: Asking) {
        if let Some(topic) = self.shared.topics.find(asking.name.as_str()) {
            return self.go_on(asking, &topic);
        }
        let shared = Arc::clone(&self.shared);
        self.step = Step::Waiting(Box::pin(async move {
            let found = tokio::time::timeout(CONTROL_TIMEOUT, find_or_create(&shared, &asking.name)).await;
            Outcome::Found(Box::new(asking), found.unwrap_or(Err(TopicError::Unavailable)))
        }));
    }

    /// Subscribes from where the client was, if that is possible, and tells it whether it is.
    ///
    /// As in [`resume`](Self::resume), no message can come between the answer and the first moment of the subscription.
    fn go_on(&mut self, asking: Asking, topic: &Arc<TopicState>) {
        let Asking { name, since, id } = &asking;
        let tick = self.shared.clock.tick();
        let subscription = Arc::new(self.subscription(name));
        let missed = since.map_or(Ok(None), |since| topic.resumable(since, tick));
        let joined = match (missed, since) {
            (Ok(Some(missed)), Some(since)) => Ok((*since, Some(missed))),
            (Ok(_), _) => topic.subscribe(Arc::clone(&subscription), tick).map(|position| (position, None)),
            (Err(error), _) => Err(error),
        };
        let (position, missed) = match joined {
            Ok(joined) => joined,
            Err(TopicError::Ended) if !self.shared.is_draining() => {
                self.shared.topics.remove(topic);
                return self.find(asking);
            }
            Err(error) => return self.answer_error(refused(error, *id)),
        };
        self.slot.tell(&Event::Subscribed { id: *id, topic: name, position, since: *since, missed });
        if missed.is_some() {
            let cursor = Cursor::new(topic, 0);
            let replay = Replay { cursor, subscription: Arc::clone(&subscription), from: position.seq + 1 };
            self.step = Step::Replaying(Box::new(Replaying(vec![replay])));
        }
        self.joined((Arc::clone(topic), subscription));
    }

    fn subscription(&self, topic: &TopicName) -> Subscription {
        let policy = self.shared.config.namespace(topic.as_str()).slow_consumer;
        Subscription::of_connection(Arc::clone(&self.slot), policy)
    }

    /// Takes over the session of `token`, or begins anew with the topics that the client names if there is none.
    fn attach(&mut self, token: &str, received: Vec<(TopicName, u64)>) {
        if received.len() > self.shared.config.max_topics_per_client {
            let message = "these are more topics than one client may be subscribed to";
            return self.answer_error(FrameError::new(ErrorCode::TooManyTopics, message));
        }
        let own = self.session.token;
        if let Some(token) = SessionToken::from_hex(token) {
            self.claim(&token);
        }
        let mut missing = Vec::new();
        let is_missing = |name: &TopicName| self.shared.topics.find(name.as_str()).is_none();
        self.session.with_cursors(|cursors| {
            missing.extend(cursors.iter().map(|cursor| &cursor.topic.name).filter(|name| is_missing(name)).cloned());
        });
        missing.extend(received.iter().map(|(name, _)| name).filter(|name| is_missing(name)).cloned());
        let mut prepared = Box::new(Prepared { received, own, failed: Vec::new(), denied: Vec::new() });
        let mut asked = Vec::new();
        for Wanted { name, .. } in self.wanted(&prepared.received) {
            match self.permission_to_subscribe(&name) {
                Ok(None) => {}
                Ok(Some(answer)) => asked.push(answer.map(|answer| answer.err().map(|denied| (name, denied)))),
                Err(denied) => prepared.denied.push((name, denied)),
            }
        }
        if missing.is_empty() && asked.is_empty() {
            return self.resume(*prepared);
        }
        let shared = Arc::clone(&self.shared);
        self.step = Step::Waiting(Box::pin(async move {
            prepared.denied.extend(join_all(asked).await.into_iter().flatten());
            missing.retain(|name| prepared.denied.iter().all(|(denied, _)| denied != name));
            let create_all = async {
                for name in missing {
                    if let Err(error) = find_or_create(&shared, &name).await {
                        prepared.failed.push((name, error));
                    }
                }
            };
            // One for which there was no time is not there when its turn comes.
            let _ = tokio::time::timeout(CONTROL_TIMEOUT, create_all).await;
            Outcome::Prepared(prepared)
        }));
    }

    /// Joins the topics of the session, each from where the client was if that is possible, and tells it which are.
    ///
    /// All of it happens in one turn of the arbiter on which topics number and hand out: no message can come between the
    /// answer and the first moment of a subscription.
    ///
    /// The session goes on under the connection's own token if the client has to count afresh anywhere: a client that never
    /// gets this answer comes back with the old token, and its old counts must not be taken for new ones.
    fn resume(&mut self, prepared: Prepared) {
        let Prepared { received, own, failed, denied } = prepared;
        let tick = self.shared.clock.tick();
        let mut joined = Vec::new();
        let mut replays = Vec::new();
        let mut answers = Vec::new();
        let mut errors = Vec::new();
        for Wanted { name, kept, from } in self.wanted(&received) {
            if let Some((_, denied)) = denied.iter().find(|(denied, _)| *denied == name) {
                errors.push((denied.code, denied.message.clone()));
                continue;
            }
            if joined.len() >= self.shared.config.max_topics_per_client {
                let message = "this client is subscribed to as many topics as it may; unsubscribe first";
                errors.push((ErrorCode::TooManyTopics, message.to_owned()));
                continue;
            }
            let Some(topic) = self.shared.topics.find(name.as_str()) else {
                let error = failed.iter().find(|(failed, _)| *failed == name);
                let error = error.map_or(TopicError::Unavailable, |(_, error)| *error);
                errors.push((error.code(), error.to_string()));
                continue;
            };
            let subscription = Arc::new(self.subscription(&name));
            let resumes =
                from.filter(|(earlier, ..)| Arc::ptr_eq(earlier, &topic)).and_then(|(_, first_seq, count)| {
                    let from = first_seq.checked_add(count)?;
                    Some((first_seq, from, topic.missed_since(from, tick).ok()??))
                });
            let missed = if let Some((first_seq, from, missed)) = resumes {
                subscription.count_from(first_seq);
                let cursor = Cursor::new(&topic, first_seq);
                replays.push(Replay { cursor, subscription: Arc::clone(&subscription), from });
                Some(missed)
            } else {
                let entry = Arc::clone(&subscription);
                if let Err(error) = if kept { topic.rejoin(entry, tick) } else { topic.subscribe(entry, tick) } {
                    errors.push((error.code(), error.to_string()));
                    continue;
                }
                None
            };
            joined.push((topic, subscription));
            answers.push((name, missed));
        }
        if own != self.session.token && answers.iter().any(|(_, missed)| missed.is_none()) {
            self.session = self.shared.sessions.rename(&self.session, own);
            self.shared.connections.set_session(&self.slot, &self.session);
        }
        joined.shrink_to_fit();
        for (topic, subscription) in self.session.attached(joined) {
            leave(&topic, subscription);
        }
        self.slot.tell(&Event::Attached { topics: &answers, session: &self.session.token.to_hex() });
        for (code, message) in errors {
            self.tell_error(None, None, code, &message);
        }
        // Those that need no replay join at once, too.
        self.step = if replays.is_empty() { Step::Reading } else { Step::Replaying(Box::new(Replaying(replays))) };
    }

    /// The topics of a session that is being taken over, and those besides that its client names.
    fn wanted(&self, received: &[(TopicName, u64)]) -> Vec<Wanted> {
        let mut wanted: Vec<Wanted> = self.session.with_cursors(|cursors| {
            let wanted = cursors.iter().map(|cursor| {
                let count = received.iter().find(|(name, _)| *name == cursor.topic.name);
                let count = count.filter(|_| cursor.first_seq > 0).map(|(_, count)| *count);
                let from = count.map(|count| (Arc::clone(&cursor.topic), cursor.first_seq, count));
                Wanted { name: cursor.topic.name.clone(), kept: true, from }
            });
            wanted.collect()
        });
        for (name, _) in received {
            if wanted.iter().all(|other| other.name != *name) {
                wanted.push(Wanted { name: name.clone(), kept: false, from: None });
            }
        }
        wanted
    }

    fn replay(&mut self, cx: &mut task::Context<'_>) -> Poll<()> {
        let tick = self.shared.clock.tick();
        while let Step::Replaying(replaying) = &mut self.step {
            let Replaying(replays) = &mut **replaying;
            let Some(replay) = replays.last_mut() else {
                self.step = Step::Reading;
                break;
            };
            // Whoever takes what it asked for gets more; what waits is written by `run`.
            if !self.slot.is_flushed() {
                return Poll::Pending;
            }
            match replay.cursor.topic.catch_up(&replay.subscription, replay.from, tick) {
                Ok(CatchUp::Joined) => {
                    replays.pop();
                }
                Ok(CatchUp::More(from)) => {
                    replay.from = from;
                    // A mass of clients that come back must not stop everybody else for as long as they replay.
                    return yield_now(cx);
                }
                // It was told that it would have them.
                Ok(CatchUp::Lost(first)) if replay.subscription.tells() => {
                    let (topic, from) = (&replay.cursor.topic, replay.from);
                    let epoch = topic.epoch();
                    self.slot.tell(&Event::Gap { topic: &topic.name, epoch, from, to: first - 1 });
                    replay.from = first;
                }
                Ok(CatchUp::Lost(_)) | Err(_) => self.end(End::MessagesLost),
            }
        }
        Poll::Ready(())
    }

    fn joined(&self, joined: Joined) {
        let mut joined = Some(joined);
        self.session.with_subscriptions(|subscriptions| {
            if subscriptions.is_empty() {
                // Most clients have one topic, and a vector begins with room for four.
                subscriptions.reserve_exact(1);
            }
            subscriptions.extend(joined.take());
        });
        // Another connection has taken over the session meanwhile.
        if let Some((topic, subscription)) = joined {
            leave(&topic, subscription);
        }
    }

    fn await_topic(&mut self, cx: &mut task::Context<'_>) -> Poll<()> {
        let Step::Joining(asked) = &mut self.step else { return Poll::Ready(()) };
        let answer = ready!(asked.answer.as_mut().poll(cx));
        let Step::Joining(asked) = std::mem::replace(&mut self.step, Step::Reading) else { return Poll::Ready(()) };
        match answer {
            Ok(Ok(())) => self.joined((asked.topic, asked.joining.joined())),
            // It has crashed or ended meanwhile.
            Ok(Err(_)) | Err(_) => self.step = asked.joining.patiently(),
        }
        Poll::Ready(())
    }

    fn conclude(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Authenticated(open, identity) => self.authenticated(*open, identity),
            Outcome::Permitted(asking, Ok(())) => self.in_turn(Lengthy::Subscribe(asking)),
            Outcome::Permitted(asking, Err(Refused { code, message, .. })) => {
                self.answer_error(FrameError::new(code, message).with_id(asking.id));
            }
            Outcome::Prepared(prepared) => self.resume(*prepared),
            Outcome::Found(asking, Ok(topic)) => self.go_on(*asking, &topic),
            Outcome::Found(asking, Err(error)) => self.answer_error(refused(error, asking.id)),
            Outcome::Published(result) => {
                if let Err(error) = result {
                    self.tell_error(None, None, error.code(), &error.to_string());
                }
                self.close();
            }
        }
    }

    /// Publishes a message if the client may.
    fn publish(
        &mut self,
        topic: TopicName,
        pending: Pending,
        outcome: Option<oneshot::Receiver<Result<Receipt, PublishError>>>,
    ) {
        let client = self.session.client();
        if !self.origin.may_publish && client.is_none_or(|client| client.identity.may_publish.is_none()) {
            pending.refuse(PublishError::NotAllowed);
            return self.await_outcome(outcome);
        }
        let permission = match (&self.shared.hooks, client) {
            (Some(hooks), Some(client)) => hooks.authorize_publish(client, &topic, &pending.publication),
            _ => Ok(None),
        };
        match permission {
            Ok(None) => self.hand_over(topic, pending, outcome),
            Ok(Some(answer)) => {
                let answer = Box::pin(answer);
                self.step = Step::Permitting(Box::new(Permitting { topic, pending, outcome, answer }));
            }
            Err(denied) => self.deny(denied, pending, outcome),
        }
    }

    fn deny(
        &mut self,
        Refused { code, message, .. }: Refused,
        pending: Pending,
        outcome: Option<oneshot::Receiver<Result<Receipt, PublishError>>>,
    ) {
        pending.refuse(PublishError::Denied { code, reason: message });
        self.await_outcome(outcome);
    }

    /// Hands a message to its topic. If that has no room, nothing further is read until it has.
    fn hand_over(
        &mut self,
        topic: TopicName,
        pending: Pending,
        outcome: Option<oneshot::Receiver<Result<Receipt, PublishError>>>,
    ) {
        if let Err(pending) = hand_over(&self.shared, &mut self.published, &topic, pending, None) {
            // Nobody is woken yet; `run` comes to this step next and offers again, with a task to wake.
            self.step = Step::Offering(Box::new(Offering { topic, pending: Some(pending), outcome }));
            return;
        }
        self.await_outcome(outcome);
    }

    fn offer(&mut self, cx: &mut task::Context<'_>) -> Poll<()> {
        let Step::Offering(mut offering) = std::mem::replace(&mut self.step, Step::Reading) else {
            return Poll::Ready(());
        };
        let pending = offering.pending.take().expect("an offering ends with its message");
        match hand_over(&self.shared, &mut self.published, &offering.topic, pending, Some(cx.waker())) {
            Ok(()) => {
                self.await_outcome(offering.outcome);
                Poll::Ready(())
            }
            Err(pending) => {
                offering.pending = Some(pending);
                self.step = Step::Offering(offering);
                Poll::Pending
            }
        }
    }

    /// A classic PUBLISH closes its connection once its outcome is known; other messages are answered by their topic.
    fn await_outcome(&mut self, outcome: Option<oneshot::Receiver<Result<Receipt, PublishError>>>) {
        if let Some(outcome) = outcome {
            self.step = Step::Waiting(Box::pin(
                outcome.map(|outcome| Outcome::Published(outcome.unwrap_or(Err(PublishError::TopicCrashed)))),
            ));
        }
    }

    fn finish_closing(&mut self, cx: &mut task::Context<'_>) -> Poll<()> {
        let Step::Closing(closing) = &mut self.step else { return Poll::Ready(()) };
        if !closing.fin_sent && self.slot.is_settled() && self.slot.is_flushed() {
            self.slot.shut_down();
            closing.fin_sent = true;
            closing.deadline.as_mut().reset(self.shared.close_deadline(LINGER));
        }
        if closing.deadline.as_mut().poll(cx).is_ready() {
            self.step = Step::Over;
            return Poll::Ready(());
        }
        if !closing.fin_sent {
            return Poll::Pending;
        }
        let read = SCRATCH.with_borrow_mut(|scratch| self.slot.poll_read(cx, scratch));
        match ready!(read) {
            Ok(length) if length > 0 && closing.discarded + length <= LINGER_BYTES => closing.discarded += length,
            _ => self.step = Step::Over,
        }
        Poll::Ready(())
    }
}

/// A subscribe under way.
struct Joining {
    shared: Arc<Shared>,
    name: TopicName,
    id: RequestId,
    /// `None` once it belongs to the Transport.
    subscription: Option<Arc<Subscription>>,
}

impl Joining {
    fn request(&self) -> Subscribe {
        let subscription = Arc::clone(self.subscription.as_ref().expect("it is given away at the end"));
        Subscribe { subscription, id: self.id }
    }

    fn joined(mut self) -> Arc<Subscription> {
        self.subscription.take().expect("it is given away once")
    }

    /// The same with time and help: the topic must be made, or has just crashed.
    fn patiently(self) -> Step {
        let (name, id) = (self.name.clone(), self.id);
        let subscription = Arc::clone(self.subscription.as_ref().expect("it is given away at the end"));
        let joined = Box::pin(async move {
            let joined = tokio::time::timeout(CONTROL_TIMEOUT, self.join()).await;
            joined.unwrap_or(Err(TopicError::Unavailable))
        });
        Step::JoiningPatiently(Box::new(AskedPatiently { name, id, subscription, joined }))
    }

    /// Finds or makes the topic and subscribes, asking successors of actors that crash meanwhile.
    async fn join(self) -> Result<Joined, TopicError> {
        loop {
            let topic = find_or_create(&self.shared, &self.name).await?;
            match topic.actor.call(self.request()).await {
                Ok(Ok(())) => return Ok((topic, self.joined())),
                Ok(Err(TopicError::Ended)) => self.shared.topics.remove(&topic),
                Ok(Err(error)) => return Err(error),
                Err(_) => match topic.when_up().await {
                    Ok(()) => {}
                    Err(TopicError::Ended) => self.shared.topics.remove(&topic),
                    Err(error) => return Err(error),
                },
            }
        }
    }
}

/// Finds a topic or has it made, by a successor if the TopicManager crashes meanwhile.
async fn find_or_create(shared: &Shared, name: &TopicName) -> Result<Arc<TopicState>, TopicError> {
    loop {
        if let Some(topic) = shared.topics.find(name.as_str()) {
            return Ok(topic);
        }
        match shared.topic_manager.call(Create(name.clone())).await {
            Ok(created) => return created,
            Err(_) => {
                shared.topic_manager.when_up(None).await;
            }
        }
    }
}

/// A subscribe that was given up, or whose connection has ended, may have been carried out all the same.
impl Drop for Joining {
    fn drop(&mut self) {
        if let Some(subscription) = self.subscription.take() {
            subscription.end();
            if let Some(topic) = self.shared.topics.find(self.name.as_str()) {
                leave(&topic, subscription);
            }
        }
    }
}

fn refused(error: TopicError, id: RequestId) -> FrameError {
    FrameError::new(error.code(), error.to_string()).with_id(id)
}

/// When a client that was told to try again may come back: the first and the last moment. Those that are told together must
/// not come together.
const TRY_AGAIN: Range<u64> = 100..2_000;

/// The same for one that was told to slow down.
const SLOW_DOWN: Range<u64> = 5_000..15_000;

/// Why a client is not served, and when it may come back.
pub(crate) fn refusal(code: ErrorCode, message: &str) -> Refusal<'_> {
    let window = match code.class() {
        ErrorClass::TryAgain => Some(TRY_AGAIN),
        ErrorClass::SlowDown => Some(SLOW_DOWN),
        ErrorClass::DoNot => None,
    };
    // Any moment will do if the system has no randomness to give.
    let random = || getrandom::u64().unwrap_or_default();
    let reconnect_after =
        window.map(|window| Duration::from_millis(window.start + random() % (window.end - window.start)));
    Refusal { id: None, code, message, reconnect_after }
}

pub(crate) fn leave(topic: &Arc<TopicState>, subscription: Arc<Subscription>) {
    subscription.end();
    // A topic that is not running looks for ended subscriptions when it starts.
    let _ = topic.actor.cast(Unsubscribe { subscription });
}

impl Actor for Transport {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Context<Self>) {
        // A client that says nothing has a frame's time to open its connection, where that is its part.
        self.slot.set_unfinished(self.is_awaited(), false, self.shared.clock.tick());
        ctx.spawn(Connection);
    }

    /// A stop asked for by the supervisor is a close: the connection goes on until what is queued is written.
    fn stopping(&mut self, _: &mut Context<Self>) -> Running {
        if matches!(self.step, Step::Over) {
            return Running::Stop;
        }
        self.drain();
        Running::Continue
    }
}

/// However the actor ended, the connection leaves its topics, and its socket closes.
impl Drop for Transport {
    fn drop(&mut self) {
        self.leave_topics();
        self.account_for(0);
        if self.opened
            && let Some(client) = self.session.client()
        {
            let why = match self.why {
                Some(code) => Disconnect::ByServer(code),
                None if matches!(self.step, Step::Over) => Disconnect::ByClient,
                // It has not come to its end by itself.
                None => Disconnect::ByServer(ErrorCode::Internal),
            };
            self.tell_observers(News::Disconnected(Arc::clone(client), why));
        }
        self.shared.connections.remove(&self.slot);
        if !self.slot.close() {
            self.shared.counters.cut_off.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Drives the Transport for as long as its connection lasts.
struct Connection;

impl ActorFuture<Transport> for Connection {
    type Output = ();

    fn poll(
        self: Pin<&mut Self>,
        transport: &mut Transport,
        ctx: &mut Context<Transport>,
        cx: &mut task::Context<'_>,
    ) -> Poll<()> {
        let run = transport.run(cx);
        transport.account();
        ready!(run);
        ctx.stop();
        Poll::Ready(())
    }
}
