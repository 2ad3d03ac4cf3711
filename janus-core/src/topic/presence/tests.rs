//! The rounds of a topic, step by step: the frames of each client, and the clients without room.

use std::future::poll_fn;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::io::{AsyncReadExt as _, DuplexStream};
use tokio::task::unconstrained;

use super::watchers::PORTION;
use super::*;
use crate::delivery::Terms;
use crate::delivery::stream::Stream;
use crate::topic::shared::tests::with_topics;
use crate::wire::{Codec, Decoder, Peer, ServerEvent, Timestamp, WebSocket};

/// A client whose queue is written by the test alone.
struct Reader {
    slot: Arc<Slot>,
    stream: DuplexStream,
}

/// A quarter of this is for frames that are no messages.
const QUEUE_BYTES: usize = 4 * 1_024;

/// Counts the encoded events.
#[derive(Debug)]
struct Counting(WebSocket, Arc<AtomicUsize>);

impl Codec for Counting {
    fn name(&self) -> &'static str {
        "counting"
    }

    fn decoder(&self) -> Box<dyn Decoder> {
        self.0.decoder()
    }

    fn encode(&self, event: &ServerEvent<'_>, at: &Timestamp, out: &mut bytes::BytesMut) {
        self.1.fetch_add(1, Ordering::Relaxed);
        self.0.encode(event, at, out);
    }
}

impl Reader {
    fn new(id: u64) -> Self {
        Self::with(id, Arc::new(WebSocket::v1()))
    }

    fn with(id: u64, codec: Arc<dyn Codec>) -> Self {
        let terms = Terms::in_tests(usize::MAX, QUEUE_BYTES);
        let codec = terms.codecs.register(&codec).unwrap();
        let (stream, server) = tokio::io::duplex(1 << 20);
        let link = Stream::new(Box::pin(server), Peer::Local);
        Self { slot: Arc::new(Slot::new(id, None, link, codec, Arc::default(), &terms)), stream }
    }

    /// What waits for the client, as the types of the frames and their counts.
    fn read(&mut self) -> Vec<String> {
        let mut bytes = vec![0; 1 << 16];
        // Without a budget of steps, which a test with many clients in one task would use up.
        let read = unconstrained(async {
            poll_fn(|cx| {
                self.slot.poll_attention(cx.waker());
                self.slot.flush(cx);
                Poll::Ready(())
            })
            .await;
            self.stream.read(&mut bytes).await.unwrap()
        });
        let read = read.now_or_never().unwrap_or(0);
        let text = String::from_utf8_lossy(&bytes[..read]).into_owned();
        let frames = text.split("{\"type\":\"").skip(1);
        let words = frames.map(|frame| {
            let kind = frame.split('"').next().unwrap_or_default();
            let count = frame.split("\"count\":").nth(1).and_then(|rest| rest.split([',', '}']).next());
            format!("{kind} {}", count.unwrap_or_default())
        });
        words.collect()
    }
}

/// A topic with a round after each change, and the number of the last member.
struct Stage<'a> {
    topics: &'a Arc<Topics>,
    topic: Arc<TopicState>,
    last: u64,
}

impl<'a> Stage<'a> {
    fn with(test: impl FnOnce(Stage<'_>)) {
        Self::with_linger(Duration::ZERO, test);
    }

    fn with_linger(presence_linger: Duration, test: impl FnOnce(Stage<'_>)) {
        let config = Config {
            default_namespace: crate::config::Namespace { presence: Mode::Members, ..Default::default() },
            presence_interval: Duration::ZERO,
            presence_linger,
            max_presence_member_bytes: 16 * 1_024,
            ..Config::default()
        };
        with_topics(config, |topics| {
            let name = TopicName::new("news", 255).unwrap();
            let topic = Arc::new(TopicState::new(name, 1, None, None, topics));
            test(Stage { topics, topic, last: 1_000 });
        });
    }

    fn presence(&self) -> &Presence {
        self.topic.presence.as_ref().unwrap()
    }

    fn watch(&self, reader: &Reader) {
        self.presence().join(&self.topic, &reader.slot, None, self.topics);
        self.presence().watch(&self.topic, &reader.slot, self.topics);
    }

    /// Another user joins, and all clients are told.
    fn join(&mut self) -> u64 {
        self.last += 1;
        let user = Identity::user(format!("user {}", self.last));
        self.presence().join(&self.topic, &Reader::new(self.last).slot, Some(&user), self.topics);
        self.run();
        self.last
    }

    fn turn(&self) {
        self.presence().turn(&self.topic, self.topics);
    }

    fn run(&self) {
        self.turn();
        while self.presence().0.lock().watchers.has_work() {
            self.turn();
        }
    }

    /// A user subscribes, and no client is told.
    fn enter(&self, id: u64, user: Identity) {
        self.presence().join(&self.topic, &Reader::new(id).slot, Some(&user), self.topics);
    }

    fn leave(&self, id: u64) {
        self.presence().leave(&self.topic, &Reader::new(id).slot, self.topics);
    }

    fn accounted(&self) -> usize {
        self.topics.ledger().bytes()
    }
}

#[test]
fn a_change_is_told_once_and_a_newcomer_is_told_the_list_alone() {
    Stage::with(|mut stage| {
        let mut first = Reader::new(1);
        stage.watch(&first);
        stage.run();
        stage.join();
        stage.join();
        assert_eq!(first.read(), ["presence 1", "joined 2", "joined 3"]);
        let mut second = Reader::new(2);
        stage.watch(&second);
        stage.run();
        assert_eq!((first.read(), second.read()), (vec!["joined 4".to_owned()], vec!["presence 4".to_owned()]));
        let left = Reader::new(stage.last);
        stage.presence().leave(&stage.topic, &left.slot, stage.topics);
        stage.run();
        assert_eq!((first.read(), second.read()), (vec!["left 3".to_owned()], vec!["left 3".to_owned()]));
    });
}

#[test]
fn a_client_without_room_is_told_the_state_when_there_is_room() {
    Stage::with(|mut stage| {
        let (mut slow, mut quick) = (Reader::new(1), Reader::new(2));
        stage.watch(&slow);
        stage.watch(&quick);
        stage.run();
        let mut heard = quick.read().len();
        for _ in 0..50 {
            stage.join();
            heard += quick.read().len();
        }
        assert!(heard > 50, "another client is told everything");
        let queued = slow.slot.queued().unwrap().0;
        assert!(queued <= QUEUE_BYTES / 4, "{queued} bytes wait");
        assert_eq!(slow.slot.take_end(), None);
        let before = slow.read();
        assert!(before.len() < 50, "{before:?}");
        stage.run();
        assert_eq!(slow.read(), ["presence 52"], "the state in place of what was left out");
        stage.join();
        assert_eq!((slow.read(), quick.read()), (vec!["joined 53".to_owned()], vec!["joined 53".to_owned()]));
        let counted = stage.topics.counters.presence_deferred.load(Ordering::Relaxed);
        assert!(counted > 0);
    });
}

#[test]
fn a_client_named_for_the_topic_keeps_the_name_under_another_identity() {
    Stage::with(|stage| {
        let (presence, slot, bob) = (stage.presence(), Reader::new(1).slot, Identity::user("bob"));
        let list = || presence.0.lock().members.list().unwrap();
        presence.join_as(&stage.topic, &slot, &Member::new("alice", Some("1")), stage.topics);
        presence.join(&stage.topic, &slot, Some(&bob), stage.topics);
        assert_eq!(list(), [Member::new("alice", Some("1"))]);
        presence.leave(&stage.topic, &slot, stage.topics);
        presence.join(&stage.topic, &slot, Some(&bob), stage.topics);
        assert_eq!(list(), [Member::new("bob", None)]);
        let info = format!("\"{}\"", "x".repeat(16 * 1_024));
        presence.join_as(&stage.topic, &slot, &Member::new("alice", Some(&info)), stage.topics);
        assert_eq!(list(), [Member::new("alice", None)], "as with a long info of an identity");
    });
}

#[test]
fn a_round_is_divided_into_portions() {
    Stage::with(|mut stage| {
        let mut readers: Vec<_> = (1..=3 * PORTION as u64).map(Reader::new).collect();
        readers.iter().for_each(|reader| stage.watch(reader));
        stage.run();
        readers.iter_mut().for_each(|reader| drop(reader.read()));
        stage.last += 1;
        let user = Identity::user("alice");
        stage.presence().join(&stage.topic, &Reader::new(stage.last).slot, Some(&user), stage.topics);
        let mut told = Vec::new();
        for _ in 0..3 {
            stage.turn();
            told.push(readers.iter_mut().filter_map(|reader| reader.read().pop()).count());
        }
        assert_eq!(told, [PORTION; 3]);
    });
}

#[test]
fn a_topic_with_nothing_to_do_is_not_listed() {
    Stage::with(|mut stage| {
        let is_listed = |stage: &Stage<'_>| stage.presence().0.lock().due.is_some();
        stage.join();
        assert!(!is_listed(&stage), "no client watches");
        let reader = Reader::new(1);
        stage.watch(&reader);
        stage.join();
        assert!(!is_listed(&stage));
        stage.presence().join(&stage.topic, &Reader::new(5_000).slot, None, stage.topics);
        assert!(is_listed(&stage));
        stage.presence().leave(&stage.topic, &reader.slot, stage.topics);
        assert!(!is_listed(&stage), "the client that watched has left");
    });
}

#[test]
fn first_lists_come_in_portions_and_are_encoded_once() {
    Stage::with(|stage| {
        let mut readers: Vec<_> = (1..=3 * PORTION as u64).map(Reader::new).collect();
        readers.iter().for_each(|reader| stage.watch(reader));
        assert_eq!(
            readers.iter_mut().map(|reader| reader.read().len()).sum::<usize>(),
            0,
            "not by the client's own turn"
        );
        let mut told = Vec::new();
        for _ in 0..3 {
            stage.turn();
            let before = stage.presence().0.lock().watchers.made();
            assert!(before <= 1, "{before} frames for clients with the same need");
            told.push(readers.iter_mut().filter_map(|reader| reader.read().pop()).collect::<Vec<_>>());
        }
        assert_eq!(told, vec![vec![format!("presence {}", 3 * PORTION); PORTION]; 3]);
        assert_eq!(stage.presence().0.lock().watchers.made(), 0, "no frame is kept while all have been told");
    });
}

#[test]
fn a_portion_has_a_limit_of_bytes() {
    Stage::with(|stage| {
        let info = serde_json::Value::from("x".repeat(10 * 1_024));
        stage.enter(900, Identity::user("alice").info(info.clone()));
        stage.enter(901, Identity::user("bob").info(info));
        let mut readers: Vec<_> = (1..=8).map(Reader::new).collect();
        readers.iter().for_each(|reader| stage.watch(reader));
        let mut told = Vec::new();
        for _ in 0..2 {
            stage.turn();
            told.push(readers.iter_mut().filter_map(|reader| reader.read().pop()).count());
        }
        assert_eq!(told, [4, 4], "lists of 20 KiB in portions of 64 KiB");
    });
}

#[test]
fn a_first_list_waits_for_room_next_to_other_answers() {
    Stage::with(|stage| {
        let info = serde_json::Value::from("x".repeat(2 * QUEUE_BYTES));
        stage.enter(900, Identity::user("alice").info(info));
        let mut reader = Reader::new(1);
        reader.slot.cork();
        reader.slot.tell(&ServerEvent::Unsubscribed { id: None, topic: &stage.topic.name });
        stage.watch(&reader);
        stage.run();
        reader.slot.uncork(bytes::Bytes::new());
        assert_eq!(reader.read(), ["unsubscribed "], "the list does not wait in the queue");
        stage.run();
        assert_eq!(reader.read(), ["presence 2"]);
    });
}

#[test]
fn a_list_is_not_made_for_a_client_without_room() {
    Stage::with(|stage| {
        let info = serde_json::Value::from("x".repeat(2 * QUEUE_BYTES));
        stage.enter(900, Identity::user("alice").info(info));
        let made = Arc::new(AtomicUsize::new(0));
        let mut reader = Reader::with(1, Arc::new(Counting(WebSocket::v1(), Arc::clone(&made))));
        reader.slot.cork();
        reader.slot.tell(&ServerEvent::Unsubscribed { id: None, topic: &stage.topic.name });
        assert_eq!(made.load(Ordering::Relaxed), 1);
        stage.watch(&reader);
        for _ in 0..5 {
            stage.run();
        }
        assert_eq!(made.load(Ordering::Relaxed), 1, "a list in vain");
        reader.slot.uncork(bytes::Bytes::new());
        reader.read();
        stage.run();
        assert_eq!((reader.read(), made.load(Ordering::Relaxed)), (vec!["presence 2".to_owned()], 2));
    });
}

#[test]
fn a_change_is_kept_only_until_each_client_has_been_told() {
    Stage::with(|stage| {
        let keeps = || stage.presence().0.lock().watchers.keeps_change();
        let mut reader = Reader::new(1);
        stage.watch(&reader);
        stage.run();
        reader.read();
        let told = stage.accounted();
        let info = serde_json::Value::from("x".repeat(5_000));
        stage.enter(900, Identity::user("alice").info(info.clone()));
        let entered = stage.accounted();
        // The client has no room: the answer before waits.
        reader.slot.cork();
        reader.slot.tell(&ServerEvent::Unsubscribed { id: None, topic: &stage.topic.name });
        stage.run();
        assert!(keeps() && stage.accounted() > entered + 4_900, "the change is in the account");
        reader.slot.uncork(bytes::Bytes::new());
        reader.read();
        stage.run();
        assert_eq!(reader.read(), ["joined 2"]);
        assert!(!keeps() && stage.accounted() <= entered, "{} after {entered}", stage.accounted());
        stage.leave(900);
        assert!(stage.accounted() > told + 5_000, "news of a user that left has the info");
        stage.run();
        assert!(!keeps());
        assert_eq!((reader.read(), stage.accounted()), (vec!["left 1".to_owned()], told));
    });
}

#[test]
fn a_step_that_crashes_leaves_no_client_without_a_list() {
    Stage::with(|stage| {
        let mut reader = Reader::new(1);
        stage.watch(&reader);
        let crash = || {
            let mut inner = stage.presence().0.lock();
            let Inner { watchers, members, .. } = &mut *inner;
            watchers.crash_in_step(members, &stage.topic.name, stage.topics);
        };
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(crash)).unwrap_err();
        stage.turn();
        stage.run();
        assert_eq!(reader.read(), ["presence 1"]);
    });
}

#[test]
fn an_ended_topic_leaves_the_list_at_once() {
    Stage::with_linger(Duration::from_secs(3_600), |stage| {
        stage.enter(900, Identity::user("alice"));
        stage.leave(900);
        let first = || stage.topics.presences.first().map(|(due, _)| due);
        assert!(first().is_some_and(|due| due > Instant::now() + Duration::from_secs(3_000)), "alice lingers");
        stage.topic.shut_down(&crate::delivery::SenderPool::default());
        stage.topic.end_presence(stage.topics);
        assert!(first().is_some_and(|due| due <= Instant::now()));
        stage.turn();
        assert_eq!(first(), None);
        // An unsubscribe may come after the end.
        stage.enter(901, Identity::user("bob"));
        stage.leave(901);
        stage.turn();
        assert_eq!(first(), None);
    });
}

#[test]
fn a_change_after_the_first_list_is_told_even_if_it_cancels_an_earlier_change() {
    Stage::with(|stage| {
        let mut early = Reader::new(1);
        stage.watch(&early);
        stage.enter(900, Identity::user("alice"));
        stage.run();
        early.read();
        // A round is under way, so that the next changes wait for the next round.
        let mut late = Reader::new(2);
        stage.presence().join(&stage.topic, &late.slot, Some(&Identity::user("late")), stage.topics);
        stage.run();
        early.read();
        stage.enter(901, Identity::user("bob"));
        stage.leave(900);
        {
            let mut inner = stage.presence().0.lock();
            let version = inner.members.version();
            inner.watchers.add(&late.slot, version);
            let Inner { members, watchers, .. } = &mut *inner;
            watchers.greet_all(members, &stage.topic.name);
        }
        assert_eq!(late.read(), ["presence 3"], "with bob, and without alice");
        stage.leave(901);
        stage.enter(902, Identity::user("alice"));
        stage.run();
        assert_eq!(late.read(), ["joined 3", "left 3"], "alice has come, and bob has left");
    });
}

#[test]
fn members_and_watching_clients_are_in_the_account_of_memory() {
    Stage::with(|stage| {
        let before = stage.accounted();
        let info = serde_json::Value::from("x".repeat(5_000));
        stage.enter(900, Identity::user("alice").info(info.clone()));
        let one = stage.accounted();
        assert!(one > before + 5_000, "{one} after {before}");
        stage.enter(901, Identity::user("alice").info(serde_json::Value::from("y".repeat(4_000))));
        assert!(stage.accounted() > one + 4_000, "the infos of both connections");
        stage.leave(900);
        stage.leave(901);
        let reader = Reader::new(1);
        stage.watch(&reader);
        stage.run();
        assert!(stage.accounted() > before);
        stage.leave(1);
        stage.run();
        assert_eq!(stage.accounted(), before);
    });
}

#[test]
fn an_ended_topic_gives_its_account_back() {
    Stage::with(|stage| {
        let before = stage.accounted();
        let name = TopicName::new("other", 255).unwrap();
        let topic = Arc::new(TopicState::new(name, 2, None, None, stage.topics));
        let slot = Reader::new(7).slot;
        let presence = topic.presence.as_ref().unwrap();
        presence.join(&topic, &slot, Some(&Identity::user("alice")), stage.topics);
        assert!(stage.accounted() > before);
        drop(topic);
        assert_eq!(stage.accounted(), before);
    });
}
