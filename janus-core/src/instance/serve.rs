//! Byte streams of another server become clients: [`Janus::serve`].

use std::io;
use std::sync::Arc;

use super::janus::Janus;
use crate::accounts::admission::Admission;
use crate::connection::acceptor::{Accepted, admit, count_excess, count_refusal, serve_with};
use crate::connection::foreknown::Foreknown;
use crate::connection::listener::{Incoming, Origin};
use crate::connection::moving::{Unmoved, move_to};
use crate::connection::port::prepare;
use crate::connection::table::Reservation;
use crate::connection::transport::refusal;
use crate::delivery::codecs::TooManyCodecs;
use crate::wire::{Codec, Decoder, ErrorCode, Limits, Peer, Refusal};

const HOME_BEHIND: &str = "the server is overloaded; try again later";

/// Why a stream is not served. The stream has been dropped.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// There is no room for another client: `max_connections` are open or on their way, memory is nearly used up, or
    /// the home arbiter is far behind. Try again later.
    #[error("{message}")]
    Full {
        /// The code for a client of a listener in the same case.
        code: ErrorCode,
        /// The text for people.
        message: &'static str,
    },
    /// The address of the client has reached [`Config::max_connections_per_ip`](crate::Config::max_connections_per_ip) or
    /// [`Config::connect_rate_per_ip`](crate::Config::connect_rate_per_ip).
    #[error("{message}")]
    Address {
        /// The text for people.
        message: &'static str,
    },
    /// The instance is shutting down, or has ended.
    #[error("the instance is shutting down")]
    ShuttingDown,
    /// The streams speak too many wire formats.
    #[error("too many codecs")]
    Codecs(#[from] TooManyCodecs),
    /// The socket cannot be taken from its runtime.
    #[error("the socket cannot be moved to another runtime")]
    Stream(#[source] io::Error),
}

impl ServeError {
    /// The refusal for a client of a listener in the same case. An HTTP server answers with
    /// [`HttpError::from`](crate::wire::HttpError) the refusal or, to a browser that reads events, with
    /// [`Sse::farewell`](crate::wire::Sse::farewell).
    #[must_use]
    pub fn refusal(&self) -> Refusal<'_> {
        match self {
            Self::Full { code, message } => refusal(*code, message),
            Self::Address { message } => {
                Refusal { status: Some(429), ..refusal(ErrorCode::TooManyConnections, message) }
            }
            Self::ShuttingDown => refusal(ErrorCode::ServerDraining, "the server is shutting down"),
            Self::Codecs(_) | Self::Stream(_) => {
                refusal(ErrorCode::Internal, "internal error; the log of the server has the cause")
            }
        }
    }
}

/// A client that has been counted and has a place, and no connection yet. Dropping the ticket gives both back.
pub(super) struct Ticket {
    /// The address of the client itself.
    pub(super) peer: Peer,
    /// Whether a proxy has passed the client on from elsewhere.
    pub(super) is_foreign: bool,
    admission: Admission,
    place: Reservation,
}

impl Ticket {
    /// The number of the connection to come.
    pub(super) fn number(&mut self) -> u64 {
        self.place.number()
    }
}

impl Janus {
    /// Serves a byte stream whose client speaks `codec`. Make the codec once and share it between all streams.
    ///
    /// This is how a connection of another server becomes a client: a connection upgraded by a web framework, TLS, a
    /// pipe. `decoder` is the codec's own by default ([`Codec::decoder`]), or a decoder that knows the beginning of the
    /// stream. The connection counts against `max_connections` from this call on. Its client may publish if the stream
    /// comes from this machine and shows no sign of a proxy
    /// ([`HttpRequest::is_forwarded`](crate::wire::HttpRequest::is_forwarded)), or if `allow_publish` says so.
    /// The hooks decide about the client, unless the program says who the client is ([`Incoming::identity`]).
    ///
    /// Give a [`tokio::net::TcpStream`] as [`Incoming::tcp`], and a Unix socket as `Incoming::unix`: then delivery
    /// writes to the socket itself. The stream is moved to Janus's own threads. If the stream needs a runtime to make
    /// progress, the runtime must stay alive.
    ///
    /// # Errors
    ///
    /// See [`ServeError`].
    pub fn serve(
        &self,
        incoming: Incoming,
        codec: &Arc<dyn Codec>,
        decoder: Option<Box<dyn Decoder>>,
    ) -> Result<(), ServeError> {
        let foreknown = Foreknown::of(incoming.identity.clone());
        let ticket = self.admit(incoming.peer)?;
        self.serve_admitted(ticket, incoming, codec, decoder, foreknown)
    }

    /// Counts a client, and reserves a place, before there is a connection to serve.
    pub(super) fn admit(&self, peer: Peer) -> Result<Ticket, ServeError> {
        let shared = self.tables();
        if shared.is_draining() {
            return Err(ServeError::ShuttingDown);
        }
        let admission = shared.accounts.admit(peer, &shared.config()).map_err(|excess| {
            count_excess(shared, peer, excess.limit);
            ServeError::Address { message: excess.limit.message() }
        })?;
        // Before anything is queued: connections on their way to the home arbiter, which may be busy, have a limit,
        // too.
        let place = admit(shared).map_err(|(code, message)| {
            count_refusal(shared, peer, code);
            ServeError::Full { code, message }
        })?;
        Ok(Ticket { peer, is_foreign: false, admission, place })
    }

    /// Serves the stream of a client with a ticket.
    pub(super) fn serve_admitted(
        &self,
        ticket: Ticket,
        incoming: Incoming,
        codec: &Arc<dyn Codec>,
        decoder: Option<Box<dyn Decoder>>,
        foreknown: Option<Box<Foreknown>>,
    ) -> Result<(), ServeError> {
        let shared = self.tables();
        let Ticket { peer, is_foreign, admission, place } = ticket;
        let is_local = incoming.peer.is_local();
        let codec_id = shared.codecs().register(codec)?;
        let origin = Arc::new(Origin { codec: Arc::clone(codec), codec_id, is_local, pass_on: None, tls: None });
        let decoder = decoder.unwrap_or_else(|| codec.decoder());
        prepare(&incoming, &shared.config(), None);
        // A socket belongs to the reactor of its origin.
        let Incoming { link, .. } = incoming;
        let (connections, home) = (Arc::clone(shared), shared.homes.next().id);
        // The place goes along, and comes back with a job that is not run.
        let served = move_to(shared, home, link, peer, move |link| {
            let accepted = Accepted { link, peer, is_foreign, admission: Ok(admission), tls: None, home, foreknown };
            serve_with(&connections, place, accepted, &origin, decoder);
        });
        served.map_err(|error| match error {
            Unmoved::Stream(error) => ServeError::Stream(error),
            Unmoved::Home(_) if shared.is_draining() => ServeError::ShuttingDown,
            // The home arbiter is behind with more jobs than its limit, or about to be found dead.
            Unmoved::Home(_) => ServeError::Full { code: ErrorCode::ServerOverloaded, message: HOME_BEHIND },
        })
    }

    /// The limits of frames and names, as decoders enforce them.
    #[must_use]
    pub fn limits(&self) -> Limits {
        self.inner.shared.wire_limits()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::Instant;

    use super::*;
    use crate::config::Config;

    #[tokio::test]
    async fn a_stream_on_its_way_holds_a_place_until_it_is_lost() {
        let config = Config { listen: Vec::new(), max_connections: 1, ..Config::default() };
        let janus = Janus::builder().config(config).start().await.unwrap();
        let codec: Arc<dyn Codec> = Arc::new(crate::wire::classic::Classic);
        let serve = || janus.serve(Incoming::stream(tokio::io::duplex(64).0), &codec, None);
        let shared = &janus.inner.shared;
        // The home arbiter is busy until it is told to end.
        let (release, released) = std::sync::mpsc::channel::<()>();
        let busy = move || {
            let _ = released.recv();
        };
        let home = shared.homes.first();
        home.run(busy).unwrap();
        // The arbiter looks for its end between some jobs and the next.
        for _ in 0..100 {
            home.run(|| ()).unwrap();
        }
        serve().unwrap();
        assert_eq!((shared.connections.table.len(), shared.connections.table.all()), (0, 1));
        let refused = serve().unwrap_err();
        assert!(matches!(refused, ServeError::Full { code: ErrorCode::TooManyConnections, .. }), "{refused}");

        let threads = janus.inner.threads.lock().await.take().unwrap();
        drop(threads.homes);
        drop(release);
        let deadline = Instant::now() + Duration::from_secs(10);
        while shared.connections.table.all() > 0 && Instant::now() < deadline {
            tokio::task::yield_now().await;
        }
        assert_eq!(shared.connections.table.all(), 0);
        // The arbiter is gone, and nothing takes the stream.
        let _ = serve().unwrap_err();
        assert_eq!(shared.connections.table.all(), 0);
    }
}
