//! The tick of all connections: PINGs and their answers, unfinished frames, and clients that take nothing from their
//! queues.
//!
//! A timer per client would cost more memory than a client may. This task looks at every connection once a tick
//! instead, a portion at a time, so that no other task waits behind a look at all connections.

use std::sync::Arc;

use tokio::time::MissedTickBehavior;

use crate::connection::Connections;
use crate::connection::slow_clients::{SlowLog, begins_to_lag};
use crate::delivery::ledger::Dropped;
use crate::delivery::{End, Slot};
use crate::ground::clock::Tick;
use crate::hooks::{DropReason, News};

/// Connections looked at before other tasks get their turn.
const PORTION: usize = 256;

/// PINGs sent, or lagging clients looked after, before other tasks get their turn.
const SENDS: usize = 32;

/// Advances the clock and looks after the connections, for ever.
pub(crate) async fn run(shared: Arc<Connections>) {
    let mut interval = tokio::time::interval(shared.clock.period);
    // After a delay, ticks in quick succession would only repeat the same work.
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut slow_log = SlowLog::default();
    loop {
        interval.tick().await;
        let tick = shared.clock.advance();
        let (quiet, unfinished) =
            (shared.clock.ticks(shared.config.heartbeat_interval), shared.clock.ticks(shared.config.frame_timeout));
        let answer_within = shared.clock.ticks(shared.config.pong_timeout);
        let (timeout, patience) =
            (shared.clock.ticks(shared.config.write_timeout), shared.clock.ticks(shared.config.stall_timeout));
        let mut portion = 0..PORTION;
        let mut lagging = Vec::new();
        let mut due = Vec::new();
        loop {
            let more = shared.table.visit(portion.clone(), |slot| {
                if slot.needs_attention() {
                    lagging.push(Arc::clone(slot));
                }
                if slot.unfinished_for(tick).is_some_and(|since| since >= unfinished) {
                    slot.end(End::FrameTimeout);
                } else if slot.is_overdue(tick, answer_within) {
                    slot.end(End::PingTimeout);
                } else if slot.take_ping_due(tick, quiet) {
                    due.push(Arc::clone(slot));
                }
            });
            for some in lagging.chunks(SENDS) {
                for slot in some {
                    slot.end_if_stalled(tick, timeout, patience);
                    slow_log.see(slot, tick);
                    tell_of_lag(&shared, slot, tick);
                }
                tokio::task::yield_now().await;
            }
            lagging.clear();
            for pings in due.chunks(SENDS) {
                for slot in pings {
                    slot.beat(tick);
                }
                tokio::task::yield_now().await;
            }
            due.clear();
            if !more {
                break;
            }
            portion = portion.end..portion.end + PORTION;
            tokio::task::yield_now().await;
        }
        for slot in shared.local_slots() {
            // A subscriber in this process may take its time; only its policy limits the queue.
            slot.end_if_stalled(tick, u32::MAX, u32::MAX);
            slow_log.see(&slot, tick);
        }
        slow_log.note(&shared, tick);
        shared.accounts.sweep();
        shared.accounts.tell_rest_of_reached(&shared);
        tell_of_drops(&shared);
    }
}

/// Tells the embedder's hooks about a client that has begun to lag.
fn tell_of_lag(shared: &Connections, slot: &Slot, tick: Tick) {
    if let Some(hooks) = &shared.hooks
        && let Some(lag) = begins_to_lag(slot, shared, tick)
        && let Some(session) = shared.table.session(slot)
        && let Some(client) = session.client()
    {
        hooks.tell(News::Slow(Arc::clone(client), lag));
    }
}

/// Tells the embedder's hooks about dropped messages.
fn tell_of_drops(shared: &Connections) {
    let Some(hooks) = &shared.hooks else { return };
    for ((topic, why), messages) in shared.ledger().take_dropped() {
        let why = match why {
            Dropped::Oldest => DropReason::Oldest,
            Dropped::Newest => DropReason::Newest,
            Dropped::Conflated => DropReason::Conflated,
        };
        hooks.tell(News::Dropped { topic, messages, why });
    }
}
