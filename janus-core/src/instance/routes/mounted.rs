//! Requests to routes that another HTTP server has read.

use super::{Counted, Decision, HttpRoute, RouteRequest, RouteResponse, Router, busy};
use crate::instance::janus::Janus;
use crate::wire::{Bytes, HttpError, HttpRequest, PathPattern, Peer};

impl Router {
    /// The paths of the routes, each once.
    pub(in crate::instance) fn paths(&self) -> impl Iterator<Item = &PathPattern> {
        let is_first = move |at: usize| !self.routes[..at].iter().any(|earlier| earlier.path == self.routes[at].path);
        (0..self.routes.len()).filter(move |&at| is_first(at)).map(move |at| &self.routes[at].path)
    }

    /// The route of a request, with a place among the requests under way.
    ///
    /// # Errors
    ///
    /// The answer to a request without a route or a place.
    pub(in crate::instance) fn find(&self, head: &HttpRequest) -> Result<Routed, RouteResponse> {
        match self.decide(head, IS_LOCAL) {
            Some(Decision::Route(route, rest)) => match Counted::within(&route.under_way, route.max_requests) {
                Some(counted) => Ok(Routed { route, rest, runtime: self.runtime.clone(), counted }),
                None => Err(busy()),
            },
            Some(Decision::Refusal(answer)) => Err(answer),
            None => Err(RouteResponse::from(&HttpError::new(404, "unknown_path", "nothing at this path"))),
        }
    }
}

/// See [`RouteRequest::is_local`].
const IS_LOCAL: bool = false;

/// A request with a route and a place.
pub(in crate::instance) struct Routed {
    route: HttpRoute,
    rest: String,
    runtime: tokio::runtime::Handle,
    counted: Counted,
}

impl Routed {
    /// The largest body, if the route says so.
    pub(in crate::instance) fn max_body_bytes(&self) -> Option<usize> {
        self.route.max_body_bytes
    }

    /// Calls the function of the program, on the runtime of all routes; `None` if the time of the route is over.
    ///
    /// As on the own port, the function runs to its end even if the client goes away.
    pub(in crate::instance) async fn answer(
        self,
        (head, body): (HttpRequest, Bytes),
        (peer, is_local): (Peer, bool),
        janus: Janus,
    ) -> Option<RouteResponse> {
        let Self { route, rest, runtime, counted } = self;
        let answer = runtime.spawn(async move {
            let request = RouteRequest { head, rest, body, peer, is_local, janus };
            let answer = tokio::time::timeout(route.timeout, route.answer(request)).await;
            drop(counted);
            answer
        });
        let answer = answer.await.ok()?.ok()?;
        Some(answer.unwrap_or_else(|error| RouteResponse::from(&error)))
    }
}
