//! Keeps the client to its [rates](crate::connection::rates): ahead of a rate, the client is not read until there is
//! room. TCP slows the client down, as for a topic without room.
//!
//! A request is counted before any other check, so a request that is refused later has cost its room as well. While a
//! connection waits, messages for the client are delivered, the time for the rest of a frame and for an answer to a
//! ping does not run, and the server may close the connection at any moment.
//!
//! A client that is always ahead ends up with unread input each time the server looks, and after `rate_patience` is
//! closed. A client that waits for its answers has nothing unread after each of them, and is only slowed down.

use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::task::{self, Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

use super::history::Reading;
use super::presence::Question;
use super::publishing::Offering;
use super::subscribing::Asking;
use super::{Step, Transport};
use crate::connection::rates::BucketNumber;
use crate::delivery::{End, Exceeded};
use crate::ground::bucket::{Bucket, Rate};
use crate::wire::{HistoryQuery, RequestId, TopicName};

/// The shortest wait. Thousands of clients that are all ahead of their rates must not wake the home arbiter for each
/// single request; after the wait there is room for all requests of that time.
const SHORTEST: Duration = Duration::from_millis(50);

/// The room that the client has left. Most clients subscribe and do nothing else, and 19,000 connections pay for every
/// byte of this struct.
#[derive(Debug, Default)]
pub(super) struct Pace {
    subscribes: Bucket,
    /// `None` until another rate holds for the client, or the client waits.
    further: Option<Box<Further>>,
}

#[derive(Debug, Default)]
struct Further {
    bytes: Bucket,
    /// A bucket for each namespace with recent messages of the client: at most one for each listed namespace, and one
    /// for all other topics.
    publishes: Vec<(BucketNumber, Bucket)>,
    /// When the client began to wait, until all of its input has been read and carried out.
    behind_since: Option<Instant>,
}

/// A connection that waits for room.
pub(super) struct Slowed {
    exceeded: Exceeded,
    sleep: Pin<Box<Sleep>>,
    /// Whether the patience is over with the sleep.
    is_last: bool,
    pub(super) then: Then,
}

/// The work that waits.
pub(super) enum Then {
    Read,
    Publish(Box<Offering>),
    Subscribe(Box<Asking>),
    Unsubscribe(TopicName, RequestId),
    Presence(TopicName, RequestId),
    History(Box<Reading>),
}

impl Then {
    pub(super) fn history(topic: TopicName, query: HistoryQuery, id: RequestId) -> Self {
        Self::History(Box::new(Reading { topic, query, id }))
    }
}

impl Pace {
    /// The pace of a connection that comes back with this room for bytes.
    pub(super) fn with_bytes(bytes: Bucket) -> Self {
        let further = (!bytes.is_full(Instant::now())).then(|| Box::new(Further { bytes, ..Further::default() }));
        Self { further, ..Self::default() }
    }

    /// The room for bytes.
    pub(super) fn bytes(&self) -> Bucket {
        self.further.as_ref().map_or_else(Bucket::default, |further| further.bytes)
    }
}

impl Further {
    fn bucket(&mut self, number: BucketNumber, now: Instant) -> &mut Bucket {
        let place = self.publishes.iter().position(|(other, _)| *other == number).unwrap_or_else(|| {
            // A full bucket is like a new one.
            self.publishes.retain(|(_, bucket)| !bucket.is_full(now));
            self.publishes.push((number, Bucket::default()));
            self.publishes.len() - 1
        });
        &mut self.publishes[place].1
    }
}

/// Counts a request; the time of its room, if there is no room now.
fn count(bucket: &mut Bucket, rate: Rate, now: Instant) -> Option<Instant> {
    let wait = bucket.admits(rate, now).err();
    bucket.count(rate, now, 1);
    wait
}

impl Transport {
    /// Counts a message to a topic; the time at which there is room, if the message has to wait.
    pub(super) fn count_message(&mut self, topic: &TopicName) -> Option<Instant> {
        if !self.shared.limits_publishes() {
            return None;
        }
        let (number, rate) = self.shared.rates().publishes.as_ref()?.of(topic.as_str())?;
        let now = Instant::now();
        count(self.pace.further.get_or_insert_default().bucket(number, now), rate, now)
    }

    /// Subscribes, unsubscribes, or answers about a topic, once there is room.
    pub(super) fn at_subscribe_rate(&mut self, then: Then) {
        let rate = self.shared.rates().subscribes;
        match rate.and_then(|rate| count(&mut self.pace.subscribes, rate, Instant::now())) {
            Some(until) => self.slow_down(Exceeded::Subscribes, until, then),
            None => self.go_on_with(then),
        }
    }

    /// The number of bytes that may be read now; `None` if the client has to wait.
    pub(super) fn room_to_read(&mut self) -> Option<usize> {
        let Some(rate) = self.shared.rates().bytes.filter(|_| !self.is_submitter()) else { return Some(usize::MAX) };
        let now = Instant::now();
        match self.pace.further.get_or_insert_default().bytes.room(rate, now) {
            0 => {
                self.slow_down(Exceeded::Bytes, now, Then::Read);
                None
            }
            room => Some(room),
        }
    }

    /// Counts bytes read.
    pub(super) fn count_bytes(&mut self, length: usize) {
        if self.is_submitter() {
            return;
        }
        if let (Some(rate), Some(further)) = (self.shared.rates().bytes, &mut self.pace.further) {
            further.bytes.count(rate, Instant::now(), length);
        }
    }

    /// Notes that the client has nothing unread.
    pub(super) fn caught_up(&mut self) {
        if let Some(further) = &mut self.pace.further {
            further.behind_since = None;
        }
    }

    /// Waits for room until this time, or until the patience is over.
    pub(super) fn slow_down(&mut self, exceeded: Exceeded, until: Instant, then: Then) {
        let counters = &self.shared.counters;
        let waits = match exceeded {
            Exceeded::Publishes => &counters.publish_rate_waits,
            Exceeded::Bytes => &counters.bytes_rate_waits,
            Exceeded::Subscribes => &counters.subscribe_rate_waits,
        };
        waits.fetch_add(1, Ordering::Relaxed);
        let now = Instant::now();
        let since = *self.pace.further.get_or_insert_default().behind_since.get_or_insert(now);
        let deadline = since + self.shared.rates().patience;
        let sleep = Box::pin(sleep_until(until.max(now + SHORTEST).min(deadline)));
        // The rest of a frame may have come, and is not read yet.
        self.slot.set_unfinished(false, false, self.shared.clock.tick());
        self.step = Step::Slowed(Box::new(Slowed { exceeded, sleep, is_last: until > deadline, then }));
    }

    /// Continues after a wait, or ends the connection.
    pub(super) fn await_room(&mut self, cx: &mut task::Context<'_>) -> Poll<()> {
        let Step::Slowed(slowed) = &mut self.step else { return Poll::Ready(()) };
        if !slowed.sleep.is_elapsed() {
            ready!(slowed.sleep.as_mut().poll(cx));
        }
        if slowed.is_last {
            let exceeded = slowed.exceeded;
            self.end(End::RateLimited(exceeded));
            return Poll::Ready(());
        }
        ready!(self.poll_portion(cx));
        if let Step::Slowed(slowed) = std::mem::replace(&mut self.step, Step::Reading) {
            self.go_on_with(slowed.then);
        }
        Poll::Ready(())
    }

    fn go_on_with(&mut self, then: Then) {
        match then {
            Then::Read => self.slot.set_unfinished(self.is_awaited(), true, self.shared.clock.tick()),
            Then::Publish(offering) => {
                let Offering { topic, pending, outcome, .. } = *offering;
                if let Some(pending) = pending {
                    self.publish_now(topic, pending, outcome);
                }
            }
            Then::Subscribe(asking) => self.ask_to_subscribe(asking),
            Then::Unsubscribe(topic, id) => self.unsubscribe_and_answer(&topic, id),
            Then::Presence(topic, id) => self.ask_for_presence(Question { topic, id }),
            Then::History(reading) => self.ask_for_history(reading),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_keeps_no_bucket_for_a_namespace_without_recent_messages() {
        let (rate, begun) = (Rate::new(10, 10), Instant::now());
        let mut further = Further::default();
        for number in 0..100 {
            let now = begun + Duration::from_millis(50) * number;
            assert_eq!(count(further.bucket(number, now), rate, now), None);
            assert!(further.publishes.len() <= 3, "{}", further.publishes.len());
        }
    }

    #[test]
    fn a_client_that_subscribes_and_no_more_takes_16_bytes() {
        assert_eq!(size_of::<Pace>(), 16);
    }
}
