//! Janus in an axum router, in one line: [`routes`].
//!
//! ```
//! use axum::Router;
//! use janus_core::{Config, Janus};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let janus = Janus::builder().config(Config { listen: vec![], ..Config::default() }).start().await?;
//! let app: Router = Router::new().merge(janus_axum::routes(&janus));
//! # drop(app);
//! # janus.shutdown().await;
//! # Ok(())
//! # }
//! ```
//!
//! # Who the client is
//!
//! A middleware of the program that knows the client puts an [`Identity`] into the extensions of the request, and the hooks
//! of the instance are not asked who the client is. The grants of the identity hold, and Janus closes the client at the identity's end.
//!
//! ```
//! use axum::extract::Request;
//! use axum::http::StatusCode;
//! use axum::middleware::{self, Next};
//! use axum::response::Response;
//! use janus_core::hooks::{Identity, Patterns};
//! # use axum::Router;
//! # use janus_core::{Config, Janus};
//!
//! async fn sign_in(mut request: Request, next: Next) -> Result<Response, StatusCode> {
//!     let user = user_of(&request).ok_or(StatusCode::UNAUTHORIZED)?;
//!     let own = Patterns::new(["news".to_owned(), format!("{user}:*")]).map_err(|_| StatusCode::FORBIDDEN)?;
//!     request.extensions_mut().insert(Identity::user(user).subscribe(own).publish(false));
//!     Ok(next.run(request).await)
//! }
//!
//! /// The user of a session or a token, by the means of the program.
//! fn user_of(request: &Request) -> Option<String> {
//! #   let _ = request;
//!     None
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let config = Config { listen: vec![], ..Config::default() };
//! # let janus = Janus::builder().config(config).start().await?;
//! let app: Router = janus_axum::routes(&janus).layer(middleware::from_fn(sign_in));
//! # drop(app);
//! # janus.shutdown().await;
//! # Ok(())
//! # }
//! ```
//!
//! Without such a middleware the hooks decide, as on Janus's own port; without hooks, every client may subscribe.
//!
//! # The API of operators
//!
//! [`api`] has the routes that publish, list, read and disconnect without asking whose message or client it is. **Each
//! request has all rights**, so the routes are apart from those of clients, and refuse every request that no middleware of the
//! program has marked with an [`Operator`]:
//!
//! ```
//! use axum::Router;
//! use axum::extract::Request;
//! use axum::http::StatusCode;
//! use axum::middleware::{self, Next};
//! use axum::response::Response;
//! use janus_axum::Operator;
//!
//! async fn only_operators(mut request: Request, next: Next) -> Result<Response, StatusCode> {
//!     if !is_operator(&request) {
//!         return Err(StatusCode::UNAUTHORIZED);
//!     }
//!     request.extensions_mut().insert(Operator);
//!     Ok(next.run(request).await)
//! }
//!
//! /// Whether a session, a key or a certificate is that of an operator, by the means of the program.
//! fn is_operator(request: &Request) -> bool {
//! #   let _ = request;
//!     false
//! }
//!
//! fn app(janus: &janus_core::Janus) -> Router {
//!     let admin = janus_axum::api(janus).layer(middleware::from_fn(only_operators));
//!     Router::new().merge(janus_axum::routes(janus)).nest("/admin", admin) // /admin/api/topics, and so on
//! }
//! ```
//!
//! # Shutting down
//!
//! Streams and WebSockets last as long as Janus: shut Janus down first ([`Janus::shutdown`] says goodbye to each client), and then the
//! server.

#![forbid(unsafe_code)]

use std::error::Error;
use std::net::SocketAddr;
use std::sync::Once;

use axum::body::{Body, to_bytes};
use axum::extract::{ConnectInfo, Request, State};
use axum::http::{HeaderName, HeaderValue, Response, StatusCode, Version};
use axum::routing::any;
use axum::{RequestExt as _, Router};
use http_body_util::LengthLimitError;
use hyper::body::Bytes;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use hyper_util::server::conn::auto::upgrade;
use janus_api::ROUTES;
pub use janus_api::{Api, Operator};
use janus_core::hooks::Identity;
use janus_core::mount::{Answer, BodyError, Mount};
use janus_core::wire::{HttpError, HttpRequest, PathPattern, Peer};
use janus_core::{Incoming, Janus, RouteResponse};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// The routes `/ws`, `/events` and `/api/publish` of an instance, and the paths of its [`Builder::websocket`] and
/// [`Builder::route`], to be [merged](Router::merge) into the program's router, or [nested](Router::nest) below a path. A layer
/// around them comes before Janus. Where a path of [`Builder::route`] is one of the three, the three come first.
///
/// All routes of [`Builder::route`] are open to the public of this server, those of [`janus_api::routes`] among them. Their
/// [`HttpRoute::check`](janus_core::HttpRoute::check) decides about each request before the body is read, and
/// [`RouteRequest::is_local`](janus_core::RouteRequest::is_local) is never true here.
///
/// A page of another origin may use `/events` and `/api/publish` under
/// [`Config::allowed_origins`](janus_core::Config::allowed_origins), and the preflights of its browser are answered here, if the
/// layers let `OPTIONS` through.
///
/// [`Builder::websocket`]: janus_core::Builder::websocket
/// [`Builder::route`]: janus_core::Builder::route
///
/// Serve the app with [`into_make_service_with_connect_info`](Router::into_make_service_with_connect_info)`::<SocketAddr>()`: the
/// limits of an address need the address of the client. A middleware may name another [`Peer`] in the extensions of the request, such as
/// [`Peer::Local`] for a Unix socket. Without either, each request is answered with the status 500.
///
/// The routes keep the instance running, like any other handle. Clients are refused as [`Mount::websocket`],
/// [`Mount::events`] and [`Mount::publish`] say.
///
/// # Panics
///
/// axum panics if the router into which the routes are merged has one of their paths already: `/ws`, `/events`, `/api/publish`, or a
/// path of [`Builder::websocket`] or [`Builder::route`].
pub fn routes<S: Clone + Send + Sync + 'static>(janus: &Janus) -> Router<S> {
    let mount = Mount::new(janus);
    let mut router = Router::new()
        .without_v07_checks()
        .route("/ws", any(websocket))
        .route("/events", any(events))
        .route("/api/publish", any(publish));
    let mut taken = ["/ws", "/events", "/api/publish"].map(str::to_owned).to_vec();
    for path in mount.paths().iter().flat_map(in_words_of_axum) {
        if !taken.contains(&path) {
            router = router.route(&path, any(of_program));
            taken.push(path);
        }
    }
    router.with_state(mount)
}

/// The routes of [`janus_api::ROUTES`], for operators: see the [crate's documentation](crate#the-api-of-operators). **Without
/// an [`Operator`] in the extensions, each request is refused with status 403.**
///
/// `/api/publish` is among the paths, so the router cannot be merged beside [`routes`] at the same place: axum panics. Nest one
/// of the two, or serve the API on a port of its own.
pub fn api<S: Clone + Send + Sync + 'static>(janus: &Janus) -> Router<S> {
    api_of(&Api::new(janus))
}

/// As [`api`], with limits of the program's choice.
pub fn api_of<S: Clone + Send + Sync + 'static>(api: &Api) -> Router<S> {
    let route = |router: Router<Api>, (path, ..): (&'static str, &str, _)| {
        router.route(path, any(move |State(api): State<Api>, request: Request| operate(api, path, request)))
    };
    ROUTES.into_iter().fold(Router::new(), route).with_state(api.clone())
}

/// The paths of a pattern as axum writes them.
fn in_words_of_axum(pattern: &PathPattern) -> Vec<String> {
    let text = pattern.to_string();
    let escaped = text.trim_end_matches('*').replace('{', "{{").replace('}', "}}");
    // A part of a path at the end of axum's is never empty.
    let all = text.ends_with('*').then(|| format!("{escaped}{{*rest}}"));
    [escaped].into_iter().chain(all).collect()
}

async fn websocket(State(mount): State<Mount>, mut request: Request) -> Response<Body> {
    let Some(peer) = peer_of(&mut request).await else { return unknown_peer() };
    let decided = mount.websocket(head_of(&request), peer, request.extensions().get::<Identity>().cloned());
    let accepted = match decided.await {
        Ok(accepted) => accepted,
        Err(answer) => return response(answer),
    };
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    for (name, value) in accepted.headers() {
        put(&mut response, name, value);
    }
    let patience = mount.janus().config().frame_timeout;
    let upgraded = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        // A client that has gone before the upgrade needs nothing.
        let Ok(Ok(upgraded)) = timeout(patience, upgraded).await else { return };
        let (incoming, received) = incoming(upgraded, peer);
        if let Err(error) = accepted.serve(incoming, received) {
            log::debug!("a WebSocket is closed: {error}");
        }
    });
    response
}

async fn events(State(mount): State<Mount>, mut request: Request) -> Response<Body> {
    let Some(peer) = peer_of(&mut request).await else { return unknown_peer() };
    let identity = request.extensions().get::<Identity>().cloned();
    response(mount.events(head_of(&request), peer, identity).await)
}

async fn publish(State(mount): State<Mount>, mut request: Request) -> Response<Body> {
    let Some(peer) = peer_of(&mut request).await else { return unknown_peer() };
    let identity = request.extensions().get::<Identity>().cloned();
    let head = head_of(&request);
    match body_of(request, mount.janus(), mount.janus().config().max_frame_bytes).await {
        Ok(body) => response(mount.publish(head, &body, peer, identity).await),
        Err(error) => response(mount.refusal(&HttpError::from(&error), &head)),
    }
}

/// A request to a path of the program's own.
async fn of_program(State(mount): State<Mount>, mut request: Request) -> Response<Body> {
    if mount.is_websocket(request.uri().path()) {
        return websocket(State(mount), request).await;
    }
    let Some(peer) = peer_of(&mut request).await else { return unknown_peer() };
    let head = head_of(&request);
    let routed = match mount.route(head.clone(), peer) {
        Ok(routed) => routed,
        Err(answer) => return response(answer),
    };
    match body_of(request, mount.janus(), routed.max_body_bytes()).await {
        Ok(body) => response(routed.answer(body).await),
        Err(error) => response(mount.refusal(&HttpError::from(&error), &head)),
    }
}

/// A request to the API of operators.
async fn operate(api: Api, path: &'static str, request: Request) -> Response<Body> {
    let operator = request.extensions().get::<Operator>().copied();
    let admitted = match api.admit(path, head_of(&request), operator) {
        Ok(admitted) => admitted,
        Err(refusal) => return response(refusal.into()),
    };
    let body = match admitted.has_body() {
        true => body_of(request, api.janus(), api.janus().config().max_frame_bytes).await,
        false => Ok(Bytes::new()),
    };
    response(match body {
        Ok(body) => admitted.answer(body).await.into(),
        Err(error) => RouteResponse::from(&HttpError::from(&error)).into(),
    })
}

async fn body_of(request: Request, janus: &Janus, max: usize) -> Result<Bytes, BodyError> {
    match timeout(janus.config().frame_timeout, to_bytes(request.into_body(), max)).await {
        Ok(Ok(body)) => Ok(body),
        Ok(Err(error)) => {
            let mut causes = std::iter::successors(Some(&error as &(dyn Error + 'static)), |&cause| cause.source());
            let is_too_large = causes.any(|cause| cause.is::<LengthLimitError>());
            Err(if is_too_large { BodyError::TooLarge(max) } else { BodyError::Broken(error.to_string()) })
        }
        Err(_) => Err(BodyError::TooSlow),
    }
}

async fn peer_of(request: &mut Request) -> Option<Peer> {
    if let Some(peer) = request.extensions().get::<Peer>() {
        return Some(*peer);
    }
    let ConnectInfo(addr) = request.extract_parts::<ConnectInfo<SocketAddr>>().await.ok()?;
    Some(addr.into())
}

fn head_of(request: &Request) -> HttpRequest {
    let headers = request.headers().iter().map(|(name, value)| (name.as_str(), value.as_bytes()));
    let head = HttpRequest::new(request.method().as_str(), request.uri().to_string(), headers);
    HttpRequest { is_http_1_0: request.version() == Version::HTTP_10, ..head }
}

/// The socket inside of an upgraded connection, or the whole stream in place of a socket, with the bytes read behind the request.
fn incoming(upgraded: Upgraded, peer: Peer) -> (Incoming, Bytes) {
    let upgraded = match upgrade::downcast::<TokioIo<TcpStream>>(upgraded) {
        Ok(parts) => {
            let stream = parts.io.into_inner();
            return match stream.peer_addr() {
                Ok(addr) => (Incoming::tcp(stream, addr), parts.read_buf),
                // The client has gone; the stream says so again.
                Err(_) => (Incoming::stream_from(stream, peer), parts.read_buf),
            };
        }
        Err(upgraded) => upgraded,
    };
    #[cfg(unix)]
    let upgraded = match upgrade::downcast::<TokioIo<tokio::net::UnixStream>>(upgraded) {
        Ok(parts) => return (Incoming::unix(parts.io.into_inner()), parts.read_buf),
        Err(upgraded) => upgraded,
    };
    (Incoming::stream_from(TokioIo::new(upgraded), peer), Bytes::new())
}

fn response(answer: Answer) -> Response<Body> {
    let Answer { status, headers, body, .. } = answer;
    let body = match body.as_whole() {
        Some(whole) => Body::from(whole.clone()),
        None => Body::from_stream(body),
    };
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    for (name, value) in &headers {
        put(&mut response, name, value);
    }
    response
}

/// Adds a header. The headers of Janus are valid.
fn put(response: &mut Response<Body>, name: &str, value: &str) {
    if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) {
        response.headers_mut().append(name, value);
    }
}

fn unknown_peer() -> Response<Body> {
    static TOLD: Once = Once::new();
    const MESSAGE: &str = "the address of the client is unknown: serve the app with \
                           into_make_service_with_connect_info::<SocketAddr>(), or put a janus_core::wire::Peer into the \
                           extensions of the request";
    TOLD.call_once(|| log::error!("{MESSAGE}"));
    response(RouteResponse::from(&HttpError::new(500, "internal", MESSAGE)).into())
}

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct ReadmeExamples;

#[cfg(test)]
mod tests {
    use axum::http::header::{CONNECTION, UPGRADE};
    use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
    use tokio::sync::mpsc;

    use super::*;

    const REQUEST: &[u8] = b"GET /up HTTP/1.1\r\nhost: localhost\r\nconnection: upgrade\r\nupgrade: bytes\r\n\r\nahead";

    /// An app that upgrades each connection, and tells what the upgrade has given.
    fn app() -> (Router, mpsc::Receiver<(String, Bytes)>) {
        let (told, seen) = mpsc::channel(1);
        let upgrade = move |mut request: Request| async move {
            let upgraded = hyper::upgrade::on(&mut request);
            tokio::spawn(async move {
                let (incoming, received) = incoming(upgraded.await.expect("an upgrade"), Peer::Local);
                told.send((format!("{incoming:?}"), received)).await.expect("the test waits");
            });
            (StatusCode::SWITCHING_PROTOCOLS, [(CONNECTION, "upgrade"), (UPGRADE, "bytes")])
        };
        (Router::new().route("/up", any(upgrade)), seen)
    }

    async fn ask(mut stream: impl AsyncRead + AsyncWrite + Unpin) {
        stream.write_all(REQUEST).await.expect("the app reads");
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).await.expect("the app answers");
        assert_eq!(&answer, b"HTTP/1.1 101");
    }

    #[tokio::test]
    async fn a_socket_leaves_axum_with_the_upgrade_and_with_all_its_bytes() {
        let (app, mut seen) = app();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let addr = listener.local_addr().expect("an address");
        tokio::spawn(async move { axum::serve(listener, app).await });
        ask(TcpStream::connect(addr).await.expect("the app listens")).await;
        let (incoming, received) = seen.recv().await.expect("an upgrade");
        assert!(incoming.contains("Tcp"), "{incoming}");
        assert_eq!(received, "ahead");
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn a_unix_socket_leaves_axum_as_well() {
        let (app, mut seen) = app();
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("socket");
        let listener = tokio::net::UnixListener::bind(&path).expect("a socket");
        tokio::spawn(async move { axum::serve(listener, app).await });
        ask(tokio::net::UnixStream::connect(&path).await.expect("the app listens")).await;
        let (incoming, received) = seen.recv().await.expect("an upgrade");
        assert!(incoming.contains("Unix"), "{incoming}");
        assert_eq!(received, "ahead");
    }
}
