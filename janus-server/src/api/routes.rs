//! The routes of the API: how each request is read, and the answer.
//!
//! `openapi.json` describes the same for programs; the tests compare the two.

use std::error::Error;
use std::fmt::Write as _;
use std::io;

use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::body::{Body as _, Bytes};
use hyper::{Method, Request, Response, Version, header};
use janus_api::{Operation, bad_request};
use janus_core::wire::{ErrorCode, HttpError, HttpRequest};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use super::{Api, Incoming, Port, View, refusal, response, traceparent, with_type};
use crate::admin::health;
use crate::dashboard;
use crate::metrics::Format;

/// The OpenAPI description, and the part of the text that depends on the server's settings.
const OPENAPI: &str = include_str!("../../openapi.json");
const DEFAULT_TOPIC_BYTES: &str = "\"maxLength\": 255,";

/// The OpenAPI description of a server with this setting.
pub(super) fn openapi(max_topic_bytes: usize) -> Bytes {
    OPENAPI.replacen(DEFAULT_TOPIC_BYTES, &format!("\"maxLength\": {max_topic_bytes},"), 1).into()
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Endpoint {
    /// A part of the API that mounts have as well.
    Operation(Operation),
    View,
    Trace,
    Levels,
    ChangeLevel,
    ResetLevels,
    OpenApi,
    Reload,
    Index,
    Dashboard,
    Livez,
    Readyz,
    Metrics,
    Events,
    Subscribe,
}

/// The ports on which a route is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Served {
    /// On the HTTP port and on the admin port.
    Everywhere,
    /// On the admin port alone; on the HTTP port the path is unknown.
    Admin,
}

/// Every path with a method. A path with several methods has several rows. GET includes HEAD, for which hyper omits the
/// body.
pub(super) const ROUTES: &[(&str, Method, Served, Endpoint)] = &[
    ("/", Method::GET, Served::Admin, Endpoint::Index),
    (dashboard::PATH, Method::GET, Served::Admin, Endpoint::Dashboard),
    ("/livez", Method::GET, Served::Admin, Endpoint::Livez),
    ("/readyz", Method::GET, Served::Admin, Endpoint::Readyz),
    // Paths that are in the templates of many an operator.
    ("/healthz", Method::GET, Served::Admin, Endpoint::Readyz),
    ("/health/live", Method::GET, Served::Admin, Endpoint::Livez),
    ("/health/ready", Method::GET, Served::Admin, Endpoint::Readyz),
    ("/api/stats", Method::GET, Served::Admin, Endpoint::View),
    ("/api/tree", Method::GET, Served::Admin, Endpoint::View),
    ("/api/slow", Method::GET, Served::Admin, Endpoint::View),
    ("/api/nodes", Method::GET, Served::Admin, Endpoint::Operation(Operation::Nodes)),
    ("/api/events", Method::GET, Served::Admin, Endpoint::Events),
    ("/api/subscribe", Method::GET, Served::Admin, Endpoint::Subscribe),
    ("/api/publish", Method::POST, Served::Everywhere, Endpoint::Operation(Operation::Publish)),
    ("/api/broadcast", Method::POST, Served::Everywhere, Endpoint::Operation(Operation::Broadcast)),
    ("/api/history", Method::POST, Served::Everywhere, Endpoint::Operation(Operation::History)),
    ("/api/presence", Method::GET, Served::Everywhere, Endpoint::Operation(Operation::Presence)),
    ("/api/topics", Method::GET, Served::Everywhere, Endpoint::View),
    ("/api/connections", Method::GET, Served::Everywhere, Endpoint::View),
    ("/api/disconnect", Method::POST, Served::Everywhere, Endpoint::Operation(Operation::Disconnect)),
    ("/api/revoke", Method::POST, Served::Everywhere, Endpoint::Operation(Operation::Revoke)),
    ("/api/trace", Method::GET, Served::Everywhere, Endpoint::Trace),
    ("/api/log", Method::GET, Served::Admin, Endpoint::Levels),
    ("/api/log", Method::PUT, Served::Admin, Endpoint::ChangeLevel),
    ("/api/log", Method::DELETE, Served::Admin, Endpoint::ResetLevels),
    ("/api/reload", Method::POST, Served::Admin, Endpoint::Reload),
    ("/api/openapi.json", Method::GET, Served::Everywhere, Endpoint::OpenApi),
    ("/metrics", Method::GET, Served::Admin, Endpoint::Metrics),
];

/// Why a request has no endpoint.
enum NoRoute {
    /// With a hint.
    UnknownPath(&'static str),
    /// The path accepts these methods.
    OtherMethod(String),
}

impl NoRoute {
    fn refusal(self) -> Response<Full<Bytes>> {
        match self {
            Self::UnknownPath(hint) => refusal(&HttpError::new(404, "unknown_path", hint)),
            Self::OtherMethod(allowed) => {
                let error = HttpError::new(405, "method_not_allowed", format!("this path accepts {allowed}"));
                let mut refusal = refusal(&error);
                let allowed = header::HeaderValue::try_from(allowed).expect("methods are letters");
                refusal.headers_mut().insert(header::ALLOW, allowed);
                refusal
            }
        }
    }
}

impl Port {
    fn serves(self, served: Served) -> bool {
        self == Self::Admin || served == Served::Everywhere
    }
}

/// The decision on a request, made from its head.
pub(super) enum Admission {
    /// The request may be carried out.
    Granted(Endpoint),
    /// The request is already answered.
    Answered(Response<Full<Bytes>>),
}

impl Api {
    /// Decides from the head alone whether a request may be carried out.
    pub(super) fn admit(&self, request: &Request<Incoming>, is_local: bool) -> Admission {
        let endpoint = match self.route(request) {
            Ok(endpoint) => endpoint,
            Err(no_route) => return Admission::Answered(no_route.refusal()),
        };
        if let Some(answer) = self.public(endpoint, request) {
            let answer = no_query(request).map(|()| answer);
            return Admission::Answered(answer.unwrap_or_else(|error| refusal(&error)));
        }
        match self.access.load().check(&head_of(request), is_local) {
            Ok(()) => Admission::Granted(endpoint),
            Err(error) => Admission::Answered(refusal(&error)),
        }
    }

    /// The endpoint of the request's path and method on this port.
    fn route(&self, request: &Request<Incoming>) -> Result<Endpoint, NoRoute> {
        let path = row_of(request.uri().path());
        let rows: Vec<_> = ROUTES.iter().filter(|(of_row, ..)| *of_row == path).collect();
        let (served, elsewhere): (Vec<_>, Vec<_>) =
            rows.into_iter().partition(|(_, _, served, _)| self.port.serves(*served));
        if served.is_empty() {
            let message = match (self.port, elsewhere.is_empty()) {
                // What a newcomer asks for first, with a browser.
                (Port::Http, false) if path == "/" => {
                    "a Janus server has no page here; WebSockets are at /ws, server-sent events at /events?topic=NAME, and \
                     the API below /api/, described in /api/openapi.json. The admin port (admin_listen) has an overview \
                     at its own /"
                }
                (_, false) => "unknown path; this path is served on the admin port (admin_listen) only",
                (Port::Http, true) => {
                    "unknown path; the API is described in /api/openapi.json, WebSockets are at /ws and server-sent \
                     events at /events"
                }
                (Port::Admin, true) => "unknown path; GET / lists the paths of the admin port",
            };
            return Err(NoRoute::UnknownPath(message));
        }
        // The answer to HEAD is that to GET.
        let method = if request.method() == Method::HEAD { &Method::GET } else { request.method() };
        if let Some((.., endpoint)) = served.iter().find(|(_, accepted, ..)| accepted == method) {
            return Ok(*endpoint);
        }
        let allowed: Vec<&str> = served.iter().map(|(_, method, ..)| in_words(method)).collect();
        Err(NoRoute::OtherMethod(allowed.join(", ")))
    }

    /// The answer of an endpoint that needs neither a key nor a place.
    fn public(&self, endpoint: Endpoint, request: &Request<Incoming>) -> Option<Response<Full<Bytes>>> {
        match endpoint {
            // The description is public in the source.
            Endpoint::OpenApi => Some(response(200, openapi(self.janus.config().max_topic_bytes))),
            Endpoint::Livez => Some(health(&self.health.as_ref()?.live())),
            Endpoint::Readyz => Some(health(&self.health.as_ref()?.ready())),
            Endpoint::Index if dashboard::is_wanted(request.headers()) => Some(dashboard::page()),
            Endpoint::Index => Some(with_type(response(200, index().into()), "text/plain; charset=utf-8")),
            Endpoint::Dashboard => dashboard::file(request.uri().path()),
            _ => None,
        }
    }

    pub(super) async fn carry_out(
        &self,
        endpoint: Endpoint,
        request: Request<Incoming>,
    ) -> Result<Response<Full<Bytes>>, HttpError> {
        match endpoint {
            Endpoint::Operation(operation) => self.operate(operation, request).await,
            Endpoint::View => {
                let route = request.uri().path().trim_start_matches("/api/");
                let view = View::of(route, request.uri().query().unwrap_or_default())?;
                // A body is not `Sync`, and must not be held across the wait below.
                drop(request);
                self.look(view).await
            }
            Endpoint::Levels => no_query(&request).map(|()| self.levels()),
            Endpoint::ChangeLevel => self.change_level(self.body(request).await?),
            Endpoint::ResetLevels => self.reset_levels(&request),
            Endpoint::Metrics => self.scrape(&request),
            Endpoint::Reload => {
                check_reload(&request)?;
                drop(request);
                self.reload().await
            }
            Endpoint::Trace | Endpoint::Events | Endpoint::Subscribe => unreachable!("answered line by line"),
            Endpoint::OpenApi | Endpoint::Index | Endpoint::Dashboard | Endpoint::Livez | Endpoint::Readyz => {
                unreachable!("answered by `admit`")
            }
        }
    }

    /// Carries out an operation of the API that mounts have as well.
    async fn operate(
        &self,
        operation: Operation,
        request: Request<Incoming>,
    ) -> Result<Response<Full<Bytes>>, HttpError> {
        let head = head_of(&request);
        operation.check(&head)?;
        let body = if operation.has_body() { self.bytes(request).await? } else { Bytes::new() };
        let note = |topic: &str| traceparent::note(traceparent::in_head(&head), topic);
        let answer = operation.carry_out((&self.janus, &self.answers), &head, body, note).await?;
        Ok(response(200, answer))
    }

    fn scrape(&self, request: &Request<Incoming>) -> Result<Response<Full<Bytes>>, HttpError> {
        no_query(request)?;
        let format = Format::of(request.headers());
        Ok(with_type(response(200, self.metrics.scrape(format).into()), format.content_type()))
    }

    /// Reads the body as JSON of this type.
    pub(super) async fn body<T: DeserializeOwned>(&self, request: Request<Incoming>) -> Result<T, HttpError> {
        no_query(&request)?;
        // Without a preflight, a page of another site can send JSON only under another content type.
        if !has_type(&request, "application/json") {
            let message = "the body must be JSON with the header Content-Type: application/json";
            return Err(HttpError::new(415, "unsupported_media_type", message));
        }
        let body = self.bytes(request).await?;
        // serde would accept an array as a struct without the names of the fields.
        if body.trim_ascii_start().starts_with(b"[") {
            return Err(bad_request("the body: expected an object, got an array"));
        }
        serde_json::from_slice(&body).map_err(|error| {
            let code = if error.is_data() { ErrorCode::BadRequest } else { ErrorCode::BadJson };
            HttpError::new(400, code.as_str(), format!("the body: {error}"))
        })
    }

    /// Reads the body as it is.
    pub(super) async fn bytes(&self, request: Request<Incoming>) -> Result<Bytes, HttpError> {
        let max = self.max_body_bytes();
        let too_large = || {
            let message = format!("the body is longer than max_frame_bytes, {max} bytes");
            HttpError::new(413, ErrorCode::FrameTooLarge.as_str(), message)
        };
        let body = request.into_body();
        if body.size_hint().lower() > max as u64 {
            return Err(too_large());
        }
        match timeout(self.read_timeout(), Limited::new(body, max).collect()).await {
            Ok(Ok(body)) => Ok(body.to_bytes()),
            Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_large()),
            Ok(Err(error)) => Err(unreadable(&*error)),
            Err(_) => {
                let message = "body not completed within frame_timeout";
                Err(HttpError::new(408, ErrorCode::FrameTimeout.as_str(), message))
            }
        }
    }
}

/// Refuses a request for a reload that has parameters or a body.
fn check_reload(request: &Request<Incoming>) -> Result<(), HttpError> {
    no_query(request)?;
    // A caller with a body expects settings to be read from there.
    match request.body().is_end_stream() {
        true => Ok(()),
        false => Err(bad_request("the body: this path accepts none; the settings come from the server's file")),
    }
}

/// Whether the body of a request is declared as of this type.
fn has_type(request: &Request<Incoming>, kind: &str) -> bool {
    request.headers().get(header::CONTENT_TYPE).is_some_and(|value| {
        let declared = value.to_str().unwrap_or_default().split(';').next().unwrap_or_default();
        declared.trim().eq_ignore_ascii_case(kind)
    })
}

/// Why a body cannot be read: a mistake of the client, or an early end of the stream, after which the same request may
/// succeed.
fn unreadable(error: &(dyn Error + Send + Sync + 'static)) -> HttpError {
    if let Some(error) = error.downcast_ref::<HttpError>() {
        return error.clone();
    }
    let first: &(dyn Error + 'static) = error;
    let causes = std::iter::successors(Some(first), |&error| error.source());
    // The kind is all that hyper tells about a malformed chunk.
    let malformed = causes
        .filter_map(|cause| cause.downcast_ref::<io::Error>())
        .find(|cause| matches!(cause.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData));
    match malformed {
        Some(cause) => HttpError::new(400, ErrorCode::BadFrame.as_str(), format!("the chunks of the body: {cause}")),
        None => HttpError::new(400, ErrorCode::UnfinishedFrame.as_str(), format!("the body: {error}")),
    }
}

/// The path of the row for a request's path.
pub(super) fn row_of(path: &str) -> &str {
    if dashboard::has(path) { dashboard::PATH } else { path }
}

/// The methods of a row, as in the header `Allow`.
fn in_words(method: &Method) -> &str {
    if method == Method::GET { "GET, HEAD" } else { method.as_str() }
}

/// The paths of the admin port, for people.
fn index() -> String {
    let mut text = format!("janus-server {}\n\n", env!("CARGO_PKG_VERSION"));
    for (path, method, ..) in ROUTES {
        let _ = writeln!(text, "{:<9} {path}", in_words(method));
    }
    text
}

/// The part of a request that [`super::Access`] checks.
pub(crate) fn head_of(request: &Request<Incoming>) -> HttpRequest {
    let headers = request.headers().iter().map(|(name, value)| (name.as_str(), value.as_bytes()));
    let head = HttpRequest::new(request.method().as_str(), request.uri().to_string(), headers);
    HttpRequest { is_http_1_0: request.version() == Version::HTTP_10, ..head }
}

/// Refuses a query on a path without parameters: only the sender would notice an ignored parameter.
fn no_query(request: &Request<Incoming>) -> Result<(), HttpError> {
    match request.uri().query() {
        None | Some("") => Ok(()),
        Some(_) => Err(bad_request("the query: this path accepts no parameters")),
    }
}

pub(super) fn json(answer: &impl Serialize) -> Response<Full<Bytes>> {
    response(200, to_json(answer).into())
}

fn health(answer: &health::Answer) -> Response<Full<Bytes>> {
    response(if answer.is_good() { 200 } else { 503 }, to_json(answer).into())
}

pub(super) fn to_json(answer: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(answer).expect("answers have only strings as keys of maps")
}
