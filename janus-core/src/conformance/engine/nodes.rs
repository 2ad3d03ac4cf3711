//! The checks of the words of nodes to each other, and of themselves.

use super::order::SHORT;
use super::stage::{Checked, HOUR, Node, Stage, ensure, equal, shown};
use crate::engine::{NodeId, NodePresence};
use crate::wire::{Position, TopicName};

type Message = (NodeId, Vec<u8>);

/// Hears as many messages as are expected, in any order, and compares.
async fn hears(who: &str, node: &Node<'_>, mut expected: Vec<Message>) -> Checked {
    let mut heard = Vec::new();
    for _ in &expected {
        heard.push(node.hear().await.map_err(|reason| format!("{who}: {reason}; heard so far: {}", shown(&heard)))?);
    }
    heard.sort();
    expected.sort();
    equal(&format!("the control messages of {who}"), &heard, &expected)
}

pub(super) async fn control(stage: &Stage<'_>) -> Checked {
    let [one, two, three] = stage.nodes().await?;
    for node in [&one, &two, &three] {
        // After an answer the link listens.
        node.list().await?;
    }
    let every_byte: Vec<u8> = (0..=255).collect();
    one.say(Some(two.id), &every_byte);
    one.say(None, b"to all");
    two.say(Some(one.id), b"to one");
    hears("the second node", &two, vec![(one.id, every_byte), (one.id, b"to all".to_vec())]).await?;
    hears("the third node", &three, vec![(one.id, b"to all".to_vec())]).await?;
    // A message too many of the first round would come before these.
    three.say(None, b"again");
    hears("the first node", &one, vec![(two.id, b"to one".to_vec()), (three.id, b"again".to_vec())]).await?;
    hears("the second node, later", &two, vec![(three.id, b"again".to_vec())]).await?;
    one.say(Some(three.id), b"the end");
    hears("the third node, later", &three, vec![(one.id, b"the end".to_vec())]).await
}

/// The words of a node in the list.
async fn about(node: &Node<'_>, of: NodeId) -> Checked<Option<String>> {
    let nodes = node.list().await?;
    ensure(nodes.is_sorted_by(|one, other| one.0 < other.0), || {
        format!("not in the order of the ids: {}", shown(&nodes))
    })?;
    Ok(nodes.into_iter().find(|(id, _)| *id == of).map(|(_, about)| about))
}

pub(super) async fn nodes(stage: &Stage<'_>) -> Checked {
    let [one, two, three] = stage.nodes().await?;
    let listed = async |what: &str, node: &Node<'_>, expected: Option<&str>| {
        let look = async || Ok((about(&three, node.id).await?.as_deref() == expected).then_some(()));
        stage.until(what, look).await
    };
    equal("what is said of a node that was never heard", &about(&three, one.id).await?, &None)?;
    one.beat(r#"{"name":"one é \" {}"}"#, HOUR);
    two.beat(r#"{"name":"two"}"#, HOUR);
    listed("what the first node says", &one, Some(r#"{"name":"one é \" {}"}"#)).await?;
    listed("what the second node says", &two, Some(r#"{"name":"two"}"#)).await?;
    one.beat("{}", HOUR);
    two.beat("[]", SHORT);
    listed("what the first node says now", &one, Some("{}")).await?;
    listed("the end of a node that is silent", &two, None).await?;
    equal("what the other node says", &about(&three, one.id).await?, &Some("{}".to_owned()))
}

pub(super) async fn counts(stage: &Stage<'_>) -> Checked {
    let (topic, other) = (stage.topic("counts"), stage.topic("no counts"));
    let [one, two, three] = stage.nodes().await?;
    let position = one.open(&topic).await?;
    let at = |seq| Some(Position { seq, ..position });
    equal("the first report", &one.report(&topic, 5, HOUR).await?, &(at(0), 5))?;
    equal("the report of another node", &two.report(&topic, 3, HOUR).await?, &(at(0), 8))?;
    equal("a later report", &one.report(&topic, 4, HOUR).await?, &(at(0), 7))?;
    equal("a report of no subscribers", &two.report(&topic, 0, HOUR).await?, &(at(0), 4))?;
    three.publish(&topic, 2).await?;
    equal("the same report after two messages", &one.report(&topic, 4, HOUR).await?, &(at(2), 4))?;
    let sum = three.report(&topic, 2, SHORT).await?.1;
    ensure(sum == 6, || format!("the sum with a short report: expected 6, but found {sum}"))?;
    let look = async || Ok((one.report(&topic, 4, HOUR).await?.1 == 4).then_some(()));
    stage.until("the end of a report that is not repeated", look).await?;
    equal("the report on a topic that does not exist", &two.report(&other, 7, HOUR).await?, &(None, 7))
}

pub(super) async fn members(stage: &Stage<'_>) -> Checked {
    let (topic, other) = (stage.topic("members"), stage.topic("no members"));
    let [one, two, three] = stage.nodes().await?;
    let text = b"{\"users\":[\"\xc3\xa9 {} 1 2\"]}\r\n";
    let words = |nodes: &[NodePresence]| -> Vec<_> {
        nodes.iter().map(|said| (said.node, said.members.as_deref().map(<[u8]>::to_vec))).collect()
    };
    let (_, is_changed, nodes) = one.presence(&topic, Some(text), 0, HOUR).await?;
    equal("the first words", &(is_changed, words(&nodes)), &(true, vec![]))?;
    let (version, is_changed, nodes) = two.presence(&topic, Some(b"two"), 0, HOUR).await?;
    equal("the words of another node", &(is_changed, words(&nodes)), &(true, vec![(one.id, Some(text.to_vec()))]))?;
    let valid = nodes[0].valid;
    ensure(valid > SHORT && valid <= HOUR, || format!("words for an hour count for {valid:?}"))?;
    let (again, is_changed, nodes) = two.presence(&topic, Some(b"two"), version, HOUR).await?;
    equal("the same words again", &(again, is_changed, words(&nodes)), &(version, false, vec![(one.id, None)]))?;
    one.presence(&topic, Some(b"new"), 0, HOUR).await?;
    let (later, is_changed, nodes) = two.presence(&topic, None, version, HOUR).await?;
    equal("what is new", &(is_changed, words(&nodes)), &(false, vec![(one.id, Some(b"new".to_vec()))]))?;
    ensure(later > version, || format!("the version of new words is {later}, after {version}"))?;
    let (_, _, nodes) = three.presence(&topic, None, 0, HOUR).await?;
    let mut expected = vec![(one.id, Some(b"new".to_vec())), (two.id, Some(b"two".to_vec()))];
    expected.sort();
    equal("the words of all nodes, in the order of the ids", &words(&nodes), &expected)?;
    in_portions(&three, &topic, &expected).await?;
    let (_, is_changed, _) = two.presence(&topic, Some(b""), later, HOUR).await?;
    ensure(is_changed, || "empty words after others are no change".to_owned())?;
    one.presence(&topic, Some(b"new"), later, SHORT).await?;
    let look = async || Ok(three.presence(&topic, None, 0, HOUR).await?.2.is_empty().then_some(()));
    stage.until("the end of words that are not repeated", look).await?;
    let (_, is_changed, nodes) = two.presence(&other, Some(b""), 0, HOUR).await?;
    equal("no words about another topic", &(is_changed, nodes), &(false, vec![]))
}

/// With room for the words of a single node, an answer has the oldest, and further answers have the rest.
async fn in_portions(node: &Node<'_>, topic: &TopicName, expected: &[(NodeId, Option<Vec<u8>>)]) -> Checked {
    let (mut known, mut heard) = (0, Vec::new());
    for portion in 1..=expected.len() {
        let said = node.presence_within(topic, (None, HOUR), (known, 1)).await?;
        let new = said.nodes.iter().filter_map(|said| Some((said.node, Some(said.members.as_ref()?.to_vec()))));
        heard.extend(new);
        equal("the words in small answers so far", &heard.len(), &portion)?;
        equal("whether a small answer has all words", &said.is_whole, &(portion == expected.len()))?;
        equal("the nodes named by a small answer", &said.nodes.len(), &expected.len())?;
        ensure(said.version > known, || format!("the version of a small answer is {}, after {known}", said.version))?;
        known = said.version;
    }
    heard.sort();
    equal("the words of all nodes in small answers", &heard, &expected.to_vec())
}
