//! Accepts connections on one listener: the original's `acceptor`.
//!
//! The listener itself belongs to the tree, so a crash of the Acceptor loses neither the port nor the connections in
//! the backlog. The Acceptor only accepts, in bursts, and starts a Transport for each connection.
//!
//! An Acceptor accepts no faster than `accept_rate`, and at most `max_handshakes` connections ahead of the greetings;
//! further connections wait in the backlog. When descriptors run out, the Acceptor pauses and then continues by itself.
//!
//! In a protocol whose client speaks first, a connection is a [guest](crate::connection::guests) until its purpose is
//! known. In a protocol whose server speaks first, a connection is a guest only if all places of `max_connections` are
//! taken. So a full server continues to accept: a new connection may be a request to the API, a publisher, or a
//! subscriber too many.
//!
//! A connection of a load balancer that speaks the PROXY protocol first waits for its
//! [header](crate::connection::proxied). Then the limits of the client's address decide, before anything else is spent on
//! the connection.
//!
//! A connection of a TLS listener first goes to the [handshake threads](crate::connection::tls), and is served after the
//! handshake.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{self, Poll};
use std::time::Duration;

use actix::fut::ActorFuture;
use actix::prelude::*;
use parking_lot::Mutex;
use tokio::time::{Instant, Sleep};

use crate::accounts::Address;
use crate::accounts::admission::{AddressLimit, Admission, Excess};
use crate::accounts::reached::Limit;
use crate::connection::Connections;
use crate::connection::foreknown::Foreknown;
use crate::connection::listener::{Incoming, Listener, Origin};
use crate::connection::moving::serve_at_home;
use crate::connection::port::{TcpPort, prepare};
use crate::connection::proxied::{Headers, Named};
use crate::connection::table::{Reservation, Room};
#[cfg(feature = "tls")]
use crate::connection::tls::handshakes;
use crate::connection::tls::{Tls, TlsPort};
use crate::connection::transport::{Returning, Transport, refusal};
use crate::delivery::{End, Link, Slot};
use crate::ground::bucket::{Bucket, Rate};
use crate::ground::homes::HomeId;
use crate::ground::log_lines::counted;
use crate::ground::tasks::yield_now;
use crate::ground::trace::{self, Said, TraceKind};
use crate::hooks::{Identity, TlsClient};
use crate::session::Session;
use crate::supervision::ActorRef;
use crate::wire::{Bytes, Decoder, ErrorCode, Opens, Peer, ServerEvent};

/// Connections taken from the kernel before other tasks get their turn. Taking a connection costs a fraction of serving
/// it, and a backlog that overflows costs a client a second: the kernel drops its SYN. A topic waits for a turn after
/// each piece of a fan-out, so this number and the next are worth some 100 µs each.
const BURST: usize = 32;

/// Connections served, with a Transport and a greeting, before other tasks get their turn.
const SERVED_PER_TURN: usize = 8;

/// How long to wait for descriptors to become free.
const PAUSE: Duration = Duration::from_millis(100);

/// TLS handshakes at once on a full server. The binary keeps descriptors for them.
#[cfg(feature = "tls")]
const HANDSHAKES_WHEN_FULL: usize = 64;

/// How long to wait for the end of a TLS handshake while all places for handshakes are taken.
const HANDSHAKE_PAUSE: Duration = Duration::from_millis(10);

const MISSING_HEADER: &str = "a connection from this address must begin with a PROXY header: turn the header on in the \
                              proxy, or take the address off proxy_protocol";
pub(crate) const SERVER_FULL: &str = "the server is full; try again later";
const SERVER_OVERLOADED: &str = "the server is short of memory; try again later";

/// A listener and the Acceptor that works on it.
#[derive(Debug)]
pub(crate) struct Endpoint {
    /// The address with the real port; `None` for a listener without an address.
    pub(crate) addr: Option<SocketAddr>,
    pub(crate) acceptor: ActorRef<Acceptor>,
    pub(crate) origin: Arc<Origin>,
    /// The home arbiter of the Acceptor.
    pub(crate) home: HomeId,
    /// Whether connections go to the homes in turn, because other homes cannot accept from this listener.
    spreads: bool,
    /// What the sockets of a port share.
    port: Arc<Port>,
    listener: Mutex<Place>,
    /// Whether no further connection is taken from the kernel.
    stopped: AtomicBool,
    /// Connections taken from the kernel and not served yet, as of the Acceptor's last turn.
    unserved: AtomicUsize,
}

/// Where the listener is. The listener is lent, not cloned: an Acceptor must be able to restart even when no descriptor
/// is left.
enum Place {
    Here(Box<dyn Listener>),
    Lent,
    /// The instance ends: connections in the backlog must not wait for an Acceptor that never comes.
    Closed,
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Here(_) => "Here",
            Self::Lent => "Lent",
            Self::Closed => "Closed",
        })
    }
}

/// The limits of a listener, for all homes that accept from it.
#[derive(Debug)]
struct Port {
    /// The number of sockets.
    sockets: usize,
    /// The room for further connections under `accept_rate`.
    pace: Mutex<Bucket>,
}

impl Port {
    fn new(sockets: usize) -> Arc<Self> {
        Arc::new(Self { sockets, pace: Mutex::default() })
    }
}

impl Endpoint {
    /// For the only Acceptor of a listener. `number` tells listeners without an address apart.
    pub(crate) fn new(listener: Box<dyn Listener>, origin: Arc<Origin>, number: usize) -> Self {
        let name = match listener.local_addr() {
            Some(addr) => format!("acceptor {addr}"),
            None => format!("acceptor {} #{number}", origin.codec.name()),
        };
        Self::with_name(name, listener, origin, (HomeId::FIRST, true), Port::new(1))
    }

    /// Adds an endpoint for each socket of a port: either a socket for each home, or a single socket for all homes.
    pub(crate) fn add_port(endpoints: &mut Vec<Arc<Self>>, mut sockets: Vec<TcpPort>, origin: &Arc<Origin>) {
        if sockets.len() == 1
            && let Some(socket) = sockets.pop()
        {
            endpoints.push(Arc::new(Self::new(Box::new(socket), Arc::clone(origin), endpoints.len())));
            return;
        }
        let port = Port::new(sockets.len());
        for (socket, home) in sockets.into_iter().zip(HomeId::all()) {
            let addr = socket.local_addr().map(|addr| addr.to_string()).unwrap_or_default();
            let name = format!("acceptor {addr} home {home}");
            endpoints.push(Arc::new(Self::with_name(
                name,
                Box::new(socket),
                Arc::clone(origin),
                (home, false),
                Arc::clone(&port),
            )));
        }
    }

    fn with_name(
        name: String,
        listener: Box<dyn Listener>,
        origin: Arc<Origin>,
        (home, spreads): (HomeId, bool),
        port: Arc<Port>,
    ) -> Self {
        let addr = listener.local_addr();
        Self {
            addr,
            acceptor: ActorRef::new(name),
            origin,
            home,
            spreads,
            port,
            listener: Mutex::new(Place::Here(listener)),
            stopped: AtomicBool::new(false),
            unserved: AtomicUsize::new(0),
        }
    }

    /// Leaves further connections in the backlog of the listener. The Acceptor still serves the connections it has.
    pub(crate) fn stop_accepting(&self) {
        self.stopped.store(true, Ordering::Release);
    }

    /// How many connections the Acceptor has not served yet.
    pub(crate) fn unserved(&self) -> usize {
        self.unserved.load(Ordering::Acquire)
    }

    /// The listener for one incarnation of the Acceptor, on the arbiter where it will be polled.
    fn lend(self: &Arc<Self>) -> io::Result<Lent> {
        let mut place = self.listener.lock();
        let mut lent = match std::mem::replace(&mut *place, Place::Lent) {
            Place::Here(listener) => Lent { endpoint: Arc::clone(self), listener: Some(listener) },
            other => {
                *place = other;
                return Err(io::Error::new(
                    io::ErrorKind::NotConnected,
                    "the listener is closed, or another Acceptor has it",
                ));
            }
        };
        // Without the lock, and lent already: a listener may be foreign code, and comes back even if it panics.
        drop(place);
        lent.listener.as_mut().map_or(Ok(()), |listener| listener.start())?;
        Ok(lent)
    }

    pub(crate) fn close(&self) {
        let listener = std::mem::replace(&mut *self.listener.lock(), Place::Closed);
        // Without the lock: a listener may be foreign code.
        drop(listener);
    }
}

/// A listener on loan; returns to the tree however its Acceptor ends.
struct Lent {
    endpoint: Arc<Endpoint>,
    /// `None` only during the drop.
    listener: Option<Box<dyn Listener>>,
}

impl Drop for Lent {
    fn drop(&mut self) {
        // The connections of a crashed Acceptor are closed.
        self.endpoint.unserved.store(0, Ordering::Release);
        let mut place = self.endpoint.listener.lock();
        if matches!(*place, Place::Lent)
            && let Some(listener) = self.listener.take()
        {
            *place = Place::Here(listener);
        }
    }
}

pub(crate) struct Acceptor {
    shared: Arc<Connections>,
    origin: Arc<Origin>,
    home: HomeId,
    spreads: bool,
    /// The number of sockets of the port.
    sockets: usize,
    /// Until [`Accept`] takes the listener.
    listener: Option<Lent>,
}

impl Acceptor {
    pub(crate) fn new(shared: Arc<Connections>, endpoint: &Arc<Endpoint>) -> io::Result<Self> {
        let Endpoint { origin, home, spreads, port, .. } = &**endpoint;
        let (origin, home, spreads, sockets) = (Arc::clone(origin), *home, *spreads, port.sockets);
        Ok(Self { shared, origin, home, spreads, sockets, listener: Some(endpoint.lend()?) })
    }

    fn accepted(&self, incoming: Incoming, headers: &mut Headers) {
        let shared = &self.shared;
        prepare(&incoming, &shared.config(), Some(shared.bound));
        let Incoming { link, peer, identity, .. } = incoming;
        match link {
            Link::Tcp(socket) if identity.is_none() && shared.config().expects_proxy_header(peer) => {
                headers.begin(shared, socket, peer, self.words_about_headers());
            }
            link => self.welcome(link, peer, false, identity),
        }
    }

    /// Goes on with a connection whose client is known, within the limits of the client's address.
    fn welcome(&self, link: Link, peer: Peer, is_foreign: bool, identity: Option<Arc<Identity>>) {
        let shared = &self.shared;
        let admission = shared.accounts.admit(peer, &shared.config());
        if let Err(Excess { limit, is_told }) = admission {
            count_excess(shared, peer, limit);
            if !is_told {
                return link.reset_on_close();
            }
        }
        let home = if self.spreads { shared.homes.next().id } else { self.home };
        match (self.tls(), link) {
            #[cfg(feature = "tls")]
            (Some((tls, port)), Link::Tcp(socket)) => match admission {
                Ok(admission) => {
                    let client = handshakes::Client { peer, is_foreign, admission, home };
                    tls.handshakes.begin(shared, socket, client, &self.origin, port);
                }
                Err(_) => handshakes::turn_away(&socket),
            },
            (_, link) => {
                let foreknown = Foreknown::of(identity);
                let accepted = Accepted { link, peer, is_foreign, admission, tls: None, home, foreknown };
                match home == self.home {
                    true => serve(shared, accepted, &self.origin),
                    false => serve_at_home(shared, accepted, &self.origin),
                }
            }
        }
    }

    /// The answer to a connection that must begin with a PROXY header and does not. Before TLS there are no words.
    fn words_about_headers(&self) -> Bytes {
        if self.tls().is_some() {
            return Bytes::new();
        }
        let refusal = refusal(ErrorCode::BadFrame, MISSING_HEADER);
        self.shared.codecs().encode(self.origin.codec_id, &ServerEvent::Refused(refusal)).unwrap_or_default()
    }

    /// What a TLS listener needs for its handshakes.
    fn tls(&self) -> Option<(&Tls, TlsPort)> {
        Some((self.shared.tls.as_deref()?, self.origin.tls?))
    }

    /// The part of a limit of the listener that belongs to this Acceptor.
    fn share(&self, limit: usize) -> usize {
        limit.div_ceil(self.sockets)
    }

    /// How many more connections this Acceptor may take from the kernel, while `waiting` of them are not served yet.
    ///
    /// Waiting connections, connections without their header and handshakes hold descriptors, and a full server has
    /// descriptors for no more connections than it can make room for in a turn. So the Acceptors of a port divide the
    /// room.
    fn room(&self, waiting: usize) -> usize {
        let config = self.shared.config();
        let room = room(&self.shared);
        #[cfg(feature = "tls")]
        if let Some((tls, _)) = self.tls() {
            let most = config.max_handshakes.min(room.max(HANDSHAKES_WHEN_FULL));
            let own = self.share(most).saturating_sub(waiting);
            // Nothing is cut for a connection that this Acceptor cannot take.
            return match own {
                0 => 0,
                own => tls.handshakes.room(most.saturating_sub(waiting), config.frame_timeout).min(own),
            };
        }
        self.share(config.max_handshakes).min(self.share(room).max(SERVED_PER_TURN)).saturating_sub(waiting)
    }
}

/// Per cent of the memory budget from which new connections are refused.
pub(crate) const REFUSE: usize = 95;

/// A place for another client, or why the client is refused.
pub(crate) fn admit(shared: &Arc<Connections>) -> Result<Reservation, (ErrorCode, &'static str)> {
    let Some(place) = Reservation::new(shared) else {
        return Err((ErrorCode::TooManyConnections, SERVER_FULL));
    };
    if shared.memory_is_at(REFUSE) {
        return Err((ErrorCode::ServerOverloaded, SERVER_OVERLOADED));
    }
    Ok(place)
}

/// Counts a client that is refused, and logs the refusal.
pub(crate) fn count_refusal(shared: &Connections, peer: Peer, code: ErrorCode) {
    let count = match code {
        ErrorCode::ServerOverloaded => &shared.counters.connections_refused_for_memory,
        _ => &shared.counters.connections_refused_full,
    };
    let refused = count.fetch_add(1, Ordering::Relaxed) + 1;
    // A few lines for a burst of refusals, not a line for each.
    if refused.is_power_of_two() {
        log::warn!(peer:%, code:%, refused; "{peer}: refused with {code} ({refused} refused for this reason so far)");
    }
    if code == ErrorCode::TooManyConnections {
        shared.accounts.note_refused(Limit::Connections, shared);
    }
}

/// Counts a client refused for a limit of its address, and logs the refusal.
pub(crate) fn count_excess(shared: &Connections, peer: Peer, limit: AddressLimit) {
    shared.counters.connections_refused_for_address.fetch_add(1, Ordering::Relaxed);
    shared.accounts.note_excess(limit, Address::of(peer), shared);
}

/// A connection on its way to be served.
pub(crate) struct Accepted {
    pub(crate) link: Link,
    /// The client's address, as far as known.
    pub(crate) peer: Peer,
    /// Whether a proxy has passed the client on from elsewhere.
    pub(crate) is_foreign: bool,
    /// Whether the limits of the client's address admit the connection.
    pub(crate) admission: Result<Admission, Excess>,
    /// For hooks.
    pub(crate) tls: Option<Box<TlsClient>>,
    /// The home arbiter of the connection.
    pub(crate) home: HomeId,
    /// What the program says of the client, if anything.
    pub(crate) foreknown: Option<Box<Foreknown>>,
}

#[cfg(all(test, feature = "fault-injection"))]
impl Accepted {
    /// A connection without limits.
    pub(crate) fn new(link: impl Into<Link>, peer: Peer) -> Self {
        Self {
            link: link.into(),
            peer,
            is_foreign: false,
            admission: Ok(Admission::default()),
            tls: None,
            home: HomeId::FIRST,
            foreknown: None,
        }
    }
}

/// Serves a byte stream on this thread, the stream's home: as a client where the server speaks first and there is a
/// place, otherwise as a guest.
///
/// A client beyond the limits of its address is a guest until it has been told.
pub(crate) fn serve(shared: &Arc<Connections>, accepted: Accepted, origin: &Arc<Origin>) {
    let decoder = origin.codec.decoder();
    if shared.codecs().opens(origin.codec_id) == Opens::AtOnce
        && accepted.admission.is_ok()
        && let Ok(place) = admit(shared)
    {
        crowd_out(shared.table.crowd_out_for_reserved(&shared.config()));
        return serve_with(shared, place, accepted, origin, decoder);
    }
    if accepted.admission.is_err() && room(shared) == 0 {
        // Words for a client beyond its limits are not worth another connection.
        return accepted.link.reset_on_close();
    }
    serve_guest(shared, accepted, origin, decoder, None);
}

/// Continues with a connection that was passed on and comes back, as a guest.
pub(crate) fn serve_again(shared: &Arc<Connections>, accepted: Accepted, origin: &Arc<Origin>, returning: Returning) {
    let decoder = origin.codec.decoder_of_returned();
    serve_guest(shared, accepted, origin, decoder, Some(returning));
}

fn serve_guest(
    shared: &Arc<Connections>,
    accepted: Accepted,
    origin: &Arc<Origin>,
    decoder: Box<dyn Decoder>,
    returning: Option<Returning>,
) {
    let Accepted { link, peer, is_foreign, admission, tls, home, foreknown } = accepted;
    let account = shared.accounts.of(peer);
    let make = |id, place| Slot::new(id, Some(place), link, origin.codec_id, account, &shared.terms);
    let config = shared.config();
    let room = Room { config: &config, is_short: shared.memory_is_at(REFUSE) };
    let (slot, goes) = shared.table.enter_guest(&shared.slot_ids, &room, make);
    crowd_out(goes);
    let client = Client { peer, is_foreign, admission, tls, home, has_place: false, returning, foreknown };
    start(shared, slot, client, origin, decoder);
}

/// Ends the guest that makes room.
fn crowd_out(guest: Option<Arc<Slot>>) {
    if let Some(guest) = guest {
        guest.end(End::Crowded);
    }
}

/// How many more connections there is room for before a guest must go.
fn room(shared: &Connections) -> usize {
    shared.table.room(&Room { config: &shared.config(), is_short: shared.memory_is_at(REFUSE) })
}

/// Serves a byte stream as a client with a place. The decoder may hold input of the client already.
pub(crate) fn serve_with(
    shared: &Arc<Connections>,
    place: Reservation,
    accepted: Accepted,
    origin: &Arc<Origin>,
    decoder: Box<dyn Decoder>,
) {
    let Accepted { link, peer, is_foreign, admission, tls, home, foreknown } = accepted;
    let account = shared.accounts.of(peer);
    let slot = place.enter(|id, place| Slot::new(id, Some(place), link, origin.codec_id, account, &shared.terms));
    let client = Client { peer, is_foreign, admission, tls, home, has_place: true, returning: None, foreknown };
    start(shared, slot, client, origin, decoder);
}

/// The client of a connection in the table.
struct Client {
    peer: Peer,
    is_foreign: bool,
    admission: Result<Admission, Excess>,
    tls: Option<Box<TlsClient>>,
    home: HomeId,
    has_place: bool,
    /// For a connection that was passed on before.
    returning: Option<Returning>,
    foreknown: Option<Box<Foreknown>>,
}

/// Gives a connection its session and its Transport, on this thread; greets the client where the server speaks first.
fn start(shared: &Arc<Connections>, slot: Arc<Slot>, client: Client, origin: &Arc<Origin>, decoder: Box<dyn Decoder>) {
    let Client { peer, is_foreign, admission, tls, home, has_place, returning, foreknown } = client;
    let codec = origin.codec.name();
    let how = if returning.is_some() { "came back" } else { "connected" };
    log::debug!(conn = slot.id, peer:%, transport = codec; "client {} ({peer}): {how}, {codec}", slot.id);
    shared.tracer.tell(TraceKind::Connect, || {
        let is_from = |endpoint: &&Arc<Endpoint>| {
            Arc::ptr_eq(&endpoint.origin, origin) && (endpoint.spreads || endpoint.home == home)
        };
        let endpoint = shared.endpoints.iter().find(is_from);
        let from = endpoint.map_or_else(|| "program".to_owned(), |endpoint| endpoint.acceptor.name().to_string());
        Said { from, to: trace::client(slot.id), about: format!("from {peer}, {}", origin.codec.name()) }
    });
    let session = Arc::new(Session::new(peer, &slot));
    let started = shared.transport_supervisor.start_dormant_here(|| {
        let shared_too = Arc::clone(shared);
        let mut transport = Transport::new(shared_too, Arc::clone(&slot), session, origin, decoder, has_place, home);
        transport.set_client(is_foreign, admission, tls);
        if let Some(foreknown) = foreknown {
            transport.foreknow(*foreknown);
        }
        if let Some(returning) = returning {
            transport.return_with(returning);
        }
        if shared.codecs().opens(origin.codec_id) == Opens::AtOnce {
            transport.begin_at_once();
        }
        // Where the client opens the connection, a silent client has a frame's time to do so.
        transport.note_awaited(false);
        transport
    });
    if let Err(error) = started {
        shared.table.remove(&slot);
        log::error!(peer:%; "{peer}: closed, the Transport failed to start: {error}");
    }
}

impl Actor for Acceptor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Context<Self>) {
        if let Some(listener) = self.listener.take() {
            let (waiting, headers) = (VecDeque::new(), Headers::default());
            ctx.spawn(Accept { listener, waiting, headers, pause: None });
        }
    }
}

/// Accepts for as long as the actor lives.
struct Accept {
    listener: Lent,
    /// Together with `headers` at most this home's part of `max_handshakes` connections. If the Acceptor crashes, they are closed, as by a
    /// crash of a Transport.
    waiting: VecDeque<Waiting>,
    /// The connections that must begin with a PROXY header.
    headers: Headers,
    /// Until there are descriptors, or the pace admits another connection.
    pause: Option<Pin<Box<Sleep>>>,
}

/// A connection that waits to be served.
enum Waiting {
    New(Incoming),
    /// With its PROXY header read.
    Named(Named),
}

impl ActorFuture<Acceptor> for Accept {
    type Output = ();

    fn poll(
        mut self: Pin<&mut Self>,
        acceptor: &mut Acceptor,
        _: &mut Context<Acceptor>,
        cx: &mut task::Context<'_>,
    ) -> Poll<()> {
        while let Poll::Ready(named) = self.headers.poll_next(cx) {
            self.waiting.push_back(Waiting::Named(named));
        }
        let more = self.take(acceptor, cx);
        let mut begun = false;
        for _ in 0..SERVED_PER_TURN {
            match self.waiting.pop_front() {
                None => break,
                Some(Waiting::New(incoming)) => {
                    let headers = self.headers.len();
                    acceptor.accepted(incoming, &mut self.headers);
                    begun |= self.headers.len() > headers;
                }
                Some(Waiting::Named(Named { socket, peer, is_foreign })) => {
                    acceptor.welcome(socket.into(), peer, is_foreign, None);
                }
            }
        }
        let unserved = self.waiting.len() + self.headers.len();
        self.listener.endpoint.unserved.store(unserved, Ordering::Release);
        if self.waiting.is_empty() {
            // The memory of a burst is not kept until the next burst.
            self.waiting.shrink_to(SERVED_PER_TURN);
        }
        // New reads of headers have not been polled yet.
        if more || begun || !self.waiting.is_empty() {
            return yield_now(cx);
        }
        Poll::Pending
    }
}

impl Accept {
    /// Takes connections from the kernel; true if more connections may wait there.
    fn take(&mut self, acceptor: &Acceptor, cx: &mut task::Context<'_>) -> bool {
        if self.listener.endpoint.stopped.load(Ordering::Acquire) {
            return false;
        }
        if let Some(pause) = &mut self.pause {
            if pause.as_mut().poll(cx).is_pending() {
                return false;
            }
            self.pause = None;
        }
        let now = Instant::now();
        let rate = accept_rate(acceptor.shared.config().accept_rate);
        let room = acceptor.room(self.waiting.len() + self.headers.len());
        if room == 0 && self.waiting.is_empty() {
            // Only handshakes on other threads and connections without their header hold places. The ends of the former
            // wake nobody here.
            self.headers.make_room(acceptor.shared.config().frame_timeout);
            self.pause = Some(paused(tokio::time::sleep(HANDSHAKE_PAUSE), cx));
            return false;
        }
        for _ in 0..BURST.min(room) {
            // Counted before the look at the socket: two homes must not find the same room.
            if let Err(time) = self.listener.endpoint.port.pace.lock().take(rate, now) {
                self.pause = Some(paused(tokio::time::sleep_until(time), cx));
                return false;
            }
            let listener = self.listener.listener.as_mut().expect("the listener is on loan until the drop");
            let accepted = listener.poll_accept(cx);
            if !matches!(accepted, Poll::Ready(Ok(_))) {
                self.listener.endpoint.port.pace.lock().give_back(rate);
            }
            match accepted {
                Poll::Pending => return false,
                Poll::Ready(Ok(connection)) => self.waiting.push_back(Waiting::New(connection)),
                // The peer went away while it waited in the backlog.
                Poll::Ready(Err(error)) if is_about_one_connection(&error) => {}
                Poll::Ready(Err(error)) => {
                    let pauses = acceptor.shared.counters.accept_pauses.fetch_add(1, Ordering::Relaxed) + 1;
                    if pauses.is_power_of_two() {
                        log::error!(
                            pauses;
                            "cannot accept for now: {error}; trying again every {PAUSE:?} ({} so far)",
                            counted(pauses, "pause")
                        );
                    }
                    self.pause = Some(paused(tokio::time::sleep(PAUSE), cx));
                    return false;
                }
            }
        }
        true
    }
}

fn paused(sleep: Sleep, cx: &mut task::Context<'_>) -> Pin<Box<Sleep>> {
    let mut sleep = Box::pin(sleep);
    if sleep.as_mut().poll(cx).is_ready() {
        // The time was over before the pause began.
        cx.waker().wake_by_ref();
    }
    sleep
}

/// A tenth of a second's connections may come at once.
fn accept_rate(per_second: usize) -> Rate {
    Rate::new(per_second, per_second / 10)
}

/// Errors about the next connection, not about the listener: accept(2) of Linux says to try again.
fn is_about_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{
        ConnectionAborted, ConnectionRefused, ConnectionReset, HostUnreachable, Interrupted, NetworkDown,
        NetworkUnreachable, TimedOut,
    };
    matches!(
        error.kind(),
        ConnectionAborted
            | ConnectionRefused
            | ConnectionReset
            | HostUnreachable
            | Interrupted
            | NetworkDown
            | NetworkUnreachable
            | TimedOut
    ) || matches!(error.raw_os_error(), Some(libc::EPROTO | libc::ENOPROTOOPT | libc::EHOSTDOWN | libc::EOPNOTSUPP))
}

#[cfg(feature = "fault-injection")]
impl Handler<crate::ground::fault::Crash> for Acceptor {
    type Result = ();

    fn handle(&mut self, crash: crate::ground::fault::Crash, _: &mut Context<Self>) {
        crash.now("the Acceptor");
    }
}
