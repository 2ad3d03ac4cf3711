//! The checks of the log, of large numbers, and of names and sizes.

use tokio::time::Instant;

use super::order::SHORT;
use super::stage::{Checked, HOUR, KEEP, Node, Stage, ensure, equal, new, payload, shown};
use crate::engine::{Keep, LAST_NUMBER, Outcome, Payload, Record, What};
use crate::wire::{Epoch, Position, TopicName};

/// The limits in the checks of trimming, and how many times as much an engine may keep.
const KEPT_MESSAGES: u64 = 50;
const KEPT_BYTES: u64 = 32 << 10;
const NOT_MUCH_MORE: u64 = 10;

/// The messages in the checks of trimming; in the check of bytes each has a thousand bytes.
const SUBMITTED: u64 = 800;

/// Messages and bytes of the check `payloads`.
const MANY_MESSAGES: usize = 256;
const MANY_BYTES: usize = 1 << 20;

/// Makes sure that the records have no hole, and go from the number `from`, or one before, to the number `to`.
fn covers(records: &[Record], from: u64, to: u64) -> Checked {
    let numbers: Vec<_> = records.iter().map(|record| (record.first, record.last().seq)).collect();
    let whole = numbers.is_sorted_by(|before, after| before.1 + 1 == after.0);
    let begins = numbers.first().is_some_and(|&(first, _)| first <= from);
    let ends = numbers.last().is_some_and(|&(_, last)| last == to);
    ensure(whole && begins && ends, || format!("expected the numbers {from} to {to}, but found {}", shown(&numbers)))
}

pub(super) async fn read(stage: &Stage<'_>) -> Checked {
    let topic = stage.topic("read");
    let [one, two] = stage.nodes().await?;
    equal("the records of a topic that does not exist", &two.read(&topic, 0).await?, &vec![])?;
    let opened = one.open(&topic).await?;
    for (count, text) in [(1, "1"), (3, "\"two\""), (1, "[3]")] {
        let payload = payload(&topic, &vec![text; count]);
        new(one.append(&topic, KEEP, true, &payload, count as u64, None).await?.1)?;
    }
    let records = two.read(&topic, 1).await?;
    covers(&records, 1, 5)?;
    let messages: Vec<_> = records.iter().map(|record| texts(&topic, record)).collect::<Checked<_>>()?;
    equal(
        "the messages",
        &messages.concat(),
        &["1", "\"two\"", "\"two\"", "\"two\"", "[3]"].map(String::from).to_vec(),
    )?;
    let pushed = [one.record(&topic).await?, one.record(&topic).await?, one.record(&topic).await?];
    equal("the records read", &records, &pushed.to_vec())?;
    for from in 0..=5 {
        covers(&two.read(&topic, from).await?, from.max(1), 5).map_err(|reason| format!("from {from}: {reason}"))?;
        let back = two.open_at(&topic, KEEP, None, Some(from)).await?;
        equal("the position", &back.position, &Position { seq: 5, ..opened })?;
        covers(&back.records, from.max(1), 5).map_err(|reason| format!("opened from {from}: {reason}"))?;
    }
    let to_come = two.read(&topic, 6).await?;
    ensure(to_come.iter().all(|record| record.last().seq < 6), || format!("no node has submitted {}", shown(&to_come)))
}

fn texts(topic: &TopicName, record: &Record) -> Checked<Vec<String>> {
    let What::Messages { payload, .. } = &record.what else {
        return Err(format!("a loss without a reason: {}", shown(record)));
    };
    let messages = payload.messages(topic, record.count).map_err(|error| error.to_string())?;
    Ok(messages.iter().map(|message| message.data().to_owned()).collect())
}

/// Submits many messages under a limit, and returns what the log has then.
async fn fill(node: &Node<'_>, topic: &TopicName, keep: Keep, text: &str) -> Checked<Vec<Record>> {
    let all = vec![(payload(topic, &[text]), 1); SUBMITTED as usize];
    for submission in node.append_all(topic, keep, &all) {
        new(node.outcome(topic, submission).await?)?;
    }
    node.read(topic, 1).await
}

pub(super) async fn trim_messages(stage: &Stage<'_>) -> Checked {
    let topic = stage.topic("messages");
    let node = stage.node().await?;
    let records = fill(&node, &topic, Keep { messages: KEPT_MESSAGES, ..KEEP }, "1").await?;
    covers(&records, SUBMITTED - KEPT_MESSAGES + 1, SUBMITTED)?;
    let kept = records.len() as u64;
    ensure(kept <= NOT_MUCH_MORE * KEPT_MESSAGES, || format!("the log has {kept} messages of {KEPT_MESSAGES}"))
}

pub(super) async fn trim_bytes(stage: &Stage<'_>) -> Checked {
    let topic = stage.topic("bytes");
    let node = stage.node().await?;
    let text = format!("\"{}\"", stage.filler(1_000));
    let records = fill(&node, &topic, Keep { bytes: KEPT_BYTES, ..KEEP }, &text).await?;
    covers(&records, SUBMITTED, SUBMITTED)?;
    let kept = 1_000 * records.len() as u64;
    // An engine counts more than the texts.
    let enough = (KEPT_BYTES - KEPT_BYTES / 4..=NOT_MUCH_MORE * KEPT_BYTES).contains(&kept);
    ensure(enough, || format!("the log has {kept} bytes of {KEPT_BYTES}"))
}

pub(super) async fn trim_age(stage: &Stage<'_>) -> Checked {
    let (topic, lasting) = (stage.topic("age"), stage.topic("no age"));
    let node = stage.node().await?;
    let keep = Keep { age: SHORT, ..KEEP };
    let append = async |topic, keep| {
        node.append(topic, keep, true, &payload(topic, &["1"]), 1, None)
            .await?
            .1
            .map_or_else(|error| Err(error.to_string()), |outcome| new(Ok(outcome)))
    };
    append(&lasting, KEEP).await?;
    let first = append(&topic, keep).await?;
    let look = async || Ok(node.read(&topic, 1).await?.is_empty().then_some(()));
    stage.until("the end of the log at its age", look).await?;
    covers(&node.read(&lasting, 1).await?, 1, 1).map_err(|reason| format!("a log of another age: {reason}"))?;
    equal("the next message", &append(&topic, keep).await?, &Position { seq: 2, ..first })
}

pub(super) async fn state(stage: &Stage<'_>) -> Checked {
    let (topic, reported) = (stage.topic("state"), stage.topic("reported"));
    let node = stage.node().await?;
    let keep = Keep { age: SHORT, state: SHORT, ..KEEP };
    let opened = node.open_at(&topic, keep, None, None).await?.position;
    // A known submission is no use of the topic.
    let (submission, outcome) = node.append(&topic, keep, true, &payload(&topic, &["1"]), 1, None).await?;
    new(outcome)?;
    let look = async || match node.append_as(submission, &topic, false).await? {
        Outcome::Nobody => Ok(Some(())),
        Outcome::Known => Ok(None),
        other => Err(format!("the end of the topic: expected Known or that there is no topic, but found {other:?}")),
    };
    stage.until("the end of a topic without use", look).await?;
    equal("the position after the end", &node.report(&topic, 0, HOUR).await?.0, &None)?;
    let again = node.open(&topic).await?;
    equal("the number of the next life", &again.seq, &0)?;
    ensure(again.epoch != opened.epoch, || "the next life has the same epoch".to_owned())?;
    last_by_reports(&node, &reported).await
}

/// Reports for longer than the life of the topic, in which nothing else uses the topic.
async fn last_by_reports(node: &Node<'_>, topic: &TopicName) -> Checked {
    let life = 4 * SHORT;
    let keep = Keep { state: life, ..KEEP };
    let opened = node.open_at(topic, keep, None, None).await?.position;
    let (begun, mut latest) = (Instant::now(), Instant::now());
    while begun.elapsed() < life * 3 / 2 {
        let position = node.report(topic, 1, HOUR).await?.0;
        if latest.elapsed() > life / 2 {
            // The machine was too busy to report in time.
            return Ok(());
        }
        latest = Instant::now();
        equal("the position of a topic with reports", &position, &Some(opened))?;
        tokio::time::sleep(SHORT / 4).await;
    }
    Ok(())
}

pub(super) async fn large_numbers(stage: &Stage<'_>) -> Checked {
    let topic = stage.topic("large numbers");
    let [one, two] = stage.nodes().await?;
    let known = Position { epoch: Epoch::new(7), seq: LAST_NUMBER - 9 };
    let opened = one.open_at(&topic, KEEP, Some(known), None).await?.position;
    equal("the number after the known number", &opened.seq, &(LAST_NUMBER - 8))?;
    let at = |seq| Position { seq, ..opened };
    equal("the first message", &two.publish(&topic, 3).await?, &at(LAST_NUMBER - 7))?;
    let record = one.record(&topic).await?;
    equal("the numbers of the record", &(record.first, record.last()), &(LAST_NUMBER - 7, at(LAST_NUMBER - 5)))?;
    covers(&two.read(&topic, LAST_NUMBER - 6).await?, LAST_NUMBER - 6, LAST_NUMBER - 5)?;
    refused(&two, &topic, 6).await?;
    equal("a submission that fits", &two.publish(&topic, 5).await?, &at(LAST_NUMBER - 4))?;
    refused(&two, &topic, 1).await?;
    let record = one.record(&topic).await?;
    equal("the last numbers", &(record.first, record.last()), &(LAST_NUMBER - 4, at(LAST_NUMBER)))?;
    covers(&two.read(&topic, LAST_NUMBER).await?, LAST_NUMBER, LAST_NUMBER)?;
    equal("the position at another node", &two.open(&topic).await?, &at(LAST_NUMBER))
}

async fn refused(node: &Node<'_>, topic: &TopicName, count: usize) -> Checked {
    let payload = payload(topic, &vec!["1"; count]);
    let outcome = node.append(topic, KEEP, true, &payload, count as u64, None).await?.1;
    let is_refused = outcome.as_ref().is_err_and(|error| !error.0.is_empty());
    ensure(is_refused, || {
        format!("expected {count} messages beyond 2^53 - 1 to be refused, but found {}", shown(&outcome))
    })
}

pub(super) async fn names(stage: &Stage<'_>) -> Checked {
    let run = stage.filler(16);
    let texts = [
        "{R}",
        "{R",
        "R}",
        "}{R",
        "{}R",
        "{R} R",
        "R{R}{R}",
        "R",
        " R",
        "R ",
        "R  R",
        "R:R",
        "\"R\"",
        "'R'",
        "\\R",
        "R\\",
        "R*",
        "R?",
        "[R]",
        "R😀",
        "Ré",
        "Re\u{301}",
        "R\u{2028}",
        "R%00",
        "R,R",
        "$R",
        "R\u{feff}",
        "<R>",
        "R;--",
    ];
    let long = stage.filler(4_095);
    let names = texts.iter().map(|name| name.replace('R', &run)).chain([long.clone() + "a", long + "b"]);
    let topics: Vec<_> = names.map(|name| stage.named(&name)).collect();
    let [one, two] = stage.nodes().await?;
    for (number, topic) in topics.iter().enumerate() {
        let opened = one.open(topic).await.map_err(|reason| format!("topic {}: {reason}", shown(topic)))?;
        equal(&format!("the number of the new topic {}", shown(topic)), &opened.seq, &0)?;
        two.append_all(topic, KEEP, &[(payload(topic, &[&format!("{number}")]), 1)]);
    }
    for (number, topic) in topics.iter().enumerate() {
        let record = one.record(topic).await.map_err(|reason| format!("topic {}: {reason}", shown(topic)))?;
        equal(
            &format!("the record of topic {}", shown(topic)),
            &texts_of(topic, &record)?,
            &(1, vec![number.to_string()]),
        )?;
        equal("what the log has", &two.read(topic, 1).await?, &vec![record])?;
    }
    Ok(())
}

fn texts_of(topic: &TopicName, record: &Record) -> Checked<(u64, Vec<String>)> {
    Ok((record.first, texts(topic, record)?))
}

pub(super) async fn payloads(stage: &Stage<'_>) -> Checked {
    let topic = stage.topic("payloads");
    let [one, two] = stage.nodes().await?;
    one.open(&topic).await?;
    let large = format!("\"{}\"", stage.filler(MANY_BYTES));
    let special =
        ["\"é 😀 \u{7f} \u{2028} {} \"", r#""\r\n \u0000 \\ \" ""#, "{\n\t\"a\":\r\n[]\n}", "1e400", "\"*1\\r\\n$-1\""];
    let kinds: [(&str, Payload, u64); 3] = [
        ("1 MiB", payload(&topic, &[&large]), 1),
        ("256 messages", payload(&topic, &vec!["\"one of many\""; MANY_MESSAGES]), MANY_MESSAGES as u64),
        ("every character", payload(&topic, &special), special.len() as u64),
    ];
    for (what, sent, count) in kinds {
        let first = new(two.append(&topic, KEEP, true, &sent, count, None).await?.1)?;
        let record = one.record(&topic).await.map_err(|reason| format!("{what}: {reason}"))?;
        let is_same = matches!(&record.what, What::Messages { payload, .. } if *payload == sent);
        ensure(is_same && record.count == count, || format!("{what}: arrived as {}", shown(&record)))?;
        let read = two.read(&topic, first.seq).await?;
        ensure(read.last() == Some(&record), || format!("{what}: read as {}", shown(&read)))?;
    }
    Ok(())
}
