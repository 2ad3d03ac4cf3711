//! The levels in force: the configured [filter](LogFilter), and changes for a while.
//!
//! A line of a disabled level costs one relaxed load, of `log::max_level`, whose value is the most verbose level in
//! force for any target. Only a line that passes is compared with the targets. So a change for one target makes the
//! lines of the same level in other targets cost that comparison for as long as the change is in force, and without a
//! change nothing costs more than with a fixed level.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use env_filter::Filter;
use log::{LevelFilter, Metadata};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use super::filter::LogFilter;

/// Changes in force at the same time. Each record of an enabled level is compared with all of them.
pub(crate) const MAX_CHANGES: usize = 16;

/// How long a change may last, so that a forgotten change does not fill the disk of the log.
pub(crate) const MAX_TIME: Duration = Duration::from_secs(24 * 60 * 60);

/// A change of the levels for a while.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Change {
    /// The target, with all targets that begin with it; `None` for all targets.
    pub(crate) target: Option<String>,
    pub(crate) level: LevelFilter,
    pub(crate) ends: Instant,
    /// The same time on the clock of the wall.
    pub(crate) until: SystemTime,
}

/// Why a change is not made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{MAX_CHANGES} changes of the log are in force: take one back, or wait until one ends")]
pub(crate) struct TooManyChanges;

/// The levels of a log.
#[derive(Debug)]
pub(crate) struct Levels {
    in_force: ArcSwap<Filter>,
    state: Mutex<State>,
    /// Wakes [`run`](Self::run) after a change of the changes.
    changed: Notify,
}

/// Invariant: each target has at most one change.
#[derive(Debug)]
struct State {
    configured: LogFilter,
    changes: Vec<Change>,
}

impl Levels {
    pub(crate) fn new(configured: LogFilter) -> Self {
        let state = State { configured, changes: Vec::new() };
        Self { in_force: ArcSwap::from_pointee(state.filter()), state: Mutex::new(state), changed: Notify::new() }
    }

    /// Whether a record of an enabled level is logged.
    pub(super) fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.in_force.load().enabled(metadata)
    }

    /// Replaces the configured levels. Changes stay in force until their end.
    pub(super) fn configure(&self, configured: LogFilter) {
        self.update(|state| state.configured = configured);
    }

    /// Makes a change, in place of an earlier change for the same target.
    pub(super) fn change(&self, change: Change) -> Result<(), TooManyChanges> {
        let made = self.update(|state| {
            let others = state.changes.iter().filter(|other| other.target != change.target).count();
            if others >= MAX_CHANGES {
                return Err(TooManyChanges);
            }
            state.changes.retain(|other| other.target != change.target);
            state.changes.push(change);
            Ok(())
        });
        self.changed.notify_one();
        made
    }

    /// Takes back and returns the changes that `is_over` selects.
    pub(super) fn take_back(&self, is_over: impl Fn(&Change) -> bool) -> Vec<Change> {
        self.update(|state| state.changes.extract_if(.., |change| is_over(change)).collect())
    }

    /// The configured levels and the changes in force.
    pub(crate) fn view(&self) -> (LogFilter, Vec<Change>) {
        let state = self.state();
        (state.configured.clone(), state.changes.clone())
    }

    /// Ends changes in time, and tells of each. Never ends.
    pub(super) async fn run(&self, tell: impl Fn(&Change)) {
        loop {
            let next = self.state().changes.iter().map(|change| change.ends).min();
            let next_ends = async {
                match next {
                    Some(end) => sleep_until(end).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = next_ends => {
                    let now = Instant::now();
                    self.take_back(|change| change.ends <= now).iter().for_each(&tell);
                }
                () = self.changed.notified() => {}
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Updates the state and, before another update, what follows from it.
    fn update<T>(&self, update: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.state();
        let outcome = update(&mut state);
        let filter = state.filter();
        let most_verbose = filter.filter();
        self.in_force.store(filter.into());
        if std::ptr::eq(self, super::levels()) {
            log::set_max_level(most_verbose);
        }
        outcome
    }
}

impl State {
    /// The configured levels with all changes. A change covers the configured levels of its target and below, and gives
    /// way to a change for a longer target.
    fn filter(&self) -> Filter {
        let mut filter = env_filter::Builder::new();
        filter.filter_level(self.configured.level);
        for (target, level) in &self.configured.targets {
            let begins = |change: &Change| target.starts_with(change.target.as_deref().unwrap_or_default());
            if !self.changes.iter().any(begins) {
                filter.filter_module(target, *level);
            }
        }
        for Change { target, level, .. } in &self.changes {
            filter.filter(target.as_deref(), *level);
        }
        filter.build()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use log::Level;

    use super::*;

    fn change(target: Option<&str>, level: LevelFilter, time: Duration) -> Change {
        let (ends, until) = (Instant::now() + time, SystemTime::now() + time);
        Change { target: target.map(str::to_owned), level, ends, until }
    }

    fn logs(levels: &Levels, level: Level, target: &str) -> bool {
        levels.enabled(&Metadata::builder().level(level).target(target).build())
    }

    const MINUTE: Duration = Duration::from_secs(60);

    #[tokio::test(start_paused = true)]
    async fn a_change_ends_in_time_and_the_configured_levels_are_back() {
        let levels = Arc::new(Levels::new("info,a::quiet=error".parse().unwrap()));
        let told = Arc::new(Mutex::new(Vec::new()));
        let running = tokio::spawn({
            let (levels, told) = (Arc::clone(&levels), Arc::clone(&told));
            async move { levels.run(|change| told.lock().unwrap().push(change.target.clone())).await }
        });
        levels.change(change(Some("a"), LevelFilter::Debug, 10 * MINUTE)).unwrap();
        levels.change(change(Some("a::b"), LevelFilter::Trace, 5 * MINUTE)).unwrap();
        tokio::time::sleep(4 * MINUTE).await;
        assert!(logs(&levels, Level::Debug, "a") && logs(&levels, Level::Debug, "a::quiet"));
        assert!(logs(&levels, Level::Trace, "a::b::c") && !logs(&levels, Level::Trace, "a"));
        assert!(!logs(&levels, Level::Debug, "other"));
        tokio::time::sleep(2 * MINUTE).await;
        assert!(!logs(&levels, Level::Trace, "a::b::c") && logs(&levels, Level::Debug, "a::b::c"));
        assert_eq!(*told.lock().unwrap(), [Some("a::b".to_owned())]);
        tokio::time::sleep(5 * MINUTE).await;
        assert!(!logs(&levels, Level::Debug, "a") && logs(&levels, Level::Info, "a"));
        assert!(!logs(&levels, Level::Warn, "a::quiet"));
        assert_eq!((told.lock().unwrap().len(), levels.view().1), (2, vec![]));
        running.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn a_later_change_of_a_target_replaces_the_earlier_change_and_its_end() {
        let levels = Arc::new(Levels::new(LogFilter::level(LevelFilter::Warn)));
        let running = tokio::spawn({
            let levels = Arc::clone(&levels);
            async move { levels.run(|_| {}).await }
        });
        levels.change(change(None, LevelFilter::Debug, MINUTE)).unwrap();
        tokio::time::sleep(MINUTE / 2).await;
        levels.change(change(None, LevelFilter::Info, 2 * MINUTE)).unwrap();
        tokio::time::sleep(MINUTE).await;
        assert!(logs(&levels, Level::Info, "a") && !logs(&levels, Level::Debug, "a"));
        tokio::time::sleep(2 * MINUTE).await;
        assert!(!logs(&levels, Level::Info, "a"));
        running.abort();
    }

    #[test]
    fn a_change_outlives_new_configured_levels() {
        let levels = Levels::new(LogFilter::level(LevelFilter::Info));
        levels.change(change(Some("a"), LevelFilter::Trace, MINUTE)).unwrap();
        levels.configure("warn,a=error,b=debug".parse().unwrap());
        assert!(logs(&levels, Level::Trace, "a") && logs(&levels, Level::Debug, "b"));
        assert!(!logs(&levels, Level::Info, "c"));
        assert_eq!(levels.take_back(|change| change.target.as_deref() == Some("a")).len(), 1);
        assert!(!logs(&levels, Level::Warn, "a"));
    }

    #[test]
    fn changes_have_a_limit() {
        let levels = Levels::new(LogFilter::level(LevelFilter::Info));
        let target = |number: usize| format!("t{number}");
        for number in 0..MAX_CHANGES {
            levels.change(change(Some(&target(number)), LevelFilter::Debug, MINUTE)).unwrap();
        }
        assert_eq!(levels.change(change(None, LevelFilter::Debug, MINUTE)), Err(TooManyChanges));
        levels.change(change(Some(&target(3)), LevelFilter::Trace, MINUTE)).unwrap();
        levels.take_back(|change| change.target.as_deref() == Some("t0"));
        levels.change(change(None, LevelFilter::Debug, MINUTE)).unwrap();
    }

    #[test]
    fn the_most_verbose_level_of_any_target_is_the_limit_of_all() {
        let levels = Levels::new(LogFilter::level(LevelFilter::Info));
        levels.change(change(Some("a"), LevelFilter::Trace, MINUTE)).unwrap();
        assert_eq!(levels.in_force.load().filter(), LevelFilter::Trace);
        levels.take_back(|_| true);
        assert_eq!(levels.in_force.load().filter(), LevelFilter::Info);
    }
}
