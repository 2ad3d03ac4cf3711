//! The messages per second of each topic: the difference of two looks at all topics, a second apart.
//!
//! Looks are taken while requests ask for the rates, and for [`LOOKED_FOR`] more. A look takes sixteen bytes a topic, and
//! three looks exist at a time at most. A thread of its own walks through the topics, so that a server with a million of
//! them answers its checks of health.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use janus_core::Janus;
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::SECOND;
use super::samples::per_second;

/// How long looks go on without a request for rates. An event stream asks once a second, a script perhaps less often.
const LOOKED_FOR: Duration = Duration::from_secs(5);

/// Topics with a rate: those that have existed for longest. The looks of so many topics take 48 MB. Further topics have
/// no rate.
pub(crate) const MAX_RATED_TOPICS: usize = 1_000_000;

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct TopicRates {
    janus: Janus,
    state: Mutex<State>,
    /// The last two looks, while looks are taken.
    known: watch::Sender<Option<Arc<Known>>>,
}

#[derive(Debug, Default)]
struct State {
    /// The latest request.
    asked: Option<Instant>,
    is_running: bool,
}

/// A look: the number of each topic, and of its latest message.
type Look = Arc<Vec<(u64, u64)>>;

/// Two looks.
#[derive(Debug)]
pub(crate) struct Known {
    before: Look,
    after: Look,
    between: Duration,
}

impl Known {
    /// The rate of the topic with this number, if both looks have met the topic.
    pub(crate) fn rate_of(&self, number: u64) -> Option<f64> {
        let seq_in = |look: &Look| {
            let place = look.binary_search_by_key(&number, |(topic, _)| *topic).ok()?;
            Some(look[place].1)
        };
        let after = seq_in(&self.after)?;
        Some(per_second(after.saturating_sub(seq_in(&self.before)?), self.between))
    }
}

impl TopicRates {
    pub(super) fn new(janus: Janus) -> Self {
        Self { janus, state: Mutex::default(), known: watch::Sender::new(None) }
    }

    /// The rates, if looks are being taken.
    pub(crate) fn known(&self) -> Option<Arc<Known>> {
        self.known.borrow().clone()
    }

    /// Has looks taken for a while, on the current runtime.
    pub(crate) fn ask(self: &Arc<Self>) {
        let mut state = self.state();
        state.asked = Some(Instant::now());
        if !state.is_running {
            state.is_running = true;
            tokio::spawn(Arc::clone(self).look());
        }
    }

    /// The rates, after a second unless looks are being taken already.
    pub(crate) async fn wait(self: &Arc<Self>) -> Option<Arc<Known>> {
        let mut known = self.known.subscribe();
        self.ask();
        known.wait_for(Option::is_some).await.ok().and_then(|known| known.clone())
    }

    async fn look(self: Arc<Self>) {
        let mut seconds = interval(SECOND);
        seconds.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut before: Option<(Instant, Look)> = None;
        loop {
            seconds.tick().await;
            if !self.is_wanted() {
                return;
            }
            let (janus, at) = (self.janus.clone(), Instant::now());
            let look = spawn_blocking(move || Arc::new(janus.topic_counts(0, MAX_RATED_TOPICS)));
            // A look that has panicked, or the end of the runtime. The next request begins anew.
            let Ok(after) = look.await else { return self.end(&mut self.state()) };
            if let Some((then, before)) = before.replace((at, Arc::clone(&after))) {
                self.known.send_replace(Some(Arc::new(Known { before, after, between: at - then })));
            }
        }
    }

    /// Whether a request has asked for the rates lately; if not, the rates are forgotten.
    fn is_wanted(&self) -> bool {
        let mut state = self.state();
        let is_wanted = state.asked.is_some_and(|asked| asked.elapsed() <= LOOKED_FOR);
        if !is_wanted {
            self.end(&mut state);
        }
        is_wanted
    }

    fn end(&self, state: &mut State) {
        state.is_running = false;
        self.known.send_replace(None);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_of_a_single_look_has_no_rate() {
        let look = |counts: &[(u64, u64)]| Arc::new(counts.to_vec());
        let (before, after) = (look(&[(1, 10), (2, 5), (4, 7)]), look(&[(1, 10), (4, 10), (5, 3)]));
        let known = Known { before, after, between: Duration::from_secs(2) };
        let rates: Vec<_> = (1..=5).map(|number| known.rate_of(number)).collect();
        assert_eq!(rates, [Some(0.0), None, None, Some(1.5), None]);
    }

    #[tokio::test]
    async fn looks_end_a_while_after_the_last_request_and_are_forgotten() {
        let config =
            janus_core::Config { listen: Vec::new(), http_listen: Vec::new(), ..janus_core::Config::default() };
        let janus = Janus::builder().config(config).start().await.unwrap();
        let rates = Arc::new(TopicRates::new(janus.clone()));
        assert!(rates.known().is_none());
        let subscriber = janus.subscribe("news").unwrap();
        // From here on the clock runs as fast as the looks.
        tokio::time::pause();
        assert!(rates.wait().await.is_some());
        let mut known = rates.known.subscribe();
        known.wait_for(Option::is_none).await.unwrap();
        assert!(rates.wait().await.is_some(), "a later request begins anew");
        drop(subscriber);
        janus.shutdown().await;
    }
}
