//! Runs an incarnation and finds out why it ended, whatever its code does.
//!
//! Owns [`Incarnation`], the future around every actor, task and supervisor loop, and [`Birth`], the promise of a
//! report even for an incarnation which never reached its thread. Restarts are not decided here.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};

use actix::dev::ContextFut;
use actix::fut::wrap_future;
use actix::{Actor, ActorContext, ActorFutureExt, Addr, AsyncContext, Context};

use crate::cell::{self, Cell, KILL, STOP, TRAP};
use crate::exit::{ExitReason, guarded};
use crate::place::Beat;
use crate::refs::Slot;

/// The error type of factories and tasks: any error with a message.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The future of a task, which need not be `Send`.
pub(crate) type TaskFuture = Pin<Box<dyn Future<Output = Result<(), BoxError>>>>;

/// Code that can be run and asked to stop. The methods may panic.
pub(crate) trait Body: Unpin {
    /// Runs until there is nothing to do. `Ready` is the end, with the reason to use if no other was requested.
    fn poll(&mut self, cell: &Cell, cx: &mut TaskContext<'_>) -> Poll<ExitReason>;
    /// Passes on a request to stop, after all messages that were sent before the request.
    fn stop(&mut self, cell: &Cell, cx: &mut TaskContext<'_>) -> Poll<ExitReason>;
    /// From here on the name does not resolve to `cell` any more.
    fn vacate(&mut self, cell: &Cell);
    /// Makes sure that dropping the body calls nothing but `Drop`.
    fn silence(&mut self);
}

/// A body, wrapped so that no panic gets out and every end has a reason.
pub(crate) struct Incarnation<B: Body> {
    // `None` once the incarnation has ended.
    body: Option<B>,
    cell: Arc<Cell>,
}

impl<B: Body> Incarnation<B> {
    /// An incarnation to be spawned on the current thread. If the future is dropped instead, the incarnation counts as
    /// killed.
    pub(crate) fn new(body: B, cell: Arc<Cell>) -> Self {
        Self { body: Some(body), cell }
    }

    fn finish(&mut self, mut reason: ExitReason, orderly: bool) {
        let Some(mut body) = self.body.take() else { return };
        let _current = cell::enter(&self.cell);
        // The name goes first, so that no caller finds an actor about to be torn down.
        body.vacate(&self.cell);
        if !orderly {
            // Otherwise actix would call `stopping` and `stopped` of the broken actor, and even pass queued messages to
            // it.
            body.silence();
        }
        if let Err(in_drop) = guarded(|| drop(body))
            && !reason.is_abnormal()
        {
            reason = in_drop;
        }
        self.cell.finish(reason);
    }
}

impl<B: Body> Future for Incarnation<B> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<()> {
        let this = self.get_mut();
        this.cell.register_waker(cx.waker());
        if this.cell.flags() & KILL != 0 {
            let reason = this.cell.take_asked().unwrap_or(ExitReason::Killed);
            this.finish(reason, false);
            return Poll::Ready(());
        }
        let Some(body) = &mut this.body else { return Poll::Ready(()) };

        let polled = {
            let _busy = Beat::enter(this.cell.id());
            let _current = cell::enter(&this.cell);
            let cell = &this.cell;
            guarded(|| {
                // Messages from before a stop are handled before the stop. So only a stop is passed on that came before
                // the look at the mailbox; a later stop wakes this task again.
                let is_asked = cell.flags() & STOP != 0;
                if let Poll::Ready(reason) = body.poll(cell, cx) {
                    return Poll::Ready(reason);
                }
                if is_asked && cell.flags() & KILL == 0 && cell.take_stop() {
                    return body.stop(cell, cx);
                }
                Poll::Pending
            })
        };
        match polled {
            Ok(Poll::Pending) if this.cell.flags() & KILL != 0 => {
                let reason = this.cell.take_asked().unwrap_or(ExitReason::Killed);
                this.finish(reason, false);
                Poll::Ready(())
            }
            Ok(Poll::Pending) => {
                this.cell.answer_probes();
                Poll::Pending
            }
            Ok(Poll::Ready(by_itself)) => {
                let asked = this.cell.take_asked();
                // A failure of the incarnation itself says more than the requested reason, as a panic does.
                let reason = if by_itself.is_abnormal() { by_itself } else { asked.unwrap_or(by_itself) };
                this.finish(reason, true);
                Poll::Ready(())
            }
            Err(reason) => {
                this.finish(reason, false);
                Poll::Ready(())
            }
        }
    }
}

impl<B: Body> Drop for Incarnation<B> {
    fn drop(&mut self) {
        let reason = match self.cell.take_asked() {
            Some(asked) if self.cell.flags() & KILL != 0 => asked,
            _ if Beat::is_down_here() => ExitReason::ArbiterDown,
            _ => ExitReason::Killed,
        };
        self.finish(reason, false);
    }
}

/// An actix actor in its context.
pub(crate) struct ActorBody<A: Actor<Context = Context<A>>> {
    fut: ContextFut<A, Context<A>>,
    // Without an address of its own, the actor would end with the last address outside.
    _addr: Addr<A>,
    slot: Option<Arc<Slot<A>>>,
}

impl<A: Actor<Context = Context<A>>> ActorBody<A> {
    /// A context whose mailbox takes every message: actix's own limit neither bounds casts nor keeps calls in order.
    pub(crate) fn context() -> Context<A> {
        let mut ctx = Context::new();
        ctx.set_mailbox_capacity(0);
        ctx
    }

    pub(crate) fn new(ctx: Context<A>, actor: A, slot: Option<Arc<Slot<A>>>) -> Self {
        let addr = ctx.address();
        Self { fut: ctx.into_future(actor), _addr: addr, slot }
    }

    /// Reports `cell` as begun when `started` has run and before the first message is handled.
    ///
    /// actix polls the futures which wait in the context after `started` and before the mailbox, latest first. All
    /// other futures come before this future, if this function is called before the factory.
    pub(crate) fn report_start(ctx: &mut Context<A>, cell: Arc<Cell>) {
        ctx.wait(wrap_future::<_, A>(async {}).map(move |(), _, _| cell.begun()));
    }
}

impl<A: Actor<Context = Context<A>>> Body for ActorBody<A> {
    fn poll(&mut self, _: &Cell, cx: &mut TaskContext<'_>) -> Poll<ExitReason> {
        Pin::new(&mut self.fut).poll(cx).map(|()| ExitReason::Normal)
    }

    fn stop(&mut self, cell: &Cell, cx: &mut TaskContext<'_>) -> Poll<ExitReason> {
        self.fut.ctx().stop();
        self.poll(cell, cx)
    }

    fn vacate(&mut self, cell: &Cell) {
        if let Some(slot) = &self.slot {
            slot.clear(cell);
        }
    }

    fn silence(&mut self) {
        self.fut.ctx().terminate();
    }
}

/// A plain future.
pub(crate) struct TaskBody {
    task: TaskFuture,
    begun: Begun,
}

/// How a task is known to have begun.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Begun {
    /// By the first poll, unless the poll fails.
    AfterFirstPoll,
    /// By the task's own report. For supervisors: their start is complete when all children are up.
    ByItself,
}

impl TaskBody {
    pub(crate) fn new(task: TaskFuture, begun: Begun) -> Self {
        Self { task, begun }
    }
}

impl Body for TaskBody {
    fn poll(&mut self, cell: &Cell, cx: &mut TaskContext<'_>) -> Poll<ExitReason> {
        let polled = self.task.as_mut().poll(cx);
        if self.begun == Begun::AfterFirstPoll && !matches!(polled, Poll::Ready(Err(_))) {
            self.begun = Begun::ByItself;
            cell.begun();
        }
        polled.map(|outcome| match outcome {
            Ok(()) => ExitReason::Normal,
            Err(error) => ExitReason::Error(error.to_string().into()),
        })
    }

    fn stop(&mut self, cell: &Cell, _: &mut TaskContext<'_>) -> Poll<ExitReason> {
        if cell.flags() & TRAP != 0 { Poll::Pending } else { Poll::Ready(ExitReason::Shutdown) }
    }

    fn vacate(&mut self, _: &Cell) {}

    fn silence(&mut self) {}
}

/// An incarnation on the way to a thread.
///
/// If the incarnation gets lost on the way, the cell still ends. The arbiter may be down, the queue dropped, or the
/// supervisor may have ended.
pub(crate) struct Birth {
    cell: Option<Arc<Cell>>,
}

impl Birth {
    pub(crate) fn new(cell: Arc<Cell>) -> Self {
        Self { cell: Some(cell) }
    }

    /// The cell, unless the incarnation was killed on the way. From here on the caller is responsible for the end of
    /// the cell.
    pub(crate) fn arrive(mut self) -> Option<Arc<Cell>> {
        let cell = self.cell.take()?;
        if cell.flags() & KILL == 0 {
            return Some(cell);
        }
        cell.finish(cell.take_asked().unwrap_or(ExitReason::Killed));
        None
    }
}

impl Drop for Birth {
    fn drop(&mut self) {
        if let Some(cell) = self.cell.take() {
            cell.finish(cell.take_asked().unwrap_or(ExitReason::ArbiterDown));
        }
    }
}
