//! The live tree as data.
//!
//! Owns [`Tree`], the answer of [`SupervisorRef::tree`](crate::SupervisorRef::tree), and [`TreeEvent`], the message to
//! subscribers. Both are copies: a reader cannot hold up the tree.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::{Serialize, Serializer};

use crate::cell::{ASKED, Cell, ENDED, UP};
use crate::exit::{ActorId, ExitReason};

/// A supervisor with everything below it, or a single child.
///
/// `Display` is for a log or a terminal: one line per node, below its supervisor. The line has the state, the number of
/// restarts if any, and the first line of the last exit reason. There is no line break after the last line.
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
    /// The name, unique among siblings.
    #[serde(serialize_with = "as_text")]
    pub name: Arc<str>,
    /// Worker, supervisor or dynamic supervisor.
    pub kind: NodeKind,
    /// The current incarnation.
    pub id: Option<ActorId>,
    /// The current state.
    pub state: State,
    /// Restarts since the supervisor of this node started.
    pub restarts: u64,
    /// Why the last incarnation ended.
    pub last_reason: Option<ExitReason>,
    /// The time until the next start, while a start is due later: the rest of a quarantine, or of a back-off. In JSON
    /// `due_in_ms`, in milliseconds.
    #[serde(rename = "due_in_ms", serialize_with = "as_millis", skip_serializing_if = "Option::is_none")]
    pub due_in: Option<Duration>,
    /// The children in the order of their start; named children of a dynamic supervisor in the order of their names.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub children: Vec<Self>,
    /// The number of numbered children of a dynamic supervisor, which are not listed.
    #[serde(skip_serializing_if = "is_zero")]
    pub numbered: usize,
    /// The number of further children, which are not listed because of a limit
    /// ([`SupervisorRef::tree_within`](crate::SupervisorRef::tree_within)).
    #[serde(skip_serializing_if = "is_zero")]
    pub unlisted: usize,
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
            due_in: None,
            children: Vec::new(),
            numbered: 0,
            unlisted: 0,
        }
    }

    /// A supervisor by its cell. Only the parent knows the restarts.
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

    /// The node with this name, here or below.
    ///
    /// Names are unique among siblings only: of several nodes, the first in the order of starts is returned.
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
            // A panic's message may have many lines, but a node has only one.
            write!(f, ", last end: {}", reason.lines().next().unwrap_or_default())?;
        }
        Ok(())
    }

    /// Writes the children, with `indent` before each line.
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

fn as_millis<S: Serializer>(time: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    time.map(|time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX)).serialize(serializer)
}

fn is_zero(count: &usize) -> bool {
    *count == 0
}

/// The kind of a node.
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

/// The state of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// The factory or the initialisation is running.
    Starting,
    /// The node is up.
    Running,
    /// The node has ended, and its next start is due now or after a back-off.
    Restarting,
    /// The node has been asked to stop.
    Stopping,
    /// The node does not run, and no start is due.
    Stopped,
    /// The child exceeded its intensity and is not restarted for a while; see
    /// [`DynamicSupervisor::quarantine`](crate::DynamicSupervisor::quarantine).
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

/// An event in a tree.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct TreeEvent {
    /// The supervisor that reports the event.
    #[serde(serialize_with = "as_text")]
    pub supervisor: Arc<str>,
    /// The child. Numbered children go by the name of their supervisor.
    #[serde(serialize_with = "as_text")]
    pub child: Arc<str>,
    /// The incarnation, if the event is about one.
    pub id: Option<ActorId>,
    /// What happened.
    pub what: EventKind,
}

impl TreeEvent {
    /// An event of this supervisor about this child, without an id. Trees make their own events; this constructor is
    /// for tests of code that reads events.
    pub fn new(supervisor: impl Into<Arc<str>>, child: impl Into<Arc<str>>, what: EventKind) -> Self {
        Self { supervisor: supervisor.into(), child: child.into(), id: None, what }
    }
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum EventKind {
    /// The child is up.
    Started,
    /// A start or a restart failed.
    StartFailed(ExitReason),
    /// The child has ended. Numbered children of a dynamic supervisor are reported after abnormal ends only.
    Ended(ExitReason),
    /// The child did not end in time after a kill: its thread is stuck in its code. The child counts as killed, and is
    /// dropped once the thread returns.
    Abandoned,
    /// The child is going to be restarted, after this wait.
    Restarting(Duration),
    /// The child has exceeded its own intensity and is quarantined for this time.
    Quarantined(Duration),
    /// The supervisor has exceeded its intensity with this child and ends.
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
