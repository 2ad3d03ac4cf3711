//! The program's own paths of the HTTP port in another HTTP server, and the bodies of requests.

use std::fmt;

use bytes::Bytes;

use super::{Answer, Mount};
use crate::connection::transport::client_of;
use crate::instance::routes;
use crate::wire::{ErrorCode, HttpError, HttpRequest, PathPattern, Peer};

/// The path of [`Mount::publish`] in the adapters.
const PUBLISH: &str = "/api/publish";

/// Why the other server could not read the body of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BodyError {
    /// The body has more bytes than this.
    TooLarge(usize),
    /// The body did not come within [`Config::frame_timeout`](crate::Config::frame_timeout).
    TooSlow,
    /// The body breaks the rules of HTTP or ends early, with the words of the other server.
    Broken(String),
}

impl From<&BodyError> for HttpError {
    fn from(error: &BodyError) -> Self {
        match error {
            BodyError::TooLarge(max) => {
                let message = format!("the body is longer than the limit of {max} bytes");
                Self::new(413, ErrorCode::FrameTooLarge.as_str(), message)
            }
            BodyError::TooSlow => {
                let message = "the body did not come within frame_timeout; send the request again";
                Self::new(408, ErrorCode::FrameTimeout.as_str(), message)
            }
            BodyError::Broken(words) => {
                Self::new(400, ErrorCode::UnfinishedFrame.as_str(), format!("the body: {words}"))
            }
        }
    }
}

impl Mount {
    /// The paths that the program has given to [`Builder::websocket`](crate::Builder::websocket) and
    /// [`Builder::route`](crate::Builder::route), each once. A request to such a path is for [`websocket`](Self::websocket) if
    /// [`is_websocket`](Self::is_websocket) says so, and otherwise for [`route`](Self::route).
    ///
    /// An adapter has `/api/publish` for [`publish`](Self::publish) in addition. If a path of the program is the same, the log
    /// warns: the program's route is not reached there.
    #[must_use]
    pub fn paths(&self) -> Vec<PathPattern> {
        let shared = &self.janus.inner.shared;
        let routes = shared.router.get().into_iter().flat_map(|router| router.paths());
        let paths: Vec<_> = shared.http_port.websocket_paths().chain(routes).cloned().collect();
        if let Some(path) = paths.iter().find(|path| path.fits(PUBLISH)) {
            log::warn!(
                path:%;
                "behind another HTTP server, {PUBLISH} is for publications of clients, by the rights of each client: the route \
                 of the program at {path} is not asked there"
            );
        }
        paths
    }

    /// Whether a path is one of [`Builder::websocket`](crate::Builder::websocket).
    #[must_use]
    pub fn is_websocket(&self, path: &str) -> bool {
        self.janus.inner.shared.http_port.websocket_paths().any(|paths| paths.fits(path))
    }

    /// Decides about a request to a [`Builder::route`](crate::Builder::route) from its head, before the body is read. The
    /// route's [check](crate::HttpRoute::check) decides here, and is told that the client is on another machine, as is the
    /// [function](crate::RouteRequest::is_local) of the route.
    ///
    /// # Errors
    ///
    /// The answer to a request that no route takes: 404 or 405; that of the route's check; 503 beyond the
    /// [requests](crate::HttpRoute::max_requests) of the route.
    pub fn route(&self, request: HttpRequest, peer: Peer) -> Result<Routed, Answer> {
        let found = match self.janus.inner.shared.router.get() {
            Some(router) => router.find(&request).map_err(Answer::from),
            None => Err(self.refusal(&HttpError::new(404, "unknown_path", "nothing at this path"), &request)),
        };
        Ok(Routed { mount: self.clone(), routed: found?, request, peer })
    }

    /// The answer that refuses a request, in the form of the other answers: JSON, never stored, and readable for a page of an
    /// allowed origin.
    #[must_use]
    pub fn refusal(&self, error: &HttpError, request: &HttpRequest) -> Answer {
        Answer::of(&self.janus.inner.shared.http_port.refusal(error, request))
    }
}

/// A request that a route is to answer. It is one of the route's requests under way until dropped.
pub struct Routed {
    mount: Mount,
    routed: routes::Routed,
    request: HttpRequest,
    peer: Peer,
}

impl Routed {
    /// The largest body that the route takes.
    #[must_use]
    pub fn max_body_bytes(&self) -> usize {
        self.routed.max_body_bytes().unwrap_or_else(|| self.mount.janus.config().max_frame_bytes)
    }

    /// Calls the function of the program. Behind the [timeout](crate::HttpRoute::timeout) of the route, the answer has the
    /// status 504, because the function may have done its work or a part.
    ///
    /// A future that is dropped leaves the function running.
    pub async fn answer(self, body: Bytes) -> Answer {
        let Self { mount, routed, request, peer } = self;
        let (client, _) = client_of(&mount.janus.tables().config(), peer, &request);
        Answer::from(routed.answer((request, body), client, mount.janus).await)
    }
}

impl fmt::Debug for Routed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Routed").field("request", &self.request).field("peer", &self.peer).finish_non_exhaustive()
    }
}
