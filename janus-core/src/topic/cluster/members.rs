//! Requests about the members of topics on their way to the link, and questions without an answer yet.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use super::{Cluster, Shard};
use crate::engine::{Link, NodePresence, Request};
use crate::topic::{TopicState, Topics};
use crate::wire::TopicName;

/// Topics with a question without an answer. A question about a further topic is refused.
const MOST_QUESTIONS: usize = 1_024;

/// The bytes of words in an answer. An answer has the words of one node in any case, so the longest answers have as much
/// again; a link has a limit for these (`max_reply_bytes`).
const ANSWER_BYTES: usize = 4 * 1024 * 1024;

/// Topics whose change the other nodes are to be told of. The change of a further topic is found by the other nodes' own
/// rounds.
const MOST_CHANGED: usize = 4_096;

/// The request of a topic has the topic's number with this bit. An answer must not be taken for one to a later topic of the
/// same name, which does not know what the earlier topic knew.
const OF_TOPIC: u64 = 1 << 63;

/// A request to be made.
#[derive(Debug)]
pub(super) enum Presenting {
    /// Of a topic in use, at most once for each topic.
    Topic(Arc<TopicState>),
    /// The question with this number, for words newer than this version.
    Question(TopicName, u64, u64),
}

/// The requests that wait for the link of a server.
#[derive(Debug, Default)]
pub(super) struct Waiting(Mutex<VecDeque<Presenting>>);

/// The questions without an answer, of all servers: one for a topic, however many callers wait for the answer.
#[derive(Debug, Default)]
pub(super) struct Questions(Mutex<HashMap<TopicName, Question>>);

/// What all other nodes say, for all callers.
type Words = Arc<[NodePresence]>;

#[derive(Debug)]
struct Question {
    /// The number of the latest request.
    ask: u64,
    /// The link of the request, on which alone an answer comes.
    link: u64,
    asked: Instant,
    /// What the answers so far have said.
    words: Vec<NodePresence>,
    /// Held by each caller that waits.
    answer: watch::Sender<Option<Words>>,
}

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

impl Question {
    /// Adds a portion of the words. Nodes that are named no more have no members any more.
    fn add(&mut self, mut nodes: Vec<NodePresence>) {
        for node in nodes.iter_mut().filter(|node| node.members.is_none()) {
            let before = self.words.iter_mut().find(|before| before.node == node.node);
            node.members = before.and_then(|before| before.members.take());
        }
        (self.words, self.asked) = (nodes, Instant::now());
    }
}

/// A caller that waits. With the last of them the question ends.
struct Caller<'a> {
    questions: &'a Questions,
    topic: &'a TopicName,
    answer: Option<watch::Receiver<Option<Words>>>,
}

impl Drop for Caller<'_> {
    fn drop(&mut self) {
        let mut questions = self.questions.0.lock();
        // Under the lock, or two callers would each take the other for a further one.
        let Some(answer) = self.answer.take() else { return };
        let is_of = |question: &Question| question.answer.subscribe().same_channel(&answer);
        if questions.get(self.topic).is_some_and(|question| is_of(question) && question.answer.receiver_count() == 1) {
            questions.remove(self.topic);
        }
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
    /// questions would pile up, and if too many questions wait. Callers that ask about a topic at the same time share a
    /// question.
    pub(in crate::topic) async fn ask_for_members(&self, topic: &TopicName, limit: Duration) -> Option<Words> {
        let shard = &self.shards[self.shard_of(topic)];
        let link = Some(shard.link()).filter(|link| *link != 0)?;
        let mut caller = Caller { questions: &self.questions, topic, answer: None };
        {
            let mut questions = self.questions.0.lock();
            let count = questions.len();
            let mut is_new = false;
            let question = match questions.entry(topic.clone()) {
                Entry::Occupied(entry) => entry.into_mut(),
                Entry::Vacant(_) if count >= MOST_QUESTIONS => return None,
                Entry::Vacant(entry) => {
                    is_new = true;
                    let (answer, _) = watch::channel(None);
                    entry.insert(Question { ask: 0, link, asked: Instant::now(), words: Vec::new(), answer })
                }
            };
            caller.answer = Some(question.answer.subscribe());
            // A request on a link that has ended has no answer, and a request that the engine has refused has none either.
            if is_new || question.link != link || question.asked.elapsed() >= limit {
                (question.ask, question.link, question.asked) = (self.next_ask(), link, Instant::now());
                question.words.clear();
                self.put_question(topic, question.ask, 0);
            }
        }
        let answer = caller.answer.as_mut()?;
        let answered = timeout(limit, answer.wait_for(Option::is_some)).await.ok()?.ok()?;
        answered.clone()
    }

    fn put_question(&self, topic: &TopicName, ask: u64, known: u64) {
        let shard = &self.shards[self.shard_of(topic)];
        shard.presenting.0.lock().push_back(Presenting::Question(topic.clone(), ask, known));
        shard.task.call();
    }

    /// Whether a question still waits.
    fn is_asked(&self, topic: &TopicName, ask: u64) -> bool {
        self.questions.0.lock().get(topic).is_some_and(|question| question.ask == ask)
    }

    /// Hands a portion of an answer on, or asks for the next portion.
    fn answer_question(&self, topic: &TopicName, ask: u64, (version, is_whole): (u64, bool), nodes: Vec<NodePresence>) {
        let mut questions = self.questions.0.lock();
        let Some(question) = questions.get_mut(topic).filter(|question| question.ask == ask) else { return };
        question.add(nodes);
        if !is_whole {
            return self.put_question(topic, ask, version);
        }
        if let Some(question) = questions.remove(topic) {
            // The last caller may have gone.
            let _ = question.answer.send(Some(question.words.into()));
        }
    }

    /// Has the other nodes told that members of a topic have changed on this node.
    pub(super) fn members_changed(&self, topic: &TopicName) {
        self.changed.add(topic.clone());
        self.wake_exchange();
    }

    /// Takes the answer to a request, or to a question.
    pub(super) fn presented(
        &self,
        (name, ask): (&TopicName, u64),
        (version, is_whole): (u64, bool),
        nodes: Vec<NodePresence>,
        shared: &Topics,
    ) {
        if ask & OF_TOPIC == 0 {
            return self.answer_question(name, ask, (version, is_whole), nodes);
        }
        if let Some(topic) = shared.table.find(name.as_str())
            && topic.number == ask & !OF_TOPIC
            && let Some(presence) = &topic.presence
        {
            presence.hear(&topic, (version, is_whole), nodes, shared);
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
                    let (ask, topic, members) = (OF_TOPIC | topic.number, &topic.name, Some(&*asked.members));
                    let (known, valid, most) = (asked.known, asked.valid, ANSWER_BYTES);
                    link.request(Request::Presence { topic, ask, members, known, valid, most });
                }
            }
            // A question that has waited for too long for the link needs no answer.
            Presenting::Question(topic, ask, known) if cluster.is_asked(&topic, ask) => {
                let (members, valid, most) = (None, Duration::ZERO, ANSWER_BYTES);
                link.request(Request::Presence { topic: &topic, ask, members, known, valid, most });
            }
            Presenting::Question(..) => {}
        }
        true
    }
}
