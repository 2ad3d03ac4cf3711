//! The loop of a dynamic supervisor.
//!
//! Starts and stops of named children run concurrently, so that no child waits for another. Restarts are counted here,
//! and children which exceed their own intensity are quarantined here.

use std::collections::BTreeSet;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::join_all;
use futures_util::stream::FuturesUnordered;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep_until};

use super::live::{Live, Mail, Named};
use crate::cell::{ASKED, Cell, UP};
use crate::child::{Record, after};
use crate::error::{ChildError, StartError};
use crate::exit::{ActorId, ExitReason, guarded};
use crate::run::BoxError;
use crate::spec::ChildSpec;
use crate::tree::{EventKind, State};
use crate::window::{RestartIntensity, RestartWindow};
use crate::words::in_words;

/// A start or stop which has completed.
enum Done {
    Started { cell: Arc<Cell>, outcome: Result<(), ExitReason>, reply: Option<oneshot::Sender<Result<(), StartError>>> },
    Stopped { cell: Arc<Cell>, reply: oneshot::Sender<Result<(), ChildError>> },
}

type Step = Pin<Box<dyn Future<Output = Done> + Send>>;

/// The loop of a dynamic supervisor. Starts and stops of named children run concurrently, as `steps`.
pub(super) struct Keeper {
    live: Arc<Live>,
    window: RestartWindow,
    steps: FuturesUnordered<Step>,
    // Mirrors `Record::due`. Stale entries are skipped when their time comes.
    due: BTreeSet<(Instant, Arc<str>)>,
}

impl Keeper {
    pub(super) fn new(live: Arc<Live>) -> Self {
        let window = RestartWindow::new(live.settings.intensity);
        Self { live, window, steps: FuturesUnordered::new(), due: BTreeSet::new() }
    }

    pub(super) async fn supervise(mut self) -> Result<(), BoxError> {
        let cell = self.live.cell.clone();
        cell.trap_stop();
        let mut stop = Box::pin(cell.until(ASKED));
        cell.begun();
        let reason = loop {
            let due = self.due.first().cloned();
            let timer = async {
                match &due {
                    Some((at, _)) => sleep_until(*at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = &mut stop => break None,
                Some(done) = self.steps.next() => {
                    if let Some(reason) = self.on_done(done) {
                        break Some(reason);
                    }
                }
                mail = self.live.mailbox.next() => {
                    if let Some(reason) = self.on_mail(mail) {
                        break Some(reason);
                    }
                }
                () = timer => {
                    if let Some(entry) = due {
                        self.due.remove(&entry);
                        self.on_due(entry.0, &entry.1);
                    }
                }
            }
        };
        self.stop_all().await;
        if let Some(reason) = reason {
            cell.ask_exit(reason);
        }
        Ok(())
    }

    async fn stop_all(&mut self) {
        self.live.mailbox.close();
        let named: Vec<_> = {
            let mut named = self.live.named.lock();
            named.by_id.clear();
            let running = named.children.values_mut().filter_map(|child| {
                child.due = None;
                let cell = child.cell.clone();
                // Starts in progress are given up.
                if let Some(cell) = cell.as_ref().filter(|cell| cell.flags() & UP == 0) {
                    cell.kill(ExitReason::Killed);
                }
                child.state = if cell.is_some() { State::Stopping } else { State::Stopped };
                Some((child.spec.clone(), cell?))
            });
            running.collect()
        };
        self.steps.clear();
        let numbered: Vec<Arc<Cell>> = {
            let mut numbered = self.live.numbered.lock();
            numbered.closed = true;
            numbered.all()
        };
        let live = &self.live;
        let stops = join_all(named.iter().map(|(spec, cell)| async {
            let reason = live.around.take_down(spec, cell, spec.shutdown_or(Some(live.shutdown()))).await;
            if let Some(child) = live.named.lock().children.get_mut(&spec.name) {
                child.ended(reason);
            }
        }));
        tokio::join!(stops, live.end_all(&numbered));
    }

    fn on_mail(&mut self, mail: Mail) -> Option<ExitReason> {
        match mail {
            Mail::Ended(id, reason) => return self.on_end(id, reason),
            Mail::Start { spec, reply } => match self.add(*spec) {
                Ok(name) => self.start(&name, Some(reply)),
                Err(refused) => {
                    let _ = reply.send(Err(refused));
                }
            },
            Mail::Terminate { name, reply } => self.terminate(name, reply),
        }
        None
    }

    fn add(&mut self, spec: ChildSpec) -> Result<Arc<str>, StartError> {
        let name = spec.name.clone();
        if spec.significant {
            return Err(StartError::Invalid { child: name, why: "a dynamic supervisor has no significant children" });
        }
        let mut named = self.live.named.lock();
        if named.children.contains_key(&name) {
            return Err(StartError::AlreadyStarted(name));
        }
        self.live.take_room()?;
        let intensity = self.live.settings.child_intensity.unwrap_or(self.live.settings.intensity);
        named.children.insert(name.clone(), Record::new(spec, intensity));
        Ok(name)
    }

    fn start(&mut self, name: &Arc<str>, reply: Option<oneshot::Sender<Result<(), StartError>>>) {
        let live = self.live.clone();
        let (spec, cell, info) = {
            let mut named = live.named.lock();
            let Named { children, by_id } = &mut *named;
            let Some(child) = children.get_mut(name) else { return };
            let cell = Cell::new(live.around.tree.next_id(), name.clone(), Some(live.parent()));
            let info = child.info();
            child.starting(&cell);
            by_id.insert(cell.id(), name.clone());
            (child.spec.clone(), cell, info)
        };
        self.steps.push(Box::pin(async move {
            let outcome = live.around.bring_up(&spec, &cell, info, std::future::pending()).await;
            Done::Started { cell, outcome, reply }
        }));
    }

    fn terminate(&mut self, name: Arc<str>, reply: oneshot::Sender<Result<(), ChildError>>) {
        let (spec, cell) = {
            let mut named = self.live.named.lock();
            let Some(child) = named.children.get_mut(&name) else {
                let _ = reply.send(Err(ChildError::NotFound));
                return;
            };
            child.due = None;
            let Some(cell) = child.cell.clone() else {
                drop(named);
                self.forget(&name);
                let _ = reply.send(Ok(()));
                return;
            };
            child.state = State::Stopping;
            let spec = child.spec.clone();
            named.by_id.remove(&cell.id());
            (spec, cell)
        };
        let live = self.live.clone();
        self.steps.push(Box::pin(async move {
            live.around.take_down(&spec, &cell, spec.shutdown_or(Some(live.shutdown()))).await;
            Done::Stopped { cell, reply }
        }));
    }

    fn forget(&self, name: &str) {
        let removed = self.live.named.lock().children.remove(name);
        if removed.is_some() {
            self.live.give_room_back();
        }
        // Without the lock: values captured by a factory may read the tree in their drop.
        drop(removed);
    }

    fn on_done(&mut self, done: Done) -> Option<ExitReason> {
        match done {
            Done::Stopped { cell, reply } => {
                // If two callers terminated the same child, the second must not remove a successor.
                let stopped = |child: &Record| child.cell.as_ref().is_some_and(|current| Arc::ptr_eq(current, &cell));
                let still_there = self.live.named.lock().children.get(cell.name()).is_some_and(stopped);
                if still_there {
                    self.forget(cell.name());
                }
                let _ = reply.send(Ok(()));
                None
            }
            Done::Started { cell, outcome, reply } => self.on_started(&cell, outcome, reply),
        }
    }

    fn on_started(
        &mut self,
        cell: &Arc<Cell>,
        outcome: Result<(), ExitReason>,
        reply: Option<oneshot::Sender<Result<(), StartError>>>,
    ) -> Option<ExitReason> {
        let name = cell.name();
        let answer = |outcome: Result<(), ExitReason>| {
            if let Some(reply) = reply {
                let failed = |reason| StartError::Failed { child: name.clone(), reason };
                let _ = reply.send(outcome.map_err(failed));
                return true;
            }
            false
        };
        let mut named = self.live.named.lock();
        // Not in the table: the child was terminated during its start, and the termination completes the rest.
        if !named.by_id.contains_key(&cell.id()) {
            drop(named);
            answer(outcome);
            return None;
        }
        match outcome {
            Ok(()) => {
                if let Some(child) = named.children.get_mut(name) {
                    child.up();
                }
                drop(named);
                answer(Ok(()));
                None
            }
            Err(reason) => {
                named.by_id.remove(&cell.id());
                if let Some(child) = named.children.get_mut(name) {
                    child.ended(reason.clone());
                }
                drop(named);
                if answer(Err(reason)) {
                    self.forget(name);
                    return None;
                }
                self.restart(name)
            }
        }
    }

    fn on_end(&mut self, id: ActorId, reason: ExitReason) -> Option<ExitReason> {
        let (name, wanted) = {
            let mut named = self.live.named.lock();
            let name = named.by_id.get(&id)?.clone();
            let child = named.children.get_mut(&name)?;
            // A failed start is reported as such; after a successful start, the child may end before the report is
            // read.
            if child.state == State::Starting && child.cell.as_ref().is_some_and(|cell| cell.flags() & UP == 0) {
                return None;
            }
            child.ended(reason.clone());
            let wanted = child.spec.restart_or(self.live.settings.restart).wants(&reason);
            named.by_id.remove(&id);
            (name, wanted)
        };
        self.live.around.emit(&name, Some(id), EventKind::Ended(reason.clone()));
        if !wanted {
            self.forget(&name);
            return None;
        }
        let supervisor = &self.live.around.supervisor;
        log::warn!(supervisor = **supervisor, child = *name; "{supervisor}: {name} {id} ended: {reason}");
        self.restart(&name)
    }

    /// Counts a restart and performs it: now, after a back-off, or after a quarantine. `Some` means giving up.
    fn restart(&mut self, name: &Arc<str>) -> Option<ExitReason> {
        let now = Instant::now();
        let settings = &self.live.settings;
        let mut named = self.live.named.lock();
        let child = named.children.get_mut(name)?;
        let within_own = child.window.add(now);
        if settings.child_intensity.is_some() {
            if !within_own {
                let rest = self.live.quarantine();
                child.state = State::Quarantined;
                let at = after(now, rest);
                child.due = Some(at);
                let reason = child.last_reason.clone().unwrap_or(ExitReason::Killed);
                drop(named);
                self.due.insert((at, name.clone()));
                self.tell_quarantine(name, &reason, rest);
                return None;
            }
        } else if !self.window.add(now) {
            let last = Box::new(child.last_reason.clone().unwrap_or(ExitReason::Killed));
            drop(named);
            let RestartIntensity { max_restarts, period } = settings.intensity;
            let supervisor = &self.live.around.supervisor;
            log::error!(
                supervisor = **supervisor, child = **name;
                "{supervisor}: gives up after more than {max_restarts} restarts in {}, the last of {name}: {last}",
                in_words(period)
            );
            self.live.around.emit(name, None, EventKind::GaveUp);
            return Some(ExitReason::MaxRestarts { child: name.clone(), last });
        }
        let delay = child.next_delay();
        child.state = State::Restarting;
        let at = after(now, delay);
        child.due = Some(at);
        drop(named);
        self.live.around.emit(name, None, EventKind::Restarting(delay));
        self.due.insert((at, name.clone()));
        None
    }

    fn tell_quarantine(&self, name: &Arc<str>, reason: &ExitReason, rest: Duration) {
        let supervisor = &self.live.around.supervisor;
        log::error!(
            supervisor = **supervisor, child = **name;
            "{supervisor}: {name} exceeded its restart limit; quarantined for {}: {reason}",
            in_words(rest)
        );
        self.live.around.emit(name, None, EventKind::Quarantined(rest));
        if let Some(tell) = &self.live.settings.on_quarantine
            && let Err(panic) = guarded(|| tell(name, reason))
        {
            log::error!(supervisor = **supervisor; "{supervisor}: on_quarantine failed: {panic}");
        }
    }

    fn on_due(&mut self, at: Instant, name: &Arc<str>) {
        {
            let mut named = self.live.named.lock();
            let Some(child) = named.children.get_mut(name) else { return };
            // The child may have been terminated and started anew, and be due at another time.
            if child.due.take_if(|due| *due == at).is_none() {
                return;
            }
            child.restarts += 1;
            if child.state == State::Quarantined {
                child.recover();
            }
        }
        self.live.around.restarts(name);
        self.start(name, None);
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.live.dissolve();
    }
}
