//! The supervisor: children in an order, with a strategy and a restart intensity.
//!
//! Owns [`Supervisor`], the plan of a supervisor and its start.
//!
//! | file | what it is |
//! |---|---|
//! | `mod.rs` | [`Supervisor`]: the plan of a tree, and how it is started |
//! | `handle.rs` | [`SupervisorRef`]: commands and questions from any thread |
//! | `live.rs` | what the loop shares with handles and children: the table of children and the mailbox |
//! | `keeper.rs` | the loop: starts, stops, restarts, gives up |

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

mod handle;
mod keeper;
mod live;

use self::handle::Shared;
pub use self::handle::{SupervisorRef, WeakSupervisorRef};
use self::keeper::Keeper;
use self::live::Live;
use crate::cell::{Cell, UP};
use crate::child::{KILL_GRACE_DEFAULT, Surroundings};
use crate::error::StartError;
use crate::exit::{ActorId, ExitReason};
use crate::place::Place;
use crate::run::{Begun, Birth, Incarnation, TaskBody};
use crate::spec::{AutoShutdown, ChildSpec, Kind, Launch, OnRestart, Restart, Start, Strategy, TreeShared};
use crate::tree::Tree;
use crate::window::RestartIntensity;

/// A supervisor before the start: the root of a tree, or a child of another supervisor.
///
/// ```
/// use std::time::Duration;
/// use janus_supervision::{Arbiter, ChildSpec, Restart, Strategy, Supervisor};
///
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
/// let arbiter = Arbiter::start("home")?;
/// let tree = Supervisor::new("root", Strategy::OneForOne)
///     .intensity(5, Duration::from_secs(60))
///     .child(ChildSpec::task("idle", || async { std::future::pending().await }).restart(Restart::Transient))
///     .start(&arbiter.place())
///     .await?;
/// assert!(tree.tree().find("idle").is_some_and(|idle| idle.id.is_some()));
/// tree.stop().await;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # }).unwrap();
/// ```
#[derive(Clone, Debug)]
pub struct Supervisor {
    plan: Plan,
    handle: SupervisorRef,
    on_restart: Option<OnRestart>,
}

#[derive(Clone, Debug)]
struct Plan {
    strategy: Strategy,
    intensity: RestartIntensity,
    auto_shutdown: AutoShutdown,
    kill_grace: Duration,
    children: Vec<ChildSpec>,
}

impl Supervisor {
    /// A supervisor without children, with OTP's intensity of 1 restart in 5 seconds.
    pub fn new(name: impl Into<Arc<str>>, strategy: Strategy) -> Self {
        let plan = Plan {
            strategy,
            intensity: RestartIntensity::default(),
            auto_shutdown: AutoShutdown::Never,
            kill_grace: KILL_GRACE_DEFAULT,
            children: Vec::new(),
        };
        let handle = SupervisorRef { shared: Arc::new(Shared { name: name.into(), live: Mutex::new(None) }) };
        Self { plan, handle, on_restart: None }
    }

    /// How many restarts within `period` are allowed. After another restart, the supervisor stops all children and ends
    /// with [`ExitReason::MaxRestarts`].
    #[must_use]
    pub fn intensity(mut self, max_restarts: u32, period: Duration) -> Self {
        self.plan.intensity = RestartIntensity { max_restarts, period };
        self
    }

    /// Whether the supervisor ends together with significant children.
    #[must_use]
    pub fn auto_shutdown(mut self, auto_shutdown: AutoShutdown) -> Self {
        self.plan.auto_shutdown = auto_shutdown;
        self
    }

    /// How long a killed child has for the running handler to return. Then the child is abandoned. The default is 500
    /// ms.
    #[must_use]
    pub fn kill_grace(mut self, grace: Duration) -> Self {
        self.plan.kill_grace = grace;
        self
    }

    /// Adds a child, to be started after and stopped before all children added earlier.
    #[must_use]
    pub fn child(mut self, spec: ChildSpec) -> Self {
        self.plan.children.push(spec);
        self
    }

    /// Calls `tell` with the names of the supervisor and of the child before each restart in the whole tree, for
    /// figures: unlike [`events`](SupervisorRef::subscribe), no restart is left out. The call holds up the supervisor, so
    /// it must be quick and not block; a panic is logged. Has an effect on the root of a tree only.
    #[must_use]
    pub fn on_restart(mut self, tell: impl Fn(&str, &str) + Send + Sync + 'static) -> Self {
        self.on_restart = Some(OnRestart(Arc::new(tell)));
        self
    }

    /// The name of the supervisor.
    pub fn name(&self) -> &Arc<str> {
        &self.handle.shared.name
    }

    /// The handle of the supervisor, which works while the supervisor runs and, below another supervisor, after every
    /// restart.
    pub fn handle(&self) -> SupervisorRef {
        self.handle.clone()
    }

    /// Starts a tree: this supervisor and its children in order. Each child starts when the previous child is up.
    ///
    /// The supervisor's own loop runs at `place`, and so do all children without a place of their own.
    ///
    /// # Errors
    ///
    /// [`StartError`]; the children that had been started have been stopped again.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, all children started so far are killed.
    pub async fn start(self, place: &Place) -> Result<SupervisorRef, StartError> {
        if cfg!(panic = "abort") {
            log::warn!("built with panic = \"abort\": a panic ends the process and nothing can be restarted");
        }
        self.plan.validate()?;
        if self.occupant().is_some() {
            return Err(StartError::AlreadyStarted(self.name().clone()));
        }
        let tree = TreeShared::new(self.on_restart.clone());
        let cell = Cell::new(tree.next_id(), self.name().clone(), None);
        let mut unfinished = KillOnDrop(Some(cell.clone()));
        self.launch(Start { cell: cell.clone(), info: Default::default(), place: place.clone(), tree });
        cell.until(UP).await;
        unfinished.0 = None;
        if cell.flags() & UP != 0 {
            return Ok(self.handle);
        }
        let reason = cell.reason().unwrap_or(ExitReason::Killed);
        if reason == ExitReason::ArbiterDown {
            return Err(StartError::ArbiterDown);
        }
        Err(StartError::Failed { child: self.name().clone(), reason })
    }
}

/// Kills a tree if the future of the start is dropped. The tree must not outlive the future.
struct KillOnDrop(Option<Arc<Cell>>);

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        if let Some(cell) = &self.0 {
            cell.kill(ExitReason::Killed);
        }
    }
}

impl Plan {
    fn validate(&self) -> Result<(), StartError> {
        let mut names = HashSet::new();
        for spec in &self.children {
            if !names.insert(&spec.name) {
                return Err(StartError::AlreadyPresent(spec.name.clone()));
            }
            self.validate_child(spec)?;
        }
        Ok(())
    }

    fn validate_child(&self, spec: &ChildSpec) -> Result<(), StartError> {
        if !spec.significant {
            return Ok(());
        }
        let why = if self.auto_shutdown == AutoShutdown::Never {
            "a significant child needs a supervisor that shuts down with it"
        } else if spec.restart_or(Restart::Permanent) == Restart::Permanent {
            "a permanent child cannot be significant"
        } else {
            return Ok(());
        };
        Err(StartError::Invalid { child: spec.name.clone(), why })
    }
}

impl Launch for Supervisor {
    fn kind(&self) -> Kind {
        Kind::Supervisor
    }

    fn launch(&self, Start { cell, place, tree, .. }: Start) {
        let around = Surroundings {
            supervisor: self.name().clone(),
            tree,
            place: place.clone(),
            kill_grace: self.plan.kill_grace,
        };
        let live = Live::new(cell.clone(), around);
        let previous = self.handle.shared.live.lock().replace(live.clone());
        // Without the lock: values captured by factories of children may read the tree in their drop.
        drop(previous);
        let plan = self.plan.clone();
        let birth = Birth::new(cell);
        // Made here, so that no caller waits for a supervisor which gets lost on the way.
        let keeper = Keeper::new(plan, live);
        let _ = place.run(move || {
            let Some(cell) = birth.arrive() else { return };
            let body = TaskBody::new(Box::pin(keeper.supervise()), Begun::ByItself);
            tokio::task::spawn_local(Incarnation::new(body, cell));
        });
    }

    fn occupant(&self) -> Option<Arc<Cell>> {
        self.handle.running().map(|live| live.cell.clone())
    }

    fn abandon(&self, cell: &Cell) {
        let live = self.handle.shared.live.lock().clone();
        if let Some(live) = live.filter(|live| std::ptr::eq(&*live.cell, cell)) {
            live.dissolve();
        }
    }

    fn subtree(&self, limit: usize) -> Option<Tree> {
        Some(self.handle.tree_within(limit))
    }

    fn find(&self, id: ActorId) -> Option<Arc<str>> {
        self.handle.name_of(id)
    }
}
