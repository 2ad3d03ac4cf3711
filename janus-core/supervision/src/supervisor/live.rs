//! The part of a supervisor's incarnation which the loop shares with handles and children.
//!
//! Owns the table of children and the mailbox. Questions about the tree are answered from here without the loop, so a
//! hung part cannot hold up the answer.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::cell::{Cell, Parent};
use crate::child::{Record, Surroundings, nodes, with_subtrees};
use crate::error::{ChildError, StartError};
use crate::exit::{ActorId, ExitReason};
use crate::mailbox::Mailbox;
use crate::spec::{ChildSpec, Kind, Launch};
use crate::tree::{NodeKind, State, Tree};

/// An incarnation of a supervisor, without the loop.
pub(super) struct Live {
    pub(super) cell: Arc<Cell>,
    pub(super) around: Surroundings,
    pub(super) mailbox: Mailbox<Mail>,
    // Locked only briefly, never across an await and never while asking another supervisor.
    pub(super) table: Mutex<Table>,
}

/// The place of a child in the order of starts.
pub(super) type Seq = u64;

#[derive(Default)]
pub(super) struct Table {
    next: Seq,
    pub(super) children: BTreeMap<Seq, Record>,
    pub(super) by_name: HashMap<Arc<str>, Seq>,
    // Holds the current incarnations only, so that the end of an earlier incarnation is known to be stale.
    pub(super) by_id: HashMap<ActorId, Seq>,
}

impl Table {
    pub(super) fn insert(&mut self, child: Record) -> Seq {
        let seq = self.next;
        self.next += 1;
        self.by_name.insert(child.spec.name.clone(), seq);
        self.children.insert(seq, child);
        seq
    }

    pub(super) fn remove(&mut self, seq: Seq) -> Option<Record> {
        let child = self.children.remove(&seq)?;
        self.by_name.remove(&child.spec.name);
        Some(child)
    }
}

impl Parent for Live {
    fn child_ended(&self, cell: &Cell, reason: &ExitReason) {
        self.mailbox.push(Mail::Ended(cell.id(), reason.clone()));
    }
}

impl Live {
    pub(super) fn new(cell: Arc<Cell>, around: Surroundings) -> Arc<Self> {
        Arc::new(Self { cell, around, mailbox: Mailbox::new(), table: Mutex::default() })
    }

    /// Refuses further mail and kills all running children.
    ///
    /// After an orderly end no child runs. A supervisor which was killed, hangs, or has lost its arbiter takes all
    /// children along. This is the link between supervisor and children.
    pub(super) fn dissolve(&self) {
        self.mailbox.close();
        let orphans: Vec<Arc<Cell>> = {
            let mut table = self.table.lock();
            table.by_id.clear();
            let running = table.children.values_mut().rev().filter_map(|child| {
                child.state = State::Stopped;
                child.cell.take()
            });
            running.collect()
        };
        for cell in orphans {
            cell.kill(ExitReason::Killed);
        }
    }

    pub(super) fn node(&self, limit: usize) -> Tree {
        let (children, unlisted) = nodes(self.table.lock().children.values(), limit);
        let children = with_subtrees(children, limit);
        Tree { unlisted, ..Tree::of(&self.cell, NodeKind::Supervisor, children, 0) }
    }

    pub(super) fn find(&self, id: ActorId) -> Option<Arc<str>> {
        if self.cell.id() == id {
            return Some(self.cell.name().clone());
        }
        let below: Vec<Arc<dyn Launch>> = {
            let table = self.table.lock();
            if let Some(child) = table.by_id.get(&id).and_then(|seq| table.children.get(seq)) {
                return Some(child.spec.name.clone());
            }
            let supervisors = table.children.values().filter(|child| child.spec.launch.kind() == Kind::Supervisor);
            supervisors.map(|child| child.spec.launch.clone()).collect()
        };
        below.iter().find_map(|launch| launch.find(id))
    }
}

pub(super) enum Mail {
    Ended(ActorId, ExitReason),
    /// A note to the loop: start this child, unless another time has been set since.
    Due(Instant, Seq),
    /// A note to the loop: retry the failed start of this child.
    Retry(Seq),
    Start {
        spec: Box<ChildSpec>,
        reply: oneshot::Sender<Result<(), StartError>>,
    },
    Terminate {
        name: Arc<str>,
        reply: oneshot::Sender<Result<(), ChildError>>,
    },
    Restart {
        name: Arc<str>,
        reply: oneshot::Sender<Result<(), ChildError>>,
    },
    Delete {
        name: Arc<str>,
        reply: oneshot::Sender<Result<(), ChildError>>,
    },
    Which {
        reply: oneshot::Sender<Vec<Tree>>,
    },
}
