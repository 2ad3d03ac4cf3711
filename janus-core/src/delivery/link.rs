//! The two directions of a connection: a slot writes here and its Transport reads, from a socket of the kernel or
//! another [`Stream`] of bytes.
//!
//! Writing never waits. A socket is written with `send`, past tokio's readiness, which on 19,000 subscribers is a tenth
//! of the CPU. rustix's `send` makes the system call itself: the C library's is a cancellation point, and prepares for
//! that with two locked instructions.

use std::io::{self, IoSlice};
use std::net::Shutdown;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{self, Poll};
use std::time::Duration;

use rustix::fd::AsFd;
#[cfg(target_os = "linux")]
use rustix::fd::BorrowedFd;
use rustix::io::Errno;
use rustix::net::{SendAncillaryBuffer, SendFlags};
use socket2::SockRef;
use tokio::io::{AsyncRead, Interest, ReadBuf};
use tokio::net::TcpStream;
#[cfg(unix)]
use tokio::net::UnixStream;

use super::Ledger;
#[cfg(all(test, feature = "fault-injection"))]
use super::memory::Memory;
use super::stream::{PassedStream, Stream};
#[cfg(feature = "tls")]
use super::tls::{PassedTls, Tls};
use crate::wire::Peer;

/// A byte stream to a client.
#[derive(Debug)]
pub(crate) enum Link {
    Tcp(TcpStream),
    /// Boxed, as the other streams, because nearly all connections are TCP: a second socket in place would make each
    /// link larger.
    #[cfg(unix)]
    Unix(Box<UnixStream>),
    /// Encrypted by the thread that sends.
    #[cfg(feature = "tls")]
    Tls(Box<Tls>),
    /// Written by the Transport alone.
    Stream(Box<Stream>),
    /// For tests without a kernel.
    #[cfg(all(test, feature = "fault-injection"))]
    Memory(Box<Memory>),
}

impl Link {
    /// Sends bytes; fewer than all of them, or [`WouldBlock`](io::ErrorKind::WouldBlock), if there is no room.
    #[inline]
    pub(crate) fn send(&self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(socket) => send(socket, bytes),
            #[cfg(unix)]
            Self::Unix(socket) => send(&**socket, bytes),
            #[cfg(feature = "tls")]
            Self::Tls(tls) => tls.send(bytes),
            Self::Stream(stream) => stream.send(&[IoSlice::new(bytes)]),
            #[cfg(all(test, feature = "fault-injection"))]
            Self::Memory(stream) => stream.send(&[IoSlice::new(bytes)]),
        }
    }

    /// The socket that the bytes go to as they are; `None` if they are encrypted first, or no socket takes them.
    #[cfg(target_os = "linux")]
    #[inline]
    pub(crate) fn socket(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::Tcp(socket) => Some(socket.as_fd()),
            Self::Unix(socket) => Some(socket.as_fd()),
            _ => None,
        }
    }

    /// Sends bytes from several buffers at once; otherwise like [`send`](Self::send).
    pub(crate) fn send_vectored(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Self::Tcp(socket) => {
                uninterrupted(|| rustix::net::sendmsg(socket, slices, &mut SendAncillaryBuffer::default(), SEND_FLAGS))
            }
            #[cfg(unix)]
            Self::Unix(socket) => {
                uninterrupted(|| rustix::net::sendmsg(socket, slices, &mut SendAncillaryBuffer::default(), SEND_FLAGS))
            }
            #[cfg(feature = "tls")]
            Self::Tls(tls) => tls.send_vectored(slices),
            Self::Stream(stream) => stream.send(slices),
            #[cfg(all(test, feature = "fault-injection"))]
            Self::Memory(stream) => stream.send(slices),
        }
    }

    /// Calls `write`, a closure with a send, once there is room.
    pub(crate) fn poll_write<T>(
        &self,
        cx: &mut task::Context<'_>,
        mut write: impl FnMut(&Self) -> io::Result<T>,
    ) -> Poll<io::Result<T>> {
        loop {
            let ready = match self {
                Self::Tcp(socket) => socket.poll_write_ready(cx),
                #[cfg(unix)]
                Self::Unix(socket) => socket.poll_write_ready(cx),
                #[cfg(feature = "tls")]
                Self::Tls(tls) => tls.socket().poll_write_ready(cx),
                Self::Stream(stream) => {
                    return match stream.write_with(cx, || write(self)) {
                        // The stream has the task.
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Poll::Pending,
                        written => Poll::Ready(written),
                    };
                }
                #[cfg(all(test, feature = "fault-injection"))]
                Self::Memory(stream) => stream.poll_writable(cx).map(Ok),
            };
            // An error means the end of the reactor, and of the task.
            let Poll::Ready(Ok(())) = ready else { return Poll::Pending };
            let written = match self {
                // Sends go past tokio, so only a refused send tells tokio that the socket is not ready.
                Self::Tcp(socket) => socket.try_io(Interest::WRITABLE, || write(self)),
                #[cfg(unix)]
                Self::Unix(socket) => socket.try_io(Interest::WRITABLE, || write(self)),
                #[cfg(feature = "tls")]
                Self::Tls(tls) => tls.socket().try_io(Interest::WRITABLE, || write(self)),
                _ => write(self),
            };
            match written {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                written => return Poll::Ready(written),
            }
        }
    }

    /// Reads bytes of the client; 0 bytes mean that the client will send no more.
    pub(crate) fn poll_read(&mut self, cx: &mut task::Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        match self {
            Self::Tcp(socket) => poll_read(socket, cx, buffer),
            #[cfg(unix)]
            Self::Unix(socket) => poll_read(&mut **socket, cx, buffer),
            #[cfg(feature = "tls")]
            Self::Tls(tls) => tls.poll_read(cx, buffer),
            Self::Stream(stream) => stream.poll_read(cx, buffer),
            #[cfg(all(test, feature = "fault-injection"))]
            Self::Memory(stream) => stream.poll_read(cx, buffer),
        }
    }

    /// Whether reading comes to its end when writing has failed.
    pub(crate) fn reads_end_with_writes(&self) -> bool {
        match self {
            Self::Tcp(_) => true,
            // The client may have stopped reading, and may send all the same.
            #[cfg(unix)]
            Self::Unix(_) => false,
            #[cfg(feature = "tls")]
            Self::Tls(_) => true,
            Self::Stream(_) => false,
            #[cfg(all(test, feature = "fault-injection"))]
            Self::Memory(_) => true,
        }
    }

    /// Accounts for the memory of the link itself from now on. Only TLS needs a notable amount.
    pub(crate) fn account_to(&self, ledger: &Arc<Ledger>) {
        match self {
            #[cfg(feature = "tls")]
            Self::Tls(tls) => tls.account_to(ledger),
            _ => _ = ledger,
        }
    }

    /// The number of bytes that count as sent, and wait for the kernel.
    pub(crate) fn unsent(&self) -> usize {
        match self {
            #[cfg(feature = "tls")]
            Self::Tls(tls) => tls.unsent(),
            _ => 0,
        }
    }

    /// Whether sent bytes may not be on their way yet.
    #[inline]
    pub(crate) fn is_unflushed(&self) -> bool {
        match self {
            #[cfg(feature = "tls")]
            Self::Tls(tls) => tls.is_unflushed(),
            Self::Stream(stream) => stream.is_unflushed(),
            _ => false,
        }
    }

    /// Sends bytes that were held back on their way.
    pub(crate) fn poll_flush(&self, cx: &mut task::Context<'_>) -> Poll<io::Result<()>> {
        match self {
            #[cfg(feature = "tls")]
            Self::Tls(tls) => tls.poll_flush(cx),
            Self::Stream(stream) => stream.poll_flush(cx),
            _ => Poll::Ready(Ok(())),
        }
    }

    /// Ends the stream to the client: a FIN after all sent bytes.
    pub(crate) fn shut_down(&self) {
        match self {
            // Fails only if the peer has reset the connection, and then no peer is there to be told.
            Self::Tcp(socket) => drop(SockRef::from(socket).shutdown(Shutdown::Write)),
            #[cfg(unix)]
            Self::Unix(socket) => drop(SockRef::from(&**socket).shutdown(Shutdown::Write)),
            #[cfg(feature = "tls")]
            Self::Tls(tls) => tls.shut_down(),
            Self::Stream(stream) => stream.shut_down(),
            #[cfg(all(test, feature = "fault-injection"))]
            Self::Memory(stream) => stream.shut_down(),
        }
    }

    /// Makes the close a reset.
    pub(crate) fn reset_on_close(&self) {
        match self {
            Self::Tcp(socket) => reset_on_close(socket),
            // Sent bytes are the peer's already, and an end follows them: the kernel has no reset here.
            #[cfg(unix)]
            Self::Unix(_) => {}
            #[cfg(feature = "tls")]
            Self::Tls(tls) => tls.reset_on_close(),
            // The owner decides about the effect of a drop.
            Self::Stream(_) => {}
            #[cfg(all(test, feature = "fault-injection"))]
            Self::Memory(stream) => stream.reset_on_close(),
        }
    }

    /// Sets for how long the kernel waits until sent bytes are taken, before it ends the connection; only TCP ends
    /// connections by itself.
    #[cfg_attr(not(target_os = "linux"), expect(unused_variables, reason = "only Linux has the option"))]
    pub(crate) fn set_user_timeout(&self, time: Duration) {
        #[cfg(target_os = "linux")]
        if let Some(socket) = self.tcp() {
            // A closed socket needs no time limit.
            drop(SockRef::from(socket).set_tcp_user_timeout(Some(time)));
        }
    }

    /// The socket of a connection over TCP.
    pub(crate) fn tcp(&self) -> Option<&TcpStream> {
        match self {
            Self::Tcp(socket) => Some(socket),
            #[cfg(feature = "tls")]
            Self::Tls(tls) => Some(tls.socket()),
            _ => None,
        }
    }

    /// The stream itself, without the runtime of a socket, so another thread can continue with the stream.
    pub(crate) fn leave_reactor(self) -> io::Result<PassedStream> {
        match self {
            Self::Tcp(socket) => Ok(PassedStream::Tcp(socket.into_std()?)),
            #[cfg(unix)]
            Self::Unix(socket) => Ok(PassedStream::Unix(socket.into_std()?)),
            #[cfg(feature = "tls")]
            Self::Tls(tls) => Ok(PassedStream::Tls(PassedTls::leave_reactor(*tls)?)),
            Self::Stream(stream) => Ok(PassedStream::Other(stream.into_io())),
            #[cfg(all(test, feature = "fault-injection"))]
            Self::Memory(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// Registers a socket with the runtime of this thread.
    pub(crate) fn enter_reactor(stream: PassedStream, peer: Peer) -> io::Result<Self> {
        match stream {
            PassedStream::Tcp(socket) => Ok(TcpStream::from_std(socket)?.into()),
            #[cfg(unix)]
            PassedStream::Unix(socket) => Ok(UnixStream::from_std(socket)?.into()),
            #[cfg(feature = "tls")]
            PassedStream::Tls(passed) => Ok(passed.enter_reactor()?.into()),
            PassedStream::Other(io) => Ok(Stream::new(io, peer).into()),
        }
    }

    /// Where the client is connected from, while the system knows.
    pub(crate) fn peer(&self) -> Option<Peer> {
        match self {
            Self::Tcp(socket) => socket.peer_addr().ok().map(Peer::Addr),
            #[cfg(unix)]
            Self::Unix(_) => Some(Peer::Local),
            #[cfg(feature = "tls")]
            Self::Tls(tls) => tls.socket().peer_addr().ok().map(Peer::Addr),
            Self::Stream(stream) => Some(stream.peer),
            #[cfg(all(test, feature = "fault-injection"))]
            Self::Memory(stream) => Some(Peer::Addr(stream.peer())),
        }
    }
}

impl From<TcpStream> for Link {
    fn from(socket: TcpStream) -> Self {
        Self::Tcp(socket)
    }
}

#[cfg(unix)]
impl From<UnixStream> for Link {
    fn from(socket: UnixStream) -> Self {
        Self::Unix(Box::new(socket))
    }
}

#[cfg(feature = "tls")]
impl From<Tls> for Link {
    fn from(tls: Tls) -> Self {
        Self::Tls(Box::new(tls))
    }
}

impl From<Stream> for Link {
    fn from(stream: Stream) -> Self {
        Self::Stream(Box::new(stream))
    }
}

#[cfg(all(test, feature = "fault-injection"))]
impl From<Memory> for Link {
    fn from(stream: Memory) -> Self {
        Self::Memory(Box::new(stream))
    }
}

#[cfg(any(target_os = "linux", target_os = "android", target_os = "freebsd"))]
const SEND_FLAGS: SendFlags = SendFlags::NOSIGNAL;
/// On these systems the standard library sets `SO_NOSIGPIPE` on every socket it makes.
#[cfg(not(any(target_os = "linux", target_os = "android", target_os = "freebsd")))]
const SEND_FLAGS: SendFlags = SendFlags::empty();

/// Sends bytes on a socket, past tokio.
#[inline]
pub(super) fn send(socket: impl AsFd, bytes: &[u8]) -> io::Result<usize> {
    uninterrupted(|| rustix::net::send(&socket, bytes, SEND_FLAGS))
}

/// Makes the close of a TCP socket a reset.
pub(super) fn reset_on_close(socket: &TcpStream) {
    // Otherwise the kernel would continue to offer a full send buffer to a client that does not read.
    drop(SockRef::from(socket).set_linger(Some(Duration::ZERO)));
}

fn poll_read(
    stream: &mut (impl AsyncRead + Unpin),
    cx: &mut task::Context<'_>,
    buffer: &mut [u8],
) -> Poll<io::Result<usize>> {
    let mut buffer = ReadBuf::new(buffer);
    Pin::new(stream).poll_read(cx, &mut buffer).map_ok(|()| buffer.filled().len())
}

fn uninterrupted(mut call: impl FnMut() -> rustix::io::Result<usize>) -> io::Result<usize> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            result => return Ok(result?),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_is_no_larger_than_the_socket_of_a_connection_over_tcp() {
        assert_eq!(size_of::<Option<Link>>(), size_of::<TcpStream>());
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn a_delivery_writes_to_a_socket_of_either_kind() {
        let (unix, mut unix_client) = UnixStream::pair().unwrap();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (tcp_client, tcp) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
        let mut tcp_client = tcp_client.unwrap();
        let clients: [&mut (dyn AsyncRead + Unpin); 2] = [&mut unix_client, &mut tcp_client];
        for (link, client) in [Link::from(unix), Link::from(tcp.unwrap().0)].into_iter().zip(clients) {
            // No task has waited for the socket, as one has to for another stream.
            assert_eq!(link.send(b"one ").unwrap(), 4);
            assert_eq!(link.send_vectored(&[IoSlice::new(b"two "), IoSlice::new(b"three")]).unwrap(), 9);
            link.shut_down();
            let mut received = Vec::new();
            tokio::io::AsyncReadExt::read_to_end(client, &mut received).await.unwrap();
            assert_eq!(received, b"one two three");
        }
    }
}
