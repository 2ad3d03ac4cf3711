//! The HTTP API: what Janus's HTTP port passes on, served on the binary's own runtime.
//!
//! This file is the life of a connection: its limits, its one request, its end. [`routes`] is what can be asked, [`tracing`]
//! the one answer that comes line by line, and [`access`] is who may ask. hyper reads and writes HTTP; a framework on top of it would be a larger thing than these
//! eight routes, and they are a table that the test of `openapi.json` reads.
//!
//! A connection serves one request, and says so (`connection: close`). Otherwise a browser would ask for `/events` on a
//! connection that it has kept from here, and Janus cannot get that back.

mod access;
mod routes;
#[cfg(test)]
mod tests;
mod tracing;

use std::io::Cursor;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use http_body_util::{Either, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response, header};
use hyper_util::rt::{TokioIo, TokioTimer};
use janus_core::wire::{AllowedOrigins, HttpError};
use janus_core::{Janus, PassedOn, PassedStream};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use access::Access;
use routes::{Admission, Endpoint};
use tracing::Lines;

use crate::settings::Settings;

/// Everything from the first byte to the last of an answer, however slowly its client reads.
const EXCHANGE_TIMEOUT: Duration = Duration::from_secs(60);

/// Answers to requests that nothing is done for: those beyond `max_api_connections`, those without the key, mistakes in
/// the path. The connections of more are closed without a word.
pub(crate) const MAX_REFUSALS: usize = 64;

/// Connections with their answer that wait for their client's end; more are closed at once.
pub(crate) const MAX_LINGERING: usize = 64;

/// What a client may still send after its answer, and for how long, before the connection is closed. Closed with bytes
/// unread, it would be reset, and the answer be lost.
const LINGER_BYTES: u64 = 1 << 20;
const LINGER_TIMEOUT: Duration = Duration::from_secs(1);

/// What all large answers that are being read take in memory; one more gets status 503.
const MAX_ANSWERS_BYTES: usize = 64 << 20;

/// How long the end of the server waits for answers that are being written.
const FINISH_TIMEOUT: Duration = Duration::from_secs(1);

/// Bytes that hyper may hold of a head. The HTTP port has let this one through already.
const HEAD_BUFFER_BYTES: usize = 64 * 1024;

/// The API of one instance.
#[derive(Debug)]
pub(crate) struct Api {
    janus: Janus,
    access: Access,
    /// Bytes of a request's body: it has a message, or less.
    max_body_bytes: usize,
    max_topic_bytes: usize,
    /// For a head, and for a body.
    read_timeout: Duration,
    max_connections: usize,
    connections: Arc<Semaphore>,
    refusals: Arc<Semaphore>,
    lingering: Semaphore,
    /// A permit for each byte.
    answers: Arc<Semaphore>,
    /// The description of the API.
    openapi: Bytes,
}

/// Ends a connection without an answer.
#[derive(Debug, thiserror::Error)]
#[error("there are too many requests to the API, also of those that it refuses")]
struct Crowded;

impl Api {
    pub(crate) fn new(janus: Janus, settings: &Settings) -> Self {
        let core = &settings.core;
        let origins = AllowedOrigins::new(core.allowed_origins.iter().map(String::as_str));
        Self {
            janus,
            access: Access::new(&settings.api_key, &core.http_listen, origins),
            max_body_bytes: core.max_frame_bytes,
            max_topic_bytes: core.max_topic_bytes,
            read_timeout: core.frame_timeout,
            max_connections: settings.max_api_connections,
            connections: Arc::new(Semaphore::new(settings.max_api_connections)),
            refusals: Arc::new(Semaphore::new(MAX_REFUSALS)),
            lingering: Semaphore::new(MAX_LINGERING),
            answers: Arc::new(Semaphore::new(MAX_ANSWERS_BYTES)),
            openapi: routes::openapi(core.max_topic_bytes),
        }
    }

    /// Serves what the HTTP port has passed on: a connection, and what was read from it. Returns at once; must be called on
    /// the runtime that is to serve it.
    pub(crate) fn serve_passed_on(self: &Arc<Self>, passed_on: PassedOn) {
        let PassedOn { stream, received, peer } = passed_on;
        let api = Arc::clone(self);
        tokio::spawn(async move {
            let lasts = OnceLock::new();
            let exchange = async {
                match stream {
                    PassedStream::Tcp(stream) => {
                        stream.set_nonblocking(true)?;
                        let (reader, writer) = TcpStream::from_std(stream)?.into_split();
                        api.converse(reader, writer, received, &lasts).await
                    }
                    #[cfg(unix)]
                    PassedStream::Unix(stream) => {
                        stream.set_nonblocking(true)?;
                        let (reader, writer) = tokio::net::UnixStream::from_std(stream)?.into_split();
                        api.converse(reader, writer, received, &lasts).await
                    }
                    PassedStream::Other(stream) => {
                        let (reader, writer) = tokio::io::split(stream);
                        api.converse(reader, writer, received, &lasts).await
                    }
                }
            };
            let mut exchange = std::pin::pin!(exchange);
            let mut ended = timeout(EXCHANGE_TIMEOUT, &mut exchange).await;
            if let (Err(_), Some(lasting)) = (&ended, lasts.get()) {
                ended = timeout(*lasting, exchange).await;
            }
            match ended {
                Ok(Ok(())) => {}
                Ok(Err(error)) => log::debug!("{peer}: a request to the API has failed: {error}"),
                Err(_) => log::debug!("{peer}: cut off, because a request to the API took too long"),
            }
        });
    }

    /// Whether nobody is let in, which the log should say.
    pub(crate) fn is_closed(&self) -> bool {
        matches!(self.access, Access::Closed)
    }

    /// Waits, for a while, until what is being served has its answer.
    pub(crate) async fn finish(&self) {
        let all = u32::try_from(self.max_connections).unwrap_or(u32::MAX);
        let _ = timeout(FINISH_TIMEOUT, self.connections.acquire_many(all)).await;
    }

    async fn converse(
        &self,
        reader: impl AsyncRead + Unpin,
        writer: impl AsyncWrite + Unpin,
        received: Bytes,
        lasts: &OnceLock<Duration>,
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let mut stream = tokio::io::join(Cursor::new(received).chain(reader), writer);
        let place = OnceLock::new();
        let service = service_fn(async |request| self.answer(request, &place, lasts).await);
        hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(self.read_timeout)
            .max_buf_size(HEAD_BUFFER_BYTES)
            .keep_alive(false)
            // An answer is written from where it lies, and not from a copy that nothing counts.
            .writev(true)
            // A client that has said all it wants to say still wants its answer.
            .half_close(true)
            .serve_connection(TokioIo::new(&mut stream), service)
            .await?;
        // A client that does not close its end must not keep others out.
        drop(place);
        if let Ok(_lingering) = self.lingering.try_acquire() {
            linger(stream).await;
        }
        Ok(())
    }

    /// Whether an answer of at least so many bytes may be made now; asked first where making it is much work.
    fn check_room(&self, bytes: usize) -> Result<(), HttpError> {
        if bytes <= self.answers.available_permits() { Ok(()) } else { Err(answers_full()) }
    }

    /// An answer that may be of megabytes, and counts until its last byte is written.
    fn large(&self, mut body: Vec<u8>) -> Result<Response<Full<Bytes>>, HttpError> {
        body.shrink_to_fit();
        let room = u32::try_from(body.len()).ok().and_then(|bytes| {
            let answers = Arc::clone(&self.answers);
            answers.try_acquire_many_owned(bytes).ok()
        });
        let room = room.ok_or_else(answers_full)?;
        Ok(response(200, Bytes::from_owner(Large { body, _room: room })))
    }

    /// The answer to a request, which leaves in `place` what it takes: one of `max_api_connections` only if it is
    /// carried out. In `lasts` it leaves how much longer than any other it may take. The HTTP port has read its head, so that it
    /// comes here before anything is waited for.
    async fn answer(
        &self,
        request: Request<Incoming>,
        place: &OnceLock<OwnedSemaphorePermit>,
        lasts: &OnceLock<Duration>,
    ) -> Result<Response<Either<Full<Bytes>, Lines>>, Crowded> {
        let answer = match self.admit(&request) {
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
                let message = "as many requests as max_api_connections allows are being served; try again";
                refusal(&busy(message))
            }
            Admission::Answered(answer) => answer,
        };
        let permit = Arc::clone(&self.refusals).try_acquire_owned().map_err(|_| Crowded)?;
        place.get_or_init(|| permit);
        Ok(answer.map(Either::Left))
    }
}

/// The body of a large answer, with its part of `MAX_ANSWERS_BYTES`.
struct Large {
    body: Vec<u8>,
    _room: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for Large {
    fn as_ref(&self) -> &[u8] {
        &self.body
    }
}

/// Not now, because of a limit of the API's own.
fn busy(message: &str) -> HttpError {
    let mut error = HttpError::new(503, "too_many_requests", message);
    error.retry_after = Some(Duration::from_secs(1));
    error
}

fn answers_full() -> HttpError {
    busy("the answers that other clients are still reading take as much memory as they may; try again, or ask for less")
}

async fn linger(reader: impl AsyncRead + Unpin) {
    let mut rest = reader.take(LINGER_BYTES);
    // How it ends makes no difference: the answer has been sent.
    let _ = timeout(LINGER_TIMEOUT, tokio::io::copy(&mut rest, &mut tokio::io::sink())).await;
}

/// A response with a body of JSON.
fn response(status: u16, body: Bytes) -> Response<Full<Bytes>> {
    Response::builder()
        .status(status)
        .header(header::CONTENT_TYPE, "application/json")
        .header(header::CACHE_CONTROL, "no-store")
        .body(Full::new(body))
        .expect("the status and the headers are right")
}

fn refusal(error: &HttpError) -> Response<Full<Bytes>> {
    let mut response = response(error.status, error.body());
    for (name, value) in error.headers() {
        let value = header::HeaderValue::try_from(value).expect("it is one line of ASCII");
        response.headers_mut().insert(name, value);
    }
    response
}
