//! Room for messages in a topic, and the publishers that wait for room, first come, first served.
//!
//! Free room goes to as many publishers as there is room for. Waking all publishers would be simpler, but with 8,000
//! publishers each pass of a topic would wake 8,000 tasks, and only 256 of these tasks would find room.
//!
//! A called publisher has room for one message, and no other publisher takes this room. A publisher that ends without a
//! message hands the room on (the drop of its [`Place`]), so no room stays unused while publishers wait.

use std::sync::Arc;
use std::task::Waker;

use super::TopicState;
use crate::config::Config;
use crate::ground::line::{Line, Ticket, Tickets};

/// The limits on messages under way in a topic.
#[derive(Clone, Copy, Debug)]
pub(super) struct Room {
    pub(super) frames: usize,
    pub(super) bytes: usize,
}

/// Messages under way in a topic, and their bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct InFlight {
    pub(super) frames: usize,
    pub(super) bytes: usize,
}

impl Room {
    pub(super) fn of(config: &Config) -> Self {
        Self { frames: config.max_inflight_frames, bytes: config.max_inflight_bytes }
    }

    /// Whether a message of this length may join the messages under way. A message larger than the limit must still get
    /// through an idle topic.
    fn admits(self, bytes: usize, in_flight: InFlight) -> bool {
        in_flight.frames < self.frames && (in_flight.frames == 0 || in_flight.bytes + bytes <= self.bytes)
    }
}

/// The publishers of one topic that wait for room. Each is a connection or a caller, so their number is bounded by the
/// number of these.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    line: Line,
    tickets: Tickets,
    /// Publishers that have been called and have not come back yet.
    called: usize,
}

/// A task that can wait for room.
pub(super) struct Caller<'a> {
    pub(super) waker: &'a Waker,
    /// `None` until the task waits.
    pub(super) ticket: &'a mut Option<Ticket>,
}

impl Waiting {
    /// Whether a message of this length may join the messages under way. If not, the caller waits, if there is a
    /// caller. A newcomer takes no room from called publishers, and overtakes no waiting publisher.
    pub(super) fn admit(&mut self, room: Room, bytes: usize, in_flight: InFlight, caller: Option<Caller<'_>>) -> bool {
        if let Some(Caller { waker, ticket: Some(ticket) }) = caller {
            if self.line.still_waits(*ticket, waker) {
                return false;
            }
            self.called -= 1;
            let admitted = room.admits(bytes, in_flight);
            if !admitted {
                // The call was for a smaller message. The publisher is the next to be called again.
                self.line.enter(*ticket, waker);
            }
            return admitted;
        }
        let with_called = InFlight { frames: in_flight.frames + self.called, ..in_flight };
        let admitted = self.line.is_empty() && room.admits(bytes, with_called);
        if !admitted && let Some(Caller { waker, ticket }) = caller {
            self.line.enter(*ticket.insert(self.tickets.take()), waker);
        }
        admitted
    }

    /// Removes a publisher. Returns whether the publisher had been called, so that its room is free again.
    pub(super) fn leave(&mut self, ticket: Ticket) -> bool {
        let was_called = !self.line.leave(ticket);
        self.called -= usize::from(was_called);
        was_called
    }

    /// Calls as many publishers as there is room for. Their wakers are to be woken without the topic's lock.
    pub(super) fn call(&mut self, room: Room, in_flight: InFlight) -> Vec<Waker> {
        let mut called = Vec::new();
        while room.admits(1, InFlight { frames: in_flight.frames + self.called, ..in_flight })
            && let Some(waker) = self.line.call()
        {
            self.called += 1;
            called.push(waker);
        }
        called
    }

    /// Calls all publishers, whose messages will be refused.
    pub(super) fn call_all(&mut self) -> Vec<Waker> {
        let called: Vec<_> = std::iter::from_fn(|| self.line.call()).collect();
        self.called += called.len();
        called
    }
}

/// A publisher's place in the line for room in a topic.
#[derive(Debug)]
pub(crate) struct Place {
    topic: Arc<TopicState>,
    /// `None` after the place has been used.
    ticket: Option<Ticket>,
}

/// A publisher that can wait: the task to wake, and the place where the publisher waits already.
pub(crate) struct Waiter<'a> {
    pub(crate) waker: &'a Waker,
    pub(crate) place: &'a mut Option<Place>,
}

impl Waiter<'_> {
    pub(super) fn ticket(&self) -> Option<Ticket> {
        self.place.as_ref().and_then(|place| place.ticket)
    }

    /// Takes the place in the topic's line for which this ticket was given.
    pub(super) fn take_place(&mut self, topic: &Arc<TopicState>, ticket: Option<Ticket>) {
        if ticket.is_some() && self.ticket().is_none() {
            *self.place = Some(Place { topic: Arc::clone(topic), ticket });
        }
    }

    /// Gives up a place at another topic: an ended topic of the same name. Must not be called with a topic's lock held.
    pub(super) fn leave_others(&mut self, topic: &Arc<TopicState>) {
        if self.place.as_ref().is_some_and(|place| !Arc::ptr_eq(&place.topic, topic)) {
            *self.place = None;
        }
    }

    /// Forgets a used place.
    pub(super) fn forget_place(&mut self) {
        if let Some(mut place) = self.place.take() {
            place.ticket = None;
        }
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
    use crate::ground::figures::Via;
    use crate::topic::Enqueued;
    use crate::topic::publish::{Pending, Reply};
    use crate::wire::{Publication, TopicName};

    const SMALL: usize = 10;
    const LARGE: usize = 1_000;

    /// A topic with room for two small messages, or for a single large message.
    fn topic() -> Arc<TopicState> {
        let longest = pending(LARGE).publication.len();
        let config = Config { max_inflight_frames: 2, max_inflight_bytes: longest, ..Config::default() };
        Arc::new(TopicState::with_config_for_test(TopicName::new("t", 255).unwrap(), &config))
    }

    fn pending(length: usize) -> Pending {
        let name = TopicName::new("t", 255).unwrap();
        let data = format!("\"{}\"", "x".repeat(length));
        let publication = Publication::of_checked(&name, "\"\"", "\"\"", &data);
        Pending { publication, reply: Reply::promise(Via::API).0 }
    }

    fn offer(topic: &Arc<TopicState>, length: usize, place: Option<&mut Option<Place>>) -> bool {
        let mut waiter = place.map(|place| Waiter { waker: Waker::noop(), place });
        matches!(topic.enqueue(pending(length), waiter.as_mut()), Enqueued::Accepted { .. })
    }

    /// Hands out the topic's messages, after which there is room.
    fn hand_out(topic: &TopicState) {
        let inbox = &mut topic.core.lock().inbox;
        while inbox.take().is_some() {}
        inbox.recount(InFlight::default(), 0);
    }

    #[test]
    fn room_goes_to_publishers_in_the_order_of_their_coming() {
        let topic = topic();
        let mut places = [const { None }; 4];
        let accepted = places.each_mut().map(|place| offer(&topic, SMALL, Some(place)));
        assert_eq!(accepted, [true, true, false, false]);
        hand_out(&topic);
        assert!(!offer(&topic, SMALL, None), "the room is for the publishers that have waited");
        let mut late = None;
        assert!(!offer(&topic, SMALL, Some(&mut late)));
        assert!(offer(&topic, SMALL, Some(&mut places[3])) && offer(&topic, SMALL, Some(&mut places[2])));
        assert!(!offer(&topic, SMALL, Some(&mut late)));
        hand_out(&topic);
        assert!(offer(&topic, SMALL, Some(&mut late)));
        assert!(offer(&topic, SMALL, None), "no publisher waits any more");
    }

    #[test]
    fn a_called_publisher_that_leaves_hands_its_room_on() {
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
        // The call comes as soon as there is room for any message, which is too little for this message.
        assert_eq!(topic.core.lock().inbox.call().len(), 1);
        assert!(!offer(&topic, LARGE, Some(&mut large)) && !offer(&topic, SMALL, Some(&mut small)));
        hand_out(&topic);
        assert!(offer(&topic, LARGE, Some(&mut large)));
        assert!(!offer(&topic, SMALL, Some(&mut small)));
        hand_out(&topic);
        assert!(offer(&topic, SMALL, Some(&mut small)));
    }
}
