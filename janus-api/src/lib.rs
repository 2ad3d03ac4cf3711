//! The HTTP API of Janus, for the HTTP server of any program: what an operator's tools and a program's back end ask of an
//! instance.
//!
//! | request | what it does |
//! |---|---|
//! | `POST /api/publish` | publishes a message, of JSON or of bytes |
//! | `POST /api/broadcast` | publishes a message to up to 1,000 topics |
//! | `POST /api/history` | the latest messages of a topic |
//! | `GET /api/presence?topic=T` | the members of a topic |
//! | `GET /api/topics`, `GET /api/connections` | lists, in pages, with filters and orders |
//! | `GET /api/slow`, `GET /api/tree`, `GET /api/nodes`, `GET /api/stats` | the slow clients, the supervision tree, the cluster, the figures |
//! | `POST /api/disconnect`, `POST /api/revoke` | closes connections; withdraws a right |
//!
//! Requests and answers are those of the binary `janus-server`, whose `openapi.json` describes each. The rates of topics and
//! figures, which need samples over time, and the routes that concern a process and not an instance (logs, settings, traces,
//! metrics, health) are left to that binary.
//!
//! # Who may call
//!
//! **Each of these requests has all rights**: to publish to any topic, to read any history, to disconnect any client. The API
//! is mounted apart from the paths of clients for this reason, and refuses each request with status 403 unless the program
//! says otherwise: the program's middleware puts an [`Operator`] into the extensions of a request that may. On an instance's
//! own HTTP port, [`routes`] takes a function that decides.
//!
//! Pages of other origins than those of [`Config::allowed_origins`](janus_core::Config::allowed_origins) are refused in
//! addition, so that a cookie of an operator's browser is of no use to another site. A `GET` of a
//! page of an allowed origin is carried out, but the page cannot read the answer, because the answers have no CORS headers; and
//! nothing else comes, because the preflights of browsers are refused. A middleware of the program may add both for pages of
//! operators. Pages of the server's own origin need neither.
//!
//! `janus_axum::api` and `janus_actix_web::api` mount the API in those frameworks; an adapter for another framework needs
//! [`Api`].
//!
//! | file | what it is | what it owns |
//! |---|---|---|
//! | `lib.rs` | the API | [`Api`], its limits, and the decision on each request |
//! | `body.rs` | pure | how bodies are read, and the parts of answers |
//! | `controlling.rs` | handlers | the routes that disconnect and revoke |
//! | `inspecting.rs` | answers | the supervision tree and the slow clients |
//! | `listing.rs` | answers | the lists of topics and connections |
//! | `publishing.rs` | handlers | the routes that publish |
//! | `query.rs` | pure | the parameters of a request |
//! | `reading.rs` | handlers | histories, members, nodes and figures |
//! | `room.rs` | an account | the memory for large answers |
//! | `view.rs` | values | the looks that block |
//! | `walks.rs` | lines | the turns of those looks |

#![forbid(unsafe_code)]

mod body;
mod controlling;
mod inspecting;
mod listing;
mod publishing;
mod query;
mod reading;
mod room;
mod view;
mod walks;

use std::fmt;
use std::sync::{Arc, Once};

use bytes::Bytes;
use janus_core::wire::{AllowedOrigins, ErrorCode, HttpError, HttpRequest, PathPattern, TopicName};
use janus_core::{HttpRoute, Janus, RouteRequest, RouteResponse};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

pub use body::{bad_request, digits};
pub use inspecting::{DEFAULT_CHILDREN, DEFAULT_SLOW, MAX_CHILDREN, MAX_SLOW, SlowView, TreeView};
pub use listing::{ConnectionsView, TopicsView};
pub use publishing::{MAX_BROADCAST_TOPICS, PORTION_BYTES};
pub use query::{Query, grouped};
pub use room::{MAX_ANSWERS_BYTES, Room, busy};
pub use view::{Rates, View};
pub use walks::Walks;

/// Entries of one answer: by default, and at most.
pub const DEFAULT_LIMIT: usize = 100;
/// See [`DEFAULT_LIMIT`].
pub const MAX_LIMIT: usize = 10_000;

/// Bytes of messages, or of names, in one answer; a history has at least one message, however long.
pub const MAX_ANSWER_BYTES: usize = 8 << 20;

/// Requests that are carried out at once, unless the program says otherwise.
pub const MAX_REQUESTS: usize = 64;

/// The sign of a request that may use the API, put into the extensions of the request by the program's middleware. See
/// the [crate]'s documentation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Operator;

/// What a route does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Task {
    /// Carries out an operation.
    Operation(Operation),
    /// Answers a [`View`].
    View,
}

/// A request that is carried out without a wait in line; see the [crate]'s table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
#[expect(missing_docs, reason = "each is named like its path")]
pub enum Operation {
    Publish,
    Broadcast,
    History,
    Presence,
    Disconnect,
    Revoke,
    Nodes,
    Stats,
}

/// Every route: path, method, task. A route for `GET` serves `HEAD` as well.
pub const ROUTES: [(&str, &str, Task); 12] = [
    ("/api/publish", "POST", Task::Operation(Operation::Publish)),
    ("/api/broadcast", "POST", Task::Operation(Operation::Broadcast)),
    ("/api/history", "POST", Task::Operation(Operation::History)),
    ("/api/presence", "GET", Task::Operation(Operation::Presence)),
    ("/api/topics", "GET", Task::View),
    ("/api/connections", "GET", Task::View),
    ("/api/slow", "GET", Task::View),
    ("/api/tree", "GET", Task::View),
    ("/api/nodes", "GET", Task::Operation(Operation::Nodes)),
    ("/api/stats", "GET", Task::Operation(Operation::Stats)),
    ("/api/disconnect", "POST", Task::Operation(Operation::Disconnect)),
    ("/api/revoke", "POST", Task::Operation(Operation::Revoke)),
];

impl Operation {
    /// Whether the operation reads the body of its request.
    #[must_use]
    pub fn has_body(self) -> bool {
        !matches!(self, Self::Presence | Self::Nodes | Self::Stats)
    }

    /// Refuses a head with which no body can be right, before the body is read.
    ///
    /// # Errors
    ///
    /// The refusal, with status 400 or 415.
    pub fn check(self, head: &HttpRequest) -> Result<(), HttpError> {
        if !self.has_body() || self == Self::Publish && body::has_type(head, "application/octet-stream") {
            return Ok(());
        }
        body::no_query(head)?;
        // Without a preflight, a page of another site can send JSON only under another content type.
        if body::has_type(head, "application/json") {
            return Ok(());
        }
        let message = match self {
            Self::Publish => {
                "the body must be JSON with the header Content-Type: application/json, or bytes with Content-Type: \
                 application/octet-stream"
            }
            _ => "the body must be JSON with the header Content-Type: application/json",
        };
        Err(HttpError::new(415, "unsupported_media_type", message))
    }

    /// Carries out the operation, whose right has been [checked](Self::check), and returns the answer in JSON. Large answers
    /// take room. `note` is given the topic of a publication before the message goes out.
    ///
    /// # Errors
    ///
    /// The refusal.
    pub async fn carry_out(
        self,
        (janus, room): (&Janus, &Room),
        head: &HttpRequest,
        body: Bytes,
        note: impl FnOnce(&str),
    ) -> Result<Bytes, HttpError> {
        match self {
            Self::Publish => publishing::publish(janus, head, body, note).await,
            Self::Broadcast => publishing::broadcast(janus, &body).await,
            Self::History => reading::history(janus, room, &body).await,
            Self::Presence => reading::presence(janus, room, head.query()).await,
            Self::Disconnect => controlling::disconnect(janus, &body).await,
            Self::Revoke => controlling::revoke(janus, &body).await,
            Self::Nodes => reading::nodes(janus, head),
            Self::Stats => reading::stats(janus, head),
        }
    }
}

/// Whether a topic may have this name, by the rules of this instance.
///
/// # Errors
///
/// What is wrong with the name, with status 400.
pub fn check_topic(janus: &Janus, topic: &str) -> Result<(), HttpError> {
    match TopicName::new(topic, janus.config().max_topic_bytes) {
        Ok(_) => Ok(()),
        Err(error) => Err(HttpError::new(400, ErrorCode::BadTopic.as_str(), error.to_string())),
    }
}

/// The API of an instance, in the HTTP server of another program. Cheap to clone; the clones share their limits.
///
/// Like any other handle, an API keeps its instance running.
///
/// ```
/// use janus_api::{Api, Operator};
/// use janus_core::wire::HttpRequest;
/// use janus_core::{Config, Janus};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let config = Config { listen: Vec::new(), ..Config::default() };
/// let janus = Janus::builder().config(config).start().await?;
/// let api = Api::new(&janus);
/// let request = HttpRequest::new("GET", "/api/topics?limit=10", []);
///
/// let stranger = api.admit("/api/topics", request.clone(), None).unwrap_err();
/// assert_eq!(stranger.status, 403);
/// let admitted = api.admit("/api/topics", request, Some(Operator)).map_err(|refusal| refusal.status.to_string())?;
/// assert!(!admitted.has_body());
/// assert_eq!(admitted.answer(Vec::new()).await.body, r#"{"topics":[]}"#);
/// # drop(api);
/// # janus.shutdown().await;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Api {
    janus: Janus,
    limits: Limits,
}

#[derive(Clone)]
struct Limits {
    places: Arc<Semaphore>,
    room: Room,
    walks: Walks,
}

impl Limits {
    fn new() -> Self {
        Self {
            places: Arc::new(Semaphore::new(MAX_REQUESTS)),
            room: Room::new(MAX_ANSWERS_BYTES),
            walks: Walks::default(),
        }
    }
}

impl Api {
    /// The API of this instance.
    #[must_use]
    pub fn new(janus: &Janus) -> Self {
        Self { janus: janus.clone(), limits: Limits::new() }
    }

    /// Sets how many requests may be carried out at once, by default 64; a further request is refused with status 503. Only
    /// requests of operators count.
    #[must_use]
    pub fn max_requests(mut self, requests: usize) -> Self {
        self.limits.places = Arc::new(Semaphore::new(requests.min(Semaphore::MAX_PERMITS)));
        self
    }

    /// Sets the memory for large answers that clients are still reading, by default 64 MiB; a further answer is refused with
    /// status 503.
    #[must_use]
    pub fn max_answers_bytes(mut self, bytes: usize) -> Self {
        self.limits.room = Room::new(bytes);
        self
    }

    /// The instance.
    #[must_use]
    pub fn janus(&self) -> &Janus {
        &self.janus
    }

    /// Decides about a request from its head, before the body is read. `path` is one of [`ROUTES`], and may differ from the
    /// path of the head if the program has mounted the API below a path of its own.
    ///
    /// # Errors
    ///
    /// The answer to a request that is refused: 403 without an operator, and for a page of another origin; 404 and 405 for
    /// another path or method; 400 and 415 if the head is wrong; 503 beyond [`max_requests`](Self::max_requests).
    pub fn admit(&self, path: &str, head: HttpRequest, operator: Option<Operator>) -> Result<Admitted, RouteResponse> {
        let refused = |error: HttpError| RouteResponse::from(&error);
        let mut rows = ROUTES.iter().filter(|(of_row, ..)| *of_row == path);
        let Some(&(_, method, task)) = rows.next() else {
            return Err(refused(HttpError::new(404, "unknown_path", "nothing at this path")));
        };
        if operator.is_none() {
            return Err(refused(no_operator()));
        }
        let origins = self.janus.config();
        let origins = AllowedOrigins::new(origins.allowed_origins.iter().map(String::as_str));
        origins.check(&head).map_err(refused)?;
        if head.method != method && !(method == "GET" && head.method == "HEAD") {
            let allowed = if method == "GET" { "GET, HEAD" } else { method };
            let error = HttpError::new(405, "method_not_allowed", format!("this path accepts {allowed}"));
            let mut refusal = refused(error);
            refusal.headers.retain(|(name, _)| name != "allow");
            return Err(refusal.header("allow", allowed));
        }
        let work = match task {
            Task::Operation(operation) => operation.check(&head).map(|()| Work::Operation(operation)),
            Task::View => {
                let view = View::of(path.trim_start_matches("/api/"), head.query());
                let view = view.unwrap_or_else(|| Err(HttpError::new(404, "unknown_path", "nothing at this path")));
                view.and_then(without_rates).map(Work::View)
            }
        };
        let work = work.map_err(refused)?;
        let place = Arc::clone(&self.limits.places).try_acquire_owned();
        let place = place.map_err(|_| refused(busy("too many requests to the API at once; try again later")))?;
        Ok(Admitted { api: self.clone(), work, head, _place: place })
    }
}

impl fmt::Debug for Api {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Api").finish_non_exhaustive()
    }
}

fn no_operator() -> HttpError {
    static TOLD: Once = Once::new();
    TOLD.call_once(|| {
        log::warn!(
            "a request to the mounted API was refused, because no middleware of the program has put a janus_api::Operator into \
             its extensions; requests without an operator are refused from now on without a word in the log"
        );
    });
    let message = "this request may not use the API; ask the operator of the server for access";
    HttpError::new(403, ErrorCode::Forbidden.as_str(), message)
}

/// An order by rates needs samples over time, which are not taken here.
fn without_rates(view: View) -> Result<View, HttpError> {
    if view.needs_rates() {
        return Err(bad_request(
            "sort: this server takes no samples of rates; expected name, subscribers or in_flight",
        ));
    }
    Ok(view)
}

/// A request that may be carried out. It has one of the places of [`Api::max_requests`] until dropped.
pub struct Admitted {
    api: Api,
    work: Work,
    head: HttpRequest,
    _place: OwnedSemaphorePermit,
}

enum Work {
    Operation(Operation),
    View(View),
}

impl Admitted {
    /// Whether [`answer`](Self::answer) needs the body, of at most
    /// [`Config::max_frame_bytes`](janus_core::Config::max_frame_bytes).
    #[must_use]
    pub fn has_body(&self) -> bool {
        matches!(self.work, Work::Operation(operation) if operation.has_body())
    }

    /// Carries out the request. Must be called in a tokio runtime.
    ///
    /// A future that is dropped may have published, disconnected or revoked.
    pub async fn answer(self, body: impl Into<Bytes>) -> RouteResponse {
        let Self { api: Api { janus, limits }, work, head, _place } = self;
        let answered = match work {
            Work::Operation(operation) => {
                let body = operation.carry_out((&janus, &limits.room), &head, body.into(), |_| {}).await;
                body.map(|body| ("application/json", body))
            }
            Work::View(view) => {
                let content_type = if view.is_text() { "text/plain; charset=utf-8" } else { "application/json" };
                let look = view.clone();
                let body = limits.walks.take(&view, move || look.answer(&janus, None)).await;
                body.and_then(|body| limits.room.take(body)).map(|body| (content_type, body))
            }
        };
        match answered {
            Ok((content_type, body)) => RouteResponse::new(200, content_type, body).header("cache-control", "no-store"),
            Err(error) => RouteResponse::from(&error),
        }
    }
}

impl fmt::Debug for Admitted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Admitted").field("head", &self.head).finish_non_exhaustive()
    }
}

/// The API on the instance's own HTTP port, for [`Builder::route`](janus_core::Builder::route). `allowed` decides about each
/// request from its head, before the body is read and before the request takes one of the places of operators
/// ([`HttpRoute::check`]), and is told whether the client is on this machine. It must not block.
///
/// The adapters' `routes` mount all routes of an instance, so these routes are open to the public of that server as well, with two
/// differences. No client counts as on this machine there ([`RouteRequest::is_local`](janus_core::RouteRequest::is_local)). And
/// `/api/publish` is the clients' path, with the rights of each client
/// ([`Mount::publish`](janus_core::mount::Mount::publish)): `allowed` is not asked, and a warning in the log says so. A
/// program that serves clients and operators by one framework mounts [`Api`] with the adapter's `api` instead.
///
/// ```
/// use janus_core::Janus;
/// use janus_core::wire::HttpError;
///
/// let with_the_key = |head: &janus_core::wire::HttpRequest, _is_local: bool| match head.header("authorization") {
///     Some("Bearer secret") => Ok(()),
///     _ => Err(HttpError::new(401, "unauthorized", "send the key in the header Authorization: Bearer KEY")),
/// };
/// let builder = janus_api::routes(with_the_key).into_iter().fold(Janus::builder(), |builder, route| builder.route(route));
/// # drop(builder);
/// ```
///
/// A comparison of secrets should take the same time for any guess, as with the crate `subtle`.
#[must_use]
pub fn routes(allowed: impl Fn(&HttpRequest, bool) -> Result<(), HttpError> + Send + Sync + 'static) -> Vec<HttpRoute> {
    // Without a handle: the routes are a part of the instance, and a handle would keep the instance running for ever.
    let (allowed, limits) = (Arc::new(allowed), Limits::new());
    let route = |(path, method, _): (&'static str, &'static str, Task)| {
        let (allowed, limits) = (Arc::clone(&allowed), limits.clone());
        let pattern: PathPattern = path.parse().expect("the path begins with a slash, and has no star");
        let answer = move |request: RouteRequest| {
            let api = Api { janus: request.janus, limits: limits.clone() };
            let admitted = api.admit(path, request.head, Some(Operator));
            async move {
                match admitted {
                    Ok(admitted) => Ok(admitted.answer(request.body).await),
                    Err(refusal) => Ok(refusal),
                }
            }
        };
        HttpRoute::new(method, pattern, answer).check(move |head, is_local| allowed(head, is_local))
    };
    ROUTES.into_iter().map(route).collect()
}

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct ReadmeExamples;

#[cfg(test)]
mod tests;
