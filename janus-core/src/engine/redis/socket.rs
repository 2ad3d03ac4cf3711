//! One connection to a server: commands out, replies and pushes in, and whether the server is still there.

use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::time::{Instant, Sleep, sleep_until};

use super::super::LinkError;
use super::resp::{Parser, RespError, Value, put_command, put_part};

/// A TCP stream, a TLS stream, or a Unix stream.
pub(super) trait Stream: AsyncRead + AsyncWrite + Unpin {}

impl<S: AsyncRead + AsyncWrite + Unpin> Stream for S {}

/// Room for one read.
const READ: usize = 64 * 1024;
/// A buffer that has held more is let go of when empty.
const LARGE: usize = 1024 * 1024;

/// A command under way; `T` is the owner's note about a command.
enum Sent<T> {
    Own(T),
    Ping,
    /// To subscribe to a channel, or no longer: confirmed by a push, refused by an error.
    Subscription,
}

/// News from the server.
pub(super) enum Heard<T> {
    /// The reply to a command.
    Reply(T, Value),
    /// A message on a channel.
    Message { channel: Bytes, message: Bytes },
}

pub(super) struct Socket<T> {
    stream: Box<dyn Stream>,
    input: BytesMut,
    parser: Parser,
    output: BytesMut,
    is_unflushed: bool,
    /// Whether each of the buffers has been large.
    was_large: [bool; 2],
    /// The commands without a reply, in the order of sending.
    sent: VecDeque<Sent<T>>,
    timeout: Duration,
    /// The time of the last bytes from the server.
    heard: Instant,
    /// The time of a `PING`, if the server has been silent since.
    asked: Option<Instant>,
    timer: Pin<Box<Sleep>>,
}

impl<T> Socket<T> {
    /// A connection that is up. The longest reply has `max_reply` bytes.
    pub(super) fn new(stream: Box<dyn Stream>, timeout: Duration, max_reply: usize) -> Self {
        let now = Instant::now();
        Self {
            stream,
            input: BytesMut::new(),
            parser: Parser::new(max_reply),
            output: BytesMut::new(),
            is_unflushed: false,
            was_large: [false; 2],
            sent: VecDeque::new(),
            timeout,
            heard: now,
            asked: None,
            timer: Box::pin(sleep_until(now + timeout / 2)),
        }
    }

    /// Begins a command. The caller writes the parts, and then notes the command by [`expect`](Self::expect).
    pub(super) fn command(&mut self, parts: usize) -> &mut BytesMut {
        put_command(&mut self.output, parts);
        &mut self.output
    }

    /// Notes the purpose of the command just written, for the reply.
    pub(super) fn expect(&mut self, note: T) {
        self.sent.push_back(Sent::Own(note));
    }

    /// Begins `SUBSCRIBE` or the like for one channel; the caller writes the channel.
    pub(super) fn subscription(&mut self, command: &[u8]) -> &mut BytesMut {
        self.sent.push_back(Sent::Subscription);
        put_command(&mut self.output, 2);
        put_part(&mut self.output, command);
        &mut self.output
    }

    /// Bytes that wait to be written.
    pub(super) fn backlog(&self) -> usize {
        self.output.len()
    }

    /// The owner's commands without a reply, in the order of sending.
    pub(super) fn under_way(&self) -> impl Iterator<Item = &T> {
        self.sent.iter().filter_map(|sent| match sent {
            Sent::Own(note) => Some(note),
            _ => None,
        })
    }

    /// The bytes behind the last reply.
    pub(super) fn unread(&self) -> &[u8] {
        &self.input
    }

    /// Writes the backlog, and returns the next news.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Heard<T>, LinkError>> {
        loop {
            self.write(cx)?;
            while let Some(value) = self.parser.next(&mut self.input).map_err(of_resp)? {
                if let Some(heard) = self.sort(value)? {
                    return Poll::Ready(Ok(heard));
                }
            }
            self.shrink();
            if self.read(cx)?.is_ready() {
                continue;
            }
            ready!(self.watch(cx)?);
        }
    }

    /// Lets go of buffers that are large and empty.
    fn shrink(&mut self) {
        for (buffer, was_large) in [&mut self.input, &mut self.output].into_iter().zip(&mut self.was_large) {
            *was_large |= buffer.len() > LARGE;
            if *was_large && buffer.is_empty() {
                *buffer = BytesMut::new();
                *was_large = false;
            }
        }
    }

    fn write(&mut self, cx: &mut Context<'_>) -> Result<(), LinkError> {
        self.was_large[1] |= self.output.len() > LARGE;
        while !self.output.is_empty() {
            match Pin::new(&mut self.stream).poll_write(cx, &self.output) {
                Poll::Ready(Ok(0)) => return Err(closed()),
                Poll::Ready(Ok(written)) => {
                    self.output.advance(written);
                    self.is_unflushed = true;
                }
                Poll::Ready(Err(error)) => return Err(of_io(&error)),
                Poll::Pending => return Ok(()),
            }
        }
        // The rest of a TLS record waits in the stream.
        if self.is_unflushed {
            match Pin::new(&mut self.stream).poll_flush(cx) {
                Poll::Ready(Ok(())) => self.is_unflushed = false,
                Poll::Ready(Err(error)) => return Err(of_io(&error)),
                Poll::Pending => {}
            }
        }
        Ok(())
    }

    fn read(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), LinkError>> {
        if self.input.capacity() - self.input.len() < READ / 8 {
            self.input.reserve(READ);
        }
        let read = pin!(self.stream.read_buf(&mut self.input)).poll(cx);
        match ready!(read) {
            Ok(0) => Poll::Ready(Err(closed())),
            Ok(_) => {
                (self.heard, self.asked) = (Instant::now(), None);
                Poll::Ready(Ok(()))
            }
            Err(error) => Poll::Ready(Err(of_io(&error))),
        }
    }

    /// Sends `PING` to a silent server, and gives up a server without an answer. Ready if there is a `PING` to be
    /// written.
    fn watch(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), LinkError>> {
        loop {
            ready!(self.timer.as_mut().poll(cx));
            let now = Instant::now();
            let next = match self.asked {
                Some(asked) if now >= asked + self.timeout => {
                    let message = format!("the server has not answered for {:?}", self.timeout);
                    return Poll::Ready(Err(LinkError::new("timeout", message)));
                }
                Some(asked) => asked + self.timeout,
                None if now < self.heard + self.timeout / 2 => self.heard + self.timeout / 2,
                None => {
                    self.sent.push_back(Sent::Ping);
                    put_command(&mut self.output, 1);
                    put_part(&mut self.output, b"PING");
                    self.asked = Some(now);
                    self.timer.as_mut().reset(now + self.timeout);
                    return Poll::Ready(Ok(()));
                }
            };
            self.timer.as_mut().reset(next);
        }
    }

    /// The owner's part of a reply or push, if there is any.
    fn sort(&mut self, value: Value) -> Result<Option<Heard<T>>, LinkError> {
        let parts = match value {
            Value::Push(parts) => parts,
            reply => {
                return match self.sent.pop_front() {
                    Some(Sent::Own(note)) => Ok(Some(Heard::Reply(note, reply))),
                    Some(Sent::Ping | Sent::Subscription) => match reply {
                        Value::Error(text) => Err(refused(&text)),
                        _ => Ok(None),
                    },
                    None => Err(unasked(&reply)),
                };
            }
        };
        let mut parts = parts.into_iter();
        let kind = parts.next();
        match kind.as_ref().and_then(Value::as_text).map(|kind| &kind[..]) {
            Some(b"message" | b"smessage") => match (parts.next(), parts.next()) {
                (Some(Value::Text(channel)), Some(Value::Text(message))) => {
                    Ok(Some(Heard::Message { channel, message }))
                }
                _ => Err(of_resp(RespError::Malformed)),
            },
            Some(b"subscribe" | b"unsubscribe" | b"ssubscribe" | b"sunsubscribe") => match self.sent.pop_front() {
                Some(Sent::Subscription) => Ok(None),
                _ => Err(of_resp(RespError::Malformed)),
            },
            _ => Ok(None),
        }
    }
}

impl<T> fmt::Debug for Socket<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (input, output, sent) = (self.input.len(), self.output.len(), self.sent.len());
        write!(f, "Socket {{ input: {input}, output: {output}, sent: {sent} }}")
    }
}

/// The end of a link for an error reply outside of the owner's requests.
fn refused(text: &[u8]) -> LinkError {
    use super::refusal::{Refusal, refusal_of};
    match refusal_of(text) {
        Refusal::Ends(error) => error,
        Refusal::NoScript | Refusal::Refused(_) => unasked(&Value::Error(Bytes::copy_from_slice(text))),
    }
}

fn unasked(reply: &Value) -> LinkError {
    let message = match reply {
        // Redis gives the reason before the end of a connection: too many clients, a shutdown.
        Value::Error(text) => format!("the server said: {}", String::from_utf8_lossy(&text[..text.len().min(200)])),
        _ => "the server answered without having been asked".to_owned(),
    };
    LinkError::new("protocol", message)
}

fn closed() -> LinkError {
    let message = "the server closed the connection: a restart, CLIENT KILL, or more than client-output-buffer-limit";
    LinkError::new("closed", message)
}

pub(super) fn of_io(error: &io::Error) -> LinkError {
    let reason = match error.kind() {
        io::ErrorKind::ConnectionRefused => "refused",
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe | io::ErrorKind::UnexpectedEof => "closed",
        _ => "network",
    };
    LinkError::new(reason, error.to_string())
}

fn of_resp(error: RespError) -> LinkError {
    match error {
        RespError::Malformed => LinkError::new("protocol", error.to_string()),
        RespError::TooLarge { limit } => {
            let advice = "keep fewer bytes of each topic, or raise `max_reply_bytes`";
            LinkError::new("too_large", format!("a reply of the server is larger than {limit} bytes; {advice}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::io::{AsyncWriteExt, DuplexStream, duplex};

    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(4);

    /// A socket that notes commands by number, and the server's end.
    fn pair(room: usize) -> (Socket<u32>, DuplexStream) {
        let (ours, theirs) = duplex(room);
        (Socket::new(Box::new(ours), TIMEOUT, 1 << 20), theirs)
    }

    fn send(socket: &mut Socket<u32>, note: u32, part: &[u8]) {
        put_part(socket.command(1), part);
        socket.expect(note);
    }

    async fn next(socket: &mut Socket<u32>) -> Result<Heard<u32>, LinkError> {
        poll_fn(|cx| socket.poll(cx)).await
    }

    async fn end(socket: &mut Socket<u32>) -> LinkError {
        match next(socket).await {
            Err(error) => error,
            Ok(_) => panic!("the socket has heard something"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_server_is_asked_and_then_given_up() {
        let (mut socket, mut server) = pair(1024);
        let start = Instant::now();
        let question = async {
            let mut text = [0; 14];
            server.read_exact(&mut text).await.unwrap();
            assert_eq!((&text, start.elapsed()), (b"*1\r\n$4\r\nPING\r\n", TIMEOUT / 2));
        };
        let ((), error) = tokio::join!(question, end(&mut socket));
        assert_eq!((error.reason, start.elapsed()), ("timeout", TIMEOUT / 2 + TIMEOUT));
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_answers_or_says_anything_is_kept() {
        let (mut socket, mut server) = pair(1024);
        let start = Instant::now();
        let answers = async {
            for _ in 0..5 {
                server.read_exact(&mut [0; 14]).await.unwrap();
                // Just in time.
                tokio::time::sleep(TIMEOUT - Duration::from_millis(1)).await;
                server.write_all(b"+PONG\r\n").await.unwrap();
            }
            server.write_all(b">3\r\n+message\r\n+a\r\n+b\r\n").await.unwrap();
            let spoken = Instant::now();
            server.read_exact(&mut [0; 14]).await.unwrap();
            assert_eq!(spoken.elapsed(), TIMEOUT / 2);
        };
        let hears = async {
            let Ok(Heard::Message { channel, message }) = next(&mut socket).await else { panic!("a message") };
            assert_eq!((&channel[..], &message[..]), (&b"a"[..], &b"b"[..]));
            assert!(start.elapsed() > TIMEOUT * 7);
            end(&mut socket).await
        };
        let ((), error) = tokio::join!(answers, hears);
        assert_eq!(error.reason, "timeout");
    }

    #[tokio::test]
    async fn replies_belong_to_the_commands_in_their_order() {
        let (mut socket, mut server) = pair(1024);
        send(&mut socket, 1, b"A");
        put_part(socket.subscription(b"SUBSCRIBE"), b"c");
        send(&mut socket, 2, b"B");
        assert_eq!(socket.under_way().collect::<Vec<_>>(), [&1, &2]);
        server.write_all(b":1\r\n>3\r\n+subscribe\r\n+c\r\n:1\r\n>2\r\n+invalidate\r\n_\r\n-ERR no\r\n").await.unwrap();
        assert!(matches!(next(&mut socket).await, Ok(Heard::Reply(1, Value::Integer(1)))));
        assert!(matches!(next(&mut socket).await, Ok(Heard::Reply(2, Value::Error(_)))));
        assert_eq!(socket.under_way().count(), 0);
        server.write_all(b"-ERR max number of clients reached\r\n").await.unwrap();
        let error = end(&mut socket).await;
        assert!(error.reason == "protocol" && error.message.contains("max number of clients"), "{error}");
    }

    #[tokio::test]
    async fn a_reply_out_of_place_ends_the_link() {
        for (text, reason) in [
            (&b"+OK\r\n"[..], "protocol"),
            (b">3\r\n+subscribe\r\n+c\r\n:1\r\n", "protocol"),
            (b">2\r\n+message\r\n+c\r\n", "protocol"),
            (b"x", "protocol"),
            (b"$9999999\r\n", "too_large"),
            (b"", "closed"),
        ] {
            let (mut socket, mut server) = pair(1024);
            server.write_all(text).await.unwrap();
            drop(server);
            assert_eq!(end(&mut socket).await.reason, reason, "{text:?}");
        }
    }

    #[tokio::test]
    async fn what_the_server_does_not_take_waits() {
        let (mut socket, mut server) = pair(100);
        for note in 0..100 {
            send(&mut socket, note, b"command");
        }
        let all = socket.backlog();
        let waiting = poll_fn(|cx| Poll::Ready(socket.poll(cx).is_pending())).await;
        assert!(waiting && socket.backlog() == all - 100);
        let takes = async {
            let mut text = vec![0; all];
            server.read_exact(&mut text).await.unwrap();
            server.write_all(b":1\r\n").await.unwrap();
            text
        };
        let (text, reply) = tokio::join!(takes, next(&mut socket));
        assert!(matches!(reply, Ok(Heard::Reply(0, Value::Integer(1)))));
        assert_eq!(text, b"*1\r\n$7\r\ncommand\r\n".repeat(100));
        assert_eq!(socket.backlog(), 0);
    }
}
