//! Actors without a context until somebody writes to them.
//!
//! A context of actix (its mailbox, its lists of futures, an address) takes more memory than many an actor. An actor
//! that is driven by its own sources, such as a socket, hardly ever gets a message, and there may be tens of thousands
//! of them. Such an actor is polled directly, and its context comes with the first address that is asked for: what
//! `hibernate` is for a process of Erlang.
//!
//! Owns [`Dormant`], and the body that runs such an actor with and without its context.

use std::pin::Pin;
use std::task::{Context as TaskContext, Poll};

use actix::dev::channel::{AddressReceiver, channel};
use actix::fut::ActorFuture;
use actix::{Actor, ActorContext, Addr, AsyncContext, Context, Running, WeakAddr};

use crate::cell::Cell;
use crate::exit::ExitReason;
use crate::run::{ActorBody, Body};

/// An actor that is woken by its own sources of work, and seldom or never by messages.
///
/// [`DynamicSupervisor::start_dormant_here`](crate::DynamicSupervisor::start_dormant_here) starts such an actor without a
/// context, which saves 0.6 KB and five allocations. (With a context made later, the actor takes 0.14 KB more than with
/// one from the start.) All else is as for any actor: the supervisor counts, stops and kills it, monitors and the
/// watchdog see it, and a panic is its end.
///
/// The first call of [`Child::addr`](crate::Child::addr), on any thread, makes the context for the rest of the actor's
/// life: the context is not given back when the last address goes. Which callbacks of the [`Actor`] are called depends
/// on the context:
///
/// | | without a context | with a context |
/// |---|---|---|
/// | the start | none | [`started`](Actor::started), when the context is made |
/// | a request to stop | [`stopping_dormant`](Self::stopping_dormant) | [`stopping`](Actor::stopping) |
/// | an orderly end | none | [`stopped`](Actor::stopped) |
/// | a panic or a kill | none | none |
///
/// So an actor with an answer of its own to a request to stop implements `stopping` by a call of `stopping_dormant`, and
/// whatever every actor must do at the end belongs in its `Drop`.
pub trait Dormant: Actor<Context = Context<Self>> {
    /// Works until there is nothing to do for now, and arranges for a wake-up. Called first right after the start, and
    /// after each wake-up, in the context as any future of the actor. `Ready` ends the actor with [`ExitReason::Normal`],
    /// and neither `stopping_dormant` nor `stopping` is asked; [`exit`](crate::exit) ends it with another reason.
    fn poll_work(&mut self, cx: &mut TaskContext<'_>) -> Poll<()>;

    /// Asks whether the actor stops at the request of another party, as [`Actor::stopping`] does. After
    /// [`Running::Continue`], `poll_work` is called again, and decides about the end.
    fn stopping_dormant(&mut self) -> Running {
        Running::Stop
    }
}

/// A dormant actor, in its context or without one.
pub(crate) enum DormantBody<A: Dormant> {
    Asleep(A),
    Awake(Box<ActorBody<A>>),
    /// While the actor moves into its context.
    Waking,
}

/// The mailbox of a dormant actor, kept by the cell of the actor.
struct Letterbox<A: Actor> {
    addr: WeakAddr<A>,
    /// Until the actor has woken up.
    mail: Option<AddressReceiver<A>>,
}

/// The address of a dormant actor, `None` after its end. The first call makes the mailbox and wakes the actor.
pub(crate) fn address<A: Actor<Context = Context<A>>>(cell: &Cell) -> Option<Addr<A>> {
    let mut first = None;
    let known = cell.with_letterbox(|letterbox| {
        if let Some(letterbox) = letterbox.as_ref().and_then(|any| any.downcast_ref::<Letterbox<A>>()) {
            return letterbox.addr.upgrade();
        }
        // Without a limit, as every mailbox here.
        let (sender, mail) = channel(0);
        let addr = Addr::new(sender);
        *letterbox = Some(Box::new(Letterbox { addr: addr.downgrade(), mail: Some(mail) }));
        first = Some(addr);
        None
    })?;
    if first.is_some() {
        cell.call();
    }
    first.or(known)
}

impl<A: Dormant> DormantBody<A> {
    /// Gives the actor its context, if another party has asked for its address since the last call.
    fn wake_if_called(&mut self, cell: &Cell) {
        if !cell.take_call() {
            return;
        }
        let mail = cell.with_letterbox(|letterbox| letterbox.as_mut()?.downcast_mut::<Letterbox<A>>()?.mail.take());
        let Some(mail) = mail.flatten() else { return };
        let Self::Asleep(actor) = std::mem::replace(self, Self::Waking) else { return };
        let mut ctx = Context::with_receiver(mail);
        ctx.spawn(Work);
        *self = Self::Awake(Box::new(ActorBody::new(ctx, actor, None)));
    }
}

impl<A: Dormant> Body for DormantBody<A> {
    fn poll(&mut self, cell: &Cell, cx: &mut TaskContext<'_>) -> Poll<ExitReason> {
        self.wake_if_called(cell);
        match self {
            Self::Asleep(actor) => actor.poll_work(cx).map(|()| ExitReason::Normal),
            Self::Awake(body) => body.poll(cell, cx),
            Self::Waking => Poll::Ready(ExitReason::Normal),
        }
    }

    fn stop(&mut self, cell: &Cell, cx: &mut TaskContext<'_>) -> Poll<ExitReason> {
        match self {
            Self::Asleep(actor) => match actor.stopping_dormant() {
                Running::Stop => Poll::Ready(ExitReason::Normal),
                Running::Continue => self.poll(cell, cx),
            },
            Self::Awake(body) => body.stop(cell, cx),
            Self::Waking => Poll::Ready(ExitReason::Normal),
        }
    }

    fn vacate(&mut self, _: &Cell) {}

    fn silence(&mut self) {
        if let Self::Awake(body) = self {
            body.silence();
        }
    }
}

/// Drives a dormant actor in its context.
struct Work;

impl<A: Dormant> ActorFuture<A> for Work {
    type Output = ();

    fn poll(self: Pin<&mut Self>, actor: &mut A, ctx: &mut Context<A>, cx: &mut TaskContext<'_>) -> Poll<()> {
        let worked = actor.poll_work(cx);
        if worked.is_ready() {
            // Not `stop`, after which `stopping` may keep an actor whose work nobody polls any more.
            ctx.terminate();
        }
        worked
    }
}
