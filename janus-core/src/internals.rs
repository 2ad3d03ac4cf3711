//! The delivery path without its actors, for the benches and fuzz targets. Not part of the public API: anything here may change or go at
//! any time.

use std::future::poll_fn;
use std::io;
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;
use std::time::Instant;

use tokio::runtime::Runtime;

use crate::config::SlowConsumer;
use crate::delivery::codecs::CLASSIC;
use crate::delivery::pass::{Help, Server};
use crate::delivery::senders::StopSender;
#[cfg(feature = "tls")]
pub use crate::delivery::tls::BareSession;
use crate::delivery::{OpenBatch, Pass, SenderPool, Slot, Subscription, Terms};
use crate::ground::clock::Tick;
use crate::ground::fault::Faults;
use crate::ground::homes::HomeId;
use crate::wire::{self, Epoch, TopicName};

/// The subscribers of one topic and the senders that help with them, without the topic and the Transports.
///
/// Without Transports, bytes refused by a socket stay queued; the caller keeps the sockets drained.
#[derive(Debug)]
pub struct FanOut {
    subscribers: Arc<Vec<Arc<Subscription>>>,
    next_seq: AtomicU64,
    faults: Arc<Faults>,
    terms: Arc<Terms>,
    topic: TopicName,
    senders: Arc<SenderPool>,
    stop: Arc<StopSender>,
    /// Registers the sockets, and waits for the pieces in the hands of a sender, as a home arbiter does.
    runtime: Runtime,
}

impl FanOut {
    /// Subscribes the peers of `streams` and starts this many senders.
    ///
    /// # Errors
    ///
    /// The system gives no more threads, or cannot register a socket.
    pub fn new(streams: impl IntoIterator<Item = TcpStream>, senders: usize) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
        let registers = runtime.enter();
        let terms = Terms::in_tests(1_024, 1024 * 1024);
        let subscribe = |(place, stream): (u32, TcpStream)| {
            stream.set_nonblocking(true)?;
            let stream = tokio::net::TcpStream::from_std(stream)?;
            let slot = Slot::new(u64::from(place), Some(place), stream, CLASSIC, Arc::default(), &terms);
            let subscription = Subscription::of_connection(Arc::new(slot), SlowConsumer::Disconnect);
            subscription.begin(1);
            Ok(Arc::new(subscription))
        };
        let subscribers = (0..).zip(streams).map(subscribe).collect::<io::Result<Vec<_>>>()?;
        drop(registers);
        let fan_out = Self {
            subscribers: Arc::new(subscribers),
            next_seq: AtomicU64::new(1),
            faults: Arc::default(),
            terms,
            topic: TopicName::new("bench", 255).expect("a name"),
            senders: Arc::default(),
            stop: Arc::default(),
            runtime,
        };
        for number in 1..=senders {
            let (senders, stop) = (Arc::clone(&fan_out.senders), Arc::clone(&fan_out.stop));
            fan_out.senders.keep(std::thread::Builder::new().spawn(move || senders.serve(number, &stop))?);
        }
        Ok(fan_out)
    }

    /// Sends a frame to every subscriber on this thread alone.
    pub fn send(&self, frame: &[u8]) {
        let pass = self.pass(frame);
        while pass.serve_piece(Server::Home(HomeId::FIRST)).is_some() {}
        assert!(pass.is_complete(), "no other thread has claimed a piece");
    }

    /// Sends a frame to every subscriber on this thread and on the senders.
    pub fn send_with_senders(&self, frame: &[u8]) {
        let pass = Arc::new(self.pass(frame));
        self.senders.offer(Arc::clone(&pass));
        self.runtime.block_on(poll_fn(|cx| {
            // Registered before the search for the last piece, so that a piece given back is not missed.
            pass.poll_complete(cx.waker());
            while pass.serve_piece(Server::Home(HomeId::FIRST)).is_some() {}
            if pass.is_complete() { Poll::Ready(()) } else { Poll::Pending }
        }));
        self.senders.withdraw(&pass);
    }

    fn pass(&self, frame: &[u8]) -> Pass {
        let mut open = OpenBatch::default();
        open.buffer().extend_from_slice(frame);
        open.commit(Instant::now());
        let seq = self.next_seq.fetch_add(1, Ordering::Relaxed);
        let batch = Arc::new(open.seal(&self.topic, seq + 1, Epoch::NONE, Tick::new(1), &self.terms.ledger));
        Pass::new(batch, Arc::clone(&self.subscribers), Tick::new(1), Help::Together, Arc::clone(&self.faults))
    }
}

impl Drop for FanOut {
    fn drop(&mut self) {
        self.senders.stop(&self.stop);
        self.senders.join();
    }
}

/// The raw values of these keys in a JSON object, as the wire formats read them; `None` if the text is not an object.
#[must_use]
pub fn json_members<'a, const N: usize>(text: &'a str, keys: [&str; N]) -> Option<[Option<&'a str>; N]> {
    wire::json::members(text, keys).ok().map(|members| members.values)
}
