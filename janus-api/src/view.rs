//! The looks at an instance, as values: read from a query, and answered by a function that blocks.

use janus_core::Janus;
use janus_core::wire::HttpError;

use crate::inspecting::{SlowView, TreeView};
use crate::listing::{ConnectionsView, TopicsView};

/// The messages per second of a topic, by [`TopicInfo::number`](janus_core::TopicInfo::number); `None` for a topic whose rate
/// is unknown.
pub type Rates<'a> = dyn Fn(u64) -> Option<f64> + 'a;

/// A look at an instance.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum View {
    /// A list of topics.
    Topics(TopicsView),
    /// A list of connections.
    Connections(ConnectionsView),
    /// The slow clients with the largest queues.
    Slow(SlowView),
    /// The supervision tree.
    Tree(TreeView),
}

impl View {
    /// The view of a route, by the path without `/api/`: `topics`, `connections`, `slow` or `tree`; `None` for another route.
    ///
    /// # Errors
    ///
    /// What is wrong with the query, with status 400.
    pub fn of(route: &str, query: &str) -> Option<Result<Self, HttpError>> {
        Some(match route {
            "topics" => TopicsView::of(query).map(Self::Topics),
            "connections" => ConnectionsView::of(query).map(Self::Connections),
            "slow" => SlowView::of(query).map(Self::Slow),
            "tree" => TreeView::of(query).map(Self::Tree),
            _ => return None,
        })
    }

    /// Whether the answer is a picture for people.
    #[must_use]
    pub fn is_text(&self) -> bool {
        matches!(self, Self::Tree(tree) if tree.as_text)
    }

    /// Whether the order of the answer depends on the rates of topics.
    #[must_use]
    pub fn needs_rates(&self) -> bool {
        matches!(self, Self::Topics(topics) if topics.needs_rates())
    }

    /// The body of the answer. Blocks for as long as a look at all topics or connections takes.
    #[must_use]
    pub fn answer(&self, janus: &Janus, rates: Option<&Rates<'_>>) -> Vec<u8> {
        match self {
            Self::Topics(view) => view.answer(janus, rates),
            Self::Connections(view) => view.answer(janus),
            Self::Slow(view) => view.answer(janus),
            Self::Tree(view) => view.answer(janus),
        }
    }
}
