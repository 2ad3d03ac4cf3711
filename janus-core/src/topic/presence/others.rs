//! The members of a topic on other nodes of the cluster.
//!
//! Each node owns the members of its connections: the engine keeps a text of each node for each topic, and other nodes read
//! the text and never change it. The text is JSON, so a later release may add members.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::engine::NodeId;
use crate::wire::Member;

/// The members of one node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct NodeMembers {
    /// Connections without a user, and users without a place in the list.
    pub(crate) nameless: usize,
    /// Whether users are left out, because the node has too many for a list.
    pub(crate) unlisted: bool,
    /// The users, by name.
    pub(crate) users: Vec<Member>,
}

/// [`NodeMembers`] on their way.
#[derive(Serialize, Deserialize)]
struct Text<'a> {
    /// The release of the form.
    v: u32,
    nameless: usize,
    unlisted: bool,
    #[serde(borrow)]
    users: Vec<TextMember<'a>>,
}

#[derive(Serialize, Deserialize)]
struct TextMember<'a> {
    #[serde(borrow)]
    user: Cow<'a, str>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    info: Option<&'a RawValue>,
}

impl<'a> TextMember<'a> {
    fn of(Member { user, info }: &'a Member) -> Self {
        let info = info.as_deref().and_then(|info| serde_json::from_str(info).ok());
        Self { user: Cow::Borrowed(user), info }
    }
}

/// The release of the texts. A text of another release is not understood, and counts as no members.
const RELEASE: u32 = 1;

impl NodeMembers {
    pub(crate) fn is_empty(&self) -> bool {
        self.nameless == 0 && self.users.is_empty()
    }

    /// The text for other nodes.
    pub(crate) fn text(&self) -> Bytes {
        let users = self.users.iter().map(TextMember::of).collect();
        let text = Text { v: RELEASE, nameless: self.nameless, unlisted: self.unlisted, users };
        serde_json::to_vec(&text).expect("the keys are strings").into()
    }

    /// Reads the text of another node, of which at most `most` users are taken; more count without names. `None` for an
    /// unknown text.
    pub(crate) fn read(text: &[u8], most: usize) -> Option<Self> {
        let text: Text<'_> = serde_json::from_slice(text).ok().filter(|text: &Text<'_>| text.v == RELEASE)?;
        let Text { nameless, unlisted, users, .. } = text;
        if users.len() > most {
            return Some(Self { nameless: nameless.saturating_add(users.len()), unlisted: true, users: Vec::new() });
        }
        let member = |member: TextMember<'_>| Member::new(&*member.user, member.info.map(RawValue::get));
        Some(Self { nameless, unlisted, users: users.into_iter().map(member).collect() })
    }
}

/// The members of the other nodes. An entry for each node named by the engine.
#[derive(Debug, Default)]
pub(super) struct Others {
    nodes: BTreeMap<NodeId, Kept>,
    /// What the users take.
    bytes: usize,
}

#[derive(Debug)]
struct Kept {
    nameless: usize,
    unlisted: bool,
    /// Each with the info.
    users: BTreeMap<Arc<str>, Option<Arc<str>>>,
}

impl Kept {
    fn bytes(&self) -> usize {
        let user = |(name, info): (&Arc<str>, &Option<Arc<str>>)| {
            USER_BYTES + name.len() + info.as_ref().map_or(0, |info| info.len())
        };
        self.users.iter().map(user).sum()
    }
}

/// The price of another node's user.
const USER_BYTES: usize = 64;

impl Others {
    /// Members without a name.
    pub(super) fn nameless(&self) -> usize {
        self.nodes.values().map(|kept| kept.nameless).sum()
    }

    /// What the members of the other nodes take.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The info of a user at another node: the shown one, if a node has it. `None` for a user of no other node.
    pub(super) fn info(&self, name: &Arc<str>, shown: &Option<Arc<str>>) -> Option<Option<Arc<str>>> {
        let mut infos = self.nodes.values().filter_map(|kept| kept.users.get(name));
        let first = infos.next()?;
        Some(if first == shown || infos.any(|info| info == shown) { shown.clone() } else { first.clone() })
    }

    /// Whether a node has left users out.
    pub(super) fn has_unlisted(&self) -> bool {
        self.nodes.values().any(|kept| kept.unlisted)
    }

    /// Notes the words of a node, or the end of the node. Returns the users of the node before.
    pub(super) fn replace(&mut self, node: NodeId, said: Option<NodeMembers>) -> BTreeMap<Arc<str>, Option<Arc<str>>> {
        let before = match said {
            Some(NodeMembers { nameless, unlisted, users }) => {
                let users = users.into_iter().map(|member| (member.user, member.info)).collect();
                let kept = Kept { nameless, unlisted, users };
                self.bytes += kept.bytes();
                self.nodes.insert(node, kept)
            }
            None => self.nodes.remove(&node),
        };
        self.bytes -= before.as_ref().map_or(0, Kept::bytes);
        before.map(|kept| kept.users).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_reads_back_as_what_the_node_has_said() {
        let users = vec![Member::new("a\"lice", Some("{\"age\":1.50}")), Member::new("bob", None)];
        let said = NodeMembers { nameless: 3, unlisted: false, users };
        let text = said.text();
        let shown =
            r#"{"v":1,"nameless":3,"unlisted":false,"users":[{"user":"a\"lice","info":{"age":1.50}},{"user":"bob"}]}"#;
        assert_eq!(text, shown);
        assert_eq!(NodeMembers::read(&text, 2), Some(said));
    }

    #[test]
    fn more_users_than_can_be_listed_count_without_names() {
        let said = NodeMembers { nameless: 1, unlisted: false, users: vec![Member::new("alice", None); 3] };
        let read = NodeMembers::read(&said.text(), 2).unwrap();
        assert_eq!(read, NodeMembers { nameless: 4, unlisted: true, users: Vec::new() });
    }

    #[test]
    fn a_text_of_another_release_is_not_understood() {
        for text in ["", "{}", r#"{"v":2,"nameless":1,"unlisted":false,"users":[]}"#] {
            assert_eq!(NodeMembers::read(text.as_bytes(), 9), None, "{text}");
        }
        let later = br#"{"v":1,"nameless":1,"unlisted":false,"users":[{"user":"a","mood":1}],"more":[]}"#;
        assert!(NodeMembers::read(later, 9).is_some());
    }
}
