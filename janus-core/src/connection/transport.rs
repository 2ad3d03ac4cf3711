//! A connection: the original's `transport`.
//!
//! A Transport reads its socket, decodes, and carries out the client's commands one after the other. A Transport also
//! writes out the queue of a lagging client, and closes the connection. No other code reads the socket; every writer
//! writes through the connection's [`Slot`].
//!
//! Commands wait for each other: while a topic is being made, or a publisher waits for room, nothing further is read.
//! So back-pressure reaches the client through TCP. Bytes that were read and not yet decoded are kept until then.
//!
//! However a Transport ends (by itself, by a panic, killed), its `Drop` leaves the topics and keeps the session listed.
//!
//! This file holds the state of a connection and its loop. The folder `transport/` holds the steps:
//!
//! | file | the connection… |
//! |---|---|
//! | `answering.rs` | answers the heartbeat, or not |
//! | `assigning.rs` | subscribes its client to the topics of the client's identity |
//! | `beginning.rs` | begins an event stream, with all topics named in the request |
//! | `closing.rs` | answers errors, says goodbye, sends a FIN |
//! | `commands.rs` | carries out commands |
//! | `ends.rs` | ends by the server's decision: one row for each reason |
//! | `history.rs` | reads messages from before for its client |
//! | `identity.rs` | gives its client an identity, refreshes it, and lets it expire |
//! | `keeping.rs` | is kept between requests of HTTP, and answers them in their order |
//! | `life.rs` | leaves lines in the log and in traces |
//! | `opening.rs` | opens, becomes another codec's, or leaves for another owner |
//! | `pacing.rs` | keeps the client to its rates |
//! | `places.rs` | takes a place of `max_connections`, or stays a guest |
//! | `portion.rs` | waits for a portion of work |
//! | `presence.rs` | is a member of its topics, and watches and answers who else is |
//! | `publishing.rs` | publishes |
//! | `rare.rs` | keeps what most connections never have |
//! | `reading.rs` | reads and decodes |
//! | `resuming.rs` | takes over a session and replays missed messages |
//! | `subscribing.rs` | subscribes and unsubscribes |
//! | `users.rs` | counts for its user |
//! | `whence.rs` | learns the client's own address, and keeps to its limits |

/// A line of the log about a client, with its number and its address as key-values, and others in brackets. A macro, so
/// that the log's limit counts each place on its own.
macro_rules! log_client {
    ($transport:expr, $level:expr, [$($pairs:tt)+], $($words:tt)+) => {
        log::log!(
            $level, conn = $transport.slot.id, peer:% = $transport.session.peer(), $($pairs)+;
            "client {} ({}): {}", $transport.slot.id, $transport.session.peer(), format_args!($($words)+)
        )
    };
    ($transport:expr, $level:expr, $($words:tt)+) => {
        log::log!(
            $level, conn = $transport.slot.id, peer:% = $transport.session.peer();
            "client {} ({}): {}", $transport.slot.id, $transport.session.peer(), format_args!($($words)+)
        )
    };
}

mod answering;
mod assigning;
mod beginning;
mod closing;
mod commands;
mod ends;
mod history;
mod identity;
mod keeping;
mod life;
mod opening;
mod pacing;
mod places;
mod portion;
mod presence;
mod publishing;
mod rare;
mod reading;
mod resuming;
mod subscribing;
#[cfg(test)]
mod tests;
mod users;
mod whence;

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{self, Poll, ready};
use std::time::Duration;

use actix::prelude::*;
use bytes::Bytes;

use crate::accounts::admission::{Admission, Excess};
use crate::connection::Connections;
use crate::connection::foreknown::Foreknown;
use crate::connection::listener::Origin;
use crate::delivery::{End, Slot};
use crate::ground::clock::Deadline;
use crate::ground::homes::HomeId;
use crate::hooks::{Identity, News, Refused, TlsClient};
use crate::session::Session;
use crate::supervision::Dormant;
use crate::topic::history::{History, HistoryError};
use crate::topic::publish::{PublishError, Receipt};
use crate::topic::{PresenceError, PresenceInfo, TopicError, TopicState};
use crate::wire::{Command, Decoder, ErrorCode, FrameError, Open, TopicName};

use closing::Closing;
use commands::{Lengthy, Queueing};
use history::Reading;
use identity::Renewal;
pub(crate) use identity::check;
use keeping::Answers;
pub(crate) use keeping::Returning;
use opening::PassingOn;
pub(crate) use opening::refusal;
use pacing::{Pace, Slowed};
use portion::Portion;
use presence::Question;
use publishing::{Offering, Permitting};
use rare::Seldom;
use resuming::{Prepared, Replaying};
use subscribing::{Asked, AskedPatiently, Asking, refused};
pub(crate) use whence::client_of;

/// How long a request that changes no message, such as subscribing, may take, crashes of the actors involved included.
pub(crate) const CONTROL_TIMEOUT: Duration = Duration::from_secs(5);

/// The actor of a connection.
pub(crate) struct Transport {
    shared: Arc<Connections>,
    slot: Arc<Slot>,
    session: Arc<Session>,
    /// The arbiter on which the Transport lives.
    home: HomeId,
    /// Whether the topics have been left and the session has been detached.
    has_left: bool,
    decoder: Box<dyn Decoder>,
    origin: Arc<Origin>,
    /// Whether the client is served: greeted, and its session listed.
    opened: bool,
    /// Whether the connection has a place of `max_connections`; see `places.rs`.
    has_place: bool,
    /// Whether the client has published without a place.
    has_published: bool,
    /// Whether the connection is counted as accepted.
    is_counted: bool,
    /// The order of the answers to requests.
    answers: Answers,
    /// Whether a proxy has passed the client on from elsewhere.
    is_foreign: bool,
    /// Whether the first request has been asked for the client's own address.
    knows_client: bool,
    /// Counts against the limits of the client's address.
    admission: Admission,
    /// Whether the client has not asked for anything yet, and so may still take over an earlier session.
    fresh: bool,
    /// The topic of the last message: a publisher mostly continues with the same topic.
    published: Option<Arc<TopicState>>,
    /// Bytes read and not yet decoded, while a command waits. Boxed, because most connections have none, and 19,000
    /// connections pay for every byte of this struct.
    rest: Option<Box<Bytes>>,
    rare: Seldom,
    /// When the next proof of identity may be asked about.
    next_renewal: Deadline,
    /// Whether the decoder may yield another command without further bytes.
    undecoded: bool,
    /// Whether the client is to complete a TLS record within `frame_timeout`.
    owes_record: bool,
    portion: Portion,
    pace: Pace,
    /// Whether the connection is listed as one of its user's.
    counts_for_user: bool,
    /// Whether the connection counts as open, see `Codecs::open`.
    counts_as_open: bool,
    /// Whether the connection serves requests of an API, and nothing else so far.
    is_of_requests: bool,
    /// Why the server ends the connection, if it does.
    why: Option<ErrorCode>,
    step: Step,
}

/// The present step of the Transport. A pointer at most, because nearly all of 19,000 connections are reading.
enum Step {
    /// Reading and decoding.
    Reading,
    /// Waiting for a turn to carry out a lengthy command, because many other connections want to as well.
    Queueing(Box<Queueing>),
    /// Waiting for room under a rate of the client.
    Slowed(Box<Slowed>),
    /// Waiting for the topic to take the subscriber.
    Joining(Box<Asked>),
    /// Waiting for a topic that must be made first, or has just crashed, to take the subscriber.
    JoiningPatiently(Box<AskedPatiently>),
    /// Waiting for a command that takes longer, or needs other actors, or for a hook to say whether the client is served.
    Waiting(Box<Waiting>),
    /// Waiting for a hook to say whether a message may be published.
    Permitting(Box<Permitting>),
    /// Waiting for room in a topic.
    Offering(Box<Offering>),
    /// Sending the messages that the client missed while its session had no connection.
    Replaying(Box<Replaying>),
    /// Waiting for the answers to earlier messages, which the error must not overtake.
    Settling(Box<FrameError>),
    /// Waiting for the answer to an earlier request, before which no other is decoded.
    Answering,
    /// Waiting until the client has taken all answers, before the stream has another use.
    Emptying(Box<Command>),
    /// Writing out the queue and the answers still owed, then waiting for the peer to close as well.
    Closing(Box<Closing>),
    /// Passing the stream on to another owner, once the bytes read with its head are at hand.
    PassingOn(Box<PassingOn>),
    /// Nothing is left to do, because the stream has another owner.
    PassedOn,
    /// Nothing is left to do.
    Over,
}

/// A command that takes longer, or a question to a hook.
struct Waiting {
    command: Pin<Box<dyn Future<Output = Outcome>>>,
    /// The bytes of the client's input that the hook holds.
    held: usize,
}

impl Step {
    fn waiting(command: impl Future<Output = Outcome> + 'static) -> Self {
        Self::waiting_with(command, 0)
    }

    fn waiting_with(command: impl Future<Output = Outcome> + 'static, held: usize) -> Self {
        Self::Waiting(Box::new(Waiting { command: Box::pin(command), held }))
    }
}

/// The result of a step in which the Transport waited.
enum Outcome {
    /// The identity of a client that wants to be served, or why the client is not served.
    Authenticated(Box<Open>, Result<Arc<Identity>, Refused>),
    /// A new identity of the client, or why there is none.
    Renewed(Renewal, Result<Arc<Identity>, Refused>),
    /// The topics that a new identity does not grant, by the word of a hook.
    Reviewed(Vec<(TopicName, Refused)>),
    /// Whether the client may subscribe.
    Permitted(Box<Asking>, Result<(), Refused>),
    /// Whether the client may know who is subscribed.
    Shown(Question, Result<(), Refused>),
    /// Who is subscribed, by the word of the engine.
    Present(Question, Result<PresenceInfo, PresenceError>),
    /// Whether the client may read the history of a topic.
    MayRead(Box<Reading>, Result<(), Refused>),
    /// The history of a topic that an engine numbers.
    HasRead(Box<Reading>, Result<History, HistoryError>),
    /// The topics of a claimed session exist, as far as possible.
    Prepared(Box<Prepared>),
    /// The topic that a client wants to resume exists, or cannot.
    Found(Box<Asking>, Result<Arc<TopicState>, TopicError>),
    Published(Result<Receipt, PublishError>),
}

impl Transport {
    /// The decoder may hold input of the client already.
    pub(crate) fn new(
        shared: Arc<Connections>,
        slot: Arc<Slot>,
        session: Arc<Session>,
        origin: &Arc<Origin>,
        decoder: Box<dyn Decoder>,
        has_place: bool,
        home: HomeId,
    ) -> Self {
        slot.codecs().note_opened(slot.codec());
        let mut transport = Self {
            shared,
            slot,
            session,
            home,
            has_left: false,
            decoder,
            origin: Arc::clone(origin),
            opened: false,
            has_place,
            has_published: false,
            is_counted: false,
            answers: Answers::default(),
            is_foreign: false,
            knows_client: false,
            admission: Admission::default(),
            fresh: true,
            published: None,
            rest: None,
            rare: Seldom::default(),
            next_renewal: Deadline::default(),
            undecoded: true,
            owes_record: false,
            portion: Portion::default(),
            pace: Pace::default(),
            counts_for_user: false,
            counts_as_open: true,
            is_of_requests: false,
            why: None,
            step: Step::Reading,
        };
        if has_place {
            transport.count_accepted();
        }
        transport
    }

    /// Sets what is known about the client from before the connection had a Transport; `tls` is for hooks.
    pub(crate) fn set_client(
        &mut self,
        is_foreign: bool,
        admission: Result<Admission, Excess>,
        tls: Option<Box<TlsClient>>,
    ) {
        self.is_foreign = is_foreign;
        if tls.is_some() {
            self.rare.make().tls = tls;
        }
        match admission {
            Ok(admission) => self.admission = admission,
            Err(Excess { limit, .. }) => self.rare.make().excess = Some(limit),
        }
    }

    /// Takes over what the program says of the client, before anything is read.
    pub(crate) fn foreknow(&mut self, foreknown: Foreknown) {
        let Foreknown { identity, knows_client, received } = foreknown;
        self.knows_client = knows_client;
        self.rest = Some(Box::new(received)).filter(|rest| !rest.is_empty());
        if identity.is_some() {
            self.rare.make().known = identity;
        }
    }

    /// Opens a connection whose server speaks first, or tells the client which limit of its address is reached.
    pub(crate) fn begin_at_once(&mut self) {
        match self.rare.take_excess() {
            None => self.open(Open::default()),
            Some(limit) => self.refuse_excess(limit),
        }
    }

    /// Works until there is nothing to do for now; ready when the connection is over.
    fn run(&mut self, cx: &mut task::Context<'_>) -> Poll<()> {
        if self.slot.poll_attention(cx.waker()) {
            #[cfg(feature = "fault-injection")]
            assert!(!self.slot.crash.load(Ordering::Relaxed), "injected: a Transport");
            if let Some(end) = self.slot.take_end() {
                if (end == End::PingTimeout || self.slot.is_idle()) && matches!(self.step, Step::Reading) {
                    // The answer, or another request, may have come while other connections had their turn.
                    let _ = self.read(cx);
                }
                self.end(end);
            }
            self.slot.flush(cx);
        }
        loop {
            match &mut self.step {
                Step::Reading => ready!(self.read_or_assign(cx)),
                Step::Queueing(queueing) => {
                    ready!(self.shared.shift(self.home).turns.poll_place(&mut queueing.ticket, cx.waker()));
                    let Step::Queueing(queueing) = std::mem::replace(&mut self.step, Step::Reading) else { continue };
                    self.proceed(queueing.then);
                }
                Step::Slowed(_) => ready!(self.await_room(cx)),
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
                Step::Waiting(waiting) => {
                    let outcome = ready!(waiting.command.as_mut().poll(cx));
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
                        Ok(()) => self.offer(topic, pending, outcome),
                        Err(denied) => self.deny(denied, pending, outcome),
                    }
                }
                Step::Offering(_) => {
                    ready!(self.poll_portion(cx));
                    ready!(self.offer_again(cx));
                }
                Step::Replaying(_) => ready!(self.replay(cx)),
                Step::Settling(_) => ready!(self.settle()),
                Step::Answering => ready!(self.await_answer()),
                Step::Emptying(_) => ready!(self.empty()),
                Step::Closing(_) => ready!(self.finish_closing(cx)),
                Step::PassingOn(_) => self.finish_passing_on(),
                Step::PassedOn | Step::Over => return Poll::Ready(()),
            }
        }
    }

    /// Whether the connection closes already, or has.
    fn is_closing(&self) -> bool {
        matches!(self.step, Step::Closing(_) | Step::PassedOn | Step::Over)
    }
}

impl Actor for Transport {
    type Context = Context<Self>;

    fn stopping(&mut self, _: &mut Context<Self>) -> Running {
        self.stopping_dormant()
    }
}

/// An idle connection has no context: 19,000 contexts would take as much memory as all else of these connections.
impl Dormant for Transport {
    fn poll_work(&mut self, cx: &mut task::Context<'_>) -> Poll<()> {
        let mut run = self.run(cx);
        if self.note_input() && run.is_pending() {
            self.end(End::Overloaded);
            run = self.run(cx);
        }
        self.charge();
        self.rare.tidy();
        run
    }

    /// A stop by the supervisor is a close: the connection lasts until its queue is written.
    fn stopping_dormant(&mut self) -> Running {
        if self.is_over() {
            return Running::Stop;
        }
        self.end(End::Draining);
        Running::Continue
    }
}

/// However the actor ended, the connection leaves its topics, and its socket closes.
impl Drop for Transport {
    fn drop(&mut self) {
        self.detach();
        self.cancel_portion();
        self.note_kept(0);
        if self.opened
            && let Some(client) = self.client()
        {
            self.tell_observers(News::Disconnected(Arc::new(client), self.ending()));
        }
        self.count_end();
        self.note_closed();
        self.shared.table.remove(&self.slot);
        if !self.slot.close() {
            self.shared.counters.cut_off.fetch_add(1, Ordering::Relaxed);
        }
    }
}
