//! The tick of all connections: PINGs and their answers, unfinished frames, expired tokens, and clients that take nothing
//! from their queues.
//!
//! A timer per client would cost more memory than a client may. This task looks at every connection once a tick
//! instead, a portion at a time, so that no other task waits behind a look at all connections.

use std::sync::Arc;
use std::time::Duration;

use crate::connection::Connections;
use crate::connection::slow_clients::{SlowLog, begins_to_lag};
use crate::delivery::ledger::Dropped;
use crate::delivery::{End, Slot};
use crate::ground::clock::{Moment, Tick, now};
use crate::ground::rounds::Rounds;
use crate::hooks::{DropReason, News};

/// Connections looked at before other tasks get their turn.
const PORTION: usize = 256;

/// PINGs sent, or lagging clients looked after, before other tasks get their turn.
const SENDS: usize = 32;

/// Advances the clock and looks after the connections, for ever.
pub(crate) async fn run(shared: Arc<Connections>) {
    let mut rounds = Rounds::new(&shared);
    let mut slow_log = SlowLog::default();
    loop {
        rounds.next(&shared, |_| shared.clock.period()).await;
        let round = Round::begin(&shared);
        round.visit_all(&shared, &mut slow_log).await;
        round.visit_locals(&shared, &mut slow_log).await;
        slow_log.note(&shared, round.tick);
        shared.accounts.sweep();
        shared.revocations.expire(now());
        shared.accounts.arrivals.sweep(tokio::time::Instant::now());
        shared.accounts.tell_rest_of_reached(&shared);
        tell_of_drops(&shared);
    }
}

/// A tick, with the settings in ticks.
struct Round {
    tick: Tick,
    /// The tick before.
    earlier: Tick,
    moment: Moment,
    heartbeat_interval: u32,
    /// The last connection of before, and the shorter interval that it was promised.
    promised: Option<(u64, u32)>,
    frame_timeout: u32,
    api_idle_timeout: u32,
    pong_timeout: u32,
    write_timeout: u32,
    stall_timeout: u32,
}

impl Round {
    /// Advances the clock by a tick.
    fn begin(shared: &Connections) -> Self {
        let (clock, config) = (&shared.clock, shared.config());
        let earlier = clock.tick();
        Self {
            tick: clock.advance(),
            earlier,
            moment: clock.moment(),
            heartbeat_interval: clock.ticks(config.heartbeat_interval),
            promised: shared.promised().0.map(|(last, interval)| (last, clock.ticks(interval))),
            frame_timeout: clock.ticks(config.frame_timeout),
            api_idle_timeout: clock.ticks(config.api_idle_timeout),
            pong_timeout: clock.ticks(config.pong_timeout),
            write_timeout: clock.ticks(config.write_timeout),
            stall_timeout: clock.ticks(config.stall_timeout),
        }
    }

    /// Looks at all connections, a portion at a time.
    async fn visit_all(&self, shared: &Connections, slow_log: &mut SlowLog) {
        let (mut lagging, mut due) = (Vec::new(), Vec::new());
        let mut portion = 0..PORTION;
        loop {
            let more = shared.table.visit(portion.clone(), |slot| {
                if slot.needs_attention() {
                    lagging.push(Arc::clone(slot));
                }
                if self.check(slot) {
                    due.push(Arc::clone(slot));
                }
            });
            for some in lagging.chunks(SENDS) {
                for slot in some {
                    slot.end_if_stalled(self.tick, self.write_timeout, self.stall_timeout);
                    slow_log.see(slot, &shared.clock, self.tick);
                    tell_of_lag(shared, slot, self.tick);
                }
                tokio::task::yield_now().await;
            }
            lagging.clear();
            for pings in due.chunks(SENDS) {
                for slot in pings {
                    slot.beat(self.tick);
                }
                tokio::task::yield_now().await;
            }
            due.clear();
            if !more {
                return;
            }
            portion = portion.end..portion.end + PORTION;
            tokio::task::yield_now().await;
        }
    }

    /// Looks at the subscribers in this process.
    async fn visit_locals(&self, shared: &Connections, slow_log: &mut SlowLog) {
        let see = |slot: Arc<Slot>| {
            // A subscriber in this process may take its time; only its policy limits the queue.
            slot.end_if_stalled(self.tick, u32::MAX, u32::MAX);
            slow_log.see(&slot, &shared.clock, self.tick);
        };
        shared.visit_slow_locals(see).await;
    }

    fn heartbeat_interval_of(&self, slot: &Slot) -> u32 {
        match self.promised {
            Some((last, promised)) if slot.id <= last => promised.min(self.heartbeat_interval),
            _ => self.heartbeat_interval,
        }
    }

    fn is_ping_due(&self, slot: &Slot) -> bool {
        let interval = self.heartbeat_interval_of(slot);
        match slot.beats_regularly() {
            false => slot.take_ping_due(self.tick, interval),
            // Without the running tick that a measured silence needs on top, or the PINGs would be later than promised.
            true => slot.is_beat_due(self.earlier, self.tick, interval.saturating_sub(self.tick.since(self.earlier))),
        }
    }

    /// Ends a connection that is late with a frame or a request, or with the answer to a PING, or whose token has expired; true if a
    /// PING is due.
    fn check(&self, slot: &Slot) -> bool {
        let (patience, end) = match slot.is_idle() {
            true => (self.api_idle_timeout, End::Idle),
            false => (self.frame_timeout, End::FrameTimeout),
        };
        if slot.unfinished_for(self.tick).is_some_and(|ticks| ticks >= patience) {
            slot.end(end);
        } else if slot.is_overdue(self.tick, self.pong_timeout) {
            slot.end(End::PingTimeout);
        } else if slot.expires.is_over(self.moment) {
            slot.end(End::TokenExpired);
        } else {
            return self.is_ping_due(slot);
        }
        false
    }
}

/// The heartbeats that clients were promised before a reload with a longer interval: the last connection of that time,
/// and the shortest interval since. A client that was told to expect a PING would take the silence for a dead server.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Promised(Option<(u64, Duration)>);

impl Promised {
    /// Notes a change of the interval, after which connections are later than `last`.
    pub(crate) fn follow(&mut self, old: Duration, new: Duration, last: u64) {
        if new > old {
            let shortest = self.0.map_or(old, |(_, earlier)| earlier.min(old));
            self.0 = Some((last, shortest));
        }
    }
}

/// Tells the embedder's hooks about a client that has begun to lag.
fn tell_of_lag(shared: &Connections, slot: &Slot, tick: Tick) {
    if let Some(hooks) = shared.hooks()
        && let Some(lag) = begins_to_lag(slot, shared, tick)
        && let Some(session) = shared.table.session(slot)
        && let Some(client) = shared.client(slot, &session)
    {
        hooks.tell(News::Slow(Arc::new(client), lag));
    }
}

/// Tells the embedder's hooks about dropped messages.
fn tell_of_drops(shared: &Connections) {
    let (hooks, dropped) = (shared.hooks(), shared.ledger().take_dropped());
    shared.ledger().count_by_topic(hooks.is_some());
    let Some(hooks) = hooks else { return };
    for ((topic, why), messages) in dropped {
        let why = match why {
            Dropped::Oldest => DropReason::Oldest,
            Dropped::Newest => DropReason::Newest,
            Dropped::Conflated => DropReason::Conflated,
        };
        hooks.tell(News::Dropped { topic, messages, why });
    }
}
