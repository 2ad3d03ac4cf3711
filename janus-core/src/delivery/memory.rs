//! A byte stream in memory that behaves towards a slot like a non-blocking socket.
//!
//! The stream takes as many bytes as there is room for, and sometimes fewer. A full stream refuses bytes until a third
//! of the capacity is free, as Linux does. A FIN follows the bytes sent. A reset may overtake unread bytes. The last
//! bytes of a peer that went away can still be read, and only then comes the error.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{self, Poll, Waker};

use parking_lot::Mutex;

use crate::ground::simulated::Chance;

/// The server's end.
#[derive(Debug)]
pub(crate) struct Memory {
    peer: SocketAddr,
    pipe: Arc<Mutex<Pipe>>,
}

/// The client's end. A drop closes the connection without a goodbye.
#[derive(Debug)]
pub(crate) struct Peer(Arc<Mutex<Pipe>>);

/// The result of a client's read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Read {
    Bytes,
    Nothing,
    Fin,
    Reset,
}

#[derive(Debug)]
struct Pipe {
    to_client: VecDeque<u8>,
    to_server: VecDeque<u8>,
    capacity: usize,
    /// The stream to the client was full and has not had enough room since.
    refused: bool,
    server: Side,
    client: Side,
    /// The server wants its close to be a reset.
    reset_on_close: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
    chance: Chance,
}

/// How far a side has ended its stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Side {
    Open,
    /// Sends no more.
    Finished,
    /// Neither sends nor reads any more: arriving bytes are answered with a reset.
    Closed,
    Reset,
}

/// Both ends of a stream that holds `capacity` bytes in each direction.
pub(crate) fn pair(peer: SocketAddr, capacity: usize, chance: Chance) -> (Memory, Peer) {
    let pipe = Arc::new(Mutex::new(Pipe {
        to_client: VecDeque::new(),
        to_server: VecDeque::new(),
        capacity,
        refused: false,
        server: Side::Open,
        client: Side::Open,
        reset_on_close: false,
        reader: None,
        writer: None,
        chance,
    }));
    (Memory { peer, pipe: Arc::clone(&pipe) }, Peer(pipe))
}

impl Memory {
    pub(crate) fn peer(&self) -> SocketAddr {
        self.peer
    }

    pub(crate) fn send(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut pipe = self.pipe.lock();
        match pipe.client {
            Side::Open | Side::Finished => {}
            // The kernel takes the bytes, and learns from the answer of the peer's end.
            Side::Closed => {
                pipe.client = Side::Reset;
                pipe.wake_server();
                return Ok(slices.iter().map(|slice| slice.len()).sum());
            }
            Side::Reset => return Err(io::ErrorKind::BrokenPipe.into()),
        }
        let mut room = pipe.capacity - pipe.to_client.len();
        if pipe.refused || room == 0 {
            pipe.refused = true;
            return Err(io::ErrorKind::WouldBlock.into());
        }
        if pipe.chance.one_in(8) {
            room = 1 + pipe.chance.below(room);
        }
        let before = pipe.to_client.len();
        for slice in slices {
            let length = slice.len().min(room);
            pipe.to_client.extend(&slice[..length]);
            room -= length;
        }
        Ok(pipe.to_client.len() - before)
    }

    pub(crate) fn poll_writable(&self, cx: &mut task::Context<'_>) -> Poll<()> {
        let mut pipe = self.pipe.lock();
        if pipe.client < Side::Closed && (pipe.refused || pipe.to_client.len() == pipe.capacity) {
            pipe.refused = true;
            pipe.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        Poll::Ready(())
    }

    pub(crate) fn poll_read(&self, cx: &mut task::Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut pipe = self.pipe.lock();
        if !pipe.to_server.is_empty() {
            let length = pipe.to_server.len().min(buffer.len());
            for (to, from) in buffer.iter_mut().zip(pipe.to_server.drain(..length)) {
                *to = from;
            }
            return Poll::Ready(Ok(length));
        }
        match pipe.client {
            Side::Open => {
                pipe.reader = Some(cx.waker().clone());
                Poll::Pending
            }
            Side::Finished | Side::Closed => Poll::Ready(Ok(0)),
            Side::Reset => Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
        }
    }

    pub(crate) fn shut_down(&self) {
        let mut pipe = self.pipe.lock();
        pipe.server = pipe.server.max(Side::Finished);
    }

    pub(crate) fn reset_on_close(&self) {
        self.pipe.lock().reset_on_close = true;
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        let mut pipe = self.pipe.lock();
        // A close with unread bytes is a reset, too.
        if pipe.reset_on_close || !pipe.to_server.is_empty() {
            pipe.server = Side::Reset;
            let arrived = pipe.chance.below(pipe.to_client.len() + 1);
            pipe.to_client.truncate(arrived);
        } else {
            pipe.server = Side::Closed;
        }
    }
}

impl Pipe {
    fn wake_server(&mut self) {
        self.reader.take().into_iter().chain(self.writer.take()).for_each(Waker::wake);
    }
}

impl Peer {
    /// Sends some of `bytes`, and returns the number of bytes taken.
    pub(crate) fn write(&self, bytes: &[u8]) -> usize {
        let mut pipe = self.0.lock();
        if pipe.server >= Side::Closed || pipe.client >= Side::Finished {
            return bytes.len();
        }
        let room = pipe.capacity.saturating_sub(pipe.to_server.len());
        let length = bytes.len().min(room);
        pipe.to_server.extend(&bytes[..length]);
        if length > 0 {
            pipe.reader.take().into_iter().for_each(Waker::wake);
        }
        length
    }

    /// Appends at most `at_most` bytes to `buffer`.
    pub(crate) fn read(&self, buffer: &mut Vec<u8>, at_most: usize) -> Read {
        let mut pipe = self.0.lock();
        let length = pipe.to_client.len().min(at_most);
        buffer.extend(pipe.to_client.drain(..length));
        if pipe.refused && pipe.capacity - pipe.to_client.len() >= pipe.capacity.div_ceil(3) {
            pipe.refused = false;
            pipe.writer.take().into_iter().for_each(Waker::wake);
        }
        match pipe.server {
            _ if length > 0 => Read::Bytes,
            _ if !pipe.to_client.is_empty() => Read::Nothing,
            Side::Open => Read::Nothing,
            Side::Finished | Side::Closed => Read::Fin,
            Side::Reset => Read::Reset,
        }
    }

    /// Sends a FIN and keeps reading.
    pub(crate) fn finish(&self) {
        self.end(Side::Finished);
    }

    /// Closes with a FIN, or with a reset if bytes are unread.
    pub(crate) fn close(&self) {
        let unread = !self.0.lock().to_client.is_empty();
        self.end(if unread { Side::Reset } else { Side::Closed });
    }

    pub(crate) fn reset(&self) {
        self.end(Side::Reset);
    }

    /// Whether the server's side is still open.
    pub(crate) fn is_served(&self) -> bool {
        self.0.lock().server == Side::Open
    }

    fn end(&self, side: Side) {
        let mut pipe = self.0.lock();
        pipe.client = pipe.client.max(side);
        pipe.wake_server();
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.close();
    }
}
