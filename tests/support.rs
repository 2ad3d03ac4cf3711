//! The common parts of the tests: a server in this process, and clients of the classic protocol over real sockets.
//!
//! Every wait has a deadline and no wait is a sleep: a test either sees the awaited event or reports the seen event.

use std::fmt::Display;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
#[cfg(target_os = "linux")]
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use janus_core::supervision::{State, Tree};
use janus_core::{Config, IoUring, Janus};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, Interest, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::ServerName;

/// Long enough for a busy machine; no passing test comes near.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

/// A loopback address unused by other servers of these tests, and by a run a minute ago.
///
/// Each server leaves a thousand connections behind in TIME_WAIT. All of these on one address would use up its ports.
#[cfg(target_os = "linux")]
pub(crate) fn own_address() -> SocketAddr {
    static SERVERS: AtomicU32 = AtomicU32::new(0);
    let number = std::process::id().wrapping_mul(1_009).wrapping_add(SERVERS.fetch_add(1, Ordering::Relaxed));
    // 127.1.0.0 to 127.254.255.255.
    let [_, a, b, c] = (0x0001_0000 + number % 0x00fe_0000).to_be_bytes();
    SocketAddr::from(([127, a, b, c], 0))
}

/// On other systems loopback is a single address.
#[cfg(not(target_os = "linux"))]
pub(crate) fn own_address() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

/// Starts a server on an address of its own, with one home arbiter on any machine, or with as many as `JANUS_TEST_HOMES`
/// says, and as many senders as otherwise.
pub(crate) async fn serve(config: Config) -> (Janus, SocketAddr) {
    let homes = std::env::var("JANUS_TEST_HOMES").map_or(1, |homes| homes.parse().expect("a number"));
    serve_as_said(Config { threads: config.threads + homes - 1, homes, ..config }).await
}

/// The same with the home arbiters of the settings.
pub(crate) async fn serve_as_said(config: Config) -> (Janus, SocketAddr) {
    let _ = env_logger::builder().is_test(true).try_init();
    // A test without a drain period does not wait for the default period.
    let asked_for = config.drain_period != Config::default().drain_period;
    let drain_period = if asked_for { config.drain_period } else { Duration::ZERO };
    let config = Config { listen: vec![own_address()], drain_period, io_uring: io_uring(&config), ..config };
    let janus = Janus::builder().config(config).start().await.expect("the server starts");
    let addr = janus.local_addrs()[0];
    (janus, addr)
}

/// The way to the kernel: of the test if it asks for one, or else of the variable `JANUS_TEST_IO_URING`, so that all tests
/// can be run either way.
fn io_uring(config: &Config) -> IoUring {
    match std::env::var("JANUS_TEST_IO_URING").as_deref() {
        _ if config.io_uring != IoUring::default() => config.io_uring,
        Ok("off") => IoUring::Off,
        Ok("on") => IoUring::On,
        Ok(other) if other != "auto" => panic!("JANUS_TEST_IO_URING={other}: auto, on or off"),
        _ => IoUring::Auto,
    }
}

/// Waits until `condition` holds.
#[track_caller]
pub(crate) fn until(what: impl Display, mut condition: impl FnMut() -> bool) -> impl Future<Output = ()> {
    let caller = std::panic::Location::caller();
    async move {
        let deadline = Instant::now() + DEADLINE;
        let mut looks = tokio::time::interval(Duration::from_millis(1));
        while !condition() {
            assert!(Instant::now() < deadline, "{caller}: still waiting for: {what}");
            looks.tick().await;
        }
    }
}

/// The number of a topic's subscribers; `None` if the topic does not exist.
pub(crate) fn subscribers(janus: &Janus, topic: &str) -> Option<usize> {
    janus.topic_info(topic).map(|topic| topic.subscribers)
}

/// The newest actor of a topic in the tree, whose name ends with a number.
pub(crate) fn topic_actor(janus: &Janus, topic: &str) -> Option<Tree> {
    let prefix = format!("topic {topic} #");
    let tree = janus.tree();
    let topics = &tree.find("topic_supervisor").expect("the topic supervisor is in the tree").children;
    topics.iter().filter(|child| child.name.starts_with(&prefix)).max_by_key(|child| child.name.clone()).cloned()
}

/// Whether a topic's actor is running after `restarts` restarts. An actor during its start cannot be told to crash.
pub(crate) fn runs_after_restarts(janus: &Janus, topic: &str, restarts: u64) -> bool {
    topic_actor(janus, topic).is_some_and(|topic| topic.state == State::Running && topic.restarts == restarts)
}

/// The end of a connection, as the client sees it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Close {
    Fin,
    Reset,
}

/// The stream of a client, with or without TLS.
#[derive(Debug)]
pub(crate) enum Wire {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Wire {
    /// Continues over TLS. The name of the server is `localhost`.
    pub(crate) async fn over(self, tls: &TlsConnector) -> io::Result<Self> {
        let Self::Plain(stream) = self else { panic!("over TLS already") };
        let name = ServerName::try_from("localhost").expect("a name");
        let stream = timeout(DEADLINE, tls.connect(name, stream)).await.expect("a handshake in time")?;
        Ok(Self::Tls(Box::new(stream)))
    }

    pub(crate) fn socket(&self) -> &TcpStream {
        match self {
            Self::Plain(stream) => stream,
            Self::Tls(stream) => stream.get_ref().0,
        }
    }

    fn parts(self: Pin<&mut Self>) -> Pin<&mut (dyn Stream + 'static)> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream),
            Self::Tls(stream) => Pin::new(&mut **stream),
        }
    }
}

trait Stream: AsyncRead + AsyncWrite + Unpin {}

impl<T: AsyncRead + AsyncWrite + Unpin> Stream for T {}

impl AsyncRead for Wire {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.parts().poll_read(cx, buffer)
    }
}

impl AsyncWrite for Wire {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.parts().poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.parts().poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.parts().poll_shutdown(cx)
    }
}

/// A client of the classic protocol.
pub(crate) struct Client {
    stream: Wire,
    received: Vec<u8>,
    taken: usize,
}

impl Client {
    /// Connects and reads the greeting.
    pub(crate) async fn connect(addr: SocketAddr) -> Self {
        Self::connect_silently(addr).await.greeted().await
    }

    /// Connects and reads nothing.
    pub(crate) async fn connect_silently(addr: SocketAddr) -> Self {
        let stream = timeout(DEADLINE, TcpStream::connect(addr)).await.expect("connects in time").expect("connects");
        stream.set_nodelay(true).expect("TCP_NODELAY can be set");
        Self { stream: Wire::Plain(stream), received: Vec::new(), taken: 0 }
    }

    /// A client on a stream on which nothing has been received yet.
    pub(crate) fn of(stream: TcpStream) -> Self {
        Self { stream: Wire::Plain(stream), received: Vec::new(), taken: 0 }
    }

    /// Connects from a loopback address, like a client of another host, and reads the greeting.
    #[cfg(target_os = "linux")]
    pub(crate) async fn connect_from(from: [u8; 4], addr: SocketAddr) -> Self {
        Self::connect_silently_from(from, addr).await.greeted().await
    }

    /// Connects from a loopback address and reads nothing.
    #[cfg(target_os = "linux")]
    pub(crate) async fn connect_silently_from(from: [u8; 4], addr: SocketAddr) -> Self {
        let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
        socket.bind(SocketAddr::from((from, 0))).expect("all of 127.0.0.0/8 is this host");
        let stream = timeout(DEADLINE, socket.connect(addr)).await.expect("connects in time").expect("connects");
        stream.set_nodelay(true).expect("TCP_NODELAY can be set");
        Self { stream: Wire::Plain(stream), received: Vec::new(), taken: 0 }
    }

    /// Continues over TLS. Nothing may have been received yet.
    pub(crate) async fn over(self, tls: &TlsConnector) -> io::Result<Self> {
        Ok(Self { stream: self.stream.over(tls).await?, ..self })
    }

    /// Reads the greeting.
    pub(crate) async fn greeted(mut self) -> Self {
        let greeting = self.json().await;
        assert!(greeting["token"].is_string(), "not a greeting: {greeting}");
        self
    }

    /// Makes the end of this client a reset, which leaves no port in TIME_WAIT: thousands of clients per test would use
    /// up all ports.
    pub(crate) fn reset_on_drop(self) -> Self {
        socket2::SockRef::from(self.stream.socket()).set_linger(Some(Duration::ZERO)).expect("SO_LINGER can be set");
        self
    }

    pub(crate) fn local_addr(&self) -> SocketAddr {
        self.stream.socket().local_addr().expect("a connected socket has an address")
    }

    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.try_send(bytes).await.expect("sent");
    }

    /// Sends on a connection that the server may have ended.
    pub(crate) async fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        let sent = async {
            self.stream.write_all(bytes.as_ref()).await?;
            self.stream.flush().await
        };
        timeout(DEADLINE, sent).await.expect("sent in time")
    }

    /// Sends bytes past TLS.
    pub(crate) async fn send_below_tls(&mut self, bytes: &[u8]) {
        let Wire::Tls(stream) = &mut self.stream else { panic!("without TLS") };
        timeout(DEADLINE, stream.get_mut().0.write_all(bytes)).await.expect("sent in time").expect("sent");
    }

    pub(crate) async fn half_close(&mut self) {
        self.stream.shutdown().await.expect("the write side can be shut down");
    }

    /// The next frame without its terminator; `Err` if the connection ended instead.
    pub(crate) async fn next(&mut self) -> Result<Vec<u8>, Close> {
        loop {
            if let Some(end) = self.received[self.taken..].iter().position(|&byte| byte == 1) {
                let frame = self.received[self.taken..self.taken + end].to_vec();
                self.taken += end + 1;
                return Ok(frame);
            }
            self.received.drain(..self.taken);
            self.taken = 0;
            match self.stream.read_buf(&mut self.received).await {
                Ok(0) => return Err(Close::Fin),
                Ok(_) => {}
                Err(_) => return Err(Close::Reset),
            }
        }
    }

    /// The next frame as text.
    #[track_caller]
    pub(crate) fn frame(&mut self) -> impl Future<Output = String> {
        let caller = std::panic::Location::caller();
        async move {
            match timeout(DEADLINE, self.next()).await {
                Ok(Ok(frame)) => String::from_utf8(frame).expect("frames are UTF-8"),
                Ok(Err(close)) => panic!("{caller}: the connection ended ({close:?}) instead of a frame"),
                Err(_) => panic!("{caller}: no frame came"),
            }
        }
    }

    /// The next frame as JSON.
    #[track_caller]
    pub(crate) fn json(&mut self) -> impl Future<Output = Value> {
        let caller = std::panic::Location::caller();
        let frame = self.frame();
        async move {
            let frame = frame.await;
            serde_json::from_str(&frame).unwrap_or_else(|error| panic!("{caller}: {error}: {frame}"))
        }
    }

    /// The code of the next frame, which must be an error.
    #[track_caller]
    pub(crate) fn error_code(&mut self) -> impl Future<Output = String> {
        let caller = std::panic::Location::caller();
        let json = self.json();
        async move {
            let json = json.await;
            match json["error"]["code"].as_str() {
                Some(code) => code.to_owned(),
                None => panic!("{caller}: not an error: {json}"),
            }
        }
    }

    /// Subscribes and waits for the ACK.
    #[track_caller]
    pub(crate) fn subscribe(&mut self, topic: &str) -> impl Future<Output = ()> {
        let caller = std::panic::Location::caller();
        let frame = subscribe_frame(topic);
        async move {
            self.send(frame).await;
            let answer = self.frame().await;
            assert_eq!(answer, "ACK", "{caller}");
        }
    }

    /// Waits, without reading, until the connection is reset.
    pub(crate) async fn lost(&mut self) {
        timeout(DEADLINE, self.stream.socket().ready(Interest::ERROR))
            .await
            .expect("it is reset")
            .expect("it can be waited for");
    }

    /// Waits for the connection to end, and fails if a frame comes first.
    #[track_caller]
    pub(crate) fn close(&mut self) -> impl Future<Output = Close> {
        let caller = std::panic::Location::caller();
        async move {
            match timeout(DEADLINE, self.next()).await {
                Ok(Err(close)) => close,
                Ok(Ok(frame)) => panic!("{caller}: a frame instead of a close: {}", String::from_utf8_lossy(&frame)),
                Err(_) => panic!("{caller}: the connection stays open"),
            }
        }
    }
}

pub(crate) fn subscribe_frame(topic: &str) -> Vec<u8> {
    janus_core::wire::classic::client::subscribe(topic)
}

/// A frame that publishes `data`, JSON text, and asks for a receipt.
pub(crate) fn publish_frame(topic: &str, data: &str) -> Vec<u8> {
    janus_core::wire::classic::client::publish_with_ack(topic, "\"\"", "\"\"", data)
}

/// Publishes over a separate connection and waits for the receipt.
pub(crate) async fn publish(addr: SocketAddr, topic: &str, data: &str) -> Value {
    let mut publisher = Client::connect(addr).await;
    publisher.send(publish_frame(topic, data)).await;
    let answer = publisher.json().await;
    assert!(answer["published"].is_object(), "not published: {answer}");
    answer["published"].clone()
}

/// Takes whole chunks (RFC 9112, 7.1) off `raw`. Returns their bytes, and whether the last chunk was among them.
pub(crate) fn take_chunks(raw: &mut Vec<u8>) -> (Vec<u8>, bool) {
    let mut bytes = Vec::new();
    while let Some(end) = raw.windows(2).position(|window| window == b"\r\n") {
        let line = str::from_utf8(&raw[..end]).unwrap();
        let length = usize::from_str_radix(line, 16).unwrap_or_else(|_| panic!("no head of a chunk: {line:?}"));
        let (from, to) = (end + 2, end + 2 + length);
        if raw.len() < to + 2 {
            break;
        }
        assert_eq!(&raw[to..to + 2], b"\r\n");
        bytes.extend_from_slice(&raw[from..to]);
        raw.drain(..to + 2);
        if length == 0 {
            return (bytes, true);
        }
    }
    (bytes, false)
}
