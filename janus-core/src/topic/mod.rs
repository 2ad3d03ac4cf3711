//! One topic: the sequencer of its messages and the owner of its subscribers.
//!
//! A topic is two things. [`TopicState`] is what must outlive a crash: subscribers, epoch, sequence number, messages
//! accepted but not numbered (the inbox), messages numbered but not handed to everybody (the batches). It lies outside
//! the actor, the way an ETS table has an heir. [`Topic`] is the actor that works on it: it numbers, encodes, and
//! hands out, and holds nothing itself. When it panics its successor goes on where it stopped.
//!
//! The commit point of a message is its [`OpenBatch::commit`]: before it the publisher gets an error, after it every
//! subscriber gets the message, once.
//!
//! Messages wait in the inbox and not in the actor's mailbox because a mailbox has no limit and dies with its actor.
//! `max_inflight_frames` and `max_inflight_bytes` bound inbox and batches together; beyond them publishers wait.
//!
//! Its latest messages stay in a [`Ring`]. A client that resumes takes what it missed from there, in portions, and joins
//! the list at the moment it has caught up ([`TopicState::catch_up`]).
//!
//! The list of subscribers changes only between passes, so it is never copied; who joins or leaves during a pass is
//! noted and applied after it. An unsubscribe stops delivery at once all the same (see [`Subscription::end`]).
//!
//! | file | what it is | what it owns |
//! |---|---|---|
//! | `manager.rs` | actor | nothing: makes topics, ends unused ones |
//! | `publish.rs` | API | a message on its way into a topic, and its receipt |
//! | `ring.rs` | pure | the latest messages of a topic |
//! | `room.rs` | table | publishers that wait for room in a topic |
//! | `shared.rs` | table | what this floor shares |
//! | `subscriber.rs` | API | subscribers in this process, and history |
//! | `table.rs` | table | topics by name |
//! | `unused.rs` | pure | when a topic may end, and what is remembered of it |

pub(crate) mod manager;
pub(crate) mod publish;
pub(crate) mod ring;
mod room;
pub(crate) mod shared;
pub(crate) mod subscriber;
pub(crate) mod table;
mod unused;

use std::collections::VecDeque;
use std::ops::Range;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{self, Poll, Waker};

use actix::fut::ActorFuture;
use actix::prelude::*;
use futures_util::future::{Either, select};
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::accounts::Account;
use crate::config::{Config, Resume};
use crate::delivery::codecs::CodecSet;
use crate::delivery::pass::{Help, PIECE, Server};
use crate::delivery::queue::Messages;
use crate::delivery::{Batch, End, Ledger, OpenBatch, Pass, PassNumbers, SenderPool, Subscription, UnderWay};
use crate::ground::clock::{Clock, Tick, timestamp};
use crate::ground::tasks::yield_now;
use crate::ground::trace::{self, Said, TraceKind};
use crate::supervision::{ActorRef, StartInfo};
use crate::topic::publish::{Pending, PublishError, Receipt, Reply};
use crate::topic::ring::{Keep, Ring};
use crate::wire::classic::ErrorCode;
use crate::wire::{Position, RequestId, ServerEvent, TopicName, classic};

pub(crate) use room::{Place, Waiter};
use room::{Room, Waiting};
pub(crate) use shared::Topics;
pub(crate) use unused::{Anchor, Asleep, Fate, Hold, Spare};

/// Wakes a topic that has something in its inbox.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Work;

/// Adds a subscriber and sends its ACK. Idempotent: repeated at a successor, it subscribes and answers once.
#[derive(Message)]
#[rtype(result = "Result<(), TopicError>")]
pub(crate) struct Subscribe {
    pub(crate) subscription: Arc<Subscription>,
    /// To answer by.
    pub(crate) id: RequestId,
}

/// Takes a subscriber, whose delivery has already ended, off the list.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Unsubscribe {
    pub(crate) subscription: Arc<Subscription>,
}

/// Why a topic does not do what it was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TopicError {
    /// It crashed too often and is refused for a while.
    #[error("the topic keeps failing and is not available for now")]
    Unavailable,
    /// It was unused and has been removed; a new one takes its place when asked for.
    #[error("the topic has ended")]
    Ended,
    /// The server holds as many topics as it may.
    #[error("the server holds as many topics as it may")]
    TooMany,
}

impl TopicError {
    pub(crate) fn code(self) -> ErrorCode {
        match self {
            Self::Unavailable | Self::Ended => ErrorCode::TopicUnavailable,
            Self::TooMany => ErrorCode::TooManyTopicsOnServer,
        }
    }
}

/// The part of a topic that outlives its actor.
#[derive(Debug)]
pub(crate) struct TopicState {
    pub(crate) name: TopicName,
    pub(crate) actor: ActorRef<Topic>,
    /// Rises with each topic of an instance.
    pub(crate) number: u64,
    room: Room,
    /// What is kept for clients that resume, and as history.
    keep: Keep,
    /// The part of it that is history; nothing where that is off.
    history: Option<Keep>,
    /// What cursors of detached sessions refer to.
    pub(crate) anchor: Arc<Anchor>,
    /// Those who need it to stay for a moment although they are not on its list.
    holds: AtomicUsize,
    /// What the clients of the address hold that has asked for it first; nothing for the program's own.
    pub(crate) account: Option<Arc<Account>>,
    /// Its place among the unused topics, which the table of topics alone changes.
    pub(crate) spare: Spare,
    ledger: Arc<Ledger>,
    pass_numbers: Arc<PassNumbers>,
    core: Mutex<Core>,
    /// Tells those who wait for the actor that it will not come back, or not for long.
    given_up: Notify,
}

/// Invariants: `batches` and then `open` hold the frames `next_seq - frames .. next_seq` without a hole; `subscribers[i].index
/// == i`; `pass` carries the front of `batches`; `inflight_*` count `inbox`, `batches` and `open` together; the ledger knows of
/// `accounted` bytes, which are those of `inbox` and the `numbered` ones.
#[derive(Debug)]
struct Core {
    life: Life,
    epoch: u64,
    /// The epoch before, and the last number that was given in it. Numbers went on from there, and whoever has missed none
    /// of them was not told of the new epoch.
    earlier: Option<Position>,
    next_seq: u64,
    inbox: VecDeque<Pending>,
    open: OpenBatch,
    batches: VecDeque<Arc<Batch>>,
    /// Every sealed batch, handed out or not, as far as the limits reach.
    ring: Ring,
    pass: Option<Arc<Pass>>,
    /// The same pass, as it is counted.
    under_way: Option<UnderWay>,
    /// The number of the last pass.
    latest: u64,
    inflight_frames: usize,
    inflight_bytes: usize,
    accounted: usize,
    /// The part of it that has left the inbox and is accounted for as frames once `open` is sealed.
    numbered: usize,
    subscribers: Arc<Vec<Arc<Subscription>>>,
    /// In which codecs they get their messages, or some that have left did.
    codecs: CodecSet,
    joining: Vec<Arc<Subscription>>,
    leaving: Vec<Arc<Subscription>>,
    /// Whether an unsubscribe may have been lost with a crashed actor, so that the list must be searched for the ended.
    sweep: bool,
    /// Publishers that wait for room.
    waiting: Waiting,
    /// Whether the actor will look into the inbox without being told: a [`Work`] is on its way, or it is at work.
    notified: bool,
    last_used: Tick,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Life {
    Live,
    Quarantined,
    Ended,
}

/// What became of a message that was offered to a topic.
pub(crate) enum Offer {
    Accepted,
    /// No room for now; the caller's task is woken when there is room for it.
    Full(Pending),
    /// The topic has ended: look it up again.
    Ended(Pending),
}

/// How far a client that resumes has got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CatchUp {
    /// It has all there is and is on the list.
    Joined,
    /// It has got a portion; the next begins here.
    More(u64),
    /// What comes next is no longer there; the first number that is, or will be.
    Lost(u64),
}

/// Messages, batch by batch.
pub(crate) type Kept = Vec<(Arc<Batch>, Range<u64>)>;

/// What somebody who asked for the history of a topic gets.
pub(crate) struct Excerpt {
    /// After its messages.
    pub(crate) position: Position,
    /// Whether nothing is missing before them.
    pub(crate) complete: bool,
    /// Whether further messages follow them.
    pub(crate) more: bool,
    pub(crate) kept: Kept,
}

/// Bytes that a client which resumes is given at once; then it must have taken them.
const PORTION_BYTES: usize = 64 * 1024;

impl TopicState {
    /// A topic that begins afresh, or goes on from where it was when it fell asleep.
    pub(crate) fn new(
        name: TopicName,
        number: u64,
        account: Option<Arc<Account>>,
        asleep: Option<Asleep>,
        shared: &Topics,
    ) -> Self {
        let asleep = asleep.unwrap_or_else(|| Asleep::afresh(&name, shared.ledger(), &shared.pass_numbers));
        let books = (shared.ledger(), &shared.pass_numbers);
        Self::with_config(name, number, account, asleep, &shared.config, &shared.clock, books)
    }

    #[cfg(test)]
    pub(crate) fn for_test(name: TopicName) -> Self {
        let config = Config::default();
        let (clock, ledger, pass_numbers) = (Clock::for_config(&config), Arc::default(), Arc::default());
        let asleep = Asleep::afresh(&name, &ledger, &pass_numbers);
        Self::with_config(name, 1, None, asleep, &config, &clock, (&ledger, &pass_numbers))
    }

    /// Calls `then` while nobody else can look at this topic.
    #[cfg(test)]
    pub(crate) fn while_locked<T>(&self, then: impl FnOnce() -> T) -> T {
        let _core = self.core.lock();
        then()
    }

    fn with_config(
        name: TopicName,
        number: u64,
        account: Option<Arc<Account>>,
        Asleep { anchor, epoch, earlier, next_seq, latest }: Asleep,
        config: &Config,
        clock: &Clock,
        (ledger, pass_numbers): (&Arc<Ledger>, &Arc<PassNumbers>),
    ) -> Self {
        let namespace = config.namespace(name.as_str());
        let mut resume =
            Keep { messages: config.resume_messages, bytes: config.resume_bytes, age: clock.ticks(config.resume_age) };
        if namespace.resume == Resume::Off {
            // Nobody asks for it.
            (resume.messages, resume.bytes) = (0, 0);
        }
        let history = namespace.history.then(|| Keep {
            messages: namespace.history_messages,
            bytes: namespace.history_bytes,
            age: clock.ticks(namespace.history_age),
        });
        Self {
            actor: ActorRef::new(trace::topic_actor(&name, number)),
            number,
            room: Room::of(config),
            keep: history.map_or(resume, |history| history.max(resume)),
            history,
            anchor,
            holds: AtomicUsize::new(0),
            account,
            spare: Spare::default(),
            ledger: Arc::clone(ledger),
            pass_numbers: Arc::clone(pass_numbers),
            given_up: Notify::new(),
            name,
            core: Mutex::new(Core {
                life: Life::Live,
                epoch,
                earlier,
                next_seq,
                inbox: VecDeque::new(),
                open: OpenBatch::default(),
                batches: VecDeque::new(),
                ring: Ring::new(next_seq, latest),
                pass: None,
                under_way: None,
                latest,
                inflight_frames: 0,
                inflight_bytes: 0,
                accounted: 0,
                numbered: 0,
                subscribers: Arc::default(),
                codecs: CodecSet::default(),
                joining: Vec::new(),
                leaving: Vec::new(),
                sweep: false,
                waiting: Waiting::default(),
                notified: false,
                last_used: clock.tick(),
            }),
        }
    }

    /// Puts a message into the inbox and tells the actor.
    ///
    /// The message is answered when it has its number, or with an error if that never happens.
    pub(crate) fn offer(self: &Arc<Self>, pending: Pending, waiter: Option<&mut Waiter<'_>>) -> Offer {
        let mut waiter = waiter;
        if let Some(waiter) = &mut waiter {
            waiter.leave_others(self);
        }
        let mut core = self.core.lock();
        match core.life {
            Life::Live => {}
            Life::Quarantined => {
                drop(core);
                pending.refuse(PublishError::TopicUnavailable);
                return Offer::Accepted;
            }
            Life::Ended => return Offer::Ended(pending),
        }
        let bytes = pending.publication.len();
        let inflight = (core.inflight_frames, core.inflight_bytes);
        if !core.waiting.admit(self, bytes, inflight, waiter.as_deref_mut()) {
            return Offer::Full(pending);
        }
        core.inflight_frames += 1;
        core.inflight_bytes += bytes;
        core.accounted += pending.accounted_bytes();
        self.ledger.add_waiting(pending.accounted_bytes());
        core.inbox.push_back(pending);
        let notify = !std::mem::replace(&mut core.notified, true);
        drop(core);
        if let Some(waiter) = waiter {
            waiter.used();
        }
        if notify {
            // A topic that is not running looks into its inbox when it starts.
            let _ = self.actor.cast(Work);
        }
        Offer::Accepted
    }

    /// Waits until the actor is up, or fails once it is known that nobody need wait for it.
    pub(crate) async fn when_up(&self) -> Result<(), TopicError> {
        let given_up = pin!(self.given_up.notified());
        // Listened to before the look, or what happens between the two would be missed.
        self.check_available()?;
        match select(pin!(self.actor.when_up(None)), given_up).await {
            Either::Left(_) => Ok(()),
            Either::Right(_) => self.check_available(),
        }
    }

    /// An error for a topic that has ended, or is out of service.
    pub(crate) fn check_available(&self) -> Result<(), TopicError> {
        self.core.lock().check_life()
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.core.lock().life == Life::Ended
    }

    /// Whether nothing is left for this topic to hand out, or nobody who could.
    pub(crate) fn is_idle(&self) -> bool {
        let core = self.core.lock();
        core.inflight_frames == 0 || core.life != Life::Live
    }

    pub(crate) fn info(&self) -> TopicInfo {
        let core = self.core.lock();
        TopicInfo {
            name: self.name.clone(),
            subscribers: core.subscriber_count(),
            in_flight: core.inflight_frames,
            available: core.life == Life::Live,
        }
    }

    /// Takes the topic out of service until its next start: what has no number is refused, subscribers stay.
    pub(crate) fn quarantine(&self, senders: &SenderPool) {
        self.refuse_all(Life::Quarantined, &PublishError::TopicUnavailable, senders);
    }

    /// Ends the topic together with its instance.
    pub(crate) fn shut_down(&self, senders: &SenderPool) {
        self.refuse_all(Life::Ended, &PublishError::ShuttingDown, senders);
    }

    /// Makes a topic whose actor could not be started unfit for use.
    pub(crate) fn abandon(&self, senders: &SenderPool) {
        // Whoever has subscribed before it was started must not wait for messages that nobody sends.
        let subscribers = {
            let mut core = self.core.lock();
            core.apply_changes();
            std::mem::take(&mut core.subscribers)
        };
        for subscription in subscribers.iter() {
            subscription.slot.end(End::MessagesLost);
        }
        self.refuse_all(Life::Ended, &PublishError::TopicUnavailable, senders);
    }

    fn refuse_all(&self, life: Life, error: &PublishError, senders: &SenderPool) {
        let (inbox, waiting, pass, told) = {
            let mut core = self.core.lock();
            core.change_life(life);
            let mut told = Vec::new();
            if life == Life::Ended {
                // A connection is closed by its Transport; nobody else would tell a subscriber in this process.
                let subscribers = core.subscribers.iter().chain(&core.joining);
                told.extend(subscribers.filter(|subscription| subscription.is_local()).cloned());
            }
            let inbox = core.take_inbox();
            core.account_afresh(&self.ledger);
            (inbox, core.waiting.call_all(), core.pass.clone(), told)
        };
        for subscription in told {
            subscription.slot.end(End::ShutDown);
        }
        if let Some(pass) = pass {
            // What made the topic's actor panic again and again must not go on to the senders, whose crashes end the
            // instance.
            senders.withdraw(&pass);
        }
        for pending in inbox {
            pending.refuse(error.clone());
        }
        waiting.into_iter().for_each(Waker::wake);
        self.given_up.notify_waiters();
    }

    /// Takes those off the list who left while nobody could be told: their word goes to the actor's address, which is known
    /// from now on.
    fn sweep(&self) {
        let mut core = self.core.lock();
        core.sweep = true;
        if core.pass.is_none() {
            core.apply_changes();
        }
    }

    /// Checks what a crashed predecessor left behind and makes it fit to go on; `false` if it is not consistent.
    fn inherit(&self) -> bool {
        let mut guard = self.core.lock();
        let core = &mut *guard;
        core.change_life(Life::Live);
        core.notified = false;
        core.open.truncate_uncommitted();
        core.sweep = true;
        if core.pass.is_none() {
            core.apply_changes();
        }
        let frames: usize = core.batches.iter().map(|batch| batch.frames()).sum();
        let mut expected = core.next_seq.wrapping_sub((frames + core.open.frames()) as u64);
        for batch in &core.batches {
            if batch.last_seq() + 1 != expected + batch.frames() as u64 {
                return false;
            }
            expected = batch.last_seq() + 1;
        }
        // Counted afresh: a panic between two of these assignments must not cost the topic room for ever.
        core.inflight_frames = core.inbox.len() + frames + core.open.frames();
        core.inflight_bytes = core.inbox.iter().map(|pending| pending.publication.len()).sum::<usize>()
            + core.batches.iter().map(|batch| batch.byte_len()).sum::<usize>()
            + core.open.committed_len();
        core.account_afresh(&self.ledger);
        let waiting = core.call(self.room);
        let consistent = core.ring.is_consistent()
            && core.ring.end() == core.next_seq - core.open.frames() as u64
            && core.subscribers.iter().enumerate().all(|(i, s)| s.index.load(Ordering::Relaxed) as usize == i);
        drop(guard);
        // The message that its predecessor crashed on has left room.
        waiting.into_iter().for_each(Waker::wake);
        consistent
    }

    /// Starts afresh under a new epoch. Subscribers stay; those that would miss messages are told, or closed, for a client
    /// of the classic protocol cannot be told in another way.
    fn restart_cold(&self, senders: &SenderPool) {
        let mut guard = self.core.lock();
        let core = &mut *guard;
        core.change_life(Life::Live);
        // Where numbers do not add up, none of before means anything.
        let adds_up = core.ring.end() + core.open.frames() as u64 == core.next_seq;
        core.earlier = adds_up.then_some(Position { epoch: core.epoch, seq: core.next_seq - 1 });
        core.epoch = random_epoch();
        core.notified = false;
        if let Some(pass) = core.pass.take() {
            senders.withdraw(&pass);
        }
        core.under_way = None;
        core.latest = self.pass_numbers.last();
        core.batches.clear();
        core.open = OpenBatch::default();
        core.ring.clear(core.next_seq, core.latest);
        core.inflight_frames = core.inbox.len();
        core.inflight_bytes = core.inbox.iter().map(|pending| pending.publication.len()).sum();
        core.account_afresh(&self.ledger);
        core.sweep = true;
        core.apply_changes();
        for subscription in core.subscribers.iter() {
            // Numbers go on under the new epoch: a sender may still be at work on the old pass, and must find that
            // everybody has been served.
            subscription.slot.skip_to(subscription, &self.name, core.epoch, core.next_seq);
        }
        let waiting = core.call(self.room);
        drop(guard);
        waiting.into_iter().for_each(Waker::wake);
    }

    /// Puts a subscriber on the list, to whom everything comes that has no number yet; where it begins.
    pub(crate) fn subscribe(&self, subscription: Arc<Subscription>, tick: Tick) -> Result<Position, TopicError> {
        self.core.lock().check_life()?;
        self.rejoin(subscription, tick)
    }

    /// The same for one who was subscribed before; also while the topic is out of service.
    pub(crate) fn rejoin(&self, subscription: Arc<Subscription>, tick: Tick) -> Result<Position, TopicError> {
        let mut core = self.core.lock();
        core.check_exists()?;
        core.last_used = tick;
        if subscription.next_seq() == 0 && subscription.begin(core.next_seq) {
            core.enter(subscription);
        }
        Ok(Position { epoch: core.epoch, seq: core.next_seq - 1 })
    }

    /// Whether a subscriber that had everything before `from` can go on without a hole: how many messages it has missed.
    /// Also while the topic is out of service, which keeps the subscriptions of those who are connected, too.
    pub(crate) fn missed_since(&self, from: u64, tick: Tick) -> Result<Option<u64>, TopicError> {
        let mut core = self.core.lock();
        core.check_exists()?;
        core.ring.trim(&self.keep, tick);
        Ok((core.first_kept()..=core.next_seq).contains(&from).then(|| core.next_seq - from))
    }

    /// The same for a position, which may be of another life of the topic.
    pub(crate) fn resumable(&self, since: Position, tick: Tick) -> Result<Option<u64>, TopicError> {
        match since.seq.checked_add(1) {
            Some(from) if self.core.lock().leads_here(since) => self.missed_since(from, tick),
            _ => Ok(None),
        }
    }

    pub(crate) fn epoch(&self) -> u64 {
        self.core.lock().epoch
    }

    /// The first message that a subscriber can still be given, or the next.
    pub(crate) fn first_available(&self, tick: Tick) -> Position {
        let mut core = self.core.lock();
        core.ring.trim(&self.keep, tick);
        Position { epoch: core.epoch, seq: core.first_kept() }
    }

    /// Sends a portion of what a subscriber that had everything before `from` has missed. One that has got all of it joins
    /// the list in the same moment, so that nothing is missing or repeated between what it missed and what is to come.
    ///
    /// Nothing must wait in its queue, or the portions would pile up there.
    pub(crate) fn catch_up(
        &self,
        subscription: &Arc<Subscription>,
        from: u64,
        tick: Tick,
    ) -> Result<CatchUp, TopicError> {
        let mut core = self.core.lock();
        core.check_exists()?;
        core.last_used = tick;
        // What is numbered and not yet handed out it gets from the passes to come.
        let handed_out = core.handed_out();
        let mut from = from;
        if from < handed_out {
            let first = core.first_kept();
            if from < first {
                return Ok(CatchUp::Lost(first));
            }
            let (next, is_taken) = core.replay(subscription, from..handed_out, tick);
            from = next;
            // What still waits of it must not meet what is live in the queue, which has its limits.
            if from < handed_out || !is_taken {
                return Ok(CatchUp::More(from));
            }
        }
        if subscription.next_seq() == 0 && subscription.begin(from) {
            core.enter(Arc::clone(subscription));
        }
        Ok(CatchUp::Joined)
    }

    /// Sends a portion of what was handed out by passes up to this one of what a subscriber that had everything before `from` has
    /// missed, and leaves it to the caller to have it [join](Self::catch_up) the list.
    pub(crate) fn catch_up_to(
        &self,
        subscription: &Arc<Subscription>,
        from: u64,
        pass: u64,
        tick: Tick,
    ) -> Result<CatchUp, TopicError> {
        let mut core = self.core.lock();
        core.check_exists()?;
        core.last_used = tick;
        let first = core.first_kept();
        if from < first {
            return Ok(CatchUp::Lost(first));
        }
        let end = core.first_after(pass).unwrap_or(from);
        Ok(CatchUp::More(core.replay(subscription, from..end, tick).0))
    }

    /// By which pass the message with this number was handed out: `None` if that is still to come, 0 if the message
    /// is not kept.
    pub(crate) fn handed_out_by(&self, seq: u64) -> Result<Option<u64>, TopicError> {
        let core = self.core.lock();
        core.check_exists()?;
        let pass = || core.ring.batch_with(seq).and_then(|batch| batch.pass()).unwrap_or(0);
        Ok((seq < core.handed_out()).then(pass))
    }

    /// The first number whose pass is, or will be, a later one than `pass`; `None` if it is not kept.
    pub(crate) fn first_after(&self, pass: u64, tick: Tick) -> Result<Option<u64>, TopicError> {
        let mut core = self.core.lock();
        core.check_exists()?;
        core.ring.trim(&self.keep, tick);
        Ok(core.first_after(pass))
    }

    /// The first number of those kept that no client can have had whose last message was of this pass.
    pub(crate) fn first_following(&self, pass: u64) -> u64 {
        self.core.lock().ring.first_following(pass)
    }

    /// Where the topic is now.
    pub(crate) fn position(&self) -> Result<Position, TopicError> {
        let core = self.core.lock();
        core.check_exists()?;
        Ok(Position { epoch: core.epoch, seq: core.next_seq - 1 })
    }

    /// Whether a position is one of this life of the topic, or of one before that ended without a loss.
    pub(crate) fn knows(&self, position: Position) -> bool {
        self.core.lock().leads_here(position)
    }

    /// Lets go of messages that are too old, and of those that are more than `pressure` allows; how many the latter were.
    pub(crate) fn trim(&self, tick: Tick, pressure: u32) -> usize {
        let ring = &mut self.core.lock().ring;
        ring.trim(&self.keep, tick);
        ring.trim(&self.keep.under_pressure(pressure), tick)
    }

    /// What the ledger has of the messages that the topic keeps.
    pub(crate) fn kept_bytes(&self) -> usize {
        self.core.lock().ring.accounted_bytes()
    }

    /// The first `limit` messages of its history after `since`, or the last `limit` of all; `None` where no history is
    /// kept. A position of another life of the topic is before everything.
    pub(crate) fn history(&self, since: Option<Position>, limit: usize, shared: &Topics) -> Option<Excerpt> {
        let history = self.history?;
        let tick = shared.clock.tick();
        let limit = limit as u64;
        let mut core = self.core.lock();
        let core = &mut *core;
        // What has its number is history, whether or not it has been handed out.
        self.seal(core, shared);
        core.ring.trim(&self.keep, tick);
        let (kept, all) = (core.ring.first_within(&history, tick), core.next_seq);
        let (first, complete) = match since {
            None => (kept.max(all.saturating_sub(limit)), true),
            Some(since) if core.leads_here(since) => {
                let first = since.seq.saturating_add(1);
                (first.clamp(kept, all), (kept..=all).contains(&first))
            }
            Some(_) => (kept, false),
        };
        let end = first.saturating_add(limit).min(all);
        Some(Excerpt {
            position: Position { epoch: core.epoch, seq: end - 1 },
            complete,
            more: end < all,
            kept: core.ring.portion(first..end, usize::MAX),
        })
    }

    /// Takes a subscriber off the list; whether nobody is left.
    fn unsubscribe(&self, subscription: Arc<Subscription>, tick: Tick) -> bool {
        let mut core = self.core.lock();
        core.last_used = tick;
        if core.pass.is_some() {
            core.leaving.push(subscription);
        } else {
            core.leave(&subscription);
        }
        core.subscriber_count() == 0
    }

    /// Ends the open batch: what is in it is kept, and the next pass can have it.
    fn seal(&self, core: &mut Core, shared: &Topics) {
        if core.open.frames() > 0 {
            let tick = shared.clock.tick();
            let batch = Arc::new(core.open.seal(&self.name, core.next_seq, core.epoch, tick, shared.ledger()));
            core.ring.push(&batch, &self.keep);
            if shared.pressure() > 0 {
                let trimmed = core.ring.trim(&self.keep.under_pressure(shared.pressure()), tick);
                shared.counters.messages_trimmed.fetch_add(trimmed as u64, Ordering::Relaxed);
            }
            core.batches.push_back(batch);
            let numbered = std::mem::take(&mut core.numbered);
            core.accounted -= numbered;
            self.ledger.remove_waiting(numbered);
        }
    }

    /// Numbers and encodes everything in the inbox.
    fn sequence(&self, shared: &Topics) {
        if self.core.lock().inbox.is_empty() {
            return;
        }
        shared.faults.before_numbering();
        // Told in any case: also if this panics, what has its number will be delivered. Told without the lock: a promise
        // wakes a task that may belong to anybody.
        let mut answers = Answers { topic: &self.name, answers: Vec::new() };
        {
            let mut core = self.core.lock();
            let core = &mut *core;
            core.last_used = shared.clock.tick();
            // One instant for all that is numbered together, and for every subscriber: the clock is read once, and all of
            // them get identical bytes.
            let head = classic::MessageHead::new(&timestamp());
            while let Some(pending) = core.inbox.pop_front() {
                core.numbered += pending.accounted_bytes();
                let Pending { publication, reply } = pending;
                head.encode_message(core.open.buffer(), &publication);
                let length = core.open.commit();
                let seq = core.next_seq;
                core.next_seq += 1;
                core.inflight_bytes = core.inflight_bytes + length - publication.len();
                let receipt = Receipt { epoch: core.epoch, seq, subscribers: core.subscriber_count() };
                if reply.wants_receipt() {
                    answers.answers.push((reply, receipt));
                } else {
                    reply.accept(&self.name, receipt);
                }
                shared.faults.after_commit();
                if core.open.committed_len() >= shared.config.coalesce_bytes {
                    self.seal(core, shared);
                }
            }
        }
    }

    /// What the actor has to do next. After [`Next::Rest`] the next message in the inbox is announced to it.
    fn next(&self, shared: &Topics) -> Next {
        let mut guard = self.core.lock();
        let core = &mut *guard;
        if let Some(pass) = &core.pass {
            return Next::HandOut(Arc::clone(pass));
        }
        if core.batches.is_empty() {
            self.seal(core, shared);
        }
        let Some(batch) = core.batches.front().cloned() else {
            if !core.inbox.is_empty() {
                return Next::Sequence;
            }
            core.notified = false;
            return Next::Rest;
        };
        let subscribers = Arc::clone(&core.subscribers);
        let under_way = self.pass_numbers.begin();
        batch.begin(&under_way);
        core.latest = under_way.number;
        core.under_way = Some(under_way);
        // Now, because a codec must not run in a sender.
        for codec in core.codecs.iter() {
            batch.view(codec, &shared.terms.codecs);
        }
        let tick = shared.clock.tick();
        let help = help(subscribers.len(), shared);
        let pass = Arc::new(Pass::new(batch, subscribers, tick, help, Arc::clone(&shared.faults)));
        core.pass = Some(Arc::clone(&pass));
        if help != Help::None {
            shared.senders.offer(Arc::clone(&pass));
        }
        drop(guard);
        shared.tracer.tell(TraceKind::Pass, || self.describe(&pass));
        Next::HandOut(pass)
    }

    fn describe(&self, pass: &Pass) -> Said {
        let (batch, subscribers) = (pass.batch(), pass.subscribers());
        let (first, last, bytes) = (batch.first_seq(), batch.last_seq(), batch.byte_len());
        let to = if pass.help() == Help::None { "subscribers" } else { "senders" };
        let about = format!("numbers {first} to {last}, {bytes} bytes, to {subscribers} subscribers");
        Said { from: trace::topic(&self.name), to: to.to_owned(), about }
    }

    /// Has the next message in the inbox announced while the actor waits for the senders; false if there is one already.
    fn listen(&self) -> bool {
        let mut core = self.core.lock();
        core.notified = false;
        core.inbox.is_empty()
    }

    /// Ends a complete pass: its batch is done with, and the changes that waited for it are applied.
    fn finish(&self, pass: Arc<Pass>, shared: &Topics) {
        if pass.help() != Help::None {
            // So that no sender holds on to the list when the next client joins.
            shared.senders.withdraw(&pass);
        }
        let waiting = {
            let mut core = self.core.lock();
            let core = &mut *core;
            if !core.pass.as_ref().is_some_and(|current| Arc::ptr_eq(current, &pass)) {
                return;
            }
            (core.pass, core.under_way) = (None, None);
            let (frames, bytes) = (pass.batch().frames(), pass.batch().byte_len());
            // First, or what has joined meanwhile finds the list of subscribers in use and copies it.
            drop(pass);
            core.batches.pop_front();
            core.inflight_frames -= frames;
            core.inflight_bytes -= bytes;
            core.apply_changes();
            core.call(self.room)
        };
        waiting.into_iter().for_each(Waker::wake);
    }
}

/// However it ends, with whatever still in its inbox.
impl Drop for TopicState {
    fn drop(&mut self) {
        self.ledger.remove_waiting(self.core.get_mut().accounted);
    }
}

/// What a topic's actor has to do next.
enum Next {
    /// Number and encode what is in the inbox.
    Sequence,
    /// Hand this out.
    HandOut(Arc<Pass>),
    /// Nothing.
    Rest,
}

/// How the senders help with the next pass of a topic.
fn help(subscribers: usize, shared: &Topics) -> Help {
    if shared.config.threads == 1 {
        Help::None
    } else if subscribers > shared.config.inline_subscribers {
        Help::Together
    } else if subscribers >= WORTH_LEAVING && shared.load.is_behind(shared.home.pauses()) && shared.senders.has_room() {
        Help::First
    } else {
        Help::None
    }
}

/// Subscribers from which on a topic leaves its delivery to a sender. To hand it over takes some locks and perhaps a
/// wake-up, which is more than a send or two; where the two are level has not been measured.
const WORTH_LEAVING: usize = 4;

/// Receipts for messages that have their numbers.
struct Answers<'a> {
    topic: &'a TopicName,
    answers: Vec<(Reply, Receipt)>,
}

impl Drop for Answers<'_> {
    fn drop(&mut self) {
        for (reply, receipt) in self.answers.drain(..) {
            reply.accept(self.topic, receipt);
        }
    }
}

/// One topic as it is now.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TopicInfo {
    /// Its name.
    pub name: TopicName,
    /// How many clients are subscribed to it.
    pub subscribers: usize,
    /// Messages that are accepted and not yet handed to every subscriber; at most `max_inflight_frames`.
    pub in_flight: usize,
    /// False while it is refused because it keeps crashing.
    pub available: bool,
}

impl Core {
    /// An ended topic stays so: it is no longer listed, and nobody would ever look into its inbox.
    fn change_life(&mut self, life: Life) {
        if self.life != Life::Ended {
            self.life = life;
        }
    }

    fn check_life(&self) -> Result<(), TopicError> {
        match self.life {
            Life::Live => Ok(()),
            Life::Quarantined => Err(TopicError::Unavailable),
            Life::Ended => Err(TopicError::Ended),
        }
    }

    fn check_exists(&self) -> Result<(), TopicError> {
        if self.life == Life::Ended { Err(TopicError::Ended) } else { Ok(()) }
    }

    fn subscriber_count(&self) -> usize {
        (self.subscribers.len() + self.joining.len()).saturating_sub(self.leaving.len())
    }

    /// Calls publishers that wait, as far as there is room for them.
    fn call(&mut self, room: Room) -> Vec<Waker> {
        self.waiting.call(room, self.inflight_frames, self.inflight_bytes)
    }

    fn take_inbox(&mut self) -> VecDeque<Pending> {
        self.inflight_frames -= self.inbox.len();
        self.inflight_bytes -= self.inbox.iter().map(|pending| pending.publication.len()).sum::<usize>();
        std::mem::take(&mut self.inbox)
    }

    /// Tells the ledger what waits now. A message that a crash took along is in neither place.
    fn account_afresh(&mut self, ledger: &Ledger) {
        let before = self.accounted;
        self.numbered = self.open.committed_len();
        self.accounted = self.numbered + self.inbox.iter().map(Pending::accounted_bytes).sum::<usize>();
        ledger.add_waiting(self.accounted);
        ledger.remove_waiting(before);
    }

    /// The number of the first message that has neither been handed out nor is about to be by the pass under way.
    fn handed_out(&self) -> u64 {
        match (&self.pass, self.batches.front()) {
            (Some(pass), _) => pass.batch().last_seq() + 1,
            (None, Some(batch)) => batch.first_seq(),
            (None, None) => self.next_seq - self.open.frames() as u64,
        }
    }

    /// Whether a position is one of this life of the topic: of its epoch, or of the one before if nothing was missed between
    /// the two.
    fn leads_here(&self, since: Position) -> bool {
        let missed_nothing = |earlier: Position| since.epoch == earlier.epoch && since.seq >= earlier.seq;
        since.epoch == self.epoch || self.earlier.is_some_and(missed_nothing)
    }

    /// As [`TopicState::first_after`].
    fn first_after(&self, pass: u64) -> Option<u64> {
        Some(self.ring.first_after(pass, self.latest)?.min(self.handed_out()))
    }

    /// Sends a portion of these messages, which are kept; the number after it, and whether the client has taken it.
    fn replay(&self, subscription: &Arc<Subscription>, seqs: Range<u64>, tick: Tick) -> (u64, bool) {
        let from = seqs.start;
        let portion = self.ring.portion(seqs, PORTION_BYTES);
        let next = portion.last().map_or(from, |(_, seqs)| seqs.end);
        let messages = portion.into_iter().map(|(batch, seqs)| Messages::new(subscription, &batch, seqs));
        (next, subscription.slot.replay(messages.collect(), tick))
    }

    /// The first number that a subscriber can still be given.
    fn first_kept(&self) -> u64 {
        self.ring.first_seq().min(self.handed_out())
    }

    /// Puts a subscriber on the list, or has it put there when the pass under way is over.
    fn enter(&mut self, subscription: Arc<Subscription>) {
        if self.pass.is_some() {
            self.joining.push(subscription);
        } else {
            self.join(subscription);
        }
    }

    fn join(&mut self, subscription: Arc<Subscription>) {
        // The last pass is over; a sender may still hold its list for a moment, and then this is the one copy.
        let subscribers = Arc::make_mut(&mut self.subscribers);
        subscription.index.store(u32::try_from(subscribers.len()).expect("fewer clients than 2^32"), Ordering::Relaxed);
        self.codecs.insert(subscription.codec());
        subscribers.push(subscription);
    }

    fn leave(&mut self, subscription: &Arc<Subscription>) {
        let index = subscription.index.load(Ordering::Relaxed) as usize;
        if !self.subscribers.get(index).is_some_and(|other| Arc::ptr_eq(other, subscription)) {
            return;
        }
        let subscribers = Arc::make_mut(&mut self.subscribers);
        subscribers.swap_remove(index);
        if let Some(moved) = subscribers.get(index) {
            moved.index.store(u32::try_from(index).expect("fewer clients than 2^32"), Ordering::Relaxed);
        }
        if subscribers.is_empty() {
            self.codecs = CodecSet::default();
        }
        if subscribers.is_empty() || subscribers.len() < subscribers.capacity() / 4 {
            subscribers.shrink_to(subscribers.len() * 2);
        }
    }

    /// Applies the joins and leaves that waited for the end of a pass.
    fn apply_changes(&mut self) {
        for subscription in std::mem::take(&mut self.joining) {
            self.join(subscription);
        }
        for subscription in std::mem::take(&mut self.leaving) {
            self.leave(&subscription);
        }
        if std::mem::take(&mut self.sweep) {
            let subscribers = Arc::make_mut(&mut self.subscribers);
            subscribers.retain(|subscription| !subscription.has_ended());
            for (index, subscription) in (0..).zip(subscribers.iter()) {
                subscription.index.store(index, Ordering::Relaxed);
            }
        }
    }
}

/// Never counted up, so that a restarted server cannot claim to continue an old epoch.
fn random_epoch() -> u64 {
    getrandom::u64().expect("the system has a source of random numbers")
}

/// The actor of one topic.
#[derive(Debug)]
pub(crate) struct Topic {
    state: Arc<TopicState>,
    shared: Arc<Topics>,
}

/// Warm restarts that a topic gets before it is restarted cold: state that makes its heir crash must not do so for ever.
const WARM_RESTARTS: u32 = 2;

impl Topic {
    /// Makes the first actor of a topic, or the successor of one that ended.
    pub(crate) fn start(state: &Arc<TopicState>, shared: &Arc<Topics>, start: &StartInfo) -> Self {
        if start.last_reason.is_some() || start.after_quarantine {
            let warm = !start.after_quarantine && start.restarts <= WARM_RESTARTS && state.inherit();
            if !warm {
                log::warn!("topic {}: restarted cold, under a new epoch", state.name);
                state.restart_cold(&shared.senders);
            }
        }
        shared.faults.topic_started();
        Self { state: Arc::clone(state), shared: Arc::clone(shared) }
    }
}

impl Actor for Topic {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Context<Self>) {
        self.state.sweep();
        ctx.spawn(HandOut::default());
    }
}

impl Handler<Work> for Topic {
    type Result = ();

    /// [`HandOut`] does the work: it is polled when the mailbox is empty. Were messages numbered here, a publisher on another
    /// thread could keep the mailbox from ever being empty, and nothing would be handed out until its topic is full.
    fn handle(&mut self, _: Work, _: &mut Context<Self>) {}
}

impl Handler<Subscribe> for Topic {
    type Result = Result<(), TopicError>;

    fn handle(&mut self, message: Subscribe, _: &mut Context<Self>) -> Self::Result {
        let subscription = message.subscription;
        let position = self.state.subscribe(Arc::clone(&subscription), self.shared.clock.tick())?;
        self.shared.trace_joined(&subscription, &self.state.name, position.seq);
        if subscription.acknowledge() {
            let topic = &self.state.name;
            let horizon = Some(self.shared.pass_numbers.horizon());
            let event = ServerEvent::Subscribed {
                id: message.id,
                topic,
                position,
                last: None,
                horizon,
                since: None,
                missed: None,
                repeated: 0,
            };
            subscription.slot.tell(&event);
        }
        Ok(())
    }
}

impl Handler<Unsubscribe> for Topic {
    type Result = ();

    fn handle(&mut self, message: Unsubscribe, _: &mut Context<Self>) {
        self.shared.tracer.tell(TraceKind::Unsubscribe, || Said {
            from: message.subscription.trace_name(),
            to: trace::topic(&self.state.name),
            about: String::new(),
        });
        if self.state.unsubscribe(message.subscription, self.shared.clock.tick()) {
            self.shared.table.note_unused(&self.state);
        }
    }
}

/// What numbering everything in an inbox costs of a turn. Without it a publisher to a topic without subscribers, on another
/// thread, could keep the arbiter for itself.
const NUMBERING: usize = PIECE / 4;

/// Numbers messages and hands out batch after batch, a turn at a time: after [`PIECE`] sends the arbiter reads sockets and
/// serves others.
#[derive(Default)]
struct HandOut {
    /// The pass that was left to the senders for a turn.
    left: Option<Arc<Pass>>,
}

impl ActorFuture<Topic> for HandOut {
    type Output = ();

    fn poll(
        mut self: Pin<&mut Self>,
        topic: &mut Topic,
        _: &mut Context<Topic>,
        cx: &mut task::Context<'_>,
    ) -> Poll<()> {
        let Topic { state, shared } = topic;
        let mut turn = PIECE;
        // Once in a turn, also in the middle of a pass, so that publishers need not wait for its end to get their receipts.
        state.sequence(shared);
        loop {
            if turn == 0 {
                // Before a pass begins: one that waits for the next turn overlaps with those of other topics, of which a client
                // that comes back gets more twice.
                return yield_now(cx);
            }
            let pass = match state.next(shared) {
                Next::HandOut(pass) => pass,
                Next::Sequence => {
                    state.sequence(shared);
                    turn = turn.saturating_sub(NUMBERING);
                    continue;
                }
                Next::Rest => return Poll::Pending,
            };
            if pass.help() == Help::First && !self.left.as_ref().is_some_and(|left| Arc::ptr_eq(left, &pass)) {
                self.left = Some(pass);
                return yield_now(cx);
            }
            while !pass.is_complete() {
                if turn == 0 {
                    return yield_now(cx);
                }
                match pass.serve_piece(Server::Topic) {
                    Some(served) => {
                        turn = turn.saturating_sub(served);
                        shared.load.add(served);
                    }
                    None if pass.poll_complete(cx.waker()) => {}
                    // A piece was given back between the claim and the registration.
                    None if !pass.is_claimed() => {}
                    None if state.listen() => return Poll::Pending,
                    None => state.sequence(shared),
                }
            }
            self.left = None;
            state.finish(pass, shared);
        }
    }
}

#[cfg(feature = "fault-injection")]
impl Handler<crate::ground::fault::Crash> for Topic {
    type Result = ();

    fn handle(&mut self, crash: crate::ground::fault::Crash, _: &mut Context<Self>) {
        crash.now("a topic");
    }
}

/// Ends a subscription, and tells its topic.
pub(crate) fn leave(topic: &Arc<TopicState>, subscription: Arc<Subscription>) {
    subscription.end();
    // A topic that is not running looks for ended subscriptions when it starts.
    let _ = topic.actor.cast(Unsubscribe { subscription });
}
