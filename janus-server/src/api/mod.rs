//! The HTTP API: requests that Janus's HTTP port passes on, served on the binary's own runtime.
//!
//! | file | what it is | what it owns |
//! |---|---|---|
//! | `mod.rs` | the life of a connection | the limits of the API, the only request, the end |
//! | `access.rs` | pure | the decision whether a request is allowed |
//! | `inspecting.rs` | handlers | the routes with which operators look at the server |
//! | `revoking.rs` | a handler | the route that revokes users and tokens |
//! | `routes.rs` | table and handlers | the routes, how requests are read, and the answers |
//! | `tracing.rs` | a task for each trace | the only answer sent line by line |
//! | `tests/` | tests over real sockets | the comparison of `openapi.json` with servers |
//!
//! hyper reads and writes HTTP. A framework on top would be larger than the routes themselves, and the routes are a
//! table that the test of `openapi.json` reads.
//!
//! A connection serves one request and announces this with `connection: close`. Otherwise a browser would reuse a kept
//! connection to request `/events`, and a connection cannot be handed back to Janus.

mod access;
mod inspecting;
mod revoking;
mod routes;
#[cfg(test)]
mod tests;
mod tracing;

use std::io::Cursor;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime};

use http_body_util::{Either, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response, header};
use hyper_util::rt::{TokioIo, TokioTimer};
use janus_core::wire::{AllowedOrigins, HttpError};
use janus_core::{Config, Janus, PassedOn, PassedStream};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::timeout;

use access::Access;
pub(crate) use routes::head_of;
use routes::{Admission, Endpoint};
pub(crate) use tracing::Lines;

use crate::admin::Health;
use crate::metrics::{Metrics, Requests, Sources};
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

/// Memory for all large answers that clients are still reading. A further answer that does not fit gets status 503.
const MAX_ANSWERS_BYTES: usize = 64 << 20;

/// How long a shutdown waits for answers in progress.
const FINISH_TIMEOUT: Duration = Duration::from_secs(1);

/// Bytes of a request head that hyper may buffer. The HTTP port has already accepted the head.
const HEAD_BUFFER_BYTES: usize = 64 * 1024;

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
    access: Access,
    /// Maximum bytes of a request's body. A body holds at most a single message.
    max_body_bytes: usize,
    max_topic_bytes: usize,
    /// For the head of a request, and again for the body.
    read_timeout: Duration,
    max_connections: usize,
    connections: Arc<Semaphore>,
    refusals: Arc<Semaphore>,
    lingering: Semaphore,
    /// Room for large answers: one permit per byte.
    answers: Arc<Semaphore>,
    /// The copy of the supervision tree.
    trees: Arc<Semaphore>,
    /// The OpenAPI description.
    openapi: Bytes,
    /// For the routes of the admin port; `None` on the HTTP port.
    health: Option<Arc<Health>>,
    /// The figures of the server, those of this API among them.
    metrics: Metrics,
    requests: Arc<Requests>,
}

/// Ends a connection without an answer.
#[derive(Debug, thiserror::Error)]
#[error("too many API requests are being refused at once")]
pub(crate) struct Crowded;

impl Api {
    pub(crate) fn new(janus: Janus, settings: &Settings) -> Self {
        let core = &settings.core;
        let requests = Arc::new(Requests::new(routes::ROUTES.iter().map(|(path, ..)| *path)));
        let sources = Sources {
            janus: janus.clone(),
            health: None,
            tokens: None,
            ask: None,
            reporter: None,
            requests: Arc::clone(&requests),
            started: SystemTime::now(),
        };
        Self {
            janus,
            port: Port::Http,
            access: access(settings, core.http_listen.iter().chain(&core.https_listen)),
            max_body_bytes: core.max_frame_bytes,
            max_topic_bytes: core.max_topic_bytes,
            read_timeout: core.frame_timeout,
            max_connections: settings.max_api_connections,
            connections: Arc::new(Semaphore::new(settings.max_api_connections)),
            refusals: Arc::new(Semaphore::new(MAX_REFUSALS)),
            lingering: Semaphore::new(MAX_LINGERING),
            answers: Arc::new(Semaphore::new(MAX_ANSWERS_BYTES)),
            trees: Arc::new(Semaphore::new(1)),
            openapi: routes::openapi(core.max_topic_bytes),
            health: None,
            metrics: Metrics::new(sources),
            requests,
        }
    }

    /// The same API, with the figures of the access rules among those of the server.
    pub(crate) fn with_figures_of(self, access: &crate::access::Access) -> Self {
        let (ask, reporter) = access.backends();
        let (tokens, ask, reporter) = (access.tokens().cloned(), ask.cloned(), reporter.cloned());
        Self { metrics: self.metrics.with(|sources| Sources { tokens, ask, reporter, ..sources }), ..self }
    }

    /// The same API on the admin port, with places of its own: operators look at a server whose HTTP port is full. The
    /// memory for large answers is shared.
    pub(crate) fn on_admin_port(&self, settings: &Settings, max_connections: usize, health: Arc<Health>) -> Self {
        Self {
            janus: self.janus.clone(),
            port: Port::Admin,
            access: access(settings, settings.admin_listen.iter()),
            max_connections,
            connections: Arc::new(Semaphore::new(max_connections)),
            refusals: Arc::new(Semaphore::new(MAX_REFUSALS)),
            lingering: Semaphore::new(MAX_LINGERING),
            answers: Arc::clone(&self.answers),
            trees: Arc::clone(&self.trees),
            openapi: self.openapi.clone(),
            metrics: self.metrics.with(|sources| Sources { health: Some(Arc::clone(&health)), ..sources }),
            health: Some(health),
            requests: Arc::clone(&self.requests),
            ..*self
        }
    }

    /// Whether the place that [`answer`](Self::answer) took is that of a request carried out, and not of a refusal.
    pub(crate) fn carries_out(&self, place: &OwnedSemaphorePermit) -> bool {
        Arc::ptr_eq(place.semaphore(), &self.connections)
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
        let PassedOn { stream, received, peer, is_local } = passed_on;
        let api = Arc::clone(self);
        tokio::spawn(async move {
            let lasts = OnceLock::new();
            let begun = Begun { received, is_local };
            let mut exchange = std::pin::pin!(api.exchange(stream, begun, &lasts));
            let mut ended = timeout(EXCHANGE_TIMEOUT, &mut exchange).await;
            if let (Err(_), Some(lasting)) = (&ended, lasts.get()) {
                ended = timeout(*lasting, exchange).await;
            }
            match ended {
                Ok(Ok(())) => {}
                Ok(Err(error)) => log::debug!("{peer}: API request failed: {error}"),
                Err(_) => log::debug!("{peer}: API request took too long; connection closed"),
            }
        });
    }

    /// Whether every request is refused, which the log should mention.
    pub(crate) fn is_closed(&self) -> bool {
        matches!(self.access, Access::Closed)
    }

    /// How many further requests could be carried out now.
    #[cfg(test)]
    pub(crate) fn free_places(&self) -> usize {
        self.connections.available_permits()
    }

    /// Waits until every request being served is answered, at most [`FINISH_TIMEOUT`].
    pub(crate) async fn finish(&self) {
        let all = u32::try_from(self.max_connections).unwrap_or(u32::MAX);
        let _ = timeout(FINISH_TIMEOUT, self.connections.acquire_many(all)).await;
    }

    async fn exchange(&self, stream: PassedStream, begun: Begun, lasts: &OnceLock<Duration>) -> Exchanged {
        match stream {
            PassedStream::Tcp(stream) => {
                stream.set_nonblocking(true)?;
                let (reader, writer) = TcpStream::from_std(stream)?.into_split();
                self.converse(reader, writer, begun, lasts).await
            }
            #[cfg(unix)]
            PassedStream::Unix(stream) => {
                stream.set_nonblocking(true)?;
                let (reader, writer) = tokio::net::UnixStream::from_std(stream)?.into_split();
                self.converse(reader, writer, begun, lasts).await
            }
            PassedStream::Tls(stream) => {
                let (reader, writer) = tokio::io::split(stream.register()?);
                self.converse(reader, writer, begun, lasts).await
            }
            PassedStream::Other(stream) => {
                let (reader, writer) = tokio::io::split(stream);
                self.converse(reader, writer, begun, lasts).await
            }
            other => Err(format!("{other:?} is no stream that the API can serve").into()),
        }
    }

    async fn converse(
        &self,
        reader: impl AsyncRead + Unpin,
        writer: impl AsyncWrite + Unpin,
        begun: Begun,
        lasts: &OnceLock<Duration>,
    ) -> Exchanged {
        let Begun { received, is_local } = begun;
        let mut stream = tokio::io::join(Cursor::new(received).chain(reader), writer);
        let place = OnceLock::new();
        let service = service_fn(async |request| self.answer(request, is_local, &place, lasts).await);
        hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(self.read_timeout)
            .max_buf_size(HEAD_BUFFER_BYTES)
            .keep_alive(false)
            // Answers are written in place: a copy would escape the accounting in `answers`.
            .writev(true)
            // A client may shut down its write side and still expect an answer.
            .half_close(true)
            .serve_connection(TokioIo::new(&mut stream), service)
            .await?;
        // A client must not occupy a place by leaving its side open.
        drop(place);
        if let Ok(_lingering) = self.lingering.try_acquire() {
            linger(stream).await;
        }
        Ok(())
    }

    /// Refuses an answer of at least this many bytes if the room is taken. Called first where building the answer is
    /// costly.
    fn check_room(&self, bytes: usize) -> Result<(), HttpError> {
        if bytes <= self.answers.available_permits() { Ok(()) } else { Err(answers_full()) }
    }

    /// Makes an answer of up to megabytes, and takes room in `answers` until the last byte is written.
    fn large(&self, mut body: Vec<u8>) -> Result<Response<Full<Bytes>>, HttpError> {
        body.shrink_to_fit();
        let room = u32::try_from(body.len()).ok().and_then(|bytes| {
            let answers = Arc::clone(&self.answers);
            answers.try_acquire_many_owned(bytes).ok()
        });
        let room = room.ok_or_else(answers_full)?;
        Ok(response(200, Bytes::from_owner(Large { body, _room: room })))
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
        let (path, begun) = (self.requests.path(request.uri().path()), Instant::now());
        let answer = self.make_answer(request, is_local, place, lasts).await?;
        self.requests.note(path, answer.status().as_u16(), begun.elapsed());
        Ok(answer)
    }

    async fn make_answer(
        &self,
        request: Request<Incoming>,
        is_local: bool,
        place: &OnceLock<OwnedSemaphorePermit>,
        lasts: &OnceLock<Duration>,
    ) -> Result<Response<Either<Full<Bytes>, Lines>>, Crowded> {
        let answer = match self.admit(&request, is_local) {
            Admission::Granted(endpoint) => {
                if let Ok(permit) = Arc::clone(&self.connections).try_acquire_owned() {
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

fn access<'a>(settings: &Settings, addresses: impl Iterator<Item = &'a SocketAddr>) -> Access {
    let Config { allowed_origins, .. } = &settings.core;
    Access::new(&settings.api_key, addresses, AllowedOrigins::new(allowed_origins.iter().map(String::as_str)))
}

/// The beginning of an exchange.
struct Begun {
    /// The bytes that the HTTP port has read.
    received: Bytes,
    /// Whether the client is on this machine.
    is_local: bool,
}

/// How an exchange ended; the error is for the log.
type Exchanged = Result<(), Box<dyn std::error::Error + Send + Sync>>;

/// The body of a large answer, with its share of `MAX_ANSWERS_BYTES`.
struct Large {
    body: Vec<u8>,
    _room: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for Large {
    fn as_ref(&self) -> &[u8] {
        &self.body
    }
}

/// A refusal by one of the API's own limits; the client may try again.
fn busy(message: &str) -> HttpError {
    let mut error = HttpError::new(503, "too_many_requests", message);
    error.retry_after = Some(Duration::from_secs(1));
    error
}

fn answers_full() -> HttpError {
    busy("other clients' large answers take all the memory reserved for answers; try again later, or ask for less")
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
