//! Bursts are not slowness: a burst makes no client slow, whether the client reads, publishes or requests the burst.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use janus_core::{Config, Event, Janus, Message, SubscribeOptions};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;
use tokio::net::tcp::OwnedReadHalf;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::support::{Client, DEADLINE, publish_frame, serve, subscribe_frame, subscribers, until};

#[tokio::test]
async fn five_thousand_tiny_messages_wait_for_a_client_that_reads_later() {
    let (janus, addr) = serve(Config { send_buffer_bytes: 4 * 1024, ..Config::default() }).await;
    let mut client = Client::connect(addr).await;
    client.subscribe("news").await;
    for number in 0..5_000 {
        janus.publish("news", &number).await.unwrap();
    }
    assert!(janus.slow_clients(1)[0].queued_frames > 1_024, "{:?}", janus.slow_clients(1));
    for number in 0..5_000 {
        assert_eq!(client.json().await["data"], number);
    }
    assert_eq!(janus.stats().slow_consumers, 0);
}

#[tokio::test]
async fn a_burst_in_one_write_reaches_each_subscriber_whole() {
    let (janus, addr) = serve(Config::default()).await;
    let mut subscribers = Vec::new();
    for _ in 0..8 {
        let mut subscriber = Client::connect(addr).await;
        subscriber.subscribe("news").await;
        subscribers.push(subscriber);
    }
    let burst: Vec<u8> = (0..5_000).flat_map(|number: u32| quiet_frame(&format!("{number:098}"))).collect();
    let mut publisher = Client::connect(addr).await;
    let readers = subscribers.into_iter().map(|mut subscriber| {
        tokio::spawn(async move {
            for number in 0..5_000 {
                assert_eq!(subscriber.json().await["data"], format!("{number:098}"));
            }
        })
    });
    let readers: Vec<_> = readers.collect();
    publisher.send(burst).await;
    for reader in readers {
        reader.await.unwrap();
    }
    assert_eq!(janus.stats().slow_consumers, 0);
}

/// A frame that publishes a string without asking for a receipt.
fn quiet_frame(data: &str) -> Vec<u8> {
    janus_core::wire::classic::client::publish("news", "\"\"", "\"\"", &Value::from(data).to_string())
}

/// Answers of 4 KiB may wait, and the kernel holds little.
fn few_answers() -> Config {
    Config { max_queue_bytes: 16 * 1024, send_buffer_bytes: 4 * 1024, ..Config::default() }
}

/// More publications than the kernel holds receipts for.
const PIPELINED: u64 = 20_000;

/// A client that sends all its requests without waiting for answers.
struct Pipelining {
    reading: OwnedReadHalf,
    received: Vec<u8>,
    writing: JoinHandle<io::Result<()>>,
}

impl Pipelining {
    async fn new(addr: SocketAddr, says: Vec<u8>, then_half_closes: bool) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4 * 1024).unwrap();
        let (reading, mut writing) = socket.connect(addr).await.unwrap().into_split();
        let writing = tokio::spawn(async move {
            writing.write_all(&says).await?;
            if then_half_closes {
                return writing.shutdown().await;
            }
            writing.forget();
            Ok(())
        });
        Self { reading, received: Vec::new(), writing }
    }

    /// Publishes numbers and asks for a receipt for each.
    async fn publisher(addr: SocketAddr, then_half_closes: bool) -> Self {
        let says = (0..PIPELINED).flat_map(|number| publish_frame("news", &number.to_string())).collect();
        Self::new(addr, says, then_half_closes).await
    }

    async fn read_more(&mut self) -> io::Result<usize> {
        timeout(DEADLINE, self.reading.read_buf(&mut self.received)).await.expect("something comes")
    }

    /// Reads the greeting and a receipt for each publication. Other frames fail the test.
    async fn read_receipts(&mut self) {
        let (mut next, mut taken) = (0, 0);
        while next <= PIPELINED {
            let Some(end) = self.received[taken..].iter().position(|&byte| byte == 1) else {
                self.received.drain(..std::mem::take(&mut taken));
                assert!(self.read_more().await.unwrap() > 0, "it ends after {next} frames");
                continue;
            };
            let frame: Value = serde_json::from_slice(&self.received[taken..taken + end]).unwrap();
            taken += end + 1;
            if next > 0 {
                assert_eq!(frame["published"]["seq"], next, "{frame}");
            }
            next += 1;
        }
        self.received.drain(..taken);
    }
}

/// A subscriber in this process that is never slow.
fn listen(janus: &Janus) -> janus_core::Subscriber {
    janus.subscribe_with("news", SubscribeOptions::default().max_queue_bytes(1 << 30)).unwrap()
}

/// The bytes that wait for the only client whose connection does not read.
fn waiting_answers(janus: &Janus) -> usize {
    let slow = janus.slow_clients(10);
    slow.iter().find(|slow| slow.peer.is_some()).map_or(0, |slow| slow.queued_bytes)
}

/// Waits until enough answers wait for the server to pause the client.
async fn until_paused(janus: &Janus) {
    until("its answers wait", || waiting_answers(janus) > 4 * 1024).await;
}

#[tokio::test]
async fn a_publisher_that_reads_late_gets_a_receipt_for_each_message() {
    let (janus, addr) = serve(few_answers()).await;
    // Without the topic there would be no numbers.
    let mut listener = listen(&janus);
    let mut publisher = Pipelining::publisher(addr, false).await;
    let heard = tokio::spawn(async move {
        for number in 0..PIPELINED {
            let event = timeout(DEADLINE, listener.next()).await.expect("it comes").expect("it goes on");
            let Event::Message(message) = event else { panic!("{event:?}") };
            assert_eq!(message.data(), number.to_string());
        }
    });
    until_paused(&janus).await;
    assert!(!heard.is_finished(), "all of it was read at once");
    // Answers up to the limit, and the few answers still due from the topic.
    let queued = waiting_answers(&janus);
    assert!(queued < 64 * 1024, "{queued} bytes of answers wait");
    publisher.read_receipts().await;
    heard.await.unwrap();
    publisher.writing.await.unwrap().unwrap();
    assert_eq!(janus.stats().slow_consumers, 0);
}

#[tokio::test]
async fn a_publisher_that_half_closes_gets_its_receipts_and_then_the_end() {
    let (janus, addr) = serve(few_answers()).await;
    let _listener = listen(&janus);
    let mut publisher = Pipelining::publisher(addr, true).await;
    until_paused(&janus).await;
    publisher.read_receipts().await;
    assert_eq!(publisher.read_more().await.unwrap(), 0);
    assert!(publisher.received.is_empty());
}

#[tokio::test]
async fn a_client_that_never_reads_its_answers_is_cut_off_in_time() {
    let (janus, addr) = serve(Config { write_timeout: Duration::from_millis(200), ..few_answers() }).await;
    let mut publisher = Pipelining::publisher(addr, false).await;
    until("it is gone", || janus.stats().connections == 0 && janus.stats().slow_consumers > 0).await;
    let stats = janus.stats();
    assert_eq!((stats.slow_consumers_stalled, stats.slow_consumers_queue_full), (1, 0));
    while publisher.read_more().await.is_ok_and(|length| length > 0) {}
    assert!(publisher.received.len() < 64 * 1024, "{} bytes of answers", publisher.received.len());
}

#[tokio::test]
async fn a_reset_is_noticed_while_the_client_is_not_read() {
    let never = Duration::from_secs(3_600);
    let (janus, addr) = serve(Config { write_timeout: never, ..few_answers() }).await;
    let publisher = Pipelining::publisher(addr, false).await;
    until_paused(&janus).await;
    publisher.writing.abort();
    let _ = publisher.writing.await;
    // A close with unread bytes is a reset.
    drop(publisher.reading);
    until("its place is free", || janus.stats().connections == 0).await;
    assert_eq!(janus.stats().slow_consumers, 0);
}

#[tokio::test]
async fn waiting_answers_take_no_room_from_messages() {
    let (janus, addr) = serve(few_answers()).await;
    let asks = [&subscribe_frame("news")[..], &b"{}\0".repeat(20_000)[..]].concat();
    let mut client = Pipelining::new(addr, asks, false).await;
    until_paused(&janus).await;
    until("it is subscribed", || subscribers(&janus, "news") == Some(1)).await;
    // 15 KiB of 16.
    let message = Message::new("news", &"x".repeat(3_600)).unwrap();
    for _ in 0..4 {
        janus.publish_message(message.clone()).await.unwrap();
    }
    let (mut errors, mut messages) = (0, 0);
    while (errors, messages) != (20_000, 4) {
        assert!(client.read_more().await.unwrap() > 0, "it ends after {errors} errors and {messages} messages");
        let whole = client.received.iter().rposition(|&byte| byte == 1).map_or(0, |end| end + 1);
        for frame in client.received.drain(..whole).collect::<Vec<_>>().split(|&byte| byte == 1) {
            let Ok(frame) = serde_json::from_slice::<Value>(frame) else { continue };
            errors += u64::from(frame["error"].is_object());
            messages += u64::from(frame["topic"] == "news" && frame["data"].is_string());
        }
    }
    assert_eq!(janus.stats().slow_consumers, 0);
}
