//! The part of a dynamic supervisor's incarnation which the loop shares with handles and children.
//!
//! Owns the tables of numbered and named children and the mailbox. Numbered children start and end here, on their own
//! threads, without the loop.

use std::borrow::Borrow;
use std::cmp;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::Settings;
use crate::cell::{Cell, Kin, Parent};
use crate::child::{Record, Surroundings, nodes, with_subtrees};
use crate::error::{ChildError, StartError};
use crate::exit::{ActorId, ExitReason};
use crate::mailbox::Mailbox;
use crate::spec::{ChildSpec, Kind, Launch, Shutdown};
use crate::tree::{EventKind, NodeKind, State, Tree};

/// An incarnation of a dynamic supervisor, without the loop.
pub(super) struct Live {
    me: Weak<Self>,
    /// The name and the parent of all numbered children.
    kin: Arc<Kin>,
    pub(super) cell: Arc<Cell>,
    pub(super) around: Surroundings,
    /// The settings at the start.
    pub(super) settings: Settings,
    /// The settings as they are now.
    present: Arc<Mutex<Settings>>,
    // For the ends of named children. The ends of numbered children are handled on their own threads.
    pub(super) mailbox: Mailbox<Mail>,
    pub(super) count: AtomicUsize,
    pub(super) numbered: Mutex<Numbered>,
    // Locked only briefly, never across an await and never while asking another supervisor.
    pub(super) named: Mutex<Named>,
    crash_lines: Mutex<CrashLines>,
}

/// The lines about crashes of numbered children in the present second. Such children may be many, and may crash for the same
/// cause, such as a client that comes again and again: the log must not stall all others.
#[derive(Default)]
struct CrashLines {
    since: Option<Instant>,
    lines: u32,
}

impl CrashLines {
    /// Lines in a second.
    const MAX: u32 = 32;

    /// Whether there may be another line at this time.
    fn take(&mut self, now: Instant) -> bool {
        if self.since.is_none_or(|since| now.saturating_duration_since(since) >= Duration::from_secs(1)) {
            *self = Self { since: Some(now), lines: 0 };
        }
        self.lines = self.lines.saturating_add(1);
        self.lines <= Self::MAX
    }
}

#[derive(Default)]
pub(super) struct Numbered {
    // Ordered, so that a simulation can be repeated: children are stopped in this order.
    cells: BTreeSet<ById>,
    pub(super) closed: bool,
}

/// A cell, found by its id. Half of an entry with the id as its key.
struct ById(Arc<Cell>);

impl Borrow<ActorId> for ById {
    fn borrow(&self) -> &ActorId {
        self.0.id_ref()
    }
}

impl Ord for ById {
    fn cmp(&self, other: &Self) -> cmp::Ordering {
        self.0.id().cmp(&other.0.id())
    }
}

impl PartialOrd for ById {
    fn partial_cmp(&self, other: &Self) -> Option<cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for ById {
    fn eq(&self, other: &Self) -> bool {
        self.0.id() == other.0.id()
    }
}

impl Eq for ById {}

impl Numbered {
    pub(super) fn get(&self, id: ActorId) -> Option<Arc<Cell>> {
        self.cells.get(&id).map(|ById(cell)| Arc::clone(cell))
    }

    pub(super) fn all(&self) -> Vec<Arc<Cell>> {
        self.cells.iter().map(|ById(cell)| Arc::clone(cell)).collect()
    }

    pub(super) fn ids(&self) -> Vec<ActorId> {
        self.cells.iter().map(|ById(cell)| cell.id()).collect()
    }
}

#[derive(Default)]
pub(super) struct Named {
    // Ordered for the same reason.
    pub(super) children: BTreeMap<Arc<str>, Record>,
    // Holds the current incarnations only.
    pub(super) by_id: HashMap<ActorId, Arc<str>>,
}

impl Parent for Live {
    fn child_ended(&self, cell: &Cell, reason: &ExitReason) {
        let numbered = self.numbered.lock().cells.take(&cell.id());
        if numbered.is_none() {
            self.mailbox.push(Mail::Ended(cell.id(), reason.clone()));
            return;
        }
        self.give_room_back();
        if reason.is_abnormal() && *reason != ExitReason::Killed {
            let supervisor = &self.around.supervisor;
            let within_limit = self.crash_lines.lock().take(Instant::now());
            let level = if within_limit { log::Level::Warn } else { log::Level::Debug };
            log::log!(
                level, supervisor = **supervisor, child = **cell.name();
                "{supervisor}: {} ended: {reason}", cell.id()
            );
            self.around.emit(&self.around.supervisor, Some(cell.id()), EventKind::Ended(reason.clone()));
        }
    }
}

impl Live {
    pub(super) fn new(
        cell: Arc<Cell>,
        around: Surroundings,
        settings: Settings,
        present: Arc<Mutex<Settings>>,
    ) -> Arc<Self> {
        Arc::new_cyclic(|me| Self {
            me: me.clone(),
            kin: Arc::new(Kin { name: around.supervisor.clone(), parent: Some(me.clone()) }),
            cell,
            around,
            settings,
            present,
            mailbox: Mailbox::new(),
            count: AtomicUsize::new(0),
            numbered: Mutex::default(),
            named: Mutex::default(),
            crash_lines: Mutex::default(),
        })
    }

    /// How children are stopped.
    pub(super) fn shutdown(&self) -> Shutdown {
        self.present.lock().shutdown
    }

    /// How long a quarantine lasts.
    pub(super) fn quarantine(&self) -> Duration {
        self.present.lock().quarantine
    }

    pub(super) fn parent(&self) -> Weak<dyn Parent> {
        self.me.clone() as Weak<dyn Parent>
    }

    /// Takes room for another child. The end of the child, or of its record, gives the room back.
    pub(super) fn take_room(&self) -> Result<(), StartError> {
        let limit = self.settings.max_children;
        let more = |count| (count < limit).then_some(count + 1);
        match self.count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more) {
            Ok(_) => Ok(()),
            Err(_) => Err(StartError::TooManyChildren(limit)),
        }
    }

    pub(super) fn give_room_back(&self) {
        self.count.fetch_sub(1, Ordering::Relaxed);
    }

    pub(super) fn admit(&self) -> Result<Arc<Cell>, StartError> {
        self.take_room()?;
        let cell = Cell::new_up(self.around.tree.next_id(), &self.kin);
        let mut numbered = self.numbered.lock();
        if numbered.closed {
            self.give_room_back();
            return Err(StartError::NotRunning);
        }
        numbered.cells.insert(ById(cell.clone()));
        Ok(cell)
    }

    /// Refuses further mail and children, and kills all running children.
    ///
    /// After an orderly end no child runs. A supervisor which was killed, hangs, or has lost its arbiter takes all
    /// children along. This is the link between supervisor and children.
    pub(super) fn dissolve(&self) {
        self.mailbox.close();
        let mut orphans: Vec<Arc<Cell>> = {
            let mut numbered = self.numbered.lock();
            numbered.closed = true;
            numbered.all()
        };
        // A factory often holds a handle to this supervisor, directly or not.
        let factories: Vec<Arc<dyn Launch>> = {
            let mut named = self.named.lock();
            named.by_id.clear();
            let forgotten = named.children.values_mut().map(|child| {
                child.state = State::Stopped;
                orphans.extend(child.cell.take());
                child.spec.forget_factory()
            });
            forgotten.collect()
        };
        for cell in orphans {
            cell.kill(ExitReason::Killed);
        }
        // Last and without the lock: values captured by a factory may read the tree in their drop.
        drop(factories);
    }

    pub(super) async fn end_numbered(&self, cell: &Arc<Cell>) {
        self.end_all(std::slice::from_ref(cell)).await;
    }

    /// Ends numbered children at the same time, with one timeout for all.
    pub(super) async fn end_all(&self, cells: &[Arc<Cell>]) {
        let all_ended = async {
            for cell in cells {
                cell.until_ended().await;
            }
        };
        tokio::pin!(all_ended);
        let in_time = match self.shutdown() {
            Shutdown::BrutalKill => false,
            Shutdown::Timeout(limit) => {
                cells.iter().for_each(|cell| cell.stop());
                timeout(limit, &mut all_ended).await.is_ok()
            }
            Shutdown::Infinity => {
                cells.iter().for_each(|cell| cell.stop());
                (&mut all_ended).await;
                true
            }
        };
        if in_time {
            return;
        }
        cells.iter().for_each(|cell| cell.kill(ExitReason::Killed));
        if timeout(self.settings.kill_grace, all_ended).await.is_ok() {
            return;
        }
        for cell in cells.iter().filter(|cell| !cell.has_ended()) {
            self.around.log_abandoned(cell);
            if cell.finish(ExitReason::Killed) {
                self.around.emit(&self.around.supervisor, Some(cell.id()), EventKind::Abandoned);
            }
        }
    }

    pub(super) fn node(&self, limit: usize) -> Tree {
        let (children, unlisted) = nodes(self.named.lock().children.values(), limit);
        let numbered = self.numbered.lock().cells.len();
        let children = with_subtrees(children, limit);
        Tree { unlisted, ..Tree::of(&self.cell, NodeKind::Dynamic, children, numbered) }
    }

    pub(super) fn find(&self, id: ActorId) -> Option<Arc<str>> {
        if self.cell.id() == id || self.numbered.lock().cells.contains(&id) {
            return Some(self.cell.name().clone());
        }
        let below: Vec<Arc<dyn Launch>> = {
            let named = self.named.lock();
            if let Some(name) = named.by_id.get(&id) {
                return Some(name.clone());
            }
            let supervisors = named.children.values().filter(|child| child.spec.launch.kind() == Kind::Supervisor);
            supervisors.map(|child| child.spec.launch.clone()).collect()
        };
        below.iter().find_map(|launch| launch.find(id))
    }
}

pub(super) enum Mail {
    Ended(ActorId, ExitReason),
    Start { spec: Box<ChildSpec>, reply: oneshot::Sender<Result<(), StartError>> },
    Terminate { name: Arc<str>, reply: oneshot::Sender<Result<(), ChildError>> },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_crashes_has_a_limited_number_of_lines_in_each_second() {
        let begun = Instant::now();
        let mut lines = CrashLines::default();
        let mut taken =
            |milliseconds| (0..1_000).filter(|_| lines.take(begun + Duration::from_millis(milliseconds))).count();
        assert_eq!([taken(0), taken(999), taken(1_000), taken(1_500), taken(60_000)], [32, 0, 32, 0, 32]);
    }
}
