//! The loop of a supervisor: OTP's `supervisor.erl`.
//!
//! A sequential task, not an actor, with one await at a time: the code of an ordered start or shutdown reads in the
//! same order. The loop never waits for a back-off. A child which is due later is a timer in addition to the mailbox.

use std::collections::BTreeSet;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::Plan;
use super::live::{Live, Mail, Seq, Table};
use crate::cell::{ASKED, Cell, Parent};
use crate::child::{Record, after};
use crate::error::{ChildError, StartError};
use crate::exit::{ActorId, ExitReason};
use crate::run::BoxError;
use crate::spec::{AutoShutdown, ChildSpec, Restart, Strategy};
use crate::tree::{EventKind, State};
use crate::window::{RestartIntensity, RestartWindow};
use crate::words::in_words;

/// The loop of a supervisor.
pub(super) struct Keeper {
    plan: Plan,
    live: Arc<Live>,
    window: RestartWindow,
    // Mirrors `Record::due` for times in the future. Stale entries are skipped when due.
    due: BTreeSet<(Instant, Seq)>,
}

impl Keeper {
    pub(super) fn new(plan: Plan, live: Arc<Live>) -> Self {
        Self { window: RestartWindow::new(plan.intensity), plan, live, due: BTreeSet::new() }
    }

    pub(super) async fn supervise(mut self) -> Result<(), BoxError> {
        let cell = self.live.cell.clone();
        cell.trap_stop();
        let mut stop = Box::pin(cell.until(ASKED));
        let reason = match self.start_all().await {
            Err(failed) => Some(ExitReason::StartFailed(failed.to_string().into())),
            Ok(()) => {
                cell.begun();
                self.serve(&mut stop).await
            }
        };
        self.stop_all().await;
        if let Some(reason) = reason {
            cell.ask_exit(reason);
        }
        Ok(())
    }

    /// Serves mail until a stop is requested (`None`) or the supervisor has another reason to end.
    async fn serve(&mut self, stop: &mut Pin<Box<impl Future<Output = ()>>>) -> Option<ExitReason> {
        loop {
            let due = self.due.first().copied();
            let timer = async {
                match due {
                    Some((at, _)) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            let mail = tokio::select! {
                biased;
                () = &mut *stop => return None,
                () = timer => {
                    let (at, seq) = self.due.pop_first().expect("the timer is set for the first entry");
                    Mail::Due(at, seq)
                }
                mail = self.live.mailbox.next() => mail,
            };
            let done = self.on_mail(mail).await;
            if done.is_some() {
                return done;
            }
        }
    }

    async fn on_mail(&mut self, mail: Mail) -> Option<ExitReason> {
        // The sender of a command may be gone; the command is done all the same.
        match mail {
            Mail::Ended(id, reason) => return self.on_end(id, reason).await,
            Mail::Due(at, seq) => self.on_due(at, seq).await,
            Mail::Retry(seq) => return self.on_retry(seq).await,
            Mail::Start { spec, reply } => {
                let _ = reply.send(self.add(*spec).await);
            }
            Mail::Terminate { name, reply } => {
                let _ = reply.send(self.terminate(&name).await);
            }
            Mail::Restart { name, reply } => {
                let _ = reply.send(self.restart_stopped(&name).await);
            }
            Mail::Delete { name, reply } => {
                let _ = reply.send(self.idle(&name).map(|seq| self.forget(seq)));
            }
            Mail::Which { reply } => {
                let _ = reply.send(self.live.node().children);
            }
        }
        None
    }

    fn is_asked(&self) -> bool {
        self.live.cell.flags() & ASKED != 0
    }

    async fn start_all(&mut self) -> Result<(), StartError> {
        self.plan.validate()?;
        let specs = std::mem::take(&mut self.plan.children);
        for spec in specs {
            let child = spec.name.clone();
            let seq = self.live.table.lock().insert(Record::new(spec, self.plan.intensity));
            self.start(seq).await.map_err(|reason| StartError::Failed { child, reason })?;
        }
        Ok(())
    }

    async fn stop_all(&mut self) {
        let all: Vec<Seq> = self.live.table.lock().children.keys().copied().collect();
        for seq in all.into_iter().rev() {
            self.stop(seq).await;
        }
    }

    async fn on_end(&mut self, id: ActorId, reason: ExitReason) -> Option<ExitReason> {
        let (seq, spec) = {
            let mut table = self.live.table.lock();
            let seq = table.by_id.remove(&id)?;
            let child = table.children.get_mut(&seq)?;
            child.ended(reason.clone());
            (seq, child.spec.clone())
        };
        self.live.around.emit(&spec.name, Some(id), EventKind::Ended(reason.clone()));
        let restart = spec.restart_or(Restart::Permanent);
        if restart.wants(&reason) {
            let (supervisor, child) = (self.live.cell.name(), &spec.name);
            log::warn!(supervisor = **supervisor, child = **child; "{supervisor}: {child} {id} ended: {reason}");
            return self.restart(seq).await;
        }
        if spec.is_temporary() {
            self.forget(seq);
        }
        (spec.significant && self.ends_with_significant()).then_some(ExitReason::Shutdown)
    }

    fn ends_with_significant(&self) -> bool {
        match self.plan.auto_shutdown {
            AutoShutdown::Never => false,
            AutoShutdown::AnySignificant => true,
            AutoShutdown::AllSignificant => {
                let table = self.live.table.lock();
                !table.children.values().any(|child| child.spec.significant && child.state != State::Stopped)
            }
        }
    }

    /// Counts a restart of `seq`, which has ended or could not be started. Restarts all children named by the strategy,
    /// now or after the back-off of `seq`. `Some` means giving up.
    async fn restart(&mut self, seq: Seq) -> Option<ExitReason> {
        if self.is_asked() {
            return None;
        }
        let now = Instant::now();
        let delay = {
            let mut table = self.live.table.lock();
            let child = table.children.get_mut(&seq)?;
            child.window.add(now);
            if !self.window.add(now) {
                let (name, last) = (child.spec.name.clone(), child.last_reason.clone());
                drop(table);
                return Some(self.give_up(name, last));
            }
            child.state = State::Restarting;
            child.next_delay()
        };
        self.stop_others(seq).await;
        if delay.is_zero() {
            self.start_or_retry(seq).await;
            return None;
        }
        let at = after(now, delay);
        if let Some(child) = self.live.table.lock().children.get_mut(&seq) {
            child.due = Some(at);
            self.live.around.emit(&child.spec.name, None, EventKind::Restarting(delay));
        }
        self.due.insert((at, seq));
        None
    }

    /// Starts `seq` and the children which are restarted with `seq`. The retry of a failed start waits in the mailbox
    /// behind all earlier mail, as in OTP, and counts as a restart when handled. So other deaths, commands and a stop
    /// come between two attempts, and a retry which a sibling's restart makes needless costs nothing.
    async fn start_or_retry(&mut self, seq: Seq) {
        let Err(failed) = self.start_range(seq).await else { return };
        let mut table = self.live.table.lock();
        let Some(child) = table.children.get_mut(&failed) else { return };
        child.state = State::Restarting;
        if child.spec.backoff.is_none() {
            self.live.around.emit(&child.spec.name, None, EventKind::Restarting(Duration::ZERO));
        }
        drop(table);
        self.live.mailbox.push(Mail::Retry(failed));
    }

    fn give_up(&self, child: Arc<str>, last: Option<ExitReason>) -> ExitReason {
        let last = last.unwrap_or(ExitReason::Killed);
        let RestartIntensity { max_restarts, period } = self.plan.intensity;
        let supervisor = self.live.cell.name();
        log::error!(
            supervisor = **supervisor, child = *child;
            "{supervisor}: gives up after more than {max_restarts} restarts in {}, the last of {child}: {last}",
            in_words(period)
        );
        self.live.around.emit(&child, None, EventKind::GaveUp);
        ExitReason::MaxRestarts { child, last: Box::new(last) }
    }

    /// Starts a child after the back-off. The restart has been counted already.
    async fn on_due(&mut self, at: Instant, seq: Seq) {
        {
            let mut table = self.live.table.lock();
            let Some(child) = table.children.get_mut(&seq) else { return };
            // A sibling's restart may have started the child, a command may have stopped it, or another death may have
            // set another time.
            if child.due.take_if(|due| *due == at).is_none() {
                return;
            }
        }
        // A command may have started a sibling since the others were stopped.
        self.stop_others(seq).await;
        self.start_or_retry(seq).await;
    }

    /// Retries a failed start, unless the child has been started or stopped since.
    async fn on_retry(&mut self, seq: Seq) -> Option<ExitReason> {
        let waits = {
            let table = self.live.table.lock();
            table.children.get(&seq).is_some_and(|child| child.state == State::Restarting && child.due.is_none())
        };
        if waits { self.restart(seq).await } else { None }
    }

    /// The children which are restarted with `seq`, including `seq`, in the order of their start.
    fn range(&self, seq: Seq) -> Vec<Seq> {
        let table = self.live.table.lock();
        match self.plan.strategy {
            Strategy::OneForOne => vec![seq],
            Strategy::OneForAll => table.children.keys().copied().collect(),
            Strategy::RestForOne => table.children.range(seq..).map(|(seq, _)| *seq).collect(),
        }
    }

    /// Stops the children which are restarted with `seq`, last first, and forgets temporary children.
    async fn stop_others(&mut self, seq: Seq) {
        for other in self.range(seq).into_iter().rev().filter(|other| *other != seq) {
            self.stop(other).await;
            self.forget_temporary(other);
        }
    }

    /// Starts `seq` and the children which are restarted with `seq`. The error is the child with the failed start.
    async fn start_range(&mut self, seq: Seq) -> Result<(), Seq> {
        for seq in self.range(seq) {
            let restarted = self.live.table.lock().children.get_mut(&seq).map(|child| {
                child.restarts += 1;
                child.spec.name.clone()
            });
            if let Some(name) = restarted {
                self.live.around.restarts(&name);
            }
            self.start(seq).await.map_err(|_| seq)?;
        }
        Ok(())
    }

    async fn start(&mut self, seq: Seq) -> Result<(), ExitReason> {
        let around = &self.live.around;
        let (spec, cell, info) = {
            let mut table = self.live.table.lock();
            let Table { children, by_id, .. } = &mut *table;
            let child = children.get_mut(&seq).expect("a child is removed only by the loop that starts it");
            let parent: Weak<dyn Parent> = Arc::downgrade(&self.live) as Weak<dyn Parent>;
            let cell = Cell::new(around.tree.next_id(), child.spec.name.clone(), Some(parent));
            let info = child.info();
            child.starting(&cell);
            by_id.insert(cell.id(), seq);
            (child.spec.clone(), cell, info)
        };
        let outcome = around.bring_up(&spec, &cell, info, self.live.cell.until(ASKED)).await;
        let mut table = self.live.table.lock();
        if outcome.is_err() {
            table.by_id.remove(&cell.id());
        }
        let child = table.children.get_mut(&seq).expect("a child is removed only by the loop that starts it");
        match &outcome {
            Ok(()) => child.up(),
            Err(reason) => child.ended(reason.clone()),
        }
        outcome
    }

    /// Stops a child and keeps the place in the order. For a stopped child, this only cancels a due start.
    async fn stop(&mut self, seq: Seq) {
        let (spec, cell) = {
            let mut table = self.live.table.lock();
            let Some(child) = table.children.get_mut(&seq) else { return };
            child.due = None;
            let Some(cell) = child.cell.clone() else {
                child.state = State::Stopped;
                return;
            };
            child.state = State::Stopping;
            let spec = child.spec.clone();
            table.by_id.remove(&cell.id());
            (spec, cell)
        };
        let reason = self.live.around.take_down(&spec, &cell, spec.shutdown_or(None)).await;
        if let Some(child) = self.live.table.lock().children.get_mut(&seq) {
            child.ended(reason);
        }
    }

    async fn add(&mut self, spec: ChildSpec) -> Result<(), StartError> {
        let child = spec.name.clone();
        match self.idle(&child) {
            Ok(_) => return Err(StartError::AlreadyPresent(child)),
            Err(ChildError::NotFound) => {}
            Err(_) => return Err(StartError::AlreadyStarted(child)),
        }
        self.plan.validate_child(&spec)?;
        let seq = self.live.table.lock().insert(Record::new(spec, self.plan.intensity));
        let outcome = self.start(seq).await;
        if outcome.is_err() {
            self.forget(seq);
        }
        outcome.map_err(|reason| StartError::Failed { child, reason })
    }

    async fn terminate(&mut self, name: &str) -> Result<(), ChildError> {
        let seq = *self.live.table.lock().by_name.get(name).ok_or(ChildError::NotFound)?;
        self.stop(seq).await;
        self.forget_temporary(seq);
        Ok(())
    }

    async fn restart_stopped(&mut self, name: &Arc<str>) -> Result<(), ChildError> {
        let seq = self.idle(name)?;
        let outcome = self.start(seq).await;
        outcome.map_err(|reason| StartError::Failed { child: name.clone(), reason }.into())
    }

    fn forget_temporary(&self, seq: Seq) {
        let temporary = self.live.table.lock().children.get(&seq).is_some_and(|child| child.spec.is_temporary());
        if temporary {
            self.forget(seq);
        }
    }

    fn forget(&self, seq: Seq) {
        let removed = self.live.table.lock().remove(seq);
        // Without the lock: values captured by a factory may read the tree in their drop.
        drop(removed);
    }

    /// The child with this name, if stopped and without a due start.
    fn idle(&self, name: &str) -> Result<Seq, ChildError> {
        let table = self.live.table.lock();
        let seq = *table.by_name.get(name).ok_or(ChildError::NotFound)?;
        match table.children.get(&seq).map(|child| child.state) {
            Some(State::Stopped) => Ok(seq),
            Some(State::Restarting) => Err(ChildError::Restarting),
            Some(_) => Err(ChildError::Running),
            None => Err(ChildError::NotFound),
        }
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.live.dissolve();
    }
}
