//! Questions about the members of a topic: of a client, of an operator, of the program.

use std::sync::Arc;

use tokio::time::Instant;

use super::PresenceInfo;
use super::members::{Limits, Members};
use super::others::NodeMembers;
use crate::config::Presence as Mode;
use crate::engine::NodePresence;
use crate::topic::{TopicState, Topics};
use crate::wire::TopicName;

/// Why the members of a topic cannot be told.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PresenceError {
    /// The topic has no presence: its namespace has none, or had none when the topic was made.
    #[error("the topic has no presence; the server's operator can set `presence` for its namespace")]
    Off,
    /// The topic's name is not allowed: the caller's mistake.
    #[error("{0}")]
    Invalid(String),
    /// The cluster's engine is away, or has too many questions to answer, and this node does not know the members of the
    /// other nodes.
    #[error("the cluster's engine cannot be reached; try again in a moment, or at another server")]
    EngineUnavailable,
}

/// What this node knows.
#[derive(Debug)]
pub(crate) enum Look {
    Known(PresenceInfo),
    /// The engine has to be asked for the members of other nodes.
    Ask(Mode, Option<Arc<TopicState>>),
}

impl Topics {
    /// Whether a topic has presence, or would have if the topic were made now.
    pub(crate) fn has_presence(&self, name: &TopicName) -> bool {
        match self.table.find(name.as_str()) {
            Some(topic) => topic.presence.is_some(),
            None => self.config().namespace(name.as_str()).presence != Mode::Off,
        }
    }

    /// Looks at the members, without waiting.
    pub(crate) fn look_at_presence(&self, name: &TopicName) -> Result<Look, PresenceError> {
        let config = self.config();
        let mode = config.namespace(name.as_str()).presence;
        let topic = self.table.find(name.as_str());
        let Some(topic) = topic else {
            return match mode {
                Mode::Off => Err(PresenceError::Off),
                _ if self.cluster_of(name).is_some() => Ok(Look::Ask(mode, None)),
                _ => Ok(Look::Known(PresenceInfo { count: 0, members: (mode == Mode::Members).then(Vec::new) })),
            };
        };
        let presence = topic.presence.as_ref().ok_or(PresenceError::Off)?;
        let known = presence.current(self);
        // The mode of before a reload is not known here, and the present mode is near enough for an unused topic.
        Ok(known.map_or_else(|| Look::Ask(mode, Some(Arc::clone(&topic))), Look::Known))
    }

    /// The members, by the word of the engine.
    pub(crate) async fn ask_for_presence(
        &self,
        name: &TopicName,
        mode: Mode,
        topic: Option<Arc<TopicState>>,
    ) -> Result<PresenceInfo, PresenceError> {
        let cluster = self.cluster.as_ref().ok_or(PresenceError::EngineUnavailable)?;
        let asked = cluster.ask_for_members(name, self.config().engine_timeout).await;
        let others = asked.ok_or(PresenceError::EngineUnavailable)?;
        let here = topic.as_ref().and_then(|topic| topic.presence.as_ref());
        let listed = self.config().max_presence_members;
        let here = here.map(|presence| presence.of_this_node(listed)).unwrap_or_default();
        Ok(sum(mode, Limits::of(self), (cluster.node(), here), &others))
    }

    /// Another node has new members of this topic.
    pub(crate) fn members_have_changed(&self, name: &str) {
        if let Some(topic) = self.table.find(name)
            && let Some(presence) = &topic.presence
        {
            presence.call(&topic, false, self);
        }
    }
}

/// The members of all nodes together: a user with connections to two nodes is a single member.
fn sum(
    mode: Mode,
    limits: Limits,
    (node, here): (crate::engine::NodeId, NodeMembers),
    others: &[NodePresence],
) -> PresenceInfo {
    let (mut members, now) = (Members::new(mode), Instant::now());
    members.hear(node, Some(here), now, limits);
    for NodePresence { node, members: text, .. } in others {
        let said = text.as_ref().and_then(|text| NodeMembers::read(text, limits.listed));
        members.hear(*node, said, now, limits);
    }
    PresenceInfo { count: members.count(), members: members.list() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::NodeId;
    use crate::wire::Member;

    #[test]
    fn a_user_of_two_nodes_is_one_member() {
        let limits = Limits { linger: std::time::Duration::ZERO, listed: 8 };
        let member = |name: &str| Member::new(name, None);
        let here = NodeMembers { nameless: 1, unlisted: false, users: vec![member("alice"), member("bob")] };
        let there = NodeMembers { nameless: 2, unlisted: false, users: vec![member("alice"), member("carol")] };
        let said = |members: &NodeMembers| NodePresence {
            node: NodeId::new(2),
            valid: std::time::Duration::ZERO,
            members: Some(members.text()),
        };
        let info = sum(Mode::Members, limits, (NodeId::new(1), here.clone()), &[said(&there)]);
        assert_eq!((info.count, info.members.unwrap().len()), (6, 3));
        let many = NodeMembers { nameless: 20, unlisted: true, users: Vec::new() };
        let info = sum(Mode::Members, limits, (NodeId::new(1), here), &[said(&many)]);
        assert_eq!((info.count, info.members), (23, None), "the list would not be complete");
    }
}
