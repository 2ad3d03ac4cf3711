//! The policies for a full queue, and its accounts.

use std::sync::atomic::Ordering;

use proptest::prelude::*;

use super::super::Slot;
use super::super::batch::tests::{batch_of, topic};
use super::super::stream::Stream;
use super::*;
use crate::wire::Peer;

/// Every frame has ten bytes.
const FRAME: &str = "0123456789";
/// The price of an entry without its bytes.
const PRICE: usize = Entry::OVERHEAD_BYTES;

fn subscription(terms: &Arc<Terms>, policy: SlowConsumer, tells: bool) -> Arc<Subscription> {
    let slot = Arc::new(Slot::local(1, terms));
    Arc::new(if tells { Subscription::local(slot, policy) } else { Subscription::of_connection(slot, policy) })
}

fn messages(subscription: &Arc<Subscription>, seqs: Range<u64>) -> Entry {
    let frames = vec![FRAME; (seqs.end - seqs.start) as usize];
    Entry::Messages(Messages::new(subscription, &Arc::new(batch_of(&frames, seqs.end)), seqs))
}

/// The waiting entries: numbers of messages, ranges of gaps, and `None` for a frame of no topic.
fn waiting(queue: &Queue) -> Vec<Option<(Range<u64>, bool)>> {
    let show = |entry: &Entry| match entry {
        Entry::Frame(_) => None,
        Entry::Messages(messages) => Some((messages.seqs.clone(), true)),
        Entry::Gap(gap) => Some((gap.seqs.clone(), false)),
    };
    queue.entries.iter().map(show).collect()
}

fn check_sums(queue: &Queue) {
    let (mut messages, mut answers) = (Load::default(), Load::default());
    for entry in &queue.entries {
        *if matches!(entry, Entry::Frame(_)) { &mut answers } else { &mut messages } += entry.load();
    }
    assert_eq!((queue.messages, queue.answers), (messages, answers));
}

#[test]
fn a_message_written_in_part_stays_the_head_and_whole() {
    let terms = Terms::in_tests(4, 1_000);
    let subscription = subscription(&terms, SlowConsumer::DropOldest, true);
    let mut queue = Queue::new(&terms);
    queue.admit(messages(&subscription, 1..3)).unwrap();
    queue.admit(messages(&subscription, 3..5)).unwrap();
    queue.advance(3);
    assert_eq!(queue.size(), (4, 37 + 2 * PRICE));
    queue.admit(messages(&subscription, 5..6)).unwrap();
    assert_eq!(waiting(&queue), [Some((1..3, true)), Some((3..4, false)), Some((4..5, true)), Some((5..6, true))]);
    queue.advance(17);
    let gap_and_rest = [Some((3..4, false)), Some((4..5, true)), Some((5..6, true))];
    assert_eq!(waiting(&queue), gap_and_rest, "a gap waits until it is told");
    check_sums(&queue);
}

#[test]
fn conflation_puts_the_latest_in_the_place_of_the_first_that_waited() {
    let terms = Terms::in_tests(4, 1_000);
    let quotes = subscription(&terms, SlowConsumer::Conflate, false);
    let other = subscription(&terms, SlowConsumer::Disconnect, false);
    let mut queue = Queue::new(&terms);
    queue.admit(messages(&quotes, 1..3)).unwrap();
    queue.admit(messages(&other, 1..2)).unwrap();
    queue.admit(messages(&quotes, 3..4)).unwrap();
    queue.admit(messages(&quotes, 4..6)).unwrap();
    assert_eq!(waiting(&queue), [Some((5..6, true)), Some((1..2, true))]);
    assert_eq!(terms.ledger.counters.messages_conflated.load(Ordering::Relaxed), 4);
    assert!(quotes.is_lossy(), "its client's count leads nowhere");
    check_sums(&queue);
}

#[test]
fn conflation_leaves_the_latest_behind_every_gap_of_its_topic() {
    let terms = Terms::in_tests(4, 1_000);
    let quotes = subscription(&terms, SlowConsumer::Conflate, true);
    let mut queue = Queue::new(&terms);
    queue.admit(messages(&quotes, 1..5)).unwrap();
    queue.push_gap(&quotes, &topic(), Epoch::new(7), 5..7);
    queue.admit(messages(&quotes, 7..11)).unwrap();
    assert_eq!(waiting(&queue), [Some((1..5, false)), Some((5..10, false)), Some((10..11, true))]);
    check_sums(&queue);
}

#[test]
fn conflation_keeps_the_latest_message_however_full_the_queue_is() {
    let terms = Terms::in_tests(4, 1_000);
    let (busy, rare) =
        (subscription(&terms, SlowConsumer::Conflate, false), subscription(&terms, SlowConsumer::Conflate, false));
    let mut queue = Queue::new(&terms);
    queue.admit(messages(&busy, 1..5)).unwrap();
    queue.admit(messages(&rare, 1..2)).unwrap();
    assert_eq!(waiting(&queue), [Some((1..5, true)), Some((1..2, true))]);
    // A subscription without conflation finds the room that others can make.
    let other = subscription(&terms, SlowConsumer::Disconnect, false);
    queue.admit(messages(&other, 1..3)).unwrap();
    assert_eq!(waiting(&queue), [Some((4..5, true)), Some((1..2, true)), Some((1..3, true))]);
    check_sums(&queue);
}

#[test]
fn only_the_message_under_way_is_exempt_from_the_policy() {
    let terms = Terms::in_tests(3, 1_000);
    let subscription = subscription(&terms, SlowConsumer::Conflate, false);
    let mut queue = Queue::new(&terms);
    let Entry::Messages(mut rest) = messages(&subscription, 1..20) else { unreachable!("made of messages") };
    // Four are sent and half of the fifth.
    rest.advance(45);
    queue.admit_started(Entry::Messages(rest)).unwrap();
    assert_eq!(waiting(&queue), [Some((5..6, true)), Some((19..20, true))]);
    queue.admit(messages(&subscription, 20..22)).unwrap();
    assert_eq!(waiting(&queue), [Some((5..6, true)), Some((21..22, true))]);
    check_sums(&queue);
}

#[test]
fn written_messages_do_not_count() {
    let terms = Terms::in_tests(8, 1_000);
    let subscription = subscription(&terms, SlowConsumer::Disconnect, false);
    let mut queue = Queue::new(&terms);
    queue.admit(messages(&subscription, 1..21)).unwrap();
    queue.advance(199);
    assert_eq!(queue.size(), (1, 1 + PRICE));
    queue.admit(messages(&subscription, 21..28)).unwrap();
    check_sums(&queue);
}

#[test]
fn a_message_never_stands_before_a_gap_that_comes_before_it() {
    let terms = Terms::in_tests(2, 1_000);
    let subscription = subscription(&terms, SlowConsumer::Conflate, true);
    let mut queue = Queue::new(&terms);
    queue.admit(messages(&subscription, 1..2)).unwrap();
    queue.push_gap(&subscription, &topic(), Epoch::new(7), 2..5);
    queue.admit(messages(&subscription, 5..6)).unwrap();
    queue.admit(messages(&subscription, 6..7)).unwrap();
    assert_eq!(waiting(&queue), [Some((1..2, false)), Some((2..6, false)), Some((6..7, true))]);
    check_sums(&queue);
}

#[test]
fn answers_are_let_in_always_and_take_no_room_from_messages() {
    let terms = Terms::in_tests(2, 1_000);
    let subscription = subscription(&terms, SlowConsumer::Disconnect, true);
    let mut queue = Queue::new(&terms);
    let mut answers = 0;
    while !queue.holds_many_answers() {
        queue.admit(Entry::Frame(Bytes::from_static(b"ACK\x01"))).unwrap();
        answers += 1;
    }
    assert_eq!(answers, 1_000 / ANSWERS_SHARE / (4 + PRICE) + 1);
    queue.admit(messages(&subscription, 1..3)).unwrap();
    queue.admit(Entry::Frame(Bytes::from_static(b"ACK\x01"))).unwrap();
    check_sums(&queue);
    assert!(matches!(queue.admit(messages(&subscription, 3..4)), Err(End::SlowConsumer { .. })));
    // The client has taken two.
    queue.advance(8);
    assert!(!queue.holds_many_answers());
    check_sums(&queue);
}

#[test]
fn a_batch_of_many_tiny_messages_takes_the_room_of_one_entry() {
    let terms = Terms::in_tests(usize::MAX, 10_000 + 2 * PRICE);
    let subscription = subscription(&terms, SlowConsumer::Disconnect, false);
    let mut queue = Queue::new(&terms);
    queue.admit(messages(&subscription, 1..1_000)).unwrap();
    queue.admit(messages(&subscription, 1_000..1_001)).unwrap();
    assert_eq!(queue.size(), (1_000, 10_000 + 2 * PRICE));
    assert!(queue.admit(messages(&subscription, 1_001..1_002)).is_err(), "each entry has its price");
}

#[test]
fn one_message_that_is_larger_than_the_queue_may_wait_alone() {
    for policy in [SlowConsumer::Disconnect, SlowConsumer::DropOldest, SlowConsumer::DropNewest, SlowConsumer::Conflate]
    {
        let terms = Terms::in_tests(4, 5);
        let subscription = subscription(&terms, policy, true);
        let mut queue = Queue::new(&terms);
        queue.admit(messages(&subscription, 1..2)).unwrap();
        assert_eq!(waiting(&queue), [Some((1..2, true))], "{policy}");
    }
}

#[test]
fn a_stalled_client_has_its_newest_messages_behind_a_single_gap() {
    let terms = Terms::in_tests(4, 1_000);
    let subscription = subscription(&terms, SlowConsumer::DropOldest, true);
    let mut queue = Queue::new(&terms);
    // Written by a task alone, and no such task runs here.
    let link = Link::from(Stream::new(Box::pin(tokio::io::empty()), Peer::Local));
    for number in 1..=100 {
        queue.admit(messages(&subscription, number..number + 1)).unwrap();
        assert_eq!(queue.write_to(&link).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    }
    let newest = [97, 98, 99, 100].map(|number| Some((number..number + 1, true)));
    // The first gap was the head, and put into words.
    assert_eq!(waiting(&queue), [&[None, Some((2..97, false))][..], &newest].concat());
    check_sums(&queue);
}

#[test]
fn a_gap_covers_the_numbers_between_that_are_not_for_the_client() {
    for policy in [SlowConsumer::DropOldest, SlowConsumer::Conflate] {
        let terms = Terms::in_tests(4, 1_000);
        let subscription = subscription(&terms, policy, true);
        let mut queue = Queue::new(&terms);
        for number in (1..=199).step_by(2) {
            queue.admit(messages(&subscription, number..number + 1)).unwrap();
        }
        let gaps = waiting(&queue).into_iter().flatten().filter(|(_, is_message)| !is_message).count();
        assert_eq!(gaps, 1, "{policy}: {:?}", waiting(&queue));
        check_sums(&queue);
    }
}

#[test]
fn a_stall_is_counted_from_the_last_progress() {
    let terms = Terms::in_tests(4, 1_000);
    let subscription = subscription(&terms, SlowConsumer::Disconnect, false);
    let mut queue = Queue::new(&terms);
    queue.admit(messages(&subscription, 1..3)).unwrap();
    assert_eq!((queue.watch(Tick::new(10)), queue.watch(Tick::new(12))), (0, 2));
    queue.advance(1);
    assert_eq!((queue.watch(Tick::new(13)), queue.watch(Tick::new(15))), (0, 2));
    assert_eq!(queue.since(), Some(Tick::new(10)));
}

#[derive(Clone, Debug)]
enum Step {
    Admit { whose: usize, frames: u64, sent: usize },
    Ack,
    Write(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..3_usize, 1..6_u64, 0..60_usize).prop_map(|(whose, frames, sent)| Step::Admit { whose, frames, sent }),
        1 => Just(Step::Ack),
        3 => (0..60_usize).prop_map(Step::Write),
    ]
}

fn policy() -> impl Strategy<Value = SlowConsumer> {
    use SlowConsumer::{Conflate, Disconnect, DropNewest, DropOldest};
    prop::sample::select(vec![Disconnect, DropOldest, DropNewest, Conflate])
}

/// A queue of three subscriptions, and the numbers that must come out.
struct Model {
    policies: [SlowConsumer; 3],
    subscriptions: [Arc<Subscription>; 3],
    queue: Queue,
    /// The next number of each subscription to come out.
    out: [u64; 3],
    /// The next number of each subscription to go in.
    next: [u64; 3],
    acks: i32,
}

impl Model {
    fn new(policies: [SlowConsumer; 3], terms: &Arc<Terms>) -> Self {
        let subscriptions = policies.map(|policy| subscription(terms, policy, true));
        Self { policies, subscriptions, queue: Queue::new(terms), out: [1; 3], next: [1; 3], acks: 0 }
    }

    /// Whether the queue took the messages; a subscription under `disconnect` ends its client instead.
    fn admit(&mut self, whose: usize, frames: u64, sent: usize) -> bool {
        let seqs = self.next[whose]..self.next[whose] + frames;
        self.next[whose] = seqs.end;
        let (is_empty, had_messages) = (self.queue.is_empty(), self.queue.messages.frames > 0);
        let admitted = match messages(&self.subscriptions[whose], seqs) {
            // A part of the frames has been sent at once.
            Entry::Messages(mut entry) if is_empty && sent > 0 => {
                entry.advance(sent.min(entry.end() - 1));
                self.out[whose] = entry.seqs.start;
                self.queue.admit_started(Entry::Messages(entry))
            }
            entry => self.queue.admit(entry),
        };
        let Err(end) = admitted else { return true };
        assert!(matches!(end, End::SlowConsumer { .. }), "{end:?}");
        assert!(!is_empty && had_messages, "without messages a queue takes anything");
        assert_eq!(self.policies[whose], SlowConsumer::Disconnect, "no other policy ends a client");
        false
    }

    fn acknowledge(&mut self) {
        self.queue.admit(Entry::Frame(Bytes::from_static(b"ACK\x01"))).expect("an answer is always let in");
        self.acks += 1;
    }

    /// Writes at most this many bytes, and takes what is written completely.
    fn write(&mut self, bytes: usize) {
        if let Some(Entry::Gap(_)) = self.queue.entries.front() {
            let gap = self.queue.remove(0);
            self.take(&gap);
        }
        let told = self.queue.entries.iter().take_while(|entry| !matches!(entry, Entry::Gap(_)));
        let bytes = bytes.min(told.map(|entry| entry.unwritten().len()).sum());
        let before: Vec<Entry> = self.queue.entries.iter().map(copy).collect();
        self.queue.advance(bytes);
        let popped = before.len() - self.queue.entries.len();
        before[..popped].iter().for_each(|entry| self.take(entry));
        // Some bytes of the present head may have been written.
        if let (Some(Entry::Messages(head)), Some(Entry::Messages(was))) =
            (self.queue.entries.front(), before.get(popped))
        {
            let whose = self.whose(&head.subscription);
            assert_eq!(was.seqs.start, self.out[whose]);
            self.out[whose] = head.seqs.start;
        }
    }

    fn take(&mut self, entry: &Entry) {
        let (subscription, seqs) = match entry {
            Entry::Frame(_) => {
                self.acks -= 1;
                return;
            }
            Entry::Messages(Messages { subscription, seqs, .. }) => (subscription, seqs),
            Entry::Gap(gap) => (&gap.subscription, &gap.seqs),
        };
        let whose = self.whose(subscription);
        assert_eq!(seqs.start, self.out[whose], "no number is left out or comes twice");
        self.out[whose] = seqs.end;
    }

    fn whose(&self, subscription: &Arc<Subscription>) -> usize {
        self.subscriptions.iter().position(|other| Arc::ptr_eq(other, subscription)).unwrap()
    }

    fn check(&self, max_frames: usize, max_bytes: usize) {
        check_sums(&self.queue);
        let first = self.queue.entries.iter().find(|entry| matches!(entry, Entry::Messages(_)));
        let first = first.map_or_else(Load::default, Entry::load);
        // A message of each conflated subscription is let in beyond the limits, and behind a first entry of any size.
        let conflated = self.policies.iter().filter(|policy| **policy == SlowConsumer::Conflate).count();
        let within = self.queue.messages.frames - first.frames <= max_frames + conflated
            && self.queue.messages.bytes - first.bytes <= max_bytes + (10 + PRICE) * conflated;
        assert!(within, "{:?}", self.queue.messages);
        // Gaps are joined, or a client that never reads would have a gap for each lost message.
        assert!(self.queue.entries.len() <= 2 * self.queue.size().0 + self.subscriptions.len());
    }
}

fn copy(entry: &Entry) -> Entry {
    match entry {
        Entry::Frame(frame) => Entry::Frame(frame.clone()),
        Entry::Messages(messages) => Entry::Messages(messages.clone()),
        Entry::Gap(gap) => Entry::gap(&gap.subscription, &gap.topic, gap.epoch, gap.seqs.clone()),
    }
}

proptest! {
    /// Three subscriptions of any policies share a queue, written out in pieces of any size.
    #[test]
    fn each_number_comes_out_once_and_in_order_as_message_or_gap(
        policies in prop::array::uniform3(policy()),
        max_frames in 1_usize..12,
        max_bytes in 10 + PRICE..600,
        steps in prop::collection::vec(step(), 1..60),
    ) {
        let terms = Terms::in_tests(max_frames, max_bytes);
        let mut model = Model::new(policies, &terms);
        for step in steps {
            match step {
                Step::Admit { whose, frames, sent } => {
                    if !model.admit(whose, frames, sent) {
                        return Ok(());
                    }
                }
                Step::Ack => model.acknowledge(),
                Step::Write(bytes) => model.write(bytes),
            }
            model.check(max_frames, max_bytes);
        }
        let left: Vec<Entry> = model.queue.entries.iter().map(copy).collect();
        left.iter().for_each(|entry| model.take(entry));
        prop_assert_eq!((model.out, model.acks), (model.next, 0));
        drop((model, left));
        prop_assert_eq!(terms.ledger.bytes(), 0);
    }
}
