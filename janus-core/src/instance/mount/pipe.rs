//! A pipe between a connection and another HTTP server: the bytes of a body, in one direction or in both.
//!
//! A pipe at rest has no buffer, because tens of thousands of streams are silent most of the time.

use std::fmt;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::{Buf as _, BytesMut};
use futures_util::Stream;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::wire::Bytes;

/// Bytes on their way in one direction; a writer ahead of its reader waits. A client that reads slowly lags by the rules of
/// its topics from then on.
const LIMIT: usize = 16 * 1024;

/// One direction.
#[derive(Default)]
struct Way(Mutex<State>);

#[derive(Default)]
struct State {
    bytes: BytesMut,
    end: End,
    /// Whether the reader has gone.
    is_unread: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
    /// The task that waits for the reader to go.
    watcher: Option<Waker>,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum End {
    #[default]
    Open,
    /// The writer has said everything.
    Finished,
    /// The writer has gone in the middle.
    Broken,
}

fn wake(waker: &mut Option<Waker>) {
    if let Some(waker) = waker.take() {
        waker.wake();
    }
}

/// The end at which bytes come out.
struct Reading(Arc<Way>);

/// The end at which bytes go in.
struct Writing(Arc<Way>);

fn way() -> (Writing, Reading) {
    let way = Arc::new(Way::default());
    (Writing(Arc::clone(&way)), Reading(way))
}

impl Reading {
    /// The bytes at hand, at most `most`; `None` at the end.
    fn poll_bytes(&self, cx: &mut Context<'_>, most: usize) -> Poll<Option<io::Result<Bytes>>> {
        let mut state = self.0.0.lock();
        if state.bytes.is_empty() {
            return match state.end {
                End::Open => {
                    state.reader = Some(cx.waker().clone());
                    Poll::Pending
                }
                End::Finished => Poll::Ready(None),
                End::Broken => Poll::Ready(Some(Err(io::ErrorKind::ConnectionReset.into()))),
            };
        }
        wake(&mut state.writer);
        let bytes = match state.bytes.len() {
            length if length <= most => std::mem::take(&mut state.bytes),
            _ => state.bytes.split_to(most),
        };
        Poll::Ready(Some(Ok(bytes.freeze())))
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        let mut state = self.0.0.lock();
        state.is_unread = true;
        state.bytes = BytesMut::new();
        wake(&mut state.writer);
        wake(&mut state.watcher);
    }
}

impl Writing {
    fn poll_write(&self, cx: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let mut state = self.0.0.lock();
        if state.is_unread || state.end != End::Open {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let mut written = 0;
        for slice in slices {
            let room = LIMIT - state.bytes.len();
            let part = &slice[..slice.len().min(room)];
            state.bytes.extend_from_slice(part);
            written += part.len();
        }
        if written == 0 && slices.iter().any(|slice| !slice.is_empty()) {
            state.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        wake(&mut state.reader);
        Poll::Ready(Ok(written))
    }

    fn end(&self, end: End) {
        let mut state = self.0.0.lock();
        if state.end == End::Open {
            state.end = end;
            wake(&mut state.reader);
        }
    }

    /// Ready when the reader has gone.
    fn poll_unread(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.0.0.lock();
        if state.is_unread {
            return Poll::Ready(());
        }
        state.watcher = Some(cx.waker().clone());
        Poll::Pending
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        self.end(End::Broken);
    }
}

/// The end of the connection.
pub(super) struct Inside {
    output: Writing,
    /// `None` for a client that sends nothing: its stream ends when the body is dropped.
    input: Option<Reading>,
}

impl AsyncRead for Inside {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Some(input) = &self.input else { return self.output.poll_unread(cx).map(Ok) };
        input.poll_bytes(cx, buffer.remaining()).map(|bytes| match bytes {
            Some(Ok(bytes)) => {
                buffer.put_slice(&bytes);
                Ok(())
            }
            Some(Err(error)) => Err(error),
            None => Ok(()),
        })
    }
}

impl AsyncWrite for Inside {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.output.poll_write(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.output.poll_write(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.output.end(End::Finished);
        Poll::Ready(Ok(()))
    }
}

/// The bytes for a client, as the body of a response. The stream ends when Janus has closed the connection; an error means
/// that the connection was cut off, and the client must see its response incomplete. Dropping the body closes the
/// connection.
pub struct Body {
    first: Bytes,
    rest: Option<Reading>,
}

impl Body {
    /// A body without an end to wait for.
    pub(super) fn whole(bytes: Bytes) -> Self {
        Self { first: bytes, rest: None }
    }

    /// The whole body, if it is known already.
    #[must_use]
    pub fn as_whole(&self) -> Option<&Bytes> {
        self.rest.is_none().then_some(&self.first)
    }

    /// Puts bytes back that have been read.
    pub(super) fn put_back(&mut self, bytes: Bytes) {
        debug_assert!(self.first.is_empty(), "nothing else is waiting");
        self.first = bytes;
    }
}

impl Stream for Body {
    type Item = io::Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.first.has_remaining() {
            return Poll::Ready(Some(Ok(std::mem::take(&mut self.first))));
        }
        match &self.rest {
            Some(rest) => rest.poll_bytes(cx, LIMIT),
            None => Poll::Ready(None),
        }
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Body").field("is_whole", &self.rest.is_none()).finish_non_exhaustive()
    }
}

/// The bytes of a client, for a server that has them as the body of a request. Dropping the input without
/// [`finish`](Self::finish) counts as a lost connection.
pub struct Input(Writing);

impl Input {
    /// Hands over bytes of the client, and waits while Janus does not read.
    ///
    /// Not cancel safe: a part of the bytes may have been handed over.
    ///
    /// # Errors
    ///
    /// The connection is over.
    pub async fn write(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let written = std::future::poll_fn(|cx| self.0.poll_write(cx, &[IoSlice::new(bytes)])).await?;
            bytes = &bytes[written..];
        }
        Ok(())
    }

    /// The client has ended its side of the connection.
    pub fn finish(self) {
        self.0.end(End::Finished);
    }
}

impl fmt::Debug for Input {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Input").finish_non_exhaustive()
    }
}

/// A pipe to a client that sends nothing.
pub(super) fn one_way() -> (Inside, Body) {
    let (output, rest) = way();
    (Inside { output, input: None }, Body { first: Bytes::new(), rest: Some(rest) })
}

/// A pipe in both directions.
pub(super) fn both_ways() -> (Inside, Input, Body) {
    let ((output, rest), (input, received)) = (way(), way());
    let inside = Inside { output, input: Some(received) };
    (inside, Input(input), Body { first: Bytes::new(), rest: Some(rest) })
}

#[cfg(test)]
mod tests {
    use futures_util::{FutureExt as _, StreamExt as _};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test]
    async fn a_writer_ahead_of_its_reader_waits_and_nothing_is_lost() {
        let (mut inside, mut body) = one_way();
        let sent: Vec<u8> = (0..100_000_u32).map(|number| number as u8).collect();
        let expected = sent.clone();
        let writer = tokio::spawn(async move {
            inside.write_all(&sent).await.unwrap();
            inside.shutdown().await.unwrap();
        });
        let mut received = Vec::new();
        while let Some(bytes) = body.next().await {
            let bytes = bytes.unwrap();
            assert!(bytes.len() <= LIMIT, "{}", bytes.len());
            received.extend_from_slice(&bytes);
        }
        assert_eq!(received, expected);
        writer.await.unwrap();
    }

    #[tokio::test]
    async fn a_full_pipe_takes_more_only_after_a_read() {
        let (mut inside, mut body) = one_way();
        inside.write_all(&vec![b'x'; LIMIT]).await.unwrap();
        assert!(inside.write_all(b"y").now_or_never().is_none());
        assert_eq!(body.next().await.unwrap().unwrap().len(), LIMIT);
        inside.write_all(b"y").await.unwrap();
        assert_eq!(body.next().await.unwrap().unwrap(), "y");
    }

    #[tokio::test]
    async fn an_end_in_the_middle_is_an_error_and_a_finished_stream_is_none() {
        let (mut inside, mut body) = one_way();
        inside.write_all(b"part").await.unwrap();
        drop(inside);
        assert_eq!(body.next().await.unwrap().unwrap(), "part");
        assert_eq!(body.next().await.unwrap().unwrap_err().kind(), io::ErrorKind::ConnectionReset);

        let (mut inside, mut body) = one_way();
        inside.shutdown().await.unwrap();
        drop(inside);
        assert!(body.next().await.is_none());
    }

    #[tokio::test]
    async fn a_body_that_is_dropped_ends_the_input_of_a_client_that_sends_nothing() {
        let (mut inside, body) = one_way();
        assert!(inside.read_u8().now_or_never().is_none(), "the client is there");
        drop(body);
        assert_eq!(inside.read(&mut [0; 8]).await.unwrap(), 0);
        assert_eq!(inside.write(b"x").await.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }

    #[tokio::test]
    async fn input_comes_in_its_order_whatever_the_size_of_the_reads() {
        let (mut inside, mut input, _body) = both_ways();
        input.write(b"hello ").await.unwrap();
        input.write(b"world").await.unwrap();
        input.finish();
        let mut received = Vec::new();
        let mut part = [0; 4];
        while let Ok(length @ 1..) = inside.read(&mut part).await {
            received.extend_from_slice(&part[..length]);
        }
        assert_eq!(received, b"hello world");
    }
}
