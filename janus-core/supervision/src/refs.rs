//! Names that survive restarts.
//!
//! Owns [`ActorRef`]: what it points at, what is said through it, and what a caller learns when nobody answers. Also
//! [`link`]. Who puts an incarnation behind a name is `spec.rs`; when, is the supervisor's business.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use actix::dev::ToEnvelope;
use actix::{Actor, Addr, Context, Handler, Message};
use arc_swap::ArcSwapOption;
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::cell::{Cell, KILL, Monitor, UP};
use crate::exit::{ActorId, Down, ExitReason};

/// How long [`ActorRef::call`] waits: as long as a `gen_server` call.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);

/// Nothing runs under the name at the moment. Somebody who needs to know when something does can await
/// [`ActorRef::when_up`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not running")]
pub struct NotRunning;

/// Why a call has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// Nothing ran under the name. The message was not sent.
    #[error("not running")]
    NotRunning,
    /// No answer came in time. The actor may be busy, hung, or waiting for something itself; if it has not got to the
    /// message yet, it will skip it.
    #[error("no answer in time")]
    Timeout,
    /// The actor ended, for this reason, before it answered. It may have handled the message.
    #[error("the actor ended: {0}")]
    Died(ExitReason),
    /// The actor lives, but has let go of the request without an answer: a handler that dropped its future.
    #[error("the actor did not reply")]
    NoReply,
}

/// A typed name for an actor, made before the actor exists and valid through every restart.
///
/// Cloning one copies a pointer. A message goes to the incarnation that runs when it is sent; what waits in the mailbox
/// of an actor that crashes is lost with it, as in Erlang.
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
    /// A name that nothing runs under yet.
    pub fn new(name: impl Into<Arc<str>>) -> Self {
        let cold = Cold { occupant: None, arrival: None };
        Self { slot: Arc::new(Slot { name: name.into(), instance: ArcSwapOption::empty(), cold: Mutex::new(cold) }) }
    }

    /// The name.
    pub fn name(&self) -> &Arc<str> {
        &self.slot.name
    }

    /// The incarnation that runs at the moment.
    pub fn id(&self) -> Option<ActorId> {
        self.slot.instance.load().as_ref().map(|instance| instance.cell.id())
    }

    /// Whether messages would reach somebody: an actor that is up, or that is starting and will get to them.
    pub fn is_running(&self) -> bool {
        self.slot.instance.load().is_some()
    }

    /// The actix address of the current incarnation, which a restart makes useless.
    pub fn addr(&self) -> Option<Addr<A>> {
        self.slot.instance.load().as_ref().map(|instance| instance.addr.clone())
    }

    /// Sends a message and forgets it.
    ///
    /// `Ok` says that somebody ran, not that the message was handled: use [`call`](Self::call) to know.
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
    /// The message is sent by this function, in order with casts before and after it; the future only waits.
    ///
    /// # Errors
    ///
    /// [`CallError`] says what happened instead.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped before the actor gets to the message, the message is skipped. If it has been handled,
    /// its effects stand and the answer is lost.
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

    /// [`call`](Self::call) with a timeout of one's own.
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
                // The request was let go of inside a poll that may yet turn out to be the actor's last.
                cell.probe().await;
                Err(cell.reason().map_or(CallError::NoReply, CallError::Died))
            };
            let in_time = tokio::time::timeout(timeout, answer).await;
            // One that was declared dead keeps its mailbox until its thread comes back.
            in_time.unwrap_or_else(|_| Err(cell.reason().map_or(CallError::Timeout, CallError::Died)))
        }
    }

    /// Calls `tell` once when the incarnation that runs now has ended and its `Drop` has run.
    ///
    /// If none runs, `tell` is called at once, on this thread, with [`ExitReason::NotRunning`]. Otherwise it is called
    /// on the thread on which the actor ends, which it must not hold up; a panic in it is logged.
    pub fn monitor(&self, tell: impl FnOnce(Down) + Send + 'static) -> Monitor {
        match self.slot.occupant() {
            Some(cell) => Monitor::of(&cell, tell),
            None => Monitor::told(&self.slot.name, tell),
        }
    }

    /// Waits until an incarnation other than `not` is up, and returns its id.
    ///
    /// `when_up(None)` waits for any; `when_up(Some(down.id))` for the successor of one that is known to be gone.
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
                    // It failed to start. Its cell ends after its name is cleared, so this cannot spin.
                }
                None => arrived.await,
            }
        }
    }

    /// Asks the current incarnation to stop. Its supervisor decides what then: a permanent child is restarted.
    pub fn stop(&self) {
        if let Some(cell) = self.slot.occupant() {
            cell.stop();
        }
    }

    /// Ends the current incarnation without running any more of its code but `Drop`.
    ///
    /// It takes effect at the end of the poll that is under way: the handler that is running is not interrupted, nor
    /// are messages that are in the mailbox behind it by then.
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

/// Ends one actor when the other ends other than normally, in both directions and with the same reason.
///
/// It ties the two incarnations that run now; their successors are not linked. The survivor ends at once, without its
/// `stopping`: an exit signal, as between Erlang processes that do not trap exits. Dropping the link undoes it.
///
/// # Errors
///
/// [`NotRunning`] if one of them does not run.
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
#[must_use = "dropping a link undoes it; call `detach` to keep it without holding it"]
#[derive(Debug)]
pub struct Link {
    monitors: [Monitor; 2],
}

impl Link {
    /// Leaves the two linked for the rest of their lives.
    pub fn detach(self) {
        for monitor in self.monitors {
            monitor.detach();
        }
    }
}

/// What an [`ActorRef`] points to.
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
    // The last incarnation. It may be ended, or be ending and not reachable any more.
    occupant: Option<Arc<Cell>>,
    // Made by the first who waits: most names never have one.
    arrival: Option<Arc<Notify>>,
}

impl<A: Actor<Context = Context<A>>> Slot<A> {
    /// Makes the name resolve to `cell`. False if somebody else still lives there, or if `cell` was killed on the way.
    pub(crate) fn occupy(&self, addr: Addr<A>, cell: &Arc<Cell>) -> bool {
        let arrival = {
            let mut cold = self.cold.lock();
            // Looked at under the lock: one that is abandoned is killed first and cleared then.
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

    /// Makes the name resolve to nobody, if it is `cell` that it resolves to: never to its successor's harm.
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
