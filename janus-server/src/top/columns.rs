//! The columns of the lists: their cells, their widths, and the order of leaving columns out on a narrow screen.

use std::time::Duration;

use ratatui::style::Style;
use ratatui::text::{Line, Span};

use super::answers::{Client, Topic};
use super::look::Look;
use super::text::{bytes, duration, fit, harmless, number, rate, width};
use super::tree::{Row, Trouble};

/// A column of a list of entries.
pub(super) struct Column<E> {
    title: &'static str,
    width: usize,
    is_figure: bool,
    cell: fn(&E, Look) -> (String, Style),
}

impl<E> Column<E> {
    fn text(title: &'static str, width: usize, cell: fn(&E, Look) -> (String, Style)) -> Self {
        Self { title, width, is_figure: false, cell }
    }

    /// A column of figures, which end at the right.
    fn figure(title: &'static str, width: usize, cell: fn(&E, Look) -> (String, Style)) -> Self {
        Self { title, width, is_figure: true, cell }
    }

    fn padded(&self, text: &str) -> String {
        let text = fit(text, self.width);
        let blanks = " ".repeat(self.width - width(&text));
        if self.is_figure { blanks + &text } else { text + &blanks }
    }
}

/// The line of an entry.
pub(super) fn entry<E>(columns: &[Column<E>], entry: &E, look: Look) -> Line<'static> {
    line(columns, |column| (column.cell)(entry, look))
}

/// The line of the titles.
pub(super) fn titles<E>(columns: &[Column<E>]) -> Line<'static> {
    line(columns, |column| (column.title.to_owned(), Style::new()))
}

fn line<E>(columns: &[Column<E>], cell: impl Fn(&Column<E>) -> (String, Style)) -> Line<'static> {
    let mut line = Line::default();
    for (place, column) in columns.iter().enumerate() {
        if place > 0 {
            line.push_span(" ");
        }
        let (text, style) = cell(column);
        line.push_span(Span::styled(column.padded(&text), style));
    }
    line
}

/// The columns that are left for the texts, beside these columns of figures and the blanks before them.
fn room<E>(columns: u16, beside: &[Column<E>]) -> usize {
    let taken: usize = beside.iter().map(|column| column.width + 1).sum();
    usize::from(columns).saturating_sub(taken)
}

fn plain(text: String) -> (String, Style) {
    (text, Style::new())
}

fn shown(text: Option<&str>) -> (String, Style) {
    plain(text.map(harmless).unwrap_or_default())
}

/// The columns of topics.
pub(super) fn topics(columns: u16) -> Vec<Column<Topic>> {
    let mut list = vec![
        Column::figure("SUBSCRIBERS", 11, |topic: &Topic, _| plain(number(topic.subscribers))),
        Column::figure("MSGS/S", 9, |topic, _| plain(rate(topic.messages_per_second))),
    ];
    if columns >= 70 {
        list.push(Column::figure("IN FLIGHT", 9, |topic, _| plain(number(topic.in_flight))));
    }
    if columns >= 90 {
        list.push(Column::figure("MEMBERS", 8, |topic, _| plain(topic.members.map(number).unwrap_or_default())));
    }
    list.push(Column::text("STATE", 11, |topic, look| {
        if topic.available { plain(String::new()) } else { ("unavailable".to_owned(), look.bad()) }
    }));
    let name = Column::text("TOPIC", room(columns, &list), |topic: &Topic, look| {
        (harmless(&topic.topic), if topic.available { Style::new() } else { look.bad() })
    });
    list.insert(0, name);
    list
}

/// The columns of an address of IPv4 with its port.
const PEER: usize = 21;

/// The columns of clients.
pub(super) fn clients(columns: u16) -> Vec<Column<Client>> {
    let mut list = vec![Column::figure("CONNECTION", 10, |client: &Client, _| plain(client.connection.to_string()))];
    let mut right = Vec::new();
    if columns >= 76 {
        right.push(Column::text("TRANSPORT", 9, |client: &Client, _| plain(harmless(&client.transport))));
        right.push(Column::figure("TOPICS", 6, |client, _| plain(number(client.topics))));
    }
    if columns >= 100 {
        right.push(Column::figure("FRAMES", 8, |client, _| plain(number(client.queued_frames))));
    }
    right.push(Column::figure("QUEUED", 9, |client, _| plain(bytes(client.queued_bytes))));
    right.push(Column::figure("LAG", 8, |client, look| match (client.queued_frames, client.lagging_for_ms) {
        (0, 0) => plain(String::new()),
        // The server counts lag in whole seconds.
        (_, lag) => (duration(Duration::from_millis(lag)), look.warning()),
    }));
    let room = room(columns, &right).saturating_sub(12);
    // Two thirds for the address on a wide screen, where addresses of IPv6 have room.
    let peer = (room * 2 / 3).max(PEER).min(room);
    list.push(Column::text("PEER", peer, |client, _| shown(client.peer.as_deref())));
    list.push(Column::text("USER", room - peer, |client, _| shown(client.user.as_deref())));
    list.extend(right);
    list
}

/// The columns of the supervision tree.
pub(super) fn tree(columns: u16) -> Vec<Column<Row>> {
    let right = [
        if columns >= 76 {
            // Wide enough for a quarantine and its rest.
            Column::text("STATE", 16, |row: &Row, look| {
                let (text, style) = state(row, look);
                let due = row.due_in_ms.map(|due| format!(" {}", duration(Duration::from_millis(due))));
                (text + &due.unwrap_or_default(), style)
            })
        } else {
            Column::text("STATE", 11, state)
        },
        Column::figure("RESTARTS", 8, |row, look| {
            (if row.restarts == 0 { String::new() } else { number(row.restarts) }, style(row, look))
        }),
    ];
    // Without the mark, and the blanks around the names.
    let room = room(columns, &right).saturating_sub(3);
    let reason = room * 2 / 5;
    let left = [
        Column::text("", 1, |row: &Row, look| {
            let mark = match row.trouble {
                Trouble::None => "",
                Trouble::Restarted => "*",
                Trouble::Changing | Trouble::Down => "!",
            };
            (mark.to_owned(), style(row, look))
        }),
        Column::text("NODE", room - reason, |row, look| {
            (format!("{}{}", row.branch, row.text), if row.state.is_empty() { look.quiet() } else { style(row, look) })
        }),
    ];
    let reason = Column::text("LAST END", reason, |row: &Row, look| {
        // The message of a panic may have many lines.
        let reason = row.last_reason.as_deref().and_then(|reason| reason.lines().next());
        (reason.map(harmless).unwrap_or_default(), look.quiet())
    });
    left.into_iter().chain(right).chain([reason]).collect()
}

fn style(row: &Row, look: Look) -> Style {
    match row.trouble {
        Trouble::None => Style::new(),
        Trouble::Restarted | Trouble::Changing => look.warning(),
        Trouble::Down => look.bad(),
    }
}

fn state(row: &Row, look: Look) -> (String, Style) {
    let style = if row.trouble == Trouble::None { look.quiet() } else { style(row, look) };
    (harmless(&row.state), style)
}
