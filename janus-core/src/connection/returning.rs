//! The way back of a stream that was passed on: its connection continues with the next request.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

use super::Connections;
use super::acceptor::{Accepted, serve_again};
use super::listener::Origin;
use super::moving::take_home;
use super::transport::Returning;
use crate::accounts::admission::Admission;
use crate::delivery::stream::PassedStream;
use crate::ground::bucket::Bucket;
use crate::hooks::TlsClient;
use crate::wire::Peer;

/// The way back of a stream that was [passed on](crate::PassedOn), for a connection that is kept. Dropping it is fine: the
/// owner of the stream then decides alone about the rest of the stream.
///
/// While this exists, the connection counts against
/// [`Config::max_connections_per_ip`](crate::Config::max_connections_per_ip) of its client. A connection that is given back
/// continues to count for the address that it comes from: the client that a trusted proxy has named counts until then.
pub struct WayBack {
    shared: Arc<Connections>,
    origin: Arc<Origin>,
    way: Way,
}

/// What is known about a connection without any of its requests.
pub(crate) struct Way {
    pub(crate) peer: Peer,
    pub(crate) is_foreign: bool,
    /// The admission during the request, and whether it is that of the peer itself.
    pub(crate) admission: (Admission, bool),
    pub(crate) tls: Option<Box<TlsClient>>,
    pub(crate) kept: Kept,
}

/// What holds from one request of a connection to the next.
#[derive(Clone, Copy, Default)]
pub(crate) struct Kept {
    /// The room for bytes of the client.
    pub(crate) bytes: Bucket,
    /// Whether the client is trusted with as many bytes as it likes.
    pub(crate) is_submitter: bool,
    /// The client of the request, if a trusted proxy has named the client.
    pub(crate) client: Option<Peer>,
}

/// Why a stream was not taken back. The stream has been dropped.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReturnError {
    /// The instance is shutting down, or has ended.
    #[error("the instance is shutting down")]
    ShuttingDown,
    /// The home arbiter is far behind.
    #[error("the server is overloaded")]
    Overloaded,
}

impl WayBack {
    pub(crate) fn new(shared: Arc<Connections>, origin: &Arc<Origin>, way: Way) -> Self {
        Self { shared, origin: Arc::clone(origin), way }
    }

    /// Whether a stream would be taken back now: the instance is not shutting down. An HTTP server announces the close of
    /// the connection otherwise.
    #[must_use]
    pub fn is_open(&self) -> bool {
        !self.shared.is_draining()
    }

    /// Gives the stream back after the answer to its request; `received` is what the client has sent behind that request.
    /// The connection is between two requests then: it may be silent for
    /// [`Config::api_idle_timeout`](crate::Config::api_idle_timeout), and may ask for a WebSocket, for an event stream, or
    /// for something that is passed on again. On a full server it makes room for others. `client_bytes_rate` goes on where
    /// it was; no further connection is counted against `connect_rate_per_ip`, so give back the connections of clients
    /// that have shown their right, and close those of strangers.
    ///
    /// All bytes of the answer must have been written and flushed. Give the stream in the form in which it came: a TCP
    /// stream as a TCP stream.
    ///
    /// # Errors
    ///
    /// See [`ReturnError`].
    pub fn give(self, stream: PassedStream, received: Bytes) -> Result<(), ReturnError> {
        let Self { shared, origin, way } = self;
        if shared.is_draining() {
            return Err(ReturnError::ShuttingDown);
        }
        let Way { peer, is_foreign, admission: (admission, is_of_peer), tls, kept } = way;
        let admission = if is_of_peer { admission } else { Admission::default() };
        let (connections, home) = (Arc::clone(&shared), shared.homes.next().id);
        let returned = take_home(&shared, home, stream, peer, move |link| {
            if connections.is_draining() {
                // No Transport starts any more, as for a stream that comes a moment later.
                return log::debug!("{peer}: closed, because the instance is shutting down");
            }
            let accepted = Accepted { link, peer, is_foreign, admission: Ok(admission), tls, home, foreknown: None };
            let returning = Returning { is_counted: true, received, kept };
            serve_again(&connections, accepted, &origin, returning);
        });
        returned.map_err(|_| match shared.is_draining() {
            true => ReturnError::ShuttingDown,
            false => ReturnError::Overloaded,
        })
    }
}

impl fmt::Debug for WayBack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WayBack").field("peer", &self.way.peer).finish_non_exhaustive()
    }
}
