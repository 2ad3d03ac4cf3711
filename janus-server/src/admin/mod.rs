//! The admin port: the HTTP API and what else operators ask a server, on addresses of its own (`admin_listen`).
//!
//! | file | what it is | what it owns |
//! |---|---|---|
//! | `mod.rs` | HTTP server | the listeners, the life of a connection |
//! | `health.rs` | checks | whether the server is alive, and whether it is ready |
//! | `places.rs` | a table | the open connections, and which of them makes room for another |
//! | `tests.rs` | tests over real sockets | |
//!
//! The port is for checks of health and for operators of a server that is in trouble, so nothing that fills the HTTP port
//! fills the admin port: connections, requests and refusals have places of their own. The port is served on the thread
//! of `main`, as the API is, and not by the home arbiter: a check of health is answered while an actor hangs. The thread
//! of `main` also answers the hooks, so a server whose checks of health go unanswered serves no new client either.
//!
//! Connections are kept (HTTP/1.1). TLS is missing on purpose: a certificate that cannot be renewed must not take the
//! checks of health with it.

pub(crate) mod health;
mod places;
#[cfg(test)]
mod tests;

use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use arc_swap::ArcSwap;
use http_body_util::{Either, Full};
use hyper::body::{self, Body, Bytes, Frame, SizeHint};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use janus_core::wire::{ForwardedClient, ForwardedHeader};
use janus_core::{Config, IpNet};
use parking_lot::Mutex;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::{AbortHandle, yield_now};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::api::{Api, Crowded, EXCHANGE_TIMEOUT, Incoming, Lines, head_of, linger};
use crate::reload::Reloader;
use crate::settings::Settings;
pub(crate) use health::Health;
use places::{Place, Places};

/// Open connections of the port. For a further connection the connection that has been idle for longest makes room. A
/// few probes and scrapers, each with a connection, and a page or two of an operator are far fewer.
pub(crate) const MAX_CONNECTIONS: usize = 64;

/// Requests to the API served at once, as `max_api_connections` on the HTTP port. A further request gets status 503.
/// Half of the connections, so that idle connections and room for checks of health remain in any case.
const MAX_REQUESTS: usize = MAX_CONNECTIONS / 2;

/// From the accept, or from the end of an answer, to the end of the next request's head. Longer than the minute between
/// two scrapes of a slow monitoring system; a connection makes room earlier if the port is full.
const IDLE_TIMEOUT: Duration = Duration::from_secs(75);

/// Bytes of a request head, as on the HTTP port.
const HEAD_BYTES: usize = 16 * 1024;

/// Connections in the kernel's queue until the port accepts them.
const BACKLOG: i32 = 128;

/// How long accepting pauses after a failure: the process is out of descriptors, and the failure would repeat at once.
const PAUSE: Duration = Duration::from_millis(100);

/// The admin port of a server.
#[derive(Debug)]
pub(crate) struct Admin {
    api: Api,
    places: Arc<Places>,
    proxies: ArcSwap<Proxies>,
}

/// The proxies in front of the port.
#[derive(Debug)]
struct Proxies {
    trusted: Vec<IpNet>,
    header: ForwardedHeader,
}

impl Proxies {
    fn of(settings: &Settings) -> Self {
        let Config { trusted_proxies, forwarded_header, .. } = &settings.core;
        Self { trusted: trusted_proxies.clone(), header: *forwarded_header }
    }
}

/// A listening socket of the port, on which connections wait until [`Admin::serve`].
#[derive(Debug)]
pub(crate) struct Listening(StdListener);

/// An address of `admin_listen` that cannot be used.
#[derive(Debug)]
pub(crate) struct Unbound {
    pub(crate) addr: SocketAddr,
    pub(crate) source: io::Error,
}

/// Opens the sockets of `admin_listen`. Before the instance starts, so that a port in use ends the start early, and a
/// check of health that comes during the start is answered as soon as the server can.
///
/// # Errors
///
/// The first address that cannot be used.
pub(crate) fn listen(addresses: &[SocketAddr]) -> Result<Vec<Listening>, Unbound> {
    let listen = |&addr| bind(addr).map(Listening).map_err(|source| Unbound { addr, source });
    addresses.iter().map(listen).collect()
}

/// Takes sockets that listen already, in place of the addresses of `admin_listen`.
pub(crate) fn adopt(sockets: Vec<StdListener>) -> Vec<Listening> {
    sockets.into_iter().map(Listening).collect()
}

fn bind(addr: SocketAddr) -> io::Result<StdListener> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    // A restarted server must not wait for the old one's connections to leave TIME_WAIT.
    socket.set_reuse_address(true)?;
    if addr.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.bind(&addr.into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

impl Admin {
    /// `api` is that of the HTTP port.
    pub(crate) fn new(api: &Api, settings: &Settings, health: Arc<Health>) -> Self {
        Self {
            api: api.on_admin_port(settings, MAX_REQUESTS, health),
            places: Arc::new(Places::new(MAX_CONNECTIONS)),
            proxies: ArcSwap::from_pointee(Proxies::of(settings)),
        }
    }

    /// Lets the route for a reload use this reloader.
    pub(crate) fn set_reloader(&self, reloader: &Reloader) {
        self.api.set_reloader(reloader);
    }

    /// Takes over other settings, for requests from then on.
    pub(crate) fn follow(&self, settings: &Settings) {
        self.proxies.store(Arc::new(Proxies::of(settings)));
        self.api.follow(settings);
    }

    /// Serves the connections of these sockets on the current runtime, and returns the addresses.
    ///
    /// # Errors
    ///
    /// The runtime cannot watch a socket.
    pub(crate) fn serve(self: &Arc<Self>, listening: Vec<Listening>) -> io::Result<Vec<SocketAddr>> {
        let watch = |Listening(socket): Listening| {
            // A given socket may have been opened to wait.
            socket.set_nonblocking(true)?;
            TcpListener::from_std(socket)
        };
        let listeners: Vec<TcpListener> = listening.into_iter().map(watch).collect::<io::Result<_>>()?;
        let addresses = listeners.iter().map(TcpListener::local_addr).collect::<io::Result<_>>()?;
        if !listeners.is_empty() {
            self.api.start_sampling();
        }
        for listener in listeners {
            tokio::spawn(Arc::clone(self).accept(listener));
        }
        Ok(addresses)
    }

    /// Waits until every request to the API that is being carried out is answered, for a second at most.
    pub(crate) async fn finish(&self) {
        self.api.finish().await;
    }

    /// How many further requests to the API could be carried out now.
    #[cfg(test)]
    pub(crate) fn free_places(&self) -> usize {
        self.api.free_places()
    }

    /// How many further streams could be served now.
    #[cfg(test)]
    pub(crate) fn free_streams(&self) -> usize {
        self.api.free_streams()
    }

    async fn accept(self: Arc<Self>, listener: TcpListener) {
        loop {
            match listener.accept().await {
                Ok((stream, peer)) => {
                    let _ = stream.set_nodelay(true);
                    let place = Places::take(&self.places);
                    let admin = Arc::clone(&self);
                    let task = tokio::spawn(admin.converse(stream, peer, Arc::clone(&place)));
                    place.may_be_cut_by(task.abort_handle());
                    // A connection of a flood must not be cut before its request has been looked for.
                    yield_now().await;
                }
                Err(error) => {
                    log::warn!("the admin port cannot accept a connection, and tries again in {PAUSE:?}: {error}");
                    sleep(PAUSE).await;
                }
            }
        }
    }

    async fn converse(self: Arc<Self>, mut stream: TcpStream, peer: SocketAddr, place: Arc<Place>) {
        let service = service_fn(async |request: Request<body::Incoming>| {
            self.answer(request.map(Incoming::from), peer, &place).await
        });
        let served = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(IDLE_TIMEOUT)
            .max_buf_size(HEAD_BYTES)
            // Answers are written in place: a copy would outlive the places in the answers.
            .writev(true)
            // A client may shut down its write side and still expect an answer.
            .half_close(true)
            .serve_connection(TokioIo::new(&mut stream), service)
            .await;
        match served {
            Ok(()) => linger(stream).await,
            Err(error) => log::debug!("{peer}: a connection of the admin port failed: {error}"),
        }
    }

    async fn answer(
        &self,
        request: Request<Incoming>,
        peer: SocketAddr,
        place: &Arc<Place>,
    ) -> Result<Response<Held>, Dropped> {
        let is_local = self.is_local(&request, peer);
        let busy = place.busy();
        let (permit, lasts) = (OnceLock::new(), OnceLock::new());
        let answer = timeout(EXCHANGE_TIMEOUT, self.api.answer(request, is_local, &permit, &lasts));
        let answer = answer.await.map_err(|_| Dropped::Late)??;
        let permit = permit.into_inner();
        // Answers to anybody are short, and must not keep a connection from making room.
        let carried_out = permit.as_ref().is_some_and(|permit| self.api.carries_out(permit));
        let is_stream = permit.as_ref().is_some_and(|permit| self.api.streams(permit));
        let cut = match is_stream {
            true => Some(place.cut_if_unread_for(EXCHANGE_TIMEOUT)),
            false if carried_out => Some(place.cut_after(EXCHANGE_TIMEOUT + lasts.into_inner().unwrap_or_default())),
            false => None,
        };
        let exchange = cut.map(|cut| Arc::new(Exchange { _permit: permit, cut, _busy: busy }));
        Ok(answer.map(|body| Held { body, exchange }))
    }

    /// Whether the client is on this machine: without an `api_key`, only such clients are served. A proxy serves other
    /// machines.
    fn is_local(&self, request: &Request<Incoming>, peer: SocketAddr) -> bool {
        let proxies = self.proxies.load();
        let is_proxy = |address| proxies.trusted.iter().any(|network| network.contains(&address));
        ForwardedClient::of(&head_of(request), proxies.header, peer, is_proxy).is_local
    }
}

/// Ends a connection without an answer.
#[derive(Debug, thiserror::Error)]
enum Dropped {
    #[error(transparent)]
    Crowded(#[from] Crowded),
    #[error("no answer within {EXCHANGE_TIMEOUT:?}")]
    Late,
}

/// What a request that is carried out holds until the last byte of its answer is written.
#[derive(Debug)]
struct Exchange {
    /// The place among [`MAX_REQUESTS`], or among streams.
    _permit: Option<OwnedSemaphorePermit>,
    cut: Cut,
    _busy: places::Busy,
}

/// Cuts a connection whose answer is not read in time; the drop gives up.
#[derive(Debug)]
struct Cut {
    timer: AbortHandle,
    /// The time of the last part that the connection took; `None` if the time is that of the whole answer.
    read: Option<Arc<Mutex<Instant>>>,
}

impl Cut {
    /// The connection has taken a part of the answer.
    fn note_read(&self) {
        if let Some(read) = &self.read {
            *read.lock() = Instant::now();
        }
    }
}

impl Drop for Cut {
    fn drop(&mut self) {
        self.timer.abort();
    }
}

impl Place {
    /// Cuts the connection if the whole answer takes longer than this.
    fn cut_after(self: &Arc<Self>, time: Duration) -> Cut {
        let place = Arc::clone(self);
        let timer = tokio::spawn(async move {
            sleep(time).await;
            place.cut();
        });
        Cut { timer: timer.abort_handle(), read: None }
    }

    /// Cuts the connection if it takes no part of the answer for this time. For streams, which have a part every few
    /// seconds.
    fn cut_if_unread_for(self: &Arc<Self>, time: Duration) -> Cut {
        let (place, read) = (Arc::clone(self), Arc::new(Mutex::new(Instant::now())));
        let last = Arc::clone(&read);
        let timer = tokio::spawn(async move {
            loop {
                let until = *last.lock() + time;
                if until <= Instant::now() {
                    return place.cut();
                }
                sleep_until(until).await;
            }
        });
        Cut { timer: timer.abort_handle(), read: Some(read) }
    }
}

/// The body of an answer, whose bytes hold the exchange until they are written.
struct Held {
    body: Either<Full<Bytes>, Lines>,
    exchange: Option<Arc<Exchange>>,
}

/// Bytes with their exchange.
struct HeldBytes {
    bytes: Bytes,
    _exchange: Arc<Exchange>,
}

impl AsRef<[u8]> for HeldBytes {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Body for Held {
    type Data = Bytes;
    type Error = <Either<Full<Bytes>, Lines> as Body>::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        let Some(exchange) = &self.exchange else { return Poll::Ready(frame) };
        if matches!(frame, Some(Ok(_))) {
            exchange.cut.note_read();
        }
        let held = |bytes| Bytes::from_owner(HeldBytes { bytes, _exchange: Arc::clone(exchange) });
        Poll::Ready(frame.map(|frame| frame.map(|frame| frame.map_data(held))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
