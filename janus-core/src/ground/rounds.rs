//! Work in rounds, at an interval that follows the settings.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::Ground;
use crate::config::Config;

/// The rounds of a task: the first at once, and each further round an interval after the beginning of the last. After a
/// delay no rounds follow in quick succession, because such rounds would only repeat the same work.
#[derive(Debug)]
pub(crate) struct Rounds {
    last: Option<Instant>,
    reloads: watch::Receiver<()>,
}

impl Rounds {
    pub(crate) fn new(ground: &Ground) -> Self {
        Self { last: None, reloads: ground.reloads() }
    }

    /// Waits for the next round. A reload with a shorter interval takes effect at once, however long the interval was.
    ///
    /// Cancel safe.
    pub(crate) async fn next(&mut self, ground: &Ground, interval: impl Fn(&Config) -> Duration) {
        while let Some(last) = self.last {
            let due = last + interval(&ground.config());
            tokio::select! {
                biased;
                () = sleep_until(due) => break,
                changed = self.reloads.changed() => if changed.is_err() {
                    return sleep_until(due).await;
                }
            }
        }
        self.last = Some(Instant::now());
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::timeout;

    use super::*;
    use crate::supervision::Place;

    fn config(seconds: u64) -> Config {
        Config { topic_idle: Duration::from_secs(seconds), ..Config::default() }
    }

    #[test]
    fn a_shorter_interval_takes_effect_at_once_and_a_longer_one_too() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        tokio::task::LocalSet::new().block_on(&runtime, async {
            let ground = Ground::new(config(3_600), vec![Place::here()]);
            let (mut rounds, begun) = (Rounds::new(&ground), Instant::now());
            let interval = |config: &Config| config.topic_idle;
            rounds.next(&ground, interval).await;
            assert_eq!(begun.elapsed(), Duration::ZERO, "the first round is at once");
            assert!(timeout(Duration::from_secs(10), rounds.next(&ground, interval)).await.is_err());
            ground.put_in_force(config(60));
            rounds.next(&ground, interval).await;
            assert_eq!(begun.elapsed(), Duration::from_secs(60));
            ground.put_in_force(config(100));
            rounds.next(&ground, interval).await;
            assert_eq!(begun.elapsed(), Duration::from_secs(160));
        });
    }
}
