//! Clients whose byte streams are not sockets of the server: pipes, and connections accepted elsewhere.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::BytesMut;
use janus_core::hooks::{Client, Disconnect, Hooks};
use janus_core::wire::classic::Classic;
use janus_core::wire::{AllowedOrigins, Codec, Decoder, HttpPort, Peer, ServerEvent, Timestamp};
use janus_core::{Config, Incoming, Janus, Listener, Namespace, PassedOn, PassedStream, ServeError, SlowConsumer};
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufWriter, DuplexStream, ReadBuf};
#[cfg(unix)]
use tokio::net::UnixStream;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::support::{DEADLINE, publish_frame, subscribers, topic_actor, until};

fn classic() -> Arc<dyn Codec> {
    Arc::new(Classic)
}

async fn start(config: Config) -> Janus {
    Janus::builder()
        .config(Config { listen: Vec::new(), drain_period: Duration::ZERO, ..config })
        .start()
        .await
        .unwrap()
}

/// Reads until the received bytes end with `end`.
async fn read_until(stream: &mut (impl AsyncReadExt + Unpin), end: &[u8]) -> Vec<u8> {
    let mut received = Vec::new();
    let read = async {
        while !received.ends_with(end) {
            assert!(stream.read_buf(&mut received).await.unwrap() > 0, "ended after {received:?}");
        }
    };
    timeout(Duration::from_secs(20), read).await.expect("it comes in time");
    received
}

async fn subscribed(janus: &Janus, capacity: usize) -> DuplexStream {
    let (mut client, server) = tokio::io::duplex(capacity);
    janus.serve(Incoming::stream(server), &classic(), None).unwrap();
    client.write_all(b"{\"action\":\"subscribe\",\"data\":\"news\"}\0").await.unwrap();
    read_until(&mut client, b"ACK\x01").await;
    client
}

#[tokio::test]
async fn a_pipe_is_a_client_like_any_other() {
    let janus = start(Config::default()).await;
    let mut client = subscribed(&janus, 64).await;
    // Longer than the pipe holds, several times.
    let long = "x".repeat(1_000);
    for text in ["short", &long, "last"] {
        janus.publish("news", text).await.unwrap();
        let received = read_until(&mut client, format!("\"data\":\"{text}\"}}\x01").as_bytes()).await;
        assert!(received.len() < text.len() + 120, "one message and nothing else");
    }
    drop(client);
    while janus.stats().connections > 0 {
        tokio::task::yield_now().await;
    }
    janus.shutdown().await;
}

#[tokio::test]
async fn a_drain_ends_a_pipe_after_its_queue() {
    let janus = start(Config::default()).await;
    let mut client = subscribed(&janus, 64).await;
    for number in 0..50 {
        janus.publish("news", &number).await.unwrap();
    }
    let (report, received) = tokio::join!(janus.shutdown(), async {
        let mut received = Vec::new();
        client.read_to_end(&mut received).await.unwrap();
        received
    });
    assert_eq!((report.connections, report.cut_off), (1, 0));
    assert_eq!(received.split(|&byte| byte == 1).count(), 51);
    assert!(received.ends_with(b"\"data\":49}\x01"));
}

#[tokio::test]
async fn an_unread_pipe_is_cut_off_and_disturbs_no_client() {
    let mut config = Config { max_queue_frames: 8, ..Config::default() };
    config.default_namespace.slow_consumer = SlowConsumer::Disconnect;
    let janus = start(config).await;
    let mut stalled = subscribed(&janus, 64).await;
    let mut reading = subscribed(&janus, 64 * 1024).await;
    for number in 0..20 {
        janus.publish("news", &number).await.unwrap();
        read_until(&mut reading, format!("\"data\":{number}}}\x01").as_bytes()).await;
    }
    let mut received = Vec::new();
    timeout(Duration::from_secs(20), stalled.read_to_end(&mut received)).await.expect("it is closed").unwrap();
    assert_eq!(janus.stats().slow_consumers_queue_full, 1);
    janus.shutdown().await;
}

#[tokio::test]
async fn a_connection_accepted_elsewhere_takes_the_direct_path() {
    let janus = start(Config::default()).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (client, accepted) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
    let (mut client, (stream, peer)) = (client.unwrap(), accepted.unwrap());
    janus.serve(Incoming::tcp(stream, peer), &classic(), None).unwrap();
    read_until(&mut client, b"\x01").await;
    let sessions = janus.sessions().await;
    assert_eq!(sessions[0].peer, client.local_addr().unwrap().into());
    janus.shutdown().await;
    assert_eq!(client.read(&mut [0; 10]).await.unwrap(), 0);
}

/// A stream with a last word of its own, like TLS, which takes a while to send.
struct Polite {
    stream: BufWriter<DuplexStream>,
    last_word: &'static [u8],
}

const LAST_WORD: &[u8] = b"that is all, and nothing was cut off";

impl AsyncRead for Polite {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Polite {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        ready!(Pin::new(&mut this.stream).poll_flush(cx))?;
        while !this.last_word.is_empty() {
            let written = ready!(Pin::new(this.stream.get_mut()).poll_write(cx, this.last_word))?;
            this.last_word = &this.last_word[written..];
        }
        Pin::new(&mut this.stream).poll_shutdown(cx)
    }
}

#[tokio::test]
async fn a_buffering_stream_ends_after_its_last_byte() {
    let janus = start(Config::default()).await;
    // The stream takes each answer only in part.
    let (mut client, server) = tokio::io::duplex(8);
    let stream = Polite { stream: BufWriter::new(server), last_word: LAST_WORD };
    janus.serve(Incoming::stream(stream), &classic(), None).unwrap();
    client.write_all(b"{\"action\":\"subscribe\",\"data\":\"news\"}\0").await.unwrap();
    client.shutdown().await.unwrap();
    until("it to be subscribed and to leave", || {
        topic_actor(&janus, "news").is_some() && subscribers(&janus, "news") == Some(0)
    })
    .await;
    let mut received = Vec::new();
    timeout(DEADLINE, client.read_to_end(&mut received)).await.expect("it ends").unwrap();
    let answers = received.strip_suffix(LAST_WORD).unwrap_or_else(|| panic!("cut off: {}", received.escape_ascii()));
    assert!(answers.ends_with(b"ACK\x01"), "{}", answers.escape_ascii());
    until("its place to be free", || janus.stats().connections == 0).await;
    janus.shutdown().await;
}

/// A custom listener, whose sockets have the system's default options.
enum Foreign {
    Tcp(TcpListener),
    #[cfg(unix)]
    Unix(mpsc::Receiver<std::os::unix::net::UnixStream>),
}

impl Listener for Foreign {
    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Incoming>> {
        match self {
            Self::Tcp(socket) => socket.poll_accept(cx).map_ok(|(stream, peer)| Incoming::tcp(stream, peer)),
            #[cfg(unix)]
            Self::Unix(streams) => {
                let Some(stream) = ready!(streams.poll_recv(cx)) else { return Poll::Pending };
                Poll::Ready(UnixStream::from_std(stream).map(Incoming::unix))
            }
        }
    }
}

/// Starts an instance that passes on every connection except WebSockets and event streams.
async fn start_passing_on(listener: Foreign) -> (Janus, mpsc::Receiver<PassedOn>) {
    let config = Config { listen: Vec::new(), drain_period: Duration::ZERO, ..Config::default() };
    let http: Arc<dyn Codec> = Arc::new(HttpPort::new(AllowedOrigins::default(), Duration::from_secs(2)));
    let (passes, passed) = mpsc::channel(8);
    let pass_on = move |stream| drop(passes.try_send(stream));
    let janus = Janus::builder().config(config).listener(listener, http).pass_on(pass_on).start().await.unwrap();
    (janus, passed)
}

const REQUEST: &[u8] = b"GET /elsewhere HTTP/1.1\r\nhost: here\r\n\r\n";

#[tokio::test]
async fn a_socket_of_another_listener_gets_the_servers_options() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let (janus, mut passed) = start_passing_on(Foreign::Tcp(listener)).await;
    let mut client = TcpStream::connect(addr).await.unwrap();
    client.write_all(REQUEST).await.unwrap();
    let PassedOn { stream, .. } = timeout(DEADLINE, passed.recv()).await.unwrap().unwrap();
    let PassedStream::Tcp(stream) = stream else { panic!("another stream: {stream:?}") };
    assert!(stream.nodelay().unwrap());
    let socket = SockRef::from(&stream);
    assert!(socket.keepalive().unwrap());
    // Linux reports twice the requested size.
    assert!(socket.send_buffer_size().unwrap() <= 2 * Config::default().send_buffer_bytes);
    janus.shutdown().await;
}

#[cfg(unix)]
#[tokio::test]
async fn a_unix_socket_is_passed_on_with_the_bytes_already_read() {
    let (accepts, accepted) = mpsc::channel(1);
    let (janus, mut passed) = start_passing_on(Foreign::Unix(accepted)).await;
    let (mut client, server) = UnixStream::pair().unwrap();
    accepts.send(server.into_std().unwrap()).await.unwrap();
    client.write_all(REQUEST).await.unwrap();
    let PassedOn { stream, received, peer, .. } = timeout(DEADLINE, passed.recv()).await.unwrap().unwrap();
    assert_eq!((&received[..], peer), (REQUEST, Peer::Local));
    let PassedStream::Unix(stream) = stream else { panic!("another stream: {stream:?}") };
    assert!(SockRef::from(&stream).send_buffer_size().unwrap() <= 2 * Config::default().send_buffer_bytes);
    let mut stream = UnixStream::from_std(stream).unwrap();
    stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
    read_until(&mut client, b"\r\n\r\n").await;
    janus.shutdown().await;
}

#[cfg(unix)]
#[tokio::test]
async fn a_unix_socket_is_served_and_cut_off_like_any_client() {
    let mut config = Config { max_queue_frames: 8, send_buffer_bytes: 8 * 1024, ..Config::default() };
    config.default_namespace.slow_consumer = SlowConsumer::Disconnect;
    let janus = start(config).await;
    let connect = async || {
        let (mut client, server) = UnixStream::pair().unwrap();
        janus.serve(Incoming::unix(server), &classic(), None).unwrap();
        client.write_all(b"{\"action\":\"subscribe\",\"data\":\"news\"}\0").await.unwrap();
        read_until(&mut client, b"ACK\x01").await;
        client
    };
    let (mut reading, mut stalled) = (connect().await, connect().await);
    assert!(janus.sessions().await.iter().all(|session| session.peer == Peer::Local));
    let mut sent = 0;
    let long = "x".repeat(1_000);
    while janus.stats().slow_consumers_queue_full == 0 {
        janus.publish("news", &long).await.unwrap();
        read_until(&mut reading, b"\x01").await;
        sent += 1;
        assert!(sent < 1_000, "nobody is cut off");
    }
    // The client can still read the bytes sent before, and no more than the buffers should hold.
    let mut received = Vec::new();
    timeout(DEADLINE, stalled.read_to_end(&mut received)).await.expect("it is closed").unwrap();
    assert!(!received.is_empty() && received.len() < 4 * 8 * 1024, "{} bytes", received.len());
    // A client that leaves by itself.
    reading.shutdown().await.unwrap();
    timeout(DEADLINE, reading.read_to_end(&mut received)).await.expect("it is closed as well").unwrap();
    until("their places to be free", || janus.stats().connections == 0).await;
    janus.shutdown().await;
}

#[tokio::test]
async fn a_stream_beyond_the_limit_is_refused_with_the_reason() {
    let janus = start(Config { max_connections: 1, ..Config::default() }).await;
    let _client = subscribed(&janus, 64).await;
    let refused = janus.serve(Incoming::stream(tokio::io::duplex(1).0), &classic(), None).unwrap_err();
    assert!(matches!(refused, ServeError::Full { .. }) && refused.to_string().contains("full"), "{refused}");
    janus.shutdown().await;
    let refused = janus.serve(Incoming::stream(tokio::io::duplex(1).0), &classic(), None).unwrap_err();
    assert!(matches!(refused, ServeError::ShuttingDown));
}

#[tokio::test]
async fn simultaneous_streams_do_not_exceed_the_limit() {
    let janus = start(Config { max_connections: 2, ..Config::default() }).await;
    let (codec, mut pipes) = (classic(), Vec::new());
    let serve = || {
        let (ours, theirs) = tokio::io::duplex(1024);
        janus.serve(Incoming::stream(theirs), &codec, None).map(|()| ours)
    };
    for _ in 0..200 {
        match serve() {
            Ok(pipe) => pipes.push(pipe),
            Err(error) => assert!(matches!(error, ServeError::Full { .. }), "{error}"),
        }
    }
    assert_eq!((pipes.len(), janus.stats().connections_refused), (2, 198));
    for pipe in &mut pipes {
        let first = read_until(pipe, b"\x01").await;
        assert!(!first.windows(5).any(|part| part == b"error"), "{first:?}");
    }
    drop(pipes);
    until("their places to be free", || janus.stats().connections == 0).await;
    read_until(&mut serve().unwrap(), b"\x01").await;
    janus.shutdown().await;
}

/// The classic protocol, with clients that are told of gaps, and a panic for the topic `boom`.
#[derive(Debug)]
struct Fragile;

impl Codec for Fragile {
    fn name(&self) -> &'static str {
        "fragile"
    }

    fn decoder(&self) -> Box<dyn Decoder> {
        Classic.decoder()
    }

    fn encode(&self, event: &ServerEvent<'_>, at: &Timestamp, out: &mut BytesMut) {
        match event {
            ServerEvent::Subscribed { topic, .. } if topic.as_str() == "boom" => panic!("on purpose: no words for it"),
            ServerEvent::Gap { .. } => panic!("on purpose: no words for a gap"),
            event => Classic.encode(event, at, out),
        }
    }
}

#[tokio::test]
async fn a_codec_that_panics_costs_its_connection_and_nothing_else() {
    let default_namespace = Namespace { slow_consumer: SlowConsumer::DropOldest, ..Namespace::default() };
    let tick = Duration::from_secs(1);
    let config = Config { default_namespace, max_queue_frames: 4, heartbeat_interval: tick, ..Config::default() };
    let janus = start(config).await;
    let fragile: Arc<dyn Codec> = Arc::new(Fragile);
    let connect = || {
        let (client, server) = tokio::io::duplex(512);
        janus.serve(Incoming::stream(server), &fragile, None).unwrap();
        client
    };

    let mut good = janus.subscribe("boom").unwrap();
    let mut client = connect();
    client.write_all(b"{\"action\":\"subscribe\",\"data\":\"boom\"}\0").await.unwrap();
    let have_ended = |count| {
        let stats = janus.stats();
        (stats.connections_accepted, stats.connections) == (count, 0)
    };
    until("its connection to end", || have_ended(1)).await;
    janus.publish("boom", "still here").await.unwrap();
    assert!(good.next().await.is_some());
    assert_eq!(topic_actor(&janus, "boom").unwrap().restarts, 0);

    let mut client = connect();
    client.write_all(b"{\"action\":\"subscribe\",\"data\":\"news\"}\0").await.unwrap();
    until("it to be subscribed", || subscribers(&janus, "news") == Some(1)).await;
    for number in 0..50 {
        janus.publish("news", &format!("{number:100}")).await.unwrap();
    }
    // The gap is told after the client has read the messages before.
    let rest = timeout(Duration::from_secs(20), client.read_to_end(&mut Vec::new())).await;
    rest.expect("its connection ends").unwrap();
    until("its connection to end", || have_ended(2)).await;
    assert_eq!(janus.tree().find("heartbeat").unwrap().restarts, 0);
    janus.shutdown().await;
}

/// The way in which a stream refuses writes.
#[derive(Clone, Copy, Debug)]
enum Failing {
    Write,
    WriteNothing,
    Flush,
    /// The first write waits forever, and the bytes taken before cannot be flushed.
    FlushOfAPart,
}

/// A stream that delivers its client's bytes, and then nothing, not even an end.
struct Deaf {
    said: io::Cursor<Vec<u8>>,
    /// Whether the client's bytes are still under way.
    late: bool,
    failing: Failing,
    taken: usize,
}

impl AsyncRead for Deaf {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if std::mem::take(&mut self.late) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        if self.said.position() == self.said.get_ref().len() as u64 {
            return Poll::Pending;
        }
        Pin::new(&mut self.said).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Deaf {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.failing {
            Failing::Write => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            Failing::WriteNothing => Poll::Ready(Ok(0)),
            Failing::Flush => Poll::Ready(Ok(bytes.len())),
            Failing::FlushOfAPart if self.taken > 0 => Poll::Pending,
            Failing::FlushOfAPart => {
                self.taken = 1;
                Poll::Ready(Ok(1))
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Pending
    }
}

/// A heartbeat looks at connections every 250 ms.
fn with_a_short_tick() -> Config {
    Config { heartbeat_interval: Duration::from_secs(1), ..Config::default() }
}

struct Ends(mpsc::Sender<Disconnect>);

impl Hooks for Ends {
    async fn disconnected(&self, _: &Client, why: Disconnect) {
        let _ = self.0.try_send(why);
    }
}

#[tokio::test]
async fn an_unwritable_stream_ends_even_if_its_reads_never_end() {
    let (told, mut ends) = mpsc::channel(8);
    let config = Config { listen: Vec::new(), drain_period: Duration::ZERO, ..with_a_short_tick() };
    let config = Config { max_connections: 1, ..config };
    let janus = Janus::builder().config(config).hooks(Ends(told)).start().await.unwrap();
    let mut subscriber = janus.subscribe("news").unwrap();
    for failing in [Failing::Write, Failing::WriteNothing, Failing::Flush, Failing::FlushOfAPart] {
        let said = publish_frame("news", &format!("\"{failing:?}\""));
        let stream = Deaf { said: io::Cursor::new(said), failing, taken: 0, late: true };
        janus.serve(Incoming::stream(stream), &classic(), None).unwrap();
        let why = timeout(DEADLINE, ends.recv()).await.unwrap_or_else(|_| panic!("{failing:?}: it keeps its place"));
        assert_eq!(why, Some(Disconnect::ByClient), "{failing:?}");
        let Some(janus_core::Event::Message(message)) = subscriber.next().await else {
            panic!("what it has said counts")
        };
        assert_eq!(message.data(), format!("\"{failing:?}\""));
        until("its place to be free", || janus.stats().connections == 0).await;
    }
    janus.shutdown().await;
}

#[cfg(unix)]
#[tokio::test]
async fn a_stuck_unix_socket_ends_even_if_its_client_stays_open() {
    let janus = start(with_a_short_tick()).await;
    let (mut client, server) = UnixStream::pair().unwrap();
    janus.serve(Incoming::unix(server), &classic(), None).unwrap();
    client.write_all(b"{\"action\":\"subscribe\",\"data\":\"news\"}\0").await.unwrap();
    read_until(&mut client, b"ACK\x01").await;
    // The client can no longer read, but could still write.
    SockRef::from(&client).shutdown(std::net::Shutdown::Read).unwrap();
    client.write_all(&publish_frame("other", "1")).await.unwrap();
    janus.publish("news", "unheard").await.unwrap();
    until("its place to be free", || janus.stats().connections == 0).await;
    janus.shutdown().await;
}
