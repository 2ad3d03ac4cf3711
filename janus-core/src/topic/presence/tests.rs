//! The rounds of a topic, step by step: the frames of each client, and the clients without room.

use std::future::poll_fn;
use std::task::Poll;

use futures_util::FutureExt as _;
use tokio::io::{AsyncReadExt as _, DuplexStream};
use tokio::task::unconstrained;

use super::*;
use crate::delivery::Terms;
use crate::delivery::stream::Stream;
use crate::topic::shared::tests::with_topics;
use crate::wire::{Codec, Peer, WebSocket};

/// A client whose queue is written by the test alone.
struct Reader {
    slot: Arc<Slot>,
    stream: DuplexStream,
}

/// A quarter of this is for frames that are no messages.
const QUEUE_BYTES: usize = 4 * 1_024;

impl Reader {
    fn new(id: u64) -> Self {
        let terms = Terms::in_tests(usize::MAX, QUEUE_BYTES);
        let codec = terms.codecs.register(&(Arc::new(WebSocket::v1()) as Arc<dyn Codec>)).unwrap();
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
        let config = Config {
            default_namespace: crate::config::Namespace { presence: Mode::Members, ..Default::default() },
            presence_interval: Duration::ZERO,
            presence_linger: Duration::ZERO,
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
        self.presence().watch(&self.topic.name, &reader.slot);
    }

    /// Another user joins, and all clients are told.
    fn join(&mut self) -> u64 {
        self.last += 1;
        let user = Identity::user(format!("user {}", self.last));
        self.presence().join(&self.topic, &Reader::new(self.last).slot, Some(&user), self.topics);
        self.run();
        self.last
    }

    fn run(&self) {
        self.presence().turn(&self.topic, self.topics);
        while self.presence().0.lock().round.is_some() {
            self.presence().turn(&self.topic, self.topics);
        }
    }
}

#[test]
fn each_change_is_told_once_and_a_newcomer_is_not_told_what_the_list_has() {
    Stage::with(|mut stage| {
        let mut first = Reader::new(1);
        stage.watch(&first);
        stage.join();
        stage.join();
        assert_eq!(first.read(), ["presence 1", "joined 2", "joined 3"]);
        let mut second = Reader::new(2);
        stage.watch(&second);
        stage.run();
        assert_eq!(
            (first.read(), second.read()),
            (vec!["joined 4".to_owned()], vec!["presence 4".to_owned(), "joined 4".to_owned()])
        );
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
        let info = format!("\"{}\"", "x".repeat(Config::default().max_presence_member_bytes));
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
            stage.presence().turn(&stage.topic, stage.topics);
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
