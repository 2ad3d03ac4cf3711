//! What the watching clients have to be told: pure values, collected by [`Members`](super::members::Members).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::here::{Info, length};
use crate::wire::Member;

/// The price of a user in the news.
const NEWS_BYTES: usize = 56;

/// What has changed since the last take.
#[derive(Debug, Default)]
pub(super) struct News {
    /// The number of members, as the watching clients know.
    pub(super) count: usize,
    /// New users of the table, and users with another info.
    pub(super) came: BTreeSet<Arc<str>>,
    /// Users who have left the table and are known to the watching clients, with the info if that is known to the clients, too.
    pub(super) gone: BTreeMap<Arc<str>, Option<Info>>,
    /// Bytes of the names and the infos of `gone`, which no entry of the table has.
    pub(super) gone_texts: usize,
    /// Whether the topic was listed at the last take.
    pub(super) listed: bool,
    /// Whether a client has been told a state with a part of these news.
    pub(super) is_ahead: bool,
}

impl News {
    pub(super) fn bytes(&self) -> usize {
        (self.came.len() + self.gone.len()) * NEWS_BYTES + self.gone_texts
    }

    pub(super) fn note_gone(&mut self, name: Arc<str>, known: Option<Info>) {
        self.gone_texts += known_text(&name, known.as_ref());
        self.gone.insert(name, known);
    }

    /// The user is back. Returns what the watching clients know.
    pub(super) fn take_gone(&mut self, name: &Arc<str>) -> Option<Option<Info>> {
        let known = self.gone.remove(name)?;
        self.gone_texts -= known_text(name, known.as_ref());
        Some(known)
    }

    /// From now on the infos of users that are gone are not known.
    pub(super) fn forget_infos(&mut self) {
        self.gone.values_mut().for_each(|known| *known = None);
        self.gone_texts = self.gone.keys().map(|name| name.len()).sum();
    }
}

fn known_text(name: &str, known: Option<&Info>) -> usize {
    name.len() + known.map_or(0, length)
}

/// News for the watching clients.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// The number alone, because the topic is counted and not listed.
    Count,
    /// The whole list, because the topic has been counted up to now.
    List,
    /// These changes of the list.
    Users {
        joined: Vec<Member>,
        left: Vec<Member>,
        /// The number of members.
        count: usize,
        /// Whether there are more than before.
        more: bool,
    },
}

impl Change {
    /// Bytes of the names and the infos: hardly less than a frame has.
    pub(super) fn texts(&self) -> usize {
        let Self::Users { joined, left, .. } = self else { return 0 };
        joined.iter().chain(left).map(|Member { user, info }| text(user, info)).sum()
    }

    /// What the change takes without names and infos.
    pub(super) fn entries_bytes(&self) -> usize {
        let Self::Users { joined, left, .. } = self else { return 0 };
        (joined.capacity() + left.capacity()) * size_of::<Member>()
    }
}

/// Bytes of the name and the info of a user.
pub(super) fn text(name: &str, info: &Info) -> usize {
    name.len() + length(info)
}
