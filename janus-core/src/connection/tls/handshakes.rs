//! The handshakes of TLS connections, on threads of their own: a handshake takes a core for some 160 µs, and on the home
//! arbiter a crowd of returning clients would hold up every message.
//!
//! A handshake has `frame_timeout`, and there are at most `max_handshakes` of them, waiting for a thread or under way.
//! While all are taken, the Acceptors leave connections in the backlog. A handshake that has lasted for a quarter of
//! `frame_timeout` may be cut to make room: the oldest of the address with most handshakes. So an address with many silent
//! connections crowds out its own handshakes.
//!
//! Handshakes are in the account of the memory, each with a fixed price and the input kept until more has come. Beyond
//! `input_share`, a handshake that needs to keep more input fails. When memory runs short, handshakes are cut in the
//! same order, once they have lasted for a second.
//!
//! The connection takes a place of `max_connections` after the handshake, as a plain connection does after the accept.

use std::cell::Cell;
use std::collections::VecDeque;
use std::io;
use std::net::Shutdown;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::Mutex;
use socket2::SockRef;
use tokio::net::TcpStream;
use tokio::sync::{Notify, oneshot};
use tokio::task::LocalSet;
use tokio::time::{Instant, timeout};

use super::TlsPort;
use crate::accounts::Address;
use crate::accounts::admission::Admission;
use crate::connection::Connections;
use crate::connection::acceptor::{self, Accepted};
use crate::connection::crowd::Crowd;
use crate::connection::linger::linger;
use crate::connection::listener::Origin;
use crate::connection::moving::move_to;
use crate::delivery::Link;
use crate::delivery::tls::{self, Established, Tls};
use crate::ground::homes::HomeId;
use crate::hooks::TlsClient;
use crate::supervision::in_words;
use crate::supervision::{self, BoxError, ChildSpec, Strategy, Supervisor};
use crate::wire::Peer;

/// An alert without encryption, TLS 1.2: fatal, access_denied.
const ACCESS_DENIED: &[u8] = &[21, 3, 3, 0, 2, 2, 49];

/// The price of a handshake, besides the kept input: 3,000 connections that sent nothing took 8,150 bytes each, and the
/// answer to a ClientHello takes some 4 KiB more, for the time of a round trip.
const HANDSHAKE_BYTES: usize = 8 * 1_024;

/// How long a handshake is spared when memory runs short.
const SPARED: Duration = Duration::from_secs(1);

/// All handshakes of an instance.
#[derive(Debug, Default)]
pub(crate) struct Handshakes {
    listed: Mutex<Listed>,
    /// The bytes accounted for.
    memory: AtomicUsize,
    offered: Notify,
    /// The threads not joined yet: at most one for each task, and the threads dead since the last start.
    threads: Mutex<Vec<JoinHandle<()>>>,
}

#[derive(Debug, Default)]
struct Listed {
    waiting: VecDeque<Handshake>,
    /// The waiting handshakes, and the handshakes taken by a thread.
    all: Crowd<Begun>,
    last: u64,
    /// The instance has ended, and no thread will come.
    is_closed: bool,
}

/// A listed handshake.
#[derive(Debug)]
struct Begun {
    at: Instant,
    /// Cuts the handshake when dropped.
    _cut: oneshot::Sender<()>,
}

/// A connection before its handshake.
#[derive(Debug)]
struct Handshake {
    socket: std::net::TcpStream,
    client: Client,
    origin: Arc<Origin>,
    port: TlsPort,
    place: Place,
    /// Ready when the handshake is to be cut.
    cut: oneshot::Receiver<()>,
}

/// The client of a connection, as known before the handshake.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) peer: Peer,
    /// Whether a proxy has passed the client on from elsewhere.
    pub(crate) is_foreign: bool,
    pub(crate) admission: Admission,
    /// The home arbiter of the connection after the handshake.
    pub(crate) home: HomeId,
}

/// The place of a handshake in the list, given back by the drop.
#[derive(Debug)]
struct Place {
    connections: Arc<Connections>,
    address: Address,
    number: u64,
    /// The bytes accounted for.
    memory: Cell<usize>,
}

impl Place {
    fn new(connections: &Arc<Connections>, address: Address, number: u64) -> Self {
        let place = Self { connections: Arc::clone(connections), address, number, memory: Cell::new(0) };
        place.account(HANDSHAKE_BYTES);
        place
    }

    /// Accounts for kept input; false if there is no more room.
    fn may_keep(&self, bytes: usize) -> bool {
        let before = self.memory.get();
        self.account(HANDSHAKE_BYTES + bytes);
        let tls = self.connections.tls.as_ref();
        let bound = self.connections.input_bound().filter(|_| HANDSHAKE_BYTES + bytes > before);
        bound.zip(tls).is_none_or(|(bound, tls)| tls.memory() <= bound)
    }

    fn account(&self, bytes: usize) {
        let before = self.memory.replace(bytes);
        if let Some(tls) = &self.connections.tls {
            tls.handshakes.memory.fetch_add(bytes, Ordering::Relaxed);
            tls.handshakes.memory.fetch_sub(before, Ordering::Relaxed);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.account(0);
        if let Some(tls) = &self.connections.tls {
            tls.handshakes.listed.lock().all.remove(self.address, self.number);
        }
    }
}

impl Handshakes {
    /// How many more handshakes may begin, if there may be `most`. With no room left, an old handshake may be cut.
    pub(crate) fn room(&self, most: usize, frame_timeout: Duration) -> usize {
        let mut listed = self.listed.lock();
        // A cut handshake is off the list, but keeps its socket until a thread takes it.
        let waiting = listed.waiting.len();
        let room = most.saturating_sub(listed.all.len().max(waiting));
        if room > 0 || waiting >= most {
            return room;
        }
        let is_old = |begun: &Begun| begun.at.elapsed() >= frame_timeout / 4;
        let cut = listed.all.take_first_if(is_old);
        drop(listed);
        usize::from(cut.is_some())
    }

    /// The bytes accounted for: of handshakes under way, and of connections that wait for a thread.
    pub(crate) fn memory(&self) -> usize {
        self.memory.load(Ordering::Relaxed)
    }

    /// Cuts a handshake because memory is short; false if none has lasted for long enough.
    pub(crate) fn give_up(&self) -> bool {
        let cut = self.listed.lock().all.take_first_if(|begun| begun.at.elapsed() >= SPARED);
        cut.is_some()
    }

    /// Queues a connection for its handshake. Called on the home arbiter, in whose reactor the socket is.
    pub(crate) fn begin(
        &self,
        connections: &Arc<Connections>,
        socket: TcpStream,
        client: Client,
        origin: &Arc<Origin>,
        port: TlsPort,
    ) {
        let peer = client.peer;
        let socket = match socket.into_std() {
            Ok(socket) => socket,
            Err(error) => {
                return log::debug!(peer:%; "{peer}: closed, the socket cannot be moved to another thread: {error}");
            }
        };
        let address = Address::of(peer);
        let (sender, cut) = oneshot::channel();
        let mut listed = self.listed.lock();
        if listed.is_closed {
            return;
        }
        listed.last += 1;
        let number = listed.last;
        listed.all.add(address, number, Begun { at: Instant::now(), _cut: sender });
        let place = Place::new(connections, address, number);
        listed.waiting.push_back(Handshake { socket, client, origin: Arc::clone(origin), port, place, cut });
        drop(listed);
        self.offered.notify_one();
    }

    async fn next(&self) -> Handshake {
        loop {
            let next = self.listed.lock().waiting.pop_front();
            match next {
                Some(next) => return next,
                None => self.offered.notified().await,
            }
        }
    }

    /// Carries out handshakes on the calling thread, until `stopped` is ready.
    fn serve(&self, stopped: oneshot::Receiver<()>) -> io::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
        let tasks = LocalSet::new();
        let work = async {
            loop {
                let handshake = self.next().await;
                handshake.place.connections.faults.before_handshake();
                tokio::task::spawn_local(handshake.run());
                // Handshakes under way come before further handshakes, which another thread may take.
                tokio::task::yield_now().await;
            }
        };
        tasks.block_on(&runtime, async {
            tokio::select! {
                _ = stopped => {}
                () = work => {}
            }
        });
        Ok(())
    }

    /// Keeps a thread to be joined at the end.
    fn keep(&self, thread: JoinHandle<()>) {
        let mut threads = self.threads.lock();
        threads.retain(|thread| !thread.is_finished());
        threads.push(thread);
    }

    /// Waits for the threads, which end with the tree.
    pub(crate) fn join(&self) {
        let threads = std::mem::take(&mut *self.threads.lock());
        for thread in threads {
            let _ = thread.join();
        }
    }

    /// Closes the connections that wait for a thread, because no thread will come any more.
    pub(crate) fn close(&self) {
        let mut listed = self.listed.lock();
        listed.is_closed = true;
        let waiting = std::mem::take(&mut listed.waiting);
        // The places are given back with the lock free.
        drop(listed);
        drop(waiting);
    }
}

impl Handshake {
    async fn run(self) {
        let Self { socket, client, origin, port, place, cut } = self;
        let peer = client.peer;
        let connections = Arc::clone(&place.connections);
        let Some(tls) = &connections.tls else { return };
        let shake = async {
            let socket = TcpStream::from_std(socket).map_err(|error| error.to_string())?;
            let limit = connections.config().frame_timeout;
            let config = |hello: &[u8]| tls.certificates.config(port, hello);
            let may_keep = |bytes| place.may_keep(bytes);
            let shake = tls::accept(&socket, config, tls.certificates.asks_clients(), may_keep);
            match timeout(limit, shake).await {
                Ok(Ok(established)) => Ok((socket, established)),
                Ok(Err(error)) => {
                    let error = error.to_string();
                    let _ = SockRef::from(&socket).shutdown(Shutdown::Write);
                    linger(socket).await;
                    Err(error)
                }
                Err(_) => Err(format!("not completed within frame_timeout ({})", in_words(limit))),
            }
        };
        let result = tokio::select! {
            result = shake => result,
            _ = cut => Err("cut to make room for others".to_owned()),
        };
        let counters = &connections.counters;
        match result {
            Ok((socket, established)) => {
                counters.tls_handshakes.fetch_add(1, Ordering::Relaxed);
                go_home(socket, established, client, origin, place);
            }
            Err(error) => {
                counters.tls_handshakes_failed.fetch_add(1, Ordering::Relaxed);
                log::debug!(peer:%; "{peer}: TLS handshake failed: {error}");
            }
        }
    }
}

/// Gives a connection to the home arbiter, to be served like a plain connection. A connection that arrives during a
/// drain is closed.
fn go_home(socket: TcpStream, established: Established, client: Client, origin: Arc<Origin>, place: Place) {
    let connections = Arc::clone(&place.connections);
    let Client { peer, is_foreign, admission, home } = client;
    let Established { session, alpn, server_name, client_certificate } = established;
    let link = Link::Tls(Box::new(Tls::new(socket, session)));
    if connections.is_draining() {
        return link.shut_down();
    }
    let tls = TlsClient { certificate: client_certificate, server_name, protocol: alpn };
    // Only hooks ask for this.
    let tls = connections.hooks().is_some().then(|| Box::new(tls));
    let at_home = Arc::clone(&connections);
    let served = move_to(&connections, home, link, peer, move |link| {
        // The connection has an account of its own from now on.
        place.account(0);
        let accepted = Accepted { link, peer, is_foreign, admission: Ok(admission), tls, home, foreknown: None };
        acceptor::serve(&at_home, accepted, &origin);
        drop(place);
    });
    if let Err(error) = served {
        log::debug!(peer:%; "{peer}: closed after the TLS handshake, because {error}");
    }
}

/// Closes a connection that is refused before its handshake, with an alert if the kernel takes it at once.
pub(crate) fn turn_away(socket: &TcpStream) {
    let _ = socket.try_write(ACCESS_DENIED);
}

/// The handshake threads as children of the tree: a task for each starts the thread and ends with it.
///
/// A crashed thread loses its own handshakes, and their clients try again, so the budget is generous.
pub(crate) fn supervisor(connections: &Arc<Connections>) -> Supervisor {
    let handshakes = Supervisor::new("tls_handshakes", Strategy::OneForOne).intensity(20, Duration::from_secs(60));
    (1..=connections.config().tls_handshake_threads).fold(handshakes, |handshakes, number| {
        let connections = Arc::clone(connections);
        let run = move || run(Arc::clone(&connections), number);
        handshakes.child(ChildSpec::task(format!("tls {number}"), run).shutdown(supervision::Shutdown::BrutalKill))
    })
}

async fn run(connections: Arc<Connections>, number: usize) -> Result<(), BoxError> {
    let Some(tls) = &connections.tls else { return Ok(()) };
    // Dropped even if this task is killed: the thread must not run on without the supervisor's knowledge.
    let (_stop, stopped) = oneshot::channel();
    let (ended, end) = oneshot::channel();
    let thread = std::thread::Builder::new().name(format!("janus-tls-{number}")).spawn({
        let tls = Arc::clone(tls);
        move || {
            let _ = ended.send(catch_unwind(AssertUnwindSafe(|| tls.handshakes.serve(stopped))));
        }
    })?;
    tls.handshakes.keep(thread);
    match end.await {
        Ok(Ok(served)) => Ok(served?),
        // The supervisor is to see the thread's panic as the panic of a child.
        Ok(Err(panic)) => resume_unwind(panic),
        Err(_) => Err("the thread vanished".into()),
    }
}
