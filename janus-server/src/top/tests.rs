//! Screens and keys: what the reader sees of given answers, and what a key changes.

use std::time::{Duration, Instant};

use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use ratatui::layout::Rect;
use ratatui::style::Color;
use serde_json::{Value, json};

use super::answers::Readiness;
use super::draw::{draw, page};
use super::look::Look;
use super::query::{ListQuery, Query, Tab};
use super::server::{Answers, List};
use super::state::{Action, State};

/// A reader in front of a server whose answers the test writes.
struct Reader {
    state: State,
    readiness: Readiness,
    now: Instant,
    size: (u16, u16),
}

impl Reader {
    fn new(columns: u16, lines: u16) -> Self {
        let now = Instant::now();
        let state = State::new("127.0.0.1:8082", Duration::from_secs(1), now);
        Self { state, readiness: Readiness::default(), now, size: (columns, lines) }
    }

    /// The server answers the query of the moment with these figures and this list.
    fn answered(&mut self, stats: &Value, slow: &Value, list: &Value) -> &mut Self {
        let query = self.state.query(self.now);
        self.answered_to(&query, stats, slow, Ok(list))
    }

    fn answered_to(&mut self, query: &Query, stats: &Value, slow: &Value, list: Result<&Value, &str>) -> &mut Self {
        let list = list.map_err(str::to_owned).map(|list| match query.list {
            ListQuery::Topics(_) => List::Topics(serde_json::from_value(list.clone()).unwrap()),
            ListQuery::Clients(_) => List::Clients(serde_json::from_value(list.clone()).unwrap()),
            ListQuery::Tree => List::Tree(serde_json::from_value(list.clone()).unwrap()),
        });
        let stats = serde_json::from_value(stats.clone()).unwrap();
        let slow = serde_json::from_value(slow.clone()).unwrap();
        self.state.answer(query, Answers { stats, readiness: self.readiness.clone(), slow, list }, self.now);
        self
    }

    fn presses(&mut self, keys: &[KeyCode]) -> Action {
        let mut action = Action::Draw;
        for key in keys {
            self.screen();
            action = self.state.key(KeyEvent::new(*key, KeyModifiers::NONE), self.now);
        }
        action
    }

    fn types(&mut self, text: &str) -> Action {
        self.presses(&text.chars().map(KeyCode::Char).collect::<Vec<_>>())
    }

    fn terminal(&mut self, look: Look) -> Terminal<TestBackend> {
        let mut terminal = Terminal::new(TestBackend::new(self.size.0, self.size.1)).unwrap();
        let page = page(Rect::new(0, 0, self.size.0, self.size.1), &self.state);
        self.state.resize(page);
        terminal.draw(|frame| draw(&self.state, look, self.now, frame)).unwrap();
        terminal
    }

    /// The lines of the screen, without the blanks at their ends.
    fn screen(&mut self) -> Vec<String> {
        let terminal = self.terminal(Look { has_colours: true });
        let buffer = terminal.backend().buffer();
        let (columns, lines) = self.size;
        let line = |y| {
            let (mut text, mut x) = (String::new(), 0);
            while x < columns {
                let symbol = buffer[(x, y)].symbol();
                text += symbol;
                // A wide character covers the next cell, too.
                x += u16::try_from(super::text::width(symbol)).unwrap().max(1);
            }
            text.trim_end().to_owned()
        };
        (0..lines).map(line).collect()
    }

    #[track_caller]
    fn sees(&mut self, text: &str) -> &mut Self {
        let screen = self.screen();
        assert!(screen.iter().any(|line| line.contains(text)), "no {text:?} in:\n{}", screen.join("\n"));
        self
    }

    #[track_caller]
    fn does_not_see(&mut self, text: &str) -> &mut Self {
        let screen = self.screen();
        assert!(!screen.iter().any(|line| line.contains(text)), "{text:?} in:\n{}", screen.join("\n"));
        self
    }
}

fn gauge(value: u64) -> Value {
    json!({"value": value, "kind": "gauge", "text": "…"})
}

fn counter(per_second: f64) -> Value {
    json!({"value": 9_000, "kind": "counter", "text": "…",
        "per_second": {"1s": per_second, "10s": per_second, "60s": null}})
}

fn stats() -> Value {
    json!({
        "version": "0.1.0", "time": 600_000, "uptime_ms": 7_380_000,
        "stats": {
            "places_taken": gauge(9_999), "connections_limit": gauge(19_000), "topics": gauge(5_000),
            "subscriptions": gauge(12_000), "memory_used": gauge(256 << 20), "memory_budget": gauge(1 << 30),
            "memory_pressure": gauge(0), "draining": gauge(0),
            "deliveries": counter(12_345.0), "published": counter(3.2), "messages_dropped": counter(0.0),
        },
        "samples": {"interval_ms": 1000, "time": [597_000, 598_000, 599_000, 600_000],
            "values": {"deliveries": [0, 10, 90, 100], "published": [0, 1, 2, 3]}},
    })
}

fn no_slow() -> Value {
    json!({"clients": []})
}

fn topics() -> Value {
    json!({"topics": [
        {"topic": "news", "subscribers": 3_000, "in_flight": 2, "available": true, "messages_per_second": 2.0},
        {"topic": "sports", "subscribers": 1, "in_flight": 0, "available": false, "messages_per_second": null},
        {"topic": "新聞", "subscribers": 1, "in_flight": 0, "available": true, "messages_per_second": 0.0},
    ], "total": 5_000})
}

fn client(connection: u64, lag: u64) -> Value {
    json!({"connection": connection, "peer": format!("127.0.0.1:{}", 50_000 + connection), "transport": "classic",
        "user": "alice", "topics": 2, "queued_frames": lag / 10, "queued_bytes": lag * 100, "lagging_for_ms": lag})
}

fn clients(connections: &[u64]) -> Value {
    let entries: Vec<Value> = connections.iter().map(|connection| client(*connection, 0)).collect();
    json!({"connections": entries, "total": connections.len()})
}

fn tree() -> Value {
    let node = |name: &str, state: &str, restarts: u64, reason: Value, children: Value| {
        json!({"name": name, "kind": "worker", "id": 1, "state": state, "restarts": restarts,
            "last_reason": reason, "children": children})
    };
    let mut topics: Vec<Value> =
        (0..4_998).map(|n| node(&format!("topic {n}"), "running", 0, Value::Null, json!([]))).collect();
    let mut crashing = node("topic crashing #4", "quarantined", 9, json!("panicked: cannot\ngo on"), json!([]));
    crashing["due_in_ms"] = json!(47_300);
    topics.push(crashing);
    topics.push(node("topic weak #5", "running", 1, json!("panicked: once"), json!([])));
    let clock = node("clock", "running", 0, Value::Null, json!([]));
    let supervisor = node("topic_supervisor", "running", 0, Value::Null, json!(topics));
    json!({"tree": node("janus", "running", 0, Value::Null, json!([supervisor, clock])), "unlisted": 0})
}

#[test]
fn the_first_screen_has_the_figures_and_the_busiest_topics() {
    let mut reader = Reader::new(80, 24);
    let screen = reader.answered(&stats(), &no_slow(), &topics()).screen();
    let bars = "                               ";
    assert_eq!(
        screen[..12],
        [
            "Janus 0.1.0  127.0.0.1:8082  up 2 h 3 m",
            "connections 9,999 of 19,000  slow 0  topics 5,000  subscriptions 12,000",
            &format!("deliveries      12,345/s   {bars}   █ max 80"),
            &format!("publications       3.2/s   {bars}   █ max 1"),
            "memory ████████░░░░░░░░░░░░░░░░░░░░░░░░░░░  25 %  256 MiB of 1.0 GiB  pressure 0",
            " 1 Topics  2 Clients  3 Tree   by rate  first 3 of 5,000",
            "TOPIC                                SUBSCRIBERS    MSGS/S IN FLIGHT STATE",
            "news                                       3,000       2.0         2",
            "sports                                         1         –         0 unavailable",
            "新聞                                           1         0         0",
            "",
            "",
        ]
    );
    assert_eq!(screen[23], "q quit  Tab next list  s sort  / filter  Enter clients  p pause  ? help");
}

#[test]
fn a_low_and_narrow_screen_leaves_out_what_matters_least() {
    let mut reader = Reader::new(60, 15);
    let screen = reader.answered(&stats(), &no_slow(), &topics()).screen();
    assert_eq!(
        screen[..6],
        [
            "Janus 0.1.0  127.0.0.1:8082  up 2 h 3 m",
            "connections 9,999 of 19,000  slow 0  topics 5,000",
            "memory ███░░░░░░░░░░░░  25 %  256 MiB of 1.0 GiB  pressure 0",
            " 1 Topics  2 Clients  3 Tree   by rate  first 3 of 5,000",
            "TOPIC                      SUBSCRIBERS    MSGS/S STATE",
            "news                             3,000       2.0",
        ]
    );
    reader.size = (30, 8);
    reader.sees("The terminal is too small");
}

#[test]
fn every_size_is_drawn_without_a_panic() {
    for list in [topics(), clients(&[1, 2, 3]), tree()] {
        for columns in [1, 39, 40, 81, 300] {
            for lines in [1, 9, 10, 20, 100] {
                let mut reader = Reader::new(columns, lines);
                reader.state.tab = if list["tree"].is_object() {
                    Tab::Tree
                } else if list["topics"].is_array() {
                    Tab::Topics
                } else {
                    Tab::Clients
                };
                reader.answered(&stats(), &no_slow(), &list).screen();
                reader.presses(&[KeyCode::Down, KeyCode::Char('k'), KeyCode::Esc, KeyCode::Char('?')]);
                reader.screen();
                reader.state.fail("cannot connect to 127.0.0.1:8082".into());
                reader.screen();
            }
        }
    }
}

#[test]
fn names_of_strangers_cannot_command_the_terminal() {
    let list = json!({"topics": [{"topic": "a\u{1b}[2J\u{202e}b\u{9b}31m\n", "subscribers": 1, "available": true}]});
    let mut reader = Reader::new(80, 24);
    reader.answered(&stats(), &no_slow(), &list).sees(r"a\u{1b}[2J\u{202e}b\u{9b}31m\n");
    let list = json!({"connections": [
        {"connection": 7, "user": "eve\u{1b}c", "peer": "x\u{7}", "transport": "\u{8}", "lagging_for_ms": 5},
    ]});
    let slow = json!({"clients": [{"connection": 7, "topics": ["t\u{1b}"], "policy": ["p\u{1b}"], "topics_total": 1}]});
    reader.presses(&[KeyCode::Tab]);
    reader.answered(&stats(), &slow, &list).sees(r"eve\u{1b}c").sees(r"x\u{7}");
    reader.presses(&[KeyCode::Down]);
    reader.sees(r"policy p\u{1b}, topics t\u{1b}");
    reader.presses(&[KeyCode::Char('k')]);
    reader.sees(r"Connection 7 of x\u{7}, user eve\u{1b}c");
    reader.state.fail("bad\u{1b}[31m".into());
    reader.sees(r"bad\u{1b}[31m");
}

#[test]
fn lagging_clients_are_shown_with_lag_and_queue() {
    let mut reader = Reader::new(80, 24);
    reader.presses(&[KeyCode::Char('2')]);
    let slow =
        json!({"clients": [{"connection": 7, "topics": ["news"], "topics_total": 3, "policy": ["drop_oldest"]}]});
    let list = json!({"connections": [client(7, 12_000), client(8, 0)], "total": 10_000});
    let screen = reader.answered(&stats(), &slow, &list).screen();
    assert_eq!(
        screen[5..9],
        [
            " 1 Topics  2 Clients  3 Tree   by lag  first 2 of 10,000",
            "CONNECTION PEER                  USER        TRANSPORT TOPICS    QUEUED      LAG",
            "         7 127.0.0.1:50007       alice       classic        2   1.1 MiB     12 s",
            "         8 127.0.0.1:50008       alice       classic        2       0 B",
        ]
    );
    reader.sees("slow 1");
    reader.presses(&[KeyCode::Down]);
    reader.sees("127.0.0.1:50007  user alice  policy drop_oldest, topics news  and 2 more");
}

#[test]
fn a_crashed_topic_stands_out_among_five_thousand() {
    let mut reader = Reader::new(80, 24);
    reader.presses(&[KeyCode::BackTab]);
    let screen = reader.answered(&stats(), &no_slow(), &tree()).screen();
    assert_eq!(
        screen[5..13],
        [
            " 1 Topics  2 Clients  3 Tree   by trouble  1 not running",
            "  NODE                            STATE            RESTARTS LAST END",
            "  janus                           running",
            "  ├─ topic_supervisor (5,000)     running",
            "! │  ├─ topic crashing #4         quarantined 47 s        9 panicked: cannot",
            "* │  ├─ topic weak #5             running                 1 panicked: once",
            "  │  └─ … 4,998 more (Enter)",
            "  └─ clock                        running",
        ]
    );
    reader.presses(&[KeyCode::Down, KeyCode::Down, KeyCode::Down]);
    reader.sees(r"last end: panicked: cannot\ngo on");
    reader.presses(&[KeyCode::Down, KeyCode::Down, KeyCode::Enter, KeyCode::End]);
    reader.sees("topic 4997").does_not_see("topic crashing");
    reader.presses(&[KeyCode::Home]);
    reader.sees("topic crashing");
}

#[test]
fn old_data_says_its_age_and_why_and_new_data_does_not() {
    let mut reader = Reader::new(80, 24);
    reader.answered(&stats(), &no_slow(), &topics());
    reader.now += Duration::from_secs(4);
    reader.sees("data from 4 s ago: waiting for an answer of the server");
    reader.state.fail("cannot connect to 127.0.0.1:8082 (is the server running?): Connection refused".into());
    reader.now += Duration::from_secs(8);
    reader.sees("data from 12 s ago: cannot connect to 127.0.0.1:8082 (is the server running?):");
    reader.sees("Connection refused; trying again").sees("news");
    reader.answered(&stats(), &no_slow(), &topics()).does_not_see("data from");
    reader.size = (60, 15);
    reader.state.fail("cannot connect ".repeat(30));
    reader.sees("; trying again");
}

#[test]
fn a_pause_keeps_the_screen_and_says_so() {
    let mut reader = Reader::new(80, 24);
    reader.answered(&stats(), &no_slow(), &topics());
    assert_eq!(reader.types("p"), Action::Draw);
    reader.now += Duration::from_secs(70);
    reader.sees(" PAUSED ").sees("paused: data from 1 m 10 s ago; p continues");
    assert_eq!(reader.types("p"), Action::Ask);
    reader.does_not_see("PAUSED");
}

#[test]
fn a_server_that_is_not_ready_says_why_and_how_many_nodes_there_are() {
    let mut reader = Reader::new(110, 24);
    let mut stats = stats();
    stats["stats"]["nodes"] = gauge(3);
    let list = json!({"topics": [], "total": 0});
    reader.answered(&stats, &no_slow(), &list).sees("nodes 3").does_not_see("READY");
    let reason = "the engine redis://10.0.0.7:6379 has not been reached for 7 s: Connection refused";
    reader.readiness = serde_json::from_value(json!({"ready": false, "checks": {"engine": reason}})).unwrap();
    reader.answered(&stats, &no_slow(), &list).sees(" NOT READY ").sees(&format!("not ready: engine: {reason}"));
    reader.readiness = serde_json::from_value(json!({"ready": true, "checks": {"engine": "degraded: x"}})).unwrap();
    reader.answered(&stats, &no_slow(), &list).does_not_see("NOT READY").sees("ready: engine: degraded: x");
}

#[test]
fn a_server_that_drains_and_full_figures_stand_out() {
    let mut full = stats();
    for (name, value) in
        [("draining", 1), ("places_taken", 19_000), ("memory_used", 1020 << 20), ("memory_pressure", 3)]
    {
        full["stats"][name] = gauge(value);
    }
    full["stats"]["connections_refused"] = counter(7.0);
    let mut reader = Reader::new(80, 24);
    reader.answered(&full, &no_slow(), &topics());
    reader.sees(" DRAINING ").sees("refused 7.0/s").sees("99 %  1020 MiB of 1.0 GiB  pressure 3");
    let colours = |look| {
        let mut reader = Reader::new(80, 24);
        let terminal = reader.answered(&full, &no_slow(), &topics()).terminal(look);
        terminal.backend().buffer().content().iter().any(|cell| cell.fg != Color::Reset || cell.bg != Color::Reset)
    };
    assert!(colours(Look { has_colours: true }));
    assert!(!colours(Look { has_colours: false }), "without colours, no cell has one");
}

#[test]
fn a_server_without_a_budget_has_no_bar_of_memory() {
    let mut stats = stats();
    stats["stats"]["memory_budget"] = gauge(0);
    Reader::new(80, 24).answered(&stats, &no_slow(), &topics()).sees("memory 256 MiB (no budget)");
}

#[test]
fn k_closes_the_client_of_the_moment_of_the_key_after_a_confirmation() {
    let mut reader = Reader::new(80, 24);
    reader.presses(&[KeyCode::Char('2')]);
    reader.answered(&stats(), &no_slow(), &clients(&[7, 8, 9]));
    assert_eq!(reader.types("k"), Action::Draw);
    reader.sees("select a client with the arrow keys first");
    reader.presses(&[KeyCode::Down, KeyCode::Down]);
    reader.types("k");
    reader.answered(&stats(), &no_slow(), &clients(&[9, 7])).sees("Connection 8 of 127.0.0.1:50008, user alice");
    assert_eq!(reader.types("y"), Action::Close { connection: 8, may_return: true });
    reader.state.closed(8, Err("no such connection".into()), reader.now);
    reader.sees("connection 8 not closed: no such connection");

    reader.presses(&[KeyCode::Down, KeyCode::Char('k')]);
    assert_eq!(reader.types("b"), Action::Close { connection: 9, may_return: false });
    reader.state.closed(9, Ok(()), reader.now);
    reader.sees("closing connection 9");
    for no in [KeyCode::Esc, KeyCode::Char('n'), KeyCode::Char('k'), KeyCode::Enter] {
        reader.types("k");
        assert_eq!(reader.presses(&[no]), Action::Draw, "only y and b close a client");
        reader.does_not_see("Close a client?");
    }
}

#[test]
fn the_selection_stays_with_a_client_when_the_order_changes() {
    let mut reader = Reader::new(80, 24);
    reader.presses(&[KeyCode::Char('2')]);
    reader.answered(&stats(), &no_slow(), &clients(&[7, 8, 9])).presses(&[KeyCode::End]);
    reader.answered(&stats(), &no_slow(), &clients(&[9, 8, 7]));
    assert_eq!(reader.state.clients.selected().unwrap().connection, 9);
    reader.answered(&stats(), &no_slow(), &clients(&[8, 7]));
    assert!(reader.state.clients.selected().is_none(), "a closed client is no longer selected");
}

#[test]
fn s_asks_for_the_next_order_and_answers_to_the_order_before_are_dropped() {
    let mut reader = Reader::new(80, 24);
    let before = reader.state.query(reader.now);
    assert_eq!(reader.types("s"), Action::Ask);
    reader.answered_to(&before, &stats(), &no_slow(), Ok(&topics()));
    reader.sees("by subscribers").does_not_see("news").sees("waiting for the server");
    reader.answered(&stats(), &no_slow(), &topics()).sees("news");
    let ListQuery::Topics(query) = reader.state.query(reader.now).list else { panic!("the tab has changed") };
    assert_eq!(query.target(9), "/api/topics?sort=subscribers&limit=9");
}

#[test]
fn a_filter_is_written_applied_refused_and_taken_back() {
    let mut reader = Reader::new(80, 24);
    reader.answered(&stats(), &no_slow(), &topics());
    assert_eq!(reader.types("/spx"), Action::Draw);
    reader.presses(&[KeyCode::Backspace]);
    reader.sees("filter: sp_").sees("Enter applies");
    assert_eq!(reader.presses(&[KeyCode::Enter]), Action::Ask);
    assert_eq!(reader.state.filter(), "sp");
    let query = reader.state.query(reader.now);
    reader.answered_to(&query, &stats(), &no_slow(), Err("the server refused: bad_request: prefix: too long"));
    reader.sees("the server refused: bad_request: prefix: too long");
    reader.answered(&stats(), &no_slow(), &json!({"topics": [], "total": 0}));
    reader.sees("no topic matches the filter").sees("filter: sp");
    reader.types("/q");
    assert_eq!(reader.presses(&[KeyCode::Esc]), Action::Draw, "a filter that is given up changes nothing");
    assert_eq!(reader.state.filter(), "sp");
    assert_eq!(reader.presses(&[KeyCode::Esc]), Action::Ask);
    assert_eq!(reader.state.filter(), "");
}

#[test]
fn enter_on_a_topic_lists_its_clients() {
    let mut reader = Reader::new(80, 24);
    reader.answered(&stats(), &no_slow(), &topics()).presses(&[KeyCode::Down, KeyCode::Down]);
    assert_eq!(reader.presses(&[KeyCode::Enter]), Action::Ask);
    let ListQuery::Clients(query) = reader.state.query(reader.now).list else { panic!("no list of clients") };
    assert_eq!(query.target(9), "/api/connections?sort=lag&limit=9&topic=sports");
}

#[test]
fn q_and_control_c_end_the_view_and_other_modes_do_not_swallow_control_c() {
    for keys in ["", "/a", "?", "2k"] {
        let mut reader = Reader::new(80, 24);
        reader.answered(&stats(), &no_slow(), &topics()).types(keys);
        let control_c = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
        assert_eq!(reader.state.key(control_c, reader.now), Action::Quit, "after {keys:?}");
    }
    let mut reader = Reader::new(80, 24);
    assert_eq!(reader.types("/q"), Action::Draw, "a letter of a filter");
    reader.presses(&[KeyCode::Esc]);
    assert_eq!(reader.types("q"), Action::Quit);
}

#[test]
fn the_help_covers_the_screen_until_the_next_key() {
    let mut reader = Reader::new(80, 24);
    reader.answered(&stats(), &no_slow(), &topics()).types("?");
    reader.sees("close the selected client").sees("user= peer= transport= topic=");
    assert_eq!(reader.presses(&[KeyCode::Char('k')]), Action::Draw);
    reader.does_not_see("close the selected client");
}
