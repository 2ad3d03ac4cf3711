//! The list in sight: topics, clients, or the supervision tree.

use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::style::Style;
use ratatui::widgets::{Paragraph, Wrap};

use super::answers::{Client, Topic};
use super::columns::{self, Column};
use super::look::Look;
use super::query::Tab;
use super::state::State;
use super::text::{harmless, number};
use super::tree::Row;

/// Lines of titles above a list.
pub(super) const TITLES: u16 = 1;

/// Draws the list in sight, or why there is none.
pub(super) fn draw(state: &State, look: Look, area: Rect, frame: &mut Frame<'_>) {
    if let Some(words) = absence(state) {
        frame.render_widget(Paragraph::new(words).wrap(Wrap::default()), area);
        return;
    }
    match state.tab {
        Tab::Topics => {
            let (answer, cursor) = (&state.topics.answer, &state.topics.cursor);
            let topics = answer.as_ref().map_or(&[][..], |answer| &answer.topics);
            let is_selected = |topic: &Topic| cursor.selected() == Some(&topic.topic);
            rows(&columns::topics(area.width), topics, cursor.offset, is_selected, look, area, frame);
        }
        Tab::Clients => {
            let (answer, cursor) = (&state.clients.answer, &state.clients.cursor);
            let clients = answer.as_ref().map_or(&[][..], |answer| &answer.connections);
            let is_selected = |client: &Client| cursor.selected() == Some(&client.connection);
            rows(&columns::clients(area.width), clients, cursor.offset, is_selected, look, area, frame);
        }
        Tab::Tree => {
            let cursor = &state.tree.cursor;
            let is_selected = |row: &Row| cursor.selected() == Some(&row.path);
            rows(&columns::tree(area.width), &state.tree.rows, cursor.offset, is_selected, look, area, frame);
        }
    }
}

/// Draws the titles, and the entries from `offset` on that have room below.
fn rows<E>(
    columns: &[Column<E>],
    entries: &[E],
    offset: usize,
    is_selected: impl Fn(&E) -> bool,
    look: Look,
    area: Rect,
    frame: &mut Frame<'_>,
) {
    let head = Rect { height: TITLES.min(area.height), ..area };
    frame.render_widget(columns::titles(columns).style(look.titles()), head);
    for (entry, y) in entries.iter().skip(offset).zip(head.bottom()..area.bottom()) {
        // Reversed, the colours of single cells would make patches of a selected row.
        let (style, look) =
            if is_selected(entry) { (look.selected(), Look { has_colours: false }) } else { (Style::new(), look) };
        let line = columns::entry(columns, entry, look).style(style);
        frame.render_widget(line, Rect { y, height: 1, ..area });
    }
}

/// The words in place of a missing or empty list.
fn absence(state: &State) -> Option<String> {
    let (length, refusal) = match state.tab {
        Tab::Topics => (state.topics.answer.as_ref().map(|answer| answer.topics.len()), &state.topics.refusal),
        Tab::Clients => (state.clients.answer.as_ref().map(|answer| answer.connections.len()), &state.clients.refusal),
        Tab::Tree => (state.tree.answer.as_ref().map(|_| state.tree.rows.len()), &state.tree.refusal),
    };
    let entries = match state.tab {
        Tab::Topics => "topic",
        Tab::Clients => "client",
        Tab::Tree => "node of the tree",
    };
    match (length, refusal) {
        (None, Some(refusal)) => Some(harmless(refusal)),
        (None, None) => Some("waiting for the server".to_owned()),
        (Some(0), _) if state.filter().is_empty() => Some(format!("no {entries}")),
        (Some(0), _) => Some(format!("no {entries} matches the filter; / changes the filter")),
        (Some(_), _) => None,
    }
}

/// How much of a list the view has.
pub(super) fn count(state: &State) -> Option<String> {
    let part = |shown: usize, total: Option<u64>, more: bool| {
        let shown = u64::try_from(shown).unwrap_or(u64::MAX);
        match total {
            Some(total) if total > shown => format!("first {} of {}", number(shown), number(total)),
            _ if more => format!("first {}", number(shown)),
            _ => format!("all {}", number(shown)),
        }
    };
    match state.tab {
        Tab::Topics => {
            state.topics.answer.as_ref().map(|list| part(list.topics.len(), list.total, list.next.is_some()))
        }
        Tab::Clients => {
            state.clients.answer.as_ref().map(|list| part(list.connections.len(), list.total, list.next.is_some()))
        }
        Tab::Tree => state.tree.answer.as_ref().map(|tree| match (tree.unlisted, state.tree.in_trouble) {
            (0, 0) => "all nodes run".to_owned(),
            (0, trouble) => format!("{trouble} not running"),
            (unlisted, trouble) => format!("{trouble} not running, {} not listed", number(unlisted)),
        }),
    }
}

/// Details of the selected entry beyond the row.
pub(super) fn details(state: &State) -> String {
    match state.tab {
        Tab::Topics => state.topics.cursor.selected().map(|topic| harmless(topic)).unwrap_or_default(),
        Tab::Clients => state.clients.selected().map(|client| client_details(state, client)).unwrap_or_default(),
        Tab::Tree => {
            let selected = state.tree.cursor.selected();
            let row = state.tree.rows.iter().find(|row| Some(&row.path) == selected);
            let reason = row.and_then(|row| row.last_reason.as_deref());
            reason.map(|reason| format!("last end: {}", harmless(reason))).unwrap_or_default()
        }
    }
}

fn client_details(state: &State, client: &Client) -> String {
    let mut words = vec![client.peer.as_deref().map(harmless).unwrap_or_default()];
    words.extend(client.user.as_deref().map(|user| format!("user {}", harmless(user))));
    if let Some(slow) = state.slow.clients.iter().find(|slow| slow.connection == client.connection) {
        let topics: Vec<String> = slow.topics.iter().map(|topic| harmless(topic)).collect();
        let policy = slow.policy.join(", ");
        words.push(format!("policy {}, topics {}", harmless(&policy), topics.join(" ")));
        let shown = u64::try_from(topics.len()).unwrap_or(u64::MAX);
        if slow.topics_total > shown {
            words.push(format!("and {} more", number(slow.topics_total - shown)));
        }
    }
    words.join("  ")
}
