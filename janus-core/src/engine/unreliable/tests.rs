//! Each fault alone, and nodes with all faults by chance.
//!
//! The nodes are as plain as the contract allows: each keeps a topic open, publishes, and notes records and gaps.

use std::collections::HashSet;

use bytes::Bytes;
use futures_util::FutureExt;

use super::*;
use crate::engine::{AppendError, Keep, Outcome, Payload, What};
use crate::wire::Position;

const DAY: Duration = Duration::from_secs(86_400);
const KEEP: Keep = Keep { messages: 1_000_000, bytes: 1 << 40, age: DAY, state: DAY };

fn topic() -> TopicName {
    TopicName::new("news", 255).unwrap()
}

/// News for a node.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Told {
    Record(Record),
    /// Something may be missing before this position.
    Gap(Position),
}

struct Node {
    id: NodeId,
    engine: Unreliable,
    keep: Keep,
    link: Option<Box<dyn Link>>,
    /// The open request without an answer.
    asked: Option<u64>,
    asks: u64,
    known: Option<Position>,
    submissions: u64,
    /// Submissions whose outcome is not known.
    open: Vec<u64>,
    outcomes: Vec<(u64, Result<Outcome, AppendError>)>,
    told: Vec<Told>,
    ends: usize,
}

impl Node {
    fn new(id: u64, engine: &Unreliable, keep: Keep) -> Self {
        Self {
            id: NodeId::new(id),
            engine: engine.clone(),
            keep,
            link: None,
            asked: None,
            asks: 0,
            known: None,
            submissions: 0,
            open: Vec::new(),
            outcomes: Vec::new(),
            told: Vec::new(),
            ends: 0,
        }
    }

    fn publish(&mut self) {
        self.submissions += 1;
        self.open.push(self.submissions);
        if self.asked.is_none() {
            self.submit(self.submissions);
        }
    }

    fn submit(&mut self, submission: u64) {
        let payload = Payload::from_bytes(Bytes::from(format!("{} {submission}", self.id)));
        let (topic, keep, count) = (&topic(), self.keep, 1 + submission % 3);
        let Some(link) = &mut self.link else { return };
        link.request(Request::Append { topic, keep, create: true, submission, count, payload: &payload, key: None });
    }

    fn reopen(&mut self) {
        self.asks += 1;
        self.asked = Some(self.asks);
        let from = self.known.map(|known| known.seq + 1);
        let (topic, ask, keep, known) = (&topic(), self.asks, self.keep, self.known);
        let link = self.link.as_mut().expect("an open needs a link");
        link.request(Request::Open { topic, ask, keep, known, from });
    }

    /// Asks where the topic is. Without this, a node does not learn of data lost by a failover there and back until the
    /// next submission.
    fn check(&mut self) {
        if let Some(link) = &mut self.link {
            link.request(Request::Report { topic: &topic(), subscribers: 1, valid: DAY });
        }
    }

    /// Connects if need be, and takes all answers at hand.
    fn run(&mut self) {
        loop {
            if self.link.is_none() {
                let connected = self.engine.connect(0, self.id).now_or_never().expect("the engine does not wait");
                let Ok(link) = connected else { return };
                self.link = Some(link);
                self.reopen();
            }
            let link = self.link.as_mut().expect("the link is up");
            match link.poll(&mut Context::from_waker(Waker::noop())) {
                Poll::Pending => return,
                Poll::Ready(Ok(answer)) => self.take(answer),
                Poll::Ready(Err(_)) => {
                    self.ends += 1;
                    self.link = None;
                }
            }
        }
    }

    fn take(&mut self, answer: Answer) {
        match answer {
            Answer::Opened { ask, position, records, .. } if self.asked == Some(ask) => {
                self.asked = None;
                self.catch_up(position, records);
                self.open.clone().into_iter().for_each(|submission| self.submit(submission));
            }
            Answer::Record { record, .. } if self.asked.is_none() => self.apply(record),
            Answer::Reported { position, .. } if self.asked.is_none() && position != self.known => self.reopen(),
            Answer::Appended { submission, outcome, .. } => {
                self.open.retain(|&open| open != submission);
                self.outcomes.push((submission, outcome));
            }
            _ => {}
        }
    }

    fn catch_up(&mut self, position: Position, records: Vec<Record>) {
        let Some(known) = self.known else {
            self.known = Some(position);
            return;
        };
        let follows = match records.iter().find(|record| record.last().seq > known.seq) {
            Some(next) => follows(known, next),
            None => known == position,
        };
        if !follows {
            return self.jump(position);
        }
        records.into_iter().filter(|record| record.last().seq > known.seq).for_each(|record| self.note(record));
        if self.known != Some(position) {
            self.jump(position);
        }
    }

    fn apply(&mut self, record: Record) {
        let known = self.known.expect("the topic is open");
        if follows(known, &record) {
            self.note(record);
        } else if record.epoch != known.epoch || record.last().seq > known.seq {
            self.reopen();
        }
    }

    fn note(&mut self, record: Record) {
        self.known = Some(record.last());
        self.told.push(Told::Record(record));
    }

    fn jump(&mut self, position: Position) {
        let known = self.known.expect("the topic is open");
        assert!(known.seq < position.seq, "a gap from {known} to {position} has no number");
        self.known = Some(position);
        self.told.push(Told::Gap(position));
    }
}

fn follows(known: Position, next: &Record) -> bool {
    next.first == known.seq + 1 && (next.epoch == known.epoch || next.what == What::Lost { after: known })
}

fn engine() -> Unreliable {
    Unreliable::new(Duration::from_secs(1_000_000_000))
}

fn settle(engine: &Unreliable, nodes: &mut [Node]) {
    engine.mend();
    nodes.iter_mut().for_each(Node::run);
    while engine.flow() {
        nodes.iter_mut().for_each(Node::run);
    }
}

/// Nodes with the topic open, after a submission of each.
fn nodes(engine: &Unreliable, count: u64) -> Vec<Node> {
    let mut nodes: Vec<_> = (1..=count).map(|id| Node::new(id, engine, KEEP)).collect();
    settle(engine, &mut nodes);
    nodes.iter_mut().for_each(Node::publish);
    settle(engine, &mut nodes);
    nodes.iter_mut().for_each(|node| node.told.clear());
    nodes
}

fn told(node: &Node) -> Vec<String> {
    let say = |told: &Told| match told {
        Told::Record(Record { what: What::Messages { node, submission, .. }, .. }) => {
            format!("{}:{submission}", node.number())
        }
        Told::Record(Record { what: What::Lost { .. }, .. }) => "mark".to_owned(),
        Told::Gap(_) => "gap".to_owned(),
    };
    node.told.iter().map(say).collect()
}

#[test]
fn requests_wait_for_the_server_and_answers_for_their_arrival() {
    let engine = engine();
    let mut node = Node::new(1, &engine, KEEP);
    node.run();
    node.run();
    assert_eq!((node.asked, node.known), (Some(1), None));
    assert_eq!((engine.deliver(node.id, 9), engine.serve(node.id, 9)), (0, 1));
    node.run();
    assert_eq!(node.known, None);
    assert_eq!(engine.deliver(node.id, 9), 1);
    node.run();
    assert!(node.known.is_some());
    assert!(!engine.flow());
}

#[test]
fn a_cut_link_may_carry_out_what_was_sent_or_not() {
    for sent in [Sent::CarriedOut, Sent::Lost] {
        let engine = engine();
        let mut nodes = nodes(&engine, 2);
        nodes[0].publish();
        engine.cut(nodes[0].id, sent);
        if sent == Sent::CarriedOut {
            engine.flow();
            nodes[1].run();
            assert_eq!(told(&nodes[1]), ["1:2"], "carried out without a link");
        }
        settle(&engine, &mut nodes);
        assert_eq!(nodes[0].ends, 1);
        let last = nodes[0].outcomes.last().unwrap();
        assert_eq!((last.0, last.1 == Ok(Outcome::Known)), (2, sent == Sent::CarriedOut), "{last:?}");
        assert_eq!((told(&nodes[0]), told(&nodes[1])), (vec!["1:2".into()], vec!["1:2".into()]));
    }
}

#[test]
fn a_late_command_of_a_dead_link_is_not_carried_out_twice() {
    let engine = engine();
    let mut nodes = nodes(&engine, 1);
    nodes[0].publish();
    engine.cut(nodes[0].id, Sent::CarriedOut);
    // The next link is served first.
    nodes[0].run();
    while engine.serve(nodes[0].id, 9) + engine.deliver(nodes[0].id, 9) > 0 {
        nodes[0].run();
    }
    assert_eq!(told(&nodes[0]), ["1:2"]);
    nodes[0].publish();
    settle(&engine, &mut nodes);
    assert_eq!(told(&nodes[0]), ["1:2", "1:3"]);
}

#[test]
fn a_lost_record_shows_as_a_hole() {
    let engine = engine();
    let mut nodes = nodes(&engine, 2);
    nodes[0].publish();
    engine.serve(nodes[0].id, 9);
    engine.lose_record(nodes[1].id);
    settle(&engine, &mut nodes);
    assert_eq!((told(&nodes[0]), told(&nodes[1])), (vec!["1:2".into()], vec![]));
    nodes[0].publish();
    settle(&engine, &mut nodes);
    assert_eq!((told(&nodes[1]), nodes[1].asks), (vec!["1:2".into(), "1:3".into()], 2), "the node asked again");
}

#[test]
fn a_failover_to_a_copy_that_lags_is_told_to_all_nodes() {
    let engine = engine();
    let mut nodes = nodes(&engine, 2);
    engine.replicate();
    nodes[0].publish();
    settle(&engine, &mut nodes);
    engine.fail_over(false);
    settle(&engine, &mut nodes);
    assert!(nodes.iter().all(|node| node.ends == 1));
    nodes[1].publish();
    settle(&engine, &mut nodes);
    for node in &nodes {
        let told = told(node);
        assert_eq!(told.first().map(String::as_str), Some("1:2"), "{told:?}");
        assert!(told[1..].iter().any(|told| told == "gap" || told == "mark"), "{told:?}");
        assert_eq!(told.last().map(String::as_str), Some("2:2"), "{told:?}");
    }
    assert_eq!(nodes[0].known, nodes[1].known);
}

#[test]
fn an_isolated_master_numbers_on_under_its_own_epoch() {
    let engine = engine();
    let mut nodes = nodes(&engine, 2);
    engine.replicate();
    engine.fail_over(true);
    engine.cut(nodes[1].id, Sent::Lost);
    nodes.iter_mut().for_each(Node::run);
    for _ in 0..2 {
        nodes.iter_mut().for_each(Node::publish);
        while engine.flow() {
            nodes.iter_mut().for_each(Node::run);
        }
    }
    assert_eq!(told(&nodes[0]), ["1:2", "1:3"], "on the old server nobody knows of the new");
    assert!(!told(&nodes[1]).iter().any(|told| told.starts_with("1:")));
    settle(&engine, &mut nodes);
    assert_eq!(nodes[0].ends, 1);
    assert_eq!(nodes[0].known, nodes[1].known);
    assert!(told(&nodes[0])[2..].iter().any(|told| told == "gap" || told == "mark"));
}

#[test]
fn a_failover_there_and_back_leaves_the_links_and_marks_the_loss() {
    let engine = engine();
    let mut nodes = nodes(&engine, 2);
    engine.replicate();
    nodes[0].publish();
    settle(&engine, &mut nodes);
    engine.fail_back();
    nodes[1].publish();
    settle(&engine, &mut nodes);
    for node in &nodes {
        assert_eq!(node.ends, 0);
        let told = told(node);
        assert!(told[1..].iter().any(|told| told == "gap" || told == "mark"), "{told:?}");
    }
}

#[test]
fn a_node_that_asks_where_the_topic_is_learns_of_a_loss_without_a_submission() {
    let engine = engine();
    let mut nodes = nodes(&engine, 1);
    engine.replicate();
    nodes[0].publish();
    settle(&engine, &mut nodes);
    engine.fail_back();
    settle(&engine, &mut nodes);
    assert_eq!(told(&nodes[0]), ["1:2"], "the engine is behind the node, and says nothing");
    nodes[0].check();
    settle(&engine, &mut nodes);
    assert_eq!(told(&nodes[0]), ["1:2", "gap"]);
}

#[test]
fn a_restart_and_an_eviction_are_told() {
    type Fault = fn(&Unreliable);
    let faults: [(Fault, usize); 4] = [
        (|engine| engine.restart(Data::Empty), 1),
        (|engine| engine.restart(Data::Whole), 1),
        (|engine| engine.evict(&topic()), 0),
        (|engine| engine.evict_log(&topic()), 0),
    ];
    for (number, (fault, ends)) in faults.into_iter().enumerate() {
        let engine = engine();
        let mut nodes = nodes(&engine, 2);
        let seq = nodes[0].known.unwrap().seq;
        fault(&engine);
        settle(&engine, &mut nodes);
        nodes[1].publish();
        settle(&engine, &mut nodes);
        assert!(nodes.iter().all(|node| node.ends == ends && node.known.unwrap().seq > seq), "fault {number}");
        let gaps = told(&nodes[0]).iter().filter(|told| *told == "gap" || *told == "mark").count();
        assert_eq!(gaps > 0, number != 3, "fault {number}: {:?}", nodes[0].told);
    }
}

#[test]
fn an_engine_that_is_not_reached_refuses_links() {
    let engine = engine();
    engine.set_reachable(false);
    let mut node = Node::new(1, &engine, KEEP);
    node.run();
    assert!(node.link.is_none());
    settle(&engine, std::slice::from_mut(&mut node));
    assert!(node.known.is_some());
}

/// A run of nodes, steps and faults from a seed.
fn live_through(seed: u64, steps: usize) -> Vec<Node> {
    let mut chance = fastrand::Rng::with_seed(seed);
    let engine = engine();
    let keep = Keep { messages: *chance.choice(&[6, 12, 1_000_000]).unwrap(), ..KEEP };
    let mut nodes: Vec<_> = (0..chance.u64(1..=3)).map(|id| Node::new(id, &engine, keep)).collect();
    let mut ids = 10;
    for _ in 0..steps {
        let count = nodes.len();
        let node = &mut nodes[chance.usize(..count)];
        match chance.u32(..100) {
            0..20 => node.publish(),
            20..50 => node.run(),
            50 if chance.u32(..5) == 0 => {
                ids += 1;
                *node = Node::new(ids, &engine, keep);
            }
            _ => engine.step(&mut |below| chance.usize(..below)),
        }
    }
    settle(&engine, &mut nodes);
    nodes.iter_mut().for_each(Node::check);
    settle(&engine, &mut nodes);
    let at = engine.master().position(&topic());
    for node in &nodes {
        assert_eq!((node.known, node.asked), (at, None), "seed {seed}: node {} has not come along", node.id);
        assert!(node.open.is_empty(), "seed {seed}: each submission has an outcome");
        check_order(node);
    }
    let log = engine.master().read(Duration::from_secs(1_000_000_000), &topic(), 0);
    let mut submissions = HashSet::new();
    for record in &log {
        if let What::Messages { node, submission, .. } = record.what {
            assert!(submissions.insert((node, submission)), "seed {seed}: a submission is in the log twice");
        }
    }
    nodes
}

/// Between two gaps, a node is told every number.
fn check_order(node: &Node) {
    let mut at = None;
    for told in &node.told {
        match told {
            Told::Gap(position) => at = Some(*position),
            Told::Record(record) => {
                assert!(at.is_none_or(|at| follows(at, record)), "{told:?} after {at:?}");
                at = Some(record.last());
            }
        }
    }
}

#[test]
fn nodes_come_together_after_any_faults() {
    let (mut records, mut gaps, mut marks, mut ends) = (0, 0, 0, 0);
    for seed in 0..300 {
        for node in live_through(seed, 1_500) {
            let told = told(&node);
            gaps += told.iter().filter(|told| *told == "gap").count();
            marks += told.iter().filter(|told| *told == "mark").count();
            records += told.len();
            ends += node.ends;
        }
    }
    // Runs without faults would show nothing.
    assert!(records > 10_000 && gaps > 100 && marks > 100 && ends > 1_000, "{records} {gaps} {marks} {ends}");
}

#[test]
fn the_same_seed_is_the_same_run() {
    let told = |seed| live_through(seed, 1_500).into_iter().flat_map(|node| node.told).collect::<Vec<_>>();
    assert_eq!(told(5), told(5));
    assert_ne!(told(5), told(6));
}
