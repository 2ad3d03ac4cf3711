//! TLS over a socket of the kernel, without a hop: the thread of a delivery encrypts under the slot's lock, into a
//! scratch buffer of that thread, and sends.
//!
//! | file | kind | owns |
//! |---|---|---|
//! | `bare.rs` | pure | a session without a socket, for the fuzz target (a feature) |
//! | `handshake.rs` | pure | a handshake, up to an established session |
//! | `passed.rs` | pure | a connection on its way to another runtime, and as a stream there |
//! | `record.rs` | pure | the record layer of TLS 1.3: keys, KeyUpdate, alerts |
//! | `rest.rs` | pure | bytes refused by the kernel, and the account of a session's memory |
//! | `session.rs` | pure | an established connection, and the bytes kept between two calls |
//!
//! A connection keeps nothing but its keys while idle. The kernel may refuse a part of an encrypted record. That part
//! is kept, and counts as sent, because a record cannot be taken back; further sends find no room until the part has
//! gone. Of the input, an incomplete record is kept.
//!
//! rustls has three ways to keep an established connection. `benches/tls.rs` compares the ways, for frames of 100 bytes
//! to 2,000 connections in turns. `UnbufferedServerConnection` takes 0.87 of the time of `ServerConnection` and 0.48 of
//! the memory. The kernel API, with a record layer outside of rustls, takes 0.68 and 0.44 of those again: 1.7 KB a
//! connection in place of 3.8 KB and 7.9 KB. So TLS 1.3 has a record layer here, and TLS 1.2, which few clients speak,
//! is left to the unbuffered connection.

#[cfg(feature = "internals")]
mod bare;
mod handshake;
mod passed;
mod record;
mod rest;
mod session;
#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::fmt;
use std::io::{self, IoSlice};
use std::net::Shutdown;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{self, Poll, ready};

use socket2::SockRef;
use tokio::io::{AsyncRead, Interest, ReadBuf};
use tokio::net::TcpStream;

use super::{Ledger, link};
#[cfg(feature = "internals")]
pub use bare::BareSession;
#[cfg(test)]
pub(crate) use handshake::HandshakeError;
pub(crate) use handshake::{Established, accept, prefers_chacha20, prepare};
pub use passed::PassedTls;
pub(crate) use session::Session;
use session::{MAX_PLAINTEXT, MAX_RECORD_IN, MAX_RECORD_OUT};

thread_local! {
    /// Input of a client in front of its decryption.
    static INPUT: RefCell<Vec<u8>> = RefCell::new(vec![0; MAX_RECORD_IN]);
    /// Frames on their way into one record.
    static GATHERED: RefCell<Vec<u8>> = RefCell::new(Vec::with_capacity(MAX_PLAINTEXT));
    /// A record on its way to the kernel.
    static RECORD: RefCell<Vec<u8>> = RefCell::new(vec![0; MAX_RECORD_OUT]);
}

/// What a session has read, or done, without the Transport's knowledge.
pub(crate) struct Unseen {
    pub(crate) bytes: usize,
    /// Whether the client owes the rest of a record.
    pub(crate) is_mid_record: bool,
    /// The [price](crate::accounts::fairness::price) of the records.
    pub(crate) work: u16,
}

/// A socket and its TLS session. Lies under the slot's lock, so a single thread at a time uses the cell.
pub(crate) struct Tls {
    socket: TcpStream,
    session: RefCell<Session>,
}

impl Tls {
    pub(crate) fn new(socket: TcpStream, session: Session) -> Self {
        Self { socket, session: RefCell::new(session) }
    }

    pub(crate) fn socket(&self) -> &TcpStream {
        &self.socket
    }

    pub(crate) fn into_parts(self) -> (TcpStream, Session) {
        (self.socket, self.session.into_inner())
    }

    /// Sends bytes in records of at most 16 KiB, until the kernel refuses a part of a record. That record counts as
    /// sent. [`WouldBlock`](io::ErrorKind::WouldBlock) while a part of an earlier record waits.
    pub(crate) fn send(&self, plaintext: &[u8]) -> io::Result<usize> {
        let session = &mut *self.session.borrow_mut();
        self.send_rest(session)?;
        RECORD.with_borrow_mut(|record| {
            let mut sent = 0;
            for plaintext in plaintext.chunks(MAX_PLAINTEXT) {
                match self.send_record(session, plaintext, record) {
                    Ok(()) => sent += plaintext.len(),
                    // The next send meets the error again.
                    Err(_) if sent > 0 => break,
                    Err(error) => return Err(error),
                }
                if !session.rest().is_empty() {
                    break;
                }
            }
            Ok(sent)
        })
    }

    fn send_record(&self, session: &mut Session, plaintext: &[u8], record: &mut [u8]) -> io::Result<()> {
        let length = session.encrypt(plaintext, record)?;
        let record = &record[..length];
        let mut sent = 0;
        // Bytes of rustls itself, if there are any, come first.
        if session.rest().is_empty() {
            sent = match link::send(&self.socket, record) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
                sent => sent?,
            };
        }
        session.keep_rest(&record[sent..]);
        Ok(())
    }

    /// Sends bytes from several buffers in one record; otherwise like [`send`](Self::send).
    pub(crate) fn send_vectored(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        GATHERED.with_borrow_mut(|gathered| {
            gathered.clear();
            for slice in slices {
                let room = MAX_PLAINTEXT - gathered.len();
                gathered.extend_from_slice(&slice[..slice.len().min(room)]);
            }
            self.send(gathered)
        })
    }

    /// The input that the Transport has not seen, and the work of reading since the last call.
    pub(crate) fn take_unseen(&mut self) -> Unseen {
        let session = self.session.get_mut();
        Unseen { bytes: session.kept_input(), is_mid_record: session.is_mid_record(), work: session.take_work() }
    }

    /// Accounts for the memory of the session, and of refused bytes, from now on.
    pub(crate) fn account_to(&self, ledger: &Arc<Ledger>) {
        self.session.borrow_mut().account_to(ledger);
    }

    /// The number of bytes that wait for the kernel.
    pub(crate) fn unsent(&self) -> usize {
        self.session.borrow().rest().len()
    }

    /// Whether a part of a record waits for the kernel.
    pub(crate) fn is_unflushed(&self) -> bool {
        !self.session.borrow().rest().is_empty()
    }

    /// Sends the part of a record that waits.
    pub(crate) fn poll_flush(&self, cx: &mut task::Context<'_>) -> Poll<io::Result<()>> {
        if !self.is_unflushed() {
            return Poll::Ready(Ok(()));
        }
        self.poll_write(cx, || self.send_rest(&mut self.session.borrow_mut()))
    }

    /// Calls `write`, a closure with a send, once there is room.
    fn poll_write<T>(
        &self,
        cx: &mut task::Context<'_>,
        mut write: impl FnMut() -> io::Result<T>,
    ) -> Poll<io::Result<T>> {
        loop {
            ready!(self.socket.poll_write_ready(cx))?;
            // Sends go past tokio, so only a refused send tells tokio that the socket is not ready.
            match self.socket.try_io(Interest::WRITABLE, &mut write) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                written => return Poll::Ready(written),
            }
        }
    }

    /// Reads bytes of the client. 0 bytes are the client's `close_notify`, or its FIN.
    pub(crate) fn poll_read(&mut self, cx: &mut task::Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        // A ticket, an alert or `close_notify` may wait, for which no delivery comes. If sending fails, so will reading.
        let _ = self.poll_flush(cx);
        loop {
            let session = self.session.get_mut();
            match session.read_kept(buffer) {
                // The Transport drops a connection after the end of both sides, and this side's end is not there yet.
                Some(Ok(0)) if session.shuts_down() => return Poll::Pending,
                Some(read) => return Poll::Ready(read),
                None => {}
            }
            let length = ready!(poll_decrypt(&mut self.socket, session, cx, buffer))?;
            // The words of rustls, such as an alert.
            let _ = self.poll_flush(cx);
            if length > 0 {
                return Poll::Ready(Ok(length));
            }
        }
    }

    /// Ends the stream to the client: `close_notify` and a FIN, after all sent bytes.
    pub(crate) fn shut_down(&self) {
        let session = &mut *self.session.borrow_mut();
        session.shut_down();
        // A refused rest has the FIN wait for the next flush or read.
        let _ = self.send_rest(session);
    }

    /// Makes the close a reset.
    pub(crate) fn reset_on_close(&self) {
        self.session.borrow_mut().abandon_rest();
        link::reset_on_close(&self.socket);
    }

    fn send_rest(&self, session: &mut Session) -> io::Result<()> {
        while !session.rest().is_empty() {
            match link::send(&self.socket, session.rest()) {
                Ok(sent) => session.rest_sent(sent),
                Err(error) => {
                    if error.kind() != io::ErrorKind::WouldBlock {
                        session.abandon_rest();
                    }
                    return Err(error);
                }
            }
        }
        if session.take_shutdown() {
            // Fails only if the peer has reset the connection, and then no peer is there to be told.
            drop(SockRef::from(&self.socket).shutdown(Shutdown::Write));
        }
        Ok(())
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("socket", &self.socket).finish_non_exhaustive()
    }
}

/// Reads from the socket once and decrypts; 0 bytes after an incomplete record, a KeyUpdate, or the end.
fn poll_decrypt(
    socket: &mut TcpStream,
    session: &mut Session,
    cx: &mut task::Context<'_>,
    buffer: &mut [u8],
) -> Poll<io::Result<usize>> {
    INPUT.with_borrow_mut(|scratch| {
        let kept = session.input().len();
        if kept >= scratch.len() {
            session.refuse_input();
            return Poll::Ready(Ok(0));
        }
        let mut read = ReadBuf::new(&mut scratch[kept..]);
        ready!(Pin::new(&mut *socket).poll_read(cx, &mut read))?;
        let length = kept + read.filled().len();
        if length == kept {
            // Without `close_notify` the end may be the work of a third party. The frames of all protocols here tell
            // their lengths, so a message cut short is noticed anyway.
            let peer = Peer(socket);
            log::debug!(peer:%; "{peer}: input ended without close_notify");
            session.end_input();
            return Poll::Ready(Ok(0));
        }
        Poll::Ready(Ok(take_in(session, &mut scratch[..length], kept, buffer)))
    })
}

/// Takes in the bytes in `scratch` behind the first `kept`, which are for the kept input; returns the length of the
/// plaintext.
fn take_in(session: &mut Session, scratch: &mut [u8], kept: usize, buffer: &mut [u8]) -> usize {
    scratch[..kept].copy_from_slice(session.input());
    session.decrypt(scratch, buffer)
}

/// The address of the client, asked for when a line of the log is written.
struct Peer<'a>(&'a TcpStream);

impl fmt::Display for Peer<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.peer_addr() {
            Ok(addr) => addr.fmt(f),
            Err(_) => f.write_str("a client"),
        }
    }
}
