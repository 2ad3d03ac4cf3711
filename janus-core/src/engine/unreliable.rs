//! An engine whose links and servers fail as a test decides: answers are delayed, links are cut, records are lost,
//! servers fail over to a copy that lags.
//!
//! No clock runs: a request waits until the test calls for its execution, and an answer waits until the test calls for
//! its arrival. [`flow`](Unreliable::flow) moves all requests and answers, without a fault.
//! [`step`](Unreliable::step) takes a step by chance, faults included. The other methods are single faults.
//!
//! The engine holds itself against the contract: a test panics if an epoch and a number ever name two things, on
//! whichever server.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures_util::future::LocalBoxFuture;
use parking_lot::Mutex;

use super::exchange::{Exchange, LinkNumber, Outgoing};
use super::log::{Given, Server};
use super::{Answer, Engine, Link, LinkError, NodeId, Record, Request};
#[cfg(feature = "fault-injection")]
use crate::wire::Position;
use crate::wire::{Epoch, TopicName};

type ServerNumber = u64;

/// Gives a request, kept for later, to a function.
type Kept = Box<dyn Fn(&mut dyn FnMut(Request<'_>)) + Send>;

/// A number below the given number, by chance. The only source of decisions.
pub(crate) type Below<'a> = &'a mut dyn FnMut(usize) -> usize;

/// The fate of the requests on their way over a cut link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sent {
    /// No request is carried out.
    Lost,
    /// The requests may be carried out later, also after the next link of the node is up.
    CarriedOut,
}

/// The data of a restarted server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Data {
    Empty,
    /// As of the last [replication](Unreliable::replicate).
    Saved,
    Whole,
}

/// A mistake that the contract rules out, to show that a simulation finds it.
#[cfg(feature = "fault-injection")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mistake {
    /// A server with another past goes on as if nothing were lost.
    NoHistory,
    /// A server does not ask which numbers a node has handed out.
    NumbersGoBack,
    /// A submission is carried out as often as it comes.
    NoSubmissions,
}

/// An engine with faults. A clone is the same engine.
#[derive(Clone)]
pub(crate) struct Unreliable(Arc<Mutex<World>>);

struct World {
    now: Duration,
    epochs: u64,
    histories: u64,
    /// Links and servers so far.
    numbers: u64,
    /// The server for new links.
    master: ServerNumber,
    /// The master, and isolated servers in the belief of being the master.
    servers: BTreeMap<ServerNumber, Exchange>,
    /// The copy of the master's data.
    replica: Server,
    wires: BTreeMap<LinkNumber, Wire>,
    /// Whether new links come up.
    is_reachable: bool,
    /// Each record ever made, by epoch and last number.
    named: BTreeMap<(TopicName, u64, u64), Record>,
    #[cfg(feature = "fault-injection")]
    mistake: Option<Mistake>,
}

/// A link, with the requests and answers on their way.
struct Wire {
    node: NodeId,
    server: ServerNumber,
    requests: VecDeque<Kept>,
    answers: VecDeque<Answer>,
    /// Answers at the node, to be polled.
    arrived: VecDeque<Answer>,
    end: Option<LinkError>,
    /// Whether the node has the link. A link without a node lasts as long as its requests.
    is_held: bool,
    waker: Option<Waker>,
}

impl fmt::Debug for Unreliable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Unreliable").field("wires", &self.0.lock().wires.len()).finish_non_exhaustive()
    }
}

impl Engine for Unreliable {
    fn name(&self) -> &'static str {
        "unreliable"
    }

    fn connect(&self, _shard: usize, node: NodeId) -> LocalBoxFuture<'static, Result<Box<dyn Link>, LinkError>> {
        let world = Arc::clone(&self.0);
        Box::pin(async move {
            let number = world.lock().connect(node)?;
            Ok(Box::new(UnreliableLink { world, number }) as Box<dyn Link>)
        })
    }
}

/// The course of things.
impl Unreliable {
    /// An engine with one server, empty, at this time since the Unix epoch.
    pub(crate) fn new(now: Duration) -> Self {
        let mut servers = BTreeMap::new();
        servers.insert(0, Exchange::new(Server::new(0)));
        Self(Arc::new(Mutex::new(World {
            now,
            epochs: 0,
            histories: 0,
            numbers: 0,
            master: 0,
            servers,
            replica: Server::new(0),
            wires: BTreeMap::new(),
            is_reachable: true,
            named: BTreeMap::new(),
            #[cfg(feature = "fault-injection")]
            mistake: None,
        })))
    }

    /// Has time pass on all servers.
    pub(crate) fn pass(&self, time: Duration) {
        self.0.lock().now += time;
    }

    /// Carries out all requests and has all answers arrive. Returns whether there was anything: if so, the nodes may
    /// have further requests.
    pub(crate) fn flow(&self) -> bool {
        let numbers: Vec<_> = self.0.lock().wires.keys().copied().collect();
        let mut moved = false;
        for &number in &numbers {
            moved |= self.0.lock().serve(number, usize::MAX, false) > 0;
        }
        for number in numbers {
            moved |= self.arrive(number, usize::MAX) > 0;
        }
        moved
    }

    /// Carries out at most so many requests of the node.
    pub(crate) fn serve(&self, node: NodeId, most: usize) -> usize {
        let mut world = self.0.lock();
        world.latest(node).map_or(0, |number| world.serve(number, most, false))
    }

    /// Has at most so many answers arrive at the node.
    pub(crate) fn deliver(&self, node: NodeId, most: usize) -> usize {
        let number = self.0.lock().latest(node);
        number.map_or(0, |number| self.arrive(number, most))
    }

    fn arrive(&self, number: LinkNumber, most: usize) -> usize {
        let mut world = self.0.lock();
        let Some(wire) = world.wires.get_mut(&number) else { return 0 };
        let count = wire.answers.len().min(most);
        wire.arrived.extend(wire.answers.drain(..count));
        let waker = wire.waker.take_if(|_| count > 0);
        drop(world);
        waker.into_iter().for_each(Waker::wake);
        count
    }

    /// Takes a step by chance: mostly the ordinary course, sometimes a fault.
    pub(crate) fn step(&self, below: Below<'_>) {
        let numbers: Vec<_> = self.0.lock().wires.keys().copied().collect();
        let wire = (!numbers.is_empty()).then(|| numbers[below(numbers.len())]);
        let node = wire.map(|number| self.0.lock().wires[&number].node);
        match (below(1_000), wire, node) {
            (0..450, Some(wire), _) => {
                let (most, answers_first) = (1 + below(3), below(2) == 0);
                self.0.lock().serve(wire, most, answers_first);
            }
            (450..850, Some(wire), _) => {
                let most = 1 + below(4);
                self.arrive(wire, most);
            }
            (850..900, ..) => self.replicate(),
            (900..920, _, Some(node)) => self.cut(node, if below(3) == 0 { Sent::Lost } else { Sent::CarriedOut }),
            (920..930, _, Some(node)) => self.lose_record(node),
            (930..942, ..) => self.fail_over(below(2) == 0),
            (942..955, ..) => self.end_isolation(),
            (955..962, ..) => self.fail_back(),
            (962..966, ..) => self.restart([Data::Empty, Data::Saved, Data::Whole][below(3)]),
            (966..970, ..) => self.evict_by_chance(below),
            (970..975, ..) => self.set_reachable(below(3) > 0),
            (985..990, Some(wire), _) => self.0.lock().forget_requests(wire),
            (975..985, ..) => self.pass(Duration::from_millis(below(1_000) as u64)),
            _ => {}
        }
    }

    fn evict_by_chance(&self, below: Below<'_>) {
        let topics = self.0.lock().master().server.names();
        if !topics.is_empty() {
            let topic = &topics[below(topics.len())];
            if below(2) == 0 { self.evict(topic) } else { self.evict_log(topic) }
        }
    }

    /// Ends the lasting faults: a single master, reached by new links. Requests of dead links are carried out by
    /// [`flow`](Self::flow).
    pub(crate) fn mend(&self) {
        self.end_isolation();
        self.set_reachable(true);
    }
}

/// Faults.
impl Unreliable {
    /// Cuts the latest link of the node. Answers on their way are lost.
    pub(crate) fn cut(&self, node: NodeId, sent: Sent) {
        let mut world = self.0.lock();
        let number = world.latest(node);
        let waker = number.and_then(|number| world.cut(number, sent));
        drop(world);
        waker.into_iter().for_each(Waker::wake);
    }

    /// Loses the next record on its way to the node, if there is any. The link stays up.
    pub(crate) fn lose_record(&self, node: NodeId) {
        let mut world = self.0.lock();
        let number = world.latest(node);
        if let Some(wire) = number.and_then(|number| world.wires.get_mut(&number))
            && let Some(lost) = wire.answers.iter().position(|answer| matches!(answer, Answer::Record { .. }))
        {
            wire.answers.remove(lost);
        }
    }

    /// Copies the data of the master.
    pub(crate) fn replicate(&self) {
        let mut world = self.0.lock();
        world.replica = world.master().server.clone();
    }

    /// Makes the copy the master. The links of the old master end, or stay with the old master if it is isolated.
    pub(crate) fn fail_over(&self, isolated: bool) {
        let mut world = self.0.lock();
        world.numbers += 1;
        let (old, new) = (world.master, world.numbers);
        let server = world.replica_in_new_history();
        world.servers.insert(new, Exchange::new(server));
        world.master = new;
        let wakers = if isolated { Vec::new() } else { world.end_server(old) };
        drop(world);
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Has the master go on with the data of the copy, as after a failover there and back. The links stay up.
    pub(crate) fn fail_back(&self) {
        let mut world = self.0.lock();
        world.master().server = world.replica_in_new_history();
    }

    /// Ends the isolated servers, with their links.
    pub(crate) fn end_isolation(&self) {
        let mut world = self.0.lock();
        let isolated: Vec<_> = world.servers.keys().copied().filter(|&server| server != world.master).collect();
        let wakers: Vec<_> = isolated.into_iter().flat_map(|server| world.end_server(server)).collect();
        drop(world);
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Starts the master again. All of its links end.
    pub(crate) fn restart(&self, data: Data) {
        let mut world = self.0.lock();
        let history = world.new_history();
        let mut server = match data {
            Data::Empty => Server::new(history),
            Data::Saved => world.replica.clone(),
            Data::Whole => world.master().server.clone(),
        };
        server.restart(history);
        world.replica = server.clone();
        world.numbers += 1;
        let (old, new) = (world.master, world.numbers);
        let wakers = world.end_server(old);
        world.servers.insert(new, Exchange::new(server));
        world.master = new;
        drop(world);
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Has the master forget a topic.
    pub(crate) fn evict(&self, topic: &TopicName) {
        self.0.lock().master().server.evict(topic);
    }

    /// Has the master forget the log of a topic.
    pub(crate) fn evict_log(&self, topic: &TopicName) {
        self.0.lock().master().server.evict_log(topic);
    }

    /// Sets whether new links come up. Links that are up stay so.
    pub(crate) fn set_reachable(&self, is_reachable: bool) {
        self.0.lock().is_reachable = is_reachable;
    }

    /// The record with this number, on whichever server.
    #[cfg(feature = "fault-injection")]
    pub(crate) fn record_with(&self, topic: &TopicName, at: Position) -> Option<Record> {
        let epoch = at.epoch.number();
        let numbers = (topic.clone(), epoch, at.seq)..=(topic.clone(), epoch, u64::MAX);
        let world = self.0.lock();
        world.named.range(numbers).next().map(|(_, record)| record.clone()).filter(|record| record.first <= at.seq)
    }

    /// All records ever made, with their topics.
    #[cfg(feature = "fault-injection")]
    pub(crate) fn records(&self) -> Vec<(TopicName, Record)> {
        let world = self.0.lock();
        world.named.iter().map(|((topic, ..), record)| (topic.clone(), record.clone())).collect()
    }

    /// Makes a mistake from now on.
    #[cfg(feature = "fault-injection")]
    pub(crate) fn make_mistake(&self, mistake: Mistake) {
        self.0.lock().mistake = Some(mistake);
    }

    /// The data of the master.
    pub(crate) fn master(&self) -> Server {
        self.0.lock().master().server.clone()
    }
}

impl World {
    fn master(&mut self) -> &mut Exchange {
        self.servers.get_mut(&self.master).expect("the master is one of the servers")
    }

    fn new_history(&mut self) -> u64 {
        #[cfg(feature = "fault-injection")]
        if self.mistake == Some(Mistake::NoHistory) {
            return self.histories;
        }
        self.histories += 1;
        self.histories
    }

    fn replica_in_new_history(&mut self) -> Server {
        let mut server = self.replica.clone();
        server.restart(self.new_history());
        self.replica = server.clone();
        server
    }

    fn connect(&mut self, node: NodeId) -> Result<LinkNumber, LinkError> {
        if !self.is_reachable {
            return Err(LinkError::new("refused", "the engine cannot be reached: the test has said so"));
        }
        self.numbers += 1;
        let (number, server) = (self.numbers, self.master);
        self.master().join(number, node);
        let (requests, answers, arrived) = (VecDeque::new(), VecDeque::new(), VecDeque::new());
        let wire = Wire { node, server, requests, answers, arrived, end: None, is_held: true, waker: None };
        self.wires.insert(number, wire);
        Ok(number)
    }

    /// The latest link of the node that is up.
    fn latest(&self, node: NodeId) -> Option<LinkNumber> {
        let mut up = self.wires.iter().rev().filter(|(_, wire)| wire.node == node && wire.is_up());
        up.next().map(|(&number, _)| number)
    }

    /// Carries out requests of a link, and returns how many.
    fn serve(&mut self, number: LinkNumber, most: usize, answers_first: bool) -> usize {
        let mut count = 0;
        while count < most {
            let Some(wire) = self.wires.get_mut(&number) else { break };
            let Some(request) = wire.requests.pop_front() else { break };
            let server = wire.server;
            self.execute(server, number, &request, answers_first);
            self.forget_if_done(number);
            count += 1;
        }
        count
    }

    fn execute(&mut self, server: ServerNumber, number: LinkNumber, request: &Kept, answers_first: bool) {
        let Some(exchange) = self.servers.get_mut(&server) else { return };
        self.epochs += 1;
        let given = Given { now: self.now, fresh: Epoch::new(self.epochs) };
        let (mut out, mut made) = (Outgoing::new(), Vec::new());
        request(&mut |request| {
            #[cfg(feature = "fault-injection")]
            let request = mistaken(request, self.mistake, &mut exchange.server);
            let topic = topic_of(&request).cloned();
            made =
                exchange.execute(given, number, request, &mut out).into_iter().zip(std::iter::repeat(topic)).collect();
        });
        if answers_first {
            // No order is promised between the record of a submission and the answer to it. Before the answer to an
            // open, a record is of the time before.
            out.sort_by_key(|(_, answer)| !matches!(answer, Answer::Appended { .. }));
        }
        for (record, topic) in made {
            self.hold_against_contract(&topic.expect("records are of a topic"), record);
        }
        for (link, answer) in out {
            if let Some(wire) = self.wires.get_mut(&link).filter(|wire| wire.is_up()) {
                wire.answers.push_back(answer);
            }
        }
    }

    /// Two things must never have the same epoch and number, whichever server has made them.
    fn hold_against_contract(&mut self, topic: &TopicName, record: Record) {
        let epoch = record.epoch.number();
        let numbers = (topic.clone(), epoch, record.first)..=(topic.clone(), epoch, u64::MAX);
        if let Some((_, other)) = self.named.range(numbers).next() {
            assert!(other.first > record.last().seq, "two things have one number: {other:?} and {record:?}");
        }
        self.named.insert((topic.clone(), epoch, record.last().seq), record);
    }

    fn cut(&mut self, number: LinkNumber, sent: Sent) -> Option<Waker> {
        let wire = self.wires.get_mut(&number)?;
        wire.end = Some(LinkError::new("cut", "the link was cut: the test has said so"));
        wire.answers.clear();
        if sent == Sent::Lost {
            wire.requests.clear();
        }
        wire.waker.take()
    }

    fn end_server(&mut self, server: ServerNumber) -> Vec<Waker> {
        self.servers.remove(&server);
        let links = self.wires.iter().filter(|(_, wire)| wire.server == server);
        let numbers: Vec<_> = links.map(|(&number, _)| number).collect();
        let wakers: Vec<_> = numbers.iter().filter_map(|&number| self.cut(number, Sent::Lost)).collect();
        numbers.into_iter().for_each(|number| self.forget_if_done(number));
        wakers
    }

    fn let_go(&mut self, number: LinkNumber) {
        if let Some(wire) = self.wires.get_mut(&number) {
            wire.is_held = false;
            wire.answers.clear();
        }
        self.forget_if_done(number);
    }

    /// Loses the requests of a dead link.
    fn forget_requests(&mut self, number: LinkNumber) {
        if let Some(wire) = self.wires.get_mut(&number).filter(|wire| !wire.is_up()) {
            wire.requests.clear();
        }
        self.forget_if_done(number);
    }

    fn forget_if_done(&mut self, number: LinkNumber) {
        let Some(wire) = self.wires.get(&number) else { return };
        if !wire.is_held && wire.requests.is_empty() {
            let server = wire.server;
            self.wires.remove(&number);
            self.servers.get_mut(&server).into_iter().for_each(|exchange| exchange.leave(number));
        }
    }
}

impl Wire {
    fn is_up(&self) -> bool {
        self.is_held && self.end.is_none()
    }
}

struct UnreliableLink {
    world: Arc<Mutex<World>>,
    number: LinkNumber,
}

impl Link for UnreliableLink {
    fn request(&mut self, request: Request<'_>) {
        let mut world = self.world.lock();
        if let Some(wire) = world.wires.get_mut(&self.number).filter(|wire| wire.is_up()) {
            wire.requests.push_back(kept(request));
        }
    }

    fn backlog(&self) -> usize {
        0
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Answer, LinkError>> {
        let mut world = self.world.lock();
        let wire = world.wires.get_mut(&self.number).expect("a link that is held is in the table");
        if let Some(answer) = wire.arrived.pop_front() {
            return Poll::Ready(Ok(answer));
        }
        if let Some(end) = &wire.end {
            return Poll::Ready(Err(end.clone()));
        }
        wire.waker = Some(cx.waker().clone());
        Poll::Pending
    }
}

impl Drop for UnreliableLink {
    fn drop(&mut self) {
        self.world.lock().let_go(self.number);
    }
}

/// The request as a server with this mistake understands it.
#[cfg(feature = "fault-injection")]
fn mistaken<'a>(request: Request<'a>, mistake: Option<Mistake>, server: &mut Server) -> Request<'a> {
    match request {
        Request::Open { topic, ask, keep, from, .. } if mistake == Some(Mistake::NumbersGoBack) => {
            Request::Open { topic, ask, keep, known: None, from }
        }
        Request::Append { topic, .. } if mistake == Some(Mistake::NoSubmissions) => {
            server.forget_submissions(topic);
            request
        }
        _ => request,
    }
}

fn topic_of<'a>(request: &Request<'a>) -> Option<&'a TopicName> {
    match *request {
        Request::Open { topic, .. }
        | Request::Read { topic, .. }
        | Request::Close { topic }
        | Request::Append { topic, .. }
        | Request::Report { topic, .. }
        | Request::Presence { topic, .. } => Some(topic),
        Request::Beat { .. } | Request::Nodes { .. } | Request::Control { .. } => None,
    }
}

fn kept(request: Request<'_>) -> Kept {
    match request {
        Request::Open { topic, ask, keep, known, from } => {
            let topic = topic.clone();
            Box::new(move |give| give(Request::Open { topic: &topic, ask, keep, known, from }))
        }
        Request::Read { topic, ask, from } => {
            let topic = topic.clone();
            Box::new(move |give| give(Request::Read { topic: &topic, ask, from }))
        }
        Request::Close { topic } => {
            let topic = topic.clone();
            Box::new(move |give| give(Request::Close { topic: &topic }))
        }
        Request::Append { topic, keep, create, submission, count, payload, key } => {
            let (topic, payload) = (topic.clone(), payload.clone());
            let key = key.map(|(key, life)| (key.to_owned(), life));
            Box::new(move |give| {
                let key = key.as_ref().map(|(key, life)| (&**key, *life));
                give(Request::Append { topic: &topic, keep, create, submission, count, payload: &payload, key });
            })
        }
        Request::Report { topic, subscribers, valid } => {
            let topic = topic.clone();
            Box::new(move |give| give(Request::Report { topic: &topic, subscribers, valid }))
        }
        Request::Presence { topic, ask, members, known, valid, most } => {
            let (topic, members) = (topic.clone(), members.map(<[u8]>::to_vec));
            Box::new(move |give| {
                give(Request::Presence { topic: &topic, ask, members: members.as_deref(), known, valid, most });
            })
        }
        Request::Beat { about, valid } => {
            let about = about.to_owned();
            Box::new(move |give| give(Request::Beat { about: &about, valid }))
        }
        Request::Nodes { ask } => Box::new(move |give| give(Request::Nodes { ask })),
        Request::Control { to, message } => {
            let message = message.to_vec();
            Box::new(move |give| give(Request::Control { to, message: &message }))
        }
    }
}

#[cfg(test)]
mod tests;
