//! The children of a dynamic supervisor, as callers see them.
//!
//! Owns [`Child`], the handle to a numbered child, and [`ChildKey`], which names a child of either sort.

use std::fmt;
use std::sync::Arc;

use actix::{Actor, Addr, Context, WeakAddr};

use crate::cell::{Cell, Monitor};
use crate::exit::{ActorId, Down, ExitReason};

/// Which child of a dynamic supervisor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChildKey {
    /// A named one.
    Name(Arc<str>),
    /// Either sort, by its current incarnation.
    Id(ActorId),
}

impl From<&str> for ChildKey {
    fn from(name: &str) -> Self {
        Self::Name(name.into())
    }
}

impl From<Arc<str>> for ChildKey {
    fn from(name: Arc<str>) -> Self {
        Self::Name(name)
    }
}

impl From<ActorId> for ChildKey {
    fn from(id: ActorId) -> Self {
        Self::Id(id)
    }
}

/// A handle to a numbered child. It neither keeps the child alive nor, when dropped, ends it.
pub struct Child<A: Actor<Context = Context<A>>> {
    pub(super) cell: Arc<Cell>,
    // Weak because an `Addr` of its own would cost each child two allocations.
    pub(super) addr: WeakAddr<A>,
}

impl<A: Actor<Context = Context<A>>> Child<A> {
    /// Its id.
    pub fn id(&self) -> ActorId {
        self.cell.id()
    }

    /// Its address, while it runs.
    pub fn addr(&self) -> Option<Addr<A>> {
        if self.cell.has_ended() { None } else { self.addr.upgrade() }
    }

    /// Asks it to stop.
    pub fn stop(&self) {
        self.cell.stop();
    }

    /// Ends it without running any more of its code but `Drop`.
    pub fn kill(&self) {
        self.cell.kill(ExitReason::Killed);
    }

    /// Why it ended, once it has.
    pub fn reason(&self) -> Option<ExitReason> {
        self.cell.reason()
    }

    /// Calls `tell` when it has ended; as [`ActorRef::monitor`](crate::ActorRef::monitor).
    pub fn monitor(&self, tell: impl FnOnce(Down) + Send + 'static) -> Monitor {
        Monitor::of(&self.cell, tell)
    }
}

impl<A: Actor<Context = Context<A>>> Clone for Child<A> {
    fn clone(&self) -> Self {
        Self { cell: self.cell.clone(), addr: self.addr.clone() }
    }
}

impl<A: Actor<Context = Context<A>>> fmt::Debug for Child<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Child").field(&self.cell).finish()
    }
}
