//! Reading the history of a topic: by the program, the HTTP API, and clients.

use std::sync::Arc;

use serde::ser::SerializeSeq as _;
use serde::{Serialize, Serializer};

use super::cluster::Want;
use super::subscriber::{Delivery, MessageJson};
use super::{Excerpt, Hold, TopicError, TopicState, Topics};
use crate::accounts::Account;
use crate::wire::{Epoch, ErrorCode, HistoryQuery, Position, TopicName};

/// Messages of a topic whose namespace keeps history.
///
/// Serde writes the answer of the HTTP API without its key `topic`: `epoch` and `seq` of the position, `complete`, `more`, and
/// the messages like a [`Delivery`] without its topic.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # use janus_core::{Config, Janus, Namespace};
/// # let default_namespace = Namespace { history: true, ..Namespace::default() };
/// # let config = Config { listen: Vec::new(), http_listen: Vec::new(), default_namespace, ..Config::default() };
/// # let janus = Janus::builder().config(config).start().await?;
/// let epoch = janus.publish("news", "hello").await?.epoch;
/// let history = janus.history("news", None, 100).await?;
/// let time = history.messages[0].timestamp.unix_millis();
/// let json = format!(
///     r#"{{"epoch":"{epoch}","seq":1,"complete":true,"more":false,"top":1,"messages":[{{"seq":1,"time":{time},"event":"","message_id":"","data":"hello"}}]}}"#
/// );
/// assert_eq!(serde_json::to_string(&history)?, json);
/// # janus.shutdown().await;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct History {
    /// The end of these messages: a request or a subscription since this position continues right after them. With the newest
    /// first, a request since this position continues before them. The epoch is [`Epoch::NONE`] and the number 0 if the topic
    /// does not exist.
    #[serde(flatten)]
    pub position: Position,
    /// False if messages after the requested position are no longer there, or if this position belongs to another life
    /// of the topic; then `messages` begin with the first kept message. Independent of the limit.
    pub complete: bool,
    /// Whether a limit has cut further messages off: those that follow in the direction of the request, or those before the
    /// latest messages if the request has no position.
    pub more: bool,
    /// The number of the topic's latest message, listed or not; 0 without any.
    pub top: u64,
    /// In the order of their numbers, or the newest first if the request says so.
    #[serde(serialize_with = "without_topics")]
    pub messages: Vec<Delivery>,
}

fn without_topics<S: Serializer>(messages: &[Delivery], serializer: S) -> Result<S::Ok, S::Error> {
    let mut sequence = serializer.serialize_seq(Some(messages.len()))?;
    for message in messages {
        sequence.serialize_element(&MessageJson::of(message, None)?)?;
    }
    sequence.end()
}

/// Why a request for history failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HistoryError {
    /// The topic's namespace keeps no history; set `history` for the namespace.
    #[error("the namespace of this topic keeps no history")]
    NotKept,
    /// The topic's name is not allowed: the caller's mistake.
    #[error("{0}")]
    Invalid(String),
    /// The cluster's engine is away, and this node does not have the topic's messages.
    #[error("the cluster's engine cannot be reached; try again in a moment, or at another server")]
    EngineUnavailable,
    /// The topic would have to be made on this node of a cluster, and there are `max_topics` topics already.
    #[error("the topic limit (max_topics) is reached")]
    TooManyTopics,
}

impl HistoryError {
    /// The code for clients.
    #[must_use]
    pub const fn code(&self) -> ErrorCode {
        match self {
            Self::NotKept => ErrorCode::NoHistory,
            Self::Invalid(_) => ErrorCode::BadTopic,
            Self::EngineUnavailable => ErrorCode::EngineUnavailable,
            Self::TooManyTopics => ErrorCode::TooManyTopicsOnServer,
        }
    }
}

impl Topics {
    /// Reads a part of the history of the topic with this name.
    pub(crate) async fn read_history(&self, topic: &str, query: HistoryQuery) -> Result<History, HistoryError> {
        let name = TopicName::new(topic, self.config().max_topic_bytes)
            .map_err(|error| HistoryError::Invalid(error.to_string()))?;
        match self.history_at_hand(&name, query, None)? {
            Some(history) => Ok(history),
            None => self.history_of_cluster(&name, query, None).await,
        }
    }

    /// Reads a part of a history without waiting; `None` if the cluster's engine has to be asked. A topic that sleeps is woken
    /// for the account `by`.
    pub(crate) fn history_at_hand(
        &self,
        name: &TopicName,
        query: HistoryQuery,
        by: Option<&Arc<Account>>,
    ) -> Result<Option<History>, HistoryError> {
        if !self.config().namespace(name.as_str()).history {
            return Err(HistoryError::NotKept);
        }
        if self.cluster_of(name).is_some() {
            return Ok(None);
        }
        Ok(Some(self.excerpt(name, self.find_or_wake(name, by), query)))
    }

    /// Reads a part of the history of a cluster's topic, once the engine has given all messages that the engine keeps.
    pub(crate) async fn history_of_cluster(
        &self,
        name: &TopicName,
        query: HistoryQuery,
        by: Option<&Arc<Account>>,
    ) -> Result<History, HistoryError> {
        let topic = self.with_history(name, by).await?;
        Ok(self.excerpt(name, Some(topic), query))
    }

    fn excerpt(&self, name: &TopicName, topic: Option<Arc<TopicState>>, query: HistoryQuery) -> History {
        match topic.and_then(|topic| topic.history(query, self)) {
            Some(excerpt) => History::of(name, excerpt, query),
            None => {
                let position = Position { epoch: Epoch::NONE, seq: 0 };
                let complete = query.since.and_then(|since| since.position()).is_none_or(|since| since == position);
                History { position, complete, more: false, top: 0, messages: Vec::new() }
            }
        }
    }

    async fn with_history(&self, name: &TopicName, by: Option<&Arc<Account>>) -> Result<Arc<TopicState>, HistoryError> {
        loop {
            let topic = self.open_topic(name, by).map_err(|_| HistoryError::TooManyTopics)?;
            let hold = Hold::new(&topic);
            let limit = self.config().engine_timeout;
            match tokio::time::timeout(limit, topic.prepare(Want::History, self)).await {
                Ok(Ok(())) => {}
                Ok(Err(TopicError::Ended)) if !self.is_draining() => {
                    self.table.remove(&topic);
                    continue;
                }
                Ok(Err(_)) | Err(_) => return Err(HistoryError::EngineUnavailable),
            }
            drop(hold);
            return Ok(topic);
        }
    }
}

impl History {
    /// The messages of an excerpt, as far as the query has room for their bytes.
    fn of(name: &TopicName, excerpt: Excerpt, query: HistoryQuery) -> Self {
        let Excerpt { mut position, top, complete, mut more, messages } = excerpt;
        let total = messages.iter().map(|(_, seqs)| seqs.end - seqs.start).sum::<u64>();
        let mut room = Some(query.max_bytes);
        let mut is_first = true;
        let fits = |message: &Delivery| {
            room = room.and_then(|room| room.checked_sub(message.text_bytes()));
            std::mem::take(&mut is_first) || room.is_some()
        };
        let numbers = messages.iter().flat_map(|(batch, seqs)| seqs.clone().map(move |seq| (batch, seq)));
        let all = numbers.map(|(batch, seq)| Delivery::new(name, batch, seq));
        let is_latest = !query.reverse && query.since.is_none();
        let mut messages: Vec<_> = if query.reverse || is_latest {
            all.rev().take_while(fits).collect()
        } else {
            all.take_while(fits).collect()
        };
        let is_cut = (messages.len() as u64) < total;
        if is_latest {
            messages.reverse();
            more |= is_cut;
        } else if let Some(last) = messages.last()
            && is_cut
        {
            (position, more) = (last.position, true);
        }
        Self { position, complete, more, top, messages }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;
    use crate::config::{Config, Namespace};
    use crate::topic::shared::tests::with_topics;
    use crate::topic::subscriber::tests::publish;
    use crate::wire::Since;

    #[test]
    fn history_is_read_a_portion_at_a_time() {
        with_topics(kept(), |topics| {
            let nothing = read(topics, HistoryQuery::latest(10)).unwrap();
            assert_eq!((nothing.position.seq, nothing.complete, nothing.messages.len()), (0, true, 0));
            publish(topics, 5);
            let read = |query| read(topics, query).unwrap();
            let latest = read(HistoryQuery::latest(2));
            assert_eq!((seqs(&latest), latest.complete, latest.more, latest.top), (vec![4, 5], true, true, 5));
            let all = read(HistoryQuery::latest(5));
            assert_eq!((all.messages.len(), all.position, all.more), (5, latest.position, false));
            let first = read(HistoryQuery::latest(3).since(Position { seq: 0, ..latest.position }));
            assert_eq!((seqs(&first), first.complete, first.more, first.top), (vec![1, 2, 3], true, true, 5));
            assert_eq!(seqs(&read(HistoryQuery::latest(3).since(first.position))), [4, 5]);
            assert_eq!(seqs(&read(HistoryQuery::latest(3).since(Since::Start))), [1, 2, 3]);
            assert_eq!(seqs(&read(HistoryQuery::latest(3).since(Since::Last))), [5]);
            let none = read(HistoryQuery::latest(0));
            assert_eq!((seqs(&none), none.top, none.position.seq), (vec![], 5, 5));
        });
    }

    #[test]
    fn a_namespace_without_history_says_so() {
        with_topics(Config::default(), |topics| {
            assert_eq!(read(topics, HistoryQuery::latest(1)), Err(HistoryError::NotKept));
        });
    }

    #[test]
    fn history_is_read_backwards_a_portion_at_a_time() {
        with_topics(kept(), |topics| {
            publish(topics, 5);
            let read = |query| read(topics, query).unwrap();
            let newest = read(HistoryQuery::latest(2).reversed());
            assert_eq!((seqs(&newest), newest.complete, newest.more, newest.top), (vec![5, 4], true, true, 5));
            let next = read(HistoryQuery::latest(2).reversed().since(newest.position));
            assert_eq!((seqs(&next), next.more), (vec![3, 2], true));
            let last = read(HistoryQuery::latest(2).reversed().since(next.position));
            assert_eq!((seqs(&last), last.complete, last.more), (vec![1], true, false));
            assert_eq!(seqs(&read(HistoryQuery::latest(2).reversed().since(last.position))), [0; 0]);
            assert_eq!(seqs(&read(HistoryQuery::latest(2).reversed().since(Since::Start))), [0; 0]);
            let foreign = Position { epoch: Epoch::new(7), seq: 2 };
            let foreign = read(HistoryQuery::latest(2).reversed().since(foreign));
            assert_eq!((seqs(&foreign), foreign.complete), (vec![5, 4], false));
        });
    }

    #[test]
    fn an_answer_within_few_bytes_ends_earlier_and_says_so() {
        with_topics(kept(), |topics| {
            publish(topics, 5);
            let length = read(topics, HistoryQuery::latest(1)).unwrap().messages[0].text_bytes();
            let read = |query: HistoryQuery, messages| read(topics, query.within(9, messages * length)).unwrap();
            let first = read(HistoryQuery::latest(5).since(Since::Start), 2);
            assert_eq!((seqs(&first), first.more, first.position.seq), (vec![1, 2], true, 2));
            let latest = read(HistoryQuery::latest(5), 2);
            assert_eq!((seqs(&latest), latest.more, latest.position.seq), (vec![4, 5], true, 5));
            assert!(!read(HistoryQuery::latest(5), 5).more);
            let newest = read(HistoryQuery::latest(5).reversed(), 2);
            assert_eq!((seqs(&newest), newest.more, newest.position.seq), (vec![5, 4], true, 4));
            assert_eq!(seqs(&read(HistoryQuery::latest(5).since(Since::Start), 0)), [1], "however long");
        });
    }

    fn kept() -> Config {
        Config { default_namespace: Namespace { history: true, ..Namespace::default() }, ..Config::default() }
    }

    fn read(topics: &Topics, query: HistoryQuery) -> Result<History, HistoryError> {
        topics.read_history("news", query).now_or_never().expect("there is no engine to ask")
    }

    fn seqs(history: &History) -> Vec<u64> {
        history.messages.iter().map(Delivery::seq).collect()
    }
}
