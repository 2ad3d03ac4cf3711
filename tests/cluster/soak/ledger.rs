//! All publications, all deliveries and every word to each subscriber: the judge of the soak.
//!
//! A breach is noted and not thrown, so that the report shows the breach together with the faults before.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt::Display;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use parking_lot::Mutex;

/// The events before a breach in the output; a folder for logs gets all events.
const LAST: usize = 200;

/// An epoch and a number.
pub(super) type Place = (u64, u64);

/// See the module's documentation.
pub(super) struct Ledger {
    began: Instant,
    topics: Vec<Mutex<Topic>>,
    breaches: Mutex<Vec<String>>,
    is_broken: AtomicBool,
    /// Whether a server of the engine may take itself for the master while there is another.
    is_isolated: AtomicBool,
    /// The latest faults and what followed, for the reader of a breach.
    events: Mutex<Vec<String>>,
    counts: Mutex<BTreeMap<String, u64>>,
    pub(super) deliveries: AtomicU64,
}

/// The messages of a topic.
#[derive(Default)]
struct Topic {
    seen: HashMap<Place, Seen>,
    /// The places of each message: at most one under an epoch.
    places: HashMap<u64, Vec<Place>>,
    receipts: Vec<(u64, Place)>,
    /// By epoch and number: how many spans of subscribers begin here, less the spans with an end before.
    spans: BTreeMap<Place, i64>,
    /// How far each subscriber has come.
    reached: HashMap<usize, Place>,
}

struct Seen {
    data: u64,
    deliveries: i64,
}

impl Ledger {
    pub(super) fn new(topics: usize) -> Self {
        Self {
            began: Instant::now(),
            topics: (0..topics).map(|_| Mutex::default()).collect(),
            breaches: Mutex::default(),
            is_broken: AtomicBool::new(false),
            is_isolated: AtomicBool::new(false),
            events: Mutex::default(),
            counts: Mutex::default(),
            deliveries: AtomicU64::new(0),
        }
    }

    fn stamped(&self, text: &str) -> String {
        format!("{:9.3} {text}", self.began.elapsed().as_secs_f64())
    }

    /// Notes a broken promise.
    pub(super) fn breach(&self, text: impl Display) {
        let text = self.stamped(&text.to_string());
        let mut breaches = self.breaches.lock();
        if breaches.len() < LAST {
            println!("BREACH {text}");
        }
        breaches.push(text);
        self.is_broken.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_broken(&self) -> bool {
        self.is_broken.load(Ordering::Relaxed)
    }

    pub(super) fn set_isolated(&self, is_isolated: bool) {
        self.is_isolated.store(is_isolated, Ordering::Relaxed);
    }

    /// A fault, or another reason for later events.
    pub(super) fn event(&self, text: impl Display) {
        self.events.lock().push(self.stamped(&text.to_string()));
    }

    /// All events, one a line.
    pub(super) fn events(&self) -> String {
        self.events.lock().join("\n")
    }

    pub(super) fn count(&self, what: impl Into<String>) {
        *self.counts.lock().entry(what.into()).or_default() += 1;
    }

    pub(super) fn counted(&self, what: &str) -> u64 {
        self.counts.lock().get(what).copied().unwrap_or(0)
    }

    /// A message as a subscriber got it.
    fn delivered(&self, topic: usize, place: Place, data: u64, who: &str) {
        let mut messages = self.topics[topic].lock();
        let Topic { seen, places, .. } = &mut *messages;
        let is_new = !seen.contains_key(&place);
        let entry = seen.entry(place).or_insert(Seen { data, deliveries: 0 });
        entry.deliveries += 1;
        if entry.data != data {
            let other = entry.data;
            self.breach(format!("{who}: topic {topic} has {data:x} and {other:x} at {}", show(place)));
        }
        if is_new {
            let places = places.entry(data).or_default();
            if let Some(other) = places.iter().find(|other| other.0 == place.0) {
                self.breach(format!("{who}: topic {topic} has {data:x} at {} and {}", show(*other), show(place)));
            }
            places.push(place);
        }
        self.deliveries.fetch_add(1, Ordering::Relaxed);
    }

    /// The answer to a publisher.
    pub(super) fn receipt(&self, topic: usize, data: u64, place: Place) {
        self.topics[topic].lock().receipts.push((data, place));
    }

    /// A subscriber got all messages of an epoch from one number to another.
    fn covered(&self, topic: usize, epoch: u64, from: u64, to: u64) {
        let spans = &mut self.topics[topic].lock().spans;
        *spans.entry((epoch, from)).or_default() += 1;
        *spans.entry((epoch, to + 1)).or_default() -= 1;
    }

    fn reached(&self, topic: usize, who: usize, place: Place) {
        self.topics[topic].lock().reached.insert(who, place);
    }

    /// How many subscriptions have been answered.
    pub(super) fn subscriptions(&self) -> usize {
        self.topics.iter().map(|topic| topic.lock().reached.len()).sum()
    }

    /// The subscribers of a topic that have not come to a place.
    pub(super) fn behind(&self, topic: usize, (epoch, seq): Place) -> Vec<(usize, Place)> {
        let messages = self.topics[topic].lock();
        let is_behind = |place: &Place| place.0 != epoch || place.1 < seq;
        messages.reached.iter().filter(|(_, place)| is_behind(place)).map(|(&who, &place)| (who, place)).collect()
    }

    /// Once all subscribers have ended: compares receipts, deliveries and the spans of all subscribers.
    pub(super) fn close(&self) -> Totals {
        let mut totals = Totals::default();
        for (topic, messages) in self.topics.iter().enumerate() {
            let messages = messages.lock();
            let coverage = coverage(&messages.spans);
            for (&place, seen) in &messages.seen {
                let covering = covering(&coverage, place);
                if covering != seen.deliveries {
                    let (at, got) = (show(place), seen.deliveries);
                    self.breach(format!("topic {topic}: {at} came {got} times to {covering} subscribers"));
                }
            }
            for &(data, place) in &messages.receipts {
                let seen = messages.seen.get(&place);
                if place.1 == 0 {
                    totals.unnumbered += 1;
                } else if let Some(other) = seen.filter(|seen| seen.data != data) {
                    let (at, other) = (show(place), other.data);
                    self.breach(format!("topic {topic}: {data:x} has the receipt {at}, where {other:x} was delivered"));
                } else if seen.is_none() {
                    // Every subscriber beyond this number was told of a gap, or the spans above would not add up.
                    totals.unseen += 1;
                    if covering(&coverage, place) > 0 {
                        self.breach(format!("topic {topic}: {data:x} at {} was skipped", show(place)));
                    }
                }
            }
            let mut epochs: Vec<u64> = messages.seen.keys().map(|place| place.0).collect();
            epochs.sort_unstable();
            epochs.dedup();
            totals.epochs = totals.epochs.max(epochs.len());
            totals.receipts += messages.receipts.len();
            totals.messages += messages.seen.len();
            totals.under_two_epochs += messages.places.values().filter(|places| places.len() > 1).count();
        }
        totals
    }

    /// The summary, and then the breaches with the events before.
    pub(super) fn report(&self, totals: &Totals) {
        let Totals { messages, receipts, unnumbered, unseen, under_two_epochs, epochs } = totals;
        println!("{messages} messages, {} deliveries", self.deliveries.load(Ordering::Relaxed));
        println!(
            "{receipts} receipts, of them {unnumbered} without a number and {unseen} within the gaps of all subscribers"
        );
        println!("{under_two_epochs} messages again under another epoch, at most {epochs} epochs of a topic");
        for (what, count) in &*self.counts.lock() {
            println!("{count:8} {what}");
        }
        let breaches = self.breaches.lock();
        println!("{:8} breaches (repeats, holes, contradictions)", breaches.len());
        if !breaches.is_empty() {
            let events = self.events.lock();
            println!("the last events:\n{}", events[events.len().saturating_sub(LAST)..].join("\n"));
            println!("the first breaches:\n{}", breaches[..breaches.len().min(LAST)].join("\n"));
        }
    }
}

/// How many spans lie over each number, by the numbers with a change.
fn coverage(spans: &BTreeMap<Place, i64>) -> BTreeMap<Place, i64> {
    let mut sum = 0;
    // The spans of an epoch sum up to nothing.
    let mut added = |change| {
        sum += change;
        sum
    };
    spans.iter().map(|(&place, &change)| (place, added(change))).collect()
}

fn covering(coverage: &BTreeMap<Place, i64>, place: Place) -> i64 {
    let last = coverage.range(..=place).next_back();
    last.filter(|(start, _)| start.0 == place.0).map_or(0, |(_, &count)| count)
}

/// The sums of a whole run.
#[derive(Default)]
pub(super) struct Totals {
    pub(super) messages: usize,
    pub(super) receipts: usize,
    pub(super) unnumbered: usize,
    pub(super) unseen: usize,
    pub(super) under_two_epochs: usize,
    pub(super) epochs: usize,
}

pub(super) fn show((epoch, seq): Place) -> String {
    format!("{epoch:016x}.{seq}")
}

/// Every word to a subscriber about a topic.
pub(super) struct Stream {
    who: usize,
    pub(super) topic: usize,
    /// The place before the next message.
    pub(super) position: Option<Place>,
    /// The first number of the messages that came without a gap.
    first: u64,
    /// The highest number that came, by epoch.
    highest: HashMap<u64, u64>,
    /// Epochs from which the subscriber was led back to an earlier history, as long as a master was isolated. No node on
    /// the side of such a master can know better. Messages may come again on the way back, behind a second word of a gap.
    left: HashSet<u64>,
}

impl Stream {
    pub(super) fn new(who: usize, topic: usize) -> Self {
        Self { who, topic, position: None, first: 1, highest: HashMap::new(), left: HashSet::new() }
    }

    fn name(&self) -> String {
        format!("subscriber {}", self.who)
    }

    fn moves_to(&mut self, ledger: &Ledger, place: Place) {
        self.end(ledger);
        self.first = place.1 + 1;
        self.position = Some(place);
        ledger.reached(self.topic, self.who, place);
    }

    /// Nothing follows without a gap.
    pub(super) fn end(&self, ledger: &Ledger) {
        if let Some((epoch, seq)) = self.position
            && self.first <= seq
        {
            ledger.covered(self.topic, epoch, self.first, seq);
        }
    }

    /// The answer to the subscription from the position.
    pub(super) fn subscribed(&mut self, ledger: &Ledger, place: Place, is_resumed: bool) {
        match (self.position, is_resumed) {
            (None, false) => self.moves_to(ledger, place),
            (Some(since), true) if since == place => ledger.count("subscriptions resumed without a gap"),
            (Some(since), false) => {
                ledger.count("subscriptions told of a gap");
                let (who, topic) = (self.who, self.topic);
                ledger.event(format!("subscriber {who}, topic {topic}: {} instead of {}", show(place), show(since)));
                if since.0 != place.0 && ledger.is_isolated.load(Ordering::Relaxed) {
                    self.left.insert(since.0);
                }
                self.moves_to(ledger, place);
            }
            (since, true) => {
                let (who, since) = (self.name(), since.map(show));
                ledger.breach(format!("{who}: topic {} resumed at {} for {since:?}", self.topic, show(place)));
            }
        }
    }

    pub(super) fn message(&mut self, ledger: &Ledger, seq: u64, data: u64) {
        let (who, topic) = (self.name(), self.topic);
        let Some((epoch, last)) = self.position else {
            ledger.breach(format!("{who}: topic {topic} has {seq} before the answer to the subscription"));
            return;
        };
        if seq != last + 1 {
            ledger.breach(format!("{who}: topic {topic} has {seq} after {}", show((epoch, last))));
        }
        let highest = self.highest.entry(epoch).or_default();
        if *highest >= seq && self.left.contains(&epoch) {
            ledger.count("repeats behind two words of a gap, on the way to an isolated master and back");
        } else if *highest >= seq {
            ledger.breach(format!("{who}: topic {topic} has {} after number {highest}", show((epoch, seq))));
        }
        *highest = seq.max(*highest);
        self.position = Some((epoch, seq));
        ledger.delivered(topic, (epoch, seq), data, &who);
        ledger.reached(topic, self.who, (epoch, seq));
    }

    /// A gap in its place among the messages.
    pub(super) fn gap(&mut self, ledger: &Ledger, epoch: u64, from: u64, to: u64) {
        let (who, topic) = (self.name(), self.topic);
        let Some((before, last)) = self.position else {
            ledger.breach(format!("{who}: topic {topic} has a gap before the answer to the subscription"));
            return;
        };
        let place = show((before, last));
        if from != last + 1 || to < from {
            ledger.breach(format!("{who}: topic {topic} has a gap {from} to {to} of {epoch:016x} after {place}"));
        }
        ledger.count(if before == epoch { "gaps under the same epoch" } else { "gaps under a new epoch" });
        ledger.event(format!("{who}, topic {topic}: gap {from} to {to} of {epoch:016x} after {place}"));
        self.moves_to(ledger, (epoch, to));
    }
}
