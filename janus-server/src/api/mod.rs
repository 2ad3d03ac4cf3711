//! The HTTP API: requests that Janus's HTTP port passes on, served on the binary's own runtime.
//!
//! | file | what it is | what it owns |
//! |---|---|---|
//! | `mod.rs` | the API | its limits, and the decision on each request |
//! | `access.rs` | pure | the decision whether a request is allowed |
//! | `events.rs` | a task, and one for each stream | the answers of other routes once a second, as an event stream |
//! | `inspecting.rs` | answers | the figures, with their rates |
//! | `levels.rs` | handlers | the routes that show and change the levels of the log |
//! | `exchange.rs` | the life of a connection | a request of the HTTP port, its answer, and the way back to the port |
//! | `places.rs` | a table | the requests that are carried out at once |
//! | `reloading.rs` | a handler | the route that reads the settings again |
//! | `routes.rs` | table and handlers | the routes, how requests are read, and the answers |
//! | `streams.rs` | a table | the places of event streams, and when they end |
//! | `subscribing.rs` | a task for each stream | the messages of topics as an event stream |
//! | `traceparent.rs` | pure | the line of the log about a publication that is part of a trace |
//! | `tracing.rs` | a task for each trace | an answer sent line by line |
//! | `views.rs` | values | the routes with which operators look at the server, and who may walk through it |
//! | `tests/` | tests over real sockets | the comparison of `openapi.json` with servers |
//!
//! The routes that need an instance alone, and no process, are those of the crate `janus-api`, which mounts have as well.
//!
//! A framework would be larger than the routes themselves, and the routes are a table that the test of `openapi.json`
//! reads.
//!
//! A connection of the HTTP port is kept: behind the answer to a request that was carried out, the connection goes back
//! to the port, which reads the next request, be it for the API, for `/events` or for `/ws`. So idle connections wait in
//! one place, under the limits of that place. `POST /api/publish` does not even leave the port
//! ([`Shared::publish_route`]): the message is decoded, published and answered where those of WebSockets are. A hop to
//! the thread of the API and back costs more than the publication.

mod access;
mod events;
mod exchange;
mod inspecting;
mod levels;
mod places;
mod reloading;
mod routes;
mod streams;
mod subscribing;
#[cfg(test)]
mod tests;
mod traceparent;
mod tracing;
mod views;

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwap;
use http_body_util::{Either, Full};
use hyper::body::Bytes;
use hyper::{Request, Response, header};
use janus_api::{MAX_ANSWERS_BYTES, Room, busy};
use janus_core::wire::{AllowedOrigins, HttpError, HttpRequest, PublishRoute};
use janus_core::{Config, Janus, PassedOn};
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::timeout;

use access::Access;
use events::Shown;
pub(crate) use exchange::Incoming;
use places::Places;
pub(crate) use routes::head_of;
use routes::{Admission, Endpoint};
use streams::Streams;
pub(crate) use tracing::Lines;
use views::{Looks, View, Viewer};

use crate::admin::Health;
use crate::live::Live;
use crate::metrics::{Metrics, Requests, Sources};
use crate::reload::{Reloader, WeakReloader};
use crate::settings::Settings;

/// Longest time from the first byte of a request to the last byte of its answer, however slowly the client reads.
pub(crate) const EXCHANGE_TIMEOUT: Duration = Duration::from_secs(60);

/// Answers to requests that are not carried out: requests beyond `max_api_connections`, without the key, or with a
/// mistake in the path. Beyond this number, connections are closed without an answer.
pub(crate) const MAX_REFUSALS: usize = 64;

/// Answered connections that wait for the client to close; more are closed at once.
pub(crate) const MAX_LINGERING: usize = 64;

/// How many bytes a client may still send after its answer, and for how long, before the connection is closed. Closing
/// with unread bytes would reset the connection, and the answer would be lost.
const LINGER_BYTES: u64 = 1 << 20;
const LINGER_TIMEOUT: Duration = Duration::from_secs(1);

/// Answers of the admin port up to this length take no room in [`MAX_ANSWERS_BYTES`]: 2 MiB for all requests together.
const SMALL_BYTES: usize = 64 << 10;

/// How long a shutdown waits for answers in progress.
const FINISH_TIMEOUT: Duration = Duration::from_secs(1);

/// A port on which the API is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Port {
    /// The port of the clients: `http_listen` and `https_listen`.
    Http,
    /// The port of the operators: `admin_listen`.
    Admin,
}

/// The API of a Janus instance, on one port.
#[derive(Debug)]
pub(crate) struct Api {
    janus: Janus,
    port: Port,
    access: Arc<ArcSwap<Access>>,
    places: Places,
    refusals: Arc<Semaphore>,
    lingering: Semaphore,
    /// Room for large answers.
    answers: Room,
    /// For the routes with which operators look at the server, and for streams of them.
    viewer: Viewer,
    shown: Arc<Shown>,
    streams: Streams,
    /// For the routes of the admin port; `None` on the HTTP port.
    health: Option<Arc<Health>>,
    /// For the route that reads the settings again; empty on the HTTP port.
    reloader: OnceLock<WeakReloader>,
    /// The figures of the server, those of this API among them.
    metrics: Metrics,
    requests: Arc<Requests>,
}

/// Ends a connection without an answer.
#[derive(Debug, thiserror::Error)]
#[error("too many API requests are being refused at once")]
pub(crate) struct Crowded;

impl Api {
    /// `access` are the access rules, whose figures are among those of the server.
    pub(crate) fn new(
        janus: Janus,
        settings: &Settings,
        shared: &Shared,
        access: Option<crate::access::Access>,
    ) -> Self {
        let requests = Arc::clone(&shared.requests);
        let sources = Sources { janus: janus.clone(), health: None, access, requests, started: SystemTime::now() };
        let answers = Room::new(MAX_ANSWERS_BYTES);
        let viewer = Viewer::new(janus.clone(), Arc::new(Live::new(janus.clone())));
        Self {
            janus,
            port: Port::Http,
            access: Arc::clone(&shared.access),
            places: Places::new(settings.max_api_connections),
            refusals: Arc::new(Semaphore::new(MAX_REFUSALS)),
            lingering: Semaphore::new(MAX_LINGERING),
            shown: Arc::new(Shown::new(viewer.clone(), answers.clone())),
            viewer,
            streams: Streams::new(),
            answers,
            health: None,
            reloader: OnceLock::new(),
            metrics: Metrics::new(sources),
            requests: Arc::clone(&shared.requests),
        }
    }

    /// The same API on the admin port, with places of its own: operators look at a server whose HTTP port is full. The
    /// memory for large answers is shared.
    pub(crate) fn on_admin_port(&self, settings: &Settings, max_connections: usize, health: Arc<Health>) -> Self {
        let viewer = self.viewer.with_own_line();
        Self {
            janus: self.janus.clone(),
            port: Port::Admin,
            access: Arc::new(ArcSwap::from_pointee(access(settings, settings.admin_listen.iter()))),
            places: Places::new(max_connections),
            refusals: Arc::new(Semaphore::new(MAX_REFUSALS)),
            lingering: Semaphore::new(MAX_LINGERING),
            answers: self.answers.clone(),
            shown: Arc::new(Shown::new(viewer.clone(), self.answers.clone())),
            viewer,
            streams: Streams::new(),
            metrics: self.metrics.with(|sources| Sources { health: Some(Arc::clone(&health)), ..sources }),
            health: Some(health),
            reloader: OnceLock::new(),
            requests: Arc::clone(&self.requests),
        }
    }

    /// Lets the route for a reload use this reloader.
    pub(crate) fn set_reloader(&self, reloader: &Reloader) {
        let _ = self.reloader.set(reloader.downgrade());
    }

    /// Takes over other settings, for requests from then on. The limits of the core are read with each request.
    pub(crate) fn follow(&self, settings: &Settings) {
        self.access.store(Arc::new(match self.port {
            Port::Http => access_of_clients(settings),
            Port::Admin => access(settings, settings.admin_listen.iter()),
        }));
        if self.port == Port::Http {
            self.places.set_limit(settings.max_api_connections);
        }
    }

    /// Samples the figures of the server from now on, on the current runtime.
    pub(crate) fn start_sampling(&self) {
        self.viewer.live().start();
    }

    /// Maximum bytes of a request's body. A body holds at most a single message.
    fn max_body_bytes(&self) -> usize {
        self.janus.config().max_frame_bytes
    }

    /// For the head of a request, and again for the body.
    fn read_timeout(&self) -> Duration {
        self.janus.config().frame_timeout
    }

    /// Whether the place that [`answer`](Self::answer) took is that of a request carried out, and not of a refusal.
    pub(crate) fn carries_out(&self, place: &OwnedSemaphorePermit) -> bool {
        self.places.has(place)
    }

    /// Whether the place that [`answer`](Self::answer) took is that of a stream, which has no end of its own.
    pub(crate) fn streams(&self, place: &OwnedSemaphorePermit) -> bool {
        self.streams.has(place)
    }

    /// Serves every connection that comes through the channel, on the current runtime.
    pub(crate) fn serve_all(self: &Arc<Self>, mut requests: mpsc::Receiver<PassedOn>) {
        let api = Arc::clone(self);
        tokio::spawn(async move {
            while let Some(request) = requests.recv().await {
                api.serve_passed_on(request);
            }
        });
    }

    /// Serves a connection that the HTTP port has passed on, starting with the bytes already read. Returns at once;
    /// must be called on the runtime that is to serve the connection.
    fn serve_passed_on(self: &Arc<Self>, passed_on: PassedOn) {
        let (api, peer) = (Arc::clone(self), passed_on.peer);
        tokio::spawn(async move {
            let lasts = OnceLock::new();
            let mut exchange = std::pin::pin!(api.exchange(passed_on, &lasts));
            let mut ended = timeout(EXCHANGE_TIMEOUT, &mut exchange).await;
            if let (Err(_), Some(lasting)) = (&ended, lasts.get()) {
                ended = timeout(*lasting, exchange).await;
            }
            match ended {
                Ok(Ok(())) => {}
                Ok(Err(error)) => log::debug!(peer:%; "{peer}: API request failed: {error}"),
                Err(_) => log::debug!(peer:%; "{peer}: API request took too long; connection closed"),
            }
        });
    }

    /// Whether every request is refused, which the log should mention.
    pub(crate) fn is_closed(&self) -> bool {
        matches!(**self.access.load(), Access::Closed)
    }

    /// How many further requests could be carried out now.
    #[cfg(test)]
    pub(crate) fn free_places(&self) -> usize {
        self.places.free()
    }

    /// How many further streams could be served now.
    #[cfg(test)]
    pub(crate) fn free_streams(&self) -> usize {
        self.streams.free()
    }

    /// Ends the streams, and waits until every request being served is answered, at most [`FINISH_TIMEOUT`].
    pub(crate) async fn finish(&self) {
        let finished = async { tokio::join!(self.streams.end(), self.places.all_back()) };
        let _ = timeout(FINISH_TIMEOUT, finished).await;
    }

    /// Makes an answer of up to megabytes, and takes room in `answers` until the last byte is written.
    fn large(&self, body: Vec<u8>) -> Result<Response<Full<Bytes>>, HttpError> {
        Ok(response(200, self.answers.take(body)?))
    }

    /// Answers a view. The few requests that operators may have at once need no account of small answers, which are
    /// given even if other answers take all the memory.
    async fn look(&self, view: View) -> Result<Response<Full<Bytes>>, HttpError> {
        let body = self.viewer.answer(&view, Looks::Once).await?;
        let answer = match self.port {
            Port::Admin if body.len() <= SMALL_BYTES => response(200, body.into()),
            Port::Admin | Port::Http => self.large(body)?,
        };
        Ok(if view.is_text() { with_type(answer, "text/plain; charset=utf-8") } else { answer })
    }

    /// Answers a request. `place` receives the permit the request takes: one of `max_api_connections` only if the
    /// request is carried out. `lasts` receives the extra time a long answer may take. The HTTP port has already read
    /// the head, so a request gets here without waiting.
    pub(crate) async fn answer(
        &self,
        request: Request<Incoming>,
        is_local: bool,
        place: &OnceLock<OwnedSemaphorePermit>,
        lasts: &OnceLock<Duration>,
    ) -> Result<Response<Either<Full<Bytes>, Lines>>, Crowded> {
        let (path, begun) = (self.requests.path(routes::row_of(request.uri().path())), Instant::now());
        let answer = self.decide(request, is_local, place, lasts).await?;
        self.requests.note(path, answer.status().as_u16(), begun.elapsed());
        Ok(answer)
    }

    async fn decide(
        &self,
        request: Request<Incoming>,
        is_local: bool,
        place: &OnceLock<OwnedSemaphorePermit>,
        lasts: &OnceLock<Duration>,
    ) -> Result<Response<Either<Full<Bytes>, Lines>>, Crowded> {
        let answer = match self.admit(&request, is_local) {
            Admission::Granted(endpoint @ (Endpoint::Events | Endpoint::Subscribe)) => {
                let kept = self.streams.keep(&self.access, head_of(&request), is_local);
                let begun = match endpoint {
                    Endpoint::Events => self.events(&request, kept),
                    _ => self.subscribe(&request, kept).await,
                };
                match begun {
                    Ok((answer, stream)) => {
                        if let Some(stream) = stream {
                            place.get_or_init(|| stream);
                        }
                        return Ok(answer.map(Either::Right));
                    }
                    Err(error) => refusal(&error),
                }
            }
            Admission::Granted(endpoint) => {
                if let Some(permit) = self.places.take() {
                    place.get_or_init(|| permit);
                    if endpoint == Endpoint::Trace {
                        let answer = self.trace(&request, lasts).map(|lines| lines.map(Either::Right));
                        return Ok(answer.unwrap_or_else(|error| refusal(&error).map(Either::Left)));
                    }
                    let answer = self.carry_out(endpoint, request).await;
                    return Ok(answer.unwrap_or_else(|error| refusal(&error)).map(Either::Left));
                }
                refusal(&busy("the server's max_api_connections is reached; try again later"))
            }
            Admission::Answered(answer) => answer,
        };
        let permit = Arc::clone(&self.refusals).try_acquire_owned().map_err(|_| Crowded)?;
        place.get_or_init(|| permit);
        Ok(answer.map(Either::Left))
    }
}

/// The parts of the API that its publishing route has as well, before there is an instance to serve.
#[derive(Debug)]
pub(crate) struct Shared {
    access: Arc<ArcSwap<Access>>,
    requests: Arc<Requests>,
}

impl Shared {
    pub(crate) fn new(settings: &Settings) -> Self {
        let requests = Requests::new(routes::ROUTES.iter().map(|(path, ..)| *path));
        Self { access: Arc::new(ArcSwap::from_pointee(access_of_clients(settings))), requests: Arc::new(requests) }
    }

    /// The rule of the API for another form of its key: given a request, the key that the request shows, and whether the
    /// client is on this machine.
    pub(crate) fn authorize(
        &self,
    ) -> impl Fn(&HttpRequest, Option<&str>, bool) -> Result<(), HttpError> + Send + Sync + use<> {
        let access = Arc::clone(&self.access);
        move |request, shown, is_local| access.load().check_shown(shown, request, is_local)
    }

    /// The route of `POST /api/publish` on the HTTP port, served by the port itself.
    pub(crate) fn publish_route(&self) -> PublishRoute {
        const PATH: &str = "/api/publish";
        let (access, requests, path) = (Arc::clone(&self.access), Arc::clone(&self.requests), self.requests.path(PATH));
        let route = PublishRoute::new(PATH, move |request, is_local| access.load().check(request, is_local));
        let route =
            route.on_publication(|request, topic| traceparent::note(traceparent::in_head(request), topic.as_str()));
        route.on_answer(move |status| requests.count(path, status))
    }
}

/// The rules of the HTTP port.
fn access_of_clients(settings: &Settings) -> Access {
    let Config { http_listen, https_listen, .. } = &settings.core;
    access(settings, http_listen.iter().chain(https_listen))
}

fn access<'a>(settings: &Settings, addresses: impl Iterator<Item = &'a SocketAddr>) -> Access {
    let Config { allowed_origins, .. } = &settings.core;
    Access::new(&settings.api_key, addresses, AllowedOrigins::new(allowed_origins.iter().map(String::as_str)))
}

pub(crate) async fn linger(reader: impl AsyncRead + Unpin) {
    let mut rest = reader.take(LINGER_BYTES);
    // The outcome does not matter: the answer has been sent.
    let _ = timeout(LINGER_TIMEOUT, tokio::io::copy(&mut rest, &mut tokio::io::sink())).await;
}

/// A response with a JSON body.
fn response(status: u16, body: Bytes) -> Response<Full<Bytes>> {
    Response::builder()
        .status(status)
        .header(header::CONTENT_TYPE, "application/json")
        .header(header::CACHE_CONTROL, "no-store")
        .body(Full::new(body))
        .expect("the status and the headers are right")
}

/// The response with another content type.
fn with_type(mut response: Response<Full<Bytes>>, content_type: &'static str) -> Response<Full<Bytes>> {
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(content_type));
    response
}

fn refusal(error: &HttpError) -> Response<Full<Bytes>> {
    let mut response = response(error.status, error.body());
    for (name, value) in error.headers() {
        let value = header::HeaderValue::try_from(value).expect("the value is one line of ASCII");
        response.headers_mut().insert(name, value);
    }
    response
}
