//! The task of presence, and the topics with something to do: users whose linger ends, clients to be told, an engine to be
//! asked.
//!
//! A topic is listed once, under the moment of the topic's next work. The task sleeps until then, and does a portion for a
//! single topic at a time. The list outlives the task: a successor continues.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::task::yield_now;
use tokio::time::{Instant, sleep_until};

use crate::topic::{TopicState, Topics};

/// See the module's documentation. At most `max_topics` entries, and some topics that have just ended.
#[derive(Debug, Default)]
pub(crate) struct Presences {
    /// By moment and by the number of the topic.
    due: Mutex<BTreeMap<(Instant, u64), Arc<TopicState>>>,
    /// Tells the task of an earlier moment.
    changed: Notify,
}

impl Presences {
    /// Moves a topic from one moment to another.
    pub(super) fn relist(&self, before: Option<Instant>, due: Option<Instant>, topic: &Arc<TopicState>) {
        let mut list = self.due.lock();
        let listed = before.and_then(|before| list.remove(&(before, topic.number)));
        let is_first = due.is_some_and(|due| {
            let key = (due, topic.number);
            list.insert(key, Arc::clone(topic));
            list.first_key_value().is_some_and(|(first, _)| *first == key)
        });
        drop(list);
        drop(listed);
        if is_first {
            self.changed.notify_one();
        }
    }

    /// The settings have changed: each topic looks anew when it has something to do.
    fn look_anew(&self) {
        let topics: Vec<_> = self.due.lock().values().cloned().collect();
        for topic in topics {
            if let Some(presence) = &topic.presence {
                presence.look_anew(&topic, self);
            }
        }
    }

    fn first(&self) -> Option<(Instant, Arc<TopicState>)> {
        self.due.lock().first_key_value().map(|((due, _), topic)| (*due, Arc::clone(topic)))
    }
}

/// Does what is due. For ever; asleep while no topic has anything to do.
pub(crate) async fn run(shared: Arc<Topics>) {
    let mut reloads = shared.reloads();
    loop {
        if reloads.has_changed().unwrap_or(false) {
            reloads.mark_unchanged();
            shared.presences.look_anew();
        }
        let Some((due, topic)) = shared.presences.first() else {
            shared.presences.changed.notified().await;
            continue;
        };
        if due > Instant::now() {
            tokio::select! {
                () = sleep_until(due) => {}
                () = shared.presences.changed.notified() => {}
                // Without further reloads the instance is at its end.
                Ok(()) = reloads.changed() => shared.presences.look_anew(),
            }
            continue;
        }
        if let Some(presence) = &topic.presence {
            presence.turn(&topic, &shared);
        }
        yield_now().await;
    }
}
