//! The ends of all topics, for an instance that continues their numbers.
//!
//! An instance that ends in order leaves the epoch and the last number of each topic behind. The next instance lays these
//! topics asleep, so that the first subscribe or publish continues the numbers. A client whose position is the end of its
//! topic then resumes exactly, even if messages have come before the client. Messages are not handed over: a client with
//! an earlier position is told that messages are missing.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::sequence::{Sequence, Start};
use super::shared::Topics;
use super::state::TopicState;
use crate::wire::{Epoch, Position, TopicName};

/// What an instance leaves to its successor: the epoch and the last number of each topic.
///
/// [`Janus::handover`](crate::Janus::handover) gives the value after a shutdown, and
/// [`Builder::continue_from`](crate::Builder::continue_from) takes it. In between the value may be stored in any format of
/// serde; JSON takes some 60 bytes for a topic.
///
/// **Use a handover once, and only the last.** Two instances that continue the same topics give the same number to two
/// messages, and a client that resumes at the second instance would miss messages without a word. So remove a stored
/// handover before the instance that continues from it starts, and write none after a crash.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Handover {
    /// All passes of the earlier instance have lower numbers, or this number stands for a pass without an end.
    passes: u64,
    topics: Vec<TopicEnd>,
}

/// The name, the epoch, the number of the last message, the number of the last pass, the last position of the previous
/// epoch, and whether messages have gone to a client that conflates. Without the names of the fields, which would take more room than their values.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct TopicEnd(String, Epoch, u64, u64, Option<(Epoch, u64)>, bool);

impl Handover {
    /// The number of topics.
    #[must_use]
    pub fn len(&self) -> usize {
        self.topics.len()
    }

    /// Whether no topic is handed over.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.topics.is_empty()
    }

    /// The ends of all topics, once no message can be numbered any more. `before` are topics of a moment before, which
    /// may have ended as unused since.
    pub(crate) fn of(topics: &Topics, before: &[Arc<TopicState>]) -> Self {
        // Greater than the horizon of any client.
        let passes = topics.pass_numbers.last() + 1;
        let ends = topics.table.ends(before, |sequence| end_of(sequence, passes));
        let ends = ends.into_iter().map(|(name, start)| TopicEnd::new(&name, start));
        Self { passes, topics: ends.collect() }
    }

    /// Lays the topics asleep in a new instance, up to `max_topics` of them.
    pub(crate) fn lay_asleep(self, topics: &Topics) {
        topics.pass_numbers.continue_after(self.passes);
        let (config, passes) = (topics.config(), self.passes);
        for end in self.topics.into_iter().take(config.max_topics) {
            if let Some((name, start)) = end.start(config.max_topic_bytes, passes) {
                topics.table.lay_asleep(name, start, topics);
            }
        }
    }
}

/// Where a topic continues; `None` if the numbers do not add up, after a crash.
fn end_of(sequence: &Sequence, passes: u64) -> Option<Start> {
    let start = sequence.start();
    // A numbered message without a complete pass lies beyond every horizon.
    let is_whole = sequence.is_handed_out();
    let latest = if is_whole { start.latest } else { passes };
    sequence.check().then_some(Start { latest, ..start })
}

impl TopicEnd {
    fn new(name: &TopicName, Start { epoch, earlier, next_seq, latest, conflated }: Start) -> Self {
        let earlier = earlier.map(|Position { epoch, seq }| (epoch, seq));
        Self(name.as_str().to_owned(), epoch, next_seq - 1, latest, earlier, conflated)
    }

    /// `None` for values that no instance has written.
    fn start(self, max_topic_bytes: usize, passes: u64) -> Option<(TopicName, Start)> {
        let Self(name, epoch, seq, latest, earlier, conflated) = self;
        let name = TopicName::new(&name, max_topic_bytes).ok()?;
        let earlier = earlier.map(|(epoch, seq)| Position { epoch, seq });
        let is_valid = epoch != Epoch::NONE && latest <= passes;
        let start = Start { epoch, earlier, next_seq: seq.checked_add(1)?, latest, conflated };
        is_valid.then_some((name, start))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::ground::clock::Tick;
    use crate::topic::sequence::tests::{hand_out, number, seal};
    use crate::topic::shared::tests::with_topics;
    use crate::topic::{Beginning, TopicError};

    fn name(name: &str) -> TopicName {
        TopicName::new(name, 255).unwrap()
    }

    /// Hands over from topics changed by `prepare` to new topics, by way of JSON, and calls `test` with these.
    fn hand_over<T>(prepare: impl FnOnce(&Arc<Topics>) -> T, test: impl FnOnce(&Arc<Topics>, T)) {
        let mut prepared = None;
        with_topics(Config::default(), |topics| {
            let known = prepare(topics);
            prepared = Some((known, serde_json::to_string(&Handover::of(topics, &[])).unwrap()));
        });
        let (known, text) = prepared.unwrap();
        with_topics(Config::default(), |topics| {
            serde_json::from_str::<Handover>(&text).unwrap().lay_asleep(topics);
            test(topics, known);
        });
    }

    /// A topic that has handed out this many messages.
    fn used(topics: &Topics, topic: &str, messages: usize) -> (Position, u64) {
        let topic = topics.open_topic(&name(topic), None).unwrap();
        let mut core = topic.core.lock();
        let pass = hand_out(&mut core.sequence, &topics.pass_numbers, messages);
        (core.sequence.position(), pass)
    }

    /// How many messages a client has missed that comes back from there; `None` if the client cannot resume.
    fn missed(topics: &Topics, topic: &str, since: Beginning) -> Result<Option<u64>, TopicError> {
        let topic = topics.open_topic(&name(topic), None)?;
        Ok(topic.entry(since, Tick::new(1))?.missed)
    }

    #[test]
    fn the_numbers_of_a_topic_continue_and_messages_before_are_gone() {
        let prepare = |topics: &Arc<Topics>| used(topics, "news", 3).0;
        hand_over(prepare, |topics, last| {
            assert_eq!(topics.table.count(), (0, 1), "asleep, without an actor");
            let topic = topics.find_or_wake(&name("news"), None).unwrap();
            let earlier = Position { seq: 2, ..last };
            number(&mut topic.core.lock().sequence, 2);
            assert_eq!(topic.core.lock().sequence.position(), Position { seq: 5, ..last });
            assert_eq!(missed(topics, "news", Beginning::Position(last)), Ok(Some(2)));
            assert_eq!(
                missed(topics, "news", Beginning::Position(earlier)),
                Ok(None),
                "the message is lost, and told so"
            );
        });
    }

    #[test]
    fn a_stream_continues_after_a_horizon_of_the_earlier_instance() {
        let prepare = |topics: &Arc<Topics>| (used(topics, "news", 3).1, used(topics, "quotes", 2).1);
        hand_over(prepare, |topics, (news, quotes)| {
            assert_eq!(missed(topics, "news", Beginning::Pass(news)), Ok(Some(0)));
            assert_eq!(missed(topics, "quotes", Beginning::Pass(news)), Ok(None), "a message of quotes came later");
            assert_eq!(missed(topics, "quotes", Beginning::Pass(quotes)), Ok(Some(0)));
            let topic = topics.find_or_wake(&name("news"), None).unwrap();
            let pass = hand_out(&mut topic.core.lock().sequence, &topics.pass_numbers, 1);
            assert!(pass > quotes, "passes have new numbers");
            assert_eq!(missed(topics, "news", Beginning::Pass(quotes)), Ok(Some(1)));
        });
    }

    #[test]
    fn a_topic_remembers_that_a_client_has_conflated_its_messages() {
        let prepare = |topics: &Arc<Topics>| {
            let [_, conflated] = ["news", "quotes"].map(|topic| topics.open_topic(&name(topic), None).unwrap());
            conflated.core.lock().sequence.note_conflated();
        };
        hand_over(prepare, |topics, ()| {
            let conflated = ["news", "quotes"].map(|topic| {
                let topic = topics.find_or_wake(&name(topic), None).unwrap();
                topic.has_conflated()
            });
            assert_eq!(conflated, [false, true]);
        });
    }

    #[test]
    fn a_message_that_was_not_handed_out_is_beyond_every_horizon() {
        let prepare = |topics: &Arc<Topics>| {
            let horizon = used(topics, "news", 3).1;
            let topic = topics.open_topic(&name("news"), None).unwrap();
            let mut core = topic.core.lock();
            number(&mut core.sequence, 1);
            seal(&mut core.sequence);
            horizon
        };
        hand_over(prepare, |topics, horizon| {
            assert_eq!(missed(topics, "news", Beginning::Pass(horizon)), Ok(None));
        });
    }

    #[test]
    fn a_topic_that_ended_in_the_meantime_is_handed_over() {
        with_topics(Config::default(), |topics| {
            let (last, _) = used(topics, "news", 3);
            let before = topics.table.all();
            topics.table.remove(&before[0]);
            assert_eq!(Handover::of(topics, &[]).len(), 0);
            let handover = Handover::of(topics, &before);
            assert_eq!(handover.topics[0], TopicEnd("news".to_owned(), last.epoch, 3, 2, None, false));
            // Clients know the topic of the same name that has begun afresh.
            let (afresh, _) = used(topics, "news", 1);
            assert_eq!(Handover::of(topics, &before).topics[0].1, afresh.epoch);
        });
    }

    #[test]
    fn no_more_than_max_topics_and_no_invalid_values_are_taken_over() {
        let epoch = Epoch::new(7);
        let end = |name: &str, epoch, seq, pass| TopicEnd(name.to_owned(), epoch, seq, pass, None, false);
        let topics = vec![
            end("", epoch, 1, 1),
            end("none", Epoch::NONE, 1, 1),
            end("endless", epoch, u64::MAX, 1),
            end("late", epoch, 1, 9),
            end("a", epoch, 1, 1),
            end("b", epoch, 1, 1),
        ];
        let handover = Handover { passes: 8, topics };
        assert_eq!((handover.len(), handover.is_empty()), (6, false));
        for (max_topics, asleep) in [(100, 2), (5, 1)] {
            with_topics(Config { max_topics, ..Config::default() }, |topics| {
                handover.clone().lay_asleep(topics);
                assert_eq!(topics.table.count(), (0, asleep));
            });
        }
    }
}
