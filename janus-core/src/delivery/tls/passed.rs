//! A connection over TLS outside of a slot: on the way to another runtime, and as a stream of bytes in that runtime.

use std::fmt;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{self, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::{Session, Tls};

/// An established connection over TLS, without a runtime.
pub struct PassedTls {
    socket: std::net::TcpStream,
    /// Boxed, because other passed-on streams are a few bytes.
    session: Box<Session>,
}

impl PassedTls {
    pub(crate) fn leave_reactor(tls: Tls) -> io::Result<Self> {
        let (socket, session) = tls.into_parts();
        Ok(Self { socket: socket.into_std()?, session: Box::new(session) })
    }

    pub(crate) fn enter_reactor(self) -> io::Result<Tls> {
        Ok(Tls::new(TcpStream::from_std(self.socket)?, *self.session))
    }

    /// Registers the socket with the runtime of the caller, and returns a stream of plaintext. A shutdown of the stream
    /// sends `close_notify` and a FIN.
    ///
    /// # Errors
    ///
    /// The runtime cannot register the socket.
    ///
    /// # Panics
    ///
    /// If called outside of a tokio runtime with I/O.
    pub fn register(self) -> io::Result<TlsStream> {
        Ok(TlsStream(self.enter_reactor()?))
    }
}

impl fmt::Debug for PassedTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PassedTls").field("socket", &self.socket).finish_non_exhaustive()
    }
}

/// A connection over TLS as a stream of plaintext; see [`PassedTls::register`].
pub struct TlsStream(Tls);

impl TlsStream {
    /// Takes the stream from its runtime. All bytes written must have been flushed.
    ///
    /// # Errors
    ///
    /// The runtime does not let go of the socket.
    pub fn leave(self) -> io::Result<PassedTls> {
        PassedTls::leave_reactor(self.0)
    }
}

impl fmt::Debug for TlsStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsStream").field("socket", self.0.socket()).finish_non_exhaustive()
    }
}

impl AsyncRead for TlsStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut task::Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let length = ready!(self.get_mut().0.poll_read(cx, buffer.initialize_unfilled()))?;
        buffer.advance(length);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for TlsStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut task::Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.0.poll_write(cx, || self.0.send(bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut task::Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.0.poll_write(cx, || self.0.send_vectored(slices))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut task::Context<'_>) -> Poll<io::Result<()>> {
        self.0.poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut task::Context<'_>) -> Poll<io::Result<()>> {
        self.0.shut_down();
        self.0.poll_flush(cx)
    }
}
