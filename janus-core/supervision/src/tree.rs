//! The live tree as data.
//!
//! Owns [`Tree`], what [`SupervisorRef::tree`](crate::SupervisorRef::tree) answers, and [`Event`], what its subscribers
//! are told. Both are copies: looking at the tree cannot hold it up.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::{Serialize, Serializer};

use crate::cell::{ASKED, Cell, ENDED, UP};
use crate::exit::{ActorId, ExitReason};

/// A supervisor with everything below it, or a single child.
///
/// Its `Display` is for a log or a terminal: a line for each node, below its supervisor, with its state, with how often it has
/// been restarted if it has been, and with the first line of why its last incarnation ended. The last line has no line break
/// after it.
///
/// ```
/// use janus_supervision::{Arbiter, ChildSpec, Strategy, Supervisor};
///
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
/// let arbiter = Arbiter::start("home")?;
/// let idle = |name: &str| ChildSpec::task(name, || async { std::future::pending().await });
/// let desk = Supervisor::new("desk", Strategy::OneForAll).child(idle("clerk"));
/// let root = Supervisor::new("root", Strategy::OneForOne).child(ChildSpec::supervisor(desk)).child(idle("clock"));
/// let tree = root.start(&arbiter.place()).await?;
/// assert_eq!(
///     tree.tree().to_string(),
///     "root: running\n\
///      ├── desk: running\n\
///      │   └── clerk: running\n\
///      └── clock: running"
/// );
/// tree.stop().await;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # }).unwrap();
/// ```
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

impl fmt::Display for Tree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write_node(f)?;
        self.write_children(f, &mut String::new())
    }
}

impl Tree {
    fn write_node(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.name, self.state)?;
        match self.restarts {
            0 => {}
            1 => f.write_str(", restarted once")?,
            restarts => write!(f, ", restarted {restarts} times")?,
        }
        if self.numbered > 0 {
            write!(f, ", {} numbered", self.numbered)?;
        }
        if let Some(reason) = &self.last_reason {
            let reason = reason.to_string();
            // A panic's message may have many lines, and they are no nodes.
            write!(f, ", last end: {}", reason.lines().next().unwrap_or_default())?;
        }
        Ok(())
    }

    /// `indent` is what stands before the lines of the children.
    fn write_children(&self, f: &mut fmt::Formatter<'_>, indent: &mut String) -> fmt::Result {
        let outer = indent.len();
        for (place, child) in self.children.iter().enumerate() {
            let (branch, below) =
                if place + 1 == self.children.len() { ("└── ", "    ") } else { ("├── ", "│   ") };
            write!(f, "\n{indent}{branch}")?;
            child.write_node(f)?;
            indent.push_str(below);
            child.write_children(f, indent)?;
            indent.truncate(outer);
        }
        Ok(())
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
    /// A [`Supervisor`](crate::Supervisor).
    Supervisor,
    /// A [`DynamicSupervisor`](crate::DynamicSupervisor).
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
    /// It ended too often and rests; see [`DynamicSupervisor::quarantine`](crate::DynamicSupervisor::quarantine).
    Quarantined,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Restarting => "restarting",
            Self::Stopping => "stopping",
            Self::Stopped => "stopped",
            Self::Quarantined => "quarantined",
        })
    }
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

impl Event {
    /// An event of this supervisor about this child. Trees make their own; this is for tests of code that reads events.
    pub fn new(supervisor: impl Into<Arc<str>>, child: impl Into<Arc<str>>, what: EventKind) -> Self {
        Self { supervisor: supervisor.into(), child: child.into(), id: None, what }
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str, state: State, children: Vec<Tree>) -> Tree {
        Tree { state, children, ..Tree::stopped(&name.into(), NodeKind::Supervisor) }
    }

    #[test]
    fn a_tree_prints_a_line_for_each_node_below_its_supervisor() {
        let panicked = Some(ExitReason::Panicked("cannot\ngo on".into()));
        let deep = node("deep", State::Stopping, vec![node("deeper", State::Starting, Vec::new())]);
        let tree = Tree {
            last_reason: Some(ExitReason::Shutdown),
            ..node(
                "root",
                State::Stopped,
                vec![
                    Tree { restarts: 1, last_reason: panicked, ..node("a", State::Restarting, vec![deep]) },
                    Tree {
                        numbered: 12,
                        restarts: 2,
                        ..node(
                            "pool",
                            State::Running,
                            vec![node("b", State::Quarantined, Vec::new()), node("c", State::Running, Vec::new())],
                        )
                    },
                ],
            )
        };
        let expected = "\
root: stopped, last end: shutdown
├── a: restarting, restarted once, last end: panicked: cannot
│   └── deep: stopping
│       └── deeper: starting
└── pool: running, restarted 2 times, 12 numbered
    ├── b: quarantined
    └── c: running";
        assert_eq!(tree.to_string(), expected);
    }
}
