//! A server with links: the open topics of each link, and the way of each answer.
//!
//! Like the [data](super::log) of the server, an exchange does not wait and has no clock. The answers for
//! the links are returned; queues, wakers and delays belong to the engines.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::log::{Given, Present, Server, Submission};
use super::{Answer, NodeId, Record, Request};
use crate::wire::TopicName;

/// The number of a link. A later link has a greater number.
pub(crate) type LinkNumber = u64;

/// Answers and their links, in the order of sending.
pub(crate) type Outgoing = Vec<(LinkNumber, Answer)>;

#[derive(Debug)]
pub(crate) struct Exchange {
    pub server: Server,
    links: BTreeMap<LinkNumber, Joined>,
    /// The links with the topic open. A topic without such a link has no entry.
    open: BTreeMap<TopicName, BTreeSet<LinkNumber>>,
}

#[derive(Debug)]
struct Joined {
    node: NodeId,
    topics: BTreeSet<TopicName>,
}

impl Exchange {
    pub(crate) fn new(server: Server) -> Self {
        Self { server, links: BTreeMap::new(), open: BTreeMap::new() }
    }

    /// Begins to serve a link.
    pub(crate) fn join(&mut self, link: LinkNumber, node: NodeId) {
        self.links.insert(link, Joined { node, topics: BTreeSet::new() });
    }

    /// Serves a link no more.
    pub(crate) fn leave(&mut self, link: LinkNumber) {
        let Some(Joined { topics, .. }) = self.links.remove(&link) else { return };
        topics.iter().for_each(|topic| self.close(link, topic));
    }

    /// Carries out a request of a link, appends the answers to `out`, and returns the records made. The requests of a
    /// link after its end are ignored.
    pub(crate) fn execute(
        &mut self,
        given: Given,
        link: LinkNumber,
        request: Request<'_>,
        out: &mut Outgoing,
    ) -> Vec<Record> {
        let Some(joined) = self.links.get_mut(&link) else { return Vec::new() };
        let (node, now) = (joined.node, given.now);
        match request {
            Request::Open { topic, ask, keep, known, from } => {
                // Before the first look at the topic, so that no record falls between the answer and the next record.
                joined.topics.insert(topic.clone());
                self.open.entry(topic.clone()).or_default().insert(link);
                let opened = self.server.open(given, topic, keep, known, from);
                self.hand_on(topic, &opened.new, out);
                let (position, records) = (opened.position, opened.records);
                out.push((link, Answer::Opened { topic: topic.clone(), ask, position, records }));
                return opened.new;
            }
            Request::Read { topic, ask, from } => {
                let records = self.server.read(now, topic, from);
                out.push((link, Answer::Records { topic: topic.clone(), ask, records }));
            }
            Request::Close { topic } => {
                joined.topics.remove(topic);
                self.close(link, topic);
            }
            Request::Append { topic, keep, create, submission, count, payload, key } => {
                let messages = Submission { node, number: submission, count, payload, key };
                let appended = self.server.append(given, topic, keep, create, messages);
                self.hand_on(topic, &appended.new, out);
                out.push((link, Answer::Appended { topic: topic.clone(), submission, outcome: appended.outcome }));
                return appended.new;
            }
            Request::Report { topic, subscribers, valid } => {
                let (position, subscribers) = self.server.report(now, topic, node, subscribers, valid);
                out.push((link, Answer::Reported { topic: topic.clone(), position, subscribers }));
            }
            Request::Presence { topic, ask, members, known, valid, most } => {
                let Present { version, is_whole, is_changed, nodes } =
                    self.server.presence(now, topic, (node, members, valid), (known, most));
                out.push((link, Answer::Presence { topic: topic.clone(), ask, version, is_whole, is_changed, nodes }));
            }
            Request::Beat { about, valid } => self.server.beat(now, node, about, valid),
            Request::Nodes { ask } => out.push((link, Answer::Nodes { ask, nodes: self.server.nodes(now) })),
            Request::Control { to, message } => self.control(node, to, message, out),
        }
        Vec::new()
    }

    fn close(&mut self, link: LinkNumber, topic: &TopicName) {
        if let Some(links) = self.open.get_mut(topic) {
            links.remove(&link);
            if links.is_empty() {
                self.open.remove(topic);
            }
        }
    }

    fn hand_on(&self, topic: &TopicName, records: &[Record], out: &mut Outgoing) {
        for record in records {
            let record = Answer::Record { topic: topic.clone(), record: record.clone() };
            let links = self.open.get(topic).into_iter().flatten();
            out.extend(links.map(|&link| (link, record.clone())));
        }
    }

    fn control(&self, from: NodeId, to: Option<NodeId>, message: &[u8], out: &mut Outgoing) {
        // Just after a reconnect the node may still have an earlier link, without listening there.
        let latest: BTreeMap<_, _> = self.links.iter().map(|(&link, joined)| (joined.node, link)).collect();
        let message = Bytes::copy_from_slice(message);
        let meant = latest.iter().filter(|&(&node, _)| to.map_or(node != from, |to| node == to));
        out.extend(meant.map(|(_, &link)| (link, Answer::Control { from, message: message.clone() })));
    }
}
