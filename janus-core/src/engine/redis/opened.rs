//! The topics whose records come over a link.

use std::collections::HashMap;
use std::time::Duration;

use super::keys::hash_of;
use crate::wire::TopicName;

/// A map grows in one step, and is let go of in one step. One map of 100,000 names would hold up the thread for 10 ms.
const SHELVES: usize = 256;

/// The topics with a subscribed channel, and how long the state of each topic is kept.
#[derive(Debug)]
pub(super) struct Opened {
    shelves: Vec<HashMap<TopicName, Duration>>,
}

impl Default for Opened {
    fn default() -> Self {
        Self { shelves: (0..SHELVES).map(|_| HashMap::new()).collect() }
    }
}

impl Opened {
    /// Notes a topic; returns whether the topic is new.
    pub(super) fn insert(&mut self, topic: &TopicName, state: Duration) -> bool {
        let shelf = self.shelves.get_mut(shelf_of(topic.as_str()));
        shelf.is_some_and(|shelf| shelf.insert(topic.clone(), state).is_none())
    }

    /// Forgets a topic; returns whether the topic was there.
    pub(super) fn remove(&mut self, topic: &TopicName) -> bool {
        let shelf = self.shelves.get_mut(shelf_of(topic.as_str()));
        shelf.is_some_and(|shelf| shelf.remove(topic).is_some())
    }

    /// The name of a topic, to be shared, and how long the state is kept.
    pub(super) fn get(&self, topic: &str) -> Option<(&TopicName, Duration)> {
        let (topic, state) = self.shelves.get(shelf_of(topic))?.get_key_value(topic)?;
        Some((topic, *state))
    }

    /// Forgets some of the topics, for ever. Returns whether there are more.
    pub(super) fn let_go(&mut self) -> bool {
        while self.shelves.pop().is_some_and(|shelf| shelf.is_empty()) {}
        !self.shelves.is_empty()
    }
}

fn shelf_of(topic: &str) -> usize {
    let hash = hash_of(topic);
    // The last letters of a name are the most different, and change the lower half of FNV-1a the most.
    (hash ^ (hash >> 16)) as usize % SHELVES
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATE: Duration = Duration::from_secs(1);

    fn topic(number: usize) -> TopicName {
        TopicName::new(&format!("topic {number}"), 255).unwrap()
    }

    #[test]
    fn a_topic_is_there_until_it_is_removed() {
        let mut opened = Opened::default();
        assert!(opened.insert(&topic(1), STATE / 2) && !opened.insert(&topic(1), STATE));
        assert_eq!(opened.get("topic 1"), Some((&topic(1), STATE)));
        assert_eq!(opened.get("topic 2"), None);
        assert!(opened.remove(&topic(1)) && !opened.remove(&topic(1)));
        assert_eq!(opened.get("topic 1"), None);
    }

    #[test]
    fn no_shelf_has_much_more_than_its_share() {
        let mut opened = Opened::default();
        (0..100_000).for_each(|number| assert!(opened.insert(&topic(number), STATE)));
        let largest = opened.shelves.iter().map(HashMap::len).max();
        assert!(largest.is_some_and(|largest| largest < 2 * 100_000 / SHELVES), "{largest:?}");
    }

    #[test]
    fn topics_are_let_go_of_in_parts() {
        let mut opened = Opened::default();
        (0..10_000).for_each(|number| assert!(opened.insert(&topic(number), STATE)));
        let mut left = vec![10_000];
        while opened.let_go() {
            left.push(opened.shelves.iter().map(HashMap::len).sum());
        }
        assert!(left.windows(2).all(|pair| pair[0] - pair[1] < 2 * 10_000 / SHELVES), "{left:?}");
        assert!(!opened.insert(&topic(1), STATE) && !opened.remove(&topic(1)) && opened.get("topic 1").is_none());
        assert!(!opened.let_go());
    }
}
