//! Event streams of several topics, which come back with one id for all topics.

use janus_core::{Config, Janus, Namespace, Resume, SlowConsumer};
use serde_json::json;
use std::collections::HashMap;
use std::net::SocketAddr;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::http::{Block, Http, last_event_id, lose, serve_http};
use crate::support::serve_as_said;

const QUERY: &str = "topic=a&topic=b&topic=c";

async fn subscribed(client: &mut Http, topics: usize) -> Vec<Block> {
    let mut blocks = Vec::new();
    for _ in 0..topics {
        let block = client.block().await;
        assert_eq!(block.event.as_deref(), Some("subscribed"), "{block:?}");
        blocks.push(block);
    }
    blocks
}

#[tokio::test]
async fn a_stream_of_several_topics_misses_nothing_in_any_topic() {
    let (janus, addr) = serve_http(Config::default()).await;
    let mut client = Http::events(addr, QUERY, "").await;
    let nothing_seen = subscribed(&mut client, 3).await.pop().unwrap().id.unwrap();
    for topic in ["a", "b", "c"] {
        janus.publish(topic, "seen").await.unwrap();
        client.message().await;
    }
    janus.publish("a", "last").await.unwrap();
    let last = client.block().await.id.unwrap();
    lose(client, &janus).await;
    for topic in ["b", "a", "c", "b"] {
        janus.publish(topic, "missed").await.unwrap();
    }
    let mut client = Http::events(addr, QUERY, &last_event_id(&last)).await;
    let missed: Vec<_> = subscribed(&mut client, 3).await.into_iter().map(|block| block.data.unwrap()).collect();
    for (data, (topic, missed)) in missed.iter().zip([("a", 1), ("b", 2), ("c", 1)]) {
        assert_eq!((&data["topic"], &data["missed"]), (&json!(topic), &json!(missed)), "{data}");
        assert_eq!((&data["resumed"], data.get("repeated")), (&json!(true), None), "{data}");
    }
    for topic in ["b", "a", "c", "b"] {
        let block = client.block().await;
        assert_eq!(block.data.as_ref().unwrap()["topic"], topic, "in the order in which they were published");
        assert_eq!(block.data.unwrap()["data"], "missed");
    }
    lose(client, &janus).await;
    // Even a client without any message comes back.
    let mut client = Http::events(addr, QUERY, &last_event_id(&nothing_seen)).await;
    let missed: u64 = subscribed(&mut client, 3)
        .await
        .iter()
        .map(|block| block.data.as_ref().unwrap()["missed"].as_u64().unwrap())
        .sum();
    assert_eq!(missed, 8);
    for _ in 0..missed {
        client.message().await;
    }
    janus.publish("c", "live").await.unwrap();
    assert_eq!(client.message().await.1, "live");
}

#[tokio::test]
async fn messages_of_another_topic_no_longer_kept_are_a_gap() {
    let (janus, addr) = serve_http(Config { resume_messages: 2, ..Config::default() }).await;
    let mut client = Http::events(addr, QUERY, "").await;
    subscribed(&mut client, 3).await;
    janus.publish("a", "seen").await.unwrap();
    let last = client.block().await.id.unwrap();
    lose(client, &janus).await;
    for _ in 0..3 {
        janus.publish("b", "gone").await.unwrap();
    }
    janus.publish("c", "kept").await.unwrap();
    let mut client = Http::events(addr, QUERY, &last_event_id(&last)).await;
    subscribed(&mut client, 1).await;
    let gap = client.block().await;
    assert_eq!((gap.event.as_deref(), &gap.data.unwrap()["topic"]), (Some("gap"), &json!("b")));
    subscribed(&mut client, 2).await;
    assert_eq!(client.message().await, (1, json!("kept")));
    janus.publish("b", "live").await.unwrap();
    assert_eq!(client.message().await, (4, json!("live")));
}

#[tokio::test]
async fn topics_that_do_not_resume_get_gaps_next_to_topics_that_do() {
    let mut config = Config::default();
    config.namespaces.insert("off".to_owned(), Namespace { resume: Resume::Off, ..Namespace::default() });
    let (janus, addr) = serve_http(config).await;
    let query = "topic=a&topic=off%3Ab";
    let mut client = Http::events(addr, query, "").await;
    subscribed(&mut client, 2).await;
    janus.publish("a", "seen").await.unwrap();
    let last = client.block().await.id.unwrap();
    lose(client, &janus).await;
    janus.publish("a", "missed").await.unwrap();
    janus.publish("off:b", "not for latecomers").await.unwrap();
    let mut client = Http::events(addr, query, &last_event_id(&last)).await;
    subscribed(&mut client, 1).await;
    let gap = client.block().await;
    assert_eq!((gap.event.as_deref(), &gap.data.unwrap()["topic"]), (Some("gap"), &json!("off:b")));
    subscribed(&mut client, 1).await;
    assert_eq!(client.message().await.1, "missed");
    janus.publish("off:b", "live").await.unwrap();
    assert_eq!(client.message().await.1, "live");
}

/// Loses a client behind a conflated message, calls `meanwhile`, and checks that a message of the client's other topic is
/// told as a gap.
async fn assert_the_other_topic_has_a_gap(meanwhile: impl FnOnce(&Janus)) {
    let mut config = Config::default();
    let conflate = Namespace { slow_consumer: SlowConsumer::Conflate, ..Namespace::default() };
    config.namespaces.insert("latest".to_owned(), conflate);
    let (janus, addr) = serve_http(config).await;
    let query = "topic=a&topic=latest%3Ab";
    let mut client = Http::events(addr, query, "").await;
    subscribed(&mut client, 2).await;
    janus.publish("latest:b", &1).await.unwrap();
    let last = client.block().await.id.unwrap();
    lose(client, &janus).await;
    meanwhile(&janus);
    janus.publish("a", "lost").await.unwrap();
    let mut client = Http::events(addr, query, &last_event_id(&last)).await;
    let gap = client.block().await;
    assert_eq!((gap.event.as_deref(), &gap.data.unwrap()["topic"]), (Some("gap"), &json!("a")));
}

/// A conflated message takes the place of an older message, and its id would cover the messages behind.
#[tokio::test]
async fn the_id_of_a_conflated_message_covers_only_its_own_topic() {
    assert_the_other_topic_has_a_gap(|_| {}).await;
}

/// The policy of the subscription counts, not the policy in force when the client comes back.
#[tokio::test]
async fn the_id_of_a_conflated_message_covers_no_other_topic_after_a_change_of_policy() {
    assert_the_other_topic_has_a_gap(|janus| {
        let mut config = Config::clone(&janus.config());
        config.namespaces.get_mut("latest").unwrap().slow_consumer = SlowConsumer::Disconnect;
        janus.reload(config).unwrap();
    })
    .await;
}

/// The messages seen by a client, over all its connections.
#[derive(Default)]
struct Seen {
    last_id: Option<String>,
    /// The latest number of each topic. No number is skipped.
    latest: HashMap<String, u64>,
    /// The number of messages, counted from the first, that the topics of this connection may repeat.
    may_repeat: HashMap<String, u64>,
    repeats: usize,
    /// The number of messages left to catch up with, and whether the connection before was lost during a catch-up. In
    /// this case the last id is of an older message than the latest message seen on the connection before.
    behind: u64,
    was_behind: bool,
}

impl Seen {
    fn take(&mut self, block: Block, paces: &Semaphore) {
        let data = block.data.unwrap();
        self.last_id = block.id.or_else(|| self.last_id.take());
        let topic = data["topic"].as_str().unwrap().to_owned();
        match block.event.as_deref() {
            Some("subscribed") => {
                self.may_repeat.insert(topic.clone(), data["repeated"].as_u64().unwrap_or(0));
                self.behind += data["missed"].as_u64().unwrap_or(0);
                let position = data["seq"].as_u64().unwrap();
                let latest = *self.latest.entry(topic).or_insert(position);
                assert!(position <= latest, "it goes on within what was seen: {data}");
            }
            None => {
                let (seq, latest) = (data["seq"].as_u64().unwrap(), self.latest.get_mut(&topic).unwrap());
                self.behind = self.behind.saturating_sub(1);
                let may_repeat = self.may_repeat.get_mut(&topic).unwrap();
                if seq <= *latest {
                    self.repeats += 1;
                    assert!(
                        *may_repeat > 0 || self.was_behind,
                        "{topic} {seq} was seen, and is not said to be repeated"
                    );
                } else {
                    assert_eq!(seq, *latest + 1, "nothing of {topic} is missing");
                    *latest = seq;
                    paces.add_permits(1);
                }
                *may_repeat = may_repeat.saturating_sub(1);
            }
            _ => panic!("{:?}: {data}", block.event),
        }
    }
}

/// Reads `blocks` blocks and some bytes of a stream, and loses the connection.
async fn read_for(addr: SocketAddr, blocks: usize, seen: &mut Seen, paces: &Semaphore) {
    let header = seen.last_id.as_ref().map(|id| last_event_id(id)).unwrap_or_default();
    let mut client = Http::events(addr, QUERY, &header).await;
    (seen.was_behind, seen.behind) = (seen.behind > 0, 0);
    for _ in 0..blocks {
        seen.take(client.block().await, paces);
    }
}

/// Publishes to the three topics at once, ahead of the reader as far as `paces` allows.
async fn keep_publishing(janus: &Janus, paces: &Semaphore) {
    let one = async |topic: &str| {
        while let Ok(permit) = paces.acquire().await {
            permit.forget();
            janus.publish(topic, "x").await.unwrap();
        }
    };
    tokio::join!(one("a"), one("b"), one("c"));
}

/// Cuts a stream of three topics at random, again and again, while all three are published to and `others` other
/// clients read. Returns the number of repeated messages.
async fn cut_at_random((janus, addr): (Janus, SocketAddr), cuts: usize, others: usize) -> usize {
    let paces = Semaphore::new(0);
    let mut crowd = JoinSet::new();
    for _ in 0..others {
        crowd.spawn(Http::events(addr, QUERY, "").await.discard());
    }
    let mut seen = Seen::default();
    let publish = keep_publishing(&janus, &paces);
    let mut random = fastrand::Rng::new();
    println!("seed {}", random.get_seed());
    let read = async {
        read_for(addr, 3, &mut seen, &paces).await;
        // Fewer than a topic keeps for a returning client.
        paces.add_permits(60);
        for _ in 0..cuts {
            read_for(addr, 1 + random.usize(..40), &mut seen, &paces).await;
        }
        paces.close();
    };
    tokio::join!(publish, read);
    println!("{} repeats in {cuts} reconnects beside {others} others", seen.repeats);
    assert!(seen.latest.values().all(|latest| *latest > 0), "each topic had messages: {:?}", seen.latest);
    seen.repeats
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_cuts_of_three_topics_of_a_home_lose_nothing_and_seldom_repeat() {
    const CUTS: usize = 300;
    // A home serves topic after topic. Passes of topics of different homes overlap.
    let http_listen = vec![SocketAddr::from(([127, 0, 0, 1], 0))];
    let (janus, _) = serve_as_said(Config { homes: 1, http_listen, ..Config::default() }).await;
    let addr = janus.local_addrs()[1];
    let repeats = cut_at_random((janus, addr), CUTS, 0).await;
    assert!(repeats < CUTS, "{repeats} repeats in {CUTS} reconnects");
}

/// Passes to many subscribers take long, so that passes of different topics overlap all the time, as passes of different
/// homes do with few subscribers: many messages may repeat.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_cuts_lose_nothing_even_if_passes_overlap() {
    cut_at_random(serve_http(Config::default()).await, 100, 100).await;
}
