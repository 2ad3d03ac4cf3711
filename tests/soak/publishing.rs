//! The publishers of a topic.

use std::rc::Rc;
use std::time::Duration;

use janus_core::wire::classic::client::{ServerDecoder, ServerFrame};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::progress::{PUBLISHER, Topic};
use super::reading::connect;
use super::support::{DEADLINE, publish_frame};
use super::{Random, World};

/// Publishes up to `batch` messages at a time, at most once per `pace`, and waits for their receipts.
pub(super) async fn publish(
    world: Rc<World>,
    topic: Rc<Topic>,
    index: usize,
    batch: u64,
    pace: Duration,
    mut random: Random,
) {
    let publisher = &topic.publishers[index];
    let mut stream = connect(&world).await;
    let mut decoder = ServerDecoder::new();
    let mut buffer = vec![0; 16 * 1024];
    let mut last: Option<(String, u64)> = None;
    let mut turns = interval(pace);
    turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while !world.publishers_stop.get() {
        turns.tick().await;
        while topic.is_behind() {
            topic.caught_up.notified().await;
        }
        let mut frames = Vec::new();
        for _ in 0..=random.below(batch) {
            publisher.sent.set(publisher.sent.get() + 1);
            let data = index as u64 * PUBLISHER + publisher.sent.get();
            frames.extend(publish_frame(&topic.name, &data.to_string()));
        }
        stream.write_all(&frames).await.expect("a publisher stays connected");
        while publisher.answered.get() < publisher.sent.get() {
            let length = timeout(DEADLINE, stream.read(&mut buffer)).await.expect("answers come").unwrap();
            assert!(length > 0, "a publisher to {} was closed", topic.name);
            let mut input = &buffer[..length];
            while let Some(frame) = decoder.decode(&mut input) {
                match frame {
                    ServerFrame::Greeting { .. } => continue,
                    ServerFrame::Published { epoch, seq, subscribers, .. } => {
                        if let Some((last_epoch, last_seq)) = &last {
                            assert_eq!(*last_epoch, epoch, "{}: started afresh", topic.name);
                            assert!(*last_seq < seq, "{}: receipt {seq} after {last_seq}", topic.name);
                        }
                        assert!(subscribers >= topic.steady, "{}: {subscribers} subscribers", topic.name);
                        last = Some((epoch.into_owned(), seq));
                        topic.accepted.set(topic.accepted.get() + 1);
                        topic.last_seq.set(topic.last_seq.get().max(seq));
                    }
                    ServerFrame::Error { code, .. } if code == "topic_crashed" => {
                        publisher.refused.borrow_mut().insert(publisher.answered.get() + 1);
                        // No subscriber will get the refused message.
                        topic.delivered.set(topic.delivered.get() + topic.steady);
                    }
                    frame => panic!("{}: a publisher gets {frame:?}", topic.name),
                }
                publisher.answered.set(publisher.answered.get() + 1);
            }
        }
    }
}
