//! The lists of topics and of connections: pages in an order and with filters of the client's choice.
//!
//! The functions here block, for as long as a look at all topics or connections takes, and run on a thread of their own.
//! Besides the entries of the answer, they keep none.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use janus_core::wire::{HttpError, TopicName};
use janus_core::{ConnectionInfo, ConnectionOrder, ConnectionQuery, Janus, PeerFilter, TopicInfo};
use serde::Serialize;

use super::query::Query;
use super::routes::{DEFAULT_LIMIT, MAX_ANSWER_BYTES, MAX_LIMIT, bad_request, digits, to_json};
use crate::live::Known;

/// Topics looked up at once.
const PORTION: usize = 1_024;

/// Maximum digits of a connection's number in a query; the numbers are below 2^53.
const CONNECTION_DIGITS: usize = 16;

/// A list of topics.
#[derive(Clone, Debug)]
pub(super) struct TopicsView {
    prefix: String,
    sort: TopicSort,
    after: String,
    limit: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum TopicSort {
    Name,
    Subscribers,
    Rate,
    InFlight,
}

impl TopicsView {
    pub(super) fn of(query: &str) -> Result<Self, HttpError> {
        let query = Query::of(query, &["limit", "after", "prefix", "sort"])?;
        let sorts = [
            ("name", TopicSort::Name),
            ("subscribers", TopicSort::Subscribers),
            ("rate", TopicSort::Rate),
            ("in_flight", TopicSort::InFlight),
        ];
        let sort = query.one_of("sort", &sorts)?.unwrap_or(TopicSort::Name);
        let after = query.text("after");
        no_after(after, sort == TopicSort::Name, "name")?;
        Ok(Self {
            prefix: query.text("prefix").unwrap_or_default().to_owned(),
            sort,
            after: after.unwrap_or_default().to_owned(),
            limit: query.number("limit", MAX_LIMIT)?.unwrap_or(DEFAULT_LIMIT),
        })
    }

    /// Whether the order depends on the rates of topics.
    pub(super) fn needs_rates(&self) -> bool {
        self.sort == TopicSort::Rate
    }

    pub(super) fn answer(&self, janus: &Janus, rates: Option<&Known>) -> Vec<u8> {
        if self.sort == TopicSort::Name {
            let mut topics = janus.topics_with_prefix(&self.prefix, &self.after, self.limit + 1);
            let mut more = topics.len() > self.limit;
            topics.truncate(self.limit);
            more |= cut(&mut topics);
            let next = topics.last().filter(|_| more).map(|topic| topic.name.as_str());
            return to_json(&TopicsJson { topics: TopicJson::of_all(&topics, rates), next, total: None });
        }
        let (mut topics, total) = self.sorted(janus, rates);
        cut(&mut topics);
        to_json(&TopicsJson { topics: TopicJson::of_all(&topics, rates), next: None, total: Some(total) })
    }

    /// The first topics in an order other than that of the names, and how many topics there are.
    fn sorted(&self, janus: &Janus, rates: Option<&Known>) -> (Vec<TopicInfo>, usize) {
        let key = |topic: &TopicInfo| match self.sort {
            TopicSort::Name => 0,
            TopicSort::Subscribers => topic.subscribers as u64,
            TopicSort::InFlight => topic.in_flight as u64,
            // A topic with an unknown rate comes behind a topic without messages. A rate has three decimals.
            TopicSort::Rate => {
                let rate = rates.and_then(|rates| rates.rate_of(topic.number));
                rate.map_or(0, |rate| (rate * 1_000.0) as u64 + 1)
            }
        };
        let (mut first, mut total) = (BinaryHeap::new(), 0);
        let mut after = String::new();
        loop {
            let portion = janus.topics_with_prefix(&self.prefix, &after, PORTION);
            let Some(last) = portion.last() else { break };
            last.name.as_str().clone_into(&mut after);
            total += portion.len();
            for topic in portion {
                first.push(Sorted { key: (Reverse(key(&topic)), topic.name.clone()), topic });
                if first.len() > self.limit {
                    first.pop();
                }
            }
        }
        (first.into_sorted_vec().into_iter().map(|sorted| sorted.topic).collect(), total)
    }
}

/// A list in another order than its own has no pages: the entries change places from one page to the next.
fn no_after(after: Option<&str>, is_own_order: bool, order: &str) -> Result<(), HttpError> {
    if after.is_none() || is_own_order {
        return Ok(());
    }
    Err(bad_request(format!("after: only a list by {order} has pages; omit after, and ask for a higher limit")))
}

/// Cuts a list whose names are too long for an answer, and returns whether that was necessary. One entry always stays.
fn cut(topics: &mut Vec<TopicInfo>) -> bool {
    let mut bytes = 0;
    let fitting = topics.iter().enumerate().take_while(|(place, topic)| {
        bytes += topic.name.as_str().len();
        *place == 0 || bytes <= MAX_ANSWER_BYTES
    });
    let fitting = fitting.count();
    let is_cut = fitting < topics.len();
    topics.truncate(fitting);
    is_cut
}

/// Ordered by the key.
struct Sorted {
    key: (Reverse<u64>, TopicName),
    topic: TopicInfo,
}

impl PartialEq for Sorted {
    fn eq(&self, other: &Self) -> bool {
        self.key == other.key
    }
}

impl Eq for Sorted {}

impl PartialOrd for Sorted {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Sorted {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.key.cmp(&other.key)
    }
}

/// A list of connections.
#[derive(Clone, Debug)]
pub(super) struct ConnectionsView {
    query: ConnectionQuery,
    limit: usize,
    by_number: bool,
}

impl ConnectionsView {
    pub(super) fn of(query: &str) -> Result<Self, HttpError> {
        let query = Query::of(query, &["limit", "after", "sort", "user", "peer", "transport", "topic"])?;
        let orders = [
            ("number", ConnectionOrder::Number),
            ("queued_bytes", ConnectionOrder::QueuedBytes),
            ("lag", ConnectionOrder::Lag),
        ];
        let order = query.one_of("sort", &orders)?.unwrap_or_default();
        let by_number = order == ConnectionOrder::Number;
        let after = query.text("after");
        no_after(after, by_number, "number")?;
        let after = match after {
            Some(text) => {
                let number = digits(text).filter(|_| text.len() <= CONNECTION_DIGITS);
                number.ok_or_else(|| bad_request("after: expected the number of a connection"))?
            }
            None => 0,
        };
        let limit = query.number("limit", MAX_LIMIT)?.unwrap_or(DEFAULT_LIMIT);
        // An entry beyond the page shows that another page follows.
        let mut wanted = ConnectionQuery::default().order(order).after(after).limit(limit + usize::from(by_number));
        if let Some(user) = query.text("user") {
            wanted = wanted.user(user);
        }
        if let Some(peer) = query.text("peer") {
            wanted = wanted.peer(peer.parse::<PeerFilter>().map_err(|error| bad_request(format!("peer: {error}")))?);
        }
        if let Some(transport) = query.text("transport") {
            wanted = wanted.transport(transport);
        }
        if let Some(topic) = query.text("topic") {
            wanted = wanted.topic(topic);
        }
        Ok(Self { query: wanted, limit, by_number })
    }

    pub(super) fn answer(&self, janus: &Janus) -> Vec<u8> {
        let mut found = janus.find_connections(&self.query);
        let more = found.connections.len() > self.limit;
        found.connections.truncate(self.limit);
        let next = found.connections.last().filter(|_| more).map(|connection| connection.connection.to_string());
        let total = (!self.by_number).then_some(found.total);
        to_json(&ConnectionsJson { connections: &found.connections, next, total })
    }
}

#[derive(Debug, Serialize)]
struct TopicsJson<'a> {
    topics: Vec<TopicJson<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    total: Option<usize>,
}

#[derive(Debug, Serialize)]
struct TopicJson<'a> {
    topic: &'a str,
    subscribers: usize,
    in_flight: usize,
    available: bool,
    messages_per_second: Option<f64>,
    /// Absent for a topic without presence.
    #[serde(skip_serializing_if = "Option::is_none")]
    members: Option<usize>,
}

impl<'a> TopicJson<'a> {
    fn of_all(topics: &'a [TopicInfo], rates: Option<&Known>) -> Vec<Self> {
        let of = |topic: &'a TopicInfo| Self {
            topic: topic.name.as_str(),
            subscribers: topic.subscribers,
            in_flight: topic.in_flight,
            available: topic.available,
            messages_per_second: rates.and_then(|rates| rates.rate_of(topic.number)),
            members: topic.members,
        };
        topics.iter().map(of).collect()
    }
}

#[derive(Debug, Serialize)]
struct ConnectionsJson<'a> {
    connections: &'a [ConnectionInfo],
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    total: Option<usize>,
}
