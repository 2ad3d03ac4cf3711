//! Requests about the members of topics on their way to the link, and questions without an answer yet.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::{Cluster, Shard};
use crate::engine::{Link, NodePresence, Request};
use crate::topic::{TopicState, Topics};
use crate::wire::TopicName;

/// Questions without an answer. A further question is refused.
const MOST_QUESTIONS: usize = 1_024;

/// Topics whose change the other nodes are to be told of. The change of a further topic is found by the other nodes' own
/// rounds.
const MOST_CHANGED: usize = 4_096;

/// The number of a topic's own request.
pub(super) const OF_TOPIC: u64 = 0;

/// A request to be made.
#[derive(Debug)]
pub(super) enum Presenting {
    /// Of a topic in use, at most once for each topic.
    Topic(Arc<TopicState>),
    /// A question with this number.
    Question(TopicName, u64),
}

/// The requests that wait for the link of a server.
#[derive(Debug, Default)]
pub(super) struct Waiting(Mutex<VecDeque<Presenting>>);

/// The questions without an answer, of all servers.
#[derive(Debug, Default)]
pub(super) struct Questions(Mutex<HashMap<u64, oneshot::Sender<Vec<NodePresence>>>>);

/// Topics whose members have changed on this node.
#[derive(Debug, Default)]
pub(super) struct Changed(Mutex<Vec<TopicName>>);

impl Changed {
    fn add(&self, topic: TopicName) {
        let mut topics = self.0.lock();
        if topics.len() < MOST_CHANGED && !topics.contains(&topic) {
            topics.push(topic);
        }
    }

    /// Takes at most this many.
    pub(super) fn take(&self, most: usize) -> Vec<TopicName> {
        let mut topics = self.0.lock();
        let rest = topics.len().saturating_sub(most);
        topics.split_off(rest)
    }
}

impl Questions {
    fn answer(&self, ask: u64, nodes: Vec<NodePresence>) {
        if let Some(question) = self.0.lock().remove(&ask) {
            // The client may have gone.
            let _ = question.send(nodes);
        }
    }
}

/// Takes a question back when the wait ends, in whatever way.
struct Question<'a> {
    questions: &'a Questions,
    ask: u64,
}

impl Drop for Question<'_> {
    fn drop(&mut self) {
        self.questions.0.lock().remove(&self.ask);
    }
}

impl Cluster {
    /// Has the task of the link make the request of a topic.
    pub(in crate::topic) fn present(&self, topic: &Arc<TopicState>) {
        let shard = self.shard(topic);
        shard.presenting.0.lock().push_back(Presenting::Topic(Arc::clone(topic)));
        shard.task.call();
    }

    /// What the other nodes say of their members of a topic; `None` without an answer in time, without a link, on which
    /// questions would pile up, and if too many questions wait.
    pub(in crate::topic) async fn ask_for_members(
        &self,
        topic: &TopicName,
        limit: Duration,
    ) -> Option<Vec<NodePresence>> {
        let shard = &self.shards[self.shard_of(topic)];
        if shard.link.load(Ordering::Acquire) == 0 {
            return None;
        }
        let (ask, (sender, receiver)) = (self.next_ask(), oneshot::channel());
        {
            let mut questions = self.questions.0.lock();
            if questions.len() >= MOST_QUESTIONS {
                return None;
            }
            questions.insert(ask, sender);
        }
        let _question = Question { questions: &self.questions, ask };
        shard.presenting.0.lock().push_back(Presenting::Question(topic.clone(), ask));
        shard.task.call();
        timeout(limit, receiver).await.ok()?.ok()
    }

    /// Whether a question still waits.
    fn is_asked(&self, ask: u64) -> bool {
        self.questions.0.lock().contains_key(&ask)
    }

    /// Takes the answer to a request.
    pub(super) fn presented(
        &self,
        (name, ask): (&TopicName, u64),
        (version, is_changed): (u64, bool),
        nodes: Vec<NodePresence>,
        shared: &Topics,
    ) {
        if ask != OF_TOPIC {
            return self.questions.answer(ask, nodes);
        }
        if is_changed {
            self.changed.add(name.clone());
            self.wake_exchange();
        }
        if let Some(topic) = shared.table.find(name.as_str())
            && let Some(presence) = &topic.presence
        {
            presence.hear(&topic, version, nodes, shared);
        }
    }
}

impl Shard {
    /// Makes the next request about members. Returns whether there was any.
    pub(super) fn present_next(&self, link: &mut dyn Link, cluster: &Cluster, shared: &Topics) -> bool {
        let Some(presenting) = self.presenting.0.lock().pop_front() else { return false };
        match presenting {
            Presenting::Topic(topic) => {
                let asked = topic.presence.as_ref().and_then(|presence| presence.take_request(&topic, shared));
                if let Some(asked) = asked {
                    let (topic, members) = (&topic.name, Some(&*asked.members));
                    let (known, valid) = (asked.known, asked.valid);
                    link.request(Request::Presence { topic, ask: OF_TOPIC, members, known, valid });
                }
            }
            // A question that has waited for too long for the link needs no answer.
            Presenting::Question(topic, ask) if cluster.is_asked(ask) => {
                let (members, known, valid) = (None, 0, Duration::ZERO);
                link.request(Request::Presence { topic: &topic, ask, members, known, valid });
            }
            Presenting::Question(..) => {}
        }
        true
    }
}
