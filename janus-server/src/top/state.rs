//! The state of the view: a pure value that answers and keys change, and from which the screen is drawn.
//!
//! Nothing here reads a clock, a socket or a terminal; the time is an argument.

use std::time::{Duration, Instant};

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::answers::{Client, Clients, Readiness, Slow, Stats, Topics, Tree};
use super::cursor::{Cursor, Step};
use super::history::History;
use super::query::{ClientQuery, ListQuery, Query, Tab, TopicQuery};
use super::server::{Answers, List};
use super::tree::{Choice, Row, in_trouble};

/// Characters of a filter, as long as the longest name of a topic may be.
const FILTER_MAX: usize = 1_024;

/// How long a notice stays, unless a key ends it.
const NOTICE: Duration = Duration::from_secs(10);

/// What the main loop has to do after a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// Nothing but drawing.
    Draw,
    /// Ask the server at once, because the list in sight is another.
    Ask,
    Close {
        connection: u64,
        may_return: bool,
    },
    Quit,
}

/// What keys mean at the moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Mode {
    #[default]
    Browsing,
    /// A filter is being written.
    Filter(String),
    /// A client is about to be closed. The client is the one of the moment of the key, wherever its row has moved.
    Confirm(Target),
    Help,
}

/// A client to be closed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) connection: u64,
    pub(super) peer: Option<String>,
    pub(super) user: Option<String>,
}

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct State {
    /// The address of the server.
    pub(super) address: String,
    pub(super) tab: Tab,
    pub(super) mode: Mode,
    pub(super) is_paused: bool,
    pub(super) stats: Stats,
    pub(super) readiness: Readiness,
    pub(super) history: History,
    pub(super) slow: Slow,
    pub(super) topics: Listed<TopicQuery, Topics, String>,
    pub(super) clients: Listed<ClientQuery, Clients, u64>,
    pub(super) tree: TreeListed,
    /// The time between two requests.
    interval: Duration,
    /// When the last answer came.
    answered: Instant,
    /// Why the last request has failed; none after an answer.
    pub(super) failure: Option<String>,
    notice: Option<(String, Instant)>,
    /// The rows of a list that the screen has room for.
    page: usize,
}

/// A list with its query and its reader's place.
#[derive(Debug, Default)]
pub(super) struct Listed<Q, A, K> {
    pub(super) query: Q,
    /// The last answer; none before the first, and after a change of the query.
    pub(super) answer: Option<A>,
    /// Why the server refuses the query.
    pub(super) refusal: Option<String>,
    pub(super) cursor: Cursor<K>,
}

/// The tree with its reader's place.
#[derive(Debug, Default)]
pub(super) struct TreeListed {
    pub(super) choice: Choice,
    pub(super) answer: Option<Tree>,
    pub(super) refusal: Option<String>,
    pub(super) rows: Vec<Row>,
    /// Nodes that do not run.
    pub(super) in_trouble: usize,
    pub(super) cursor: Cursor<Vec<String>>,
}

impl Listed<TopicQuery, Topics, String> {
    fn names(&self) -> Vec<String> {
        self.answer.iter().flat_map(|answer| &answer.topics).map(|topic| topic.topic.clone()).collect()
    }
}

impl Listed<ClientQuery, Clients, u64> {
    fn names(&self) -> Vec<u64> {
        self.answer.iter().flat_map(|answer| &answer.connections).map(|client| client.connection).collect()
    }

    /// The selected client, if the list has it.
    pub(super) fn selected(&self) -> Option<&Client> {
        let selected = self.cursor.selected()?;
        self.answer.iter().flat_map(|answer| &answer.connections).find(|client| client.connection == *selected)
    }
}

impl<Q: Default, A, K: Clone + PartialEq> Listed<Q, A, K> {
    /// Begins another list.
    fn change(&mut self, change: impl FnOnce(&mut Q)) {
        change(&mut self.query);
        (self.answer, self.refusal) = (None, None);
        self.cursor.clear();
    }

    fn accept(&mut self, answer: Result<A, String>) {
        match answer {
            Ok(answer) => (self.answer, self.refusal) = (Some(answer), None),
            Err(refusal) => self.refusal = Some(refusal),
        }
    }
}

impl TreeListed {
    fn names(&self) -> Vec<Vec<String>> {
        self.rows.iter().map(|row| row.path.clone()).collect()
    }

    fn refresh(&mut self) {
        self.rows = self.answer.as_ref().map(|answer| self.choice.rows(&answer.tree)).unwrap_or_default();
        self.in_trouble = self.answer.as_ref().map_or(0, |answer| in_trouble(&answer.tree));
    }
}

impl State {
    /// A state without an answer yet.
    pub(super) fn new(address: &str, interval: Duration, now: Instant) -> Self {
        Self {
            address: address.to_owned(),
            tab: Tab::default(),
            mode: Mode::default(),
            is_paused: false,
            stats: Stats::default(),
            readiness: Readiness::default(),
            history: History::default(),
            slow: Slow::default(),
            topics: Listed::default(),
            clients: Listed::default(),
            tree: TreeListed::default(),
            interval,
            answered: now,
            failure: None,
            notice: None,
            page: 1,
        }
    }

    /// The next request. `elapsed` has passed since the last answer.
    pub(super) fn query(&self, now: Instant) -> Query {
        let elapsed = u64::try_from(now.saturating_duration_since(self.answered).as_millis()).unwrap_or(u64::MAX);
        let list = match self.tab {
            Tab::Topics => ListQuery::Topics(self.topics.query.clone()),
            Tab::Clients => ListQuery::Clients(self.clients.query.clone()),
            Tab::Tree => ListQuery::Tree,
        };
        Query { samples: self.history.missing(self.stats.time.saturating_add(elapsed)), list }
    }

    /// The server has answered a request.
    pub(super) fn answer(&mut self, query: &Query, answers: Answers, now: Instant) {
        (self.answered, self.failure) = (now, None);
        self.history.extend(&answers.stats);
        self.stats = answers.stats;
        self.readiness = answers.readiness;
        self.slow = answers.slow;
        self.accept(&query.list, answers.list);
        self.settle();
    }

    /// Takes a list, unless the reader has asked for another meanwhile.
    fn accept(&mut self, query: &ListQuery, list: Result<List, String>) {
        match (query, list) {
            (ListQuery::Topics(query), list) if *query == self.topics.query => match list {
                Ok(List::Topics(topics)) => self.topics.accept(Ok(topics)),
                Ok(List::Clients(_) | List::Tree(_)) => {}
                Err(refusal) => self.topics.accept(Err(refusal)),
            },
            (ListQuery::Clients(query), list) if *query == self.clients.query => match list {
                Ok(List::Clients(clients)) => self.clients.accept(Ok(clients)),
                Ok(List::Topics(_) | List::Tree(_)) => {}
                Err(refusal) => self.clients.accept(Err(refusal)),
            },
            (ListQuery::Tree, Ok(List::Tree(tree))) => {
                (self.tree.answer, self.tree.refusal) = (Some(tree), None);
                self.tree.refresh();
            }
            (ListQuery::Tree, Err(refusal)) => self.tree.refusal = Some(refusal),
            _ => {}
        }
    }

    /// The server has not answered.
    pub(super) fn fail(&mut self, reason: String) {
        self.failure = Some(reason);
    }

    /// A client has been closed, or not.
    pub(super) fn closed(&mut self, connection: u64, outcome: Result<(), String>, now: Instant) {
        let text = match outcome {
            Ok(()) => format!("closing connection {connection}"),
            Err(reason) => format!("connection {connection} not closed: {reason}"),
        };
        self.notice = Some((text, now));
    }

    /// The age of what is on the screen.
    pub(super) fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.answered)
    }

    /// Whether the server takes longer for an answer than usual.
    pub(super) fn is_late(&self, now: Instant) -> bool {
        self.age(now) > self.interval * 2 + Duration::from_secs(1)
    }

    /// A line for the reader that is still new.
    pub(super) fn notice(&self, now: Instant) -> Option<&str> {
        self.notice
            .as_ref()
            .filter(|(_, since)| now.saturating_duration_since(*since) < NOTICE)
            .map(|(text, _)| &**text)
    }

    /// The screen has room for this many rows of a list.
    pub(super) fn resize(&mut self, page: usize) {
        self.page = page;
        self.settle();
    }

    fn settle(&mut self) {
        self.topics.cursor.settle(&self.topics.names(), self.page);
        self.clients.cursor.settle(&self.clients.names(), self.page);
        self.tree.cursor.settle(&self.tree.names(), self.page);
    }

    /// A key.
    pub(super) fn key(&mut self, key: KeyEvent, now: Instant) -> Action {
        if key.modifiers.contains(KeyModifiers::CONTROL) && matches!(key.code, KeyCode::Char('c')) {
            return Action::Quit;
        }
        self.notice = None;
        match std::mem::take(&mut self.mode) {
            Mode::Browsing => self.browse(key, now),
            Mode::Filter(text) => self.write_filter(text, key),
            Mode::Confirm(target) => confirm(&target, key.code),
            Mode::Help if matches!(key.code, KeyCode::Char('q')) => Action::Quit,
            Mode::Help => Action::Draw,
        }
    }

    fn browse(&mut self, key: KeyEvent, now: Instant) -> Action {
        match key.code {
            KeyCode::Char('q') => return Action::Quit,
            KeyCode::Char('?' | 'h') => self.mode = Mode::Help,
            KeyCode::Char('p') => {
                self.is_paused = !self.is_paused;
                return if self.is_paused { Action::Draw } else { Action::Ask };
            }
            KeyCode::Char('s') => return self.next_order(),
            KeyCode::Char('/') => self.mode = Mode::Filter(self.filter().to_owned()),
            KeyCode::Char('k') => self.ask_to_confirm(now),
            KeyCode::Tab | KeyCode::BackTab | KeyCode::Char('1'..='3') => return self.switch(key.code),
            KeyCode::Enter => return self.enter(),
            KeyCode::Esc => return self.escape(),
            code => self.step(code),
        }
        Action::Draw
    }

    fn switch(&mut self, code: KeyCode) -> Action {
        let place = Tab::ALL.iter().position(|tab| *tab == self.tab).unwrap_or(0);
        let place = match code {
            KeyCode::Char('1') => 0,
            KeyCode::Char('2') => 1,
            KeyCode::Char('3') => 2,
            KeyCode::BackTab => place + Tab::ALL.len() - 1,
            _ => place + 1,
        };
        self.tab = Tab::ALL[place % Tab::ALL.len()];
        Action::Ask
    }

    fn step(&mut self, code: KeyCode) {
        let step = match code {
            KeyCode::Up => Step::Up,
            KeyCode::Down => Step::Down,
            KeyCode::PageUp => Step::PageUp,
            KeyCode::PageDown => Step::PageDown,
            KeyCode::Home => Step::First,
            KeyCode::End => Step::Last,
            _ => return,
        };
        match self.tab {
            Tab::Topics => self.topics.cursor.step(step, &self.topics.names(), self.page),
            Tab::Clients => self.clients.cursor.step(step, &self.clients.names(), self.page),
            Tab::Tree => self.tree.cursor.step(step, &self.tree.names(), self.page),
        }
    }

    fn next_order(&mut self) -> Action {
        match self.tab {
            Tab::Topics => self.topics.change(|query| query.order = query.order.next()),
            Tab::Clients => self.clients.change(|query| query.order = query.order.next()),
            Tab::Tree => {
                self.tree.choice.order = self.tree.choice.order.next();
                self.tree.refresh();
                self.tree.cursor.clear();
                return Action::Draw;
            }
        }
        Action::Ask
    }

    /// The filter of the list in sight.
    pub(super) fn filter(&self) -> &str {
        match self.tab {
            Tab::Topics => &self.topics.query.filter,
            Tab::Clients => &self.clients.query.filter,
            Tab::Tree => &self.tree.choice.filter,
        }
    }

    fn set_filter(&mut self, filter: String) -> Action {
        if filter == self.filter() {
            return Action::Draw;
        }
        match self.tab {
            Tab::Topics => self.topics.change(|query| query.filter = filter),
            Tab::Clients => self.clients.change(|query| query.filter = filter),
            Tab::Tree => {
                self.tree.choice.filter = filter;
                self.tree.refresh();
                self.tree.cursor.clear();
                return Action::Draw;
            }
        }
        Action::Ask
    }

    fn write_filter(&mut self, mut text: String, key: KeyEvent) -> Action {
        match key.code {
            KeyCode::Enter => return self.set_filter(text),
            KeyCode::Esc => return Action::Draw,
            KeyCode::Backspace => drop(text.pop()),
            KeyCode::Char('u' | 'w') if key.modifiers.contains(KeyModifiers::CONTROL) => text.clear(),
            KeyCode::Char(character) if text.len() < FILTER_MAX && !key.modifiers.contains(KeyModifiers::CONTROL) => {
                text.push(character);
            }
            _ => {}
        }
        self.mode = Mode::Filter(text);
        Action::Draw
    }

    /// Unfolds a supervisor, or lists the clients of a topic.
    fn enter(&mut self) -> Action {
        match self.tab {
            Tab::Topics => {
                let Some(topic) = self.topics.cursor.selected().cloned() else { return Action::Draw };
                self.tab = Tab::Clients;
                self.clients.change(|query| query.filter = format!("topic={topic}"));
                Action::Ask
            }
            Tab::Clients => Action::Draw,
            Tab::Tree => {
                if let Some(row) = self.tree.cursor.row(&self.tree.names()) {
                    let supervisor = self.tree.rows[row].supervisor().to_vec();
                    self.tree.choice.toggle(&supervisor);
                    self.tree.refresh();
                    self.settle();
                }
                Action::Draw
            }
        }
    }

    /// Takes the selection back, or else the filter.
    fn escape(&mut self) -> Action {
        let is_selected = match self.tab {
            Tab::Topics => self.topics.cursor.selected().is_some(),
            Tab::Clients => self.clients.cursor.selected().is_some(),
            Tab::Tree => self.tree.cursor.selected().is_some(),
        };
        if !is_selected {
            return self.set_filter(String::new());
        }
        match self.tab {
            Tab::Topics => self.topics.cursor.clear(),
            Tab::Clients => self.clients.cursor.clear(),
            Tab::Tree => self.tree.cursor.clear(),
        }
        Action::Draw
    }

    fn ask_to_confirm(&mut self, now: Instant) {
        let hint = match (self.tab, self.clients.selected()) {
            (Tab::Clients, Some(client)) => {
                let target =
                    Target { connection: client.connection, peer: client.peer.clone(), user: client.user.clone() };
                self.mode = Mode::Confirm(target);
                return;
            }
            (Tab::Clients, None) => "select a client with the arrow keys first; then k closes the client",
            (Tab::Topics | Tab::Tree, _) => "k closes the selected client of the list of clients (2)",
        };
        self.notice = Some((hint.to_owned(), now));
    }
}

/// The answer to the question whether a client is to be closed. Any other key means no.
fn confirm(target: &Target, code: KeyCode) -> Action {
    let connection = target.connection;
    match code {
        KeyCode::Char('y') => Action::Close { connection, may_return: true },
        KeyCode::Char('b') => Action::Close { connection, may_return: false },
        _ => Action::Draw,
    }
}
