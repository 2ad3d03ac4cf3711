//! A byte stream other than a socket: TLS of an embedder, memory, an upgraded connection of another HTTP server.
//!
//! Only a waiting task can write such a stream. So a delivery queues everything, and the connection's Transport writes
//! the queue out: the queued path.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{self, Poll, Waker};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

#[cfg(feature = "tls")]
use super::tls::PassedTls;
use crate::wire::Peer;

/// A stream of bytes in both directions.
pub trait ByteStream: AsyncRead + AsyncWrite + Send {}

impl<T: AsyncRead + AsyncWrite + Send> ByteStream for T {}

/// The kind of a stream that was passed on.
#[non_exhaustive]
pub enum PassedStream {
    /// A socket, which belongs to no runtime any more.
    Tcp(std::net::TcpStream),
    /// A Unix socket, which belongs to no runtime any more.
    #[cfg(unix)]
    Unix(std::os::unix::net::UnixStream),
    /// A connection over TLS, which belongs to no runtime any more.
    #[cfg(feature = "tls")]
    Tls(PassedTls),
    /// A stream of another kind.
    Other(Pin<Box<dyn ByteStream>>),
}

impl fmt::Debug for PassedStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(stream) => f.debug_tuple("Tcp").field(stream).finish(),
            #[cfg(unix)]
            Self::Unix(stream) => f.debug_tuple("Unix").field(stream).finish(),
            #[cfg(feature = "tls")]
            Self::Tls(stream) => f.debug_tuple("Tls").field(stream).finish(),
            Self::Other(_) => f.write_str("Other(…)"),
        }
    }
}

/// See the module's documentation. The stream lies under the slot's lock, so a single thread at a time uses the cells.
pub(crate) struct Stream {
    io: RefCell<Pin<Box<dyn ByteStream>>>,
    pub(crate) peer: Peer,
    /// The Transport's task during a write; no other task may write.
    writer: RefCell<Option<Waker>>,
    /// Whether the stream may hold back some of the bytes it has taken.
    unflushed: Cell<bool>,
    /// Whether the stream is to be ended, and has not been.
    shuts_down: Cell<bool>,
}

impl Stream {
    pub(crate) fn new(io: Pin<Box<dyn ByteStream>>, peer: Peer) -> Self {
        Self {
            io: RefCell::new(io),
            peer,
            writer: RefCell::new(None),
            unflushed: Cell::new(false),
            shuts_down: Cell::new(false),
        }
    }

    /// Sends bytes, if called by [`write_with`](Self::write_with).
    pub(crate) fn send(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let writer = self.writer.borrow();
        let Some(waker) = &*writer else { return Err(io::ErrorKind::WouldBlock.into()) };
        let mut cx = task::Context::from_waker(waker);
        let mut io = self.io.borrow_mut();
        let written = match slices {
            [slice] => io.as_mut().poll_write(&mut cx, slice),
            slices => io.as_mut().poll_write_vectored(&mut cx, slices),
        };
        match written {
            Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
            // The stream takes no more bytes and will not say when it does: as good as gone.
            Poll::Ready(Ok(0)) if slices.iter().any(|slice| !slice.is_empty()) => Err(io::ErrorKind::WriteZero.into()),
            Poll::Ready(written) => {
                self.unflushed.set(true);
                written
            }
        }
    }

    /// Calls `write`, a closure with a send, with the task to wake when there is room.
    pub(crate) fn write_with<T>(&self, cx: &task::Context<'_>, write: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        *self.writer.borrow_mut() = Some(cx.waker().clone());
        let written = write();
        *self.writer.borrow_mut() = None;
        written
    }

    pub(crate) fn is_unflushed(&self) -> bool {
        self.unflushed.get()
    }

    /// Makes the stream hand on the bytes it holds back.
    pub(crate) fn poll_flush(&self, cx: &mut task::Context<'_>) -> Poll<io::Result<()>> {
        let flushed = self.io.borrow_mut().as_mut().poll_flush(cx);
        if flushed.is_ready() {
            self.unflushed.set(false);
        }
        flushed
    }

    pub(crate) fn poll_read(&self, cx: &mut task::Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut io = self.io.borrow_mut();
        if self.shuts_down.get() {
            // No other task waits for the stream any more. If the shutdown fails, the reads will not go on for long
            // either.
            self.shuts_down.set(io.as_mut().poll_shutdown(cx).is_pending());
        }
        let mut buffer = ReadBuf::new(buffer);
        match io.as_mut().poll_read(cx, &mut buffer).map_ok(|()| buffer.filled().len()) {
            // The Transport drops a stream after the end of both sides, and this side's end is not there yet.
            Poll::Ready(Ok(0)) if self.shuts_down.get() => Poll::Pending,
            read => read,
        }
    }

    /// Ends the stream to the client with the next read.
    pub(crate) fn shut_down(&self) {
        self.shuts_down.set(true);
    }

    pub(crate) fn into_io(self) -> Pin<Box<dyn ByteStream>> {
        self.io.into_inner()
    }
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stream").field("peer", &self.peer).finish_non_exhaustive()
    }
}
