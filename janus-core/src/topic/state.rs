//! The state of a topic, which outlives the actor.
//!
//! [`TopicState`] holds one short lock over the three parts of a topic: the [`Inbox`], the [`Sequence`] and the
//! [`Roster`]. This file has what publishers, the table and the API call. Joining is in `join.rs`, the steps of the
//! actor are in `work.rs`, and what happens after crashes is in `heir.rs`. Wakers are woken, promises kept and actors
//! told without the lock, because these may run any code.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::Waker;

use futures_util::future::{Either, select};
use tokio::sync::Notify;

use super::actor::{Topic, Wake};
use super::cluster::Clustered;
use super::core_lock::{CoreGuard, CoreLock};
use super::inbox::Inbox;
use super::keys::Keys;
use super::presence::Presence;
use super::publish::{Pending, PublishError};
use super::room::{Caller, Room, Waiter};
use super::roster::Roster;
use super::sequence::{Excerpt, Kept, Sequence};
use super::shared::Topics;
use super::unused::{Anchor, Asleep, Spare};
use crate::accounts::Account;
use crate::config::Config;
use crate::delivery::{Ledger, PassNumbers, Subscription};
use crate::ground::clock::{Clock, Tick};
use crate::ground::figures::NamespaceId;
use crate::ground::homes::HomeId;
use crate::ground::line::Ticket;
use crate::ground::trace;
use crate::hooks::{HookRunner, Occupancy};
use crate::supervision::ActorRef;
use crate::wire::classic::ErrorCode;
use crate::wire::{Epoch, Position, TopicName};

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct TopicState {
    pub(crate) name: TopicName,
    pub(crate) actor: ActorRef<Topic>,
    /// Rises with each topic of an instance.
    pub(crate) number: u64,
    /// Cursors of detached sessions refer to this anchor.
    pub(crate) anchor: Arc<Anchor>,
    /// The [holds](super::Hold) of subscribers that are about to join.
    pub(super) holds: AtomicUsize,
    /// The account of the address whose client asked for the topic first; `None` for topics of the program.
    pub(crate) account: Option<Arc<Account>>,
    /// The engine's server that numbers the topic's messages, by its place; `None` if this instance numbers.
    pub(super) shard: Option<usize>,
    /// The topic's place among the unused topics, changed by the table of topics only.
    pub(crate) spare: Spare,
    pub(super) pass_numbers: Arc<PassNumbers>,
    pub(super) core: CoreLock,
    /// See [`is_wide`](Self::is_wide).
    wide: AtomicBool,
    /// `None` for a topic without presence. A change of the setting is for topics made later.
    pub(crate) presence: Option<Box<Presence>>,
    /// `None` if nobody observes the topics of the instance.
    observed: Option<Observed>,
    /// Tells tasks waiting for the actor that the actor will not come back, or not for long.
    pub(super) given_up: Notify,
}

/// The part of a topic that hooks are told of.
#[derive(Debug)]
struct Observed {
    occupancy: Arc<Occupancy>,
    observers: Arc<HookRunner>,
}

/// What the actor of a topic says that has found half a change.
pub(crate) const TORN: &str = "a thread has panicked in the middle of a change of the topic";

/// Subscribers of a wide topic: a send takes some 5 µs, and a portion of a publisher's messages some 100 µs.
const WIDE: usize = 16;

#[derive(Debug)]
pub(super) struct Core {
    pub(super) life: Life,
    /// Whether a thread has panicked in the middle of a change. The topic's actor must be restarted first.
    pub(super) is_torn: bool,
    pub(super) last_used: Tick,
    /// The version of the settings that the namespace and the limits below are from.
    settings: u64,
    /// For the counts of accepted messages.
    pub(super) namespace: NamespaceId,
    pub(super) inbox: Inbox,
    pub(super) sequence: Sequence,
    pub(super) roster: Roster,
    /// Where no engine keeps them.
    pub(super) keys: Keys,
    /// For a topic that an engine numbers. In a box, because most instances have no engine.
    pub(super) clustered: Option<Box<Clustered>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Life {
    Live,
    Quarantined,
    /// For good: the topic is no longer listed, and no actor would ever look into its inbox.
    Ended,
}

/// Why a topic refuses a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TopicError {
    /// The topic crashed too often and is refused for a while.
    #[error("the topic keeps failing and is not available for now")]
    Unavailable,
    /// The topic was unused and has been removed. The next request makes a new topic.
    #[error("the topic has ended")]
    Ended,
    /// The server has `max_topics` topics.
    #[error("the server's topic limit (max_topics) is reached")]
    TooMany,
    /// The engine is away and has never said where the topic is.
    #[error(
        "the cluster's engine cannot be reached, or refuses the topic; try again in a moment, or at another server"
    )]
    NoEngine,
}

impl TopicError {
    pub(crate) fn code(self) -> ErrorCode {
        match self {
            Self::Unavailable | Self::Ended => ErrorCode::TopicUnavailable,
            Self::TooMany => ErrorCode::TooManyTopicsOnServer,
            Self::NoEngine => ErrorCode::EngineUnavailable,
        }
    }
}

/// The outcome of [`TopicState::enqueue`].
pub(crate) enum Enqueued {
    Accepted {
        /// Whether the actor has yet to be [told](TopicState::tell_of_message).
        wakes: bool,
    },
    /// The topic is quarantined; the publisher has been told.
    Refused,
    /// No room for now. The caller's task is woken when there is room.
    Full(Pending),
    /// The topic has ended: look the name up again.
    Ended(Pending),
}

/// The present state of a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TopicInfo {
    /// Its name.
    pub name: TopicName,
    /// How many clients are subscribed.
    pub subscribers: usize,
    /// Accepted messages that have not been handed to every subscriber yet; at most `max_inflight_frames`.
    pub in_flight: usize,
    /// False while the topic is refused because it keeps crashing.
    pub available: bool,
    /// The position of the latest message. The difference of two looks is the number of messages in between, as long as
    /// `number` is the same; a crash of the topic does not change that.
    pub position: Position,
    /// Rises with each topic of the instance, so that a topic is not taken for an earlier topic of the same name.
    pub number: u64,
    /// The number of members, as far as this node knows of those of other nodes; `None` for a topic without presence. See
    /// [`Janus::presence`](crate::Janus::presence).
    pub members: Option<usize>,
}

impl TopicState {
    /// A topic that begins afresh, or continues after `asleep`.
    pub(crate) fn new(
        name: TopicName,
        number: u64,
        account: Option<Arc<Account>>,
        asleep: Option<Asleep>,
        shared: &Topics,
    ) -> Self {
        let shard = shared.shard_of(&name);
        let clustered = shard.map(|_| Box::new(Clustered::placed(asleep.is_some())));
        let asleep = asleep.unwrap_or_else(|| Asleep::afresh(&name, shared.ledger(), &shared.pass_numbers));
        let books = (shared.ledger(), &shared.pass_numbers);
        let observed = shared.observers.as_ref().filter(|observers| observers.are_needed()).map(|observers| {
            let (occupancy, observers) = (Occupancy::new(name.clone()), Arc::clone(observers));
            Observed { occupancy, observers }
        });
        let version = shared.config_version();
        let namespace = shared.figures.published.namespace(name.as_str());
        let presence = Presence::of(&name, &shared.config(), shard.is_some(), shared.ledger());
        let mut topic = Self::with_config(name, number, account, asleep, &shared.config(), &shared.clock, books);
        let core = topic.core.get_mut();
        (core.settings, core.namespace, core.clustered) = (version, namespace, clustered);
        Self { observed, presence, shard, ..topic }
    }

    #[cfg(test)]
    pub(crate) fn for_test(name: TopicName) -> Self {
        Self::with_config_for_test(name, &Config::default())
    }

    #[cfg(test)]
    pub(super) fn with_config_for_test(name: TopicName, config: &Config) -> Self {
        let (clock, ledger, pass_numbers) = (Clock::for_config(config), Arc::default(), Arc::default());
        let asleep = Asleep::afresh(&name, &ledger, &pass_numbers);
        Self::with_config(name, 1, None, asleep, config, &clock, (&ledger, &pass_numbers))
    }

    /// Calls `then` while no other thread can look at this topic.
    #[cfg(test)]
    pub(crate) fn while_locked<T>(&self, then: impl FnOnce() -> T) -> T {
        let _core = self.core.lock();
        then()
    }

    /// Whether a thread is in the middle of a change.
    #[cfg(test)]
    pub(super) fn is_locked(&self) -> bool {
        self.core.is_locked()
    }

    fn with_config(
        name: TopicName,
        number: u64,
        account: Option<Arc<Account>>,
        Asleep { anchor, start }: Asleep,
        config: &Config,
        clock: &Clock,
        (ledger, pass_numbers): (&Arc<Ledger>, &Arc<PassNumbers>),
    ) -> Self {
        Self {
            actor: ActorRef::new(trace::topic_actor(&name, number)),
            number,
            anchor,
            holds: AtomicUsize::new(0),
            account,
            shard: None,
            spare: Spare::default(),
            pass_numbers: Arc::clone(pass_numbers),
            given_up: Notify::new(),
            core: CoreLock::new(Core {
                life: Life::Live,
                is_torn: false,
                last_used: clock.tick(),
                settings: 0,
                namespace: NamespaceId::default(),
                inbox: Inbox::new(Room::of(config), Arc::clone(ledger)),
                sequence: Sequence::new(start, Kept::of(&name, config, clock)),
                roster: Roster::default(),
                keys: Keys::default(),
                clustered: None,
            }),
            wide: AtomicBool::new(false),
            presence: None,
            observed: None,
            name,
        }
    }

    /// Whether the last pass had so many subscribers that its sends took longer than to read and decode a portion of
    /// messages. Then a batch of two portions is worth the wait.
    pub(crate) fn is_wide(&self) -> bool {
        self.wide.load(Ordering::Relaxed)
    }

    /// Notes the number of subscribers of a pass.
    pub(super) fn note_width(&self, subscribers: usize) {
        self.wide.store(subscribers >= WIDE, Ordering::Relaxed);
    }

    /// Puts a message into the inbox.
    ///
    /// The answer comes with the message's number, or with an error if the message will never have a number.
    pub(crate) fn enqueue(self: &Arc<Self>, pending: Pending, mut waiter: Option<&mut Waiter<'_>>) -> Enqueued {
        if let Some(waiter) = &mut waiter {
            waiter.leave_others(self);
        }
        let mut core = self.core.lock();
        match core.life {
            Life::Live => {}
            Life::Quarantined => {
                drop(core);
                pending.refuse(PublishError::TopicUnavailable);
                return Enqueued::Refused;
            }
            Life::Ended => return Enqueued::Ended(pending),
        }
        let mut ticket = waiter.as_ref().and_then(|waiter| waiter.ticket());
        let caller = waiter.as_ref().map(|waiter| Caller { waker: waiter.waker, ticket: &mut ticket });
        if let Err(pending) = core.inbox.admit(pending, caller) {
            if let Some(waiter) = waiter {
                waiter.take_place(self, ticket);
            }
            return Enqueued::Full(pending);
        }
        let wakes = match &core.clustered {
            Some(clustered) => clustered.has_to_be_told(),
            None => core.inbox.notify(),
        };
        drop(core);
        if let Some(waiter) = waiter {
            waiter.forget_place();
        }
        Enqueued::Accepted { wakes }
    }

    /// Tells of the first message after a rest: the task of the engine's link, if an engine numbers the topic, and otherwise
    /// the actor.
    pub(super) fn tell_of_message(self: &Arc<Self>, shared: &Topics, from: Option<HomeId>) {
        match shared.cluster.as_ref().filter(|_| self.shard.is_some()) {
            Some(cluster) => self.note_message(cluster, shared),
            None => self.wake_actor(shared, from),
        }
    }

    /// Wakes the actor, or a home in the actor's place.
    pub(super) fn wake_actor(self: &Arc<Self>, shared: &Topics, from: Option<HomeId>) {
        match from.filter(|from| *from != shared.homes.of_topic(self.number)) {
            Some(home) => shared.errands(home).bring(Arc::clone(self)),
            // A topic without an actor looks into the inbox at its start.
            None => drop(self.actor.cast(Wake)),
        }
    }

    /// Passes on the room of a publisher that no longer waits, if the publisher had been called.
    pub(super) fn give_up_room(&self, ticket: Ticket) {
        let called = self.core.lock().inbox.leave_line(ticket);
        called.into_iter().for_each(Waker::wake);
    }

    /// Waits until the actor is up. Fails once waiting is known to be of no use.
    pub(crate) async fn when_up(&self) -> Result<(), TopicError> {
        let given_up = pin!(self.given_up.notified());
        // Listened to before the look, or an end between the two would be missed.
        self.check_available()?;
        match select(pin!(self.actor.when_up(None)), given_up).await {
            Either::Left(_) => Ok(()),
            Either::Right(_) => self.check_available(),
        }
    }

    /// An error for a topic that has ended, or is out of service.
    fn check_available(&self) -> Result<(), TopicError> {
        self.core.lock().check_life()
    }

    /// Whether the actor has to be restarted, because a thread has panicked in the middle of a change.
    pub(super) fn is_torn(&self) -> bool {
        self.core.lock().is_torn
    }

    /// For code of the actor, which must not continue with half a change.
    ///
    /// # Panics
    ///
    /// If a thread has panicked in the middle of a change: the actor is restarted then, and its successor checks the state.
    pub(super) fn check_whole(&self) {
        assert!(!self.is_torn(), "{TORN}");
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.core.lock().life == Life::Ended
    }

    /// Whether the topic has nothing to hand out, or no actor that could.
    pub(crate) fn is_idle(&self) -> bool {
        let core = self.core.lock();
        core.inbox.frames_in_flight() == 0 && core.sequence.is_handed_out() || core.life != Life::Live
    }

    pub(crate) fn info(&self) -> TopicInfo {
        let core = self.core.lock();
        TopicInfo {
            name: self.name.clone(),
            subscribers: core.roster.len(),
            in_flight: core.inbox.frames_in_flight(),
            available: core.life == Life::Live,
            position: core.sequence.position(),
            number: self.number,
            members: self.presence.as_ref().map(|presence| presence.count()),
        }
    }

    /// The topic's number, and the number of the latest message.
    pub(crate) fn counted(&self) -> (u64, u64) {
        (self.number, self.core.lock().sequence.position().seq)
    }

    pub(crate) fn epoch(&self) -> Epoch {
        self.core.lock().sequence.epoch()
    }

    /// Whether a position belongs to this life of the topic, or to an earlier life that ended without a loss.
    pub(crate) fn knows(&self, position: Position) -> bool {
        self.core.lock().sequence.leads_here(position)
    }

    /// Whether messages have gone to a client whose subscription conflates, so that an id of the topic may say nothing
    /// about other topics.
    pub(crate) fn has_conflated(&self) -> bool {
        self.core.lock().sequence.has_conflated()
    }

    /// Lets go of messages that are too old, and of messages beyond the limits under `pressure`. Returns how many the
    /// latter were.
    pub(crate) fn trim(&self, pressure: u32, shared: &Topics) -> usize {
        let mut core = self.core.lock();
        core.follow(&self.name, shared);
        core.sequence.trim_under_pressure(shared.clock.tick(), pressure)
    }

    /// Bytes of the kept messages in the ledger's account.
    pub(crate) fn kept_bytes(&self) -> usize {
        self.core.lock().sequence.kept_bytes()
    }

    /// See [`Sequence::excerpt`].
    pub(crate) fn history(&self, since: Option<Position>, limit: usize, shared: &Topics) -> Option<Excerpt> {
        let mut core = self.core.lock();
        core.follow(&self.name, shared);
        if !core.sequence.has_history() {
            return None;
        }
        // Every message with a number is history, whether handed out or not. Half a message must not get into a batch.
        if !core.is_torn {
            self.seal(&mut core, shared);
        }
        core.sequence.excerpt(since, limit as u64, shared.clock.tick())
    }

    /// Takes a subscriber off the list. Returns whether no subscriber is left.
    pub(super) fn unsubscribe(&self, subscription: Arc<Subscription>, tick: Tick) -> bool {
        let mut core = self.core.lock();
        core.last_used = tick;
        let in_pass = core.sequence.is_in_pass();
        core.roster.remove(subscription, in_pass);
        let is_unused = core.roster.len() == 0;
        self.unlock_and_tell(core);
        is_unused
    }

    /// Lets go of the lock after a change of the list, and tells the observers if the first subscriber has come or the
    /// last has left.
    pub(super) fn unlock_and_tell(&self, core: CoreGuard<'_>) {
        let Some(Observed { occupancy, observers }) = &self.observed else { return };
        let has_changed = occupancy.set(core.roster.len() > 0);
        drop(core);
        if has_changed {
            occupancy.tell(observers);
        }
    }

    /// Ends the open batch, if it holds any message.
    pub(super) fn seal(&self, core: &mut Core, shared: &Topics) {
        if core.sequence.has_open() {
            let trimmed = core.sequence.seal(&self.name, shared.clock.tick(), shared.ledger(), shared.pressure());
            if trimmed > 0 {
                shared.counters.messages_trimmed.fetch_add(trimmed as u64, Ordering::Relaxed);
            }
            core.inbox.note_sealed();
        }
    }
}

impl Core {
    /// Takes over the limits of the settings in force. Called with each batch, and by the looks at all topics.
    pub(super) fn follow(&mut self, name: &TopicName, shared: &Topics) {
        let version = shared.config_version();
        if self.settings == version {
            return;
        }
        self.settings = version;
        self.namespace = shared.figures.published.namespace(name.as_str());
        let config = shared.config();
        self.inbox.follow(Room::of(&config));
        self.sequence.follow(Kept::of(name, &config, &shared.clock));
    }

    /// Whether the actor has messages to number. Where an engine numbers, the actor has none.
    pub(super) fn has_unnumbered(&self) -> bool {
        self.clustered.is_none() && !self.inbox.is_empty()
    }

    /// The actor is about to rest. Returns whether the actor has no messages to number; otherwise it must not rest.
    pub(super) fn rest(&mut self) -> bool {
        let is_empty = self.inbox.rest();
        is_empty || self.clustered.is_some()
    }

    /// Whether no step may be taken before the next start of the actor.
    pub(super) fn is_stopped(&self) -> bool {
        self.is_torn || self.life != Life::Live
    }

    pub(super) fn change_life(&mut self, life: Life) {
        if self.life != Life::Ended {
            self.life = life;
        }
    }

    pub(super) fn check_life(&self) -> Result<(), TopicError> {
        match self.life {
            Life::Live => Ok(()),
            Life::Quarantined => Err(TopicError::Unavailable),
            Life::Ended => Err(TopicError::Ended),
        }
    }

    pub(super) fn check_exists(&self) -> Result<(), TopicError> {
        if self.life == Life::Ended { Err(TopicError::Ended) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;
    use crate::delivery::SenderPool;
    use crate::ground::figures::Via;
    use crate::topic::Beginning;
    use crate::topic::publish::Reply;
    use crate::topic::roster::tests::subscription;
    use crate::topic::sequence::tests::name;
    use crate::wire::Publication;

    fn pending() -> Pending {
        Pending { publication: Publication::of_checked(&name(), "1", "2", "3"), reply: Reply::promise(Via::API).0 }
    }

    #[test]
    fn an_ended_topic_gives_the_message_back() {
        let topic = Arc::new(TopicState::for_test(name()));
        assert!(matches!(topic.enqueue(pending(), None), Enqueued::Accepted { .. }));
        assert_eq!((topic.info().in_flight, topic.is_idle()), (1, false));
        topic.shut_down(&SenderPool::default());
        assert!(matches!(topic.enqueue(pending(), None), Enqueued::Ended(_)));
        assert_eq!((topic.info().in_flight, topic.info().available), (0, false));
    }

    #[test]
    fn a_quarantined_topic_refuses_the_message() {
        let topic = Arc::new(TopicState::for_test(name()));
        topic.quarantine(&SenderPool::default());
        assert!(matches!(topic.enqueue(pending(), None), Enqueued::Refused));
        assert_eq!((topic.info().in_flight, topic.info().available), (0, false));
    }

    #[test]
    fn a_full_topic_gives_the_message_back() {
        let config = Config { max_inflight_frames: 2, ..Config::default() };
        let topic = Arc::new(TopicState::with_config_for_test(name(), &config));
        let accepted = [(); 3].map(|()| matches!(topic.enqueue(pending(), None), Enqueued::Accepted { .. }));
        assert_eq!(accepted, [true, true, false]);
    }

    #[test]
    fn a_task_waiting_for_the_actor_hears_of_its_end() {
        let topic = Arc::new(TopicState::for_test(name()));
        let mut waiting = Box::pin(topic.when_up());
        assert_eq!(waiting.as_mut().now_or_never(), None, "the actor has not been started");
        topic.quarantine(&SenderPool::default());
        assert_eq!(waiting.now_or_never(), Some(Err(TopicError::Unavailable)));
    }

    #[test]
    fn the_last_unsubscribe_leaves_the_topic_unused() {
        let topic = TopicState::for_test(name());
        let tick = Tick::new(1);
        let subscriptions = [(); 2].map(|()| subscription());
        for subscription in &subscriptions {
            topic.join(subscription, Beginning::Now, tick).unwrap();
        }
        assert_eq!(subscriptions.map(|subscription| topic.unsubscribe(subscription, tick)), [false, true]);
    }
}
