//! Requests to the HTTP API over a kept connection.
//!
//! The commands are blocking: a runtime of their own thread carries out each request.

use std::io;
use std::time::Duration;

use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::{Method, Request, Response, header};
use hyper_util::rt::TokioIo;
use janus_core::wire::IdempotencyKey;
use serde::de::DeserializeOwned;
use serde_json::Value;
use serde_json::value::RawValue;
use tokio::runtime::{Builder, Runtime};
use tokio::task::yield_now;
use tokio::time::{Instant, timeout_at};

use super::ClientError;
use super::server::Target;
use super::stream::open_duplex;

/// Maximum bytes of an answer that is read whole. The names in an answer have at most 8 MiB, before JSON escapes.
const BODY_BYTES_MAX: usize = 64 << 20;

/// Maximum bytes of a line of an answer that is read line by line.
const LINE_BYTES_MAX: usize = 1 << 20;

/// The HTTP API of a server.
pub(crate) struct Http {
    target: Target,
    runtime: Runtime,
    /// Kept from one request to the next.
    connection: Option<SendRequest<Full<Bytes>>>,
    /// The index of the key in use; keys before it were refused.
    key: usize,
}

/// What a request has beside its method and path.
#[derive(Debug, Default)]
pub(crate) struct Content<'a> {
    pub(crate) body: Option<Bytes>,
    /// Whether the body is bytes, and not JSON.
    pub(crate) is_bytes: bool,
    /// The key by which the server knows a repetition.
    pub(crate) key: Option<&'a IdempotencyKey>,
}

/// An answer of any status, read whole.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: Bytes,
}

impl Answer {
    /// The content of a successful answer; `None` of any other.
    pub(crate) fn content<T: DeserializeOwned>(&self) -> Option<T> {
        (self.status == 200).then(|| serde_json::from_slice(&self.body).ok()).flatten()
    }
}

/// A runtime of the calling thread.
pub(super) fn runtime() -> Result<Runtime, ClientError> {
    Builder::new_current_thread().enable_all().build().map_err(ClientError::Runtime)
}

impl Http {
    /// Opens no connection yet.
    pub(crate) fn new(target: Target) -> Result<Self, ClientError> {
        Ok(Self { target, runtime: runtime()?, connection: None, key: 0 })
    }

    /// Sends a request, with a body of JSON or none, and reads the answer of any status within the time.
    pub(crate) fn ask(&mut self, method: &Method, path: &str, body: Option<String>) -> Result<Answer, ClientError> {
        let content = Content { body: body.map(Bytes::from), ..Content::default() };
        self.ask_with(method, path, &content)
    }

    /// As [`ask`](Self::ask), with any content.
    pub(crate) fn ask_with(
        &mut self,
        method: &Method,
        path: &str,
        content: &Content<'_>,
    ) -> Result<Answer, ClientError> {
        let deadline = Instant::now() + self.target.timeout;
        let answer = self.begin(method, path, content, deadline)?;
        let status = answer.status().as_u16();
        let whole = Limited::new(answer.into_body(), BODY_BYTES_MAX).collect();
        match self.block_on(deadline, whole) {
            Some(Ok(body)) => Ok(Answer { status, body: body.to_bytes() }),
            Some(Err(error)) => Err(ClientError::Lost(io::Error::other(error))),
            None => Err(self.late()),
        }
    }

    /// Sends a request, and hands over each line of the answer. Each line is JSON, and the end comes within `lasts` and
    /// the usual time.
    pub(crate) fn lines(
        &mut self,
        path: &str,
        lasts: Duration,
        mut take: impl FnMut(&str) -> Result<(), ClientError>,
    ) -> Result<(), ClientError> {
        let deadline = Instant::now() + self.target.timeout;
        let answer = self.begin(&Method::GET, path, &Content::default(), deadline)?;
        let status = answer.status().as_u16();
        let mut body = answer.into_body();
        if status != 200 {
            let whole = Limited::new(body, BODY_BYTES_MAX).collect();
            let body = self.block_on(deadline, whole);
            let body = body.and_then(Result::ok).map(|body| body.to_bytes()).unwrap_or_default();
            return Err(self.refusal(&Answer { status, body }));
        }
        let mut line = Vec::new();
        loop {
            let frame = self.block_on(deadline + lasts, body.frame());
            let frame = match frame.ok_or_else(|| self.late())? {
                Some(frame) => frame.map_err(|error| in_words(&self.target, error))?,
                None => return Ok(()),
            };
            for &byte in frame.data_ref().into_iter().flatten() {
                line.push(byte);
                if byte == b'\n' {
                    let json: &RawValue =
                        serde_json::from_slice(&line).map_err(|_| not_janus(&self.target, "a line is not JSON"))?;
                    take(json.get())?;
                    line.clear();
                } else if line.len() > LINE_BYTES_MAX {
                    return Err(not_janus(&self.target, "a line has no end"));
                }
            }
        }
    }

    /// The error for an answer that the command does not expect.
    pub(crate) fn refusal(&self, answer: &Answer) -> ClientError {
        refusal(&self.target, &answer.body).advised(|code| self.advice(code))
    }

    fn advice(&self, code: &str) -> &'static str {
        match (code, self.target.keys.is_empty()) {
            ("unauthorized", true) => {
                " (set the variable JANUS_API_KEY to the server's api_key, or name the server's settings with --config)"
            }
            ("unauthorized", false) => " (the key came from JANUS_API_KEY, or from the settings of --config)",
            ("api_key_required", _) => " (then set JANUS_API_KEY for this command as well)",
            _ => "",
        }
    }

    /// `None` at the deadline.
    fn block_on<T>(&self, deadline: Instant, future: impl Future<Output = T>) -> Option<T> {
        self.runtime.block_on(async { timeout_at(deadline, future).await.ok() })
    }

    fn late(&self) -> ClientError {
        ClientError::Late { awaited: "answer", timeout: self.target.timeout }
    }

    /// The head of the answer. The next key is tried after a refusal of the key.
    fn begin(
        &mut self,
        method: &Method,
        path: &str,
        content: &Content<'_>,
        deadline: Instant,
    ) -> Result<Response<Incoming>, ClientError> {
        loop {
            let request = self.request(method, path, content);
            let sent = send(&mut self.connection, &self.target, request);
            // As `block_on`, which would borrow the connection as well.
            let answer = self.runtime.block_on(async { timeout_at(deadline, sent).await.ok() });
            let answer = answer.unwrap_or_else(|| Err(self.late())).map_err(|error| {
                self.connection = None;
                self.target.explain(error)
            })?;
            if answer.status() != 401 || self.key + 1 >= self.target.keys.len() {
                return Ok(answer);
            }
            self.key += 1;
        }
    }

    fn request(&self, method: &Method, path: &str, content: &Content<'_>) -> Request<Full<Bytes>> {
        let Content { body, is_bytes, key } = content;
        let mut request = Request::builder().method(method).uri(path).header(header::HOST, &self.target.address.to);
        if let Some(key) = self.target.keys.get(self.key) {
            request = request.header(header::AUTHORIZATION, format!("Bearer {key}"));
        }
        if body.is_some() {
            let kind = if *is_bytes { "application/octet-stream" } else { "application/json" };
            request = request.header(header::CONTENT_TYPE, kind);
        }
        if let Some(key) = key {
            request = request.header("idempotency-key", key.as_str());
        }
        let request = request.body(Full::new(body.clone().unwrap_or_default()));
        request.expect("paths are escaped, and addresses and keys are visible characters")
    }
}

/// The refusal in the body of an answer, or the reason why the answer is not that of the wanted port.
pub(super) fn refusal(target: &Target, body: &[u8]) -> ClientError {
    let body: Value = serde_json::from_slice(body).unwrap_or_default();
    let text = |key: &str| body["error"][key].as_str();
    let refusal = match (text("code"), text("message")) {
        (Some(code), Some(message)) => ClientError::refused(code, message),
        _ => not_janus(target, "the answer is not one of the API"),
    };
    target.explain(refusal)
}

/// Sends a request over the kept connection, or over a new one if the server has closed the kept one before the request.
async fn send(
    connection: &mut Option<SendRequest<Full<Bytes>>>,
    target: &Target,
    mut request: Request<Full<Bytes>>,
) -> Result<Response<Incoming>, ClientError> {
    if let Some(kept) = connection {
        // The runtime stood still since the last request. Before a request goes out, its task of the connection has to
        // see what has arrived in the meantime: the end, after the server's `api_idle_timeout`. The first turn polls the
        // sockets, the second runs the task.
        for _ in 0..2 {
            yield_now().await;
        }
        let sent = match kept.ready().await {
            Ok(()) => kept.try_send_request(request).await,
            Err(_) => return send_anew(connection, target, request).await,
        };
        match sent {
            Ok(answer) => return Ok(answer),
            Err(mut error) => match error.take_message() {
                Some(unsent) => request = unsent,
                None => return Err(in_words(target, error.into_error())),
            },
        }
    }
    send_anew(connection, target, request).await
}

async fn send_anew(
    connection: &mut Option<SendRequest<Full<Bytes>>>,
    target: &Target,
    request: Request<Full<Bytes>>,
) -> Result<Response<Incoming>, ClientError> {
    let stream = open_duplex(&target.address.to, target.timeout, target.tls.as_ref()).await?;
    let (sender, driven) = http1::handshake(TokioIo::new(stream)).await.map_err(|error| in_words(target, error))?;
    // The request is told of an error.
    tokio::spawn(driven);
    let sender = connection.insert(sender);
    sender.send_request(request).await.map_err(|error| in_words(target, error))
}

fn not_janus(target: &Target, what: &'static str) -> ClientError {
    ClientError::NotJanus { to: target.address.to.clone(), what }
}

fn in_words(target: &Target, error: hyper::Error) -> ClientError {
    if error.is_parse() {
        not_janus(target, "the answer is not HTTP")
    } else if error.is_incomplete_message() || error.is_closed() || error.is_canceled() {
        ClientError::Closed
    } else {
        ClientError::Lost(io::Error::other(error))
    }
}
