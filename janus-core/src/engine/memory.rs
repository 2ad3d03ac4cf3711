//! An engine for several instances in one process.
//!
//! The reference for other engines, and an engine for tests of programs with several instances. The messages live as long as the last clone of the engine.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Instant, SystemTime};

use bytes::Bytes;
use futures_util::future::LocalBoxFuture;
use parking_lot::Mutex;

use super::exchange::{Exchange, LinkNumber, Outgoing};
use super::log::{Given, Server};
use super::{Answer, Engine, Link, LinkError, NodeId, Record, Request, What};
use crate::wire::Epoch;

/// Bytes of answers and records that may wait in a link for the node to [poll](Link::poll). A link with more ends with
/// the reason `slow`. As much as Redis allows a subscriber.
pub const MAX_WAITING_BYTES: usize = 32 << 20;

/// Bytes of an answer or a record besides the texts.
const ANSWER_BYTES: usize = 128;

/// An engine for several instances in one process, in the memory of the process.
///
/// A clone is the same engine: give a clone to each instance. Limits: a link ends when [`MAX_WAITING_BYTES`]
/// wait for the node; a topic is kept within [`Keep`](super::Keep).
///
/// Two nodes of one topic:
///
/// ```
/// use std::future::poll_fn;
/// use std::time::Duration;
///
/// use futures_executor::block_on;
/// use janus_core::engine::memory::Memory;
/// use janus_core::engine::{Answer, Engine, Keep, NodeId, Outcome, Payload, Request};
/// use janus_core::wire::{Publication, TopicName};
///
/// # block_on(async {
/// let engine = Memory::default();
/// let mut one = engine.connect(0, NodeId::new(1)).await?;
/// let mut two = engine.clone().connect(0, NodeId::new(2)).await?;
///
/// let (topic, hour) = (TopicName::new("news", 255)?, Duration::from_secs(3_600));
/// let keep = Keep { messages: 100, bytes: 1 << 20, age: hour, state: 24 * hour };
/// one.request(Request::Open { topic: &topic, ask: 1, keep, known: None, from: None });
/// let Answer::Opened { position, .. } = poll_fn(|cx| one.poll(cx)).await? else { panic!("not open") };
///
/// let payload = Payload::of([&Publication::new(&topic, r#""greeting""#, "1", r#""hello""#)?]);
/// let (create, submission, count, key) = (true, 1, 1, None);
/// two.request(Request::Append { topic: &topic, keep, create, submission, count, payload: &payload, key });
/// let Answer::Appended { outcome, .. } = poll_fn(|cx| two.poll(cx)).await? else { panic!("not appended") };
/// let Ok(Outcome::New(first)) = outcome else { panic!("not new") };
/// assert_eq!((first.epoch, first.seq), (position.epoch, 1));
///
/// let Answer::Record { record, .. } = poll_fn(|cx| one.poll(cx)).await? else { panic!("no record") };
/// assert_eq!(record.last(), first);
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// # }).unwrap();
/// ```
#[derive(Clone)]
pub struct Memory(Arc<Shared>);

struct Shared {
    /// The same moment by two clocks: the time of the engine must not go back with the time of day.
    begun: (Instant, SystemTime),
    state: Mutex<State>,
}

struct State {
    exchange: Exchange,
    links: BTreeMap<LinkNumber, Waiting>,
    next_link: LinkNumber,
    /// Empty between two requests; kept to save allocations.
    out: Outgoing,
}

/// The answers in wait for a link to be polled.
#[derive(Default)]
struct Waiting {
    answers: VecDeque<Answer>,
    bytes: usize,
    is_over: bool,
    waker: Option<Waker>,
}

impl Default for Memory {
    fn default() -> Self {
        let state = State {
            // The only history of this engine: without a copy nothing is lost.
            exchange: Exchange::new(Server::new(0)),
            links: BTreeMap::new(),
            next_link: 0,
            out: Vec::new(),
        };
        Self(Arc::new(Shared { begun: (Instant::now(), SystemTime::now()), state: Mutex::new(state) }))
    }
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Memory").field("links", &self.0.state.lock().links.len()).finish_non_exhaustive()
    }
}

impl Engine for Memory {
    fn name(&self) -> &'static str {
        "memory"
    }

    fn connect(&self, _shard: usize, node: NodeId) -> LocalBoxFuture<'static, Result<Box<dyn Link>, LinkError>> {
        let shared = Arc::clone(&self.0);
        Box::pin(async move {
            let number = shared.state.lock().join(node);
            Ok(Box::new(MemoryLink { shared, number }) as Box<dyn Link>)
        })
    }
}

impl Shared {
    fn given(&self) -> Given {
        let (instant, time_of_day) = self.begun;
        let begun = time_of_day.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let fresh = getrandom::u64().expect("the system has a source of random numbers");
        Given { now: begun + instant.elapsed(), fresh: Epoch::new(fresh) }
    }
}

impl State {
    fn join(&mut self, node: NodeId) -> LinkNumber {
        self.next_link += 1;
        self.exchange.join(self.next_link, node);
        self.links.insert(self.next_link, Waiting::default());
        self.next_link
    }

    fn leave(&mut self, link: LinkNumber) {
        self.exchange.leave(link);
        self.links.remove(&link);
    }

    /// Carries out a request, and returns the links to be woken.
    fn execute(&mut self, given: Given, link: LinkNumber, request: Request<'_>) -> Vec<Waker> {
        let mut out = std::mem::take(&mut self.out);
        self.exchange.execute(given, link, request, &mut out);
        let mut wakers = Vec::new();
        for (link, answer) in out.drain(..) {
            let Some(waiting) = self.links.get_mut(&link) else { continue };
            if waiting.put(answer).is_err() {
                self.exchange.leave(link);
            }
            wakers.extend(waiting.waker.take());
        }
        self.out = out;
        wakers
    }
}

/// More waits than a link may have waiting.
struct TooSlow;

impl Waiting {
    fn put(&mut self, answer: Answer) -> Result<(), TooSlow> {
        // Not the size of this answer: a node must be able to read a log of any size.
        if self.bytes > MAX_WAITING_BYTES {
            *self = Self { is_over: true, waker: self.waker.take(), ..Self::default() };
        }
        if self.is_over {
            return Err(TooSlow);
        }
        self.bytes += bytes_of(&answer);
        self.answers.push_back(answer);
        Ok(())
    }

    fn take(&mut self, cx: &Context<'_>) -> Poll<Result<Answer, LinkError>> {
        if self.is_over {
            let text = format!("more than {MAX_WAITING_BYTES} bytes waited for the node: the node reads too slowly");
            return Poll::Ready(Err(LinkError::new("slow", text)));
        }
        let Some(answer) = self.answers.pop_front() else {
            self.waker = Some(cx.waker().clone());
            return Poll::Pending;
        };
        self.bytes -= bytes_of(&answer);
        Poll::Ready(Ok(answer))
    }
}

struct MemoryLink {
    shared: Arc<Shared>,
    number: LinkNumber,
}

impl Link for MemoryLink {
    fn request(&mut self, request: Request<'_>) {
        let given = self.shared.given();
        let wakers = self.shared.state.lock().execute(given, self.number, request);
        // Without the lock: a waker may be the code of another executor.
        wakers.into_iter().for_each(Waker::wake);
    }

    fn backlog(&self) -> usize {
        0
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Answer, LinkError>> {
        let mut state = self.shared.state.lock();
        state.links.get_mut(&self.number).expect("a link is in the table until it is dropped").take(cx)
    }
}

impl Drop for MemoryLink {
    fn drop(&mut self) {
        self.shared.state.lock().leave(self.number);
    }
}

fn bytes_of(answer: &Answer) -> usize {
    let records = |records: &[Record]| records.iter().map(bytes_of_record).sum();
    let texts = match answer {
        Answer::Opened { records: all, .. } | Answer::Records { records: all, .. } => records(all),
        Answer::Record { record, .. } => bytes_of_record(record),
        Answer::Nodes { nodes, .. } => nodes.iter().map(|(_, about)| about.len()).sum(),
        Answer::Presence { nodes, .. } => {
            nodes.iter().map(|node| ANSWER_BYTES + node.members.as_ref().map_or(0, Bytes::len)).sum()
        }
        Answer::Control { message, .. } => message.len(),
        Answer::Failed { message, .. } => message.len(),
        Answer::Appended { .. } | Answer::Reported { .. } => 0,
    };
    ANSWER_BYTES + texts
}

fn bytes_of_record(record: &Record) -> usize {
    match &record.what {
        What::Messages { payload, .. } => ANSWER_BYTES + payload.bytes().len(),
        What::Lost { .. } => ANSWER_BYTES,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;
    use std::time::Duration;

    use futures_util::FutureExt;

    use super::*;
    use crate::engine::{Keep, Payload};
    use crate::wire::TopicName;

    const HOUR: Duration = Duration::from_secs(3_600);
    const KEEP: Keep = Keep { messages: 100, bytes: 1 << 30, age: HOUR, state: HOUR };

    #[derive(Default)]
    struct Wakes(AtomicUsize);

    impl Wake for Wakes {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn topic() -> TopicName {
        TopicName::new("news", 255).unwrap()
    }

    fn connect(engine: &Memory, node: u64) -> Box<dyn Link> {
        engine.connect(0, NodeId::new(node)).now_or_never().unwrap().unwrap()
    }

    fn open(link: &mut dyn Link, from: Option<u64>) {
        link.request(Request::Open { topic: &topic(), ask: 1, keep: KEEP, known: None, from });
    }

    fn append(link: &mut dyn Link, submission: u64, bytes: usize) {
        let payload = Payload::from_bytes(Bytes::from(vec![b'x'; bytes]));
        let (create, count, key) = (true, 1, None);
        let request =
            Request::Append { topic: &topic(), keep: KEEP, create, submission, count, payload: &payload, key };
        link.request(request);
    }

    fn poll(link: &mut dyn Link) -> Poll<Result<Answer, LinkError>> {
        link.poll(&mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn a_link_that_waits_is_woken_by_a_record() {
        let engine = Memory::default();
        let (mut one, mut two) = (connect(&engine, 1), connect(&engine, 2));
        open(&mut *one, None);
        assert!(poll(&mut *one).is_ready());
        let wakes = Arc::new(Wakes::default());
        assert!(one.poll(&mut Context::from_waker(&Waker::from(Arc::clone(&wakes)))).is_pending());
        append(&mut *two, 1, 9);
        assert_eq!(wakes.0.load(Ordering::Relaxed), 1);
        assert!(matches!(poll(&mut *one), Poll::Ready(Ok(Answer::Record { .. }))));
        append(&mut *two, 2, 9);
        assert_eq!(wakes.0.load(Ordering::Relaxed), 1, "a waker is for one time");
    }

    #[test]
    fn a_link_that_does_not_read_ends_with_an_error_and_spares_the_others() {
        let engine = Memory::default();
        let (mut slow, mut other) = (connect(&engine, 1), connect(&engine, 2));
        open(&mut *slow, None);
        let mut appended = 0;
        for submission in 1..=2 * (MAX_WAITING_BYTES >> 20) as u64 {
            append(&mut *other, submission, 1 << 20);
            while let Poll::Ready(answer) = poll(&mut *other) {
                answer.unwrap();
                appended += 1;
            }
        }
        assert_eq!(appended, 2 * (MAX_WAITING_BYTES >> 20));
        for _ in 0..2 {
            let Poll::Ready(Err(error)) = poll(&mut *slow) else { panic!("the link has not ended") };
            assert_eq!(error.reason, "slow");
        }
        open(&mut *slow, None);
        assert!(matches!(poll(&mut *slow), Poll::Ready(Err(_))), "an ended link is not heard");
        let mut next = connect(&engine, 1);
        open(&mut *next, None);
        assert!(matches!(poll(&mut *next), Poll::Ready(Ok(Answer::Opened { .. }))));
    }

    #[test]
    fn a_log_of_any_size_is_read() {
        let engine = Memory::default();
        let mut link = connect(&engine, 1);
        for submission in 1..=2 * (MAX_WAITING_BYTES >> 20) as u64 {
            append(&mut *link, submission, 1 << 20);
            assert!(poll(&mut *link).is_ready());
        }
        open(&mut *link, Some(1));
        let Poll::Ready(Ok(Answer::Opened { records, .. })) = poll(&mut *link) else { panic!("not open") };
        assert_eq!(records.len(), 2 * (MAX_WAITING_BYTES >> 20));
    }

    #[test]
    fn a_dropped_link_leaves_nothing_behind() {
        let engine = Memory::default();
        let mut link = connect(&engine, 1);
        open(&mut *link, None);
        drop(link);
        assert_eq!(format!("{engine:?}"), "Memory { links: 0, .. }");
        let mut other = connect(&engine.clone(), 2);
        append(&mut *other, 1, 9);
        assert!(matches!(poll(&mut *other), Poll::Ready(Ok(Answer::Appended { .. }))));
    }

    #[test]
    fn links_on_several_threads_see_one_order() {
        const THREADS: u64 = 4;
        const EACH: u64 = 200;
        let engine = Memory::default();
        // No submission before the topic is open everywhere.
        let everywhere = std::sync::Barrier::new(THREADS as usize);
        let run = |id| {
            let mut link = connect(&engine, id);
            open(&mut *link, None);
            everywhere.wait();
            let (mut records, mut submitted) = (Vec::new(), 0);
            while records.len() < (THREADS * EACH) as usize {
                if submitted < EACH {
                    submitted += 1;
                    append(&mut *link, submitted, 9);
                }
                let answer = futures_executor::block_on(std::future::poll_fn(|cx| link.poll(cx))).unwrap();
                if let Answer::Record { record, .. } = answer {
                    records.push(record);
                }
            }
            records
        };
        let all: Vec<_> = std::thread::scope(|scope| {
            let run = &run;
            let threads: Vec<_> = (1..=THREADS).map(|id| scope.spawn(move || run(id))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(all[0].iter().map(|record| record.first).eq(1..=THREADS * EACH));
        assert!(all.iter().all(|records| *records == all[0]));
    }
}
