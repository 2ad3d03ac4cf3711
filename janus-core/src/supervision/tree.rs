//! The live tree as data.
//!
//! Owns [`Tree`], what [`SupervisorRef::tree`](super::SupervisorRef::tree) answers, and [`Event`], what its subscribers
//! are told. Both are copies: looking at the tree cannot hold it up.

use std::sync::Arc;
use std::time::Duration;

use serde::{Serialize, Serializer};

use super::cell::{ASKED, Cell, ENDED, UP};
use super::exit::{ActorId, ExitReason};

/// A supervisor with everything below it, or a single child.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Tree {
    /// Its name, unique among its siblings.
    #[serde(serialize_with = "as_text")]
    pub name: Arc<str>,
    /// What it is.
    pub kind: NodeKind,
    /// The current incarnation.
    pub id: Option<ActorId>,
    /// What it is doing.
    pub state: State,
    /// How often it has been restarted since its supervisor started.
    pub restarts: u64,
    /// Why its last incarnation ended.
    pub last_reason: Option<ExitReason>,
    /// Its children in the order of their start.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub children: Vec<Self>,
    /// Numbered children of a dynamic supervisor, which are counted and not listed.
    #[serde(skip_serializing_if = "is_zero")]
    pub numbered: usize,
}

impl Tree {
    /// A supervisor that does not run.
    pub(crate) fn stopped(name: &Arc<str>, kind: NodeKind) -> Self {
        Self {
            name: name.clone(),
            kind,
            id: None,
            state: State::Stopped,
            restarts: 0,
            last_reason: None,
            children: Vec::new(),
            numbered: 0,
        }
    }

    /// A supervisor by its cell. Its restarts are its parent's to know.
    pub(crate) fn of(cell: &Cell, kind: NodeKind, children: Vec<Self>, numbered: usize) -> Self {
        let flags = cell.flags();
        let state = if flags & ENDED != 0 {
            State::Stopped
        } else if flags & ASKED != 0 {
            State::Stopping
        } else if flags & UP != 0 {
            State::Running
        } else {
            State::Starting
        };
        let id = (state != State::Stopped).then(|| cell.id());
        Self { id, state, last_reason: cell.reason(), children, numbered, ..Self::stopped(cell.name(), kind) }
    }

    /// The node under this name, looked for here and below.
    ///
    /// Names are unique among siblings only: it is the first in the order of the starts.
    pub fn find(&self, name: &str) -> Option<&Self> {
        if &*self.name == name {
            return Some(self);
        }
        self.children.iter().find_map(|child| child.find(name))
    }
}

fn as_text<S: Serializer>(name: &Arc<str>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(name)
}

fn is_zero(count: &usize) -> bool {
    *count == 0
}

/// What a node of the tree is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum NodeKind {
    /// An actor or a task.
    Worker,
    /// A [`Supervisor`](super::Supervisor).
    Supervisor,
    /// A [`DynamicSupervisor`](super::DynamicSupervisor).
    Dynamic,
}

/// What a node of the tree is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Its factory or its initialisation is running.
    Starting,
    /// It is up.
    Running,
    /// It has ended, and its next start is due now or after a back-off.
    Restarting,
    /// It has been asked to stop.
    Stopping,
    /// It does not run and is not going to by itself.
    Stopped,
    /// It ended too often and rests; see [`DynamicSupervisor::quarantine`](super::DynamicSupervisor::quarantine).
    Quarantined,
}

/// Something that happened in a tree.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Event {
    /// The supervisor that reports it.
    #[serde(serialize_with = "as_text")]
    pub supervisor: Arc<str>,
    /// The child it is about. Numbered children go by the name of their supervisor.
    #[serde(serialize_with = "as_text")]
    pub child: Arc<str>,
    /// The incarnation it is about.
    pub id: Option<ActorId>,
    /// What happened.
    pub what: EventKind,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum EventKind {
    /// It is up.
    Started,
    /// It could not be started, now or again.
    StartFailed(ExitReason),
    /// It has ended. For numbered children of a dynamic supervisor: abnormally.
    Ended(ExitReason),
    /// It did not end in time after a kill: its thread is stuck in its code. It counts as killed, and is dropped once
    /// the thread comes back.
    Abandoned,
    /// It is going to be started again, after this long.
    Restarting(Duration),
    /// It has used up its own intensity and rests for this long.
    Quarantined(Duration),
    /// The supervisor has used up its intensity on this child and ends.
    GaveUp,
}
