//! Pieces over real sockets, through a ring and with a system call for each send.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};
use std::task::{Wake, Waker};
use std::time::Duration;

use super::super::tests::subscribed;
use super::super::{Slot, Subscription};
use crate::config::{IoUring, SlowConsumer};
use crate::delivery::batch::tests::batch_of;
use crate::delivery::codecs::CLASSIC;
use crate::delivery::pass::{Help, PIECE, Server};
use crate::delivery::stream::Stream;
use crate::delivery::{Batch, End, Link, Pass, Sending, Terms};
use crate::ground::clock::Tick;
use crate::ground::fault::Faults;
use crate::ground::homes::HomeId;
use crate::wire::Peer;

/// Both ways. Where the system has no io_uring, both are the way with a system call for each send.
fn ways() -> [Arc<Terms>; 2] {
    [IoUring::Off, IoUring::Auto].map(|way| Terms::in_tests_with(8, 64 * 1024, Sending::choose(way).unwrap()))
}

fn slot(link: impl Into<Link>, terms: &Arc<Terms>) -> Arc<Slot> {
    Arc::new(Slot::new(1, None, link, CLASSIC, Arc::default(), terms))
}

/// A subscriber over TCP, and the client's end.
fn tcp(terms: &Arc<Terms>) -> (Arc<Subscription>, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    client.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let (server, _) = listener.accept().unwrap();
    server.set_nonblocking(true).unwrap();
    let slot = slot(tokio::net::TcpStream::from_std(server).unwrap(), terms);
    (subscribed(&slot, SlowConsumer::Disconnect), client)
}

/// A subscriber over a Unix socket, and the client's end.
fn unix(terms: &Arc<Terms>) -> (Arc<Subscription>, UnixStream) {
    let (client, server) = UnixStream::pair().unwrap();
    client.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    server.set_nonblocking(true).unwrap();
    let slot = slot(tokio::net::UnixStream::from_std(server).unwrap(), terms);
    (subscribed(&slot, SlowConsumer::Disconnect), client)
}

fn batch(frame: &str, seq: u64) -> Arc<Batch> {
    Arc::new(batch_of(&[frame], seq + 1))
}

fn pass(batch: &Arc<Batch>, subscribers: &[&Arc<Subscription>], faults: &Arc<Faults>) -> Pass {
    let subscribers = subscribers.iter().map(|subscriber| Arc::clone(subscriber)).collect();
    Pass::new(Arc::clone(batch), Arc::new(subscribers), Tick::new(1), Help::None, Arc::clone(faults))
}

fn serve(batch: &Arc<Batch>, subscribers: &[&Arc<Subscription>]) {
    let pass = pass(batch, subscribers, &Arc::default());
    while pass.serve_piece(Server::Home(HomeId::FIRST)).is_some() {}
    assert!(pass.is_complete());
}

#[track_caller]
fn assert_receives(client: &mut impl Read, expected: &str) {
    let mut received = vec![0; expected.len()];
    client.read_exact(&mut received).unwrap();
    assert_eq!(String::from_utf8(received).unwrap(), expected);
}

#[tokio::test]
async fn each_subscriber_of_a_piece_is_served_whatever_its_link() {
    for terms in ways() {
        let ((one, mut one_client), (other, mut other_client), (local_one, mut local_client)) =
            (tcp(&terms), tcp(&terms), unix(&terms));
        let (mut stream_client, stream) = tokio::io::duplex(64);
        let streamed = subscribed(&slot(Stream::new(Box::pin(stream), Peer::Local), &terms), SlowConsumer::Disconnect);
        let in_process = Arc::new(Subscription::local(Arc::new(Slot::local(1, &terms)), SlowConsumer::Disconnect));
        assert!(in_process.begin(1));
        let (gone, mut gone_client) = tcp(&terms);
        gone.end();
        let (late, mut late_client) = tcp(&terms);
        assert!(late.begin(2));
        let all = [&one, &streamed, &local_one, &gone, &late, &in_process, &other];
        serve(&Arc::new(batch_of(&["one ", "two "], 3)), &all);
        serve(&batch("three", 3), &all);
        assert_receives(&mut one_client, "one two three");
        assert_receives(&mut other_client, "one two three");
        assert_receives(&mut local_client, "one two three");
        assert_receives(&mut late_client, "two three");
        gone_client.set_nonblocking(true).unwrap();
        assert_eq!(gone_client.read(&mut [0; 8]).unwrap_err().kind(), ErrorKind::WouldBlock);
        assert_eq!(in_process.slot.lag().map(|lag| lag.frames), Some(3));
        streamed.slot.flush(&mut std::task::Context::from_waker(Waker::noop()));
        let mut received = [0; 13];
        tokio::io::AsyncReadExt::read_exact(&mut stream_client, &mut received).await.unwrap();
        assert_eq!(&received, b"one two three");
    }
}

#[tokio::test]
async fn what_a_socket_does_not_take_waits_and_nothing_overtakes_it() {
    for terms in ways() {
        let ((slow, mut slow_client), (first, mut first_client), (last, mut last_client)) =
            (unix(&terms), tcp(&terms), tcp(&terms));
        if let Some(Link::Unix(socket)) = &slow.slot.out.lock().link {
            socket2::SockRef::from(&**socket).set_send_buffer_size(8 * 1024).unwrap();
        }
        let mut expected = String::new();
        for seq in 1..=6 {
            let message = seq.to_string().repeat(7_000);
            serve(&batch(&message, seq), &[&first, &slow, &last]);
            assert_receives(&mut first_client, &message);
            assert_receives(&mut last_client, &message);
            expected += &message;
        }
        let waiting = slow.slot.lag().expect("the buffer is too small for all messages");
        assert!(waiting.frames < 6 && slow.slot.needs_attention(), "{waiting:?}");
        let reader = std::thread::spawn(move || {
            let mut received = vec![0; expected.len()];
            slow_client.read_exact(&mut received).unwrap();
            assert_eq!(String::from_utf8(received).unwrap(), expected);
        });
        std::future::poll_fn(|cx| {
            slow.slot.poll_attention(cx.waker());
            slow.slot.flush(cx);
            if slow.slot.is_flushed() { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
        })
        .await;
        reader.join().unwrap();
    }
}

#[tokio::test]
async fn a_client_that_has_left_ends_alone() {
    for terms in ways() {
        let ((first, mut first_client), (closed, closed_client)) = (tcp(&terms), unix(&terms));
        let ((reset, reset_client), (last, mut last_client)) = (tcp(&terms), tcp(&terms));
        drop(closed_client);
        socket2::SockRef::from(&reset_client).set_linger(Some(Duration::ZERO)).unwrap();
        drop(reset_client);
        serve(&batch("message", 1), &[&first, &closed, &reset, &last]);
        assert_receives(&mut first_client, "message");
        assert_receives(&mut last_client, "message");
        assert_eq!(closed.slot.take_end(), Some(End::Broken(ErrorKind::BrokenPipe)));
        let end = reset.slot.take_end();
        let expected = [ErrorKind::ConnectionReset, ErrorKind::BrokenPipe].map(|kind| Some(End::Broken(kind)));
        assert!(expected.contains(&end), "{end:?}");
        assert_eq!((first.slot.take_end(), last.slot.take_end()), (None, None));
    }
}

#[tokio::test]
async fn a_slot_in_the_hands_of_another_thread_keeps_nobody_waiting_but_itself() {
    let [_, terms] = ways();
    let mut clients: Vec<_> = (0..PIECE).map(|_| tcp(&terms)).collect();
    let subscriptions: Vec<_> = clients.iter().map(|(subscription, _)| Arc::clone(subscription)).collect();
    let busy = Arc::clone(&subscriptions[2]);
    let out = busy.slot.out.lock();
    let thread = std::thread::spawn(move || serve(&batch("message", 1), &subscriptions.iter().collect::<Vec<_>>()));
    if terms.sending.is_through_rings() {
        for index in [0, 1, 3] {
            assert_receives(&mut clients[index].1, "message");
        }
    }
    drop(out);
    thread.join().unwrap();
    assert_receives(&mut clients[2].1, "message");
}

#[tokio::test]
async fn a_slot_twice_in_a_piece_is_served_once() {
    for terms in ways() {
        let ((one, mut one_client), (other, mut other_client)) = (tcp(&terms), tcp(&terms));
        let again = subscribed(&one.slot, SlowConsumer::Disconnect);
        again.end();
        serve(&batch("message", 1), &[&one, &other, &again, &one]);
        for client in [&mut one_client, &mut other_client] {
            assert_receives(client, "message");
            client.set_nonblocking(true).unwrap();
            assert_eq!(client.read(&mut [0; 8]).unwrap_err().kind(), ErrorKind::WouldBlock);
        }
    }
}

#[tokio::test]
async fn passes_over_the_same_slots_in_opposite_orders_do_not_wait_for_each_other() {
    const MESSAGES: u64 = 400;
    for terms in ways() {
        let mut clients: Vec<_> = (0..PIECE).map(|_| tcp(&terms)).collect();
        let of_topic = |reversed: bool| {
            let subscribe =
                |(ours, _): &(Arc<Subscription>, TcpStream)| subscribed(&ours.slot, SlowConsumer::Disconnect);
            let mut subscriptions: Vec<_> = clients.iter().map(subscribe).collect();
            if reversed {
                subscriptions.reverse();
            }
            subscriptions
        };
        let start = Arc::new(Barrier::new(2));
        let threads = [("a", of_topic(false)), ("b", of_topic(true))].map(|(topic, subscriptions)| {
            let start = Arc::clone(&start);
            std::thread::spawn(move || {
                let subscriptions: Vec<_> = subscriptions.iter().collect();
                start.wait();
                for seq in 1..=MESSAGES {
                    serve(&batch(&format!("{topic}{seq:04}"), seq), &subscriptions);
                }
            })
        });
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        for (_, client) in &mut clients {
            let mut received = vec![0; 2 * 5 * MESSAGES as usize];
            client.read_exact(&mut received).unwrap();
            for topic in ["a", "b"] {
                let frames = received.chunks(5).filter(|frame| frame.starts_with(topic.as_bytes()));
                let expected = (1..=MESSAGES).map(|seq| format!("{topic}{seq:04}").into_bytes());
                assert!(frames.eq(expected), "the messages of {topic} are complete and in order");
            }
        }
    }
}

#[cfg(feature = "fault-injection")]
#[tokio::test]
async fn a_panic_in_the_middle_of_a_piece_serves_nobody_twice() {
    use crate::ground::fault::Fault;

    for terms in ways() {
        for nth in 1..=PIECE {
            let mut clients: Vec<_> = (0..PIECE).map(|_| tcp(&terms)).collect();
            let (mut stream_client, stream) = tokio::io::duplex(64);
            let streamed =
                subscribed(&slot(Stream::new(Box::pin(stream), Peer::Local), &terms), SlowConsumer::Disconnect);
            let faults = Arc::<Faults>::default();
            faults.arm(&Fault::TopicSend(u32::try_from(nth).unwrap()));
            let mut all: Vec<_> = clients.iter().map(|(subscription, _)| subscription).collect();
            all[0] = &streamed;
            let pass = pass(&batch("message", 1), &all, &faults);
            assert!(catch_unwind(AssertUnwindSafe(|| pass.serve_piece(Server::Home(HomeId::FIRST)))).is_err());
            assert!(!pass.is_complete());
            while pass.serve_piece(Server::Sender(1)).is_some() {}
            assert!(pass.is_complete());
            for (_, client) in &mut clients[1..] {
                assert_receives(client, "message");
                client.set_nonblocking(true).unwrap();
                assert_eq!(client.read(&mut [0; 8]).unwrap_err().kind(), ErrorKind::WouldBlock);
            }
            streamed.slot.flush(&mut std::task::Context::from_waker(Waker::noop()));
            drop(streamed);
            let mut received = [0; 7];
            tokio::io::AsyncReadExt::read_exact(&mut stream_client, &mut received).await.unwrap();
            assert_eq!(&received, b"message");
        }
    }
}

/// Notes whether the lock of a slot is free when it is woken.
struct Looks(Arc<Slot>, AtomicUsize);

impl Wake for Looks {
    fn wake(self: Arc<Self>) {
        self.1.fetch_add(usize::from(self.0.out.try_lock().is_some()), Ordering::Relaxed);
    }
}

#[tokio::test]
async fn no_slot_is_locked_for_the_work_of_a_subscriber_that_is_not_ready() {
    let [_, terms] = ways();
    let ((first, mut first_client), (last, mut last_client)) = (tcp(&terms), tcp(&terms));
    let (_stream_client, stream) = tokio::io::duplex(64);
    let busy = subscribed(&slot(Stream::new(Box::pin(stream), Peer::Local), &terms), SlowConsumer::Disconnect);
    let looks = Arc::new(Looks(Arc::clone(&first.slot), AtomicUsize::new(0)));
    busy.slot.poll_attention(&Waker::from(Arc::clone(&looks)));
    serve(&batch("message", 1), &[&first, &busy, &last]);
    assert_eq!(looks.1.load(Ordering::Relaxed), 1, "woken with the first slot unlocked");
    assert_receives(&mut first_client, "message");
    assert_receives(&mut last_client, "message");
}

/// Panics when it is woken.
struct Broken(AtomicUsize);

impl Wake for Broken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
        panic!("a task that panics when it is woken");
    }
}

#[tokio::test]
async fn a_panic_after_the_sends_leaves_no_subscriber_to_be_sent_the_same_again() {
    for terms in ways() {
        let mut clients: Vec<_> = (0..PIECE - 2).map(|_| tcp(&terms)).collect();
        let broken = [unix(&terms), unix(&terms)];
        let waker = Arc::new(Broken(AtomicUsize::new(0)));
        for (subscription, client) in &broken {
            client.shutdown(std::net::Shutdown::Both).unwrap();
            subscription.slot.poll_attention(&Waker::from(Arc::clone(&waker)));
        }
        let mut all: Vec<_> = broken.iter().map(|(subscription, _)| subscription).collect();
        all.extend(clients.iter().map(|(subscription, _)| subscription));
        let pass = pass(&batch("message", 1), &all, &Arc::default());
        // The first panic is the one of the first of the two, and the second one is held back.
        while catch_unwind(AssertUnwindSafe(|| while pass.serve_piece(Server::Home(HomeId::FIRST)).is_some() {}))
            .is_err()
        {}
        assert!(pass.is_complete());
        assert_eq!(waker.0.load(Ordering::Relaxed), 2);
        for (_, client) in &mut clients {
            assert_receives(client, "message");
            client.set_nonblocking(true).unwrap();
            assert_eq!(client.read(&mut [0; 8]).unwrap_err().kind(), ErrorKind::WouldBlock);
        }
    }
}

#[tokio::test]
async fn a_thread_keeps_its_ring_and_its_sockets_apart() {
    let [_, terms] = ways();
    let mut clients: Vec<_> = (0..PIECE).map(|_| tcp(&terms)).collect();
    for seq in 1..=100 {
        serve(&batch("message", seq), &clients.iter().map(|(subscription, _)| subscription).collect::<Vec<_>>());
    }
    // A closed connection is closed for the client as well: no ring holds on to the socket.
    let (subscription, mut client) = clients.pop().unwrap();
    assert!(subscription.slot.close());
    let mut received = String::new();
    client.read_to_string(&mut received).unwrap();
    assert_eq!(received, "message".repeat(100));
    let _ = client.write(b"anybody there?");
    assert_eq!(terms.sending.threads_without(), 0);
}
