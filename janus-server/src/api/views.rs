//! The routes with which operators look at the server, as values: read from a request, or from a parameter of an event
//! stream, and answered on a thread of their own where that takes time.

use std::sync::Arc;

use janus_core::Janus;
use janus_core::wire::HttpError;
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;

use super::busy;
use super::inspecting::{SlowView, StatsView, TreeView};
use super::listing::{ConnectionsView, TopicsView};
use super::routes::bad_request;
use crate::live::Live;

/// A look at the server.
#[derive(Clone, Debug)]
pub(super) enum View {
    Stats(StatsView),
    Topics(TopicsView),
    Connections(ConnectionsView),
    Slow(SlowView),
    Tree(TreeView),
}

impl View {
    /// The view of a route, by the path without `/api/`.
    pub(super) fn of(route: &str, query: &str) -> Result<Self, HttpError> {
        match route {
            "stats" => StatsView::of(query).map(Self::Stats),
            "topics" => TopicsView::of(query).map(Self::Topics),
            "connections" => ConnectionsView::of(query).map(Self::Connections),
            "slow" => SlowView::of(query).map(Self::Slow),
            "tree" => TreeView::of(query).map(Self::Tree),
            _ => Err(bad_request(format!(
                "view: unknown view {route:?}; expected stats, topics, connections, slow or tree, with a query as in \
                 view=topics%3Fsort%3Drate"
            ))),
        }
    }

    /// Whether the answer is a picture for people.
    pub(super) fn is_text(&self) -> bool {
        matches!(self, Self::Tree(tree) if tree.as_text)
    }
}

/// Who looks, and so how long an answer may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Looks {
    /// Once: an order by rates is worth a second.
    Once,
    /// Again and again: a rate that is unknown yet is known in the next second.
    EverySecond,
}

/// Answers views, for both ports.
#[derive(Clone, Debug)]
pub(super) struct Viewer {
    janus: Janus,
    live: Arc<Live>,
    /// The copy of the supervision tree, which has an entry for each topic.
    trees: Arc<Semaphore>,
    /// The walk through all topics or connections. One at a time for a port, and the others wait in line: walks side by
    /// side would take the cores from the clients.
    walks: Arc<Semaphore>,
}

impl Viewer {
    pub(super) fn new(janus: Janus, live: Arc<Live>) -> Self {
        Self { janus, live, trees: Arc::new(Semaphore::new(1)), walks: Arc::new(Semaphore::new(1)) }
    }

    /// The same with a line of its own: requests that fill another port hold up no operator.
    pub(super) fn with_own_line(&self) -> Self {
        Self { walks: Arc::new(Semaphore::new(1)), ..self.clone() }
    }

    pub(super) fn live(&self) -> &Arc<Live> {
        &self.live
    }

    /// The body of the answer.
    pub(super) async fn answer(&self, view: &View, looks: Looks) -> Result<Vec<u8>, HttpError> {
        let janus = self.janus.clone();
        match view.clone() {
            View::Stats(view) if view.is_short() => Ok(view.answer(&janus, &self.live)),
            View::Stats(view) => {
                let live = Arc::clone(&self.live);
                self.walk(&self.walks, move || view.answer(&janus, &live)).await
            }
            View::Topics(view) => {
                let rates = &self.live.topic_rates;
                let rates = match looks {
                    Looks::Once if view.needs_rates() => rates.wait().await,
                    Looks::Once => rates.known(),
                    Looks::EverySecond => {
                        rates.ask();
                        rates.known()
                    }
                };
                self.walk(&self.walks, move || view.answer(&janus, rates.as_deref())).await
            }
            View::Connections(view) => self.walk(&self.walks, move || view.answer(&janus)).await,
            View::Slow(view) => self.walk(&self.walks, move || view.answer(&janus)).await,
            View::Tree(view) => self.walk(&self.trees, move || view.answer(&janus)).await,
        }
    }

    /// Runs a function that blocks, once its turn has come.
    async fn walk(
        &self,
        turns: &Arc<Semaphore>,
        walk: impl FnOnce() -> Vec<u8> + Send + 'static,
    ) -> Result<Vec<u8>, HttpError> {
        let turn = Arc::clone(turns).acquire_owned().await.map_err(|_| ending())?;
        let walk = spawn_blocking(move || {
            let answer = walk();
            drop(turn);
            answer
        });
        walk.await.map_err(|_| ending())
    }
}

fn ending() -> HttpError {
    busy("the server is ending")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use janus_core::Config;
    use tokio::time::timeout;

    use super::*;

    #[tokio::test]
    async fn a_port_answers_while_another_port_has_a_line() {
        let config = Config { listen: Vec::new(), http_listen: Vec::new(), ..Config::default() };
        let janus = Janus::builder().config(config).start().await.unwrap();
        let busy = Viewer::new(janus.clone(), Arc::new(Live::new(janus.clone())));
        let _turn = busy.walks.acquire().await.unwrap();
        let (idle, view) = (busy.with_own_line(), View::of("connections", "").unwrap());
        let answer = timeout(Duration::from_secs(30), idle.answer(&view, Looks::Once)).await.expect("an answer");
        assert_eq!(answer.unwrap(), br#"{"connections":[]}"#);
        janus.shutdown().await;
    }
}
