//! Notices arbiters on which an actor does not return.
//!
//! Owns [`Watchdog`], a task for the control thread which reads the beats of other threads. Interrupts nothing, since a
//! handler cannot be interrupted; the callback decides about consequences.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior};

use crate::exit::{ActorId, guarded};
use crate::place::Place;
use crate::run::BoxError;
use crate::supervisor::{SupervisorRef, WeakSupervisorRef};
use crate::words::in_words;

/// An actor that holds up its thread.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Hang {
    /// The thread.
    pub arbiter: Arc<str>,
    /// The incarnation whose code has not returned.
    pub actor: ActorId,
    /// The name, if the actor is in a tree known to the watchdog. Numbered children go by the name of their supervisor.
    pub name: Option<Arc<str>>,
    /// The level reached, counted from 0 in the order of length.
    pub level: usize,
    /// How long the hang has lasted at least: the time since the watchdog first saw the poll.
    pub lasted: Duration,
}

/// Calls back when an actor has not returned from the current poll for a given time, once per level.
///
/// The watchdog looks once per period, so a hang is reported up to two periods late. The price for actors is three
/// relaxed stores per poll. As a task, the watchdog is blind to the thread below: run the watchdog on the control
/// place.
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
    // Weak, because the watchdog is usually a child in the very tree.
    roots: Vec<WeakSupervisorRef>,
    on_hang: Option<Arc<OnHang>>,
}

type OnHang = dyn Fn(&Hang) + Send + Sync;

impl Watchdog {
    /// A watchdog that looks once per `period`, without arbiters and levels yet.
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

    /// Adds a tree to look up the names of actors in.
    #[must_use]
    pub fn names_from(mut self, root: &SupervisorRef) -> Self {
        self.roots.push(root.downgrade());
        self
    }

    /// Sets the callback, called on the thread of the watchdog. A panic in the callback is logged.
    #[must_use]
    pub fn on_hang(mut self, tell: impl Fn(&Hang) + Send + Sync + 'static) -> Self {
        self.on_hang = Some(Arc::new(tell));
        self
    }

    /// Runs for ever. For [`ChildSpec::task`](crate::ChildSpec::task).
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
                log::error!("on_hang of the watchdog failed: {panic}");
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
        write!(f, "{}: {name} {} has not returned for {}", self.arbiter, self.actor, in_words(self.lasted))
    }
}

/// The poll that was running at an earlier look.
struct Seen {
    poll: u64,
    actor: ActorId,
    since: Instant,
    reported: usize,
}
