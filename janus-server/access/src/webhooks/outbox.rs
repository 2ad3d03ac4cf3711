//! Events waiting for the backend. The outbox has a lock, and sends nothing.
//!
//! An event stays in the outbox until the backend has taken it: a task that is lost with its runtime, or in a panic,
//! loses no event.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use janus_core::wire::TopicName;
use tokio::time::Instant;

/// Events in one request.
pub(super) const BATCH: usize = 100;

/// How long an event may wait. A backend that has been away for longer has to look for itself.
pub(super) const OLDEST: Duration = Duration::from_secs(300);

/// See the module's documentation.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    /// The front is sent first. While a request is under way its events are still here.
    waiting: VecDeque<Waiting>,
    /// Events of topics in `waiting`.
    of_topics: usize,
    lingering: Lingering,
    /// The number of the last event.
    last_number: u64,
}

#[derive(Debug)]
struct Waiting {
    text: String,
    since: Instant,
    is_of_a_topic: bool,
}

/// Topics without subscribers whose time is not over yet.
#[derive(Debug, Default)]
struct Lingering {
    until: HashMap<TopicName, Instant>,
    /// In the order of time, because each topic lingers for the same time. An entry without its equal in `until` is of
    /// a topic that was occupied again.
    order: VecDeque<(Instant, TopicName)>,
}

impl Outbox {
    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Whether nothing waits, not even for its time.
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.lingering.until.is_empty()
    }

    /// Adds an event, whose text is made from its number. Returns `false` if there is no room.
    pub(super) fn push(
        &mut self,
        is_of_a_topic: bool,
        limit: usize,
        now: Instant,
        text: impl FnOnce(u64) -> String,
    ) -> bool {
        // A client that goes from topic to topic must leave room for the events of other clients.
        if self.waiting.len() >= limit || is_of_a_topic && self.of_topics >= limit / 2 {
            return false;
        }
        self.last_number += 1;
        self.of_topics += usize::from(is_of_a_topic);
        self.waiting.push_back(Waiting { text: text(self.last_number), since: now, is_of_a_topic });
        true
    }

    /// Lets a topic wait until `until` for another subscriber. Returns `false` if there is no room.
    pub(super) fn linger(&mut self, topic: &TopicName, until: Instant, limit: usize) -> bool {
        // Entries of topics that were occupied again count as well, or they would grow without a limit.
        if self.lingering.order.len() >= limit {
            return false;
        }
        self.lingering.until.insert(topic.clone(), until);
        self.lingering.order.push_back((until, topic.clone()));
        true
    }

    /// Whether the topic was lingering: a subscriber has come in time.
    pub(super) fn stop_lingering(&mut self, topic: &TopicName) -> bool {
        self.lingering.until.remove(topic).is_some()
    }

    /// The next topic whose time is over at `now`; `None` for the end of all times.
    pub(super) fn take_vacated(&mut self, now: Option<Instant>) -> Option<TopicName> {
        loop {
            let (until, _) = self.lingering.order.front()?;
            if now.is_some_and(|now| *until > now) {
                return None;
            }
            let (until, topic) = self.lingering.order.pop_front()?;
            if self.lingering.until.get(&topic) == Some(&until) {
                self.lingering.until.remove(&topic);
                return Some(topic);
            }
        }
    }

    /// When the next topic's time is over.
    pub(super) fn next_vacated(&self) -> Option<Instant> {
        self.lingering.order.front().map(|(until, _)| *until)
    }

    /// Since when the first event has been waiting, and whether a whole batch is there.
    pub(super) fn first(&self) -> Option<(Instant, bool)> {
        self.waiting.front().map(|first| (first.since, self.waiting.len() >= BATCH))
    }

    /// The texts of the next batch.
    pub(super) fn batch(&self) -> impl ExactSizeIterator<Item = &str> {
        self.waiting.iter().take(BATCH).map(|waiting| &*waiting.text)
    }

    /// Removes this many events, which the backend has taken.
    pub(super) fn take(&mut self, count: usize) {
        for taken in self.waiting.drain(..count.min(self.waiting.len())) {
            self.of_topics -= usize::from(taken.is_of_a_topic);
        }
    }

    /// Removes events that have waited for too long. Returns their number.
    pub(super) fn give_up_old(&mut self, now: Instant) -> usize {
        let is_old = |waiting: &&Waiting| now.duration_since(waiting.since) >= OLDEST;
        let old = self.waiting.iter().take_while(is_old).count();
        self.take(old);
        old
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: usize = 10;

    fn topic(number: usize) -> TopicName {
        TopicName::new(&number.to_string(), 255).unwrap()
    }

    fn push(outbox: &mut Outbox, is_of_a_topic: bool) -> bool {
        outbox.push(is_of_a_topic, LIMIT, Instant::now(), |number| number.to_string())
    }

    #[test]
    fn events_of_topics_leave_room_for_events_of_clients() {
        let mut outbox = Outbox::default();
        assert_eq!((0..20).filter(|_| push(&mut outbox, true)).count(), 5);
        assert_eq!((0..20).filter(|_| push(&mut outbox, false)).count(), 5);
        assert_eq!(outbox.batch().collect::<Vec<_>>().join(","), "1,2,3,4,5,6,7,8,9,10");
        outbox.take(1);
        assert!(push(&mut outbox, true) && !push(&mut outbox, true));
        assert_eq!(outbox.batch().last(), Some("11"), "what was left out has no number");
    }

    #[test]
    fn a_topic_that_is_occupied_in_time_is_not_vacated() {
        let (mut outbox, now) = (Outbox::default(), Instant::now());
        let later = |seconds| now + Duration::from_secs(seconds);
        assert!(outbox.linger(&topic(1), later(1), LIMIT) && outbox.linger(&topic(2), later(2), LIMIT));
        assert!(outbox.stop_lingering(&topic(1)) && !outbox.stop_lingering(&topic(1)));
        assert!(outbox.linger(&topic(1), later(3), LIMIT));
        assert_eq!(outbox.take_vacated(Some(later(1))), None);
        assert_eq!(outbox.take_vacated(Some(later(2))), Some(topic(2)));
        assert_eq!((outbox.take_vacated(Some(later(2))), outbox.is_empty()), (None, false));
        assert_eq!((outbox.take_vacated(None), outbox.take_vacated(None)), (Some(topic(1)), None));
        assert!(outbox.is_empty());
    }

    #[test]
    fn a_topic_that_comes_and_goes_takes_bounded_room() {
        let (mut outbox, now) = (Outbox::default(), Instant::now());
        let lingered = (0..1_000).filter(|_| {
            outbox.stop_lingering(&topic(1));
            outbox.linger(&topic(1), now, LIMIT)
        });
        assert_eq!(lingered.count(), LIMIT);
        assert!(outbox.lingering.order.len() <= LIMIT);
    }

    #[test]
    fn events_that_waited_for_too_long_are_given_up() {
        let (mut outbox, now) = (Outbox::default(), Instant::now());
        for seconds in [0, 1, 2] {
            outbox.push(false, LIMIT, now + Duration::from_secs(seconds), |number| number.to_string());
        }
        assert_eq!(outbox.give_up_old(now + OLDEST + Duration::from_secs(1)), 2);
        assert_eq!(outbox.batch().collect::<Vec<_>>(), ["3"]);
    }
}
