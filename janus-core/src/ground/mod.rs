//! The ground: the parts of an instance for every floor above.
//!
//! | file | kind | owns |
//! |---|---|---|
//! | `bucket.rs` | pure | a rate of events, and the room left under the rate |
//! | `clock.rs` | table | coarse time in ticks; the time of day |
//! | `counters.rs` | table | counts of what has happened |
//! | `draining.rs` | table | how far the end of the instance has come |
//! | `figures.rs` | table | figures with labels, by thread, and of durations |
//! | `families.rs` | pure | figures as families of series, for exporters |
//! | `fault.rs` | table | faults that tests put into a running tree |
//! | `homes.rs` | table | the home arbiters |
//! | `in_force.rs` | table | the settings in force |
//! | `histogram.rs` | pure | durations, counted in buckets |
//! | `line.rs` | pure | tasks that wait, first come first served |
//! | `load.rs` | table | whether the home arbiter keeps up |
//! | `log_lines.rs` | table | a limit on log lines per tick |
//! | `rounds.rs` | pure | work in rounds, at an interval of the settings |
//! | `simulated.rs` | tests | virtual time and seeds of the simulation |
//! | `tasks.rs` | pure | how a task lets other tasks run |
//! | `trace.rs`, `trace/pattern.rs` | table | messages between actors, shown to readers for a while |

pub(crate) mod bucket;
pub(crate) mod clock;
pub(crate) mod counters;
pub(crate) mod draining;
pub(crate) mod families;
pub(crate) mod fault;
pub(crate) mod figures;
pub(crate) mod histogram;
pub(crate) mod homes;
pub(crate) mod in_force;
pub(crate) mod line;
pub(crate) mod load;
pub(crate) mod log_lines;
pub(crate) mod rounds;
#[cfg(all(test, feature = "fault-injection"))]
pub(crate) mod simulated;
pub(crate) mod tasks;
pub(crate) mod trace;

use std::sync::Arc;
use std::time::Duration;

use arc_swap::Guard;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::config::Config;
use crate::supervision::Place;
use crate::wire::Limits;
use clock::Clock;
use counters::Counters;
use draining::Draining;
use fault::Faults;
use figures::Figures;
use homes::Homes;
use in_force::InForce;
use trace::Tracer;

/// The state shared by all floors.
#[derive(Debug)]
pub(crate) struct Ground {
    in_force: InForce,
    pub(crate) clock: Clock,
    /// The arbiters on which the actors live.
    pub(crate) homes: Homes,
    pub(crate) counters: Arc<Counters>,
    pub(crate) figures: Arc<Figures>,
    pub(crate) draining: Draining,
    pub(crate) faults: Arc<Faults>,
    pub(crate) tracer: Arc<Tracer>,
}

impl Ground {
    /// With a home for each place.
    pub(crate) fn new(config: Config, places: Vec<Place>) -> Self {
        let figures = Arc::new(Figures::new(&config));
        let homes = Homes::new(places);
        for home in homes.iter() {
            let turns = Arc::clone(&figures);
            home.place.on_pause(move |turn| turns.turns.record(turn));
        }
        Self {
            clock: Clock::for_config(&config),
            homes,
            counters: Arc::default(),
            figures,
            draining: Draining::default(),
            faults: Arc::default(),
            tracer: Arc::default(),
            in_force: InForce::new(config),
        }
    }

    /// The settings in force: see [`InForce::load`].
    #[inline]
    pub(crate) fn config(&self) -> Guard<Arc<Config>> {
        self.in_force.load()
    }

    /// Puts other settings in force. Parts of the floors above that keep something made from the settings follow by
    /// themselves, each as the documentation of the setting says.
    pub(crate) fn put_in_force(&self, config: Config) {
        self.clock.follow(&config);
        // Topics ask again for their namespace when they see the new version.
        self.figures.published.follow(&config);
        self.in_force.replace(config);
    }

    /// Rises with each change of the settings.
    #[inline]
    pub(crate) fn config_version(&self) -> u64 {
        self.in_force.version()
    }

    /// Becomes ready after each change of the settings.
    pub(crate) fn reloads(&self) -> watch::Receiver<()> {
        self.in_force.reloads()
    }

    /// The number of sender threads: those of `threads` that are no homes.
    pub(crate) fn sender_threads(&self) -> usize {
        self.config().threads.saturating_sub(self.homes.len())
    }

    /// The limits that decoders enforce.
    pub(crate) fn wire_limits(&self) -> Limits {
        let Config { max_frame_bytes, max_topic_bytes, max_topics_per_client: max_topics, .. } = **self.config();
        Limits { max_frame_bytes, max_topic_bytes, max_topics }
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.draining.has_begun()
    }

    /// The deadline of a close that begins now and may take `time`: a drain ends earlier.
    pub(crate) fn close_deadline(&self, time: Duration) -> Instant {
        self.draining.limit(Instant::now() + time)
    }
}
