//! The HTTP port: the head of a request decides what a connection becomes.
//!
//! `/ws` becomes a WebSocket, `/events` a stream of server-sent events, a request to a [`PublishRoute`] publishes and is
//! answered here, and everything else is passed on with the bytes received. Behind an answer the connection is kept, and
//! another request decides anew. This file also owns the parts common to all of them: the reading of a request's head, and
//! the form of a refusal. `http/tests.rs` has the rules.
//!
//! | file | what it is | what it owns |
//! |---|---|---|
//! | `answer.rs` | pure: a writer | answers of kept connections, and the `Date` of all answers |
//! | `body.rs` | pure: a reader | [`BodyReader`], the body of a request |
//! | `publishing.rs` | pure: a part of the codec | [`PublishRoute`], and requests that publish |

mod answer;
mod body;
mod publishing;

use std::fmt::Write as _;
use std::mem;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::{BufMut, Bytes, BytesMut};

use super::http_request::trim_ows;
use super::origins::{AllowedOrigins, host_and_port, is_site};
use super::proxy_header::ProxyHeader;
use super::publication::put_json_string;
use super::sse::Sse;
use super::websocket::WebSocket;
use super::{
    Codec, Command, Decoder, ErrorClass, ErrorCode, FrameError, HttpRequest, Limits, Opens, Refusal, Refusing,
    ServerEvent, Timestamp,
};
pub use body::BodyReader;
use publishing::{Progress, Routes, Submission};
pub use publishing::{PublishQuery, PublishRoute};

/// The largest head of a request, in bytes, whatever `max_frame_bytes` says: a browser's cookies know nothing of that
/// limit.
pub(super) const MAX_HEAD_BYTES: usize = 16 * 1024;

/// The largest number of headers in a request.
const MAX_HEADERS: usize = 64;

/// How long, in seconds, a browser may remember the answer to a preflight.
const PREFLIGHT_MAX_AGE: &str = "600";

/// The codec of an HTTP port: [`WebSocket`] at `/ws`, [`Sse`] at `/events`, publications at each [`PublishRoute`], and
/// [`Command::PassOn`] for every other path.
///
/// It reads a request and turns the connection into the requested protocol, or answers the request and reads the next. A
/// request that cannot be served gets a status and a JSON body, `{"error":{"code":…,"message":…}}`. The connection is closed
/// behind such an answer, unless the error is in the message of a request that publishes: then the end of the request is
/// known, and the connection is kept.
///
/// Limits: 16 KiB and 64 headers for the head of a request (431), `frame_timeout` to send the head (408).
///
/// ```
/// use std::time::Duration;
/// use janus_core::wire::{AllowedOrigins, Codec, Command, HttpPort, Limits};
///
/// let port = HttpPort::new(AllowedOrigins::default(), Duration::from_secs(2));
/// let mut decoder = port.decoder();
/// let limits = Limits { max_frame_bytes: 65_536, max_topic_bytes: 255, max_topics: 128 };
/// let mut input: &[u8] = b"GET /api/topics HTTP/1.1\r\nhost: localhost\r\n\r\n";
/// assert_eq!(decoder.decode(&mut input, &limits), Some(Ok(Command::PassOn)));
/// assert!(decoder.take_received().starts_with(b"GET /api/topics"));
/// ```
#[derive(Clone, Debug)]
pub struct HttpPort {
    websocket: Arc<WebSocket>,
    rules: Arc<ArcSwap<Rules>>,
    /// Empty if other machines can connect.
    own_ports: Arc<[u16]>,
    routes: Routes,
}

/// The part that a program can change while connections come in.
#[derive(Debug)]
struct Rules {
    allowed_origins: AllowedOrigins,
    /// The forms of an event stream, in the order of [`form`].
    streams: [Arc<Sse>; 4],
}

impl Rules {
    fn new(allowed_origins: AllowedOrigins, sse_retry: Duration) -> Self {
        let streams = [(false, false), (true, false), (false, true), (true, true)].map(|(chunked, native)| {
            let sse = Sse::new(sse_retry, allowed_origins.clone());
            let sse = if chunked { sse.chunked() } else { sse };
            Arc::new(if native { sse.native_events() } else { sse })
        });
        Self { allowed_origins, streams }
    }
}

/// The index of each codec in [`Codec::successors`]: the WebSocket, then the event streams in their order, then the codec of
/// last answers.
const WEBSOCKET: usize = 0;
const FIRST_STREAM: usize = 1;
const LAST_ANSWERS: usize = FIRST_STREAM + 4;

/// The requested form of event stream: HTTP/1.0 has no chunks, and `events=native` makes the publisher's event the type
/// of each server-sent event.
fn form(request: &HttpRequest) -> usize {
    let native = request.query_parameter("events").is_some_and(|events| events == "native");
    usize::from(!request.is_http_1_0) + 2 * usize::from(native)
}

impl HttpPort {
    /// A port for browsers from the same host and from these origins, whose event streams reconnect after `sse_retry`.
    #[must_use]
    pub fn new(allowed_origins: AllowedOrigins, sse_retry: Duration) -> Self {
        let rules = Arc::new(ArcSwap::from_pointee(Rules::new(allowed_origins, sse_retry)));
        Self { websocket: Arc::new(WebSocket), rules, own_ports: Arc::new([]), routes: Routes::default() }
    }

    /// Replaces the origins and the time of [`new`](Self::new), for requests from then on.
    ///
    /// ```
    /// use std::time::Duration;
    /// use janus_core::wire::{AllowedOrigins, HttpPort};
    ///
    /// let port = HttpPort::new(AllowedOrigins::default(), Duration::from_secs(2));
    /// port.set_rules(AllowedOrigins::new(["https://app.example"]), Duration::from_secs(5));
    /// ```
    pub fn set_rules(&self, allowed_origins: AllowedOrigins, sse_retry: Duration) {
        self.rules.store(Arc::new(Rules::new(allowed_origins, sse_retry)));
    }

    /// Adds a path at which requests publish.
    #[must_use]
    pub fn publish_route(self, route: PublishRoute) -> Self {
        Self { routes: self.routes.with(route), ..self }
    }

    /// Adds protection for listeners on these ports, reachable only by programs of the same machine.
    ///
    /// A page can make its name resolve to 127.0.0.1 (DNS rebinding); the browser then considers the page and the local
    /// server the same host. Such a request names one of these ports in `Host`, after a name, and is refused unless an
    /// allowed origin has this name and port. A request through a proxy that keeps `Host` names the proxy's port.
    ///
    /// ```
    /// use std::time::Duration;
    /// use janus_core::wire::{AllowedOrigins, Codec, Command, HttpPort, Limits};
    ///
    /// let port = HttpPort::new(AllowedOrigins::default(), Duration::from_secs(2)).for_this_machine([8080]);
    /// let limits = Limits { max_frame_bytes: 65_536, max_topic_bytes: 255, max_topics: 128 };
    /// let is_served = |host: &str| {
    ///     let request = format!("GET /events?topic=news HTTP/1.1\r\nhost: {host}\r\n\r\n");
    ///     matches!(port.decoder().decode(&mut request.as_bytes(), &limits), Some(Ok(Command::Become(_))))
    /// };
    /// assert!(is_served("localhost:8080") && is_served("127.0.0.1:8080") && is_served("push.example"));
    /// assert!(!is_served("evil.example:8080"));
    /// ```
    #[must_use]
    pub fn for_this_machine(self, ports: impl IntoIterator<Item = u16>) -> Self {
        Self { own_ports: ports.into_iter().collect(), ..self }
    }
}

impl Codec for HttpPort {
    fn name(&self) -> &'static str {
        "http"
    }

    fn decoder(&self) -> Box<dyn Decoder> {
        Box::new(self.decoder_with(Outcome::Undecided, false))
    }

    fn decoder_of_returned(&self) -> Box<dyn Decoder> {
        Box::new(self.decoder_with(Outcome::Undecided, true))
    }

    fn encode(&self, event: &ServerEvent<'_>, _: &Timestamp, out: &mut BytesMut) {
        // No connection is opened here, so no event but these and the answers to publications has a reader.
        if let ServerEvent::Refused(refusal) | ServerEvent::Bye(refusal) = event {
            out.put_slice(&refused(refusal).response());
        } else {
            self.routes.encode(event, false, out);
        }
    }

    fn opens(&self) -> Opens {
        Opens::WhenAsked
    }

    fn successors(&self) -> Vec<Arc<dyn Codec>> {
        // These encode events, and no event depends on the rules.
        let rules = self.rules.load();
        let streams = rules.streams.iter().map(|stream| Arc::clone(stream) as _);
        let last = Arc::new(LastAnswers(self.clone())) as _;
        [Arc::clone(&self.websocket) as _].into_iter().chain(streams).chain([last]).collect()
    }
}

impl HttpPort {
    fn decoder_with(&self, outcome: Outcome, was_used: bool) -> PortDecoder {
        PortDecoder {
            rules: Arc::clone(&self.rules),
            own_ports: Arc::clone(&self.own_ports),
            routes: self.routes.clone(),
            head: HeadReader::default(),
            reader: Reader::default(),
            outcome,
            was_used,
        }
    }
}

/// The answers still owed on a connection that the server is about to close.
#[derive(Debug)]
struct LastAnswers(HttpPort);

impl Codec for LastAnswers {
    fn name(&self) -> &'static str {
        "http"
    }

    fn decoder(&self) -> Box<dyn Decoder> {
        Box::new(self.0.decoder_with(Outcome::Refused, true))
    }

    fn encode(&self, event: &ServerEvent<'_>, at: &Timestamp, out: &mut BytesMut) {
        match event {
            ServerEvent::Refused(_) | ServerEvent::Bye(_) => self.0.encode(event, at, out),
            event => self.0.routes.encode(event, true, out),
        }
    }

    fn opens(&self) -> Opens {
        Opens::WhenAsked
    }
}

/// The answer to a request that the port cannot serve.
fn refused(refusal: &Refusal<'_>) -> HttpError {
    match refusal.code {
        // Passed on, but not taken by any receiver.
        ErrorCode::BadOpen => HttpError::new(
            404,
            "unknown_path",
            "nothing at this path: WebSockets are at /ws, server-sent events at /events",
        ),
        _ => HttpError::from(refusal),
    }
}

struct PortDecoder {
    rules: Arc<ArcSwap<Rules>>,
    own_ports: Arc<[u16]>,
    routes: Routes,
    head: HeadReader,
    /// The reader of the answer, known once the head has been read.
    reader: Reader,
    outcome: Outcome,
    /// Whether an earlier request was answered on this connection.
    was_used: bool,
}

enum Outcome {
    Undecided,
    /// Nothing is read any more.
    Refused,
    /// Nothing is read behind the last request, whose answer is on its way.
    Answered,
    Submits(Submission),
    Becomes(usize, Box<dyn Decoder>),
    PassedOn(Vec<u8>, Box<HttpRequest>),
}

impl PortDecoder {
    fn check_origin(&self, request: &HttpRequest, allowed_origins: &AllowedOrigins) -> Result<(), HttpError> {
        allowed_origins.check(request)?;
        // An event stream requested by a page from its own host has no `Origin`.
        let host = request.header("host").unwrap_or_default();
        let Some((name, Some(port))) = host_and_port(host, Some(80)) else { return Ok(()) };
        if self.own_ports.contains(&port) && is_site(&name) && !allowed_origins.has_host(host) {
            let message = format!(
                "{name}:{port} refused: this server accepts only localhost or an IP address as host; if {name} is a name of \
                 this server, list http://{name}:{port} in allowed_origins"
            );
            return Err(HttpError::new(403, ErrorCode::Forbidden.as_str(), message));
        }
        Ok(())
    }

    /// Decides what the connection becomes, and returns the command that answers the request.
    fn decide(&mut self, head: Head, limits: &Limits, rules: &Rules) -> Result<Command, HttpError> {
        let Head { request, received } = head;
        match request.path() {
            "/ws" => {
                self.check_origin(&request, &rules.allowed_origins)?;
                let answer = WebSocket::accept(&request)?;
                self.outcome = Outcome::Becomes(WEBSOCKET, WebSocket::decoder_for(request));
                Ok(Command::Become(answer))
            }
            "/events" => {
                self.check_origin(&request, &rules.allowed_origins)?;
                if request.method == "OPTIONS" {
                    self.outcome = Outcome::Refused;
                    return Ok(Command::Close(preflight(&rules.allowed_origins.cors(&request))));
                }
                let form = form(&request);
                let decoder = rules.streams[form].decoder_for(request, limits)?;
                self.outcome = Outcome::Becomes(FIRST_STREAM + form, decoder);
                Ok(Command::Become(Bytes::new()))
            }
            _ => {
                check_passed_on(&request)?;
                match self.routes.submission(request) {
                    Ok(submission) => {
                        self.outcome = Outcome::Submits(submission);
                        Ok(Command::Admit)
                    }
                    Err(request) => {
                        self.outcome = Outcome::PassedOn(received, Box::new(request));
                        Ok(Command::PassOn)
                    }
                }
            }
        }
    }

    /// Continues with a request that publishes.
    fn submit(&mut self, input: &mut &[u8], limits: &Limits) -> Option<Command> {
        let Outcome::Submits(submission) = &mut self.outcome else { return None };
        let (next, command) = match submission.decode(input, limits)? {
            Progress::Goes(command) => return Some(command),
            Progress::Ends(command) => (Outcome::Undecided, command),
            Progress::Closes(command) => (Outcome::Answered, command),
        };
        self.outcome = next;
        self.head = HeadReader::default();
        self.was_used = true;
        Some(command)
    }
}

impl Decoder for PortDecoder {
    fn decode(&mut self, input: &mut &[u8], limits: &Limits) -> Option<Result<Command, FrameError>> {
        match self.outcome {
            Outcome::Undecided => {}
            Outcome::Submits(_) => return self.submit(input, limits).map(Ok),
            _ => {
                *input = &[];
                return None;
            }
        }
        let decided = match self.head.read(input)? {
            Ok(head) => {
                let rules = self.rules.load_full();
                self.reader = Reader::of(&head.request, &rules.allowed_origins);
                self.decide(head, limits, &rules).map_err(|error| error.response_to(&self.reader))
            }
            Err(error) => Err(error.response()),
        };
        Some(Ok(decided.unwrap_or_else(|response| {
            self.outcome = Outcome::Refused;
            Command::Close(response)
        })))
    }

    fn finish(&mut self, _: &Limits) -> Option<Result<Command, FrameError>> {
        match &mut self.outcome {
            Outcome::Submits(submission) => submission.finish().map(Ok),
            _ => None,
        }
    }

    fn is_mid_frame(&self) -> bool {
        match self.outcome {
            Outcome::Undecided => self.head.is_mid_head() && !self.is_idle(),
            Outcome::Submits(_) => true,
            _ => false,
        }
    }

    fn is_idle(&self) -> bool {
        // Some clients send an empty line behind a body.
        self.was_used && matches!(self.outcome, Outcome::Undecided) && self.head.buffered() == 0
    }

    fn closing(&self) -> Option<usize> {
        Some(LAST_ANSWERS)
    }

    fn buffered(&self) -> usize {
        match &self.outcome {
            Outcome::Submits(submission) => submission.memory(),
            _ => self.head.buffered(),
        }
    }

    fn memory(&self) -> usize {
        match &self.outcome {
            Outcome::Submits(submission) => self.head.memory() + submission.memory(),
            Outcome::PassedOn(received, request) => self.head.memory() + received.capacity() + request.memory(),
            Outcome::Becomes(_, decoder) => self.head.memory() + decoder.memory(),
            Outcome::Undecided | Outcome::Refused | Outcome::Answered => self.head.memory(),
        }
    }

    fn refuse(&self, refusal: &Refusal<'_>) -> Refusing {
        match &self.outcome {
            // Unasked, a client would take an answer for that to its next request.
            Outcome::Undecided if self.is_idle() => Refusing::With(Bytes::new()),
            Outcome::Undecided => Refusing::OnceRead,
            // A request has one answer.
            Outcome::Answered => Refusing::With(Bytes::new()),
            // A page of another site reads no answer to a publication.
            Outcome::Submits(_) => Refusing::With(refused(refusal).response()),
            _ => Refusing::With(refused(refusal).response_to(&self.reader)),
        }
    }

    fn note_refused(&self, refusal: &Refusal<'_>) {
        if let Outcome::Submits(submission) = &self.outcome {
            submission.note(&refused(refusal));
        }
    }

    fn admit(&mut self, is_local: bool) {
        if let Outcome::Submits(submission) = &mut self.outcome {
            submission.admit(is_local);
        }
    }

    fn request(&self) -> Option<&HttpRequest> {
        match &self.outcome {
            Outcome::Becomes(_, decoder) => decoder.request(),
            Outcome::PassedOn(_, request) => Some(request),
            Outcome::Submits(submission) => Some(&submission.request),
            Outcome::Undecided | Outcome::Refused | Outcome::Answered => None,
        }
    }

    fn successor(&mut self) -> Option<(usize, Box<dyn Decoder>)> {
        match mem::replace(&mut self.outcome, Outcome::Refused) {
            Outcome::Becomes(place, decoder) => Some((place, decoder)),
            other => {
                self.outcome = other;
                None
            }
        }
    }

    fn take_received(&mut self) -> Vec<u8> {
        match &mut self.outcome {
            Outcome::PassedOn(received, _) => mem::take(received),
            _ => Vec::new(),
        }
    }
}

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
}

impl HttpError {
    /// An error with this status.
    #[must_use]
    pub fn new(status: u16, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into(), retry_after: None }
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
            401 => headers.push(("www-authenticate", "Bearer".to_owned())),
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
    pub(super) fn response_to(&self, reader: &Reader) -> Bytes {
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
pub(super) struct Reader {
    /// Header lines that let the requesting page read the answer.
    cors: String,
    /// Whether nothing may follow the head of the response (RFC 9110, 9.3.2).
    pub(super) asked_for_the_head: bool,
}

impl Reader {
    pub(super) fn of(request: &HttpRequest, allowed_origins: &AllowedOrigins) -> Self {
        Self { cors: allowed_origins.cors(request), asked_for_the_head: request.method == "HEAD" }
    }
}

impl From<&Refusal<'_>> for HttpError {
    fn from(refusal: &Refusal<'_>) -> Self {
        let status = refusal.status.unwrap_or_else(|| refusal.code.http_status());
        let can_come_back = matches!(status, 429 | 503) && refusal.code.class() != ErrorClass::DoNot;
        let retry_after = refusal.reconnect_after.or_else(|| can_come_back.then_some(Duration::from_secs(1)));
        Self { status, code: refusal.code.as_str(), message: refusal.message.to_owned(), retry_after }
    }
}

impl From<super::websocket::UpgradeError> for HttpError {
    fn from(error: super::websocket::UpgradeError) -> Self {
        let code = match error.status {
            405 => "method_not_allowed",
            426 => "upgrade_required",
            _ => ErrorCode::BadOpen.as_str(),
        };
        Self::new(error.status, code, error.message)
    }
}

fn reason_phrase(status: u16) -> &'static str {
    match status {
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
        _ => "Refused",
    }
}

/// Told to a request with a body: a WebSocket or event stream does not begin with a body, and its bytes would be
/// mistaken for something else.
pub(super) const NO_BODY: &str = "a request to this path must not have a body";

/// Refuses heads that the HTTP server behind the port would refuse without an explanation in the body.
fn check_passed_on(request: &HttpRequest) -> Result<(), HttpError> {
    let target = request.target.split('#').next().unwrap_or_default();
    let is_known = target.starts_with('/') || target == "*" || request.method == "CONNECT";
    if !is_known || target.contains(['"', '<', '>']) || request.path().contains('`') {
        return Err(bad_head("the target must be a path with special characters escaped"));
    }
    let mut lengths = request.headers_named("content-length");
    let length = lengths.next();
    let is_number = |length: &str| {
        length.bytes().all(|byte| byte.is_ascii_digit()) && length.parse().is_ok_and(|length: u64| length >> 63 == 0)
    };
    // A server in front may go by the one or by the other of two equal lengths, and by neither of two unequal ones.
    if !length.is_none_or(is_number) || lengths.next().is_some() {
        return Err(bad_head("Content-Length must be a single number"));
    }
    if let Some(coding) = request.headers_named("transfer-encoding").last() {
        if length.is_some() {
            return Err(bad_head(body::TWO_LENGTHS));
        }
        if request.is_http_1_0 {
            return Err(bad_head("HTTP/1.0 has no Transfer-Encoding"));
        }
        let last = trim_ows(coding.rsplit(',').next().unwrap_or_default());
        if !last.eq_ignore_ascii_case("chunked") {
            return Err(bad_head("the last Transfer-Encoding must be chunked"));
        }
    }
    Ok(())
}

/// The value of a response's `Date`.
pub(super) fn date() -> String {
    answer::with_date(str::to_owned)
}

fn preflight(cors: &str) -> Bytes {
    let date = date();
    format!(
        "HTTP/1.1 204 No Content\r\n{cors}date: {date}\r\naccess-control-allow-methods: GET\r\n\
         access-control-allow-headers: authorization, cache-control, last-event-id\r\n\
         access-control-max-age: {PREFLIGHT_MAX_AGE}\r\nconnection: close\r\n\r\n"
    )
    .into()
}

/// The head of a request.
#[derive(Debug)]
pub(super) struct Head {
    pub(super) request: HttpRequest,
    /// The bytes of the head, as received.
    pub(super) received: Vec<u8>,
}

/// Collects the head of a request, however its bytes are split between reads.
#[derive(Debug, Default)]
pub(super) struct HeadReader {
    kept: Vec<u8>,
    /// Whether the current line has had nothing but a carriage return so far.
    line_is_empty: bool,
    /// Whether the last byte is a carriage return.
    after_cr: bool,
    /// Empty lines before the head are ignored, but count against its length.
    skipped: usize,
    over: bool,
}

impl HeadReader {
    /// Takes bytes up to the end of the head. No byte is searched twice. Bytes that cannot belong to a head are refused
    /// at once: a client with another protocol need not wait for a timeout.
    pub(super) fn read(&mut self, input: &mut &[u8]) -> Option<Result<Head, HttpError>> {
        if self.over {
            *input = &[];
            return None;
        }
        while self.kept.is_empty() && matches!(input.first(), Some(b'\r' | b'\n')) {
            *input = &input[1..];
            self.skipped += 1;
        }
        let read = self.take_head(input)?;
        self.over = true;
        Some(read.and_then(|()| parse(mem::take(&mut self.kept))))
    }

    fn take_head(&mut self, input: &mut &[u8]) -> Option<Result<(), HttpError>> {
        let room = MAX_HEAD_BYTES.saturating_sub(self.kept.len() + self.skipped);
        for (at, &byte) in input.iter().enumerate() {
            if at == room {
                let message = format!("request head longer than the limit of {MAX_HEAD_BYTES} bytes");
                return Some(Err(HttpError::new(431, ErrorCode::FrameTooLarge.as_str(), message)));
            }
            // Where servers disagree about the end of a line, they disagree about the end of a head.
            if mem::replace(&mut self.after_cr, byte == b'\r') != (byte == b'\n') {
                return Some(Err(bad_head("a line must end with CR and LF")));
            }
            match byte {
                b'\n' if self.line_is_empty => {
                    self.kept.extend_from_slice(&input[..=at]);
                    *input = &input[at + 1..];
                    return Some(Ok(()));
                }
                b'\n' => self.line_is_empty = true,
                b'\r' => {}
                // The rest of the first line of such a header looks like empty lines.
                0 if self.kept.is_empty() && ProxyHeader::continues(&input[at + 1..]) => {
                    return Some(Err(bad_head(ProxyHeader::UNEXPECTED)));
                }
                0..0x20 | 0x7f if byte != b'\t' => {
                    let message = "this port speaks HTTP, and these bytes are not HTTP: check the port; TLS must end at a proxy \
                                   in front of the server";
                    return Some(Err(HttpError::new(400, ErrorCode::BadFrame.as_str(), message)));
                }
                _ => self.line_is_empty = false,
            }
        }
        if room == 0 && self.kept.is_empty() && self.skipped > 0 {
            return Some(Err(bad_head("too many empty lines before the request")));
        }
        self.kept.extend_from_slice(input);
        *input = &[];
        None
    }

    pub(super) fn is_mid_head(&self) -> bool {
        !self.over && (!self.kept.is_empty() || self.skipped > 0)
    }

    pub(super) fn buffered(&self) -> usize {
        self.kept.len()
    }

    pub(super) fn memory(&self) -> usize {
        self.kept.capacity()
    }
}

fn parse(received: Vec<u8>) -> Result<Head, HttpError> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut head = httparse::Request::new(&mut headers);
    match head.parse(&received) {
        Ok(httparse::Status::Complete(length)) if length == received.len() => {}
        Ok(_) => return Err(bad_head("malformed end of a line")),
        Err(httparse::Error::TooManyHeaders) => {
            let message = format!("request with more than {MAX_HEADERS} headers");
            return Err(HttpError::new(431, ErrorCode::FrameTooLarge.as_str(), message));
        }
        Err(_) if ProxyHeader::begins(&received) => return Err(bad_head(ProxyHeader::UNEXPECTED)),
        Err(error) => return Err(bad_head(&error.to_string())),
    }
    let (Some(method), Some(target), Some(minor_version)) = (head.method, head.path, head.version) else {
        return Err(bad_head("the request line is incomplete"));
    };
    let headers: Vec<(String, String)> = head
        .headers
        .iter()
        .map(|header| (header.name.to_ascii_lowercase(), trim_ows(&String::from_utf8_lossy(header.value)).to_owned()))
        .collect();
    let (method, target) = (method.to_owned(), target.to_owned());
    let request = HttpRequest { method, target, headers, is_http_1_0: minor_version == 0 };
    let is_absolute = !request.target.starts_with('/') && request.target.contains("://");
    let hosts: Vec<&str> = request.headers_named("host").collect();
    match hosts[..] {
        // If the target has no host of its own, an empty `Host` names no host at all (RFC 9110, 4.2.1).
        [host] if host.is_empty() && is_absolute || host_and_port(host, None).is_some() => {}
        [_] => return Err(bad_head("Host must be a host with an optional port")),
        [] if minor_version == 0 => {}
        _ => return Err(bad_head("exactly one Host header is required")),
    }
    let request = request.into_origin_form();
    if is_absolute && request.header("host").is_none_or(|host| host_and_port(host, None).is_none()) {
        return Err(bad_head("the target names no host"));
    }
    Ok(Head { request, received })
}

fn bad_head(why: &str) -> HttpError {
    HttpError::new(400, ErrorCode::BadFrame.as_str(), format!("not an HTTP request: {why}"))
}

#[cfg(test)]
mod tests;
