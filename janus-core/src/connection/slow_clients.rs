//! Clients that do not keep up. The operator sees by name every client that costs memory.

use std::cmp::Reverse;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::{Connections, list};
use crate::config::SlowConsumer;
use crate::delivery::Slot;
use crate::ground::clock::{Clock, Tick};
use crate::hooks::SlowClient;
use crate::session::{Session, Subscriptions};
use crate::supervision::in_words;
use crate::wire::TopicName;

/// The clients with the largest queues, largest first.
pub(crate) fn slow_clients(shared: &Connections, count: usize) -> Vec<SlowClient> {
    let tick = shared.clock.tick();
    let mut slow: Vec<(usize, Arc<Slot>, Option<Arc<Session>>)> = Vec::new();
    // Most clients keep up, and their locks need not be taken.
    let mut see = |slot: &Arc<Slot>, session: Option<&Arc<Session>>| {
        let queued = slot.needs_attention().then(|| slot.queued()).flatten();
        slow.extend(queued.map(|(bytes, _)| (bytes, Arc::clone(slot), session.cloned())));
    };
    list::for_all(shared, &mut see);
    shared.local_slots().iter().for_each(|slot| see(slot, None));
    slow.sort_unstable_by_key(|(bytes, ..)| Reverse(*bytes));
    slow.truncate(count);
    slow.iter().filter_map(|(_, slot, session)| describe(slot, session.as_deref(), tick)).collect()
}

/// The session knows the client's own address, where the system may know that of a proxy.
fn describe(slot: &Slot, session: Option<&Session>, tick: Tick) -> Option<SlowClient> {
    let lag = slot.lag()?;
    let (topics, topics_total, policies) = session.map(subscriptions).unwrap_or_default();
    Some(SlowClient {
        client: slot.id,
        peer: session.map(|session| session.peer()).or(lag.peer),
        transport: slot.codecs().name(slot.codec()),
        queued_frames: lag.frames,
        queued_bytes: lag.bytes,
        lagging_for: lag.lagging_for(tick),
        user: session.and_then(Session::identity).map(|identity| identity.user.clone()).unwrap_or_default(),
        topics,
        topics_total,
        policies,
    })
}

/// Some topics of a session, how many there are, and the policies of all of them.
fn subscriptions(session: &Session) -> (Vec<TopicName>, usize, Vec<SlowConsumer>) {
    let look = |joined: &mut Subscriptions| {
        let topics = joined.iter().take(SlowClient::MAX_TOPICS).map(|(topic, _)| topic.name.clone()).collect();
        let mut policies = Vec::new();
        for (_, subscription) in joined.iter() {
            if !policies.contains(&subscription.policy()) {
                policies.push(subscription.policy());
            }
        }
        (topics, joined.len(), policies)
    };
    session.with_subscriptions(look).unwrap_or_default()
}

/// The lag of a client, in the single tick in which the client has lagged for long enough to be worth reporting.
pub(crate) fn begins_to_lag(slot: &Slot, shared: &Connections, tick: Tick) -> Option<SlowClient> {
    let (_, since) = slot.queued()?;
    let long_enough = shared.clock.rounds(SlowLog::MIN_TICKS);
    let single = long_enough..long_enough + shared.clock.rounds(1);
    single.contains(&tick.since(since?)).then(|| describe(slot, shared.table.session(slot).as_deref(), tick)).flatten()
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
            .filter_map(|(_, slot)| describe(slot, shared.table.session(slot).as_deref(), tick))
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
