//! Refused requests: what their senders are told, and in which form.

use std::fmt::Write as _;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};

use super::date;
use crate::wire::publication::put_json_string;
use crate::wire::websocket::UpgradeError;
use crate::wire::{AllowedOrigins, ErrorClass, ErrorCode, HttpRequest, Refusal};

/// A refused request, as reported to its sender.
///
/// ```
/// use janus_core::wire::HttpError;
///
/// let response = HttpError::new(404, "unknown_path", "nothing at this path").response();
/// assert!(response.starts_with(b"HTTP/1.1 404 Not Found\r\n"));
/// assert!(response.ends_with(br#"{"error":{"code":"unknown_path","message":"nothing at this path"}}"#));
/// ```
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{status} {code}: {message}")]
pub struct HttpError {
    /// The status of the response.
    pub status: u16,
    /// The reason, for programs: the name of an [`ErrorCode`] where a code fits.
    pub code: &'static str,
    /// The reason, for people, and what to do.
    pub message: String,
    /// When the same request may succeed, if known.
    pub retry_after: Option<Duration>,
    /// The scheme of `Authorization` that an answer with status 401 asks for, in `www-authenticate`: `Bearer` unless named.
    pub challenge: &'static str,
}

impl HttpError {
    /// An error with this status.
    #[must_use]
    pub fn new(status: u16, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into(), retry_after: None, challenge: "Bearer" }
    }

    /// The body of the response, in JSON.
    #[must_use]
    pub fn body(&self) -> Bytes {
        let mut body = BytesMut::new();
        body.put_slice(b"{\"error\":{\"code\":");
        put_json_string(&mut body, self.code);
        body.put_slice(b",\"message\":");
        put_json_string(&mut body, &self.message);
        body.put_slice(b"}}");
        body.freeze()
    }

    /// The headers required by the status, in addition to the headers of the body. A `connection` header is to be
    /// merged with the response's own.
    #[must_use]
    pub fn headers(&self) -> Vec<(&'static str, String)> {
        let mut headers = Vec::new();
        match self.status {
            401 => headers.push(("www-authenticate", self.challenge.to_owned())),
            405 => headers.push(("allow", "GET, HEAD".to_owned())),
            // The list must name the required upgrade (RFC 9110, 15.5.22).
            426 => headers.extend([
                ("upgrade", "websocket".to_owned()),
                ("connection", "upgrade".to_owned()),
                ("sec-websocket-version", "13".to_owned()),
            ]),
            _ => {}
        }
        if let Some(time) = self.retry_after {
            // Whole seconds, and never an invitation to come back at once.
            headers.push(("retry-after", time.as_millis().div_ceil(1_000).max(1).to_string()));
        }
        headers
    }

    /// The whole response. The connection must be closed afterwards.
    #[must_use]
    pub fn response(&self) -> Bytes {
        self.response_to(&Reader::default())
    }

    /// The same response, adapted to a request whose head could be read.
    pub(in crate::wire) fn response_to(&self, reader: &Reader) -> Bytes {
        let body = self.body();
        let mut head = format!("HTTP/1.1 {} {}\r\n", self.status, reason_phrase(self.status));
        head.push_str(&reader.cors);
        if !reader.cors.is_empty() {
            head.push_str("access-control-expose-headers: retry-after\r\n");
        }
        let mut connection = "close".to_owned();
        for (name, value) in self.headers() {
            if name == "connection" {
                connection = format!("{value}, {connection}");
            } else {
                let _ = write!(head, "{name}: {value}\r\n");
            }
        }
        let length = body.len();
        let _ = write!(
            head,
            "content-type: application/json\r\ncontent-length: {length}\r\ncache-control: no-store\r\n\
             date: {}\r\nconnection: {connection}\r\n\r\n",
            date()
        );
        let body = if reader.asked_for_the_head { &[][..] } else { &body };
        [head.as_bytes(), body].concat().into()
    }
}

/// The reader of an answer, described by the request.
#[derive(Debug, Default)]
pub(in crate::wire) struct Reader {
    /// Header lines that let the requesting page read the answer.
    cors: String,
    /// Whether nothing may follow the head of the response (RFC 9110, 9.3.2).
    pub(in crate::wire) asked_for_the_head: bool,
}

impl Reader {
    pub(in crate::wire) fn of(request: &HttpRequest, allowed_origins: &AllowedOrigins) -> Self {
        Self { cors: allowed_origins.cors(request), asked_for_the_head: request.method == "HEAD" }
    }
}

impl From<&Refusal<'_>> for HttpError {
    fn from(refusal: &Refusal<'_>) -> Self {
        let status = refusal.status.unwrap_or_else(|| refusal.code.http_status());
        let can_come_back = matches!(status, 429 | 503) && refusal.code.class() != ErrorClass::DoNot;
        let retry_after = refusal.reconnect_after.or_else(|| can_come_back.then_some(Duration::from_secs(1)));
        Self { retry_after, ..Self::new(status, refusal.code.as_str(), refusal.message) }
    }
}

impl From<UpgradeError> for HttpError {
    fn from(error: UpgradeError) -> Self {
        let code = match error.status {
            401 => ErrorCode::Unauthorized.as_str(),
            403 => ErrorCode::Forbidden.as_str(),
            404 => "unknown_path",
            405 => "method_not_allowed",
            426 => "upgrade_required",
            _ => ErrorCode::BadOpen.as_str(),
        };
        Self::new(error.status, code, error.message)
    }
}

pub(crate) fn reason_phrase(status: u16) -> &'static str {
    match status {
        200 => "OK",
        201 => "Created",
        202 => "Accepted",
        204 => "No Content",
        304 => "Not Modified",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        409 => "Conflict",
        413 => "Content Too Large",
        415 => "Unsupported Media Type",
        426 => "Upgrade Required",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        503 => "Service Unavailable",
        // A client must understand the class of a status, and must not need the words.
        _ if status < 400 => "Done",
        _ => "Refused",
    }
}
