//! The cost of a message on its way through the actor of its topic, for a publisher in the same process.
//!
//! The time runs from the call of `publish` to the receipt: the message is checked and laid out on the publisher's
//! thread, put into the topic's inbox, then numbered, stamped and encoded on the home arbiter, and the publisher gets
//! the receipt. Alone, a message pays for waking the arbiter and for waking the publisher. With 64 messages published
//! before the first receipt is awaited, divide the time by 64: the quotient is little more than the work itself.
//!
//! Without subscribers the batch is then thrown away; with one subscriber the batch is sent to a client that reads all
//! the time. A receipt does not wait for the send, but the next message may have to.
//!
//! The time of a single message is mostly the two wake-ups: some microseconds if the system runs both threads on one
//! core, fifty if the system wakes another core. The choice may differ between runs; compare 64 at once.

mod client;

use std::error::Error;
use std::io::Read;
use std::net::TcpStream;
use std::time::Duration;

use client::Client;
use criterion::{BatchSize, Criterion, Throughput};
use futures_util::future::join_all;
use janus_core::wire::classic::client::{ServerFrame, subscribe};
use janus_core::{Config, Janus, Message};
use tokio::runtime::Runtime;

const TOPIC: &str = "news";

fn main() -> Result<(), Box<dyn Error>> {
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(3))
        .configure_from_args();
    // The runtime waits for receipts and does nothing else.
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    let config = Config {
        listen: vec!["127.0.0.1:0".parse()?],
        // A PING is not a message, and every arriving frame is counted.
        heartbeat_interval: Duration::from_secs(86_400),
        // On a busy machine the reader may run too rarely, and must not become a slow consumer, which is not measured
        // here.
        max_queue_frames: 1 << 24,
        max_queue_bytes: 1 << 30,
        ..Config::default()
    };
    let janus = runtime.block_on(Janus::builder().config(config).start())?;

    drop(subscriber(&janus)?);
    while janus.topic_info(TOPIC).is_some_and(|topic| topic.subscribers > 0) {
        std::thread::yield_now();
    }
    publish(&mut criterion, "no subscriber", &janus, &runtime);

    let before = runtime.block_on(janus.publish(TOPIC, "the last one that nobody gets"))?;
    let reader = subscriber(&janus)?.stream;
    let frames = std::thread::spawn(move || count_frames(reader));
    publish(&mut criterion, "1 subscriber", &janus, &runtime);
    let last = runtime.block_on(janus.publish(TOPIC, "the last one"))?;
    runtime.block_on(janus.shutdown());
    assert_eq!(frames.join().expect("counts"), last.seq - before.seq, "the subscriber got every message once");
    criterion.final_summary();
    Ok(())
}

fn subscriber(janus: &Janus) -> Result<Client, Box<dyn Error>> {
    let mut client = Client::connect(janus.local_addrs()[0])?;
    client.send(&subscribe(TOPIC))?;
    client.read_until(|frame| *frame == ServerFrame::Ack)?;
    Ok(client)
}

/// Reads to the end of the stream.
fn count_frames(mut stream: TcpStream) -> u64 {
    stream.set_read_timeout(None).expect("the socket is open");
    let mut buffer = vec![0; 256 * 1024];
    let mut frames = 0;
    loop {
        match stream.read(&mut buffer).expect("the server ends the stream in order") {
            0 => return frames,
            length => frames += buffer[..length].iter().filter(|&&byte| byte == 1).count() as u64,
        }
    }
}

fn publish(criterion: &mut Criterion, to: &str, janus: &Janus, runtime: &Runtime) {
    // 100 bytes of JSON with the quotes.
    let message = Message::new(TOPIC, &"x".repeat(98)).expect("a good message");
    let mut group = criterion.benchmark_group(format!("publish to {to}"));
    for at_once in [1_u32, 64] {
        group.throughput(Throughput::Elements(at_once.into()));
        group.bench_function(format!("{at_once} at once"), |bencher| {
            bencher.iter_batched(
                || vec![message.clone(); at_once as usize],
                |messages| {
                    let receipts = join_all(messages.into_iter().map(|message| janus.publish_message(message)));
                    for receipt in runtime.block_on(receipts) {
                        receipt.expect("the topic runs");
                    }
                },
                BatchSize::SmallInput,
            );
        });
    }
    group.finish();
}
