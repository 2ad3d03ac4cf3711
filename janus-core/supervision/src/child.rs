//! A child as recorded by the supervisor, and how a child is started and stopped.
//!
//! Shared by both kinds of supervisor. Owns the record of a child, the start that cannot hang, and the stop that always
//! ends: ask, kill, declare dead. `supervisor/keeper.rs` and `dynamic/keeper.rs` decide when to start or stop.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout};

use crate::cell::{Cell, KILL, UP};
use crate::exit::{ActorId, ExitReason};
use crate::place::Place;
use crate::run::Birth;
use crate::spec::{ChildSpec, Launch, START_TIMEOUT_DEFAULT, Shutdown, Start, StartInfo, TreeShared};
use crate::tree::{EventKind, NodeKind, State, Tree, TreeEvent};
use crate::window::{RestartIntensity, RestartWindow};
use crate::words::in_words;

/// How long a killed child has for its thread to return before the child is declared dead without the thread.
pub(crate) const KILL_GRACE_DEFAULT: Duration = Duration::from_millis(500);

/// Later than any caller waits: about 30 years.
const FAR_FUTURE: Duration = Duration::from_secs(86_400 * 365 * 30);

/// The instant `delay` after `now`, even for delays beyond the range of the clock.
pub(crate) fn after(now: Instant, delay: Duration) -> Instant {
    now.checked_add(delay).unwrap_or_else(|| now + FAR_FUTURE)
}

/// A child and its history.
pub(crate) struct Record {
    pub(crate) spec: ChildSpec,
    pub(crate) state: State,
    /// The current incarnation: starting, running or stopping.
    pub(crate) cell: Option<Arc<Cell>>,
    pub(crate) restarts: u64,
    pub(crate) last_reason: Option<ExitReason>,
    pub(crate) window: RestartWindow,
    pub(crate) after_quarantine: bool,
    /// When to start the child again. `Some` in the states `Restarting` and `Quarantined` only.
    pub(crate) due: Option<Instant>,
    up_since: Option<Instant>,
    // Restarts without a quiet time between them.
    streak: u32,
}

impl Record {
    pub(crate) fn new(spec: ChildSpec, intensity: RestartIntensity) -> Self {
        Self {
            spec,
            state: State::Stopped,
            cell: None,
            restarts: 0,
            last_reason: None,
            window: RestartWindow::new(intensity),
            after_quarantine: false,
            due: None,
            up_since: None,
            streak: 0,
        }
    }

    pub(crate) fn starting(&mut self, cell: &Arc<Cell>) {
        self.state = State::Starting;
        self.cell = Some(cell.clone());
        self.due = None;
    }

    pub(crate) fn up(&mut self) {
        self.state = State::Running;
        self.up_since = Some(Instant::now());
        self.after_quarantine = false;
    }

    /// Notes that the child does not run any more, for this reason.
    pub(crate) fn ended(&mut self, reason: ExitReason) {
        self.state = State::Stopped;
        self.cell = None;
        self.due = None;
        self.last_reason = Some(reason.cut());
    }

    /// Ends the quarantine: earlier restarts do not count any more.
    pub(crate) fn recover(&mut self) {
        self.after_quarantine = true;
        self.window.clear();
        self.streak = 0;
    }

    /// How long to wait before the next start, which counts as another restart in a row.
    pub(crate) fn next_delay(&mut self) -> Duration {
        let Some(backoff) = self.spec.backoff else { return Duration::ZERO };
        if self.up_since.take().is_some_and(|since| since.elapsed() > backoff.max) {
            self.streak = 0;
        }
        let delay = backoff.delay(self.streak);
        self.streak = self.streak.saturating_add(1);
        delay
    }

    pub(crate) fn info(&mut self) -> StartInfo {
        StartInfo {
            restarts: self.window.count(Instant::now()),
            last_reason: self.last_reason.clone(),
            after_quarantine: self.after_quarantine,
        }
    }

    /// The child's own node of the tree, without the nodes below.
    pub(crate) fn node(&self) -> Tree {
        Tree {
            name: self.spec.name.clone(),
            kind: NodeKind::Worker,
            id: self.cell.as_ref().map(|cell| cell.id()),
            state: self.state,
            restarts: self.restarts,
            last_reason: self.last_reason.clone(),
            due_in: self.due.map(|due| due.saturating_duration_since(Instant::now())),
            children: Vec::new(),
            numbered: 0,
            unlisted: 0,
        }
    }
}

/// A node without the nodes below, and the child that knows these.
type Shallow = (Tree, Arc<dyn Launch>);

/// The nodes of at most `limit` children, and how many children are left out. Children in trouble are left out last.
pub(crate) fn nodes<'a>(
    children: impl ExactSizeIterator<Item = &'a Record> + Clone,
    limit: usize,
) -> (Vec<Shallow>, usize) {
    let node = |child: &Record| (child.node(), child.spec.launch.clone());
    let all = children.len();
    if all <= limit {
        return (children.map(node).collect(), 0);
    }
    let calm = |child: &Record| match child.state {
        State::Running if child.restarts == 0 => 2_usize,
        State::Running => 1,
        _ => 0,
    };
    let mut counts = [0; 3];
    children.clone().for_each(|child| counts[calm(child)] += 1);
    // The number of children to list of each kind.
    let mut room = limit;
    for count in &mut counts {
        *count = room.min(*count);
        room -= *count;
    }
    let listed = children.filter(|child| {
        let room = &mut counts[calm(child)];
        *room > 0 && {
            *room -= 1;
            true
        }
    });
    (listed.map(node).collect(), all - limit)
}

/// Completes the nodes of children with their subtrees. Holds no lock while asking a child.
pub(crate) fn with_subtrees(nodes: Vec<Shallow>, limit: usize) -> Vec<Tree> {
    let deepen = |(node, launch): Shallow| match launch.subtree(limit) {
        Some(Tree { kind, children, numbered, unlisted, .. }) => Tree { kind, children, numbered, unlisted, ..node },
        None => node,
    };
    nodes.into_iter().map(deepen).collect()
}

/// The facts about a supervisor that a start or a stop of a child needs.
#[derive(Clone)]
pub(crate) struct Surroundings {
    pub(crate) supervisor: Arc<str>,
    pub(crate) tree: Arc<TreeShared>,
    pub(crate) place: Place,
    pub(crate) kill_grace: Duration,
}

impl Surroundings {
    /// The child is about to be started again.
    pub(crate) fn restarts(&self, child: &str) {
        self.tree.restarts(&self.supervisor, child);
    }

    pub(crate) fn emit(&self, child: &Arc<str>, id: Option<ActorId>, what: EventKind) {
        self.tree.emit(|| TreeEvent { supervisor: self.supervisor.clone(), child: child.clone(), id, what });
    }

    /// Starts a child and waits until the child is up. After an error nothing of the child runs any more.
    ///
    /// `abort` ends the attempt early. If a killed predecessor is still on the way out, the start waits for the end.
    pub(crate) async fn bring_up(
        &self,
        spec: &ChildSpec,
        cell: &Arc<Cell>,
        info: StartInfo,
        abort: impl Future<Output = ()>,
    ) -> Result<(), ExitReason> {
        let outcome = self.attempt(spec, cell, info, abort).await;
        let what = match &outcome {
            Ok(()) => EventKind::Started,
            Err(reason) => {
                let (supervisor, child, id) = (&self.supervisor, &spec.name, cell.id());
                log::warn!(
                    supervisor = **supervisor, child = **child;
                    "{supervisor}: {child} {id} could not be started: {reason}"
                );
                EventKind::StartFailed(reason.clone())
            }
        };
        self.emit(&spec.name, Some(cell.id()), what);
        outcome
    }

    async fn attempt(
        &self,
        spec: &ChildSpec,
        cell: &Arc<Cell>,
        info: StartInfo,
        abort: impl Future<Output = ()>,
    ) -> Result<(), ExitReason> {
        // The cell ends even if this future is dropped before the child is on its way.
        let unborn = Birth::new(cell.clone());
        if let Some(predecessor) = spec.launch.occupant() {
            if predecessor.flags() & KILL == 0 {
                cell.finish(ExitReason::StartFailed(format!("{} is already running", spec.name).into()));
            } else {
                self.bury(spec, &predecessor).await;
            }
        }
        let place = spec.place.as_ref().unwrap_or(&self.place);
        if unborn.arrive().is_some() {
            let (place, tree) = (place.clone(), self.tree.clone());
            spec.launch.launch(Start { cell: cell.clone(), info, place, tree });
        }
        let too_late = async {
            let Some(limit) = spec.start_limit() else {
                // A supervisor may take as long to start as the children do, but not because of a hung thread.
                let (turn, its_turn) = oneshot::channel::<()>();
                let _ = place.run(move || drop(turn));
                return match timeout(START_TIMEOUT_DEFAULT, its_turn).await {
                    Ok(_) => std::future::pending().await,
                    Err(_) => format!("thread {} did not answer for {}", place.name(), in_words(START_TIMEOUT_DEFAULT)),
                };
            };
            sleep(limit).await;
            format!("not up after {}", in_words(limit))
        };
        tokio::select! {
            biased;
            () = cell.until(UP) => {}
            () = abort => cell.kill(ExitReason::Killed),
            why = too_late => cell.kill(ExitReason::StartFailed(why.into())),
        }
        // A task may be up and done at once; this is not a failed start.
        if cell.flags() & UP != 0 {
            return Ok(());
        }
        self.bury(spec, cell).await;
        Err(cell.reason().unwrap_or(ExitReason::Killed))
    }

    /// Stops a child as the spec says and returns the exit reason.
    pub(crate) async fn take_down(&self, spec: &ChildSpec, cell: &Arc<Cell>, shutdown: Shutdown) -> ExitReason {
        match shutdown {
            Shutdown::BrutalKill => {}
            Shutdown::Timeout(limit) => {
                cell.stop();
                if timeout(limit, cell.until_ended()).await.is_err() {
                    let supervisor = &self.supervisor;
                    log::warn!(
                        supervisor = **supervisor, child = **cell.name();
                        "{supervisor}: {cell:?} did not stop within {} and is killed",
                        in_words(limit)
                    );
                }
            }
            Shutdown::Infinity => {
                cell.stop();
                cell.until_ended().await;
            }
        }
        cell.kill(ExitReason::Killed);
        self.bury(spec, cell).await;
        let reason = cell.reason().unwrap_or(ExitReason::Killed);
        self.emit(&spec.name, Some(cell.id()), EventKind::Ended(reason.clone()));
        reason
    }

    /// Waits for a killed child to end. If the thread does not return in time, the child is declared dead: the name is
    /// free and monitors are told. The child is dropped as soon as the thread does return.
    async fn bury(&self, spec: &ChildSpec, cell: &Arc<Cell>) {
        if timeout(self.kill_grace, cell.until_ended()).await.is_ok() {
            return;
        }
        self.log_abandoned(cell);
        spec.launch.abandon(cell);
        if cell.finish(cell.take_asked().unwrap_or(ExitReason::Killed)) {
            self.emit(&spec.name, Some(cell.id()), EventKind::Abandoned);
        }
    }

    pub(crate) fn log_abandoned(&self, cell: &Cell) {
        let (supervisor, grace) = (&self.supervisor, self.kill_grace);
        log::error!(
            supervisor = **supervisor, child = **cell.name();
            "{supervisor}: {cell:?} has not returned {} after its kill and is abandoned",
            in_words(grace)
        );
    }
}
