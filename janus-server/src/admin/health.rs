//! Health: whether the server is alive, and whether it is ready for clients.
//!
//! Alive is a server whose actors run. A service manager restarts a server that is not alive, so nothing outside the
//! process counts: a restart mends no backend, and a crowd of reconnecting clients would come on top of the trouble.
//! Ready is a server that takes further clients. A load balancer sends clients elsewhere in the meantime, and no
//! connection ends.
//!
//! A server that starts has no answer yet: connections wait until the instance has started.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use janus_access::tokens::Tokens;
use janus_core::{EngineLink, Janus};
use serde::ser::SerializeMap as _;
use serde::{Serialize, Serializer};

/// For how long the thread of the actors may be silent in a server that is alive: as long as until the instance ends
/// itself for an actor that hangs.
const LIVE_SILENCE: Duration = Duration::from_secs(5);

/// For how long the thread of the actors may be silent in a server that is ready. Three of its usual seconds; new clients
/// would wait as long.
const READY_SILENCE: Duration = Duration::from_secs(3);

/// The part of the memory budget, in per cent, from which new clients are refused.
const REFUSING: u64 = 95;

/// The health of a server.
#[derive(Debug)]
pub(crate) struct Health {
    janus: Janus,
    /// How long the thread of the actors has been silent.
    since_last_tick: fn(&Janus) -> Duration,
    /// `None` without keys for tokens.
    tokens: Option<Tokens>,
    /// When the stop signal came.
    stopped: OnceLock<Instant>,
    has_drained: AtomicBool,
}

/// What a check of readiness has found, or `None`.
type Check = fn(&Health) -> Option<Finding>;

/// A finding with its reason, for the operator.
enum Finding {
    /// The server is not ready.
    Failed(String),
    /// The server is ready, and a part of it does not work.
    Degraded(String),
}

impl Finding {
    fn is_failure(&self) -> bool {
        matches!(self, Self::Failed(_))
    }

    fn into_reason(self) -> String {
        match self {
            Self::Failed(reason) => reason,
            Self::Degraded(reason) => format!("degraded: {reason}"),
        }
    }
}

/// Every check of readiness. A new check is a row.
const CHECKS: &[(&str, Check)] = &[
    ("draining", draining),
    ("arbiter", arbiter),
    ("engine", engine),
    ("memory", memory),
    ("connections", connections),
    ("keys", keys),
];

/// The answer to a question about health.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub(crate) enum Answer {
    /// Whether the server is alive.
    Live { live: bool, checks: Reasons },
    /// Whether the server is ready.
    Ready { ready: bool, checks: Reasons },
}

/// The checks that fail or find something degraded, with their reasons.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Reasons(Vec<(&'static str, String)>);

impl Serialize for Reasons {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (check, reason) in &self.0 {
            map.serialize_entry(check, reason)?;
        }
        map.end()
    }
}

impl Answer {
    pub(crate) fn is_good(&self) -> bool {
        match self {
            Self::Live { live: good, .. } | Self::Ready { ready: good, .. } => *good,
        }
    }
}

impl Health {
    pub(crate) fn new(janus: Janus, tokens: Option<Tokens>) -> Self {
        let since_last_tick = Janus::since_last_tick;
        Self { janus, since_last_tick, tokens, stopped: OnceLock::new(), has_drained: AtomicBool::new(false) }
    }

    /// The health of a server whose actors have been silent for this long.
    #[cfg(test)]
    pub(crate) fn of_silent(janus: Janus, since_last_tick: fn(&Janus) -> Duration) -> Self {
        Self { since_last_tick, ..Self::new(janus, None) }
    }

    /// From now on the server is not ready, because a stop signal has come.
    pub(crate) fn stop(&self) {
        self.stopped.get_or_init(Instant::now);
    }

    /// The drain is over, and there are no actors any more. The rest of the process, such as news for a backend, may
    /// take some seconds, in which the server must not be restarted.
    pub(crate) fn drained(&self) {
        self.has_drained.store(true, Ordering::Relaxed);
    }

    /// Whether the server is alive.
    pub(crate) fn live(&self) -> Answer {
        let checks: Vec<_> = self.silence(LIVE_SILENCE).map(|reason| ("arbiter", reason)).into_iter().collect();
        Answer::Live { live: checks.is_empty(), checks: Reasons(checks) }
    }

    /// Whether the server is ready.
    pub(crate) fn ready(&self) -> Answer {
        let found: Vec<_> = CHECKS.iter().filter_map(|(name, check)| Some((*name, check(self)?))).collect();
        let ready = !found.iter().any(|(_, finding)| finding.is_failure());
        let reasons = found.into_iter().map(|(name, finding)| (name, finding.into_reason()));
        Answer::Ready { ready, checks: Reasons(reasons.collect()) }
    }

    /// Every check of readiness, and whether the server passes.
    pub(crate) fn checks(&self) -> impl Iterator<Item = (&'static str, bool)> {
        CHECKS.iter().map(|(name, check)| (*name, !check(self).is_some_and(|finding| finding.is_failure())))
    }

    /// A reason if the actors have shown no sign of life for this long.
    fn silence(&self, limit: Duration) -> Option<String> {
        let silence = (self.since_last_tick)(&self.janus);
        (silence >= limit && !self.has_drained.load(Ordering::Relaxed))
            .then(|| format!("the thread of the actors has been silent for {} s", silence.as_secs()))
    }
}

fn draining(health: &Health) -> Option<Finding> {
    let stopped = health.stopped.get()?;
    Some(Finding::Failed(format!("the server was told to stop {} s ago", stopped.elapsed().as_secs())))
}

fn arbiter(health: &Health) -> Option<Finding> {
    health.silence(READY_SILENCE).map(Finding::Failed)
}

fn memory(health: &Health) -> Option<Finding> {
    let stats = health.janus.stats();
    let (used, budget) = (stats.memory_used as u64, stats.memory_budget as u64);
    (budget > 0 && used >= budget / 100 * REFUSING).then(|| {
        Finding::Failed(format!(
            "{} % of memory_budget_bytes is used, and new clients are refused from {REFUSING} %",
            used / (budget / 100)
        ))
    })
}

fn connections(health: &Health) -> Option<Finding> {
    (!health.janus.has_place()).then(|| Finding::Failed("all places of max_connections are taken".to_owned()))
}

fn engine(health: &Health) -> Option<Finding> {
    look_at_links(&health.janus.cluster()?.links, health.janus.config().engine_grace)
}

/// A link that is down for a moment is no reason to send clients elsewhere. Before the first link, no topic of the server
/// is known. With several servers, the node serves the topics of those with a link: every node is without the same server,
/// and a load balancer that left out all of them would help no client.
fn look_at_links(links: &[EngineLink], grace: Duration) -> Option<Finding> {
    let down: Vec<_> = links.iter().filter(|link| !link.is_up && (!link.has_been_up || link.lasted >= grace)).collect();
    let first = down.first()?;
    let reason = first.last_error.as_ref().map_or_else(|| "not connected yet".to_owned(), ToString::to_string);
    let reason = format!("the engine {} has not been reached for {} s: {reason}", first.server, first.lasted.as_secs());
    Some(match (down.len(), links.len()) {
        (_, 1) => Finding::Failed(reason),
        (down, all) if down == all => Finding::Failed(format!("no link to any of {all} servers; {reason}")),
        (down, all) => Finding::Degraded(format!("no link to {down} of {all} servers; {reason}")),
    })
}

fn keys(health: &Health) -> Option<Finding> {
    let tokens = health.tokens.as_ref().filter(|tokens| tokens.is_in_use())?;
    (!tokens.is_ready()).then(|| {
        Finding::Failed(
            "no key for tokens yet, and no client with a token can be served; the log says why token_keys or \
             token_jwks_url gives none"
                .to_owned(),
        )
    })
}
