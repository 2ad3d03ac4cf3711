//! An instance whose time stands still, until a test moves it (a feature).
//!
//! Each thread with actors has its own tokio runtime, and the clock of each is stopped. A runtime whose clock is stopped
//! moves the clock by itself whenever it is idle, unless a blocking task is under way: so each has one.

use std::pin::pin;
use std::sync::mpsc;
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::task::yield_now;
use tokio::time::{Instant, sleep_until};

use super::janus::{Janus, on};
use crate::supervision::Place;

/// Turns for the tasks that a step of the clock has woken, and for those that they wake.
const TURNS: usize = 8;

/// The stopped clocks of an instance.
pub(crate) struct StoppedTime {
    janus: Janus,
    /// Ends the blocking tasks when dropped.
    _holds: Vec<mpsc::Sender<()>>,
}

impl StoppedTime {
    /// Stops the clocks.
    pub(crate) async fn of(janus: &Janus) -> Self {
        let mut holds = Vec::new();
        for place in places(janus) {
            let (hold, held) = mpsc::channel::<()>();
            let stop = async move {
                tokio::time::pause();
                tokio::task::spawn_blocking(move || held.recv().is_ok());
            };
            // A thread that has ended needs no clock.
            let _ = on(&place, stop).await;
            holds.push(hold);
        }
        Self { janus: janus.clone(), _holds: holds }
    }

    /// Moves the clocks, no further at once than from one tick to the next: whatever happens with each tick happens as
    /// often as if the time had passed.
    pub(crate) async fn advance(&self, by: Duration) {
        let mut rest = by;
        while !rest.is_zero() {
            let step = rest.min(self.janus.tables().clock.period());
            for place in places(&self.janus) {
                let _ = on(&place, advance(step)).await;
            }
            rest -= step;
        }
    }
}

fn places(janus: &Janus) -> Vec<Place> {
    let homes = janus.tables().homes.iter().map(|home| home.place.clone());
    [janus.inner.control.clone()].into_iter().chain(homes).collect()
}

/// Moves the clock of this thread.
async fn advance(step: Duration) {
    // Timers are rounded up to a whole millisecond.
    let mut reached = pin!(sleep_until(Instant::now() + step.saturating_sub(Duration::from_millis(1))));
    // Registered with the clock before the clock moves: ready when the clock has told all earlier timers.
    let _ = reached.as_mut().now_or_never();
    tokio::time::advance(step).await;
    reached.await;
    for _ in 0..TURNS {
        yield_now().await;
    }
}
