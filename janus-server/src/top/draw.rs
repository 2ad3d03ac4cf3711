//! The screen as a pure function of the state: the frame around the list in sight, which `lists.rs` draws.

use std::time::Instant;

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::Style;
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Clear, Paragraph, Sparkline, Wrap};

use super::history::{Counter, MINUTES};
use super::lists;
use super::look::Look;
use super::query::{FILTERS, SLOW_MAX, Tab};
use super::state::{Mode, State, Target};
use super::text::{bytes, duration, fit, harmless, number, rate, width};

/// Less than this shows no list.
const SMALLEST: (u16, u16) = (40, 10);

/// The parts of the screen from top to bottom.
struct Parts {
    title: Rect,
    figures: Rect,
    deliveries: Rect,
    published: Rect,
    memory: Rect,
    tabs: Rect,
    list: Rect,
    message: Rect,
    keys: Rect,
}

impl Parts {
    fn of(area: Rect, state: &State) -> Self {
        // Bars take lines from the list: none on a low screen, and high bars only on a high screen.
        let bars = match area.height {
            0..20 => 0,
            20..36 => 1,
            _ => 3,
        };
        let message = if state.failure.is_some() { 2 } else { 1 };
        let gap = if bars > 1 { 1 } else { 0 };
        let heights = [1, 1, bars, gap, bars, 1, 1].map(Constraint::Length).into_iter();
        let heights = heights.chain([Constraint::Fill(1), Constraint::Length(message), Constraint::Length(1)]);
        let [title, figures, deliveries, _, published, memory, tabs, list, message, keys] =
            Layout::vertical(heights).areas(area);
        Self { title, figures, deliveries, published, memory, tabs, list, message, keys }
    }
}

/// The rows of a list on a screen of this size.
pub(super) fn page(area: Rect, state: &State) -> usize {
    usize::from(Parts::of(area, state).list.height.saturating_sub(lists::TITLES))
}

/// Draws the screen.
pub(super) fn draw(state: &State, look: Look, now: Instant, frame: &mut Frame<'_>) {
    let area = frame.area();
    if area.width < SMALLEST.0 || area.height < SMALLEST.1 {
        let text = format!("The terminal is too small: {} columns and {} lines are needed.", SMALLEST.0, SMALLEST.1);
        frame.render_widget(Paragraph::new(text).wrap(Wrap::default()), area);
        return;
    }
    let parts = Parts::of(area, state);
    frame.render_widget(title(state, look, parts.title.width), parts.title);
    frame.render_widget(figures(state, look, parts.figures.width), parts.figures);
    bars(state, look, Counter::Deliveries, parts.deliveries, frame);
    bars(state, look, Counter::Published, parts.published, frame);
    frame.render_widget(memory(state, look, parts.memory.width), parts.memory);
    frame.render_widget(tabs(state, look, parts.tabs.width), parts.tabs);
    lists::draw(state, look, parts.list, frame);
    frame.render_widget(Paragraph::new(message(state, look, now, parts.message)).wrap(Wrap::default()), parts.message);
    frame.render_widget(keys(state, look, parts.keys.width), parts.keys);
    match &state.mode {
        Mode::Browsing | Mode::Filter(_) => {}
        Mode::Confirm(target) => pop_up(" Close a client? ", &question(target), frame),
        Mode::Help => pop_up(" Keys ", &help(), frame),
    }
}

/// Parts of a line with two blanks between them, as many as fit; the first has what there is.
fn line_of(parts: Vec<(String, Style)>, columns: u16) -> Line<'static> {
    let columns = usize::from(columns);
    let (mut line, mut taken) = (Line::default(), 0);
    for (text, style) in parts {
        let text = if taken == 0 { fit(&text, columns) } else { text };
        let needed = width(&text) + if taken == 0 { 0 } else { 2 };
        if taken + needed <= columns {
            if taken > 0 {
                line.push_span("  ");
            }
            line.push_span(Span::styled(text, style));
            taken += needed;
        }
    }
    line
}

fn title(state: &State, look: Look, columns: u16) -> Line<'static> {
    let plain = Style::new();
    let mut parts = Vec::new();
    if state.stats.value("draining") > 0 {
        parts.push((" DRAINING ".to_owned(), look.selected()));
    } else if !state.readiness.ready {
        parts.push((" NOT READY ".to_owned(), look.selected()));
    }
    if state.is_paused {
        parts.push((" PAUSED ".to_owned(), look.selected()));
    }
    parts.push((format!("Janus {}", harmless(&state.stats.version)), look.strong()));
    parts.push((harmless(&state.address), plain));
    parts.push((format!("up {}", duration(std::time::Duration::from_millis(state.stats.uptime_ms))), plain));
    line_of(parts, columns)
}

fn figures(state: &State, look: Look, columns: u16) -> Line<'static> {
    let value = |name: &str| state.stats.value(name);
    let plain = Style::new();
    let (taken, limit) = (value("places_taken"), value("connections_limit"));
    // Clients are refused beyond the limit, so the last tenth is a warning.
    let style = if limit > 0 && taken >= limit / 10 * 9 { look.warning() } else { plain };
    let mut parts = vec![(format!("connections {} of {}", number(taken), number(limit)), style)];
    let slow = u64::try_from(state.slow.clients.len()).unwrap_or(u64::MAX);
    let (more, style) = match state.slow.clients.len() {
        0 => ("", plain),
        SLOW_MAX.. => ("+", look.warning()),
        _ => ("", look.warning()),
    };
    parts.push((format!("slow {}{more}", number(slow)), style));
    parts.push((format!("topics {}", number(value("topics"))), plain));
    // Without an engine there is none.
    if value("nodes") > 0 {
        let style = if state.readiness.checks.contains_key("engine") { look.warning() } else { plain };
        parts.push((format!("nodes {}", number(value("nodes"))), style));
    }
    for (name, words) in
        [("connections_refused", "refused"), ("slow_consumers", "cut off"), ("messages_dropped", "dropped")]
    {
        let per_second = state.stats.rate(name, "10s").filter(|rate| *rate > 0.0);
        parts.extend(per_second.map(|per_second| (format!("{words} {}/s", rate(Some(per_second))), look.warning())));
    }
    parts.push((format!("subscriptions {}", number(value("subscriptions"))), plain));
    line_of(parts, columns)
}

/// The columns before and after the bars.
const BEFORE_BARS: u16 = 26;
const AFTER_BARS: u16 = 18;

fn bars(state: &State, look: Look, counter: Counter, area: Rect, frame: &mut Frame<'_>) {
    let (name, words) = match counter {
        Counter::Deliveries => ("deliveries", "deliveries"),
        Counter::Published => ("published", "publications"),
    };
    if area.height == 0 {
        return;
    }
    let [before, chart, after] =
        Layout::horizontal([Constraint::Length(BEFORE_BARS), Constraint::Fill(1), Constraint::Length(AFTER_BARS)])
            .areas(area);
    let now = rate(state.stats.rate(name, "1s"));
    let label = Line::from(vec![Span::raw(format!("{words:<13}")), Span::styled(format!("{now:>9}/s"), look.strong())]);
    frame.render_widget(label, lowest(before));
    let bars = state.history.bars(counter, usize::from(chart.width));
    let most = bars.iter().copied().max().unwrap_or(0);
    frame.render_widget(Sparkline::default().data(&bars).max(most.max(1)).style(look.bar()), chart);
    // A bar is the mean of some seconds.
    let words = Line::styled(format!(" max {}", number(state.history.most(counter))), look.quiet());
    frame.render_widget(words, Rect { height: 1, ..after });
    let time = Line::styled(format!(" in {MINUTES} min"), look.quiet());
    if after.height > 1 {
        frame.render_widget(time, lowest(after));
    }
}

/// The last line of an area.
fn lowest(area: Rect) -> Rect {
    Rect { y: area.bottom() - 1, height: 1, ..area }
}

fn memory(state: &State, look: Look, columns: u16) -> Line<'static> {
    let value = |name: &str| state.stats.value(name);
    let (used, budget, pressure) = (value("memory_used"), value("memory_budget"), value("memory_pressure"));
    if budget == 0 {
        return line_of(vec![(format!("memory {} (no budget)", bytes(used)), Style::new())], columns);
    }
    let per_cent = used.saturating_mul(100) / budget;
    let words = format!(" {per_cent:>3} %  {} of {}  pressure {pressure}", bytes(used), bytes(budget));
    let label = "memory ";
    let room = usize::from(columns).saturating_sub(width(label) + width(&words)).min(60);
    let full = usize::try_from(used.saturating_mul(room as u64) / budget).unwrap_or(room).min(room);
    // From 80 % of the budget on, topics forget messages early.
    let style = match per_cent {
        0..80 => look.good(),
        80..95 => look.warning(),
        _ => look.bad(),
    };
    Line::from(vec![
        Span::raw(label),
        Span::styled("█".repeat(full), style),
        Span::styled("░".repeat(room - full), look.quiet()),
        Span::styled(words, if pressure > 0 { look.warning() } else { Style::new() }),
    ])
}

fn tabs(state: &State, look: Look, columns: u16) -> Line<'static> {
    let mut line = Line::default();
    for (place, tab) in Tab::ALL.into_iter().enumerate() {
        let style = if tab == state.tab { look.selected() } else { Style::new() };
        line.push_span(Span::styled(format!(" {} {} ", place + 1, tab.name()), style));
    }
    let columns = usize::from(columns);
    let room = |line: &Line<'_>| columns.saturating_sub(line.width() + 2);
    if let Mode::Filter(text) = &state.mode {
        let text = harmless(text);
        // The end of a long filter is where the reader writes.
        let mut end = &*text;
        while width(end) + width("filter: _") > room(&line) && !end.is_empty() {
            end = &end[end.chars().next().map_or(0, char::len_utf8)..];
        }
        line.push_span(Span::styled(format!("  filter: {end}_"), look.strong()));
        return line;
    }
    let order = match state.tab {
        Tab::Topics => state.topics.query.order.words(),
        Tab::Clients => state.clients.query.order.words(),
        Tab::Tree => state.tree.choice.order.words(),
    };
    let mut parts = vec![format!("by {order}")];
    if !state.filter().is_empty() {
        parts.push(format!("filter: {}", harmless(state.filter())));
    }
    parts.extend(lists::count(state));
    for part in parts {
        if room(&line) > 4 {
            let part = fit(&part, room(&line));
            line.push_span(Span::raw(format!("  {part}")));
        }
    }
    line
}

/// The line below the list: above all the age of the data, if the server no longer answers.
fn message(state: &State, look: Look, now: Instant, area: Rect) -> Line<'static> {
    let age = duration(state.age(now));
    if let Some(reason) = &state.failure {
        let (before, after) = (format!("data from {age} ago: "), "; trying again");
        // One column less a line, because a line is broken at a blank.
        let room =
            usize::from(area.width.saturating_sub(8) * area.height).saturating_sub(width(&before) + width(after));
        let text = format!("{before}{}{after}", fit(&harmless(reason), room));
        return Line::styled(text, look.bad());
    }
    if state.is_paused {
        return Line::styled(format!("paused: data from {age} ago; p continues"), look.warning());
    }
    if let Some(notice) = state.notice(now) {
        return Line::styled(fit(&harmless(notice), area.width.into()), look.strong());
    }
    if !state.readiness.checks.is_empty() && !state.is_late(now) {
        let words = if state.readiness.ready { "ready" } else { "not ready" };
        let text = format!("{words}: {}", state.readiness.reasons());
        return Line::styled(fit(&harmless(&text), area.width.into()), look.warning());
    }
    if state.is_late(now) {
        return Line::styled(format!("data from {age} ago: waiting for an answer of the server"), look.warning());
    }
    Line::raw(fit(&lists::details(state), area.width.into()))
}

fn keys(state: &State, look: Look, columns: u16) -> Line<'static> {
    let keys: &[(&str, &str)] = match (&state.mode, state.tab) {
        (Mode::Filter(_), Tab::Topics) => &[("", "beginning of a name"), ("Enter", "applies"), ("Esc", "leaves")],
        (Mode::Filter(_), Tab::Clients) => {
            &[("", "user=… peer=… transport=… topic=…"), ("Enter", "applies"), ("Esc", "leaves")]
        }
        (Mode::Filter(_), Tab::Tree) => &[("", "part of a name"), ("Enter", "applies"), ("Esc", "leaves")],
        (_, Tab::Topics) => &[
            ("q", "quit"),
            ("Tab", "next list"),
            ("s", "sort"),
            ("/", "filter"),
            ("Enter", "clients"),
            ("p", "pause"),
            ("?", "help"),
        ],
        (_, Tab::Clients) => &[
            ("q", "quit"),
            ("Tab", "next list"),
            ("s", "sort"),
            ("/", "filter"),
            ("k", "close client"),
            ("p", "pause"),
            ("?", "help"),
        ],
        (_, Tab::Tree) => &[
            ("q", "quit"),
            ("Tab", "next list"),
            ("s", "sort"),
            ("/", "filter"),
            ("Enter", "fold"),
            ("p", "pause"),
            ("?", "help"),
        ],
    };
    let mut line = Line::default();
    for (key, words) in keys {
        if line.width() + width(key) + width(words) + 3 <= usize::from(columns) {
            line.push_span(Span::styled((*key).to_owned(), look.strong()));
            line.push_span(Span::styled(format!(" {words}  "), look.quiet()));
        }
    }
    line
}

fn question(target: &Target) -> Vec<String> {
    let peer = target.peer.as_deref().map_or_else(String::new, |peer| format!(" of {}", harmless(peer)));
    let user = target.user.as_deref().map_or_else(String::new, |user| format!(", user {}", harmless(user)));
    vec![
        format!("Connection {}{peer}{user}", target.connection),
        String::new(),
        "y    close; the client may connect again".to_owned(),
        "b    close as banned; the client must stay away".to_owned(),
        "Esc  leave the client alone".to_owned(),
    ]
}

fn help() -> Vec<String> {
    let filters = FILTERS.map(|key| format!("{key}=")).join(" ");
    [
        "Tab 1 2 3    topics, clients, supervision tree",
        "↑ ↓ PgUp PgDn Home End   select",
        "Esc          end of the selection, then of the filter",
        "s            next order of the list",
        "/            filter: beginning of a topic's name;",
        &format!("             clients by {filters}"),
        "Enter        clients of a topic; fold or unfold the tree",
        "k            close the selected client",
        "p            pause",
        "q Ctrl-C     quit",
    ]
    .map(str::to_owned)
    .to_vec()
}

/// A box in the middle of the screen.
fn pop_up(title: &'static str, lines: &[String], frame: &mut Frame<'_>) {
    let area = frame.area();
    let columns = lines.iter().map(|line| width(line)).max().unwrap_or(0);
    let columns = u16::try_from(columns).unwrap_or(u16::MAX).saturating_add(4).min(area.width);
    let rows = u16::try_from(lines.len()).unwrap_or(u16::MAX).saturating_add(2).min(area.height);
    let area = Rect { x: (area.width - columns) / 2, y: (area.height - rows) / 2, width: columns, height: rows };
    let room = usize::from(columns.saturating_sub(4));
    let lines: Vec<Line<'_>> = lines.iter().map(|line| Line::raw(format!(" {}", fit(line, room)))).collect();
    frame.render_widget(Clear, area);
    frame.render_widget(Paragraph::new(lines).block(Block::bordered().title(title)), area);
}
