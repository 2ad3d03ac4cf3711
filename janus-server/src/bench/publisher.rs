//! The bench's publisher: a thread that sends each message when due, with the send time in the data.
//!
//! With a rate, the times are fixed before the first message. A message sent late, because the server does not read or
//! this machine is busy, is still measured from the time it was due. Otherwise the result would hide exactly the
//! moments when clients had to wait (coordinated omission). Without a rate, a message is sent when an earlier message
//! has arrived everywhere, and measured from just before the write.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use janus_core::wire::classic::client::ServerFrame;

use super::BenchError;
use super::clock::Clock;
use super::lines::Plan;
use super::mark::Mark;
use super::protocol::{Frame, Protocol, Splitter, publish_and_close};
use super::report::{Outcome, record};
use crate::cli::Bench;
use crate::client::{self, ClientError, Connection};

/// When a message may go out.
#[derive(Clone, Copy, Debug)]
pub(super) enum Pace {
    /// At fixed times, this many per second.
    Rate(f64),
    /// As soon as fewer than this many messages are under way.
    Window(u32),
}

/// The coordinator's handle of the running publisher.
pub(super) struct Publisher {
    shared: Arc<Shared>,
    thread: JoinHandle<Outcome>,
    /// Shut down to end a blocked write; `None` with a new connection per message.
    stream: Option<TcpStream>,
}

#[derive(Default)]
struct Shared {
    /// Messages handed to the socket, or about to be.
    sent: AtomicU32,
    completed: AtomicU32,
    writing: AtomicBool,
    /// The server has refused a message.
    refused: AtomicBool,
    stop: AtomicBool,
}

impl Publisher {
    pub(super) fn start(
        command: &Bench,
        server: SocketAddr,
        run: u32,
        clock: Clock,
        pace: Pace,
    ) -> Result<Self, BenchError> {
        let shared = Arc::new(Shared::default());
        let address = server;
        let server = address.to_string();
        let (wire, stream) = if command.classic_publish {
            (Wire::Classic(Box::new(Connection::open(&server, command.timeout, None)?)), None)
        } else {
            let stream = client::open_socket(&server, command.timeout)?;
            let writer = Writer::new(stream.try_clone().map_err(ClientError::Lost)?);
            let mut listener = Listener {
                protocol: command.protocol,
                data_bytes: command.size,
                reader: stream.try_clone().map_err(ClientError::Lost)?,
                splitter: Splitter::default(),
                writer: writer.clone(),
            };
            let name = Plan::client_name(run, command.clients);
            writer.write(&command.protocol.opening(address, &name, None))?;
            listener.wait_for_welcome(command.timeout)?;
            (Wire::Lasting { writer, watch: watch(listener, Arc::clone(&shared)) }, Some(stream))
        };
        let work = Work {
            shared: Arc::clone(&shared),
            protocol: command.protocol,
            wire,
            server,
            run,
            clock,
            pace,
            topics: command.topics,
            messages: command.messages,
            size: command.size,
            timeout: command.timeout,
            begin: Instant::now(),
            begin_at: clock.now(),
            lateness: Histogram::new(3).expect("three digits are allowed"),
        };
        Ok(Self { shared, thread: thread::spawn(move || work.run()), stream })
    }

    pub(super) fn sent(&self) -> u32 {
        self.shared.sent.load(Ordering::Acquire)
    }

    pub(super) fn is_writing(&self) -> bool {
        self.shared.writing.load(Ordering::Acquire)
    }

    pub(super) fn has_ended(&self) -> bool {
        self.thread.is_finished()
    }

    /// Reports how many messages have arrived everywhere, which may release the next message.
    pub(super) fn completed(&self, completed: u32) {
        self.shared.completed.store(completed, Ordering::Release);
        self.thread.thread().unpark();
    }

    /// Ends the thread, even during a blocked write, and returns its account.
    pub(super) fn finish(self) -> Outcome {
        self.shared.stop.store(true, Ordering::Release);
        self.thread.thread().unpark();
        if let Some(stream) = &self.stream {
            let _ = stream.shutdown(Shutdown::Both);
        }
        self.thread
            .join()
            .unwrap_or_else(|_| Outcome { error: Some("the publisher panicked".to_owned()), ..Outcome::default() })
    }
}

/// How messages reach the server.
enum Wire {
    /// A single connection for all messages. A second thread watches the server's answers for refusals.
    Lasting { writer: Writer, watch: Receiver<Answers> },
    /// The connection for the next message, opened before the message is due.
    Classic(Box<Connection>),
}

/// The server's answers on the publisher's connection.
#[derive(Default)]
struct Answers {
    /// The first refusal, or why the server ended the connection.
    error: Option<String>,
    /// Messages answered with an error frame.
    refusals: u32,
    /// Whether a refusal closed the connection, so that the server did not read any further messages.
    closed: bool,
}

/// The state of the publishing thread.
struct Work {
    shared: Arc<Shared>,
    protocol: Protocol,
    wire: Wire,
    server: String,
    run: u32,
    clock: Clock,
    pace: Pace,
    topics: u32,
    messages: u32,
    size: u32,
    timeout: Duration,
    /// The same moment on both clocks.
    begin: Instant,
    begin_at: u64,
    /// Nanoseconds from the time a message was due to its write.
    lateness: Histogram<u64>,
}

impl Work {
    fn run(mut self) -> Outcome {
        let mut outcome = Outcome { first_sent: self.begin_at, ..Outcome::default() };
        while outcome.sent < self.messages {
            let Some(up_to) = self.wait_for_turn(outcome.sent) else { break };
            match self.send(outcome.sent, up_to) {
                Ok(next) => outcome.sent = next,
                Err(error) => {
                    if let ClientError::Refused { .. } = error {
                        outcome.sent += 1;
                        outcome.refusals = 1;
                    }
                    outcome.error = Some(error.to_string());
                    break;
                }
            }
        }
        // The end of this thread tells the coordinator to expect no more deliveries. So the thread stays while messages
        // are under way.
        while outcome.sent == self.messages
            && self.shared.completed.load(Ordering::Acquire) < self.messages
            && !self.shared.stop.load(Ordering::Acquire)
        {
            thread::park_timeout(PATIENCE);
        }
        self.shared.stop.store(true, Ordering::Release);
        if let Wire::Lasting { writer, watch } = self.wire {
            let mut answers = None;
            if self.shared.refused.load(Ordering::Acquire) {
                // The server answers every refused message before closing its side.
                writer.shutdown(Shutdown::Write);
                answers = watch.recv_timeout(super::AFTERMATH).ok();
            }
            writer.shutdown(Shutdown::Both);
            if let Some(answers) = answers.or_else(|| watch.recv().ok()) {
                outcome.error = answers.error.or(outcome.error);
                (outcome.refusals, outcome.closed) = (answers.refusals, answers.closed);
            }
        }
        outcome.lateness = matches!(self.pace, Pace::Rate(_)).then_some(self.lateness);
        outcome
    }

    /// Waits until this message may be sent. Returns the number of the first message that may not be sent yet; `None`
    /// if the thread is to stop.
    fn wait_for_turn(&self, number: u32) -> Option<u32> {
        loop {
            if self.shared.stop.load(Ordering::Acquire) {
                return None;
            }
            match self.pace {
                Pace::Window(window) => {
                    let up_to = self.shared.completed.load(Ordering::Acquire).saturating_add(window);
                    if number < up_to {
                        return Some(up_to.min(self.messages));
                    }
                    thread::park_timeout(PATIENCE);
                }
                Pace::Rate(rate) => {
                    let now = self.begin.elapsed();
                    let due = due(number, rate);
                    if due <= now {
                        let up_to = (now.as_secs_f64() * rate) as u32;
                        return Some(up_to.saturating_add(1).clamp(number + 1, self.messages));
                    }
                    // The kernel wakes a thread some 50 µs late. At low rates, where the delay is small compared with
                    // the time between two messages, the last stretch is spent spinning, so that the delay is not
                    // measured as the server's.
                    let ahead = due - now;
                    if ahead > WAKE_UP || rate > 1_000.0 {
                        let nap = if rate > 1_000.0 { ahead } else { ahead - WAKE_UP };
                        thread::park_timeout(nap.min(PATIENCE));
                    } else {
                        std::hint::spin_loop();
                    }
                }
            }
        }
    }

    /// Sends messages from `first` to before `up_to`, as many as fit a batch. Returns the number of the first message
    /// not sent.
    fn send(&mut self, first: u32, up_to: u32) -> Result<u32, ClientError> {
        let now = self.clock.now();
        let mut bytes = Vec::with_capacity(BATCH_BYTES);
        let mut number = first;
        let classic = matches!(self.wire, Wire::Classic(_));
        while number < up_to && bytes.len() < BATCH_BYTES && !(classic && number > first) {
            let sent = match self.pace {
                Pace::Window(_) => now,
                Pace::Rate(rate) => self.begin_at + super::clock::nanoseconds(due(number, rate)),
            };
            record(&mut self.lateness, now.saturating_sub(sent), 1);
            let mut data = Vec::with_capacity(self.size as usize);
            Mark { run: self.run, number, sent }.write(self.size, &mut data);
            let data = str::from_utf8(&data).expect("a mark is ASCII");
            let topic = Plan::topic_name(self.run, number % self.topics);
            if classic {
                publish_and_close(&topic, data, &mut bytes);
            } else {
                self.protocol.publish(&topic, data, &mut bytes);
            }
            number += 1;
        }
        self.shared.sent.store(number, Ordering::Release);
        self.shared.writing.store(true, Ordering::Release);
        let written = self.write(&bytes, number < self.messages);
        self.shared.writing.store(false, Ordering::Release);
        written.map(|()| number)
    }

    fn write(&mut self, bytes: &[u8], more: bool) -> Result<(), ClientError> {
        match &mut self.wire {
            Wire::Lasting { writer, .. } => writer.write(bytes),
            Wire::Classic(connection) => {
                connection.send(bytes)?;
                // The server closes the connection when the message has its place in the topic's order. Only then may
                // the next message be sent.
                let deadline = Instant::now() + self.timeout;
                loop {
                    match connection.receive(Some(deadline)) {
                        Ok(Some(ServerFrame::Error { code, message })) => return Err(refused(&code, &message)),
                        Ok(Some(
                            ServerFrame::Greeting { .. }
                            | ServerFrame::Ack
                            | ServerFrame::Ping
                            | ServerFrame::Message { .. }
                            | ServerFrame::Published { .. }
                            | ServerFrame::Attached { .. }
                            | ServerFrame::Assigned { .. }
                            | ServerFrame::Refreshed { .. }
                            | ServerFrame::Unknown(_)
                            | ServerFrame::TooLarge,
                        )) => {}
                        Ok(None) => {
                            return Err(ClientError::Late { awaited: "close after PUBLISH", timeout: self.timeout });
                        }
                        Err(ClientError::Closed | ClientError::Lost(_)) => break,
                        Err(error) => return Err(error),
                    }
                }
                if more {
                    **connection = Connection::open(&self.server, self.timeout, None)?;
                }
                Ok(())
            }
        }
    }
}

/// The writing half of the publisher's connection, shared by the messages and the answers to pings.
#[derive(Clone)]
struct Writer(Arc<Mutex<TcpStream>>);

impl Writer {
    fn new(stream: TcpStream) -> Self {
        Self(Arc::new(Mutex::new(stream)))
    }

    fn write(&self, bytes: &[u8]) -> Result<(), ClientError> {
        let mut stream = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        stream.write_all(bytes).map_err(ClientError::Lost)
    }

    fn shutdown(&self, how: Shutdown) {
        let stream = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = stream.shutdown(how);
    }
}

/// The reading half.
struct Listener {
    protocol: Protocol,
    data_bytes: u32,
    reader: TcpStream,
    splitter: Splitter,
    writer: Writer,
}

/// The relevant frames among the bytes of a read.
#[derive(Default)]
struct Heard {
    welcome: bool,
    /// Each refusal, and whether the refusal ends the connection.
    refusals: Vec<(ClientError, bool)>,
}

impl Listener {
    /// Waits until the server has accepted the publisher, so that this time does not count in the first message's
    /// latency.
    fn wait_for_welcome(&mut self, timeout: Duration) -> Result<(), BenchError> {
        let deadline = Instant::now() + timeout;
        loop {
            let patience = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
            self.reader.set_read_timeout(Some(patience)).map_err(ClientError::Lost)?;
            match self.hear() {
                Ok(heard) => {
                    if let Some((refusal, _)) = heard.refusals.into_iter().next() {
                        return Err(refusal.into());
                    }
                    if heard.welcome {
                        self.reader.set_read_timeout(None).map_err(ClientError::Lost)?;
                        return Ok(());
                    }
                }
                Err(BenchError::Client(ClientError::Lost(error)))
                    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                Err(error) => return Err(error),
            }
            if Instant::now() >= deadline {
                return Err(ClientError::Late { awaited: "greeting for the publisher", timeout }.into());
            }
        }
    }

    /// Waits for the next bytes.
    fn hear(&mut self) -> Result<Heard, BenchError> {
        let mut piece = [0; 16 * 1024];
        let length = loop {
            match self.reader.read(&mut piece) {
                Ok(0) => return Err(ClientError::Closed.into()),
                Ok(length) => break length,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(ClientError::Lost(error).into()),
            }
        };
        let mut heard = Heard::default();
        let mut pings = 0;
        self.splitter.take(self.protocol, self.data_bytes, &piece[..length], |frame| {
            match frame {
                Frame::Welcome | Frame::Ack => heard.welcome = true,
                Frame::Ping => pings += 1,
                Frame::Refused(refusal) => {
                    heard.refusals.push((refused(&refusal.code, &refusal.message), refusal.closes));
                }
                Frame::Message(_) | Frame::Other => {}
            }
            ControlFlow::Continue(())
        })?;
        for _ in 0..pings {
            self.writer.write(self.protocol.pong())?;
        }
        Ok(heard)
    }
}

/// Reads the server's answers until the publisher's connection ends. The first refusal stops the publisher.
fn watch(mut listener: Listener, shared: Arc<Shared>) -> Receiver<Answers> {
    let (sender, receiver) = sync_channel(1);
    thread::spawn(move || {
        let mut answers = Answers::default();
        let error = loop {
            let heard = match listener.hear() {
                Ok(heard) => heard,
                Err(error) => break error,
            };
            for (refusal, closes) in heard.refusals {
                answers.refusals += 1;
                answers.closed |= closes;
                shared.refused.store(true, Ordering::Release);
                if !shared.stop.swap(true, Ordering::AcqRel) {
                    answers.error = Some(refusal.to_string());
                }
            }
        };
        let asked_for = shared.stop.swap(true, Ordering::AcqRel);
        if !asked_for {
            answers.error = Some(error.to_string());
        }
        let _ = sender.send(answers);
    });
    receiver
}

fn refused(code: &str, message: &str) -> ClientError {
    ClientError::refused(code, message)
}

fn due(number: u32, rate: f64) -> Duration {
    Duration::from_secs_f64(f64::from(number) / rate)
}

/// Messages due at the same time share a write up to this size.
const BATCH_BYTES: usize = 64 * 1024;
const WAKE_UP: Duration = Duration::from_micros(100);
/// The longest single wait. Wake-ups do not get lost, but every wait has an end.
const PATIENCE: Duration = Duration::from_millis(100);
