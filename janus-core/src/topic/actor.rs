//! The actor of a topic: messages, lifecycle, and the loop over passes.
//!
//! The actor holds nothing: all state is in [`TopicState`], so a successor continues where a crashed actor stopped. The
//! handlers are short. The work is done by [`HandOut`], a turn at a time.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{self, Poll};

use actix::fut::ActorFuture;
use actix::prelude::*;

use super::join::{Beginning, Entry};
use super::shared::Topics;
use super::state::{TopicError, TopicState};
use super::work::Next;
use crate::delivery::pass::{Help, PIECE, Server};
use crate::delivery::{Pass, Subscription};
use crate::ground::homes::HomeId;
use crate::ground::tasks::yield_now;
use crate::ground::trace::{self, Said, TraceKind};
use crate::supervision::StartInfo;
use crate::wire::{RequestId, ServerEvent};

/// Wakes a topic's actor after a message has come into the inbox.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Wake;

/// Adds a subscriber and sends its ACK. Idempotent: repeated at a successor, the subscriber is added and answered once.
#[derive(Message)]
#[rtype(result = "Result<(), TopicError>")]
pub(crate) struct Subscribe {
    pub(crate) subscription: Arc<Subscription>,
    /// Echoed in the answer.
    pub(crate) id: RequestId,
}

/// Takes a subscriber off the list, after its delivery has ended.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Unsubscribe {
    pub(crate) subscription: Arc<Subscription>,
}

/// Ends a subscription, and tells its topic; `from` is the home of the caller's thread, if that is a home.
pub(crate) fn leave(shared: &Topics, topic: &Arc<TopicState>, subscription: Arc<Subscription>, from: Option<HomeId>) {
    subscription.end();
    if let Some(presence) = &topic.presence {
        presence.leave(topic, &subscription.slot, shared);
    }
    let is_elsewhere = from.is_some_and(|from| from != shared.homes.of_topic(topic.number));
    if is_elsewhere && topic.actor.on_behalf(|| unsubscribe(topic, shared, Arc::clone(&subscription))).is_ok() {
        return;
    }
    // A topic without an actor looks for ended subscriptions at its start.
    let _ = topic.actor.cast(Unsubscribe { subscription });
}

/// Adds a subscriber on another home than the topic's, where a message to the actor would cost two wake-ups. `None` if
/// no actor is up.
pub(crate) fn subscribe_elsewhere(
    shared: &Topics,
    topic: &TopicState,
    Subscribe { subscription, id }: Subscribe,
) -> Option<Result<(), TopicError>> {
    topic.actor.on_behalf(|| subscribe(topic, shared, &subscription, id)).ok()
}

fn subscribe(
    state: &TopicState,
    shared: &Topics,
    subscription: &Arc<Subscription>,
    id: RequestId,
) -> Result<(), TopicError> {
    state.check_whole();
    let topic = &state.name;
    let tell = |Entry { position, .. }: Entry| {
        if !subscription.acknowledge() {
            return;
        }
        let horizon = Some(shared.pass_numbers.horizon());
        let event = ServerEvent::Subscribed {
            id,
            topic,
            position,
            last: None,
            horizon,
            since: None,
            missed: None,
            repeated: 0,
        };
        subscription.slot.tell(&event);
    };
    let entry = state.join_and_tell(subscription, Beginning::Now, shared.clock.tick(), tell)?;
    shared.trace_joined(subscription, topic, entry.position.seq);
    Ok(())
}

fn unsubscribe(state: &Arc<TopicState>, shared: &Topics, subscription: Arc<Subscription>) {
    state.check_whole();
    shared.tracer.tell(TraceKind::Unsubscribe, || Said {
        from: subscription.trace_name(),
        to: trace::topic(&state.name),
        about: String::new(),
    });
    if state.unsubscribe(subscription, shared.clock.tick()) {
        shared.table.note_unused(state);
    }
}

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Topic {
    state: Arc<TopicState>,
    shared: Arc<Topics>,
}

/// Warm restarts of a topic before a cold restart: state that makes a successor crash must not do so for ever.
const WARM_RESTARTS: u32 = 2;

impl Topic {
    /// Makes the first actor of a topic, or a successor.
    pub(crate) fn start(state: &Arc<TopicState>, shared: &Arc<Topics>, start: &StartInfo) -> Self {
        if start.last_reason.is_some() || start.after_quarantine {
            let warm = !start.after_quarantine && start.restarts <= WARM_RESTARTS && state.inherit();
            if !warm {
                log::warn!(topic:% = state.name; "topic {}: restarted cold, under a new epoch", state.name);
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

impl Handler<Wake> for Topic {
    type Result = ();

    /// A message makes actix poll the actor's futures, and [`HandOut`] does the work. It is polled when the mailbox is
    /// empty. Were messages numbered here, a publisher on another thread could keep the mailbox from ever being empty,
    /// and nothing would be handed out until the topic is full.
    fn handle(&mut self, _: Wake, _: &mut Context<Self>) {}
}

impl Handler<Subscribe> for Topic {
    type Result = Result<(), TopicError>;

    fn handle(&mut self, Subscribe { subscription, id }: Subscribe, _: &mut Context<Self>) -> Self::Result {
        subscribe(&self.state, &self.shared, &subscription, id)
    }
}

impl Handler<Unsubscribe> for Topic {
    type Result = ();

    fn handle(&mut self, Unsubscribe { subscription }: Unsubscribe, _: &mut Context<Self>) {
        unsubscribe(&self.state, &self.shared, subscription);
    }
}

/// The part of a turn taken by the numbering of an inbox. Without this price a publisher on another thread, to a topic
/// without subscribers, could keep the arbiter for itself.
pub(super) const NUMBERING: usize = PIECE / 4;

/// Numbers messages and hands out batch after batch, a turn at a time: after [`PIECE`] sends the arbiter reads sockets
/// and serves other topics.
#[derive(Default)]
struct HandOut {
    /// The pass that was left to the senders for a turn.
    left: Option<Arc<Pass>>,
    /// Whether the task of the engine's link knows that the actor is up.
    has_asked: bool,
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
        if !std::mem::replace(&mut self.has_asked, true) {
            // Not at the start of the actor, whose answers would find it on its way up.
            state.ask_with_actor(shared);
        }
        state.check_whole();
        let home = shared.homes.of_topic(state.number);
        let mut turn = PIECE;
        // Once in a turn, even in the middle of a pass, so that receipts need not wait for the end of the pass.
        state.number_inbox(shared);
        loop {
            if turn == 0 {
                // Before a pass begins: a pass that waits for the next turn overlaps with passes of other topics, and
                // returning clients get more of overlapping passes twice.
                return yield_now(cx);
            }
            let pass = match state.next(shared, home) {
                Next::Serve(pass) => pass,
                Next::Number => {
                    state.number_inbox(shared);
                    turn = turn.saturating_sub(NUMBERING);
                    continue;
                }
                Next::Rest => {
                    // Another thread may have panicked since the look above, and no message would wake the actor.
                    state.check_whole();
                    return Poll::Pending;
                }
            };
            if pass.help() == Help::First && !self.left.as_ref().is_some_and(|left| Arc::ptr_eq(left, &pass)) {
                self.left = Some(pass);
                return yield_now(cx);
            }
            while !pass.is_complete() {
                if turn == 0 {
                    return yield_now(cx);
                }
                match pass.serve_piece(Server::Home(home)) {
                    Some(served) => {
                        turn = turn.saturating_sub(served);
                        shared.homes.get(home).load.add(served);
                    }
                    None if pass.poll_complete(cx.waker()) => {}
                    // A piece was given back between the claim and the registration.
                    None if !pass.is_claimed() => {}
                    None if state.rest_in_pass() => return Poll::Pending,
                    None => {
                        // Otherwise the inbox would stay as it is, and this loop would turn until the pass is complete.
                        state.check_whole();
                        state.number_inbox(shared);
                    }
                }
            }
            self.left = None;
            state.end_pass(pass, shared);
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
