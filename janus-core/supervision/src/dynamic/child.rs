//! The children of a dynamic supervisor, as callers see them.
//!
//! Owns [`Child`], the handle to a numbered child, and [`ChildKey`], which names a child of either sort.

use std::fmt;
use std::sync::Arc;

use actix::{Actor, Addr, Context, WeakAddr};

use crate::cell::{Cell, Monitor};
use crate::dormant;
use crate::exit::{ActorId, Down, ExitReason};

/// A key for a child of a dynamic supervisor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChildKey {
    /// A named child.
    Name(Arc<str>),
    /// A child of either sort, by its current incarnation.
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

/// A handle to a numbered child. The handle does not keep the child alive, and dropping the handle does not end the
/// child.
pub struct Child<A: Actor<Context = Context<A>>> {
    pub(super) cell: Arc<Cell>,
    pub(super) reach: Reach<A>,
}

/// The way to the mailbox of a child.
pub(super) enum Reach<A: Actor<Context = Context<A>>> {
    // Weak, because an `Addr` here would cost each child two allocations.
    Known(WeakAddr<A>),
    // The child has no mailbox until somebody asks.
    Dormant,
}

impl<A: Actor<Context = Context<A>>> Child<A> {
    /// The id of the child.
    pub fn id(&self) -> ActorId {
        self.cell.id()
    }

    /// The address of the child, unless the child has ended. Wakes a [dormant](crate::Dormant) child.
    pub fn addr(&self) -> Option<Addr<A>> {
        match &self.reach {
            _ if self.cell.has_ended() => None,
            Reach::Known(addr) => addr.upgrade(),
            Reach::Dormant => dormant::address(&self.cell),
        }
    }

    /// Asks the child to stop.
    pub fn stop(&self) {
        self.cell.stop();
    }

    /// Ends the child without running any more of its code but `Drop`.
    pub fn kill(&self) {
        self.cell.kill(ExitReason::Killed);
    }

    /// The exit reason, once the child has ended.
    pub fn reason(&self) -> Option<ExitReason> {
        self.cell.reason()
    }

    /// Calls `tell` when the child has ended; see [`ActorRef::monitor`](crate::ActorRef::monitor).
    pub fn monitor(&self, tell: impl FnOnce(Down) + Send + 'static) -> Monitor {
        Monitor::of(&self.cell, tell)
    }
}

impl<A: Actor<Context = Context<A>>> Clone for Child<A> {
    fn clone(&self) -> Self {
        let reach = match &self.reach {
            Reach::Known(addr) => Reach::Known(addr.clone()),
            Reach::Dormant => Reach::Dormant,
        };
        Self { cell: self.cell.clone(), reach }
    }
}

impl<A: Actor<Context = Context<A>>> fmt::Debug for Child<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Child").field(&self.cell).finish()
    }
}
