//! The orderly end of an instance: new clients are refused first, then the connected clients are closed over a time.
//!
//! A closed client connects again, here to the next instance behind the same address. If all were closed at once, all
//! would connect at once; so they are closed a few at a time, in no order, at no regular times.

use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use serde::Serialize;
use tokio::time::{Instant, timeout_at};

use super::janus::on;
use super::shared::Shared;
use super::{application, cluster};
use crate::delivery::{End, Slot};
use crate::supervision::SupervisorRef;
use crate::topic::Handover;

/// From one batch to the next, give or take a half: 19,000 connections in 5 s are batches of about a hundred.
const BEAT: Duration = Duration::from_millis(25);

/// Connections looked at before the table is free for other connections.
const PORTION: usize = 256;

/// The time for connections that have been accepted and wait for their PROXY header or their TLS handshake. Clients that
/// are slower find their connection closed.
const ACCEPTED_TIME: Duration = Duration::from_secs(1);

/// How a drain went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct DrainReport {
    /// Connections open at the beginning of the drain.
    pub connections: usize,
    /// Connections that ended with something still queued for them: slow consumers, or clients for whom `drain_timeout`
    /// was too short.
    pub cut_off: usize,
}

pub(crate) async fn drain(shared: &Shared, root: &SupervisorRef) -> DrainReport {
    // One deadline for everything below, however the steps divide the time.
    let deadline = shared.close_deadline(shared.config().drain_timeout);
    shared.draining.set_deadline(deadline);
    let connections = shared.connections.table.len();
    // A stalled client is cut off before the time of a drain is over, and its queue is lost as well.
    let cut_off_before = shared.counters.all_cut_off();
    // Early, so that the word goes out before the engine's task ends.
    if let Some(cluster) = &shared.topics.cluster {
        cluster::leave(cluster);
    }
    note_successor(shared);
    serve_accepted(shared, deadline.min(Instant::now() + ACCEPTED_TIME)).await;
    for endpoint in &shared.endpoints {
        // The acceptor may have ended with the tree already.
        let _ = root.terminate_child(endpoint.acceptor.name()).await;
        endpoint.close();
    }
    // The embedder's actors may publish to the last; there may be no actor, and the actors may take longer than there
    // is time.
    let _ = timeout_at(deadline, root.terminate_child(application::NAME)).await;
    shared.draining.begin();
    // A client between two requests of HTTP waits for nothing, and its next request finds another server.
    for slot in connected(shared).await.iter().filter(|slot| slot.is_idle() && !slot.is_answering()) {
        slot.end(End::Draining);
    }
    // Messages accepted from publishers reach the subscribers' sockets or queues first.
    while Instant::now() < deadline && shared.topics.table.all().iter().any(|topic| !topic.is_idle()) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    // Topics without a subscriber may end before the drain does.
    let topics = shared.topics.table.all();
    // The last clients to be closed need time, too, to take their queued messages.
    let left = deadline.saturating_duration_since(Instant::now());
    let period = shared.config().drain_period.min(left / 2);
    shared.draining.set_end(Instant::now() + period);
    if !period.is_zero() {
        // Any order will do if the system has no randomness to give.
        let seed = getrandom::u64().unwrap_or_default();
        #[cfg(all(test, feature = "fault-injection"))]
        let seed = crate::ground::simulated::seed().unwrap_or(seed);
        let anybody_left = || {
            // The other node may drain by now, too.
            note_successor(shared);
            shared.connections.table.len() > 0
        };
        spread(connected(shared).await, period, seed, anybody_left, |slot| slot.end(End::Draining)).await;
    }
    // The remaining connections have much to read yet, or were being refused.
    shared.transport_supervisor.stop_all().await;
    root.stop().await;
    // Only now: no topic has a message left to be numbered, not even a topic whose actor hangs.
    shared.close();
    let _ = shared.handover.set(Handover::of(&shared.topics, &topics));
    DrainReport { connections, cut_off: (shared.counters.all_cut_off() - cut_off_before) as usize }
}

/// Notes whether clients that are sent away now find another node.
fn note_successor(shared: &Shared) {
    let cluster = shared.topics.cluster.as_ref();
    shared.draining.set_successor(cluster.is_some_and(|cluster| cluster::has_ready_others(cluster)));
}

/// Takes no further connection from the kernel, and serves those that have been taken: a connection closed without a
/// word would be refused in the eyes of its client, while the rest of the backlog may wait for another process that
/// listens on the same socket.
async fn serve_accepted(shared: &Shared, deadline: Instant) {
    shared.endpoints.iter().for_each(|endpoint| endpoint.stop_accepting());
    // Acceptors in the middle of their turns have finished the turns.
    pass_all_homes(shared, deadline).await;
    while Instant::now() < deadline && shared.has_unserved() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    // Connections on their way to another home have arrived.
    pass_all_homes(shared, deadline).await;
}

/// Waits until each home has run the jobs that were submitted before.
async fn pass_all_homes(shared: &Shared, deadline: Instant) {
    for home in shared.homes.iter() {
        let _ = timeout_at(deadline, on(&home.place, async {})).await;
    }
}

async fn connected(shared: &Shared) -> Vec<Arc<Slot>> {
    let mut slots = Vec::with_capacity(shared.connections.table.len());
    let mut portion = 0..PORTION;
    while shared.connections.table.visit(portion.clone(), |slot| slots.push(Arc::clone(slot))) {
        portion = portion.end..portion.end + PORTION;
        tokio::task::yield_now().await;
    }
    slots
}

/// Closes `connections` in batches over `period`; returns earlier if `anybody_left` says that no connection is left.
/// The seed decides the time of each close.
async fn spread<T>(
    mut connections: Vec<T>,
    period: Duration,
    seed: u64,
    anybody_left: impl Fn() -> bool,
    mut close: impl FnMut(T),
) {
    let mut random = Rng::with_seed(seed);
    random.shuffle(&mut connections);
    let (begun, total) = (Instant::now(), connections.len());
    while !connections.is_empty() && anybody_left() {
        let pause = BEAT.mul_f64(0.5 + random.f64());
        tokio::time::sleep(pause.min(period.saturating_sub(begun.elapsed()))).await;
        // By the time passed and not by batches, so a late timer does not make the period longer.
        let part = begun.elapsed().as_secs_f64() / period.as_secs_f64();
        let left = total - ((total as f64 * part).ceil() as usize).min(total);
        connections.drain(left..).for_each(&mut close);
    }
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};

    use super::*;

    const PERIOD: Duration = Duration::from_secs(5);

    /// The time of each connection's close, in the order of closing.
    async fn closes(count: usize, seed: u64) -> Vec<(usize, Duration)> {
        let (begun, closes) = (Instant::now(), RefCell::default());
        let close = |number| RefCell::<Vec<_>>::borrow_mut(&closes).push((number, begun.elapsed()));
        spread((0..count).collect(), PERIOD, seed, || true, close).await;
        closes.into_inner()
    }

    #[tokio::test(start_paused = true)]
    async fn a_drain_closes_small_batches_in_no_order_over_its_period() {
        let closes = closes(19_000, 1).await;
        let batches = closes.chunk_by(|a, b| a.1 == b.1).collect::<Vec<_>>();
        assert!((150..=300).contains(&batches.len()), "{} batches", batches.len());
        assert!(batches.iter().all(|batch| batch.len() <= 200), "none is more than a beat and a half");
        assert!(closes[0].1 < Duration::from_millis(50));
        assert!(closes[18_999].1 <= PERIOD && closes[18_999].1 > PERIOD.mul_f64(0.98));
        let mut numbers = closes.iter().map(|&(number, _)| number).collect::<Vec<_>>();
        let neighbours_in_order = numbers.is_sorted_by(|a, b| a < b) || numbers.is_sorted_by(|a, b| a > b);
        assert!(!neighbours_in_order);
        numbers.sort_unstable();
        assert!(numbers.into_iter().eq(0..19_000), "each is closed once");
    }

    #[tokio::test(start_paused = true)]
    async fn a_seed_decides_everything_and_another_one_differently() {
        let first = closes(100, 7).await;
        assert_eq!(closes(100, 7).await, first);
        assert_ne!(closes(100, 8).await, first);
    }

    #[tokio::test(start_paused = true)]
    async fn the_period_ends_with_the_last_connection() {
        let (begun, left) = (Instant::now(), Cell::new(10));
        // The others go by themselves after the third was closed.
        let close = |_| left.set(if left.get() == 8 { 0 } else { left.get() - 1 });
        spread((0..10).collect(), PERIOD, 1, || left.get() > 0, close).await;
        assert!(begun.elapsed() < PERIOD / 2);
        let begun = Instant::now();
        spread(Vec::<()>::new(), PERIOD, 1, || true, drop).await;
        assert_eq!(begun.elapsed(), Duration::ZERO);
        spread(vec![()], PERIOD, 1, || true, drop).await;
        assert!(begun.elapsed() < 2 * BEAT, "one connection is not kept waiting");
    }
}
