//! The main loop: events change the state, and the state is drawn. A thread of its own asks the server, so keys
//! never wait for the network.

use std::io;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use super::TopError;
use super::draw;
use super::look::Look;
use super::query::{ListQuery, Query};
use super::server::{Answers, Server};
use super::state::{Action, State};
use super::terminal::{Screen, Told, watch_keys, watch_signals};
use crate::client::ClientError;
use crate::failure::with_causes;

/// Events waiting for the main loop. Further keys wait in the terminal.
const EVENTS: usize = 64;

/// Clients to be closed, waiting for the server. With more, the reader is told to wait.
const CLOSES: usize = 8;

/// The ages on the screen are counted in seconds.
const REDRAW: Duration = Duration::from_secs(1);

/// A large tree is work for the server: the server rests this many times as long as the answer has taken.
const REST: u32 = 9;

enum Event {
    Told(Told),
    /// The query, the outcome, and the duration of the request.
    Answered(Query, Result<Box<Answers>, ClientError>, Duration),
    Closed(u64, Result<(), ClientError>),
}

impl From<Told> for Event {
    fn from(told: Told) -> Self {
        Self::Told(told)
    }
}

/// A client to be closed.
struct Close {
    connection: u64,
    may_return: bool,
}

/// Shows the server until a key or a signal ends the view.
pub(super) fn run(mut server: Server, interval: Duration) -> Result<(), TopError> {
    let mut state = State::new(&server.address(), interval, Instant::now());
    // A wrong address or key is an error in plain text, and not a reason to try again.
    let query = state.query(Instant::now());
    let answers = server.ask(&query)?;
    state.answer(&query, answers, Instant::now());

    let (sender, events) = sync_channel(EVENTS);
    watch_signals(sender.clone()).map_err(TopError::Terminal)?;
    let (queries, closes) = ask_on_threads(server, &sender)?;
    let mut screen = Screen::take().map_err(TopError::Terminal)?;
    watch_keys(sender).map_err(TopError::Terminal)?;
    let mut view =
        View { state, queries, closes, is_asked: false, due: Instant::now() + interval, is_wanted: false, interval };
    view.run(&mut screen, &events).map_err(TopError::Terminal)
}

/// Starts the threads that ask the server: one thread for the screen, one for clients to be closed.
fn ask_on_threads(
    mut server: Server,
    events: &SyncSender<Event>,
) -> Result<(SyncSender<Query>, SyncSender<Close>), TopError> {
    let mut closer = server.again()?;
    let (queries, asked) = sync_channel::<Query>(1);
    let (answers, alarm) = (events.clone(), Alarm(events.clone()));
    let answer = move || {
        let _alarm = alarm;
        for query in asked {
            let begun = Instant::now();
            let outcome = server.ask(&query).map(Box::new);
            if answers.send(Event::Answered(query, outcome, begun.elapsed())).is_err() {
                return;
            }
        }
    };
    thread::Builder::new().name("requests".to_owned()).spawn(answer).map_err(TopError::Terminal)?;
    let (closes, wanted) = sync_channel::<Close>(CLOSES);
    let (outcomes, alarm) = (events.clone(), Alarm(events.clone()));
    let close = move || {
        let _alarm = alarm;
        for Close { connection, may_return } in wanted {
            let outcome = closer.close(connection, may_return);
            if outcomes.send(Event::Closed(connection, outcome)).is_err() {
                return;
            }
        }
    };
    thread::Builder::new().name("closes".to_owned()).spawn(close).map_err(TopError::Terminal)?;
    Ok((queries, closes))
}

/// Ends the view if a thread panics, after the panic has given the terminal back.
struct Alarm(SyncSender<Event>);

impl Drop for Alarm {
    fn drop(&mut self) {
        if thread::panicking() {
            let _ = self.0.send(Event::Told(Told::Lost(io::Error::other("a thread has panicked"))));
        }
    }
}

struct View {
    state: State,
    queries: SyncSender<Query>,
    closes: SyncSender<Close>,
    /// Whether a request is under way.
    is_asked: bool,
    /// When the next request is due.
    due: Instant,
    /// Whether the reader waits for the next request: it is due even during a pause.
    is_wanted: bool,
    interval: Duration,
}

impl View {
    fn run(&mut self, screen: &mut Screen, events: &Receiver<Event>) -> io::Result<()> {
        let look = Look::of_the_environment();
        loop {
            let area = screen.terminal.size()?.into();
            let page = draw::page(area, &self.state);
            self.state.resize(page);
            let state = &self.state;
            screen.terminal.draw(|frame| draw::draw(state, look, Instant::now(), frame))?;
            self.ask_if_due();
            // All waiting events, before the screen is drawn again.
            let mut next = events.recv_timeout(self.patience());
            loop {
                match next {
                    Ok(event) => {
                        if self.take(event)? {
                            return Ok(());
                        }
                    }
                    Err(RecvTimeoutError::Timeout) => break,
                    Err(RecvTimeoutError::Disconnected) => return Err(io::Error::other("all threads have ended")),
                }
                next = events.recv_timeout(Duration::ZERO);
            }
        }
    }

    /// The time until something changes without an event.
    fn patience(&self) -> Duration {
        let until_due = self.due.saturating_duration_since(Instant::now());
        if self.is_asked || self.state.is_paused { REDRAW } else { REDRAW.min(until_due) }
    }

    fn ask_if_due(&mut self) {
        let now = Instant::now();
        let is_due = self.is_wanted || now >= self.due && !self.state.is_paused;
        if self.is_asked || !is_due {
            return;
        }
        // The thread is waiting for a query unless one is under way.
        self.is_asked = self.queries.try_send(self.state.query(now)).is_ok();
        self.due = now + self.interval;
        self.is_wanted = false;
    }

    /// Takes an event, and returns whether the view ends.
    fn take(&mut self, event: Event) -> io::Result<bool> {
        let now = Instant::now();
        match event {
            Event::Told(Told::Key(key)) => {
                let action = self.state.key(key, now);
                return Ok(self.act(action, now));
            }
            Event::Told(Told::Resized) => {}
            Event::Told(Told::End) => return Ok(true),
            Event::Told(Told::Lost(error)) => return Err(error),
            Event::Answered(query, answers, took) => {
                self.is_asked = false;
                if query.list == ListQuery::Tree {
                    self.due = self.due.max(now + took * REST);
                }
                match answers {
                    Ok(answers) => self.state.answer(&query, *answers, now),
                    Err(error) => self.state.fail(with_causes(&error)),
                }
            }
            Event::Closed(connection, outcome) => {
                self.state.closed(connection, outcome.map_err(|error| with_causes(&error)), now);
                self.is_wanted = true;
            }
        }
        Ok(false)
    }

    fn act(&mut self, action: Action, now: Instant) -> bool {
        match action {
            Action::Draw => {}
            Action::Ask => self.is_wanted = true,
            Action::Quit => return true,
            Action::Close { connection, may_return } => {
                let wanted = self.closes.try_send(Close { connection, may_return });
                if let Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) = wanted {
                    self.state.closed(
                        connection,
                        Err("the server has not answered earlier requests yet".to_owned()),
                        now,
                    );
                }
            }
        }
        false
    }
}
