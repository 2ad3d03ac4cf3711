//! A bench worker: a process with part of the clients, on a single epoll loop.
//!
//! A worker must cost little compared with the server under test. All clients share a read buffer, a delivery takes a
//! single `read`, the time is taken as soon as `read` returns, and only frames and marks are parsed. The only other
//! thread reads standard input; the worker ends with its input.

use std::collections::BTreeMap;
use std::io::{self, BufRead as _, ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr};
use std::ops::{ControlFlow, Range};
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use janus_core::supervision::in_words;
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token, Waker};

use super::BenchError;
use super::clock::Clock;
use super::ledger::{Arrival, Ledger};
use super::lines::{FromWorker, Plan, Tally, ToWorker};
use super::mark::Mark;
use super::protocol::{Frame, Splitter};
use super::report::record;
use crate::limits;

pub(crate) fn run() -> Result<(), BenchError> {
    limits::raise_descriptors();
    let poll = Poll::new().map_err(BenchError::Loop)?;
    let waker = Waker::new(poll.registry(), WAKER).map_err(BenchError::Loop)?;
    let orders = listen_for_orders(waker);
    let Ok(ToWorker::Plan(plan)) = orders.recv() else { return Err(BenchError::NoCoordinator) };
    let mut worker = Worker::new(plan, poll);
    worker.connect_all()?;
    let (published, missing) = worker.receive_until_told(&orders)?;
    worker.wait_for_quiet()?;
    let tally = worker.into_tally(published, missing);
    tell(&FromWorker::Tally(Box::new(tally)))
}

/// A client of the server. Kept small, because a worker has many.
struct Client {
    stream: Option<TcpStream>,
    stage: Stage,
    topic: u32,
    ledger: Ledger,
    splitter: Splitter,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Connecting,
    /// The subscription is sent, but not yet acknowledged.
    Subscribing,
    Ready,
    Failed,
}

struct Worker {
    plan: Plan,
    clock: Clock,
    poll: Poll,
    clients: Vec<Client>,
    /// Clients that have begun to connect and are neither ready nor failed.
    under_way: usize,
    ready: u32,
    failed: u32,
    /// For each message, the number of clients still to be reached.
    waiting: Vec<u32>,
    /// Messages delivered to all clients and not yet reported, with the latency of the last delivery.
    through: Vec<(u32, u64)>,
    latencies: Histogram<u64>,
    tally: Tally,
    /// How often each error occurred.
    errors: BTreeMap<String, u32>,
}

impl Worker {
    fn new(plan: Plan, poll: Poll) -> Self {
        let client = |index| Client {
            stream: None,
            stage: Stage::Connecting,
            topic: (plan.first_client + index) % plan.topics,
            ledger: Ledger::default(),
            splitter: Splitter::default(),
        };
        Self {
            clients: (0..plan.clients).map(client).collect(),
            clock: Clock::start(),
            poll,
            under_way: 0,
            ready: 0,
            failed: 0,
            waiting: Vec::new(),
            through: Vec::new(),
            latencies: Histogram::new(3).expect("three digits are allowed"),
            tally: Tally { min: u64::MAX, ..Tally::default() },
            errors: BTreeMap::new(),
            plan,
        }
    }

    /// Connects every client until acknowledged or failed, at the latest by the timeout; then reports.
    fn connect_all(&mut self) -> Result<(), BenchError> {
        let begin = Instant::now();
        let timeout = Duration::from_millis(self.plan.timeout_ms);
        let mut events = Events::with_capacity(EVENTS);
        let mut buffer = vec![0; BUFFER_BYTES];
        let mut begun = 0;
        let mut told = begin;
        while begun < self.clients.len() || self.under_way > 0 {
            while begun < self.clients.len() && self.under_way < self.plan.connecting as usize {
                self.begin(begun);
                begun += 1;
            }
            self.turn(&mut events, &mut buffer, Duration::from_millis(50))?;
            if told.elapsed() > Duration::from_millis(100) {
                told = Instant::now();
                tell(&FromWorker::Progress { ready: self.ready })?;
            }
            if begin.elapsed() > timeout {
                for index in 0..self.clients.len() {
                    if matches!(self.clients[index].stage, Stage::Connecting | Stage::Subscribing) {
                        self.under_way += usize::from(index >= begun);
                        self.fail(index, &format!("not acknowledged within {}", in_words(timeout)));
                    }
                }
                break;
            }
        }
        let mut ready_on_topic = vec![0; self.plan.topics as usize];
        for client in self.clients.iter().filter(|client| client.stage == Stage::Ready) {
            ready_on_topic[client.topic as usize] += 1;
        }
        self.waiting = ready_on_topic.iter().copied().cycle().take(self.plan.messages as usize).collect();
        let errors = self.take_errors();
        tell(&FromWorker::Ready { ready_on_topic, failed: self.failed, errors })
    }

    /// Receives deliveries until the coordinator ends the run. Returns the number of published messages, and whether to
    /// list the missing messages.
    fn receive_until_told(&mut self, orders: &Receiver<ToWorker>) -> Result<(u32, bool), BenchError> {
        let mut events = Events::with_capacity(EVENTS);
        let mut buffer = vec![0; BUFFER_BYTES];
        loop {
            // An order wakes the loop, so this timeout does not delay orders.
            self.turn(&mut events, &mut buffer, Duration::from_secs(1))?;
            if !self.through.is_empty() {
                tell(&FromWorker::Through(std::mem::take(&mut self.through)))?;
            }
            match orders.try_recv() {
                Ok(ToWorker::Finish { published, missing }) => return Ok((published, missing)),
                Ok(ToWorker::Plan(_)) | Err(std::sync::mpsc::TryRecvError::Disconnected) => {
                    return Err(BenchError::NoCoordinator);
                }
                Err(std::sync::mpsc::TryRecvError::Empty) => {}
            }
        }
    }

    /// Waits for unexpected deliveries, such as duplicates, until none arrives for [`QUIET`], at most 10 times as long.
    fn wait_for_quiet(&mut self) -> Result<(), BenchError> {
        let mut events = Events::with_capacity(EVENTS);
        let mut buffer = vec![0; BUFFER_BYTES];
        let deadline = Instant::now() + 10 * QUIET;
        while self.turn(&mut events, &mut buffer, QUIET)? && Instant::now() < deadline {}
        Ok(())
    }

    fn into_tally(mut self, published: u32, tell_missing: bool) -> Tally {
        let mut missing = BTreeMap::<u32, u32>::new();
        for client in &self.clients {
            let expected = self.plan.messages_on_topic(client.topic, published);
            self.tally.lost += client.ledger.not_arrived(expected).count() as u64;
            if tell_missing {
                for number in client.ledger.not_arrived(expected) {
                    *missing.entry(number * self.plan.topics + client.topic).or_default() += 1;
                }
            }
        }
        self.tally.missing = missing.into_iter().collect();
        self.tally.errors = self.take_errors();
        self.tally.latencies =
            self.latencies.iter_recorded().map(|value| (value.value_iterated_to(), value.count_at_value())).collect();
        self.tally
    }

    /// Serves the sockets that are ready, and returns whether there were events.
    fn turn(&mut self, events: &mut Events, buffer: &mut [u8], patience: Duration) -> Result<bool, BenchError> {
        match self.poll.poll(events, Some(patience)) {
            Err(error) if error.kind() == ErrorKind::Interrupted => return Ok(false),
            other => other.map_err(BenchError::Loop)?,
        }
        for event in events.iter().filter(|event| event.token() != WAKER) {
            let index = event.token().0;
            if self.clients[index].stage == Stage::Connecting && (event.is_writable() || event.is_error()) {
                self.subscribe(index);
            }
            if event.is_readable() || event.is_read_closed() {
                self.read(index, buffer, event.is_read_closed());
            }
        }
        Ok(!events.is_empty())
    }

    fn begin(&mut self, index: usize) {
        self.under_way += 1;
        let client = self.plan.first_client + index as u32;
        let connected = connect(self.plan.server, client, self.plan.run).and_then(|mut stream| {
            self.poll.registry().register(&mut stream, Token(index), Interest::READABLE | Interest::WRITABLE)?;
            Ok(stream)
        });
        match connected {
            Ok(stream) => self.clients[index].stream = Some(stream),
            Err(error) => self.fail_to_connect(index, &error),
        }
    }

    /// Handles the end of connecting: subscribes on success, otherwise fails the client.
    fn subscribe(&mut self, index: usize) {
        let name = Plan::client_name(self.plan.run, self.plan.first_client + index as u32);
        let topic = Plan::topic_name(self.plan.run, self.clients[index].topic);
        let opening = self.plan.protocol.opening(self.plan.server, &name, Some(&topic));
        let Some(stream) = &mut self.clients[index].stream else { return };
        let connected = stream.take_error().and_then(|refusal| refusal.map_or(Ok(()), Err));
        let subscribed = connected.and_then(|()| {
            let _ = stream.set_nodelay(true);
            // A new connection has an empty send buffer, so these bytes fit.
            stream.write_all(&opening)?;
            self.poll.registry().reregister(stream, Token(index), Interest::READABLE)
        });
        match subscribed {
            Ok(()) => self.clients[index].stage = Stage::Subscribing,
            Err(error) => self.fail_to_connect(index, &error),
        }
    }

    fn fail_to_connect(&mut self, index: usize, error: &io::Error) {
        let advice = match error.kind() {
            ErrorKind::ConnectionRefused => self.plan.protocol.advice_if_refused(),
            _ if error.raw_os_error() == Some(EMFILE) => " (the descriptor limit; see --workers)",
            _ => crate::client::advice(error),
        };
        self.fail(index, &format!("connecting: {error}{advice}"));
    }

    fn read(&mut self, index: usize, buffer: &mut [u8], closed: bool) {
        loop {
            let Some(stream) = &mut self.clients[index].stream else { return };
            let read = stream.read(buffer);
            let now = self.clock.now();
            match read {
                Ok(0) => return self.fail(index, "the server closed the connection"),
                Ok(length) => {
                    self.take(index, &buffer[..length], now);
                    // A short read has emptied the socket, and epoll will report further bytes. But the end of the
                    // stream is reported only once, so after that report the loop reads to the end.
                    if length < buffer.len() && !closed {
                        return;
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return self.fail(index, &format!("reading: {error}")),
            }
        }
    }

    /// Handles the frames of a read that returned at `now`.
    fn take(&mut self, index: usize, bytes: &[u8], now: u64) {
        let mut splitter = std::mem::take(&mut self.clients[index].splitter);
        let taken = splitter.take(self.plan.protocol, self.plan.size, bytes, |frame| {
            self.frame(index, &frame, now);
            // A frame may end the client; then later frames no longer count.
            if self.clients[index].stage == Stage::Failed { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        match taken {
            Ok(()) => self.clients[index].splitter = splitter,
            Err(foreign) => self.fail(index, &foreign.to_string()),
        }
    }

    fn frame(&mut self, index: usize, frame: &Frame<'_>, now: u64) {
        match frame {
            Frame::Message(data) => match Mark::read(data, self.plan.size) {
                Some(mark) if mark.run == self.plan.run => self.deliver(index, mark, now),
                _ => self.tally.corrupt += 1,
            },
            Frame::Ack if self.clients[index].stage == Stage::Subscribing => {
                self.clients[index].stage = Stage::Ready;
                self.under_way -= 1;
                self.ready += 1;
            }
            Frame::Refused(refusal) => self.fail(index, &format!("refused: {}: {}", refusal.code, refusal.message)),
            Frame::Ping => self.answer(index),
            Frame::Welcome | Frame::Ack | Frame::Other => {}
        }
    }

    fn answer(&mut self, index: usize) {
        let pong = self.plan.protocol.pong();
        // The client has sent only its opening, so the send buffer has room.
        let answered = self.clients[index].stream.as_mut().map_or(Ok(()), |stream| stream.write_all(pong));
        if let Err(error) = answered {
            self.fail(index, &format!("answering a ping: {error}"));
        }
    }

    fn deliver(&mut self, index: usize, mark: Mark, now: u64) {
        let client = &mut self.clients[index];
        if mark.number >= self.plan.messages || mark.number % self.plan.topics != client.topic {
            self.tally.corrupt += 1;
            return;
        }
        match client.ledger.arrive(mark.number / self.plan.topics) {
            Arrival::InOrder => self.tally.good += 1,
            Arrival::Late => self.tally.out_of_order += 1,
            Arrival::Again => {
                self.tally.duplicated += 1;
                return;
            }
        }
        // The clocks of two processes differ by less than the shortest delivery takes, but may differ. So the latency
        // is kept above zero.
        let latency = now.saturating_sub(mark.sent).max(1);
        record(&mut self.latencies, latency, 1);
        self.tally.min = latency.min(self.tally.min);
        self.tally.max = latency.max(self.tally.max);
        self.tally.last_delivery = now;
        self.reached(mark.number, latency);
    }

    /// Counts a client as reached by this message.
    fn reached(&mut self, number: u32, latency: u64) {
        if let Some(waiting) = self.waiting.get_mut(number as usize) {
            *waiting = waiting.saturating_sub(1);
            if *waiting == 0 {
                self.through.push((number, latency));
            }
        }
    }

    /// Ends a client. Its missing messages count as lost, and the run no longer waits for them.
    fn fail(&mut self, index: usize, why: &str) {
        let client = &mut self.clients[index];
        client.stream = None;
        match client.stage {
            Stage::Failed => return,
            Stage::Ready => {
                self.tally.disconnected += 1;
                let on_topic = self.plan.messages_on_topic(client.topic, self.plan.messages);
                let (topic, topics) = (client.topic, self.plan.topics);
                let missed: Vec<u32> = client.ledger.not_arrived(on_topic).collect();
                for number in missed {
                    self.reached(number * topics + topic, 0);
                }
            }
            Stage::Connecting | Stage::Subscribing => {
                self.under_way -= 1;
                self.failed += 1;
            }
        }
        self.clients[index].stage = Stage::Failed;
        // The kinds of errors limit the number of different texts, and so does this check.
        if self.errors.len() < 16 || self.errors.contains_key(why) {
            *self.errors.entry(why.to_owned()).or_default() += 1;
        }
    }

    fn take_errors(&mut self) -> Vec<String> {
        std::mem::take(&mut self.errors).into_iter().map(|(error, clients)| format!("{clients} × {error}")).collect()
    }
}

/// Begins to connect the client with this number.
///
/// To a server on loopback, the client connects from a chosen address and port. An address has some 28,000 ports, and
/// long before all are in use, the kernel's search for a free port takes longer than the rest of connecting.
fn connect(server: SocketAddr, client: u32, run: u32) -> io::Result<TcpStream> {
    let SocketAddr::V4(loopback) = server else { return TcpStream::connect(server) };
    if !loopback.ip().is_loopback() {
        return TcpStream::connect(server);
    }
    let source = Ipv4Addr::from_bits(Ipv4Addr::LOCALHOST.to_bits() + client / CLIENTS_PER_SOURCE);
    // Each run begins at a different port, because the ports of the last run cannot be reused at once.
    let first = u64::from(client % CLIENTS_PER_SOURCE) + u64::from(run);
    for attempt in 0..ATTEMPTS {
        let port = PORTS.start + ((first + attempt * STRIDE) % PORTS.len() as u64) as u16;
        match connect_from(server, SocketAddr::from((source, port))) {
            Err(error) if matches!(error.kind(), ErrorKind::AddrInUse | ErrorKind::AddrNotAvailable) => {}
            other => return other,
        }
    }
    TcpStream::connect(server)
}

fn connect_from(server: SocketAddr, source: SocketAddr) -> io::Result<TcpStream> {
    let socket = socket2::Socket::new(socket2::Domain::for_address(server), socket2::Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    // Lets `bind` take a port whose last connection has only just closed; `connect` decides whether reuse is safe.
    socket.set_reuse_address(true)?;
    socket.bind(&source.into())?;
    match socket.connect(&server.into()) {
        Err(error) if error.raw_os_error() != Some(EINPROGRESS) => Err(error),
        _ => Ok(TcpStream::from_std(socket.into())),
    }
}

/// Passes the coordinator's lines to the loop, and wakes the loop for each line. The channel ends with the input.
fn listen_for_orders(waker: Waker) -> Receiver<ToWorker> {
    let (sender, orders) = sync_channel(4);
    std::thread::spawn(move || {
        for line in io::stdin().lock().lines() {
            let Some(order) = line.ok().and_then(|line| serde_json::from_str(&line).ok()) else { break };
            if sender.send(order).is_err() || waker.wake().is_err() {
                break;
            }
        }
        drop(sender);
        let _ = waker.wake();
    });
    orders
}

fn tell(line: &FromWorker) -> Result<(), BenchError> {
    let write = || -> io::Result<()> {
        let mut text = serde_json::to_vec(line)?;
        text.push(b'\n');
        let mut output = io::stdout().lock();
        output.write_all(&text)?;
        output.flush()
    };
    write().map_err(BenchError::Output)
}

const WAKER: Token = Token(usize::MAX);
const EVENTS: usize = 1_024;
const BUFFER_BYTES: usize = 64 * 1024;
const QUIET: Duration = Duration::from_millis(100);
const CLIENTS_PER_SOURCE: u32 = 20_000;
/// Linux's default range of local ports.
const PORTS: Range<u16> = 32_768..61_000;
const ATTEMPTS: u64 = 16;
/// From one attempt to the next. A large stride keeps clients with neighbouring numbers from colliding again.
const STRIDE: u64 = 4_099;
const EINPROGRESS: i32 = 115;
const EMFILE: i32 = 24;
