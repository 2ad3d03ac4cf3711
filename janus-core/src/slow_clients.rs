//! Who does not keep up: nobody who costs memory is anonymous.

use std::net::SocketAddr;
use std::time::Duration;

use serde::Serialize;

use crate::shared::Shared;

/// A client that has not taken what was sent to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct SlowClient {
    /// The number of its connection, by which the log names it, too.
    pub client: u64,
    /// Where it is connected from; `None` if the system no longer knows.
    pub peer: Option<SocketAddr>,
    /// Frames that wait for it.
    pub queued_frames: usize,
    /// Bytes that wait for it, beside what the kernel's send buffer holds.
    pub queued_bytes: usize,
    /// For how long something has waited for it without a break, to within two ticks (of a second by default).
    pub lagging_for: Duration,
}

/// Connections that are looked at before others may change the table.
const PORTION: usize = 1_024;

/// The clients with the largest queues, largest first.
pub(crate) fn slow_clients(shared: &Shared, count: usize) -> Vec<SlowClient> {
    let tick = shared.clock.tick();
    let mut slow = Vec::new();
    let mut portion = 0..PORTION;
    while shared.connections.visit(portion.clone(), |slot| {
        // Mostly there is nothing, and its lock need not be taken.
        let lag = if slot.needs_attention() { slot.lag() } else { None };
        slow.extend(lag.map(|lag| SlowClient {
            client: slot.id,
            peer: lag.peer,
            queued_frames: lag.frames,
            queued_bytes: lag.bytes,
            lagging_for: shared.clock.period * lag.since.map_or(0, |since| tick.wrapping_sub(since)),
        }));
    }) {
        portion = portion.end..portion.end + PORTION;
    }
    slow.sort_unstable_by_key(|client| std::cmp::Reverse(client.queued_bytes));
    slow.truncate(count);
    slow
}

/// Ticks between two lines about slow clients: of a second each by default.
const TICKS_BETWEEN: u32 = 10;

/// Names the slowest clients in the log now and then, for as long as there are any.
#[derive(Debug, Default)]
pub(crate) struct SlowLog {
    last: Option<u32>,
}

impl SlowLog {
    /// Clients that are named in one line.
    const NAMED: usize = 5;

    /// Logs them if it has been silent for long enough. A client that catches up within a tick or two is not worth a line.
    pub(crate) fn note(&mut self, shared: &Shared, tick: u32, lagging: usize) {
        if self.last.is_some_and(|last| tick.wrapping_sub(last) < TICKS_BETWEEN) {
            return;
        }
        let slowest = slow_clients(shared, Self::NAMED);
        if slowest.iter().all(|client| client.lagging_for < shared.clock.period * 2) {
            return;
        }
        self.last = Some(tick);
        let named: Vec<String> = slowest.iter().map(describe).collect();
        log::warn!("{lagging} clients lag; the slowest: {}", named.join("; "));
    }
}

fn describe(slow: &SlowClient) -> String {
    let SlowClient { client, queued_frames, queued_bytes, lagging_for, .. } = slow;
    let peer = slow.peer.map_or_else(|| "gone".to_owned(), |peer| peer.to_string());
    format!("client {client} ({peer}), {queued_bytes} bytes in {queued_frames} frames for {lagging_for:.0?}")
}
