//! Requests of the HTTP port that the program answers, beside the port's own paths.
//!
//! | file | what it is | what it owns |
//! |---|---|---|
//! | `mod.rs` | API and table | [`HttpRoute`], and the choice of a route for a request |
//! | `answer.rs` | pure | [`RouteResponse`], and its bytes |
//! | `exchange.rs` | task for each request | the body, the answer, and the way back to the port |
//! | `mounted.rs` | API | requests that another HTTP server has read |

pub(in crate::instance) mod answer;
mod exchange;
mod mounted;

use std::any::Any;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::runtime::Handle;

use super::janus::{Janus, WeakJanus};
use crate::connection::listener::{PassOn, PassedOn};
use crate::supervision::ExitReason;
use crate::wire::{Bytes, HttpError, HttpRequest, PathPattern, Peer};
pub use answer::RouteResponse;
pub(super) use mounted::Routed;

/// Requests of one route under way, unless the route says otherwise.
const MAX_REQUESTS: usize = 256;

/// The time for one request, unless the route says otherwise.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Answers under way to requests that no route carries out; further connections are closed without an answer.
const MAX_REFUSALS: usize = 64;

/// Requests of the HTTP port that a function of the program answers.
///
/// The head has been checked by the port, and the body is read before the function is called. The connection is kept for
/// the next request behind an `Ok`, and closed behind an `Err`, whose sender may be a stranger. The function runs on the
/// runtime of the hooks ([`Builder::hook_runtime`](crate::Builder::hook_runtime)), which must have its timer and its I/O
/// driver enabled. Neither hooks nor the rates of clients
/// apply, and no `Origin` is checked: the program decides who may do what, by the head in [`check`](Self::check), or by
/// [`RouteRequest`] in the function. The routes of an instance are mounted along with its other paths by `routes` of
/// `janus-axum` and `janus-actix-web`, and then the public of that server can send requests.
///
/// Limits: [`max_body_bytes`](Self::max_body_bytes) (413), `frame_timeout` for the body, [`timeout`](Self::timeout) for
/// everything, [`max_requests`](Self::max_requests) at once (503). A panic is answered with status 500. Another method than
/// those of the routes at the path is answered with 405.
///
/// ```
/// use janus_core::wire::HttpError;
/// use janus_core::{HttpRoute, RouteRequest, RouteResponse};
///
/// async fn publish(request: RouteRequest) -> Result<RouteResponse, HttpError> {
///     if request.head.header("authorization") != Some("Bearer secret") {
///         return Err(HttpError::new(401, "unauthorized", "send the key in the header Authorization: Bearer KEY"));
///     }
///     let app = request.rest.clone();
///     let text = String::from_utf8_lossy(&request.body);
///     match request.janus.publish(&app, &text).await {
///         Ok(receipt) => Ok(RouteResponse::json(200, &receipt)),
///         Err(error) => Err(HttpError::new(error.code().http_status(), error.code().as_str(), error.to_string())),
///     }
/// }
///
/// let route = HttpRoute::new("POST", "/apps/*".parse()?, publish).max_body_bytes(10_000);
/// # let _ = janus_core::Janus::builder().route(route);
/// # Ok::<_, janus_core::wire::PathPatternError>(())
/// ```
#[derive(Clone)]
pub struct HttpRoute {
    method: Box<str>,
    path: PathPattern,
    max_body_bytes: Option<usize>,
    max_requests: usize,
    timeout: Duration,
    check: Option<Arc<Check>>,
    handler: Arc<Handler>,
    under_way: Arc<AtomicUsize>,
}

type Check = dyn Fn(&HttpRequest, bool) -> Result<(), HttpError> + Send + Sync;

type Handler = dyn Fn(RouteRequest) -> BoxFuture<'static, Result<RouteResponse, HttpError>> + Send + Sync;

/// A request to an [`HttpRoute`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct RouteRequest {
    /// The head of the request.
    pub head: HttpRequest,
    /// The part of the path behind the common beginning of the route's [`PathPattern`]; empty for a single path.
    pub rest: String,
    /// The body; empty without a body.
    pub body: Bytes,
    /// The address of the client.
    pub peer: Peer,
    /// Whether the client is on this machine, as in [`PassedOn::is_local`](crate::PassedOn::is_local). Never true for a request
    /// that another HTTP server has read ([`Mount::route`](crate::mount::Mount::route)): where that server listens, and which
    /// names of hosts it serves, is unknown here, so a proxy or a page of another site could pass for this machine.
    pub is_local: bool,
    /// The instance.
    pub janus: Janus,
}

impl HttpRoute {
    /// Answers requests with this method to these paths. A route for `GET` answers `HEAD` as well, without the body.
    #[must_use]
    pub fn new<A>(method: &str, path: PathPattern, handler: impl Fn(RouteRequest) -> A + Send + Sync + 'static) -> Self
    where
        A: Future<Output = Result<RouteResponse, HttpError>> + Send + 'static,
    {
        Self {
            method: method.into(),
            path,
            max_body_bytes: None,
            max_requests: MAX_REQUESTS,
            timeout: TIMEOUT,
            check: None,
            handler: Arc::new(move |request| handler(request).boxed()),
            under_way: Arc::default(),
        }
    }

    /// Sets the largest body. By default `max_frame_bytes`.
    #[must_use]
    pub fn max_body_bytes(self, bytes: usize) -> Self {
        Self { max_body_bytes: Some(bytes), ..self }
    }

    /// Sets how many requests may be under way at once. By default 256. A further request is refused with status 503, so that
    /// a crowd at one route leaves the others alone.
    #[must_use]
    pub fn max_requests(self, requests: usize) -> Self {
        Self { max_requests: requests, ..self }
    }

    /// Sets the time for a request, from its head to the last byte of the answer. By default a minute. Then the connection is
    /// closed.
    #[must_use]
    pub fn timeout(self, timeout: Duration) -> Self {
        Self { timeout, ..self }
    }

    /// Has a function decide about each request by its head, before the body is read and before the request counts as
    /// one of [`max_requests`](Self::max_requests): so that strangers do not take the places of users. The function is told
    /// whether the client is on this machine, as in [`RouteRequest::is_local`]. An `Err` is the answer, and the connection is
    /// closed; a panic is answered with status 500. The function is called on a home arbiter, or on a thread of the other HTTP
    /// server if the routes are mounted: it must not block.
    ///
    /// ```
    /// # use janus_core::wire::HttpError;
    /// # use janus_core::{HttpRoute, RouteRequest, RouteResponse};
    /// # async fn publish(_: RouteRequest) -> Result<RouteResponse, HttpError> { Ok(RouteResponse::json(200, "")) }
    /// let route = HttpRoute::new("POST", "/apps/*".parse()?, publish);
    /// let route = route.check(|head, _is_local| match head.header("authorization") {
    ///     Some("Bearer secret") => Ok(()),
    ///     _ => Err(HttpError::new(401, "unauthorized", "send the key in the header Authorization: Bearer KEY")),
    /// });
    /// # let _ = route;
    /// # Ok::<_, janus_core::wire::PathPatternError>(())
    /// ```
    #[must_use]
    pub fn check(self, check: impl Fn(&HttpRequest, bool) -> Result<(), HttpError> + Send + Sync + 'static) -> Self {
        Self { check: Some(Arc::new(check)), ..self }
    }

    /// The paths of the route.
    #[must_use]
    pub fn path(&self) -> &PathPattern {
        &self.path
    }

    fn takes(&self, method: &str) -> bool {
        *self.method == *method || &*self.method == "GET" && method == "HEAD"
    }

    /// Calls the function that decides by the head, if there is one.
    fn admit(&self, head: &HttpRequest, is_local: bool) -> Result<(), HttpError> {
        let Some(check) = &self.check else { return Ok(()) };
        catch_unwind(AssertUnwindSafe(|| check(head, is_local))).unwrap_or_else(|panic| Err(self.panicked(panic)))
    }

    /// Calls the function of the program.
    async fn answer(&self, request: RouteRequest) -> Result<RouteResponse, HttpError> {
        let handler = Arc::clone(&self.handler);
        let answer = AssertUnwindSafe(async move { handler(request).await }).catch_unwind().await;
        answer.unwrap_or_else(|panic| Err(self.panicked(panic)))
    }

    fn panicked(&self, panic: Box<dyn Any + Send>) -> HttpError {
        let (Self { method, path, .. }, reason) = (self, ExitReason::from_unwind(panic));
        log::error!(route:% = path; "the route {method} {path}: {reason}");
        internal()
    }
}

impl fmt::Debug for Router {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Router").field("routes", &self.routes).finish_non_exhaustive()
    }
}

impl fmt::Debug for HttpRoute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { method, path, .. } = self;
        f.debug_struct("HttpRoute").field("method", method).field("path", path).finish_non_exhaustive()
    }
}

pub(super) fn internal() -> HttpError {
    HttpError::new(500, "internal", "a fault of the server; its log says more")
}

/// All routes of an instance.
pub(crate) struct Router {
    routes: Vec<HttpRoute>,
    /// Takes the requests that fit no route.
    otherwise: Option<PassOn>,
    janus: WeakJanus,
    runtime: Handle,
    refusals: Arc<AtomicUsize>,
}

/// What becomes of a request.
enum Decision {
    Route(HttpRoute, String),
    Refusal(RouteResponse),
}

impl Router {
    pub(super) fn new(routes: Vec<HttpRoute>, otherwise: Option<PassOn>, janus: WeakJanus, runtime: Handle) -> Self {
        Self { routes, otherwise, janus, runtime, refusals: Arc::default() }
    }

    /// Takes a stream. Called on the home arbiter.
    pub(super) fn take(&self, passed_on: PassedOn) {
        let decided = |passed_on: &PassedOn| {
            let request = passed_on.request.as_ref()?;
            self.decide(&request.head, passed_on.is_local)
        };
        let Some(decision) = decided(&passed_on) else {
            if let Some(take) = &self.otherwise {
                take(passed_on);
            }
            return;
        };
        let (limit, under_way, timeout) = match &decision {
            Decision::Route(route, _) => (route.max_requests, &route.under_way, route.timeout),
            Decision::Refusal(_) => (MAX_REFUSALS, &self.refusals, TIMEOUT),
        };
        let (decision, counted, timeout) = match Counted::within(under_way, limit) {
            Some(counted) => (decision, counted, timeout),
            None => match Counted::within(&self.refusals, MAX_REFUSALS) {
                Some(counted) => (Decision::Refusal(busy()), counted, TIMEOUT),
                None => return,
            },
        };
        let (janus, peer) = (self.janus.clone(), passed_on.peer);
        self.runtime.spawn(async move {
            let exchange = exchange::exchange(passed_on, decision, &janus);
            match tokio::time::timeout(timeout, exchange).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => log::debug!(peer:%; "{peer}: request to a route failed: {error}"),
                Err(_) => log::debug!(peer:%; "{peer}: request to a route took too long; connection closed"),
            }
            drop(counted);
        });
    }

    /// `None` for a request that fits no route, if there is another taker.
    fn decide(&self, head: &HttpRequest, is_local: bool) -> Option<Decision> {
        let path = head.path();
        let mut fitting = self.routes.iter().filter(|route| route.path.fits(path)).peekable();
        if fitting.peek().is_none() {
            return self.otherwise.is_none().then(|| {
                let error = HttpError::new(404, "unknown_path", "nothing at this path");
                Decision::Refusal(RouteResponse::from(&error))
            });
        }
        let mut methods = Vec::new();
        for route in fitting {
            if route.takes(&head.method) {
                if let Err(error) = route.admit(head, is_local) {
                    return Some(Decision::Refusal(RouteResponse::from(&error)));
                }
                return Some(Decision::Route(route.clone(), route.path.rest(path).unwrap_or_default().to_owned()));
            }
            methods.push(&*route.method);
        }
        let message = format!("this path accepts {}", methods.join(", "));
        let mut refusal = RouteResponse::from(&HttpError::new(405, "method_not_allowed", message));
        refusal.headers.retain(|(name, _)| name != "allow");
        Some(Decision::Refusal(refusal.header("allow", methods.join(", "))))
    }
}

fn busy() -> RouteResponse {
    let mut error = HttpError::new(503, "too_many_requests", "too many requests to this path at once; try again later");
    error.retry_after = Some(Duration::from_secs(1));
    RouteResponse::from(&error)
}

/// A request under way, counted until dropped.
struct Counted(Arc<AtomicUsize>);

impl Counted {
    fn within(count: &Arc<AtomicUsize>, limit: usize) -> Option<Self> {
        let counted = count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |now| (now < limit).then_some(now + 1));
        counted.is_ok().then(|| Self(Arc::clone(count)))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
