//! The time to subscribe, and to unsubscribe, during a delivery of the same topic to 2,000 subscribers, compared with
//! the same topic at rest.
//!
//! Under load a message is published as soon as the last of the 2,000 has read the message before, so that there is
//! almost always a pass under way. A request then waits for a turn of the pass, 32 sends of some microseconds each, and
//! for the processors, which the readers use as well. A request must not wait for the whole pass, which takes
//! milliseconds. At rest the home arbiter has to be woken first, at a price set by the system's scheduler: compare
//! times here rather than ratios.
//!
//! An unsubscribe has no answer. The bench sends an unsubscribe together with a subscribe in one packet, whose ACK
//! cannot leave before both have been carried out.

mod client;
mod interleaved;

use std::error::Error;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use client::Client;
use interleaved::{Comparison, rounds};
use janus_core::wire::classic::client::{ServerFrame, subscribe, unsubscribe};
use janus_core::{Config, Janus, Message};
use parking_lot::Mutex;

const TOPIC: &str = "news";
const CROWD: usize = 2_000;
/// Round trips of one turn: enough to span several passes under load.
const TRIPS: usize = 500;

fn main() -> Result<(), Box<dyn Error>> {
    // Both ends of every connection are in this process.
    rlimit::increase_nofile_limit(u64::MAX)?;
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    let config = Config { listen: vec!["127.0.0.1:0".parse()?], client_subscribe_rate: 0, ..Config::default() };
    let janus = runtime.block_on(Janus::builder().config(config).start())?;
    let crowd = (0..CROWD).map(|_| subscriber(&janus)).collect::<io::Result<Vec<_>>>()?;
    let crowd = Mutex::new(crowd);
    let member = Mutex::new(Client::connect(janus.local_addrs()[0])?);

    let subscribes = || come_and_go(&janus, &mut member.lock());
    let resubscribes = || go_and_come(&janus, &mut member.lock());
    let every_ack = "every subscribe gets its ACK";
    Comparison::new(format!("one client in a topic of {CROWD} others, per round trip"), TRIPS as u32)
        .contender("subscribe, idle", None, || subscribes().expect(every_ack))
        .contender("subscribe, busy", Some("subscribe, idle"), || busy(&janus, &crowd, subscribes).expect(every_ack))
        .contender("unsubscribe+subscribe, idle", None, || resubscribes().expect(every_ack))
        .contender("unsubscribe+subscribe, busy", Some("unsubscribe+subscribe, idle"), || {
            busy(&janus, &crowd, resubscribes).expect(every_ack)
        })
        .run(rounds(30));
    runtime.block_on(janus.shutdown());
    Ok(())
}

/// Measures during an uninterrupted delivery of the topic to the crowd.
fn busy(
    janus: &Janus,
    crowd: &Mutex<Vec<Client>>,
    trips: impl FnOnce() -> io::Result<Duration>,
) -> io::Result<Duration> {
    let message = Message::new(TOPIC, &"x".repeat(98)).expect("a good message");
    let over = AtomicBool::new(false);
    let (delivered, first) = mpsc::channel();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let delivered = delivered;
            while !over.load(Ordering::Relaxed) {
                drop(janus.try_publish(message.clone()).expect("one is under way at a time"));
                let is_message = |frame: &ServerFrame<'_>| matches!(frame, ServerFrame::Message { .. });
                for client in crowd.lock().iter_mut() {
                    client.read_until(is_message).expect("every subscriber gets every message");
                }
                // Only the first delivery is awaited.
                let _ = delivered.send(());
            }
        });
        first.recv().expect("a message is delivered");
        let time = trips();
        over.store(true, Ordering::Relaxed);
        time
    })
}

/// Subscribes and leaves again. Only the subscribe is measured.
fn come_and_go(janus: &Janus, member: &mut Client) -> io::Result<Duration> {
    let mut time = Duration::ZERO;
    for _ in 0..TRIPS {
        time += round_trip(member, &subscribe(TOPIC))?;
        leave(janus, member)?;
    }
    Ok(time)
}

/// Leaves and subscribes in one packet.
fn go_and_come(janus: &Janus, member: &mut Client) -> io::Result<Duration> {
    let request = [unsubscribe(TOPIC), subscribe(TOPIC)].concat();
    round_trip(member, &subscribe(TOPIC))?;
    let time = (0..TRIPS).map(|_| round_trip(member, &request)).sum();
    leave(janus, member)?;
    time
}

/// The time from a request to its ACK, which may arrive between messages.
fn round_trip(member: &mut Client, request: &[u8]) -> io::Result<Duration> {
    let start = Instant::now();
    member.send(request)?;
    member.read_until(|frame| *frame == ServerFrame::Ack)?;
    Ok(start.elapsed())
}

fn leave(janus: &Janus, member: &mut Client) -> io::Result<()> {
    member.send(&unsubscribe(TOPIC))?;
    while janus.topic_info(TOPIC).is_some_and(|topic| topic.subscribers > CROWD) {
        std::thread::yield_now();
    }
    Ok(())
}

fn subscriber(janus: &Janus) -> io::Result<Client> {
    let mut client = Client::connect(janus.local_addrs()[0])?;
    round_trip(&mut client, &subscribe(TOPIC))?;
    Ok(client)
}
