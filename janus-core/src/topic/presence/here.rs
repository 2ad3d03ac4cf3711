//! The connections of a user to this node.
//!
//! The info shown of a user is that of the latest connection. With its end the connection before is the latest.

use std::collections::BTreeMap;
use std::sync::Arc;

/// What other clients may know of a user.
pub(super) type Info = Option<Arc<str>>;

/// The connections of a user to this node by the numbers of their joins, each with the info of its identity.
#[derive(Debug, Default)]
pub(super) struct Here {
    /// The connection whose info is shown.
    latest: Option<(u64, Info)>,
    /// Empty for most users, and then without memory of its own.
    earlier: BTreeMap<u64, Info>,
    /// What the earlier connections take.
    bytes: usize,
}

impl Here {
    pub(super) fn is_empty(&self) -> bool {
        self.latest.is_none()
    }

    pub(super) fn add(&mut self, join: u64, info: Info) {
        if let Some((join, info)) = self.latest.replace((join, info)) {
            self.bytes += EARLIER_BYTES + length(&info);
            self.earlier.insert(join, info);
        }
    }

    pub(super) fn remove(&mut self, join: u64) {
        let removed = if self.latest.as_ref().is_some_and(|(latest, _)| *latest == join) {
            self.latest = self.earlier.pop_last();
            self.latest.as_ref().map(|(_, info)| length(info))
        } else {
            self.earlier.remove(&join).map(|info| length(&info))
        };
        self.bytes -= removed.map_or(0, |length| EARLIER_BYTES + length);
    }

    /// The info of the latest connection.
    pub(super) fn latest(&self) -> Option<&Info> {
        self.latest.as_ref().map(|(_, info)| info)
    }

    /// What the connections before the latest take.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The info of the connection with this join.
    pub(super) fn info(&self, join: u64) -> Option<&Info> {
        match &self.latest {
            Some((latest, info)) if *latest == join => Some(info),
            _ => self.earlier.get(&join),
        }
    }
}

pub(super) fn length(info: &Info) -> usize {
    info.as_ref().map_or(0, |info| info.len())
}

/// The price of a user's connection next to the latest.
const EARLIER_BYTES: usize = 40;
