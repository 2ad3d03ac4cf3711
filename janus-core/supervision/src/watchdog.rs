//! Notices an arbiter whose current actor does not return.
//!
//! Owns [`Watchdog`], a task for the control thread that looks at the beats of other threads. It interrupts nothing: a
//! handler cannot be interrupted. What to do about one is up to whoever is called back.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior};

use crate::exit::{ActorId, guarded};
use crate::place::Place;
use crate::run::BoxError;
use crate::supervisor::{SupervisorRef, WeakSupervisorRef};

/// An actor that holds up its thread.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Hang {
    /// The thread.
    pub arbiter: Arc<str>,
    /// The incarnation whose code has not returned.
    pub actor: ActorId,
    /// Its name, if it is in one of the trees that the watchdog knows. Numbered children go by their supervisor's.
    pub name: Option<Arc<str>>,
    /// The level that was reached, counted from 0 in the order of their length.
    pub level: usize,
    /// How long it has lasted, at least: the time since it was first seen.
    pub lasted: Duration,
}

/// Calls back when an actor has not returned from its current poll for a given time, once for each level.
///
/// It looks once every period, so a hang is seen up to two periods late; its price for the actors is three relaxed
/// stores a poll. Being a task, it is blind to its own thread: run it on the control place.
///
/// ```no_run
/// use std::time::Duration;
/// use janus_supervision::{Arbiter, ChildSpec, Strategy, Supervisor, Watchdog};
///
/// # async fn start() -> Result<(), Box<dyn std::error::Error>> {
/// let (control, home) = (Arbiter::start("control")?, Arbiter::start("home")?);
/// let root = Supervisor::new("root", Strategy::OneForOne);
/// let watchdog = Watchdog::new(Duration::from_millis(250))
///     .level(Duration::from_secs(1))
///     .level(Duration::from_secs(5))
///     .watch(&home.place())
///     .names_from(&root.handle())
///     .on_hang(|hang| log::warn!("{hang}"));
/// let tree = root.child(ChildSpec::task("watchdog", move || watchdog.clone().run())).start(&control.place()).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Watchdog {
    period: Duration,
    levels: Vec<Duration>,
    places: Vec<Place>,
    // Weak, because the watchdog is mostly a child of what it looks names up in.
    roots: Vec<WeakSupervisorRef>,
    on_hang: Option<Arc<OnHang>>,
}

type OnHang = dyn Fn(&Hang) + Send + Sync;

impl Watchdog {
    /// A watchdog that looks once every `period` and knows no arbiter and no level yet.
    pub fn new(period: Duration) -> Self {
        Self { period, levels: Vec::new(), places: Vec::new(), roots: Vec::new(), on_hang: None }
    }

    /// Adds a time after which a hang is reported.
    #[must_use]
    pub fn level(mut self, after: Duration) -> Self {
        self.levels.push(after);
        self.levels.sort_unstable();
        self
    }

    /// Adds a thread to look at.
    #[must_use]
    pub fn watch(mut self, place: &Place) -> Self {
        self.places.push(place.clone());
        self
    }

    /// Adds a tree in which the names of actors are looked up.
    #[must_use]
    pub fn names_from(mut self, root: &SupervisorRef) -> Self {
        self.roots.push(root.downgrade());
        self
    }

    /// Sets what is called, on the thread of the watchdog. A panic in it is logged.
    #[must_use]
    pub fn on_hang(mut self, tell: impl Fn(&Hang) + Send + Sync + 'static) -> Self {
        self.on_hang = Some(Arc::new(tell));
        self
    }

    /// Looks, for ever. For [`ChildSpec::task`](crate::ChildSpec::task).
    ///
    /// # Errors
    ///
    /// None; the type is that of a task.
    pub async fn run(self) -> Result<(), BoxError> {
        let mut seen: Vec<Option<Seen>> = self.places.iter().map(|_| None).collect();
        let mut ticks = tokio::time::interval(self.period);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let now = ticks.tick().await;
            for (place, seen) in self.places.iter().zip(&mut seen) {
                self.look(place, seen, now);
            }
        }
    }

    fn look(&self, place: &Place, seen: &mut Option<Seen>, now: Instant) {
        let Some((poll, actor)) = place.beat.sample() else {
            *seen = None;
            return;
        };
        let current = match seen {
            Some(current) if current.poll == poll && current.actor == actor => current,
            _ => {
                *seen = Some(Seen { poll, actor, since: now, reported: 0 });
                return;
            }
        };
        let lasted = now - current.since;
        while let Some(level) = self.levels.get(current.reported).filter(|level| lasted >= **level) {
            let hang = Hang {
                arbiter: place.name().clone(),
                actor,
                name: self.roots.iter().find_map(|root| root.upgrade()?.name_of(actor)),
                level: current.reported,
                lasted: lasted.max(*level),
            };
            current.reported += 1;
            if let Some(tell) = &self.on_hang
                && let Err(panic) = guarded(|| tell(&hang))
            {
                log::error!("on_hang of the watchdog {panic}");
            }
        }
    }
}

impl fmt::Debug for Watchdog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watchdog")
            .field("period", &self.period)
            .field("levels", &self.levels)
            .field("places", &self.places)
            .finish_non_exhaustive()
    }
}

impl fmt::Display for Hang {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.name.as_deref().unwrap_or("an actor");
        write!(f, "{}: {name} {} has not returned for {:?}", self.arbiter, self.actor, self.lasted)
    }
}

/// A poll that was under way when a beat was last looked at.
struct Seen {
    poll: u64,
    actor: ActorId,
    since: Instant,
    reported: usize,
}
