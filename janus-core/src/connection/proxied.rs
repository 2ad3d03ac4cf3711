//! Connections of load balancers that speak the PROXY protocol, until the header of each has been read.
//!
//! A connection from a network of `proxy_protocol` waits here for its header, before TLS and before anything is decoded,
//! for `frame_timeout` at most. No thread waits: the Acceptor polls the reads. Of the bytes behind the header none is
//! taken from the socket.
//!
//! The connections count among the `max_handshakes` of their listener. With all taken, a connection that has waited for a
//! quarter of `frame_timeout` may be cut to make room: the oldest of the address with most of them. So an address that
//! sends halves of headers crowds out its own connections.

use std::io;
use std::net::Shutdown;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{self, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use socket2::SockRef;
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};

use super::Connections;
use super::crowd::Crowd;
use super::linger::linger;
use crate::accounts::Address;
use crate::supervision::in_words;
use crate::wire::{Peer, ProxyHeader, ProxyHeaderError};

/// The connections of a listener without a header yet.
#[derive(Default)]
pub(super) struct Headers {
    reads: FuturesUnordered<Read>,
    /// The connections under way, cut ones excepted.
    listed: Crowd<Begun>,
    last: u64,
}

/// Ends with the key of the connection in the list, and with the connection unless that is refused.
type Read = Pin<Box<dyn Future<Output = (Address, u64, Option<Named>)>>>;

/// A listed connection.
#[derive(Debug)]
struct Begun {
    at: Instant,
    /// Cuts the connection when dropped.
    _cut: oneshot::Sender<()>,
}

/// A connection whose client is known.
pub(super) struct Named {
    pub(super) socket: TcpStream,
    /// The client's own address; the proxy's address where the header does not tell.
    pub(super) peer: Peer,
    /// Whether the proxy relays for a client that is not on this machine.
    pub(super) is_foreign: bool,
}

/// Why a connection is refused.
#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error(transparent)]
    Header(#[from] ProxyHeaderError),
    #[error("the connection ended before its PROXY header")]
    Eof,
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("PROXY header not completed within frame_timeout ({})", in_words(.0))]
    Late(Duration),
    #[error("cut before its PROXY header to make room for others")]
    Cut,
}

impl Headers {
    /// How many connections take room.
    pub(super) fn len(&self) -> usize {
        self.reads.len()
    }

    /// Begins to read the header of a connection. `words` are sent to a connection without a header.
    pub(super) fn begin(&mut self, shared: &Arc<Connections>, socket: TcpStream, proxy: Peer, words: Bytes) {
        let (sender, cut) = oneshot::channel();
        let address = Address::of(proxy);
        self.last += 1;
        let number = self.last;
        self.listed.add(address, number, Begun { at: Instant::now(), _cut: sender });
        let shared = Arc::clone(shared);
        self.reads.push(Box::pin(async move {
            let named = name(&shared, socket, proxy, words, cut).await;
            (address, number, named)
        }));
    }

    /// The next connection whose header has been read.
    pub(super) fn poll_next(&mut self, cx: &mut task::Context<'_>) -> Poll<Named> {
        while let Poll::Ready(Some((address, number, named))) = self.reads.poll_next_unpin(cx) {
            self.listed.remove(address, number);
            if let Some(named) = named {
                return Poll::Ready(named);
            }
        }
        Poll::Pending
    }

    /// Cuts a connection that has waited for long.
    pub(super) fn make_room(&mut self, frame_timeout: Duration) {
        self.listed.take_first_if(|begun| begun.at.elapsed() >= frame_timeout / 4);
    }
}

/// Reads the header; refuses a connection without one.
async fn name(
    shared: &Connections,
    socket: TcpStream,
    proxy: Peer,
    words: Bytes,
    cut: oneshot::Receiver<()>,
) -> Option<Named> {
    let limit = shared.config().frame_timeout;
    let header = tokio::select! {
        header = timeout(limit, read(&socket)) => header.unwrap_or(Err(Refused::Late(limit))),
        _ = cut => Err(Refused::Cut),
    };
    let refused = match header {
        Ok(header) => {
            let (peer, is_foreign) = match header {
                ProxyHeader::Proxy => (proxy, false),
                ProxyHeader::Unknown => (proxy, true),
                ProxyHeader::Client(address) => (address.into(), !Peer::Addr(address).is_local()),
            };
            log::debug!(peer:%, proxy:%; "{peer}: connected through the proxy {proxy}");
            return Some(Named { socket, peer, is_foreign });
        }
        // Many load balancers look at a port in this way.
        Err(Refused::Eof) => {
            log::debug!(proxy:%; "{proxy}: {}", Refused::Eof);
            return None;
        }
        Err(refused) => refused,
    };
    let count = shared.counters.proxy_headers_refused.fetch_add(1, Ordering::Relaxed) + 1;
    // A few lines for a burst of refusals, not a line for each.
    let level = if count.is_power_of_two() { log::Level::Warn } else { log::Level::Debug };
    log::log!(level, proxy:%, refused = count; "{proxy}: refused: {refused} ({count} refused so far); see proxy_protocol");
    if matches!(refused, Refused::Header(_)) && !words.is_empty() {
        let _ = socket.try_write(&words);
        let _ = SockRef::from(&socket).shutdown(Shutdown::Write);
        linger(socket).await;
    }
    None
}

async fn read(socket: &TcpStream) -> Result<ProxyHeader, Refused> {
    let mut bytes = [0; ProxyHeader::MAX_BYTES];
    let mut length = 0;
    loop {
        let more = socket.peek(&mut bytes[length..]).await?;
        if more == 0 {
            return Err(Refused::Eof);
        }
        let read = ProxyHeader::read(&bytes[..length + more])?;
        let end = read.map_or(length + more, |(_, end)| end);
        take(socket, &mut bytes[length..end]).await?;
        if let Some((header, _)) = read {
            return Ok(header);
        }
        length = end;
    }
}

/// Takes bytes that were seen in the socket.
async fn take(socket: &TcpStream, mut bytes: &mut [u8]) -> Result<(), Refused> {
    while !bytes.is_empty() {
        match socket.try_read(bytes) {
            Ok(0) => return Err(Refused::Eof),
            Ok(length) => bytes = &mut bytes[length..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => socket.readable().await?,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}
