//! The HTTP API: what Janus's HTTP port passes on, served on the binary's own runtime.
//!
//! This file is the life of a connection: its limits, its one request, its end. [`routes`] is what can be asked, and
//! [`access`] is who may ask. hyper reads and writes HTTP; a framework on top of it would be a larger thing than these
//! seven routes, and they are a table that the test of `openapi.json` reads.
//!
//! A connection serves one request, and says so (`connection: close`). Otherwise a browser would ask for `/events` on a
//! connection that it has kept from here, and Janus cannot get that back.

mod access;
mod routes;
#[cfg(test)]
mod tests;

use std::convert::Infallible;
use std::io::Cursor;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response, header};
use hyper_util::rt::{TokioIo, TokioTimer};
use janus_core::wire::{AllowedOrigins, HttpError};
use janus_core::{Janus, PassedOn, PassedStream};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use access::Access;

use crate::settings::Settings;

/// Everything from the first byte to the last of an answer, however slowly its client reads.
const EXCHANGE_TIMEOUT: Duration = Duration::from_secs(60);

/// Requests beyond `max_api_connections` that are told so at once; the connections of more are closed without a word.
const MAX_REFUSALS: usize = 256;

/// What a client may still send after its answer, and for how long, before the connection is closed. Closed with bytes
/// unread, it would be reset, and the answer be lost.
const LINGER_BYTES: u64 = 1 << 20;
const LINGER_TIMEOUT: Duration = Duration::from_secs(1);

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
}

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
        }
    }

    /// Serves what the HTTP port has passed on: a connection, and what was read from it. Returns at once; must be called on
    /// the runtime that is to serve it.
    pub(crate) fn serve_passed_on(self: &Arc<Self>, passed_on: PassedOn) {
        let PassedOn { stream, received, peer } = passed_on;
        let connection = Arc::clone(&self.connections).try_acquire_owned();
        let is_refused = connection.is_err();
        let Ok(permit) = connection.or_else(|_| Arc::clone(&self.refusals).try_acquire_owned()) else {
            log::debug!("{peer}: closed, because there are too many requests to the API");
            return;
        };
        let api = Arc::clone(self);
        tokio::spawn(async move {
            let exchange = async {
                match stream {
                    PassedStream::Tcp(stream) => {
                        stream.set_nonblocking(true)?;
                        let (reader, writer) = TcpStream::from_std(stream)?.into_split();
                        api.converse(reader, writer, received, is_refused).await
                    }
                    #[cfg(unix)]
                    PassedStream::Unix(stream) => {
                        stream.set_nonblocking(true)?;
                        let (reader, writer) = tokio::net::UnixStream::from_std(stream)?.into_split();
                        api.converse(reader, writer, received, is_refused).await
                    }
                    PassedStream::Other(stream) => {
                        let (reader, writer) = tokio::io::split(stream);
                        api.converse(reader, writer, received, is_refused).await
                    }
                }
            };
            match timeout(EXCHANGE_TIMEOUT, exchange).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => log::debug!("{peer}: a request to the API has failed: {error}"),
                Err(_) => log::debug!("{peer}: cut off, because a request to the API took too long"),
            }
            drop(permit);
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
        is_refused: bool,
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let mut stream = tokio::io::join(Cursor::new(received).chain(reader), writer);
        let service = service_fn(async |request| Ok::<_, Infallible>(self.answer(request, is_refused).await));
        hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(self.read_timeout)
            .max_buf_size(HEAD_BUFFER_BYTES)
            .keep_alive(false)
            // A client that has said all it wants to say still wants its answer.
            .half_close(true)
            .serve_connection(TokioIo::new(&mut stream), service)
            .await?;
        linger(stream).await;
        Ok(())
    }

    async fn answer(&self, request: Request<Incoming>, is_refused: bool) -> Response<Full<Bytes>> {
        if is_refused {
            let message = "as many requests as max_api_connections allows are being served; try again";
            let mut error = HttpError::new(503, "too_many_requests", message);
            error.retry_after = Some(Duration::from_secs(1));
            return refusal(&error);
        }
        self.dispatch(request).await.unwrap_or_else(|error| refusal(&error))
    }
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
