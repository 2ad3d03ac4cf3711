//! A user subscribed to a topic, as other clients see the user.

use std::sync::Arc;

use bytes::BufMut;
use serde::ser::SerializeStruct as _;
use serde::{Serialize, Serializer};
use serde_json::value::RawValue;

use super::object::Object;
use super::publication::put_json_string;
use super::{RequestId, ServerEvent, TopicName};

/// A user subscribed to a topic, through any number of connections.
///
/// ```
/// use janus_core::wire::Member;
///
/// let alice = Member::new("alice", Some(r#"{"name":"Alice A."}"#));
/// assert_eq!((&*alice.user, alice.info.as_deref()), ("alice", Some(r#"{"name":"Alice A."}"#)));
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Member {
    /// The name of the user.
    pub user: Arc<str>,
    /// The facts about the user that are meant for other clients, as JSON text; `None` without any. See
    /// [`Identity::info`](crate::hooks::Identity::info).
    pub info: Option<Arc<str>>,
}

impl Member {
    /// A member with this name and this info, which must be JSON text.
    pub fn new(user: impl Into<Arc<str>>, info: Option<&str>) -> Self {
        Self { user: user.into(), info: info.map(Into::into) }
    }
}

/// An object with `user`, and `info` if there is any. An info is JSON, so other formats refuse a member with an info.
impl Serialize for Member {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self { user, info } = self;
        let info = info.as_deref().map(serde_json::from_str::<&RawValue>).transpose();
        let info = info.map_err(serde::ser::Error::custom)?;
        let mut object = serializer.serialize_struct("Member", 1 + usize::from(info.is_some()))?;
        object.serialize_field("user", &**user)?;
        match info {
            Some(info) => object.serialize_field("info", info)?,
            None => object.skip_field("info")?,
        }
        object.end()
    }
}

/// The members as a JSON array.
fn put_members(out: &mut Vec<u8>, members: &[Member]) {
    out.put_u8(b'[');
    for (index, Member { user, info }) in members.iter().enumerate() {
        out.put_slice(if index == 0 { b"{\"user\":" } else { b",{\"user\":" });
        put_json_string(out, user);
        if let Some(info) = info {
            out.put_slice(b",\"info\":");
            out.put_slice(info.as_bytes());
        }
        out.put_u8(b'}');
    }
    out.put_u8(b']');
}

/// An event about presence, in the words common to all formats.
pub(super) struct Told<'a> {
    pub(super) kind: &'static str,
    pub(super) id: RequestId,
    topic: &'a TopicName,
    count: usize,
    members: Option<&'a [Member]>,
}

impl<'a> Told<'a> {
    /// `None` for an event about anything else.
    pub(super) fn of(event: &ServerEvent<'a>) -> Option<Self> {
        let (kind, id, topic, count, members) = match *event {
            ServerEvent::Presence { id, topic, count, members } => ("presence", id, topic, count, members),
            ServerEvent::Joined { topic, count, members } => ("joined", None, topic, count, Some(members)),
            ServerEvent::Left { topic, count, members } => ("left", None, topic, count, Some(members)),
            _ => return None,
        };
        Some(Self { kind, id, topic, count, members })
    }
}

impl<B: BufMut> Object<'_, B> {
    /// The parts of an event about presence, without kind and id.
    pub(super) fn presence(self, told: &Told<'_>) -> Self {
        let object = self.text("topic", told.topic.as_str()).number("count", told.count as u64);
        let Some(members) = told.members else { return object };
        let mut json = Vec::new();
        put_members(&mut json, members);
        object.raw("members", &String::from_utf8_lossy(&json))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_written_with_the_info_that_they_have() {
        let topic = TopicName::new("a\"b", 255).unwrap();
        let mut text = Vec::new();
        let members = [Member::new("x\n", None), Member::new("y", Some("{\"z\":1}"))];
        let joined = ServerEvent::Joined { topic: &topic, count: 3, members: &members };
        Object::new(&mut text).presence(&Told::of(&joined).unwrap()).end();
        let expected = r#"{"topic":"a\"b","count":3,"members":[{"user":"x\n"},{"user":"y","info":{"z":1}}]}"#;
        assert_eq!(String::from_utf8(text).unwrap(), expected);
        let written = serde_json::to_string(&members).unwrap();
        assert!(expected.contains(&written), "{written} in the form of the HTTP API");
        let mut text = Vec::new();
        let counted = ServerEvent::Presence { id: None, topic: &topic, count: 0, members: None };
        Object::new(&mut text).presence(&Told::of(&counted).unwrap()).end();
        assert_eq!(String::from_utf8(text).unwrap(), r#"{"topic":"a\"b","count":0}"#);
    }
}
