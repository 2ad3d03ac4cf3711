//! What the server remembers for operators who look at it: its figures of the last minutes, and the rates of topics.
//!
//! | file | what it is | what it owns |
//! |---|---|---|
//! | `mod.rs` | a task | the second: all figures are sampled once in each |
//! | `samples.rs` | pure | the figures of the last ten minutes, and the rates of counters |
//! | `topic_rates.rs` | a task | the messages per second of each topic, while an operator looks |
//!
//! The core counts and keeps no history. The figures of the instance cost the same with any number of clients, so they
//! are sampled always, and a chart is not empty when an operator opens it. The counts of a million topics are looked at
//! only on request.

mod samples;
mod topic_rates;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use janus_core::Janus;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval};

pub(crate) use samples::{Figures, KEPT, Listed};
use samples::{Sample, Samples};
pub(crate) use topic_rates::TopicRates;

/// The time from one sample to the next.
pub(crate) const SECOND: Duration = Duration::from_secs(1);

/// The memory of a server.
#[derive(Debug)]
pub(crate) struct Live {
    janus: Janus,
    started: Instant,
    is_sampling: AtomicBool,
    samples: Mutex<Samples>,
    /// The number of samples so far.
    seconds: watch::Sender<u64>,
    pub(crate) topic_rates: Arc<TopicRates>,
}

impl Live {
    pub(crate) fn new(janus: Janus) -> Self {
        Self {
            topic_rates: Arc::new(TopicRates::new(janus.clone())),
            janus,
            started: Instant::now(),
            is_sampling: AtomicBool::new(false),
            samples: Mutex::default(),
            seconds: watch::Sender::new(0),
        }
    }

    /// Takes a sample in each second from now on, on the current runtime; a further call does nothing.
    pub(crate) fn start(self: &Arc<Self>) {
        if self.is_sampling.swap(true, Ordering::Relaxed) {
            return;
        }
        let live = Arc::downgrade(self);
        tokio::spawn(async move {
            let mut seconds = interval(SECOND);
            // A machine that slept has no samples of that time, and need not catch up.
            seconds.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                seconds.tick().await;
                let Some(live) = live.upgrade() else { return };
                live.sample();
            }
        });
    }

    fn sample(&self) {
        let sample = Sample { at: Instant::now(), time: unix_millis(), stats: self.janus.stats() };
        self.samples().push(sample);
        self.seconds.send_modify(|seconds| *seconds += 1);
    }

    /// The samples so far; to be let go of soon.
    pub(crate) fn samples(&self) -> MutexGuard<'_, Samples> {
        self.samples.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes behind each sample.
    pub(crate) fn seconds(&self) -> watch::Receiver<u64> {
        self.seconds.subscribe()
    }

    /// The time since the start of the server.
    pub(crate) fn uptime(&self) -> Duration {
        self.started.elapsed()
    }
}

/// The time of day in milliseconds since 1970.
pub(crate) fn unix_millis() -> u64 {
    // A clock before 1970 is wrong in any case.
    let time = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
