//! A client for a test.

use std::collections::VecDeque;
use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

use crate::wire::v1::client::{self as v1, ServerFrame as Frame};
use crate::wire::websocket::client::{self as websocket, ServerDecoder, ServerFrame};
use crate::wire::{Bytes, BytesMut, Position, Since};

/// Long enough for a busy machine; no passing test comes near.
const PATIENCE: Duration = Duration::from_secs(10);

/// Frames that the text of a panic shows.
const SHOWN: usize = 10;

/// A client to be connected: where, and with which proof of identity.
///
/// ```
/// use janus_core::hooks::{ConnectRequest, Denied, Hooks, Identity};
/// use janus_core::Janus;
/// use janus_core::testing::TestServer;
///
/// struct Sesame;
///
/// impl Hooks for Sesame {
///     async fn authenticate(&self, request: ConnectRequest) -> Result<Identity, Denied> {
///         match request.auth.as_deref() {
///             Some("sesame") => Ok(Identity::user("ali")),
///             _ => Err(Denied::new("show the key")),
///         }
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let server = TestServer::of(Janus::builder().hooks(Sesame)).await;
/// server.connect().auth("sesame").connect().await;
/// assert_eq!(server.connect().auth("guess").refused().await.error, "unauthorized");
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Connect {
    addr: SocketAddr,
    path: String,
    headers: String,
    auth: Option<String>,
    patience: Duration,
}

impl Connect {
    /// A client of the server at this address, be it Janus's own port or a program in which Janus is mounted.
    #[must_use]
    pub fn to(addr: SocketAddr) -> Self {
        Self { addr, path: "/ws".to_owned(), headers: String::new(), auth: None, patience: PATIENCE }
    }

    /// Sets the path, and the query if there is one; `/ws` by default.
    #[must_use]
    pub fn path(self, path: impl Into<String>) -> Self {
        Self { path: path.into(), ..self }
    }

    /// Adds a header to the request.
    ///
    /// # Panics
    ///
    /// If the name or the value has a line break.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        let line = format!("{name}: {value}");
        assert!(!line.contains(['\r', '\n']), "a header is a single line: {line:?}");
        self.headers += &format!("{line}\r\n");
        self
    }

    /// Sets the proof of identity in the `hello`, such as a token.
    #[must_use]
    pub fn auth(self, auth: impl Into<String>) -> Self {
        Self { auth: Some(auth.into()), ..self }
    }

    /// Sets how long each wait of the client may take, 10 seconds by default.
    #[must_use]
    pub fn patience(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    /// Connects, and waits until the client is served.
    ///
    /// # Panics
    ///
    /// If the client is refused, with the reason.
    pub async fn connect(self) -> TestClient {
        match self.open().await {
            Ok(client) => client,
            Err(refused) => panic!("the client is refused: {refused}"),
        }
    }

    /// Connects, and expects to be refused: by a status, or in answer to the `hello`.
    ///
    /// # Panics
    ///
    /// If the client is served.
    pub async fn refused(self) -> Refused {
        match self.open().await {
            Ok(client) => panic!("the client is served, and should be refused: {client:?}"),
            Err(refused) => refused,
        }
    }

    async fn open(self) -> Result<TestClient, Refused> {
        let Self { addr, path, headers, auth, patience } = self;
        let stream = match tokio::time::timeout(patience, TcpStream::connect(addr)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => panic!("cannot connect to {addr}: {error}"),
            Err(_) => panic!("cannot connect to {addr} within {patience:?}"),
        };
        let mut client = TestClient {
            stream,
            decoder: ServerDecoder::new(),
            frames: VecDeque::new(),
            events: VecDeque::new(),
            seen: VecDeque::new(),
            patience,
            requests: 0,
        };
        let mut key = [0; 16];
        key.fill_with(|| fastrand::u8(..));
        let mut request = websocket::upgrade(&addr.to_string(), &path, &data_encoding::BASE64.encode(&key));
        // In front of the empty line.
        request.truncate(request.len() - 2);
        request.extend_from_slice(headers.as_bytes());
        request.extend_from_slice(b"\r\n");
        client.write(&request).await;
        client.upgraded().await?;
        client.send(&v1::hello(None, auth.as_deref())).await;
        match client.frame("the welcome").await {
            Received::Text(text) => match Frame::parse(&text) {
                Frame::Welcome { .. } => Ok(client),
                Frame::Bye { error, message, .. } | Frame::Error { error, message, .. } => {
                    Err(Refused { status: None, error: error.into_owned(), message: message.into_owned() })
                }
                other => panic!("{other:?} in answer to the hello"),
            },
            other => panic!("{other:?} in answer to the hello"),
        }
    }
}

/// Why a client is not served.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Refused {
    /// The status, if the WebSocket did not open.
    pub status: Option<u16>,
    /// The code, such as `unauthorized`; empty if the answer has none.
    pub error: String,
    /// The text for people, or the whole body of an answer that is not Janus's.
    pub message: String,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(status) = self.status {
            write!(f, "status {status}, ")?;
        }
        write!(f, "{}: {}", self.error, self.message)
    }
}

/// The end of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TestClosed {
    /// The code of the `bye`, such as `server_draining`; empty without a `bye`.
    pub error: String,
    /// The code of the close frame; `None` if the connection was cut off.
    pub code: Option<u16>,
}

/// A message, as a client has it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TestMessage {
    /// The topic.
    pub topic: String,
    /// The message's number.
    pub seq: u64,
    /// JSON text; `""` in JSON, two quotes, if the publisher has given none.
    pub event: String,
    /// JSON text, as the event.
    pub message_id: String,
    /// JSON text; `null` for a payload of bytes.
    pub json: String,
    /// The payload of a message of bytes.
    pub bytes: Option<Bytes>,
}

impl TestMessage {
    /// The data as a value of any serde type.
    ///
    /// # Panics
    ///
    /// If the data is not such a value.
    #[must_use]
    pub fn data<T: DeserializeOwned>(&self) -> T {
        serde_json::from_str(&self.json)
            .unwrap_or_else(|error| panic!("the data is no {}: {error} in {}", std::any::type_name::<T>(), self.json))
    }
}

/// What comes without a request.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TestEvent {
    /// A message of a topic.
    Message(TestMessage),
    /// Messages that the client has missed.
    Gap {
        /// The topic.
        topic: String,
        /// The number of the first.
        from: u64,
        /// The number of the last.
        to: u64,
    },
    /// The error of a topic whose delivery has ended, or of another frame without a request.
    Error {
        /// The topic, if the error is about one.
        topic: Option<String>,
        /// The code.
        error: String,
    },
}

/// A client of `janus.v1.json` over WebSocket. Answers pings whenever it waits for something.
///
/// Each method panics if the awaited does not come within the client's [patience](Connect::patience), or if the server closes
/// the connection instead. The text of the panic has the last frames of the server.
pub struct TestClient {
    stream: TcpStream,
    decoder: ServerDecoder,
    /// Read, and not looked at.
    frames: VecDeque<Received>,
    /// Came while something else was awaited.
    events: VecDeque<TestEvent>,
    /// The last frames, for the text of a panic.
    seen: VecDeque<String>,
    patience: Duration,
    requests: u64,
}

#[derive(Debug)]
enum Received {
    Text(String),
    Closed(TestClosed),
}

impl TestClient {
    /// Sets how long each wait may take from now on.
    pub fn patience(&mut self, patience: Duration) {
        self.patience = patience;
    }

    /// Subscribes to a topic, and returns the position after which it begins.
    pub async fn subscribe(&mut self, topic: &str) -> Position {
        self.subscribe_since(topic, None).await
    }

    /// Subscribes to a topic from a position on; the missed messages follow.
    pub async fn subscribe_since(&mut self, topic: &str, since: impl Into<Option<Since>>) -> Position {
        match self.try_subscribe(topic, since).await {
            Ok(position) => position,
            Err(refused) => self.fail(&format!("cannot subscribe to {topic:?}: {refused}")),
        }
    }

    /// As [`subscribe_since`](Self::subscribe_since).
    ///
    /// # Errors
    ///
    /// The refusal of the server.
    pub async fn try_subscribe(&mut self, topic: &str, since: impl Into<Option<Since>>) -> Result<Position, Refused> {
        let since = since.into();
        let text = self.ask(|id| v1::subscribe(id, topic, since), "the answer to a subscribe").await?;
        match Frame::parse(&text) {
            Frame::Subscribed { position, .. } => Ok(position),
            other => self.fail(&format!("{other:?} in answer to a subscribe")),
        }
    }

    /// Ends a subscription.
    pub async fn unsubscribe(&mut self, topic: &str) {
        if let Err(refused) = self.ask(|id| v1::unsubscribe(id, topic), "the answer to an unsubscribe").await {
            self.fail(&format!("cannot unsubscribe from {topic:?}: {refused}"));
        }
    }

    /// Publishes a value, and returns the message's place in the order of its topic.
    pub async fn publish(&mut self, topic: &str, data: &(impl Serialize + ?Sized)) -> Position {
        match self.try_publish(topic, data).await {
            Ok(position) => position,
            Err(refused) => self.fail(&format!("cannot publish to {topic:?}: {refused}")),
        }
    }

    /// As [`publish`](Self::publish).
    ///
    /// # Errors
    ///
    /// The refusal of the server.
    pub async fn try_publish(&mut self, topic: &str, data: &(impl Serialize + ?Sized)) -> Result<Position, Refused> {
        let data = serde_json::to_string(data).expect("the data is a value of JSON");
        let text = self.ask(|id| v1::publish(id, topic, "\"\"", "\"\"", &data), "the receipt of a message").await?;
        match Frame::parse(&text) {
            Frame::Published { position, .. } => Ok(position),
            other => self.fail(&format!("{other:?} in answer to a publish")),
        }
    }

    /// Shows a new proof of identity.
    ///
    /// # Errors
    ///
    /// The refusal of the server.
    pub async fn refresh(&mut self, auth: &str) -> Result<(), Refused> {
        self.ask(|id| v1::refresh(id, auth), "the answer to a refresh").await.map(drop)
    }

    /// The next message, gap, or error without a request.
    pub async fn next(&mut self) -> TestEvent {
        loop {
            if let Some(event) = self.events.pop_front() {
                return event;
            }
            match self.frame("a message").await {
                Received::Text(text) => self.keep(&text),
                Received::Closed(closed) => self.fail(&format!("{closed:?} in place of a message")),
            }
        }
    }

    /// The next message.
    pub async fn next_message(&mut self) -> TestMessage {
        match self.next().await {
            TestEvent::Message(message) => message,
            other => self.fail(&format!("{other:?} in place of a message")),
        }
    }

    /// Asks for a sign of life, and expects no message before: everything that was on its way to the client comes first, so
    /// this takes no time to speak of.
    pub async fn expect_no_message(&mut self) {
        self.send(v1::PING).await;
        loop {
            match self.frame("a pong").await {
                Received::Text(text) if matches!(Frame::parse(&text), Frame::Pong) => break,
                Received::Text(text) => self.keep(&text),
                Received::Closed(closed) => self.fail(&format!("{closed:?}, and the client should be connected")),
            }
        }
        if let Some(event) = self.events.pop_front() {
            self.fail(&format!("{event:?}, and nothing should have come"));
        }
    }

    /// Waits until the server has closed the connection. Messages before are left out.
    pub async fn closed(&mut self) -> TestClosed {
        let mut error = String::new();
        loop {
            match self.frame("the end of the connection").await {
                Received::Text(text) => {
                    if let Frame::Bye { error: said, .. } = Frame::parse(&text) {
                        error = said.into_owned();
                    }
                }
                Received::Closed(closed) => return TestClosed { error, ..closed },
            }
        }
    }

    /// Closes the connection as browsers do, and waits for the server's end.
    pub async fn close(mut self) {
        let close = websocket::close(1000, mask());
        self.write(&close).await;
        self.closed().await;
    }

    async fn ask(&mut self, request: impl FnOnce(Option<u64>) -> String, what: &str) -> Result<String, Refused> {
        self.requests += 1;
        let number = Some(self.requests);
        self.send(&request(number)).await;
        loop {
            let text = match self.frame(what).await {
                Received::Text(text) => text,
                Received::Closed(closed) => self.fail(&format!("{closed:?} in place of {what}")),
            };
            match Frame::parse(&text) {
                Frame::Error { id, error, message, .. } if id == number => {
                    return Err(Refused { status: None, error: error.into_owned(), message: message.into_owned() });
                }
                Frame::Subscribed { id, .. }
                | Frame::Unsubscribed { id, .. }
                | Frame::Published { id, .. }
                | Frame::Refreshed { id, .. }
                    if id == number =>
                {
                    return Ok(text);
                }
                _ => self.keep(&text),
            }
        }
    }

    /// Keeps a frame that was not awaited.
    fn keep(&mut self, text: &str) {
        let event = match Frame::parse(text) {
            Frame::Message { topic, seq, event, message_id, data, base64, .. } => TestEvent::Message(TestMessage {
                topic: topic.into_owned(),
                seq,
                event: event.to_owned(),
                message_id: message_id.to_owned(),
                json: data.to_owned(),
                bytes: base64.map(|base64| base64.decode().into()),
            }),
            Frame::Gap { topic, from, to, .. } => TestEvent::Gap { topic: topic.into_owned(), from, to },
            Frame::Error { topic, error, .. } => {
                TestEvent::Error { topic: topic.map(|topic| topic.into_owned()), error: error.into_owned() }
            }
            // A `bye` is followed by the end, which has its words.
            _ => return,
        };
        self.events.push_back(event);
    }

    async fn send(&mut self, text: &str) {
        let frame = websocket::text(text, mask());
        self.write(&frame).await;
    }

    async fn write(&mut self, bytes: &[u8]) {
        // A server that has closed the connection has said why, and that is read next.
        let _ = tokio::time::timeout(self.patience, self.stream.write_all(bytes)).await;
    }

    /// Reads the answer to the request.
    async fn upgraded(&mut self) -> Result<(), Refused> {
        let until = Instant::now() + self.patience;
        let mut received = BytesMut::new();
        let (status, length, body_length) = loop {
            match head(&received) {
                Ok(Some(head)) => break head,
                Ok(None) => {}
                Err(error) => panic!("the answer to the request is no HTTP: {error}"),
            }
            match timeout_at(until, self.stream.read_buf(&mut received)).await {
                Ok(Ok(1..)) => {}
                Ok(_) => panic!("the server has closed the connection without an answer"),
                Err(_) => panic!("no answer to the request within {:?}", self.patience),
            }
        };
        let mut body = received.split_off(length);
        if status == 101 {
            self.decode(&body).await;
            return Ok(());
        }
        // The server may keep the connection, so the end of the body is not the end of the stream.
        while body.len() < body_length
            && matches!(timeout_at(until, self.stream.read_buf(&mut body)).await, Ok(Ok(1..)))
        {}
        Err(refused(status, &String::from_utf8_lossy(&body)))
    }

    /// The next frame that is no ping.
    async fn frame(&mut self, what: &str) -> Received {
        let until = Instant::now() + self.patience;
        loop {
            if let Some(frame) = self.frames.pop_front() {
                return frame;
            }
            let mut buffer = BytesMut::with_capacity(16 * 1024);
            match timeout_at(until, self.stream.read_buf(&mut buffer)).await {
                Ok(Ok(1..)) => self.decode(&buffer).await,
                Ok(_) => return Received::Closed(TestClosed { error: String::new(), code: None }),
                Err(_) => self.fail(&format!("waited {:?} in vain for {what}", self.patience)),
            }
        }
    }

    async fn decode(&mut self, mut input: &[u8]) {
        let mut pongs = Vec::new();
        while let Some(frame) = self.decoder.decode(&mut input) {
            let received = match frame {
                ServerFrame::Text(text) => Received::Text(text.to_owned()),
                ServerFrame::Ping(payload) => {
                    pongs.extend(websocket::pong(payload, mask()));
                    continue;
                }
                ServerFrame::Pong(_) => continue,
                ServerFrame::Close { code, .. } => Received::Closed(TestClosed { error: String::new(), code }),
                ServerFrame::Binary(_) | ServerFrame::Unexpected => {
                    panic!("the server has sent a frame that is none of janus.v1.json")
                }
            };
            if self.seen.len() == SHOWN {
                self.seen.pop_front();
            }
            self.seen.push_back(match &received {
                Received::Text(text) => text.clone(),
                Received::Closed(closed) => format!("{closed:?}"),
            });
            self.frames.push_back(received);
        }
        if !pongs.is_empty() {
            self.write(&pongs).await;
        }
    }

    fn fail(&self, what: &str) -> ! {
        let seen: String = self.seen.iter().map(|frame| format!("\n    {frame}")).collect();
        let seen = if seen.is_empty() { " nothing".to_owned() } else { seen };
        panic!("{what}; the last frames of the server:{seen}")
    }
}

impl fmt::Debug for TestClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TestClient").field("seen", &self.seen).finish_non_exhaustive()
    }
}

/// The status, and the bytes of the head and of the body; `None` while the head is incomplete.
fn head(received: &[u8]) -> Result<Option<(u16, usize, usize)>, httparse::Error> {
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut head = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(length) = head.parse(received)? else { return Ok(None) };
    let body = head.headers.iter().find(|header| header.name.eq_ignore_ascii_case("content-length"));
    let body = body.and_then(|header| str::from_utf8(header.value).ok()?.parse().ok());
    Ok(Some((head.code.unwrap_or_default(), length, body.unwrap_or_default())))
}

/// A refusal by a status. The body is Janus's, or of the program in front.
fn refused(status: u16, body: &str) -> Refused {
    let error = serde_json::from_str::<Value>(body).map(|mut body| body["error"].take()).unwrap_or_default();
    let text = |key: &str| error[key].as_str().map(str::to_owned);
    let (error, message) = (text("code").unwrap_or_default(), text("message").unwrap_or_else(|| body.to_owned()));
    Refused { status: Some(status), error, message }
}

fn mask() -> [u8; 4] {
    fastrand::u32(..).to_ne_bytes()
}
