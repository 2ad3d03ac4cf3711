//! Names that survive restarts.
//!
//! Owns [`ActorRef`]: the incarnation behind a name, casts and calls, and the errors of callers without an answer. Also
//! [`link`]. `spec.rs` puts an incarnation behind a name; the supervisor decides when.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use actix::dev::ToEnvelope;
use actix::{Actor, Addr, Context, Handler, Message};
use arc_swap::ArcSwapOption;
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::cell::{self, Cell, KILL, Monitor, UP};
use crate::exit::{ActorId, Down, ExitReason, guarded};
use crate::place::Beat;

/// How long [`ActorRef::call`] waits: as long as a `gen_server` call.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);

/// Nothing runs under the name at the moment. [`ActorRef::when_up`] waits for the next incarnation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the actor is not running")]
pub struct NotRunning;

/// Why a call has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// Nothing ran under the name. The message was not sent.
    #[error("the actor is not running")]
    NotRunning,
    /// No answer came in time. The actor may be busy, hung, or waiting itself. If the actor has not reached the message
    /// yet, it will skip the message.
    #[error("the actor did not answer in time")]
    Timeout,
    /// The actor ended before answering, for this reason. The actor may have handled the message.
    #[error("the actor ended before answering: {0}")]
    Died(ExitReason),
    /// The actor lives, but has dropped the request without an answer, for example together with the future of the
    /// handler.
    #[error("the actor dropped the request without an answer")]
    NoReply,
}

/// A typed name for an actor, made before the actor exists and valid through every restart.
///
/// A clone copies a pointer. A message goes to the incarnation that runs at the time of the send. Messages in the
/// mailbox of an actor that crashes are lost with the actor, as in Erlang.
///
/// ```
/// use actix::prelude::*;
/// use janus_supervision::ActorRef;
///
/// struct Printer;
/// impl Actor for Printer {
///     type Context = Context<Self>;
/// }
///
/// #[derive(Message)]
/// #[rtype(result = "()")]
/// struct Print(String);
/// impl Handler<Print> for Printer {
///     type Result = ();
///     fn handle(&mut self, message: Print, _: &mut Context<Self>) {
///         println!("{}", message.0);
///     }
/// }
///
/// let printer = ActorRef::<Printer>::new("printer");
/// assert!(printer.cast(Print("nobody is there yet".into())).is_err());
/// ```
pub struct ActorRef<A: Actor<Context = Context<A>>> {
    slot: Arc<Slot<A>>,
}

impl<A: Actor<Context = Context<A>>> ActorRef<A> {
    /// A name without an actor.
    pub fn new(name: impl Into<Arc<str>>) -> Self {
        let cold = Cold { occupant: None, arrival: None };
        Self { slot: Arc::new(Slot { name: name.into(), instance: ArcSwapOption::empty(), cold: Mutex::new(cold) }) }
    }

    /// The name.
    pub fn name(&self) -> &Arc<str> {
        &self.slot.name
    }

    /// The current incarnation.
    pub fn id(&self) -> Option<ActorId> {
        self.slot.instance.load().as_ref().map(|instance| instance.cell.id())
    }

    /// Whether a message would reach an actor: one that is up, or is starting and will handle the message later.
    pub fn is_running(&self) -> bool {
        self.slot.instance.load().is_some()
    }

    /// The actix address of the current incarnation. A restart makes the address useless.
    pub fn addr(&self) -> Option<Addr<A>> {
        self.slot.instance.load().as_ref().map(|instance| instance.addr.clone())
    }

    /// Sends a message without waiting for an answer.
    ///
    /// `Ok` says that an actor was running, not that the message was handled; use [`call`](Self::call) for an answer.
    ///
    /// # Errors
    ///
    /// [`NotRunning`]; the message is dropped.
    pub fn cast<M>(&self, message: M) -> Result<(), NotRunning>
    where
        A: Handler<M>,
        M: Message + Send + 'static,
        M::Result: Send,
        A::Context: ToEnvelope<A, M>,
    {
        match &*self.slot.instance.load() {
            Some(instance) => {
                instance.addr.do_send(message);
                Ok(())
            }
            None => Err(NotRunning),
        }
    }

    /// Sends a message and waits up to 5 seconds for the answer.
    ///
    /// This function itself sends the message, in order with casts before and after; the future only waits.
    ///
    /// # Errors
    ///
    /// [`CallError`] tells why there is no answer.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped before the actor reaches the message, the message is skipped. After the message has
    /// been handled, its effects stand and the answer is lost.
    ///
    /// # Panics
    ///
    /// The future panics outside a tokio runtime with timers.
    pub fn call<M>(&self, message: M) -> impl Future<Output = Result<M::Result, CallError>> + Send + use<A, M>
    where
        A: Handler<M>,
        M: Message + Send + 'static,
        M::Result: Send,
        A::Context: ToEnvelope<A, M>,
    {
        self.call_timeout(message, CALL_TIMEOUT)
    }

    /// [`call`](Self::call) with another timeout.
    pub fn call_timeout<M>(
        &self,
        message: M,
        timeout: Duration,
    ) -> impl Future<Output = Result<M::Result, CallError>> + Send + use<A, M>
    where
        A: Handler<M>,
        M: Message + Send + 'static,
        M::Result: Send,
        A::Context: ToEnvelope<A, M>,
    {
        let instance = self.slot.instance.load();
        let sent = instance.as_ref().map(|instance| (instance.addr.send(message), instance.cell.clone()));
        async move {
            let Some((request, cell)) = sent else { return Err(CallError::NotRunning) };
            let answer = async {
                if let Ok(answer) = request.await {
                    return Ok(answer);
                }
                // The request was dropped inside a poll that may turn out to be the actor's last.
                cell.probe().await;
                Err(cell.reason().map_or(CallError::NoReply, CallError::Died))
            };
            let in_time = tokio::time::timeout(timeout, answer).await;
            // An actor that was declared dead keeps its mailbox until its thread returns.
            in_time.unwrap_or_else(|_| Err(cell.reason().map_or(CallError::Timeout, CallError::Died)))
        }
    }

    /// Runs `work` on this thread as a part of the actor's own work, for a thread that does something in the actor's place.
    /// Meanwhile a watchdog takes the actor for busy on this thread, and [`current`](crate::current) is the actor. A
    /// panic ends the actor with the reason of the panic, as in a handler; the actor's supervisor then decides about a
    /// restart.
    ///
    /// The actor may handle messages on its own thread at the same time, and may even end; `work` goes on then, and a
    /// panic does no harm to the successor. State that several of them change needs a lock.
    ///
    /// ```
    /// # use actix::prelude::*;
    /// use janus_supervision::{ActorRef, NotRunning};
    ///
    /// # struct Printer;
    /// # impl Actor for Printer {
    /// #     type Context = Context<Self>;
    /// # }
    /// let printer = ActorRef::<Printer>::new("printer");
    /// assert_eq!(printer.on_behalf(|| "printed"), Err(NotRunning));
    /// ```
    ///
    /// # Errors
    ///
    /// [`NotRunning`] if no actor is up, in which case `work` does not run, and if `work` has panicked.
    pub fn on_behalf<T>(&self, work: impl FnOnce() -> T) -> Result<T, NotRunning> {
        let cell = self.slot.instance.load().as_ref().map(|instance| instance.cell.clone());
        let cell = cell.filter(|cell| cell.is_up() && cell.flags() & KILL == 0).ok_or(NotRunning)?;
        let done = {
            let _busy = Beat::enter(cell.id());
            let _current = cell::enter(&cell);
            guarded(work)
        };
        done.map_err(|reason| {
            cell.kill(reason);
            NotRunning
        })
    }

    /// Calls `tell` once, after the end of the current incarnation and after the `Drop` of the actor.
    ///
    /// If no incarnation runs, `tell` is called at once, on this thread, with [`ExitReason::NotRunning`]. Otherwise
    /// `tell` is called on the thread of the actor and must not block. A panic in `tell` is logged.
    pub fn monitor(&self, tell: impl FnOnce(Down) + Send + 'static) -> Monitor {
        match self.slot.occupant() {
            Some(cell) => Monitor::of(&cell, tell),
            None => Monitor::told(&self.slot.name, tell),
        }
    }

    /// Waits until an incarnation other than `not` is up, and returns its id.
    ///
    /// `when_up(None)` waits for any incarnation; `when_up(Some(down.id))` waits for the successor of an incarnation
    /// that has ended.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn when_up(&self, not: Option<ActorId>) -> ActorId {
        loop {
            let arrival = self.slot.arrival();
            let arrived = arrival.notified();
            let candidate = match &*self.slot.instance.load() {
                Some(instance) if Some(instance.cell.id()) != not => Some(instance.cell.clone()),
                _ => None,
            };
            match candidate {
                Some(cell) => {
                    cell.until(UP).await;
                    if cell.is_up() {
                        return cell.id();
                    }
                    // The start failed. The cell ends after its name is cleared, so this loop cannot spin.
                }
                None => arrived.await,
            }
        }
    }

    /// Asks the current incarnation to stop. Its supervisor decides about a restart: a permanent child is restarted.
    pub fn stop(&self) {
        if let Some(cell) = self.slot.occupant() {
            cell.stop();
        }
    }

    /// Ends the current incarnation without running any more of its code but `Drop`.
    ///
    /// The kill takes effect at the end of the current poll. Neither the running handler is interrupted, nor the
    /// messages behind it in the mailbox by then.
    pub fn kill(&self) {
        if let Some(cell) = self.slot.occupant() {
            cell.kill(ExitReason::Killed);
        }
    }

    pub(crate) fn slot(&self) -> &Arc<Slot<A>> {
        &self.slot
    }
}

impl<A: Actor<Context = Context<A>>> Clone for ActorRef<A> {
    fn clone(&self) -> Self {
        Self { slot: self.slot.clone() }
    }
}

impl<A: Actor<Context = Context<A>>> fmt::Debug for ActorRef<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ActorRef").field("name", &self.slot.name).field("id", &self.id()).finish()
    }
}

/// Ends each of two actors when the other ends abnormally or is shut down, with the same reason.
///
/// The link ties the two current incarnations; their successors are not linked. The survivor ends at once, without its
/// `stopping`: an exit signal, as between Erlang processes that do not trap exits. Dropping the link removes it.
///
/// # Errors
///
/// [`NotRunning`] if either actor does not run.
pub fn link<A, B>(a: &ActorRef<A>, b: &ActorRef<B>) -> Result<Link, NotRunning>
where
    A: Actor<Context = Context<A>>,
    B: Actor<Context = Context<B>>,
{
    let (a, b) = (a.slot.occupant().ok_or(NotRunning)?, b.slot.occupant().ok_or(NotRunning)?);
    Ok(Link { monitors: [one_way(&a, &b), one_way(&b, &a)] })
}

fn one_way(from: &Arc<Cell>, to: &Arc<Cell>) -> Monitor {
    let to = Arc::downgrade(to);
    Monitor::of(from, move |down| {
        if down.reason != ExitReason::Normal
            && let Some(to) = to.upgrade()
        {
            to.kill(down.reason);
        }
    })
}

/// A tie between two actors, made by [`link`].
#[must_use = "dropping a link unties the actors; call `detach` to link them without the handle"]
#[derive(Debug)]
pub struct Link {
    monitors: [Monitor; 2],
}

impl Link {
    /// Leaves the two actors linked for the rest of their lives.
    pub fn detach(self) {
        for monitor in self.monitors {
            monitor.detach();
        }
    }
}

/// The target of an [`ActorRef`].
pub(crate) struct Slot<A: Actor<Context = Context<A>>> {
    name: Arc<str>,
    // Read without a lock by every message; written only under the lock of `cold`.
    instance: ArcSwapOption<Instance<A>>,
    cold: Mutex<Cold>,
}

struct Instance<A: Actor<Context = Context<A>>> {
    addr: Addr<A>,
    cell: Arc<Cell>,
}

struct Cold {
    // The last incarnation, which may have ended, or may be ending and no longer reachable.
    occupant: Option<Arc<Cell>>,
    // Made by the first caller that waits: most names never have a waiter.
    arrival: Option<Arc<Notify>>,
}

impl<A: Actor<Context = Context<A>>> Slot<A> {
    /// Makes the name resolve to `cell`. False if another incarnation still runs there, or if `cell` was killed on the
    /// way.
    pub(crate) fn occupy(&self, addr: Addr<A>, cell: &Arc<Cell>) -> bool {
        let arrival = {
            let mut cold = self.cold.lock();
            // Checked under the lock: an abandoned incarnation is killed first and cleared then.
            if cell.flags() & KILL != 0 || cold.occupant.as_ref().is_some_and(|occupant| !occupant.has_ended()) {
                return false;
            }
            cold.occupant = Some(cell.clone());
            self.instance.store(Some(Arc::new(Instance { addr, cell: cell.clone() })));
            cold.arrival.clone()
        };
        if let Some(arrival) = arrival {
            arrival.notify_waiters();
        }
        true
    }

    /// Clears the name if it resolves to `cell`; never to the harm of a successor.
    pub(crate) fn clear(&self, cell: &Cell) {
        let cleared = {
            let _cold = self.cold.lock();
            let is_ours =
                self.instance.load().as_ref().is_some_and(|instance| std::ptr::eq(Arc::as_ptr(&instance.cell), cell));
            if is_ours { self.instance.swap(None) } else { None }
        };
        drop(cleared);
    }

    /// The last incarnation, unless it has ended.
    pub(crate) fn occupant(&self) -> Option<Arc<Cell>> {
        self.cold.lock().occupant.clone().filter(|cell| !cell.has_ended())
    }

    fn arrival(&self) -> Arc<Notify> {
        self.cold.lock().arrival.get_or_insert_default().clone()
    }
}
