//! Room for messages in a topic, and the publishers that wait for it in the order in which they came.
//!
//! Room that becomes free is given to as many publishers as it is enough for. To wake all of them would be simpler, and
//! with 8,000 publishers each pass of a topic would wake 8,000 tasks, of which 256 find room.
//!
//! A publisher that has been called has room for one message, and nobody takes it away. One that ends without a message
//! hands it on (the drop of its [`Place`]), so room is never left unused while somebody waits.

use std::sync::Arc;
use std::task::Waker;

use super::TopicState;
use crate::config::Config;
use crate::ground::line::{Line, Ticket, Tickets};

/// What may be under way in a topic.
#[derive(Clone, Copy, Debug)]
pub(super) struct Room {
    frames: usize,
    bytes: usize,
}

impl Room {
    pub(super) fn of(config: &Config) -> Self {
        Self { frames: config.max_inflight_frames, bytes: config.max_inflight_bytes }
    }

    /// Whether a message of so many bytes may come to what is under way. A message larger than the limit must still get
    /// through an idle topic.
    pub(super) fn admits(&self, bytes: usize, inflight_frames: usize, inflight_bytes: usize) -> bool {
        inflight_frames < self.frames && (inflight_frames == 0 || inflight_bytes + bytes <= self.bytes)
    }
}

/// The publishers of one topic that wait for room. Each is a connection or a caller, so their number is bounded by theirs.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    line: Line,
    tickets: Tickets,
    /// Publishers that have been called and have not come yet.
    called: usize,
}

impl Waiting {
    /// Whether a message of so many bytes may come in beside what is in flight, which is so many frames and bytes; if not,
    /// its publisher waits, where it can. A newcomer takes no room from publishers that have been called, and overtakes
    /// none that wait.
    pub(super) fn admit(
        &mut self,
        topic: &Arc<TopicState>,
        bytes: usize,
        (frames, inflight_bytes): (usize, usize),
        waiter: Option<&mut Waiter<'_>>,
    ) -> bool {
        let ticket = waiter.as_ref().and_then(|waiter| waiter.place.as_ref()?.ticket);
        match (waiter, ticket) {
            (Some(waiter), Some(ticket)) => {
                if self.line.still_waits(ticket, waiter.waker) {
                    return false;
                }
                self.called -= 1;
                let admitted = topic.room.admits(bytes, frames, inflight_bytes);
                if !admitted {
                    // It was called for a smaller message, and is the next to be called again.
                    self.line.enter(ticket, waiter.waker);
                }
                admitted
            }
            (waiter, _) => {
                let admitted = self.line.is_empty() && topic.room.admits(bytes, frames + self.called, inflight_bytes);
                if !admitted && let Some(waiter) = waiter {
                    let ticket = self.tickets.take();
                    self.line.enter(ticket, waiter.waker);
                    *waiter.place = Some(Place { topic: Arc::clone(topic), ticket: Some(ticket) });
                }
                admitted
            }
        }
    }

    /// Takes a publisher out; whether it had been called, so that its room is free again.
    pub(super) fn leave(&mut self, ticket: Ticket) -> bool {
        let was_called = !self.line.leave(ticket);
        self.called -= usize::from(was_called);
        was_called
    }

    /// Calls as many publishers as there is room for, to be woken without the lock.
    pub(super) fn call(&mut self, room: Room, inflight_frames: usize, inflight_bytes: usize) -> Vec<Waker> {
        let mut called = Vec::new();
        while room.admits(1, inflight_frames + self.called, inflight_bytes)
            && let Some(waker) = self.line.call()
        {
            self.called += 1;
            called.push(waker);
        }
        called
    }

    /// Calls all of them: what they come with will be refused.
    pub(super) fn call_all(&mut self) -> Vec<Waker> {
        let called: Vec<_> = std::iter::from_fn(|| self.line.call()).collect();
        self.called += called.len();
        called
    }
}

/// Where a publisher waits for room in a topic.
#[derive(Debug)]
pub(crate) struct Place {
    topic: Arc<TopicState>,
    /// `None` once it has been made use of.
    ticket: Option<Ticket>,
}

/// A publisher that can wait: the task to wake, and where it waits already.
pub(crate) struct Waiter<'a> {
    pub(crate) waker: &'a Waker,
    pub(crate) place: &'a mut Option<Place>,
}

impl Waiter<'_> {
    /// Gives up a place at another topic: one of the same name that has ended. Not for a caller that holds a topic's lock.
    pub(super) fn leave_others(&mut self, topic: &Arc<TopicState>) {
        if self.place.as_ref().is_some_and(|place| !Arc::ptr_eq(&place.topic, topic)) {
            *self.place = None;
        }
    }

    /// Forgets a place that has been made use of.
    pub(super) fn used(&mut self) {
        if let Some(mut place) = self.place.take() {
            place.ticket = None;
        }
    }
}

impl TopicState {
    /// Hands on the room of a publisher that waits no longer, if it had been called.
    fn give_up_room(&self, ticket: Ticket) {
        let called = {
            let mut core = self.core.lock();
            if core.waiting.leave(ticket) { core.call(self.room) } else { Vec::new() }
        };
        called.into_iter().for_each(Waker::wake);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket {
            self.topic.give_up_room(ticket);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topic::Offer;
    use crate::topic::publish::{Pending, Reply};
    use crate::wire::{Publication, TopicName};

    const SMALL: usize = 10;
    const LARGE: usize = 1_000;

    /// With room for two small messages, or one larger one.
    fn topic() -> Arc<TopicState> {
        let mut topic = TopicState::for_test(TopicName::new("t", 255).unwrap());
        let longest = pending(LARGE).publication.len();
        topic.room = Room { frames: 2, bytes: longest };
        Arc::new(topic)
    }

    fn pending(length: usize) -> Pending {
        let name = TopicName::new("t", 255).unwrap();
        let data = format!("\"{}\"", "x".repeat(length));
        let publication = Publication::of_checked(&name, "\"\"", "\"\"", &data);
        Pending { publication, reply: Reply::promise().0 }
    }

    fn offer(topic: &Arc<TopicState>, length: usize, place: Option<&mut Option<Place>>) -> bool {
        let mut waiter = place.map(|place| Waiter { waker: Waker::noop(), place });
        matches!(topic.offer(pending(length), waiter.as_mut()), Offer::Accepted)
    }

    /// Hands out what is in the topic, after which there is room.
    fn hand_out(topic: &TopicState) {
        let mut core = topic.core.lock();
        drop(core.take_inbox());
        core.call(topic.room);
    }

    #[test]
    fn room_goes_to_publishers_in_the_order_in_which_they_came() {
        let topic = topic();
        let mut places = [const { None }; 4];
        let accepted = places.each_mut().map(|place| offer(&topic, SMALL, Some(place)));
        assert_eq!(accepted, [true, true, false, false]);
        hand_out(&topic);
        assert!(!offer(&topic, SMALL, None), "the room is for those that have waited");
        let mut late = None;
        assert!(!offer(&topic, SMALL, Some(&mut late)));
        assert!(offer(&topic, SMALL, Some(&mut places[3])) && offer(&topic, SMALL, Some(&mut places[2])));
        assert!(!offer(&topic, SMALL, Some(&mut late)));
        hand_out(&topic);
        assert!(offer(&topic, SMALL, Some(&mut late)));
        assert!(offer(&topic, SMALL, None), "nobody waits any more");
    }

    #[test]
    fn a_publisher_that_leaves_hands_on_the_room_that_it_was_called_for() {
        let topic = topic();
        let mut places = [const { None }; 6];
        for place in &mut places {
            offer(&topic, SMALL, Some(place));
        }
        let [_, _, first, second, third, fourth] = &mut places;
        hand_out(&topic);
        (*first, *second) = (None, None);
        assert!(offer(&topic, SMALL, Some(third)) && offer(&topic, SMALL, Some(fourth)));
        assert!(!offer(&topic, SMALL, None));
        hand_out(&topic);
        assert!(offer(&topic, SMALL, None));
    }

    #[test]
    fn a_large_message_keeps_its_place_until_there_is_room_for_it() {
        let topic = topic();
        let (mut large, mut small) = (None, None);
        assert!(offer(&topic, SMALL, None));
        assert!(!offer(&topic, LARGE, Some(&mut large)) && !offer(&topic, SMALL, Some(&mut small)));
        // Called as soon as there is room for anything, which is not enough.
        assert_eq!(topic.core.lock().call(topic.room).len(), 1);
        assert!(!offer(&topic, LARGE, Some(&mut large)) && !offer(&topic, SMALL, Some(&mut small)));
        hand_out(&topic);
        assert!(offer(&topic, LARGE, Some(&mut large)));
        assert!(!offer(&topic, SMALL, Some(&mut small)));
        hand_out(&topic);
        assert!(offer(&topic, SMALL, Some(&mut small)));
    }
}
