//! The task of presence, and the topics with something to do: users whose linger ends, clients to be told, an engine to be
//! asked.
//!
//! A topic is listed once, under the moment of the topic's next work. The task sleeps until then, and does a portion for a
//! single topic at a time. The list outlives the task: a successor continues.

use std::collections::BTreeMap;
use std::future::pending;
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

    pub(super) fn first(&self) -> Option<(Instant, Arc<TopicState>)> {
        self.due.lock().first_key_value().map(|((due, _), topic)| (*due, Arc::clone(topic)))
    }
}

/// Topics that follow other settings, before topics with something to do have a turn.
const FOLLOWING: usize = 256;

/// Has a portion of the topics behind this number follow other settings. Returns the last of them; `None` if there are no
/// more.
fn follow(after: u64, shared: &Topics) -> Option<u64> {
    let topics = shared.table.portion(after, FOLLOWING);
    for topic in &topics {
        if let Some(presence) = &topic.presence {
            presence.follow(topic, shared);
        }
    }
    topics.last().map(|topic| topic.number)
}

/// Does what is due. For ever; asleep while no topic has anything to do.
pub(crate) async fn run(shared: Arc<Topics>) {
    let mut reloads = shared.reloads();
    // The last topic that has followed the settings in force; `None` if all have. A predecessor may have left some behind.
    let mut followed = Some(0);
    loop {
        if reloads.has_changed().unwrap_or(false) {
            reloads.mark_unchanged();
            followed = Some(0);
        }
        followed = followed.and_then(|followed| follow(followed, &shared));
        match shared.presences.first() {
            Some((due, topic)) if due <= Instant::now() => {
                if let Some(presence) = &topic.presence {
                    presence.turn(&topic, &shared);
                }
            }
            _ if followed.is_some() => {}
            next => {
                let due = async {
                    match next {
                        Some((due, _)) => sleep_until(due).await,
                        None => pending().await,
                    }
                };
                tokio::select! {
                    () = due => {}
                    () = shared.presences.changed.notified() => {}
                    // Without further reloads the instance is at its end.
                    Ok(()) = reloads.changed() => followed = Some(0),
                }
            }
        }
        yield_now().await;
    }
}
