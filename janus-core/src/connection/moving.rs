//! Moves a connection to a home arbiter from another thread: from a thread of TLS handshakes, from the program, or from
//! the home of a listener that only one home can accept from.
//!
//! A socket belongs to the reactor of one thread, so the socket leaves one reactor here and enters another.

use std::sync::Arc;

use super::Connections;
use super::acceptor::{Accepted, serve};
use super::listener::Origin;
use crate::delivery::Link;
use crate::delivery::stream::PassedStream;
use crate::ground::homes::HomeId;
use crate::supervision::ArbiterDown;
use crate::wire::Peer;

/// Calls `serve` on a home with the link. If the socket cannot be registered there, a line of the log says so.
///
/// # Errors
///
/// The home does not take the job. `serve` and the link have been dropped, so the connection is closed.
pub(crate) fn move_to(
    shared: &Connections,
    home: HomeId,
    link: Link,
    peer: Peer,
    serve: impl FnOnce(Link) + Send + 'static,
) -> Result<(), Unmoved> {
    let stream = link.leave_reactor().map_err(Unmoved::Stream)?;
    take_home(shared, home, stream, peer, serve).map_err(Unmoved::Home)
}

/// The same for a stream that belongs to no reactor.
pub(crate) fn take_home(
    shared: &Connections,
    home: HomeId,
    stream: PassedStream,
    peer: Peer,
    serve: impl FnOnce(Link) + Send + 'static,
) -> Result<(), ArbiterDown> {
    shared.homes.get(home).place.run(move || match Link::enter_reactor(stream, peer) {
        Ok(link) => serve(link),
        Err(error) => log::error!(peer:%; "{peer}: closed, because the socket cannot be registered: {error}"),
    })
}

/// Why a connection has not been moved. The connection is closed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unmoved {
    #[error("the socket cannot be moved to another thread: {0}")]
    Stream(std::io::Error),
    #[error("the home arbiter is far behind: {0}")]
    Home(ArbiterDown),
}

/// Serves a connection on its home.
pub(crate) fn serve_at_home(shared: &Arc<Connections>, accepted: Accepted, origin: &Arc<Origin>) {
    let Accepted { link, peer, is_foreign, admission, tls, home, foreknown } = accepted;
    let (connections, origin) = (Arc::clone(shared), Arc::clone(origin));
    let moved = move_to(shared, home, link, peer, move |link| {
        serve(&connections, Accepted { link, peer, is_foreign, admission, tls, home, foreknown }, &origin);
    });
    if let Err(error) = moved {
        log::debug!(peer:%; "{peer}: closed, because {error}");
    }
}
