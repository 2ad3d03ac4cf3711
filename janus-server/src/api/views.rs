//! The routes with which operators look at the server, as values: read from a request, or from a parameter of an event
//! stream, and answered on a thread of their own where that takes time.

use std::sync::Arc;

use janus_api::{Rates, Walks, bad_request};
use janus_core::Janus;
use janus_core::wire::HttpError;

use super::inspecting::StatsView;
use crate::live::Live;

/// A look at the server.
#[derive(Clone, Debug)]
pub(super) enum View {
    Stats(StatsView),
    /// A look that mounts have as well.
    Instance(janus_api::View),
}

impl View {
    /// The view of a route, by the path without `/api/`.
    pub(super) fn of(route: &str, query: &str) -> Result<Self, HttpError> {
        if route == "stats" {
            return StatsView::of(query).map(Self::Stats);
        }
        let view = janus_api::View::of(route, query).unwrap_or_else(|| {
            Err(bad_request(format!(
                "view: unknown view {route:?}; expected stats, topics, connections, slow or tree, with a query as in \
                 view=topics%3Fsort%3Drate"
            )))
        });
        view.map(Self::Instance)
    }

    /// Whether the answer is a picture for people.
    pub(super) fn is_text(&self) -> bool {
        matches!(self, Self::Instance(view) if view.is_text())
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
    walks: Walks,
}

impl Viewer {
    pub(super) fn new(janus: Janus, live: Arc<Live>) -> Self {
        Self { janus, live, walks: Walks::default() }
    }

    /// The same with a line of its own: requests that fill another port hold up no operator.
    pub(super) fn with_own_line(&self) -> Self {
        Self { walks: self.walks.with_own_line(), ..self.clone() }
    }

    pub(super) fn live(&self) -> &Arc<Live> {
        &self.live
    }

    /// The body of the answer.
    pub(super) async fn answer(&self, view: &View, looks: Looks) -> Result<Vec<u8>, HttpError> {
        let janus = self.janus.clone();
        let view = match view {
            View::Stats(view) if view.is_short() => return Ok(view.answer(&janus, &self.live)),
            View::Stats(view) => {
                let (view, live) = (*view, Arc::clone(&self.live));
                return self.walks.take_other(move || view.answer(&janus, &live)).await;
            }
            View::Instance(view) => view,
        };
        let rates = &self.live.topic_rates;
        let rates = match (view, looks) {
            (janus_api::View::Topics(_), Looks::Once) if view.needs_rates() => rates.wait().await,
            (janus_api::View::Topics(_), Looks::Once) => rates.known(),
            (janus_api::View::Topics(_), Looks::EverySecond) => {
                rates.ask();
                rates.known()
            }
            _ => None,
        };
        let look = view.clone();
        let look = move || {
            let rate_of = |number| rates.as_deref().and_then(|rates| rates.rate_of(number));
            look.answer(&janus, Some(&rate_of as &Rates<'_>))
        };
        self.walks.take(view, look).await
    }
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
        let _turn = busy.walks.hold().await;
        let (idle, view) = (busy.with_own_line(), View::of("connections", "").unwrap());
        let answer = timeout(Duration::from_secs(30), idle.answer(&view, Looks::Once)).await.expect("an answer");
        assert_eq!(answer.unwrap(), br#"{"connections":[]}"#);
        janus.shutdown().await;
    }
}
