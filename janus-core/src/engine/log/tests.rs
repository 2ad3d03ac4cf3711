//! The rules of numbers, losses, limits and lives.

use bytes::Bytes;

use super::*;

const SECOND: Duration = Duration::from_secs(1);
const KEEP: Keep = Keep { messages: 100, bytes: 1 << 20, age: SECOND, state: Duration::from_secs(10) };
const NODE: NodeId = NodeId::new(1);
const NO_RECORDS: [u64; 0] = [];

fn topic() -> TopicName {
    TopicName::new("news", 255).unwrap()
}

fn position(epoch: u64, seq: u64) -> Position {
    Position { epoch: Epoch::new(epoch), seq }
}

/// A server with a clock and a counter of epochs.
struct Engine {
    server: Server,
    now: Duration,
    epochs: u64,
}

impl Engine {
    fn new() -> Self {
        Self { server: Server::new(1), now: 1_000_000_000 * SECOND, epochs: 0 }
    }

    fn given(&mut self) -> Given {
        self.epochs += 1;
        Given { now: self.now, fresh: Epoch::new(self.epochs) }
    }

    fn open(&mut self, known: Option<Position>, from: Option<u64>) -> Opened {
        let given = self.given();
        self.server.open(given, &topic(), KEEP, known, from)
    }

    fn submit(&mut self, number: u64, count: u64) -> Appended {
        self.submit_with(KEEP, NODE, number, count, None)
    }

    fn submit_with(
        &mut self,
        keep: Keep,
        node: NodeId,
        number: u64,
        count: u64,
        key: Option<(&str, Duration)>,
    ) -> Appended {
        let payload = Payload::from_bytes(Bytes::from_static(&[b'x'; 100]));
        let submission = Submission { node, number, count, payload: &payload, key };
        let given = self.given();
        self.server.append(given, &topic(), keep, true, submission)
    }

    fn submit_nowhere(&mut self) -> Appended {
        let payload = Payload::from_bytes(Bytes::new());
        let submission = Submission { node: NODE, number: 1, count: 1, payload: &payload, key: None };
        let given = self.given();
        self.server.append(given, &topic(), KEEP, false, submission)
    }

    fn firsts(&mut self) -> Vec<u64> {
        self.server.read(self.now, &topic(), 0).iter().map(|record| record.first).collect()
    }
}

#[test]
fn numbers_are_dense_over_all_nodes() {
    let mut engine = Engine::new();
    let opened = engine.open(None, None);
    assert_eq!(opened, Opened { position: position(1, 0), records: vec![], new: vec![] });
    for (node, number, count, first) in [(1, 5, 3, 1), (2, 1, 1, 4), (1, 6, 2, 5)] {
        let appended = engine.submit_with(KEEP, NodeId::new(node), number, count, None);
        assert_eq!(appended.outcome, Ok(Outcome::New(position(1, first))));
        let [record] = &appended.new[..] else { panic!("{appended:?}") };
        assert_eq!((record.epoch, record.first, record.count), (Epoch::new(1), first, count));
        assert_eq!(record.time, Timestamp { mega: 1_000, sec: 0, micro: 0 });
        assert!(matches!(record.what, What::Messages { node: sender, submission, .. }
            if sender == NodeId::new(node) && submission == number));
    }
    assert_eq!(engine.open(None, Some(2)).records.len(), 3, "number 2 is in the first record");
    assert_eq!(engine.open(None, Some(4)).records.len(), 2);
    assert_eq!(engine.open(None, Some(7)).records.len(), 0);
}

#[test]
fn a_submission_is_carried_out_once() {
    let mut engine = Engine::new();
    engine.submit(7, 1);
    for number in [7, 6, 1] {
        assert_eq!(engine.submit(number, 1), Appended { outcome: Ok(Outcome::Known), new: vec![] });
    }
    assert_eq!(engine.submit(9, 1).outcome, Ok(Outcome::New(position(1, 2))));
}

#[test]
fn a_topic_is_not_made_for_nobody() {
    let mut engine = Engine::new();
    assert_eq!(engine.submit_nowhere(), Appended { outcome: Ok(Outcome::Nobody), new: vec![] });
    assert_eq!(engine.server.position(&topic()), None);
    let opened = engine.open(None, None);
    let position = Position { seq: 1, ..opened.position };
    assert_eq!(engine.submit_nowhere().outcome, Ok(Outcome::New(position)));
}

#[test]
fn a_key_gives_the_first_position_again_for_its_life() {
    let mut engine = Engine::new();
    let key = Some(("order-7", SECOND));
    engine.submit(1, 1);
    assert_eq!(engine.submit_with(KEEP, NODE, 2, 1, key).outcome, Ok(Outcome::New(position(1, 2))));
    let other = NodeId::new(2);
    assert_eq!(engine.submit_with(KEEP, other, 1, 1, key).outcome, Ok(Outcome::Again(position(1, 2))));
    // The submission of the other node was not carried out, and its number is free.
    assert_eq!(engine.submit_with(KEEP, other, 1, 1, None).outcome, Ok(Outcome::New(position(1, 3))));
    engine.now += SECOND;
    assert_eq!(engine.submit_with(KEEP, NODE, 3, 1, key).outcome, Ok(Outcome::New(position(1, 4))));
}

#[test]
fn another_history_is_marked_before_anything_else() {
    let mut engine = Engine::new();
    engine.submit(1, 3);
    engine.server.restart(2);
    let appended = engine.submit(2, 1);
    let epoch = appended.new[0].epoch;
    assert_ne!(epoch, Epoch::new(1));
    assert_eq!(appended.outcome, Ok(Outcome::New(Position { epoch, seq: 5 })));
    let [mark, message] = &appended.new[..] else { panic!("{appended:?}") };
    assert_eq!((mark.first, mark.count), (4, 1));
    assert_eq!(mark.what, What::Lost { after: position(1, 3) });
    assert_eq!((message.first, message.epoch), (5, epoch));
    assert_eq!(engine.firsts(), [1, 4, 5]);
    assert_eq!(engine.submit(3, 1).new.len(), 1, "once");
    // Also where nothing else comes of the submission.
    engine.server.restart(3);
    let known = engine.submit(3, 1);
    assert_eq!((known.outcome, known.new.len()), (Ok(Outcome::Known), 1));
    engine.server.restart(4);
    assert_eq!(engine.open(None, None).new.len(), 1);
}

#[test]
fn a_node_ahead_of_the_engine_raises_the_numbers() {
    let mut engine = Engine::new();
    engine.submit(1, 3);
    // A position of the past asks for nothing.
    assert_eq!(engine.open(Some(position(1, 3)), None).new, []);
    assert_eq!(engine.open(Some(position(99, 2)), None).new, []);
    // Another epoch has come as far.
    let opened = engine.open(Some(position(99, 3)), None);
    assert_eq!(opened.position, position(1, 4));
    assert_eq!(opened.new[0].what, What::Lost { after: position(1, 3) });
    let opened = engine.open(Some(position(1, 10)), Some(4));
    assert_eq!(opened.position, position(1, 11));
    assert_eq!(opened.records.iter().map(|record| (record.first, record.count)).collect::<Vec<_>>(), [(4, 1), (5, 7)]);
}

#[test]
fn an_empty_engine_begins_behind_what_the_node_has_handed_out() {
    for known in [0, 1, 41] {
        let mut engine = Engine::new();
        let opened = engine.open(Some(position(99, known)), None);
        assert_eq!(opened.position, position(1, known + 1), "a node that knows number 0 is told, too");
        assert_eq!(opened.new[0].what, What::Lost { after: position(1, 0) });
    }
}

#[test]
fn the_log_keeps_the_latest_messages_within_its_limits() {
    let mut engine = Engine::new();
    let few = Keep { messages: 4, ..KEEP };
    for number in 1..=4 {
        engine.submit_with(few, NODE, number, 3, None);
    }
    assert_eq!(engine.firsts(), [7, 10], "of the first of these the last message is kept");
    let small = Keep { bytes: 2 * (100 + RECORD_BYTES) + 1, ..KEEP };
    for number in 5..=9 {
        engine.submit_with(small, NODE, number, 1, None);
    }
    assert_eq!(engine.firsts(), [15, 16, 17]);
    for none in [Keep { messages: 0, ..KEEP }, Keep { bytes: 0, ..KEEP }] {
        engine.submit_with(none, NODE, engine.epochs + 100, 1, None);
        assert_eq!(engine.firsts(), NO_RECORDS);
    }
}

#[test]
fn the_log_ends_before_the_topic_does() {
    let mut engine = Engine::new();
    engine.submit(1, 2);
    engine.now += SECOND;
    assert_eq!(engine.firsts(), NO_RECORDS);
    assert_eq!(engine.submit(2, 1).outcome, Ok(Outcome::New(position(1, 3))), "the numbers go on");
    engine.now += KEEP.state - SECOND;
    engine.open(None, None);
    engine.now += KEEP.state - SECOND;
    engine.server.report(engine.now, &topic(), NODE, 1, SECOND);
    engine.now += KEEP.state - SECOND;
    assert_eq!(engine.open(None, None).position, position(1, 3), "each use prolongs the life of the topic");
    engine.now += KEEP.state;
    assert_eq!(engine.server.report(engine.now, &topic(), NODE, 1, SECOND).0, None);
    let opened = engine.open(None, None);
    assert_eq!((opened.position.seq, opened.new), (0, vec![]));
}

#[test]
fn subscribers_are_summed_over_the_nodes_that_report() {
    let mut engine = Engine::new();
    let at = engine.open(None, None).position;
    let report = |engine: &Engine, node, count| {
        let mut server = engine.server.clone();
        let answer = server.report(engine.now, &topic(), NodeId::new(node), count, SECOND);
        (server, answer)
    };
    for (node, count, sum) in [(1, 5, 5), (2, 3, 8), (1, 4, 7), (2, 0, 4)] {
        let (server, answer) = report(&engine, node, count);
        engine.server = server;
        assert_eq!(answer, (Some(at), sum));
    }
    engine.now += SECOND;
    assert_eq!(report(&engine, 3, 1).1, (Some(at), 1), "the other reports are over");
}

#[test]
fn nodes_are_alive_for_as_long_as_they_say() {
    let mut engine = Engine::new();
    engine.server.beat(engine.now, NodeId::new(2), "two", 2 * SECOND);
    engine.server.beat(engine.now, NodeId::new(1), "one", SECOND);
    let (one, two) = ((NodeId::new(1), "one".to_owned()), (NodeId::new(2), "two".to_owned()));
    assert_eq!(engine.server.nodes(engine.now), [one, two.clone()]);
    assert_eq!(engine.server.nodes(engine.now + SECOND), [two]);
    assert_eq!(engine.server.nodes(engine.now + 2 * SECOND), []);
}

#[test]
fn no_number_is_beyond_the_last() {
    let mut engine = Engine::new();
    let known = position(99, LAST_NUMBER - 3);
    let epoch = engine.open(Some(known), None).position.epoch;
    let refused = engine.submit(1, 3);
    assert_eq!(
        refused.outcome.unwrap_err().0,
        format!("3 more messages after number {} go beyond {LAST_NUMBER}", LAST_NUMBER - 2)
    );
    assert_eq!(engine.submit(1, 2).outcome, Ok(Outcome::New(Position { epoch, seq: LAST_NUMBER - 1 })));
    assert!(engine.submit(2, 1).outcome.is_err());
    engine.server.restart(2);
    assert!(engine.submit(2, 1).outcome.is_err(), "nor may the mark be");
    let end = Position { epoch, seq: LAST_NUMBER };
    assert_eq!(engine.open(Some(position(98, u64::MAX)), None), Opened { position: end, records: vec![], new: vec![] });
    let mut empty = Engine::new();
    assert_eq!(empty.open(Some(position(99, u64::MAX)), None).position.seq, LAST_NUMBER);
    assert!(empty.submit(1, u64::MAX).outcome.is_err());
    assert!(empty.submit(1, 0).outcome.is_err());
}

#[test]
fn an_evicted_log_leaves_the_numbers() {
    let mut engine = Engine::new();
    engine.submit(1, 2);
    engine.server.evict_log(&topic());
    assert_eq!(engine.firsts(), NO_RECORDS);
    assert_eq!(engine.submit(2, 1).outcome, Ok(Outcome::New(position(1, 3))));
    engine.server.evict(&topic());
    assert_eq!(engine.open(None, Some(0)).position.seq, 0);
    assert_eq!(engine.firsts(), NO_RECORDS, "a log without its numbers is not read");
}

#[test]
fn what_is_over_leaves_the_tables() {
    let mut server = Server::new(1);
    let payload = Payload::from_bytes(Bytes::new());
    for number in 1..=1_000 {
        let now = u32::try_from(number).unwrap() * KEEP.state;
        let name = TopicName::new(&format!("topic {number}"), 255).unwrap();
        let key = format!("key {number}");
        let submission = Submission { node: NODE, number, count: 1, payload: &payload, key: Some((&key, SECOND)) };
        server.append(Given { now, fresh: Epoch::new(number) }, &name, KEEP, true, submission).outcome.unwrap();
        server.report(now, &name, NodeId::new(number), 1, SECOND);
        server.beat(now, NodeId::new(number), "", SECOND);
    }
    let sizes = [server.topics.map.len(), server.keys.map.len(), server.subscribers.map.len(), server.nodes.map.len()];
    assert!(sizes.iter().all(|&size| size <= LEAST_FULL), "{sizes:?}");
}
