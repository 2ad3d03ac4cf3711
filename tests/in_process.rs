//! Subscribers in the same process: numbers, gaps, resuming and history, as an embedder sees them.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::FutureExt;
use janus_core::{
    Closed, Config, Epoch, Event, Fault, HistoryError, Janus, Namespace, Position, Resume, SlowConsumer,
    SubscribeError, SubscribeOptions, Subscriber,
};
use proptest::prelude::*;
use proptest::test_runner::FileFailurePersistence;
use tokio::time::timeout;

use crate::support::{DEADLINE, runs_after_restarts, serve, subscribers, topic_actor, until};

async fn next(subscriber: &mut Subscriber) -> Event {
    timeout(DEADLINE, subscriber.next()).await.expect("something comes").expect("it is not over")
}

/// The number in the next message. A gap or an end fails the test.
async fn number(subscriber: &mut Subscriber) -> u64 {
    match next(subscriber).await {
        Event::Message(message) => message.parse().expect("a number"),
        other => panic!("not a message: {other:?}"),
    }
}

/// The waiting events, up to the message with this number.
async fn up_to(subscriber: &mut Subscriber, last: u64) -> Vec<Result<u64, (u64, u64)>> {
    let mut events = Vec::new();
    loop {
        match next(subscriber).await {
            Event::Message(message) => {
                events.push(Ok(message.seq()));
                if message.seq() == last {
                    return events;
                }
            }
            Event::Gap { from, to } => events.push(Err((from, to))),
            other => panic!("{other:?}"),
        }
    }
}

async fn publish(janus: &Janus, topic: &str, numbers: std::ops::RangeInclusive<u64>) {
    for number in numbers {
        janus.publish(topic, &number).await.expect("published");
    }
}

/// Waits until every message of a topic is in the queues of its subscribers.
async fn handed_out(janus: &Janus, topic: &'static str) {
    until("everything is handed out", || janus.topic_info(topic).is_some_and(|topic| topic.in_flight == 0)).await;
}

fn with_history(history: Namespace) -> Config {
    Config { namespaces: BTreeMap::from([("kept".to_owned(), history)]), ..Config::default() }
}

#[tokio::test]
async fn a_subscriber_gets_every_message_with_number_and_all_parts() {
    let (janus, _) = serve(Config::default()).await;
    let mut subscriber = janus.subscribe("news").unwrap();
    assert_eq!(subscriber.position().seq, 0);
    let message = janus_core::Message::new("news", &[1.5]).unwrap().event("greeting").message_id("42");
    let receipt = janus.publish_message(message).await.unwrap();
    assert_eq!((receipt.seq, receipt.subscribers), (1, 1));
    let Event::Message(message) = next(&mut subscriber).await else { panic!("a message") };
    assert_eq!(message.position, Position { epoch: receipt.epoch, seq: 1 });
    assert_eq!((message.topic.as_str(), message.event(), message.message_id()), ("news", "\"greeting\"", "\"42\""));
    assert_eq!((message.data(), message.parse::<Vec<f64>>().unwrap()), ("[1.5]", vec![1.5]));
    assert_eq!(subscriber.position(), message.position);
}

#[tokio::test]
async fn dropping_a_subscriber_ends_its_subscription() {
    let (janus, _) = serve(Config::default()).await;
    let subscriber = janus.subscribe("news").unwrap();
    let mut other = janus.subscribe("news").unwrap();
    publish(&janus, "news", 1..=1).await;
    drop(subscriber);
    until("it has left", || subscribers(&janus, "news") == Some(1)).await;
    publish(&janus, "news", 2..=2).await;
    assert_eq!((number(&mut other).await, number(&mut other).await), (1, 2));
}

#[tokio::test]
async fn under_drop_oldest_the_newest_stay_and_the_gap_is_told_in_its_place() {
    let (janus, _) = serve(Config::default()).await;
    let options = SubscribeOptions::default().slow_consumer(SlowConsumer::DropOldest).max_queue_frames(4);
    let mut subscriber = janus.subscribe_with("news", options).unwrap();
    publish(&janus, "news", 1..=10).await;
    handed_out(&janus, "news").await;
    assert_eq!(up_to(&mut subscriber, 10).await, [Err((1, 6)), Ok(7), Ok(8), Ok(9), Ok(10)]);
    publish(&janus, "news", 11..=11).await;
    assert_eq!(number(&mut subscriber).await, 11);
    assert_eq!(janus.stats().messages_dropped_oldest, 6);
}

#[tokio::test]
async fn under_drop_newest_the_oldest_stay_and_the_gap_is_told_in_its_place() {
    let (janus, _) = serve(Config::default()).await;
    let options = SubscribeOptions::default().slow_consumer(SlowConsumer::DropNewest).max_queue_frames(4);
    let mut subscriber = janus.subscribe_with("news", options).unwrap();
    publish(&janus, "news", 1..=10).await;
    handed_out(&janus, "news").await;
    assert_eq!((number(&mut subscriber).await, number(&mut subscriber).await), (1, 2));
    publish(&janus, "news", 11..=12).await;
    handed_out(&janus, "news").await;
    assert_eq!(up_to(&mut subscriber, 12).await, [Ok(3), Ok(4), Err((5, 10)), Ok(11), Ok(12)]);
    assert_eq!(janus.stats().messages_dropped_newest, 6);
}

#[tokio::test]
async fn under_conflate_only_the_latest_waits_and_the_gap_is_told() {
    let (janus, _) = serve(Config::default()).await;
    let options = SubscribeOptions::default().slow_consumer(SlowConsumer::Conflate).max_queue_frames(4);
    let mut subscriber = janus.subscribe_with("quotes", options).unwrap();
    publish(&janus, "quotes", 1..=4).await;
    handed_out(&janus, "quotes").await;
    publish(&janus, "quotes", 5..=5).await;
    handed_out(&janus, "quotes").await;
    assert_eq!(up_to(&mut subscriber, 5).await, [Err((1, 4)), Ok(5)]);
    assert_eq!(janus.stats().messages_conflated, 4);
}

#[tokio::test]
async fn under_disconnect_a_full_queue_ends_a_resumable_subscription() {
    let (janus, _) = serve(Config::default()).await;
    let options = SubscribeOptions::default().max_queue_frames(4);
    let mut subscriber = janus.subscribe_with("news", options).unwrap();
    publish(&janus, "news", 1..=1).await;
    assert_eq!(number(&mut subscriber).await, 1);
    publish(&janus, "news", 2..=10).await;
    handed_out(&janus, "news").await;
    assert_eq!(next(&mut subscriber).await, Event::Closed(Closed::SlowConsumer));
    assert_eq!(subscriber.next().await, None);
    let mut again = janus.subscribe_with("news", options.since(subscriber.position())).unwrap();
    assert_eq!((again.resumption().unwrap().resumed, again.resumption().unwrap().missed), (true, 9));
    assert_eq!(up_to(&mut again, 10).await, (2..=10).map(Ok).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_lagging_subscriber_costs_other_subscribers_nothing() {
    let (janus, _) = serve(Config::default()).await;
    let options = SubscribeOptions::default().slow_consumer(SlowConsumer::DropOldest).max_queue_frames(1);
    let _stalled = janus.subscribe_with("news", options).unwrap();
    let mut other = janus.subscribe("news").unwrap();
    for expected in 1..=2_000 {
        publish(&janus, "news", expected..=expected).await;
        assert_eq!(number(&mut other).await, expected);
    }
}

#[tokio::test]
async fn an_unavailable_position_is_answered_with_the_first_available() {
    let (janus, _) = serve(Config { resume_messages: 3, ..Config::default() }).await;
    let start = janus.subscribe("news").unwrap().position();
    publish(&janus, "news", 1..=5).await;
    handed_out(&janus, "news").await;
    let resume = |position| janus.subscribe_with("news", SubscribeOptions::default().since(position)).unwrap();
    for (seq, resumed) in [(0, false), (1, false), (2, true), (5, true), (6, false), (u64::MAX, false)] {
        let resumption = resume(Position { seq, ..start }).resumption().unwrap();
        assert_eq!(resumption.resumed, resumed, "since {seq}");
        assert_eq!(resumption.first_available, Position { seq: 3, ..start }, "since {seq}");
        assert_eq!(resumption.missed, if resumed { 5 - seq } else { 0 });
    }
    let mut other_life = resume(Position { epoch: Epoch::new(start.epoch.number() ^ 1), seq: 4 });
    assert!(!other_life.resumption().unwrap().resumed);
    publish(&janus, "news", 6..=6).await;
    assert_eq!(number(&mut other_life).await, 6, "it goes on live");
}

#[tokio::test]
async fn messages_lost_in_a_cold_restart_are_told_as_a_gap() {
    let (janus, _) = serve(Config::default()).await;
    let mut subscriber = janus.subscribe("news").unwrap();
    publish(&janus, "news", 1..=2).await;
    assert_eq!((number(&mut subscriber).await, number(&mut subscriber).await), (1, 2));
    // The third message has a number and is never handed out: each start crashes until the cold start.
    janus.inject(Fault::TopicStarts(2));
    janus.inject(Fault::TopicCommit(1));
    let receipt = janus.publish("news", &3).await;
    until("the topic is up again", || topic_actor(&janus, "news").is_some_and(|topic| topic.restarts >= 3)).await;
    let before = receipt.map(|receipt| receipt.epoch);
    let after = janus.publish("news", &4).await.unwrap();
    assert_ne!(before, Ok(after.epoch), "it was a cold restart");
    assert_eq!(next(&mut subscriber).await, Event::Gap { from: 3, to: 3 });
    let Event::Message(message) = next(&mut subscriber).await else { panic!("a message") };
    assert_eq!(message.position, Position { epoch: after.epoch, seq: 4 });
}

#[tokio::test]
async fn a_subscriber_gets_earlier_messages_before_the_end_of_the_instance() {
    let (janus, _) = serve(Config::default()).await;
    let mut subscriber = janus.subscribe("news").unwrap();
    publish(&janus, "news", 1..=3).await;
    janus.shutdown().await;
    assert_eq!(up_to(&mut subscriber, 3).await, [Ok(1), Ok(2), Ok(3)]);
    assert_eq!(next(&mut subscriber).await, Event::Closed(Closed::ShutDown));
    assert_eq!(subscriber.next().await, None);
    assert_eq!(janus.subscribe("news").unwrap_err(), SubscribeError::ShuttingDown);
}

#[tokio::test]
async fn a_forbidden_name_and_a_topic_beyond_the_limit_are_refused() {
    let (janus, _) = serve(Config { max_topics: 1, ..Config::default() }).await;
    assert!(matches!(janus.subscribe(""), Err(SubscribeError::Invalid(_))));
    let _first = janus.subscribe("first").unwrap();
    assert_eq!(janus.subscribe("second").unwrap_err(), SubscribeError::TooManyTopics);
}

#[tokio::test]
async fn history_holds_the_latest_messages_within_limits_if_enabled() {
    let config = with_history(Namespace { history: true, history_messages: 5, ..Namespace::default() });
    let (janus, _) = serve(config).await;
    assert_eq!(janus.history("news", None, 10).await.unwrap_err(), HistoryError::NotKept);
    let empty = janus.history("kept:a", None, 10).await.unwrap();
    assert_eq!(
        (empty.messages.len(), empty.complete, empty.position),
        (0, true, Position { epoch: Epoch::NONE, seq: 0 })
    );
    // The topic has no subscribers; a later subscriber may ask for the history.
    publish(&janus, "kept:a", 1..=8).await;
    let seqs = |since: Option<Position>, limit| {
        let history = janus.history("kept:a", since, limit).now_or_never().unwrap().unwrap();
        (history.messages.iter().map(|message| message.parse::<u64>().unwrap()).collect::<Vec<_>>(), history.complete)
    };
    let all = janus.history("kept:a", None, 100).await.unwrap();
    assert_eq!(all.position.seq, 8);
    assert_eq!(seqs(None, 100), (vec![4, 5, 6, 7, 8], true));
    assert_eq!(seqs(None, 2), (vec![7, 8], true));
    assert_eq!(seqs(Some(Position { seq: 4, ..all.position }), 2), (vec![5, 6], true));
    assert_eq!(seqs(Some(Position { seq: u64::MAX, ..all.position }), 2), (vec![], false));
    assert_eq!(seqs(Some(Position { seq: 6, ..all.position }), 100), (vec![7, 8], true));
    assert_eq!(seqs(Some(all.position), 100), (vec![], true));
    assert_eq!(seqs(Some(Position { seq: 3, ..all.position }), 100), (vec![4, 5, 6, 7, 8], true));
    assert_eq!(seqs(Some(Position { seq: 2, ..all.position }), 100), (vec![4, 5, 6, 7, 8], false));
    assert_eq!(seqs(Some(Position { seq: 9, ..all.position }), 100), (vec![], false));
    assert_eq!(seqs(Some(Position { epoch: Epoch::new(1), seq: 6 }), 100), (vec![4, 5, 6, 7, 8], false));
    // Subscribing since the position of a history continues right after the history.
    let mut subscriber = janus.subscribe_with("kept:a", SubscribeOptions::default().since(all.position)).unwrap();
    assert!(subscriber.resumption().unwrap().resumed);
    publish(&janus, "kept:a", 9..=9).await;
    assert_eq!(number(&mut subscriber).await, 9);
}

#[tokio::test]
async fn a_history_survives_a_cold_restart_for_an_up_to_date_subscriber() {
    let (janus, _) = serve(with_history(Namespace { history: true, ..Namespace::default() })).await;
    publish(&janus, "kept:a", 1..=3).await;
    let before = janus.history("kept:a", None, 100).await.unwrap().position;
    for restarts in 1..=3 {
        janus.inject(Fault::Topic("kept:a".to_owned()));
        until("the topic has restarted", || runs_after_restarts(&janus, "kept:a", restarts)).await;
    }
    publish(&janus, "kept:a", 4..=5).await;
    let seqs = |since| {
        let history = janus.history("kept:a", Some(since), 100).now_or_never().unwrap().unwrap();
        assert_ne!(history.position.epoch, before.epoch, "it was a cold one");
        (history.messages.iter().map(|message| message.seq()).collect::<Vec<_>>(), history.complete)
    };
    assert_eq!(seqs(before), (vec![4, 5], true));
    assert_eq!(seqs(Position { seq: 4, ..before }), (vec![5], true));
    assert_eq!(seqs(Position { seq: 2, ..before }), (vec![4, 5], false));
}

#[tokio::test]
async fn a_history_cut_by_its_limit_reports_the_cut_and_continues_there() {
    let (janus, _) = serve(with_history(Namespace { history: true, ..Namespace::default() })).await;
    publish(&janus, "kept:a", 1..=5).await;
    let latest = janus.history("kept:a", None, 2).await.unwrap();
    assert_eq!((latest.position.seq, latest.complete, latest.more), (5, true, true), "earlier messages are cut off");
    let (mut since, mut parts) = (Position { seq: 0, ..latest.position }, Vec::new());
    loop {
        let part = janus.history("kept:a", Some(since), 2).await.unwrap();
        assert!(part.complete, "a limit loses nothing: {part:?}");
        parts.push(part.messages.iter().map(|message| message.parse::<u64>().unwrap()).collect::<Vec<_>>());
        since = part.position;
        if !part.more {
            break;
        }
    }
    assert_eq!(parts, [vec![1, 2], vec![3, 4], vec![5]]);
    // A limit that is met exactly cuts nothing off, and a position of another epoch is before every message.
    let all = janus.history("kept:a", Some(Position { epoch: Epoch::new(1), seq: 4 }), 5).await.unwrap();
    assert_eq!((all.messages.len(), all.position, all.complete, all.more), (5, latest.position, false, false));
    let none = janus.history("kept:a", Some(latest.position), 1).await.unwrap();
    assert_eq!((none.messages.len(), none.position, none.complete, none.more), (0, latest.position, true, false));
    // Subscribing at the end of a part continues right there, too.
    let first = janus.history("kept:a", Some(Position { seq: 0, ..latest.position }), 3).await.unwrap();
    let options = SubscribeOptions::default().since(first.position);
    let mut subscriber = janus.subscribe_with("kept:a", options).unwrap();
    assert_eq!(up_to(&mut subscriber, 5).await, [Ok(4), Ok(5)]);
}

#[tokio::test]
async fn history_is_limited_by_bytes_and_by_age() {
    let by_bytes = Namespace { history: true, history_bytes: 1_024, ..Namespace::default() };
    let by_age = Namespace { history: true, history_age: Duration::from_millis(20), ..Namespace::default() };
    let namespaces = BTreeMap::from([("bytes".to_owned(), by_bytes), ("age".to_owned(), by_age)]);
    // A short timeout makes the clock finer; ages are measured in its ticks.
    let config = Config { namespaces, frame_timeout: Duration::from_millis(20), ..Config::default() };
    let (janus, _) = serve(Config { resume_age: Duration::from_millis(20), ..config }).await;
    for _ in 0..20 {
        janus.publish("bytes:a", &"x".repeat(200)).await.unwrap();
        janus.publish("age:a", "old").await.unwrap();
    }
    let kept = janus.history("bytes:a", None, 100).await.unwrap().messages;
    assert!((2..=4).contains(&kept.len()), "{} messages of more than 200 bytes in 1 KiB", kept.len());
    until("what is old is gone", || {
        janus.history("age:a", None, 100).now_or_never().unwrap().unwrap().messages.is_empty()
    })
    .await;
}

#[tokio::test]
async fn an_unused_topic_lives_as_long_as_its_history() {
    let kept = Namespace { history: true, history_age: Duration::from_millis(400), ..Namespace::default() };
    let config = Config { topic_idle: Duration::from_millis(20), ..with_history(kept) };
    let (janus, _) = serve(Config { resume_age: Duration::from_millis(20), ..config }).await;
    publish(&janus, "kept:a", 1..=1).await;
    drop(janus.subscribe("brief").unwrap());
    until("an unused topic has ended", || janus.topic_info("brief").is_none()).await;
    assert_eq!(janus.history("kept:a", None, 10).await.unwrap().messages.len(), 1);
    until("the topic ends with its history", || janus.topic_info("kept:a").is_none()).await;
}

#[tokio::test]
async fn a_replay_is_not_subject_to_the_limits_of_the_queue() {
    let (janus, _) = serve(Config::default()).await;
    let start = janus.subscribe("news").unwrap().position();
    publish(&janus, "news", 1..=20).await;
    for policy in [SlowConsumer::Disconnect, SlowConsumer::DropOldest, SlowConsumer::DropNewest, SlowConsumer::Conflate]
    {
        let options = SubscribeOptions::default().since(start).slow_consumer(policy).max_queue_frames(4);
        let mut subscriber = janus.subscribe_with("news", options).unwrap();
        assert_eq!(number(&mut subscriber).await, 1);
        // The subscriber has asked for missed messages, and a new message comes in between.
        let last = janus.publish("news", &0).await.unwrap().seq;
        handed_out(&janus, "news").await;
        assert_eq!(up_to(&mut subscriber, last).await, (2..=last).map(Ok).collect::<Vec<_>>(), "{policy}");
    }
}

#[tokio::test]
async fn a_program_resumes_from_all_messages_kept_by_its_topics() {
    // Topics that do not resume keep nothing but history.
    for (resume, history, missed) in
        [(Resume::Session, false, Some(2)), (Resume::Off, false, None), (Resume::Off, true, Some(2))]
    {
        let default_namespace = Namespace { resume, history, ..Namespace::default() };
        let (janus, _) = serve(Config { default_namespace, ..Config::default() }).await;
        let keeper = janus.subscribe("news").unwrap();
        publish(&janus, "news", 1..=2).await;
        handed_out(&janus, "news").await;
        let options = SubscribeOptions::default().since(keeper.position());
        let resumption = janus.subscribe_with("news", options).unwrap().resumption().unwrap();
        let expected = (missed.is_some(), missed.unwrap_or(0));
        assert_eq!((resumption.resumed, resumption.missed), expected, "{resume}, history {history}");
    }
}

#[tokio::test]
async fn a_topic_stays_until_its_subscriber_has_taken_missed_messages() {
    let short = Duration::from_millis(20);
    let (janus, _) = serve(Config { topic_idle: short, ..Config::default() }).await;
    let keeper = janus.subscribe("news").unwrap();
    publish(&janus, "news", 1..=1).await;
    let since = Position { seq: 0, ..keeper.position() };
    let mut subscriber = janus.subscribe_with("news", SubscribeOptions::default().since(since)).unwrap();
    drop(keeper);
    drop(janus.subscribe("brief").unwrap());
    until("an unused topic has ended", || janus.topic_info("brief").is_none()).await;
    drop(janus.subscribe("brief").unwrap());
    until("another has ended", || janus.topic_info("brief").is_none()).await;
    assert_eq!(number(&mut subscriber).await, 1);
}

#[tokio::test]
async fn subscribers_that_leave_while_their_topic_starts_leave_nothing_behind() {
    let (janus, _) = serve(Config { topic_idle: Duration::from_millis(20), ..Config::default() }).await;
    for round in 0..2_000 {
        drop(janus.subscribe(&format!("topic {round}")).unwrap());
    }
    until("all topics have ended", || janus.stats().topics == 0).await;
}

#[tokio::test]
async fn no_subscriber_waits_forever_for_an_instance_that_has_ended() {
    for _ in 0..10 {
        let (janus, _) = serve(Config::default()).await;
        let subscribing = tokio::task::spawn_blocking({
            let janus = janus.clone();
            move || {
                let subscribe = |round| janus.subscribe(&format!("topic {round}"));
                (0..).map_while(|round| subscribe(round).ok()).take(1_000).collect::<Vec<_>>()
            }
        });
        janus.shutdown().await;
        for mut subscriber in subscribing.await.unwrap() {
            assert_eq!(next(&mut subscriber).await, Event::Closed(Closed::ShutDown));
        }
    }
}

#[tokio::test]
async fn a_lagging_subscriber_is_named_and_counted_like_a_client() {
    let (janus, _) = serve(Config { heartbeat_interval: Duration::from_secs(1), ..Config::default() }).await;
    let options = SubscribeOptions::default().max_queue_frames(3);
    let _subscriber = janus.subscribe_with("news", options).unwrap();
    publish(&janus, "news", 1..=3).await;
    handed_out(&janus, "news").await;
    until("it is seen to lag", || {
        janus.slow_clients(5).first().is_some_and(|slow| slow.peer.is_none() && slow.lagging_for > Duration::ZERO)
    })
    .await;
    publish(&janus, "news", 4..=4).await;
    until("it is counted", || janus.stats().slow_consumers_queue_full == 1).await;
    assert_eq!(janus.slow_clients(5), []);
}

/// A single event of a topic or of its only subscriber.
#[derive(Clone, Debug)]
enum Step {
    Publish(u64),
    Take(u64),
    /// Drops the subscriber, and resumes from its position moved by `offset`, or from a position of another epoch.
    Reconnect {
        offset: i64,
        stranger: bool,
    },
    Warm,
    Cold,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1..8_u64).prop_map(Step::Publish),
        3 => (0..10_u64).prop_map(Step::Take),
        3 => Just(Step::Reconnect { offset: 0, stranger: false }),
        1 => (-12..12_i64, any::<bool>()).prop_map(|(offset, stranger)| Step::Reconnect { offset, stranger }),
        1 => Just(Step::Warm),
        1 => Just(Step::Cold),
    ]
}

fn policy() -> impl Strategy<Value = SlowConsumer> {
    use SlowConsumer::{Conflate, Disconnect, DropNewest, DropOldest};
    prop::sample::select(vec![Disconnect, DropOldest, DropNewest, Conflate])
}

/// A subscriber with its model: the next expected number, as a message or as the start of a gap.
struct Modelled {
    subscriber: Subscriber,
    expected: u64,
}

impl Modelled {
    fn new(subscriber: Subscriber) -> Self {
        let expected = subscriber.position().seq + 1;
        Self { subscriber, expected }
    }

    /// Takes one event, which must continue exactly at the end of the last event. Returns `false` at the end of the
    /// subscription.
    async fn take(&mut self) -> bool {
        match next(&mut self.subscriber).await {
            Event::Message(message) => {
                assert_eq!(message.seq(), self.expected, "a silent hole, or a repeat");
                self.expected += 1;
            }
            Event::Gap { from, to } => {
                assert_eq!(from, self.expected, "a gap that is not where it should be");
                assert!(to >= from);
                self.expected = to + 1;
            }
            Event::Closed(Closed::SlowConsumer) => return false,
            other => panic!("{other:?}"),
        }
        assert_eq!(self.subscriber.position().seq + 1, self.expected);
        true
    }
}

/// A random walk: a topic, the only subscriber of the topic, and the facts for a comparison.
struct Walk {
    janus: Janus,
    options: SubscribeOptions,
    ring: usize,
    modelled: Modelled,
    /// The last number of the topic.
    last: u64,
    restarts: u64,
    /// The topic's epoch before the current epoch, and the last number in it.
    earlier: Option<Position>,
    current: Epoch,
}

impl Walk {
    async fn new(ring: usize, queue: usize, policy: SlowConsumer) -> Self {
        let (janus, _) = serve(Config { resume_messages: ring, ..Config::default() }).await;
        let options = SubscribeOptions::default().slow_consumer(policy).max_queue_frames(queue);
        let modelled = Modelled::new(janus.subscribe_with("t", options).unwrap());
        let current = modelled.subscriber.position().epoch;
        Self { janus, options, ring, modelled, last: 0, restarts: 0, earlier: None, current }
    }

    async fn step(&mut self, step: Step) {
        match step {
            Step::Publish(count) => {
                for _ in 0..count {
                    self.last = self.janus.publish("t", &self.last).await.expect("published").seq;
                }
            }
            Step::Take(count) => {
                handed_out(&self.janus, "t").await;
                for _ in 0..count {
                    if self.modelled.expected > self.last || !self.take().await {
                        break;
                    }
                }
            }
            Step::Reconnect { offset, stranger } => {
                handed_out(&self.janus, "t").await;
                self.reconnect(offset, stranger);
            }
            Step::Warm => self.crash(1).await,
            Step::Cold => self.crash(3).await,
        }
    }

    /// Takes one event. After a cut-off, resumes at the same position, like a program would, and returns `false`.
    async fn take(&mut self) -> bool {
        let subscribed = self.modelled.take().await;
        if !subscribed {
            let since = self.modelled.subscriber.position();
            let subscriber = self.janus.subscribe_with("t", self.options.since(since)).unwrap();
            self.modelled = Modelled::new(subscriber);
        }
        subscribed
    }

    fn reconnect(&mut self, offset: i64, stranger: bool) {
        let at = self.modelled.subscriber.position();
        let epoch = if stranger { Epoch::new(!at.epoch.number()) } else { at.epoch };
        let since = Position { epoch, seq: at.seq.saturating_add_signed(offset) };
        let subscriber = self.janus.subscribe_with("t", self.options.since(since)).unwrap();
        let (resumption, last) = (subscriber.resumption().unwrap(), self.last);
        let first = resumption.first_available;
        // A position of the previous epoch leads here if no message was missed between the two.
        let leads_here = since.epoch == self.current
            || self.earlier.is_some_and(|earlier| since.epoch == earlier.epoch && since.seq >= earlier.seq);
        let possible = leads_here && (first.seq..=last + 1).contains(&(since.seq + 1));
        assert_eq!(resumption.resumed, possible, "{since:?} with {resumption:?} and the last number {last}");
        assert!(first.seq + self.ring as u64 > last, "more is offered than is kept");
        let begins_at = if possible { since.seq } else { last };
        assert_eq!(subscriber.position().seq, begins_at);
        self.modelled = Modelled::new(subscriber);
    }

    async fn crash(&mut self, crashes: u32) {
        // Beyond five crashes in a minute the topic is quarantined. Another test covers the quarantine.
        for _ in 0..crashes {
            if self.restarts == 5 {
                break;
            }
            until("the topic runs", || runs_after_restarts(&self.janus, "t", self.restarts)).await;
            self.restarts += 1;
            self.janus.inject(Fault::Topic("t".to_owned()));
            until("the topic has restarted", || runs_after_restarts(&self.janus, "t", self.restarts)).await;
            let now = self.janus.subscribe("t").unwrap().position().epoch;
            let before = std::mem::replace(&mut self.current, now);
            if self.current != before {
                self.earlier = Some(Position { epoch: before, seq: self.last });
            }
        }
    }

    /// Takes the rest: in the end every published message is accounted for.
    async fn end(mut self) {
        handed_out(&self.janus, "t").await;
        while self.modelled.expected <= self.last {
            self.take().await;
        }
        self.janus.shutdown().await;
    }
}

async fn walk(steps: Vec<Step>, ring: usize, queue: usize, policy: SlowConsumer) {
    let mut walk = Walk::new(ring, queue, policy).await;
    for step in steps {
        walk.step(step).await;
    }
    walk.end().await;
}

/// Earlier failures are tried again first. Their seeds are in a file next to this file.
fn config() -> ProptestConfig {
    let seeds = FileFailurePersistence::WithSource("regressions");
    ProptestConfig { cases: 96, failure_persistence: Some(Box::new(seeds)), ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn no_sequence_of_loss_and_resume_leaves_a_silent_hole(
        steps in prop::collection::vec(step(), 1..40),
        ring in 0_usize..12,
        queue in 1_usize..10,
        policy in policy(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(walk(steps, ring, queue, policy));
    }
}
