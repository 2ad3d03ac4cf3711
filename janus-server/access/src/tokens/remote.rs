//! Keys from a URL: when they are fetched, and by whose leave.
//!
//! # Unknown keys
//!
//! A token with an unknown `kid` may have a key newer than the last fetch, so the keys are fetched once more. A stranger
//! can make up such tokens without end. So all such tokens together get one fetch in [`COOLDOWN`], and only a token with
//! fitting `iss`, `aud` and times gets that far. The server with the keys therefore sees at most two such fetches a
//! minute.
//!
//! Could a stranger use up the fetch on which a client with a really new key depends? Each fetch brings all keys,
//! whatever its cause. So under a flood the keys are never older than [`COOLDOWN`] and the time of a fetch, and without
//! the flood they would be older. A client with a key published after the last fetch is not refused for good: the answer
//! is `authorization_failed`, with the time until the next fetch is allowed, and the client's return causes this fetch
//! unless the flood already has. A client with a known key never waits for any fetch.
//!
//! Waiting could be another way to take places of `max_hook_questions` from other clients, because each waiting question
//! holds a place. So at most [`MOST_WAITING`] questions wait, for [`LONGEST_WAIT`] each. Further clients with unknown
//! keys are told at once to come back.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, sleep, timeout};

use super::keys::Keys;
use super::verify::TokenError;
use crate::summed::counted;

/// From one fetch for an unknown key to the next.
pub(super) const COOLDOWN: Duration = Duration::from_secs(30);

/// Questions that wait for a fetch. A quarter of the default of `max_hook_questions`.
const MOST_WAITING: usize = 256;

/// How long a question waits for a fetch. Less than the default of `hook_timeout`, so that the client gets an answer of
/// this file, and not the answer of a broken hook.
const LONGEST_WAIT: Duration = Duration::from_secs(2);

/// The shortest time from one regular fetch to the next, whatever the answers say.
const LEAST_INTERVAL: Duration = Duration::from_secs(60);

/// The first pause after a failed fetch; each further failure doubles the pause, up to [`LEAST_INTERVAL`].
const FIRST_RETRY: Duration = Duration::from_secs(1);

/// An answer of the server with the keys.
#[derive(Debug)]
pub(super) struct Fetched {
    pub(super) keys: Keys,
    /// How long the answer may be kept, if its `Cache-Control` says so.
    pub(super) fresh_for: Option<Duration>,
}

/// Fetches the keys. An error is a text for the log, without secrets.
pub(super) type Fetch = Arc<dyn Fn() -> BoxFuture<'static, Result<Fetched, String>> + Send + Sync>;

/// The keys of one URL.
pub(super) struct Remote {
    fetch: Fetch,
    interval: Duration,
    /// `None` until a fetch has succeeded.
    keys: ArcSwapOption<Keys>,
    state: Mutex<State>,
    ended: watch::Sender<Ended>,
    waiting: Semaphore,
    pub(super) counts: Counts,
}

#[derive(Default)]
struct State {
    /// Whether a fetch is under way. Callers share the fetch.
    is_fetching: bool,
    /// The last fetch for an unknown key.
    asked: Option<Instant>,
    /// Failed fetches since the last success.
    failures: u32,
    fresh_for: Option<Duration>,
}

impl State {
    fn rest(&self) -> Duration {
        self.asked.map_or(Duration::ZERO, |asked| (asked + COOLDOWN).saturating_duration_since(Instant::now()))
    }
}

/// The fetches that have ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Ended {
    count: u64,
    /// Whether the last fetch has brought keys.
    well: bool,
}

/// Outcomes since the start.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) fetched: AtomicU64,
    pub(super) failed: AtomicU64,
    pub(super) for_unknown_keys: AtomicU64,
    pub(super) put_off: AtomicU64,
}

impl Remote {
    pub(super) fn new(fetch: Fetch, interval: Duration) -> Self {
        Self {
            fetch,
            interval: interval.max(LEAST_INTERVAL),
            keys: ArcSwapOption::empty(),
            state: Mutex::default(),
            ended: watch::Sender::new(Ended::default()),
            waiting: Semaphore::new(MOST_WAITING),
            counts: Counts::default(),
        }
    }

    /// The fetches so far, and the keys of the last fetch that succeeded. In this order: keys that come in between are
    /// looked at, and looked at once more for nothing.
    pub(super) fn keys(&self) -> (Ended, Option<Arc<Keys>>) {
        let ended = *self.ended.borrow();
        (ended, self.keys.load_full())
    }

    /// Fetches the keys for ever. Keys are kept while fetches fail.
    pub(super) async fn run(self: &Arc<Self>) {
        loop {
            let mut ended = self.ended.subscribe();
            self.begin();
            // The sender lives as long as this task.
            let _ = ended.changed().await;
            sleep(self.pause()).await;
        }
    }

    /// Waits for keys that are newer than those `seen`, because a token has an unknown key.
    ///
    /// # Errors
    ///
    /// There are no newer keys for this caller: when to come back.
    pub(super) async fn look_again(self: &Arc<Self>, seen: Ended) -> Result<(), TokenError> {
        let mut ended = self.ended.subscribe();
        if *ended.borrow_and_update() == seen {
            self.begin_for_unknown_key()?;
            let Ok(_place) = self.waiting.try_acquire() else { return Err(self.not_yet(FIRST_RETRY)) };
            // The sender lives as long as the caller.
            let waited = timeout(LONGEST_WAIT, ended.changed()).await;
            waited.map_err(|_| self.not_yet(LONGEST_WAIT))?.ok();
        }
        let well = ended.borrow().well;
        if well { Ok(()) } else { Err(self.not_yet(self.rest().max(FIRST_RETRY))) }
    }

    fn begin_for_unknown_key(self: &Arc<Self>) -> Result<(), TokenError> {
        let rest = {
            let mut state = self.state.lock();
            if state.is_fetching {
                return Ok(());
            }
            let rest = state.rest();
            // The fetch of the start is owed to all clients, and uses up no fetch for an unknown key.
            let is_first = self.ended.borrow().count == 0;
            if rest.is_zero() && !is_first {
                state.asked = Some(Instant::now());
                self.counts.for_unknown_keys.fetch_add(1, Ordering::Relaxed);
            }
            state.is_fetching = rest.is_zero();
            rest
        };
        if rest.is_zero() {
            self.spawn();
            Ok(())
        } else {
            Err(self.not_yet(rest))
        }
    }

    /// The time until the next fetch for an unknown key is allowed.
    fn rest(&self) -> Duration {
        self.state.lock().rest()
    }

    fn not_yet(&self, after: Duration) -> TokenError {
        self.counts.put_off.fetch_add(1, Ordering::Relaxed);
        if self.keys.load().is_some() { TokenError::KeyNotKnownYet(after) } else { TokenError::NoKeys(after) }
    }

    /// Begins a fetch, unless a fetch is under way.
    fn begin(self: &Arc<Self>) {
        let was_fetching = std::mem::replace(&mut self.state.lock().is_fetching, true);
        if !was_fetching {
            self.spawn();
        }
    }

    /// A task of its own, so that the fetch ends even if its caller goes away.
    fn spawn(self: &Arc<Self>) {
        let mut end = End { remote: Arc::clone(self), well: false };
        tokio::spawn(async move {
            let fetched = (end.remote.fetch)().await;
            let well = end.remote.take(fetched);
            end.note(well);
        });
    }

    /// Takes over the outcome of a fetch; returns whether there are new keys.
    fn take(&self, fetched: Result<Fetched, String>) -> bool {
        match fetched {
            Ok(Fetched { keys, fresh_for }) => {
                self.counts.fetched.fetch_add(1, Ordering::Relaxed);
                let count = keys.len();
                let all = counted(count as u64, "key");
                let earlier = self.keys.swap(Some(Arc::new(keys)));
                if earlier.is_none_or(|earlier| earlier.len() != count) {
                    log::info!(keys = count; "token_jwks_url: {all} for tokens");
                } else {
                    log::debug!(keys = count; "token_jwks_url: {all} for tokens");
                }
                let mut state = self.state.lock();
                state.failures = 0;
                state.fresh_for = fresh_for;
                true
            }
            Err(reason) => {
                self.counts.failed.fetch_add(1, Ordering::Relaxed);
                let failures = {
                    let mut state = self.state.lock();
                    state.failures = state.failures.saturating_add(1);
                    state.failures
                };
                let consequence = if self.keys.load().is_some() {
                    "the earlier keys stay"
                } else {
                    "no client with a token is served"
                };
                log::warn!(failures; "token_jwks_url: fetch {failures} in a row failed; {consequence}: {reason}");
                false
            }
        }
    }

    /// The time until the next regular fetch. Random, so that many servers do not fetch at the same moment.
    fn pause(&self) -> Duration {
        let (failures, fresh_for) = {
            let state = self.state.lock();
            (state.failures, state.fresh_for)
        };
        let pause = match failures {
            0 => fresh_for.map_or(self.interval, |fresh| fresh.clamp(LEAST_INTERVAL, self.interval)),
            _ => LEAST_INTERVAL.min(FIRST_RETRY * 2_u32.saturating_pow(failures - 1)),
        };
        pause.mul_f64(1.0 + 0.1 * fastrand::f64())
    }
}

/// Tells of the end of a fetch, even of a fetch that panics.
struct End {
    remote: Arc<Remote>,
    well: bool,
}

impl End {
    fn note(&mut self, well: bool) {
        self.well = well;
    }
}

impl Drop for End {
    fn drop(&mut self) {
        self.remote.state.lock().is_fetching = false;
        self.remote.ended.send_modify(|ended| *ended = Ended { count: ended.count + 1, well: self.well });
    }
}

impl fmt::Debug for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Remote").field("counts", &self.counts).finish_non_exhaustive()
    }
}
