//! The HTTP port: the head of a request decides what a connection becomes.
//!
//! `/ws` and the paths of other protocols become a WebSocket, `/events` a stream of server-sent events, a request to a
//! [`PublishRoute`] publishes and is answered here, and everything else is passed on with the bytes received. Behind an answer
//! the connection is kept, and another request decides anew. `http/tests.rs` has the rules.
//!
//! | file | what it is | what it owns |
//! |---|---|---|
//! | `answer.rs` | pure: a writer | answers of kept connections, and the `Date` of all answers |
//! | `body.rs` | pure: a reader | [`BodyReader`], the body of a request |
//! | `error.rs` | pure: a value | [`HttpError`], what the sender of a refused request is told |
//! | `head.rs` | pure: a reader | the head of a request |
//! | `mounted.rs` | pure: a part of the codec | requests whose head another HTTP server has read |
//! | `path.rs` | pure: a value | [`PathPattern`], the paths of a route |
//! | `publishing.rs` | pure: a part of the codec | [`PublishRoute`], and requests that publish |

mod answer;
mod body;
mod error;
mod head;
mod mounted;
mod path;
mod publishing;

use std::mem;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::{BufMut, Bytes, BytesMut};

use super::origins::{AllowedOrigins, host_and_port, is_site};
use super::sse::Sse;
use super::websocket::{self, Cbor, Endpoint, WebSocket};
use super::{
    Codec, Command, Decoder, ErrorCode, FrameError, HttpRequest, Limits, Opens, Refusal, Refusing, ServerEvent,
    Timestamp,
};
pub use body::BodyReader;
pub use error::HttpError;
pub(super) use error::Reader;
pub(crate) use error::reason_phrase;
use head::check_passed_on;
pub(super) use head::{Head, HeadReader};
pub use path::{PathPattern, PathPatternError};
use publishing::{Progress, Routes, Submission};
pub use publishing::{PublishQuery, PublishRoute};

/// How long, in seconds, a browser may remember the answer to a preflight.
const PREFLIGHT_MAX_AGE: &str = "600";

/// The codec of an HTTP port: [`WebSocket`] at `/ws` and at the paths of other [protocols](Self::websocket), [`Sse`] at
/// `/events`, publications at each [`PublishRoute`], and [`Command::PassOn`] for every other path.
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
pub struct HttpPort(Arc<Shared>);

/// What the decoders of a port share.
#[derive(Clone, Debug)]
struct Shared {
    rules: Arc<ArcSwap<Rules>>,
    /// Empty if other machines can connect.
    own_ports: Vec<u16>,
    routes: Routes,
    websockets: Vec<Place>,
    /// The number of codecs of WebSockets.
    codecs: usize,
}

/// The WebSockets at a path.
#[derive(Clone, Debug)]
struct Place {
    path: PathPattern,
    endpoint: Endpoint,
    /// The index of the endpoint's first codec in [`Codec::successors`].
    first: usize,
}

/// The part that a program can change while connections come in.
#[derive(Debug)]
struct Rules {
    allowed_origins: AllowedOrigins,
    /// The forms of an event stream, in the order of [`form`].
    streams: [Arc<Sse>; FORMS],
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

/// The path of event streams.
const EVENTS: &str = "/events";

/// The number of forms of an event stream. In [`Codec::successors`], the event streams follow the WebSockets, and the codec of
/// last answers follows the event streams.
const FORMS: usize = 4;

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
        let (own_ports, routes, websockets) = (Vec::new(), Routes::default(), Vec::new());
        Self(Arc::new(Shared { rules, own_ports, routes, websockets, codecs: 0 }))
            .websocket(PathPattern::exact("/ws"), Endpoint::new(WebSocket::v1()).or(WebSocket::new(Cbor)))
    }

    /// Adds the protocols of WebSockets at other paths. Where several patterns fit a path, the earliest counts; `/ws` and
    /// `/events` come first, and publishing routes come last.
    ///
    /// ```
    /// use std::time::Duration;
    /// use janus_core::wire::websocket::Endpoint;
    /// use janus_core::wire::{AllowedOrigins, HttpPort, WebSocket};
    ///
    /// let port = HttpPort::new(AllowedOrigins::default(), Duration::from_secs(2));
    /// let port = port.websocket("/app/*".parse()?, Endpoint::new(WebSocket::v1()));
    /// # Ok::<_, janus_core::wire::PathPatternError>(())
    /// ```
    #[must_use]
    pub fn websocket(mut self, path: PathPattern, endpoint: Endpoint) -> Self {
        let shared = Arc::make_mut(&mut self.0);
        let first = shared.codecs;
        shared.codecs += endpoint.codecs().count();
        shared.websockets.push(Place { path, endpoint, first });
        self
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
        self.0.rules.store(Arc::new(Rules::new(allowed_origins, sse_retry)));
    }

    /// Adds a path at which requests publish.
    #[must_use]
    pub fn publish_route(mut self, route: PublishRoute) -> Self {
        let shared = Arc::make_mut(&mut self.0);
        shared.routes = shared.routes.with(route);
        self
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
    pub fn for_this_machine(mut self, ports: impl IntoIterator<Item = u16>) -> Self {
        Arc::make_mut(&mut self.0).own_ports = ports.into_iter().collect();
        self
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
            self.0.routes.encode(event, false, out);
        }
    }

    fn opens(&self) -> Opens {
        Opens::WhenAsked
    }

    fn successors(&self) -> Vec<Arc<dyn Codec>> {
        // These encode events, and no event depends on the rules.
        let rules = self.0.rules.load();
        let streams = rules.streams.iter().map(|stream| Arc::clone(stream) as _);
        let last = Arc::new(LastAnswers(self.clone())) as _;
        let websockets = self.0.websockets.iter().flat_map(|place| place.endpoint.codecs());
        websockets.chain(streams).chain([last]).collect()
    }
}

impl HttpPort {
    fn decoder_with(&self, outcome: Outcome, was_used: bool) -> PortDecoder {
        PortDecoder {
            port: Arc::clone(&self.0),
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
            event => self.0.0.routes.encode(event, true, out),
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
    port: Arc<Shared>,
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
        if self.port.own_ports.contains(&port) && is_site(&name) && !allowed_origins.has_host(host) {
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
        let mut websockets = self.port.websockets.iter().filter(|_| request.path() != EVENTS);
        if let Some(place) = websockets.find(|place| place.path.fits(request.path())) {
            self.check_origin(&request, &rules.allowed_origins)?;
            let upgrade = place.endpoint.upgrade(request)?;
            self.outcome = Outcome::Becomes(place.first + upgrade.place, upgrade.decoder);
            return Ok(Command::Become(websocket::head(upgrade.headers)));
        }
        match request.path() {
            EVENTS => {
                self.check_origin(&request, &rules.allowed_origins)?;
                if request.method == "OPTIONS" {
                    self.outcome = Outcome::Refused;
                    return Ok(Command::Close(preflight(&rules.allowed_origins.cors(&request), &EVENTS_PREFLIGHT)));
                }
                let form = form(&request);
                let decoder = rules.streams[form].decoder_for(request, limits)?;
                self.outcome = Outcome::Becomes(self.port.codecs + form, decoder);
                Ok(Command::Become(Bytes::new()))
            }
            _ => {
                check_passed_on(&request)?;
                match self.port.routes.submission(request) {
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
                let rules = self.port.rules.load_full();
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
        Some(self.port.codecs + FORMS)
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

/// Told to a request with a body: a WebSocket or event stream does not begin with a body, and its bytes would be
/// mistaken for something else.
pub(super) const NO_BODY: &str = "a request to this path must not have a body";

/// The value of a response's `Date`.
pub(crate) fn date() -> String {
    answer::with_date(str::to_owned)
}

/// What a page of another origin may send to a path.
struct Preflight {
    methods: &'static str,
    headers: &'static str,
}

const EVENTS_PREFLIGHT: Preflight =
    Preflight { methods: "GET", headers: "authorization, cache-control, last-event-id" };
const PUBLISH_PREFLIGHT: Preflight =
    Preflight { methods: "POST", headers: "authorization, content-type, idempotency-key" };

fn preflight(cors: &str, Preflight { methods, headers }: &Preflight) -> Bytes {
    let date = date();
    format!(
        "HTTP/1.1 204 No Content\r\n{cors}date: {date}\r\naccess-control-allow-methods: {methods}\r\n\
         access-control-allow-headers: {headers}\r\n\
         access-control-max-age: {PREFLIGHT_MAX_AGE}\r\nconnection: close\r\n\r\n"
    )
    .into()
}

#[cfg(test)]
mod tests;
