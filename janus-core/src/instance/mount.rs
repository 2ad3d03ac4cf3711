//! Janus behind the HTTP server of another program: requests that the program has read become clients.
//!
//! A WebSocket is answered before its connection exists: the client is counted, identified and given a place, and only
//! then the other server sends the status 101. An event stream is a connection over a [pipe](pipe), whose first bytes are the
//! head of the response that Janus's own port would send.

mod answer;
mod pipe;
mod publishing;
mod routing;

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

pub use self::answer::Answer;
pub use self::pipe::{Body, Input};
pub use self::routing::{BodyError, Routed};
use super::janus::Janus;
use super::serve::{ServeError, Ticket};
use crate::connection::foreknown::{Foreknown, Known};
use crate::connection::listener::Incoming;
use crate::connection::transport::{check, client_of, refusal};
use crate::hooks::{ConnectRequest, Identity, Refused};
use crate::wire::websocket;
use crate::wire::{Decoder, HttpError, HttpRequest, Peer, Refusal, Refusing};

/// The paths of an instance in the HTTP server of another program. Cheap to clone.
///
/// `janus-axum` and `janus-actix-web` mount it in those frameworks; an adapter for another server needs what they use: the
/// head of each request as an [`HttpRequest`], and the address of its peer. The program's own middleware runs before, and
/// may say who the client is. Then the connection is like any other of the instance: the same limits, heartbeats, policies
/// for slow clients, hooks, figures and drain; trusted proxies name the client, and pages of other origins than those of
/// [`Config::allowed_origins`](crate::Config::allowed_origins) are refused. One protection of Janus's own port is left to the
/// program: a program on loopback alone should refuse a `Host` that is no name of its own, against DNS rebinding.
///
/// A mount keeps the instance running, like any other handle.
///
/// ```
/// use janus_core::mount::Mount;
/// use janus_core::wire::{HttpRequest, Peer};
/// use janus_core::{Config, Janus};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let config = Config { listen: Vec::new(), ..Config::default() };
/// let janus = Janus::builder().config(config).start().await?;
/// let mount = Mount::new(&janus);
/// let peer: Peer = "192.0.2.1:4711".parse::<std::net::SocketAddr>()?.into();
///
/// let answer = mount.events(HttpRequest::new("GET", "/events?topic=news", []), peer, None).await;
/// assert_eq!(answer.status, 200);
/// let refused = mount.events(HttpRequest::new("GET", "/events", []), peer, None).await;
/// assert_eq!(refused.status, 400);
/// # drop(answer);
/// # janus.shutdown().await;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Mount {
    janus: Janus,
}

impl Mount {
    /// The paths of this instance.
    #[must_use]
    pub fn new(janus: &Janus) -> Self {
        Self { janus: janus.clone() }
    }

    /// The instance.
    #[must_use]
    pub fn janus(&self) -> &Janus {
        &self.janus
    }

    /// Decides about a request for a WebSocket, before anything is answered. With `identity`, the program says who the
    /// client is, as with [`Incoming::identity`]. Without it, the hooks are asked with the request alone, where a token may
    /// be in a header, a cookie or the query. If the hooks miss a [proof](crate::hooks::Denied::no_credentials), the
    /// WebSocket opens, and the hooks are asked with the client's `hello`, in which browsers send their tokens.
    ///
    /// Must be called in a tokio runtime with a clock. Cancel safe: a future that is dropped gives the place back.
    ///
    /// # Errors
    ///
    /// The answer to a client that is refused: 400, 405 or 426 if the request opens no WebSocket; 403 for a page of another
    /// origin; 401 if the hooks refuse the client, or the identity has ended or was revoked; 429 beyond the limits of the
    /// client's address; 503 from a full server, during a drain, and if the hooks do not answer.
    pub async fn websocket(
        &self,
        request: HttpRequest,
        peer: Peer,
        identity: Option<Identity>,
    ) -> Result<Upgrade, Answer> {
        let port = &self.janus.inner.shared.http_port;
        let upgrade = port.upgrade(&request).map_err(|response| Answer::of(&response))?;
        let refused = |error: HttpError| Answer::of(&port.refusal(&error, &request));
        let (client, is_foreign) = client_of(&self.janus.tables().config(), peer, &request);
        let mut ticket = self.janus.admit(client).map_err(|error| refused(HttpError::from(&error.refusal())))?;
        ticket.is_foreign = is_foreign;
        let known = self.identify((&mut ticket, upgrade.codec.name()), &request, identity).await;
        let known = known.map_err(|error| refused(error_of(&error)))?;
        Ok(Upgrade { mount: self.clone(), upgrade, ticket, peer, known })
    }

    /// The identity of a client before its connection; nothing if the hooks miss a proof, or if there are none.
    async fn identify(
        &self,
        (ticket, transport): (&mut Ticket, &'static str),
        request: &HttpRequest,
        identity: Option<Identity>,
    ) -> Result<Option<Known>, Refused> {
        let shared = self.janus.tables();
        if let Some(identity) = identity {
            check(shared, &identity)?;
            return Ok(Some(Known::Final(Arc::new(identity))));
        }
        let Some(hooks) = shared.hooks() else { return Ok(None) };
        let mut question = ConnectRequest::new(ticket.number(), transport, ticket.peer);
        question.request = Some(Box::new(request.clone()));
        match hooks.authenticate(question).await {
            Ok(identity) => {
                check(shared, &identity)?;
                Ok(Some(Known::OfRequest(identity)))
            }
            Err(refused) if refused.lacks_credentials => Ok(None),
            Err(refused) => Err(refused),
        }
    }

    /// Answers a request for server-sent events, a `GET` or `HEAD` with a `topic` for each topic, or the preflight of a
    /// browser. Waits until the client is identified, as by [`websocket`](Self::websocket), and each topic is joined or
    /// refused. The hooks have no second chance here: a client without a proof is refused.
    ///
    /// The answer is a stream with the status 200, or a refusal: 400 if the request names no topic, too many, or one that
    /// cannot be; 401 if the hooks refuse the client, or the identity has ended or was revoked; 403 for a page of another
    /// origin, and if the client may subscribe to none of its topics; 429 and 503 as by [`websocket`](Self::websocket).
    /// A browser's `EventSource` gives up at any status but 200, so a refusal that is only for now is told to it by a `bye`
    /// in a stream that ends.
    ///
    /// Cancel safe: a future that is dropped closes the connection.
    pub async fn events(&self, request: HttpRequest, peer: Peer, identity: Option<Identity>) -> Answer {
        let port = &self.janus.inner.shared.http_port;
        let (place, decoder) = match port.stream(request, &self.janus.limits()) {
            Ok(stream) => stream,
            Err(response) => return Answer::of(&response),
        };
        let ticket = match self.janus.admit(peer) {
            Ok(ticket) => ticket,
            Err(error) => return Answer::of(&words(&*decoder, &error.refusal())),
        };
        let (inside, body) = pipe::one_way();
        let incoming = Incoming::stream_from(inside, peer);
        let foreknown = Foreknown::of(identity.map(Arc::new));
        let shared = &self.janus.inner.shared;
        // The same for all mounts of the instance, which encodes a message once for each codec.
        let codec = &shared.mounted_streams.get_or_init(|| port.mounted_streams())[place];
        match self.janus.serve_admitted(ticket, incoming, codec, Some(decoder), foreknown) {
            Ok(()) => Answer::read(body).await,
            Err(error) => Answer::of(&HttpError::from(&error.refusal()).response()),
        }
    }
}

impl fmt::Debug for Mount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mount").finish_non_exhaustive()
    }
}

/// The response to a client that is refused before it has a connection.
fn words(decoder: &dyn Decoder, refusal: &Refusal<'_>) -> Bytes {
    match decoder.refuse(refusal) {
        Refusing::With(response) => response,
        Refusing::ByCodec | Refusing::OnceRead => HttpError::from(refusal).response(),
    }
}

fn error_of(refused: &Refused) -> HttpError {
    let usual = refusal(refused.code, &refused.message);
    let reconnect_after = refused.retry_after.or(usual.reconnect_after);
    HttpError::from(&Refusal { reconnect_after, ..usual })
}

/// A client that may have its WebSocket: counted, with a place of
/// [`Config::max_connections`](crate::Config::max_connections), and with an identity if the request shows one. Dropping
/// the upgrade gives the place back.
///
/// The other server answers the request with the status 101 and the [`headers`](Self::headers), and gives the stream with
/// [`serve`](Self::serve), or the bytes with [`serve_bytes`](Self::serve_bytes).
pub struct Upgrade {
    mount: Mount,
    upgrade: websocket::Upgrade,
    ticket: Ticket,
    peer: Peer,
    known: Option<Known>,
}

impl Upgrade {
    /// The headers of the response, beside the status 101.
    #[must_use]
    pub fn headers(&self) -> &[(&'static str, String)] {
        &self.upgrade.headers
    }

    /// Serves the upgraded stream. `received` are bytes of the client that the other server has read behind the request.
    ///
    /// A TCP or Unix socket ([`Incoming::tcp`], [`Incoming::unix`]) takes the direct path, on which a delivery writes to the
    /// socket itself; any other stream takes the queued path. The peer of `incoming` has no meaning: the peer of the request
    /// counts.
    ///
    /// # Errors
    ///
    /// The instance shuts down, or is far behind; the stream has been dropped, which closes the connection.
    pub fn serve(self, incoming: Incoming, received: Bytes) -> Result<(), ServeError> {
        let Self { mount, upgrade, ticket, peer, known } = self;
        let incoming = Incoming { peer, ..incoming };
        let foreknown = Some(Box::new(Foreknown { identity: known, knows_client: true, received }));
        mount.janus.serve_admitted(ticket, incoming, &upgrade.codec, Some(upgrade.decoder), foreknown)
    }

    /// Serves a client whose bytes come and go as the bodies of the request and the response, as in a server that keeps its
    /// sockets to itself.
    ///
    /// # Errors
    ///
    /// As [`serve`](Self::serve), as the answer to the client.
    pub fn serve_bytes(self) -> Result<(Input, Body), Answer> {
        let (inside, input, body) = pipe::both_ways();
        let served = self.serve(Incoming::stream(inside), Bytes::new());
        served.map_err(|error| Answer::of(&HttpError::from(&error.refusal()).response()))?;
        Ok((input, body))
    }
}

impl fmt::Debug for Upgrade {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upgrade").field("peer", &self.peer).finish_non_exhaustive()
    }
}
