//! A request for a part of a topic's history.

use super::Since;

/// Which messages of a topic's history to read, and at most how many.
///
/// ```
/// use janus_core::wire::{HistoryQuery, Since};
///
/// let first = HistoryQuery::latest(100).since(Since::Start);
/// let newest_first = HistoryQuery::latest(10).reversed();
/// assert_eq!((first.limit, newest_first.since), (100, None));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct HistoryQuery {
    /// Where to begin: `None` for the latest messages, a position for the messages after the position. With `reverse`, the
    /// messages before the position, and none before [`Since::Start`].
    pub since: Option<Since>,
    /// The number of messages. With 0 the answer has positions alone, in this process; a client of a server must ask for at
    /// least 1, and 0 is refused with `bad_request`.
    pub limit: usize,
    /// Bytes of the messages. One message is returned however long.
    pub max_bytes: usize,
    /// Whether the newest message comes first.
    pub reverse: bool,
}

impl HistoryQuery {
    /// The latest `limit` messages, in their order.
    #[must_use]
    pub const fn latest(limit: usize) -> Self {
        Self { since: None, limit, max_bytes: usize::MAX, reverse: false }
    }

    /// The messages after this place.
    #[must_use]
    pub fn since(self, since: impl Into<Since>) -> Self {
        Self { since: Some(since.into()), ..self }
    }

    /// The newest first.
    #[must_use]
    pub const fn reversed(self) -> Self {
        Self { reverse: true, ..self }
    }

    /// The same within limits on the number of messages and on their bytes.
    #[must_use]
    pub fn within(self, limit: usize, max_bytes: usize) -> Self {
        Self { limit: self.limit.min(limit), max_bytes: self.max_bytes.min(max_bytes), ..self }
    }
}
