//! A request to a route: its body is read, its answer written, and its connection given back to the port.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::time::Duration;

use bytes::Buf;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::{Decision, RouteRequest, RouteResponse};
use crate::connection::listener::{PassedOn, PassedRequest, PassedStream, WayBack};
use crate::instance::janus::WeakJanus;
use crate::wire::{BodyReader, Bytes, HttpError, HttpRequest, Peer};

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Bytes of a body read at once.
const READ_BYTES: usize = 16 * 1024;

/// How many bytes a client may still send after its last answer, and for how long. Closing with unread bytes would reset
/// the connection, and the answer would be lost.
const LINGER_BYTES: usize = 1 << 20;
const LINGER: Duration = Duration::from_secs(1);

/// A request without its body.
struct Begun {
    head: HttpRequest,
    received: Bytes,
    peer: Peer,
    is_local: bool,
    decision: Decision,
}

/// What is left of a request whose connection is kept.
type Left<S> = Option<(S, Bytes)>;

/// Answers a request, and gives its connection back to the port if the connection is kept.
pub(super) async fn exchange(passed_on: PassedOn, decision: Decision, janus: &WeakJanus) -> Result<(), BoxError> {
    let PassedOn { stream, received, peer, is_local, request, back } = passed_on;
    let Some(PassedRequest { head, bytes }) = request else { return Err("the stream begins with no request".into()) };
    let begun = Begun { head, received: received.slice(bytes..), peer, is_local, decision };
    let left = match stream {
        PassedStream::Tcp(stream) => {
            stream.set_nonblocking(true)?;
            let left = converse(TcpStream::from_std(stream)?, begun, &back, janus).await?;
            left.map(|(stream, rest)| Ok::<_, BoxError>((PassedStream::Tcp(stream.into_std()?), rest)))
        }
        #[cfg(unix)]
        PassedStream::Unix(stream) => {
            stream.set_nonblocking(true)?;
            let left = converse(tokio::net::UnixStream::from_std(stream)?, begun, &back, janus).await?;
            left.map(|(stream, rest)| Ok((PassedStream::Unix(stream.into_std()?), rest)))
        }
        #[cfg(feature = "tls")]
        PassedStream::Tls(stream) => {
            let left = converse(stream.register()?, begun, &back, janus).await?;
            left.map(|(stream, rest)| Ok((PassedStream::Tls(stream.leave()?), rest)))
        }
        PassedStream::Other(stream) => {
            let left = converse(stream, begun, &back, janus).await?;
            left.map(|(stream, rest)| Ok((PassedStream::Other(stream), rest)))
        }
    };
    if let Some(left) = left {
        let (stream, rest) = left?;
        back.give(stream, rest)?;
    }
    Ok(())
}

async fn converse<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: S,
    begun: Begun,
    back: &WayBack,
    janus: &WeakJanus,
) -> Result<Left<S>, BoxError> {
    let Begun { head, mut received, peer, is_local, decision } = begun;
    let (answer, keeps) = match decision {
        Decision::Refusal(answer) => (answer, false),
        Decision::Route(route, rest) => {
            let Some(janus) = janus.upgrade() else { return Ok(None) };
            let config = janus.config();
            let max = route.max_body_bytes.unwrap_or(config.max_frame_bytes);
            let body = match BodyReader::of(&head, max) {
                Ok(reader) => {
                    let body = read_body(&mut stream, reader, &head, &mut received);
                    timeout(config.frame_timeout, body).await.unwrap_or_else(|_| Ok(Err(late())))?
                }
                Err(error) => Err(error),
            };
            match body {
                Ok(body) => {
                    let request = RouteRequest { head: head.clone(), rest, body: body.into(), peer, is_local, janus };
                    let answer = route.answer(request).await;
                    let keeps = answer.is_ok() && head.keeps_connection() && back.is_open();
                    (answer.unwrap_or_else(|error| RouteResponse::from(&error)), keeps)
                }
                Err(error) => (RouteResponse::from(&error), false),
            }
        }
    };
    write(&mut stream, &answer.bytes(&head, keeps)).await?;
    if keeps {
        return Ok(Some((stream, received)));
    }
    poll_fn(|cx| Pin::new(&mut stream).poll_shutdown(cx)).await?;
    let _ = timeout(LINGER, discard(stream)).await;
    Ok(None)
}

fn late() -> HttpError {
    HttpError::new(408, "frame_timeout", "the body did not come within frame_timeout; send the request again")
}

/// Reads the body. `received` are the bytes behind the head, and then the bytes behind the body.
async fn read_body<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    mut reader: BodyReader,
    head: &HttpRequest,
    received: &mut Bytes,
) -> Result<Result<Vec<u8>, HttpError>, BoxError> {
    let expects = head.header("expect").is_some_and(|value| value.eq_ignore_ascii_case("100-continue"));
    if expects && !head.is_http_1_0 && received.is_empty() && !reader.is_complete() {
        write(stream, b"HTTP/1.1 100 Continue\r\n\r\n").await?;
    }
    loop {
        let mut input = &**received;
        let read = reader.read(&mut input);
        let taken = received.len() - input.len();
        received.advance(taken);
        if let Some(read) = read {
            return Ok(read);
        }
        let mut buffer = vec![0; READ_BYTES];
        let length = read_some(stream, &mut buffer).await?;
        if length == 0 {
            return Err("the stream ended before the end of the body".into());
        }
        buffer.truncate(length);
        *received = buffer.into();
    }
}

async fn read_some(stream: &mut (impl AsyncRead + Unpin), buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = ReadBuf::new(buffer);
    poll_fn(|cx| Pin::new(&mut *stream).poll_read(cx, &mut filled)).await?;
    Ok(filled.filled().len())
}

async fn write(stream: &mut (impl AsyncWrite + Unpin), mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match poll_fn(|cx| Pin::new(&mut *stream).poll_write(cx, bytes)).await? {
            0 => return Err(io::ErrorKind::WriteZero.into()),
            written => bytes = &bytes[written..],
        }
    }
    poll_fn(|cx| Pin::new(&mut *stream).poll_flush(cx)).await
}

async fn discard(mut stream: impl AsyncRead + Unpin) {
    let (mut buffer, mut left) = (vec![0; READ_BYTES], LINGER_BYTES);
    while left > 0 {
        match read_some(&mut stream, &mut buffer).await {
            Ok(length) if length > 0 => left = left.saturating_sub(length),
            _ => return,
        }
    }
}
