//! Clients that come and go: churning, stalling, and losing the connection on purpose.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use janus_core::wire::classic::client::{ServerDecoder, ServerFrame, attach};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, Interest};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};

use super::progress::{Progress, Topic};
use super::reading::{Cut, Opening, Refused, Subscriber, connect, connect_narrowly, unserved};
use super::support::{Close, DEADLINE, publish_frame, subscribe_frame};
use super::{BUFFERED, CUT_OFF, QUICK, Random, STALL, World, count};

/// A client that comes and goes again and again, in different ways. After a crash of its Transport, the client comes
/// back.
pub(super) async fn churn(world: Rc<World>, mut random: Random) {
    let mut lost: Option<(Progress, Instant)> = None;
    while !world.visitors_leave.get() {
        let acceptor_crashes = world.injected("Acceptor");
        let stream = connect(&world).await;
        let visitor = Churning::new(&world, &stream);
        let ended = if let Some((progress, since)) = lost.take() {
            visit(&world, stream, progress, Some(since), &mut random).await
        } else if random.below(4) == 0 {
            visit_a_passing_topic(stream, &mut random).await.map_err(|cut| Refused { cut, progress: None })
        } else {
            let topic = &world.topics[random.below(world.topics.len() as u64) as usize];
            visit(&world, stream, Progress::new(topic, false), None, &mut random).await
        };
        count(&world.visits);
        if let Err(Refused { cut, progress }) = ended {
            let unserved = !cut.greeted && world.injected("Acceptor") > acceptor_crashes;
            assert!(unserved || visitor.is_condemned(), "a churning client was closed: {cut:?}");
            count(&world.crashed);
            // A client without a session has nothing to come back to.
            lost = progress.filter(|progress| !progress.token.is_empty()).map(|progress| (progress, Instant::now()));
        }
    }
}

/// Stays with a topic for a while and checks the messages. Comes back to the topic if the connection was `lost`.
async fn visit(
    world: &World,
    stream: TcpStream,
    progress: Progress,
    lost: Option<Instant>,
    random: &mut Random,
) -> Result<(), Refused> {
    let mut subscriber = enter(world, stream, progress, lost).await?;
    let until = Instant::now() + Duration::from_millis(100 + random.below(3_000));
    let mut wanted = 1 + random.below(1_000);
    while Instant::now() < until && wanted > 0 {
        match subscriber.read().await {
            Ok(messages) => {
                world.deliveries.set(world.deliveries.get() + messages);
                wanted = wanted.saturating_sub(messages);
            }
            Err(_) if subscriber.was_overtaken() => {
                count(&world.returns.overtaken);
                return Ok(());
            }
            Err(cut) => return Err(Refused { cut, progress: Some(subscriber.progress) }),
        }
    }
    leave(subscriber.stream, &subscriber.progress.topic.name, random).await;
    Ok(())
}

/// Subscribes, or comes back after the connection was `lost`, and notes the outcome.
async fn enter(
    world: &World,
    stream: TcpStream,
    progress: Progress,
    lost: Option<Instant>,
) -> Result<Subscriber, Refused> {
    let Some(lost) = lost else { return Subscriber::open(stream, Opening::Subscribe, progress).await };
    // Up to the attach: later time is the server's.
    let away = lost.elapsed();
    let opened = Subscriber::open(stream, Opening::Attach, progress).await;
    match &opened {
        Ok(subscriber) => world.returns.note(subscriber.missed, away),
        Err(refused) if refused.cut.greeted => count(&world.returns.unanswered),
        Err(_) => {}
    }
    opened
}

/// Attaches, and loses the connection before reading the answer.
async fn ask_and_vanish(mut stream: TcpStream, progress: &Progress, random: &mut Random) {
    let _ = stream.write_all(&attach(&progress.token, [(&*progress.topic.name, progress.count)])).await;
    sleep(Duration::from_millis(random.below(20))).await;
}

/// A client that loses its connection on purpose, and comes back for the missed messages.
pub(super) async fn lose_and_return(world: Rc<World>, mut random: Random) {
    let mut lost: Option<(Progress, Instant)> = None;
    while !world.visitors_leave.get() {
        let acceptor_crashes = world.injected("Acceptor");
        let stream = connect(&world).await;
        let (progress, since) = match lost.take() {
            Some((progress, since)) => (progress, Some(since)),
            None => {
                let topic = &world.topics[random.below(world.topics.len() as u64) as usize];
                (Progress::new(topic, false), None)
            }
        };
        if since.is_some() && random.below(8) == 0 {
            // The answer does not arrive, and the client, unsure of the first attach, attaches again.
            ask_and_vanish(stream, &progress, &mut random).await;
            count(&world.returns.unanswered);
            lost = since.map(|since| (progress, since));
            continue;
        }
        let mut subscriber = match enter(&world, stream, progress, since).await {
            Ok(subscriber) => subscriber,
            Err(Refused { cut, progress }) => {
                let unserved = !cut.greeted && world.injected("Acceptor") > acceptor_crashes;
                assert!(unserved, "a client that comes back was closed: {cut:?}");
                lost = progress.and_then(|progress| Some((progress, since?)));
                continue;
            }
        };
        // Some clients are gone before the missed messages have arrived.
        let longest = if random.below(4) == 0 { 20 } else { 1_500 };
        read_for(&world, &mut subscriber, Duration::from_millis(random.below(longest))).await;
        lost = Some(lose(subscriber, &mut random).await);
    }
}

/// Reads for the given time, or until the promised messages are no longer kept.
async fn read_for(world: &World, subscriber: &mut Subscriber, time: Duration) {
    let reading = async {
        loop {
            match subscriber.read().await {
                Ok(messages) => world.deliveries.set(world.deliveries.get() + messages),
                Err(cut) => return cut,
            }
        }
    };
    if let Ok(cut) = timeout(time, reading).await {
        assert!(subscriber.was_overtaken(), "a client that reads was closed: {cut:?}, told {:?}", subscriber.told);
        count(&world.returns.overtaken);
    }
}

/// Loses the connection in one way or another and stays away for a while. Returns the time of the loss.
async fn lose(subscriber: Subscriber, random: &mut Random) -> (Progress, Instant) {
    // Messages during this pause are lost with the connection.
    if random.below(2) == 0 {
        sleep(Duration::from_millis(random.below(100))).await;
    }
    let Subscriber { mut stream, progress, .. } = subscriber;
    let since = Instant::now();
    if random.below(2) == 0 {
        // The close of a client that knows nothing of the server: a FIN, or a reset if bytes are unread.
        let _ = stream.shutdown().await;
        socket2::SockRef::from(&stream).set_linger(None).unwrap();
    }
    drop(stream);
    let away = match random.below(10) {
        0 => 1_000 + random.below(7_000),
        1..4 => 0,
        _ => random.below(QUICK.as_millis() as u64 / 2),
    };
    sleep(Duration::from_millis(away)).await;
    (progress, since)
}

/// Subscribes to a new topic, to an existing topic, or to a topic about to end, and publishes to the topic.
async fn visit_a_passing_topic(mut stream: TcpStream, random: &mut Random) -> Result<(), Cut> {
    let name = format!("passing {}", random.below(50));
    let mine = random.next() >> 1;
    let frames = [subscribe_frame(&name), publish_frame(&name, &mine.to_string())].concat();
    stream.write_all(&frames).await.map_err(unserved)?;
    let (mut greeted, mut receipt, mut message) = (false, false, false);
    let mut decoder = ServerDecoder::new();
    let mut buffer = [0; 4_096];
    while !(receipt && message) {
        let read = timeout(DEADLINE, stream.read(&mut buffer)).await.expect("answers come");
        let length = read.map_err(|_| Cut { close: Close::Reset, greeted })?;
        if length == 0 {
            return Err(Cut { close: Close::Fin, greeted });
        }
        let mut input = &buffer[..length];
        while let Some(frame) = decoder.decode(&mut input) {
            match frame {
                ServerFrame::Greeting { .. } => greeted = true,
                ServerFrame::Published { subscribers, .. } => {
                    assert!(subscribers > 0, "{name}: a subscriber that is acknowledged is not there");
                    receipt = true;
                }
                ServerFrame::Message { data, .. } => message |= data == mine.to_string(),
                ServerFrame::Ack | ServerFrame::Ping => {}
                // The topic crashed before the receipt, so there is nothing to wait for.
                ServerFrame::Error { code, .. } if code == "topic_crashed" => (receipt, message) = (true, true),
                frame => panic!("{name}: {frame:?}"),
            }
        }
    }
    leave(stream, &name, random).await;
    Ok(())
}

/// Ends with a FIN or a reset, perhaps after an unsubscribe, which the server need not read.
async fn leave(mut stream: TcpStream, topic: &str, random: &mut Random) {
    if random.below(2) == 0 {
        let _ = stream.write_all(&janus_core::wire::classic::client::unsubscribe(topic)).await;
    }
    if random.below(2) == 0 {
        let _ = stream.shutdown().await;
    }
}

/// An entry in the list of churning clients whose Transport may be made to crash.
struct Churning<'w> {
    world: &'w World,
    addr: SocketAddr,
}

impl<'w> Churning<'w> {
    fn new(world: &'w World, stream: &TcpStream) -> Self {
        let addr = stream.local_addr().unwrap();
        world.churning.borrow_mut().insert(addr);
        Self { world, addr }
    }

    fn is_condemned(&self) -> bool {
        self.world.condemned.borrow().contains(&self.addr)
    }
}

impl Drop for Churning<'_> {
    fn drop(&mut self) {
        self.world.churning.borrow_mut().remove(&self.addr);
        self.world.condemned.borrow_mut().remove(&self.addr);
    }
}

/// A client of the large topic that reads for a while, stops until cut off, and comes back: to its session, or anew.
pub(super) async fn stall(world: Rc<World>, mut random: Random) {
    let topic = &world.topics[0];
    let mut lost: Option<(Progress, Instant)> = None;
    while !world.visitors_leave.get() {
        let acceptor_crashes = world.injected("Acceptor");
        let stream = connect_narrowly(&world, 4_096).await;
        let (progress, since) = match lost.take() {
            Some((progress, since)) => (progress, Some(since)),
            None => (Progress::new(topic, false), None),
        };
        let mut subscriber = match enter(&world, stream, progress, since).await {
            Ok(subscriber) => subscriber,
            Err(Refused { cut, .. }) => {
                let unserved = !cut.greeted && world.injected("Acceptor") > acceptor_crashes;
                assert!(unserved, "a client that has not stalled yet was closed: {cut:?}");
                continue;
            }
        };
        let cut = match read_and_stall(&world, &mut subscriber, 1 + random.below(200)).await {
            Some(cut) => cut,
            None => {
                fill_buffers(topic, &subscriber).await;
                let stalled = timeout(CUT_OFF, stalled(&world, &mut subscriber)).await;
                stalled.expect("a client that does not read is cut off")
            }
        };
        let since = Instant::now();
        if subscriber.was_overtaken() {
            count(&world.returns.overtaken);
        } else {
            assert_eq!(cut.close, Close::Reset, "told {:?}", subscriber.told);
            count(&world.cut_off);
        }
        if random.below(2) == 0 {
            sleep(Duration::from_millis(random.below(500))).await;
            lost = Some((subscriber.progress, since));
        }
    }
}

/// Reads `wanted` messages. Returns `Some` if missed messages are pushed out before.
async fn read_and_stall(world: &World, subscriber: &mut Subscriber, mut wanted: u64) -> Option<Cut> {
    while wanted > 0 {
        match subscriber.read().await {
            Ok(messages) => {
                world.deliveries.set(world.deliveries.get() + messages);
                wanted = wanted.saturating_sub(messages);
            }
            Err(cut) if subscriber.was_overtaken() => return Some(cut),
            Err(cut) => panic!("a client that still reads was closed: {cut:?}, told {:?}", subscriber.told),
        }
    }
    None
}

/// Reads nothing until more has been published than the kernels of both sides hold, which no server can take for
/// slowness. The time depends on the machine: on a busy machine the kernels could still have taken every
/// message after `STALL`.
async fn fill_buffers(topic: &Topic, subscriber: &Subscriber) {
    let enough = topic.accepted.get() + BUFFERED;
    while topic.accepted.get() < enough {
        if timeout(Duration::from_millis(100), subscriber.stream.ready(Interest::ERROR)).await.is_ok() {
            return;
        }
    }
}

/// Reads nothing until the connection is reset, except for a moment now and then.
async fn stalled(world: &World, subscriber: &mut Subscriber) -> Cut {
    loop {
        // If the kernel ends a connection for `tcp_user_timeout`, the peer notices at the next read.
        let _ = timeout(STALL, subscriber.stream.ready(Interest::ERROR)).await;
        let read = timeout(Duration::from_secs(1), async {
            loop {
                // The bytes before the reset are still there.
                match subscriber.read().await {
                    Ok(messages) => world.deliveries.set(world.deliveries.get() + messages),
                    Err(cut) => return cut,
                }
            }
        });
        if let Ok(cut) = read.await {
            return cut;
        }
    }
}
