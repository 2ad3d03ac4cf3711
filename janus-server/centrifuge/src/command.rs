//! The commands of clients, in the form in which clients write commands.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

/// One command: a number, and one of the other members. A command without any answers a ping.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Command<'a> {
    pub(crate) id: u32,
    #[serde(borrow)]
    pub(crate) connect: Option<Connect<'a>>,
    #[serde(borrow)]
    pub(crate) subscribe: Option<Subscribe<'a>>,
    #[serde(borrow)]
    pub(crate) unsubscribe: Option<Channel<'a>>,
    #[serde(borrow)]
    pub(crate) publish: Option<Publish<'a>>,
    #[serde(borrow)]
    pub(crate) presence: Option<Channel<'a>>,
    #[serde(borrow)]
    pub(crate) presence_stats: Option<Channel<'a>>,
    #[serde(borrow)]
    pub(crate) history: Option<History<'a>>,
    #[serde(borrow)]
    pub(crate) refresh: Option<Refresh<'a>>,
    #[serde(borrow)]
    pub(crate) sub_refresh: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(crate) rpc: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(crate) send: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(crate) ping: Option<&'a RawValue>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Connect<'a> {
    #[serde(borrow)]
    pub(crate) token: Option<Cow<'a, str>>,
    /// The server's subscriptions of an earlier connection, with the positions of the client.
    pub(crate) subs: BTreeMap<String, Recovery>,
}

/// Where a client was in a channel.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Recovery {
    pub(crate) recover: bool,
    pub(crate) epoch: String,
    pub(crate) offset: u64,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Subscribe<'a> {
    #[serde(borrow)]
    pub(crate) channel: Cow<'a, str>,
    #[serde(default)]
    pub(crate) recover: bool,
    #[serde(default, borrow)]
    pub(crate) epoch: Cow<'a, str>,
    #[serde(default)]
    pub(crate) offset: u64,
    #[serde(default)]
    pub(crate) join_leave: bool,
    /// A token of the subscription's own, which has no meaning here.
    #[serde(default, borrow)]
    pub(crate) token: Option<&'a RawValue>,
    #[serde(default)]
    pub(crate) flag: u64,
    /// 0 for a stream of publications; a later Centrifugo has maps as well.
    #[serde(default, rename = "type")]
    pub(crate) kind: u64,
    /// A filter by tags.
    #[serde(default, borrow)]
    pub(crate) tf: Option<&'a RawValue>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Channel<'a> {
    #[serde(borrow)]
    pub(crate) channel: Cow<'a, str>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Publish<'a> {
    #[serde(borrow)]
    pub(crate) channel: Cow<'a, str>,
    #[serde(default, borrow, deserialize_with = "present")]
    pub(crate) data: Option<&'a RawValue>,
}

/// Takes `null` for a value, where a missing member is none.
pub(crate) fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<&'de RawValue>, D::Error> {
    Deserialize::deserialize(deserializer).map(Some)
}

#[derive(Debug, Deserialize)]
pub(crate) struct History<'a> {
    #[serde(borrow)]
    pub(crate) channel: Cow<'a, str>,
    /// 0 for the position alone; a negative number for all that fits.
    #[serde(default)]
    pub(crate) limit: i64,
    #[serde(default)]
    pub(crate) reverse: bool,
    #[serde(default)]
    pub(crate) since: Option<StreamPosition>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct StreamPosition {
    pub(crate) offset: u64,
    pub(crate) epoch: String,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Refresh<'a> {
    #[serde(default, borrow)]
    pub(crate) token: Cow<'a, str>,
}
