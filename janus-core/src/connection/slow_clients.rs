//! Clients that do not keep up. The operator sees by name every client that costs memory.

use std::cmp::Reverse;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::Connections;
use crate::delivery::Slot;
use crate::ground::clock::{Clock, Tick};
use crate::hooks::SlowClient;
use crate::session::Session;
use crate::supervision::in_words;
use crate::wire::Peer;

/// Connections looked at before other connections may enter or leave the table.
const PORTION: usize = 1_024;

/// The clients with the largest queues, largest first.
pub(crate) fn slow_clients(shared: &Connections, count: usize) -> Vec<SlowClient> {
    let tick = shared.clock.tick();
    let mut slow = Vec::new();
    // Most clients keep up, and their locks need not be taken.
    let mut see = |slot: &Arc<Slot>, session: Option<&Arc<Session>>| {
        let peer = session.map(|session| session.peer);
        slow.extend(slot.needs_attention().then(|| describe(slot, peer, tick)).flatten());
    };
    let mut portion = 0..PORTION;
    while shared.table.visit_with_session(portion.clone(), &mut see) {
        portion = portion.end..portion.end + PORTION;
    }
    shared.local_slots().iter().for_each(|slot| see(slot, None));
    slow.sort_unstable_by_key(|client| Reverse(client.queued_bytes));
    slow.truncate(count);
    slow
}

/// `peer` is the client's own address: the system knows no other than that of a proxy.
fn describe(slot: &Slot, peer: Option<Peer>, tick: Tick) -> Option<SlowClient> {
    let lag = slot.lag()?;
    Some(SlowClient {
        client: slot.id,
        peer: peer.or(lag.peer),
        transport: slot.codecs().name(slot.codec()),
        queued_frames: lag.frames,
        queued_bytes: lag.bytes,
        lagging_for: Clock::time(lag.since.map_or(0, |since| tick.since(since))),
    })
}

fn peer_of(slot: &Slot, shared: &Connections) -> Option<Peer> {
    shared.table.session(slot).map(|session| session.peer)
}

/// The lag of a client, in the single tick in which the client has lagged for long enough to be worth reporting.
pub(crate) fn begins_to_lag(slot: &Slot, shared: &Connections, tick: Tick) -> Option<SlowClient> {
    let (_, since) = slot.queued()?;
    let long_enough = shared.clock.rounds(SlowLog::MIN_TICKS);
    let single = long_enough..long_enough + shared.clock.rounds(1);
    single.contains(&tick.since(since?)).then(|| describe(slot, peer_of(slot, shared), tick)).flatten()
}

/// Ticks between two lines about slow clients: of a second each by default.
const TICKS_BETWEEN: u32 = 10;

/// Names the slowest clients in the log now and then, for as long as there are any.
#[derive(Debug, Default)]
pub(crate) struct SlowLog {
    /// The tick of the last line.
    last: Option<Tick>,
    lagging: usize,
    /// The largest queues of this round, at most [`NAMED`](Self::NAMED).
    largest: Vec<(usize, Arc<Slot>)>,
}

impl SlowLog {
    /// Clients named in one line.
    const NAMED: usize = 5;

    /// A client that catches up within this many ticks is not worth a line.
    const MIN_TICKS: u32 = 2;

    /// Looks at a client whose queue has been watched in this tick.
    pub(crate) fn see(&mut self, slot: &Arc<Slot>, clock: &Clock, tick: Tick) {
        let Some((bytes, since)) = slot.queued() else { return };
        if since.is_none_or(|since| tick.since(since) < clock.rounds(Self::MIN_TICKS)) {
            return;
        }
        self.lagging += 1;
        let place = self.largest.partition_point(|(other, _)| *other >= bytes);
        if place < Self::NAMED {
            self.largest.insert(place, (bytes, Arc::clone(slot)));
            self.largest.truncate(Self::NAMED);
        }
    }

    /// Ends a round, and notes the number of slow clients. Writes a line if clients lag and the last line is old enough.
    pub(crate) fn note(&mut self, shared: &Connections, tick: Tick) {
        let (lagging, largest) = (std::mem::take(&mut self.lagging), std::mem::take(&mut self.largest));
        shared.slow_clients.store(lagging, Ordering::Relaxed);
        if lagging == 0 || self.last.is_some_and(|last| tick.since(last) < shared.clock.rounds(TICKS_BETWEEN)) {
            return;
        }
        self.last = Some(tick);
        let named: Vec<String> = largest
            .iter()
            .filter_map(|(_, slot)| describe(slot, peer_of(slot, shared), tick))
            .map(|slow| described(&slow))
            .collect();
        log::warn!(clients = lagging; "{}: {}", title(lagging), named.join("; "));
    }
}

/// The beginning of a line about this many slow clients.
fn title(clients: usize) -> String {
    match clients {
        1 => "1 slow client".to_owned(),
        2..=SlowLog::NAMED => format!("{clients} slow clients"),
        _ => format!("{clients} slow clients, the slowest"),
    }
}

fn described(slow: &SlowClient) -> String {
    let SlowClient { client, queued_frames, queued_bytes, lagging_for, .. } = slow;
    let peer = slow.peer.map_or_else(|| "in this process, or gone".to_owned(), |peer| peer.to_string());
    format!("client {client} ({peer}), {queued_bytes} bytes in {queued_frames} frames for {}", in_words(lagging_for))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_counts_slow_clients_and_says_when_it_does_not_name_them_all() {
        assert_eq!(title(1), "1 slow client");
        assert_eq!(title(5), "5 slow clients");
        assert_eq!(title(6), "6 slow clients, the slowest");
    }
}
