//! The checks of numbers, submissions, keys, and of opening and closing.

use std::time::Duration;

use super::stage::{Checked, HOUR, KEEP, Node, Stage, ensure, equal, new, payload, shown};
use crate::engine::{Outcome, Payload, Record, What};
use crate::wire::{Epoch, Position, TopicName};

/// The size of the check `order`.
const SUBMISSIONS: u64 = 20;

/// The life of things to end within a check.
pub(super) const SHORT: Duration = Duration::from_millis(100);

/// The records up to a number, without a hole from the number `from` on.
async fn receive(node: &Node<'_>, topic: &TopicName, from: u64, to: u64) -> Checked<Vec<Record>> {
    let (mut records, mut next) = (Vec::new(), from);
    while next <= to {
        let record = node.record(topic).await.map_err(|reason| format!("number {next}: {reason}"))?;
        ensure(record.first == next, || format!("expected the record of number {next}, but got {}", shown(&record)))?;
        next = record.last().seq + 1;
        records.push(record);
    }
    equal("the number after the last record", &next, &(to + 1))?;
    Ok(records)
}

/// The next record, which must be a loss mark of these numbers.
async fn receive_mark(node: &Node<'_>, topic: &TopicName, after: Position, last: Position) -> Checked {
    let record = node.record(topic).await.map_err(|reason| format!("the loss mark after {after}: {reason}"))?;
    let found = (record.first, record.last(), &record.what);
    equal("the loss mark", &found, &(after.seq + 1, last, &What::Lost { after }))
}

/// An epoch never given out by an engine.
fn strange() -> Epoch {
    Epoch::new(0x5712_a46e)
}

pub(super) async fn order(stage: &Stage<'_>) -> Checked {
    let topic = stage.topic("order");
    let nodes = stage.nodes::<3>().await?;
    let mut epochs = Vec::new();
    for node in &nodes {
        epochs.push(node.open(&topic).await?.epoch);
    }
    let submitted = |node: &Node<'_>| -> Vec<(Payload, u64)> {
        let data = |submission| format!("\"{} {submission}\"", node.id);
        let counts = (1..=SUBMISSIONS).map(|submission| (submission, 1 + submission % 3));
        counts.map(|(number, count)| (payload(&topic, &vec![&*data(number); count as usize]), count)).collect()
    };
    let all: Vec<_> = nodes.iter().map(|node| (node.id, submitted(node))).collect();
    let numbers: Vec<_> =
        nodes.iter().zip(&all).map(|(node, (_, payloads))| node.append_all(&topic, KEEP, payloads)).collect();
    let total = all.iter().flat_map(|(_, payloads)| payloads).map(|(_, count)| count).sum();
    let records = receive(&nodes[0], &topic, 1, total).await?;
    for node in &nodes[1..] {
        equal("the records of another node", &receive(node, &topic, 1, total).await?, &records)?;
    }
    let mut latest = [0; 3];
    for record in &records {
        equal("the epoch of a record", &record.epoch, &epochs[0])?;
        let What::Messages { node, submission, payload } = &record.what else {
            return Err(format!("a loss without a reason: {}", shown(record)));
        };
        let sender = all.iter().position(|(id, _)| id == node).ok_or("a record has another node's name")?;
        let at =
            numbers[sender].iter().position(|number| number == submission).ok_or("no node made this submission")?;
        ensure(latest[sender] <= at, || format!("submission {submission} of a node came out of turn"))?;
        latest[sender] = at;
        equal("the messages of a record", &(payload, &record.count), &(&all[sender].1[at].0, &all[sender].1[at].1))?;
        let outcome = nodes[sender].outcome(&topic, *submission).await?;
        let position = Position { epoch: record.epoch, seq: record.first };
        equal("the outcome of a submission", &outcome, &Ok(Outcome::New(position)))?;
    }
    ensure(records.is_sorted_by_key(|record| record.time), || "the time went back".to_owned())
}

pub(super) async fn submissions(stage: &Stage<'_>) -> Checked {
    let (topic, other) = (stage.topic("submissions"), stage.topic("submissions, too"));
    let [one, two] = stage.nodes().await?;
    let Position { epoch, .. } = two.open(&topic).await?;
    let at = |seq| Outcome::New(Position { epoch, seq });
    equal("the first submission", &one.append_as(5, &topic, true).await?, &at(1))?;
    equal("the same submission again", &one.append_as(5, &topic, true).await?, &Outcome::Known)?;
    equal("an earlier submission", &one.append_as(3, &topic, true).await?, &Outcome::Known)?;
    equal("a submission of another node", &two.append_as(1, &topic, true).await?, &at(2))?;
    one.connect().await?;
    equal("the same submission on the next link", &one.append_as(5, &topic, true).await?, &Outcome::Known)?;
    equal("the next submission", &one.append_as(6, &topic, true).await?, &at(3))?;
    new(Ok(one.append_as(1, &other, true).await?)).map_err(|reason| format!("in another topic: {reason}"))?;
    let records = receive(&two, &topic, 1, 3).await?;
    equal("the records of three submissions", &records.len(), &3)
}

pub(super) async fn keys(stage: &Stage<'_>) -> Checked {
    let (topic, other) = (stage.topic("keys"), stage.topic("keys, too"));
    let [one, two] = stage.nodes().await?;
    let Position { epoch, .. } = two.open(&topic).await?;
    let submit = async |node: &Node<'_>, topic: &TopicName, key, life| {
        let payload = payload(topic, &["1"]);
        Ok::<_, String>(node.append(topic, KEEP, true, &payload, 1, Some((key, life))).await?.1)
    };
    let at = |seq| Position { epoch, seq };
    let key = "order {7} \"é\"";
    equal("a key", &submit(&one, &topic, key, HOUR).await?, &Ok(Outcome::New(at(1))))?;
    equal("the key again", &submit(&one, &topic, key, HOUR).await?, &Ok(Outcome::Again(at(1))))?;
    equal("the key again, of another node", &submit(&two, &topic, key, HOUR).await?, &Ok(Outcome::Again(at(1))))?;
    equal("another key", &submit(&one, &topic, "order 8", SHORT).await?, &Ok(Outcome::New(at(2))))?;
    new(submit(&one, &other, key, HOUR).await?).map_err(|reason| format!("the key in another topic: {reason}"))?;
    let look = async || {
        let outcome = submit(&two, &topic, "order 8", SHORT).await?;
        Ok((outcome == Ok(Outcome::New(at(3)))).then_some(()))
    };
    stage.until("the end of a key, after which the key is taken as new", look).await?;
    equal("the first key later", &submit(&two, &topic, key, HOUR).await?, &Ok(Outcome::Again(at(1))))?;
    equal("the number after three messages", &two.publish(&topic, 1).await?, &at(4))?;
    receive(&two, &topic, 1, 4).await.map(drop)
}

pub(super) async fn nobody(stage: &Stage<'_>) -> Checked {
    let topic = stage.topic("absent");
    let [one, two] = stage.nodes().await?;
    for submission in [1, 1, 2] {
        let outcome = one.append_as(submission, &topic, false).await?;
        equal("a submission that is not to make the topic", &outcome, &Outcome::Nobody)?;
    }
    equal("the position of a topic that does not exist", &two.report(&topic, 0, HOUR).await?.0, &None)?;
    let position = two.open(&topic).await?;
    equal("the number of a topic without messages", &position.seq, &0)?;
    let first = Outcome::New(Position { seq: 1, ..position });
    equal("a submission after the topic was made", &one.append_as(3, &topic, false).await?, &first)
}

pub(super) async fn open(stage: &Stage<'_>) -> Checked {
    let (topic, other) = (stage.topic("open"), stage.topic("open, too"));
    let [one, two] = stage.nodes().await?;
    let position = one.open(&topic).await?;
    equal("the number of a new topic", &position.seq, &0)?;
    ensure(position.epoch != Epoch::NONE, || "the epoch is the one that no topic has".to_owned())?;
    equal("the position at another node", &two.open(&topic).await?, &position)?;
    let elsewhere = two.open(&other).await?;
    ensure(elsewhere.epoch != position.epoch, || "two topics have one epoch".to_owned())?;
    one.publish(&topic, 1).await?;
    receive(&one, &topic, 1, 1).await?;
    receive(&two, &topic, 1, 1).await?;
    two.close(&topic);
    two.publish(&topic, 1).await?;
    receive(&one, &topic, 2, 2).await?;
    // Later records for this node come later.
    two.publish(&other, 1).await?;
    receive(&two, &other, 1, 1).await?;
    ensure(!two.has_record(&topic), || "a record came after the topic was closed".to_owned())?;
    equal("the position after the topic was closed", &two.open(&topic).await?, &Position { seq: 2, ..position })?;
    one.publish(&topic, 1).await?;
    receive(&two, &topic, 3, 3).await.map(drop)
}

pub(super) async fn come_back(stage: &Stage<'_>) -> Checked {
    let topic = stage.topic("return");
    let [one, two] = stage.nodes().await?;
    let opened = one.open(&topic).await?;
    one.publish(&topic, 3).await?;
    one.leave();
    two.publish(&topic, 1).await?;
    two.publish(&topic, 1).await?;
    one.connect().await?;
    let known = Position { seq: 3, ..opened };
    let back = one.open_at(&topic, KEEP, Some(known), Some(4)).await?;
    equal("the position", &back.position, &Position { seq: 5, ..opened })?;
    let missed: Vec<_> = back.records.iter().skip_while(|record| record.last().seq < 4).collect();
    let numbers: Vec<_> = missed.iter().map(|record| (record.first, record.count)).collect();
    equal("the numbers of the missed records", &numbers, &vec![(4, 1), (5, 1)])?;
    ensure(missed.iter().all(|record| matches!(record.what, What::Messages { .. })), || {
        format!("a loss without a reason: {}", shown(&missed))
    })?;
    two.publish(&topic, 1).await?;
    receive(&one, &topic, 6, 6).await.map(drop)
}

pub(super) async fn ahead(stage: &Stage<'_>) -> Checked {
    let topic = stage.topic("ahead");
    let [one, two, three] = stage.nodes().await?;
    let opened = one.open(&topic).await?;
    two.open(&topic).await?;
    one.publish(&topic, 3).await?;
    receive(&one, &topic, 1, 3).await?;
    receive(&two, &topic, 1, 3).await?;
    let after = Position { seq: 3, ..opened };
    let back = three.open_at(&topic, KEEP, Some(Position { seq: 8, ..opened }), Some(1)).await?;
    equal("the number after number 8 was known", &back.position.seq, &9)?;
    receive_mark(&one, &topic, after, back.position).await?;
    receive_mark(&two, &topic, after, back.position).await?;
    let kept = back.records.last().map(|record| (record.last(), &record.what));
    equal("the last record of the log", &kept, &Some((back.position, &What::Lost { after })))?;
    // A position passed by the engine is no reason for a loss.
    let passed = [(opened.epoch, 3), (back.position.epoch, 9), (strange(), 8), (strange(), 0)];
    for (epoch, seq) in passed {
        let known = Position { epoch, seq };
        let again = three.open_at(&topic, KEEP, Some(known), None).await?;
        equal(&format!("the position after {known} was known"), &again.position, &back.position)?;
    }
    let next = Position { seq: 10, ..back.position };
    equal("the next message", &one.publish(&topic, 1).await?, &next)?;
    receive(&two, &topic, 10, 10).await.map(drop)
}

pub(super) async fn other_epoch(stage: &Stage<'_>) -> Checked {
    let topic = stage.topic("other epoch");
    let [one, two] = stage.nodes().await?;
    let opened = one.open(&topic).await?;
    one.publish(&topic, 3).await?;
    receive(&one, &topic, 1, 3).await?;
    let known = Position { epoch: strange(), seq: 3 };
    let back = two.open_at(&topic, KEEP, Some(known), None).await?;
    equal("the number after number 3 of another epoch was known", &back.position.seq, &4)?;
    receive_mark(&one, &topic, Position { seq: 3, ..opened }, back.position).await
}

pub(super) async fn other_life(stage: &Stage<'_>) -> Checked {
    for seq in [0, 41] {
        let topic = stage.topic("other life");
        let [one, two] = stage.nodes().await?;
        let known = Position { epoch: strange(), seq };
        let opened = one.open_at(&topic, KEEP, Some(known), Some(1)).await?;
        equal(&format!("the number after number {seq} was known"), &opened.position.seq, &(seq + 1))?;
        ensure(opened.position.epoch != known.epoch, || "the epoch is that of the earlier life".to_owned())?;
        let read = two.read(&topic, 1).await?;
        equal("what the log has", &read, &opened.records)?;
        let [mark] = &read[..] else { return Err(format!("expected a loss mark, but the log has {}", shown(&read))) };
        equal("the numbers of the loss mark", &(mark.first, mark.last()), &(1, opened.position))?;
        let is_mark = matches!(mark.what, What::Lost { after } if after.epoch != known.epoch);
        ensure(is_mark, || {
            format!("expected a loss mark that knows nothing of the earlier life, but found {}", shown(mark))
        })?;
        equal("the position at another node", &two.open(&topic).await?, &opened.position)?;
        let next = Position { seq: seq + 2, ..opened.position };
        equal("the next message", &two.publish(&topic, 1).await?, &next)?;
        receive(&one, &topic, seq + 2, seq + 2).await?;
    }
    Ok(())
}
