//! Topics, the messages published to each topic, and the progress of a subscriber among these messages.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::ops::Range;
use std::rc::Rc;

use tokio::sync::Notify;

use super::BEHIND;

/// A topic with its publishers, and the model of its messages.
pub(super) struct Topic {
    pub(super) name: String,
    /// Subscribers that stay from the first message to the last.
    pub(super) steady: u64,
    pub(super) publishers: Vec<Publisher>,
    pub(super) accepted: Cell<u64>,
    /// The number of the latest accepted message, as given by the server.
    pub(super) last_seq: Cell<u64>,
    /// Whether slow subscribers lose messages without being told.
    pub(super) conflates: bool,
    /// The messages received by all steady subscribers together, and by each subscriber.
    pub(super) delivered: Cell<u64>,
    pub(super) received: RefCell<Vec<Rc<Cell<u64>>>>,
    /// Notifies publishers that the subscribers have caught up.
    pub(super) caught_up: Notify,
    /// Missing numbers, to be compared with the refused numbers after the answers.
    pub(super) holes: RefCell<Vec<Hole>>,
}

/// The numbers of a publisher, which begin with 1.
#[derive(Default)]
pub(super) struct Publisher {
    pub(super) sent: Cell<u64>,
    /// The number of answered messages.
    pub(super) answered: Cell<u64>,
    /// The messages answered with an error, which no subscriber may get.
    pub(super) refused: RefCell<BTreeSet<u64>>,
}

pub(super) struct Hole {
    publisher: usize,
    pub(super) numbers: Range<u64>,
}

impl Topic {
    pub(super) fn new(name: &str, steady: usize, publishers: usize) -> Rc<Self> {
        Rc::new(Self {
            name: name.to_owned(),
            steady: steady as u64,
            publishers: (0..publishers).map(|_| Publisher::default()).collect(),
            accepted: Cell::default(),
            last_seq: Cell::default(),
            conflates: name.starts_with("prices:"),
            delivered: Cell::default(),
            received: RefCell::default(),
            caught_up: Notify::new(),
            holes: RefCell::default(),
        })
    }

    pub(super) fn is_behind(&self) -> bool {
        let sent: u64 = self.publishers.iter().map(|publisher| publisher.sent.get()).sum();
        (sent * self.steady).saturating_sub(self.delivered.get()) > BEHIND * self.steady
    }

    /// Compares the missing numbers with the refused numbers, as far as the answers have arrived.
    pub(super) fn check_holes(&self) {
        self.holes.borrow_mut().retain(|hole| {
            let publisher = &self.publishers[hole.publisher];
            if publisher.answered.get() + 1 < hole.numbers.end {
                return true;
            }
            for number in hole.numbers.clone() {
                let refused = publisher.refused.borrow().contains(&number);
                assert!(refused, "{}: message {number} of publisher {} was lost", self.name, hole.publisher);
            }
            false
        });
    }
}

/// The messages of a subscriber. The progress outlives the connection: a returning client keeps its progress.
pub(super) struct Progress {
    pub(super) topic: Rc<Topic>,
    places: Vec<Place>,
    pub(super) received: Rc<Cell<u64>>,
    /// Whether the publishers wait for this subscriber.
    pub(super) steady: bool,
    /// The token of the session.
    pub(super) token: String,
    /// Messages since the ACK, or since the last answer that the count begins anew.
    pub(super) count: u64,
}

/// The place of a subscriber among the messages of a publisher.
#[derive(Clone, Copy, Default)]
struct Place {
    /// The number of the last message; 0 before the first.
    last: u64,
    /// Messages up to this number were sent before the subscription existed, and need not come. Until the next message.
    excused: Option<u64>,
}

/// Published data is the publisher's index times `PUBLISHER`, plus the message's number.
pub(super) const PUBLISHER: u64 = 1_000_000_000_000;

impl Progress {
    pub(super) fn new(topic: &Rc<Topic>, steady: bool) -> Self {
        let received = Rc::default();
        if steady {
            topic.received.borrow_mut().push(Rc::clone(&received));
        }
        let places = vec![Place::default(); topic.publishers.len()];
        Self { topic: Rc::clone(topic), places, received, steady, token: String::new(), count: 0 }
    }

    /// Begins a new subscription: messages sent from now on must come.
    pub(super) fn begin(&mut self) {
        self.count = 0;
        for (place, publisher) in self.places.iter_mut().zip(&self.topic.publishers) {
            place.excused = Some(publisher.sent.get());
        }
    }

    /// Shows the number of the last message instead of the count of messages. For a topic with one publisher.
    pub(super) fn show_place(&self) {
        self.received.set(self.places[0].last);
    }

    pub(super) fn take(&mut self, data: u64) {
        let (publisher, number) = ((data / PUBLISHER) as usize, data % PUBLISHER);
        let name = &self.topic.name;
        let place = self.places.get_mut(publisher).unwrap_or_else(|| panic!("{name}: {data} is no message"));
        let last = place.last;
        assert!(number > last, "{name}: {number} of publisher {publisher} came after {last}, or twice");
        let expected = last.max(place.excused.take().unwrap_or(0)) + 1;
        if number > expected && !self.topic.conflates {
            self.topic.holes.borrow_mut().push(Hole { publisher, numbers: expected..number });
        }
        place.last = number;
        self.count += 1;
        self.received.set(self.received.get() + 1);
    }
}
