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
//!
//! This file is the connection from its first byte to its last; how it becomes a served client is in `opening`, which place it
//! has among others in `places`, what a client asks for in `subscribing`, `beginning`, `resuming` and `publishing`, whether
//! it is alive in `answering`, what is told of its life in `life`.

mod answering;
mod beginning;
mod life;
mod opening;
mod places;
mod portion;
mod publishing;
mod resuming;
mod subscribing;

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{self, Poll, ready};
use std::time::Duration;

use actix::fut::ActorFuture;
use actix::prelude::*;
use bytes::{Buf, Bytes};
use log::Level;
use tokio::time::{Instant, Sleep};

use crate::accounts::fairness::Want;
use crate::accounts::reached::Limit;
use crate::connection::Connections;
use crate::connection::listener::Origin;
use crate::connection::turn::Ticket;
use crate::delivery::{End, Slot, SlowReason};
use crate::hooks::{Identity, News, Refused};
use crate::session::{Leaving, Places, Session};
use crate::topic::publish::{Pending, PublishError, Receipt, Reply};
use crate::topic::{TopicError, TopicState, leave};
use crate::wire::{
    Command, Decoder, ErrorClass, ErrorCode, FrameError, Limits, Open, Refusal, Refusing, RequestId, ServerEvent,
    TopicName,
};

use beginning::Preface;
pub(crate) use opening::refusal;
use opening::{PassingOn, after_a_restart};
use portion::Portion;
use publishing::{Offering, Permitting};
use resuming::{Prepared, Replaying};
use subscribing::{Asked, AskedPatiently, Asking, refused};

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
    shared: Arc<Connections>,
    slot: Arc<Slot>,
    session: Arc<Session>,
    /// Whether the topics have been left and the session has been detached.
    has_left: bool,
    decoder: Box<dyn Decoder>,
    origin: Arc<Origin>,
    /// Whether the client is served: greeted, and its session listed.
    opened: bool,
    /// Whether it has a place of `max_connections`; see `places`.
    has_place: bool,
    /// Whether it has published without one.
    has_published: bool,
    /// Whether its HTTP request came by way of a proxy.
    is_forwarded: bool,
    /// Whether the client has not asked for anything yet, so that it may still take over an earlier session.
    fresh: bool,
    /// Where the last message went: a publisher mostly goes on with the same topic.
    published: Option<Arc<TopicState>>,
    /// The numbers of the topics that the client has left by its own will, the last ones.
    #[expect(
        clippy::box_collection,
        reason = "most clients leave no topic by their own will, and a pointer is a quarter of a queue"
    )]
    left: Option<Box<VecDeque<u64>>>,
    /// Read and not yet decoded, while a command waits. Boxed, as the next two, because most connections have none, and
    /// what a connection costs is what it costs 19,000 times.
    rest: Option<Box<Bytes>>,
    /// For a client that names all its topics at once, until they have been asked for.
    preface: Option<Box<Preface>>,
    /// Whether the decoder may have more to say without further bytes: it has not been asked to the end.
    undecoded: bool,
    portion: Portion,
    /// Whether its stream has been given to somebody else.
    passed_on: bool,
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
    /// The same for a hook that says whether the client is served. It has so many bytes of what the client has sent.
    Authenticating(Pin<Box<dyn Future<Output = Outcome>>>, usize),
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

struct Closing {
    /// Said when nothing else is to be; empty if they have been, or there are none.
    last_words: Bytes,
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
    /// The decoder may know something about the client already.
    pub(crate) fn new(
        shared: Arc<Connections>,
        slot: Arc<Slot>,
        session: Arc<Session>,
        origin: &Arc<Origin>,
        decoder: Box<dyn Decoder>,
        has_place: bool,
    ) -> Self {
        if has_place {
            shared.counters.connections_accepted.fetch_add(1, Ordering::Relaxed);
        }
        Self {
            shared,
            slot,
            session,
            has_left: false,
            decoder,
            origin: Arc::clone(origin),
            opened: false,
            has_place,
            has_published: false,
            is_forwarded: false,
            fresh: true,
            published: None,
            left: None,
            rest: None,
            preface: None,
            undecoded: true,
            portion: Portion::default(),
            passed_on: false,
            why: None,
            step: Step::Reading,
        }
    }

    /// Begins to close, and tells the client why.
    fn say_bye(&mut self, id: RequestId, code: ErrorCode, message: &str) {
        self.say_goodbye(Refusal { id, ..refusal(code, message) });
    }

    fn say_goodbye(&mut self, refusal: Refusal<'_>) {
        if !matches!(refusal.code, ErrorCode::ServerDraining | ErrorCode::Disconnected | ErrorCode::Banned) {
            self.shared.counters.frames_refused.fetch_add(1, Ordering::Relaxed);
        }
        self.why = Some(refusal.code);
        // A browser comes back to a stream that has ended, and not to a request that was refused.
        if self.opened && refusal.code.class() != ErrorClass::DoNot {
            self.begin();
        }
        let has_begun = self.opened && !self.is_held();
        let goodbye = if has_begun { ServerEvent::Bye(refusal) } else { ServerEvent::Refused(refusal) };
        let last_words = match self.decoder.refuse(&refusal) {
            Refusing::With(bytes) if !has_begun => bytes,
            // Where the codec has panicked there is no more to say.
            _ => self.slot.codecs().encode(self.slot.codec(), &goodbye).unwrap_or_default(),
        };
        self.part(last_words);
    }

    /// Begins to close with these last words. They come after the answers to all that the client has asked for, and after the
    /// last message: many a protocol allows nothing behind them.
    fn part(&mut self, last_words: Bytes) {
        self.close();
        if let Step::Closing(closing) = &mut self.step {
            closing.last_words = last_words;
        }
    }

    /// Tells the client why something is not done.
    fn tell_error(&self, id: RequestId, topic: Option<&TopicName>, code: ErrorCode, message: &str) {
        self.shared.counters.frames_refused.fetch_add(1, Ordering::Relaxed);
        self.slot.tell(&ServerEvent::Error { id, topic, code, message });
    }

    /// Answers a frame with an error. It may name no message, so it must not overtake the answers to earlier ones.
    fn answer_error(&mut self, error: FrameError) {
        log::debug!("client {} ({}): {error}", self.slot.id, self.session.peer);
        if !self.slot.is_settled() {
            self.step = Step::Settling(Box::new(error));
        } else if error.is_fatal() {
            self.say_bye(error.id, error.code, &error.message);
        } else if self.preface.is_some() {
            self.refuse_topic(error);
        } else {
            self.tell_error(error.id, error.topic.as_ref(), error.code, &error.message);
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
            self.give_up_preface();
            self.leave_topics();
            let deadline = self.shared.close_deadline(self.shared.config.drain_timeout);
            let deadline = Box::pin(tokio::time::sleep_until(deadline));
            let closing = Closing { last_words: Bytes::new(), fin_sent: false, discarded: 0, deadline };
            let before = std::mem::replace(&mut self.step, Step::Closing(Box::new(closing)));
            self.give_up(before);
            self.forget_input();
            self.leave_reserve();
        }
    }

    /// Tells a publisher that its message, which still waited, is not published.
    fn give_up(&self, step: Step) {
        let (topic, pending, outcome) = match step {
            Step::Permitting(permitting) => (permitting.topic, permitting.pending, permitting.outcome),
            Step::Offering(offering) => match *offering {
                Offering { topic, pending: Some(pending), outcome, .. } => (topic, pending, outcome),
                Offering { pending: None, .. } => return,
            },
            _ => return,
        };
        let error = if self.shared.is_draining() { PublishError::ShuttingDown } else { PublishError::ConnectionClosed };
        // A publisher whose connection closes with its message takes a mere FIN for a receipt.
        if outcome.is_some() {
            self.tell_error(None, Some(&topic), error.code(), &error.to_string());
        }
        pending.refuse(error);
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
            Step::JoiningPatiently(asked) => {
                Some((self.shared.topics.table.find(asked.name.as_str()), &asked.subscription))
            }
            _ => None,
        };
        if let Some((Some(topic), subscription)) = asked
            && subscription.first_seq().is_some()
        {
            self.joined((topic, Arc::clone(subscription)));
        }
        let expires = self.shared.clock.tick().after(self.shared.clock.ticks(self.shared.config.session_ttl));
        let places = Places::of(&self.shared.config);
        let Leaving { joined, ended } = self.shared.sessions.table.detach(&self.session, expires, places);
        self.note_detached(joined.len());
        for (topic, subscription) in joined {
            leave(&topic, subscription);
        }
        self.shared.accounts.note_ended(Limit::DetachedSessions, ended, &self.shared);
    }

    /// Goes on until there is nothing to do for now; ready when the connection is over.
    fn run(&mut self, cx: &mut task::Context<'_>) -> Poll<()> {
        if self.slot.poll_attention(cx.waker()) {
            #[cfg(feature = "fault-injection")]
            assert!(!self.slot.crash.load(Ordering::Relaxed), "injected: a Transport");
            if let Some(end) = self.slot.take_end() {
                if end == End::PingTimeout && matches!(self.step, Step::Reading) {
                    // The answer may have come while others had their turn.
                    let _ = self.read(cx);
                }
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
                    let joined = joined.map_err(|error| refused(error, asked.id, &asked.name));
                    self.step = Step::Reading;
                    match joined {
                        Ok(joined) => self.joined(joined),
                        Err(error) => self.answer_error(error),
                    }
                }
                Step::Waiting(command) | Step::Authenticating(command, _) => {
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
                Step::Offering(_) => {
                    ready!(self.poll_portion(cx));
                    ready!(self.offer(cx));
                }
                Step::Replaying(_) => ready!(self.replay(cx)),
                Step::Settling(_) => ready!(self.settle()),
                Step::Closing(_) => ready!(self.finish_closing(cx)),
                Step::PassingOn(_) => self.finish_passing_on(),
                Step::Over => return Poll::Ready(()),
            }
        }
    }

    /// Notes what is kept of what the client has sent; whether the connection is to be closed for it.
    fn account(&mut self) -> bool {
        let rest = self.rest.as_ref().map_or(0, |rest| rest.len());
        let under_way = match &self.step {
            Step::Offering(offering) => offering.pending.as_ref().map_or(0, Pending::accounted_bytes),
            Step::Permitting(permitting) => permitting.pending.accounted_bytes(),
            Step::Authenticating(_, bytes) => *bytes,
            _ => 0,
        };
        if self.account_for(self.decoder.memory() + rest + under_way) {
            self.shared.bound_input();
        }
        self.slot.kept.is_given_up() && !matches!(self.step, Step::Closing(_) | Step::Over)
    }

    /// Whether it is more than before.
    fn account_for(&self, kept: usize) -> bool {
        self.slot.note_kept(kept, self.shared.clock.tick(), &self.shared)
    }

    /// Lets go of all that is kept of what the client has sent: a connection that closes takes nothing further of it.
    fn forget_input(&mut self) {
        self.decoder = Box::new(Deaf);
        self.rest = None;
        self.account_for(0);
    }

    /// Carries out what the server decided about this connection.
    fn end(&mut self, end: End) {
        let closing = matches!(self.step, Step::Closing(_) | Step::Over);
        if closing && !end.resets() && end != End::Crowded {
            return;
        }
        let (id, peer) = (self.slot.id, self.session.peer);
        match end {
            End::SlowConsumer { why, frames, bytes } => {
                self.shared.ledger().cut_off(why);
                self.why = Some(ErrorCode::SlowConsumer);
                let why = match why {
                    SlowReason::QueueFull if self.shared.config.max_queue_frames == 0 => "max_queue_bytes is reached",
                    SlowReason::QueueFull => "max_queue_frames or max_queue_bytes is reached",
                    SlowReason::Stalled => "it has taken nothing for too long",
                    SlowReason::Memory => "memory is nearly used up and its queue among the largest",
                };
                // Thousands may stall together, and the log must not stall everybody else.
                let level = if self.shared.cut_off_lines.take(self.shared.clock.tick().number()) {
                    Level::Warn
                } else {
                    Level::Debug
                };
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
            End::GivenUp => {
                // While a command of its own waits, what comes after that is not read, and may be there.
                if closing || matches!(self.step, Step::Reading) {
                    log::debug!("client {id} ({peer}): closed, it takes nothing and sends nothing");
                    self.step = Step::Over;
                }
            }
            End::CodecPanicked => {
                self.why = Some(ErrorCode::Internal);
                self.step = Step::Over;
            }
            End::FrameTimeout => self.time_is_up(),
            End::PingTimeout => self.end_if_silent(),
            End::Overloaded => self.end_for_memory(),
            End::Crowded => self.crowded_out(),
            End::MessagesLost => {
                log::warn!(
                    "client {id} ({peer}): closed, it would have missed messages of a topic that started afresh"
                );
                self.say_bye(None, ErrorCode::TopicUnavailable, "messages were lost; connect and subscribe again");
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
                if !reconnect {
                    self.shared.sessions.table.end(&self.session);
                }
            }
            End::SessionTaken => {
                log::debug!("client {id} ({peer}): closed, another connection has taken over its session");
                self.say_bye(None, ErrorCode::SessionTaken, "another connection has taken over this session");
            }
        }
    }

    /// Closes because memory is short, and the client holds some without having asked for anything.
    fn end_for_memory(&mut self) {
        self.shared.counters.connections_closed_for_memory.fetch_add(1, Ordering::Relaxed);
        if let Some(account) = &self.slot.account {
            account.given_up.add(1);
        }
        log::debug!("client {} ({}): closed, memory is short", self.slot.id, self.session.peer);
        let message = "the server is short of memory, and this connection holds some without asking for anything";
        self.say_bye(None, ErrorCode::ServerOverloaded, message);
        // Where something was sent that is not read, a reset would overtake the frame that says why.
        let patience = if self.slot.kept.is_given_up() { LINGER } else { Duration::ZERO };
        if let Step::Closing(closing) = &mut self.step {
            closing.deadline.as_mut().reset(self.shared.close_deadline(patience));
        }
    }

    /// Closes because the instance ends.
    fn drain(&mut self) {
        if !matches!(self.step, Step::Closing(_) | Step::Over) {
            let end = self.shared.draining.end();
            let rest = end.map_or(Duration::ZERO, |end| end.saturating_duration_since(Instant::now()));
            let reconnect_after = Some(after_a_restart(rest, self.shared.config.restart_time));
            let usual = refusal(ErrorCode::ServerDraining, "the server is shutting down");
            self.say_goodbye(Refusal { reconnect_after, ..usual });
        }
    }

    /// Reads, decodes and carries out; ready when the next step is another one.
    fn read(&mut self, cx: &mut task::Context<'_>) -> Poll<()> {
        if self.slot.is_paused() {
            return Poll::Pending;
        }
        ready!(self.poll_portion(cx));
        if self.undecoded {
            // Also where no byte is left: one request may ask for many things.
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
            if self.is_interrupted() {
                return self.wait_for_portion(Want::More, cx);
            }
        }
        SCRATCH.with_borrow_mut(|scratch| {
            while !self.undecoded && self.may_go_on() {
                match ready!(self.slot.poll_read(cx, scratch)) {
                    Ok(0) => self.in_turn(Lengthy::HalfClosed),
                    Ok(length) => {
                        self.portion.add_read(length);
                        let mut input = &scratch[..length];
                        self.process(&mut input);
                        self.slot.pulse.hear(self.shared.clock.tick());
                        if !input.is_empty() {
                            self.rest = Some(Box::new(Bytes::copy_from_slice(input)));
                        }
                        if self.is_interrupted() || length == scratch.len() && matches!(self.step, Step::Reading) {
                            return self.wait_for_portion(Want::More, cx);
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

    /// Carries out the commands in `input`, up to one that has to wait, or to the end of a portion.
    fn process(&mut self, input: &mut &[u8]) {
        let limits = self.shared.wire_limits();
        let mut completed = false;
        self.undecoded = true;
        while self.may_go_on() && !self.portion.is_used_up() {
            let Some(decoded) = self.decoder.decode(input, &limits) else {
                self.undecoded = false;
                break;
            };
            self.portion.add_command(&decoded);
            let becomes = matches!(decoded, Ok(Command::Become(_)));
            match decoded {
                Ok(command) => self.carry_out(command),
                Err(error) => self.answer_error(error),
            }
            // A client that is not served yet gains no time by what does not open its connection, such as a ping, and a guest
            // none by anything but a publication.
            // Nor does one that leaves a message unfinished gain any by a ping between two parts of it.
            let gains_time = self.opened && !self.is_silent_guest() || becomes;
            completed = completed || (gains_time && !self.decoder.is_mid_frame());
        }
        // Nothing is known of what follows the end of a portion. A frame that was late before it is late after it.
        if !self.is_interrupted() || completed {
            let unfinished = input.is_empty() && self.is_awaited();
            self.slot.set_unfinished(unfinished, completed, self.shared.clock.tick());
        }
    }

    /// Whether the next command may be carried out: none waits, and the client takes the answers to those before.
    fn may_go_on(&self) -> bool {
        matches!(self.step, Step::Reading) && !self.slot.is_paused()
    }

    /// Whether the client owes us bytes: the rest of a frame, what opens its connection, or what a guest is for.
    fn is_awaited(&self) -> bool {
        matches!(self.step, Step::Reading) && (self.decoder.is_mid_frame() || !self.opened || self.is_silent_guest())
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
        if self.needs_place(&command) && !self.take_place() {
            return;
        }
        let fresh = self.fresh;
        self.fresh &= matches!(command, Command::Ping | Command::Pong);
        self.note_asked(&command);
        match command {
            Command::Open(open) if !self.opened => self.open(*open),
            Command::Open(_) => {
                let message = "a connection is opened once, with what it begins with";
                self.answer_error(FrameError::new(ErrorCode::BadOpen, message));
            }
            Command::Refused(error) => self.answer_error(error),
            Command::Answer(bytes) => self.slot.send(bytes),
            Command::Preface(bytes) if !self.opened => {
                self.slot.cork();
                self.preface = Some(Box::new(Preface::new(bytes)));
            }
            Command::Preface(_) => {
                let message = "a preface comes before what opens the connection";
                self.answer_error(FrameError::new(ErrorCode::Internal, message));
            }
            Command::Close(bytes) => self.part(bytes),
            Command::Become(bytes) => self.become_successor(bytes),
            Command::PassOn => self.pass_on(),
            _ if !self.opened => {
                let message = "open the connection first";
                self.answer_error(FrameError::new(ErrorCode::BadOpen, message));
            }
            Command::Ping => {}
            Command::Pong => self.answered_ping(),
            Command::AllAsked => self.all_asked(),
            Command::Attach { token, received } if fresh => self.in_turn(Lengthy::Attach(Box::new((token, received)))),
            Command::Attach { .. } => {
                let message = "attach with the first frame of a connection; this one has its own session";
                self.answer_error(FrameError::new(ErrorCode::BadAttach, message));
            }
            Command::Subscribe { topic: name, since, horizon, id } => {
                self.ask_to_subscribe(Box::new(Asking { name, since, horizon, id }));
            }
            Command::Unsubscribe { topic: name, id } => {
                self.unsubscribe(&name);
                self.session.forget_earlier(&name, self.shared.config.max_topics_per_client);
                self.slot.tell(&ServerEvent::Unsubscribed { id, topic: &name });
            }
            Command::Publish { topic, publication, ack, id } => {
                let reply = Reply::connection(Arc::clone(&self.slot), topic.clone(), ack, id);
                self.publish(topic, Pending { publication, reply }, None);
            }
            Command::PublishAndClose { topic, publication } => {
                // The FIN follows the commit: the publisher may take it for a receipt.
                let (reply, outcome) = Reply::promise();
                self.publish(topic, Pending { publication, reply }, Some(outcome));
            }
        }
    }

    /// Whoever is subscribed or publishes is no stranger.
    fn note_asked(&self, command: &Command) {
        let asks = matches!(
            command,
            Command::Subscribe { .. }
                | Command::Attach { .. }
                | Command::Publish { .. }
                | Command::PublishAndClose { .. }
        );
        if asks && !self.slot.has_asked() {
            self.slot.note_asked();
        }
    }

    fn conclude(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Authenticated(open, identity) => self.authenticated(*open, identity),
            Outcome::Permitted(asking, Ok(())) => self.in_turn(Lengthy::Subscribe(asking)),
            Outcome::Permitted(asking, Err(Refused { code, message, .. })) => {
                self.answer_error(FrameError::new(code, message).with_id(asking.id).with_topic(&asking.name));
            }
            Outcome::Prepared(prepared) => self.resume(*prepared),
            Outcome::Found(asking, Ok(topic)) => self.go_on(*asking, &topic),
            Outcome::Found(asking, Err(error)) => self.answer_error(refused(error, asking.id, &asking.name)),
            Outcome::Published(result) => {
                if let Err(error) = result {
                    self.tell_error(None, None, error.code(), &error.to_string());
                }
                self.close();
            }
        }
    }

    fn finish_closing(&mut self, cx: &mut task::Context<'_>) -> Poll<()> {
        let Step::Closing(closing) = &mut self.step else { return Poll::Ready(()) };
        if !closing.fin_sent && self.slot.is_settled() {
            // Much may wait for a client that reads slowly, and a heartbeat would come behind the last words.
            self.slot.fall_silent();
            self.slot.send(std::mem::take(&mut closing.last_words));
            if self.slot.is_flushed() {
                self.slot.shut_down();
                closing.fin_sent = true;
                closing.deadline.as_mut().reset(self.shared.close_deadline(LINGER));
            }
        }
        if closing.deadline.as_mut().poll(cx).is_ready() {
            // An answer that is still owed will not come any more.
            self.slot.send(std::mem::take(&mut closing.last_words));
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
        self.leave_line();
        self.account_for(0);
        if self.opened
            && let Some(client) = self.session.client()
        {
            self.tell_observers(News::Disconnected(Arc::clone(client), self.ending()));
        }
        self.note_closed();
        self.shared.table.remove(&self.slot);
        if !self.slot.close() {
            self.shared.counters.cut_off.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// The decoder of a connection that closes: nothing that its client still sends means anything.
struct Deaf;

impl Decoder for Deaf {
    fn decode(&mut self, input: &mut &[u8], _: &Limits) -> Option<Result<Command, FrameError>> {
        *input = &[];
        None
    }

    fn buffered(&self) -> usize {
        0
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
        let mut run = transport.run(cx);
        if transport.account() && run.is_pending() {
            transport.end(End::Overloaded);
            run = transport.run(cx);
        }
        transport.charge();
        ready!(run);
        ctx.stop();
        Poll::Ready(())
    }
}
