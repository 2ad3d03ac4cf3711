//! An exchange on the HTTP port: a request whose head the port has read, and its answer. Then the connection goes back to
//! the port, which keeps idle connections, and knows what else a connection may ask for.
//!
//! hyper would read on, and a connection that it serves asks for `/events` sooner or later. What is left without hyper is
//! little: the head is read, the body is read by [`BodyReader`], and an answer is known before its first byte is sent.

use std::fmt::Write as _;
use std::pin::Pin;
use std::sync::OnceLock;
use std::task::{Context, Poll, ready};
use std::time::{Duration, SystemTime};

use http_body_util::{BodyExt as _, Either, Full};
use hyper::body::{Body, Bytes, Frame, SizeHint};
use hyper::{Method, Request, Response, Version, header};
use janus_core::wire::{BodyReader, HttpError, HttpRequest};
use janus_core::{PassedOn, PassedRequest, PassedStream, WayBack};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::oneshot;

use super::{Api, Lines, linger};

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// How an exchange ended; the error is for the log.
pub(super) type Exchanged = Result<(), BoxError>;

/// Bytes of a body read at once.
const READ_BYTES: usize = 16 * 1024;

/// Bytes of an answer that are sent together with its head.
const TOGETHER_BYTES: usize = 16 * 1024;

/// A stream of the HTTP port, on the runtime of the API.
pub(super) trait Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> Stream for S {}

/// The beginning of an exchange.
struct Begun {
    request: Request<()>,
    /// As the port has read it.
    head: HttpRequest,
    /// The bytes behind the head.
    received: Bytes,
    /// Whether the client is on this machine.
    is_local: bool,
}

impl Api {
    /// Answers a request, and gives the connection back to the port if it is to be kept: behind a request that was carried
    /// out, and not behind a refusal.
    pub(super) async fn exchange(&self, passed_on: PassedOn, lasts: &OnceLock<Duration>) -> Exchanged {
        let PassedOn { stream, received, is_local, request, back, .. } = passed_on;
        let Some(PassedRequest { head, bytes }) = request else {
            return Err("the stream begins with no request".into());
        };
        let begun = Begun { request: request_of(&head)?, head, received: received.slice(bytes..), is_local };
        match stream {
            PassedStream::Tcp(stream) => {
                stream.set_nonblocking(true)?;
                let stream = TcpStream::from_std(stream)?;
                let leave = |stream: TcpStream| Ok(PassedStream::Tcp(stream.into_std()?));
                self.converse(stream, begun, (back, leave), lasts).await
            }
            #[cfg(unix)]
            PassedStream::Unix(stream) => {
                stream.set_nonblocking(true)?;
                let stream = tokio::net::UnixStream::from_std(stream)?;
                let leave = |stream: tokio::net::UnixStream| Ok(PassedStream::Unix(stream.into_std()?));
                self.converse(stream, begun, (back, leave), lasts).await
            }
            PassedStream::Tls(stream) => {
                let leave = |stream: janus_core::TlsStream| Ok(PassedStream::Tls(stream.leave()?));
                self.converse(stream.register()?, begun, (back, leave), lasts).await
            }
            PassedStream::Other(stream) => {
                self.converse(stream, begun, (back, |stream| Ok(PassedStream::Other(stream))), lasts).await
            }
            other => Err(format!("{other:?} is no stream that the API can serve").into()),
        }
    }

    async fn converse<S: Stream>(
        &self,
        stream: S,
        begun: Begun,
        (back, leave): (WayBack, impl FnOnce(S) -> std::io::Result<PassedStream>),
        lasts: &OnceLock<Duration>,
    ) -> Exchanged {
        let Begun { request, head, received, is_local } = begun;
        let (body, left) = KeptBody::new(stream, &head, received, self.max_body_bytes());
        let place = OnceLock::new();
        let answer = self.answer(request.map(|()| Incoming::new(body)), is_local, &place, lasts).await?;
        // The body comes back with the end of its request.
        let Left { mut stream, received, is_complete } = left.await?;
        // A stranger's requests would come without limit over a connection that has been counted once.
        let is_carried_out = place.get().is_some_and(|place| self.carries_out(place));
        let keeps = is_carried_out && is_complete && head.keeps_connection() && back.is_open();
        let form = Form::of(&head, keeps, &answer);
        write(&mut stream, answer, form).await?;
        // A client must not occupy a place by leaving its side open.
        drop(place);
        if form.connection != "close" {
            back.give(leave(stream)?, received)?;
        } else {
            stream.shutdown().await?;
            if let Ok(_lingering) = self.lingering.try_acquire() {
                linger(stream).await;
            }
        }
        Ok(())
    }
}

/// The head of a request for the handlers.
fn request_of(head: &HttpRequest) -> Result<Request<()>, hyper::http::Error> {
    let version = if head.is_http_1_0 { Version::HTTP_10 } else { Version::HTTP_11 };
    let mut request = Request::builder().method(&*head.method).uri(&*head.target).version(version);
    for (name, value) in &head.headers {
        request = request.header(&**name, value.as_bytes());
    }
    request.body(())
}

/// The body of a request, of the HTTP port or of hyper.
pub(crate) struct Incoming(Pin<Box<dyn Body<Data = Bytes, Error = BoxError> + Send>>);

impl Incoming {
    fn new(body: impl Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static) -> Self {
        Self(Box::pin(body.map_err(Into::into)))
    }
}

impl From<hyper::body::Incoming> for Incoming {
    fn from(body: hyper::body::Incoming) -> Self {
        Self::new(body)
    }
}

impl Body for Incoming {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        self.0.as_mut().poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.0.size_hint()
    }
}

/// What is left of a request: the stream behind it.
struct Left<S> {
    stream: S,
    received: Bytes,
    /// Whether the body has been read to its end, and the next byte begins another request.
    is_complete: bool,
}

/// The body of a request on the HTTP port. Owns the stream, and gives it away when dropped.
struct KeptBody<S> {
    /// `None` only after the drop.
    left: Option<(Left<S>, oneshot::Sender<Left<S>>)>,
    reader: Result<BodyReader, HttpError>,
    /// Sent before the first read, to a client that waits for a word of the server.
    first: &'static [u8],
    is_over: bool,
}

const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

impl<S> KeptBody<S> {
    fn new(stream: S, head: &HttpRequest, received: Bytes, max: usize) -> (Self, oneshot::Receiver<Left<S>>) {
        let reader = BodyReader::of(head, max);
        let is_complete = reader.as_ref().is_ok_and(BodyReader::is_complete);
        let expects = head.header("expect").is_some_and(|value| value.eq_ignore_ascii_case("100-continue"));
        let waits = expects && !head.is_http_1_0 && !is_complete && received.is_empty();
        let (sender, left) = oneshot::channel();
        let left_now = Left { stream, received, is_complete };
        (
            Self {
                left: Some((left_now, sender)),
                reader,
                first: if waits { CONTINUE } else { &[] },
                is_over: is_complete,
            },
            left,
        )
    }
}

impl<S> Drop for KeptBody<S> {
    fn drop(&mut self) {
        if let Some((left, sender)) = self.left.take() {
            // The exchange may have been given up.
            let _ = sender.send(left);
        }
    }
}

impl<S: Stream> Body for KeptBody<S> {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let Self { left: Some((left, _)), reader, first, is_over } = &mut *self else { return Poll::Ready(None) };
        if *is_over {
            return Poll::Ready(None);
        }
        let reader = match reader {
            Ok(reader) => reader,
            Err(error) => {
                *is_over = true;
                return Poll::Ready(Some(Err(error.clone().into())));
            }
        };
        while !first.is_empty() {
            let written = ready!(Pin::new(&mut left.stream).poll_write(cx, first))?;
            *first = &first[written..];
            if first.is_empty() {
                ready!(Pin::new(&mut left.stream).poll_flush(cx))?;
            }
        }
        loop {
            let mut input = &*left.received;
            let read = reader.read(&mut input);
            let taken = left.received.len() - input.len();
            let _ = left.received.split_to(taken);
            if let Some(read) = read {
                *is_over = true;
                left.is_complete = read.is_ok();
                let body = read.map(|body| Frame::data(body.into())).map_err(Into::into);
                return Poll::Ready(Some(body));
            }
            let mut buffer = vec![0; READ_BYTES];
            let mut filled = ReadBuf::new(&mut buffer);
            ready!(Pin::new(&mut left.stream).poll_read(cx, &mut filled))?;
            let length = filled.filled().len();
            if length == 0 {
                *is_over = true;
                return Poll::Ready(Some(Err("the stream ended before the end of the body".into())));
            }
            buffer.truncate(length);
            left.received = buffer.into();
        }
    }
}

/// The form of an answer.
#[derive(Clone, Copy, Debug)]
struct Form {
    /// The value of `Connection`; empty for none.
    connection: &'static str,
    has_body: bool,
    /// Whether the body has chunks, because its length is unknown.
    is_chunked: bool,
    length: Option<u64>,
}

impl Form {
    fn of(head: &HttpRequest, keeps: bool, answer: &Response<Either<Full<Bytes>, Lines>>) -> Self {
        let length = match answer.body() {
            Either::Left(body) => body.size_hint().exact(),
            Either::Right(_) => None,
        };
        // To HTTP/1.0, the end of the stream is the end of such a body.
        let ends_with_stream = length.is_none() && head.is_http_1_0;
        let connection = match (keeps && !ends_with_stream, head.is_http_1_0) {
            (false, _) => "close",
            (true, true) => "keep-alive",
            (true, false) => "",
        };
        let has_body = head.method != Method::HEAD.as_str();
        Self { connection, has_body, is_chunked: length.is_none() && !head.is_http_1_0, length }
    }

    fn head(self, answer: &Response<Either<Full<Bytes>, Lines>>) -> Vec<u8> {
        let status = answer.status();
        let mut head = format!("HTTP/1.1 {} {}\r\n", status.as_str(), status.canonical_reason().unwrap_or("Refused"));
        let _ = write!(head, "date: {}\r\n", httpdate::fmt_http_date(SystemTime::now()));
        let mut head = head.into_bytes();
        let mut put = |name: &str, value: &[u8]| head.extend([name.as_bytes(), b": ", value, b"\r\n"].concat());
        for (name, value) in answer.headers() {
            put(name.as_str(), value.as_bytes());
        }
        if !self.connection.is_empty() {
            put(header::CONNECTION.as_str(), self.connection.as_bytes());
        }
        match self.length {
            Some(length) => put(header::CONTENT_LENGTH.as_str(), length.to_string().as_bytes()),
            None if self.is_chunked => put(header::TRANSFER_ENCODING.as_str(), b"chunked"),
            None => {}
        }
        head.extend_from_slice(b"\r\n");
        head
    }
}

/// Sends an answer, with the date (RFC 9110, 6.6.1).
async fn write(
    stream: &mut (impl AsyncWrite + Unpin),
    answer: Response<Either<Full<Bytes>, Lines>>,
    form: Form,
) -> std::io::Result<()> {
    let mut out = form.head(&answer);
    let mut body = answer.into_body();
    // A line of a trace is not to wait for the next, nor the head for the first.
    let in_parts = form.length.is_none();
    if in_parts {
        stream.write_all(&out).await?;
        stream.flush().await?;
        out.clear();
    }
    while form.has_body
        && let Some(Ok(frame)) = body.frame().await
    {
        let Ok(data) = frame.into_data() else { continue };
        if data.is_empty() {
            continue;
        }
        if form.is_chunked {
            out.extend_from_slice(format!("{:x}\r\n", data.len()).as_bytes());
        }
        // A large body is not copied: a copy would escape the account of answers.
        if out.len() + data.len() <= TOGETHER_BYTES {
            out.extend_from_slice(&data);
        } else {
            stream.write_all(&out).await?;
            out.clear();
            stream.write_all(&data).await?;
        }
        if form.is_chunked {
            out.extend_from_slice(b"\r\n");
        }
        if in_parts {
            stream.write_all(&out).await?;
            stream.flush().await?;
            out.clear();
        }
    }
    if form.has_body && form.is_chunked {
        out.extend_from_slice(b"0\r\n\r\n");
    }
    stream.write_all(&out).await?;
    stream.flush().await
}
