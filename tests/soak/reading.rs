//! The connection of a subscriber, and the clients and subscribers in this process that stay to the end.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use janus_core::wire::classic::client::{ServerFrame, attach};
use janus_core::{Event, Subscriber as InProcess};
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{sleep, timeout};

use super::progress::{PUBLISHER, Progress, Topic};
use super::support::{Close, DEADLINE, subscribe_frame};
use super::{World, count};

/// A client that checks each of its messages.
pub(super) struct Subscriber {
    pub(super) stream: TcpStream,
    /// The beginning of an unfinished frame.
    unfinished: Vec<u8>,
    pub(super) progress: Progress,
    greeted: bool,
    acknowledged: bool,
    /// The answer to an attach: the number of missed messages, if the session resumes.
    pub(super) missed: Option<u64>,
    /// The number of missed messages still to come.
    replay: u64,
    /// The token of the greeting.
    token: String,
    /// The code of the last error frame.
    pub(super) told: Option<String>,
}

/// The end of a connection by the server, and whether the client had been greeted.
#[derive(Debug)]
pub(super) struct Cut {
    pub(super) close: Close,
    pub(super) greeted: bool,
}

/// The beginning of a client's connection.
pub(super) enum Opening {
    /// A new subscription, after which every message must come.
    Subscribe,
    /// The session of an earlier connection of this client.
    Attach,
}

/// A client that was cut off before the answer to its opening.
pub(super) struct Refused {
    pub(super) cut: Cut,
    /// The progress with which the client can come back, if the client was served before.
    pub(super) progress: Option<Progress>,
}

const SCRATCH_BYTES: usize = 256 * 1024;

thread_local! {
    static SCRATCH: RefCell<Vec<u8>> = RefCell::new(vec![0; SCRATCH_BYTES]);
}

impl Subscriber {
    /// Opens the conversation on a new connection, and waits for the answer.
    pub(super) async fn open(mut stream: TcpStream, opening: Opening, progress: Progress) -> Result<Self, Refused> {
        let frame = match opening {
            Opening::Subscribe => subscribe_frame(&progress.topic.name),
            Opening::Attach => attach(&progress.token, [(&*progress.topic.name, progress.count)]),
        };
        stream.set_nodelay(true).unwrap();
        if let Err(error) = stream.write_all(&frame).await {
            return Err(Refused { cut: unserved(error), progress: Some(progress) });
        }
        let mut subscriber = Self {
            stream,
            unfinished: Vec::new(),
            progress,
            greeted: false,
            acknowledged: false,
            missed: None,
            replay: 0,
            token: String::new(),
            told: None,
        };
        while !subscriber.acknowledged {
            if let Err(cut) = subscriber.read().await {
                return Err(Refused { cut, progress: Some(subscriber.progress) });
            }
            assert_eq!(subscriber.told, None, "a subscriber is refused");
        }
        Ok(subscriber)
    }

    /// Whether the server ended the connection because promised messages were no longer kept.
    pub(super) fn was_overtaken(&self) -> bool {
        self.replay > 0 && self.told.as_deref() == Some("topic_unavailable")
    }

    /// Reads once and checks the messages. Returns their number.
    pub(super) async fn read(&mut self) -> Result<u64, Cut> {
        self.read_once().await.map_err(|close| Cut { close, greeted: self.greeted })
    }

    async fn read_once(&mut self) -> Result<u64, Close> {
        loop {
            self.stream.readable().await.map_err(|_| Close::Reset)?;
            let taken = SCRATCH.with_borrow_mut(|scratch| match self.stream.try_read(scratch) {
                Ok(0) => Err(Close::Fin),
                Ok(length) => Ok(Some(self.take(&scratch[..length]))),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => Ok(None),
                Err(_) => Err(Close::Reset),
            });
            if let Some(messages) = taken? {
                return Ok(messages);
            }
        }
    }

    fn take(&mut self, mut bytes: &[u8]) -> u64 {
        let mut messages = 0;
        while let Some(end) = bytes.iter().position(|&byte| byte == 1) {
            let frame = &bytes[..end];
            bytes = &bytes[end + 1..];
            messages += u64::from(if self.unfinished.is_empty() {
                self.take_frame(frame)
            } else {
                let mut whole = std::mem::take(&mut self.unfinished);
                whole.extend_from_slice(frame);
                self.take_frame(&whole)
            });
        }
        self.unfinished.extend_from_slice(bytes);
        let topic = &self.progress.topic;
        if self.progress.steady {
            topic.delivered.set(topic.delivered.get() + messages);
            if !topic.is_behind() {
                topic.caught_up.notify_waiters();
            }
        }
        messages
    }

    /// Checks a frame. Returns whether the frame is a message.
    fn take_frame(&mut self, frame: &[u8]) -> bool {
        if let Some(data) = data(frame) {
            assert!(self.acknowledged, "{}: a message before the subscription stands", self.progress.topic.name);
            self.progress.take(data);
            self.replay = self.replay.saturating_sub(1);
            return true;
        }
        match ServerFrame::parse(frame) {
            ServerFrame::Greeting { token } => {
                self.greeted = true;
                self.token = token.into_owned();
            }
            ServerFrame::Ping => {}
            ServerFrame::Ack => {
                self.acknowledged = true;
                self.progress.token = std::mem::take(&mut self.token);
                self.progress.begin();
            }
            ServerFrame::Attached { topics, token } => {
                let [(topic, missed)] = &topics[..] else { panic!("an answer about {topics:?}") };
                assert_eq!(*topic, self.progress.topic.name);
                if missed.is_some() {
                    assert_eq!(token, self.progress.token, "a session that is resumed keeps its token");
                } else {
                    assert_eq!(token, self.token, "one that is not resumed has that of its new connection");
                    self.progress.begin();
                    self.progress.token = token.into_owned();
                }
                self.acknowledged = true;
                self.missed = *missed;
                self.replay = missed.unwrap_or(0);
            }
            ServerFrame::Error { code, .. } => self.told = Some(code.into_owned()),
            frame => panic!("{}: a subscriber gets {frame:?}", self.progress.topic.name),
        }
        false
    }
}

/// The data of a message, which is the last member: `…,"data":17}`.
fn data(frame: &[u8]) -> Option<u64> {
    let frame = frame.strip_suffix(b"}")?;
    let digits = frame.iter().rev().take_while(|byte| byte.is_ascii_digit()).count();
    let (head, digits) = frame.split_at(frame.len() - digits);
    if digits.is_empty() || !head.ends_with(b"\"data\":") {
        return None;
    }
    Some(digits.iter().fold(0, |number, digit| number * 10 + u64::from(digit - b'0')))
}

/// A subscriber that stays to the end.
pub(super) async fn stay(world: Rc<World>, mut subscriber: Subscriber) {
    loop {
        match subscriber.read().await {
            Ok(messages) => world.deliveries.set(world.deliveries.get() + messages),
            Err(cut) => {
                let (topic, told) = (&subscriber.progress.topic.name, &subscriber.told);
                panic!("a subscriber of {topic} that reads was closed: {cut:?}, told {told:?}");
            }
        }
    }
}

pub(super) async fn connect(world: &World) -> TcpStream {
    let stream = timeout(DEADLINE, TcpStream::connect(world.addr)).await.expect("connects in time").expect("connects");
    // A reset leaves no port behind in TIME_WAIT.
    socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
    stream
}

/// Connects with a small receive buffer, which is soon full.
pub(super) async fn connect_narrowly(world: &World, buffer: u32) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(buffer).unwrap();
    timeout(DEADLINE, socket.connect(world.addr)).await.expect("connects in time").expect("connects")
}

/// A client of the topic under `conflate` that reads slowly until the publishers stop.
pub(super) async fn read_slowly(world: Rc<World>, mut subscriber: Subscriber) {
    let mut buffer = [0; 512];
    while !world.publishers_stop.get() {
        sleep(Duration::from_millis(50)).await;
        match subscriber.stream.try_read(&mut buffer) {
            Ok(0) => panic!("a slow client under conflate was closed"),
            Ok(length) => {
                let messages = subscriber.take(&buffer[..length]);
                world.deliveries.set(world.deliveries.get() + messages);
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(error) => panic!("a slow client under conflate was cut off: {error}, {:?}", world.janus.stats()),
        }
        subscriber.progress.show_place();
    }
    loop {
        subscriber.read().await.expect("a client under conflate stays connected");
        subscriber.progress.show_place();
    }
}

/// The events of a subscriber in this process.
#[derive(Default)]
pub(super) struct Taken {
    /// The number of the last message, or the end of the last gap.
    pub(super) seq: Cell<u64>,
    pub(super) messages: Cell<u64>,
    pub(super) missing: Cell<u64>,
}

/// A subscriber in this process, which stays to the end and accounts for every number.
pub(super) async fn account(topic: Rc<Topic>, mut subscriber: InProcess, pause: Duration, taken: Rc<Taken>) {
    let epoch = subscriber.position().epoch;
    let mut places = vec![0; topic.publishers.len()];
    loop {
        let expected = taken.seq.get() + 1;
        match subscriber.next().await {
            Some(Event::Message(message)) => {
                assert_eq!((message.position.epoch, message.seq()), (epoch, expected), "{}: a hole", topic.name);
                let data: u64 = message.parse().unwrap();
                let place = &mut places[(data / PUBLISHER) as usize];
                assert!(data % PUBLISHER > *place, "{}: {data} came after {place}, or twice", topic.name);
                *place = data % PUBLISHER;
                taken.seq.set(expected);
                count(&taken.messages);
                if !pause.is_zero() {
                    sleep(pause).await;
                }
            }
            Some(Event::Gap { from, to }) => {
                assert!(from == expected && to >= from, "{}: a gap {from} to {to} at {expected}", topic.name);
                taken.seq.set(to);
                taken.missing.set(taken.missing.get() + to + 1 - from);
            }
            event => panic!("{}: a subscriber in this process gets {event:?}", topic.name),
        }
    }
}

pub(super) fn unserved(_: std::io::Error) -> Cut {
    Cut { close: Close::Reset, greeted: false }
}
