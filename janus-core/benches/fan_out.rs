//! The cost of sending one frame to every subscriber of a topic, compared with a bare loop of `send` over the same
//! sockets.
//!
//! The bare loop is a lower bound: no locks, no counters, and no queue for a lagging client. The ratio is therefore the
//! price of delivery on top of the system call. Both are measured on one thread and on two: the bare loop with half of
//! the sockets per thread, a pass with the help of one sender. Up to 128 subscribers (`inline_subscribers`) the server
//! asks its senders only while its home arbiter is behind, because a sender takes long to wake: see the smaller tables.
//!
//! The receivers are drained between the measured times, so no buffer fills, and every byte is checked.

mod interleaved;

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};
use std::time::{Duration, Instant};

use interleaved::{Comparison, rounds};
use janus_core::Config;
use janus_core::internals::FanOut;
use socket2::SockRef;

/// Delivery does not read the payload. The bytes differ, so that a whole frame differs from two halves.
const FRAME: [u8; 100] = {
    let mut frame = [b'x'; 100];
    frame[0] = b'{';
    frame[99] = 1;
    frame
};

/// The minimum number of frames per turn, for turns long enough for the clock. A turn with more subscribers sends one
/// frame to each.
const SENDS_PER_TURN: usize = 512;

/// Descriptors per subscriber: the socket at either end, and a duplicate of the sending end for the bare loop.
const DESCRIPTORS_EACH: u64 = 3;
const DESCRIPTORS_RESERVED: u64 = 64;

fn main() -> io::Result<()> {
    let descriptors = rlimit::increase_nofile_limit(u64::MAX)?;
    for (subscribers, measured) in [(16, 300), (256, 200), (4_096, 50)] {
        if subscribers as u64 * DESCRIPTORS_EACH + DESCRIPTORS_RESERVED > descriptors {
            println!("\n{subscribers} subscribers: left out, the limit of {descriptors} descriptors is too low");
            continue;
        }
        compare(subscribers, rounds(measured))?;
    }
    Ok(())
}

fn compare(subscribers: usize, rounds: usize) -> io::Result<()> {
    let (senders, receivers) = connect(subscribers)?;
    let bare: Arc<[TcpStream]> = senders.into();
    let halves = Halves::start(Arc::clone(&bare));
    let delivery = FanOut::new(bare.iter().map(TcpStream::try_clone).collect::<io::Result<Vec<_>>>()?, 1)?;

    let frames = (SENDS_PER_TURN / subscribers).max(1);
    let turn = |send: &dyn Fn()| {
        let start = Instant::now();
        (0..frames).for_each(|_| send());
        let time = start.elapsed();
        drain(&receivers, frames);
        time
    };
    Comparison::new(
        format!("one frame of 100 B to {subscribers} subscribers, per send"),
        (frames * subscribers) as u32,
    )
    .contender("bare loop", None, || turn(&|| send_to_all(&bare)))
    .contender("pass", Some("bare loop"), || turn(&|| delivery.send(&FRAME)))
    .contender("bare loop, 2 threads", None, || turn(&|| halves.send()))
    .contender("pass, 1 sender", Some("bare loop, 2 threads"), || turn(&|| delivery.send_with_senders(&FRAME)))
    .run(rounds);
    nothing_is_left(&receivers)
}

fn send_to_all(streams: &[TcpStream]) {
    for mut stream in streams {
        let sent = stream.write(&FRAME).expect("the receiver is connected");
        assert_eq!(sent, FRAME.len(), "the receiver has been drained");
    }
}

/// The bare loop on two threads, each with half of the sockets.
struct Halves {
    streams: Arc<[TcpStream]>,
    /// Dropped to end the other thread.
    orders: Sender<()>,
    done: Receiver<()>,
}

impl Halves {
    fn start(streams: Arc<[TcpStream]>) -> Self {
        let (orders, ordered) = mpsc::channel();
        let (report, done) = mpsc::channel();
        std::thread::spawn({
            let streams = Arc::clone(&streams);
            move || {
                for () in ordered {
                    send_to_all(&streams[streams.len() / 2..]);
                    report.send(()).expect("whoever orders waits");
                }
            }
        });
        Self { streams, orders, done }
    }

    fn send(&self) {
        self.orders.send(()).expect("the other thread waits for orders");
        send_to_all(&self.streams[..self.streams.len() / 2]);
        self.done.recv().expect("the other thread has sent to its half");
    }
}

/// Creates pairs of connected sockets. The sending ends have the options of a server's sockets.
fn connect(pairs: usize) -> io::Result<(Vec<TcpStream>, Vec<TcpStream>)> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let addr = listener.local_addr()?;
    let (mut senders, mut receivers) = (Vec::with_capacity(pairs), Vec::with_capacity(pairs));
    for _ in 0..pairs {
        let receiver = TcpStream::connect(addr)?;
        // A missing byte fails the bench instead of blocking it for ever.
        receiver.set_read_timeout(Some(Duration::from_secs(5)))?;
        let (sender, _) = listener.accept()?;
        sender.set_nodelay(true)?;
        sender.set_nonblocking(true)?;
        SockRef::from(&sender).set_send_buffer_size(Config::default().send_buffer_bytes)?;
        senders.push(sender);
        receivers.push(receiver);
    }
    Ok((senders, receivers))
}

fn drain(receivers: &[TcpStream], frames: usize) {
    let mut received = vec![0; frames * FRAME.len()];
    for mut receiver in receivers {
        received.fill(0);
        receiver.read_exact(&mut received).expect("every frame arrives");
        assert!(received.chunks(FRAME.len()).all(|frame| frame == FRAME), "every frame arrives as it was sent");
    }
}

fn nothing_is_left(receivers: &[TcpStream]) -> io::Result<()> {
    for mut receiver in receivers {
        receiver.set_nonblocking(true)?;
        let more = receiver.read(&mut [0]);
        assert!(more.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock), "nothing is sent twice");
    }
    Ok(())
}
